"""`python -m joint_detnas.reproduce`: every table and figure of the paper, by name, and a verdict on each claim.

How that goes is written in common/reproduce/command.py, the same for every paper. Here is what Joint-DetNAS adds: a
flag, the study, and how long its runs take. What belongs to an exhibit stands in joint_detnas/exhibits.py, the claims'
rules in joint_detnas/claims.py.
"""

from dataclasses import dataclass
from pathlib import Path

from common.cli import run
from common.data.source import short_name
from common.plain import InputError
from common.reproduce.command import reproduce
from common.reproduce.paper import Paper, ReproduceOptions
from common.train.laboratory import LATENCY_ROUNDS
from joint_detnas.claims import CLAIMS
from joint_detnas.exhibits import EXHIBITS, Setting
from joint_detnas.presets import BACKBONES, Preset, preset
from joint_detnas.study import Study

_SECONDS_PER_1000_IMAGES = {"smoke": 8.0, "nano": 8.0}  # training on one CPU core (2.5 GHz class), measured


@dataclass(frozen=True)
class Options(ReproduceOptions):
    """Train and draw Joint-DetNAS's tables and figures, and judge its claims."""

    workers: int = 0
    """Pairs of a search that are trained side by side, each in its own process (0: one by one)."""


def main(options: Options) -> None:
    if options.workers < 0:
        raise InputError(f"--workers {options.workers} is no number of processes: give 0 or more")
    reproduce(JOINT_DETNAS, options)


def make_study(options: Options, seed: int, command: str) -> Study:
    """The runs of one seed."""
    return Study(
        preset(options.scale),
        options.data,
        seed,
        options.out,
        options.device,
        command,
        options.precision,
        options.workers,
    )


def describe(study: Study) -> str:
    """Its data and its teachers, in a phrase."""
    sets, settings = study.laboratory.sets, study.preset
    return (
        f"{len(study.laboratory.training_set)} training, {len(sets['search'])} held-out and {len(sets['validation'])} "
        f"validation images; {settings.teachers.count():,} teachers, {settings.search.budget} pairs a search"
    )


def drawn_with(options: Options, folder: Path) -> Setting:
    """What exhibits are drawn with."""
    return Setting(folder, preset(options.scale), short_name(options.data))


def expected_seconds(what: str, scale: Preset) -> float | None:
    """Seconds of a run on one CPU core; None at scales that are not meant for one."""
    per_1000_images = _SECONDS_PER_1000_IMAGES.get(scale.name)
    return None if per_1000_images is None else images_trained(what, scale) / 1000 * per_1000_images


def images_trained(what: str, scale: Preset) -> float:
    """Images of a run by its preset: trained on, a network at a time, and a quarter of those only detected in."""
    kind, _, rest = what.partition("-")
    backbone = next((name for name in BACKBONES if rest.startswith(name.replace("_", "-"))), None)
    if backbone is not None and backbone not in _used(kind, scale):
        return 0.0
    if kind in ("alone", "sampled") and rest not in dict(scale.equivalents):
        return 0.0
    images, sizes = scale.train_images or 0, len(scale.sizes)
    reported = sizes * (scale.validation_images or 0) / 4
    pair = scale.pair_training.epochs * images + sizes * scale.search_images / 4
    if kind == "pool":
        networks = 1 + scale.shrinking.networks_a_step
        phases = scale.shrinking.phases
        return sum(phase.epochs * images * (1 if phase.steps_down == 0 else networks) for phase in phases)
    if kind == "search":
        settings = scale.teaching if rest.endswith(("fixed-student", "fixed-pair")) else scale.search
        return settings.budget * pair * (0.5 if rest.endswith("nas") else 1.0) + reported
    if kind == "cascade":
        return scale.cascade.optimisation.epochs * images + reported
    if kind == "pruned":
        return scale.pair_training.epochs * images + reported
    if kind == "sampled":
        return reported
    if kind == "latencies":
        return 2 * LATENCY_ROUNDS * scale.latency_images / 4
    if kind == "teachers":
        return (1 + scale.teaching.budget) * scale.search_images / 4
    return scale.base_training.epochs * images + reported


def _used(kind: str, scale: Preset) -> set[str]:
    """Backbones that a scale makes runs of a kind on."""
    own = {scale.backbone}
    return {
        "base": {*own, *scale.pruned_backbones, *scale.upgraded_backbones, *scale.taught_backbones},
        "search": {*scale.upgraded_backbones, *scale.taught_backbones},
        "latencies": {*scale.upgraded_backbones},
        "cascade": {*scale.cascaded_backbones},
        "pruned": {*scale.pruned_backbones},
        "distilled": {backbone for backbone, _ in scale.lessons},
        "teachers": {*scale.taught_backbones},
    }.get(kind, own)


JOINT_DETNAS = Paper(
    name="joint_detnas",
    title="Joint-DetNAS",
    exhibits=EXHIBITS,
    claims=CLAIMS,
    preset=preset,
    study=make_study,
    describe=describe,
    setting=drawn_with,
    seconds=expected_seconds,
)


if __name__ == "__main__":
    run(main, Options)
