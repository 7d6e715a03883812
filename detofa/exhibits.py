"""Every table and figure of DetOFA by name: what it needs, what it measures on a seed, how it is tabled and drawn.

`EXHIBITS[name].measure(study)` gives one seed's numbers (detofa.measurements), `EXHIBITS[name].draw` turns those of all
seeds into a table and pictures; common.reproduce.exhibit does the rest. Means are over seeds, with 95 % Student-t
intervals from two seeds on.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.report import figures
from common.report.tables import Table, printed_table
from common.reproduce.exhibit import Drawn, Exhibit, Measured, in_all, over_seeds, stacked, triple
from detofa.measurements import (
    ABLATIONS,
    measure_ablations,
    measure_costs,
    measure_curves,
    measure_operation_scores,
    measure_sampled,
    measure_sizes,
)
from detofa.presets import Preset
from detofa.study import VARIANTS

LABELS = {name: variant.title for name, variant in VARIANTS.items()} | {"random": "Random search, same budget"}
ORDER = tuple(LABELS[name] for name in ("ours", "ofa", "ofa-shrinking", "compofa", "random", "ofa-scratch"))


@dataclass(frozen=True)
class Setting:
    """Where a drawing is made and what the costs in it are."""

    folder: Path
    preset: Preset
    constraint: str

    def cost_scale(self, highest: float) -> tuple[float, str]:
        """What to divide costs by, and the unit that leaves."""
        if self.constraint == "latency":
            return 1.0, "ms"
        unit = {"macs": "MACs", "params": "parameters"}[self.constraint]
        factor, prefix = (1e9, "G") if highest >= 1e9 else (1e6, "M")
        return factor, f"{prefix}{unit}" if self.constraint == "macs" else f"{prefix} {unit}".replace("G ", "billion ")

    @property
    def cost_name(self) -> str:
        size = f"{self.preset.image_size}x{self.preset.image_size}"
        return {
            "macs": f"Multiply-accumulates of the backbone at {size}",
            "params": "Parameters of the backbone",
            "latency": f"Latency of the backbone at {size}, batch 1",
        }[self.constraint]


# ------------------------------------------------------------------------------------------------------------------
# Tables
# ------------------------------------------------------------------------------------------------------------------


def table1(measured: Sequence[Measured], setting: Setting) -> Drawn:
    sizes = measured[0]
    rows = []
    for method, space, *_ in printed_table("detofa", "table1").rows:
        exact, own = sizes["paper"][method], sizes["scale"][method]
        rows.append([method, space, exact["backbone"], exact["with stem"], sizes["formula"][method], own["backbone"]])
    columns = ["Method", "Search space", "Size", "Size with stem choices", "Printed formula", "Size at this scale"]
    notes = [
        "Size counts the different backbones of OFA-ResNet50 exactly: layers that depth drops have no expand ratio, "
        "and blocks have 2, 2, 4, 2 layers and up to 2 more. The printed formula has 2, 3 or 4 layers in every block "
        "and two terms for three widths. CompOFA*'s is taken to the fourth power, one factor a block.",
        f"At this scale blocks have {', '.join(map(str, setting.preset.space.base_depths))} layers and up to "
        f"{setting.preset.space.depths[-1]} more.",
    ]
    return Drawn(Table(columns, rows), "Number of paths of the two search spaces.", notes)


def table2(measured: Sequence[Measured], setting: Setting) -> Drawn:
    printed_rows = printed_table("detofa", "table2").rows
    keys = {"Accuracy": "accuracy", "Precision": "precision", "Recall": "recall", "Found / all": "found", "Tau": "tau"}
    rows, bars = [], {}
    names = ("Without bounded loss", "Without budget", "Without block position", "Whole filter")
    for name, title, (*switches, _, theirs, _) in zip(ABLATIONS, names, printed_rows, strict=True):
        numbers = {key: over_seeds(stacked(measured, "numbers", name, key)) for key in keys.values()}
        precision = stacked(measured, "numbers", "ours", "precision") - stacked(measured, "numbers", name, "precision")
        rows.append([*switches, *numbers.values(), None if name == "ours" else over_seeds(precision)])
        bars[title] = {"Ours": triple(numbers["precision"]), "Paper": (theirs, math.nan, math.nan)}
    columns = [*printed_table("detofa", "table2").columns[:3], *keys, "Precision, whole filter minus it"]
    picture = figures.bars(bars, setting.folder / "table2.png", value_label="Precision for the weakest quarter")
    caption = (
        f"The path filter's finding of the weakest quarter of each cost bucket's paths, {setting.preset.filter_folds}-"
        "fold cross-validation on the warm-up's paths: lowest quarter of scores against highest quarter of losses. "
        "Tau: Kendall's tau of score with loss, inside buckets."
    )
    notes = [
        "As many paths are flagged as are weak, so our recall (found / weak) equals our precision. The paper's recall "
        "agrees with its accuracy and precision only if it is found / all paths: compare it with Found / all.",
        "Chance gives precision 0.25, accuracy 0.625 and found / all 0.0625.",
    ]
    return Drawn(Table(columns, rows), caption, notes, pictures=[picture])


METHODS = {"ofa-shrinking": "OFA (w/ PS)", "ofa": "OFA (w/o PS)", "compofa": "CompOFA*", "ours": "Ours"}


def table3(measured: Sequence[Measured], setting: Setting) -> Drawn:
    paper = {row[0]: row[1:] for row in printed_table("detofa", "table3").rows}
    base = "ofa-shrinking"
    names = in_all(measured, "spent", list(METHODS))
    rows, bars = [], {}
    for name in names:
        cpu, wall = (stacked(measured, "spent", name, kind) for kind in ("cpu", "wall"))
        sampling = stacked(measured, "spent", name, "sampling")
        ratio = over_seeds(cpu / stacked(measured, "spent", base, "cpu")) if base in names else None
        voc, coco = (paper[METHODS[name]][place] / paper[METHODS[base]][place] for place in (0, 2))
        sampled = over_seeds(sampling) if np.isfinite(sampling).any() else None
        rows.append([METHODS[name], over_seeds(cpu), sampled, over_seeds(wall), ratio, voc, coco])
        if ratio is not None:
            theirs = {"Paper, Pascal VOC": (voc, math.nan, math.nan), "Paper, COCO": (coco, math.nan, math.nan)}
            bars[METHODS[name]] = {"Ours": triple(ratio)} | theirs
    columns = ["Method", "Cost", "of which path sampling", "Wall clock"]
    columns += [f"{whose} ratio to OFA (w/ PS)" for whose in ("Our", "Paper's VOC", "Paper's COCO")]
    units = dict.fromkeys(("Cost", "of which path sampling"), "s of CPU") | {"Wall clock": "s"}
    pictures = []
    if bars:
        label = "Cost over that of OFA (w/ PS)"
        pictures = [figures.bars(bars, setting.folder / "table3.png", value_label=label)]
    caption = (
        "Computation to the finished supernet: warm-up, path sampling, fine-tuning of the filter, training; the "
        "hardware is that of the runs. Seconds of CPU count all threads."
    )
    notes = [
        "Not counted, as in the paper: pre-training on classification, and the paths sampled for the search.",
        "The warm-up that several methods share is counted for each of them.",
    ]
    return Drawn(Table(columns, rows), caption, notes, units, pictures)


# ------------------------------------------------------------------------------------------------------------------
# AP against cost: figures 5, 8 and 9
# ------------------------------------------------------------------------------------------------------------------


def _curve_rows(measured: Sequence[Measured], labels: Mapping[str, str], reference: str) -> list[list]:
    """Label, AP at each budget, the mean over budgets, and how much the reference is better."""
    rows = []
    for name in in_all(measured, "curves", list(labels)):
        accuracy = stacked(measured, "curves", name, "AP")  # (S, budgets)
        behind = None
        if name != reference and in_all(measured, "curves", [reference]):
            behind = over_seeds(stacked(measured, "curves", reference, "AP") - accuracy)
        rows.append([labels[name], *map(over_seeds, accuracy.T), over_seeds(accuracy), behind])
    return rows


def _curve_picture(
    measured: Sequence[Measured], labels: Mapping[str, str], setting: Setting, name: str, **more
) -> Path:
    factor, unit = _cost_unit(measured, setting)
    series = {}
    for variant in in_all(measured, "curves", list(labels)):
        cost = stacked(measured, "curves", variant, "cost").T / factor  # (budgets, S)
        accuracy = stacked(measured, "curves", variant, "AP").T
        both = [(over_seeds(at).mean, *triple(over_seeds(ap))) for at, ap in zip(cost, accuracy, strict=True)]
        series[labels[variant]] = [point for point in both if math.isfinite(point[1])]
    path = setting.folder / f"{name}.png"
    return figures.accuracy_against_cost(series, path, cost_label=f"{setting.cost_name} ({unit})", **more)


def _cost_unit(measured: Sequence[Measured], setting: Setting) -> tuple[float, str]:
    return setting.cost_scale(max(measured[0]["budgets"]))


def _budget_columns(measured: Sequence[Measured], setting: Setting) -> list[str]:
    factor, unit = _cost_unit(measured, setting)
    return [f"≤ {budget / factor:.3g} {unit}" for budget in stacked(measured, "budgets").mean(axis=0)]


_FOUND = "AP in points of the net found for each budget, batch norm re-estimated, on the validation images. "


def figure5(measured: Sequence[Measured], setting: Setting) -> Drawn:
    names = ("ours", "ofa", "ofa-shrinking", "compofa", "random")
    labels = {name: LABELS[name] for name in (*names, "ofa-scratch")}
    rows = _curve_rows(measured, labels, "ours")
    budgets = _budget_columns(measured, setting)
    factor, unit = _cost_unit(measured, setting)
    references, notes = {}, []
    if all("full" in numbers for numbers in measured):
        cost, accuracy = over_seeds(stacked(measured, "full", "cost") / factor), stacked(measured, "full", "AP")
        references = {LABELS["fullnet"]: (cost.mean, over_seeds(accuracy).mean)}
        behind = None
        if in_all(measured, "curves", ["ours"]):
            behind = over_seeds(stacked(measured, "curves", "ours", "AP").max(axis=1) - accuracy)
        rows.append([LABELS["fullnet"], *[None] * len(budgets), over_seeds(accuracy), behind])
        notes.append(
            f"Fullnet, the largest path trained alone, has no budget: its AP stands under Mean, its cost is "
            f"{cost.mean:.3g} {unit}, and the last column compares the best net of ours with it."
        )
    notes.append("No transfer (Section 4.2) starts from random weights; it is not drawn.")
    drawn = {name: labels[name] for name in names}
    picture = _curve_picture(measured, drawn, setting, "figure5", references=references, order=ORDER)
    caption = f"{_FOUND}Random search takes the sampled path of least loss in the supernet of ours."
    table = Table(["Method", *budgets, "Mean", "Ours minus it"], rows)
    return Drawn(table, caption, notes, {"Mean": "AP points", "Ours minus it": "AP points"}, [picture])


def _panels(name: str, caption: str, panels: Mapping[str, tuple[Mapping[str, str], str]]):
    """A figure of several panels: panel -> (variant -> label, the variant that the others are compared with)."""

    def draw(measured: Sequence[Measured], setting: Setting) -> Drawn:
        rows, pictures = [], []
        for panel, (labels, reference) in panels.items():
            rows += [[panel, *row] for row in _curve_rows(measured, labels, reference)]
            pictures.append(_curve_picture(measured, labels, setting, f"{name}-{panel.lower()}"))
        compared = ", ".join(f"{labels[reference]} ({panel.lower()})" for panel, (labels, reference) in panels.items())
        columns = ["Panel", "Method", *_budget_columns(measured, setting), "Mean", "Reference minus it"]
        units = {"Mean": "AP points", "Reference minus it": "AP points"}
        notes = [f"Reference: {compared}."]
        return Drawn(Table(columns, rows), _FOUND + caption, notes, units, pictures)

    return draw


_STRATEGIES = {
    "operations-all": LABELS["operations-all"],
    "operations-bucket": LABELS["operations-bucket"],
    "operations-flops": LABELS["operations-flops"],
    "ofa": "none",
}
figure8 = _panels(
    "figure8",
    "Only operations or only paths are pruned.",
    {
        "Operations": (_STRATEGIES, "operations-all"),
        "Paths": ({"paths-score": "score-based", "ofa": "uniform"}, "paths-score"),
    },
)
figure9 = _panels(
    "figure9",
    "r_op is the share of each cost bucket's operations that is removed (after 10 % of all, but for r_op = 0), r_path "
    "that of its paths.",
    {
        "Operations": ({"paths-score": "r_op 0", "ours": "r_op 0.3", "operations-ratio-40": "r_op 0.4"}, "ours"),
        "Paths": ({"operations-all": "r_path 0", "ours": "r_path 0.25", "paths-ratio-40": "r_path 0.4"}, "ours"),
    },
)


# ------------------------------------------------------------------------------------------------------------------
# Figures 6 and 7
# ------------------------------------------------------------------------------------------------------------------


def figure6(measured: Sequence[Measured], setting: Setting) -> Drawn:
    names = in_all(measured, "sampled", ["ours", "ofa"])
    edges = stacked(measured, "edges").mean(axis=0)
    factor, unit = setting.cost_scale(edges[-1])
    dots = {}
    for name in names:
        pairs = [(s["cost"], s["AP"]) for s in (numbers["sampled"][name] for numbers in measured)]
        dots[LABELS[name]] = [
            (c / factor, ap) for cost, accuracy in pairs for c, ap in zip(cost, accuracy, strict=True) if ap == ap
        ]
    means = {name: stacked(measured, "evidence", f"sampled:{name}") for name in names}  # (S, buckets)
    rows = []
    for bucket in range(len(edges) - 1):
        cells = [over_seeds(means[name][:, bucket]) for name in names]
        both = over_seeds(means["ours"][:, bucket] - means["ofa"][:, bucket]) if len(names) == 2 else None
        span = f"{edges[bucket] / factor:.3g} to {edges[bucket + 1] / factor:.3g} {unit}"
        rows.append([f"{bucket + 1}: {span}", *cells, both])
    columns = ["Bucket", *(LABELS[name] for name in names), "Ours minus OFA (w/o PS)"]
    path, cost_label = setting.folder / "figure6.png", f"{setting.cost_name} ({unit})"
    picture = figures.scatter_by_bucket(dots, edges / factor, path, cost_label=cost_label, order=ORDER)
    caption = (
        f"AP in points of {setting.preset.figure6_paths} uniformly sampled paths in each of {len(edges) - 1} cost "
        "buckets and for each seed, from the pruned space for ours and the whole space for OFA. Bars: a bucket's mean."
    )
    notes = ["A bucket that hardly any path of a space falls into has fewer paths, or none."]
    return Drawn(Table(columns, rows), caption, notes, pictures=[picture])


def figure7(measured: Sequence[Measured], setting: Setting) -> Drawn:
    titles = {"classification": "Classification (pre-training)", "detection": "Detection (warm-up)"}
    taus = {name: stacked(measured, "supernets", name, "tau") for name in titles}  # (S, blocks)
    both = {titles[name]: tau for name, tau in taus.items()}
    both["Detection minus classification"] = taus["detection"] - taus["classification"]
    rows = [[name, over_seeds(tau), *map(over_seeds, tau.T)] for name, tau in both.items()]
    blocks = [f"Block {block + 1}" for block in range(taus["detection"].shape[1])]
    pictures = [_score_map(measured, name, setting) for name in titles]
    caption = (
        f"Operation scores, the mean score of {setting.preset.operation_samples} paths with the operation inserted, "
        "mean over seeds. The table: Kendall's tau of score with cost of the operations of a block."
    )
    notes = [
        "Scores of two filters have no common scale: compare patterns, not values. Layer 2.3 is the third layer of "
        "block 2; grey where the depth has no such layer.",
    ]
    return Drawn(Table(["Supernet", "Mean over blocks", *blocks], rows), caption, notes, pictures=pictures)


def _score_map(measured: Sequence[Measured], supernet: str, setting: Setting) -> Path:
    space = setting.preset.space
    layers, depths, widths, expands = len(space.layer_stage), len(space.depths), len(space.widths), len(space.expands)
    values = np.full((layers, depths, widths, expands), math.nan)
    values[tuple(np.array(measured[0]["index"]).T)] = stacked(measured, "supernets", supernet, "score").mean(axis=0)
    rows = [f"D{d} W{w:g} E{e:g}" for d in space.depths for w in space.widths for e in space.expands]
    places = zip(space.layer_stage, space.layer_index_in_stage, strict=True)
    return figures.heat_map(
        values.reshape(layers, -1).T,
        setting.folder / f"figure7-{supernet}.png",
        row_labels=rows,
        column_labels=[f"{stage + 1}.{layer + 1}" for stage, layer in places],
        value_label="Operation score",
        row_label="Operation",
        column_label="Layer",
    )


# ------------------------------------------------------------------------------------------------------------------

_FIGURE5 = ("ours", "ofa", "ofa-shrinking", "compofa", "ofa-scratch", "fullnet")
_FIGURE8 = ("operations-all", "operations-bucket", "operations-flops", "paths-score", "ofa")
_FIGURE9 = ("ours", "operations-ratio-40", "paths-ratio-40", "paths-score", "operations-all")
_BEFORE = ("classification", "filter", "warm-up")  # what variants start from


def _trained(*variants: str) -> tuple[str, ...]:
    """The runs behind some variants."""
    first = ("fullnet",) if "ofa-shrinking" in variants else ()  # progressive shrinking starts from it
    return tuple(dict.fromkeys((*_BEFORE, *variants, *first)))


EXHIBITS = {
    exhibit.name: exhibit
    for exhibit in (
        Exhibit(
            "table1", "Table 1", "The search spaces", "exact sizes, and the printed formulas", measure_sizes, table1
        ),
        Exhibit(
            "table2",
            "Table 2",
            "Ablation of the path filter",
            "precision for the weakest quarter of paths",
            measure_ablations,
            table2,
            runs=(*_BEFORE, *(f"filter-ablation-{name}" for name in ABLATIONS)),
        ),
        Exhibit(
            "table3",
            "Table 3",
            "Computation cost of training the supernet",
            "seconds to the finished supernet",
            measure_costs(*METHODS),
            table3,
            runs=_trained(*METHODS),
        ),
        Exhibit(
            "figure5",
            "Figure 5",
            "The best architecture at each budget",
            "AP of the nets found, by method and budget",
            measure_curves(*_FIGURE5),
            figure5,
            runs=_trained(*_FIGURE5),
        ),
        Exhibit(
            "figure6",
            "Figure 6",
            "Uniformly sampled paths in cost buckets",
            "AP of sampled paths, ours and OFA",
            measure_sampled("ours", "ofa"),
            figure6,
            runs=_trained("ours", "ofa"),
        ),
        Exhibit(
            "figure7",
            "Figure 7",
            "Operation scores for classification and detection",
            "how far scores follow operation size",
            measure_operation_scores,
            figure7,
            runs=_BEFORE,
        ),
        Exhibit(
            "figure8",
            "Figure 8",
            "Methods of operation pruning and path pruning",
            "AP of the nets found, by pruning strategy",
            measure_curves(*_FIGURE8),
            figure8,
            runs=_trained(*_FIGURE8),
        ),
        Exhibit(
            "figure9",
            "Figure 9",
            "Pruning ratios for operations and paths",
            "AP of the nets found, by pruning ratio",
            measure_curves(*_FIGURE9),
            figure9,
            runs=_trained(*_FIGURE9),
        ),
    )
}
