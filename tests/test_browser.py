"""The page in a real browser: Debian's Chromium, without a screen and without the network."""

import csv
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.plain import write_json
from common.report.exhibit import ExhibitResult, Picture
from common.report.page import build_page
from common.report.tables import Table

CHROMIUM = shutil.which("chromium")
playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright (pip install -e .[test])")
expect = playwright.expect  # waits for what a click leads to, which the browser does in its own time
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a browser (apt-get install chromium)")

POINTS = {"Found": [[1.5, 21.5, {"Encoding": "d2 w1", "Seed": "0"}], [2.5, 30.25, {"Encoding": "d4 w2", "Seed": "1"}]]}
COMMAND = "python -m toynas.reproduce --only figure1"


@pytest.fixture(scope="module")
def page_file(tmp_path_factory) -> Path:
    """The page of two made-up papers: a figure and a table with a claim each, and one that is superseded."""
    root = tmp_path_factory.mktemp("results")
    for paper, title in (("toynas", "ToyNAS"), ("othernas", "OtherNAS"), ("old", "ToyNAS")):
        folder = root / paper
        about = {"paper": paper, "paper_title": title, "data": "scenes", "scale": "nano", "seeds": (0, 1)}
        picture = Picture("figure1", "fronts", {"points": POINTS, "with_front": ["Found"]})
        rows = [["b", 9.5], ["a", 10.25], ["d, e", None], ["c", -1.0]]
        ExhibitResult(
            exhibit="figure1",
            title="Two nets",
            caption="AP of two.",
            command=COMMAND,
            table=Table(["Method", "AP"], rows),
            pictures=(picture,),
            runs=("scenes-nano/search-s0",),
            **about,
        ).save(folder / "figure1.json")
        claim = {"verdict": "not reproduced", "statement": "the search finds " + "better and better nets " * 6, "n": 2}
        claim |= {"paper_name": paper, "where": "Figure 1", "level": 31.0, "difference": -1.0, "interval": [-2.0, 0.0]}
        write_json(folder / "claims.json", {"T-1": claim | about | {"reason": "a reason " * 9}})
        write_json(folder / "runs.json", {})
    (root / "old" / "superseded.md").write_text("Of former rules.")
    path = root / "index.html"
    path.write_text(build_page([root], "python -m common.report results"))
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])  # tests may be root's
        yield started
        started.close()


@pytest.fixture
def opened(browser, page_file) -> Iterator:
    """Opens the page at a width and in a scheme, and sees at the end that it asked for nothing and had no error."""
    faults, contexts = [], []

    def opened(width: int = 1280, scheme: str = "light", anchor: str = ""):
        contexts.append(browser.new_context(viewport={"width": width, "height": 740}, color_scheme=scheme))
        page = contexts[-1].new_page()
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: faults.append(request.url) if not request.url.startswith("file:") else None)
        page.goto(page_file.as_uri() + anchor)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not faults


def test_a_tab_shows_its_paper_alone_and_links_lead_across_tabs(opened, page_file):
    page = opened()
    expect(page.locator("#overview .headline")).to_contain_text("0 of 2 claims are reproduced at nano scale")
    page.click("nav >> text=ToyNAS")
    expect(page.locator("#toynas")).to_be_visible()
    expect(page.locator("#overview")).to_be_hidden()
    expect(page.locator("#othernas")).to_be_hidden()
    page.click("#toynas table.claims >> text=Figure 1")
    expect(page).to_have_url(page_file.as_uri() + "#toynas-scenes-nano-figure1-1")
    page.click("#toynas article >> text=T-1: not reproduced")
    expect(page.locator("#toynas-scenes-nano-T-1-1 details")).to_have_attribute("open", "")
    page.evaluate("location.hash = 'superseded'")
    expect(page.locator("#superseded")).to_contain_text("Of former rules.")
    expect(page.locator("#toynas")).to_be_hidden()
    page.go_back()
    expect(page.locator("#toynas")).to_be_visible()


def test_a_click_on_a_point_shows_its_record(opened):
    page = opened(anchor="#othernas-scenes-nano-figure1-1")
    marks = page.locator("#othernas .mark")
    terms = page.locator("#record > dl > *")
    expect(marks).to_have_count(2)
    marks.nth(0).hover()
    first = ["Name", "Found", "Cost (GMACs)", "1.5", "AP (points)", "21.5", "Encoding", "d2 w1", "Seed", "0"]
    expect(terms).to_have_text(first)
    marks.nth(1).click()
    marks.nth(0).hover()  # what was clicked stays
    second = ["Name", "Found", "Cost (GMACs)", "2.5", "AP (points)", "30.25", "Encoding", "d4 w2", "Seed", "1"]
    about = ["Exhibit", "OtherNAS, Figure 1, scenes, nano scale", "Seeds", "0, 1", "Runs", "scenes-nano/search-s0"]
    expect(terms).to_have_text([*second, *about, "Command", COMMAND])
    page.keyboard.press("Escape")
    expect(page.locator("#record")).to_be_hidden()


def test_a_table_is_sorted_by_a_click_and_downloaded_as_csv(opened, tmp_path):
    page = opened(anchor="#toynas")
    table = page.locator("#toynas article table")
    first, second = table.locator("th").nth(0), table.locator("th").nth(1)
    names = table.locator("tbody tr > :first-child")
    second.click()
    expect(names).to_have_text(["c", "b", "a", "d, e"])  # by number, what has none last
    expect(second).to_have_attribute("aria-sort", "ascending")
    second.click()
    expect(names).to_have_text(["d, e", "a", "b", "c"])
    first.click()
    expect(names).to_have_text(["a", "b", "c", "d, e"])
    expect(second).not_to_have_attribute("aria-sort", re.compile(""))
    with page.expect_download() as download:
        page.click("#toynas article .csv")
    download.value.save_as(tmp_path / "table.csv")
    rows = list(csv.reader((tmp_path / "table.csv").open(newline="")))
    assert rows == [["Method", "AP"], ["a", "10.25"], ["b", "9.50"], ["c", "-1.00"], ["d, e", ""]]


def test_on_a_phone_nothing_is_off_screen(opened):
    page = opened(width=360, anchor="#toynas-scenes-nano-T-1-1")
    box = page.locator("#toynas .claims .outcome .verdict").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 360
    assert 0 <= box["y"] < 740
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.evaluate("scrollTo(0, 1e6)")
    assert page.locator("nav").bounding_box()["y"] == 0  # the contents stay


def test_figures_follow_the_dark_scheme(opened):
    colours = """() => ["body", ".plot text", ".plot path[style*='light-dark']"].map((each) => {
        const style = getComputedStyle(document.querySelector(each));
        return [style.backgroundColor, style.fill, style.stroke];
    })"""
    (page, *light), (dark_page, *dark) = (
        opened(scheme=scheme, anchor="#toynas").evaluate(colours) for scheme in ("light", "dark")
    )
    assert (page[0], dark_page[0]) == ("rgb(255, 255, 255)", "rgb(21, 23, 26)")
    assert all(one != other for one, other in zip(light, dark, strict=True))
