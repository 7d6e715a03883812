"""DetectionSet: grouping, subsets and validation against plain loops; reading of image files."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data.detection_set import DetectionSet, ImageFiles, checked_boxes, read_json, refuse_escape
from common.plain import InputError


def plain_image(index: int) -> np.ndarray:
    return np.full((20, 30, 3), index, np.uint8)


def random_set(seed: int = 0, images: int = 12, boxes: int = 40) -> DetectionSet:
    random = np.random.default_rng(seed)
    corners = random.uniform(0, 8, (boxes, 2))
    return DetectionSet.from_boxes(
        name="made",
        split="train",
        categories=("a", "b", "c"),
        category_ids=[3, 5, 9],
        image_ids=np.arange(images) * 10,
        sizes=[(20, 30)] * images,
        owner=random.integers(0, images - 1, boxes),  # the last image stays empty
        boxes=np.concatenate([corners, corners + random.uniform(1, 9, (boxes, 2))], axis=1),
        labels=random.integers(0, 3, boxes),
        crowd=random.random(boxes) < 0.2,
        area=random.uniform(1, 80, boxes),
        load_image=plain_image,
        describe=lambda row: f"row {row}",
    )


def test_boxes_given_in_any_order_are_grouped_by_image_and_keep_their_order():
    owner = [2, 0, 2, 0, 2] * 20
    boxes = [[k / 10, k / 10, k / 10 + 5, k / 10 + 6] for k in range(100)]
    boxes = np.array(boxes, np.float32).tolist()
    grouped = DetectionSet.from_boxes(
        name="made", split="val", categories=["a"], category_ids=[1], image_ids=[7, 8, 9], sizes=[(20, 30)] * 3,
        owner=owner, boxes=boxes, labels=[0] * 100, crowd=[False, True] + [False] * 98, area=None,
        load_image=plain_image, describe=str,
    )  # fmt: skip
    for image in range(3):
        expected = [boxes[row] for row in range(100) if owner[row] == image]
        assert grouped.boxes[grouped.boxes_of(image)].tolist() == expected
    assert grouped.offsets.tolist() == [0, 40, 40, 100]
    assert grouped.crowd.tolist() == [True] + [False] * 99
    assert grouped.area == pytest.approx(30.0)
    assert grouped.boxes.dtype == np.float32
    assert grouped.area.dtype == np.float64
    assert grouped.labels.dtype == grouped.offsets.dtype == np.int64


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
    whole = random_set()
    part = whole.subset([5, 6, 7, 8]).subset([3, 1])
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
    with pytest.raises(InputError, match="limit"):
        whole.limited(0)


def test_fingerprint_changes_with_every_kind_of_annotation_and_with_nothing_else():
    whole = random_set()
    assert whole.fingerprint() == random_set().fingerprint()
    assert whole.fingerprint() == replace(whole, name="other", split="val").fingerprint()
    for field in ("category_ids", "image_ids", "sizes", "boxes", "labels", "area"):
        changed = getattr(whole, field).copy()
        changed.flat[0] += 1
        assert replace(whole, **{field: changed}).fingerprint() != whole.fingerprint(), field
    assert replace(whole, crowd=~whole.crowd).fingerprint() != whole.fingerprint()
    assert replace(whole, categories=("a", "b", "d")).fingerprint() != whole.fingerprint()
    moved = whole.offsets.copy()
    moved[1] += 1
    assert replace(whole, offsets=moved).fingerprint() != whole.fingerprint()


def with_first(field: str, value) -> dict:
    changed = getattr(random_set(), field).copy()
    changed[0] = value
    return {field: changed}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"image_ids": np.zeros(0, np.int64)}, "holds no image"),
        ({"boxes": np.zeros((0, 4), np.float32)}, "holds no box"),
        ({"labels": np.zeros(3, np.int64)}, "labels has the shape"),
        (with_first("image_ids", 10), "duplicate image ids.*10"),
        (with_first("category_ids", 5), "duplicate category ids.*5"),
        ({"categories": ("a", "a", "c")}, "duplicate category names.*a occurs"),
        (with_first("offsets", 1), "offsets must rise"),
        (with_first("sizes", (0, 30)), "30x0 pixels"),
        (with_first("labels", 3), "box 0 of image 0 in made train has the label 3"),
        (with_first("labels", -1), "label -1"),
        (with_first("area", np.nan), "area nan"),
        (with_first("area", -1.0), "area -1"),
        (with_first("boxes", (0, 0, 40, 5)), "outside"),
        (with_first("boxes", (5, 5, 5, 9)), "without area"),
        (with_first("boxes", (5, 5, np.inf, 9)), "not a finite number"),
    ],
)
def test_validate_names_what_cannot_be_used(change, sentence):
    whole = random_set()
    whole.validate()
    with pytest.raises(InputError, match=sentence) as caught:
        replace(whole, **change).validate()
    assert "\n" not in str(caught.value)


def test_boxes_are_clipped_by_at_most_a_pixel():
    sizes = np.array([[20, 30]] * 3, np.int32)
    boxes = np.array([[-1.0, -0.5, 31.0, 20.25], [0, 0, 30, 20], [3.25, 4, 5, 6.5]])
    clipped = checked_boxes(boxes, sizes, str)
    assert clipped.tolist() == [[0, 0, 30, 20], [0, 0, 30, 20], [3.25, 4, 5, 6.5]]
    for bad in ([-1.1, 0, 5, 5], [0, -1.1, 5, 5], [0, 0, 31.1, 5], [0, 0, 5, 21.1]):
        with pytest.raises(InputError, match=r"^1 is a box outside its image"):
            checked_boxes(np.array([[1, 1, 2, 2], bad]), sizes[:2], str)
    with pytest.raises(InputError, match="without area inside"):
        checked_boxes(np.array([[30.2, 1, 30.8, 5]]), sizes[:1], str)


@pytest.mark.parametrize(
    "name", ["../a.jpg", "a/../../b.jpg", "/etc/a.jpg", "C:\\a.jpg", "..\\a.jpg", "\\a.jpg", "", "a\0"]
)
def test_names_that_leave_their_folder_are_refused(name):
    with pytest.raises(InputError, match="does not stay inside"):
        refuse_escape(name, "file_name")


@pytest.mark.parametrize("name", ["a.jpg", "train/a b.jpg", "a..b.jpg", "...jpg"])
def test_names_that_stay_are_accepted(name):
    refuse_escape(name, "file_name")


def one_file(path: Path, height: int = 6, width: int = 8) -> ImageFiles:
    return ImageFiles((str(path),), np.array([[height, width]], np.int32))


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA", "1", "LA", "RGB"])
def test_every_colour_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    Image.new("RGB", (8, 6), (255, 255, 255)).convert(mode).save(path)
    pixels = one_file(path)(0)
    assert pixels.shape == (6, 8, 3)
    assert pixels.dtype == np.uint8
    assert (pixels >= 254).all()
    assert pixels.flags.writeable  # torch warns of arrays that are not


def test_pixels_are_taken_as_they_lie_whatever_the_exif_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to look at
    path = tmp_path / "turned.jpg"
    Image.new("RGB", (8, 6)).save(path, exif=exif)
    assert one_file(path)(0).shape == (6, 8, 3)


def test_an_unreadable_image_is_named(tmp_path):
    whole = tmp_path / "whole.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)).save(whole)
    assert one_file(whole, 60, 80)(0).shape == (60, 80, 3)
    contents = whole.read_bytes()
    for name, damaged in {"cut.jpg": contents[: len(contents) // 2], "text.jpg": b"no image", "empty.jpg": b""}.items():
        path = tmp_path / name
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=f"{name} cannot be decoded"):
            one_file(path, 60, 80)(0)
    png = tmp_path / "whole.png"
    Image.open(whole).save(png)
    cut_png = tmp_path / "cut.png"
    cut_png.write_bytes(png.read_bytes()[:4000])
    with pytest.raises(InputError, match=r"cut\.png cannot be decoded"):
        one_file(cut_png, 60, 80)(0)
    with pytest.raises(InputError, match=r"gone\.jpg cannot be decoded"):
        one_file(tmp_path / "gone.jpg")(0)
    with pytest.raises(InputError, match="80x60 pixels but 60x80 in the annotations"):
        one_file(whole, 80, 60)(0)


def test_an_image_of_16_bits_is_refused_rather_than_washed_out(tmp_path):
    path = tmp_path / "deep.png"
    Image.fromarray(np.full((6, 8), 4000, np.uint16)).save(path)
    with pytest.raises(InputError, match="more than 8 bits"):
        one_file(path)(0)


def test_json_faults_are_one_sentence(tmp_path):
    with pytest.raises(InputError, match="no annotations at"):
        read_json(tmp_path / "gone.json")
    with pytest.raises(InputError, match="cannot be read"):
        read_json(tmp_path)
    for contents in (b"", b"{", b"\xff\xfe\x00", b"[" * 100_000):
        (tmp_path / "bad.json").write_bytes(contents)
        with pytest.raises(InputError, match="not valid JSON") as caught:
            read_json(tmp_path / "bad.json")
        assert "\n" not in str(caught.value)
