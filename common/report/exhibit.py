"""A table or figure of a paper: what it measures on a seed, how the seeds' numbers are tabled and drawn, its claims.

`measure(study)` gives one seed's numbers as plain JSON; `draw(numbers of all seeds, setting)` makes a table and
pictures of them. Both results are kept: measured.json, from which the claims are judged, and result.json, from which
tables and pictures are shown again anywhere without the paper's code. Means are over seeds, with 95 % Student-t
intervals from two seeds on.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from common.plain import InputError, from_json, read_json, write_json
from common.report.statistics import Difference, mean_interval
from common.report.tables import Table

if TYPE_CHECKING:
    from common.report.claims import Claim  # to show a record again takes no claim

COCO_NUMBERS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
"""Of the 12 those that tables show."""

Measured = dict[str, Any]
"""One seed's numbers, in a form that fits into JSON.

Three keys have a meaning here. "evidence": what the claims are judged by, name -> number or nested list of the same
shape for every seed, or a function that gives it: what the function uses is then recorded as what the value rests on.
"budget": what each side of a comparison was trained with, side -> {"samples": ..., "cpu_seconds": ...}. "missing": what
was to be trained and has no result -> why; the exhibit is drawn without it.
"""


@dataclass(frozen=True)
class Setting:
    """What an exhibit was measured with, as plain JSON: data, scale, preset, the paper's own options."""

    data: str
    scale: str
    preset: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Picture:
    """A picture as data: name of its file, function of common.report.figures by name, its arguments as plain JSON."""

    name: str
    kind: str
    data: Mapping[str, Any]


@dataclass(frozen=True)
class Drawn:
    """A drawn exhibit: its table, caption and notes, units by column, and its pictures."""

    table: Table
    caption: str
    notes: Sequence[str] = ()
    units: Mapping[str, str] = field(default_factory=dict)
    pictures: Sequence[Picture] = ()

    @classmethod
    def of(
        cls,
        columns: Mapping[str, str],
        rows: Sequence[Sequence[Any]],
        caption: str,
        notes: Sequence[str] = (),
        pictures: Sequence[Picture] = (),
    ) -> "Drawn":
        """columns: name -> unit, which may be empty."""
        units = {name: unit for name, unit in columns.items() if unit}
        return cls(Table(list(columns), rows), caption, notes, units, pictures)


def in_points(share: float | None) -> float:
    """A share of 1 in points; NaN for None, and for the -1 that COCO has where there is nothing to find."""
    return math.nan if share is None or share < 0 else 100 * share


@dataclass(frozen=True)
class Exhibit:
    """One table or figure of the paper.

    name: as in the paper's printed.json: "figure5". shows: what is measured, in a phrase. measure: study -> one seed's
    numbers; an `InputError` costs this exhibit and no other. draw: numbers of all seeds, each with its "seed" -> table
    and pictures. claims: those that this exhibit bears on most; their evidence may come from several. pilot: of what is
    settled before the judged runs: measured only when it is named, on so many seeds from `PILOT_SEED` on. most_seeds:
    of how many seeds it is measured on, the first ones; None means all.
    """

    name: str
    title: str
    shows: str
    measure: Callable[[Any], Measured]
    draw: Callable[[Sequence[Measured], Setting], Drawn]
    claims: "tuple[Claim, ...]" = ()
    pilot: int = 0
    most_seeds: int | None = None


PILOT_SEED = 1000
"""The first of the seeds that nothing is judged by."""


def setting_in_words(data: str, scale: str) -> str:
    """What an exhibit is of; scale: "" where what it compares may be of several."""
    return f"{data}, {scale} scale" if scale else data


def display_name(exhibit: str) -> str:
    """figure5 -> Figure 5."""
    stem = exhibit.rstrip("0123456789")
    return f"{stem} {exhibit[len(stem) :]}".strip().capitalize()


# ---- the record of a drawn exhibit


@dataclass(frozen=True)
class ExhibitResult:
    """One table or figure of a paper, measured and drawn, as it stands in result.json.

    exhibit: its name, "table3". paper: its package, "detofa"; paper_title: as sentences name it, "DetOFA". caption: how
    it was measured. data: short name of the data set. command: what to type to get it again. table: ours; paper_table:
    the printed one, None where the paper prints only a picture. units: column -> unit of ours; paper_units: of the
    printed one, which has ours where it says none. notes: differences from the paper, and what was left out. runs:
    every run that the numbers rest on, pre-training included. environment: commit, versions and hardware of the runs.
    """

    exhibit: str
    paper: str
    title: str
    caption: str
    data: str
    scale: str
    seeds: tuple[int, ...]
    command: str
    table: Table
    paper_title: str = ""
    paper_table: Table | None = None
    units: dict[str, str] = field(default_factory=dict)
    paper_units: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()
    runs: tuple[str, ...] = ()
    environment: dict[str, Any] = field(default_factory=dict)

    @property
    def seeds_in_words(self) -> str:
        """Many in a row by the first and the last."""
        seeds = list(self.seeds)
        if len(seeds) > 10 and seeds == list(range(seeds[0], seeds[-1] + 1)):
            return f"{seeds[0]} to {seeds[-1]}"
        return ", ".join(map(str, seeds))

    def save(self, path: Path) -> Path:
        """Write the record to `path`, atomically."""
        return write_json(path, self)

    @classmethod
    def load(cls, path: Path) -> "ExhibitResult":
        """Read a record; fields that this version does not know are passed over."""
        record = read_json(path)
        if not isinstance(record, Mapping):
            raise InputError(f"{path} is not an exhibit's record: it must hold an object; run its command again")
        known = {item.name for item in fields(cls)}
        record = {name: value for name, value in record.items() if name in known}
        try:
            tables = {name: Table.from_json(record.pop(name, None)) for name in ("table", "paper_table")}
            pictures = [from_json(Picture, each, "pictures") for each in record.pop("pictures", [])]
            sequences = {name: tuple(record.pop(name, ())) for name in ("seeds", "notes", "runs")}
            return cls(**record, **tables, **sequences, pictures=tuple(pictures))
        except (InputError, KeyError, TypeError, AttributeError, ValueError) as error:
            raise InputError(
                f"{path} is not an exhibit's record ({error}); run its command again to write it anew"
            ) from None


def printed(folder: Path) -> dict[str, Any]:
    """Every number that the paper prints, from printed.json in its package."""
    return read_json(folder / "printed.json")


def printed_table(exhibits: Mapping[str, Any], name: str) -> Table | None:
    """The paper's own table for an exhibit of its printed.json; None where it prints only a picture."""
    if name not in exhibits:
        raise InputError(f"printed.json knows no exhibit {name}; it has {', '.join(exhibits)}")
    return Table.from_json(exhibits[name]["printed"])


# ---- numbers of all seeds


def over_seeds(values: ArrayLike) -> Difference:
    """Mean over seeds with its interval. values: (S,) or (S, ...); seeds with anything not finite are left out."""
    values = np.asarray(values, dtype=float)
    whole = values[np.isfinite(values.reshape(len(values), -1)).all(axis=1)]
    return mean_interval(whole) if len(whole) else Difference(math.nan, math.nan, math.nan, 0)


def stacked(measured: Sequence[Measured], *keys: str) -> np.ndarray:
    """(S, ...) float: the numbers of all seeds under `keys`; NaN for null."""
    return np.array([reduce(getitem, keys, numbers) for numbers in measured], dtype=float)


def in_all(measured: Sequence[Measured], kind: str, names: Sequence[str]) -> list[str]:
    """Those of `names` that every seed has under `kind`."""
    return [name for name in names if all(name in numbers[kind] for numbers in measured)]


def triple(value: Difference) -> tuple[float, float, float]:
    """Mean, low and high, as common.report.figures takes them."""
    return value.mean, value.low, value.high
