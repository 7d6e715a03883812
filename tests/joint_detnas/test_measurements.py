"""What is measured of finished runs, on made-up ones, against plain loops; nothing is trained."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from common.models.described import Architecture
from joint_detnas.measurements import (
    COCO_NUMBERS,
    measure_figure4,
    measure_figure5,
    measure_figure6,
    measure_table1,
    measure_table4,
    measure_table5,
    numbers,
    pruning_evidence,
    resolution_costs,
    share_until,
)
from joint_detnas.method import AddLayer, ChannelPruning, History, Pair, backbone_cost, build_teacher
from joint_detnas.presets import SMOKE, Teacher
from joint_detnas.study import Searched

SIZE = (96, 64)
STUDENT = Architecture.standard("resnet18", 8)
TEACHERS = SMOKE.teachers


def history(*pairs: tuple[int, object, float | None], teachers: dict[int, Teacher] | None = None) -> History:
    """Pair 0 with a score of .1, and then of each pair its parent, its action (a step's name where there is none) and
    its score; None where it failed. teachers: by pair; the others have the largest."""
    teachers = teachers or {}
    made = []
    for number, (parent, action, score) in enumerate([(None, "base", 0.1), *pairs]):
        step, action = (action, None) if isinstance(action, str) else ("student", action)
        teacher = teachers.get(number, TEACHERS.largest())
        pair = Pair(number, (number + 1) // 2, parent, step, action, teacher, cost=1.0, resolution=SIZE)
        made.append(pair if score is None else replace(pair, student=STUDENT, score=score))
    return History(made)


def searched(past: History) -> Searched:
    return Searched(past, {}, None)


def result(ap: float | None, latency: float = 4.0, cost: float = 8e6, at: dict | None = None) -> dict:
    """As `Study.report` has it."""
    costs = dict.fromkeys(("macs", "macs_mmdet", "params", "backbone_macs_mmdet", "backbone_macs_at_base_size"), cost)
    return {"AP": ap, "size": [64, 32], "AP_at": at or {"64x32": ap}, "latency": latency, **costs}


# ---- single values


def test_numbers_are_in_points_and_what_is_not_there_is_no_number():
    shown = numbers(result(0.25) | {"AP50": 0.5, "APs": None})
    assert (shown["AP"], shown["AP50"], shown["size"], shown["AP_at"]) == (25.0, 50.0, "64x32", {"64x32": 25.0})
    assert all(math.isnan(shown[name]) for name in COCO_NUMBERS if name not in ("AP", "AP50"))
    assert shown["seconds"] is None


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


@pytest.mark.parametrize("seed", range(5))
def test_pruning_evidence_equals_a_plain_loop(seed):
    generator = np.random.default_rng(seed)
    kinds = ["channel pruning", "layer pruning", "add-layer", "rearrange", "teacher", "train on"]
    steps = [
        {"pair": pair, "kind": str(generator.choice(kinds)), "gain": float(generator.normal())} for pair in range(1, 13)
    ]
    assert pruning_evidence(steps, 12) == pytest.approx(naive_pruning_evidence(steps, 12))


def test_pruning_evidence_where_there_is_little():
    def step(kind: str, gain: float, pair: int = 3) -> dict:
        return {"pair": pair, "kind": kind, "gain": gain}

    nothing = {"pruning's share": 0.0, "pruning's place": 0.0}
    assert pruning_evidence([], 10) == nothing
    assert pruning_evidence([step("channel pruning", -1.0), step("teacher", 2.0)], 10) == nothing
    assert pruning_evidence([step("channel pruning", 1.0)], 10) == {"pruning's share": 1.0, "pruning's place": 0.0}
    early = pruning_evidence([step("channel pruning", 3.0, 1), step("add-layer", 1.0, 9)], 10)
    assert early == {"pruning's share": 0.75, "pruning's place": -0.8}


def test_resolution_costs_are_those_of_the_stages():
    resnet = backbone_cost(STUDENT, SIZE).parts
    assert resolution_costs(STUDENT, SIZE) == [resnet[f"stage{number}"]["macs_mmdet"] for number in range(1, 5)]


def test_resolution_costs_of_a_mobilenet_add_up_its_seven_stages_and_the_head():
    mobilenet = Architecture.standard("mobilenet_v2", 0.25)
    parts = {part: each["macs_mmdet"] for part, each in backbone_cost(mobilenet, SIZE).parts.items()}
    costs = resolution_costs(mobilenet, SIZE)
    assert costs == [
        parts["stage1"] + parts["stage2"],  # the first is at stride 2
        parts["stage3"],
        parts["stage4"] + parts["stage5"],
        parts["stage6"] + parts["stage7"] + parts["head"],
    ]
    assert sum(costs) + parts["stem"] == backbone_cost(mobilenet, SIZE).macs_mmdet


# ---- exhibits


def test_table1_averages_the_two_largest_sizes():
    preset = SimpleNamespace(sizes=((32, 32), (64, 32), (64, 64)), equivalents=(("R14", None), ("R26", None)))
    alone = {"R14": (0.9, 0.20, 0.30), "R26": (0.9, 0.40, 0.50)}
    pool = {"R14": (0.1, 0.22, 0.36), "R26": (0.1, 0.39, 0.50)}

    def of(values: dict) -> object:
        names = ("32x32", "64x32", "64x64")
        return lambda name: result(values[name][-1], at=dict(zip(names, values[name], strict=True)))

    measured = measure_table1(SimpleNamespace(preset=preset, alone=of(alone), sampled=of(pool)))
    assert measured["sizes"] == ["64x32", "64x64"]
    assert measured["evidence"]["pool minus alone"] == pytest.approx([4.0, -0.5])


def test_table4_compares_what_was_found_with_its_own_base():
    def study(base: dict, found: dict, *rounds: tuple[float, float]) -> SimpleNamespace:
        def latencies(control: str = "none") -> dict:
            shift = 0 if control == "none" else 1
            columns = zip(*rounds, strict=True)
            timed = {name: list(column) for name, column in zip(("base", "upgraded"), columns, strict=True)}
            return {name: {"latency": float(np.median(c)) + shift, "rounds": c} for name, c in timed.items()}

        def upgraded(control: str = "none") -> dict:
            return found if control == "none" else result(0.3)

        return SimpleNamespace(base=base, upgraded=upgraded, latencies=latencies)

    both = {
        # the machine slows to a third for the second round: each round is compared with itself
        "resnet18": study(result(0.20), result(0.25, cost=6e6), (4.0, 3.0), (12.0, 9.0), (4.0, 3.0)),
        "mobilenet_v2": study(result(0.30), result(0.28, cost=4e6), (4.0, 5.0), (4.0, 6.0), (16.0, 20.0)),
    }
    preset = SimpleNamespace(upgraded_backbones=tuple(both))
    own = SimpleNamespace(preset=preset, backbone="resnet18", on=both.get, **vars(both["resnet18"]))
    measured = measure_table4(own)
    latency = {name: row["latency"] for name, row in measured["rows"]["resnet18"].items()}
    assert latency == {"baseline": 4.0, "ours": 3.0, "distilled": 3.0}, "of another hour: by its ratio to the base"
    assert measured["evidence"]["gain"] == pytest.approx([5.0, -2.0])
    assert measured["evidence"]["cost"] == [0.75, 0.5]
    assert measured["evidence"]["time"] == [0.75, 1.25]
    assert {name: list(row) for name, row in measured["rows"].items()} == {
        "resnet18": ["baseline", "ours", "distilled"],
        "mobilenet_v2": ["baseline", "ours"],
    }
    assert measured["rows"]["resnet18"]["distilled"]["AP"] == 30.0


def test_table5_is_what_the_search_found_minus_each_pipeline():
    pipelines = {"prune-kd": 0.35, "nas-prune-kd": 0.42}
    study = SimpleNamespace(
        base=result(0.3),
        upgraded=lambda: result(0.4),
        pipeline=lambda name: result(pipelines[name]) | {"before": result(0.3)},
    )
    evidence = measure_table5(study)["evidence"]
    assert evidence == pytest.approx({"joint minus prune-kd": 5.0, "joint minus nas-prune-kd": -2.0})


def test_figure4_compares_best_scores_so_far():
    past = {
        "fixed-student": history((0, "teacher", 0.2), (1, "teacher", 0.15), (1, "teacher", 0.4)),
        "fixed-pair": history((0, "train on", 0.1), (1, "train on", None), (0, "train on", 0.3)),
    }
    measured = measure_figure4(SimpleNamespace(search=lambda control: searched(past[control])))
    assert measured["curves"]["dynamic"] == pytest.approx([10, 20, 20, 40])
    assert measured["curves"]["conventional"] == pytest.approx([10, 10, 10, 30])
    assert measured["evidence"] == pytest.approx({"dynamic ends": 10, "dynamic on the way": (10 + 10 + 10) / 3})


def parameters(teacher: Teacher) -> float:
    """Of a teacher's backbone, millions, counted in the network."""
    network = build_teacher(TEACHERS, teacher, 3)
    return sum(each.numel() for each in network.backbone.parameters()) / 1e6


def taught(past: History, precision: dict[str, float]) -> SimpleNamespace:
    return SimpleNamespace(
        preset=SMOKE,
        laboratory=SimpleNamespace(categories=("a", "b", "c")),
        search=lambda _: searched(past),
        teacher_precisions=lambda: precision,
    )


def test_figure5_takes_the_teachers_of_the_best_three_pairs():
    small, middle, large = TEACHERS.smallest(), Teacher((1, 1, 2, 1), (1,) * 4, 1), TEACHERS.largest()
    precision = {str(small): 0.2, str(middle): 0.1, str(large): 0.3}
    first = history(
        (0, "teacher", 0.3),
        (1, "teacher", 0.5),
        (2, "teacher", None),
        (2, "teacher", 0.6),
        (4, "teacher", 0.2),
        teachers={1: small, 2: middle, 3: large, 4: small, 5: large},
    )
    second = history((0, "teacher", 0.3), (1, "teacher", 0.2), teachers={1: large, 2: middle})
    students = {"resnet18": taught(first, precision), "mobilenet_v2": taught(second, precision)}
    measured = measure_figure5(SimpleNamespace(preset=SMOKE, on=students.get))
    size = {str(each): parameters(each) for each in (small, middle, large)}
    one, other = measured["students"].values()
    assert one["pairs"] == [1, 2, 4, 5]  # the third failed
    assert one["teacher parameters"] == pytest.approx([size[str(each)] for each in (small, middle, small, large)])
    leaders = [size[str(each)] for each in (small, middle, small, small)]
    assert one["leading teacher's parameters"] == pytest.approx(leaders)
    assert one["gain"] == pytest.approx([20, 20, 10, -40])
    assert one["teacher AP"] == pytest.approx([20, 10, 20, 30])
    assert one["best teachers"] == pytest.approx((2 * size[str(small)] + size[str(middle)]) / 3)
    assert other["best teachers"] == pytest.approx((size[str(large)] + size[str(middle)]) / 2)  # there are two
    grows = other["best teachers"] - one["best teachers"]
    assert measured["evidence"]["teacher grows"] == pytest.approx(grows)
    assert measured["evidence"]["teacher tau"] == pytest.approx((one["tau"] + other["tau"]) / 2)
    assert other["tau"] == pytest.approx(1.0)  # the better teacher brought more


def test_figure6_names_every_step_that_was_trained():
    past = history(
        (0, ChannelPruning(10.0), 0.2), (1, "teacher", 0.15), (1, AddLayer(1, 1), None), (1, AddLayer(1, 1), 0.5)
    )
    preset = SimpleNamespace(upgraded_backbones=("resnet18",), search=SimpleNamespace(budget=4))
    study = SimpleNamespace(preset=preset, on=lambda _: SimpleNamespace(search=lambda: searched(past)))
    measured = measure_figure6(study)
    steps = measured["searches"]["resnet18"]
    kinds = [(step["pair"], step["kind"]) for step in steps]
    assert kinds == [(1, "channel pruning"), (2, "teacher"), (4, "add-layer")]
    assert [step["gain"] for step in steps] == pytest.approx([10, -5, 30])
    assert measured["evidence"] == pytest.approx({"pruning's share": 10 / 40, "pruning's place": (1 - 4) / 4})
