"""Each claim's rule on made-up evidence: held, broken, undecided, and not measured."""

import re

import numpy as np
import pytest

from common.report.claims import Evidence, judge, write_claims
from detofa.claims import CLAIMS
from detofa.study import VARIANTS

BY_ID = {claim.id: claim for claim in CLAIMS}
SEEDS, BUDGETS = 4, 5
NOISE = np.array([-0.2, -0.05, 0.1, 0.15])  # of mean 0, and far smaller than the differences below


def _budgets(values, noise=0.0) -> np.ndarray:
    """(S, budgets) from a level for each budget, another small deviation for each seed."""
    return np.broadcast_to(values, (SEEDS, BUDGETS)) + noise * NOISE[:, None]


def _scalars(value, noise=0.0) -> np.ndarray:
    return np.full(SEEDS, float(value)) + noise * NOISE


def _held() -> dict[str, np.ndarray]:
    """Evidence under which every claim holds."""
    rising = np.array([20.0, 24.0, 27.0, 29.0, 30.0])
    values = {name: _budgets(rising) for name in ("ofa", "operations-flops", "operations-bucket")}
    values |= {
        "ours": _budgets(rising + 2.0, 1.0),
        "ofa-shrinking": _budgets(rising + 0.5),
        "ofa-scratch": _budgets(rising - 4.0, 1.0),
        "compofa": _budgets(rising + np.array([-2.0, -1.0, 0.0, 1.0, 2.0]), 1.0),
        "operations-all": _budgets(rising + 1.0, 1.0),
        "paths-score": _budgets(rising + 1.0, 1.0),
        "operations-ratio-40": _budgets(rising + 0.5, 0.5),
        "paths-ratio-40": _budgets(rising - 0.5, 0.5),
        "full": _scalars(32.4, 0.5),
        "cost:ours": _scalars(50.0, 5.0),
        "cost:ofa-shrinking": _scalars(100.0),
        "sampled:ours": _budgets(rising - 2.0, 1.0),
        "sampled:ofa": _budgets(rising - 5.0),
        "precision:ours": _scalars(0.87, 0.05),
        "precision:unbounded": _scalars(0.59),
        "precision:no-budget": _scalars(0.80),
        "precision:no-block": _scalars(0.82),
        "tau:detection": _scalars(0.6, 0.1),
        "tau:classification": _scalars(0.2),
    }
    return values


def _judged(claim: str, values: dict[str, np.ndarray], seeds=(0, 1, 2, 3)) -> dict:
    return judge(BY_ID[claim], Evidence("scenes", "nano", seeds, "command", values))


# For each claim, one change to the evidence that breaks it, and one that leaves it open.
BREAK = {
    "DO-1": {"ours": _budgets(10.0, 1.0)},
    "DO-2": {"cost:ours": _scalars(90.0, 5.0)},
    "DO-3": {"sampled:ours": _budgets(5.0, 1.0)},
    "DO-4": {"precision:no-budget": _scalars(0.95, 0.05)},
    "DO-5": {"tau:classification": _scalars(0.9)},
    "DO-6": {"operations-bucket": _budgets(40.0)},
    "DO-7": {"paths-score": _budgets(np.array([30.0, 0, 0, 0, 0]), 1.0)},
    "DO-8": {"ofa-scratch": _budgets(40.0, 1.0)},
    "DO-9": {"full": _scalars(36.0, 0.5)},
    "DO-10": {"compofa": _budgets(40.0, 1.0)},
}
OPEN = {
    "DO-1": {"ours": _budgets(26.0, 50.0)},
    "DO-2": {"cost:ours": _scalars(70.0, 20.0)},
    "DO-3": {"sampled:ours": _budgets(21.0, 50.0)},
    "DO-4": {"precision:ours": _scalars(0.83, 1.0)},
    "DO-5": {"tau:detection": _scalars(0.2, 1.0)},
    "DO-6": {"operations-all": _budgets(26.0, 50.0)},
    "DO-7": {"ours": _budgets(26.5, 50.0)},
    "DO-8": {"ofa-scratch": _budgets(26.0, 50.0)},
    "DO-9": {"full": _scalars(33.0, 20.0)},
    "DO-10": {"compofa": _budgets(np.array([20.0, 0, 0, 0, 32.0]), 20.0)},
}


def test_every_claim_stands_once():
    assert [claim.id for claim in CLAIMS] == [f"DO-{number}" for number in range(1, 11)]
    assert {claim.paper for claim in CLAIMS} == {"detofa"}
    assert set(BREAK) == set(OPEN) == set(BY_ID)


@pytest.mark.parametrize("claim", list(BY_ID))
def test_held_broken_and_open(claim):
    held = _held()
    assert _judged(claim, held)["verdict"] == "reproduced"
    assert _judged(claim, held | BREAK[claim])["verdict"] == "not reproduced"
    undecided = _judged(claim, held | OPEN[claim])
    assert undecided["verdict"] == "inconclusive"
    assert "covers the threshold" in undecided["reason"]


@pytest.mark.parametrize("claim", list(BY_ID))
def test_one_seed_or_no_measurement_decides_nothing(claim):
    held = _held()
    single = _judged(claim, {name: values[:1] for name, values in held.items()}, seeds=(0,))
    assert single["verdict"] == "inconclusive"
    assert "at least 2" in single["reason"]
    missing = _judged(claim, {})
    assert missing["verdict"] == "inconclusive"
    assert missing["reason"].startswith("not measured: ")


@pytest.mark.parametrize("claim", list(BY_ID))
def test_the_rule_in_words_names_its_thresholds(claim):
    rule, conditions = BY_ID[claim].rule, BY_ID[claim].conditions
    wanted = {c.threshold for c in conditions} or {BY_ID[claim].threshold}
    numbers = {float(number) for number in re.findall(r"\d+\.?\d*", rule)}
    assert wanted <= numbers, (rule, wanted)
    for direction in {c.direction for c in conditions} or {BY_ID[claim].direction}:
        assert direction in rule


@pytest.mark.parametrize(
    ("claim", "name", "change"),
    [
        ("DO-2", "ours", -5.0),
        ("DO-4", "precision:ours", -0.1),
        ("DO-6", "paths-score", -5.0),
        ("DO-6", "operations-flops", 5.0),
        ("DO-7", "operations-all", 5.0),
        ("DO-7", "operations-ratio-40", 20.0),
        ("DO-10", "ofa", -5.0),
    ],
)
def test_one_broken_condition_breaks_a_claim(claim, name, change):
    held = _held()
    assert _judged(claim, held | {name: held[name] + change})["verdict"] == "not reproduced"


def test_the_measured_differences_are_those_of_the_rules():
    """By hand, without the noise between seeds."""
    values = _held()
    assert _judged("DO-1", values)["difference"] == pytest.approx(2.0)
    assert _judged("DO-8", values)["difference"] == pytest.approx(4.0)
    assert _judged("DO-9", values)["difference"] == pytest.approx(32.4 - 32.0)
    conditions = {c["name"]: c["difference"] for c in _judged("DO-7", values)["conditions"]}
    assert conditions["path pruning"] == pytest.approx(1.0)
    assert conditions["operation pruning"] == pytest.approx(1.0)
    assert conditions["too much"] == pytest.approx(2.0)
    conditions = {c["name"]: c["difference"] for c in _judged("DO-10", values)["conditions"]}
    assert conditions == {"largest": pytest.approx(2.0), "smallest": pytest.approx(-2.0)}
    ratio = _judged("DO-2", values)["conditions"][1]
    assert (ratio["name"], ratio["threshold"], ratio["direction"]) == ("cost ratio", 0.7, "below")
    assert ratio["difference"] == pytest.approx(0.5)


def test_operation_pruning_is_judged_at_the_smallest_budget_only():
    values = _held()
    values["paths-score"] = _budgets(np.array([10.0, 60.0, 60.0, 60.0, 60.0]), 1.0)
    found = {c["name"]: c["verdict"] for c in _judged("DO-7", values)["conditions"]}
    assert found["operation pruning"] == "reproduced"


def test_the_evidence_of_variants_is_named_as_the_study_names_them():
    asked = set()

    class Asked(dict):
        def __contains__(self, name):
            asked.add(name)
            return True

        def __getitem__(self, name):
            return _held()[name]

    for claim in CLAIMS:
        judge(claim, Evidence("scenes", "nano", (0, 1, 2, 3), "command", Asked()))
    plain = {name.split(":", 1)[1] if re.match("cost:|sampled:", name) else name for name in asked if name != "full"}
    assert {name for name in plain if not re.match("precision:|tau:", name)} <= set(VARIANTS)
    assert len(asked) == len(_held())


def test_all_claims_are_written_down(tmp_path):
    records = write_claims(tmp_path / "claims.json", CLAIMS, Evidence("scenes", "nano", (0, 1, 2, 3), "c", _held()))
    assert [record["verdict"] for record in records.values()] == ["reproduced"] * 10
