"""A finished detector as one ONNX file for other runtimes, from normalised images to boxes.

    python -m common.export DETECTOR --out best.onnx --check

The graph takes `images` (B, 3, H, W) float32, any number of them, normalised and fitted into the canvas as
`Detector.detect` does it; it gives what `Detections` holds: `boxes` (B, D, 4), `scores`, `labels` and `valid` (B, D).
It is made of standard operators of opset 18. The file's metadata say what a caller must know, each as JSON:
`categories`, names by label; `input_size`, width and height of the canvas; `padding`, the colour of what an image does
not cover, 0..255; `mean` and `deviation` of the pixels, by channel, 0..1; `description`, all that the detector's own
JSON says. `load_detector` reads the file, too.
"""

import json
import logging
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from common.cli import Switch, output_folder, run
from common.cost import parse_size
from common.plain import InputError, write_atomically
from common.settings import SIDE_MULTIPLE

if TYPE_CHECKING:
    import numpy as np

    from common.batch import Found
    from common.models.detector import Detector

OPSET = 18
OUTPUTS = ("boxes", "scores", "labels", "valid")
CHECKED = 8
"""Pictures that --check looks at."""
ALIKE = 0.99
"""Share of the detections that both must find: a score at a threshold may fall on either side of it."""
EXAMPLE = """\
import json, numpy, onnxruntime
from PIL import Image, ImageOps
session = onnxruntime.InferenceSession({file!r})
said = {{key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}}
photo = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")
canvas = Image.new("RGB", said["input_size"], tuple(said["padding"]))
scale = min(canvas.width / photo.width, canvas.height / photo.height)
size = [max(1, int(side * scale + 1e-6)) for side in photo.size]
box = [0, 0, *(min(side, part / scale) for side, part in zip(photo.size, size))]
canvas.paste(photo.resize(size, Image.Resampling.BILINEAR, box))
pixels = ((numpy.array(canvas) / 255 - said["mean"]) / said["deviation"]).astype("float32").transpose(2, 0, 1)
boxes, scores, labels, valid = session.run({outputs}, {{"images": pixels[None]}})
boxes = (boxes / scale).clip(0, photo.size * 2)
valid &= (boxes[..., 2:] > boxes[..., :2]).all(-1)
for box, score, label in zip(boxes[valid], scores[valid], labels[valid]):
    print(said["categories"][label], score, box)"""


def onnx_of(detector: "Detector", size: tuple[int, int] | None = None) -> bytes:
    """The ONNX file of a detector; see above.

    size: width and height of the canvas, multiples of 32 pixels (default: the detector's own).
    """
    import torch
    from onnxscript.optimizer import fold_constants, remove_unused_nodes

    from common.evaluate.latency import Detection
    from common.letterbox import PADDING, canvas_of

    width, height = canvas_of(detector.input_size if size is None else size)
    if width % SIDE_MULTIPLE or height % SIDE_MULTIPLE:
        raise InputError(f"the sides of a canvas must be multiples of {SIDE_MULTIPLE} pixels, got {width}x{height}")

    class Detecting(Detection):
        """Detection whose `Detections` are a tuple."""

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
            found = super().forward(images)
            return tuple(getattr(found, name) for name in OUTPUTS)

    network = Detecting(detector.model).eval()
    images = torch.zeros(2, 3, height, width, device=detector.device)  # a batch of one would be taken for a constant
    network(images)  # constants that are remembered are then real ones, not those of the exporter
    program = torch.onnx.export(
        network,
        (images,),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        verbose=False,
        optimize=False,  # its search for patterns takes as long as all the rest, and runtimes do that themselves
        opset_version=OPSET,
        input_names=["images"],
        output_names=list(OUTPUTS),
        custom_translation_table=translations(),
    )
    fold_constants(program.model)
    remove_unused_nodes(program.model)
    said = {name: getattr(detector, name) for name in ("categories", "mean", "deviation")}
    description = detector.description | {"input_size": [width, height]}
    said |= {"input_size": [width, height], "padding": PADDING, "description": description}
    for name, value in said.items():
        program.model.metadata_props[name] = json.dumps(value)
    return program.model_proto.SerializeToString()


# --- what the exporter has no words for: steps of a program in ONNX's operators ---------------------------------------


def translations() -> dict[Any, Any]:
    """Operator of torch -> what stands for it in ONNX."""
    import torch
    from onnxscript import ir
    from onnxscript import opset18 as op

    import common.models.roi_align
    import common.models.suppression  # noqa: F401 (both define operators)

    def suppress(boxes, valid, threshold, groups=None):
        """`suppress` by NonMaxSuppression: a group is a class there, and a box's score its rank."""
        N = valid.shape[1]  # boxes an image
        member = op.Unsqueeze(valid, [1])  # (B, 1, N)
        if groups is not None:
            numbers = op.Range(0, op.Add(op.ReduceMax(groups, keepdims=0), 1), 1)
            same = op.Equal(op.Unsqueeze(groups, [1]), op.Reshape(numbers, [1, -1, 1]))
            member = op.And(member, same)  # (B, groups, N)
        rank = op.Constant(value_floats=[float(each) for each in range(N, 0, -1)])
        scores = op.Where(member, rank, op.Constant(value_float=0.0))  # over 0 where it counts
        chosen = op.NonMaxSuppression(boxes, scores, [N], [threshold], [0.0])  # (kept, 3): image, group, box
        kept = op.Gather(chosen, [0, 2], axis=1)
        nothing = op.Expand(op.Constant(value=ir.tensor([False])), op.Shape(valid))
        everything = op.Expand(op.Constant(value=ir.tensor([True])), op.Shape(kept, start=0, end=1))
        return op.ScatterND(nothing, kept, everything)  # (B, N)

    def sort(self, stable=None, dim=-1, descending=False):
        """A stable sort by TopK, which takes the first of equal values first."""
        return op.TopK(self, [self.shape[dim]], axis=dim, largest=int(descending), sorted=1)

    def weighted_sums(table, cells, weights):
        """RoIAlign's sums, cell by cell, since all at once take much room."""
        total = None
        for cell in range(cells.shape[1]):
            rows = op.Gather(table, op.Gather(cells, cell, axis=1))  # (bins, channels)
            rows = op.Mul(rows, op.Gather(weights, [cell], axis=1))
            total = rows if total is None else op.Add(total, rows)
        return total

    return {
        torch.ops.common.suppress.default: suppress,
        torch.ops.common.weighted_sums.default: weighted_sums,
        torch.ops.aten.sort.stable: sort,
    }


# --- the check --------------------------------------------------------------------------------------------------------


def check(detector: "Detector", exported: "Detector", pictures: "list[np.ndarray]") -> str:
    """A sentence on how nearly an export finds what its detector finds, in pictures (H, W, 3) uint8.

    Raises `InputError` where it does not: where of all detections fewer than `ALIKE` are in both.
    """
    theirs, ours = exported.detect(pictures), detector.detect(pictures)
    pairs = [
        _pairs(ours.image(index), theirs.image(index), max(0.5, max(picture.shape) / 1000))
        for index, picture in enumerate(pictures)
    ]
    boxes, scores = (max((each[place] for pair, _ in pairs for each in pair), default=0.0) for place in (0, 1))
    both, all_of_them = sum(len(pair) for pair, _ in pairs), sum(number for _, number in pairs)
    said = f"{both} of {all_of_them} detections in {len(pictures)} pictures are in torch and in onnxruntime"
    if both < ALIKE * all_of_them:
        raise InputError(f"the export does not find what its detector finds: {said} alike; do not use it")
    return f"{said}, boxes at most {boxes:.2g} pixels and scores at most {scores:.2g} apart"


def _pairs(ours: "list[Found]", theirs: "list[Found]", pixels: float) -> tuple[list[tuple[float, float]], int]:
    """For each detection that is in both lists how far its sides and its score are apart, and the longer's length.

    pixels: the most that the sides may be apart.
    """
    left, apart = list(theirs), []
    for one in ours:
        for other in left:
            sides = max(abs(a - b) for a, b in zip(one.box, other.box, strict=True))
            scores = abs(one.score - other.score)
            if one.label == other.label and scores < 1e-3 and sides < pixels:
                apart.append((sides, scores))
                left.remove(other)
                break
    return apart, max(len(ours), len(theirs))


def pictures_of(detector: "Detector", images: Path | None) -> "list[np.ndarray]":
    """Pictures to check a detector on: of a folder, or of the validation split of the data that it was trained on."""
    from common.data.image_files import picture_files, read_picture

    if images is not None:
        return [read_picture(path) for path in islice(picture_files(images), CHECKED)]
    from common.data.source import load

    data = detector.description.get("provenance", {}).get("data", "scenes")
    try:
        chosen = load(data, "val", limit=CHECKED)
    except InputError as error:
        raise InputError(f"{error}; it is what the detector was trained on: give --images FOLDER instead") from None
    return [chosen.load_image(index) for index in range(len(chosen))]


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
    check: Switch = False
    """See whether onnxruntime finds what torch finds, on real pictures."""
    images: Path | None = None
    """Pictures for --check (default: validation images of the data that the detector was trained on)."""


def main(config: ExportCommand) -> None:
    """Load, export, write, check; print what the file takes and gives, and how it is used."""
    if missing := [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]:
        raise InputError(f"an export needs packages that are not installed: pip install {' '.join(missing)}")

    from common.letterbox import canvas_of
    from common.models.detector import load_detector

    logging.getLogger("onnxscript").setLevel(logging.ERROR)  # it tells of each node that it leaves as it is
    detector = load_detector(config.detector)
    if config.detector.suffix == ".onnx":
        raise InputError(f"{config.detector} is an export already; give the detector that it was made from")
    if config.out.suffix != ".onnx":
        raise InputError(f"--out must be a file that ends in .onnx, got {config.out}")
    size = canvas_of(detector.input_size) if config.size is None else parse_size(config.size)
    pictures = pictures_of(detector, config.images) if config.check else []  # before minutes of work
    with output_folder(config.out.parent):
        content = onnx_of(detector, size)
        write_atomically(config.out, content)
    print(f"{config.out}: {len(content) / 1e6:.1f} MB, images Bx3x{size[1]}x{size[0]} to {', '.join(OUTPUTS)}")
    if pictures:
        print(check(replace(detector, input_size=size), load_detector(config.out), pictures))
    print(f"\n{EXAMPLE.format(file=str(config.out), outputs=list(OUTPUTS))}")


if __name__ == "__main__":
    run(main, ExportCommand)
