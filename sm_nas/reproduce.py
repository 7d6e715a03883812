"""`python -m sm_nas.reproduce`: every table and figure of the paper, by name, and a verdict on each of its claims.

How that goes is written in common/reproduce/command.py, the same for every paper. Here is what SM-NAS adds: two flags,
the study, and how long its runs take. What belongs to an exhibit stands in sm_nas/exhibits.py, the claims' rules in
sm_nas/claims.py.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from common.cli import run, short_name
from common.plain import InputError
from common.reproduce.command import reproduce
from common.reproduce.paper import Paper, ReproduceOptions
from common.train.laboratory import LATENCY_ROUNDS
from sm_nas.claims import CLAIMS
from sm_nas.exhibits import EXHIBITS, Setting
from sm_nas.measurements import transferred
from sm_nas.method import SearchSettings
from sm_nas.presets import Preset, preset
from sm_nas.study import Study, slug

_SECONDS_PER_1000_IMAGES = {"smoke": 20.0, "nano": 12.0}  # training on one CPU core (2.5 GHz class), measured


@dataclass(frozen=True)
class Options(ReproduceOptions):
    """Train and draw SM-NAS's tables and figures, and judge its claims."""

    second_data: str | None = None
    """Another data set for Tables 1 and 5 (none: Table 1 does without, Table 5 shows the first)."""
    workers: int = 0
    """Candidates of a search that are trained side by side, each in its own process (0: one by one)."""


def main(options: Options) -> None:
    if options.second_data is not None and short_name(options.second_data) == short_name(options.data):
        raise InputError(f"--second-data {options.second_data} has the name of the first data set: give another one")
    if options.workers < 0:
        raise InputError(f"--workers {options.workers} is no number of processes: give 0 or more")
    reproduce(SM_NAS, options)


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
        options.second_data,
    )


def describe(study: Study) -> str:
    """Its data and its spaces, in a phrase."""
    sets, settings = study.laboratory.sets, study.preset
    second = ""
    if study.second_data is not None:  # read now: a fault in it would else be found only behind days of work
        second = f", {len(study.on(study.second_data).laboratory.training_set)} training images of {study.second_data}"
    return (
        f"{len(study.laboratory.training_set)} training, {len(sets['search'])} held-out and {len(sets['validation'])} "
        f"validation images{second}; {settings.structural.count():,} structures, {settings.modular.count():,} codes "
        "within each"
    )


def drawn_with(options: Options, folder: Path) -> Setting:
    """What exhibits are drawn with."""
    return Setting(folder, preset(options.scale), short_name(options.data))


def expected_seconds(what: str, scale: Preset) -> float | None:
    """Seconds of a run on one CPU core; None at scales that are not meant for one."""
    per_1000_images = _SECONDS_PER_1000_IMAGES.get(scale.name)
    return None if per_1000_images is None else images_trained(what, scale) / 1000 * per_1000_images


def images_trained(what: str, scale: Preset) -> float:
    """Images of a run by its preset: trained on, and a quarter of those only detected in."""
    train, candidate = scale.train_images or 0, scale.search_images / 4
    group = re.fullmatch(r"(?:stage-two-c|final-[cf])(\d+)", what)
    if group is not None and int(group[1]) >= scale.groups:
        return 0.0
    at_a_size = re.fullmatch(r"final-.+-\d+x\d+", what)
    if at_a_size is not None and what not in {f"final-{slug(n)}" for each in transferred(scale).values() for n in each}:
        return 0.0
    short, final = (
        strategy.optimisation.epochs * train for strategy in (scale.stage_one_training, scale.final_training)
    )
    if what.startswith("latencies"):
        return LATENCY_ROUNDS * scale.latency_images / 4 * len((*scale.models, *scale.classics))
    if what == "stage-one":
        return _candidates(scale.stage_one) * (short + candidate)
    if what.startswith("stage-two"):
        return _candidates(scale.stage_two) * (scale.stage_two_training.optimisation.epochs * train + candidate)
    if what == "backbones":
        return len(scale.structural.backbones) * (short + candidate)
    if what == "longer":
        return scale.longer_candidates * (final + candidate)
    if what.startswith("strategy"):
        final = scale.strategies[int(what.removeprefix("strategy-"))].optimisation.epochs * train
    return final + (scale.validation_images or 0) / 4


def _candidates(search: SearchSettings) -> int:
    """Those of a search and of its random control, which share their first ones."""
    return 2 * search.budget - search.first


SM_NAS = Paper(
    name="sm_nas",
    title="SM-NAS",
    exhibits=EXHIBITS,
    claims=CLAIMS,
    preset=preset,
    study=make_study,
    describe=describe,
    setting=drawn_with,
    second_data=lambda options: options.second_data,
    seconds=expected_seconds,
)


if __name__ == "__main__":
    run(main, Options)
