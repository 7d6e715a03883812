"""The networks of SM-NAS: a backbone from its code, a whole detector from a `Structure`, and what both cost."""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from math import inf, nextafter
from typing import Any

from torch import Tensor, nn
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.resnet import BasicBlock, Bottleneck

from common.cost import count
from common.models.anchors import Anchors
from common.models.fpn import FPN
from common.models.guided_anchoring import GuidedSettings
from common.models.mobilenet import MobileNetV2
from common.models.norm import Norm, NormKind
from common.models.outline import outline
from common.models.resnet import ResNet, initialise
from common.models.retinanet import RetinaNet, RetinaNetSettings, retinanet_losses
from common.models.roi_head import RoISettings
from common.models.rpn import RPNSettings
from common.models.two_stage import TwoStage, roi_settings, rpn_settings, two_stage_losses
from common.plain import to_json
from sm_nas.encoding import MB_EXPANSION, STAGES, BackboneCode, BlockShape, Structure
from sm_nas.presets import DetectorSettings

RETINANET_SCALE = 0.5
"""Of RetinaNet's anchors, relative to an RPN's: 4 strides where those have 8."""
NO_FPN_STRIDE = 16
"""Of the RPN where the backbone's last stage works on each region."""


class EncodedBackbone(nn.Module):
    """A backbone of stage two: images (B, 3, H, W) to the features of four stages at strides 4, 8, 16, 32.

    "Stage 1 and the first layer of stage 2" are 3x3 convolutions of stride 2, to half the base channels and to the
    base. A block has a projection shortcut where stride or channels change. norm: the groups of a group norm are
    base / 2, whatever it says of them.
    """

    def __init__(self, code: BackboneCode, norm: Norm | None = None) -> None:
        super().__init__()
        norm = replace(norm or Norm(), groups=max(1, code.base // 2))
        self.description = {"kind": "sm_nas:EncodedBackbone", "code": str(code), "norm": to_json(norm)}
        self.strides = (4, 8, 16, 32)
        self.stem = nn.Sequential(
            *(nn.Conv2d(3, code.base // 2, 3, 2, 1, bias=False), norm.layer(code.base // 2), nn.ReLU(inplace=True)),
            *(nn.Conv2d(code.base // 2, code.base, 3, 2, 1, bias=False), norm.layer(code.base)),
            nn.ReLU(inplace=True),
        )
        shapes = list(code.shapes())
        stages = [[shape for shape in shapes if shape.stage == stage] for stage in range(STAGES)]
        for stage, inside in enumerate(stages, start=1):
            self.add_module(f"stage{stage}", nn.Sequential(*(_block(code.block, shape, norm) for shape in inside)))
        self.out_channels = tuple(inside[-1].outputs for inside in stages)
        initialise(self)
        norm.convert(self)

    @property
    def stride(self) -> int:
        """Of the last feature."""
        return self.strides[-1]

    def take_last_stage(self) -> nn.Sequential:
        """Take the last stage out, to be run on each region instead; three features are left."""
        last = self.stage4
        del self.stage4
        self.out_channels, self.strides = self.out_channels[:-1], self.strides[:-1]
        return last

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        x = self.stem(images)
        features = []
        for stage in range(1, STAGES + 1):
            if hasattr(self, f"stage{stage}"):
                x = getattr(self, f"stage{stage}")(x)
                features.append(x)
        return tuple(features)

    @staticmethod
    def from_config(description: Mapping[str, Any]) -> "EncodedBackbone":
        """The network of a `description`, without its weights."""
        return EncodedBackbone(BackboneCode.parse(description["code"]), Norm(**description["norm"]))


def _block(kind: str, shape: BlockShape, norm: Norm) -> nn.Module:
    _, inputs, width, outputs, stride = shape
    if kind == "MBblock":
        return InvertedResidual(inputs, outputs, stride, MB_EXPANSION, norm.layer)
    projection = None
    if stride != 1 or inputs != outputs:
        projection = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm.layer(outputs))
    if kind == "basicblock":
        return BasicBlock(inputs, width, stride, projection, norm_layer=norm.layer)
    if kind == "bottleneck":
        return Bottleneck(inputs, width, stride, projection, norm_layer=norm.layer)
    # Inside a ResNeXt block there are twice the channels, in as many groups at every stage: base / 2 of 4 at the first.
    # Rounded up, lest torchvision, which cuts the product with the width to an integer, lose a channel.
    groups = norm.groups
    return Bottleneck(inputs, width, stride, projection, groups, nextafter(128 / groups, inf), norm_layer=norm.layer)


def build_backbone(name: str, settings: DetectorSettings, norm: Norm | None = None) -> nn.Module:
    """A standard backbone by its name, as thin as the scale has it, or a searched one by its code."""
    if name == "mobilenet_v2":
        return MobileNetV2(norm, settings.width / 64)
    if name.startswith("res"):
        return ResNet(name, norm, width=settings.width)
    return EncodedBackbone(BackboneCode.parse(name), norm)


def build_detector(
    structure: Structure, categories: int, settings: DetectorSettings, norm: NormKind = "batch"
) -> TwoStage | RetinaNet:
    """The detector of a structure. norm: of the backbone; neck and heads have a group norm with it, no batch norm."""
    backbone = build_backbone(structure.backbone, settings, Norm(norm))
    other_norm = Norm(norm, settings.norm_groups) if norm in ("group", "group-ws") else None
    fpn = None
    if structure.levels is not None:
        extra = "pool" if structure.pooled else "conv-on-input"
        fpn = FPN(backbone.out_channels, *structure.levels, structure.neck_width, other_norm, extra)
    if structure.heads == 0:
        strides = backbone.strides[-1:] if fpn is None else fpn.strides
        own = RetinaNetSettings(
            anchors=Anchors.octaves(strides, RETINANET_SCALE * settings.anchor_scale, 3),
            depth=settings.retinanet_depth,
            candidates=settings.candidates[1],
        )
        return RetinaNet(backbone, categories, fpn, own, other_norm)
    return TwoStage(
        backbone,
        categories,
        fpn,
        _rpn_settings(structure, fpn, settings),
        roi_settings(settings, None if structure.heads == 1 else RoISettings.cascade(structure.heads)),
        other_norm,
    )


def _rpn_settings(structure: Structure, fpn: FPN | None, settings: DetectorSettings) -> RPNSettings | GuidedSettings:
    if structure.rpn == "ga-rpn":
        return GuidedSettings(
            base=settings.anchor_scale,
            proposals=(settings.guided_proposals,) * 2,
            samples=settings.rpn_samples,
            candidates=settings.candidates,
        )
    if fpn is None:  # one level alone has five sizes, from a quarter of the scale on
        return rpn_settings(settings, Anchors.octaves((NO_FPN_STRIDE,), settings.anchor_scale / 4, octaves=5))
    return rpn_settings(settings, Anchors.octaves(fpn.strides, settings.anchor_scale))


def losses_of(network: TwoStage | RetinaNet):
    """The loss function of a network: (outputs, batch) -> dict with "loss"."""
    return retinanet_losses if isinstance(network, RetinaNet) else two_stage_losses


# ---- costs


@lru_cache(maxsize=512)
def describe(structure: Structure, categories: int, settings: DetectorSettings) -> dict[str, Any]:
    """What a structure costs at its own input size, with batch norm: the whole detector, and backbone_... alone.

    backbone_macs_mmdet is what the paper prints as FLOPs; macs, macs_mmdet and params are those of the whole detector.
    """
    with outline():
        network = build_detector(structure, categories, settings)
    whole = count(network, structure.input_size)
    numbers = {"macs": whole.macs, "macs_mmdet": whole.macs_mmdet, "params": whole.params}
    return {"input_size": list(structure.input_size), **numbers, **describe_backbone(structure, settings)}


@lru_cache(maxsize=512)
def describe_backbone(structure: Structure, settings: DetectorSettings) -> dict[str, Any]:
    """What the backbone alone costs at the structure's input size, and the channels of its features."""
    with outline():
        backbone = build_backbone(structure.backbone, settings)
    cost = count(backbone, structure.input_size)
    return {
        "backbone_macs_mmdet": cost.macs_mmdet,
        "backbone_macs": cost.macs,
        "backbone_params": cost.params,
        "backbone_channels": list(backbone.out_channels),
    }
