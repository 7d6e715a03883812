"""Each claim's rule on made-up evidence: held, broken, undecided, and not measured."""

import numpy as np
import pytest

from common.report.claims import Evidence, judge
from sm_nas.claims import CLAIMS

BY_ID = {claim.id: claim for claim in CLAIMS}
NOISE = np.array([-0.2, -0.05, 0.1, 0.15])  # of mean 0, and far smaller than the differences below


def scalars(value: float, noise: float = 0.1) -> np.ndarray:
    return value + noise * NOISE


def strategies(*rows: float, noise: float = 0.1) -> np.ndarray:
    """(S, 8): a level for each row of Table 3, another small deviation for each seed and row."""
    return np.array(rows) + noise * np.outer(NOISE, np.arange(1, 9))


PAPER_ROWS = (36.5, 37.4, 24.8, 28.3, 29.4, 30.7, 36.4, 37.5)
HELD = {
    "cascade AP": scalars(0.2),
    "cascade time": scalars(54.9 / 72.0),
    "FPN AP": scalars(1.5),
    "RetinaNet time": scalars(46.7 / 43.6),
    "RetinaNet time, second data": scalars(34.8 / 38.4),
    "strategies": strategies(*PAPER_ROWS),
    "dominated": scalars(0.9),
    "hypervolume ratio": scalars(1.2),
    "mobilenet FLOPs": scalars(0.5),
    "mobilenet behind": scalars(2.0),
    "pushed": scalars(1.0),
    "depth": scalars(0.6),
    "doubling": scalars(-0.4),
    "late": scalars(0.3),
    "transfer:E0": scalars(-6.7),
    "transfer:E1": scalars(1.0),
    "transfer:E3": scalars(2.7),
    "tau": scalars(0.7),
}
# For each claim, changes to the evidence each of which breaks it: one for every condition.
BREAK = {
    "SM-1": [
        {"cascade AP": scalars(-1.0)},
        {"cascade time": scalars(1.2)},
        {"FPN AP": scalars(-1.0)},
        {"RetinaNet time": scalars(0.9)},
        {"RetinaNet time, second data": scalars(1.1)},
    ],
    "SM-2": [
        {"strategies": strategies(*PAPER_ROWS[:7], 34.0)},
        {"strategies": strategies(*PAPER_ROWS[:6], 30.0, 37.5)},
        {"strategies": strategies(36.5, 37.4, 24.8, 36.4, 29.4, 30.7, 36.4, 37.5)},
        {"strategies": strategies(39.9, 37.4, 24.8, 39.5, 29.4, 30.7, 36.4, 39.2)},
    ],
    "SM-3": [{"dominated": scalars(0.3)}, {"hypervolume ratio": scalars(0.8)}],
    "SM-4": [{"mobilenet FLOPs": scalars(1.1)}, {"mobilenet behind": scalars(-2.0)}],
    "SM-5": [{"pushed": scalars(-0.5)}],
    "SM-6": [{"depth": scalars(-0.2)}, {"doubling": scalars(0.2)}, {"late": scalars(-0.2)}],
    "SM-7": [{"transfer:E1": scalars(-1.0)}, {"transfer:E3": scalars(-1.0)}],
    "SM-8": [{"tau": scalars(0.1)}],
}
OPEN = {
    "SM-1": {"cascade AP": scalars(0.2, 10.0)},
    "SM-2": {"strategies": strategies(*PAPER_ROWS, noise=20.0)},
    "SM-3": {"dominated": scalars(0.5, 2.0)},
    "SM-4": {"mobilenet behind": scalars(0.1, 10.0)},
    "SM-5": {"pushed": scalars(0.1, 10.0)},
    "SM-6": {"late": scalars(0.0, 2.0)},
    "SM-7": {"transfer:E3": scalars(0.1, 10.0)},
    "SM-8": {"tau": scalars(0.4, 2.0)},
}


def judged(claim: str, values: dict[str, np.ndarray], seeds=(0, 1, 2, 3)) -> dict:
    return judge(BY_ID[claim], Evidence("scenes", "nano", seeds, "command", values))


def test_every_claim_of_the_paper_is_judged_once():
    assert [claim.id for claim in CLAIMS] == [f"SM-{number}" for number in range(1, 9)]
    assert all(claim.rule and claim.statement and claim.where and claim.effect for claim in CLAIMS)


@pytest.mark.parametrize("claim", BY_ID)
def test_a_claim_that_holds_is_reproduced(claim):
    assert judged(claim, HELD)["verdict"] == "reproduced"


@pytest.mark.parametrize(("claim", "change"), [(claim, change) for claim, list_ in BREAK.items() for change in list_])
def test_each_condition_alone_breaks_its_claim(claim, change):
    assert judged(claim, HELD | change)["verdict"] == "not reproduced"


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
