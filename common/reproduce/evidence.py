"""What an exhibit rests on: its run folders, where they were made, and the numbers that claims are judged by."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.data.source import short_name
from common.report.claims import Evidence
from common.report.tables import read_json
from common.reproduce.exhibit import Exhibit
from common.reproduce.paper import Paper, ReproduceOptions, Values, as_they_are, command
from common.train.run_folder import describe_environment

_OF_ONE_RUN = ("command", "time", "resumed")  # what an environment says of one run rather than of the machine


def runs_of(exhibit: Exhibit, seeds: Iterable[int], folder: Path) -> list[str]:
    """Names of the run folders in `folder` that an exhibit rests on."""
    names = [f"{what}-s{seed}" for seed in seeds for what in exhibit.runs]
    return [name for name in names if (folder / name).is_dir()]


def shared_environment(folder: Path, runs: Sequence[str]) -> dict[str, Any]:
    """Commit, versions and hardware of some runs; a list of values where runs differ."""
    environments = [read_json(folder / name / "environment.json") for name in runs] or [describe_environment()]
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
            runs |= dict.fromkeys(runs_of(exhibit, seeds, folder))
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
