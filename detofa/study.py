"""One seed of the reproduction on one data set: every trained thing, made when first asked for, kept in a run folder.

The exhibits ask for what they draw; runs that several exhibits need are trained once. All methods share, for a seed,
the pre-trained weights, the data order, the held-out images and, but for CompOFA* and the full net, the warm-up.

    classification   the supernet pre-trained on object crops, and its path losses
    filter           the path filter pre-trained on those (Section 3.1.2)
    warm-up          Algorithm 1, lines 2 to 4: detection supernet, its path losses, the fine-tuned filter
    VARIANT          one supernet of `VARIANTS`, trained to the end, with the nets found in it for every budget
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import nn

from common.batch import Batch
from common.cli import check_seed, short_name
from common.cost_table import CostTable
from common.data.batches import ClassificationBatches, DetectionBatches
from common.data.crops import object_crops
from common.data.detection_set import DetectionSet
from common.data.source import load
from common.data.splits import epoch_of, training_and_held_out
from common.evaluate.average_precision import GroundTruth
from common.evaluate.latency import measure_latency
from common.evaluate.subnetworks import Evaluator, average_precision
from common.models.centernet import CenterNet, centernet_losses
from common.models.classifier import Classifier, classification_losses
from common.models.ofa_resnet import OFAResNet
from common.plain import InputError
from common.search.evolution import EvolutionResult
from common.search.executors import evaluate_all
from common.settings import CROP_AUGMENTATION, Optimisation, Precision
from common.train.run_folder import Run
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
    precision: of the forward passes of supernet training; everything that is evaluated is evaluated in float32.
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
        precision: Precision = "float32",
    ):
        check_seed(seed)
        self.preset, self.data, self.seed, self.device, self.command = preset, data, seed, device, command
        self.precision = precision
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
            "precision": self.precision,
            "preset": asdict(self.preset),
            **settings,
        }
        return Run.open(self.folder / f"{what}-s{self.seed}", config, self.command)

    # ---- data

    @cached_property
    def _training_and_proxy(self) -> tuple[DetectionSet, DetectionSet]:
        preset = self.preset
        return training_and_held_out(self.data, preset.train_images, preset.proxy_images, preset.name)

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
        batches = self._batches(
            epoch_of(self.training_set, preset.train_images), preset.batch_size, preset.augmentation
        )
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
        size = preset.crop_batch_size
        epoch = training.repeated((preset.crops or 0) - held_out)
        batches = ClassificationBatches(epoch, size, self.device, CROP_AUGMENTATION, self.seed)
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
            table = self._latency_table()
        else:
            raise InputError(f"unknown constraint {name!r}: give one of {', '.join(UNITS)}")
        ends = table(np.stack([self.space.smallest(), self.space.largest()]))
        return Constraint(name, UNITS[name], lambda paths: np.asarray(table(paths), dtype=float), *map(float, ends))

    def _latency_table(self) -> CostTable:
        """Measured once for all seeds and kept: every process then has the same buckets and budgets."""
        config = {"space": self.space.to_dict(), "image_size": self.preset.image_size, "device": self.device}
        run = Run.open(self.folder / "latency", config, self.command)
        known = run.read_json("blocks") or {}

        def measure(module: nn.Module, shape: tuple[int, ...]) -> float:
            block = f"{shape} {module}"
            if block not in known:
                known[block] = self._latency(module, shape)
            return known[block]

        table = CostTable.measured(self.space, measure, self.preset.image_size)
        run.write_json("blocks", known)
        return table

    def _latency(self, module: nn.Module, shape: tuple[int, ...]) -> float:
        return measure_latency(module, shape, device=self.device).median_ms

    def _classifier(self) -> Classifier:
        torch.manual_seed(self.seed)
        return self._placed(Classifier(self._backbone(), len(self.crops.categories)))

    def detector(self) -> CenterNet:
        """A fresh detection supernet."""
        torch.manual_seed(self.seed)
        preset = self.preset
        categories = len(self.training_set.categories)
        network = CenterNet(self._backbone(), categories, preset.neck_widths, preset.head_width, elastic=True)
        return self._placed(network)

    def _backbone(self) -> OFAResNet:
        return OFAResNet(self.space, zero_init_last=self.preset.zero_init_last)

    def _placed(self, network: nn.Module) -> nn.Module:
        # Thin convolutions run 1.4 to 1.7 times faster with the channels last, on CPUs and on GPUs.
        return network.to(self.device, memory_format=torch.channels_last)

    def new_filter(self, settings=None) -> PathFilter:
        torch.manual_seed(self.seed)
        return PathFilter(self.space, self.constraint.buckets, settings or self.preset.path_filter).to(self.device)

    def scorer(self, path_filter: PathFilter) -> PathScorer:
        """The filter with this study's space and constraint."""
        return PathScorer(path_filter, self.space, self.constraint)

    # ---- training

    def _fit(self, run: Run, stage: str, supernet: nn.Module, task: Task, sampler, optimisation: Optimisation) -> dict:
        """One stage of supernet training; its seconds, wall clock and processor."""
        report = train_supernet(
            run, stage, supernet, task, sampler, optimisation, self.seed, self.device, self.precision
        )
        return {"seconds": report.seconds, "cpu_seconds": report.cpu_seconds}

    def _path_losses(
        self, run: Run, purpose: str, supernet: nn.Module, task: Task, operations: Operations, per_bucket: int
    ) -> tuple[PathLosses, dict]:
        """Sampled paths with their losses, and the seconds that validating them took."""
        generator = np.random.default_rng([self.seed, 3])
        paths = sample_per_bucket(operations, self.constraint, per_bucket, generator)
        losses = validate_paths(run, purpose, supernet, task.evaluator, paths)
        records = [record for record in run.candidates() if record["key"][0] == purpose]
        spent = {name: sum(record.get(name, 0.0) for record in records) for name in ("seconds", "cpu_seconds")}
        return losses, spent

    def _train_filter(
        self, run: Run, stage: str, path_filter: PathFilter, data: PathLosses, optimisation: Optimisation
    ) -> dict:
        report = train_filter(
            run, stage, path_filter, data, self.space, self.constraint, optimisation, self.seed, self.device
        )
        return {"seconds": report.seconds, "cpu_seconds": report.cpu_seconds}

    @cached_property
    def classification(self) -> tuple[Classifier, PathLosses, Run]:
        """The classification supernet (the full net first, then uniform paths), and sampled paths with their losses."""
        run, supernet, task = self.open("classification"), self._classifier(), self.classification_task
        everything, largest = Operations.all(self.space), self.space.largest()[None]
        costs = {
            "full": self._fit(run, "full", supernet, task, lambda count, _: largest, self.preset.classification),
            "uniform": self._fit(run, "uniform", supernet, task, everything.sample, self.preset.classification),
        }
        losses, costs["sampling"] = self._path_losses(
            run, "classification", supernet, task, everything, self.preset.pretraining_paths
        )
        if run.result is None:
            run.finish({"costs": costs, "paths": len(losses.paths)})
        return supernet, losses, run

    @cached_property
    def pretrained_filter(self) -> tuple[PathFilter, Run]:
        """The path filter trained on paths of the classification supernet."""
        _, losses, _ = self.classification
        run, path_filter = self.open("filter"), self.new_filter()
        costs = {"filter": self._train_filter(run, "filter", path_filter, losses, self.preset.path_filter.pretraining)}
        if run.result is None:
            run.finish({"costs": costs})
        return path_filter, run

    @cached_property
    def warm_up(self) -> tuple[dict, PathFilter, PathLosses, Run]:
        """Algorithm 1, lines 2 to 4: the supernet's weights, the fine-tuned filter, the paths it was tuned on."""
        run, supernet, task = self.open("warm-up"), self._transferred(self.detector()), self.detection_task
        everything = Operations.all(self.space)
        costs = {"warm-up": self._fit(run, "warm-up", supernet, task, everything.sample, self.preset.warm_up)}
        losses, costs["sampling"] = self._path_losses(
            run, "warm-up", supernet, task, everything, self.preset.fine_tuning_paths
        )
        path_filter = self.new_filter()
        path_filter.load_state_dict(self.pretrained_filter[0].state_dict())
        fine_tuning = self.preset.path_filter.fine_tuning
        costs["filter"] = self._train_filter(run, "filter", path_filter, losses, fine_tuning)
        if run.result is None:
            run.finish({"costs": costs, "paths": len(losses.paths)})
        return supernet.state_dict(), path_filter, losses, run

    def _transferred(self, supernet: CenterNet) -> CenterNet:
        """The backbone of the classification supernet; neck and heads stay fresh (Section 4.1)."""
        supernet.backbone.load_state_dict(self.classification[0].backbone.state_dict())
        return supernet

    def pruned(self, pruning: PruningSettings) -> tuple[PathSampler, OperationScores]:
        """Algorithm 1, lines 5 and 6, after the shared warm-up."""
        scorer = self.scorer(self.warm_up[1])
        return prune(Operations.all(self.space), scorer, pruning, self.preset.operation_samples, self.seed)

    def operations(self, variant: Variant) -> Operations:
        """The space that a variant's nets are searched in."""
        if variant.coupled:
            return Operations.compound(self.space)
        if variant.pruning is not None:
            return self.pruned(variant.pruning)[0].operations
        return Operations.all(self.space)

    def trained(self, name: str) -> tuple[CenterNet, Run, dict]:
        """The supernet of `VARIANTS[name]` after training, its run, and the seconds that each part took."""
        variant, preset = VARIANTS[name], self.preset
        run, supernet = self.open(name, variant=asdict(variant)), self.detector()
        task, largest = self.detection_task, self.space.largest()[None]
        if variant.shrinking:
            full, _, costs = self.trained("fullnet")
            supernet.load_state_dict(full.state_dict())
            teacher = self.final_evaluator.recalibrate(full.extract(self.space.largest()))
            reports = progressive_shrinking(
                run,
                supernet,
                teacher,
                task,
                centernet_distillation,
                preset.shrinking,
                self.seed,
                self.device,
                self.precision,
            )
            for phase, report in zip(preset.shrinking.phases, reports, strict=True):
                costs[phase.name] = {"seconds": report.seconds, "cpu_seconds": report.cpu_seconds}
            return supernet, run, costs
        sampler = self.operations(variant).sample
        if variant.full_net:
            sampler = lambda count, _: largest  # noqa: E731
        if variant.shared_warm_up:
            weights, _, _, warm_up = self.warm_up
            supernet.load_state_dict(weights)
            costs = {"warm-up": warm_up.result["costs"]["warm-up"]}
            if variant.pruning is not None:
                costs |= {part: warm_up.result["costs"][part] for part in ("sampling", "filter")}
                sampler = self.pruned(variant.pruning)[0]
        else:
            if variant.transfer:
                self._transferred(supernet)
            costs = {"warm-up": self._fit(run, "warm-up", supernet, task, sampler, preset.warm_up)}
        costs["fine-tuning"] = self._fit(run, "fine-tuning", supernet, task, sampler, preset.fine_tuning)
        return supernet, run, costs

    # ---- results

    def result(self, name: str) -> dict:
        """The finished variant: what it cost, and for every budget the net found, a random search's, and their AP."""
        run = self.open(name, variant=asdict(VARIANTS[name]))
        if run.result is not None:
            return run.result
        supernet, _, costs = self.trained(name)
        if VARIANTS[name].full_net:
            largest = self.space.largest()
            run.finish({"costs": costs, "full": self.measured(run, supernet, [largest])[0]})
            return run.result
        operations = self.operations(VARIANTS[name])
        losses, costs["search sampling"] = self._path_losses(
            run, "search", supernet, self.detection_task, operations, self.preset.search_paths
        )
        path_filter = self.search_filter(run, losses)
        found, by_chance = [], []
        began = time.perf_counter()
        for share in self.preset.budget_shares:
            budget = self.constraint.budget(share)
            found.append(self.find(operations, path_filter, budget).best)
            affordable = self.constraint.cost(losses.paths) <= budget
            best = np.where(affordable, losses.losses, np.inf).argmin()
            by_chance.append(losses.paths[best] if affordable.any() else None)
        seconds = time.perf_counter() - began
        run.finish(
            {
                "costs": costs,
                "search_seconds": seconds,
                "space": str(operations.size()),
                "budgets": [self.constraint.budget(share) for share in self.preset.budget_shares],
                "found": self.measured(run, supernet, found),
                "random": self.measured(run, supernet, by_chance),
            }
        )
        return run.result

    def search_filter(self, run: Run, losses: PathLosses) -> PathFilter:
        """Section 3.3: the filter trained again on paths of the finished supernet, as predictor of the search."""
        path_filter = self.new_filter()
        path_filter.load_state_dict(self.pretrained_filter[0].state_dict())
        self._train_filter(run, "search-filter", path_filter, losses, self.preset.path_filter.fine_tuning)
        return path_filter

    def find(self, operations: Operations, path_filter: PathFilter, budget: float) -> EvolutionResult:
        """The best path for one budget."""
        return search(operations, self.scorer(path_filter), budget, self.preset.evolution, self.seed)

    def sampled(self, name: str) -> list[dict]:
        """Figure 6: uniform paths of every bucket from a variant's space, with AP and cost."""
        operations = self.operations(VARIANTS[name])
        generator = np.random.default_rng([self.seed, 6])
        paths = sample_per_bucket(operations, self.constraint, self.preset.figure6_paths, generator)
        supernet, run, _ = self.trained(name)
        return self.measured(run, supernet, paths)

    def measured(self, run: Run, supernet: CenterNet, paths: Sequence[np.ndarray | None]) -> list[dict | None]:
        """For each path of a trained supernet: its name, costs and the 12 COCO numbers on the validation images.

        None stays None: a random search that was offered no path within the budget.
        """

        def measure(path: np.ndarray) -> dict:
            network = self.final_evaluator.recalibrate(supernet.extract(path))
            numbers = average_precision(network, self._validation_batches, self._truth)
            cost = float(self.constraint.cost(path[None])[0])
            return {"cost": cost, "bucket": int(self.constraint.bucket(path[None])[0]), **numbers}

        def key(path: np.ndarray) -> list[str]:
            return ["AP", self.space.key(path)]

        records = evaluate_all(measure, [path for path in paths if path is not None], run, key, label="AP")
        return [
            None if path is None else {"path": self.space.key(path), "choices": path.tolist(), **next(records)}
            for path in paths
        ]
