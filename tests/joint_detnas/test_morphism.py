"""Actions: what they do to the architecture, to the weights, and to the function."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from common.cost import count
from common.models.detector import load_detector, save_detector
from common.models.fpn import FPN
from common.models.norm import Norm
from common.models.retinanet import RetinaNet, retinanet_losses
from common.models.two_stage import two_stage_losses
from common.plain import InputError
from joint_detnas.morphism import (
    KINDS,
    AddLayer,
    ChannelPruning,
    LayerPruning,
    MorphismSettings,
    Rearrange,
    channel_importance,
    evolve,
    gamma_penalty,
    kept_channels,
    layer_importance,
    legal_actions,
    sample_action,
)
from joint_detnas.students import FREE_WIDTHS, Architecture, Block, StudentBackbone, as_student

FAMILIES = tuple(FREE_WIDTHS)
NORMS = (nn.BatchNorm2d, FrozenBatchNorm2d)


@torch.no_grad()
def features_of(student: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    return student.fpn(student.backbone(images))


def assert_same_function(one: nn.Module, other: nn.Module, images: Tensor, tolerance: float = 1e-5) -> None:
    one, other = one.eval(), other.eval()
    for ours, theirs in zip(features_of(one, images), features_of(other, images), strict=True):
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)
    ours, theirs = one.detect(images), other.detect(images)
    assert torch.equal(ours.valid, theirs.valid)
    torch.testing.assert_close(ours.boxes, theirs.boxes, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(ours.scores, theirs.scores, atol=1e-5, rtol=1e-4)


# --- add-layer --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["batch", "frozen", "group-ws"])
def test_add_layer_leaves_the_function_unchanged(family, kind, student_of, images):
    student = student_of(family, kind)
    before = student.backbone.architecture
    for number in (1, len(before.stages)):
        stage = before.stages[number - 1]
        for position in {stage.first_movable, len(stage.blocks)}:
            added = evolve(student, AddLayer(number, position))
            after = added.backbone.architecture.stages[number - 1].blocks
            assert after[:position] + after[position + 1 :] == stage.blocks
            assert after[position] in stage.blocks
            assert_same_function(added, student, images)
    student.train()
    assert evolve(student, AddLayer(1, 1)).training
    for ours, theirs in zip(added.train().backbone(images), student.backbone(images), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)  # by the statistics of the batch, too


@pytest.mark.parametrize("kind", ["batch", "frozen", "group"])
def test_an_added_layer_learns(kind, student_of, images):
    added = evolve(student_of("bottleneck", kind), AddLayer(3, 2))
    body = added.backbone.stage3[2].body
    optimiser = torch.optim.SGD(body.parameters(), lr=0.1)
    for _ in range(2):  # at first it is the last layer alone that gets a gradient
        optimiser.zero_grad()
        added.backbone(images)[2].square().mean().backward()
        optimiser.step()
    assert all(parameter.grad.abs().sum() > 0 for parameter in body.parameters())


def test_an_added_layer_is_like_those_beside_it():
    architecture = Architecture.standard("mobilenet_v2")
    assert architecture.stages[2].blocks == (Block((144,)), Block((192,)), Block((192,)))
    layers = Architecture.from_dict(architecture.to_dict())
    student = as_student(_retinanet(StudentBackbone(layers)))
    for position in (1, 2, 3):  # not like the first, whose width comes from the stage before
        blocks = evolve(student, AddLayer(3, position)).backbone.architecture.stages[2].blocks
        assert blocks[position] == Block((192,))
    assert evolve(student, AddLayer(7, 1)).backbone.architecture.stages[6].blocks == (Block((960,)), Block((960,)))


# --- channel pruning --------------------------------------------------------------------------------------------------


def kill_channels(backbone: StudentBackbone, generator: np.random.Generator) -> tuple[dict[str, np.ndarray], float]:
    """Make some channels of every width zero on any image; those alive by set, and the dead in per cent."""
    modules, alive, dead, total = dict(backbone.named_modules()), {}, 0, 0
    for channels in backbone.architecture.channel_sets():
        if channels.name == "stem" and not channels.is_output:
            continue
        units = channels.channels // channels.granule
        most = units - -(-4 // channels.granule)
        gone = generator.choice(units, int(generator.integers(0, most // 2 + 1)), replace=False)
        mask = np.ones((units, channels.granule), dtype=bool)
        mask[gone] = False
        alive[channels.name] = np.flatnonzero(mask)
        for name in channels.norms:
            for tensor in (modules[name].weight, modules[name].bias):
                tensor.data[torch.from_numpy(~mask.ravel())] = 0
        dead += len(gone) * channels.granule
        total += channels.channels
    return alive, 100 * dead / total


PYRAMIDS = {
    "plain": {},
    "with norm, and a level past the backbone": {"norm": Norm("group", 4), "extra": "conv-on-input"},
    "of the middle": {"first": 2, "last": 3},
}


@pytest.mark.parametrize(
    ("family", "kind", "pyramid"),
    [
        *((family, kind, "plain") for family in FAMILIES for kind in ("batch", "frozen")),
        *(("basic", "batch", pyramid) for pyramid in list(PYRAMIDS)[1:]),
    ],
)
def test_pruning_dead_channels_leaves_the_function_unchanged(family, kind, pyramid, student_of, images):
    student = student_of(family, kind, **PYRAMIDS[pyramid])
    alive, percentage = kill_channels(student.backbone, np.random.default_rng(3))
    assert 5 < percentage < 50
    pruned = evolve(student, ChannelPruning(percentage))
    sets = {each.name: each.channels for each in pruned.backbone.architecture.channel_sets()}
    assert {name: sets[name] for name in alive} == {name: len(channels) for name, channels in alive.items()}
    assert [lateral.weight.shape[1] for lateral in map(_convolution, pruned.fpn.laterals)] == list(
        pruned.backbone.out_channels[pruned.fpn.first - 1 : pruned.fpn.last]
    )
    assert sum(pruned.backbone.out_channels) < sum(student.backbone.out_channels)
    # A group norm in the pyramid enlarges what summing in another order leaves.
    assert_same_function(pruned, student, images, 1e-5 if student.fpn.norm is None else 1e-4)


def _convolution(lateral: nn.Module) -> nn.Conv2d:
    return lateral if isinstance(lateral, nn.Conv2d) else lateral[0]


@pytest.mark.parametrize("counted", ["channels", "gammas"])
def test_one_threshold_for_the_whole_backbone(counted, student_of):
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
        weight = len(members) if counted == "gammas" else 1
        units += [(float(value), weight, name, index) for index, value in enumerate(gammas.mean(dim=0))]
    units.sort()
    budget = 0.2 * sum(weight for _, weight, _, _ in units)
    removed: dict[str, list[int]] = {name: [] for name in widths}
    for _, weight, name, index in units:
        budget -= weight
        if budget < 0:
            break
        removed[name].append(index)
    assert sum(map(len, removed.values())) > 20
    kept = kept_channels(student.backbone, 20.0, MorphismSettings(fewest_channels=1, counted=counted))
    for name, members in widths.items():
        width = len(norms[members[0]].weight)
        assert sorted(removed[name]) == sorted(set(range(width)) - set(kept[name].tolist()))


def test_importance_of_tied_channels(student_of):
    backbone = student_of("bottleneck").backbone
    norms = dict(backbone.named_modules())
    names = ["stage4.0.projection.1", *(f"stage4.{place}.body.7" for place in range(3))]
    gammas = torch.stack([norms[name].weight.detach().abs().double() for name in names]).numpy()
    assert channel_importance(backbone)["stage4"] == pytest.approx(gammas.mean(axis=0))
    assert channel_importance(backbone, MorphismSettings(tied="max"))["stage4"] == pytest.approx(gammas.max(axis=0))
    assert "stem" not in channel_importance(backbone)
    assert len(channel_importance(backbone, MorphismSettings(stem=True))["stem"]) == 8


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


def test_widths_keep_their_least_and_their_multiple(student_of):
    student = student_of("bottleneck")
    by_four = evolve(student, ChannelPruning(30.0), settings=MorphismSettings(multiple=4)).backbone.architecture
    widths = [each.channels for each in by_four.channel_sets()]
    assert by_four != student.backbone.architecture
    assert {width % 4 for width in widths} == {0}
    by_three = evolve(student, ChannelPruning(99.0), settings=MorphismSettings(fewest_channels=5, multiple=3))
    assert {each.channels for each in by_three.backbone.architecture.channel_sets()} == {6, 8}  # the stem stays

    least = evolve(student, ChannelPruning(99.0))
    assert {each.channels for each in least.backbone.architecture.channel_sets()[1:]} == {4}
    assert not any(isinstance(action, ChannelPruning) for action in legal_actions(least.backbone.architecture))
    with pytest.raises(InputError, match="every width is at its least"):
        evolve(least, ChannelPruning(10.0))
    tiny = evolve(student, ChannelPruning(0.001)).backbone.architecture  # one channel goes in any case
    assert (
        sum(
            a.channels - b.channels
            for a, b in zip(student.backbone.architecture.channel_sets(), tiny.channel_sets(), strict=True)
        )
        == 1
    )


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
    assert after == before.with_stage(
        number, replace(before.stages[number - 1], blocks=blocks[:place] + blocks[place + 1 :])
    )
    left = iter(pruned.state_dict().items())  # in order, all but that block's, and equal
    for name, tensor in student.state_dict().items():
        if not name.startswith(f"backbone.stage{number}.{place}."):
            assert torch.equal(next(left)[1], tensor), name
    assert next(left, None) is None


def test_least_norm_by_hand(student_of):
    student = student_of("basic")
    scale_block(student, 1, 0, 0.5)
    importance = layer_importance(student.backbone)
    places = [(1, 0), (1, 1), (2, 1), (3, 1), (4, 1)]  # stage 1 has no projection
    assert list(importance) == places
    sums = layer_importance(student.backbone, MorphismSettings(layer_norm="sum"))
    for number, place in places:
        block = getattr(student.backbone, f"stage{number}")[place]
        weights = [block.body[0].weight.detach(), block.body[3].weight.detach()]
        total, size = sum(float(w.abs().sum()) for w in weights), sum(w.numel() for w in weights)
        assert importance[number, place] == pytest.approx(total / size, rel=1e-4)
        assert sums[number, place] == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("widths", ["stage", "own"])
def test_rearrange_moves_a_block_and_keeps_what_fits(family, direction, widths, student_of, images):
    student = student_of(family, "frozen" if widths == "own" else "batch").eval()
    before = student.backbone.architecture
    number = 5 if family == "inverted_residual" else 3
    source, target = before.stages[number - 1], before.stages[number - 1 + direction]
    place = len(source.blocks) - 1 if direction == 1 else 1
    position = 1 if direction == 1 else len(target.blocks)
    settings = MorphismSettings(rearranged_widths=widths)
    moved = evolve(student, Rearrange(number, direction), settings=settings)
    after = moved.backbone.architecture
    blocks = after.stages[number - 1 + direction].blocks
    assert after.stages[number - 1].blocks == source.blocks[:place] + source.blocks[place + 1 :]
    assert blocks[:position] + blocks[position + 1 :] == target.blocks
    assert blocks[position] == (target.blocks[1] if widths == "stage" else source.blocks[place])

    old = getattr(student.backbone, f"stage{number}")[place].body
    new = getattr(moved.backbone, f"stage{number + direction}")[position].body
    last = len(new) - 2  # the last convolution, and behind it the norm
    for index, layer in enumerate(new):
        if isinstance(layer, nn.Conv2d) and not (index == last and widths == "own"):
            kept = tuple(slice(min(sides)) for sides in zip(layer.weight.shape, old[index].weight.shape, strict=True))
            assert torch.equal(layer.weight[kept], old[index].weight[kept])
            assert layer.weight.abs().sum(dim=(1, 2, 3)).min() > 0  # and the rest is drawn
    silent = new[last].weight if widths == "own" else new[last + 1].weight  # the norm is frozen in that case
    assert silent.abs().sum() == 0

    scale_block(student, number, place, 1e-6)  # so that layer pruning takes the same block away
    assert_same_function(moved, evolve(student, LayerPruning()), images)


# --- the action space -------------------------------------------------------------------------------------------------


def test_legal_actions_of_a_resnet18(student_of):
    student = student_of("basic")
    actions = legal_actions(student.backbone.architecture, MorphismSettings(percentages=(5.0, 10.0)))
    assert Counter(action.kind for action in actions) == {
        "layer pruning": 1,
        "channel pruning": 2,
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
    bare = architecture
    for number, stage in enumerate(architecture.stages, 1):
        bare = bare.with_stage(number, replace(stage, blocks=stage.blocks[:1]))
    left = {sample_action(bare, generator).kind for _ in range(50)}
    assert left == {"channel pruning", "add-layer"}


@pytest.mark.parametrize(
    "action",
    [
        AddLayer(2, 0),
        AddLayer(1, 3),
        AddLayer(5, 1),
        AddLayer(0, 1),
        Rearrange(4, 1),
        Rearrange(1, -1),
        Rearrange(2, 2),
    ],
    ids=str,
)
def test_what_cannot_be_done_gives_a_sentence(action, student_of):
    student = student_of("basic")
    with pytest.raises(InputError, match=f"does not allow the action {action}"):
        evolve(student, action)


def test_other_bad_input_gives_a_sentence(student_of, detector_of):
    student = student_of("basic")
    for _ in range(5):
        student = evolve(student, LayerPruning())
        if not layer_importance(student.backbone):
            break
    assert student.backbone.architecture.blocks == 4
    for action in (LayerPruning(), Rearrange(1, 1)):
        with pytest.raises(InputError, match="does not allow"):
            evolve(student, action)
    for percentage in (0, 100, -5):
        with pytest.raises(InputError, match=f"{percentage} %"):
            MorphismSettings(percentages=(10.0, percentage))
    for least, multiple in ((0, 1), (4, 0)):
        with pytest.raises(InputError, match=f"at least {least} channels in multiples of {multiple}"):
            MorphismSettings(fewest_channels=least, multiple=multiple)
    with pytest.raises(InputError, match="as_student"):
        evolve(detector_of("basic"), LayerPruning())


# --- inheritance ------------------------------------------------------------------------------------------------------


def naive_cost(backbone: nn.Module, image: Tensor) -> tuple[int, int]:
    """macs_mmdet and parameters of a backbone, and proof that it works on an image."""
    total = 0

    def record(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Conv2d):
            total += output.numel() * layer.weight[0].numel()
        elif isinstance(layer, NORMS):
            total += 2 * output.numel()
        else:
            total += output.numel() if isinstance(layer, nn.ReLU) else inputs[0].numel()

    counted = (nn.Conv2d, *NORMS, nn.ReLU, nn.MaxPool2d)
    hooks = [layer.register_forward_hook(record) for layer in backbone.modules() if isinstance(layer, counted)]
    with torch.no_grad():
        features = backbone(image)
    for hook in hooks:
        hook.remove()
    assert all(feature.isfinite().all() for feature in features)
    assert tuple(feature.shape[1] for feature in features) == backbone.out_channels
    assert [image.shape[-1] // feature.shape[-1] for feature in features] == [4, 8, 16, 32]
    return total, sum(parameter.numel() for parameter in backbone.parameters())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["batch", "frozen"])
def test_fifty_random_actions_never_break_a_student(family, kind, student_of, images):
    student = student_of(family, kind).eval()
    settings = MorphismSettings(rearranged_widths="own" if kind == "frozen" else "stage", stem=kind == "frozen")
    generator = np.random.default_rng(0)
    kinds = Counter()
    for _ in range(50):
        architecture = student.backbone.architecture
        action = sample_action(architecture, generator, settings)
        student = evolve(student, action, generator, settings)
        kinds[action.kind] += 1
        after = student.backbone.architecture
        assert after != architecture, action
        assert Architecture.from_dict(json.loads(json.dumps(after.to_dict()))) == after
        closed = after.cost((64, 64), student.backbone.norm)
        assert (closed.macs_mmdet, closed.params) == naive_cost(student.backbone, images[:1]), action
        difference = {"add-layer": 1, "layer pruning": -1}.get(action.kind, 0)
        assert after.blocks == architecture.blocks + difference
        assert (after.out_channels == architecture.out_channels) or action.kind == "channel pruning"
    assert set(kinds) == set(KINDS)
    assert count(student.backbone, (64, 64)) == closed
    student.detect(images)


@pytest.mark.parametrize("action", [LayerPruning(), ChannelPruning(10.0), AddLayer(2, 1), Rearrange(2, 1)], ids=str)
def test_the_parent_stays_as_it_is(action, student_of, device):
    parent = student_of("bottleneck").to(device)
    before = {name: tensor.clone() for name, tensor in parent.state_dict().items()}
    random = torch.random.get_rng_state()
    child = evolve(parent, action)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert {tensor.device.type for tensor in child.state_dict().values()} == {device.type}
    shared = {tensor.data_ptr() for tensor in parent.state_dict().values()}
    assert not shared & {tensor.data_ptr() for tensor in child.state_dict().values()}
    with torch.no_grad():
        for tensor in child.state_dict().values():
            tensor.fill_(7)
    assert all(torch.equal(tensor, before[name]) for name, tensor in parent.state_dict().items())


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


def test_channels_that_stay_keep_their_weights(student_of):
    parent = student_of("bottleneck")
    kept = kept_channels(parent.backbone, 20.0)
    child = evolve(parent, ChannelPruning(20.0))
    old, new = parent.backbone.stage3[2], child.backbone.stage3[2]
    inner, output = kept["stage3.block2.inner0"], kept["stage3"]
    assert len(inner) < old.body[0].out_channels
    assert len(output) < old.body[0].in_channels
    for row, channel in enumerate(inner):
        for column, source in enumerate(output):
            assert torch.equal(new.body[0].weight[row, column], old.body[0].weight[channel, source])
        for name in ("weight", "bias", "running_mean", "running_var"):
            assert getattr(new.body[1], name)[row] == getattr(old.body[1], name)[channel]
    for column, source in enumerate(output):
        assert torch.equal(child.fpn.laterals[2].weight[:, column], parent.fpn.laterals[2].weight[:, source])
    assert torch.equal(child.fpn.laterals[2].bias, parent.fpn.laterals[2].bias)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_seed_gives_the_same_student(family, student_of):
    def evolved(seed: int) -> tuple[list[str], nn.Module]:
        generator, student, actions = np.random.default_rng(seed), student_of(family), []
        for _ in range(6):
            actions.append(sample_action(student.backbone.architecture, generator))
            student = evolve(student, actions[-1], generator)
        student = evolve(student, AddLayer(2, 1), generator)
        return list(map(str, actions)), student

    (actions, one), (again, other) = evolved(1), evolved(1)
    assert actions == again
    assert one.backbone.architecture == other.backbone.architecture
    assert all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))
    fresh = [evolve(one, AddLayer(2, 1), np.random.default_rng(seed)).backbone.stage2[1].body[0] for seed in (1, 2)]
    assert not torch.equal(fresh[0].weight, fresh[1].weight)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["batch", "frozen"])
def test_an_evolved_student_trains_and_detects(family, kind, student_of, batch, tmp_path):
    student = student_of(family, kind)
    for action in (
        ChannelPruning(20.0),
        AddLayer(2, 1),
        Rearrange(4, -1) if family != "inverted_residual" else Rearrange(4, 1),
    ):
        student = evolve(student, action)
    optimiser = torch.optim.SGD(student.train().parameters(), lr=1e-3)
    loss = two_stage_losses(student(batch.images), batch)["loss"] + 1e-5 * gamma_penalty(student)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in student.parameters())
    before = student.backbone.stem[0].weight.detach().clone()
    optimiser.step()
    assert not torch.equal(student.backbone.stem[0].weight, before)
    found = student.eval().detect(batch.images)
    assert found.valid.any()
    save_detector(tmp_path / "evolved", student, {"categories": ["a", "b", "c"], "input_size": 64})
    again = load_detector(tmp_path / "evolved").model.detect(batch.images)
    assert torch.equal(again.boxes, found.boxes)


def _retinanet(backbone: nn.Module) -> RetinaNet:
    return RetinaNet(backbone, 3, FPN(backbone.out_channels, width=8, extra="conv-on-input", last=6))


def test_one_stage_detectors_evolve_too(backbone_of, batch):
    student = as_student(_retinanet(backbone_of("basic"))).eval()
    _, percentage = kill_channels(student.backbone, np.random.default_rng(0))
    pruned = evolve(student, ChannelPruning(percentage))
    for ours, theirs in zip(features_of(pruned, batch.images), features_of(student, batch.images), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert retinanet_losses(pruned.train()(batch.images), batch)["loss"].isfinite()


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
    assert torch.equal(gamma_penalty(student.backbone), penalty)
    penalty.backward()
    assert torch.equal(student.backbone.stage1[0].body[1].weight.grad, -torch.ones(8))
    assert torch.equal(student.backbone.stem[1].weight.grad, torch.ones(8))
    assert student.backbone.stem[0].weight.grad is None
    assert MorphismSettings().gamma_weight == 1e-5
    assert gamma_penalty(student_of("basic", "group")) > 0
    assert gamma_penalty(student_of("basic", "frozen")) == 0


def test_the_penalty_makes_gammas_small(student_of, images):
    """A step with it alone moves every gamma towards zero, and with them what pruning goes by."""
    student = student_of("basic")
    before = channel_importance(student.backbone)
    optimiser = torch.optim.SGD(student.parameters(), lr=0.1)
    gamma_penalty(student).backward()
    optimiser.step()
    for name, importance in channel_importance(student.backbone).items():
        assert importance == pytest.approx(before[name] - 0.1, abs=1e-6)
