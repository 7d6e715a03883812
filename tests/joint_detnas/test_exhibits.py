"""Every exhibit drawn from made-up numbers of one seed and of three, and where numbers are missing; no training."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from common.plain import read_json
from common.report.statistics import Difference
from common.report.tables import ExhibitResult, printed, to_frame
from common.reproduce.exhibit import Measured, make
from joint_detnas.exhibits import EXHIBITS, STEPS, Setting, detector
from joint_detnas.measurements import COCO_NUMBERS
from joint_detnas.presets import BACKBONES, PERCENTAGES, SMOKE

PNG = b"\x89PNG\r\n\x1a\n"
HALF = 4.30265 / math.sqrt(3)  # of the interval of three seeds one apart: the quantile of 2 degrees over the root of 3
SIZES = ("32x32", "64x64")


def row(ap: float | None, latency: float = 4.0, cost: float = 2e6, size: str = "64x64") -> dict:
    """What `measurements.numbers` says of a detector."""
    costs = ("macs", "macs_mmdet", "params", "backbone_macs_mmdet", "backbone_macs_at_base_size")
    points = dict.fromkeys(COCO_NUMBERS, ap) | dict.fromkeys(costs, cost)
    return points | {"latency": latency, "seconds": 1.0, "size": size, "AP_at": dict.fromkeys(SIZES, ap)}


def table1(x: float) -> Measured:
    rows = {name: {"alone": row(10.0), "pool": row(12.0 + x)} for name in ("R14", "R26")}
    return {"sizes": list(SIZES), "rows": rows}


def table2(x: float) -> Measured:
    pruned = {str(percentage): row(20.0 - percentage / 10 + x, cost=1e6) for percentage in PERCENTAGES}
    return {"rows": {"resnet18": {"baseline": row(20.0), **pruned}}}


def table3(x: float) -> Measured:
    found = {"baseline": row(20.0), "imitation": row(21.0), "ours": row(22.0 + x)}
    return {"rows": {"resnet18": {"teacher": {"name": "R26", **row(25.0)}, **found}}}


def upgrades(x: float) -> dict:
    return {
        "resnet18": {"baseline": row(20.0), "ours": row(22.0 + x, latency=2.0, cost=1e6, size="32x32")},
        "mobilenet_v2": {"baseline": row(15.0), "ours": row(16.0 + x)},
    }


def table4(x: float) -> Measured:
    rows = upgrades(x)
    rows["resnet18"]["distilled"] = row(21.0)
    return {"rows": rows}


def table5(x: float) -> Measured:
    pipeline = {"before": row(19.0), "after": row(20.0, cost=1e6)}
    joint = row(22.0 + x, cost=1e6, size="32x32")
    return {"rows": {"baseline": {"after": row(19.0)}, "joint": {"after": joint}} | dict.fromkeys(PIPELINES, pipeline)}


PIPELINES = ("prune-kd", "nas-prune-kd")


def table7(x: float) -> Measured:
    searches = {
        name: {**row(20.0 + x), "pairs": 2, "search seconds": 120.0, "scores": [20.0, 21.0, 21.5 + x]}
        for name in ("none", "random")
    }
    evidence = {"share of the budget": 0.25, "search minus random": 0.5 + x}
    return {"searches": searches, "pool seconds": 60.0, "evidence": evidence}


def figure4(x: float) -> Measured:
    curves = {"dynamic": [20.0, 21.0 + x], "conventional": [20.0, 20.5]}
    return {"curves": curves, "evidence": {"dynamic ends": 0.5 + x, "dynamic on the way": 0.5 + x}}


def figure5(x: float) -> Measured:
    def taught(best: float) -> dict:
        return {
            "pairs": [1, 2],
            "teacher parameters": [0.1, 0.3],
            "leading teacher's parameters": [0.1, 0.3],
            "teacher AP": [20.0, 21.0],
            "gain": [1.0 + x, -0.5],
            "best teachers": best,
            "tau": 0.2,
        }

    return {"students": {"resnet18": taught(0.2 + x), "mobilenet_v2": taught(0.1)}}


def figure6(x: float) -> Measured:
    steps = [
        {"pair": 1, "kind": "channel pruning", "gain": 2.0 + x, "generation": 1},
        {"pair": 2, "kind": "channel pruning", "gain": -1.0, "generation": 1},
        {"pair": 5, "kind": "teacher", "gain": 0.5, "generation": 3},
    ]
    evidence = {"pruning's share": 0.8, "pruning's place": -0.2}
    return {"searches": {"resnet18": steps, "mobilenet_v2": []}, "evidence": evidence}


def table6(x: float) -> Measured:
    rows = upgrades(x)
    rows["resnet18"]["cascade"] = row(30.0 + x)
    return {"rows": rows}


def figure7(x: float) -> Measured:
    stages = {"resnet18": {"before": [4e6, 3e6, 2e6, 1e6], "after": [4e6, 3e6, (1 + x / 2) * 1e6, 1e6]}}
    return {"stages": stages, "evidence": {"stages": [0.0, 0.0, 0.1, 0.0]}}


MADE_UP: dict[str, Callable[[float], Measured]] = {
    each.__name__: each
    for each in (table1, table2, table3, figure4, table4, table5, figure5, figure6, table6, table7, figure7)
}
# A cell by the first cells of its row, its column, its mean, and by how much it rises with x.
CELLS = [
    ("table1", ("R26-FPN", "our ETP", "64x64"), "Gain", 2.0, 1),
    ("table1", ("R14-FPN", "baseline", "32x32"), "AP", 10.0, 0),
    ("table2", ("R18-FPN", "30 %"), "Minus the baseline", -3.0, 1),
    ("table2", ("R18-FPN", "baseline"), "Backbone FLOPS", 2.0, 0),
    ("table3", ("our KD", "R18", "R26"), "Gain", 2.0, 1),
    ("table3", ("FGFI", "R18", "R26"), "Teacher AP", 25.0, 0),
    ("figure4", ("Dynamic KD", 1), "Best score", 21.0, 1),
    ("table4", ("R18-FPN", "ours"), "Gain", 2.0, 1),
    ("table4", ("R18-FPN", "ours"), "FLOPS change", -50.0, 0),
    ("table4", ("R18-FPN", "ours"), "FPS", 500.0, 0),
    ("table4", ("R18-FPN", "ours"), "FPS change", 100.0, 0),
    ("table4", ("R18-FPN", "distillation alone"), "AP", 21.0, 0),
    ("table5", ("NAS-prune-KD",), "Joint-DetNAS minus it", 2.0, 1),
    ("table5", ("R18-prune-KD",), "FLOPS change", -50.0, 0),
    ("table5", ("R18-prune-KD",), "Gain", 1.0, 0),
    ("table5", ("Joint-DetNAS (R18)",), "Final AP", 22.0, 1),
    ("figure5", ("R18-FPN",), "Best three pairs' teachers", 0.2, 1),
    ("figure5", ("R18-FPN",), "Gain of a pair", 0.25, 0.5),
    ("figure5", ("MobileNetV2-FPN",), "Tau of AP and gain", 0.2, 0),
    ("figure6", ("channel pruning",), "Score increments", 2.0, 1),
    ("figure6", ("teacher",), "Score increments", 0.5, 0),
    ("table6", ("Joint-DetNAS (R18)", "R18-searched", "32x32"), "APs", 22.0, 1),
    ("table6", ("FPN", "MobileNetV2", "64x64"), "FPS", 250.0, 0),
    ("table6", ("Joint-DetNAS (R18-Cascade)", "R18-searched-DCN", "64x64"), "AP", 30.0, 1),
    ("table7", ("Joint-DetNAS",), "Best score", 21.5, 1),
    ("table7", ("random search",), "Search cost", 2.0, 0),
    ("figure7", ("R18-FPN", "after"), "Stage 3", 1.0, 0.5),
]


def drawn(name: str, folder: Path, measured: list[Measured]) -> ExhibitResult:
    record = {"paper": "joint_detnas", "labels": {}, "data": "scenes", "scale": "smoke", "command": ""}
    return make(EXHIBITS[name], dict(enumerate(measured)), Setting(folder, SMOKE, "scenes"), **record)


def cell(result: ExhibitResult, first: tuple, column: str):
    (found,) = (each for each in result.table.rows if each[: len(first)] == first)
    return found[result.table.columns.index(column)]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Where `of_three_seeds` are."""
    return tmp_path_factory.mktemp("three")


@pytest.fixture(scope="module")
def of_three_seeds(root) -> dict[str, ExhibitResult]:
    """Every exhibit of seeds that are one apart."""
    return {name: drawn(name, root / name, [make_up(x) for x in (-1.0, 0.0, 1.0)]) for name, make_up in MADE_UP.items()}


def test_exhibits_are_the_papers():
    drawings = {"figure1", "figure2", "figure3"}  # of the method: nothing is measured
    assert set(MADE_UP) == set(EXHIBITS) == set(printed("joint_detnas")["exhibits"]) - drawings
    theirs = {name: each["where"] for name, each in printed("joint_detnas")["exhibits"].items()}
    assert all(exhibit.where == theirs[name] for name, exhibit in EXHIBITS.items())


def test_every_backbone_has_a_name():
    assert len({detector(name) for name in BACKBONES}) == len(BACKBONES)


@pytest.mark.parametrize(("name", "first", "column", "mean", "slope"), CELLS)
def test_cells_are_means_over_seeds_with_intervals(of_three_seeds, name, first, column, mean, slope):
    value = cell(of_three_seeds[name], first, column)
    assert isinstance(value, Difference)
    assert (value.mean, value.half, value.n) == pytest.approx((mean, slope * HALF, 3), rel=1e-4)


def test_cells_that_are_no_means_over_seeds(of_three_seeds):
    steps = {kind: (pairs, good, place) for kind, pairs, good, _, place in of_three_seeds["figure6"].table.rows}
    assert tuple(steps) == STEPS
    assert (steps["channel pruning"], steps["teacher"]) == ((6, 0.5, 1.0), (3, 1.0, 5.0))
    assert steps["rearrange"][0] == 0
    assert all(map(math.isnan, steps["rearrange"][1:]))
    trained_on = {each[1]: each[3] for each in of_three_seeds["table6"].table.rows}
    assert trained_on["R18"] is None
    assert trained_on["R18-searched"] == 0
    assert trained_on["R18-searched-DCN"] == SMOKE.cascade.optimisation.epochs


@pytest.mark.parametrize("name", MADE_UP)
def test_one_seed_has_no_interval_and_the_same_means(name, tmp_path, of_three_seeds):
    one = drawn(name, tmp_path, [MADE_UP[name](0.0)])
    assert any(note.startswith("One seed") for note in one.notes)
    assert one.table.columns == of_three_seeds[name].table.columns
    for ours, theirs in zip(one.table.rows, of_three_seeds[name].table.rows, strict=True):
        for value, other in zip(ours, theirs, strict=True):
            if isinstance(value, Difference):
                assert value.mean == pytest.approx(other.mean, nan_ok=True)
                assert not value.has_interval
    assert len(one.pictures) == len(of_three_seeds[name].pictures)


@pytest.mark.parametrize("name", MADE_UP)
def test_published_numbers_draw_the_same_table_and_pictures(name, of_three_seeds, root, tmp_path):
    """Through JSON, which has no NaN and knows no tuples."""
    result, measured = of_three_seeds[name], read_json(root / name / "measured.json")
    again = EXHIBITS[name].draw(list(measured.values()), Setting(tmp_path, SMOKE, "scenes"))
    assert to_frame(again.table).equals(to_frame(result.table))
    assert bool(result.pictures) == (name.startswith("figure") or name in ("table2", "table7"))
    assert [path.name for path in again.pictures] == list(result.pictures)
    for path in again.pictures:
        assert path.read_bytes() == (root / name / path.name).read_bytes()
        assert path.read_bytes().startswith(PNG)


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
def test_a_missing_number_is_left_out_of_its_mean_and_of_no_other(name, keys, first, column, tmp_path):
    numbers = MADE_UP[name](1.0)
    some = drawn(name, tmp_path, [without(MADE_UP[name](-1.0), *keys), numbers])
    expected = cell(drawn(name, tmp_path, [numbers]), first, column).mean
    value = cell(some, first, column)
    assert (value.mean, value.n) == (pytest.approx(expected), 1)
    assert max(each.n for line in some.table.rows for each in line if isinstance(each, Difference)) == 2
    nothing = drawn(name, tmp_path, [without(numbers, *keys)])
    assert math.isnan(cell(nothing, first, column).mean)


def test_a_search_in_which_nothing_helped_and_pairs_that_failed(tmp_path):
    nothing = figure6(0.0) | {"searches": {"resnet18": [], "mobilenet_v2": []}}
    counts = [each[1] for each in drawn("figure6", tmp_path, [nothing]).table.rows]
    assert counts == [0] * len(STEPS)
    fewer = figure5(0.0)
    for numbers in fewer["students"].values():
        for key in ("pairs", "teacher parameters", "leading teacher's parameters", "teacher AP", "gain"):
            numbers[key] = numbers[key][:1]
    both = drawn("figure5", tmp_path, [figure5(0.0), fewer])
    assert cell(both, ("R18-FPN",), "Gain of a pair").mean == pytest.approx((0.25 + 1.0) / 2)
