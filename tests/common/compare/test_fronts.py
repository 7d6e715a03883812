"""Every method's front at smoke scale: detectors with cards, what they took, and nothing twice."""

import math
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest

from common.compare import exhibits, measure
from common.compare import study as module
from common.compare.measure import key_of
from common.compare.methods import front_of, methods
from common.compare.presets import Options
from common.compare.study import Comparison
from common.models.detector import load_detector
from common.plain import InputError, read_json, write_json
from common.train.loop import TrainingError
from common.train.run_folder import Run
from detofa import front as detofa
from sm_nas.presets import SMOKE, SearchOptions
from sm_nas.study import SMNAS
from tests.common.compare.test_measure import write

BUDGET = 1.0


def comparison(out) -> Comparison:
    return Comparison(Options(out=out, data="scenes:train=64,val=16", budget=BUDGET), 0, "typed")


@pytest.mark.slow
@pytest.mark.parametrize("method", [*methods()])
def test_a_front_is_of_detectors_with_cards_and_is_found_once(method, tmp_path, monkeypatch):
    study = comparison(tmp_path)
    sides = {random: study.side(method, random) for random in (False, True)}
    pretraining = (tmp_path / method / "scenes-smoke").glob("[cf]*")  # classification, and a path filter
    uncounted = sum(
        read_json(stage).get("cpu_seconds", 0) for each in pretraining for stage in each.rglob("stages/*.json")
    )
    assert uncounted > 0
    for random, side in sides.items():
        assert side.files
        for file in side.files:
            detector = load_detector(file)
            assert detector.description["provenance"]["paper"] == method
            assert detector.description["cost"]["macs"] > 0
            assert detector.description["spent"]["cpu_seconds"] > 0
        before = tuple(f"../{method}/scenes-smoke/{each}" for each in front_of(method).UNCOUNTED)
        counted = {name for name in side.runs if not name.startswith(before)}
        stages = [read_json(stage) for name in counted for stage in (tmp_path / name[3:]).glob("stages/*.json")]
        assert sum(stage["samples"] for stage in stages) <= side.spent["samples"]
        assert side.spent["cpu_seconds"] >= sum(stage["cpu_seconds"] for stage in stages) > 0
        assert side.uncounted["cpu_seconds"] > 0
        assert any("random" in name or "uniform" in name for name in side.runs) == random
    assert set(sides[False].files) != set(sides[True].files)

    def never(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(Run, "finish", never)
    monkeypatch.setattr(Run, "finish_stage", never)
    again = comparison(tmp_path)
    for random, side in sides.items():
        assert again.side(method, random) == side


def test_random_search_trains_no_filter_and_evolves_nothing(tmp_path, monkeypatch):
    """Its seconds are those of a supernet and of validating paths."""

    def never(*_, **__):
        raise AssertionError("done for nothing")

    for name in ("train_filter", "search"):
        monkeypatch.setattr(detofa.method, name, never)
    paces = dict.fromkeys(("image", "pruned image", "path", "filter", "search"), 1.0)
    monkeypatch.setattr(detofa, "measure_pace", lambda *_: paces)
    monkeypatch.setattr(detofa.DetOFAStudy, "transferred", lambda _, supernet: supernet)
    monkeypatch.setattr(detofa.DetOFAStudy, "_show", lambda *_: None)  # the pages of its runs
    study = comparison(tmp_path)
    with study.studies["detofa"].recording() as used:
        files = detofa.front(study.studies["detofa"], BUDGET, True)
    assert all(load_detector(file).description["cost"]["macs"] > 0 for file in files)
    run = Run.read(files[0].parents[1])
    assert {f"{run.path.parent.name}/{run.path.name}" for _ in files} <= set(used)
    assert sorted(each.stem for each in (run.path / "stages").iterdir()) == ["fine-tuning", "warm-up"]
    assert {record["key"][0] for record in run.candidates()} == {"search", "AP"}


def toy(monkeypatch, front) -> None:
    """`front` takes the place of every method's, beside studies that have nothing but a folder."""
    hook = SimpleNamespace(front=front, UNCOUNTED=("classification", "pace"))
    monkeypatch.setattr(module, "front_of", lambda name: hook)


def test_what_another_data_set_has_left_there_is_not_counted_either(tmp_path, monkeypatch, bccd):
    """Pre-training on crops of Scenes is one for all data sets, and lies in the folder of Scenes."""
    preset = replace(SMOKE, pretraining_data="scenes:seed=1,train=9")

    def studies(there):
        return {"sm_nas": SMNAS(SearchOptions(data=there.options.data, out=there.options.out, preset=preset))}

    def front(study, seconds, random):
        for name, taken in {"classification-resnet18": 5.0, "pace": 3.0, "search": 2.0}.items():
            study.once(name, partial(take, taken))
        return [write(tmp_path / "found", 0)]

    def take(seconds, run):
        write_json(run.path / "stages" / "one.json", {"cpu_seconds": seconds})
        return {"seconds": seconds}

    toy(monkeypatch, front)
    monkeypatch.setattr(Comparison, "studies", property(studies))
    first = comparison(tmp_path)
    for study in (first.on(f"coco:{bccd}"), first):
        side = study.side("sm_nas", False)
        assert (side.spent["cpu_seconds"], side.uncounted["cpu_seconds"]) == (2.0, 8.0)
        assert side.runs[0] == f"../sm_nas/{first.studies['sm_nas'].folder.name}/classification-resnet18"


def test_a_side_whose_training_fails_counts_as_nothing_and_costs_no_other(tmp_path, monkeypatch):
    def front(study, seconds, random):
        if study.paper == "detofa":
            raise TrainingError("a loss is not finite")
        return [write(tmp_path / study.paper / str(random), random)]

    toy(monkeypatch, front)
    study = comparison(tmp_path)
    assert study.area("detofa", True) == 0.0
    assert "a loss is not finite" in study.side("detofa", True).failed
    assert [len(study.detectors[name, False]) for name in ("detofa", "joint_detnas", "sm_nas")] == [0, 1, 1]
    assert exhibits._best(study, "detofa") == 0.0
    told = exhibits._fronts(study)
    assert "area of 0 (a loss" in told["detofa"]["found"]["failed"]
    assert told["sm_nas"]["found"]["failed"] is None


def test_a_detector_without_finite_boxes_adds_nothing_and_is_told(tmp_path, monkeypatch):
    files = [write(tmp_path / "runs", seed) for seed in (0, 1)]
    detected = measure.detected

    def refused(detector, *images):
        if key_of(detector.description) == key_of(read_json(files[1])):
            raise FloatingPointError("boxes are not finite")
        return detected(detector, *images)

    monkeypatch.setattr(measure, "detected", refused)
    toy(monkeypatch, lambda study, seconds, random: files)
    study = comparison(tmp_path)
    (found,) = study.detectors["sm_nas", False]
    assert found["seed"] == 0
    told = exhibits._fronts(study)["sm_nas"]["found"]["failed"]
    assert told == "1 of its detectors, whose boxes are not finite, count as AP 0"
    files[0].with_suffix(".safetensors").write_bytes(b"torn")
    with pytest.raises(InputError, match="is left out"):
        comparison(tmp_path / "again").detectors  # noqa: B018 (files at fault are no network's doing)


@pytest.mark.slow
def test_the_whole_command_judges_every_claim(tmp_path):
    from common.compare.exhibits import PAPER
    from common.report.reproduce import reproduce

    options = Options(out=tmp_path / "runs", results=tmp_path / "results", budget=BUDGET, publish=True)
    reproduce(PAPER, options)
    published = tmp_path / "results/smoke/compare"
    claims = read_json(published / "claims.json")
    reasons = {"X-1": "two methods and two", "X-2": "Joint-DetNAS selects nothing", "X-3": "not measured: second"}
    assert {name: claims[name]["reason"][: len(start)] for name, start in reasons.items()} == reasons
    areas = [row[2]["mean"] for row in read_json(published / "table1.json")["table"]["rows"]]
    assert len(areas) == 2 * len(methods())
    assert all(math.isfinite(each) for each in areas)
