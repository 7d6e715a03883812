"""An exhibit's record as HTML, for the page and for notebooks: redrawn from its data alone."""

import base64
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from html import escape
from pathlib import Path

from common.plain import InputError
from common.report.exhibit import ExhibitResult, Picture, display_name
from common.report.figures import render
from common.report.tables import html_table, side_by_side

_FEW_PICTURES = 6  # starting processes takes longer than drawing so many


class Shown:
    """A record that a notebook displays: its tables, pictures, caption and notes, as on the page."""

    def __init__(self, result: ExhibitResult) -> None:
        self.result = result

    def _repr_html_(self) -> str:
        return card(self.result, drawn(self.result.pictures))


def drawn(pictures: Sequence[Picture]) -> dict[int, bytes | str]:
    """Each picture (by its identity) as PNG, or the sentence that says why it cannot be drawn; on all cores."""
    if len(pictures) <= _FEW_PICTURES or (os.cpu_count() or 1) == 1:
        files = list(map(_rendered, pictures))
    else:
        with ProcessPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
            files = list(pool.map(_rendered, pictures))
    return {id(picture): file for picture, file in zip(pictures, files, strict=True)}


def _rendered(picture: Picture) -> bytes | str:
    try:
        return render(picture)
    except InputError as error:
        return str(error)


def card(result: ExhibitResult, pictures: Mapping[int, bytes | str], root: Path | None = None) -> str:
    """One exhibit in HTML: caption, pictures, tables, notes, seeds and command. pictures: see `drawn`."""
    tables = "\n".join(
        f'<figure class="table"><figcaption>{escape(name)}</figcaption>'
        f"{html_table(heads, [[escape(cell) for cell in row] for row in rows])}</figure>"
        for name, heads, rows in side_by_side(result.table, result.paper_table, result.units, result.paper_units)
    )
    notes = "".join(f"<li>{escape(note)}</li>" for note in result.notes)
    title = escape(f"{display_name(result.exhibit)}: {result.title}")
    return (
        "<article>"
        + (f'<p class="root">{escape(str(root))}</p>' if root else "")
        + f"<h4>{title}</h4><p>{escape(result.caption)}</p>"
        + "\n".join(_image(pictures[id(picture)], title) for picture in result.pictures)
        + f'<div class="tables">{tables}</div>'
        + (f'<ul class="notes">{notes}</ul>' if notes else "")
        + f'<p class="made">Seeds: {", ".join(map(str, result.seeds)) or "none"}. '
        f"<code>{escape(result.command)}</code></p></article>"
    )


def _image(file: bytes | str, title: str) -> str:
    if isinstance(file, str):
        return f'<p class="missing">{escape(file)}.</p>'
    return f'<img src="data:image/png;base64,{base64.b64encode(file).decode()}" alt="{title}">'
