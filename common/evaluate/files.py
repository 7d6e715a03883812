"""COCO files of ground truth and of detections, read for `GroundTruth`. Ids of any kind are numbered inside."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from common.data.annotations import Faults, ranks, read_each
from common.data.coco import CocoFile, box, known_identity, read_file
from common.data.values import BadRecord, number, read_field, read_unicode_json, shown
from common.evaluate.average_precision import GroundTruth
from common.plain import InputError


def read_ground_truth(path: Path) -> tuple[GroundTruth, CocoFile]:
    """The ground truth of a COCO file, and the file's records.

    An annotation without an area has that of its box. Raises InputError for whatever cannot be evaluated.
    """
    file = read_file(path, Faults(), scoring=True)
    for name in ("images", "categories"):
        if not getattr(file, name):
            raise InputError(f"{path} has no {name}, so there is nothing to evaluate; check the file")
    image_of, category_of = numbers(file.images), numbers(file.categories)
    boxes = np.array([found for _, _, found, _, _, _ in file.objects], np.float64).reshape(-1, 4)
    if (boxes[:, 2:] < 0).any():
        first = file.objects[int(np.argmax((boxes[:, 2:] < 0).any(axis=1)))]
        raise InputError(f"annotation {first[0]} in {path} has a negative width or height; correct or remove it")
    area = np.array([area for *_, area in file.objects], np.float64)
    return GroundTruth.from_columns(
        image_ids=np.array(list(image_of.values()), np.int64),
        # sizes play no part in the evaluation of boxes, so a file may leave them out
        sizes=np.zeros((len(image_of), 2), np.int64),
        category_ids=np.array(list(category_of.values()), np.int64),
        names=list(file.categories.values()),
        annotation_images=np.array([image_of[image] for _, image, *_ in file.objects], np.int64),
        annotation_categories=np.array([category_of[label] for _, _, _, label, _, _ in file.objects], np.int64),
        boxes=boxes,
        area=np.where(np.isnan(area), boxes[:, 2] * boxes[:, 3], area),
        crowd=np.array([crowd for *_, crowd, _ in file.objects], np.bool_),
    ), file


def read_detections(path: Path, truth: CocoFile) -> np.ndarray:
    """The detections of a COCO results file: (M, 7) image, x, y, width, height, score, category, ids as numbered.

    Records may name their file and category, as those of `common.predict` do: names then say which they are, for such
    ids are numbered by whoever found the detections.
    """
    image_of, category_of = numbers(truth.images), numbers(truth.categories)
    files = _by_name((name, key) for key, (name, _) in truth.images.items())
    bare = _by_name((PurePosixPath(name).name, key) for key, (name, _) in truth.images.items())
    categories = _by_name((name, key) for key, name in truth.categories.items())
    rows: list[list[float]] = []

    def detection(record: dict[str, Any]) -> None:
        image = image_of[_named(record, "file_name", "image_id", image_of, files, bare)]
        category = category_of[_named(record, "category", "category_id", category_of, categories)]
        rows.append([image, *read_field(record, "bbox", sized_box), read_field(record, "score", number), category])

    content = read_unicode_json(path)
    if isinstance(content, dict):
        what = "a ground truth" if "annotations" in content else "an object"
        raise InputError(
            f"{path} holds {what}, not detections; give --dt a JSON list of image_id, category_id, bbox and score"
        )
    read_each(content, f"the detections of {path}", detection, Faults())
    return np.array(rows, np.float64).reshape(-1, 7)


def _by_name(named: Iterable[tuple[str, int | str]]) -> dict[str, int | str]:
    """Name -> id; without those that several have, and those that are empty."""
    keys: dict[str, set[int | str]] = defaultdict(set)
    for name, key in named:
        keys[name].add(key)
    return {name: min(found) for name, found in keys.items() if name and len(found) == 1}


def _named(
    record: dict[str, Any], name: str, identity: str, ids: dict[int | str, int], *known: dict[str, int | str]
) -> int | str:
    """The id of what a record names, by its whole name or the last part of it; by its id where the record or the ground
    truth has no names. Raises `BadRecord` for what the ground truth does not know."""
    said = record.get(name)
    if not isinstance(said, str) or not any(known):
        return known_identity(record, identity, ids)
    for each, label in zip(known, (said, PurePosixPath(said).name), strict=False):
        if label in each:
            return each[label]
    raise BadRecord(f"has {shown(said)} as {name}, which no {identity.removesuffix('_id')} of the ground truth has")


def numbers(ids: dict[int | str, Any]) -> dict[int | str, int]:
    """Id -> 1..N in the order of the ids, so that equal scores keep the order that they have in pycocotools."""
    return dict(zip(ids, ranks(list(ids)), strict=True))


def sized_box(value: Any) -> list[float]:
    """[x, y, width, height] as finite numbers, with no negative width or height"""
    found = box(value)
    if min(found[2:]) < 0:
        raise ValueError
    return found
