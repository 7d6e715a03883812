"""The score by hand, the list, and hill climbing on a made-up landscape; the loss of a pair's training."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from common.models.described import Architecture
from common.plain import InputError
from joint_detnas.method import (
    AddLayer,
    ChannelPruning,
    Judge,
    LayerPruning,
    Pair,
    Pupil,
    Rearrange,
    child_of,
    distilled_losses,
    evolve,
    gamma_penalty,
    hill_climb,
    taught_by,
    top_k,
)
from joint_detnas.presets import DistillationSettings, MorphismSettings, SearchSettings, TeacherSpace
from tests.joint_detnas.thin_pool import SPACE, make_pool

TEACHERS = TeacherSpace()
BASE = Architecture.standard("resnet50")
SIZES = ((512, 512), (1080, 720), (1333, 800))


def work(student: Architecture) -> float:
    """A made-up cost: what a block multiplies, from the widths alone."""
    return float(sum(stage.width * sum(block.inner) for stage in student.stages for block in stage.blocks))


JUDGE = Judge(work(BASE), (1333, 800), 0.07, 1.0)


# ---- the score


def test_score_of_the_base_is_its_ap_and_others_by_hand():
    judge = Judge(300.0, (1333, 800), 0.07, 1.0)
    assert judge.score(0.4, 300.0, (1333, 800)) == pytest.approx(0.4)
    # half the cost at 720 of 800 pixels: .4 * (.5 * .9)^-.07
    assert judge.score(0.4, 150.0, (1080, 720)) == pytest.approx(0.4 * math.exp(0.07 * -math.log(0.45)))
    assert judge.score(0.4, 150.0, (720, 1080)) == judge.score(0.4, 150.0, (1080, 720)), "R is the short side"
    assert replace(judge, beta=2.0).score(0.4, 300.0, (400, 400)) == pytest.approx(0.4 * 4**0.07)
    assert replace(judge, alpha=0.0).score(0.4, 1.0, (400, 400)) == 0.4
    # Table 4: R101's backbone and neck cut to 153.9 * (800 / 720)^2 G at the base size
    upgraded = judge.score(0.439, 190.0, (1080, 720))
    assert upgraded == pytest.approx(0.439 * (190 / 300 * 0.9) ** -0.07)


def test_best_resolution_is_the_one_with_the_highest_score():
    judge = Judge(100.0, (200, 100), 1.0, 1.0)
    # at half the short side an AP counts twice
    assert judge.best({(200, 100): 0.5, (50, 50): 0.3}, 100.0) == (pytest.approx(0.6), (50, 50))
    assert judge.best({(200, 100): 0.7, (50, 50): 0.3}, 100.0) == (pytest.approx(0.7), (200, 100))
    assert judge.best({(200, 100): 0.5, (50, 50): 0.25}, 100.0)[1] == (50, 50), "of equal ones the smallest"


# ---- the list


def test_top_k_keeps_the_best_and_of_equal_ones_the_first():
    pairs = [
        Pair(number, 1, 0, "train on", None, TEACHERS.largest(), BASE, score)
        for number, score in enumerate([0.2, 0.1, 0.1, 0.3, math.nan])
    ]
    assert [each.number for each in top_k(pairs, 3)] == [3, 0, 1]
    assert [each.number for each in top_k(reversed(pairs), 3)] == [3, 0, 1]
    assert [each.number for each in top_k(pairs)] == [3, 0, 1, 2], "all but the one that failed"


# ---- a made-up landscape


class Landscape:
    """Students without weights. AP rises with blocks, less and less, falls when channels get few, and is the higher the
    nearer the teacher's depth is to the student's; a child inherits what training gave its parent.
    """

    def __init__(self, fails: tuple[int, ...] = ()) -> None:
        self.students, self.records, self.trained, self.fails = {}, {}, [], fails

    def __call__(self, pairs):
        for pair in pairs:
            if pair.number not in self.records:
                self.trained.append(pair)
                self.records[pair.number] = self.measure(pair)
            yield self.records[pair.number]

    def measure(self, pair: Pair) -> dict:
        student, epochs = BASE, 0
        if pair.parent is not None:
            student, epochs = self.students[pair.parent]
            student, epochs = changed(student, pair.action), epochs + 1
        if pair.number in self.fails:
            return {"status": "failed", "reason": "does not fit in memory"}
        self.students[pair.number] = student, epochs
        channels = sum(stage.width for stage in student.stages) / sum(stage.width for stage in BASE.stages)
        apart = abs(student.blocks - sum(pair.teacher.depths))
        ap = 0.4 + 0.05 * math.log(student.blocks / BASE.blocks) - 0.05 * max(0.0, 0.5 - channels)
        ap -= 0.002 * apart + 0.05 * 0.9**epochs
        cost = work(student)
        score, size = JUDGE.best({each: ap * (min(each) / 800) ** 0.2 for each in SIZES}, cost)
        return {"architecture": student.to_dict(), "score": score, "cost": cost, "resolution": list(size)}


def changed(student: Architecture, action) -> Architecture:
    """What an action might make of an architecture."""
    stages = [list(stage.blocks) for stage in student.stages]
    if isinstance(action, ChannelPruning):
        sets = {each.name: each.channels for each in student.channel_sets()}
        return student.with_channels({name: max(4, int(0.9 * count)) for name, count in sets.items()})
    if isinstance(action, LayerPruning):
        del max(stages, key=len)[-1]
    elif isinstance(action, AddLayer):
        stages[action.stage - 1].insert(action.position, stages[action.stage - 1][-1])
    elif isinstance(action, Rearrange):
        stages[action.stage - 1].pop()
        target = stages[action.stage - 1 + action.direction]
        target.append(target[-1])
    blocks = zip(student.stages, stages, strict=True)
    return replace(student, stages=tuple(replace(stage, blocks=tuple(each)) for stage, each in blocks))


def test_landscape_is_climbed_as_algorithm_1_says():
    landscape = Landscape()
    settings = SearchSettings(budget=40, k=3, generation=4)
    told = []
    history = hill_climb(TEACHERS, settings, landscape, 0, lambda numbers: told.append(list(numbers)))
    assert [each.number for each in history.pairs] == list(range(41))
    assert history.pairs[0].score == history.scores()[0]
    assert history.best().score == history.scores()[-1] > history.pairs[0].score
    assert [each.step for each in history.pairs[1:]] == ["student", "teacher"] * 20, "one after the other"
    generations, place = [1, *[4] * 10], 0
    for generation, count in enumerate(generations):
        best = top_k(history.pairs[:place], 3)
        for each in history.pairs[place : place + count]:
            assert each.generation == generation
            if each.number == 0:
                continue
            parent = next(member for member in best if member.number == each.parent)
            if each.step == "student":
                assert each.teacher == parent.teacher
                assert each.student == changed(parent.student, each.action)
            else:
                assert (each.action, each.student) == (None, parent.student)
                assert each.teacher != parent.teacher
        place += count
        kept = {member.number for member in top_k(history.pairs[:place], 3)}
        assert told[generation] == [number for number in range(place) if number not in kept]
    assert len(told) == 11
    made = [(each.parent, each.action, each.teacher) for each in history.pairs]
    assert len(set(made)) == len(made), "nothing is proposed twice"


def test_a_coin_may_choose_between_student_and_teacher():
    settings = SearchSettings(budget=40, student_probability=0.25)
    students = [each.step == "student" for each in hill_climb(TEACHERS, settings, Landscape(), 0).pairs[1:]]
    assert 4 < sum(students) < 17
    assert students != sorted(students)


def test_same_seed_same_search_and_other_seeds_others():
    settings = SearchSettings(budget=12)
    one, two, other = (hill_climb(TEACHERS, settings, Landscape(), seed) for seed in (0, 0, 1))
    assert one == two
    assert one != other


@pytest.mark.parametrize("stop", [0, 1, 3, 6, 11])
def test_broken_off_anywhere_it_comes_to_the_same_end(stop):
    settings = SearchSettings(budget=12, k=2, generation=3)
    whole = Landscape()
    expected = hill_climb(TEACHERS, settings, whole, 5)
    landscape = Landscape()

    def breaks(pairs):
        for pair, record in zip(pairs, landscape(pairs), strict=True):
            yield record
            if pair.number == stop:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hill_climb(TEACHERS, settings, breaks, 5)
    assert len(landscape.trained) < 13
    assert hill_climb(TEACHERS, settings, landscape, 5) == expected
    assert landscape.trained == whole.trained, "each pair once, in the same order"


def test_failed_pair_is_no_parent_and_the_search_goes_on():
    expected = hill_climb(TEACHERS, SearchSettings(budget=20), Landscape(), 0)
    parents = [each.parent for each in expected.pairs]
    failing = next(number for number in range(1, 17) if number in parents)
    history = hill_climb(TEACHERS, SearchSettings(budget=20), Landscape(fails=(failing,)), 0)
    assert len(history.pairs) == 21
    assert math.isnan(history.pairs[failing].score)
    assert history.pairs[failing].student is None
    assert failing not in [each.parent for each in history.pairs]
    assert math.isfinite(history.best().score)
    assert np.isfinite(history.scores()).all()


def test_base_that_cannot_be_measured_is_said():
    with pytest.raises(InputError, match=r"base detector could not be measured \(does not fit in memory\)"):
        hill_climb(TEACHERS, SearchSettings(budget=2), Landscape(fails=(0,)), 0)


def test_control_with_the_largest_teacher():
    settings = SearchSettings(budget=30, teacher="largest")
    history = hill_climb(TEACHERS, settings, Landscape(), 0)
    assert {each.teacher for each in history.pairs} == {TEACHERS.largest()}
    steps = [each.step for each in history.pairs[1:]]
    assert set(steps) == {"student", "train on"}
    for each in history.pairs[1:]:
        if each.step == "train on":
            parent = history.pairs[each.parent]
            assert (each.student, each.teacher) == (parent.student, parent.teacher)
    only_trained = hill_climb(TEACHERS, replace(settings, student_probability=0.0), Landscape(), 0)
    assert {(each.student, each.teacher) for each in only_trained.pairs} == {(BASE, TEACHERS.largest())}


def test_random_search_draws_parents_from_the_latest():
    told = []
    settings = SearchSettings(budget=60, k=3, generation=2, listed="latest")
    history = hill_climb(TEACHERS, settings, Landscape(fails=(7, 20)), 0, lambda numbers: told.append(set(numbers)))
    parents = [each.parent for each in history.pairs[1:]]
    for first in range(1, 61, 2):
        latest = [each.number for each in history.pairs[:first] if math.isfinite(each.score)][-3:]
        assert {history.pairs[number].parent for number in (first, first + 1)} <= set(latest)
    assert (
        len({history.pairs[parent].score for parent in parents} - {each.score for each in top_k(history.pairs, 3)}) > 9
    )
    assert history.best().number not in told[-1], "the best is kept"
    chain = history.behind(history.pairs[60])
    assert [each.number for each in chain][-1] == 60
    assert [each.parent for each in chain] == [0, *(each.number for each in chain[:-1])]


# ---- a pair's training


def test_overall_loss_is_the_sum_of_its_parts(student_of, batch):
    student = student_of("basic").train()
    teacher = make_pool().ready(SPACE.smallest(), [batch.images])
    pupil = Pupil(student, SPACE.neck_channels(SPACE.largest()))
    torch.manual_seed(0)
    losses = pupil.losses(batch, teacher, DistillationSettings(), 0.01)
    torch.manual_seed(0)
    taught = distilled_losses(student(batch.images), batch, taught_by(teacher, batch.images), pupil.adapter)
    parts = ("rpn_objectness", "rpn_box", "roi_class", "roi_box", "distil_feature", "distil_class", "distil_box")
    for part in parts:
        torch.testing.assert_close(losses[part], taught[part], rtol=1e-4, atol=1e-6)
    assert torch.equal(losses["gamma"], gamma_penalty(student))
    expected = sum(losses[part] for part in parts) + 0.01 * losses["gamma"]
    torch.testing.assert_close(losses["loss"], expected)
    losses["loss"].backward()
    assert all(p.grad is not None for p in (student.backbone.stem[0].weight, pupil.adapter.weight))
    assert all(parameter.grad is None for parameter in teacher.parameters())


@pytest.mark.parametrize("action", [None, AddLayer(2, 1)], ids=str)
def test_a_child_inherits_student_and_adapter(action, student_of):
    parent = Pupil(student_of("basic"), 24)
    torch.nn.init.normal_(parent.adapter.weight)
    child = child_of(parent, action, 5, MorphismSettings())
    expected = parent.student if action is None else evolve(parent.student, action, 5)
    assert child.student.backbone.architecture == expected.backbone.architecture
    assert all(torch.equal(each, child.student.state_dict()[name]) for name, each in expected.state_dict().items())
    assert torch.equal(child.adapter.weight, parent.adapter.weight)
    assert child.adapter.weight is not parent.adapter.weight
    assert all(parameter.requires_grad for parameter in child.parameters())
