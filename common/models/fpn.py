"""Feature pyramids over any range of levels (Lin et al., "Feature Pyramid Networks for Object Detection", 2017).

Levels are counted as SM-NAS does: P1 has stride 4 and comes from the backbone's first stage, P4 has stride 32 and comes
from its last; P5 and P6 lie past the backbone. (Papers that count strides call P1 "P2".)
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from common.models.norm import Norm, convolution
from common.plain import InputError, from_json, to_json

FIRST_STRIDE = 4
# Where the levels past the backbone come from: the last output by subsampling, or a 3x3 convolution of stride 2 on the
# backbone's last feature or on the last output. Further levels follow in the same way, each on the one before it.
ExtraLevels = Literal["pool", "conv-on-input", "conv-on-output"]


def level_stride(level: int) -> int:
    """Pixels a cell of level 1, 2, ..."""
    return FIRST_STRIDE * 2 ** (level - 1)


class FPN(nn.Module):
    """Levels first..last of a backbone's features, all `width` channels wide.

    in_channels: of the backbone's features, from stride 4 on. extra: how levels past the backbone are made.
    norm: of every convolution; None means convolutions with bias, as in the paper.

    forward: all the backbone's features to a tuple of (B, width, H / strides[i], W / strides[i]).
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        first: int = 1,
        last: int = 5,
        width: int = 256,
        norm: Norm | None = None,
        extra: ExtraLevels = "pool",
    ) -> None:
        super().__init__()
        if not 1 <= first < last or first > len(in_channels):
            raise InputError(
                f"a pyramid must begin at one of the backbone's levels 1 to {len(in_channels)} and end at a later one, "
                f"got P{first}-P{last}"
            )
        if extra not in get_args(ExtraLevels):
            raise InputError(f"no extra levels are called {extra!r}: give one of {', '.join(get_args(ExtraLevels))}")
        self.first, self.last, self.width, self.norm, self.extra = first, last, width, norm, extra
        self.strides = tuple(map(level_stride, range(first, last + 1)))
        self.out_channels = (width,) * len(self.strides)
        inside = in_channels[first - 1 : last]  # what the backbone gives of these levels
        make = partial(convolution, norm, out_channels=width, initialise=partial(nn.init.kaiming_uniform_, a=1))
        self.laterals = nn.ModuleList(make(channels, kernel=1) for channels in inside)
        self.outputs = nn.ModuleList(make(width, kernel=3) for _ in inside)
        self.extras = nn.ModuleList()
        if extra != "pool":
            source = inside[-1] if extra == "conv-on-input" else width
            for _ in range(len(self.strides) - len(inside)):
                self.extras.append(make(source, kernel=3, stride=2))
                source = width

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        features = features[self.first - 1 : self.last]
        merged = [lateral(feature) for lateral, feature in zip(self.laterals, features, strict=True)]
        for level in range(len(merged) - 1, 0, -1):
            finer = merged[level - 1]
            merged[level - 1] = finer + F.interpolate(merged[level], size=finer.shape[-2:], mode="nearest")
        levels = [output(feature) for output, feature in zip(self.outputs, merged, strict=True)]
        if self.extra == "pool":
            while len(levels) < len(self.strides):
                levels.append(F.max_pool2d(levels[-1], kernel_size=1, stride=2))
        x = features[-1] if self.extra == "conv-on-input" else levels[-1]
        for index, layer in enumerate(self.extras):
            x = layer(x.relu() if index else x)
            levels.append(x)
        return tuple(levels)

    def config(self) -> dict[str, Any]:
        """Plain numbers from which the pyramid can be built again, given the backbone."""
        return to_json({name: getattr(self, name) for name in ("first", "last", "width", "norm", "extra")})

    @staticmethod
    def from_config(config: Mapping[str, Any], in_channels: Sequence[int]) -> "FPN":
        """The pyramid of a `config()` on a backbone's features, without its weights."""
        return FPN(in_channels, **{**config, "norm": from_json(Norm | None, config["norm"], "the pyramid's norm")})


def keep_stages(backbone: nn.Module, count: int) -> None:
    """Take the stages of a backbone out that come after the first `count`: nobody reads them."""
    while len(backbone.out_channels) > count:
        backbone.take_last_stage()


class NoPyramid(nn.Module):
    """The backbone's last feature alone, as it is: what a detector without a pyramid predicts from."""

    def __init__(self, in_channels: Sequence[int]) -> None:
        super().__init__()
        self.strides = (level_stride(len(in_channels)),)
        self.out_channels = (in_channels[-1],)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return (features[-1],)

    def config(self) -> None:
        """There is nothing to say."""
