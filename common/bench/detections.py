"""Average precision of the next candidate on a ground truth that is prepared already."""

import contextlib
import io
import sys
from dataclasses import dataclass

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from common.batch import Detections
from common.bench.harness import Contender, Missing, Row, Timing, agree, benchmark, compare, optional
from common.data.detection_set import DetectionSet
from common.data.scenes import scenes
from common.evaluate.average_precision import METRICS, GroundTruth


@dataclass(frozen=True)
class DetectionCounts:
    """images, and detections in each."""

    images: int = 500
    detections: int = 100


@benchmark("average-precision", full=DetectionCounts(), quick=DetectionCounts(20, 10))
def average_precision(counts: DetectionCounts, timing: Timing) -> list[Row]:
    """The 12 COCO numbers of 500 images by 100 detections, from tensors on the device; target 0.02 s."""
    dataset = scenes("val", counts.images)
    found = made_up_detections(dataset, counts.detections).to(timing.device)
    truth = GroundTruth(dataset)
    numbers = truth.evaluate(found)
    records = coco_records(dataset)
    rows = truth.rows(found)

    peers: list[Contender | Missing] = [_peer("pycocotools", COCO, COCOeval, records, rows, numbers)]
    module = optional("faster_coco_eval", "faster-coco-eval")
    if isinstance(module, str):
        peers.append(Missing("faster-coco-eval", module))
    else:
        faster = module.COCO, module.COCOeval_faster
        peers.append(_peer("faster-coco-eval", *faster, records, rows, numbers))
    more = {"case": f"{counts.images} images, {counts.detections} detections each, {numbers['AP']:.3f} AP"}
    return compare("average-precision", "s", Contender("ours", lambda: truth.evaluate(found)), peers, timing, **more)


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
    take = np.take_along_axis
    return Detections(
        torch.from_numpy(take(boxes, order[..., None], axis=1)).float(),
        torch.from_numpy(take(scores, order, axis=1)).float(),
        torch.from_numpy(take(labels, order, axis=1)),
        torch.ones(N, count, dtype=torch.bool),
    )


def coco_records(dataset: DetectionSet) -> dict:
    """The ground truth as a COCO file's contents."""
    owner = np.repeat(dataset.image_ids, np.diff(dataset.offsets))
    corners = dataset.boxes.astype(np.float64)
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    labels = dataset.category_ids[dataset.labels]
    sizes = dataset.sizes.tolist()
    return {
        "info": {},
        "images": [
            {"id": identity, "height": height, "width": width}
            for identity, (height, width) in zip(dataset.image_ids.tolist(), sizes, strict=True)
        ],
        "categories": [
            {"id": int(identity), "name": name}
            for identity, name in zip(dataset.category_ids, dataset.categories, strict=True)
        ],
        "annotations": [
            {"id": row + 1, "image_id": image, "category_id": label, "bbox": box, "area": area, "iscrowd": int(crowd)}
            for row, (image, label, box, area, crowd) in enumerate(
                zip(owner.tolist(), labels.tolist(), boxes.tolist(), dataset.area, dataset.crowd, strict=True)
            )
        ],
    }


def _peer(name: str, ground_truth, evaluation, records: dict, rows: np.ndarray, numbers: dict) -> Contender:
    """Whoever has pycocotools' interface, from an (M, 7) array; faster-coco-eval takes no array, so a list there."""
    with _silence():
        truth = ground_truth()
        truth.dataset = records
        truth.createIndex()
    results = rows if name == "pycocotools" else _as_records(rows)

    def run() -> np.ndarray:
        with _silence():
            run = evaluation(truth, truth.loadRes(results), "bbox")
            run.evaluate()
            run.accumulate()
            run.summarize()
        return np.asarray(run.stats, dtype=float)[: len(METRICS)]

    ours = np.array([numbers[metric] for metric in METRICS])
    agree(bool(np.allclose(run(), ours, rtol=0, atol=1e-9)), f"the 12 numbers by ours and by {name}")
    return Contender(name, run)


def _as_records(rows: np.ndarray) -> list[dict]:
    return [
        {"image_id": int(image), "category_id": int(label), "bbox": box, "score": score}
        for (image, *box, score, label) in rows.tolist()
    ]


def _silence() -> contextlib.AbstractContextManager:
    # both peers print their progress
    return contextlib.redirect_stdout(io.StringIO()) if sys.stdout is not None else contextlib.nullcontext()
