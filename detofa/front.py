"""What DetOFA finds in a budget of CPU seconds, for the comparison; see `common.compare.methods`.

Both lengths of training and the number of sampled paths are scaled by one share; then a path is searched for each of
the scale's budgets. Random search: a supernet trained by uniform sampling, and the best of as many uniform paths, its
training longer by what pruning, path filter and evolution would have taken.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from common.compare.methods import FOUND, RANDOM, STANDARD, budgeted, scaled
from common.compare.published import Published
from common.cost import count
from common.settings import lasting
from common.train.run_folder import Run
from detofa import method
from detofa.method import Operations, PathLosses
from detofa.presets import VARIANTS, Preset, Variant
from detofa.study import PRETRAINED, DetOFAStudy

UNCOUNTED = (*PRETRAINED, "pace")
PRINTED: dict[str, Any] = {}  # its figures print no numbers
UNIFORM = "uniform"
_UNIFORM = Variant("Uniform sampling, random search", shared_warm_up=False)
_EPOCHS = 2
"""That the pace is measured over."""
_PATHS = 2
"""Of each bucket whose validation is timed."""


class Budgeted(DetOFAStudy):
    """Of other lengths, with the pre-training of `whole`."""

    whole: DetOFAStudy

    def shared(self, what: str) -> dict[str, Any]:
        return self.whole.shared(what) if what in PRETRAINED else super().shared(what)

    def run_path(self, what: str, shared: bool = False) -> Path:
        return self.whole.run_path(what) if what in PRETRAINED else super().run_path(what, shared)


def role(run: str) -> str:
    """What a detector of a run is."""
    return RANDOM if run.startswith(UNIFORM) else STANDARD if run.startswith("fullnet") else FOUND


def front(study: DetOFAStudy, seconds: float, random: bool) -> list[Path]:
    """A detector for each of the scale's budgets that a path was found for."""
    own = budgeted(Budgeted, study, plan(study, seconds, random))
    if random:
        make = partial(by_chance, own)
        result, name = own.once(UNIFORM, make, variant=asdict(_UNIFORM))["random"], UNIFORM
    else:
        result, name = own.result("ours")["found"], "ours"
    return written(own, name, result)


def published(study: DetOFAStudy, known: Published) -> list[dict[str, Any]]:
    """Figure 5: what was found in our supernet at each budget, what random search found there, and the full net.

    The figure's costs are the backbones'. What neck and heads add depends on the last stage's width, which the figure
    does not tell: here it is the middle between the least and the most.
    """
    figure = known.numbers("figure5")
    if figure is None:
        return []
    space, constraint, supernet = study.space, study.constraint, study.detector()
    paths = np.stack([space.smallest(), space.largest()])
    wholes = [count(supernet.extract(path), study.size).macs_mmdet for path in paths]
    least, most = np.array(wholes) - constraint.cost(paths)
    took, full = known.minutes(figure["rests_on"]["ours"]), figure["full"]["AP"]
    alone = known.minutes(figure["rests_on"]["full"])
    detectors = [{"name": "Fullnet", "role": STANDARD, "AP": full, "macs_mmdet": wholes[-1], "minutes": alone}]
    for curve, role in (("ours", FOUND), ("random", RANDOM)):
        values = figure["curves"][curve]
        for budget, ap, cost in zip(figure["budgets"], values["AP"], values["cost"], strict=True):
            if ap is not None:  # random search may have been offered no path within the budget
                name = f"backbone within {budget / 1e6:.1f} M"
                about = {"macs_mmdet": cost + (least + most) / 2, "macs_within": (most - least) / 2, "minutes": took}
                detectors.append({"name": name, "role": role, "AP": ap, **about})
    return detectors


def by_chance(study: DetOFAStudy, run: Run) -> dict[str, Any]:
    """A supernet trained by uniform sampling, and for each budget the best of the uniform paths that it pays for."""
    supernet, costs = study._train(_UNIFORM, run)
    everything, each = study.operations(_UNIFORM), study.preset.fine_tuning_paths
    losses, costs["search sampling"] = method.sample_paths(
        study, run, "search", supernet, study.detection_task, everything, each
    )
    chance = [method.best_affordable(losses, study.constraint, budget) for budget in study.budgets]
    return {"costs": costs, "budgets": study.budgets, "random": study.measured(run, supernet, chance)}


def written(study: DetOFAStudy, name: str, found: Sequence[dict[str, Any] | None]) -> list[Path]:
    """The networks of a supernet as detectors, each once."""
    run, files = Run.read(study.run_path(name)), []
    for net in {each["path"]: each for each in found if each is not None}.values():
        file = run.path / "front" / f"{net['path']}.json"
        if not file.is_file():
            path = np.array(net["choices"], dtype=np.int8)
            supernet = study.restore(study.detector(), name, "fine-tuning")
            network = study.final_evaluator.recalibrate(supernet.extract(path))
            study.save_with_card(file, network, study.size, run, study.space.describe(path), net)
        files.append(file)
    return files


def plan(study: DetOFAStudy, seconds: float, random: bool) -> Preset:
    """The preset whose trainings, samplings and searches take so long."""
    pace, preset = study.once("pace", partial(measure_pace, study), shared=True), study.preset
    image, pruned = pace["image"], pace["image" if random else "pruned image"]
    training = study.images_an_epoch * (preset.warm_up.epochs * image + preset.fine_tuning.epochs * pruned)
    path = pace["path"] if random else 2 * (pace["path"] + pace["filter"])  # after the warm-up, and for the search
    searching = 0.0 if random else pace["prune"] + pace["search"] * len(preset.budget_shares)
    share = (seconds - searching) / (training + preset.fine_tuning_paths * study.constraint.buckets * path)
    return replace(
        preset,
        warm_up=lasting(preset.warm_up, scaled(preset.warm_up.epochs, share)),
        fine_tuning=lasting(preset.fine_tuning, scaled(preset.fine_tuning.epochs, share)),
        fine_tuning_paths=scaled(preset.fine_tuning_paths, share, least=2),
    )


def measure_pace(study: DetOFAStudy, run: Run) -> dict[str, float]:
    """CPU seconds of a training image, with uniform paths and with those drawn by their score in a pruned space; of
    validating a path; of a filter's fine-tuning for each path that it learns from; of the search for one budget; and of
    pruning the space.
    """
    supernet, everything, task = study.detector(), Operations.all(study.space), study.detection_task
    preset, training = study.preset, study.training(lasting(study.preset.fine_tuning, _EPOCHS))
    uniform = method.train(run, "training", supernet, task, everything.sample, training)
    some, sampling = method.sample_paths(study, run, "pace", supernet, task, everything, _PATHS)
    times = max(1, preset.fine_tuning_paths // _PATHS)  # the same again: batches are as large as the scale's
    losses = PathLosses(np.tile(some.paths, (times, 1)), np.tile(some.losses, times))
    path_filter, tuning = study.new_filter(), study.training(preset.path_filter.fine_tuning)
    tuned = method.train_filter(run, "filter", path_filter, losses, study.space, study.constraint, tuning)
    scorer, pruning = study.scorer(path_filter), VARIANTS["ours"].pruning
    began = time.process_time()
    sampler, _ = method.prune(everything, scorer, pruning, preset.operation_samples, study.seed)
    prune = time.process_time() - began
    pruned = method.train(run, "pruned", supernet, task, sampler, training)
    began = time.process_time()
    method.search(everything, scorer, study.budgets[-1], preset.evolution, study.seed)
    return {
        "image": uniform.cpu_seconds / uniform.samples,
        "pruned image": pruned.cpu_seconds / pruned.samples,
        "path": sampling["cpu_seconds"] / len(some.paths),
        "filter": tuned.cpu_seconds / len(losses.paths),
        "search": time.process_time() - began,
        "prune": prune,
    }
