"""What each exhibit of Joint-DetNAS measures on one seed, as plain numbers that fit into JSON.

Every `measure_*` takes a `Study` and returns a dict. Its "evidence" holds the values that the claims are judged by, by
the names of joint_detnas.claims. AP and the score H are in points, latency in milliseconds.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from common.models.described import Architecture
from common.report.statistics import kendall_tau
from common.reproduce.exhibit import Measured
from joint_detnas.method import ChannelPruning, History, Pair, backbone_cost, described
from joint_detnas.presets import KINDS, PERCENTAGES, STRIDES, Teacher, size_name
from joint_detnas.study import PIPELINES, Control, Searched, Study

COCO_NUMBERS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
BEST_PAIRS = 3
"""Teachers of so many of the best pairs say which size of teacher fits a student."""


def numbers(result: Mapping[str, Any]) -> dict[str, Any]:
    """What tables show of a detector."""
    points = {name: _points(result.get(name)) for name in COCO_NUMBERS}
    kept = ("macs", "macs_mmdet", "params", "backbone_macs_mmdet", "backbone_macs_at_base_size", "latency", "seconds")
    at_sizes = {size: _points(each) for size, each in result["AP_at"].items()}
    return points | {name: result.get(name) for name in kept} | {"size": size_name(result["size"]), "AP_at": at_sizes}


def _points(share: float | None) -> float:
    return math.nan if share is None else 100 * share


# ------------------------------------------------------------------------------------------------------------------
# Parts of the framework on their own: Tables 1 to 3
# ------------------------------------------------------------------------------------------------------------------


def measure_table1(study: Study) -> Measured:
    """Networks out of the pool beside the same ones trained alone, at the two largest sizes."""
    sizes = [size_name(size) for size in study.preset.sizes[-2:]]
    rows, gains = {}, []
    for name, _ in study.preset.equivalents:
        rows[name] = {"alone": numbers(study.alone(name)), "pool": numbers(study.sampled(name))}
        apart = [rows[name]["pool"]["AP_at"][size] - rows[name]["alone"]["AP_at"][size] for size in sizes]
        gains.append(_mean(apart))
    return {"sizes": sizes, "rows": rows, "evidence": {"pool minus alone": gains}}


def measure_table2(study: Study) -> Measured:
    """Base detectors pruned by so many per cent of their channels."""
    rows, accuracy = {}, []
    for backbone in study.preset.pruned_backbones:
        of = study.on(backbone)
        rows[backbone] = {
            "baseline": numbers(of.base),
            **{str(percentage): numbers(of.pruned(percentage)) for percentage in PERCENTAGES},
        }
        accuracy.append([row["AP"] for row in rows[backbone].values()])
    return {"rows": rows, "evidence": {"pruned": accuracy}}


def measure_table3(study: Study) -> Measured:
    """Students trained alone, by fine-grained feature imitation and by the paper's distillation."""
    rows, accuracy = {}, []
    for backbone, teacher in study.preset.lessons:
        of = study.on(backbone)
        rows[backbone] = {
            "teacher": {"name": teacher, **numbers(study.sampled(teacher))},
            "baseline": numbers(of.base),
            "imitation": numbers(of.distilled(teacher, "imitation")),
            "ours": numbers(of.distilled(teacher, "ours")),
        }
        accuracy.append([rows[backbone][name]["AP"] for name in ("baseline", "imitation", "ours")])
    return {"rows": rows, "evidence": {"distilled": accuracy}}


# ------------------------------------------------------------------------------------------------------------------
# Upgraded detectors: Tables 4 to 7
# ------------------------------------------------------------------------------------------------------------------


def _upgrades(study: Study) -> dict[str, dict[str, Any]]:
    """Base and upgraded detector of every backbone; their latencies are those that were timed in turn."""
    rows = {}
    for backbone in study.preset.upgraded_backbones:
        of = study.on(backbone)
        both, timed = {"base": of.base, "upgraded": of.upgraded()}, of.latencies()
        before, after = (numbers(result | {"latency": timed[name]["latency"]}) for name, result in both.items())
        rows[backbone] = {"baseline": before, "ours": after | {"latency of the baseline's": _ratio(timed)}}
    return rows


def _ratio(timed: Mapping[str, Any]) -> float:
    """Latency of the upgraded detector over that of the base, round by round (see `Study.latencies`)."""
    return float(np.median(np.divide(timed["upgraded"]["rounds"], timed["base"]["rounds"])))


def measure_table4(study: Study) -> Measured:
    """Base detectors and what they are upgraded to; and one that was only distilled, by as many steps as a list of
    pairs has, with nothing changed (see `Study.settings`, fixed-pair)."""
    rows = _upgrades(study)
    # timed in turn with the base, but at another time than what the search found: so by its ratio to the base
    latency = rows[study.backbone]["baseline"]["latency"] * _ratio(study.latencies("fixed-pair"))
    rows[study.backbone]["distilled"] = numbers(study.upgraded("fixed-pair") | {"latency": latency})
    pairs = [(row["baseline"], row["ours"]) for row in rows.values()]
    evidence = {
        "gain": [after["AP"] - before["AP"] for before, after in pairs],
        "cost": [after["macs_mmdet"] / before["macs_mmdet"] for before, after in pairs],
        "time": [after["latency of the baseline's"] for _, after in pairs],
    }
    return {"rows": rows, "evidence": evidence}


def measure_table5(study: Study) -> Measured:
    """Pipelines beside the joint search, at one backbone cost and one input size."""
    joint = numbers(study.upgraded())
    rows = {"baseline": {"after": numbers(study.base)}, "joint": {"after": joint}}
    for name in PIPELINES:
        result = study.pipeline(name)
        rows[name] = {"before": numbers(result["before"]), "after": numbers(result)}
    evidence = {f"joint minus {name}": joint["AP"] - rows[name]["after"]["AP"] for name in PIPELINES}
    return {"rows": rows, "evidence": evidence}


def measure_table6(study: Study) -> Measured:
    """Base and upgraded detectors by all COCO numbers, and upgraded ones as a deformable cascade."""
    rows = _upgrades(study)
    for backbone in study.preset.cascaded_backbones:
        rows[backbone]["cascade"] = numbers(study.on(backbone).cascade())
    return {"rows": rows}


def measure_table7(study: Study) -> Measured:
    """The search and random search with the same number of pairs: what each took and found."""
    found: dict[str, Any] = {}
    for control in ("none", "random"):
        searched, result = study.search(control), study.upgraded(control)
        found[control] = {
            **numbers(result),
            "pairs": len(searched.history.pairs) - 1,
            "search seconds": result["seconds"],
            "scores": _scores(searched.history),
        }
    evidence = {
        "share of the budget": share_until(found["none"]["scores"], found["random"]["scores"][-1]),
        "search minus random": found["none"]["scores"][-1] - found["random"]["scores"][-1],
    }
    return {"searches": found, "pool seconds": study.pool["seconds"], "evidence": evidence}


def _scores(history: History) -> list[float]:
    """The best score after each pair, in points, the base first."""
    return [100 * score for score in history.scores()]


def share_until(scores: Sequence[float], goal: float) -> float:
    """After which share of its pairs a search was above a score; 1 where it never was. scores: the base's first."""
    above = [place for place, score in enumerate(scores) if score > goal]
    return above[0] / (len(scores) - 1) if above else 1.0


# ------------------------------------------------------------------------------------------------------------------
# A fixed student: Figures 4 and 5
# ------------------------------------------------------------------------------------------------------------------


def measure_figure4(study: Study) -> Measured:
    """The best score so far of one student, under changing teachers and under the largest."""
    curves = {name: _scores(study.search(control).history) for name, control in FIGURE4.items()}
    apart = np.subtract(curves["dynamic"], curves["conventional"])[1:]
    evidence = {"dynamic ends": float(apart[-1]), "dynamic on the way": float(apart.mean())}
    return {"curves": curves, "evidence": evidence}


FIGURE4: dict[str, Control] = {"dynamic": "fixed-student", "conventional": "fixed-pair"}


def measure_figure5(study: Study) -> Measured:
    """The teachers of each fixed student: their size, how good they are, and what they brought."""
    students = {backbone: _taught(study.on(backbone)) for backbone in study.preset.taught_backbones}
    matching = [each["best teachers"] for each in students.values()]
    evidence = {
        "teacher grows": matching[-1] - matching[0],
        "teacher tau": _mean([each["tau"] for each in students.values()]),
    }
    return {"students": students, "evidence": evidence}


def _taught(study: Study) -> dict[str, Any]:
    """A student's teachers, pair by pair. "best teachers": parameters of those of the best pairs, millions, mean."""
    history, precisions = study.search("fixed-student").history, study.teacher_precisions()
    taught = [each for each in history.pairs[1:] if each.student is not None]
    size = {each.number: _teacher_parameters(study, each.teacher) for each in taught}
    best = sorted(taught, key=lambda each: -each.score)[:BEST_PAIRS]
    leading, leaders = history.base, []
    for each in taught:
        leading = each if each.score > leading.score else leading
        leaders.append(_teacher_parameters(study, leading.teacher))
    teacher_ap = [_points(precisions[str(each.teacher)]) for each in taught]
    gains = [100 * history.increment(each) for each in taught]
    return {
        "pairs": [each.number for each in taught],
        "teacher parameters": [size[each.number] for each in taught],
        "leading teacher's parameters": leaders,
        "teacher AP": teacher_ap,
        "gain": gains,
        "best teachers": _mean([size[each.number] for each in best]),
        "tau": kendall_tau(teacher_ap, gains) if len(set(teacher_ap)) > 1 else math.nan,
    }


def _teacher_parameters(study: Study, teacher: Teacher) -> float:
    """Of its backbone, millions."""
    architecture, _ = described(study.preset.teachers, teacher)
    return backbone_cost(architecture, study.preset.base_size).params / 1e6


# ------------------------------------------------------------------------------------------------------------------
# The search looked into: Figures 6 and 7
# ------------------------------------------------------------------------------------------------------------------


def measure_figure6(study: Study) -> Measured:
    """Every step of the searches: what it did, when, and by how much the score rose."""
    searches = {backbone: _steps(study.on(backbone).search()) for backbone in study.preset.upgraded_backbones}
    every = [step for steps in searches.values() for step in steps]
    return {"searches": searches, "evidence": pruning_evidence(every, study.preset.search.budget)}


def _steps(searched: Searched) -> list[dict[str, Any]]:
    """The pairs of a search that were trained, in order; gain: of the score on the parent's, points."""
    history = searched.history

    def step(each: Pair) -> dict[str, Any]:
        gain = 100 * history.increment(each)
        return {"pair": each.number, "kind": each.kind, "gain": gain, "generation": each.generation}

    return [step(each) for each in history.pairs[1:] if each.student is not None]


def pruning_evidence(steps: Sequence[Mapping[str, Any]], budget: int) -> dict[str, float]:
    """Channel pruning among the steps of the student that raised the score.

    pruning's share: of all that they raised it by; 0 where none did. pruning's place: on average how much later it
    came than the other ones, as a share of the search; 0 where there is nothing to compare.
    """
    good = [step for step in steps if step["kind"] in KINDS and step["gain"] > 0]
    pruning, others = (
        [step for step in good if (step["kind"] == ChannelPruning.kind) == wanted] for wanted in (True, False)
    )
    raised = sum(step["gain"] for step in good)
    later = 0.0
    if pruning and others:
        later = (_mean([step["pair"] for step in pruning]) - _mean([step["pair"] for step in others])) / budget
    return {"pruning's share": sum(s["gain"] for s in pruning) / raised if good else 0.0, "pruning's place": later}


def measure_figure7(study: Study) -> Measured:
    """Multiply-accumulates of the backbone's four resolutions at the base size, before and after the search."""
    stages = {}
    for backbone in study.preset.upgraded_backbones:
        of = study.on(backbone)
        before = of.search().history.base.student
        after = Architecture.from_dict(of.upgraded()["architecture"])
        stages[backbone] = {
            "before": resolution_costs(before, study.preset.base_size),
            "after": resolution_costs(after, study.preset.base_size),
        }
    shares = [(np.array(each["before"]) - np.array(each["after"])) / sum(each["before"]) for each in stages.values()]
    return {"stages": stages, "evidence": {"stages": np.mean(shares, axis=0).tolist()}}


def resolution_costs(architecture: Architecture, size: tuple[int, int]) -> list[int]:
    """Multiply-accumulates at strides 4, 8, 16 and 32, without the stem."""
    parts, costs, place = backbone_cost(architecture, size).parts, [0] * len(STRIDES), 0
    for number in range(1, len(architecture.stages) + 1):
        costs[place] += parts[f"stage{number}"]["macs_mmdet"]
        if number in architecture.feature_stages:
            place += 1
    if "head" in parts:
        costs[-1] += parts["head"]["macs_mmdet"]
    return costs


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else math.nan
