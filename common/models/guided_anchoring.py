"""Region proposals by guided anchoring (Wang et al., "Region Proposal by Guided Anchoring", 2019).

Where an anchor should be and what shape it should have is predicted at each cell, one anchor a cell; features are then
adapted to that shape by a deformable convolution, and the usual RPN outputs follow. Weights and codes of the losses are
those of the authors' released code.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from common.models.anchors import Anchors
from common.models.boxes import area, constant, decode
from common.models.deformable import OffsetConv2d
from common.models.divisor import divisor
from common.models.matching import match, rows_at, sample
from common.models.norm import draw_weights
from common.models.rpn import ProposalNetwork, ProposalSettings, rpn_losses

SHAPE_DEVIATIONS = (0.07, 0.07, 0.14, 0.14)
OFFSET_GROUPS = 4  # channels of the deformable convolution that share their offsets
LOCATION_PRIOR = 0.01
CELLS_A_LOCATION = 200  # the location loss is divided by the number of cells over this
ELSEWHERE = 0.1  # the weight of cells that are no location; what is likely enough to propose goes with it


@dataclass(frozen=True)
class GuidedSettings(ProposalSettings):
    """base: side of the square that shapes start from, in strides. fixed: the anchors by which cells are matched for
    the shape loss; None means three sizes an octave from the square on.

    centre, ignore: shares of an object's sides inside which a cell is a location, or is left out of the loss.
    least_location: probability from which a cell proposes. shape_beta: where the bounded IoU loss turns linear.
    The other fields: see `ProposalSettings`.
    """

    base: float = 8
    fixed: Anchors | None = None
    centre: float = 0.2
    ignore: float = 0.5
    least_location: float = 0.01
    shape_beta: float = 0.2
    beta: float = 1.0
    proposals: tuple[int, int] = (300, 300)


class GuidedRPN(ProposalNetwork):
    """channels: of every level. strides: of the levels, in pixels."""

    deviations = (0.07, 0.07, 0.11, 0.11)

    def __init__(self, channels: int, strides: Sequence[int], settings: GuidedSettings | None = None) -> None:
        super().__init__()
        self.settings = settings or GuidedSettings()
        self.strides = tuple(strides)
        self.anchors = Anchors(tuple((stride * self.settings.base,) for stride in strides), ratios=(1.0,))
        self.fixed = self.settings.fixed or Anchors.octaves(strides, self.settings.base, 3)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.location = nn.Conv2d(channels, 1, 1)
        self.shape = nn.Conv2d(channels, 2, 1)
        groups = OFFSET_GROUPS if channels % OFFSET_GROUPS == 0 else 1
        self.offset = nn.Conv2d(2, groups * 2 * 9, 1, bias=False)
        self.adapt = OffsetConv2d(channels, channels, 3, padding=1, bias=False)
        self.objectness = nn.Conv2d(channels, 1, 1)
        self.codes = nn.Conv2d(channels, 4, 1)
        draw_weights(0.01, self.conv, self.location, self.shape, self.adapt, self.objectness, self.codes)
        draw_weights(0.1, self.offset)
        nn.init.constant_(self.location.bias, -math.log((1 - LOCATION_PRIOR) / LOCATION_PRIOR))

    def forward(self, maps: Sequence[Tensor]) -> dict[str, Tensor]:
        """For maps (B, C, H_l, W_l) with N cells in all: location, objectness: (B, N) logits; shape: (B, N, 2) log
        width and height against the square, by deviation; codes: (B, N, 4) relative to the guided anchors;
        anchors: (B, N, 4) pixels, the guided ones, without a gradient; squares: (N, 4)."""
        said: dict[str, list[Tensor]] = {"location": [], "shape": [], "objectness": [], "codes": []}
        for each in maps:
            x = F.relu(self.conv(each))
            shape = self.shape(x)
            adapted = F.relu(self.adapt(x, self.offset(shape.detach())))
            parts = self.location(x), shape, self.objectness(adapted), self.codes(adapted)
            for name, part in zip(said, parts, strict=True):
                said[name].append(part.permute(0, 2, 3, 1).flatten(1, 2))  # (B, H * W, 1, 2 or 4)
        outputs = {name: torch.cat(parts, dim=1) for name, parts in said.items()}
        squares = self.anchors.of_maps(maps, self.strides)
        outputs["location"] = outputs["location"].squeeze(-1)
        outputs["objectness"] = outputs["objectness"].squeeze(-1)
        return {**outputs, "squares": squares, "anchors": shaped(outputs["shape"].detach(), squares)}

    def scores(self, outputs: dict[str, Tensor]) -> Tensor:
        """As in an RPN; in testing only likely locations propose."""
        scores = super().scores(outputs)
        if self.training:
            return scores
        likely = outputs["location"].float().sigmoid() >= self.settings.least_location
        return torch.where(likely, scores, -torch.inf)


def shaped(shape: Tensor, squares: Tensor) -> Tensor:
    """The anchors (B, N, 4) of `shape` (B, N, 2) round the centres of squares (N, 4)."""
    return decode(torch.cat([torch.zeros_like(shape), shape], dim=-1), squares, SHAPE_DEVIATIONS)


def guided_rpn_losses(
    rpn: GuidedRPN,
    maps: Sequence[Tensor],
    outputs: dict[str, Tensor],
    boxes: Tensor,
    valid: Tensor,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Losses on objects (B, G, 4), valid (B, G): rpn_location, focal, over a 200th of all cells; rpn_shape, bounded
    IoU of a sample's positive cells, over its size; rpn_objectness and rpn_box on the guided anchors, as in an RPN."""
    settings = rpn.settings
    location, weight = location_targets(maps, rpn.strides, boxes, valid, settings)
    focal = torchvision.ops.sigmoid_focal_loss(outputs["location"].float(), location.float())
    losses = {"rpn_location": (focal * weight).sum() * CELLS_A_LOCATION / location.numel()}

    # a cell overlaps an object as the best of its fixed anchors does
    cells = match(rpn.fixed.of_maps(maps, rpn.strides), boxes, valid, settings.match, group=rpn.fixed.per_cell)
    drawn = sample(cells.state, settings.samples, settings.positive_share, generator)
    anchors = shaped(rows_at(outputs["shape"].float(), drawn.index), outputs["squares"][drawn.index])
    target = rows_at(boxes, cells.target.gather(1, drawn.index))
    distance = bounded_iou_loss(anchors, target, settings.shape_beta)
    losses["rpn_shape"] = (distance * drawn.positive).sum() / divisor(drawn.valid.sum())
    return losses | rpn_losses(rpn, maps, outputs, boxes, valid, generator)


@torch.no_grad()
def location_targets(
    maps: Sequence[Tensor], strides: Sequence[int], boxes: Tensor, valid: Tensor, settings: GuidedSettings
) -> tuple[Tensor, Tensor]:
    """(B, N) bool, whether a cell is a location, and float32, its weight in the loss.

    An object belongs to the level whose square fits it best. Its middle makes locations there; what surrounds that, and
    the same region on the two neighbouring levels, does not count.
    """
    side = area(boxes).clamp(min=1e-6).sqrt()
    level = (side / (settings.base * strides[0])).log2().round().clamp(0, len(strides) - 1)  # (B, G)
    located, ignored = [], []
    for index, (each, stride) in enumerate(zip(maps, strides, strict=True)):
        middle = _cells_inside(boxes, settings.centre, stride, each.shape[-2:])  # (B, G, H * W)
        around = _cells_inside(boxes, settings.ignore, stride, each.shape[-2:])
        here = (valid & (level == index)).unsqueeze(-1)
        near = (valid & ((level - index).abs() <= 1)).unsqueeze(-1)
        located.append((middle & here).any(dim=1))
        ignored.append((around & near).any(dim=1))
    location = torch.cat(located, dim=1)
    return location, torch.where(location, 1.0, torch.where(torch.cat(ignored, dim=1), 0.0, ELSEWHERE))


def _cells_inside(boxes: Tensor, share: float, stride: int, shape: tuple[int, int]) -> Tensor:
    """(B, G, H * W) bool: the cells of a map inside the middle `share` of boxes (B, G, 4), edges to whole cells."""
    cut = (1 - share) / 2
    low, high = boxes[..., :2] / stride, boxes[..., 2:] / stride
    low, high = (low + cut * (high - low)).round(), (high - cut * (high - low)).round()  # (B, G, 2)
    last = constant((shape[1] - 1, shape[0] - 1), low.dtype, low.device)
    low, high = torch.minimum(low, last), torch.minimum(high, last)  # a small object at the edge also has a location
    y, x = (torch.arange(length, device=boxes.device) for length in shape)
    rows = (y >= low[..., 1:]) & (y <= high[..., 1:])  # (B, G, H)
    columns = (x >= low[..., :1]) & (x <= high[..., :1])
    return (rows.unsqueeze(-1) & columns.unsqueeze(-2)).flatten(2)


def bounded_iou_loss(boxes: Tensor, targets: Tensor, beta: float, epsilon: float = 1e-3) -> Tensor:
    """(...) for boxes, targets (..., 4): smooth L1 of what each of centre and size alone would cost in IoU, summed up.

    Tychsen-Smith, Petersson, "Improving Object Localization with Fitness NMS and Bounded IoU Loss", 2018, section 4.
    """
    size, target_size = boxes[..., 2:] - boxes[..., :2], targets[..., 2:] - targets[..., :2]
    shift = ((targets[..., 2:] + targets[..., :2]) - (boxes[..., 2:] + boxes[..., :2])).abs()  # twice the distance
    centre = 1 - ((target_size - shift) / (target_size + shift + epsilon)).clamp(min=0)
    extent = 1 - torch.minimum(target_size / (size + epsilon), size / (target_size + epsilon))
    costs = torch.cat([centre, extent], dim=-1)
    return torch.where(costs < beta, 0.5 * costs**2 / beta, costs - 0.5 * beta).sum(dim=-1)
