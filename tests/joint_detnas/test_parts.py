"""Parts of the framework on their own, and pipelines: what each starts from, who teaches, what is pruned."""

import shutil
from pathlib import Path

import pytest
import torch

from common.cost import count
from common.models.described import as_described
from common.models.detector import load_detector
from common.train.loop import FitReport
from joint_detnas import method, trial
from joint_detnas.baselines import Imitator, pruned_to
from joint_detnas.method import ChannelPruning, Pupil, evolve
from joint_detnas.study import CONTROLS, Study
from joint_detnas.trial import read_base

pytestmark = pytest.mark.usefixtures("steady")


@pytest.fixture
def study(tiny, data, searched, tmp_path) -> Study:
    """Seed 0, searched once for all tests, in a copy that made-up trainings may be written to."""
    once = Study(tiny, data, 0, searched)
    once.upgraded(), once.upgraded("nas")
    shutil.copytree(searched, tmp_path / "runs")
    return Study(tiny, data, 0, tmp_path / "runs")


@pytest.fixture
def trainings(study, monkeypatch) -> list:
    """What is trained from here on, as (model, weights at the start, optimisation, losses): nothing is."""
    seen = []

    def caught(run, stage, model, batches, losses, training):
        weights = {name: each.clone() for name, each in model.state_dict().items()}
        seen.append((model, weights, training.optimisation, losses))
        return FitReport(1.0, 1.0, 0.0, 0, 0, {}, 0)

    for module in (method, trial):
        monkeypatch.setattr(module, "fit", caught)
    return seen


def teachers_seen(monkeypatch, losses) -> list:
    """The teachers that a training's losses are computed with."""
    seen = []
    for kind in (Pupil, Imitator):
        monkeypatch.setattr(kind, "losses", lambda self, batch, teacher, *_: seen.append(teacher) or {})
    next(iter(losses(None, None)))
    return seen


def student_of(weights: dict) -> dict:
    return {name.removeprefix("student."): each for name, each in weights.items() if name.startswith("student.")}


def test_a_pruned_detector_is_the_base_one_without_its_least_channels(study, tiny, trainings, monkeypatch):
    base = load_detector(study.base["file"]).model
    for percentage in (0, 20):
        result = study.pruned(percentage)
        model, weights, optimisation, losses = trainings[-1]
        expected = read_base(Path(study.base["file"]))
        if percentage:
            expected = evolve(expected, ChannelPruning(20.0), 0, tiny.search.morphism)
        assert model.student.backbone.architecture == expected.backbone.architecture
        assert all(torch.equal(each, student_of(weights)[name]) for name, each in expected.state_dict().items())
        assert optimisation == tiny.pair_training
        assert teachers_seen(monkeypatch, losses) == [None]
        assert (result["macs_mmdet"] < count(base, tiny.base_size).macs_mmdet) == bool(percentage)


@pytest.mark.parametrize(("method", "model"), [("ours", Pupil), ("imitation", Imitator)])
def test_a_distilled_student_starts_as_fresh_as_the_base_did(study, tiny, trainings, monkeypatch, method, model):
    name, teacher = tiny.equivalents[-1]
    study.distilled(name, method)
    trained, weights, optimisation, losses = trainings[-1]
    assert type(trained) is model
    assert optimisation == tiny.base_training
    fresh = as_described(study.laboratory.base_detector("resnet18"))
    assert all(torch.equal(each, student_of(weights)[key]) for key, each in fresh.state_dict().items())
    (seen,) = teachers_seen(monkeypatch, losses)
    assert seen.backbone.active_blocks == (teacher.depths)
    assert not seen.training


def test_a_distilled_student_starts_alike_whether_the_pool_was_read_before_or_not(study, tiny, trainings):
    name, teacher = tiny.equivalents[-1]
    starts = []
    for read_before in (False, True):
        trial._pool.cache_clear()
        if read_before:
            study._teacher(teacher)
        study.distilled(name, "imitation")
        starts.append(trainings[-1][1])
        shutil.rmtree(study._folder("distilled-resnet18-imitation"))
    assert all(torch.equal(each, starts[1][key]) for key, each in starts[0].items())


def test_an_equivalent_is_the_teachers_network_on_a_backbone_of_its_own(study, tiny, trainings):
    name, teacher = tiny.equivalents[0]
    study.alone(name)
    network, _, optimisation, _ = trainings[-1]
    assert network.backbone.active_blocks == (teacher.depths)
    assert optimisation == tiny.base_training
    own = study.laboratory.pretrained(str(teacher))
    assert all(torch.equal(each, own[key]) for key, each in network.backbone.state_dict().items())


def test_a_network_out_of_the_pool_has_the_pools_weights(study, tiny):
    name, teacher = tiny.equivalents[0]
    result = study.sampled(name)
    network = study.laboratory.teacher(study._folder("pool"), teacher)
    assert result["macs_mmdet"] == count(network, tiny.base_size).macs_mmdet
    assert result["AP"] == study.laboratory.precisions(network, "validation")[tiny.base_size]["AP"]


@pytest.mark.parametrize("name", ["prune-kd", "nas-prune-kd"])
def test_a_pipeline_prunes_to_the_joint_searchs_cost_and_distils_from_the_largest(
    study, tiny, trainings, monkeypatch, name
):
    goal = study.upgraded()
    before = study.base if name == "prune-kd" else study.upgraded("nas")
    result = study.pipeline(name)
    _, weights, optimisation, losses = trainings[-1]
    assert optimisation == tiny.base_training
    expected = pruned_to(
        read_base(Path(before["file"])), goal["backbone_macs_at_base_size"], tiny.base_size, tiny.search.morphism
    )
    assert all(torch.equal(each, student_of(weights)[key]) for key, each in expected.state_dict().items())
    assert result["size"] == list(goal["size"])
    assert result["before"] == before
    (seen,) = teachers_seen(monkeypatch, losses)
    assert seen.backbone.active_blocks == (tiny.teachers.largest().depths)


def test_controls_change_one_thing(study, tiny):
    settings = {control: study.settings(control) for control in CONTROLS}
    assert settings["none"] == tiny.search
    assert settings["nas"].teacher == "none"
    assert "channel pruning" not in settings["nas"].morphism.kinds
    assert settings["fixed-student"].student_probability == settings["fixed-pair"].student_probability == 0
    assert (settings["fixed-student"].teacher, settings["fixed-pair"].teacher) == ("dynamic", "largest")


def test_architecture_search_alone_neither_prunes_channels_nor_is_taught(study, monkeypatch):
    monkeypatch.setattr(trial, "_pool", lambda *_: pytest.fail("a teacher was asked for"))
    history = study.search("nas").history
    actions = [each.action for each in history.pairs[1:]]
    assert actions
    assert all(action is not None and action.kind != ChannelPruning.kind for action in actions)


def test_a_fixed_student_keeps_its_architecture_and_its_teachers_are_measured(study, tiny):
    history, precisions = study.search("fixed-student").history, study.teacher_precisions()
    assert len({each.student for each in history.pairs}) == 1
    teachers = [each.teacher for each in history.pairs]
    assert len(set(teachers)) > 1
    assert set(precisions) == set(map(str, teachers))
    largest = study.laboratory.teacher(study._folder("pool"), tiny.teachers.largest())
    expected = study.laboratory.precision_at(largest, tiny.base_size, "search")["AP"]
    assert precisions[str(tiny.teachers.largest())] == expected
    pair = study.search("fixed-pair").history
    assert {each.teacher for each in pair.pairs} == {tiny.teachers.largest()}


def test_another_backbone_shares_the_pool(study):
    other = study.on("mobilenet_v2")
    assert other is study.on("mobilenet_v2")
    assert study.on("resnet18") is study
    assert other._folder("pool") == study._folder("pool")
    assert other.name == "mobilenet-v2"
