"""Every table and figure of SM-NAS by name: what it needs, what it measures on a seed, how it is tabled and drawn.

`EXHIBITS[name].measure(study)` gives one seed's numbers (sm_nas.measurements); `common.reproduce.exhibit` makes those
of all seeds into `exhibits/<name>/`. Means are over seeds, with 95 % Student-t intervals from two seeds on.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.report import figures, searches
from common.report.statistics import Difference
from common.report.tables import Table
from common.reproduce.exhibit import Drawn, Exhibit, Measured, over_seeds, stacked, triple
from common.search.pareto import attainment
from sm_nas.measurements import (
    COCO_NUMBERS,
    FACTORS,
    TRANSFERRED,
    measure_comparison,
    measure_figure3,
    measure_figure4,
    measure_figure5,
    measure_table1,
    measure_table2,
    measure_table3,
    measure_table5,
    transferred,
)
from sm_nas.method import Structure
from sm_nas.presets import PRESETS, Preset
from sm_nas.study import FLOPS, LATENCY, slug

SEARCHED, RANDOM = "SM-NAS", "Random search, same budget"
NORM_NAMES = {"batch": "BN", "group": "GN", "group-ws": "GN+WS"}
BACKBONE_NAMES = {
    "resnet18": "ResNet18",
    "resnet34": "ResNet34",
    "resnet50": "ResNet50",
    "resnet101": "ResNet101",
    "resnext50_32x4d": "ResNeXt50",
    "resnext101_32x4d": "ResNeXt101",
    "mobilenet_v2": "MobileNetV2",
}
_LATENCY_LABEL = "Time of detection, batch 1 (ms)"
_HYPERVOLUME_LABEL = "Area under the front (AP points)"


@dataclass(frozen=True)
class Setting:
    """What exhibits are drawn with."""

    folder: Path
    preset: Preset
    data: str
    """Short name of the data set."""


# ------------------------------------------------------------------------------------------------------------------
# Columns that several tables share
# ------------------------------------------------------------------------------------------------------------------


def parts_of(structure: Structure) -> tuple[str, str, str, str, str]:
    """Input, backbone, neck, RPN and head, in the words of Table 2."""
    size = f"{structure.size[0]}x{structure.size[1]}"
    neck = "no FPN"
    if structure.levels is not None:
        neck = f"FPN(P{structure.levels[0]}-P{structure.levels[1]}, c={structure.neck_width})"
    rpn = (structure.rpn or "no RPN").upper().replace("NO", "no")
    head = f"Cascade(n={structure.heads})" if structure.heads > 1 else {0: "RetinaNet", 1: "2FC"}[structure.heads]
    backbone = BACKBONE_NAMES.get(structure.backbone, structure.backbone)
    return size, backbone, neck, rpn, head


def _over(measured: Sequence[Measured], *keys: str, scale: float = 1.0) -> Difference:
    """Mean over the seeds of what lies under `keys`."""
    return over_seeds(scale * stacked(measured, *keys))


def _records(measured: Sequence[Measured], kind: str) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """Names under `kind` that every seed has, with the records of all seeds."""
    names = [name for name in measured[0][kind] if all(name in numbers[kind] for numbers in measured)]
    return [(name, [numbers[kind][name] for numbers in measured]) for name in names]


def _mean(records: Sequence[Mapping[str, Any]], key: str, scale: float = 1.0) -> Difference:
    return over_seeds([math.nan if record.get(key) is None else scale * record[key] for record in records])


def _number(value: float | None) -> float:
    return math.nan if value is None else value


# ------------------------------------------------------------------------------------------------------------------
# Tables
# ------------------------------------------------------------------------------------------------------------------


def table1(measured: Sequence[Measured], setting: Setting) -> Drawn:
    second = measured[0]["second_data"]
    order = (
        ("own", "FPN R50", "FPN"),
        ("own", "RetinaNet R50", "RetinaNet"),
        ("second", "FPN R50", "FPN"),
        ("second", "RetinaNet R50", "RetinaNet"),
        ("own", "FPN R101", "FPN"),
        ("own", "Cascade R50", "CascadeRCNN"),
    )
    rows = []
    for number, (where, name, model) in enumerate(order, start=1):
        if where == "second" and second is None:
            continue
        size, backbone, *_ = parts_of(Structure.parse(measured[0][where][name]["structure"]))
        data = setting.data if where == "own" else second
        numbers = [_over(measured, where, name, key) for key in (LATENCY, "AP")]
        rows.append([str(number), data, model, backbone, size, *numbers])
    notes = ["mAP is over IoU 0.5 to 0.95 on both data sets; the paper's on VOC is at 0.5."]
    if second is None:
        notes.append("No second data set was given (--second-data): experiments 3 and 4 are left out.")
    columns = ["Exp", "Data", "Model", "Backbone", "Input", "Time", "mAP"]
    caption = (
        "Detectors trained by the final schedule, on validation images. Which one is better depends on the data set?"
    )
    return Drawn(Table(columns, rows), caption, notes, {"Time": "ms", "mAP": "points"})


def table2(measured: Sequence[Measured], setting: Setting) -> Drawn:
    columns = [
        "Model",
        "Input",
        "Backbone",
        "Neck",
        "RPN",
        "Head",
        "Backbone FLOPs",
        "Of the standard backbone",
        "Time",
    ]
    columns += ["mAP", "Backbone FLOPs at the paper's size", "Of the standard backbone there", "Parameters there"]
    rows = []
    for name, records in _records(measured, "models"):
        counted = measured[0]["counted"][name]
        there = [counted["backbone"] / 1e9, counted["of_standard"], counted["params"] / 1e6]
        rows.append([name, *_architecture(records), *there])
    for place in range(setting.preset.groups):
        for seed, numbers in enumerate(measured):
            if f"F{place}" in numbers["found"]:
                rows.append(
                    [f"F{place}, seed {seed}", *_architecture([numbers["found"][f"F{place}"]]), None, None, None]
                )
    units = {"Backbone FLOPs": "M", "Time": "ms", "mAP": "points", "Backbone FLOPs at the paper's size": "G"}
    units |= {"Of the standard backbone": "ratio", "Of the standard backbone there": "ratio", "Parameters there": "M"}
    caption = (
        "E0 to E5 with this scale's channels and sizes, and F0, F1, ... that both stages found here. FLOPs are "
        "multiply-accumulates as the paper counts them, at the input size; the last columns count the paper's own "
        "networks at 80 classes."
    )
    notes = [
        "The standard backbone: ResNet18 for E0, ResNet34 for E1 and E2, ResNet101 for E3, ResNeXt101-32x4d for E4 and "
        "E5; for F the backbone of the structure that it was searched in.",
    ]
    return Drawn(Table(columns, rows), caption, notes, units)


def _architecture(records: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The columns of Table 2 of one network, from its records of several seeds."""
    flops = _mean(records, "backbone_macs_mmdet", 1e-6).mean
    ratio = _mean(records, "of_standard").mean
    return [
        *parts_of(Structure.parse(records[0]["structure"])),
        flops,
        ratio,
        _mean(records, LATENCY),
        _mean(records, "AP"),
    ]


def table3(measured: Sequence[Measured], setting: Setting) -> Drawn:
    strategies, rows, bars = setting.preset.strategies, [], {}
    accuracy = np.array([[_number(row["AP"]) for row in numbers["rows"]] for numbers in measured])  # (S, 8)
    for place, strategy in enumerate(strategies):
        optimisation = strategy.optimisation
        own = over_seeds(accuracy[:, place])
        rows.append(
            [
                str(place),
                NORM_NAMES[strategy.norm],
                strategy.pretrained,
                optimisation.epochs,
                f"{strategy.images_a_device}x{strategy.devices}",
                optimisation.learning_rate,
                own,
                over_seeds(accuracy[:, place] - accuracy[:, 0]) if place else None,
            ]
        )
        bars[f"{place}: {NORM_NAMES[strategy.norm]}"] = {"AP": triple(own)}
    columns = ["Exp", "Norm", "Pre-trained", "Epochs", "Batch", "Learning rate", "mAP", "Minus experiment 0"]
    picture = figures.bars(bars, setting.folder / "table3.png", value_label="AP (points)")
    structure = setting.preset.strategy_model
    size, backbone, neck, *_ = parts_of(structure)
    caption = f"{backbone}, {neck}, at {size}, trained in eight ways; AP on validation images."
    notes = [
        f"At this scale the optimiser is {strategies[0].optimisation.optimiser}. '2x8' is read as 2 images on each of "
        "8 devices: a batch norm sees so many images at a time, and gradients are those of the whole batch.",
    ]
    units = {"Batch": "images a device x devices", "mAP": "points", "Minus experiment 0": "AP points"}
    return Drawn(Table(columns, rows), caption, notes, units, [picture])


def _comparison_rows(measured: Sequence[Measured], kinds: Iterable[str]) -> list[tuple[str, list]]:
    return [pair for kind in kinds for pair in _records(measured, kind)]


def table4(measured: Sequence[Measured], setting: Setting) -> Drawn:
    rows = []
    for name, records in _comparison_rows(measured, ("classics", "models", "found")):
        size, backbone, *_ = parts_of(Structure.parse(records[0]["structure"]))
        same = len({record["structure"] for record in records}) == 1
        found = "found, one each seed" if not same else backbone
        method = f"SM-NAS: {name}" if name[0] in "EF" and name[1:].isdigit() else name
        numbers = [_mean(records, key) for key in (LATENCY, *COCO_NUMBERS)]
        rows.append([method, found, size if same else "found", *numbers])
    share = over_seeds(stacked(measured, "evidence", "dominated"))
    ratio = over_seeds(stacked(measured, "evidence", "hypervolume ratio"))
    notes = [
        f"Share of the classic detectors that one of E0 to E5 dominates: {share.mean:.2f}; area under the front of E0 "
        f"to E5 over that of the classic ones: {ratio.mean:.2f}.",
        "Detectors that the search space does not cover (YOLO, FSAF, CornerNet, CenterNet, AlignDet, Mask R-CNN, "
        "TridentNet, DetNAS, NAS-FPN) are not trained here.",
        "C0, C1, ... are the structures that stage one handed on, F0, F1, ... what stage two made of them.",
    ]
    columns = ["Method", "Backbone", "Input", "Time", *COCO_NUMBERS]
    units = {"Time": "ms"} | dict.fromkeys(COCO_NUMBERS, "points")
    caption = "Every detector trained alike, by the final schedule, on the same data; on validation images."
    return Drawn(Table(columns, rows), caption, notes, units)


def table5(measured: Sequence[Measured], setting: Setting) -> Drawn:
    rows, data = [], measured[0]["data"]
    for baseline, records in measured[0]["rows"].items():
        for name in records:
            structure = Structure.parse(records[name]["structure"])
            behind = None
            if name != baseline:
                accuracy = stacked(measured, "rows", baseline, name, "AP") - stacked(
                    measured, "rows", baseline, baseline, "AP"
                )
                behind = over_seeds(accuracy)
            numbers = [_over(measured, "rows", baseline, name, key) for key in (LATENCY, "AP")]
            size = f"{structure.size[0]}x{structure.size[1]}"
            rows.append([data, size, name.replace("FPN ", "FPN w "), *numbers, behind])
    notes = [f"Transferred: {', '.join(TRANSFERRED)}, as the paper lists them."]
    if not measured[0]["evidence"]:
        notes.append("No second data set was given (--second-data): this is the data that everything else is on.")
    columns = ["Data", "Input", "Model", "Time", "mAP", "Minus the plain detector"]
    units = {"Time": "ms", "mAP": "points", "Minus the plain detector": "AP points"}
    caption = "Searched models trained on another data set, beside a plain detector at the same input size."
    return Drawn(Table(columns, rows), caption, notes, units)


# ------------------------------------------------------------------------------------------------------------------
# Figures
# ------------------------------------------------------------------------------------------------------------------


def figure1(measured: Sequence[Measured], setting: Setting) -> Drawn:
    labels = {"models": "E0 to E5", "found": "Found here", "classics": "Classic detectors"}
    points, rows, names = {}, [], {}
    for kind, label in labels.items():
        pairs = []
        for name, records in _records(measured, kind):
            latency, accuracy = _mean(records, LATENCY), _mean(records, "AP")
            rows.append([label, name, latency, accuracy])
            pairs.append((latency.mean, accuracy.mean))
            names[name] = pairs[-1]
        points[label] = pairs
    picture = searches.fronts(
        points,
        setting.folder / "figure1.png",
        cost_label=_LATENCY_LABEL,
        with_front=(labels["models"], labels["classics"]),
        highlighted=names,
    )
    caption = "Time of detection and AP on validation images, mean over seeds; lines: the fronts."
    return Drawn(
        Table(["Kind", "Model", "Time", "AP"], rows), caption, units={"Time": "ms", "AP": "points"}, pictures=[picture]
    )


def _pairs(records: Sequence[Mapping[str, Any]], cost: str, divide_by: float = 1.0) -> list[tuple[float, float]]:
    return [(_number(one[cost]) / divide_by, _number(one["AP"])) for one in records]


def _search_rows(searched: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """The search and random search, over seeds: candidates, the area under the front, the best AP, their difference."""
    areas = {
        kind: np.array([_number(numbers["hypervolume"][kind][-1]) for numbers in searched])
        for kind in ("found", "random")
    }
    rows = []
    for kind, label in (("found", SEARCHED), ("random", RANDOM)):
        counted = over_seeds([len(numbers[kind]) for numbers in searched]).mean
        best = over_seeds([np.nanmax([_number(one["AP"]) for one in numbers[kind]]) for numbers in searched])
        difference = over_seeds(areas["found"] - areas["random"]) if kind == "found" else None
        rows.append([label, counted, over_seeds(areas[kind]), best, difference])
    return rows


_SEARCH_COLUMNS = ["Method", "Candidates", "Area under the front", "Best AP", "Area, minus random search"]
_SEARCH_UNITS = dict.fromkeys(("Area under the front", "Best AP", "Area, minus random search"), "AP points")


def _progress(searched: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """The area under the front against candidates evaluated."""
    curves = {}
    for kind, label in (("found", SEARCHED), ("random", RANDOM)):
        length = min(len(numbers["hypervolume"][kind]) for numbers in searched)
        grown = [
            over_seeds([_number(numbers["hypervolume"][kind][place]) for numbers in searched])
            for place in range(length)
        ]
        curves[label] = (np.arange(1, length + 1), *(np.array(part) for part in zip(*map(triple, grown), strict=True)))
    return searches.progress(curves, path, y_label=_HYPERVOLUME_LABEL)


def _attained(searched: Sequence[Mapping[str, Any]], path: Path, cost_label: str, divide_by: float = 1.0) -> Path:
    """What at least one, half and all of the seeds reached."""
    bands = {}
    for kind, label in (("found", SEARCHED), ("random", RANDOM)):
        pairs = [np.array(_pairs(numbers[kind], "cost", divide_by)).reshape(-1, 2).T for numbers in searched]
        bands[label] = attainment([tuple(pair) for pair in pairs], (100 / len(pairs), 50, 100))
    return searches.attainment_bands(bands, path, cost_label=cost_label)


def figure3(measured: Sequence[Measured], setting: Setting) -> Drawn:
    everything = [one for numbers in measured for kind in ("found", "random") for one in numbers[kind]]
    trained = [one for one in everything if one["AP"] is not None and one["AP"] == one["AP"]]
    by_size, by_backbone = {}, {}
    for one in trained:
        size, backbone, *_ = parts_of(Structure.parse(one["structure"]))
        by_size.setdefault(size, []).append(one)
        by_backbone.setdefault(backbone, []).append(one)
    sizes = [f"{width}x{height}" for width, height in setting.preset.structural.sizes if f"{width}x{height}" in by_size]
    backbones = [name for name in BACKBONE_NAMES.values() if name in by_backbone]
    picks = {}
    if len(measured) == 1:
        known = {one["structure"]: one for one in trained}
        picks = {name: _pairs([known[text]], LATENCY)[0] for name, text in measured[0]["picks"].items()}
    folder = setting.folder
    shared = {"whole_front": True, "log_cost": True}
    pictures = [
        searches.fronts(
            {size: _pairs(by_size[size], LATENCY) for size in sizes},
            folder / "figure3-sizes.png",
            cost_label=_LATENCY_LABEL,
            highlighted=picks,
            **shared,
        ),
        searches.fronts(
            {name: _pairs(by_backbone[name], LATENCY) for name in backbones},
            folder / "figure3-backbones-time.png",
            cost_label=_LATENCY_LABEL,
            order=tuple(BACKBONE_NAMES.values()),
            **shared,
        ),
        searches.fronts(
            {name: _pairs(by_backbone[name], FLOPS, 1e6) for name in backbones},
            folder / "figure3-backbones-flops.png",
            cost_label="FLOPs of the detector (MMACs)",
            order=tuple(BACKBONE_NAMES.values()),
            **shared,
        ),
        _attained(measured, folder / "figure3-attained.png", _LATENCY_LABEL),
        _progress(measured, folder / "figure3-progress.png"),
    ]
    rows = _search_rows(measured)
    notes = [_backbone_note(measured)]
    if measured[0]["evidence"].get("tau") is not None:
        tau = over_seeds(stacked(measured, "evidence", "tau"))
        notes.append(
            f"Kendall's tau of AP after this training with AP after the final one, random candidates: {tau.mean:.2f}."
        )
    notes += [
        f"C{place} of seed {seed}: {numbers['picks'][f'C{place}']}."
        for seed, numbers in enumerate(measured)
        for place in range(len(numbers["picks"]))
    ]
    caption = (
        f"Stage one: {setting.preset.structural.count():,} structures, AP on held-out training images after "
        f"{setting.preset.stage_one_training.optimisation.epochs} epochs against the time of detection. The area is "
        "under the front, over time from 0 to that of the slowest candidate."
    )
    return Drawn(Table(_SEARCH_COLUMNS, rows), caption, notes, _SEARCH_UNITS, pictures)


def _backbone_note(measured: Sequence[Measured]) -> str:
    """Every backbone within one structure, in a sentence."""
    parts = []
    for name, label in BACKBONE_NAMES.items():
        if all(name in numbers["backbones"] for numbers in measured):
            accuracy, latency, flops = (
                over_seeds(stacked(measured, "backbones", name, key)).mean for key in ("AP", LATENCY, FLOPS)
            )
            parts.append(f"{label} {accuracy:.1f} at {latency:.1f} ms and {flops / 1e6:.0f} MMACs")
    return f"Every backbone within one structure, AP in points: {'; '.join(parts)}."


def figure4(measured: Sequence[Measured], setting: Setting) -> Drawn:
    names = [name for name in measured[0]["groups"] if all(name in numbers["groups"] for numbers in measured)]
    rows, pictures, points, marks = [], [], {}, {}
    for name in names:
        searched = [numbers["groups"][name] for numbers in measured]
        rows += [[name, *row] for row in _search_rows(searched)]
        points[f"Searched from {name}"] = [pair for one in searched for pair in _pairs(one["found"], "cost", 1e6)]
        if len(measured) == 1:
            marks[name] = _pairs(searched[0]["found"][:1], "cost", 1e6)[0]
    label = "FLOPs of the detector (MMACs)"
    pictures.append(
        searches.fronts(
            points,
            setting.folder / "figure4.png",
            cost_label=label,
            with_front=tuple(points),
            highlighted=marks,
            log_cost=True,
        )
    )
    for name in names:
        searched = [numbers["groups"][name] for numbers in measured]
        pictures.append(_attained(searched, setting.folder / f"figure4-attained-{name.lower()}.png", label, 1e6))
        pictures.append(_progress(searched, setting.folder / f"figure4-progress-{name.lower()}.png"))
    notes, finals = [], []
    for place in range(len(names)):
        before, after = (stacked(measured, "finals", f"{kind}{place}", "AP") for kind in "CF")
        finals.append(over_seeds(after - before))
        flops = over_seeds(
            stacked(measured, "finals", f"F{place}", FLOPS) / stacked(measured, "finals", f"C{place}", FLOPS)
        )
        notes.append(
            f"Trained to the end, F{place} has {finals[-1].mean:+.2f} AP points on C{place} at {flops.mean:.2f} times "
            "its FLOPs."
        )
    skipped = sum(one["skipped"] for numbers in measured for one in numbers["groups"].values())
    notes.append(f"Partial order pruning left {skipped} candidates untrained.")
    notes += [
        f"{name} of seed {seed}: {numbers['finals'][name]['structure']}."
        for seed, numbers in enumerate(measured)
        for name in numbers["finals"]
    ]
    caption = (
        f"Stage two: {setting.preset.modular.count():,} codes with a neck width for each structure, trained from "
        "scratch with group norm and weight standardisation; AP on held-out training images against FLOPs. A search "
        "begins with its structure's own backbone."
    )
    return Drawn(Table(["Group", *_SEARCH_COLUMNS], rows), caption, notes, _SEARCH_UNITS, pictures)


def figure5(measured: Sequence[Measured], setting: Setting) -> Drawn:
    panels = {"largest": "Group with the largest structure", "every": "All groups, mean"}
    rows, bars = [], {}
    for kind, title in panels.items():
        found = {name: over_seeds(stacked(measured, kind, name)) for name in FACTORS}
        bars[title] = {name: triple(value) for name, value in found.items()}
        rows.append([title, *found.values()])
    picture = figures.correlations(bars, setting.folder / "figure5.png", value_label="Spearman's rho with AP")
    caption = (
        "Rank correlation of the architecture's factors with AP among the trained candidates of stage two, inside each "
        "group. DC_x: where the channels double for the x-th time; len_x: a stage's share of the blocks."
    )
    counted = [", ".join(map(str, numbers["candidates"])) for numbers in measured]
    notes = [f"Candidates a group: {'; '.join(counted)} (a seed each). Candidates differ in FLOPs."]
    return Drawn(Table(["Candidates", *FACTORS], rows), caption, notes, pictures=[picture])


# ------------------------------------------------------------------------------------------------------------------


def _finals(*names: str) -> tuple[str, ...]:
    return tuple(f"final-{slug(name)}" for name in names)


def _transfers() -> tuple[str, ...]:
    """Of Table 5: at every scale each plain detector, and the searched ones at its input size where that is not
    theirs."""
    names = {}
    for preset in PRESETS.values():
        for baseline, models in transferred(preset).items():
            names |= dict.fromkeys((baseline, *models))
    return _finals(*names)


_MODELS = _finals(*(name for name, _ in PRESETS["paper"].models))
_CLASSICS = _finals(*(name for name, _ in PRESETS["paper"].classics))
_MOST_GROUPS = max(preset.groups for preset in PRESETS.values())
_GROUPS = tuple(f"stage-two-c{place}" for place in range(_MOST_GROUPS))
_SEARCHES = ("stage-one", *_GROUPS)
_FOUND = (*_SEARCHES, *_finals(*(f"{kind}{place}" for kind in "CF" for place in range(_MOST_GROUPS))))
_COMPARISON = (*_CLASSICS, *_MODELS, *_FOUND, "latencies-comparison")
EXHIBITS = {
    exhibit.name: exhibit
    for exhibit in (
        Exhibit(
            "table1",
            "Table 1",
            "Preliminary experiments: the best detector depends on the data",
            "time and AP of four detectors on one or two data sets",
            measure_table1,
            table1,
            runs=(*_finals("FPN R50", "RetinaNet R50", "FPN R101", "Cascade R50"), "latencies-table1"),
            second_runs=(*_finals("FPN R50", "RetinaNet R50"), "latencies-table1"),
        ),
        Exhibit(
            "table2",
            "Table 2",
            "Architectures of the final models",
            "costs, time and AP of E0 to E5 and of what was found",
            measure_table2,
            table2,
            runs=(*_MODELS, *_FOUND, "latencies-table2"),
        ),
        Exhibit(
            "table3",
            "Table 3",
            "Training from scratch: normalisation, learning rate and batch size",
            "AP of one detector trained in eight ways",
            measure_table3,
            table3,
            runs=tuple(f"strategy-{row}" for row in range(8)),
        ),
        Exhibit(
            "table4",
            "Table 4",
            "The searched models against other detectors",
            "time and AP by IoU and size",
            measure_comparison,
            table4,
            runs=_COMPARISON,
        ),
        Exhibit(
            "table5",
            "Table 5",
            "Transfer of the searched models to other data",
            "E0, E1 and E3 beside plain detectors on a second data set",
            measure_table5,
            table5,
            second_runs=(*_transfers(), "latencies-table5"),
        ),
        Exhibit(
            "figure1",
            "Figure 1",
            "Time and AP against other detectors",
            "the fronts of searched and classic detectors",
            measure_comparison,
            figure1,
            runs=_COMPARISON,
        ),
        Exhibit(
            "figure3",
            "Figure 3",
            "Stage one: AP and time of combinations of modules",
            "the structural search beside random search",
            measure_figure3,
            figure3,
            runs=("stage-one", "backbones", "longer"),
        ),
        Exhibit(
            "figure4",
            "Figure 4",
            "Stage two: the searched models against C0, C1, ...",
            "the modular searches beside random search",
            measure_figure4,
            figure4,
            runs=_FOUND,
        ),
        Exhibit(
            "figure5",
            "Figure 5",
            "Correlation of architecture factors with AP",
            "rank correlations among the candidates of stage two",
            measure_figure5,
            figure5,
            runs=_SEARCHES,
        ),
    )
}
