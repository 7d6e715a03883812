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
        package = optional("faster_coco_eval", "faster-coco-eval")
        # it takes no array
        records = [
            {"image_id": int(image), "category_id": int(label), "bbox": box, "score": score}
            for (image, *box, score, label) in rows.tolist()
        ]
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
    """`count` detections in every image: the true boxes moved a little, some mislabelled, and then random ones."""
    random = np.random.default_rng(0)
    N, K = len(dataset), len(dataset.categories)  # images, categories
    corner = random.uniform(0, 70, (N, count, 2))
    boxes = np.concatenate([corner, corner + random.uniform(4, 40, (N, count, 2))], axis=2)
    labels = random.integers(0, K, (N, count))
    scores = random.beta(1, 6, (N, count))
    for image in range(N):
        rows = dataset.boxes_of(image)
        true = min(count, rows.stop - rows.start)
        boxes[image, :true] = dataset.boxes[rows][:true] + random.normal(0, 2, (true, 4))
        boxes[image, :true, 2:] = np.maximum(boxes[image, :true, 2:], boxes[image, :true, :2] + 1)
        right = random.random(true) < 0.7
        labels[image, :true] = np.where(right, dataset.labels[rows][:true], labels[image, :true])
        scores[image, :true] = random.beta(3, 3, true)
    order = np.argsort(-scores, axis=1)
    boxes, scores, labels = (
        torch.from_numpy(np.take_along_axis(values, order[..., None] if values.ndim == 3 else order, axis=1))
        for values in (boxes, scores, labels)
    )
    return Detections(boxes.float(), scores.float(), labels, torch.ones(N, count, dtype=torch.bool))


def coco_contents(dataset: DetectionSet) -> dict[str, Any]:
    """The ground truth as a COCO file's contents."""
    annotations = []
    for image, identity in enumerate(dataset.image_ids.tolist()):
        for row in range(len(dataset.boxes))[dataset.boxes_of(image)]:
            left, top, right, bottom = dataset.boxes[row].tolist()
            annotations.append(
                {
                    "id": row + 1,
                    "image_id": identity,
                    "category_id": int(dataset.category_ids[dataset.labels[row]]),
                    "bbox": [left, top, right - left, bottom - top],
                    "area": float(dataset.area[row]),
                    "iscrowd": int(dataset.crowd[row]),
                }
            )
    return {
        "info": {},
        "images": [
            {"id": identity, "height": height, "width": width}
            for identity, (height, width) in zip(dataset.image_ids.tolist(), dataset.sizes.tolist(), strict=True)
        ],
        "categories": [
            {"id": identity, "name": name}
            for identity, name in zip(dataset.category_ids.tolist(), dataset.categories, strict=True)
        ],
        "annotations": annotations,
    }
