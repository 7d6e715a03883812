"""One detector trained and measured: what a candidate of a search goes through, and every final network.

A `Trial` says what to train and how; `Laboratory` holds the data and does it, in this process or in another one.
"""

import math
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache, cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.batch import Batch, ClassificationBatch
from common.cost import count
from common.data.augment import CROP_AUGMENTATION
from common.data.batches import ClassificationBatches, DetectionBatches, memory_for_images, resident
from common.data.crops import object_crops
from common.data.detection_set import DetectionSet
from common.data.source import load
from common.data.splits import epoch_of, training_and_held_out
from common.evaluate.average_precision import GroundTruth
from common.evaluate.latency import measure_latency
from common.evaluate.subnetworks import average_precision
from common.models.classifier import Classifier, classification_losses
from common.models.norm import NormKind
from common.models.outline import outline
from common.models.torchvision_weights import IMAGENET_BACKBONES, imagenet_backbone
from common.train.loop import FitReport, Precision, Step, fit
from common.train.run_folder import Run
from sm_nas.method import Structure
from sm_nas.networks import build_backbone, build_detector, input_size, losses_of
from sm_nas.presets import Preset, Strategy


@dataclass(frozen=True)
class Trial:
    """A structure and how it is trained. measured_on: "search" (held-out training images) or "validation"."""

    structure: Structure
    strategy: Strategy
    measured_on: str = "search"


def in_parts(batch: Batch, size: int) -> Iterator[Batch]:
    """A batch cut into parts of `size` images."""
    for first in range(0, len(batch.labels), size):
        yield Batch(**{name: value[first : first + size] for name, value in vars(batch).items()})


@dataclass(frozen=True)
class Laboratory:
    """Data of one seed, and the training of detectors on it.

    folder: of the study's runs; pre-trained backbones lie there. images are those of `data`, see
    `common.data.source.load`. The same laboratory in another process reads its own data once.
    """

    preset: Preset
    data: str
    seed: int
    folder: Path
    device: str = "cpu"
    precision: Precision = "float32"

    # ---- data

    @property
    def _source(self) -> "_Source":
        return _source(self.preset, self.data, self.device)

    @property
    def categories(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self._source.training.categories

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
        """What AP is measured on: held-out training images in a search, validation images for what is reported."""
        return {"search": self._source.search, "validation": self._source.validation}

    # ---- networks

    def detector(self, structure: Structure, norm: NormKind = "batch") -> nn.Module:
        """A fresh detector, drawn by the seed."""
        torch.manual_seed(self.seed)
        network = build_detector(structure, len(self.categories), self.preset.detector, norm)
        # Thin convolutions run 1.4 to 1.7 times faster with the channels last, on CPUs and on GPUs.
        return network.to(self.device, memory_format=torch.channels_last)

    def describe(self, structure: Structure) -> dict[str, Any]:
        """What a structure costs at its own input size, with batch norm and as a whole detector.

        backbone_macs_mmdet is what the paper prints as FLOPs; macs and params are those of the whole detector.
        """
        return describe(structure, len(self.categories), self.preset)

    # ---- training

    def has_imagenet_weights(self, backbone: str) -> bool:
        """Whether a backbone starts from torchvision's ImageNet weights; they are of standard width."""
        return self.preset.imagenet and self.preset.detector.width == 64 and backbone in IMAGENET_BACKBONES

    def pretrain(self, backbone: str) -> None:
        """Have a backbone's weights at hand: fetched where there are such, else trained on object crops, once."""
        preset = self.preset
        if self.has_imagenet_weights(backbone):
            imagenet_backbone(backbone)
            return
        config = {
            "paper": "sm_nas",
            "what": "classification",
            "backbone": backbone,
            "data": self.data,
            "seed": self.seed,
            "precision": self.precision,
            "settings": asdict(preset.classification),
            "crops": [preset.crops, preset.crop_size, preset.crop_batch_size],
            "width": preset.detector.width,
        }
        with Run.open(self._backbone_folder(backbone), config) as run:
            if run.result is not None:
                return
            torch.manual_seed(self.seed)
            crops = self._source.crops
            network = Classifier(build_backbone(backbone, preset.detector), len(crops.categories))
            network = network.to(self.device, memory_format=torch.channels_last)
            epoch = crops.repeated(preset.crops or 0)
            batches = ClassificationBatches(epoch, preset.crop_batch_size, self.device, CROP_AUGMENTATION, self.seed)

            def losses(batch: ClassificationBatch, _: Step):
                yield classification_losses(network(batch.images), batch)

            arguments = (batches, preset.classification, losses, self.seed, self.device)
            report = fit(run, "classification", network, *arguments, precision=self.precision)
            run.finish({"seconds": report.seconds, "accuracy": report.losses["accuracy"]})

    def pretrained(self, backbone: str) -> dict[str, Tensor]:
        """Weights of a backbone that was trained on classification; trained now where it was not."""
        if self.has_imagenet_weights(backbone):
            return imagenet_backbone(backbone)
        folder = self._backbone_folder(backbone)
        if not (folder / "result.json").is_file():
            self.pretrain(backbone)
        weights, _ = Run.read(folder).load_weights("classification")
        return {name.removeprefix("backbone."): w for name, w in weights.items() if name.startswith("backbone.")}

    def _backbone_folder(self, backbone: str) -> Path:
        return self.folder / f"classification-{backbone.replace('_', '-').lower()}-s{self.seed}"

    def train(self, run: Run, stage: str, trial: Trial) -> tuple[nn.Module, FitReport]:
        """The detector of a trial, trained in a run folder."""
        strategy, structure = trial.strategy, trial.structure
        network = self.detector(structure, strategy.norm)
        if strategy.pretrained and run.stage_done(stage) is None:
            self._load_backbone(network, self.pretrained(structure.backbone))
        batches = DetectionBatches(
            self._source.epoch,
            input_size(structure),
            strategy.batch_size,
            self.device,
            self.preset.augmentation,
            self.seed,
            images=self._source.images("epoch", input_size(structure)),
        )
        losses_of_network = losses_of(network)

        def losses(batch: Batch, _: Step):
            parts = list(in_parts(batch, strategy.images_a_device))
            for part in parts:
                values = losses_of_network(network(part.images), part)
                yield values | {"loss": values["loss"] / len(parts)}

        report = fit(
            run,
            stage,
            network,
            batches,
            strategy.optimisation,
            losses,
            self.seed,
            self.device,
            precision=self.precision,
        )
        return network, report

    def _load_backbone(self, network: nn.Module, weights: dict[str, Tensor]) -> None:
        """A pre-trained backbone into a detector, whose last stage may work on regions instead."""
        here = network.backbone.state_dict()
        network.backbone.load_state_dict({name: weights[name] for name in here})
        shared = getattr(getattr(network, "roi", None), "shared", None)
        if shared is not None:
            shared.load_state_dict(_last_stage(weights, here, shared.state_dict()))

    # ---- measuring

    def measure(self, network: nn.Module, trial: Trial) -> dict[str, Any]:
        """The 12 COCO numbers, and the latency of detection on images of the same set, one at a time."""
        size, where = input_size(trial.structure), trial.measured_on
        batches = DetectionBatches(
            self.sets[where],
            size,
            self.preset.evaluation_batch_size,
            self.device,
            images=self._source.images(where, size),
        )
        numbers = average_precision(network, batches.in_order(), self._source.truth(where))
        one_by_one = (image[None] for batch in batches.in_order() for image in batch.images)
        images = list(islice(one_by_one, self.preset.latency_images))
        latency = measure_latency(
            _Detection(network),
            images[0].shape[1:],
            self.device,
            warmup=self.preset.latency_warmup,
            runs=len(images),
            pause_s=self.preset.latency_pause,
            images=images,
        )
        return {**numbers, "latency": latency.median_ms, "latency_iqr": latency.iqr_ms, "latency_of": asdict(latency)}

    def train_and_measure(self, trial: Trial, folder: Path) -> dict[str, Any]:
        """A candidate of a search: AP, latency, costs, seconds of training. folder: of its training, for as long as it
        takes: one that was broken off goes on; what was measured is all that stays.
        """
        config = {"trial": asdict(trial), "data": self.data, "seed": self.seed, "precision": self.precision}
        with Run.open(folder, config) as run:
            network, report = self.train(run, "detector", trial)
            measured = self.measure(network, trial) | self.describe(trial.structure)
        # Out of the way first: half a folder, left by a kill in between, would not go on.
        gone = folder.with_name(f".{folder.name}.gone")
        shutil.rmtree(gone, ignore_errors=True)
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
        spent = {"train_seconds": report.seconds, "train_cpu_seconds": report.cpu_seconds, "losses": report.losses}
        return measured | spent


class _Detection(nn.Module):
    """Detection as a forward pass, so that it can be timed."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor):
        return self.network.detect(images)


def _last_stage(
    weights: dict[str, Tensor], backbone: dict[str, Tensor], wanted: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The weights of the stage that was taken out of a backbone, by the names that they have in it."""
    left = {name: tensor for name, tensor in weights.items() if name not in backbone}
    found = {}
    for name, tensor in wanted.items():
        fitting = [key for key in left if key.endswith(f".{name}") and left[key].shape == tensor.shape]
        if len(fitting) != 1:
            raise RuntimeError(f"{name} of the shared stage is not found once in the pre-trained backbone: {fitting}")
        found[name] = left[fitting[0]]
    return found


@lru_cache(maxsize=512)
def describe(structure: Structure, categories: int, preset: Preset) -> dict[str, Any]:
    """What a structure costs at its own input size, for so many classes; see `Laboratory.describe`."""
    whole = count(build_detector(structure, categories, preset.detector), input_size(structure))
    numbers = {"macs": whole.macs, "macs_mmdet": whole.macs_mmdet, "params": whole.params}
    return {"input_size": list(input_size(structure)), **numbers, **describe_backbone(structure, preset)}


@lru_cache(maxsize=512)
def describe_backbone(structure: Structure, preset: Preset) -> dict[str, int]:
    """What the backbone alone costs at the structure's input size."""
    with outline():
        backbone = build_backbone(structure.backbone, preset.detector)
    cost = count(backbone, input_size(structure))
    return {
        "backbone_macs_mmdet": cost.macs_mmdet,
        "backbone_macs": cost.macs,
        "backbone_params": cost.params,
    }


def parameters(structure: Structure, categories: int, preset: Preset) -> int:
    """Parameters of the whole detector, without building it."""
    with outline():
        network = build_detector(structure, categories, preset.detector)
    return sum(parameter.numel() for parameter in network.parameters())


# ---- data, once a process


class _Source:
    """The sets of one data source, decoded once for every input size that is asked for."""

    def __init__(self, preset: Preset, data: str, device: str) -> None:
        images, held_out = preset.train_images, preset.search_images
        self.training, self.search = training_and_held_out(data, images, held_out, preset.name)
        self.epoch = epoch_of(self.training, images)
        self.preset, self.data, self.device = preset, data, device

    @cached_property
    def validation(self) -> DetectionSet:
        return load(self.data, "val", limit=self.preset.validation_images)

    @cached_property
    def crops(self):
        return object_crops(self.training, self.preset.crop_size, self.preset.crops, seed=0)

    @cache  # noqa: B019 (a source lives as long as its process)
    def truth(self, name: str) -> GroundTruth:
        return GroundTruth(getattr(self, name))

    @cache  # noqa: B019
    def images(self, name: str, size: tuple[int, int]) -> Tensor | None:
        """The decoded images of a set at a size; None where they are too many to be held, and are streamed."""
        dataset = getattr(self, name)
        if len(dataset) * 3 * math.prod(size) > memory_for_images(torch.device(self.device)):
            return None
        return resident(dataset, size, self.device)


@lru_cache(maxsize=4)
def _source(preset: Preset, data: str, device: str) -> _Source:
    return _Source(preset, data, device)
