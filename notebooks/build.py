"""Notebooks from their percent scripts: python -m notebooks.build [NAME ...]

NAME.py is the source, which is edited; NAME.ipynb is made of it and executed, with its outputs kept. Cell ids are fixed
and no time is recorded, so that building again gives no difference where the results are the same.
"""

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from common.cli import run
from common.plain import InputError, write_atomically

if TYPE_CHECKING:  # Jupyter's packages take seconds
    from nbformat import NotebookNode

FOLDER = Path(__file__).resolve().parent
KERNEL = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
TIMEOUT = 600  # seconds a cell


@dataclass(frozen=True)
class Options:
    """Make the notebooks from their scripts and execute them."""

    names: Positional[tuple[str, ...]] = ()
    """Names of notebooks, such as detofa (default: all)."""


def main(options: Options) -> None:
    for name in options.names or names():
        write_atomically(FOLDER / f"{name}.ipynb", text(executed(unexecuted(name))).encode())
        print(f"wrote {name}.ipynb", file=sys.stderr)


def names() -> tuple[str, ...]:
    """Every notebook that has a script."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "build"))


def unexecuted(name: str) -> "NotebookNode":
    """The notebook that NAME.py describes, without outputs."""
    import jupytext
    from nbformat import NotebookNode, from_dict

    if name not in names():
        raise InputError(f"unknown notebook {name!r}: give some of {', '.join(names())}")
    notebook = jupytext.read(FOLDER / f"{name}.py", fmt="py:percent")
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"{name}-{number:02d}", NotebookNode()
    notebook.metadata = from_dict(KERNEL | {"results": _results_of(name)})
    return notebook


def _results_of(name: str) -> str:
    """A digest of the committed results that it shows, and of the note on them: where they have changed, its outputs
    are old."""
    digest = hashlib.sha256()
    folder = FOLDER.parent / "results" / "nano" / name
    for file in sorted((*folder.glob("*.json"), *folder.glob("note.md"))):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def executed(notebook: "NotebookNode") -> "NotebookNode":
    """The notebook with its outputs; `InputError` where a cell fails."""
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError
    from nbformat import from_dict

    metadata = from_dict(notebook.metadata)  # the kernel adds its own version
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT,
        record_timing=False,
        coalesce_streams=True,  # else how many pieces a text comes in depends on the machine's load
        resources={"metadata": {"path": str(FOLDER)}},
    )
    try:
        client.execute()
    except CellExecutionError as error:
        raise InputError(f"a cell of the notebook fails: {error.ename}: {error.evalue}") from error
    notebook.metadata = metadata
    return notebook


def text(notebook: "NotebookNode") -> str:
    """The .ipynb file."""
    import nbformat

    return nbformat.writes(notebook, version=4).rstrip("\n") + "\n"


if __name__ == "__main__":
    run(main, Options)
