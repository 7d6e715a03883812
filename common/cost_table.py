"""The cost of a path of the OFA-ResNet space by look-up: millions of paths a second, exact.

The cost of a network is a sum over its layers, and what a layer costs depends only on a few choices: its stage's width
and expand ratio, and the width of what comes in. So all costs of a stage are laid out in one array, indexed by the
stage's code: the choices (width of the stage before, width, depth, expand ratios) read as digits of a mixed-radix
number. One small matrix product turns a block of paths into the codes of all parts at once, and the cost is one look-up
a part and a sum. The product is in float64: exact, and left alone by autocast and by reduced matmul precision.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

import numpy as np
import torch
from torch import Tensor, nn

from common.models.ofa_resnet import PLAIN, STAGES, Bottleneck, OFAResNetSpace, Stem

# Up to this many entries a stage is one look-up; beyond it, one look-up a layer. Tables that leave the cache are slow.
LARGEST_TABLE = 1 << 18
PATHS_AT_ONCE = 1 << 13

Shape = tuple[int, int, int]  # channels, height, width of one image or feature
Cost = Callable[[nn.Module, Shape], float]
Head = Callable[[int], float]
CostOf = Callable[[Callable[[], nn.Module], Shape], float]


def module_macs(module: nn.Module, shape: Shape) -> int:
    """Multiply-accumulates of the convolutions and linear layers of `module` for one input of `shape`, without biases.

    Read off one pass, which on the meta device costs nothing. Twice this is what torch's FlopCounterMode counts.
    """
    total = 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        # A transposed convolution multiplies once for each input position, every other layer for each output position.
        transposed = isinstance(layer, nn.ConvTranspose2d)
        total += (inputs[0] if transposed else output).numel() // layer.weight.shape[0] * layer.weight.numel()

    counted = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    hooks = [layer.register_forward_hook(count) for layer in module.modules() if isinstance(layer, counted)]
    try:
        with torch.no_grad():
            module(torch.empty(1, *shape))
    finally:
        for hook in hooks:
            hook.remove()
    return total


def module_params(module: nn.Module, _shape: Shape) -> int:
    """Number of weights of `module`; the running statistics of norm layers are none."""
    return sum(parameter.numel() for parameter in module.parameters())


@dataclass(frozen=True)
class _Part:
    """A part of the cost: `columns` of a path, each with so many choices, and the cost for every combination."""

    columns: tuple[int, ...]
    counts: tuple[int, ...]
    costs: np.ndarray  # (prod(counts),), the last column varying fastest


class CostTable:
    """The cost of paths of `space`: `table(paths)`. Made by `CostTable.macs`, `.params` or `.measured`."""

    def __init__(self, space: OFAResNetSpace, parts: Sequence[_Part]) -> None:
        self.space = space
        self._costs = torch.from_numpy(np.concatenate([part.costs for part in parts]))
        # Where each part's table begins in the joined one is added to its codes by the same product.
        starts = np.cumsum([0, *(len(part.costs) for part in parts[:-1])])
        self._starts = torch.tensor(starts, dtype=torch.float64)[:, None]
        radix = torch.zeros(len(parts), len(space.columns), dtype=torch.float64)
        for row, part in zip(radix, parts, strict=True):
            for position, column in enumerate(part.columns):
                row[column] = prod(part.counts[position + 1 :])
        self._radix = radix

    def __call__(self, paths: np.ndarray | Tensor) -> np.ndarray | Tensor:
        """paths (P, C) int8, canonical or not -> costs (P,), int64 (float64 where measured); numpy in, numpy out."""
        if isinstance(paths, np.ndarray):
            return self(torch.from_numpy(np.ascontiguousarray(paths))).numpy()
        # On a CPU, blocks that stay in its cache, in one thread: they are over before a second one has woken up, and
        # waiting for it on a busy machine costs a hundredfold. Elsewhere, all at once.
        if paths.device.type != "cpu":
            return self._look_up(paths)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return torch.cat([self._look_up(block) for block in paths.split(PATHS_AT_ONCE)])
        finally:
            torch.set_num_threads(threads)

    def _look_up(self, paths: Tensor) -> Tensor:
        costs, radix, starts = (table.to(paths.device) for table in (self._costs, self._radix, self._starts))
        codes = torch.addmm(starts, radix, paths.double().T).int()  # (parts, P)
        return costs.index_select(0, codes.flatten()).view(codes.shape).sum(0)

    @staticmethod
    def macs(space: OFAResNetSpace, input_size: int | tuple[int, int], head: Head | None = None) -> "CostTable":
        """Multiply-accumulates of the backbone for one image of `input_size` (height, width), without biases.

        head: the cost of whatever reads the last feature, by its number of channels; added where given.
        """
        return CostTable._build(space, module_macs, input_size, np.int64, head, device="meta")

    @staticmethod
    def params(space: OFAResNetSpace, head: Head | None = None) -> "CostTable":
        """Number of weights of the backbone; head as in `macs`."""
        return CostTable._build(space, module_params, 64, np.int64, head, device="meta")

    @staticmethod
    def measured(
        space: OFAResNetSpace, measure: Cost, input_size: int | tuple[int, int], head: Head | None = None
    ) -> "CostTable":
        """The sum of `measure(block, input_shape)` over the stem and the blocks, such as a latency in milliseconds.

        measure gets each different plain block of the space once, in evaluation mode, and the (C, H, W) of its input.
        """
        return CostTable._build(space, measure, input_size, np.float64, head, device="cpu")

    @staticmethod
    def _build(
        space: OFAResNetSpace,
        cost: Cost,
        input_size: int | tuple[int, int],
        dtype: type,
        head: Head | None,
        device: str,
    ) -> "CostTable":
        def cost_of(make: Callable[[], nn.Module], shape: Shape) -> float:
            with torch.device(device):  # meta where shapes are all it takes
                return cost(make().eval(), shape)

        size = (input_size, input_size) if isinstance(input_size, int) else tuple(input_size)
        parts = [_stem_part(space, cost_of, size, dtype)]
        size = _halved(_halved(size))
        for stage in range(STAGES):
            parts += _stage_parts(space, stage, _BlockCosts(space, stage, cost_of, size), dtype)
            size = _halved(size) if space.stage_strides[stage] == 2 else size
        if head is not None:
            widths = range(len(space.widths))
            costs = np.array([head(space.stage_width(STAGES - 1, width)) for width in widths], dtype=dtype)
            parts.append(_Part((space.width_columns.stop - 1,), (len(widths),), costs))
        return CostTable(space, parts)


def _halved(size: tuple[int, int]) -> tuple[int, int]:
    return (size[0] + 1) // 2, (size[1] + 1) // 2


def _stem_part(space: OFAResNetSpace, cost_of: CostOf, size: tuple[int, int], dtype: type) -> _Part:
    widths = range(len(space.widths))
    costs = np.zeros((2, len(widths), len(widths)), dtype=dtype)
    for skip, middle, width in np.ndindex(costs.shape):
        if all(index in allowed for index, allowed in zip((skip, middle, width), space.choices, strict=False)):
            make = partial(Stem, PLAIN, space.stem_middle(middle), space.stem_out(width), residual=not skip)
            costs[skip, middle, width] = cost_of(make, (3, *size))
    return _Part((0, 1, 2), costs.shape, costs.ravel())


class _BlockCosts:
    """Costs of the blocks of one stage, each different block asked for once."""

    def __init__(self, space: OFAResNetSpace, stage: int, cost_of: CostOf, size: tuple[int, int]) -> None:
        self.space, self.stage, self.cost_of, self.size = space, stage, cost_of, size
        self.stride = space.stage_strides[stage]
        self.known: dict[tuple[int, ...], float] = {}

    def first(self, before: int, width: int, expand: int) -> float:
        """The block that opens the stage; `before`: index of the width choice of what comes in."""
        space = self.space
        channels = space.stage_width(self.stage - 1, before) if self.stage else space.stem_out(before)
        return self._ask(channels, width, expand, self.size, self.stride, True)

    def later(self, width: int, expand: int) -> float:
        """Any further block of the stage."""
        size = _halved(self.size) if self.stride == 2 else self.size
        return self._ask(self.space.stage_width(self.stage, width), width, expand, size, 1, False)

    def _ask(self, channels: int, width: int, expand: int, size: tuple[int, int], stride: int, first: bool) -> float:
        out = self.space.stage_width(self.stage, width)
        key = (channels, self.space.middle_width(self.stage, width, expand), out, stride, first)
        if key not in self.known:
            make = partial(Bottleneck, PLAIN, *key[:3], stride=stride, project=first)
            self.known[key] = self.cost_of(make, (channels, *size))
        return self.known[key]


def _stage_parts(space: OFAResNetSpace, stage: int, blocks: _BlockCosts, dtype: type) -> Iterator[_Part]:
    """The whole stage as one part where its table is small enough, else a part a layer."""
    widths, depths, expands = len(space.widths), len(space.depths), len(space.expands)
    before = space.width_columns.start + stage - 1 if stage else 2  # the column of the width that comes in
    depth_column, width_column = space.depth_columns.start + stage, space.width_columns.start + stage
    layers = np.flatnonzero(space.layer_stage == stage) + space.expand_columns.start
    opening = np.array(
        [[[blocks.first(b, w, e) for e in range(expands)] for w in range(widths)] for b in range(widths)], dtype=dtype
    )  # (width before, width, expand)
    further = np.array([[blocks.later(w, e) for e in range(expands)] for w in range(widths)], dtype=dtype)
    # (layer, depth choice): whether the depth keeps the layer
    kept = np.arange(len(layers))[:, None] < space.base_depths[stage] + np.array(space.depths)

    counts = (widths, widths, depths, *[expands] * len(layers))
    if prod(counts) <= LARGEST_TABLE:
        axes = len(counts)
        costs = np.zeros(counts, dtype=dtype)
        costs += opening.reshape(widths, widths, 1, expands, *[1] * (axes - 4))
        for index in range(1, len(layers)):
            term = further[:, None, :] * kept[index][None, :, None]  # (width, depth, expand)
            costs += term.reshape(1, widths, depths, *[expands if i == index else 1 for i in range(len(layers))])
        yield _Part((before, width_column, depth_column, *layers.tolist()), counts, costs.ravel())
        return
    yield _Part((before, width_column, int(layers[0])), opening.shape, opening.ravel())
    for index in range(1, len(layers)):
        term = further[:, None, :] * kept[index][None, :, None]
        yield _Part((width_column, depth_column, int(layers[index])), term.shape, term.ravel())
