"""Boxes, xyxy in pixels: overlap, and their codes relative to a reference box."""

import math
from functools import lru_cache

import torch
from torch import Tensor

# The most by which a network may enlarge its reference box: beyond it exp() of a stray prediction could overflow.
GREATEST_ENLARGEMENT = math.log(1000 / 16)


@lru_cache(maxsize=256)
def constant(values: tuple, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers as a tensor, made once: copying them to a device would wait for it at each step. Do not change it."""
    with torch.inference_mode(False):  # usable in training whoever asks for it first
        return torch.tensor(values, dtype=dtype, device=device)


def area(boxes: Tensor) -> Tensor:
    """Pixels covered by boxes (..., 4): (...)."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of each pair: (..., N, 4), (..., M, 4) -> (..., N, M); 0 where both have no area."""
    first, second = first.unsqueeze(-2), second.unsqueeze(-3)
    # Coordinate by coordinate: (..., N, M) tensors instead of (..., N, M, 2), which are slow to reduce.
    width = torch.minimum(first[..., 2], second[..., 2]) - torch.maximum(first[..., 0], second[..., 0])
    height = torch.minimum(first[..., 3], second[..., 3]) - torch.maximum(first[..., 1], second[..., 1])
    intersection = width.clamp_(min=0) * height.clamp_(min=0)
    union = (area(first) + area(second)).sub_(intersection)
    return intersection / union.clamp_(min=torch.finfo(union.dtype).tiny)


def encode(boxes: Tensor, references: Tensor, deviations: tuple[float, float, float, float]) -> Tensor:
    """Centre and size of boxes relative to references, both (..., 4): (dx, dy, dw, dh) (..., 4).

    Shifts in units of the reference's size, sizes as logarithms of the ratio (R-CNN, appendix C), divided by
    `deviations`, so that they have about unit deviation over a data set. Where either box has no area the code is
    finite but means nothing: such a pair must be masked.
    """
    (x, y, width, height), (x0, y0, width0, height0) = _centre_and_size(boxes), _centre_and_size(references)
    least = torch.finfo(width.dtype).eps
    width, height, width0, height0 = (side.clamp(min=least) for side in (width, height, width0, height0))
    shift = (x - x0) / width0, (y - y0) / height0
    codes = torch.stack([*shift, (width / width0).log(), (height / height0).log()], dim=-1)
    return codes / constant(deviations, codes.dtype, codes.device)


def decode(codes: Tensor, references: Tensor, deviations: tuple[float, float, float, float]) -> Tensor:
    """The boxes (..., 4) that codes (..., 4) describe relative to references (..., 4); shapes may broadcast."""
    x0, y0, width0, height0 = _centre_and_size(references)
    dx, dy, dw, dh = (codes.float() * constant(deviations, torch.float32, codes.device)).unbind(dim=-1)
    x, y = dx * width0 + x0, dy * height0 + y0
    half_width = 0.5 * width0 * dw.clamp(max=GREATEST_ENLARGEMENT).exp()
    half_height = 0.5 * height0 * dh.clamp(max=GREATEST_ENLARGEMENT).exp()
    return torch.stack([x - half_width, y - half_height, x + half_width, y + half_height], dim=-1)


def _centre_and_size(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    left, top, right, bottom = boxes.unbind(dim=-1)
    width, height = right - left, bottom - top
    return left + 0.5 * width, top + 0.5 * height, width, height
