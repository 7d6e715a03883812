"""Train one supernet end to end (Algorithm 1): python -m detofa.train --scale nano --data scenes --variant ours

Whatever the supernet builds on (classification supernet, path filter, warm-up) is trained first unless it is there.
The same command again goes on from where it stopped.
"""

import json
import shlex
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from common.cli import run
from common.data.crops import LEAST_EXTENT
from common.plain import to_json
from common.settings import Optimisation, Precision
from common.train import distributed
from common.train.run_folder import Run, describe_environment
from detofa.method import Operations
from detofa.presets import PRESETS, preset
from detofa.study import UNITS, VARIANTS, Study


@dataclass(frozen=True)
class TrainCommand:
    """Train one detection supernet and search it at its scale's budgets."""

    scale: Literal[tuple(PRESETS)] = "smoke"
    """Size of everything: seconds (smoke), under an hour (nano), hours on a GPU (mini), days (paper)."""
    data: str = "scenes"
    """Detection set: scenes (built in), coco:DIR, voc:DIR or bdd:DIR."""
    variant: Literal[tuple(VARIANTS)] = "ours"
    """Method: the paper's (ours), what it is compared with, or one setting of an ablation."""
    seed: int = 0
    """Seed of weights, data order and sampling."""
    out: Path = Path("runs")
    """Folder of all runs; this one goes to OUT/detofa/DATA-SCALE/VARIANT-sSEED."""
    device: str | None = None
    """Where networks live: cpu, cuda or cuda:N (none: a GPU where there is one)."""
    precision: Precision = "float32"
    """Number format of training; bfloat16 is faster on GPUs and CPUs that compute with it."""
    constraint: Literal[tuple(UNITS)] = "macs"
    """Resource that budgets and buckets are about: macs, params (both of the backbone) or latency (ms)."""
    describe: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print the plan (space, costs, stages, steps) and train nothing."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object instead of text."""


def main(config: TrainCommand) -> None:
    """Plan, train, report."""
    command = shlex.join(["python", "-m", "detofa.train", *sys.argv[1:]])
    device = distributed.start(config.device)
    study = Study(
        preset(config.scale),
        config.data,
        config.seed,
        config.out,
        str(device),
        config.constraint,
        command,
        config.precision,
    )
    plan = describe(study, config.variant)
    if config.describe:
        print(json.dumps(plan) if config.json else _plan_text(plan))
        return
    environment = describe_environment()
    print(f"commit {environment['git_commit']}, torch {environment['torch']}, device {device}", file=sys.stderr)
    print(_plan_text(plan), file=sys.stderr)
    began = time.perf_counter()
    result = study.result(config.variant)
    report = {
        "run": plan["run"],
        "seconds": time.perf_counter() - began,
        "peak_memory": _peak_memory(Path(plan["run"])),
        "next": next_command(plan["run"], result),
        **result,
    }
    distributed.stop()
    print(json.dumps(report) if config.json else _report_text(report, plan["cost"]))


# ---- the plan


def describe(study: Study, name: str) -> dict[str, Any]:
    """What training `VARIANTS[name]` means, as plain JSON: settings, space, cost range, stages with their steps.

    `done` of a stage says whether its run folder holds it already; numbers of paths are upper bounds, for a bucket may
    hold fewer.
    """
    variant = VARIANTS[name]
    space = Operations.compound(study.space) if variant.coupled else Operations.all(study.space)
    constraint = study.constraint
    return to_json(
        {
            "paper": "detofa",
            "run": study.folder / f"{name}-s{study.seed}",
            "variant": {"name": name, **asdict(variant)},
            "scale": study.preset.name,
            "data": study.data,
            "seed": study.seed,
            "device": study.device,
            "precision": study.precision,
            "images": {"training": len(study.training_set), "held_out": study.preset.proxy_images},
            "space": {"size_before_pruning": space.size()},
            "cost": {key: getattr(constraint, key) for key in ("name", "unit", "lowest", "highest", "buckets")},
            "budgets": [constraint.budget(share) for share in study.preset.budget_shares],
            "stages": _stages(study, name),
            "preset": asdict(study.preset),
        }
    )


def _stages(study: Study, name: str) -> list[dict[str, Any]]:
    """Every training of the variant in order, and every sampling of paths between them."""
    settings, variant, buckets = study.preset, VARIANTS[name], study.constraint.buckets
    steps_of = {
        "crops": _crops(study) // settings.crop_batch_size,
        "images": len(study.training_set) // settings.batch_size,
    }
    stages: list[dict[str, Any]] = []

    def training(what: str, stage: str, optimisation: Optimisation, on: str, steps_an_epoch: int | None = None) -> None:
        folder = study.folder / f"{what}-s{study.seed}"
        an_epoch = steps_of[on] if steps_an_epoch is None else steps_an_epoch
        done = (folder / "stages" / f"{stage}.json").is_file()
        epochs = optimisation.epochs
        stages.append({"run": folder.name, "stage": stage, "on": on, "epochs": epochs, "steps": epochs * an_epoch})
        stages[-1]["done"] = done

    def filter_training(what: str, stage: str, optimisation: Optimisation, paths_a_bucket: int) -> None:
        paths = round(0.8 * paths_a_bucket * buckets)
        batch = min(paths, settings.path_filter.batch_size)
        training(what, stage, optimisation, f"{paths} paths", max(1, paths // batch))

    def sampling(what: str, paths_a_bucket: int) -> None:
        stages.append({"run": f"{what}-s{study.seed}", "stage": "sampling", "paths": paths_a_bucket * buckets})

    for stage in ("full", "uniform"):
        training("classification", stage, settings.classification, "crops")
    sampling("classification", settings.pretraining_paths)
    if variant.shrinking:
        for stage, optimisation in (("warm-up", settings.warm_up), ("fine-tuning", settings.fine_tuning)):
            training("fullnet", stage, optimisation, "images")
    if not variant.full_net:
        filter_training("filter", "filter", settings.path_filter.pretraining, settings.pretraining_paths)
    if variant.shared_warm_up:
        training("warm-up", "warm-up", settings.warm_up, "images")
        sampling("warm-up", settings.fine_tuning_paths)
        filter_training("warm-up", "filter", settings.path_filter.fine_tuning, settings.fine_tuning_paths)
    elif not variant.shrinking:
        training(name, "warm-up", settings.warm_up, "images")
    if variant.shrinking:
        for phase in settings.shrinking.phases:
            training(name, phase.name, Optimisation(epochs=phase.epochs), "images")
    else:
        training(name, "fine-tuning", settings.fine_tuning, "images")
    if not variant.full_net:
        sampling(name, settings.search_paths)
        filter_training(name, "search-filter", settings.path_filter.fine_tuning, settings.search_paths)
    return stages


def _crops(study: Study) -> int:
    """Objects that the classification supernet is trained on, the held-out tenth left out."""
    dataset, wanted = study.training_set, study.preset.crops
    extent = dataset.boxes[:, 2:] - dataset.boxes[:, :2]
    usable = int((~dataset.crowd & (extent.min(axis=1, initial=float("inf")) >= LEAST_EXTENT)).sum())
    count = usable if wanted is None else min(wanted, usable)
    return count - max(1, count // 10)


def _plan_text(plan: dict[str, Any]) -> str:
    cost, variant = plan["cost"], plan["variant"]
    lines = [
        f"{variant['title']} ({variant['name']}), {plan['scale']} scale, {plan['data']}, seed {plan['seed']}",
        f"into {plan['run']}, {plan['images']['training']} training images on {plan['device']}",
        f"{plan['space']['size_before_pruning']:,} paths of {cost['lowest']:.4g} to {cost['highest']:.4g} "
        f"{cost['unit']} (backbone)",
    ]
    for stage in plan["stages"]:
        if "steps" in stage:
            work = f"{stage['epochs']} epochs on {stage['on']}, {stage['steps']:,} steps"
            work += ", done already" if stage["done"] else ""
        else:
            work = f"{stage['paths']:,} paths validated"
        lines.append(f"  {stage['run']:<22}{stage['stage']:<15}{work}")
    return "\n".join(lines)


# ---- the report


def next_command(path: str, result: dict[str, Any]) -> str:
    """What to type after a training that ended with `result`."""
    if "budgets" not in result:
        return "python -m detofa.train --variant ours"
    budget = result["budgets"][len(result["budgets"]) // 2]
    return shlex.join(["python", "-m", "detofa.search", "--run", path, "--budget", f"{budget:.4g}"])


def _peak_memory(path: Path) -> int | None:
    """Bytes: the largest of the run's stages."""
    run_folder = Run.read(path)
    stages = [run_folder.stage_done(file.stem) for file in (path / "stages").glob("*.json")]
    return max((stage["peak_memory"] for stage in stages), default=None)


def _report_text(report: dict[str, Any], cost: dict[str, Any]) -> str:
    unit = cost["unit"]
    if "full" in report:
        lines = [f"full net: {report['full']['cost']:.4g} {unit}, AP {_points(report['full'])}"]
    else:
        lines = [f"{'budget':>12}{'cost':>12} {unit:<12}{'AP':>6}{'AP, random':>12}  path"]
        for budget, found, chance in zip(report["budgets"], report["found"], report["random"], strict=True):
            numbers = f"{budget:>12.4g}{found['cost']:>12.4g} {'':<12}{_points(found):>6}{_points(chance):>12}"
            lines.append(f"{numbers}  {found['path']}")
    used = sum(part["seconds"] for part in report["costs"].values())
    memory = "unknown" if report["peak_memory"] is None else f"{report['peak_memory'] / 2**30:.2f} GiB"
    lines += [
        f"supernet {used:.0f} s in all its parts, this command {report['seconds']:.0f} s, peak memory {memory}",
        f"run: {report['run']}",
        f"next: {report['next']}",
    ]
    return "\n".join(lines)


def _points(record: dict[str, Any]) -> str:
    return f"{100 * record['AP']:.1f}" if "AP" in record else "failed"


if __name__ == "__main__":
    run(main, TrainCommand)
