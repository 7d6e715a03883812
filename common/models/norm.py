"""How a network normalises: batch norm, frozen batch norm, group norm, or group norm with weight standardisation.

One `Norm` is passed to backbone, neck and heads, which ask it for their convolutions as well as for their norms, since
weight standardisation is a matter of the convolution.
"""

from dataclasses import asdict, dataclass
from math import gcd
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from common.command import InputError

NormKind = Literal["batch", "frozen", "group", "group-ws"]
STANDARD_EPSILON = 1e-5  # added to the deviation of a filter, as in the authors' released code


class FrozenBatchNorm2d(torchvision.ops.FrozenBatchNorm2d):
    """torchvision's batch norm of fixed statistics and weights, in one fused kernel instead of two passes."""

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


def standardise(weight: Tensor) -> Tensor:
    """Filters (out, in, kh, kw) with zero mean and unit deviation each (Qiao et al., arXiv:1903.10520, equation 2)."""
    deviation, mean = torch.std_mean(weight, dim=(1, 2, 3), keepdim=True)
    return (weight - mean) / (deviation + STANDARD_EPSILON)


class StandardisedConv2d(nn.Conv2d):
    """A convolution whose filters are standardised at each use."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, standardise(self.weight), self.bias)


def _shape(convolution: nn.Conv2d) -> dict[str, Any]:
    """The arguments that make a convolution of the same shape."""
    names = "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"
    return {**{name: getattr(convolution, name) for name in names}, "bias": convolution.bias is not None}


def _deform(layer: torchvision.ops.DeformConv2d, x: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
    """Always in the weight's precision: torchvision's kernels for a CPU know no lower one. They read beyond the map
    where an offset is not a number, as once a network has diverged."""
    inputs = x.to(weight.dtype), offset.to(weight.dtype).nan_to_num(), weight, layer.bias
    return torchvision.ops.deform_conv2d(*inputs, layer.stride, layer.padding, layer.dilation).to(x.dtype)


class OffsetConv2d(torchvision.ops.DeformConv2d):
    """A deformable convolution that is told its offsets; under autocast, too."""

    def forward(self, x: Tensor, offset: Tensor) -> Tensor:
        return _deform(self, x, offset, self.weight)


class DeformableConv2d(torchvision.ops.DeformConv2d):
    """A convolution that moves its own sampling points (Dai et al., "Deformable Convolutional Networks", 2017).

    Another convolution of the same shape, zero at the start, gives the offsets; so at first this is the plain one.
    """

    def __init__(self, plain: nn.Conv2d) -> None:
        super().__init__(**_shape(plain))
        self.standardised = isinstance(plain, StandardisedConv2d)
        points = self.kernel_size[0] * self.kernel_size[1]
        self.offset = nn.Conv2d(
            plain.in_channels, 2 * points, plain.kernel_size, plain.stride, plain.padding, plain.dilation
        )
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)
        self.weight, self.bias = plain.weight, plain.bias

    def forward(self, x: Tensor) -> Tensor:
        weight = standardise(self.weight) if self.standardised else self.weight
        return _deform(self, x, self.offset(x), weight)


@dataclass(frozen=True)
class Norm:
    """kind: see the module. groups: of a group norm; where they do not divide the channels, the greatest that does."""

    kind: NormKind = "batch"
    groups: int = 32

    def __post_init__(self) -> None:
        if self.kind not in get_args(NormKind):
            raise InputError(f"no norm is called {self.kind!r}: give one of {', '.join(get_args(NormKind))}")
        if self.groups < 1:
            raise InputError(f"a group norm of {self.groups} groups is none: give at least 1")

    @property
    def standardises(self) -> bool:
        """Whether convolutions standardise their weights."""
        return self.kind == "group-ws"

    def layer(self, channels: int) -> nn.Module:
        """The norm of a map with so many channels."""
        if self.kind == "batch":
            return nn.BatchNorm2d(channels)
        if self.kind == "frozen":
            return FrozenBatchNorm2d(channels)
        return nn.GroupNorm(gcd(self.groups, channels), channels)

    def conv(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, bias: bool = False) -> nn.Conv2d:
        """A convolution before such a norm, padded to keep the size at stride 1."""
        layer = StandardisedConv2d if self.standardises else nn.Conv2d
        return layer(in_channels, out_channels, kernel, stride, kernel // 2, bias=bias)

    def convert(self, module: nn.Module) -> nn.Module:
        """The module, made of plain convolutions, with those that this norm asks for in their place."""
        if not self.standardises:
            return module
        for name, child in list(module.named_children()):
            if type(child) is nn.Conv2d:
                setattr(module, name, _standardised(child))
            else:
                self.convert(child)
        return module

    def to_dict(self) -> dict[str, Any]:
        """The fields, ready for JSON."""
        return asdict(self)


def _standardised(plain: nn.Conv2d) -> StandardisedConv2d:
    layer = StandardisedConv2d(**_shape(plain))
    layer.weight, layer.bias = plain.weight, plain.bias
    return layer
