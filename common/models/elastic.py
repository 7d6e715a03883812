"""Elastic layers: one full-size weight, of which a sub-network uses the first channels.

After Once-for-All (arXiv:1908.09791, section 3). How many output channels are in use is set on the layer
(`active_out_channels`); how many input channels, it reads off its input. A norm layer has nothing to set. So a network
that feeds a narrower tensor into the next layer needs no further bookkeeping.

The gradient of a slice. Plain slicing `weight[:o, :i]` is correct but slow: its backward allocates and zero-fills a
tensor of the full size for every layer and every path, then adds it to `weight.grad`. `first_channels` adds the small
gradient of a large weight straight into the corner of `weight.grad` instead (allocated as zeros once), and hands
autograd nothing; a small weight is sliced plainly, since there the detour through Python costs more than the zeros.
Sums over several paths or several backward passes come out the same. It does not support second derivatives,
`torch.autograd.grad` with respect to the full weight, or post-accumulate hooks on it; call `.backward()`. With several
processes, reduce `parameter.grad` after the last path of a step.
"""

from collections.abc import Collection
from operator import gt

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from common.models.norm import shape_of
from common.models.outline import outline

DIRECT_FROM = 1 << 16  # elements of a weight from which the direct gradient pays


def corner(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The leading part of `tensor` of the given shape, a view: where a sub-network's weights lie in the full ones.

    Raises ValueError where the shape exceeds the tensor's.
    """
    # One operation to run and to differentiate, where slicing takes one for each dimension; it checks nothing itself.
    if any(map(gt, shape, tensor.shape)):
        raise ValueError(f"a tensor of shape {tuple(tensor.shape)} has no corner of shape {tuple(shape)}")
    return tensor.as_strided(shape, tensor.stride())


class _FirstChannels(torch.autograd.Function):
    """The corner of a leaf weight, whose gradient goes straight into the corner of `weight.grad`."""

    @staticmethod
    def forward(context, weight: Tensor, shape: tuple[int, ...]) -> Tensor:
        # The leaf itself, not saved values: the backward writes its .grad and reads nothing else of it.
        context.weight = weight
        return corner(weight.detach(), shape)

    @staticmethod
    @once_differentiable
    def backward(context, gradient: Tensor) -> tuple[None, None]:
        weight = context.weight
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        corner(weight.grad, gradient.shape).add_(gradient)
        return None, None


def first_channels(weight: Tensor, *shape: int) -> Tensor:
    """The corner of `weight` of the given shape, cheap to differentiate; the weight itself where that is all of it."""
    if weight.shape == shape:
        return weight
    if weight.numel() >= DIRECT_FROM and weight.requires_grad and weight.is_leaf and torch.is_grad_enabled():
        return _FirstChannels.apply(weight, shape)
    return corner(weight, shape)


class ElasticConv2d(nn.Conv2d):
    """A convolution of which the first `active_out_channels` filters and the first input channels are in use.

    Arguments are nn.Conv2d's, at full size. Input (B, C, H, W) with any C up to `in_channels`.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if self.groups != 1:
            raise ValueError("an elastic convolution has one group")
        self.active_out_channels = self.out_channels

    def active(self, in_channels: int) -> tuple[Tensor, Tensor | None]:
        """Weight (active_out_channels, in_channels, kh, kw) and bias in use for an input of that many channels."""
        weight = first_channels(self.weight, self.active_out_channels, in_channels, *self.kernel_size)
        return weight, None if self.bias is None else self.bias[: self.active_out_channels]

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, *self.active(x.size(1)))


class ElasticConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution that reads the first channels its input has; all output channels are in use.

    Arguments are nn.ConvTranspose2d's up to the padding, and bias. Input (B, C, H, W) with any C up to `in_channels`.
    """

    def forward(self, x: Tensor) -> Tensor:
        weight = first_channels(self.weight, x.size(1), self.out_channels, *self.kernel_size)
        return F.conv_transpose2d(x, weight, self.bias, self.stride, self.padding)


class ElasticLinear(nn.Linear):
    """A linear layer that reads the first features its input (..., F) has, F up to `in_features`."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, first_channels(self.weight, self.out_features, x.shape[-1]), self.bias)


class ElasticGroupsLinear(nn.Module):
    """A linear layer on groups of features, such as the bins of a region: of each it reads the first the input has.

    plain: the layer that it starts as. groups: those of its input features. Input (..., groups * F), group by
    group, with any F up to `group_features`. `weight` is (out, groups, group_features): laid out flat it is that of a
    plain nn.Linear, such as `copy_corner` takes out for any F.
    """

    def __init__(self, plain: nn.Linear, groups: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(plain.weight.detach().unflatten(1, (groups, -1)))
        self.bias = plain.bias

    def forward(self, x: Tensor) -> Tensor:
        out, groups, _ = self.weight.shape
        weight = first_channels(self.weight, out, groups, x.shape[-1] // groups)
        return F.linear(x, weight.flatten(1), self.bias)


class ElasticBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation of the first C channels, for an input (B, C, H, W) with any C up to `num_features`.

    One full-size set of weights and running statistics; training updates the statistics of the channels in use. The
    statistics mix all sub-networks, so re-estimate them for each before evaluating it.
    """

    def forward(self, x: Tensor) -> Tensor:
        channels = x.size(1)
        if channels == self.num_features:
            return super().forward(x)
        if self.training:
            self.num_batches_tracked.add_(1)
        in_use = (each[:channels] for each in (self.running_mean, self.running_var, self.weight, self.bias))
        return F.batch_norm(x, *in_use, self.training, self.momentum, self.eps)


def active_weights(layer: nn.Module, in_channels: int) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a convolution, elastic or not, as it uses them on an input of that many channels."""
    return layer.active(in_channels) if isinstance(layer, ElasticConv2d) else (layer.weight, layer.bias)


def make_elastic(module: nn.Module) -> nn.Module:
    """Exchange, in place, each nn.Conv2d and nn.BatchNorm2d inside `module` for the elastic layer of the same weights.

    It computes the same until less of it is activated. Layers of derived types stay. Returns `module`.
    """
    for name, child in list(module.named_children()):
        with outline():
            if type(child) is nn.Conv2d:
                layer = ElasticConv2d(**shape_of(child))
            elif type(child) is nn.BatchNorm2d:
                layer = ElasticBatchNorm2d(child.num_features, child.eps, child.momentum)
            else:
                make_elastic(child)
                continue
        for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            if hasattr(child, part):
                setattr(layer, part, getattr(child, part))
        setattr(module, name, layer.train(child.training))
    return module


def _corner_of(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The corner of the given shape; of the weight of an `ElasticGroupsLinear`, that of each group, side by side."""
    if tensor.dim() == 3 and len(shape) == 2:
        groups = tensor.shape[1]
        return corner(tensor, (shape[0], groups, shape[1] // groups)).flatten(1)
    return corner(tensor, shape)


def copy_corner(source: nn.Module, target: nn.Module) -> nn.Module:
    """Give `target`, a smaller module with a subset of the same names, copies of the corners of `source`'s tensors.

    This is how a plain layer or network is taken out of an elastic one: build it with the active channels, on the meta
    device if you like (it takes over device, type, memory format and training mode), and copy. Returns `target`.
    """
    full = source.state_dict()
    copies = {name: _corner_of(full[name], tensor.shape).clone() for name, tensor in target.state_dict().items()}
    target.load_state_dict(copies, assign=True)
    return target.train(source.training)


def _input_dimension(reader: nn.Module) -> int:
    if isinstance(reader, ElasticGroupsLinear):
        return 2
    return 0 if isinstance(reader, nn.ConvTranspose2d) else 1


@torch.no_grad()
def sort_shared_channels(writers: list[nn.Module], readers: list[nn.Module], kept: Collection[int] = ()) -> None:
    """Sort one set of channels, most important first, leaving the full network's function as it is.

    kept: widths of sub-networks whose functions stay, too: no channel leaves the first so many.

    writers: every convolution and norm layer whose output is these channels (several where a residual sum ties them).
    readers: every convolution, transposed convolution or linear layer that takes them as its input; the channels of an
    `ElasticGroupsLinear` are those of a group. A channel's importance is the L1 norm of the weights that read it.
    """
    inputs = [(reader.weight, _input_dimension(reader)) for reader in readers]
    importance = [
        weight.abs().sum([each for each in range(weight.dim()) if each != dimension]) for weight, dimension in inputs
    ]
    order = torch.stack(importance).sum(0).argsort(descending=True, stable=True)
    group = torch.bucketize(order, torch.tensor(sorted(kept), device=order.device), right=True)
    order = order[group.argsort(stable=True)]
    for writer in writers:
        for name in ("weight", "bias", "running_mean", "running_var"):
            tensor = getattr(writer, name, None)
            if tensor is not None:
                tensor.copy_(tensor[order])
    for weight, dimension in inputs:
        weight.copy_(weight.index_select(dimension, order))
