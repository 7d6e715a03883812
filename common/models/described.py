"""A backbone described block by block: the description, the network made of it, and how one becomes another.

    architecture = Architecture.standard("resnet50")        # family, channels of the stem, stages, their blocks
    detector = as_described(detector)                       # the same function, its backbone made of a description
    detector = keep_channels(detector, kept)                # some channels gone, all other weights as they were
    detector = with_blocks(detector, slots, seed=0)         # blocks gone, moved or new

A *stage* is a run of blocks that put out equally many channels; all but its first block add to what they are given, so
these channels are one tied set. A ResNet has a stage per resolution; a MobileNetV2 has seven, some of them at the same
resolution.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, islice, pairwise
from operator import mul
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor, nn

from common.models.architectures import ARCHITECTURES, STRIDES, round_channels
from common.models.deformable import DeformableConv2d
from common.models.fpn import FPN
from common.models.norm import Norm
from common.models.outline import outline
from common.models.resnet import projection
from common.plain import InputError, from_json, to_json

Family = Literal["basic", "bottleneck", "resnext", "inverted_residual"]
Entry = Literal["projection", "identity", "plain"]
# Widths inside a block that can be chosen freely. A ResNeXt's grouped convolution keeps its channels, and so does a
# depthwise one.
FREE_WIDTHS = {"basic": 1, "bottleneck": 2, "resnext": 1, "inverted_residual": 1}
# Expansion, channels, blocks and stride of each stage (Sandler et al., 2018, table 2).
MOBILENET_V2 = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1))
MOBILENET_V2 += ((6, 160, 3, 2), (6, 320, 1, 1))
STANDARD = (*ARCHITECTURES, "mobilenet_v2")
_Detector = TypeVar("_Detector", bound=nn.Module)
_Item = TypeVar("_Item")


# --- the description --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """inner: channels between the convolutions, from the input on: one number for a basic, ResNeXt or inverted residual
    block, two for a bottleneck, none for an inverted residual that does not expand. groups: of a ResNeXt's 3x3.
    """

    inner: tuple[int, ...]
    groups: int = 1


@dataclass(frozen=True)
class Stage:
    """width: channels that each block puts out. stride: of the first block. entry: what that block adds its result to:
    a `projection` of its input, its input (`identity`), or nothing (`plain`); every later block adds to its input.
    """

    width: int
    stride: int
    entry: Entry
    blocks: tuple[Block, ...]

    @property
    def first_movable(self) -> int:
        """The place of the first block that can go: one that changes shape on the way in cannot."""
        return 0 if self.entry == "identity" else 1


@dataclass(frozen=True)
class Convolution:
    """A convolution, padded to keep the size at stride 1, with a norm behind it and, if rectified, a ReLU."""

    in_channels: int
    out_channels: int
    kernel: int
    stride: int = 1
    groups: int = 1
    rectified: bool = True


@dataclass
class ChannelSet:
    """Channels that all their writers and readers have or lack together: what pruning and elasticity work on.

    name: "stem", "stage3", "stage3.block2.inner1" (blocks counted from 0, stages from 1) or "head". granule: channels
    that stay together, a group of a ResNeXt. is_output: whether they are what a stage, or the head, puts out.
    rows: convolutions that write them, whose weights hold them along dimension 0. norms: those that scale what was
    written. columns: convolutions that read them, dimension 1. features: the backbone's features that are made of them.
    Modules are named as they are in a `DescribedBackbone`.
    """

    name: str
    channels: int
    granule: int = 1
    is_output: bool = False
    rows: list[str] = field(default_factory=list)
    norms: list[str] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    features: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Architecture:
    """A backbone, block by block.

    stem: channels of the first convolution: 7x7 with a max-pool behind it (stride 4), of inverted residuals a 3x3
    (stride 2). head: channels of a 1x1 convolution past the last stage; of inverted residuals only.
    InputError, saying what is wrong, for anything that is no network with features at strides 4, 8, 16 and 32.
    """

    family: Family
    stem: int
    stages: tuple[Stage, ...]
    head: int | None = None

    def __post_init__(self) -> None:
        for problem in self._problems():
            raise InputError(f"the backbone {self} cannot be built: {problem}")

    def __str__(self) -> str:
        stages = " ".join(f"{len(stage.blocks)}x{stage.width}" for stage in self.stages)
        return f"{self.family} {self.stem} {stages}" + (f" {self.head}" if self.head else "")

    def _problems(self) -> Iterator[str]:
        if self.family not in get_args(Family):
            yield f"there is no family {self.family!r}; give one of {', '.join(get_args(Family))}"
        if not all(stage.blocks for stage in self.stages):
            yield "a stage has no block"
        widths = [self.stem, *(stage.width for stage in self.stages), 1 if self.head is None else self.head]
        if min(widths + [width for _, _, block in self._blocks() for width in block.inner]) < 1:
            yield "a width is below 1"
        inverted = self.family == "inverted_residual"
        if self.head is not None and not inverted:
            yield "only inverted residuals have a head"
        for stage, place, block in self._blocks():
            where = f"block {place} of stage {stage}"
            if len(block.inner) != FREE_WIDTHS[self.family] and not (inverted and not block.inner):
                yield f"{where} has {len(block.inner)} inner widths, and its family {FREE_WIDTHS[self.family]}"
            if block.groups < 1 or (block.groups > 1 and self.family != "resnext"):
                yield f"{where} has {block.groups} groups"
            if any(width % block.groups for width in block.inner):
                yield f"{where} has {block.inner[0]} channels, which {block.groups} groups cannot share"
        for number, (stage, inputs) in enumerate(zip(self.stages, widths, strict=False), 1):
            if stage.entry not in ("identity", "plain" if inverted else "projection"):
                yield f"stage {number} is entered by {stage.entry!r}, which its family does not have"
            if stage.entry == "identity" and (stage.stride != 1 or stage.width != inputs):
                own = f"its own {stage.width} at stride {stage.stride}"
                yield f"stage {number} adds to its input, whose {inputs} channels at stride 1 are not {own}"
        strides = tuple(self.stage_strides[number - 1] for number in self.feature_stages)
        if any(stage.stride not in (1, 2) for stage in self.stages) or strides != STRIDES:
            yield f"its features are at strides {strides}, not at 4, 8, 16 and 32"

    def _blocks(self) -> Iterator[tuple[int, int, Block]]:
        """Every block with its stage, from 1, and its place there, from 0."""
        for number, stage in enumerate(self.stages, 1):
            for place, block in enumerate(stage.blocks):
                yield number, place, block

    @property
    def stage_strides(self) -> tuple[int, ...]:
        """Of what each stage puts out, in pixels of the image."""
        stem = 2 if self.family == "inverted_residual" else 4
        return tuple(accumulate((stage.stride for stage in self.stages), mul, initial=stem))[1:]

    @property
    def feature_stages(self) -> tuple[int, ...]:
        """The stages, from 1, after which a feature is taken: the last one of each resolution from stride 4 on."""
        return tuple(
            number
            for number, stride in enumerate(self.stage_strides, 1)
            if stride >= STRIDES[0] and (number == len(self.stages) or self.stages[number].stride > 1)
        )

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Of the four features."""
        widths = [self.stages[number - 1].width for number in self.feature_stages]
        return (*widths[:-1], widths[-1] if self.head is None else self.head)

    @property
    def blocks(self) -> int:
        """How many blocks there are."""
        return sum(len(stage.blocks) for stage in self.stages)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, ready for JSON."""
        return to_json(self)

    @staticmethod
    def from_dict(description: Mapping[str, Any]) -> "Architecture":
        """The architecture that `to_dict` described; InputError where it describes none."""
        return from_json(Architecture, description, "the backbone's description")

    @staticmethod
    def standard(name: str, width: float | None = None) -> "Architecture":
        """A standard backbone: one of ARCHITECTURES, `width` the channels of its first stage, or "mobilenet_v2",
        `width` multiplying all channels.
        """
        stages: list[Stage] = []
        if name == "mobilenet_v2":
            scale = 1.0 if width is None else width
            inputs = stem = round_channels(32 * scale)
            for expansion, channels, depth, stride in MOBILENET_V2:
                output = round_channels(channels * scale)
                inner = [(expansion * each,) if expansion > 1 else () for each in (inputs, *[output] * (depth - 1))]
                entry = "identity" if stride == 1 and inputs == output else "plain"
                stages.append(Stage(output, stride, entry, tuple(map(Block, inner))))
                inputs = output
            head = round_channels(1280 * max(1.0, scale))
            return Architecture("inverted_residual", stem, tuple(stages), head)
        if name not in ARCHITECTURES:
            raise InputError(f"no backbone is called {name!r}: give one of {', '.join(STANDARD)}")
        standard = ARCHITECTURES[name].at_width(ARCHITECTURES[name].width if width is None else width)
        family = standard.block if standard.groups == 1 else "resnext"
        for number, depth in enumerate(standard.depths):
            base = standard.width * 2**number
            inner = int(base * standard.group_width / 64) * standard.groups  # as torchvision counts it
            block = Block((inner,) * FREE_WIDTHS[family], standard.groups)
            entry = "identity" if family == "basic" and number == 0 else "projection"
            output = base if family == "basic" else 4 * base
            stages.append(Stage(output, 2 if number else 1, entry, (block,) * depth))
        return Architecture(family, standard.width, tuple(stages))

    # --- the convolutions of a block: the one place that says what each family is ---

    def chain(self, block: Block, source: _Item, inner: Sequence[_Item], output: _Item) -> tuple[_Item, ...]:
        """What stands before, between and behind a block's convolutions, given what its input, its inner widths and
        its output are to be: of n convolutions the n + 1 values.
        """
        if self.family in ("resnext", "inverted_residual"):  # the 3x3 keeps the channels
            return (source, *inner, inner[-1] if inner else source, output)
        return (source, *inner, output)

    def convolutions(self, number: int, place: int) -> tuple[list[Convolution], Convolution | None]:
        """The convolutions of a block's body, and that of its shortcut if it has one."""
        stage = self.stages[number - 1]
        block, stride = stage.blocks[place], 1 if place else stage.stride
        inputs = stage.width if place else self.stem if number == 1 else self.stages[number - 2].width
        channels = self.chain(block, inputs, block.inner, stage.width)
        last = len(channels) - 2
        strided = 0 if self.family == "basic" else last - 1  # the 3x3
        groups = channels[strided] if self.family == "inverted_residual" else block.groups
        body = []
        for index, (before, behind) in enumerate(pairwise(channels)):
            kernel = 3 if self.family == "basic" or index == strided else 1
            shape = (kernel, stride, groups) if index == strided else (kernel, 1, 1)
            body.append(Convolution(before, behind, *shape, rectified=index < last))
        projects = place == 0 and stage.entry == "projection"
        return body, Convolution(inputs, stage.width, 1, stride, rectified=False) if projects else None

    # --- tied channels ---

    def channel_sets(self) -> list[ChannelSet]:
        """Every set of tied channels, from the input on."""
        current = ChannelSet("stem", self.stem, rows=["stem.0"], norms=["stem.1"])
        sets = [current]
        for number, stage in enumerate(self.stages, 1):
            incoming = current
            if stage.entry != "identity":
                current = ChannelSet(f"stage{number}", stage.width)
                sets.append(current)
            current.is_output = True
            for place, block in enumerate(stage.blocks):
                granule = block.inner[0] // block.groups if self.family == "resnext" else 1
                names = (f"stage{number}.block{place}.inner{index}" for index in range(len(block.inner)))
                inner = [ChannelSet(name, width, granule) for name, width in zip(names, block.inner, strict=True)]
                sets += inner
                source = current if place else incoming
                chain = self.chain(block, source, inner, current)
                body, projection = self.convolutions(number, place)
                for index, convolution in enumerate(body):
                    at = f"stage{number}.{place}.body.{3 * index}"
                    chain[index + 1].rows.append(at)
                    chain[index + 1].norms.append(f"stage{number}.{place}.body.{3 * index + 1}")
                    if convolution.groups == 1:
                        chain[index].columns.append(at)
                if projection:
                    source.columns.append(f"stage{number}.0.projection.0")
                    current.rows.append(f"stage{number}.0.projection.0")
                    current.norms.append(f"stage{number}.0.projection.1")
            if number in self.feature_stages and not (self.head and number == len(self.stages)):
                current.features.append(self.feature_stages.index(number))
        if self.head is not None:
            current.columns.append("head.0")
            sets.append(ChannelSet("head", self.head, 1, True, ["head.0"], ["head.1"], [], [len(STRIDES) - 1]))
        return sets

    def with_channels(self, channels: Mapping[str, int]) -> "Architecture":
        """The same with other numbers of channels, by the names of the sets."""
        width, stages = channels["stem"], []
        for number, stage in enumerate(self.stages, 1):
            if stage.entry != "identity":
                width = channels[f"stage{number}"]
            blocks = []
            for place, block in enumerate(stage.blocks):
                inner = tuple(channels[f"stage{number}.block{place}.inner{i}"] for i in range(len(block.inner)))
                groups = block.groups * inner[0] // block.inner[0] if self.family == "resnext" else 1
                blocks.append(Block(inner, groups))
            stages.append(replace(stage, width=width, blocks=tuple(blocks)))
        return Architecture(self.family, channels["stem"], tuple(stages), channels.get("head"))

    def with_blocks(self, blocks: Sequence[Sequence[Block]]) -> "Architecture":
        """The same with other blocks in each stage."""
        stages = zip(self.stages, blocks, strict=True)
        return replace(self, stages=tuple(replace(stage, blocks=tuple(each)) for stage, each in stages))


# --- the network ------------------------------------------------------------------------------------------------------


class DescribedBlock(nn.Module):
    """(B, inputs, H, W) to (B, width, H / stride, W / stride): `body`, and what is added to it."""

    def __init__(self, architecture: Architecture, number: int, place: int, norm: Norm) -> None:
        super().__init__()
        inverted = architecture.family == "inverted_residual"
        body, entry = architecture.convolutions(number, place)
        self.body = _layers(body, norm, nn.ReLU6 if inverted else nn.ReLU)
        self.projection = projection(entry.in_channels, entry.out_channels, entry.stride, norm) if entry else None
        self.adds = place > 0 or architecture.stages[number - 1].entry != "plain"
        self.relu = nn.Identity() if inverted else nn.ReLU(inplace=True)

    def deform(self) -> None:
        """Let the 3x3 convolution, the second one of a basic block, move its own sampling points."""
        *_, last = (index for index, layer in enumerate(self.body) if getattr(layer, "kernel_size", None) == (3, 3))
        self.body[last] = DeformableConv2d(self.body[last])

    def forward(self, x: Tensor) -> Tensor:
        result = self.body(x)
        if self.adds:
            result += x if self.projection is None else self.projection(x)
        return self.relu(result)


class DescribedBackbone(nn.Module):
    """Images (B, 3, H, W) to four features (B, out_channels[s], H / strides[s], W / strides[s]).

    Children: `stem`, `stage1` and so on, `head`. norm: how it normalises. deformable: the stages, from 1, whose blocks
    are (`DescribedBlock.deform`).
    active_blocks: how many blocks of each stage run, the first ones; all unless an elastic network sets fewer.
    """

    def __init__(self, architecture: Architecture, norm: Norm | None = None, deformable: Sequence[int] = ()) -> None:
        super().__init__()
        if not set(deformable) <= set(range(1, len(architecture.stages) + 1)):
            raise InputError(
                f"the backbone {architecture} has stages 1 to {len(architecture.stages)}, of which "
                f"{tuple(deformable)} cannot be deformable: give some of these"
            )
        norm = norm or Norm()
        self.architecture, self.norm, self.deformable = architecture, norm, tuple(deformable)
        self.description = {
            "kind": "described",
            "norm": to_json(norm),
            "architecture": architecture.to_dict(),
            "deformable": list(deformable),
        }
        self.out_channels, self.strides, self.stride = architecture.out_channels, STRIDES, STRIDES[-1]
        self.active_blocks = tuple(len(stage.blocks) for stage in architecture.stages)
        inverted = architecture.family == "inverted_residual"
        activation = nn.ReLU6 if inverted else nn.ReLU
        first = Convolution(3, architecture.stem, 3 if inverted else 7, 2)
        self.stem = _layers([first], norm, activation)
        if not inverted:
            self.stem.append(nn.MaxPool2d(3, 2, 1))
        for number, stage in enumerate(architecture.stages, 1):
            blocks = [DescribedBlock(architecture, number, place, norm) for place in range(len(stage.blocks))]
            self.add_module(f"stage{number}", nn.Sequential(*blocks))
        self.head = None
        if architecture.head is not None:
            last = Convolution(architecture.stages[-1].width, architecture.head, 1)
            self.head = _layers([last], norm, activation)
        _initialise(self)
        norm.convert(self)
        for number in deformable:
            for block in self.stages[number - 1]:
                block.deform()

    @property
    def stages(self) -> tuple[nn.Sequential, ...]:
        """All stages, the first one at place 0."""
        return tuple(getattr(self, f"stage{number}") for number in range(1, len(self.architecture.stages) + 1))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        x, features = self.stem(images), []
        for number, (stage, blocks) in enumerate(zip(self.stages, self.active_blocks, strict=True), 1):
            for block in islice(stage, blocks):
                x = block(x)
            if number in self.architecture.feature_stages:
                features.append(x)
        if self.head is not None:
            features[-1] = self.head(x)
        return tuple(features)

    @staticmethod
    def from_config(description: Mapping[str, Any]) -> "DescribedBackbone":
        """The network of a `description`, without its weights."""
        norm, deformable = Norm(**description["norm"]), description.get("deformable", ())
        return DescribedBackbone(Architecture.from_dict(description["architecture"]), norm, deformable)


def _initialise(module: nn.Module) -> None:
    """Draw all convolutions as torchvision does; blocks at first add nothing, as `common.models.resnet` has it."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, DescribedBlock) and layer.adds and isinstance(layer.body[-1].weight, nn.Parameter):
            nn.init.zeros_(layer.body[-1].weight)


def _layers(convolutions: Sequence[Convolution], norm: Norm, activation: type[nn.Module]) -> nn.Sequential:
    """Each convolution without bias, its norm, and its activation where it is rectified."""
    layers = nn.Sequential()
    for each in convolutions:
        shape = each.in_channels, each.out_channels, each.kernel, each.stride, each.kernel // 2
        layers.extend([nn.Conv2d(*shape, groups=each.groups, bias=False), norm.layer(each.out_channels)])
        if each.rectified:
            layers.append(activation(inplace=True))
    return layers


# --- from the standard networks, weights and all ----------------------------------------------------------------------


def architecture_of(backbone: nn.Module) -> Architecture:
    """The description of a ResNet, ResNeXt or MobileNetV2 of common.models, or of a described backbone.

    InputError for any other, and for one with deformable convolutions, which no description has.
    """
    description = getattr(backbone, "description", {})
    if description.get("deformable"):
        raise InputError("a backbone with deformable convolutions cannot be changed: give one without them")
    if isinstance(backbone, DescribedBackbone):
        return backbone.architecture
    if description.get("kind") not in STANDARD:
        kind = description.get("kind", type(backbone).__name__)
        raise InputError(
            f"a backbone of the kind {kind} cannot be described block by block: give {', '.join(STANDARD)}"
        )
    return Architecture.standard(description["kind"], description["width"])


def as_described(detector: _Detector) -> _Detector:
    """A detector of the same function whose backbone is a `DescribedBackbone`, with copies of all weights.

    InputError where it has no pyramid, or one that does not read all four features, or its backbone is of none of the
    families.
    """
    if not isinstance(getattr(detector, "fpn", None), FPN):
        raise InputError(f"a described backbone feeds a pyramid, and this {type(detector).__name__} has none")
    backbone = detector.backbone
    if len(backbone.out_channels) < len(STRIDES):
        read = STRIDES[: len(backbone.out_channels)]
        raise InputError(f"a described backbone has features at strides {STRIDES}, and this one's pyramid reads {read}")
    architecture = architecture_of(backbone)
    norm = Norm(**backbone.description["norm"])
    with outline():
        names = DescribedBackbone(architecture, norm).state_dict()
    tensors = backbone.state_dict().values()  # in the same order
    weights = {f"backbone.{name}": tensor for name, tensor in zip(names, tensors, strict=True)}
    rest = {name: tensor for name, tensor in detector.state_dict().items() if not name.startswith("backbone.")}
    return on_backbone(detector, architecture, norm, weights | rest)


def on_backbone(
    detector: _Detector, architecture: Architecture, norm: Norm, weights: Mapping[str, Tensor]
) -> _Detector:
    """A detector like this one, but on a described backbone, filled with copies of `weights`, a whole state dict."""
    with outline():
        new = type(detector).from_config(detector.config(), DescribedBackbone(architecture, norm))
    new.load_state_dict({name: tensor.detach().clone() for name, tensor in weights.items()}, assign=True)
    return new.train(detector.training)


# --- from one description to another, weights and all -----------------------------------------------------------------


@dataclass(frozen=True)
class Slot:
    """A block of a new architecture. origin: the block, by stage, from 1, and place, from 0, whose weights it has:
    as they are where it `fits`, else as far as they reach. None means a new block.
    """

    block: Block
    origin: tuple[int, int] | None = None
    fits: bool = True


Change = Mapping[str, np.ndarray] | Sequence[Sequence[Slot]]
"""Of a backbone: of each set of tied channels, by its name, those that stay, ascending; or the blocks of each stage."""


def slots_of(architecture: Architecture) -> list[list[Slot]]:
    """Each block in its place, stage by stage: what changes are made on before `with_blocks`."""
    return [
        [Slot(block, (number, place)) for place, block in enumerate(stage.blocks)]
        for number, stage in enumerate(architecture.stages, 1)
    ]


def inherited(detector: _Detector, change: Change, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of tensors that each belong to a weight of a detector, and have its name, those of the changed detector, by the
    names there: of the channels that stay, and of all blocks but those that are new or do not fit. Numbers (no
    dimension) are those of all channels.
    """
    if isinstance(change, Mapping):
        weights, readers = dict(tensors), _readers_of_features(detector.fpn)
        for tied in detector.backbone.architecture.channel_sets():
            held = [(f"backbone.{name}.weight", 0) for name in tied.rows]
            held += [(f"backbone.{name}.weight", 1) for name in tied.columns]
            for part in ("weight", "bias", "running_mean", "running_var"):
                held += [(f"backbone.{name}.{part}", 0) for name in tied.norms]
            held += [(f"fpn.{name}.weight", 1) for feature in tied.features for name in readers[feature]]
            channels = torch.from_numpy(change[tied.name])
            for name, dimension in held:
                if name in weights and weights[name].dim():  # a group norm has no statistics
                    weights[name] = weights[name].index_select(dimension, channels.to(weights[name].device))
        return weights
    weights = {name: each for name, each in tensors.items() if not name.startswith("backbone.stage")}
    for number, stage in enumerate(change, 1):
        for place, slot in enumerate(stage):
            if slot.origin is not None and slot.fits:
                before, after = "backbone.stage{}.{}.".format(*slot.origin), f"backbone.stage{number}.{place}."
                own = {name: each for name, each in tensors.items() if name.startswith(before)}
                weights |= {after + name.removeprefix(before): each for name, each in own.items()}
    return weights


def keep_channels(detector: _Detector, kept: Mapping[str, np.ndarray]) -> _Detector:
    """A detector with those channels alone (see `Change`), in backbone and neck; `detector` stays as it is."""
    backbone = detector.backbone
    architecture = backbone.architecture.with_channels({name: len(channels) for name, channels in kept.items()})
    return on_backbone(detector, architecture, backbone.norm, inherited(detector, kept, detector.state_dict()))


def _readers_of_features(fpn: FPN) -> dict[int, list[str]]:
    """The pyramid's convolutions that read each of the backbone's features, from 0."""
    behind = "" if fpn.norm is None else ".0"  # with a norm there are two modules
    laterals = {fpn.first - 1 + index: [f"laterals.{index}{behind}"] for index in range(len(fpn.laterals))}
    if fpn.extra == "conv-on-input" and len(fpn.extras):
        laterals[max(laterals)].append(f"extras.0{behind}")
    return defaultdict(list, laterals)


def with_blocks(detector: _Detector, slots: Sequence[Sequence[Slot]], seed: int, gamma: float = 0.0) -> _Detector:
    """A detector with those blocks in each stage; `detector` stays as it is.

    A block that is new, or does not fit, has that last gamma: at 0 it adds nothing to its input yet. Weights that
    nothing is inherited for are drawn by `seed`.
    """
    backbone = detector.backbone
    architecture = backbone.architecture.with_blocks([[slot.block for slot in stage] for stage in slots])
    weights = inherited(detector, slots, detector.state_dict())
    for number, stage in enumerate(slots, 1):
        for place, slot in enumerate(stage):
            if slot.origin is None or not slot.fits:
                block = _fresh_block(architecture, number, place, backbone, seed, slot.origin, gamma)
                weights |= {f"backbone.stage{number}.{place}.{name}": each for name, each in block.state_dict().items()}
    return on_backbone(detector, architecture, backbone.norm, weights)


@torch.no_grad()
def _fresh_block(
    architecture: Architecture,
    number: int,
    place: int,
    backbone: DescribedBackbone,
    seed: int,
    origin: tuple[int, int] | None,
    gamma: float,
) -> DescribedBlock:
    """A block with that last gamma; of the block at its origin, if any, it has the leading channels that fit."""
    norm, reference = backbone.norm, next(backbone.parameters())
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        block = DescribedBlock(architecture, number, place, norm)
        _initialise(block)
    norm.convert(block)
    if origin is not None:
        before = backbone.stages[origin[0] - 1][origin[1]].state_dict()
        for name, tensor in block.state_dict().items():
            if name in before:
                fitting = tuple(slice(min(sides)) for sides in zip(tensor.shape, before[name].shape, strict=True))
                tensor[fitting] = before[name][fitting].to(tensor.device)
    convolution, last_norm = block.body[-2:]
    if norm.kind == "frozen":  # nothing could move a gamma of 0 there
        last_norm.load_state_dict(norm.layer(last_norm.weight.numel()).state_dict())
        convolution.weight.mul_(gamma)
    else:
        last_norm.weight.fill_(gamma)
        last_norm.bias.zero_()
    return block.to(reference.device, reference.dtype)
