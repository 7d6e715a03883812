"""A set with small pictures has the same objects in the same places of the same pictures."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.cli import run
from common.data import pack as command
from common.data.pack import pack
from common.data.source import load, pictures_of
from common.plain import InputError
from tests.common.data import forms
from tests.common.data.forms import refused, write_coco

CONTENTS = {
    "images": [
        {"id": 70, "file_name": "wide.png", "width": 64, "height": 32},
        {"id": 11, "file_name": "deep/high.png", "width": 31, "height": 61},
        {"id": 9, "file_name": "small.png", "width": 16, "height": 8},
    ],
    "annotations": [
        {"id": 5, "image_id": 70, "category_id": 2, "bbox": [8, 4, 16, 12], "area": 100.0, "iscrowd": 0},
        {"id": 6, "image_id": 11, "category_id": 8, "bbox": [3, 6, 20, 40], "area": 700.0, "iscrowd": 1},
        {"id": 7, "image_id": 11, "category_id": 2, "bbox": [0, 0, 31, 61], "area": 1891.0, "iscrowd": 0},
    ],
    "categories": [{"id": 2, "name": "dog"}, {"id": 8, "name": "cat"}],
}


@pytest.fixture
def pets(tmp_path):
    return write_coco(tmp_path / "pets", CONTENTS, CONTENTS["images"])


def test_boxes_areas_and_pictures_shrink_alike(pets, tmp_path):
    before = load(f"coco:{pets}", "train")
    written = pack(f"coco:{pets}", tmp_path / "out", 32)
    after = load(f"coco:{tmp_path / 'out'}", "train")
    assert [*written] == ["train", "val"]
    assert (written["train"]["images"], written["train"]["boxes"]) == (3, 3)
    assert after.categories == before.categories
    assert after.sizes.tolist() == [[16, 32], [32, 16], [8, 16]]  # 31x61 becomes 16.26x32; nothing becomes larger
    assert np.diff(after.offsets).tolist() == [1, 2, 0]
    assert (after.labels.tolist(), after.crowd.tolist()) == (before.labels.tolist(), before.crowd.tolist())
    x, y = 16 / 31, 32 / 61
    expected = [[4, 2, 12, 8], [3 * x, 6 * y, 23 * x, 46 * y], [0, 0, 16, 32]]
    assert np.abs(after.boxes - expected).max() < 1e-4
    assert after.area == pytest.approx([25.0, 700 * x * y, 512.0])
    for index in range(3):
        picture = after.load_image(index).astype(int)
        whole = Image.fromarray(before.load_image(index)).resize(picture.shape[1::-1], Image.Resampling.BILINEAR)
        assert np.abs(picture - np.asarray(whole).astype(int)).max() <= 12  # what JPEG leaves out
    sizes = [path.stat().st_size for path in (tmp_path / "out/images/train").rglob("*.jpg")]
    assert (len(sizes), sum(sizes)) == (3, written["train"]["bytes"])


def test_what_is_packed_already_stays_as_it_is(pets, tmp_path):
    pack(f"coco:{pets}", tmp_path / "once", 32)
    pack(f"auto:{tmp_path / 'once'}", tmp_path / "twice", 40)
    once, twice = (load(f"coco:{tmp_path / name}", "val") for name in ("once", "twice"))
    assert np.array_equal(once.sizes, twice.sizes)
    assert np.abs(once.boxes - twice.boxes).max() < 1e-4


def test_a_command_says_what_it_wrote(pets, tmp_path, capsys):
    run(command.main, command.Options, [f"coco:{pets}", "--out", str(tmp_path / "out"), "--side", "32"])
    assert capsys.readouterr().out.splitlines()[1].startswith("val: 3 images, 3 boxes, 0.0 MiB")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"data": "scenes"}, "scenes are drawn by the program itself"),
        ({"side": 0}, "--side must be at least 1"),
        ({"quality": 101}, "--quality 1 to 100, got 32 and 101"),
        ({"out": "."}, "holds something: give another folder"),
        ({"data": "coco:nowhere"}, "no folder nowhere"),
    ],
)
def test_what_cannot_be_packed_is_refused(pets, tmp_path, change, says):
    asked = {"data": f"coco:{pets}", "out": "out", "side": 32} | change
    with refused(says):
        pack(**asked | {"out": tmp_path / asked["out"]})
    assert not (tmp_path / "out").exists()


def test_pictures_keep_their_names_so_that_copies_of_one_stay_together(tmp_path):
    """Roboflow names copies NAME.rf.HASH; two pictures of one name in different formats are two pictures."""
    names = [f"{k // 3}_jpg.rf.{k}.{('jpg', 'png', 'PNG')[k % 3]}" for k in range(9)]
    names += ["a.png", "a.jpg", "A.jpeg", "deep/b.v2.bmp", "x_jpg.rf.1.png", "x_jpg.rf.1.jpg"]
    pictures = {name: ((40, 20), [("car", (4, 4, 20, 16))]) for name in names}
    (tmp_path / "set/train/deep").mkdir(parents=True)
    forms.write(tmp_path / "set", "roboflow", "train", pictures, ["car"])
    forms.write(tmp_path / "set", "roboflow", "val", {"v.jpg": ((40, 20), [("car", (4, 4, 20, 16))])}, ["car"])
    pack(f"coco:{tmp_path / 'set'}", tmp_path / "out", 16)
    before, after = (load(f"coco:{tmp_path / name}", "train") for name in ("set", "out"))
    packed = [name.removeprefix("train/") for name in after.load_image.names]
    assert packed[:9] == [f"{k // 3}_jpg.rf.{k}.jpg" for k in range(9)]
    assert packed[9:] == ["a.jpg", "a.2.jpg", "A.3.jpg", "deep/b.v2.jpg", "x_jpg.rf.1.jpg", "x_jpg.rf.1.2.jpg"]
    groups = [pictures_of(dataset) for dataset in (before, after)]
    same = [[[one == other for other in group] for one in group] for group in groups]
    assert same[0] == same[1]


def test_the_folders_that_all_pictures_share_are_left_out(tmp_path):
    for split in ("train", "val"):
        forms.write(tmp_path / "set", "voc", split, {f"{split}.jpg": ((40, 20), [("car", (4, 4, 20, 16))])}, ["car"])
    pack(f"voc:{tmp_path / 'set'}", tmp_path / "out", 16)
    assert load(f"coco:{tmp_path / 'out'}", "train").load_image.names == ("train/train.jpg",)


@pytest.mark.parametrize("made", [False, True])
@pytest.mark.parametrize("stop", [InputError("bad"), KeyboardInterrupt()])
def test_what_fails_leaves_nothing_and_can_be_tried_again(pets, tmp_path, monkeypatch, made, stop):
    out = tmp_path / "out"
    if made:
        out.mkdir()
    write = command._write

    def fail_at_val(dataset, *rest):
        if dataset.split == "val":
            raise stop
        return write(dataset, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(command, "_write", fail_at_val)
        with pytest.raises(type(stop)):
            pack(f"coco:{pets}", out, 32)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "pets"][0 if made else 1 :]
    assert not made or not [*out.iterdir()]
    (pets / "images/small.png").write_bytes((pets / "images/small.png").read_bytes()[:-40])
    with refused(r"small\.png cannot be decoded"):
        pack(f"coco:{pets}", out, 32)
    write_coco(pets, CONTENTS, CONTENTS["images"])
    monkeypatch.chdir(tmp_path)
    pack(f"coco:{pets}", Path("out"), 32)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "pets"]
    assert sorted(path.name for path in out.iterdir()) == ["annotations", "images"]


def test_the_folder_may_be_that_in_which_the_command_is_given_and_no_file(pets, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    pack(f"coco:{pets}", Path("."), 32)
    assert sorted(path.name for path in Path().iterdir()) == ["annotations", "images"]
    with refused("holds something"):
        pack(f"coco:{pets}", pets / "images/wide.png", 32)
