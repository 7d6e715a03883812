"""The networks of SM-NAS: a backbone from its code, a whole detector from a `Structure`, and what both cost."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import lru_cache
from math import inf, nextafter
from typing import Any

from torch import Tensor, nn
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.resnet import BasicBlock, Bottleneck

from common.cost import count
from common.models.anchors import Anchors
from common.models.fpn import FPN, keep_stages, level_stride
from common.models.guided_anchoring import GuidedSettings
from common.models.mobilenet import LAST_OF_STRIDE, MobileNetV2
from common.models.norm import Norm, NormKind
from common.models.outline import outline
from common.models.resnet import ResNet, initialise, projection
from common.models.retinanet import RetinaNet, RetinaNetSettings, retinanet_losses
from common.models.roi_head import RoISettings, Stage
from common.models.two_stage import TwoStage, roi_settings, rpn_settings, two_stage_losses
from common.plain import to_json
from sm_nas.encoding import MB_EXPANSION, BackboneCode, BlockShape, Structure
from sm_nas.presets import DetectorSettings

RETINANET_SCALE = 0.5
"""Of RetinaNet's anchors, relative to an RPN's: 4 strides where those have 8."""
NO_FPN_LEVEL = 3
"""Of the RPN where the backbone's last stage works on each region."""
LAST_ANCHORED = 5
"""The level of a usual pyramid's largest anchors."""
GUIDED_HEAD, GUIDED_LEAST_SCORE = Stage(0.6, 1.0, (0.05, 0.05, 0.1, 0.1)), 1e-3
"""The one head behind guided anchoring, and the score from which it detects, as its authors have them."""


class EncodedBackbone(nn.Module):
    """A backbone of stage two: images (B, 3, H, W) to the features of its stages at strides 4, 8, 16, 32.

    "Stage 1 and the first layer of stage 2" are 3x3 convolutions of stride 2, to half the base channels and to the
    base. A block has a projection shortcut where stride or channels change. norm: the groups of a group norm are
    base / 2, whatever it says of them.
    """

    def __init__(self, code: BackboneCode, norm: Norm | None = None) -> None:
        super().__init__()
        norm = replace(norm or Norm(), groups=max(1, code.base // 2))
        self.description = {"kind": "sm_nas:EncodedBackbone", "code": str(code), "norm": to_json(norm)}
        self.strides = (4, 8, 16, 32)[: len(code.stages)]
        self.stem = nn.Sequential(
            *(nn.Conv2d(3, code.base // 2, 3, 2, 1, bias=False), norm.layer(code.base // 2), nn.ReLU(inplace=True)),
            *(nn.Conv2d(code.base // 2, code.base, 3, 2, 1, bias=False), norm.layer(code.base)),
            nn.ReLU(inplace=True),
        )
        shapes = list(code.shapes())
        stages = [[shape for shape in shapes if shape.stage == stage] for stage in range(len(code.stages))]
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
        """Take the last stage out: nobody reads it, or it is to be run on each region instead."""
        name = f"stage{len(self.strides)}"
        last = getattr(self, name)
        delattr(self, name)
        self.out_channels, self.strides = self.out_channels[:-1], self.strides[:-1]
        return last

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        x = self.stem(images)
        features = []
        for stage in range(1, len(self.strides) + 1):
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
    entry = projection(inputs, outputs, stride, norm) if stride != 1 or inputs != outputs else None
    if kind == "basicblock":
        return BasicBlock(inputs, width, stride, entry, norm_layer=norm.layer)
    if kind == "bottleneck":
        return Bottleneck(inputs, width, stride, entry, norm_layer=norm.layer)
    # Inside a ResNeXt block there are twice the channels, in as many groups at every stage: base / 2 of 4 at the first.
    # Rounded up, lest torchvision, which cuts the product with the width to an integer, lose a channel.
    groups = norm.groups
    return Bottleneck(inputs, width, stride, entry, groups, nextafter(128 / groups, inf), norm_layer=norm.layer)


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
    backbone = build_backbone(structure.backbone, settings, Norm(norm, max(1, settings.width // 2)))
    other_norm = Norm(norm, settings.norm_groups) if norm in ("group", "group-ws") else None
    fpn = None
    if structure.levels is not None:
        extra = "pool" if structure.pooled and structure.heads else "conv-on-input"
        fpn = FPN(backbone.out_channels, *structure.levels, structure.neck_width, other_norm, extra)
    if structure.heads == 0:
        strides = backbone.strides[-1:] if fpn is None else fpn.strides
        own = RetinaNetSettings(
            anchors=Anchors.octaves(strides, RETINANET_SCALE * settings.anchor_scale, 3),
            depth=settings.retinanet_depth,
            initial_deviation=settings.retinanet_deviation,
            candidates=settings.candidates[1],
        )
        return RetinaNet(backbone, categories, fpn, own, other_norm)
    guided = structure.rpn == "ga-rpn"
    if structure.heads > 1:
        heads = RoISettings.cascade(structure.heads)
    else:
        heads = RoISettings(stages=(GUIDED_HEAD,), least_score=GUIDED_LEAST_SCORE) if guided else RoISettings()
    heads = roi_settings(settings, heads)
    rpn = rpn_settings(settings, anchors(structure, settings))
    if guided:
        heads = replace(heads, samples=heads.samples // 2)
        rpn = GuidedSettings(
            base=settings.anchor_scale,
            fixed=anchors(structure, settings, 3),
            proposals=(settings.guided_proposals,) * 2,
            samples=settings.rpn_samples,
            candidates=settings.candidates,
        )
    return TwoStage(backbone, categories, fpn, rpn, heads, other_norm)


def anchors(structure: Structure, settings: DetectorSettings, count: int = 1) -> Anchors:
    """An RPN's anchors on the levels of a structure, `count` an octave.

    One octave from the scale on, in strides, on each level of P1-P5. Where a pyramid begins later or ends earlier, all
    its levels have an octave more for each level that it lacks, so that every structure sees the same sizes; without a
    pyramid, one level has five.
    """
    first, last = structure.levels or (NO_FPN_LEVEL, NO_FPN_LEVEL)
    spanning = settings.spanning_anchors or structure.levels is None
    finer, coarser = (first - 1, max(0, LAST_ANCHORED - last)) if spanning else (0, 0)
    strides = tuple(map(level_stride, range(first, last + 1)))
    return Anchors.octaves(strides, settings.anchor_scale / 2**finer, count, finer + 1 + coarser)


class FixedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm by its running statistics in training, too; its weight and bias are trained."""

    def train(self, mode: bool = True) -> "FixedBatchNorm2d":
        return super().train(False)


def freeze(network: TwoStage | RetinaNet, stages: int) -> None:
    """Let a pre-trained backbone be trained as in mmdetection.

    Its batch norms keep their statistics, also where its last stage works on regions; the stem and the first `stages`
    stages are not trained at all.
    """
    backbone, shared = network.backbone, getattr(getattr(network, "roi", None), "shared", None)
    for module in (*backbone.modules(), *(() if shared is None else shared.modules())):
        if type(module) is nn.BatchNorm2d:
            module.__class__ = FixedBatchNorm2d
            module.eval()
    if isinstance(backbone, MobileNetV2):
        frozen = [backbone.features[: (0, *LAST_OF_STRIDE)[stages] + 1]]
    else:  # named layer1, layer2, ... or stage1, stage2, ..., and the stem before them
        numbered = (
            (int(name[-1]) if name[:-1] in ("layer", "stage") else 0, child)
            for name, child in backbone.named_children()
        )
        frozen = [child for number, child in numbered if number <= stages]
    for part in frozen:
        part.requires_grad_(False)


def wake(network: nn.Module) -> None:
    """Let residual blocks add something from the start: the weight of their last norm, drawn as 0, is 1."""
    for module in network.modules():
        if isinstance(module, BasicBlock | Bottleneck):
            nn.init.ones_((module.bn2 if isinstance(module, BasicBlock) else module.bn3).weight)


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
    if structure.levels is None:  # the last stage is a part of the heads, and yet of what the paper calls backbone
        backbone = describe_backbone(structure, settings)
    else:
        backbone = _of_backbone(whole.parts["backbone"], network.backbone)
    return {"input_size": list(structure.input_size), **numbers, **backbone}


@lru_cache(maxsize=512)
def describe_backbone(structure: Structure, settings: DetectorSettings) -> dict[str, Any]:
    """What the backbone alone costs at the structure's input size, and the channels of its features."""
    with outline():
        backbone = build_backbone(structure.backbone, settings)
        keep_stages(backbone, structure.stages_read)
    return _of_backbone(asdict(count(backbone, structure.input_size)), backbone)


def _of_backbone(cost: Mapping[str, int], backbone: nn.Module) -> dict[str, Any]:
    numbers = {f"backbone_{unit}": cost[unit] for unit in ("macs_mmdet", "macs", "params")}
    return {**numbers, "backbone_channels": list(backbone.out_channels)}
