"""Claims of a paper, the rules that judge them, and claims.json.

A claim's rule (which difference, which side of which threshold) is written down in code before its runs;
`judge` only applies it. No claim is left out: one without evidence is inconclusive, and says why.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from common.plain import InputError, read_json, write_json
from common.report.statistics import Difference, mean_interval, seeds_needed

Direction = Literal["above", "below"]
Verdict = Literal["reproduced", "not reproduced", "inconclusive"]


class NotMeasured(Exception):
    """A claim's measure lacks what it needs; the message says what, and becomes the record's reason."""


@dataclass(frozen=True)
class Evidence:
    """What the claims of one paper are judged by, at one scale on one data set.

    values: arrays by name, first axis the seed, in the order of `seeds`. `evidence["name"]` gives one, or says that it
    was not measured.
    """

    data: str
    scale: str
    seeds: Sequence[int]
    command: str
    values: Mapping[str, Any]
    runs: Sequence[str] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)  # by claim id

    def __getitem__(self, name: str) -> Any:
        if name not in self.values:
            raise NotMeasured(f"not measured: {name}")
        return self.values[name]


@dataclass(frozen=True)
class Condition:
    """One of several things that must all hold: the interval of the difference `name` lies `direction` `threshold`."""

    name: str
    direction: Direction
    threshold: float
    unit: str = ""


@dataclass(frozen=True)
class Claim:
    """One assertion of a paper and how it is decided.

    id: "DO-1"; paper: "detofa"; where: "Figure 5"; statement: the claim in a sentence; paper_value: their number, as
    printed; rule: the decision rule in words. `measure(evidence)` gives the difference to be judged; for a claim of
    several `conditions` it gives a mapping from each condition's name to its difference, and all must hold.
    effect: the smallest distance from the threshold worth finding, from which the seeds needed follow; unit: of the
    difference.
    """

    id: str
    paper: str
    where: str
    statement: str
    paper_value: str | float | None
    rule: str
    measure: Callable[[Evidence], Difference | Mapping[str, Difference]]
    direction: Direction = "above"
    threshold: float = 0.0
    conditions: Sequence[Condition] = ()
    effect: float | None = None
    unit: str = ""


Measure = Callable[[Evidence], Difference]


def value_of(name: str, of_several: Callable[..., np.ndarray] | None = None) -> Measure:
    """The measure that is a value of the evidence itself, (S,). of_several: makes one value a seed of (S, N), as
    numpy.mean does along axis 1."""

    def measure(evidence: Evidence) -> Difference:
        values = np.asarray(evidence[name], dtype=float)
        return mean_interval(values if of_several is None else of_several(values, axis=1))

    return measure


def each_of(measures: Mapping[str, Measure]) -> Callable[[Evidence], dict[str, Difference]]:
    """The measure of a claim of several conditions, from one measure a condition, by its name."""

    def measure(evidence: Evidence) -> dict[str, Difference]:
        return {name: part(evidence) for name, part in measures.items()}

    return measure


def verdict(difference: Difference, threshold: float = 0.0, direction: Direction = "above") -> Verdict:
    """Reproduced when the whole interval lies on the claimed side, not reproduced when wholly on the other side."""
    if direction not in ("above", "below"):
        raise InputError(f"a claim's direction is above or below, not {direction!r}")
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


def judge(claim: Claim, evidence: Evidence) -> dict[str, Any]:
    """The claim's record, as it stands in claims.json.

    Of several conditions, `difference` and `interval` are those of the one that decides: the first that fails, else
    the first left open, else the first; all of them stand in `conditions`.
    """
    record: dict[str, Any] = {
        "id": claim.id,
        "paper_name": claim.paper,
        "verdict": "inconclusive",
        "reason": None,
        "difference": None,
        "interval": None,
        "unit": claim.unit,
        "n": 0,
        "seeds": list(evidence.seeds),
        "data": evidence.data,
        "scale": evidence.scale,
        "paper": claim.paper_value,
        "where": claim.where,
        "statement": claim.statement,
        "rule": claim.rule,
        "threshold": claim.threshold,
        "direction": claim.direction,
        "conditions": [],
        "command": evidence.command,
        "seeds_needed": None,
        "runs": list(evidence.runs),
        "environment": dict(evidence.environment),
        "notes": evidence.notes.get(claim.id, ""),
    }
    conditions = claim.conditions or (Condition(claim.id, claim.direction, claim.threshold, claim.unit),)
    try:
        measured = claim.measure(evidence)
        if isinstance(measured, Difference):
            measured = {condition.name: measured for condition in conditions}
        missing = [condition.name for condition in conditions if condition.name not in measured]
        if missing:
            raise NotMeasured(f"not measured: {', '.join(missing)}")
    except NotMeasured as reason:
        record["reason"] = str(reason)
        return record

    seeds = len(set(evidence.seeds))
    verdicts = []
    for condition in conditions:
        difference = measured[condition.name]
        decided = verdict(difference, condition.threshold, condition.direction)
        verdicts.append(decided if seeds > 1 else "inconclusive")
        record["conditions"].append(
            {
                "name": condition.name,
                "verdict": verdicts[-1],
                "difference": difference.mean,
                "interval": [difference.low, difference.high],
                "n": difference.n,
                "direction": condition.direction,
                "threshold": condition.threshold,
                "unit": condition.unit or claim.unit,
            }
        )
    record["verdict"] = all_of(verdicts)
    deciding = record["conditions"][verdicts.index(record["verdict"])]
    record |= {key: deciding[key] for key in ("difference", "interval", "n", "direction", "threshold", "unit")}
    if record["verdict"] == "inconclusive":
        fewest = min(seeds, *(measured[condition.name].n for condition in conditions))
        if fewest < 2:
            record["reason"] = f"{fewest} seed{'' if fewest == 1 else 's'}: at least 2 are needed for an interval"
        elif deciding["interval"][0] != deciding["interval"][0]:
            record["reason"] = "no interval could be computed"
        else:
            record["reason"] = f"the interval covers the threshold {deciding['threshold']:g}"
    difference = measured[deciding["name"]]
    if claim.effect and difference.n == seeds and seeds > 1 and difference.has_interval:
        record["seeds_needed"] = seeds_needed(difference.deviation(), claim.effect)
    if not claim.conditions:
        record["conditions"] = []
    return record


def write_claims(path: Path, claims: Sequence[Claim], evidence: Evidence) -> dict[str, dict[str, Any]]:
    """Judge every claim and write claims.json: one object a claim id. Returns what was written."""
    repeated = {claim.id for claim in claims if sum(other.id == claim.id for other in claims) > 1}
    if repeated:
        raise InputError(f"claims written twice: {', '.join(sorted(repeated))}; each id stands for one claim")
    records = {claim.id: judge(claim, evidence) for claim in claims}
    write_json(path, records)
    return records


def read_claims(path: Path) -> dict[str, dict[str, Any]]:
    """claims.json by claim id; a list of records that carry an `id` is read too."""
    records = read_json(path)
    if isinstance(records, list) and all(isinstance(record, dict) and "id" in record for record in records):
        records = {record["id"]: record for record in records}
    if not isinstance(records, dict) or not all(isinstance(record, dict) for record in records.values()):
        raise InputError(f"{path} is not a claims file: it must hold one object for each claim id")
    for claim, record in records.items():
        if record.get("verdict") not in ("reproduced", "not reproduced", "inconclusive"):
            raise InputError(
                f"{path}: the verdict of {claim} is {record.get('verdict')!r}; "
                "it must be reproduced, not reproduced or inconclusive"
            )
    return records
