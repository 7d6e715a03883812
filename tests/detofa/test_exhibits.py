"""DetOFA's exhibits and claims: made-up numbers against naive formulas, words against those published; no training."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from common.plain import InputError, from_json, read_json, to_json
from common.report.claims import Evidence, judge, read_claims
from common.report.exhibit import ExhibitResult, Setting, printed
from common.report.reproduce import draw, stacked_evidence
from common.report.statistics import Difference
from detofa import exhibits
from detofa.exhibits import FOLDER, LABELS, PAPER
from detofa.presets import ABLATIONS, NANO, VARIANTS
from detofa.space import OFAResNetSpace

PUBLISHED = Path(__file__).resolve().parents[2] / "results" / "nano" / "detofa"
SETTING = Setting("scenes", "nano", to_json(NANO), {"constraint": "macs"})
T = 12.706204736  # quantile of Student's t with one degree of freedom: two seeds
NAN = math.nan
BY_NAME = PAPER.by_name
CLAIMS = {claim.id: claim for claim in PAPER.claims}
BOTH = (0, 1)  # the two seeds of all made-up numbers


def seeds(one: float, other: float) -> list[float]:
    """Mean, low and high over two seeds."""
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
    drawn = BY_NAME[name].draw(measured, setting)
    return list(drawn.table.rows), {picture.name: to_json(picture.data) for picture in drawn.pictures}


# ---- what exhibits and claims are called, and where they stand


@pytest.mark.parametrize("name", BY_NAME)
def test_published_numbers_are_drawn_as_published(name):
    """Titles, captions, notes, columns, units and labels; below it is numbers."""
    committed, record = ExhibitResult.load(PUBLISHED / f"{name}.json"), read_json(PUBLISHED / "measured.json")[name]
    numbers = {int(seed): values for seed, values in record["seeds"].items()}
    again = draw(PAPER, BY_NAME[name], numbers, from_json(Setting, record["setting"]), committed.command)
    for field in ("title", "caption", "units", "table", "pictures"):
        assert_same(to_json(getattr(again, field)), to_json(getattr(committed, field)))
    assert again.notes == committed.notes[: len(again.notes)]


def test_claims_have_the_published_words_and_rules():
    committed = read_claims(PUBLISHED / "claims.json")
    assert list(CLAIMS) == list(committed) == [f"DO-{number}" for number in range(1, 11)]
    for name, claim in CLAIMS.items():
        record = committed[name]
        assert (claim.where, claim.statement) == (record["where"], record["statement"])
        assert (claim.paper_value, claim.rule) == (record["paper"], record["rule"])
        for condition, rule in zip(claim.conditions, record["conditions"], strict=True):
            assert (condition.direction, condition.threshold) == (rule["direction"], rule["threshold"])
            assert condition.unit == rule["unit"]
            worth_finding = {"AP points": 0.5, "tau": 0.1, "": 0.5 if name == "DO-2" else 0.05}
            assert condition.effect == worth_finding[condition.unit]
        assert claim.exhibits == (("figure5",) if name == "DO-2" else ())


def test_exhibits_are_the_papers_in_its_order():
    drawings = {"figure1", "figure2", "figure3", "figure4"}  # of the method: nothing is measured
    assert list(BY_NAME) == [name for name in printed(FOLDER)["exhibits"] if name not in drawings]
    assert (PAPER.name, PAPER.title) == ("detofa", "DetOFA")
    assert {exhibit.name: (exhibit.shows, [claim.id for claim in exhibit.claims]) for exhibit in PAPER.exhibits} == {
        "table1": ("exact sizes, and the printed formulas", []),
        "figure5": ("AP of the nets found, by method and budget", ["DO-1", "DO-8", "DO-9", "DO-10"]),
        "figure6": ("AP of sampled paths, ours and OFA", ["DO-3"]),
        "figure7": ("how far scores follow operation size", ["DO-5"]),
        "table2": ("precision for the weakest quarter of paths", ["DO-4"]),
        "table3": ("seconds to the finished supernet", ["DO-2"]),
        "figure8": ("AP of the nets found, by pruning strategy", ["DO-6"]),
        "figure9": ("AP of the nets found, by pruning ratio", ["DO-7"]),
    }


def test_a_reproduction_begins_with_its_data_and_networks():
    study = SimpleNamespace(
        detector=lambda: SimpleNamespace(parameters=lambda: [SimpleNamespace(numel=lambda: 1500)] * 2),
        constraint=SimpleNamespace(lowest=6268992.0, highest=40345344.0, unit="MAC"),
        training_set=range(48),
        sets={"validation": range(24)},
    )
    assert PAPER.describe(study) == (
        "48 training and 24 validation images; supernet 3,000 parameters, paths of 6.269e+06 to 4.035e+07 MAC"
    )


# ---- a made-up study


class Study:
    """Results of variants that are finished, and of all else that exhibits ask for; `asked` says what was."""

    seed = 3
    budgets = (10e6, 20e6)
    space = NANO.space
    constraint = SimpleNamespace(lowest=1.0, highest=6.0, buckets=5)

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
        return self.results[name]

    def shared(self, what):
        self.asked.append(what)

    def sampled(self, name):
        self.asked.append(f"sampled-{name}")
        ap = {"ours": (0.3, 0.5, None, 0.8), "ofa": (0.1, 0.2, 0.4, None)}[name]
        buckets = (0, 0, 1, 4)
        return [
            {"cost": 1.5 + bucket, "bucket": bucket, "status": "done"} | ({} if value is None else {"AP": value})
            for value, bucket in zip(ap, buckets, strict=True)
        ]

    def cross_validated(self, name):
        self.asked.append(f"filter-ablation-{name}")
        losses = [1.0, 2.0, 3.0, 4.0]
        scores = {"ours": [0.9, 0.8, 0.7, 0.1], "no-block": [0.1, 0.8, 0.7, 0.9]}.get(name, [0.5, 0.2, 0.7, 0.6])
        return {"scores": scores, "losses": losses, "buckets": [2, 2, 2, 2]}

    def operation_scores(self, what):
        self.asked.append(what)
        index = np.array([[0, 0, 0, 0], [0, 0, 0, 1], [3, 0, 0, 0], [3, 0, 0, 1]])  # blocks 0 and 1
        score = {"filter": [0.4, 0.3, 0.1, 0.2], "warm-up": [0.1, 0.2, 0.3, 0.9]}[what]
        return SimpleNamespace(index=index, score=np.array(score), cost=np.array([1.0, 2.0, 3.0, 4.0]))


def found(*pairs) -> list:
    """Records of nets: (AP 0..1, cost), or None."""
    return [None if pair is None else {"AP": pair[0], "cost": pair[1]} for pair in pairs]


def evidence_of(measured, study) -> dict:
    """name -> (value, what was asked of the study for it)."""
    values = {}
    for name, value in measured["evidence"].items():
        study.asked.clear()
        values[name] = (value(), list(study.asked))
    return values


# ---- table 1


def test_table1():
    measured = BY_NAME["table1"].measure(Study())
    stem = 2 * 3 * 3
    paper = {"OFA": 351**3 * 3159, "CompOFA*": 117**3 * (3**4 + 3**5 + 3**6)}
    block = 3 + 9 + 27  # one to three layers of three ratios
    own = {"OFA": (3 * block) ** 4, "CompOFA*": block**4}
    formula = {"OFA": ((9 + 9) * (27 + 27) * (81 + 81)) ** 4, "CompOFA*": (9 + 27 + 81) ** 4}
    assert measured == {
        "paper": {name: {"backbone": size, "with stem": size * stem} for name, size in paper.items()},
        "scale": {name: {"backbone": size, "with stem": size * stem} for name, size in own.items()},
        "formula": formula,
    }
    spaces = {row[0]: row[1] for row in printed(FOLDER)["exhibits"]["table1"]["printed"]["rows"]}
    rows, pictures = drawing("table1", [measured, measured])
    assert [list(row) for row in rows] == [
        [name, spaces[name], paper[name], paper[name] * stem, formula[name], own[name]] for name in ("OFA", "CompOFA*")
    ]
    assert pictures == {}


# ---- AP against cost: figures 5, 8 and 9

FIGURE5 = ("ours", "ofa", "ofa-shrinking", "compofa", "ofa-scratch", "fullnet")
FIGURE8 = ("operations-all", "operations-bucket", "operations-flops", "paths-score", "ofa")
FIGURE9 = ("ours", "operations-ratio-40", "paths-ratio-40", "paths-score", "operations-all")


def made_up(place: int) -> dict:
    """A variant's result, another for each place."""
    return {"found": found((0.2 + place / 100, 9e6 + place), (0.3 + place / 50, 19e6 + place))}


@pytest.mark.parametrize(("exhibit", "names"), [("figure5", FIGURE5), ("figure8", FIGURE8), ("figure9", FIGURE9)])
def test_curves_are_measured_of_these_variants(exhibit, names):
    results = {name: made_up(place) for place, name in enumerate(names)}
    if exhibit == "figure5":
        results["fullnet"] = {"full": {"AP": 0.45, "cost": 40e6}}
    if "ours" in names:
        results["ours"] |= {"random": found((0.21, 8e6), None)}
    study = Study(results, finished=names[:1])
    measured = BY_NAME[exhibit].measure(study)
    expected = {
        name: {"AP": [20.0 + place, 30.0 + 2 * place], "cost": [9e6 + place, 19e6 + place]}
        for place, name in enumerate(names)
        if name != "fullnet"
    }
    chance = {"random": {"AP": [21.0, NAN], "cost": [8e6, NAN]}} if "ours" in names else {}
    assert_same(measured["curves"], expected | chance)
    assert (measured["budgets"], measured["missing"]) == ((10e6, 20e6), {})
    assert [name for name in study.asked if name.startswith("prepare")] == [f"prepare {name}" for name in names[1:]]
    values = {name: (curve["AP"], [name]) for name, curve in expected.items()}
    if exhibit == "figure5":
        assert_same(measured["full"], {"AP": 45.0, "cost": 40e6})
        values["full"] = (45.0, ["fullnet"])
    assert_same(evidence_of(measured, study), values)


def test_a_variant_without_result_does_not_cost_the_others_theirs(capsys):
    results = {name: made_up(0) for name in FIGURE8} | {"operations-flops": InputError("no path costs so little")}
    measured = BY_NAME["figure8"].measure(Study(results))
    assert set(measured["curves"]) == set(FIGURE8) - {"operations-flops"}
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
            "missing": {},
        }
        | ({"full": FULL[seed]} if full else {})
        for seed in BOTH
    ]


def curve_row(title: str, name: str, reference: str) -> list:
    """Title, AP at each budget, its mean over the budgets, and the reference's mean minus it."""
    means, theirs = AP[name].mean(axis=1), AP[reference].mean(axis=1)
    return [
        title,
        *(seeds(*ap) for ap in AP[name].T),
        seeds(*means),
        None if name == reference else seeds(*theirs - means),
    ]


def series(titles: dict) -> dict:
    """Title -> (mean cost in MMACs, AP with its interval) at each budget."""
    return {
        title: [[cost.mean() / 1e6, *seeds(*ap)] for cost, ap in zip(COST[name].T, AP[name].T, strict=True)]
        for name, title in titles.items()
    }


TITLES5 = {name: LABELS[name] for name in ("ours", "ofa", "ofa-shrinking", "compofa", "random")}
SCRATCH = LABELS["ofa-scratch"]


def test_figure5():
    rows, pictures = drawing("figure5", curves(*TITLES5, "ofa-scratch", full=True))
    best_of_ours = AP["ours"].max(axis=1)
    expected = [
        *(curve_row(title, name, "ours") for name, title in (TITLES5 | {"ofa-scratch": SCRATCH}).items()),
        ["Fullnet", None, None, seeds(40.0, 43.0), seeds(best_of_ours[0] - 40.0, best_of_ours[1] - 43.0)],
    ]
    assert_same(rows, expected)
    order = [*TITLES5.values(), SCRATCH]
    picture = {"series": series(TITLES5), "cost_label": X_AXIS, "references": {"Fullnet": [42.0, 41.5]}, "order": order}
    assert_same(pictures, {"figure5": picture})


def test_figure5_without_the_full_net_and_without_ours():
    drawn = BY_NAME["figure5"].draw(curves("ofa", "compofa"), SETTING)
    assert [(row[0], row[-1]) for row in drawn.table.rows] == [("OFA (w/o PS)", None), ("CompOFA*", None)]
    assert drawn.notes == ["No transfer (Section 4.2) starts from random weights; it is not drawn."]
    assert drawn.pictures[0].data["references"] == {}
    only_one_seed = curves("ofa", full=True)
    del only_one_seed[1]["full"]
    assert len(BY_NAME["figure5"].draw(only_one_seed, SETTING).table.rows) == 1
    rows, _ = drawing("figure5", curves("ofa", full=True))
    assert_same(rows[-1], ["Fullnet", None, None, seeds(40.0, 43.0), None])


def test_a_budget_without_a_net_is_no_point_of_the_picture_and_no_number_of_the_table():
    measured = curves("ours", "ofa")
    for numbers in measured:
        numbers["curves"]["ofa"] = {"AP": [19.0, None], "cost": [8e6, None]}
    rows, pictures = drawing("figure5", measured)
    assert math.isnan(rows[1][2].mean)
    assert len(pictures["figure5"]["series"]["OFA (w/o PS)"]) == 1
    result = draw(PAPER, BY_NAME["figure5"], {0: measured[0] | {"missing": {"CompOFA*": "no path"}}}, SETTING, "typed")
    assert "CompOFA* has no result for seed 0: no path." in result.notes


PANELS = {
    "figure8": {
        "Operations": {
            "operations-all": "FLOPs & score (all)",
            "operations-bucket": "FLOPs & score (per bucket)",
            "operations-flops": "FLOPs",
            "ofa": "none",
        },
        "Paths": {"paths-score": "score-based", "ofa": "uniform"},
    },
    "figure9": {
        "Operations": {"paths-score": "r_op 0", "ours": "r_op 0.3", "operations-ratio-40": "r_op 0.4"},
        "Paths": {"operations-all": "r_path 0", "ours": "r_path 0.25", "paths-ratio-40": "r_path 0.4"},
    },
}


@pytest.mark.parametrize("name", PANELS)
def test_figures_8_and_9(name):
    rows, pictures = drawing(name, curves(*AP))
    reference = {panel: "ours" if name == "figure9" else next(iter(labels)) for panel, labels in PANELS[name].items()}
    assert_same(
        rows,
        [
            [panel, *curve_row(title, variant, reference[panel])]
            for panel, labels in PANELS[name].items()
            for variant, title in labels.items()
        ],
    )
    expected = {
        f"{name}-{panel.lower()}": {"series": series(labels), "cost_label": X_AXIS}
        for panel, labels in PANELS[name].items()
    }
    assert_same(pictures, expected)


@pytest.mark.parametrize(
    ("constraint", "highest", "factor", "unit", "label"),
    [
        ("macs", 9.9e8, 1e6, "MMACs", "Multiply-accumulates of the backbone at 96x96 (MMACs)"),
        ("macs", 1e9, 1e9, "GMACs", "Multiply-accumulates of the backbone at 96x96 (GMACs)"),
        ("params", 9.9e8, 1e6, "million parameters", "Parameters of the backbone (million parameters)"),
        ("params", 1e9, 1e9, "billion parameters", "Parameters of the backbone (billion parameters)"),
        ("latency", 2e9, 1.0, "ms", "Latency of the backbone at 96x96, batch 1 (ms)"),
    ],
)
def test_costs_have_their_unit(constraint, highest, factor, unit, label):
    setting = Setting("scenes", "nano", to_json(NANO), {"constraint": constraint})
    assert exhibits.cost_axis(setting, highest) == (factor, unit, label)


# ---- figure 6


def test_figure6_is_measured_of_ours_and_ofa():
    study = Study({"ours": {}, "ofa": {}})
    measured = BY_NAME["figure6"].measure(study)
    rest = {"cost": [1.5, 1.5, 2.5, 5.5], "bucket": [0, 0, 1, 4]}
    accuracy = {"ours": [30.0, 50.0, NAN, 80.0], "ofa": [10.0, 20.0, 40.0, NAN]}
    assert_same(measured["sampled"], {name: {"AP": values, **rest} for name, values in accuracy.items()})
    assert measured["edges"] == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert measured["missing"] == {}
    means = {"ours": [40.0, NAN, NAN, NAN, 80.0], "ofa": [15.0, 40.0, NAN, NAN, NAN]}
    expected = {f"sampled:{name}": (values, [f"sampled-{name}"]) for name, values in means.items()}
    assert_same(evidence_of(measured, study), expected)


def test_bucket_means_leave_failed_paths_out():
    sampled = {"AP": [1.0, 3.0, 5.0, None], "bucket": [0, 0, 2, None]}
    assert exhibits.bucket_means(sampled, 4) == pytest.approx([2.0, NAN, 5.0, NAN], nan_ok=True)


def test_figure6():
    """Two seeds, two buckets; a path of ours failed."""
    means = {"ours": [[10.0, 20.0], [12.0, 23.0]], "ofa": [[9.0, 21.0], [10.0, 22.0]]}

    def sampled(*names: str) -> list[dict]:
        second = {"ours": None, "ofa": 7.0}
        paths = [
            {name: {"AP": [means[name][seed][0], second[name]], "cost": [5e6 + seed * 1e6, 7e6]} for name in names}
            for seed in BOTH
        ]
        evidence = [{f"sampled:{name}": means[name][seed] for name in names} for seed in BOTH]
        return [{"edges": [4e6, 6e6, 8e6], "sampled": paths[seed], "evidence": evidence[seed]} for seed in BOTH]

    rows, pictures = drawing("figure6", sampled("ours", "ofa"))
    assert_same(
        rows,
        [
            ["1: 4 to 6 MMACs", seeds(10.0, 12.0), seeds(9.0, 10.0), seeds(1.0, 2.0)],
            ["2: 6 to 8 MMACs", seeds(20.0, 23.0), seeds(21.0, 22.0), seeds(-1.0, 1.0)],
        ],
    )
    dots = {
        "DetOFA (ours)": [[5.0, 10.0], [6.0, 12.0]],
        "OFA (w/o PS)": [[5.0, 9.0], [7.0, 7.0], [6.0, 10.0], [7.0, 7.0]],
    }
    rest = {"edges": [4.0, 6.0, 8.0], "cost_label": X_AXIS, "order": [*TITLES5.values(), SCRATCH]}
    assert_same(pictures, {"figure6": {"points": dots, **rest}})
    assert_same(drawing("figure6", sampled("ofa"))[0][0], ["1: 4 to 6 MMACs", seeds(9.0, 10.0), None])


def test_a_bucket_that_one_method_leaves_empty_is_dropped_for_all():
    by_seed = [
        {"ours": [1, 2, 3], "sampled:ours": [1, NAN, 3], "sampled:ofa": [1, 2, 3]},
        {"ours": [2, 3, 4], "sampled:ours": [1, 2, 3], "sampled:ofa": [1, 2, 3]},
    ]
    values = stacked_evidence(by_seed, PAPER.comparable)
    assert values["ours"].tolist() == [[1, 2, 3], [2, 3, 4]]
    assert values["sampled:ours"].tolist() == values["sampled:ofa"].tolist() == [[1, 3], [1, 3]]
    assert stacked_evidence([{"ours": [1]}], PAPER.comparable)["ours"].tolist() == [[1]]


# ---- figure 7


def test_figure7_is_measured_of_both_filters():
    study = Study()
    measured = BY_NAME["figure7"].measure(study)
    assert measured["index"] == [[0, 0, 0, 0], [0, 0, 0, 1], [3, 0, 0, 0], [3, 0, 0, 1]]
    assert measured["supernets"] == {
        "classification": {"score": [0.4, 0.3, 0.1, 0.2], "tau": [-1.0, 1.0]},
        "detection": {"score": [0.1, 0.2, 0.3, 0.9], "tau": [1.0, 1.0]},
    }
    expected = {"tau:classification": (0.0, ["filter"]), "tau:detection": (1.0, ["warm-up"])}
    assert evidence_of(measured, study) == expected


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
    space = OFAResNetSpace((1, 1, 1, 1), (0, 1), (0.5, 1.0), (0.25,), (8, 8, 8, 8), 8)
    tau, score = np.random.default_rng(0).uniform(size=(2, 2, 2, 2))  # each: supernet, seed, block or operation
    names = ("classification", "detection")
    measured = [
        {
            "index": [[0, 0, 1, 0], [1, 1, 0, 0]],
            "supernets": {
                n: {"score": score[at, seed].tolist(), "tau": tau[at, seed].tolist()} for at, n in enumerate(names)
            },
        }
        for seed in BOTH
    ]
    setting = Setting("scenes", "nano", to_json(NANO) | {"space": to_json(space)}, {"constraint": "macs"})
    rows, pictures = drawing("figure7", measured, setting)
    titles = ("Classification (pre-training)", "Detection (warm-up)", "Detection minus classification")
    by_row = zip(titles, [*tau, tau[1] - tau[0]], strict=True)
    assert_same(rows, [[title, seeds(*t.mean(axis=1)), seeds(*t[:, 0]), seeds(*t[:, 1])] for title, t in by_row])
    labels = {
        "row_labels": ["D0 W0.5 E0.25", "D0 W1 E0.25", "D1 W0.5 E0.25", "D1 W1 E0.25"],
        "column_labels": ["1.1", "1.2", "2.1", "2.2", "3.1", "3.2", "4.1", "4.2"],
        "value_label": "Operation score",
        "row_label": "Operation",
        "column_label": "Layer",
    }
    expected = {}
    for at, name in enumerate(names):
        values = [[None] * 8 for _ in range(4)]
        values[1][0], values[2][1] = score[at].mean(axis=0).tolist()
        expected[f"figure7-{name}"] = {"values": values, **labels}
    assert_same(pictures, expected)


# ---- table 2


def _naive_detection(scores, losses, buckets):
    flagged, weak = set(), set()
    for bucket in set(buckets):
        members = [path for path in range(len(scores)) if buckets[path] == bucket]
        quarter = round(len(members) / 4)
        flagged |= set(sorted(members, key=lambda path: scores[path])[:quarter])
        weak |= set(sorted(members, key=lambda path: -losses[path])[:quarter])
    right = sum((path in flagged) == (path in weak) for path in range(len(scores)))
    return {
        "accuracy": right / len(scores),
        "precision": len(flagged & weak) / len(flagged),
        "recall": len(flagged & weak) / len(weak),
        "found": len(flagged & weak) / len(scores),
        "tau": -_naive_tau(scores, losses, buckets),
    }


def test_detection_of_weak_equals_a_naive_loop():
    generator = np.random.default_rng(0)
    buckets = generator.integers(5, size=83)
    losses = generator.random(83)
    scores = -losses + 0.4 * generator.random(83)
    expected = _naive_detection(scores, losses, buckets)
    assert exhibits.detection_of_weak(scores, losses, buckets) == pytest.approx(expected)
    assert exhibits.detection_of_weak(-losses + 10 * buckets, losses, buckets)["precision"] == 1, "inside buckets"
    nobody = exhibits.detection_of_weak(np.array([0.1, 0.2]), np.array([1.0, 2.0]), np.array([0, 0]))
    assert (nobody["precision"], nobody["recall"], nobody["found"]) == (0, 0, 0), "too few paths for a quarter"


def test_ties_are_weak_by_position():
    badness = np.tile([1.0, 1.0, 1.0, 0.0], 100)
    weak = exhibits.weakest_quarter(badness, np.zeros(400))
    assert np.flatnonzero(weak).tolist() == np.flatnonzero(badness > 0)[:100].tolist()


def test_table2_is_measured_of_every_ablation():
    study = Study()
    measured = BY_NAME["table2"].measure(study)
    scored = {name: study.cross_validated(name) for name in ABLATIONS}
    assert_same(measured["numbers"], {name: _naive_detection(**values) for name, values in scored.items()})
    precision = {"unbounded": 0.0, "no-budget": 0.0, "no-block": 0.0, "ours": 1.0}
    expected = {f"precision:{name}": (value, [f"filter-ablation-{name}"]) for name, value in precision.items()}
    assert_same(evidence_of(measured, study), expected)


def test_the_papers_recall_is_found_over_all():
    for *_, accuracy, precision, recall in printed(FOLDER)["exhibits"]["table2"]["printed"]["rows"][1:]:
        assert recall == pytest.approx(0.25 * precision, abs=0.025)
        assert accuracy == pytest.approx(1 - 2 * 0.25 * (1 - precision), abs=0.02)


def test_table2():
    keys = ("accuracy", "precision", "recall", "found", "tau")
    numbers = np.random.default_rng(0).uniform(size=(4, 5, 2))  # ablation, number, seed
    by_seed = [
        {
            name: dict(zip(keys, row[:, seed].tolist(), strict=True))
            for name, row in zip(ABLATIONS, numbers, strict=True)
        }
        for seed in BOTH
    ]
    rows, pictures = drawing("table2", [{"numbers": each} for each in by_seed])
    gains = [*(seeds(*gain) for gain in numbers[3, 1] - numbers[:3, 1]), None]
    switches = [[at != off for at in range(3)] for off in range(4)]
    cells = [[seeds(*values) for values in row] for row in numbers]
    assert_same(rows, [[*switches[at], *cells[at], gains[at]] for at in range(4)])
    titles = ("Without bounded loss", "Without budget", "Without block position", "Whole filter")
    theirs = zip(titles, cells, (0.590, 0.830, 0.850, 0.870), strict=True)
    groups = {title: {"Ours": row[1], "Paper": [precision, None, None]} for title, row, precision in theirs}
    assert_same(pictures, {"table2": {"groups": groups, "value_label": "Precision for the weakest quarter"}})


# ---- table 3


def test_table3_is_measured_without_the_searchs_sampling():
    def part(cpu: float) -> dict:
        return {"cpu_seconds": cpu, "seconds": 10 * cpu}

    plain = {"warm-up": part(1.0), "fine-tuning": part(2.0), "search sampling": part(100.0)}
    results = {name: {"costs": plain} for name in ("ofa-shrinking", "ofa", "compofa")}
    results["ours"] = {"costs": plain | {"sampling": part(4.0), "filter": part(8.0)}}
    study = Study(results)
    measured = BY_NAME["table3"].measure(study)
    spent = {name: {"cpu": 3.0, "wall": 30.0, "sampling": None} for name in results}
    assert measured["spent"] == spent | {"ours": {"cpu": 15.0, "wall": 150.0, "sampling": 4.0}}
    assert measured["missing"] == {}
    expected = {f"cost:{name}": (15.0 if name == "ours" else 3.0, [name]) for name in results}
    assert evidence_of(measured, study) == expected


SPENT = dict(zip(exhibits.METHODS, np.random.default_rng(0).uniform(10, 99, size=(4, 2, 3)), strict=True))  # seed, kind
THEIRS = {
    "OFA (w/ PS)": (1.150, 14.41),
    "OFA (w/o PS)": (0.383, 4.804),
    "CompOFA*": (0.383, 4.804),
    "Ours": (0.8, 5.26),
}


def spent(*names: str) -> list[dict]:
    """Of two seeds: CPU seconds, wall clock, and path sampling, which only ours has."""
    return [
        {
            "spent": {
                name: {"cpu": SPENT[name][seed, 0], "wall": SPENT[name][seed, 1]}
                | {"sampling": SPENT[name][seed, 2] if name == "ours" else None}
                for name in names
            }
        }
        for seed in BOTH
    ]


def test_table3():
    rows, pictures = drawing("table3", spent(*SPENT))
    expected, groups = [], {}
    for (name, values), (title, (voc, coco)) in zip(SPENT.items(), THEIRS.items(), strict=True):
        cpu, wall, sampling = (seeds(*values[:, kind]) for kind in range(3))
        ratio = seeds(*values[:, 0] / SPENT["ofa-shrinking"][:, 0])
        expected.append([title, cpu, sampling if name == "ours" else None, wall, ratio, voc / 1.150, coco / 14.41])
        theirs = {"Paper, Pascal VOC": [voc / 1.150, None, None], "Paper, COCO": [coco / 14.41, None, None]}
        groups[title] = {"Ours": ratio, **theirs}
    assert_same(rows, expected)
    assert_same(pictures, {"table3": {"groups": groups, "value_label": "Cost over that of OFA (w/ PS)"}})
    rows, pictures = drawing("table3", spent("ofa", "ours"))
    assert [(row[0], row[4]) for row in rows] == [("OFA (w/o PS)", None), ("Ours", None)], "no ratio without shrinking"
    assert pictures == {}


# ---- claims


def mean(values) -> float:
    return sum(values) / len(values)


CONDITIONS = {  # claim -> evidence of one seed -> the value of each of its conditions
    "DO-1": lambda e: [mean(e["ours"]) - mean(e["ofa"])],
    "DO-2": lambda e: [mean(e["ours"]) - mean(e["ofa-shrinking"]), e["cost:ours"] / e["cost:ofa-shrinking"]],
    "DO-3": lambda e: [mean(e["sampled:ours"]) - mean(e["sampled:ofa"])],
    "DO-4": lambda e: [e["precision:ours"] - e[f"precision:{name}"] for name in ("unbounded", "no-budget", "no-block")],
    "DO-5": lambda e: [e["tau:detection"] - e["tau:classification"]],
    "DO-6": lambda e: [
        mean(e["operations-all"]) - mean(e["operations-flops"]),
        mean(e["operations-all"]) - mean(e["operations-bucket"]),
        mean(e["paths-score"]) - mean(e["ofa"]),
    ],
    "DO-7": lambda e: [
        mean(e["ours"]) - mean(e["operations-all"]),
        e["ours"][0] - e["paths-score"][0],
        mean(e["ours"]) - mean([*e["operations-ratio-40"], *e["paths-ratio-40"]]),
    ],
    "DO-8": lambda e: [mean(e["ofa"]) - mean(e["ofa-scratch"])],
    "DO-9": lambda e: [e["full"] - max(e["ours"])],
    "DO-10": lambda e: [e["compofa"][-1] - e["ofa"][-1], e["compofa"][0] - e["ofa"][0]],
}


def made_up_evidence() -> list[dict]:
    """Of two seeds, three budgets: all numbers different."""
    generator = np.random.default_rng(0)
    curve_names = [name for name in VARIANTS if name != "fullnet"] + ["sampled:ours", "sampled:ofa"]
    scalars = ["full", "cost:ours", "cost:ofa-shrinking", "tau:detection", "tau:classification"]
    scalars += [f"precision:{name}" for name in ABLATIONS]
    return [
        {name: generator.uniform(10, 40, size=3).tolist() for name in curve_names}
        | {name: float(generator.uniform(1, 2)) for name in scalars}
        for _ in BOTH
    ]


@pytest.mark.parametrize("name", CONDITIONS)
def test_every_condition_compares_what_its_rule_says(name):
    by_seed = made_up_evidence()
    values = {key: np.array([evidence[key] for evidence in by_seed]) for key in by_seed[0]}
    record = judge(CLAIMS[name], Evidence("scenes", "nano", BOTH, "typed", values), "detofa")
    expected = np.array([CONDITIONS[name](evidence) for evidence in by_seed])
    found = [[condition["difference"], *condition["interval"]] for condition in record["conditions"]]
    assert_same(found, [seeds(*both) for both in expected.T])
    nothing = judge(CLAIMS[name], Evidence("scenes", "nano", BOTH, "typed", {}), "detofa")
    assert nothing["reason"].startswith("not measured: ")
