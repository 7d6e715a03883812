"""Which images are trained on, which are held out, and how many make an epoch: the same for every paper."""

import math

import numpy as np

from common.data.detection_set import DetectionSet
from common.data.source import load, pictures_of, scenes_in
from common.plain import InputError

SEARCH_SHARE = 0.2
"""Largest share of a set's training images that a search holds out: a small set needs the rest for training."""


def training_and_held_out(
    data: str, images: int | None, held_out: int, scale: str, largest_share: float
) -> tuple[DetectionSet, DetectionSet]:
    """The training images of `data` (see `common.data.source.load`), and those held out to choose by.

    images: how many of a larger set are trained on; None means all that are not held out. held_out: how many are held
    out, the same for every seed; a few less where copies of one picture, which stay together, do not fill that number.
    largest_share: the largest share of the whole set that is held out, below a half. scale: named in the `InputError`
    that is raised where more images are held out than trained on; one is raised for too few to hold one out, too.
    """
    whole, count = None, scenes_in(data, "train")
    if count is None:
        whole = load(data, "train")
        count = len(whole)
    held_out = min(held_out, int(largest_share * count))
    if held_out < 1:
        raise InputError(
            f"{data} has {count} training images, and {largest_share:.0%} of them, held out to choose by, are "
            f"less than one: give at least {math.ceil(1 / largest_share)}"
        )
    if images is not None and images < held_out:
        raise InputError(
            f"scale {scale} trains on {images} images of {data} and holds {held_out} out to choose by: train on at "
            f"least {held_out}, or hold out fewer"
        )
    wanted = None if images is None else images + held_out
    whole = load(data, "train", wanted) if whole is None else whole.limited(wanted)
    copies: dict[str, list[int]] = {}
    for place, picture in enumerate(pictures_of(whole)):
        copies.setdefault(picture, []).append(place)
    groups = list(copies.values())
    if len(groups) < 2:
        raise InputError(
            f"all training images of {data} are by their names (NAME.rf.HASH) copies of one picture; add others"
        )
    chosen: list[int] = []
    for position in np.random.default_rng(0).permutation(len(groups)):
        if len(chosen) + len(groups[position]) <= held_out:
            chosen += groups[position]
    search = np.isin(np.arange(len(whole)), chosen or min(groups, key=len))
    return whole.subset(~search), whole.subset(search)


def epoch_of(dataset: DetectionSet, images: int | None) -> DetectionSet:
    """The images of an epoch: the whole set, repeated where it has fewer than `images`; None means once."""
    if images is None or images <= len(dataset):
        return dataset
    return dataset.subset(np.arange(images) % len(dataset))
