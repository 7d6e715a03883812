"""Train what a search stands on: python -m joint_detnas.train --what base --scale nano --data scenes

The base detector, on a backbone that is trained on classification first; or the elastic teacher pool, by integrated
progressive shrinking. A search does both by itself. Or what comes behind a search, which is made first where it is not
there yet: the detector that it found with deformable convolutions and a cascade of heads, Table 6's X101-Cascade.
The same command again goes on from where it stopped.
"""

import json
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from common.cli import flags_given, run
from common.cost import count
from common.models.described import Architecture
from common.models.elastic_detector import plain_two_stage
from common.models.outline import outline
from common.plain import InputError, to_json
from common.settings import Precision
from common.train import distributed
from common.train.run_folder import describe_environment
from joint_detnas.baselines import with_cascade_and_deformable
from joint_detnas.method import both_stages, teacher_cost
from joint_detnas.presets import BACKBONES, PRESETS, Preset, Teacher, preset, size_name
from joint_detnas.search import COCO_CLASSES, describe
from joint_detnas.study import Study

What = Literal["base", "pool", "cascade"]


@dataclass(frozen=True)
class TrainCommand:
    """Train the base detector, the teacher pool, or a found detector with a cascade, by its scale's schedule."""

    what: What = "base"
    """The detector to be upgraded, the elastic teacher pool, or the found detector as deformable cascade."""
    scale: Literal[tuple(PRESETS)] | None = None
    """Size of everything: smoke, nano, mini or paper (none: smoke; paper with --describe)."""
    data: str = "scenes"
    """Detection set: scenes (built in), coco:DIR, voc:DIR or bdd:DIR."""
    backbone: str | None = None
    """Of the base detector: resnet18, resnet50, ..., mobilenet_v2 (none: the scale's own)."""
    seed: int = 0
    """Seed of weights and data order."""
    out: Path = Path("runs")
    """Folder of all runs; this one goes to OUT/joint_detnas/DATA-SCALE."""
    device: str | None = None
    """Where networks live: cpu, cuda or cuda:N (none: a GPU where there is one)."""
    precision: Precision = "float32"
    """Number format of training; bfloat16 is faster on GPUs and CPUs that compute with it."""
    teacher: str | None = None
    """Teacher that --describe counts the cost of: d3-4-23-3_w1.5-1.25-1-1.5_n1.5 (none: the largest)."""
    describe: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print what would be trained, its cost and schedule, and train nothing; no data are read."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object instead of text."""


def main(config: TrainCommand) -> None:
    """Describe; or train, write, report."""
    scale = preset(config.scale or ("paper" if config.describe else "smoke"))
    backbone = config.backbone or scale.backbone
    if backbone not in BACKBONES:
        raise InputError(f"no backbone is called {backbone!r}: give one of {', '.join(BACKBONES)}")
    if config.teacher is not None and not (config.describe and config.what == "pool"):
        raise InputError("--teacher is for --what pool --describe: a pool is always trained whole")
    if config.describe:
        plan = describe_training(scale, config.what, backbone, config.teacher)
        print(json.dumps(plan) if config.json else _plan_text(plan))
        return
    command = shlex.join(["python", "-m", "joint_detnas.train", *sys.argv[1:]])
    device = str(distributed.start(config.device))
    study = Study(
        scale, config.data, config.seed, config.out, device, command, config.precision, backbone=config.backbone
    )
    images = len(study.laboratory.training_set)  # whatever is wrong with the data is said before anything is made
    environment, speaks = describe_environment(), distributed.rank() == 0
    if speaks:
        print(f"commit {environment['git_commit']}, torch {environment['torch']}, device {device}", file=sys.stderr)
        print(f"{scale.name} scale on {images} images of {config.data}, seed {config.seed}", file=sys.stderr)
    began = time.perf_counter()
    result = {"base": lambda: study.base, "pool": lambda: study.pool, "cascade": study.cascade}[config.what]()
    name = "pool" if config.what == "pool" else f"{config.what}-{study.name}"
    report = {
        "paper": "joint_detnas",
        "what": config.what,
        "run": study.folder / f"{name}-s{study.seed}",
        "seconds_of_command": time.perf_counter() - began,
        "next": _next(config),
        **({"found": study.upgraded()} if config.what == "cascade" else {}),
        **result,
    }
    distributed.stop()
    if speaks:
        print(json.dumps(to_json(report)) if config.json else _report_text(report))


def _next(config: TrainCommand) -> str:
    """What to type after a training: the search; after a cascade, which stands on one, that of the next seed."""
    last = config.what == "cascade"
    words = ["python", "-m", *(("joint_detnas.train", "--what", "cascade") if last else ("joint_detnas.search",))]
    words += ["--scale", config.scale or "smoke", "--data", config.data]
    following = replace(config, seed=config.seed + last)
    return shlex.join([*words, *flags_given(following, "backbone", "seed", "out", "device", "precision")])


def describe_training(scale: Preset, what: What, backbone: str, teacher: str | None = None) -> dict[str, Any]:
    """What would be trained, as plain JSON; costs are those for COCO's classes at the base size.

    A cascade's are those of the base detector, before and after, for what a search finds is not known.
    """
    described = describe(scale, backbone)
    plan = {"paper": "joint_detnas", "scale": scale.name, "what": what, "sizes": described["sizes"]}
    if what == "base":
        plan |= {"student": described["student"], "training": asdict(scale.base_training)}
    elif what == "cascade":
        costs = _cascade_costs(scale, Architecture.from_dict(described["student"]["architecture"]))
        plan |= {"backbone": backbone, "cascade": asdict(scale.cascade), "training": asdict(scale.cascade.optimisation)}
        plan |= {"cost": {"at": size_name(scale.base_size), "categories": COCO_CLASSES, **costs}}
    else:
        space, detector = scale.teachers, scale.detector
        chosen = space.largest() if teacher is None else Teacher.parse(teacher)
        cost = teacher_cost(space, chosen, scale.base_size, COCO_CLASSES, *both_stages(detector))
        plan |= {"teachers": described["teachers"], "training": asdict(scale.shrinking), "teacher": str(chosen)}
        plan |= {"cost": {"at": size_name(scale.base_size), "categories": COCO_CLASSES, **asdict(cost)}}
    return to_json(plan | {"images_a_step": scale.batch_size})


def _cascade_costs(scale: Preset, architecture: Architecture) -> dict[str, dict[str, Any]]:
    """Of a detector with such a backbone, "before" and "after"."""
    settings = scale.detector
    with outline():
        before = plain_two_stage(architecture, settings.neck_width, COCO_CLASSES, *both_stages(settings))
    after = with_cascade_and_deformable(before, scale.cascade)
    return {name: asdict(count(each, scale.base_size)) for name, each in (("before", before), ("after", after))}


def _plan_text(plan: dict[str, Any]) -> str:
    training = plan["training"]
    if plan["what"] == "base":
        student = plan["student"]
        first = (
            f"base detector at {plan['scale']} scale: {student['backbone']}, "
            f"{student['cost']['backbone_macs_mmdet'] / 1e9:.4g} G MAC of backbone at {student['cost']['at']}"
        )
        schedule = f"{training['epochs']} epochs by {training['optimiser']} at {training['learning_rate']:g}"
    elif plan["what"] == "cascade":
        before, after = (
            f"{cost['macs_mmdet'] / 1e9:.4g} G MAC and {cost['params'] / 1e6:.4g} M parameters"
            for cost in (plan["cost"]["before"], plan["cost"]["after"])
        )
        heads = plan["cascade"]["heads"]
        first = (
            f"cascade at {plan['scale']} scale: the detector that a search found, with {heads} heads and deformable "
            f"convolutions\n{plan['backbone']} as it is would go from {before} to {after} at {plan['cost']['at']}"
        )
        schedule = f"{training['epochs']} epochs by {training['optimiser']} at {training['learning_rate']:g}"
    else:
        cost = plan["cost"]
        first = (
            f"teacher pool at {plan['scale']} scale: {plan['teachers']['size']:,} teachers; {plan['teacher']} has "
            f"{cost['macs_mmdet'] / 1e9:.4g} G MAC at {cost['at']}, {cost['params'] / 1e6:.4g} M parameters"
        )
        phases = ", ".join(f"{phase['name']} {phase['epochs']} epochs" for phase in training["phases"])
        schedule = f"{phases}; {training['networks_a_step']} sub-networks a step beside the largest"
    return f"{first}\nimages of {', '.join(plan['sizes'])} pixels, {plan['images_a_step']} a step; {schedule}"


def _report_text(report: dict[str, Any]) -> str:
    if report["what"] == "pool":
        lines = [f"teacher pool: {report['teachers']:,} teachers, phases {', '.join(report['phases'])}"]
    else:
        lines = [_detector_text("found detector", report["found"])] if report["what"] == "cascade" else []
        lines += [
            _detector_text("base detector" if report["what"] == "base" else "cascade", report),
            "AP by size: " + ", ".join(f"{name} {100 * ap:.1f}" for name, ap in report["AP_at"].items()),
            f"detector: {report['file']}",
        ]
    lines += [f"trained in {report['seconds']:.0f} s, this command {report['seconds_of_command']:.0f} s"]
    return "\n".join([*lines, f"run: {report['run']}", f"next: {report['next']}"])


def _detector_text(name: str, measured: Mapping[str, Any]) -> str:
    return (
        f"{name}: AP {100 * measured['AP']:.1f} at {size_name(measured['size'])}, "
        f"{measured['macs_mmdet'] / 1e9:.4g} G MAC, {measured['params'] / 1e6:.4g} M parameters, "
        f"latency {measured['latency']:.2f} ms"
    )


if __name__ == "__main__":
    run(main, TrainCommand)
