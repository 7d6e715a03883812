"""A whole search at a tiny scale: what is remembered, inherited and forgotten; kills change nothing; failures."""

import math
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from common.cost import count
from common.data.source import SCENES_DEFAULTS
from common.letterbox import padded
from common.models.detector import load_detector, save_detector
from common.models.fpn import FPN
from common.models.resnet import ResNet
from common.models.retinanet import RetinaNet
from common.plain import InputError
from common.train import loop
from common.train.run_folder import Run
from joint_detnas import method
from joint_detnas.method import ChannelPruning, Judge, Pair, Pupil, evolve
from joint_detnas.presets import preset
from joint_detnas.study import Study
from joint_detnas.trial import Laboratory, pair_folder

ROOT = Path(__file__).resolve().parents[2]
TIMES = {"seconds", "cpu_seconds", "train_seconds", "train_cpu_seconds", "peak_memory"}

pytestmark = pytest.mark.usefixtures("steady")


def _without_times(value):
    if isinstance(value, dict):
        return {key: _without_times(item) for key, item in value.items() if key not in TIMES}
    return [_without_times(item) for item in value] if isinstance(value, list) else value


def records(study: Study) -> list:
    """The pairs of the search, in their order, and its result."""
    run = Run.read(study.folder / "search-resnet18-s0")
    return _without_times([*run.candidates(), run.result])


@pytest.fixture
def study(tiny, data, searched) -> Study:
    """Seed 0, searched once for all tests."""
    study = Study(tiny, data, 0, searched)
    study.search()
    return study


def test_a_search_upgrades_the_base_detector(study, tiny):
    searched, base, upgraded = study.search(), study.base, study.upgraded()
    history = searched.history
    assert [each.number for each in history.pairs] == list(range(tiny.search.budget + 1))
    start = load_detector(base["file"]).model
    judge = Judge(float(count(start, tiny.base_size).macs_mmdet), tiny.base_size, 0.07, 1.0)
    assert base["macs_mmdet"] == judge.base_cost == history.base.cost
    for each in history.pairs:
        record = searched.pool[each.number]
        ap_at = {tuple(map(int, name.split("x"))): ap for name, ap in record["AP_at"].items()}
        assert set(ap_at) == set(tiny.sizes)
        assert (each.score, each.resolution) == judge.best(ap_at, record["cost"])
        assert record["AP"] == ap_at[each.resolution]
        assert record["key"] == each.to_dict()
    best = history.best()
    assert upgraded["pair"] == best.number
    assert tuple(upgraded["size"]) == best.resolution
    detector = load_detector(upgraded["file"])
    assert detector.model.backbone.architecture == best.student
    assert upgraded["macs_mmdet"] == count(detector.model, best.resolution).macs_mmdet
    again = study.laboratory.precision_at(detector.model, padded(best.resolution), "validation")
    assert upgraded["AP"] == detector.description["AP"] == again["AP"]
    steps = Run.read(searched.folder).result["steps"]
    assert {"pair", "parent", "action", "teacher", "score", "cost", "resolution", "increment"} <= steps[1].keys()
    for step, each in zip(steps[1:], history.pairs[1:], strict=True):
        assert step["increment"] == each.score - history.pairs[step["parent"]].score


def test_only_the_weights_of_the_best_pair_are_left(study):
    pairs = study.search().folder / "pairs"
    assert [each.name for each in pairs.iterdir()] == [f"{study.search().history.best().number:04d}"]
    assert not [path for path in study.folder.rglob("*") if path.suffix == ".state"]


def test_a_second_study_trains_nothing_and_finds_the_same(study, tiny, data, searched, monkeypatch):
    before = records(study)
    monkeypatch.setattr(loop._Training, "train", lambda *_: pytest.fail("something was trained again"))
    monkeypatch.setattr(Laboratory, "train_pair", lambda *_: pytest.fail("a pair was tried again"))
    again = Study(tiny, data, 0, searched)
    assert again.search() == study.search()
    assert again.upgraded() == study.upgraded()
    assert records(again) == before
    other = Study(replace(tiny, search=replace(tiny.search, budget=6)), data, 0, searched)
    with pytest.raises(InputError, match=r"holds a run with search\.budget = 4, and this command asks for 6"):
        other.search()


# ---- a pair


@pytest.mark.parametrize("action", [None, ChannelPruning(10.0)], ids=str)
def test_weights_are_inherited_from_the_parent(study, tiny, monkeypatch, tmp_path, action):
    """What training begins with is the parent's, changed by the action; the teacher is the pair's own."""
    parents = study.search().folder / "pairs"
    parent = study.search().history.best()
    pairs = tmp_path / "pairs"
    shutil.copytree(pair_folder(parents, parent.number), pair_folder(pairs, parent.number))
    file, pool = Path(study.base["file"]), study.folder / "pool-s0"
    teacher = tiny.teachers.smallest()
    pair = Pair(9, 3, parent.number, "student", action, teacher)
    caught = {}

    def instead(run, stage, pupil, batches, losses, training):
        caught.update(pupil=pupil, state={name: each.clone() for name, each in pupil.state_dict().items()})
        caught.update(batches=batches, losses=losses)
        raise KeyboardInterrupt

    monkeypatch.setattr(method, "fit", instead)
    judge = Judge(1.0, tiny.base_size, 0.07, 1.0)
    with pytest.raises(KeyboardInterrupt):
        study.laboratory.train_pair(pair, file, pool, pairs, judge)
    weights, _ = Run.read(pair_folder(pairs, parent.number)).load_weights("pair")
    expected = study.laboratory.pupil(file, pair_folder(pairs, parent.number))
    assert all(torch.equal(each, weights[name]) for name, each in expected.state_dict().items())
    if action is not None:
        student = evolve(expected.student, action, 0, tiny.search.morphism)
        assert student.backbone.architecture != expected.student.backbone.architecture
        weights = {f"student.{name}": each for name, each in student.state_dict().items()} | {
            name: each for name, each in weights.items() if name.startswith("adapter.")
        }
    assert caught["state"].keys() == weights.keys()
    assert all(torch.equal(each, weights[name]) for name, each in caught["state"].items())
    before = study.laboratory.base_detector("resnet18").state_dict()
    assert not torch.equal(weights["student.rpn.conv.weight"], before["rpn.conv.weight"]), "trained weights"

    taught = []
    monkeypatch.setattr(Pupil, "losses", lambda self, batch, teacher, *_: taught.append(teacher) or {})
    next(iter(caught["losses"](None, None)))
    assert taught[0].backbone.active_blocks == teacher.depths
    assert taught[0].fpn.width == tiny.teachers.neck_channels(teacher)
    assert not taught[0].training
    assert set(caught["batches"].parts) == set(map(padded, tiny.sizes))


@pytest.mark.parametrize(
    ("error", "said"),
    [(MemoryError("9 GiB"), "does not fit in memory (9 GiB)"), (FloatingPointError("not finite"), "not finite")],
)
def test_a_pair_that_fails_is_recorded_and_the_search_goes_on(study, tiny, data, tmp_path, monkeypatch, error, said):
    """Nothing is trained: the laboratory makes its numbers up. Weights that no pair can start from go."""
    _copy_of_parts(study, tmp_path)
    longer = replace(tiny, search=replace(tiny.search, budget=13, k=2, generation=3))
    measured, most = study.search().pool[0], []

    def made_up(self, pair, base, pool, pairs, judge, taught):
        folder = pair_folder(pairs, pair.number)
        if pair.parent is not None:
            assert pair_folder(pairs, pair.parent).is_dir(), "a parent's weights are there"
        folder.mkdir(parents=True)
        most.append(len(list(pairs.iterdir())))
        if pair.number == 2:
            raise error
        ap = 0.1 + 0.01 * ((7 * pair.number) % 11)
        return {**measured, "AP": ap, "score": ap}

    monkeypatch.setattr(Laboratory, "train_pair", made_up)
    monkeypatch.setattr(Laboratory, "pupil", lambda *_: pytest.fail("the search came to its end"))
    searching = Study(longer, data, 0, tmp_path)
    with pytest.raises(pytest.fail.Exception, match="came to its end"):
        searching.search()
    found = Run.read(searching.folder / "search-resnet18-s0").candidates()
    assert len(found) == 14
    assert [record["key"]["pair"] for record in found if record["status"] == "failed"] == [2]
    assert said in found[2]["reason"]
    assert 2 not in [record["key"]["parent"] for record in found]
    assert max(most) == longer.search.k + longer.search.generation


# ---- the detector to upgrade


def test_a_given_detector_is_upgraded_as_if_it_had_been_trained_here(study, tiny, data, tmp_path, monkeypatch):
    file = Path(study.base["file"])
    _copy_of_parts(study, tmp_path)
    few = replace(tiny, search=replace(tiny.search, budget=0))
    monkeypatch.setattr(loop._Training, "train", lambda *_: pytest.fail("something was trained"))
    given = Study(few, data, 0, tmp_path, base=file)
    assert given.base["AP"] == study.base["AP"]
    assert given.base["file"] == str(file)
    assert given.search().history.base == study.search().history.base
    assert given.upgraded()["pair"] == 0
    assert given.search().folder.name == f"search-{given.name}-s0"


def test_detectors_that_cannot_be_upgraded_are_said(study, tiny, data, tmp_path):
    categories = list(study.laboratory.categories)
    other = load_detector(study.base["file"])
    with pytest.raises(InputError, match=r"is not there"):
        _ = Study(tiny, data, 0, tmp_path, base=tmp_path / "nothing").base
    renamed = save_detector(
        tmp_path / "renamed", other.model, {"categories": [*categories[:-1], "yak"], "input_size": 64}
    )
    with pytest.raises(InputError, match=r"knows \d+ classes .* trained on these classes"):
        _ = Study(tiny, data, 0, tmp_path, base=renamed).base
    backbone = ResNet("resnet18", width=8)
    one_stage = RetinaNet(backbone, len(categories), FPN(backbone.out_channels, 2, 4, 16))
    file = save_detector(tmp_path / "one-stage", one_stage, {"categories": categories, "input_size": 64})
    with pytest.raises(InputError, match=r"one-stage.json is no detector that can be upgraded"):
        _ = Study(tiny, data, 0, tmp_path, base=file).base
    with pytest.raises(InputError, match="no backbone is called 'resnet9'"):
        Study(tiny, data, 0, tmp_path, backbone="resnet9")


# ---- controls


def test_controls_share_base_and_pool(study, tiny):
    assert study.settings("random") == replace(tiny.search, k=None)
    assert study.settings("conventional") == replace(tiny.search, teacher="largest")
    assert study.settings() == tiny.search


# ---- data


@pytest.mark.parametrize("name", ["smoke", "nano", "mini"])
def test_the_scenes_are_many_enough_for_all_held_out_images_of_a_scale(name, tmp_path):
    settings = preset(name)
    scenes = Laboratory(settings, "scenes", 0, tmp_path)
    assert len(scenes.sets["search"]) == settings.search_images
    assert len(scenes.training_set) == (settings.train_images or SCENES_DEFAULTS["train"] - settings.search_images)


# ---- a kill changes nothing


def _copy_of_parts(study: Study, out: Path) -> None:
    """Base detector and pool of a finished study, without its search."""
    ignored = shutil.ignore_patterns("search-*")
    shutil.copytree(study.folder, out / study.folder.relative_to(study.folder.parents[1]), ignore=ignored)


def test_killed_in_a_pair_it_comes_to_the_same_end(study, tiny, data, tmp_path):
    """SIGKILL, in another process, at the second step of the third pair; then on in this one."""
    _copy_of_parts(study, tmp_path)
    script = [sys.executable, __file__, str(tmp_path), data]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    killed = subprocess.run(script, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [path.parent.name for path in tmp_path.rglob("pair.state")] == ["0003"]
    assert len(Run.read(study_folder(tmp_path)).candidates()) == 3
    resumed = Study(tiny, data, 0, tmp_path)
    assert resumed.search().history == study.search().history
    assert all(math.isfinite(each.score) for each in resumed.search().history.pairs)
    assert records(resumed) == records(study)


def study_folder(out: Path) -> Path:
    """Of the search."""
    return next(out.rglob("search-resnet18-s0"))


def _search_until_killed(out: Path, data: str) -> None:
    from conftest import TINY, steady_latency

    from common.train import laboratory

    fit, losses, seen = method.fit, Pupil.losses, []
    method.fit = lambda *args: fit(*args[:-1], replace(args[-1], checkpoint_every_s=0.0))
    laboratory.measure_latency = steady_latency

    def counted(*arguments):
        seen.append(0)
        if len(seen) == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return losses(*arguments)

    Pupil.losses = counted
    Study(TINY, data, 0, out).search()


if __name__ == "__main__":
    _search_until_killed(Path(sys.argv[1]), sys.argv[2])


def test_workers_measure_what_one_process_does(study, tiny, data, tmp_path):
    """AP and costs hang on no latency, so that whole searches can be compared; pairs are recorded as they end."""
    _copy_of_parts(study, tmp_path)
    side_by_side = Study(tiny, data, 0, tmp_path, workers=2)
    side_by_side.search()
    found, expected = ({each["key"]["pair"]: each for each in records(one)[:-1]} for one in (side_by_side, study))
    assert found == expected
