"""`--data`: one short text that names any detection set."""

import hashlib
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from common.cli import data_parts
from common.data.annotations import Faults, Layout, assemble
from common.data.bdd import LABEL_FILES, find_bdd
from common.data.coco import find_coco, find_other_coco
from common.data.detection_set import DetectionSet, drawn_positions
from common.data.image_files import ImageFiles
from common.data.scenes import scenes
from common.data.voc import find_other_voc, find_voc
from common.data.yolo import find_other_yolo, find_yolo
from common.plain import InputError

SPLITS = ("train", "val", "test")
SCENES_DEFAULTS = {"train": 2500, "val": 1000, "test": 1000, "size": 96, "seed": 0}
"""Images of each split, side in pixels, and the seed of the drawing."""
HELD_OUT_SHARE = 0.2
"""Share of the training pictures that becomes the val split of a set without one."""
FORMS: dict[str, tuple[Callable[[Path], Layout | None], str]] = {
    "coco": (
        find_coco,
        "annotations/instances_{split}.json with images/, annotations/instances_{split}2017.json with {split}2017/, "
        "{split}/_annotations.coco.json, one annotations.json, or JSON files of other names, one for each split",
    ),
    "voc": (
        find_voc,
        "VOC2007/ and VOC2012/ (there or in VOCdevkit/), Annotations/ with JPEGImages/ or images/, {split}/*.xml, or "
        "XML files beside their images",
    ),
    "yolo": (
        find_yolo,
        "data.yaml (or one other .yaml with names) or classes.txt with images/{split}/ and labels/{split}/, or "
        "classes.txt with images/ and labels/, or beside images and their .txt, or obj.names with obj_{split}_data/",
    ),
    "bdd": (find_bdd, " or ".join(pattern.format("{split}") for pattern in LABEL_FILES)),
}
"""Form -> what finds the splits of a folder (None where it has another form), and what it looks for."""
OTHER_LAYOUTS = {"coco": find_other_coco, "voc": find_other_voc, "yolo": find_other_yolo}
"""Form -> the same for folders that no form takes otherwise: what these look for occurs beside other forms, too."""


def load(spec: str, split: str, limit: int | None = None, seed: int = 0) -> DetectionSet:
    """The split "train", "val" or "test" of the detection set that `spec` names, as `--data` names it.

    Classes are those of all splits together, by their names. Where there is no val split, a part of "train" becomes it,
    the same one each time.
    limit: at most so many images, drawn at random by `seed`. The seed does not change which scenes are drawn
    ("scenes:seed=1" does), so that runs with different seeds are scored on the same images.
    Raises `InputError` for an unknown form and for whatever is wrong with the data.
    """
    if split not in SPLITS:
        raise InputError(f"the split must be one of {', '.join(SPLITS)}, got {split!r}")
    kind, rest, repair = data_parts(spec)
    if kind == "scenes":
        settings = _scenes_settings(spec, rest)
        chosen = drawn_positions(kind, settings[split], limit, seed)
        whole = scenes(split, settings[split], settings["size"], settings["seed"], chosen)
    else:
        form, directory, layout = find(spec)
        whole = read_split(form, directory, layout, split, Faults(repair))
        if kind == "auto":
            whole = replace(whole, notes=(f"read as {form}", *whole.notes))
    return whole.limited(limit, seed)


def scenes_in(spec: str, split: str) -> int | None:
    """How many scenes a split has, of which none is laid out; None for a set on disk."""
    kind, rest, _ = data_parts(spec)
    return _scenes_settings(spec, rest)[split] if kind == "scenes" else None


def find(spec: str) -> tuple[str, Path, Layout]:
    """The form, the folder and the layout of the set on disk that `spec` names; InputError for scenes too."""
    kind, rest, _ = data_parts(spec)
    if kind == "scenes":
        raise InputError("scenes are drawn by the program itself; give a set on disk")
    directory = Path(os.path.expanduser(rest))
    if os.path.isfile(directory):
        sets = [folder for folder in directory.parents[:2] if _own_layout(folder)]  # of DIR/train/FILE that is DIR
        folder = sets[-1] if sets else directory.parent
        raise InputError(f"{directory} is a file, not the folder of a data set; give {kind}:{folder}")
    if not os.path.isdir(directory):  # false, not an error, for a path that no system could hold
        raise InputError(f"no folder {directory} for the data {spec!r}; check the path")
    forms = list(FORMS) if kind == "auto" else [kind]
    own = [(form, FORMS[form][0]) for form in forms]
    others = [(form, OTHER_LAYOUTS[form]) for form in forms if form in OTHER_LAYOUTS]
    for form, find_layout in own + others:
        layout = find_layout(directory)
        if layout is not None:
            return form, directory, layout
    looked_for = "; ".join(
        f"{form}: {looks.format(split='train')}" for form, (_, looks) in FORMS.items() if kind in (form, "auto")
    )
    raise InputError(f"{directory} holds no annotations ({looked_for}); check the folder and its layout")


def _own_layout(folder: Path) -> bool:
    """Whether a form has a layout as that of this folder."""
    with suppress(InputError):
        return any(find_layout(folder) is not None for find_layout, _ in FORMS.values())
    return True  # of some form, but for a fault


def read_split(form: str, directory: Path, layout: Layout, split: str, faults: Faults) -> DetectionSet:
    """One split of a set on disk; what `faults` collects is left out of it."""
    held_out = "val" not in layout.parts and split != "test"
    part = "train" if held_out else split
    if part not in layout.parts:
        raise InputError(
            f"{directory} has no {part} split (looked for {FORMS[form][1].format(split=part)}; found "
            f"{', '.join(layout.parts) or 'none'}); put its annotations there"
        )
    found = layout.parts[part](faults)
    if layout.categories is None:
        named: dict[str, None] = {}
        for name, read in layout.parts.items():
            known = found.classes if name == part else layout.classes[name]() if name in layout.classes else None
            named |= dict.fromkeys(read(Faults(collect=True)).classes if known is None else known)
        classes = sorted(named) if form == "voc" else list(named)
    else:
        classes = list(layout.categories)
    for name in found.left_out:
        if name not in classes or name in found.classes:
            faults.notes.append(f"the empty parent class {name!r} left out")
    whole = assemble(found, directory.resolve().name, split, classes, faults)
    return _held_out(whole, split) if held_out else whole


def pictures_of(dataset: DetectionSet) -> list[str]:
    """Of each image, which picture it is of: Roboflow names the copies of one FOLDER/NAME.rf.HASH.jpg."""
    if not isinstance(dataset.load_image, ImageFiles):
        return list(map(str, range(len(dataset))))  # drawn images are no copies
    parted = (name.rpartition("/") for name in dataset.load_image.names)
    return [f"{folder}/{name.partition('.rf.')[0]}" for folder, _, name in parted]


def _held_out(whole: DetectionSet, split: str) -> DetectionSet:
    """The train or val part of a set without a val split, always the same. Copies of one picture stay together."""
    pictures = pictures_of(whole)

    def digest(picture: str) -> bytes:
        return hashlib.sha256(picture.encode("utf-8", "surrogatepass")).digest()

    # by digests, so that the others stay nearly all where they are when pictures are added
    distinct = sorted(set(pictures), key=digest)
    held_out = set(distinct[: max(1, round(HELD_OUT_SHARE * len(distinct)))])
    part = whole.subset(np.array([(picture in held_out) == (split == "val") for picture in pictures]))
    if not len(part.boxes):
        raise InputError(
            f"{whole.name} has no val split, and too few pictures ({len(distinct):,}) to make a {split} split with "
            "objects; add pictures, or a val split"
        )
    return replace(part, notes=(*part.notes, f"no val split, so {HELD_OUT_SHARE:.0%} of the pictures are held out"))


def _scenes_settings(spec: str, rest: str) -> dict[str, int]:
    settings = dict(SCENES_DEFAULTS)
    for part in filter(None, rest.split(",")):
        key, _, value = part.partition("=")
        lowest = 0 if key == "seed" else 1
        if key not in settings or not re.fullmatch("[0-9]{1,9}", value) or int(value) < lowest:
            raise InputError(
                f"{part!r} in the data {spec!r} is not understood; give whole numbers for {', '.join(SCENES_DEFAULTS)}"
            )
        settings[key] = int(value)
    return settings
