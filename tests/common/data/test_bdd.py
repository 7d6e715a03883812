"""The BDD100K reader: label files of both years, ignored regions, and every kind of bad input."""

import copy
import json

import pytest
from PIL import Image

from common.data.bdd import BDD_CATEGORIES, LABEL_FILES
from common.data.source import load
from tests.common.data.forms import refused


def label(category, corners, **more):
    return {"category": category, "box2d": dict(zip(("x1", "y1", "x2", "y2"), corners, strict=True)), **more}


SIZE = {"width": 64, "height": 36}
FRAMES = [
    {
        "name": "b.jpg",
        "size": SIZE,
        "labels": [
            label("motor", (1.5, 2, 10.25, 12)),
            {"category": "lane", "poly2d": [{"vertices": [[0, 0], [1, 1]]}]},
            label("traffic sign", (0, 0, 63.4, 35), attributes={"occluded": True}),
            label("other vehicle", (3, 3, 9, 9)),
            label("pedestrian", (3, 3, 3, 9), attributes={"crowd": True}),
        ],
    },
    {"name": "c.jpg", "size": SIZE, "labels": None},
    {"name": "a.jpg", "labels": [label("person", (1200, 700, 1279, 719)), label("trailer", (4, 4, 8, 8))]},
    {"name": "d.jpg", "size": SIZE},
]


def write(root, contents, splits=("train", "val"), pattern=LABEL_FILES[0]):
    for split in splits:
        folder = root / "images" / "100k" / split
        folder.mkdir(parents=True)
        for name in "abcd":
            Image.new("RGB", (1280, 720) if name == "a" else (64, 36)).save(folder / f"{name}.jpg")
        path = root / pattern.format(split)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(contents if isinstance(contents, str) else json.dumps(contents))
    return root


def read(root, split="train"):
    return load(f"bdd:{root}", split)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("pattern", LABEL_FILES)
@pytest.mark.parametrize("split", ["train", "val"])
def test_every_label_file_gives_the_same_set(tmp_path, pattern, split, wrapped):
    found = read(write(tmp_path, {"frames": FRAMES} if wrapped else FRAMES, pattern=pattern), split)
    assert found.categories == BDD_CATEGORIES
    assert len(BDD_CATEGORIES) == 10
    assert found.image_ids.tolist() == [1, 2, 3, 4]  # frames without labels are kept
    assert found.offsets.tolist() == [0, 4, 4, 6, 6]
    assert found.sizes.tolist() == [[36, 64], [36, 64], [720, 1280], [36, 64]]
    names = [found.categories[k] for k in found.labels]
    assert names == ["motorcycle", "traffic sign", "car", "pedestrian", "pedestrian", "truck"]
    assert found.crowd.tolist() == [False, False, True, True, False, True]
    # the far corner of the file is the last pixel inside
    assert found.boxes[:2].tolist() == [[1.5, 2, 11.25, 13], [0, 0, 64, 36]]
    assert found.boxes[3].tolist() == [3, 3, 4, 10]
    assert found.area[:2].tolist() == [9.75 * 11, 64 * 36]
    assert found.load_image(2).shape == (720, 1280, 3)


def first(**changes):
    return lambda frames: frames[0]["labels"][0].update(changes)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (first(category="tram"), r"record 0 of the labels of frame 'b\.jpg' .* has 'tram' as category"),
        (first(category=None), "has no category"),
        (first(box2d={"x1": "a", "y1": 1, "x2": 2, "y2": 3}), "must be an object with x1, .* as finite numbers"),
        (first(box2d=[1, 2, 3, 4]), "must be an object with x1"),
        (first(box2d={"x1": 1, "y1": 1, "x2": 70, "y2": 3}), r"1 box over the edge .* 'motor' of 'b\.jpg'"),
        (first(attributes={"crowd": "perhaps"}), "has 'perhaps' as crowd"),
        (lambda f: f[0]["labels"].append(3), "is 3, which must be an object"),
        (lambda f: f[0].update(labels=3), r"labels of frame 'b\.jpg' .* must be a list"),
        (lambda f: f[1].update(size=[1, 2]), "as size, which must be an object with height"),
        (lambda f: f.insert(0, 1), r"record 0 .*det_train\.json is 1, which must be an object"),
    ],
)
def test_bad_input_is_one_clear_sentence(tmp_path, change, sentence):
    frames = copy.deepcopy(FRAMES)
    change(frames)
    with refused(sentence):
        read(write(tmp_path, frames))


def test_wrong_json(tmp_path):
    with refused("the frames of .* must be a list of objects, got None"):
        read(write(tmp_path, "{}"))
