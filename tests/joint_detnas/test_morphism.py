"""Actions: which there are, what they do to the architecture and to the weights, and what pruning goes by."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from common.cost import count
from common.models.described import Architecture, Block, DescribedBackbone, as_described
from common.models.fpn import FPN
from common.models.two_stage import TwoStage, two_stage_losses
from common.plain import InputError
from joint_detnas.method import (
    AddLayer,
    ChannelPruning,
    LayerPruning,
    Pupil,
    Rearrange,
    backbone_cost,
    channel_importance,
    child_of,
    evolve,
    gamma_penalty,
    kept_at_cost,
    kept_channels,
    layer_importance,
    legal_actions,
    sample_action,
)
from joint_detnas.presets import KINDS, MorphismSettings
from tests.common.models.families import FAMILIES, thin_detector

# --- add-layer --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_add_layer_puts_a_block_where_it_says_and_leaves_every_feature_to_the_bit(family, student_of, images):
    student = student_of(family).eval()
    before = student.backbone.architecture
    for number in (1, len(before.stages)):
        stage = before.stages[number - 1]
        for position in {stage.first_movable, len(stage.blocks)}:
            added = evolve(student, AddLayer(number, position))
            after = added.backbone.architecture.stages[number - 1].blocks
            assert after[:position] + after[position + 1 :] == stage.blocks
            assert after[position] in stage.blocks
            with torch.no_grad():
                assert all(map(torch.equal, added.backbone(images), student.backbone(images)))


@pytest.mark.parametrize("kind", ["batch", "frozen"])
def test_a_new_layer_may_add_a_little_from_the_start(kind, student_of, images):
    student = student_of("basic", kind).eval()
    silent, little = (
        evolve(student, AddLayer(2, 1), settings=MorphismSettings(new_gamma=gamma)).backbone for gamma in (0.0, 0.1)
    )
    block = little.stages[1][1].body
    assert (block[-1].weight if kind == "batch" else block[-2].weight).abs().max() > 0
    with torch.no_grad():
        assert not torch.equal(little(images)[1], silent(images)[1])
        torch.testing.assert_close(little(images)[1], silent(images)[1], rtol=0.5, atol=0.5)


def test_an_added_layer_is_like_those_beside_it():
    architecture = Architecture.standard("mobilenet_v2")
    assert architecture.stages[2].blocks == (Block((144,)), Block((192,)), Block((192,)))
    backbone = DescribedBackbone(architecture)
    student = as_described(TwoStage(backbone, 3, FPN(backbone.out_channels, width=8)))
    for position in (1, 2, 3):  # not like the first, whose width comes from the stage before
        blocks = evolve(student, AddLayer(3, position)).backbone.architecture.stages[2].blocks
        assert blocks[position] == Block((192,))
    assert evolve(student, AddLayer(7, 1)).backbone.architecture.stages[6].blocks == (Block((960,)), Block((960,)))


# --- channel pruning --------------------------------------------------------------------------------------------------


def test_one_threshold_for_the_whole_backbone(student_of):
    """Network slimming by hand, on a ResNet of basic blocks, where only stage 1 and the stem share their channels."""
    student = student_of("basic")
    norms = dict(student.backbone.named_modules())
    widths = {}  # by name: the norms of each set
    for stage in range(1, 5):
        tied = ["stem.1"] if stage == 1 else [f"stage{stage}.0.projection.1"]
        widths[f"stage{stage}"] = tied + [f"stage{stage}.{place}.body.4" for place in (0, 1)]
        for place in (0, 1):
            widths[f"stage{stage}.block{place}.inner0"] = [f"stage{stage}.{place}.body.1"]
    widths["stem"] = widths.pop("stage1")
    units = []
    for name, members in widths.items():
        gammas = torch.stack([norms[member].weight.detach().abs() for member in members])
        units += [(float(value), name, index) for index, value in enumerate(gammas.mean(dim=0))]
    removed: dict[str, list[int]] = {name: [] for name in widths}
    for _, name, index in sorted(units)[: int(0.2 * len(units))]:
        removed[name].append(index)
    assert sum(map(len, removed.values())) > 20
    kept = kept_channels(student.backbone, 20.0, MorphismSettings(fewest_channels=1))
    for name, members in widths.items():
        width = len(norms[members[0]].weight)
        assert sorted(removed[name]) == sorted(set(range(width)) - set(kept[name].tolist()))


@pytest.mark.parametrize(
    ("family", "kind"), [("basic", "batch"), pytest.param("bottleneck", "group", marks=pytest.mark.slow)]
)
def test_a_share_of_the_cost_is_the_closest_that_any_number_of_units_comes_to(family, kind, student_of):
    """Units go in the order in which more and more per cent of the channels take them."""
    backbone, size = student_of(family, kind).backbone, (64, 64)

    def cost(kept) -> int:
        widths = {name: len(channels) for name, channels in kept.items()}
        return backbone_cost(backbone.architecture.with_channels(widths), size, backbone.norm).macs_mmdet

    whole = backbone_cost(backbone.architecture, size, backbone.norm).macs_mmdet
    channels = sum(each.channels for each in backbone.architecture.channel_sets())
    every = [whole, *(cost(kept_channels(backbone, 100 * n / channels)) for n in range(1, channels, channels // 8))]
    assert sorted(every, reverse=True) == every
    for share in (1.001, 0.3, 0.001):
        found = cost(kept_at_cost(backbone, share * whole, size))
        assert abs(found - share * whole) <= min(abs(each - share * whole) for each in every)
    assert cost(kept_at_cost(backbone, whole, size)) == whole
    tenth = cost(kept_channels(backbone, 10.0, MorphismSettings(percentage_of="cost")))
    assert tenth == pytest.approx(0.9 * whole, rel=0.02)


def test_importance_of_tied_channels(student_of):
    backbone = student_of("bottleneck").backbone
    norms = dict(backbone.named_modules())
    names = ["stage4.0.projection.1", *(f"stage4.{place}.body.7" for place in range(3))]
    gammas = torch.stack([norms[name].weight.detach().abs().double() for name in names]).numpy()
    assert channel_importance(backbone)["stage4"] == pytest.approx(gammas.mean(axis=0))
    assert channel_importance(backbone, MorphismSettings(tied="max"))["stage4"] == pytest.approx(gammas.max(axis=0))
    assert "stem" not in channel_importance(backbone)


def test_equal_gammas_go_evenly_from_every_width(student_of):
    student = student_of("bottleneck")
    for layer in student.backbone.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
    kept = kept_channels(student.backbone, 25.0)
    for channels in student.backbone.architecture.channel_sets():
        left = kept[channels.name]
        assert left.tolist() == list(range(len(left)))  # the last ones go
        if channels.name != "stem":
            assert abs(len(left) - 0.75 * channels.channels) <= 1


def test_groups_stay_whole(student_of):
    student = student_of("resnext")
    importance = channel_importance(student.backbone)
    architecture = student.backbone.architecture
    pruned = evolve(student, ChannelPruning(30.0)).backbone.architecture
    kept = kept_channels(student.backbone, 30.0)
    lost = 0
    for number, (before, after) in enumerate(zip(architecture.stages, pruned.stages, strict=True), 1):
        for place, (old, new) in enumerate(zip(before.blocks, after.blocks, strict=True)):
            width = old.inner[0] // old.groups
            assert new.inner[0] == new.groups * width
            name = f"stage{number}.block{place}.inner0"
            groups = np.unique(kept[name] // width)
            assert set(groups) == set(np.argsort(importance[name])[old.groups - new.groups :])
            lost += old.groups - new.groups
    assert lost > 0


def test_widths_keep_their_least(student_of):
    student = student_of("bottleneck")
    five = evolve(student, ChannelPruning(99.0), settings=MorphismSettings(fewest_channels=5))
    assert {each.channels for each in five.backbone.architecture.channel_sets()} == {5, 8}  # the stem stays
    least = evolve(student, ChannelPruning(99.0))
    assert {each.channels for each in least.backbone.architecture.channel_sets()[1:]} == {4}
    assert not any(isinstance(action, ChannelPruning) for action in legal_actions(least.backbone.architecture))
    with pytest.raises(InputError, match="every width is at its least"):
        evolve(least, ChannelPruning(10.0))
    tiny = evolve(student, ChannelPruning(0.001)).backbone.architecture  # one channel goes in any case
    before, after = (sum(each.channels for each in one.channel_sets()) for one in (student.backbone.architecture, tiny))
    assert before - after == 1


# --- layer pruning and rearrange --------------------------------------------------------------------------------------


def scale_block(student: nn.Module, number: int, place: int, factor: float) -> None:
    for layer in getattr(student.backbone, f"stage{number}")[place].modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.data *= factor


@pytest.mark.parametrize("family", FAMILIES)
def test_layer_pruning_takes_the_block_of_least_weight(family, student_of):
    student = student_of(family)
    numbers = {"inverted_residual": (4, 2)}
    number, place = numbers.get(family, (3, 1))
    scale_block(student, 2, 0, 1e-4)  # it changes the shape, and stays
    scale_block(student, number, place, 1e-3)
    pruned = evolve(student, LayerPruning())
    before, after = student.backbone.architecture, pruned.backbone.architecture
    blocks = before.stages[number - 1].blocks
    expected = [stage.blocks for stage in before.stages]
    expected[number - 1] = blocks[:place] + blocks[place + 1 :]
    assert after == before.with_blocks(expected)
    left = iter(pruned.state_dict().items())  # in order, all but that block's, and equal
    for name, tensor in student.state_dict().items():
        if not name.startswith(f"backbone.stage{number}.{place}."):
            assert torch.equal(next(left)[1], tensor), name
    assert next(left, None) is None


def test_least_norm_by_hand(student_of):
    student = student_of("basic")
    scale_block(student, 1, 0, 0.5)
    importance = layer_importance(student.backbone)
    plain = layer_importance(student.backbone, MorphismSettings(layer_norm="mean"))
    places = [(1, 0), (1, 1), (2, 1), (3, 1), (4, 1)]  # stage 1 has no projection
    assert list(importance) == places
    for number, place in places:
        block = getattr(student.backbone, f"stage{number}")[place]
        weights = [block.body[0].weight.detach(), block.body[3].weight.detach()]
        total, size = sum(float(w.abs().sum()) for w in weights), sum(w.numel() for w in weights)
        assert plain[number, place] == pytest.approx(total / size, rel=1e-4)
        scaled = sum(float(w.abs().sum()) * (9 * w.shape[1]) ** 0.5 for w in weights)
        assert importance[number, place] == pytest.approx(scaled / size, rel=1e-4)


@pytest.mark.parametrize("family", ["basic", "bottleneck"])
def test_no_layer_is_the_least_for_its_width(family):
    """Of networks that nothing was trained in, any block may be the least; by the plain mean it is always the last."""
    least = {"fan-in": Counter(), "mean": Counter()}
    for seed in range(20):
        torch.manual_seed(seed)
        backbone = DescribedBackbone(Architecture.standard("resnet18" if family == "basic" else "resnet50", 8))
        for norm, found in least.items():
            importance = layer_importance(backbone, MorphismSettings(layer_norm=norm))
            found[min(importance, key=importance.get)[0]] += 1
    assert set(least["mean"]) == {4}
    assert len(least["fan-in"]) > 1
    assert least["fan-in"][4] < 10


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("direction", [1, -1])
def test_rearrange_moves_a_block_and_keeps_what_fits(family, direction, student_of, images):
    student = student_of(family).eval()
    before = student.backbone.architecture
    number = 5 if family == "inverted_residual" else 3
    source, target = before.stages[number - 1], before.stages[number - 1 + direction]
    place = len(source.blocks) - 1 if direction == 1 else 1
    position = 1 if direction == 1 else len(target.blocks)
    moved = evolve(student, Rearrange(number, direction))
    after = moved.backbone.architecture
    blocks = after.stages[number - 1 + direction].blocks
    assert after.stages[number - 1].blocks == source.blocks[:place] + source.blocks[place + 1 :]
    assert blocks[:position] + blocks[position + 1 :] == target.blocks
    assert blocks[position] == target.blocks[1], "it takes the widths that blocks have there"
    old = student.backbone.stages[number - 1][place].body[0].weight
    new = moved.backbone.stages[number - 1 + direction][position].body[0].weight
    kept = tuple(slice(min(sides)) for sides in zip(new.shape, old.shape, strict=True))
    assert torch.equal(new[kept], old[kept])

    scale_block(student, number, place, 1e-6)  # so that layer pruning takes the same block away
    pruned = evolve(student, LayerPruning())
    with torch.no_grad():
        for ours, theirs in zip(moved.backbone(images), pruned.backbone(images), strict=True):
            torch.testing.assert_close(ours, theirs)


# --- the action space -------------------------------------------------------------------------------------------------


def test_legal_actions_of_a_resnet18(student_of):
    student = student_of("basic")
    actions = legal_actions(student.backbone.architecture, MorphismSettings(percentage=5.0))
    assert Counter(action.kind for action in actions) == {
        "layer pruning": 1,
        "channel pruning": 1,
        "add-layer": 3 + 2 + 2 + 2,  # only stage 1 has nothing that must come first
        "rearrange": 6,
    }
    for action in actions:
        evolve(student, action)
    assert str(ChannelPruning(10.0)) == "channel pruning 10 %"
    assert str(Rearrange(3, -1)) == "rearrange stage 3 to 2"
    assert str(AddLayer(2, 4)) == "add-layer stage 2 position 4"


def test_kinds_are_alike_likely(student_of):
    architecture = student_of("basic").backbone.architecture
    generator = np.random.default_rng(0)
    drawn = [sample_action(architecture, generator) for _ in range(800)]
    kinds = Counter(action.kind for action in drawn)
    assert set(kinds) == set(KINDS)
    assert all(150 < number < 250 for number in kinds.values())
    assert len({action for action in drawn if action.kind == "add-layer"}) == 9
    bare = architecture.with_blocks([stage.blocks[:1] for stage in architecture.stages])
    left = {sample_action(bare, generator).kind for _ in range(50)}
    assert left == {"channel pruning", "add-layer"}
    only = MorphismSettings(kinds=("add-layer", "rearrange"))
    assert {action.kind for action in legal_actions(architecture, only)} == {"add-layer", "rearrange"}
    evolve(student_of("basic"), LayerPruning(), settings=only)  # what a search leaves out can still be done


def test_what_cannot_be_done_gives_a_sentence(student_of):
    student = student_of("basic")
    adding = [AddLayer(*place) for place in ((2, 0), (1, 3), (5, 1), (0, 1))]
    for action in (*adding, Rearrange(4, 1), Rearrange(1, -1), Rearrange(2, 2)):
        with pytest.raises(InputError, match=f"does not allow the action {action}"):
            evolve(student, action)
    for _ in range(5):
        student = evolve(student, LayerPruning())
        if not layer_importance(student.backbone):
            break
    assert student.backbone.architecture.blocks == 4
    for action in (LayerPruning(), Rearrange(1, 1)):
        with pytest.raises(InputError, match="does not allow"):
            evolve(student, action)
    least, only = student.backbone.architecture, MorphismSettings(kinds=("layer pruning", "rearrange"))
    with pytest.raises(InputError, match="allows no action of the kinds layer pruning, rearrange: give more of them"):
        sample_action(least, np.random.default_rng(0), only)
    with pytest.raises(InputError, match="call as_described"):
        evolve(thin_detector("basic"), LayerPruning())


# --- inheritance ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        *(pytest.param(family, "batch", marks=[pytest.mark.slow] * (family != "bottleneck")) for family in FAMILIES),
        ("basic", "frozen"),
    ],
)
def test_twenty_four_random_actions_never_break_a_student(family, kind, student_of, batch):
    student = student_of(family, kind).eval()
    generator, kinds = np.random.default_rng(0), Counter()
    for number in range(24):
        architecture = student.backbone.architecture
        action = sample_action(architecture, generator)
        student = evolve(student, action, number)
        kinds[action.kind] += 1
        after = student.backbone.architecture
        assert after != architecture, action
        assert Architecture.from_dict(json.loads(json.dumps(after.to_dict()))) == after
        assert after.blocks == architecture.blocks + {"add-layer": 1, "layer pruning": -1}.get(action.kind, 0)
        assert (after.out_channels == architecture.out_channels) or action.kind == "channel pruning"
        with torch.no_grad():
            features = student.backbone(batch.images[:1])
        assert tuple(feature.shape[1] for feature in features) == after.out_channels
        assert all(feature.isfinite().all() for feature in features)
    assert set(kinds) == set(KINDS)
    assert backbone_cost(after, (64, 64), student.backbone.norm) == count(student.backbone, (64, 64))
    loss = two_stage_losses(student.train()(batch.images), batch)["loss"] + 1e-5 * gamma_penalty(student)
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in student.parameters())
    assert student.backbone.stem[0].weight.grad.abs().sum() > 0


def test_which_tensors_an_action_leaves_as_they_are(student_of):
    parent = student_of("bottleneck")
    before = parent.state_dict()

    def changed(child: nn.Module) -> set[str]:
        after = child.state_dict()
        same = {name for name in after if name in before and torch.equal(after[name], before[name])}
        return {name.rsplit(".", 1)[0] for name in after if name not in same}

    added = changed(evolve(parent, AddLayer(2, 4)))  # at the end of a stage of four blocks
    assert {name.split(".body")[0] for name in added} == {"backbone.stage2.4"}
    pruned = changed(evolve(parent, ChannelPruning(20.0)))
    assert not {name for name in pruned if name.startswith(("rpn", "roi", "fpn.outputs", "backbone.stem"))}
    assert {name for name in pruned if name.startswith("fpn")} <= {f"fpn.laterals.{level}" for level in range(4)}


@pytest.mark.parametrize("action", [AddLayer(2, 1), ChannelPruning(20.0), LayerPruning(), Rearrange(3, -1)], ids=str)
def test_moments_follow_the_weights(action, student_of, batch):
    """The optimiser's moments, made equal to the weights: of every weight that is inherited they still are."""
    parent = Pupil(student_of("bottleneck"), 24)
    scale_block(parent.student, 3, 1, 1e-3)
    parent.moments = {f"{name}.exp_avg": each.detach().clone() for name, each in parent.named_parameters()}
    parent.moments |= {f"{name}.step": torch.tensor(7.0) for name, _ in parent.named_parameters()}
    child, weights = child_of(parent, action, 5, MorphismSettings()), {}
    new = {AddLayer: "student.backbone.stage2.1.", Rearrange: "student.backbone.stage2.4."}.get(type(action), "none")
    for name, parameter in child.named_parameters():
        if not name.startswith(new):
            weights[name] = parameter
            assert torch.equal(child.moments[f"{name}.exp_avg"], parameter), name
            assert child.moments[f"{name}.step"] == 7
    assert len(child.moments) == 2 * len(weights)
    assert any(name.startswith(new) for name, _ in child.named_parameters()) == (new != "none")
    assert child_of(parent, action, 5, MorphismSettings(inherit_moments=False)).moments == {}


# --- sparsity ---------------------------------------------------------------------------------------------------------


def test_gamma_penalty_is_the_sum_of_all_gammas(student_of):
    student = student_of("bottleneck")
    student.backbone.stage1[0].body[1].weight.data.neg_()
    expected = 0.0
    for name, parameter in student.backbone.named_parameters():
        if parameter.ndim == 1 and name.endswith("weight"):
            expected += float(parameter.detach().abs().sum())
    penalty = gamma_penalty(student)
    assert penalty.item() == pytest.approx(expected, rel=1e-5)
    penalty.backward()
    assert torch.equal(student.backbone.stage1[0].body[1].weight.grad, -torch.ones(8))
    assert torch.equal(student.backbone.stem[1].weight.grad, torch.ones(8))
    assert student.backbone.stem[0].weight.grad is None
    assert gamma_penalty(student_of("basic", "group")) > 0
    assert gamma_penalty(student_of("basic", "frozen")) == 0
