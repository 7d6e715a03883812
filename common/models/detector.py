"""A trained detector on disk and back: `NAME.safetensors` (weights) beside `NAME.json` (everything else), no pickle.

    save_detector("best", model, {"categories": ["cat", "dog"], "input_size": 512})
    detections = load_detector("best").detect([image])     # uint8 (H, W, 3) arrays in, boxes in original pixels out

The JSON describes the architecture; `load_detector` builds the network from it. Nothing else need be imported:
BACKBONES and DETECTORS say where the class of each kind stands.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from common.batch import IMAGE_MEAN, IMAGE_STD, Batch, Detections
from common.letterbox import SIDE_MULTIPLE, Size, letterbox, letterbox_scale
from common.models.architectures import ARCHITECTURES
from common.models.outline import outline
from common.plain import InputError

FORMAT = "detector 1"
_ROOT = Path(__file__).resolve().parents[2]
# Description keys without which a detector cannot be built or used.
REQUIRED = ("categories", "input_size")


# --- kinds ------------------------------------------------------------------------------------------------------------

# Where the class of each kind stands, imported when a description first asks for it. A paper's own backbone is of the
# kind PAPER:CLASS and stands in the paper's networks.py. A file cannot have anything else imported. A backbone has
# `from_dict(description)`, a detector `from_config(description, backbone)`; both are built on the meta device, without
# values, so every tensor they need must be in their state dict.
BACKBONES = {
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
    return _build(BACKBONES, "backbone", description, lambda kind: kind.from_dict(description))


def build_detector(description: dict[str, Any]) -> nn.Module:
    """The static detector that `description` ({"kind": ..., "backbone": {...}, ...}) names, not trained."""
    return _build(
        DETECTORS,
        "detector",
        description,
        lambda kind: kind.from_config(description, build_backbone(description["backbone"])),
    )


def _build(
    kinds: dict[str, str], part: str, description: dict[str, Any], build: Callable[[type], nn.Module]
) -> nn.Module:
    kind = description.get("kind") if isinstance(description, dict) else None
    if kind not in kinds and not (kinds is BACKBONES and _is_of_a_paper(kind)):
        raise InputError(f"no {part} is of kind {kind!r}: known are {', '.join(sorted(kinds))}")
    module, name = kinds.get(kind, kind.replace(":", ".networks:")).split(":")
    try:
        return build(getattr(import_module(module), name))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise InputError(f"the description of the {part} of kind {kind!r} cannot be built: {reason}") from error


def _is_of_a_paper(kind: Any) -> bool:
    """Whether a kind names a class of a paper's package, which holds the paper's printed numbers."""
    package, _, name = kind.partition(":") if isinstance(kind, str) else ("", "", "")
    return package.isidentifier() and name.isidentifier() and (_ROOT / package / "printed.json").is_file()


# --- detector ---------------------------------------------------------------------------------------------------------


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
        """Where the weights are."""
        return next(self.model.parameters()).device

    @torch.no_grad()
    def detect(self, images: Sequence[np.ndarray] | Batch, batch_size: int = 16) -> Detections:
        """Detections (N, D) in pixels of the original images, clipped to them, on the detector's device.

        images: N uint8 RGB arrays (H, W, 3) of any sizes, or a Batch, whose images are normalised and fitted already;
        its boxes can be clipped only to the canvas, for it does not know the original sizes.
        """
        if isinstance(images, Batch):
            batch = images.to(self.device)
            height, width = batch.images.shape[-2:]
            sizes = batch.scale.new_tensor([[height, width]]) / batch.scale.unsqueeze(1)  # (B, 2)
            return _clipped(self.model.detect(batch.images).rescaled(batch.scale), sizes)
        if len(images) == 0:
            raise InputError("no image to detect in: give at least one uint8 array (height, width, 3)")
        return Detections.cat(
            [self._detect_arrays(images[start : start + batch_size]) for start in range(0, len(images), batch_size)]
        )

    def _detect_arrays(self, images: Sequence[np.ndarray]) -> Detections:
        fitted = np.stack([letterbox(_checked(image), self.input_size) for image in images])  # (B, H, W, 3)
        pixels = torch.from_numpy(fitted).to(self.device).permute(0, 3, 1, 2).float()
        mean, deviation = (pixels.new_tensor(part).view(1, 3, 1, 1) * 255.0 for part in (self.mean, self.deviation))
        sizes = np.array([image.shape[:2] for image in images])
        scale = torch.from_numpy(letterbox_scale(sizes, self.input_size)).to(self.device)
        found = self.model.detect((pixels - mean) / deviation).rescaled(scale)
        return _clipped(found, torch.from_numpy(sizes).to(scale))


def _checked(image: np.ndarray) -> np.ndarray:
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise InputError(
            f"an image is {image.dtype} of shape {image.shape}: give uint8 RGB arrays of shape (height, width, 3)"
        )
    return image


def _clipped(detections: Detections, sizes: Tensor) -> Detections:
    """Boxes cut at images of `sizes` (B, 2), height and width; boxes that lie wholly outside are no longer valid."""
    limit = sizes.flip(1).repeat(1, 2).unsqueeze(1)  # (B, 1, 4)
    boxes = detections.boxes.clamp(min=0).minimum(limit)
    valid = detections.valid & (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)
    return Detections(boxes, detections.scores, detections.labels, valid)


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
    model: has `.config()`, the plain numbers of neck and heads.
    description: `categories` (names by label) and `input_size` (pixels: a square's side, or width and height);
        `backbone` ({"kind": ..., ...}, see `build_backbone`) unless `model.backbone.description` is that; if wished
        `normalisation` ({"mean", "deviation"}, ImageNet's unless given), `cost`, `provenance` and whatever else JSON
        can hold.

    Both files appear whole or not at all, and the JSON carries the weights' SHA-256, so that files that do not belong
    together are noticed when loading.
    """
    for key in REQUIRED:
        if key not in description:
            raise InputError(f"the detector cannot be saved: its description lacks {key!r}")
    backbone = description.get("backbone") or getattr(model.backbone, "description", None)
    if backbone is None:
        raise InputError(
            "the detector cannot be saved: neither its description nor its backbone says what backbone it has"
        )
    architecture = {**model.config(), "backbone": backbone}
    if len(description["categories"]) != architecture["categories"]:
        raise InputError(
            f"the detector cannot be saved: it tells {architecture['categories']} classes apart, "
            f"its description names {len(description['categories'])}"
        )
    size = _input_size(description["input_size"], "the detector cannot be saved: its description")
    weights_path, description_path = _paths(path)
    weights = save({name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()})
    rest = {key: value for key, value in description.items() if key not in ("format", "architecture", "backbone")}
    content = {
        "format": FORMAT,
        "architecture": architecture,
        "normalisation": {"mean": list(IMAGE_MEAN), "deviation": list(IMAGE_STD)},
        **rest,
        "input_size": size,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    try:
        text = json.dumps(content, indent=2) + "\n"
    except (TypeError, ValueError) as error:
        raise InputError(f"the detector cannot be saved: JSON cannot hold its description ({error})") from error
    _write({weights_path: weights, description_path: text.encode()})
    return description_path


def _write(contents: dict[Path, bytes]) -> None:
    """All of the files, or none where there is no room: they get their names once all are on the disk."""
    partial = {path: path.with_name(f".{path.name}.{os.getpid()}.partial") for path in contents}
    path = next(iter(contents))
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(partial[path], "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for path in contents:
            os.replace(partial[path], path)
    except OSError as error:
        for leftover in partial.values():
            leftover.unlink(missing_ok=True)
        reason = error.strerror or error
        raise InputError(f"{path} cannot be written ({reason}): make room or choose another folder") from error


def load_detector(path: str | Path, device: torch.device | str = "cpu") -> Detector:
    """The detector that `save_detector` wrote under `path`, ready for use on `device`.

    InputError where a file is missing or damaged, or where the weights are of another architecture than described.
    """
    weights_path, description_path = _paths(path)
    description = _read_description(description_path)
    weights = _read_weights(weights_path, description.get("weights_sha256"))
    with outline():
        model = build_detector(description["architecture"])
    expected = model.state_dict()
    _check_same(expected, weights, weights_path)
    model.load_state_dict({name: weights[name].to(tensor.dtype) for name, tensor in expected.items()}, assign=True)
    return Detector(
        model=model.to(device).eval().requires_grad_(False),
        categories=tuple(description["categories"]),
        input_size=_input_size(description["input_size"], str(description_path)),
        mean=tuple(description["normalisation"]["mean"]),
        deviation=tuple(description["normalisation"]["deviation"]),
        description=description,
    )


def _read_description(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path} is not there: a detector is a .safetensors file with its .json beside it") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}): save the detector again") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f'{path} does not describe a detector: it lacks "format": "{FORMAT}"')
    for key in ("architecture", "categories", "input_size", "normalisation"):
        if key not in content:
            raise InputError(f"{path} lacks {key!r}: save the detector again")
    _check_description(content, path)
    return content


def _check_description(content: dict[str, Any], path: Path) -> None:
    """InputError where a value that `load_detector` uses itself is not of its kind."""
    names, statistics = content["categories"], content["normalisation"]
    _input_size(content["input_size"], str(path))
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{path} has categories {names!r}: they must be a list of names")
    told_apart = content["architecture"].get("categories") if isinstance(content["architecture"], dict) else None
    if told_apart is not None and told_apart != len(names):
        raise InputError(f"{path} names {len(names)} categories, but its network tells {told_apart} apart")
    if not isinstance(statistics, dict) or any(
        not isinstance(statistics.get(key), list) or len(statistics[key]) != 3 for key in ("mean", "deviation")
    ):
        raise InputError(f"{path} has normalisation {statistics!r}: mean and deviation must be three numbers each")


def _input_size(size: Size | list[int], whose: str) -> Size:
    """The side of a square, or width and height; InputError where that is no size of a detector."""
    sides = [size, size] if isinstance(size, int) else size
    numbers = isinstance(sides, list | tuple) and all(isinstance(side, int) for side in sides)
    if not numbers or len(sides) != 2 or any(side < 1 or side % SIDE_MULTIPLE for side in sides):
        raise InputError(
            f"{whose} has input_size {size!r}: a multiple of {SIDE_MULTIPLE} pixels is needed, or two, width and height"
        )
    return sides[0] if sides[0] == sides[1] else tuple(sides)


def _read_weights(path: Path, sha256: str | None) -> dict[str, Tensor]:
    try:
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        weights = load_file(path)
    except FileNotFoundError as error:
        raise InputError(f"{path} is not there: a detector is a .json file with its .safetensors beside it") from error
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} is damaged or no safetensors file ({error}): save the detector again") from error
    if sha256 is not None and found != sha256:
        raise InputError(f"{path} is not the file that its JSON was written with: copy both or save the detector again")
    return weights


def _check_same(expected: dict[str, Tensor], found: dict[str, Tensor], path: Path) -> None:
    """Names the first tensor by which two state dicts differ."""
    for name, tensor in expected.items():
        if name not in found:
            raise InputError(f"{path} is of another architecture: it lacks {name} of shape {_shape(tensor)}")
        if found[name].shape != tensor.shape:
            raise InputError(
                f"{path} is of another architecture: {name} has shape {_shape(found[name])}, not {_shape(tensor)}"
            )
    for name, tensor in found.items():
        if name not in expected:
            raise InputError(f"{path} is of another architecture: it has {name} of shape {_shape(tensor)} besides")


def _shape(tensor: Tensor) -> str:
    return "x".join(str(side) for side in tensor.shape) or "scalar"
