"""The house style of every picture: colour-blind safe, units on the axes, the same numbers give the same bytes.

Figures are made here and never through pyplot, so that drawing leaves a notebook's own plots and settings alone.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure

DOTS_PER_INCH = 130
COLOURS = seaborn.color_palette("colorblind", 10)
_MARKERS = "osD^vPX*<>"
_LINES = ["-", "--", "-.", ":"]
_STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": "0.3",
    "axes.labelsize": 10,
    "axes.titlesize": 10,
    "font.family": "DejaVu Sans",
    "grid.color": "0.9",
    "xtick.bottom": True,
    "xtick.labelsize": 9,
    "ytick.left": True,
    "ytick.labelsize": 9,
}


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of its own (inches), apart from pyplot's global state."""
    figure, (axes,) = panels(width, height, 1)
    return figure, axes


def panels(width: float, height: float, columns: int) -> tuple[Figure, Sequence[Axes]]:
    """A figure of axes side by side, which share both scales."""
    with seaborn.axes_style("whitegrid", rc=_STYLE), matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")
        row = figure.subplots(1, columns, sharex=True, sharey=True, squeeze=False)[0]
    for axes in row:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, list(row)


def look(label: str, order: Sequence[str]) -> dict:
    """Colour, marker and line of a label by its place in `order`: the same in every picture of one order."""
    place = list(order).index(label) if label in order else len(order)
    return {
        "color": COLOURS[place % len(COLOURS)],
        "marker": _MARKERS[place % len(_MARKERS)],
        "linestyle": _LINES[place % len(_LINES)],
    }


def legend(figure: Figure, axes: Axes) -> None:
    """Above the axes, where it covers no data."""
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        room = figure.get_figwidth() * 11  # characters that fit on a line
        columns = max(1, min(len(labels), int(room / (max(map(len, labels)) + 6))))
        if sum(map(len, labels)) + 6 * len(labels) <= room:
            columns = len(labels)
        figure.legend(handles, labels, loc="outside upper center", ncols=columns, frameon=False, fontsize=9)


def save(figure: Figure, path: Path) -> Path:
    """Write the PNG, atomically, and return its path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    figure.savefig(unfinished, format="png", metadata={"Software": None})  # the same numbers give the same bytes
    os.replace(unfinished, path)
    return path
