"""COCO annotations: one JSON a split, and folders of images.

Format: https://cocodataset.org/#format-data. Boxes are `[x, y, width, height]` in pixels from the top left corner.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from common.data.annotations import REPEATED, SPLIT_NAMES, Annotations, Faults, Layout, read_each
from common.data.values import (
    BadRecord,
    class_label,
    flag,
    identity,
    names_in,
    number,
    read_bytes,
    read_field,
    read_unicode_json,
    shown,
    side,
    text,
)
from common.plain import InputError

# Two annotations of COCO's own instances_train2017.json have no height (github.com/cocodataset/cocoapi/issues/355).
# They cannot be learnt, and everyone's loader drops them; in any other file a box without area is a fault.
FLAWS_OF_TRAIN2017 = (918, 2206849)

ROBOFLOW = "_annotations.coco.json"
WITHOUT_SPLITS = (ROBOFLOW, "annotations.json", "result.json")
"""Files of a set without splits, as Roboflow and Label Studio write them."""

LONGEST_LIST = 1_000_000  # bytes of categories that are looked through

Identity = int | str


def find_coco(directory: Path) -> Layout | None:
    """The splits of a COCO folder, in COCO's own layout, its shorter form, or Roboflow's; None for any other folder."""
    parts, classes, images = {}, {}, directory / "images"
    for split, names in SPLIT_NAMES.items():
        for name in names:
            folders = (images, images / name, directory / name, directory)
            places = {
                directory / "annotations" / f"instances_{name}.json": folders,
                directory / "annotations" / f"instances_{name}2017.json": (directory / f"{name}2017", *folders),
                directory / name / ROBOFLOW: (directory / name,),
            }
            for path, folders in places.items():
                if path.is_file():
                    parts.setdefault(split, partial(read_coco, path, folders))
                    classes.setdefault(split, partial(classes_of, path))
    if not parts:
        for path in (directory / name for name in WITHOUT_SPLITS):
            if path.is_file():
                return Layout({"train": partial(read_coco, path, (images, directory))})
    return Layout(parts, classes=classes) if parts else None


def find_other_coco(directory: Path) -> Layout | None:
    """The splits of a folder whose COCO files have other names than those of `find_coco`; None for any other folder.

    The file of a split has a name of the split as a word of its own name, or of its folder's: annotations/train.json,
    val_annotations.json, test/labels.json. Without any such file, the only one in the folder and its annotations/ is of
    a set without splits.
    """
    parts, classes = {}, {}
    whole = [path for place in (directory, directory / "annotations") for path in _coco_files(place)]
    for split, names in SPLIT_NAMES.items():
        files = [path for path in whole if {*names} & {*re.findall("[A-Za-z]+", path.stem)}]
        files += [path for name in names_in(directory) if name in names for path in _coco_files(directory / name)]
        if len(files) == 1:
            parts[split] = partial(read_coco, files[0], _image_folders(directory, files[0], names))
            classes[split] = partial(classes_of, files[0])
    if not parts and len(whole) == 1:
        return Layout({"train": partial(read_coco, whole[0], _image_folders(directory, whole[0], ()))})
    return Layout(parts, classes=classes) if parts else None


def _coco_files(folder: Path) -> list[Path]:
    """The JSON files of a folder that have the parts of a COCO file."""
    named = [folder / name for name in sorted(names_in(folder)) if name.endswith(".json") and not name.startswith(".")]
    texts = ((path, read_bytes(path)) for path in named if path.is_file())
    keys = (b'"images"', b'"annotations"', b'"categories"')
    return [path for path, text in texts if all(key in text for key in keys)]


def _image_folders(directory: Path, path: Path, names: Sequence[str]) -> tuple[Path, ...]:
    """Where the images of a COCO file may lie, which is that of a split of these names."""
    places = [place for name in names for place in (directory / "images" / name, directory / name)]
    places += [path.parent, directory / "images", directory]
    folders = [folder for place in places for folder in (place / "images", place / "data", place)]
    return tuple(folder for folder in dict.fromkeys(folders) if folder.is_dir())


def read_coco(path: Path, folders: tuple[Path, ...], faults: Faults) -> Annotations:
    """The annotations of one COCO file whose images lie in one of `folders`.

    Crowd regions are kept, with `crowd` set. `area` is the annotated one. Classes come in the order of their ids. A
    class without a box that is the supercategory of another is left out: Roboflow's parent of all others.
    """
    file = read_file(path, faults)
    classes, left_out = _classes(file)
    found = Annotations(
        path, folders, "annotation", list(dict.fromkeys(classes)), left_out=left_out, ids=list(file.images)
    )
    if len(found.classes) < len(classes):
        twice = next(name for name in classes if classes.count(name) > 1)
        faults.add(REPEATED, f"{path} has two categories of the name {shown(twice)}; give each its own")
    position_of = {key: found.add_image(*image) for key, image in file.images.items()}
    for mark, image, (x, y, width, height), category, crowd, area in file.objects:
        if not (path.name == "instances_train2017.json" and mark in FLAWS_OF_TRAIN2017 and height == 0):
            box = x, y, x + width, y + height
            found.add_box(position_of[image], mark, box, file.categories[category], crowd, area)
    return found


def classes_of(path: Path) -> list[str] | None:
    """The classes that `read_coco` finds, of the list of categories alone; None where it takes the boxes to tell.

    The annotations of COCO's training images are half a gigabyte.
    """
    contents = read_bytes(path)
    start = re.search(rb'"categories"\s*:\s*(?=\[)', contents)
    if start is None or contents.count(b'"categories"') > 1:
        return None
    try:
        listed = contents[start.end() : start.end() + LONGEST_LIST].decode(errors="replace")
        records, _ = json.JSONDecoder().raw_decode(listed)
    except (ValueError, RecursionError):
        return None
    file = _records({"images": [], "categories": records, "annotations": []}, path, Faults(collect=True))
    classes, left_out = _classes(file)
    return None if left_out and b'"annotations"' in contents else list(dict.fromkeys(classes))


def _classes(file: "CocoFile") -> tuple[list[str], list[str]]:
    """Names in the order of the ids, and those of empty parents."""
    used = {category for _, _, _, category, _, _ in file.objects}
    empty = {
        key
        for key, name in file.categories.items()
        if key not in used and any(parent == name and child != key for child, parent in file.parents.items())
    }
    ids = [key for key in file.categories if key not in empty]
    if not any(isinstance(key, str) for key in ids):
        ids.sort()
    return [file.categories[key] for key in ids], [file.categories[key] for key in empty]


@dataclass(frozen=True)
class CocoFile:
    """The records of a COCO file.

    images: id -> file name, and (height, width), 0 where unknown. categories: id -> name. parents: id -> name of the
    supercategory. objects: id, image id, [x, y, width, height], category id, crowd, area (NaN where it is not given).
    """

    images: dict[Identity, tuple[str, tuple[int, int]]] = field(default_factory=dict)
    categories: dict[Identity, str] = field(default_factory=dict)
    parents: dict[Identity, Any] = field(default_factory=dict)
    objects: list[tuple[Identity, Identity, list[float], Identity, bool, float]] = field(default_factory=list)


def read_file(path: Path, faults: Faults, scoring: bool = False) -> CocoFile:
    """Read a COCO file. scoring: for evaluation alone, which needs no sizes, and neither file names nor names of
    categories.

    Raises `InputError` for what is no COCO file, and for records that cannot be read unless `faults` collects them.
    """
    contents = read_unicode_json(path)
    if not isinstance(contents, dict):
        raise InputError(f"{path} must hold an object with images, annotations and categories, as in COCO's format")
    return _records(contents, path, faults, scoring)


def _records(contents: Mapping[str, Any], path: Path, faults: Faults, scoring: bool = False) -> CocoFile:
    file = CocoFile()
    seen: set[Identity] = set()

    def image(record: dict[str, Any]) -> None:
        key = new_identity(record, file.images)
        size = (0, 0) if scoring else (read_field(record, "height", side, 0), read_field(record, "width", side, 0))
        file.images[key] = _stated(record, "file_name") if scoring else read_field(record, "file_name", text), size

    def category(record: dict[str, Any]) -> None:
        key = new_identity(record, file.categories)
        named = {"name": _stated(record, "name") or None} if scoring else record
        file.categories[key] = read_field(named, "name", class_label, *([""] if scoring else []))
        file.parents[key] = record.get("supercategory")

    def annotation(record: dict[str, Any]) -> None:
        owner = known_identity(record, "image_id", file.images)
        label = known_identity(record, "category_id", file.categories)
        found = read_field(record, "bbox", box)
        crowd = read_field(record, "iscrowd", flag, False)
        area = read_field(record, "area", number, math.nan)
        mark = new_identity(record, seen) if "id" in record else len(file.objects)
        seen.add(mark)
        file.objects.append((mark, owner, found, label, crowd, area))

    for name, read in {"images": image, "categories": category, "annotations": annotation}.items():
        read_each(contents.get(name), f"{name!r} in {path}", read, faults)
    return file


def _stated(record: Mapping[str, Any], name: str) -> str:
    value = record.get(name)
    return value.strip() if isinstance(value, str) else ""


def new_identity(record: dict[str, Any], others: Any) -> Identity:
    """The id of a record; `BadRecord` where another has it."""
    key = read_field(record, "id", identity)
    if key in others:
        raise BadRecord(f"has the id {shown(key)}, as another has")
    return key


def known_identity(record: dict[str, Any], name: str, known: Any) -> Identity:
    """The id of an image or category that a record refers to; `BadRecord` where there is none such."""
    key = read_field(record, name, identity)
    if key not in known:
        raise BadRecord(f"has {shown(key)} as {name}, which no {name.removesuffix('_id')} has")
    return key


def box(value: Any) -> list[float]:
    """[x, y, width, height] as finite numbers"""
    if not isinstance(value, list) or len(value) != 4:
        raise ValueError
    return [number(part) for part in value]
