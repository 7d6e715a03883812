"""One self-contained page with every exhibit, claim and run found below some folders, ours beside the paper's.

Everything is drawn from records alone: no network, no data, no preset, none of a paper's code. A run's folder has such
a page of its own.
"""

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.cli import words_for
from common.plain import InputError, write_atomically
from common.report.card import TEMPLATES, Card, card_of, draw
from common.report.exhibit import setting_in_words
from common.report.run_card import DETECTORS, card_of_run
from common.report.runs import (
    SMOKE,
    FoundExhibit,
    find_exhibits,
    find_runs,
    learnt,
    notes,
    shared_environment,
    table_of_runs,
)
from common.report.scoreboard import (
    HEADS,
    Record,
    behind,
    claim_cells,
    exhibits_of,
    find_claims,
    headline,
    level,
    natural,
    standing,
    tally,
)

_KINDS = {"reproduced": "yes", "not reproduced": "no"}  # of verdicts; all others are open
_MOST_RUNS = 12  # that are drawn one by one; among more, only those that left detectors: the others have own pages


def build_page(roots: Sequence[Path], command: str = "", title: str = "") -> str:
    """The page as one HTML text; an `InputError` where there is nothing to show."""
    exhibits, unreadable = find_exhibits(roots)
    claims, unreadable_claims = find_claims(roots)
    runs, unreadable_runs = find_runs(roots)
    unreadable += unreadable_claims + unreadable_runs
    if not exhibits and not claims and not runs and not unreadable:
        where = ", ".join(str(root) for root in roots)
        raise InputError(
            f"no exhibit, claim or run below {where}: run `make reproduce`, or a paper's own command, first, "
            "or name the folder it wrote to"
        )
    tabs = _tabs(exhibits, claims, several=len(roots) > 1)
    folders = [run for run in runs if run.folder]
    run_cards = []
    drawn = folders if len(folders) <= _MOST_RUNS else [run for run in folders if any(run.folder.glob(DETECTORS))]
    for run in drawn if len(drawn) <= _MOST_RUNS else ():
        try:
            run_cards += filter(None, [card_of_run(run)])
        except InputError as error:
            unreadable.append(str(error))
    for card in run_cards:
        card.anchor = _anchor("run", card.title)
    draw([*run_cards, *(card for tab in tabs for group in tab["groups"] for row in group["rows"] for card in row)])
    environments = [run.environment for run in runs] or [found.result.environment for found in exhibits]
    return TEMPLATES.get_template("page.html").render(
        title=title or ("Detection NAS, reproduced" if tabs else "Runs"),
        command=command,
        tabs=tabs,
        overview=bool(claims or unreadable or len(exhibits) > 1),  # of one exhibit it would say nothing
        heads=HEADS,
        unreadable=unreadable,
        headline=headline([each for each in claims if not each["superseded"] and each["scale"] != SMOKE])
        if claims
        else "",
        learnt=[_marked(paragraph) for paragraph in learnt(roots)],
        run_cards=run_cards,
        runs=table_of_runs(runs) if runs else None,
        environments=_machines(environments),
    )


def write_page_of_run(folder: Path) -> None:
    """Put the page of a run into its folder, as index.html."""
    command = shlex.join([*words_for("common.report"), str(folder), "--out", str(folder)])
    write_atomically(folder / "index.html", build_page([folder], command, folder.resolve().name).encode())


# ---- exhibits and claims: a tab for each paper, in it a group for each data set and scale


def _tabs(exhibits: Sequence[FoundExhibit], claims: Sequence[Record], several: bool) -> list[dict[str, Any]]:
    """Tabs of papers by title, then that of superseded results. several: whether to name each exhibit's folder."""
    groups: dict[tuple[str, ...], tuple[list[FoundExhibit], list[Record]]] = {}
    for found in exhibits:
        result = found.result
        key = result.paper_title or result.paper, result.paper, found.superseded, result.data, result.scale
        groups.setdefault(key, ([], []))[0].append(found)
    for record in claims:
        paper = record.get("paper_name") or "claims"
        key = record.get("paper_title") or paper, paper, record["superseded"], record["data"], record["scale"]
        groups.setdefault(key, ([], []))[1].append(record)
    tabs: dict[str, dict[str, Any]] = {}
    for (title, paper, why, data, scale), (found, records) in sorted(groups.items(), key=lambda item: item[0]):
        name = "superseded" if why else _anchor(paper)
        tab = tabs.setdefault(name, {"anchor": name, "title": "Superseded" if why else title, "groups": []})
        said = notes(found[0].path.parent) if found else list(filter(None, [why]))
        about = {
            "notes": said,
            "title": title,
            "setting": setting_in_words(data, scale),
            "superseded": why,
            "smoke": scale == SMOKE,
        }
        anchor = _anchor(*(["superseded"] if why else []), paper, data, scale)
        tab["groups"].append(about | {"anchor": anchor} | _group(anchor, found, records, several))
    return sorted(tabs.values(), key=lambda tab: tab["anchor"] == "superseded")


def _group(anchor: str, exhibits: Sequence[FoundExhibit], records: Sequence[Record], several: bool) -> dict[str, Any]:
    """The exhibits of a paper on one data set and scale, and its claims, with links between them."""
    rows: dict[str, list[Card]] = {}
    for found in sorted(exhibits, key=lambda found: natural(found.result.exhibit)):
        row = rows.setdefault(found.result.exhibit, [])
        row.append(card_of(found.result))
        row[-1].anchor = _anchor(anchor, found.result.exhibit, str(len(row)))
        row[-1].root = str(found.root) if several else ""
    claims = [
        {
            "anchor": _anchor(anchor, record["id"], str(place)),
            "record": record,
            "cells": claim_cells(record),
            "kind": _KINDS.get(record["verdict"], "open"),
            "behind": behind(record),
            "exhibits": [rows[name][0] for name in exhibits_of(record) if name in rows],
        }
        for place, record in enumerate(records, 1)
    ]
    for claim in claims:
        for name in exhibits_of(claim["record"]):
            for card in rows.get(name, ()):
                card.claims.append(claim)
    counts = [(verdict, number, _KINDS.get(verdict, "open")) for verdict, number in tally(records).items()]
    said = {"counts": counts, "level": level(records), "standing": standing(records)}
    return {"rows": list(rows.values()), "claims": claims, **said}


def _marked(paragraph: str) -> list[tuple[str | None, ...]]:
    """The texts of a paragraph of learnt.md, each with what follows it, if anything does: a word that stands out, or a
    link to a paper's page, here to its tab, as its label and anchor."""
    marks = re.split(r"\*\*(.+?)\*\*|\[([^]]+)\]\((\w+)/README\.md\)", paragraph) + [None] * 3
    parts = zip(*(marks[at::4] for at in range(4)), strict=True)
    return [(text, word, label, paper and _anchor(paper)) for text, word, label, paper in parts]


def _anchor(*parts: str) -> str:
    return "-".join(re.sub(r"[^A-Za-z0-9]+", "-", part) for part in parts)


# ---- machines and runs


def _machines(environments: Iterable[Mapping[str, Any]]) -> list[list[tuple[str, str]]]:
    """Each different machine with its software once, and the commits that ran on it, as names and texts."""
    machines: dict[str, list[Mapping[str, Any]]] = {}
    for environment in filter(None, environments):
        machine = {key: value for key, value in shared_environment([environment]).items() if not key.startswith("git_")}
        machines.setdefault(json.dumps(machine, sort_keys=True), []).append(environment)
    shown = []
    for shared in map(shared_environment, machines.values()):
        parts = [(name, value if isinstance(value, Mapping) else {"": value}) for name, value in shared.items()]
        flat = {f"{name} {inner}".strip(): each for name, value in parts for inner, each in value.items()}
        shown.append([(name, _listed(value)) for name, value in flat.items()])
    return shown


def _listed(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_listed, value)) or "none"
    if value is None or isinstance(value, bool):
        return {True: "yes", False: "no", None: "unknown"}[value]
    return str(value)
