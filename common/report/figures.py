"""Pictures for the exhibits, in one house style: colour-blind safe, units on the axes, as PNG files or SVG elements.

Each function takes plain numbers, as JSON holds them, and returns a chart; null is a number that is missing. A picture
says what is drawn and never what it shows: the caption and the claims do that. A chart also knows what each of its
marks stands for, which the SVG element carries. Charts are made apart from pyplot, so that drawing leaves a notebook's
own plots and settings alone.
"""

import hashlib
import io
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import matplotlib
import matplotlib.patheffects
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullLocator, StrMethodFormatter
from numpy.typing import ArrayLike
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from common.plain import InputError, to_json
from common.report.exhibit import Picture
from common.report.statistics import Difference
from common.report.tables import format_measured

_Form = TypeVar("_Form")
Points = Sequence[Sequence[Any]]  # (cost, accuracy), or with what else is known: (cost, accuracy, {"Encoding": ...})
Interval = tuple[float, float, float]  # mean, low, high; NaN for an end that is not there
COST, ACCURACY = "Cost (GMACs)", "AP (points)"
DOTS_PER_INCH = 130
# seaborn's palette "colorblind"
COLOURS = ["#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc", "#ca9161", "#fbafe4", "#949494", "#ece133", "#56b4e9"]
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
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
}


# ---- the house style


class Chart(Figure):
    """A figure that knows what its marks stand for."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.marks: list[tuple[Axes, list[tuple[float, float]], dict[str, str]]] = []

    def tell(self, axes: Axes, corners: Sequence[tuple[float, float]], **values: Any) -> None:
        """Say what a mark stands for. corners: its lower left and upper right, or the one point that it is at."""
        texts = {name: value if isinstance(value, str) else _value(value) for name, value in values.items()}
        self.marks.append((axes, [corners[0], corners[-1]], {name: text for name, text in texts.items() if text}))


def _value(value: float | Interval | None) -> str:
    """A number, or one with its interval, as text; nothing for one that is missing."""
    mean, low, high = np.array(value if np.ndim(value) else (value, None, None), dtype=float)
    if np.isfinite([low, high]).all():
        return format_measured(Difference(mean, low, high, 0))
    return "" if not math.isfinite(mean) else f"{mean:,.0f}" if abs(mean) >= 1000 else f"{mean:.4g}"


def panels(width: float, height: float, columns: int = 1) -> tuple[Chart, list[Axes]]:
    """A chart (inches) of its own, of axes side by side, which share both scales."""
    with matplotlib.rc_context(_STYLE):
        figure = Chart(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")
        row = list(figure.subplots(1, columns, sharex=True, sharey=True, squeeze=False)[0])
    for axes in row:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, row


def look_of(label: str, order: Sequence[str]) -> dict:
    """Colour, marker and line of a label by its place in `order`: the same in every picture of one order."""
    place = list(order).index(label) if label in order else len(order)
    names = {"color": COLOURS, "marker": _MARKERS, "linestyle": _LINES}
    return {name: among[place % len(among)] for name, among in names.items()}


def _labelled(figure: Chart, axes: Axes, x_label: str, y_label: str) -> Chart:
    """The figure with its axes' labels, and a legend above them, where it covers no data."""
    axes.set(xlabel=x_label, ylabel=y_label)
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        room = figure.get_figwidth() * 11  # characters that fit on a line
        columns = max(1, min(len(labels), int(room / (max(map(len, labels)) + 6))))
        if sum(map(len, labels)) + 6 * len(labels) <= room:
            columns = len(labels)
        figure.legend(handles, labels, loc="outside upper center", ncols=columns, frameon=False, fontsize=9)
    return figure


# ---- tables as pictures: lines, points, bars, maps


def accuracy_against_cost(
    series: Mapping[str, Sequence[tuple[float, float, float, float]]],
    *,
    cost_label: str = COST,
    references: Mapping[str, tuple[float, float]] | None = None,
    order: Sequence[str] | None = None,
) -> Chart:
    """Lines of accuracy over cost with bands. series: label -> [(cost, mean, low, high), ...].

    references: single points, label -> (cost, accuracy). order: all the labels that the paper's pictures share, so
    that a method keeps its colour from one picture to the next. low and high may be NaN: no band there.
    """
    figure, (axes,) = panels(6.0, 4.0)
    for label, points in series.items():
        look = look_of(label, order or list(series))
        cost, mean, low, high = np.array(sorted(points), dtype=float).reshape(-1, 4).T
        axes.plot(cost, mean, label=label, markersize=5, linewidth=1.6, **look)
        axes.fill_between(cost, low, high, color=look["color"], alpha=0.15, linewidth=0)
        for x, *interval in sorted(points):
            figure.tell(axes, [(x, interval[0])], **{"Name": label, cost_label: x, ACCURACY: interval})
    for label, (cost, accuracy) in (references or {}).items():
        axes.plot([cost], [accuracy], "*", color="black", markersize=11, label=label)
        figure.tell(axes, [(cost, accuracy)], **{"Name": label, cost_label: cost, ACCURACY: accuracy})
    return _labelled(figure, axes, cost_label, ACCURACY)


def scatter_by_bucket(
    points: Mapping[str, Points], edges: Sequence[float], *, cost_label: str = COST, order: Sequence[str] | None = None
) -> Chart:
    """Sampled paths, accuracy over cost, coloured by method. points: label -> [(cost, accuracy), ...].

    edges: (buckets + 1,) bucket edges in units of cost, drawn as thin lines; a short bar marks each method's mean
    inside each bucket.
    """
    figure, (axes,) = panels(6.0, 4.0)
    edges = np.asarray(edges, dtype=float)
    for edge in edges:
        axes.axvline(edge, color="0.75", linewidth=0.8, zorder=0)
    for label, pairs in points.items():
        look = look_of(label, order or list(points))
        cost, accuracy = _finite(pairs).T
        axes.scatter(
            cost, accuracy, s=16, alpha=0.6, linewidth=0, label=label, color=look["color"], marker=look["marker"]
        )
        _tell_points(figure, axes, label, pairs, cost_label, ACCURACY)
        bucket = np.clip(np.searchsorted(edges, cost, side="right") - 1, 0, len(edges) - 2)
        for place in np.unique(bucket):
            margin = 0.08 * (edges[place + 1] - edges[place])
            mean = accuracy[bucket == place].mean()
            axes.hlines(mean, edges[place] + margin, edges[place + 1] - margin, color=look["color"], linewidth=2)
    return _labelled(figure, axes, cost_label, ACCURACY)


def bars(groups: Mapping[str, Mapping[str, Interval]], *, value_label: str) -> Chart:
    """Grouped bars with intervals. groups: group -> {label: (mean, low, high)}."""
    labels = list(dict.fromkeys(label for values in groups.values() for label in values))
    figure, (axes,) = panels(max(4.5, 1.2 + 0.35 * len(labels) * len(groups) + 0.4 * len(groups)), 3.6)
    width = 0.8 / max(len(labels), 1)
    for place, label in enumerate(labels):
        present = [number for number, values in enumerate(groups.values()) if label in values]
        mean, error = _means([values[label] for values in groups.values() if label in values])
        where = np.array(present) + (place - (len(labels) - 1) / 2) * width
        axes.bar(where, mean, width * 0.92, label=label, color=look_of(label, labels)["color"])
        axes.errorbar(where, mean, error, fmt="none", ecolor="0.2", elinewidth=1, capsize=2.5)
        for middle, number in zip(where, present, strict=True):
            group, values = list(groups.items())[number]
            corners = [(middle - width / 2, 0), (middle + width / 2, values[label][0])]
            figure.tell(axes, corners, **{"Name": label, "Group": group, value_label: values[label]})
    axes.set_xticks(range(len(groups)), list(groups))
    if max(map(len, groups), default=0) > 14:
        axes.tick_params(axis="x", rotation=20)
    axes.grid(visible=False, axis="x")
    if len(labels) > 1:
        return _labelled(figure, axes, "", value_label)
    axes.set(ylabel=value_label)
    return figure


def heat_map(
    values: ArrayLike,
    *,
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    value_label: str,
    row_label: str,
    column_label: str,
) -> Chart:
    """Numbers by row and column as colours. values: (rows, columns), NaN where there is no such pair."""
    import seaborn  # takes a second, and most pages have no such map

    values = np.asarray(values, dtype=float)
    rows, columns = values.shape
    figure, (axes,) = panels(2.0 + 0.55 * columns, 1.2 + 0.24 * rows)
    seaborn.heatmap(
        values,
        ax=axes,
        cmap="cividis",
        annot=values.size <= 250,
        fmt=".2f",
        annot_kws={"fontsize": 7},
        cbar_kws={"label": value_label},
        xticklabels=list(column_labels),
        yticklabels=list(row_labels),
    )
    for row, column in np.argwhere(np.isfinite(values)):
        place, value = {row_label: row_labels[row], column_label: column_labels[column]}, values[row, column]
        figure.tell(axes, [(column, row), (column + 1, row + 1)], **place, **{value_label: value})
    axes.set_facecolor("0.93")
    axes.grid(visible=False)
    axes.tick_params(axis="x", rotation=40 if max(map(len, column_labels), default=0) > 5 else 0)
    axes.tick_params(axis="y", rotation=0)
    axes.set(xlabel=column_label, ylabel=row_label)
    return figure


def correlations(values: Mapping[str, Mapping[str, Interval]], *, value_label: str = "Correlation with AP") -> Chart:
    """Horizontal bars of coefficients, one panel a group. values: panel -> {factor: (mean, low, high)}.

    All panels share the factors' order (that of their first appearance) and the scale. A factor without a coefficient
    in a panel has no bar there.
    """
    factors = list(dict.fromkeys(factor for group in values.values() for factor in group))
    figure, row = panels(1.2 + 2.7 * max(len(values), 1), 1.2 + 0.28 * len(factors), max(len(values), 1))
    numbers = [number for group in values.values() for interval in group.values() for number in interval]
    reach = min(1.08 * np.nanmax(np.abs(np.array([*numbers, 0.1], dtype=float))), 1)
    for axes, (panel, group) in zip(row, values.items(), strict=False):
        where = [factors.index(factor) for factor in group]
        mean, error = _means(list(group.values()))
        axes.barh(where, mean, 0.7, color=[COLOURS[0] if value >= 0 else COLOURS[1] for value in mean])
        axes.errorbar(mean, where, xerr=error, fmt="none", ecolor="0.2", elinewidth=1, capsize=2.5)
        for factor, interval in group.items():
            corners = [(0, factors.index(factor) - 0.35), (interval[0], factors.index(factor) + 0.35)]
            figure.tell(axes, corners, **{"Name": factor, "Group": panel, value_label: interval})
        axes.axvline(0, color="0.3", linewidth=0.9)
        axes.set(xlabel=value_label, title=panel)
        axes.grid(visible=False, axis="y")
    row[0].set_yticks(range(len(factors)), factors)
    row[0].set(xlim=(-reach, reach), ylim=(len(factors) - 0.4, -0.6))
    row[0].xaxis.set_major_locator(MaxNLocator(5, prune="both"))  # the ends of two panels would touch
    return figure


def _means(intervals: Sequence[Interval]) -> tuple[np.ndarray, np.ndarray]:
    """(N,) means, and how far (2, N) their intervals reach down and up from them: 0 without an interval."""
    mean, low, high = np.array(intervals, dtype=float).reshape(-1, 3).T
    return mean, np.nan_to_num(np.clip([mean - low, high - mean], 0, None))


# ---- searches: candidates and fronts, how far several runs got, and how soon. Costs are to be small, accuracies
# large; a candidate of which one is not finite (a failed one) is not drawn.


def fronts(
    points: Mapping[str, Points],
    *,
    cost_label: str = COST,
    accuracy_label: str = ACCURACY,
    with_front: Sequence[str] = (),
    whole_front: bool = False,
    highlighted: Mapping[str, tuple[float, float]] | None = None,
    order: Sequence[str] | None = None,
    log_cost: bool = False,
) -> Chart:
    """All candidates with their Pareto fronts as staircases. points: label -> [(cost, accuracy), ...], or with what
    else is known of a candidate, name -> value, as a third part.

    with_front: the labels whose own front is drawn; whole_front: one front over the candidates of all labels.
    highlighted: named candidates, ringed, name -> (cost, accuracy). order: all the labels that the paper's pictures
    share, so that each keeps its colour.
    """
    figure, (axes,) = panels(6.4, 4.4)
    clouds = {label: _finite(pairs) for label, pairs in points.items()}
    candidates = np.concatenate([np.empty((0, 2)), *clouds.values()])
    named = {name: tuple(pair) for name, pair in (highlighted or {}).items() if len(_finite([pair]))}
    ringed = _finite(named.values())
    right = max(group[:, 0].max(initial=-np.inf) for group in (candidates, ringed))
    drawn = [np.concatenate([candidates, ringed])]
    for label, cloud in clouds.items():
        look = look_of(label, order or list(points)) | {"linestyle": "-" if label in with_front else "none"}
        dots = {"color": look["color"], "marker": look["marker"]}
        axes.scatter(*cloud.T, s=15, alpha=0.5, linewidth=0, **dots)
        axes.plot([], [], markersize=5, linewidth=1.7, label=label, **look)  # for the legend only
        _tell_points(figure, axes, label, points[label], cost_label, accuracy_label)
        if label in with_front:
            corners = _front(cloud)
            axes.scatter(*corners.T, s=24, edgecolor="white", linewidth=0.5, zorder=4, **dots)
            drawn.append(_staircase(axes, corners, right, color=look["color"], linewidth=1.7, zorder=3))
    if whole_front:
        look = {"color": "0.2", "linewidth": 1.3, "zorder": 3, "label": "Front of all"}
        drawn.append(_staircase(axes, _front(candidates), right, **look))
    axes.scatter(*ringed.T, s=70, facecolor="none", edgecolor="black", linewidth=1.3, zorder=5)
    for name, pair in named.items():
        _tell_points(figure, axes, name, [pair], cost_label, accuracy_label)
    if log_cost:
        _log_scale(axes)
    _labelled(figure, axes, cost_label, accuracy_label)
    if named:
        _write_names(figure, axes, named, drawn)
    return figure


def attainment_bands(bands: Mapping[str, Mapping[float, ArrayLike]], *, cost_label: str = COST) -> Chart:
    """How far the runs of each method got: a median staircase inside a band.

    bands: label -> {percentile: (F, 2) corners (cost, accuracy) from the cheapest on}, the front that at least so many
    % of the runs reached. The line is the middle percentile (of 50 and 100, which two runs have, it is 50), and
    the band lies between the lowest and the highest. Where the highest has not begun (some runs have nothing that
    cheap) the band reaches down to the axis.
    """
    figure, (axes,) = panels(6.4, 4.2)
    surfaces = {
        label: {percentile: _finite(corners) for percentile, corners in sorted((float(key), band[key]) for key in band)}
        for label, band in bands.items()
    }
    corners = [corners for band in surfaces.values() for corners in band.values()]
    right, low, high = _extent(np.concatenate([np.empty((0, 2)), *corners]))
    shares = set()
    for label, band in surfaces.items():
        look = look_of(label, list(bands)) | {"marker": ""}
        fronts_reached = list(band.values()) or [np.empty((0, 2))]
        _staircase(axes, fronts_reached[(len(fronts_reached) - 1) // 2], right, label=label, **look)
        for percentile, reached in band.items():
            about = {"Reached by": f"{percentile:g} % of the runs"}
            _tell_points(figure, axes, label, [(*corner, about) for corner in reached], cost_label, ACCURACY)
        best, worst = fronts_reached[0], fronts_reached[-1]
        if len(band) > 1 and len(best):
            shares.add((min(band), max(band)))
            cost = np.unique([*best[:, 0], *worst[:, 0], right])
            cost = cost[cost >= best[0, 0]]
            heights = [_height(surface, cost, low) for surface in (worst, best)]
            axes.fill_between(cost, *heights, step="post", color=look["color"], alpha=0.2, linewidth=0)
    for least, most in sorted(shares):
        text = f"reached by {least:g} to {most:g} % of the runs"
        axes.fill_between([], [], [], color="0.5", alpha=0.3, linewidth=0, label=text)  # for the legend only
    axes.set_ylim(low, high)
    return _labelled(figure, axes, cost_label, ACCURACY)


def progress(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike]],
    *,
    x_label: str = "Candidates evaluated",
    y_label: str = "Hypervolume",
) -> Chart:
    """How a search gains over its candidates. curves: label -> x, mean, low, high, each (N,); NaN: no band there."""
    figure, (axes,) = panels(6.0, 4.0)
    for label, columns in curves.items():
        x, mean, low, high = np.array(columns, dtype=float).reshape(4, -1)
        look = look_of(label, list(curves))
        if np.isfinite(mean).sum() > 1:
            look["marker"] = ""  # a line needs no markers; a single point is nothing without one
        axes.plot(x, mean, label=label, linewidth=1.7, markersize=5, **look)
        axes.fill_between(x, low, high, color=look["color"], alpha=0.18, linewidth=0)
        for at, *interval in zip(x, mean, low, high, strict=True):
            figure.tell(axes, [(at, interval[0])], **{"Name": label, x_label: at, y_label: interval})
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))  # there is no half a candidate
    return _labelled(figure, axes, x_label, y_label)


# ---- from data to a file


DIGEST = "Digest of the data"
"""The PNG text chunk that says what a file was drawn from."""
_DRAWN_BY = accuracy_against_cost, scatter_by_bucket, bars, heat_map, correlations, fronts, attainment_bands, progress
KINDS: dict[str, Callable[..., Chart]] = {function.__name__: function for function in _DRAWN_BY}
"""The functions that draw pictures, by the name that `Picture.kind` gives."""


def render(picture: Picture) -> bytes:
    """The picture as a PNG file that carries `digest(picture)`; the same numbers give the same bytes.

    Raises InputError for one that this version cannot draw.
    """

    def file(chart: Chart) -> bytes:
        canvas = FigureCanvasAgg(chart)
        canvas.draw()  # once; savefig draws a figure twice
        chunks, buffer = PngInfo(), io.BytesIO()
        chunks.add_text(DIGEST, digest(picture))
        Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").save(buffer, "png", pnginfo=chunks)
        return buffer.getvalue()

    return _drawn(picture, file)


def render_svg(picture: Picture, title: str) -> str:
    """The picture as an SVG element for a page, which follows the page's text colour and scheme.

    Over each mark lies a rectangle of the class "mark" whose data-values say, as a JSON object of texts, what it stands
    for. title: said by screen readers. Raises InputError for a picture that this version cannot draw.
    """

    def element(chart: Chart) -> str:
        chart.set(dpi=72, facecolor="none")  # a pixel is a point from here on
        for axes in chart.axes:
            axes.set_facecolor("none")
        for text in chart.findobj(Text):
            text.set_path_effects([])  # they would turn letters into outlines; the page's style has them for "halo"
        buffer = io.StringIO()
        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": digest(picture) + picture.name}):
            FigureCanvasSVG(chart).print_svg(buffer, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
        return _for_page(buffer.getvalue(), title, "".join(_hit_areas(chart)))

    return _drawn(picture, element)


def _drawn(picture: Picture, form: Callable[[Chart], _Form]) -> _Form:
    if picture.kind not in KINDS:
        raise InputError(f"picture {picture.name} is of the unknown kind {picture.kind!r}; known: {', '.join(KINDS)}")
    try:
        return form(KINDS[picture.kind](**picture.data))
    except (TypeError, ValueError, KeyError) as error:
        raise InputError(f"picture {picture.name} cannot be drawn ({error}); run its command again") from error


def _hit_areas(chart: Chart) -> Iterator[str]:
    """A rectangle over each mark, larger than it by what a finger needs."""
    top, reach = chart.bbox.height, 5
    for axes, corners, values in chart.marks:
        (x0, y0), (x1, y1) = axes.transData.transform(np.array(corners, dtype=float))
        if np.isfinite([x0, y0, x1, y1]).all():
            x, y, width, height = min(x0, x1), top - max(y0, y1), abs(x1 - x0), abs(y1 - y0)
            around = 0 if width > 2 * reach and height > 2 * reach else reach  # neighbouring cells must not overlap
            yield (
                f'<rect class="mark" x="{x - around:.1f}" y="{y - around:.1f}" width="{width + 2 * around:.1f}" '
                f'height="{height + 2 * around:.1f}" rx="{reach}" data-values="{escape(json.dumps(values))}"/>'
            )


def _for_page(svg: str, title: str, hit_areas: str) -> str:
    """matplotlib's SVG file as an element: no names but those that are referred to, and greys for both schemes."""
    body = svg[svg.index(">", svg.index("<svg")) + 1 : svg.rindex("</svg>")]
    width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups()
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r' id="halo"', ' class="halo"', body)
    body = re.sub(r' id="([a-zA-Z0-9.]+_\d+|image\w+)"', "", body)
    body = re.sub(r"<text[^>]*>|#(00|33|4c|66|80|bf|e6|ff)\1\1\b", _for_both_schemes, body)  # others are a map's
    return (
        f'<svg class="plot" viewBox="0 0 {width} {height}" width="{float(width) * 1.2:.0f}" role="img" '
        f'aria-label="{escape(title)}">{body.strip()}<g>{hit_areas}</g></svg>'
    )


def _for_both_schemes(found: re.Match) -> str:
    """A grey of the house style and what it is in the dark, where white becomes the page's dark grey. Letters have the
    page's colour, or that which their cell asks for."""
    if found[1] is None:
        return found[0]
    return f"light-dark({found[0]}, #{3 * f'{255 - int(found[1], 16) * 217 // 255:02x}'})"


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


# ---- parts


def _finite(pairs: ArrayLike) -> np.ndarray:
    """The (N, 2) pairs of which both numbers are finite; what else is known of a point is left out."""
    pairs = np.array([pair[:2] for pair in pairs], dtype=float).reshape(-1, 2)
    return pairs[np.isfinite(pairs).all(axis=1)]


def _tell_points(chart: Chart, axes: Axes, label: str, points: Points, x_label: str, y_label: str) -> None:
    """Say what each point stands for, with what else is known of it."""
    for x, y, *more in points:
        if x is not None and y is not None:
            chart.tell(axes, [(x, y)], **{"Name": label, x_label: x, y_label: y}, **(more[0] if more else {}))


def _extent(points: np.ndarray) -> tuple[float, float, float]:
    """The largest cost of the points (N, 2), and the ends of an axis that shows their accuracies with a margin."""
    if not len(points):
        return 1.0, 0.0, 1.0
    low, high = points[:, 1].min(), points[:, 1].max()
    margin = 0.05 * (high - low) or 0.5
    return points[:, 0].max(), low - margin, high + margin


def _front(points: np.ndarray) -> np.ndarray:
    """The (F, 2) points that no other beats, from the cheapest on."""
    points = points[np.lexsort((-points[:, 1], points[:, 0]))]
    best_before = np.maximum.accumulate(np.concatenate([[-np.inf], points[:, 1]]))[:-1]
    return points[points[:, 1] > best_before]


def _staircase(axes: Axes, corners: np.ndarray, right: float, **look) -> np.ndarray:
    """Draw the best accuracy for each cost, on to the cost `right`; the (2F, 2) corners of the line as drawn.

    Without corners nothing is drawn that is seen, and the label keeps its place in the legend.
    """
    ends = np.append(corners[1:, 0], right)[: len(corners)]
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
    axes.xaxis.set_major_locator(FixedLocator(ticks[(ticks >= low) & (ticks <= high)]))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


_ANGLES = np.deg2rad([135, 45, 90, 315, 225, 0, 180, 270, 160, 110, 70, 20, 340, 290, 250, 200])
_DIRECTIONS = np.column_stack([np.cos(_ANGLES), np.sin(_ANGLES)])
_DISTANCES = 6 + np.array([1, 6, 14, 24, 36, 52])  # pixels between a point's mark and its name


def _write_names(
    figure: Chart, axes: Axes, named: Mapping[str, tuple[float, float]], drawn: Sequence[np.ndarray]
) -> None:
    """Write each name beside its point, where it covers the fewest points, lines and other names.

    drawn: the points, then the corners of each line, (N, 2) each. Every name in turn, by cost, takes the place that
    burdens the picture least given those before: the same places for the same numbers.
    """
    named = dict(sorted(named.items(), key=lambda item: (item[1], item[0])))
    figure.draw_without_rendering()  # settles the layout, and with it where everything is in pixels
    frame = axes.get_window_extent()
    points, *lines = (axes.transData.transform(group) for group in drawn if len(group))
    obstacles = np.concatenate([points, *map(_along, lines)])
    marks = axes.transData.transform(list(named.values()))  # (M, 2)
    look = {"fontsize": 8.5, "ha": "center", "va": "center", "zorder": 6, "gid": "halo"}
    look["path_effects"] = [matplotlib.patheffects.withStroke(linewidth=2.2, foreground="white")]
    texts = [axes.annotate(name, pair, (0, 0), textcoords="offset points", **look) for name, pair in named.items()]
    halves = np.array([(box.width / 2 + 2, box.height / 2 + 3) for box in (text.get_window_extent() for text in texts)])
    # (places, names, 2): where a name's centre may go; the side or corner that faces its point is so far from it
    shifts = (_DISTANCES[:, None, None] * _DIRECTIONS).reshape(-1, 1, 2)
    choices = shifts + np.clip(1.42 * np.tile(_DIRECTIONS, (len(_DISTANCES), 1)), -1, 1)[:, None] * halves
    centres = np.empty((0, 2))
    for one, (mark, half) in enumerate(zip(marks, halves, strict=True)):
        centre = mark + choices[:, one]  # (places, 2)
        low, high = centre - half, centre + half
        outside = np.max([frame.min - low, high - frame.max], axis=(0, 2)).clip(0)
        covered = ((obstacles > low[:, None]) & (obstacles < high[:, None])).all(axis=2).sum(axis=1)
        gaps = np.hypot(*np.clip(np.maximum(low[:, None] - marks, marks - high[:, None]), 0, None).T).T
        own, others = gaps[:, one], np.delete(gaps, one, axis=1)  # from this name to its mark and to the others
        mistaken = (others < np.maximum(own + 4, 6)[:, None]).sum(axis=1)  # as near to another as to its own
        reach = half + halves[:one] - np.abs(centre[:, None] - centres)  # shared with names before
        overlap = np.clip(reach, 0, 2 * half).prod(axis=2).sum(axis=1) / np.prod(2 * half)
        burden = 10 * outside + 3 * covered + 90 * mistaken + 200 * overlap + 0.6 * own
        centres = np.vstack([centres, centre[burden.argmin()]])
    for text, mark, half, centre in zip(texts, marks, halves, centres, strict=True):
        text.set_position((centre - mark) * 72 / figure.dpi)
        text.set_in_layout(False)
        nearest = np.clip(mark, centre - half, centre + half)  # the name's own point that is closest to the mark
        if np.hypot(*(nearest - mark)) > 16:  # far from its point: a thin line leads there
            ends = axes.transData.inverted().transform([nearest, mark])
            axes.plot(*ends.T, color="0.4", linewidth=0.7, zorder=2.5, scalex=False, scaley=False)


def _along(corners: np.ndarray) -> np.ndarray:
    """Points every few pixels along the line through `corners`."""
    pieces = [np.linspace(start, end, 2 + int(np.abs(end - start).max() // 5)) for start, end in pairwise(corners)]
    return np.concatenate([corners, *pieces])
