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


def copy_weights(ours: FPN, theirs: FeaturePyramidNetwork) -> None:
    state = {}
    for name, tensor in theirs.state_dict().items():
        name = name.replace("inner_blocks", "laterals").replace("layer_blocks", "outputs").replace(".0.", ".")
        name = name.replace("extra_blocks.p6", "extras.0").replace("extra_blocks.p7", "extras.1")
        state[name] = tensor
    ours.load_state_dict(state)


@pytest.mark.parametrize("first", [1, 2, 3, 4])
@pytest.mark.parametrize("extra", ["pool", "conv-on-output", "conv-on-input"])
def test_equals_torchvision(first, extra):
    width = 5
    if extra == "conv-on-input":  # torchvision takes the input where the widths differ
        extra_block = LastLevelP6P7(CHANNELS[-1], width)
    else:
        extra_block = LastLevelMaxPool() if extra == "pool" else LastLevelP6P7(width, width)
    theirs = FeaturePyramidNetwork(list(CHANNELS[first - 1 :]), width, extra_block)
    ours = FPN(CHANNELS, first, 5 if extra == "pool" else 6, width, extra=extra)
    copy_weights(ours, theirs)
    inputs = features()
    named = OrderedDict((str(index), each) for index, each in enumerate(inputs[first - 1 :]))
    expected = list(theirs(named).values())
    found = ours(inputs)
    assert len(found) == len(expected) == len(ours.levels)
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize(("first", "last"), [(a, b) for a in range(1, 5) for b in range(a + 1, 7)])
@pytest.mark.parametrize("norm", [None, Norm("group-ws", 4)])
def test_all_fourteen_ranges(first, last, norm):
    pyramid = FPN(CHANNELS, first, last, 8, norm)
    assert pyramid.strides == tuple(2 ** (level + 1) for level in range(first, last + 1))
    outputs = pyramid(features())
    assert len(outputs) == last - first + 1
    assert all(output.shape[1] == 8 for output in outputs)
    rows = 24 // 2 ** (first - 1)
    for output in outputs:
        assert output.shape[2] == rows
        rows = -(-rows // 2)
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
