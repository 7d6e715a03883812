"""Thin detectors of every family of students, and a search of seconds."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from common.batch import Batch
from common.evaluate.latency import Latency
from common.models.anchors import Anchors
from common.models.fpn import FPN
from common.models.mobilenet import MobileNetV2
from common.models.norm import Norm
from common.models.resnet import ResNet
from common.models.roi_head import RoISettings
from common.models.rpn import RPNSettings
from common.models.two_stage import TwoStage
from common.train import laboratory
from joint_detnas.presets import SMOKE, Preset
from joint_detnas.students import as_student
from joint_detnas.teachers import Phase

NAMES = {
    "basic": "resnet18",
    "bottleneck": "resnet50",
    "resnext": "resnext50_32x4d",
    "inverted_residual": "mobilenet_v2",
}
CLASSES = 3


def thin_backbone(family: str, norm: Norm) -> nn.Module:
    """A standard backbone of a family, with norms as a trained one might have them."""
    torch.manual_seed(0)
    backbone = MobileNetV2(norm, 0.25) if family == "inverted_residual" else ResNet(NAMES[family], norm, width=8)
    for layer in backbone.modules():
        if isinstance(layer, nn.BatchNorm2d | FrozenBatchNorm2d):
            for tensor, low, high in (
                (layer.weight, 0.2, 1.2),
                (layer.bias, -0.2, 0.2),
                (layer.running_mean, -0.2, 0.2),
                (layer.running_var, 0.5, 1.5),
            ):
                tensor.data.uniform_(low, high)
    return backbone


@pytest.fixture
def backbone_of():
    """(family, kind of norm) -> a thin standard backbone of common.models."""
    return lambda family, kind="batch": thin_backbone(family, Norm(kind, 4))


@pytest.fixture
def detector_of(backbone_of):
    """(family, kind of norm, settings of the pyramid) -> a thin Faster R-CNN on such a backbone."""

    def build(family: str, kind: str = "batch", **fpn) -> TwoStage:
        backbone = backbone_of(family, kind)
        fpn = FPN(backbone.out_channels, **{"first": 1, "last": 5, "width": 8, **fpn})
        rpn = RPNSettings(anchors=Anchors.octaves(fpn.strides, 2), samples=16, candidates=(60, 30), proposals=(20, 10))
        return TwoStage(backbone, CLASSES, fpn, rpn, RoISettings(samples=8, hidden=(8,)))

    return build


@pytest.fixture
def student_of(detector_of):
    """As `detector_of`, with the backbone open to morphism."""
    return lambda *arguments, **settings: as_student(detector_of(*arguments, **settings))


@pytest.fixture
def images() -> Tensor:
    """(2, 3, 64, 64)"""
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def batch(images) -> Batch:
    """Two images with three objects each."""
    generator = torch.Generator().manual_seed(2)
    corner = torch.rand(2, 3, 2, generator=generator) * 30
    size = torch.rand(2, 3, 2, generator=generator) * 24 + 8
    return Batch(
        images=images,
        boxes=torch.cat([corner, corner + size], dim=-1),
        labels=torch.randint(CLASSES, (2, 3), generator=generator),
        valid=torch.ones(2, 3, dtype=torch.bool),
        index=torch.arange(2),
        scale=torch.ones(2),
    )


# ---- SMOKE a few times smaller, for all tests that train; scripts that are killed import this file, too

DATA = "scenes:train=40,val=8,size=32"
TINY = replace(
    SMOKE,
    name="tiny",
    sizes=((32, 32), (64, 32)),
    base_size=(64, 32),
    train_images=16,
    search_images=8,
    validation_images=8,
    crops=16,
    latency_images=1,
    base_training=replace(SMOKE.base_training, epochs=1),
    shrinking=replace(SMOKE.shrinking, phases=(Phase("full", 1, 0), Phase("all", 1, None)), networks_a_step=1),
    search=replace(SMOKE.search, budget=4, k=2, generation=2),
)


def steady_latency(network, input_shape, device="cpu", **_) -> Latency:
    """A made-up latency that hangs on network and image alone."""
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Latency(parameters * 1e-5 + input_shape[-1], 0.0, str(device), "float32", "none", 1)


@pytest.fixture
def tiny() -> Preset:
    """See above."""
    return TINY


@pytest.fixture
def data() -> str:
    """As `--data`: the fewest scenes of which TINY holds out as many as it says."""
    return DATA


@pytest.fixture
def steady(monkeypatch):
    """Latencies are made up."""
    monkeypatch.setattr(laboratory, "measure_latency", steady_latency)


@pytest.fixture(scope="session")
def searched(tmp_path_factory) -> Path:
    """A folder for the runs of TINY's seed 0, which several modules search: whoever comes first trains."""
    return tmp_path_factory.mktemp("searched")
