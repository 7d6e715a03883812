"""Once-for-All's ResNet space, which DetOFA searches: its paths, what they cost, and the evolutionary search of it.

    paths     `OFAResNetSpace`: depth, width and bottleneck ratio of a ResNet-D-like network, and their encoding
    costs     `CostTable`: multiply-accumulates, parameters or measured milliseconds of millions of paths a second;
              `Constraint`: the buckets and budgets that they make
    search    `evolve`: Once-for-All's evolutionary search, a whole generation at a time

The space is that of Once-for-All's ResNet50 (github.com/mit-han-lab/once-for-all); common.models.ofa_resnet builds its
networks. Importable without torch.
"""

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from math import prod
from typing import Literal

import numpy as np

from common.models.architectures import OFAResNetArchitecture, round_channels
from common.plain import InputError

_STAGES = 4
STEM_COLUMNS = 3
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


class NoPath(InputError):
    """A budget that no path meets, in the whole space or in what is left of it."""


# ---- Paths


@dataclass(frozen=True)
class OFAResNetSpace:
    """The choices of the super-network, and paths through it as rows of int8 choice indices.

    A path is a row of C columns: stem_skip, stem_mid, stem_out, then depth and width of the four stages, then the
    expand ratio of every layer of every stage at maximal depth (L layers; 18 for ResNet50). Each entry is an index into
    the list of choices. Two rows may differ only in layers that their depth drops; `canonical` makes such rows equal.
    """

    base_depths: tuple[int, ...] = (2, 2, 4, 2)
    """Layers of each stage before `depths` is added."""
    depths: tuple[int, ...] = (0, 1, 2)
    """Extra layers of a stage."""
    widths: tuple[float, ...] = (0.65, 0.8, 1.0)
    """Multipliers of `stage_widths`, and of `stem_width`."""
    expands: tuple[float, ...] = (0.2, 0.25, 0.35)
    """Middle width of a bottleneck over its output width."""
    stage_widths: tuple[int, ...] = (256, 512, 1024, 2048)
    """Channels of each stage at full width."""
    stem_width: int = 64
    """Channels of the stem at full width."""
    stage_strides: tuple[int, ...] = (1, 2, 2, 2)
    """1 or 2 for each stage, after the stem's stride of 4."""
    channel_multiple: int = 8
    """Every width is rounded to a multiple of this."""
    elastic_stem: bool = False
    """Let the skip and the widths of the stem be chosen too."""

    def __post_init__(self) -> None:
        if len(self.base_depths) != _STAGES or len(self.stage_widths) != _STAGES:
            raise InputError(f"base_depths and stage_widths must each give {_STAGES} numbers, one for each stage")
        if len(self.stage_strides) != _STAGES or not set(self.stage_strides) <= {1, 2}:
            raise InputError(f"stage_strides must give {_STAGES} numbers, each 1 or 2, got {self.stage_strides}")
        for name in ("depths", "widths", "expands"):
            values = getattr(self, name)
            if not values or len(values) > len(_DIGITS) or any(a >= b for a, b in itertools.pairwise(values)):
                raise InputError(f"{name} must be 1 to {len(_DIGITS)} increasing choices, got {values}")
        if min(self.base_depths) + self.depths[0] < 1:
            raise InputError("every stage needs at least one layer: raise base_depths or the smallest of depths")
        if min(self.widths[0], self.expands[0]) <= 0:
            raise InputError("widths and expands must be positive")
        if min(self.channel_multiple, self.stem_width, *self.stage_widths) < 1:
            raise InputError("channel_multiple, stem_width and stage_widths must be at least 1")

    # ---- columns of the encoding

    @cached_property
    def max_depths(self) -> tuple[int, ...]:
        """Layers of each stage at maximal depth."""
        return tuple(base + self.depths[-1] for base in self.base_depths)

    @cached_property
    def layer_stage(self) -> np.ndarray:
        """(L,) int64: the stage 0..3 of each layer."""
        return np.repeat(np.arange(_STAGES), self.max_depths)

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
        return slice(STEM_COLUMNS, STEM_COLUMNS + _STAGES)

    @property
    def width_columns(self) -> slice:
        """Where a path holds the width choices of the four stages."""
        return slice(STEM_COLUMNS + _STAGES, STEM_COLUMNS + 2 * _STAGES)

    @property
    def expand_columns(self) -> slice:
        """Where a path holds the expand choices of the L layers."""
        return slice(STEM_COLUMNS + 2 * _STAGES, len(self.columns))

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The name of each column."""
        stages = range(1, _STAGES + 1)
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
        return (*stem, *[depth] * _STAGES, *[width] * _STAGES, *[expand] * len(self.layer_stage))

    @cached_property
    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Smallest index allowed, and one past the largest, of each column: two (C,) arrays."""
        low = np.array([allowed[0] for allowed in self.choices])
        return low, np.array([allowed[-1] + 1 for allowed in self.choices])

    # ---- paths

    def active_layers(self, paths: np.ndarray) -> np.ndarray:
        """(P, L) bool: which layers the paths (P, C) keep. Depth drops the last layers of a stage."""
        kept = (np.array(self.base_depths)[:, None] + np.array(self.depths)).astype(np.int64)  # (stage, depth choice)
        stage_depths = kept[np.arange(_STAGES), np.asarray(paths)[..., self.depth_columns]]  # (P, stages)
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

    def pairs(self, coupled: bool = False) -> list[tuple[int, int]]:
        """The (depth, width) choices of a stage. coupled: those of CompOFA*, whose depth and width rise together.

        Raises `InputError` when there are not as many depths as widths to couple.
        """
        depths, widths = range(len(self.depths)), range(len(self.widths))
        if not coupled:
            return list(itertools.product(depths, widths))
        if len(depths) != len(widths):
            raise InputError("CompOFA* couples depths with widths one to one: give the space as many of each")
        return list(zip(depths, widths, strict=True))

    def size(self, coupled: bool = False) -> int:
        """The exact number of different networks. coupled: of those in CompOFA*'s space."""
        skips, middles, outs = self.choices[self.stem_columns]
        size = len(skips) * len(set(map(self.stem_middle, middles))) * len(set(map(self.stem_out, outs)))
        for stage, base in enumerate(self.base_depths):
            networks = {
                (depth, self.stage_width(stage, width)): len(set(self._middle_widths(stage, width)))
                ** (base + self.depths[depth])
                for depth, width in self.pairs(coupled)
            }
            size *= sum(networks.values())
        return size

    def twins(self) -> str | None:
        """Two choices that build one network, in words; None where all paths are different networks."""
        widths, stages = range(len(self.widths)), range(_STAGES)
        by_width = {f"of stage {s + 1}": [self.stage_width(s, w) for w in widths] for s in stages}
        if self.elastic_stem:
            by_width |= {"of the stem": [*map(self.stem_out, widths)], "in the stem": [*map(self.stem_middle, widths)]}
        by_expand = {
            f"of stage {s + 1} at width {self.widths[w]:g}": self._middle_widths(s, w) for s in stages for w in widths
        }
        for kind, values, sets in (("widths", self.widths, by_width), ("expand ratios", self.expands, by_expand)):
            for where, channels in sets.items():
                for one, other in itertools.pairwise(range(len(values))):
                    if channels[one] == channels[other]:
                        return (
                            f"{kind} {values[one]:g} and {values[other]:g} {where} both give {channels[one]} channels"
                        )
        return None

    # ---- channels

    def stage_width(self, stage: int, width: int) -> int:
        """Output channels of stage 0..3 at the width choice of index `width`."""
        return round_channels(self.stage_widths[stage] * self.widths[width], self.channel_multiple)

    def middle_width(self, stage: int, width: int, expand: int) -> int:
        """Bottleneck channels of a block of stage 0..3 at the given choice indices."""
        return round_channels(self.stage_width(stage, width) * self.expands[expand], self.channel_multiple)

    def _middle_widths(self, stage: int, width: int) -> list[int]:
        return [self.middle_width(stage, width, expand) for expand in range(len(self.expands))]

    def stem_out(self, width: int) -> int:
        """Channels after the stem at the width choice of index `width`."""
        return round_channels(self.stem_width * self.widths[width], self.channel_multiple)

    def stem_middle(self, width: int) -> int:
        """Channels inside the stem (half its output, rounded) at the width choice of index `width`."""
        return round_channels(self.stem_out(width) // 2, self.channel_multiple)

    def architecture(self, path: Sequence[int]) -> OFAResNetArchitecture:
        """The path (C,) in channels."""
        path = np.asarray(path)
        skip, stem_mid, stem_out = path[self.stem_columns]
        stages = list(zip(range(_STAGES), path[self.width_columns], self._kept_expands(path), strict=True))
        return OFAResNetArchitecture(
            stem_residual=not skip,
            stem_middle=self.stem_middle(stem_mid),
            stem_width=self.stem_out(stem_out),
            stage_widths=tuple(self.stage_width(stage, width) for stage, width, _ in stages),
            stage_strides=self.stage_strides,
            middle_widths=tuple(
                tuple(self.middle_width(stage, width, expand) for expand in kept) for stage, width, kept in stages
            ),
        )

    def _kept_expands(self, path: np.ndarray) -> list[np.ndarray]:
        """The expand choices of the layers that the path (C,) keeps, stage by stage."""
        active, expands = self.active_layers(path), path[self.expand_columns]
        return [expands[active & (self.layer_stage == stage)] for stage in range(_STAGES)]

    # ---- names and descriptions

    def describe(self, path: Sequence[int]) -> dict:
        """The path (C,) as readable JSON: multipliers and ratios instead of indices, dropped layers left out."""
        path = np.asarray(path)
        skip, stem_mid, stem_out = path[self.stem_columns]
        return {
            "stem": {"residual": not skip, "middle": self.widths[stem_mid], "width": self.widths[stem_out]},
            "depth": [self.depths[index] for index in path[self.depth_columns]],
            "width": [self.widths[index] for index in path[self.width_columns]],
            "expand": [[self.expands[index] for index in kept] for kept in self._kept_expands(path)],
        }

    def key(self, path: Sequence[int]) -> str:
        """A short stable name of the path (C,), the same for equal networks: indices by kind, expand stage by stage."""

        def digits(indices: np.ndarray) -> str:
            return "".join(_DIGITS[index] for index in indices)

        path = np.asarray(path)
        stem = f"s{digits(path[self.stem_columns])}-" if self.elastic_stem else ""
        expand = ".".join(map(digits, self._kept_expands(path)))
        return f"{stem}d{digits(path[self.depth_columns])}-w{digits(path[self.width_columns])}-e{expand}"

    def from_key(self, key: str) -> np.ndarray:
        """The path (C,) int8 that `key` named; `InputError` when it names none of this space."""
        found = re.fullmatch(r"(?:s(\w{3})-)?d(\w{4})-w(\w{4})-e(\w+)\.(\w+)\.(\w+)\.(\w+)", key)
        path, first = self.largest(), self.expand_columns.start
        path[first:] = 0
        try:
            stem, depth, width, *expands = ([_DIGITS.index(digit) for digit in part or ""] for part in found.groups())
            path[: len(stem)] = stem
            path[self.depth_columns], path[self.width_columns] = depth, width
            for most, chosen in zip(self.max_depths, expands, strict=True):
                path[first : first + len(chosen)] = chosen
                first += most
            legal = all(index in allowed for index, allowed in zip(path.tolist(), self.choices, strict=True))
        except (AttributeError, ValueError):
            legal = False
        if not legal or self.key(path) != key:
            raise InputError(f"{key!r} is not the name of a path of this space")
        return path


# ---- Costs

# Up to this many entries a stage is one look-up; beyond it, one look-up a layer. Tables that leave the cache are slow.
LARGEST_TABLE = 1 << 18
PATHS_AT_ONCE = 1 << 14

_Size = tuple[int, int]  # height and width of an image or feature


def _halved(size: _Size) -> _Size:
    return (size[0] + 1) // 2, (size[1] + 1) // 2


@dataclass(frozen=True)
class StemShape:
    """The stem of a network, by which its cost is known: a 3x3 convolution of stride 2, a residual 3x3, a 3x3, a pool.

    size: of the image.
    """

    middle: int
    out_channels: int
    residual: bool
    size: _Size

    @property
    def _weights(self) -> int:
        return 9 * (3 * self.middle + self.residual * self.middle**2 + self.middle * self.out_channels)

    @property
    def macs(self) -> int:
        """Multiply-accumulates, without biases."""
        return self._weights * prod(_halved(self.size))

    @property
    def params(self) -> int:
        """Weights, those of the normalisations included."""
        return self._weights + 2 * ((1 + self.residual) * self.middle + self.out_channels)


@dataclass(frozen=True)
class BlockShape:
    """A bottleneck block, by which its cost is known. size: of what comes in. first: it opens a stage, so its shortcut
    has a convolution.
    """

    in_channels: int
    middle: int
    out_channels: int
    stride: int
    first: bool
    size: _Size

    @property
    def macs(self) -> int:
        """Multiply-accumulates, without biases."""
        shortcut = self.first * self.in_channels * self.out_channels
        after_stride = 9 * self.middle**2 + self.middle * self.out_channels + shortcut
        out_size = _halved(self.size) if self.stride == 2 else self.size
        return self.in_channels * self.middle * prod(self.size) + after_stride * prod(out_size)

    @property
    def params(self) -> int:
        """Weights, those of the normalisations included."""
        shortcut = self.first * (self.in_channels + 2) * self.out_channels
        return (
            (self.in_channels + 9 * self.middle + self.out_channels + 4) * self.middle
            + 2 * self.out_channels
            + shortcut
        )


_Cost = Callable[[StemShape | BlockShape], float]
Rows = Callable[[np.ndarray], np.ndarray]
_Part = tuple[Sequence[int], np.ndarray]
"""A part of the cost: columns of a path, and the cost for every combination of their choices, an axis a column."""


class CostTable:
    """The cost of paths by look-up: `table(paths)`, exact.

    The cost of a network is a sum over its layers, and what a layer costs depends only on a few choices: its stage's
    width and expand ratio, and the width of what comes in. So all costs of a stage are laid out in one array, indexed
    by the stage's code: the choices (width of the stage before, width, depth, expand ratios) read as digits of a
    mixed-radix number. One small matrix product turns a block of paths into the codes of all parts at once, and the
    cost is one look-up a part and a sum.

    cost: of a stem or block, asked once for each that differs: whole numbers (int64) or such as milliseconds (float64).
    input_size: of the image, its side or (height, width). head: the cost of whatever reads the last feature, by its
    number of channels.
    """

    def __init__(
        self,
        space: OFAResNetSpace,
        cost: _Cost,
        input_size: int | _Size,
        head: Callable[[int], float] | None = None,
    ) -> None:
        self.space = space
        size = (input_size, input_size) if isinstance(input_size, int) else input_size
        cost = cache(cost)
        parts = [_stem_part(space, cost, size)]
        size = _halved(_halved(size))
        for stage in range(_STAGES):
            parts += _stage_parts(space, stage, cost, size)
            size = _halved(size) if space.stage_strides[stage] == 2 else size
        if head is not None:
            costs = np.array([head(space.stage_width(_STAGES - 1, width)) for width in range(len(space.widths))])
            parts.append(([space.width_columns.stop - 1], costs))
        self._costs = np.concatenate([costs.ravel() for _, costs in parts])
        # Codes of the joined table are whole numbers below its length: float32 holds those under 2^24 exactly.
        number = np.float32 if len(self._costs) < 1 << 24 else np.float64
        starts = np.cumsum([0, *(costs.size for _, costs in parts[:-1])])
        self._starts = starts.astype(number)[:, None]
        self._radix = np.zeros((len(parts), len(space.columns)), dtype=number)
        for row, (columns, costs) in zip(self._radix, parts, strict=True):
            row[columns] = [prod(costs.shape[axis + 1 :]) for axis in range(costs.ndim)]

    def __call__(self, paths: np.ndarray) -> np.ndarray:
        """paths (P, C) int8, canonical or not -> costs (P,)."""
        costs = np.empty(len(paths), dtype=self._costs.dtype)
        for start in range(0, len(paths), PATHS_AT_ONCE):  # blocks that stay in the processor's cache
            block = paths[start : start + PATHS_AT_ONCE]
            codes = self._radix @ block.T.astype(self._radix.dtype) + self._starts  # (parts, P)
            self._costs.take(codes.astype(np.int64)).sum(axis=0, out=costs[start : start + PATHS_AT_ONCE])
        return costs

    def range(self) -> tuple[float, float]:
        """The costs of the cheapest and of the dearest path; of milliseconds these may be any paths."""
        lowest, highest = self(np.stack([self._outermost(np.argmin), self._outermost(np.argmax)])).tolist()
        return float(lowest), float(highest)

    def _outermost(self, which: Callable[..., np.ndarray]) -> np.ndarray:
        """(C,) int8: the cheapest path (np.argmin) or the dearest (np.argmax), stage by stage: what is best in a stage
        depends on the widths before it and of it alone, and in a layer on no other choice besides."""
        space = self.space
        depths, widths = (np.arange(len(space.columns))[each] for each in (space.depth_columns, space.width_columns))
        layers = np.arange(len(space.columns))[space.expand_columns]

        def tried(paths: np.ndarray, column: int) -> np.ndarray:
            """(P, C) -> (choices, P, C): the paths with every choice of a column."""
            groups = np.repeat(paths[None], len(space.choices[column]), axis=0)
            groups[..., column] = np.array(space.choices[column])[:, None]
            return groups

        def best(groups: np.ndarray) -> np.ndarray:
            """(N, P, C) -> (P, C): of every N paths one."""
            costs = self(groups.reshape(-1, groups.shape[-1])).reshape(groups.shape[:2])
            return groups[which(costs, axis=0), np.arange(groups.shape[1])]

        paths = space.largest()[None]  # so that all layers are there
        for column in range(STEM_COLUMNS):
            paths = np.concatenate(tried(paths, column))
        for stage in range(_STAGES):
            by_width = tried(paths, widths[stage])
            after = np.concatenate(by_width)
            for column in (*layers[space.layer_stage == stage], depths[stage]):
                after = best(tried(after, column))
            paths = best(after.reshape(by_width.shape).swapaxes(0, 1))  # one for each width
        return best(paths[:, None])[0]

    @staticmethod
    def macs(space: OFAResNetSpace, input_size: int | _Size, head: Callable[[int], float] | None = None) -> "CostTable":
        """Multiply-accumulates of the backbone for one image, without biases."""
        return CostTable(space, lambda shape: shape.macs, input_size, head)

    @staticmethod
    def params(space: OFAResNetSpace) -> "CostTable":
        """Number of weights of the backbone."""
        return CostTable(space, lambda shape: shape.params, input_size=64)


def _stem_part(space: OFAResNetSpace, cost: _Cost, size: _Size) -> _Part:
    costs = np.zeros((2, len(space.widths), len(space.widths)), dtype=object)
    for skip, middle, width in itertools.product(*space.choices[space.stem_columns]):
        shape = StemShape(space.stem_middle(middle), space.stem_out(width), not skip, size)
        costs[skip, middle, width] = cost(shape)
    return range(STEM_COLUMNS), np.array(costs.tolist())


def _stage_parts(space: OFAResNetSpace, stage: int, cost: _Cost, size: _Size) -> Iterator[_Part]:
    """The whole stage as one part where its table is small enough, else a part a layer. size: of what comes in."""
    widths, expands = range(len(space.widths)), range(len(space.expands))
    stride, depths = space.stage_strides[stage], space.base_depths[stage] + np.array(space.depths)
    after = _halved(size) if stride == 2 else size

    def block(before: int | None, width: int, expand: int) -> float:
        """Cost of the block that opens the stage after the width choice `before`; None: of any further block."""
        middle, out = space.middle_width(stage, width, expand), space.stage_width(stage, width)
        if before is None:
            return cost(BlockShape(out, middle, out, 1, False, after))
        channels = space.stage_width(stage - 1, before) if stage else space.stem_out(before)
        return cost(BlockShape(channels, middle, out, stride, True, size))

    opening = np.array([[[block(before, w, e) for e in expands] for w in widths] for before in widths])
    further = np.array([[[block(None, w, e) for e in expands] for w in widths]])
    shared = (len(widths), len(widths), len(depths))  # the choices that every layer of the stage depends on
    columns = (
        space.width_columns.start + stage - 1 if stage else space.stem_columns.stop - 1,
        space.width_columns.start + stage,
        space.depth_columns.start + stage,
    )
    layers = np.flatnonzero(space.layer_stage == stage) + space.expand_columns.start
    everything = range(len(layers))
    fits = prod(shared) * len(expands) ** len(layers) <= LARGEST_TABLE
    for group in [everything] if fits else [[layer] for layer in everything]:
        costs = np.zeros((*shared, *[len(expands)] * len(group)), dtype=opening.dtype)
        for axis, layer in enumerate(group):
            kept = (layer < depths)[:, None]  # (depth, 1)
            term = (further if layer else opening)[:, :, None] * kept  # (width before or 1, width, depth, expand)
            term = term.reshape(*term.shape, *[1] * (len(group) - 1))
            costs += np.moveaxis(term, len(shared), len(shared) + axis)
        yield [*columns, *layers[list(group)]], costs


BucketSpacing = Literal["equal", "quantile"]
BUCKETS = 5
"""Cost buckets of a space (Section 3.1.1)."""


@dataclass(frozen=True)
class Constraint:
    """A resource that a path costs: FLOPs in the paper; latency, parameters or anything additive by the same face.

    cost(paths (P, C)) -> (P,) float64. edges: rising costs that bound the buckets, from the cheapest path of the search
    space A to the dearest. buckets_of: the constraint whose buckets paths fall into, where a path filter was trained
    with another than the one that limits a search; None means this one.
    """

    name: str
    unit: str
    cost: Rows
    edges: tuple[float, ...]
    buckets_of: "Constraint | None" = None

    @staticmethod
    def of(name: str, unit: str, table: CostTable, spacing: BucketSpacing = "equal") -> "Constraint":
        """The constraint on what a table says. spacing: buckets of equal width, as in the paper, or such that uniform
        paths fall into all of them equally often.
        """
        shares, (lowest, highest) = np.linspace(0, 1, BUCKETS + 1), table.range()
        inner = lowest + shares * (highest - lowest)
        if spacing == "quantile":
            inner = np.quantile(table(table.space.sample(100_000, np.random.default_rng(0))), shares)
        return Constraint(
            name, unit, lambda paths: table(paths).astype(float), (lowest, *inner[1:-1].tolist(), highest)
        )

    @property
    def lowest(self) -> float:
        """The cost of the cheapest path."""
        return self.edges[0]

    @property
    def highest(self) -> float:
        """The cost of the dearest path."""
        return self.edges[-1]

    @property
    def buckets(self) -> int:
        """Number of buckets."""
        return len(self.edges) - 1

    def bucket(self, paths: np.ndarray) -> np.ndarray:
        """(P,) int64: the interval of each path's cost, its upper end included: what costs just a budget is affordable,
        and must not be a bucket of its own in its search."""
        if self.buckets_of is not None:
            return self.buckets_of.bucket(paths)
        return np.searchsorted(self.edges[1:-1], self.cost(paths), side="left")

    def budget(self, share: float) -> float:
        """The cost that lies `share` (0..1) of the way from the cheapest path to the dearest, bucket by bucket."""
        return float(np.interp(share, np.linspace(0, 1, len(self.edges)), self.edges))


# ---- Search

_Sample = Callable[[int, np.random.Generator], np.ndarray]
Breed = Callable[[np.ndarray, int], np.ndarray]

SURPLUS = 4  # candidates made for a child that is wanted: near the budget about one in three is feasible
SAMPLES_AHEAD = 8192  # rows


@dataclass(frozen=True)
class EvolutionSettings:
    """How long and how boldly to search."""

    population: int = 100
    """Individuals kept in a generation."""
    generations: int = 500
    """Generations after the first population."""
    mutation_probability: float = 0.1
    """Chance that a mutated child changes any one of its choices."""
    parent_share: float = 0.25
    """Share of the population, best first, that becomes parents and survives."""
    mutation_share: float = 0.5
    """Share of the children made by mutation; the others by crossover."""

    def __post_init__(self) -> None:
        if self.population < 1:
            raise InputError(f"population must be at least 1, got {self.population}")
        if not 0 <= self.mutation_share <= 1:
            raise InputError(f"mutation_share must be between 0 and 1, got {self.mutation_share:g}")


@dataclass(frozen=True)
class EvolutionResult:
    """What a search found.

    best: (C,) int8. score: its score. scored: how many different individuals were scored.
    """

    best: np.ndarray
    score: float
    scored: int


class _Scores:
    """Scores of rows already seen. A row's key is its mixed-radix number, exact in 64 bits."""

    def __init__(self, score: Rows, canonical: Rows, radices: np.ndarray):
        if np.prod(radices.astype(float)) >= 2.0**63:
            raise InputError("this search space has 2^63 encodings or more; the search keys them by 64-bit numbers")
        self._score, self._canonical = score, canonical
        self._weights = np.concatenate([[1], np.cumprod(radices[:-1].astype(np.int64))])
        self._known: dict[int, float] = {}

    def keys(self, rows: np.ndarray) -> np.ndarray:
        """(P,) int64: a number for each row, the same for equal networks."""
        return self._canonical(rows).astype(np.int64) @ self._weights

    def new(self, keys: np.ndarray) -> np.ndarray:
        """(P,) bool: whether a key has no score yet, and is the first of its kind here."""
        new = np.zeros(len(keys), dtype=bool)
        first = np.unique(keys, return_index=True)[1]
        new[first] = [key not in self._known for key in keys[first].tolist()]
        return new

    def __call__(self, rows: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """(P,) scores of rows (P, C) with these keys."""
        new = self.new(keys)
        if new.any():
            fresh = self._score(self._canonical(rows[new]))
            self._known.update(zip(keys[new].tolist(), np.asarray(fresh, dtype=float).tolist(), strict=True))
        return np.array([self._known[key] for key in keys.tolist()])

    def __len__(self) -> int:
        return len(self._known)


class _Samples:
    """Rows of `sample` in the order drawn, however many are taken at a time."""

    def __init__(self, sample: _Sample, generator: np.random.Generator) -> None:
        self._sample, self._generator = sample, generator
        self._left = sample(0, generator)

    def take(self, count: int) -> np.ndarray:
        """(count, C) rows that nobody has had yet."""
        if len(self._left) < count:
            self._left = np.concatenate([self._left, self._sample(max(count, SAMPLES_AHEAD), self._generator)])
        taken, self._left = self._left[:count], self._left[count:]
        return taken


def evolve(
    sample: _Sample,
    canonical: Rows,
    feasible: Rows,
    score: Rows,
    radices: np.ndarray,
    settings: EvolutionSettings,
    generator: np.random.Generator,
) -> EvolutionResult:
    """Search for the feasible encoding of highest score, as Once-for-All does: a population, the best quarter as
    parents, half of the children by mutation and half by crossover.

    Here a generation is a few array operations instead of a loop over individuals, and nothing is scored twice. At a
    hundred individuals an array operation costs the same however many rows it has, so children are made in surplus for
    one check of the constraint, and random samples are drawn for generations ahead. The surplus serves the search as
    well: of the feasible children those come first that nobody has scored yet, where Once-for-All takes any and so
    meets the same ones again and again once its parents resemble one another.

    sample(count, generator) draws (count, C) encodings; canonical maps encodings of equal networks to one row (scores
    are kept by it, while choices without an effect live on: another choice may give them one);
    feasible and score take (P, C) rows and return (P,). radices: (C,) number of values a column can take; a mutated
    column takes the value that a fresh sample has there, so illegal values never appear.

    Raises `NoPath` when no feasible encoding turns up among many samples.
    """
    scores = _Scores(score, canonical, np.asarray(radices))
    population = _feasible_samples(sample, feasible, settings.population, generator)
    samples = _Samples(sample, generator)
    keys = scores.keys(population)
    values = scores(population, keys)
    parents_kept = max(1, round(settings.parent_share * settings.population))
    mutants = round(settings.mutation_share * settings.population)

    def mutate(parents: np.ndarray, count: int) -> np.ndarray:
        children = parents[generator.integers(len(parents), size=count)]
        changed = generator.random(children.shape) < settings.mutation_probability
        return np.where(changed, samples.take(count), children)

    def cross(parents: np.ndarray, count: int) -> np.ndarray:
        mothers, fathers = parents[generator.integers(len(parents), size=(2, count))]
        return np.where(generator.random(mothers.shape) < 0.5, mothers, fathers)

    breeds, wanted = (mutate, cross), np.array([mutants, settings.population - mutants])
    for _ in range(settings.generations):
        # Parents are different: a population of copies of one early winner would stop searching.
        distinct = np.sort(np.unique(keys, return_index=True)[1])
        order = distinct[np.argsort(-values[distinct], kind="stable")][:parents_kept]
        parents = population[order]
        children, child_keys = _children(breeds, wanted, parents, keys[order], feasible, scores)
        population = np.concatenate([parents, children])
        values = np.concatenate([values[order], scores(children, child_keys)])
        keys = np.concatenate([keys[order], child_keys])
    winner = int(values.argmax())
    return EvolutionResult(canonical(population[winner : winner + 1])[0], float(values[winner]), len(scores))


def _children(
    breeds: Sequence[Breed],
    wanted: np.ndarray,
    parents: np.ndarray,
    parent_keys: np.ndarray,
    feasible: Rows,
    scores: _Scores,
    rounds: int = 3,
) -> tuple[np.ndarray, np.ndarray]:
    """Feasible children, as many of each way to breed as are wanted, new ones first; and their keys.

    What is still missing after a few rounds is filled with parents.
    """
    rows, keys = [], []
    for _ in range(rounds):
        made = np.concatenate([breed(parents, count) for breed, count in zip(breeds, SURPLUS * wanted, strict=True)])
        fitting = np.flatnonzero(feasible(made))
        made, way = made[fitting], np.repeat(np.arange(len(breeds)), SURPLUS * wanted)[fitting]
        made_keys = scores.keys(made)
        new_first = np.argsort(~scores.new(made_keys), kind="stable")
        for which, count in enumerate(wanted):
            taken = new_first[way[new_first] == which][:count]
            rows.append(made[taken])
            keys.append(made_keys[taken])
        wanted = wanted - [len(part) for part in rows[-len(breeds) :]]
        if not wanted.any():
            break
    filling = np.arange(wanted.sum()) % len(parents)
    return np.concatenate([*rows, parents[filling]]), np.concatenate([*keys, parent_keys[filling]])


def _feasible_samples(sample: _Sample, feasible: Rows, count: int, generator, draws: int = 200) -> np.ndarray:
    kept: list[np.ndarray] = []
    for _ in range(draws):
        candidates = sample(max(count, 1000), generator)
        kept.append(candidates[feasible(candidates)])
        if sum(map(len, kept)) >= count:
            break
    found = np.concatenate(kept)[:count]
    if len(found) == 0:
        raise NoPath(
            "no candidate meets the constraint among many random ones: give a budget farther from the cheapest"
        )
    # A tight budget leaves few: the population then starts with repetitions and mutation spreads it.
    return found[np.arange(count) % len(found)]
