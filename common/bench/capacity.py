"""Does the built-in set tell larger networks from smaller ones? Several widths of one network, several seeds.

Whatever is compared on Scenes rests on this: if a wider network were not measurably better there, no search could be
judged on it. Same network but for the backbone's widths, same images in the same order for a seed, AP on images that
nothing was chosen by.

Command: python -m common.bench.capacity --out results/nano/common/capacity.json --precision bfloat16
Time: about 25 minutes on one CPU core that computes with bfloat16.
"""

import json
import os
import shlex
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.cli import run
from common.cost_table import CostTable
from common.data.batches import DetectionBatches, resident
from common.data.detection_set import DetectionSet
from common.data.source import load
from common.evaluate.average_precision import GroundTruth
from common.evaluate.subnetworks import average_precision
from common.models.centernet import CenterNet, centernet_losses
from common.models.ofa_resnet import OFAResNetSpace, ResNet
from common.plain import InputError
from common.report.statistics import paired_difference
from common.settings import Augmentation, Optimisation, Precision
from common.train.loop import Step, fit
from common.train.run_folder import Run, describe_environment

RULE = "wider is better: from each width to the next, the paired 95 % interval of the difference of AP lies above 0"


def _optimisation() -> Optimisation:
    return Optimisation(epochs=12, optimiser="adam", learning_rate=4e-3, policy="cosine")


@dataclass(frozen=True)
class CapacityCommand:
    """Trains the same detector at several widths and seeds, and says whether wider is better on this data."""

    out: Path
    """The JSON file to write."""
    data: str = "scenes:val=2000"
    """Images: scenes, coco:DIR, voc:DIR or bdd:DIR."""
    widths: tuple[float, ...] = (0.25, 0.5, 1.0)
    """Factors of the backbone's widths, rising."""
    seeds: int = 6
    """Seeds 0, 1, ... for each width."""
    train_images: int = 2000
    """Images to train on at the most."""
    image_size: int = 96
    """Side of the square that images are fitted into, pixels."""
    batch_size: int = 16
    """Images a training step."""
    optimisation: Optimisation = field(default_factory=_optimisation)
    """Optimiser and schedule."""
    runs: Path = Path(tempfile.gettempdir()) / "scenes-capacity"
    """Folder of the trainings; the same command goes on with what is there."""
    device: str = "cpu"
    """Where to train: cpu or cuda."""
    precision: Precision = "float32"
    """Number format of training; bfloat16 is faster on GPUs and CPUs that compute with it."""


def main(config: CapacityCommand) -> None:
    """Trains whatever is missing, then writes and prints the verdict."""
    if len(config.widths) < 2 or any(a >= b for a, b in pairwise(config.widths)) or config.widths[0] <= 0:
        raise InputError(f"widths are {config.widths}: give at least two positive numbers that rise")
    if config.seeds < 2:
        raise InputError(f"seeds is {config.seeds}: an interval needs at least 2")
    training, validation = load(config.data, "train", limit=config.train_images), load(config.data, "val")
    images = resident(training, config.image_size, torch.device(config.device))  # decoded once for all trainings
    unseen = DetectionBatches(validation, config.image_size, 64, config.device)
    truth = GroundTruth(validation)
    results = []
    for seed in range(config.seeds):
        for width in config.widths:
            results.append(_result(config, width, seed, training, images, unseen, truth))
            print(f"width x{width:g}, seed {seed}: AP {results[-1]['AP']:.4f}", file=sys.stderr, flush=True)
    record = {
        "what": "AP of one thin detector at several backbone widths",
        "settings": {
            name: value for name, value in asdict(config).items() if name not in ("out", "runs", "device", "widths")
        },
        "training_set": training.fingerprint(),
        "validation_set": validation.fingerprint(),
        "results": results,
        **verdict(results),
        "environment": describe_environment(shlex.join(["python", "-m", "common.bench.capacity", *sys.argv[1:]])),
    }
    _write(config.out, record)
    for step in record["steps"]:
        print(
            f"x{step['from']:g} to x{step['to']:g}: AP {step['difference']:+.4f} "
            f"({step['low']:+.4f} to {step['high']:+.4f}, {step['seeds']} seeds)"
        )
    print(f"{RULE}: {'met' if record['wider_is_better'] else 'not met'}")


def space(width: float) -> OFAResNetSpace:
    """One thin network: two blocks a stage, stride 8, its widths times `width`."""
    return OFAResNetSpace(
        base_depths=(2, 2, 2, 2),
        depths=(0,),
        widths=(1.0,),
        expands=(0.35,),
        stage_widths=tuple(round(channels * width) for channels in (32, 64, 96, 128)),
        stem_width=round(16 * width),
        channel_multiple=4,
        stage_strides=(1, 2, 1, 1),
    )


def detector(width: float, categories: int) -> CenterNet:
    """The same neck and heads whatever the backbone's width."""
    this = space(width)
    backbone = ResNet(this, this.largest(), zero_init_last=True)
    network = CenterNet(backbone, categories, neck_widths=(32,), head_width=32)
    return network.to(memory_format=torch.channels_last)


def verdict(results: list[dict[str, Any]]) -> dict[str, Any]:
    """AP by width, the paired difference at every step up, and whether `RULE` is met."""
    widths = sorted({result["width"] for result in results})
    scores = {
        width: [
            result["AP"] for result in sorted(results, key=lambda result: result["seed"]) if result["width"] == width
        ]
        for width in widths
    }
    steps = []
    for narrow, wide in pairwise(widths):
        difference = paired_difference(scores[wide], scores[narrow])
        steps.append(
            {
                "from": narrow,
                "to": wide,
                "difference": difference.mean,
                "low": difference.low,
                "high": difference.high,
                "seeds": difference.n,
            }
        )
    return {
        "AP": [{"width": width, "mean": float(np.mean(scores[width])), "by_seed": scores[width]} for width in widths],
        "steps": steps,
        "rule": RULE,
        "wider_is_better": all(step["low"] > 0 for step in steps),
    }


def _result(
    config: CapacityCommand,
    width: float,
    seed: int,
    training: DetectionSet,
    images: torch.Tensor,
    unseen: DetectionBatches,
    truth: GroundTruth,
) -> dict[str, Any]:
    """Trains one network, or reads what an earlier call found."""
    settings = {
        "width": width,
        "seed": seed,
        "training_set": training.fingerprint(),
        "validation_set": unseen.dataset.fingerprint(),
        "image_size": config.image_size,
        "batch_size": config.batch_size,
        "optimisation": asdict(config.optimisation),
        "precision": config.precision,
        "space": space(width).to_dict(),
    }
    with Run.open(config.runs / f"x{width:g}-s{seed}", settings) as run_folder:
        if run_folder.result is not None:
            return run_folder.result
        torch.manual_seed(seed)
        network = detector(width, len(training.categories))
        augmentation = Augmentation(scale_min=0.8, scale_max=1.2, shift=0.1)
        batches = DetectionBatches(
            training, config.image_size, config.batch_size, config.device, augmentation, seed, images=images
        )

        def step_losses(batch, _step: Step):
            yield centernet_losses(network(batch.images), batch)

        report = fit(
            run_folder,
            "training",
            network,
            batches,
            config.optimisation,
            step_losses,
            seed,
            config.device,
            precision=config.precision,
        )
        path = space(width).largest()[None]
        result = {
            "width": width,
            "seed": seed,
            **average_precision(network, unseen.in_order(), truth),
            "backbone_macs": int(CostTable.macs(space(width), config.image_size)(path)[0]),
            "params": sum(parameter.numel() for parameter in network.parameters()),
            "cpu_seconds": report.cpu_seconds,
            "seconds": report.seconds,
        }
        run_folder.finish(result)
        return run_folder.result


def _write(path: Path, record: dict[str, Any]) -> None:
    """The whole file or nothing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); name another file with --out") from None


if __name__ == "__main__":
    run(main, CapacityCommand)
