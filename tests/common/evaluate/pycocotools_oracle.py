"""The 12 numbers as pycocotools has them."""

import contextlib
import io

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def coco_numbers(truth: dict, detections: list[dict]) -> np.ndarray:
    """(12,) of COCO's two JSON forms."""
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth, found = COCO(), COCO()
        ground_truth.dataset, found.dataset = truth, {**truth, "annotations": []}
        ground_truth.createIndex()
        found.createIndex()
        evaluation = COCOeval(ground_truth, ground_truth.loadRes(detections) if detections else found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats
