"""One seed of the reproduction on one data set: every trained thing, made when first asked for, kept in a run folder.

The exhibits ask for what they draw; runs that several exhibits need are trained once. All methods share, for a seed,
the pre-trained weights, the data order, the held-out images and, but for CompOFA* and the full net, the warm-up.

    classification   the supernet pre-trained on object crops, and its path losses
    filter           the path filter pre-trained on those (Section 3.1.2)
    warm-up          Algorithm 1, lines 2 to 4: detection supernet, its path losses, the fine-tuned filter
    VARIANT          one supernet of `VARIANTS`, trained to the end, with the nets found in it for every budget
"""

import time
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import nn

from common.batch import Batch
from common.command import InputError
from common.cost_table import CostTable
from common.data.batches import ClassificationBatches, DetectionBatches
from common.data.crops import object_crops
from common.data.detection_set import DetectionSet
from common.data.source import load, short_name
from common.evaluate.average_precision import GroundTruth
from common.evaluate.latency import measure_latency
from common.evaluate.subnetworks import Evaluator, average_precision
from common.models.centernet import CenterNet, centernet_losses
from common.models.classifier import Classifier, classification_losses
from common.models.ofa_resnet import OFAResNet
from common.search.evolution import EvolutionResult
from common.train.run_folder import Run
from common.train.schedule import Optimisation
from detofa.baselines import centernet_distillation, progressive_shrinking
from detofa.method import (
    Constraint,
    Operations,
    OperationScores,
    PathFilter,
    PathLosses,
    PathSampler,
    PathScorer,
    PruningSettings,
    Task,
    prune,
    sample_per_bucket,
    search,
    train_filter,
    train_supernet,
    validate_paths,
)
from detofa.presets import Preset

UNITS = {"macs": "MAC", "params": "parameters", "latency": "ms"}


@dataclass(frozen=True)
class Variant:
    """One way to train the detection supernet."""

    title: str
    """As figures name it."""
    pruning: PruningSettings | None = None
    """Search space pruning after the warm-up; none is uniform sampling."""
    coupled: bool = False
    """CompOFA*: depth and width coupled from the start."""
    transfer: bool = True
    """Start from the classification supernet."""
    shared_warm_up: bool = True
    """Start from the shared warm-up run rather than with a warm-up of its own."""
    shrinking: bool = False
    """Progressive shrinking from the full net, three times the epochs."""
    full_net: bool = False
    """The largest path alone."""


_PATHS_ONLY = PruningSettings(operations="none")
_OPERATIONS_ONLY = PruningSettings(ratio_path=0.0)
VARIANTS = {
    "ours": Variant("DetOFA (ours)", PruningSettings()),
    "ofa": Variant("OFA (w/o PS)"),
    "ofa-shrinking": Variant("OFA (w/ PS)", shrinking=True, shared_warm_up=False),
    "compofa": Variant("CompOFA*", coupled=True, shared_warm_up=False),
    "fullnet": Variant("Fullnet", full_net=True, shared_warm_up=False),
    "ofa-scratch": Variant("OFA (w/o PS), no transfer", transfer=False, shared_warm_up=False),
    "operations-flops": Variant("FLOPs", replace(_OPERATIONS_ONLY, operations="flops")),
    "operations-bucket": Variant("FLOPs & score (per bucket)", replace(_OPERATIONS_ONLY, operations="score_bucket")),
    "operations-all": Variant("FLOPs & score (all)", _OPERATIONS_ONLY),
    "paths-score": Variant("score-based", _PATHS_ONLY),
    "operations-ratio-40": Variant("operations 40 %", PruningSettings(ratio_bucket=0.40)),
    "paths-ratio-40": Variant("paths 40 %", PruningSettings(ratio_path=0.40)),
}


class Study:
    """All runs of one seed.

    preset: the scale. data: as `--data` (common.data.source). seed: of weights, data order and sampling. out: the
    folder of all runs. device: where networks live. constraint: macs, params or latency. command: kept in the records.
    """

    def __init__(
        self,
        preset: Preset,
        data: str,
        seed: int,
        out: Path | str = "runs",
        device: str = "cpu",
        constraint: str = "macs",
        command: str | None = None,
    ):
        self.preset, self.data, self.seed, self.device, self.command = preset, data, seed, device, command
        self.constraint_name = constraint
        self.folder = Path(out) / "detofa" / f"{short_name(data)}-{preset.name}"
        self.space = preset.space

    # ---- runs

    def open(self, what: str, **settings) -> Run:
        """The run folder of `what`, its config everything that its numbers depend on."""
        config = {
            "paper": "detofa",
            "what": what,
            "data": self.data,
            "training_set": self.training_set.fingerprint(),
            "seed": self.seed,
            "constraint": self.constraint_name,
            "preset": asdict(self.preset),
            **settings,
        }
        return Run.open(self.folder / f"{what}-s{self.seed}", config, self.command)

    # ---- data

    @cached_property
    def _training_and_proxy(self) -> tuple[DetectionSet, DetectionSet]:
        preset = self.preset
        limit = None if preset.train_images is None else preset.train_images + preset.proxy_images
        dataset = load(self.data, "train", limit=limit)
        if len(dataset) < 2 * preset.proxy_images:
            raise InputError(
                f"{self.data} has {len(dataset)} training images, and scale {preset.name} holds {preset.proxy_images} "
                "out to compare paths: give at least twice as many, or a smaller scale"
            )
        order = np.random.default_rng(0).permutation(len(dataset))  # the same held-out images for every seed
        return dataset.subset(np.sort(order[preset.proxy_images :])), dataset.subset(np.sort(order[: preset.proxy_images]))

    @property
    def training_set(self) -> DetectionSet:
        """Images that supernets are trained on."""
        return self._training_and_proxy[0]

    @cached_property
    def validation_set(self) -> DetectionSet:
        """Images that AP is reported on; nothing is chosen by them."""
        return load(self.data, "val", limit=self.preset.validation_images)

    def _batches(self, dataset: DetectionSet, batch_size: int, augment=None) -> DetectionBatches:
        return DetectionBatches(
            dataset, self.preset.image_size, batch_size, device=self.device, augment=augment, seed=self.seed
        )

    @cached_property
    def _validation_batches(self) -> list[Batch]:
        return list(self._batches(self.validation_set, self.preset.evaluation_batch_size).in_order())

    @cached_property
    def _truth(self) -> GroundTruth:
        return GroundTruth(self.validation_set)

    def _first(self, dataset: DetectionSet, images: int) -> list[Batch]:
        chosen = dataset.subset(np.arange(min(images, len(dataset))))
        return list(self._batches(chosen, self.preset.evaluation_batch_size).in_order())

    @cached_property
    def detection_task(self) -> Task:
        """CenterNet's loss on the training images; paths are compared on the held-out ones."""
        preset = self.preset
        batches = self._batches(self.training_set, preset.batch_size, preset.augmentation)
        proxy = self._first(self._training_and_proxy[1], preset.proxy_images)
        calibration = self._first(self.training_set, preset.proxy_calibration_images)
        return Task(batches, centernet_losses, Evaluator(calibration, proxy, centernet_losses))

    @cached_property
    def final_evaluator(self) -> Evaluator:
        """For networks whose AP is reported: more images to re-estimate batch norm."""
        calibration = self._first(self.training_set, self.preset.calibration_images)
        return Evaluator(calibration, self.detection_task.evaluator.validation, centernet_losses)

    @cached_property
    def crops(self):
        """Object crops of the training images: the classification set."""
        return object_crops(self.training_set, self.preset.crop_size, self.preset.crops, seed=0)

    @cached_property
    def classification_task(self) -> Task:
        """Cross-entropy on nine tenths of the crops; paths are compared on the last tenth."""
        preset, crops = self.preset, self.crops
        held_out = max(1, len(crops.labels) // 10)
        training, proxy = crops.split(len(crops.labels) - held_out)
        batches = ClassificationBatches(training, preset.batch_size, self.device, preset.augmentation, self.seed)
        size = preset.evaluation_batch_size
        calibration = training.split(min(len(training.labels), preset.proxy_calibration_images))[0]
        in_order = [list(ClassificationBatches(c, size, self.device).in_order()) for c in (calibration, proxy)]
        return Task(batches, classification_losses, Evaluator(*in_order, classification_losses))

    # ---- space, networks

    @cached_property
    def constraint(self) -> Constraint:
        """What a path costs, at the size of the detection images."""
        preset, name = self.preset, self.constraint_name
        if name == "macs":
            table = CostTable.macs(self.space, preset.image_size)
        elif name == "params":
            table = CostTable.params(self.space)
        elif name == "latency":
            table = CostTable.measured(self.space, self._latency, preset.image_size)
        else:
            raise InputError(f"unknown constraint {name!r}: give one of {', '.join(UNITS)}")
        ends = table(np.stack([self.space.smallest(), self.space.largest()]))
        return Constraint(name, UNITS[name], lambda paths: np.asarray(table(paths), dtype=float), *map(float, ends))

    def _latency(self, module: nn.Module, shape: tuple[int, ...]) -> float:
        return measure_latency(module, shape, device=self.device).median_ms

    def _classifier(self) -> Classifier:
        torch.manual_seed(self.seed)
        return Classifier(OFAResNet(self.space), len(self.crops.categories)).to(self.device)

    def detector(self) -> CenterNet:
        """A fresh detection supernet."""
        torch.manual_seed(self.seed)
        preset = self.preset
        backbone = OFAResNet(self.space)
        categories = len(self.training_set.categories)
        return CenterNet(backbone, categories, preset.neck_widths, preset.head_width, elastic=True).to(self.device)

    def _new_filter(self, settings=None) -> PathFilter:
        torch.manual_seed(self.seed)
        return PathFilter(self.space, self.constraint.buckets, settings or self.preset.path_filter).to(self.device)

    def scorer(self, path_filter: PathFilter) -> PathScorer:
        """The filter with this study's space and constraint."""
        return PathScorer(path_filter, self.space, self.constraint)

    # ---- pre-training

    def classification(self) -> tuple[Classifier, Run]:
        """The classification supernet: the full net first, then uniform paths; with the losses of sampled paths."""
        run, supernet, task = self.open("classification"), self._classifier(), self.classification_task
        largest = self.space.largest()[None]
        optimisation = self.preset.classification
        everything = Operations.all(self.space)
        common = {"optimisation": optimisation, "seed": self.seed, "device": self.device}
        full = train_supernet(run, "full", supernet, task, lambda count, _: largest, **common)
        uniform = train_supernet(run, "uniform", supernet, task, everything.sample, **common)
        if run.result is None:
            started = time.process_time()
            self._path_losses(run, "classification", supernet, task.evaluator, self.preset.pretraining_paths, everything)
            run.finish({"seconds": full.seconds + uniform.seconds, "sampling_cpu_seconds": time.process_time() - started})
        return supernet, run

    def _path_losses(
        self, run: Run, purpose: str, supernet: nn.Module, evaluator: Evaluator, per_bucket: int, operations: Operations
    ) -> PathLosses:
        generator = np.random.default_rng([self.seed, 3])
        paths = sample_per_bucket(operations, self.constraint, per_bucket, generator)
        return validate_paths(run, purpose, supernet, evaluator, paths)
