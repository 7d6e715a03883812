"""Each claim's rule on made-up evidence: held, broken, undecided, and not measured."""

import math

import numpy as np
import pytest

from common.report.claims import Evidence, judge
from common.reproduce.evidence import stacked_evidence
from joint_detnas.claims import CLAIMS

BY_ID = {claim.id: claim for claim in CLAIMS}
NOISE = np.array([-0.2, -0.05, 0.1, 0.15])  # of mean 0, and far smaller than the differences below


def scalars(value: float, noise: float = 0.1) -> np.ndarray:
    return value + noise * NOISE


def lists(*values: float, noise: float = 0.1) -> np.ndarray:
    """(S, len(values)): a level for each place, another small deviation for each seed and place."""
    return np.array(values) + noise * np.outer(NOISE, np.arange(1, len(values) + 1))


def tables(*rows: tuple[float, ...], noise: float = 0.1) -> np.ndarray:
    """(S, rows, columns), as `lists`."""
    return np.stack([lists(*row, noise=noise) for row in rows], axis=1)


R50, R101 = (37.1, 37.1, 37.3, 37.0, 36.4), (39.0, 39.0, 39.2, 38.8, 38.3)  # Table 2
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
# For each claim, changes to the evidence each of which breaks one condition alone, in the conditions' order.
BREAK = {
    "JD-1": [{"pool minus alone": lists(0.8, -2.0, 0.4)}],
    "JD-2": [
        {"pruned": tables((37.1, 37.1, 36.5, 37.0, 36.4), (39.0, 39.0, 38.9, 38.8, 38.3))},
        {"pruned": tables((37.1, 35.5, 37.3, 36.0, 35.1), (39.0, 37.0, 39.2, 38.0, 36.9))},
        {"pruned": tables((37.1, 39.0, 37.3, 37.0, 36.4), (39.0, 40.0, 39.2, 38.8, 38.3))},
    ],
    "JD-3": [
        {"distilled": tables((38.6, 36.9, 38.1), (42.0, 39.9, 41.6))},
        {"distilled": tables((36.0, 38.6, 38.1), (39.5, 42.0, 41.6))},
    ],
    "JD-4": [{"gain": lists(2.5, -0.4)}, {"cost": lists(1.1, 0.52)}, {"time": lists(0.85, 1.1)}],
    "JD-5": [{"joint minus prune-kd": scalars(-0.2)}, {"joint minus nas-prune-kd": scalars(-0.2)}],
    "JD-6": [{"dynamic on the way": scalars(-0.2)}, {"dynamic ends": scalars(-0.2)}],
    "JD-7": [{"teacher grows": scalars(-0.2)}],
    "JD-8": [{"teacher tau": scalars(0.6)}],
    "JD-9": [{"pruning's share": scalars(0.4)}, {"pruning's place": scalars(0.2)}],
    "JD-10": [{"stages": lists(0.05, 0.3, 0.1, 0.02)}, {"stages": lists(0.2, 0.1, 0.3, 0.02)}],
    "JD-11": [{"share of the budget": scalars(0.7)}],
}
OPEN = {
    "JD-1": {"pool minus alone": lists(0.1, 0.1, noise=10.0)},
    "JD-2": {"pruned": tables(R50, R101, noise=20.0)},
    "JD-3": {"distilled": tables((36.0, 36.9, 37.0), noise=20.0)},
    "JD-4": {"time": lists(0.85, 0.95, noise=5.0)},
    "JD-5": {"joint minus nas-prune-kd": scalars(0.1, 10.0)},
    "JD-6": {"dynamic ends": scalars(0.1, 10.0)},
    "JD-7": {"teacher grows": scalars(0.1, 10.0)},
    "JD-8": {"teacher tau": scalars(0.4, 2.0)},
    "JD-9": {"pruning's place": scalars(0.0, 2.0)},
    "JD-10": {"stages": lists(0.05, 0.06, 0.07, 0.02, noise=2.0)},
    "JD-11": {"share of the budget": scalars(0.4, 2.0)},
}


def judged(claim: str, values: dict[str, np.ndarray], seeds=(0, 1, 2, 3)) -> dict:
    return judge(BY_ID[claim], Evidence("scenes", "nano", seeds, "command", values))


def test_every_claim_of_the_paper_is_judged_once():
    assert [claim.id for claim in CLAIMS] == [f"JD-{number}" for number in range(1, 12)]
    assert all(claim.rule and claim.statement and claim.where and claim.effect for claim in CLAIMS)


@pytest.mark.parametrize("claim", BY_ID)
def test_a_claim_that_holds_is_reproduced(claim):
    assert judged(claim, HELD)["verdict"] == "reproduced"


@pytest.mark.parametrize(
    ("claim", "place", "change"),
    [(claim, place, change) for claim, changes in BREAK.items() for place, change in enumerate(changes)],
)
def test_each_condition_alone_breaks_its_claim(claim, place, change):
    record = judged(claim, HELD | change)
    assert record["verdict"] == "not reproduced"
    broken = [number for number, each in enumerate(record["conditions"]) if each["verdict"] != "reproduced"]
    assert broken == ([place] if record["conditions"] else [])


@pytest.mark.parametrize("claim", BY_ID)
def test_as_many_changes_break_a_claim_as_it_has_conditions(claim):
    assert len(BREAK[claim]) == max(1, len(BY_ID[claim].conditions))


@pytest.mark.parametrize("claim", BY_ID)
def test_an_interval_over_the_threshold_leaves_it_open(claim):
    assert judged(claim, HELD | OPEN[claim])["verdict"] == "inconclusive"


@pytest.mark.parametrize("claim", BY_ID)
def test_one_seed_or_no_numbers_decide_nothing(claim):
    one = {name: values[:1] for name, values in HELD.items()}
    assert judged(claim, one, seeds=(0,))["verdict"] == "inconclusive"
    nothing = judged(claim, {})
    assert nothing["verdict"] == "inconclusive"
    assert nothing["reason"].startswith("not measured")


@pytest.mark.parametrize("claim", BY_ID)
def test_a_number_that_is_missing_leaves_its_claim_open(claim):
    """What one seed could not measure is no evidence, and says so; a mean over the others would be of other seeds."""
    name = next(iter(BREAK[claim][-1]))
    holed = HELD[name].copy()
    holed[(1, *(0 for _ in holed.shape[1:]))] = math.nan
    by_seed = [{each: values[seed] for each, values in (HELD | {name: holed}).items()} for seed in range(4)]
    record = judged(claim, stacked_evidence(by_seed))
    assert (record["verdict"], record["reason"]) == ("inconclusive", f"not measured: {name}")


def test_differences_are_those_of_the_rule():
    """By hand, at four seeds that agree: JD-1 a mean, JD-2 and JD-3 columns, JD-4 the worst backbone."""
    exact = {name: np.repeat(values.mean(axis=0, keepdims=True), 4, axis=0) for name, values in HELD.items()}
    differences = {
        claim: [each["difference"] for each in record["conditions"]] or [record["difference"]]
        for claim, record in ((claim, judged(claim, exact)) for claim in BY_ID)
    }
    assert differences["JD-1"] == pytest.approx([(0.8 - 0.1 + 3.4) / 3])
    assert differences["JD-2"] == pytest.approx([0.2, -0.7, -0.7])
    assert differences["JD-3"] == pytest.approx([2.1, (1.2 + 1.7) / 2])
    assert differences["JD-4"] == pytest.approx([2.5, 0.73, 0.85])
    assert differences["JD-10"] == pytest.approx([0.2, 0.05])
