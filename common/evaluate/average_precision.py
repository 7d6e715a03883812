"""COCO average precision and recall of a whole set of detections, from tensors.

hotcoco (https://github.com/derekallman/hotcoco), a compiled equivalent of pycocotools, does the evaluation: the same 12
numbers to the last bits, ties and crowds included. The ground truth is loaded once; each candidate then costs one
(N, 7) array, and no Python object per detection.

It differs from pycocotools in one point, on purpose: pycocotools takes an annotation whose id is 0 for "unmatched" and
counts its detection as false; here it counts as found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from hotcoco import COCO, COCOeval

from common.batch import Detections

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike
    from torch import Tensor

    from common.data.detection_set import DetectionSet

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


class GroundTruth:
    """The objects to find, prepared once; `evaluate` scores any number of detectors against them."""

    def __init__(self, dataset: DetectionSet, indices: Sequence[int] | np.ndarray | Tensor | None = None) -> None:
        """The images of `dataset` at positions `indices` (all of them by default); images without objects count too."""
        image_ids = _numbered(dataset.image_ids)
        offsets = np.asarray(dataset.offsets, dtype=np.int64)
        chosen = np.arange(len(image_ids)) if indices is None else np.asarray(indices, dtype=np.int64)
        owner = np.repeat(np.arange(len(image_ids)), np.diff(offsets))  # the image of each annotation
        keep = np.isin(owner, chosen)

        boxes = np.asarray(dataset.boxes, dtype=np.float64).reshape(-1, 4)[keep]
        boxes[:, 2:] -= boxes[:, :2]  # xyxy to the x, y, width, height of COCO files
        category_ids = _numbered(dataset.category_ids)
        self._prepare(
            image_ids=image_ids[chosen],
            sizes=np.asarray(dataset.sizes)[chosen],
            category_ids=category_ids,
            names=list(dataset.categories),
            annotation_images=image_ids[owner[keep]],
            annotation_categories=category_ids[np.asarray(dataset.labels, dtype=np.int64)[keep]],
            boxes=boxes,
            area=np.asarray(dataset.area, dtype=np.float64)[keep],
            crowd=np.asarray(dataset.crowd, dtype=bool)[keep],
        )
        self._image_id_at, self._chosen = image_ids, chosen

    @classmethod
    def from_columns(cls, **columns: Any) -> GroundTruth:
        """A ground truth from plain columns, as COCO files hold them; only `evaluate_rows` can be asked of it.

        image_ids (N,), sizes (N, 2) height and width, category_ids (K,), names (K), annotation_images (M,) and
        annotation_categories (M,) ids, boxes (M, 4) as x, y, width, height, area (M,), crowd (M,).
        """
        ground_truth = cls.__new__(cls)
        ground_truth._prepare(**columns)
        return ground_truth

    def _prepare(
        self,
        image_ids: np.ndarray,
        sizes: np.ndarray,
        category_ids: np.ndarray,
        names: Sequence[str],
        annotation_images: np.ndarray,
        annotation_categories: np.ndarray,
        boxes: np.ndarray,
        area: np.ndarray,
        crowd: np.ndarray,
    ) -> None:
        shapes = zip(image_ids.tolist(), sizes.tolist(), strict=True)
        images = [{"id": identity, "height": height, "width": width} for identity, (height, width) in shapes]
        named = zip(category_ids.tolist(), names, strict=True)
        categories = [{"id": identity, "name": name} for identity, name in named]
        self._category_ids, self._names = category_ids, names
        self._coco = COCO.from_arrays(
            images, categories, annotation_images, annotation_categories, boxes, area=area, iscrowd=crowd
        )

    def evaluate(
        self,
        detections: Detections,
        indices: ArrayLike | Tensor | None = None,
        per_class: bool = False,
        curves: bool = False,
    ) -> dict[str, Any]:
        """The 12 COCO numbers, each in 0..1, or -1 where there is nothing to find.

        detections: boxes (N, D, 4) in *original* pixels. indices: (N,) positions in the `DetectionSet`, the image of
        each row (default: the images that this ground truth was built from, in that order). Images of the ground
        truth that are not among them count as images where nothing was found.
        per_class: adds "per_class", the AP by category name. curves: adds "precision_recall", by category name the
        precisions at the recalls 0, 0.01, ... 1 where an IoU of 0.5 counts as found, -1 where there is nothing to find.
        Raises ValueError where a detection is not finite, a label is unknown, or an image appears twice or not at all.
        """
        return self.evaluate_rows(self.rows(detections, indices), per_class, curves)

    def rows(self, detections: Detections, indices: ArrayLike | Tensor | None = None) -> np.ndarray:
        """The valid detections as COCO's array: (M, 7) image, x, y, width, height, score, category.

        Images and categories are numbered from 1 in the order of their ids in the `DetectionSet`: ids may be larger
        than a float can hold, and equal scores keep the order that they have in pycocotools.
        """
        positions = self._chosen if indices is None else _on_cpu(indices).astype(np.int64)
        N, D = detections.scores.shape  # images, detections an image
        if len(positions) != N:
            raise ValueError(f"{N} images of detections, but {len(positions)} image positions to put them at")
        if len(np.unique(positions)) != N:
            raise ValueError("an image appears twice among the detections: give each position once")
        if not np.isin(positions, self._chosen).all():
            raise ValueError("detections of an image that is not part of this ground truth")

        valid = np.flatnonzero(_on_cpu(detections.valid))
        labels = _on_cpu(detections.labels).reshape(-1)[valid]
        if labels.size and not (labels.min() >= 0 and labels.max() < len(self._category_ids)):
            raise ValueError(f"a label outside 0..{len(self._category_ids) - 1}: the detector has other classes")
        # float32 to float64 is exact, so scores that tie stay tied and keep their order
        rows = np.empty((len(labels), 7), dtype=np.float64)
        rows[:, 0] = self._image_id_at[positions][valid // D]
        rows[:, 1:5] = _on_cpu(detections.boxes).reshape(-1, 4)[valid]
        rows[:, 3:5] -= rows[:, 1:3]
        rows[:, 5] = _on_cpu(detections.scores).reshape(-1)[valid]
        rows[:, 6] = self._category_ids[labels]
        if not np.isfinite(rows).all():
            raise ValueError("a detection has a box or score that is not finite: the network has diverged")
        return rows

    def evaluate_rows(self, rows: np.ndarray, per_class: bool = False, curves: bool = False) -> dict[str, Any]:
        """`evaluate` for detections that are rows already: (M, 7) float64 as `rows` makes them."""
        evaluation = COCOeval(self._coco, self._coco.load_res(rows), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summary_lines()  # fills `stats` and prints nothing
        numbers: dict[str, Any] = dict(zip(METRICS, evaluation.stats.tolist(), strict=True))
        # (thresholds, recalls, K, areas, detections): all areas, 100 detections; hotcoco sorts categories by id
        precision = evaluation.eval["precision"][:, :, np.argsort(np.argsort(self._category_ids)), 0, -1]
        if per_class:  # a category without objects is -1 throughout, so its mean is -1
            numbers["per_class"] = dict(zip(self._names, precision.mean(axis=(0, 1)).tolist(), strict=True))
        if curves:  # of the lowest threshold
            numbers["precision_recall"] = dict(zip(self._names, precision[0].T.tolist(), strict=True))
        return numbers


def _numbered(ids: ArrayLike) -> np.ndarray:
    return np.argsort(np.argsort(np.asarray(ids, dtype=np.int64))) + 1


def _on_cpu(values: ArrayLike | Tensor) -> np.ndarray:
    return values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)
