"""Train one supernet end to end (Algorithm 1): python -m detofa.train --scale nano --data scenes --variant ours

Whatever the supernet builds on (classification supernet, path filter, warm-up) is trained first unless it is there.
The same command again goes on from where it stopped.
"""

import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from common.cli import OneSeed, Switch, exact, metric, run, show, typed_command, words_for
from common.plain import InputError, read_json, to_json
from detofa import presets
from detofa.presets import UNITS, VARIANTS

if TYPE_CHECKING:
    from detofa.study import DetOFAStudy


@dataclass(frozen=True, kw_only=True)
class Options(OneSeed, presets.Options):
    """Train one detection supernet and search it at its scale's budgets."""

    variant: Literal[tuple(VARIANTS)] = "ours"
    """Method: the paper's (ours), what it is compared with, or one setting of an ablation."""
    validations: int = 5
    """Times that the largest network's AP is measured during a training, for its curve in log.jsonl; 0 means never."""
    describe: Switch = False
    """Print the plan (space, costs, budgets, settings; of the paper's scale unless --scale is given), train nothing."""


def main(options: Options) -> None:
    """Plan, train, report."""
    plan = describe(options)
    if options.describe:
        show(plan, options.json, plan_text)
        return
    from common import progress
    from common.train import distributed
    from detofa.study import DetOFAStudy

    began = time.perf_counter()
    study = DetOFAStudy(options, options.seed, typed_command())
    images = len(study.training_set)  # says what is wrong with the data before anything is made
    if distributed.rank() == 0:
        print(f"{plan_text(plan)}\n{images} training images, {study.device}", file=sys.stderr)
    progress.plan(stages(study, options.variant))
    result = study.result(options.variant)  # the shared runs, Algorithm 1, the search
    report = {
        "run": plan["run"],
        "unit": UNITS[options.constraint],
        "seconds": time.perf_counter() - began,
        "peak_memory": peak_memory(Path(plan["run"])),
        "next": next_command(plan["run"], result),
        **result,
    }
    if distributed.rank() == 0:
        show(report, options.json, report_text)
    distributed.stop()


def stages(study: "DetOFAStudy", name: str) -> dict[str, float]:
    """Runs that a variant's training and search go through -> work, see `Study.work`."""
    preset, variant = study.preset, VARIANTS[name]
    warm_up, own = preset.warm_up.epochs, preset.fine_tuning.epochs
    epochs = {"warm-up": warm_up, name: own} if variant.shared_warm_up else {name: warm_up + own}
    if variant.shrinking:
        epochs = {"fullnet": warm_up + own, name: sum(phase.epochs for phase in preset.shrinking.phases)}
    work = {"latency": 0.0} if study.options.constraint == "latency" else {}
    work |= {"classification": (1 if study.options.pretrained else 2) * study.crop_work}
    if not variant.full_net:
        work |= {"filter": 0.0}
    planned = {study.run_name(what, what == "latency"): pixels for what, pixels in work.items()}
    for other in ("ours", variant.equal_cost_of) if variant.equal_cost_of else ():
        planned |= stages(study, other)
    return planned | {study.run_name(what): study.work(count, study.size) for what, count in epochs.items()}


def describe(options: Options) -> dict[str, Any]:
    """What training the variant means: its space, the range of costs, budgets and settings."""
    if options.seed < 0:
        raise InputError(f"--seed must be at least 0, got {options.seed}")
    preset, variant = options.preset, VARIANTS[options.variant]
    cost: dict[str, Any] = {"name": options.constraint, "unit": UNITS[options.constraint]}
    budgets = None  # latency is measured when training begins
    if options.constraint != "latency":
        constraint = preset.constraint(options.constraint)
        cost |= {"lowest": constraint.lowest, "highest": constraint.highest}
        budgets = [constraint.budget(share) for share in preset.budget_shares]
    plan = {
        "paper": "detofa",
        "run": str(options.out / "detofa" / options.run_folder / f"{options.variant}-s{options.seed}"),
        "variant": {"name": options.variant, **asdict(variant)},
        "scale": options.scale,
        "changed": options.changed,
        "data": options.data,
        "seed": options.seed,
        "precision": options.precision,
        "pretrained": options.pretrained,
        "space": {"size_before_pruning": preset.space.size(coupled=variant.coupled)},
        "cost": cost,
        "budgets": budgets,
        "preset": preset,
    }
    return to_json(plan)


def plan_text(plan: Mapping[str, Any]) -> str:
    """The plan in a few lines."""
    cost, variant, preset = plan["cost"], plan["variant"], plan["preset"]
    costs = (
        f"{metric(cost['lowest'])} to {metric(cost['highest'])} {cost['unit']}" if "lowest" in cost else "measured ms"
    )
    changed = "".join(f", {name} {value}" for name, value in plan["changed"].items())
    stages = [preset["warm_up"], preset["fine_tuning"]]
    if variant["shrinking"]:
        stages += preset["shrinking"]["phases"]
    epochs = " + ".join(str(stage["epochs"]) for stage in stages)
    longer = " (more: as many CPU seconds as ours takes)" if variant["equal_cost_of"] else ""
    pretraining = f"2 x {preset['classification']['epochs']} epochs on object crops"
    if plan["pretrained"]:
        pretraining = f"the backbone of {plan['pretrained']}"
    return "\n".join(
        [
            f"{variant['title']}: --variant {variant['name']}, scale {plan['scale']}{changed}, {plan['data']}, "
            f"seed {plan['seed']}, into {plan['run']}",
            f"{plan['space']['size_before_pruning']:,} paths of {costs} (backbone)",
            f"{pretraining}, then {epochs} epochs{longer} on images of {preset['image_size']} pixels",
        ]
    )


def next_command(path: str, result: Mapping[str, Any]) -> str:
    """What to type after a training that ended with `result`."""
    if "budgets" not in result:
        return shlex.join([*words_for("detofa.train"), "--variant", "ours"])
    budget = result["budgets"][len(result["budgets"]) // 2]
    return shlex.join([*words_for("detofa.search"), "--run", path, "--budget", exact(budget)])


def peak_memory(path: Path) -> int | None:
    """Bytes: the largest of the run's stages."""
    return max((read_json(file)["peak_memory"] for file in (path / "stages").glob("*.json")), default=None)


def report_text(report: Mapping[str, Any]) -> str:
    """What was found for each budget, what it took, and what to type next."""
    unit = report["unit"]
    if "full" in report:
        lines = [f"full net: {_cost(report['full'])} {unit}, AP {points(report['full'])}"]
    else:
        lines = [f"{'budget':>12}{'cost':>12} {unit:<12}{'AP':>6}{'AP, random':>12}  path"]
        for budget, found, chance in zip(report["budgets"], report["found"], report["random"], strict=True):
            numbers = f"{metric(budget):>12}{_cost(found):>12} {'':<12}{points(found):>6}{points(chance):>12}"
            lines.append(f"{numbers}  {found['path']}")
    used = sum(part["seconds"] for part in report["costs"].values())
    memory = "unknown" if report["peak_memory"] is None else f"{report['peak_memory'] / 2**30:.2f} GiB"
    lines += [
        f"supernet {used:.0f} s in all its parts, this command {report['seconds']:.0f} s, peak memory {memory}",
        f"run: {report['run']}",
        f"next: {report['next']}",
    ]
    return "\n".join(lines)


def _cost(record: Mapping[str, Any]) -> str:
    """What a network costs; "-" where it could not be measured."""
    return metric(record["cost"]) if "cost" in record else "-"


def points(record: Mapping[str, Any] | None) -> str:
    """AP in points; "-" where there is no number: not measured, failed, or no path within the budget."""
    return f"{100 * record['AP']:.1f}" if record and record.get("AP") is not None else "-"


if __name__ == "__main__":
    run(main, Options)
