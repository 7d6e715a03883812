"""Non-maximum suppression of whole batches with results of fixed size."""

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from common.batch import Detections
from common.models.boxes import pairwise_iou
from common.models.matching import rows_at

# How often the fixed-size suppression passes over the boxes; see `_by_fixed_point`.
ROUNDS = 32


@torch.no_grad()
def suppress(boxes: Tensor, valid: Tensor, threshold: float, groups: Tensor | None = None) -> Tensor:
    """Which boxes to keep: (B, N) bool, for boxes (B, N, 4) sorted best first, valid (B, N).

    A box goes where a better one that stays, of the same image and group (B, N; None means one group), overlaps it by
    an IoU over `threshold`. On a CPU torchvision decides; elsewhere shapes are fixed and nothing waits for the device.
    A program that `torch.export` writes down holds it as one step, `suppress_step`; so does one on the meta device.
    """
    if torch.compiler.is_exporting() or boxes.is_meta:
        return suppress_step(boxes, valid, threshold, groups)
    if boxes.device.type == "cpu":
        return _by_torchvision(boxes, valid, threshold, groups)
    return _by_fixed_point(boxes, valid, threshold, groups)


def _by_torchvision(boxes: Tensor, valid: Tensor, threshold: float, groups: Tensor | None) -> Tensor:
    """Image by image, since torchvision compares each box with all. Groups are moved apart, in float64 so that no
    precision is lost."""
    B, N = valid.shape  # batch, boxes an image
    rows = valid.flatten().nonzero().squeeze(1)
    apart = boxes.flatten(0, 1)[rows]
    if groups is not None and len(rows):
        apart = apart.double() - apart.min()
        apart += (groups.flatten()[rows] * (apart.max() + 1)).unsqueeze(1)
    counts = valid.sum(dim=1).tolist()
    rank = torch.arange(N, 0, -1, dtype=apart.dtype, device=boxes.device)
    kept = [
        mine[torchvision.ops.nms(each, rank[: len(mine)], threshold)]
        for mine, each in zip(rows.split(counts), apart.split(counts), strict=True)
    ]
    return torch.zeros(B * N, dtype=torch.bool, device=boxes.device).index_fill_(0, torch.cat(kept), True).view(B, N)


suppress_step = torch.library.custom_op("common::suppress", _by_torchvision, mutates_args=())


@suppress_step.register_fake
def _same_shape(boxes: Tensor, valid: Tensor, threshold: float, groups: Tensor | None) -> Tensor:
    """What is known of the result before any value is known."""
    return torch.empty_like(valid)


def _by_fixed_point(boxes: Tensor, valid: Tensor, threshold: float, groups: Tensor | None) -> Tensor:
    """A box stays iff no better box that stays overlaps it: that, again and again from all boxes on.

    After t rounds every box is settled whose fate depends on a chain of at most t boxes, each suppressing the next; so
    ROUNDS are enough in all but freak cases, and the work does not depend on the values.
    """
    N = boxes.shape[1]
    over = pairwise_iou(boxes, boxes) > threshold  # (B, N, N) [better, worse]
    if groups is not None:
        over &= groups.unsqueeze(2) == groups.unsqueeze(1)
    over &= torch.ones(N, N, dtype=torch.bool, device=boxes.device).triu_(1)
    keep = valid
    for _ in range(ROUNDS):
        keep = valid & ~(over & keep.unsqueeze(2)).any(dim=1)
    return keep


@torch.no_grad()
def best(scores: Tensor, valid: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` valid ones of highest score: index (B, count), best first, and valid (B, count); scores (B, N).

    Equal scores stay in their order. Fewer than `count` columns only where N is less.
    """
    scores = torch.where(valid, scores, -torch.inf)
    index = scores.topk(min(count, scores.shape[1]), dim=1, sorted=False).indices.sort(dim=1).values
    scores, order = scores.gather(1, index).sort(dim=1, descending=True, stable=True)
    return index.gather(1, order), scores > -torch.inf


@torch.no_grad()
def as_detections(boxes: Tensor, scores: Tensor, labels: Tensor, kept: Tensor, count: int) -> Detections:
    """The `count` best of those kept, padded with zeros: boxes (B, N, 4); scores, labels, kept (B, N)."""
    index, valid = best(scores, kept, count)
    padding = count - index.shape[1]
    return Detections(
        boxes=F.pad(rows_at(boxes, index) * valid.unsqueeze(-1), (0, 0, 0, padding)),
        scores=F.pad(scores.gather(1, index) * valid, (0, padding)),
        labels=F.pad(labels.gather(1, index) * valid, (0, padding)),
        valid=F.pad(valid, (0, padding)),
    )
