"""`python -m common.predict` on a folder of pictures as people have them."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from common import predict
from common.cli import run
from common.data.scenes import scenes
from common.drawing import Outline, outlined, sheet
from common.models.centernet import CenterNet
from common.models.detector import Detector, load_detector, save_detector
from common.models.resnet import ResNet
from common.predict import PredictCommand, main

CLASSES = ("bolt", "nut")


@pytest.fixture
def detector(tmp_path):
    torch.manual_seed(0)
    network = CenterNet(ResNet("resnet18", width=8), 2, (8, 8, 8), 8)
    for part in (network.heatmap, network.size, network.offset):
        torch.nn.init.normal_(part[-1].weight, std=1.0)
    torch.nn.init.zeros_(network.heatmap[-1].bias)
    torch.nn.init.constant_(network.size[-1].bias, 4.0)
    save_detector(tmp_path / "best", network.eval(), {"categories": CLASSES, "input_size": 64})
    return tmp_path / "best.safetensors"


@pytest.fixture
def photos(tmp_path):
    """An upright picture, one stored turned, one in a folder, a damaged one, a hidden one, and a text."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    (folder / "notes").mkdir()
    pixels = scenes("val", 1, size=80).load_image(0)[:60]  # 80 x 60
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(pixels).save(folder / "a.jpg")
    Image.fromarray(pixels).save(folder / "b.JPG", exif=turned)
    Image.fromarray(pixels).convert("L").save(folder / "more" / "a.png")
    (folder / "c.jpg").write_bytes((folder / "a.jpg").read_bytes()[:300])
    (folder / ".a.jpg").write_bytes(b"")
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_what_is_found_is_drawn_and_written(detector, photos, capsys):
    out = photos / "found"
    for _ in range(2):  # the second time its own drawings lie below the pictures
        run(main, PredictCommand, [str(detector), str(photos), "--out", str(out), "--score", "0.2"])
        printed = capsys.readouterr()
        assert printed.err.count("left out: image ") == 1
        assert "c.jpg cannot be decoded" in printed.err
    assert "left out: 3 that an earlier call of predict drew" in printed.err
    images = json.loads((out / "images.json").read_text())
    names = ["a.jpg", "b.JPG", "more/a.png"]
    assert [each["file_name"] for each in images["images"]] == names
    assert [(each["width"], each["height"]) for each in images["images"]] == [(80, 60), (60, 80), (80, 60)]
    assert [each["name"] for each in images["categories"]] == list(CLASSES)

    upright = [np.array(Image.open(photos / name).convert("RGB")) for name in names]
    upright[1] = np.rot90(upright[1], -1)
    expected = []
    for place, pixels in enumerate(upright):
        found = load_detector(detector).detect([np.ascontiguousarray(pixels)])
        parts = (found.boxes[0], found.scores[0], found.labels[0], found.valid[0])
        for box, score, label, valid in zip(*parts, strict=True):
            if valid and score >= 0.2:
                left, top, right, bottom = box.tolist()
                expected.append([place + 1, int(label) + 1, left, top, right - left, bottom - top, float(score)])
    records = json.loads((out / "detections.json").read_text())
    assert 10 < len(records) == len(expected)
    for record, (image, category, *box, score) in zip(records, expected, strict=True):
        assert (record["image_id"], record["category_id"]) == (image, category)
        assert (record["file_name"], record["category"]) == (names[image - 1], CLASSES[category - 1])
        np.testing.assert_allclose([*record["bbox"], record["score"]], [*box, score], atol=0.02)
    assert f"{len(records)} objects of score 0.2 or more in 3 pictures; 1 left out that cannot be read" in printed.out
    rows = list(csv.DictReader((out / "detections.csv").open()))
    assert [(row["file"], row["class"]) for row in rows] == [(each["file_name"], each["category"]) for each in records]
    assert float(rows[0]["right"]) == pytest.approx(records[0]["bbox"][0] + records[0]["bbox"][2], abs=0.1)

    drawn = {path.relative_to(out / "drawn").as_posix(): path for path in (out / "drawn").rglob("*.*")}
    assert sorted(drawn) == ["a.jpg", "b.JPG", "more/a.png.jpg"]
    for name, pixels in zip(sorted(drawn), upright, strict=True):
        with Image.open(drawn[name]) as picture:
            assert picture.size == (pixels.shape[1], pixels.shape[0])
            assert np.abs(np.array(picture, int) - pixels).max() > 60


def test_several_pictures_keep_the_names_that_tell_them_apart(detector, photos, capsys):
    out = photos.parent / "found"

    def found_in(*places):
        run(main, PredictCommand, [str(detector), *map(str, places), "--out", str(out), "--score", "1"])
        return [each["file_name"] for each in json.loads((out / "images.json").read_text())["images"]]

    assert found_in(photos / "a.jpg", photos / "b.JPG") == ["a.jpg", "b.JPG"]
    assert found_in(photos / "b.JPG", photos / "more") == ["b.JPG", "more/a.png"]
    assert found_in(photos / "a.jpg", photos / "more" / ".." / "a.jpg") == ["a.jpg"]
    assert (
        capsys.readouterr().out.count("0 objects of score 1 or more in 1 picture; a lower --score may show some\n") == 1
    )
    with pytest.raises(SystemExit):
        found_in()
    assert "no pictures are given" in capsys.readouterr().err


def test_every_picture_has_a_drawing_of_its_own(detector, tmp_path):
    photos, out = tmp_path / "photos", tmp_path / "found"
    photos.mkdir()
    names = ["a.png", "a.png.jpg", "a.png.jpg.JPG", "a.jpg", "a.jpeg", "a.webp", "b"]
    for number, name in enumerate(names):
        Image.new("RGB", (40 + number, 40)).save(photos / name, "PNG")
    places = [str(photos), str(photos / "b")]
    run(main, PredictCommand, [str(detector), *places, "--out", str(out), "--score", "1"])
    drawn = {path.name: Image.open(path).width - 40 for path in (out / "drawn").iterdir()}
    assert sorted(drawn.values()) == list(range(len(names)))
    assert all(drawn[name] == names.index(name) for name in names[1:5])
    assert (drawn["a.png.jpg.jpg"], drawn["b.jpg"]) == (0, 6)


def test_what_predict_drew_is_no_photograph_and_what_it_did_not_draw_stays(detector, photos, capsys):
    def found_in(place, out):
        run(main, PredictCommand, [str(detector), str(place), "--out", str(out), "--score", "1"])
        return [each["file_name"] for each in json.loads((out / "images.json").read_text())["images"]]

    found_in(photos, photos)
    for out in (photos, photos.parent / "found"):
        assert found_in(photos, out) == ["a.jpg", "b.JPG", "more/a.png"]
        assert "left out: 3 that an earlier call of predict drew" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        found_in(photos / "drawn", photos.parent / "other")
    assert "were drawn by predict; give the photographs themselves" in capsys.readouterr().err

    theirs = photos / "more" / "drawn" / "a.png.jpg"
    theirs.parent.mkdir()
    theirs.write_bytes(before := (photos / "a.jpg").read_bytes())
    with pytest.raises(SystemExit):
        found_in(photos / "more", photos / "more")
    assert f"{theirs} is there and was not drawn by predict" in capsys.readouterr().err
    assert theirs.read_bytes() == before
    assert found_in(photos / "more", photos.parent / "other") == ["a.png", "drawn/a.png.jpg"]


def test_what_was_found_before_an_interruption_is_written(detector, photos, capsys, monkeypatch):
    asked, detect = [], Detector.detect

    def interrupted(self, pictures, *batch):
        asked.append(pictures)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return detect(self, pictures, *batch)

    monkeypatch.setattr(predict, "_BATCH", 1)
    monkeypatch.setattr(Detector, "detect", interrupted)
    out = photos.parent / "found"
    with pytest.raises(SystemExit) as ended:
        run(main, PredictCommand, [str(detector), str(photos), "--out", str(out), "--score", "0.2"])
    assert ended.value.code == 130
    records = json.loads((out / "detections.json").read_text())
    assert {each["file_name"] for each in records} == {"a.jpg"}
    assert capsys.readouterr().out.startswith(f"interrupted with 3 pictures left: {len(records)} objects of score 0.2 ")


def test_what_is_not_of_this_call_is_said(detector, photos, capsys):
    (photos / "more" / "b.HEIC").write_bytes(b"")
    out = photos.parent / "found"
    for place in ("a.jpg", "more"):
        run(main, PredictCommand, [str(detector), str(photos / place), "--out", str(out)])
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == f"{out / 'drawn'} also holds 1 of an earlier call"
    assert printed.err.count("left out: 1 of kinds that are not read (heic); convert them to JPEG") == 1


@pytest.mark.parametrize(
    ("images", "flags", "says"),
    [
        ("photos/more", ["--score", "30"], "--score must be from 0 to 1, got 30"),
        ("photos/none", [], "no file or folder "),
        ("photos/notes", [], "holds no image (bmp, gif"),
        ("photos/c.jpg", [], "none of the pictures can be read"),
        ("photos/more", ["--device", "tpu"], "device 'tpu' cannot be used here"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(detector, photos, tmp_path, images, flags, says, capsys):
    with pytest.raises(SystemExit) as ended:
        run(main, PredictCommand, [str(detector), str(tmp_path / images), "--out", str(tmp_path / "found"), *flags])
    assert ended.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert says in last
    assert not (tmp_path / "found").exists()


def test_boxes_are_drawn_where_they_are():
    black = np.zeros((40, 60, 3), np.uint8)
    drawn = np.array(
        outlined(black, [Outline((10, 5, 30, 25), "", "#ff0000"), Outline((10, 5, 50, 35), "", "#0000ff")])
    )
    expected = black.copy()
    for (left, top, right, bottom), colour in (((10, 5, 50, 35), (0, 0, 255)), ((10, 5, 30, 25), (255, 0, 0))):
        expected[[top, bottom], left : right + 1] = colour
        expected[top : bottom + 1, [left, right]] = colour
    assert np.array_equal(drawn, expected)
    assert np.array_equal(black, np.zeros_like(black))
    named = np.array(outlined(black, [Outline((10, 20, 30, 35), "nut", "#ff0000")]))
    assert (named[..., 1:] > 200).any(), "white letters"


def test_letters_beyond_ascii_are_drawn():
    black = np.zeros((40, 90, 3), np.uint8)
    drawn = [np.array(outlined(black, [Outline((0, 20, 80, 35), name, "#ff0000")])) for name in ("öööö", "ßßßß")]
    assert not np.array_equal(*drawn), "no boxes in place of letters"


def test_a_sheet_holds_every_picture():
    pictures = [(Image.new("RGB", size, colour), "") for size, colour in (((20, 10), "red"), ((10, 30), "lime"))] * 2
    whole = np.array(sheet(pictures, columns=3, side=100))
    for colour, area in (((255, 0, 0), 100 * 50), ((0, 255, 0), 33 * 100)):
        assert (whole == colour).all(axis=2).sum() == 2 * area
