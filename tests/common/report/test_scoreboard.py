"""The scoreboard in README.md."""

from pathlib import Path

import pytest

from common.plain import InputError, write_json
from common.report import scoreboard
from common.report.scoreboard import BEGIN, END, Options, main

ROOT = Path(__file__).resolve().parents[3]


def record(**changes):
    base = {"verdict": "reproduced", "statement": "a | b", "where": "F5", "paper": "+0.85", "difference": 0.5}
    return base | {"interval": [0.25, 0.75], "seeds": [0, 1, 2], "data": "scenes", "scale": "nano", "n": 3} | changes


@pytest.fixture
def options(tmp_path) -> Options:
    records = {"DO-10": record(), "DO-2": record(verdict="inconclusive", difference=None, reason="not measured: cost")}
    write_json(tmp_path / "results/nano/detofa/claims.json", records)
    write_json(tmp_path / "results/mini/detofa/claims.json", [record(id="DO-2", scale="mini", seeds_needed=9)])
    write_json(tmp_path / "results/nano/sm_nas/claims-aquarium.json", {"SM-1": record()})
    (tmp_path / "README.md").write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    return Options(results=tmp_path / "results", readme=tmp_path / "README.md")


def test_rewrites_only_between_the_markers_and_then_checks(options, capsys):
    check = Options(check=True, results=options.results, readme=options.readme)
    with pytest.raises(SystemExit) as stopped:
        main(check)
    assert stopped.value.code == 1
    assert "out of date" in capsys.readouterr().out
    assert "old" in options.readme.read_text()  # a check changes nothing
    main(options)
    text = options.readme.read_text()
    assert text.startswith(f"before\n{BEGIN}")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    main(check)
    main(options)
    assert options.readme.read_text() == text


def test_rows_are_ordered_and_escaped(options):
    main(options)
    lines = options.readme.read_text().splitlines()
    rows = [line for line in lines if line.startswith(("| DO", "| SM"))]
    assert [row.split(":")[0] for row in rows] == ["| SM-1", "| DO-2", "| DO-2", "| DO-10"]
    assert rows[1].endswith("| 3 (80 % power: 9) | scenes mini | reproduced |")
    assert rows[2].endswith("| inconclusive: not measured: cost |")
    assert "a \\| b" in rows[3]
    assert "| 0.50 ± 0.25 |" in rows[3]
    assert [line for line in lines if line.startswith("###")] == ["### SM-NAS", "### DetOFA"]


def test_no_results_is_said(tmp_path):
    (tmp_path / "README.md").write_text(f"{BEGIN}{END}")
    main(Options(results=tmp_path / "none", readme=tmp_path / "README.md"))
    assert "No claim has been judged yet" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("text", ["nothing", f"{END}{BEGIN}", f"{BEGIN}{BEGIN}{END}"])
def test_missing_markers_are_one_sentence(tmp_path, text):
    (tmp_path / "README.md").write_text(text)
    with pytest.raises(InputError):
        main(Options(results=tmp_path, readme=tmp_path / "README.md"))


def test_readme_of_this_repository_is_up_to_date():
    readme = ROOT / "README.md"
    if not readme.is_file() or scoreboard.BEGIN not in readme.read_text():
        pytest.skip("README.md has no scoreboard")
    main(Options(check=True, results=ROOT / "results", readme=readme))
