"""`python -m common.report.readme`: the results in README.md and on the papers' pages, from the published records.

README.md has the papers and what was found, with results/learnt.md; the scoreboard of all claims; and where they are,
the table of results/benchmarks.json, what results/photographs.md tells, and the table of results/photo. PAPER/README.md
has every published exhibit and claim. Each stands between two markers; pictures become PNG files beside their records.
Papers are the folders with a printed.json, and what is in common and has one is shown as they are. `--check` only says
what is stale.
"""

import itertools
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.cli import Switch, run
from common.plain import InputError, read_json, write_atomically
from common.report.claims import read_claims
from common.report.exhibit import ExhibitResult, display_name, printed
from common.report.runs import find_exhibits, find_runs, learnt, notes, superseded
from common.report.scoreboard import (
    Record,
    by_paper,
    counts,
    details,
    find_claims,
    level,
    measured_text,
    natural,
    scoreboard,
    standing,
    with_reason,
)
from common.report.tables import markdown_table, plain_markdown, side_by_side

FINDINGS, SCOREBOARD, SPEED, PHOTOGRAPHS, RESULTS = "findings", "scoreboard", "speed", "photographs", "results"
"""Names of the pairs of markers: <!-- findings:begin --> to <!-- findings:end -->."""


@dataclass(frozen=True)
class Options:
    """Write the results into README.md and the papers' pages anew, from the published records."""

    check: Switch = False
    """Change nothing; exit with status 1 where a page or picture is out of date."""
    root: Path = Path()
    """Folder of the repository, with README.md, results/ and the papers."""


def main(options: Options) -> None:
    stale = dict(_stale(options.root))
    for path, content in stale.items():
        if options.check:
            print(f"{path} is out of date: run `python -m common.report.readme` and commit the change")
        elif content is None:
            path.unlink()
        else:
            write_atomically(path, content)
        if not options.check:
            print(f"{'removed' if content is None else 'wrote'} {path}", file=sys.stderr)
    if options.check and stale:
        raise SystemExit(1)


def _stale(root: Path) -> Iterator[tuple[Path, bytes | None]]:
    """Every file that is out of date, with what it should hold; None for one that should not be there."""
    from common.report.figures import digest, drawn_from, render  # matplotlib takes half a second

    pages = {root / "README.md": dict(zip((FINDINGS, SCOREBOARD), findings_and_scoreboard(root), strict=True))}
    timed = root / "results" / "benchmarks.json"
    if timed.is_file():
        pages[root / "README.md"][SPEED] = speeds(read_json(timed))
    told = root / "results" / "photographs.md"
    if told.is_file():
        measured = [read_json(path) for path in sorted((root / "results" / "photo").glob("*.json"))]
        parts = [told.read_text().strip(), *([photographs(measured)] if measured else [])]
        pages[root / "README.md"][PHOTOGRAPHS] = "\n\n".join(parts)
    for folder in pages_of(root):
        parts = []
        for each in published_folders(root, folder.name):
            exhibits = _exhibits(each)
            parts.append(results(each, folder, exhibits))
            pictures = {each / f"{picture.name}.png": picture for result in exhibits for picture in result.pictures}
            for path in sorted({*pictures, *each.glob("*.png")}):
                if path not in pictures:
                    yield path, None
                elif drawn_from(path) != digest(pictures[path]):
                    yield path, render(pictures[path])
        pages[folder / "README.md"] = {RESULTS: "\n\n".join(parts)}
    for page, parts in pages.items():
        if not page.is_file():
            raise InputError(f"{page} is not there; write it, or name the repository's folder with --root")
        old = new = page.read_text()
        for name, part in parts.items():
            new = renewed(new, name, part, str(page))
        if new != old:
            yield page, new.encode()


def papers(root: Path) -> list[Path]:
    """The packages of papers: the folders with a printed.json."""
    return sorted(path.parent for path in root.glob("*/printed.json"))


def pages_of(root: Path) -> list[Path]:
    """The folders whose README.md shows what was published: the papers, and what compares them."""
    return [*papers(root), *sorted(path.parent for path in root.glob("common/*/printed.json"))]


def published_folders(root: Path, paper: str) -> list[Path]:
    """Folders with a paper's results: results/SCALE/PAPER, and those of other data sets in it."""
    return sorted(path.parent for path in root.glob(f"results/*/{paper}/**/runs.json"))


def _exhibits(folder: Path) -> list[ExhibitResult]:
    found, unreadable = find_exhibits([folder])
    if unreadable:
        raise InputError(unreadable[0])
    here = [each.result for each in found if each.path.parent == folder.resolve()]
    return sorted(here, key=lambda result: natural(result.exhibit))


def renewed(text: str, name: str, part: str, page: str) -> str:
    """The text with `part` between the markers of `name`. page: named in the InputError where they are not there."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise InputError(f"{page} must hold {begin} and then {end}, once each; put them where the {name} belongs")
    before, rest = text.split(begin)
    return f"{before}{begin}\n\n{part}\n\n{end}{rest.split(end)[1]}"


# ---- what stands between the markers


def findings_and_scoreboard(root: Path) -> tuple[str, str]:
    """The papers with a link to their pages, and the sum of what was found; then the claims of each that were judged
    over more than one seed, without those that are superseded.
    """
    records, unreadable = find_claims([root / "results"])
    if unreadable:
        raise InputError(unreadable[0])
    records = [record for record in records if len(record["seeds"]) > 1]
    judged, former = ([each for each in records if bool(each["superseded"]) is old] for old in (False, True))
    titles = {claims[0]["paper_name"]: title for title, claims in by_paper(records).items()}
    rows = []
    for folder in papers(root):
        about = printed(folder)
        link = f"[{titles.get(folder.name, folder.name)}]({folder.name}/README.md)"
        rows.append((link, about["title"], about["authors"]))
    found = [markdown_table(("Page", "Paper", "Authors"), rows), *_comparison(root)]
    found += [" ".join(filter(None, (_sum(judged), _machine_hours(root), standing(judged))))] if judged else []
    if former:
        found.append(
            f"{len(former)} verdicts by former rules ({counts(former)}) are superseded, and stand on the papers' pages "
            "until runs by the present ones take their place."
        )
    found += learnt([root / "results"])
    parts = [f"### {title}\n\n{counts(claims)}\n\n{scoreboard(claims)}" for title, claims in by_paper(judged).items()]
    return "\n\n".join(found), "\n\n".join(parts)


def _comparison(root: Path) -> Iterator[str]:
    """The first picture of what compares the papers, of its first published folder by name, and what it shows."""
    for page in sorted(set(pages_of(root)) - set(papers(root))):
        for folder in published_folders(root, page.name)[:1]:
            first = _exhibits(folder)[0]
            at = Path(os.path.relpath(folder, root)).as_posix()
            for picture in first.pictures[:1]:
                yield f"![{first.title}]({at}/{picture.name}.png)"
                link = Path(os.path.relpath(page, root)).as_posix()
                yield f"**{first.title}** ([numbers]({link}/README.md)). {plain_markdown(first.caption)}"


def _sum(judged: Sequence[Record]) -> str:
    by = f", by {level(judged)}" if level(judged) else ""
    return f"{len(judged)} claims: **{counts(judged)}**{by}."


def _machine_hours(root: Path) -> str:
    """What the published runs took, those of superseded results apart; nothing where that is not recorded."""
    folders = [path for path in root.glob("results/*/*/**/runs.json") if not superseded(path)]
    runs, _ = find_runs([path.parent for path in folders])
    hours = sum((run.seconds or 0.0) + (run.candidate_seconds or 0.0) for run in runs) / 3600
    return f"The {len(runs)} runs that are published took {hours:.1f} machine-hours." if hours else ""


def speeds(rows: list[dict[str, Any]]) -> str:
    """The rows that `python -m benchmarks --json` printed, of one machine."""
    first = rows[0]
    about = (
        f"Measured on {first['date']} on {first['device']} ({first['cpu']}, {first['threads']} threads), torch "
        f"{first['torch']}, by `python -m benchmarks --json`: each pair in turn, medians of {first['clock']} time."
    )
    lines = []
    for _, peers in itertools.groupby(rows, lambda row: (row["name"], row["case"], row["ours"])):
        beside = list(peers)
        row = beside[0]
        work, ours = (
            "\n".join(filter(None, parts))
            for parts in ((row["summary"], row["case"]), (_amount(row["ours"], row["unit"]), row["note"]))
        )
        lines.append((work, ours, "\n".join(map(_peer, beside)), row["target"], row["bound"]))
    heads = ("Work", "Ours", "Peers (how many times better ours is)", "Target", "Presumably bound by")
    return f"{about}\n\n{markdown_table(heads, lines)}"


def photographs(records: Sequence[Mapping[str, Any]]) -> str:
    """What `python -m benchmarks.photographs` wrote of several detectors."""
    machines = dict.fromkeys(f"{each['environment']['cpu']}, {each['precision']}" for each in records)
    about = (
        "AP on validation photographs, beside torchvision's Faster R-CNN on a ResNet18 as thin, trained for as long "
        f"from the same start (by `python -m benchmarks.photographs`; {'; '.join(machines)}):"
    )
    rows = []
    for each in records:
        pair, pixels = (each["ours"], each["torchvision"]), "x".join(map(str, each["input_size"]))
        ap, minutes, params = (
            [f"{scale * one[key]:.{places}f}" for one in pair]
            for key, scale, places in (("AP", 100, 1), ("cpu_seconds", 1 / 60, 0), ("params", 1e-6, 2))
        )
        about_data = f"{each['photographs']}, {each['images']} for training, {pixels}"
        rows.append((about_data, f"`{each['ours']['command']}`", *ap, *minutes, *params))
    heads = ("Photographs", "Ours", "AP, ours", "torchvision", "CPU minutes, ours", "torchvision", "M parameters, ours")
    return f"{about}\n\n{markdown_table((*heads, 'torchvision'), rows)}"


def _peer(row: Mapping[str, Any]) -> str:
    if row["peer"] is None:
        return row["reason"]
    return f"{row['against']}: {_amount(row['peer'], row['unit'])} ({_amount(row['ratio'])})"


def _amount(number: float, unit: str = "") -> str:
    digits = f"{number:,.0f}" if number >= 1000 else f"{number:.3g}"
    return f"{digits} {unit}".strip()


def results(folder: Path, paper: Path, exhibits: Sequence[ExhibitResult]) -> str:
    """What one published folder holds, in markdown for the page of its paper, after its notes."""
    parts = [f"### {result.data}, {result.scale} scale" for result in exhibits[:1]]
    parts += notes(folder)
    path = folder / "claims.json"
    if claims := read_claims(path) if path.is_file() else {}:
        parts.append(_claims(list(claims.values())))
    link = Path(os.path.relpath(folder, paper)).as_posix()
    return "\n\n".join([*parts, *(_exhibit(result, link) for result in exhibits)])


def _claims(records: list[Record]) -> str:
    rows = []
    for record in records:
        parts = record["conditions"] or [record]
        rules = [f"{part['name']} {part['direction']} {part['threshold']:g}" for part in record["conditions"]]
        rule = "\n".join(rules) or record["rule"]
        claim = f"{record['id']}: {record['statement']} ({record['where']})"
        paper = "–" if record["paper"] is None else str(record["paper"])
        rows.append(
            (claim, rule, paper, "\n".join(map(measured_text, parts)), str(len(record["seeds"])), with_reason(record))
        )
    heads = ("Claim", "Rule", "Paper", "Ours (95 % interval)", "Seeds", "Verdict")
    behind = [f"- {each['id']}: {' '.join(details(each))}" for each in records if details(each)]
    table = markdown_table(heads, rows)
    return "\n\n".join(
        ["#### Claims", counts(records), table, *(["\n".join(behind)] if behind else []), f"`{records[0]['command']}`"]
    )


def _exhibit(result: ExhibitResult, link: str) -> str:
    tables = side_by_side(result.table, result.paper_table, result.units, result.paper_units)
    title = f"{display_name(result.exhibit)}: {result.title}"
    return "\n\n".join(
        [
            f"#### {title}",
            plain_markdown(result.caption),
            *(f"![{title}]({link}/{picture.name}.png)" for picture in result.pictures),
            *(f"**{name}**\n\n{markdown_table(heads, rows)}" for name, heads, rows in tables),
            *(["\n".join(f"- {plain_markdown(note)}" for note in result.notes)] if result.notes else []),
            f"Seeds: {result.seeds_in_words}. `{result.command}`",
        ]
    )


if __name__ == "__main__":
    run(main, Options)
