"""Object crops: the classification set that a detection set holds. It stands in for ImageNet pre-training."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from common.data.detection_set import DetectionSet
from common.letterbox import PADDING
from common.plain import InputError

LEAST_EXTENT = 4.0  # pixels; a thinner object shows no class


@dataclass(frozen=True)
class Crops:
    """images: (N, 3, S, S) uint8. labels: (N,) int64 in 0..K-1. categories: K names."""

    images: Tensor
    labels: Tensor
    categories: tuple[str, ...]

    def split(self, count: int) -> tuple["Crops", "Crops"]:
        """The first `count` crops and the rest."""
        first = Crops(self.images[:count], self.labels[:count], self.categories)
        return first, Crops(self.images[count:], self.labels[count:], self.categories)

    def repeated(self, count: int) -> "Crops":
        """`count` crops, going through these as often as it takes; the same crops where there are that many already."""
        if count <= len(self.labels):
            return self
        index = torch.arange(count) % len(self.labels)
        return Crops(self.images[index], self.labels[index], self.categories)


def crop(image: np.ndarray, box: np.ndarray, size: int, context: float) -> np.ndarray:
    """The square round `box` (4,) xyxy, `context` times its longer side, as (size, size, 3) uint8, antialiased.

    What lies beyond the image is filled with the mean colour.
    """
    H, W = image.shape[:2]
    centre_x, centre_y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    half = context * max(box[2] - box[0], box[3] - box[1]) / 2
    left, top = int(np.floor(centre_x - half)), int(np.floor(centre_y - half))
    right, bottom = int(np.ceil(centre_x + half)), int(np.ceil(centre_y + half))
    inside = image[max(0, top) : min(H, bottom), max(0, left) : min(W, right)]
    if inside.shape[:2] != (bottom - top, right - left):
        canvas = np.empty((bottom - top, right - left, 3), dtype=np.uint8)
        canvas[:] = PADDING
        row, column = max(0, -top), max(0, -left)
        canvas[row : row + inside.shape[0], column : column + inside.shape[1]] = inside
        inside = canvas
    exact = (centre_x - half - left, centre_y - half - top, centre_x + half - left, centre_y + half - top)
    exact = tuple(float(min(max(edge, 0.0), side)) for edge, side in zip(exact, inside.shape[1::-1] * 2, strict=True))
    resized = Image.fromarray(np.ascontiguousarray(inside)).resize((size, size), Image.Resampling.BILINEAR, box=exact)
    return np.asarray(resized)


def object_crops(
    dataset: DetectionSet, size: int, count: int | None = None, seed: int = 0, context: float = 1.3
) -> Crops:
    """Crops of `count` objects of a set, drawn without replacement by `seed`, in the order of the set; None means all.

    Crowds and boxes thinner than 4 pixels are left out. If there are fewer than `count`, all are taken.
    """
    extent = dataset.boxes[:, 2:] - dataset.boxes[:, :2]
    usable = np.flatnonzero(~dataset.crowd & (extent.min(axis=1, initial=np.inf) >= LEAST_EXTENT))
    if not len(usable):
        raise InputError(
            f"{dataset.name} ({dataset.split}) has no object to crop that is at least {LEAST_EXTENT:.0f} pixels wide "
            "and high; give a set with larger objects"
        )
    if count is not None and count < len(usable):
        chosen = np.random.Generator(np.random.PCG64(seed)).permutation(len(usable))[:count]
        usable = np.sort(usable[chosen])
    image_of = np.searchsorted(dataset.offsets, usable, side="right") - 1
    images = torch.empty(len(usable), 3, size, size, dtype=torch.uint8)
    with tqdm(total=len(usable), desc=f"crop {dataset.name}", unit="object", disable=len(usable) < 500) as progress:
        position = 0
        for image_index in np.unique(image_of):
            image = dataset.load_image(int(image_index))
            while position < len(usable) and image_of[position] == image_index:
                cut = crop(image, dataset.boxes[usable[position]], size, context)
                images[position] = torch.from_numpy(np.ascontiguousarray(cut.transpose(2, 0, 1)))
                position += 1
                progress.update(1)
    return Crops(images, torch.from_numpy(dataset.labels[usable].astype(np.int64)), tuple(dataset.categories))
