"""One self-contained page with every exhibit found below some run folders, ours beside the paper's."""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from common.plain import InputError
from common.report.exhibit import ExhibitResult, Picture, display_name
from common.report.figures import render
from common.report.runs import RunSummary, duration, find_runs
from common.report.scoreboard import HEADS, PAPERS, by_paper, claim_cells, find_claims
from common.report.tables import to_html

_VERDICT_CLASSES = {"reproduced": "yes", "not reproduced": "no", "inconclusive": "open"}
_OF_ONE_RUN = ("command", "time", "resumed")  # what an environment says of one run rather than of the machine


@dataclass(frozen=True)
class Exhibit:
    """An exhibit's record, the folder it lies in, and the given folder it was found under."""

    result: ExhibitResult
    folder: Path
    root: Path


def find_exhibits(roots: Iterable[Path]) -> list[Exhibit]:
    """Every exhibits/<name>/result.json below the given folders, in a fixed order, each once."""
    found: dict[Path, Exhibit] = {}
    for root in roots:
        if not Path(root).is_dir():
            raise InputError(f"{root} is not a folder; name run folders such as runs or runs/detofa/scenes-smoke")
        for path in sorted(Path(root).resolve().rglob("result.json")):
            if path.parent.parent.name == "exhibits" and path not in found:
                found[path] = Exhibit(ExhibitResult.load(path), path.parent, Path(root))
    return list(found.values())


def build_page(roots: Sequence[Path], command: str = "") -> str:
    """The page as one HTML text; an `InputError` where there is nothing to show."""
    exhibits = find_exhibits(roots)
    claims = find_claims(roots)
    if not exhibits and not claims:
        where = ", ".join(str(root) for root in roots)
        raise InputError(
            f"no exhibit and no claim below {where}: run `make reproduce`, or a paper's own command, first, "
            "or name the folder it wrote to"
        )
    runs = find_runs(roots)
    sections, contents = [], []
    if claims:
        contents.append(("claims", "Claims"))
        sections.append(_claims_section(claims))
    papers: dict[str, dict[tuple[str, str], list[Exhibit]]] = {}
    for exhibit in exhibits:
        key = (exhibit.result.data, exhibit.result.scale)
        papers.setdefault(exhibit.result.paper, {}).setdefault(key, []).append(exhibit)
    for paper in sorted(papers, key=lambda name: (list(PAPERS).index(name) if name in PAPERS else 99, name)):
        contents.append((paper, PAPERS.get(paper, paper)))
        sections.append(_paper_section(paper, papers[paper], several=len(roots) > 1))
    environments = [exhibit.result.environment for exhibit in exhibits] + [run.environment for run in runs]
    contents += [("hardware", "Hardware and versions")]
    sections.append(_environment_section(environments))
    if runs:
        contents.append(("runs", "Runs"))
        sections.append(_runs_section(runs, roots))
    links = " ".join(f'<a href="#{escape(anchor)}">{escape(name)}</a>' for anchor, name in contents)
    made_by = f"<footer>Made by <code>{escape(command)}</code></footer>" if command else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Detection NAS, reproduced</title>\n<style>{_CSS}</style>\n</head>\n<body>\n"
        "<h1>Detection NAS, reproduced</h1>\n"
        "<p>Every table and figure that was run, ours beside the paper's. "
        "± is half of a 95 % interval over seeds.</p>\n"
        f"<nav>{links}</nav>\n" + "\n".join(sections) + f"\n{made_by}\n</body>\n</html>\n"
    )


def _claims_section(claims: list[dict[str, Any]]) -> str:
    parts = ['<section id="claims"><h2>Claims</h2>']
    for paper, records in by_paper(claims).items():
        counts = " · ".join(
            f"{sum(record['verdict'] == verdict for record in records)} {verdict}" for verdict in _VERDICT_CLASSES
        )
        heads = "".join(f"<th>{escape(head)}</th>" for head in HEADS)
        rows = "".join(_claim_row(record) for record in records)
        parts.append(
            f"<h3>{escape(PAPERS.get(paper, paper))}</h3><p>{counts}</p>"
            f'<div class="wide"><table class="claims"><thead><tr>{heads}</tr></thead>'
            f"<tbody>{rows}</tbody></table></div>"
        )
    return "\n".join([*parts, "</section>"])


def _claim_row(record: Mapping[str, Any]) -> str:
    *cells, verdict = claim_cells(record)
    reason = f"<br><small>{escape(record['reason'])}</small>" if record.get("reason") else ""
    first = escape(cells[0])
    details = [f"Rule: {record['rule']}" if record.get("rule") else "", str(record.get("notes") or "")]
    details += [f"Command: {record['command']}" if record.get("command") else ""]
    details += [f"{part['name']}: {part['verdict']}, {_part_text(part)}" for part in record.get("conditions") or []]
    listed = "".join(f"<li>{escape(text)}</li>" for text in details if text)
    if listed:
        first = f"<details><summary>{first}</summary><ul>{listed}</ul></details>"
    middle = "".join(f"<td>{escape(cell)}</td>" for cell in cells[1:])
    badge = f'<span class="verdict {_VERDICT_CLASSES[verdict]}">{escape(verdict)}</span>{reason}'
    return f"<tr><td>{first}</td>{middle}<td>{badge}</td></tr>"


def _part_text(part: Mapping[str, Any]) -> str:
    *_, ours, _, _, _ = claim_cells({**part, "id": part["name"]})
    return f"{ours}, to lie {part.get('direction')} {part.get('threshold')}"


def _paper_section(paper: str, settings: dict[tuple[str, str], list[Exhibit]], several: bool) -> str:
    parts = [f'<section id="{escape(paper)}"><h2>{escape(PAPERS.get(paper, paper))}</h2>']
    for (data, scale), exhibits in sorted(settings.items()):
        parts.append(f"<h3>{escape(data)}, {escape(scale)} scale</h3>")
        by_name: dict[str, list[Exhibit]] = {}
        for exhibit in exhibits:
            by_name.setdefault(exhibit.result.exhibit, []).append(exhibit)
        for name in sorted(by_name, key=_natural):
            cards = "\n".join(_card(exhibit, several) for exhibit in by_name[name])
            parts.append(f'<div class="row">{cards}</div>')
    return "\n".join([*parts, "</section>"])


def _natural(name: str) -> tuple[str, int, str]:
    """table2 before table10."""
    digits = "".join(letter for letter in name if letter.isdigit())
    return name.rstrip("0123456789"), int(digits or 0), name


def _tables(result: ExhibitResult) -> str:
    return to_html(result.table, result.paper_table, result.units, result.paper_units)


def _card(exhibit: Exhibit, several: bool) -> str:
    result = exhibit.result
    pictures = "\n".join(_picture(exhibit, each) for each in result.pictures)
    notes = "".join(f"<li>{escape(note)}</li>" for note in result.notes)
    seeds = ", ".join(str(seed) for seed in result.seeds) or "none"
    root = f'<p class="root">{escape(str(exhibit.root))}</p>' if several else ""
    return (
        f"<article>{root}<h4>{escape(display_name(result.exhibit))}: {escape(result.title)}</h4>"
        f"<p>{escape(result.caption)}</p>{pictures}"
        f'<div class="tables">{_tables(result)}</div>'
        + (f'<ul class="notes">{notes}</ul>' if notes else "")
        + f'<p class="made">Seeds: {escape(seeds)}. <code>{escape(result.command)}</code></p></article>'
    )


def _picture(exhibit: Exhibit, picture: Picture) -> str:
    """The picture inside the page, drawn from its data; a sentence in its place where it cannot be drawn."""
    try:
        data = base64.b64encode(render(picture)).decode()
    except InputError as error:
        return f'<p class="missing">{escape(str(error))}.</p>'
    title = escape(f"{display_name(exhibit.result.exhibit)}: {exhibit.result.title}")
    return f'<img src="data:image/png;base64,{data}" alt="{title}">'


def _environment_section(environments: list[Mapping[str, Any]]) -> str:
    """Each different environment once, as a list of name and value."""
    flat = [dict(_flatten(environment)) for environment in environments if environment]
    unique = list({json.dumps(item, sort_keys=True): item for item in flat}.values())
    boxes = "".join(
        "<dl>"
        + "".join(f"<dt>{escape(key)}</dt><dd>{escape(_listed(value))}</dd>" for key, value in item.items())
        + "</dl>"
        for item in unique
    )
    return f'<section id="hardware"><h2>Hardware and versions</h2>{boxes or "<p>Not recorded.</p>"}</section>'


def _listed(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if value is None or isinstance(value, bool):
        return {True: "yes", False: "no", None: "unknown"}[value]
    return str(value)


def _flatten(value: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, inner in value.items():
        if not prefix and key in _OF_ONE_RUN:
            continue
        if isinstance(inner, Mapping):
            yield from _flatten(inner, f"{prefix}{key} ")
        else:
            yield f"{prefix}{key}", inner


def _runs_section(runs: list[RunSummary], roots: Sequence[Path]) -> str:
    resolved = [Path(root).resolve() for root in roots]
    rows = []
    for summary in runs:
        root = next((root for root in resolved if summary.folder.is_relative_to(root)), summary.folder.parent)
        name = f"{root.name}/{summary.folder.relative_to(root)}"
        cells = (
            name,
            "finished" if summary.finished else "unfinished",
            duration(summary.seconds),
            f"{summary.candidates:,}" if summary.candidates else "–",
            duration(summary.candidate_seconds),
            f"{summary.failed:,}" if summary.failed else "–",
        )
        rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    known = [summary.seconds for summary in runs if summary.seconds]
    total = f"<p>{len(runs)} runs, {duration(sum(known))} in the {len(known)} that recorded their time.</p>"
    heads = "".join(f"<th>{head}</th>" for head in ("Run", "State", "Time", "Candidates", "Time on them", "Failed"))
    return (
        f'<section id="runs"><h2>Runs</h2>{total}<div class="wide"><table><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></section>"
    )


_CSS = """
:root { color-scheme: light dark; --text: #1c1e21; --soft: #5c636b; --back: #fff; --card: #f6f7f9; --line: #d9dde2;
  --link: #0b5cad; --yes: #0a6b3d; --no: #a3261b; --open: #7a5b00; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e6ea; --soft: #a0a7b0; --back: #15171a; --card: #1e2125;
  --line: #383d44; --link: #7db8f5; --yes: #63cf98; --no: #f08a80; --open: #e0bb55; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back); max-width: 78rem;
  margin: 0 auto; padding: 1.5rem; }
h1, h2, h3, h4 { line-height: 1.25; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
h4 { margin: 0 0 .4rem; font-size: 1.05rem; }
a { color: var(--link); } nav a { margin-right: 1rem; }
.row { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1rem;
  margin: 1rem 0; }
article { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: 1rem; min-width: 0; }
img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 4px; margin: .5rem 0; }
.tables { display: flex; flex-wrap: wrap; gap: 1.5rem; align-items: flex-start; }
figure { margin: .5rem 0; max-width: 100%; overflow-x: auto; } .wide { overflow-x: auto; }
figcaption { font-weight: 600; font-size: .9rem; text-align: left; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .25rem .7rem .25rem 0; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; } .claims td:nth-child(4) { white-space: nowrap; }
.notes, .made, .root, small, footer { color: var(--soft); font-size: .88rem; } .notes { padding-left: 1.2rem; }
code { font-size: .85em; overflow-wrap: anywhere; }
.verdict { font-weight: 600; white-space: nowrap; } .verdict.yes { color: var(--yes); }
.verdict.no { color: var(--no); } .verdict.open { color: var(--open); }
.missing { color: var(--no); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; font-size: .88rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; } footer { margin-top: 3rem; }
"""
