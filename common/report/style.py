"""The house style of every picture: colour-blind safe, units on the axes, the same numbers give the same bytes.

Figures are made here and never through pyplot, so that drawing leaves a notebook's own plots and settings alone.
"""

import io
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

DOTS_PER_INCH = 130
COLOURS = (  # seaborn's palette "colorblind"; importing seaborn takes longer than drawing most pictures
    "#0173b2",
    "#de8f05",
    "#029e73",
    "#d55e00",
    "#cc78bc",
    "#ca9161",
    "#fbafe4",
    "#949494",
    "#ece133",
    "#56b4e9",
)
_MARKERS = "osD^vPX*<>"
_LINES = ["-", "--", "-.", ":"]
_STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": "0.3",
    "axes.grid": True,
    "axes.labelsize": 10,
    "axes.titlesize": 10,
    "font.family": "DejaVu Sans",
    "grid.color": "0.9",
    "grid.linestyle": "-",
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
    with matplotlib.rc_context(_STYLE):
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


def png(figure: Figure) -> bytes:
    """The figure as a PNG file; the same numbers give the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
