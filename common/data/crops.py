"""Object crops: the classification set that a detection set holds. It stands in for ImageNet pre-training."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from common.data.detection_set import DetectionSet
from common.letterbox import PADDING
from common.plain import InputError

_LEAST_EXTENT = 4.0  # pixels; a thinner object shows no class


@dataclass(frozen=True, eq=False)
class Objects:
    """M objects of a set; objects(i) cuts the i-th out of its image, (S, S, 3) uint8.

    rows: (M,) int64, of the set's boxes, ascending. size: S. context: see `crop`.
    """

    dataset: DetectionSet
    rows: NDArray[np.int64]
    size: int
    context: float
    _held: dict[torch.device, Tensor] = field(default_factory=dict)

    def __call__(self, index: int) -> NDArray[np.uint8]:
        return self._cut(self.dataset.load_image(int(self._owners[index])), index)

    def held(self, device: torch.device, memory: int) -> Tensor | None:
        """All of them on a device, (M, 3, S, S) uint8, cut once; None where they take more bytes than `memory`."""
        M = len(self.rows)
        if device not in self._held and 3 * M * self.size**2 <= memory:
            images = torch.empty(M, 3, self.size, self.size, dtype=torch.uint8)
            with tqdm(total=M, desc=f"crop {self.dataset.name}", unit="object", disable=M < 500 or None) as progress:
                for owner in np.unique(self._owners).tolist():
                    image = self.dataset.load_image(owner)
                    for index in range(*np.searchsorted(self._owners, [owner, owner + 1])):
                        images[index] = torch.from_numpy(self._cut(image, index)).permute(2, 0, 1)
                        progress.update(1)
            self._held[device] = images.to(device)
        return self._held.get(device)

    @cached_property
    def _owners(self) -> NDArray[np.int64]:
        """The image of each."""
        return np.searchsorted(self.dataset.offsets, self.rows, side="right") - 1

    def _cut(self, image: NDArray[np.uint8], index: int) -> NDArray[np.uint8]:
        return crop(image, self.dataset.boxes[self.rows[index]], self.size, self.context)


@dataclass(frozen=True, eq=False)
class Crops:
    """N crops, none of them cut before it is asked for; index: (N,) int64, which of the objects each shows."""

    objects: Objects
    index: Tensor

    @cached_property
    def labels(self) -> Tensor:
        """(N,) int64 in 0..K-1."""
        return torch.from_numpy(self.objects.dataset.labels[self.objects.rows])[self.index]

    @property
    def categories(self) -> tuple[str, ...]:
        """K names."""
        return tuple(self.objects.dataset.categories)

    def split(self, count: int) -> tuple["Crops", "Crops"]:
        """The first `count` crops and the rest."""
        return Crops(self.objects, self.index[:count]), Crops(self.objects, self.index[count:])

    def repeated(self, count: int) -> "Crops":
        """`count` crops, going through these as often as it takes; the same crops where there are that many already."""
        if count <= len(self.index):
            return self
        return Crops(self.objects, self.index[torch.arange(count) % len(self.index)])


def crop(image: NDArray[np.uint8], box: NDArray[np.float32], size: int, context: float) -> NDArray[np.uint8]:
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
    return np.array(resized)


def object_crops(
    dataset: DetectionSet, size: int, count: int | None = None, seed: int = 0, context: float = 1.3
) -> Crops:
    """Crops of `count` objects of a set, drawn without replacement by `seed`, in the order of the set; None means all.

    Crowds and boxes thinner than 4 pixels are left out. If there are fewer than `count`, all are taken.
    """
    extent = dataset.boxes[:, 2:] - dataset.boxes[:, :2]
    usable = np.flatnonzero(~dataset.crowd & (extent.min(axis=1, initial=np.inf) >= _LEAST_EXTENT))
    if not len(usable):
        raise InputError(
            f"{dataset.name} ({dataset.split}) has no object to crop that is at least {_LEAST_EXTENT:.0f} pixels wide "
            "and high; give a set with larger objects"
        )
    if count is not None and count < len(usable):
        chosen = np.random.Generator(np.random.PCG64(seed)).permutation(len(usable))[:count]
        usable = np.sort(usable[chosen])
    return Crops(Objects(dataset, usable, size, context), torch.arange(len(usable)))
