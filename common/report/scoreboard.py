"""Claims as rows of a table: every claim with its rule's outcome, by paper."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.plain import InputError
from common.report.claims import VERDICTS, read_claims
from common.report.runs import superseded
from common.report.statistics import Difference, holm
from common.report.tables import format_measured, markdown_table

LEVEL = 0.05
"""Chance at which a verdict is false where there is nothing to be found."""
HEADS = ("Claim", "Where", "Paper", "Ours (95 % interval)", "Seeds", "Data", "Verdict")
Record = Mapping[str, Any]


def find_claims(roots: Iterable[Path]) -> tuple[list[dict[str, Any]], list[str]]:
    """Every claim's record in the claims.json below the given folders, in a fixed order; and what cannot be read.

    A record has its "id", and under "superseded" why it is that, "" where it is not.
    """
    files = {path.resolve() for root in roots for path in Path(root).rglob("claims.json")}
    records, unreadable = [], []
    for path in sorted(files):
        try:
            why = superseded(path)
            records += [{**record, "id": claim, "superseded": why} for claim, record in read_claims(path).items()]
        except InputError as error:
            unreadable.append(str(error))
    records.sort(key=lambda each: (natural(each["id"]), each.get("scale", ""), each.get("data", "")))
    return records, unreadable


def natural(name: str) -> list[tuple[str, int]]:
    """The key by which table2 comes before table10."""
    return [(text, int(digits or 0)) for text, digits in re.findall(r"(\D*)(\d*)", name)]


def by_paper(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Claims by the title of their paper, in the order of the titles."""
    grouped: dict[str, list[Record]] = {}
    for record in records:
        grouped.setdefault(record.get("paper_title") or record.get("paper_name") or "Claims", []).append(record)
    return dict(sorted(grouped.items()))


def claim_cells(record: Record) -> tuple[str, ...]:
    """A claim's row, as text, in the order of `HEADS`."""
    seeds, needed = len(record.get("seeds") or []), record.get("seeds_needed")
    return (
        f"{record['id']}: {record.get('statement', '')}",
        str(record.get("where", "")),
        "–" if record.get("paper") is None else str(record["paper"]),
        measured_text(record),
        f"{seeds} (80 % power: {needed})" if needed else str(seeds),
        f"{record.get('data', '')} {record.get('scale', '')}".strip(),
        record["verdict"],
    )


def measured_text(record: Record) -> str:
    """The difference of a claim, or of one of its conditions, with its interval and unit."""
    if record.get("difference") is None:
        return "–"
    low, high = (float("nan") if side is None else side for side in (record.get("interval") or (None, None)))
    text = format_measured(Difference(record["difference"], low, high, record.get("n", 0)))
    return f"{text} {record.get('unit') or ''}".strip()


def counts(records: Iterable[Record]) -> str:
    """How many claims have which verdict: "3 reproduced · 4 not reproduced · 1 inconclusive"."""
    return " · ".join(f"{number} {verdict}" for verdict, number in tally(records).items())


def tally(records: Iterable[Record]) -> dict[str, int]:
    """How many claims have which verdict."""
    verdicts = [record["verdict"] for record in records]
    return {verdict: verdicts.count(verdict) for verdict in VERDICTS if verdict in verdicts}


def level(records: Iterable[Record]) -> str:
    """The AP of the networks that claims were judged on, in a phrase; nothing where none is recorded."""
    levels = [record["level"] for record in records if record.get("level") is not None]
    ends = dict.fromkeys(f"{end(levels):.0f}" for end in (min, max) if levels)
    return f"networks of {' to '.join(ends)} AP points" if levels else ""


def headline(records: Sequence[Record]) -> str:
    """What was reproduced, at which AP, in a sentence. records: those that count."""
    if not records:
        return "No claim is judged: what is here is superseded, or of the smoke scale, whose numbers mean nothing."
    number, scales = tally(records).get("reproduced", 0), sorted({f"{each['scale']} scale" for each in records})
    by = f", by {level(records)}" if level(records) else ""
    return f"{number} of {len(records)} claims are reproduced at {' and '.join(scales)}{by}."


def standing(records: Iterable[Record]) -> str:
    """How sure the decided verdicts are all together, in a sentence; nothing where none is decided."""
    p_values = {str(at): each["p"] for at, each in enumerate(records) if each.get("p") is not None}
    if not p_values:
        return ""
    stand = sum(p < LEVEL for p in holm(p_values).values())
    return (
        f"Of {len(p_values)} decided verdicts, {LEVEL * len(p_values):.1f} would be false by chance if nothing were to "
        f"be found; {stand} stand at {LEVEL:.0%} when all are tested together (Holm)."
    )


def details(record: Record) -> list[str]:
    """What stands behind a verdict, a sentence each: why, the networks' level, both sides' budget, the former rule."""
    said = [record["why"]] if record.get("why") else []
    if record.get("level") is not None:
        said.append(f"Networks of {record['level']:.1f} AP points.")
    sides = [
        f"{side} {spent['samples']:,.0f} samples"
        + (f" in {spent['cpu_seconds']:,.0f} CPU s" if "cpu_seconds" in spent else "")
        for side, spent in (record.get("budget") or {}).items()
        if "samples" in spent
    ]
    said += [f"Trained with: {'; '.join(sides)}."] if sides else []
    said += [f"p {record['p']:.2g}."] if record.get("p") is not None else []
    if before := record.get("before"):
        said.append(f"Rule before: {before['rule']}. Changed: {before['reason'].rstrip('.')}.")
    return said


def behind(record: Record) -> list[str]:
    """All that a page says of a claim beside its row: `details`, its rule and conditions, command and runs."""
    said = [*details(record), *([f"Rule: {record['rule']}"] if record.get("rule") else [])]
    said += [f"Command: {record['command']}"] if record.get("command") else []
    said += [
        f"{part['name']}: {part['verdict']}, {measured_text(part)}, to lie {part['direction']} {part['threshold']:g}"
        for part in record.get("conditions") or []
    ]
    return said + ([f"Runs: {', '.join(record['runs'])}"] if record.get("runs") else [])


def exhibits_of(record: Record) -> list[str]:
    """Names of the exhibits that the claim rests on; where the record has none, of those where the paper says it: of
    "Tables 2 and 4", table2 and table4."""
    if "exhibits" in record:
        return record["exhibits"]
    places = re.findall(r"(Figure|Table)s? (\d+(?:(?:, | and )\d+)*)", record.get("where") or "")
    return [f"{kind.lower()}{number}" for kind, numbers in places for number in re.findall(r"\d+", numbers)]


def scoreboard(records: Iterable[Record]) -> str:
    """The claims of one paper as a table in markdown."""
    return markdown_table(HEADS, [(*claim_cells(record)[:-1], with_reason(record)) for record in records])


def with_reason(record: Record) -> str:
    """The verdict, with the reason where it is left open."""
    return ": ".join(filter(None, (record["verdict"], record.get("reason"))))
