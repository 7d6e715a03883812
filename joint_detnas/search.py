"""Upgrade a base detector, for one seed: python -m joint_detnas.search --scale nano --data coco:DIR

Algorithm 1: student morphism and dynamic distillation. The base detector and the elastic teacher pool are trained first
where they are not there yet; --base takes a detector of one's own. What is found is written as a detector that
`common.models.detector.load_detector` reads, and needs no further training. The same command again goes on from where
it stopped.
"""

import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.cli import OneSeed, Switch, command, metric, next_with, run, show, typed_command
from common.plain import InputError, to_json
from common.settings import COCO_CLASSES
from joint_detnas import presets
from joint_detnas.presets import KINDS, PRESETS, Control, Preset, TeacherSpace, check_backbone, size_name

if TYPE_CHECKING:
    from common.models.described import Architecture
    from joint_detnas.study import JointDetNASStudy

WHY_NOT_765_000 = (
    "264 depths times five elastic widths of three choices (four stages and the neck) make 64,152; with a sixth width "
    "and four resolutions there would be 769,824, the nearest to the printed number that was found"
)
COUNTED: dict[str, dict[str, Any]] = {
    scale: {
        "lowest": lowest,
        "highest": highest,
        "backbone": backbone,
        "actions": dict(zip(KINDS, (1, 1, added_layers, 6), strict=True)),
    }
    for scale, lowest, highest, backbone, added_layers in (
        ("smoke", 5_779_535, 13_105_359, 3_449_344, 9),
        ("nano", 126_623_019, 355_785_723, 52_479_360, 9),
        ("photo", 779_483_732, 2_359_585_364, 373_186_560, 9),
        ("mini", 51_955_723_580, 164_681_493_820, 20_178_493_440, 16),
        ("paper", 178_228_913_305, 648_581_847_449, 167_906_009_600, 33),
    )
}
"""What `count_space` gives for the scales as they are, so that --describe answers at once."""


@dataclass(frozen=True, kw_only=True)
class Options(OneSeed, presets.Options):
    """Upgrade a base detector, and write what was found to disk."""

    base: Path | None = None
    """Detector to upgrade: what `train` or `search` of this paper wrote (any two-stage detector on a pyramid, on a
    ResNet, ResNeXt or MobileNetV2), or torchvision's fasterrcnn_resnet50_fpn of COCO, .pth or .safetensors (default:
    one is trained on --backbone)."""
    backbone: str | None = None
    """Backbone of the base detector that is trained: resnet18, ..., mobilenet_v2 (default: the scale's own)."""
    control: Control = "none"
    """Algorithm 1 (none); parents drawn from the latest pairs (random); the largest teacher always (conventional); no
    teacher and no channel pruning (nas); the teacher alone changes (fixed-student), or nothing does (fixed-pair)."""
    pairs: int | None = None
    """Pairs of student and teacher that are trained, half as many for the control nas (default: the scale's number)."""
    describe: Switch = False
    """Print teachers, actions and sizes (of the paper's scale unless --scale is given) and search nothing."""


def main(options: Options) -> None:
    """Describe; or search, write, report."""
    check_backbone(options.backbone)
    if options.describe:
        show(describe(options.preset, options.backbone or options.preset.backbone), options.json, _description_text)
        return
    if options.pairs is not None and options.pairs < 1:
        raise InputError(f"--pairs must be at least 1, got {options.pairs}")
    if options.base is not None and options.backbone is not None:
        raise InputError(f"--base {options.base} brings its own backbone: give --base or --backbone, not both")

    from common import progress
    from joint_detnas.study import JointDetNASStudy

    study = JointDetNASStudy(options, options.seed, typed_command(), options.base, options.backbone, options.pairs)
    if study.searching(options.control).search.budget < 1:
        asked = "these settings" if options.pairs is None else f"--pairs {options.pairs}"
        least = 2 if options.control == "nas" else 1  # it trains half as many
        raise InputError(f"--control {options.control} has no pair to train with {asked}: give --pairs {least} or more")
    images, base = len(study.training_set), study.name  # says what is wrong with data or base before anything is made
    print(
        f"{study.preset.name} scale on {images} images of {study.data}, seed {study.seed}, into {study.folder}, on "
        f"{study.device}: base {base}, {study.preset.teachers.count():,} teachers, "
        f"{study.searching(options.control).search.budget} pairs",
        file=sys.stderr,
    )
    began = time.perf_counter()
    progress.plan(stages(study, options.control))
    report = search(study, options.control)
    following = replace(options, control="random" if options.control == "none" else "none")
    report |= {"seconds": time.perf_counter() - began}
    report |= {"next": command("joint_detnas.search", following, leave_out=("json",))}
    show(report, options.json, _report_text)


# ---- searching


def stages(study: "JointDetNASStudy", control: Control | None) -> dict[str, float]:
    """Runs that a search goes through -> work, see `Study.work`; control: None means those of the base detector."""
    preset, work = study.preset, {}
    if study.given is None:
        work = study.pretraining_work(study.base_backbone)
    work[study.run_name(f"base-{study.name}")] = (
        0.0 if study.given else study.work(preset.base_training.epochs, *preset.sizes)
    )
    if control is None:
        return work
    settings = study.searching(control).search
    taught = settings.teacher != "none"
    epochs = (1 + taught) * settings.budget * preset.pair_training.epochs
    return {
        **work,
        **(pool_stages(study) if taught else {}),
        study.run_name(study.named("search", control)): study.work(epochs, *preset.sizes),
        study.run_name(study.named("latencies", control)): 0.0,
    }


def pool_stages(study: "JointDetNASStudy") -> dict[str, float]:
    """The same of the teacher pool."""
    from joint_detnas.study import POOL

    preset, shrinking = study.preset, study.preset.shrinking
    epochs = sum(phase.epochs for phase in shrinking.phases) * (1 + shrinking.networks_a_step)
    return study.pretraining_work(POOL) | {study.run_name("pool"): study.work(epochs, *preset.sizes)}


_TIMED = ("latency", "latency_iqr", "latency_of")


def search(study: "JointDetNASStudy", control: Control = "none") -> dict[str, Any]:
    """Everything that a search found.

    "base" and "result" say the same of the base detector and of the upgraded one: AP on the validation images at its
    size, latency (both timed in turn), costs, "file", and "seconds" of training (of all pairs for the result; of the
    pool beside it). "steps" is the search, pair by pair.
    """
    searched, timed = study.search(control), study.latencies(control)
    in_turn = {name: {key: timed[name][key] for key in _TIMED} for name in ("base", "upgraded")}
    base, result = study.base() | in_turn["base"], study.upgraded(control) | in_turn["upgraded"]
    return {
        "paper": "joint_detnas",
        "scale": study.preset.name,
        "data": study.data,
        "seed": study.seed,
        "control": control,
        "folder": study.run_path(study.named("search", control)),
        "base": base,
        "result": result,
        "pool": None if study.searching(control).search.teacher == "none" else study.pool(),
        "pairs": len(searched["steps"]) - 1,
        "failed": sum(step["score"] is None for step in searched["steps"]),
        "base_score": searched["steps"][0]["score"],
        "steps": searched["steps"],
    }


def _report_text(report: Mapping[str, Any]) -> str:
    base, result, pool = report["base"], report["result"], report["pool"]
    measured = result["latency_of"]
    rows = [
        ("AP", *(f"{100 * each['AP']:.1f}" for each in (base, result))),
        ("input size", *(size_name(each["size"]) for each in (base, result))),
        ("MAC (mmdet)", *(metric(each["macs_mmdet"]) for each in (base, result))),
        ("backbone MAC", *(metric(each["backbone_macs_mmdet"]) for each in (base, result))),
        ("parameters", *(metric(each["params"]) for each in (base, result))),
        ("latency ms", *(f"{each['latency']:.2f}" for each in (base, result))),
        ("training s", *("-" if each["seconds"] is None else f"{each['seconds']:.0f}" for each in (base, result))),
    ]
    actions = Counter(step["kind"] for step in report["steps"][1:])
    return "\n".join(
        [
            f"{'':<16}{'base':>12}{'upgraded':>12}",
            *(f"{name:<16}{one:>12}{other:>12}" for name, one, other in rows),
            *(
                [f"the base's AP with batch-norm statistics re-estimated, as in the search: {100 * settled:.1f}"]
                if (settled := base.get("settled_AP")) is not None
                else []
            ),
            f"score {report['base_score']:.4f} to {result['score']:.4f}: pair {result['pair']} of {report['pairs']}"
            f" ({report['failed']} failed), taught by {result['teacher']}",
            "steps: " + ", ".join(f"{count} {kind}" for kind, count in sorted(actions.items())),
            *([f"teacher pool: {pool['seconds']:.0f} s of training, {pool['teachers']:,} teachers"] if pool else []),
            f"latency on {measured['device']}, {measured['precision']}, {measured['software']}",
            f"{report['seconds']:.0f} s, run: {report['folder']}",
            f"base detector: {base['file']}",
            f"upgraded detector: {result['file']}",
            f"next: {report['next']}",
            next_with(report["result"]["file"], report["data"]),
        ]
    )


# ---- the search space


def describe(preset: Preset, backbone: str) -> dict[str, Any]:
    """What a scale's search chooses from: teachers, actions on the base's backbone, sizes; costs are of COCO's classes
    at the base size.
    """
    space, size = preset.teachers, size_name(preset.base_size)
    as_published = PRESETS.get(preset.name) == preset and backbone == preset.backbone
    counted = COUNTED[preset.name] if as_published else count_space(preset, backbone)
    return to_json(
        {
            "paper": "joint_detnas",
            "scale": preset.name,
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
                    "lowest": counted["lowest"],
                    "highest": counted["highest"],
                    "unit": "MAC",
                    "of": f"whole teachers of {COCO_CLASSES} classes at {size} pixels",
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
                "cost": {"backbone_macs_mmdet": counted["backbone"], "at": size},
                "actions": counted["actions"],
                "settings": asdict(preset.search.morphism),
            },
            "sizes": [size_name(each) for each in preset.sizes],
            "search": asdict(preset.search),
        }
    )


def count_space(preset: Preset, backbone: str) -> dict[str, Any]:
    """Multiply-accumulates of the smallest ("lowest") and the largest teacher ("highest") and of the base detector's
    backbone, and how many actions of each kind are legal on that.
    """
    from joint_detnas.method import backbone_cost, both_stages, legal_actions, teacher_cost

    space, stages = preset.teachers, both_stages(preset.detector)
    lowest, highest = (
        teacher_cost(space, teacher, preset.base_size, COCO_CLASSES, *stages).macs_mmdet
        for teacher in (space.smallest(), space.largest())
    )
    student = standard_student(preset, backbone)
    legal = Counter(action.kind for action in legal_actions(student, preset.search.morphism))
    return {
        "lowest": lowest,
        "highest": highest,
        "backbone": backbone_cost(student, preset.base_size).macs_mmdet,
        "actions": {kind: legal[kind] for kind in KINDS},
    }


def standard_student(preset: Preset, backbone: str) -> "Architecture":
    """A standard backbone of a scale's width, described."""
    from common.models.described import Architecture
    from common.study import STANDARD_WIDTH

    width = preset.detector.width
    return Architecture.standard(backbone, width / STANDARD_WIDTH if backbone == "mobilenet_v2" else width)


def _description_text(description: Mapping[str, Any]) -> str:
    teachers, student = description["teachers"], description["student"]
    printed, cost = teachers["printed"], teachers["cost"]
    actions = ", ".join(f"{count} {kind}" for kind, count in student["actions"].items())
    return "\n".join(
        [
            f"teachers at {description['scale']} scale: {teachers['size']:,} (printed: {printed['size']})",
            f"  at paper scale {printed['size_at_paper_scale']:,}: {printed['why_another']}",
            f"  {metric(cost['lowest'])} to {metric(cost['highest'])} MAC ({cost['of']})",
            f"  written {teachers['encoding']['form']}: {teachers['encoding']['meaning']}",
            f"  smallest {teachers['encoding']['smallest']}, largest {teachers['encoding']['example']}",
            f"student: {student['backbone']}, {metric(student['cost']['backbone_macs_mmdet'])} MAC of backbone at "
            f"{student['cost']['at']}; actions on it: {actions}",
            f"input sizes: {', '.join(description['sizes'])}; {description['search']['budget']} pairs are trained",
        ]
    )


if __name__ == "__main__":
    run(main, Options)
