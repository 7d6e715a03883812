"""COCO annotations: one JSON a split, and folders of images.

Format: https://cocodataset.org/#format-data. Boxes are `[x, y, width, height]` in pixels from the top left corner.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.data.detection_set import DetectionSet, ImageFiles, read_json, refuse_duplicates
from common.plain import InputError

# Two annotations of COCO's own instances_train2017.json have no height (github.com/cocodataset/cocoapi/issues/355).
# They cannot be learnt, and everyone's loader drops them; in any other file a box without area is an error.
FLAWS_OF_TRAIN2017 = (918, 2206849)


def read_coco(directory: str | Path, split: str) -> DetectionSet:
    """Read the split "train" or "val" of a COCO folder.

    Either `annotations/instances_{train,val}.json` with `images/`, or COCO's own
    `annotations/instances_{train,val}2017.json` with `train2017/` and `val2017/`.
    Categories come in the order of their ids. Boxes that stick out of their image by at most a pixel are clipped.
    Crowd regions are kept, with `crowd` set. `area` is the annotated one, and width x height where there is none.
    Images are decoded when asked for, but that each file is there is checked at once.
    Raises `InputError`, in one sentence, for anything that cannot be used.
    """
    annotations_path, folder = _layout(Path(directory), split)
    contents = read_json(annotations_path)
    if not isinstance(contents, dict):
        raise InputError(f"{annotations_path} is not a COCO object with images, annotations and categories")
    images, annotations, categories = (
        _Table(contents, key, annotations_path) for key in ("images", "annotations", "categories")
    )

    category_ids, names = categories.whole_numbers("id"), categories.strings("name")
    refuse_duplicates(category_ids, f"category ids in {annotations_path}")
    by_id = np.argsort(category_ids)
    category_ids = category_ids[by_id]
    image_ids = images.whole_numbers("id")
    refuse_duplicates(image_ids, f"image ids in {annotations_path}")
    sizes = np.stack([images.whole_numbers("height"), images.whole_numbers("width")], axis=1).astype(np.int32)
    files = ImageFiles.found(folder, images.strings("file_name"), sizes, annotations_path)

    annotation_ids = annotations.whole_numbers("id")
    refuse_duplicates(annotation_ids, f"annotation ids in {annotations_path}")
    owner_ids = annotations.whole_numbers("image_id")
    boxes = annotations.boxes("bbox")  # (M, 4): x, y, width, height
    crowd = annotations.whole_numbers("iscrowd", default=0) != 0
    area = annotations.numbers("area", default=None)
    area = np.where(annotations.lacks("area"), boxes[:, 2] * boxes[:, 3], area)

    def describe(row: int) -> str:
        return f"annotation {annotation_ids[row]} of image {owner_ids[row]} in {annotations_path}"

    owner = _positions(owner_ids, image_ids, lambda row: f"{describe(row)} belongs to no image of the file")
    label_ids = annotations.whole_numbers("category_id")
    labels = _positions(
        label_ids, category_ids, lambda row: f"{describe(row)} has the unknown category id {label_ids[row]}"
    )

    kept = np.ones(len(boxes), np.bool_)
    if annotations_path.name == "instances_train2017.json":
        kept = ~(np.isin(annotation_ids, FLAWS_OF_TRAIN2017) & (boxes[:, 3] == 0))
    rows = np.flatnonzero(kept)
    return DetectionSet.from_boxes(
        name=Path(directory).resolve().name,
        split=split,
        categories=[names[position] for position in by_id],
        category_ids=category_ids,
        image_ids=image_ids,
        sizes=sizes,
        owner=owner[rows],
        boxes=np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)[rows],
        labels=labels[rows],
        crowd=crowd[rows],
        area=area[rows],
        load_image=files,
        describe=lambda row: describe(rows[row]),
    )


def _layout(directory: Path, split: str) -> tuple[Path, Path]:
    """The annotation file and the image folder of a split, in whichever layout is there."""
    if split not in ("train", "val"):
        raise InputError(f"COCO folders have the splits train and val, not {split!r}")
    own = directory / "annotations" / f"instances_{split}.json"
    official = directory / "annotations" / f"instances_{split}2017.json"
    if own.is_file():
        return own, directory / "images"
    if official.is_file():
        return official, directory / f"{split}2017"
    raise InputError(f"no COCO annotations at {own} nor at {official}; check the folder and its layout")


class _Table:
    """A list of JSON objects, read column by column with one sentence for whatever is wrong."""

    def __init__(self, contents: dict[str, Any], name: str, path: Path):
        self.name, self.path = name, path
        if name not in contents:
            raise InputError(f"{path} has no {name!r}; it is not a COCO detection file")
        self.records = contents[name]
        if not isinstance(self.records, list) or not all(isinstance(record, dict) for record in self.records):
            raise InputError(f"{name!r} in {path} is not a list of objects; it is not a COCO detection file")

    def lacks(self, key: str) -> NDArray[np.bool_]:
        """(records,) whether a record is without `key`, or holds null there."""
        return np.fromiter((record.get(key) is None for record in self.records), np.bool_, len(self.records))

    def whole_numbers(self, key: str, default: int | None = None) -> NDArray[np.int64]:
        """(records,) int64; without a default every record needs the key."""
        values = self._values(key, lambda value: isinstance(value, int), "a whole number", default)
        try:
            return np.asarray(values, np.int64)
        except OverflowError:
            raise InputError(f"{key!r} in {self.name!r} of {self.path} does not fit in 64 bits") from None

    def numbers(self, key: str, default: float | None) -> NDArray[np.float64]:
        """(records,) float64; a missing value is NaN where there is no default."""
        default = np.nan if default is None else default
        return np.asarray(self._values(key, lambda value: isinstance(value, int | float), "a number", default), float)

    def strings(self, key: str) -> list[str]:
        return self._values(key, lambda value: isinstance(value, str), "a string", None)

    def boxes(self, key: str) -> NDArray[np.float64]:
        """(records, 4) float64."""

        def is_box(value: Any) -> bool:
            return isinstance(value, list) and len(value) == 4 and all(isinstance(part, int | float) for part in value)

        return np.asarray(self._values(key, is_box, "a list of four numbers", None), float).reshape(-1, 4)

    def _values(self, key: str, fits: Callable[[Any], bool], kind: str, default: Any) -> list[Any]:
        values = [record.get(key) for record in self.records]
        if default is not None:
            values = [default if value is None else value for value in values]
        for position, value in enumerate(values):
            if not fits(value):
                record = self.records[position]
                which = f"the one with id {record['id']}" if "id" in record else f"number {position}"
                found = f"is {value!r}" if key in record else "is missing"
                raise InputError(f"{key!r} of {self.name!r} in {self.path} must be {kind}, but in {which} it {found}")
        return values


def _positions(wanted: NDArray[np.int64], ids: NDArray[np.int64], complaint: Callable[[int], str]) -> NDArray[np.int64]:
    """Where each wanted id stands in `ids`; `InputError` with the complaint about the first that does not."""
    if not len(ids) or not len(wanted):
        if len(wanted):
            raise InputError(f"{complaint(0)}; correct or remove it")
        return np.zeros(0, np.int64)
    order = np.argsort(ids)
    positions = order[np.searchsorted(ids, wanted, sorter=order).clip(max=len(ids) - 1)]
    unknown = ids[positions] != wanted
    if unknown.any():
        raise InputError(f"{complaint(int(np.argmax(unknown)))}; correct or remove it")
    return positions
