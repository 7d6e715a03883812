"""The networks of SM-NAS: a backbone from its code, and a whole detector from a `Structure`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf, nextafter
from typing import Any

from torch import Tensor, nn
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.resnet import BasicBlock, Bottleneck

from common.letterbox import padded
from common.models.anchors import Anchors
from common.models.detector import register_backbone
from common.models.fpn import FPN
from common.models.guided_anchoring import GuidedSettings
from common.models.mobilenet import MobileNetV2
from common.models.norm import Norm, NormKind
from common.models.resnet import ResNet, initialise
from common.models.retinanet import RetinaNet, RetinaNetSettings, retinanet_losses
from common.models.roi_head import RoISettings
from common.models.rpn import RPNSettings
from common.models.scale import TwoStageScale
from common.models.two_stage import TwoStage, two_stage_losses
from sm_nas.method import STAGES, BackboneCode, Structure

RETINANET_SCALE = 0.5  # of an RPN's anchors: 4 strides where those have 8
NO_FPN_STRIDE = 16  # of the RPN where the backbone's last stage works on each region
MB_EXPANSION = 6
# Channels that a block puts out, for each of its width.
OUTPUT_OF = {"basicblock": 1.0, "bottleneck": 4.0, "Xbottleneck": 4.0, "MBblock": 0.5}


class EncodedBackbone(nn.Module):
    """A backbone of stage two: images (B, 3, H, W) to the features of four stages at strides 4, 8, 16, 32.

    "Stage 1 and the first layer of stage 2" are 3x3 convolutions of stride 2, to half the base channels and to the
    base. The first block of each later stage has stride 2, whatever its digit; a block has a projection shortcut where
    stride or channels change. norm: the groups of a group norm are base / 2, whatever it says of them.
    """

    def __init__(self, code: BackboneCode, norm: Norm | None = None) -> None:
        super().__init__()
        norm = replace(norm or Norm(), groups=max(1, code.base // 2))
        self.description = {"kind": "sm_nas", "code": str(code), "norm": norm.to_dict()}
        self.strides = (4, 8, 16, 32)
        self.stem = nn.Sequential(
            *(nn.Conv2d(3, code.base // 2, 3, 2, 1, bias=False), norm.layer(code.base // 2), nn.ReLU(inplace=True)),
            *(nn.Conv2d(code.base // 2, code.base, 3, 2, 1, bias=False), norm.layer(code.base)),
            nn.ReLU(inplace=True),
        )
        channels, widths, self.out_channels = code.base, iter(code.widths), ()
        for stage, digits in enumerate(code.stages):
            blocks = []
            for place in range(len(digits)):
                width = next(widths)
                blocks.append(_block(code.block, channels, width, 2 if stage and not place else 1, norm))
                channels = int(width * OUTPUT_OF[code.block])
            self.add_module(f"stage{stage + 1}", nn.Sequential(*blocks))
            self.out_channels += (channels,)
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
    def from_dict(description: Mapping[str, Any]) -> "EncodedBackbone":
        """The network of a `description`, without its weights."""
        return EncodedBackbone(BackboneCode.parse(description["code"]), Norm(**description["norm"]))


register_backbone("sm_nas", EncodedBackbone.from_dict)


def _block(kind: str, channels: int, width: int, stride: int, norm: Norm) -> nn.Module:
    outputs = int(width * OUTPUT_OF[kind])
    if kind == "MBblock":
        return InvertedResidual(channels, outputs, stride, MB_EXPANSION, norm.layer)
    projection = None
    if stride != 1 or channels != outputs:
        projection = nn.Sequential(nn.Conv2d(channels, outputs, 1, stride, bias=False), norm.layer(outputs))
    if kind == "basicblock":
        return BasicBlock(channels, width, stride, projection, norm_layer=norm.layer)
    if kind == "bottleneck":
        return Bottleneck(channels, width, stride, projection, norm_layer=norm.layer)
    # Inside a ResNeXt block there are twice the channels, in as many groups at every stage: base / 2 of 4 at the first.
    # Rounded up, lest torchvision, which cuts the product with the width to an integer, lose a channel.
    groups = norm.groups
    return Bottleneck(channels, width, stride, projection, groups, nextafter(128 / groups, inf), norm_layer=norm.layer)


@dataclass(frozen=True)
class DetectorSettings(TwoStageScale):
    """What all detectors of a scale share, whatever their structure; RetinaNet's anchors begin at half of an RPN's."""

    retinanet_depth: int = 4
    """3x3 convolutions in each of RetinaNet's heads before the last."""
    norm_groups: int = 32
    """Groups of a group norm in neck and heads."""
    guided_proposals: int = 300
    """Boxes after the suppression of guided anchoring."""


def input_size(structure: Structure) -> tuple[int, int]:
    """Width and height of the canvas that images are fitted into: the structure's, in whole multiples of 32 pixels."""
    return padded(structure.size)


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
    """The detector of a structure. norm: of the backbone; a group norm is in neck and heads, too, a batch norm not."""
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
        settings.second_stage(None if structure.heads == 1 else RoISettings.cascade(structure.heads)),
        other_norm,
    )


def _rpn_settings(structure: Structure, fpn: FPN | None, settings: DetectorSettings) -> RPNSettings | GuidedSettings:
    if structure.rpn == "ga-rpn":
        count = settings.guided_proposals
        return GuidedSettings(
            base=settings.anchor_scale,
            proposals=(count, count),
            samples=settings.rpn_samples,
            candidates=settings.candidates,
        )
    if fpn is None:  # one level alone has five sizes, from a quarter of the scale on
        return settings.first_stage(Anchors.octaves((NO_FPN_STRIDE,), settings.anchor_scale / 4, octaves=5))
    return settings.first_stage(Anchors.octaves(fpn.strides, settings.anchor_scale))


def losses_of(network: TwoStage | RetinaNet):
    """The loss function of a network: (outputs, batch) -> dict with "loss"."""
    return retinanet_losses if isinstance(network, RetinaNet) else two_stage_losses
