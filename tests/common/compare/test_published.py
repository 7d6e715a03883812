"""What the repository's own results hold, as detectors side by side."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.compare.methods import FOUND, RANDOM, STANDARD, THEIRS
from common.compare.presets import NANO, Options
from common.compare.published import Published, published
from common.compare.study import Comparison
from common.cost import count
from common.plain import InputError, read_json, write_json

RESULTS = Path(__file__).parents[3] / "results"
SEED = 1


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return Comparison(Options(scale="nano", preset=NANO, results=RESULTS, device="cpu"), SEED)


@pytest.fixture(scope="module")
def told(comparison) -> dict[str, dict[tuple[str, str], dict]]:
    """Method -> role and name -> detector."""
    return {
        method: {(each["role"], each["name"]): each for each in detectors}
        for method, detectors in published(comparison).items()
    }


def measured(paper: str, exhibit: str) -> dict:
    return read_json(RESULTS / "nano" / paper / "measured.json")[exhibit]["seeds"][str(SEED)]


def minutes(paper: str, *runs: str) -> float:
    known = read_json(RESULTS / "nano" / paper / "runs.json")
    spent = (known[f"scenes-nano/{run}"] for run in runs)
    return sum((run["seconds"] or 0) + (run["candidate_seconds"] or 0) for run in spent) / 60


def test_detofas_are_those_of_figure_5(told, comparison):
    figure, found = measured("detofa", "figure5"), told["detofa"]
    assert len(found) == 11
    full = found[STANDARD, "Fullnet"]
    assert (full["AP"], full["minutes"]) == (figure["full"]["AP"], minutes("detofa", "classification", "fullnet-s1"))
    behind = minutes("detofa", "classification", "filter", "warm-up-s1", "ours-s1")
    study = comparison.studies["detofa"]
    paths = study.space.sample(12, np.random.default_rng(0))
    wholes = [count(study.detector().extract(path), study.size).macs_mmdet for path in paths]
    beside = np.array(wholes) - study.constraint.cost(paths)
    for role, curve in ((FOUND, "ours"), (RANDOM, "random")):
        values = figure["curves"][curve]
        for budget, ap, cost in zip(figure["budgets"], values["AP"], values["cost"], strict=True):
            each = found[role, f"backbone within {budget / 1e6:.1f} M"]
            assert (each["AP"], each["minutes"]) == (ap, pytest.approx(behind))
            off = beside - (each["macs_mmdet"] - cost)
            assert 0.8 * each["macs_within"] < np.abs(off).max() <= each["macs_within"]


def test_joint_detnas_are_those_of_table_4(told):
    rows, found = measured("joint_detnas", "table4")["rows"], told["joint_detnas"]
    assert len(found) == 4
    pool = measured("joint_detnas", "table7")["preparation"]["pool"]
    for backbone, name in (("resnet18", "R18-FPN"), ("resnet50", "R50-FPN")):
        crops = minutes("joint_detnas", f"classification-{backbone}")
        took = {row: rows[backbone][row]["seconds"] / 60 for row in ("baseline", "ours")}
        for at, row, whole in (
            ((STANDARD, name), "baseline", crops + took["baseline"]),
            ((FOUND, f"{name}, upgraded"), "ours", crops + sum(took.values()) + pool / 60),
        ):
            assert {key: found[at][key] for key in ("AP", "macs_mmdet")} == {
                key: rows[backbone][row][key] for key in ("AP", "macs_mmdet")
            }
            assert found[at]["minutes"] == pytest.approx(whole)


def test_sm_nas_are_those_of_table_4(told):
    table, found = measured("sm_nas", "table4"), told["sm_nas"]
    of_kinds = ((THEIRS, "models"), (STANDARD, "classics"))
    assert list(found) == [(role, name) for role, kind in of_kinds for name in table[kind]]
    for role, kind in of_kinds:
        for name, row in table[kind].items():
            assert {key: found[role, name][key] for key in ("AP", "macs_mmdet")} == {
                key: row[key] for key in ("AP", "macs_mmdet")
            }
    behind = ("classification-basicblock-14-12-11111-211-1112", "final-e2-s1")
    assert found[THEIRS, "E2"]["minutes"] == pytest.approx(minutes("sm_nas", *behind))
    behind = ("classification-resnet101", "final-fpn-r101-s1")
    assert found[STANDARD, "FPN R101"]["minutes"] == pytest.approx(minutes("sm_nas", *behind))


def test_what_is_not_there_is_left_out_or_named(tmp_path, comparison):
    def of(results: Path) -> Comparison:
        other = Comparison(replace(comparison.options, results=results), SEED)
        other.studies = comparison.studies
        return other

    assert published(of(tmp_path)) == {}
    there = tmp_path / "nano" / "sm_nas"
    shutil.copytree(RESULTS / "nano" / "sm_nas", there)
    assert list(published(of(tmp_path))) == ["sm_nas"]
    content = read_json(there / "measured.json")
    content["table4"]["setting"]["preset"]["validation_images"] = 500
    write_json(there / "measured.json", content)
    with pytest.raises(InputError, match="table4 measured on 500 images of scenes, and the comparison is of 1000 of"):
        published(of(tmp_path))
    assert Published(there, 77, ("scenes", 1000)).numbers("table4") is None
    assert Published(there, SEED, ("scenes", 1000)).numbers("figure9") is None
