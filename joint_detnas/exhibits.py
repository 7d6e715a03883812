"""Every table and figure of Joint-DetNAS in the paper's order: what it measures on a seed, how it is drawn, its claims.

A claim is reproduced when the whole 95 % interval over the seeds lies on the claimed side of its threshold, in every
condition; the rules were written before the runs that they judge. AP and the score H are in points (0 to 100). AP is
on validation images, by which nothing was chosen; the score is on held-out training images, as the search has it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from common.plain import from_json
from common.report.claims import Claim, Condition, Evidence
from common.report.exhibit import Drawn, Exhibit, Measured, Picture, Setting, over_seeds, stacked, triple
from common.report.reproduce import Paper
from common.report.statistics import Difference, kendall_tau
from common.report.tables import Table
from joint_detnas.presets import KINDS, PERCENTAGES, Teacher, size_name

if TYPE_CHECKING:
    from joint_detnas.study import JointDetNASStudy

COCO_NUMBERS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
BACKBONE_NAMES = {
    "resnet18": "R18",
    "resnet34": "R34",
    "resnet50": "R50",
    "resnet101": "R101",
    "resnext50_32x4d": "X50",
    "resnext101_32x4d": "X101",
    "mobilenet_v2": "MobileNetV2",
}

# ---- What several exhibits measure


def detector_numbers(result: Mapping[str, Any]) -> dict[str, Any]:
    """What tables show of a detector. result: as the study's `report` gives it, AP from 0 to 1."""
    kept = ("macs", "macs_mmdet", "params", "backbone_macs_mmdet", "backbone_macs_at_base_size", "latency", "seconds")
    return {
        **{name: _points(result.get(name)) for name in COCO_NUMBERS},
        **{name: result.get(name) for name in kept},
        "size": size_name(result["size"]),
        "AP_at": {size: _points(each) for size, each in result["AP_at"].items()},
    }


def _points(share: float | None) -> float:
    """A share of 1 in points; NaN for None."""
    return math.nan if share is None else 100 * share


def upgrades(study: "JointDetNASStudy") -> dict[str, dict[str, Any]]:
    """The base detector ("baseline") and the upgraded one ("ours") of every backbone, their latencies timed in turn."""
    rows = {}
    for backbone in study.preset.upgraded_backbones:
        of = study.upgrading(backbone)
        timed = of.latencies()
        before = detector_numbers(of.base() | {"latency": timed["base"]["latency"]})
        after = detector_numbers(of.upgraded() | {"latency": timed["upgraded"]["latency"]})
        rows[backbone] = {"baseline": before, "ours": after | {"latency of the baseline's": latency_ratio(timed)}}
    return rows


def latency_ratio(timed: Mapping[str, Any]) -> float:
    """Latency of the upgraded detector over that of the base: the median over the rounds, each of which timed both."""
    return float(np.median(np.divide(timed["upgraded"]["rounds"], timed["base"]["rounds"])))


def best_scores(searched: Mapping[str, Any]) -> list[float]:
    """The best score after each pair of a search, the base detector's first."""
    scores = [-math.inf if step["score"] is None else 100 * step["score"] for step in searched["steps"]]
    return np.maximum.accumulate(scores).tolist()


def trained_steps(searched: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The steps of a search without the base detector and without pairs that failed."""
    return [step for step in searched["steps"][1:] if step["score"] is not None]


def _mean(values: Sequence[float]) -> float:
    """The mean; NaN of nothing."""
    return float(np.mean(values)) if len(values) else math.nan


# ---- What several exhibits show


@dataclass(frozen=True)
class Shown:
    """Means over the seeds of what each measured under `keys`, a detector's numbers for the most part."""

    measured: Sequence[Measured]
    keys: tuple[str, ...] = ()

    def __getitem__(self, keys: str | tuple[str, ...]) -> "Shown":
        return Shown(self.measured, self.keys + (keys if isinstance(keys, tuple) else (keys,)))

    @property
    def values(self) -> np.ndarray:
        """(S, ...)"""
        return stacked(self.measured, *self.keys)

    def mean(self, scale: float = 1.0) -> Difference:
        return over_seeds(scale * self.values)

    @property
    def ap(self) -> Difference:
        return self["AP"].mean()

    def ap_minus(self, other: "Shown") -> Difference:
        return over_seeds(self["AP"].values - other["AP"].values)

    def change(self, key: str, before: "Shown") -> Difference:
        """What `key` changed by, in per cent of what it was before."""
        return over_seeds(100 * (self[key].values / before[key].values - 1))

    @property
    def images_a_second(self) -> Difference:
        return over_seeds(1000 / self["latency"].values)

    @property
    def size(self) -> str:
        """The input size; several, in the order of the seeds, where the seeds found different ones."""
        found = self.measured
        for key in self.keys:
            found = [each[key] for each in found]
        return ", ".join(dict.fromkeys(each["size"] for each in found))


def detector(backbone: str) -> str:
    """A base detector in the paper's words: R18-FPN."""
    return f"{BACKBONE_NAMES[backbone]}-FPN"


def _drawn(
    units: Mapping[str, str],
    rows: Sequence[Sequence[Any]],
    caption: str,
    notes: Sequence[str] = (),
    pictures: Sequence[Picture] = (),
) -> Drawn:
    """units: of every column, "" for none."""
    return Drawn(Table([*units], rows), caption, notes, {name: unit for name, unit in units.items() if unit}, pictures)


def _curve(values: ArrayLike, first: int = 0) -> list[list[float]]:
    """A line for `common.report.figures.progress`. values: (S, N) -> x from `first` on, mean, low, high, each (N,)."""
    every = [triple(over_seeds(at)) for at in np.asarray(values, dtype=float).T]
    return [list(range(first, first + len(every))), *map(list, zip(*every, strict=True))]


def _score_curves(name: str, curves: Mapping[str, Any]) -> Picture:
    labels = {"x_label": "Pairs trained", "y_label": "Best score so far (points)"}
    return Picture(name, "progress", {"curves": curves, **labels})


def _bars(name: str, groups: Mapping[str, Any], value_label: str) -> Picture:
    return Picture(name, "bars", {"groups": groups, "value_label": value_label})


# ---- What claims are judged by

Judged = Callable[[Evidence], np.ndarray]


def apart(name: str, one: int, other: int) -> Judged:
    """evidence -> the column `one` of evidence (S, ..., columns) minus the column `other`."""
    return lambda evidence: evidence[name][..., one] - evidence[name][..., other]


def ap_rule(quantity: str, value: Judged, effect: float = 0.5, least: float = 0.0) -> Condition:
    """AP points above `least`."""
    return Condition(quantity, value, "above", least, "AP points", effect)


# ---- Table 1: networks out of the teacher pool


def measure_table1(study: "JointDetNASStudy") -> Measured:
    """Networks out of the pool beside the same ones trained alone, at the two largest sizes."""
    sizes = [size_name(size) for size in study.preset.sizes[-2:]]
    rows, gains = {}, []
    for name, _ in study.preset.equivalents:
        rows[name] = {"alone": detector_numbers(study.alone(name)), "pool": detector_numbers(study.sampled(name))}
        gains.append(_mean([rows[name]["pool"]["AP_at"][size] - rows[name]["alone"]["AP_at"][size] for size in sizes]))
    return {"sizes": sizes, "rows": rows, "evidence": {"pool minus alone": gains}}


def draw_table1(measured: Sequence[Measured], setting: Setting) -> Drawn:
    rows, preset = [], setting.preset
    for name in measured[0]["rows"]:
        alone, pool = (Shown(measured)["rows", name, kind, "AP_at"] for kind in ("alone", "pool"))
        for size in measured[0]["sizes"]:
            rows.append([f"{name}-FPN", "baseline", size, alone[size].mean(), None])
        for size in measured[0]["sizes"]:
            gain = over_seeds(pool[size].values - alone[size].values)
            rows.append([f"{name}-FPN", "our ETP", size, pool[size].mean(), gain])
    epochs = ", ".join(f"{phase['epochs']} ({phase['name']})" for phase in preset["shrinking"]["phases"])
    networks = [f"{name} is {from_json(Teacher, teacher)}" for name, teacher in preset["equivalents"]]
    return _drawn(
        {"Base model": "", "Method": "", "Input": "", "AP": "points", "Gain": "AP points"},
        rows,
        "Networks out of the elastic teacher pool beside the same ones trained alone; AP on validation images.",
        [
            f"Alone: {preset['base_training']['epochs']} epochs. The pool: {epochs}; every phase but the first trains "
            f"{1 + preset['shrinking']['networks_a_step']} networks a step.",
            f"{', '.join(networks)}. The pool has bottlenecks throughout, so its smallest network is not a ResNet18.",
        ],
    )


POOL_MINUS_ALONE = ap_rule(
    "AP out of the pool minus AP of the same network trained alone by the base detector's schedule (mean "
    "over the networks and the two largest sizes)",
    itemgetter("pool minus alone"),  # (S, networks)
)
JD1 = Claim(
    "JD-1",
    "Table 1",
    "sub-networks of the elastic teacher pool beat the same nets trained alone",
    (POOL_MINUS_ALONE,),
    "+0.1..+3.4 AP",
)

# ---- Table 2: channel pruning


def measure_table2(study: "JointDetNASStudy") -> Measured:
    """Base detectors as they were, and with so many per cent of their channels pruned."""
    rows, ap = {}, []
    for backbone in study.preset.pruned_backbones:
        of = study.upgrading(backbone)
        rows[backbone] = {"baseline": detector_numbers(of.base())}
        rows[backbone] |= {str(percentage): detector_numbers(of.pruned(percentage)) for percentage in PERCENTAGES}
        ap.append([row["AP"] for row in rows[backbone].values()])
    return {"rows": rows, "evidence": {"pruned": ap}}


def draw_table2(measured: Sequence[Measured], setting: Setting) -> Drawn:
    rows, bars = [], {}
    for backbone in measured[0]["rows"]:
        base, name = Shown(measured)["rows", backbone, "baseline"], detector(backbone)
        shown = {"baseline": base} | {f"{each} %": Shown(measured)["rows", backbone, str(each)] for each in PERCENTAGES}
        for percentage, row in shown.items():
            behind = None if row is base else row.ap_minus(base)
            rows.append([name, percentage, row["backbone_macs_mmdet"].mean(1e-6), row.ap, behind])
        bars[name] = {percentage: triple(row.ap) for percentage, row in shown.items()}
    return _drawn(
        dict.fromkeys(("Model", "Pruning percentage"), "")
        | {"Backbone FLOPS": "M", "AP": "points", "Minus the baseline": "AP points"},
        rows,
        "Base detectors whose channels are pruned at once, then trained for "
        f"{setting.preset['pair_training']['epochs']} epochs without a teacher.",
        [
            "baseline: the detector as it was. 0 %: nothing is pruned, but it is trained on as long as the others. The "
            "paper's 0 % is its baseline."
        ],
        [_bars("table2", bars, "AP (points)")],
    )


BASELINE, NOT_PRUNED, TEN, THIRTY = 0, 1, 2, 4
"""Columns of the evidence "pruned" (S, detectors, 5)."""

JD2 = Claim(
    "JD-2",
    "Table 2",
    "pruning 10 % of channels costs no AP, 30 % under 1 AP",
    (
        ap_rule(
            "AP after pruning 10 % of the channels and the training of a pair without a teacher minus AP of the "
            "detector as it was (mean over the detectors)",
            apart("pruned", TEN, BASELINE),
        ),
        ap_rule(
            "AP after pruning 30 % and that training minus AP of the detector as it was (mean over the detectors)",
            apart("pruned", THIRTY, BASELINE),
            least=-1.0,
        ),
        ap_rule(
            "AP after pruning 30 % and that training minus AP after that training alone (mean over the detectors)",
            apart("pruned", THIRTY, NOT_PRUNED),
            least=-1.0,
        ),
    ),
    "R50 37.1 -> 37.3/37.0/36.4; R101 39.0 -> 39.2/38.8/38.3",
)

# ---- Table 3: distillation


def measure_table3(study: "JointDetNASStudy") -> Measured:
    """Students trained alone, by fine-grained feature imitation and by the paper's distillation."""
    rows, ap = {}, []
    for backbone, teacher in study.preset.lessons:
        of = study.upgrading(backbone)
        rows[backbone] = {
            "teacher": {"name": teacher, **detector_numbers(study.sampled(teacher))},
            "baseline": detector_numbers(of.base()),
            "imitation": detector_numbers(of.distilled(teacher, "imitation")),
            "ours": detector_numbers(of.distilled(teacher, "ours")),
        }
        ap.append([rows[backbone][name]["AP"] for name in ("baseline", "imitation", "ours")])
    return {"rows": rows, "evidence": {"distilled": ap}}


def draw_table3(measured: Sequence[Measured], setting: Setting) -> Drawn:
    rows = []
    for backbone, row in measured[0]["rows"].items():
        shown = Shown(measured)["rows", backbone]
        alone, teacher = shown["baseline"], shown["teacher"]
        for kind, method in (("imitation", "FGFI"), ("ours", "our KD")):
            names, taught = [method, BACKBONE_NAMES[backbone], row["teacher"]["name"]], shown[kind]
            rows.append([*names, alone.ap, teacher.ap, taught.ap, taught.ap_minus(alone)])
    return _drawn(
        dict.fromkeys(("KD method", "Student", "Teacher"), "")
        | dict.fromkeys(("Baseline AP", "Teacher AP", "AP"), "points")
        | {"Gain": "AP points"},
        rows,
        f"Students trained for {setting.preset['base_training']['epochs']} epochs, alone (baseline) and under a "
        "teacher out of the pool.",
        ["Task adaptive regularisation (TAR) is not trained here."],
    )


ALONE, IMITATION, OURS = range(3)
"""Columns of the evidence "distilled" (S, students, 3)."""

JD3 = Claim(
    "JD-3",
    "Table 3",
    "the proposed distillation lifts a student by about 2 AP, more than fine-grained feature imitation",
    (
        ap_rule(
            "AP by the paper's distillation minus AP of the student alone, trained as long from the same weights "
            "(mean over the students)",
            apart("distilled", OURS, ALONE),
            effect=1.0,
        ),
        ap_rule(
            "AP by the paper's distillation minus AP by fine-grained feature imitation (mean over the students)",
            apart("distilled", OURS, IMITATION),
            effect=1.0,
        ),
    ),
    "+2.1, +2.1",
)

# ---- Figure 4: dynamic and conventional distillation

KD_CURVES = {"dynamic": ("fixed-student", "Dynamic KD"), "conventional": ("fixed-pair", "Conventional KD")}
"""Curve -> the search that it is of, and its label."""


def measure_figure4(study: "JointDetNASStudy") -> Measured:
    """The best score so far of one student, under changing teachers and under the largest."""
    curves = {name: best_scores(study.search(control)) for name, (control, _) in KD_CURVES.items()}
    ahead = np.subtract(curves["dynamic"], curves["conventional"])[1:]
    found = {"dynamic ends": float(ahead[-1]), "dynamic on the way": float(ahead.mean())}
    return {"curves": curves, "evidence": found}


def draw_figure4(measured: Sequence[Measured], setting: Setting) -> Drawn:
    rows, curves = [], {}
    for name, (_, label) in KD_CURVES.items():
        scores = stacked(measured, "curves", name)  # (S, pairs + 1)
        curves[label] = _curve(scores)
        rows += [[label, place, over_seeds(at)] for place, at in enumerate(scores.T)]
    ends, way = (Shown(measured)["evidence", key].mean() for key in ("dynamic ends", "dynamic on the way"))
    return _drawn(
        {"Teacher": "", "Pairs trained": "", "Best score": "points of H"},
        rows,
        f"{detector(setting.preset['backbone'])}, its architecture fixed, trained on pair by pair "
        f"({setting.preset['pair_training']['epochs']} epochs each) under changing teachers, or always under the "
        "largest.",
        [f"Dynamic minus conventional: {ends.mean:+.2f} points at the end, {way.mean:+.2f} on average."],
        [_score_curves("figure4", curves)],
    )


JD6 = Claim(
    "JD-6",
    "Figure 4",
    "a dynamic teacher lifts the student faster and ends higher than the fixed largest teacher",
    (
        Condition(
            "best score of one student under changing teachers minus that under the largest after as many pairs "
            "(mean over the pairs)",
            itemgetter("dynamic on the way"),  # (S,)
            unit="points of H",
            effect=0.5,
        ),
        Condition(
            "best score under changing teachers minus that under the largest after the last pair",
            itemgetter("dynamic ends"),
            unit="points of H",
            effect=0.5,
        ),
    ),
)

# ---- Table 4: upgraded detectors

GROUPS = {"baseline": "baseline", "distilled": "distillation alone", "ours": "ours"}


def measure_table4(study: "JointDetNASStudy") -> Measured:
    """Base detectors and what they are upgraded to; of the preset's backbone also one that was only distilled: trained
    on under the largest teacher, pair by pair, with nothing changed."""
    rows, own = upgrades(study), study.preset.backbone
    # timed in turn with the base, but at another time than what the search found: so by its ratio to the base
    latency = rows[own]["baseline"]["latency"] * latency_ratio(study.latencies("fixed-pair"))
    rows[own]["distilled"] = detector_numbers(study.upgraded("fixed-pair") | {"latency": latency})
    every = [study.upgrading(backbone) for backbone in study.preset.upgraded_backbones]
    found = {
        "gain": lambda: [_points(of.upgraded()["AP"]) - _points(of.base()["AP"]) for of in every],
        "cost": lambda: [of.upgraded()["macs_mmdet"] / of.base()["macs_mmdet"] for of in every],
        "time": lambda: [latency_ratio(of.latencies()) for of in every],
    }
    return {"rows": rows, "evidence": found}


def draw_table4(measured: Sequence[Measured], setting: Setting) -> Drawn:
    rows, preset = [], setting.preset
    for backbone, groups in measured[0]["rows"].items():
        before = Shown(measured)["rows", backbone, "baseline"]
        for kind in (name for name in GROUPS if name in groups):
            row = Shown(measured)["rows", backbone, kind]
            changes = [None] * 3
            if kind != "baseline":  # 1 / latency is what FPS is, so the other way
                changes = [row.change("macs_mmdet", before), before.change("latency", row), row.ap_minus(before)]
            numbers = (row["macs_mmdet"].mean(1e-6), row.images_a_second, row.ap)
            both = [cell for pair in zip(numbers, changes, strict=True) for cell in pair]
            rows.append([detector(backbone), GROUPS[kind], *both, row.size])
    return _drawn(
        {"Base model": "", "Group": "", "FLOPS": "M", "FLOPS change": "%", "FPS": "images a second", "FPS change": "%"}
        | {"AP": "points", "Gain": "AP points", "Input": ""},
        rows,
        "Base detectors and what the search made of them, at the input size it found; on validation images.",
        [
            "distillation alone: the largest teacher trains the base detector on for "
            f"{preset['teaching']['budget']} pairs, with nothing changed; the best of them.",
            f"A search trains {preset['search']['budget']} pairs of {preset['pair_training']['epochs']} epochs; what "
            "it finds is not trained any further.",
            "The base detector and the upgraded one are timed in turn.",
        ],
    )


def _greatest_ratio(of: str, name: str) -> Condition:
    quantity = f"greatest ratio of {of}, upgraded over base, of all backbones"
    return Condition(quantity, lambda evidence: evidence[name].max(axis=1), "below", 1.0, "times", 0.5)


JD4 = Claim(
    "JD-4",
    "Table 4",
    "the search raises AP and cuts cost at once, on every backbone family",
    (
        ap_rule("least gain in AP of all backbones", lambda evidence: evidence["gain"].min(axis=1)),  # (S, backbones)
        _greatest_ratio("FLOPs at the input size", "cost"),
        _greatest_ratio("latency", "time"),
    ),
    "+2.5..+2.8 AP, -7..-48 %",
)

# ---- Table 5: joint optimisation against pipelines

PIPELINES = {"prune-kd": "prune-KD", "nas-prune-kd": "NAS-prune-KD"}


def measure_table5(study: "JointDetNASStudy") -> Measured:
    """Pipelines beside the joint search, at one backbone cost and one input size."""
    rows = {
        "baseline": {"after": detector_numbers(study.base())},
        "joint": {"after": detector_numbers(study.upgraded())},
    }
    for name in PIPELINES:
        result = study.pipeline(name)
        rows[name] = {"before": detector_numbers(result["before"]), "after": detector_numbers(result)}

    def joint_minus(name: str) -> float:
        return _points(study.upgraded()["AP"]) - _points(study.pipeline(name)["AP"])

    evidence = {f"joint minus {name}": lambda name=name: joint_minus(name) for name in PIPELINES}
    return {"rows": rows, "evidence": evidence}


def draw_table5(measured: Sequence[Measured], setting: Setting) -> Drawn:
    rows, flops, base = [], "backbone_macs_at_base_size", BACKBONE_NAMES[setting.preset["backbone"]]
    joint, sizes = Shown(measured)["rows", "joint", "after"], []
    for name, method in zip(PIPELINES, (f"{base}-prune-KD", "NAS-prune-KD"), strict=True):
        before, after = (Shown(measured)["rows", name, when] for when in ("before", "after"))
        pruned = [before[flops].mean(1e-6), before.ap, after[flops].mean(1e-6), after.change(flops, before)]
        rows.append([method, *pruned, after.ap, after.ap_minus(before), joint.ap_minus(after)])
        sizes.append(before.size)
    rows.append([f"Joint-DetNAS ({base})", None, None, joint[flops].mean(1e-6), None, joint.ap, None, None])
    return _drawn(
        {"Method": "", "Intermediate backbone FLOPS": "M", "Intermediate AP": "points", "Final backbone FLOPS": "M"}
        | {"FLOPS change": "%", "Final AP": "points", "Gain": "AP points", "Joint-DetNAS minus it": "AP points"},
        rows,
        "The joint search beside pipelines that do one thing after the other, at one backbone cost.",
        [
            "Pipelines are pruned at once, then distilled from the largest teacher for "
            f"{setting.preset['base_training']['epochs']} epochs, the base detector's schedule. NAS is the search "
            "without teacher and channel pruning, with half its pairs.",
            f"FLOPs are at the base size, final AP at the size that the joint search found: {joint.size}. Intermediate "
            f"AP, from which the gain is counted, is at the size of each: {sizes[0]} of the base detector, {sizes[1]} "
            "of what NAS found.",
        ],
    )


JD5 = Claim(
    "JD-5",
    "Table 5",
    "joint beats NAS -> prune -> KD and prune -> KD at equal backbone cost",
    tuple(
        ap_rule(
            f"AP of what the joint search found minus AP of {label} at its backbone's cost and input size",
            itemgetter(f"joint minus {name}"),  # (S,)
            effect=1.0,
        )
        for name, label in PIPELINES.items()
    ),
    "+1.8, +2.1 AP",
)

# ---- Figure 5: the size of the matching teacher

BEST_PAIRS = 3
"""Teachers of so many of the best pairs say which size of teacher fits a student."""


def measure_figure5(study: "JointDetNASStudy") -> Measured:
    """The teachers of each fixed student: their size, how good they are, and what they brought."""
    backbones = study.preset.taught_backbones

    def taught(backbone: str) -> dict[str, Any]:
        of = study.upgrading(backbone)
        return teachers_of(of.search("fixed-student"), of.teachers())

    def best(backbone: str) -> float:
        return taught(backbone)["best teachers"]

    return {
        "students": {backbone: taught(backbone) for backbone in backbones},
        "evidence": {
            "teacher grows": lambda: best(backbones[-1]) - best(backbones[0]),
            "teacher tau": lambda: _mean([taught(backbone)["tau"] for backbone in backbones]),
        },
    }


def teachers_of(searched: Mapping[str, Any], teachers: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """A student's teachers, pair by pair. "best teachers": the mean size of those of the best pairs.

    teachers: by name, AP on held-out images and the parameters of the backbone. Sizes are in millions of them.
    """
    steps, leading, leaders = trained_steps(searched), searched["steps"][0], []

    def size(step: Mapping[str, Any]) -> float:
        return teachers[step["teacher"]]["backbone_params"] / 1e6

    for step in steps:
        leading = step if step["score"] > leading["score"] else leading
        leaders.append(size(leading))
    ap = [_points(teachers[step["teacher"]]["AP"]) for step in steps]
    gains = [100 * step["increment"] for step in steps]
    return {
        "pairs": [step["pair"] for step in steps],
        "teacher parameters": [size(step) for step in steps],
        "leading teacher's parameters": leaders,
        "teacher AP": ap,
        "gain": gains,
        "best teachers": _mean([size(step) for step in sorted(steps, key=lambda step: -step["score"])[:BEST_PAIRS]]),
        "tau": kendall_tau(ap, gains) if len(set(ap)) > 1 else math.nan,
    }


def draw_figure5(measured: Sequence[Measured], setting: Setting) -> Drawn:
    rows, curves, clouds = [], {}, {}
    for backbone in measured[0]["students"]:
        label, students = detector(backbone), [each["students"][backbone] for each in measured]
        length = min(len(each["leading teacher's parameters"]) for each in students)
        curves[label] = _curve([each["leading teacher's parameters"][:length] for each in students], first=1)
        pairs = [zip(each["teacher parameters"], each["gain"], strict=True) for each in students]
        clouds[label] = [[size, gain] for each in pairs for size, gain in each]
        every = [over_seeds([_mean(each[key]) for each in students]) for key in ("teacher parameters", "gain")]
        rows.append([label, Shown(students)["best teachers"].mean(), *every, Shown(students)["tau"].mean()])
    leading = {"x_label": "Pairs trained", "y_label": "Parameters of the best pair's teacher (M)"}
    brought = {"cost_label": "Parameters of the teacher's backbone (M)"}
    brought["accuracy_label"] = "What it raised the score by (points)"
    return _drawn(
        {"Student": ""}
        | dict.fromkeys(("Best three pairs' teachers", "All teachers"), "M parameters of the backbone")
        | {"Gain of a pair": "points of H", "Tau of AP and gain": ""},
        rows,
        f"Teachers of students with a fixed architecture, {setting.preset['teaching']['budget']} pairs each, the first "
        "taught by a neighbour of the largest.",
        [
            "Tau: Kendall's rank correlation of a teacher's AP, on held-out training images, with the student's rise "
            "in score under it."
        ],
        [
            Picture("figure5-leading", "progress", {"curves": curves, **leading}),
            Picture("figure5-teachers", "fronts", {"points": clouds, **brought}),
        ],
    )


LARGER_TEACHERS = Condition(
    "parameters of the backbones of the teachers in the best three pairs of the largest student minus "
    "those of the smallest student",
    itemgetter("teacher grows"),  # (S,)
    unit="M parameters",
    effect=0.1,
)
JD7 = Claim("JD-7", "Figure 5", "the best teacher's size grows with the student's", (LARGER_TEACHERS,))
TAU = "Kendall's tau of a teacher's AP with what it raised the score by (mean over the students)"
JD8 = Claim(
    "JD-8",
    "Section 4.3.1",
    "a stronger detector is not always the better teacher",
    (Condition(TAU, itemgetter("teacher tau"), "below", 0.5, "tau", 0.3),),
)

# ---- Figure 6: what each action brings, and when

STEPS = (*KINDS, "teacher")
"""What a step of the search may be: four actions of the student, or another teacher."""
PRUNING = "channel pruning"


def measure_figure6(study: "JointDetNASStudy") -> Measured:
    """Every step of the searches: what it did, when, and by how much the score rose."""
    searches = {
        backbone: [
            {name: step[name] for name in ("pair", "kind", "generation")} | {"gain": 100 * step["increment"]}
            for step in trained_steps(study.upgrading(backbone).search())
        ]
        for backbone in study.preset.upgraded_backbones
    }
    every = [step for steps in searches.values() for step in steps]
    return {"searches": searches, "evidence": pruning_evidence(every, study.preset.search.budget)}


def pruning_evidence(steps: Sequence[Mapping[str, Any]], budget: int) -> dict[str, float]:
    """Channel pruning among the student's steps that raised the score.

    "pruning's share": of all that they raised it by; 0 where none did. "pruning's place": on average how much later
    pruning came than the others, as a share of the search; 0 where there is nothing to compare.
    """
    good = [step for step in steps if step["kind"] in KINDS and step["gain"] > 0]
    pruning = [step for step in good if step["kind"] == PRUNING]
    others = [step for step in good if step["kind"] != PRUNING]
    share = sum(step["gain"] for step in pruning) / sum(step["gain"] for step in good) if good else 0.0
    later = 0.0
    if pruning and others:
        later = (_mean([step["pair"] for step in pruning]) - _mean([step["pair"] for step in others])) / budget
    return {"pruning's share": share, "pruning's place": later}


def draw_figure6(measured: Sequence[Measured], setting: Setting) -> Drawn:
    """The increments of the score, and the shares of both halves of the search, are also bars."""
    by_seed = [[step for steps in each["searches"].values() for step in steps] for each in measured]
    good = [step for steps in by_seed for step in steps if step["gain"] > 0]
    rows, increments = [], {}
    for kind in STEPS:
        count = sum(step["kind"] == kind for steps in by_seed for step in steps)
        raised = over_seeds([sum(s["gain"] for s in steps if s["kind"] == kind and s["gain"] > 0) for steps in by_seed])
        places = [step["pair"] for step in good if step["kind"] == kind]
        rows.append([kind, count, len(places) / count if count else math.nan, raised, _mean(places)])
        increments[kind] = {"Sum of increments": triple(raised)}
    half, shares = setting.preset["search"]["budget"] // 2, {}
    for part, early in (("first half", True), ("second half", False)):
        kinds = [step["kind"] for step in good if (step["pair"] <= half) == early]
        shares[part] = {kind: (_mean([each == kind for each in kinds]), math.nan, math.nan) for kind in STEPS}
    share, place = (Shown(measured)["evidence", key].mean() for key in ("pruning's share", "pruning's place"))
    return _drawn(
        {"Step": "", "Pairs": "", "Beneficial": "share", "Score increments": "points of H"}
        | {"Mean pair of beneficial ones": ""},
        rows,
        "Steps of the searches by what they did. An increment is a pair's score minus its parent's; those above 0 are "
        "summed.",
        [
            f"Channel pruning brings {100 * share.mean:.0f} % of what the student's actions raise the score by; its "
            f"steps come {place.mean:+.2f} of the search later than the others."
        ],
        [
            _bars("figure6-score", increments, "Sum of score increments (points)"),
            _bars("figure6-time", shares, "Share of all beneficial steps"),
        ],
    )


JD9 = Claim(
    "JD-9",
    "Figure 6",
    "channel pruning brings most of the score, and early; the other actions come late",
    (
        Condition(
            "share of channel pruning in all that the student's actions raised the score by",
            itemgetter("pruning's share"),  # (S,)
            threshold=0.5,
            unit="share",
            effect=0.2,
        ),
        Condition(
            "mean place of its successful steps minus that of the other actions' (share of the search)",
            itemgetter("pruning's place"),  # (S,)
            "below",
            unit="of the search",
            effect=0.2,
        ),
    ),
)

# ---- Table 6: all COCO numbers


def measure_table6(study: "JointDetNASStudy") -> Measured:
    """Base and upgraded detectors by all COCO numbers, and upgraded ones as a deformable cascade."""
    rows = upgrades(study)
    for backbone in study.preset.cascaded_backbones:
        rows[backbone]["cascade"] = detector_numbers(study.upgrading(backbone).cascade())
    return {"rows": rows}


def draw_table6(measured: Sequence[Measured], setting: Setting) -> Drawn:
    rows, epochs = [], setting.preset["cascade"]["optimisation"]["epochs"]
    for backbone, groups in measured[0]["rows"].items():
        name = BACKBONE_NAMES[backbone]
        named = {
            "baseline": ("FPN", name, None),
            "ours": (f"Joint-DetNAS ({name})", f"{name}-searched", 0),
            "cascade": (f"Joint-DetNAS ({name}-Cascade)", f"{name}-searched-DCN", epochs),
        }
        for kind in groups:
            row, (method, searched, trained_on) = Shown(measured)["rows", backbone, kind], named[kind]
            ap = [row[key].mean() for key in COCO_NUMBERS]
            rows.append([method, searched, row.size, trained_on, row.images_a_second, *ap])
    return _drawn(
        {"Method": "", "Backbone": "", "Input": "", "Post-search training": "epochs", "FPS": "images a second"}
        | dict.fromkeys(COCO_NUMBERS, "points"),
        rows,
        "Base and upgraded detectors on validation images.",
        [
            "Detectors of other papers are not trained here. Post-search training: epochs after the search, in which "
            "the last training of a detector is that of its pair."
        ],
    )


# ---- Table 7: the cost of the search

SEARCHES = {"random": "random search", "none": "Joint-DetNAS"}


def measure_table7(study: "JointDetNASStudy") -> Measured:
    """The search and random search with the same number of pairs: what each took and found."""
    found: dict[str, Any] = {}
    for control in SEARCHES:
        result = study.upgraded(control)
        found[control] = {
            **detector_numbers(result),
            "pairs": len(study.search(control)["steps"]) - 1,
            "search seconds": result["seconds"],
            "scores": best_scores(study.search(control)),
        }
    ours, theirs = found["none"]["scores"], found["random"]["scores"]
    reached = {"share of the budget": share_until(ours, theirs[-1]), "search minus random": ours[-1] - theirs[-1]}
    return {"searches": found, "pool seconds": study.pool()["seconds"], "evidence": reached}


def share_until(scores: Sequence[float], goal: float) -> float:
    """After which share of its pairs a search was above a score; 1 where it never was. scores: the base's first."""
    above = [place for place, score in enumerate(scores) if score > goal]
    return above[0] / (len(scores) - 1) if above else 1.0


def draw_table7(measured: Sequence[Measured], setting: Setting) -> Drawn:
    rows, curves, minutes = [], {}, 1 / 60
    for name, method in SEARCHES.items():
        row = Shown(measured)["searches", name]
        scores = row["scores"].values  # (S, pairs + 1)
        curves[method] = _curve(scores)
        found = [row["macs_mmdet"].mean(1e-6), row.ap, over_seeds(scores[:, -1])]
        rows.append([method, *found, row["pairs"].mean().mean, row["search seconds"].mean(minutes)])
    share, ahead = (Shown(measured)["evidence", key].mean() for key in ("share of the budget", "search minus random"))
    pool = Shown(measured)["pool seconds"].mean(minutes)
    return _drawn(
        {"Search method": "", "FLOPS": "M", "AP": "points", "Best score": "points of H", "Searched architectures": ""}
        | {"Search cost": "minutes"},
        rows,
        "What a search trains and finds; AP on validation images, the score on held-out training images.",
        [
            f"The search is above all that random search finds after {100 * share.mean:.0f} % of its pairs (100 %: "
            f"never); at the end its best score minus random search's is {ahead.mean:+.2f} points.",
            "Random search draws parents from all pairs, so that nothing is selected. Both share the pool and the base "
            "detector.",
            f"Training the teacher pool takes {pool.mean:.1f} minutes beside it.",
        ],
        [_score_curves("table7", curves)],
    )


REACHED = (
    "share of its pairs after which the search's best score is above all that random search finds with as "
    "many (1 where it never is)"
)
JD11 = Claim(
    "JD-11",
    "Table 7",
    "fewer architectures than other searches for a better result",
    (Condition(REACHED, itemgetter("share of the budget"), "below", 0.5, "of the pairs", 0.2),),
    "100",
)

# ---- Figure 7: where the backbone computes


def measure_figure7(study: "JointDetNASStudy") -> Measured:
    """Multiply-accumulates of the backbone's four resolutions at the base size, before and after the search."""
    stages = {backbone: study.upgrading(backbone).search()["stages"] for backbone in study.preset.upgraded_backbones}
    lost = [np.subtract(each["before"], each["after"]) / sum(each["before"]) for each in stages.values()]
    return {"stages": stages, "evidence": {"stages": np.mean(lost, axis=0).tolist()}}


def draw_figure7(measured: Sequence[Measured], setting: Setting) -> Drawn:
    rows, bars = [], {}
    for backbone in measured[0]["stages"]:
        for when in ("before", "after"):
            costs = [over_seeds(1e-6 * stage) for stage in stacked(measured, "stages", backbone, when).T]
            rows.append([detector(backbone), when, *costs])
            bars[f"{detector(backbone)} {when}"] = {f"stage {n}": triple(each) for n, each in enumerate(costs, 1)}
    lost = [100 * over_seeds(stage).mean for stage in stacked(measured, "evidence", "stages").T]
    shares = ", ".join(f"stage {number} {share:.1f} %" for number, share in enumerate(lost, 1))
    return _drawn(
        {"Backbone": "", "Search": ""} | {f"Stage {number}": "M" for number in range(1, 5)},
        rows,
        "Where the backbone computes, at the base size: stages 1 to 4 put out strides 4, 8, 16 and 32.",
        [f"Lost, as a share of all four stages (the stem aside), mean over the backbones: {shares}."],
        [_bars("figure7", bars, "FLOPs of the backbone (MMACs)")],
    )


JD10 = Claim(
    "JD-10",
    "Figure 7",
    "stage 3 is cut most, then 2, then 1",
    (
        Condition(
            "FLOPs that the third resolution of the backbone lost minus what the second did (shares of all four, "
            "mean over the backbones)",
            apart("stages", 2, 1),  # (S,)
            unit="share",
            effect=0.02,
        ),
        Condition(
            "FLOPs that the second resolution lost minus what the first did (likewise)",
            apart("stages", 1, 0),
            unit="share",
            effect=0.02,
        ),
    ),
)

# ---- The paper

TITLES = {
    "table1": (
        "Sub-networks of the elastic teacher pool against the same networks trained alone",
        "AP of networks out of the pool and trained alone",
    ),
    "table2": ("Channel pruning of base detectors", "AP and cost after pruning 0 to 30 % of the channels"),
    "table3": ("Distillation against baselines", "AP of students alone, by imitation and by our distillation"),
    "figure4": (
        "Dynamic against conventional distillation",
        "the score of one student under changing teachers and under the largest",
    ),
    "table4": ("Base detectors and what they are upgraded to", "cost, speed and AP before and after the search"),
    "table5": ("Joint optimisation against pipelines of NAS, pruning and distillation", "AP at one backbone cost"),
    "figure5": ("The size of the matching teacher, by student", "teachers of fixed students"),
    "figure6": ("What each action brings, and when", "the steps of the searches"),
    "table6": ("Upgraded detectors by all COCO numbers", "speed and AP by IoU and size"),
    "table7": ("The cost of the search", "pairs, time and result of the search and of random search"),
    "figure7": ("Computation of the backbone's stages before and after the search", "costs of the four resolutions"),
}
"""Exhibit -> its title, and what is measured."""
EXHIBITS = (
    Exhibit("table1", *TITLES["table1"], measure_table1, draw_table1, (JD1,)),
    Exhibit("table2", *TITLES["table2"], measure_table2, draw_table2, (JD2,)),
    Exhibit("table3", *TITLES["table3"], measure_table3, draw_table3, (JD3,)),
    Exhibit("figure4", *TITLES["figure4"], measure_figure4, draw_figure4, (JD6,)),
    Exhibit("table4", *TITLES["table4"], measure_table4, draw_table4, (JD4,)),
    Exhibit("table5", *TITLES["table5"], measure_table5, draw_table5, (JD5,)),
    Exhibit("figure5", *TITLES["figure5"], measure_figure5, draw_figure5, (JD7, JD8)),
    Exhibit("figure6", *TITLES["figure6"], measure_figure6, draw_figure6, (JD9,)),
    Exhibit("table6", *TITLES["table6"], measure_table6, draw_table6),
    Exhibit("table7", *TITLES["table7"], measure_table7, draw_table7, (JD11,)),
    Exhibit("figure7", *TITLES["figure7"], measure_figure7, draw_figure7, (JD10,)),
)


def make_study(options: Any, seed: int, command: str) -> "JointDetNASStudy":
    """The runs of one seed."""
    from joint_detnas.study import JointDetNASStudy

    return JointDetNASStudy(options, seed, command)


def describe(study: "JointDetNASStudy") -> str:
    """Its data, teachers and searches, in a phrase."""
    return (
        f"{len(study.training_set)} training, {len(study.sets['search'])} held-out and "
        f"{len(study.sets['validation'])} validation images; {study.preset.teachers.count():,} teachers, "
        f"{study.preset.search.budget} pairs a search"
    )


PAPER = Paper("joint_detnas", "Joint-DetNAS", Path(__file__).parent, EXHIBITS, make_study, describe)
