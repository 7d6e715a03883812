"""Pictures for the exhibits, in one house style: colour-blind safe, units on the axes, small PNG files.

Each function takes plain numbers, as JSON holds them, and returns a figure; null is a number that is missing. A picture
says what is drawn and never what it shows: the caption and the claims do that.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from common.plain import InputError
from common.report import searches, style
from common.report.exhibit import Picture


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
    figure, axes = style.canvas(6.0, 4.0)
    for label, points in series.items():
        look = style.look(label, order or list(series))
        cost, mean, low, high = np.array(sorted(points), dtype=float).reshape(-1, 4).T
        axes.plot(cost, mean, label=label, markersize=5, linewidth=1.6, **look)
        axes.fill_between(cost, low, high, color=look["color"], alpha=0.15, linewidth=0)
    for label, (cost, accuracy) in (references or {}).items():
        axes.plot([cost], [accuracy], "*", color="black", markersize=11, label=label)
    axes.set(xlabel=cost_label, ylabel=accuracy_label)
    style.legend(figure, axes)
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
    figure, axes = style.canvas(6.0, 4.0)
    edges = np.asarray(edges, dtype=float)
    for edge in edges:
        axes.axvline(edge, color="0.75", linewidth=0.8, zorder=0)
    for label, pairs in points.items():
        look = style.look(label, order or list(points))
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
    style.legend(figure, axes)
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
    figure, axes = style.canvas(max(4.5, 1.2 + 0.35 * len(labels) * len(groups) + 0.4 * len(groups)), 3.6)
    width = 0.8 / max(len(labels), 1)
    for place, label in enumerate(labels):
        look = style.look(label, order or labels)
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
        style.legend(figure, axes)
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
    import seaborn  # takes a second, and only heat maps need it

    values = np.asarray(values, dtype=float)
    rows, columns = values.shape
    figure, axes = style.canvas(2.0 + 0.55 * columns, 1.2 + 0.24 * rows)
    low, high = limits or (None, None)
    seaborn.heatmap(
        values,
        ax=axes,
        mask=~np.isfinite(values),
        cmap="cividis",
        vmin=low,
        vmax=high,
        annot=values.size <= 250,
        fmt=".2f",
        annot_kws={"size": 7},
        xticklabels=list(column_labels),
        yticklabels=list(row_labels),
        cbar_kws={"label": value_label},
    )
    axes.set_facecolor("0.93")
    axes.tick_params(axis="x", rotation=40 if max(map(len, column_labels), default=0) > 5 else 0)
    axes.tick_params(axis="y", rotation=0)
    axes.set(xlabel=column_label, ylabel=row_label)
    return figure


def precision_recall(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    chance: float | None = None,
    order: Sequence[str] | None = None,
) -> Figure:
    """Precision over recall. curves: label -> (recall (P,), precision (P,)), 0..1; chance: the share of positives."""
    figure, axes = style.canvas(5.0, 4.0)
    for label, (recall, precision) in curves.items():
        look = style.look(label, order or list(curves))
        axes.plot(np.asarray(recall), np.asarray(precision), label=label, linewidth=1.6, **(look | {"marker": ""}))
    if chance is not None:
        axes.axhline(chance, color="0.4", linewidth=1, linestyle=":", label="Share of positives")
    axes.set(xlabel="Recall", ylabel="Precision", xlim=(0, 1), ylim=(0, 1.03))
    style.legend(figure, axes)
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
    figure, row = style.panels(1.2 + 2.7 * max(len(values), 1), 1.2 + 0.28 * len(factors), max(len(values), 1))
    numbers = [number for group in values.values() for triple in group.values() for number in triple]
    reach = np.nanmax(np.abs(np.array([*numbers, 0.1], dtype=float)))
    for axes, (panel, group) in zip(row, values.items(), strict=False):
        where = np.array([factors.index(factor) for factor in group], dtype=float)
        mean, low, high = np.array(list(group.values()), dtype=float).reshape(-1, 3).T
        error = np.clip([mean - low, high - mean], 0, None)  # NaN: nothing is drawn
        colours = [style.COLOURS[0] if value >= 0 else style.COLOURS[1] for value in mean]
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

KINDS: dict[str, Callable[..., Figure]] = {
    function.__name__: function
    for function in (
        accuracy_against_cost,
        scatter_by_bucket,
        bars,
        heat_map,
        precision_recall,
        correlations,
        searches.fronts,
        searches.attainment_bands,
        searches.progress,
    )
}
"""The functions that draw pictures, by the name that `Picture.kind` gives."""


def render(picture: Picture) -> bytes:
    """The picture as a PNG file; InputError for a picture that this version cannot draw."""
    if picture.kind not in KINDS:
        raise InputError(f"picture {picture.name} is of the unknown kind {picture.kind!r}; known: {', '.join(KINDS)}")
    try:
        return style.png(KINDS[picture.kind](**picture.data))
    except (TypeError, ValueError, KeyError) as error:
        raise InputError(f"picture {picture.name} cannot be drawn ({error}); run its command again") from error
