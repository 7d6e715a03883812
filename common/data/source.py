"""`--data`: one short text that names any detection set."""

import re
from collections.abc import Callable
from pathlib import Path

from common.cli import data_parts
from common.data.bdd import read_bdd
from common.data.coco import read_coco
from common.data.detection_set import DetectionSet
from common.data.scenes import scenes
from common.data.voc import read_voc
from common.plain import InputError

SPLITS = ("train", "val")
SCENES_DEFAULTS = {"train": 2500, "val": 1000, "size": 96, "seed": 0}
"""Images of each split, side in pixels, and the seed of the drawing."""
READERS: dict[str, Callable[[Path, str], DetectionSet]] = {"coco": read_coco, "voc": read_voc, "bdd": read_bdd}


def load(spec: str, split: str, limit: int | None = None, seed: int = 0) -> DetectionSet:
    """The split "train" or "val" of the detection set that `spec` names, as `--data` names it.

    limit: at most so many images, drawn at random by `seed`. The seed does not change which scenes are drawn
    ("scenes:seed=1" does), so that runs with different seeds are scored on the same images.
    Raises `InputError` for an unknown form and for whatever is wrong with the data.
    """
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r}; give train or val")
    kind, rest = data_parts(spec)
    if kind == "scenes":
        settings = _scenes_settings(spec, rest)
        detection_set = scenes(split, count=settings[split], size=settings["size"], seed=settings["seed"])
    else:
        detection_set = READERS[kind](_directory(spec, rest), split)
    return detection_set.limited(limit, seed)


def _directory(spec: str, rest: str) -> Path:
    directory = Path(rest).expanduser()
    if not directory.is_dir():
        raise InputError(f"no folder {directory} for the data {spec!r}; check the path")
    return directory


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
