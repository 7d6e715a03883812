"""Which images are trained on, which are held out, and how many make an epoch: alike for every paper."""

import numpy as np

from common.command import InputError
from common.data.detection_set import DetectionSet
from common.data.source import load


def training_and_held_out(
    data: str, images: int | None, held_out: int, scale: str
) -> tuple[DetectionSet, DetectionSet]:
    """The training images of `data` (see `common.data.source.load`), and those held out to choose by.

    images: of a larger set, so many are trained on (none: all that are not held out). scale: for the sentence of the
    `InputError` where the set has fewer than twice the held-out images. The same images are held out for every seed.
    """
    whole = load(data, "train", limit=None if images is None else images + held_out)
    if len(whole) < 2 * held_out:
        raise InputError(
            f"{data} has {len(whole)} training images, and scale {scale} holds {held_out} out to choose by: give at "
            "least twice as many, or a smaller scale"
        )
    order = np.random.default_rng(0).permutation(len(whole))
    return whole.subset(np.sort(order[held_out:])), whole.subset(np.sort(order[:held_out]))


def epoch_of(dataset: DetectionSet, images: int | None) -> DetectionSet:
    """The images of an epoch: the set, gone through more than once where it has fewer than `images`."""
    if images is None or images <= len(dataset):
        return dataset
    return dataset.subset(np.arange(images) % len(dataset))
