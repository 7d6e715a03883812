"""BDD100K detection labels, in Scalabel's JSON.

Format: https://doc.bdd100k.com/format.html. Names, ignored regions and the inclusive far corners follow BDD100K's own
conversion to COCO (configs/det.toml of github.com/bdd100k/bdd100k, `box2d_to_bbox` of Scalabel).
"""

from pathlib import Path
from typing import Any

import numpy as np

from common.data.detection_set import DetectionSet, ImageFiles, read_json, refuse_duplicates
from common.plain import InputError

# fmt: off
BDD_CATEGORIES = (
    "pedestrian", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle", "traffic light", "traffic sign",
)
# fmt: on
OTHER_NAMES = {"bike": "bicycle", "caravan": "car", "motor": "motorcycle", "person": "pedestrian", "van": "car"}
"""Names of the 2018 labels -> the ten categories."""
IGNORED_NAMES = {"other person": "pedestrian", "other vehicle": "car", "trailer": "truck"}
"""Uncertain regions -> the category in whose scoring they are ignored."""

IMAGE_SIZE = (720, 1280)
"""Height and width of every BDD100K image; a frame may give its own `size`."""

LABEL_FILES = ("det_20/det_{}.json", "labels/det_20/det_{}.json", "labels/bdd100k_labels_images_{}.json")


def read_bdd(directory: str | Path, split: str) -> DetectionSet:
    """Read the split "train" or "val" of a BDD100K folder: labels in one of `LABEL_FILES`, images in images/100k/.

    Frames without labels are kept. Labels without a box (lanes, drivable areas) are passed over. "other person",
    "other vehicle", "trailer" and labels with the attribute `crowd` have `crowd` set. Image ids are 1..N in the order
    of the file. `area` is that of the box. Boxes that stick out by at most a pixel are clipped.
    Raises `InputError`, in one sentence, for anything that cannot be used.
    """
    directory = Path(directory)
    path = _label_file(directory, split)
    frames = read_json(path)
    if isinstance(frames, dict):
        frames = frames.get("frames")
    if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
        raise InputError(f"{path} is not a list of frames; it is not a BDD100K label file")

    label_of = {category: label for label, category in enumerate(BDD_CATEGORIES)}
    file_names, sizes, owner, boxes, labels, crowd = [], [], [], [], [], []
    for position, frame in enumerate(frames):
        name = frame.get("name")
        if not isinstance(name, str):
            raise InputError(f"frame {position} of {path} has no name; it is not a BDD100K label file")
        file_names.append(name)
        sizes.append(_size(frame, name, path))
        for item in frame.get("labels") or ():
            if not isinstance(item, dict):
                raise InputError(f"frame {name!r} of {path} has a label that is not an object; correct or remove it")
            if item.get("box2d") is None:
                continue
            category, ignored = _category(item.get("category"), name, path)
            owner.append(position)
            boxes.append(_box(item["box2d"], name, path))
            labels.append(label_of[category])
            crowd.append(ignored or bool((item.get("attributes") or {}).get("crowd")))

    refuse_duplicates(np.asarray(file_names), f"frame names in {path}")
    sizes = np.asarray(sizes, np.int32).reshape(-1, 2)
    return DetectionSet.from_boxes(
        name=directory.resolve().name,
        split=split,
        categories=BDD_CATEGORIES,
        category_ids=np.arange(1, len(BDD_CATEGORIES) + 1),
        image_ids=np.arange(1, len(file_names) + 1),
        sizes=sizes,
        owner=owner,
        boxes=boxes,
        labels=labels,
        crowd=crowd,
        area=None,
        load_image=ImageFiles.found(directory / "images" / "100k" / split, file_names, sizes, path),
        describe=lambda row: f"a {BDD_CATEGORIES[labels[row]]} of frame {file_names[owner[row]]!r} in {path}",
    )


def _label_file(directory: Path, split: str) -> Path:
    if split not in ("train", "val"):
        raise InputError(f"BDD100K has labels for the splits train and val, not {split!r}")
    candidates = [directory / pattern.format(split) for pattern in LABEL_FILES]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    tried = ", ".join(str(candidate) for candidate in candidates)
    raise InputError(f"no BDD100K labels at any of {tried}; check the folder and its layout")


def _category(name: Any, frame: str, path: Path) -> tuple[str, bool]:
    """The category of a label, and whether it marks a region to be ignored."""
    if isinstance(name, str):
        if name in IGNORED_NAMES:
            return IGNORED_NAMES[name], True
        category = OTHER_NAMES.get(name, name)
        if category in BDD_CATEGORIES:
            return category, False
    raise InputError(
        f"frame {frame!r} of {path} has a box of the unknown category {name!r}; BDD100K has {', '.join(BDD_CATEGORIES)}"
    )


def _box(box: Any, frame: str, path: Path) -> tuple[float, float, float, float]:
    """xyxy; the far corner of the file is the last pixel inside."""
    try:
        left, top, right, bottom = (float(box[corner]) for corner in ("x1", "y1", "x2", "y2"))
    except (KeyError, TypeError, ValueError):
        raise InputError(f"frame {frame!r} of {path} has a box2d without x1, y1, x2 and y2 as numbers") from None
    return left, top, right + 1.0, bottom + 1.0


def _size(frame: dict[str, Any], name: str, path: Path) -> tuple[int, int]:
    size = frame.get("size")
    if size is None:
        return IMAGE_SIZE
    try:
        return int(size["height"]), int(size["width"])
    except (KeyError, TypeError, ValueError):
        raise InputError(f"frame {name!r} of {path} has a size without height and width as numbers") from None
