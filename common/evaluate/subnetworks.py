"""Evaluating many sub-networks of one supernet on the same images.

A sub-network has no batch-norm statistics of its own until they are re-estimated. Each evaluation here does that first,
on training images, and then measures loss or AP on images that the network was not trained on.
"""

from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from common.batch import Batch, ClassificationBatch, Detections
from common.evaluate.average_precision import GroundTruth
from common.evaluate.recalibrate import reestimate_batch_norm
from common.letterbox import in_pictures
from common.models.ofa_resnet import ConvNorm

Losses = Callable[[dict[str, Tensor] | Tensor, Batch | ClassificationBatch], dict[str, Tensor]]


@dataclass(frozen=True)
class Evaluator:
    """What a sub-network is measured on; built once and used for every candidate.

    calibration: batches whose images re-estimate batch norm. validation: batches for the validation loss.
    losses(outputs, batch) -> dict with "loss", the mean over the batch's images.
    """

    calibration: Sequence[Batch | ClassificationBatch]
    validation: Sequence[Batch | ClassificationBatch]
    losses: Losses

    def recalibrate(self, network: nn.Module) -> nn.Module:
        """Re-estimate `network`'s batch-norm statistics in place and put it in evaluation mode."""
        reestimate_batch_norm(network, (batch.images for batch in self.calibration))
        return network.eval()

    @torch.inference_mode()
    def loss(self, network: nn.Module) -> float:
        """Mean validation loss of a recalibrated `network`, weighted by the images of each batch."""
        network = folded(network)
        total = torch.zeros((), dtype=torch.float64)
        images = 0
        for batch in self.validation:
            count = len(batch.labels)
            total += self.losses(network(batch.images), batch)["loss"].double().cpu() * count
            images += count
        return float(total) / images


@torch.no_grad()
def folded(network: nn.Module) -> nn.Module:
    """A copy of `network` for evaluation, its batch norms merged into the convolutions that they follow; all else that
    it holds is the network's own.

    This saves a quarter of a thin network's forward pass. Only those in a `ConvNorm` or an nn.Sequential are merged,
    where the norm is known to be called right after the convolution. Elastic layers stay as they are.
    """
    network = _sharing_weights(network).eval()
    for parent in list(network.modules()):
        if not isinstance(parent, ConvNorm | nn.Sequential):
            continue
        for (_, convolution), (norm_place, norm) in pairwise(list(parent.named_children())):
            if type(convolution) in (nn.Conv2d, nn.ConvTranspose2d) and type(norm) is nn.BatchNorm2d:
                statistics = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
                transposed = isinstance(convolution, nn.ConvTranspose2d)
                convolution.weight, convolution.bias = fuse_conv_bn_weights(
                    convolution.weight, convolution.bias, *statistics, transposed
                )
                setattr(parent, norm_place, nn.Identity())
    return network


def _sharing_weights(network: nn.Module) -> nn.Module:
    """A network of other modules with the same tensors: a deep copy of a thin one takes longer than to run it."""
    other = copy(network)
    for held in ("_parameters", "_buffers"):
        other.__dict__[held] = dict(network.__dict__[held])
    children = network.__dict__["_modules"].items()
    other.__dict__["_modules"] = {name: None if child is None else _sharing_weights(child) for name, child in children}
    return other


@torch.inference_mode()
def detections_of(network: nn.Module, batches: Iterable[Batch]) -> tuple[Detections, Tensor]:
    """What a recalibrated detector finds in N images: detections (N, D) in pixels of the original pictures and cut at
    their edges, on the CPU, and the images' positions (N,) in the `DetectionSet`.

    Raises FloatingPointError, which a search records as a failed candidate, when the network has diverged.
    """
    network.eval()
    parts, order = [], []
    for batch in batches:
        height, width = batch.images.shape[-2:]
        parts.append(in_pictures(network.detect(batch.images), batch.sizes, (width, height)).to("cpu"))
        order.append(batch.index.cpu())
    detections = Detections.cat(parts)
    if not (detections.boxes.isfinite().all() and detections.scores.isfinite().all()):
        raise FloatingPointError("the network gives boxes or scores that are not finite")
    return detections, torch.cat(order)


def average_precision(
    network: nn.Module, batches: Iterable[Batch], truth: GroundTruth, per_class: bool = False
) -> dict[str, Any]:
    """The 12 COCO numbers (0..1) of what `detections_of` gives. per_class: see `GroundTruth.evaluate`."""
    return precision_of(network, batches, truth, per_class)()


def precision_of(
    network: nn.Module, batches: Iterable[Batch], truth: GroundTruth, per_class: bool = False
) -> Callable[[], dict[str, Any]]:
    """What the network finds is looked for at once; the call that comes back gives `average_precision`'s numbers, by
    the CPU alone."""
    found = detections_of(network, batches)
    return lambda: truth.evaluate(*found, per_class)
