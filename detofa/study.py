"""One seed of DetOFA on one data set: every trained thing, made when first asked for, kept in a run folder.

All methods share, for a seed, the pre-trained weights, the data order, the held-out images and, but for CompOFA* and
the full net, the warm-up. What a run is made of stands in detofa/method.py.

    classification, filter, warm-up    what the supernets of a seed build on (`method.SHARED`)
    VARIANT                            one supernet of `presets.VARIANTS`, with the nets found in it for every budget
    sampled-VARIANT                    AP of uniform paths of it (Figure 6)
    filter-ablation-NAME               the path filter, cross-validated (Table 2)
    plateau-KIND-LENGTH                the full net or a uniform supernet, trained shorter or longer
    latency                            milliseconds of the space's blocks, for all seeds
"""

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.batch import Batch
from common.data.batches import ClassificationBatches
from common.evaluate.latency import measure_latency
from common.evaluate.subnetworks import Evaluator
from common.models.centernet import CenterNet, centernet_losses
from common.models.classifier import Classifier, classification_losses
from common.models.ofa_resnet import PLAIN, Bottleneck, OFAResNet, Stem, weights_of_release
from common.models.torchvision_weights import read_state
from common.plain import InputError, from_json
from common.search.executors import Evaluation, evaluate_all
from common.settings import CROP_AUGMENTATION, Optimisation, lasting
from common.study import Study
from common.train.checkpoint import load_strictly
from common.train.run_folder import Run
from detofa import method
from detofa.method import Costs, Operations, OperationScores, PathFilter, PathLosses, PathScorer, Task
from detofa.presets import ABLATIONS, UNITS, VARIANTS, FilterSettings, Options, Preset, PruningSettings, Variant
from detofa.space import BlockShape, Constraint, CostTable, OFAResNetSpace, StemShape

PRETRAINED = ("classification", "filter")
"""Runs that learn from crops alone."""


class Released(NamedTuple):
    """Once-for-All's released supernet: the SHA-256 of its file, and the backbone's weights."""

    digest: str
    weights: dict[str, Tensor]


class DetOFAStudy(Study):
    """All runs of one seed. Supernets are trained in the study's precision, and evaluated in float32."""

    paper = "detofa"
    preset: Preset
    options: Options

    def identity(self) -> dict[str, Any]:
        digest = None if self.released is None else self.released.digest
        return {"constraint": self.options.constraint, "pretrained": digest}

    def is_pretraining(self, what: str) -> bool:
        return self.pretrained_once and what in (*PRETRAINED, "latency")  # the filter's buckets are those of its table

    @property
    def space(self) -> OFAResNetSpace:
        """The search space A."""
        return self.preset.space

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the detection images."""
        return self.preset.image_size, self.preset.image_size

    # ---- data

    @cached_property
    def detection_task(self) -> Task:
        """CenterNet's loss on the training images; paths are compared on the held-out ones."""
        batches = self.training_batches(self.size, self.preset.batch_size)
        return Task(batches, centernet_losses, self._evaluator(self.preset.proxy_calibration_images))

    @cached_property
    def final_evaluator(self) -> Evaluator:
        """For networks whose AP is reported: more images to re-estimate batch norm."""
        return self._evaluator(self.preset.calibration_images)

    def _evaluator(self, calibration_images: int) -> Evaluator:
        calibration = list(self.training_images(self.size, calibration_images).in_order())
        return Evaluator(calibration, self._held_out, centernet_losses)

    @cached_property
    def _held_out(self) -> list[Batch]:
        return list(self.measuring_batches("search", self.size).in_order())

    @cached_property
    def classification_task(self) -> Task:
        """Cross-entropy on nine tenths of the crops; paths are compared on the last tenth."""
        preset, crops = self.preset, self.crops
        held_out = max(1, len(crops.labels) // 10)
        training, proxy = crops.split(len(crops.labels) - held_out)
        epoch = training.repeated((preset.crops or 0) - held_out)
        batches = ClassificationBatches(epoch, preset.crop_batch_size, self.device, CROP_AUGMENTATION, self.seed)
        calibration, _ = training.split(min(len(training.labels), preset.proxy_calibration_images))
        in_order = [
            list(ClassificationBatches(part, preset.evaluation_batch_size, self.device).in_order())
            for part in (calibration, proxy)
        ]
        return Task(batches, classification_losses, Evaluator(*in_order, classification_losses))

    # ---- costs

    @property
    def constraint(self) -> Constraint:
        """What a path costs, at the size of the detection images."""
        if self.options.constraint == "latency":
            self._milliseconds()  # a run that is used whenever the constraint is asked for
        return self._constraint

    @cached_property
    def _constraint(self) -> Constraint:
        preset, name = self.preset, self.options.constraint
        if name != "latency":
            return preset.constraint(name)
        known = self._milliseconds()
        table = CostTable(self.space, lambda shape: known[str(shape)], preset.image_size)
        return Constraint.of(name, UNITS[name], table, preset.bucket_spacing)

    def _milliseconds(self) -> dict[str, float]:
        """Block or stem -> its latency."""
        return self.once("latency", self._time_blocks, shared=True, timed=True, pretrained=None)["blocks"]

    def _time_blocks(self, run: Run) -> dict[str, Any]:
        """Measured once for all seeds: every process then has the same buckets and budgets."""
        shapes: dict[str, StemShape | BlockShape] = {}

        def noted(shape: StemShape | BlockShape) -> float:
            shapes[str(shape)] = shape
            return 0.0

        def timed(shape: StemShape | BlockShape) -> dict[str, float]:
            return {"median_ms": self._latency(shape)}

        CostTable(self.space, noted, self.preset.image_size)
        records = evaluate_all(timed, shapes.values(), run, str, score=None, label="blocks")
        return {"blocks": {record["key"]: record["median_ms"] for record in records}}

    def _latency(self, shape: StemShape | BlockShape) -> float:
        """Median milliseconds of a stem or block, over as many passes as a detector is timed by."""
        if isinstance(shape, StemShape):
            channels, module = 3, Stem(PLAIN, shape.middle, shape.out_channels, shape.residual)
        else:
            channels, widths = shape.in_channels, (shape.in_channels, shape.middle, shape.out_channels)
            module = Bottleneck(PLAIN, *widths, stride=shape.stride, project=shape.first)
        preset = self.preset
        return measure_latency(
            module,
            (channels, *shape.size),
            self.device,
            warmup=preset.latency_warmup,
            runs=preset.latency_images,
            pause_s=preset.latency_pause,
        ).median_ms

    @property
    def budgets(self) -> list[float]:
        """The budgets of figures 5, 8 and 9."""
        return [self.constraint.budget(share) for share in self.preset.budget_shares]

    # ---- networks

    @cached_property
    def released(self) -> Released | None:
        """What `--pretrained` names; None without it."""
        file = self.options.pretrained
        if file is None:
            return None
        try:
            weights = weights_of_release(read_state(file), self.space.max_depths)
            load_strictly(self._backbone(), weights, str(file))
        except InputError as error:
            raise InputError(f"--pretrained cannot be used: {error}") from None
        return Released(hashlib.sha256(file.read_bytes()).hexdigest(), weights)

    def classifier(self) -> Classifier:
        """A classification supernet: fresh, or the released one with a fresh classifier."""
        torch.manual_seed(self.seed)
        network = Classifier(self._backbone(), len(self.crops.categories))
        if self.released is not None:
            network.backbone.load_state_dict(self.released.weights)
        return self.placed(network)

    def detector(self) -> CenterNet:
        """A fresh detection supernet."""
        torch.manual_seed(self.seed)
        preset = self.preset
        network = CenterNet(self._backbone(), len(self.categories), preset.neck_widths, preset.head_width, elastic=True)
        return self.placed(network)

    def _backbone(self) -> OFAResNet:
        return OFAResNet(self.space, zero_init_last=self.preset.zero_init_last)

    def transferred(self, supernet: CenterNet) -> CenterNet:
        """With the backbone of the classification supernet; neck and heads stay fresh (Section 4.1)."""
        self.shared("classification")
        backbone = self.restore(self.classifier(), "classification", "uniform").backbone
        supernet.backbone.load_state_dict(backbone.state_dict())
        return supernet

    def new_filter(self, settings: FilterSettings | None = None) -> PathFilter:
        """A fresh path filter. settings: the preset's, unless given."""
        torch.manual_seed(self.seed)
        return PathFilter(self.space, self.constraint.buckets, settings or self.preset.path_filter).to(self.device)

    def filter_of(self, what: str, stage: str = "filter") -> PathFilter:
        """The path filter that a run trained."""
        (self.shared if what in method.SHARED else self.result)(what)
        return self.restore(self.new_filter(), what, f"{stage}-best").eval()

    def scorer(self, path_filter: PathFilter) -> PathScorer:
        """The filter with this study's space and constraint."""
        return PathScorer(path_filter, self.space, self.constraint)

    def supernet(self, name: str) -> CenterNet:
        """The trained supernet of `VARIANTS[name]`."""
        self.result(name)
        stage = self.preset.shrinking.phases[-1].name if VARIANTS[name].shrinking else "fine-tuning"
        return self.restore(self.detector(), name, stage)

    # ---- runs

    def shared(self, what: str) -> dict[str, Any]:
        """The result of one of `method.SHARED`."""
        study = self
        if self.is_pretraining(what) and self.seed:  # the same whichever seed asks first
            study = DetOFAStudy(self.options, 0, self.command)
            study._recorders = self._recorders
        return self.once(what, partial(method.SHARED[what], study))

    def validated(self, what: str) -> PathLosses:
        """The paths that a shared run validated, with their losses."""
        self.shared(what)
        return method.validated_paths(Run.read(self.run_path(what)), what, self.space)

    def pruned(self, pruning: PruningSettings) -> tuple[method.PathSampler, OperationScores]:
        """Algorithm 1, lines 5 and 6, after the shared warm-up; done once."""
        if pruning not in self._pruned:
            scorer, began = self.scorer(self.filter_of("warm-up")), time.process_time()
            found = method.prune(Operations.all(self.space), scorer, pruning, self.preset.operation_samples, self.seed)
            self._pruned[pruning] = found, time.process_time() - began
        return self._pruned[pruning][0]

    @cached_property
    def _pruned(self) -> dict[PruningSettings, tuple[tuple[method.PathSampler, OperationScores], float]]:
        """What was pruned by some settings, and the CPU seconds that it took."""
        return {}

    def operations(self, variant: Variant) -> Operations:
        """The space that a variant's nets are searched in."""
        if variant.coupled:
            return Operations.compound(self.space)
        if variant.pruning is not None:
            return self.pruned(variant.pruning)[0].operations
        return Operations.all(self.space)

    def is_finished(self, name: str) -> bool:
        """Whether the supernet of `VARIANTS[name]` is trained and searched."""
        return (self.run_path(name) / "result.json").is_file()

    def prepare(self, name: str) -> None:
        """Make the shared runs that `VARIANTS[name]` builds on: a fault in them is every variant's."""
        variant = VARIANTS[name]
        if variant.shared_warm_up or variant.transfer:
            self.shared("warm-up" if variant.shared_warm_up else "classification")

    def result(self, name: str) -> dict[str, Any]:
        """The supernet of `VARIANTS[name]`, trained where it is not there yet: what it cost, and for every budget the
        net found, a random search's, and their AP.
        """
        variant = VARIANTS[name]
        return self.once(name, partial(self.train_and_search, variant), variant=asdict(variant))

    def train_and_search(self, variant: Variant, run: Run) -> dict[str, Any]:
        """Sections 3.2 and 3.3 for one way to train the supernet."""
        supernet, costs = self._train(variant, run)
        if variant.full_net:
            return {"costs": costs, "full": self.measured(run, supernet, [self.space.largest()])[0]}
        operations, preset, constraint = self.operations(variant), self.preset, self.constraint
        # Section 3.3: before the search the filter is trained again, on m paths a bucket of the finished supernet.
        losses, costs["search sampling"] = method.sample_paths(
            self, run, "search", supernet, self.detection_task, operations, preset.fine_tuning_paths
        )
        path_filter, training = self.filter_of("filter"), self.training(preset.path_filter.fine_tuning)
        method.train_filter(run, "search-filter", path_filter, losses, self.space, constraint, training)
        scorer, began = self.scorer(path_filter), time.process_time()
        found = [method.search(operations, scorer, budget, preset.evolution, self.seed).best for budget in self.budgets]
        seconds = time.process_time() - began + self._pruned.get(variant.pruning, (None, 0.0))[1]
        chance = [method.best_affordable(losses, constraint, budget) for budget in self.budgets]
        return {
            "costs": costs,
            "search_seconds": seconds,
            "space": str(operations.size()),
            "budgets": self.budgets,
            "found": self.measured(run, supernet, found),
            "random": self.measured(run, supernet, chance),
        }

    def _train(self, variant: Variant, run: Run) -> tuple[CenterNet, Costs]:
        """The variant's supernet, and what each part of its training took."""
        preset, task, largest = self.preset, self.detection_task, self.space.largest()
        fine_tuning = self.equal_cost(variant.equal_cost_of) if variant.equal_cost_of else preset.fine_tuning
        if variant.shared_warm_up:
            return method.algorithm_1(self, run, variant.pruning, fine_tuning)
        supernet = self.detector()
        if variant.shrinking:
            costs = dict(self.result("fullnet")["costs"])
            self.restore(supernet, "fullnet", "fine-tuning")
            full_net = self.final_evaluator.recalibrate(supernet.extract(largest))
            settings, training = preset.shrinking, self.training(preset.shrinking.optimisation)
            reports = method.progressive_shrinking(run, supernet, full_net, task, settings, training)
            phases = zip(settings.phases, reports, strict=True)
            return supernet, costs | {phase.name: method.took(report) for phase, report in phases}
        if variant.transfer:
            self.transferred(supernet)
        sampler = method.only(largest) if variant.full_net else self.operations(variant).sample
        stages = {"warm-up": preset.warm_up, "fine-tuning": fine_tuning}
        return supernet, {
            stage: method.took(method.train(run, stage, supernet, task, sampler, self.training(optimisation)))
            for stage, optimisation in stages.items()
        }

    def equal_cost(self, name: str) -> Optimisation:
        """The fine-tuning with which `VARIANTS[name]` takes as many processor seconds as ours, by recorded times."""
        ours, own, shortest = self.result("ours")["costs"], self.result(name)["costs"], self.preset.fine_tuning
        missing = training_budget(ours)["cpu_seconds"] - training_budget(own)["cpu_seconds"]
        longer = max(1.0, 1 + missing / own["fine-tuning"]["cpu_seconds"])
        return lasting(shortest, round(longer * shortest.epochs))

    def measured(
        self, run: Run, supernet: CenterNet, paths: Sequence[np.ndarray | None]
    ) -> list[dict[str, Any] | None]:
        """For each path of a trained supernet: its name, costs and the 12 COCO numbers on the validation images.

        None stays None: a random search that was offered no path within the budget.
        """

        def measure(path: np.ndarray) -> Evaluation:
            network = self.final_evaluator.recalibrate(supernet.extract(path))
            cost, bucket = self.constraint.cost(path[None]), self.constraint.bucket(path[None])
            about = {"cost": float(cost[0]), "bucket": int(bucket[0])}
            precision = self.precision_of(network, self.size, "validation")
            return about | precision() if self.device == "cpu" else lambda: about | precision()

        def key(path: np.ndarray) -> list[str]:
            return ["AP", self.space.key(path)]

        records = evaluate_all(measure, [path for path in paths if path is not None], run, key, label="AP")
        return [
            None if path is None else {"path": self.space.key(path), "choices": path.tolist(), **next(records)}
            for path in paths
        ]

    # ---- what exhibits measure besides

    def sampled(self, name: str) -> list[dict[str, Any]]:
        """Figure 6: uniform paths of every bucket from a variant's space, with AP and cost."""

        def make(run: Run) -> dict[str, Any]:
            supernet, generator = self.supernet(name), np.random.default_rng([self.seed, 6])
            operations, each = self.operations(VARIANTS[name]), self.preset.figure6_paths
            paths = method.sample_per_bucket(operations, self.constraint, each, generator)
            return {"paths": self.measured(run, supernet, paths)}

        return self.once(f"sampled-{name}", make)["paths"]

    def cross_validated(self, name: str) -> dict[str, Any]:
        """Table 2: scores of the warm-up's paths, each by a filter that was fine-tuned on the other folds.

        All folds start from one filter, pre-trained with the same ablation on paths of the classification supernet.
        name: of `ABLATIONS`, or "ridge" for `method.ridge_scores` on the same folds.
        """
        settings = replace(self.preset.path_filter, **ABLATIONS.get(name, {}))

        def make(run: Run) -> dict[str, Any]:
            constraint, pretrained, data = self.constraint, self.new_filter(settings), self.validated("warm-up")

            def train(stage: str, path_filter: PathFilter, losses: PathLosses, training: method.Training) -> None:
                method.train_filter(run, stage, path_filter, losses, self.space, constraint, training)

            if name in ABLATIONS:
                train("pretraining", pretrained, self.validated("classification"), self.training(settings.pretraining))
            buckets = constraint.bucket(data.paths)
            fold = folds_of(buckets, self.preset.filter_folds, np.random.default_rng([self.seed, 2]))
            scores = np.empty(len(fold))
            for held_out in range(self.preset.filter_folds):
                path_filter, inside = self.new_filter(settings), fold != held_out
                chosen = data[inside]
                if name == "ridge":
                    scores[~inside] = method.ridge_scores(self.space, constraint, chosen, data.paths[~inside])
                    continue
                path_filter.load_state_dict(pretrained.state_dict())
                train(f"fold-{held_out}", path_filter, chosen, self.training(settings.fine_tuning))
                scores[~inside] = self.scorer(path_filter)(data.paths[~inside])
            return {"scores": scores, "losses": data.losses, "buckets": buckets, "fold": fold}

        return self.once(f"filter-ablation-{name}", make, filter=asdict(settings))

    def plateau(self, kind: str, length: float) -> tuple[float, ...]:
        """Samples, and AP in points of the full net (kind "full"), or of the cheapest, middle and dearest path of a
        uniform supernet, trained `length` times as long as the preset says.
        """
        space, preset = self.space, self.preset
        epochs = round(length * (preset.warm_up.epochs + preset.fine_tuning.epochs))
        optimisation = lasting(preset.fine_tuning, epochs)
        some = space.sample(1000, np.random.default_rng(0))
        middle = some[np.abs(self.constraint.cost(some) - self.constraint.budget(0.5)).argmin()]
        paths = {"full": [space.largest()], "uniform": [space.smallest(), middle, space.largest()]}[kind]

        def make(run: Run) -> dict[str, Any]:
            supernet = self.transferred(self.detector())
            sampler = method.only(space.largest()) if kind == "full" else Operations.all(space).sample
            report = method.train(run, "training", supernet, self.detection_task, sampler, self.training(optimisation))
            return {"samples": report.samples, "paths": self.measured(run, supernet, paths)}

        result = self.once(f"plateau-{kind}-{length:g}", make)
        found = [path.get("AP") for path in result["paths"]]  # None: not measured, for what is trained has diverged
        return result["samples"], *(math.nan if each is None else 100 * each for each in found)

    def operation_scores(self, what: str) -> OperationScores:
        """Figure 7: scores of all operations by the filter of a shared run; every filter scores the same paths."""
        generator, scorer = np.random.default_rng([self.seed, 7]), self.scorer(self.filter_of(what))
        return method.score_operations(Operations.all(self.space), scorer, self.preset.operation_samples, generator)


def training_budget(costs: Costs) -> dict[str, float]:
    """Samples and processor seconds to the finished supernet; what is sampled for the search is no part (Table 3)."""
    parts = {name: part for name, part in costs.items() if name != "search sampling"}
    samples = sum(part["samples"] for name, part in parts.items() if name not in ("sampling", "filter"))
    return {"samples": samples, "cpu_seconds": sum(part["cpu_seconds"] for part in parts.values())}


def folds_of(buckets: np.ndarray, folds: int, generator: np.random.Generator) -> np.ndarray:
    """(P,) int64: the fold of each path, every bucket spread evenly over the folds."""
    order = generator.permutation(len(buckets))
    order = order[np.argsort(buckets[order], kind="stable")]
    fold = np.empty(len(buckets), dtype=np.int64)
    fold[order] = np.arange(len(buckets)) % folds
    return fold


class FinishedStudy(DetOFAStudy):
    """The study that a finished supernet belongs to, wherever its folder lies: runs are read and never made.

    path: the run folder of one of `VARIANTS`. device: where networks go, whatever they were trained on. Nothing is
    written to the run, and it is not locked: searches may run beside a reproduction.

    Raises `InputError` when the folder is missing, holds something else, is not finished, or its data are not there.
    """

    def __init__(self, path: Path | str, device: str | None = None) -> None:
        self.run = _finished(Path(path))
        config = self.run.config
        fields = {name: config.get(name) for name in ("data", "precision", "constraint", "preset")}
        options = from_json(Options, {**fields, "scale": config["preset"].get("name")}, f"config.json of {path}")
        super().__init__(replace(options, device=device), config["seed"])
        self.name = config["what"]
        self.folder = self.run.path.resolve().parent  # wherever the runs were moved to
        if self.training_set.fingerprint() != config["training_set"]:
            raise InputError(
                f"{path} was trained on other images than {self.data} now holds: put the data back as they were, or "
                "train again into another folder with --out"
            )

    def once(
        self, what: str, make: Callable[[Run], Mapping[str, Any]], *, shared: bool = False, **settings: Any
    ) -> dict[str, Any]:
        path = self.run_path(what, shared)
        result = Run.read(path).result
        if result is None:
            raise InputError(f"{path} is not finished: give its detofa.train command again, it goes on")
        return result

    @cached_property
    def trained(self) -> CenterNet:
        """The supernet with its final weights."""
        return self.supernet(self.name)

    @cached_property
    def space_left(self) -> Operations:
        """The space that the supernet was trained for, pruned or whole."""
        return self.operations(VARIANTS[self.name])

    @cached_property
    def predictor(self) -> PathFilter:
        """The filter trained on paths of the finished supernet (Section 3.3)."""
        return self.filter_of(self.name, "search-filter")

    @cached_property
    def candidates(self) -> PathLosses:
        """The uniform paths that the predictor learnt from, with their losses: a random search picks among them."""
        return method.validated_paths(self.run, "search", self.space)


def _finished(path: Path) -> Run:
    """The run at `path`, which must be a finished supernet of this paper."""
    if not path.is_dir():
        raise InputError(f"there is no folder {path}: train a supernet with python -m detofa.train, or check the path")
    run = Run.read(path)
    config = run.config
    if config.get("paper") != "detofa" or not isinstance(config.get("preset"), dict):
        raise InputError(f"{path} is not a run of detofa: give the folder that python -m detofa.train names at its end")
    what = config.get("what")
    if what not in VARIANTS or VARIANTS[what].full_net:
        searchable = ", ".join(name for name, variant in VARIANTS.items() if not variant.full_net)
        raise InputError(f"{path} is the run {what!r}, which is no supernet to search in: give one of {searchable}")
    if run.result is None:
        raise InputError(f"the supernet in {path} is not finished: give its detofa.train command again, it goes on")
    return run
