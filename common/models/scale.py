"""How thin the two-stage detectors of a scale are, and how many samples they take."""

from dataclasses import dataclass, replace

from common.models.anchors import Anchors
from common.models.roi_head import RoISettings
from common.models.rpn import RPNSettings


@dataclass(frozen=True)
class TwoStageScale:
    """What all two-stage detectors of a scale share, whatever their backbone; a paper adds its own fields."""

    width: int = 64
    """Channels of the first stage of a standard ResNet; all other standard backbones are thinner in proportion."""
    anchor_scale: float = 8.0
    """Side of an RPN's square anchors, in strides."""
    hidden: int = 1024
    """Channels of the two fully connected layers."""
    canonical_side: float = 224.0
    """Side of the regions that are read from stride 16, pixels."""
    rpn_samples: int = 256
    """Anchors an image in the RPN's loss."""
    region_samples: int = 512
    """Regions an image and head in the losses."""
    candidates: tuple[int, int] = (2000, 1000)
    """Boxes of each level before the RPN's suppression, in training and in testing."""
    proposals: tuple[int, int] = (2000, 1000)
    """Boxes after it."""
    region_candidates: int = 2000
    """Pairs of region and class before the last suppression."""

    def first_stage(self, anchors: Anchors) -> RPNSettings:
        """Settings of a plain RPN."""
        return RPNSettings(
            anchors=anchors, samples=self.rpn_samples, candidates=self.candidates, proposals=self.proposals
        )

    def second_stage(self, heads: RoISettings | None = None) -> RoISettings:
        """Settings of the heads on regions; heads: how many and which, as `RoISettings.cascade` gives them (one)."""
        return replace(
            heads or RoISettings(),
            hidden=(self.hidden, self.hidden),
            samples=self.region_samples,
            canonical_side=self.canonical_side,
            candidates=self.region_candidates,
        )
