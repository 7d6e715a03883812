"""What may import what, what an installation must bring for it, and that a paper's method is in one file."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAPERS = sorted(path.parent.name for path in ROOT.glob("*/printed.json"))  # found, not listed
IMPORTED_AS = {"pillow": "PIL", "pyyaml": "yaml", "docstring-parser": "docstring_parser"}


def _imported(folder: Path) -> set[str]:
    """The packages that the files under a folder import, wherever in them."""
    names = set()
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module)
    return {name.partition(".")[0] for name in names}


def test_the_contracts_are_kept():
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 kept, 0 broken" in done.stdout


def test_the_contracts_are_about_every_paper():
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    papers = known["contracts"][0]["layers"][1].split(" | ")  # "|": none of them imports another
    assert sorted(papers) == PAPERS
    assert len(PAPERS) >= 3
    assert set(known["root_packages"]) == {"benchmarks", "common", *PAPERS}


def test_the_report_needs_no_torch():
    assert not _imported(ROOT / "common" / "report") & {"torch", "torchvision", "hotcoco", "pycocotools"}


def test_an_installation_needs_what_is_imported_and_nothing_else():
    first, *others = re.split(r"^# extra: (\w+)$", (ROOT / "requirements.txt").read_text(), flags=re.M)
    names = [set(re.findall(r"^[a-z][\w-]*", text, re.M)) for text in (first, *others[1::2])]
    always, extras = {IMPORTED_AS.get(name, name) for name in names[0]}, dict(zip(others[::2], names[1:], strict=True))
    imported = set().union(*(_imported(ROOT / folder) for folder in ("common", *PAPERS)))
    assert always <= imported
    assert imported - {*sys.stdlib_module_names, "common", *PAPERS} <= always | extras["export"] | {"ray"}


@pytest.mark.parametrize("paper", PAPERS)
def test_what_a_method_names_in_its_header_stands_in_it_in_that_order(paper):
    """The header's table maps sections, equations, algorithms and tables of the paper to what stands for them."""
    tree = ast.parse((ROOT / paper / "method.py").read_text())
    defined = {}
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [node]
        names = [each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)]
        names = [node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else names
        defined |= {name: node.lineno for name in names if name not in defined}
    rows = re.findall(r"^    (?!python)(.*\S)  +(\S.*)$", ast.get_docstring(tree, clean=False), re.MULTILINE)
    named = [re.split("[,;] *", names) for _, names in rows]
    assert len(named) >= 5
    assert [name for names in named for name in names if name not in defined] == []
    assert re.search(r"Algorithm", " ".join(place for place, _ in rows))
    places = [min(defined[name] for name in names) for names in named]
    assert places == sorted(places)


@pytest.mark.parametrize("paper", PAPERS)
def test_every_verdict_has_its_level_and_six_seeds(paper):
    """Only what trains nothing, or judges costs alone, goes without the AP of its networks."""
    claims = importlib.import_module(f"{paper}.exhibits").PAPER.claims
    assert {claim.id for claim in claims if claim.level is None} <= {"DO-12", "SM-9"}
    assert all(claim.seeds >= 6 for claim in claims)
