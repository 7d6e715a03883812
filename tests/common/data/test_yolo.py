"""The YOLO reader: every layout, a round trip from COCO, and every kind of bad input."""

import errno
import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data.source import load
from tests.common.data.forms import refused

NAMES = "names: [cat, 'no', 3]\n"


def write_image(root, name, lines=None, size=(40, 20)):
    """An image under images/, and its lines under labels/."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)
    if lines is not None:
        parts = name.rpartition("images/")
        label = (root / f"{parts[0]}labels/{parts[2]}").with_suffix(".txt")
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(lines)


def write(root, settings=NAMES, lines="0 .5 .5 .25 .5\n", train="images/train", val="images/val"):
    for folder, count in ((train, 3), (val, 2)):
        for k in range(count):
            write_image(root, f"{folder}/{k} a.jpg", lines if k == 0 else "2 .5 .5 1 1" if k == 1 else None)
    (root / "data.yaml").write_text(settings)
    return root


def read(root, split="train"):
    return load(f"yolo:{root}", split)


def test_a_line_is_a_box_and_an_image_without_lines_is_empty(tmp_path):
    lines = "\n0 .5 .5 .25 .5\n1 0.1 0.2 0.3 0.2 0.3 0.6 0.1 0.5\n2.0 .0125 .5 .075 .1\n"  # the last sticks out
    found = read(write(tmp_path, lines=lines))
    assert found.categories == ("cat", "no", "3")
    assert found.labels.tolist() == [0, 1, 2, 2]
    assert found.offsets.tolist() == [0, 3, 4, 4]
    assert found.sizes.tolist() == [[20, 40]] * 3
    expected = [[15, 5, 25, 15], [4, 4, 12, 12], [0, 9, 2, 11], [0, 0, 40, 20]]
    np.testing.assert_allclose(found.boxes, expected, atol=1e-5)
    assert found.load_image(0).shape == (20, 40, 3)


def test_the_key_points_of_poses_are_no_outlines(tmp_path):
    pose = "0 .5 .5 .25 .5 " + "0 0 0 .9 .9 2 " * 2
    settings = f"{NAMES}kpt_shape: [4, 3]\n"
    write(tmp_path, settings, pose)
    for path in tmp_path.rglob("1 a.txt"):
        path.write_text("2 .5 .5 1 1" + " 0" * 12)
    found = read(tmp_path)
    np.testing.assert_allclose(found.boxes, [[15, 5, 25, 15], [0, 0, 40, 20]], atol=1e-5)
    (tmp_path / "labels/train/0 a.txt").write_text("0 .5 .5 .25 .5")
    with refused("has 5 numbers, which must be 5 and, by kpt_shape, 12 of key points"):
        read(tmp_path)


def test_pictures_in_linked_folders_are_found(tmp_path):
    write(tmp_path / "set")
    (tmp_path / "set/images/train").rename(tmp_path / "elsewhere")
    (tmp_path / "set/images/train").mkdir()
    (tmp_path / "set/images/train/day").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "set/images/train")  # in circles
    (tmp_path / "set/labels/train").rename(tmp_path / "set/labels/day")
    (tmp_path / "set/labels/train").mkdir()
    (tmp_path / "set/labels/day").rename(tmp_path / "set/labels/train/day")
    found = read(tmp_path / "set")
    assert (len(found), len(found.boxes)) == (3, 2)


@pytest.mark.parametrize(
    ("owner", "looks", "what"), [(os, "scandir", "images/train"), (Path, "stat", "labels/train/0 a.txt")]
)
def test_what_may_not_be_read_is_not_taken_for_empty(owner, looks, what, tmp_path, monkeypatch):
    closed, look = write(tmp_path) / what, getattr(owner, looks)

    def denied(path, *rest, **more):
        if Path(path) == closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return look(path, *rest, **more)

    monkeypatch.setattr(owner, looks, denied)
    with refused(f"{closed} cannot be .* check its permissions"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("settings", "train", "val"),
    [
        ("names: {0: a, 1: b, 2: c}", "images/train", "images/val"),
        ("names: [a, b, c]", "images/training", "images/validation"),
        ("path: ../set\ntrain: images/one\nval: [images/two]\nnames: [a, b, c]", "images/one", "images/two"),
        ("train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnames: [a, b, c]", "train/images",
         "valid/images"),
        ("train: /home/me/set/one/images\nval: C:\\\\set\\\\two\\\\images\nnames: [a, b, c]", "one/images",
         "two/images"),
    ],
)  # fmt: skip
def test_splits_are_found_as_data_yaml_says_or_where_they_usually_are(tmp_path, settings, train, val):
    write(tmp_path, settings, train=train, val=val)
    assert [len(read(tmp_path, split)) for split in ("train", "val")] == [3, 2]
    assert read(tmp_path).categories == ("a", "b", "c")
    with refused("has no test split"):
        read(tmp_path, "test")


def test_lists_of_images(tmp_path):
    write(tmp_path, f"train: train.txt\nval: val.txt\n{NAMES}")
    lines = "./images/train/0 a.jpg\r\n\r\nimages/train/1 a.jpg\r\n.\\images\\train\\2 a.jpg\r\n"
    (tmp_path / "train.txt").write_text(lines, encoding="utf-8-sig")
    (tmp_path / "labels/train/2 a.txt").write_text("1 .5 .5 .25 .5")
    (tmp_path / "val.txt").write_text("images/val/0 a.jpg\n")
    found = read(tmp_path)
    assert found.load_image.names == tuple(f"images/train/{k} a.jpg" for k in range(3))
    assert found.labels.tolist() == [0, 2, 1]
    for line, sentence in {
        "../x.jpg": "does not stay inside",
        "images/gone.jpg": "1 of the 1 images .* missing",
        "x" * 300: "1 of the 1 images .* missing",
        ".": "1 of the 1 images .* missing",
    }.items():
        (tmp_path / "val.txt").write_text(line)
        with refused(sentence):
            read(tmp_path, "val")


@pytest.mark.parametrize("place", ["train.txt", "lists/train.txt"])
@pytest.mark.parametrize(
    "line",
    [
        "{root}/images/train/{k} a.jpg",
        "{link}/images/train/{k} a.jpg",
        "/elsewhere/set/images/train/{k} a.jpg",
        "D:\\set\\images\\train\\{k} a.jpg",
        "data/images/train/{k} a.jpg",
        "{up}images/train/{k} a.jpg",
        "../{name}/images/train/{k} a.jpg",
    ],
)
def test_lines_of_lists_are_absolute_or_relative_to_the_list(tmp_path, monkeypatch, place, line):
    root, link = tmp_path / "set", tmp_path / "link"
    link.symlink_to(root)
    write(root, f"train: {place}\nval: images/val\n{NAMES}")
    (root / place).parent.mkdir(exist_ok=True)
    parts = {"root": root, "link": link, "name": root.name, "up": "../" if place.startswith("lists") else "./"}
    (root / place).write_text("".join(line.format(k=k, **parts) + "\n" for k in range(3)))
    monkeypatch.chdir(tmp_path)
    for folder in (root, link, "set") if "{link}" not in line else (link,):
        found = read(folder)
        assert found.load_image.names == tuple(f"images/train/{k} a.jpg" for k in range(3))
        assert len(found.boxes) == 2


@pytest.mark.parametrize("path", ["inner", "./inner/", "{root}/inner", "../set/inner"])
@pytest.mark.parametrize("train", ["images/train", "train", "train.txt", "{root}/inner/images/train", ""])
def test_paths_are_relative_to_path(tmp_path, path, train):
    root = tmp_path / "set"
    write(root / "inner")
    (root / "inner/data.yaml").unlink()
    (root / "inner/train.txt").write_text("".join(f"./images/train/{k} a.jpg\n" for k in range(3)))
    settings = f"path: {path}\ntrain: {train}\nval: images/val\n{NAMES}"
    (root / "data.yaml").write_text(settings.format(root=root))
    assert [(len(found), len(found.boxes)) for found in (read(root), read(root, "val"))] == [(3, 2), (2, 2)]
    assert read(root).load_image.names[0] == "inner/images/train/0 a.jpg"


def test_cvats_export(tmp_path):
    for split, count in (("train", 6), ("valid", 3)):
        for k in range(count):
            write_image(tmp_path, f"obj_{split}_data/{k}.jpg")
            (tmp_path / f"obj_{split}_data/{k}.txt").write_text("1 .5 .5 .25 .5")
        lines = "".join(f"data/obj_{split}_data/{k}.jpg\n" for k in range(count))
        (tmp_path / f"{split}.txt").write_text(lines)
    (tmp_path / "obj.names").write_text("cat\ndog\n")
    said = "classes = 2\ntrain = data/train.txt\nvalid = data/valid.txt\nnames = data/obj.names\nbackup = backup/\n"
    (tmp_path / "obj.data").write_text(said)
    train, val = (load(f"auto:{tmp_path}", split) for split in ("train", "val"))
    assert (len(train), len(val), train.categories) == (6, 3, ("cat", "dog"))
    assert train.boxes.tolist() == [[15, 5, 25, 15]] * 6
    for name in ("obj.data", "train.txt", "valid.txt"):
        (tmp_path / name).unlink()
    assert [len(read(tmp_path, split)) for split in ("train", "val")] == [6, 3]


def test_classes_txt_among_the_labels(tmp_path):
    for k in range(10):
        write_image(tmp_path, f"images/{k}.jpg", "1 .5 .5 .25 .5")
    (tmp_path / "labels/classes.txt").write_text("a\nb\n")
    assert [len(load(f"auto:{tmp_path}", split)) for split in ("train", "val")] == [8, 2]


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("forms", [("NFC", "NFD", "NFD"), ("NFD", "NFC", "NFC"), ("NFC", "NFD", "NFC")])
def test_names_in_either_form_of_unicode(tmp_path, forms, listed):
    picture, label, line = (unicodedata.normalize(form, "Bäume/Fuß à côté") for form in forms)
    write(tmp_path, f"train: {'train.txt' if listed else 'images/train'}\nval: images/val\n{NAMES}")
    write_image(tmp_path, f"images/train/{picture}.jpg")
    (tmp_path / f"labels/train/{label}.txt").parent.mkdir()
    (tmp_path / f"labels/train/{label}.txt").write_text("1 .5 .5 .25 .5")
    (tmp_path / "train.txt").write_text(f"images/train/{line}.jpg\n")
    found = read(tmp_path)
    assert found.load_image.names[-1] == f"images/train/{picture}.jpg"
    assert found.boxes[-1].tolist() == [15, 5, 25, 15]


@pytest.mark.parametrize("settings", ["data.yaml", "classes.txt"])
def test_a_set_without_splits_is_split(tmp_path, settings):
    for k in range(20):
        write_image(tmp_path, f"images/{k}.jpg", "0 .5 .5 .25 .5")
    (tmp_path / settings).write_text("a\nb\n" if settings == "classes.txt" else "train: images\nnames: [a, b]\n")
    parts = [read(tmp_path, split) for split in ("train", "val")]
    assert [len(part) for part in parts] == [16, 4]
    assert parts[0].categories == ("a", "b")
    assert "no val split, so 20% of the pictures are held out" in parts[1].notes


def test_a_yaml_file_of_another_name_will_do_where_it_alone_names_classes(tmp_path):
    write(tmp_path, f"path: ../datasets/cats\ntrain: images/train\nval: images/val\ntest:\n{NAMES}")
    (tmp_path / "data.yaml").rename(tmp_path / "cats.yaml")
    (tmp_path / "compose.yml").write_text("services: {}\n")
    assert [len(load(f"auto:{tmp_path}", split)) for split in ("train", "val")] == [3, 2]
    shutil.copy(tmp_path / "cats.yaml", tmp_path / "dogs.yaml")
    with refused("holds no annotations"):
        read(tmp_path)


def test_images_beside_their_text_files(tmp_path):
    for k in range(10):
        Image.new("RGB", (40, 20)).save(tmp_path / f"{k}.JPG")
        (tmp_path / f"{k}.txt").write_text("1 .5 .5 .25 .5")
    (tmp_path / "classes.txt").write_text("a\nb\n")
    assert [len(load(f"auto:{tmp_path}", split)) for split in ("train", "val")] == [8, 2]
    assert read(tmp_path).boxes.tolist() == [[15, 5, 25, 15]] * 8
    for path in tmp_path.glob("*.JPG"):
        path.unlink()
    with refused("holds no annotations"):
        read(tmp_path)


@pytest.mark.parametrize("place", ["images/{}", "{}/images"])
def test_folders_beside_classes_txt_are_splits(tmp_path, place):
    for split, count in (("train", 4), ("val", 2), ("test", 1)):
        for k in range(count):
            write_image(tmp_path, f"{place.format(split)}/{k}.jpg", "1 .5 .5 .25 .5")
    (tmp_path / "classes.txt").write_text("a\nb\n")
    assert [len(read(tmp_path, split)) for split in ("train", "val", "test")] == [4, 2, 1]
    assert len(load(f"auto:{tmp_path}", "train")) == 4
    shutil.rmtree(tmp_path / place.format("val"))
    assert [len(read(tmp_path, split)) for split in ("train", "val", "test")] == [3, 1, 1]


@pytest.mark.parametrize("val", ["../valid/images", "val/images", "val.txt", "/content/set/valid/images", ""])
def test_a_val_split_that_is_named_and_left_no_trace_is_taken_of_train(tmp_path, val):
    write(tmp_path, f"train: ../train/images\nval: {val}\ntest: ../test/images\n{NAMES}", "0 .5 .5 .25 .5",
          "train/images", "test/images")  # fmt: skip
    (tmp_path / "README.dataset.txt").touch()
    assert [len(read(tmp_path, split)) for split in ("train", "val", "test")] == [2, 1, 2]


def test_hidden_files_and_folders_are_no_pictures(tmp_path):
    write(tmp_path)
    for name in ("._0 a.jpg", ".ipynb_checkpoints/0 a.jpg"):
        (tmp_path / "images/train" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "images/train" / name).write_bytes(b"no image")
    assert read(tmp_path).load_image.names == tuple(f"images/train/{k} a.jpg" for k in range(3))


def test_a_val_folder_that_is_named_and_missing_is_refused_at_once(tmp_path):
    for absent in ("images/evaluation", "images/evla", "../eval_2/images", "images/more"):
        val = f"[images/eval, {absent}]" if absent == "images/more" else absent
        write(tmp_path, f"train: images/train\nval: {val}\n{NAMES}", val="images/eval")
        (tmp_path / "eval").mkdir(exist_ok=True)
        with refused(rf"data\.yaml has \['{absent}'\] as val, which is not in"):
            read(tmp_path)


@pytest.mark.parametrize(
    ("settings", "lines", "sentence"),
    [
        (NAMES, "3 .5 .5 .2 .2", r"line 1 of .*labels/train/0 a\.txt has the class 3, which must be 0\.\.2"),
        (NAMES, "-1 .5 .5 .2 .2", "has the class -1"),
        (NAMES, "cat .5 .5 .2 .2", "has 'cat' as class, which must be a whole number"),
        (NAMES, "\n\n0 .5 .5 .2", "line 3 .* has 4 numbers, which must be 5"),
        (NAMES, "0 .5 .5 .2 nan", "has 'nan' as number, which must be a share of the image"),
        (NAMES, "0 120 200 50 60", "has '120' as number, which must be a share of the image"),
        (NAMES, "0 .9 .5 .4 .2", r"1 box over the edge of its image, .* add ,repair"),
        ("names: [a, a]", "", "names the class 'a' twice"),
        ("names: a", "", "has 'a' as names"),
        ("names: {1: a}", "", "as names; give a list"),
        ("names: [a, [b]]", "", "as names; give a list"),
        ("names: &a [*a]", "", "is not valid YAML"),
        ("names: [a", "", "is not valid YAML"),
        ("", "", "must hold the settings"),
    ],
)
def test_bad_input_is_one_clear_sentence(tmp_path, settings, lines, sentence):
    with refused(sentence):
        read(write(tmp_path, settings, lines))


def test_an_image_that_cannot_be_opened_is_named(tmp_path):
    write(tmp_path)
    (tmp_path / "images/train/1 a.jpg").write_bytes(b"no image")
    with refused(r"1 a\.jpg cannot be decoded"):
        read(tmp_path)
