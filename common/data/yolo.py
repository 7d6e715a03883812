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
from common.data.detection_set import counted
from common.data.image_files import SUFFIXES, files_below, upright_size
from common.data.values import (
    BadRecord,
    class_label,
    composed,
    names_in,
    number,
    read_bytes,
    read_field,
    read_text,
    reason,
    refuse_escape,
    shown,
    speller,
    whole_number,
)
from common.plain import InputError

SETTINGS = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
CLASSES = "classes.txt"
CVAT_CLASSES, CVAT_SETTINGS = "obj.names", "obj.data"
LABEL = re.compile(rb"\s*\d+(\s+[-+.\deE]+){4,}\s")
"""How a text file of labels begins, and no other, where a line break is added to it."""


def find_yolo(directory: Path) -> Layout | None:
    """The splits of a YOLO folder; None for any other folder.

    A split is what data.yaml says, or the only other YAML file that names classes, else images/train/ or train/images/,
    and so on. Its paths are relative to its `path`, where that is a folder in `directory`, or to `directory`; those
    that lead out of it are looked for by their last parts. Without a YAML file the classes are the lines of
    classes.txt, and where there are no such folders "train" is all of images/, or all images that lie beside their text
    files. Raises `InputError` where the val split of data.yaml is absent and a part of it, or something of nearly its
    name, is there.
    """
    path = next((path for path in map(directory.joinpath, (*SETTINGS, CLASSES)) if path.is_file()), None)
    if path is None:
        others = [each for each in map(directory.joinpath, names_in(directory)) if each.suffix in (".yaml", ".yml")]
        named = [each for each in others if each.is_file() and re.search("^names:", read_text(each), re.MULTILINE)]
        if len(named) != 1:
            return None
        path = named[0]
    return _layout(directory, path, {} if path.name == CLASSES else _settings(path))


def find_other_yolo(directory: Path) -> Layout | None:
    """The splits of a folder as CVAT exports it, with obj.names, or with classes.txt in labels/; None for any other."""
    path = directory / CVAT_CLASSES
    if path.is_file():
        settings: dict[str, Any] = {}
        for line in _lines(directory / CVAT_SETTINGS) if (directory / CVAT_SETTINGS).is_file() else ():
            key, _, value = line.partition("=")
            settings[key.strip()] = value.strip().removeprefix("data/")  # where CVAT has its users put the folder
        return _layout(directory, path, settings | {"names": _lines(path)})
    path = directory / "labels" / CLASSES
    return _layout(directory, path, {}) if path.is_file() else None


def _layout(directory: Path, path: Path, settings: Mapping[str, Any]) -> Layout | None:
    """The splits that `settings`, of the file `path`, name, or that lie in their usual folders.

    None where `path` is classes.txt, and there are no images with text files.
    """
    named = (_below(directory, directory, entry) for entry in _entries(settings.get("path"))[:1])
    bases = [*(directory / place for place in named if place is not None), directory]

    def place_of(entry: str) -> Path | None:
        there = (_below(directory, base, entry) for base in bases)
        return next((directory / place for place in there if place is not None), None) or _inside(directory, entry)

    sources: dict[str, list[Path]] = {}
    for split, names in SPLIT_NAMES.items():
        said = [entry for name in names for entry in _entries(settings.get(name))]
        found = [source for entry in said if (source := place_of(entry)) is not None]
        if not said or len(found) < len(said):
            places = [place.format(name) for name in names for place in ("images/{}", "{}/images", "obj_{}_data")]
            found = [base / place for base in bases for place in places if (base / place).is_dir()][:1]
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
        settings = {"names": _lines(path)}
    classes = _classes(settings, path)
    if "val" not in sources:
        said = [entry for name in SPLIT_NAMES["val"] for entry in _entries(settings.get(name))]
        absent = [entry for entry in said if place_of(entry) is None]
        others = [source for found in sources.values() for source in found]
        if len(absent) < len(said) or any(_near(base, entry, others) for entry in absent for base in bases):
            raise InputError(
                f"{path} has {shown(absent)} as val, which is not in {directory}; put it there or correct the path"
            )
    shape = settings.get("kpt_shape")  # of poses: how many points, and how many numbers each
    shape = shape if isinstance(shape, list) and all(str(each).isdecimal() for each in shape) else []
    points = prod(map(int, shape or [0]))
    reading = {split: partial(read_yolo, directory, found, classes, points) for split, found in sources.items()}
    return Layout(reading, classes, remarks=partial(_remarks, directory, sources))


def read_yolo(
    directory: Path, sources: Sequence[Path], classes: Sequence[str], points: int, faults: Faults
) -> Annotations:
    """The annotations of one split, whose `sources` are folders of images or lists of them.

    An image without a text file is without objects. The box of an outline is the smallest that holds it. points: how
    many numbers of key points, which are passed over, stand behind each box; 0: lines may be outlines.
    """
    found, on_disk = Annotations(directory, (directory,), "line", list(classes)), speller(directory)
    for name in (name for source in sources for name in _image_names(directory, source)):
        try:
            image = directory / (on_disk(name) or name)
            # a path that no system could hold is no file, not an error
            height, width = upright_size(image) if os.path.isfile(image) else (0, 0)
            labels = directory / (on_disk(_label_name(name)) or _label_name(name))
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


def _lines(path: Path) -> list[str]:
    return [line for line in read_text(path).splitlines() if line.strip()]


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


def _below(directory: Path, base: Path, entry: str) -> str | None:
    """What a path means, from `base` or from the root, relative to `directory`; None where it is not there or not in
    it."""
    path = os.path.abspath(os.path.join(base, entry.replace("\\", "/")))
    if os.path.exists(path):  # false, not an error, for a path that no system could hold
        for spelled in (os.path.abspath, os.path.realpath):
            root = spelled(directory)
            if path == root or path.startswith(os.path.join(root, "")):
                return path[len(root) :].lstrip(os.sep).replace(os.sep, "/")
    return None


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
            there = _below(directory, directory, name) or _below(directory, source.parent, name)
            if not there and re.match(r"(/|\w:|\.\./|data/)", name):  # of another machine; data/: as CVAT writes
                place = _inside(directory, name)
                there = place and place.relative_to(directory).as_posix()
            name = there or name
            refuse_escape(name, f"image {shown(name)} in {source}")
            yield name


def _remarks(directory: Path, sources: Mapping[str, Sequence[Path]]) -> Iterator[str]:
    """Sentences on images without a text file, and on text files of labels without an image."""
    on_disk = speller(directory)
    folders: set[Path] = set()
    for split, places in sources.items():
        names = [name for place in places for name in _image_names(directory, place) if on_disk(name) is not None]
        lists = [place for place in places if not place.is_dir()]
        folders |= {(directory / name).parent for name in names} if lists else {*places}
        bare = [name for name in names if on_disk(_label_name(name)) is None]
        if bare:
            count = counted(len(bare), "image without a text file counts", "images without a text file count")
            text_file = directory / _label_name(bare[0])
            yield f"{split}: {count} as empty, first {directory / bare[0]}; if it shows objects, add {text_file}"
    expected, there = set(), {}
    for folder in folders:
        images = (path.relative_to(directory).as_posix() for path in files_below(folder, SUFFIXES))
        expected |= {composed(_label_name(name)) for name in images}
        labels = (directory / _label_name((folder / "image").relative_to(directory).as_posix())).parent
        there |= {composed(path.relative_to(directory).as_posix()): path for path in files_below(labels, (".txt",))}
    stray = [there[name] for name in sorted(there.keys() - expected) if LABEL.match(read_bytes(there[name]) + b"\n")]
    if stray:
        count = counted(
            len(stray), "text file of labels without an image is", "text files of labels without an image are"
        )
        yield f"{count} not used, first {stray[0]}; add the image, or delete the text file"


def _label_name(name: str) -> str:
    """The text file of an image: in labels/ where the image is in images/, else beside it."""
    parts = list(PurePosixPath(f"{os.path.splitext(name)[0]}.txt").parts)
    places = [place for place, part in enumerate(parts[:-1]) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
    return "/".join(parts)


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
