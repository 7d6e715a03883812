"""Claims as rows of a table: every claim with its rule's outcome, by paper."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from common.plain import InputError
from common.report.claims import read_claims
from common.report.statistics import Difference
from common.report.tables import format_measured, markdown_table

HEADS = ("Claim", "Where", "Paper", "Ours (95 % interval)", "Seeds", "Data", "Verdict")
Record = Mapping[str, Any]


def find_claims(roots: Iterable[Path]) -> tuple[list[dict[str, Any]], list[str]]:
    """Every claim's record in the claims.json below the given folders, in a fixed order; and what cannot be read."""
    files = {path.resolve() for root in roots for path in Path(root).rglob("claims.json")}
    records, unreadable = [], []
    for path in sorted(files):
        try:
            records += [{**record, "id": claim} for claim, record in read_claims(path).items()]
        except InputError as error:
            unreadable.append(str(error))
    return sorted(records, key=_place), unreadable


def _place(record: Record) -> tuple:
    prefix, _, number = record["id"].partition("-")
    digits = re.match(r"\d+", number)
    return (prefix, int(digits.group()) if digits else 0, number, record.get("scale", ""), record.get("data", ""))


def natural(name: str) -> tuple[str, int, str]:
    """The key by which table2 comes before table10."""
    digits = "".join(letter for letter in name if letter.isdigit())
    return name.rstrip("0123456789"), int(digits or 0), name


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
        measured(record),
        f"{seeds} (80 % power: {needed})" if needed else str(seeds),
        f"{record.get('data', '')} {record.get('scale', '')}".strip(),
        record["verdict"],
    )


def measured(record: Record) -> str:
    """The difference of a claim, or of one of its conditions, with its interval and unit."""
    if record.get("difference") is None:
        return "–"
    low, high = (float("nan") if side is None else side for side in (record.get("interval") or (None, None)))
    text = format_measured(Difference(record["difference"], low, high, record.get("n", 0)))
    return f"{text} {record.get('unit') or ''}".strip()


def counts(records: Iterable[Record]) -> str:
    """How many claims have which verdict: "3 reproduced · 4 not reproduced · 1 inconclusive"."""
    verdicts = [record["verdict"] for record in records]
    return " · ".join(
        f"{verdicts.count(verdict)} {verdict}" for verdict in ("reproduced", "not reproduced", "inconclusive")
    )


def scoreboard(records: Iterable[Record]) -> str:
    """The claims of one paper as a table in markdown, the reason beside a verdict that is left open."""
    rows = []
    for record in records:
        *cells, verdict = claim_cells(record)
        rows.append([*cells, f"{verdict}: {record['reason']}" if record.get("reason") else verdict])
    return markdown_table(HEADS, rows)
