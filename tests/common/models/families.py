"""Thin networks of every family of backbones, with norms as trained ones might have them, and batches for them."""

import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from common.batch import Batch
from common.models.anchors import Anchors
from common.models.fpn import FPN
from common.models.mobilenet import MobileNetV2
from common.models.norm import Norm
from common.models.resnet import ResNet
from common.models.roi_head import RoISettings
from common.models.rpn import RPNSettings
from common.models.two_stage import TwoStage

NAMES = {
    "basic": "resnet18",
    "bottleneck": "resnet50",
    "resnext": "resnext50_32x4d",
    "inverted_residual": "mobilenet_v2",
}
FAMILIES = tuple(NAMES)
CLASSES = 3
SIDE = 64
RPN = RPNSettings(anchors=Anchors.octaves((4, 8, 16, 32, 64), 4), samples=32, candidates=(60, 40), proposals=(60, 24))
ROI = RoISettings(samples=24, hidden=(32, 32), canonical_side=56)
"""Of pools: levels are those of P1 to P5."""


def thin_backbone(family: str, kind: str = "batch") -> nn.Module:
    """A standard backbone of a family with norms of a kind."""
    torch.manual_seed(0)
    norm = Norm(kind, 4)
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


def thin_detector(family: str, kind: str = "batch", **fpn) -> TwoStage:
    """A Faster R-CNN on such a backbone. fpn: settings of its pyramid."""
    backbone = thin_backbone(family, kind)
    fpn = FPN(backbone.out_channels, **{"first": 1, "last": 5, "width": 8, **fpn})
    rpn = RPNSettings(anchors=Anchors.octaves(fpn.strides, 2), samples=16, candidates=(60, 30), proposals=(20, 10))
    return TwoStage(backbone, CLASSES, fpn, rpn, RoISettings(samples=8, hidden=(8,)))


def wake_heads(network: TwoStage) -> None:
    """Heads that say something: theirs begin near nothing."""
    head = network.roi.heads[0]
    for layer in (network.rpn.conv, network.rpn.objectness, head.classes, head.codes):
        nn.init.normal_(layer.weight, std=0.3)


def make_batch(seed: int = 0, images: int = 2, objects: int = 3) -> Batch:
    """Random images with random objects, one of them padding."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(images, objects, 2, generator=generator) * 34
    sides = 10 + 20 * torch.rand(images, objects, 2, generator=generator)
    valid = torch.ones(images, objects, dtype=torch.bool)
    if objects:
        valid[0, -1] = False
    return Batch(
        torch.randn(images, 3, SIDE, SIDE, generator=generator),
        torch.cat([corner, corner + sides], dim=-1),
        torch.randint(CLASSES, (images, objects), generator=generator),
        valid,
        torch.arange(images),
        torch.ones(images),
    )
