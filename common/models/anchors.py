"""Reference boxes at every cell of every level of a pyramid."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from common.models.boxes import pairwise_iou


@dataclass(frozen=True)
class Anchors:
    """sizes: for each level the sides in pixels of its square anchors. ratios: height by width; each keeps the area.

    rounded: as torchvision has them. Corners are whole pixels, and the cells of a level lie the image's side divided by
    the level's apart, cut to whole pixels: less than the stride where the level reaches past the image.
    """

    sizes: tuple[tuple[float, ...], ...]
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    rounded: bool = False

    @staticmethod
    def octaves(strides: Sequence[int], base: float, count: int = 1, octaves: int = 1) -> "Anchors":
        """Sizes from base * stride on, `count` an octave: one from 8 strides in an RPN, three from 4 in RetinaNet."""
        steps = [2 ** (step / count) for step in range(count * octaves)]
        return Anchors(tuple(tuple(stride * base * step for step in steps) for stride in strides))

    @property
    def per_cell(self) -> int:
        """How many there are at each cell, on every level."""
        return len(self.sizes[0]) * len(self.ratios)

    def cell(self, level: int) -> Tensor:
        """(A, 4) float32 anchors of a cell of that level (from 0), centred at 0; ratio by ratio, sizes inside."""
        size = torch.tensor(self.sizes[level])
        root = torch.tensor(self.ratios).sqrt().unsqueeze(1)
        half_width, half_height = (size / root).flatten() / 2, (size * root).flatten() / 2
        corners = torch.stack([-half_width, -half_height, half_width, half_height], dim=1)
        return corners.round() if self.rounded else corners

    def of_maps(self, maps: Sequence[Tensor], strides: Sequence[int]) -> Tensor:
        """(N, 4) float32 anchors in pixels of maps (B, C, H_l, W_l): level by level, row by row, then within a cell.

        The anchors of row y and column x are centred at (x * stride, y * stride), except when `rounded`. They are
        cached: do not change them.
        """
        shapes = tuple(tuple(each.shape[-2:]) for each in maps)
        steps = tuple((stride, stride) for stride in strides)
        if self.rounded:
            height, width = (cells * strides[0] for cells in shapes[0])  # of the image
            steps = tuple((height // rows, width // columns) for rows, columns in shapes)
        return _grid(self, shapes, steps, maps[0].device)


def unreached(
    boxes: Tensor, anchors: Anchors, strides: Sequence[int], size: tuple[int, int], least: float = 0.3
) -> Tensor:
    """(N,) bool, which of the objects can never have a positive anchor: none overlaps them by an IoU of `least`.

    boxes: (N, 4) pixels of a canvas of `size`, width and height; what has no area is unreached. strides: of the levels.
    least: an RPN's `MatchSettings.least_of_best`, from which the anchors that fit an object best are positive.
    Not for `rounded` anchors.
    """
    sides = torch.tensor(size)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2  # (N, 2)
    best = torch.zeros(len(boxes))
    for level, stride in enumerate(strides):
        last = -(-sides // stride) - 1  # column and row
        # In x and in y alike, an anchor overlaps a box the more, the nearer their centres: one cell a level decides.
        nearest = torch.minimum((centres / stride).round().clamp(min=0), last) * stride
        placed = nearest.repeat(1, 2).unsqueeze(1) + anchors.cell(level)  # (N, A, 4)
        best = torch.maximum(best, pairwise_iou(placed, boxes.unsqueeze(1)).amax(dim=(1, 2)))
    return best < least


@lru_cache(maxsize=32)
def _grid(
    anchors: Anchors, shapes: tuple[tuple[int, int], ...], steps: tuple[tuple[int, int], ...], device: torch.device
) -> Tensor:
    """shapes, steps: of each level the rows and columns, and the pixels from one to the next."""
    with torch.inference_mode(False), torch.device("cpu"):  # cached: usable in training whoever asks for them first
        levels = []
        for level, ((rows, columns), (down, right)) in enumerate(zip(shapes, steps, strict=True)):
            y, x = torch.meshgrid(torch.arange(rows) * down, torch.arange(columns) * right, indexing="ij")
            centres = torch.stack([x, y, x, y], dim=-1).view(-1, 1, 4)  # (H * W, 1, 4)
            levels.append((centres + anchors.cell(level)).flatten(0, 1))
        return torch.cat(levels).to(device)
