"""The region proposal network (Ren et al., "Faster R-CNN", 2015): where there may be an object, of whatever class."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image

from common.models.anchors import Anchors
from common.models.boxes import constant, decode, encode
from common.models.divisor import divisor
from common.models.elastic import active_weights
from common.models.matching import MatchSettings, match, rows_at, sample
from common.models.norm import Norm, convolution, draw_weights
from common.models.suppression import best, suppress

MATCH = MatchSettings(0.7, 0.3, 0.3)


@dataclass(frozen=True)
class ProposalSettings:
    """Settings that every RPN has.

    match: which anchors are positive or negative. samples, positive_share: anchors an image in the loss.
    beta: where the box loss turns from quadratic to linear.
    candidates: by score, from each level, before suppression. proposals: by score, after it; both (training, test).
    overlap: IoU beyond which suppression drops the worse box. least_side: of a proposal, in pixels.
    """

    match: MatchSettings = MATCH
    samples: int = 256
    positive_share: float = 0.5
    beta: float = 1 / 9
    candidates: tuple[int, int] = (2000, 1000)
    proposals: tuple[int, int] = (2000, 1000)
    overlap: float = 0.7
    least_side: float = 1e-3


@dataclass(frozen=True)
class RPNSettings(ProposalSettings):
    """anchors: None means one size of 8 strides on each level, or five from 2 to 32 strides on a single level."""

    anchors: Anchors | None = None

    def anchors_for(self, strides: Sequence[int]) -> Anchors:
        """The anchors on levels of such strides."""
        if self.anchors is not None:
            return self.anchors
        return Anchors.octaves(strides, 8) if len(strides) > 1 else Anchors.octaves(strides, 2, octaves=5)


@dataclass(frozen=True)
class Proposals:
    """Boxes that may hold an object, best first: boxes (B, P, 4) in pixels, valid (B, P)."""

    boxes: Tensor
    valid: Tensor


class ProposalNetwork(nn.Module):
    """What an RPN and guided anchoring share.

    strides: of the levels, in pixels. anchors: `per_cell` of them at each cell. deviations: of the box codes.
    """

    settings: ProposalSettings
    strides: tuple[int, ...]
    anchors: Anchors
    deviations: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)

    def scores(self, outputs: dict[str, Tensor]) -> Tensor:
        """What proposals are ranked by: (B, N) float32; -inf never proposes."""
        return outputs["objectness"].float()

    def at(self, maps: Sequence[Tensor], outputs: dict[str, Tensor], index: Tensor) -> tuple[Tensor, Tensor]:
        """`outputs` at the anchors of index (B, S), with a gradient: objectness (B, S), codes (B, S, 4)."""
        return outputs["objectness"].gather(1, index), rows_at(outputs["codes"], index)

    @torch.no_grad()
    def propose(self, maps: Sequence[Tensor], outputs: dict[str, Tensor], size: tuple[int, int]) -> Proposals:
        """The best boxes of `outputs`, cut at images of `size` (height, width); no gradient flows through them.

        Each level is suppressed by itself.
        """
        settings, test, found = self.settings, not self.training, []
        counts = [each.shape[-2] * each.shape[-1] * self.anchors.per_cell for each in maps]
        parts = outputs["anchors"].expand(maps[0].shape[0], -1, -1), self.scores(outputs), outputs["codes"]
        for anchors, scores, codes in zip(*(part.split(counts, dim=1) for part in parts), strict=True):
            scores, index = scores.topk(min(settings.candidates[test], scores.shape[1]), dim=1)
            boxes = clip_boxes_to_image(decode(rows_at(codes, index), rows_at(anchors, index), self.deviations), size)
            valid = (boxes[..., 2:] - boxes[..., :2] >= settings.least_side).all(dim=-1) & (scores > -torch.inf)
            found.append((boxes, scores, suppress(boxes, valid, settings.overlap)))
        boxes, scores, kept = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
        index, valid = best(scores, kept, settings.proposals[test])
        return Proposals(rows_at(boxes, index), valid)


class RPN(ProposalNetwork):
    """A 3x3 convolution, and on it for each anchor the logit of there being an object and the code of its box.

    channels: of every level. strides: of the levels, in pixels. norm: after the 3x3 convolution; None means none.

    The loss sees a few hundred anchors of many thousand, and proposals carry no gradient. So without a norm, which
    would tie a map together, the dense maps are made without a graph, and `at` computes the sampled anchors once more
    with one. The backward pass of the convolution shrinks to their cells: an eighth of a training step's operations.
    """

    def __init__(
        self, channels: int, strides: Sequence[int], settings: RPNSettings | None = None, norm: Norm | None = None
    ) -> None:
        super().__init__()
        self.settings = settings or RPNSettings()
        self.strides, self.norm = tuple(strides), norm
        self.anchors = self.settings.anchors_for(self.strides)
        self.conv = convolution(norm, channels, channels, 3)
        self.objectness = nn.Conv2d(channels, self.anchors.per_cell, 1)
        self.codes = nn.Conv2d(channels, 4 * self.anchors.per_cell, 1)
        draw_weights(0.01, self.conv if norm is None else self.conv[0], self.objectness, self.codes)

    def forward(self, maps: Sequence[Tensor]) -> dict[str, Tensor]:
        """For maps (B, C, H_l, W_l) and N anchors, A at each cell of each level:

        anchors: (N, 4) pixels. objectness: (B, N) logits. codes: (B, N, 4) of boxes relative to the anchors.
        The latter two have a gradient only with a norm; `at` has it always.
        """
        objectness, codes = [], []
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.norm is not None):
            for each in maps:
                x = F.relu(self.conv(each))
                objectness.append(self.objectness(x).permute(0, 2, 3, 1).flatten(1))
                codes.append(self.codes(x).permute(0, 2, 3, 1).reshape(x.shape[0], -1, 4))
        if self.norm is None:
            torch.clear_autocast_cache()  # it holds copies of the weights that have no gradient, and `at` needs one
        return {
            "anchors": self.anchors.of_maps(maps, self.strides),
            "objectness": torch.cat(objectness, dim=1),
            "codes": torch.cat(codes, dim=1),
        }

    def at(self, maps: Sequence[Tensor], outputs: dict[str, Tensor], index: Tensor) -> tuple[Tensor, Tensor]:
        if self.norm is not None:
            return super().at(maps, outputs, index)
        A = self.anchors.per_cell
        cells = neighbourhoods(maps, index // A).flatten(2)  # (B, S, 9 * C)
        weight, bias = active_weights(self.conv, maps[0].shape[1])
        x = F.relu(F.linear(cells, weight.permute(0, 2, 3, 1).flatten(1), bias))
        objectness, codes = (
            F.linear(x, weight.flatten(1), bias)
            for weight, bias in (active_weights(layer, x.shape[-1]) for layer in (self.objectness, self.codes))
        )  # (B, S, A), (B, S, 4 * A)
        codes = codes.unflatten(-1, (A, 4))
        within = (index % A).unsqueeze(-1)  # (B, S, 1)
        codes = codes.gather(2, within.unsqueeze(-1).expand(-1, -1, 1, 4))
        return objectness.gather(2, within).squeeze(2), codes.squeeze(2)


def neighbourhoods(maps: Sequence[Tensor], cell: Tensor) -> Tensor:
    """(B, S, 9, C) the 3x3 cells round each cell (B, S), row by row, zero beyond a map's edge.

    Cells are counted through all maps (B, C, H_l, W_l) of an image: level by level, row by row.
    """
    B = len(cell)
    tables, facts, first_cell, first_row = [], [], 0, 0
    for each in maps:
        C, H, W = each.shape[1:]  # channels, height, width
        tables.append(F.pad(each, (1, 1, 1, 1)).permute(0, 2, 3, 1).reshape(-1, C))
        facts.append((first_cell, first_row, W, (H + 2) * (W + 2)))
        first_cell, first_row = first_cell + H * W, first_row + B * (H + 2) * (W + 2)
    starts = constant(tuple(start for start, *_ in facts[1:]), torch.int64, cell.device)
    level = torch.bucketize(cell, starts, right=True)
    start, row, W, rows = constant(tuple(facts), torch.int64, cell.device)[level].unbind(-1)  # each (B, S)
    y, x = (cell - start) // W, (cell - start) % W
    corner = row + torch.arange(B, device=cell.device).unsqueeze(1) * rows + y * (W + 2) + x  # upper left, padded
    step = torch.arange(3, device=cell.device)
    around = corner.view(B, -1, 1, 1) + step.view(3, 1) * (W + 2).view(B, -1, 1, 1) + step  # (B, S, 3, 3)
    return F.embedding(around.flatten(2), torch.cat(tables))


def rpn_losses(
    rpn: ProposalNetwork,
    maps: Sequence[Tensor],
    outputs: dict[str, Tensor],
    boxes: Tensor,
    valid: Tensor,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Losses of an RPN's `outputs` for `maps` on objects (B, G, 4), valid (B, G), on a sample of the anchors.

    rpn_objectness: mean binary cross-entropy. rpn_box: smooth L1 of the positives' codes, over the sample's size.
    """
    anchors, settings = outputs["anchors"], rpn.settings
    matches = match(anchors, boxes, valid, settings.match)
    drawn = sample(matches.state, settings.samples, settings.positive_share, generator)
    logits, codes = rpn.at(maps, outputs, drawn.index)
    anchors = rows_at(anchors.expand(len(boxes), -1, -1), drawn.index)
    target = encode(rows_at(boxes, matches.target.gather(1, drawn.index)), anchors, rpn.deviations)
    count = divisor(drawn.valid.sum())
    objectness = F.binary_cross_entropy_with_logits(logits.float(), drawn.positive.float(), reduction="none")
    distance = F.smooth_l1_loss(codes.float(), target, beta=settings.beta, reduction="none").sum(dim=-1)
    return {
        "rpn_objectness": (objectness * drawn.valid).sum() / count,
        "rpn_box": (distance * drawn.positive).sum() / count,
    }
