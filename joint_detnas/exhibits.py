"""Every table and figure of Joint-DetNAS in the paper's order: what it measures on a seed, how it is drawn, its claims.

The rules were written before the runs that they judge; each says what the rule before it was, and why it was changed.
What was trained on is compared with a control that was trained on for as long without what is claimed to help. AP and
the score H are in points (0 to 100). AP is on validation images, by which nothing was chosen; the score, and what
Figure 5 shows, is on held-out training images, as the search has it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import getitem, itemgetter, methodcaller
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from common.plain import from_json
from common.report.claims import Before, Claim, Condition, Evidence, ap_rule
from common.report.exhibit import (
    COCO_NUMBERS,
    Drawn,
    Exhibit,
    Measured,
    Picture,
    Setting,
    in_points,
    over_seeds,
    stacked,
    triple,
)
from common.report.reproduce import Paper
from common.report.statistics import Difference, farthest
from joint_detnas.presets import KINDS, Teacher, other_choices, other_pipelines, size_name

if TYPE_CHECKING:
    from joint_detnas.study import JointDetNASStudy

_BACKBONE_NAMES = {
    "resnet18": "R18",
    "resnet34": "R34",
    "resnet50": "R50",
    "resnet101": "R101",
    "resnext50_32x4d": "X50",
    "resnext101_32x4d": "X101",
    "mobilenet_v2": "MobileNetV2",
}

# ---- What several exhibits measure


def _detector_numbers(result: Mapping[str, Any]) -> dict[str, Any]:
    """What tables show of a detector. result: as the study's `report` gives it, AP from 0 to 1."""
    kept = ("macs", "macs_mmdet", "params", "backbone_macs_mmdet", "backbone_macs_at_base_size", "latency", "seconds")
    return {
        **{name: in_points(result.get(name)) for name in COCO_NUMBERS},
        **{name: result.get(name) for name in kept},
        "size": size_name(result["size"]),
        "AP_at": {size: in_points(each) for size, each in result["AP_at"].items()},
    }


def _upgrades(study: "JointDetNASStudy") -> dict[str, dict[str, Any]]:
    """The base detector ("baseline") and the upgraded one ("ours") of every backbone, their latencies timed in turn."""
    rows = {}
    for backbone in study.preset.upgraded_backbones:
        of = study.upgrading(backbone)
        timed = of.latencies()
        before = _detector_numbers(of.base() | {"latency": timed["base"]["latency"]})
        after = _detector_numbers(of.upgraded() | {"latency": timed["upgraded"]["latency"]})
        rows[backbone] = {"baseline": before, "ours": after | {"latency of the baseline's": _latency_ratio(timed)}}
    return rows


def _base_level(study: "JointDetNASStudy") -> list[float]:
    """AP of the base detectors that are upgraded."""
    return [in_points(study.upgrading(backbone).base()["AP"]) for backbone in study.preset.upgraded_backbones]


def _latency_ratio(timed: Mapping[str, Any]) -> float:
    """Latency of the upgraded detector over that of the base: the median over the rounds, each of which timed both."""
    return float(np.median(np.divide(timed["upgraded"]["rounds"], timed["base"]["rounds"])))


def _best_scores(searched: Mapping[str, Any]) -> list[float]:
    """The best score after each pair of a search, the base detector's first."""
    scores = [-math.inf if step["score"] is None else 100 * step["score"] for step in searched["steps"]]
    return np.maximum.accumulate(scores).tolist()


def _trained_steps(searched: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The steps of a search without the base detector and without pairs that failed."""
    return [step for step in searched["steps"][1:] if step["score"] is not None]


def budget(**results: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """What each side of a comparison was trained with; results that nothing is known of are left out. A side that is a
    search's best pair says so in its name, for the search as a whole trained more."""
    trained = {side.replace("_", " "): each for side, each in results.items() if each.get("samples") is not None}
    return {side: {name: each[name] for name in ("samples", "cpu_seconds")} for side, each in trained.items()}


def _added_up(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Budgets of several trainings as one."""
    return {name: sum(each[name] or 0 for each in results) for name in ("samples", "cpu_seconds")}


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
        return ", ".join(dict.fromkeys(reduce(getitem, (*self.keys, "size"), each) for each in self.measured))


def detector(backbone: str) -> str:
    """A base detector in the paper's words: R18-FPN."""
    return f"{_BACKBONE_NAMES[backbone]}-FPN"


def _curve(x: Sequence[float], means: Sequence[Difference]) -> list[list[float]]:
    """A line for `common.report.figures.progress`: x, mean, low and high, each (N,)."""
    return [list(x), *map(list, zip(*map(triple, means), strict=True))]


def _score_curves(name: str, curves: Mapping[str, Any]) -> Picture:
    labels = {"x_label": "Pairs trained", "y_label": "Best score so far (points)"}
    return Picture(name, "progress", {"curves": curves, **labels})


def _bars(name: str, groups: Mapping[str, Any], value_label: str) -> Picture:
    return Picture(name, "bars", {"groups": groups, "value_label": value_label})


# ---- What claims are judged by

_Judged = Callable[[Evidence], np.ndarray]


def apart(name: str, one: int, other: int) -> _Judged:
    """evidence -> the column `one` of evidence (S, ..., columns) minus the column `other`."""
    return lambda evidence: evidence[name][..., one] - evidence[name][..., other]


def claim(number: int, where: str, statement: str, conditions: Sequence[Condition], *more: Any, **rest: Any) -> Claim:
    """A claim of this paper; `level`: name of the evidence (S, ...) that holds AP of the networks it is about."""
    level = rest.pop("level", None)
    of = None if level is None else lambda evidence: evidence[level].reshape(len(evidence[level]), -1).mean(axis=1)
    return Claim(f"JD-{number}", where, statement, tuple(conditions), *more, level=of, **rest)


_EQUAL = "What was trained on for longer was better, whatever the method: sides had unequal budgets."


# ---- Table 1: networks out of the teacher pool

_ALONE = {"epochs": "as many epochs", "seconds": "as many CPU seconds"}


def _measure_table1(study: "JointDetNASStudy") -> Measured:
    """Networks out of the pool beside the same ones trained alone, at the two largest sizes."""
    sizes = [size_name(size) for size in study.preset.sizes[-2:]]
    rows, gains, spent = {}, {as_long: [] for as_long in _ALONE}, {}
    for name, _ in study.preset.equivalents:
        rows[name] = {"pool": _detector_numbers(study.sampled(name))}
        for as_long in _ALONE if name in study.preset.timed_equivalents else ("epochs",):
            spent[f"{name}_alone,_as_many_{as_long}"] = alone = study.alone(name, as_long)
            rows[name][as_long] = _detector_numbers(alone)
            ap = [[rows[name][kind]["AP_at"][size] for size in sizes] for kind in ("pool", as_long)]
            gains[as_long].append(float(np.subtract(*ap).mean()))
    level = [each["epochs"]["AP"] for each in rows.values()]
    evidence = {f"pool minus alone, {as_long}": gains[as_long] for as_long in _ALONE} | {"level of table1": level}
    return {"sizes": sizes, "rows": rows, "evidence": evidence, "budget": budget(pool=study.pool(), **spent)}


def _draw_table1(measured: Sequence[Measured], setting: Setting) -> Drawn:
    rows, preset = [], setting.preset
    for name in measured[0]["rows"]:
        for size in measured[0]["sizes"]:
            of = Shown(measured)["rows", name]
            ap = {kind: of[kind, "AP_at", size] for kind in ("pool", *_ALONE) if kind in measured[0]["rows"][name]}
            gains = {kind: over_seeds(ap["pool"].values - ap[kind].values) for kind in _ALONE if kind in ap}
            numbers = [ap[kind].mean() if kind in ap else None for kind in ("pool", *_ALONE)]
            rows.append([f"{name}-FPN", size, *numbers, *map(gains.get, _ALONE)])
    epochs = ", ".join(f"{phase['epochs']} ({phase['name']})" for phase in preset["shrinking"]["phases"])
    networks = [f"{name} is {from_json(Teacher, teacher)}" for name, teacher in preset["equivalents"]]
    return Drawn.of(
        {"Base model": "", "Input": "", "AP, our ETP": "points"}
        | {f"AP alone, {text}": "points" for text in _ALONE.values()}
        | {f"Gain over {text}": "AP points" for text in _ALONE.values()},
        rows,
        "Networks out of the elastic teacher pool beside the same ones trained alone for as many epochs or CPU seconds "
        "as the whole pool; AP on validation images.",
        [
            f"Epochs of the pool: {epochs}; every phase but the first trains "
            f"{1 + preset['shrinking']['networks_a_step']} networks a step.",
            f"{', '.join(networks)}. The pool has bottlenecks throughout, so its smallest network is not a ResNet18.",
        ],
    )


_JD1 = claim(
    1,
    "Table 1",
    "sub-networks of the elastic teacher pool beat the same nets trained alone",
    [
        ap_rule(
            "AP out of the pool minus AP of the same network trained alone for as many epochs as the pool (mean over "
            "the networks and the two largest sizes)",
            itemgetter("pool minus alone, epochs"),  # (S, networks); the paper's 2.2 is over the 2x schedule
        ),
        ap_rule(
            "AP out of the pool minus AP of the same network trained alone for as many CPU seconds (likewise, of those "
            "networks that were)",
            itemgetter("pool minus alone, seconds"),
        ),
    ],
    "+0.1..+3.4 AP",
    level="level of table1",
    before=Before(
        "AP out of the pool minus AP of the same network trained alone by the base detector's schedule (mean over the "
        "networks and the two largest sizes) above 0",
        "Alone, the network had 16 epochs where the pool had 26, and 8 epochs were worth 4 AP.",
    ),
)

# ---- Table 2: channel pruning


def _measure_table2(study: "JointDetNASStudy") -> Measured:
    """Base detectors as they were, and with so many per cent pruned."""
    rows, ap, spent = {}, [], {}
    for backbone in study.preset.pruned_backbones:
        of = study.upgrading(backbone)
        pruned = {str(percentage): of.pruned(percentage) for percentage in study.preset.percentages}
        rows[backbone] = {"baseline": _detector_numbers(of.base())}
        rows[backbone] |= {percentage: _detector_numbers(each) for percentage, each in pruned.items()}
        ap.append([row["AP"] for row in rows[backbone].values()])
        spent = spent or pruned
    sides = {(f"pruned_by_{name}_%" if int(name) else "not_pruned"): each for name, each in spent.items()}
    return {"rows": rows, "evidence": {"pruned": ap}, "budget": budget(**sides)}


def _draw_table2(measured: Sequence[Measured], setting: Setting) -> Drawn:
    rows, bars, preset = [], {}, setting.preset
    for backbone in measured[0]["rows"]:
        of, name = Shown(measured)["rows", backbone], detector(backbone)
        shown = {"baseline": of["baseline"]} | {f"{each} %": of[str(each)] for each in preset["percentages"]}
        not_pruned = of[str(preset["percentages"][0])]
        for percentage, row in shown.items():
            behind = row.ap_minus(not_pruned) if row is not shown["baseline"] else None
            rows.append([name, percentage, row["backbone_macs_mmdet"].mean(1e-6), row.ap, behind])
        bars[name] = {percentage: triple(row.ap) for percentage, row in shown.items()}
    of_cost = preset["search"]["morphism"]["percentage_of"] == "cost"
    return Drawn.of(
        dict.fromkeys(("Model", "Pruning percentage"), "")
        | {"Backbone FLOPS": "M", "AP": "points", "Minus 0 %": "AP points"},
        rows,
        "Base detectors whose channels are pruned at once, then trained for "
        f"{preset['pruning_training']['epochs']} epochs without a teacher.",
        [
            "baseline: the detector as it was. 0 %: nothing is pruned, but it is trained on as long as the others. The "
            "paper's 0 % is its baseline.",
            *["Percentages are of the backbone's multiply-accumulates."] * of_cost,
        ],
        [_bars("table2", bars, "AP (points)")],
    )


BASELINE, NOT_PRUNED, TEN, MOST = 0, 1, 2, -1
"""Columns of the evidence "pruned" (S, detectors, 1 + percentages)."""

_JD2 = claim(
    2,
    "Table 2",
    "pruning 10 % of channels costs no AP, 30 % under 1 AP",
    [
        ap_rule(
            "AP after pruning 10 % and some training without a teacher minus AP after that training alone (mean over "
            "the detectors)",
            apart("pruned", TEN, NOT_PRUNED),
            threshold=-0.5,
            null="a margin, for no loss can be shown exactly",
        ),
        ap_rule(
            "AP after pruning 30 % and that training minus AP after that training alone (likewise)",
            apart("pruned", MOST, NOT_PRUNED),
            threshold=-1.0,
        ),
    ],
    "R50 37.1 -> 37.3/37.0/36.4; R101 39.0 -> 39.2/38.8/38.3",
    level="pruned",
    before=Before(
        "AP after pruning 10 % of the channels and the training of a pair minus AP of the detector as it was above 0; "
        "30 % minus it above -1; 30 % minus AP after that training alone above -1",
        "A detector that was trained on gains by that alone, and 'costs no AP' is a margin, not a gain.",
    ),
)

# ---- Table 3: distillation


def _measure_table3(study: "JointDetNASStudy") -> Measured:
    """Students trained alone, by fine-grained feature imitation and by the paper's distillation."""
    rows, ap, spent = {}, [], {}
    for backbone, teacher in study.preset.lessons:
        of = study.upgrading(backbone)
        sides = {"baseline": of.base()} | {kind: of.distilled(teacher, kind) for kind in ("imitation", "ours")}
        sides["longer"] = of.longer(teacher)
        rows[backbone] = {"teacher": {"name": teacher, **_detector_numbers(study.sampled(teacher))}}
        rows[backbone] |= {kind: _detector_numbers(each) for kind, each in sides.items()}
        ap.append([rows[backbone][kind]["AP"] for kind in sides])
        spent = spent or sides
    return {"rows": rows, "evidence": {"distilled": ap}, "budget": budget(**spent)}


def _draw_table3(measured: Sequence[Measured], setting: Setting) -> Drawn:
    rows = []
    for backbone, row in measured[0]["rows"].items():
        shown = Shown(measured)["rows", backbone]
        alone, longer, teacher = shown["baseline"], shown["longer"], shown["teacher"]
        for kind, method in (("imitation", "FGFI"), ("ours", "our KD")):
            names, taught = [method, _BACKBONE_NAMES[backbone], row["teacher"]["name"]], shown[kind]
            gains = taught.ap_minus(alone), taught.ap_minus(longer)
            rows.append([*names, alone.ap, longer.ap, teacher.ap, taught.ap, *gains])
    return Drawn.of(
        dict.fromkeys(("KD method", "Student", "Teacher"), "")
        | dict.fromkeys(("Baseline AP", "Longer baseline AP", "Teacher AP", "AP"), "points")
        | dict.fromkeys(("Gain", "Gain over longer baseline"), "AP points"),
        rows,
        f"Students trained for {setting.preset['base_training']['epochs']} epochs, alone (baseline) and under a "
        "teacher out of the pool.",
        [
            "The longer baseline is trained alone for as many CPU seconds as our KD takes.",
            "Task adaptive regularisation (TAR) is not trained here.",
        ],
    )


UNTAUGHT, IMITATION, OURS, LONGER = range(4)
"""Columns of the evidence "distilled" (S, students, 4)."""

_JD3 = claim(
    3,
    "Table 3",
    "the proposed distillation lifts a student by about 2 AP, more than fine-grained feature imitation",
    [
        ap_rule(
            "AP by the paper's distillation minus AP of the student alone, trained as long from the same weights "
            "(mean over the students)",
            apart("distilled", OURS, UNTAUGHT),
            printed=2.1,
        ),
        ap_rule(
            "AP by the paper's distillation minus AP of the student alone, trained for as many CPU seconds (likewise)",
            apart("distilled", OURS, LONGER),
        ),
        ap_rule(
            "AP by the paper's distillation minus AP by fine-grained feature imitation (mean over the students)",
            apart("distilled", OURS, IMITATION),
        ),
    ],
    "+2.1, +2.1",
    level="distilled",
    before=Before(
        "the first and the last of these differences above 0",
        "As many CPU seconds were not asked for. Bases are on their plateau now, where they were on the steep part of "
        "their curve, and a gain of under half the printed one has a verdict of its own.",
    ),
)

# ---- Figure 4: dynamic and conventional distillation

_KD_CURVES = {
    "dynamic": ("fixed-student", "Dynamic KD"),
    "conventional": ("fixed-pair", "Conventional KD"),
    "untaught": ("untaught", "No teacher"),
}
"""Curve -> the search that it is of, and its label."""


def _measure_figure4(study: "JointDetNASStudy") -> Measured:
    """The best score so far of one student: under changing teachers, under the largest, and under none."""
    searches = {name: study.search(control) for name, (control, _) in _KD_CURVES.items()}
    curves = {name: _best_scores(search) for name, search in searches.items()}
    ahead = {name: np.subtract(curves["dynamic"], curves[name])[1:] for name in ("conventional", "untaught")}
    found = {
        "dynamic on the way": float(ahead["conventional"].mean()),
        "dynamic ends": float(ahead["conventional"][-1]),
        "dynamic ends above untaught": float(ahead["untaught"][-1]),
        "level of figure4": in_points(study.base()["AP"]),
    }
    spent = {f"best pair, {name}": search["upgraded"] for name, search in searches.items()}
    return {"curves": curves, "evidence": found, "budget": budget(**spent)}


def _draw_figure4(measured: Sequence[Measured], setting: Setting) -> Drawn:
    rows, curves = [], {}
    for name, (_, label) in _KD_CURVES.items():
        scores = [over_seeds(at) for at in stacked(measured, "curves", name).T]  # (pairs + 1,)
        curves[label] = _curve(range(len(scores)), scores)
        rows += [[label, place, score] for place, score in enumerate(scores)]
    ends, way = (Shown(measured)["evidence", key].mean() for key in ("dynamic ends", "dynamic on the way"))
    return Drawn.of(
        {"Teacher": "", "Pairs trained": "", "Best score": "points of H"},
        rows,
        f"{detector(setting.preset['backbone'])}, its architecture fixed, trained on pair by pair "
        f"({setting.preset['pair_training']['epochs']} epochs each) under changing teachers, always under the largest, "
        "or under none.",
        [f"Dynamic minus conventional: {ends.mean:+.2f} points at the end, {way.mean:+.2f} on average."],
        [_score_curves("figure4", curves)],
    )


def _h_rule(quantity: str, value: _Judged, **more: Any) -> Condition:
    """Points of H above 0."""
    return Condition(quantity, value, unit="points of H", effect=0.5, **more)


_JD6 = claim(
    6,
    "Figure 4",
    "a dynamic teacher lifts the student faster and ends higher than the fixed largest teacher",
    [
        _h_rule(
            "best score of one student under changing teachers minus that under the largest after as many pairs "
            "(mean over the pairs)",
            itemgetter("dynamic on the way"),  # (S,)
        ),
        _h_rule(
            "best score under changing teachers minus that under the largest after the last pair",
            itemgetter("dynamic ends"),
        ),
        _h_rule(
            "best score under changing teachers minus that of the student trained on alone, after the last pair",
            itemgetter("dynamic ends above untaught"),
        ),
    ],
    level="level of figure4",
    before=Before(
        "the first two differences above 0",
        "Nothing said whether either teacher helped; the student trained on alone does.",
    ),
)

# ---- Table 4: upgraded detectors

_GROUPS = {"baseline": "baseline", "control": "trained on alone", "ours": "ours"}


def _measure_table4(study: "JointDetNASStudy") -> Measured:
    """Base detectors, what they are upgraded to, and the base detectors trained on for as many pairs as that has behind
    it, without teacher and actions."""
    rows, every = _upgrades(study), {each: study.upgrading(each) for each in study.preset.upgraded_backbones}
    controls = {backbone: of.trained_on(of.upgraded()["depth"]) for backbone, of in every.items()}
    for backbone, result in controls.items():
        rows[backbone]["control"] = _detector_numbers(result | {"latency": rows[backbone]["baseline"]["latency"]})

    def ratios(key: str) -> list[float]:
        return [of.upgraded()[key] / of.base()[key] for of in every.values()]

    found = {
        "gain": lambda: [
            in_points(of.upgraded()["AP"]) - in_points(of.trained_on(of.upgraded()["depth"])["AP"])
            for of in every.values()
        ],
        "cost": lambda: ratios("macs_mmdet"),
        "time": lambda: [_latency_ratio(of.latencies()) for of in every.values()],
        "level of table4": lambda: _base_level(study),
    }
    spent = {"upgraded": [of.upgraded() for of in every.values()], "trained_on_alone": [*controls.values()]}
    return {"rows": rows, "evidence": found, "budget": budget(**{key: _added_up(each) for key, each in spent.items()})}


def _draw_table4(measured: Sequence[Measured], setting: Setting) -> Drawn:
    rows, preset = [], setting.preset
    for backbone in measured[0]["rows"]:
        before, control = (Shown(measured)["rows", backbone, kind] for kind in ("baseline", "control"))
        for kind, name in _GROUPS.items():
            row, changes = Shown(measured)["rows", backbone, kind], [None] * 4
            if kind != "baseline":  # 1 / latency is what FPS is, so the other way
                costs = [row.change("macs_mmdet", before), before.change("latency", row)]
                changes = [*costs, row.ap_minus(before), row.ap_minus(control) if kind == "ours" else None]
            flops, fps, gain, over_control = changes
            cost = [row["macs_mmdet"].mean(1e-6), flops, row.images_a_second, fps]
            rows.append([detector(backbone), name, *cost, row.ap, gain, over_control, row.size])
    return Drawn.of(
        {"Base model": "", "Group": "", "FLOPS": "M", "FLOPS change": "%", "FPS": "images a second", "FPS change": "%"}
        | {"AP": "points", "Gain": "AP points", "Minus trained on alone": "AP points", "Input": ""},
        rows,
        "Base detectors and what the search made of them, at the input size it found; on validation images.",
        [
            "trained on alone: the base detector after as many pairs' trainings as what the search found has behind "
            "it, with neither teacher nor actions, but with L_BN.",
            f"A search trains {preset['search']['budget']} pairs of {preset['pair_training']['epochs']} epochs; what "
            "it finds is not trained any further.",
            "The base detector and the upgraded one are timed in turn.",
        ],
    )


def _of_every_backbone(name: str, toward: Literal["low", "high"]) -> Callable[[Evidence], Difference]:
    """evidence (S, backbones) -> the backbone whose interval reaches farthest: where it holds, all of them do."""
    return lambda evidence: farthest(evidence[name], toward, comparisons=evidence[name].shape[1])


def _every_ratio(of: str, name: str, **more: Any) -> Condition:
    quantity = f"ratio of {of}, upgraded over base, of the backbone whose interval reaches highest,"
    return Condition(quantity, _of_every_backbone(name, "high"), "below", 1.0, "times", 0.1, **more)


_JD4 = claim(
    4,
    "Table 4",
    "the search raises AP and cuts cost at once, on every backbone family",
    [
        ap_rule(
            "AP of what the search found minus AP of the base detector trained on for as many pairs, without teacher "
            "and actions, of the backbone whose interval reaches lowest,",
            _of_every_backbone("gain", "low"),
        ),
        _every_ratio("FLOPs at the input size", "cost", printed=0.93),
        _every_ratio("latency", "time"),
    ],
    "+2.5..+2.8 AP, -7..-48 %",
    level="level of table4",
    before=Before(
        "least gain in AP over the base detector above 0; greatest ratio of FLOPs, and of latency, below 1",
        f"{_EQUAL} A search of 16 pairs gained less than as many epochs of plain training. And the least of two noisy "
        "gains is on average less than both.",
    ),
)

# ---- Table 5: joint optimisation against pipelines

_PIPELINES = {"prune-kd": "prune-KD", "nas-prune-kd": "NAS-prune-KD"}


def _measure_table5(study: "JointDetNASStudy") -> Measured:
    """Pipelines beside the best of the joint search within one backbone cost, fixed beforehand."""
    slim, pipelines = study.search()["slim"], {name: study.pipeline(name) for name in _PIPELINES}
    if slim is None:
        return {"missing": {"joint": "no pair of the search came to the cost"}, "rows": {}, "evidence": {}}
    rows: dict[str, Any] = {"joint": {"after": _detector_numbers(slim)}}
    for name, result in pipelines.items():
        rows[name] = {"before": _detector_numbers(result["before"]), "after": _detector_numbers(result)}
    ahead = {f"joint minus {name}": rows["joint"]["after"]["AP"] - rows[name]["after"]["AP"] for name in _PIPELINES}
    sides = {"joint": slim, **{name.replace("-", "_"): each for name, each in pipelines.items()}}
    evidence = ahead | {"level of table5": in_points(study.base()["AP"])}
    return {"rows": rows, "evidence": evidence, "budget": budget(**sides)}


def _draw_table5(measured: Sequence[Measured], setting: Setting) -> Drawn:
    rows, flops, base = [], "backbone_macs_at_base_size", _BACKBONE_NAMES[setting.preset["backbone"]]
    whole = [each for each in measured if each["rows"]]
    joint = Shown(whole)["rows", "joint", "after"]
    for name, method in zip(_PIPELINES, (f"{base}-prune-KD", "NAS-prune-KD"), strict=True) if whole else ():
        before, after = (Shown(whole)["rows", name, when] for when in ("before", "after"))
        pruned = [before[flops].mean(1e-6), before.ap, after[flops].mean(1e-6), after.change(flops, before)]
        rows.append([method, *pruned, after.ap, after.ap_minus(before), joint.ap_minus(after)])
    if whole:
        rows.append([f"Joint-DetNAS ({base})", None, None, joint[flops].mean(1e-6), None, joint.ap, None, None])
    return Drawn.of(
        {"Method": "", "Intermediate backbone FLOPS": "M", "Intermediate AP": "points", "Final backbone FLOPS": "M"}
        | {"FLOPS change": "%", "Final AP": "points", "Gain": "AP points", "Joint-DetNAS minus it": "AP points"},
        rows,
        "The joint search beside pipelines that do one thing after the other, at one backbone cost and one number of "
        "trainings.",
        [
            f"Of the joint search, the best pair whose backbone costs at most {100 * setting.preset['goal']:g} % of "
            "the base detector's, which was fixed before the runs; a pipeline is pruned to what that pair's costs.",
            "A pipeline has as many pairs' trainings as that pair has behind it (after NAS two at the least), those "
            f"after the pruning under the largest teacher. {_penalty_in_words(setting.preset)} NAS is the search "
            "without teacher and channel pruning, with half its pairs, whose trainings count.",
            "Intermediate AP is at the base size, final AP at the size of the joint search's pair.",
            *[f"In {len(measured) - len(whole)} of {len(measured)} seeds no pair of the search came to the cost."]
            * (len(whole) < len(measured)),
        ],
    )


def _penalty_in_words(preset: Mapping[str, Any]) -> str:
    share = f"{100 * preset['penalised_share']:g} % of a pipeline's pairs, rounded down, come before the pruning"
    every = "Every pair's loss holds the penalty on the gammas, those of the search for NAS included"
    if not preset["penalised_base"]:
        return f"{every}; {share}, without a teacher."
    return (
        f"{every}; the base detector that is pruned was trained with it from the start. After NAS, {share}, without a "
        "teacher."
    )


_JD5 = claim(
    5,
    "Table 5",
    "joint beats NAS -> prune -> KD and prune -> KD at equal backbone cost",
    [
        ap_rule(
            f"AP of the joint search's best pair within the cost that was fixed beforehand minus AP of {label} at the "
            "cost of that pair, with as many trainings",
            itemgetter(f"joint minus {name}"),  # (S,); the paper's pipelines end with a full training
        )
        for name, label in _PIPELINES.items()
    ],
    "+1.8, +2.1 AP",
    level="level of table5",
    before=Before(
        "AP of what the joint search found minus AP of each pipeline at its backbone's cost and input size above 0",
        f"{_EQUAL} A pipeline had 16 more epochs in one schedule; and the cost was what the search happened to find.",
    ),
)

# ---- Figure 5: the size of the matching teacher


def _measure_figure5(study: "JointDetNASStudy") -> Measured:
    """Every student, not pruned and pruned most, after the same training under each of some teachers."""
    students, teachers = {}, {}
    for backbone in study.preset.pruned_backbones:
        found = study.upgrading(backbone).grid()
        teachers = found["teachers"]
        for percentage, each in found["students"].items():
            gains = [100 * each["gains"][name] for name in teachers]
            students[f"{backbone} {percentage}"] = {"parameters": each["params"] / 1e6, "gains": gains}
    sizes = [each["params"] / 1e6 for each in teachers.values()]
    gains = [each["gains"] for each in students.values()]
    return {
        "teachers": list(teachers),
        "teacher parameters": sizes,
        "teacher AP": [in_points(each["AP"]) for each in teachers.values()],
        "students": students,
        "evidence": {
            "slope": _matching_slope([each["parameters"] for each in students.values()], sizes, gains),
            "gains": gains,
            "level of figure5": [
                in_points(study.upgrading(each).base()["AP"]) for each in study.preset.pruned_backbones
            ],
        },
    }


def _matching_slope(students: Sequence[float], teachers: Sequence[float], gains: ArrayLike) -> float:
    """Slope of the size of the two best teachers of each student (the mean) on the student's size, both by their
    logarithm. gains: (students, teachers).
    """
    best = np.argsort(-np.asarray(gains), axis=1, kind="stable")[:, :2]
    return float(np.polyfit(np.log(students), np.log(teachers)[best].mean(axis=1), 1)[0])


def _draw_figure5(measured: Sequence[Measured], setting: Setting) -> Drawn:
    first, clouds, rows = measured[0], {}, []
    for student in first["students"]:
        backbone, percentage = student.split()
        label = f"{detector(backbone)}" + (f", {percentage} % pruned" if int(percentage) else "")
        gains = Shown(measured)["students", student]["gains"].values  # (S, teachers)
        rows.append([label, Shown(measured)["students", student]["parameters"].mean(), *map(over_seeds, gains.T)])
        sizes = Shown(measured)["teacher parameters"].values
        clouds[label] = np.stack([sizes, gains], axis=-1).reshape(-1, 2).tolist()
    ap = [over_seeds(each) for each in Shown(measured)["teacher AP"].values.T]
    rows.append(["AP of the teacher", None, *ap])
    slope = Shown(measured)["evidence", "slope"].mean()
    teachers = zip(first["teachers"], first["teacher parameters"], strict=True)
    names = {f"{name} ({size:.3g} M)": "AP points" for name, size in teachers}
    return Drawn.of(
        {"Student": "", "Parameters": "M", **names},
        rows,
        f"Rise in AP of each student in {setting.preset['grid_training']['epochs']} epochs under each teacher, from "
        "the same weights and in the same order; on held-out training images, the mean over the input sizes.",
        [
            "Parameters are those of the backbones. The size of a student's two best teachers rises with the power "
            f"{slope.mean:+.2f} of the student's own (0: no match)."
        ],
        [
            Picture(
                "figure5-teachers",
                "fronts",
                {
                    "points": clouds,
                    "cost_label": "Parameters of the teacher's backbone (M)",
                    "accuracy_label": "Rise in AP (points)",
                },
            )
        ],
    )


def under_a_weaker_teacher(evidence: Evidence) -> np.ndarray:
    """(S,) AP points: the gain under the weaker teacher that the other seeds call the best minus that under the
    largest, the last of the teachers; mean over the students."""
    gains = evidence["gains"].mean(axis=1)  # (S, teachers)
    others = (gains.sum(axis=0) - gains) / max(1, len(gains) - 1)
    chosen = np.argmax(others[:, :-1], axis=1)
    return gains[np.arange(len(gains)), chosen] - gains[:, -1]


_JD7 = claim(
    7,
    "Figure 5",
    "the best teacher's size grows with the student's",
    [
        Condition(
            "slope of the size of a student's two best teachers on the student's size (powers), over the students",
            itemgetter("slope"),  # (S,)
            unit="power",
            effect=0.2,
            null="teachers dealt to the students at random: 0",
        )
    ],
    level="level of figure5",
    before=Before(
        "parameters of the teachers in the best three pairs of the largest student minus those of the smallest above 0",
        "Those were by-catch of a search whose score followed the number of epochs, over teachers of nearly one size.",
    ),
)
_JD8 = claim(
    8,
    "Section 4.3.1",
    "a stronger detector is not always the better teacher",
    [
        ap_rule(
            "gain in AP under the weaker teacher that the other seeds call the best minus the gain under the largest "
            "(mean over the students)",
            under_a_weaker_teacher,
            effect=0.3,
            null="teachers alike: 0",
        )
    ],
    level="level of figure5",
    before=Before(
        "Kendall's tau of a teacher's AP with what it raised the score by below 0.5",
        "Noise alone gives a tau near 0, so that the rule held whatever the teachers did.",
    ),
)

# ---- Figure 6: what each action brings, and when

STEPS = (*KINDS, "teacher")
"""What a step of the search may be: four actions of the student, or another teacher."""
_PRUNING = "channel pruning"


def _measure_figure6(study: "JointDetNASStudy") -> Measured:
    """Every step of the searches: what it did, when, and by how much the score rose."""
    searches = {
        backbone: [
            {name: step[name] for name in ("pair", "kind", "generation")} | {"gain": 100 * step["increment"]}
            for step in _trained_steps(study.upgrading(backbone).search())
        ]
        for backbone in study.preset.upgraded_backbones
    }
    every = [step for steps in searches.values() for step in steps]
    evidence = pruning_evidence(every, study.preset.search.budget) | {"level of figure6": _base_level(study)}
    return {"searches": searches, "evidence": evidence}


def pruning_evidence(steps: Sequence[Mapping[str, Any]], budget: int) -> dict[str, float]:
    """Channel pruning among the student's steps that raised the score.

    "pruning's share": of all that they raised it by; "pruning's share by number": of the student's steps; 0 where there
    are none. "pruning's place": on average how much later pruning came than the others, as a share of the search; 0
    where there is nothing to compare.
    """
    every = [step["kind"] == _PRUNING for step in steps if step["kind"] in KINDS]
    good = [step for step in steps if step["kind"] in KINDS and step["gain"] > 0]
    pruning = [step for step in good if step["kind"] == _PRUNING]
    others = [step for step in good if step["kind"] != _PRUNING]
    share = sum(step["gain"] for step in pruning) / sum(step["gain"] for step in good) if good else 0.0
    later = 0.0
    if pruning and others:
        later = (_mean([step["pair"] for step in pruning]) - _mean([step["pair"] for step in others])) / budget
    return {
        "pruning's share": share,
        "pruning's share by number": sum(every) / len(every) if every else 0.0,
        "pruning's place": later,
    }


def _draw_figure6(measured: Sequence[Measured], setting: Setting) -> Drawn:
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
    return Drawn.of(
        {"Step": "", "Pairs": "", "Beneficial": "share", "Score increments": "points of H"}
        | {"Mean pair of beneficial ones": ""},
        rows,
        "Steps of the searches by what they did. An increment is a pair's score minus its parent's; those above 0 are "
        "summed.",
        [
            f"Channel pruning brings {100 * share.mean:.0f} % of what the student's actions raise the score by. On "
            f"average its successful steps come {abs(place.mean):.2f} of the search "
            f"{'earlier' if place.mean < 0 else 'later'} than the others'."
        ],
        [
            _bars("figure6-score", increments, "Sum of score increments (points)"),
            _bars("figure6-time", shares, "Share of all beneficial steps"),
        ],
    )


_JD9 = claim(
    9,
    "Figure 6",
    "channel pruning brings most of the score, and early; the other actions come late",
    [
        Condition(
            "share of channel pruning in all that the student's actions raised the score by",
            itemgetter("pruning's share"),  # (S,)
            threshold=0.5,
            unit="share",
            effect=0.2,
        ),
        Condition(
            "that share minus channel pruning's share of the student's steps",
            lambda evidence: evidence["pruning's share"] - evidence["pruning's share by number"],
            unit="share",
            effect=0.2,
            null="gains dealt to the steps at random: 0",
        ),
        Condition(
            "mean place of its successful steps minus that of the other actions' (share of the search)",
            itemgetter("pruning's place"),  # (S,)
            "below",
            unit="of the search",
            effect=0.2,
            null="successful steps in random order: 0",
        ),
    ],
    level="level of figure6",
    before=Before(
        "share of channel pruning in all that the student's actions raised the score by above 0.5; mean place of its "
        "successful steps minus that of the other actions' below 0",
        "A pair's score was its number of epochs, whatever its action, so that the share was that of the steps.",
    ),
)

# ---- Table 6: all COCO numbers


def _measure_table6(study: "JointDetNASStudy") -> Measured:
    """Base and upgraded detectors by all COCO numbers, and upgraded ones as a deformable cascade."""
    rows = _upgrades(study)
    for backbone in study.preset.cascaded_backbones:
        rows[backbone]["cascade"] = _detector_numbers(study.upgrading(backbone).cascade())
    return {"rows": rows}


def _draw_table6(measured: Sequence[Measured], setting: Setting) -> Drawn:
    rows, epochs = [], setting.preset["cascade"]["optimisation"]["epochs"]
    for backbone, groups in measured[0]["rows"].items():
        name = _BACKBONE_NAMES[backbone]
        named = {
            "baseline": ("FPN", name, None),
            "ours": (f"Joint-DetNAS ({name})", f"{name}-searched", 0),
            "cascade": (f"Joint-DetNAS ({name}-Cascade)", f"{name}-searched-DCN", epochs),
        }
        for kind in groups:
            row, (method, searched, trained_on) = Shown(measured)["rows", backbone, kind], named[kind]
            ap = [row[key].mean() for key in COCO_NUMBERS]
            rows.append([method, searched, row.size, trained_on, row.images_a_second, *ap])
    return Drawn.of(
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

_SEARCHES = {"random": "random search", "none": "Joint-DetNAS"}


def _measure_table7(study: "JointDetNASStudy") -> Measured:
    """The search and random search with the same number of pairs: what each took and found."""
    found: dict[str, Any] = {}
    for control in _SEARCHES:
        result, searched = study.upgraded(control), study.search(control)
        found[control] = {
            **_detector_numbers(result),
            "pairs": len(searched["steps"]) - 1,
            "search seconds": result["seconds"],
            "scores": _best_scores(searched),
            "depth": result["depth"],
        }
    ours, theirs = (found[control]["scores"] for control in ("none", "random"))
    share, ahead = without_effect(study.search("none"), study.search("random"), study.seed)
    reached = {
        "share of the budget": share_until(ours, theirs[-1]),
        "share without effect": share,
        "search minus random": ours[-1] - theirs[-1],
        "search minus random without effect": ahead,
        "level of table7": in_points(study.base()["AP"]),
    }
    spent = {"best_pair_of_the_search": study.upgraded(), "best_pair_of_random_search": study.upgraded("random")}
    return {"searches": found, "preparation": study.preparation(), "evidence": reached, "budget": budget(**spent)}


def share_until(scores: Sequence[float], goal: float) -> float:
    """After which share of its pairs a search was above a score; 1 where it never was. scores: the base's first."""
    above = [place for place, score in enumerate(scores) if score > goal]
    return above[0] / (len(scores) - 1) if above else 1.0


def without_effect(
    ours: Mapping[str, Any], random: Mapping[str, Any], seed: int, draws: int = 400
) -> tuple[float, float]:
    """What `share_until`, and our best score minus random search's in points, would be on average if no step of the two
    searches mattered: a pair's score is a straight line in the number of trainings behind it, as both searches have it,
    and what is left over, dealt at random. Both begin with the base detector, whose score is one and the same; and as
    long as both have the same parents, they train the same pairs, whose scores stay one and the same, too.
    """
    steps = [[step for step in search["steps"] if step["score"] is not None] for search in (ours, random)]
    depth, scores = (
        np.array([step[key] for each in steps for step in each], dtype=float) for key in ("depth", "score")
    )
    line = np.polyfit(depth, scores, 1) if len(set(depth)) > 1 else np.array([0.0, scores.mean()])
    first = len(steps[0])
    trained = np.delete(np.arange(len(scores)), [0, first])
    pairs, pair_of = np.unique(np.stack([depth[trained], scores[trained]]), axis=1, return_inverse=True)
    expected = np.polyval(line, pairs[0])
    generator, made_up, found = np.random.default_rng(seed), scores.copy(), []
    for _ in range(draws):
        made_up[trained] = (expected + generator.permutation(pairs[1] - expected))[pair_of]
        own, other = np.maximum.accumulate(made_up[:first]), made_up[first:].max()
        found.append((share_until(own.tolist(), float(other)), 100 * (own[-1] - other)))
    share, ahead = np.mean(found, axis=0)
    return float(share), float(ahead)


def _draw_table7(measured: Sequence[Measured], setting: Setting) -> Drawn:
    rows, curves, minutes = [], {}, 1 / 60
    before = {part: Shown(measured)["preparation", part].values for part in ("base", "pool")}
    for name, method in _SEARCHES.items():
        row = Shown(measured)["searches", name]
        scores = [over_seeds(at) for at in row["scores"].values.T]  # (pairs + 1,)
        curves[method] = _curve(range(len(scores)), scores)
        found = [row["macs_mmdet"].mean(1e-6), row.ap, scores[-1]]
        preparation, search = sum(before.values()), row["search seconds"].values
        costs = [over_seeds(minutes * each) for each in (preparation + search, preparation, search)]
        rows.append([method, *found, row["pairs"].mean().mean, *costs])
    share, ahead = (Shown(measured)["evidence", key].mean() for key in ("share of the budget", "search minus random"))
    return Drawn.of(
        {"Search method": "", "FLOPS": "M", "AP": "points", "Best score": "points of H", "Searched architectures": ""}
        | dict.fromkeys(("Search cost", "Pre-training", "Search"), "minutes"),
        rows,
        "What a search trains and finds; AP on validation images, the score on held-out training images. Its cost is "
        "pre-training (base detector, teacher pool, their backbones) and search; nothing is trained after it.",
        [
            f"The search is above all that random search finds after {100 * share.mean:.0f} % of its pairs (100 %: "
            f"never); at the end its best score minus random search's is {ahead.mean:+.2f} points.",
            "Random search draws parents from the latest pairs, so that nothing is selected and chains are as long. "
            "Both share the pool and the base detector.",
        ],
        [_score_curves("table7", curves)],
    )


_DEALT = "scores dealt at random about a straight line in the number of trainings"
_JD11 = claim(
    11,
    "Table 7",
    "fewer architectures than other searches for a better result",
    [
        _h_rule(
            "best score of the search minus that of random search after as many pairs, minus what it would be if no "
            f"step mattered ({_DEALT})",
            lambda evidence: evidence["search minus random"] - evidence["search minus random without effect"],  # (S,)
            null="no effect: 0",
        ),
        Condition(
            "share of its pairs after which the search's best score is above all that random search finds with as many "
            f"(1 where it never is) minus what it would be if no step mattered ({_DEALT})",
            lambda evidence: evidence["share of the budget"] - evidence["share without effect"],
            "below",
            unit="of the pairs",
            effect=0.2,
            null="no effect: 0",
        ),
    ],
    "100",
    level="level of table7",
    before=Before(
        "share of its pairs after which the search's best score is above all that random search finds with as many "
        "below 0.5",
        "A search in which no step matters has .73 with 16 pairs, .42 with 48; and random search had shorter chains. "
        "Where a training costs score, a search that stays near the base is ahead without any effect of its steps.",
    ),
)

# ---- Figure 7: where the backbone computes


def _measure_figure7(study: "JointDetNASStudy") -> Measured:
    """Multiply-accumulates of the backbone's four resolutions at the base size, before and after the search."""
    stages = {backbone: study.upgrading(backbone).search()["stages"] for backbone in study.preset.upgraded_backbones}
    lost = np.array([np.subtract(each["before"], each["after"]) / sum(each["before"]) for each in stages.values()])
    before = np.array([np.array(each["before"]) / sum(each["before"]) for each in stages.values()])
    uniform = before * lost.sum(axis=1, keepdims=True)
    found = {"stages": lost, "stages above a uniform cut": lost - uniform}
    evidence = {name: each.mean(axis=0).tolist() for name, each in found.items()}
    return {"stages": stages, "evidence": evidence | {"level of figure7": _base_level(study)}}


def _draw_figure7(measured: Sequence[Measured], setting: Setting) -> Drawn:
    rows, bars = [], {}
    for backbone in measured[0]["stages"]:
        for when in ("before", "after"):
            costs = [over_seeds(1e-6 * stage) for stage in stacked(measured, "stages", backbone, when).T]
            rows.append([detector(backbone), when, *costs])
            bars[f"{detector(backbone)} {when}"] = {f"stage {n}": triple(each) for n, each in enumerate(costs, 1)}
    lost = [100 * over_seeds(stage).mean for stage in stacked(measured, "evidence", "stages").T]
    shares = ", ".join(f"stage {number} {share:.1f} %" for number, share in enumerate(lost, 1))
    return Drawn.of(
        {"Backbone": "", "Search": ""} | {f"Stage {number}": "M" for number in range(1, 5)},
        rows,
        "Where the backbone computes, at the base size: stages 1 to 4 put out strides 4, 8, 16 and 32.",
        [f"Lost, as a share of all four stages (the stem aside), mean over the backbones: {shares}."],
        [_bars("figure7", bars, "FLOPs of the backbone (MMACs)")],
    )


_JD10 = claim(
    10,
    "Figure 7",
    "stage 3 is cut most, then 2, then 1",
    [
        Condition(
            f"FLOPs that the {more} resolution of the backbone lost minus what the {less} did, beyond what a uniform "
            "cut of as much would give (shares of all four, mean over the backbones)",
            apart("stages above a uniform cut", at, at - 1),  # (S,)
            unit="share",
            effect=0.02,
            null="every stage in proportion to its cost: 0",
        )
        for at, more, less in ((2, "third", "second"), (1, "second", "first"))
    ],
    level="level of figure7",
    before=Before(
        "FLOPs that the third resolution lost minus what the second did, and the second minus the first, above 0",
        "A stage that costs more loses more by a cut that prefers none.",
    ),
)

# ---- Beside the paper: what it leaves open


CHOICES = {
    "none": "as chosen",
    "coin": "a coin, not turns, decides between student and teacher",
    "one-step-teachers": "teachers one step away alone are in reach",
    "fresh-moments": "each pair's optimiser begins anew",
    "identity-adapter": "the adapter begins as the identity, not as a least-squares map",
    "silent-blocks": "new blocks begin with a gamma of 0",
    "layers-by-mean": "layers are ranked by their mean |w|, their fan-in not looked at",
    "share-of-channels": "a pruning takes 10 % of the channels, not of the cost",
    "printed-gamma-weight": "lambda as printed",
    "norms-decay": "norms decay as the other weights do",
}


def _measure_choices(study: "JointDetNASStudy") -> Measured:
    """The search, and the same with one choice at a time made otherwise."""
    rows = {}
    for name in ("none", *other_choices(study.preset)):
        searched, found = study.search(name), study.upgraded(name)
        gains = [100 * step["increment"] for step in _trained_steps(searched)]
        rows[name] = _detector_numbers(found) | {"score": 100 * found["score"], "gain": _mean(gains)}
    return {"rows": rows}


def _draw_choices(measured: Sequence[Measured], setting: Setting) -> Drawn:
    rows, chosen = [], Shown(measured)["rows", "none"]
    for name in measured[0]["rows"]:
        row = Shown(measured)["rows", name]
        score, ap = (over_seeds(row[key].values - chosen[key].values) for key in ("score", "AP"))
        if name == "none":
            score, ap = None, None
        numbers = [row["score"].mean(), score, row.ap, ap, row["macs_mmdet"].mean(1e-6)]
        rows.append([CHOICES[name], *numbers, row["gain"].mean(), row["seconds"].mean(1 / 60)])
    return Drawn.of(
        {"Choice": "", "Best score": "points of H", "Minus as chosen": "points of H", "AP": "points"}
        | {"AP minus as chosen": "AP points", "FLOPS": "M", "Gain of a pair": "points of H", "Search": "minutes"},
        rows,
        f"{detector(setting.preset['backbone'])}: the search, and with one choice at a time that the paper leaves open "
        "made otherwise; on seeds that nothing is judged by.",
        ["A step's decay of a norm's weight is 2e-8 of it at nano scale, less than float32 can hold: it does nothing."],
    )


_PENALISED = {
    "none": "as chosen",
    "penalised-base": "from the start",
    "penalised-pairs": "in the first pairs",
    "no-penalty": "never",
}
"""When L_BN trains a pipeline of Table 5 before the pruning, by choice."""
_PENALTIES = [
    *(("prune-kd", choice) for choice in _PENALISED),
    *(("nas-prune-kd", choice) for choice in ("none", "no-penalty")),
]


def _measure_penalty(study: "JointDetNASStudy") -> Measured:
    """Table 5's pipelines, by when the penalty on the gammas trains them before the pruning."""
    choices = {"none", *other_pipelines(study.preset)}
    found = {f"{name} {choice}": study.pipeline(name, choice) for name, choice in _PENALTIES if choice in choices}
    if None in found.values():
        return {"rows": {}}
    return {
        "rows": {
            key: {"before": _detector_numbers(each["before"]), "after": _detector_numbers(each)}
            for key, each in found.items()
        }
    }


def _draw_penalty(measured: Sequence[Measured], setting: Setting) -> Drawn:
    rows, whole = [], [each for each in measured if each["rows"]]
    for name, choice in _PENALTIES if whole else ():
        if f"{name} {choice}" not in whole[0]["rows"]:
            continue
        row, chosen = (Shown(whole)["rows", f"{name} {each}"] for each in (choice, "none"))
        other = None if choice == "none" else row["after"].ap_minus(chosen["after"])
        rows.append([_PIPELINES[name], _PENALISED[choice], row["before"].ap, row["after"].ap, other])
    return Drawn.of(
        {"Pipeline": "", "Penalty before the pruning": "", "AP before the pruning": "points", "Final AP": "points"}
        | {"Minus as chosen": "AP points"},
        rows,
        f"Table 5's pipelines of {detector(setting.preset['backbone'])} by when the penalty on the gammas trains what "
        "will be pruned; on seeds that nothing is judged by.",
        [
            _penalty_in_words(setting.preset),
            f'"In the first pairs": {100 * setting.preset["penalised_share"]:g} % of them, and the base as it is.',
            *[f"In {len(measured) - len(whole)} of {len(measured)} seeds no pair of the search came to the cost."]
            * (len(whole) < len(measured)),
        ],
    )


def _draw_pairs(measured: Sequence[Measured], setting: Setting) -> Drawn:
    rows, before = [], 100 * stacked(measured, "before")  # (S,)
    percentage, cost = setting.preset["search"]["morphism"]["percentage"], stacked(measured, "cost").mean()
    for number, training in enumerate(setting.preset["pair_trainings"]):
        tried = [each["after"][number] for each in measured]
        alone, taught = (100 * stacked(tried, how) - before[:, None] for how in ("alone", "taught"))  # (S, orders)
        spread = math.sqrt(np.var([alone, taught], axis=2, ddof=1).mean())
        alpha = math.log1p(2 * spread / before.mean()) / -math.log(cost)
        rate = f"{training['policy']}, {training['learning_rate']:g}"
        changes = [over_seeds(alone.mean(axis=1)), over_seeds(taught.mean(axis=1))]
        rows.append([training["epochs"], rate, over_seeds(stacked(tried, "cpu_seconds")), *changes, spread, alpha])
    return Drawn.of(
        {"Epochs": "", "Learning rate": "", "Taught for": "CPU s", "Alone": "AP points", "Taught": "AP points"}
        | {"Spread": "AP points", "Alpha": ""},
        rows,
        f"{detector(setting.preset['backbone'])}, AP {before.mean():.1f} on held-out images: what one pair's training "
        f"adds to it, the mean of {setting.preset['pair_orders']} orders of the batches, alone and under the largest "
        "teacher; on a seed that nothing is judged by.",
        [
            "Spread: the standard deviation between orders, the noise of a pair. Alpha: where one pruning of "
            f"{percentage:g} %, which leaves {100 * cost:.1f} % of the detector's cost, is worth two of them in H."
        ],
    )


def _measure_plateau(study: "JointDetNASStudy") -> Measured:
    """AP of the base detectors and of the pool's largest equivalent alone against the length of training."""
    return {"rows": {name: study.plateau(name) for name in (*study.preset.upgraded_backbones, "largest")}}


def _draw_plateau(measured: Sequence[Measured], setting: Setting) -> Drawn:
    rows, curves = [], {}
    for name, points in measured[0]["rows"].items():
        label = _BACKBONE_NAMES.get(name, "largest teacher")
        values = stacked(measured, "rows", name, "AP")  # (S, lengths)
        ap, rises = ([over_seeds(each) for each in at.T] for at in (values, np.diff(values)))
        rows += [[label, *row] for row in zip(points["samples"], ap, [None, *rises], strict=True)]
        curves[label] = _curve(points["samples"], ap)
    return Drawn.of(
        {"Network": "", "Samples": "", "AP": "points", "Rise by doubling": "AP points"},
        rows,
        "AP on validation images against the length of training, each length a training of its own; on seeds that "
        "nothing is judged by.",
        ["Judged runs train for the shortest length after which doubling brings less than 1 AP."],
        [Picture("plateau", "progress", {"curves": curves, "x_label": "Samples", "y_label": "AP (points)"})],
    )


# ---- The paper

TITLES = {
    "table1": (
        "Sub-networks of the elastic teacher pool against the same networks trained alone",
        "AP of networks out of the pool and trained alone",
    ),
    "table2": ("Channel pruning of base detectors", "AP and cost after pruning 0 to 30 %"),
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
    "choices": ("What the paper leaves open, chosen otherwise", "short searches with one setting changed at a time"),
    "penalty": ("When the penalty on the gammas trains a pipeline", "AP of pipelines, with and without the penalty"),
    "pairs": ("What a pair's training does, and its noise", "AP after a pair's training, by schedule"),
    "plateau": ("AP against the length of training", "base detectors trained for several lengths"),
    "figure7": ("Computation of the backbone's stages before and after the search", "costs of the four resolutions"),
}
"""Exhibit -> its title, and what is measured."""
EXHIBITS = (
    Exhibit("table1", *TITLES["table1"], _measure_table1, _draw_table1, (_JD1,)),
    Exhibit("table2", *TITLES["table2"], _measure_table2, _draw_table2, (_JD2,)),
    Exhibit("table3", *TITLES["table3"], _measure_table3, _draw_table3, (_JD3,)),
    Exhibit("figure4", *TITLES["figure4"], _measure_figure4, _draw_figure4, (_JD6,)),
    Exhibit("table4", *TITLES["table4"], _measure_table4, _draw_table4, (_JD4,)),
    Exhibit("table5", *TITLES["table5"], _measure_table5, _draw_table5, (_JD5,)),
    Exhibit("figure5", *TITLES["figure5"], _measure_figure5, _draw_figure5, (_JD7, _JD8)),
    Exhibit("figure6", *TITLES["figure6"], _measure_figure6, _draw_figure6, (_JD9,)),
    Exhibit("table6", *TITLES["table6"], _measure_table6, _draw_table6),
    Exhibit("table7", *TITLES["table7"], _measure_table7, _draw_table7, (_JD11,)),
    Exhibit("figure7", *TITLES["figure7"], _measure_figure7, _draw_figure7, (_JD10,)),
    Exhibit("choices", *TITLES["choices"], _measure_choices, _draw_choices, pilot=2),
    Exhibit("penalty", *TITLES["penalty"], _measure_penalty, _draw_penalty, pilot=2),
    Exhibit("pairs", *TITLES["pairs"], methodcaller("pair_trials"), _draw_pairs, pilot=1),
    Exhibit("plateau", *TITLES["plateau"], _measure_plateau, _draw_plateau, pilot=1),
)


def _make_study(options: Any, seed: int, command: str) -> "JointDetNASStudy":
    """The runs of one seed."""
    from joint_detnas.study import JointDetNASStudy

    return JointDetNASStudy(options, seed, command)


def _describe(study: "JointDetNASStudy") -> str:
    """Its data, teachers and searches, in a phrase."""
    return (
        f"{len(study.training_set)} training, {len(study.sets['search'])} held-out and "
        f"{len(study.sets['validation'])} validation images; {study.preset.teachers.count():,} teachers, "
        f"{study.preset.search.budget} pairs a search"
    )


PAPER = Paper("joint_detnas", "Joint-DetNAS", Path(__file__).parent, EXHIBITS, _make_study, _describe)
