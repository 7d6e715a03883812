"""A table or figure of a paper: what it needs, what it measures on a seed, how the seeds' numbers are tabled and drawn.

`exhibit.measure(study)` gives one seed's numbers, `make` turns those of all seeds into `exhibits/<name>/`: result.json
(the table, the paper's beside it), measured.json (the numbers seed by seed, from which the claims are judged), and
pictures. Means are over seeds, with 95 % Student-t intervals from two seeds on.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from common.plain import write_json
from common.report.statistics import Difference, mean_interval
from common.report.tables import ExhibitResult, Table, printed, printed_table

Measured = dict[str, Any]
"""One seed's numbers, in a form that fits into JSON.

Two keys have a meaning here. "evidence": what the claims are judged by, name -> number or nested list, of the same
shape for every seed. "missing": what was to be trained and has no result -> why; the exhibit is drawn without it.
"""


class Setting(Protocol):
    """What `Exhibit.draw` is told besides the numbers; a paper's own has more than the folder."""

    @property
    def folder(self) -> Path:
        """Where pictures are written."""


@dataclass(frozen=True)
class Drawn:
    """A drawn exhibit: its table, caption and notes, and the pictures written into the setting's folder."""

    table: Table
    caption: str
    notes: Sequence[str] = ()
    units: Mapping[str, str] = field(default_factory=dict)
    pictures: Sequence[Path] = ()


@dataclass(frozen=True)
class Exhibit:
    """One table or figure of the paper.

    name: "figure5", as in results/paper/<paper>.json; where: "Figure 5"; title: of the page's section; shows: what is
    measured, in a sentence. measure(study) -> one seed's numbers; an `InputError` costs this exhibit and no other.
    draw(numbers of all seeds, setting) -> table and pictures. runs: what is trained for it, each the name of a run
    folder `<what>-s<seed>`. second_runs: the same on the second data set; on the first where no second one is given.
    """

    name: str
    where: str
    title: str
    shows: str
    measure: Callable[[Any], Measured]
    draw: Callable[[Sequence[Measured], Any], Drawn]
    runs: tuple[str, ...] = ()
    second_runs: tuple[str, ...] = ()


def needed(exhibits: Sequence[Exhibit], two_sets: bool = False) -> list[str]:
    """What is trained for some exhibits, once for each data set, in order. two_sets: whether there is a second one."""
    first = dict.fromkeys(what for exhibit in exhibits for what in exhibit.runs)
    second = dict.fromkeys(what for exhibit in exhibits for what in exhibit.second_runs)
    return [*first, *(what for what in second if two_sets or what not in first)]


def make(
    exhibit: Exhibit,
    measured: Mapping[int, Measured],
    setting: Setting,
    *,
    paper: str,
    labels: Mapping[str, str],
    **record: Any,
) -> ExhibitResult:
    """Draw and save one exhibit.

    measured: seed -> numbers. paper: "detofa". labels: what is trained -> its name in notes; without one its own.
    record: data, scale, command, runs, environment, as `ExhibitResult` has them.
    """
    seeds = sorted(measured)
    drawn = exhibit.draw([measured[seed] for seed in seeds], setting)
    left_out = {
        f"{labels.get(what, what)} has no result for seed {seed}: {reason}."
        for seed in seeds
        for what, reason in measured[seed].get("missing", {}).items()
    }
    if len(seeds) == 1 and needed([exhibit]):
        drawn = replace(drawn, notes=(*drawn.notes, "One seed: no interval can be given."))
    theirs = printed(paper)["exhibits"][exhibit.name]
    said = (f"The paper: {theirs['readable']}",) if theirs.get("readable") else ()
    result = ExhibitResult(
        exhibit=exhibit.name,
        paper=paper,
        title=exhibit.title,
        caption=drawn.caption,
        seeds=seeds,
        table=drawn.table,
        paper_table=printed_table(paper, exhibit.name),
        units=drawn.units,
        paper_units=theirs.get("units", {}),
        notes=(*drawn.notes, *sorted(left_out), *said, *theirs.get("notes", ())),
        pictures=[path.name for path in drawn.pictures],
        **record,
    )
    write_json(setting.folder / "measured.json", {str(seed): measured[seed] for seed in seeds})
    result.save(setting.folder)
    return result


# ------------------------------------------------------------------------------------------------------------------
# Numbers of all seeds
# ------------------------------------------------------------------------------------------------------------------


def over_seeds(values: ArrayLike) -> Difference:
    """Mean over seeds with its interval. values: (S,) or (S, ...); seeds with anything not finite are left out."""
    values = np.asarray(values, dtype=float)
    whole = values[np.isfinite(values.reshape(len(values), -1)).all(axis=1)]
    return mean_interval(whole) if len(whole) else Difference(math.nan, math.nan, math.nan, 0)


def stacked(measured: Sequence[Measured], *keys: str) -> np.ndarray:
    """(S, ...) float: the numbers of all seeds under `keys`; NaN for null."""
    found = []
    for numbers in measured:
        for key in keys:
            numbers = numbers[key]
        found.append(numbers)
    return np.array(found, dtype=float)


def in_all(measured: Sequence[Measured], kind: str, names: Sequence[str]) -> list[str]:
    """Those of `names` that every seed has under `kind`."""
    return [name for name in names if all(name in numbers[kind] for numbers in measured)]


def triple(value: Difference) -> tuple[float, float, float]:
    """Mean, low and high, as common.report.figures takes them."""
    return value.mean, value.low, value.high
