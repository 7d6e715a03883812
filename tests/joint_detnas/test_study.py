"""A whole search at a tiny scale: what is remembered, inherited and forgotten; kills change nothing; failures."""

import math
import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from common.cost import count
from common.data.source import SCENES_DEFAULTS
from common.data.splits import SEARCH_SHARE
from common.letterbox import padded
from common.models.described import Architecture, as_described, keep_channels
from common.models.detector import load_detector, save_detector
from common.models.fpn import FPN
from common.models.resnet import ResNet
from common.models.retinanet import RetinaNet
from common.models.two_stage import TwoStage
from common.plain import InputError
from common.report.reproduce import measure_exhibit
from common.settings import lasting
from common.train import loop, shrinking
from common.train.loop import FitReport, TrainingError
from common.train.run_folder import Run
from joint_detnas import method
from joint_detnas import study as study_module
from joint_detnas.baselines import Imitator
from joint_detnas.exhibits import PAPER
from joint_detnas.method import (
    ChannelPruning,
    Judge,
    Pair,
    Pupil,
    backbone_cost,
    build_teacher,
    evolve,
    kept_at_cost,
    kept_channels,
    train_pupil,
)
from joint_detnas.presets import PRESETS, other_choices
from joint_detnas.study import PACE_ROUNDS, JointDetNASStudy, pair_folder, read_base, resolution_costs
from tests.joint_detnas.conftest import TINY, tiny_options
from tests.processes import ran
from tests.repeatable import steady_latency, without_times

ROOT = Path(__file__).resolve().parents[2]


def records(study: JointDetNASStudy) -> list:
    """The pairs of the search, in their order, and its result."""
    run = Run.read(study.run_path("search-resnet18"))
    return without_times([*run.candidates(), run.result])


@pytest.fixture
def study(tiny, searched) -> JointDetNASStudy:
    """Seed 0, searched once for all tests."""
    study = JointDetNASStudy(tiny_options(searched))
    study.search()
    return study


def test_a_search_upgrades_the_base_detector(study, tiny):
    searched, base, upgraded = study.search(), study.base(), study.upgraded()
    assert [step["pair"] for step in searched["steps"]] == list(range(tiny.search.budget + 1))
    start = load_detector(base["file"]).model
    judge = Judge(float(count(start, tiny.base_size).macs_mmdet), tiny.base_size, 0.07, 1.0)
    assert base["macs_mmdet"] == judge.base_cost == searched["steps"][0]["cost"]
    candidates = Run.read(study.run_path("search-resnet18")).candidates()
    by_pair = {record["key"]["pair"]: record for record in candidates}
    for step in searched["steps"]:
        record = by_pair[step["pair"]]
        ap_at = {tuple(map(int, name.split("x"))): ap for name, ap in record["AP_at"].items()}
        assert set(ap_at) == set(tiny.sizes)
        assert (step["score"], tuple(step["resolution"])) == judge.best(ap_at, record["cost"])
        assert record["AP"] == ap_at[tuple(step["resolution"])]
        assert record["key"] == {key: step[key] for key in ("pair", "parent", "action", "teacher")}
        if step["pair"]:
            assert step["increment"] == step["score"] - searched["steps"][step["parent"]]["score"]
    best = max(searched["steps"], key=lambda step: (step["score"], -step["pair"]))
    assert (upgraded["pair"], upgraded["score"], upgraded["size"]) == tuple(
        best[key] for key in ("pair", "score", "resolution")
    )
    detector = load_detector(upgraded["file"])
    architecture = Architecture.from_dict(by_pair[best["pair"]]["architecture"])
    assert detector.model.backbone.architecture == architecture == Architecture.from_dict(upgraded["architecture"])
    size = tuple(best["resolution"])
    assert upgraded["macs_mmdet"] == count(detector.model, size).macs_mmdet
    again = study.precision_at(detector.model, padded(size), "validation")
    assert upgraded["AP"] == detector.description["AP"] == again["AP"]
    costs = {"before": Architecture.standard("resnet18", 8), "after": architecture}
    assert searched["stages"] == {when: resolution_costs(each, tiny.base_size) for when, each in costs.items()}


def test_only_the_weights_of_the_best_pair_are_left(study):
    pairs = study.run_path("search-resnet18") / "pairs"
    assert [each.name for each in pairs.iterdir()] == [f"{study.search()['pair']:04d}"]
    assert not [path for path in study.folder.rglob("*") if path.suffix == ".state"]


def test_a_second_study_trains_nothing_and_finds_the_same(study, searched, monkeypatch):
    before = records(study)
    monkeypatch.setattr(loop._Stage, "train", lambda *_: pytest.fail("something was trained again"))
    monkeypatch.setattr(JointDetNASStudy, "train_pair", lambda *_: pytest.fail("a pair was tried again"))
    again = JointDetNASStudy(tiny_options(searched))
    assert again.search() == study.search()
    assert again.upgraded() == study.upgraded()
    assert records(again) == before
    longer = JointDetNASStudy(tiny_options(searched), pairs=6)
    assert tuple(longer.searching(each).search.budget for each in ("none", "nas")) == (6, 3)
    assert longer.named("search", "random") == "search-resnet18-random-6-pairs"


def test_a_detector_is_measured_and_written_with_the_statistics_of_many_images(study, tiny):
    """Those that its first norm sees, of all sizes together, and so for the base as for what the search found."""
    for file in (study.base()["file"], study.upgraded()["file"]):
        layers = [*load_detector(file).model.backbone.modules()]
        first, norm = (next(each for each in layers if isinstance(each, kind)) for kind in (nn.Conv2d, nn.BatchNorm2d))
        seen = torch.cat(
            [
                first(batch.images).transpose(0, 1).flatten(1)
                for size in tiny.sizes
                for batch in study.training_images(padded(size), tiny.settling_images).in_order()
            ],
            dim=1,
        )
        torch.testing.assert_close(norm.running_mean, seen.mean(dim=1), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(norm.running_var, seen.var(dim=1, unbiased=False), rtol=1e-2, atol=1e-4)


@pytest.mark.slow
def test_pairs_are_tried_from_the_base_in_several_orders(study, tmp_path, tiny):
    tried = study.pair_trials()
    network = read_base(Path(study.base()["file"]))
    assert tried["before"] == study.mean_precision(network)
    pruned = keep_channels(network, kept_channels(network.backbone, 10.0, tiny.search.morphism))
    assert tried["cost"] == count(pruned, tiny.base_size).macs_mmdet / count(network, tiny.base_size).macs_mmdet
    assert [[len(each[how]) for how in ("alone", "taught")] for each in tried["after"]] == [[2, 2], [2, 2]]
    teacher = study.teacher(tiny.teachers.largest())
    for how, by in (("alone", None), ("taught", teacher)):
        pupil = study._pupil(read_base(Path(study.base()["file"])), by)
        with Run.open(tmp_path / how, {}) as run:
            train_pupil(run, "1", pupil, by, study.batches(), tiny, study.training(tiny.pair_trainings[1]))
        assert tried["after"][1][how][1] == study.mean_precision(pupil.student)


# ---- what an exhibit rests on


def test_an_exhibits_runs_are_those_that_measuring_it_touches(tiny, tmp_path, monkeypatch):
    """In a fresh folder: pre-training, pool and base are among them; a second study reads the same from the records."""
    one_pair, equivalents = replace(tiny.search, budget=1), tiny.equivalents[:1]
    few = replace(tiny, search=one_pair, equivalents=equivalents, timed_equivalents=(), lessons=())
    study, touched = JointDetNASStudy(tiny_options(tmp_path, preset=few)), set()
    opened, read = Run.open.__func__, Run.read.__func__

    def noting(function):
        def note(cls, path, *rest):
            if Path(path).parent == study.folder:
                touched.add(f"{study.folder.name}/{Path(path).name}")
            return function(cls, path, *rest)

        return classmethod(note)

    monkeypatch.setattr(Run, "open", noting(opened))
    monkeypatch.setattr(Run, "read", noting(read))
    figure7 = measure_exhibit(PAPER.by_name["figure7"], study)
    assert set(figure7["runs"]) == touched == {f"{study.folder.name}/{path.name}" for path in study.folder.iterdir()}
    names = {run.partition("/")[2] for run in touched}
    assert names == {
        "classification-teacher-pool-s0",
        "classification-resnet18-s0",
        "pool-s0",
        "base-resnet18-s0",
        "search-resnet18-s0",
    }
    touched.clear()
    table1 = measure_exhibit(PAPER.by_name["table1"], JointDetNASStudy(tiny_options(tmp_path, preset=few)))
    made_before = {f"{study.folder.name}/classification-teacher-pool-s0"}  # by the pool, whose record names it
    assert set(table1["runs"]) == touched | made_before
    assert len(table1["runs"]) == 2 + 3  # pool; from it, alone, and the backbone of that
    again = JointDetNASStudy(tiny_options(tmp_path, preset=few))
    assert measure_exhibit(PAPER.by_name["figure7"], again) == figure7


# ---- a pair


@pytest.mark.parametrize("action", [None, ChannelPruning(10.0)], ids=str)
def test_weights_are_inherited_from_the_parent(study, tiny, monkeypatch, tmp_path, action):
    """What training begins with is the parent's, changed by the action; the teacher is the pair's own."""
    parents, parent = study.run_path("search-resnet18") / "pairs", study.search()["pair"]
    pairs = tmp_path / "pairs"
    shutil.copytree(pair_folder(parents, parent), pair_folder(pairs, parent))
    file, teacher = Path(study.base()["file"]), tiny.teachers.smallest()
    pair = Pair(9, 3, parent, "student", action, teacher)
    caught = {}

    def instead(run, stage, pupil, batches, losses, training, moments):
        caught.update(moments=moments)
        caught.update(pupil=pupil, state={name: each.clone() for name, each in pupil.state_dict().items()})
        caught.update(batches=batches, losses=losses)
        raise KeyboardInterrupt

    monkeypatch.setattr(method, "fit", instead)
    with pytest.raises(KeyboardInterrupt):
        study.train_pair(pair, file, pairs, Judge(1.0, tiny.base_size, 0.07, 1.0), tiny)
    weights, _ = Run.read(pair_folder(pairs, parent)).load_weights("pair")
    expected = study.pupil(file, pair_folder(pairs, parent))
    assert all(torch.equal(each, weights[name]) for name, each in expected.state_dict().items())
    assert caught["moments"].keys() <= {
        f"{name}.{kind}" for name in weights for kind in ("exp_avg", "exp_avg_sq", "step")
    }
    assert len(caught["moments"]) == (3 * len(list(expected.parameters())) if parent else 0)
    if action is not None:
        seed = int(np.random.SeedSequence([study.draws, 9, 1]).generate_state(1)[0])
        student = evolve(expected.student, action, seed, tiny.search.morphism)
        assert student.backbone.architecture != expected.student.backbone.architecture
        weights = {f"student.{name}": each for name, each in student.state_dict().items()} | {
            name: each for name, each in weights.items() if name.startswith("adapter.")
        }
    assert caught["state"].keys() == weights.keys()
    assert all(torch.equal(each, weights[name]) for name, each in caught["state"].items())
    before = study.base_detector().state_dict()
    assert not torch.equal(weights["student.rpn.conv.weight"], before["rpn.conv.weight"]), "trained weights"

    taught = []
    monkeypatch.setattr(Pupil, "losses", lambda self, batch, teacher, *_: taught.append(teacher) or {})
    next(iter(caught["losses"](None, None)))
    like = build_teacher(tiny.teachers, teacher, len(study.categories))
    assert taught[0].backbone.architecture == like.backbone.architecture
    assert taught[0].fpn.width == tiny.teachers.neck_channels(teacher)
    assert not taught[0].training
    assert set(caught["batches"].parts) == set(map(padded, tiny.sizes))


def test_a_pair_that_fails_is_recorded_and_the_search_goes_on(study, tiny, tmp_path, monkeypatch):
    """Nothing is trained: the numbers are made up. Weights that no pair can start from go."""
    base, pool = study.base(), study.pool()
    monkeypatch.setattr(JointDetNASStudy, "base", lambda _: base)
    monkeypatch.setattr(JointDetNASStudy, "pool", lambda _: pool)
    longer = replace(tiny, search=replace(tiny.search, budget=13, k=2, generation=3))
    measured, most = Run.read(study.run_path("search-resnet18")).candidates()[0], []

    def made_up(self, pair, base, pairs, judge, preset):
        folder = pair_folder(pairs, pair.number)
        if pair.parent is not None:
            assert pair_folder(pairs, pair.parent).is_dir(), "a parent's weights are there"
        folder.mkdir(parents=True)
        most.append(len(list(pairs.iterdir())))
        if pair.number == 2:
            raise MemoryError("9 GiB")
        ap = 0.1 + 0.01 * ((7 * pair.number) % 11)
        costs = {"cost": 1.0, "backbone_macs_mmdet": 1e18}
        return {"architecture": measured["architecture"], **costs, "resolution": (32, 32), "score": ap}

    monkeypatch.setattr(JointDetNASStudy, "train_pair", made_up)
    monkeypatch.setattr(JointDetNASStudy, "pupil", lambda *_: None)
    searching = JointDetNASStudy(tiny_options(tmp_path, preset=longer))
    with pytest.raises(AttributeError, match="student"):  # of the best pair's pupil, at the end
        searching.search()
    found = Run.read(searching.run_path("search-resnet18")).candidates()
    assert len(found) == 14
    assert [record["key"]["pair"] for record in found if record["status"] == "failed"] == [2]
    assert found[2]["reason"] == "does not fit in memory (9 GiB)"
    assert 2 not in [record["key"]["parent"] for record in found]
    assert max(most) == longer.search.k + longer.search.generation


# ---- parts on their own, and pipelines: what each starts from, who teaches, what is pruned


@pytest.fixture
def copied(study, tmp_path) -> JointDetNASStudy:
    """The same in a copy that made-up trainings may be written to."""
    study.upgraded("nas")
    shutil.copytree(study.folder.parents[1], tmp_path / "runs")
    return JointDetNASStudy(tiny_options(tmp_path / "runs"))


@pytest.fixture
def trainings(copied, monkeypatch) -> list:
    """What is trained from here on, as (model, weights at the start, training, losses): nothing is. Of two trainings
    that are timed in turn the one takes three seconds, the other two; all others take one."""
    seen, seconds = [], {"one": 3.0, "other": 2.0}

    def caught(run, stage, model, batches, losses, training, moments=None):
        weights = {name: each.clone() for name, each in model.state_dict().items()}
        seen.append((model, weights, training, losses))
        took = seconds.get(stage.partition("-")[0], 1.0)
        return FitReport(seconds=1.0, cpu_seconds=took, samples=0, steps=0, losses={}, peak_memory=0)

    for module in (method, shrinking, study_module):
        monkeypatch.setattr(module, "fit", caught)
    return seen


def teachers_seen(monkeypatch, losses) -> list:
    """The teachers that a training's losses are computed with."""
    seen = []
    for kind in (Pupil, Imitator):
        monkeypatch.setattr(kind, "losses", lambda self, batch, teacher, *_: seen.append(teacher) or {})
    next(iter(losses(None, None)))
    return seen


def student_weights(weights: dict) -> dict:
    return {name.removeprefix("student."): each for name, each in weights.items() if name.startswith("student.")}


def test_a_pruned_detector_is_the_base_one_without_its_least_channels(copied, tiny, trainings, monkeypatch):
    base = load_detector(copied.base()["file"]).model
    for percentage in (0, 20):
        result = copied.pruned(percentage)
        model, weights, training, losses = trainings[-1]
        expected = read_base(Path(copied.base()["file"]))
        if percentage:
            expected = evolve(expected, ChannelPruning(20.0), 0, tiny.search.morphism)
        assert model.student.backbone.architecture == expected.backbone.architecture
        start = student_weights(weights)
        assert all(torch.equal(each, start[name]) for name, each in expected.state_dict().items())
        assert training.optimisation == tiny.pruning_training
        assert teachers_seen(monkeypatch, losses) == [None]
        assert (result["macs_mmdet"] < count(base, tiny.base_size).macs_mmdet) == bool(percentage)


@pytest.mark.parametrize(("kind", "model"), [("ours", Pupil), ("imitation", Imitator)])
def test_a_distilled_student_starts_as_fresh_as_the_base_did(copied, tiny, trainings, monkeypatch, kind, model):
    """And alike whether pool and backbone were there before or not; on the base's batches, and not penalised."""
    name, teacher = tiny.equivalents[-1]
    starts = []
    for read_before in (False, True):
        study_module._trained_pool.cache_clear()
        if read_before:
            copied.teacher(teacher)
        JointDetNASStudy(copied.options).distilled(name, kind)
        trained, weights, training, losses = trainings[-1]
        starts.append(weights)
        shutil.rmtree(copied.run_path(f"distilled-resnet18-{kind}"))
    assert all(torch.equal(each, starts[1][key]) for key, each in starts[0].items())
    assert type(trained) is model
    assert (training.optimisation, training.drawn_as) == (tiny.base_training, "detector"), "the base's own stage"
    fresh, start = as_described(copied.base_detector()), student_weights(weights)
    assert all(torch.equal(each, start[key]) for key, each in fresh.state_dict().items())
    (seen,) = teachers_seen(monkeypatch, losses)
    assert seen.backbone.active_blocks == teacher.depths
    assert not seen.training
    monkeypatch.setattr(model, "losses", lambda self, batch, teacher, *weights: starts.append(weights[1:]) or {})
    next(iter(losses(None, None)))
    assert starts[-1] == ((0.0,) if kind == "ours" else ()), "of L_BN"


def test_the_longer_baseline_trains_alone_for_as_many_seconds_as_a_student(copied, tiny, trainings, monkeypatch):
    name, teacher = tiny.equivalents[-1]
    result = copied.longer(name)
    *in_turn, (network, weights, training, _) = trainings
    assert training.optimisation == lasting(tiny.base_training, round(1.5 * tiny.base_training.epochs))
    assert all(torch.equal(each, weights[key]) for key, each in copied.base_detector().state_dict().items())
    assert result["macs_mmdet"] == count(network, tiny.base_size).macs_mmdet
    assert [type(model) for model, *_ in in_turn] == [Pupil, TwoStage] * PACE_ROUNDS
    assert {training.optimisation for _, _, training, _ in in_turn} == {lasting(tiny.base_training, 1)}
    (seen,) = teachers_seen(monkeypatch, in_turn[0][-1])
    assert seen.backbone.active_blocks == teacher.depths


def test_an_equivalent_is_the_teachers_network_on_a_backbone_of_its_own(copied, tiny, trainings):
    name, teacher = tiny.equivalents[0]
    epochs = sum(phase.epochs for phase in tiny.shrinking.phases)
    for as_long, number in (("epochs", epochs), ("seconds", round(1.5 * epochs))):
        copied.alone(name, as_long)
        assert trainings[-1][2].optimisation == lasting(tiny.base_training, number)
    in_turn = [training.optimisation.epochs for _, _, training, _ in trainings[1:-1]]
    assert in_turn == [1] * PACE_ROUNDS * (len(tiny.shrinking.phases) + 1)
    network, weights, *_ = trainings[-1]
    assert network.backbone.active_blocks == teacher.depths
    own = copied.pretrained(str(teacher))
    assert all(torch.equal(weights[f"backbone.{key}"], own[key]) for key in network.backbone.state_dict())


def test_a_network_out_of_the_pool_has_the_pools_weights(copied, tiny):
    name, teacher = tiny.equivalents[0]
    result, network = copied.sampled(name), copied.teacher(teacher)
    assert result["macs_mmdet"] == count(network, tiny.base_size).macs_mmdet
    assert result["AP"] == copied.precisions(network, "validation")[tiny.base_size]["AP"]


PIPELINE_STARTS = {  # pipeline, choice -> (what it begins with, share of its pairs before the pruning)
    ("prune-kd", "none"): ("penalised", 0.0),
    ("prune-kd", "penalised-pairs"): ("base", 0.25),
    ("prune-kd", "no-penalty"): ("base", 0.0),
    ("nas-prune-kd", "none"): ("nas", 0.25),
    ("nas-prune-kd", "no-penalty"): ("nas", 0.0),
}


@pytest.mark.parametrize(
    ("name", "choice"),
    [pytest.param(*each, marks=[pytest.mark.slow] * ("none" not in each)) for each in PIPELINE_STARTS],
)
def test_a_pipeline_prunes_to_the_goal_and_trains_as_often_as_the_joint_search(
    copied, tiny, trainings, monkeypatch, name, choice
):
    begins, share = PIPELINE_STARTS[name, choice]
    before, nas, penalised = copied.base(), copied.upgraded("nas"), copied.penalised()
    trainings.clear()
    whole = count(read_base(Path(before["file"])), tiny.base_size).parts["backbone"]["macs_mmdet"]
    goal = {"size": list(tiny.base_size), "depth": 9, "samples": 1, "cpu_seconds": 1.0}
    goal |= {"backbone_macs_at_base_size": 0.8 * whole}
    searched = copied.search()
    monkeypatch.setattr(JointDetNASStudy, "search", lambda self, control="none": searched | {"slim": goal})
    monkeypatch.setattr(JointDetNASStudy, "upgraded", lambda self, control: nas)
    weights = Run.load_weights
    monkeypatch.setattr(Run, "load_weights", lambda *at: ({}, {}) if "moments" in at[1] else weights(*at))
    result = copied.pipeline(name, choice)
    left = 9 if name == "prune-kd" else 9 - nas["depth"]
    assert len(trainings) == left
    taught = [teachers_seen(monkeypatch, losses)[0] is not None for *_, losses in trainings]
    assert taught == [number >= int(left * share) for number in range(left)]
    start = read_base(Path({"base": before, "nas": nas, "penalised": penalised}[begins]["file"]))
    kept = kept_at_cost(start.backbone, 0.8 * whole, tiny.base_size, tiny.search.morphism)
    expected, found = keep_channels(start, kept), student_weights(trainings[-1][1])
    copied.settle(expected)  # before f_adap is fitted to it
    assert all(torch.equal(each, found[key]) for key, each in expected.state_dict().items())
    assert all(training.optimisation == tiny.pair_training for _, _, training, _ in trainings)
    (seen,) = teachers_seen(monkeypatch, trainings[-1][-1])
    assert seen.backbone.active_blocks == tiny.teachers.largest().depths
    spent = (0, 0.0) if name == "prune-kd" else (nas["samples"], nas["cpu_seconds"])
    assert result["size"] == list(tiny.base_size)
    assert (result["samples"], result["cpu_seconds"] - left) == pytest.approx(spent)  # a made-up training: 0 and 1 s
    monkeypatch.setattr(JointDetNASStudy, "search", lambda self, control="none": searched | {"slim": None})
    assert copied.pipeline(name, choice) is None


def test_the_penalised_base_is_a_base_detector_trained_with_the_penalty(copied, tiny, trainings, monkeypatch):
    copied.penalised()
    ((model, weights, training, losses),) = trainings
    assert (training.optimisation, training.drawn_as) == (tiny.base_training, "detector")
    fresh = as_described(copied.base_detector()).state_dict()
    assert all(torch.equal(each, student_weights(weights)[key]) for key, each in fresh.items())
    (found,) = losses(next(iter(copied.batches().epoch(0))), None)
    norms = [each for each in model.student.backbone.modules() if isinstance(each, torch.nn.BatchNorm2d)]
    penalty = sum(each.weight.detach().abs().sum().item() for each in norms)
    assert found["gamma"].item() == pytest.approx(penalty, rel=1e-5)
    detection = sum(found[part].item() for part in ("rpn_objectness", "rpn_box", "roi_class", "roi_box"))
    assert found["loss"].item() == pytest.approx(detection + tiny.search.morphism.gamma_weight * penalty, rel=1e-5)


def test_what_a_search_gains_is_counted_from_as_many_trainings_alone(copied, tiny, trainings, monkeypatch):
    monkeypatch.setattr(Run, "load_weights", lambda run, name: ({f"{name} of a pair": torch.zeros(1)}, {}))
    result = copied.trained_on(3)
    assert len(trainings) == 3
    assert [teachers_seen(monkeypatch, losses) for *_, losses in trainings] == [[None]] * 3
    start = student_weights(trainings[0][1])
    assert all(
        torch.equal(each, start[key]) for key, each in read_base(Path(copied.base()["file"])).state_dict().items()
    )
    assert result["macs_mmdet"] == copied.base()["macs_mmdet"]


@pytest.mark.slow
def test_every_student_of_the_grid_is_trained_under_every_teacher(study, tmp_path, tiny):
    found = study.grid()
    assert list(found["students"]) == ["0", "30"]
    pool = {name: study.teacher(teacher) for name, teacher in tiny.grid_teachers}
    sizes = {name: sum(each.numel() for each in network.backbone.parameters()) for name, network in pool.items()}
    assert {name: each["params"] for name, each in found["teachers"].items()} == sizes
    for percentage, student in found["students"].items():
        network = study.pruned_student(int(percentage))
        again = study.precisions(network, "validation")[tiny.base_size]["AP"]
        assert again == study.pruned(int(percentage))["AP"], "the one that was trained"
        assert student["params"] == sum(each.numel() for each in network.backbone.parameters())
        assert list(student["gains"]) == list(sizes)
    assert found["students"]["30"]["params"] < found["students"]["0"]["params"]
    teacher = pool[tiny.grid_teachers[1][0]]
    student = study.pruned_student(30)
    study.settle(student)
    pupil = study._pupil(student, teacher)
    with Run.open(tmp_path / "again", {}) as run:  # on the batches of the stage that is called after the student
        train_pupil(run, "30", pupil, teacher, study.batches(), tiny, study.training(tiny.grid_training))
    kept = study.weights(f"grid-{study.name}", "30-1")
    assert all(torch.equal(each, kept[name]) for name, each in pupil.state_dict().items())


def test_the_slim_pair_is_the_best_within_the_goal(study, tiny):
    records = Run.read(study.run_path("search-resnet18")).candidates()
    most = tiny.goal * records[0]["backbone_macs_mmdet"]
    within = [each for each in records if each["backbone_macs_mmdet"] <= most]
    slim = study.search()["slim"]
    assert (slim is None) == (not within)
    if within:
        best = max(within, key=lambda each: each["score"])
        assert slim["size"] == best["resolution"]
        assert slim["backbone_macs_at_base_size"] == best["backbone_macs_mmdet"]


def test_architecture_search_alone_neither_prunes_channels_nor_is_taught(study):
    kinds = [step["kind"] for step in study.search("nas")["steps"][1:]]
    assert kinds
    assert set(kinds) <= {"layer pruning", "add-layer", "rearrange"}
    assert "pool-s0" not in " ".join(Run.read(study.run_path("search-resnet18-nas")).read_json("uses", list))


@pytest.mark.slow
def test_a_fixed_student_keeps_its_architecture(study, tiny):
    steps = {control: study.search(control)["steps"][1:] for control in ("fixed-student", "fixed-pair", "untaught")}
    kinds = {control: {step["kind"] for step in each} for control, each in steps.items()}
    assert kinds == {"fixed-student": {"teacher"}, "fixed-pair": {"train on"}, "untaught": {"train on"}}
    assert len({step["teacher"] for step in steps["fixed-student"]}) > 1
    assert {step["teacher"] for step in steps["fixed-pair"]} == {str(tiny.teachers.largest())}
    base = Architecture.standard("resnet18", 8).to_dict()
    for control in steps:
        assert study.upgraded(control)["architecture"] == base


def test_another_backbone_shares_the_pool_and_what_was_used(study):
    other = study.upgrading("mobilenet_v2")
    assert (other.name, other.run_path("pool")) == ("mobilenet-v2", study.run_path("pool"))
    with study.recording() as used:
        other.pool()
    assert list(used)[-1] == "scenes-smoke/pool-s0"


def test_resolution_costs_are_those_of_the_stages():
    size, resnet = (96, 64), Architecture.standard("resnet18", 8)
    parts = backbone_cost(resnet, size).parts
    assert resolution_costs(resnet, size) == [parts[f"stage{number}"]["macs_mmdet"] for number in range(1, 5)]
    mobilenet = Architecture.standard("mobilenet_v2", 0.25)
    cost = backbone_cost(mobilenet, size)
    parts = {part: each["macs_mmdet"] for part, each in cost.parts.items()}
    costs = resolution_costs(mobilenet, size)
    assert costs == [
        parts["stage1"] + parts["stage2"],  # the first is at stride 2
        parts["stage3"],
        parts["stage4"] + parts["stage5"],
        parts["stage6"] + parts["stage7"] + parts["head"],
    ]
    assert sum(costs) + parts["stem"] == cost.macs_mmdet


# ---- the detector to upgrade


def test_a_given_detector_is_upgraded_as_if_it_had_been_trained_here(study, tmp_path, monkeypatch):
    file = Path(study.base()["file"])
    _copy_of_parts(study, tmp_path)
    monkeypatch.setattr(loop._Stage, "train", lambda *_: pytest.fail("something was trained"))
    given = JointDetNASStudy(tiny_options(tmp_path), base=file, pairs=0)
    assert given.base()["AP"] == given.base()["settled_AP"] == study.base()["AP"]
    assert given.base()["file"] == str(file)
    for folder in (file.parent, file.parent.parent):  # as other commands take them
        assert JointDetNASStudy(tiny_options(tmp_path), base=folder).base() == given.base()
    assert given.search()["steps"] == study.search()["steps"][:1]
    assert given.upgraded()["pair"] == 0
    assert (given.folder / f"search-{given.name}-0-pairs-s0").is_dir()


def test_a_given_detector_is_measured_as_it_is_and_as_a_search_measures(study, tmp_path):
    trained = load_detector(study.base()["file"])
    for norm in (module for module in trained.model.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.running_mean.zero_()
    card = {"categories": list(study.categories), "input_size": trained.input_size}
    file = save_detector(tmp_path / "unsettled", trained.model, card)
    given = JointDetNASStudy(tiny_options(tmp_path), base=file).base()
    as_it_is = study.precision_at(read_base(file), padded(study.preset.base_size), "validation")["AP"]
    assert given["AP"] == as_it_is != study.base()["AP"] == given["settled_AP"]


def test_a_detector_that_diverged_is_one_sentence(study, tmp_path):
    trained = load_detector(study.base()["file"])
    nn.init.constant_(trained.model.roi.heads[0].codes.bias, math.nan)
    card = {"categories": list(study.categories), "input_size": trained.input_size}
    given = JointDetNASStudy(tiny_options(tmp_path), base=save_detector(tmp_path / "diverged", trained.model, card))
    with pytest.raises(TrainingError, match=r"base-file-.* has diverged \(the network gives boxes .* not finite\)"):
        given.latencies()


def test_detectors_that_cannot_be_upgraded_are_said(study, tmp_path):
    categories = list(study.categories)
    other = load_detector(study.base()["file"])

    def given(file: Path) -> JointDetNASStudy:
        return JointDetNASStudy(tiny_options(tmp_path), base=file)

    with pytest.raises(InputError, match=r"is not there"):
        given(tmp_path / "nothing").base()
    renamed = save_detector(
        tmp_path / "renamed", other.model, {"categories": [*categories[:-1], "yak"], "input_size": 64}
    )
    with pytest.raises(InputError, match=r"knows \d+ classes .* trained on these classes"):
        given(renamed).base()
    backbone = ResNet("resnet18", width=8)
    one_stage = RetinaNet(backbone, len(categories), FPN(backbone.out_channels, 2, 4, 16))
    file = save_detector(tmp_path / "one-stage", one_stage, {"categories": categories, "input_size": 64})
    with pytest.raises(InputError, match=r"one-stage.json is no detector that can be upgraded"):
        given(file).base()
    with pytest.raises(InputError, match="no backbone is called 'resnet9'"):
        JointDetNASStudy(tiny_options(tmp_path), backbone="resnet9")


# ---- controls


def test_controls_change_one_thing_of_the_search(study, tiny):
    kinds = ("layer pruning", "add-layer", "rearrange")
    alone = {"teacher": "none", "student_probability": 1.0, "morphism": replace(tiny.search.morphism, kinds=kinds)}
    searches = {
        "none": tiny.search,
        "random": replace(tiny.search, listed="latest"),
        "conventional": replace(tiny.search, teacher="largest"),
        "fixed-student": tiny.teaching,
        "fixed-pair": replace(tiny.teaching, teacher="largest"),
        "untaught": replace(tiny.teaching, teacher="none"),
        "nas": replace(tiny.search, budget=2, **alone),
    }
    for control, search in searches.items():
        assert study.searching(control) == replace(tiny, search=search)
    assert study.searching("coin") == replace(tiny, search=replace(tiny.search, student_probability=0.5))
    choices = other_choices(PRESETS["nano"])
    assert len({*choices.values(), PRESETS["nano"]}) == len(choices) + 1


def test_searches_of_two_backbones_draw_independently(study):
    seeds = {study.upgrading(backbone).draws for backbone in ("resnet18", "mobilenet_v2")}
    seeds |= {JointDetNASStudy(study.options, seed=1).draws}
    assert len(seeds) == 3
    assert study.upgrading("resnet18").draws == study.draws


# ---- data


@pytest.mark.parametrize("scale", ["smoke", "nano", "mini"])
def test_the_scenes_are_many_enough_for_all_images_of_every_scale(scale):
    preset, there = PRESETS[scale], SCENES_DEFAULTS["train"]
    assert preset.search_images <= SEARCH_SHARE * there
    assert (preset.train_images or 0) + preset.search_images <= there


# ---- a kill changes nothing


def _copy_of_parts(study: JointDetNASStudy, out: Path) -> None:
    """Base detector and pool of a finished study, without its search."""
    ignored = shutil.ignore_patterns("search-*", "latencies-*")
    shutil.copytree(study.folder, out / study.folder.relative_to(study.folder.parents[1]), ignore=ignored)


@pytest.mark.slow
def test_killed_in_a_pair_it_comes_to_the_same_end(study, tmp_path):
    """SIGKILL, in another process, at the second step of the third pair; then on in this one."""
    _copy_of_parts(study, tmp_path)
    killed = ran(__file__, tmp_path)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [path.parent.name for path in tmp_path.rglob("pair.state")] == ["0003"]
    resumed = JointDetNASStudy(tiny_options(tmp_path))
    assert len(Run.read(resumed.run_path("search-resnet18")).candidates()) == 3
    assert all(math.isfinite(step["score"]) for step in resumed.search()["steps"])
    assert records(resumed) == records(study)


def _search_until_killed(out: Path) -> None:
    from common import study

    fit, losses, seen = method.fit, Pupil.losses, []
    method.fit = lambda *args, **rest: fit(*args[:-1], replace(args[-1], checkpoint_every_s=0.0), **rest)
    study.measure_latency = steady_latency
    PRESETS["smoke"] = TINY

    def counted(*arguments):
        seen.append(0)
        if len(seen) == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return losses(*arguments)

    Pupil.losses = counted
    JointDetNASStudy(tiny_options(out)).search()


if __name__ == "__main__":
    _search_until_killed(Path(sys.argv[1]))


def emptied(folder: Path) -> None:
    (folder / "pair.safetensors").write_bytes(b"")


@pytest.mark.parametrize("damage", [pytest.param(shutil.rmtree, marks=pytest.mark.slow), emptied])
def test_lost_weights_of_a_parent_are_made_anew(study, tmp_path, monkeypatch, capsys, damage):
    """All that are left at the third pair; the same command trains what is needed again, and comes to the same end."""
    _copy_of_parts(study, tmp_path)
    train_pair = JointDetNASStudy.train_pair

    def stopping(self, pair, **settings):
        if pair.number == 3:
            raise KeyboardInterrupt
        return train_pair(self, pair, **settings)

    monkeypatch.setattr(JointDetNASStudy, "train_pair", stopping)
    with pytest.raises(KeyboardInterrupt):
        JointDetNASStudy(tiny_options(tmp_path)).search()
    monkeypatch.setattr(JointDetNASStudy, "train_pair", train_pair)
    again = JointDetNASStudy(tiny_options(tmp_path))
    for folder in (again.run_path("search-resnet18") / "pairs").iterdir():
        damage(folder)
    again.search()
    assert records(again) == records(study)
    assert "is trained again, for " in capsys.readouterr().err


@pytest.mark.slow
def test_workers_measure_what_one_process_does(study, tmp_path):
    """AP and costs depend on no latency, so that whole searches can be compared; pairs are recorded as they end."""
    _copy_of_parts(study, tmp_path)
    side_by_side = JointDetNASStudy(tiny_options(tmp_path, workers=2))
    side_by_side.search()
    found, expected = ({each["key"]["pair"]: each for each in records(one)[:-1]} for one in (side_by_side, study))
    assert found == expected
