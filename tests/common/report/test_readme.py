"""README.md and the papers' pages: generated from published records, and stale when these change."""

import re
from contextlib import suppress

import pytest

from common.plain import InputError, read_json, write_json
from common.report.figures import digest, drawn_from
from common.report.readme import Options, main
from common.report.reproduce import reproduce
from common.report.scoreboard import by_paper, claim_cells, counts, details, find_claims, measured, natural, standing

BOARD, PART = "<!-- scoreboard:begin -->old<!-- scoreboard:end -->", "<!-- results:begin -->old<!-- results:end -->"


@pytest.fixture
def published(toy):
    """The root of a repository with the results of two seeds on scenes, and of one on another set."""
    reproduce(toy.paper, toy.options(only=("table2",)))
    reproduce(toy.paper, toy.options(seeds=2, only=("figure1",), publish=True))
    reproduce(toy.paper, toy.options(data="coco:reef", only=("figure1",), publish=True))
    (toy.root / "README.md").write_text(f"before\n{BOARD}\nafter\n")
    (toy.root / "toynas/README.md").write_text(f"above\n{PART}\nbelow\n")
    return toy.root


def pages(root):
    return (root / "README.md").read_text(), (root / "toynas/README.md").read_text()


def stale(root, capsys) -> list[str]:
    """What --check names, relative to the root."""
    capsys.readouterr()
    with suppress(SystemExit):
        main(Options(check=True, root=root))
    return re.findall(rf"^{root}/(.*?) is out of date: run", capsys.readouterr().out, re.MULTILINE)


def test_pages_are_written_between_their_markers_and_then_up_to_date(published, capsys):
    everything = ["results/smoke/toynas/figure1.png", "results/smoke/toynas/reef/figure1.png"]
    everything += ["README.md", "toynas/README.md"]
    assert stale(published, capsys) == everything
    assert "old" in pages(published)[0]  # a check changes nothing
    with pytest.raises(SystemExit, match="1"):
        main(Options(check=True, root=published))
    main(Options(root=published))
    board, page = pages(published)
    assert re.fullmatch(
        r"before\n<!-- scoreboard:begin -->\n\n3 claims.*\|\n\n<!-- scoreboard:end -->\nafter\n", board, re.S
    )
    assert re.fullmatch(r"above\n<!-- results:begin -->\n\n### .*\n\n<!-- results:end -->\nbelow\n", page, re.S)
    assert not stale(published, capsys)
    main(Options(root=published))
    assert pages(published) == (board, page)


def test_a_page_shows_every_published_exhibit_and_claim(published):
    main(Options(root=published))
    _, page = pages(published)
    heads = ["### scenes, smoke scale", "#### Claims", "#### Figure 1: Two nets", "#### Table 2: One net"]
    heads += ["### reef, smoke scale", "#### Claims", "#### Figure 1: Two nets"]
    assert [line for line in page.splitlines() if line.startswith("#")] == heads
    for text in (
        "AP of both.",
        "![Figure 1: Two nets](../results/smoke/toynas/figure1.png)",
        "![Figure 1: Two nets](../results/smoke/toynas/reef/figure1.png)",
        "| Method | AP, ours | AP, paper (percent) |\n| --- | --- | --- |\n| toy | 42.00 | 40.1 |",
        "- Ours is first.\n- The paper: the curves rise.",
        "Seeds: 0, 1. `python -m toynas.reproduce --scale smoke --data scenes --seeds 2 --only figure1`",
        "3 inconclusive",
        "| Claim | Rule | Paper | Ours (95 % interval) | Seeds | Verdict |",
        "| T-2: gain is large (Figure 1) | gain above 3 | +2 | 2.05 ± 0.64 AP | 2 | not reproduced |",
        "| T-3: table is large (Figure 1) | table above 0 | +2 | – | 2 | inconclusive: not measured: table |",
        "`python -m toynas.reproduce --scale smoke --data scenes --seeds 2`",
    ):
        assert text in page, text
    for folder in ("", "reef/"):
        for link in re.findall(r"\]\((.*?)\)", page):
            assert (published / "toynas" / link).is_file()
        record = read_json(published / f"results/smoke/toynas/{folder}figure1.json")
        file = published / f"results/smoke/toynas/{folder}figure1.png"
        assert file.stat().st_size < 200_000
        assert drawn_from(file) == digest(type("P", (), record["pictures"][0]))


def test_several_conditions_stand_under_one_another(published):
    path = published / "results/smoke/toynas/claims.json"
    claims = read_json(path)
    (first,) = claims["T-2"]["conditions"]
    second = {"name": "loss", "direction": "below", "threshold": 1.0, "difference": 9.0, "interval": [8.0, 10.0]}
    claims["T-2"]["conditions"] = [first, first | second]
    write_json(path, claims)
    main(Options(root=published))
    assert "| gain above 3<br>loss below 1 | +2 | 2.05 ± 0.64 AP<br>9.0 ± 1.0 AP |" in pages(published)[1]


def test_the_scoreboard_names_papers_and_claims_of_several_seeds(published):
    main(Options(root=published))
    board, _ = pages(published)
    assert "| [ToyNAS](toynas/README.md) | ToyNAS: A Paper that Nobody Wrote | Nobody |" in board
    (published / "results/learnt.md").write_text("They learn.\n")
    main(Options(root=published))
    opening = pages(published)[0].split("<!-- scoreboard:begin -->\n\n")[1]
    assert opening.startswith(
        "3 claims: **1 reproduced · 1 not reproduced · 1 inconclusive**. Of 2 decided verdicts, 0.1 "
    )
    assert "(Holm).\n\nThey learn.\n\n| Page |" in opening
    assert "### ToyNAS\n\n1 reproduced · 1 not reproduced · 1 inconclusive\n\n| Claim | Where |" in board
    rows = [line for line in board.splitlines() if line.startswith("| T-")]
    assert [row.split(":")[0] for row in rows] == ["| T-2", "| T-3", "| T-10"]  # reef has one seed only
    assert rows[1].endswith("| 2 | scenes smoke | inconclusive: not measured: table |")


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
        "<!-- scoreboard:begin -->\n\n| Page | Paper | Authors |\n| --- | --- | --- |\n"
        "| [xnas](xnas/README.md) | X | A |\n\n<!-- scoreboard:end -->"
    )


@pytest.mark.parametrize("text", ["nothing", BOARD[::-1], BOARD + BOARD, BOARD.replace("begin", "end", 1)])
def test_missing_markers_are_one_sentence(tmp_path, text):
    (tmp_path / "README.md").write_text(text)
    with pytest.raises(InputError, match=r"README.md must hold <!-- scoreboard:begin --> and then <!-- scoreboard:end"):
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


def test_claims_are_found_in_order_and_what_is_damaged_named(tmp_path):
    write_json(tmp_path / "nano/detofa/claims.json", {"DO-10": record(), "DO-2": record()})
    write_json(tmp_path / "mini/detofa/claims.json", {"DO-2": record(scale="mini")})
    write_json(tmp_path / "bad/claims.json", [])
    found, (sentence,) = find_claims([tmp_path, tmp_path / "nano"])
    assert [(each["id"], each["scale"]) for each in found] == [("DO-2", "mini"), ("DO-2", "nano"), ("DO-10", "nano")]
    assert sentence.startswith(f"{tmp_path}/bad/claims.json is not a claims file")


def test_claims_are_grouped_by_the_papers_title():
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
    assert measured(record(interval=[None, None], unit=None)) == "0.5000"


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
    assert details(record()) == details(record(why=None, level=None, budget={}, p=None, before=None)) == []


def test_decided_verdicts_are_tested_together():
    assert standing([record(), record(p=None)]) == ""
    by_chance = "Of 3 decided verdicts, 0.2 would be false by chance if nothing were to be found; 2 stand at 5% when"
    assert standing([record(p=p) for p in (0.04, 0.001, 0.02, None)]).startswith(
        by_chance.replace("2 stand", "3 stand")
    )
    assert standing([record(p=p) for p in (0.06, 0.001, 0.02)]).startswith(by_chance)


def test_verdicts_are_counted_and_names_ordered_as_numbers_go():
    verdicts = ["reproduced", "inconclusive", "reproduced"]
    assert counts([{"verdict": each} for each in verdicts]) == "2 reproduced · 1 inconclusive"
    ordered = ["figure2", "figure10", "table2", "table10"]
    assert sorted(set(ordered), key=natural) == ordered
