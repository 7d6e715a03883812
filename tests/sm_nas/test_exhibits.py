"""Every table, figure and claim on made-up numbers, cell by cell, and what is measured of a made-up study; no torch."""

import math
import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from common.plain import to_json
from common.report.claims import Evidence, judge
from common.report.exhibit import Drawn, Measured, Setting, printed
from common.report.reproduce import measure_exhibit
from common.report.statistics import Difference
from sm_nas.encoding import BackboneCode, Structure
from sm_nas.exhibits import (
    PAPER,
    dominated_share,
    factor_correlations,
    factors_of,
    hypervolume_ratio,
    hypervolumes,
    mobilenet_evidence,
    parts_of,
    search_numbers,
    transferred,
)
from sm_nas.method import Evaluated, History, Skipped
from sm_nas.presets import NANO
from sm_nas.presets import PAPER as PAPER_PRESET

SETTING = Setting("scenes", "nano", to_json(NANO))
HALF = 4.30265 / math.sqrt(3)  # of the interval of three seeds one apart: the quantile of 2 degrees over the root of 3
FPN50, RETINA50, CASCADE50, FPN101, RETINA101, CASCADE101, GUIDED50 = (structure for _, structure in NANO.classics)
E0, E1, E2, E3, E4, E5 = (structure for _, structure in NANO.models)
CODED = Structure("basicblock_12_12-1-21-12", (64, 64), (2, 5), 16, "rpn", 2)


def record(structure: Structure, points: float, latency: float, x: float = 0.0, slope: float = 1.0) -> dict[str, Any]:
    """What is measured of a detector: every number another one. x: the seed; AP rises by `slope` with it."""
    sizes = {"AP50": 20.0, "AP75": 5.0, "APs": -4.0, "APm": 1.0, "APl": 9.0}
    return {
        "structure": str(structure),
        "AP": points + slope * x,
        **{name: points + more + slope * x for name, more in sizes.items()},
        "latency": latency + x / 4,
        "macs_mmdet": 1e6 * latency,
        "backbone_macs_mmdet": 2e6 * latency,
    }


def shown(drawn: Drawn, first: int | None = None) -> list[list[Any]]:
    """The first rows of a table of three seeds one apart; of an interval the mean and what x adds to it."""
    return [[_shown(cell) for cell in row] for row in drawn.table.rows[:first]]


def _shown(cell: Any) -> Any:
    if isinstance(cell, Difference):
        assert cell.n == 3
        return pytest.approx((cell.mean, cell.half / HALF), rel=1e-4, abs=1e-4)
    return pytest.approx(cell) if isinstance(cell, float) else cell


def three(make_up: Callable[[float], Measured]) -> list[Measured]:
    """Numbers of three seeds, as they come back from measured.json."""
    return [to_json(make_up(x)) for x in (-1.0, 0.0, 1.0)]


def drawn(name: str, measured: Sequence[Measured]) -> Drawn:
    return PAPER.by_name[name].draw(measured, SETTING)


def bands(values: Sequence[tuple[float, float]]) -> list:
    """Mean, low and high of three seeds one apart, from means and slopes."""
    return [pytest.approx([mean, mean - s * HALF, mean + s * HALF], abs=1e-3) for mean, s in values]


# ---- tables


def table1(x: float) -> Measured:
    own = {
        "FPN R50": record(FPN50, 20.0, 8.0, x),
        "RetinaNet R50": record(RETINA50, 18.0, 9.0, x),
        "FPN R101": record(FPN101, 22.0, 15.0, x),
        "Cascade R50": record(CASCADE50, 23.0, 11.0, x, slope=2.0),
    }
    second = {"FPN R50": record(FPN50, 40.0, 7.0, x), "RetinaNet R50": record(RETINA50, 39.0, 6.0, x)}
    return {"own": own, "second": second, "second_data": "cells", "evidence": {}}


def test_table_1():
    table = drawn("table1", three(table1))
    assert table.table.columns == ("Exp", "Data", "Model", "Backbone", "Input", "Time", "mAP")
    assert shown(table) == [
        ["1", "scenes", "FPN", "ResNet50", "96x96", (8.0, 0.25), (20.0, 1.0)],
        ["2", "scenes", "RetinaNet", "ResNet50", "96x96", (9.0, 0.25), (18.0, 1.0)],
        ["3", "cells", "FPN", "ResNet50", "96x96", (7.0, 0.25), (40.0, 1.0)],
        ["4", "cells", "RetinaNet", "ResNet50", "96x96", (6.0, 0.25), (39.0, 1.0)],
        ["5", "scenes", "FPN", "ResNet101", "128x128", (15.0, 0.25), (22.0, 1.0)],
        ["6", "scenes", "CascadeRCNN", "ResNet50", "96x96", (11.0, 0.25), (23.0, 2.0)],
    ]
    assert table.units == {"Time": "ms", "mAP": "points"}
    assert not any("No second data" in note for note in table.notes)
    alone = drawn("table1", [table1(0.0) | {"second": None, "second_data": None}])
    assert [row[0] for row in alone.table.rows] == ["1", "2", "5", "6"]
    assert any("No second data" in note for note in alone.notes)


def table2(x: float) -> Measured:
    models = {
        name: record(structure, 10.0 + place, 5.0 + place, x) | {"of_standard": 0.5 + place / 10}
        for place, (name, structure) in enumerate(NANO.models)
    }
    found = {
        "C0": record(FPN50, 1.0, 1.0),
        "F0": record(CODED, 30.0, 4.0, x) | {"of_standard": 0.25},
        "F1": record(E4, 31.0, 3.0, x) | {"of_standard": 0.75},
    }
    counted = {
        name: {"backbone": 1e9 * (place + 7), "of_standard": 0.7 + place / 100, "params": 1e6 * (place + 30)}
        for place, (name, _) in enumerate(NANO.models)
    }
    return {"models": models, "found": found, "counted": counted, "evidence": {}}


def test_table_2():
    table = drawn("table2", [*three(table2)[:2], to_json(table2(1.0) | {"found": {}})])
    columns = (
        *("Model", "Input", "Backbone", "Neck", "RPN", "Head", "Backbone FLOPs", "Of the standard backbone", "Time"),
        *("mAP", "Backbone FLOPs at the paper's size", "Of the standard backbone there", "Parameters there"),
    )
    assert table.table.columns == columns
    x_code = "Xbottleneck_14_21-21-111111111111111-2111111"
    assert shown(table, 6) == [
        [name, *architecture, 2.0 * (5 + place), 0.5 + place / 10, (5.0 + place, 0.25), (10.0 + place, 1.0), *there]
        for place, (name, architecture, there) in enumerate(
            (
                ("E0", ("64x64", "basicblock_16_1-21-21-12", "FPN(P2-P5, c=16)", "RPN", "2FC"), (7.0, 0.70, 30.0)),
                (
                    "E1",
                    ("96x96", "basicblock_12_12-21-11111-211111", "FPN(P2-P5, c=32)", "RPN", "2FC"),
                    (8.0, 0.71, 31.0),
                ),
                (
                    "E2",
                    ("96x96", "basicblock_14_12-11111-211-1112", "FPN(P1-P5, c=16)", "RPN", "Cascade(n=3)"),
                    (9.0, 0.72, 32.0),
                ),
                (
                    "E3",
                    (
                        *("96x96", "bottleneck_14_211-111111111-2111111-11112111"),
                        *("FPN(P1-P5, c=16)", "RPN", "Cascade(n=3)"),
                    ),
                    (10.0, 0.73, 33.0),
                ),
                ("E4", ("96x96", x_code, "FPN(P1-P5, c=32)", "GA-RPN", "Cascade(n=3)"), (11.0, 0.74, 34.0)),
                ("E5", ("128x128", x_code, "FPN(P1-P5, c=32)", "GA-RPN", "Cascade(n=3)"), (12.0, 0.75, 35.0)),
            )
        )
    ]
    found = table.table.rows[6:]
    assert [row[0] for row in found] == ["F0, seed 0", "F0, seed 1", "F1, seed 0", "F1, seed 1"]
    assert [row[2] for row in found] == [CODED.backbone] * 2 + [E4.backbone] * 2
    assert [row[6] for row in found] == pytest.approx([8.0, 8.0, 6.0, 6.0])
    assert [row[7] for row in found] == [0.25, 0.25, 0.75, 0.75]
    assert [row[8].mean for row in found] == [3.75, 4.0, 2.75, 3.0]
    assert [row[9].mean for row in found] == [29.0, 30.0, 30.0, 31.0]
    assert {row[10:] for row in found} == {(None, None, None)}
    assert table.units == {
        "Backbone FLOPs": "M",
        "Time": "ms",
        "mAP": "points",
        "Backbone FLOPs at the paper's size": "G",
        "Of the standard backbone": "ratio",
        "Of the standard backbone there": "ratio",
        "Parameters there": "M",
    }


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("resnet18 64x32 no-fpn ga-rpn cascade4", ("64x32", "ResNet18", "no FPN", "GA-RPN", "Cascade(n=4)")),
        ("mobilenet_v2 9x8 P3-P6 c7 retinanet", ("9x8", "MobileNetV2", "FPN(P3-P6, c=7)", "no RPN", "RetinaNet")),
        ("resnext50_32x4d 9x8 P1-P2 c7 rpn 2fc", ("9x8", "ResNeXt50", "FPN(P1-P2, c=7)", "RPN", "2FC")),
    ],
)
def test_modules_in_the_words_of_table_2(text, parts):
    assert parts_of(Structure.parse(text)) == parts


def table3(x: float) -> Measured:
    return {"rows": [{"AP": 10.0 + place**2 + (1 + place) * x} for place in range(8)], "evidence": {}}


def test_table_3():
    table = drawn("table3", three(table3))
    columns = ("Exp", "Norm", "Pre-trained", "Epochs", "Batch", "Learning rate", "mAP", "Minus experiment 0")
    assert table.table.columns == columns
    assert shown(table) == [
        ["0", "BN", True, 3, "2x2", pytest.approx(0.001), (10.0, 1.0), None],
        ["1", "BN", True, 6, "2x2", pytest.approx(0.001), (11.0, 2.0), (1.0, 1.0)],
        ["2", "BN", False, 3, "2x2", pytest.approx(0.001), (14.0, 3.0), (4.0, 2.0)],
        ["3", "BN", False, 3, "8x2", pytest.approx(0.010), (19.0, 4.0), (9.0, 3.0)],
        ["4", "GN", False, 3, "2x2", pytest.approx(0.001), (26.0, 5.0), (16.0, 4.0)],
        ["5", "GN+WS", False, 3, "2x2", pytest.approx(0.001), (35.0, 6.0), (25.0, 5.0)],
        ["6", "GN+WS", False, 3, "2x2", pytest.approx(0.005), (46.0, 7.0), (36.0, 6.0)],
        ["7", "GN+WS", False, 4, "4x2", pytest.approx(0.008), (59.0, 8.0), (49.0, 7.0)],
    ]
    assert table.units == {
        "Batch": "images a device x devices",
        "mAP": "points",
        "Minus experiment 0": "AP points",
    }
    assert table.caption.startswith("ResNet18, FPN(P1-P5, c=32), at 96x96, trained in eight ways")
    (picture,) = table.pictures
    assert (picture.name, picture.kind, picture.data["value_label"]) == ("table3", "bars", "AP (points)")
    names = ["0: BN", "1: BN", "2: BN", "3: BN", "4: GN", "5: GN+WS", "6: GN+WS", "7: GN+WS"]
    assert list(picture.data["groups"]) == names
    groups = [list(group["AP"]) for group in picture.data["groups"].values()]
    assert groups == bands([(10.0 + place**2, 1 + place) for place in range(8)])


def comparison(x: float) -> Measured:
    models = {name: record(each, 10.0 + place, 4.0 + place, x) for place, (name, each) in enumerate(NANO.models)}
    classics = {name: record(each, 30.0 + place, 20.0 + place, x) for place, (name, each) in enumerate(NANO.classics)}
    other = CODED if x else E1
    found = {"C0": record(FPN50, 50.0, 40.0, x), "F0": record(other, 51.0, 39.0, x)}
    evidence = {"dominated": 0.25 + x / 4, "hypervolume ratio": 0.75 + x / 4}
    return {"models": models, "classics": classics, "found": found, "evidence": evidence}


def test_table_4():
    table = drawn("table4", three(comparison))
    numbers = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    assert table.table.columns == ("Method", "Backbone", "Input", "Time", *numbers)
    assert table.units == {"Time": "ms"} | dict.fromkeys(numbers, "points")

    def row(name: str, structure: Structure, points: float, latency: float) -> list:
        backbone = {"resnet50": "ResNet50", "resnet101": "ResNet101"}.get(structure.backbone, structure.backbone)
        size = f"{structure.size[0]}x{structure.size[1]}"
        of_points = [(points + more, 1.0) for more in (0.0, 20.0, 5.0, -4.0, 1.0, 9.0)]
        return [name, backbone, size, (latency, 0.25), *of_points]

    expected = [row(name, each, 30.0 + place, 20.0 + place) for place, (name, each) in enumerate(NANO.classics)]
    expected += [row(f"SM-NAS: {n}", each, 10.0 + place, 4.0 + place) for place, (n, each) in enumerate(NANO.models)]
    expected.append(row("C0", FPN50, 50.0, 40.0))
    expected.append(["SM-NAS: F0", "found, one each seed", "found", *row("", CODED, 51.0, 39.0)[3:]])
    assert shown(table) == expected
    assert "dominates: 0.25; area" in table.notes[0]
    assert table.notes[0].endswith("classic ones: 0.75.")


def test_figure_1():
    figure = drawn("figure1", three(comparison))
    assert figure.table.columns == ("Kind", "Model", "Time", "AP")
    assert figure.units == {"Time": "ms", "AP": "points"}
    rows = [["E0 to E5", f"E{place}", (4.0 + place, 0.25), (10.0 + place, 1.0)] for place in range(6)]
    rows += [["Found here", "C0", (40.0, 0.25), (50.0, 1.0)], ["Found here", "F0", (39.0, 0.25), (51.0, 1.0)]]
    rows += [
        ["Classic detectors", name, (20.0 + place, 0.25), (30.0 + place, 1.0)]
        for place, (name, _) in enumerate(NANO.classics)
    ]
    assert shown(figure) == rows
    (picture,) = figure.pictures
    assert (picture.name, picture.kind) == ("figure1", "fronts")
    assert picture.data["points"] == {
        "E0 to E5": [(4.0 + place, 10.0 + place) for place in range(6)],
        "Found here": [(40.0, 50.0), (39.0, 51.0)],
        "Classic detectors": [(20.0 + place, 30.0 + place) for place in range(7)],
    }
    assert picture.data["highlighted"] == {row[1]: (row[2][0], row[3][0]) for row in rows}
    assert picture.data["with_front"] == ["E0 to E5", "Classic detectors"]
    assert picture.data["cost_label"] == "Time of detection, batch 1 (ms)"


def table5(x: float) -> Measured:
    def at(size: tuple[int, int], structure: Structure) -> Structure:
        return Structure(**(vars(structure) | {"size": size}))

    def rows(baseline: str, structure: Structure, points: float) -> dict:
        found = {"E0": E0, "E1": E1, "E3": E3}
        return {baseline: record(structure, points, 9.0, x)} | {
            name: record(at(structure.size, each), points + 2 + place, 5.0 + place, x, slope=2.0 + place)
            for place, (name, each) in enumerate(found.items())
        }

    return {
        "data": "cells",
        "rows": {"FPN R50": rows("FPN R50", FPN50, 40.0), "FPN R101": rows("FPN R101", FPN101, 50.0)},
    }


def test_table_5():
    table = drawn("table5", three(table5))
    assert table.table.columns == ("Data", "Input", "Model", "Time", "mAP", "Minus the plain detector")
    assert table.units == {"Time": "ms", "mAP": "points", "Minus the plain detector": "AP points"}
    expected = []
    for name, size, points in (("FPN w R50", "96x96", 40.0), ("FPN w R101", "128x128", 50.0)):
        expected += [
            ["cells", size, name, (9.0, 0.25), (points, 1.0), None],
            ["cells", size, "E0", (5.0, 0.25), (points + 2, 2.0), (2.0, 1.0)],
            ["cells", size, "E1", (6.0, 0.25), (points + 3, 3.0), (3.0, 2.0)],
            ["cells", size, "E3", (7.0, 0.25), (points + 4, 4.0), (4.0, 3.0)],
        ]
    assert shown(table) == expected
    assert len(table.notes) == 1
    alone = drawn("table5", [table5(0.0) | {"data": "scenes"}])
    assert "No second data set was given" in alone.notes[1]


# ---- figures of the searches


def search(x: float) -> dict[str, Any]:
    """Both searches of a seed: the second candidate of each failed. Costs are both milliseconds and MACs / 1e6."""

    def candidate(structure: Structure, cost: float, points: float | None) -> dict[str, Any]:
        numbers = {"AP": points, "cost": cost, "latency": cost, "macs_mmdet": None if cost is None else 3e6 * cost}
        return {"structure": str(structure), **numbers}

    found = [candidate(FPN50, 4.0, 5.0 + x), candidate(E0, None, None), candidate(FPN101, 6.0, 9.0 + 2 * x)]
    random = [candidate(FPN50, 4.0, 5.0 + x), candidate(E0, None, None)]
    grown = {"found": [1.0 + x, 1.0 + x, 3.0 + 3 * x], "random": [1.0 + x, 1.5 + x]}
    return {"found": found, "random": random, "hypervolume": grown, "skipped": 2}


SEARCH_COLUMNS = ("Method", "Candidates", "Area under the front", "Best AP", "Area, minus random search")
SEARCH_ROWS = [
    ["SM-NAS", 3.0, (3.0, 3.0), (9.0, 2.0), (1.5, 2.0)],
    ["Random search, same budget", 2.0, (1.5, 1.0), (5.0, 1.0), None],
]
SEARCH_UNITS = dict.fromkeys(SEARCH_COLUMNS[2:], "AP points")


def check_progress(picture) -> None:
    assert picture.kind == "progress"
    assert picture.data["y_label"] == "Area under the front (AP points)"
    curves = picture.data["curves"]
    assert list(curves) == ["SM-NAS", "Random search, same budget"]
    for curve, values in zip(curves.values(), ([(1, 1), (1, 1), (3, 3)], [(1, 1), (1.5, 1)]), strict=True):
        places, *numbers = curve
        assert places == list(range(1, len(values) + 1))
        assert [list(each) for each in zip(*numbers, strict=True)] == bands(values)


def check_attained(picture, cost_label: str, unit: float) -> None:
    """Three seeds: what at least one reached is the best seed's front, what all reached is the worst one's."""
    assert (picture.kind, picture.data["cost_label"]) == ("attainment_bands", cost_label)
    found = picture.data["bands"]
    assert list(found) == ["SM-NAS", "Random search, same budget"]
    fronts = [[[4.0 / unit, 5.0 + x], [6.0 / unit, 9.0 + 2 * x]] for x in (1.0, 0.0, -1.0)]
    for band, corners in zip(found.values(), (fronts, [front[:1] for front in fronts]), strict=True):
        assert [float(percentile) for percentile in band] == pytest.approx([100 / 3, 50.0, 100.0])
        for reached, expected in zip(band.values(), corners, strict=True):
            assert np.array(reached) == pytest.approx(np.array(expected))


def figure3(x: float) -> Measured:
    backbones = {
        "resnet18": {"AP": 5.0 + x, "latency": 6.0, "macs_mmdet": 7e6},
        "mobilenet_v2": {"AP": 2.0, "latency": 4.0 + x, "macs_mmdet": 3e6},
    }
    picks = {"C0": str(FPN50), "C1": str(FPN101)}
    return search(x) | {"picks": picks, "backbones": backbones, "longer": [], "evidence": {"tau": 0.5 + x / 4}}


def test_figure_3():
    measured = three(figure3)
    del measured[2]["backbones"]["resnet18"]
    figure = drawn("figure3", measured)
    assert figure.table.columns == SEARCH_COLUMNS
    assert shown(figure) == SEARCH_ROWS
    assert figure.units == SEARCH_UNITS
    fronts = {picture.name: picture for picture in figure.pictures[:3]}
    assert list(fronts) == ["figure3-sizes", "figure3-backbones-time", "figure3-backbones-flops"]
    small = [(4.0, 5.0 + x) for x in (-1, -1, 0, 0, 1, 1)]
    large = [(6.0, 9.0 + 2 * x) for x in (-1, 0, 1)]
    sizes, by_time, by_flops = (picture.data for picture in fronts.values())
    assert sizes["points"] == {"96x96": small, "128x128": large}
    assert by_time["points"] == {"ResNet50": small, "ResNet101": large}
    assert by_flops["points"] == {
        name: [(3 * cost, points) for cost, points in pairs] for name, pairs in by_time["points"].items()
    }
    assert sizes["highlighted"] == {}
    assert sizes["cost_label"] == by_time["cost_label"] == "Time of detection, batch 1 (ms)"
    assert by_flops["cost_label"] == "FLOPs of the detector (MMACs)"
    order = ["ResNet18", "ResNet34", "ResNet50", "ResNet101", "ResNeXt50", "ResNeXt101", "MobileNetV2"]
    assert by_time["order"] == by_flops["order"] == order
    for picture in fronts.values():
        assert picture.kind == "fronts"
        assert picture.data["whole_front"] is picture.data["log_cost"] is True
    attained, progress = figure.pictures[3:]
    assert (attained.name, progress.name) == ("figure3-attained", "figure3-progress")
    check_attained(attained, "Time of detection, batch 1 (ms)", 1.0)
    check_progress(progress)
    assert figure.notes == [
        "Every backbone within one structure, AP in points: MobileNetV2 2.0 at 4.0 ms and 3 MMACs.",
        "Kendall's tau of AP after this training with AP after the final one, random candidates: 0.50.",
        *(f"C{place} of seed {seed}: {each}." for seed in range(3) for place, each in enumerate((FPN50, FPN101))),
    ]
    assert figure.caption.startswith("Stage one: 8,127 structures, AP on held-out training images after 3 epochs")


def test_figure_3_of_one_seed_names_the_picks():
    numbers = to_json(figure3(0.0))
    del numbers["evidence"]["tau"]
    figure = drawn("figure3", [numbers])
    assert figure.pictures[0].data["highlighted"] == {"C0": (4.0, 5.0), "C1": (6.0, 9.0)}
    assert figure.notes[0].endswith("ResNet18 5.0 at 6.0 ms and 7 MMACs; MobileNetV2 2.0 at 4.0 ms and 3 MMACs.")
    assert not any("tau" in note for note in figure.notes)


def figure4(x: float) -> Measured:
    def in_macs(numbers: dict[str, Any]) -> dict[str, Any]:
        return {
            kind: [one | {"cost": one["macs_mmdet"]} for one in value] if kind in ("found", "random") else value
            for kind, value in numbers.items()
        }

    finals = {
        "C0": record(FPN50, 20.0, 8.0, x),
        "F0": record(CODED, 21.5, 6.0, x),
        "C1": record(FPN101, 30.0, 10.0, x),
        "F1": record(E4, 28.0, 12.0, x),
    }
    return {"groups": {"C0": in_macs(search(x)), "C1": in_macs(search(x))}, "finals": finals, "evidence": {}}


def test_figure_4():
    measured = three(figure4)
    figure = drawn("figure4", measured)
    assert figure.table.columns == ("Group", *SEARCH_COLUMNS)
    assert shown(figure) == [[name, *row] for name in ("C0", "C1") for row in SEARCH_ROWS]
    assert figure.units == SEARCH_UNITS
    fronts, *more = figure.pictures
    pairs = [pair for x in (-1, 0, 1) for pair in ((12.0, 5.0 + x), (math.nan, math.nan), (18.0, 9.0 + 2 * x))]
    assert (fronts.name, fronts.kind) == ("figure4", "fronts")
    assert list(fronts.data["points"]) == fronts.data["with_front"] == ["Searched from C0", "Searched from C1"]
    for found in fronts.data["points"].values():
        assert np.array(found) == pytest.approx(np.array(pairs), nan_ok=True)
    assert fronts.data["highlighted"] == {}
    assert fronts.data["log_cost"] is True
    assert fronts.data["cost_label"] == "FLOPs of the detector (MMACs)"
    names = [f"figure4-{what}-{group}" for group in ("c0", "c1") for what in ("attained", "progress")]
    assert [picture.name for picture in more] == names
    for attained, progress in (more[:2], more[2:]):
        check_attained(attained, "FLOPs of the detector (MMACs)", 1 / 3)
        check_progress(progress)
    assert figure.notes[:3] == [
        "Trained to the end, F0 has +1.50 AP points on C0 at 0.75 times its FLOPs.",
        "Trained to the end, F1 has -2.00 AP points on C1 at 1.20 times its FLOPs.",
        "Partial order pruning left 12 candidates untrained.",
    ]
    structures = {"C0": FPN50, "F0": CODED, "C1": FPN101, "F1": E4}
    expected = [f"{name} of seed {seed}: {each}." for seed in range(3) for name, each in structures.items()]
    assert figure.notes[3:] == expected
    assert figure.caption.startswith(f"Stage two: {NANO.modular.count():,} codes with a neck width")
    alone = drawn("figure4", measured[1:2])
    assert alone.pictures[0].data["highlighted"] == {"C0": (12.0, 5.0), "C1": (12.0, 5.0)}


FACTORS = ("depth", "width", "DC_1", "DC_2", "DC_3", "len_1", "len_2", "len_3", "len_4")


def figure5(x: float) -> Measured:
    largest = {name: place / 20 + x / 4 for place, name in enumerate(FACTORS)}
    every = {name: -place / 20 + x / 8 for place, name in enumerate(FACTORS)}
    return {"every": every, "largest": largest, "candidates": [11, 12 + int(x)], "evidence": {}}


def test_figure_5():
    figure = drawn("figure5", three(figure5))
    assert figure.table.columns == ("Candidates", *FACTORS)
    panels = {
        "Group with the largest structure": [(place / 20, 0.25) for place in range(9)],
        "All groups, mean": [(-place / 20, 0.125) for place in range(9)],
    }
    assert shown(figure) == [[title, *values] for title, values in panels.items()]
    (picture,) = figure.pictures
    assert (picture.name, picture.kind, picture.data["value_label"]) == (
        "figure5",
        "correlations",
        "Spearman's rho with AP",
    )
    assert list(picture.data["values"]) == list(panels)
    for title, values in panels.items():
        assert list(picture.data["values"][title]) == list(FACTORS)
        assert [list(each) for each in picture.data["values"][title].values()] == bands(values)
    assert figure.notes == ["Candidates a group: 11, 11; 11, 12; 11, 13 (a seed each). Candidates differ in FLOPs."]


@pytest.mark.parametrize(
    ("name", "make_up", "hide", "cell"),
    [
        ("table1", table1, lambda numbers: numbers["own"]["FPN R50"], (0, -1)),
        ("table4", comparison, lambda numbers: numbers["models"]["E0"], (7, 4)),
        ("table3", table3, lambda numbers: numbers["rows"][1], (1, 6)),
    ],
)
def test_a_seed_without_a_number_is_left_out_of_its_mean_alone(name, make_up, hide, cell):
    measured = three(make_up)
    hide(measured[0])["AP"] = None
    rows = drawn(name, measured).table.rows
    assert rows[cell[0]][cell[1]].n == 2
    assert rows[cell[0] + 1][cell[1]].n == 3


def test_exhibits_are_the_papers():
    of_the_paper = printed(PAPER.folder)["exhibits"]
    assert list(PAPER.by_name) == [name for name in of_the_paper if name != "figure2"]  # a drawing of the method
    assert (PAPER.name, PAPER.title) == ("sm_nas", "SM-NAS")
    assert all(exhibit.title and exhibit.shows for exhibit in PAPER.exhibits)


# ---- claims

CLAIMS = {claim.id: claim for claim in PAPER.claims}
NOISE = np.array([-0.2, -0.05, 0.1, 0.15])  # of mean 0, and far smaller than the differences below


def scalars(value: float) -> np.ndarray:
    return value + 0.1 * NOISE


def strategies(changed: int | None = None, value: float = 0.0) -> np.ndarray:
    """(S, 8): the rows of the paper's Table 3, one of them changed."""
    rows = np.array([36.5, 37.4, 24.8, 28.3, 29.4, 30.7, 36.4, 37.5])
    if changed is not None:
        rows[changed] = value
    return rows + 0.1 * np.outer(NOISE, np.arange(1, 9))


HELD = {
    "cascade AP": scalars(0.2),
    "cascade time": scalars(54.9 / 72.0),
    "FPN AP": scalars(1.5),
    "RetinaNet time": scalars(46.7 / 43.6),
    "RetinaNet time, second data": scalars(34.8 / 38.4),
    "strategies": strategies(),
    "dominated": scalars(0.9),
    "hypervolume ratio": scalars(1.2),
    "mobilenet FLOPs": scalars(0.5),
    "mobilenet behind": scalars(2.0),
    "pushed": scalars(1.0),
    "depth": scalars(0.6),
    "doubling": scalars(-0.4),
    "late": scalars(0.3),
    "transfer:E1": scalars(1.0),
    "transfer:E3": scalars(2.7),
    "tau": scalars(0.7),
}
# Of each claim, its conditions: the mean under HELD, direction, threshold, unit, effect, and what alone breaks it.
RULES = {
    "SM-1": [
        (0.2, "above", 0.0, "AP points", 0.5, {"cascade AP": scalars(-0.1)}),
        (54.9 / 72.0, "below", 1.0, "times", 0.5, {"cascade time": scalars(1.1)}),
        (1.5, "above", 0.0, "AP points", 0.5, {"FPN AP": scalars(-0.1)}),
        (46.7 / 43.6, "above", 1.0, "times", 0.5, {"RetinaNet time": scalars(0.9)}),
        (34.8 / 38.4, "below", 1.0, "times", 0.5, {"RetinaNet time, second data": scalars(1.1)}),
    ],
    "SM-2": [
        (37.5 - 36.5, "above", -1.0, "AP points", 1.0, {"strategies": strategies(7, 35.0)}),
        (36.4 - 30.7, "above", 0.0, "AP points", 1.0, {"strategies": strategies(6, 30.0)}),
        (36.5 - 28.3, "above", 1.0, "AP points", 1.0, {"strategies": strategies(3, 36.0)}),
        (37.5 - 28.3, "above", 0.0, "AP points", 1.0, {"strategies": strategies(3, 38.0)}),
    ],
    "SM-3": [
        (1.2, "above", 1.0, "times", 0.1, {"hypervolume ratio": scalars(0.9)}),
        (0.9, "above", 0.5, "of all", 0.1, {"dominated": scalars(0.4)}),
    ],
    "SM-4": [
        (0.5, "below", 1.0, "times", 0.5, {"mobilenet FLOPs": scalars(1.1)}),
        (2.0, "above", 0.0, "AP points", 0.5, {"mobilenet behind": scalars(-0.1)}),
    ],
    "SM-5": [(1.0, "above", 0.0, "AP points", 0.5, {"pushed": scalars(-0.1)})],
    "SM-6": [
        (0.6, "above", 0.0, "rho", 0.2, {"depth": scalars(-0.1)}),
        (-0.4, "below", 0.0, "rho", 0.2, {"doubling": scalars(0.1)}),
        (0.3, "above", 0.0, "rho", 0.2, {"late": scalars(-0.1)}),
    ],
    "SM-7": [
        (1.0, "above", 0.0, "AP points", 1.0, {"transfer:E1": scalars(-0.1)}),
        (2.7, "above", 0.0, "AP points", 1.0, {"transfer:E3": scalars(-0.1)}),
    ],
    "SM-8": [(0.7, "above", 0.4, "tau", 0.2, {"tau": scalars(0.3)})],
}
WHERE = {
    "table1": {"SM-1": "Table 1"},
    "figure3": {"SM-4": "Figure 3", "SM-8": "Stage-one"},
    "figure4": {"SM-5": "Figure 4"},
    "table3": {"SM-2": "Table 3"},
    "table4": {"SM-3": "Tables 2 and 4"},
    "figure5": {"SM-6": "Figure 5"},
    "table5": {"SM-7": "Table 5"},
}
PAPER_VALUES = {
    "SM-1": "39.3 @54.9 ms vs 39.1 @72.0 ms",
    "SM-2": "24.8 / 29.4 / 30.7 / 36.4 / 37.5 vs 36.5",
    "SM-7": "VOC +1.0..+4.0, BDD +1.0..+2.7",
}


def judged(claim: str, values: dict[str, np.ndarray]) -> dict[str, Any]:
    return judge(CLAIMS[claim], Evidence("scenes", "nano", (0, 1, 2, 3), "command", values), "sm_nas")


def test_every_claim_stands_with_its_exhibit():
    found = {each.name: {claim.id: claim.where for claim in each.claims} for each in PAPER.exhibits if each.claims}
    assert found == WHERE
    assert list(CLAIMS) == list(RULES)
    assert {name: claim.paper_value for name, claim in CLAIMS.items() if claim.paper_value} == PAPER_VALUES
    assert all(claim.statement for claim in CLAIMS.values())


@pytest.mark.parametrize("claim", RULES)
def test_conditions_say_what_the_evidence_is_held_against(claim):
    record = judged(claim, HELD)
    assert record["verdict"] == "reproduced"
    found = [
        (each["difference"], each["direction"], each["threshold"], each["unit"], condition.effect)
        for each, condition in zip(record["conditions"], CLAIMS[claim].conditions, strict=True)
    ]
    assert found == [(pytest.approx(mean), *rule) for mean, *rule, _ in RULES[claim]]


@pytest.mark.parametrize(
    ("claim", "place"), [(claim, place) for claim, rules in RULES.items() for place in range(len(rules))]
)
def test_each_condition_alone_breaks_its_claim(claim, place):
    record = judged(claim, HELD | RULES[claim][place][-1])
    assert record["verdict"] == "not reproduced"
    assert record["conditions"][place]["verdict"] == "not reproduced"


@pytest.mark.parametrize("claim", RULES)
def test_without_its_evidence_a_claim_stays_open(claim):
    for *_, broken in RULES[claim]:
        (name,) = broken
        left = {key: value for key, value in HELD.items() if key != name}
        assert judged(claim, left)["reason"] == f"not measured: {name}"


# ---- what is measured


class MadeUpStudy:
    """Answers like sm_nas.study.SMNAS, from made-up numbers; each answer is recorded as a run that was used."""

    preset = NANO

    def __init__(self, data: str = "scenes", second: str | None = None, recorders: list | None = None):
        self.data, self.options = data, SimpleNamespace(second_data=second)
        self.recorders = [] if recorders is None else recorders
        self.picks = [Evaluated(FPN50, 8.0, 0.2, 0), Evaluated(FPN101, 10.0, 0.3, 0)]
        self.known = dict((*NANO.models, *NANO.classics))

    def on(self, data: str) -> "MadeUpStudy":
        return MadeUpStudy(data, recorders=self.recorders)

    @contextmanager
    def recording(self):
        used: dict[str, None] = {}
        self.recorders.append(used)
        yield used
        self.recorders.pop()

    def use(self, name: str) -> None:
        for used in self.recorders:
            used[f"{self.data}/{name}"] = None

    def found(self) -> dict[str, Structure]:
        self.use("searches")
        return {"F0": CODED, "F1": E4}

    def final(self, name: str, structure: Structure) -> dict[str, Any]:
        """AP by name: distinct, and on other data twice as high."""
        self.use(f"final-{name}")
        share = (sum(map(ord, name)) % 97 + structure.size[0] / 1000) / 1000 * (1 if self.data == "scenes" else 2)
        points = dict(zip(("AP", "AP50", "AP75", "APs", "APm", "APl"), share * np.arange(1, 7), strict=True))
        return {**points, "structure": str(structure), "latency": -1.0, "macs_mmdet": 5, "backbone_macs_mmdet": 3}

    def finals(self, exhibit: str, structures: dict[str, Structure]) -> dict[str, dict[str, Any]]:
        self.use(f"latencies-{exhibit}")
        return {
            name: self.final(name, structure) | {"latency": 10.0 + place**2}
            for place, (name, structure) in enumerate(structures.items())
        }

    def strategy(self, row: int) -> dict[str, Any]:
        self.use(f"strategy-{row}")
        return {"AP": None if row == 2 else (row + 1) / 100}

    def searched(self, name: str) -> SimpleNamespace:
        self.use(name)
        codes = ("12-2-2-1", "12-21-2-11", "12-21-21-111", "12-21-211-1111")
        some = [Structure(f"basicblock_48_{code}", (96, 96), (1, 5), 32, "rpn", 1) for code in codes]
        found = [Evaluated(each, 4.0 - place, (1 + place) / 10, 0) for place, each in enumerate(some[:3])]
        failed = Evaluated(some[3], math.nan, math.nan, 1)
        random = [found[0], Evaluated(some[3], 1.5, 0.05, 0)] if name.endswith("c1") else [found[0], failed]
        pool = {each.structure: {"latency": each.cost + 100, "macs_mmdet": each.cost + 200} for each in found}
        skipped = [Skipped(some[0], 1.0, 1, some[1], some[2])]
        return SimpleNamespace(found=History(found, skipped), random=History(random), pool=pool | {some[3]: {}})

    @property
    def stage_one(self) -> SimpleNamespace:
        return self.searched("stage-one")

    def stage_two(self, group: int) -> SimpleNamespace:
        return self.searched(f"stage-two-c{group}")

    @property
    def backbones(self) -> dict[str, dict[str, Any]]:
        self.use("backbones")
        return {
            "resnet18": {"AP": 0.06, "latency": 9.0, "macs_mmdet": 100.0},
            "resnet34": {"status": "failed"},
            "mobilenet_v2": {"AP": 0.05, "latency": 10.0, "macs_mmdet": 50.0},
        }

    @property
    def longer(self) -> list[dict[str, Any]]:
        self.use("longer")
        shares = ((0.01, 0.02), (None, 0.5), (0.02, 0.05), (0.03, 0.04))
        return [{"structure": str(FPN50), "short": short, "long": long} for short, long in shares]


def measured(name: str, second: str | None = None) -> Measured:
    return measure_exhibit(PAPER.by_name[name], MadeUpStudy(second=second))


def points(name: str, structure: Structure, data: str = "scenes") -> float:
    return 100 * MadeUpStudy(data).final(name, structure)["AP"]


def test_what_table_1_measures():
    numbers = measured("table1", "coco:DIR/cells")
    names = ["FPN R50", "RetinaNet R50", "FPN R101", "Cascade R50"]
    assert list(numbers["own"]) == names
    assert [numbers["own"][name]["latency"] for name in names] == [10.0, 11.0, 14.0, 19.0]
    assert numbers["second"]["FPN R50"]["AP"] == pytest.approx(points("FPN R50", FPN50, "there"))
    assert [each["latency"] for each in numbers["second"].values()] == [10.0, 11.0]
    assert numbers["second_data"] == "cells"
    assert numbers["evidence"] == pytest.approx(
        {
            "cascade AP": points("Cascade R50", CASCADE50) - points("FPN R101", FPN101),
            "cascade time": 19.0 / 14.0,
            "FPN AP": points("FPN R50", FPN50) - points("RetinaNet R50", RETINA50),
            "RetinaNet time": 11.0 / 10.0,
            "RetinaNet time, second data": 11.0 / 10.0,
        }
    )
    finals = {f"scenes/final-{name}" for name in names}
    there = {f"coco:DIR/cells/{what}" for what in ("latencies-table1", "final-FPN R50", "final-RetinaNet R50")}
    assert {name: set(runs) for name, runs in numbers["rests_on"].items()} == {
        "cascade AP": {"scenes/final-Cascade R50", "scenes/final-FPN R101"},
        "cascade time": finals | {"scenes/latencies-table1"},
        "FPN AP": {"scenes/final-FPN R50", "scenes/final-RetinaNet R50"},
        "RetinaNet time": finals | {"scenes/latencies-table1"},
        "RetinaNet time, second data": there,
    }
    assert set(numbers["runs"]) == finals | there | {"scenes/latencies-table1"}
    alone = measured("table1")
    assert (alone["second"], alone["second_data"], len(alone["evidence"])) == (None, None, 4)


def test_numbers_of_a_detector_are_points():
    one = measured("table1")["own"]["FPN R50"]
    share = points("FPN R50", FPN50)
    assert {name: one[name] for name in ("AP", "AP50", "AP75", "APs", "APm", "APl")} == pytest.approx(
        {name: share * (1 + place) for place, name in enumerate(("AP", "AP50", "AP75", "APs", "APm", "APl"))}
    )
    assert (one["structure"], one["macs_mmdet"], one["backbone_macs_mmdet"]) == (str(FPN50), 5, 3)


def test_what_table_2_measures(monkeypatch):
    """Costs by backbone, of a stand-in for the module that builds networks."""

    def describe_backbone(structure, settings):
        scale = 1.0 if settings == NANO.detector else 10.0
        costs = {"resnet18": 1.5, "resnet34": 2.0, "resnet50": 6.0, "resnet101": 12.0, "resnext101_32x4d": 24.0}
        return {"backbone_macs_mmdet": scale * costs.get(structure.backbone, 3.0)}

    def describe(structure, categories, settings):
        assert (categories, settings) == (80, PAPER_PRESET.detector)
        return describe_backbone(structure, settings) | {"params": 7}

    stub = SimpleNamespace(describe=describe, describe_backbone=describe_backbone)
    monkeypatch.setitem(sys.modules, "sm_nas.networks", stub)
    numbers = measured("table2")
    ratios = {"E0": 2.0, "E1": 1.5, "E2": 1.5, "E3": 0.25, "E4": 0.125, "E5": 0.125}
    assert {name: one["of_standard"] for name, one in numbers["models"].items()} == ratios
    counted = {name: {"backbone": 30.0, "of_standard": ratio, "params": 7} for name, ratio in ratios.items()}
    assert numbers["counted"] == counted
    assert list(numbers["found"]) == ["C0", "C1", "F0", "F1"]
    assert [one.get("of_standard") for one in numbers["found"].values()] == [None, None, 0.5, 0.25]
    assert [one["latency"] for one in numbers["models"].values()] == [10.0, 11.0, 14.0, 19.0, 26.0, 35.0]
    assert "scenes/latencies-table2" in numbers["runs"]
    assert numbers["evidence"] == {}


def test_what_table_3_measures():
    numbers = measured("table3")
    expected = [1.0, 2.0, None, 4.0, 5.0, 6.0, 7.0, 8.0]
    assert [row["AP"] for row in numbers["rows"]] == numbers["evidence"]["strategies"] == pytest.approx(expected)
    assert numbers["rests_on"]["strategies"] == [f"scenes/strategy-{row}" for row in range(8)]


@pytest.mark.parametrize("name", ["table4", "figure1"])
def test_what_is_measured_of_the_comparison(name):
    numbers = measured(name)
    assert list(numbers["models"]) == [f"E{place}" for place in range(6)]
    assert list(numbers["classics"]) == [name for name, _ in NANO.classics]
    assert list(numbers["found"]) == ["C0", "C1", "F0", "F1"]
    latencies = [one["latency"] for kind in ("models", "classics", "found") for one in numbers[kind].values()]
    assert latencies == [10.0 + place**2 for place in range(17)], "timed in turn, all together"
    us, them = (list(numbers[kind].values()) for kind in ("models", "classics"))
    assert numbers["evidence"]["dominated"] == dominated_share(us, them)
    assert numbers["evidence"]["hypervolume ratio"] == pytest.approx(hypervolume_ratio(us, them))
    assert "scenes/searches" in numbers["runs"]
    assert "scenes/searches" not in numbers["rests_on"]["dominated"]
    assert "scenes/latencies-comparison" in numbers["rests_on"]["dominated"]


def test_what_table_5_measures():
    numbers = measured("table5", "coco:DIR/cells")
    assert numbers["data"] == "cells"
    assert {baseline: list(rows) for baseline, rows in numbers["rows"].items()} == {
        "FPN R50": ["FPN R50", "E0", "E1", "E3"],
        "FPN R101": ["FPN R101", "E0", "E1", "E3"],
    }
    sizes = {base: {one["structure"].split()[1] for one in rows.values()} for base, rows in numbers["rows"].items()}
    assert sizes == {"FPN R50": {"96x96"}, "FPN R101": {"128x128"}}
    plain = points("FPN R50", FPN50, "there")
    assert numbers["evidence"] == pytest.approx(
        {"transfer:E1": points("E1", E1, "there") - plain, "transfer:E3": points("E3", E3, "there") - plain}
    )
    place = "coco:DIR/cells/final-"
    assert numbers["rests_on"]["transfer:E3"] == [f"{place}E3", f"{place}FPN R50"]
    assert f"{place}E0 96x96" in numbers["runs"], "at a size that is not its own a run has another name"
    assert f"{place}E1" in numbers["runs"]
    alone = measured("table5")
    assert (alone["data"], alone["evidence"]) == ("scenes", {})


def test_detectors_of_table_5_at_the_paper_scale():
    names = {base: [run for run, _ in models.values()] for base, models in transferred(PAPER_PRESET).items()}
    assert names == {
        "FPN R50": ["FPN R50", "E0 800x600", "E1", "E3"],
        "FPN R101": ["FPN R101", "E0 1333x800", "E1 1333x800", "E3 1333x800"],
    }


def test_what_figure_3_measures():
    numbers = measured("figure3")
    assert numbers["picks"] == {"C0": str(FPN50), "C1": str(FPN101)}
    assert numbers["backbones"] == {
        "resnet18": {"AP": 6.0, "latency": 9.0, "macs_mmdet": 100.0},
        "resnet34": {"AP": None, "latency": None, "macs_mmdet": None},
        "mobilenet_v2": {"AP": 5.0, "latency": 10.0, "macs_mmdet": 50.0},
    }
    assert [(one["short"], one["long"]) for one in numbers["longer"]] == [(1.0, 2.0), (2.0, 5.0), (3.0, 4.0)]
    assert numbers["evidence"] == pytest.approx({"tau": 1 / 3, "mobilenet FLOPs": 0.5, "mobilenet behind": 1.0})
    assert numbers["rests_on"] == {
        "tau": ["scenes/longer"],
        "mobilenet FLOPs": ["scenes/backbones"],
        "mobilenet behind": ["scenes/backbones"],
    }
    assert set(numbers["runs"]) == {"scenes/stage-one", "scenes/backbones", "scenes/longer"}


def test_numbers_of_a_search():
    searched = MadeUpStudy().stage_one
    numbers = to_json(search_numbers(searched))
    assert [(one["AP"], one["cost"], one["latency"], one["macs_mmdet"]) for one in numbers["found"]] == [
        (pytest.approx(10.0), 4.0, 104.0, 204.0),
        (pytest.approx(20.0), 3.0, 103.0, 203.0),
        (pytest.approx(30.0), 2.0, 102.0, 202.0),
    ]
    failed = {"AP": None, "cost": None, "latency": None, "macs_mmdet": None}
    assert numbers["random"][1] == {"structure": str(searched.random.evaluated[1].structure), **failed}
    assert numbers["skipped"] == 1
    worst = 4.0 * 1.0001
    for kind in ("found", "random"):
        records = [one | {"AP": _nan(one["AP"]), "cost": _nan(one["cost"])} for one in numbers[kind]]
        assert numbers["hypervolume"][kind] == pytest.approx(hypervolumes(records, worst))
    assert numbers["hypervolume"]["found"][0] == pytest.approx(10.0 * 0.0001, rel=0.01)


def _nan(value: float | None) -> float:
    return math.nan if value is None else value


def test_what_figure_4_measures():
    numbers = measured("figure4")
    assert list(numbers["groups"]) == ["C0", "C1"]
    assert [len(one["random"]) for one in numbers["groups"].values()] == [2, 2]
    assert numbers["groups"]["C1"]["random"][1]["AP"] == pytest.approx(5.0)
    assert list(numbers["finals"]) == ["C0", "C1", "F0", "F1"]
    gained = [points("F0", CODED) - points("C0", FPN50), points("F1", E4) - points("C1", FPN101)]
    assert numbers["evidence"] == pytest.approx({"pushed": np.mean(gained)})
    finals = {f"scenes/final-{name}" for name in ("C0", "C1", "F0", "F1")}
    assert set(numbers["rests_on"]["pushed"]) == finals | {"scenes/searches"}
    assert set(numbers["runs"]) == finals | {"scenes/searches", "scenes/stage-two-c0", "scenes/stage-two-c1"}


def test_what_figure_5_measures():
    numbers = measured("figure5")
    assert numbers["candidates"] == [4, 4], "what both searches proposed counts once"
    codes = [
        BackboneCode.parse(f"basicblock_48_{c}") for c in ("12-2-2-1", "12-21-2-11", "12-21-21-111", "12-21-211-1111")
    ]
    accuracies = [0.1, 0.2, 0.3, 0.05]
    last = {name: naive_spearman([factors_of(code)[name] for code in codes], accuracies) for name in FACTORS}
    first = {name: naive_spearman([factors_of(code)[name] for code in codes[:3]], accuracies[:3]) for name in FACTORS}
    assert numbers["largest"] == pytest.approx(last)
    every = {name: (first[name] + last[name]) / 2 for name in FACTORS}
    assert numbers["every"] == pytest.approx(every)
    assert numbers["evidence"] == pytest.approx(
        {
            "depth": every["depth"],
            "doubling": (every["DC_1"] + every["DC_2"] + every["DC_3"]) / 3,
            "late": every["len_4"] - every["len_1"],
        }
    )
    assert every["len_4"] != every["len_1"]
    assert numbers["rests_on"]["late"] == numbers["runs"] == ["scenes/stage-two-c0", "scenes/stage-two-c1"]


def naive_spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """The correlation of mean ranks; 0 where all are the same."""

    def ranks(values: Sequence[float]) -> np.ndarray:
        return np.array(
            [sum(v < value for v in values) + (sum(v == value for v in values) - 1) / 2 for value in values]
        )

    a, b = (ranks(values) - ranks(values).mean() for values in (one, other))
    return float((a * b).sum() / math.sqrt((a**2).sum() * (b**2).sum())) if a.any() and b.any() else 0.0


# ---- the measures themselves


def area_by_columns(candidates: Sequence[dict], dearest: float, columns: int = 100_000) -> float:
    """The mean over budgets from 0 to `dearest` of the best AP that a budget affords."""
    budgets = (np.arange(columns) + 0.5) / columns * dearest
    best = np.zeros(columns)
    for point in candidates:
        best = np.where(budgets >= point["cost"], np.maximum(best, point["AP"]), best)
    return float(best.mean())


def test_hypervolumes_are_the_mean_best_ap_over_budgets():
    generator = np.random.default_rng(0)
    some = [{"cost": float(cost), "AP": float(accuracy)} for cost, accuracy in generator.random((12, 2))]
    grown = hypervolumes(some, 1.2)
    assert len(grown) == len(some)
    for count in (1, 5, 12):
        assert grown[count - 1] == pytest.approx(area_by_columns(some[:count], 1.2), abs=1e-4)
    assert all(later >= earlier for earlier, later in pairwise(grown))
    failed = [*some[:4], {"cost": math.nan, "AP": math.nan}, *some[4:]]
    assert hypervolumes(failed, 1.2)[4:] == grown[3:], "a failed candidate adds nothing"


def test_dominated_share():
    us = [{"AP": 10.0, "latency": 5.0}, {"AP": 20.0, "latency": 9.0}]
    them = [
        {"AP": 10.0, "latency": 5.0},  # the same: not dominated
        {"AP": 9.0, "latency": 5.0},
        {"AP": 10.0, "latency": 5.5},
        {"AP": 15.0, "latency": 8.0},  # between: faster than the one, better than the other
        {"AP": 20.0, "latency": 9.5},
        {"AP": 20.5, "latency": 9.5},
        {"AP": 9.0, "latency": 4.5},
        {"AP": 1.0, "latency": 99.0},
    ]
    assert dominated_share(us, them) == 4 / 8


def test_hypervolume_ratio():
    us, them = [{"AP": 10.0, "latency": 2.0}, {"AP": 20.0, "latency": 6.0}], [{"AP": 30.0, "latency": 8.0}]
    slowest = 8.0 * 1.0001
    assert hypervolume_ratio(us, them) == pytest.approx((10.0 * 4 + 20.0 * (slowest - 6)) / (30.0 * (slowest - 8)))
    assert math.isnan(hypervolume_ratio(us, [{"AP": 0.0, "latency": 8.0}]))


def test_mobilenet_is_behind_whoever_is_as_fast():
    backbones = {
        "mobilenet_v2": {"AP": 5.0, "latency": 10.0, "macs_mmdet": 50.0},
        "resnet18": {"AP": 6.0, "latency": 10.0, "macs_mmdet": 100.0},
        "resnet34": {"AP": 5.5, "latency": 7.0, "macs_mmdet": 110.0},
        "resnet50": {"AP": 9.0, "latency": 12.0, "macs_mmdet": 200.0},
    }
    assert mobilenet_evidence(backbones) == {"mobilenet FLOPs": 0.5, "mobilenet behind": 1.0}
    backbones["mobilenet_v2"]["latency"] = 1.0  # nobody is as fast
    assert mobilenet_evidence(backbones)["mobilenet behind"] == -5.0
    failed = {"AP": math.nan, "latency": None, "macs_mmdet": None}
    one, other = backbones["mobilenet_v2"], backbones["resnet18"]
    assert mobilenet_evidence({"mobilenet_v2": one, "resnet18": other, "resnet50": failed})["mobilenet FLOPs"] == 0.5
    assert mobilenet_evidence({"mobilenet_v2": one, "resnet18": failed}) == {}
    assert mobilenet_evidence({"mobilenet_v2": failed, "resnet18": other}) == {}


def test_factors_of_a_code():
    factors = factors_of(BackboneCode.parse("basicblock_48_12-21-11111-211111"))
    assert factors == {
        "depth": 15,
        "width": 48,
        **{f"DC_{place}": at / 15 for place, at in ((1, 1), (2, 2), (3, 9))},
        **{f"len_{place}": length / 15 for place, length in ((1, 2), (2, 2), (3, 5), (4, 6))},
    }
    assert tuple(factors) == FACTORS


def test_factor_correlations_are_of_what_was_trained():
    codes = ("12-2-2-1", "12-21-2-11", "12-21-21-111", "12-21-211-1111")
    structures = [Structure(f"basicblock_48_{code}", (96, 96), (1, 5), 32, "rpn", 1) for code in codes]
    evaluated = [Evaluated(each, 1.0, share, 0) for each, share in zip(structures, (0.1, 0.2, 0.3, 0.9), strict=True)]
    evaluated.append(Evaluated(Structure("basicblock_72_2-2-2-1111", (96, 96), (1, 5), 32, "rpn", 1), 1.0, math.nan, 0))
    found = factor_correlations(evaluated)
    assert (found["depth"], found["DC_1"]) == (pytest.approx(1.0), pytest.approx(-1.0))
    assert found["width"] == 0.0, "all the same"
    same = [Evaluated(each.structure, 1.0, 0.5, 0) for each in evaluated[:4]]
    assert set(factor_correlations(same).values()) == {0.0}
