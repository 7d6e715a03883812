"""A trained detector on disk and back: `NAME.safetensors` (weights) beside `NAME.json` (everything else), no pickle.

    save_detector("best", model, {"categories": ["cat", "dog"], "input_size": 512})
    detections = load_detector("best").detect([image])     # uint8 (H, W, 3) arrays in, boxes in original pixels out
    for found in detections.image(0):                      # best first: found.name, found.score, found.box

The JSON describes the architecture; `load_detector` builds the network from it. Nothing else need be imported:
_BACKBONES and DETECTORS say where the class of each kind stands.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from common.batch import IMAGE_MEAN, IMAGE_STD, Detections
from common.letterbox import Size, in_pictures, letterbox
from common.models.architectures import ARCHITECTURES
from common.models.outline import outline
from common.plain import InputError, from_json, make_folder, read_json, to_json, write_together
from common.settings import SIDE_MULTIPLE

FORMAT = "detector 1"
_ROOT = Path(__file__).resolve().parents[2]

# Where the class of each kind stands, imported when a description first asks for it. A paper's own backbone is of the
# kind PAPER:CLASS and stands in the paper's networks.py. A file cannot have anything else imported. A backbone has
# `from_config(description)`, a detector `from_config(description, backbone)`; both are built on the meta device,
# without values, so every tensor they need must be in their state dict.
_BACKBONES = {
    **dict.fromkeys(ARCHITECTURES, "common.models.resnet:ResNet"),
    "mobilenet_v2": "common.models.mobilenet:MobileNetV2",
    "ofa_resnet": "common.models.ofa_resnet:ResNet",
    "described": "common.models.described:DescribedBackbone",
}
DETECTORS = {
    "centernet": "common.models.centernet:CenterNet",
    "retinanet": "common.models.retinanet:RetinaNet",
    "two_stage": "common.models.two_stage:TwoStage",
}


def build_backbone(description: dict[str, Any]) -> nn.Module:
    """The static backbone that `description` ({"kind": ..., ...}) names, not trained; InputError for an unknown one.

    It maps images to a tuple of features, the last at stride 32, and has `out_channels`.
    """
    return _build(_BACKBONES, "backbone", description)


def build_detector(description: dict[str, Any]) -> nn.Module:
    """The static detector that `description` ({"kind": ..., "backbone": {...}, ...}) names, not trained."""
    return _build(DETECTORS, "detector", description)


def _build(kinds: dict[str, str], part: str, description: dict[str, Any]) -> nn.Module:
    kind = description.get("kind") if isinstance(description, dict) else None
    if not isinstance(kind, str) or (kind not in kinds and not (kinds is _BACKBONES and _is_of_a_paper(kind))):
        raise InputError(f"no {part} is of kind {kind!r}: known are {', '.join(sorted(kinds))}")
    module, name = kinds.get(kind, kind.replace(":", ".networks:")).split(":")
    try:
        backbone = (build_backbone(description["backbone"]),) if kinds is DETECTORS else ()
        return getattr(import_module(module), name).from_config(description, *backbone)
    except (AttributeError, ImportError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise InputError(f"the description of the {part} of kind {kind!r} cannot be built: {reason}") from error


def _is_of_a_paper(kind: str) -> bool:
    """Whether a kind names a class of a paper's package, which holds the paper's printed numbers."""
    package, _, name = kind.partition(":")
    return package.isidentifier() and name.isidentifier() and (_ROOT / package / "printed.json").is_file()


@dataclass(frozen=True)
class Normalisation:
    """Mean and deviation of the pixels by channel, 0..1; the defaults are ImageNet's."""

    mean: tuple[float, float, float] = IMAGE_MEAN
    deviation: tuple[float, float, float] = IMAGE_STD


@dataclass(frozen=True)
class Detector:
    """A network ready for use, with what is needed to feed it and to read its answers.

    model: in evaluation mode, on its device. categories: class names by label. input_size: the canvas that
    images are fitted into, in pixels: the side of a square, or (width, height). mean, deviation: of the pixels, by
    channel, 0..1. description: the whole JSON.
    """

    model: nn.Module
    categories: tuple[str, ...]
    input_size: Size
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    description: dict[str, Any]

    @property
    def device(self) -> torch.device:
        """Where the weights are; onnxruntime's are on the CPU."""
        return next((each.device for each in self.model.parameters()), torch.device("cpu"))

    @torch.no_grad()
    def detect(self, images: Sequence[np.ndarray], batch_size: int = 16) -> Detections:
        """Detections (N, D) in pixels of the original images, clipped to them, on the detector's device.

        images: N uint8 RGB arrays (H, W, 3) of any sizes. InputError for anything else.
        """
        if len(images) == 0:
            raise InputError("no image to detect in: give at least one uint8 array (height, width, 3)")
        return Detections.cat(
            [self._detect_batch(images[start : start + batch_size]) for start in range(0, len(images), batch_size)]
        )

    def _detect_batch(self, images: Sequence[np.ndarray]) -> Detections:
        for image in map(np.asarray, images):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
                raise InputError(
                    f"images must be uint8 RGB arrays of shape (height, width, 3), got {image.dtype} of {image.shape}"
                )
        sizes = np.array([np.shape(image)[:2] for image in images])  # (B, 2) height, width
        fitted = np.stack([letterbox(np.asarray(image), self.input_size) for image in images])  # (B, H, W, 3)
        pixels = torch.from_numpy(fitted).to(self.device).permute(0, 3, 1, 2).float()
        mean, deviation = (pixels.new_tensor(part).view(1, 3, 1, 1) * 255.0 for part in (self.mean, self.deviation))
        found = in_pictures(self.model.detect((pixels - mean) / deviation), torch.from_numpy(sizes), self.input_size)
        return replace(found, categories=self.categories)


# --- to disk and back -------------------------------------------------------------------------------------------------


def _paths(path: str | Path) -> tuple[Path, Path]:
    """Weights and JSON for a folder ("detector" in it), a name, or either file."""
    path = Path(path)
    if path.is_dir():
        path = path / "detector"
    stem = path.with_suffix("") if path.suffix in (".safetensors", ".json") else path
    return stem.with_name(stem.name + ".safetensors"), stem.with_name(stem.name + ".json")


def save_detector(path: str | Path, model: nn.Module, description: dict[str, Any]) -> Path:
    """Write a static detector as `NAME.safetensors` and `NAME.json`; returns the path of the JSON.

    path: NAME, with or without one of the suffixes, or an existing folder (NAME is then `detector` in it).
    model: has `.config()`, the plain numbers of neck and heads, and `.backbone.description`.
    description: `categories` (names by label) and `input_size` (pixels: a square's side, or width and height); if
        wished `normalisation` ({"mean", "deviation"}, ImageNet's unless given), `cost`, `provenance` and whatever else
        JSON can hold.

    Both files appear whole or not at all, and the JSON carries the weights' SHA-256, so that files that do not belong
    together are noticed when loading. InputError where the description is incomplete or the disk is full.
    """
    weights_path, description_path = _paths(path)
    weights = save({name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()})
    content = {
        "normalisation": to_json(Normalisation()),
        **description,
        "format": FORMAT,
        "architecture": {**model.config(), "backbone": model.backbone.description},
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    content["input_size"] = _facts(content, "the detector cannot be saved: its description")[1]
    try:
        text = json.dumps(content, indent=2) + "\n"
    except (TypeError, ValueError) as error:
        raise InputError(f"the detector cannot be saved: JSON cannot hold its description ({error})") from error
    make_folder(description_path.parent)
    write_together({weights_path: weights, description_path: text.encode()})
    return description_path


def load_detector(path: str | Path, device: torch.device | str = "cpu") -> Detector:
    """The detector that `save_detector` wrote under `path`, or an .onnx export of it, ready for use.

    path: also the folder of a run that trained one detector, which lies in its `detector/`. device: where it runs; an
    .onnx always runs on the CPU. InputError where a file is missing or damaged, or where the
    weights are of another architecture than described.
    """
    if Path(path).suffix == ".onnx":
        return _load_onnx(Path(path))
    weights_path, description_path = _paths(path)
    if not description_path.is_file() and (inside := Path(path, "detector")).is_dir():
        weights_path, description_path = _paths(inside)
    for each in (weights_path, description_path):
        if not each.is_file():
            found = sorted(Path(path).glob("**/detector*/*.safetensors"))
            if whole := [weights for weights in found if weights.with_suffix(".json").is_file()]:
                example = "" if len(whole) == 1 else "one of them, such as "
                raise InputError(f"{path} is no detector but holds {len(whole)}: give {example}{whole[0]}")
            raise InputError(f"{each} is not there: a detector is a .safetensors file with its .json beside it")
    description = read_json(description_path)
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise InputError(f'{description_path} does not describe a detector: it lacks "format": "{FORMAT}"')
    categories, input_size, normalisation = _facts(description, str(description_path))
    try:
        content = weights_path.read_bytes()
        weights = load(content)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{weights_path} is damaged ({error}): save the detector again") from error
    if description.get("weights_sha256") not in (None, hashlib.sha256(content).hexdigest()):
        raise InputError(
            f"{weights_path} is not the file that its JSON was written with: copy both or save the detector again"
        )
    with outline():
        model = build_detector(description["architecture"])
    expected = model.state_dict()
    for name in [*expected, *weights]:
        there, here = (_shape(tensors.get(name)) for tensors in (weights, expected))
        if there != here:
            raise InputError(f"{weights_path} is of another architecture: {name} has shape {there}, expected {here}")
    model.load_state_dict({name: weights[name].to(tensor.dtype) for name, tensor in expected.items()}, assign=True)
    model = model.to(device).eval().requires_grad_(False)
    return Detector(model, categories, input_size, normalisation.mean, normalisation.deviation, description)


class _OnnxNetwork(nn.Module):
    """What detects in onnxruntime, in the place of a network."""

    def __init__(self, session: Any) -> None:
        super().__init__()
        self.session = session

    def detect(self, images: Tensor) -> Detections:
        """Detections in pixels of `images` (B, 3, H, W)."""
        names = [output.name for output in self.session.get_outputs()]
        said = map(torch.from_numpy, self.session.run(names, {"images": images.cpu().numpy()}))
        return Detections(**dict(zip(names, said, strict=True)))


def _load_onnx(path: Path) -> Detector:
    """The detector that `common.export` wrote."""
    try:
        from onnxruntime import InferenceSession
    except ImportError:
        raise InputError(f"{path} needs onnxruntime, which is not installed: pip install onnxruntime") from None
    if not path.is_file():
        raise InputError(f"{path} is not there: check the path, or write it with python -m common.export")
    try:
        session = InferenceSession(path, providers=["CPUExecutionProvider"])
        description = dict(json.loads(session.get_modelmeta().custom_metadata_map["description"]))
    except Exception as error:  # onnxruntime's own kinds share no base
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is damaged, or no export of a detector ({reason}): export it again") from None
    categories, input_size, normalisation = _facts(description, str(path))
    network = _OnnxNetwork(session).eval()
    return Detector(network, categories, input_size, normalisation.mean, normalisation.deviation, description)


def _facts(content: dict[str, Any], whose: str) -> tuple[tuple[str, ...], Size, Normalisation]:
    """Categories, input size and normalisation of a detector's JSON; InputError where it lacks or mistakes one."""
    for key in ("architecture", "categories", "input_size", "normalisation"):
        if key not in content:
            raise InputError(f"{whose} lacks {key!r}: save the detector again with it")
    categories = from_json(tuple[str, ...], content["categories"], f"{whose}: categories")
    normalisation = from_json(Normalisation, content["normalisation"], f"{whose}: normalisation")
    told_apart = content["architecture"].get("categories") if isinstance(content["architecture"], dict) else None
    if told_apart not in (None, len(categories)):
        raise InputError(f"{whose} names {len(categories)} categories, but the network tells {told_apart} apart")
    size = content["input_size"]
    sides = [size, size] if isinstance(size, int) else size
    numbers = isinstance(sides, list | tuple) and all(isinstance(side, int) for side in sides)
    if not numbers or len(sides) != 2 or any(side < 1 or side % SIDE_MULTIPLE for side in sides):
        raise InputError(
            f"{whose} has input_size {size!r}: a multiple of {SIDE_MULTIPLE} pixels is needed, or two, width and height"
        )
    return categories, sides[0] if sides[0] == sides[1] else tuple(sides), normalisation


def _shape(tensor: Tensor | None) -> str:
    return "none" if tensor is None else "x".join(map(str, tensor.shape)) or "scalar"
