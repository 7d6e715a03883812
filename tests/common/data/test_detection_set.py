"""DetectionSet: subsets against plain loops, fingerprints, and the line that describes a split."""

import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from common.data.detection_set import DetectionSet, describe
from common.data.image_files import ImageFiles
from tests.common.data.forms import made, refused


def plain_image(index: int) -> np.ndarray:
    return np.full((20, 30, 3), index, np.uint8)


def random_set(seed: int = 0, images: int = 12, boxes: int = 40) -> DetectionSet:
    random = np.random.default_rng(seed)
    corners = random.uniform(0, 8, (boxes, 2))
    counts = np.bincount(random.integers(0, images - 1, boxes), minlength=images)  # the last image stays empty
    corners = np.concatenate([corners, corners + random.uniform(1, 9, (boxes, 2))], axis=1)
    fields = {"crowd": random.random(boxes) < 0.2, "area": random.uniform(1, 80, boxes), "load_image": plain_image}
    return made([(20, 30)] * images, counts, corners, random.integers(0, 3, boxes), **fields)


@pytest.mark.parametrize("indices", [[3, 0, 11, 5], [], [-1, -12], np.arange(12) % 3 == 0])
def test_subset_equals_picking_image_by_image(indices):
    whole = random_set()
    part = whole.subset(np.asarray(indices, None if len(indices) else np.int64))
    positions = np.arange(len(whole))[np.asarray(indices, None if len(indices) else np.int64)]
    assert len(part) == len(positions)
    for new, old in enumerate(positions):
        for field in ("boxes", "labels", "crowd", "area"):
            ours = getattr(part, field)[part.boxes_of(new)]
            assert np.array_equal(ours, getattr(whole, field)[whole.boxes_of(old)])
        assert part.image_ids[new] == whole.image_ids[old]
        assert part.load_image(new)[0, 0, 0] == old
    assert part.offsets[-1] == len(part.boxes)


def test_subset_of_a_subset_loads_the_right_image_and_can_travel_to_a_worker():
    part = random_set().subset([5, 6, 7, 8]).subset([3, 1])
    assert [part.load_image(k)[0, 0, 0] for k in range(2)] == [8, 6]
    assert pickle.loads(pickle.dumps(part)).load_image(1)[0, 0, 0] == 6


def test_limited_is_random_nested_ordered_and_repeatable():
    whole = random_set()
    five, eight = whole.limited(5, seed=3), whole.limited(8, seed=3)
    assert len(five) == 5
    assert set(five.image_ids) < set(eight.image_ids)
    assert (np.diff(five.image_ids) > 0).all()
    assert np.array_equal(five.image_ids, whole.limited(5, seed=3).image_ids)
    assert any(not np.array_equal(five.image_ids, whole.limited(5, seed=s).image_ids) for s in range(4, 8))
    assert whole.limited(None) is whole
    assert whole.limited(12) is whole
    with refused("must be at least 1, got 0"):
        whole.limited(0)


def test_fingerprint_changes_with_every_kind_of_annotation_and_with_nothing_else():
    whole = random_set()
    assert whole.fingerprint() == random_set().fingerprint()
    assert whole.fingerprint() == replace(whole, name="other", split="val", notes=("clipped",)).fingerprint()
    for field in ("image_ids", "sizes", "offsets", "boxes", "labels", "area"):
        changed = getattr(whole, field).copy()
        changed.flat[1] += 1
        assert replace(whole, **{field: changed}).fingerprint() != whole.fingerprint(), field
    assert replace(whole, crowd=~whole.crowd).fingerprint() != whole.fingerprint()
    assert replace(whole, categories=("a", "b", "d")).fingerprint() != whole.fingerprint()


def test_fingerprint_follows_the_image_files_wherever_they_lie(tmp_path):
    def files(folder, names=tuple(f"{k}.png" for k in range(12))):
        return replace(random_set(), load_image=ImageFiles(folder, names, random_set().sizes))

    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    for k in range(12):
        Image.new("RGB", (30, 20), (k, 0, 0)).save(here / f"{k}.png")
    shutil.copytree(here, there, copy_function=shutil.copyfile)  # other dates
    first = files(here).fingerprint()
    assert first == files(there).fingerprint() != random_set().fingerprint()
    contents = bytearray((there / "3.png").read_bytes())
    contents[-1] ^= 1  # as long as before
    (there / "3.png").write_bytes(contents)
    assert files(there).fingerprint() != first
    assert files(there).limited(2).fingerprint() == files(here).limited(2).fingerprint()  # without 3.png
    swapped = files(here, ("1.png", "0.png", *(f"{k}.png" for k in range(2, 12))))
    assert swapped.fingerprint() != first
    (here / "5.png").unlink()
    with refused(r"5\.png"):
        files(here).fingerprint()


def test_a_split_is_described_in_one_line():
    whole = random_set()
    described = describe(replace(whole, notes=("2 boxes over the edge of their image clipped",)))
    empty = sum(not len(whole.boxes[whole.boxes_of(k)]) for k in range(12))
    assert described == (
        f"made train: 12 images ({empty} empty), 40 boxes ({int(whole.crowd.sum())} ignored), 3 classes; "
        "2 boxes over the edge of their image clipped"
    )
    assert "1 image (" in describe(whole.subset([0]))
