"""The pyramid against torchvision's, over every range of levels."""

import json
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from common.models.fpn import FPN, NoPyramid
from common.models.norm import Norm
from common.plain import InputError

CHANNELS = (4, 6, 8, 10)
SIZES = ((24, 17), (12, 9), (6, 5), (3, 3))  # odd ones too: levels are matched by size, not by doubling


def features() -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, channels, *size) for channels, size in zip(CHANNELS, SIZES, strict=True)]


@pytest.mark.parametrize("first", [1, 2, 3, 4])
@pytest.mark.parametrize("extra", ["pool", "conv-on-output", "conv-on-input"])
def test_equals_torchvision(first, extra):
    blocks = {
        "pool": LastLevelMaxPool(),
        "conv-on-output": LastLevelP6P7(5, 5),
        "conv-on-input": LastLevelP6P7(CHANNELS[-1], 5),  # torchvision takes the input where the widths differ
    }
    theirs = FeaturePyramidNetwork(list(CHANNELS[first - 1 :]), 5, blocks[extra])
    ours = FPN(CHANNELS, first, 5 if extra == "pool" else 6, 5, extra=extra)
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))  # in the same order
    inputs = features()
    expected = theirs(OrderedDict((str(index), each) for index, each in enumerate(inputs[first - 1 :])))
    found = ours(inputs)
    assert len(found) == len(expected) == len(ours.strides)
    assert all(map(torch.equal, found, expected.values()))


@pytest.mark.parametrize(("first", "last"), [(a, b) for a in range(1, 5) for b in range(a + 1, 7)])
@pytest.mark.parametrize("norm", [None, Norm("group-ws", 4)])
def test_all_fourteen_ranges(first, last, norm):
    pyramid = FPN(CHANNELS, first, last, 8, norm)
    assert pyramid.strides == tuple(2 ** (level + 1) for level in range(first, last + 1))
    outputs = pyramid(features())
    rows = [-(-24 // 2 ** (level - 1)) for level in range(first, last + 1)]
    assert [output.shape[1:3] for output in outputs] == [(8, each) for each in rows]
    sum(output.square().mean() for output in outputs).backward()
    assert all(p.grad is not None for p in pyramid.parameters())
    biases = {module.bias is not None for module in pyramid.modules() if isinstance(module, nn.Conv2d)}
    assert biases == {norm is None}, "a norm takes the place of the bias"
    again = FPN.from_config(json.loads(json.dumps(pyramid.config())), CHANNELS)
    again.load_state_dict(pyramid.state_dict())
    assert all(map(torch.equal, again(features()), outputs))


def test_without_a_pyramid():
    none = NoPyramid(CHANNELS[:3])
    assert none.strides == (16,)
    assert none.out_channels == (8,)
    inputs = features()[:3]
    assert none(inputs)[0] is inputs[-1]
    assert none.config() is None


def test_what_cannot_be_gives_a_sentence():
    for first, last in ((0, 3), (3, 3), (5, 6)):
        with pytest.raises(InputError, match=f"P{first}-P{last}"):
            FPN(CHANNELS, first, last)
    with pytest.raises(InputError, match="'stride'"):
        FPN(CHANNELS, extra="stride")
