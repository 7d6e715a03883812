"""Does the built-in set tell larger networks from smaller ones? Several widths of one network, several seeds.

Whatever is compared on Scenes depends on this: if a wider network were not measurably better there, no search could be
judged on it. The networks differ in the backbone's width alone (neck, heads, images and their order for a seed are the
same), and AP is that of images that nothing was chosen by.

Command: python -m benchmarks.capacity --out results/nano/common/capacity.json --precision bfloat16
Time: about 25 minutes on one CPU core that computes with bfloat16.
"""

import sys
import tempfile
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from common.cli import run, typed_command
from common.plain import InputError, write_json
from common.settings import Augmentation, Optimisation, Precision

RULE = "wider is better: from each width to the next, the paired 95 % interval of the difference of AP lies above 0"
NO_SETTING = ("out", "runs", "device", "widths")  # the widths stand with their results


@dataclass(frozen=True)
class Options:
    """Trains the same detector at several widths and seeds, and says whether wider is better on this data."""

    out: Path
    """The JSON file to write."""
    data: str = "scenes:val=2000"
    """Images: scenes, or auto:, coco:, voc:, yolo: or bdd:DIR."""
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
    optimisation: Optimisation = field(
        default_factory=partial(Optimisation, epochs=12, optimiser="adam", learning_rate=4e-3, policy="cosine")
    )
    """Optimiser and schedule."""
    runs: Path = Path(tempfile.gettempdir()) / "scenes-capacity"
    """Folder of the trainings; the same command goes on with what is there."""
    device: str = "cpu"
    """Where to train: cpu or cuda."""
    precision: Precision = "float32"
    """Number format of training; bfloat16 is faster on GPUs and CPUs that compute with it."""


def main(options: Options) -> None:
    """Trains whatever is missing, then writes and prints whether `RULE` is met."""
    if len(options.widths) < 2 or any(a >= b for a, b in pairwise(options.widths)) or options.widths[0] <= 0:
        raise InputError(f"widths must be at least two positive numbers that rise, got {options.widths}")
    if options.seeds < 2:
        raise InputError(f"seeds must be at least 2 for an interval, got {options.seeds}")

    from common.train.run_folder import describe_environment

    measured = measure_widths(options)
    record = {
        "what": "AP of one thin detector at several backbone widths",
        "settings": {name: value for name, value in asdict(options).items() if name not in NO_SETTING},
        **measured,
        **compared(measured["results"]),
        "environment": describe_environment(typed_command()),
    }
    write_json(options.out, record)
    for step in record["steps"]:
        print(
            f"x{step['from']:g} to x{step['to']:g}: AP {step['difference']:+.4f} "
            f"({step['low']:+.4f} to {step['high']:+.4f}, {step['seeds']} seeds)"
        )
    print(f"{RULE}: {'met' if record['wider_is_better'] else 'not met'}")


def measure_widths(options: Options) -> dict[str, Any]:
    """The fingerprints of both sets, and a result for every seed and width: trained, or read where a run has it."""
    import torch

    from common.cost import count
    from common.data.batches import DetectionBatches, resident
    from common.data.source import load
    from common.evaluate.average_precision import GroundTruth
    from common.evaluate.subnetworks import average_precision
    from common.models.centernet import CenterNet, centernet_losses
    from common.models.ofa_resnet import ResNet
    from common.train import distributed
    from common.train.loop import Training, fit
    from common.train.run_folder import Run
    from detofa.space import OFAResNetSpace

    device, size = distributed.start(options.device), options.image_size
    training, validation = load(options.data, "train", limit=options.train_images), load(options.data, "val")
    images = resident(training, size, device)  # decoded once for all trainings
    unseen, truth = DetectionBatches(validation, size, 64, device), GroundTruth(validation)
    sets = {"training_set": training.fingerprint(), "validation_set": validation.fingerprint()}
    settings = Training(options.optimisation, device=device, precision=options.precision)
    augmentation = Augmentation(scale_min=0.8, scale_max=1.2, shift=0.1)

    def result(width: float, seed: int) -> dict[str, Any]:
        space = OFAResNetSpace(  # of one network: two blocks a stage, stride 8
            base_depths=(2, 2, 2, 2),
            depths=(0,),
            widths=(1.0,),
            expands=(0.35,),
            stage_widths=tuple(round(channels * width) for channels in (32, 64, 96, 128)),
            stem_width=round(16 * width),
            channel_multiple=4,
            stage_strides=(1, 2, 1, 1),
        )
        named = {"width": width, "seed": seed}
        asked = {name: getattr(options, name) for name in ("image_size", "batch_size", "optimisation", "precision")}
        with Run.open(options.runs / f"x{width:g}-s{seed}", {**named, **sets, **asked, "space": space}) as run:
            if run.result is not None:
                return run.result
            torch.manual_seed(seed)
            backbone = ResNet(space.architecture(space.largest()), zero_init_last=True)
            network = CenterNet(backbone, len(training.categories), neck_widths=(32,), head_width=32)
            network.to(memory_format=torch.channels_last)
            batches = DetectionBatches(training, size, options.batch_size, device, augmentation, seed, images=images)

            def step_losses(batch, _step):
                yield centernet_losses(network(batch.images), batch)

            report = fit(run, "training", network, batches, step_losses, replace(settings, seed=seed))
            costs = {
                "backbone_macs": count(backbone, (size, size)).macs,
                "params": sum(parameter.numel() for parameter in network.parameters()),
                "cpu_seconds": report.cpu_seconds,
                "seconds": report.seconds,
            }
            run.finish({**named, **average_precision(network, unseen.in_order(), truth), **costs})
            return run.result

    results = []
    for seed in range(options.seeds):
        for width in options.widths:
            results.append(result(width, seed))
            print(f"width x{width:g}, seed {seed}: AP {results[-1]['AP']:.4f}", file=sys.stderr, flush=True)
    return {**sets, "results": results}


def compared(results: list[dict[str, Any]]) -> dict[str, Any]:
    """AP by width, the paired difference at every step up, and whether `RULE` is met."""
    from common.report.statistics import mean_interval  # slow to import

    scores: dict[float, list[float]] = {}
    for result in sorted(results, key=lambda result: (result["width"], result["seed"])):
        scores.setdefault(result["width"], []).append(result["AP"])
    steps = []
    for narrow, wide in pairwise(scores):
        found = mean_interval([ours - theirs for ours, theirs in zip(scores[wide], scores[narrow], strict=True)])
        interval = {"difference": found.mean, "low": found.low, "high": found.high, "seeds": found.n}
        steps.append({"from": narrow, "to": wide, **interval})
    by_width = [{"width": width, "mean": sum(each) / len(each), "by_seed": each} for width, each in scores.items()]
    return {"AP": by_width, "steps": steps, "rule": RULE, "wider_is_better": all(step["low"] > 0 for step in steps)}


if __name__ == "__main__":
    run(main, Options)
