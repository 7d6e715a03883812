"""The page: complete, self-contained, well formed, from records alone, and clear when there is nothing to show."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from common.cli import run
from common.plain import InputError, read_json, write_json
from common.report.__main__ import Options, main
from common.report.card import Shown
from common.report.exhibit import ExhibitResult
from common.report.page import build_page, write_page_of_run

ROOT = Path(__file__).resolve().parents[3]
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Checker(HTMLParser):
    """Collects text, tags and addresses, and sees that every tag is closed in its order."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.tags, self.addresses, self.texts, self.anchors = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"left open: {self.open}"
        self.text = " ".join(self.texts)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "xlink:href")]
        self.anchors += [value for name, value in attributes if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open and self.open[-1] not in ("style", "script") and "svg" not in self.open:
            self.texts.append(text)


def change(path: Path, **changes) -> None:
    write_json(path, read_json(path) | changes)


def test_page_is_well_formed_complete_and_self_contained(runs, toy, folder):
    change(folder / "exhibits/figure1/result.json", caption="AP <of> both.", notes=["Ours & theirs."])
    page = Checker(build_page([runs], "python -m common.report runs"))
    assert page.tags.count("svg") == 1
    assert len(page.anchors) == len(set(page.anchors))
    assert all(address[0] == "#" and address[1:] in page.anchors for address in page.addresses)
    lines = [text.strip().replace(str(toy.root), "ROOT") for text in page.texts if text.strip()]
    expected = (Path(__file__).parent / "expected/page.txt").read_text()
    assert "\n".join(lines) + "\n" == expected, "if that is meant, change expected/page.txt"


def test_claims_and_exhibits_lead_to_each_other(runs):
    page = build_page([runs])
    assert '<a href="#toynas-scenes-smoke-figure1-1">Figure 1</a>' in page
    figure = page[page.index('<article id="toynas-scenes-smoke-figure1-1"') :]
    assert re.findall(r'<a href="#(\S*)" class="verdict (\w+)">(.*?)</a>', figure) == [
        ("toynas-scenes-smoke-T-2-1", "no", "T-2: not reproduced"),
        ("toynas-scenes-smoke-T-3-2", "open", "T-3: inconclusive"),
        ("toynas-scenes-smoke-T-10-3", "yes", "T-10: reproduced"),
        ("toynas-scenes-smoke-T-3-2", "open", "T-3: inconclusive"),  # of Table 2, which stands below
    ]


def test_a_page_of_one_exhibit_opens_on_it(runs):
    assert '<section id="overview">' in build_page([runs])
    for folder in runs.rglob("exhibits"):
        shutil.rmtree(folder / "table2")
    for path in runs.rglob("claims.json"):
        path.unlink()
    assert '<section id="overview">' not in build_page([runs])


def test_the_first_screen_says_what_was_learnt(runs):
    results = runs.parent / "results"
    assert "prose" not in build_page([results]).split("<main>")[1]
    (results / "learnt.md").write_text("**They** learn 2 < 3\n& more.\n\nSee [its page](toynas/README.md).\n")
    page = build_page([results])
    assert '<p class="prose"><b>They</b> learn 2 &lt; 3\n&amp; more.</p>' in page
    assert '<p class="prose">See <a href="#toynas">its page</a>.</p>' in page
    assert "toynas" in Checker(page).anchors


def test_the_first_screen_says_what_counts_and_what_does_not(runs):
    results = runs.parent / "results"
    change(results / "smoke/toynas/figure1.json", pictures=[])
    page = build_page([results])
    assert "No claim is judged: " in page
    assert "its numbers mean nothing" in page
    claims = results / "smoke/toynas/claims.json"
    records = {name: record | {"scale": "nano", "level": 21.4} for name, record in read_json(claims).items()}
    records["T-2"]["level"] = 36.7
    write_json(claims, records)
    assert "1 of 3 claims are reproduced at nano scale, by networks of 21 to 37 AP points." in build_page([results])
    records["T-2"]["level"] = 21.2
    write_json(claims, records)
    assert "1 of 3 claims are reproduced at nano scale, by networks of 21 AP points." in build_page([results])
    (claims.parent / "superseded.md").write_text("Of former rules.")
    page = Checker(build_page([results]))
    assert "No claim is judged: " in page.text
    assert page.texts.count("Superseded") == 2  # among the contents, and over the tab
    assert "Of former rules." in page.text
    (claims.parent / "superseded.md").rename(claims.parent / "note.md")
    page = Checker(build_page([results]))
    assert "1 of 3 claims are reproduced" in page.text
    assert "Of former rules." in page.text
    assert "Superseded" not in page.texts


def test_results_are_shown_alike_and_several_folders_side_by_side(runs, toy):
    published = toy.root / "results"
    page = Checker(build_page([published]))
    assert page.tags.count("svg") == 1
    assert {"Figure 1: Two nets", "results/smoke/toynas/scenes-smoke/ours-s0", "An abacus"} <= set(page.texts)
    (row,) = [row for row in build_page([runs, published]).split('<div class="row">') if "<h4>Figure 1" in row]
    assert row.count("<h4>Figure 1: Two nets</h4>") == 2
    assert all(f'<p class="root">{folder}</p>' in row for folder in (runs, published))


def test_papers_and_exhibits_are_in_their_order(tmp_path, runs, folder):
    result = ExhibitResult.load(folder / "exhibits/table2/result.json")
    for name, title in (("table10", "ToyNAS"), ("table9", "ToyNAS"), ("table1", "Another NAS"), ("table3", "")):
        where = tmp_path / f"others/{title}/exhibits/{name}/result.json"
        paper = {"ToyNAS": "toynas", "Another NAS": "another", "": "zeta"}[title]
        replace(result, exhibit=name, paper_title=title, paper=paper).save(where)
    text = build_page([runs, tmp_path / "others"])
    heads = re.findall(r"<h2>(.*?)</h2>", text)
    assert heads == ["Overview", "Another NAS", "ToyNAS", "zeta", "Runs and machines"]
    toynas = text[text.index("<h2>ToyNAS") : text.index("<h2>zeta")]
    assert re.findall(r"<h4>(\w+ \d+)", toynas) == ["Figure 1", "Table 2", "Table 9", "Table 10"]


def test_what_cannot_be_read_is_named_and_the_rest_shown(runs, folder, toy):
    (folder / "exhibits/table2/result.json").write_text("{")
    (toy.root / "results/smoke/toynas/claims.json").write_text("[]")
    page = Checker(build_page([runs, toy.root / "results"]))
    assert f"{folder / 'exhibits/table2/result.json'} is not valid JSON" in page.text
    assert "toynas/claims.json is not a claims file" in page.text
    assert "Figure 1: Two nets" in page.text
    assert "T-2: gain is large" in page.text
    assert page.text.count("Table 2: One net") == 1  # the published one


def test_a_picture_that_cannot_be_drawn_is_said_in_its_place(runs, folder):
    pictures = [{"name": "figure1", "kind": "hologram", "data": {}}, {"name": "b", "kind": "bars", "data": {"x": 1}}]
    change(folder / "exhibits/figure1/result.json", pictures=pictures)
    page = Checker(build_page([runs]))
    assert "picture figure1 is of the unknown kind 'hologram'; known: " in page.text
    assert "picture b cannot be drawn" in page.text
    assert "svg" not in page.tags


def test_many_pictures_are_drawn_as_few_are(runs, folder):
    path = folder / "exhibits/figure1/result.json"
    result = ExhibitResult.load(path)
    (one,) = re.findall(r"<svg.*?</svg>", build_page([runs]), re.DOTALL)
    replace(result, pictures=[result.pictures[0]] * 7).save(path)
    assert re.findall(r"<svg.*?</svg>", build_page([runs]), re.DOTALL) == [one] * 7


def test_a_notebook_shows_a_record_without_the_pages_script(runs, folder):
    shown = Checker(Shown(ExhibitResult.load(folder / "exhibits/figure1/result.json"))._repr_html_())
    assert {"svg", "script"}.isdisjoint(shown.tags)
    assert shown.addresses[0].startswith("data:image/png;base64,")
    assert {"Figure 1: Two nets", "42.5 ± 7.0", "Seeds: 0, 1. "} <= set(shown.texts)


# ---- runs


@pytest.fixture
def search(tmp_path) -> Path:
    """A finished search with three candidates, one of which failed, two trained stages and a detector."""
    folder = tmp_path / "search-s3"
    write_json(folder / "config.json", {"seed": 3, "data": "scenes", "preset": {"name": "smoke"}})
    write_json(
        folder / "environment.json", {"command": "python -m toynas.search", "cpu": "An abacus", "config_sha256": "f0"}
    )
    write_json(folder / "result.json", {"seconds": 300})
    log = [{"stage": "warm up", "epoch": epoch, "loss": 2 - epoch} for epoch in (0, 1)]
    log += [{"stage": "tune", "epoch": epoch, "loss": 0.5, "AP": 0.25} for epoch in (0, 1)]
    (folder / "log.jsonl").write_text("\n".join(map(json.dumps, log)))
    candidates = [
        {"key": ["AP", f"d{n}"], "status": "done", "macs": 1e9 * n, "AP": 0.1 * n, "seconds": 2} for n in (1, 2)
    ]
    candidates += [{"key": "d3", "status": "failed", "seconds": 1}]
    (folder / "candidates.jsonl").write_text("\n".join(map(json.dumps, candidates)))
    card = {
        "accuracy": {"AP": 0.25, "APl": -1.0, "per_class": {"<disc>": 0.5, "ring": -1.0, "cross": None}},
        "encoding": {"depth": [1, 2]},
    }
    card |= {"cost": {"macs": 24e6, "macs_mmdet": 25e6, "params": 1234567}, "latency": None, "spent": {"samples": 1000}}
    write_json(folder / "detectors/macs-1.json", card)
    (folder / "detectors/macs-1.jpg").write_bytes(b"a sheet")
    write_json(folder / "detectors/other.json", {"of": "something else"})
    return folder


def test_a_run_is_shown_with_its_curves_candidates_detectors_and_command(search):
    text = build_page([search])
    page = Checker(text)
    assert page.tags.count("svg") == 3  # loss, AP, candidates
    assert page.addresses.count("data:image/jpeg;base64,YSBzaGVldA==") == 1
    shown = {
        "Finished; 4.9 min of training; 3 candidates, 1 failed; smoke scale: its numbers mean nothing.",
        "python -m toynas.search",
        "An abacus",
    }
    assert shown | {"25.0", "25M", "1.235M", "1,000", "<disc>", "50.0", "ring", "–"} <= set(page.texts)
    assert {"cross", "-100.0"}.isdisjoint(page.texts)
    assert 'macs-1 is {"depth": [1, 2]}' in page.text
    marks = [json.loads(unescape(values)) for values in re.findall(r'data-values="(.*?)"', text)]
    assert {"Name": "warm up", "Epoch": "2", "Loss": "1"} in marks
    assert {"Name": "tune", "Epoch": "1", "AP (points)": "25"} in marks
    costs = {"Cost (GMACs)": "2", "AP (points)": "20"}
    assert {"Name": "Candidates", **costs, "Encoding": "AP d2", "Took": "2.0 s"} in marks


@pytest.mark.parametrize("damaged", ["config.json", "detectors/macs-1.json"])
def test_a_run_that_cannot_be_read_costs_no_other(search, tmp_path, damaged):
    (search / "log.jsonl").unlink()  # the candidates are picture enough
    shutil.copytree(search, tmp_path / "another-s4")
    (search / damaged).write_text("{")
    page = Checker(build_page([tmp_path]))
    assert f"{search / damaged} is not valid JSON" in page.text
    assert f"{tmp_path.name}/another-s4" in page.texts
    assert page.tags.count("svg") == 1


def test_a_runs_own_page_lies_in_its_folder(search):
    write_page_of_run(search)
    page = (search / "index.html").read_text()
    assert "<title>search-s3</title>" in page
    assert "<h4>search-s3</h4>" in page


def test_of_many_runs_those_that_left_detectors_are_drawn_and_of_too_many_none(search, tmp_path):
    for number in range(12):
        shutil.copytree(search, tmp_path / f"another-s{number}")
    page = Checker(build_page([tmp_path]))
    assert "svg" not in page.tags
    assert f"{tmp_path.name}/another-s11" in page.texts
    for number in range(10):
        shutil.rmtree(tmp_path / f"another-s{number}" / "detectors")
    page = Checker(build_page([tmp_path]))
    assert page.tags.count("svg") == 3 * 3
    assert sum(address.endswith("-another-s11") for address in page.addresses) == 1  # among the contents
    assert f"{tmp_path.name}/another-s0" in page.texts


@pytest.mark.parametrize(("scale", "label"), [(1e6, "Cost (MMACs)"), (5e8, "Cost (GMACs)")])
def test_costs_of_candidates_have_the_prefix_that_fits(search, scale, label):
    candidates = [{"key": f"d{n}", "status": "done", "macs": scale * n, "AP": 0.1 * n} for n in (1, 2)]
    (search / "candidates.jsonl").write_text("\n".join(map(json.dumps, candidates)))
    marks = [json.loads(unescape(values)) for values in re.findall(r'data-values="(.*?)"', build_page([search]))]
    (shown,) = [mark for mark in marks if mark.get("Encoding") == "d2"]
    assert shown[label] == {1e6: "2", 5e8: "1"}[scale]


# ---- the command


def test_nothing_to_show_is_one_sentence_and_exit_2(tmp_path, capsys):
    with pytest.raises(InputError, match="not a folder"):
        build_page([tmp_path / "absent"])
    with pytest.raises(SystemExit, match="2"):
        run(main, Options, [str(tmp_path), "--out", str(tmp_path / "page")])
    error = capsys.readouterr().err
    assert error.startswith("error: no exhibit, claim or run below")
    assert error.count("\n") == 1
    assert not (tmp_path / "page").exists()


HEAVY = {"torch", "pandas", "seaborn", "scipy", *(path.parent.name for path in ROOT.glob("*/printed.json"))}
SHOWN_AND_THEN_THE_PAGE = """
import json, runpy, sys
from pathlib import Path
from common.report.card import Shown
from common.report.exhibit import ExhibitResult

html = Shown(ExhibitResult.load(Path(sys.argv.pop())))._repr_html_()
assert '<img' in html and 'Two nets' in html
print(json.dumps(list(sys.modules)))
runpy.run_module("common.report", run_name="__main__")
print(json.dumps(list(sys.modules)))
"""


def test_an_exhibit_is_shown_again_by_at_most_eight_files_and_the_page_without_torch_or_a_paper(runs, toy, folder):
    arguments = [runs, toy.root / "results", "--out", toy.root / "page", folder / "exhibits/figure1/result.json"]
    command = [sys.executable, "-c", SHOWN_AND_THEN_THE_PAGE, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    for_one, for_all = map(json.loads, done.stdout.splitlines())
    ours = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert len([name for name in for_one if name.split(".")[0] in ours]) <= 8
    assert not HEAVY & set(for_all)
    Checker((toy.root / "page" / "index.html").read_text())


@pytest.mark.skipif(not shutil.which("node"), reason="needs node")
def test_times_are_sorted_by_their_length_and_numbers_by_their_value():
    texts = ["89.9 s", "1.5 min", "1.6 h", "−1,234.5 ± 0.5 AP", "0.5 [0.4, 0.7]", "–", "min"]
    script = (ROOT / "common/report/templates/script.js").read_text()
    parse = script[script.index("const SECONDS") : script.index("function sort_by")]
    code = f"{parse} console.log(JSON.stringify({json.dumps(texts)}.map(number_of)))"
    done = subprocess.run(["node", "-e", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [89.9, 90.0, 5760.0, -1234.5, 0.5, None, None]
