"""DetOFA's exhibits and claims: made-up numbers against naive formulas; no training."""

import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from common.plain import InputError, to_json
from common.report.claims import Evidence, judge
from common.report.exhibit import Setting, printed
from common.report.reproduce import stacked_evidence
from common.report.statistics import Difference
from detofa import exhibits
from detofa.exhibits import FOLDER, LABELS, PAPER
from detofa.presets import NANO, VARIANTS
from detofa.space import OFAResNetSpace
from tests.drawn import check_drawn

SETTING = Setting("scenes", "nano", to_json(NANO), {"constraint": "macs"})
T = 12.706204736  # quantile of Student's t with one degree of freedom: two seeds
NAN = math.nan
BY_NAME = PAPER.by_name
CLAIMS = {claim.id: claim for claim in PAPER.claims}
BOTH = (0, 1)  # the two seeds of all made-up numbers


def seeds(values) -> list[float]:
    """Mean, low and high over two seeds."""
    one, other = map(float, values)
    mean, half = (one + other) / 2, T * abs(one - other) / 2
    return [mean, mean - half, mean + half]


def assert_same(found, expected) -> None:
    """Numbers to 1e-9, all else to the letter; a mean with its interval is its three numbers, null is NaN."""
    if isinstance(found, Difference):
        found = [found.mean, found.low, found.high]
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        found, expected = list(found.values()), list(expected.values())
    if isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, float):
        assert isinstance(found, int | float)
        assert found == pytest.approx(expected, nan_ok=True)
    else:
        assert found == expected


def drawing(name: str, measured, setting: Setting = SETTING) -> tuple[list, dict]:
    """Rows of the exhibit's table, and its pictures' data by name."""
    drawn = BY_NAME[name].draw([{"seed": place, **numbers} for place, numbers in enumerate(measured)], setting)
    check_drawn(Path(__file__).parent, name, drawn)
    assert all(len(row) == len(drawn.table.columns) for row in drawn.table.rows)
    return list(drawn.table.rows), {picture.name: to_json(picture.data) for picture in drawn.pictures}


def test_exhibits_and_claims_are_the_papers():
    drawings = {"figure1", "figure2", "figure3", "figure4"}  # of the method: nothing is measured
    assert {*BY_NAME} == {*printed(FOLDER)["exhibits"]} - drawings
    assert sorted(CLAIMS) == sorted(f"DO-{number}" for number in range(1, 13))
    assert [exhibit.name for exhibit in PAPER.exhibits if exhibit.pilot] == ["plateau"]
    for claim in CLAIMS.values():
        assert claim.seeds == 6
        assert (claim.before is None) == (claim.id in ("DO-11", "DO-12"))
        assert all(condition.effect for condition in claim.conditions)


# ---- a made-up study


class Study:
    """Results of variants that are finished, and of all else that exhibits ask for; `asked` says what was."""

    seed = 3
    budgets = (10e6, 20e6)
    space = NANO.space
    constraint = SimpleNamespace(edges=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0), buckets=5)
    costs = {"warm-up": {"cpu_seconds": 2.0, "seconds": 20.0, "samples": 7}}  # noqa: RUF012

    def __init__(self, results=None, finished=()):
        self.results, self.finished, self.asked = results or {}, finished, []

    def is_finished(self, name):
        return name in self.finished

    def prepare(self, name):
        self.asked.append(f"prepare {name}")

    def result(self, name):
        self.asked.append(name)
        if isinstance(self.results[name], Exception):
            raise self.results[name]
        return {"costs": self.costs} | self.results[name]

    def shared(self, what):
        self.asked.append(what)

    def sampled(self, name):
        self.asked.append(f"sampled-{name}")
        generator = np.random.default_rng(len(name))
        records = [
            {"cost": 1 + bucket + generator.random(), "bucket": bucket, "AP": generator.random()}
            for bucket in (0, 0, 1, 2, 3, 3, 4)
        ]
        return [*records[:-1], {"status": "failed"}] if name == "ours" else records

    def cross_validated(self, name):
        self.asked.append(f"filter-ablation-{name}")
        generator = np.random.default_rng(len(name))
        fold = [0, 0, 1, 1] * 10  # whose scores have a level of their own
        scores, losses = generator.random(40) + 5 * np.array(fold), generator.random(40)
        return {"scores": scores, "losses": losses, "buckets": [0, 2] * 20, "fold": fold}

    def operation_scores(self, what):
        self.asked.append(what)
        index = np.array([[0, 0, 0, 0], [0, 0, 0, 1], [3, 0, 0, 0], [3, 0, 0, 1]])  # blocks 0 and 1
        score = {"filter": [0.4, 0.3, 0.1, 0.2], "warm-up": [0.1, 0.2, 0.3, 0.9]}[what]
        return SimpleNamespace(index=index, score=np.array(score), cost=np.array([1.0, 2.0, 3.0, 4.0]))

    def plateau(self, kind, length):
        return (1000 * length, *([30 * length] if kind == "full" else [length, 2 * length, 3 * length]))


def found(*pairs) -> list:
    """Records of nets: (AP 0..1, cost), or None."""
    return [None if pair is None else {"AP": pair[0], "cost": pair[1]} for pair in pairs]


def evidence_of(measured, study) -> dict:
    """name -> (value, what was asked of the study for it)."""
    values = {}
    for name, value in measured["evidence"].items():
        study.asked.clear()
        values[name] = (value(), list(dict.fromkeys(study.asked)))
    return values


# ---- table 1


def test_table1():
    measured = BY_NAME["table1"].measure(Study())
    paper = {"OFA": 351**3 * 3159, "CompOFA*": 117**3 * (3**4 + 3**5 + 3**6)}
    block = 3 + 9 + 27  # one to three layers of three ratios
    own = {"OFA": (3 * block) ** 4, "CompOFA*": block**4}
    formula = {"OFA": ((9 + 9) * (27 + 27) * (81 + 81)) ** 4, "CompOFA*": (9 + 27 + 81) ** 4}
    assert measured["formula"] == formula
    assert {name: sizes["backbone"] for name, sizes in measured["scale"].items()} == own
    stems = 2 * 2 * 3  # skipped or not, inner widths 24 and 32, three outer widths
    spaces = {row[0]: row[1] for row in printed(FOLDER)["exhibits"]["table1"]["printed"]["rows"]}
    rows, _ = drawing("table1", [measured, measured])
    assert [list(row) for row in rows] == [
        [name, spaces[name], paper[name], paper[name] * stems, formula[name], own[name]] for name in paper
    ]


# ---- AP against cost: figures 5, 8 and 9

EQUAL_COST = ("ofa-equal-cost", "compofa-equal-cost")
MEASURED = {
    "figure5": ("ours", "ofa", "ofa-shrinking", "compofa", *EQUAL_COST, "ofa-scratch", "fullnet"),
    "figure8": ("ours", "operations-all", "operations-bucket", "operations-flops", "paths-score", "ofa"),
    "figure9": ("ours", "operations-ratio-40", "paths-ratio-40", "paths-score", "operations-all", "ofa"),
}


@pytest.mark.parametrize("exhibit", MEASURED)
def test_curves_are_measured_of_these_variants(exhibit):
    names = MEASURED[exhibit]
    results = {
        name: {"found": found((0.2 + at / 100, 9e6 + at), (0.3 + at / 50, 19e6 + at))} for at, name in enumerate(names)
    }
    results["ours"] |= {"random": found((0.21, 8e6), None)}
    results["fullnet"] = {"full": {"AP": 0.45, "cost": 40e6}}
    study = Study(results, finished=names[:1])
    measured = BY_NAME[exhibit].measure(study)
    expected = {
        name: {"AP": [20.0 + at, 30.0 + 2 * at], "cost": [9e6 + at, 19e6 + at]}
        for at, name in enumerate(names)
        if name != "fullnet"
    }
    assert_same(measured["curves"], expected | {"random": {"AP": [21.0, NAN], "cost": [8e6, NAN]}})
    assert measured["budget"] == {LABELS[name]: {"samples": 7, "cpu_seconds": 2.0} for name in names}
    assert [name for name in study.asked if name.startswith("prepare")] == [f"prepare {name}" for name in names[1:]]
    values = {name: (curve["AP"], [name]) for name, curve in expected.items()}
    values |= {"full": (45.0, ["fullnet"])} if exhibit == "figure5" else {}
    assert_same(evidence_of(measured, study), values)


def test_a_variant_without_result_does_not_cost_the_others_theirs(capsys):
    results = {name: {"found": found((0.2, 9e6)), "random": []} for name in MEASURED["figure8"]}
    measured = BY_NAME["figure8"].measure(Study(results | {"operations-flops": InputError("no path costs so little")}))
    assert set(measured["curves"]) == {*results, "random"} - {"operations-flops"}
    assert measured["missing"] == {"FLOPs": "no path costs so little"}
    assert capsys.readouterr().err == "operations-flops, seed 3, has no result: no path costs so little\n"


# By variant: AP and cost of two seeds (rows) at two budgets.
AP = {name: np.random.default_rng(place).uniform(10, 40, (2, 2)) for place, name in enumerate([*VARIANTS, "random"])}
COST = {name: np.random.default_rng([place, 1]).uniform(5e6, 2e7, (2, 2)) for place, name in enumerate(AP)}
FULL = [{"AP": 40.0, "cost": 41e6}, {"AP": 43.0, "cost": 43e6}]
X_AXIS = "Multiply-accumulates of the backbone at 96x96 (MMACs)"


def curves(*names: str, full: bool = False) -> list[dict]:
    """Numbers of two seeds."""
    return [
        {
            "budgets": [10e6 + 1e6 * seed, 20e6],
            "curves": {name: {"AP": AP[name][seed].tolist(), "cost": COST[name][seed].tolist()} for name in names},
        }
        | ({"full": FULL[seed]} if full else {})
        for seed in BOTH
    ]


def curve_row(title: str, name: str, reference: str) -> list:
    """Title, AP at each budget, its mean over the budgets, and the reference's mean minus it."""
    behind = None if name == reference else seeds((AP[reference] - AP[name]).mean(axis=1))
    return [title, *(seeds(ap) for ap in AP[name].T), seeds(AP[name].mean(axis=1)), behind]


def series(titles: dict) -> dict:
    """Title -> (mean cost in MMACs, AP with its interval) at each budget."""
    return {
        title: [[cost.mean() / 1e6, *seeds(ap)] for cost, ap in zip(COST[name].T, AP[name].T, strict=True)]
        for name, title in titles.items()
    }


TITLES5 = {name: LABELS[name] for name in ("ours", "ofa", "ofa-shrinking", "compofa", "random")}
NOT_DRAWN = (*EQUAL_COST, "ofa-scratch")


def test_figure5():
    rows, pictures = drawing("figure5", curves(*TITLES5, *NOT_DRAWN, full=True))
    titles = TITLES5 | {name: LABELS[name] for name in NOT_DRAWN}
    expected = [curve_row(title, name, "ours") for name, title in titles.items()]
    best = AP["ours"].max(axis=1)
    assert_same(rows, [*expected, ["Fullnet", None, None, seeds([40, 43]), seeds([best[0] - 40, best[1] - 43])]])
    order = {"references": {"Fullnet": [42.0, 41.5]}, "order": [*TITLES5.values()]}
    assert_same(pictures, {"figure5": {"series": series(TITLES5), "cost_label": X_AXIS, **order}})
    few = curves("ofa", full=True)
    few[1]["curves"]["ofa"] = {"AP": [19.0, None], "cost": [8e6, None]}  # no net for a budget
    rows, pictures = drawing("figure5", few)
    assert math.isfinite(rows[0][2].mean)
    assert rows[0][2].n == 1
    assert_same(rows[1], ["Fullnet", None, None, seeds([40, 43]), None])
    del few[1]["full"]
    assert len(drawing("figure5", few)[0]) == 1


PANELS = {
    "figure8": {
        "Operations": ("operations-all", "operations-bucket", "operations-flops", "ofa"),
        "Paths": ("paths-score", "ofa"),
    },
    "figure9": {
        "Operations": ("paths-score", "ours", "operations-ratio-40"),
        "Paths": ("operations-all", "ours", "paths-ratio-40"),
    },
}


@pytest.mark.parametrize("name", PANELS)
def test_figures_8_and_9(name):
    rows, pictures = drawing(name, curves(*AP))
    labels = {panel: BY_NAME[name].draw.args[2][panel][0] for panel in PANELS[name]}
    assert {panel: tuple(titles) for panel, titles in labels.items()} == PANELS[name]
    reference = {panel: "ours" if name == "figure9" else names[0] for panel, names in PANELS[name].items()}
    expected = [
        [panel, *curve_row(title, variant, reference[panel])]
        for panel, titles in labels.items()
        for variant, title in titles.items()
    ]
    both, operations, paths, none = (AP[each] for each in ("ours", "operations-all", "paths-score", "ofa"))
    effects = {
        "pruning operations": both / 2 - paths / 2 + operations / 2 - none / 2,
        "pruning paths": both / 2 - operations / 2 + paths / 2 - none / 2,
        "together": both - paths - operations + none,
    }
    expected += [["Main effects", title, *map(seeds, e.T), seeds(e.mean(axis=1)), None] for title, e in effects.items()]
    assert_same(rows, expected)
    drawn = {
        f"{name}-{panel.lower()}": {"series": series(titles), "cost_label": X_AXIS} for panel, titles in labels.items()
    }
    assert_same(pictures, drawn)


@pytest.mark.parametrize(
    ("constraint", "highest", "factor", "unit", "label"),
    [
        ("macs", 9.9e8, 1e6, "MMACs", "Multiply-accumulates of the backbone at 96x96 (MMACs)"),
        ("params", 1e9, 1e9, "billion parameters", "Parameters of the backbone (billion parameters)"),
        ("latency", 2e9, 1.0, "ms", "Latency of the backbone at 96x96, batch 1 (ms)"),
    ],
)
def test_costs_have_their_unit(constraint, highest, factor, unit, label):
    setting = Setting("scenes", "nano", to_json(NANO), {"constraint": constraint})
    assert exhibits.cost_axis(setting, highest) == (factor, unit, label)


# ---- figure 6


def test_figure6_takes_away_what_cost_alone_explains():
    study = Study({"ours": {}, "ofa": {}})
    measured = BY_NAME["figure6"].measure(study)
    assert measured.keys() == {"sampled", "edges", "missing", "budget", "evidence"}
    assert measured["edges"] == study.constraint.edges
    assert measured["missing"] == {}
    assert measured["budget"] == {LABELS[name]: {"samples": 7, "cpu_seconds": 2.0} for name in ("ours", "ofa")}
    found = evidence_of(measured, study)
    gain, asked = found["gain"]
    assert (len(found), asked) == (1, ["sampled-ours", "sampled-ofa"])
    alone = BY_NAME["figure6"].measure(Study({"ours": {}, "ofa": InputError("it diverged")}))
    assert (alone["missing"], alone["evidence"]) == ({LABELS["ofa"]: "it diverged"}, {})
    ours, ofa = ([each for each in study.sampled(name) if "AP" in each] for name in ("ours", "ofa"))
    parabola = np.polyfit(np.log([path["cost"] for path in ofa]), [100 * path["AP"] for path in ofa], 2)

    def left(paths, bucket):
        inside = [path for path in paths if path["bucket"] == bucket]
        return [100 * path["AP"] - np.polyval(parabola, np.log(path["cost"])) for path in inside]

    expected = [np.mean(left(ours, bucket)) - np.mean(left(ofa, bucket)) for bucket in range(4)]
    assert gain[:4] == pytest.approx(expected)
    assert math.isnan(gain[4]), "a bucket with nothing but a failed path"
    values = stacked_evidence([{"gain": gain, "ours": [1.0]}, {"gain": [2.0] * 5, "ours": [1.0]}], PAPER.comparable)
    assert values["gain"].tolist() == [gain[:4], [2.0] * 4]

    numbers = {**measured, "evidence": {"gain": [*gain[:4], None]}}
    rows, pictures = drawing("figure6", [{**numbers, "seed": seed} for seed in (0, 3)])
    for bucket, row in enumerate(rows[:4]):
        means = [np.mean([100 * p["AP"] for p in paths if p["bucket"] == bucket]) for paths in (ours, ofa)]
        assert_same(row[1:], [seeds([value, value]) for value in (*means, means[0] - means[1], gain[bucket])])
    points = pictures["figure6"]["points"]["DetOFA (ours)"]
    told = [each[2] for each in points]
    assert told == [{"Path": each.get("path"), "Seed": seed} for seed in (0, 3) for each in ours]


# ---- figure 7


def _naive_tau(one, other, groups):
    """Agreement over all pairs of one group; no ties."""
    pairs = [(a, b) for a in range(len(one)) for b in range(a) if groups[a] == groups[b]]
    return sum(np.sign(one[a] - one[b]) * np.sign(other[a] - other[b]) for a, b in pairs) / len(pairs)


def test_tau_within_blocks_equals_a_naive_loop_and_ignores_other_blocks():
    generator = np.random.default_rng(3)
    layer_block = np.array([0, 0, 1, 1])
    index = np.array([[layer, 0, 0, expand] for layer in range(4) for expand in range(5)])
    score, cost = generator.random(20), generator.random(20)
    expected = [_naive_tau(score[part], cost[part], np.zeros(10)) for part in (slice(10), slice(10, 20))]
    assert exhibits.tau_within_blocks(index, score, cost, layer_block) == pytest.approx(expected)
    shifted = score + 100 * (index[:, 0] > 1)
    assert exhibits.tau_within_blocks(index, shifted, cost, layer_block) == pytest.approx(expected)
    assert exhibits.tau_within_blocks(index, np.ones(20), cost, layer_block) == [0.0, 0.0], "ties follow nothing"


def test_figure7():
    study = Study()
    measured = BY_NAME["figure7"].measure(study)
    assert measured["supernets"] == {
        "classification": {"score": [0.4, 0.3, 0.1, 0.2], "tau": [-1.0, 1.0]},
        "detection": {"score": [0.1, 0.2, 0.3, 0.9], "tau": [1.0, 1.0]},
    }
    expected = {"tau:classification": (0.0, ["filter"]), "tau:detection": (1.0, ["warm-up"])}
    assert evidence_of(measured, study) == expected
    assert {abs(tau) for tau in measured["shuffled"]} == {1.0}, "of two operations a block"

    space = OFAResNetSpace((1, 1, 1, 1), (0, 1), (0.5, 1.0), (0.25,), (8, 8, 8, 8), 8)
    tau, score = np.random.default_rng(0).uniform(size=(2, 2, 2, 2))  # each: supernet, seed, block or operation
    names = ("classification", "detection")
    numbers = [
        {
            "index": [[0, 0, 1, 0], [1, 1, 0, 0]],
            "shuffled": [0.5, -0.5],
            "supernets": {
                n: {"score": score[at, seed].tolist(), "tau": tau[at, seed].tolist()} for at, n in enumerate(names)
            },
        }
        for seed in BOTH
    ]
    setting = Setting("scenes", "nano", to_json(NANO) | {"space": to_json(space)}, {"constraint": "macs"})
    rows, pictures = drawing("figure7", numbers, setting)
    for row, values in zip(rows, [*tau, tau[1] - tau[0], np.array([[0.5, -0.5]] * 2)], strict=True):
        assert_same(row[1:], [seeds(values.mean(axis=1)), seeds(values[:, 0]), seeds(values[:, 1])])
    for at, name in enumerate(names):
        values = [[None] * 8 for _ in range(4)]  # D and W by layer
        values[1][0], values[2][1] = score[at].mean(axis=0).tolist()
        assert_same(pictures[f"figure7-{name}"]["values"], values)


# ---- table 2


def _naive_detection(scores, losses, buckets, share=0.25):
    flagged, weak = set(), set()
    for bucket in set(buckets):
        members = [path for path in range(len(scores)) if buckets[path] == bucket]
        flagged |= set(sorted(members, key=lambda path: scores[path])[: round(share * len(members))])
        weak |= set(sorted(members, key=lambda path: -losses[path])[: round(len(members) / 4)])
    right = sum((path in flagged) == (path in weak) for path in range(len(scores)))
    return {
        "accuracy": right / len(scores),
        "precision": len(flagged & weak) / len(flagged),
        "recall": len(flagged & weak) / len(weak),
        "found": len(flagged & weak) / len(scores),
        "tau": -_naive_tau(scores, losses, buckets),
    }


def test_what_cost_does_not_explain_leaves_out_paths_that_failed():
    """Figure 6: of two paths half a point above and below a parabola in log cost; none of that is of failed ones."""
    costs = [1e6, 2e6, 4e6, 8e6, 16e6]
    reference = {"cost": [*costs, 32e6], "AP": [20 + math.log(cost / 1e6) ** 2 for cost in costs] + [None]}
    sampled = {"cost": [3e6, 5e6, 7e6], "AP": [20.5 + math.log(3) ** 2, 19.5 + math.log(5) ** 2, None]}
    assert exhibits.beyond_cost(sampled, reference) == pytest.approx([0.5, -0.5, math.nan], nan_ok=True)
    assert exhibits.beyond_cost(sampled, {"cost": costs, "AP": [None] * 5}) == pytest.approx(
        [math.nan] * 3, nan_ok=True
    )
    paths = {"AP": [1.0, 3.0, None, 7.0, 9.0], "bucket": [0, 0, 0, None, 3]}
    assert exhibits.bucket_means(paths, 4) == pytest.approx([2.0, math.nan, math.nan, 9.0], nan_ok=True)


def test_detection_of_weak_equals_a_naive_loop():
    generator = np.random.default_rng(0)
    buckets = generator.integers(5, size=120)
    losses = generator.random(120)
    scores = -losses + 0.4 * generator.random(120)
    expected = _naive_detection(scores, losses, buckets)
    assert exhibits.detection_of_weak(scores, losses, buckets) == pytest.approx(expected)
    by_share = {share: _naive_detection(scores, losses, buckets, share)["precision"] for share in exhibits.SWEEP}
    best = exhibits.best_precision(scores, losses, buckets)
    assert (
        best["best precision"] == pytest.approx(max(by_share.values())) == pytest.approx(by_share[best["best share"]])
    )
    assert exhibits.detection_of_weak(-losses + 10 * buckets, losses, buckets)["precision"] == 1, "inside buckets"
    nobody = exhibits.detection_of_weak(np.array([0.1, 0.2]), np.array([1.0, 2.0]), np.array([0, 0]))
    assert (nobody["precision"], nobody["recall"], nobody["found"]) == (0, 0, 0), "too few paths for a quarter"
    one = exhibits.detection_of_weak(-np.arange(4.0), np.arange(4.0), np.zeros(4, dtype=int))
    assert (one["precision"], one["recall"], one["found"]) == (1, 1, 0.25), "one of four"
    badness = np.tile([1.0, 1.0, 1.0, 0.0], 100)
    weak = exhibits.weakest_share(badness, np.zeros(400))
    assert np.flatnonzero(weak).tolist() == np.flatnonzero(badness > 0)[:100].tolist(), "ties by position"


def test_the_papers_recall_is_found_over_all():
    for *_, accuracy, precision, recall in printed(FOLDER)["exhibits"]["table2"]["printed"]["rows"][1:]:
        assert recall == pytest.approx(0.25 * precision, abs=0.025)
        assert accuracy == pytest.approx(1 - 2 * 0.25 * (1 - precision), abs=0.02)


def test_table2():
    study = Study()
    measured = BY_NAME["table2"].measure(study)
    names = ("unbounded", "no-budget", "no-block", "ours", "ridge")
    for name in names:
        found = dict(study.cross_validated(name))
        groups = [f"{bucket} {fold}" for bucket, fold in zip(found.pop("buckets"), found.pop("fold"), strict=True)]
        naive = _naive_detection(**found, buckets=groups)
        assert {key: measured["numbers"][name][key] for key in naive} == pytest.approx(naive)
    precision = {name: measured["numbers"][name]["precision"] for name in names}
    expected = {f"precision:{name}": (value, [f"filter-ablation-{name}"]) for name, value in precision.items()}
    assert_same(evidence_of(measured, study), expected)

    numbers = np.random.default_rng(0).uniform(size=(5, 7, 2))  # filter, number, seed
    by_seed = [
        {
            name: dict(zip(exhibits.TABLE2_NUMBERS, row[:, seed].tolist(), strict=True))
            for name, row in zip(names, numbers, strict=True)
        }
        for seed in BOTH
    ]
    rows, pictures = drawing("table2", [{"numbers": each} for each in by_seed])
    titles = ("Without bounded loss", "Without budget", "Without block position", "Whole filter", "Ridge regression")
    switches = [[at != off for at in range(3)] for off in range(4)] + [[None] * 3]
    for at, row in enumerate(rows):
        gain = None if names[at] == "ours" else seeds(numbers[3, 1] - numbers[at, 1])
        assert_same(row, [titles[at], *switches[at], *map(seeds, numbers[at]), gain])
    theirs = dict(zip(titles, (0.590, 0.830, 0.850, 0.870, None), strict=True))
    groups = {
        title: {"Ours": row[5], "Paper": [theirs[title], None, None]} for title, row in zip(titles, rows, strict=True)
    }
    assert_same(
        pictures["table2"]["groups"],
        to_json({t: {**g, "Ours": [g["Ours"].mean, g["Ours"].low, g["Ours"].high]} for t, g in groups.items()}),
    )


# ---- table 3


def test_table3():
    def part(cpu: float, **more: float) -> dict:
        return {"cpu_seconds": cpu, "seconds": 10 * cpu, "samples": 5, **more}

    plain = {"warm-up": part(1.0), "fine-tuning": part(11.0, drawing_cpu_seconds=1.0), "search sampling": part(100.0)}
    results = {name: {"costs": plain} for name in ("ofa-shrinking", "ofa", "compofa")}
    results["ours"] = {"costs": plain | {"sampling": part(4.0), "filter": part(8.0)}}
    study = Study(results)
    measured = BY_NAME["table3"].measure(study)
    spent = {name: {"cpu": 12.0, "wall": 120.0, "sampling": None} for name in results}
    assert measured["spent"] == spent | {"ours": {"cpu": 24.0, "wall": 240.0, "sampling": 4.0}}
    assert measured["budget"]["CompOFA*"] == {"samples": 10, "cpu_seconds": 12.0}
    assert measured["budget"]["DetOFA (ours)"] == {"samples": 10, "cpu_seconds": 24.0}
    expected = {f"cost:{name}": (24.0 if name == "ours" else 12.0, [name]) for name in results}
    assert evidence_of(measured, study) == expected | {"pruning:ours": (10.0, ["ours"])}

    kinds = np.random.default_rng(0).uniform(10, 99, size=(4, 2, 3))  # method, seed, kind
    made_up = dict(zip(exhibits.METHODS, kinds, strict=True))
    numbers = [
        {
            "evidence": {"pruning:ours": 8.0},
            "spent": {
                name: {
                    "cpu": each[seed, 0],
                    "wall": each[seed, 1],
                    "sampling": each[seed, 2] if name == "ours" else None,
                }
                for name, each in made_up.items()
            },
        }
        for seed in BOTH
    ]
    rows, pictures = drawing("table3", numbers)
    theirs = {
        "OFA (w/ PS)": (1.150, 14.41),
        "OFA (w/o PS)": (0.383, 4.804),
        "CompOFA*": (0.383, 4.804),
        "Ours": (0.8, 5.26),
    }
    for row, (name, each), (title, (voc, coco)) in zip(rows, made_up.items(), theirs.items(), strict=True):
        cpu, wall, sampling = map(seeds, each.T)
        ratio = seeds(each[:, 0] / kinds[0, :, 0])
        assert_same(row, [title, cpu, sampling if name == "ours" else None, wall, ratio, voc / 1.150, coco / 14.41])
        assert_same(pictures["table3"]["groups"][title]["Ours"], ratio)
    for each in numbers:
        del each["spent"]["ofa-shrinking"]
    assert [row[4] for row in drawing("table3", numbers)[0]] == [None] * 3, "no ratio without shrinking"


def test_plateau():
    measured = BY_NAME["plateau"].measure(Study())
    rows, pictures = drawing("plateau", [measured])
    assert [(row[0], *(cell.mean for cell in row[1:])) for row in rows] == [
        ("Full net", 15, 30, 60, 30),
        ("Cheapest path", 0.5, 1, 2, 1),
        ("Middle path", 1, 2, 4, 2),
        ("Dearest path", 1.5, 3, 6, 3),
    ]
    assert [point[:2] for point in pictures["plateau"]["series"]["Full net"]] == [[0.5, 15], [1, 30], [2, 60]]


# ---- claims


def mean(values) -> float:
    return sum(values) / len(values)


def _paths_effect(e) -> float:
    return mean(
        [
            (a - b + c - d) / 2
            for a, b, c, d in zip(e["ours"], e["operations-all"], e["paths-score"], e["ofa"], strict=True)
        ]
    )


def _operations_effect(e) -> list[float]:
    return [
        (a - b + c - d) / 2
        for a, b, c, d in zip(e["ours"], e["paths-score"], e["operations-all"], e["ofa"], strict=True)
    ]


CONDITIONS = {  # claim -> evidence of one seed -> the value of each of its conditions, or all that must hold it
    "DO-1": lambda e: [mean(e["ours"]) - mean(e["ofa"]), [a - b for a, b in zip(e["ours"], e["ofa"], strict=True)]],
    "DO-2": lambda e: [mean(e["ours"]) - mean(e["ofa-shrinking"]), e["cost:ours"] / e["cost:ofa-shrinking"]],
    "DO-3": lambda e: [mean(e["gain"]), mean(e["gain"][:2]), mean(e["gain"][-2:])],
    "DO-4": lambda e: [e["precision:ours"] - e[f"precision:{name}"] for name in ("unbounded", "no-budget", "no-block")],
    "DO-5": lambda e: [e["tau:detection"] - e["tau:classification"], e["tau:detection"]],
    "DO-6": lambda e: [
        mean(e["operations-all"]) - mean(e["operations-flops"]),
        mean(e["operations-all"]) - mean(e["operations-bucket"]),
        _paths_effect(e),
    ],
    "DO-7": lambda e: [
        _paths_effect(e),
        _operations_effect(e)[0] - mean(_operations_effect(e)[1:]),
        mean(e["ours"]) - mean([*e["operations-ratio-40"], *e["paths-ratio-40"]]),
    ],
    "DO-8": lambda e: [mean(e["ofa"]) - mean(e["ofa-scratch"])],
    "DO-9": lambda e: [e["full"] - e["ours"][-1]],
    "DO-10": lambda e: [e["compofa"][0] - e["ofa"][0], e["compofa"][-1] - e["ofa"][-1]],
    "DO-11": lambda e: [mean(e["ours"]) - mean(e[name]) for name in EQUAL_COST],
    "DO-12": lambda e: [e["pruning:ours"]],
}
BOUNDS = {"DO-2": [("above", 0), ("below", 0.7)], "DO-9": [("below", 1)], "DO-10": [("below", 0), ("above", -0.5)]}
BOUNDS |= {"DO-12": [("below", 10)]}


def lowest(values: Sequence[Sequence[float]]) -> list[float]:
    """Of columns, the mean whose interval reaches lowest, the error divided among them; t of two seeds."""
    intervals = []
    for one, other in zip(*values, strict=True):
        half = math.tan(math.pi * (0.5 - 0.025 / len(values[0]))) * abs(one - other) / 2
        intervals.append([(one + other) / 2, (one + other) / 2 - half, (one + other) / 2 + half])
    return min(intervals, key=lambda interval: interval[1])


@pytest.mark.parametrize("name", CONDITIONS)
def test_every_condition_compares_what_its_rule_says(name):
    generator = np.random.default_rng(0)
    curve_names = [*VARIANTS, "gain"]
    scalars = ["full", "cost:ours", "cost:ofa-shrinking", "tau:detection", "tau:classification", "pruning:ours"]
    scalars += [f"precision:{each}" for each in exhibits.FILTERS]
    by_seed = [
        {each: generator.uniform(20, 40, size=3).tolist() for each in curve_names}
        | {each: float(generator.uniform(20, 40)) for each in scalars}
        for _ in BOTH
    ]
    values = {key: np.array([evidence[key] for evidence in by_seed]) for key in by_seed[0]}
    record = judge(CLAIMS[name], Evidence("scenes", "nano", BOTH, "typed", values), "detofa")
    expected = zip(*(CONDITIONS[name](evidence) for evidence in by_seed), strict=True)
    found = [[condition["difference"], *condition["interval"]] for condition in record["conditions"]]
    assert_same(found, [lowest(both) if np.ndim(both) > 1 else seeds(both) for both in expected])
    bounds = BOUNDS.get(name, [("above", 0)] * len(found))
    assert [(condition.direction, condition.threshold) for condition in CLAIMS[name].conditions] == bounds
    nothing = judge(CLAIMS[name], Evidence("scenes", "nano", BOTH, "typed", {}), "detofa")
    assert nothing["reason"].startswith("not measured: ")
