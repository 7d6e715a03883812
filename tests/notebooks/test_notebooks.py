"""Notebooks: made of their scripts, executed, thin, and the same again."""

import json
import statistics
import sys

import pytest

from common.plain import InputError
from common.report.readme import papers
from notebooks import build

NAMES = build.names()
# jsonschema, with which notebooks are validated, would make grammars of addresses for seconds: no notebook has any.
sys.modules.setdefault("rfc3987_syntax", None)


def test_every_paper_has_a_notebook():
    assert {paper.name for paper in papers(build.FOLDER.parent)} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_notebook_is_made_of_its_script_thin_and_prints_versions_first(name):
    import nbformat  # here, and not in each process that collects tests: it takes seconds

    made, kept = build.unexecuted(name), nbformat.read(build.FOLDER / f"{name}.ipynb", 4)
    assert [(cell.id, cell.cell_type, cell.source) for cell in kept.cells] == [
        (cell.id, cell.cell_type, cell.source) for cell in made.cells
    ], "run python -m notebooks.build and commit the change"
    nbformat.validate(kept)
    cells = [cell for cell in kept.cells if cell.cell_type == "code"]
    assert sum(bool(cell.outputs) for cell in cells) >= 5  # executed, outputs kept
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]
    assert kept.metadata == made.metadata, "its results have changed: run python -m notebooks.build"
    text = (build.FOLDER / f"{name}.ipynb").read_text()
    assert not any(place in text for place in (str(build.FOLDER.parent), "/tmp/"))  # of one machine
    lines = [sum(bool(line.strip()) for line in cell.source.splitlines()) for cell in cells]
    assert statistics.median(lines) <= 6
    assert "version(" in cells[1].source


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_notebook_runs(name):
    notebook = build.executed(build.unexecuted(name))
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")


def test_a_failing_cell_is_said(monkeypatch):
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    def fails(_):  # what a kernel, which takes seconds to start, answers to 1 / 0
        raise CellExecutionError("ZeroDivisionError: division by zero", "ZeroDivisionError", "division by zero")

    monkeypatch.setattr(NotebookClient, "execute", fails)
    with pytest.raises(InputError, match="a cell of the notebook fails: ZeroDivisionError: division by zero"):
        build.executed(nbformat.v4.new_notebook())


def test_same_script_same_text():
    first, second = (build.text(build.unexecuted(NAMES[0])) for _ in range(2))
    assert first == second
    assert json.loads(first)["cells"][0]["id"] == f"{NAMES[0]}-00"


@pytest.mark.parametrize("name", ["nothing", "build", "../setup"])
def test_an_unknown_name_is_said(name):
    with pytest.raises(InputError, match=f"unknown notebook '{name}': give some of "):
        build.unexecuted(name)
