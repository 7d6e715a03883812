"""A two-stage detector that is elastic in the blocks and widths of its described backbone and in the width of its neck.

Its weights are those of the largest network. A sub-network has the first blocks of each stage and the first channels
of each layer; RPN and the head's first layer follow the neck, the head's hidden layers do not.
"""

from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache

from common.models.described import Architecture, DescribedBackbone
from common.models.elastic import ElasticGroupsLinear, copy_corner, make_elastic, sort_shared_channels
from common.models.fpn import FPN
from common.models.outline import outline
from common.models.roi_head import RoISettings
from common.models.rpn import RPNSettings
from common.models.two_stage import TwoStage


def plain_two_stage(
    architecture: Architecture,
    neck_width: int,
    categories: int,
    rpn: RPNSettings | None = None,
    roi: RoISettings | None = None,
) -> TwoStage:
    """A fresh detector on a described backbone and a pyramid of that width."""
    backbone = DescribedBackbone(architecture)
    return TwoStage(backbone, categories, FPN(backbone.out_channels, width=neck_width), rpn, roi)


@lru_cache(maxsize=1024)  # a training step changes between a few sub-networks many times
def _widths(architecture: Architecture) -> tuple[tuple[str, int], ...]:
    """Output channels of each convolution of the backbone, by its name."""
    return tuple((name, channels.channels) for channels in architecture.channel_sets() for name in channels.rows)


class ElasticTwoStage(TwoStage):
    """All sub-networks of a detector in one set of weights; starts as the largest. Arguments as `plain_two_stage`'s.

    architecture: of a family without grouped convolutions. roi: with at least one hidden layer.
    """

    def __init__(
        self,
        architecture: Architecture,
        neck_width: int,
        categories: int,
        rpn: RPNSettings | None = None,
        roi: RoISettings | None = None,
    ) -> None:
        backbone = DescribedBackbone(architecture)
        super().__init__(backbone, categories, FPN(backbone.out_channels, width=neck_width), rpn, roi)
        make_elastic(self)
        self._writers = {name: backbone.get_submodule(name) for name, _ in _widths(architecture)}
        head = self.roi.heads[0]
        head.hidden[0] = ElasticGroupsLinear(head.hidden[0], self.roi.bins**2)

    def activate(self, architecture: Architecture, neck_width: int) -> None:
        """Be that sub-network from the next forward on."""
        self.backbone.active_blocks = tuple(len(stage.blocks) for stage in architecture.stages)
        for name, channels in _widths(architecture):
            self._writers[name].active_out_channels = channels
        for convolution in (*self.fpn.laterals, *self.fpn.outputs, self.rpn.conv):
            convolution.active_out_channels = neck_width

    def extract(self, architecture: Architecture, neck_width: int) -> TwoStage:
        """The plain detector of a sub-network, with copies of its weights and statistics.

        The statistics mix all sub-networks, so re-estimate them before use.
        """
        with outline():
            plain = plain_two_stage(architecture, neck_width, self.categories, self.rpn.settings, self.roi.settings)
        return copy_corner(self, plain)

    def sort_channels(self, trained: Sequence[tuple[Architecture, int]] = ()) -> None:
        """Sort channels by importance, the L1 norm of the weights that read them, so that narrower sub-networks start
        from those that matter most. The largest network computes the same as before.

        trained: sub-networks of the full depth, as `activate` takes them; they compute the same, too, and so does every
        one that mixes their widths.
        """
        layer, kept, necks = self.backbone.get_submodule, defaultdict(set), {neck for _, neck in trained}
        for architecture, _ in trained:
            for channels in architecture.channel_sets():
                kept[channels.name].add(channels.channels)
        for channels in self.backbone.architecture.channel_sets():
            readers = [*map(layer, channels.columns), *(self.fpn.laterals[feature] for feature in channels.features)]
            writers = [*map(layer, channels.rows), *map(layer, channels.norms)]
            sort_shared_channels(writers, readers, kept[channels.name])
        sort_shared_channels([*self.fpn.laterals], [*self.fpn.outputs], necks)
        sort_shared_channels([*self.fpn.outputs], [self.rpn.conv, self.roi.heads[0].hidden[0]], necks)
        sort_shared_channels([self.rpn.conv], [self.rpn.objectness, self.rpn.codes], necks)
