"""Upgrade a base detector, for one seed: python -m joint_detnas.search --scale nano --data coco:DIR

Algorithm 1: student morphism and dynamic distillation. The base detector and the elastic teacher pool are trained first
where they are not there yet; --base takes a detector of one's own. What is found is written as a detector that
`common.models.detector.load_detector` reads, and needs no further training. The same command goes on from where it
stopped.
"""

import json
import shlex
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from common.cli import flags_given, run
from common.models.described import Architecture
from common.plain import InputError, to_json
from common.settings import Precision
from common.train import distributed
from common.train.run_folder import describe_environment
from joint_detnas.method import backbone_cost, both_stages, legal_actions, teacher_cost
from joint_detnas.presets import BACKBONES, KINDS, PRESETS, Preset, TeacherSpace, preset, size_name
from joint_detnas.study import Control, Study, steps

COCO_CLASSES = 80
WHY_NOT_765_000 = (
    "264 depths times five elastic widths of three choices (four stages and the neck) make 64,152; with a sixth width "
    "and four resolutions there would be 769,824, the nearest to the printed number that was found"
)


@dataclass(frozen=True)
class SearchCommand:
    """Upgrade a base detector, and write what was found to disk."""

    scale: Literal[tuple(PRESETS)] | None = None
    """Size of everything: smoke, nano, mini or paper (none: smoke; paper with --describe)."""
    data: str = "scenes"
    """Detection set: scenes (built in), coco:DIR, voc:DIR or bdd:DIR."""
    base: Path | None = None
    """Detector to upgrade: a file that this project wrote, or torchvision's fasterrcnn_resnet50_fpn of COCO, .pth or
    .safetensors (none: one is trained on --backbone)."""
    backbone: str | None = None
    """Of the base detector that is trained: resnet18, ..., mobilenet_v2 (none: the scale's own)."""
    control: Control = "none"
    """Algorithm 1 (none); parents drawn from all pairs (random); the largest teacher always (conventional); no teacher
    and no channel pruning (nas); the teacher alone changes (fixed-student), or nothing does (fixed-pair)."""
    pairs: int | None = None
    """Pairs of student and teacher that are trained, of the control nas half as many (none: the scale's number)."""
    seed: int = 0
    """Seed of weights, data order and search."""
    out: Path = Path("runs")
    """Folder of all runs; these go to OUT/joint_detnas/DATA-SCALE."""
    device: str | None = None
    """Where networks live: cpu, cuda or cuda:N (none: a GPU where there is one)."""
    precision: Precision = "float32"
    """Number format of training; bfloat16 is faster on GPUs and CPUs that compute with it."""
    workers: int = 0
    """Pairs trained side by side, each in a process of its own (0: one by one in this process)."""
    describe: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print teachers, actions and sizes (counts, costs, encoding) and search nothing; no data are read."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object instead of text."""


def main(config: SearchCommand) -> None:
    """Describe; or search, write, report."""
    scale = preset(config.scale or ("paper" if config.describe else "smoke"))
    if config.backbone is not None and config.backbone not in BACKBONES:
        raise InputError(f"no backbone is called {config.backbone!r}: give one of {', '.join(BACKBONES)}")
    if config.describe:
        description = describe(scale, config.backbone or scale.backbone)
        print(json.dumps(description) if config.json else _description_text(description))
        return
    if config.workers < 0:
        raise InputError(f"--workers {config.workers} is no number of processes: give 0 or more")
    if config.pairs is not None and config.pairs < 1:
        raise InputError(f"--pairs {config.pairs} leaves nothing to search: give 1 or more")
    if config.base is not None and config.backbone is not None:
        raise InputError("--base brings its own backbone: give it or --backbone, not both")
    if config.pairs is not None:
        search_settings, teaching = (replace(each, budget=config.pairs) for each in (scale.search, scale.teaching))
        scale = replace(scale, search=search_settings, teaching=teaching)
    command = shlex.join(["python", "-m", "joint_detnas.search", *sys.argv[1:]])
    device = str(distributed.start(config.device))
    study = Study(
        scale,
        config.data,
        config.seed,
        config.out,
        device,
        command,
        config.precision,
        config.workers,
        config.base,
        config.backbone,
    )
    images = len(study.laboratory.training_set)  # whatever is wrong with the data is said before anything is made
    _ = study.name  # and with the base
    environment = describe_environment()
    print(f"commit {environment['git_commit']}, torch {environment['torch']}, device {device}", file=sys.stderr)
    print(
        f"{scale.name} scale on {images} images of {config.data}, seed {config.seed}, into {study.folder}: "
        f"base {study.name}, {scale.teachers.count():,} teachers, {study.settings(config.control).budget} pairs",
        file=sys.stderr,
    )
    began = time.perf_counter()
    report = search(study, config.control)
    report |= {"seconds": time.perf_counter() - began, "next": _next(config)}
    print(json.dumps(report) if config.json else _report_text(report))


# ---- searching


def search(study: Study, control: Control = "none") -> dict[str, Any]:
    """Everything that a search found, as plain JSON.

    "base" and "result" say the same of the base detector and of the upgraded one: AP on the validation images at its
    size, latency (both timed in turn), costs, "file", and "seconds" of training (of all pairs for the result; of the
    pool beside it).
    "steps" is the search, pair by pair.
    """
    searched = study.search(control)
    history, timed = searched.history, study.latencies(control)
    return to_json(
        {
            "paper": "joint_detnas",
            "scale": study.preset.name,
            "data": study.data,
            "seed": study.seed,
            "control": control,
            "folder": searched.folder,
            "base": study.base | _latency(timed["base"]),
            "result": study.upgraded(control) | _latency(timed["upgraded"]),
            "pool": study.pool,
            "pairs": len(history.pairs) - 1,
            "failed": sum(each.student is None for each in history.pairs),
            "base_score": history.base.score,
            "steps": steps(history),
        }
    )


def _latency(timed: Mapping[str, Any]) -> dict[str, Any]:
    return {name: timed[name] for name in ("latency", "latency_of")}


def _next(config: SearchCommand) -> str:
    """What to type after the search: its control, or the search of which it was one."""
    words = ["python", "-m", "joint_detnas.search", "--scale", config.scale or "smoke", "--data", config.data]
    words += flags_given(config, "base", "backbone", "pairs", "seed", "out", "device", "precision", "workers")
    words += ["--control", "random"] if config.control == "none" else []
    return shlex.join(words)


# ---- the report


def _report_text(report: dict[str, Any]) -> str:
    base, result = report["base"], report["result"]
    measured = result["latency_of"]
    rows = [
        ("AP", *(f"{100 * each['AP']:.1f}" for each in (base, result))),
        ("input size", *(size_name(each["size"]) for each in (base, result))),
        ("G MAC", *(f"{each['macs_mmdet'] / 1e9:.4g}" for each in (base, result))),
        ("backbone G MAC", *(f"{each['backbone_macs_mmdet'] / 1e9:.4g}" for each in (base, result))),
        ("M parameters", *(f"{each['params'] / 1e6:.4g}" for each in (base, result))),
        ("latency ms", *(f"{each['latency']:.2f}" for each in (base, result))),
        ("training s", *("-" if each["seconds"] is None else f"{each['seconds']:.0f}" for each in (base, result))),
    ]
    actions = Counter(step["kind"] for step in report["steps"][1:])
    return "\n".join(
        [
            f"{'':<16}{'base':>12}{'upgraded':>12}",
            *(f"{name:<16}{one:>12}{other:>12}" for name, one, other in rows),
            f"score {report['base_score']:.4f} to {result['score']:.4f}: pair {result['pair']} of {report['pairs']}"
            f" ({report['failed']} failed), taught by {result['teacher']}",
            "steps: " + ", ".join(f"{count} {kind}" for kind, count in sorted(actions.items())),
            f"teacher pool: {report['pool']['seconds']:.0f} s of training, {report['pool']['teachers']:,} teachers",
            f"latency on {measured['device']}, {measured['precision']}, {measured['software']}",
            f"{report['seconds']:.0f} s, run: {report['folder']}",
            f"base detector: {base['file']}",
            f"upgraded detector: {result['file']}",
            f"next: {report['next']}",
        ]
    )


# ---- the search space


def describe(scale: Preset, backbone: str) -> dict[str, Any]:
    """What a scale's search chooses from, as plain JSON: teachers, actions on the base's backbone, sizes."""
    space, detector, size = scale.teachers, scale.detector, scale.base_size
    width = detector.width / 64 if backbone == "mobilenet_v2" else detector.width
    student = Architecture.standard(backbone, width)
    legal = Counter(action.kind for action in legal_actions(student, scale.search.morphism))
    costs = [
        teacher_cost(space, each, size, COCO_CLASSES, *both_stages(detector))
        for each in (space.smallest(), space.largest())
    ]
    return to_json(
        {
            "paper": "joint_detnas",
            "scale": scale.name,
            "teachers": {
                "space": asdict(space),
                "size": space.count(),
                "printed": {
                    "size": "roughly 765,000, image resolutions included",
                    "where": "section 3.1.3",
                    "size_at_paper_scale": TeacherSpace().count(),
                    "why_another": WHY_NOT_765_000,
                },
                "cost": {
                    "lowest": costs[0].macs_mmdet,
                    "highest": costs[1].macs_mmdet,
                    "unit": "MAC",
                    "of": f"whole teachers of {COCO_CLASSES} classes at {size_name(size)} pixels",
                },
                "encoding": {
                    "form": "dDEPTHS_wWIDTHS_nNECK",
                    "meaning": "blocks of four stages; multipliers of their standard widths; multiplier of the neck's",
                    "smallest": str(space.smallest()),
                    "example": str(space.largest()),
                },
            },
            "student": {
                "backbone": backbone,
                "architecture": student.to_dict(),
                "cost": {"backbone_macs_mmdet": backbone_cost(student, size).macs_mmdet, "at": size_name(size)},
                "actions": {kind: legal[kind] for kind in KINDS},
                "settings": asdict(scale.search.morphism),
            },
            "sizes": [size_name(each) for each in scale.sizes],
            "search": asdict(scale.search),
        }
    )


def _description_text(description: dict[str, Any]) -> str:
    teachers, student = description["teachers"], description["student"]
    printed, cost = teachers["printed"], teachers["cost"]
    actions = ", ".join(f"{count} {kind}" for kind, count in student["actions"].items())
    return "\n".join(
        [
            f"teachers at {description['scale']} scale: {teachers['size']:,} (printed: {printed['size']})",
            f"  at paper scale {printed['size_at_paper_scale']:,}: {printed['why_another']}",
            f"  {cost['lowest'] / 1e9:.4g} to {cost['highest'] / 1e9:.4g} G MAC ({cost['of']})",
            f"  written {teachers['encoding']['form']}: {teachers['encoding']['meaning']}",
            f"  smallest {teachers['encoding']['smallest']}, largest {teachers['encoding']['example']}",
            f"student: {student['backbone']}, {student['cost']['backbone_macs_mmdet'] / 1e9:.4g} G MAC of backbone at "
            f"{student['cost']['at']}; actions on it: {actions}",
            f"input sizes: {', '.join(description['sizes'])}; {description['search']['budget']} pairs are trained",
        ]
    )


if __name__ == "__main__":
    run(main, SearchCommand)
