"""DetOFA's exhibits and claims on made-up numbers, cell by cell against numbers written out here; no training."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from common.plain import InputError, to_json
from common.report.claims import Evidence, judge
from common.report.exhibit import Setting, printed
from common.report.reproduce import draw, judge_measured, measure_exhibit, stacked_evidence
from common.report.statistics import Difference
from detofa import exhibits
from detofa.exhibits import FOLDER, LABELS, PAPER
from detofa.presets import NANO, VARIANTS
from detofa.reproduce import Options
from detofa.space import OFAResNetSpace

SETTING = Setting("scenes", "nano", to_json(NANO), {"constraint": "macs"})
T = 12.706204736  # quantile of Student's t with one degree of freedom: two seeds
NAN = math.nan
BY_NAME = PAPER.by_name
CLAIMS = {claim.id: claim for claim in PAPER.claims}


def seeds(*values: float) -> tuple[float, float, float]:
    """Mean, low and high over two seeds, or over the only one."""
    mean = sum(values) / len(values)
    half = T * abs(values[0] - values[1]) / 2 if len(values) == 2 else NAN
    return mean, mean - half, mean + half


def assert_cells(row, expected) -> None:
    """Each cell: text, a number, None, or (mean, low, high) where the table has an interval."""
    assert len(row) == len(expected)
    for cell, wanted in zip(row, expected, strict=True):
        if isinstance(cell, Difference):
            assert (cell.mean, cell.low, cell.high) == pytest.approx(wanted, nan_ok=True), (row, cell)
        elif isinstance(wanted, float):
            assert cell == pytest.approx(wanted), row
        else:
            assert cell == wanted, row


def assert_same(found, expected) -> None:
    """Plain data: numbers to 1e-9, all else to the letter."""
    assert type(found) is type(expected) or isinstance(found, int | float) == isinstance(expected, int | float)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key, value in expected.items():
            assert_same(found[key], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, nan_ok=True)
    else:
        assert found == expected


def data(picture) -> dict:
    return to_json(picture.data)


def triple(*values: float) -> list:
    return to_json(list(seeds(*values)))


def test_exhibits_are_the_papers_in_its_order():
    drawings = {"figure1", "figure2", "figure3", "figure4"}  # of the method: nothing is measured
    assert [exhibit.name for exhibit in PAPER.exhibits] == [
        name for name in printed(FOLDER)["exhibits"] if name not in drawings
    ]
    assert (PAPER.name, PAPER.title) == ("detofa", "DetOFA")
    assert {exhibit.name: (exhibit.title, exhibit.shows) for exhibit in PAPER.exhibits} == {
        "table1": ("The search spaces", "exact sizes, and the printed formulas"),
        "figure5": ("The best architecture at each budget", "AP of the nets found, by method and budget"),
        "figure6": ("Uniformly sampled paths in cost buckets", "AP of sampled paths, ours and OFA"),
        "figure7": ("Operation scores for classification and detection", "how far scores follow operation size"),
        "table2": ("Ablation of the path filter", "precision for the weakest quarter of paths"),
        "table3": ("Computation cost of training the supernet", "seconds to the finished supernet"),
        "figure8": ("Methods of operation pruning and path pruning", "AP of the nets found, by pruning strategy"),
        "figure9": ("Pruning ratios for operations and paths", "AP of the nets found, by pruning ratio"),
    }
    assert all(name in BY_NAME for claim in PAPER.claims for name in claim.exhibits)


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

    def recording(self):
        raise NotImplementedError


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
    drawn = BY_NAME["table1"].draw([measured, measured], SETTING)
    assert drawn.table.columns == (
        "Method",
        "Search space",
        "Size",
        "Size with stem choices",
        "Printed formula",
        "Size at this scale",
    )
    spaces = {row[0]: row[1] for row in printed(FOLDER)["exhibits"]["table1"]["printed"]["rows"]}
    assert [list(row) for row in drawn.table.rows] == [
        [name, spaces[name], paper[name], paper[name] * stem, formula[name], own[name]] for name in ("OFA", "CompOFA*")
    ]
    assert drawn.caption == "Number of paths of the two search spaces."
    assert drawn.notes == [
        "Size counts the different backbones of OFA-ResNet50 exactly: layers that depth drops have no expand ratio, "
        "and blocks have 2, 2, 4, 2 layers and up to 2 more. The printed formula has 2, 3 or 4 layers in every block "
        "and two terms for three widths. CompOFA*'s is taken to the fourth power, one factor a block.",
        "At this scale blocks have 1, 1, 1, 1 layers and up to 2 more.",
    ]
    assert drawn.pictures == ()


# ---- AP against cost: figures 5, 8 and 9

FIGURE5 = ("ours", "ofa", "ofa-shrinking", "compofa", "ofa-scratch", "fullnet")
FIGURE8 = ("operations-all", "operations-bucket", "operations-flops", "paths-score", "ofa")
FIGURE9 = ("ours", "operations-ratio-40", "paths-ratio-40", "paths-score", "operations-all")


def made_up(name: str, place: int) -> dict:
    """A variant's result, another for each."""
    return {"found": found((0.2 + place / 100, 9e6 + place), (0.3 + place / 50, 19e6 + place))}


@pytest.mark.parametrize(("exhibit", "names"), [("figure5", FIGURE5), ("figure8", FIGURE8), ("figure9", FIGURE9)])
def test_curves_are_measured_of_these_variants(exhibit, names):
    results = {name: made_up(name, place) for place, name in enumerate(names)}
    if exhibit == "figure5":
        results["fullnet"] = {"full": {"AP": 0.45, "cost": 40e6}}
    chance = {"AP": pytest.approx([21.0, NAN], nan_ok=True), "cost": pytest.approx([8e6, NAN], nan_ok=True)}
    if "ours" in names:
        results["ours"] |= {"random": found((0.21, 8e6), None)}
    study = Study(results, finished=names[:1])
    measured = BY_NAME[exhibit].measure(study)
    expected = {
        name: {
            "AP": pytest.approx([20.0 + place, 30.0 + 2 * place]),
            "cost": pytest.approx([9e6 + place, 19e6 + place]),
        }
        for place, name in enumerate(names)
        if name != "fullnet"
    }
    assert measured["curves"] == expected | ({"random": chance} if "ours" in names else {})
    assert (measured["budgets"], measured["missing"]) == ((10e6, 20e6), {})
    assert [name for name in study.asked if name.startswith("prepare")] == [f"prepare {name}" for name in names[1:]]
    values = evidence_of(measured, study)
    assert list(values) == ["full" if name == "fullnet" else name for name in names]
    for name, curve in expected.items():
        assert values[name] == (curve["AP"], [name])
    if exhibit == "figure5":
        assert measured["full"] == {"AP": pytest.approx(45.0), "cost": 40e6}
        assert values["full"] == (pytest.approx(45.0), ["fullnet"])


def test_a_variant_without_result_does_not_cost_the_others_theirs(capsys):
    results = {name: made_up(name, 0) for name in FIGURE8} | {"operations-flops": InputError("no path costs so little")}
    measured = BY_NAME["figure8"].measure(Study(results))
    assert set(measured["curves"]) == set(FIGURE8) - {"operations-flops"}
    assert measured["missing"] == {"FLOPs": "no path costs so little"}
    assert capsys.readouterr().err == "operations-flops, seed 3, has no result: no path costs so little\n"


# AP by variant, seed and budget; cost by variant and seed (the same at the second budget, plus 10e6).
CURVE_AP = {
    "ours": [[20.0, 30.0], [22.0, 33.0]],
    "ofa": [[19.0, 28.0], [20.0, 30.0]],
    "ofa-shrinking": [[18.0, 31.0], [19.0, 32.0]],
    "compofa": [[10.0, 35.0], [12.0, 34.0]],
    "random": [[15.0, 25.0], [16.0, 27.0]],
    "ofa-scratch": [[5.0, 7.0], [6.0, 9.0]],
    "operations-all": [[21.0, 29.0], [22.5, 31.0]],
    "operations-bucket": [[17.0, 27.0], [18.0, 29.0]],
    "operations-flops": [[16.0, 26.0], [18.0, 27.0]],
    "paths-score": [[14.0, 24.0], [17.0, 26.0]],
    "operations-ratio-40": [[13.0, 23.0], [14.0, 25.0]],
    "paths-ratio-40": [[12.0, 22.0], [15.0, 24.0]],
}
COST = {name: [8e6 + 1e5 * place, 9e6 + 3e5 * place] for place, name in enumerate(CURVE_AP)}
FULL = [{"AP": 40.0, "cost": 41e6}, {"AP": 43.0, "cost": 43e6}]
COLUMNS = ("≤ 10.5 MMACs", "≤ 20 MMACs")
X_AXIS = "Multiply-accumulates of the backbone at 96x96 (MMACs)"
FOUND = "AP in points of the net found for each budget, batch norm re-estimated, on the validation images. "


def curves(*names: str, full: bool = False) -> list[dict]:
    """Numbers of two seeds."""
    return [
        {
            "budgets": [10e6 + 1e6 * seed, 20e6],
            "curves": {
                name: {"AP": CURVE_AP[name][seed], "cost": [COST[name][seed], COST[name][seed] + 10e6]}
                for name in names
            },
            "missing": {},
        }
        | ({"full": FULL[seed]} if full else {})
        for seed in (0, 1)
    ]


def curve_row(title: str, name: str, reference: str) -> list:
    """Title, AP at each budget, its mean over the budgets, and the reference's mean minus it."""
    means = [sum(at_budgets) / 2 for at_budgets in CURVE_AP[name]]
    theirs = [sum(at_budgets) / 2 for at_budgets in CURVE_AP[reference]]
    behind = None if name == reference else seeds(theirs[0] - means[0], theirs[1] - means[1])
    return [title, *(seeds(*at_budget) for at_budget in zip(*CURVE_AP[name], strict=True)), seeds(*means), behind]


def series(**titles: str) -> dict:
    """Title -> (mean cost in MMACs, AP with its interval) at each budget."""
    return {
        title: [
            [sum(COST[name]) / 2e6 + 10 * budget, *triple(*(at_budgets[budget] for at_budgets in CURVE_AP[name]))]
            for budget in (0, 1)
        ]
        for name, title in ((name.replace("_", "-"), title) for name, title in titles.items())
    }


TITLES5 = {
    "ours": "DetOFA (ours)",
    "ofa": "OFA (w/o PS)",
    "ofa_shrinking": "OFA (w/ PS)",
    "compofa": "CompOFA*",
    "random": "Random search, same budget",
}
SCRATCH = "OFA (w/o PS), no transfer"


def test_figure5():
    names = [name.replace("_", "-") for name in TITLES5]
    drawn = BY_NAME["figure5"].draw(curves(*names, "ofa-scratch", full=True), SETTING)
    assert drawn.table.columns == ("Method", *COLUMNS, "Mean", "Ours minus it")
    best_of_ours = [30.0, 33.0]
    expected = [
        *(curve_row(title, name, "ours") for name, title in zip(names, TITLES5.values(), strict=True)),
        curve_row(SCRATCH, "ofa-scratch", "ours"),
        ["Fullnet", None, None, seeds(40.0, 43.0), seeds(best_of_ours[0] - 40.0, best_of_ours[1] - 43.0)],
    ]
    for row, wanted in zip(drawn.table.rows, expected, strict=True):
        assert_cells(row, wanted)
    assert drawn.units == {"Mean": "AP points", "Ours minus it": "AP points"}
    assert drawn.caption == FOUND + "Random search takes the sampled path of least loss in the supernet of ours."
    assert drawn.notes == [
        "Fullnet, the largest path trained alone, has no budget: its AP stands under Mean, its cost is 42 MMACs, and "
        "the last column compares the best net of ours with it.",
        "No transfer (Section 4.2) starts from random weights; it is not drawn.",
    ]
    (picture,) = drawn.pictures
    assert (picture.name, picture.kind) == ("figure5", "accuracy_against_cost")
    assert_same(
        data(picture),
        {
            "series": series(**TITLES5),
            "cost_label": X_AXIS,
            "references": {"Fullnet": [42.0, 41.5]},
            "order": [*TITLES5.values(), SCRATCH],
        },
    )


def test_figure5_without_the_full_net_and_without_ours():
    drawn = BY_NAME["figure5"].draw(curves("ofa", "compofa"), SETTING)
    assert [row[0] for row in drawn.table.rows] == ["OFA (w/o PS)", "CompOFA*"]
    assert all(row[-1] is None for row in drawn.table.rows)
    assert drawn.notes == ["No transfer (Section 4.2) starts from random weights; it is not drawn."]
    assert data(drawn.pictures[0])["references"] == {}
    only_one_seed = curves("ofa", full=True)
    del only_one_seed[1]["full"]
    assert len(BY_NAME["figure5"].draw(only_one_seed, SETTING).table.rows) == 1
    without_ours = BY_NAME["figure5"].draw(curves("ofa", full=True), SETTING)
    assert_cells(without_ours.table.rows[-1], ["Fullnet", None, None, seeds(40.0, 43.0), None])


def test_a_budget_without_a_net_is_no_point_of_the_picture_and_no_number_of_the_table():
    measured = curves("ours", "ofa")
    for numbers in measured:
        numbers["curves"]["ofa"] = {"AP": [19.0, None], "cost": [8e6, None]}
    drawn = BY_NAME["figure5"].draw(measured, SETTING)
    cell = drawn.table.rows[1][2]
    assert math.isnan(cell.mean)
    assert len(data(drawn.pictures[0])["series"]["OFA (w/o PS)"]) == 1
    result = draw(PAPER, BY_NAME["figure5"], {0: measured[0] | {"missing": {"CompOFA*": "no path"}}}, SETTING, "typed")
    assert "CompOFA* has no result for seed 0: no path." in result.notes


PANELS = {
    "figure8": (
        "Only operations or only paths are pruned.",
        ["Reference: FLOPs & score (all) (operations), score-based (paths)."],
        {
            "Operations": (
                {
                    "operations-all": "FLOPs & score (all)",
                    "operations-bucket": "FLOPs & score (per bucket)",
                    "operations-flops": "FLOPs",
                    "ofa": "none",
                },
                "operations-all",
            ),
            "Paths": ({"paths-score": "score-based", "ofa": "uniform"}, "paths-score"),
        },
    ),
    "figure9": (
        "r_op is the share of each cost bucket's operations that is removed (after 10 % of all, but for r_op = 0), "
        "r_path that of its paths.",
        ["Reference: r_op 0.3 (operations), r_path 0.25 (paths)."],
        {
            "Operations": (
                {"paths-score": "r_op 0", "ours": "r_op 0.3", "operations-ratio-40": "r_op 0.4"},
                "ours",
            ),
            "Paths": ({"operations-all": "r_path 0", "ours": "r_path 0.25", "paths-ratio-40": "r_path 0.4"}, "ours"),
        },
    ),
}


@pytest.mark.parametrize("name", PANELS)
def test_figures_8_and_9(name):
    caption, notes, panels = PANELS[name]
    drawn = BY_NAME[name].draw(curves(*CURVE_AP), SETTING)
    assert drawn.table.columns == ("Panel", "Method", *COLUMNS, "Mean", "Reference minus it")
    expected = [
        [panel, *curve_row(title, variant, reference)]
        for panel, (labels, reference) in panels.items()
        for variant, title in labels.items()
    ]
    for row, wanted in zip(drawn.table.rows, expected, strict=True):
        assert_cells(row, wanted)
    assert drawn.caption == FOUND + caption
    assert drawn.notes == notes
    assert drawn.units == {"Mean": "AP points", "Reference minus it": "AP points"}
    assert [(picture.name, picture.kind) for picture in drawn.pictures] == [
        (f"{name}-operations", "accuracy_against_cost"),
        (f"{name}-paths", "accuracy_against_cost"),
    ]
    for picture, (labels, _) in zip(drawn.pictures, panels.values(), strict=True):
        lines = series(**{variant.replace("-", "_"): title for variant, title in labels.items()})
        assert_same(data(picture), {"series": lines, "cost_label": X_AXIS})


@pytest.mark.parametrize(
    ("constraint", "highest", "factor", "label"),
    [
        ("macs", 9.9e8, 1e6, "Multiply-accumulates of the backbone at 96x96 (MMACs)"),
        ("macs", 1e9, 1e9, "Multiply-accumulates of the backbone at 96x96 (GMACs)"),
        ("params", 9.9e8, 1e6, "Parameters of the backbone (million parameters)"),
        ("params", 1e9, 1e9, "Parameters of the backbone (billion parameters)"),
        ("latency", 2e9, 1.0, "Latency of the backbone at 96x96, batch 1 (ms)"),
    ],
)
def test_costs_have_their_unit(constraint, highest, factor, label):
    setting = Setting("scenes", "nano", to_json(NANO), {"constraint": constraint})
    divisor, unit = exhibits.cost_unit(setting, highest)
    assert divisor == factor
    assert exhibits.cost_label(setting, unit) == label


# ---- figure 6


def test_figure6_is_measured_of_ours_and_ofa():
    study = Study({"ours": {}, "ofa": {}})
    measured = BY_NAME["figure6"].measure(study)
    expected = {"ours": ([30.0, 50.0, NAN, 80.0], [40.0, NAN, NAN, NAN, 80.0])}
    expected["ofa"] = ([10.0, 20.0, 40.0, NAN], [15.0, 40.0, NAN, NAN, NAN])
    assert measured["edges"] == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert measured["missing"] == {}
    assert list(measured["sampled"]) == ["ours", "ofa"]
    values = evidence_of(measured, study)
    for name, (accuracy, means) in expected.items():
        sampled = measured["sampled"][name]
        assert sampled["AP"] == pytest.approx(accuracy, nan_ok=True)
        assert (sampled["cost"], sampled["bucket"]) == ([1.5, 1.5, 2.5, 5.5], [0, 0, 1, 4])
        value, asked = values[f"sampled:{name}"]
        assert value == pytest.approx(means, nan_ok=True)
        assert asked == [f"sampled-{name}"]


def test_bucket_means_leave_failed_paths_out():
    sampled = {"AP": [1.0, 3.0, 5.0, None], "bucket": [0, 0, 2, None]}
    assert exhibits.bucket_means(sampled, 4) == pytest.approx([2.0, NAN, 5.0, NAN], nan_ok=True)


MEANS = {"ours": [[10.0, 20.0], [12.0, 23.0]], "ofa": [[9.0, 21.0], [10.0, 22.0]]}


def sampled_paths(*names: str) -> list[dict]:
    """Numbers of two seeds in two buckets; a path of ours failed."""
    return [
        {
            "edges": [4e6, 6e6, 8e6],
            "sampled": {
                name: {"AP": [MEANS[name][seed][0], None if name == "ours" else 7.0], "cost": [5e6 + seed * 1e6, 7e6]}
                for name in names
            },
            "evidence": {f"sampled:{name}": MEANS[name][seed] for name in names},
        }
        for seed in (0, 1)
    ]


def test_figure6():
    drawn = BY_NAME["figure6"].draw(sampled_paths("ours", "ofa"), SETTING)
    assert drawn.table.columns == ("Bucket", "DetOFA (ours)", "OFA (w/o PS)", "Ours minus OFA (w/o PS)")
    expected = [
        ["1: 4 to 6 MMACs", seeds(10.0, 12.0), seeds(9.0, 10.0), seeds(1.0, 2.0)],
        ["2: 6 to 8 MMACs", seeds(20.0, 23.0), seeds(21.0, 22.0), seeds(-1.0, 1.0)],
    ]
    for row, wanted in zip(drawn.table.rows, expected, strict=True):
        assert_cells(row, wanted)
    (picture,) = drawn.pictures
    assert (picture.name, picture.kind) == ("figure6", "scatter_by_bucket")
    assert_same(
        data(picture),
        {
            "points": {
                "DetOFA (ours)": [[5.0, 10.0], [6.0, 12.0]],
                "OFA (w/o PS)": [[5.0, 9.0], [7.0, 7.0], [6.0, 10.0], [7.0, 7.0]],
            },
            "edges": [4.0, 6.0, 8.0],
            "cost_label": X_AXIS,
            "order": [*TITLES5.values(), SCRATCH],
        },
    )
    assert drawn.caption == (
        "AP in points of 6 uniformly sampled paths in each of 2 cost buckets and for each seed, from the pruned space "
        "for ours and the whole space for OFA. Bars: a bucket's mean."
    )
    assert drawn.notes == ["A bucket that hardly any path of a space falls into has fewer paths, or none."]
    alone = BY_NAME["figure6"].draw(sampled_paths("ofa"), SETTING)
    assert_cells(alone.table.rows[0], ["1: 4 to 6 MMACs", seeds(9.0, 10.0), None])


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
    assert evidence_of(measured, study) == {
        "tau:classification": (0.0, ["filter"]),
        "tau:detection": (1.0, ["warm-up"]),
    }


def _naive_tau(score, cost):
    signs = [
        np.sign(score[one] - score[other]) * np.sign(cost[one] - cost[other])
        for one in range(len(score))
        for other in range(one)
    ]
    return sum(signs) / len(signs)


def test_tau_within_blocks_equals_a_naive_loop_and_ignores_other_blocks():
    generator = np.random.default_rng(3)
    layer_block = np.array([0, 0, 1, 1])
    index = np.array([[layer, 0, 0, expand] for layer in range(4) for expand in range(5)])
    score, cost = generator.random(20), generator.random(20)
    expected = [_naive_tau(score[:10], cost[:10]), _naive_tau(score[10:], cost[10:])]
    assert exhibits.tau_within_blocks(index, score, cost, layer_block) == pytest.approx(expected)
    shifted = score + 100 * (index[:, 0] > 1)
    assert exhibits.tau_within_blocks(index, shifted, cost, layer_block) == pytest.approx(expected)
    assert exhibits.tau_within_blocks(index, np.ones(20), cost, layer_block) == [0.0, 0.0], "ties follow nothing"


SPACE = OFAResNetSpace((1, 1, 1, 1), (0, 1), (0.5, 1.0), (0.25,), (8, 8, 8, 8), 8)


def test_figure7():
    index = [[0, 0, 1, 0], [1, 1, 0, 0]]
    tau = {"classification": [[0.1, 0.2], [0.3, 0.5]], "detection": [[0.4, 0.6], [0.5, 0.9]]}
    score = {"classification": [[0.2, 0.4], [0.4, 0.6]], "detection": [[0.7, 0.8], [0.9, 1.0]]}
    measured = [
        {"index": index, "supernets": {name: {"score": score[name][seed], "tau": tau[name][seed]} for name in tau}}
        for seed in (0, 1)
    ]
    setting = Setting("scenes", "nano", to_json(NANO) | {"space": to_json(SPACE)}, {"constraint": "macs"})
    drawn = BY_NAME["figure7"].draw(measured, setting)
    assert drawn.table.columns == ("Supernet", "Mean over blocks", "Block 1", "Block 2")
    expected = [
        ["Classification (pre-training)", seeds(0.15, 0.4), seeds(0.1, 0.3), seeds(0.2, 0.5)],
        ["Detection (warm-up)", seeds(0.5, 0.7), seeds(0.4, 0.5), seeds(0.6, 0.9)],
        ["Detection minus classification", seeds(0.35, 0.3), seeds(0.3, 0.2), seeds(0.4, 0.4)],
    ]
    for row, wanted in zip(drawn.table.rows, expected, strict=True):
        assert_cells(row, wanted)
    assert drawn.caption == (
        "Operation scores, the mean score of 100 paths with the operation inserted, mean over seeds. The table: "
        "Kendall's tau of score with cost of the operations of a block."
    )
    assert drawn.notes == [
        "Scores of two filters have no common scale: compare patterns, not values. Layer 2.3 is the third layer of "
        "block 2; grey where the depth has no such layer."
    ]
    assert [picture.name for picture in drawn.pictures] == ["figure7-classification", "figure7-detection"]
    for picture, means in zip(drawn.pictures, ([0.3, 0.5], [0.8, 0.9]), strict=True):
        nothing = [None] * 8
        assert picture.kind == "heat_map"
        assert_same(
            data(picture),
            {
                "values": [
                    nothing,
                    [means[0], *nothing[1:]],
                    [None, means[1], *nothing[2:]],
                    nothing,
                ],
                "row_labels": ["D0 W0.5 E0.25", "D0 W1 E0.25", "D1 W0.5 E0.25", "D1 W1 E0.25"],
                "column_labels": ["1.1", "1.2", "2.1", "2.2", "3.1", "3.2", "4.1", "4.2"],
                "value_label": "Operation score",
                "row_label": "Operation",
                "column_label": "Layer",
            },
        )


# ---- table 2


def _naive_detection(scores, losses, buckets):
    flagged, weak = set(), set()
    for bucket in set(buckets):
        members = [path for path in range(len(scores)) if buckets[path] == bucket]
        quarter = round(len(members) / 4)
        flagged |= set(sorted(members, key=lambda path: scores[path])[:quarter])
        weak |= set(sorted(members, key=lambda path: -losses[path])[:quarter])
    right = sum((path in flagged) == (path in weak) for path in range(len(scores)))
    agree = pairs = 0
    for one in range(len(scores)):
        for other in range(one):
            if buckets[one] == buckets[other]:
                pairs += 1
                agree += np.sign(scores[one] - scores[other]) * np.sign(losses[other] - losses[one])
    return {
        "accuracy": right / len(scores),
        "precision": len(flagged & weak) / len(flagged),
        "recall": len(flagged & weak) / len(weak),
        "found": len(flagged & weak) / len(scores),
        "tau": agree / pairs,
    }


def test_detection_of_weak_equals_a_naive_loop():
    generator = np.random.default_rng(0)
    buckets = generator.integers(5, size=83)
    losses = generator.random(83)
    scores = -losses + 0.4 * generator.random(83)
    expected = _naive_detection(scores, losses, buckets)
    assert exhibits.detection_of_weak(scores, losses, buckets) == pytest.approx(expected)
    assert exhibits.detection_of_weak(-losses + 10 * buckets, losses, buckets)["precision"] == 1, "inside buckets"


def test_a_perfect_filter_a_reversed_one_and_too_few_paths():
    losses, buckets = np.random.default_rng(1).random(40), np.repeat(np.arange(5), 8)
    perfect = exhibits.detection_of_weak(-losses, losses, buckets)
    assert perfect == {"accuracy": 1.0, "precision": 1.0, "recall": 1.0, "found": 0.25, "tau": 1.0}
    wrong = exhibits.detection_of_weak(losses, losses, buckets)
    assert (wrong["precision"], wrong["tau"], wrong["accuracy"]) == (0, -1, 0.5)
    nobody = exhibits.detection_of_weak(np.array([0.1, 0.2]), np.array([1.0, 2.0]), np.array([0, 0]))
    assert (nobody["precision"], nobody["recall"], nobody["found"]) == (0, 0, 0)


def test_ties_are_weak_by_position():
    badness = np.tile([1.0, 2.0, 1.0, 0.0], 100)
    weak = exhibits.weakest_quarter(np.where(badness == 2.0, 1.0, badness), np.zeros(400))
    assert np.flatnonzero(weak).tolist() == np.flatnonzero(badness > 0)[:100].tolist()


def test_table2_is_measured_of_every_ablation():
    study = Study()
    measured = BY_NAME["table2"].measure(study)
    assert list(measured["numbers"]) == ["unbounded", "no-budget", "no-block", "ours"]
    assert measured["numbers"]["ours"] == {"accuracy": 1.0, "precision": 1.0, "recall": 1.0, "found": 0.25, "tau": 1.0}
    assert measured["numbers"]["no-block"]["precision"] == 0
    assert measured["numbers"]["no-block"]["tau"] == pytest.approx(-4 / 6)
    assert evidence_of(measured, study) == {
        f"precision:{name}": (float(name == "ours"), [f"filter-ablation-{name}"]) for name in measured["numbers"]
    }


def test_the_papers_recall_is_found_over_all():
    for *_, accuracy, precision, recall in printed(FOLDER)["exhibits"]["table2"]["printed"]["rows"][1:]:
        assert recall == pytest.approx(0.25 * precision, abs=0.025)
        assert accuracy == pytest.approx(1 - 2 * 0.25 * (1 - precision), abs=0.02)


def test_table2():
    keys = ("accuracy", "precision", "recall", "found", "tau")
    names = ("unbounded", "no-budget", "no-block", "ours")
    numbers = {
        (seed, name): {
            key: 0.1 * place + 0.01 * column + (0.002 + 0.001 * place) * seed for column, key in enumerate(keys)
        }
        for seed in (0, 1)
        for place, name in enumerate(names)
    }
    measured = [{"numbers": {name: numbers[seed, name] for name in names}} for seed in (0, 1)]
    drawn = BY_NAME["table2"].draw(measured, SETTING)
    assert drawn.table.columns == (
        "FLOPs-bounded loss",
        "Budget condition",
        "Block positional encoding",
        "Accuracy",
        "Precision",
        "Recall",
        "Found / all",
        "Tau",
        "Precision, whole filter minus it",
    )
    switches = {"unbounded": (False, True, True), "no-budget": (True, False, True), "no-block": (True, True, False)}
    for row, name in zip(drawn.table.rows, names, strict=True):
        both = [numbers[seed, name] for seed in (0, 1)]
        gain = seeds(*(numbers[seed, "ours"]["precision"] - both[seed]["precision"] for seed in (0, 1)))
        cells = [seeds(both[0][key], both[1][key]) for key in keys]
        assert_cells(row, [*switches.get(name, (True, True, True)), *cells, None if name == "ours" else gain])
    (picture,) = drawn.pictures
    assert (picture.name, picture.kind) == ("table2", "bars")
    titles = ("Without bounded loss", "Without budget", "Without block position", "Whole filter")
    theirs = (0.590, 0.830, 0.850, 0.870)
    assert_same(
        data(picture),
        {
            "groups": {
                title: {
                    "Ours": triple(*(numbers[seed, name]["precision"] for seed in (0, 1))),
                    "Paper": [precision, None, None],
                }
                for title, name, precision in zip(titles, names, theirs, strict=True)
            },
            "value_label": "Precision for the weakest quarter",
        },
    )
    assert drawn.caption == (
        "The path filter's finding of the weakest quarter of each cost bucket's paths, 5-fold cross-validation on the "
        "warm-up's paths: lowest quarter of scores against highest quarter of losses. Tau: Kendall's tau of score with "
        "loss, inside buckets."
    )
    assert drawn.notes == [
        "As many paths are flagged as are weak, so our recall (found / weak) equals our precision. The paper's recall "
        "agrees with its accuracy and precision only if it is found / all paths: compare it with Found / all.",
        "Chance gives precision 0.25, accuracy 0.625 and found / all 0.0625.",
    ]


# ---- table 3


def test_table3_is_measured_without_the_searchs_sampling():
    def part(cpu: float) -> dict:
        return {"cpu_seconds": cpu, "seconds": 10 * cpu}

    plain = {"warm-up": part(1.0), "fine-tuning": part(2.0), "search sampling": part(100.0)}
    results = {name: {"costs": plain} for name in ("ofa-shrinking", "ofa", "compofa")}
    results["ours"] = {"costs": plain | {"sampling": part(4.0), "filter": part(8.0)}}
    study = Study(results)
    measured = BY_NAME["table3"].measure(study)
    assert measured["spent"] == {
        "ofa-shrinking": {"cpu": 3.0, "wall": 30.0, "sampling": None},
        "ofa": {"cpu": 3.0, "wall": 30.0, "sampling": None},
        "compofa": {"cpu": 3.0, "wall": 30.0, "sampling": None},
        "ours": {"cpu": 15.0, "wall": 150.0, "sampling": 4.0},
    }
    assert measured["missing"] == {}
    assert evidence_of(measured, study) == {
        f"cost:{name}": (15.0 if name == "ours" else 3.0, [name]) for name in results
    }


SPENT = {  # CPU seconds, wall clock, path sampling, of two seeds
    "ofa-shrinking": [(100.0, 200.0, None), (120.0, 210.0, None)],
    "ofa": [(30.0, 70.0, None), (33.0, 71.0, None)],
    "compofa": [(31.0, 73.0, None), (35.0, 74.0, None)],
    "ours": [(60.0, 90.0, 20.0), (66.0, 93.0, 21.0)],
}
THEIRS = {
    "OFA (w/ PS)": (1.150, 14.41),
    "OFA (w/o PS)": (0.383, 4.804),
    "CompOFA*": (0.383, 4.804),
    "Ours": (0.8, 5.26),
}


def spent(*names: str) -> list[dict]:
    return [
        {"spent": {name: dict(zip(("cpu", "wall", "sampling"), SPENT[name][seed], strict=True)) for name in names}}
        for seed in (0, 1)
    ]


def test_table3():
    drawn = BY_NAME["table3"].draw(spent(*SPENT), SETTING)
    assert drawn.table.columns == (
        "Method",
        "Cost",
        "of which path sampling",
        "Wall clock",
        "Our ratio to OFA (w/ PS)",
        "Paper's VOC ratio to OFA (w/ PS)",
        "Paper's COCO ratio to OFA (w/ PS)",
    )
    ratios = {
        title: seeds(*(SPENT[name][seed][0] / SPENT["ofa-shrinking"][seed][0] for seed in (0, 1)))
        for name, title in zip(SPENT, THEIRS, strict=True)
    }
    for row, (name, by_seed), (title, (voc, coco)) in zip(drawn.table.rows, SPENT.items(), THEIRS.items(), strict=True):
        cpu, wall = seeds(by_seed[0][0], by_seed[1][0]), seeds(by_seed[0][1], by_seed[1][1])
        sampling = seeds(20.0, 21.0) if name == "ours" else None
        assert_cells(row, [title, cpu, sampling, wall, ratios[title], voc / 1.150, coco / 14.41])
    assert drawn.units == {"Cost": "s of CPU", "of which path sampling": "s of CPU", "Wall clock": "s"}
    (picture,) = drawn.pictures
    assert (picture.name, picture.kind) == ("table3", "bars")
    assert_same(
        data(picture),
        {
            "groups": {
                title: {
                    "Ours": to_json(list(ratios[title])),
                    "Paper, Pascal VOC": [voc / 1.150, None, None],
                    "Paper, COCO": [coco / 14.41, None, None],
                }
                for title, (voc, coco) in THEIRS.items()
            },
            "value_label": "Cost over that of OFA (w/ PS)",
        },
    )
    assert drawn.caption == (
        "Computation to the finished supernet: warm-up, path sampling, fine-tuning of the filter, training; the "
        "hardware is that of the runs. Seconds of CPU count all threads."
    )
    assert drawn.notes == [
        "Not counted, as in the paper: pre-training on classification, and the paths sampled for the search.",
        "The warm-up that several methods share is counted for each of them.",
    ]


def test_table3_without_shrinking_has_no_ratio():
    drawn = BY_NAME["table3"].draw(spent("ofa", "ours"), SETTING)
    assert [row[0] for row in drawn.table.rows] == ["OFA (w/o PS)", "Ours"]
    assert all(row[4] is None for row in drawn.table.rows)
    assert drawn.pictures == []


# ---- claims

AP = ("AP points", 0.5)
RULES = {  # where, what the paper says, its numbers; then quantity, direction, threshold, unit and effect
    "DO-1": (
        "Figure 5",
        "better AP than OFA without shrinking at every budget",
        "+0.85 VOC, +0.45 COCO",
        [("AP of ours minus OFA (w/o PS), averaged over the budgets,", "above", 0.0, *AP)],
    ),
    "DO-2": (
        "Table 3, Figure 5",
        "better than OFA with shrinking at 30 % / 63 % less cost",
        "0.800 vs 1.150, 5.260 vs 14.41 GPU-days",
        [
            ("AP of ours minus OFA (w/ PS), averaged over the budgets,", "above", 0.0, *AP),
            ("ratio of CPU seconds", "below", 0.7, "", 0.5),
        ],
    ),
    "DO-3": (
        "Figure 6",
        "sampled paths are better across all budgets",
        None,
        [
            (
                "mean AP of paths of the pruned space minus that of paths of OFA (w/o PS), averaged over the buckets,",
                "above",
                0.0,
                *AP,
            )
        ],
    ),
    "DO-4": (
        "Table 2",
        "FLOPs-bounded loss, budget and block position each raise the precision of finding the weakest quarter",
        ".590 -> .870, .830 -> .870, .850 -> .870",
        [
            (f"precision of the whole filter minus that of the filter without {part}", "above", 0.0, "", 0.05)
            for part in ("the bounded loss", "the budget", "the block position")
        ],
    ),
    "DO-5": (
        "Figure 7",
        "for detection, operation score follows operation size more than for classification",
        None,
        [
            (
                "Kendall's tau of operation score with cost, within blocks, of detection minus classification,",
                "above",
                0.0,
                "tau",
                0.1,
            )
        ],
    ),
    "DO-6": (
        "Figure 8",
        "FLOPs & score (all) is the best operation pruning; scored path pruning beats uniform sampling",
        None,
        [
            (f"AP of {pair}, averaged over the budgets,", "above", 0.0, *AP)
            for pair in (
                "FLOPs & score (all) minus FLOPs",
                "FLOPs & score (all) minus FLOPs & score (per bucket)",
                "scored path pruning minus uniform sampling",
            )
        ],
    ),
    "DO-7": (
        "Figure 9",
        "some path pruning beats none; operation pruning matters for small paths; 40 % is too much",
        None,
        [
            ("AP of ours minus r_path = 0, averaged over the budgets,", "above", 0.0, *AP),
            ("AP of ours minus r_op = 0 at the smallest budget", "above", 0.0, *AP),
            ("AP of ours minus the mean of the two 40 % settings, averaged over the budgets,", "above", 0.0, *AP),
        ],
    ),
    "DO-8": (
        "Section 4.2",
        "transfer from classification helps",
        "+6.55, +1.85",
        [
            (
                "AP of OFA (w/o PS) pre-trained on classification minus the same from scratch, averaged over the "
                "budgets,",
                "above",
                0.0,
                *AP,
            )
        ],
    ),
    "DO-9": (
        "Section 4.2",
        "best paths come within 0.5 / 1.0 AP of the full net",
        "0.50, 1.00",
        [("AP of the full net minus the best found path's", "below", 1.0, *AP)],
    ),
    "DO-10": (
        "Figure 5",
        "CompOFA* is good at large budgets and weak at small ones",
        None,
        [
            ("AP of CompOFA* minus OFA (w/o PS) at the largest budget", "above", 0.0, *AP),
            ("AP of CompOFA* minus OFA (w/o PS) at the smallest budget", "below", 0.0, *AP),
        ],
    ),
}
STANDS_WITH = {
    "DO-1": "figure5",
    "DO-2": "table3",
    "DO-3": "figure6",
    "DO-4": "table2",
    "DO-5": "figure7",
    "DO-6": "figure8",
    "DO-7": "figure9",
    "DO-8": "figure5",
    "DO-9": "figure5",
    "DO-10": "figure5",
}


@pytest.mark.parametrize("name", RULES)
def test_claims_are_the_papers_with_these_rules(name):
    claim, (where, statement, paper, conditions) = CLAIMS[name], RULES[name]
    assert (claim.where, claim.statement, claim.paper_value) == (where, statement, paper)
    assert [(c.quantity, c.direction, c.threshold, c.unit, c.effect) for c in claim.conditions] == conditions
    assert claim in BY_NAME[STANDS_WITH[name]].claims
    assert claim.exhibits == (("figure5",) if name == "DO-2" else ())


def test_every_claim_stands_once():
    assert [claim.id for claim in PAPER.claims] == [f"DO-{number}" for number in range(1, 11)] == list(RULES)


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
    scalars += [f"precision:{name}" for name in ("ours", "unbounded", "no-budget", "no-block")]
    return [
        {name: generator.uniform(10, 40, size=3).tolist() for name in curve_names}
        | {name: float(generator.uniform(1, 2)) for name in scalars}
        for _ in (0, 1)
    ]


@pytest.mark.parametrize("name", CONDITIONS)
def test_every_condition_compares_what_its_rule_says(name):
    by_seed = made_up_evidence()
    values = {key: np.array([evidence[key] for evidence in by_seed]) for key in by_seed[0]}
    record = judge(CLAIMS[name], Evidence("scenes", "nano", (0, 1), "typed", values), "detofa")
    expected = np.array([CONDITIONS[name](evidence) for evidence in by_seed])
    assert [condition["difference"] for condition in record["conditions"]] == pytest.approx(list(expected.mean(axis=0)))
    for condition, both in zip(record["conditions"], expected.T, strict=True):
        assert condition["interval"] == pytest.approx(list(seeds(*both))[1:])
    nothing = judge(CLAIMS[name], Evidence("scenes", "nano", (0, 1), "typed", {}), "detofa")
    assert nothing["reason"].startswith("not measured: ")


def test_claims_are_judged_by_what_the_exhibits_measured():
    """From measured numbers to claims.json: the evidence has the names that the rules ask for."""
    study = Study({name: made_up(name, place) | {"costs": {}} for place, name in enumerate(VARIANTS)})
    part = {"cpu_seconds": 1.0, "seconds": 1.0}
    for result in study.results.values():
        result["costs"] = {"warm-up": part}
    study.results["fullnet"] = {"full": {"AP": 0.45, "cost": 40e6}}
    study.results["ours"]["random"] = found((0.21, 8e6), (0.2, 7e6))
    used: list[dict] = []

    class Recording:
        def __enter__(self):
            used.append({})
            return used[-1]

        def __exit__(self, *_):
            used.pop()

    study.recording = Recording
    result = study.result

    def noted(name):
        for each in used:
            each[f"scenes-nano/{name}-s0"] = None
        return result(name)

    study.result = noted
    measured = {exhibit.name: measure_exhibit(exhibit, study) for exhibit in PAPER.exhibits}
    judged = judge_measured(
        PAPER, Options(scale="nano", seeds=2), {name: {0: each, 1: each} for name, each in measured.items()}
    )
    assert list(judged) == list(RULES)
    assert all(claim["difference"] is not None for claim in judged.values())
    assert judged["DO-1"]["runs"] == ["scenes-nano/ours-s0", "scenes-nano/ofa-s0"]
    assert judged["DO-9"]["runs"] == ["scenes-nano/fullnet-s0", "scenes-nano/ours-s0"]
    # ours is the first of VARIANTS, ofa the second: 1 and 2 points better at the two budgets
    assert judged["DO-1"]["difference"] == pytest.approx(-1.5)
    assert judged["DO-9"]["difference"] == pytest.approx(45.0 - 30.0)
    assert LABELS["random"] == "Random search, same budget"
