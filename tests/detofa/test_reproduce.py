"""The whole reproduction at a tiny scale, run once and shared by all tests here."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.plain import read_json
from common.report.exhibit import ExhibitResult
from common.train import loop
from detofa.exhibits import PAPER
from detofa.method import Evaluator
from detofa.presets import PRESETS, VARIANTS
from detofa.reproduce import Options, main
from tests.detofa.tiny_space import TINY_PRESET

DATA = "scenes:train=40,val=8,size=32"
PNG = b"\x89PNG\r\n\x1a\n"
NAMES = [exhibit.name for exhibit in PAPER.exhibits if not exhibit.pilot]


@pytest.fixture(scope="module")
def options(tmp_path_factory, hurried, drawn_once) -> Options:
    preset = replace(TINY_PRESET, name="smoke", budget_shares=(0.6, 1.0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "smoke", preset)
        yield Options(data=DATA, out=tmp_path_factory.mktemp("reproduce") / "runs", device="cpu", preset=preset)


@pytest.fixture(scope="module")
def folder(options) -> Path:
    """runs/detofa/scenes-smoke after one seed of every exhibit."""
    main(options)
    return options.out / "detofa" / "scenes-smoke"


@pytest.fixture(scope="module")
def results(folder) -> dict[str, ExhibitResult]:
    return {name: ExhibitResult.load(folder / "exhibits" / name / "result.json") for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_every_exhibit_has_its_table_pictures_and_runs(folder, results, name):
    result = results[name]
    assert (result.exhibit, result.seeds, result.data, result.scale) == (name, (0,), "scenes", "smoke")
    assert bool(result.pictures) == bool(result.runs) == bool(result.environment) == (name != "table1")
    for picture in result.pictures:
        content = (folder / "exhibits" / name / f"{picture.name}.png").read_bytes()
        assert content.startswith(PNG)
        assert len(content) > 2000
    cells = [cell for row in result.table.rows for cell in row if hasattr(cell, "mean")]
    assert len(cells) >= len(result.table.rows) * (name != "table1")
    assert all(cell.n in (0, 1) and not cell.has_interval for cell in cells)
    assert sum(math.isfinite(cell.mean) for cell in cells) >= 0.6 * len(cells)  # figure 6 may have empty buckets


def test_the_exhibits_runs_are_all_that_was_trained(folder, results):
    named = {Path(run).name for result in results.values() for run in result.runs}
    assert named == {path.name for path in folder.iterdir() if path.name.endswith("-s0")}
    assert named >= {f"{variant}-s0" for variant in VARIANTS}


def test_figure5_compares_every_method_and_table3_counts_the_path_sampling(results):
    rows = {row[0]: row[1:] for row in results["figure5"].table.rows}
    methods = ["DetOFA (ours)", "OFA (w/o PS)", "OFA (w/ PS)", "CompOFA*", "Random search, same budget"]
    longer = ["OFA (w/o PS), cost of ours", "CompOFA*, cost of ours"]
    assert list(rows) == [*methods, *longer, "OFA (w/o PS), no transfer", "Fullnet"]
    for name in methods:
        *at_budgets, mean, _ = rows[name]
        assert mean.mean == pytest.approx(np.mean([cell.mean for cell in at_budgets]), nan_ok=True)
    rows = {row[0]: row[1:] for row in results["table3"].table.rows}
    cost, sampling, *_ = rows["Ours"]
    assert 0 < sampling.mean < cost.mean
    assert rows["OFA (w/ PS)"][3].mean == 1


def test_every_claim_has_a_verdict_and_all_its_evidence(folder):
    claims = read_json(folder / "claims.json")
    assert sorted(claims) == sorted(f"DO-{number}" for number in range(1, 13))
    for claim in claims.values():
        assert math.isfinite(claim["difference"]), "measured"
        few = "1 of the 6 seeds that a verdict needs"
        assert claim["reason"] == few if claim["level"] is None else claim["verdict"] == "not testable at this scale"
    assert claims["DO-11"]["budget"].keys() >= {"DetOFA (ours)", "OFA (w/o PS), cost of ours"}
    runs = {name: {Path(run).name for run in claims[name]["runs"]} for name in claims}
    shared = {f"{what}-s0" for what in ("classification", "filter", "warm-up")}
    level = {"fullnet-s0"}
    assert runs["DO-3"] == {"ours-s0", "ofa-s0", "sampled-ours-s0", "sampled-ofa-s0"} | shared | level
    assert runs["DO-9"] == {"ours-s0", "fullnet-s0"} | shared


def test_the_same_command_again_trains_nothing_and_says_the_same(folder, options, monkeypatch):
    def contents() -> dict[Path, bytes]:
        names = ("log.jsonl", "candidates.jsonl", "result.json", "claims.json", "measured.json")
        return {path: path.read_bytes() for name in names for path in folder.rglob(name)}

    before = contents()
    monkeypatch.setattr(loop._Stage, "train", lambda *_: pytest.fail("something was trained again"))
    monkeypatch.setattr(Evaluator, "loss", lambda *_: pytest.fail("a path was validated again"))
    main(options)
    assert contents() == before
