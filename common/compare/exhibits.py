"""What the comparison measures and shows, and the rules of X-1 to X-3, written before any judged run.

A front is judged by its area: the highest AP that it has within a budget of multiply-accumulates, averaged over budgets
from the box's lower end to its upper one, all octaves alike (`front_area`). Differences are paired by seed: all fronts
of a seed have the same training images, the same held out to compare candidates by, and the same to measure AP on.
What they start from differs, and is not counted: each method pre-trains networks of its own on crops, for as long as
its own scale says. At nano, crops are the same; SM-NAS's and Joint-DetNAS's backbones see them for 12 and 16 epochs,
DetOFA's supernet twice for 16. Importable without torch.

Evidence, first axis the seed:
    area:METHOD, area:METHOD:random (S,)                  of the front that the method found, and random search
    best:METHOD (S,)                                      AP of the most accurate detector of the former
    selects:METHOD (S,)                                   candidates that selection decides about
    second (S', methods)                                  area of what was found on the second data set
    second best (S', methods)                             AP of the most accurate detector there
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from common.compare.methods import STANDARD, THEIRS, by_label, methods
from common.compare.presets import Options
from common.report.claims import Claim, Evidence, NotMeasured, NotTestable, ap_rule
from common.report.exhibit import Drawn, Exhibit, Measured, Picture, Setting, over_seeds, stacked
from common.report.reproduce import Paper
from common.report.statistics import Difference, farthest, holm
from common.report.tables import Table
from common.search.pareto import attainment, hypervolume

if TYPE_CHECKING:
    from common.compare.study import Comparison

SEEDS, SECOND_SEEDS = 5, 3
"""Seeds that a verdict needs on the first and on the second data set."""
_UNEQUAL = 0.1
"""Share by which one side's CPU seconds may exceed another's before it is said."""
_SIDES = {"found": False, "random": True}
_COSTS = {"macs": ("Whole detector (M MAC)", 1e6), "latency": ("Latency (ms)", 1.0)}
TITLES = {name: paper.title for name, paper in methods().items()}


def front_area(macs: ArrayLike, points: ArrayLike, box: tuple[float, float]) -> float:
    """Mean over budgets in the box, all octaves alike, of the highest AP within a budget; 0 where nothing is so cheap.

    macs, points: (N,) cost and AP points of a front's detectors. The hypervolume over log2(MAC), between the box's ends
    and above an AP of 0, divided by the box's width.
    """
    low, high = np.log2(box)
    costs = np.maximum(np.log2(np.asarray(macs, dtype=float)), low)
    return hypervolume(costs, points, (high, 0.0)) / (high - low)


# ---- the rules


def lead(areas: np.ndarray) -> Difference:
    """By how much the method of the largest mean area is ahead of the others: of these differences, paired by seed, the
    one whose interval reaches lowest.

    areas: (S, M). Who leads is read off the same numbers, so that each interval allows for all pairs of methods
    (Bonferroni): of equal methods, one comes out ahead in less than 5 % of cases.
    """
    if min(areas.shape) < 2:
        raise NotMeasured("two methods and two seeds are needed to say which of them leads")
    leader = int(areas.mean(axis=0).argmax())
    ahead = areas[:, [leader]] - np.delete(areas, leader, axis=1)
    return farthest(ahead, "low", comparisons=math.comb(areas.shape[1], 2))


def ahead_there(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(S', M - 1) on each seed of the second data set, the area by which each method but the last is ahead of the next,
    in their order on the first one. first: (S, M) areas; second: (S', M).
    """
    return -np.diff(second[:, np.argsort(-first.mean(axis=0), kind="stable")])


def _areas(evidence: Evidence) -> np.ndarray:
    """(S, M) of all methods' fronts."""
    return np.stack([evidence[f"area:{name}"] for name in TITLES], axis=1)


def _least_best(evidence: Evidence) -> np.ndarray:
    return np.min([evidence[f"best:{name}"] for name in TITLES], axis=0)


def _over_random(name: str, evidence: Evidence) -> np.ndarray:
    if not evidence[f"selects:{name}"].all():
        raise NotTestable(f"{TITLES[name]} selects nothing within the budget: it is its own random search")
    return evidence[f"area:{name}"] - evidence[f"area:{name}:random"]


def _order(evidence: Evidence) -> Difference:
    steps = ahead_there(_areas(evidence), evidence["second"])
    return farthest(steps, "low", comparisons=steps.shape[1])


def _level_of_both(evidence: Evidence) -> np.ndarray:
    return np.minimum(_least_best(evidence).mean(), evidence["second best"].min(axis=1))


_FRONTS = (
    Claim(
        "X-1",
        "Table 1",
        "one method gives a better front than every other from the same CPU seconds",
        (
            ap_rule(
                "area of the method of the largest mean minus that of the closest of the others, by an interval for "
                "all pairs at once,",
                lambda evidence: lead(_areas(evidence)),
                effect=1.0,
                null="equal methods: 0",
            ),
        ),
        exhibits=("table2",),
        level=_least_best,
        seeds=SEEDS,
    ),
    Claim(
        "X-2",
        "Table 1",
        "every method's front is better than that of random search in its own space with the same CPU seconds",
        tuple(
            ap_rule(f"area of {title} minus that of its random search", partial(_over_random, name), effect=1.0)
            for name, title in TITLES.items()
        ),
        level=_least_best,
        seeds=SEEDS,
    ),
)
_ORDER = Claim(
    "X-3",
    "Table 3",
    "the order of the methods by area holds on another data set",
    (
        ap_rule(
            "area on the second data set of a method minus that of the next in their order on the first, of the two "
            "whose interval reaches lowest,",
            _order,
            effect=1.0,
            null="an order of one data set alone: below 0",
        ),
    ),
    exhibits=("table1",),
    level=_level_of_both,
    seeds=SECOND_SEEDS,
)

# ---- what is measured


def _measure_fronts(study: "Comparison") -> Measured:
    """Every front of a seed: detectors, area, what it took; and what the claims are judged by."""
    areas = {f"area:{name}": partial(study.area, name, False) for name in TITLES}
    areas |= {f"area:{name}:random": partial(study.area, name, True) for name in TITLES}
    best = {f"best:{name}": partial(_best, study, name) for name in TITLES}
    selects = {f"selects:{name}": partial(study.selects, name) for name in TITLES}
    return {"fronts": _fronts(study), "evidence": areas | best | selects, "budget": _budget(study)}


def _measure_areas(study: "Comparison") -> Measured:
    """The areas alone."""
    return {"areas": {name: study.area(name, False) for name in TITLES}}


def _measure_second(study: "Comparison") -> Measured:
    """The fronts of a seed on the second data set, and the areas of what was found; nothing without such a set."""
    if study.options.second_data is None:
        return {"fronts": {}, "evidence": {}}
    there = study.on(study.options.second_data)
    evidence = {
        "second": lambda: [there.area(name, False) for name in TITLES],
        "second best": lambda: [_best(there, name) for name in TITLES],
    }
    return {"fronts": _fronts(there), "evidence": evidence, "budget": _budget(there)}


def _measure_published(study: "Comparison") -> Measured:
    """What the methods' own reproductions have published of a seed."""
    from common.compare.published import published

    return {"published": published(study)}


def _best(study: "Comparison", name: str) -> float:
    study.side(name, False)
    return max((each["AP"] for each in study.detectors[name, False]), default=0.0)


def _fronts(study: "Comparison") -> dict[str, Any]:
    kept = ("AP", "macs", "latency", "params", "encoding", "input_size")
    fronts: dict[str, dict[str, Any]] = {}
    for name in TITLES:
        for side, random in _SIDES.items():
            taken = study.side(name, random)
            fronts.setdefault(name, {})[side] = {
                "detectors": [{key: each[key] for key in kept} for each in study.detectors[name, random]],
                "area": study.area(name, random),
                "cpu_seconds": taken.spent["cpu_seconds"],
                "samples": taken.spent["samples"],
                "uncounted": taken.uncounted["cpu_seconds"],
                "failed": taken.failed or _not_finite(len(taken.files) - len(study.detectors[name, random])),
            }
    return fronts


def _not_finite(count: int) -> str | None:
    return f"{count} of its detectors, whose boxes are not finite, count as AP 0" if count else None


def _budget(study: "Comparison") -> dict[str, dict[str, float]]:
    sides = ((name, side, random) for name in TITLES for side, random in _SIDES.items())
    return {
        _label(name, side): {key: study.side(name, random).spent[key] for key in ("samples", "cpu_seconds")}
        for name, side, random in sides
    }


def _label(name: str, side: str) -> str:
    return TITLES.get(name, name) + (", random search" if side == "random" else "")


# ---- what is drawn

_FRONT_HEADS = (
    *("Method", "Search", "Area", "Best AP", "MAC of the best", "Latency of the best"),
    *("Detectors", "Taken", "Images", "Not counted"),
)
_FRONT_UNITS = {
    "Area": "AP points", "Best AP": "points", "MAC of the best": "M", "Latency of the best": "ms",
    "Taken": "CPU s", "Images": "trained on", "Not counted": "CPU s",
}  # fmt: skip


_NOTHING = {"AP": 0.0, "macs": math.nan, "latency": math.nan}
"""The best detector of a front without any."""


def draw_fronts(measured: Sequence[Measured], setting: Setting, of: str = "") -> Drawn:
    """A row for each front, bands of what the seeds reached, each method against its random search."""
    fronts = [numbers["fronts"] for numbers in measured]
    if not all(fronts):
        return Drawn(Table(_FRONT_HEADS, []), "Not measured: give --second-data.")
    rows, notes = [], unequal(fronts)
    for name in fronts[0]:
        for side in _SIDES:
            sides = [each[name][side] for each in fronts]
            best = [max(each["detectors"], key=lambda one: one["AP"], default=_NOTHING) for each in sides]
            columns = [[each["area"] for each in sides]]
            columns += [[one[key] / unit for one in best] for key, unit in (("AP", 1), ("macs", 1e6), ("latency", 1))]
            columns += [[len(each["detectors"]) for each in sides]]
            columns += [[each[key] for each in sides] for key in ("cpu_seconds", "samples", "uncounted")]
            rows.append([TITLES.get(name, name), side, *map(over_seeds, columns)])
            notes += [f"{_label(name, side)}: {each['failed']}." for each in sides if each["failed"]]
    low, high = (end / 1e6 for end in setting.preset["box"])
    caption = (
        f"What each method finds in {_budget_of(setting):g} CPU seconds of search and training, and random search in "
        f"its space. Area: the highest AP within a budget of multiply-accumulates, averaged over budgets from {low:g} "
        f"to {high:g} M on a logarithmic scale. Pre-training on other data that is done once, whatever is searched, is "
        "not counted; that of a backbone which a search found is. Nor is the pace that the spending is planned by."
    )

    def picture(name: str, sides: Sequence[tuple[str, str]], cost: str) -> Picture:
        found = {_label(*at): [each[at[0]][at[1]]["detectors"] for each in fronts] for at in sides}
        return bands(of + name, found, cost, *_COSTS[cost])

    pictures = [picture(f"fronts-{cost}", [(name, "found") for name in fronts[0]], cost) for cost in _COSTS]
    pictures += [picture(f"random-{name}", [(name, side) for side in _SIDES], "macs") for name in fronts[0]]
    return Drawn(Table(_FRONT_HEADS, rows), caption, notes, _FRONT_UNITS, pictures)


def _budget_of(setting: Setting) -> float:
    return setting.options.get("budget") or setting.preset["budget"]


def unequal(fronts: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for each pair of sides of which one took more CPU seconds than `_UNEQUAL` allows, over all seeds."""
    taken = {
        (name, side): np.mean([each[name][side]["cpu_seconds"] for each in fronts])
        for name in fronts[0]
        for side in _SIDES
    }
    pairs = [((name, "found"), (name, "random")) for name in fronts[0]]
    pairs += [((one, "found"), (other, "found")) for one, other in combinations(fronts[0], 2)]
    notes = []
    for pair in pairs:
        less, more = sorted(pair, key=taken.__getitem__)
        if taken[more] > (1 + _UNEQUAL) * taken[less]:
            share = f"{taken[more] / taken[less] - 1:.0%} more CPU time" if taken[less] else "CPU time"
            notes.append(f"Unequal budget: {_label(*more)} took {share} than {_label(*less)}.")
    return notes


def bands(
    name: str, fronts: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]], cost: str, cost_label: str, unit: float
) -> Picture:
    """How far the seeds got. fronts: label -> detectors of each seed."""
    reached = {}
    for label, seeds in fronts.items():
        runs = [([one[cost] / unit for one in some], [one["AP"] for one in some]) for some in seeds]
        reached[label] = {f"{share:g}": corners for share, corners in attainment(runs, _shares(len(runs))).items()}
    return Picture(name, "attainment_bands", {"bands": reached, "cost_label": cost_label})


def _shares(runs: int) -> tuple[float, ...]:
    """Percentiles of a band over so many runs: what any reached, the half of them, and all."""
    return tuple(dict.fromkeys((100 / runs, 50.0, 100.0))) if runs > 1 else (100.0,)


def draw_pairs(measured: Sequence[Measured], setting: Setting) -> Drawn:
    """Every pair of methods, the better one first, paired by seed."""
    areas = {name: stacked(measured, "areas", name) for name in measured[0]["areas"]}
    pairs = []
    for one, other in combinations(areas, 2):
        first, second = (one, other) if areas[one].mean() >= areas[other].mean() else (other, one)
        pairs.append((first, second, over_seeds(areas[first] - areas[second])))
    p_values = {f"{a} {b}": each.p_value() for a, b, each in pairs if each.has_interval}
    adjusted = holm(p_values)
    rows = [
        [TITLES.get(a, a), TITLES.get(b, b), each, *(known.get(f"{a} {b}") for known in (p_values, adjusted))]
        for a, b, each in pairs
    ]
    heads = ("Better", "Than", "By", "p", "p of all pairs (Holm)")
    return Drawn(Table(heads, rows), "Areas of found fronts, differences paired by seed.", units={"By": "AP points"})


_PUBLISHED_HEADS = ("Method", "Detector", "Kind", "AP", "MAC", "Minutes", "Seeds")
_PUBLISHED_UNITS = {"AP": "points", "MAC": "M, as mmdetection counts", "Minutes": "by the clock, one thread"}


def draw_published(measured: Sequence[Measured], setting: Setting) -> Drawn:
    """A row for each detector, means over the seeds that have it, and all of them on one picture."""
    of_seeds: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for numbers in measured:
        for method, detectors in numbers["published"].items():
            for each in detectors:
                of_seeds.setdefault((method, each["role"], each["name"]), []).append(each)
    if not of_seeds:
        return Drawn(Table(_PUBLISHED_HEADS, []), "Nothing is published at this scale: see --publish of the papers.")
    rows, records, within = [], [], {}
    for (method, role, name), seeds in of_seeds.items():
        ap, macs, minutes = (over_seeds([each[key] for each in seeds]) for key in ("AP", "macs_mmdet", "minutes"))
        rows.append([TITLES.get(method, method), name, role, ap, macs.mean / 1e6, minutes.mean, len(seeds)])
        more = {"Detector": name, "Minutes": minutes.mean, "Seeds": len(seeds)}
        records.append({"paper": method, "role": role, "name": name, "point": (macs.mean / 1e6, ap.mean, more)})
        within[method] = max(within.get(method, 0.0), seeds[0].get("macs_within", 0.0))
    groups = by_label(records)
    notes = [f"{TITLES.get(name, name)}'s MAC are right to {off / 1e6:.1f} M." for name, off in within.items() if off]
    caption = (
        "AP on the same validation images. Budgets are not equal: every method trains for as long as its own scale "
        "says. Minutes are of all that a detector was made from, with pre-training, and with the supernet or pool that "
        "others came from, too. So nothing here says which method is the best: that is what X-1 to X-3 ask, at an "
        "equal budget."
    )
    data: dict[str, Any] = {"points": {label: [each["point"] for each in some] for label, some in groups.items()}}
    data |= {"with_front": [label for label, some in groups.items() if some[0]["role"] != STANDARD]}
    data |= {"highlighted": {each["name"]: each["point"][:2] for each in records if each["role"] in (STANDARD, THEIRS)}}
    data |= {"cost_label": "Whole detector (M MAC, as mmdetection counts)", "log_cost": True}
    return Drawn(
        Table(_PUBLISHED_HEADS, rows), caption, notes, _PUBLISHED_UNITS, [Picture("published", "fronts", data)]
    )


# ---- as a paper is


def _make_study(options: Options, seed: int, command: str) -> "Comparison":
    """The comparison of one seed."""
    from common.compare.study import Comparison

    return Comparison(options, seed, command)


def _describe(study: "Comparison") -> str:
    """Its methods and budget, in a phrase; reads the data."""
    images = {len(each.training_set) for each in study.studies.values()}
    names = ", ".join(TITLES.values())
    return f"{names}; {study.options.seconds:g} CPU s a front; {'/'.join(map(str, sorted(images)))} training images"


EXHIBITS = (
    Exhibit(
        "table1",
        "Fronts at an equal budget",
        "AP, cost and CPU time of every front",
        _measure_fronts,
        draw_fronts,
        _FRONTS,
    ),
    Exhibit("table2", "Methods in pairs", "differences of their areas", _measure_areas, draw_pairs),
    Exhibit(
        "table3",
        "Fronts on the second data set",
        "the same on --second-data",
        _measure_second,
        partial(draw_fronts, of="second-"),
        (_ORDER,),
        most_seeds=SECOND_SEEDS,
    ),
    Exhibit(
        "table4",
        "What the papers' own reproductions reach",
        "detectors that are published, at unequal budgets",
        _measure_published,
        draw_published,
    ),
)
PAPER = Paper("compare", "Comparison", Path(__file__).parent, EXHIBITS, _make_study, _describe, module="common.compare")
