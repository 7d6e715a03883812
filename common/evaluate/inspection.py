"""What a detector finds, misses and confuses in a split: by class, by score and by picture."""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import box_area, box_iou

from common.batch import IMAGE_MEAN, IMAGE_STD, Batch, Detections
from common.data.batches import DetectionBatches
from common.data.detection_set import DetectionSet
from common.drawing import Outline, outlined, sheet
from common.evaluate.average_precision import GroundTruth
from common.evaluate.subnetworks import detections_of
from common.models.detector import Detector, load_detector
from common.plain import InputError, make_folder, write_atomically, write_json

_OVERLAP = 0.5
"""IoU from which a detection is of an object."""
FOUND, MISTAKEN, MISSED = "#029e73", "#d55e00", "#cc78bc"
_BATCH = 16
WORST = 12
"""Pictures on the sheet of the worst."""


@dataclass(frozen=True)
class Matched:
    """Detections of one picture, best first, against its N objects: detection by detection, the one of highest IoU that
    no better detection has taken, whatever its class.

    boxes: (D, 4); scores, labels: (D,). taken: (D,) the object, -1 for none. objects: (N, 4); classes: (N,).
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    taken: NDArray[np.int64]
    objects: NDArray[np.float32]
    classes: NDArray[np.int64]

    def above(self, score: float) -> "Matched":
        """The same with the detections of that score or more; what they take depends on no worse one."""
        kept = self.scores >= score
        return Matched(
            self.boxes[kept], self.scores[kept], self.labels[kept], self.taken[kept], self.objects, self.classes
        )

    @property
    def correct(self) -> NDArray[np.bool_]:
        """(D,) whether a detection has taken an object of its class."""
        return (self.taken >= 0) & (np.append(self.classes, -1)[self.taken] == self.labels)

    def mistakes(self) -> dict[str, int]:
        """How many objects were missed, detections false, and objects taken for another class."""
        of_objects = int((self.taken >= 0).sum())
        return {
            "missed": len(self.objects) - of_objects,
            "false": len(self.taken) - of_objects,
            "confused": of_objects - int(self.correct.sum()),
        }


def match(boxes: Tensor, scores: Tensor, labels: Tensor, objects: Tensor, classes: Tensor, crowds: Tensor) -> Matched:
    """See `Matched`. crowds: (C, 4) regions of which any number may be found: what lies in one and takes no object is
    left out."""
    order = scores.argsort(descending=True, stable=True)
    boxes, scores, labels = boxes[order], scores[order], labels[order]
    overlaps = box_iou(boxes, objects).numpy()  # (D, N)
    taken = np.full(len(boxes), -1)
    for place in range(len(boxes) if len(objects) else 0):
        best = int(overlaps[place].argmax())
        if overlaps[place, best] >= _OVERLAP:
            taken[place] = best
            overlaps[:, best] = -1
    low, high = torch.max(boxes[:, None, :2], crowds[:, :2]), torch.min(boxes[:, None, 2:], crowds[:, 2:])
    inside = (high - low).clamp(min=0).prod(dim=-1) >= _OVERLAP * box_area(boxes)[:, None]  # (D, C)
    kept = (taken >= 0) | ~inside.any(dim=1).numpy()
    parts = (each.numpy()[kept] for each in (boxes, scores, labels))
    return Matched(*parts, taken[kept], objects.numpy(), classes.numpy())


def best_score(pictures: list[Matched], objects: int) -> float:
    """The least score at which precision and recall have the highest harmonic mean (F1) over all classes together."""
    scores = np.concatenate([each.scores for each in pictures])
    correct = np.concatenate([each.correct for each in pictures])
    order = np.argsort(-scores, kind="stable")
    if not correct.any():
        return 0.0
    f1 = 2 * correct[order].cumsum() / (np.arange(1, len(order) + 1) + objects)
    last = np.append(scores[order][1:] != scores[order][:-1], True)  # a threshold lets all equal scores pass
    return float(scores[order][np.argmax(np.where(last, f1, -1))])


def confusion(pictures: list[Matched], classes: int) -> NDArray[np.int64]:
    """(K + 1, K + 1) how many objects of a class (row) were detected as one (column); the last of each is nothing."""
    counts = np.zeros((classes + 1, classes + 1), np.int64)
    for each in pictures:
        hit = each.taken >= 0
        np.add.at(counts, (each.classes[each.taken[hit]], each.labels[hit]), 1)
        np.add.at(counts, (classes, each.labels[~hit]), 1)
        np.add.at(counts, (np.delete(each.classes, each.taken[hit]), classes), 1)
    return counts


def detected(detector: Detector, dataset: DetectionSet, images: Tensor | None = None) -> tuple[Detections, Tensor]:
    """What a detector finds in a set, as `detections_of` gives it, with the set's labels.

    images: the set at the detector's input size, as `common.data.batches.resident` gives it; None decodes them.
    Classes are taken by name: what the detector calls as no class of the set is called is left out. Raises `InputError`
    where they share no name.
    """
    names = {name: label for label, name in enumerate(dataset.categories)}
    label_of = torch.tensor([names.get(name, -1) for name in detector.categories])
    if (label_of < 0).all():
        raise InputError(
            f"the detector knows {', '.join(detector.categories)}, and {dataset.name} has {', '.join(names)}: no class "
            "has the same name; give the data that it was trained on, or name the classes alike"
        )
    batches = DetectionBatches(dataset, detector.input_size, _BATCH, detector.device, images=images)
    found, order = detections_of(detector.model, as_trained(detector, batches))
    labels = label_of[found.labels]
    return Detections(found.boxes, found.scores, labels.clamp(min=0), found.valid & (labels >= 0)), order


def inspect(detector: Detector, dataset: DetectionSet, score: float | None = None) -> dict[str, Any]:
    """All that is said of a detector on a split, as plain JSON but for "pictures", the `Matched` of each image.

    The 12 COCO numbers; "per_class" and "precision_recall", see `GroundTruth.evaluate`; "score", from which detections
    count in the rest (default: that of `best_score`), with "precision" and "recall"; "confusion", see there; "worst",
    the pictures of most mistakes. Raises `InputError` as `detected` does.
    """
    found, order = detected(detector, dataset)
    numbers = GroundTruth(dataset).evaluate(found, order, per_class=True, curves=True)
    pictures = [_matched(found, place, dataset, int(index)) for place, index in enumerate(order)]
    objects = int((~dataset.crowd).sum())
    score = best_score(pictures, objects) if score is None else score
    kept = [each.above(score) for each in pictures]
    correct, said = sum(int(each.correct.sum()) for each in kept), sum(len(each.taken) for each in kept)
    mistakes = [each.mistakes() for each in kept]
    worst = sorted(range(len(kept)), key=lambda place: -sum(mistakes[place].values()))[:WORST]
    return {
        **numbers,
        "images": len(dataset),
        "objects": objects,
        "unknown_classes": [name for name in dataset.categories if name not in detector.categories],
        "score": score,
        "precision": correct / said if said else 0.0,
        "recall": correct / objects if objects else 0.0,
        "confusion": confusion(kept, len(dataset.categories)),
        "worst": [
            {"image": index, "file": _file(dataset, index), **mistakes[place]}
            for place, index in ((place, int(order[place])) for place in worst)
            if sum(mistakes[place].values())
        ],
        "pictures": dict(zip(order.tolist(), kept, strict=True)),
    }


def as_trained(detector: Detector, batches: DetectionBatches) -> Iterator[Batch]:
    """All images, normalised as the detector expects them."""
    for batch in batches.in_order():
        if (detector.mean, detector.deviation) == (IMAGE_MEAN, IMAGE_STD):
            yield batch
        else:
            there, here = (
                [batch.images.new_tensor(each).view(1, 3, 1, 1) for each in pair]
                for pair in ((IMAGE_MEAN, IMAGE_STD), (detector.mean, detector.deviation))
            )
            yield replace(batch, images=(batch.images * there[1] + there[0] - here[0]) / here[1])


def _matched(found: Detections, place: int, dataset: DetectionSet, index: int) -> Matched:
    valid, rows = found.valid[place], dataset.boxes_of(index)
    boxes, classes, crowd = (
        torch.from_numpy(np.asarray(each[rows])) for each in (dataset.boxes, dataset.labels, dataset.crowd)
    )
    said = (each[place][valid] for each in (found.boxes, found.scores, found.labels))
    return match(*said, boxes[~crowd], classes[~crowd], boxes[crowd])


def _file(dataset: DetectionSet, index: int) -> str:
    names = getattr(dataset.load_image, "names", None)
    return names[index] if names else f"{dataset.name} {dataset.split} {index}"


# --- files ------------------------------------------------------------------------------------------------------------


def write(folder: Path, report: dict[str, Any], dataset: DetectionSet) -> list[str]:
    """Put what `inspect` said into a folder, as JSON and as pictures; returns the names of the files."""
    from common.report.figures import heat_map

    make_folder(folder)
    names = [*dataset.categories, "nothing"]
    counts = report["confusion"]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figures = {
        "precision_recall.png": _curves(report["precision_recall"]),
        "confusion.png": heat_map(
            shares,
            row_labels=names,
            column_labels=names,
            value_label="Share of the row",
            row_label="Is",
            column_label="Detected as",
        ),
    }
    for name, figure in figures.items():
        _save(folder / name, figure.savefig, format="png")
    write_json(folder / "evaluation.json", {key: value for key, value in report.items() if key != "pictures"})
    if report["worst"]:
        _save(folder / "worst.png", _worst(report, dataset).save, format="PNG")
    return ["evaluation.json", *figures, *(["worst.png"] if report["worst"] else [])]


def write_sheet(path: Path, dataset: DetectionSet, device: str = "cpu") -> None:
    """Put a picture beside a saved detector, NAME.jpg: what it finds and misses in the first images of a set.

    path: of the detector's JSON. None is written where it makes no mistake.
    """
    first = dataset.subset(np.arange(min(WORST, len(dataset))))
    with torch.random.fork_rng():  # a network is made with random weights, and no training may draw others for that
        report = inspect(load_detector(path, device), first)
    if report["worst"]:
        _save(path.with_suffix(".jpg"), _worst(report, first).save, format="JPEG", quality=70)


def _save(path: Path, save: Callable[..., None], **how: Any) -> None:
    buffer = io.BytesIO()
    save(buffer, **how)
    write_atomically(path, buffer.getvalue())


def _curves(precisions: dict[str, list[float]]) -> Any:
    """A line a class, and that of their mean; a class without objects has none."""
    from common.report.figures import COLOURS, panels

    figure, (axes,) = panels(5.5, 4.0)
    there = {name: curve for name, curve in precisions.items() if min(curve) >= 0}
    recalls, few = np.linspace(0, 1, 101), len(there) < len(COLOURS)
    for place, (name, curve) in enumerate(there.items()):
        axes.plot(recalls, curve, label=name if few else None, color=COLOURS[place] if few else "0.8", linewidth=1)
    if there:
        axes.plot(recalls, np.mean(list(there.values()), axis=0), label="mean", color="black", linewidth=2)
        axes.legend(fontsize=8, frameon=False)
    axes.set(xlabel="Recall", ylabel=f"Precision (IoU {_OVERLAP})", xlim=(0, 1), ylim=(0, 1.02))
    return figure


def _worst(report: dict[str, Any], dataset: DetectionSet) -> Any:
    """The pictures of most mistakes: objects found, missed, and what was detected wrongly, in three colours."""
    cells = []
    for each in report["worst"]:
        matched: Matched = report["pictures"][each["image"]]
        correct = matched.correct
        wrong = (each[~correct] for each in (matched.boxes, matched.scores, matched.labels))
        outlines = [
            Outline(box, f"{dataset.categories[label]} {score:.2f}", MISTAKEN)
            for box, score, label in zip(*wrong, strict=True)
        ]
        right = set(matched.taken[correct].tolist())
        outlines += [
            Outline(box, "" if place in right else dataset.categories[label], FOUND if place in right else MISSED)
            for place, (box, label) in enumerate(zip(matched.objects, matched.classes, strict=True))
        ]
        counts = ", ".join(f"{each[kind]} {kind}" for kind in ("missed", "false", "confused") if each[kind])
        caption = f"{Path(each['file']).name[:28]}: {counts}"
        cells.append((outlined(dataset.load_image(each["image"]), outlines), caption))
    title = f"score {report['score']:.2f} or more: objects found are green, missed ones pink, wrong detections red"
    return sheet(cells, title)
