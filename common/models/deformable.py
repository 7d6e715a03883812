"""Convolutions that move their own sampling points (Dai et al., "Deformable Convolutional Networks", 2017)."""

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from common.models.norm import StandardisedConv2d, shape_of, standardise


class OffsetConv2d(torchvision.ops.DeformConv2d):
    """A convolution that is told where to move its points: x, and offsets as torchvision takes them."""

    def forward(self, x: Tensor, offset: Tensor) -> Tensor:
        return deform(self, x, offset, self.weight)


class DeformableConv2d(torchvision.ops.DeformConv2d):
    """One that finds out itself, in the place of a plain one.

    Another convolution of the same shape, zero at the start, gives the offsets; so at first this is the plain one.
    """

    def __init__(self, plain: nn.Conv2d) -> None:
        super().__init__(**shape_of(plain))
        self.standardised = isinstance(plain, StandardisedConv2d)
        points = self.kernel_size[0] * self.kernel_size[1]
        self.offset = nn.Conv2d(
            plain.in_channels, 2 * points, plain.kernel_size, plain.stride, plain.padding, plain.dilation
        )
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)
        self.weight, self.bias = plain.weight, plain.bias

    def forward(self, x: Tensor) -> Tensor:
        return deform(self, x, self.offset(x), standardise(self.weight) if self.standardised else self.weight)


def deform(layer: torchvision.ops.DeformConv2d, x: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
    """x (B, C, H, W) convolved with `weight` at points moved by `offset` (B, parts * points * 2, H', W'), y before x.

    Points are read in the weight's precision, also under autocast. On a CUDA device torchvision does it; elsewhere
    torch's sampling and a product of matrices, which train five times as fast on a CPU.
    """
    inputs = x.to(weight.dtype), offset.to(weight.dtype).nan_to_num(), weight  # not a number: read beyond the map
    if x.device.type == "cuda":
        y = torchvision.ops.deform_conv2d(*inputs, layer.bias, layer.stride, layer.padding, layer.dilation)
    else:
        y = _deform_by_sampling(layer, *inputs)
    return y.to(x.dtype)


def _deform_by_sampling(layer: torchvision.ops.DeformConv2d, x: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
    B, C, H, W = x.shape  # batch, channels, height, width
    (kernel_height, kernel_width), (rows, columns) = layer.kernel_size, offset.shape[-2:]
    points = kernel_height * kernel_width
    parts = offset.shape[1] // (2 * points)  # groups of channels with offsets of their own

    def unmoved(axis: int, count: int) -> Tensor:
        """(kernel, count) where the kernel's points lie along an axis, for each place of it."""
        place = torch.arange(count, device=x.device) * layer.stride[axis] - layer.padding[axis]
        return place + torch.arange(layer.kernel_size[axis], device=x.device).unsqueeze(1) * layer.dilation[axis]

    down, right = offset.reshape(B * parts, points, 2, rows, columns).unbind(2)
    down = down + unmoved(0, rows).repeat_interleave(kernel_width, dim=0).unsqueeze(-1)
    right = right + unmoved(1, columns).repeat(kernel_height, 1).unsqueeze(-2)
    grid = torch.stack([(2 * right + 1) / W - 1, (2 * down + 1) / H - 1], dim=-1).flatten(2, 3)  # -1..1, edge to edge
    maps = x.reshape(B * parts, C // parts, H, W)
    sampled = F.grid_sample(maps, grid, align_corners=False)  # (B * parts, C / parts, points, H' * W')
    sampled = sampled.view(B, layer.groups, -1, rows * columns)
    y = (weight.reshape(layer.groups, -1, sampled.shape[2]) @ sampled).view(B, -1, rows, columns)
    return y if layer.bias is None else y + layer.bias.view(-1, 1, 1)
