"""The second stage: what lies in each region, and where exactly.

One stage is Fast R-CNN's head; several, each trained on what the one before it made better and at a higher overlap, are
Cascade R-CNN (Cai, Vasconcelos, 2018). A region's features pass two fully connected layers, or, in a detector without a
pyramid, the backbone's last stage, which all the heads then share.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image

from common.batch import Detections
from common.models.boxes import decode, encode
from common.models.divisor import divisor
from common.models.matching import IGNORED, MatchSettings, match, rows_at, sample
from common.models.norm import draw_weights
from common.models.roi_align import CANONICAL_SIDE, roi_align
from common.models.rpn import Proposals
from common.models.suppression import as_detections, best, suppress
from common.plain import InputError


@dataclass(frozen=True)
class Stage:
    """overlap: the IoU from which a region is positive. weight: of its losses. deviations: of its box codes."""

    overlap: float = 0.5
    weight: float = 1.0
    deviations: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.2)


CASCADE = (
    Stage(),
    Stage(0.6, 0.5, (0.05, 0.05, 0.1, 0.1)),
    Stage(0.7, 0.25, (0.033, 0.033, 0.067, 0.067)),
    Stage(0.8, 0.125, (0.033, 0.033, 0.067, 0.067)),
)


@dataclass(frozen=True)
class RoISettings:
    """stages: one, or the cascade's. class_specific: a box for each class, of which a cascade hands on that of the
    likeliest; else one for all, as a cascade usually has it.

    averaged: over the heads of a cascade in testing, before or after the softmax. objects_handed_on: whether an
    object's own box, moved by a head, is a region of the next one, beside the box as it is.

    samples, positive_share: regions an image and stage in the losses. beta: where the box loss turns from quadratic to
    linear. bins, points: of RoIAlign; None means 7, or 14 before a shared stage, which halves them.
    hidden: widths of the fully connected layers; none behind a shared stage.
    least_score, overlap, detections: of the result: score from which, IoU of the suppression, how many an image.
    canonical_side: of the regions, in pixels, that are read from the level of stride 16.
    candidates: pairs of region and class that go into the suppression, by score. least_side: of a detection, in pixels.
    """

    stages: tuple[Stage, ...] = (Stage(),)
    class_specific: bool = True
    averaged: Literal["logits", "probabilities"] = "logits"
    objects_handed_on: bool = False
    samples: int = 512
    positive_share: float = 0.25
    beta: float = 1.0
    bins: int | None = None
    points: int = 2
    canonical_side: float = CANONICAL_SIDE
    hidden: tuple[int, ...] = (1024, 1024)
    least_score: float = 0.05
    overlap: float = 0.5
    detections: int = 100
    candidates: int = 2000
    least_side: float = 1e-2

    def __post_init__(self) -> None:
        if not self.stages:
            raise InputError("a second stage must have at least one head, got none")

    @staticmethod
    def cascade(count: int) -> "RoISettings":
        """The settings of a cascade of 2 to 4 heads."""
        if not 2 <= count <= len(CASCADE):
            raise InputError(f"a cascade must have 2 to {len(CASCADE)} heads, got {count}")
        return RoISettings(stages=CASCADE[:count], class_specific=False)


class BoxHead(nn.Module):
    """Fully connected layers with ReLU, then logits of the classes and codes of the box.

    (M, inputs) -> logits (M, K + 1), the background last, and codes (M, K or 1, 4).
    """

    def __init__(self, inputs: int, hidden: Sequence[int], categories: int, class_specific: bool) -> None:
        super().__init__()
        self.hidden = nn.ModuleList()
        for width in hidden:
            self.hidden.append(nn.Linear(inputs, width))
            inputs = width
        self.classes = nn.Linear(inputs, categories + 1)
        self.codes = nn.Linear(inputs, 4 * (categories if class_specific else 1))
        draw_weights(0.01, self.classes)
        draw_weights(0.001, self.codes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for layer in self.hidden:
            x = F.relu(layer(x))
        return self.classes(x), self.codes(x).unflatten(-1, (-1, 4))


class RoIHead(nn.Module):
    """Features of regions, and one `BoxHead` a stage.

    channels, strides: of the levels that regions are read from. shared: the backbone's last stage, in the place of the
    fully connected layers, and shared_channels, what it puts out.
    """

    def __init__(
        self,
        channels: int,
        strides: Sequence[int],
        categories: int,
        settings: RoISettings | None = None,
        shared: nn.Module | None = None,
        shared_channels: int = 0,
    ) -> None:
        super().__init__()
        self.settings = settings or RoISettings()
        self.strides = tuple(strides)
        self.categories = categories
        self.bins = self.settings.bins or (7 if shared is None else 14)
        self.shared = shared
        inputs = self.bins**2 * channels if shared is None else shared_channels
        hidden = self.settings.hidden if shared is None else ()
        self.heads = nn.ModuleList(
            BoxHead(inputs, hidden, categories, self.settings.class_specific) for _ in self.settings.stages
        )

    def pooled(self, maps: Sequence[Tensor], boxes: Tensor) -> Tensor:
        """RoIAlign's features of regions (B, R, 4): (B, R, bins * bins, C)."""
        settings = self.settings
        levels = maps[: len(self.strides)]
        return roi_align(levels, self.strides, boxes, self.bins, settings.points, settings.canonical_side)

    def features(self, maps: Sequence[Tensor], boxes: Tensor) -> Tensor:
        """What the heads read of regions (B, R, 4): (B, R, bins * bins * C), bin by bin, or (B, R, shared_channels)."""
        pooled = self.pooled(maps, boxes)
        if self.shared is None:
            return pooled.flatten(2)
        B, R = boxes.shape[:2]
        regions = pooled.view(B * R, self.bins, self.bins, -1).permute(0, 3, 1, 2)  # channels last in memory
        return self.shared(regions).mean(dim=(2, 3)).view(B, R, -1)

    def forward(self, maps: Sequence[Tensor], boxes: Tensor, stage: int = 0) -> tuple[Tensor, Tensor]:
        """The outputs of a stage's head for regions (B, R, 4): logits (B, R, K + 1), codes (B, R, K or 1, 4)."""
        logits, codes = self.heads[stage](self.features(maps, boxes).flatten(0, 1))
        return logits.view(*boxes.shape[:2], -1), codes.view(*boxes.shape[:2], -1, 4)

    @torch.no_grad()
    def refine(self, boxes: Tensor, logits: Tensor, codes: Tensor, stage: int, size: tuple[int, int]) -> Tensor:
        """Regions (B, R, 4) moved by a stage's codes and cut at images of `size`, for the next stage.

        logits: (B, R, K + 1). codes: (B, R, K or 1, 4); of K those of the likeliest class, the background aside.
        """
        if self.settings.class_specific:
            likeliest = logits[..., :-1].argmax(dim=-1)  # (B, R)
            codes = codes.gather(2, likeliest[..., None, None].expand(-1, -1, 1, 4))
        return clip_boxes_to_image(decode(codes.squeeze(2), boxes, self.settings.stages[stage].deviations), size)

    def predict(self, maps: Sequence[Tensor], boxes: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Through all stages: probabilities (B, R, K + 1) by all of them, and the last one's codes (B, R, K or 1, 4)
        with the regions (B, R, 4) that these are relative to."""
        logits, codes = self(maps, boxes)
        said = [logits.float()]
        for stage in range(1, len(self.heads)):
            boxes = self.refine(boxes, logits, codes, stage - 1, size)
            logits, codes = self(maps, boxes, stage)
            said.append(logits.float())
        every = torch.stack(said)  # (stages, B, R, K + 1)
        if self.settings.averaged == "logits":
            return every.mean(dim=0).softmax(dim=-1), codes, boxes
        return every.softmax(dim=-1).mean(dim=0), codes, boxes

    @torch.no_grad()
    def select(
        self, probabilities: Tensor, codes: Tensor, boxes: Tensor, valid: Tensor, size: tuple[int, int]
    ) -> Detections:
        """The detections, `settings.detections` an image, of the outputs of `predict`; valid: (B, R) of the regions."""
        K, settings = self.categories, self.settings
        scores = probabilities[..., :K]
        likely = (scores > settings.least_score) & valid.unsqueeze(-1)  # (B, R, K)
        index, likely = best(scores.flatten(1), likely.flatten(1), settings.candidates)  # (B, M)
        region, label = index // K, index % K
        scores = scores.flatten(1).gather(1, index)
        if settings.class_specific:
            codes = rows_at(codes.flatten(1, 2), index)
        else:
            codes = rows_at(codes.squeeze(2), region)
        found = clip_boxes_to_image(decode(codes, rows_at(boxes, region), settings.stages[-1].deviations), size)
        likely &= (found[..., 2:] - found[..., :2] >= settings.least_side).all(dim=-1)
        kept = suppress(found, likely, settings.overlap, label)
        return as_detections(found, scores, label, kept, settings.detections)


@dataclass(frozen=True)
class Regions:
    """A sample of regions, S an image, with the targets of the heads.

    boxes, targets: (B, S, 4) the region, and the object in it. labels: (B, S) int64, K for the background.
    positive, valid, own: (B, S) bool: holds an object; counts at all; is an object's own box.
    """

    boxes: Tensor
    targets: Tensor
    labels: Tensor
    positive: Tensor
    valid: Tensor
    own: Tensor


@torch.no_grad()
def sample_regions(
    proposals: Proposals,
    objects: tuple[Tensor, Tensor, Tensor],
    overlap: float,
    categories: int,
    settings: RoISettings,
    generator: torch.Generator | None = None,
) -> Regions:
    """Draw regions from the proposals and the objects' own boxes; objects: as from `visible_objects`.

    overlap: the IoU from which a region is positive; below it is background.
    """
    boxes, labels, valid = objects
    candidates = torch.cat([proposals.boxes, boxes], dim=1)
    matches = match(candidates, boxes, valid, MatchSettings(overlap, overlap))
    state = torch.where(torch.cat([proposals.valid, valid], dim=1), matches.state, IGNORED)
    drawn = sample(state, settings.samples, settings.positive_share, generator)
    target = matches.target.gather(1, drawn.index)
    labels = torch.where(drawn.positive, labels.gather(1, target), categories)
    own = drawn.index >= proposals.boxes.shape[1]
    return Regions(rows_at(candidates, drawn.index), rows_at(boxes, target), labels, drawn.positive, drawn.valid, own)


def region_losses(logits: Tensor, codes: Tensor, regions: Regions, stage: Stage, beta: float) -> dict[str, Tensor]:
    """Losses of one head, not yet weighted: logits (B, S, K + 1), codes (B, S, K or 1, 4).

    roi_class: mean cross-entropy. roi_box: smooth L1 of the positive regions' codes, over the number of all regions.
    """
    count = divisor(regions.valid.sum())
    entropy = F.cross_entropy(logits.float().flatten(0, 1), regions.labels.flatten(), reduction="none")
    of_class = regions.labels.clamp(max=codes.shape[2] - 1)[..., None, None].expand(-1, -1, 1, 4)
    codes = codes.float().gather(2, of_class).squeeze(2)  # (B, S, 4)
    target = encode(regions.targets, regions.boxes, stage.deviations)
    distance = F.smooth_l1_loss(codes, target, beta=beta, reduction="none").sum(dim=-1)
    return {
        "roi_class": (entropy * regions.valid.flatten()).sum() / count,
        "roi_box": (distance * regions.positive).sum() / count,
    }


def roi_losses(
    head: RoIHead,
    maps: Sequence[Tensor],
    proposals: Proposals,
    objects: tuple[Tensor, Tensor, Tensor],
    size: tuple[int, int],
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Losses of all the stages on `objects` (see `visible_objects`), each weighted and summed up; names as above.

    Each stage after the first is trained on the regions of the one before as that one moved them, and on the objects'
    own boxes afresh.
    """
    total: dict[str, Tensor] = {}
    for index, stage in enumerate(head.settings.stages):
        regions = sample_regions(proposals, objects, stage.overlap, head.categories, head.settings, generator)
        logits, codes = head(maps, regions.boxes, index)
        for name, value in region_losses(logits, codes, regions, stage, head.settings.beta).items():
            total[name] = total.get(name, 0.0) + stage.weight * value
        if index + 1 < len(head.heads):
            moved = head.refine(regions.boxes, logits, codes, index, size)
            handed_on = regions.valid if head.settings.objects_handed_on else regions.valid & ~regions.own
            proposals = replace(proposals, boxes=moved, valid=handed_on)
    return total
