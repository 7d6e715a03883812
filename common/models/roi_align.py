"""RoIAlign (He et al., "Mask R-CNN", 2017) of a whole batch over all levels at once.

A bin is the mean of samples, a sample the mean of four cells: so each bin is a weighted sum of rows of one table that
holds every cell of every level, a row a cell. That is an embedding bag, which reads whole rows of channels where
torchvision's CPU kernel hops from channel to channel: on one core 11 times as fast forward. Its gradient is the product
with the transposed weights, with no race between bins that share a cell: on a CPU as a sparse matrix, elsewhere as
another embedding bag, over the same pairs sorted by cell.

The values are torchvision's `roi_align` with `aligned=False`, up to rounding.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from common.models.boxes import area, constant

CANONICAL_SIDE, CANONICAL_STRIDE = 224.0, 16  # a region of 224x224 pixels is read from the level of stride 16


def roi_levels(boxes: Tensor, strides: Sequence[int], canonical_side: float = CANONICAL_SIDE) -> Tensor:
    """Which of the levels each region (..., 4) is read from, 0..len(strides)-1; FPN paper, equation 1."""
    side = area(boxes).clamp(min=0).sqrt()
    octave = torch.floor(torch.log2(side / canonical_side) + 1e-6)
    level = octave + (CANONICAL_STRIDE.bit_length() - strides[0].bit_length())
    return level.clamp(0, len(strides) - 1).long()


def roi_align(
    maps: Sequence[Tensor],
    strides: Sequence[int],
    boxes: Tensor,
    bins: int = 7,
    samples: int = 2,
    canonical_side: float = CANONICAL_SIDE,
) -> Tensor:
    """(B, R, bins * bins, C) float32: mean features in a grid of bins over each region; bins row by row.

    maps: (B, C, H_l, W_l), of strides that double from level to level. boxes: (B, R, 4) in pixels. samples: points a
    bin and axis. canonical_side: of the regions that are read from stride 16. Gradients reach the maps, not the boxes.
    """
    boxes = boxes.detach().float().nan_to_num()  # a network that has diverged must not read beyond the table
    level = roi_levels(boxes, strides, canonical_side)  # (B, R)
    cells, weights = _pairs([each.shape[-2:] for each in maps], strides, boxes, level, bins, samples)
    table = torch.cat([each.permute(0, 2, 3, 1).flatten(0, 2).float() for each in maps])  # (cells, C)
    B, R = boxes.shape[:2]  # batch, regions an image
    sums = weighted_sums_step if torch.compiler.is_exporting() else _WeightedSums.apply
    return sums(table, cells, weights).view(B, R, bins * bins, table.shape[1])


def _pairs(
    shapes: Sequence[tuple[int, int]], strides: Sequence[int], boxes: Tensor, level: Tensor, bins: int, samples: int
) -> tuple[Tensor, Tensor]:
    """For each bin of each region the cells it takes, int32 rows of the table, and their weights: (bins, cells)."""
    B, R, _ = boxes.shape
    # Of each level: stride, rows, columns, where it begins in the table of one image, cells an image.
    facts, start = [], 0
    for (rows, columns), stride in zip(shapes, strides, strict=True):
        facts.append((stride, rows, columns, start, rows * columns))
        start += rows * columns
    facts = constant(tuple(facts), torch.int32, boxes.device)[level]
    stride, rows, columns, start, count = facts.unbind(-1)  # each (B, R)
    image = torch.arange(B, dtype=torch.int32, device=boxes.device)
    first = start * B + image.unsqueeze(1) * count  # the image's first cell at that level

    boxes = boxes / stride.unsqueeze(-1)
    y, y_weight = _axis(boxes[..., 1], boxes[..., 3], rows, bins, samples)  # (B, R, bins, 2 * samples)
    x, x_weight = _axis(boxes[..., 0], boxes[..., 2], columns, bins, samples)
    row = first.view(B, R, 1, 1) + y * columns.view(B, R, 1, 1)
    taken = (2 * samples) ** 2
    cells = torch.add(*_crossed(row, x)).view(-1, taken)
    return cells, torch.mul(*_crossed(y_weight, x_weight)).view(-1, taken)


def _crossed(y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """What two axes (B, R, bins, taken) give for each cell of each bin, to be joined: (B, R, bins, bins, taken**2).

    The last dimension is written out before, since to broadcast over a few numbers is slow.
    """
    taken = y.shape[-1]
    y = y.unsqueeze(-1).expand(-1, -1, -1, -1, taken).flatten(3)
    x = x.unsqueeze(-2).expand(-1, -1, -1, taken, -1).flatten(3)
    return y.unsqueeze(3), x.unsqueeze(2)


def _axis(begin: Tensor, end: Tensor, length: Tensor, bins: int, samples: int) -> tuple[Tensor, Tensor]:
    """Along one axis the cells (B, R, bins, 2 * samples) that each bin takes, int32, and their weights.

    begin, end: (B, R) of regions, in cells; a region is at least one cell long. length: (B, R) cells of the map.
    """
    B, R = begin.shape
    size = (end - begin).clamp(min=1) / bins
    steps = (torch.arange(bins * samples, device=begin.device) + 0.5) / samples  # of all samples, in bins
    at = begin.unsqueeze(-1) + steps * size.unsqueeze(-1)  # (B, R, bins * samples)
    last = (length - 1).unsqueeze(-1)
    inside = (at >= -1) & (at <= last + 1)  # a sample farther out is nothing
    at = torch.minimum(at.clamp(min=0), last)
    low = torch.minimum(at.int(), last)
    upper = at - low
    cells = torch.stack([low, torch.minimum(low + 1, last)], dim=-1)
    weights = torch.stack([1 - upper, upper], dim=-1) * (inside / samples).unsqueeze(-1)
    return cells.view(B, R, bins, 2 * samples), weights.view(B, R, bins, 2 * samples)


@torch.library.custom_op("common::weighted_sums", mutates_args=())
def weighted_sums_step(table: Tensor, cells: Tensor, weights: Tensor) -> Tensor:
    """`_WeightedSums` as one step of a program that `torch.export` writes down."""
    return F.embedding_bag(cells, table, mode="sum", per_sample_weights=weights)


@weighted_sums_step.register_fake
def _one_row_a_bag(table: Tensor, cells: Tensor, weights: Tensor) -> Tensor:
    """What is known of the result before any value is known."""
    return table.new_empty(cells.shape[0], table.shape[1])


class _WeightedSums(torch.autograd.Function):
    """Rows of a table (N, C) summed up with weights, by cells (M, T): (M, C). The gradient is that of the table."""

    @staticmethod
    def forward(ctx, table: Tensor, cells: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(cells, weights)
        ctx.rows = len(table)
        return F.embedding_bag(cells, table, mode="sum", per_sample_weights=weights)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        transposed = _transposed_on_cpu if gradient.device.type == "cpu" else _transposed
        return transposed(*ctx.saved_tensors, gradient.contiguous(), ctx.rows), None, None


def _transposed_on_cpu(cells: Tensor, weights: Tensor, gradient: Tensor, rows: int) -> Tensor:
    """`_transposed` without sorting: a third of the time on one core."""
    from scipy import sparse  # takes a third of a second

    begins = np.arange(0, cells.numel() + 1, cells.shape[1], dtype=np.int32)
    entries = weights.flatten().numpy(), cells.flatten().numpy(), begins
    matrix = sparse.csr_array(entries, shape=(len(cells), rows))
    return torch.from_numpy(matrix.T @ gradient.numpy())


def _transposed(cells: Tensor, weights: Tensor, gradient: Tensor, rows: int) -> Tensor:
    """Rows of a gradient (M, C) summed up with weights, each into the cells (M, T) that it was made of: (rows, C)."""
    cell, order = cells.flatten().sort()
    offsets = torch.searchsorted(cell, torch.arange(rows, device=cell.device, dtype=torch.int32), out_int32=True)
    bag = order.div(cells.shape[1], rounding_mode="floor").to(torch.int32)
    weights = weights.flatten().index_select(0, order)
    return F.embedding_bag(bag, gradient, offsets, mode="sum", per_sample_weights=weights)
