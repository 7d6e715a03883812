"""The page: complete, self-contained, well formed, from records alone, and clear when there is nothing to show."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from common.plain import InputError, read_json, write_json
from common.report.card import Shown
from common.report.exhibit import ExhibitResult
from common.report.page import build_page
from common.report.reproduce import reproduce

ROOT = Path(__file__).resolve().parents[3]
VOID = {"meta", "img", "br", "hr", "link", "input"}


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
def runs(toy) -> Path:
    """Runs of two seeds, their exhibits and claims; the claims are published, too."""
    reproduce(toy.paper, toy.options(only=("table2",)))
    reproduce(toy.paper, toy.options(seeds=2, only=("figure1",), publish=True))
    return toy.root / "runs"


def change(path: Path, **changes) -> None:
    write_json(path, read_json(path) | changes)


def test_page_is_well_formed_complete_and_self_contained(runs, toy, folder):
    change(folder / "exhibits/figure1/result.json", caption="AP <of> both.", notes=["Ours & theirs."])
    page = Checker(build_page([runs], "python -m common.report runs"))
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in page.addresses)
    assert "script" not in page.tags
    assert page.tags.count("img") == 1
    lines = [text.strip().replace(str(toy.root), "ROOT") for text in page.texts if text.strip()]
    expected = (Path(__file__).parent / "expected/page.txt").read_text()
    assert "\n".join(lines) + "\n" == expected, "if that is meant, change expected/page.txt"


def test_results_are_shown_alike_and_several_folders_side_by_side(runs, toy):
    published = toy.root / "results"
    page = Checker(build_page([published]))
    assert page.tags.count("img") == 1
    assert {"Figure 1: Two nets", "results/smoke/toynas/scenes-smoke/ours-s0", "An abacus"} <= set(page.texts)
    (row,) = [row for row in build_page([runs, published]).split('<div class="row">') if "<h4>Figure 1" in row]
    assert row.count("<h4>Figure 1: Two nets</h4>") == 2
    assert all(f'<p class="root">{folder}</p>' in row for folder in (runs, published))


def test_papers_and_exhibits_are_in_their_order(tmp_path, runs, folder):
    result = ExhibitResult.load(folder / "exhibits/table2/result.json")
    for name, title in (("table10", "ToyNAS"), ("table9", "ToyNAS"), ("table1", "Another NAS"), ("table3", "")):
        where = tmp_path / f"others/{title}/exhibits/{name}/result.json"
        replace(result, exhibit=name, paper_title=title, paper="zeta").save(where)
    text = build_page([runs, tmp_path / "others"])
    heads = re.findall(r"<h2>(.*?)</h2>", text)
    assert heads == ["Claims", "Another NAS", "ToyNAS", "zeta", "Hardware and versions", "Runs"]
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
    assert "img" not in page.tags


def test_many_pictures_are_drawn_as_few_are_and_as_a_notebook_shows_them(runs, folder):
    path = folder / "exhibits/figure1/result.json"
    result = ExhibitResult.load(path)
    page = build_page([runs])
    assert Shown(result)._repr_html_() in page
    one = re.findall(r'src="([^"]*)"', page)
    many = [replace(result.pictures[0], name=f"p{number}") for number in range(8)]
    replace(result, pictures=many).save(path)
    assert re.findall(r'src="([^"]*)"', build_page([runs])) == one * 8


def test_nothing_to_show_is_one_sentence_and_exit_2(tmp_path):
    with pytest.raises(InputError, match="not a folder"):
        build_page([tmp_path / "absent"])
    command = [sys.executable, "-m", "common.report", str(tmp_path), "--out", str(tmp_path / "page")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no exhibit and no claim below")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "page").exists()


def loaded_by(code: str) -> list[str]:
    """The modules that a process of its own has imported when it has run some code."""
    code += "\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


HEAVY = {"torch", "pandas", "seaborn", "scipy", *(path.parent.name for path in ROOT.glob("*/printed.json"))}


def test_the_command_writes_the_page_without_torch_or_a_paper(runs, toy):
    arguments = ["report", str(runs), str(toy.root / "results"), "--out", str(toy.root / "page")]
    run_it = f"import sys, runpy; sys.argv = {arguments!r}; runpy.run_module('common.report', run_name='__main__')"
    assert not HEAVY & set(loaded_by(run_it))
    Checker((toy.root / "page" / "index.html").read_text())


def test_a_finished_exhibit_is_shown_again_from_its_record_by_at_most_eight_files(runs, folder):
    path = folder / "exhibits/figure1/result.json"
    loaded = loaded_by(
        "from pathlib import Path\nfrom common.report.card import Shown\n"
        "from common.report.exhibit import ExhibitResult\n"
        f"html = Shown(ExhibitResult.load(Path({str(path)!r})))._repr_html_()\n"
        "assert '<img' in html and 'Two nets' in html\n"
    )
    ours = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert len([name for name in loaded if name.split(".")[0] in ours]) <= 8
    assert not HEAVY & set(loaded)
