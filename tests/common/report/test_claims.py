"""Verdicts by the written rule, the record that each rests on, and claims.json."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from common.plain import InputError, write_json
from common.report.claims import (
    Before,
    Claim,
    Condition,
    Evidence,
    NotMeasured,
    NotTestable,
    all_of,
    judge,
    judge_all,
    read_claims,
    verdict,
)
from common.report.statistics import Difference, mean_interval, seeds_needed

VALUES = {"ours": [30.0, 32.0, 31.0], "theirs": [20.0, 21.0, 22.0], "low": [1.0, 1.1, 1.2], "wide": [-9.0, 0.0, 9.0]}
RESTS_ON = {"ours": ("d/a-s0", "d/a-s1"), "theirs": ("d/a-s1", "d/b-s0"), "low": ("d/c-s0",)}


def evidence(seeds=(0, 1, 2), **changes) -> Evidence:
    values = {name: np.array(numbers[: len(seeds)]) for name, numbers in VALUES.items()}
    environment = lambda runs: {"runs": list(runs)}  # noqa: E731
    return Evidence("scenes", "nano", seeds, "a command", values, RESTS_ON, environment, **changes)


def condition(name="ours", threshold=0.0, direction="above", **changes) -> Condition:
    settings = {"quantity": f"AP of {name}", "value": lambda found: found[name], "unit": f"AP of {name}"}
    return Condition(**(settings | {"threshold": threshold, "direction": direction} | changes))


GAIN = condition("gain", 0.5, value=lambda found: found["ours"] - found["theirs"], effect=0.25)


def claim(*conditions, **changes) -> Claim:
    settings = {"id": "T-1", "where": "Figure 5", "statement": "better", "paper_value": "+.85", "seeds": 2}
    return Claim(**(settings | {"conditions": conditions or (GAIN,)} | changes))


@pytest.mark.parametrize(
    ("low", "high", "threshold", "direction", "expected"),
    [
        (0.1, 0.3, 0.0, "above", "reproduced"),
        (-0.3, -0.1, 0.0, "above", "not reproduced"),
        (-0.1, 0.1, 0.0, "above", "inconclusive"),
        (0.0, 0.1, 0.0, "above", "inconclusive"),  # touching the threshold is not passing it
        (-0.1, 0.0, 0.0, "above", "inconclusive"),
        (0.1, 0.3, 0.2, "above", "inconclusive"),
        (0.1, 0.3, 0.5, "below", "reproduced"),
        (0.6, 0.7, 0.5, "below", "not reproduced"),
        (0.4, 0.7, 0.5, "below", "inconclusive"),
        (math.nan, 0.3, 0.0, "above", "inconclusive"),
        (0.1, math.nan, 0.0, "above", "inconclusive"),
        (0.1, math.inf, 0.0, "above", "inconclusive"),
    ],
)
def test_verdict(low, high, threshold, direction, expected):
    assert verdict(Difference(0.2, low, high, 2), threshold, direction) == expected


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.1, 0.9, "smaller than the paper's"),  # there, but not half of the printed 2 above 0
        (-0.5, 0.9, "smaller than the paper's"),
        (0.1, 1.0, "reproduced"),  # touching half is not staying below it
        (-0.5, 1.1, "inconclusive"),
        (-0.5, -0.1, "not reproduced"),
    ],
)
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("threshold", [0.0, 5.0])
def test_an_interval_short_of_half_of_the_printed_effect_is_smaller(low, high, expected, sign, threshold):
    ends = sorted((threshold + sign * low, threshold + sign * high))
    difference = Difference(sum(ends) / 2, *ends, 6)
    assert verdict(difference, threshold, "above" if sign > 0 else "below", threshold + sign * 2) == expected


def test_verdict_is_above_zero_where_nothing_else_is_said():
    assert verdict(Difference(0.2, 0.1, 0.3, 2)) == "reproduced"
    assert verdict(Difference(5.0, 4.0, 6.0, 1)) == "inconclusive"  # one seed, whatever it shows
    with pytest.raises(InputError, match=r"^a claim's direction must be above or below, got 'up'$"):
        verdict(Difference(1.0, 0.5, 1.5, 3), 0.0, "up")


def test_conjunction():
    assert all_of(["reproduced", "reproduced"]) == "reproduced"
    assert all_of(["reproduced", "inconclusive"]) == "inconclusive"
    assert all_of(["inconclusive", "not reproduced", "reproduced"]) == "not reproduced"
    assert all_of(["reproduced", "smaller than the paper's", "inconclusive"]) == "smaller than the paper's"
    assert all_of(["smaller than the paper's", "not reproduced"]) == "not reproduced"
    assert all_of([]) == "inconclusive"


def test_the_rule_in_words_is_printed_from_the_conditions():
    assert Condition("AP", lambda found: 0).sentence == "AP above 0"
    both = claim(condition("ours", 1.5), condition("low", 2e-5, "below"))
    assert both.rule == "AP of ours above 1.5; and AP of low below 2e-05"
    assert condition(null="a random order").sentence == "AP of ours above 0 (a random order)"


def test_record_holds_all_that_a_verdict_rests_on():
    difference = mean_interval([10.0, 11.0, 9.0])
    interval = [difference.low, difference.high]
    part = {"difference": 10.0, "interval": interval, "n": 3, "direction": "above", "threshold": 0.5}
    spent = {"ours": {"samples": 10.0}, "theirs": {"samples": 20.0}}
    found = evidence(budget={"ours": spent, "low": {"low": {}}}, why={"T-1": "It learns.", "T-2": "Not this."})
    changed = claim(before=Before("AP above 0", "too easy"), level=lambda found: found["ours"])
    whole = {"name": "AP of gain", "verdict": "reproduced", **part, "unit": "AP of gain", "printed": None, "null": ""}
    assert judge(changed, found, "toynas", "ToyNAS") == {
        "id": "T-1",
        "paper_name": "toynas",
        "paper_title": "ToyNAS",
        "verdict": "reproduced",
        "reason": None,
        **part,
        "unit": "AP of gain",
        "seeds": [0, 1, 2],
        "data": "scenes",
        "scale": "nano",
        "paper": "+.85",
        "where": "Figure 5",
        "statement": "better",
        "rule": "AP of gain above 0.5",
        "before": {"rule": "AP above 0", "reason": "too easy"},
        "why": "It learns.",
        "conditions": [whole],
        "command": "a command",
        "budget": spent,
        "level": 31.0,
        "p": pytest.approx(2 * stats.t.sf(9.5 * math.sqrt(3), 2)),
        "seeds_needed": None,
        "runs": ["d/a-s0", "d/a-s1", "d/b-s0"],
        "environment": {"runs": ["d/a-s0", "d/a-s1", "d/b-s0"]},
    }


def test_a_claim_names_the_runs_that_its_own_evidence_rests_on():
    found = evidence()
    assert judge(claim(condition("low")), found, "toynas")["runs"] == ["d/c-s0"]
    assert judge(claim(condition("wide")), found, "toynas")["runs"] == []
    assert judge(claim(condition("ours"), condition("low")), found, "toynas")["runs"] == ["d/a-s0", "d/a-s1", "d/c-s0"]
    assert judge(claim(), found, "toynas")["paper_title"] == ""


def test_what_was_not_measured_is_inconclusive_and_says_so():
    record = judge(claim(condition("ours", 3.0, "below"), condition("cost")), evidence(), "toynas")
    assert (record["verdict"], record["reason"]) == ("inconclusive", "not measured: cost")
    assert (record["difference"], record["interval"], record["n"], record["conditions"]) == (None, None, 0, [])
    assert (record["threshold"], record["direction"], record["unit"]) == (3.0, "below", "AP of ours")
    assert (record["seeds_needed"], record["runs"], record["environment"]) == (None, [], {})
    with pytest.raises(NotMeasured, match=r"^not measured: cost$"):
        evidence()["cost"]


LOW, FAILS, OPEN = condition("low"), condition("theirs", 99.0), condition("wide", 0.25)


@pytest.mark.parametrize(
    ("conditions", "expected", "decides"),
    [
        ((LOW, FAILS, OPEN), "not reproduced", 1),  # the first that fails
        ((LOW, OPEN), "inconclusive", 1),  # else the first left open
        ((OPEN, FAILS, LOW, FAILS), "not reproduced", 1),
        ((condition("ours"), LOW), "reproduced", 0),  # else the first
        ((condition("low", 5.0, "below"),), "reproduced", 0),  # a quantity may have to lie below
        ((condition("low", 1.1, "below"),), "inconclusive", 0),
        ((condition("low", 0.5, "below"),), "not reproduced", 0),
    ],
)
def test_several_conditions_are_led_by_the_one_that_decides(conditions, expected, decides):
    record = judge(claim(*conditions), evidence(), "toynas")
    assert record["verdict"] == expected
    led = {key: record[key] for key in ("difference", "interval", "n", "direction", "threshold", "unit")}
    assert led.items() <= record["conditions"][decides].items()
    assert [part["name"] for part in record["conditions"]] == [each.quantity for each in conditions]


def test_a_claim_that_holds_has_the_p_of_its_weakest_condition_and_one_that_fails_that_of_the_first():
    low, gain = mean_interval(VALUES["low"]).p_value(0.0), mean_interval([10.0, 11.0, 9.0]).p_value(0.5)
    assert low < gain
    assert judge(claim(LOW, GAIN), evidence(), "t")["p"] == judge(claim(GAIN, LOW), evidence(), "t")["p"] == gain
    assert judge(claim(LOW, FAILS), evidence(), "t")["p"] == mean_interval(VALUES["theirs"]).p_value(99.0)
    assert judge(claim(LOW, OPEN), evidence(), "t")["p"] is None
    smaller = judge(claim(replace(LOW, printed=40.0)), evidence(), "t")
    assert smaller["verdict"] == "smaller than the paper's"
    assert smaller["p"] == mean_interval(VALUES["low"]).p_value(20.0), "of half the printed effect, which decided"


def test_reasons_of_an_open_verdict():
    def reason(*conditions, seeds=(0, 1, 2), needed=2):
        return judge(claim(*conditions, seeds=needed), evidence(seeds), "t")["reason"]

    one, none = "1 of the 2 seeds that a verdict needs", "0 of the 2 seeds that a verdict needs"
    empty = condition(value=lambda found: Difference(math.nan, math.nan, math.nan, 0))
    tied = condition(value=lambda found: Difference(0.5, math.nan, math.nan, 3))
    assert reason(OPEN) == reason(OPEN, seeds=(0, 1)) == "the interval covers the threshold 0.25"
    assert reason(GAIN, seeds=[4]) == reason(GAIN, seeds=[4, 4]) == one  # the same seed again is no other seed
    assert reason(empty) == reason(LOW, empty) == none
    assert reason(tied) == "no interval could be computed"
    assert reason(FAILS) is None
    assert reason(FAILS, needed=4) == "3 of the 4 seeds that a verdict needs"  # whatever three of them show


def test_items_pooled_over_seeds_stand_in_for_seeds_but_not_of_one_seed():
    items = condition(value=lambda found: Difference(0.9, 0.8, 0.95, 60))
    record = judge(claim(items), evidence(seeds=[0]), "t")
    assert (record["verdict"], record["difference"], record["n"]) == ("inconclusive", 0.9, 60)
    assert judge(claim(items, seeds=6), evidence(seeds=[0, 1]), "t")["verdict"] == "reproduced"
    fewer = condition(value=lambda found: Difference(0.9, 0.8, 0.95, 59))
    assert judge(claim(items, fewer, seeds=6), evidence(seeds=[0, 1]), "t")["verdict"] == "inconclusive"


def test_what_the_scale_cannot_show_is_not_testable():
    def outcome(*conditions, **changes):
        record = judge(claim(*conditions, **changes), evidence(), "t")
        return record["verdict"], record["reason"]

    def ask(found):
        raise NotTestable("it needs eight GPUs")

    assert outcome(GAIN, condition(value=ask)) == ("not testable at this scale", "it needs eight GPUs")
    weak = ("not testable at this scale", "networks of 1.1 AP points: a verdict needs 10")
    assert outcome(FAILS, level=lambda found: found["low"], seeds=6) == weak
    assert outcome(GAIN, level=lambda found: np.full(3, 10.0)) == ("reproduced", None)
    assert outcome(GAIN, level=lambda found: found["cost"]) == ("inconclusive", "not measured: cost")


def test_seeds_needed_is_given_beside_open_verdicts_over_seeds_with_an_effect_only():
    needed = lambda *conditions, seeds=(0, 1, 2): judge(claim(*conditions), evidence(seeds), "t")["seeds_needed"]  # noqa: E731
    assert needed(OPEN) is None  # no effect is named
    assert needed(GAIN) is None  # it is decided
    assert needed(condition("wide", effect=1.0)) == seeds_needed(9.0, 1.0)
    assert needed(condition("wide", effect=1.0), seeds=(0, 1)) == seeds_needed(9 / math.sqrt(2), 1.0)
    assert needed(condition("wide", effect=1.0), seeds=(0,)) is None
    assert needed(condition(value=lambda found: Difference(0.9, -0.8, 0.95, 60), effect=1.0)) is None  # over items
    fewer = condition(value=lambda found: Difference(0.1, -0.8, 1.0, 2), effect=1.0)  # of an exhibit with two seeds
    assert needed(fewer) == seeds_needed(fewer.value(None).deviation(), 1.0)
    assert needed(condition(value=lambda found: Difference(0.5, math.nan, math.nan, 3), effect=1.0)) is None
    assert needed(condition("low", effect=1.0), condition("wide", effect=3.0)) == seeds_needed(9.0, 3.0)  # the decisive


def test_judging_all_gives_a_record_for_every_id_and_none_twice():
    claims = [claim(), claim(condition("cost"), id="T-2")]
    records = judge_all(claims, evidence(), "toynas", "ToyNAS")
    assert records == {each.id: judge(each, evidence(), "toynas", "ToyNAS") for each in claims}
    assert judge_all(claims, evidence(), "toynas")["T-1"]["paper_title"] == ""
    repeated = [claim(id=name) for name in ("T-2", "T-1", "T-2", "T-1", "T-3")]
    with pytest.raises(InputError, match=r"^claims written twice: T-1, T-2; each id stands for one claim$"):
        judge_all(repeated, evidence(), "toynas")
    with pytest.raises(ZeroDivisionError):  # an error in a rule is not hidden
        judge(claim(condition(value=lambda found: 1 / 0)), evidence(), "toynas")


def test_claims_file_is_read_as_written(tmp_path):
    records = judge_all([claim(), claim(FAILS, id="T-2"), claim(OPEN, id="T-3")], evidence(), "toynas")
    assert read_claims(write_json(tmp_path / "claims.json", records)) == records


NO_OBJECT = "claims.json is not a claims file: it must hold one object for each claim id"
WRONG = "claims.json: the verdict of DO-1 must be one of reproduced, smaller than .*; got 'yes'"


@pytest.mark.parametrize(
    ("text", "message"), [("3", NO_OBJECT), ('{"DO-1": 3}', NO_OBJECT), ('{"DO-1": {"verdict": "yes"}}', WRONG)]
)
def test_damaged_claims_file_is_one_sentence(tmp_path, text, message):
    (tmp_path / "claims.json").write_text(text)
    with pytest.raises(InputError, match=f"{message}$"):
        read_claims(tmp_path / "claims.json")
