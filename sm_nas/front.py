"""What SM-NAS finds in a budget of CPU seconds, for the comparison; see `common.compare.methods`.

Candidates of stage one and of stage two get their shares of the budget, and the final trainings all that is left.
Random search: as many candidates in both stages, all of them random, and the same trainings.
"""

import re
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from common.compare.methods import FOUND, RANDOM, STANDARD, OnPretraining, budgeted, scaled
from common.settings import lasting
from common.study import spent_by
from common.train.run_folder import Run
from sm_nas import method
from sm_nas.encoding import Structure
from sm_nas.method import Group, History, SearchSettings, Stage, Strategy
from sm_nas.presets import Preset
from sm_nas.study import SMNAS, _plain, _restored

UNCOUNTED = ("classification", "pace")
PRINTED = {"latency": ("table2", ("Model",), "Time", 1.0, "mAP")}
SHARES = (0.35, 0.2)
"""Of the budget, for the candidates of stage one and of all of stage two; the final trainings have the rest."""
GROUPS = 3
"""Structures that stage one hands on, at the least."""
_SAMPLED = 4
"""Structures, and codes within them, that the pace is measured on."""


class Budgeted(OnPretraining, SMNAS):
    """Of other numbers of candidates."""

    def train_and_measure(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return timed(super().train_and_measure, *args, **kwargs)


def timed(train: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """A candidate's record with the CPU seconds of training and of measuring it."""
    began = time.process_time()
    record = train(*args, **kwargs)
    return record | {"cpu_seconds": max(time.process_time() - began, record["train_cpu_seconds"])}


def role(run: str) -> str:
    """What a detector of a run is: F0, F1, ... and the paper's own E0 to E5, or R0, R1, ..."""
    kind = re.match(r"final-([efr])\d", run)
    return STANDARD if kind is None else RANDOM if kind[1] == "r" else FOUND


def front(study: SMNAS, seconds: float, random: bool) -> list[Path]:
    """The network of each structure that stage one handed on, after both stages and the final training."""
    own = budgeted(Budgeted, study, plan(study, seconds))
    searches: list[str] = []

    def search(stage: Stage) -> History:
        searches.append(stage.name + "-random" * random)
        result = own.once(searches[-1], partial(searched, own, stage, random), start=list(map(str, stage.start)))
        return _restored(result["history"])

    found = method.structural_to_modular(own.preset, search, own.flops, lambda name, structure: structure)
    found = {name.replace("F", "R" if random else "F"): structure for name, structure in found.items()}
    left = partial(length, study, own, seconds, searches, found)
    epochs = own.once("length" + "-random" * random, left)["epochs"]
    final = replace(own.preset.final_training, optimisation=lasting(own.preset.final_training.optimisation, epochs))
    files = []
    for name, structure in found.items():
        own.trained(f"final-{name.lower()}", structure, final)
        files.append(own.write_detector(f"final-{name.lower()}", final, searches))
    return files


def searched(study: SMNAS, stage: Stage, random: bool, run: Run) -> dict[str, Any]:
    """A stage's candidates: proposed by evolution, or all at random."""
    study._pretrain_for(stage.strategy, study.preset.structural.backbones)
    evaluate, seed = partial(study._candidates, run, stage.strategy, stage.cost), (study.seed, stage.number)
    if random:
        history = method.random_search(stage.space, stage.search, evaluate, seed, stage.start)
    else:
        known = study.flops if stage.cost == method.FLOPS else None
        history = method.evolve(stage.space, stage.search, evaluate, seed, known, stage.start)
    return {"history": _plain(history)}


def length(
    study: SMNAS, own: SMNAS, seconds: float, searches: list[str], found: Mapping[str, Structure], run: Run
) -> dict[str, Any]:
    """Epochs of every final training that use up what both stages left of the budget.

    A structure takes as long in it as it took in stage two, but for what pre-trained batch norm saves.
    """
    names = [f"{own.folder.name}/{own.run_name(name)}" for name in searches]
    left = seconds - spent_by(own.folder.parent, names)["cpu_seconds"]
    pace = study.once("pace", partial(measure_pace, study), shared=True)
    ratio = np.mean(pace["one"]) / np.mean(pace["two"])
    images, total = own.images_an_epoch, 0.0
    for searching in searches[1:]:
        for structure in found.values():
            record = Run.read(own.run_path(searching)).candidate_named(str(structure))
            if record is not None and record["status"] == "done":
                total += ratio * images * record["train_cpu_seconds"] / record["samples"]
    return {"epochs": max(1, round(left / total)) if total else 1, "left": left}


def plan(study: SMNAS, seconds: float) -> Preset:
    """The preset whose candidates of both stages take their shares of so many seconds."""
    pace, preset = study.once("pace", partial(measure_pace, study), shared=True), study.preset
    groups = max(GROUPS, preset.groups)

    def allowed(search: SearchSettings, strategy: Strategy, each: list[float], budget: float) -> SearchSettings:
        epoch, measuring = study.images_an_epoch * np.mean(each), pace["measuring"]
        count = max(2, int(budget / (strategy.optimisation.epochs * epoch + measuring)))
        share = count / search.budget
        first, generation = (min(count, scaled(number, share)) for number in (search.first, search.generation))
        return replace(search, budget=count, first=first, generation=generation)

    one, two = (share * seconds for share in SHARES)
    return replace(
        preset,
        groups=groups,
        stage_one=allowed(preset.stage_one, preset.stage_one_training, pace["one"], one),
        stage_two=allowed(preset.stage_two, preset.stage_two_training, pace["two"], two / groups),
    )


def measure_pace(study: SMNAS, run: Run) -> dict[str, Any]:
    """CPU seconds of a training image, of sampled structures in stage one ("one") and codes within them in stage two
    ("two"); and of measuring one of them.
    """
    preset, generator = study.preset, np.random.default_rng(0)
    measured: dict[str, list[float]] = {"one": [], "two": [], "measuring": []}
    study._pretrain_for(preset.stage_one_training, preset.structural.backbones)
    for number in range(_SAMPLED):
        structure = preset.structural.sample(generator)
        code = Group(preset.modular, structure).sample(generator)
        stages = {"one": (structure, preset.stage_one_training), "two": (code, preset.stage_two_training)}
        for stage, (candidate, strategy) in stages.items():
            short = replace(strategy, optimisation=lasting(strategy.optimisation, 1))
            record = timed(study.train_and_measure, candidate, short, run.path / "training" / f"{stage}-{number}")
            measured[stage].append(record["train_cpu_seconds"] / record["samples"])
            measured["measuring"].append(record["cpu_seconds"] - record["train_cpu_seconds"])
    return {**measured, "measuring": float(np.mean(measured["measuring"]))}
