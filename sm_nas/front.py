"""What SM-NAS finds in a budget of CPU seconds, for the comparison; see `common.compare.methods`.

Candidates of stage one, those of stage two, and the pre-training of found backbones on classification get their shares
of the budget, the final trainings all that is left. Random search: as many candidates in both stages, all of them
random, and the same trainings. Standard backbones are pre-trained once, as for all of the paper's runs.
"""

import re
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from common.compare.methods import FOUND, RANDOM, STANDARD, THEIRS, OnPretraining, budgeted, scaled
from common.compare.published import Published
from common.settings import lasting
from common.study import slug, spent_by
from common.train.run_folder import Run
from sm_nas import method
from sm_nas.encoding import Structure
from sm_nas.method import Group, History, SearchSettings, Stage, Strategy
from sm_nas.presets import Preset
from sm_nas.study import SMNAS, _plain, _restored

UNCOUNTED = ("classification", "pace")
PRINTED = {"latency": ("table2", ("Model",), "Time", 1.0, "mAP")}
SHARES = {"one": 0.35, "two": 0.1, "pretraining": 0.15}
"""Of the budget: candidates of stage one and of stage two, found backbones; the final trainings have the rest."""
GROUPS = 2
"""Structures that stage one hands on, at the least."""
_SAMPLED = 4
"""Structures, and codes within them, that the pace is measured on."""


class Budgeted(OnPretraining, SMNAS):
    """Of other numbers of candidates. Backbones that it found itself it pre-trains itself."""

    def pretrained(self, backbone: str) -> Mapping[str, Any]:
        of = super() if backbone in self.preset.structural.backbones else super(OnPretraining, self)
        return of.pretrained(backbone)

    def run_path(self, what: str, shared: bool = False) -> Path:
        standard = {f"classification-{slug(each)}" for each in self.preset.structural.backbones}
        return (super() if what in standard else super(OnPretraining, self)).run_path(what, shared)

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
    final, searches = own.preset.final_training, []

    def search(stage: Stage) -> History:
        searches.append(stage.name + "-random" * random)
        result = own.once(searches[-1], partial(searched, own, stage, random), start=list(map(str, stage.start)))
        return _restored(result["history"])

    with own.recording() as used:
        found = method.structural_to_modular(own.preset, search, own.flops, lambda name, structure: structure)
        found = {name.replace("F", "R" if random else "F"): structure for name, structure in found.items()}
        own._pretrain_for(final, [structure.backbone for structure in found.values()])
    once = {study.folder.name, study.pretraining_folder.name}  # pace, and standard backbones
    taken = spent_by(own.folder.parent, [name for name in used if name.partition("/")[0] not in once])
    left = partial(length, study, own, seconds - taken["cpu_seconds"], searches[1:], found)
    epochs = own.once("length" + "-random" * random, left)["epochs"]
    final, files = replace(final, optimisation=lasting(final.optimisation, epochs)), []
    for name, structure in found.items():
        own.trained(f"final-{name.lower()}", structure, final)
        files.append(own.write_detector(f"final-{name.lower()}", final, searches))
    return files


def selects(study: SMNAS, seconds: float) -> int:
    """Candidates of both stages that are proposed after the random ones."""
    own = plan(study, seconds)
    one, two = (search.budget - search.first for search in (own.stage_one, own.stage_two))
    return one + own.groups * two


def published(study: SMNAS, known: Published) -> list[dict[str, Any]]:
    """Table 4: the paper's own E0 to E5, and the classic detectors, trained alike."""
    table = known.numbers("table4")
    if table is None:
        return []
    named, detectors = dict((*study.preset.models, *study.preset.classics)), []
    for kind, role in (("models", THEIRS), ("classics", STANDARD)):
        for name, row in table[kind].items():
            crops = f"classification-{slug(named[name].backbone)}"
            behind = {crops, f"{crops}-s{known.seed}", f"final-{slug(name)}-s{known.seed}"}
            took = known.minutes(run for run in table["runs"] if run.rpartition("/")[2] in behind)
            numbers = {key: row[key] for key in ("AP", "macs_mmdet")}
            detectors.append({"name": name, "role": role, **numbers, "minutes": took})
    return detectors


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
    study: SMNAS, own: SMNAS, left: float, searches: list[str], found: Mapping[str, Structure], run: Run
) -> dict[str, Any]:
    """Epochs of every final training that use up the seconds that are left. searches: runs of stage two, one for each
    network found.

    A structure takes as long in it as it took in stage two, but for what pre-trained batch norm saves.
    """
    pace = study.once("pace", partial(measure_pace, study), shared=True)
    ratio = np.mean(pace["one"]) / np.mean(pace["two"])
    images, total = own.images_an_epoch, 0.0
    for searching, structure in zip(searches, found.values(), strict=True):
        record = Run.read(own.run_path(searching)).candidate_named(str(structure))
        if record["status"] == "done":
            total += ratio * images * record["train_cpu_seconds"] / record["samples"]
    return {"epochs": max(1, round(left / total)) if total else 1, "left": left}


def plan(study: SMNAS, seconds: float) -> Preset:
    """The preset whose candidates of both stages, and whose found backbones' pre-training, take their shares."""
    pace, preset = study.once("pace", partial(measure_pace, study), shared=True), study.preset
    groups = max(GROUPS, preset.groups)

    def allowed(search: SearchSettings, strategy: Strategy, each: list[float], budget: float) -> SearchSettings:
        epoch, measuring = study.images_an_epoch * np.mean(each), pace["measuring"]
        count = max(2, int(budget / (strategy.optimisation.epochs * epoch + measuring)))
        share = count / search.budget
        first, generation = (min(count, scaled(number, share)) for number in (search.first, search.generation))
        return replace(search, budget=count, first=first, generation=generation)

    one, two, found = (SHARES[part] * seconds for part in ("one", "two", "pretraining"))
    whole = groups * pace["pretraining"]  # of as many standard backbones
    share = min(1.0, found / whole) if whole else 1.0
    return replace(
        preset,
        groups=groups,
        classification=lasting(preset.classification, scaled(preset.classification.epochs, share)),
        stage_one=allowed(preset.stage_one, preset.stage_one_training, pace["one"], one),
        stage_two=allowed(preset.stage_two, preset.stage_two_training, pace["two"], two / groups),
    )


def measure_pace(study: SMNAS, run: Run) -> dict[str, Any]:
    """CPU seconds of a training image, of sampled structures in stage one ("one") and codes within them in stage two
    ("two"); of measuring one of them; and of pre-training a standard backbone on crops, 0 where that is not done.
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
    runs = [study.run_path(f"classification-{slug(each)}") for each in preset.structural.backbones]
    crops = [Run.read(path).result["cpu_seconds"] for path in runs if path.is_dir()]
    return {
        **measured,
        "measuring": float(np.mean(measured["measuring"])),
        "pretraining": float(np.mean(crops)) if crops else 0.0,
    }
