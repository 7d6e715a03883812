"""The teacher pool: its space, teachers taken out of it, and how it is trained."""

import itertools
import signal
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from common.evaluate.recalibrate import reestimate_batch_norm
from common.models.described import DescribedBackbone
from common.models.resnet import ResNet
from common.models.two_stage import look_at, two_stage_losses
from common.plain import InputError
from common.settings import Optimisation
from common.train.loop import Training
from common.train.run_folder import Run
from joint_detnas.method import (
    Shrinking,
    TeacherPool,
    described,
    distilled_losses,
    integrated_progressive_shrinking,
    mutate_teacher,
    near_largest,
    sample_teacher,
    teacher_cost,
)
from joint_detnas.presets import (
    DistillationSettings,
    Phase,
    SearchSettings,
    ShrinkingSettings,
    Teacher,
    TeacherSpace,
)
from tests.common.models.families import make_batch
from tests.common.models.test_elastic_detector import corner
from tests.joint_detnas.thin_pool import SPACE, make_pool

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
    drawn = Counter(sample_teacher(space, generator) for _ in range(4000))
    assert drawn.keys() == everything
    assert max(drawn.values()) < 80, "31 draws of each on average"


def test_a_teacher_is_read_as_it_is_written():
    for teacher in (PAPER.largest(), PAPER.smallest(), MIDDLE, Teacher((2, 2, 2, 2), (1, 1, 1.25, 1), 1)):
        assert Teacher.parse(str(teacher)) == teacher
    assert str(Teacher((3, 4, 23, 3), (1.5, 1.25, 1, 1.5), 1)) == "d3-4-23-3_w1.5-1.25-1-1.5_n1"


def test_a_mutation_draws_depth_or_width_of_each_stage_anew():
    """Never the same teacher."""
    generator, before = np.random.default_rng(1), SPACE.places_of(MIDDLE)
    drawn = Counter(mutate_teacher(SPACE, MIDDLE, generator) for _ in range(3000))
    assert MIDDLE not in drawn
    expected = set()
    for widths in itertools.product((False, True), repeat=4):
        free = [*(stage + 4 * width for stage, width in enumerate(widths)), 8]
        for places in itertools.product(*(range(len(SPACE.choices[place])) for place in free)):
            changed = dict(zip(free, places, strict=True))
            expected.add(SPACE.at([changed.get(place, old) for place, old in enumerate(before)]))
    assert drawn.keys() <= expected
    changed = Counter(
        place
        for teacher, times in drawn.items()
        for place, (new, old) in enumerate(zip(SPACE.places_of(teacher), before, strict=True))
        if new != old
        for _ in range(times)
    )
    shares = [
        (len(choices) - 1) / len(choices) / (1 if place == 8 else 2) for place, choices in enumerate(SPACE.choices)
    ]
    assert [changed[place] / 3000 for place in range(9)] == pytest.approx(shares, abs=0.04)


def test_a_mutation_by_one_step():
    choices = [[1, 2], [1, 2], [1, 2, 3], [1, 2], *[[1.0, 1.25, 1.5]] * 5]
    parts = [*MIDDLE.depths, *MIDDLE.widths, MIDDLE.neck]
    neighbours = set()
    for place, allowed in enumerate(choices):
        at = allowed.index(parts[place])
        for step in (at - 1, at + 1):
            if 0 <= step < len(allowed):
                changed = [*parts[:place], allowed[step], *parts[place + 1 :]]
                neighbours.add(Teacher(tuple(changed[:4]), tuple(changed[4:8]), changed[8]))
    generator, settings = np.random.default_rng(1), SearchSettings(mutation="one-step")
    assert {mutate_teacher(SPACE, MIDDLE, generator, settings) for _ in range(1000)} == neighbours
    alone = replace(SPACE, depths=((1, 1),) * 4, widths=(1.0,))
    with pytest.raises(InputError, match="one teacher"):
        mutate_teacher(alone, alone.largest(), generator)


def test_teachers_and_spaces_that_cannot_be_are_refused():
    with pytest.raises(InputError, match="24 blocks in stage 3"):
        PAPER.places_of(replace(PAPER.largest(), depths=(3, 4, 24, 3)))
    with pytest.raises(InputError, match=r"width of 1\.1"):
        PAPER.places_of(replace(PAPER.largest(), neck=1.1))


def test_phases_shrink_depth_and_width_together():
    assert _all(near_largest(SPACE, 0)) == {SPACE.largest()}
    one = near_largest(PAPER, 1)
    assert one.depths == ((2, 3), (3, 4), (22, 23), (2, 3))
    assert one.widths == (1.25, 1.5)
    assert near_largest(PAPER, 2).depths == ((2, 3), (2, 4), (21, 23), (2, 3))
    assert near_largest(PAPER, None) == PAPER
    assert all(near_largest(one, steps).largest() == PAPER.largest() for steps in (0, 1, 30, None))


# ---- cost


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
    standard = ResNet("resnet50", width=8).eval()
    architecture, neck = described(SPACE_OF_RESNET50, SPACE_OF_RESNET50.largest())
    ours = DescribedBackbone(architecture).eval()
    ours.load_state_dict(dict(zip(ours.state_dict(), standard.state_dict().values(), strict=True)))
    images = torch.randn(1, 3, 64, 64)
    for a, b in zip(ours(images), standard(images), strict=True):
        torch.testing.assert_close(a, b)
    assert (ours.out_channels, neck) == (standard.out_channels, 16)


SPACE_OF_RESNET50 = replace(SPACE, depths=((2, 3), (2, 4), (2, 6), (2, 3)), widths=(1.0,))


def test_a_teacher_is_ready_once_its_statistics_are_its_own(device):
    pool, batch = make_pool().to(device), make_batch().to(device)
    before = {name: tensor.clone() for name, tensor in pool.state_dict().items()}
    ready = pool.ready(MIDDLE, [batch.images])
    assert (ready.backbone.architecture, ready.fpn.width) == described(SPACE, MIDDLE)
    assert all(torch.equal(tensor, before[name]) for name, tensor in pool.state_dict().items())
    assert not ready.training
    assert not any(parameter.requires_grad for parameter in ready.parameters())
    pool.select(MIDDLE)
    reestimate_batch_norm(pool, [batch.images])
    with torch.no_grad():
        for a, b in zip(ready(batch.images).maps, pool.eval()(batch.images).maps, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


# ---- integrated progressive shrinking


def test_the_largest_net_of_a_step_teaches_the_others(device):
    pool, batch, settings = make_pool().to(device), make_batch().to(device), DistillationSettings(0.1, 2.0, 3.0)
    model = Shrinking(pool).to(device).train()
    torch.nn.init.normal_(model.adapter.weight)
    large, small = (pool.extract(*described(SPACE, each)) for each in (SPACE.largest(), UNEQUAL))

    torch.manual_seed(5)
    steps = model.losses(batch, [UNEQUAL], settings)
    first = next(steps)
    first["loss"].backward()
    model.zero_grad()
    second = next(steps)
    second["loss"].backward()
    assert next(steps, None) is None
    assert pool.backbone.active_blocks == SPACE.largest().depths, "as it was before"

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
        torch.testing.assert_close(corner(full[name].grad, parameter.shape), parameter.grad, rtol=1e-3, atol=1e-4)
        outside = full[name].grad.abs().sum() - corner(full[name].grad, parameter.shape).abs().sum()
        assert outside.abs() <= 1e-4 * full[name].grad.abs().sum(), "the teacher itself learns nothing from teaching"


class Batches:
    """Two random batches an epoch; asks to stop while the batch of a global number is drawn."""

    steps_per_epoch = 2

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at, self.drawn = stop_at, 0

    def epoch(self, epoch: int, start: int = 0, stage: str = ""):
        for index in range(start, self.steps_per_epoch):
            if self.drawn == self.stop_at:
                signal.raise_signal(signal.SIGINT)
            self.drawn += 1
            yield make_batch(10 * epoch + index)


SETTINGS = ShrinkingSettings(
    phases=(Phase("full", 1, steps_down=0), Phase("one-step", 1, 0.5, steps_down=1), Phase("all", 2)),
    optimisation=Optimisation(learning_rate=1e-3, policy="multistep", milestones=(0.5,)),
)


def _shrink(folder, batches=None, settings=SETTINGS, model=None):
    model = model or Shrinking(make_pool())
    with Run.open(folder, {}) as run:
        reports = integrated_progressive_shrinking(
            run, model, batches or Batches(), settings, Training(settings.optimisation, seed=4)
        )
        return model, reports, run


def test_a_first_phase_that_shrinks_sorts_all_channels(tmp_path, monkeypatch):
    """Nothing was trained before it, so no width stays together."""
    sorted_by = []
    monkeypatch.setattr("common.train.shrinking.fit", lambda *_: None)
    monkeypatch.setattr(TeacherPool, "sort_channels", lambda _, trained: sorted_by.append(trained))
    _shrink(tmp_path, settings=replace(SETTINGS, phases=SETTINGS.phases[1:]))
    assert sorted_by[0] == [described(SPACE, SPACE.largest())]
    assert len(sorted_by[1]) == 2


def test_phases_contain_what_they_should_and_a_broken_run_ends_alike(tmp_path, monkeypatch, logged):
    seen, sorted_at = [], []
    losses, sort = Shrinking.losses, TeacherPool.sort_channels

    def watched(self, batch, teachers, distillation):
        seen.append(tuple(teachers))
        return losses(self, batch, teachers, distillation)

    monkeypatch.setattr(Shrinking, "losses", watched)
    monkeypatch.setattr(
        TeacherPool, "sort_channels", lambda pool, kept: (sorted_at.append((len(seen), kept)), sort(pool, kept))
    )
    model, reports, run = _shrink(tmp_path / "unbroken")
    assert [report.steps for report in reports] == [2, 2, 4]
    depths, widths = SPACE.largest().depths, {2: [1.5], 4: [1.25, 1.5]}
    kept = {at: [described(SPACE, Teacher(depths, (each,) * 4, each)) for each in widths[at]] for at in widths}
    assert dict(sorted_at) == kept, "before each phase that shrinks, by what was trained before"
    assert seen[:2] == [(), ()]
    assert all(len(teachers) == 2 for teachers in seen[2:])
    near = _all(near_largest(SPACE, 1))
    assert {teacher for teachers in seen[2:4] for teacher in teachers} <= near
    assert {teacher for teachers in seen[4:] for teacher in teachers} - near
    assert len(set(seen[2:])) == 6
    assert not {"distil_class", "distil_box"} & reports[0].losses.keys()
    assert {"distil_feature", "distil_class", "distil_box", "roi_class"} <= reports[1].losses.keys()
    rates = {record["stage"]: record["learning_rate"] for record in reversed(logged(run.path))}  # of first epochs
    assert [rates[phase.name] for phase in SETTINGS.phases] == pytest.approx([1e-4, 5e-5, 1e-4])

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
