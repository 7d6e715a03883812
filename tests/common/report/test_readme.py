"""README.md and the papers' pages: generated from published records, and stale when these change."""

import re
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from common.plain import InputError, read_json, write_json
from common.report.readme import Options, main
from common.report.reproduce import reproduce
from common.report.scoreboard import by_paper, claim_cells, details, find_claims, measured_text, standing

BOARD = "<!-- findings:begin -->old<!-- findings:end -->\n<!-- scoreboard:begin -->old<!-- scoreboard:end -->"
PART = "<!-- results:begin -->old<!-- results:end -->"


@pytest.fixture
def published(toy, runs):
    """The root of a repository with the results of two seeds on scenes, and of one on another set."""
    reproduce(toy.paper, toy.options(data="coco:reef", only=("figure1",), publish=True))
    (toy.root / "results/learnt.md").write_text("They learn.\n")
    claims = read_json(path := toy.root / "results/smoke/toynas/claims.json")
    second = {"name": "loss", "direction": "below", "threshold": 1.0, "difference": 9.0, "interval": [8.0, 10.0]}
    claims["T-10"]["conditions"].append(claims["T-10"]["conditions"][0] | second)
    write_json(path, claims)
    (toy.root / "README.md").write_text(f"before\n{BOARD}\nafter\n")
    (toy.root / "toynas/README.md").write_text(f"above\n{PART}\nbelow\n")
    return toy.root


def pages(root: Path) -> list[str]:
    return [(root / name).read_text() for name in ("README.md", "toynas/README.md")]


def stale(root, capsys) -> list[str]:
    """What --check names, relative to the root."""
    capsys.readouterr()
    with suppress(SystemExit):
        main(Options(check=True, root=root))
    return re.findall(rf"^{root}/(.*?) is out of date: run", capsys.readouterr().out, re.MULTILINE)


def test_pages_show_every_published_exhibit_and_claim_and_are_then_up_to_date(published, capsys):
    everything = ["results/smoke/toynas/figure1.png", "results/smoke/toynas/reef/figure1.png"]
    everything += ["README.md", "toynas/README.md"]
    assert stale(published, capsys) == everything
    assert "old" in pages(published)[0]  # a check changes nothing
    with pytest.raises(SystemExit, match="1"):
        main(Options(check=True, root=published))
    main(Options(root=published))
    assert pages(published) == pages(Path(__file__).parent / "expected"), f"if that is meant, copy from {published}"
    for link in re.findall(r"\]\((.*?)\)", pages(published)[1]):
        assert (published / "toynas" / link).is_file()
    assert not stale(published, capsys)


def test_superseded_verdicts_are_on_the_papers_page_alone(published):
    main(Options(root=published))
    before = pages(published)
    former = published / "results/former/toynas"
    shutil.copytree(published / "results/smoke/toynas", former, ignore=shutil.ignore_patterns("*.png", "reef"))
    (former / "superseded.md").write_text("Of former rules.")
    (published / "results/smoke/toynas/note.md").write_text("Of an abacus.")
    main(Options(root=published))
    scoreboard, page = pages(published)
    said = re.search(r"\d verdicts by former rules \((.*?)\) are superseded", scoreboard)
    assert scoreboard.replace(scoreboard[said.start() : scoreboard.index("They learn.")], "") == before[0]
    assert said[1] in before[0]
    assert page.count("#### Claims") == before[1].count("#### Claims") + 1
    assert page.index("Of former rules.") < page.index("Of an abacus.")


def redraw(root):
    path = root / "results/smoke/toynas/figure1.json"
    record = read_json(path)
    record["pictures"][0]["data"]["value_label"] = "Other"
    write_json(path, record)


def test_what_is_stale_is_named_and_renewed(published, capsys):
    main(Options(root=published))
    results = published / "results/smoke/toynas"
    changes = {
        ("README.md", "toynas/README.md"): lambda: write_json(results / "claims.json", {}),
        ("results/smoke/toynas/reef/figure1.png",): lambda: (results / "reef/figure1.png").unlink(),
        ("results/smoke/toynas/a.png",): lambda: (results / "a.png").write_bytes(b""),
        ("results/smoke/toynas/figure1.png",): lambda: redraw(published),
        ("toynas/README.md",): lambda: (published / "toynas/README.md").write_text(PART),
    }
    for named, change in changes.items():
        change()
        assert stale(published, capsys) == list(named)
        main(Options(root=published))
        assert not stale(published, capsys)
    assert not (results / "a.png").exists()


def test_a_paper_without_results_is_named_alone(tmp_path):
    write_json(tmp_path / "xnas/printed.json", {"title": "X", "authors": "A", "exhibits": {}})
    (tmp_path / "README.md").write_text(BOARD)
    (tmp_path / "xnas/README.md").write_text(PART)
    main(Options(root=tmp_path))
    assert (tmp_path / "README.md").read_text() == (
        "<!-- findings:begin -->\n\n| Page | Paper | Authors |\n| --- | --- | --- |\n"
        "| [xnas](xnas/README.md) | X | A |\n\n<!-- findings:end -->\n"
        "<!-- scoreboard:begin -->\n\n\n\n<!-- scoreboard:end -->"
    )


def test_what_photographs_gave_is_told_and_detectors_stand_beside_torchvisions(tmp_path, capsys):
    def side(ap: float, seconds: float, params: int, **more) -> dict:
        return {"AP": ap, "cpu_seconds": seconds, "params": params, **more}

    record = {
        "photographs": "reef",
        "images": 234,
        "input_size": [256, 192],
        "precision": "float32",
        "ours": side(0.5514, 164.0, 1_234_567, command="detnas toynas train"),
        "torchvision": side(0.5, 171.0, 2_000_000),
        "environment": {"cpu": "a processor"},
    }
    (tmp_path / "results").mkdir()
    (tmp_path / "results/photographs.md").write_text("AP 0.5\n")
    (tmp_path / "README.md").write_text(f"{BOARD}\n<!-- photographs:begin --><!-- photographs:end -->")
    main(Options(root=tmp_path))
    assert "<!-- photographs:begin -->\n\nAP 0.5\n\n<!-- photographs:end -->" in (tmp_path / "README.md").read_text()
    assert not stale(tmp_path, capsys)
    write_json(tmp_path / "results/photo/reef-toynas.json", record)
    assert stale(tmp_path, capsys) == ["README.md"]
    main(Options(root=tmp_path))
    text = (tmp_path / "README.md").read_text()
    row = "reef, 234 for training, 256x192 | `detnas toynas train` | 55.1 | 50.0 | 3 | 3 | 1.23 | 2.00"
    assert row in re.sub(" +", " ", text)
    assert "trained for as long" in text
    assert "a processor, float32" in text


def test_speeds_stand_beside_the_peers(tmp_path, capsys):
    machine = {"date": "2026-02-03", "device": "cpu", "cpu": "a processor", "threads": 2, "torch": "2.11"}
    about = {"name": "adding", "summary": "Adding", "case": "1 + 1", "unit": "s", "clock": "wall"}
    about |= {"target": "2 times as fast", "bound": "carrying"}
    rows = [
        {"ours": 0.12345, "peer": 1500.0, "ratio": 12151.0, "against": "abacus", "reason": None, "note": "exact"},
        {"ours": 0.12345, "peer": None, "ratio": None, "against": "fingers", "reason": "no fingers", "note": None},
        {"ours": 2.0, "peer": 5.0, "ratio": 2.5, "against": "a child", "reason": None, "note": None, "case": "2 + 2"},
    ]
    write_json(tmp_path / "results/benchmarks.json", [machine | about | row for row in rows])
    (tmp_path / "README.md").write_text(f"{BOARD}\n<!-- speed:begin --><!-- speed:end -->")
    assert stale(tmp_path, capsys) == ["README.md"]
    main(Options(root=tmp_path))
    lines = (tmp_path / "README.md").read_text().split("<!-- speed:begin -->")[1].split("\n")
    assert lines[2:] == [
        "Measured on 2026-02-03 on cpu (a processor, 2 threads), torch 2.11, by `python -m benchmarks --json`: each "
        "pair in turn, medians of wall time.",
        "",
        "| Work | Ours | Peers (how many times better ours is) | Target | Presumably bound by |",
        "| --- | --- | --- | --- | --- |",
        "| Adding<br>1 + 1 | 0.123 s<br>exact | abacus: 1,500 s (12,151)<br>no fingers | 2 times as fast | carrying |",
        "| Adding<br>2 + 2 | 2 s | a child: 5 s (2.5) | 2 times as fast | carrying |",
        "",
        "<!-- speed:end -->",
    ]
    assert not stale(tmp_path, capsys)


def test_what_compares_papers_has_a_page_as_they_have(toy):
    folder = toy.root / "common" / "toynas"
    folder.parent.mkdir()
    (toy.root / "toynas").rename(folder)
    reproduce(replace(toy.paper, folder=folder), toy.options(only=("figure1",), publish=True))
    (toy.root / "README.md").write_text(BOARD)
    (folder / "README.md").write_text(PART)
    main(Options(root=toy.root))
    assert "![Figure 1: Two nets](../../results/smoke/toynas/figure1.png)" in (folder / "README.md").read_text()
    shown = (toy.root / "README.md").read_text()
    assert "(toynas/README.md)" not in shown  # it is no paper
    assert "**Two nets** ([numbers](common/toynas/README.md)). " in shown
    assert shown.index("![Two nets](results/smoke/toynas/figure1.png)") < shown.index("findings:end")


@pytest.mark.parametrize("text", ["nothing", BOARD[::-1], BOARD + BOARD, BOARD.replace("begin", "end", 1)])
def test_missing_markers_are_one_sentence(tmp_path, text):
    (tmp_path / "README.md").write_text(text)
    with pytest.raises(InputError, match=r"README.md must hold <!-- findings:begin --> and then <!-- findings:end -->"):
        main(Options(root=tmp_path))
    (tmp_path / "README.md").unlink()
    with pytest.raises(InputError, match=r"README.md is not there; write it, or name the repository's folder with --r"):
        main(Options(root=tmp_path))


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [("figure1", "{}", "is not an exhibit's record"), ("claims", "[]", "is not a claims file")],
)
def test_what_cannot_be_read_is_one_sentence(published, name, text, sentence):
    (published / f"results/smoke/toynas/{name}.json").write_text(text)
    with pytest.raises(InputError, match=f"{name}.json {sentence}"):
        main(Options(root=published))


# ---- claims as rows


def record(**changes):
    base = {"verdict": "reproduced", "statement": "good", "where": "F5", "paper": "+0.85", "difference": 0.5}
    base |= {"interval": [0.25, 0.75], "unit": "AP", "seeds": [0, 1, 2], "data": "scenes", "scale": "nano", "n": 3}
    return base | changes


def test_claims_are_found_once_in_order_by_the_papers_title(tmp_path):
    write_json(tmp_path / "nano/detofa/claims.json", {"DO-10": record(), "DO-2": record()})
    write_json(tmp_path / "mini/detofa/claims.json", {"DO-2": record(scale="mini")})
    found, faults = find_claims([tmp_path, tmp_path / "nano"])
    assert [(each["id"], each["scale"]) for each in found] == [("DO-2", "mini"), ("DO-2", "nano"), ("DO-10", "nano")]
    assert not faults
    groups = by_paper([record(paper_title="Z", id=1), record(paper_title="", paper_name="a", id=2), record(id=3)])
    assert [(title, [each["id"] for each in claims]) for title, claims in groups.items()] == [
        *(("Claims", [3]), ("Z", [1]), ("a", [2])),
    ]


def test_a_claims_cells():
    assert claim_cells(record(id="A-1", seeds_needed=9)) == (
        *("A-1: good", "F5", "+0.85", "0.50 ± 0.25 AP", "3 (80 % power: 9)", "scenes nano", "reproduced"),
    )
    bare = claim_cells({"id": "A-2", "verdict": "inconclusive", "paper": None})
    assert bare == ("A-2: ", "", "–", "–", "0", "", "inconclusive")
    assert measured_text(record(interval=[None, None], unit=None)) == "0.5000"


def test_what_stands_behind_a_verdict_is_said():
    budget = {"ours": {"samples": 80000, "cpu_seconds": 1234.4}, "theirs": {"samples": 500}, "random": {}}
    whole = record(why="It learns.", level=21.26, budget=budget, p=0.0312, before={"rule": "AP up", "reason": "noise"})
    assert details(whole) == [
        "It learns.",
        "Networks of 21.3 AP points.",
        "Trained with: ours 80,000 samples in 1,234 CPU s; theirs 500 samples.",
        "p 0.031.",
        "Rule before: AP up. Changed: noise.",
    ]
    sentences = record(before={"rule": "AP up", "reason": "It was noise. It held whatever the nets did."})
    assert details(sentences) == ["Rule before: AP up. Changed: It was noise. It held whatever the nets did."]
    assert details(record()) == details(record(why=None, level=None, budget={}, p=None, before=None)) == []


def test_decided_verdicts_are_tested_together():
    assert standing([record(), record(p=None)]) == ""
    for p_values, stand in (((0.04, 0.001, 0.02, None), 3), ((0.06, 0.001, 0.02), 2)):
        by_chance = (
            f"Of 3 decided verdicts, 0.2 would be false by chance if nothing were to be found; {stand} stand at 5%"
        )
        assert standing([record(p=p) for p in p_values]).startswith(by_chance)
