"""Tables of text and numbers with their intervals, ours beside the paper's, as text or markdown."""

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.plain import InputError
from common.report.statistics import Difference

Cell = str | bool | int | float | Difference | None


@dataclass(frozen=True)
class Table:
    """Columns and rows. A cell is text, yes or no, a number, a number with its interval (`Difference`), or nothing."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    def __post_init__(self):
        object.__setattr__(self, "columns", tuple(self.columns))
        object.__setattr__(self, "rows", tuple(tuple(map(_cell, row)) for row in self.rows))
        for number, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise InputError(
                    f"row {number} of the table has {len(row)} cells, and there are {len(self.columns)} columns"
                )

    @classmethod
    def from_json(cls, value: Any) -> "Table | None":
        return None if value is None else cls(value["columns"], value["rows"])


def _cell(value: Any) -> Cell:
    if isinstance(value, Mapping):
        if "mean" not in value:
            raise KeyError("mean")
        ends = (math.nan if value.get(side) is None else float(value[side]) for side in ("mean", "low", "high"))
        return Difference(*ends, int(value.get("n", 0)))
    return value.item() if isinstance(value, np.generic) else value


def format_measured(value: Difference) -> str:
    """ "0.853 ± 0.012": two significant digits of the half-interval. A lopsided interval is written out."""
    if not math.isfinite(value.mean):
        return "–"
    if not value.has_interval:
        return _fixed(value.mean, _decimals_for(value.mean))
    agree = value.half <= 1e-9 * abs(value.mean)  # the seeds do, but for the rounding of their mean
    decimals = _decimals_for(value.mean) if agree else _decimals_for(value.half, significant=2)
    if agree or abs((value.high - value.mean) - value.half) <= 0.05 * value.half:
        return f"{_fixed(value.mean, decimals)} ± {_fixed(value.half, decimals)}"
    low, high = _fixed(value.low, decimals), _fixed(value.high, decimals)
    return f"{_fixed(value.mean, decimals)} [{low}, {high}]"


def _decimals_for(value: float, significant: int = 4) -> int:
    if not value:
        return 0
    return min(max(significant - 1 - math.floor(math.log10(abs(value))), 0), 8)


def _fixed(value: float, decimals: int) -> str:
    text = f"{value:.{decimals}f}".replace("-", "−")
    return text[1:] if text.startswith("−") and not text.strip("−0.") else text  # no minus before a zero


def _format_column(cells: Sequence[Cell], as_printed: bool) -> list[str]:
    """One column as text: the same number of decimals throughout, and no more than its numbers need.

    as_printed: as many as they need, too, and not only as many as the largest has of four digits.
    """
    numbers = [cell for cell in cells if isinstance(cell, float) and math.isfinite(cell)]
    huge = any(abs(number) >= 1e7 or 0 < abs(number) < 1e-4 for number in numbers)
    allowed = 8 if as_printed else _decimals_for(max(map(abs, numbers), default=0.0))
    shortest = max((len(f"{number:.{allowed}f}".rstrip("0").partition(".")[2]) for number in numbers), default=0)

    def text(cell: Cell) -> str:
        if cell is None or (isinstance(cell, float) and not math.isfinite(cell)):
            return "–"
        if isinstance(cell, bool):
            return "✓" if cell else "—"
        if isinstance(cell, Difference):
            return format_measured(cell)
        if isinstance(cell, int):
            return f"{cell:,}" if abs(cell) < 10**12 else f"{cell:.4g}"
        if isinstance(cell, float):
            return f"{cell:.4g}" if huge else _fixed(cell, shortest)
        return cell

    return list(map(text, cells))


def as_text(
    table: Table, units: Mapping[str, str], as_printed: Container[str] = ()
) -> tuple[list[str], list[list[str]]]:
    """Heads, each with its column's unit, and rows, with every cell as text. as_printed: columns whose numbers keep all
    of their digits.
    """
    heads = [f"{column} ({units[column]})" if units.get(column) else column for column in table.columns]
    columns = [
        _format_column([row[place] for row in table.rows], column in as_printed)
        for place, column in enumerate(table.columns)
    ]
    return heads, [list(row) for row in zip(*columns, strict=True)]


def beside(ours: Table, paper: Table) -> Table | None:
    """One table with ours next to the paper's in each shared column; None where the two do not line up.

    They line up when both open with the same columns of text, naming each row once, and share a measured column.
    A row or column that only one of them has stays, with nothing in the other's place.
    """
    labels = []
    for column, other in zip(ours.columns, paper.columns, strict=False):
        place = len(labels)
        cells = [row[place] for row in (*ours.rows, *paper.rows)]
        if column != other or not all(cell is None or isinstance(cell, str | bool) for cell in cells):
            break
        labels.append(column)
    width = len(labels)
    ours_by_label = {row[:width]: dict(zip(ours.columns, row, strict=True)) for row in ours.rows}
    paper_by_label = {row[:width]: dict(zip(paper.columns, row, strict=True)) for row in paper.rows}
    measured = [*ours.columns[width:], *(column for column in paper.columns[width:] if column not in ours.columns)]
    unique = len(ours_by_label) == len(ours.rows) and len(paper_by_label) == len(paper.rows)
    shared = set(ours.columns[width:]) & set(paper.columns[width:])
    if not width or not unique or not shared or not ours_by_label.keys() & paper_by_label.keys():
        return None
    both = (("ours", ours, ours_by_label), ("paper", paper, paper_by_label))
    sides = [(column, *side) for column in measured for side in both if column in side[1].columns]
    rows = [
        [*label, *(by_label.get(label, {}).get(column) for column, _, _, by_label in sides)]
        for label in dict.fromkeys([*ours_by_label, *paper_by_label])
    ]
    return Table([*labels, *(f"{column}, {whose}" for column, whose, _, _ in sides)], rows)


def side_by_side(
    ours: Table, paper: Table | None, units: Mapping[str, str], paper_units: Mapping[str, str]
) -> list[tuple[str, list[str], list[list[str]]]]:
    """The tables to show, name, heads and rows as text: one with both where they line up, else ours and the paper's.

    units: column -> unit; paper_units: those in which the paper differs.
    """
    theirs = {**units, **paper_units}
    if paper and (joined := beside(ours, paper)):
        sides = (("ours", units), ("paper", theirs))
        named = {f"{column}, {whose}": unit for whose, known in sides for column, unit in known.items()}
        of_the_paper = [column for column in joined.columns if column.endswith(", paper")]
        return [("Ours beside the paper's", *as_text(joined, named | dict(units), of_the_paper))]
    parts = [("Ours", *as_text(ours, units))] if ours.rows else []
    return [*parts, ("The paper's", *as_text(paper, theirs, paper.columns))] if paper else parts


def plain_markdown(text: str) -> str:
    """Text that markdown shows as it stands."""
    return text.replace("*", "\\*").replace("<", "&lt;")


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in markdown, of cells as text; a line end in a cell stays one."""
    lines = [
        [plain_markdown(cell).replace("|", "\\|").replace("\n", "<br>") for cell in line] for line in (heads, *rows)
    ]
    lines.insert(1, ["---"] * len(heads))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
