"""Average precision against pycocotools, number for number."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from common.batch import Detections
from common.data.detection_set import DetectionSet
from common.evaluate.average_precision import METRICS, GroundTruth
from tests.common.evaluate.pycocotools_oracle import coco_numbers


def make_dataset(seed: int, images: int = 12, categories: int = 3, crowds: float = 0.1) -> DetectionSet:
    """Objects without images, which no evaluation reads; ids neither start at 0 nor are in order."""
    random = np.random.default_rng(seed)
    counts = random.integers(0, 7, images)
    counts[:2] = 0, 6  # an image without objects, and one with several
    total = int(counts.sum())
    corner, size = random.uniform(0, 150, (total, 2)), random.lognormal(3.6, 0.9, (total, 2)).clip(3, 200)
    return DetectionSet(
        name="random",
        split="val",
        categories=tuple(f"class {index}" for index in range(categories)),
        category_ids=random.permutation(np.arange(5, 5 + 2 * categories, 2)),
        image_ids=random.permutation(np.arange(100, 100 + images)),
        sizes=np.full((images, 2), 400, dtype=np.int32),
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        boxes=np.concatenate([corner, corner + size], axis=1).astype(np.float32),
        labels=random.integers(0, categories, total),
        crowd=random.random(total) < crowds,
        area=(size.prod(axis=1) * random.uniform(0.4, 1, total)),
        load_image=lambda index: pytest.fail("an evaluation needs no images"),
    )


def make_detections(dataset: DetectionSet, seed: int, per_image: int = 30, levels: int = 8) -> Detections:
    """Boxes near objects and boxes anywhere, with scores of few `levels`, so that most tie."""
    random = np.random.default_rng(seed)
    N, K = len(dataset.image_ids), len(dataset.categories)
    boxes = random.uniform(0, 150, (N, per_image, 4))
    boxes[..., 2:] += boxes[..., :2]
    labels = random.integers(0, K, (N, per_image))
    for image in range(N):
        start, stop = dataset.offsets[image : image + 2]
        if stop > start:
            near = random.integers(start, stop, per_image * 2 // 3)
            boxes[image, : len(near)] = dataset.boxes[near] + random.normal(0, 4, (len(near), 4))
            labels[image, : len(near)] = np.where(random.random(len(near)) < 0.8, dataset.labels[near], 0)
    boxes[..., 2:] = np.maximum(boxes[..., 2:], boxes[..., :2] + 1)
    scores = (random.integers(1, levels + 1, (N, per_image)) / (levels + 1.3)).astype(np.float32)
    return Detections(
        boxes=torch.from_numpy(boxes.astype(np.float32)),
        scores=torch.from_numpy(scores),
        labels=torch.from_numpy(labels),
        valid=torch.from_numpy(random.random((N, per_image)) < 0.9),
    )


def pycocotools_numbers(dataset: DetectionSet, detections: Detections, indices=None) -> np.ndarray:
    """The 12 numbers by way of lists of dicts; detections are of the images at `indices`, the ground truth likewise."""
    indices = range(len(dataset.image_ids)) if indices is None else indices
    annotations, results = [], []

    def record(index: int, label: int, box) -> dict:
        left, top, right, bottom = map(float, box)
        ids = {"image_id": int(dataset.image_ids[index]), "category_id": int(dataset.category_ids[label])}
        return {**ids, "bbox": [left, top, right - left, bottom - top]}

    for row, index in enumerate(indices):
        for item in range(dataset.offsets[index], dataset.offsets[index + 1]):
            rest = {"area": float(dataset.area[item]), "iscrowd": int(dataset.crowd[item])}
            one = record(index, dataset.labels[item], dataset.boxes[item])
            annotations.append({"id": len(annotations) + 1, **one, **rest})
        for item in torch.nonzero(detections.valid[row]).flatten().tolist():
            score = detections.scores[row, item].item()
            results.append({**record(index, detections.labels[row, item], detections.boxes[row, item]), "score": score})
    truth = {
        "images": [{"id": int(dataset.image_ids[index])} for index in indices],
        "categories": [{"id": int(identity)} for identity in dataset.category_ids],
        "annotations": annotations,
    }
    return coco_numbers(truth, results)


def assert_equal(numbers: dict[str, float], expected: np.ndarray) -> None:
    assert tuple(numbers) == METRICS
    np.testing.assert_allclose(list(numbers.values()), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_equals_pycocotools_with_ties_crowds_and_empty_images(seed, device):
    dataset = make_dataset(seed)
    ground_truth = GroundTruth(dataset)
    for candidate in (seed, seed + 1, seed):  # on the same ground truth
        detections = make_detections(dataset, candidate)
        numbers = ground_truth.evaluate(detections.to(device))
        assert numbers["AP"] > 0.05
        assert_equal(numbers, pycocotools_numbers(dataset, detections))


def test_equals_pycocotools_with_many_detections_none_and_no_objects():
    dataset = make_dataset(3, images=4, categories=1)
    many = make_detections(dataset, 3, per_image=150, levels=60)  # more than the hundred that count
    none = replace(many, valid=torch.zeros_like(many.valid))
    fields = {name: getattr(dataset, name)[:0] for name in ("boxes", "labels", "crowd", "area")}
    empty = replace(dataset, offsets=np.zeros(5, dtype=np.int64), **fields)
    for objects, detections in ((dataset, many), (dataset, none), (empty, many)):
        numbers = GroundTruth(objects).evaluate(detections)
        assert_equal(numbers, pycocotools_numbers(objects, detections))
        assert (numbers["AP"] > 0) is (objects is dataset and detections is many)
    assert set(numbers.values()) == {-1.0}


def test_images_may_come_in_any_order_and_from_a_part_of_the_set():
    dataset = make_dataset(1)
    chosen = [9, 1, 4, 0, 7]
    everything = make_detections(dataset, 1)
    detections = Detections(*(field[chosen] for field in everything._tensors().values()))
    expected = pycocotools_numbers(dataset, detections, chosen)
    ground_truth = GroundTruth(dataset, chosen)
    assert_equal(ground_truth.evaluate(detections), expected)
    turned = Detections(*(field.flip(0) for field in detections._tensors().values()))
    # equal scores of two images are ordered by image id, not by the order of the rows
    assert_equal(ground_truth.evaluate(turned, torch.tensor(chosen[::-1])), expected)


@pytest.mark.parametrize("first_id", [1, 2**53, -(2**62), 1_700_000_000_000_000_000])
def test_ground_truth_as_detections_is_perfect(first_id):
    """Whatever the ids: as floating point numbers, those beyond 2^53 would be mixed up."""
    dataset = make_dataset(2, crowds=0)
    dataset = replace(dataset, image_ids=np.arange(len(dataset.image_ids)) + first_id)
    N, D = len(dataset.image_ids), 8
    boxes, labels = torch.zeros(N, D, 4), torch.zeros(N, D, dtype=torch.long)
    valid = torch.zeros(N, D, dtype=torch.bool)
    for image in range(N):
        start, stop = dataset.offsets[image : image + 2]
        boxes[image, : stop - start] = torch.from_numpy(dataset.boxes[start:stop])
        labels[image, : stop - start] = torch.from_numpy(dataset.labels[start:stop])
        valid[image, : stop - start] = True
    detections = Detections(boxes, torch.full((N, D), 0.5), labels, valid)
    numbers = GroundTruth(dataset).evaluate(detections, per_class=True)
    assert numbers["AP"] == numbers["AP50"] == numbers["AR100"] == pytest.approx(1, abs=1e-12)
    assert numbers["per_class"] == pytest.approx(dict.fromkeys(dataset.categories, 1))


def test_per_class_is_the_ap_of_each_class_alone():
    dataset = make_dataset(7, categories=4)
    dataset.labels[dataset.labels == 2] = 1  # a class without objects
    detections = make_detections(dataset, 7)
    numbers = GroundTruth(dataset).evaluate(detections, per_class=True)
    for label, name in enumerate(dataset.categories):
        only = replace(detections, valid=detections.valid & (detections.labels == label))
        keep = dataset.labels == label
        owner = np.repeat(np.arange(len(dataset.image_ids)), np.diff(dataset.offsets))[keep]
        fields = {field: getattr(dataset, field)[keep] for field in ("boxes", "labels", "crowd", "area")}
        offsets = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(dataset.image_ids)))])
        expected = pycocotools_numbers(replace(dataset, **fields, offsets=offsets), only)[0]
        assert numbers["per_class"][name] == pytest.approx(expected, abs=1e-12)
    assert numbers["per_class"]["class 2"] == -1


def test_detections_that_cannot_be_evaluated():
    dataset = make_dataset(0)
    ground_truth, good = GroundTruth(dataset), make_detections(dataset, 0)
    faults = [
        ("12 images of detections, but 3", good, [0, 1, 2], ground_truth),
        ("twice", good, [0] * 12, ground_truth),
        ("not part of this ground truth", good, range(12), GroundTruth(dataset, range(6))),
        ("not finite", replace(good, boxes=good.boxes * torch.nan), None, ground_truth),
        ("label outside", replace(good, labels=good.labels + 1), None, ground_truth),
    ]
    for message, detections, indices, truth in faults:
        with pytest.raises(ValueError, match=message):
            truth.evaluate(detections, indices)
