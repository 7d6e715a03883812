"""`--publish`: what was measured into results/<scale>/<paper>/, small and without a path of this machine."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from common.cli import short_name
from common.plain import read_json, write_json
from common.report.page import RunSummary, find_runs
from common.reproduce.evidence import run_path
from common.reproduce.paper import Paper, ReproduceOptions, command

Options = TypeVar("Options", bound=ReproduceOptions)


def publish(paper: Paper, options: ReproduceOptions, folder: Path) -> Path:
    """Copy exhibits, their numbers seed by seed, claims and run records of a run folder; the folder they are in.

    Pictures are left out, for `Exhibit.draw` makes them of the numbers.
    """
    name = short_name(options.data)
    root = options.results / options.scale / paper.name
    target = root if name == "scenes" else root / name
    options = without_places(options)
    names: dict[str, None] = {}
    numbers: dict[str, Any] = {}
    for exhibit in paper.exhibits:
        path = folder / "exhibits" / exhibit
        if (path / "result.json").is_file():
            record = read_json(path / "result.json")
            again = command(paper, replace(options, seeds=len(record["seeds"])), [exhibit])
            write_json(target / f"{exhibit}.json", record | {"pictures": [], "command": again})
            numbers[exhibit] = read_json(path / "measured.json")
            names |= dict.fromkeys(record["runs"])
    write_json(target / "measured.json", numbers)
    claims = read_json(folder / "claims.json")
    for claim in claims.values():
        claim["command"] = command(paper, options)
    write_json(root / ("claims.json" if name == "scenes" else f"claims-{name}.json"), claims)
    records = {run_name: _run_record(find_runs([run_path(folder, run_name)])[0]) for run_name in names}
    write_json(target / "runs.json", records)
    return target


def _run_record(summary: RunSummary) -> dict[str, Any]:
    """What a run took and where it was made; its command is left out, for it names folders."""
    environment = {key: value for key, value in summary.environment.items() if key not in ("command", "resumed")}
    resumed = [
        {key: value for key, value in again.items() if key != "command"}
        for again in summary.environment.get("resumed", [])
    ]
    spent = {"seconds": summary.seconds, "candidate_seconds": summary.candidate_seconds}
    return {**spent, "environment": environment, "resumed": resumed}


def without_places(options: Options) -> Options:
    """The same options with every data set (text in an option named `data` or `..._data`) as `generic_data` has it."""
    values = {item.name: getattr(options, item.name) for item in fields(options) if item.name.endswith("data")}
    return replace(options, **{name: generic_data(spec) for name, spec in values.items() if isinstance(spec, str)})


def generic_data(data: str) -> str:
    """The same data without the folders of this machine: coco:/some/where/aquarium -> coco:DIR/aquarium."""
    kind, _, rest = data.partition(":")
    return data if kind == "scenes" or not rest else f"{kind}:DIR/{Path(rest).expanduser().resolve().name}"
