"""The one form that every detection set takes in memory.

The annotations lie flat in a few arrays (a million boxes are a million rows, not a million objects); `offsets` says
which rows belong to which image. Images stay on disk, or undrawn, until they are asked for.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.data.image_files import ImageFiles
from common.plain import InputError

LoadImage = Callable[[int], NDArray[np.uint8]]


@dataclass(frozen=True, eq=False)
class DetectionSet:
    """Images with their annotated boxes: N images, M boxes, K categories.

    name, split: for messages and tables. categories: K names; category_ids: (K,) int64. image_ids: (N,) int64.
    sizes: (N, 2) int32, height and width. offsets: (N + 1,) int64; the boxes of image i are the rows offsets[i] to
    offsets[i + 1]. boxes: (M, 4) float32 xyxy in pixels. labels: (M,) int64 in 0..K-1. crowd: (M,) bool, regions to be
    ignored rather than detected. area: (M,) float64, the *annotated* area in square pixels (of the mask, where there is
    one), which decides small, medium and large. load_image: the position 0..N-1 of an image -> (H, W, 3) uint8 RGB;
    raises `InputError` for an unreadable file. notes: what was done at reading, for `describe`.
    """

    name: str
    split: str
    categories: tuple[str, ...]
    category_ids: NDArray[np.int64]
    image_ids: NDArray[np.int64]
    sizes: NDArray[np.int32]
    offsets: NDArray[np.int64]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    area: NDArray[np.float64]
    load_image: LoadImage
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.image_ids)

    def boxes_of(self, index: int) -> slice:
        """The rows of `boxes`, `labels`, `crowd` and `area` that belong to image `index` (0..N-1)."""
        return slice(int(self.offsets[index]), int(self.offsets[index + 1]))

    def subset(self, indices: ArrayLike) -> "DetectionSet":
        """The images at `indices` (positions, or a mask over the images), in that order, with their boxes."""
        indices = np.arange(len(self))[np.asarray(indices)]
        counts = np.diff(self.offsets)[indices]
        offsets = first_rows(counts)
        rows = np.arange(offsets[-1]) + np.repeat(self.offsets[indices] - offsets[:-1], counts)
        load = self.load_image
        return replace(
            self,
            image_ids=self.image_ids[indices],
            sizes=self.sizes[indices],
            offsets=offsets,
            boxes=self.boxes[rows],
            labels=self.labels[rows],
            crowd=self.crowd[rows],
            area=self.area[rows],
            load_image=load.subset(indices) if isinstance(load, ImageFiles) else Chosen(load, indices),
        )

    def limited(self, limit: int | None, seed: int = 0) -> "DetectionSet":
        """At most `limit` images drawn at random by `seed`, in their old order; None keeps all.

        The same seed's smaller draw is a part of its larger one.
        """
        drawn = drawn_positions(self.name, len(self), limit, seed)
        return self if drawn is None else self.subset(drawn)

    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that tell whether two sets hold the same data, wherever it lies.

        They change with any image size, box, label, crowd flag, area or category name, and with the name, the size or
        either end of any image file; not with the folder, the spelling of its path, dates or the format of the
        annotations.
        """
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256(json.dumps(self.categories).encode())
        for array in (self.image_ids, self.sizes, self.offsets, self.boxes, self.labels, self.crowd, self.area):
            digest.update(np.ascontiguousarray(array).tobytes())
        if isinstance(self.load_image, ImageFiles):
            digest.update(self.load_image.signature)
        return digest.hexdigest()[:12]


def drawn_positions(name: str, count: int, limit: int | None, seed: int = 0) -> NDArray[np.int64] | None:
    """The positions of the images that `DetectionSet.limited` keeps of `count`; None where it keeps them all."""
    if limit is None or limit >= count:
        return None
    if limit < 1:
        raise InputError(f"the limit on the images of {name} must be at least 1, got {limit}")
    return np.sort(np.random.default_rng(seed).permutation(count)[:limit])


@dataclass(frozen=True)
class Chosen:
    """`load_image` of a subset; a class rather than a closure, so that worker processes can receive it."""

    load_image: LoadImage
    indices: NDArray[np.int64]

    def __call__(self, index: int) -> NDArray[np.uint8]:
        return self.load_image(int(self.indices[index]))


def describe(dataset: DetectionSet) -> str:
    """One line on a split: its images, boxes and classes, and what was done at reading."""
    empty, ignored = int((np.diff(dataset.offsets) == 0).sum()), int(dataset.crowd.sum())
    counts = (
        f"{counted(len(dataset), 'image', 'images')} ({empty:,} empty), "
        f"{counted(len(dataset.boxes), 'box', 'boxes')} ({ignored:,} ignored), "
        f"{counted(len(dataset.categories), 'class', 'classes')}"
    )
    return "; ".join((f"{dataset.name} {dataset.split}: {counts}", *dataset.notes))


def counted(count: int, one: str, many: str) -> str:
    """ "1 box", "3,842 boxes"."""
    return f"{count:,} {one if count == 1 else many}"


def first_rows(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """`offsets` (N + 1,) of images with so many boxes (N,)."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
