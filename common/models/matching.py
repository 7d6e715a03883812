"""Which object each reference box belongs to, and which of them a loss looks at; whole batches, fixed sizes.

Nothing here waits for the device: a sample is drawn by sorting random keys, and has its full size even where there are
too few candidates; `valid` tells which rows count.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

from common.batch import Batch
from common.models.boxes import pairwise_iou

POSITIVE, NEGATIVE, IGNORED = 1, 0, -1


@dataclass(frozen=True)
class MatchSettings:
    """Overlaps (IoU) that make a reference box positive (at least) or negative (less); between them it is ignored.

    least_of_best: the reference boxes that fit an object best, ties included, are positive from this overlap on, even
    below `positive`; None means that they are treated like all others. With 0 they must still overlap.
    """

    positive: float
    negative: float
    least_of_best: float | None = None


@dataclass(frozen=True)
class Matches:
    """state: (B, N) int8, POSITIVE, NEGATIVE or IGNORED. target: (B, N) int64 the object of greatest overlap, 0..G-1;
    only where positive does it mean anything."""

    state: Tensor
    target: Tensor


@torch.no_grad()
def match(references: Tensor, boxes: Tensor, valid: Tensor, settings: MatchSettings, group: int = 1) -> Matches:
    """References (N, 4) or (B, N, 4) against objects (B, G, 4), valid (B, G), G >= 1.

    group: this many references in a row count as one, which overlaps an object as the best of them does; N then counts
    groups. An image without objects has negatives only. The rules are torchvision's, except that objects that no
    reference box touches match nothing here.
    """
    overlaps = pairwise_iou(boxes, references)  # (B, G, N)
    if group > 1:
        overlaps = overlaps.unflatten(2, (-1, group)).amax(dim=3)
    overlaps = torch.where(valid.unsqueeze(-1), overlaps, -1.0)
    overlap, target = overlaps.max(dim=1)  # (B, N)
    state = torch.full_like(target, IGNORED, dtype=torch.int8)
    state[overlap < settings.negative] = NEGATIVE
    state[overlap >= settings.positive] = POSITIVE
    if settings.least_of_best is not None:
        best = overlaps.amax(dim=2, keepdim=True)  # (B, G, 1)
        best = torch.where((best > 0) & (best >= settings.least_of_best), best, 2.0)  # 2: no overlap equals it
        state[(overlaps == best).any(dim=1)] = POSITIVE
    return Matches(state, target)


@dataclass(frozen=True)
class _Sample:
    """index: (B, S) int64 into the N references, each at most once. positive, valid: (B, S) bool.

    Positives come first, then negatives, then rows that are not valid: neither, where there were too few.
    """

    index: Tensor
    positive: Tensor
    valid: Tensor


@torch.no_grad()
def sample(state: Tensor, count: int, positive_share: float, generator: torch.Generator | None = None) -> _Sample:
    """Draw `count` references an image at random: at most that share positive, the rest negative; state: (B, N).

    Fewer rows than `count` only where N is less. An image's draw depends on its place in the batch of all processes.
    """
    B, N = state.shape
    most, count = min(int(count * positive_share), N), min(count, N)
    several = dist.is_available() and dist.is_initialized()
    first, whole = (dist.get_rank() * B, dist.get_world_size() * B) if several else (0, B)
    keys = torch.rand(whole, N, device=state.device, generator=generator)[first : first + B]  # (B, N) in [0, 1)
    positive = state == POSITIVE
    chosen = torch.where(positive, keys, -1.0).topk(most, dim=1).indices
    chosen = torch.zeros_like(positive).scatter_(1, chosen, True) & positive
    # Three ranges of keys, one above the other: chosen positives, negatives, all that must not be drawn.
    keys += chosen * 2.0 + (state == NEGATIVE) * 1.0
    index = keys.topk(count, dim=1).indices
    return _Sample(index, chosen.gather(1, index), (chosen | (state == NEGATIVE)).gather(1, index))


def rows_at(values: Tensor, index: Tensor) -> Tensor:
    """Rows of values (B, N, ...) by index (B, S): (B, S, ...)."""
    rows = index.view(*index.shape, *(1,) * (values.dim() - 2))
    return values.gather(1, rows.expand(*index.shape, *values.shape[2:]))


def visible_objects(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (B, G, 4) cut at the image, labels (B, G), valid (B, G); what then has no area is not valid. G >= 1."""
    boxes = clip_boxes_to_image(batch.boxes.float(), batch.images.shape[-2:])
    valid = batch.valid & (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)
    labels = batch.labels * valid
    if valid.shape[1] == 0:  # one that is not there, so that there is something to index
        boxes, labels, valid = F.pad(boxes, (0, 0, 0, 1)), F.pad(labels, (0, 1)), F.pad(valid, (0, 1))
    return boxes, labels, valid
