"""What all readers share: values, texts, checks and repairs of boxes, and the finding of image files."""

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data.annotations import Annotations, Faults, assemble
from common.data.values import (
    BadRecord,
    flag,
    identity,
    names_in,
    number,
    read_field,
    read_text,
    read_unicode_json,
    refuse_escape,
    shown,
    side,
    whole_number,
)
from tests.common.data.forms import refused

BAD = object()


@pytest.mark.parametrize(
    ("read", "value", "expected"),
    [
        (flag, "0", False), (flag, "1", True), (flag, 0.0, False), (flag, 1.0, True), (flag, True, True),
        (flag, " Unspecified ", False), (flag, "FALSE", False), (flag, "no", False), (flag, "yes", True),
        (flag, "perhaps", BAD), (flag, 2, BAD), (flag, [0], BAD), (flag, {}, BAD),
        (whole_number, 96.0, 96), (whole_number, "96", 96), (whole_number, 2**70, 2**70), (whole_number, 96.5, BAD),
        (whole_number, True, BAD), (whole_number, math.inf, BAD), (whole_number, None, BAD),
        (side, -1, 0), (side, 0.0, 0), (side, 640, 640), (side, 10**9, BAD), (side, "1e300", BAD),
        (number, "2.5", 2.5), (number, math.nan, BAD), (number, 10**400, BAD), (number, True, BAD), (number, [1], BAD),
        (identity, "a", "a"), (identity, "7", "7"), (identity, 7.0, 7), (identity, -3, -3), (identity, 7.5, BAD),
        (identity, 1533151603512404123, 1533151603512404123), (identity, False, BAD), (identity, {}, BAD),
    ],
)  # fmt: skip
def test_values_are_what_they_say_or_refused(read, value, expected):
    if expected is BAD:
        with pytest.raises(BadRecord, match=r"^has .* as key, which must be "):
            read_field({"key": value if value is not None else ()}, "key", read)
    else:
        found = read_field({"key": value}, "key", read)
        assert found == expected
        assert type(found) is type(expected)


def test_a_missing_value_is_the_default_or_refused_and_values_are_shown_short():
    assert read_field({"key": None}, "key", number, 3.0) == 3.0
    with pytest.raises(BadRecord, match="has no key"):
        read_field({}, "key", number)
    for value in (10**5000, [10**5000], ["x" * 10**6] * 1000, {"a": [[[[[[[[1]]]]]]]]}, "x\ny"):
        assert len(shown(value)) < 800
        assert "\n" not in shown(value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_texts_of_every_editor_are_read(tmp_path, encoding):
    mark = {"utf-16-le": "\ufeff", "utf-16-be": "\ufeff"}.get(encoding, "")
    (tmp_path / "list.txt").write_bytes((mark + "höhe 1\r\n").encode(encoding))
    assert read_text(tmp_path / "list.txt").splitlines() == ["höhe 1"]
    (tmp_path / "a.json").write_bytes((mark + '["höhe"]').encode(encoding))
    assert read_unicode_json(tmp_path / "a.json") == ["höhe"]


def test_files_that_cannot_be_read_are_one_sentence(tmp_path, monkeypatch):
    with refused("no annotations at"):
        read_unicode_json(tmp_path / "gone.json")
    with refused("cannot be read"):
        read_unicode_json(tmp_path)
    for contents in (b"", b"{", b"\xff\xfe\x00", b"[" * 100_000, b"[" + b"9" * 5000 + b"]"):
        (tmp_path / "bad.json").write_bytes(contents)
        with refused("not valid JSON"):
            read_unicode_json(tmp_path / "bad.json")
    (tmp_path / "latin.txt").write_bytes("höhe".encode("latin-1"))
    with refused(r"not UTF-8 text .* save it as UTF-8"):
        read_text(tmp_path / "latin.txt")

    def listdir(folder):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.listdir", listdir)
    with refused(r"cannot be listed \(Permission denied\)"):
        names_in(tmp_path)


@pytest.mark.parametrize(
    "name", ["../a.jpg", "a/../../b.jpg", "/etc/a.jpg", "C:\\a.jpg", "..\\a.jpg", "\\a.jpg", "", "a\0"]
)
def test_names_that_leave_their_folder_are_refused(name):
    with refused("does not stay inside"):
        refuse_escape(name, "file_name")
    for stays in ("a.jpg", "train/a b.jpg", "a..b.jpg", "...jpg"):
        refuse_escape(stays, "file_name")


# ---- from annotations to a set


def annotations(folder: Path, boxes, size=(20, 30)) -> Annotations:
    """Two images, the boxes all in the second."""
    found = Annotations(Path("set.json"), (folder,), "annotation", ["a", "b"])
    for name in ("one.png", "two.png"):
        Image.new("RGB", (30, 20)).save(folder / name)
        found.add_image(name, size)
    for place, box in enumerate(boxes, start=1):
        found.add_box(1, place, box, "a")
    return found


def made(found, faults=None):
    return assemble(found, "made", "train", ("a", "b"), faults or Faults())


def test_boxes_given_in_any_order_are_grouped_by_image_and_keep_their_order(tmp_path):
    found = annotations(tmp_path, [])
    expected = ([], [])
    for k in range(100):
        box = tuple(np.array([k / 10, k / 10, k / 10 + 5, k / 10 + 6], np.float32).tolist())
        owner = int(k % 3 == 0)
        expected[owner].append(list(box))
        found.add_box(owner, k, box, "b" if k == 3 else "a", crowd=k == 3, area=4.0 if k == 3 else math.nan)
    whole = made(found)
    for image in range(2):
        assert whole.boxes[whole.boxes_of(image)].tolist() == expected[image]
    row = whole.offsets[1] + 1  # box 3 is the second of the second image
    assert np.flatnonzero(whole.crowd).tolist() == np.flatnonzero(whole.labels).tolist() == [row]
    assert whole.area[row] == 4
    assert np.delete(whole.area, row) == pytest.approx(30.0)  # of the box, where none is annotated
    assert (whole.boxes.dtype, whole.area.dtype, whole.sizes.dtype) == (np.float32, np.float64, np.int32)
    assert whole.labels.dtype == whole.offsets.dtype == whole.image_ids.dtype == np.int64


def test_boxes_are_clipped_by_at_most_a_pixel_without_a_word(tmp_path):
    whole = made(annotations(tmp_path, [(-1.0, -0.5, 31.0, 20.25), (0, 0, 30, 20), (3.25, 4, 5, 6.5)]))
    assert whole.boxes.tolist() == [[0, 0, 30, 20], [0, 0, 30, 20], [3.25, 4, 5, 6.5]]
    assert whole.notes == ()
    for bad in ((-1.1, 0, 5, 5), (0, -1.1, 5, 5), (0, 0, 31.1, 5), (0, 0, 5, 21.1)):
        with refused(r"set\.json has 1 box over the edge .* first annotation 2 of 'two\.png'"):
            made(annotations(tmp_path, [(1, 1, 2, 2), bad]))


OUTSIDE = [(-3, 5, 27, 15), (20, 10, 34, 30), (1, 1, 5, 5), (25, 2, 40, 9)]
FLAT = [(5, 5, 5, 9), (1, 1, 5, 5), (9, 9, 4, 12), (40, 2, 50, 9)]


@pytest.mark.parametrize(
    ("boxes", "kind", "repair"),
    [
        (OUTSIDE, "3 boxes over the edge of their image", "clipped"),
        (FLAT, "3 boxes without area in their image", "left out"),
    ],
)
def test_small_faults_are_counted_and_repaired_on_demand(tmp_path, boxes, kind, repair):
    with refused(rf"has {kind}, first annotation 1 .*add ,repair .* have them {repair}"):
        made(annotations(tmp_path, boxes))
    repaired = made(annotations(tmp_path, boxes), Faults(repair=True))
    kept = [box for box in boxes if box[0] < box[2] and box[1] < box[3] and box[0] < 30]
    expected = [[max(x, 0), max(y, 0), min(right, 30), min(bottom, 20)] for x, y, right, bottom in kept]
    assert repaired.boxes.tolist() == expected
    assert repaired.notes == (f"{kind} {repair}",)


def test_faults_that_are_collected_leave_out_what_has_them(tmp_path):
    found = annotations(tmp_path, [*OUTSIDE, *FLAT, (math.inf, 0, 5, 5)])
    found.add_box(0, 10, (1, 1, 5, 5), "c")
    found.add_box(1, 11, (1, 1, 5, 5), "b", area=-4)
    found.add_image("gone.png", (20, 30))
    found.add_box(2, 12, (1, 1, 5, 5), "a")
    faults = Faults(collect=True)
    whole = made(found, faults)
    assert len(whole) == 2
    assert len(whole.boxes) == 5
    counts = {kind[0]: count for kind, (count, _) in faults.collected.items()}
    assert counts == {
        "image that is missing": 1, "box of an unknown class": 1, "negative area": 1,
        "box with coordinates beyond all numbers": 1, "box without area in its image": 3,
        "box over the edge of its image": 3,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda found: found.add_box(0, 9, (1, 1, 5, 5), "c"), "1 box of an unknown class, first annotation 9 .* 'c'"),
        (lambda found: found.add_box(0, 9, (1, 1, 5, 5), "b", area=-4), "1 negative area, .* -4;"),
        (lambda found: found.add_box(0, 9, (1, 1, math.inf, 5), "b"), "1 box with coordinates beyond all numbers"),
        (lambda found: found.add_image("one.png", (20, 30)), r"lists the image 'one\.png' twice"),
        (lambda found: found.add_image("../one.png", (20, 30)), r"'\.\./one\.png' .* does not stay inside"),
        (lambda found: found.add_image("x" * 5000, (20, 30)), "1 of the 3 images .* are missing"),
        (lambda found: found.add_image("\ud800/one.png", (20, 30)), "1 of the 3 images .* are missing"),
        (lambda found: [column.clear() for column in (found.sizes, found.names, found.objects)], "holds no image"),
        (lambda found: found.objects.clear(), "holds no box"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(tmp_path, change, sentence):
    found = annotations(tmp_path, [(1, 1, 5, 5)])
    change(found)
    with refused(sentence):
        made(found)


def test_sizes_that_are_absent_come_from_the_pictures(tmp_path):
    whole = made(annotations(tmp_path, [(1, 1, 40, 5)], size=(0, 0)), Faults(repair=True))
    assert whole.sizes.tolist() == [[20, 30], [20, 30]]
    assert whole.boxes.tolist() == [[1, 1, 30, 5]]
    found = annotations(tmp_path, [(1, 1, 5, 5)], size=(0, 0))
    (tmp_path / "one.png").write_bytes(b"no image")
    with refused(r"one\.png cannot be decoded"):
        made(found)


def test_images_are_found_in_the_first_folder_that_holds_them_all(tmp_path):
    for folder in ("some", "all", "more"):
        (tmp_path / folder / "in").mkdir(parents=True)
        for name in ("a b.png", "in/two.png") if folder != "some" else ("a b.png",):
            Image.new("RGB", (30, 20)).save(tmp_path / folder / name)
    found = Annotations(Path("set.json"), [tmp_path / name for name in ("gone", "some", "all", "more")], "box", ["a"])
    found.add_image("a b.png", (20, 30))
    found.add_box(found.add_image("in\\two.png", (20, 30)), 1, (1, 1, 5, 5), "a")
    whole = made(found)
    assert [whole.load_image.path(k) for k in range(2)] == [tmp_path / "all/a b.png", tmp_path / "all/in/two.png"]
    found.add_image("three.png", (20, 30))
    with refused(r"1 of the 3 images listed in set\.json .* first .*all/three\.png"):
        made(found)
