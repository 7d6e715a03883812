"""MobileNetV2 as detectors use it (Sandler et al., 2018): torchvision's network, features at strides 4 to 32."""

from collections.abc import Mapping
from typing import Any

import torchvision
from torch import Tensor, nn

from common.models.architectures import STRIDES
from common.models.norm import Norm
from common.plain import to_json

LAST_OF_STRIDE = (3, 6, 13, 18)  # torchvision's layers after which the stride doubles, and the very last


class MobileNetV2(nn.Module):
    """Images (B, 3, H, W) to four features (B, out_channels[s], H / strides[s], W / strides[s]).

    width: multiplies the channels, which are rounded to multiples of 8; under 1 not those of the last layer, as
    torchvision has it. The tensor names are torchvision's, so its state dicts load as they are
    (`strict=False` leaves the classifier out).
    """

    def __init__(self, norm: Norm | None = None, width: float = 1.0) -> None:
        super().__init__()
        norm = norm or Norm()
        self.description = {"kind": "mobilenet_v2", "norm": to_json(norm), "width": width}
        network = torchvision.models.mobilenet_v2(weights=None, width_mult=width, norm_layer=norm.layer)
        self.features = norm.convert(network.features)
        self.out_channels = tuple(network.features[index].out_channels for index in LAST_OF_STRIDE)
        self.strides, self.stride = STRIDES, STRIDES[-1]

    def take_last_stage(self) -> nn.Sequential:
        """Take the layers of the last stride out: nobody reads them, or they are to be run on each region instead."""
        first = LAST_OF_STRIDE[len(self.out_channels) - 2] + 1
        self.features, last = self.features[:first], self.features[first:]  # slices keep the names
        self.out_channels, self.strides = self.out_channels[:-1], self.strides[:-1]
        self.stride = self.strides[-1]
        return last

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        x, features = images, []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in LAST_OF_STRIDE:
                features.append(x)
        return tuple(features)

    @staticmethod
    def from_config(description: Mapping[str, Any]) -> "MobileNetV2":
        """The network of a `description`, without its weights; all but `kind` may be left out."""
        return MobileNetV2(Norm(**description.get("norm", {})), description.get("width", 1.0))
