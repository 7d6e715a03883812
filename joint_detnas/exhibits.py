"""Every table and figure of Joint-DetNAS by name: what it needs, what it measures on a seed, how it is drawn.

`EXHIBITS[name].measure(study)` gives one seed's numbers (joint_detnas.measurements); `common.reproduce.exhibit` makes
those of all seeds into `exhibits/<name>/`. Means are over seeds, with 95 % Student-t intervals from two seeds on.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.report import figures, searches
from common.report.statistics import Difference
from common.report.tables import Table
from common.reproduce.exhibit import Drawn, Exhibit, Measured, over_seeds, stacked, triple
from joint_detnas.measurements import (
    COCO_NUMBERS,
    measure_figure4,
    measure_figure5,
    measure_figure6,
    measure_figure7,
    measure_table1,
    measure_table2,
    measure_table3,
    measure_table4,
    measure_table5,
    measure_table6,
    measure_table7,
)
from joint_detnas.morphism import KINDS
from joint_detnas.presets import PERCENTAGES, PRESETS, Preset

BACKBONE_NAMES = {
    "resnet18": "R18",
    "resnet34": "R34",
    "resnet50": "R50",
    "resnet101": "R101",
    "resnext50_32x4d": "X50",
    "resnext101_32x4d": "X101",
    "mobilenet_v2": "MobileNetV2",
}
STEPS = (*KINDS, "teacher")
"""What a step of the search may be: four actions of the student, or another teacher."""


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


def detector(backbone: str) -> str:
    """A base detector in the paper's words: R18-FPN."""
    return f"{BACKBONE_NAMES[backbone]}-FPN"


def _over(measured: Sequence[Measured], *keys: str, scale: float = 1.0) -> Difference:
    """Mean over the seeds of what lies under `keys`."""
    return over_seeds(scale * stacked(measured, *keys))


def _apart(measured: Sequence[Measured], one: Sequence[str], other: Sequence[str], key: str = "AP") -> Difference:
    """Mean over the seeds of one minus the other."""
    return over_seeds(stacked(measured, *one, key) - stacked(measured, *other, key))


def _change(measured: Sequence[Measured], one: Sequence[str], other: Sequence[str], key: str) -> Difference:
    """Mean over the seeds of one over the other, less one, in per cent."""
    return over_seeds(100 * (stacked(measured, *one, key) / stacked(measured, *other, key) - 1))


def _images_a_second(measured: Sequence[Measured], *keys: str) -> Difference:
    return over_seeds(1000 / stacked(measured, *keys, "latency"))


def _sizes(measured: Sequence[Measured], *keys: str) -> str:
    """The input size, or those that the seeds found."""
    found = []
    for numbers in measured:
        for key in keys:
            numbers = numbers[key]
        found.append(numbers["size"])
    return ", ".join(dict.fromkeys(found))


# ------------------------------------------------------------------------------------------------------------------
# Tables
# ------------------------------------------------------------------------------------------------------------------


def table1(measured: Sequence[Measured], setting: Setting) -> Drawn:
    rows = []
    for name in measured[0]["rows"]:
        for kind, method in (("alone", "baseline"), ("pool", "our ETP")):
            for size in measured[0]["sizes"]:
                accuracy = {one: stacked(measured, "rows", name, one, "AP_at", size) for one in ("alone", "pool")}
                gain = over_seeds(accuracy["pool"] - accuracy["alone"]) if kind == "pool" else None
                rows.append([f"{name}-FPN", method, size, over_seeds(accuracy[kind]), gain])
    preset = setting.preset
    epochs = ", ".join(f"{phase.epochs} ({phase.name})" for phase in preset.shrinking.phases)
    networks = ", ".join(f"{name} is {teacher}" for name, teacher in preset.equivalents)
    notes = [
        f"Alone: {preset.base_training.epochs} epochs; the pool: {epochs}, of which every phase but the first trains "
        f"{1 + preset.shrinking.networks_a_step} networks a step.",
        f"{networks}; the pool is of bottlenecks throughout, so that its smallest network is no ResNet18.",
    ]
    caption = "Networks out of the elastic teacher pool beside the same ones trained alone; AP on validation images."
    columns = ["Base model", "Method", "Input", "AP", "Gain"]
    return Drawn(Table(columns, rows), caption, notes, {"AP": "points", "Gain": "AP points"})


def table2(measured: Sequence[Measured], setting: Setting) -> Drawn:
    rows, bars = [], {}
    for backbone in measured[0]["rows"]:
        for name in ("baseline", *map(str, PERCENTAGES)):
            row = ("rows", backbone, name)
            accuracy = _over(measured, *row, "AP")
            percentage = "baseline" if name == "baseline" else f"{name} %"
            behind = None if name == "baseline" else _apart(measured, row, ("rows", backbone, "baseline"))
            flops = _over(measured, *row, "backbone_macs_mmdet", scale=1e-6)
            rows.append([detector(backbone), percentage, flops, accuracy, behind])
            bars.setdefault(detector(backbone), {})[percentage] = triple(accuracy)
    picture = figures.bars(bars, setting.folder / "table2.png", value_label="AP (points)")
    epochs = setting.preset.pair_training.epochs
    caption = f"Base detectors whose channels are pruned at once, then trained for {epochs} epochs without a teacher."
    notes = [
        "baseline: the detector as it was; 0 %: nothing is pruned, but it is trained on all the same. The paper's 0 % "
        "is its baseline."
    ]
    columns = ["Model", "Pruning percentage", "Backbone FLOPS", "AP", "Minus the baseline"]
    units = {"Backbone FLOPS": "M", "AP": "points", "Minus the baseline": "AP points"}
    return Drawn(Table(columns, rows), caption, notes, units, [picture])


def table3(measured: Sequence[Measured], setting: Setting) -> Drawn:
    rows = []
    for backbone in measured[0]["rows"]:
        here = ("rows", backbone)
        for kind, method in (("imitation", "FGFI"), ("ours", "our KD")):
            rows.append(
                [
                    method,
                    BACKBONE_NAMES[backbone],
                    measured[0]["rows"][backbone]["teacher"]["name"],
                    _over(measured, *here, "baseline", "AP"),
                    _over(measured, *here, "teacher", "AP"),
                    _over(measured, *here, kind, "AP"),
                    _apart(measured, (*here, kind), (*here, "baseline")),
                ]
            )
    epochs = setting.preset.base_training.epochs
    caption = f"Students trained for {epochs} epochs alone (baseline) and under a teacher out of the pool."
    notes = ["Task adaptive regularisation (TAR) is not trained here."]
    columns = ["KD method", "Student", "Teacher", "Baseline AP", "Teacher AP", "AP", "Gain"]
    units = dict.fromkeys(("Baseline AP", "Teacher AP", "AP"), "points") | {"Gain": "AP points"}
    return Drawn(Table(columns, rows), caption, notes, units)


_GROUPS = {"baseline": "baseline", "distilled": "distillation alone", "ours": "ours"}


def table4(measured: Sequence[Measured], setting: Setting) -> Drawn:
    rows = []
    for backbone, groups in measured[0]["rows"].items():
        before = ("rows", backbone, "baseline")
        for kind in (name for name in _GROUPS if name in groups):
            row, changed = ("rows", backbone, kind), kind != "baseline"
            speed = _images_a_second(measured, *row)
            faster = over_seeds(100 * (stacked(measured, *before, "latency") / stacked(measured, *row, "latency") - 1))
            rows.append(
                [
                    detector(backbone),
                    _GROUPS[kind],
                    _over(measured, *row, "macs_mmdet", scale=1e-6),
                    _change(measured, row, before, "macs_mmdet") if changed else None,
                    speed,
                    faster if changed else None,
                    _over(measured, *row, "AP"),
                    _apart(measured, row, before) if changed else None,
                    _sizes(measured, *row),
                ]
            )
    preset = setting.preset
    notes = [
        f"distillation alone: the largest teacher trains the base detector on for {preset.teaching.budget} pairs, with "
        "nothing changed; the best of them.",
        f"A search trains {preset.search.budget} pairs of {preset.pair_training.epochs} epochs; what it finds is "
        "trained no further.",
        "Base and upgraded detector are timed in turn.",
    ]
    caption = "Base detectors and what the search made of them, at the input size it found; on validation images."
    columns = ["Base model", "Group", "FLOPS", "FLOPS change", "FPS", "FPS change", "AP", "Gain", "Input"]
    units = {"FLOPS": "M", "FLOPS change": "%", "FPS": "images a second", "FPS change": "%", "AP": "points"}
    return Drawn(Table(columns, rows), caption, notes, units | {"Gain": "AP points"})


_METHODS = {"prune-kd": "prune-KD", "nas-prune-kd": "NAS-prune-KD", "joint": "Joint-DetNAS"}


def table5(measured: Sequence[Measured], setting: Setting) -> Drawn:
    rows, flops = [], "backbone_macs_at_base_size"
    base = BACKBONE_NAMES[setting.preset.backbone]
    for name, method in _METHODS.items():
        after, before = ("rows", name, "after"), ("rows", name, "before")
        pipeline = name != "joint"
        title = f"{base}-prune-KD" if name == "prune-kd" else method if pipeline else f"{method} ({base})"
        rows.append(
            [
                title,
                _over(measured, *before, flops, scale=1e-6) if pipeline else None,
                _over(measured, *before, "AP") if pipeline else None,
                _over(measured, *after, flops, scale=1e-6),
                _change(measured, after, before, flops) if pipeline else None,
                _over(measured, *after, "AP"),
                _apart(measured, after, before) if pipeline else None,
                _apart(measured, ("rows", "joint", "after"), after) if pipeline else None,
            ]
        )
    preset, size = setting.preset, _sizes(measured, "rows", "joint", "after")
    before_size, nas_size = (_sizes(measured, "rows", name, "before") for name in ("prune-kd", "nas-prune-kd"))
    notes = [
        f"Pipelines are pruned at once and distilled from the largest teacher for {preset.base_training.epochs} "
        "epochs, the base detector's schedule; NAS is the search without teacher and channel pruning, half its pairs.",
        f"FLOPs at the base size; final AP at the size that the joint search found: {size}. Intermediate AP, which the "
        f"gain is from, is at the size of each: {before_size} of the base detector, {nas_size} of what NAS found.",
    ]
    caption = "The joint search beside pipelines that do one thing after the other, at one backbone cost."
    columns = ["Method", "Intermediate backbone FLOPS", "Intermediate AP", "Final backbone FLOPS", "FLOPS change"]
    columns += ["Final AP", "Gain", "Joint-DetNAS minus it"]
    units = dict.fromkeys(("Intermediate backbone FLOPS", "Final backbone FLOPS"), "M") | {"FLOPS change": "%"}
    units |= {"Intermediate AP": "points", "Final AP": "points", "Gain": "AP points"}
    return Drawn(Table(columns, rows), caption, notes, units | {"Joint-DetNAS minus it": "AP points"})


def table6(measured: Sequence[Measured], setting: Setting) -> Drawn:
    rows = []
    for backbone, groups in measured[0]["rows"].items():
        name = BACKBONE_NAMES[backbone]
        methods = {
            "baseline": ("FPN", name, None),
            "ours": (f"Joint-DetNAS ({name})", f"{name}-searched", 0),
            "cascade": (
                f"Joint-DetNAS ({name}-Cascade)",
                f"{name}-searched-DCN",
                setting.preset.cascade.optimisation.epochs,
            ),
        }
        for kind in groups:
            row, (method, searched, epochs) = ("rows", backbone, kind), methods[kind]
            accuracy = [_over(measured, *row, key) for key in COCO_NUMBERS]
            size, speed = _sizes(measured, *row), _images_a_second(measured, *row)
            rows.append([method, searched, size, epochs, speed, *accuracy])
    notes = [
        "Detectors of other papers are not trained here. Post-search training: epochs after the search; its last "
        "training is that of the pair itself."
    ]
    columns = ["Method", "Backbone", "Input", "Post-search training", "FPS", *COCO_NUMBERS]
    units = {"Post-search training": "epochs", "FPS": "images a second"} | dict.fromkeys(COCO_NUMBERS, "points")
    return Drawn(Table(columns, rows), "Base and upgraded detectors on validation images.", notes, units)


_SEARCHES = {"random": "random search", "none": "Joint-DetNAS"}


def table7(measured: Sequence[Measured], setting: Setting) -> Drawn:
    rows, curves = [], {}
    for name, method in _SEARCHES.items():
        row = ("searches", name)
        scores = stacked(measured, *row, "scores")  # (S, pairs + 1)
        columns = zip(*(triple(over_seeds(scores[:, place])) for place in range(scores.shape[1])), strict=True)
        curves[method] = (np.arange(scores.shape[1]), *map(np.array, columns))
        rows.append(
            [
                method,
                _over(measured, *row, "macs_mmdet", scale=1e-6),
                _over(measured, *row, "AP"),
                over_seeds(scores[:, -1]),
                _over(measured, *row, "pairs").mean,
                _over(measured, *row, "search seconds", scale=1 / 60),
            ]
        )
    picture = searches.progress(
        curves, setting.folder / "table7.png", x_label="Pairs trained", y_label="Best score so far (points)"
    )
    share, apart = (_over(measured, "evidence", key) for key in ("share of the budget", "search minus random"))
    pool = _over(measured, "pool seconds", scale=1 / 60)
    notes = [
        f"The search is above all that random search finds after {100 * share.mean:.0f} % of its pairs (100 %: never); "
        f"at the end its best score is {apart.mean:+.2f} points on random search's.",
        "random search draws parents from all pairs, so that nothing is selected; both share pool and base detector.",
        f"Training the teacher pool takes {pool.mean:.1f} minutes beside it.",
    ]
    caption = "What a search trains and finds; AP on validation images, the score on held-out training images."
    columns = ["Search method", "FLOPS", "AP", "Best score", "Searched architectures", "Search cost"]
    units = {"FLOPS": "M", "AP": "points", "Best score": "points of H", "Search cost": "minutes"}
    return Drawn(Table(columns, rows), caption, notes, units, [picture])


# ------------------------------------------------------------------------------------------------------------------
# Figures
# ------------------------------------------------------------------------------------------------------------------


def figure4(measured: Sequence[Measured], setting: Setting) -> Drawn:
    labels = {"dynamic": "Dynamic KD", "conventional": "Conventional KD"}
    rows, curves = [], {}
    for name, label in labels.items():
        scores = stacked(measured, "curves", name)  # (S, pairs + 1)
        means = [over_seeds(scores[:, place]) for place in range(scores.shape[1])]
        columns = zip(*map(triple, means), strict=True)
        curves[label] = (np.arange(len(means)), *map(np.array, columns))
        rows += [[label, place, mean] for place, mean in enumerate(means)]
    picture = searches.progress(
        curves, setting.folder / "figure4.png", x_label="Pairs trained", y_label="Best score so far (points)"
    )
    ends, way = (_over(measured, "evidence", key) for key in ("dynamic ends", "dynamic on the way"))
    notes = [f"Dynamic minus conventional: {ends.mean:+.2f} points at the end, {way.mean:+.2f} on average."]
    caption = (
        f"{detector(setting.preset.backbone)}, its architecture fixed, trained on pair by pair "
        f"({setting.preset.pair_training.epochs} epochs each) under changing teachers, or under the largest always."
    )
    columns = ["Teacher", "Pairs trained", "Best score"]
    return Drawn(Table(columns, rows), caption, notes, {"Best score": "points of H"}, [picture])


def figure5(measured: Sequence[Measured], setting: Setting) -> Drawn:
    rows, curves, points = [], {}, {}
    for backbone in measured[0]["students"]:
        label, students = detector(backbone), [numbers["students"][backbone] for numbers in measured]
        length = min(len(each["leading teacher's parameters"]) for each in students)
        leading = np.array([each["leading teacher's parameters"][:length] for each in students])
        columns = zip(*(triple(over_seeds(leading[:, place])) for place in range(length)), strict=True)
        curves[label] = (np.arange(1, length + 1), *map(np.array, columns))
        points[label] = [
            pair for each in students for pair in zip(each["teacher parameters"], each["gain"], strict=True)
        ]
        every = [over_seeds([float(np.mean(each[key])) for each in students]) for key in ("teacher parameters", "gain")]
        best, tau = (over_seeds([_number(each[key]) for each in students]) for key in ("best teachers", "tau"))
        rows.append([label, best, *every, tau])
    pictures = [
        searches.progress(
            curves,
            setting.folder / "figure5-leading.png",
            x_label="Pairs trained",
            y_label="Parameters of the best pair's teacher (M)",
        ),
        searches.fronts(
            points,
            setting.folder / "figure5-teachers.png",
            cost_label="Parameters of the teacher's backbone (M)",
            accuracy_label="What it raised the score by (points)",
        ),
    ]
    caption = (
        f"Teachers of students with a fixed architecture, {setting.preset.teaching.budget} pairs each, the first "
        "taught by a neighbour of the largest."
    )
    notes = [
        "Tau: Kendall's rank correlation of a teacher's AP, on held-out training images, with what the student's score "
        "rose by under it."
    ]
    columns = ["Student", "Best three pairs' teachers", "All teachers", "Gain of a pair", "Tau of AP and gain"]
    units = dict.fromkeys(columns[1:3], "M parameters of the backbone") | {"Gain of a pair": "points of H"}
    return Drawn(Table(columns, rows), caption, notes, units, pictures)


def figure6(measured: Sequence[Measured], setting: Setting) -> Drawn:
    rows, increments = [], {}
    for kind in STEPS:
        by_seed = [
            [step for steps in numbers["searches"].values() for step in steps if step["kind"] == kind]
            for numbers in measured
        ]
        raised = over_seeds([sum(max(step["gain"], 0.0) for step in steps) for steps in by_seed])
        good = [step for steps in by_seed for step in steps if step["gain"] > 0]
        count = sum(map(len, by_seed))
        place = float(np.mean([step["pair"] for step in good])) if good else math.nan
        rows.append([kind, count, len(good) / count if count else math.nan, raised, place])
        increments[kind] = {"Sum of increments": triple(raised)}
    budget = setting.preset.search.budget
    parts = {"first half": (1, budget // 2), "second half": (budget // 2 + 1, budget)}
    shares = {
        part: {kind: (_share_of(measured, kind, *pairs), math.nan, math.nan) for kind in STEPS}
        for part, pairs in parts.items()
    }
    pictures = [
        figures.bars(increments, setting.folder / "figure6-score.png", value_label="Sum of score increments (points)"),
        figures.bars(shares, setting.folder / "figure6-time.png", value_label="Share of all beneficial steps"),
    ]
    caption = (
        "Steps of the searches by what they did. An increment is a pair's score less its parent's; those above 0 are "
        "summed."
    )
    share, place = (_over(measured, "evidence", key) for key in ("pruning's share", "pruning's place"))
    notes = [
        f"Channel pruning brings {100 * share.mean:.0f} % of what the student's actions raise the score by; its steps "
        f"come {place.mean:+.2f} of the search later than the others."
    ]
    columns = ["Step", "Pairs", "Beneficial", "Score increments", "Mean pair of beneficial ones"]
    units = {"Beneficial": "share", "Score increments": "points of H"}
    return Drawn(Table(columns, rows), caption, notes, units, pictures)


def _share_of(measured: Sequence[Measured], kind: str, first: int, last: int) -> float:
    """Of the beneficial steps among some pairs, those of one kind."""
    good = [
        step["kind"]
        for numbers in measured
        for steps in numbers["searches"].values()
        for step in steps
        if step["gain"] > 0 and first <= step["pair"] <= last
    ]
    return good.count(kind) / len(good) if good else math.nan


def figure7(measured: Sequence[Measured], setting: Setting) -> Drawn:
    rows, bars = [], {}
    for backbone in measured[0]["stages"]:
        for when in ("before", "after"):
            costs = 1e-6 * stacked(measured, "stages", backbone, when)  # (S, 4)
            means = [over_seeds(costs[:, place]) for place in range(costs.shape[1])]
            rows.append([detector(backbone), when, *means])
            bars[f"{detector(backbone)} {when}"] = {f"stage {n}": triple(mean) for n, mean in enumerate(means, 1)}
    picture = figures.bars(bars, setting.folder / "figure7.png", value_label="FLOPs of the backbone (MMACs)")
    shares = [_over_stage(measured, place) for place in range(4)]
    lost = ", ".join(f"stage {n} {100 * share.mean:.1f} %" for n, share in enumerate(shares, 1))
    notes = [f"Lost, as a share of all four stages (the stem aside), mean over the backbones: {lost}."]
    caption = "Where the backbone computes, at the base size: stages 1 to 4 put out strides 4, 8, 16 and 32."
    columns = ["Backbone", "Search", *(f"Stage {number}" for number in range(1, 5))]
    return Drawn(Table(columns, rows), caption, notes, dict.fromkeys(columns[2:], "M"), [picture])


def _over_stage(measured: Sequence[Measured], place: int) -> Difference:
    return over_seeds(stacked(measured, "evidence", "stages")[:, place])


def _number(value: float | None) -> float:
    return math.nan if value is None else value


# ------------------------------------------------------------------------------------------------------------------


def _named(what: str, of: str, *endings: str) -> tuple[str, ...]:
    """Runs of all backbones that any scale has: base-resnet18, ..."""
    backbones = dict.fromkeys(each for preset in PRESETS.values() for each in getattr(preset, of))
    return tuple(
        f"{what}-{backbone.replace('_', '-')}{ending}" for backbone in backbones for ending in endings or ("",)
    )


_OWN = tuple(dict.fromkeys(preset.backbone.replace("_", "-") for preset in PRESETS.values()))
_NAMES = tuple(dict.fromkeys(name for preset in PRESETS.values() for name, _ in preset.equivalents))
_STUDENTS = tuple(
    dict.fromkeys(backbone.replace("_", "-") for preset in PRESETS.values() for backbone, _ in preset.lessons)
)
_UPGRADES = ("pool", *_named("base", "upgraded_backbones"), *_named("search", "upgraded_backbones"))
_TIMED = _named("latencies", "upgraded_backbones")


def _own(what: str, ending: str = "") -> tuple[str, ...]:
    """Runs of the scales' own backbones."""
    return tuple(f"{what}-{backbone}{ending}" for backbone in _OWN)


EXHIBITS = {
    exhibit.name: exhibit
    for exhibit in (
        Exhibit(
            "table1",
            "Table 1",
            "Sub-networks of the elastic teacher pool against the same networks trained alone",
            "AP of networks out of the pool and trained alone",
            measure_table1,
            table1,
            runs=("pool", *(f"{what}-{name}" for what in ("alone", "sampled") for name in _NAMES)),
        ),
        Exhibit(
            "table2",
            "Table 2",
            "Channel pruning of base detectors",
            "AP and cost after pruning 0 to 30 % of the channels",
            measure_table2,
            table2,
            runs=(
                *_named("base", "pruned_backbones"),
                *_named("pruned", "pruned_backbones", *(f"-{percentage}" for percentage in PERCENTAGES)),
            ),
        ),
        Exhibit(
            "table3",
            "Table 3",
            "Distillation against baselines",
            "AP of students alone, by imitation and by our distillation",
            measure_table3,
            table3,
            runs=(
                "pool",
                *(f"base-{name}" for name in _STUDENTS),
                *(f"distilled-{name}-{method}" for name in _STUDENTS for method in ("ours", "imitation")),
                *(f"sampled-{name}" for name in _NAMES),
            ),
        ),
        Exhibit(
            "figure4",
            "Figure 4",
            "Dynamic against conventional distillation",
            "the score of one student under changing teachers and under the largest",
            measure_figure4,
            figure4,
            runs=("pool", *_own("base"), *_own("search", "-fixed-student"), *_own("search", "-fixed-pair")),
        ),
        Exhibit(
            "table4",
            "Table 4",
            "Base detectors and what they are upgraded to",
            "cost, speed and AP before and after the search",
            measure_table4,
            table4,
            runs=(*_UPGRADES, *_TIMED, *(run for what in ("search", "latencies") for run in _own(what, "-fixed-pair"))),
        ),
        Exhibit(
            "table5",
            "Table 5",
            "Joint optimisation against pipelines of NAS, pruning and distillation",
            "AP at one backbone cost",
            measure_table5,
            table5,
            runs=(
                "pool",
                *_own("base"),
                *_own("search"),
                *_own("search", "-nas"),
                *_own("pipeline", "-prune-kd"),
                *_own("pipeline", "-nas-prune-kd"),
            ),
        ),
        Exhibit(
            "figure5",
            "Figure 5",
            "The size of the matching teacher, by student",
            "teachers of fixed students",
            measure_figure5,
            figure5,
            runs=(
                "pool",
                *_named("base", "taught_backbones"),
                *_named("search", "taught_backbones", "-fixed-student"),
                *_named("teachers", "taught_backbones"),
            ),
        ),
        Exhibit(
            "figure6",
            "Figure 6",
            "What each action brings, and when",
            "the steps of the searches",
            measure_figure6,
            figure6,
            runs=_UPGRADES,
        ),
        Exhibit(
            "table6",
            "Table 6",
            "Upgraded detectors by all COCO numbers",
            "speed and AP by IoU and size",
            measure_table6,
            table6,
            runs=(*_UPGRADES, *_TIMED, *_named("cascade", "cascaded_backbones")),
        ),
        Exhibit(
            "table7",
            "Table 7",
            "The cost of the search",
            "pairs, time and result of the search and of random search",
            measure_table7,
            table7,
            runs=("pool", *_own("base"), *_own("search"), *_own("search", "-random")),
        ),
        Exhibit(
            "figure7",
            "Figure 7",
            "Computation of the backbone's stages before and after the search",
            "costs of the four resolutions",
            measure_figure7,
            figure7,
            runs=_UPGRADES,
        ),
    )
}
