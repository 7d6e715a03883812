"""From the command line to tables and verdicts at a tiny scale: two exhibits of one search, run once for all tests."""

from pathlib import Path

import pytest

from common import study as common_study
from common.cli import run
from common.plain import read_json
from common.report.exhibit import ExhibitResult
from common.train.loop import _Stage
from joint_detnas.exhibits import pruning_evidence
from joint_detnas.presets import PRESETS
from joint_detnas.reproduce import Options, main
from tests.joint_detnas.conftest import DATA, TINY
from tests.repeatable import steady_latency

CHOSEN = ("figure6", "figure7")  # of a search alone, which other modules look at, too


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """Where it is published."""
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def flags(searched, results) -> list[str]:
    """The command line."""
    places = ["--out", str(searched), "--results", str(results), "--publish"]
    return ["--data", DATA, "--device", "cpu", "--only", *CHOSEN, *places]


@pytest.fixture(scope="module")
def folder(flags, searched, drawn_once) -> Path:
    """runs/joint_detnas/scenes-smoke after one seed of the exhibits at a scale that is TINY, its latencies made up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "smoke", TINY)
        patch.setattr(common_study, "measure_latency", steady_latency)
        run(main, Options, flags)
        yield searched / "joint_detnas" / "scenes-smoke"


@pytest.fixture
def steps(folder) -> list[dict]:
    """The pairs of the search, as its run says."""
    return read_json(folder / "search-resnet18-s0" / "result.json")["steps"][1:]


@pytest.mark.parametrize("name", CHOSEN)
def test_every_exhibit_has_its_table_pictures_and_runs(folder, name):
    result = ExhibitResult.load(folder / "exhibits" / name / "result.json")
    assert (result.exhibit, result.seeds, result.data, result.scale) == (name, (0,), "scenes", "smoke")
    said = f"python -m joint_detnas.reproduce --scale smoke --data {DATA} --device cpu --seeds 1 --only {name}"
    assert sorted(result.command.split()) == sorted(said.split())
    assert all((folder / "exhibits" / name / f"{picture.name}.png").is_file() for picture in result.pictures)
    made = ("classification-resnet18", "base-resnet18", "classification-teacher-pool", "pool", "search-resnet18")
    assert result.runs == tuple(f"scenes-smoke/{what}-s0" for what in made)


def test_verdicts_need_seeds_and_numbers(folder, results, steps):
    claims = read_json(results / "smoke" / "joint_detnas" / "claims.json")
    assert list(claims) == ["JD-9", "JD-10"]
    assert not any("not measured" in claim["reason"] for claim in claims.values())
    assert {claim["verdict"] for claim in claims.values()} <= {"inconclusive", "not testable at this scale"}
    gains = [step | {"gain": 100 * step["increment"]} for step in steps]
    share, by_number, place = pruning_evidence(gains, TINY.search.budget).values()
    found = [each["difference"] for each in claims["JD-9"]["conditions"]]
    assert found == pytest.approx([share, share - by_number, place])
    assert "scenes-smoke/search-resnet18-s0" in claims["JD-10"]["runs"]


def test_done_again_it_trains_nothing_and_measures_the_same(folder, flags, monkeypatch):
    before = {name: read_json(folder / "exhibits" / name / "measured.json") for name in CHOSEN}
    monkeypatch.setattr(_Stage, "train", lambda *_: pytest.fail("something is trained anew"))
    run(main, Options, [each for each in flags if each != "--publish"])
    assert {name: read_json(folder / "exhibits" / name / "measured.json") for name in CHOSEN} == before
