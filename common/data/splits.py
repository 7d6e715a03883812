"""Which images are trained on, which are held out, and how many make an epoch: the same for every paper."""

import math

import numpy as np

from common.data.detection_set import DetectionSet
from common.data.source import load
from common.plain import InputError

SEARCH_SHARE = 0.2
"""Largest share of a set's training images that a search holds out: a small set needs the rest for training."""


def training_and_held_out(
    data: str, images: int | None, held_out: int, scale: str, largest_share: float | None = None
) -> tuple[DetectionSet, DetectionSet]:
    """The training images of `data` (see `common.data.source.load`), and those held out to choose by.

    images: how many of a larger set are trained on; None means all that are not held out. held_out: how many are held
    out, the same for every seed. largest_share: the largest share of the whole set that is held out; None means no
    bound. scale: named in the `InputError` that is raised where the set has fewer than twice the held-out images, or
    too few to hold one out.
    """
    whole = load(data, "train")
    if largest_share is not None:
        held_out = min(held_out, int(largest_share * len(whole)))
        if held_out < 1:
            raise InputError(
                f"{data} has {len(whole)} training images, and {largest_share:.0%} of them, held out to choose by, are "
                f"less than one: give at least {math.ceil(1 / largest_share)}"
            )
    whole = whole.limited(None if images is None else images + held_out)
    if len(whole) < 2 * held_out:
        raise InputError(
            f"{data} has {len(whole)} training images, and scale {scale} holds {held_out} out to choose by: give at "
            "least twice as many, or a smaller scale"
        )
    order = np.random.default_rng(0).permutation(len(whole))
    return whole.subset(np.sort(order[held_out:])), whole.subset(np.sort(order[:held_out]))


def epoch_of(dataset: DetectionSet, images: int | None) -> DetectionSet:
    """The images of an epoch: the whole set, repeated where it has fewer than `images`; None means once."""
    if images is None or images <= len(dataset):
        return dataset
    return dataset.subset(np.arange(images) % len(dataset))
