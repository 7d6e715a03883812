"""YOLO folders: data.yaml names the classes and the splits, and each image has a text file with a line for every box.

Format: https://docs.ultralytics.com/datasets/detect/. A line holds the number of the class from 0 and the box's centre,
width and height, or an outline's points, as shares of the image's width and height.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from math import prod
from pathlib import Path, PurePosixPath
from stat import S_ISREG
from typing import Any

import yaml

from common.data.annotations import BAD_IMAGES, BAD_RECORDS, SPLIT_NAMES, Annotations, Faults, Layout
from common.data.image_files import SUFFIXES, files_below, upright_size
from common.data.values import (
    BadRecord,
    class_label,
    names_in,
    number,
    read_field,
    read_text,
    reason,
    refuse_escape,
    shown,
    whole_number,
)
from common.plain import InputError

SETTINGS = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
CLASSES = "classes.txt"


def find_yolo(directory: Path) -> Layout | None:
    """The splits of a YOLO folder; None for any other folder.

    A split is what data.yaml says, or the only other YAML file that names classes, else images/train/ or train/images/,
    and so on. Paths that are absolute or begin with "../" are looked for by their last parts. Without a YAML file the
    classes are the lines of classes.txt, and where there are no such folders "train" is all of images/, or all images
    that lie beside their text files. Raises `InputError` where the val split of data.yaml is absent and a part of it,
    or something of nearly its name, is there.
    """
    path = next((path for path in map(directory.joinpath, (*SETTINGS, CLASSES)) if path.is_file()), None)
    if path is None:
        others = [each for each in map(directory.joinpath, names_in(directory)) if each.suffix in (".yaml", ".yml")]
        named = [each for each in others if each.is_file() and re.search("^names:", read_text(each), re.MULTILINE)]
        if len(named) != 1:
            return None
        path = named[0]
    settings = {} if path.name == CLASSES else _settings(path)
    sources: dict[str, list[Path]] = {}
    for split, names in SPLIT_NAMES.items():
        said = [entry for name in names for entry in _entries(settings.get(name))]
        found = [source for entry in said if (source := _inside(directory, entry)) is not None]
        if not said or len(found) < len(said):
            usual = (directory / place for name in names for place in (f"images/{name}", f"{name}/images"))
            found = [place for place in usual if place.is_dir()][:1]
        if found:
            sources[split] = found
    if path.name == CLASSES:
        if not sources and (directory / "images").is_dir():
            sources["train"] = [directory / "images"]
        pictures = (each for each in directory.iterdir() if each.suffix.lower() in SUFFIXES)
        if not sources and any(each.with_suffix(".txt").is_file() for each in pictures):
            sources["train"] = [directory]  # as LabelImg writes them
        elif not sources or not any(place.is_dir() for place in (directory / "labels", *directory.glob("*/labels"))):
            return None
        settings = {"names": [line for line in read_text(path).splitlines() if line.strip()]}
    classes = _classes(settings, path)
    if "val" not in sources:
        said = [entry for name in SPLIT_NAMES["val"] for entry in _entries(settings.get(name))]
        absent = [entry for entry in said if _inside(directory, entry) is None]
        others = [source for found in sources.values() for source in found]
        if len(absent) < len(said) or any(_near(directory, entry, others) for entry in absent):
            raise InputError(
                f"{path} has {shown(absent)} as val, which is not in {directory}; put it there or correct the path"
            )
    shape = settings.get("kpt_shape")  # of poses: how many points, and how many numbers each
    shape = shape if isinstance(shape, list) and all(str(each).isdecimal() for each in shape) else []
    points = prod(map(int, shape or [0]))
    reading = {split: partial(read_yolo, directory, found, classes, points) for split, found in sources.items()}
    return Layout(reading, classes)


def read_yolo(
    directory: Path, sources: Sequence[Path], classes: Sequence[str], points: int, faults: Faults
) -> Annotations:
    """The annotations of one split, whose `sources` are folders of images or lists of them.

    An image without a text file is without objects. The box of an outline is the smallest that holds it. points: how
    many numbers of key points, which are passed over, stand behind each box; 0: lines may be outlines.
    """
    found = Annotations(directory, (directory,), "line", list(classes))
    for name in (name for source in sources for name in _image_names(directory, source)):
        try:
            # a path that no system could hold is no file, not an error
            height, width = upright_size(directory / name) if os.path.isfile(directory / name) else (0, 0)
            labels = _label_file(directory, name)
            lines = read_text(labels).splitlines() if _is_there(labels) else []
        except InputError as error:
            faults.add(BAD_IMAGES, str(error))
            continue
        position = found.add_image(name, (height, width))
        for place, words in enumerate(map(str.split, lines), start=1):
            try:
                if words:
                    class_name, (left, top, right, bottom) = _box(words, classes, points)
                    box = left * width, top * height, right * width, bottom * height
                    found.add_box(position, place, box, class_name)
            except BadRecord as error:
                faults.add(BAD_RECORDS, f"line {place} of {labels} {error}; correct or remove it")
    return found


def _settings(path: Path) -> Mapping[str, Any]:
    try:
        settings = yaml.load(read_text(path), Loader=yaml.BaseLoader)  # every scalar stays a text: a class may be "no"
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{path} is not valid YAML ({reason(error)}); export or download it again") from None
    if not isinstance(settings, dict):
        raise InputError(f"{path} must hold the settings of a data set, got {shown(settings)}")
    return settings


def _classes(settings: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    names = settings.get("names")
    if isinstance(names, dict):
        names = [names.get(str(label)) for label in range(len(names))]
    try:
        if not isinstance(names, list):
            raise ValueError
        classes = tuple(map(class_label, names))
    except ValueError:
        raise InputError(
            f"{path} has {shown(settings.get('names'))} as names; give a list of the classes, or one text for each "
            "number from 0"
        ) from None
    for name in classes:
        if classes.count(name) > 1:
            raise InputError(f"{path} names the class {shown(name)} twice; give each its own name")
    return classes


def _entries(said: Any) -> list[str]:
    """The paths that data.yaml gives for a split."""
    return [entry for entry in (said if isinstance(said, list) else [said]) if isinstance(entry, str) and entry]


def _names(entry: str) -> list[str]:
    """The parts of a path that are names."""
    return [part for part in PurePosixPath(entry.replace("\\", "/")).parts if part not in ("/", "//", ".", "..")]


def _inside(directory: Path, entry: str) -> Path | None:
    """What a path means in `directory`: its longest end that is there, at least two parts of it."""
    parts = _names(entry)
    for start in range(max(1, len(parts) - 1)):
        path = directory.joinpath(*parts[start:])
        if os.path.exists(path):  # false, not an error, for a path that no system could hold
            return path
    return None


def _near(directory: Path, entry: str, others: Sequence[Path]) -> bool:
    """Whether something of nearly its name stands where a path that is not in `directory` should be, but for `others`.

    "images/evaluation" is near images/eval/, and "valid/images" near vaild/ and valid_set/.
    """
    place = directory
    for name in _names(entry)[-2:]:
        if not os.path.exists(place / name):
            free = [each for each in names_in(place) if not any(path.is_relative_to(place / each) for path in others)]
            wanted, *beside = (Path(each).stem.lower() for each in (name, *free))
            starts = any(each.startswith(wanted) or wanted.startswith(each) for each in beside)
            return starts or bool(get_close_matches(wanted, beside))
        place /= name
    return False


def _image_names(directory: Path, source: Path) -> Iterator[str]:
    """Paths of images relative to `directory`."""
    if source.is_dir():
        for path in files_below(source, SUFFIXES):
            yield path.relative_to(directory).as_posix()
        return
    for line in read_text(source).splitlines():
        name = line.strip().replace("\\", "/").removeprefix("./")
        if name:
            refuse_escape(name, f"image {shown(name)} in {source}")
            yield name


def _label_file(directory: Path, name: str) -> Path:
    """The text file of an image: in labels/ where the image is in images/, else beside it."""
    parts = list(PurePosixPath(f"{os.path.splitext(name)[0]}.txt").parts)
    places = [place for place, part in enumerate(parts[:-1]) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
    return directory.joinpath(*parts)


def _is_there(path: Path) -> bool:
    """Whether there is such a file; `InputError` where that cannot be seen, for then its objects would be missing."""
    try:
        return S_ISREG(path.stat().st_mode)
    except PermissionError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check its permissions") from None
    except (OSError, ValueError):  # also a path that no system could hold
        return False


def _box(words: Sequence[str], classes: Sequence[str], points: int) -> tuple[str, tuple[float, float, float, float]]:
    """The class of a line, and its box: xyxy, as shares of width and height. points: see `read_yolo`."""
    label = read_field({"class": words[0]}, "class", whole_number)
    if not 0 <= label < len(classes):
        raise BadRecord(f"has the class {label}, which must be 0..{len(classes) - 1}")
    if points and len(words) != 5 + points:
        raise BadRecord(f"has {len(words)} numbers, which must be 5 and, by kpt_shape, {points} of key points")
    values = [read_field({"number": word}, "number", share) for word in (words[1:5] if points else words[1:])]
    if len(values) == 4:
        x, y, width, height = values
        return classes[label], (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    if len(values) >= 6 and len(values) % 2 == 0:
        xs, ys = values[::2], values[1::2]
        return classes[label], (min(xs), min(ys), max(xs), max(ys))
    raise BadRecord(f"has {len(words)} numbers, which must be 5 (class, centre, width, height) or an outline")


def share(value: Any) -> float:
    """a share of the image from 0 to 1"""
    result = number(value)
    if not -1.0 <= result <= 2.0:  # a little over the edge is another fault, which can be repaired
        raise ValueError
    return result
