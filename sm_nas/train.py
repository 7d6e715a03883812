"""Train one detector end to end: python -m sm_nas.train --model E3 --scale nano --data scenes

Its backbone is trained on classification first where the strategy says so, unless that is there. The same command again
goes on from where it stopped.
"""

import math
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from common.cli import OneSeed, Switch, command, data_parts, metric, next_with, run, show, typed_command
from common.plain import InputError
from common.report.exhibit import printed, printed_table
from common.settings import COCO_CLASSES
from sm_nas import presets
from sm_nas.encoding import HEAD_NAMES, Structure
from sm_nas.method import Strategy
from sm_nas.presets import Preset

COCO_IMAGES = 118_287
"""Of train2017."""
ROWS = tuple(map(str, range(len(presets.PAPER.strategies))))
"""Of Table 3."""


@dataclass(frozen=True, kw_only=True)
class Options(OneSeed, presets.Options):
    """Train one detector by its scale's schedule, and write it to disk."""

    model: str = "E0"
    """E0 to E5, a classic such as 'FPN R50', or a structure: 'resnet50 96x96 P1-P5 c32 rpn cascade3'."""
    data: str | None = None
    """Detection set: scenes (built in), or auto:, coco:, voc:, yolo: or bdd:DIR; auto finds out which (default: scenes;
    COCO with --describe)."""
    strategy: Literal[("final", "from-scratch", *ROWS)] = "final"
    """Schedule: of what is reported (final), of stage two's candidates (from-scratch), or a row of Table 3."""
    validations: int = 5
    """Times that AP is measured during the training, for its curve in log.jsonl; 0 means never."""
    describe: Switch = False
    """Print structure, costs and schedule (of the paper's scale unless --scale is given), and train nothing."""


def main(options: Options) -> None:
    """Describe; or train, write, report."""
    preset = options.preset
    name, structure = find_model(options.model, preset)
    strategy = find_strategy(options.strategy, preset)
    if options.describe:
        plan = describe(name, structure, preset, strategy, *sizes_without_reading(preset, options.data))
        if options.data is not None and data_parts(options.data)[0] != "scenes":
            print(f"{options.data} is not read: {COCO_CLASSES} classes are assumed", file=sys.stderr)
        show(plan, options.json, plan_text)
        return

    from common import progress
    from common.train import distributed
    from sm_nas.study import SMNAS, slug

    options = replace(options, data=options.data or "scenes")
    study = SMNAS(options, options.seed, typed_command())
    plan = describe(name, structure, preset, strategy, len(study.categories), study.images_an_epoch)
    if distributed.rank() == 0:
        print(f"{plan_text(plan)}\nseed {options.seed}, device {study.device}", file=sys.stderr)
    began = time.perf_counter()
    what = f"{'row-' if options.strategy in ROWS else ''}{options.strategy}-{slug(name)}"
    pretraining = study.pretraining_work(structure.backbone) if strategy.pretrained else {}
    own = study.work(strategy.optimisation.epochs, structure.input_size)
    progress.plan(pretraining | {study.run_name(what): own})
    result = study.trained(what, structure, strategy)
    report = {
        "model": name,
        "data": options.data,
        "run": study.run_path(what),
        "file": distributed.by_first(lambda: study.write_detector(what, strategy)),
        "seconds_of_command": time.perf_counter() - began,
        "next": command("sm_nas.search", options, leave_out=("model", "strategy", "json")),
        **result,
    }
    if distributed.rank() == 0:
        show(report, options.json, _report_text)
    distributed.stop()


# ---- what to train


def find_model(text: str, preset: Preset) -> tuple[str, Structure]:
    """Name and structure of what --model says: a name that the scale knows, or a structure written out."""
    known = {_plain(name): (name, structure) for name, structure in (*preset.models, *preset.classics)}
    if _plain(text) in known:
        return known[_plain(text)]
    if not re.search(r"\s\d+x\d+\s", text):  # a structure has a size
        names = ", ".join(name for name, _ in known.values())
        raise InputError(
            f"no model is called {text!r}: give one of {names}, or a structure such as {str(preset.strategy_model)!r}"
        )
    structure = Structure.parse(" ".join(text.split()))
    same = [name for name, other in known.values() if other == structure]
    return (same or [str(structure)])[0], structure


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "-", name.strip().lower())


def find_strategy(name: str, preset: Preset) -> Strategy:
    """The strategy that --strategy says."""
    if name in ROWS:
        return preset.strategies[int(name)]
    return {"final": preset.final_training, "from-scratch": preset.stage_two_training}[name]


def sizes_without_reading(preset: Preset, data: str | None) -> tuple[int, int | None]:
    """Classes, and images of an epoch, as far as they are known without reading any data: the scenes' and COCO's."""
    if data is None:
        return COCO_CLASSES, preset.train_images or COCO_IMAGES - preset.search_images
    if data_parts(data)[0] != "scenes":
        return COCO_CLASSES, preset.train_images

    from common.data.scenes import CATEGORIES

    return len(CATEGORIES), preset.train_images


# ---- the plan


def describe(
    name: str, structure: Structure, preset: Preset, strategy: Strategy, categories: int, images: int | None
) -> dict[str, Any]:
    """A detector and its training. images: of an epoch; None means not known, and so are the steps.

    Costs are those of the network with batch norm, as it is used, for one image of `input_size`. "printed" holds what
    Table 2 says of the very same structure.
    """
    from sm_nas import networks

    whole = networks.describe(structure, categories, preset.detector)
    an_epoch = None if images is None else images // strategy.batch_size
    epochs = strategy.optimisation.epochs
    return {
        "paper": "sm_nas",
        "model": name,
        "scale": preset.name,
        "structure": str(structure),
        "modules": {**asdict(structure), "heads": HEAD_NAMES[structure.heads]},
        "input_size": structure.input_size,
        "categories": categories,
        "backbone": {
            "name": structure.backbone,
            **{key: whole[f"backbone_{key}"] for key in ("macs_mmdet", "macs", "params")},
            "out_channels": whole["backbone_channels"],
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


def _printed(name: str, structure: Structure) -> dict[str, Any] | None:
    """What Table 2 prints of one of the paper's own models: multiply-accumulates of the backbone, ms, AP in points."""
    if dict(presets.PAPER.models).get(name) != structure:
        return None
    table = printed_table(printed(Path(__file__).parent)["exhibits"], "table2")
    row = next(dict(zip(table.columns, row, strict=True)) for row in table.rows if row[0] == name)
    return {"backbone_flops": row["Backbone FLOPs"] * 1e9, "latency": row["Time"], "AP": row["mAP"], "of": "Table 2"}


def plan_text(plan: Mapping[str, Any]) -> str:
    """The plan for people."""
    backbone, detector, (width, height) = plan["backbone"], plan["detector"], plan["input_size"]
    theirs = f"; Table 2 prints {plan['printed']['backbone_flops'] / 1e9:g}G" if plan["printed"] else ""
    optimisation, steps = plan["strategy"]["optimisation"], plan["steps"]
    return "\n".join(
        [
            f"{plan['model']} at {plan['scale']} scale: {plan['structure']}",
            f"images of {width}x{height} pixels, {plan['categories']} classes",
            f"backbone {metric(backbone['macs_mmdet'])} MAC as mmdetection counts "
            f"({metric(backbone['macs'])} of products), {metric(backbone['params'])} parameters, channels "
            f"{backbone['out_channels']}{theirs}",
            f"detector {metric(detector['macs_mmdet'])} MAC ({metric(detector['macs'])} of products), "
            f"{metric(detector['params'])} parameters",
            f"norm {plan['norm']}, {'pre-trained backbone' if plan['strategy']['pretrained'] else 'from scratch'}; "
            f"{plan['epochs']} epochs of {plan['images_a_step']} images a step by {optimisation['optimiser']} at "
            f"{optimisation['learning_rate']:g}, {'steps unknown' if steps is None else f'{steps:,} steps'}",
        ]
    )


def _report_text(report: Mapping[str, Any]) -> str:
    sizes = zip(("small", "medium", "large"), ("APs", "APm", "APl"), strict=True)
    by_size = ", ".join(f"{name} {points(report[key])}" for name, key in sizes if report.get(key) is not None)
    measured = report["latency_of"]
    return "\n".join(
        [
            f"{report['model']}: AP {points(report['AP'])} ({by_size})",
            f"latency {report['latency']:.2f} ms (quartiles {report['latency_iqr']:.2f} apart) on "
            f"{measured['device']}, {measured['precision']}, {measured['software']}",
            f"backbone {metric(report['backbone_macs_mmdet'])} MAC, detector {metric(report['macs_mmdet'])}, "
            f"{metric(report['params'])} parameters",
            f"trained in {report['seconds']:.0f} s, this command {report['seconds_of_command']:.0f} s, "
            f"peak memory {report['peak_memory'] / 2**30:.2f} GiB",
            f"run: {report['run']}",
            f"detector: {report['file']}",
            f"next: {report['next']}",
            next_with(report["file"], report["data"]),
        ]
    )


def points(share: float | None) -> str:
    """AP for people: in points; "failed" where it was not measured, "-" for the -1 that COCO has where there is nothing
    to find."""
    if share is None or math.isnan(share):
        return "failed"
    return f"{100 * share:.1f}" if share >= 0 else "-"


if __name__ == "__main__":
    run(main, Options)
