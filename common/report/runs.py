"""What lies in run folders and in published results: exhibits, runs, and the machines they were made on.

A run folder holds exhibits as exhibits/NAME/result.json and its runs as folders with a config.json. A published folder
holds exhibits as NAME.json beside measured.json, claims.json and runs.json; a note.md says what a reader should know of
them, and where they are superseded, a superseded.md says by what.
"""

import contextlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.plain import InputError, read_json, read_json_if_there
from common.report.exhibit import ExhibitResult

_PUBLISHED = ("measured.json", "claims.json", "runs.json", "why.json")
"""What lies in a published folder beside the exhibits' records."""
SMOKE = "smoke"
"""The scale whose numbers mean nothing."""
_OF_ONE_RUN = ("command", "time", "resumed", "config_sha256", "candidates_bytes")
"""What an environment says of one run rather than of the machine."""


@dataclass(frozen=True)
class FoundExhibit:
    """An exhibit's record, the file it lies in, and the given folder it was found under."""

    result: ExhibitResult
    path: Path
    root: Path

    @property
    def superseded(self) -> str:
        """Why the exhibit is superseded; "" for one that is not."""
        return superseded(self.path)


@dataclass(frozen=True)
class RunSummary:
    """A training or search run: its name, whether it is finished, and what it cost.

    seconds: of its finished stages, or as its result says, without candidate_seconds: spent on candidates. folder: None
    for a published one, of which there is no more than this.
    """

    name: str
    finished: bool
    candidates: int
    failed: int
    seconds: float | None
    candidate_seconds: float | None
    environment: Mapping[str, Any]
    folder: Path | None = None


def superseded(path: Path) -> str:
    """Why the results in a published file's folder are superseded, from its superseded.md; "" where they are not."""
    return _text(path.with_name("superseded.md"))


def notes(folder: Path) -> list[str]:
    """What a published folder says of itself: its superseded.md and note.md, as far as they are there."""
    return list(filter(None, (_text(folder / name) for name in ("superseded.md", "note.md"))))


def learnt(roots: Iterable[Path]) -> list[str]:
    """What was learnt from the results in some folders, as their learnt.md says: paragraphs in markdown."""
    texts = (_text(Path(root) / "learnt.md") for root in roots)
    return [paragraph for text in texts for paragraph in text.split("\n\n") if paragraph]


def _text(path: Path) -> str:
    return path.read_text().strip() if path.is_file() else ""


def find_exhibits(roots: Iterable[Path]) -> tuple[list[FoundExhibit], list[str]]:
    """Every exhibit below the given folders, in a fixed order, each once; and a sentence for each unreadable record."""
    found: dict[Path, FoundExhibit] = {}
    unreadable: dict[Path, str] = {}
    for root in roots:
        if not Path(root).is_dir():
            raise InputError(f"{root} is not a folder; name folders such as runs, runs/detofa/scenes-smoke or results")
        for path in sorted(Path(root).resolve().rglob("*.json")):
            measured_here = path.name == "result.json" and path.parent.parent.name == "exhibits"
            published = path.name not in _PUBLISHED and (path.parent / "runs.json").is_file()
            if (measured_here or published) and path not in found:
                try:
                    found[path] = FoundExhibit(ExhibitResult.load(path), path, Path(root))
                except InputError as error:
                    unreadable[path] = str(error)
    return list(found.values()), list(unreadable.values())


def find_runs(roots: Iterable[Path]) -> tuple[list[RunSummary], list[str]]:
    """Every run below the given folders, each once, named from the folder on; and what cannot be read.

    What lies inside a run is a part of it, and none of its own.
    """
    runs: dict[Path, RunSummary] = {}
    unreadable: dict[Path, str] = {}
    for root in (Path(root).resolve() for root in roots):
        for path in sorted([*root.rglob("config.json"), *root.rglob("runs.json")]):
            try:
                if path.name == "runs.json":
                    for name, record in read_json(path).items():
                        folder = Path(os.path.normpath(path.parent / name))  # a name may begin with ../ of a paper
                        spent = (record[key] for key in ("seconds", "candidate_seconds", "environment"))
                        runs.setdefault(folder, RunSummary(_name_below(root, folder), True, 0, 0, *spent))
                elif path.parent.parent.name != "exhibits" and not _inside_a_run(path.parent, root):
                    runs.setdefault(path.parent, summarise(path.parent, _name_below(root, path.parent)))
            except InputError as error:
                unreadable[path] = str(error)
            except (AttributeError, KeyError, TypeError):
                unreadable[path] = f"{path} is not a list of runs as `--publish` writes it; publish the results again"
    return list(runs.values()), list(unreadable.values())


def _inside_a_run(folder: Path, root: Path) -> bool:
    """Whether a folder below `root` is a part of another run, such as a pair that a search trained."""
    above = (parent for parent in folder.parents if parent.is_relative_to(root))
    return any((parent / "config.json").is_file() for parent in above)


def _name_below(root: Path, folder: Path) -> str:
    return Path(os.path.relpath(folder, root.parent)).as_posix()


def summarise(folder: Path, name: str | None = None) -> RunSummary:
    """The summary of one run folder. name: None means the folder's."""
    candidates = read_candidates(folder)
    failed = sum(record.get("status") == "failed" for record in candidates)
    result = read_json_if_there(folder / "result.json")
    stages = [read_json(path) for path in sorted((folder / "stages").glob("*.json"))]
    of_candidates = sum(_seconds(record) or 0.0 for record in candidates)
    seconds = sum(_seconds(stage) or 0.0 for stage in stages)
    if not stages:  # a result's seconds are of all that the run did
        seconds = (_seconds(result) or 0.0) - of_candidates
    spent = (max(seconds, 0.0) or None, of_candidates or None)
    environment = read_json_if_there(folder / "environment.json") or {}
    return RunSummary(name or folder.name, result is not None, len(candidates), failed, *spent, environment, folder)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a file that grows line by line; none where it is missing."""
    records = []
    for line in path.read_text().splitlines() if path.is_file() else ():
        with contextlib.suppress(ValueError):  # the last line of a killed run may be cut short
            records.append(json.loads(line))
    return [record for record in records if isinstance(record, Mapping)]


def read_candidates(folder: Path) -> list[dict[str, Any]]:
    """The candidates of a run: of several records with the same "key" only the last counts."""
    records = read_lines(folder / "candidates.jsonl")
    named = {json.dumps(each.get("key", {"line": line}), sort_keys=True): each for line, each in enumerate(records)}
    return list(named.values())


def table_of_runs(runs: Sequence[RunSummary]) -> tuple[str, Sequence[str], list[tuple[str, ...]]]:
    """Caption, heads and rows of a table of runs, as text."""
    rows = [
        (
            run.name,
            "finished" if run.finished else "unfinished",
            duration(run.seconds),
            f"{run.candidates:,}" if run.candidates else "–",
            duration(run.candidate_seconds),
            f"{run.failed:,}" if run.failed else "–",
        )
        for run in runs
    ]
    known = [run.seconds for run in runs if run.seconds]
    total = f"Runs: {len(runs)}" + (f", {duration(sum(known))} in the {len(known)} that recorded it" if known else "")
    return total, ("Run", "State", "Time", "Candidates", "Time on them", "Failed"), rows


def _seconds(record: Any) -> float | None:
    seconds = record.get("seconds") if isinstance(record, Mapping) else None
    return float(seconds) if isinstance(seconds, int | float) else None


def shared_environment(environments: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What several environments say of the machine and its software, a list of values where they differ."""
    values: dict[str, list] = {}
    for environment in environments:
        for key, value in environment.items():
            if key not in _OF_ONE_RUN and value not in values.setdefault(key, []):
                values[key].append(value)
    return {key: found[0] if len(found) == 1 else found for key, found in values.items()}


def duration(seconds: float | None) -> str:
    """Seconds in words."""
    if not seconds:
        return "–"
    size, unit = next(((size, unit) for size, unit in ((1, "s"), (60, "min")) if seconds < 90 * size), (3600, "h"))
    return f"{seconds / size:.1f} {unit}"
