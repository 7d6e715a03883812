"""Train one detector end to end: python -m sm_nas.train --model E3 --scale nano --data scenes

Its backbone is trained on classification first where the strategy says so, unless that is there. The same command again
goes on from where it stopped.
"""

import json
import re
import shlex
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from common.cli import flags_given, run, short_name
from common.data.scenes import CATEGORIES
from common.models.detector import save_detector
from common.models.outline import outline
from common.plain import InputError, to_json
from common.report.tables import printed_table
from common.settings import Precision
from common.train import distributed
from common.train.run_folder import Run, describe_environment
from sm_nas import trial
from sm_nas.method import HEAD_NAMES, Structure
from sm_nas.networks import build_backbone, input_size
from sm_nas.presets import PAPER, PRESETS, Preset, Strategy, preset
from sm_nas.study import Study, slug

COCO_CLASSES, COCO_IMAGES = 80, 118_287  # of train2017
ROWS = tuple(map(str, range(len(PAPER.strategies))))  # of Table 3


@dataclass(frozen=True)
class TrainCommand:
    """Train one detector by its scale's schedule, and write it to disk."""

    model: str = "E0"
    """E0 to E5, a classic such as 'FPN R50', or a structure: 'resnet50 96x96 P1-P5 c32 rpn cascade3'."""
    scale: Literal[tuple(PRESETS)] | None = None
    """Size of everything: smoke, nano, mini or paper (none: smoke; paper with --describe)."""
    data: str | None = None
    """Detection set: scenes (built in), coco:DIR, voc:DIR or bdd:DIR (none: scenes; COCO's sizes with --describe)."""
    strategy: Literal[("final", "from-scratch", *ROWS)] = "final"
    """Schedule: of what is reported (final), of stage two's candidates (from-scratch), or a row of Table 3."""
    seed: int = 0
    """Seed of weights and data order."""
    out: Path = Path("runs")
    """Folder of all runs; this one goes to OUT/sm_nas/DATA-SCALE/STRATEGY-MODEL-sSEED."""
    device: str | None = None
    """Where networks live: cpu, cuda or cuda:N (none: a GPU where there is one)."""
    precision: Precision = "float32"
    """Number format of training; bfloat16 is faster on GPUs and CPUs that compute with it."""
    describe: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print structure, costs and schedule, and train nothing; no data are read."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object instead of text."""


def main(config: TrainCommand) -> None:
    """Describe; or train, write, report."""
    scale = preset(config.scale or ("paper" if config.describe else "smoke"))
    name, structure = find_model(config.model, scale)
    strategy = find_strategy(config.strategy, scale)
    if config.describe:
        plan = describe(name, structure, scale, strategy, *sizes_without_reading(scale, config.data))
        print(json.dumps(plan) if config.json else plan_text(plan))
        return
    command = shlex.join(["python", "-m", "sm_nas.train", *sys.argv[1:]])
    device, data = distributed.start(config.device), config.data or "scenes"
    study = Study(scale, data, config.seed, config.out, str(device), command, config.precision)
    laboratory = study.laboratory
    plan = describe(name, structure, scale, strategy, len(laboratory.categories), laboratory.images_an_epoch)
    environment, speaks = describe_environment(), distributed.rank() == 0
    if speaks:
        print(f"commit {environment['git_commit']}, torch {environment['torch']}, device {device}", file=sys.stderr)
        print(f"{plan_text(plan)}\nseed {config.seed}", file=sys.stderr)
    began = time.perf_counter()
    what = f"{'row-' if config.strategy in ROWS else ''}{config.strategy}-{slug(name)}"
    result = study.trained(what, structure, strategy)
    folder = study.folder / f"{what}-s{study.seed}"
    report = {
        "model": name,
        "run": folder,
        "file": write_detector(study, folder, strategy, command),
        "seconds_of_command": time.perf_counter() - began,
        "peak_memory": Run.read(folder).stage_done("detector")["peak_memory"],
        "next": _next(config),
        **result,
    }
    distributed.stop()
    if speaks:
        print(json.dumps(to_json(report)) if config.json else _report_text(report))


# ---- what to train


def find_model(text: str, scale: Preset) -> tuple[str, Structure]:
    """Name and structure of what --model says: a name that the scale knows, or a structure written out."""
    known = {slug(name): (name, structure) for name, structure in (*scale.models, *scale.classics)}
    if slug(text) in known:
        return known[slug(text)]
    if not re.search(r"\s\d+x\d+\s", text):  # a structure has a size
        names = ", ".join(name for name, _ in known.values())
        raise InputError(
            f"no model is called {text!r}: give one of {names}, or a structure such as {str(scale.strategy_model)!r}"
        )
    structure = Structure.parse(" ".join(text.split()))
    same = [name for name, other in known.values() if other == structure]
    return (same or [str(structure)])[0], structure


def find_strategy(name: str, scale: Preset) -> Strategy:
    """The strategy that --strategy says."""
    if name in ROWS:
        return scale.strategies[int(name)]
    return {"final": scale.final_training, "from-scratch": scale.stage_two_training}[name]


def sizes_without_reading(scale: Preset, data: str | None) -> tuple[int, int | None]:
    """Classes, and images of an epoch, as far as they are known without reading any data: the scenes' and COCO's."""
    if data is None:
        return COCO_CLASSES, scale.train_images or COCO_IMAGES - scale.search_images
    short_name(data)  # says what is wrong with an unknown form
    return len(CATEGORIES) if data.startswith("scenes") else COCO_CLASSES, scale.train_images


# ---- the plan


def describe(
    name: str, structure: Structure, scale: Preset, strategy: Strategy, categories: int, images: int | None
) -> dict[str, Any]:
    """A detector and its training as plain JSON. images: of an epoch; None: not known, and so are the steps.

    Costs are those of the network with batch norm, as it is used, for one image of `input_size`. "printed" holds what
    Table 2 says of the very same structure.
    """
    whole = trial.describe(structure, categories, scale)
    with outline():
        backbone = build_backbone(structure.backbone, scale.detector)
    an_epoch = None if images is None else images // strategy.batch_size
    epochs = strategy.optimisation.epochs
    return to_json(
        {
            "paper": "sm_nas",
            "model": name,
            "scale": scale.name,
            "structure": str(structure),
            "modules": {**asdict(structure), "heads": HEAD_NAMES[structure.heads]},
            "input_size": input_size(structure),
            "categories": categories,
            "backbone": {
                "name": structure.backbone,
                **{key: whole[f"backbone_{key}"] for key in ("macs_mmdet", "macs", "params")},
                "out_channels": backbone.out_channels,
            },
            "detector": {key: whole[key] for key in ("macs_mmdet", "macs", "params")},
            "printed": _printed(name, structure),
            "norm": strategy.norm,
            "strategy": asdict(strategy),
            "epochs": epochs,
            "images_an_epoch": images,
            "images_a_step": strategy.batch_size,
            "steps": None if an_epoch is None else epochs * an_epoch,
        }
    )


def _printed(name: str, structure: Structure) -> dict[str, Any] | None:
    """What Table 2 prints of one of the paper's own models: multiply-accumulates of the backbone, ms, AP in points."""
    if dict(PAPER.models).get(name) != structure:
        return None
    table = printed_table("sm_nas", "table2")
    row = next(dict(zip(table.columns, row, strict=True)) for row in table.rows if row[0] == name)
    return {"backbone_flops": row["Backbone FLOPs"] * 1e9, "latency": row["Time"], "AP": row["mAP"], "of": "Table 2"}


def plan_text(plan: dict[str, Any]) -> str:
    """The plan for people."""
    backbone, detector, printed = plan["backbone"], plan["detector"], plan["printed"]
    width, height = plan["input_size"]
    said = "" if printed is None else f"; Table 2 prints {printed['backbone_flops'] / 1e9:g} G"
    optimisation, steps = plan["strategy"]["optimisation"], plan["steps"]
    return "\n".join(
        [
            f"{plan['model']} at {plan['scale']} scale: {plan['structure']}",
            f"images of {width}x{height} pixels, {plan['categories']} classes",
            f"backbone {backbone['macs_mmdet'] / 1e9:.4g} G MAC as mmdetection counts "
            f"({backbone['macs'] / 1e9:.4g} G of products), {backbone['params'] / 1e6:.4g} M parameters, channels "
            f"{backbone['out_channels']}{said}",
            f"detector {detector['macs_mmdet'] / 1e9:.4g} G MAC ({detector['macs'] / 1e9:.4g} G of products), "
            f"{detector['params'] / 1e6:.4g} M parameters",
            f"norm {plan['norm']}, {'pre-trained backbone' if plan['strategy']['pretrained'] else 'from scratch'}; "
            f"{plan['epochs']} epochs of {plan['images_a_step']} images a step by {optimisation['optimiser']} at "
            f"{optimisation['learning_rate']:g}, {'steps unknown' if steps is None else f'{steps:,} steps'}",
        ]
    )


# ---- what is left of it


def write_detector(study: Study, folder: Path, strategy: Strategy, command: str | None = None) -> Path:
    """The trained network of a finished run as a detector, `load_detector(FOLDER/detector)`; returns its JSON."""
    finished, network = study.laboratory.finished(folder, strategy.norm)
    result = finished.result
    structure = Structure.parse(result["structure"])
    return save_detector(
        folder / "detector" / "detector",
        network,
        {
            "categories": list(study.laboratory.categories),
            "input_size": input_size(structure),
            "structure": str(structure),
            "AP": result["AP"],
            "latency": result["latency_of"],
            "cost": {
                **{key: result[key] for key in ("macs", "macs_mmdet", "backbone_macs_mmdet")},
                "params": sum(parameter.numel() for parameter in network.parameters()),  # with the norm that it has
            },
            "provenance": {
                "run": str(folder),
                "data": study.data,
                "scale": study.preset.name,
                "seed": study.seed,
                "commit_of_run": finished.environment.get("git_commit"),
                "command": describe_environment(command)["command"],
            },
        },
    )


def _next(config: TrainCommand) -> str:
    """What to type after a training."""
    words = ["python", "-m", "sm_nas.search", "--scale", config.scale or "smoke", "--data", config.data or "scenes"]
    return shlex.join([*words, *flags_given(config, "seed", "out", "device", "precision")])


def _report_text(report: dict[str, Any]) -> str:
    sizes = zip(("small", "medium", "large"), ("APs", "APm", "APl"), strict=True)
    by_size = ", ".join(f"{name} {100 * report[key]:.1f}" for name, key in sizes if report.get(key) is not None)
    measured = report["latency_of"]
    return "\n".join(
        [
            f"{report['model']}: AP {100 * report['AP']:.1f} ({by_size})",
            f"latency {report['latency']:.2f} ms (quartiles {report['latency_iqr']:.2f} apart) on "
            f"{measured['device']}, {measured['precision']}, {measured['software']}",
            f"backbone {report['backbone_macs_mmdet'] / 1e9:.4g} G MAC, detector {report['macs_mmdet'] / 1e9:.4g} G, "
            f"{report['params'] / 1e6:.4g} M parameters",
            f"trained in {report['seconds']:.0f} s, this command {report['seconds_of_command']:.0f} s, "
            f"peak memory {report['peak_memory'] / 2**30:.2f} GiB",
            f"run: {report['run']}",
            f"detector: {report['file']}",
            f"next: {report['next']}",
        ]
    )


if __name__ == "__main__":
    run(main, TrainCommand)
