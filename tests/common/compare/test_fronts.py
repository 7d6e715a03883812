"""Every method's front at smoke scale: detectors with cards, what they took, and nothing twice."""

import math

import pytest

from common.compare.methods import front_of, methods
from common.compare.presets import Options
from common.compare.study import Comparison
from common.models.detector import load_detector
from common.plain import read_json
from common.train.run_folder import Run

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


@pytest.mark.slow
def test_the_whole_command_judges_every_claim(tmp_path):
    from common.compare.exhibits import PAPER
    from common.report.reproduce import reproduce

    options = Options(out=tmp_path / "runs", results=tmp_path / "results", budget=BUDGET, publish=True)
    reproduce(PAPER, options)
    published = tmp_path / "results/smoke/compare"
    claims = read_json(published / "claims.json")
    reasons = {"X-1": "two methods and two seeds are", "X-2": "networks of", "X-3": "not measured: second"}
    assert {name: claims[name]["reason"][: len(start)] for name, start in reasons.items()} == reasons
    assert len(claims["X-2"]["conditions"]) == len(claims["X-2"]["budget"]) / 2 == len(methods())
    areas = [row[2]["mean"] for row in read_json(published / "table1.json")["table"]["rows"]]
    assert len(areas) == 2 * len(methods())
    assert all(math.isfinite(each) for each in areas)
