"""The README says what is so: its commands are there with the flags it shows, its links lead somewhere."""

import re
import runpy
import shlex
from pathlib import Path

import pytest

from common.report import readme

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", *sorted(ROOT.glob("*/README.md")))


def commands(text: str) -> list[list[str]]:
    """Every `python -m ...` and `make ...` of a page, as words, without what is said beside it."""
    lines = re.findall(r"^(?:python -m|make) .*$", text, re.MULTILINE) + re.findall(
        r"`((?:python -m|make) [^`]*)`", text
    )
    return [shlex.split(re.split(r" {3,}| -> ", line)[0]) for line in lines]


NAMED = {tuple(words) for page in PAGES for words in commands(page.read_text())}
MODULES = sorted({words[2] for words in NAMED if words[0] == "python"})


def test_results_on_the_pages_are_up_to_date():
    readme.main(readme.Options(check=True, root=ROOT))


def test_pages_name_the_commands():
    for paper in readme.papers(ROOT):
        assert {f"{paper.name}.{command}" for command in ("train", "search", "reproduce")} <= set(MODULES)
    assert ("make", "reproduce") in NAMED
    assert ("make", "test") in NAMED


@pytest.mark.filterwarnings("ignore:.*found in sys.modules.*:RuntimeWarning")
@pytest.mark.parametrize("module", MODULES)
def test_command_exists_with_the_flags_shown(module, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [module, "--help-all"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__")
    text = capsys.readouterr().out
    assert ended.value.code == 0
    for words in NAMED:
        if words[:3] == ("python", "-m", module):
            for flag in words[3:]:
                assert not flag.startswith("--") or re.search(rf"{flag}\b", text), (flag, words)


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {words[1] for words in NAMED if words[0] == "make"} <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert "://" in target or (page.parent / target).exists(), target
