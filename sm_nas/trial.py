"""One detector trained and measured: what a candidate of a search goes through, and every final network.

A `Trial` says what to train and how; `Laboratory` holds the data and does it, in this process or in another one.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from common.batch import Batch
from common.cost import count
from common.models.norm import NormKind
from common.models.outline import outline
from common.train import laboratory
from common.train.checkpoint import load_strictly
from common.train.laboratory import remove_folder
from common.train.loop import FitReport, Step, Training, fit
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
class Laboratory(laboratory.Laboratory):
    """Data of one seed, and the training of detectors on it; see `common.train.laboratory`."""

    preset: Preset
    paper: ClassVar[str] = "sm_nas"

    # ---- networks

    @property
    def backbone_width(self) -> int:
        """Channels of the first stage of a standard backbone."""
        return self.preset.detector.width

    def backbone(self, name: str) -> nn.Module:
        """A fresh backbone, standard or searched."""
        return build_backbone(name, self.preset.detector)

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

    def train(self, run: Run, stage: str, trial: Trial) -> tuple[nn.Module, FitReport]:
        """The detector of a trial, trained in a run folder."""
        strategy, structure = trial.strategy, trial.structure
        network = self.detector(structure, strategy.norm)
        if strategy.pretrained and run.stage_done(stage) is None:
            self._load_backbone(network, self.pretrained(structure.backbone))
        batches = self.training_batches(input_size(structure), strategy.batch_size)
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
            losses,
            Training(strategy.optimisation, seed=self.seed, device=self.device, precision=self.precision),
        )
        return network, report

    def _load_backbone(self, network: nn.Module, weights: dict[str, Tensor]) -> None:
        """A pre-trained backbone into a detector, whose last stage may work on regions instead."""
        here = network.backbone.state_dict()
        network.backbone.load_state_dict({name: weights[name] for name in here})
        shared = getattr(getattr(network, "roi", None), "shared", None)
        if shared is not None:
            shared.load_state_dict(_last_stage(weights, here, shared.state_dict()))

    def finished(self, folder: Path, norm: NormKind) -> tuple[Run, nn.Module]:
        """A finished training and its network."""
        run = Run.read(folder)
        network = self.detector(Structure.parse(run.result["structure"]), norm)
        load_strictly(network, run.load_weights("detector")[0], str(folder / "detector.safetensors"))
        return run, network

    # ---- measuring

    def measure(self, network: nn.Module, trial: Trial) -> dict[str, Any]:
        """The 12 COCO numbers, and the latency of detection on images of the same set, one at a time."""
        size, where = input_size(trial.structure), trial.measured_on
        return {**self.precision_at(network, size, where), **self.latency_at(network, size, where)}

    def train_and_measure(self, trial: Trial, folder: Path) -> dict[str, Any]:
        """A candidate of a search: AP, latency, costs, seconds of training. folder: of its training, for as long as it
        takes: one that was broken off goes on; what was measured is all that stays.
        """
        config = {"trial": asdict(trial), "data": self.data, "seed": self.seed, "precision": self.precision}
        with Run.open(folder, config) as run:
            network, report = self.train(run, "detector", trial)
            measured = self.measure(network, trial) | self.describe(trial.structure)
        remove_folder(folder)
        spent = {"train_seconds": report.seconds, "train_cpu_seconds": report.cpu_seconds, "losses": report.losses}
        return measured | spent


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
    with outline():
        network = build_detector(structure, categories, preset.detector)
    whole = count(network, input_size(structure))
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
