"""The whole reproduction at smoke scale, run once and shared by all tests here."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from common.cli import run
from common.plain import InputError, read_json
from common.report.tables import ExhibitResult, to_markdown
from common.reproduce.listing import listing
from common.train.loop import _Training
from sm_nas import presets
from sm_nas.exhibits import EXHIBITS, Setting
from sm_nas.presets import SMOKE
from sm_nas.reproduce import SM_NAS, Options, images_trained, main

DATA, SECOND = "scenes:train=48,val=16", "coco"
PNG = b"\x89PNG\r\n\x1a\n"
# Fewer images than the scale has: here it is the code that is looked at.
TINY = replace(SMOKE, train_images=16, search_images=8, validation_images=8, crops=16, longer_candidates=2)


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> Options:
    root = tmp_path_factory.mktemp("reproduce")
    return Options(data=DATA, out=root / "runs", results=root / "results", publish=True)


@pytest.fixture(scope="module")
def folder(options) -> Path:
    """runs/sm_nas/scenes-smoke after one seed of every exhibit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(presets.PRESETS, "smoke", TINY)
        main(options)
    return options.out / "sm_nas" / "scenes-smoke"


@pytest.mark.parametrize("name", EXHIBITS)
def test_every_exhibit_has_its_table_and_pictures(folder, name):
    result = ExhibitResult.load(folder / "exhibits" / name)
    assert result.table.rows
    assert (result.exhibit, result.seeds, result.data, result.scale) == (name, (0,), "scenes", "smoke")
    assert result.command == f"python -m sm_nas.reproduce --scale smoke --data {DATA} --seeds 1 --only {name}"
    assert bool(result.pictures) == (name.startswith("figure") or name == "table3")
    for picture in result.pictures:
        assert (folder / "exhibits" / name / picture).read_bytes().startswith(PNG)
    assert to_markdown(result)
    assert result.runs
    assert all((folder / run_name / "result.json").is_file() for run_name in result.runs)


def test_tables_show_every_row_of_the_paper_that_is_trained(folder):
    rows = {name: ExhibitResult.load(folder / "exhibits" / name).table.rows for name in EXHIBITS}
    assert [row[0] for row in rows["table1"]] == ["1", "2", "5", "6"]
    assert [row[0] for row in rows["table2"]][:6] == [f"E{number}" for number in range(6)]
    assert rows["table2"][0][10] == pytest.approx(7.15, rel=0.01)  # the paper's own size is counted, not scaled
    assert [row[0] for row in rows["table3"]] == list("01234567")
    assert {row[0] for row in rows["table4"]} >= {"RetinaNet R101", "Cascade R101", "SM-NAS: E2", "SM-NAS: E5"}
    assert len(rows["table5"]) == 8
    assert [row[0] for row in rows["figure3"]] == ["SM-NAS", "Random search, same budget"]
    assert {row[0] for row in rows["figure4"]} <= {"C0", "C1"}


def test_searches_record_candidates_generations_and_random_search(folder):
    searched = read_json(folder / "stage-one-s0" / "result.json")
    assert len(searched["found"]["evaluated"]) == len(searched["random"]["evaluated"]) == TINY.stage_one.budget
    lines = (folder / "stage-one-s0" / "candidates.jsonl").read_text().splitlines()
    pool = {json.loads(line)["key"] for line in lines}
    assert len(pool) == len(lines)  # what both propose is trained once
    assert pool >= {each["structure"] for kind in ("found", "random") for each in searched[kind]["evaluated"]}
    assert not list((folder / "stage-one-s0").glob("training/*"))  # candidates' weights do not stay


def test_done_again_it_trains_nothing_and_measures_the_same(folder, options, monkeypatch):
    before = {name: read_json(folder / "exhibits" / name / "measured.json") for name in EXHIBITS}
    monkeypatch.setitem(presets.PRESETS, "smoke", TINY)
    monkeypatch.setattr(_Training, "train", lambda *_: pytest.fail("something is trained anew"))
    main(replace(options, publish=False))
    assert {name: read_json(folder / "exhibits" / name / "measured.json") for name in EXHIBITS} == before


def test_published_numbers_draw_the_same_tables(folder, options, tmp_path):
    published = options.results / "smoke" / "sm_nas"
    measured = read_json(published / "measured.json")
    assert set(measured) == set(EXHIBITS)
    for name, exhibit in EXHIBITS.items():
        drawn = exhibit.draw(list(measured[name].values()), Setting(tmp_path / name, TINY, "scenes"))
        shown = ExhibitResult.load(published / f"{name}.json").table
        assert drawn.table.columns == shown.columns
        assert len(drawn.table.rows) == len(shown.rows)
    claims = read_json(published / "claims.json")
    assert set(claims) == {f"SM-{number}" for number in range(1, 9)}
    assert {claim["verdict"] for claim in claims.values()} == {"inconclusive"}  # one seed


def test_a_second_data_set_must_be_another_one(capsys):
    with pytest.raises(SystemExit):
        run(main, Options, ["--data", "scenes", "--second-data", "scenes:seed=2"])
    assert "--second-data" in capsys.readouterr().err
    with pytest.raises(InputError, match="--workers"):
        main(Options(workers=-1))


def test_list_estimates_every_exhibit(tmp_path):
    for scale, known in (("nano", True), ("paper", False)):
        text = listing(SM_NAS, list(EXHIBITS.values()), scale, tmp_path)
        assert all(name in text for name in EXHIBITS)
        assert ("unknown time" in text) is not known
    nano = presets.preset("nano")
    assert images_trained("stage-two-c5", nano) == 0  # no such group at this scale
    assert images_trained("final-c5", nano) == 0
    assert images_trained("final-e0-1333x800", nano) == 0  # of Table 5 at paper scale
    assert "final-e0-96x96" in text
    assert images_trained("final-e0-96x96", nano) == images_trained("final-e0", nano)
    assert images_trained("final-cascade-r50", nano) == images_trained("final-e0", nano) > 0
    assert math.isfinite(images_trained("longer", nano))
