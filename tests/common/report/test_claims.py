"""Verdicts by the written rule, and claims.json."""

import math

import pytest

from common.plain import InputError
from common.report.claims import Claim, Condition, Evidence, all_of, judge, read_claims, verdict, write_claims
from common.report.statistics import Difference, paired_difference, seeds_needed

EVIDENCE = Evidence(
    data="scenes",
    scale="smoke",
    seeds=(0, 1, 2),
    command="python -m detofa.reproduce",
    values={"ours": [0.30, 0.32, 0.31], "theirs": [0.20, 0.21, 0.22]},
    runs=("runs/a",),
    notes={"DO-1": "a note"},
)


def claim(**changes) -> Claim:
    settings = {
        "id": "DO-1",
        "paper": "detofa",
        "where": "Figure 5",
        "statement": "better at every budget",
        "paper_value": "+0.85",
        "rule": "the interval of ours - theirs lies above 0",
        "measure": lambda evidence: paired_difference(evidence["ours"], evidence["theirs"]),
    }
    return Claim(**(settings | changes))


@pytest.mark.parametrize(
    ("low", "high", "threshold", "direction", "expected"),
    [
        (0.1, 0.3, 0.0, "above", "reproduced"),
        (-0.3, -0.1, 0.0, "above", "not reproduced"),
        (-0.1, 0.1, 0.0, "above", "inconclusive"),
        (0.0, 0.1, 0.0, "above", "inconclusive"),  # touching the threshold is not passing it
        (0.1, 0.3, 0.2, "above", "inconclusive"),
        (0.1, 0.3, 0.5, "below", "reproduced"),
        (0.6, 0.7, 0.5, "below", "not reproduced"),
        (math.nan, math.nan, 0.0, "above", "inconclusive"),
    ],
)
def test_verdict(low, high, threshold, direction, expected):
    assert verdict(Difference((low + high) / 2, low, high, 3), threshold, direction) == expected


def test_one_seed_is_inconclusive_whatever_it_shows():
    assert verdict(Difference(5.0, 4.0, 6.0, 1)) == "inconclusive"
    evidence = Evidence("scenes", "smoke", [0], "x", {"ours": [1.0], "theirs": [0.0]})
    record = judge(claim(), evidence)
    assert record["verdict"] == "inconclusive"
    assert "1 seed" in record["reason"]
    many_items = claim(measure=lambda evidence: Difference(0.9, 0.8, 0.95, 60))  # a rank statistic over 60 items
    assert judge(many_items, evidence)["verdict"] == "inconclusive"


def test_direction_must_be_known():
    with pytest.raises(InputError):
        verdict(Difference(1.0, 0.5, 1.5, 3), 0.0, "up")


def test_conjunction():
    assert all_of(["reproduced", "reproduced"]) == "reproduced"
    assert all_of(["reproduced", "inconclusive"]) == "inconclusive"
    assert all_of(["inconclusive", "not reproduced", "reproduced"]) == "not reproduced"
    assert all_of([]) == "inconclusive"


def test_record_holds_all_that_a_verdict_rests_on():
    record = judge(claim(effect=0.05, unit="AP"), EVIDENCE)
    expected = paired_difference(EVIDENCE["ours"], EVIDENCE["theirs"])
    assert record["verdict"] == "reproduced"
    assert record["difference"] == expected.mean
    assert record["interval"] == [expected.low, expected.high]
    assert record["seeds"] == [0, 1, 2]
    assert record["seeds_needed"] == seeds_needed(expected.deviation(), 0.05)
    assert (record["paper"], record["where"], record["notes"]) == ("+0.85", "Figure 5", "a note")
    assert record["rule"]
    assert record["command"]
    assert record["reason"] is None


def test_several_conditions_are_led_by_the_one_that_decides():
    parts = {"voc": Difference(1.0, 0.5, 1.5, 3), "coco": Difference(-1.0, -1.5, -0.5, 3)}
    conditions = (Condition("voc", "above", 0.0), Condition("coco", "above", 0.0))
    record = judge(claim(conditions=conditions, measure=lambda evidence: parts), EVIDENCE)
    assert record["verdict"] == "not reproduced"
    assert record["difference"] == -1.0
    assert [part["verdict"] for part in record["conditions"]] == ["reproduced", "not reproduced"]


def test_what_was_not_measured_is_never_left_out(tmp_path):
    lacking = claim(id="DO-2", measure=lambda evidence: paired_difference(evidence["cost"], evidence["theirs"]))
    half = claim(
        id="DO-3",
        conditions=(Condition("a", "above", 0.0), Condition("b", "above", 0.0)),
        measure=lambda evidence: {"a": Difference(1.0, 0.5, 1.5, 3)},
    )
    write_claims(tmp_path / "claims.json", [claim(), lacking, half], EVIDENCE)
    records = read_claims(tmp_path / "claims.json")
    assert list(records) == ["DO-1", "DO-2", "DO-3"]
    assert records["DO-2"]["verdict"] == "inconclusive"
    assert "cost" in records["DO-2"]["reason"]
    assert records["DO-3"]["reason"] == "not measured: b"


def test_an_error_in_a_measure_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        judge(claim(measure=lambda evidence: 1 / 0), EVIDENCE)


def test_an_id_stands_for_one_claim(tmp_path):
    with pytest.raises(InputError):
        write_claims(tmp_path / "claims.json", [claim(), claim()], EVIDENCE)


@pytest.mark.parametrize("text", ["3", '{"DO-1": {"verdict": "yes"}}', '[{"verdict": "reproduced"}]'])
def test_damaged_claims_file_is_one_sentence(tmp_path, text):
    (tmp_path / "claims.json").write_text(text)
    with pytest.raises(InputError):
        read_claims(tmp_path / "claims.json")
