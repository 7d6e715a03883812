"""The scoreboard of claims in README.md, made from the committed results.

`python -m common.report.scoreboard` writes the part between the two markers anew; `--check` only says whether it is up
to date, for the tests.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.cli import run
from common.plain import InputError
from common.report.claims import read_claims
from common.report.statistics import Difference
from common.report.tables import format_measured

BEGIN = "<!-- scoreboard:begin -->"
END = "<!-- scoreboard:end -->"
PAPERS = {
    "joint_detnas": "Joint-DetNAS",
    "sm_nas": "SM-NAS",
    "detofa": "DetOFA",
    "compare": "Across the papers",
}
HEADS = ("Claim", "Where", "Paper", "Ours (95 % interval)", "Seeds", "Data", "Verdict")
_PREFIXES = {"JD": "joint_detnas", "SM": "sm_nas", "DO": "detofa", "X": "compare"}


@dataclass(frozen=True)
class Options:
    """Rewrite the claims table in README.md from the committed results."""

    check: bool = False
    """Change nothing; exit with status 1 where README.md is out of date."""
    results: Path = Path("results")
    """Folder with the committed results."""
    readme: Path = Path("README.md")
    """File with the two scoreboard markers."""


def find_claims(roots: Iterable[Path]) -> list[dict[str, Any]]:
    """Every claim's record in the *claims*.json below the given folders, each with its `id`, in a fixed order."""
    files = {path.resolve() for root in roots for path in Path(root).rglob("*claims*.json")}
    records = []
    for path in sorted(files):
        records += [{**record, "id": claim} for claim, record in read_claims(path).items()]
    return sorted(records, key=_place)


def paper_of(record: Mapping[str, Any]) -> str:
    """The paper's folder name, from the record or from the claim's prefix."""
    return record.get("paper_name") or _PREFIXES.get(record["id"].partition("-")[0], "compare")


def by_paper(records: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    grouped: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        grouped.setdefault(paper_of(record), []).append(record)
    known = list(PAPERS)
    return dict(sorted(grouped.items(), key=lambda item: (known.index(item[0]) if item[0] in known else 99, item[0])))


def claim_cells(record: Mapping[str, Any]) -> tuple[str, ...]:
    """A claim's row of the scoreboard, as text, in the order of `HEADS`."""
    seeds = record.get("seeds") or []
    needed = record.get("seeds_needed")
    return (
        f"{record['id']}: {record.get('statement', '')}",
        str(record.get("where", "")),
        "–" if record.get("paper") is None else str(record["paper"]),
        measured(record),
        f"{len(seeds)}" + (f" (80 % power: {needed})" if needed else ""),
        f"{record.get('data', '')} {record.get('scale', '')}".strip(),
        record["verdict"],
    )


def measured(record: Mapping[str, Any]) -> str:
    """Our difference with its interval and unit."""
    if record.get("difference") is None:
        return "–"
    low, high = (float("nan") if side is None else side for side in (record.get("interval") or (None, None)))
    text = format_measured(Difference(record["difference"], low, high, record.get("n", 0)))
    return f"{text} {record.get('unit') or ''}".strip()


def scoreboard(records: list[dict[str, Any]]) -> str:
    """The scoreboard as markdown: a table a paper."""
    if not records:
        return "No claim has been judged yet: `results/` holds no claims file.\n"
    parts = []
    for paper, claims in by_paper(records).items():
        rows = [HEADS, ("---",) * len(HEADS), *(_row(record) for record in claims)]
        lines = ["| " + " | ".join(_markdown_cell(cell) for cell in row) + " |" for row in rows]
        parts.append(f"### {PAPERS.get(paper, paper)}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def _row(record: Mapping[str, Any]) -> tuple[str, ...]:
    *cells, verdict = claim_cells(record)
    return (*cells, f"{verdict}: {record['reason']}" if record.get("reason") else verdict)


def renewed(readme: str, board: str, name: str = "README.md") -> str:
    """The text of the README with `board` between its two markers."""
    if readme.count(BEGIN) != 1 or readme.count(END) != 1 or readme.index(BEGIN) > readme.index(END):
        raise InputError(f"{name} must hold {BEGIN} and then {END}, once each; put them where the scoreboard belongs")
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n\n{board}\n{END}{rest.split(END)[1]}"


def main(options: Options) -> None:
    if not options.readme.is_file():
        raise InputError(f"{options.readme} is not there; run this in the repository's root, or name it with --readme")
    old = options.readme.read_text()
    new = renewed(old, scoreboard(find_claims([options.results])), str(options.readme))
    if not options.check:
        options.readme.write_text(new)
    elif new != old:
        print(
            f"{options.readme} is out of date with {options.results}/: "
            "run `python -m common.report.scoreboard` and commit the change"
        )
        raise SystemExit(1)


def _place(record: Mapping[str, Any]) -> tuple:
    prefix, _, number = record["id"].partition("-")
    digits = re.match(r"\d+", number)
    return (
        prefix,
        int(digits.group()) if digits else 0,
        number,
        str(record.get("scale", "")),
        str(record.get("data", "")),
    )


def _markdown_cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    run(main, Options)
