"""Pictures of a search: its candidates and fronts, how far several runs got, and how soon.

As in `figures`, each function takes plain numbers and returns a figure. Costs are to be small and accuracies large; a
candidate of which one is not finite (a failed one) is not drawn.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import matplotlib.patheffects
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullLocator, StrMethodFormatter
from numpy.typing import ArrayLike

from common.report import style

Points = Sequence[tuple[float, float]]  # (cost, accuracy)
_ANGLES = np.deg2rad([135, 45, 90, 315, 225, 0, 180, 270, 160, 110, 70, 20, 340, 290, 250, 200])
_DISTANCES = (1, 6, 14, 24, 36, 52)  # pixels between a point's mark and its name


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
    figure, axes = style.canvas(6.4, 4.4)
    clouds = {label: _finite(pairs) for label, pairs in points.items()}
    named = {"highlighted": highlighted or {}, "references": references or {}}
    everything = np.concatenate(
        [np.empty((0, 2)), *clouds.values(), *(_finite(one.values()) for one in named.values())]
    )
    right = everything[:, 0].max(initial=-np.inf)
    drawn = [everything]
    for label, cloud in clouds.items():
        look = style.look(label, order or list(points))
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
    style.legend(figure, axes)
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
    figure, axes = style.canvas(6.4, 4.2)
    bands = {label: {float(key): corners for key, corners in band.items()} for label, band in bands.items()}
    surfaces = {label: {key: _finite(band[key]) for key in sorted(band)} for label, band in bands.items()}
    clouds = {label: _finite(pairs) for label, pairs in (points or {}).items()}
    corners = [corners for band in surfaces.values() for corners in band.values()]
    everything = np.concatenate([np.empty((0, 2)), *clouds.values(), *corners])
    right = everything[:, 0].max(initial=-np.inf)
    low, high = everything[:, 1].min(initial=np.inf), everything[:, 1].max(initial=-np.inf)
    margin = 0.05 * (high - low) if high > low else 0.5
    for label, cloud in clouds.items():
        look = style.look(label, order or list(bands))
        axes.scatter(*cloud.T, s=9, alpha=0.3, linewidth=0, color=look["color"], marker=look["marker"])
    shares = set()
    for label, band in surfaces.items():
        look = style.look(label, order or list(bands))
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
    style.legend(figure, axes)
    return figure


def progress(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike]],
    *,
    x_label: str = "Candidates evaluated",
    y_label: str = "Hypervolume",
    order: Sequence[str] | None = None,
) -> Figure:
    """How a search gains over its candidates. curves: label -> x, mean, low, high, each (N,); NaN: no band there."""
    figure, axes = style.canvas(6.0, 4.0)
    for label, columns in curves.items():
        x, mean, low, high = (np.asarray(column, dtype=float).ravel() for column in columns)
        look = style.look(label, order or list(curves))
        if np.isfinite(mean).sum() > 1:
            look["marker"] = ""  # a line needs no markers; a single point is nothing without one
        axes.plot(x, mean, label=label, linewidth=1.7, markersize=5, **look)
        axes.fill_between(x, low, high, color=look["color"], alpha=0.18, linewidth=0)
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))  # there is no half a candidate
    style.legend(figure, axes)
    return figure


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
    finite = [(name, tuple(pair)) for name, pair in named.items() if np.isfinite(pair).all()]
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
    for turns in (
        ascending,
        ascending[::-1],
        np.roll(ascending, len(texts) // 2),
    ):  # each start may get stuck elsewhere
        placed[:] = False
        for one in np.tile(turns, 4):
            choices = [shift + corner * halves[one] for shift, corner in places]
            offsets[one] = min(choices, key=lambda offset: burden(one, offset))
            placed[one] = True
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
