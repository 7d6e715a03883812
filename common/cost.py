"""What a network costs: parameters and operations, in three units that are easily taken for one another.

- `macs_mmdet`: multiply-accumulates as the old mmdetection counter has them, which papers print as "FLOPS":
  convolutions and linear layers with their biases, 2 per element of an affine batch norm, 1 per element of each ReLU
  call, and the input elements of a max-pool. Functional ReLUs, additions, interpolation, RoIAlign, NMS and group norm
  cost nothing.
- `macs`: convolutions and linear layers alone, without biases.
- `flops`: what `torch.utils.flop_counter.FlopCounterMode` says, 2 per multiply-accumulate.

Always for one image of a stated size.

    python -m common.cost r50-fpn --size 1333x800 --json
"""

import copy
import json
import math
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Annotated, Any

import torch
import tyro
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import DeformConv2d, FrozenBatchNorm2d

from common.cli import run
from common.models.fpn import FPN
from common.models.outline import outline
from common.models.resnet import ResNet
from common.models.two_stage import TwoStage
from common.plain import InputError

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, DeformConv2d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, FrozenBatchNorm2d)
_MAX_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)


@dataclass(frozen=True)
class Cost:
    """Cost of one image; `parts` holds the same four numbers for each top-level child, by its name."""

    params: int
    macs_mmdet: int
    macs: int
    flops: int
    parts: dict[str, dict[str, int]] = field(default_factory=dict)


def count(module: nn.Module, input_size: tuple[int, int]) -> Cost:
    """Cost of `module` for one image of `input_size`, width and height in pixels.

    Runs a copy on the meta device, where shapes are known and nothing is computed; `module` itself stays as it is.
    Where a forward looks at values (non-maximum suppression), which meta tensors lack, the forward is real instead.
    """
    width, height = input_size
    try:
        abstract = copy.deepcopy(module).to("meta")
        return _count(abstract, torch.empty(1, 3, height, width, device="meta"))
    except (NotImplementedError, RuntimeError):
        device = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))
        return _count(module, torch.zeros(1, 3, height, width, device=device))


@torch.no_grad()
def _count(module: nn.Module, image: Tensor) -> Cost:
    children = dict(module.named_children())
    part_of = {inner: name for name, child in children.items() for inner in child.modules()}
    macs_mmdet: dict[str | None, int] = defaultdict(int)
    macs: dict[str | None, int] = defaultdict(int)

    def record(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        part = part_of.get(layer)
        products, others = _operations(layer, inputs[0], output)
        macs[part] += products
        macs_mmdet[part] += products + others

    hooks = [layer.register_forward_hook(record) for layer in module.modules() if _counts(layer)]
    training = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with FlopCounterMode(display=False) as counter:
            module(image)
    finally:
        for hook in hooks:
            hook.remove()
        for part, flag in training.items():
            part.training = flag

    by_module = counter.get_flop_counts()
    root = type(module).__name__
    parts = {
        name: {
            "params": _parameters(child),
            "macs_mmdet": macs_mmdet[name],
            "macs": macs[name],
            "flops": sum(by_module.get(f"{root}.{name}", {}).values()),
        }
        for name, child in children.items()
    }
    return Cost(
        params=_parameters(module),
        macs_mmdet=sum(macs_mmdet.values()),
        macs=sum(macs.values()),
        flops=counter.get_total_flops(),
        parts=parts,
    )


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _counts(layer: nn.Module) -> bool:
    return isinstance(layer, (*_CONVOLUTIONS, *_TRANSPOSED, *_BATCH_NORMS, *_MAX_POOLS, nn.Linear, nn.ReLU))


def _operations(layer: nn.Module, inputs: Tensor, output: Tensor) -> tuple[int, int]:
    """Products of convolutions and linear layers, and all that the mmdetection counter adds to them."""
    # channels are read off the tensors: an elastic layer uses only the first ones of its weight
    bias = output.numel() if getattr(layer, "bias", None) is not None else 0
    if isinstance(layer, _CONVOLUTIONS):
        return output.numel() * (inputs.shape[1] // layer.groups) * math.prod(layer.kernel_size), bias
    if isinstance(layer, _TRANSPOSED):
        return inputs.numel() * (output.shape[1] // layer.groups) * math.prod(layer.kernel_size), bias
    if isinstance(layer, nn.Linear):
        return output.numel() * inputs.shape[-1], bias
    if isinstance(layer, _BATCH_NORMS):
        return 0, 2 * inputs.numel() if getattr(layer, "affine", True) else inputs.numel()
    if isinstance(layer, nn.ReLU):
        return 0, output.numel()
    return 0, inputs.numel()  # max-pool


CATEGORIES = 80  # COCO's, which the papers' detectors tell apart


def _detector(backbone: str) -> TwoStage:
    """Faster R-CNN on a pyramid P1-P5 of 256 channels, 1000 proposals: what the papers count."""
    network = ResNet(backbone)
    return TwoStage(network, CATEGORIES, FPN(network.out_channels))


# Networks that the command knows by name: each entry builds one, on whatever device is the default.
_BACKBONES = {
    "r18": "resnet18",
    "r34": "resnet34",
    "r50": "resnet50",
    "r101": "resnet101",
    "x50-32x4d": "resnext50_32x4d",
    "x101-32x4d": "resnext101_32x4d",
}
MODELS: dict[str, Callable[[], nn.Module]] = {
    **{name: partial(ResNet, backbone) for name, backbone in _BACKBONES.items()},
    **{f"{name}-fpn": partial(_detector, backbone) for name, backbone in _BACKBONES.items()},
}


def parse_size(text: str) -> tuple[int, int]:
    """Width and height of "1333x800"."""
    match = re.fullmatch(r"(\d+)x(\d+)", text.strip())
    if not match or min(size := (int(match[1]), int(match[2]))) < 1:
        raise InputError(f"the size {text!r} is not WIDTHxHEIGHT in pixels: give, say, --size 1333x800")
    return size


@dataclass(frozen=True)
class CostCommand:
    """Parameters and operations of a network, in total and by part."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
    """r18, r34, r50, r101, x50-32x4d, x101-32x4d: the backbone alone; with -fpn behind it: Faster R-CNN on it."""
    size: str = "1333x800"
    """Width x height of the image, in pixels."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object instead of a table."""


def main(config: CostCommand) -> None:
    """Prints the cost of a named network."""
    size = parse_size(config.size)
    if config.model not in MODELS:
        raise InputError(f"no network is named {config.model!r}: the names are {', '.join(sorted(MODELS))}")
    with outline():
        module = MODELS[config.model]()
    try:
        cost = count(module, size)
    except RuntimeError as error:
        raise InputError(f"{config.model} cannot take an image of {config.size}: {error}") from None
    if config.json:
        print(json.dumps(asdict(cost)))
        return
    print(f"{config.model} at {config.size}\n")
    print(f"{'part':<12}{'params M':>12}{'macs_mmdet G':>14}{'macs G':>12}{'flops G':>12}")
    for name, part in [*cost.parts.items(), ("total", asdict(cost))]:
        numbers = [part["params"] / 1e6, part["macs_mmdet"] / 1e9, part["macs"] / 1e9, part["flops"] / 1e9]
        print(f"{name:<12}{numbers[0]:>12.3f}{numbers[1]:>14.3f}{numbers[2]:>12.3f}{numbers[3]:>12.3f}")


if __name__ == "__main__":
    run(main, CostCommand)
