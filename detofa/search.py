"""Detectors for any budgets, out of a finished supernet: python -m detofa.search --run RUN --budget 2.5e9

Equation 2: no training, only the evolutionary search by the path filter; then batch norm is re-estimated, AP measured,
and each network written as a detector that `common.models.detector.load_detector` reads.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from common.cli import Quantity, Switch, exact, metric, next_with, run, show, typed_command
from common.plain import InputError, to_json
from detofa.exhibits import paper_table, printed_sizes
from detofa.presets import PRESETS, UNITS, Preset
from detofa.space import CostTable
from detofa.train import points

if TYPE_CHECKING:
    from common.models.centernet import CenterNet
    from detofa.space import Constraint
    from detofa.study import FinishedStudy


@dataclass(frozen=True)
class Options:
    """Find the best networks of a finished supernet for given budgets, and write them as detectors."""

    run: Path | None = None
    """Run folder of the supernet, as its training names it at its end."""
    budget: tuple[Quantity, ...] = ()
    """Largest costs, one network each: multiply-accumulates, parameters or ms, such as 25M (default: the run's own
    budgets)."""
    constraint: Literal[tuple(UNITS)] | None = None
    """What the budgets limit: macs, params (both of the backbone) or latency (default: the run's own)."""
    out: Path | None = None
    """Folder for the detectors (default: RUN/detectors)."""
    evaluate: bool = True
    """Measure AP, of a random search's networks too."""
    device: str | None = None
    """Where networks run: cpu, cuda or cuda:N (default: GPU if available)."""
    describe: Switch = False
    """Print the search space of --scale (sizes, costs, encoding) and search nothing."""
    scale: Literal[tuple(PRESETS)] = "paper"
    """Scale that --describe describes; a run knows its own."""
    json: Switch = False
    """Print one JSON object instead of a table."""


def main(options: Options) -> None:
    """Describe, or search and write."""
    if options.describe:
        show(describe(PRESETS[options.scale]), options.json, description_text)
        return
    if options.run is None:
        raise InputError("say which supernet to search in with --run RUN, or ask for the space with --describe")
    from common.train import distributed
    from detofa.study import FinishedStudy

    study = FinishedStudy(options.run, options.device)
    distributed.refuse("a search", "start one process, for it trains nothing")
    report = find_all(study, options.budget, options.constraint, options.out, options.evaluate, typed_command())
    show(report, options.json, report_text)


# ---- searching


def limit_of(study: "FinishedStudy", name: str | None) -> "Constraint":
    """The constraint that budgets are about: the run's own unless another is named.

    Another decides which paths are affordable; buckets, in which alone scores are comparable, stay the path filter's.
    """
    from detofa.study import DetOFAStudy

    if name is None or name == study.constraint.name:
        return study.constraint
    other = DetOFAStudy(replace(study.options, constraint=name, device=study.device), study.seed)
    other.folder = study.folder  # latencies are measured beside the run
    return replace(other.constraint, buckets_of=study.constraint)


def find_all(
    study: "FinishedStudy",
    budgets: Sequence[float] = (),
    constraint: str | None = None,
    out: Path | None = None,
    evaluate: bool = True,
    command: str | None = None,
) -> dict[str, Any]:
    """Search for each budget, measure and write what was found; returns everything as plain JSON.

    Raises `InputError` for a budget below the cheapest path before anything is searched.
    """
    from common.train.run_folder import describe_environment

    study.command = command
    limit = limit_of(study, constraint)
    budgets = list(dict.fromkeys(budgets or [limit.budget(share) for share in study.preset.budget_shares]))
    for budget in budgets:
        if not budget >= limit.lowest:
            raise InputError(
                f"the budget {metric(budget)} {limit.unit} is below the cheapest path's {metric(limit.lowest)}: give "
                f"one between that and {metric(limit.highest)} (the dearest path)"
            )
    out = study.run.path / "detectors" if out is None else out
    numbers = [metric(budget) for budget in budgets]
    if len(set(numbers)) < len(numbers):  # some are equal in four figures
        numbers = [exact(budget) for budget in budgets]
    searched = [find_one(study, limit, budget, evaluate) for budget in budgets]
    found = []
    for number, (record, network) in zip(numbers, searched, strict=True):
        record |= study.latency_at(network, study.size, "validation") if evaluate else {}
        path = out / f"{limit.name}-{number}"
        file = study.save_with_card(path, network, study.size, study.run, record["architecture"], record)
        found.append({**record, "file": str(file)})
    notes = []
    if limit.name != study.constraint.name:
        kind = study.constraint.name
        notes.append(f"scores are compared inside buckets of {kind}, which the path filter was trained with")
    if max(budgets) > limit.highest:
        notes.append(f"no path costs more than {metric(limit.highest)} {limit.unit}: a larger budget changes nothing")
    return to_json(
        {
            "run": str(study.run.path),
            "data": study.data,
            "seed": study.seed,
            "constraint": limit.name,
            "commit": describe_environment(command)["git_commit"],
            "commit_of_run": study.run.environment.get("git_commit"),
            "variant": study.name,
            "scale": study.preset.name,
            "unit": limit.unit,
            "range": [limit.lowest, limit.highest],
            "space": {"size": study.space_left.size()},
            "note": "; ".join(notes) or None,
            "found": found,
        }
    )


def find_one(
    study: "FinishedStudy", limit: "Constraint", budget: float, evaluate: bool
) -> tuple[dict[str, Any], "CenterNet"]:
    """The network found for one budget, its batch norm re-estimated, and its record.

    Beside it in the record, under "random": the affordable one of least validated loss among the uniform paths that
    the predictor learnt from; None where none of them is affordable.
    """
    from common.train.loop import REMEDY, TrainingError
    from detofa.method import PathScorer, best_affordable, search

    scorer = PathScorer(study.predictor, study.space, limit)
    began = time.perf_counter()
    result = search(study.space_left, scorer, budget, study.preset.evolution, study.seed)
    seconds = time.perf_counter() - began
    score = float(scorer(result.best[None])[0])  # the filter's own, comparable within its bucket
    record, network = measured(study, limit, result.best, evaluate)
    if "reason" in record:
        raise TrainingError(
            f"the network {record['path']} that {study.run.path} holds for a budget of {metric(budget)} {limit.unit} "
            f"has diverged ({record['reason']}): {REMEDY}; --no-evaluate writes it all the same"
        )
    by_chance = best_affordable(study.candidates, limit, budget)
    chance = None if by_chance is None else measured(study, limit, by_chance, evaluate)[0]
    return {"budget": budget, "score": score, **record, "random": chance, "seconds": seconds}, network


def measured(
    study: "FinishedStudy", limit: "Constraint", path: np.ndarray, evaluate: bool
) -> tuple[dict[str, Any], "CenterNet"]:
    """Name, cost and (with `evaluate`) the 12 COCO numbers of a path's network, and the network.

    Of one that has diverged "AP" is None, and "reason" says why.
    """
    from common.cost import count

    network = study.final_evaluator.recalibrate(study.trained.extract(path))
    whole = count(network, study.size)
    record = {
        "path": study.space.key(path),
        "choices": path.tolist(),
        "architecture": study.space.describe(path),
        "bucket": int(limit.bucket(path[None])[0]),
        "cost": {
            "limited": float(limit.cost(path[None])[0]),
            "input_size": study.preset.image_size,
            "macs_backbone": whole.parts["backbone"]["macs"],
            "params_backbone": whole.parts["backbone"]["params"],
            "macs": whole.macs,
            "params": whole.params,
        },
    }
    if evaluate:
        try:
            record |= study.precision_at(network, study.size, "validation", per_class=True)
        except FloatingPointError as error:
            record |= {"AP": None, "reason": str(error)}
    return record, network


def report_text(report: Mapping[str, Any]) -> str:
    """A line for each budget."""
    lines = [f"{report['space']['size']:,} paths left; {report['constraint']} of the backbone in {report['unit']}"]
    if report["note"]:
        lines.append(report["note"])
    heads = f"{'budget':>11}{'cost':>11}{'MAC, whole':>12}{'params':>11}{'AP':>6}{'AP, random':>12}{'seconds':>9}"
    lines.append(f"{heads}  file")
    for found in report["found"]:
        cost = found["cost"]
        lines.append(
            f"{metric(found['budget']):>11}{metric(cost['limited']):>11}{metric(cost['macs']):>12}"
            f"{metric(cost['params']):>11}"
            f"{points(found):>6}{points(found['random']):>12}{found['seconds']:>9.1f}  {found['file']}"
        )
    return "\n".join([*lines, next_with(report["found"][-1]["file"], report["data"])])


# ---- the search space


def describe(preset: Preset) -> dict[str, Any]:
    """The search space of a scale as plain JSON: exact sizes, cost ranges, and how a path is written as a row."""
    space, size = preset.space, preset.image_size
    with_stem, macs = replace(space, elastic_stem=True), CostTable.macs(space, size)
    path, values = space.sample(1, np.random.default_rng(0))[0], printed_sizes()
    notes, printed = {"ofa": "", "compofa": ", one factor a stage: to the fourth power"}, {}
    for (key, note), (method, _, formula, about) in zip(notes.items(), paper_table("table1").rows, strict=True):
        printed[key] = {"formula": formula + note, "value": values[method], "printed": about}

    def cost(table: CostTable, unit: str) -> dict[str, Any]:
        lowest, highest = table.range()
        return {"lowest": lowest, "highest": highest, "unit": unit, "of": "backbone"}

    return to_json(
        {
            "paper": "detofa",
            "scale": preset.name,
            "space": space,
            "input_size": size,
            "size": {
                "ofa": space.size(),
                "ofa_with_stem_choices": with_stem.size(),
                "compofa": space.size(coupled=True),
                "printed_in_table_1": printed,
            },
            "cost": {
                "macs": cost(macs, UNITS["macs"]),
                "macs_with_stem_choices": cost(CostTable.macs(with_stem, size), UNITS["macs"]),
                "params": cost(CostTable.params(space), UNITS["params"]),
            },
            "encoding": {
                "columns": space.columns,
                "values": {"depth": space.depths, "width": space.widths, "expand": space.expands},
                "meaning": "each number is an index into the values of its kind; layers that depth drops hold 0",
                "example": {
                    "choices": path,
                    "name": space.key(path),
                    "description": space.describe(path),
                    "macs": float(macs(path[None])[0]),
                },
            },
        }
    )


def description_text(description: Mapping[str, Any]) -> str:
    """The space in a few lines."""
    size, encoding = description["size"], description["encoding"]
    example = encoding["example"]
    lines = [f"search space at {description['scale']} scale, images of {description['input_size']} pixels"]
    for key, name in {"ofa": "OFA", "compofa": "CompOFA*"}.items():
        printed = size["printed_in_table_1"][key]
        stem = f"; with stem choices {size['ofa_with_stem_choices']:,}" if key == "ofa" else ""
        lines.append(f"{name}: {size[key]:,} paths{stem}")
        lines.append(f"  Table 1 prints {printed['printed']}; its formula gives {printed['value']:.3g}")
    for name, part in description["cost"].items():
        lines.append(
            f"{name.replace('_', ' ')}: {metric(part['lowest'])} to {metric(part['highest'])} {part['unit']}, backbone"
        )
    lines.append(f"a path is {len(encoding['columns'])} indices: {', '.join(encoding['columns'])}")
    lines += [f"  {kind}: {values}" for kind, values in encoding["values"].items()]
    lines.append(f"example {example['name']}: {example['choices']}")
    lines.append(f"  {json.dumps(example['description'])}, {metric(example['macs'])} MAC")
    return "\n".join(lines)


if __name__ == "__main__":
    run(main, Options)
