"""What an exhibit rests on: its run folders, where they were made, and the numbers that claims are judged by."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.cli import short_name
from common.plain import read_json
from common.report.claims import Evidence
from common.reproduce.exhibit import Exhibit
from common.reproduce.paper import Paper, ReproduceOptions, Values, as_they_are, command, second_folder
from common.train.run_folder import describe_environment

_OF_ONE_RUN = ("command", "time", "resumed")  # what an environment says of one run rather than of the machine


def runs_of(exhibit: Exhibit, seeds: Iterable[int], folder: Path, second: Path | None = None) -> list[str]:
    """Names of the run folders that an exhibit rests on: in `folder`, and of the second data set in `second` (none: in
    `folder`, too) with its folder before them, "bccd-nano/base-s0"."""
    second = second or folder
    found: dict[str, None] = {}
    for seed in seeds:
        for place, runs in ((folder, exhibit.runs), (second, exhibit.second_runs)):
            names = (f"{what}-s{seed}" for what in runs)
            there = (name for name in names if (place / name).is_dir())
            found |= dict.fromkeys(name if place == folder else f"{place.name}/{name}" for name in there)
    return list(found)


def run_path(folder: Path, name: str) -> Path:
    """Where the run of a name that `runs_of` gave lies."""
    return (folder.parent if "/" in name else folder) / name


def shared_environment(folder: Path, runs: Sequence[str]) -> dict[str, Any]:
    """Commit, versions and hardware of some runs; a list of values where runs differ."""
    places = [run_path(folder, name) / "environment.json" for name in runs]
    environments = list(map(read_json, places)) or [describe_environment()]
    values: dict[str, list] = {}
    for environment in environments:
        for key, value in environment.items():
            if key not in _OF_ONE_RUN and value not in values.setdefault(key, []):
                values[key].append(value)
    return {key: found[0] if len(found) == 1 else found for key, found in values.items()}


def collect_evidence(paper: Paper, options: ReproduceOptions, folder: Path) -> Evidence:
    """What the claims are judged by: the numbers of every exhibit measured so far for all the seeds asked for."""
    seeds = list(range(options.seeds))
    values: dict[str, np.ndarray] = {}
    runs: dict[str, None] = {}
    for exhibit in paper.exhibits.values():
        path = folder / "exhibits" / exhibit.name / "measured.json"
        measured = read_json(path) if path.is_file() else {}
        if all(str(seed) in measured for seed in seeds):
            by_seed = [measured[str(seed)].get("evidence", {}) for seed in seeds]
            values |= stacked_evidence(by_seed, paper.comparable)
            runs |= dict.fromkeys(runs_of(exhibit, seeds, folder, second_folder(paper, options)))
    return Evidence(
        data=short_name(options.data),
        scale=options.scale,
        seeds=seeds,
        command=command(paper, options),
        values=values,
        runs=list(runs),
        environment=shared_environment(folder, list(runs)),
    )


def stacked_evidence(
    by_seed: Sequence[Mapping[str, Any]], comparable: Callable[[Values], Values] = as_they_are
) -> dict[str, np.ndarray]:
    """Values of one exhibit that every seed has, first axis the seed; one with a number missing is left out.

    comparable: sees the stacked values first, with NaN where a number is missing, and may drop what is missing in one
    of them from all that are compared with it.
    """
    names = [name for name in by_seed[0] if all(name in evidence for evidence in by_seed)]
    values = comparable({name: np.array([evidence[name] for evidence in by_seed], dtype=float) for name in names})
    return {name: array for name, array in values.items() if array.size and np.isfinite(array).all()}
