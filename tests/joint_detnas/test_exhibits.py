"""What every exhibit measures of made-up runs, how it draws made-up numbers, and how its claims judge made-up evidence:
each cell, curve, value and rule against numbers written by hand. Nothing is trained.
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from common.plain import from_json, read_json, to_json
from common.report.claims import Evidence, judge
from common.report.exhibit import ExhibitResult, Measured, Setting, printed, triple
from common.report.reproduce import draw, measure_exhibit, stacked_evidence
from common.report.statistics import Difference
from joint_detnas.exhibits import COCO_NUMBERS, EXHIBITS, PAPER, STEPS, detector, pruning_evidence, share_until
from joint_detnas.presets import BACKBONES, KINDS

NAMES = [*(f"table{number}" for number in range(1, 8)), *(f"figure{number}" for number in range(4, 8))]
HALF = 0.95 * math.sqrt(2 / (4 * 0.975 * 0.025)) / math.sqrt(3)  # Student's t of 2 degrees, for three seeds one apart
NAN = math.nan


def test_exhibits_are_the_papers():
    drawings = {"figure1", "figure2", "figure3"}  # of the method: nothing is measured
    assert sorted(PAPER.by_name) == sorted(NAMES)
    assert set(NAMES) == set(printed(PAPER.folder)["exhibits"]) - drawings
    assert (PAPER.name, PAPER.title) == ("joint_detnas", "Joint-DetNAS")


def test_every_backbone_has_a_name():
    assert len({detector(name) for name in BACKBONES}) == len(BACKBONES)


# ------------------------------------------------------------------------------------------------------------------
# Measured of made-up runs
# ------------------------------------------------------------------------------------------------------------------


class MadeUpStudy:
    """A study whose runs have the results that are given, by name. What was asked for is noted, as a study does."""

    def __init__(self, preset: Mapping[str, Any], runs: Mapping[str, Any], backbone: str = "resnet18") -> None:
        self.preset = SimpleNamespace(backbone="resnet18", **preset)
        self.runs, self.backbone, self.recorders = runs, backbone, []

    def upgrading(self, backbone: str) -> "MadeUpStudy":
        other = MadeUpStudy({}, self.runs, backbone)
        other.preset, other.recorders = self.preset, self.recorders
        return other

    @contextmanager
    def recording(self) -> Iterator[dict[str, None]]:
        used = {}
        self.recorders.append(used)
        yield used
        self.recorders.remove(used)

    def run(self, *parts: Any) -> Any:
        name = "-".join(map(str, parts))
        for recorder in self.recorders:
            recorder[name] = None
        return self.runs[name]

    def __getattr__(self, kind: str):
        """The study's method of that name: it gives the run that is called after it, the backbone and its arguments."""
        shared = kind in ("pool", "alone", "sampled")
        return lambda *arguments: self.run(kind, *([] if shared else [self.backbone]), *arguments)

    def search(self, control: str = "none") -> Any:
        return self.run("search", self.backbone, control)

    def upgraded(self, control: str = "none") -> Any:
        return self.search(control)["upgraded"]

    def latencies(self, control: str = "none") -> Any:
        return self.run("latencies", self.backbone, control)


def measured_of(name: str, preset: Mapping[str, Any], runs: Mapping[str, Any]) -> Measured:
    return measure_exhibit(PAPER.by_name[name], MadeUpStudy(preset, runs))


def result(ap: float, macs: float = 8e6, latency: float = 4.0, seconds: float = 7.0, **ap_at: float) -> dict[str, Any]:
    """As the study reports on a detector of so many points; every number another one."""
    shares = {name: ap / 100 + 0.01 * place for place, name in enumerate(COCO_NUMBERS)}
    costs = {"macs": macs - 1, "macs_mmdet": macs, "params": 5, "backbone_macs_mmdet": macs / 2}
    costs |= {"backbone_macs_at_base_size": macs / 4, "latency": latency, "seconds": seconds}
    at = {size: points / 100 for size, points in (ap_at or {"64x32": ap}).items()}
    return {**shares, **costs, "size": [64, 32], "AP_at": at}


def shown(*arguments: Any, **ap_at: float) -> dict[str, Any]:
    """The same as a table shows it."""
    found = result(*arguments, **ap_at)
    points = {name: 100 * found[name] for name in COCO_NUMBERS}
    return found | points | {"size": "64x32", "AP_at": {size: 100 * ap for size, ap in found["AP_at"].items()}}


def search(steps: str = "", teachers: str = "", upgraded: Any = None, **more) -> dict:
    """A search's result. steps: of each pair, the base first, its parent, its kind and its score; - for none (of a
    score: it failed). teachers: a letter for each pair."""
    listed, scores = [], []
    for pair, step in enumerate(filter(None, steps.split(";"))):
        parent, *kind, score = (None if word == "-" else word for word in step.split())
        parent, score = parent and int(parent), score and float(score)
        rise = None if score is None or parent is None else score - scores[parent]
        scores.append(score)
        step = {"pair": pair, "parent": parent, "kind": " ".join(kind), "score": score, "increment": rise}
        listed.append(step | {"generation": (pair + 1) // 2, "teacher": teachers[pair : pair + 1] or "A"})
    return {"steps": listed, "upgraded": upgraded, **more}


def same(one: Any, other: Any) -> bool:
    """Equal but for rounding; NaN equals NaN and, as in JSON, null."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, bool | str) or isinstance(other, bool | str):
        return one == other
    if one is None or other is None:
        return all(each is None or math.isnan(each) for each in (one, other))
    return one == pytest.approx(other, rel=1e-9, nan_ok=True)


def test_a_detector_is_shown_in_points_and_what_is_missing_as_nothing():
    runs = {"base-resnet18": result(20) | {"APs": None}, "search-resnet18-none": {"upgraded": result(30)}}
    runs["latencies-resnet18-none"] = {name: {"latency": 1.5, "rounds": [1.5]} for name in ("base", "upgraded")}
    del runs["base-resnet18"]["seconds"]
    rows = measured_of("table6", {"upgraded_backbones": ["resnet18"], "cascaded_backbones": []}, runs)["rows"]
    expected = {"baseline": shown(20, latency=1.5) | {"APs": None, "seconds": None}}
    assert same(rows["resnet18"], expected | {"ours": shown(30, latency=1.5) | {"latency of the baseline's": 1}})


def test_table1_measures_the_two_largest_sizes():
    preset = {"sizes": ((32, 32), (64, 32), (64, 64)), "equivalents": (("R14", "-"), ("R26", "-"))}
    ap_at = {"alone-R14": (90, 20, 30), "alone-R26": (90, 40, 50), "sampled-R14": (10, 22, 36)}
    ap_at |= {"sampled-R26": (10, 38, 51)}
    by_size = {name: dict(zip(("32x32", "64x32", "64x64"), each, strict=True)) for name, each in ap_at.items()}
    measured = measured_of("table1", preset, {name: result(each[-1], **by_size[name]) for name, each in ap_at.items()})
    assert measured["sizes"] == ["64x32", "64x64"]
    assert same(measured["rows"]["R14"]["alone"], shown(30, **by_size["alone-R14"]))
    assert same(measured["rows"]["R26"]["pool"], shown(51, **by_size["sampled-R26"]))
    assert same(measured["evidence"], {"pool minus alone": [(2 + 6) / 2, (-2 + 1) / 2]})
    assert set(measured["rests_on"]["pool minus alone"]) == set(measured["runs"]) == set(ap_at)


def test_table2_measures_every_percentage():
    runs = {"base-resnet18": result(20), "base-resnet50": result(30)}
    for place, percentage in enumerate((0, 10, 20, 30)):
        runs[f"pruned-resnet18-{percentage}"] = result(21 + place)
        runs[f"pruned-resnet50-{percentage}"] = result(36 - 2 * place)
    measured = measured_of("table2", {"pruned_backbones": ("resnet18", "resnet50")}, runs)
    assert same(measured["evidence"], {"pruned": [[20, 21, 22, 23, 24], [30, 36, 34, 32, 30]]})
    assert list(measured["rows"]["resnet50"]) == ["baseline", "0", "10", "20", "30"]
    assert same(measured["rows"]["resnet50"]["20"], shown(32))
    assert set(measured["rests_on"]["pruned"]) == set(runs)


def test_table3_measures_both_methods_under_the_teacher_of_the_lesson():
    runs = {"base-resnet18": result(20), "sampled-R50": result(35)}
    runs |= {f"distilled-resnet18-R50-{method}": result(ap) for method, ap in (("imitation", 21), ("ours", 23))}
    measured = measured_of("table3", {"lessons": (("resnet18", "R50"),)}, runs)
    rows = {"teacher": {"name": "R50", **shown(35)}, "baseline": shown(20), "imitation": shown(21), "ours": shown(23)}
    assert same(measured["rows"], {"resnet18": rows})
    assert same(measured["evidence"], {"distilled": [[20, 21, 23]]})
    assert set(measured["rests_on"]["distilled"]) == set(runs)


def test_figure4_measures_best_scores_so_far():
    runs = {
        "search-resnet18-fixed-student": search("- base .1; 0 teacher .2; 1 teacher .15; 1 teacher .4"),
        "search-resnet18-fixed-pair": search("- base .1; 0 train on .1; 1 train on -; 0 train on .33"),
    }
    measured = measured_of("figure4", {}, runs)
    assert same(measured["curves"], {"dynamic": [10, 20, 20, 40], "conventional": [10, 10, 10, 33]})
    assert same(measured["evidence"], {"dynamic ends": 7, "dynamic on the way": (10 + 10 + 7) / 3})
    assert set(measured["rests_on"]["dynamic ends"]) == set(runs)


def timed(*rounds: tuple[float, float]) -> dict[str, Any]:
    """Latencies of the base and of the upgraded detector, round by round."""
    columns = dict(zip(("base", "upgraded"), map(list, zip(*rounds, strict=True)), strict=True))
    return {name: {"latency": float(np.median(each)), "rounds": each} for name, each in columns.items()}


UPGRADED = {
    "base-resnet18": result(20),
    "base-mobilenet_v2": result(30),
    "search-resnet18-none": search(upgraded=result(25, 6e6)),
    "search-mobilenet_v2-none": search(upgraded=result(28, 4e6)),
    # the machine slows to a third for a round: each round is compared with itself
    "latencies-resnet18-none": timed((4.0, 3.0), (12.0, 9.0), (6.0, 4.5)),
    "latencies-mobilenet_v2-none": timed((4.0, 5.0), (4.0, 6.0), (16.0, 20.0)),
}
BOTH = {"upgraded_backbones": ("resnet18", "mobilenet_v2")}


def test_table4_compares_what_was_found_with_its_own_base():
    runs = UPGRADED | {
        "search-resnet18-fixed-pair": search(upgraded=result(22)),
        "latencies-resnet18-fixed-pair": timed((3.0, 3.3), (5.0, 5.5)),
    }
    measured = measured_of("table4", BOTH, runs)
    rows = {
        "resnet18": {
            "baseline": shown(20, latency=6.0),
            "ours": shown(25, 6e6, 4.5) | {"latency of the baseline's": 0.75},
            "distilled": shown(22, latency=6.6),  # 1.1 times that of the base, which was timed at another hour
        },
        "mobilenet_v2": {
            "baseline": shown(30, latency=4.0),
            "ours": shown(28, 4e6, 6.0) | {"latency of the baseline's": 1.25},
        },
    }
    assert same(measured["rows"], rows)
    assert same(measured["evidence"], {"gain": [5, -2], "cost": [0.75, 0.5], "time": [0.75, 1.25]})
    assert set(measured["runs"]) == set(runs)
    detectors = {name for name in UPGRADED if not name.startswith("latencies")}
    assert set(measured["rests_on"]["gain"]) == set(measured["rests_on"]["cost"]) == detectors
    assert set(measured["rests_on"]["time"]) == set(UPGRADED) - detectors


def test_table5_is_what_the_search_found_minus_each_pipeline():
    runs = {
        "base-resnet18": result(30),
        "search-resnet18-none": search(upgraded=result(40)),
        "pipeline-resnet18-prune-kd": result(35) | {"before": result(30)},
        "pipeline-resnet18-nas-prune-kd": result(42) | {"before": result(32)},
    }
    measured = measured_of("table5", {}, runs)
    rows = {"baseline": {"after": shown(30)}, "joint": {"after": shown(40)}}
    rows |= {"prune-kd": {"before": shown(30), "after": shown(35)}}
    rows |= {"nas-prune-kd": {"before": shown(32), "after": shown(42)}}
    assert same(measured["rows"], rows)
    assert same(measured["evidence"], {"joint minus prune-kd": 5, "joint minus nas-prune-kd": -2})
    expected = {"search-resnet18-none", "pipeline-resnet18-nas-prune-kd"}
    assert set(measured["rests_on"]["joint minus nas-prune-kd"]) == expected


def test_figure5_takes_the_teachers_of_the_best_three_pairs():
    sizes = {"S": (0.2, 1e6), "M": (0.1, 2e6), "L": (0.3, 4e6)}
    teachers = {letter: {"AP": ap, "backbone_params": size} for letter, (ap, size) in sizes.items()}
    backbones, first = ("mobilenet_v2", "resnet18", "resnet50"), "- base .1; 0 teacher .3; 1 teacher "
    runs = {
        "search-resnet18-fixed-student": search(
            first + ".55; 2 teacher -; 2 teacher .6; 1 teacher .52", teachers="LSMLML"
        ),
        "search-resnet50-fixed-student": search(first + ".3", teachers="LLM"),
        "search-mobilenet_v2-fixed-student": search("- base .1; 0 teacher .05", teachers="SL"),
        **{f"teachers-{backbone}": teachers for backbone in backbones},
    }
    measured = measured_of("figure5", {"taught_backbones": backbones}, runs)
    # the third failed; of six pairs of pairs, 2 and 4 have teachers of one AP, and the better teacher brought more in
    # three of the others
    expected = {"pairs": [1, 2, 4, 5], "teacher parameters": [1, 2, 2, 4], "leading teacher's parameters": [1, 2, 2, 2]}
    expected |= {"teacher AP": [20, 10, 10, 30], "gain": [20, 25, 5, 22]}
    expected |= {"best teachers": (2 + 2 + 4) / 3, "tau": (3 - 2) / math.sqrt(5 * 6)}
    assert same(measured["students"]["resnet18"], expected)
    other = measured["students"]["resnet50"]
    assert same([other["best teachers"], other["tau"]], [3, 1])  # two pairs; the better teacher brought more
    assert same(other["leading teacher's parameters"], [4, 4])  # as good is not better
    alike = measured["students"]["mobilenet_v2"]
    assert same([alike["best teachers"], alike["tau"]], [4, None])  # one teacher has no rank
    assert same(alike["leading teacher's parameters"], [1])  # the base is better still
    assert same(measured["evidence"], {"teacher grows": 3 - 4, "teacher tau": None})
    last = {name for name in runs if "resnet18" not in name}
    assert set(measured["rests_on"]["teacher grows"]) == last
    assert set(measured["rests_on"]["teacher tau"]) == set(runs)
    two = measured_of("figure5", {"taught_backbones": ("resnet18", "resnet50")}, runs)
    assert same(two["evidence"], {"teacher grows": 3 - 8 / 3, "teacher tau": (1 + 1 / math.sqrt(30)) / 2})


def test_figure6_names_every_step_that_was_trained():
    steps = "- base .1; 0 channel pruning .2; 1 teacher .15; 1 add-layer -; 1 add-layer .5"
    runs = {"search-resnet18-none": search(steps), "search-mobilenet_v2-none": search("- base .1; 0 rearrange .2")}
    measured = measured_of("figure6", BOTH | {"search": SimpleNamespace(budget=4)}, runs)
    expected = [
        {"pair": 1, "kind": "channel pruning", "generation": 1, "gain": 10},
        {"pair": 2, "kind": "teacher", "generation": 1, "gain": -5},
        {"pair": 4, "kind": "add-layer", "generation": 2, "gain": 30},
    ]
    assert same(measured["searches"]["resnet18"], expected)
    assert [step["kind"] for step in measured["searches"]["mobilenet_v2"]] == ["rearrange"]
    share = {"pruning's share": 10 / 50, "pruning's place": (1 - (4 + 1) / 2) / 4}
    assert same(measured["evidence"], share)
    assert set(measured["rests_on"]["pruning's share"]) == set(runs)


def test_table6_also_shows_cascades():
    runs = UPGRADED | {"cascade-mobilenet_v2": result(50)}
    measured = measured_of("table6", BOTH | {"cascaded_backbones": ("mobilenet_v2",)}, runs)
    kinds = {backbone: list(rows) for backbone, rows in measured["rows"].items()}
    assert kinds == {"resnet18": ["baseline", "ours"], "mobilenet_v2": ["baseline", "ours", "cascade"]}
    assert same(measured["rows"]["mobilenet_v2"]["cascade"], shown(50))
    assert same(measured["rows"]["resnet18"]["baseline"], shown(20, latency=6.0))


def test_table7_measures_both_searches():
    runs = {
        "search-resnet18-none": search("- base .1; 0 add-layer .25; 1 teacher .4", upgraded=result(30)),
        "search-resnet18-random": search("- base .1; 0 add-layer .2; 0 teacher .3", upgraded=result(25, seconds=9.0)),
        "pool": {"seconds": 11.0},
    }
    measured = measured_of("table7", {}, runs)
    searches = {
        "random": shown(25, seconds=9.0) | {"pairs": 2, "search seconds": 9.0, "scores": [10, 20, 30]},
        "none": shown(30) | {"pairs": 2, "search seconds": 7.0, "scores": [10, 25, 40]},
    }
    assert same(measured["searches"], searches)
    assert measured["pool seconds"] == 11.0
    assert same(measured["evidence"], {"share of the budget": 1.0, "search minus random": 10})
    assert set(measured["runs"]) == set(runs)


def test_figure7_is_what_each_resolution_lost_of_all_four():
    runs = {
        "search-resnet18-none": search(stages={"before": [40, 30, 20, 10], "after": [40, 20, 0, 10]}),
        "search-mobilenet_v2-none": search(stages={"before": [10, 20, 30, 140], "after": [8, 20, 30, 150]}),
    }
    measured = measured_of("figure7", BOTH, runs)
    assert measured["stages"] == {name.split("-")[1]: run["stages"] for name, run in runs.items()}
    assert same(measured["evidence"], {"stages": [(0 + 0.01) / 2, 0.1 / 2, 0.2 / 2, -0.05 / 2]})


def test_share_until_counts_pairs_not_the_base():
    scores = [1.0, 1.0, 2.0, 2.0, 3.0]
    assert share_until(scores, 0.5) == 0.0  # the base itself is above
    assert share_until(scores, 1.0) == 2 / 4
    assert share_until(scores, 2.5) == 1.0
    assert share_until(scores, 3.0) == 1.0  # as good is not above


def naive_pruning_evidence(steps: list[dict], budget: int) -> dict[str, float]:
    pruned = others = 0.0
    places = {True: [], False: []}
    for step in steps:
        if step["kind"] in ("teacher", "train on") or step["gain"] <= 0:
            continue
        is_pruning = step["kind"] == "channel pruning"
        pruned, others = pruned + step["gain"] * is_pruning, others + step["gain"] * (not is_pruning)
        places[is_pruning].append(step["pair"])
    late = 0.0
    if places[True] and places[False]:
        late = (np.mean(places[True]) - np.mean(places[False])) / budget
    return {"pruning's share": pruned / (pruned + others) if pruned + others else 0.0, "pruning's place": late}


def test_pruning_evidence_equals_a_plain_loop():
    generator, kinds = np.random.default_rng(0), [*KINDS, "teacher", "train on"]
    for pairs in (0, 1, 2, 3, 12, 12, 12):
        steps = [
            {"pair": pair, "kind": str(generator.choice(kinds)), "gain": float(generator.normal())}
            for pair in range(1, pairs + 1)
        ]
        assert pruning_evidence(steps, 12) == pytest.approx(naive_pruning_evidence(steps, 12))


def test_pruning_evidence_where_there_is_little():
    def evidence(*steps: tuple[str, float]) -> list[float]:
        found = pruning_evidence([{"pair": 3, "kind": kind, "gain": gain} for kind, gain in steps], 10)
        return [found["pruning's share"], found["pruning's place"]]

    assert evidence() == evidence(("channel pruning", 0.0), ("teacher", 2.0)) == [0, 0]
    assert evidence(("channel pruning", 1.0)) == [1, 0]
    assert evidence(("add-layer", 1.0)) == [0, 0]


# ------------------------------------------------------------------------------------------------------------------
# Drawn from made-up numbers: seeds that are one apart, x = -1, 0 and 1
# ------------------------------------------------------------------------------------------------------------------

PRESET = {  # every number another one, so that none can stand for another
    "backbone": "resnet18",
    "base_training": {"epochs": 16},
    "pair_training": {"epochs": 3},
    "teaching": {"budget": 8},
    "search": {"budget": 6},
    "cascade": {"optimisation": {"epochs": 13}},
    "shrinking": {"phases": [{"name": "full", "epochs": 5}, {"name": "all", "epochs": 9}], "networks_a_step": 2},
    "equivalents": [["R14", {"depths": [1, 1, 1, 1], "widths": [1.0] * 4, "neck": 1.0}]],
}


def numbers(ap: float, x: float = 0.0, flops: float = 50.0, latency: float = 4.0, size: str = "64x64") -> Measured:
    """Of a detector whose AP rises with x; every number another one. flops: M."""
    shares = {name: ap + place + x for place, name in enumerate(COCO_NUMBERS)}
    costs = {"macs": 1.0, "macs_mmdet": flops * 1e6, "params": 2.0, "backbone_macs_mmdet": (flops - 10) * 1e6}
    costs |= {"backbone_macs_at_base_size": (flops - 20) * 1e6, "latency": latency, "seconds": 3.0}
    return {**shares, **costs, "size": size, "AP_at": {"32x32": ap - 6 + x, "64x64": ap + x}}


def made_up(name: str, x: float) -> Measured:
    """One seed's numbers of an exhibit."""
    upgrades = {
        "resnet18": {"baseline": numbers(20), "ours": numbers(23, x, 40, 2.5, "32x32")},
        "mobilenet_v2": {"baseline": numbers(15, -x, 30), "ours": numbers(16, x, 45, 8.0)},
    }
    found: dict[str, Any] = {}
    if name == "table1":
        found = {"sizes": ["32x32", "64x64"], "rows": {"R14": {"alone": numbers(11, -x), "pool": numbers(14, 2 * x)}}}
    elif name == "table2":
        pruned = {str(each): numbers(22 - each / 10, x, 40 - each / 2) for each in (0, 10, 20, 30)}
        found = {"rows": {"resnet18": {"baseline": numbers(19, -x, 41), **pruned}}}
    elif name == "table3":
        found = {"baseline": numbers(20, -x), "imitation": numbers(21, x), "ours": numbers(24, 2 * x)}
        found = {"rows": {"resnet18": {"teacher": {"name": "R26", **numbers(35, 3 * x)}, **found}}}
    elif name == "figure4":
        found = {"curves": {"dynamic": [10, 12 + x, 15 + 2 * x], "conventional": [10, 11, 13 - x]}}
        found["evidence"] = {"dynamic ends": 2 + x, "dynamic on the way": 1.5 + x}
    elif name == "table4":
        upgrades["resnet18"]["distilled"] = numbers(21, 2 * x, 50, 5.0)
        found = {"rows": upgrades}
    elif name == "table5":
        prune = {"before": numbers(17, x, 60, size="96x96"), "after": numbers(19, 3 * x, 44)}
        nas = {"before": numbers(18, -x, 80, size="128x128"), "after": numbers(22, -x, 41)}
        joint = {"after": numbers(25, 2 * x, 45, size="32x32")}
        found = {"rows": {"baseline": {"after": numbers(17)}, "joint": joint, "prune-kd": prune, "nas-prune-kd": nas}}
    elif name == "figure5":
        one = {"teacher parameters": [1, 3.5], "leading teacher's parameters": [1 + x, 3], "gain": [2 + x, -0.5]}
        other = {"teacher parameters": [5, 7], "leading teacher's parameters": [5, 5 + 2 * x], "gain": [4, 0.0]}
        one |= {"best teachers": 2 + x, "tau": 0.25 - x / 10}
        other |= {"best teachers": 6, "tau": 0.5}
        found = {"students": {"resnet18": one, "mobilenet_v2": other}}
    elif name == "figure6":
        kinds = [(1, PRUNING, 2 + x), (2, PRUNING, -1), (3, "teacher", 3.0), (4, "add-layer", 0.5), (5, "rearrange", 0)]
        steps = [{"pair": pair, "kind": kind, "gain": gain} for pair, kind, gain in kinds]
        found = {"searches": {"resnet18": steps, "mobilenet_v2": [{"pair": 6, "kind": "teacher", "gain": 1.5}]}}
        found["evidence"] = {"pruning's share": 0.8, "pruning's place": -0.25}
    elif name == "table6":
        upgrades["resnet18"]["cascade"] = numbers(40, 2 * x, latency=10.0)
        found = {"rows": upgrades}
    elif name == "table7":
        ours = numbers(23, x, 40) | {"pairs": 2, "search seconds": 120.0, "scores": [20, 21, 24 + x]}
        random = numbers(22, -x, 45) | {"pairs": 3, "search seconds": 180.0, "scores": [20, 20 + x, 22 - x]}
        found = {"searches": {"none": ours, "random": random}, "pool seconds": 90.0}
        found["evidence"] = {"share of the budget": 0.25, "search minus random": 2 + 2 * x}
    elif name == "figure7":
        found = {"stages": {"resnet18": {"before": [8e6, 6e6, 4e6, 2e6], "after": [7e6, 5e6, (2 + x) * 1e6, 1.5e6]}}}
        found["evidence"] = {"stages": [0.05, 0.06 + x / 100, 0.1, 0.025]}
    return found


PRUNING = "channel pruning"
SETTING = Setting("scenes", "smoke", PRESET)


def drawn(name: str, measured: list[Measured]) -> ExhibitResult:
    """Of so many seeds, each with a run of its own."""
    by_seed = {seed: each | {"runs": [f"scenes-smoke/run-s{seed}"]} for seed, each in enumerate(measured)}
    return draw(PAPER, PAPER.by_name[name], by_seed, SETTING, "command")


def of_three_seeds(name: str) -> ExhibitResult:
    return drawn(name, [made_up(name, x) for x in (-1.0, 0.0, 1.0)])


def m(mean: float, slope: float = 0.0) -> Difference:
    """The mean over the three seeds of what rises with x by `slope`."""
    return Difference(mean, mean - abs(slope) * HALF, mean + abs(slope) * HALF, 3)


def line(first: int, *values: tuple[float, float]) -> list[list[float]]:
    """A curve of such means: x, mean, low, high."""
    means = (triple(m(*value)) for value in values)
    return [[*range(first, first + len(values))], *map(list, zip(*means, strict=True))]


CURVES = {"x_label": "Pairs trained", "y_label": "Best score so far (points)"}


def cell(text: str) -> Any:
    """5±1: the mean over the three seeds of what rises with x by 1; a lone -: nothing; a number; else text."""
    mean, plus_minus, slope = text.partition("±")
    if plus_minus:
        return m(float(mean), float(slope))
    try:
        return None if text == "-" else float(text) if "." in text or text == "nan" else int(text)
    except ValueError:
        return text


def read(table: str) -> tuple[str, list[list[Any]]]:
    """Column heads with their units, and the cells of all rows."""
    head, *rows = table.strip().splitlines()
    return head, [[cell(each.strip()) for each in row.split("|")] for row in rows]


# Columns (units) and rows, cells as in `cell`; and the numbers that captions and notes say.
DRAWN: dict[str, tuple[str, list[str]]] = {
    "table1": (
        """
Base model | Method | Input | AP (points) | Gain (AP points)
R14-FPN | baseline | 32x32 | 5±1 | -
R14-FPN | baseline | 64x64 | 11±1 | -
R14-FPN | our ETP | 32x32 | 8±2 | 3±3
R14-FPN | our ETP | 64x64 | 14±2 | 3±3
""",
        [
            "Alone: 16 epochs. The pool: 5 (full), 9 (all); every phase but the first trains 3 networks a step.",
            "R14 is d1-1-1-1_w1-1-1-1_n1.",
        ],
    ),
    "table2": (
        """
Model | Pruning percentage | Backbone FLOPS (M) | AP (points) | Minus the baseline (AP points)
R18-FPN | baseline | 31±0 | 19±1 | -
R18-FPN | 0 % | 30±0 | 22±1 | 3±2
R18-FPN | 10 % | 25±0 | 21±1 | 2±2
R18-FPN | 20 % | 20±0 | 20±1 | 1±2
R18-FPN | 30 % | 15±0 | 19±1 | 0±2
""",
        ["then trained for 3 epochs"],
    ),
    "table3": (
        """
KD method | Student | Teacher | Baseline AP (points) | Teacher AP (points) | AP (points) | Gain (AP points)
FGFI | R18 | R26 | 20±1 | 35±3 | 21±1 | 1±2
our KD | R18 | R26 | 20±1 | 35±3 | 24±2 | 4±3
""",
        ["trained for 16 epochs"],
    ),
    "figure4": (
        """
Teacher | Pairs trained | Best score (points of H)
Dynamic KD | 0 | 10±0
Dynamic KD | 1 | 12±1
Dynamic KD | 2 | 15±2
Conventional KD | 0 | 10±0
Conventional KD | 1 | 11±0
Conventional KD | 2 | 13±1
""",
        ["R18-FPN, its", "(3 epochs each)", "+2.00 points at the end, +1.50 on average"],
    ),
    "table4": (
        """
Base model | Group | FLOPS (M) | FLOPS change (%) | FPS (images a second) | FPS change (%) | AP (points) | Gain (AP points) | Input
R18-FPN | baseline | 50±0 | - | 250±0 | - | 20±0 | - | 64x64
R18-FPN | distillation alone | 50±0 | 0±0 | 200±0 | -20±0 | 21±2 | 1±2 | 64x64
R18-FPN | ours | 40±0 | -20±0 | 400±0 | 60±0 | 23±1 | 3±1 | 32x32
MobileNetV2-FPN | baseline | 30±0 | - | 250±0 | - | 15±1 | - | 64x64
MobileNetV2-FPN | ours | 45±0 | 50±0 | 125±0 | -50±0 | 16±1 | 1±2 | 64x64
""",  # noqa: E501
        ["for 8 pairs", "trains 6 pairs of 3 epochs"],
    ),
    "table5": (
        """
Method | Intermediate backbone FLOPS (M) | Intermediate AP (points) | Final backbone FLOPS (M) | FLOPS change (%) | \
Final AP (points) | Gain (AP points) | Joint-DetNAS minus it (AP points)
R18-prune-KD | 40±0 | 17±1 | 24±0 | -40±0 | 19±3 | 2±2 | 6±1
NAS-prune-KD | 60±0 | 18±1 | 21±0 | -65±0 | 22±1 | 4±0 | 3±3
Joint-DetNAS (R18) | - | - | 25±0 | - | 25±2 | - | -
""",
        ["for 16 epochs", "search found: 32x32.", "96x96 of the base detector, 128x128 of what NAS found"],
    ),
    "figure5": (
        """
Student | Best three pairs' teachers (M parameters of the backbone) | All teachers (M parameters of the backbone) | \
Gain of a pair (points of H) | Tau of AP and gain
R18-FPN | 2±1 | 2.25±0 | 0.75±0.5 | 0.25±0.1
MobileNetV2-FPN | 6±0 | 6±0 | 2±0 | 0.5±0
""",
        ["8 pairs each"],
    ),
    "figure6": (
        """
Step | Pairs | Beneficial (share) | Score increments (points of H) | Mean pair of beneficial ones
layer pruning | 0 | nan | 0±0 | nan
channel pruning | 6 | 0.5 | 2±1 | 1.0
add-layer | 3 | 1.0 | 0.5±0 | 4.0
rearrange | 3 | 0.0 | 0±0 | nan
teacher | 6 | 1.0 | 4.5±0 | 4.5
""",
        ["brings 80 % of", "come -0.25 of the search later"],
    ),
    "table6": (
        """
Method | Backbone | Input | Post-search training (epochs) | FPS (images a second) | \
AP (points) | AP50 (points) | AP75 (points) | APs (points) | APm (points) | APl (points)
FPN | R18 | 64x64 | - | 250±0 | 20±0 | 21±0 | 22±0 | 23±0 | 24±0 | 25±0
Joint-DetNAS (R18) | R18-searched | 32x32 | 0 | 400±0 | 23±1 | 24±1 | 25±1 | 26±1 | 27±1 | 28±1
Joint-DetNAS (R18-Cascade) | R18-searched-DCN | 64x64 | 13 | 100±0 | 40±2 | 41±2 | 42±2 | 43±2 | 44±2 | 45±2
FPN | MobileNetV2 | 64x64 | - | 250±0 | 15±1 | 16±1 | 17±1 | 18±1 | 19±1 | 20±1
Joint-DetNAS (MobileNetV2) | MobileNetV2-searched | 64x64 | 0 | 125±0 | 16±1 | 17±1 | 18±1 | 19±1 | 20±1 | 21±1
""",
        [],
    ),
    "table7": (
        """
Search method | FLOPS (M) | AP (points) | Best score (points of H) | Searched architectures | Search cost (minutes)
random search | 45±0 | 22±1 | 22±1 | 3.0 | 3±0
Joint-DetNAS | 40±0 | 23±1 | 24±1 | 2.0 | 2±0
""",
        ["finds after 25 % of its pairs", "random search's is +2.00 points", "takes 1.5 minutes"],
    ),
    "figure7": (
        """
Backbone | Search | Stage 1 (M) | Stage 2 (M) | Stage 3 (M) | Stage 4 (M)
R18-FPN | before | 8±0 | 6±0 | 4±0 | 2±0
R18-FPN | after | 7±0 | 5±0 | 2±1 | 1.5±0
""",
        ["stage 1 5.0 %, stage 2 6.0 %, stage 3 10.0 %, stage 4 2.5 %"],
    ),
}


def pictures_of(name: str, rows: list[list[Any]]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Kind and data of every picture of an exhibit whose table has those rows."""

    def bars(groups: dict, label: str) -> tuple[str, dict[str, Any]]:
        return "bars", {"groups": groups, "value_label": label}

    if name == "table2":
        return {name: bars({"R18-FPN": {row[1]: triple(row[3]) for row in rows}}, "AP (points)")}
    if name == "figure4":
        curves = {
            label: [[0, 1, 2], *zip(*(triple(value) for which, _, value in rows if which == label), strict=True)]
            for label in ("Dynamic KD", "Conventional KD")
        }
        return {name: ("progress", {"curves": curves} | CURVES)}
    if name == "figure5":
        leading = {"R18-FPN": line(1, (1, 1), (3, 0)), "MobileNetV2-FPN": line(1, (5, 0), (5, 2))}
        brought = {"R18-FPN": [[1, 1], [3.5, -0.5], [1, 2], [3.5, -0.5], [1, 3], [3.5, -0.5]]}
        brought["MobileNetV2-FPN"] = [[5, 4], [7, 0]] * 3
        labels = {"cost_label": "Parameters of the teacher's backbone (M)"}
        labels["accuracy_label"] = "What it raised the score by (points)"
        over_pairs = CURVES | {"y_label": "Parameters of the best pair's teacher (M)"}
        return {
            "figure5-leading": ("progress", {"curves": leading} | over_pairs),
            "figure5-teachers": ("fronts", {"points": brought} | labels),
        }
    if name == "figure6":
        sums = {row[0]: {"Sum of increments": triple(row[3])} for row in rows}
        halves = {"first half": (0, 0.5, 0, 0, 0.5), "second half": (0, 0, 0.5, 0, 0.5)}  # pairs 1 to 3, and 4 to 6
        shares = {
            part: {kind: [share, NAN, NAN] for kind, share in zip(STEPS, each, strict=True)}
            for part, each in halves.items()
        }
        return {
            "figure6-score": bars(sums, "Sum of score increments (points)"),
            "figure6-time": bars(shares, "Share of all beneficial steps"),
        }
    if name == "table7":
        curves = {"random search": line(0, (20, 0), (20, 1), (22, 1))}
        curves["Joint-DetNAS"] = line(0, (20, 0), (21, 0), (24, 1))
        return {name: ("progress", {"curves": curves} | CURVES)}
    if name == "figure7":
        stages = {
            f"{row[0]} {row[1]}": {f"stage {place}": triple(each) for place, each in enumerate(row[2:], 1)}
            for row in rows
        }
        return {name: bars(stages, "FLOPs of the backbone (MMACs)")}
    return {}


def same_cell(one: Any, other: Any) -> bool:
    if isinstance(one, Difference) and isinstance(other, Difference):
        return same([one.mean, one.low, one.high, one.n], [other.mean, other.low, other.high, other.n])
    return type(one) is type(other) and same(one, other)


@pytest.mark.parametrize("name", NAMES)
def test_every_cell_picture_and_number_said_is_the_one_written_by_hand(name):
    found, (head, rows), said = of_three_seeds(name), read(DRAWN[name][0]), DRAWN[name][1]
    units = {column: f" ({unit})" for column, unit in found.units.items()}
    assert " | ".join(column + units.pop(column, "") for column in found.table.columns) == head
    assert units == {}
    wrong = [
        (row[:3], column, ours, theirs)
        for row, expected in zip(found.table.rows, rows, strict=True)
        for column, ours, theirs in zip(found.table.columns, row, expected, strict=True)
        if not same_cell(ours, theirs)
    ]
    assert wrong == []
    pictures = pictures_of(name, rows)
    assert [(each.name, each.kind) for each in found.pictures] == [(stem, kind) for stem, (kind, _) in pictures.items()]
    assert all(same(each.data, pictures[each.name][1]) for each in found.pictures)
    text = " ".join([found.caption, *found.notes])
    assert [each for each in said if each not in text] == []


def test_sizes_that_differ_between_seeds_are_all_named():
    second = made_up("table4", 0.0)
    second["rows"]["resnet18"]["ours"]["size"] = "64x64"
    sizes = [row[-1] for row in drawn("table4", [made_up("table4", 0.0), second, made_up("table4", 0.0)]).table.rows]
    assert sizes == ["64x64", "64x64", "32x32, 64x64", "64x64", "64x64"]


# ---- missing numbers


def without(measured: Measured, *keys: str) -> Measured:
    """The same with null at some place."""
    copy = json.loads(json.dumps(measured))
    inner = copy
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = None
    return copy


MISSING = [
    ("table1", ("rows", "R14", "pool", "AP_at", "32x32"), ("R14-FPN", "our ETP", "32x32"), "Gain"),
    ("table2", ("rows", "resnet18", "20", "AP"), ("R18-FPN", "20 %"), "AP"),
    ("table3", ("rows", "resnet18", "ours", "AP"), ("our KD",), "Gain"),
    ("table4", ("rows", "resnet18", "ours", "latency"), ("R18-FPN", "ours"), "FPS"),
    ("table5", ("rows", "joint", "after", "AP"), ("NAS-prune-KD",), "Joint-DetNAS minus it"),
    ("figure5", ("students", "resnet18", "tau"), ("R18-FPN",), "Tau of AP and gain"),
    ("table6", ("rows", "resnet18", "baseline", "APs"), ("FPN", "R18"), "APs"),
    ("table7", ("searches", "random", "AP"), ("random search",), "AP"),
]


@pytest.mark.parametrize(("name", "keys", "first", "column"), MISSING)
def test_a_missing_number_is_left_out_of_its_mean_and_of_no_other(name, keys, first, column):
    def cell(measured: list[Measured]) -> Difference:
        table = drawn(name, measured).table
        (found,) = (each for each in table.rows if each[: len(first)] == first)
        return found[table.columns.index(column)]

    whole = made_up(name, 1.0)
    some = [without(made_up(name, -1.0), *keys), whole]
    assert (cell(some).mean, cell(some).n) == (pytest.approx(cell([whole]).mean), 1)
    assert max(each.n for row in drawn(name, some).table.rows for each in row if isinstance(each, Difference)) == 2
    assert math.isnan(cell([without(whole, *keys)]).mean)


def test_a_search_in_which_nothing_helped_and_pairs_that_failed():
    nothing = made_up("figure6", 0.0) | {"searches": {"resnet18": [], "mobilenet_v2": []}}
    result = drawn("figure6", [nothing])
    assert [row[1] for row in result.table.rows] == [0] * len(STEPS)
    assert all(
        math.isnan(share) for bars in result.pictures[1].data["groups"].values() for share, _, _ in bars.values()
    )
    fewer = made_up("figure5", 0.0)
    for student in fewer["students"].values():
        for key in ("teacher parameters", "leading teacher's parameters", "gain"):
            student[key] = student[key][:1]
    both = drawn("figure5", [made_up("figure5", 0.0), fewer])
    assert both.table.rows[0][3].mean == pytest.approx((0.75 + 2.0) / 2)
    assert same(both.pictures[0].data["curves"]["R18-FPN"], [[1], [1], [1], [1]])


# ---- published


PUBLISHED = Path(__file__).resolve().parents[2] / "results" / "nano" / "joint_detnas"


@pytest.mark.parametrize("name", NAMES)
def test_published_numbers_draw_the_published_exhibit(name):
    """Word for word: a record stands for the code that is here."""
    record = ExhibitResult.load(PUBLISHED / f"{name}.json")
    found = read_json(PUBLISHED / "measured.json")[name]
    seeds = {int(seed): each for seed, each in found["seeds"].items()}
    again = draw(PAPER, PAPER.by_name[name], seeds, from_json(Setting, found["setting"]), record.command)
    assert list(again.notes) == list(record.notes[: len(again.notes)])
    for field in ("title", "caption", "table", "units", "pictures", "seeds", "runs"):
        assert same(*(to_json(getattr(each, field)) for each in (again, record))), field


def test_published_claims_have_the_rules_that_are_here():
    rules = {claim.id: [claim.where, claim.statement, claim.rule, claim.paper_value] for claim in PAPER.claims}
    records = read_json(PUBLISHED / "claims.json").items()
    assert {name: [each[key] for key in ("where", "statement", "rule", "paper")] for name, each in records} == rules


# ------------------------------------------------------------------------------------------------------------------
# Claims judged by made-up evidence
# ------------------------------------------------------------------------------------------------------------------

BY_ID = {claim.id: claim for claim in PAPER.claims}
NOISE = np.array([-0.2, -0.05, 0.1, 0.15])  # of mean 0, and far smaller than the differences below


def scalars(value: float, noise: float = 0.1) -> np.ndarray:
    return value + noise * NOISE


def lists(*values: float, noise: float = 0.1) -> np.ndarray:
    """(S, len(values)): a level for each place, another small deviation for each seed and place."""
    return np.array(values) + noise * np.outer(NOISE, np.arange(1, len(values) + 1))


def tables(*rows: tuple[float, ...], noise: float = 0.1) -> np.ndarray:
    """(S, rows, columns), as `lists`."""
    return np.stack([lists(*row, noise=noise) for row in rows], axis=1)


R50, R101 = (37.1, 37.5, 37.3, 37.0, 36.9), (39.0, 39.1, 39.2, 38.8, 38.5)
HELD = {
    "pool minus alone": lists(0.8, -0.1, 3.4),  # on average
    "pruned": tables(R50, R101),
    "distilled": tables((36.0, 36.9, 38.1), (39.5, 39.9, 41.6)),
    "gain": lists(2.5, 2.8),
    "cost": lists(0.73, 0.52),
    "time": lists(0.85, 0.6),
    "joint minus prune-kd": scalars(1.8),
    "joint minus nas-prune-kd": scalars(2.1),
    "dynamic on the way": scalars(0.3),
    "dynamic ends": scalars(0.5),
    "teacher grows": scalars(0.2),
    "teacher tau": scalars(0.4),
    "pruning's share": scalars(0.6),
    "pruning's place": scalars(-0.2),
    "stages": lists(0.05, 0.1, 0.3, 0.02),
    "share of the budget": scalars(0.3),
}
PRINTED = {
    "JD-1": "+0.1..+3.4 AP",
    "JD-2": "R50 37.1 -> 37.3/37.0/36.4; R101 39.0 -> 39.2/38.8/38.3",
    "JD-3": "+2.1, +2.1",
    "JD-4": "+2.5..+2.8 AP, -7..-48 %",
    "JD-5": "+1.8, +2.1 AP",
    "JD-11": "100",
}
WORSE_AT_10 = tables((37.1, 37.1, 36.5, 37.0, 36.4), (39.0, 39.0, 38.9, 38.8, 38.3))
WORSE_AT_30 = tables((37.1, 35.5, 37.3, 36.0, 35.1), (39.0, 37.0, 39.2, 38.0, 36.9))
TRAINED_ON = tables((37.1, 39.0, 37.3, 37.0, 36.4), (39.0, 40.0, 39.2, 38.8, 38.3))
ALONE_AS_GOOD = tables((38.6, 36.9, 38.1), (42.0, 39.9, 41.6))
IMITATED = tables((36.0, 38.6, 38.1), (39.5, 42.0, 41.6))
# Of each condition: claim, exhibit, value on HELD, direction, threshold, unit, effect, and evidence that breaks this
# condition alone.
CONDITIONS = [
    (1, "table1", (0.8 - 0.1 + 3.4) / 3, "above", 0, "AP points", 0.5, "pool minus alone", lists(0.8, -2.0, 0.4)),
    (2, "table2", 0.2, "above", 0, "AP points", 0.5, "pruned", WORSE_AT_10),
    (2, "table2", (-0.2 - 0.5) / 2, "above", -1, "AP points", 0.5, "pruned", WORSE_AT_30),
    (2, "table2", (-0.6 - 0.6) / 2, "above", -1, "AP points", 0.5, "pruned", TRAINED_ON),
    (3, "table3", 2.1, "above", 0, "AP points", 1, "distilled", ALONE_AS_GOOD),
    (3, "table3", (1.2 + 1.7) / 2, "above", 0, "AP points", 1, "distilled", IMITATED),
    (4, "table4", 2.5, "above", 0, "AP points", 0.5, "gain", lists(2.5, -0.4)),
    (4, "table4", 0.73, "below", 1, "times", 0.5, "cost", lists(1.1, 0.52)),
    (4, "table4", 0.85, "below", 1, "times", 0.5, "time", lists(0.85, 1.1)),
    (5, "table5", 1.8, "above", 0, "AP points", 1, "joint minus prune-kd", scalars(-0.2)),
    (5, "table5", 2.1, "above", 0, "AP points", 1, "joint minus nas-prune-kd", scalars(-0.2)),
    (6, "figure4", 0.3, "above", 0, "points of H", 0.5, "dynamic on the way", scalars(-0.2)),
    (6, "figure4", 0.5, "above", 0, "points of H", 0.5, "dynamic ends", scalars(-0.2)),
    (7, "figure5", 0.2, "above", 0, "M parameters", 0.1, "teacher grows", scalars(-0.2)),
    (8, "figure5", 0.4, "below", 0.5, "tau", 0.3, "teacher tau", scalars(0.6)),
    (9, "figure6", 0.6, "above", 0.5, "share", 0.2, "pruning's share", scalars(0.4)),
    (9, "figure6", -0.2, "below", 0, "of the search", 0.2, "pruning's place", scalars(0.2)),
    (10, "figure7", 0.2, "above", 0, "share", 0.02, "stages", lists(0.05, 0.3, 0.1, 0.02)),
    (10, "figure7", 0.05, "above", 0, "share", 0.02, "stages", lists(0.2, 0.1, 0.3, 0.02)),
    (11, "table7", 0.3, "below", 0.5, "of the pairs", 0.2, "share of the budget", scalars(0.7)),
]


def judged(claim: str, values: Mapping[str, np.ndarray]) -> dict:
    return judge(BY_ID[claim], Evidence("scenes", "nano", range(4), "command", values), "joint_detnas")


def test_every_claim_of_the_paper_stands_with_its_exhibit():
    homes = {claim.id: exhibit.name for exhibit in EXHIBITS for claim in exhibit.claims}
    assert homes == {f"JD-{number}": exhibit for number, exhibit, *_ in CONDITIONS}
    assert list(BY_ID) == [f"JD-{number}" for number in range(1, 12)]
    assert {claim.id: claim.paper_value for claim in PAPER.claims if claim.paper_value} == PRINTED


@pytest.mark.parametrize("claim", BY_ID)
def test_each_condition_is_the_one_written_by_hand_and_alone_breaks_its_claim(claim):
    record = judged(claim, HELD)
    rules = [each for each in CONDITIONS if f"JD-{each[0]}" == claim]
    assert record["verdict"] == "reproduced"
    found = [[each[key] for key in ("difference", "direction", "threshold", "unit")] for each in record["conditions"]]
    assert same(found, [rule[2:6] for rule in rules])
    assert [condition.effect for condition in BY_ID[claim].conditions] == [rule[6] for rule in rules]
    for place, (*_, name, broken) in enumerate(rules):
        other = judged(claim, HELD | {name: broken})
        assert other["verdict"] == "not reproduced"
        assert [at for at, each in enumerate(other["conditions"]) if each["verdict"] != "reproduced"] == [place]


@pytest.mark.parametrize(("claim", "name"), [(f"JD-{each[0]}", each[-2]) for each in CONDITIONS])
def test_a_number_that_is_missing_leaves_its_claim_open(claim, name):
    """What one seed could not measure is no evidence, and says so; a mean over the others would be of other seeds."""
    holed = HELD[name].copy()
    holed[(1, *(0 for _ in holed.shape[1:]))] = math.nan
    by_seed = [{each: values[seed] for each, values in (HELD | {name: holed}).items()} for seed in range(4)]
    record = judged(claim, stacked_evidence(by_seed, PAPER.comparable))
    assert (record["verdict"], record["reason"]) == ("inconclusive", f"not measured: {name}")
