"""Pascal VOC folders: one XML file an image, and lists of image names.

Format: the development kit, http://host.robots.ox.ac.uk/pascal/VOC/voc2012/devkit_doc.pdf. Corners count pixels from 1
and include the last one, so a box here runs from `xmin - 1` to `xmax`.

Most labelling tools count from 0 instead, and write the edges of a box, which then runs from `xmin` to `xmax`. A set is
read so, in all its splits, if any of its XML files has an xmin or ymin of 0, or names its database Unknown, as LabelImg
and CVAT do. (LabelImg never writes 0: it makes it 1.)
"""

import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml import ElementTree as SafeElementTree

from common.data.annotations import BAD_RECORDS, SPLIT_NAMES, Annotations, Faults, Layout
from common.data.image_files import SUFFIXES, files_below
from common.data.values import (
    BadRecord,
    Value,
    class_label,
    composed,
    flag,
    names_in,
    number,
    read_bytes,
    read_field,
    read_text,
    refuse_escape,
    shown,
    side,
    speller,
)
from common.plain import InputError

# fmt: off
VOC_CATEGORIES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on

EDGES = re.compile(rb"<([xy]min)>\s*-?0+(\.\d*)?\s*</\1>|<database>\s*Unknown\s*</database>")
"""What only a file has whose corners are edges, counted from 0."""

IMAGES = ("JPEGImages", "images")
"""Folders of images, beside Annotations/."""
# The usual protocol: train on the trainval images of both years, test on the test images of 2007.
CHALLENGE_SPLITS = {"train": (("VOC2007", "trainval"), ("VOC2012", "trainval")), "val": (("VOC2007", "test"),)}


@dataclass(frozen=True)
class _Part:
    """Folders of XML files and of images, and the list of names; no list means every XML file.

    A name is the path of an image in its folder, without the suffix; that of its XML file is the same.
    """

    annotations: Path
    images: Path
    listed: Path | None = None


def find_voc(directory: Path) -> Layout | None:
    """The splits of a VOC folder; None for any other folder.

    Where the folder, or its VOCdevkit/, holds VOC2007 and VOC2012: "train" is trainval of both years and "val" is test
    of 2007, with the twenty VOC categories. Where it holds Annotations/ and JPEGImages/ (or images/) itself: "train"
    and "val" are trainval.txt and test.txt of ImageSets/Main/ if both are there, else train.txt and val.txt, and "test"
    is test.txt; without any of these "train" is trainval.txt, else every XML file. Else XML files beside their images
    in train/, valid/ and test/. The categories are then all names in the XML files, sorted (which gives the twenty of
    VOC in their order).
    """
    for root in (directory, directory / "VOCdevkit"):
        if (root / "VOC2007").is_dir() or (root / "VOC2012").is_dir():
            parts = {
                split: [_listed(root / year, name) for year, name in lists] for split, lists in CHALLENGE_SPLITS.items()
            }
            return _layout(root, parts, VOC_CATEGORIES)
    annotations = directory / "Annotations"
    if annotations.is_dir():
        images = next((path for path in map(directory.joinpath, IMAGES) if path.is_dir()), directory)
        return _annotations_layout(directory, annotations, images)
    parts = _beside_images(directory)
    return _layout(directory, parts) if parts else None


def find_other_voc(directory: Path) -> Layout | None:
    """The splits of a folder that differs a little from those of `find_voc`; None for any other folder.

    Annotations/ is spelled in another case, or the XML files lie beside their images in images/train/ and so on, in
    images/, or in the folder itself.
    """
    folders = {name.lower(): directory / name for name in names_in(directory) if os.path.isdir(directory / name)}
    annotations = folders.get("annotations")
    if annotations is not None and files_below(annotations, (".xml",)):
        images = next((folders[name.lower()] for name in IMAGES if name.lower() in folders), directory)
        return _annotations_layout(directory, annotations, images)
    images = directory / "images"
    parts = _beside_images(images)
    for folder in (images, directory):
        xml_files, pictures = (
            {composed(Path(name).stem) for name in names_in(folder) if name.lower().endswith(suffixes)}
            for suffixes in (".xml", SUFFIXES)
        )
        if not parts and xml_files & pictures:
            parts = {"train": [_Part(folder, folder)]}
    return _layout(directory, parts) if parts else None


def _annotations_layout(directory: Path, annotations: Path, images: Path) -> Layout:
    """The splits of a folder whose XML files and images lie in two folders of it, and its lists in ImageSets/Main/."""
    parts: dict[str, list[_Part]] = {}
    lists = {path.stem: path for path in (directory / "ImageSets" / "Main").glob("*.txt")}
    challenge = {"train": ("trainval",), "val": ("test",)}
    for split, names in (challenge if {"trainval", "test"} <= lists.keys() else SPLIT_NAMES).items():
        for name in names:
            if name in lists:
                parts.setdefault(split, [_Part(annotations, images, lists[name])])
    return _layout(directory, parts or {"train": [_Part(annotations, images, lists.get("trainval"))]})


def _beside_images(directory: Path) -> dict[str, list[_Part]]:
    """The splits whose folders hold XML files."""
    parts: dict[str, list[_Part]] = {}
    for split, names in SPLIT_NAMES.items():
        for folder in map(directory.joinpath, names):
            if folder.is_dir() and next(folder.glob("*.xml"), None) is not None:
                parts.setdefault(split, [_Part(folder, folder)])
    return parts


def _listed(folder: Path, name: str) -> _Part:
    """What a list of VOC's own folders names."""
    return _Part(folder / "Annotations", folder / "JPEGImages", folder / "ImageSets" / "Main" / f"{name}.txt")


def _layout(root: Path, parts: dict[str, list[_Part]], categories: tuple[str, ...] | None = None) -> Layout:
    folders = {part.annotations for places in parts.values() for part in places}
    edges = cache(lambda: categories is None and any(map(_gives_edges, folders)))  # what has categories is the kit's
    return Layout({split: partial(read_voc, root, places, edges) for split, places in parts.items()}, categories)


def _gives_edges(folder: Path) -> bool:
    """Whether a file in `folder` has corners that are edges, counted from 0."""
    for path in files_below(folder, (".xml",)):
        with suppress(OSError):  # whoever reads its boxes says so
            if EDGES.search(path.read_bytes()):
                return True
    return False


def read_voc(root: Path, parts: Sequence[_Part], edges: Callable[[], bool], faults: Faults) -> Annotations:
    """The annotations of the XML files of one split, whose folders lie under `root`.

    edges: whether the corners of the set are edges, counted from 0, not pixels, counted from 1. Objects marked
    `difficult` have `crowd` set: they are ignored in scoring, as VOC does. An object with several boxes counts as
    several objects.
    """
    found = Annotations(root, (root,), "object", [])
    first = 0 if edges() else 1
    if first == 0:
        faults.notes.append("corners counted from 0, as labelling tools do")
    for part in parts:
        images = sorted(files_below(part.images, SUFFIXES), key=lambda path: path.suffix == ".jpg")
        # .jpg, the format's own, wins over the others
        image_of = {composed(_name(path, part.images)): path for path in images}
        for name, path in _xml_files(part):
            image = image_of.get(composed(name), part.images / f"{name}.jpg")
            file_name = image.relative_to(root).as_posix()
            try:
                if os.path.isfile(image):
                    _add_file(found, path, file_name, first)
                else:  # all that are missing are reported together
                    found.add_image(file_name, (0, 0))
            except BadRecord as error:
                faults.add(BAD_RECORDS, f"{path} {error}; correct it")
            except InputError as error:
                faults.add(BAD_RECORDS, str(error))
    found.classes = sorted({class_name for _, _, _, class_name, _, _ in found.objects})
    return found


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()


def _xml_files(part: _Part) -> list[tuple[str, Path]]:
    """Names of images, and their XML files."""
    if part.listed is None:
        return sorted((_name(path, part.annotations), path) for path in files_below(part.annotations, (".xml",)))
    if not part.listed.is_file():
        raise InputError(
            f"no list at {part.listed}; the VOC splits need VOC2007 (trainval and test) and VOC2012 (trainval): add "
            "it, or give the folder of one year"
        )
    lines = [line.strip() for line in read_text(part.listed).splitlines() if line.strip()]
    for line in lines:
        refuse_escape(line, f"image {shown(line)} in {part.listed}")
    on_disk, found = speller(part.annotations), []
    for name in lines:
        file = on_disk(f"{name}.xml")
        if file is None:  # lists of one class give each image a flag
            name = re.sub(r"\s+(-1|0|1)$", "", name)
            file = on_disk(f"{name}.xml") or f"{name}.xml"
        found.append((name, part.annotations / file))
    return found


def _add_file(found: Annotations, path: Path, name: str, first: int) -> None:
    """Add the image and the boxes of an XML file, all or none. first: the number of the first pixel."""
    contents = read_bytes(path)
    try:
        root = SafeElementTree.fromstring(contents)
    except (ParseError, DefusedXmlException, ValueError, LookupError, RecursionError) as error:
        raise InputError(f"{path} is not valid XML ({error!r}); export or download it again") from None
    size = _value(root, "size/height", side, 0), _value(root, "size/width", side, 0)
    boxes = [
        (place, _corners(box, first), _value(item, "name", class_label), _value(item, "difficult", flag, False))
        for place, item in enumerate(root.iterfind("object"), start=1)
        for box in item.findall("bndbox") or [item]
    ]
    position = found.add_image(name, size)
    for box in boxes:
        found.add_box(position, *box)


def _corners(box: Element, first: int) -> tuple[float, float, float, float]:
    left, top, right, bottom = (_value(box, corner, number) for corner in ("xmin", "ymin", "xmax", "ymax"))
    return left - first, top - first, right, bottom


def _value(element: Element, place: str, read: Callable[[Any], Value], *default: Value) -> Value:
    """The text at a place under an element, as `read` takes it."""
    return read_field({place: (element.findtext(place) or "").strip() or None}, place, read, *default)
