"""The OFA-ResNet search space, its weight-sharing super-network, and the plain networks taken out of it.

The space is that of Once-for-All's ResNet50 (github.com/mit-han-lab/once-for-all), which DetOFA searches: depth, width
and bottleneck ratio of a ResNet-D-like network. `OFAResNetSpace` knows the choices and their encoding, and needs no
network; `OFAResNet` holds the shared weights; `ResNet` is one plain network. Both networks are made of the same block
classes, which take their layer types from a `Layers` pair, so names and shapes of the weights agree: a sub-network's
weights are the leading corners of the super-network's.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from math import prod

import numpy as np
from torch import Tensor, nn

from common.models.architectures import round_channels
from common.models.elastic import ElasticBatchNorm2d, ElasticConv2d, copy_corner, sort_shared_channels
from common.models.outline import outline
from common.plain import InputError

STAGES = 4
STEM_COLUMNS = 3
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Architecture:
    """One network of the space in channels: what a path means once every choice is looked up."""

    stem_residual: bool
    stem_middle: int
    stem_width: int
    stage_widths: tuple[int, ...]
    stage_strides: tuple[int, ...]
    middle_widths: tuple[tuple[int, ...], ...]  # of each block, stage by stage; their number is the depth


@dataclass(frozen=True)
class OFAResNetSpace:
    """The choices of the super-network, and paths through it as rows of int8 choice indices.

    A path is a row of C columns: stem_skip, stem_mid, stem_out, then depth and width of the four stages, then the
    expand ratio of every layer of every stage at maximal depth (L layers; 18 for ResNet50). Each entry is an index into
    the list of choices. Two rows may differ only in layers that their depth drops; `canonical` makes such rows equal.
    """

    base_depths: tuple[int, ...] = (2, 2, 4, 2)  # layers of each stage before `depths` is added
    depths: tuple[int, ...] = (0, 1, 2)  # extra layers of a stage
    widths: tuple[float, ...] = (0.65, 0.8, 1.0)  # multipliers of `stage_widths` (and of `stem_width`)
    expands: tuple[float, ...] = (0.2, 0.25, 0.35)  # middle width of a bottleneck over its output width
    stage_widths: tuple[int, ...] = (256, 512, 1024, 2048)
    stem_width: int = 64
    stage_strides: tuple[int, ...] = (1, 2, 2, 2)  # 1 or 2 each, after the stem's stride of 4
    channel_multiple: int = 8  # every width is rounded to a multiple of this
    elastic_stem: bool = False  # let skip and widths of the stem be chosen too

    def __post_init__(self) -> None:
        for name in ("base_depths", "depths", "widths", "expands", "stage_widths", "stage_strides"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if len(self.base_depths) != STAGES or len(self.stage_widths) != STAGES:
            raise InputError(f"base_depths and stage_widths must each give {STAGES} numbers, one a stage")
        if len(self.stage_strides) != STAGES or not set(self.stage_strides) <= {1, 2}:
            raise InputError(f"stage_strides must give {STAGES} numbers, each 1 or 2, not {self.stage_strides}")
        for name in ("depths", "widths", "expands"):
            values = getattr(self, name)
            if not values or len(values) > len(_DIGITS) or any(a >= b for a, b in itertools.pairwise(values)):
                raise InputError(f"{name} must be 1 to {len(_DIGITS)} increasing choices, not {values}")
        if min(self.base_depths) + self.depths[0] < 1:
            raise InputError("every stage needs at least one layer: raise base_depths or the smallest of depths")
        if min(self.widths[0], self.expands[0]) <= 0:
            raise InputError("widths and expands must be positive")

    # ---- columns of the encoding

    @cached_property
    def max_depths(self) -> tuple[int, ...]:
        """Layers of each stage at maximal depth."""
        return tuple(base + self.depths[-1] for base in self.base_depths)

    @cached_property
    def layer_stage(self) -> np.ndarray:
        """(L,) int64: the stage 0..3 of each layer."""
        return np.repeat(np.arange(STAGES), self.max_depths)

    @cached_property
    def layer_index_in_stage(self) -> np.ndarray:
        """(L,) int64: the position of each layer in its stage, from 0."""
        return np.concatenate([np.arange(depth) for depth in self.max_depths])

    @property
    def stem_columns(self) -> slice:
        """Where a path holds stem_skip, stem_mid and stem_out."""
        return slice(0, STEM_COLUMNS)

    @property
    def depth_columns(self) -> slice:
        """Where a path holds the depth choices of the four stages."""
        return slice(STEM_COLUMNS, STEM_COLUMNS + STAGES)

    @property
    def width_columns(self) -> slice:
        """Where a path holds the width choices of the four stages."""
        return slice(STEM_COLUMNS + STAGES, STEM_COLUMNS + 2 * STAGES)

    @property
    def expand_columns(self) -> slice:
        """Where a path holds the expand choices of the L layers."""
        return slice(STEM_COLUMNS + 2 * STAGES, len(self.columns))

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The name of each column."""
        stages = range(1, STAGES + 1)
        layers = zip(self.layer_stage, self.layer_index_in_stage, strict=True)
        return (
            *("stem_skip", "stem_mid", "stem_out"),
            *(f"depth_{stage}" for stage in stages),
            *(f"width_{stage}" for stage in stages),
            *(f"expand_{stage + 1}_{index + 1}" for stage, index in layers),
        )

    @cached_property
    def choices(self) -> tuple[tuple[int, ...], ...]:
        """The indices allowed in each column."""
        width = tuple(range(len(self.widths)))
        stem = ((0, 1), width, width) if self.elastic_stem else ((0,), width[-1:], width[-1:])
        depth, expand = tuple(range(len(self.depths))), tuple(range(len(self.expands)))
        return (*stem, *[depth] * STAGES, *[width] * STAGES, *[expand] * len(self.layer_stage))

    @cached_property
    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Smallest index allowed, and one past the largest, of each column: two (C,) arrays."""
        low = np.array([allowed[0] for allowed in self.choices])
        return low, np.array([allowed[-1] + 1 for allowed in self.choices])

    # ---- paths

    def active_layers(self, paths: np.ndarray) -> np.ndarray:
        """(P, L) bool: which layers the paths (P, C) keep. Depth drops the last layers of a stage."""
        kept = (np.array(self.base_depths)[:, None] + np.array(self.depths)).astype(np.int64)  # (stage, depth choice)
        stage_depths = kept[np.arange(STAGES), np.asarray(paths)[..., self.depth_columns]]  # (P, stages)
        return self.layer_index_in_stage < stage_depths[..., self.layer_stage]

    def canonical(self, paths: np.ndarray) -> np.ndarray:
        """The same paths with 0 as the expand index of every dropped layer, so that equal nets are equal rows."""
        paths = np.array(paths, dtype=np.int8)
        paths[..., self.expand_columns] *= self.active_layers(paths)
        return paths

    def sample(self, count: int, generator: np.random.Generator) -> np.ndarray:
        """(count, C) int8 canonical paths, every choice drawn independently and uniformly."""
        low, high = self._bounds
        return self.canonical(generator.integers(low, high, size=(count, len(low)), dtype=np.int8))

    def largest(self) -> np.ndarray:
        """(C,) int8: every choice at its largest, the stem's residual kept."""
        path = np.array([allowed[-1] for allowed in self.choices], dtype=np.int8)
        path[0] = 0
        return path

    def smallest(self) -> np.ndarray:
        """(C,) int8: every choice at its smallest, the stem's residual skipped where that is a choice."""
        path = np.array([allowed[0] for allowed in self.choices], dtype=np.int8)
        path[0] = self.choices[0][-1]
        return path

    def size(self) -> int:
        """The exact number of different networks."""
        size = prod(len(allowed) for allowed in self.choices[self.stem_columns])
        for base in self.base_depths:
            size *= len(self.widths) * sum(len(self.expands) ** (base + extra) for extra in self.depths)
        return size

    def enumerate(self) -> Iterator[np.ndarray]:
        """Every path of the space once, canonical, one (C,) row at a time. For tiny spaces."""
        head = self.expand_columns.start
        for prefix in itertools.product(*self.choices[:head]):
            path = np.zeros(len(self.columns), dtype=np.int8)
            path[:head] = prefix
            active = head + np.flatnonzero(self.active_layers(path))
            for expands in itertools.product(range(len(self.expands)), repeat=len(active)):
                row = path.copy()
                row[active] = expands
                yield row

    # ---- channels

    def stage_width(self, stage: int, width: int) -> int:
        """Output channels of stage 0..3 at the width choice of index `width`."""
        return round_channels(self.stage_widths[stage] * self.widths[width], self.channel_multiple)

    def middle_width(self, stage: int, width: int, expand: int) -> int:
        """Bottleneck channels of a block of stage 0..3 at the given choice indices."""
        return round_channels(self.stage_width(stage, width) * self.expands[expand], self.channel_multiple)

    def stem_out(self, width: int) -> int:
        """Channels after the stem at the width choice of index `width`."""
        return round_channels(self.stem_width * self.widths[width], self.channel_multiple)

    def stem_middle(self, width: int) -> int:
        """Channels inside the stem (half its output, rounded) at the width choice of index `width`."""
        return round_channels(self.stem_out(width) // 2, self.channel_multiple)

    def architecture(self, path: Sequence[int]) -> Architecture:
        """The path (C,) in channels."""
        path = np.asarray(path)
        skip, stem_mid, stem_out = (int(index) for index in path[self.stem_columns])
        widths = [int(index) for index in path[self.width_columns]]
        middles: list[list[int]] = [[] for _ in range(STAGES)]
        active = self.active_layers(path)
        for stage, keep, expand in zip(self.layer_stage, active, path[self.expand_columns], strict=True):
            if keep:
                middles[stage].append(self.middle_width(int(stage), widths[stage], int(expand)))
        return Architecture(
            stem_residual=not skip,
            stem_middle=self.stem_middle(stem_mid),
            stem_width=self.stem_out(stem_out),
            stage_widths=tuple(self.stage_width(stage, width) for stage, width in enumerate(widths)),
            stage_strides=self.stage_strides,
            middle_widths=tuple(map(tuple, middles)),
        )

    # ---- names and descriptions

    def describe(self, path: Sequence[int]) -> dict:
        """The path (C,) as readable JSON: multipliers and ratios instead of indices, dropped layers left out."""
        path = np.asarray(path)
        skip, stem_mid, stem_out = (int(index) for index in path[self.stem_columns])
        active, expands = self.active_layers(path), path[self.expand_columns]
        return {
            "stem": {"residual": not skip, "middle": self.widths[stem_mid], "width": self.widths[stem_out]},
            "depth": [self.depths[index] for index in path[self.depth_columns]],
            "width": [self.widths[index] for index in path[self.width_columns]],
            "expand": [
                [self.expands[index] for index in expands[active & (self.layer_stage == stage)]]
                for stage in range(STAGES)
            ],
        }

    def parse(self, description: Mapping) -> np.ndarray:
        """The path (C,) int8 that `describe` describes; `stem` may be left out: the full one. InputError if illegal."""
        if not isinstance(description, Mapping) or not {"depth", "width", "expand"} <= description.keys():
            raise InputError("an architecture description must be an object with depth, width and expand")
        path = np.zeros(len(self.columns), dtype=np.int8)
        path[self.stem_columns] = self.largest()[self.stem_columns]
        if "stem" in description:
            path[self.stem_columns] = self._parse_stem(description["stem"])
        depth = self._indices("depth", description["depth"], self.depths, STAGES)
        path[self.depth_columns] = depth
        path[self.width_columns] = self._indices("width", description["width"], self.widths, STAGES)
        if not isinstance(description["expand"], Sequence) or len(description["expand"]) != STAGES:
            raise InputError(f"expand must hold {STAGES} lists, one a stage")
        first = self.expand_columns.start
        for stage, ratios in enumerate(description["expand"]):
            count = self.base_depths[stage] + self.depths[depth[stage]]
            path[first : first + count] = self._indices(f"expand of stage {stage + 1}", ratios, self.expands, count)
            first += self.max_depths[stage]
        return path

    def _parse_stem(self, stem: Mapping) -> list[int]:
        if not isinstance(stem, Mapping) or stem.keys() != {"residual", "middle", "width"}:
            raise InputError("stem must be an object with residual (true or false), middle and width")
        widths = self._indices("middle and width of the stem", [stem["middle"], stem["width"]], self.widths, 2)
        indices = [int(not stem["residual"]), *widths]
        if any(index not in allowed for index, allowed in zip(indices, self.choices, strict=False)):
            raise InputError("this space has a fixed stem: leave stem out of the description")
        return indices

    @staticmethod
    def _indices(name: str, values: Sequence[float], allowed: Sequence[float], count: int) -> list[int]:
        if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != count:
            raise InputError(f"{name} must be a list of {count} numbers, not {values!r}")
        for value in values:
            if value not in allowed:
                raise InputError(f"{name} has {value!r}, which is none of the choices {list(allowed)}")
        return [allowed.index(value) for value in values]

    def check(self, path: Sequence[int]) -> np.ndarray:
        """The path (C,) as int8 and canonical; InputError where it is no path of this space."""
        path = np.asarray(path)
        if path.shape != (len(self.columns),):
            raise InputError(f"a path of this space has {len(self.columns)} numbers, not shape {path.shape}")
        for name, index, allowed in zip(self.columns, path.tolist(), self.choices, strict=True):
            if index not in allowed:
                raise InputError(f"{name} of the path is {index}, which is none of the indices {list(allowed)}")
        return self.canonical(path)

    def key(self, path: Sequence[int]) -> str:
        """A short stable name of the path (C,), the same for equal networks: indices by kind, expand stage by stage."""

        def digits(indices: np.ndarray) -> str:
            return "".join(_DIGITS[index] for index in indices)

        path = np.asarray(path)
        active, expands = self.active_layers(path), path[self.expand_columns]
        stem = f"s{digits(path[self.stem_columns])}-" if self.elastic_stem else ""
        expand = ".".join(digits(expands[active & (self.layer_stage == stage)]) for stage in range(STAGES))
        return f"{stem}d{digits(path[self.depth_columns])}-w{digits(path[self.width_columns])}-e{expand}"

    def to_dict(self) -> dict:
        """The fields, ready for JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @staticmethod
    def from_dict(fields: Mapping) -> "OFAResNetSpace":
        """The space that `to_dict` wrote."""
        try:
            return OFAResNetSpace(**fields)
        except TypeError as error:
            raise InputError(f"not a description of an OFA-ResNet space: {error}") from None


# ---- the networks


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

    def activate(self, out_channels: int) -> None:
        self.conv.active_out_channels = out_channels

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

    def activate(self, middle: int, out_channels: int, residual: bool) -> None:
        self.first.activate(middle)
        self.residual.activate(middle)
        self.last.activate(out_channels)
        self.uses_residual = residual

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu_()
        if self.uses_residual:
            x = x + self.residual(x).relu_()
        return self.pool(self.last(x).relu_())


class Shortcut(nn.Module):
    """Average pool by the stride (none at stride 1), then 1x1 convolution and norm."""

    def __init__(self, layers: Layers, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(stride, stride, ceil_mode=True) if stride > 1 else nn.Identity()
        self.project = ConvNorm(layers, in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.pool(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 with the stride, 1x1, each with its norm; ReLU after the sum with the shortcut.

    The first block of a stage projects its shortcut (`project`); the others add their input.
    """

    def __init__(
        self, layers: Layers, in_channels: int, middle: int, out_channels: int, stride: int = 1, project: bool = False
    ) -> None:
        super().__init__()
        self.reduce = ConvNorm(layers, in_channels, middle)
        self.spatial = ConvNorm(layers, middle, middle, 3, stride)
        self.expand = ConvNorm(layers, middle, out_channels)
        self.shortcut = Shortcut(layers, in_channels, out_channels, stride) if project else None

    def activate(self, middle: int, out_channels: int) -> None:
        self.reduce.activate(middle)
        self.spatial.activate(middle)
        self.expand.activate(out_channels)
        if self.shortcut is not None:
            self.shortcut.project.activate(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.expand(self.spatial(self.reduce(x).relu_()).relu_())
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return branch.add_(shortcut).relu_()


class _ResNetBody(nn.Module):
    """Stem and four stages of the given architecture, in layers of either kind."""

    def __init__(self, layers: Layers, architecture: Architecture, zero_init_last: bool) -> None:
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
        self._initialise(zero_init_last)

    def _initialise(self, zero_init_last: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if zero_init_last:  # every block starts as its shortcut (arXiv:1706.02677, section 5.1)
            for module in self.modules():
                if isinstance(module, Bottleneck):
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

    `out_channels`: channels of the four features at full width; `path`: the active one, (C,) int8.
    zero_init_last: start with zero as the weight of the last norm of each block.
    """

    def __init__(self, space: OFAResNetSpace, zero_init_last: bool = False) -> None:
        super().__init__(ELASTIC, space.architecture(space.largest()), zero_init_last)
        self.space = space
        self.path = space.largest()

    def activate(self, path: Sequence[int]) -> None:
        """Use the sub-network of `path` (C,) from the next forward on."""
        architecture = self.space.architecture(path)
        self.path = np.array(path, dtype=np.int8)
        self.stem.activate(architecture.stem_middle, architecture.stem_width, architecture.stem_residual)
        for blocks, width, middles in zip(
            self.stages, architecture.stage_widths, architecture.middle_widths, strict=True
        ):
            for block, middle in zip(blocks, middles, strict=False):
                block.activate(middle, width)
        self.active_depths = tuple(len(middles) for middles in architecture.middle_widths)

    def extract(self, path: Sequence[int] | None = None) -> "ResNet":
        """The plain network of `path` (the active one by default), with copies of its weights and statistics."""
        with outline():
            plain = ResNet(self.space, self.path if path is None else path)
        return copy_corner(self, plain)


class ResNet(_ResNetBody):
    """One plain network of the space. `description` is what it takes to build it again, ready for JSON."""

    def __init__(self, space: OFAResNetSpace, path: Sequence[int], zero_init_last: bool = False) -> None:
        path = space.check(path)
        super().__init__(PLAIN, space.architecture(path), zero_init_last)
        self.description = {"kind": "ofa_resnet", "space": space.to_dict(), "path": path.tolist()}


def sort_channels(
    net: OFAResNet,
    readers: Mapping[int, Sequence[nn.Module]] | None = None,
    inner: bool = True,
    outer: bool = True,
) -> None:
    """Sort the super-network's channels by importance, the L1 norm of the weights that read them, largest first.

    Once before a shrinking phase: narrower sub-networks then start from the channels that matter most. The full network
    computes the same as before. readers: further layers that read the output of a stage 0..3, such as a neck, whose
    input channels must move along. inner: the bottleneck channels, before the expand phase; outer: the outputs of the
    stages (all blocks of a stage together, since their sums tie them) and of an elastic stem, before the width phase.
    An optimiser's momentum does not move along: start the phase with a fresh one.
    """
    readers = readers or {}
    if inner:
        for blocks in net.stages:
            for block in blocks:
                sort_shared_channels([block.reduce.conv, block.reduce.norm], [block.spatial.conv])
                sort_shared_channels([block.spatial.conv, block.spatial.norm], [block.expand.conv])
    if not outer:
        return
    entries = [[blocks[0].reduce.conv, blocks[0].shortcut.project.conv] for blocks in net.stages]
    for stage, blocks in enumerate(net.stages):
        ends = [blocks[0].shortcut.project, *(block.expand for block in blocks)]
        inside = [block.reduce.conv for block in itertools.islice(blocks, 1, None)]
        following = entries[stage + 1] if stage + 1 < STAGES else []
        reading = [*inside, *following, *readers.get(stage, ())]
        if reading:
            sort_shared_channels([layer for end in ends for layer in (end.conv, end.norm)], reading)
    if net.space.elastic_stem:
        stem = net.stem
        middle = [stem.first.conv, stem.first.norm, stem.residual.conv, stem.residual.norm]
        sort_shared_channels(middle, [stem.residual.conv, stem.last.conv])
        sort_shared_channels([stem.last.conv, stem.last.norm], entries[0])
