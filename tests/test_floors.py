"""The floors of the house: what may import what, and how long a method may be."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAPERS = ("detofa", "joint_detnas", "sm_nas")
FOLDERS = [folder for folder in ("common", *PAPERS) if (ROOT / folder).is_dir()]


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


def _contracts() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]


def test_the_contracts_are_kept():
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(_contracts()['contracts'])} kept, 0 broken" in done.stdout


def test_the_contracts_name_the_papers_the_core_and_the_report():
    settings = _contracts()
    assert {"benchmarks", *FOLDERS} == set(settings["root_packages"])
    layers = [contract["layers"] for contract in settings["contracts"] if contract["type"] == "layers"]
    assert ["benchmarks", "detofa | sm_nas | joint_detnas", "common"] in layers
    inside = next(floors for floors in layers if all(floor.startswith("common.") for floor in floors))
    order = ["common.reproduce", "common.search", "common.train", "common.evaluate"]
    assert [floor for floor in inside if floor in order] == order
    forbidden = [contract for contract in settings["contracts"] if contract["type"] == "forbidden"]
    report = next(contract for contract in forbidden if contract["source_modules"] == ["common.report"])
    parts = {"models", "data", "train", "search", "reproduce", "evaluate", "cost"}
    assert {f"common.{part}" for part in parts} <= set(report["forbidden_modules"])


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_folder_knows_a_paper_but_itself(folder):
    files = list((ROOT / folder).rglob("*.py"))
    assert files
    foreign = {paper for paper in PAPERS if paper != folder}
    for file in files:
        assert not {name.split(".")[0] for name in _imports(file)} & foreign, file


def test_the_report_reads_run_folders_only():
    heavy = {"torch", "torchvision", "hotcoco", "pycocotools"}
    for file in (ROOT / "common" / "report").glob("*.py"):
        assert not {name.split(".")[0] for name in _imports(file)} & heavy, file


@pytest.mark.parametrize("paper", [paper for paper in FOLDERS if paper in PAPERS])
def test_a_method_can_be_read_in_one_sitting(paper):
    method = ROOT / paper / "method.py"
    if method.is_file():
        assert len(method.read_text().splitlines()) <= 700
