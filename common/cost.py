"""What a network costs: parameters and operations, in three units that are easily taken for one another.

- `flops`: what `torch.utils.flop_counter.FlopCounterMode` says, 2 per multiply-accumulate: convolutions and products of
  matrices, whether a layer or a function computes them (attention and einsum included).
- `macs`: half of that. Biases are not counted.
- `macs_mmdet`: multiply-accumulates as the old mmdetection counter has them, which papers print as "FLOPS": `macs` and
  the biases of convolutions and linear layers, 2 per element of an affine batch norm (1 without), 1 per element that a
  ReLU, ReLU6, LeakyReLU, PReLU or ELU layer gives, 1 per element that a pooling layer is given, 1 per element that an
  upsampling layer gives. Functional activations, additions, interpolation, RoIAlign, NMS and group norm cost nothing.
  Unlike that counter it counts convolutions and products of matrices that are no layers, too.

Always for one image of a stated size.

    python -m common.cost r50-fpn --size 1333x800 --json
"""

import itertools
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from common.cli import Switch, run, show
from common.plain import InputError
from common.settings import COCO_CLASSES

if TYPE_CHECKING:
    from torch import Tensor, nn

    from common.models.roi_head import RoIHead
    from common.models.rpn import ProposalNetwork, Proposals

OUTSIDE = "outside"  # the part of what a network computes outside its top-level children


@dataclass(frozen=True)
class Cost:
    """Cost of one image; `parts` holds the same four numbers for each top-level child, by its name; they add up."""

    params: int
    macs_mmdet: int
    macs: int
    flops: int
    parts: dict[str, dict[str, int]] = field(default_factory=dict)


def count(module: "nn.Module", input_size: tuple[int, int]) -> Cost:
    """Cost of `module` for one image of `input_size`, width and height in pixels.

    Runs on the meta device, where shapes are known and nothing is computed; `module` itself stays as it is. The forward
    is real instead where it looks at values (non-maximum suppression), which meta tensors lack.
    """
    import torch
    from torch.func import functional_call

    width, height = input_size
    tensors = dict(itertools.chain(module.named_parameters(), module.named_buffers()))
    outlines = {name: torch.empty_like(each, device="meta") for name, each in tensors.items()}
    with torch.no_grad():
        try:
            with _shapes_alone(module):
                image = torch.empty(1, 3, height, width, device="meta")
                return _count(module, image, lambda given: functional_call(module, outlines, given))
        except (NotImplementedError, RuntimeError):
            device = next((each.device for each in tensors.values()), torch.device("cpu"))
            return _count(module, torch.zeros(1, 3, height, width, device=device), module)


@contextmanager
def _shapes_alone(module: "nn.Module") -> Iterator[None]:
    """Inside, norms and activations hand on what they are given: neither changes a shape, and on the meta device most
    are written in Python, which would take most of the time. So are the boxes that are proposed and what is read of the
    maps there, neither of which costs anything."""
    from torch import nn
    from torch.nn.modules import batchnorm

    from common.models.roi_head import RoIHead
    from common.models.rpn import ProposalNetwork

    stand_ins = (
        ((batchnorm._BatchNorm, nn.GroupNorm, nn.ReLU, nn.ReLU6), "forward", lambda _, given: given),
        (ProposalNetwork, "propose", _shapes_of_proposals),
        (RoIHead, "pooled", _shapes_of_regions),
    )
    changed = [(layer, *each[1:]) for layer in module.modules() for each in stand_ins if isinstance(layer, each[0])]
    for layer, name, function in changed:
        setattr(layer, name, partial(function, layer))
    try:
        yield
    finally:
        for layer, name, _ in changed:
            delattr(layer, name)


def _shapes_of_proposals(
    layer: "ProposalNetwork", maps: Sequence["Tensor"], outputs: Mapping[str, "Tensor"], size: tuple[int, int]
) -> "Proposals":
    """As `ProposalNetwork.propose` of a network that is not trained."""
    from common.models.rpn import Proposals

    counts = [each.shape[-2] * each.shape[-1] * layer.anchors.per_cell for each in maps]
    found = sum(min(layer.settings.candidates[1], count) for count in counts)
    boxes = maps[0].new_empty(len(maps[0]), min(layer.settings.proposals[1], found), 4)
    return Proposals(boxes, boxes[..., 0] > 0)


def _shapes_of_regions(layer: "RoIHead", maps: Sequence["Tensor"], boxes: "Tensor") -> "Tensor":
    """As `RoIHead.pooled`."""
    return maps[0].new_empty(*boxes.shape[:2], layer.bins**2, maps[0].shape[1])


def _count(module: "nn.Module", image: "Tensor", call: "Callable[[Tensor], Any]") -> Cost:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from common.models.mode import evaluation_mode

    part_of = {inner: name for name, child in module.named_children() for inner in child.modules()}
    flops: dict[str, int] = defaultdict(int)
    others: dict[str, int] = defaultdict(int)
    calls: list[int] = []  # for each layer under way, the FLOPs before it

    def enter(layer: "nn.Module", _: Any) -> None:
        calls.append(counter.get_total_flops())

    def leave(layer: "nn.Module", inputs: tuple[Any, ...], output: Any) -> None:
        before = calls.pop()
        if not calls:  # called by the network itself, which knows the layer by its part
            flops[part_of[layer]] += counter.get_total_flops() - before
        others[part_of[layer]] += _beside_products(layer, inputs, output)

    hooks = [layer.register_forward_pre_hook(enter) for layer in part_of]
    hooks += [layer.register_forward_hook(leave) for layer in part_of]
    # torch's counter does not know torchvision's operators
    deformable = {torch.ops.torchvision.deform_conv2d: _flops_of_deformable_convolution}
    try:
        with evaluation_mode(module), FlopCounterMode(display=False, custom_mapping=deformable) as counter:
            output = call(image)
    finally:
        for hook in hooks:
            hook.remove()

    params = {name: sum(each.numel() for each in child.parameters()) for name, child in module.named_children()}
    total = {"params": sum(each.numel() for each in module.parameters()), "flops": counter.get_total_flops()}
    flops[OUTSIDE] = total["flops"] - sum(flops.values())
    others[OUTSIDE] = 0 if part_of else _beside_products(module, (image,), output)
    params[OUTSIDE] = total["params"] - sum(params.values())
    parts = {
        name: _units(params[name], flops[name], others[name])
        for name in params
        if name != OUTSIDE or params[name] or flops[name] or others[name]
    }
    return Cost(**_units(**total, others=sum(others.values())), parts=parts)


def _units(params: int, flops: int, others: int) -> dict[str, int]:
    return {"params": params, "macs_mmdet": flops // 2 + others, "macs": flops // 2, "flops": flops}


def _beside_products(layer: "nn.Module", inputs: tuple[Any, ...], output: Any) -> int:
    """All that the mmdetection counter counts of a layer beside its products."""
    import torchvision
    from torch import nn
    from torch.nn.modules import batchnorm, conv, pooling

    from common.models.elastic import ElasticGroupsLinear

    # elements are read off the tensors: an elastic layer uses only the first channels of its weight
    if isinstance(layer, (conv._ConvNd, torchvision.ops.DeformConv2d, nn.Linear, ElasticGroupsLinear)):
        return 0 if layer.bias is None else output.numel()
    if isinstance(layer, (batchnorm._BatchNorm, torchvision.ops.FrozenBatchNorm2d)):
        return inputs[0].numel() * (2 if getattr(layer, "affine", True) else 1)
    if isinstance(layer, (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.Upsample)):
        return output.numel()
    pools = pooling._MaxPoolNd, pooling._AvgPoolNd, pooling._AdaptiveMaxPoolNd, pooling._AdaptiveAvgPoolNd
    return inputs[0].numel() if isinstance(layer, pools) else 0


def _flops_of_deformable_convolution(
    images: tuple[int, ...], weight: tuple[int, ...], *_: Any, out_shape: tuple[int, ...], **__: Any
) -> int:
    return 2 * math.prod(out_shape) * math.prod(weight[1:])


_BACKBONES = {f"r{depth}": f"resnet{depth}" for depth in (18, 34, 50, 101)}
_BACKBONES |= {f"x{depth}-32x4d": f"resnext{depth}_32x4d" for depth in (50, 101)}
MODELS = (*_BACKBONES, *(f"{name}-fpn" for name in _BACKBONES))


def build(name: str) -> "nn.Module":
    """One of `MODELS`: a ResNet, or Faster R-CNN on it as the papers count it (a pyramid P1-P5 of 256 channels, 1000
    proposals).
    """
    from common.models.fpn import FPN
    from common.models.resnet import ResNet
    from common.models.two_stage import TwoStage

    backbone = ResNet(_BACKBONES[name.removesuffix("-fpn")])
    return TwoStage(backbone, COCO_CLASSES, FPN(backbone.out_channels)) if name.endswith("-fpn") else backbone


def parse_size(text: str) -> tuple[int, int]:
    """Width and height of "1333x800"."""
    match = re.fullmatch(r"(\d+)x(\d+)", text.strip())
    if not match or min(size := (int(match[1]), int(match[2]))) < 1:
        raise InputError(f"a size must be WIDTHxHEIGHT in pixels, got {text!r}: give, say, --size 1333x800")
    return size


@dataclass(frozen=True)
class CostCommand:
    """Parameters and operations of a network, in total and by part."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
    """r18, r34, r50, r101, x50-32x4d, x101-32x4d: the backbone alone; with -fpn behind it: Faster R-CNN on it."""
    size: str = "1333x800"
    """Width x height of the image, in pixels."""
    json: Switch = False
    """Print one JSON object instead of a table."""


def main(config: CostCommand) -> None:
    """Prints the cost of a named network."""
    size = parse_size(config.size)
    if config.model not in MODELS:
        raise InputError(f"no network is named {config.model!r}: give one of {', '.join(sorted(MODELS))}")
    from common.models.outline import outline

    with outline():
        module = build(config.model)
    try:
        cost = count(module, size)
    except RuntimeError as error:
        raise InputError(f"{config.model} cannot take an image of {config.size}: {error}") from None
    show(asdict(cost), config.json, lambda report: f"{config.model} at {config.size}\n\n{_table(report)}")


def _table(report: Mapping[str, Any]) -> str:
    lines = [f"{'part':<12}{'params M':>12}{'macs_mmdet G':>14}{'macs G':>12}{'flops G':>12}"]
    for name, part in [*report["parts"].items(), ("total", report)]:
        giga = [part[unit] / 1e9 for unit in ("macs_mmdet", "macs", "flops")]
        lines.append(f"{name:<12}{part['params'] / 1e6:>12.3f}{giga[0]:>14.3f}{giga[1]:>12.3f}{giga[2]:>12.3f}")
    return "\n".join(lines)


if __name__ == "__main__":
    run(main, CostCommand)
