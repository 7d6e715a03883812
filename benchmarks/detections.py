"""Average precision of the next candidate on a ground truth that is prepared already."""

import contextlib
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.harness import Row, Timing, Work, agree, compare, optional
from common.batch import Detections
from common.data.detection_set import DetectionSet
from common.data.scenes import scenes
from common.evaluate.average_precision import METRICS, GroundTruth


def average_precision(timing: Timing, images: int = 500, detections: int = 100) -> list[Row]:
    """images, and detections in each."""
    dataset = scenes("val", images)
    found = made_up_detections(dataset, detections).to(timing.device)
    truth = GroundTruth(dataset)
    numbers, rows, contents = truth.evaluate(found), truth.rows(found), coco_contents(dataset)

    def by_pycocotools() -> Work:
        return _peer("pycocotools", COCO, COCOeval, contents, rows, numbers)

    def by_faster_coco_eval() -> Work:
        package = optional("faster_coco_eval", "faster-coco-eval")  # it takes no array
        ids = rows[:, [0, 6]].astype(int)
        records = _records(image_id=ids[:, 0], category_id=ids[:, 1], bbox=rows[:, 1:5], score=rows[:, 5])
        return _peer("faster-coco-eval", package.COCO, package.COCOeval_faster, contents, records, numbers)

    peers = {"pycocotools": by_pycocotools, "faster-coco-eval": by_faster_coco_eval}
    case = f"{images} images, {detections} detections each, {numbers['AP']:.3f} AP"
    return compare("s", Work(lambda: truth.evaluate(found)), peers, timing, case=case)


def _peer(
    name: str, coco: type, evaluation: Callable, contents: dict[str, Any], results: Any, numbers: dict[str, float]
) -> Work:
    """Whoever has pycocotools' interface; all of them print their progress."""

    def run() -> np.ndarray:
        with contextlib.redirect_stdout(io.StringIO()):
            run = evaluation(truth, truth.loadRes(results), "bbox")
            run.evaluate()
            run.accumulate()
            run.summarize()
        return np.asarray(run.stats, dtype=float)[: len(METRICS)]

    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco()
        truth.dataset = contents
        truth.createIndex()
    expected = [numbers[metric] for metric in METRICS]
    agree(np.allclose(run(), expected, rtol=0, atol=1e-9), f"the 12 numbers by ours and by {name}")
    return Work(run)


def made_up_detections(dataset: DetectionSet, count: int) -> Detections:
    """`count` an image, best first: the true boxes moved a little, some of them mislabelled, among random ones."""
    random = np.random.default_rng(0)
    N = len(dataset)
    corner = random.uniform(0, 70, (N, count, 2))
    boxes = np.concatenate([corner, corner + random.uniform(4, 40, (N, count, 2))], axis=2)
    labels = random.integers(0, len(dataset.categories), (N, count))
    for image in range(N):
        rows = dataset.boxes_of(image)
        true = min(count, rows.stop - rows.start)
        places = np.sort(random.permutation(min(count, 2 * true))[:true])  # high scores, mixed with random boxes
        boxes[image, places] = dataset.boxes[rows][:true] + random.normal(0, 2, (true, 4))
        right = random.random(true) < 0.7
        labels[image, places] = np.where(right, dataset.labels[rows][:true], labels[image, places])
    boxes[..., 2:] = np.maximum(boxes[..., 2:], boxes[..., :2] + 1)
    scores = torch.from_numpy(-np.sort(-random.beta(1, 6, (N, count))))
    valid = torch.ones(N, count, dtype=torch.bool)
    return Detections(torch.from_numpy(boxes).float(), scores.float(), torch.from_numpy(labels), valid)


def coco_contents(dataset: DetectionSet) -> dict[str, Any]:
    """The ground truth as a COCO file's contents."""
    boxes = dataset.boxes.astype(np.float64)
    return {
        "info": {},
        "images": _records(id=dataset.image_ids, height=dataset.sizes[:, 0], width=dataset.sizes[:, 1]),
        "categories": _records(id=dataset.category_ids, name=np.array(dataset.categories)),
        "annotations": _records(
            id=np.arange(1, len(boxes) + 1),
            image_id=np.repeat(dataset.image_ids, np.diff(dataset.offsets)),
            category_id=dataset.category_ids[dataset.labels],
            bbox=np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1),
            area=dataset.area,
            iscrowd=dataset.crowd.astype(int),
        ),
    }


def _records(**columns: np.ndarray) -> list[dict[str, Any]]:
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]
