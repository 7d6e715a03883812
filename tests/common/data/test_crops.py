"""Object crops: the right object, the right label, in the middle."""

import numpy as np
import pytest
import torch

from common.data.crops import Crops, crop, object_crops
from common.data.detection_set import DetectionSet
from common.letterbox import PADDING
from tests.common.data.forms import made, refused

COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], dtype=np.uint8)


def _painted(boxes, labels, crowd=None, side=100, images=1) -> DetectionSet:
    """One or more equal grey images with a bright rectangle in each box, coloured by label."""
    image = np.full((side, side, 3), 90, dtype=np.uint8)
    for (x0, y0, x1, y1), label in zip(boxes, labels, strict=True):
        image[y0:y1, x0:x1] = COLOURS[label]
    fields = {} if crowd is None else {"crowd": np.array(crowd)}
    fields |= {"categories": ("red", "green", "blue"), "load_image": lambda index: image}
    return made([(side, side)] * images, [len(boxes)] * images, boxes * images, labels * images, **fields)


def _images(crops: Crops) -> torch.Tensor:
    return crops.objects.held(torch.device("cpu"), 2**30)[crops.index]


def test_each_crop_shows_the_object_of_its_label():
    dataset = _painted([[10, 10, 40, 30], [60, 50, 80, 90], [5, 70, 35, 99]], [2, 0, 1])
    crops = object_crops(dataset, 32)
    assert _images(crops).shape == (3, 3, 32, 32)
    assert _images(crops).dtype == torch.uint8
    assert crops.labels.tolist() == [2, 0, 1]
    assert crops.categories == ("red", "green", "blue")
    for image, label in zip(_images(crops), crops.labels, strict=True):
        assert image[:, 16, 16].tolist() == COLOURS[label].tolist()


def test_a_crop_is_square_with_context():
    dataset = _painted([[40, 30, 60, 70]], [0])
    image = crop(dataset.load_image(0), dataset.boxes[0], 65, context=1.3)  # 52 original pixels on 65
    red = image[..., 1] < 45
    rows, columns = np.flatnonzero(red.any(axis=1)), np.flatnonzero(red.any(axis=0))
    assert len(rows) == pytest.approx(40 * 65 / 52, abs=1)
    assert len(columns) == pytest.approx(20 * 65 / 52, abs=1)
    assert (rows[0] + rows[-1]) / 2 == pytest.approx(32, abs=0.6)
    assert (columns[0] + columns[-1]) / 2 == pytest.approx(32, abs=0.6)


def test_beyond_the_border_is_padding():
    dataset = _painted([[0, 0, 20, 20]], [0])
    image = crop(dataset.load_image(0), dataset.boxes[0], 40, context=2.0)
    assert tuple(image[3, 3]) == PADDING
    assert image[20, 20].tolist() == [255, 0, 0]


def test_crowds_and_slivers_are_left_out():
    dataset = _painted([[10, 10, 40, 30], [60, 50, 80, 90], [5, 70, 35, 73]], [2, 0, 1], crowd=[True, False, False])
    assert object_crops(dataset, 16).labels.tolist() == [0]
    with refused("no object"):
        object_crops(_painted([[10, 10, 12, 12]], [0]), 16)


def test_count_draws_without_replacement_and_by_seed():
    dataset = _painted([[10, 10, 40, 30], [60, 50, 80, 90], [5, 70, 35, 99]], [2, 0, 1], images=20)
    first, again, other = (object_crops(dataset, 8, count=30, seed=seed) for seed in (0, 0, 1))
    assert len(first.labels) == 30
    assert torch.equal(first.labels, again.labels)
    assert torch.equal(_images(first), _images(again))
    assert not torch.equal(first.labels, other.labels)
    assert torch.bincount(first.labels).max() <= 20  # each of the 20 red ones at most once
    assert len(object_crops(dataset, 8, count=1000).labels) == 60


def test_split_and_repeated_keep_images_with_their_labels():
    crops = object_crops(_painted([[10, 10, 40, 30], [60, 50, 80, 90], [5, 70, 35, 99]], [2, 0, 1], images=2), 8)
    first, rest = crops.split(2)
    assert first.labels.tolist() == [2, 0]
    longer = rest.repeated(7)
    assert longer.labels.tolist() == [1, 2, 0, 1, 1, 2, 0]
    for image, label in zip(_images(longer), longer.labels, strict=True):
        assert image[:, 4, 4].tolist() == COLOURS[label].tolist()
    assert rest.repeated(3) is rest
