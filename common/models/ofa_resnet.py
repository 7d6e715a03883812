"""Once-for-All's ResNet: a weight-sharing super-network, and the plain networks taken out of it.

A ResNet-D-like network of which depth, width and bottleneck ratio can be chosen (github.com/mit-han-lab/once-for-all).
`OFAResNet` holds the shared weights; `ResNet` is one plain network. Both are made of the same block classes, which take
their layer types from a `Layers` pair, so names and shapes of the weights agree: a sub-network's weights are the
leading corners of the super-network's.
"""

import itertools
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn

from common.models.architectures import OFAResNetArchitecture
from common.models.elastic import ElasticBatchNorm2d, ElasticConv2d, copy_corner, sort_shared_channels
from common.models.outline import outline
from common.plain import InputError, from_json, to_json


class _Space(Protocol):
    """What a super-network asks of the search space whose paths it holds; a path is a row of choices."""

    elastic_stem: bool

    def largest(self) -> np.ndarray: ...

    def architecture(self, path: Sequence[int]) -> OFAResNetArchitecture: ...


@dataclass(frozen=True)
class Layers:
    """The two layer types a network is made of."""

    conv: type[nn.Conv2d]
    norm: type[nn.BatchNorm2d]


PLAIN = Layers(nn.Conv2d, nn.BatchNorm2d)
ELASTIC = Layers(ElasticConv2d, ElasticBatchNorm2d)


class ConvNorm(nn.Module):
    """Convolution without bias, padded to keep the size at stride 1, then batch normalisation."""

    def __init__(self, layers: Layers, in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv = layers.conv(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
        self.norm = layers.norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class Stem(nn.Module):
    """3x3 stride 2, a residual 3x3 that may be absent or skipped, 3x3, max-pool: (B, 3, H, W) -> (B, C, H/4, W/4)."""

    def __init__(self, layers: Layers, middle: int, out_channels: int, residual: bool) -> None:
        super().__init__()
        self.first = ConvNorm(layers, 3, middle, 3, stride=2)
        self.residual = ConvNorm(layers, middle, middle, 3) if residual else None
        self.last = ConvNorm(layers, middle, out_channels, 3)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.uses_residual = residual

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu_()
        if self.uses_residual:
            x = x + self.residual(x).relu_()
        return self.pool(self.last(x).relu_())


class Bottleneck(nn.Module):
    """1x1, 3x3 with the stride, 1x1, each with its norm; ReLU after the sum with the shortcut.

    The first block of a stage projects its shortcut (`project`): an average pool by the stride, then a 1x1 convolution
    and its norm. The others add their input.
    """

    def __init__(
        self, layers: Layers, in_channels: int, middle: int, out_channels: int, stride: int = 1, project: bool = False
    ) -> None:
        super().__init__()
        self.reduce = ConvNorm(layers, in_channels, middle)
        self.spatial = ConvNorm(layers, middle, middle, 3, stride)
        self.expand = ConvNorm(layers, middle, out_channels)
        self.shortcut = None
        if project:
            pool = nn.AvgPool2d(stride, stride, ceil_mode=True) if stride > 1 else nn.Identity()
            project = ConvNorm(layers, in_channels, out_channels)
            self.shortcut = nn.Sequential(OrderedDict(pool=pool, project=project))

    def forward(self, x: Tensor) -> Tensor:
        branch = self.expand(self.spatial(self.reduce(x).relu_()).relu_())
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return branch.add_(shortcut).relu_()


class _ResNetBody(nn.Module):
    """Stem and four stages of the given architecture, in layers of either kind."""

    def __init__(self, layers: Layers, architecture: OFAResNetArchitecture, zero_init_last: bool) -> None:
        super().__init__()
        a = architecture
        self.out_channels = a.stage_widths
        self.stride = 4 * prod(a.stage_strides)
        self.stem = Stem(layers, a.stem_middle, a.stem_width, a.stem_residual)
        self.stages = nn.ModuleList()
        in_channels = a.stem_width
        for stage, (width, middles) in enumerate(zip(a.stage_widths, a.middle_widths, strict=True)):
            blocks = nn.ModuleList()
            for index, middle in enumerate(middles):
                stride = a.stage_strides[stage] if index == 0 else 1
                blocks.append(Bottleneck(layers, in_channels, middle, width, stride, project=index == 0))
                in_channels = width
            self.stages.append(blocks)
        self.active_depths = tuple(len(blocks) for blocks in self.stages)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, Bottleneck) and zero_init_last:  # starts as its shortcut (arXiv:1706.02677, 5.1)
                nn.init.zeros_(module.expand.norm.weight)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images (B, 3, H, W) -> the output of each stage: (B, C_s, H/4, W/4), ... /8, /16, /32."""
        x = self.stem(x)
        features = []
        for blocks, depth in zip(self.stages, self.active_depths, strict=True):
            for block in itertools.islice(blocks, depth):
                x = block(x)
            features.append(x)
        return tuple(features)


class OFAResNet(_ResNetBody):
    """The super-network: full-size weights, of which `activate(path)` selects a sub-network. Starts at the largest.

    `out_channels`: channels of the four features at full width.
    zero_init_last: start with zero as the weight of the last norm of each block.
    """

    def __init__(self, space: _Space, zero_init_last: bool = False) -> None:
        super().__init__(ELASTIC, space.architecture(space.largest()), zero_init_last)
        self.space = space

    def activate(self, path: Sequence[int]) -> None:
        """Use the sub-network of `path` (C,) from the next forward on."""
        architecture = self.space.architecture(path)
        stem, middle = self.stem, architecture.stem_middle
        stem.uses_residual = architecture.stem_residual
        stem.first.conv.active_out_channels = stem.residual.conv.active_out_channels = middle
        stem.last.conv.active_out_channels = architecture.stem_width
        widths = zip(self.stages, architecture.stage_widths, architecture.middle_widths, strict=True)
        for blocks, width, middles in widths:
            for block, middle in zip(blocks, middles, strict=False):
                block.reduce.conv.active_out_channels = block.spatial.conv.active_out_channels = middle
                block.expand.conv.active_out_channels = width
            blocks[0].shortcut.project.conv.active_out_channels = width
        self.active_depths = tuple(len(middles) for middles in architecture.middle_widths)

    def extract(self, path: Sequence[int]) -> "ResNet":
        """The plain network of `path`, with copies of its weights and statistics."""
        with outline():
            plain = ResNet(self.space.architecture(path))
        return copy_corner(self, plain)


class ResNet(_ResNetBody):
    """One plain network. `description` is what it takes to build it again, ready for JSON."""

    def __init__(self, architecture: OFAResNetArchitecture, zero_init_last: bool = False) -> None:
        super().__init__(PLAIN, architecture, zero_init_last)
        self.description = {"kind": "ofa_resnet", **to_json(architecture)}

    @classmethod
    def from_config(cls, description: Mapping[str, Any]) -> "ResNet":
        """The network of a `description`; InputError when it describes none."""
        fields = {name: value for name, value in description.items() if name != "kind"}
        return cls(from_json(OFAResNetArchitecture, fields, "the backbone's description"))


def sort_channels(
    net: OFAResNet,
    readers: Mapping[int, Sequence[nn.Module]] | None = None,
    kept: Sequence[OFAResNetArchitecture] = (),
) -> None:
    """Sort the super-network's channels by importance, the L1 norm of the weights that read them, largest first.

    Once before a shrinking phase: narrower sub-networks then start from the channels that matter most. The full network
    computes the same as before. Sorted are the bottleneck channels, the outputs of the stages (all blocks of a stage
    together, since their sums tie them) and those of an elastic stem. readers: further layers that read the output of a
    stage 0..3, such as a neck, whose input channels must move along. kept: sub-networks that are trained already, which
    compute the same as before, too: channels are sorted inside the groups that their widths make. An optimiser's
    momentum does not move along: start the phase with a fresh one.
    """
    readers = readers or {}
    for stage, blocks in enumerate(net.stages):
        for index, block in enumerate(blocks):
            widths = {each.middle_widths[stage][index] for each in kept if index < len(each.middle_widths[stage])}
            sort_shared_channels([block.reduce.conv, block.reduce.norm], [block.spatial.conv], widths)
            sort_shared_channels([block.spatial.conv, block.spatial.norm], [block.expand.conv], widths)
    entries = [[blocks[0].reduce.conv, blocks[0].shortcut.project.conv] for blocks in net.stages]
    for stage, blocks in enumerate(net.stages):
        ends = [blocks[0].shortcut.project, *(block.expand for block in blocks)]
        inside = [block.reduce.conv for block in itertools.islice(blocks, 1, None)]
        following = entries[stage + 1] if stage + 1 < len(entries) else []
        reading = [*inside, *following, *readers.get(stage, ())]
        if reading:
            writers = [layer for end in ends for layer in (end.conv, end.norm)]
            sort_shared_channels(writers, reading, {each.stage_widths[stage] for each in kept})
    if net.space.elastic_stem:
        stem = net.stem
        middle = [stem.first.conv, stem.first.norm, stem.residual.conv, stem.residual.norm]
        sort_shared_channels(middle, [stem.residual.conv, stem.last.conv], {each.stem_middle for each in kept})
        sort_shared_channels([stem.last.conv, stem.last.norm], entries[0], {each.stem_width for each in kept})


# The names of Once-for-All's release, and ours; its files say "conv" and "bn" once, its modules twice.
_STEM = {"0": "first", "1.conv": "residual", "2": "last"}
_BLOCK = {"conv1": "reduce", "conv2": "spatial", "conv3": "expand", "downsample": "shortcut.project"}


def weights_of_release(state: Mapping[str, Tensor], depths: Sequence[int]) -> dict[str, Tensor]:
    """Weights of Once-for-All's ResNet50 supernet (the package `ofa`) by the names of `OFAResNet`; no classifier.

    state: its state dict. depths: layers of each stage at maximal depth. Raises InputError for an unknown name.
    """
    places = [(stage, index) for stage, depth in enumerate(depths) for index in range(depth)]
    weights = {}
    for name, tensor in state.items():
        if name.startswith("classifier."):
            continue
        found = re.fullmatch(
            r"(?:input_stem\.(0|1\.conv|2)|blocks\.(\d+)\.(conv[123]|downsample))\.(conv|bn)(?:\.\4)?\.(\w+)", name
        )
        if found is None or int(found[2] or 0) >= len(places):
            raise InputError(
                f"these are not the weights of Once-for-All's ResNet50 of {depths} layers: {name!r} is unknown"
            )
        stem, block, part, kind, tail = found.groups()
        layer = f"stem.{_STEM[stem]}" if stem else "stages.{}.{}.{}".format(*places[int(block)], _BLOCK[part])
        weights[f"{layer}.{'norm' if kind == 'bn' else kind}.{tail}"] = tensor
    return weights
