"""Training one thin detector at several widths: same neck and heads, same images in the same order for a seed."""

import sys
from dataclasses import replace
from typing import Any

import torch

from benchmarks.capacity import Options
from common.cost import count
from common.data.batches import DetectionBatches, resident
from common.data.source import load
from common.evaluate.average_precision import GroundTruth
from common.evaluate.subnetworks import average_precision
from common.models.centernet import CenterNet, centernet_losses
from common.models.ofa_resnet import ResNet
from common.settings import Augmentation
from common.train import distributed
from common.train.loop import Training, fit
from common.train.run_folder import Run
from detofa.space import OFAResNetSpace

AUGMENTATION = Augmentation(scale_min=0.8, scale_max=1.2, shift=0.1)


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


def measure(options: Options) -> dict[str, Any]:
    """The fingerprints of both sets, and a result for every seed and width: trained, or read where a run has it."""
    device, size = distributed.start(options.device), options.image_size
    training, validation = load(options.data, "train", limit=options.train_images), load(options.data, "val")
    images = resident(training, size, device)  # decoded once for all trainings
    unseen, truth = DetectionBatches(validation, size, 64, device), GroundTruth(validation)
    sets = {"training_set": training.fingerprint(), "validation_set": validation.fingerprint()}
    settings = Training(options.optimisation, device=device, precision=options.precision)

    def result(width: float, seed: int) -> dict[str, Any]:
        named = {"width": width, "seed": seed}
        asked = {name: getattr(options, name) for name in ("image_size", "batch_size", "optimisation", "precision")}
        config = {**named, **sets, **asked, "space": space(width)}
        with Run.open(options.runs / f"x{width:g}-s{seed}", config) as run:
            if run.result is not None:
                return run.result
            torch.manual_seed(seed)
            backbone = ResNet(space(width).architecture(space(width).largest()), zero_init_last=True)
            network = CenterNet(backbone, len(training.categories), neck_widths=(32,), head_width=32)
            network.to(memory_format=torch.channels_last)
            batches = DetectionBatches(training, size, options.batch_size, device, AUGMENTATION, seed, images=images)

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
