"""ResNet and ResNeXt as detectors use them: torchvision's blocks and tensor names, the features of all four stages.

torchvision's own state dicts load as they are (`load_state_dict(state, strict=False)` leaves `fc` out), so ImageNet
weights come by their names there: `torchvision.models.get_model_weights("resnet50").DEFAULT.get_state_dict()`.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from common.models.architectures import ARCHITECTURES, STRIDES, ResNetArchitecture
from common.models.norm import Norm
from common.plain import InputError, to_json

_STAGES = 4
_BLOCKS = {"basic": BasicBlock, "bottleneck": Bottleneck}


class ResNet(nn.Module):
    """Images (B, 3, H, W) to a feature a stage: (B, out_channels[s], H / strides[s], W / strides[s]).

    name: one of ARCHITECTURES. norm: how it normalises. width: channels of the first stage inside a block, in place of
    the architecture's own, for thin networks; in a ResNeXt, groups keep their 4 channels.
    """

    def __init__(self, name: str, norm: Norm | None = None, width: int | None = None) -> None:
        super().__init__()
        if name not in ARCHITECTURES:
            raise InputError(f"no ResNet is called {name!r}: give one of {', '.join(ARCHITECTURES)}")
        norm = norm or Norm()
        architecture = ARCHITECTURES[name]
        architecture = architecture.at_width(architecture.width if width is None else width)
        width = architecture.width
        self.description = {"kind": name, "norm": to_json(norm), "width": width}
        expansion = _BLOCKS[architecture.block].expansion
        self.out_channels = tuple(width * expansion * 2**stage for stage in range(_STAGES))
        self.strides = STRIDES
        self.stride = self.strides[-1]

        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = norm.layer(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels = (width, *self.out_channels)
        for stage, depth in enumerate(architecture.depths):
            layer = _stage(architecture, depth, channels[stage], width * 2**stage, 2 if stage else 1, norm)
            self.add_module(f"layer{stage + 1}", layer)
        initialise(self)
        norm.convert(self)

    @property
    def stages(self) -> tuple[nn.Sequential, ...]:
        """The stages that there are: four, or fewer once the last ones were taken out."""
        return tuple(child for name, child in self.named_children() if name.startswith("layer"))

    def take_last_stage(self) -> nn.Sequential:
        """Take the last stage out: nobody reads it, or it is to be run on each region instead."""
        last = self.stages[-1]
        delattr(self, f"layer{len(self.stages)}")
        self.out_channels, self.strides = self.out_channels[:-1], self.strides[:-1]
        self.stride = self.strides[-1]
        return last

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return tuple(features)

    @staticmethod
    def from_config(description: Mapping[str, Any]) -> "ResNet":
        """The network of a `description`, without its weights; all but `kind` may be left out."""
        return ResNet(description["kind"], Norm(**description.get("norm", {})), description.get("width"))


def initialise(network: nn.Module) -> None:
    """Draw the weights of a network of torchvision's residual blocks.

    Convolutions are drawn as torchvision does. The last norm of each block starts at weight 0, where it can learn
    another, so that a block at first adds nothing to its input: without that, deep networks learn next to nothing from
    a few hundred steps (Goyal et al., arXiv:1706.02677, section 5.1; the default of the detection codebases as well).
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, (BasicBlock, Bottleneck)):
            last = module.bn2 if isinstance(module, BasicBlock) else module.bn3
            if isinstance(last.weight, nn.Parameter):
                nn.init.zeros_(last.weight)


class _Subsampled(nn.Sequential):
    """Layers that read every `step`-th row and column."""

    def __init__(self, step: int, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[:, :, :: self.step, :: self.step])


def projection(in_channels: int, out_channels: int, stride: int, norm: Norm) -> nn.Sequential:
    """What a block adds where its input and output differ in shape: a 1x1 convolution with the stride, and its norm.

    Without AVX512, oneDNN (torch 2.14.1) writes past its memory in the gradient of one that has a stride and reads
    fewer than 8 channels: so the stride of such a narrow one is a slice.
    """
    narrow = stride > 1 and in_channels < 8
    convolution = nn.Conv2d(in_channels, out_channels, 1, 1 if narrow else stride, bias=False)
    layers = convolution, norm.layer(out_channels)
    return _Subsampled(stride, *layers) if narrow else nn.Sequential(*layers)


def _stage(
    architecture: ResNetArchitecture, depth: int, in_channels: int, width: int, stride: int, norm: Norm
) -> nn.Sequential:
    """Blocks of one stage; the first has the stride, and a projection where input and output differ in shape."""
    block = _BLOCKS[architecture.block]
    out_channels = width * block.expansion
    entry = None
    if stride != 1 or in_channels != out_channels:
        entry = projection(in_channels, out_channels, stride, norm)
    group = (architecture.groups, architecture.group_width)
    blocks = [block(in_channels, width, stride, entry, *group, norm_layer=norm.layer)]
    blocks += [block(out_channels, width, 1, None, *group, norm_layer=norm.layer) for _ in range(depth - 1)]
    return nn.Sequential(*blocks)
