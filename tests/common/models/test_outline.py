"""Networks without weights."""

import torch

from common.models.centernet import CenterNet
from common.models.ofa_resnet import ResNet
from common.models.outline import outline
from detofa.space import OFAResNetSpace

SPACE = OFAResNetSpace(stage_widths=(16, 16, 16, 16), stem_width=8, channel_multiple=4)


def _detector() -> CenterNet:
    return CenterNet(ResNet(SPACE.architecture(SPACE.smallest()), zero_init_last=True), 3, (8, 8, 8), 8)


def test_an_outline_has_the_names_and_shapes_and_no_values():
    with outline():
        empty = _detector().state_dict()
    whole = _detector().state_dict()
    assert {name: tensor.shape for name, tensor in empty.items()} == {name: t.shape for name, t in whole.items()}
    assert all(tensor.is_meta for tensor in empty.values())


def test_an_outline_draws_nothing():
    before = torch.random.get_rng_state()
    with outline():
        _detector()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_what_is_made_after_an_outline_is_filled_as_ever():
    torch.manual_seed(0)
    expected = _detector().state_dict()
    torch.manual_seed(0)
    with outline():
        _detector()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in _detector().state_dict().items())
