"""Claims of a paper, the rules that judge them, and claims.json.

A claim's rule is data, written before its runs: conditions, each a quantity, a direction and a threshold; its sentence
is printed from them. `judge` only applies the rule. No claim is left out: one without evidence is inconclusive, and
says why.
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
Verdict = Literal["reproduced", "not reproduced", "inconclusive"]
VERDICTS = get_args(Verdict)


class NotMeasured(Exception):
    """A condition lacks what it needs; the message says what, and becomes the record's reason."""


@dataclass(frozen=True)
class Evidence:
    """What the claims of one paper are judged by, at one scale on one data set.

    values: arrays by name, first axis the seed, in the order of `seeds`. `evidence["name"]` gives one, or says that it
    was not measured. rests_on: name -> the runs that the value was made from. environment: runs -> where they were
    made. asked: names that were asked for, for the record of what a claim rests on.
    """

    data: str
    scale: str
    seeds: Sequence[int]
    command: str
    values: Mapping[str, np.ndarray]
    rests_on: Mapping[str, Iterable[str]] = field(default_factory=dict)
    environment: Callable[[Sequence[str]], Mapping[str, Any]] = lambda runs: {}
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
    """

    quantity: str
    value: Callable[[Evidence], ArrayLike | Difference]
    direction: Direction = "above"
    threshold: float = 0.0
    unit: str = ""
    effect: float | None = None

    @property
    def sentence(self) -> str:
        """The rule in words."""
        return f"{self.quantity} {self.direction} {self.threshold:g}"


@dataclass(frozen=True)
class Claim:
    """One assertion of a paper and the conditions that must all hold.

    id: such as "DO-1". where: where the paper says it, such as "Figure 5". paper_value: the paper's number, as printed.
    exhibits: further ones that the evidence comes from, besides the one that the claim stands with.
    """

    id: str
    where: str
    statement: str
    conditions: tuple[Condition, ...]
    paper_value: str | None = None
    exhibits: tuple[str, ...] = ()

    @property
    def rule(self) -> str:
        """The rule in words, printed from the conditions."""
        return "; and ".join(condition.sentence for condition in self.conditions)


def verdict(difference: Difference, threshold: float = 0.0, direction: Direction = "above") -> Verdict:
    """Reproduced when the whole interval lies on the claimed side, not reproduced when wholly on the other side."""
    if direction not in ("above", "below"):
        raise InputError(f"a claim's direction must be above or below, got {direction!r}")
    if difference.n < 2 or not difference.has_interval:
        return "inconclusive"
    above, below = difference.low > threshold, difference.high < threshold
    claimed, other = (above, below) if direction == "above" else (below, above)
    return "reproduced" if claimed else "not reproduced" if other else "inconclusive"


def all_of(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict on a conjunction: every part must hold."""
    if not verdicts:
        return "inconclusive"
    if "not reproduced" in verdicts:
        return "not reproduced"
    return "inconclusive" if "inconclusive" in verdicts else "reproduced"


def judge(claim: Claim, evidence: Evidence, paper: str, paper_title: str = "") -> dict[str, Any]:
    """The claim's record, as it stands in claims.json.

    Of several conditions, `difference` and `interval` are those of the one that decides: the first that fails, else
    the first left open, else the first; all of them stand in `conditions`.
    """
    evidence.asked.clear()
    first = claim.conditions[0]
    record: dict[str, Any] = {
        "id": claim.id,
        "paper_name": paper,
        "paper_title": paper_title,
        "verdict": "inconclusive",
        **dict.fromkeys(("reason", "difference", "interval", "seeds_needed")),
        "unit": first.unit,
        "n": 0,
        "seeds": list(evidence.seeds),
        "data": evidence.data,
        "scale": evidence.scale,
        "paper": claim.paper_value,
        "where": claim.where,
        "statement": claim.statement,
        "rule": claim.rule,
        "threshold": first.threshold,
        "direction": first.direction,
        "conditions": [],
        "command": evidence.command,
        "runs": [],
        "environment": {},
    }
    try:
        values = [condition.value(evidence) for condition in claim.conditions]
    except NotMeasured as reason:
        return record | {"reason": str(reason)}
    measured = [value if isinstance(value, Difference) else mean_interval(value) for value in values]
    runs = list(dict.fromkeys(run for name in evidence.asked for run in evidence.rests_on.get(name, ())))
    record |= {"runs": runs, "environment": dict(evidence.environment(runs))}

    seeds = len(set(evidence.seeds))
    verdicts = []
    for condition, difference in zip(claim.conditions, measured, strict=True):
        decided = verdict(difference, condition.threshold, condition.direction)
        verdicts.append(decided if seeds > 1 else "inconclusive")
        record["conditions"].append(
            {
                "name": condition.quantity,
                "verdict": verdicts[-1],
                "difference": difference.mean,
                "interval": [difference.low, difference.high],
                "n": difference.n,
                **{key: getattr(condition, key) for key in ("direction", "threshold", "unit")},
            }
        )
    record["verdict"] = all_of(verdicts)
    decisive = verdicts.index(record["verdict"])
    deciding, difference = record["conditions"][decisive], measured[decisive]
    record |= {key: deciding[key] for key in ("difference", "interval", "n", "direction", "threshold", "unit")}
    if record["verdict"] == "inconclusive":
        fewest = min(seeds, *(each.n for each in measured))
        if fewest < 2:
            record["reason"] = f"{fewest} seed{'' if fewest == 1 else 's'}: at least 2 are needed for an interval"
        elif not difference.has_interval:
            record["reason"] = "no interval could be computed"
        else:
            record["reason"] = f"the interval covers the threshold {deciding['threshold']:g}"
    effect = claim.conditions[decisive].effect
    if effect and difference.n == seeds and seeds > 1 and difference.has_interval:
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
                f"{path}: the verdict of {claim} must be reproduced, not reproduced or inconclusive, "
                f"got {record.get('verdict')!r}"
            )
    return records
