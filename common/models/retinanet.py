"""RetinaNet (Lin et al., "Focal Loss for Dense Object Detection", 2017): one stage, every anchor of every level.

outputs = network(batch.images)
losses = retinanet_losses(outputs, batch)       # "loss", "class" and "box"
detections = network.eval().detect(images)
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image, sigmoid_focal_loss

from common.batch import Batch, Detections
from common.models.anchors import Anchors
from common.models.boxes import decode, encode
from common.models.divisor import divisor
from common.models.fpn import FPN, NoPyramid, keep_stages
from common.models.matching import IGNORED, POSITIVE, MatchSettings, match, rows_at, visible_objects
from common.models.norm import Norm, convolution
from common.models.suppression import as_detections, best, suppress
from common.plain import InputError, from_json, to_json

DEVIATIONS = (1.0, 1.0, 1.0, 1.0)
_MATCH = MatchSettings(0.5, 0.4, 0.0)
PRIOR = 0.01  # the probability of each class at the start, so that the many empty anchors do not swamp the first steps


@dataclass(frozen=True)
class RetinaNetSettings:
    """anchors: None means three sizes an octave from 4 strides on. match: which of them are positive or negative.

    depth: 3x3 convolutions before the last, in each of the two heads. initial_deviation: the standard deviation of
    their initial weights; None means He et al.'s, by the number of inputs, since the published .01 is for 256 channels
    and lets little through where there are fewer. alpha, gamma: of the focal loss.
    candidates: pairs of anchor and class of each level that go into the suppression, by score, which must exceed
    least_score. overlap: IoU of the suppression. detections: how many an image at the most.
    """

    anchors: Anchors | None = None
    match: MatchSettings = _MATCH
    depth: int = 4
    initial_deviation: float | None = 0.01
    alpha: float = 0.25
    gamma: float = 2.0
    candidates: int = 1000
    least_score: float = 0.05
    overlap: float = 0.5
    detections: int = 100


@dataclass(frozen=True)
class RetinaNetOutputs:
    """The outputs for images of `size` (height, width) and N anchors:

    anchors (N, 4) pixels, logits (B, N, K), codes (B, N, 4). counts: the anchors of each level. settings: those that
    the losses follow.
    """

    size: tuple[int, int]
    anchors: Tensor
    logits: Tensor
    codes: Tensor
    counts: tuple[int, ...]
    settings: RetinaNetSettings


class DenseHead(nn.Module):
    """3x3 convolutions with ReLU, then one to `outputs` numbers for each anchor: maps to (B, N, outputs)."""

    def __init__(
        self, channels: int, settings: RetinaNetSettings, anchors: int, outputs: int, norm: Norm | None
    ) -> None:
        super().__init__()
        self.outputs = outputs
        first, last = partial(nn.init.kaiming_normal_, nonlinearity="relu"), partial(nn.init.normal_, std=0.01)
        if settings.initial_deviation is not None:
            first = partial(nn.init.normal_, std=settings.initial_deviation)
        self.hidden = nn.ModuleList(convolution(norm, channels, channels, 3, 1, first) for _ in range(settings.depth))
        self.last = convolution(None, channels, anchors * outputs, 3, 1, last)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        said = []
        for x in maps:
            for layer in self.hidden:
                x = F.relu(layer(x))
            said.append(self.last(x).permute(0, 2, 3, 1).reshape(x.shape[0], -1, self.outputs))
        return torch.cat(said, dim=1)


class RetinaNet(nn.Module):
    """Backbone, pyramid and two heads, which all levels share.

    backbone: images to a tuple of features, with `out_channels`; stages that nobody reads are taken out. categories: K.
    fpn: the pyramid on it (the paper's is P2-P6 with extra="conv-on-input"); None means the backbone's last feature
    alone. norm: of the heads, or None.
    """

    def __init__(
        self,
        backbone: nn.Module,
        categories: int,
        fpn: FPN | None,
        settings: RetinaNetSettings | None = None,
        norm: Norm | None = None,
    ) -> None:
        super().__init__()
        if categories < 1:
            raise InputError(f"a detector must tell at least 1 class apart, got {categories}")
        self.categories, self.norm = categories, norm
        self.settings = settings or RetinaNetSettings()
        if fpn is not None:
            keep_stages(backbone, fpn.last)
        self.backbone = backbone
        self.fpn = NoPyramid(backbone.out_channels) if fpn is None else fpn
        self.anchors = self.settings.anchors or Anchors.octaves(self.fpn.strides, 4, 3)
        channels, per_cell = self.fpn.out_channels[0], self.anchors.per_cell
        self.classes = DenseHead(channels, self.settings, per_cell, categories, norm)
        self.codes = DenseHead(channels, self.settings, per_cell, 4, norm)
        nn.init.constant_(self.classes.last.bias, -math.log((1 - PRIOR) / PRIOR))

    def forward(self, images: Tensor) -> RetinaNetOutputs:
        """See `RetinaNetOutputs`; images: (B, 3, H, W), normalised."""
        maps = self.fpn(self.backbone(images))
        return RetinaNetOutputs(
            size=(images.shape[-2], images.shape[-1]),
            anchors=self.anchors.of_maps(maps, self.fpn.strides),
            logits=self.classes(maps),
            codes=self.codes(maps),
            counts=tuple(each.shape[-2] * each.shape[-1] * self.anchors.per_cell for each in maps),
            settings=self.settings,
        )

    @torch.no_grad()
    def detect(self, images: Tensor) -> Detections:
        """Detections in pixels of `images` (B, 3, H, W), best first. Call `eval()` before."""
        return select(self(images))

    def config(self) -> dict[str, Any]:
        """Plain numbers from which all but the backbone can be built again; that one describes itself."""
        parts = {"fpn": self.fpn.config(), "settings": self.settings, "norm": self.norm}
        return to_json({"kind": "retinanet", "categories": self.categories, **parts})

    @staticmethod
    def from_config(config: Mapping[str, Any], backbone: nn.Module) -> "RetinaNet":
        """The network of a `config()` on a backbone, without its weights."""
        fpn = None if config["fpn"] is None else FPN.from_config(config["fpn"], backbone.out_channels)
        norm = from_json(Norm | None, config["norm"], "the detector's norm")
        settings = from_json(RetinaNetSettings, config["settings"], "the detector's settings")
        return RetinaNet(backbone, config["categories"], fpn, settings, norm)


def retinanet_losses(outputs: RetinaNetOutputs, batch: Batch) -> dict[str, Tensor]:
    """Float32 scalars: `loss`, the sum of the others; `class`, the focal loss of all anchors but the ignored ones;
    `box`, L1 of the positive anchors' codes; both over the number of positive anchors."""
    settings = outputs.settings
    boxes, labels, valid = visible_objects(batch)
    matches = match(outputs.anchors, boxes, valid, settings.match)
    positive = matches.state == POSITIVE  # (B, N)
    logits = outputs.logits.float()
    of_class = F.one_hot(labels.gather(1, matches.target), logits.shape[-1]) * positive.unsqueeze(-1)
    focal = sigmoid_focal_loss(logits, of_class.float(), settings.alpha, settings.gamma)
    target = encode(rows_at(boxes, matches.target), outputs.anchors, DEVIATIONS)
    distance = (outputs.codes.float() - target).abs().sum(dim=-1)
    count = divisor(positive.sum())
    losses = {
        "class": (focal.sum(dim=-1) * (matches.state != IGNORED)).sum() / count,
        "box": (distance * positive).sum() / count,
    }
    return {"loss": losses["class"] + losses["box"], **losses}


@torch.no_grad()
def select(outputs: RetinaNetOutputs) -> Detections:
    """The detections, `settings.detections` an image, padded."""
    settings, K = outputs.settings, outputs.logits.shape[-1]
    found = []
    for anchors, logits, codes in zip(
        outputs.anchors.split(outputs.counts),
        outputs.logits.float().split(outputs.counts, dim=1),
        outputs.codes.split(outputs.counts, dim=1),
        strict=True,
    ):
        scores = logits.sigmoid().flatten(1)  # (B, N_l * K)
        index, likely = best(scores, scores > settings.least_score, settings.candidates)
        boxes = decode(rows_at(codes, index // K), anchors[index // K], DEVIATIONS)
        found.append((clip_boxes_to_image(boxes, outputs.size), scores.gather(1, index), index % K, likely))
    boxes, scores, labels, likely = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
    order, likely = best(scores, likely, scores.shape[1])  # over the levels
    boxes, scores, labels = rows_at(boxes, order), scores.gather(1, order), labels.gather(1, order)
    kept = suppress(boxes, likely, settings.overlap, labels)
    return as_detections(boxes, scores, labels, kept, settings.detections)
