"""Two-stage detectors: Faster R-CNN (Ren et al., 2015) on a feature pyramid, its cascade, and both without a pyramid.

Everything works on the whole batch at once and on tensors of fixed size: no loop over images, and in the training step
nothing that waits for the device. Images of one batch share a size; the padding that they bring counts as background.

    outputs = network(batch.images)
    losses = two_stage_losses(outputs, batch)       # "loss" and its four parts
    detections = network.eval().detect(images)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from common.batch import Batch, Detections
from common.models.anchors import Anchors
from common.models.fpn import FPN, NoPyramid, keep_stages
from common.models.guided_anchoring import GuidedRPN, GuidedSettings, guided_rpn_losses
from common.models.matching import visible_objects
from common.models.norm import Norm
from common.models.roi_head import RoIHead, RoISettings, roi_losses
from common.models.rpn import RPN, Proposals, RPNSettings, rpn_losses
from common.plain import InputError, from_json, to_json
from common.settings import TwoStageSettings

COARSEST_ROI_STRIDE = 32  # regions are read from levels up to here; the coarser ones serve the RPN alone


@dataclass(frozen=True)
class TwoStageOutputs:
    """The outputs for images of `size` (height, width).

    maps: the levels, each (B, C, H_l, W_l). rpn: see `RPN.forward`. proposals: see `Proposals`. regions: the
    outputs of `RoIHead.predict` for the proposals; None in training, where the losses choose the regions.
    network: what the losses compute those with.
    """

    network: "TwoStage"
    size: tuple[int, int]
    maps: tuple[Tensor, ...]
    rpn: dict[str, Tensor]
    proposals: Proposals
    regions: tuple[Tensor, Tensor, Tensor] | None


class TwoStage(nn.Module):
    """Backbone, pyramid, RPN and RoI head.

    backbone: images to a tuple of features, with `out_channels` and `strides`; stages that nobody reads are taken out.
    categories: K, the number of classes.
    fpn: the pyramid on it. None means no pyramid: the RPN works on the last feature but one, and the backbone's last
        stage, which is taken out of it (`backbone.take_last_stage()`), on each region.
    rpn: its settings; those of guided anchoring make it one of that kind.
    norm: of the plain RPN's 3x3 convolution, or None.
    """

    def __init__(
        self,
        backbone: nn.Module,
        categories: int,
        fpn: FPN | None,
        rpn: RPNSettings | GuidedSettings | None = None,
        roi: RoISettings | None = None,
        norm: Norm | None = None,
    ) -> None:
        super().__init__()
        if categories < 1:
            raise InputError(f"a detector must tell at least 1 class apart, got {categories}")
        self.categories, self.norm = categories, norm
        shared = None
        shared_channels = backbone.out_channels[-1]
        if fpn is None:
            if not hasattr(backbone, "take_last_stage"):
                raise InputError("a detector without a pyramid needs a backbone whose last stage can be taken out")
            shared = backbone.take_last_stage()
        else:
            keep_stages(backbone, fpn.last)
        self.backbone = backbone
        self.fpn = NoPyramid(backbone.out_channels) if fpn is None else fpn
        strides, channels = self.fpn.strides, self.fpn.out_channels[0]
        guided = isinstance(rpn, GuidedSettings)
        self.rpn = GuidedRPN(channels, strides, rpn) if guided else RPN(channels, strides, rpn, norm)
        roi_strides = tuple(stride for stride in strides if stride <= COARSEST_ROI_STRIDE)
        self.roi = RoIHead(channels, roi_strides, categories, roi, shared, shared_channels)

    def forward(self, images: Tensor) -> TwoStageOutputs:
        """See `TwoStageOutputs`; images: (B, 3, H, W), normalised."""
        size = images.shape[-2], images.shape[-1]
        maps = self.fpn(self.backbone(images))
        rpn = self.rpn(maps)
        proposals = self.rpn.propose(maps, rpn, size)
        regions = None if self.training else self.roi.predict(maps, proposals.boxes, size)
        return TwoStageOutputs(self, size, maps, rpn, proposals, regions)

    @torch.no_grad()
    def detect(self, images: Tensor) -> Detections:
        """Detections in pixels of `images` (B, 3, H, W), best first. Call `eval()` before."""
        outputs = self(images)
        return self.roi.select(*outputs.regions, outputs.proposals.valid, outputs.size)

    def config(self) -> dict[str, Any]:
        """Plain numbers from which all but the backbone can be built again; that one describes itself."""
        parts = {"fpn": self.fpn.config(), "rpn": self.rpn.settings, "roi": self.roi.settings, "norm": self.norm}
        guided = isinstance(self.rpn, GuidedRPN)
        return to_json({"kind": "two_stage", "categories": self.categories, "guided": guided, **parts})

    @staticmethod
    def from_config(config: Mapping[str, Any], backbone: nn.Module) -> "TwoStage":
        """The network of a `config()` on a backbone, without its weights."""
        fpn = None if config["fpn"] is None else FPN.from_config(config["fpn"], backbone.out_channels)
        rpn = from_json(GuidedSettings if config["guided"] else RPNSettings, config["rpn"], "the detector's rpn")
        roi = from_json(RoISettings, config["roi"], "the detector's roi")
        norm = from_json(Norm | None, config["norm"], "the detector's norm")
        return TwoStage(backbone, config["categories"], fpn, rpn, roi, norm)


def two_stage_losses(
    outputs: TwoStageOutputs, batch: Batch, generator: torch.Generator | None = None
) -> dict[str, Tensor]:
    """The losses of both stages, float32 scalars: `loss`, the sum of the others; rpn_objectness and rpn_box (see
    `rpn_losses`; guided anchoring has two more, see there); roi_class and roi_box (see `region_losses`), over the
    stages of a cascade weighted and summed up.

    Samples are drawn with `generator`, or with torch's own. A batch without any object also has losses: those of the
    background.
    """
    network = outputs.network
    objects = visible_objects(batch)
    boxes, _, valid = objects
    first_stage = guided_rpn_losses if isinstance(network.rpn, GuidedRPN) else rpn_losses
    losses = first_stage(network.rpn, outputs.maps, outputs.rpn, boxes, valid, generator)
    losses |= roi_losses(network.roi, outputs.maps, outputs.proposals, objects, outputs.size, generator)
    return {"loss": sum(losses.values()), **losses}


def rpn_settings(shared: TwoStageSettings, anchors: Anchors) -> RPNSettings:
    """Settings of a plain RPN in the detectors of a scale."""
    return RPNSettings(
        anchors=anchors, samples=shared.rpn_samples, candidates=shared.candidates, proposals=shared.proposals
    )


def roi_settings(shared: TwoStageSettings, heads: RoISettings | None = None) -> RoISettings:
    """Settings of the heads on regions in the detectors of a scale; heads: those of a cascade, or None for one head."""
    return replace(
        heads or RoISettings(),
        hidden=(shared.hidden, shared.hidden),
        samples=shared.region_samples,
        canonical_side=shared.canonical_side,
        candidates=shared.region_candidates,
    )


@dataclass(frozen=True)
class RegionOutputs:
    """What one network can learn from another: a two-stage network's outputs for regions, S for each image.

    features: (B, S, bins * bins, C) after RoIAlign. logits: (B, S, K + 1), the background last.
    codes: (B, S, K, 4) of a box for each class, or (B, S, 1, 4) of one for all.
    """

    features: Tensor
    logits: Tensor
    codes: Tensor


def look_at(network: TwoStage, maps: Sequence[Tensor], boxes: Tensor) -> RegionOutputs:
    """The outputs of the first head of `network` for regions (B, S, 4) in pixels; maps: its levels."""
    roi, S = network.roi, boxes.shape[1]
    features = roi.features(maps, boxes)  # (B, S, bins * bins * C)
    logits, codes = (each.unflatten(0, (-1, S)) for each in roi.heads[0](features.flatten(0, 1)))
    return RegionOutputs(features.unflatten(2, (roi.bins**2, -1)), logits, codes)
