"""The whole reproduction at smoke scale, run once and shared by all tests here."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from common.cli import run
from common.plain import read_json
from common.report.exhibit import ExhibitResult
from detofa.exhibits import PAPER
from detofa.presets import VARIANTS
from detofa.reproduce import Options, main

DATA = "scenes:train=80,val=30"  # no more images than the scale takes: they need not be drawn
PNG = b"\x89PNG\r\n\x1a\n"
NAMES = [exhibit.name for exhibit in PAPER.exhibits]


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> Options:
    root = tmp_path_factory.mktemp("reproduce")
    return Options(data=DATA, out=root / "runs", results=root / "results", publish=True, device="cpu")


@pytest.fixture(scope="module")
def folder(options) -> Path:
    """runs/detofa/scenes-smoke after one seed of every exhibit."""
    main(options)
    return options.out / "detofa" / "scenes-smoke"


def result_of(folder: Path, name: str) -> ExhibitResult:
    return ExhibitResult.load(folder / "exhibits" / name / "result.json")


@pytest.mark.parametrize("name", NAMES)
def test_every_exhibit_has_its_table_pictures_and_runs(folder, name):
    result = result_of(folder, name)
    assert result.table.rows
    assert (result.exhibit, result.seeds, result.data, result.scale) == (name, (0,), "scenes", "smoke")
    assert f"--scale smoke --data {DATA}" in result.command
    assert result.command.endswith(f"--only {name}")
    assert bool(result.pictures) == bool(result.runs) == bool(result.environment) == (name != "table1")
    for picture in result.pictures:
        content = (folder / "exhibits" / name / f"{picture.name}.png").read_bytes()
        assert content.startswith(PNG)
        assert len(content) > 2000
    assert all((folder.parent / run_name / "result.json").is_file() for run_name in result.runs)


def test_the_exhibits_runs_are_all_that_was_trained(folder):
    named = {Path(run_name).name for name in NAMES for run_name in result_of(folder, name).runs}
    assert named == {path.name for path in folder.iterdir() if path.name.endswith("-s0")}
    assert named >= {f"{variant}-s0" for variant in VARIANTS}


@pytest.mark.parametrize("name", ["table2", "table3", "figure6", "figure7", "figure8", "figure9"])
def test_every_measured_cell_is_a_number_without_interval_for_one_seed(folder, name):
    cells = [cell for row in result_of(folder, name).table.rows for cell in row if hasattr(cell, "mean")]
    assert len(cells) >= len(result_of(folder, name).table.rows)
    assert all(cell.n in (0, 1) and not cell.has_interval for cell in cells)
    assert sum(math.isfinite(cell.mean) for cell in cells) >= 0.8 * len(cells)  # figure 6 may have empty buckets


def test_figure5_compares_every_method_at_every_budget(folder):
    rows = {row[0]: row[1:] for row in result_of(folder, "figure5").table.rows}
    methods = ["DetOFA (ours)", "OFA (w/o PS)", "OFA (w/ PS)", "CompOFA*", "Random search, same budget"]
    assert list(rows) == [*methods, "OFA (w/o PS), no transfer", "Fullnet"]
    for name in methods:
        *at_budgets, mean, _ = rows[name]
        assert mean.mean == pytest.approx(np.mean([cell.mean for cell in at_budgets]))


def test_cost_of_ours_counts_the_path_sampling(folder):
    rows = {row[0]: row[1:] for row in result_of(folder, "table3").table.rows}
    cost, sampling, *_ = rows["Ours"]
    assert 0 < sampling.mean < cost.mean
    assert rows["OFA (w/ PS)"][3].mean == 1


def test_every_claim_has_a_verdict_and_all_its_evidence(folder):
    claims = read_json(folder / "claims.json")
    assert list(claims) == [f"DO-{number}" for number in range(1, 11)]
    for claim in claims.values():
        assert claim["verdict"] == "inconclusive"  # one seed decides nothing
        assert claim["reason"] == "1 seed: at least 2 are needed for an interval"  # and not: not measured
        assert math.isfinite(claim["difference"])
    shared = {f"scenes-smoke/{what}-s0" for what in ("classification", "filter", "warm-up")}
    assert set(claims["DO-1"]["runs"]) == {"scenes-smoke/ours-s0", "scenes-smoke/ofa-s0"} | shared
    assert set(claims["DO-3"]["runs"]) == set(claims["DO-1"]["runs"]) | {
        "scenes-smoke/sampled-ours-s0",
        "scenes-smoke/sampled-ofa-s0",
    }


def test_published_records_hold_no_path_of_this_machine(folder, options):
    published = options.results / "smoke" / "detofa"
    names = {path.name for path in published.iterdir()}
    assert names == {*(f"{name}.json" for name in NAMES), "claims.json", "measured.json", "runs.json"}
    assert not any(str(options.out) in path.read_text() for path in published.iterdir())
    records = read_json(published / "runs.json")
    assert records["scenes-smoke/ours-s0"]["environment"]["torch"]
    assert "command" not in records["scenes-smoke/ours-s0"]["environment"]


def test_the_same_command_again_trains_nothing_and_says_the_same(folder, options):
    def contents() -> dict[Path, bytes]:
        names = ("log.jsonl", "candidates.jsonl", "result.json", "claims.json", "measured.json")
        return {path: path.read_bytes() for name in names for path in folder.rglob(name)}

    before = contents()
    main(options)
    assert contents() == before


def test_one_exhibit_alone_keeps_the_evidence_of_the_others(folder, options, capsys):
    main(Options(data=DATA, out=options.out, only=("table1",), device="cpu"))
    assert all(claim["difference"] is not None for claim in read_json(folder / "claims.json").values())
    assert "next: python -m common.report" in capsys.readouterr().err


def test_seeds_trained_one_by_one_are_drawn_by_the_whole_command(tmp_path, monkeypatch, capsys):
    few = {"data": DATA, "out": tmp_path, "seeds": 2, "only": ("figure7",), "device": "cpu"}
    for seed in (1, 0):
        main(Options(**few, seed=seed))
    runs = tmp_path / "detofa" / "scenes-smoke"
    assert "once every seed is there" in capsys.readouterr().err
    assert not (runs / "exhibits").exists()
    assert not (runs / "claims.json").exists()
    monkeypatch.setattr("common.train.loop._Stage.train", lambda *_: pytest.fail("trained again what was there"))
    main(Options(**few))
    assert result_of(runs, "figure7").seeds == (0, 1)
    assert json.loads((runs / "claims.json").read_text())["DO-5"]["n"] == 2


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--only", "figure5", "figure99"], "figure99"),
        (["--claim", "DO-11"], "DO-11"),
        (["--data", "pictures"], "pictures"),
        (["--data", "coco:nowhere"], "nowhere"),
        (["--seeds", "2", "--seed", "2"], "between 0 and 1"),
        (["--device", "abacus"], "abacus"),
    ],
)
def test_a_wrong_argument_gives_one_sentence(arguments, named, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(main, Options, [*arguments, "--out", str(tmp_path / "runs")])
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert named in message
    assert not (tmp_path / "runs").exists()
