"""What is said of a detector on a split."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor
from torch import nn

from common.batch import IMAGE_MEAN, IMAGE_STD, Detections
from common.cli import run
from common.data.batches import DetectionBatches
from common.data.scenes import scenes
from common.evaluate import inspection
from common.evaluate.__main__ import EvaluateCommand, _inspection, main
from common.evaluate.average_precision import METRICS, GroundTruth
from common.evaluate.inspection import Matched, as_trained, best_score, confusion, detected, match
from common.letterbox import letterbox_scale
from common.models import detector as detectors
from common.models.detector import Detector


def boxes(*lefts: float) -> torch.Tensor:
    """Squares of 10 pixels, beside one another."""
    return torch.tensor([[left, 0.0, left + 10, 10] for left in lefts]).reshape(-1, 4)


def test_the_better_detection_takes_an_object_whatever_its_class():
    matched = match(
        boxes(1, 0, 30, 51, 80, 2),
        torch.tensor([0.5, 0.9, 0.4, 0.3, 0.2, 0.1]),
        torch.tensor([1, 0, 2, 2, 0, 0]),
        boxes(1, 50, 100),
        torch.tensor([1, 2, 0]),
        boxes(31),
    )
    # The best at 0 takes the object at 1, so the one at 1 is false; that at 30 lies in the crowd; 80 and 2 are false.
    assert matched.scores.tolist() == pytest.approx([0.9, 0.5, 0.3, 0.2, 0.1])
    assert matched.taken.tolist() == [0, -1, 1, -1, -1]
    assert matched.correct.tolist() == [False, False, True, False, False]
    assert matched.mistakes() == {"missed": 1, "false": 3, "confused": 1}
    assert matched.above(0.25).mistakes() == {"missed": 1, "false": 1, "confused": 1}
    assert confusion([matched], 3).tolist() == [[0, 0, 0, 1], [1, 0, 0, 0], [0, 0, 1, 0], [2, 1, 0, 0]]


def test_a_picture_without_objects_or_without_detections():
    nothing, none = boxes(), torch.zeros(0, dtype=torch.long)
    assert match(boxes(1), torch.ones(1), none.new_zeros(1), nothing, none, nothing).mistakes()["false"] == 1
    assert match(nothing, torch.ones(0), none, boxes(1), none.new_zeros(1), nothing).mistakes()["missed"] == 1


def test_best_score_is_that_of_the_best_f1():
    random = np.random.default_rng(0)
    pictures = []
    for _ in range(30):
        scores = np.sort(random.integers(1, 12, 8))[::-1] / 12  # many are equal
        taken = np.where(random.random(8) < scores, np.arange(8), -1)
        empty = np.zeros((8, 4), np.float32)
        pictures.append(Matched(empty, scores, np.zeros(8, int), taken, empty, random.integers(0, 2, 8)))

    def f1(score: float) -> float:
        kept = [each.above(score) for each in pictures]
        right, said = sum(each.correct.sum() for each in kept), sum(len(each.taken) for each in kept)
        return 2 * right / (said + 240)

    every = {score for each in pictures for score in each.scores.tolist()}
    assert best_score(pictures, 240) == max(every, key=f1)


class Told(nn.Module):
    """Gives detections that it was told, image by image, in pixels of its canvas."""

    def __init__(self, found: Detections) -> None:
        super().__init__()
        self.found, self.next = found, 0

    def detect(self, images):
        rows = slice(self.next, self.next + len(images))
        self.next += len(images)
        return Detections(*(getattr(self.found, name)[rows] for name in ("boxes", "scores", "labels", "valid")))


def test_a_detector_is_evaluated_by_the_names_of_its_classes(tmp_path, monkeypatch, capsys):
    """It finds each object but those of one class, which it does not know, and calls its first class another way."""
    dataset, side = scenes("test", 20, size=64), 96
    names = dataset.categories
    known = ("nothing of the set", *names[::-1][1:])
    N, D = len(dataset), int(np.diff(dataset.offsets).max())
    found = Detections(
        torch.zeros(N, D, 4), torch.zeros(N, D), torch.zeros(N, D, dtype=torch.long), torch.zeros(N, D) > 0
    )
    scale = letterbox_scale(dataset.sizes, side)
    for image in range(N):
        for place, row in enumerate(range(int(dataset.offsets[image]), int(dataset.offsets[image + 1]))):
            name = names[dataset.labels[row]]
            found.boxes[image, place] = torch.from_numpy(dataset.boxes[row] * scale[image])
            found.scores[image, place] = 0.9 - 0.01 * place
            found.labels[image, place] = known.index(name) if name in known else 0
            found.valid[image, place] = True
    told = Detector(Told(found), known, side, IMAGE_MEAN, IMAGE_STD, {})
    monkeypatch.setattr(detectors, "load_detector", lambda *_: told)
    flags = ["best", "--data", "scenes:test=20,size=64", "--split", "test", "--out", str(tmp_path / "new")]
    run(main, EvaluateCommand, [*flags, "--json"])
    report = json.loads(capsys.readouterr().out)
    lost, objects = names[-1], int((dataset.labels == len(names) - 1).sum())
    assert objects > 0
    assert report["unknown_classes"] == [lost]
    there = [name for name in names if (dataset.labels == names.index(name)).any()]
    assert report["per_class"] == pytest.approx(
        {name: 0 if name == lost else 1 if name in there else -1 for name in names}
    )
    assert report["AP"] == pytest.approx(1 - 1 / len(there))
    assert set(report) >= set(METRICS)
    assert report["precision"] == 1
    assert report["recall"] == pytest.approx(1 - objects / len(dataset.boxes))
    counts = np.array(report["confusion"])
    assert counts.sum() == len(dataset.boxes)
    assert counts[len(names) - 1, len(names)] == objects
    assert sum(each["missed"] for each in report["worst"]) == objects
    assert report["precision_recall"][lost] == [0.0] * 101
    assert json.loads((tmp_path / "new" / "evaluation.json").read_text()) == report
    for name in ("precision_recall.png", "confusion.png", "worst.png"):
        Image.open(tmp_path / "new" / name).verify()

    told.model.next = 0
    monkeypatch.setattr(inspection, "write", lambda *_: ["drawn.png"])  # drawing takes long, and was done above
    run(main, EvaluateCommand, flags)
    printed = capsys.readouterr().out
    assert f"the detector does not know {lost}" in printed
    assert "100.0% are right, and " in printed
    assert f"wrote {tmp_path / 'new'}: drawn.png" in printed


def test_where_nothing_is_right_no_share_is_told():
    report = {"confusion": [[0, 3], [0, 0]], "per_class": {"cat": 0.0}, "unknown_classes": [], "recall": 0.0}
    report |= {**dict.fromkeys(METRICS, 0.0), "objects": 3, "images": 2}
    assert _inspection(report).endswith("\n\nno detection is right: none of 3 objects in 2 images is found")


def test_what_is_found_missed_and_wrong_is_told_apart_by_its_colour():
    colours = (ImageColor.getrgb(each) for each in (inspection.FOUND, inspection.MISTAKEN, inspection.MISSED))
    assert min(math.dist(*pair) for pair in itertools.combinations(colours, 2)) > 150


def test_a_detector_sees_images_by_its_own_normalisation():
    own = Detector(nn.Identity(), ("bolt",), 64, (0.0,) * 3, (1.0,) * 3, {})
    [batch] = as_trained(own, DetectionBatches(scenes("test", 2, size=64), 64, 2))
    assert 0 <= float(batch.images.min()) < 0.3 < float(batch.images.max()) <= 1.001


@pytest.mark.parametrize("canvas", [64, (96, 64), (64, 96)])
def test_a_set_is_searched_as_single_pictures_are(canvas):
    """Boxes over the edges of the picture, in the padding and beyond the canvas come out alike."""
    dataset = scenes("test", 5, size=48)
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(5, 40, 2, generator=generator) * 140 - 30
    told = Detections(
        torch.cat([corner, corner + torch.rand(5, 40, 2, generator=generator) * 60], dim=-1),
        torch.rand(5, 40, generator=generator).sort(descending=True).values,
        torch.randint(len(dataset.categories), (5, 40), generator=generator),
        torch.rand(5, 40, generator=generator) > 0.1,
    )
    found, singly = (Detector(Told(told), dataset.categories, canvas, IMAGE_MEAN, IMAGE_STD, {}) for _ in range(2))
    found, order = detected(found, dataset)
    singly = singly.detect([dataset.load_image(index) for index in range(5)], batch_size=1)
    assert order.tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(found.boxes, singly.boxes)
    assert torch.equal(found.valid, singly.valid)
    assert 0 < int(found.valid.sum()) < int(told.valid.sum())  # some lay wholly outside
    assert float(found.boxes.min()) == 0
    assert float(found.boxes.max()) == 48
    truth = GroundTruth(dataset)
    assert truth.evaluate(found, order) == truth.evaluate(singly)


def test_precision_at_each_recall_is_that_of_pycocotools_mean():
    """The curve's mean is the AP at an IoU of 0.5."""
    dataset = scenes("val", 6, size=64)
    counts = np.diff(dataset.offsets)
    N, D = len(dataset), int(counts.max())
    generator = torch.Generator().manual_seed(0)
    found, labels = torch.zeros(N, D, 4), torch.zeros(N, D, dtype=torch.long)
    for image in range(N):
        rows = dataset.boxes_of(image)
        found[image, : counts[image]] = torch.from_numpy(dataset.boxes[rows])
        labels[image, : counts[image]] = torch.from_numpy(dataset.labels[rows])
    found += torch.randn(N, D, 4, generator=generator) * 2
    valid = torch.arange(D) < torch.from_numpy(counts).unsqueeze(1)
    numbers = GroundTruth(dataset).evaluate(
        Detections(found, torch.rand(N, D, generator=generator), labels, valid), curves=True
    )
    curves = [curve for curve in numbers["precision_recall"].values() if min(curve) >= 0]
    assert 0.2 < numbers["AP50"] < 1
    assert np.mean(curves) == pytest.approx(numbers["AP50"], abs=1e-12)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "say what to evaluate"),
        (["--gt", "a.json"], "say what to evaluate"),
        (["--gt", "a.json", "--dt", "b.json", "--out", "found"], "are about a DETECTOR"),
        (["best"], "say on which set to evaluate best with --data"),
        (["best", "--data", "scenes", "--gt", "a.json"], "--gt and --dt compare two files without a DETECTOR"),
        (["best", "--data", "scenes:val=2", "--out", "found"], "no class has the same name"),
        (["best", "--data", "scenes:val=2", "--score", "30"], "--score must be from 0 to 1, got 30"),
    ],
)
def test_what_cannot_be_evaluated_is_one_sentence(flags, says, tmp_path, monkeypatch, capsys):
    told = Detector(nn.Identity(), ("bolt",), 64, IMAGE_MEAN, IMAGE_STD, {})
    monkeypatch.setattr(detectors, "load_detector", lambda *_: told)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        run(main, EvaluateCommand, flags)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
