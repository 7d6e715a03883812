"""The whole reproduction at smoke scale, run once and shared by all tests here."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from common.cli import run
from common.plain import read_json
from common.report.__main__ import Options as PageOptions
from common.report.__main__ import main as make_page
from common.report.tables import PRINTED, ExhibitResult, to_markdown
from common.reproduce.evidence import stacked_evidence
from common.reproduce.listing import listing
from common.reproduce.paper import command
from detofa.exhibits import EXHIBITS
from detofa.reproduce import DETOFA, Options, main, same_buckets

DATA = "scenes:train=80,val=30"  # no more images than the scale takes: they need not be drawn
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> Options:
    root = tmp_path_factory.mktemp("reproduce")
    return Options(data=DATA, out=root / "runs", results=root / "results", publish=True)


@pytest.fixture(scope="module")
def folder(options) -> Path:
    """runs/detofa/scenes-smoke after one seed of every exhibit."""
    main(options)
    return options.out / "detofa" / "scenes-smoke"


@pytest.mark.parametrize("name", EXHIBITS)
def test_every_exhibit_has_its_table_and_pictures(folder, name):
    result = ExhibitResult.load(folder / "exhibits" / name)
    assert result.table.rows
    assert (result.exhibit, result.seeds, result.data, result.scale) == (name, (0,), "scenes", "smoke")
    assert result.environment["torch"]
    assert result.command == f"python -m detofa.reproduce --scale smoke --data {DATA} --seeds 1 --only {name}"
    assert bool(result.pictures) == (name != "table1")
    for picture in result.pictures:
        content = (folder / "exhibits" / name / picture).read_bytes()
        assert content.startswith(PNG)
        assert len(content) > 2000
    assert to_markdown(result)


def test_every_exhibit_names_run_folders_that_are_there(folder):
    for name in EXHIBITS:
        result = ExhibitResult.load(folder / "exhibits" / name)
        assert all((folder / run_name / "result.json").is_file() for run_name in result.runs)
        assert len(result.runs) == len(EXHIBITS[name].runs)


@pytest.mark.parametrize("name", ["table2", "table3", "figure6", "figure7", "figure8", "figure9"])
def test_every_measured_cell_is_a_number_without_interval_for_one_seed(folder, name):
    result = ExhibitResult.load(folder / "exhibits" / name)
    cells = [cell for row in result.table.rows for cell in row if hasattr(cell, "mean")]
    assert len(cells) >= len(result.table.rows)
    assert all(cell.n in (0, 1) and not cell.has_interval for cell in cells)
    assert sum(math.isfinite(cell.mean) for cell in cells) >= 0.8 * len(cells)  # figure 6 may have empty buckets


def test_figure5_compares_every_method_at_every_budget(folder):
    result = ExhibitResult.load(folder / "exhibits" / "figure5")
    rows = {row[0]: row[1:] for row in result.table.rows}
    methods = ["DetOFA (ours)", "OFA (w/o PS)", "OFA (w/ PS)", "CompOFA*", "Random search, same budget"]
    assert list(rows) == [*methods, "OFA (w/o PS), no transfer", "Fullnet"]
    for name in methods:
        *at_budgets, mean, _ = rows[name]
        assert mean.mean == pytest.approx(np.mean([cell.mean for cell in at_budgets]))


def test_cost_of_ours_counts_the_path_sampling(folder):
    result = ExhibitResult.load(folder / "exhibits" / "table3")
    rows = {row[0]: row[1:] for row in result.table.rows}
    cost, sampling, *_ = rows["Ours"]
    assert 0 < sampling.mean < cost.mean
    assert rows["OFA (w/ PS)"][3].mean == 1


def test_every_claim_has_a_verdict_and_all_its_evidence(folder):
    claims = json.loads((folder / "claims.json").read_text())
    assert list(claims) == [f"DO-{number}" for number in range(1, 11)]
    for claim in claims.values():
        assert claim["verdict"] == "inconclusive"  # one seed decides nothing
        assert claim["reason"] == "1 seed: at least 2 are needed for an interval"  # and not: not measured
        assert math.isfinite(claim["difference"])


def test_the_page_is_made_from_it(folder, options):
    make_page(PageOptions((options.out,), options.out / "report"))
    page = (options.out / "report" / "index.html").read_text()
    assert all(EXHIBITS[name].title in page for name in EXHIBITS)
    assert "DO-10" in page


def test_published_records_hold_no_path_of_this_machine(folder, options):
    published = options.results / "smoke" / "detofa"
    names = {path.name for path in published.iterdir()}
    assert names == {*(f"{name}.json" for name in EXHIBITS), "claims.json", "measured.json", "runs.json"}
    assert not any(str(options.out) in path.read_text() for path in published.iterdir())
    records = json.loads((published / "runs.json").read_text())
    assert records["ours-s0"]["environment"]["torch"]
    assert "command" not in records["ours-s0"]["environment"]


def test_the_same_command_again_trains_nothing_and_says_the_same(folder, options):
    def contents(*patterns: str) -> dict[Path, bytes]:
        return {path: path.read_bytes() for pattern in patterns for path in folder.rglob(pattern)}

    before = contents("log.jsonl", "candidates.jsonl", "result.json", "claims.json", "measured.json")
    main(options)
    assert contents("log.jsonl", "candidates.jsonl", "result.json", "claims.json", "measured.json") == before


def test_one_exhibit_alone_keeps_the_evidence_of_the_others(folder, options, capsys):
    main(Options(data=DATA, out=options.out, only=("table1",)))
    claims = json.loads((folder / "claims.json").read_text())
    assert all(claim["difference"] is not None for claim in claims.values())
    assert "next: python -m common.report" in capsys.readouterr().err


def test_seeds_trained_one_by_one_are_drawn_by_the_whole_command(tmp_path, monkeypatch, capsys):
    few = {"data": DATA, "out": tmp_path, "seeds": 2, "only": ("figure7",)}
    for seed in (1, 0):
        main(Options(**few, seed=seed))
    runs = tmp_path / "detofa" / "scenes-smoke"
    assert "once every seed is there" in capsys.readouterr().err
    assert not (runs / "exhibits").exists()
    assert not (runs / "claims.json").exists()

    def never(*_, **__):
        raise AssertionError("trained again what was there")

    monkeypatch.setattr("common.train.loop._Training", never)
    main(Options(**few))
    assert ExhibitResult.load(runs / "exhibits" / "figure7").seeds == (0, 1)
    assert json.loads((runs / "claims.json").read_text())["DO-5"]["n"] == 2


def test_list_names_every_exhibit_and_where_its_time_comes_from(folder, options, tmp_path, capsys):
    main(Options(out=tmp_path, list=True))
    shown = capsys.readouterr().out
    assert all(f"\n{name}" in shown for name in EXHIBITS)
    assert "an estimate" in shown
    assert not list(tmp_path.iterdir())
    main(Options(out=options.out, list=True))
    shown = capsys.readouterr().out
    assert "records of finished runs" in shown
    assert "estimate" not in shown


@pytest.mark.parametrize("scale", ["nano", "mini", "paper"])
def test_every_scale_can_be_listed(scale, tmp_path):
    assert "figure9" in listing(DETOFA, list(EXHIBITS.values()), scale, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--only", "figure5", "figure99"], "figure99"),
        (["--scale", "huge"], "huge"),
        (["--data", "pictures"], "pictures"),
        (["--data", "coco:nowhere"], "nowhere"),
        (["--seeds", "0"], "0"),
        (["--seeds", "2", "--seed", "2"], "0 to 1"),
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


def test_a_bucket_that_one_method_leaves_empty_is_dropped_for_all():
    by_seed = [
        {"ours": [1, 2, 3], "sampled:ours": [1, math.nan, 3], "sampled:ofa": [1, 2, 3]},
        {"ours": [2, 3, 4], "sampled:ours": [1, 2, 3], "sampled:ofa": [1, 2, 3]},
    ]
    values = stacked_evidence(by_seed, same_buckets)
    assert values["ours"].tolist() == [[1, 2, 3], [2, 3, 4]]
    assert values["sampled:ours"].tolist() == values["sampled:ofa"].tolist() == [[1, 3], [1, 3]]
    assert "sampled:ours" not in stacked_evidence(by_seed)
    assert stacked_evidence([{"ours": [1]}], same_buckets)["ours"].tolist() == [[1]]


def test_the_command_of_the_published_results():
    published = read_json(PRINTED.parent / "nano" / "detofa" / "figure5.json")["command"]
    assert command(DETOFA, Options(scale="nano", seeds=3, precision="bfloat16"), ["figure5"]) == published
    latency = Options(device="cuda", precision="bfloat16", constraint="latency", publish=True)
    assert command(DETOFA, latency).endswith("--seeds 1 --device cuda --precision bfloat16 --constraint latency")
