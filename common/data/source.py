"""`--data`: one short text that names any detection set."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from common.cli import data_parts
from common.data.annotations import Faults, Layout, assemble
from common.data.bdd import LABEL_FILES, find_bdd
from common.data.coco import find_coco
from common.data.detection_set import DetectionSet
from common.data.scenes import scenes
from common.data.voc import find_voc
from common.data.yolo import find_yolo
from common.plain import InputError

SPLITS = ("train", "val", "test")
SCENES_DEFAULTS = {"train": 2500, "val": 1000, "test": 1000, "size": 96, "seed": 0}
"""Images of each split, side in pixels, and the seed of the drawing."""
HELD_OUT_SHARE = 0.2
"""Share of a set without splits that becomes its val split."""
FORMS: dict[str, tuple[Callable[[Path], Layout | None], str]] = {
    "coco": (
        find_coco,
        "annotations/instances_{split}.json with images/, annotations/instances_{split}2017.json with {split}2017/, "
        "{split}/_annotations.coco.json, or one annotations.json",
    ),
    "voc": (
        find_voc,
        "VOC2007/ and VOC2012/ (there or in VOCdevkit/), Annotations/ with JPEGImages/, or {split}/*.xml",
    ),
    "yolo": (find_yolo, "data.yaml with images/{split}/ and labels/{split}/, or classes.txt with images/ and labels/"),
    "bdd": (find_bdd, " or ".join(pattern.format("{split}") for pattern in LABEL_FILES)),
}
"""Form -> what finds the splits of a folder (None where it has another form), and what it looks for."""


def load(spec: str, split: str, limit: int | None = None, seed: int = 0) -> DetectionSet:
    """The split "train", "val" or "test" of the detection set that `spec` names, as `--data` names it.

    Classes are those of all splits together, by their names. A set without splits is split, the same way each time.
    limit: at most so many images, drawn at random by `seed`. The seed does not change which scenes are drawn
    ("scenes:seed=1" does), so that runs with different seeds are scored on the same images.
    Raises `InputError` for an unknown form and for whatever is wrong with the data.
    """
    if split not in SPLITS:
        raise InputError(f"the split must be one of {', '.join(SPLITS)}, got {split!r}")
    kind, rest, repair = data_parts(spec)
    if kind == "scenes":
        settings = _scenes_settings(spec, rest)
        whole = scenes(split, count=settings[split], size=settings["size"], seed=settings["seed"])
    else:
        form, directory, layout = find(spec)
        whole = read_split(form, directory, layout, split, Faults(repair))
        if kind == "auto":
            whole = replace(whole, notes=(f"read as {form}", *whole.notes))
    return whole.limited(limit, seed)


def find(spec: str) -> tuple[str, Path, Layout]:
    """The form, the folder and the layout of the set on disk that `spec` names."""
    kind, rest, _ = data_parts(spec)
    directory = Path(rest).expanduser()
    if not directory.is_dir():
        raise InputError(f"no folder {directory} for the data {spec!r}; check the path")
    for form in FORMS if kind == "auto" else (kind,):
        layout = FORMS[form][0](directory)
        if layout is not None:
            return form, directory, layout
    looked_for = "; ".join(
        f"{form}: {looks.format(split='train')}" for form, (_, looks) in FORMS.items() if kind in (form, "auto")
    )
    raise InputError(f"{directory} holds no annotations ({looked_for}); check the folder and its layout")


def read_split(form: str, directory: Path, layout: Layout, split: str, faults: Faults) -> DetectionSet:
    """One split of a set on disk; what `faults` collects is left out of it."""
    part = "all" if "all" in layout.parts and split != "test" else split
    # whoever trains will need the val split in the end, and had better know before that it is missing
    for needed in (part, "val") if part == "train" else (part,):
        if needed not in layout.parts:
            raise InputError(
                f"{directory} has no {needed} split (looked for {FORMS[form][1].format(split=needed)}; found "
                f"{', '.join(layout.parts)}); name it so"
            )
    found = layout.parts[part](faults)
    if layout.categories is None:
        named: dict[str, None] = {}
        for name, read in layout.parts.items():
            known = found.classes if name == part else layout.classes[name]() if name in layout.classes else None
            named |= dict.fromkeys(read(Faults(faults.repair, collect=True)).classes if known is None else known)
        classes = sorted(named) if form == "voc" else list(named)
    else:
        classes = list(layout.categories)
    for name in found.left_out:
        if name not in classes or name in found.classes:
            faults.notes.append(f"the empty parent class {name!r} left out")
    whole = assemble(found, directory.resolve().name, split, classes, faults)
    return whole if part == split else _held_out(whole, split)


def _held_out(whole: DetectionSet, split: str) -> DetectionSet:
    """The train or val part of a set without splits, always the same.

    Copies of one picture, which Roboflow names NAME.rf.HASH.jpg, stay together.
    """
    pictures = [PurePosixPath(name).name.partition(".rf.")[0] for name in whole.load_image.names]
    distinct = sorted(set(pictures))
    order = np.random.default_rng(0).permutation(len(distinct))
    held_out = {distinct[place] for place in order[: max(1, round(HELD_OUT_SHARE * len(distinct)))]}
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
