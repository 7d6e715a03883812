"""The one form every detection set takes in memory, and the checks that every reader of a disk format shares.

The annotations lie flat in a few arrays (a million boxes are a million rows, not a million objects); `offsets` says
which rows belong to which image. Images stay on disk, or undrawn, until they are asked for.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from common.plain import InputError

OVERHANG = 1.0
"""Pixels by which an annotated box may stick out of its image: rounding, which is clipped. More is an error."""

LoadImage = Callable[[int], NDArray[np.uint8]]


@dataclass(frozen=True, eq=False)
class DetectionSet:
    """Images with their annotated boxes: N images, M boxes, K categories.

    name, split: for messages and tables. categories: K names; category_ids: (K,) int64, the ids on disk.
    image_ids: (N,) int64. sizes: (N, 2) int32, height and width. offsets: (N + 1,) int64; the boxes of image i are the
    rows offsets[i] to offsets[i + 1]. boxes: (M, 4) float32 xyxy in pixels. labels: (M,) int64 in 0..K-1.
    crowd: (M,) bool, regions to be ignored rather than detected. area: (M,) float64, the *annotated* area in square
    pixels (of the mask, where there is one), which decides small, medium and large.
    load_image: the position 0..N-1 of an image -> (H, W, 3) uint8 RGB; raises `InputError` for an unreadable file.
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

    @classmethod
    def from_boxes(
        cls,
        *,
        name: str,
        split: str,
        categories: Sequence[str],
        category_ids: ArrayLike,
        image_ids: ArrayLike,
        sizes: ArrayLike,
        owner: ArrayLike,
        boxes: ArrayLike,
        labels: ArrayLike,
        crowd: ArrayLike,
        area: ArrayLike | None,
        load_image: LoadImage,
        describe: Callable[[int], str],
    ) -> Self:
        """Group M boxes in any order by image, checked and clipped by `checked_boxes`.

        owner: (M,) the position 0..N-1 of the image that each box lies in; boxes of one image keep their order.
        area: (M,) or None for the area of the boxes. describe: row of `boxes` -> what and where it is on disk, with
        which an error message begins. The rest as in the class. Raises `InputError` for what `validate` refuses.
        """
        sizes = np.asarray(sizes, np.int32).reshape(-1, 2)
        owner = np.asarray(owner, np.int64)
        boxes = checked_boxes(np.asarray(boxes, np.float64).reshape(-1, 4), sizes[owner], describe)
        area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1, dtype=np.float64) if area is None else np.asarray(area)
        order = np.argsort(owner, kind="stable")
        detection_set = cls(
            name=name,
            split=split,
            categories=tuple(categories),
            category_ids=np.asarray(category_ids, np.int64),
            image_ids=np.asarray(image_ids, np.int64),
            sizes=sizes,
            offsets=_offsets(np.bincount(owner, minlength=len(sizes))),
            boxes=boxes[order],
            labels=np.asarray(labels, np.int64)[order],
            crowd=np.asarray(crowd, np.bool_)[order],
            area=area.astype(np.float64)[order],
            load_image=load_image,
        )
        detection_set.validate()
        return detection_set

    def __len__(self) -> int:
        return len(self.image_ids)

    def boxes_of(self, index: int) -> slice:
        """The rows of `boxes`, `labels`, `crowd` and `area` that belong to image `index` (0..N-1)."""
        return slice(int(self.offsets[index]), int(self.offsets[index + 1]))

    def subset(self, indices: ArrayLike) -> "DetectionSet":
        """The images at `indices` (positions, or a mask over the images), in that order, with their boxes."""
        indices = np.arange(len(self))[np.asarray(indices)]
        counts = np.diff(self.offsets)[indices]
        offsets = _offsets(counts)
        rows = np.arange(offsets[-1]) + np.repeat(self.offsets[indices] - offsets[:-1], counts)
        return replace(
            self,
            image_ids=self.image_ids[indices],
            sizes=self.sizes[indices],
            offsets=offsets,
            boxes=self.boxes[rows],
            labels=self.labels[rows],
            crowd=self.crowd[rows],
            area=self.area[rows],
            load_image=_Chosen(self.load_image, indices),
        )

    def limited(self, limit: int | None, seed: int = 0) -> "DetectionSet":
        """At most `limit` images drawn at random by `seed`, in their old order; the same seed's smaller draw is a
        part of its larger one. `None` keeps all."""
        if limit is None or limit >= len(self):
            return self
        if limit < 1:
            raise InputError(f"the limit on the images of {self.name} is {limit}; give at least 1, or none for all")
        return self.subset(np.sort(np.random.default_rng(seed).permutation(len(self))[:limit]))

    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that change with any image size, box, label, crowd flag, area, id or category
        name: two runs with the same fingerprint were scored on the same annotations."""
        digest = hashlib.sha256(json.dumps(self.categories).encode())
        for array in (self.category_ids, self.image_ids, self.sizes, self.offsets):
            digest.update(np.ascontiguousarray(array).tobytes())
        for array in (self.boxes, self.labels, self.crowd, self.area):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:12]

    def validate(self) -> None:
        """Raise `InputError` for the first thing that no training or evaluation could use."""
        place = f"{self.name} {self.split}"
        image_count, box_count, category_count = len(self.image_ids), len(self.boxes), len(self.categories)
        if not image_count:
            raise InputError(f"{place} holds no image; check the folder and the split")
        if not box_count:
            raise InputError(f"{place} holds no box, so nothing can be learnt or scored; check its annotations")
        shapes = {
            "category_ids": (self.category_ids, (category_count,)),
            "sizes": (self.sizes, (image_count, 2)),
            "offsets": (self.offsets, (image_count + 1,)),
            "boxes": (self.boxes, (box_count, 4)),
            "labels": (self.labels, (box_count,)),
            "crowd": (self.crowd, (box_count,)),
            "area": (self.area, (box_count,)),
        }
        for field, (array, shape) in shapes.items():
            if array.shape != shape:
                raise InputError(f"{place}: {field} has the shape {array.shape} where {shape} belongs")
        refuse_duplicates(self.image_ids, f"image ids in {place}")
        refuse_duplicates(self.category_ids, f"category ids in {place}")
        refuse_duplicates(np.asarray(self.categories), f"category names in {place}")
        counts = np.diff(self.offsets)
        if self.offsets[0] != 0 or self.offsets[-1] != box_count or (counts < 0).any():
            raise InputError(f"{place}: offsets must rise from 0 to the {box_count} boxes")
        if (self.sizes < 1).any():
            first = int(np.argmax((self.sizes < 1).any(axis=1)))
            height, width = self.sizes[first]
            raise InputError(f"image {self.image_ids[first]} of {place} is {width}x{height} pixels; correct its size")
        owner = np.repeat(np.arange(image_count), counts)

        def describe(row: int) -> str:
            return f"box {row - self.offsets[owner[row]]} of image {self.image_ids[owner[row]]} in {place}"

        unknown = (self.labels < 0) | (self.labels >= category_count)
        if unknown.any():
            first = int(np.argmax(unknown))
            raise InputError(
                f"{describe(first)} has the label {self.labels[first]}; labels are 0..{category_count - 1}"
            )
        unusable = ~np.isfinite(self.area) | (self.area < 0)
        if unusable.any():
            first = int(np.argmax(unusable))
            raise InputError(f"{describe(first)} has the area {self.area[first]}; give its area in square pixels")
        checked_boxes(self.boxes.astype(np.float64), self.sizes[owner], describe)


@dataclass(frozen=True)
class _Chosen:
    """`load_image` of a subset; a class rather than a closure, so that worker processes can receive it."""

    load_image: LoadImage
    indices: NDArray[np.int64]

    def __call__(self, index: int) -> NDArray[np.uint8]:
        return self.load_image(int(self.indices[index]))


@dataclass(frozen=True)
class ImageFiles:
    """`load_image` for image files. paths: N files. sizes: (N, 2) height and width by the annotations.

    Pixels come as they lie in the file: an EXIF orientation is *not* applied, as in pycocotools and the papers' code,
    because the annotated boxes and sizes belong to the raw pixels. Grey, palette and CMYK become RGB.
    """

    paths: tuple[str, ...]
    sizes: NDArray[np.int32]

    @classmethod
    def found(cls, folder: Path, file_names: Sequence[str], sizes: NDArray[np.int32], source: Path) -> Self:
        """The files `file_names` under `folder`, as listed in the annotations `source`.

        Raises `InputError` where a name climbs out of the folder or a file is missing. Each folder is listed once,
        so a hundred thousand images take a fraction of a second; whether they can be decoded shows when they are read.
        """
        for file_name in file_names:
            refuse_escape(file_name, f"file_name {file_name!r} in {source}")
        present: dict[str, set[str]] = {}
        missing = []
        for file_name in file_names:
            parent, name = os.path.split(file_name)
            if parent not in present:
                place = folder / parent
                present[parent] = {entry.name for entry in os.scandir(place)} if place.is_dir() else set()
            if name not in present[parent]:
                missing.append(file_name)
        if missing:
            raise InputError(
                f"{len(missing)} of the {len(file_names)} images listed in {source} are missing, first "
                f"{folder / missing[0]}; put them there or take them out of the annotations"
            )
        return cls(tuple(str(folder / file_name) for file_name in file_names), sizes)

    def __call__(self, index: int) -> NDArray[np.uint8]:
        path = self.paths[index]
        try:
            with Image.open(path) as image:
                if image.mode.startswith(("I", "F")):
                    raise InputError(f"image {path} has more than 8 bits a channel; convert it to 8 bits")
                pixels = np.array(image.convert("RGB"))
        # PNG and TIFF decoders report a damaged file as SyntaxError, EOFError or ValueError
        except (OSError, SyntaxError, EOFError, ValueError, Image.DecompressionBombError) as error:
            raise InputError(f"image {path} cannot be decoded ({error}); download or export it again") from None
        height, width = self.sizes[index]
        if pixels.shape[:2] != (height, width):
            raise InputError(
                f"image {path} is {pixels.shape[1]}x{pixels.shape[0]} pixels but {width}x{height} in the annotations; "
                "correct the one or the other (an EXIF rotation does not count)"
            )
        return pixels


def checked_boxes(
    boxes: NDArray[np.float64], sizes: NDArray[np.int32], describe: Callable[[int], str]
) -> NDArray[np.float32]:
    """Boxes clipped to their images, as float32; `InputError` for the first that cannot be used.

    boxes: (M, 4) xyxy in pixels. sizes: (M, 2) height and width of each box's image. describe: row -> what and where.
    Refused: a coordinate that is not finite, a box without area, a box that sticks out by more than `OVERHANG`.
    """
    limits = sizes[:, [1, 0, 1, 0]].astype(np.float64)  # (M, 4): width, height, width, height

    def refuse(bad: NDArray[np.bool_], problem: str) -> None:
        if bad.any():
            row = int(np.argmax(bad))
            corners = ", ".join(f"{value:g}" for value in boxes[row])
            height, width = sizes[row]
            raise InputError(
                f"{describe(row)} {problem} (corners {corners} in an image of {width}x{height}); correct or remove it"
            )

    refuse(~np.isfinite(boxes).all(axis=1), "has a coordinate that is not a finite number")
    refuse((boxes[:, 2:] <= boxes[:, :2]).any(axis=1), "is a box without area")
    rounding = 1e-6
    outside = (boxes < -OVERHANG - rounding) | (boxes > limits + OVERHANG + rounding)
    refuse(outside.any(axis=1), "is a box outside its image")
    clipped = np.clip(boxes, 0.0, limits).astype(np.float32)
    refuse((clipped[:, 2:] <= clipped[:, :2]).any(axis=1), "is a box without area inside its image")
    return clipped


def refuse_duplicates(values: NDArray, what: str) -> None:
    """Raise `InputError` naming the first value that occurs twice."""
    unique, counts = np.unique(values, return_counts=True)
    if len(unique) < len(values):
        raise InputError(f"duplicate {what}: {unique[np.argmax(counts > 1)]} occurs more than once; make each unique")


def refuse_escape(file_name: str, what: str) -> None:
    """Raise `InputError` unless `file_name` stays inside the folder that it is relative to, on any system."""
    windows = PureWindowsPath(file_name)
    absolute = PurePosixPath(file_name).is_absolute() or windows.drive or windows.root
    if not file_name or "\0" in file_name or absolute or ".." in windows.parts:
        raise InputError(f"{what} does not stay inside its folder; give a plain relative path")


def read_json(path: Path) -> Any:
    """The contents of a JSON file; `InputError` where it is missing or not JSON."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"no annotations at {path}; check the folder and its layout") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check the file") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON ({error}); export or download it again") from None


def _offsets(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) numbers of boxes -> (N + 1,) first rows."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
