"""Train what a search builds on: python -m joint_detnas.train --what base --scale nano --data scenes

The base detector, on a backbone that is trained on classification first; or the elastic teacher pool, by integrated
progressive shrinking. A search does both by itself. Or what comes after a search, which is made first where it is not
there yet: the detector that it found with deformable convolutions and a cascade of heads, Table 6's X101-Cascade.
The same command again goes on from where it stopped.
"""

import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from common.cli import OneSeed, Switch, command, metric, next_with, run, show, typed_command
from common.plain import InputError, to_json
from common.settings import COCO_CLASSES
from joint_detnas import presets, search
from joint_detnas.presets import Preset, Teacher, check_backbone, size_name


@dataclass(frozen=True, kw_only=True)
class Options(OneSeed, presets.Options):
    """Train the base detector, the teacher pool, or a found detector with a cascade, by its scale's schedule."""

    what: Literal["base", "pool", "cascade"] = "base"
    """The detector to be upgraded, the elastic teacher pool, or the found detector as deformable cascade."""
    backbone: str | None = None
    """Backbone of the base detector: resnet18, resnet50, ..., mobilenet_v2 (default: the scale's own)."""
    validations: int = 5
    """Times that the base detector's AP is measured during its training, for its curve in log.jsonl; 0 means never."""
    teacher: str | None = None
    """Teacher whose cost --describe counts: d3-4-23-3_w1.5-1.25-1-1.5_n1.5 (default: the largest)."""
    describe: Switch = False
    """Print what would be trained, its cost and schedule (of the paper's scale unless --scale is given)."""


def main(options: Options) -> None:
    """Describe; or train, write, report."""
    check_backbone(options.backbone)
    if options.teacher is not None and not (options.describe and options.what == "pool"):
        raise InputError("--teacher is for --what pool --describe: a pool is always trained whole")
    if options.describe:
        show(describe(options), options.json, _plan_text)
        return

    from common import progress
    from common.train import distributed
    from joint_detnas.study import JointDetNASStudy

    study = JointDetNASStudy(options, options.seed, typed_command(), backbone=options.backbone)
    images = len(study.training_set)  # says what is wrong with the data before anything is made
    if distributed.rank() == 0:
        print(
            f"{study.preset.name} scale on {images} images of {study.data}, seed {study.seed}, on {study.device}",
            file=sys.stderr,
        )
    began = time.perf_counter()
    if options.what == "pool":
        progress.plan(search.pool_stages(study))
    else:
        planned = search.stages(study, None if options.what == "base" else "none")
        planned.pop(study.run_name(study.named("latencies")), None)
        if options.what == "cascade":
            epochs = 2 * study.preset.cascade.optimisation.epochs
            planned[study.run_name(study.named("cascade"))] = study.work(epochs, *study.preset.sizes)
        progress.plan(planned)
    result = {"base": study.base, "pool": study.pool, "cascade": study.cascade}[options.what]()
    report = {
        "paper": "joint_detnas",
        "what": options.what,
        "data": options.data,
        "run": study.run_path("pool" if options.what == "pool" else f"{options.what}-{study.name}"),
        "seconds_of_command": time.perf_counter() - began,
        "next": _next(options),
        **({"found": study.upgraded()} if options.what == "cascade" else {}),
        **result,
    }
    if distributed.rank() == 0:
        show(report, options.json, _report_text)
    distributed.stop()


def _next(options: Options) -> str:
    """What to type after a training: the search; after a cascade, which builds on one, that of the next seed."""
    if options.what == "cascade":
        return command("joint_detnas.train", replace(options, seed=options.seed + 1), leave_out=("json",))
    return command("joint_detnas.search", options, leave_out=("what", "teacher", "json"))


# ---- the plan


def describe(options: Options) -> dict[str, Any]:
    """What would be trained; costs are those for COCO's classes at the base size.

    A cascade's are those of the base detector, before and after, for what a search finds is not known.
    """
    preset, backbone = options.preset, options.backbone or options.preset.backbone
    described = search.describe(preset, backbone)
    plan = {"paper": "joint_detnas", "scale": preset.name, "what": options.what, "sizes": described["sizes"]}
    at = {"at": size_name(preset.base_size), "categories": COCO_CLASSES}
    if options.what == "base":
        plan |= {"student": described["student"], "training": asdict(preset.base_training)}
    elif options.what == "cascade":
        plan |= {"backbone": backbone, "cascade": asdict(preset.cascade), "cost": at | cascade_costs(preset, backbone)}
        plan |= {"training": asdict(preset.cascade.optimisation)}
    else:
        from joint_detnas.method import both_stages, teacher_cost

        space = preset.teachers
        teacher = space.largest() if options.teacher is None else Teacher.parse(options.teacher)
        cost = teacher_cost(space, teacher, preset.base_size, COCO_CLASSES, *both_stages(preset.detector))
        plan |= {"teachers": described["teachers"], "teacher": str(teacher), "cost": at | asdict(cost)}
        plan |= {"training": asdict(preset.shrinking)}
    return to_json(plan | {"images_a_step": preset.batch_size})


def cascade_costs(preset: Preset, backbone: str) -> dict[str, dict[str, Any]]:
    """Of a detector with a standard backbone, "before" and "after" it became a deformable cascade."""
    from common.cost import count
    from common.models.elastic_detector import plain_two_stage
    from common.models.outline import outline
    from joint_detnas.baselines import with_cascade_and_deformable
    from joint_detnas.method import both_stages

    student = search.standard_student(preset, backbone)
    with outline():
        before = plain_two_stage(student, preset.detector.neck_width, COCO_CLASSES, *both_stages(preset.detector))
    after = with_cascade_and_deformable(before, preset.cascade)
    return {name: asdict(count(each, preset.base_size)) for name, each in (("before", before), ("after", after))}


def _plan_text(plan: Mapping[str, Any]) -> str:
    training, scale = plan["training"], f"at {plan['scale']} scale"
    if plan["what"] == "pool":
        first = (
            f"teacher pool {scale}: {plan['teachers']['size']:,} teachers; {plan['teacher']} has "
            f"{_cost_text(plan['cost'])} at {plan['cost']['at']}"
        )
        phases = ", ".join(f"{phase['name']} {phase['epochs']} epochs" for phase in training["phases"])
        schedule = f"{phases}; {training['networks_a_step']} sub-networks a step beside the largest"
    else:
        schedule = f"{training['epochs']} epochs by {training['optimiser']} at {training['learning_rate']:g}"
    if plan["what"] == "base":
        backbone, cost = plan["student"]["backbone"], plan["student"]["cost"]
        macs = f"{metric(cost['backbone_macs_mmdet'])} MAC"
        first = f"base detector {scale}: {backbone}, {macs} of backbone at {cost['at']}"
    elif plan["what"] == "cascade":
        before, after = (_cost_text(plan["cost"][when]) for when in ("before", "after"))
        first = (
            f"cascade {scale}: the detector that a search found, with {plan['cascade']['heads']} heads and deformable "
            f"convolutions\n{plan['backbone']} as it is would go from {before} to {after} at {plan['cost']['at']}"
        )
    return f"{first}\nimages of {', '.join(plan['sizes'])} pixels, {plan['images_a_step']} a step; {schedule}"


def _cost_text(cost: Mapping[str, Any]) -> str:
    return f"{metric(cost['macs_mmdet'])} MAC and {metric(cost['params'])} parameters"


def _report_text(report: Mapping[str, Any]) -> str:
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
    lines += [f"run: {report['run']}", f"next: {report['next']}"]
    return "\n".join([*lines, *([next_with(report["file"], report["data"])] if "file" in report else [])])


def _detector_text(name: str, measured: Mapping[str, Any]) -> str:
    return (
        f"{name}: AP {100 * measured['AP']:.1f} at {size_name(measured['size'])}, {_cost_text(measured)}, "
        f"latency {measured['latency']:.2f} ms"
    )


if __name__ == "__main__":
    run(main, Options)
