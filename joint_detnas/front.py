"""What Joint-DetNAS finds in a budget of CPU seconds, for the comparison; see `common.compare.methods`.

Base detector and pool are trained for a share of the scale's lengths, and pairs fill the rest of the budget. A front:
the base, the best pair, and the best one within Table 5's goal, each at every input size. Random search: parents drawn
from the latest pairs, so that nothing is selected, on the same base and pool.
"""

import math
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from common.compare.methods import FOUND, RANDOM, STANDARD, OnPretraining, budgeted, scaled
from common.compare.published import Published
from common.letterbox import padded
from common.models.described import as_described
from common.settings import lasting
from common.study import slug
from common.train.run_folder import Run
from joint_detnas.exhibits import detector
from joint_detnas.method import integrated_progressive_shrinking, train_pupil
from joint_detnas.presets import Preset, size_name
from joint_detnas.study import POOL, JointDetNASStudy, _fresh_pool, read_base

UNCOUNTED = ("classification", "pace")
PRINTED = {"macs_mmdet": ("table4", ("Base model", "Group"), "FLOPS", 1e9, "AP")}


class Budgeted(OnPretraining, JointDetNASStudy):
    """Of other lengths."""

    def train_pair(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        began = time.process_time()  # training and measuring
        record = super().train_pair(*args, **kwargs)
        return record | {"cpu_seconds": max(time.process_time() - began, record.get("train_cpu_seconds", 0.0))}


def role(run: str) -> str:
    """What a detector of a run is."""
    return STANDARD if run.startswith("base-") else RANDOM if "-random" in run else FOUND


def front(study: JointDetNASStudy, seconds: float, random: bool) -> list[Path]:
    """Base, best and slim detector, at every input size."""
    own, control = budgeted(Budgeted, study, plan(study, seconds)), "random" if random else "none"
    own.search(control)
    base, search = (own.run_path(own.named(*what)) for what in (("base",), ("search", control)))
    files = []
    for run, name in ((base, "detector"), (search, "detector"), (search, "slim")):
        if (run / "detector" / f"{name}.json").is_file():  # a search may have no slim pair
            files += at_every_size(own, Run.read(run), name)
    return files


def selects(study: JointDetNASStudy, seconds: float) -> int:
    """Pairs whose parents are drawn when more have been measured than the list of parents has places: until then the
    best of them are the latest, too."""
    search = plan(study, seconds).search
    return max(0, search.budget - search.generation * math.ceil(search.k / search.generation))


def published(study: JointDetNASStudy, known: Published) -> list[dict[str, Any]]:
    """Table 4: each base detector, and what the search made of it. What the pool took stands in Table 7."""
    table, searches = known.numbers("table4"), known.numbers("table7")
    if table is None or searches is None:
        return []
    detectors, pool = [], searches["preparation"]["pool"]
    for backbone, rows in table["rows"].items():
        crops = [run for run in table["runs"] if run.endswith(f"/classification-{slug(backbone)}")]
        base = rows["baseline"]["seconds"] + 60 * known.minutes(crops)
        for name, row, role, seconds in (
            (detector(backbone), "baseline", STANDARD, base),
            (f"{detector(backbone)}, upgraded", "ours", FOUND, base + pool + rows["ours"]["seconds"]),
        ):
            numbers = {key: rows[row][key] for key in ("AP", "macs_mmdet")}
            detectors.append({"name": name, "role": role, **numbers, "minutes": seconds / 60})
    return detectors


def at_every_size(study: JointDetNASStudy, run: Run, name: str) -> list[Path]:
    """A detector of a run with a card for each input size that it was trained at."""
    files = []
    for size in study.preset.sizes:
        file = run.path / "front" / f"{name}-{size_name(size)}.json"
        if not file.is_file():
            network = read_base(run.path / "detector" / f"{name}.json", study.device)
            study.save_with_card(file, network, padded(size), run, network.backbone.description, {})
        files.append(file)
    return files


def plan(study: JointDetNASStudy, seconds: float) -> Preset:
    """The preset whose base, pool and pairs take so long."""
    pace, preset = study.once("pace", partial(measure_pace, study), shared=True), study.preset
    phases, images = preset.shrinking.phases, study.images_an_epoch
    pair = preset.pair_training.epochs * images * pace["pair image"] + pace["measuring"]

    def before(base: int, pool: list[int]) -> float:
        return images * (base * pace["base image"] + sum(a * b for a, b in zip(pool, pace["pool image"], strict=True)))

    whole = before(preset.base_training.epochs, [phase.epochs for phase in phases]) + preset.search.budget * pair
    share = seconds / whole
    base, pool = scaled(preset.base_training.epochs, share), [scaled(phase.epochs, share) for phase in phases]
    pairs = max(1, int((seconds - before(base, pool)) / pair))
    phases = tuple(replace(phase, epochs=epochs) for phase, epochs in zip(phases, pool, strict=True))
    return replace(
        preset,
        base_training=lasting(preset.base_training, base),
        shrinking=replace(preset.shrinking, phases=phases),
        search=replace(preset.search, budget=pairs),
    )


def measure_pace(study: JointDetNASStudy, run: Run) -> dict[str, Any]:
    """CPU seconds of an image in training the base, in each phase of the pool's, in a pair's; and of measuring one."""
    preset = study.preset
    base = study.base_detector()
    reports = {"base image": study.train_detector(run, base, lasting(preset.base_training, 1))}
    model = study.placed(_fresh_pool(preset, len(study.categories)))
    model.pool.backbone.load_state_dict(study.pretrained(POOL))
    short = replace(preset.shrinking, phases=tuple(replace(phase, epochs=1) for phase in preset.shrinking.phases))
    phases = integrated_progressive_shrinking(run, model, study.batches(), short, study.training(short.optimisation))
    teacher = model.pool.ready(preset.teachers.largest(), (batch.images for batch in study._calibration()))
    pupil = study._pupil(as_described(base), teacher)
    training = study.training(lasting(preset.pair_training, 1))
    reports["pair image"] = train_pupil(run, "pair", pupil, teacher, study.batches(), preset, training)
    began = time.process_time()
    study.precisions(pupil.student, "search")
    return {
        **{name: report.cpu_seconds / report.samples for name, report in reports.items()},
        "pool image": [report.cpu_seconds / report.samples for report in phases],
        "measuring": time.process_time() - began,
    }
