"""Claims of a paper, the rules that judge them, and claims.json.

A claim's rule is data, written before its runs: conditions, each a quantity, a direction and a threshold; its sentence
is printed from them. `judge` only applies the rule. No claim is left out: one without evidence is inconclusive, one
that the scale cannot show is not testable, and both say why.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from common.plain import InputError, read_json
from common.report.statistics import Difference, mean_interval, seeds_needed

Direction = Literal["above", "below"]
Verdict = Literal[
    "reproduced", "smaller than the paper's", "not reproduced", "inconclusive", "not testable at this scale"
]
VERDICTS = get_args(Verdict)
_REPRODUCED, _SMALLER, _NOT_REPRODUCED, _INCONCLUSIVE, _NOT_TESTABLE = VERDICTS
LEAST_LEVEL = 10.0
"""AP points below which networks have not learnt enough to judge a method by."""
SEEDS = 6
"""Seeds that a verdict needs, where a claim says nothing else: half of a 95 % interval is then about the standard
deviation between seeds."""
LEAST_UNITS = 60
"""Items pooled over seeds that stand in for the seeds a verdict needs."""


class NotMeasured(Exception):
    """A condition lacks what it needs; the message says what, and becomes the record's reason."""


class NotTestable(Exception):
    """The scale cannot show what a condition asks for, whatever is measured; the message says why."""


@dataclass(frozen=True)
class Evidence:
    """What the claims of one paper are judged by, at one scale on one data set.

    values: arrays by name, first axis the seed, in the order of `seeds`. `evidence["name"]` gives one, or says that it
    was not measured. rests_on: name -> the runs that the value was made from. environment: runs -> where they were
    made. budget: name -> side -> what it was trained with, seeds averaged. asked: names that were asked for, for the
    record of what a claim rests on. why: claim -> the sentence written after looking.
    """

    data: str
    scale: str
    seeds: Sequence[int]
    command: str
    values: Mapping[str, np.ndarray]
    rests_on: Mapping[str, Iterable[str]] = field(default_factory=dict)
    environment: Callable[[Sequence[str]], Mapping[str, Any]] = lambda runs: {}
    budget: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    why: Mapping[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.values:
            raise NotMeasured(f"not measured: {name}")
        self.asked.append(name)
        return self.values[name]


@dataclass(frozen=True)
class Condition:
    """The interval of a quantity lies above, or below, a threshold.

    quantity: what is compared, in a phrase: "AP of ours minus OFA (w/o PS), averaged over the budgets". value:
    evidence -> (S,) or (S, ...) values, trailing axes averaged within a seed first; or a mean with its interval.
    effect: the smallest distance from the threshold worth finding, from which the number of seeds needed follows.
    printed: the paper's own value of the quantity, in its unit, where it prints one. null: what the threshold is, where
    it is what would come out if the method did nothing.
    """

    quantity: str
    value: Callable[[Evidence], ArrayLike | Difference]
    direction: Direction = "above"
    threshold: float = 0.0
    unit: str = ""
    effect: float | None = None
    printed: float | None = None
    null: str = ""

    @property
    def sentence(self) -> str:
        """The rule in words."""
        return f"{self.quantity} {self.direction} {self.threshold:g}" + (f" ({self.null})" if self.null else "")


def ap_rule(
    quantity: str,
    value: Callable[[Evidence], ArrayLike | Difference],
    direction: Direction = "above",
    threshold: float = 0.0,
    effect: float = 0.5,
    **more: Any,
) -> Condition:
    """A condition on AP points, of which half a one is worth finding."""
    return Condition(quantity, value, direction, threshold, "AP points", effect, **more)


@dataclass(frozen=True)
class Before:
    """A rule that was written earlier, in words, and why it was changed."""

    rule: str
    reason: str


@dataclass(frozen=True)
class Claim:
    """One assertion of a paper and the conditions that must all hold.

    id: such as "DO-1". where: where the paper says it, such as "Figure 5". paper_value: the paper's number, as printed.
    exhibits: further ones that the evidence comes from, besides the one that the claim stands with. level: evidence ->
    (S,) AP points of the networks that it is about, None where there is nothing to have learnt. seeds: what a verdict
    needs, fixed beforehand; pooled items stand in for them. before: the rule that this one takes the place of.
    """

    id: str
    where: str
    statement: str
    conditions: tuple[Condition, ...]
    paper_value: str | None = None
    exhibits: tuple[str, ...] = ()
    level: Callable[[Evidence], ArrayLike] | None = None
    seeds: int = SEEDS
    before: Before | None = None

    @property
    def rule(self) -> str:
        """The rule in words, printed from the conditions."""
        return "; and ".join(condition.sentence for condition in self.conditions)


def verdict(
    difference: Difference, threshold: float = 0.0, direction: Direction = "above", printed: float | None = None
) -> Verdict:
    """Reproduced when the whole interval lies on the claimed side, not reproduced when wholly on the other side.

    printed: the paper's value; an interval that does not reach half of its distance from the threshold is smaller.
    """
    if direction not in ("above", "below"):
        raise InputError(f"a claim's direction must be above or below, got {direction!r}")
    if difference.n < 2 or not difference.has_interval:
        return _INCONCLUSIVE
    sign = 1 if direction == "above" else -1
    low, high = sorted((sign * (difference.low - threshold), sign * (difference.high - threshold)))
    if high < 0:
        return _NOT_REPRODUCED
    if printed is not None and high < sign * (printed - threshold) / 2:
        return _SMALLER
    return _REPRODUCED if low > 0 else _INCONCLUSIVE


def _decided_at(condition: Condition, verdict: Verdict) -> float:
    """What the interval had to lie on one side of: half of what the paper prints, where it is smaller than that."""
    return (condition.threshold + condition.printed) / 2 if verdict == _SMALLER else condition.threshold


def all_of(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict on a conjunction: every part must hold, so the worst of them."""
    by_weight = (_NOT_REPRODUCED, _SMALLER, _INCONCLUSIVE, _REPRODUCED)
    return min(verdicts, key=by_weight.index, default=_INCONCLUSIVE)


def judge(claim: Claim, evidence: Evidence, paper: str, paper_title: str = "") -> dict[str, Any]:
    """The claim's record, as it stands in claims.json.

    Of several conditions, `difference` and `interval` are those of the one that decides: the first that fails, else
    the first that is smaller or left open, else the first; all of them stand in `conditions`.
    """
    evidence.asked.clear()
    first = claim.conditions[0]
    record: dict[str, Any] = {
        "id": claim.id,
        "paper_name": paper,
        "paper_title": paper_title,
        "verdict": _INCONCLUSIVE,
        **dict.fromkeys(("reason", "difference", "interval", "seeds_needed", "p", "level")),
        "unit": first.unit,
        "n": 0,
        "seeds": list(evidence.seeds),
        "data": evidence.data,
        "scale": evidence.scale,
        "paper": claim.paper_value,
        "where": claim.where,
        "statement": claim.statement,
        "rule": claim.rule,
        "before": None if claim.before is None else vars(claim.before),
        "why": evidence.why.get(claim.id),
        "threshold": first.threshold,
        "direction": first.direction,
        "conditions": [],
        "command": evidence.command,
        "budget": {},
        "runs": [],
        "environment": {},
    }
    try:
        values = [condition.value(evidence) for condition in claim.conditions]
        level = None if claim.level is None else float(np.mean(claim.level(evidence)))
    except NotMeasured as reason:
        return record | {"reason": str(reason)}
    except NotTestable as reason:
        return record | {"verdict": _NOT_TESTABLE, "reason": str(reason)}
    measured = [value if isinstance(value, Difference) else mean_interval(value) for value in values]
    runs = list(dict.fromkeys(run for name in evidence.asked for run in evidence.rests_on.get(name, ())))
    budget = {side: spent for name in evidence.asked for side, spent in evidence.budget.get(name, {}).items()}
    record |= {"level": level, "budget": budget, "runs": runs, "environment": dict(evidence.environment(runs))}

    seeds = len(set(evidence.seeds))
    verdicts = []
    for condition, difference in zip(claim.conditions, measured, strict=True):
        decided = verdict(difference, condition.threshold, condition.direction, condition.printed)
        verdicts.append(decided if seeds > 1 else _INCONCLUSIVE)
        record["conditions"].append(
            {
                "name": condition.quantity,
                "verdict": verdicts[-1],
                "difference": difference.mean,
                "interval": [difference.low, difference.high],
                "n": difference.n,
                **{key: getattr(condition, key) for key in ("direction", "threshold", "unit", "printed", "null")},
            }
        )
    record["verdict"] = all_of(verdicts)
    decisive = verdicts.index(record["verdict"])
    deciding, difference = record["conditions"][decisive], measured[decisive]
    record |= {key: deciding[key] for key in ("difference", "interval", "n", "direction", "threshold", "unit")}

    few, asked = min(seeds, *(each.n for each in measured)), max(2, claim.seeds)
    pooled = seeds > 1 and all(each.n >= LEAST_UNITS for each in measured)
    if level is not None and level < LEAST_LEVEL:
        reason = f"networks of {level:.1f} AP points: a verdict needs {LEAST_LEVEL:g}"
        record |= {"verdict": _NOT_TESTABLE, "reason": reason}
    elif few < asked and not pooled:
        record |= {"verdict": _INCONCLUSIVE, "reason": f"{few} of the {asked} seeds that a verdict needs"}
    elif record["verdict"] == _INCONCLUSIVE:
        covered = f"the interval covers the threshold {deciding['threshold']:g}"
        record["reason"] = covered if difference.has_interval else "no interval could be computed"
    else:  # a claim holds by its weakest condition, and fails by the one that decides
        parts = zip(claim.conditions, measured, verdicts, strict=True)
        p_values = [each.p_value(_decided_at(condition, verdict)) for condition, each, verdict in parts]
        record["p"] = max(p_values) if record["verdict"] == _REPRODUCED else p_values[decisive]
    effect = claim.conditions[decisive].effect
    over_seeds = difference.n in (seeds, min(seeds, claim.seeds))  # rather than over pooled items
    if record["verdict"] == _INCONCLUSIVE and effect and over_seeds and difference.n > 1 and difference.has_interval:
        record["seeds_needed"] = seeds_needed(difference.deviation(), effect)
    return record


def judge_all(
    claims: Sequence[Claim], evidence: Evidence, paper: str, paper_title: str = ""
) -> dict[str, dict[str, Any]]:
    """Every claim's record by its id."""
    ids = [claim.id for claim in claims]
    repeated = sorted({each for each in ids if ids.count(each) > 1})
    if repeated:
        raise InputError(f"claims written twice: {', '.join(repeated)}; each id stands for one claim")
    return {claim.id: judge(claim, evidence, paper, paper_title) for claim in claims}


def read_claims(path: Path) -> dict[str, dict[str, Any]]:
    """claims.json by claim id."""
    records = read_json(path)
    if not isinstance(records, dict) or not all(isinstance(record, dict) for record in records.values()):
        raise InputError(f"{path} is not a claims file: it must hold one object for each claim id")
    for claim, record in records.items():
        if record.get("verdict") not in VERDICTS:
            raise InputError(
                f"{path}: the verdict of {claim} must be one of {', '.join(VERDICTS)}; got {record.get('verdict')!r}"
            )
    return records
