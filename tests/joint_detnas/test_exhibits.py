"""What every exhibit measures, draws and claims, of runs whose numbers are made up by a rule: whole tables, curves and
evidence against plain formulas over the same rule. Nothing is trained.
"""

import math
import statistics
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.plain import to_json
from common.report.claims import Evidence, judge
from common.report.exhibit import ExhibitResult, Setting, printed, triple
from common.report.reproduce import draw, measure_exhibit, stacked_evidence
from common.report.statistics import Difference, mean_interval
from joint_detnas.exhibits import (
    CHOICES,
    COCO_NUMBERS,
    EXHIBITS,
    PAPER,
    STEPS,
    detector,
    pruning_evidence,
    share_until,
    under_a_weaker_teacher,
    without_effect,
)
from joint_detnas.presets import BACKBONES, KINDS, PRESETS, Preset, other_choices
from tests.drawn import check_drawn

PILOTS = ["choices", "penalty", "pairs", "plateau"]
NAMES = [*(f"table{number}" for number in range(1, 8)), *(f"figure{number}" for number in range(4, 8))]
SMOKE = PRESETS["smoke"]
SIZES, SEEDS = ("32x32", "64x64"), range(3)
TEACHERS = [name for name, _ in SMOKE.grid_teachers]


def test_exhibits_are_the_papers_and_the_pilots():
    drawings = {"figure1", "figure2", "figure3"}  # of the method: nothing is measured
    assert sorted(PAPER.by_name) == sorted([*NAMES, *PILOTS])
    assert [exhibit.name for exhibit in EXHIBITS if exhibit.pilot] == PILOTS
    assert {*NAMES, *PILOTS} == set(printed(PAPER.folder)["exhibits"]) - drawings
    assert len({detector(name) for name in BACKBONES}) == len(BACKBONES)


# ---- made-up runs


def number(*key: Any) -> float:
    """A number above 0 and below 1 of its own for each key."""
    return (zlib.crc32(repr(key).encode()) % 9973 + 1) / 9975


def result(seed: int, run: str) -> dict[str, Any]:
    """As the study reports on a detector; every number is `number(seed, run, its name)`."""
    names = [*COCO_NUMBERS, "macs", "macs_mmdet", "params", "backbone_macs_mmdet", "backbone_macs_at_base_size"]
    names += ["latency", "seconds", "cpu_seconds", "samples"]
    found = {name: number(seed, run, name) for name in names}
    return found | {"size": [64, 64], "AP_at": {size: number(seed, run, size) for size in SIZES}, "depth": 3}


def search(seed: int, run: str, kinds: Sequence[str] = ("base", *STEPS, "channel pruning")) -> dict[str, Any]:
    """Each pair on the one before it; one failed."""
    steps, before = [], 0.0
    for pair, kind in enumerate(kinds):
        score = None if pair == 4 else number(seed, run, "score", pair)
        rise = None if score is None or pair == 0 else score - before
        before = before if score is None else score
        place = {"pair": pair, "kind": kind, "depth": pair, "generation": (pair + 1) // 2}
        steps.append(place | {"score": score, "increment": rise})
    upgraded = result(seed, run)
    stages = {when: [100 * number(seed, run, when, stage) for stage in range(4)] for when in ("before", "after")}
    return {"steps": steps, "upgraded": upgraded, "slim": result(seed, f"{run}-slim"), "stages": stages} | {
        "score": max(step["score"] or 0.0 for step in steps)
    }


class MadeUpStudy:
    """A study whose runs have made-up results. What was asked for is noted, as a study does."""

    def __init__(self, seed: int, backbone: str = SMOKE.backbone, recorders: list | None = None) -> None:
        self.preset, self.seed, self.backbone = SMOKE, seed, backbone
        self.recorders = [] if recorders is None else recorders

    def upgrading(self, backbone: str) -> "MadeUpStudy":
        return MadeUpStudy(self.seed, backbone, self.recorders)

    @contextmanager
    def recording(self) -> Iterator[dict[str, None]]:
        used = {}
        self.recorders.append(used)
        yield used
        self.recorders.remove(used)

    def named(self, *parts: Any) -> str:
        name = "-".join(map(str, parts))
        for recorder in self.recorders:
            recorder[name] = None
        return name

    def __getattr__(self, kind: str):
        """The study's method of that name: the run is called after it, the backbone and its arguments."""
        shared = kind in ("pool", "alone", "sampled")
        return lambda *rest: result(self.seed, self.named(kind, *([] if shared else [self.backbone]), *rest))

    def search(self, control: str = "none") -> dict[str, Any]:
        return search(self.seed, self.named("search", self.backbone, control))

    def upgraded(self, control: str = "none") -> dict[str, Any]:
        found = self.search(control)
        return found["upgraded"] | {"score": found["score"]}

    def pipeline(self, name: str, choice: str = "none") -> dict[str, Any]:
        run = self.named("pipeline", self.backbone, *([name] if choice == "none" else [name, choice]))
        return result(self.seed, run) | {"before": result(self.seed, f"{run}-before")}

    def latencies(self) -> dict[str, Any]:
        run = self.named("latencies", self.backbone)
        rounds = {name: [number(self.seed, run, name, at) for at in range(3)] for name in ("base", "upgraded")}
        return {name: {"latency": float(np.median(each)), "rounds": each} for name, each in rounds.items()}

    def grid(self) -> dict[str, Any]:
        run = self.named("grid", self.backbone)
        teachers = {name: {key: number(self.seed, run, name, key) for key in ("AP", "params")} for name in TEACHERS}
        students = {
            percentage: {
                "params": number(self.seed, run, percentage),
                "gains": {name: number(self.seed, run, percentage, name) for name in TEACHERS},
            }
            for percentage in ("0", "30")
        }
        return {"teachers": teachers, "students": students}

    def preparation(self) -> dict[str, float]:
        return {part: number(self.seed, self.named("preparation", self.backbone), part) for part in ("base", "pool")}

    def pair_trials(self) -> dict[str, Any]:
        run, orders = self.named("pair-trials", self.backbone), range(SMOKE.pair_orders)
        after = [
            {how: [number(self.seed, run, at, how, order) for order in orders] for how in ("alone", "taught")}
            | {"cpu_seconds": number(self.seed, run, at)}
            for at in range(len(SMOKE.pair_trainings))
        ]
        return {"before": number(self.seed, run), "after": after, "cost": 0.9}

    def plateau(self, name: str) -> dict[str, Any]:
        run = self.named("plateau", name)
        return {"samples": [100, 200, 400], "AP": [number(self.seed, run, at) for at in range(3)]}


def measured(name: str, seed: int) -> dict[str, Any]:
    return measure_exhibit(PAPER.by_name[name], MadeUpStudy(seed))


def drawn(name: str, preset: Preset = SMOKE) -> ExhibitResult:
    every = {seed: measured(name, seed) for seed in SEEDS}
    result = draw(PAPER, PAPER.by_name[name], every, Setting("scenes", "smoke", to_json(preset)), "command")
    check_drawn(Path(__file__).parent, name, result)
    return result


def mean(formula: Callable[[int], Any]) -> Difference:
    """Over the seeds."""
    return mean_interval([formula(seed) for seed in SEEDS])


def same(one: Any, other: Any) -> bool:
    """Equal but for rounding; NaN equals NaN and, as in JSON, null."""
    if isinstance(one, Difference) and isinstance(other, Difference):
        return same([*triple(one), one.n], [*triple(other), other.n])
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, bool | str) or isinstance(other, bool | str):
        return one == other
    if one is None or other is None:
        return all(each is None or (not isinstance(each, Difference) and math.isnan(each)) for each in (one, other))
    return one == pytest.approx(other, rel=1e-9, nan_ok=True)


# ---- the tables, cell by cell, by the rule


def ap(seed: int, run: str, key: str = "AP") -> float:
    return 100 * number(seed, run, key)


def of(run: str, key: str = "AP", scale: float = 100.0, minus: str | None = None) -> Difference:
    """Mean over the seeds of a number of a run, less that of another one."""
    return mean(lambda seed: scale * (number(seed, run, key) - (number(seed, minus, key) if minus else 0)))


def change(key: str, run: str, before: str) -> Difference:
    return mean(lambda seed: 100 * (number(seed, run, key) / number(seed, before, key) - 1))


def speed(name: str, backbone: str) -> Callable[[int], float]:
    """Images a second of the base or the upgraded detector, from the median of its rounds."""
    return lambda seed: 1000 / MadeUpStudy(seed, backbone).latencies()[name]["latency"]


BOTH, PRUNED = SMOKE.upgraded_backbones, ("baseline", "0", "10", "30")
M, MIB = 1e-6, 1 / 60


def pruned_run(backbone: str, kind: str) -> str:
    return f"base-{backbone}" if kind == "baseline" else f"pruned-{backbone}-{kind}"


def score_after(seed: int, run: str, pairs: int) -> float:
    return max(100 * (step["score"] or 0) for step in search(seed, run)["steps"][: pairs + 1])


def table4_rows() -> Iterator[list[Any]]:
    for backbone in BOTH:
        base, name = f"base-{backbone}", detector(backbone)
        control, ours = f"trained_on-{backbone}-3", f"search-{backbone}-none"
        before, after = speed("base", backbone), speed("upgraded", backbone)
        yield [name, "baseline", of(base, "macs_mmdet", M), None, mean(before), None, of(base), None, None, "64x64"]
        same_speed, flops = mean(lambda seed: 0.0), change("macs_mmdet", control, base)
        cost = [of(control, "macs_mmdet", M), flops, mean(before), same_speed]
        yield [name, "trained on alone", *cost, of(control), of(control, minus=base), None, "64x64"]
        faster = mean(lambda seed, one=after, other=before: 100 * (one(seed) / other(seed) - 1))
        cost = [of(ours, "macs_mmdet", M), change("macs_mmdet", ours, base), mean(after), faster]
        yield [name, "ours", *cost, of(ours), of(ours, minus=base), of(ours, minus=control), "64x64"]


def table5_rows() -> Iterator[list[Any]]:
    flops, slim = "backbone_macs_at_base_size", "search-resnet18-none-slim"
    for kind, name in (("prune-kd", "R18-prune-KD"), ("nas-prune-kd", "NAS-prune-KD")):
        run = f"pipeline-resnet18-{kind}"
        before = f"{run}-before"
        pruned = [of(before, flops, M), of(before), of(run, flops, M), change(flops, run, before)]
        yield [name, *pruned, of(run), of(run, minus=before), of(slim, minus=run)]
    yield ["Joint-DetNAS (R18)", None, None, of(slim, flops, M), None, of(slim), None, None]


def figure5_rows() -> Iterator[list[Any]]:
    for backbone in SMOKE.pruned_backbones:
        for percentage in ("0", "30"):
            run, label = f"grid-{backbone}", detector(backbone) + (", 30 % pruned" if percentage == "30" else "")
            size = mean(lambda seed, run=run, percentage=percentage: number(seed, run, percentage) / 1e6)
            gains = [
                mean(lambda seed, run=run, each=each, percentage=percentage: 100 * number(seed, run, percentage, each))
                for each in TEACHERS
            ]
            yield [label, size, *gains]
    last = f"grid-{SMOKE.pruned_backbones[-1]}"
    yield [
        "AP of the teacher",
        None,
        *(mean(lambda s, each=each: 100 * number(s, last, each, "AP")) for each in TEACHERS),
    ]


def figure6_rows() -> Iterator[list[Any]]:
    every = {
        seed: [step for each in BOTH for step in search(seed, f"search-{each}-none")["steps"][1:]] for seed in SEEDS
    }
    trained = {seed: [step for step in steps if step["score"] is not None] for seed, steps in every.items()}
    for kind in STEPS:
        mine = [step for steps in trained.values() for step in steps if step["kind"] == kind]
        good = [step["pair"] for step in mine if step["increment"] > 0]
        raised = mean(
            lambda seed, kind=kind: sum(max(0, 100 * s["increment"]) for s in trained[seed] if s["kind"] == kind)
        )
        share = len(good) / len(mine) if mine else math.nan
        yield [kind, len(mine), share, raised, sum(good) / len(good) if good else math.nan]


def prepared(seed: int) -> float:
    return sum(MadeUpStudy(seed).preparation().values())


def table7_rows() -> Iterator[list[Any]]:
    for control, name in (("random", "random search"), ("none", "Joint-DetNAS")):
        run = f"search-resnet18-{control}"
        whole = mean(lambda seed, run=run: (prepared(seed) + number(seed, run, "seconds")) * MIB)
        best = mean(lambda seed, run=run: score_after(seed, run, 6))
        costs = [whole, mean(lambda seed: prepared(seed) * MIB), of(run, "seconds", MIB)]
        yield [name, of(run, "macs_mmdet", M), of(run), best, 6, *costs]


def choices_rows() -> Iterator[list[Any]]:
    chosen = "search-resnet18-none"
    for name in ("none", *other_choices(SMOKE)):
        run = f"search-resnet18-{name}"
        best = lambda seed, run=run: score_after(seed, run, 6)  # noqa: E731
        apart = [mean(lambda s, best=best: best(s) - score_after(s, chosen, 6)), of(run, minus=chosen)]
        gain = mean(
            lambda seed, run=run: np.mean(
                [100 * step["increment"] for step in search(seed, run)["steps"][1:] if step["score"] is not None]
            )
        )
        first, second = [None, None] if name == "none" else apart
        numbers = [mean(best), first, of(run), second, of(run, "macs_mmdet", M), gain, of(run, "seconds", MIB)]
        yield [CHOICES[name], *numbers]


def penalty_rows() -> Iterator[list[Any]]:
    for name, label in (("prune-kd", "prune-KD"), ("nas-prune-kd", "NAS-prune-KD")):
        chosen = f"pipeline-resnet18-{name}"
        yield [label, "as chosen", of(f"{chosen}-before"), of(chosen), None]
        others = {"penalised-pairs": "in the first pairs", "no-penalty": "never"}
        for choice, when in list(others.items())[name != "prune-kd" :]:
            run = f"{chosen}-{choice}"
            yield [label, when, of(f"{run}-before"), of(run), of(run, minus=chosen)]


def pairs_rows() -> Iterator[list[Any]]:
    run, orders = "pair-trials-resnet18", range(SMOKE.pair_orders)
    level = np.mean([100 * number(seed, run) for seed in SEEDS])
    for at, (epochs, rate) in enumerate([(1, "cosine, 0.001"), (1, "constant, 0.0003")]):
        tried = {
            how: [[100 * number(seed, run, at, how, order) for order in orders] for seed in SEEDS]
            for how in ("alone", "taught")
        }
        changes = [
            mean(lambda seed, of=values: np.mean(of[seed]) - 100 * number(seed, run)) for values in tried.values()
        ]
        spread = math.sqrt(np.mean([statistics.variance(each) for values in tried.values() for each in values]))
        alpha = math.log(1 + 2 * spread / level) / math.log(1 / 0.9)
        assert level * 0.9**-alpha == pytest.approx(level + 2 * spread), "what H makes of one pruning"
        yield [epochs, rate, mean(lambda seed, at=at: number(seed, run, at)), *changes, spread, alpha]


def expected_rows(name: str) -> list[list[Any]]:
    """The whole table of an exhibit, from the rule."""
    if name == "table1":
        return [
            [f"{each}-FPN", size, *(of(run, size) for run in runs), *(of(runs[0], size, minus=run) for run in runs[1:])]
            for each, _ in SMOKE.equivalents
            for size in SIZES
            for runs in [(f"sampled-{each}", f"alone-{each}-epochs", f"alone-{each}-seconds")]
        ]
    if name == "table2":
        rows = []
        for backbone in SMOKE.pruned_backbones:
            for kind, text in zip(PRUNED, ("baseline", "0 %", "10 %", "30 %"), strict=True):
                run, other = pruned_run(backbone, kind), pruned_run(backbone, "0")
                behind = None if kind == "baseline" else of(run, minus=other)
                rows.append([detector(backbone), text, of(run, "backbone_macs_mmdet", M), of(run), behind])
        return rows
    if name == "table3":
        alone, teacher = ("base-resnet18", "longer-resnet18-R26"), of("sampled-R26")
        runs = {"FGFI": "distilled-resnet18-R26-imitation", "our KD": "distilled-resnet18-R26-ours"}
        return [
            [method, "R18", "R26", *map(of, alone), teacher, of(run), *(of(run, minus=each) for each in alone)]
            for method, run in runs.items()
        ]
    if name == "figure4":
        runs = {"Dynamic KD": "fixed-student", "Conventional KD": "fixed-pair", "No teacher": "untaught"}
        return [
            [label, pairs, mean(lambda s, each=each, pairs=pairs: score_after(s, f"search-resnet18-{each}", pairs))]
            for label, each in runs.items()
            for pairs in range(7)
        ]
    if name == "table6":
        rows = []
        for backbone in BOTH:
            kinds = {"baseline": ("FPN", "base", None), "ours": ("Joint-DetNAS ({})", "search", 0)}
            if backbone in SMOKE.cascaded_backbones:
                kinds["cascade"] = ("Joint-DetNAS ({}-Cascade)", "cascade", 1)
            short = detector(backbone).removesuffix("-FPN")
            for kind, (method, run, epochs) in kinds.items():
                run = f"search-{backbone}-none" if run == "search" else f"{run}-{backbone}"
                rate = mean(
                    {"baseline": speed("base", backbone), "ours": speed("upgraded", backbone)}.get(
                        kind, lambda seed, run=run: 1000 / number(seed, run, "latency")
                    )
                )
                searched = short + {"baseline": "", "ours": "-searched", "cascade": "-searched-DCN"}[kind]
                rows.append(
                    [method.format(short), searched, "64x64", epochs, rate, *(of(run, key) for key in COCO_NUMBERS)]
                )
        return rows
    if name == "figure7":
        return [
            [detector(backbone), when]
            + [
                mean(lambda s, b=backbone, w=when, n=n: search(s, f"search-{b}-none")["stages"][w][n] * M)
                for n in range(4)
            ]
            for backbone in BOTH
            for when in ("before", "after")
        ]
    if name == "plateau":
        rows, labels = [], {"resnet18": "R18", "mobilenet_v2": "MobileNetV2", "largest": "largest teacher"}
        for each, label in labels.items():
            points = [[number(seed, f"plateau-{each}", at) for seed in SEEDS] for at in range(3)]
            rises = [None, *(mean_interval(np.subtract(points[at], points[at - 1])) for at in (1, 2))]
            rows += [[label, 100 * 2**at, mean_interval(points[at]), rises[at]] for at in range(3)]
        return rows
    return list(globals()[f"{name}_rows"]())


@pytest.mark.parametrize("name", [*NAMES, *PILOTS])
def test_every_cell_is_what_the_rule_gives(name):
    found, expected = drawn(name), expected_rows(name)
    assert len(found.table.columns) == len(expected[0])
    for ours, theirs in zip(found.table.rows, expected, strict=True):
        assert same(list(ours), theirs), (ours, theirs)
    assert set(found.units) <= set(found.table.columns)
    for picture in found.pictures:
        assert picture.name.startswith(name)
    curves = {label: each for picture in found.pictures for label, each in picture.data.get("curves", {}).items()}
    for label, columns in curves.items():
        assert all(len(column) == len(columns[0]) for column in columns), label


def test_curves_and_bars_are_those_of_the_tables():
    tables = {name: drawn(name) for name in ("figure4", "table2", "figure7")}
    for label, (x, means, *_) in tables["figure4"].pictures[0].data["curves"].items():
        rows = [row for row in tables["figure4"].table.rows if row[0] == label]
        assert [[row[1], row[2].mean] for row in rows] == [list(each) for each in zip(x, means, strict=True)]
    bars = tables["table2"].pictures[0].data["groups"]
    assert {name: [each[0] for each in group.values()] for name, group in bars.items()} == {
        name: [row[3].mean for row in tables["table2"].table.rows if row[0] == name] for name in bars
    }
    stages = tables["figure7"].pictures[0].data["groups"]
    assert [[each[0] for each in group.values()] for group in stages.values()] == [
        [cell.mean for cell in row[2:]] for row in tables["figure7"].table.rows
    ]


@pytest.mark.parametrize(
    ("base", "text"),
    [(True, "from the start. After NAS, 50 % of a pipeline's"), (False, "included; 50 % of a pipeline's")],
)
def test_notes_say_when_the_penalty_trains(base, text):
    for name in ("table5", "penalty"):
        found = drawn(name, replace(SMOKE, penalised_base=base, penalised_share=0.5))
        assert any(f"{text} pairs, rounded down, come before" in note for note in found.notes), found.notes


def test_the_pilot_of_the_penalty_tries_what_is_not_chosen():
    exhibit, study = PAPER.by_name["penalty"], MadeUpStudy(0)
    study.preset = replace(SMOKE, penalised_base=False)
    setting = Setting("scenes", "smoke", to_json(study.preset))
    found = draw(PAPER, exhibit, {0: measure_exhibit(exhibit, study)}, setting, "command")
    assert [row[:2] for row in found.table.rows] == [
        ("prune-KD", "as chosen"),
        ("prune-KD", "from the start"),
        ("prune-KD", "never"),
        ("NAS-prune-KD", "as chosen"),
        ("NAS-prune-KD", "never"),
    ]


@pytest.mark.parametrize("name", ["table5", "penalty"])
def test_every_seed_in_which_no_pair_came_to_the_cost_is_counted(monkeypatch, name):
    monkeypatch.setattr(MadeUpStudy, "pipeline", lambda self, name, choice="none": None)
    searching = MadeUpStudy.search
    monkeypatch.setattr(MadeUpStudy, "search", lambda self, *control: searching(self, *control) | {"slim": None})
    found = drawn(name)
    assert not found.table.rows
    assert "In 3 of 3 seeds no pair of the search came to the cost." in found.notes
    assert not measured(name, 0).get("evidence")


# ---- evidence


def pruning(seed: int) -> dict[str, float]:
    steps = [step for each in BOTH for step in search(seed, f"search-{each}-none")["steps"][1:]]
    steps = [step for step in steps if step["score"] is not None and step["kind"] in KINDS]
    good = [step for step in steps if step["increment"] > 0]
    mine, rest = ([s for s in good if (s["kind"] == "channel pruning") == own] for own in (True, False))
    place = 0.0
    if mine and rest:
        place = (np.mean([s["pair"] for s in mine]) - np.mean([s["pair"] for s in rest])) / SMOKE.search.budget
    total = sum(step["increment"] for step in good)
    return {
        "pruning's share": sum(step["increment"] for step in mine) / total if good else 0.0,
        "pruning's share by number": sum(s["kind"] == "channel pruning" for s in steps) / len(steps),
        "pruning's place": place,
    }


def slope(seed: int) -> float:
    points = []
    for backbone in SMOKE.pruned_backbones:
        for percentage in ("0", "30"):
            run, last = f"grid-{backbone}", f"grid-{SMOKE.pruned_backbones[-1]}"
            order = sorted(TEACHERS, key=lambda each: -number(seed, run, percentage, each))
            sizes = [math.log(number(seed, last, each, "params") / 1e6) for each in order[:2]]
            points.append((math.log(number(seed, run, percentage) / 1e6), sum(sizes) / 2))
    x, y = np.array(points).T
    return float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())


def lost(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each stage its loss, and that of a uniform cut: shares of all, mean over the backbones."""
    shares, uniform = [], []
    for backbone in BOTH:
        before, after = (np.array(search(seed, f"search-{backbone}-none")["stages"][w]) for w in ("before", "after"))
        shares.append((before - after) / before.sum())
        uniform.append(before / before.sum() * (before.sum() - after.sum()) / before.sum())
    return np.mean(shares, axis=0), np.mean(uniform, axis=0)


def test_evidence_is_what_the_rule_gives():
    found = {key: value for name in NAMES for key, value in measured(name, 1)["evidence"].items()}
    ahead = [
        score_after(1, "search-resnet18-fixed-student", n) - score_after(1, "search-resnet18-fixed-pair", n)
        for n in range(7)
    ]
    last = {
        name: score_after(1, f"search-resnet18-{name}", 6) for name in ("none", "random", "fixed-student", "untaught")
    }
    runs = [[f"base-{each}", f"trained_on-{each}-3", f"search-{each}-none"] for each in BOTH]
    expected = {
        **{
            f"pool minus alone, {long}": [
                np.mean([ap(1, f"sampled-{each}", size) - ap(1, f"alone-{each}-{long}", size) for size in SIZES])
                for each, _ in SMOKE.equivalents
            ]
            for long in ("epochs", "seconds")
        },
        "level of table1": [ap(1, f"alone-{each}-epochs") for each, _ in SMOKE.equivalents],
        "pruned": [[ap(1, pruned_run(backbone, kind)) for kind in PRUNED] for backbone in SMOKE.pruned_backbones],
        "distilled": [
            [
                *(ap(1, each) for each in ("base-resnet18", "distilled-resnet18-R26-imitation")),
                *(ap(1, each) for each in ("distilled-resnet18-R26-ours", "longer-resnet18-R26")),
            ]
        ],
        "dynamic on the way": np.mean(ahead[1:]),
        "dynamic ends": ahead[-1],
        "dynamic ends above untaught": last["fixed-student"] - last["untaught"],
        **dict.fromkeys((f"level of {name}" for name in ("figure4", "table5", "table7")), ap(1, "base-resnet18")),
        "gain": [ap(1, ours) - ap(1, control) for _, control, ours in runs],
        "cost": [number(1, ours, "macs_mmdet") / number(1, base, "macs_mmdet") for base, _, ours in runs],
        "time": [
            np.median(np.divide(*(MadeUpStudy(1, each).latencies()[name]["rounds"] for name in ("upgraded", "base"))))
            for each in BOTH
        ],
        **{f"level of {name}": [ap(1, base) for base, *_ in runs] for name in ("table4", "figure6", "figure7")},
        **{
            f"joint minus {k}": ap(1, "search-resnet18-none-slim") - ap(1, f"pipeline-resnet18-{k}")
            for k in ("prune-kd", "nas-prune-kd")
        },
        "slope": slope(1),
        "gains": [
            [100 * number(1, f"grid-{backbone}", percentage, each) for each in TEACHERS]
            for backbone in SMOKE.pruned_backbones
            for percentage in ("0", "30")
        ],
        "level of figure5": [ap(1, f"base-{each}") for each in SMOKE.pruned_backbones],
        **pruning(1),
        "share of the budget": share_until(
            [score_after(1, "search-resnet18-none", n) for n in range(7)], last["random"]
        ),
        **dict(
            zip(
                ("share without effect", "search minus random without effect"),
                without_effect(search(1, "search-resnet18-none"), search(1, "search-resnet18-random"), 1),
                strict=True,
            )
        ),
        "search minus random": last["none"] - last["random"],
        "stages": lost(1)[0].tolist(),
        "stages above a uniform cut": (lost(1)[0] - lost(1)[1]).tolist(),
    }
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert same(found[key], to_json(value)), key


def test_every_side_of_a_comparison_has_its_budget():
    sides = {name: measured(name, 0).get("budget", {}) for name in NAMES}
    assert {name: list(each) for name, each in sides.items() if each} == {
        "table1": [
            "pool",
            *(f"{each} alone, as many {long}" for each in ("R14", "R26") for long in ("epochs", "seconds")),
        ],
        "table2": ["not pruned", "pruned by 10 %", "pruned by 30 %"],
        "table3": ["baseline", "imitation", "ours", "longer"],
        "figure4": ["best pair, dynamic", "best pair, conventional", "best pair, untaught"],
        "table4": ["upgraded", "trained on alone"],
        "table5": ["joint", "prune kd", "nas prune kd"],
        "table7": ["best pair of the search", "best pair of random search"],
    }
    alone = number(0, "trained_on-resnet18-3", "samples") + number(0, "trained_on-mobilenet_v2-3", "samples")
    assert sides["table4"]["trained on alone"]["samples"] == pytest.approx(alone)


def test_share_until_counts_pairs_not_the_base():
    scores = [1.0, 1.0, 2.0, 2.0, 3.0]
    assert [share_until(scores, goal) for goal in (0.5, 1.0, 2.5, 3.0)] == [0.0, 2 / 4, 1.0, 1.0]


def test_without_effect_a_search_reaches_random_search_by_its_length_alone():
    """Two searches alike reach each other's best in more than half of their pairs; one with longer chains earlier."""

    def made_up(depths: Sequence[int], seed: int) -> dict[str, Any]:
        noise = np.random.default_rng(seed).normal(0, 0.01, len(depths))
        return {
            "steps": [{"score": 0.1 * depth + each, "depth": depth} for depth, each in zip(depths, noise, strict=True)]
        }

    short, long = [0, 1, 1, 2, 2, 3, 3, 4], [0, 1, 2, 3, 4, 5, 6, 7]
    alike, ahead = without_effect(made_up(short, 0), made_up(short, 1), 0)
    assert 0.7 < alike <= 1
    assert abs(ahead) < 0.5
    longer, ahead = without_effect(made_up(long, 0), made_up(short, 1), 0)
    assert 0.4 < longer < alike
    assert ahead > 20  # points: three trainings more
    assert without_effect(made_up([0, 0], 0), made_up([0, 0], 1), 0)[0] <= 1


def test_without_effect_both_searches_begin_with_the_same_base():
    """Where every training costs more than the noise, nothing is ever better than the base that both have."""
    steps = [{"score": 0.3 - 0.02 * depth, "depth": depth} for depth in (0, 1, 1, 2)]
    noisy = [step | {"score": step["score"] - 0.001 * place} for place, step in enumerate(steps)]
    assert without_effect({"steps": noisy}, {"steps": steps}, 0) == (1.0, 0.0)


def test_without_effect_pairs_that_both_searches_train_have_one_score():
    """Where the best pair is one of those, neither is ever above the other."""
    generator = np.random.default_rng(0)
    common = [{"score": 0.3, "depth": 0}] + [{"score": each, "depth": 1} for each in generator.normal(0.2, 0.02, 3)]
    assert without_effect({"steps": common}, {"steps": common}, 0) == (1.0, 0.0)
    own = [{"score": each, "depth": 1} for each in generator.normal(0.4, 0.02, 3)]
    share, ahead = without_effect({"steps": [*common[:2], own[0], *common[2:]]}, {"steps": [*common, *own[1:]]}, 0)
    assert share == pytest.approx(1 - 1 / 6 * (1 - 2 / 4), abs=0.03), "its own pair, the second, is one of six"
    assert ahead < 0


# ---- claims by made-up evidence

BY_ID = {claim.id: claim for claim in PAPER.claims}
NOISE = np.array([-0.2, -0.05, 0.1, 0.15, -0.1, 0.1])  # of mean 0, and far smaller than the differences below


def values(*table: Any) -> np.ndarray:
    """(S, *shape): that table for each seed, with another small deviation each."""
    level = np.array(table[0] if len(table) == 1 else table, dtype=float)
    return level + 0.01 * NOISE.reshape(-1, *[1] * level.ndim) * (1 + np.arange(level.size).reshape(level.shape))


HELD = {
    "pool minus alone, epochs": values(1.8, 2.9),
    "pool minus alone, seconds": values(0.6, 0.9),
    "pruned": values([37.1, 37.5, 37.3, 36.9], [39.0, 39.1, 39.2, 38.5]),
    "distilled": values([36.0, 36.9, 38.1, 37.0], [39.5, 39.9, 41.6, 40.1]),
    "gain": values(2.5, 2.8),
    "cost": values(0.73, 0.52),
    "time": values(0.85, 0.6),
    "joint minus prune-kd": values(1.8),
    "joint minus nas-prune-kd": values(2.1),
    "dynamic on the way": values(0.3),
    "dynamic ends": values(0.5),
    "dynamic ends above untaught": values(0.7),
    "slope": values(0.4),
    "gains": values([1.0, 2.0, 1.5, 1.2], [0.5, 1.5, 1.6, 0.9]),
    "pruning's share": values(0.6),
    "pruning's share by number": values(0.25),
    "pruning's place": values(-0.2),
    "stages above a uniform cut": values(-0.1, 0.02, 0.12, -0.04),
    "search minus random": values(0.9),
    "search minus random without effect": values(0.1),
    "share of the budget": values(0.3),
    "share without effect": values(0.6),
    **{f"level of {name}": values(30.0, 31.0) for name in ("table1", "figure5", "table4", "figure6", "figure7")},
    **{f"level of {name}": values(30.0) for name in ("figure4", "table5", "table7")},
}
# Of each condition: claim, exhibit, value on HELD, direction, threshold, unit, what the paper prints, and evidence that
# breaks this condition alone.
CONDITIONS = [
    (1, "table1", 2.35, "above", 0, "AP points", None, {"pool minus alone, epochs": values(-0.8, 0.4)}),
    (1, "table1", 0.75, "above", 0, "AP points", None, {"pool minus alone, seconds": values(-0.8, 0.4)}),
    (
        2,
        "table2",
        -0.05,
        "above",
        -0.5,
        "AP points",
        None,
        {"pruned": values([37, 37.5, 36.5, 37], [39, 39, 38.4, 38.8])},
    ),
    (2, "table2", -0.6, "above", -1, "AP points", None, {"pruned": values([37, 37.5, 37.5, 36], [39, 39, 39, 37.8])}),
    (
        3,
        "table3",
        2.1,
        "above",
        0,
        "AP points",
        2.1,
        {"distilled": values([38.6, 36.9, 38.1, 37], [42, 39.9, 41.6, 40])},
    ),
    (
        3,
        "table3",
        1.3,
        "above",
        0,
        "AP points",
        None,
        {"distilled": values([36, 36.9, 38.1, 39], [39.5, 39.9, 41.6, 42])},
    ),
    (
        3,
        "table3",
        1.45,
        "above",
        0,
        "AP points",
        None,
        {"distilled": values([36, 38.6, 38.1, 37], [39.5, 42, 41.6, 40])},
    ),
    (4, "table4", 2.5, "above", 0, "AP points", None, {"gain": values(2.5, -0.4)}),
    (4, "table4", 0.73, "below", 1, "times", 0.93, {"cost": values(1.1, 0.52)}),
    (4, "table4", 0.85, "below", 1, "times", None, {"time": values(0.85, 1.1)}),
    (5, "table5", 1.8, "above", 0, "AP points", None, {"joint minus prune-kd": values(-0.2)}),
    (5, "table5", 2.1, "above", 0, "AP points", None, {"joint minus nas-prune-kd": values(-0.2)}),
    (6, "figure4", 0.3, "above", 0, "points of H", None, {"dynamic on the way": values(-0.2)}),
    (6, "figure4", 0.5, "above", 0, "points of H", None, {"dynamic ends": values(-0.2)}),
    (6, "figure4", 0.7, "above", 0, "points of H", None, {"dynamic ends above untaught": values(-0.2)}),
    (7, "figure5", 0.4, "above", 0, "power", None, {"slope": values(-0.2)}),
    (8, "figure5", 0.7, "above", 0, "AP points", None, {"gains": values([1.0, 0.9, 0.8, 1.2], [0.5, 0.4, 0.6, 0.9])}),
    (9, "figure6", 0.6, "above", 0.5, "share", None, {"pruning's share": values(0.4)}),
    (9, "figure6", 0.35, "above", 0, "share", None, {"pruning's share by number": values(0.7)}),
    (9, "figure6", -0.2, "below", 0, "of the search", None, {"pruning's place": values(0.2)}),
    (10, "figure7", 0.1, "above", 0, "share", None, {"stages above a uniform cut": values(-0.1, 0.12, 0.02, -0.04)}),
    (10, "figure7", 0.12, "above", 0, "share", None, {"stages above a uniform cut": values(0.03, 0.01, 0.12, -0.16)}),
    (11, "table7", 0.8, "above", 0, "points of H", None, {"search minus random": values(-0.2)}),
    (11, "table7", -0.3, "below", 0, "of the pairs", None, {"share without effect": values(0.2)}),
]


def judged(claim: str, evidence: Mapping[str, np.ndarray], seeds: int = 6) -> dict:
    kept = {name: each[:seeds] for name, each in evidence.items()}
    return judge(BY_ID[claim], Evidence("scenes", "nano", range(seeds), "command", kept), "joint_detnas")


def test_every_claim_of_the_paper_stands_with_its_exhibit():
    homes = {claim.id: exhibit.name for exhibit in EXHIBITS for claim in exhibit.claims}
    assert homes == {f"JD-{number}": exhibit for number, exhibit, *_ in CONDITIONS}
    assert sorted(BY_ID, key=lambda name: int(name[3:])) == [f"JD-{number}" for number in range(1, 12)]
    for claim in BY_ID.values():
        assert claim.before is not None
        assert (claim.seeds, claim.level is None) == (6, False)


@pytest.mark.parametrize("claim", BY_ID)
def test_each_condition_is_the_one_written_by_hand_and_alone_breaks_its_claim(claim):
    record = judged(claim, HELD)
    rules = [each for each in CONDITIONS if f"JD-{each[0]}" == claim]
    assert record["verdict"] == "reproduced"
    keys = ("difference", "direction", "threshold", "unit", "printed")
    for condition, rule in zip(record["conditions"], rules, strict=True):
        assert condition["difference"] == pytest.approx(rule[2], abs=0.02)
        assert [condition[key] for key in keys[1:]] == list(rule[3:7])
    for place, (*_, broken) in enumerate(rules):
        other = judged(claim, HELD | broken)
        assert other["verdict"] == "not reproduced"
        assert [at for at, each in enumerate(other["conditions"]) if each["verdict"] != "reproduced"] == [place]


@pytest.mark.parametrize("claim", BY_ID)
def test_few_seeds_weak_networks_and_missing_numbers_leave_a_claim_open(claim):
    assert judged(claim, HELD, seeds=5)["verdict"] == "inconclusive"
    record, asked = judged(claim, HELD), set()
    for name in HELD:
        holed = HELD[name].copy()
        holed[(1, *(0 for _ in holed.shape[1:]))] = math.nan
        by_seed = [{each: table[at] for each, table in (HELD | {name: holed}).items()} for at in range(6)]
        open_one = judged(claim, stacked_evidence(by_seed, PAPER.comparable))
        if open_one["verdict"] == "inconclusive":
            assert open_one["reason"] == f"not measured: {name}"
            asked.add(name)
    used = {name for number, *_, broken in CONDITIONS if f"JD-{number}" == claim for name in broken}
    assert used <= asked
    weak = {name: np.full_like(HELD[name], 9.0) for name in asked if name.startswith("level")}
    weak |= {name: HELD[name] - 30 for name in asked & {"pruned", "distilled"}}
    assert judged(claim, HELD | weak)["verdict"] == "not testable at this scale"
    assert record["level"] > 29


def test_the_weaker_teacher_of_jd8_is_the_choice_of_the_other_seeds_alone():
    gains = np.random.default_rng(0).normal(size=(6, 3, 5))  # seeds, students, teachers
    expected, by_its_own = [], []
    for seed, own in enumerate(gains.mean(axis=1)):
        others = np.delete(gains, seed, axis=0).mean(axis=(0, 1))
        expected.append(own[others[:-1].argmax()] - own[-1])
        by_its_own.append(own[gains.mean(axis=(0, 1))[:-1].argmax()] - own[-1])
    assert under_a_weaker_teacher({"gains": gains}) == pytest.approx(expected) != pytest.approx(by_its_own)
    of_two = under_a_weaker_teacher({"gains": np.array([[[1.0, 2.0, 0.0]], [[4.0, 3.0, 0.5]]])})
    assert of_two.tolist() == [1.0, 2.5], "each by the other"


def test_the_evidence_of_jd9_is_of_steps_of_the_student_that_raised_the_score():
    gains = [("channel pruning", 1, 3.0), ("channel pruning", 2, 0.0), ("layer pruning", 5, 0.5), ("add-layer", 7, 0.5)]
    gains += [("channel pruning", 3, 2.0), ("rearrange", 4, -9.0), ("new teacher", 6, 8.0)]
    steps = [{"kind": kind, "pair": pair, "gain": gain} for kind, pair, gain in gains]
    found = pruning_evidence(steps, 8)
    assert found == {"pruning's share": 5 / 6, "pruning's share by number": 3 / 6, "pruning's place": (2 - 6) / 8}
    assert pruning_evidence(steps[1:], 8)["pruning's share by number"] == 2 / 5
    for alone, share in ((steps[:2], 1.0), (steps[2:4], 0.0), (steps[5:], 0.0), ([], 0.0)):
        found = pruning_evidence(alone, 8)
        assert (found["pruning's share"], found["pruning's place"]) == (share, 0.0)
    assert pruning_evidence(steps[6:], 8)["pruning's share by number"] == 0.0
