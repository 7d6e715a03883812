"""A frame of the page, such as an exhibit's, drawn from its record alone; notebooks show one, too."""

import base64
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from html import escape
from itertools import islice
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from common.plain import InputError, cores
from common.report.exhibit import ExhibitResult, Picture, display_name, setting_in_words
from common.report.figures import render, render_svg
from common.report.tables import side_by_side

_Form = Callable[[Picture, str], str]  # a picture, with the title of its card, as HTML
TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)
TEMPLATES.filters["json"] = json.dumps
_FEW_NAMES = 6
_FEW_PICTURES = 6  # starting processes takes longer than drawing so many


@dataclass
class Card:
    """What stands in one frame.

    short: its title among the contents. made: a sentence on its seeds, "" for a run. tables: name, heads and rows as
    text. about: name -> text, what a mark of its pictures was made by. anchor, claims, root: where it stands on the
    page, what it bears on, and the folder it was found under. images: whole pictures as HTML.
    """

    title: str
    short: str
    caption: str
    made: str
    command: str
    pictures: Sequence[Picture] = ()
    tables: Sequence[tuple[str, Sequence[str], Sequence[Sequence[str]]]] = ()
    notes: Sequence[str] = ()
    about: dict[str, str] = field(default_factory=dict)
    anchor: str = ""
    claims: list[dict[str, Any]] = field(default_factory=list)
    root: str = ""
    images: Sequence[str] = ()


def card_of(result: ExhibitResult) -> Card:
    """The card of a table or figure."""
    name, seeds = display_name(result.exhibit), result.seeds_in_words or "none"
    about = {
        "Exhibit": f"{result.paper_title or result.paper}, {name}, {setting_in_words(result.data, result.scale)}",
        "Seeds": seeds,
        "Runs": _few(result.runs),
        "Command": result.command,
    }
    return Card(
        title=f"{name}: {result.title}",
        short=name,
        caption=result.caption,
        made=f"Seeds: {seeds}.",
        command=result.command,
        pictures=result.pictures,
        tables=side_by_side(result.table, result.paper_table, result.units, result.paper_units),
        notes=result.notes,
        about={key: text for key, text in about.items() if text},
    )


def _few(names: Sequence[str]) -> str:
    """The first of some names, and how many there are when not all are said."""
    said = ", ".join(names[:_FEW_NAMES])
    return said if len(names) <= _FEW_NAMES else f"{said}, … ({len(names)} in all)"


class Shown:
    """A record that a notebook displays: its tables, pictures, caption and notes, as on the page."""

    def __init__(self, result: ExhibitResult) -> None:
        self.result = result

    def _repr_html_(self) -> str:
        card = card_of(self.result)
        card.about = {}
        draw([card], _as_image)
        return str(TEMPLATES.get_template("parts.html").module.card(card))


def _as_image(picture: Picture, title: str) -> str:
    return image(render(picture), "png", title)


def image(file: bytes, form: str, title: str) -> str:
    """A picture's file inside a page. form: "png" or "jpeg"."""
    return f'<img src="data:image/{form};base64,{base64.b64encode(file).decode()}" alt="{escape(title)}">'


def draw(cards: Sequence[Card], form: _Form = render_svg) -> None:
    """Put the pictures of some cards among their images, or the sentence that says why one cannot be drawn; on all
    cores."""
    jobs = [(form, picture, card.title) for card in cards for picture in card.pictures]
    if len(jobs) <= _FEW_PICTURES or cores() == 1:
        found = map(_drawn, jobs)
    else:
        with ProcessPoolExecutor(min(cores(), 8)) as pool:
            found = iter(list(pool.map(_drawn, jobs, chunksize=4)))
    for card in cards:
        card.images = [*islice(found, len(card.pictures)), *card.images]


def _drawn(job: tuple[_Form, Picture, str]) -> str:
    form, picture, title = job
    try:
        return form(picture, title)
    except InputError as error:
        return f'<p class="missing">{escape(str(error))}.</p>'
