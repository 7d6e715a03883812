"""Weights go only into the architecture they came from."""

import pytest
import safetensors.torch
import torch
from torch import nn

from common.plain import InputError
from common.train.checkpoint import load_strictly, pack_state, pack_tensors, unpack_state, unpack_tensors


def network(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width))


def test_weights_load_into_their_own_architecture(device):
    source, target = network(4).to(device), network(4).to(device)
    load_strictly(target, unpack_tensors(pack_tensors(source.state_dict(), {}))[0], "a")
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))


def test_the_first_tensor_that_differs_is_named_with_both_shapes():
    target = network(8)
    before = target[0].weight.clone()
    with pytest.raises(
        InputError, match=r"weights in a\.st .*0\.weight has shape \(4, 3, 3, 3\) there and \(8, 3, 3, 3\)"
    ):
        load_strictly(target, network(4).state_dict(), "a.st")
    with pytest.raises(InputError, match=r"a tensor 1\.weight of shape \(8,\) and the weights have none"):
        load_strictly(target, nn.Sequential(nn.Conv2d(3, 8, 3)).state_dict(), "a.st")
    with pytest.raises(InputError, match=r"they hold a tensor 2\.weight of shape \(1, 8, 1, 1\)"):
        load_strictly(target, nn.Sequential(*network(8), nn.Conv2d(8, 1, 1)).state_dict(), "a.st")
    assert torch.equal(target[0].weight, before)


@pytest.mark.parametrize(
    ("pack", "unpack"), [(lambda it: pack_tensors(it, {"a": "0" * 64}), unpack_tensors), (pack_state, unpack_state)]
)
def test_no_bit_may_change(pack, unpack):
    content = pack({"weight": torch.arange(5.0)})
    unpack(content)
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1
        with pytest.raises(ValueError) as error:  # noqa: PT011 (the reason depends on the place)
            unpack(bytes(changed))
        assert "\n" not in str(error.value)


def test_weights_are_plain_safetensors_and_the_same_bytes_every_time_also_shared_or_strided():
    shared = torch.arange(6.0)
    weights = {"a": shared, "b": shared.view(2, 3).T, "c": torch.ones(2, dtype=torch.bfloat16), "n": torch.tensor(3)}
    content = pack_tensors(weights, {"AP": 0.5})
    assert content == pack_tensors(weights, {"AP": 0.5})
    assert unpack_tensors(content)[1] == {"AP": 0.5}
    for loaded in (unpack_tensors(content)[0], safetensors.torch.load(content)):
        assert loaded.keys() == weights.keys()
        assert all(torch.equal(loaded[name], weights[name]) for name in weights)
