"""The 12 COCO numbers of a file of detections.

python -m common.evaluate --gt gt.json --dt detections.json --json
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from common.cli import run
from common.evaluate.average_precision import GroundTruth
from common.plain import InputError


@dataclass(frozen=True)
class EvaluateCommand:
    """Average precision and recall of detections against a ground truth, both in COCO's JSON form."""

    gt: Path
    """Ground truth: a JSON object with images, categories and annotations (bbox as x, y, width, height in pixels)."""
    dt: Path
    """Detections: a JSON list of image_id, category_id, bbox and score."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object instead of a table."""


def main(config: EvaluateCommand) -> None:
    """Prints the 12 numbers."""
    ground_truth, image_ids, category_ids = read_ground_truth(config.gt)
    numbers = ground_truth.evaluate_rows(read_detections(config.dt, image_ids, category_ids))
    if config.json:
        print(json.dumps(numbers))
        return
    for name, value in numbers.items():
        print(f"{name:<6}{value:>8.4f}" if value >= 0 else f"{name:<6}{'-':>8}")


def read_ground_truth(path: Path) -> tuple[GroundTruth, np.ndarray, np.ndarray]:
    """The ground truth of a COCO file, with the ids (N,) of its images and (K,) of its categories.

    An annotation without an area has that of its box. Raises InputError for whatever cannot be evaluated.
    """
    content = _read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: not a COCO ground truth, which is an object with images, categories and annotations")
    images, categories, annotations = (
        _records(path, content.get(part), part) for part in ("images", "categories", "annotations")
    )
    image_ids = _column(path, "images", images, "id", _identity)
    category_ids = _column(path, "categories", categories, "id", _identity)
    for part, identities in (("images", image_ids), ("categories", category_ids)):
        if len(identities) == 0:
            raise InputError(f"{path}: {part} is empty, so there is nothing to evaluate")
        values, times = np.unique(identities, return_counts=True)
        if (times > 1).any():
            raise InputError(f"{path}: {part} has the id {values[times > 1][0]} twice: give each its own")

    boxes = _column(path, "annotations", annotations, "bbox", _box).reshape(-1, 4).astype(np.float64)
    with_area = [
        record if "area" in record else {"area": record["bbox"][2] * record["bbox"][3]} for record in annotations
    ]
    ground_truth = GroundTruth.from_columns(
        image_ids=image_ids,
        # sizes play no part in the evaluation of boxes, so a file may leave them out
        sizes=np.zeros((len(image_ids), 2), dtype=np.int64),
        category_ids=category_ids,
        names=[str(record.get("name", record["id"])) for record in categories],
        annotation_images=_known(path, "annotations", annotations, "image_id", image_ids),
        annotation_categories=_known(path, "annotations", annotations, "category_id", category_ids),
        boxes=boxes,
        area=_column(path, "annotations", with_area, "area", _number).astype(np.float64),
        crowd=np.array([bool(record.get("iscrowd", 0)) for record in annotations], dtype=bool),
    )
    return ground_truth, image_ids, category_ids


def read_detections(path: Path, image_ids: np.ndarray, category_ids: np.ndarray) -> np.ndarray:
    """The detections of a COCO results file: (M, 7) image id, x, y, width, height, score, category id."""
    records = _records(path, _read_json(path), "the list of detections")
    rows = np.empty((len(records), 7), dtype=np.float64)
    rows[:, 0] = _known(path, "detections", records, "image_id", image_ids)
    rows[:, 1:5] = _column(path, "detections", records, "bbox", _box).reshape(-1, 4)
    rows[:, 5] = _column(path, "detections", records, "score", _number)
    rows[:, 6] = _known(path, "detections", records, "category_id", category_ids)
    return rows


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error})") from None


def _records(path: Path, value: Any, name: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(record, dict) for record in value):
        raise InputError(f"{path}: {name} must be a list of objects, as in COCO's format")
    return value


def _column(path: Path, part: str, records: list[dict[str, Any]], key: str, check: Callable[[Any], bool]) -> np.ndarray:
    """One field of every record; `check` tells whether a value will do."""
    for place, record in enumerate(records):
        if key not in record:
            raise InputError(f"{path}: {part}[{place}] has no {key}")
        if not check(record[key]):
            raise InputError(f"{path}: {part}[{place}] has {key} {record[key]!r}, which must be {check.__doc__}")
    return np.array([record[key] for record in records], dtype=np.int64 if check is _identity else np.float64)


def _known(path: Path, part: str, records: list[dict[str, Any]], key: str, known: np.ndarray) -> np.ndarray:
    """Ids that must be among the ground truth's."""
    values = _column(path, part, records, key, _identity)
    unknown = ~np.isin(values, known)
    if unknown.any():
        place = int(np.argmax(unknown))
        raise InputError(f"{path}: {part}[{place}] has {key} {values[place]}, which the ground truth does not have")
    return values


def _number(value: Any) -> bool:
    """a finite number"""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _identity(value: Any) -> bool:
    """an integer"""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53


def _box(value: Any) -> bool:
    """[x, y, width, height], finite and with no negative width or height"""
    return isinstance(value, list) and len(value) == 4 and all(map(_number, value)) and value[2] >= 0 and value[3] >= 0


if __name__ == "__main__":
    run(main, EvaluateCommand)
