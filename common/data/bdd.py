"""BDD100K detection labels, in Scalabel's JSON.

Format: https://doc.bdd100k.com/format.html. Names, ignored regions and the inclusive far corners follow BDD100K's own
conversion to COCO (configs/det.toml of github.com/bdd100k/bdd100k, `box2d_to_bbox` of Scalabel).
"""

from functools import partial
from pathlib import Path
from typing import Any

from common.data.annotations import Annotations, Faults, Layout, read_each
from common.data.values import BadRecord, flag, number, read_field, read_unicode_json, shown, side, text

# fmt: off
BDD_CATEGORIES = (
    "pedestrian", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle", "traffic light", "traffic sign",
)
# fmt: on
OTHER_NAMES = {"bike": "bicycle", "caravan": "car", "motor": "motorcycle", "person": "pedestrian", "van": "car"}
"""Names of the 2018 labels -> the ten categories."""
IGNORED_NAMES = {"other person": "pedestrian", "other vehicle": "car", "trailer": "truck"}
"""Uncertain regions -> the category in whose scoring they are ignored."""

_IMAGE_SIZE = (720, 1280)
"""Height and width of every BDD100K image; a frame may give its own `size`."""

LABEL_FILES = ("det_20/det_{}.json", "labels/det_20/det_{}.json", "labels/bdd100k_labels_images_{}.json")


def find_bdd(directory: Path) -> Layout | None:
    """The splits of a BDD100K folder, labels in one of `LABEL_FILES`, images in images/100k/; None for others."""
    parts = {}
    for split in ("train", "val"):
        for path in (directory / pattern.format(split) for pattern in LABEL_FILES):
            if path.is_file():
                parts.setdefault(split, partial(read_bdd, path, directory / "images" / "100k" / split))
    return Layout(parts, BDD_CATEGORIES) if parts else None


def read_bdd(path: Path, folder: Path, faults: Faults) -> Annotations:
    """The annotations of one label file whose images lie in `folder`.

    Frames without labels are kept. Labels without a box (lanes, drivable areas) are passed over. "other person",
    "other vehicle", "trailer" and labels with the attribute `crowd` have `crowd` set.
    """
    frames = read_unicode_json(path)
    if isinstance(frames, dict):
        frames = frames.get("frames")
    found = Annotations(path, (folder,), "label", list(BDD_CATEGORIES))

    def read_frame(frame: dict[str, Any]) -> None:
        name, labels = read_field(frame, "name", text), frame.get("labels") or []
        size = read_field(frame, "size", _size, _IMAGE_SIZE)
        position = found.add_image(name, size)
        read_each(labels, f"the labels of frame {shown(name)} in {path}", partial(_add_label, found, position), faults)

    read_each(frames, f"the frames of {path}", read_frame, faults)
    return found


def _add_label(found: Annotations, position: int, label: dict[str, Any]) -> None:
    if label.get("box2d") is None:
        return
    name = read_field(label, "category", text)
    attributes = label.get("attributes")
    crowd = name in IGNORED_NAMES or (isinstance(attributes, dict) and read_field(attributes, "crowd", flag, False))
    left, top, right, bottom = read_field(label, "box2d", _box)
    # the far corner of the file is the last pixel inside
    box = left, top, right + 1.0, bottom + 1.0
    class_name = IGNORED_NAMES.get(name) or OTHER_NAMES.get(name, name)
    if class_name not in BDD_CATEGORIES:
        raise BadRecord(f"has {shown(name)} as category, which must be one of {', '.join(BDD_CATEGORIES)}")
    found.add_box(position, name, box, class_name, crowd)


def _box(value: Any) -> list[float]:
    """an object with x1, y1, x2 and y2 as finite numbers"""
    if not isinstance(value, dict):
        raise ValueError
    return [number(value.get(corner)) for corner in ("x1", "y1", "x2", "y2")]


def _size(value: Any) -> tuple[int, int]:
    """an object with height and width in pixels"""
    if not isinstance(value, dict):
        raise ValueError
    return side(value.get("height")), side(value.get("width"))
