"""A finished detector as one ONNX file, for other runtimes: from normalised images to boxes, suppression and all.

    python -m common.export DETECTOR --out best.onnx

The graph takes `images` (1, 3, H, W) float32, normalised and fitted into the canvas as `Detector.detect` does it, and
gives what `Detections` holds: `boxes` (1, D, 4), `scores`, `labels` and `valid` (1, D). It is made of standard
operators of opset 18, its shapes are fixed. The file's metadata say what a caller must know: `categories`, names by
label; `mean` and `deviation` of the pixels, by channel, 0..1; each a JSON list.
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from onnxscript import ir
from onnxscript import opset18 as op
from onnxscript.optimizer import fold_constants, remove_unused_nodes
from torch import Tensor, nn

import common.models.suppression  # noqa: F401 (defines an operator that is translated below)
from common.cli import run
from common.cost import parse_size
from common.letterbox import SIDE_MULTIPLE, canvas_of
from common.models.detector import Detector, load_detector
from common.plain import InputError, cannot_write, write_atomically

OPSET = 18
OUTPUTS = ("boxes", "scores", "labels", "valid")


class _Detecting(nn.Module):
    """A detector's `detect` as a forward pass, its `Detections` as a tuple."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        found = self.network.detect(images)
        return tuple(getattr(found, name) for name in OUTPUTS)


def onnx_of(detector: Detector, size: tuple[int, int] | None = None) -> bytes:
    """The ONNX file of a detector; see above.

    size: width and height of the canvas, multiples of 32 pixels (default: the detector's own).
    """
    width, height = canvas_of(detector.input_size if size is None else size)
    if width % SIDE_MULTIPLE or height % SIDE_MULTIPLE:
        raise InputError(f"the sides of a canvas must be multiples of {SIDE_MULTIPLE} pixels, got {width}x{height}")
    network = _Detecting(detector.model).eval()
    images = torch.zeros(1, 3, height, width, device=detector.device)
    network(images)  # constants that are remembered are then real ones, not those of the exporter
    program = torch.onnx.export(
        network,
        (images,),
        dynamo=True,
        verbose=False,
        optimize=False,  # its search for patterns takes as long as all the rest, and runtimes do that themselves
        opset_version=OPSET,
        input_names=["images"],
        output_names=list(OUTPUTS),
        custom_translation_table=TRANSLATIONS,
    )
    fold_constants(program.model)
    remove_unused_nodes(program.model)
    for name in ("categories", "mean", "deviation"):
        program.model.metadata_props[name] = json.dumps(getattr(detector, name))
    return program.model_proto.SerializeToString()


# --- what the exporter has no words for: steps of a program in ONNX's operators ---------------------------------------


def _suppress(boxes, valid, threshold, groups=None):
    """`suppress` of one image by NonMaxSuppression: a group is a class there, and a box's score its rank."""
    N = valid.shape[1]  # boxes
    member = op.Unsqueeze(valid, [1])  # (1, 1, N)
    if groups is not None:
        numbers = op.Range(0, op.Add(op.ReduceMax(groups, keepdims=0), 1), 1)
        same = op.Equal(op.Unsqueeze(groups, [1]), op.Reshape(numbers, [1, -1, 1]))
        member = op.And(member, same)  # (1, groups, N)
    rank = op.Constant(value_floats=[float(each) for each in range(N, 0, -1)])
    scores = op.Where(member, rank, op.Constant(value_float=0.0))  # over 0 where it counts
    chosen = op.NonMaxSuppression(boxes, scores, [N], [threshold], [0.0])  # (kept, 3), the box last
    kept = op.Reshape(op.Slice(chosen, [2], [3], [1]), [-1])
    nothing = op.ConstantOfShape([N], value=ir.tensor([False]))
    everything = op.ConstantOfShape(op.Shape(kept), value=ir.tensor([True]))
    return op.Unsqueeze(op.ScatterElements(nothing, kept, everything), [0])  # (1, N)


def _sort(self, stable=None, dim=-1, descending=False):
    """A stable sort by TopK, which takes the first of equal values first."""
    return op.TopK(self, [self.shape[dim]], axis=dim, largest=int(descending), sorted=1)


def _weighted_sums(table, indices, offsets, _scale=False, mode=0, _sparse=False, weights=None, *_rest):
    """The embedding bag of RoIAlign, whose bags are equally long: cell by cell, since all at once take much room."""
    length = indices.shape[0] // offsets.shape[0]
    indices, weights = op.Reshape(indices, [-1, length]), op.Reshape(weights, [-1, length])
    total = None
    for cell in range(length):
        rows = op.Gather(table, op.Gather(indices, cell, axis=1))  # (bags, channels)
        rows = op.Mul(rows, op.Gather(weights, [cell], axis=1))
        total = rows if total is None else op.Add(total, rows)
    return total, *(op.Identity(offsets) for _ in range(3))  # nobody reads the rest


TRANSLATIONS = {
    torch.ops.common.suppress.default: _suppress,  # common.models.suppression
    torch.ops.aten.sort.stable: _sort,
    torch.ops.aten.embedding_bag.padding_idx: _weighted_sums,
}


# --- the command ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ExportCommand:
    """Write a finished detector as an ONNX file that onnxruntime and others read."""

    detector: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DETECTOR")]
    """A detector that this project wrote: its folder, or one of its two files."""
    out: Path
    """The ONNX file to write."""
    size: str | None = None
    """Width x height of the canvas in pixels, multiples of 32, say 1344x800 (default: the detector's own)."""


def main(config: ExportCommand) -> None:
    """Load, export, write, print what the file takes and gives."""
    logging.getLogger("onnxscript").setLevel(logging.ERROR)  # it tells of each node that it leaves as it is
    detector = load_detector(config.detector)
    size = canvas_of(detector.input_size) if config.size is None else parse_size(config.size)
    try:  # before minutes of work
        config.out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(config.out, error) from error
    content = onnx_of(detector, size)
    write_atomically(config.out, content)
    print(f"{config.out}: {len(content) / 1e6:.1f} MB, images 1x3x{size[1]}x{size[0]} to {', '.join(OUTPUTS)}")


if __name__ == "__main__":
    run(main, ExportCommand)
