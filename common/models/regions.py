"""A two-stage network's outputs for given regions, features included: what one network can learn from another."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from common.models.two_stage import TwoStage


@dataclass(frozen=True)
class RegionOutputs:
    """A two-stage network's outputs for regions, S for each image.

    features: (B, S, bins * bins, C) after RoIAlign. logits: (B, S, K + 1), the background last.
    codes: (B, S, K, 4) of a box for each class, or (B, S, 1, 4) of one for all.
    """

    features: Tensor
    logits: Tensor
    codes: Tensor


def look_at(network: TwoStage, maps: Sequence[Tensor], boxes: Tensor) -> RegionOutputs:
    """The outputs of the first head of `network` for regions (B, S, 4) in pixels; maps: its levels."""
    roi = network.roi
    features = roi.features(maps, boxes)  # (B, S, bins * bins * C)
    logits, codes = roi.heads[0](features.flatten(0, 1))
    S = boxes.shape[1]
    return RegionOutputs(
        features.unflatten(2, (roi.bins**2, -1)), logits.unflatten(0, (-1, S)), codes.unflatten(0, (-1, S))
    )
