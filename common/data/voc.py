"""Pascal VOC folders: one XML file an image, and lists of image names.

Format: the development kit, http://host.robots.ox.ac.uk/pascal/VOC/voc2012/devkit_doc.pdf. Corners count pixels from 1
and include the last one, so a box here runs from `xmin - 1` to `xmax`.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

import numpy as np
from defusedxml import DefusedXmlException
from defusedxml import ElementTree as SafeElementTree

from common.data.detection_set import DetectionSet, ImageFiles, refuse_duplicates, refuse_escape
from common.plain import InputError

# fmt: off
VOC_CATEGORIES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on

# The usual protocol: train on the trainval images of both years, test on the test images of 2007.
CHALLENGE_SPLITS = {"train": (("VOC2007", "trainval"), ("VOC2012", "trainval")), "val": (("VOC2007", "test"),)}


def read_voc(directory: str | Path, split: str) -> DetectionSet:
    """Read the split "train" or "val" of a VOC folder.

    Where the folder, or its VOCdevkit/, holds VOC2007 and VOC2012: "train" is trainval of both years and "val" is test
    of 2007, with the twenty VOC categories. Where it holds Annotations/, JPEGImages/ and ImageSets/Main/ itself:
    "train" and "val" are trainval.txt and test.txt if both are there, else train.txt and val.txt; the categories are
    all names in the XML files of both splits, sorted (which gives the twenty of VOC in their order).

    Objects marked `difficult` have `crowd` set: they are ignored in scoring, as VOC does. Image ids are 1..N in the
    order of the lists. `area` is that of the box. Boxes that stick out by at most a pixel are clipped.
    Raises `InputError`, in one sentence, for anything that cannot be used.
    """
    directory = Path(directory)
    if split not in CHALLENGE_SPLITS:
        raise InputError(f"VOC folders are read as the splits train and val, not {split!r}")
    if (directory / "Annotations").is_dir():
        lists = _plain_lists(directory)
        chosen = [_read_list(directory, lists[split])]
        other = _read_list(directory, lists["val" if split == "train" else "train"])
        categories = tuple(sorted({name for part in (*chosen, other) for image in part for name in image.names}))
    else:
        root = _challenge_root(directory)
        chosen = [_read_list(root / year, list_name) for year, list_name in CHALLENGE_SPLITS[split]]
        categories = VOC_CATEGORIES
    return _assemble(directory.resolve().name, split, categories, [image for part in chosen for image in part])


@dataclass(frozen=True)
class _AnnotatedImage:
    """One XML file. boxes: xyxy in pixels, one for each name."""

    path: Path
    folder: Path
    file_name: str
    height: int
    width: int
    names: list[str]
    boxes: list[tuple[float, float, float, float]]
    difficult: list[bool]


def _assemble(name: str, split: str, categories: tuple[str, ...], images: list[_AnnotatedImage]) -> DetectionSet:
    label_of = {category: label for label, category in enumerate(categories)}
    owner = [position for position, image in enumerate(images) for _ in image.names]
    numbers = [number for image in images for number in range(1, len(image.names) + 1)]
    labels = []
    for image in images:
        for category in image.names:
            if category not in label_of:
                raise InputError(
                    f"{image.path} has the category {category!r}, which is none of the twenty of VOC; "
                    "for other categories give the one folder that holds Annotations/"
                )
            labels.append(label_of[category])
    sizes = np.asarray([(image.height, image.width) for image in images], np.int32).reshape(-1, 2)
    return DetectionSet.from_boxes(
        name=name,
        split=split,
        categories=categories,
        category_ids=np.arange(1, len(categories) + 1),
        image_ids=np.arange(1, len(images) + 1),
        sizes=sizes,
        owner=owner,
        boxes=[box for image in images for box in image.boxes],
        labels=labels,
        crowd=[difficult for image in images for difficult in image.difficult],
        area=None,
        load_image=ImageFiles(tuple(str(image.folder / image.file_name) for image in images), sizes),
        describe=lambda row: f"object {numbers[row]} of {images[owner[row]].path}",
    )


def _challenge_root(directory: Path) -> Path:
    """The folder that holds VOC2007 and VOC2012."""
    for root in (directory, directory / "VOCdevkit"):
        if (root / "VOC2007").is_dir() or (root / "VOC2012").is_dir():
            return root
    raise InputError(
        f"{directory} holds neither VOC2007 and VOC2012 (there or in VOCdevkit/) nor Annotations/; check the folder"
    )


def _plain_lists(directory: Path) -> dict[str, str]:
    """Which lists of ImageSets/Main stand for train and val."""
    lists = directory / "ImageSets" / "Main"
    for train, val in (("trainval", "test"), ("train", "val")):
        if (lists / f"{train}.txt").is_file() and (lists / f"{val}.txt").is_file():
            return {"train": train, "val": val}
    raise InputError(
        f"{lists} holds neither trainval.txt and test.txt nor train.txt and val.txt; write one of the pairs"
    )


def _read_list(root: Path, list_name: str) -> list[_AnnotatedImage]:
    """Every image of one list of one VOC folder."""
    list_path = root / "ImageSets" / "Main" / f"{list_name}.txt"
    try:
        stems = [line.split()[0] for line in list_path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError):
        raise InputError(
            f"no readable list at {list_path}; the VOC splits need VOC2007 (trainval and test) and VOC2012 (trainval), "
            "for one year alone give its own folder"
        ) from None
    for stem in stems:
        refuse_escape(stem, f"image {stem!r} in {list_path}")
    refuse_duplicates(np.asarray(stems), f"image names in {list_path}")
    folder = root / "JPEGImages"
    # sorted by suffix so that .jpg, the format's own, wins over .png
    entries = sorted(os.listdir(folder), key=lambda name: Path(name).suffix, reverse=True) if folder.is_dir() else []
    file_of = {Path(name).stem: name for name in entries}
    missing = [stem for stem in stems if stem not in file_of]
    if missing:
        raise InputError(
            f"{len(missing)} of the {len(stems)} images listed in {list_path} are missing, first "
            f"{folder / missing[0]}.jpg; put them there or take them out of the list"
        )
    return [_read_annotation(root / "Annotations" / f"{stem}.xml", folder, file_of[stem]) for stem in stems]


def _read_annotation(path: Path, folder: Path, file_name: str) -> _AnnotatedImage:
    try:
        root = SafeElementTree.parse(path).getroot()
    except FileNotFoundError:
        raise InputError(f"no annotations at {path}; write them or take the image out of the list") from None
    except (ParseError, DefusedXmlException, OSError, ValueError) as error:
        raise InputError(f"{path} is not valid XML ({error!r}); export or download it again") from None
    objects = list(root.iterfind("object"))
    return _AnnotatedImage(
        path=path,
        folder=folder,
        file_name=file_name,
        height=int(_number(root, "size/height", path)),
        width=int(_number(root, "size/width", path)),
        names=[_text(item, "name", path) for item in objects],
        boxes=[tuple(_corners(item, path)) for item in objects],
        difficult=[(item.findtext("difficult") or "0").strip() not in ("0", "") for item in objects],
    )


def _corners(item: Element, path: Path) -> Iterator[float]:
    for corner, shift in (("xmin", 1.0), ("ymin", 1.0), ("xmax", 0.0), ("ymax", 0.0)):
        yield _number(item, f"bndbox/{corner}", path) - shift


def _text(element: Element, place: str, path: Path) -> str:
    text = (element.findtext(place) or "").strip()
    if not text:
        raise InputError(f"{path} has no {element.tag}/{place}; add it")
    return text


def _number(element: Element, place: str, path: Path) -> float:
    text = _text(element, place, path)
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise InputError(f"{path} has {text!r} as {element.tag}/{place}; a finite number belongs there")
    return value
