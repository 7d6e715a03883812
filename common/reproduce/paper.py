"""What differs from paper to paper: its record, and its flags on top of those that all papers share."""

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from common.cli import short_name
from common.report.claims import Claim
from common.reproduce.exhibit import Exhibit, Setting
from common.settings import Precision

Values = Mapping[str, np.ndarray]
"""Values that claims are judged by, first axis the seed."""


@dataclass(frozen=True)
class ReproduceOptions:
    """Train and draw a paper's tables and figures, and judge its claims.

    A paper's own options are a frozen dataclass on top of this one. Every option has a default: `command` names those
    that differ from it.
    """

    scale: str = "smoke"
    """Preset: smoke, nano, mini or paper."""
    data: str = "scenes"
    """scenes (built in), coco:DIR, voc:DIR or bdd:DIR."""
    seeds: int = 1
    """Number of seeds: 0, 1, ... Intervals and verdicts need at least 2."""
    seed: int | None = None
    """Train what this one of the seeds needs and draw nothing: a process a seed, then the command without it."""
    only: tuple[str, ...] = ()
    """Names of exhibits, such as figure5 table2; none means all."""
    out: Path = Path("runs")
    """Folder of all runs."""
    device: str = "cpu"
    """Where networks are trained: cpu, cuda or cuda:N."""
    precision: Precision = "float32"
    """Number format of training; bfloat16 is faster on GPUs and CPUs that compute with it."""
    list: bool = False
    """Only list the exhibits, with their runs and expected time."""
    publish: bool = False
    """Also copy results, claims and run records, without pictures, into results/."""
    results: Path = Path("results")
    """Folder that --publish copies into."""


_ALWAYS_SAID = ("scale", "data", "seeds")
_NOT_OF_AN_EXHIBIT = ("seed", "only", "out", "list", "publish", "results")  # where and how, not what is measured


def as_they_are(values: Values) -> Values:
    """Nothing is dropped."""
    return values


def _no_second_data(options: Any) -> None:
    return None


def _unknown_time(what: str, preset: Any) -> None:
    return None


@dataclass(frozen=True)
class Paper:
    """A paper as `common.reproduce.command.reproduce` sees it; `options` are the paper's own, on `ReproduceOptions`."""

    name: str
    """"detofa": of its package, its run folders and its printed numbers, results/paper/<name>.json."""
    title: str
    """"DetOFA": as sentences name it."""
    exhibits: Mapping[str, Exhibit]
    """By name, in the paper's order."""
    claims: Sequence[Claim]
    """Judged by the evidence of the exhibits."""
    preset: Callable[[str], Any]
    """scale -> its settings, a dataclass; `InputError` for an unknown scale."""
    study: Callable[[Any, int, str], Any]
    """(options, seed, command) -> what exhibits measure. Its runs lie in `run_folder`; command: as typed, for them."""
    describe: Callable[[Any], str]
    """study -> its data and network, in a phrase. Reads the data: a fault in it then stops everything at once."""
    setting: Callable[[Any, Path], Setting]
    """(options, folder) -> what exhibits are drawn with."""
    second_data: Callable[[Any], str | None] = _no_second_data
    """options -> the data of `Exhibit.second_runs`; None: there is no second data set."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """What is trained -> its name in notes on missing results."""
    comparable: Callable[[Values], Values] = as_they_are
    """Values of all seeds -> those to judge by, where some must be dropped together; see `stacked_evidence`."""
    seconds: Callable[[str, Any], float | None] = _unknown_time
    """(what is trained, preset) -> seconds on one CPU core, for --list where no run is recorded; None: unknown."""


def run_folder(paper: Paper, options: ReproduceOptions) -> Path:
    """The folder of all runs of a paper on one data set at one scale."""
    return options.out / paper.name / f"{short_name(options.data)}-{options.scale}"


def second_folder(paper: Paper, options: ReproduceOptions) -> Path | None:
    """The same of its second data set, where there is one."""
    data = paper.second_data(options)
    return None if data is None else options.out / paper.name / f"{short_name(data)}-{options.scale}"


def command(paper: Paper, options: ReproduceOptions, only: Iterable[str] = ()) -> str:
    """The command that gives some exhibits, or all, whatever else was asked for with them."""
    words, defaults = ["python", "-m", f"{paper.name}.reproduce"], type(options)()
    for name in (item.name for item in fields(options) if item.name not in _NOT_OF_AN_EXHIBIT):
        value = getattr(options, name)
        if name in _ALWAYS_SAID or value != getattr(defaults, name):
            words += _flag(name, value)
    only = tuple(only)
    return shlex.join([*words, *(_flag("only", only) if only else ())])


def _flag(name: str, value: Any) -> list[str]:
    name = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    return [f"--{name}", *map(str, value if isinstance(value, tuple) else (value,))]
