"""The comparison's settings and flags. Importable without torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from common.cli import Quantity, StudyOptions
from common.report.reproduce import ReproduceOptions
from common.settings import Parallel


@dataclass(frozen=True)
class Preset:
    """What is fixed before methods are compared."""

    budget: float
    """CPU seconds that each front may take, of search and of training, where --budget does not say."""
    box: tuple[float, float]
    """Multiply-accumulates of a whole detector between which fronts are compared; AP counts from 0."""
    validation_images: int | None = None
    """Images that AP is measured on, at most; None means all."""
    held_out_images: int | None = None
    """Training images that every method holds out to compare candidates by, so that all are trained on the same ones;
    None means as many as its own scale does."""
    latency_images: int = 50
    """Images that a detector is timed on in each round, one at a time."""
    latency_rounds: int = 9
    """Rounds in which all detectors are timed in turn."""


SMOKE = Preset(budget=10, box=(1e6, 256e6), validation_images=16, latency_images=10, latency_rounds=5)
"""Every code path in seconds; its numbers mean nothing."""
NANO = Preset(budget=900, box=(20e6, 320e6), validation_images=1000, held_out_images=250, latency_images=20)
"""Verdicts on two CPU cores. 900 s are up to 2 times what DetOFA's and SM-NAS's searches take at their own nano scales.
Of Joint-DetNAS's 24 pairs, of four epochs each, they buy about 10, and less than half of the training of base and pool;
1,800 s buy about 20. Of the detectors that can be found there, the cheapest have 23 to 40 M MAC, the most accurate 70
to 300 M: hence the box.

Command: python -m common.compare --scale nano --budget 900 --data scenes --second-data coco:DIR/bccd --seeds 5
    --precision bfloat16
"""
MINI = Preset(budget=14_400, box=(1e9, 256e9), held_out_images=100)
"""The papers' networks on a small set of photographs, one GPU; not measured."""
PRESETS = {"smoke": SMOKE, "nano": NANO, "mini": MINI}


@dataclass(frozen=True, kw_only=True)
class Options(ReproduceOptions, StudyOptions, Parallel):
    """Compare detectors that are there; or, without any, all methods at an equal budget, and judge X-1 to X-3."""

    PRESETS: ClassVar[Mapping[str, Preset]] = PRESETS

    detectors: Annotated[
        tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="[RUN|DETECTOR|FOLDER ...]")
    ] = ()
    """Detectors, or folders in which they lie, such as runs: all are timed in turn and evaluated on one split."""
    split: Literal["train", "val", "test"] = "val"
    """Part of --data that detectors are evaluated on."""
    scale: Literal[tuple(PRESETS)] = "smoke"
    """Scale of all methods, by which their budgets are spent: smoke (numbers mean nothing), nano or mini."""
    budget: Quantity | None = None
    """CPU seconds of search and training for each front of each seed; pre-training that is done once is not counted
    (default: the scale's)."""
    second_data: str | None = None
    """Another data set, on which X-3 asks for the same order."""
    preset: Preset = SMOKE
    """The settings of the scale."""

    @property
    def trains(self) -> bool:
        """Not where detectors are compared that are there."""
        return super().trains and not self.detectors

    @property
    def seconds(self) -> float:
        """The budget of a front."""
        return self.preset.budget if self.budget is None else self.budget

    @property
    def run_folder(self) -> str:
        """As of a paper, with the budget."""
        return f"{super().run_folder}-{self.seconds:g}s"
