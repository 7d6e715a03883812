"""Published results: drawn and judged again from their numbers, they come out as committed, and name no folder."""

import importlib
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

from common.plain import from_json, read_json, to_json
from common.report.claims import read_claims
from common.report.exhibit import ExhibitResult, Setting, printed_table
from common.report.readme import pages_of, published_folders
from common.report.reproduce import by_number, draw, judge_measured
from common.report.tables import Table, side_by_side

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = [
    pytest.param(folder, ".".join(paper.relative_to(ROOT).parts), id=folder.relative_to(ROOT).as_posix())
    for paper in pages_of(ROOT)
    for folder in published_folders(ROOT, paper.name)
    if (folder / "measured.json").is_file()  # what is superseded is shown from its records alone
]
DRAWN = "title caption data scale seeds table paper_table units paper_units pictures runs"
JUDGED = ("verdict", "reason", "difference", "interval", "n", "seeds", "seeds_needed", "rule", "conditions", "runs")


def rounded(value: Any) -> Any:
    """The value as plain JSON, its numbers without what another machine rounds otherwise."""
    return json.loads(json.dumps(to_json(value)), parse_float=lambda text: float(f"{round(float(text), 12):.9g}"))


@pytest.mark.parametrize(("folder", "paper"), FOLDERS)
def test_exhibits_are_those_that_their_numbers_give(folder, paper):
    paper = importlib.import_module(f"{paper}.exhibits").PAPER
    measured = read_json(folder / "measured.json")
    assert {path.stem for path in folder.glob("*.json")} - {"why"} == {*measured, "measured", "claims", "runs"}
    known = read_json(folder / "runs.json").keys()
    for name, record in measured.items():
        seeds = by_number(record["seeds"])
        committed = ExhibitResult.load(folder / f"{name}.json")
        again = draw(paper, paper.by_name[name], seeds, from_json(Setting, record["setting"]), committed.command)
        for field in DRAWN.split():
            assert rounded(getattr(again, field)) == rounded(getattr(committed, field)), f"{name}.{field}"
        assert set(again.notes) <= set(committed.notes)
        assert set(committed.runs) <= known  # what it rests on is recorded
        for numbers in seeds.values():
            assert numbers["rests_on"].keys() == numbers["evidence"].keys()
            assert {run for runs in numbers["rests_on"].values() for run in runs} <= set(numbers["runs"])


@pytest.mark.parametrize(("folder", "paper"), FOLDERS)
def test_claims_are_judged_as_committed(folder, paper):
    module = "reproduce" if importlib.util.find_spec(f"{paper}.reproduce") else "__main__"
    options_class = importlib.import_module(f"{paper}.{module}").Options
    paper = importlib.import_module(f"{paper}.exhibits").PAPER
    records = read_json(folder / "measured.json")
    measured = {name: by_number(record["seeds"]) for name, record in records.items()}
    setting = next(iter(records.values()))["setting"]
    if not (committed := read_claims(folder / "claims.json")):
        pytest.skip("pilots alone: no claim is judged by them")
    data = "scenes" if setting["data"] == "scenes" else f"coco:DIR/{setting['data']}"
    preset = options_class.PRESETS[setting["scale"]]
    seeds = max(len(record["seeds"]) for record in committed.values())
    again = judge_measured(
        paper, options_class(scale=setting["scale"], preset=preset, data=data, seeds=seeds), measured
    )
    shown = {claim.id for exhibit in paper.exhibits if exhibit.name in measured for claim in exhibit.claims}
    assert list(committed) == [name for name in again if name in shown]
    for name, record in committed.items():
        for field in JUDGED:
            assert rounded(record[field]) == rounded(again[name][field]), f"{name}.{field}"


def test_no_result_names_a_folder_of_a_machine():
    absolute = re.compile(r'"(?:[a-z]+:)?(?:/|~/|[A-Z]:\\)[^"]*"')
    texts = {path.relative_to(ROOT).as_posix(): path.read_text() for path in (ROOT / "results").rglob("*.json")}
    assert texts
    assert {name: absolute.findall(text)[:1] for name, text in texts.items() if absolute.search(text)} == {}


def test_tables_of_the_papers_show_what_is_printed():
    for path in ROOT.glob("**/printed.json"):
        exhibits = read_json(path)["exhibits"]
        for name in exhibits:
            table = printed_table(exhibits, name)
            for _, _, shown in side_by_side(Table([], []), table, {}, {}) if table else ():
                for row, cells in zip(table.rows, shown, strict=True):
                    numbers = [
                        (value, cell) for value, cell in zip(row, cells, strict=True) if isinstance(value, float)
                    ]
                    assert [float(cell.replace("−", "-")) for _, cell in numbers] == [value for value, _ in numbers], (
                        name
                    )


def test_pictures_are_small():
    assert {path: path.stat().st_size for path in ROOT.glob("results/**/*.png") if path.stat().st_size >= 200_000} == {}
