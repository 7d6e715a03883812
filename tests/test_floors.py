"""The floors of the house: what may import what, and that a paper's method is in one file."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAPERS = sorted(path.parent.name for path in ROOT.glob("*/printed.json"))  # found, not listed
FOLDERS = ["common", *PAPERS]


def _imports(file: Path) -> set[str]:
    """The dotted names that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports hide what is imported"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return names


def test_the_contracts_are_kept():
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 kept, 0 broken" in done.stdout


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_folder_knows_a_paper_but_itself(folder):
    assert len(PAPERS) >= 3
    foreign = {paper for paper in PAPERS if paper != folder}
    for file in (ROOT / folder).rglob("*.py"):
        assert not {name.split(".")[0] for name in _imports(file)} & foreign, file


def test_the_report_needs_no_torch():
    heavy = {"torch", "torchvision", "hotcoco", "pycocotools"}
    for file in (ROOT / "common" / "report").glob("*.py"):
        assert not {name.split(".")[0] for name in _imports(file)} & heavy, file


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
