"""Networks without weights."""

import torch

from common.models.centernet import CenterNet
from common.models.ofa_resnet import ResNet
from common.models.outline import outline
from detofa.space import OFAResNetSpace

SPACE = OFAResNetSpace(stage_widths=(16, 16, 16, 16), stem_width=8, channel_multiple=4)


def _detector() -> CenterNet:
    return CenterNet(ResNet(SPACE.architecture(SPACE.smallest()), zero_init_last=True), 3, (8, 8, 8), 8)


def test_an_outline_has_names_and_shapes_without_values_and_leaves_nothing_behind():
    torch.manual_seed(0)
    whole = _detector().state_dict()
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    with outline():
        empty = _detector().state_dict()
    assert torch.equal(torch.random.get_rng_state(), before), "nothing is drawn"
    assert {name: tensor.shape for name, tensor in empty.items()} == {name: t.shape for name, t in whole.items()}
    assert all(tensor.is_meta for tensor in empty.values())
    assert all(torch.equal(tensor, whole[name]) for name, tensor in _detector().state_dict().items())
