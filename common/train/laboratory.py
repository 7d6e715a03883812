"""What every search of two-stage detectors needs beside its own method: data of a seed, a pre-trained backbone, AP and
latency. A paper's own laboratory adds how its detectors are built and trained.
"""

import math
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache, cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from common.batch import ClassificationBatch
from common.cli import check_seed
from common.data.batches import ClassificationBatches, DetectionBatches, memory_for_images, resident
from common.data.crops import Crops, object_crops
from common.data.detection_set import DetectionSet
from common.data.source import load
from common.data.splits import SEARCH_SHARE, epoch_of, training_and_held_out
from common.evaluate.average_precision import GroundTruth
from common.evaluate.latency import measure_latency
from common.evaluate.subnetworks import average_precision
from common.models.classifier import Classifier, classification_losses
from common.models.torchvision_weights import IMAGENET_BACKBONES, imagenet_backbone
from common.settings import CROP_AUGMENTATION, Precision, StudyPreset
from common.train.loop import Step, Training, fit
from common.train.run_folder import Run

STANDARD_WIDTH = 64  # of a ResNet's first stage, which ImageNet weights are for
LATENCY_ROUNDS = 9  # of detectors that are timed in turn


@dataclass(frozen=True)
class Laboratory:
    """Data of one seed, and what is measured on it.

    folder: of the study's runs; pre-trained backbones lie there. images are those of `data`, see
    `common.data.source.load`. The same laboratory in another process reads its own data once.
    """

    preset: StudyPreset
    data: str
    seed: int
    folder: Path
    device: str = "cpu"
    precision: Precision = "float32"
    paper: ClassVar[str]

    def __post_init__(self) -> None:
        check_seed(self.seed)

    # ---- what a paper says

    @property
    def backbone_width(self) -> int:
        """Channels of the first stage of a standard backbone."""
        raise NotImplementedError

    def backbone(self, name: str) -> nn.Module:
        """A fresh backbone by its name."""
        raise NotImplementedError

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

    def training_batches(self, size: tuple[int, int], batch_size: int, seed: int | None = None) -> DetectionBatches:
        """Augmented batches of an epoch's images at a size. seed: of their order (none: the laboratory's)."""
        return DetectionBatches(
            self._source.epoch,
            size,
            batch_size,
            self.device,
            self.preset.augmentation,
            self.seed if seed is None else seed,
            images=self._source.images("epoch", size),
        )

    def training_images(self, size: tuple[int, int], number: int) -> Tensor:
        """The first so many of an epoch at a size, as they are: (number, 3, H, W)."""
        first = self._source.epoch.subset(np.arange(min(number, self.images_an_epoch)))
        return next(DetectionBatches(first, size, number, self.device).in_order()).images

    def measuring_batches(self, where: str, size: tuple[int, int]) -> DetectionBatches:
        """Batches of one of `sets` at a size."""
        return DetectionBatches(
            self.sets[where],
            size,
            self.preset.evaluation_batch_size,
            self.device,
            images=self._source.images(where, size),
        )

    # ---- pre-training

    def has_imagenet_weights(self, backbone: str) -> bool:
        """Whether a backbone starts from torchvision's ImageNet weights; they are of standard width."""
        return self.preset.imagenet and self.backbone_width == STANDARD_WIDTH and backbone in IMAGENET_BACKBONES

    def pretrain(self, backbone: str) -> None:
        """Have a backbone's weights at hand: fetched where there are such, else trained on object crops, once."""
        preset = self.preset
        if self.has_imagenet_weights(backbone):
            imagenet_backbone(backbone)
            return
        with Run.open(self._backbone_folder(backbone), self._pretraining(backbone)) as run:
            if run.result is not None:
                return
            torch.manual_seed(self.seed)
            crops = self._source.crops
            network = Classifier(self.backbone(backbone), len(crops.categories))
            network = network.to(self.device, memory_format=torch.channels_last)
            epoch = crops.repeated(preset.crops or 0)
            batches = ClassificationBatches(epoch, preset.crop_batch_size, self.device, CROP_AUGMENTATION, self.seed)

            def losses(batch: ClassificationBatch, _: Step):
                yield classification_losses(network(batch.images), batch)

            training = Training(preset.classification, self.seed, self.device, self.precision)
            report = fit(run, "classification", network, batches, losses, training)
            run.finish({"seconds": report.seconds, "accuracy": report.losses["accuracy"]})

    def pretrained(self, backbone: str) -> dict[str, Tensor]:
        """Weights of a backbone that was trained on classification; trained now where it was not."""
        if self.has_imagenet_weights(backbone):
            return imagenet_backbone(backbone)
        folder = self._backbone_folder(backbone)
        if not (folder / "result.json").is_file():
            self.pretrain(backbone)
        weights, _ = Run.read(folder, self._pretraining(backbone)).load_weights("classification")
        return {name.removeprefix("backbone."): w for name, w in weights.items() if name.startswith("backbone.")}

    def _pretraining(self, backbone: str) -> dict[str, Any]:
        """All that a backbone's weights hang on."""
        preset = self.preset
        return {
            "paper": self.paper,
            "what": "classification",
            "backbone": backbone,
            "data": self.data,
            "training_set": self.training_set.fingerprint(),
            "seed": self.seed,
            "precision": self.precision,
            "settings": asdict(preset.classification),
            "crops": [preset.crops, preset.crop_size, preset.crop_batch_size],
            "width": self.backbone_width,
        }

    def _backbone_folder(self, backbone: str) -> Path:
        return self.folder / f"classification-{backbone.replace('_', '-').lower()}-s{self.seed}"

    # ---- measuring

    def precision_at(self, network: nn.Module, size: tuple[int, int], where: str) -> dict[str, float]:
        """The 12 COCO numbers of a detector on one of `sets` at an input size."""
        return average_precision(network, self.measuring_batches(where, size).in_order(), self._source.truth(where))

    def latency_at(self, network: nn.Module, size: tuple[int, int], where: str) -> dict[str, Any]:
        """The latency of detection on images of a set, one at a time; with all that it depends on in "latency_of"."""
        batches = self.measuring_batches(where, size)
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
        return {"latency": latency.median_ms, "latency_iqr": latency.iqr_ms, "latency_of": asdict(latency)}

    def latencies_in_turn(
        self, networks: Mapping[str, tuple[nn.Module, tuple[int, int]]], where: str
    ) -> dict[str, dict[str, Any]]:
        """`latency_at` of several detectors that are to be compared, all of them once a round: what slows the machine
        for a while slows them alike. networks: name -> detector and its input size. "latency" is the median over the
        "rounds".
        """
        rounds = [
            {name: self.latency_at(network, size, where) for name, (network, size) in networks.items()}
            for _ in range(LATENCY_ROUNDS)
        ]
        return {
            name: {
                "latency": float(np.median([each[name]["latency"] for each in rounds])),
                "rounds": [each[name]["latency"] for each in rounds],
                "latency_of": rounds[0][name]["latency_of"],
            }
            for name in networks
        }


def remove_folder(folder: Path) -> None:
    """Remove a folder so that a kill leaves all of it or nothing under its name: half a folder would not go on."""
    gone = folder.with_name(f".{folder.name}.gone")
    shutil.rmtree(gone, ignore_errors=True)
    if folder.exists():
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


class _Detection(nn.Module):
    """Detection as a forward pass, so that it can be timed."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor):
        return self.network.detect(images)


# ---- data, once a process


class _Source:
    """The sets of one data source, decoded once for every input size that is asked for."""

    def __init__(self, preset: StudyPreset, data: str, device: str) -> None:
        images, held_out = preset.train_images, preset.search_images
        self.training, self.search = training_and_held_out(data, images, held_out, preset.name, SEARCH_SHARE)
        self.epoch = epoch_of(self.training, images)
        self.preset, self.data, self.device = preset, data, device

    @cached_property
    def validation(self) -> DetectionSet:
        return load(self.data, "val", limit=self.preset.validation_images)

    @cached_property
    def crops(self) -> Crops:
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
def _source(preset: StudyPreset, data: str, device: str) -> _Source:
    return _Source(preset, data, device)
