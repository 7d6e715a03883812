"""Re-estimation of batch-norm statistics.

The running averages of a supernet mix the activations of all its sub-networks. So a sub-network's batch-norm layers
need statistics of their own before it is evaluated.
"""

from collections.abc import Iterable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from common.models.mode import evaluation_mode

# See `_batch_statistics`: rows of so many pixels, and the channels up to which and the pixels from which they pay.
PIXELS_A_ROW = 16
MOST_CHANNELS = 48
LEAST_PIXELS = 1 << 12


class _NothingLeft(Exception):
    """Every batch-norm layer has seen its input: the rest of the forward pass says nothing new."""


def _batch_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel of x (B, C, ...): (C,), (C,), in two passes, so that no digits cancel.

    A CPU goes through channels-last memory pixel by pixel, in loops over C numbers, which is slow when C is small. Here
    16 pixels make one row of 16 C columns in the same memory, and the columns' statistics are merged afterwards.
    """
    C = x.shape[1]
    pixels = x.numel() // C
    narrow = C <= MOST_CHANNELS and pixels >= LEAST_PIXELS and pixels % PIXELS_A_ROW == 0
    if not narrow or x.device.type != "cpu" or x.dim() != 4 or not x.is_contiguous(memory_format=torch.channels_last):
        return torch.batch_norm_update_stats(x, None, None, 0.0)
    rows = x.permute(0, 2, 3, 1).reshape(1, -1, 1, PIXELS_A_ROW * C).permute(0, 3, 1, 2)
    means, variances = (part.view(-1, C) for part in torch.batch_norm_update_stats(rows, None, None, 0.0))
    mean = means.sum(0) / PIXELS_A_ROW
    return mean, (means - mean).square_().add_(variances).sum(0) / PIXELS_A_ROW


class _Statistics:
    """Makes each layer normalise by the batch that it is given, and remembers that batch's statistics."""

    def __init__(self, layers: list[_BatchNorm]) -> None:
        # call by call: elements per channel, their mean (C,) and their biased variance (C,)
        self.inputs: dict[_BatchNorm, list[tuple[int, Tensor, Tensor]]] = {layer: [] for layer in layers}
        self.passes = 0
        self.calls = 0  # in this forward pass
        self.calls_a_pass: int | None = None  # known after the first

    def normalise(self, layer: _BatchNorm, x: Tensor) -> Tensor:
        """In place of the layer's own forward pass."""
        C = x.shape[1]
        count = x.numel() // C
        if count < 2:
            raise ValueError(f"batch norm needs at least two values per channel, got shape {tuple(x.shape)}")
        mean, variance = _batch_statistics(x)
        self.inputs[layer].append((count, mean, variance))
        self.calls += 1
        if self.calls == self.calls_a_pass:
            raise _NothingLeft
        # of an elastic layer the first channels are in use
        weight, bias = (None if each is None else each[:C] for each in (layer.weight, layer.bias))
        return F.batch_norm(x, mean, variance, weight, bias, eps=layer.eps)

    def see(self, model: nn.Module, batch: Tensor) -> None:
        """One forward pass, up to the last batch-norm layer where it is known which that is."""
        self.passes, self.calls = self.passes + 1, 0
        try:
            model(batch)
        except _NothingLeft:
            return
        self.calls_a_pass = self.calls

    def write(self) -> None:
        """Put the statistics of all calls' elements together into the layers that were called; the others keep theirs.

        Exact for calls of any sizes: an average of the calls' variances (`torch.optim.swa_utils.update_bn`) would lack
        the variance between calls.
        """
        for layer, inputs in self.inputs.items():
            if not inputs:
                continue
            counts, means, variances = zip(*inputs, strict=True)
            means, variances = torch.stack(means).double(), torch.stack(variances).double()
            shares = torch.tensor(counts, dtype=torch.float64, device=means.device).unsqueeze(1) / sum(counts)
            mean = (shares * means).sum(0)
            variance = (shares * (variances + (means - mean).square())).sum(0)
            C = len(mean)
            layer.running_mean[:C].copy_(mean)
            layer.running_var[:C].copy_(variance * (sum(counts) / (sum(counts) - 1)))  # unbiased, as batch norm's
            layer.num_batches_tracked.fill_(self.passes)


@torch.no_grad()
def reestimate_batch_norm(model: nn.Module, images: Iterable[Tensor]) -> None:
    """Replace the running statistics of every batch-norm layer by the exact ones over all `images`.

    images: batches (B, 3, H, W), on the device of `model`; their sizes may differ. Each layer normalises by the batch
    it sees, as in training; its running mean and variance become those of all its inputs together. Everything else of
    the model runs in evaluation mode (no dropout), without gradients; train/eval flags are restored. Layers that no
    image reached keep their statistics. `model` must call as many batch-norm layers for one batch as for another: from
    the second batch on, its forward pass stops at the last of them, before any head that has none.

    Raises ValueError where `images` is empty, or a layer's input has a single value per channel.
    """
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    statistics = _Statistics(layers)
    try:
        for layer in layers:
            layer.forward = partial(statistics.normalise, layer)
        with evaluation_mode(model):
            for batch in images:
                # batch statistics of NCHW tensors are slow on a CPU
                on_cpu = batch.device.type == "cpu"
                statistics.see(model, batch.contiguous(memory_format=torch.channels_last) if on_cpu else batch)
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)
    if statistics.passes == 0:
        raise ValueError("no images to estimate batch-norm statistics from")
    statistics.write()
