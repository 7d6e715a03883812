"""How a network normalises: batch norm, frozen batch norm, group norm, or group norm with weight standardisation.

One `Norm` is passed to backbone, neck and heads, which have their convolutions made or converted by it, since weight
standardisation is a matter of the convolution.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import gcd
from typing import Any, Literal, get_args

import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from common.plain import InputError

NormKind = Literal["batch", "frozen", "group", "group-ws"]
STANDARD_EPSILON = 1e-5  # added to the variance of a filter


class FrozenBatchNorm2d(torchvision.ops.FrozenBatchNorm2d):
    """torchvision's batch norm of fixed statistics and weights, in one fused kernel instead of two passes."""

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


def standardise(weight: Tensor) -> Tensor:
    """Filters (out, in, kh, kw) with zero mean and unit deviation each (Qiao et al., arXiv:1903.10520, equation 2)."""
    filters = weight.permute(0, 2, 3, 1)  # as they lie in memory
    return F.layer_norm(filters, filters.shape[1:], eps=STANDARD_EPSILON).permute(0, 3, 1, 2)


class StandardisedConv2d(nn.Conv2d):
    """A convolution whose filters are standardised at each use."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, standardise(self.weight), self.bias)


def shape_of(convolution: nn.Conv2d) -> dict[str, Any]:
    """The arguments that make a convolution of the same shape."""
    names = "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"
    return {**{name: getattr(convolution, name) for name in names}, "bias": convolution.bias is not None}


@dataclass(frozen=True)
class Norm:
    """kind: see the module. groups: of a group norm; where they do not divide the channels, their greatest common
    divisor with these.
    """

    kind: NormKind = "batch"
    groups: int = 32

    def __post_init__(self) -> None:
        if self.kind not in get_args(NormKind):
            raise InputError(f"no norm is called {self.kind!r}: give one of {', '.join(get_args(NormKind))}")
        if self.groups < 1:
            raise InputError(f"the groups of a norm must be at least 1, got {self.groups}")

    @property
    def standardises(self) -> bool:
        """Whether convolutions standardise their weights."""
        return self.kind == "group-ws"

    def layer(self, channels: int) -> nn.Module:
        """The norm of a map with that many channels."""
        if self.kind == "batch":
            return nn.BatchNorm2d(channels)
        if self.kind == "frozen":
            return FrozenBatchNorm2d(channels)
        return nn.GroupNorm(gcd(self.groups, channels), channels)

    def convert(self, module: nn.Module) -> nn.Module:
        """The module, made of plain convolutions, with those that this norm asks for in their place."""
        if not self.standardises:
            return module
        for name, child in list(module.named_children()):
            if type(child) is nn.Conv2d:
                layer = StandardisedConv2d(**shape_of(child))
                layer.weight, layer.bias = child.weight, child.bias
                setattr(module, name, layer)
            else:
                self.convert(child)
        return module


def draw_weights(deviation: float, *layers: nn.Module) -> None:
    """Draw weights from a normal distribution around 0; biases start at 0."""
    for layer in layers:
        nn.init.normal_(layer.weight, std=deviation)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def convolution(
    norm: Norm | None,
    in_channels: int,
    out_channels: int,
    kernel: int,
    stride: int = 1,
    initialise: Callable[[Tensor], Any] = lambda weight: weight,
) -> nn.Module:
    """A convolution, padded to keep the size at stride 1: with bias, or, given a norm, without and the norm behind it.

    initialise: draws the weight in place, after torch did; biases start at 0.
    """
    layer = StandardisedConv2d if norm is not None and norm.standardises else nn.Conv2d
    layer = layer(in_channels, out_channels, kernel, stride, kernel // 2, bias=norm is None)
    initialise(layer.weight)
    if norm is not None:
        return nn.Sequential(layer, norm.layer(out_channels))
    nn.init.zeros_(layer.bias)
    return layer
