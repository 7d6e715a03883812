"""Detectors for any budgets, out of a finished supernet: python -m detofa.search --run RUN --budget 2.5e9

Equation 2: no training, only the evolutionary search by the path filter; then batch norm is re-estimated, AP measured,
and each network written as a detector that `common.models.detector.load_detector` reads.
"""

import json
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from common.cli import run
from common.cost import count
from common.evaluate.subnetworks import average_precision
from common.models.centernet import CenterNet
from common.models.detector import save_detector
from common.plain import InputError, to_json
from common.train import distributed
from common.train.run_folder import describe_environment
from detofa.method import Constraint, Operations, PathScorer, search
from detofa.presets import PRESETS, Preset, preset
from detofa.restore import FinishedStudy
from detofa.study import UNITS, Study


@dataclass(frozen=True)
class SearchCommand:
    """Find the best networks of a finished supernet for given budgets, and write them as detectors."""

    run: Path | None = None
    """Run folder of the supernet, as python -m detofa.train names it at its end."""
    budget: tuple[float, ...] = ()
    """Largest costs, one network each: multiply-accumulates, parameters or ms (none: the run's own budgets)."""
    constraint: Literal[tuple(UNITS)] | None = None
    """Resource that the budgets limit: macs, params (both of the backbone) or latency (none: the run's own)."""
    out: Path | None = None
    """Folder for the detectors (none: RUN/detectors)."""
    evaluate: bool = True
    """Measure AP, of a random search's networks too."""
    device: str | None = None
    """Where networks run: cpu, cuda or cuda:N (none: a GPU where there is one)."""
    describe: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print the search space of --scale (sizes, costs, encoding) and search nothing."""
    scale: Literal[tuple(PRESETS)] = "paper"
    """Scale that --describe describes; a run knows its own."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object instead of a table."""


def main(config: SearchCommand) -> None:
    """Describe, or search and write."""
    if config.describe:
        description = describe(preset(config.scale))
        print(json.dumps(description) if config.json else _description_text(description))
        return
    if config.run is None:
        raise InputError("say which supernet to search in with --run RUN, or ask for the space with --describe")
    command = shlex.join(["python", "-m", "detofa.search", *sys.argv[1:]])
    study = FinishedStudy(config.run, str(distributed.start(config.device)))
    report = find_all(study, config.budget, config.constraint, config.out, config.evaluate, command)
    print(json.dumps(report) if config.json else _report_text(report))


# ---- searching


@dataclass(frozen=True)
class Limit(Constraint):
    """A budget's resource where it is another than the one that the path filter was conditioned on.

    It decides which paths are affordable; buckets stay those of `of_filter`, in which alone scores are comparable.
    """

    of_filter: Constraint | None = None

    def bucket(self, paths: np.ndarray) -> np.ndarray:
        """(P,) int64: the interval of each path's cost in the filter's own resource."""
        return self.of_filter.bucket(paths)


def limit_of(study: FinishedStudy, name: str | None) -> Constraint:
    """The constraint that budgets are about: the run's own unless another is named."""
    if name is None or name == study.constraint_name:
        return study.constraint
    other = Study(study.preset, study.data, study.seed, device=study.device, constraint=name).constraint
    parts = {field.name: getattr(other, field.name) for field in fields(Constraint)}
    return Limit(**parts, of_filter=study.constraint)


def find_all(
    study: FinishedStudy,
    budgets: Sequence[float] = (),
    constraint: str | None = None,
    out: Path | None = None,
    evaluate: bool = True,
    command: str | None = None,
) -> dict[str, Any]:
    """Search for each budget, measure and write what was found; returns everything as plain JSON.

    Raises `InputError` for a budget below the cheapest path before anything is searched.
    """
    limit = limit_of(study, constraint)
    budgets = tuple(budgets) or _own_budgets(study, limit)
    for budget in budgets:
        if not budget >= limit.lowest:
            raise InputError(
                f"the budget {budget:.4g} {limit.unit} is below the cheapest path's {limit.lowest:.4g}: give one "
                f"between that and {limit.highest:.4g} (the dearest path)"
            )
    out = study.run.path / "detectors" if out is None else out
    environment = describe_environment(command)
    common = {
        "run": str(study.run.path),
        "data": study.data,
        "seed": study.seed,
        "constraint": limit.name,
        "commit": environment["git_commit"],
        "commit_of_run": study.run.environment.get("git_commit"),
    }
    found = []
    for budget in budgets:
        record, network = find_one(study, limit, budget, evaluate)
        file = save_detector(
            out / f"{limit.name}-{budget:.4g}".replace("+", ""),
            network,
            {
                "categories": list(study.training_set.categories),
                "input_size": study.preset.image_size,
                "cost": record["cost"],
                "AP": record.get("AP"),
                "path": record["path"],
                "provenance": {**common, "budget": budget, "command": environment["command"]},
            },
        )
        found.append({**record, "file": str(file)})
    note = None
    if limit.name != study.constraint.name:
        note = f"scores are compared inside buckets of {study.constraint.name}, which the path filter was trained with"
    return to_json(
        {
            **common,
            "variant": study.name,
            "scale": study.preset.name,
            "unit": limit.unit,
            "range": [limit.lowest, limit.highest],
            "space": {"size": study.space_left.size()},
            "note": note,
            "found": found,
        }
    )


def _own_budgets(study: FinishedStudy, limit: Constraint) -> tuple[float, ...]:
    if limit is study.constraint:
        return tuple(study.run.result["budgets"])
    return tuple(limit.budget(share) for share in study.preset.budget_shares)


def find_one(
    study: FinishedStudy, limit: Constraint, budget: float, evaluate: bool
) -> tuple[dict[str, Any], CenterNet]:
    """The network found for one budget, its batch norm re-estimated, and its record.

    Beside it in the record, under "random": the affordable one of least validated loss among the uniform paths that
    the predictor learnt from; None where none of them is affordable.
    """
    space, scorer = study.space_left, PathScorer(study.predictor, study.space, limit)
    began = time.perf_counter()
    result = search(space, scorer, budget, study.preset.evolution, study.seed)
    seconds = time.perf_counter() - began
    record, network = _measured(study, limit, result.best, evaluate)
    affordable = np.flatnonzero(limit.cost(study.validated.paths) <= budget)
    chance = None
    if len(affordable):
        best = affordable[study.validated.losses[affordable].argmin()]
        chance, _ = _measured(study, limit, study.validated.paths[best], evaluate)
    return {"budget": budget, "score": result.score, **record, "random": chance, "seconds": seconds}, network


def _measured(
    study: FinishedStudy, limit: Constraint, path: np.ndarray, evaluate: bool
) -> tuple[dict[str, Any], CenterNet]:
    """Name, cost and (with `evaluate`) the 12 COCO numbers of a path's network, and the network."""
    network = study.final_evaluator.recalibrate(study.supernet.extract(path))
    size = study.preset.image_size
    whole = count(network, (size, size))
    cost = {
        "limited": float(limit.cost(path[None])[0]),
        "input_size": size,
        "macs_backbone": whole.parts["backbone"]["macs"],
        "params_backbone": whole.parts["backbone"]["params"],
        "macs": whole.macs,
        "params": whole.params,
    }
    record = {
        "path": study.space.key(path),
        "choices": path.tolist(),
        "architecture": study.space.describe(path),
        "bucket": int(limit.bucket(path[None])[0]),
        "cost": cost,
    }
    if evaluate:
        record |= average_precision(network, study._validation_batches, study._truth)
    return record, network


def _report_text(report: dict[str, Any]) -> str:
    def points(record: dict[str, Any] | None) -> str:
        return f"{100 * record['AP']:.1f}" if record and "AP" in record else "-"

    lines = [f"{report['space']['size']:,} paths left; {report['constraint']} of the backbone in {report['unit']}"]
    if report["note"]:
        lines.append(report["note"])
    heads = f"{'budget':>11}{'cost':>11}{'MAC, whole':>12}{'params':>11}{'AP':>6}{'AP, random':>12}{'seconds':>9}"
    lines.append(f"{heads}  file")
    for found in report["found"]:
        cost = found["cost"]
        lines.append(
            f"{found['budget']:>11.4g}{cost['limited']:>11.4g}{cost['macs']:>12.4g}{cost['params']:>11,}"
            f"{points(found):>6}{points(found['random']):>12}{found['seconds']:>9.1f}  {found['file']}"
        )
    return "\n".join(lines)


# ---- the search space


def printed_formula() -> dict[str, Any]:
    """The sizes that Table 1 prints, beside what its formulas evaluate to."""
    return {
        "ofa": {
            "formula": "((3^2 + 3^2) x (3^3 + 3^3) x (3^4 + 3^4))^4",
            "value": ((3**2 + 3**2) * (3**3 + 3**3) * (3**4 + 3**4)) ** 4,
            "printed": "about 10^20",
        },
        "compofa": {
            "formula": "(3^2 + 3^3 + 3^4), one factor a stage: to the fourth power",
            "value": (3**2 + 3**3 + 3**4) ** 4,
            "printed": "about 10^8",
        },
    }


def describe(settings: Preset) -> dict[str, Any]:
    """The search space of a scale as plain JSON: exact sizes, cost ranges, and how a path is written as a row."""
    space, size = settings.space, settings.image_size
    with_stem = replace(space, elastic_stem=True)
    study = Study(settings, "scenes", seed=0)
    path = space.sample(1, np.random.default_rng(0))[0]
    values = {
        "depth": list(space.depths),
        "width": list(space.widths),
        "expand": list(space.expands),
    }
    return to_json(
        {
            "paper": "detofa",
            "scale": settings.name,
            "space": asdict(space),
            "input_size": size,
            "size": {
                "ofa": Operations.all(space).size(),
                "ofa_with_stem_choices": with_stem.size(),
                "compofa": Operations.compound(space).size(),
                "printed_in_table_1": printed_formula(),
            },
            "cost": {
                "macs": _cost_range(study),
                "macs_with_stem_choices": _cost_range(Study(replace(settings, space=with_stem), "scenes", seed=0)),
                "params": _cost_range(Study(settings, "scenes", seed=0, constraint="params")),
            },
            "encoding": {
                "columns": list(space.columns),
                "values": values,
                "meaning": "each number is an index into the values of its kind; layers that depth drops hold 0",
                "example": {
                    "choices": path.tolist(),
                    "name": space.key(path),
                    "description": space.describe(path),
                    "macs": float(study.constraint.cost(path[None])[0]),
                },
            },
        }
    )


def _cost_range(study: Study) -> dict[str, Any]:
    constraint = study.constraint
    return {"lowest": constraint.lowest, "highest": constraint.highest, "unit": constraint.unit, "of": "backbone"}


def _description_text(description: dict[str, Any]) -> str:
    size, cost, encoding = description["size"], description["cost"], description["encoding"]
    printed, example = size["printed_in_table_1"], encoding["example"]
    ranges = [
        f"{name.replace('_', ' ')}: {part['lowest']:.4g} to {part['highest']:.4g} {part['unit']}, backbone"
        for name, part in cost.items()
    ]
    return "\n".join(
        [
            f"search space at {description['scale']} scale, images of {description['input_size']} pixels",
            f"OFA: {size['ofa']:,} paths; with stem choices {size['ofa_with_stem_choices']:,}",
            f"  Table 1 prints {printed['ofa']['printed']}; its formula gives {printed['ofa']['value']:.3g}",
            f"CompOFA*: {size['compofa']:,} paths",
            f"  Table 1 prints {printed['compofa']['printed']}; its formula gives {printed['compofa']['value']:.3g}",
            *ranges,
            f"a path is {len(encoding['columns'])} indices: {', '.join(encoding['columns'])}",
            *(f"  {kind}: {values}" for kind, values in encoding["values"].items()),
            f"example {example['name']}: {example['choices']}",
            f"  {json.dumps(example['description'])}, {example['macs']:.4g} MAC",
        ]
    )


if __name__ == "__main__":
    run(main, SearchCommand)
