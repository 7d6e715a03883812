"""Pictures for the exhibits, in one house style: colour-blind safe, units on the axes, small PNG files.

Each function takes plain numbers, as JSON holds them, and returns a figure; null is a number that is missing. A picture
says what is drawn and never what it shows: the caption and the claims do that. Figures are made apart from pyplot, so
that drawing leaves a notebook's own plots and settings alone.
"""

import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import matplotlib
import matplotlib.patheffects
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullLocator, StrMethodFormatter
from numpy.typing import ArrayLike
from PIL import Image

from common.plain import InputError, to_json
from common.report.exhibit import Picture

Points = Sequence[tuple[float, float]]  # (cost, accuracy)
_ANGLES = np.deg2rad([135, 45, 90, 315, 225, 0, 180, 270, 160, 110, 70, 20, 340, 290, 250, 200])
_DISTANCES = (1, 6, 14, 24, 36, 52)  # pixels between a point's mark and its name
DOTS_PER_INCH = 130
COLOURS = (  # seaborn's palette "colorblind"
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


# ------------------------------------------------------------------------------------------------------------------
# The house style
# ------------------------------------------------------------------------------------------------------------------


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


def look_of(label: str, order: Sequence[str]) -> dict:
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


# ------------------------------------------------------------------------------------------------------------------
# Tables as pictures: lines, points, bars, maps
# ------------------------------------------------------------------------------------------------------------------


def accuracy_against_cost(
    series: Mapping[str, Sequence[tuple[float, float, float, float]]],
    *,
    cost_label: str = "Cost (GMACs)",
    accuracy_label: str = "AP (points)",
    references: Mapping[str, tuple[float, float]] | None = None,
    order: Sequence[str] | None = None,
) -> Figure:
    """Lines of accuracy over cost with bands. series: label -> [(cost, mean, low, high), ...].

    references: single points, label -> (cost, accuracy). order: all the labels that the paper's pictures share, so
    that a method keeps its colour from one picture to the next. low and high may be NaN: no band there.
    """
    figure, axes = canvas(6.0, 4.0)
    for label, points in series.items():
        look = look_of(label, order or list(series))
        cost, mean, low, high = np.array(sorted(points), dtype=float).reshape(-1, 4).T
        axes.plot(cost, mean, label=label, markersize=5, linewidth=1.6, **look)
        axes.fill_between(cost, low, high, color=look["color"], alpha=0.15, linewidth=0)
    for label, (cost, accuracy) in (references or {}).items():
        axes.plot([cost], [accuracy], "*", color="black", markersize=11, label=label)
    axes.set(xlabel=cost_label, ylabel=accuracy_label)
    legend(figure, axes)
    return figure


def scatter_by_bucket(
    points: Mapping[str, Sequence[tuple[float, float]]],
    edges: Sequence[float],
    *,
    cost_label: str = "Cost (GMACs)",
    accuracy_label: str = "AP (points)",
    order: Sequence[str] | None = None,
) -> Figure:
    """Sampled paths, accuracy over cost, coloured by method. points: label -> [(cost, accuracy), ...].

    edges: (buckets + 1,) bucket edges in units of cost, drawn as thin lines; a short bar marks each method's mean
    inside each bucket.
    """
    figure, axes = canvas(6.0, 4.0)
    edges = np.asarray(edges, dtype=float)
    for edge in edges:
        axes.axvline(edge, color="0.75", linewidth=0.8, zorder=0)
    for label, pairs in points.items():
        look = look_of(label, order or list(points))
        cost, accuracy = np.array(pairs, dtype=float).reshape(-1, 2).T
        axes.scatter(
            cost, accuracy, s=16, alpha=0.6, linewidth=0, label=label, color=look["color"], marker=look["marker"]
        )
        bucket = np.clip(np.searchsorted(edges, cost, side="right") - 1, 0, len(edges) - 2)
        for place in np.unique(bucket):
            margin = 0.08 * (edges[place + 1] - edges[place])
            mean = accuracy[bucket == place].mean()
            axes.hlines(mean, edges[place] + margin, edges[place + 1] - margin, color=look["color"], linewidth=2)
    axes.set(xlabel=cost_label, ylabel=accuracy_label)
    legend(figure, axes)
    return figure


def bars(
    groups: Mapping[str, Mapping[str, tuple[float, float, float]]],
    *,
    value_label: str,
    group_label: str = "",
    order: Sequence[str] | None = None,
    from_zero: bool = True,
) -> Figure:
    """Grouped bars with intervals. groups: group -> {label: (mean, low, high)}; NaN for an interval that is not there.

    from_zero=False draws points instead of bars, for values whose distance from zero says nothing.
    """
    labels = list(dict.fromkeys(label for values in groups.values() for label in values))
    figure, axes = canvas(max(4.5, 1.2 + 0.35 * len(labels) * len(groups) + 0.4 * len(groups)), 3.6)
    width = 0.8 / max(len(labels), 1)
    for place, label in enumerate(labels):
        look = look_of(label, order or labels)
        present = [number for number, values in enumerate(groups.values()) if label in values]
        mean, low, high = np.array([values[label] for values in groups.values() if label in values], dtype=float).T
        where = np.array(present) + (place - (len(labels) - 1) / 2) * width
        error = np.nan_to_num(np.clip([mean - low, high - mean], 0, None))
        if from_zero:
            axes.bar(where, mean, width * 0.92, label=label, color=look["color"])
            axes.errorbar(where, mean, error, fmt="none", ecolor="0.2", elinewidth=1, capsize=2.5)
        else:
            axes.errorbar(where, mean, error, fmt=look["marker"], color=look["color"], capsize=2.5, label=label)
    if not from_zero:
        axes.set_xlim(-0.6, len(groups) - 0.4)
    axes.set_xticks(range(len(groups)), list(groups))
    if max((len(name) for name in groups), default=0) > 14:
        axes.tick_params(axis="x", rotation=20)
    axes.grid(visible=False, axis="x")
    axes.set(xlabel=group_label, ylabel=value_label)
    if len(labels) > 1:
        legend(figure, axes)
    return figure


def heat_map(
    values: ArrayLike,
    *,
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    value_label: str,
    row_label: str = "Layer",
    column_label: str = "Operation",
    limits: tuple[float, float] | None = None,
) -> Figure:
    """Operation scores, layer by operation. values: (layers, operations), NaN where there is no such operation.

    limits: (lowest, highest) of the colour scale, for pictures that are to be compared.
    """
    values = np.ma.masked_invalid(np.asarray(values, dtype=float))
    rows, columns = values.shape
    figure, axes = canvas(2.0 + 0.55 * columns, 1.2 + 0.24 * rows)
    low, high = limits or (None, None)
    mesh = axes.pcolormesh(values, cmap="cividis", vmin=low, vmax=high)
    figure.colorbar(mesh, ax=axes, label=value_label)
    if values.size <= 250:
        for (row, column), value in np.ma.ndenumerate(values):
            colour = "white" if mesh.norm(value) < 0.55 else "0.1"  # cividis runs from dark to light
            axes.text(column + 0.5, row + 0.5, f"{value:.2f}", color=colour, ha="center", va="center", fontsize=7)
    axes.set_xticks(np.arange(columns) + 0.5, list(column_labels))
    axes.set_yticks(np.arange(rows) + 0.5, list(row_labels))
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.set_facecolor("0.93")
    axes.tick_params(axis="x", rotation=40 if max(map(len, column_labels), default=0) > 5 else 0)
    axes.tick_params(axis="y", rotation=0)
    axes.set(xlabel=column_label, ylabel=row_label)
    return figure


def correlations(
    values: Mapping[str, Mapping[str, tuple[float, float, float]]],
    *,
    value_label: str = "Correlation with AP",
    factor_label: str = "",
) -> Figure:
    """Horizontal bars of coefficients, one panel a group. values: panel -> {factor: (mean, low, high)}.

    All panels share the factors' order (that of their first appearance) and the scale. NaN for an interval that is not
    there; a factor without a coefficient in a panel has no bar there.
    """
    factors = list(dict.fromkeys(factor for group in values.values() for factor in group))
    figure, row = panels(1.2 + 2.7 * max(len(values), 1), 1.2 + 0.28 * len(factors), max(len(values), 1))
    numbers = [number for group in values.values() for triple in group.values() for number in triple]
    reach = np.nanmax(np.abs(np.array([*numbers, 0.1], dtype=float)))
    for axes, (panel, group) in zip(row, values.items(), strict=False):
        where = np.array([factors.index(factor) for factor in group], dtype=float)
        mean, low, high = np.array(list(group.values()), dtype=float).reshape(-1, 3).T
        error = np.clip([mean - low, high - mean], 0, None)  # NaN: nothing is drawn
        colours = [COLOURS[0] if value >= 0 else COLOURS[1] for value in mean]
        axes.barh(where, mean, 0.7, color=colours)
        axes.errorbar(mean, where, xerr=error, fmt="none", ecolor="0.2", elinewidth=1, capsize=2.5)
        axes.axvline(0, color="0.3", linewidth=0.9)
        axes.set(xlabel=value_label)
        axes.set_title(panel, fontsize=10)
        axes.grid(visible=False, axis="y")
    row[0].set_yticks(range(len(factors)), factors)
    row[0].set(ylabel=factor_label, xlim=(-min(1.08 * reach, 1), min(1.08 * reach, 1)))
    row[0].set_ylim(len(factors) - 0.4, -0.6)
    row[0].xaxis.set_major_locator(MaxNLocator(5, prune="both"))  # the ends of two panels would touch
    return figure


# ------------------------------------------------------------------------------------------------------------------
# Searches: candidates and fronts, how far several runs got, and how soon. Costs are to be small, accuracies large; a
# candidate of which one is not finite (a failed one) is not drawn.
# ------------------------------------------------------------------------------------------------------------------


def fronts(
    points: Mapping[str, Points],
    *,
    cost_label: str = "Cost (GMACs)",
    accuracy_label: str = "AP (points)",
    with_front: Sequence[str] = (),
    whole_front: bool = False,
    highlighted: Mapping[str, tuple[float, float]] | None = None,
    references: Mapping[str, tuple[float, float]] | None = None,
    order: Sequence[str] | None = None,
    log_cost: bool = False,
) -> Figure:
    """All candidates with their Pareto fronts as staircases. points: label -> [(cost, accuracy), ...].

    with_front: the labels whose own front is drawn; whole_front: one front over the candidates of all labels.
    highlighted: named candidates, ringed; references: named points of others, as stars; both name -> (cost, accuracy).
    order: all the labels that the paper's pictures share, so that each keeps its colour.
    """
    figure, axes = canvas(6.4, 4.4)
    clouds = {label: _finite(pairs) for label, pairs in points.items()}
    named = {"highlighted": highlighted or {}, "references": references or {}}
    everything = np.concatenate(
        [np.empty((0, 2)), *clouds.values(), *(_finite(one.values()) for one in named.values())]
    )
    right = everything[:, 0].max(initial=-np.inf)
    drawn = [everything]
    for label, cloud in clouds.items():
        look = look_of(label, order or list(points))
        dots = {"color": look["color"], "marker": look["marker"]}
        axes.scatter(*cloud.T, s=15, alpha=0.5, linewidth=0, **dots)
        line = "-" if label in with_front else "none"
        axes.plot([], [], linestyle=line, markersize=5, linewidth=1.7, label=label, **dots)  # for the legend only
        if label in with_front:
            corners = _front(cloud)
            axes.scatter(*corners.T, s=24, edgecolor="white", linewidth=0.5, zorder=4, **dots)
            drawn.append(_staircase(axes, corners, right, color=look["color"], linewidth=1.7, zorder=3))
    if whole_front:
        corners = _front(np.concatenate([np.empty((0, 2)), *clouds.values()]))
        drawn.append(_staircase(axes, corners, right, color="0.2", linewidth=1.3, zorder=3, label="Front of all"))
    axes.scatter(
        *_finite(named["highlighted"].values()).T, s=70, facecolor="none", edgecolor="black", linewidth=1.3, zorder=5
    )
    axes.scatter(*_finite(named["references"].values()).T, s=75, marker="*", color="black", linewidth=0, zorder=5)
    axes.set(xlabel=cost_label, ylabel=accuracy_label)
    if log_cost:
        _log_scale(axes)
    legend(figure, axes)
    _write_names(figure, axes, named["highlighted"] | named["references"], drawn)
    return figure


def attainment_bands(
    bands: Mapping[str, Mapping[float, ArrayLike]],
    *,
    cost_label: str = "Cost (GMACs)",
    accuracy_label: str = "AP (points)",
    points: Mapping[str, Points] | None = None,
    order: Sequence[str] | None = None,
    log_cost: bool = False,
) -> Figure:
    """How far the runs of each method got: a median staircase inside a band.

    bands: label -> {percentile: (F, 2) corners (cost, accuracy) from the cheapest on}, the front that at least so many
    % of the runs reached. The line is the middle percentile, the band lies between the lowest and the highest. Where
    the highest has not begun (some runs have nothing that cheap) the band reaches down to the axis.
    points: single candidates for the background, by the same labels.
    """
    figure, axes = canvas(6.4, 4.2)
    bands = {label: {float(key): corners for key, corners in band.items()} for label, band in bands.items()}
    surfaces = {label: {key: _finite(band[key]) for key in sorted(band)} for label, band in bands.items()}
    clouds = {label: _finite(pairs) for label, pairs in (points or {}).items()}
    corners = [corners for band in surfaces.values() for corners in band.values()]
    everything = np.concatenate([np.empty((0, 2)), *clouds.values(), *corners])
    right = everything[:, 0].max(initial=-np.inf)
    low, high = everything[:, 1].min(initial=np.inf), everything[:, 1].max(initial=-np.inf)
    margin = 0.05 * (high - low) if high > low else 0.5
    for label, cloud in clouds.items():
        look = look_of(label, order or list(bands))
        axes.scatter(*cloud.T, s=9, alpha=0.3, linewidth=0, color=look["color"], marker=look["marker"])
    shares = set()
    for label, band in surfaces.items():
        look = look_of(label, order or list(bands))
        percentiles = list(band)
        middle = percentiles[len(percentiles) // 2] if percentiles else None
        _staircase(axes, band.get(middle, np.empty((0, 2))), right, label=label, **(look | {"marker": ""}))
        if len(percentiles) > 1 and len(band[percentiles[0]]):
            shares.add((percentiles[0], percentiles[-1]))
            best, worst = band[percentiles[0]], band[percentiles[-1]]
            cost = np.unique(np.concatenate([best[:, 0], worst[:, 0], [right]]))
            cost = cost[cost >= best[0, 0]]
            heights = [_height(surface, cost, low - margin) for surface in (worst, best)]
            axes.fill_between(cost, *heights, step="post", color=look["color"], alpha=0.2, linewidth=0)
    for least, most in sorted(shares):
        text = f"reached by {least:g} to {most:g} % of the runs"
        axes.fill_between([], [], [], color="0.5", alpha=0.3, linewidth=0, label=text)  # for the legend only
    if len(everything):
        axes.set_ylim(low - margin, high + margin)
    axes.set(xlabel=cost_label, ylabel=accuracy_label)
    if log_cost:
        _log_scale(axes)
    legend(figure, axes)
    return figure


def progress(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike]],
    *,
    x_label: str = "Candidates evaluated",
    y_label: str = "Hypervolume",
    order: Sequence[str] | None = None,
) -> Figure:
    """How a search gains over its candidates. curves: label -> x, mean, low, high, each (N,); NaN: no band there."""
    figure, axes = canvas(6.0, 4.0)
    for label, columns in curves.items():
        x, mean, low, high = (np.asarray(column, dtype=float).ravel() for column in columns)
        look = look_of(label, order or list(curves))
        if np.isfinite(mean).sum() > 1:
            look["marker"] = ""  # a line needs no markers; a single point is nothing without one
        axes.plot(x, mean, label=label, linewidth=1.7, markersize=5, **look)
        axes.fill_between(x, low, high, color=look["color"], alpha=0.18, linewidth=0)
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))  # there is no half a candidate
    legend(figure, axes)
    return figure


# ------------------------------------------------------------------------------------------------------------------
# From data to a file
# ------------------------------------------------------------------------------------------------------------------


DIGEST = "Digest of the data"
"""The PNG text chunk that says what a file was drawn from."""
KINDS: dict[str, Callable[..., Figure]] = {
    function.__name__: function
    for function in (
        accuracy_against_cost,
        scatter_by_bucket,
        bars,
        heat_map,
        correlations,
        fronts,
        attainment_bands,
        progress,
    )
}
"""The functions that draw pictures, by the name that `Picture.kind` gives."""


def render(picture: Picture) -> bytes:
    """The picture as a PNG file that carries `digest(picture)`; InputError for one that this version cannot draw."""
    if picture.kind not in KINDS:
        raise InputError(f"picture {picture.name} is of the unknown kind {picture.kind!r}; known: {', '.join(KINDS)}")
    try:
        return png(KINDS[picture.kind](**picture.data), {DIGEST: digest(picture)})
    except (TypeError, ValueError, KeyError) as error:
        raise InputError(f"picture {picture.name} cannot be drawn ({error}); run its command again") from error


def png(figure: Figure, chunks: Mapping[str, str]) -> bytes:
    """The figure as a PNG file with some text chunks; the same numbers give the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None, **chunks})
    return buffer.getvalue()


def digest(picture: Picture) -> str:
    """A fingerprint of what is drawn, the same for the same kind and data."""
    text = json.dumps(to_json([picture.kind, picture.data]), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def drawn_from(path: Path) -> str | None:
    """The digest that a PNG file carries; None for a file without one."""
    try:
        with Image.open(path) as image:
            return image.info.get(DIGEST)
    except OSError:
        return None


# ------------------------------------------------------------------------------------------------------------------
# Parts
# ------------------------------------------------------------------------------------------------------------------


def _finite(pairs: ArrayLike) -> np.ndarray:
    """The (N, 2) pairs of which both numbers are finite."""
    pairs = np.array(list(pairs), dtype=float).reshape(-1, 2)
    return pairs[np.isfinite(pairs).all(axis=1)]


def _front(points: np.ndarray) -> np.ndarray:
    """The (F, 2) points that no other beats, from the cheapest on."""
    points = points[np.lexsort((-points[:, 1], points[:, 0]))]
    best_before = np.maximum.accumulate(np.concatenate([[-np.inf], points[:, 1]]))[:-1]
    return points[points[:, 1] > best_before]


def _staircase(axes: Axes, corners: np.ndarray, right: float, **look) -> np.ndarray:
    """Draw the best accuracy for each cost, on to the cost `right`; the (2F, 2) corners of the line as drawn."""
    if not len(corners):
        axes.plot([], [], **look)  # keeps its place in the legend
        return np.empty((0, 2))
    ends = np.append(corners[1:, 0], max(right, corners[-1, 0]))
    line = np.stack([corners, np.column_stack([ends, corners[:, 1]])], axis=1).reshape(-1, 2)
    axes.plot(*line.T, **look)
    return line


def _height(corners: np.ndarray, cost: np.ndarray, floor: float) -> np.ndarray:
    """The staircase's accuracy (N,) at each cost, `floor` before its first corner."""
    return np.append(floor, corners[:, 1])[np.searchsorted(corners[:, 0], cost, side="right")]


def _log_scale(axes: Axes) -> None:
    """Logarithmic cost with plain numbers on its ticks, also where the costs span less than a power of ten."""
    if not axes.has_data() or axes.dataLim.minpos[0] == np.inf:
        return  # nothing is drawn, and zero has no logarithm
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    ticks = MaxNLocator(6).tick_values(low, high)  # a narrow range; else the fewest of these that are four or more
    for steps in ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 5), (1,)):
        wider = np.asarray(LogLocator(subs=steps, numticks=99).tick_values(low, high))
        if ((wider >= low) & (wider <= high)).sum() >= 4:
            ticks = wider
    ticks = ticks[(ticks >= low) & (ticks <= high)]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _write_names(
    figure: Figure, axes: Axes, named: Mapping[str, tuple[float, float]], drawn: Sequence[np.ndarray]
) -> None:
    """Write each name beside its point, where it covers the fewest points, lines and other names.

    drawn: the points, then the corners of each line, (N, 2) each. Every name in turn, by cost, takes the place that
    burdens the picture least given the others, a few times over: the same places for the same numbers.
    """
    finite = [(name, tuple(pair)) for name, pair in named.items() if len(_finite([pair]))]
    named = dict(sorted(finite, key=lambda item: (item[1], item[0])))
    if not named:
        return
    figure.draw_without_rendering()  # settles the layout, and with it where everything is in pixels
    frame = axes.get_window_extent()
    in_pixels = [axes.transData.transform(group) for group in drawn if len(group)]
    obstacles = np.concatenate([in_pixels[0], *(_along(line) for line in in_pixels[1:])])
    marks = axes.transData.transform(list(named.values()))  # (M, 2)
    look = {"fontsize": 8.5, "ha": "center", "va": "center", "zorder": 6}
    look["path_effects"] = [matplotlib.patheffects.withStroke(linewidth=2.2, foreground="white")]
    texts = [axes.annotate(name, pair, (0, 0), textcoords="offset points", **look) for name, pair in named.items()]
    extents = [text.get_window_extent() for text in texts]
    halves = np.array([(extent.width / 2 + 2, extent.height / 2 + 3) for extent in extents])
    directions = np.column_stack([np.cos(_ANGLES), np.sin(_ANGLES)])
    corners = np.clip(1.42 * directions, -1, 1)  # the side or corner of the name that faces its point
    facing = list(zip(directions, corners, strict=True))
    places = [(direction * (6 + far), corner) for far in _DISTANCES for direction, corner in facing]
    offsets = np.zeros((len(texts), 2))
    placed = np.zeros(len(texts), dtype=bool)

    def burden(one: int, offset: np.ndarray) -> float:
        low, high = marks[one] + offset - halves[one], marks[one] + offset + halves[one]
        outside = max(frame.x0 - low[0], frame.y0 - low[1], high[0] - frame.x1, high[1] - frame.y1, 0)
        covered = ((obstacles > low) & (obstacles < high)).all(axis=1).sum()
        gaps = np.hypot(*np.maximum(np.maximum(low - marks, marks - high), 0).T)  # (M,) from this name to each mark
        foreign = np.arange(len(texts)) != one
        hidden = (gaps[foreign] < 6).sum()
        leader = np.linspace(np.clip(marks[one], low, high), marks[one], 12)
        crossed = (np.hypot(*(leader[:, None] - marks[None, foreign]).T) < 8).any(axis=1).sum()
        mistaken = (gaps[foreign] < gaps[one] + 4).sum()  # as near to another point as to its own
        centres, sides = (marks + offsets)[placed & foreign], halves[placed & foreign]
        shared = np.minimum(high, centres + sides) - np.maximum(low, centres - sides)
        overlap = np.clip(shared, 0, None).prod(axis=1).sum() / (high - low).prod()  # 0..1 of this name
        return float(10 * outside + 3 * covered + 90 * (hidden + crossed + mistaken) + 200 * overlap + 0.6 * gaps[one])

    found = []
    ascending = np.arange(len(texts))
    for turns in (ascending, ascending[::-1], np.roll(ascending, len(texts) // 2)):  # each may get stuck elsewhere
        placed[:] = False
        for _ in range(4):
            before = offsets.copy() if placed.all() else None
            for one in turns:
                choices = [shift + corner * halves[one] for shift, corner in places]
                offsets[one] = min(choices, key=lambda offset: burden(one, offset))
                placed[one] = True
            if before is not None and (offsets == before).all():
                break  # nobody wants to move
        found.append((sum(burden(one, offsets[one]) for one in ascending), offsets.copy()))
    _, offsets = min(found, key=lambda item: item[0])
    for text, mark, half, offset in zip(texts, marks, halves, offsets, strict=True):
        text.set_position(offset * 72 / figure.dpi)
        text.set_in_layout(False)
        nearest = np.clip(0, offset - half, offset + half)  # the name's own point that is closest to the mark
        if np.hypot(*nearest) > 16:  # far from its point: a thin line leads there
            ends = axes.transData.inverted().transform([mark + nearest, mark])
            axes.plot(*ends.T, color="0.4", linewidth=0.7, zorder=2.5, scalex=False, scaley=False)


def _along(corners: np.ndarray) -> np.ndarray:
    """Points every few pixels along the line through `corners`."""
    pieces = [np.linspace(start, end, 2 + int(np.abs(end - start).max() // 5)) for start, end in pairwise(corners)]
    return np.concatenate([corners, *pieces])
