"""The teacher pool: its space, its cost in closed form, teachers taken out of it, and how it is trained."""

import itertools
import signal
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from common.cost import count
from common.data.batches import DetectionBatches
from common.data.scenes import scenes
from common.evaluate.recalibrate import reestimate_batch_norm
from common.models import elastic
from common.models.detector import load_detector, save_detector
from common.models.resnet import ResNet
from common.models.two_stage import two_stage_losses
from common.plain import InputError
from common.settings import Optimisation
from common.train.run_folder import Run
from joint_detnas.distillation import DistillationSettings, distilled_losses, look_at
from joint_detnas.teachers import (
    Phase,
    Shrinking,
    ShrinkingSettings,
    Teacher,
    TeacherBackbone,
    TeacherPool,
    TeacherSpace,
    build_teacher,
    integrated_progressive_shrinking,
    teacher_cost,
)
from tests.joint_detnas.thin_pool import CATEGORIES, ROI, RPN, SPACE, make_batch, make_pool

PAPER = TeacherSpace()
MIDDLE = Teacher((2, 1, 2, 1), (1.25, 1.5, 1.0, 1.25), 1.25)
UNEQUAL = Teacher((1, 2, 3, 2), (1.5, 1.0, 1.5, 1.0), 1.0)


def _all(space: TeacherSpace) -> set[Teacher]:
    depths = itertools.product(*(range(fewest, most + 1) for fewest, most in space.depths))
    return {
        Teacher(depth, widths[:4], widths[4])
        for depth, widths in itertools.product(depths, list(itertools.product(space.widths, repeat=5)))
    }


# ---- the space


def test_the_space_of_the_paper_has_its_exact_count():
    assert PAPER.count() == 64_152
    assert PAPER.largest() == Teacher((3, 4, 23, 3), (1.5,) * 4, 1.5)
    assert PAPER.smallest() == Teacher((2, 2, 2, 2), (1.0,) * 4, 1.0)
    assert PAPER.stage_channels(PAPER.largest()) == (96, 192, 384, 768)
    assert PAPER.neck_channels(PAPER.largest()) == 384


def test_a_thin_space_is_counted_and_sampled_whole():
    space = replace(SPACE, depths=((1, 2), (1, 1), (2, 3), (1, 1)), widths=(1.0, 1.5))
    everything = _all(space)
    assert len(everything) == space.count() == 4 * 2**5
    generator = np.random.default_rng(0)
    drawn = Counter(space.sample(generator) for _ in range(4000))
    assert drawn.keys() == everything
    assert max(drawn.values()) < 80, "31 draws of each on average"


def test_a_teacher_is_read_as_it_is_written():
    for teacher in (PAPER.largest(), PAPER.smallest(), MIDDLE, Teacher((2, 2, 2, 2), (1, 1, 1.25, 1), 1)):
        assert Teacher.parse(str(teacher)) == teacher
    assert str(Teacher((3, 4, 23, 3), (1.5, 1.25, 1, 1.5), 1)) == "d3-4-23-3_w1.5-1.25-1-1.5_n1"
    for wrong in ("", "d3-4_w1-1_n1", "d3-4-6-3_w1-1-1-1", "d3-4-6-3 w1-1-1-1 n1", "resnet50"):
        with pytest.raises(InputError):
            Teacher.parse(wrong)


def test_a_mutation_is_one_step_of_one_choice():
    choices = [[1, 2], [1, 2], [1, 2, 3], [1, 2], *[[1.0, 1.25, 1.5]] * 5]
    parts = [*MIDDLE.depths, *MIDDLE.widths, MIDDLE.neck]
    neighbours = set()
    for place, allowed in enumerate(choices):
        at = allowed.index(parts[place])
        for step in (at - 1, at + 1):
            if 0 <= step < len(allowed):
                changed = [*parts[:place], allowed[step], *parts[place + 1 :]]
                neighbours.add(Teacher(tuple(changed[:4]), tuple(changed[4:8]), changed[8]))
    generator = np.random.default_rng(1)
    assert {SPACE.mutate(MIDDLE, generator) for _ in range(1000)} == neighbours
    alone = replace(SPACE, depths=((1, 1),) * 4, widths=(1.0,))
    with pytest.raises(InputError, match="one teacher"):
        alone.mutate(alone.largest(), generator)


def test_teachers_and_spaces_that_cannot_be_are_refused():
    with pytest.raises(InputError, match="24 blocks in stage 3"):
        PAPER.check(replace(PAPER.largest(), depths=(3, 4, 24, 3)))
    with pytest.raises(InputError, match=r"width of 1\.1"):
        PAPER.check(replace(PAPER.largest(), neck=1.1))
    for wrong, message in (
        ({"depths": ((2, 3),) * 3}, "4 stages"),
        ({"depths": ((3, 2),) * 4}, "4 stages"),
        ({"widths": (1.5, 1.0)}, "rise"),
        ({"width": 8}, "lower channel_multiple"),
    ):
        with pytest.raises(InputError, match=message):
            replace(PAPER, **wrong)


def test_phases_shrink_depth_and_width_together():
    assert _all(SPACE.near_largest(0)) == {SPACE.largest()}
    one = PAPER.near_largest(1)
    assert one.depths == ((2, 3), (3, 4), (22, 23), (2, 3))
    assert one.widths == (1.25, 1.5)
    assert PAPER.near_largest(2).depths == ((2, 3), (2, 4), (21, 23), (2, 3))
    assert PAPER.near_largest(None) == PAPER
    assert all(one.near_largest(steps).largest() == PAPER.largest() for steps in (0, 1, 30, None))


# ---- cost


@pytest.mark.parametrize("teacher", [SPACE.largest(), SPACE.smallest(), UNEQUAL], ids=str)
@pytest.mark.parametrize("size", [(96, 64), (75, 50)])
def test_the_cost_in_closed_form_is_that_of_the_network(teacher, size):
    network = build_teacher(SPACE, teacher, CATEGORIES, RPN, ROI)
    assert teacher_cost(SPACE, teacher, size, CATEGORIES, RPN, ROI) == count(network, size)


@pytest.mark.parametrize(
    ("depths", "backbone", "total", "params"),
    [((3, 4, 6, 3), 88.03, 215.82, 41.75), ((3, 4, 23, 3), 167.91, 295.70, 60.75)],
)
def test_standard_teachers_cost_what_the_paper_prints(depths, backbone, total, params):
    cost = teacher_cost(PAPER, Teacher(depths, (1,) * 4, 1), (1333, 800), 80)
    assert cost.parts["backbone"]["macs_mmdet"] / 1e9 == pytest.approx(backbone, abs=0.005)
    assert cost.macs_mmdet / 1e9 == pytest.approx(total, abs=0.005)
    assert cost.params / 1e6 == pytest.approx(params, abs=0.005)


# ---- networks


def test_a_standard_teacher_is_a_resnet():
    torch.manual_seed(0)
    ours, standard = TeacherBackbone(8, (3, 4, 6, 3), (8, 16, 32, 64)).eval(), ResNet("resnet50", width=8).eval()
    ours.load_state_dict(standard.state_dict())
    images = torch.randn(1, 3, 64, 64)
    assert all(torch.equal(a, b) for a, b in zip(ours(images), standard(images), strict=True))
    assert ours.out_channels == standard.out_channels


def _corner(full: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """By slices; of a weight on the bins of a region, of each bin."""
    if full.dim() == len(shape) + 1:
        return full[: shape[0], :, : shape[1] // full.shape[1]].flatten(1)
    return full[tuple(slice(side) for side in shape)]


@pytest.mark.parametrize("direct_from", [0, elastic.DIRECT_FROM])
@pytest.mark.parametrize("teacher", [SPACE.largest(), SPACE.smallest(), MIDDLE, UNEQUAL], ids=str)
def test_a_teacher_taken_out_computes_what_the_pool_does(teacher, direct_from, monkeypatch, device):
    monkeypatch.setattr(elastic, "DIRECT_FROM", direct_from)
    pool, batch = make_pool().to(device), make_batch().to(device)
    pool.activate(teacher)
    reestimate_batch_norm(pool, [batch.images])
    plain = pool.extract()
    assert not [module for module in plain.modules() if "Elastic" in type(module).__name__]
    assert plain.fpn.width == SPACE.neck_channels(teacher)

    pool.eval(), plain.eval()
    with torch.no_grad():
        ours, theirs = pool(batch.images), plain(batch.images)
    for a, b in zip((*ours.maps, *ours.regions), (*theirs.maps, *theirs.regions), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.proposals.boxes, theirs.proposals.boxes, rtol=1e-5, atol=1e-4)

    pool.train(), plain.train()
    for network in (pool, plain):
        generator = torch.Generator(device=device).manual_seed(0)
        losses = two_stage_losses(network(batch.images), batch, generator)
        losses["loss"].backward()
        network.found = torch.stack([*losses.values()]).detach()
    torch.testing.assert_close(pool.found, plain.found, rtol=1e-5, atol=1e-5)
    full = dict(pool.named_parameters())
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(_corner(full[name].grad, parameter.shape), parameter.grad, rtol=1e-3, atol=1e-4)
        outside = full[name].grad.abs().sum() - _corner(full[name].grad, parameter.shape).abs().sum()
        assert outside.abs() <= 1e-4 * full[name].grad.abs().sum()
    idle = [name for name in full if name not in dict(plain.named_parameters())]
    assert all(full[name].grad is None for name in idle)
    assert bool(idle) == (teacher != SPACE.largest())


def test_a_teacher_is_ready_once_its_statistics_are_its_own(device):
    pool, batch = make_pool().to(device), make_batch().to(device)
    before = {name: tensor.clone() for name, tensor in pool.state_dict().items()}
    pool.activate(UNEQUAL)
    ready = pool.ready(MIDDLE, [batch.images])
    assert pool.teacher == UNEQUAL
    assert all(torch.equal(tensor, before[name]) for name, tensor in pool.state_dict().items())
    assert not ready.training
    assert not any(parameter.requires_grad for parameter in ready.parameters())
    pool.activate(MIDDLE)
    reestimate_batch_norm(pool, [batch.images])
    with torch.no_grad():
        for a, b in zip(ready(batch.images).maps, pool.eval()(batch.images).maps, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_a_teacher_on_disk_is_the_same_teacher(tmp_path):
    pool, images = make_pool(), make_batch().images
    ready = pool.ready(MIDDLE, [images])
    save_detector(tmp_path / "teacher", ready, {"categories": ["a", "b", "c"], "input_size": 64})
    loaded = load_detector(tmp_path / "teacher").model
    found, expected = loaded.detect(images), ready.detect(images)
    assert torch.equal(found.boxes, expected.boxes)
    assert found.valid.any()


def test_sorted_channels_leave_the_largest_teacher_as_it_was(device):
    pool, batch = make_pool().to(device), make_batch().to(device)
    reestimate_batch_norm(pool, [batch.images])
    pool.eval()

    def run(teacher):
        pool.activate(teacher)
        with torch.no_grad():
            outputs = pool(batch.images)
            boxes = batch.boxes
            return [*look_at(pool, outputs.maps, boxes).__dict__.values()][1:], outputs.rpn["objectness"]

    largest, smallest = run(SPACE.largest()), run(SPACE.smallest())
    pool.sort_channels()
    torch.testing.assert_close(run(SPACE.largest()), largest, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(run(SPACE.smallest())[1], smallest[1], rtol=0.1, atol=0.1)
    block = pool.backbone.layer3[1]
    inner = block.conv3.weight.abs().sum((0, 2, 3))
    neck = pool.rpn.conv.weight.abs().sum((0, 2, 3)) + pool.roi.heads[0].hidden[0].weight.abs().sum((0, 1))
    reading = [layer.conv1 for layer in pool.backbone.layer3[1:]] + [pool.fpn.laterals[2]]
    reading += [pool.backbone.layer4[0].conv1, pool.backbone.layer4[0].downsample[0]]
    outer = sum(layer.weight.abs().sum((0, 2, 3)) for layer in reading)
    for importance in (inner, neck, outer):
        assert (importance.diff() <= 1e-4).all()


def test_a_pool_without_a_hidden_layer_is_refused():
    with pytest.raises(InputError, match="hidden layer"):
        TeacherPool(SPACE, CATEGORIES, RPN, replace(ROI, hidden=()))


# ---- integrated progressive shrinking


def test_the_largest_net_of_a_step_teaches_the_others(device):
    pool, batch, settings = make_pool().to(device), make_batch().to(device), DistillationSettings(0.1, 2.0, 3.0)
    model = Shrinking(pool).to(device).train()
    torch.nn.init.normal_(model.adapter.weight)
    large, small = pool.extract(SPACE.largest()), pool.extract(UNEQUAL)

    torch.manual_seed(5)
    steps = model.losses(batch, [UNEQUAL], settings)
    first = next(steps)
    assert pool.teacher == SPACE.largest()
    first["loss"].backward()
    model.zero_grad()
    second = next(steps)
    second["loss"].backward()
    assert next(steps, None) is None
    assert pool.teacher == SPACE.largest(), "as it was before"

    torch.manual_seed(5)
    outputs = large(batch.images)
    torch.testing.assert_close(first["loss"], two_stage_losses(outputs, batch)["loss"] / 2)

    def teaching(boxes):
        with torch.no_grad():
            return look_at(large, outputs.maps, boxes)

    expected = distilled_losses(small(batch.images), batch, teaching, model.adapter, settings)
    torch.testing.assert_close(second, expected | {"loss": expected["loss"] / 2}, rtol=1e-4, atol=1e-5)
    assert second["distil_feature"] > 0
    (expected["loss"] / 2).backward()
    full = dict(pool.named_parameters())
    for name, parameter in small.named_parameters():
        torch.testing.assert_close(_corner(full[name].grad, parameter.shape), parameter.grad, rtol=1e-3, atol=1e-4)
        outside = full[name].grad.abs().sum() - _corner(full[name].grad, parameter.shape).abs().sum()
        assert outside.abs() <= 1e-4 * full[name].grad.abs().sum(), "the teacher itself learns nothing from teaching"


def test_a_step_in_half_precision_has_about_the_same_gradients(device):
    found = []
    for enabled in (False, True):
        model = Shrinking(make_pool()).to(device).train()
        torch.manual_seed(5)
        steps = model.losses(make_batch().to(device), [SPACE.smallest(), MIDDLE], DistillationSettings(0.01))
        while True:
            with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
                losses = next(steps, None)
            if losses is None:
                break
            losses["loss"].backward()
        head = model.pool.roi.heads[0]
        found.append([each.weight.grad for each in (head.hidden[0], head.hidden[1], head.classes, model.pool.rpn.conv)])
    for full, half in zip(*found, strict=True):
        assert torch.nn.functional.cosine_similarity(full.flatten(), half.flatten(), dim=0) > 0.8


class Batches:
    """Two random batches an epoch; asks to stop while the batch of a global number is drawn."""

    steps_per_epoch = 2

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at, self.drawn = stop_at, 0

    def epoch(self, epoch: int, start: int = 0):
        for index in range(start, self.steps_per_epoch):
            if self.drawn == self.stop_at:
                signal.raise_signal(signal.SIGINT)
            self.drawn += 1
            yield make_batch(10 * epoch + index)


SETTINGS = ShrinkingSettings(
    phases=(Phase("full", 1, 0), Phase("one-step", 1, 1, learning_rate_share=0.5), Phase("all", 2, None)),
    optimisation=Optimisation(learning_rate=1e-3, policy="multistep", milestones=(0.5,)),
)


def _shrink(folder, batches=None, settings=SETTINGS, model=None):
    model = model or Shrinking(make_pool())
    with Run.open(folder, {}) as run:
        reports = integrated_progressive_shrinking(run, model, batches or Batches(), settings, seed=4)
        return model, reports, run


def test_phases_contain_what_they_should_and_a_broken_run_ends_alike(tmp_path, monkeypatch):
    seen, sorted_at = [], []
    losses, sort = Shrinking.losses, TeacherPool.sort_channels

    def watched(self, batch, teachers, distillation):
        seen.append(tuple(teachers))
        return losses(self, batch, teachers, distillation)

    monkeypatch.setattr(Shrinking, "losses", watched)
    monkeypatch.setattr(TeacherPool, "sort_channels", lambda pool: (sorted_at.append(len(seen)), sort(pool)))
    model, reports, run = _shrink(tmp_path / "unbroken")
    assert [report.steps for report in reports] == [2, 2, 4]
    assert sorted_at == [2, 4], "before each phase that shrinks"
    assert seen[:2] == [(), ()]
    assert all(len(teachers) == 2 for teachers in seen[2:])
    near = _all(SPACE.near_largest(1))
    assert {teacher for teachers in seen[2:4] for teacher in teachers} <= near
    assert {teacher for teachers in seen[4:] for teacher in teachers} - near
    assert len(set(seen[2:])) == 6
    assert not {"distil_class", "distil_box"} & reports[0].losses.keys()
    assert {"distil_feature", "distil_class", "distil_box", "roi_class"} <= reports[1].losses.keys()
    rates = [run.logged(stage=phase.name)[0]["learning_rate"] for phase in SETTINGS.phases]
    assert rates == pytest.approx([1e-4, 5e-5, 1e-4])

    before = [*seen]
    seen.clear()
    with pytest.raises(KeyboardInterrupt):
        _shrink(tmp_path / "broken", Batches(stop_at=5))  # in the second step of the last phase
    again, _, _ = _shrink(tmp_path / "broken")
    assert seen == before, "the steps go on where they stopped, with the same teachers"
    expected = model.state_dict()
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, expected[name]), name

    seen.clear(), sorted_at.clear()
    loaded, reports_again, _ = _shrink(tmp_path / "broken", model=Shrinking(make_pool(seed=9)))
    assert seen == sorted_at == []
    assert [report.steps for report in reports_again] == [2, 2, 4]
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())


def test_the_largest_net_learns_ten_images():
    dataset = scenes("train", 10, 64)
    batch = next(DetectionBatches(dataset, 64, 10).in_order())
    torch.manual_seed(0)
    model = Shrinking(TeacherPool(SPACE, len(dataset.categories), RPN, ROI)).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    history = []
    for step in range(36):
        torch.manual_seed(step)
        (losses,) = model.losses(batch, [], DistillationSettings())
        optimiser.zero_grad()
        losses["loss"].backward()
        optimiser.step()
        history.append({name: value.item() for name, value in losses.items()})
    early, late = (
        {name: np.mean([each[name] for each in part]) for name in history[0]} for part in (history[:3], history[-5:])
    )
    assert late["loss"] < 0.6 * early["loss"], (early, late)
    assert late["rpn_objectness"] < 0.6 * early["rpn_objectness"]
    assert late["roi_class"] < 0.7 * early["roi_class"]
