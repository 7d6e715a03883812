"""One seed of one paper on one data set: its data, its runs, and what every paper measures alike.

A paper's own study adds how its networks are built and trained. Every trained thing is a run, made when it is first
asked for and kept in a folder: `once(what, make)` makes it or reads it, and remembers that it was used. So what an
exhibit rests on is a by-product of measuring it, and no list of runs is written by hand.
"""

import contextlib
import math
import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cache, cached_property, lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from common import __version__, progress
from common.cli import StudyOptions
from common.cost import count
from common.data.batches import ClassificationBatches, DetectionBatches, memory_for_images, resident
from common.data.crops import Crops, object_crops
from common.data.detection_set import DetectionSet, describe
from common.data.image_files import ImageFiles
from common.data.source import load
from common.data.splits import SEARCH_SHARE, epoch_of, training_and_held_out
from common.evaluate.average_precision import METRICS, GroundTruth
from common.evaluate.inspection import write_sheet
from common.evaluate.latency import Detection, device_name, measure_latency
from common.evaluate.recalibrate import reestimate_batch_norm
from common.evaluate.subnetworks import precision_of
from common.models.classifier import Classifier, classification_losses
from common.models.detector import save_detector
from common.models.ofa_resnet import OFAResNet
from common.models.outline import outline
from common.models.torchvision_weights import IMAGENET_BACKBONES, imagenet_backbone
from common.plain import InputError, read_json, read_json_if_there, sync_entries, to_json
from common.settings import CROP_AUGMENTATION, Optimisation, StudyPreset
from common.train import distributed
from common.train.checkpoint import load_strictly
from common.train.loop import REMEDY, FitReport, Training, TrainingError, fit
from common.train.run_folder import Run, describe_environment

CALIBRATION_IMAGES = 64
"""Training images that batch norm is re-estimated on where a supernet is validated while it is trained."""
STANDARD_WIDTH = 64
"""Channels of the first stage of a standard ResNet, which ImageNet weights are for."""

_LOOKED_AT = 2000
"""Pictures in a split that are decoded before anything is trained: a few seconds."""
_PRETRAINING = ("pretraining_data", "crop_size", "crop_batch_size", "crops", "classification")
"""Fields of a preset that training on crops depends on, beside the network's."""

Make = Callable[[Run], Mapping[str, Any]]


class Recording:
    """Remembers which runs are used while something is measured."""

    _recorders: list[dict[str, None]]

    @contextmanager
    def recording(self) -> Iterator[dict[str, None]]:
        """Names of the runs (DATA-SCALE/RUN) that are used inside, in order, with those that they were made from."""
        used: dict[str, None] = {}
        self._recorders.append(used)
        try:
            yield used
        finally:
            self._recorders.pop()


class Study(Recording):
    """All runs of one seed.

    options: the paper's flags, with the preset. seed: of weights, data order and sampling. command: as typed, kept in
    the records of the runs. The same study pickled to another process reads its own data, once.
    """

    paper: ClassVar[str]
    """Package of the paper; its runs lie in OUT/PAPER/DATA-SCALE/."""
    PRETRAINING_READS: ClassVar[Sequence[str] | None] = None
    """Fields of the preset that runs which learn from another set depend on; None means all."""

    def __init__(self, options: StudyOptions, seed: int = 0, command: str | None = None):
        if seed < 0:
            raise InputError(f"--seed must be at least 0, got {seed}")
        self.options, self.seed, self.command = options, seed, command
        self.preset, self.data, self.precision = options.preset, options.data, options.precision
        self.device = str(distributed.start(options.device))
        self.folder = Path(options.out) / self.paper / options.run_folder
        self._results: dict[str, dict[str, Any]] = {}
        self._recorders: list[dict[str, None]] = []
        self._making: list[Run] = []

    def __getstate__(self) -> dict[str, Any]:
        kept = {key: value for key, value in vars(self).items() if key not in type(self).__dict__}
        return kept | {"_results": {}, "_recorders": [], "_making": []}

    def on(self, data: str) -> "Study":
        """The study of the same seed on another data set; what it uses counts as used here."""
        other = type(self)(replace(self.options, data=data), self.seed, self.command)
        other._recorders = self._recorders
        return other

    # ---- runs

    def identity(self) -> dict[str, Any]:
        """What a paper's runs depend on besides data, seed, precision and preset."""
        return {}

    def once(
        self,
        what: str,
        make: Make,
        *,
        shared: bool = False,
        timed: bool = False,
        reads: Sequence[str] | None = None,
        **settings: Any,
    ) -> dict[str, Any]:
        """The result of the run `what`: read where it is finished, else what make(run) returns.

        shared: the run is one for all seeds. timed: its result are times, of one device and number of threads. reads:
        the fields of the preset that it depends on; None means all. settings: what it depends on besides preset, data
        and seed, kept in its config: a run with other settings is refused. An interrupted run goes on where it stopped,
        with as many processes as it was begun with.
        """
        path = self.run_path(what, shared)
        name = f"{path.parent.name}/{path.name}"
        if timed:
            settings["timed_on"] = self._timer()
        if not shared and not self._is_of_all_seeds(what):
            settings["seed"] = self.seed
        if name not in self._results:
            with self._opened(path, what, settings, reads) as run:
                found = distributed.by_first(partial(_finished, run))
                if found is None:
                    distributed.by_first(self._source.announce)
                    with progress.stage(path.name), self.recording() as used:
                        self._making.append(run)
                        try:
                            result = make(run)
                        except FloatingPointError as error:  # what is measured, long after a loss was last looked at
                            raise TrainingError(f"a network of {path} has diverged ({error}): {REMEDY}") from error
                        finally:
                            self._making.pop()
                        run.write_json("uses", list(used))
                        run.finish(result)
                    self._show(run)
                    found = distributed.by_first(partial(_finished, run))
                self._results[name] = found
                progress.found_done(path.name, *(used.rpartition("/")[2] for used in found["uses"]))
        for recorder in self._recorders:
            recorder |= dict.fromkeys([*self._results[name]["uses"], name])
        return self._results[name]["result"]

    def is_pretraining(self, what: str) -> bool:
        """Whether a run learns from crops of another set alone: there is one for all data sets, and, unless they are
        pre-trained by seed, for all seeds."""
        return False

    @property
    def pretrained_by_seed(self) -> bool:
        """Whether each seed has its own training on crops of another set."""
        return False

    def _is_of_all_seeds(self, what: str) -> bool:
        return self.is_pretraining(what) and not self.pretrained_by_seed

    @property
    def pretraining_folder(self) -> Path:
        """Where such runs lie: in the folder of the set that they learn from."""
        if not self.pretrained_once:
            return self.folder
        name = self.options.folder_of(self.preset.pretraining_data, self.PRETRAINING_READS)
        return self.folder if name == self.options.run_folder else self.folder.with_name(name)

    def run_name(self, what: str, shared: bool = False) -> str:
        """The name of this seed's run folder of `what`, or of that of all seeds."""
        return what if shared or self._is_of_all_seeds(what) else f"{what}-s{self.seed}"

    def run_path(self, what: str, shared: bool = False) -> Path:
        """This seed's run folder of `what`, or that of all seeds."""
        folder = self.pretraining_folder if self.is_pretraining(what) else self.folder
        return folder / self.run_name(what, shared)

    def weights(self, what: str, stage: str) -> dict[str, Tensor]:
        """Weights of a stage of a finished run, on the CPU."""
        return Run.read(self.run_path(what)).load_weights(stage)[0]

    def restore(self, network: nn.Module, what: str, stage: str) -> nn.Module:
        """`network` with the weights of a stage of a finished run."""
        load_strictly(network, self.weights(what, stage), str(self.run_path(what) / f"{stage}.safetensors"))
        return network

    def save_with_card(
        self,
        path: Path,
        network: nn.Module,
        size: tuple[int, int],
        run: Run,
        encoding: Any,
        measured: Mapping[str, Any],
        searches: Iterable[str] = (),
    ) -> Path:
        """A network as a detector with its card, for `load_detector(path)`; returns the path of its JSON.

        size: of its canvas, width and height. run: what trained it. encoding: its architecture as the paper writes it.
        measured: what is known of it on the validation images: COCO's numbers, "per_class", "latency_of". searches:
        names (DATA-SCALE/RUN) of runs that found it, beside those that `run` was made from.
        """
        cost = count(network, size)
        used = run.read_json("uses", list) if run.result else list(self._recorders[-1])  # or it is being made
        rests_on = dict.fromkeys([*searches, *used, f"{self.folder.name}/{run.path.name}"])
        card = {
            "categories": list(self.categories),
            "input_size": list(size),
            "encoding": encoding,
            "AP": measured.get("AP"),
            "accuracy": {name: measured[name] for name in (*METRICS, "per_class") if name in measured},
            "cost": asdict(cost),
            "latency": measured.get("latency_of"),
            "spent": spent_by(self.folder.parent, rests_on),
            "provenance": {
                "paper": self.paper,
                "run": str(run.path),
                "data": self.data,
                "training_set": self.training_set.fingerprint(),
                "validation_set": self.sets["validation"].fingerprint(),
                "scale": self.preset.name,
                "seed": self.seed,
                "command": describe_environment(self.command)["command"],
                "commit_of_run": run.environment.get("git_commit"),
                "version": __version__,
            },
        }
        saved = save_detector(path, network, card)
        self._show(run, saved)
        return saved

    def _show(self, run: Run, detector: Path | None = None) -> None:
        """Draw the page of a run that is finished, after a sheet of what a detector in it finds; a fault in that costs
        nothing else."""
        if not self.options.SHOWS_RUNS or distributed.rank() > 0:
            return
        from common.report.page import write_page_of_run  # matplotlib takes half a second

        try:
            if detector is not None:
                write_sheet(detector, self.sets["validation"], self.device)
            if run.result is not None and (detector is None or run.path in detector.parents):
                write_page_of_run(run.path)
        except Exception as error:
            print(f"the page of {run.path} could not be drawn ({error}); the run itself is whole", file=sys.stderr)

    def _opened(self, path: Path, what: str, settings: Mapping[str, Any], reads: Sequence[str] | None) -> Run:
        preset = asdict(self.preset)
        if reads is not None:
            preset = {field: preset[field] for field in ("name", *reads)}
        made = self._config_of(path)
        processes = distributed.size()
        if (path / "result.json").exists():  # whoever reads it may be alone
            processes = made.get("processes", processes)
        config = to_json(
            {
                "paper": self.paper,
                "what": what,
                **self._images_of(what, made),
                "precision": self.precision,
                "device": torch.device(self.device).type,
                "processes": processes,
                **self.identity(),
                **settings,
                "preset": preset,
            }
        )
        again = self.options.retry_failed
        if distributed.size() == 1 and all((path / each).exists() for each in ("result.json", "config.json")):
            run = Run.read(path, config)  # finished: others may read it at the same time
            if not again or not run.candidates(status="failed"):
                return run
        run = Run.open(path, config, self.command)
        if again:
            run.forget_failed()
        return run

    def _images_of(self, what: str, made: Mapping[str, Any]) -> dict[str, Any]:
        """The images that a run depends on. made: its config, if it is there."""
        pretraining = {"pretraining_set": self._source.pretraining.fingerprint()} if self.pretrained_once else {}
        if self.is_pretraining(what):
            return {"data": self.preset.pretraining_data, **pretraining}
        return {
            "data": made.get("data") or self.data,  # the same images by another spelling are the same data
            "training_set": self.training_set.fingerprint(),
            "validation_set": self.sets["validation"].fingerprint(),
            **pretraining,
        }

    def _config_of(self, path: Path) -> Mapping[str, Any]:
        """What a run was made with; nothing where it is not there."""
        with contextlib.suppress(InputError):  # the run itself says what is wrong with its config
            known = read_json_if_there(path / "config.json")
            if isinstance(known, Mapping) and isinstance(known.get("data"), str):
                return known
        return {}

    # ---- training

    def training(self, optimisation: Optimisation, seed: int | None = None, drawn_as: str | None = None) -> Training:
        """How a stage of this study is trained. seed: of its draws; None: the study's. drawn_as: see `Training`."""
        return Training(
            optimisation,
            self.seed if seed is None else seed,
            device=self.device,
            precision=self.precision,
            drawn_as=drawn_as,
            validations=self.options.validations,
            validate=self._validated,
        )

    def _validated(self, network: nn.Module, batches: Any) -> dict[str, float | None]:
        """AP on the validation images of a detector that is being trained, at the largest size that it is trained at;
        of a supernet that of its largest network. Nothing where what is trained is no detector.
        """
        if not hasattr(network, "detect"):
            return {}
        if isinstance(getattr(network, "backbone", None), OFAResNet):
            network = network.extract(network.backbone.space.largest())
            calibration = self.training_images(batches.size, CALIBRATION_IMAGES).in_order()
            reestimate_batch_norm(network, (batch.images for batch in calibration))
        try:
            return {"AP": self.precision_at(network, batches.size, "validation")["AP"]}
        except FloatingPointError:  # far from trained: its boxes need not be finite yet
            return {"AP": None}

    def work(self, epochs: float, *sizes: tuple[int, int]) -> float:
        """Pixels that the training of a detector goes through, at a mean of some sizes: what stages are weighed by."""
        return epochs * self.images_an_epoch * sum(map(math.prod, sizes)) / len(sizes)

    @property
    def crop_work(self) -> float:
        """The same of pre-training on crops."""
        preset = self.preset
        return preset.classification.epochs * (preset.crops or len(self.crops.labels)) * preset.crop_size**2

    def placed(self, network: nn.Module) -> nn.Module:
        """The network on the study's device, channels last: thin convolutions run 1.4 to 1.7 times faster so."""
        return network.to(self.device, memory_format=torch.channels_last)

    # ---- data

    @property
    def _source(self) -> "_Source":
        return _source(self.preset, self.data, self.device)

    @property
    def categories(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(self._source.training.categories)

    @property
    def training_set(self) -> DetectionSet:
        """Images that detectors are trained on."""
        return self._source.training

    @property
    def images_an_epoch(self) -> int:
        """How many of them an epoch has; those of a small set come more than once."""
        return len(self._source.epoch)

    @property
    def sets(self) -> dict[str, DetectionSet]:
        """What is measured on: held-out training images in a search, validation images for what is reported."""
        return {"search": self._source.search, "validation": self._source.validation}

    @property
    def crops(self) -> Crops:
        """The classification set: object crops of the training images, or of another set that the preset names."""
        return self._source.crops

    @property
    def pretrained_once(self) -> bool:
        """Whether what is trained on crops is trained once: it learns from images of no seed and no data set."""
        return self.preset.pretraining_data is not None

    def truth(self, where: str) -> GroundTruth:
        """The ground truth of one of `sets`."""
        return self._source.truth(where)

    def training_batches(self, size: tuple[int, int], batch_size: int, seed: int | None = None) -> DetectionBatches:
        """Augmented batches of an epoch's images at a size (width, height). seed: of their order; None: the study's."""
        return DetectionBatches(
            self._source.epoch,
            size,
            batch_size,
            self.device,
            self.preset.augmentation,
            self.seed if seed is None else seed,
            images=self._source.images("epoch", size),
        )

    def training_images(self, size: tuple[int, int], number: int) -> DetectionBatches:
        """The first so many of an epoch at a size, not augmented, in batches for evaluation."""
        first = self._source.epoch.subset(np.arange(min(number, self.images_an_epoch)))
        images = self._source.images("epoch", size)
        held = None if images is None else images[: len(first)]
        return DetectionBatches(first, size, self.preset.evaluation_batch_size, self.device, images=held)

    def measuring_batches(self, where: str, size: tuple[int, int]) -> DetectionBatches:
        """Batches of one of `sets` at a size."""
        images = self._source.images(where, size)
        return DetectionBatches(self.sets[where], size, self.preset.evaluation_batch_size, self.device, images=images)

    # ---- measuring

    def precision_at(
        self, network: nn.Module, size: tuple[int, int], where: str, per_class: bool = False
    ) -> dict[str, Any]:
        """The 12 COCO numbers of a detector on one of `sets` at an input size. per_class: AP by class, too."""
        return self.precision_of(network, size, where, per_class)()

    def precision_of(
        self, network: nn.Module, size: tuple[int, int], where: str, per_class: bool = False
    ) -> Callable[[], dict[str, Any]]:
        """The detector has looked at the images; the call that comes back gives `precision_at`'s numbers."""
        return precision_of(network, self.measuring_batches(where, size).in_order(), self.truth(where), per_class)

    def _timer(self) -> dict[str, Any]:
        return {"device": device_name(torch.device(self.device)), "threads": torch.get_num_threads()}

    def latency_at(self, network: nn.Module, size: tuple[int, int], where: str) -> dict[str, Any]:
        """The latency of detection on images of a set, one at a time; with all that it depends on in "latency_of"."""
        batches = self.measuring_batches(where, size)
        one_by_one = (image[None] for batch in batches.in_order() for image in batch.images)
        images = list(islice(one_by_one, self.preset.latency_images))
        latency = distributed.by_first(  # while the others rest
            lambda: measure_latency(
                Detection(network),
                images[0].shape[1:],
                self.device,
                warmup=self.preset.latency_warmup,
                runs=len(images),
                pause_s=self.preset.latency_pause,
                images=images,
            )
        )
        return {"latency": latency.median_ms, "latency_iqr": latency.iqr_ms, "latency_of": asdict(latency)}

    def latencies_in_turn(
        self, networks: Mapping[str, tuple[nn.Module, tuple[int, int]]], where: str
    ) -> dict[str, dict[str, Any]]:
        """`latency_at` of several detectors that are to be compared, each of them once a round: what slows the machine
        for a while slows them alike. networks: name -> detector and its input size. "latency" is the median over the
        "rounds". The run that is being made keeps those that are done in rounds.json: an interrupted one goes on.
        "latency_iqr": how far the quartiles of the rounds are apart.
        """
        run = self._making[-1] if self._making else None
        asked = {"detectors": list(networks), "where": where, "timed_on": self._timer()}
        kept = run and distributed.by_first(lambda: read_json_if_there(run.path / "rounds.json"))
        rounds = kept.pop("rounds") if kept else []
        rounds = rounds if kept == asked else []
        wanted = self.preset.latency_rounds
        bar = progress.Progress("latencies", wanted, len(rounds), unit="round")
        try:
            while len(rounds) < wanted:
                rounds.append({name: self.latency_at(*each, where) for name, each in networks.items()})
                if run is not None:
                    run.write_json("rounds", asked | {"rounds": rounds})
                bar.advance()
        finally:
            bar.close()
        found = {}
        for name in networks:
            taken = [each[name]["latency"] for each in rounds]
            apart = np.subtract(*np.percentile(taken, [75, 25]))
            latency = {"latency": float(np.median(taken)), "latency_iqr": float(apart), "rounds": taken}
            found[name] = latency | {"latency_of": rounds[0][name]["latency_of"]}
        return found


class BackboneStudy(Study):
    """A study whose detectors start from standard backbones trained on classification."""

    PRETRAINING_READS = (*_PRETRAINING, "detector")

    @property
    def backbone_width(self) -> int:
        """Channels of the first stage of a standard backbone."""
        raise NotImplementedError

    def backbone(self, name: str) -> nn.Module:
        """A fresh backbone by its name."""
        raise NotImplementedError

    def is_pretraining(self, what: str) -> bool:
        return self.pretrained_once and what.startswith("classification-")

    def pretraining_work(self, *backbones: str) -> dict[str, float]:
        """Run -> `crop_work` of each backbone that is trained on crops, for `common.progress.plan`."""
        own = [each for each in backbones if not self._is_of_torchvision(each)]
        return {self.run_name(f"classification-{slug(each)}"): self.crop_work for each in own}

    def _is_of_torchvision(self, backbone: str) -> bool:
        return self.preset.imagenet and self.backbone_width == STANDARD_WIDTH and backbone in IMAGENET_BACKBONES

    def pretrained(self, backbone: str) -> dict[str, Tensor]:
        """Weights of a backbone trained on classification: torchvision's where there are such, else on object crops.

        That training depends on nothing that is set for detectors, and stays when something else is set there.
        """
        if self._is_of_torchvision(backbone):
            return imagenet_backbone(backbone)
        what = f"classification-{slug(backbone)}"
        with outline():
            network = self.backbone(backbone).description
        make = partial(self._pretrain, backbone=backbone, seed=0 if self._is_of_all_seeds(what) else self.seed)
        self.once(what, make, reads=_PRETRAINING, network=network)
        weights = self.weights(what, "classification")
        return {name.removeprefix("backbone."): w for name, w in weights.items() if name.startswith("backbone.")}

    def _pretrain(self, run: Run, backbone: str, seed: int) -> dict[str, Any]:
        preset = self.preset
        torch.manual_seed(seed)
        network = self.placed(Classifier(self.backbone(backbone), len(self.crops.categories)))
        epoch = self.crops.repeated(preset.crops or 0)
        batches = ClassificationBatches(epoch, preset.crop_batch_size, self.device, CROP_AUGMENTATION, seed)

        def losses(batch, _):
            yield classification_losses(network(batch.images), batch)

        report = fit(run, "classification", network, batches, losses, self.training(preset.classification, seed))
        return {**spent(report), "accuracy": report.losses["accuracy"]}


def _finished(run: Run) -> dict[str, Any] | None:
    """A run's result and the runs that it used; None while it is not done."""
    result = run.result
    return None if result is None else {"result": result, "uses": run.read_json("uses", list)}


def spent(report: FitReport) -> dict[str, Any]:
    """What a training took, as results record it."""
    return {
        "seconds": report.seconds,
        "cpu_seconds": report.cpu_seconds,
        "samples": report.samples,
        "peak_memory": report.peak_memory,
        "losses": report.losses,
    }


def spent_by(folder: Path, names: Iterable[str]) -> dict[str, float]:
    """What runs (DATA-SCALE/RUN in a paper's folder) took: training of networks and of candidates.

    Keys: samples, seconds, cpu_seconds, gpu_seconds, candidates. Runs that are not there count as nothing.
    """
    total = dict.fromkeys(("samples", "seconds", "cpu_seconds", "gpu_seconds", "candidates"), 0)
    for path in (folder / name for name in names):
        if not (path / "config.json").exists():
            continue
        run = Run.read(path)
        candidates = run.candidates()
        total["candidates"] += len(candidates)
        for record in [*map(read_json, sorted((path / "stages").glob("*.json"))), *candidates]:
            for name in ("samples", "seconds"):
                total[name] += record.get(name) or 0
            total["cpu_seconds"] += record.get("cpu_seconds") or record.get("train_cpu_seconds") or 0
            total["gpu_seconds"] += (record.get("seconds") or 0) if run.config.get("device") == "cuda" else 0
    return total


def slug(name: str) -> str:
    """A name as it stands in file names: "FPN R50" is fpn-r50."""
    return name.lower().replace(" ", "-").replace("_", "-")


def remove_folder(folder: Path) -> None:
    """Remove a folder so that a kill leaves all of it or nothing under its name: half a folder would not go on."""
    gone = folder.with_name(f".{folder.name}.gone")
    shutil.rmtree(gone, ignore_errors=True)
    if folder.exists():
        folder.rename(gone)
        sync_entries(folder.parent)
        shutil.rmtree(gone, ignore_errors=True)


# ---- data, once a process


class _Source:
    """The sets of one data source, decoded once for every input size that is asked for."""

    def __init__(self, preset: StudyPreset, data: str, device: str) -> None:
        images, held_out = preset.train_images, preset.search_images
        self.training, self.search = training_and_held_out(data, images, held_out, preset.name, SEARCH_SHARE)
        self.epoch = epoch_of(self.training, images)
        self.preset, self.data, self.device = preset, data, device

    @cache  # noqa: B019 (a source lives as long as its process)
    def announce(self) -> None:
        """A line on stderr for each split, once, before the first training. Raises InputError for a damaged picture in
        a split of up to `_LOOKED_AT`: it would otherwise end a training that has gone on for long.
        """
        splits = {"trained on": self.training, "held out to choose by": self.search, "reported on": self.validation}
        for use, dataset in splits.items():
            print(f"{use}: {describe(dataset)}", file=sys.stderr)
        for dataset in splits.values():
            if isinstance(dataset.load_image, ImageFiles) and len(dataset) <= _LOOKED_AT:
                with ThreadPoolExecutor() as pool:  # what is decoded is not kept
                    deque(pool.map(dataset.load_image, range(len(dataset))), maxlen=0)

    @cached_property
    def validation(self) -> DetectionSet:
        return load(self.data, "val", limit=self.preset.validation_images)

    @cached_property
    def pretraining(self) -> DetectionSet:
        """The images that crops are cut out of."""
        return self.training if self.preset.pretraining_data is None else load(self.preset.pretraining_data, "train")

    @cached_property
    def crops(self) -> Crops:
        return object_crops(self.pretraining, self.preset.crop_size, self.preset.crops, seed=0)

    @cache  # noqa: B019 (a source lives as long as its process)
    def truth(self, name: str) -> GroundTruth:
        return GroundTruth(getattr(self, name))

    @cache  # noqa: B019
    def images(self, name: str, size: tuple[int, int]) -> Tensor | None:
        """The decoded images of a set at a size; None where they are too many to be held, and are streamed."""
        dataset = getattr(self, name)
        if len(dataset) * 3 * math.prod(size) > memory_for_images(torch.device(self.device)):
            return None
        if name == "epoch":  # goes through the training images again and again: each of them is decoded once
            once = self.images("training", size)
            return once if dataset is self.training else once[torch.arange(len(dataset)) % len(once)]
        return resident(dataset, size, self.device)


@lru_cache(maxsize=4)
def _source(preset: StudyPreset, data: str, device: str) -> _Source:
    return _Source(preset, data, device)
