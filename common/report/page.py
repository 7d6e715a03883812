"""One self-contained page with every exhibit, claim and run found below some folders, ours beside the paper's.

Everything is drawn from records alone: no network, no data, no preset, none of a paper's code.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from common.plain import InputError
from common.report.card import card, drawn
from common.report.runs import FoundExhibit, RunSummary, duration, find_exhibits, find_runs, shared_environment
from common.report.scoreboard import (
    HEADS,
    Record,
    by_paper,
    claim_cells,
    counts,
    details,
    find_claims,
    measured_text,
    natural,
)
from common.report.tables import html_table

_VERDICT_CLASSES = {"reproduced": "yes", "not reproduced": "no"}  # all others are open


def build_page(roots: Sequence[Path], command: str = "") -> str:
    """The page as one HTML text; an `InputError` where there is nothing to show."""
    exhibits, unreadable = find_exhibits(roots)
    claims, unreadable_claims = find_claims(roots)
    runs, unreadable_runs = find_runs(roots)
    unreadable += unreadable_claims + unreadable_runs
    if not exhibits and not claims and not unreadable:
        where = ", ".join(str(root) for root in roots)
        raise InputError(
            f"no exhibit and no claim below {where}: run `make reproduce`, or a paper's own command, first, "
            "or name the folder it wrote to"
        )
    contents, sections = [], []
    if unreadable:
        faults = "".join(f"<li>{escape(sentence)}</li>" for sentence in unreadable)
        contents.append(("unreadable", "Left out"))
        sections.append(f'<section id="unreadable"><h2>Left out</h2><ul class="missing">{faults}</ul></section>')
    if claims:
        contents.append(("claims", "Claims"))
        sections.append(_claims_section(claims))
    papers: dict[str, list[FoundExhibit]] = {}
    for exhibit in exhibits:
        papers.setdefault(exhibit.result.paper_title or exhibit.result.paper, []).append(exhibit)
    pictures = drawn([picture for exhibit in exhibits for picture in exhibit.result.pictures])
    for number, title in enumerate(sorted(papers)):
        contents.append((f"paper{number}", title))
        sections.append(_paper_section(f"paper{number}", title, papers[title], pictures, several=len(roots) > 1))
    environments = [run.environment for run in runs] or [exhibit.result.environment for exhibit in exhibits]
    contents.append(("hardware", "Hardware and versions"))
    sections.append(_environment_section(environments))
    if runs:
        contents.append(("runs", "Runs"))
        sections.append(_runs_section(runs))
    links = " ".join(f'<a href="#{anchor}">{escape(name)}</a>' for anchor, name in contents)
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


# ---- claims


def _claims_section(claims: Sequence[Record]) -> str:
    parts = [
        f"<h3>{escape(title)}</h3><p>{escape(counts(records))}</p>"
        f'<div class="wide">{html_table(HEADS, [_claim_row(record) for record in records], "claims")}</div>'
        for title, records in by_paper(claims).items()
    ]
    return "\n".join(['<section id="claims"><h2>Claims</h2>', *parts, "</section>"])


def _claim_row(record: Record) -> list[str]:
    *cells, verdict = claim_cells(record)
    behind = [*details(record), *([f"Rule: {record['rule']}"] if record.get("rule") else [])]
    behind += [f"Command: {record['command']}"] if record.get("command") else []
    behind += [
        f"{part['name']}: {part['verdict']}, {measured_text(part)}, to lie {part['direction']} {part['threshold']:g}"
        for part in record.get("conditions") or []
    ]
    behind += [f"Runs: {', '.join(record['runs'])}"] if record.get("runs") else []
    listed = "".join(f"<li>{escape(text)}</li>" for text in behind)
    reason = f"<br><small>{escape(record['reason'])}</small>" if record.get("reason") else ""
    return [
        f"<details><summary>{escape(cells[0])}</summary><ul>{listed}</ul></details>",
        *map(escape, cells[1:]),
        f'<span class="verdict {_VERDICT_CLASSES.get(verdict, "open")}">{escape(verdict)}</span>{reason}',
    ]


# ---- exhibits


def _paper_section(
    anchor: str, title: str, exhibits: Sequence[FoundExhibit], pictures: Mapping[int, bytes | str], several: bool
) -> str:
    parts = [f'<section id="{anchor}"><h2>{escape(title)}</h2>']
    settings: dict[tuple[str, str], dict[str, list[FoundExhibit]]] = {}
    for exhibit in exhibits:
        result = exhibit.result
        settings.setdefault((result.data, result.scale), {}).setdefault(result.exhibit, []).append(exhibit)
    for (data, scale), by_name in sorted(settings.items()):
        parts.append(f"<h3>{escape(data)}, {escape(scale)} scale</h3>")
        for name in sorted(by_name, key=natural):
            cards = [card(each.result, pictures, each.root if several else None) for each in by_name[name]]
            parts.append(f'<div class="row">{"".join(cards)}</div>')
    return "\n".join([*parts, "</section>"])


# ---- machines and runs


def _environment_section(environments: Iterable[Mapping[str, Any]]) -> str:
    """Each different machine with its software once, and the commits that ran on it."""
    machines: dict[str, list[Mapping[str, Any]]] = {}
    for environment in filter(None, environments):
        machine = {key: value for key, value in shared_environment([environment]).items() if not key.startswith("git_")}
        machines.setdefault(json.dumps(machine, sort_keys=True), []).append(environment)
    shown = ""
    for shared in map(shared_environment, machines.values()):
        parts = [(name, value if isinstance(value, Mapping) else {"": value}) for name, value in shared.items()]
        flat = {f"{name} {inner}".strip(): each for name, value in parts for inner, each in value.items()}
        lines = (f"<dt>{escape(name)}</dt><dd>{escape(_listed(value))}</dd>" for name, value in flat.items())
        shown += f"<dl>{''.join(lines)}</dl>"
    shown = shown or "<p>Not recorded.</p>"
    return f'<section id="hardware"><h2>Hardware and versions</h2>{shown}</section>'


def _listed(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_listed, value)) or "none"
    if value is None or isinstance(value, bool):
        return {True: "yes", False: "no", None: "unknown"}[value]
    return str(value)


def _runs_section(runs: Sequence[RunSummary]) -> str:
    rows = [
        (
            escape(summary.name),
            "finished" if summary.finished else "unfinished",
            duration(summary.seconds),
            f"{summary.candidates:,}" if summary.candidates else "–",
            duration(summary.candidate_seconds),
            f"{summary.failed:,}" if summary.failed else "–",
        )
        for summary in runs
    ]
    known = [summary.seconds for summary in runs if summary.seconds]
    total = f"<p>{len(runs)} runs, {duration(sum(known))} in the {len(known)} that recorded their time.</p>"
    table = html_table(("Run", "State", "Time", "Candidates", "Time on them", "Failed"), rows)
    return f'<section id="runs"><h2>Runs</h2>{total}<div class="wide">{table}</div></section>'


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
