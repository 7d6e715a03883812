"""`python -m detofa.reproduce`: every table and figure of the paper, by name, and a verdict on each of its claims.

How that goes is written in common/reproduce/command.py, the same for every paper. Here is what DetOFA adds: a flag, the
study, and how long its runs take. What belongs to an exhibit stands in detofa/exhibits.py, the claims' rules in
detofa/claims.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from common.cli import run
from common.reproduce.command import reproduce
from common.reproduce.paper import Paper, ReproduceOptions
from detofa.claims import CLAIMS
from detofa.exhibits import EXHIBITS, LABELS, Setting
from detofa.presets import Preset, preset
from detofa.study import VARIANTS, Study, Variant

_SECONDS_PER_1000_IMAGES = {"smoke": 12.0, "nano": 6.0}  # training on one CPU core (2.5 GHz class), measured


@dataclass(frozen=True)
class Options(ReproduceOptions):
    """Train and draw DetOFA's tables and figures, and judge its claims."""

    constraint: Literal["macs", "params", "latency"] = "macs"
    """What a path costs (MACs or parameters of the backbone, or milliseconds on the device)."""


def main(options: Options) -> None:
    reproduce(DETOFA, options)


def make_study(options: Options, seed: int, command: str) -> Study:
    """The runs of one seed."""
    return Study(
        preset(options.scale),
        options.data,
        seed,
        options.out,
        options.device,
        options.constraint,
        command,
        options.precision,
    )


def describe(study: Study) -> str:
    """Its data and its supernet, in a phrase."""
    parameters = sum(parameter.numel() for parameter in study.detector().parameters())
    constraint = study.constraint
    return (
        f"{len(study.training_set)} training and {len(study.validation_set)} validation images; supernet "
        f"{parameters:,} parameters, paths of {constraint.lowest:.4g} to {constraint.highest:.4g} {constraint.unit}"
    )


def drawn_with(options: Options, folder: Path) -> Setting:
    """What exhibits are drawn with."""
    return Setting(folder, preset(options.scale), options.constraint)


def same_buckets(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Of sampled paths, buckets that a space leaves empty in some seed are dropped for all methods alike.

    values: of all seeds, those named sampled:... (seeds, buckets) with NaN for an empty bucket.
    """
    sampled = [name for name in values if name.startswith("sampled:")]
    if not sampled:
        return dict(values)
    filled = np.isfinite(np.stack([values[name] for name in sampled])).all(axis=(0, 1))
    return {**values, **{name: values[name][:, filled] for name in sampled}}


def expected_seconds(what: str, scale: Preset) -> float | None:
    """Seconds of a run on one CPU core; None at scales that are not meant for one."""
    per_1000_images = _SECONDS_PER_1000_IMAGES.get(scale.name)
    return None if per_1000_images is None else images_trained(what, scale) / 1000 * per_1000_images


def images_trained(what: str, scale: Preset) -> float:
    """Images of a run by its preset: trained on, and a third of those only forwarded."""
    train, buckets = scale.train_images or 0, 5
    proxy = (scale.proxy_calibration_images + scale.proxy_images) / 3
    if what == "classification":
        share = (scale.crop_size / scale.image_size) ** 2
        crops = 2 * scale.classification.epochs * 2.4 * (scale.crops or 0)  # small images use a core less well
        forwarded = scale.pretraining_paths * buckets * (scale.proxy_calibration_images + (scale.crops or 0) / 10) / 3
        return share * (crops + forwarded)
    if what == "warm-up":
        return scale.warm_up.epochs * train + scale.fine_tuning_paths * buckets * proxy
    if what not in VARIANTS:
        return 0.3 * train  # filters: a few seconds each
    variant: Variant = VARIANTS[what]
    epochs = scale.fine_tuning.epochs + (0 if variant.shared_warm_up else scale.warm_up.epochs)
    if variant.shrinking:  # after the full net, which is a run of its own; the teacher's forward pass adds a third
        epochs = sum(phase.epochs for phase in scale.shrinking.phases) * 4 / 3
    measured = 1 if variant.full_net else 2 * len(scale.budget_shares)
    searched = 0 if variant.full_net else scale.search_paths * buckets * proxy
    return epochs * train + searched + measured * (scale.calibration_images + (scale.validation_images or 0)) / 3


DETOFA = Paper(
    name="detofa",
    title="DetOFA",
    exhibits=EXHIBITS,
    claims=CLAIMS,
    preset=preset,
    study=make_study,
    describe=describe,
    setting=drawn_with,
    labels=LABELS,
    comparable=same_buckets,
    seconds=expected_seconds,
)


if __name__ == "__main__":
    run(main, Options)
