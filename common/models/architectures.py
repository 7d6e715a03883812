"""What the standard backbones are, and how widths are rounded: numbers alone, importable without torch."""

from dataclasses import dataclass, replace
from math import gcd, inf, nextafter
from typing import Literal

from common.plain import InputError

STRIDES = (4, 8, 16, 32)
"""Of the features that a pyramid reads, in pixels of the image."""


@dataclass(frozen=True)
class ResNetArchitecture:
    """depths: blocks of each stage. width: channels of the first stage inside a block; a bottleneck puts out four times
    that.

    groups, group_width: of a bottleneck's 3x3 convolution, the latter in channels at width 64, as torchvision counts
    it; 32 and 4 make a ResNeXt 32x4d.
    """

    block: Literal["basic", "bottleneck"]
    depths: tuple[int, ...]
    width: int = 64
    groups: int = 1
    group_width: float = 64

    def at_width(self, width: int) -> "ResNetArchitecture":
        """The same at another width. A ResNeXt keeps the channels of a group and has fewer or more groups."""
        if width < 1:
            raise InputError(f"the width of a ResNet must be at least 1, got {width}")
        if width == self.width:
            return self
        if self.groups == 1:
            return replace(self, width=width)
        groups, rest = divmod(self.groups * width, self.width)
        if rest:
            multiple = self.width // gcd(self.width, self.groups)
            raise InputError(f"the width of a ResNeXt must be a multiple of {multiple}, got {width}")
        # Rounded up, so that torchvision, which cuts the product with the width to an integer, loses no channel.
        return replace(
            self, width=width, groups=groups, group_width=nextafter(self.group_width * self.width / width, inf)
        )


ARCHITECTURES = {
    "resnet18": ResNetArchitecture("basic", (2, 2, 2, 2)),
    "resnet34": ResNetArchitecture("basic", (3, 4, 6, 3)),
    "resnet50": ResNetArchitecture("bottleneck", (3, 4, 6, 3)),
    "resnet101": ResNetArchitecture("bottleneck", (3, 4, 23, 3)),
    "resnext50_32x4d": ResNetArchitecture("bottleneck", (3, 4, 6, 3), groups=32, group_width=4),
    "resnext101_32x4d": ResNetArchitecture("bottleneck", (3, 4, 23, 3), groups=32, group_width=4),
}
"""The ResNets and ResNeXts, by torchvision's names."""


@dataclass(frozen=True)
class OFAResNetArchitecture:
    """One network of Once-for-All's ResNet space (common.models.ofa_resnet), in channels.

    stem_residual: whether the stem has its residual convolution. stem_middle, stem_width: inside and after the stem.
    stage_widths: after each stage. stage_strides: of each stage, after the stem's stride of 4. middle_widths: inside
    each block, stage by stage; their number is the stage's depth.
    """

    stem_residual: bool
    stem_middle: int
    stem_width: int
    stage_widths: tuple[int, ...]
    stage_strides: tuple[int, ...]
    middle_widths: tuple[tuple[int, ...], ...]


def round_channels(value: float, multiple: int = 8) -> int:
    """The multiple nearest to `value`: at least `multiple`, and one up where it fell under 90 % of `value`."""
    rounded = max(multiple, int(value + multiple / 2) // multiple * multiple)
    return rounded + multiple if rounded < 0.9 * value else rounded
