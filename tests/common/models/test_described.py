"""Described backbones against the standard networks; and channels and blocks gone, moved or new."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common.models.architectures import STRIDES
from common.models.centernet import CenterNet
from common.models.deformable import DeformableConv2d
from common.models.described import (
    Architecture,
    Block,
    DescribedBackbone,
    Slot,
    Stage,
    architecture_of,
    as_described,
    keep_channels,
    slots_of,
    with_blocks,
)
from common.models.fpn import FPN
from common.models.norm import Norm
from common.models.outline import outline
from common.models.resnet import ResNet
from common.models.two_stage import TwoStage
from common.plain import InputError
from tests.common.models.families import FAMILIES, awake, thin_backbone, thin_detector


def _stage(width: int, stride: int, entry: str, *inner: tuple[int, ...], groups: tuple[int, ...] = ()) -> Stage:
    """A stage whose blocks have those inner widths."""
    blocks = zip(inner, groups or (1,) * len(inner), strict=True)
    return Stage(width, stride, entry, tuple(Block(*each) for each in blocks))


_BASIC = (_stage(6, 1, "identity", (5,), (9,)), _stage(7, 2, "projection", (3,)))
_BASIC += (_stage(11, 2, "projection", (4,), (2,)), _stage(9, 2, "projection", (4,)))
_BOTTLENECK = (_stage(10, 1, "projection", (3, 4), (5, 2)), _stage(13, 2, "projection", (4, 7)))
_BOTTLENECK += (_stage(9, 2, "projection", (4, 1), (2, 3), (3, 3)), _stage(8, 2, "projection", (6, 5)))
_RESNEXT = (_stage(10, 1, "projection", (12,), (8,), groups=(3, 2)), _stage(13, 2, "projection", (8,)))
_RESNEXT += (_stage(9, 2, "projection", (16,), (16,), groups=(4, 2)), _stage(8, 2, "projection", (24,), groups=(3,)))
_INVERTED = (_stage(5, 1, "identity", (), (7,)), _stage(6, 2, "plain", (11,), (13,), ()), _stage(7, 2, "plain", (9,)))
_INVERTED += (_stage(10, 2, "plain", (12,)), _stage(11, 1, "plain", (8,), (9,)), _stage(9, 2, "plain", ()))
IRREGULAR = {  # what no standard network has: every block is of its own widths
    "basic": Architecture("basic", 6, _BASIC),
    "bottleneck": Architecture("bottleneck", 5, _BOTTLENECK),
    "resnext": Architecture("resnext", 5, _RESNEXT),
    "inverted_residual": Architecture("inverted_residual", 5, _INVERTED, 14),
}


def _changed(architecture: Architecture, number: int, **parts) -> Architecture:
    """The same with something else in one stage, counted from 1."""
    stages = list(architecture.stages)
    stages[number - 1] = replace(stages[number - 1], **parts)
    return replace(architecture, stages=tuple(stages))


def assert_same_function(one: nn.Module, other: nn.Module, images: Tensor, tolerance: float = 1e-5) -> None:
    """Features, and what is detected."""
    one, other = one.eval(), other.eval()
    with torch.no_grad():
        pairs = zip(*(each.fpn(each.backbone(images)) for each in (one, other)), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)
    ours, theirs = one.detect(images), other.detect(images)
    assert torch.equal(ours.valid, theirs.valid)
    torch.testing.assert_close(ours.boxes, theirs.boxes, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(ours.scores, theirs.scores, atol=1e-5, rtol=1e-4)


# Each family with one kind of norm, and each kind in one family: neither is built differently by the other.
every_family = pytest.mark.parametrize(
    ("family", "kind"),
    [*((family, "batch") for family in FAMILIES), ("bottleneck", "frozen"), ("bottleneck", "group-ws")],
)


@pytest.fixture
def images() -> Tensor:
    """(2, 3, 64, 64)"""
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


# --- the description and its network ----------------------------------------------------------------------------------


@every_family
def test_a_described_detector_is_the_one_that_it_was_made_of(family, kind, images):
    detector = thin_detector(family, kind).eval()
    described = as_described(detector)
    assert described.backbone.architecture.family == family
    assert described.backbone.out_channels == detector.backbone.out_channels
    assert (described.backbone.strides, described.backbone.stride) == (STRIDES, 32)
    assert_same_function(described, detector, images)
    for ours, theirs in zip(described.train().backbone(images), detector.train().backbone(images), strict=True):
        torch.testing.assert_close(ours, theirs)  # by the statistics of the batch, too
    if kind == "batch":
        sum(feature.square().mean() for feature in described.backbone(images)).backward()
        assert all(parameter.grad.any() for parameter in described.backbone.parameters()), "every weight learns"


@pytest.mark.parametrize("family", FAMILIES)
def test_fresh_blocks_add_nothing_to_what_they_add_to(family, images):
    backbone = DescribedBackbone(architecture_of(thin_backbone(family)))
    for stage in backbone.stages:
        assert {bool(block.body[-1].weight.any()) for block in stage if block.adds} <= {False}
        assert all(block.body[-1].weight.all() for block in stage if not block.adds)
    assert all(feature.isfinite().all() for feature in backbone(images))


@pytest.mark.parametrize("architecture", IRREGULAR.values(), ids=IRREGULAR)
def test_description_builds_the_same_network(architecture, images):
    written = DescribedBackbone(architecture, Norm("frozen"), deformable=(2,)).description
    again = DescribedBackbone.from_config(json.loads(json.dumps(written)))
    assert again.architecture == architecture
    assert again.norm == Norm("frozen")
    found = [any(isinstance(layer, DeformableConv2d) for layer in stage.modules()) for stage in again.stages]
    assert found == [number == 1 for number in range(len(found))]
    features = again.eval()(images)
    assert [tuple(feature.shape) for feature in features] == [
        (2, channels, 64 // stride, 64 // stride)
        for channels, stride in zip(architecture.out_channels, STRIDES, strict=True)
    ]


@every_family
def test_deformable_stages_start_as_plain_ones_and_learn_offsets(family, kind, images, device):
    plain = awake(as_described(thin_detector(family, kind)).backbone).to(device).eval()
    last, images = len(plain.stages), images.to(device)
    deformable = DescribedBackbone(plain.architecture, plain.norm, (last - 1, last)).to(device).eval()
    left_over = deformable.load_state_dict(plain.state_dict(), strict=False)
    assert left_over.unexpected_keys == []
    assert all(".offset." in key for key in left_over.missing_keys)
    for ours, theirs in zip(deformable(images), plain(images), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        found = deformable(images)[-1]
    if kind == "batch":  # a group norm enlarges what bfloat16 rounds off
        assert (found - theirs).abs().mean() < 0.2 * theirs.abs().mean()
    found.square().mean().backward()
    offsets = [layer.offset.weight for layer in deformable.modules() if isinstance(layer, DeformableConv2d)]
    assert len(offsets) == sum(len(stage) for stage in plain.stages[-2:])
    assert all(offset.grad.isfinite().all() and offset.grad.any() for offset in offsets)


@pytest.mark.parametrize("architecture", IRREGULAR.values(), ids=IRREGULAR)
def test_tied_channels_hold_every_tensor_once(architecture):
    with outline():
        modules = dict(DescribedBackbone(architecture).named_modules())
    held = Counter()
    for channels in architecture.channel_sets():
        assert channels.channels % channels.granule == 0
        for name in channels.rows:
            held[name, 0] += 1
            assert modules[name].out_channels == channels.channels
        for name in channels.columns:
            held[name, 1] += 1
            assert modules[name].in_channels == channels.channels
        for name in channels.norms:
            held[name, 0] += 1
            assert modules[name].num_features == channels.channels
        for feature in channels.features:
            held["feature", feature] += 1
            assert architecture.out_channels[feature] == channels.channels
    expected = {("feature", level) for level in range(4)}
    for name, module in modules.items():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            expected.add((name, 0))
        if isinstance(module, nn.Conv2d) and module.groups == 1 and name != "stem.0":
            expected.add((name, 1))
    assert held == dict.fromkeys(expected, 1)
    same = architecture.with_channels({each.name: each.channels for each in architecture.channel_sets()})
    assert same == architecture


def test_a_stage_that_adds_to_the_stem_shares_its_channels():
    sets = {each.name: each for each in Architecture.standard("resnet18", 8).channel_sets()}
    assert "stage1" not in sets
    assert sets["stem"].is_output
    assert set(sets["stem"].norms) == {"stem.1", "stage1.0.body.4", "stage1.1.body.4"}
    assert sets["stem"].features == [0]
    bottleneck = {each.name: each for each in Architecture.standard("resnet50", 8).channel_sets()}
    assert not bottleneck["stem"].is_output
    assert "stage1.0.projection.1" in bottleneck["stage1"].norms


BASIC = IRREGULAR["basic"]
RESNEXT = IRREGULAR["resnext"]
MOBILE = IRREGULAR["inverted_residual"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda: replace(BASIC, family="dense"), "no family 'dense'"),
        (lambda: replace(BASIC, stages=BASIC.stages[:3]), r"strides \(4, 8, 16\)"),
        (lambda: _changed(BASIC, 2, stride=1), "strides"),
        (lambda: _changed(BASIC, 2, blocks=()), "has no block"),
        (lambda: _changed(BASIC, 2, entry="plain"), "stage 2 is entered by 'plain'"),
        (lambda: _changed(BASIC, 1, width=7), "stage 1 adds to its input"),
        (lambda: replace(BASIC, stem=0), "width is below 1"),
        (lambda: replace(BASIC, head=8), "have a head"),
        (lambda: _changed(BASIC, 2, blocks=(Block((3, 3)),)), "2 inner widths"),
        (lambda: _changed(BASIC, 2, blocks=(Block((4,), 2),)), "2 groups"),
        (lambda: _changed(RESNEXT, 2, blocks=(Block((9,), 2),)), "2 groups cannot share"),
        (lambda: _changed(MOBILE, 3, entry="projection"), "entered by 'projection'"),
    ],
)
def test_what_is_no_network_gives_a_sentence(change, says):
    with pytest.raises(InputError, match=says):
        change()


def test_what_cannot_be_described_gives_a_sentence():
    deformable = DescribedBackbone(BASIC, deformable=(4,))
    with pytest.raises(InputError, match="with deformable convolutions cannot be changed"):
        as_described(TwoStage(deformable, 3, FPN(deformable.out_channels, width=8)))
    with pytest.raises(InputError, match="feeds a pyramid, and this TwoStage has none"):
        as_described(TwoStage(ResNet("resnet18", width=8), 3, None))
    with pytest.raises(InputError, match=r"this one's pyramid reads \(4, 8, 16\)"):
        as_described(thin_detector("basic", first=2, last=3))
    with pytest.raises(InputError, match="this CenterNet has none"):
        as_described(CenterNet(ResNet("resnet18", width=8), 3, (8, 8, 8), 8))
    with pytest.raises(InputError, match="a backbone of the kind Linear cannot be described"):
        architecture_of(nn.Linear(1, 1))
    with pytest.raises(InputError, match="no backbone is called 'vgg'"):
        Architecture.standard("vgg")
    with pytest.raises(InputError, match=r"has stages 1 to 4, of which \(5,\) cannot be deformable"):
        DescribedBackbone(BASIC, deformable=(5,))


# --- channels gone ----------------------------------------------------------------------------------------------------


def kill_channels(backbone: DescribedBackbone, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """Make some channels of every set zero on any image; those alive."""
    modules, alive = dict(backbone.named_modules()), {}
    for channels in backbone.architecture.channel_sets():
        units = channels.channels // channels.granule
        gone = generator.choice(units, int(generator.integers(0, units // 2 + 1)), replace=False)
        mask = np.ones((units, channels.granule), dtype=bool)
        mask[gone] = False
        alive[channels.name] = np.flatnonzero(mask)
        for name in channels.norms:
            for tensor in (modules[name].weight, modules[name].bias):
                tensor.data[torch.from_numpy(~mask.ravel())] = 0
    return alive


PYRAMIDS = {
    "plain": {},
    "with norm, and a level past the backbone": {"norm": Norm("group", 4), "extra": "conv-on-input"},
    "from the middle on": {"first": 2, "last": 4},
}


@pytest.mark.parametrize(
    ("family", "kind", "pyramid"),
    [
        *((family, "batch", "plain") for family in FAMILIES),
        ("bottleneck", "frozen", "plain"),
        *(("basic", "batch", pyramid) for pyramid in list(PYRAMIDS)[1:]),
    ],
)
def test_without_dead_channels_the_function_is_the_same(family, kind, pyramid, images):
    detector = as_described(thin_detector(family, kind, **PYRAMIDS[pyramid]))
    alive = kill_channels(detector.backbone, np.random.default_rng(3))
    kept = keep_channels(detector, alive)
    sets = {each.name: each.channels for each in kept.backbone.architecture.channel_sets()}
    assert sets == {name: len(channels) for name, channels in alive.items()}
    laterals = [each if isinstance(each, nn.Conv2d) else each[0] for each in kept.fpn.laterals]
    assert [lateral.weight.shape[1] for lateral in laterals] == list(
        kept.backbone.out_channels[kept.fpn.first - 1 : kept.fpn.last]
    )
    assert sum(kept.backbone.out_channels) < sum(detector.backbone.out_channels)
    # A group norm in the pyramid enlarges what summing in another order leaves.
    assert_same_function(kept, detector, images, 1e-5 if detector.fpn.norm is None else 1e-4)


# --- blocks new and moved ---------------------------------------------------------------------------------------------


@every_family
def test_blocks_new_or_moved_add_nothing_and_keep_what_fits(family, kind, images):
    detector = as_described(thin_detector(family, kind))
    slots = slots_of(detector.backbone.architecture)
    moved = slots[-2].pop() if len(slots[-2]) > 1 else slots[-3].pop()
    without = with_blocks(detector, slots, seed=0)
    slots[0].insert(1, Slot(slots[0][-1].block))
    block = Block(tuple(4 * width // 3 // 4 * 4 for width in moved.block.inner), moved.block.groups)
    slots[-1].insert(1, replace(moved, block=block, fits=False))
    child = with_blocks(detector, slots, seed=5)
    assert child.backbone.architecture.blocks == without.backbone.architecture.blocks + 2
    assert_same_function(child, without, images)
    for ours, theirs in zip(child.train().backbone(images), without.train().backbone(images), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    old = detector.backbone.stages[moved.origin[0] - 1][moved.origin[1]].body[0].weight
    new = child.backbone.stages[-1][1].body[0].weight
    fitting = tuple(slice(min(sides)) for sides in zip(new.shape, old.shape, strict=True))
    assert torch.equal(new[fitting], old[fitting])
    assert new.abs().sum(dim=(1, 2, 3)).min() > 0, "the rest is drawn"
    again, other = (with_blocks(detector, slots, seed=seed).backbone.stages[-1][1].body[0].weight for seed in (5, 6))
    assert torch.equal(again, new)
    assert not torch.equal(other, new)


@pytest.mark.parametrize("kind", ["batch", "frozen", "group"])
def test_a_new_block_learns(kind, images):
    detector = as_described(thin_detector("bottleneck", kind))
    slots = slots_of(detector.backbone.architecture)
    slots[2].insert(2, Slot(slots[2][1].block))
    body = (deeper := with_blocks(detector, slots, seed=0)).backbone.stage3[2].body
    optimiser = torch.optim.SGD(body.parameters(), lr=0.1)
    for _ in range(2):  # at first it is the last layer alone that gets a gradient
        optimiser.zero_grad()
        deeper.backbone(images)[2].square().mean().backward()
        optimiser.step()
    assert all(parameter.grad.abs().sum() > 0 for parameter in body.parameters())


def test_nothing_is_shared_and_no_random_state_is_touched(device):
    parent = as_described(thin_detector("bottleneck")).to(device)
    before = {name: tensor.clone() for name, tensor in parent.state_dict().items()}
    random = torch.random.get_rng_state()
    slots = slots_of(parent.backbone.architecture)
    slots[1].append(Slot(slots[1][1].block))
    everything = {each.name: np.arange(each.channels) for each in parent.backbone.architecture.channel_sets()}
    for child in (with_blocks(parent, slots, seed=0), keep_channels(parent, everything), as_described(parent)):
        assert {tensor.device.type for tensor in child.state_dict().values()} == {device.type}
        with torch.no_grad():
            for tensor in child.state_dict().values():
                tensor.fill_(7)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert all(torch.equal(tensor, before[name]) for name, tensor in parent.state_dict().items())
