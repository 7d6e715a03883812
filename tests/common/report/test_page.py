"""The page: complete, self-contained, well formed, and clear when there is nothing to show."""

import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from common.plain import InputError, write_json
from common.report import figures
from common.report.claims import Claim, Evidence, write_claims
from common.report.page import build_page, find_exhibits, find_runs
from common.report.statistics import paired_difference
from common.report.tables import ExhibitResult, Table, printed_table

VOID = {"meta", "img", "br", "hr", "link", "input"}
FIGURE = ExhibitResult(
    exhibit="figure5",
    paper="detofa",
    title="Best architectures",
    caption="AP at each bound <on scenes>.",
    data="scenes",
    scale="smoke",
    seeds=(0, 1),
    command="python -m detofa.reproduce --only figure5",
    table=Table(["Method", "AP"], [["Ours", 0.31], ["OFA", 0.25]]),
    notes=("Smaller images than the paper's.",),
    pictures=("figure5.png",),
    environment={"git_commit": "abc123", "cpu": "A processor", "gpus": [], "command": "not of the machine"},
)


class Checker(HTMLParser):
    """Collects text, tags and addresses, and sees that every tag is closed in its order."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.tags, self.addresses, self.texts = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"left open: {self.open}"
        self.text = " ".join(self.texts)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open and self.open[-1] != "style":
            self.texts.append(text)


@pytest.fixture
def runs(tmp_path) -> Path:
    setting = tmp_path / "runs" / "detofa" / "scenes-smoke"
    folder = setting / "exhibits" / "figure5"
    figures.accuracy_against_cost({"Ours": [(1.0, 0.3, 0.2, 0.4)]}, folder / "figure5.png")
    FIGURE.save(folder)
    paper_table = printed_table("detofa", "table3")
    replace(FIGURE, exhibit="table3", title="Cost", pictures=(), table=paper_table, paper_table=paper_table).save(
        setting / "exhibits" / "table3"
    )
    run = setting / "supernet-s0"
    write_json(run / "config.json", {})
    write_json(run / "environment.json", {"git_commit": "abc123", "cpu": "A processor", "gpus": []})
    write_json(run / "stages" / "warm_up.json", {"seconds": 60.0})
    write_json(run / "stages" / "fine_tune.json", {"seconds": 120.0})
    (run / "candidates.jsonl").write_text(
        '{"AP": 0.1, "seconds": 2.5}\n{"status": "failed", "reason": "memory"}\n{"AP": 0.'
    )
    claim = Claim(
        "DO-1", "detofa", "Figure 5", "better", 0.85, "a rule", lambda found: paired_difference(found["a"], found["b"])
    )
    evidence = Evidence("scenes", "smoke", (0, 1), "command", {"a": [1.0, 1.1], "b": [0.0, 0.1001]})
    write_claims(
        setting / "claims.json", [claim, replace(claim, id="DO-2", measure=lambda found: found["c"])], evidence
    )
    return tmp_path / "runs"


def test_page_is_well_formed_complete_and_self_contained(runs):
    page = Checker(build_page([runs], "python -m common.report runs"))
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in page.addresses)
    assert "script" not in page.tags
    assert page.tags.count("img") == 1
    for text in (
        "AP at each bound <on scenes>.",
        "Smaller images than the paper's.",
        "python -m detofa.reproduce --only figure5",
        "DO-1: better",
        "reproduced",
        "not measured: c",
        "abc123",
        "A processor",
        "runs/detofa/scenes-smoke/supernet-s0",
        "3.0 min",
        "14.41",
        "unfinished",
        "python -m common.report runs",
    ):
        assert text in page.text, text
    assert page.text.count("A processor") == 1  # one machine, said once
    assert "not of the machine" not in page.text


def test_run_summary_counts_candidates_and_costs(runs):
    (summary,) = find_runs([runs])
    assert (summary.candidates, summary.failed, summary.finished) == (2, 1, False)
    assert (summary.seconds, summary.candidate_seconds) == (180.0, 2.5)


def test_several_folders_stand_side_by_side(runs, tmp_path):
    other = tmp_path / "other" / "exhibits" / "figure5"
    replace(FIGURE, title="From elsewhere", pictures=()).save(other)
    page = build_page([runs, tmp_path / "other"])
    row = next(row for row in page.split('<div class="row">') if "From elsewhere" in row)
    assert "Best architectures" in row
    assert str(tmp_path / "other") in row


def test_an_exhibit_is_found_once_from_any_folder_above_it(runs):
    folder = runs / "detofa" / "scenes-smoke" / "exhibits" / "figure5"
    assert len(find_exhibits([folder])) == 1
    assert len(find_exhibits([runs, runs / "detofa"])) == 2


def test_missing_or_outside_picture_is_said_and_not_read(tmp_path):
    (tmp_path / "secret.png").write_bytes(b"secret")
    replace(FIGURE, pictures=("gone.png", "../../secret.png", "notes.txt")).save(tmp_path / "exhibits" / "figure5")
    page = build_page([tmp_path])
    assert "gone.png is missing" in page
    assert page.count("is not a picture beside its result.json") == 2
    assert "<img" not in page


def test_nothing_to_show_is_one_sentence_and_exit_2(tmp_path):
    with pytest.raises(InputError):
        build_page([tmp_path])
    with pytest.raises(InputError, match="not a folder"):
        build_page([tmp_path / "absent"])
    command = [sys.executable, "-m", "common.report", str(tmp_path), "--out", str(tmp_path / "page")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).resolve().parents[3])
    assert done.returncode == 2
    assert done.stderr.startswith("error: no exhibit")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "page").exists()


def test_command_writes_the_page(runs):
    command = [sys.executable, "-m", "common.report", str(runs), "--out", str(runs / "report")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).resolve().parents[3])
    assert done.returncode == 0, done.stderr
    Checker((runs / "report" / "index.html").read_text())


def test_report_imports_no_torch():
    code = "import sys, common.report.__main__, common.report.figures; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).resolve().parents[3]
    )
    assert done.stdout.strip() == "False", done.stderr
