"""Every table, figure and claim on the numbers of a made-up study: all that is drawn, against naive formulas."""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import combinations, pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from common.plain import to_json
from common.report.claims import Evidence, judge
from common.report.exhibit import Drawn, Measured, Setting, over_seeds, printed, triple
from common.report.reproduce import measure_exhibit
from common.report.statistics import Difference, bootstrap_interval, kendall_tau, partial_tau
from common.search.pareto import attainment
from sm_nas import exhibits
from sm_nas.encoding import STANDARD_BACKBONES, BackboneCode, Structure
from sm_nas.exhibits import (
    FACTORS,
    NOBODY,
    PAPER,
    _table_cost,
    dominated_share,
    factor_correlations,
    factors_of,
    hypervolume_ratio,
    hypervolumes,
    parts_of,
    pruned_numbers,
    tabulated,
    transferred,
    without_noise,
)
from sm_nas.method import Evaluated, Group, History, SearchSettings, Skipped, evolve, not_larger
from sm_nas.presets import NANO
from sm_nas.presets import PAPER as PAPER_PRESET

SEEDS = (0, 1, 3)
NUMBERS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
CLASSICS, MODELS = dict(NANO.classics), dict(NANO.models)
FPN50, FPN101, E4 = CLASSICS["FPN R50"], CLASSICS["FPN R101"], MODELS["E4"]
CODED = Structure("basicblock_12_12-1-21-12", (64, 64), (2, 5), 16, "rpn", 2)
FOUND = {"C0": FPN50, "C1": FPN101, "F0": CODED, "F1": E4}
CODES = ("12-2-2-1", "12-21-2-11", "12-21-21-111", "12-21-211-1111")
SECOND = "coco:DIR/cells"
TIME, FLOPS = "Time of detection, batch 1 (ms)", "FLOPs of the detector (MMACs)"
DRAWS = 40


class MadeUpStudy:
    """Answers like sm_nas.study.SMNAS, from made-up numbers of its seed; each answer is recorded as a run."""

    preset = replace(
        NANO, stage_two=replace(NANO.stage_two, first=1), transfer_baselines=PAPER_PRESET.transfer_baselines
    )

    def __init__(self, seed: int = 0, data: str = "scenes", second: str | None = None, recorders: list | None = None):
        self.seed, self.data, self.options = seed, data, SimpleNamespace(second_data=second)
        self.recorders = [] if recorders is None else recorders
        self.picks = [Evaluated(FPN50, 8.0, 0.2, 0), Evaluated(FPN101, 10.0, 0.3, 0)]

    def on(self, data: str) -> "MadeUpStudy":
        return MadeUpStudy(self.seed, data, recorders=self.recorders)

    @contextmanager
    def recording(self):
        used: dict[str, None] = {}
        self.recorders.append(used)
        yield used
        self.recorders.pop()

    def use(self, name: str) -> None:
        for used in self.recorders:
            used[f"{self.data}/{name}"] = None

    def found(self, kind: str = "found") -> dict[str, Structure]:
        self.use("searches")
        return {"F0": CODED, "F1": E4} if kind == "found" else {"R0": E4, "R1": CODED}

    def final(self, name: str, structure: Structure) -> dict[str, Any]:
        """AP by name, size and seed, and on other data twice as high."""
        self.use(f"final-{name}")
        share = (5 * sum(map(ord, name)) % 97 + structure.size[0] / 1000 + self.seed) / 500
        points = dict(zip(NUMBERS, share * np.arange(1, 7) * (1 if self.data == "scenes" else 2), strict=True))
        costs = {"latency": -1.0, "macs_mmdet": 1e6 * (5 + len(name)), "backbone_macs_mmdet": 3e6}
        return {**points, "structure": str(structure), **costs, "samples": 100, "cpu_seconds": 7.0 + self.seed}

    def finals(self, exhibit: str, structures: Mapping[str, Structure]) -> dict[str, dict[str, Any]]:
        self.use(f"latencies-{exhibit}")
        return {
            name: self.final(name, structure) | {"latency": 10.0 + place**2 + self.seed}
            for place, (name, structure) in enumerate(structures.items())
        }

    def strategy(self, row: int) -> dict[str, Any]:
        self.use(f"strategy-{row}")
        return {"AP": (row + 1) / 100 + self.seed / 50, "samples": 10 * row, "cpu_seconds": 1.0}

    def searched(self, name: str) -> SimpleNamespace:
        """The fourth candidate failed, but for a group's."""
        self.use(name)
        fine = "two" in name
        backbones = [f"basicblock_48_{code}" for code in CODES] if fine else list(STANDARD_BACKBONES)
        some = [Structure(each, (96, 96), (1, 5), 32, "rpn", 1) for each in backbones[:4]]
        found = [Evaluated(each, 4.0 - n, (1 + n + self.seed) / 10, 0) for n, each in enumerate(some[:3])]
        last = Evaluated(some[3], *((1.5, LAST[name[-2:]] / 100) if fine else (math.nan, math.nan)), 1)
        spent = {"samples": 3, "train_cpu_seconds": 2.0}
        pool = {
            each.structure: {"latency": each.cost + 1, "macs_mmdet": each.cost * 1e6, **spent}
            for each in (*found, *([last] if fine else []))
        }
        skipped = [Skipped(some[0], 1.0, 1, some[1], some[2])]
        random = [found[0], last, *([found[1]] if fine else [])]
        return SimpleNamespace(found=History(found, skipped), random=History(random), pool={some[3]: {}} | pool)

    @property
    def stage_one(self) -> SimpleNamespace:
        return self.searched("stage-one")

    def stage_two(self, group: int) -> SimpleNamespace:
        return self.searched(f"stage-two-c{group}")

    def skipped(self, group: int) -> list[dict[str, float]]:
        """In C0 one that failed, in C1 one that would have been on the front."""
        self.use(f"stage-two-c{group}-skipped")
        return [{"cost": 1.0, "AP": (math.nan, 0.2)[group]}]

    @property
    def backbones(self) -> dict[str, dict[str, Any]]:
        self.use("backbones")
        return {
            "resnet18": {"AP": 0.06, "latency": 9.0, "macs_mmdet": 100e6},
            "resnet34": {"status": "failed"},
            "mobilenet_v2": {"AP": 0.05, "latency": 10.0, "macs_mmdet": 50e6},
        }

    @property
    def ranked(self) -> list[dict[str, Any]]:
        self.use("short")
        names = ("short", "long", "macs_mmdet")
        return [{"name": f"E{n}", **dict(zip(names, each, strict=True))} for n, each in enumerate(ranked(self.seed))]

    def trained(self, what: str, structure: Structure, strategy) -> dict[str, Any]:
        self.use(what)
        epochs = strategy.optimisation.epochs
        return {"AP": (epochs + len(what)) / 1000 + self.seed / 50, "samples": epochs, "cpu_seconds": 5.0 + self.seed}


LAST = {"c0": 1.0, "c1": 11.0}
"""AP of a group's fourth candidate, points."""


def ranked(seed: int) -> list[tuple[float, float, float]]:
    """AP after a short training and a long one, and FLOPs."""
    return [(0.01 + seed / 1000, 0.02, 1e7), (0.02, 0.05, 2e7), (0.03, 0.04 + seed / 100, 4e7)]


@pytest.fixture(autouse=True)
def made_up(monkeypatch):
    """Costs at the paper's size by name, without building a network; and fewer draws than verdicts rest on."""
    monkeypatch.setattr(exhibits, "paper_macs", there)
    monkeypatch.setattr(exhibits, "bootstrap_interval", partial(bootstrap_interval, draws=DRAWS))


def there(name: str, classes: int = 80) -> float:
    return 1e9 * (sum(map(ord, name)) + classes)


def measured(name: str, second: str | None = None) -> list[Measured]:
    """Of all seeds, as they come back from measured.json."""
    studies = (MadeUpStudy(seed, second=second) for seed in SEEDS)
    return [{"seed": study.seed, **measure_exhibit(PAPER.by_name[name], study)} for study in studies]


def drawn(name: str, numbers: Sequence[Measured]) -> Drawn:
    return PAPER.by_name[name].draw(numbers, Setting("scenes", "nano", to_json(NANO)))


def plain(value: Any) -> Any:
    """What is drawn or expected, to be compared: of what is over seeds mean, low and high; floats but for rounding."""
    if isinstance(value, Difference):
        value = triple(value)
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(item) for item in value]
    return value if not isinstance(value, float) else None if math.isnan(value) else round(float(value), 9)


def assert_drawn(
    figure: Drawn,
    columns: Mapping[str, str],
    rows: Sequence[Sequence[Any]],
    caption: str,
    notes: Sequence[str] = (),
    pictures: Mapping[str, tuple[str, Mapping[str, Any]]] | None = None,
) -> None:
    """All that is drawn. columns: name -> unit, which may be empty. pictures: name -> kind and data."""
    assert list(figure.table.columns) == list(columns)
    assert figure.units == {name: unit for name, unit in columns.items() if unit}
    assert plain(figure.table.rows) == plain(rows)
    assert figure.caption == caption
    assert list(figure.notes) == list(notes)
    assert [picture.name for picture in figure.pictures] == list(pictures or {})
    for picture, (kind, data) in zip(figure.pictures, (pictures or {}).values(), strict=True):
        assert (picture.kind, plain(picture.data)) == (kind, plain(data))


def without_units(*names: str) -> dict[str, str]:
    return dict.fromkeys(names, "")


def points(name: str, structure: Structure, key: str = "AP", data: str = "scenes") -> np.ndarray:
    """Of a final training, in points: (S,)."""
    return np.array([100 * MadeUpStudy(seed, data).final(name, structure)[key] for seed in SEEDS])


def latency(place: int) -> np.ndarray:
    """Of the detector in that place of those that are timed in turn, ms: (S,)."""
    return 10.0 + place**2 + np.array(SEEDS)


def evidence(numbers: Sequence[Measured]) -> dict[str, np.ndarray]:
    return {name: np.array([each["evidence"][name] for each in numbers]) for name in numbers[0]["evidence"]}


def runs(*names: str, data: str = "scenes") -> set[str]:
    return {f"{data}/{name}" for name in names}


# ---- tables


def test_table_1():
    numbers = measured("table1", SECOND)
    timed = ("FPN R50", "RetinaNet R50", "FPN R101", "Cascade R50")
    rows = [
        [number, data, model, backbone, size, over_seeds(latency(timed.index(name)))]
        + [over_seeds(points(name, CLASSICS[name], data=SECOND if data == "cells" else data))]
        + [there(name, classes) / 1e9 for classes in (80, 20)]
        for number, data, name, model, backbone, size in (
            ("1", "scenes", "FPN R50", "FPN", "ResNet50", "96x96"),
            ("2", "scenes", "RetinaNet R50", "RetinaNet", "ResNet50", "96x96"),
            ("3", "cells", "FPN R50", "FPN", "ResNet50", "96x96"),
            ("4", "cells", "RetinaNet R50", "RetinaNet", "ResNet50", "96x96"),
            ("5", "scenes", "FPN R101", "FPN", "ResNet101", "128x128"),
            ("6", "scenes", "Cascade R50", "CascadeRCNN", "ResNet50", "96x96"),
        )
    ]
    columns = without_units("Exp", "Data", "Model", "Backbone", "Input") | {"Time": "ms", "mAP": "points"}
    columns |= {f"MACs at the paper's size, {classes} classes": "G" for classes in (80, 20)}
    caption = (
        "Detectors trained by the final schedule, on validation images. Which one is better depends on the data set?"
    )
    notes = [
        "mAP is over IoU 0.5 to 0.95 on both data sets; the paper's on VOC is at 0.5.",
        "The last columns count the paper's own detectors, with COCO's 80 and VOC's 20 classes.",
    ]
    assert_drawn(drawn("table1", numbers), columns, rows, caption, notes)
    left_out = "No second data set was given (--second-data): experiments 3 and 4 are left out."
    alone = drawn("table1", measured("table1"))
    assert_drawn(alone, columns, [row for row in rows if row[1] == "scenes"], caption, [*notes, left_out])

    known = {name: points(name, CLASSICS[name]) for name in CLASSICS}
    every = np.ones(len(SEEDS))
    assert plain(evidence(numbers)) == plain(
        {
            "cascade AP": known["Cascade R50"] - known["FPN R101"],
            "cascade cost": every * there("Cascade R50") / there("FPN R101"),
            "FPN AP": known["FPN R50"] - known["RetinaNet R50"],
            "RetinaNet cost": every * there("RetinaNet R50") / there("FPN R50"),
            "RetinaNet cost, 20 classes": every * there("RetinaNet R50", 20) / there("FPN R50", 20),
            "weakest": np.minimum.reduce([known[name] for name in timed]),
        }
    )
    assert set(numbers[0]["rests_on"]["cascade AP"]) == runs("final-Cascade R50", "final-FPN R101")
    assert numbers[1]["budget"]["FPN R50"] == {"samples": 100, "cpu_seconds": 8.0}


def test_table_2(monkeypatch):
    """Costs by backbone, of a stand-in for the module that builds networks."""

    def describe_backbone(structure, settings):
        scale = 1e6 if settings == NANO.detector else 1e7
        costs = {"resnet18": 1.5, "resnet34": 2.0, "resnet50": 6.0, "resnet101": 12.0, "resnext101_32x4d": 24.0}
        return {"backbone_macs_mmdet": scale * costs.get(structure.backbone, 3.0)}

    def describe(structure, categories, settings):
        assert (categories, settings) == (80, PAPER_PRESET.detector)
        return describe_backbone(structure, settings) | {"params": 7e6}

    stub = SimpleNamespace(describe=describe, describe_backbone=describe_backbone)
    monkeypatch.setitem(sys.modules, "sm_nas.networks", stub)
    numbers = measured("table2")
    ratios = {"E0": 2.0, "E1": 1.5, "E2": 1.5, "E3": 0.25, "E4": 0.125, "E5": 0.125}
    rows = []
    for place, (name, ratio) in enumerate(ratios.items()):
        measured_here = [over_seeds(each) for each in (latency(place), points(name, MODELS[name]))]
        rows.append([name, *parts_of(MODELS[name]), 3.0, ratio, *measured_here, 0.03, ratio, 7.0])
    place, of_f0 = len([*MODELS, *CLASSICS, "C0", "C1"]), points("F0", CODED)
    for at, seed in enumerate(SEEDS):  # of as many groups as the scale has, beside the backbone it was searched in
        measured_here = [over_seeds([each[at]]) for each in (latency(place), of_f0)]
        rows.append([f"F0, seed {seed}", *parts_of(CODED), 3.0, 0.5, *measured_here, None, None, None])
    columns = without_units("Model", "Input", "Backbone", "Neck", "RPN", "Head")
    columns |= {"Backbone FLOPs": "M", "Of the standard backbone": "ratio", "Time": "ms", "mAP": "points"}
    columns |= {"Backbone FLOPs at the paper's size": "G", "Of the standard backbone there": "ratio"}
    caption = (
        "E0 to E5 with this scale's channels and sizes, and F0, F1, ... that both stages found here. FLOPs are "
        "multiply-accumulates as the paper counts them, at the input size; the last columns count the paper's own "
        "networks at 80 classes."
    )
    note = (
        "The standard backbone: ResNet18 for E0, ResNet34 for E1 and E2, ResNet101 for E3, ResNeXt101-32x4d for E4 and "
        "E5; for F the backbone of the structure that it was searched in."
    )
    assert_drawn(drawn("table2", numbers), columns | {"Parameters there": "M"}, rows, caption, [note])
    assert "scenes/latencies-comparison" in numbers[0]["runs"]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("resnet18 64x32 no-fpn ga-rpn cascade4", ("64x32", "ResNet18", "no FPN", "GA-RPN", "Cascade(n=4)")),
        ("mobilenet_v2 9x8 P3-P6 c7 retinanet", ("9x8", "MobileNetV2", "FPN(P3-P6, c=7)", "no RPN", "RetinaNet")),
        ("MBblock_4_2-2 9x8 P1-P2 c7 rpn 2fc", ("9x8", "MBblock_4_2-2", "FPN(P1-P2, c=7)", "RPN", "2FC")),
    ],
)
def test_modules_in_the_words_of_table_2(text, parts):
    assert parts_of(Structure.parse(text)) == parts


def test_table_3():
    numbers = measured("table3")
    shown = 1.0 + np.arange(8) + 2 * np.array(SEEDS)[:, None]  # (S, 8)
    rows, bars = [], {}
    for place, (row, norm) in enumerate(zip(NANO.strategies, ["BN"] * 4 + ["GN"] + ["GN+WS"] * 3, strict=True)):
        batch, own = f"{row.images_a_device}x2", over_seeds(shown[:, place])
        training = [row.pretrained, row.optimisation.epochs, batch, row.optimisation.learning_rate]
        rows.append([str(place), norm, *training, own, over_seeds([float(place)] * 3) if place else None])
        bars[f"{place}: {norm}"] = {"AP": own}
    columns = without_units("Exp", "Norm", "Pre-trained", "Epochs") | {"Batch": "images a device x devices"}
    columns |= {"Learning rate": "", "mAP": "points", "Minus experiment 0": "AP points"}
    note = (
        "At this scale the optimiser is adamw. '2x8' is read as 2 images on each of 8 devices: a batch norm sees so "
        "many images at a time, and gradients are those of the whole batch."
    )
    caption = "ResNet18, FPN(P1-P5, c=32), at 96x96, trained in eight ways; AP on validation images."
    pictures = {"table3": ("bars", {"groups": bars, "value_label": "AP (points)"})}
    assert_drawn(drawn("table3", numbers), columns, rows, caption, [note], pictures)
    assert plain(evidence(numbers)) == plain({"strategies": shown})
    assert numbers[0]["budget"]["row 4"] == {"samples": 40, "cpu_seconds": 1.0}


def test_table_4():
    numbers, named = measured("table4"), MODELS | CLASSICS
    known, ap = evidence(numbers), {name: points(name, each) for name, each in named.items()}
    for seed, each in enumerate(numbers):
        us, them = (list(each[kind].values()) for kind in ("models", "classics"))
        assert known["dominated"][seed] == dominated_share(us, them)
        assert known["hypervolume ratio"][seed] == pytest.approx(hypervolume_ratio(us, them))
    rows = []
    for name in (*CLASSICS, *MODELS):
        size, backbone, *_ = parts_of(named[name])
        here = [latency([*named].index(name)), *(points(name, named[name], key) for key in NUMBERS)]
        title = f"SM-NAS: {name}" if name in MODELS else name
        rows.append([title, backbone, size, *map(over_seeds, here), there(name) / 1e9])
    notes = [
        f"Share of the classic detectors that one of E0 to E5 dominates: {known['dominated'].mean():.2f}; area under "
        f"the front of E0 to E5 over that of the classic ones: {known['hypervolume ratio'].mean():.2f}.",
        "Detectors that the search space does not cover (YOLO, FSAF, CornerNet, CenterNet, AlignDet, Mask R-CNN, "
        "TridentNet, DetNAS, NAS-FPN) are not trained here.",
    ]
    columns = without_units("Method", "Backbone", "Input") | {"Time": "ms"} | dict.fromkeys(NUMBERS, "points")
    caption = "Every detector trained alike, by the final schedule, on the same data; on validation images."
    assert_drawn(drawn("table4", numbers), columns | {"MACs at the paper's size": "G"}, rows, caption, notes)

    every, mask = np.ones(len(SEEDS)), 100 * (4 * 14**2 * 9 * 256**2 + 14**2 * 4 * 256**2 + 28**2 * 256 * 80)
    del known["dominated"], known["hypervolume ratio"]
    assert plain(known) == plain(
        {
            "E2 AP": ap["E2"] - ap["FPN R101"],
            "E2 cost": every * there("E2") / there("FPN R101"),
            "E5 AP": ap["E5"] - ap["FPN R101"],
            "E5 cost": every * there("E5") / (there("FPN R101") + mask),
            "classics AP": np.mean([ap[name] for name in CLASSICS], axis=0),
        }
    )
    assert "scenes/searches" not in {*numbers[0]["runs"], *numbers[0]["rests_on"]["E2 AP"]}
    side = {"samples": 100, "cpu_seconds": 8.0}
    assert numbers[1]["budget"] == {"E0 to E5": side, "classic detectors": side}


def test_figure_1():
    numbers, rows, marks = measured("figure1"), [], {}
    groups = {"E0 to E5": MODELS, "Found here": FOUND, "Classic detectors": CLASSICS}
    timed = [*MODELS, *CLASSICS, *FOUND]
    for label, group in groups.items():
        for name, structure in group.items():
            here = [over_seeds(each) for each in (latency(timed.index(name)), points(name, structure))]
            rows.append([label, name, *here])
            marks[name] = [each.mean for each in here]
    data = {"points": {label: [marks[name] for name in group] for label, group in groups.items()}, "cost_label": TIME}
    data |= {"highlighted": marks, "with_front": ["E0 to E5", "Classic detectors"]}
    assert_drawn(
        drawn("figure1", numbers),
        without_units("Kind", "Model") | {"Time": "ms", "AP": "points"},
        rows,
        "Time of detection and AP on validation images, mean over seeds; lines: the fronts.",
        ["C0, C1, ... are the structures that stage one handed on, F0, F1, ... what stage two made of them."],
        {"figure1": ("fronts", data)},
    )
    assert numbers[0]["evidence"] == {}
    assert {"scenes/searches", "scenes/latencies-comparison"} <= set(numbers[0]["runs"])


def test_table_5():
    numbers, compared = measured("table5", SECOND), transferred(MadeUpStudy.preset)
    timed = [run for models in compared.values() for run, _ in models.values()]
    rows = []
    for base, models in compared.items():
        plain_ap = points(*models[base], data=SECOND)
        for name, (run, structure) in models.items():
            own, size = points(run, structure, data=SECOND), f"{structure.size[0]}x{structure.size[1]}"
            ahead = None if name == base else over_seeds(own - plain_ap)
            title = {"FPN R50": "FPN w R50", "FPN R101": "FPN w R101"}.get(name, name)
            rows.append(["cells", size, title, over_seeds(latency(timed.index(run))), over_seeds(own), ahead])
    columns = without_units("Data", "Input", "Model") | {"Time": "ms", "mAP": "points"}
    columns |= {"Minus the plain detector": "AP points"}
    caption = "Searched models trained on another data set, beside a plain detector at the same input size."
    notes = ["Transferred: E0, E1, E3, as the paper lists them."]
    assert_drawn(drawn("table5", numbers), columns, rows, caption, notes)
    alone = measured("table5")
    assert (alone[0]["data"], alone[0]["evidence"]) == ("scenes", {})
    figure = drawn("table5", alone)
    assert {row[0] for row in figure.table.rows} == {"scenes"}
    ours = "No second data set was given (--second-data): this is the data that everything else is on."
    assert figure.notes == [*notes, ours]

    ap = {name: points(*run, data=SECOND) for name, run in compared["FPN R50"].items()}
    expected = {f"transfer:{name}": ap[name] - ap["FPN R50"] for name in ("E1", "E3")}
    assert plain(evidence(numbers)) == plain(expected | {"transfer:FPN": ap["FPN R50"]})
    assert set(numbers[0]["rests_on"]["transfer:E3"]) == runs("final-E3", "final-FPN R50", data=SECOND)
    medium = {name: {"samples": 100, "cpu_seconds": 8.0} for name in ("FPN R50", "E0", "E1", "E3")}
    assert numbers[1]["budget"] == medium
    assert {base: [run for run, _ in models.values()] for base, models in transferred(PAPER_PRESET).items()} == {
        "FPN R50": ["FPN R50", "E0 800x600", "E1", "E3"],
        "FPN R101": ["FPN R101", "E0 1333x800", "E1 1333x800", "E3 1333x800"],
    }


# ---- figures of the searches

SEARCH_COLUMNS = without_units("Method", "Candidates") | dict.fromkeys(
    ("Area under the front", "Best AP", "Area, minus random search"), "AP points"
)
LABELS = {"found": "SM-NAS", "random": "Random search, same budget"}


def pairs(seed: int, group: str = "") -> dict[str, list[tuple[float, float]]]:
    """Cost and AP in points of a search's candidates and of random search's, but for the one that failed."""
    found = [(4.0 - n, 10.0 * (1 + n + seed)) for n in range(3)]
    return {"found": found, "random": [found[0], *([(1.5, LAST[group]), found[1]] if group else [])]}


def area(some: Sequence[tuple[float, float]]) -> float:
    """Under the front, in AP points over cost from 0 to a bit beyond the dearest."""
    total, best, corners = 0.0, 0.0, [*sorted(some), (4.0004, 0.0)]
    for (cost, score), (beyond, _) in pairwise(corners):
        best = max(best, score)
        total += best * (beyond - cost)
    return total / 4.0004


def grown(group: str = "") -> dict[str, np.ndarray]:
    """The areas after each candidate: (S, N)."""
    lengths = {"found": 3, "random": 3 if group else 2}  # of stage one's random candidates the second failed
    return {
        kind: np.array([[area(pairs(seed, group)[kind][: n + 1]) for n in range(length)] for seed in SEEDS])
        for kind, length in lengths.items()
    }


def search_rows(group: str = "") -> list[list[Any]]:
    areas, rows = {kind: each[:, -1] for kind, each in grown(group).items()}, []
    for kind, label in LABELS.items():
        best = over_seeds([max(score for _, score in pairs(seed, group)[kind]) for seed in SEEDS])
        ahead = over_seeds(areas["found"] - areas["random"]) if kind == "found" else None
        rows.append([label, grown(group)[kind].shape[1], over_seeds(areas[kind]), best, ahead])
    return rows


def search_pictures(figure: str, group: str = "", moved: float = 0.0, label: str = FLOPS) -> dict[str, tuple]:
    """What the seeds reached, and how the area grew. moved: between a candidate's cost in the picture and in the
    area."""
    bands, curves = {}, {}
    for kind, name in LABELS.items():
        reached = [
            zip(*[(cost + moved, score) for cost, score in pairs(seed, group)[kind]], strict=True) for seed in SEEDS
        ]
        found = attainment([tuple(each) for each in reached], (100 / 3, 50, 100))
        bands[name] = {str(share): corners for share, corners in found.items()}
        along = [triple(over_seeds(each)) for each in grown(group)[kind].T]
        curves[name] = [list(range(1, len(along) + 1)), *map(list, zip(*along, strict=True))]
    ending = f"-{group}" if group else ""
    return {
        f"{figure}-attained{ending}": ("attainment_bands", {"bands": bands, "cost_label": label}),
        f"{figure}-progress{ending}": ("progress", {"curves": curves, "y_label": "Area under the front (AP points)"}),
    }


def test_figure_3():
    numbers = measured("figure3")
    titles = ["ResNet18", "ResNet34", "ResNet50", "ResNet101", "ResNeXt50", "ResNeXt101", "MobileNetV2"]
    sizes: dict[str, list] = {"96x96": []}
    times, flops = ({title: [] for title in titles[:3]} for _ in range(2))
    for seed in SEEDS:  # what did not fail: the search's three, and random search's one
        for place, (cost, ap) in enumerate(pairs(seed)["found"] + pairs(seed)["random"]):
            about = {"Structure": f"{STANDARD_BACKBONES[place % 3]} 96x96 P1-P5 c32 rpn 2fc", "Seed": seed}
            sizes["96x96"].append((cost + 1, ap, about))
            times[titles[place % 3]].append((cost + 1, ap, about))
            flops[titles[place % 3]].append((cost, ap, about))
    more = {"whole_front": True, "log_cost": True}
    pictures = {
        "figure3-sizes": ("fronts", {"points": sizes, "cost_label": TIME, **more, "highlighted": {}}),
        "figure3-backbones-time": ("fronts", {"points": times, "cost_label": TIME, **more, "order": titles}),
        "figure3-backbones-flops": ("fronts", {"points": flops, "cost_label": FLOPS, **more, "order": titles}),
        **search_pictures("figure3", moved=1.0, label=TIME),
    }
    notes = [
        "Every backbone within one structure, AP in points: ResNet18 6.0 at 9.0 ms and 100 MMACs; MobileNetV2 5.0 at "
        "10.0 ms and 50 MMACs.",
        *(f"C{place} of seed {seed}: {each}." for seed in SEEDS for place, each in enumerate((FPN50, FPN101))),
    ]
    caption = (
        "Stage one: 5,103 structures, AP on held-out training images after 13 epochs against the time of detection. "
        "The area is under the front, over time from 0 to that of the slowest candidate."
    )
    assert_drawn(drawn("figure3", numbers), SEARCH_COLUMNS, search_rows(), caption, notes, pictures)
    assert numbers[0]["evidence"] == {}
    assert numbers[0]["budget"] == {
        "SM-NAS": {"samples": 9, "cpu_seconds": 6.0},
        "Random search, same budget": {"samples": 3, "cpu_seconds": 2.0},
    }
    alone = drawn("figure3", [numbers[0] | {"picks": {"C0": numbers[0]["found"][1]["structure"]}}])
    assert alone.pictures[0].data["highlighted"] == {"C0": pytest.approx((4.0, 20.0))}


def test_mobilenet_beside_resnet():
    numbers = measured("mobilenet")
    pair = {name: replace(NANO.strategy_model, backbone=name) for name in ("mobilenet_v2", "resnet18")}
    (own, other), (flops, other_flops) = ((points(f"FPN {name}", each) for name, each in pair.items()), (21.0, 17.0))
    times, other_times = latency(0), latency(1)
    ratios = [np.full(len(SEEDS), flops / other_flops), times / other_times]
    rows = [
        ["ResNet18", other_flops, over_seeds(other_times), over_seeds(other), None, None, None],
        ["MobileNetV2", flops, *map(over_seeds, [times, own, *ratios, own - other])],
    ]
    columns = {"Backbone": "", "FLOPS": "M", "Time": "ms", "AP": "points", "FLOPS, over ResNet18's": "times"}
    columns |= {"Time, over ResNet18's": "times", "AP minus ResNet18's": "AP points"}
    caption = (
        "Two backbones within the structure of Table 3, resnet18 96x96 P1-P5 c32 rpn 2fc, trained by the final "
        "schedule; times of detection taken in turn."
    )
    assert_drawn(drawn("mobilenet", numbers), columns, rows, caption)
    expected = dict(zip(("mobilenet FLOPs", "mobilenet time"), ratios, strict=True))
    assert plain(evidence(numbers)) == plain(expected | {"mobilenet behind": other - own, "ResNet18 AP": other})
    assert numbers[1]["budget"] == {name: {"samples": 100, "cpu_seconds": 8.0} for name in pair}
    assert "scenes/latencies-mobilenet" in numbers[0]["runs"]


def test_the_ranking_of_a_short_training():
    numbers = measured("ranking")
    aps = 100 * np.array([ranked(seed) for seed in SEEDS])[:, :, :2]  # (S, 3, 2)
    macs = [10.0, 20.0, 40.0]
    rows = [[f"E{n}", macs[n], over_seeds(aps[:, n, 0]), over_seeds(aps[:, n, 1])] for n in range(3)]
    columns = {"Detector": "", "FLOPS": "M", "AP after stage one's": "points", "AP after the final one": "points"}
    caption = (
        "Named detectors after stage one's training of 13 epochs, on held-out training images, and after the final one "
        "of 60, on validation images."
    )
    taus = [naive_tau(*each.T) for each in aps]
    assert len(set(taus)) == 3
    note = f"Kendall's tau of the one with the other, inside a seed: {np.mean(taus):.2f}."
    assert_drawn(drawn("ranking", numbers), columns, rows, caption, [note])
    items = [[[*each, math.log(1e6 * macs[n])] for n, each in enumerate(of_seed)] for of_seed in aps]
    assert plain(evidence(numbers)) == plain({"ranked": items, "ranked AP": aps[:, :, 1].mean(axis=1)})
    assert numbers[1]["budget"] == {"after the final training": {"samples": 100, "cpu_seconds": 8.0}}


def test_figure_4():
    numbers = measured("figure4")
    structures = [str(Structure(f"basicblock_48_{code}", (96, 96), (1, 5), 32, "rpn", 1)) for code in CODES[:3]]
    found = [
        (*pair, {"Structure": text, "Seed": seed})
        for seed in SEEDS
        for pair, text in zip(pairs(seed, "c0")["found"], structures, strict=True)
    ]
    labels = ["Searched from C0", "Searched from C1"]
    data = {"points": dict.fromkeys(labels, found), "cost_label": FLOPS, "with_front": labels, "highlighted": {}}
    pictures = {"figure4": ("fronts", data | {"log_cost": True})}
    pictures |= search_pictures("figure4", "c0") | search_pictures("figure4", "c1")
    finals = {"C0": FPN50, "C1": FPN101, "F0": CODED, "F1": E4, "R0": E4, "R1": CODED}
    ap = {name: points(name, each) for name, each in finals.items()}
    ahead = {f"{one}{n}": ap[f"{one}{n}"] - ap[f"C{n}"] for one in "FR" for n in (0, 1)}
    notes = [
        f"Trained to the end, F{n} has {ahead[f'F{n}'].mean():+.2f} AP points on C{n} at 1.00 times its FLOPs, and "
        f"R{n}, of random search, has {ahead[f'R{n}'].mean():+.2f}."
        for n in (0, 1)
    ]
    notes.append("Partial order pruning left 6 candidates untrained.")
    notes += [f"{name} of seed {seed}: {each}." for seed in SEEDS for name, each in finals.items()]
    caption = (
        f"Stage two: {NANO.modular.count():,} codes with a neck width for each structure, trained from scratch with "
        "group norm and weight standardisation; AP on held-out training images against FLOPs. A search begins with its "
        "structure's own backbone."
    )
    rows = [[name.upper(), *row] for name in LAST for row in search_rows(name)]
    assert_drawn(drawn("figure4", numbers), without_units("Group") | SEARCH_COLUMNS, rows, caption, notes, pictures)
    (first, *_) = drawn("figure4", numbers[1:2]).pictures
    assert plain(first.data["highlighted"]) == {"C0": [4.0, 20.0], "C1": [4.0, 20.0]}, "where each search began"

    picked = (ap["C0"] + ap["C1"]) / 2
    trained = [np.mean([ap for group in LAST for ap in trained_in(seed, group)]) for seed in SEEDS]
    further = [ahead[f"F{n}"] - ahead[f"R{n}"] for n in (0, 1)]
    assert plain(evidence(numbers)) == plain(
        {
            "pushed": (ahead["F0"] + ahead["F1"]) / 2,
            "pushed further": np.mean(further, axis=0),
            "least AP": np.minimum(picked, trained),
        }
    )
    assert len({*np.sign(picked - trained)}) == 2, "either may be the lower one"
    final = {f"{kind}0, trained": {"samples": 100, "cpu_seconds": 8.0} for kind in "CFR"}
    searches = {"SM-NAS": {"samples": 9, "cpu_seconds": 6.0}}
    searches |= {"Random search, same budget": {"samples": 9, "cpu_seconds": 6.0}}
    assert numbers[1]["budget"] == final | searches


def trained_in(seed: int, group: str) -> list[float]:
    """AP in points of what a group's search and random search propose, each once."""
    return [*(score for _, score in pairs(seed, group)["found"]), LAST[group]]


def naive_tau(one: Sequence[float], other: Sequence[float]) -> float:
    """Kendall's tau-b; 0 where all of one are the same."""
    signs = [(np.sign(a - c), np.sign(b - d)) for (a, b), (c, d) in combinations(list(zip(one, other, strict=True)), 2)]
    untied = math.sqrt(sum(a != 0 for a, _ in signs) * sum(b != 0 for _, b in signs))
    return sum(a * b for a, b in signs) / untied if untied else 0.0


def test_candidates_of_figure_5_that_failed_are_no_evidence():
    class OneMore(MadeUpStudy):
        def stage_two(self, group: int) -> SimpleNamespace:
            two = super().stage_two(group)
            failed = Evaluated(replace(two.random.evaluated[0].structure, neck_width=64), 2.0, math.nan, 1)
            random, pool = History([*two.random.evaluated, failed]), two.pool | {failed.structure: {}}
            return SimpleNamespace(found=two.found, random=random, pool=pool)

    without, beside = (measure_exhibit(PAPER.by_name["figure5"], kind(0)) for kind in (MadeUpStudy, OneMore))
    assert to_json(beside["evidence"]) == to_json(without["evidence"])
    assert [beside["candidates"], without["candidates"]] == [[5, 5], [4, 4]]


def test_figure_5():
    numbers = measured("figure5")
    factors = [factors_of(BackboneCode.parse(f"basicblock_48_{code}")) for code in CODES]
    columns = [[one[name] for one in factors] for name in FACTORS]
    taus = {  # (S, F) in each group
        group: np.array([[naive_tau(each, trained_in(seed, group)) for each in columns] for seed in SEEDS])
        for group in LAST
    }
    shown = {
        "Group with the largest structure": [over_seeds(each) for each in taus["c1"].T],
        "All groups, mean": [over_seeds(each) for each in ((taus["c0"] + taus["c1"]) / 2).T],
    }
    values = {title: dict(zip(FACTORS, each, strict=True)) for title, each in shown.items()}
    assert_drawn(
        drawn("figure5", numbers),
        without_units("Candidates", *FACTORS),
        [[title, *each] for title, each in shown.items()],
        "Kendall's tau of the architecture's factors with AP among the trained candidates of stage two, inside each "
        "group. DC_x: where the channels double for the x-th time; len_x: a stage's share of the blocks.",
        ["Candidates a group: 4, 4; 4, 4; 4, 4 (a seed each). Candidates differ in FLOPs."],
        {"figure5": ("correlations", {"values": values, "value_label": "Kendall's tau with AP"})},
    )
    items = []
    for seed in SEEDS:
        filled, costs = [], (4.0, 3.0, 2.0, 1.5)
        for number, group in enumerate(LAST):
            for each, cost, ap in zip(factors, costs, trained_in(seed, group), strict=True):
                doubling, late = sum(each[f"DC_{place}"] for place in (1, 2, 3)) / 3, each["len_4"] - each["len_1"]
                filled.append([number, math.log(cost), ap, each["depth"], doubling, late])
        items.append([*filled, [-1.0] * 6])  # filled up to as many as there may be: 5, and 4 more of random search
    level = [np.mean([ap for group in LAST for ap in trained_in(seed, group)]) for seed in SEEDS]
    assert plain(evidence(numbers)) == plain({"architectures": items, "architectures AP": level})


def test_factors_of_a_code():
    factors = factors_of(BackboneCode.parse("basicblock_48_12-21-11111-211111"))
    assert list(factors.items()) == [
        *(("depth", 15), ("width", 48), ("DC_1", 1 / 15), ("DC_2", 2 / 15), ("DC_3", 9 / 15)),
        *(("len_1", 2 / 15), ("len_2", 2 / 15), ("len_3", 5 / 15), ("len_4", 6 / 15)),
    ]
    short = factors_of(BackboneCode.parse("basicblock_48_12-11"))
    assert short == {**short, "DC_1": 0.25, "DC_2": 1.0, "DC_3": 1.0, "len_2": 0.5, "len_3": 0.0, "len_4": 0.0}


def test_factor_correlations_are_of_what_was_trained():
    structures = [Structure(f"basicblock_48_{code}", (96, 96), (1, 5), 32, "rpn", 1) for code in CODES]
    evaluated = [Evaluated(each, 1.0, share, 0) for each, share in zip(structures, (0.1, 0.2, 0.3, 0.9), strict=True)]
    failed = Evaluated(replace(structures[0], backbone="basicblock_72_2-2-2-1111"), 1.0, math.nan, 0)
    found = factor_correlations([*evaluated, failed])
    assert found["depth"] == pytest.approx(1.0)
    assert "width" not in found, "all have the same"


def test_the_last_stage_is_the_last_that_the_pyramid_reads():
    structure = Structure("basicblock_12_12-21-11111", (96, 96), (1, 3), 32, "rpn", 1)
    *_, late = exhibits._architecture(Evaluated(structure, 1.0, 0.1, 0))
    assert late == pytest.approx(5 / 9 - 2 / 9)


def test_a_factor_that_a_group_shares_is_no_part_of_the_mean():
    some = [Structure(f"basicblock_48_{code}", (96, 96), (1, 5), 32, "rpn", 1) for code in CODES]
    wide = [
        replace(each, backbone=each.backbone.replace("_48_", f"_{48 + 8 * place}_")) for place, each in enumerate(some)
    ]
    groups = [[Evaluated(each, 1.0, 0.1 * place, 0) for place, each in enumerate(group)] for group in (some, wide)]
    assert exhibits._over_groups(list(map(factor_correlations, groups)))["width"] == pytest.approx(1.0)
    assert exhibits._over_groups([factor_correlations(groups[0])])["width"] == 0.0


# ---- what is not of the paper


def test_pruning_on_tables_saves_what_a_naive_count_says():
    group = Group(NANO.modular, NANO.strategy_model)
    settings, accuracy = SearchSettings(budget=100, first=20, generation=10), tabulated(3)
    history = evolve(group, settings, accuracy, (0,), _table_cost)
    found = pruned_numbers(history, list(accuracy([each.structure for each in history.skipped])))
    assert (found["trained"], found["skipped"]) == (100, len(history.skipped))
    assert 0 < found["share"] == len(history.skipped) / (100 + len(history.skipped))
    every = [each.structure for each in (*history.evaluated, *history.skipped)]
    points = [{"cost": each["cost"], "AP": 100 * each["AP"]} for each in accuracy(every)]
    dearest = 1.0001 * max(each["cost"] for each in points)
    areas = hypervolumes(points, dearest)
    assert found["area"] == pytest.approx(areas[99])
    assert found["all"] == pytest.approx(areas[-1])
    assert found["lost"] == pytest.approx(areas[-1] - areas[99])
    assert found["lost at random"] > found["lost"] >= 0
    gone = np.random.default_rng(0)
    asked = [place for place, each in enumerate(history.evaluated) if _could_be_skipped(each, history)]
    asked += range(100, len(every))
    left = []
    for _ in range(20):
        out = set(gone.choice(asked, len(history.skipped), replace=False))
        left.append(hypervolumes([each for place, each in enumerate(points) if place not in out], dearest)[-1])
    assert found["lost at random"] == pytest.approx(areas[-1] - np.mean(left))
    again = [each["AP"] for each in tabulated(3)(every)]
    assert again == [each["AP"] for each in accuracy(every)]
    assert again != [each["AP"] for each in tabulated(4)(every)]
    smaller, larger = ([next(accuracy([each]))["AP"] for each in pair] for pair in zip(*_ordered(every), strict=True))
    assert np.mean(np.array(larger) - smaller) > 0, "larger is better but for noise"
    assert all(without_noise(one) <= without_noise(other) for one, other in _ordered(every))


def test_a_candidate_that_failed_is_on_no_front():
    some = [Structure(f"basicblock_48_{code}", (96, 96), (1, 5), 32, "rpn", 1) for code in CODES]
    fine = [Evaluated(each, cost, share, 0) for each, cost, share in zip(some, (1.0, 2.0), (0.1, 0.2), strict=False)]
    failed = Evaluated(some[2], math.nan, math.nan, 0)
    alone, beside = (pruned_numbers(History(trained, []), []) for trained in (fine, [*fine, failed]))
    assert beside["area"] == pytest.approx(alone["area"])
    assert alone["area"] > 5


def _could_be_skipped(each: Evaluated, history: History) -> bool:
    earlier = [one for one in history.evaluated if one.generation < each.generation]
    affordable = [one for one in earlier if one.cost <= each.cost]
    return any(a is not b and a.accuracy >= b.accuracy for a in affordable for b in earlier)


def _ordered(some: Sequence[Structure]) -> list[tuple[Structure, Structure]]:
    return [(a, b) for a in some for b in some if a != b and not_larger(a, b)]


PRUNED = {
    "trained": ("Trained", ""),
    "skipped": ("Skipped", ""),
    "share": ("Share", "of the proposals"),
    "area": ("Area under the front", "AP points"),
    "all": ("With the skipped ones", "AP points"),
    "lost": ("Lost by skipping", "AP points"),
    "lost at random": ("Lost at random", "AP points"),
}
"""What an exhibit tells of a search -> its column and unit."""
PRUNED_COLUMNS = {"Order": ""} | dict(PRUNED.values())


def test_the_exhibit_on_pruning(monkeypatch):
    monkeypatch.setattr(exhibits, "_TABLES", 2)
    numbers = measured("pruning")
    orders = {
        "stage": "Stage by stage",
        "position": "Place by place from the input",
        "None": "None",
        "less noise": "Stage by stage, noise of .3",
        "size says nothing": "Stage by stage, where size says nothing of AP",
    }
    tables = {
        order: {key: np.array([each["tables"][order][key] for each in numbers]) for key in PRUNED} for order in orders
    }
    caption = (
        "Stage two on 2 tables of made-up accuracies a seed, which grow with depth and width but for noise of 0.8 AP "
        "points, 100 candidates each. Lost at random: what the area loses when as many are left out of those that the "
        "order decides about."
    )
    rows = [[label, *map(over_seeds, tables[order].values())] for order, label in orders.items()]
    assert_drawn(drawn("pruning", numbers), PRUNED_COLUMNS, rows, caption)
    stage = tables["stage"]
    assert stage["trained"].tolist() == [100] * 3
    assert stage["skipped"].mean() > tables["position"]["skipped"].mean() > 0
    assert not tables["None"]["skipped"].any()
    blind, more = tables["size says nothing"], stage["lost at random"] - stage["lost"]
    assert blind["skipped"].mean() > stage["skipped"].mean() > tables["less noise"]["skipped"].mean()
    assert blind["lost"].mean() > blind["lost at random"].mean(), "nothing is won where the order says nothing"
    expected = {"skipped share": stage["share"], "order lost": stage["lost"], "random lost more": more}
    assert plain(evidence(numbers)) == plain(expected)


def test_the_exhibit_on_what_was_skipped():
    numbers = measured("skipped")
    reached = grown("c0")["found"][:, -1]
    lost = np.full(3, 20 * (2 - 1) / 4.0004 / 2)  # in C1, from cost 1 to 2
    at_random = [each["searches"][name]["lost at random"] for each in numbers for name in ("C0", "C1")]
    known = [[3] * 3, [1] * 3, [0.25] * 3, reached, reached + lost, lost, np.reshape(at_random, (3, 2)).mean(axis=1)]
    caption = (
        "The searches of Figure 4, mean over their groups; what they skipped was trained afterwards. Lost at random: "
        "what the area loses when as many are left out of those that the order decides about."
    )
    row = ["The search's own", *map(over_seeds, known)]
    assert_drawn(drawn("skipped", numbers), PRUNED_COLUMNS, [row], caption)
    assert numbers[0]["runs"] == [f"scenes/stage-two-c{group}{kind}" for group in (0, 1) for kind in ("", "-skipped")]


def test_the_length_of_training():
    numbers, rows, curves = measured("plateau"), [], {}
    for name in ("FPN R50", "E3"):
        before, bands = None, []
        for factor in NANO.plateau:
            epochs = round(factor * NANO.final_training.optimisation.epochs)
            run = f"plateau-{name.lower().replace(' ', '-')}-x{factor:g}"
            ap = over_seeds([(epochs + len(run)) / 10 + 2 * seed for seed in SEEDS])
            seconds = 5.0 + np.mean(SEEDS)
            rows.append([name, float(factor), epochs, seconds, ap, None if before is None else ap.mean - before])
            bands.append([epochs, *triple(ap)])
            before = ap.mean
            assert f"scenes/{run}" in numbers[0]["runs"]
        curves[name] = np.array(bands).T
    columns = {"Model": "", "Of the final schedule": "times", "Samples": "", "CPU time": "s", "AP": "points"}
    columns |= {"More than before": "AP points"}
    caption = "AP on validation images against the length of training, on a seed that nothing is judged by."
    data = {"curves": curves, "x_label": "Samples", "y_label": "AP (points)"}
    assert_drawn(drawn("plateau", numbers), columns, rows, caption, pictures={"plateau": ("progress", data)})
    assert (PAPER.by_name["plateau"].pilot, numbers[0]["evidence"]) == (1, {})


# ---- claims

CLAIMS = {claim.id: claim for claim in PAPER.claims}
# Of each claim, its conditions: evidence, its mean where the claim holds, direction, threshold, and what breaks it.
RULES: dict[str, list[tuple]] = {
    "SM-1": [
        ("cascade AP", 0.2, "above", -1.0, -2.0),
        ("cascade cost", 0.5, "below", 1.0, 1.1),
        ("FPN AP", 1.5, "above", 0.0, -0.1),
        ("RetinaNet cost", 1.07, "above", 1.0, 0.9),
        ("RetinaNet cost, 20 classes", 0.9, "below", 1.0, 1.1),
    ],
    "SM-3": [("hypervolume ratio", 1.2, "above", 1.0, 0.9), ("dominated", 0.9, "above", 0.5, 0.4)],
    "SM-4": [
        ("mobilenet FLOPs", 0.5, "below", 1.0, 1.1),
        ("mobilenet time", 1.2, "above", 1.0, 0.9),
        ("mobilenet behind", 2.0, "above", 0.0, -0.1),
    ],
    "SM-5": [("pushed", 1.0, "above", 0.0, -0.1), ("pushed further", 1.0, "above", 0.0, -0.1)],
    "SM-7": [("transfer:E1", 3.3, "above", 0.0, -0.1), ("transfer:E3", 4.0, "above", 0.0, -0.1)],
    "SM-9": [
        ("skipped share", 0.2, "above", 0.05, 0.01),
        ("order lost", 0.0, "below", 0.05, 0.2),
        ("random lost more", 0.2, "above", 0.0, -0.1),
    ],
    "SM-10": [
        ("E2 cost", 0.4, "below", 0.55, 0.7),
        ("E2 AP", 0.6, "above", 0.0, -0.1),
        ("E5 cost", 1.0, "below", 1.1, 1.2),
        ("E5 AP", 6.5, "above", 0.0, -0.1),
    ],
}
LEVELS = dict.fromkeys(
    ("weakest", "ResNet18 AP", "ranked AP", "least AP", "classics AP", "architectures AP", "transfer:FPN"), 25.0
)
NOISE = np.array([-0.02, -0.005, 0.01, 0.015, 0.004, -0.004])  # of mean 0, and far smaller than the differences
HELD = {name: mean + NOISE for rules in RULES.values() for name, mean, *_ in rules}
HELD |= {name: level + NOISE for name, level in LEVELS.items()}
TABLE_3 = np.array([36.5, 37.4, 24.8, 28.3, 29.4, 30.7, 36.4, 37.5])


def judged(claim: str, values: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return judge(CLAIMS[claim], Evidence("scenes", "nano", range(6), "command", values), "sm_nas")


def test_exhibits_and_claims_are_the_papers():
    of_the_paper = printed(PAPER.folder)["exhibits"]
    assert list(PAPER.by_name) == [name for name in of_the_paper if name != "figure2"]  # a drawing of the method
    assert list(CLAIMS) == [f"SM-{number}" for number in range(1, 11)]
    assert all(claim.seeds == 6 for claim in CLAIMS.values())
    conditions = [each for claim in PAPER.claims for each in claim.conditions]
    values = [each.printed for each in conditions if each.printed is not None]
    assert values == [0.2, 1.5, 4.6, 1.3, 5.7, 1.0, 11.7, 0.6, 6.5]
    effects = {"AP points": {1.0, 0.02}, "times": {0.5, 0.1}, "of all": {0.1, 0.02}, "tau": {0.2}}
    for unit, some in effects.items():
        assert {each.effect for each in conditions if each.unit == unit} == some
    assert {each.unit for each in conditions} == effects.keys()
    assert all(claim.before for name, claim in CLAIMS.items() if name not in ("SM-7", "SM-10"))


@pytest.mark.parametrize("claim", RULES)
def test_a_claim_holds_by_its_conditions_and_each_alone_breaks_it(claim):
    held = judged(claim, HELD)
    assert held["verdict"] == "reproduced"
    found = [(each["difference"], each["direction"], each["threshold"]) for each in held["conditions"]]
    assert found == [(pytest.approx(mean), *rule) for _, mean, *rule, _ in RULES[claim]]
    for place, (name, *_, broken) in enumerate(RULES[claim]):
        failed = judged(claim, HELD | {name: broken + NOISE})
        assert failed["verdict"] == failed["conditions"][place]["verdict"] == "not reproduced"
        assert judged(claim, {key: HELD[key] for key in HELD if key != name})["reason"] == f"not measured: {name}"
    if CLAIMS[claim].level is not None:
        poor = judged(claim, HELD | dict.fromkeys(LEVELS, 5 + NOISE))
        assert poor["verdict"] == "not testable at this scale"


def test_the_ladder_of_table_3():
    rows = TABLE_3 + np.outer(NOISE, np.arange(1, 9))
    held = judged("SM-2", {"strategies": rows})
    assert held["verdict"] == "reproduced"
    steps = [29.4 - 24.8, 30.7 - 29.4, 36.4 - 30.7, 37.5 - 36.5, 36.5 - 24.8]
    assert [each["difference"] for each in held["conditions"]] == pytest.approx(steps)
    assert CLAIMS["SM-2"].rule.split("; and ") == [
        "AP of row 4 minus row 2's (GN, BN, from scratch) above 0",
        "AP of row 5 minus row 4's (GN+WS, GN) above 0",
        "AP of row 6 minus row 5's (GN+WS at the large rate, at the usual one) above 0",
        "AP of row 7 minus row 0's (GN+WS at the large rate and batch, BN pre-trained) above -1",
        "AP of row 0 minus row 2's (BN pre-trained, from scratch) above 1",
    ]
    assert (CLAIMS["SM-2"].level({"strategies": rows}) == rows[:, 6]).all()
    for place, row in enumerate((4, 5, 6, 7, 0)):
        failed = judged("SM-2", {"strategies": np.where(np.arange(8) == row, 20.0, rows)})
        assert failed["conditions"][place]["verdict"] == "not reproduced"


Statistic = Callable[[Sequence[tuple]], float]


def inside(column: int, beyond_cost: bool) -> Statistic:
    """The tau of a column of the items of Figure 5 with AP, in each group of each seed by itself."""

    def statistic(items: Sequence[tuple]) -> float:
        group, cost, accuracy, *factors, seed = np.array(items).T
        together = [f"{one} of {other}" for one, other in zip(group, seed, strict=True)]
        if beyond_cost:
            return partial_tau(factors[column], accuracy, cost, together)
        return kendall_tau(factors[column], accuracy, together)

    return statistic


def test_items_are_pooled_over_seeds_each_ranked_among_its_own():
    """Some fail, and a front may have fewer structures than there are groups: seeds of unequally many candidates."""
    generator = np.random.default_rng(2)
    rows = generator.random((3, 24, 6))
    rows[:, :, 0] = np.arange(24) % 2
    rows[:, :, 2] += 3 * rows[:, :, 0] + 5 * np.arange(3)[:, None]  # groups and seeds differ by far more
    rows[0, 15:] = NOBODY
    named, unequal = rows[:, :10, 1:4], [rows[0, :15], *rows[1:]]
    in_seed: list[Statistic] = [
        lambda items: kendall_tau(*np.array(items)[:, [0, 1, 3]].T),
        lambda items: partial_tau(*np.array(items).T),
    ]
    in_group = [inside(0, False), inside(1, True), inside(2, True)]
    for claim, name, values, seeds, statistics, alike in (
        ("SM-8", "ranked", named, named, in_seed, True),
        ("SM-6", "architectures", rows, unequal, in_group, False),
    ):
        assert CLAIMS[claim].level({f"{name} AP": "level"}) == "level"
        items = [[(*item, seed) for item in each.tolist()] for seed, each in enumerate(seeds)]
        for condition, statistic in zip(CLAIMS[claim].conditions, statistics, strict=True):
            found = condition.value(Evidence("scenes", "nano", range(3), "command", {name: values}))
            assert found == bootstrap_interval(statistic, items, DRAWS, alike), condition.quantity
    rules = {
        "SM-8": [("above", 0.4, "tau", 0.2, ""), ("above", 0.0, "tau", 0.2, "a random order: 0")],
        "SM-6": [(direction, 0.0, "tau", 0.2, "a random order: 0") for direction in ("above", "below", "above")],
    }
    for claim, expected in rules.items():
        conditions = CLAIMS[claim].conditions
        assert [(each.direction, each.threshold, each.unit, each.effect, each.null) for each in conditions] == expected


# ---- the measures themselves


def test_hypervolumes_are_the_mean_best_ap_over_budgets():
    some = [{"cost": float(cost), "AP": float(ap)} for cost, ap in np.random.default_rng(0).random((12, 2))]
    grown, budgets = hypervolumes(some, 1.2), (np.arange(100_000) + 0.5) / 100_000 * 1.2
    best = np.zeros(len(budgets))
    for point, area in zip(some, grown, strict=True):
        best = np.where(budgets >= point["cost"], np.maximum(best, point["AP"]), best)
        assert area == pytest.approx(best.mean(), abs=1e-4)
    assert all(later >= earlier for earlier, later in pairwise(grown))
    failed = [*some[:4], {"cost": math.nan, "AP": math.nan}, *some[4:]]
    assert hypervolumes(failed, 1.2)[4:] == grown[3:], "a failed candidate adds nothing"


def detectors(*pairs: tuple[float, float]) -> list[dict[str, float]]:
    """From AP and cost at the paper's size."""
    return [{"AP": accuracy, "there": cost} for accuracy, cost in pairs]


def test_dominated_share_and_hypervolume_ratio():
    us = detectors((10.0, 5.0), (20.0, 9.0))
    dominated = detectors((9.0, 5.0), (10.0, 5.5), (20.0, 9.5), (1.0, 99.0))
    # The same; between both, cheaper than the one and better than the other; better; cheaper.
    others = detectors((10.0, 5.0), (15.0, 8.0), (20.5, 9.5), (9.0, 4.5))
    assert [dominated_share(us, [each]) for each in (*dominated, *others)] == [1] * 4 + [0] * 4
    us, dearest = detectors((10.0, 2.0), (20.0, 6.0)), 8.0 * 1.0001
    expected = (10.0 * 2 + 20.0 * (dearest - 6)) / (30.0 * (dearest - 4))  # from the cheapest classic's cost on
    assert hypervolume_ratio(us, detectors((30.0, 4.0), (30.0, 8.0))) == pytest.approx(expected)
    alike = detectors((10.0, 2.0), (10.0, 6.0)), detectors((10.0, 4.0), (10.0, 8.0))
    assert hypervolume_ratio(*alike) == pytest.approx(1.0)
    assert math.isnan(hypervolume_ratio(us, detectors((0.0, 8.0))))
