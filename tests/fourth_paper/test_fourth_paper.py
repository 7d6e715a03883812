"""A fourth paper is cheap: a made-up one plugs into every command without an edit outside its own folder."""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.processes import ran

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]


IN_TURN = """
import json, runpy, sys

for words in json.loads(sys.argv[1]):
    sys.argv = words
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)
"""


def typed(folder: Path, *commands: Sequence[str]) -> subprocess.CompletedProcess:
    """`python -m ...` of each command in a folder, the made-up paper on the path, in one process."""
    return executed(folder, IN_TURN, json.dumps(commands))


def executed(folder: Path, code: str, *arguments: str) -> subprocess.CompletedProcess:
    """`python -c code arguments` in a folder, the made-up paper on the path."""
    path = os.pathsep.join(map(str, (ROOT, HERE)))
    return ran("-c", code, *arguments, folder=folder, environment={"PYTHONPATH": path})


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory) -> Path:
    """A folder in which the paper was searched, reproduced over two seeds and published."""
    folder = tmp_path_factory.mktemp("fourth")
    done = typed(folder, ["widenet.search", "--json"], ["widenet.reproduce", "--seeds", "2", "--publish"])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[0])["width"] in (8, 16)
    return folder


def test_it_takes_150_lines_and_nobody_else_names_it():
    lines = {file.name: len(file.read_text().splitlines()) for file in (HERE / "widenet").glob("*.py")}
    assert lines.pop("front.py") <= 15  # for a comparison with the other methods, which a paper may do without
    assert sum(lines.values()) <= 150
    naming = subprocess.run(["git", "-C", ROOT, "grep", "-l", "widenet"], capture_output=True, text=True).stdout
    assert all(name.startswith("tests/fourth_paper/") for name in naming.split())


def test_its_claim_rests_on_just_the_runs_that_it_compares(reproduced):
    result = json.loads((reproduced / "results/smoke/widenet/table1.json").read_text())
    claim = json.loads((reproduced / "results/smoke/widenet/claims.json").read_text())["WN-1"]
    expected = {f"scenes-smoke/width-{width}-s{seed}" for width in (8, 16) for seed in (0, 1)}
    assert set(result["runs"]) == set(claim["runs"]) == expected
    assert {path.name for path in (reproduced / "runs/widenet/scenes-smoke").glob("width-*")} == {
        name.partition("/")[2] for name in expected
    }
    assert claim["rule"] == "AP of the widest minus the narrowest above 0"


def test_a_changed_setting_gets_a_folder_of_its_own(reproduced):
    done = typed(reproduced, ["widenet.train", "--preset.training.epochs", "2", "--json"])
    assert json.loads(done.stdout)["samples"] == 32
    folders = sorted(path.name for path in (reproduced / "runs/widenet").iterdir())
    assert folders[0] == "scenes-smoke"
    assert len(folders) == 2
    config = json.loads((reproduced / "runs/widenet" / folders[1] / "width-8-s0/config.json").read_text())
    assert config["preset"]["training"]["epochs"] == 2


def test_list_names_the_recorded_time_or_says_that_there_is_none(reproduced):
    listed = ["widenet.reproduce", "--list"]
    _, here, nano = typed(reproduced, listed, [*listed, "--scale", "nano"]).stdout.split("Exhibits of WideNet")
    assert " a seed, here (" in here
    assert "not run here" in nano


def test_report_and_scoreboard_show_it(reproduced):
    folders = ("runs", "results")
    done = typed(reproduced, *(["common.report", folder, "--out", f"page-{folder}"] for folder in folders))
    assert done.returncode == 0, done.stderr
    for folder in folders:
        page = (reproduced / f"page-{folder}/index.html").read_text()
        assert all(text in page for text in ("WideNet", "WN-1: wider is better", '<svg class="plot"'))


@pytest.mark.slow
def test_it_is_compared_at_a_budget_and_its_detectors_on_one_page(reproduced):
    alone = "[methods().pop(name) for name in [*methods()] if name != 'widenet']"  # the others take their time
    code = f"from common.compare.methods import methods; {alone}; from common.cli import run; "
    code += "from common.compare.__main__ import Options, main; run(main, Options)"
    small = ["--data", "scenes:train=40,val=8,size=32"]
    done = executed(reproduced, code, *small, "--budget", "5", "--seeds", "2", "--publish")
    assert done.returncode == 0, done.stderr
    published = reproduced / "results/smoke/compare"
    claims = json.loads((published / "claims.json").read_text())
    assert [claims[name]["reason"][:27] for name in ("X-1", "X-3")] == [
        "two methods and two seeds a",
        "not measured: second",
    ]
    assert claims["X-2"]["rule"] == "area of WideNet minus that of its random search above 0"
    assert set(claims["X-2"]["budget"]) == {"WideNet", "WideNet, random search"}
    runs = {f"../widenet/scenes-smoke/width-{width}-s{seed}" for width in (8, 16) for seed in (0, 1)}
    assert set(claims["X-2"]["runs"]) == set(json.loads((published / "runs.json").read_text())) == runs
    fronts = json.loads((published / "measured.json").read_text())["table1"]["seeds"]["0"]["fronts"]["widenet"]
    assert [len(fronts[side]["detectors"]) for side in ("found", "random")] == [2, 1]
    assert [fronts[side]["samples"] for side in ("found", "random")] == [32, 16]

    done = typed(reproduced, ["common.compare", "runs/widenet", "--data", "scenes:val=8"])
    assert done.returncode == 0, done.stderr
    record = json.loads((reproduced / "runs/compare/scenes-val/exhibits/detectors/result.json").read_text())
    assert sorted(row[:2] for row in record["table"]["rows"]) == [
        [f"width-{width}-s{seed}/detector", "WideNet" + ", random search" * (width == 8)]
        for width in (16, 8)
        for seed in (0, 1)
    ]
    assert "detectors-bands" in [picture["name"] for picture in record["pictures"]]
    assert "Detectors side by side" in (reproduced / "runs/compare/scenes-val/index.html").read_text()


def test_a_wrong_flag_gives_one_sentence(tmp_path):
    done = typed(tmp_path, ["widenet.reproduce", "--only", "table2"])
    assert (done.returncode, done.stderr) == (2, "error: unknown exhibit 'table2': give some of table1\n")
    assert not (tmp_path / "runs").exists()
