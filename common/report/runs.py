"""Run folders as the report sees them: what each took, and where it was made."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.plain import read_json, read_json_if_there

_COST_KEYS = ("seconds", "wall_s", "wall_seconds")  # wall clock, whichever a record carries


@dataclass(frozen=True)
class RunSummary:
    """A training or search run: where it lies, whether it is finished, and what it cost.

    seconds: of its finished stages, or as its result says; candidate_seconds: spent on candidates alone.
    """

    folder: Path
    finished: bool
    candidates: int
    failed: int
    seconds: float | None
    candidate_seconds: float | None
    environment: Mapping[str, Any]


def find_runs(roots: Iterable[Path]) -> list[RunSummary]:
    """Every run (a folder with a config.json) below the given folders."""
    folders = {path.parent for root in roots for path in Path(root).resolve().rglob("config.json")}
    return [summarise(folder) for folder in sorted(folders) if folder.parent.name != "exhibits"]


def summarise(folder: Path) -> RunSummary:
    """The summary of one run folder."""
    candidates = failed = 0
    candidate_seconds = 0.0
    if (folder / "candidates.jsonl").is_file():
        for line in (folder / "candidates.jsonl").read_text().splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue  # the last line of a killed run may be cut short
            if not isinstance(record, Mapping):
                continue
            candidates += 1
            failed += record.get("status") == "failed"
            candidate_seconds += _seconds(record) or 0.0
    result = read_json_if_there(folder / "result.json")
    stages = [read_json(path) for path in sorted((folder / "stages").glob("*.json"))]
    seconds = sum(_seconds(stage) or 0.0 for stage in stages) or (_seconds(result) if result else None)
    environment = read_json_if_there(folder / "environment.json") or {}
    return RunSummary(
        folder, result is not None, candidates, failed, seconds or None, candidate_seconds or None, environment
    )


def _seconds(record: Any) -> float | None:
    if not isinstance(record, Mapping):
        return None
    return next((float(record[key]) for key in _COST_KEYS if isinstance(record.get(key), int | float)), None)


def duration(seconds: float | None) -> str:
    """Seconds in words."""
    if not seconds:
        return "–"
    if seconds < 90:
        return f"{seconds:.1f} s"
    if seconds < 5400:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"
