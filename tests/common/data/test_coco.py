"""The COCO reader: both layouts, pycocotools as the oracle on real data, and every kind of bad input."""

import copy
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from common.data.coco import read_coco
from common.plain import InputError

CONTENTS = {
    "images": [
        {"id": 11, "file_name": "first.jpg", "width": 40, "height": 30},
        {"id": 7, "file_name": "deep/second.png", "width": 20, "height": 25},
        {"id": 9, "file_name": "empty.jpg", "width": 16, "height": 16},
    ],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 2, "bbox": [1.5, 2, 10, 12], "area": 77.5, "iscrowd": 1},
        {"id": 2, "image_id": 11, "category_id": 8, "bbox": [-0.5, 0, 40.75, 30.5], "area": 900, "iscrowd": 0},
        {"id": 3, "image_id": 7, "category_id": 8, "bbox": [0, 0, 4, 5]},
    ],
    "categories": [{"id": 8, "name": "cat"}, {"id": 2, "name": "dog"}],
}


def write(root, contents, layout="own", split="train"):
    """Write the annotations, and the images that CONTENTS names."""
    year = "" if layout == "own" else "2017"
    folder = root / ("images" if layout == "own" else f"{split}2017")
    for image in CONTENTS["images"]:
        path = folder / image["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (image["width"], image["height"]), (10, 200, 30)).save(path)
    (root / "annotations").mkdir(exist_ok=True)
    text = contents if isinstance(contents, str) else json.dumps(contents)
    (root / "annotations" / f"instances_{split}{year}.json").write_text(text)
    return root


@pytest.mark.parametrize("layout", ["own", "official"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_both_layouts_give_the_same_set(tmp_path, layout, split):
    folder = tmp_path / "pets"
    folder.mkdir()
    found = read_coco(write(folder, CONTENTS, layout, split), split)
    assert (found.name, found.split) == ("pets", split)
    assert found.categories == ("dog", "cat")  # in the order of their ids
    assert found.category_ids.tolist() == [2, 8]
    assert found.image_ids.tolist() == [11, 7, 9]
    assert found.sizes.tolist() == [[30, 40], [25, 20], [16, 16]]
    assert found.offsets.tolist() == [0, 1, 3, 3]
    assert found.boxes.tolist() == [[0, 0, 40, 30], [1.5, 2, 11.5, 14], [0, 0, 4, 5]]
    assert found.labels.tolist() == [1, 0, 1]
    assert found.crowd.tolist() == [False, True, False]
    assert found.area.tolist() == [900, 77.5, 20]  # width x height where none is annotated
    assert found.load_image(1).shape == (25, 20, 3)


def test_the_two_flaws_of_train2017_are_dropped_there_and_refused_elsewhere(tmp_path):
    contents = copy.deepcopy(CONTENTS)
    contents["annotations"].append({"id": 918, "image_id": 11, "category_id": 8, "bbox": [5, 5, 1.03, 0], "area": 0})
    found = read_coco(write(tmp_path, contents, "official"), "train")
    assert len(found.boxes) == 3
    with pytest.raises(InputError, match=r"annotation 918 .* without area"):
        read_coco(write(tmp_path, contents, "own"), "train")


def test_a_complaint_after_a_dropped_annotation_names_the_right_one(tmp_path):
    contents = copy.deepcopy(CONTENTS)
    contents["annotations"].insert(0, {"id": 918, "image_id": 11, "category_id": 8, "bbox": [5, 5, 1.03, 0], "area": 0})
    contents["annotations"].append({"id": 50, "image_id": 11, "category_id": 8, "bbox": [5, 5, 0, 3], "area": 0})
    with pytest.raises(InputError, match="annotation 50 of image 11"):
        read_coco(write(tmp_path, contents, "official"), "train")


def annotation(**changes):
    return lambda contents: contents["annotations"][1].update(changes)


def image(**changes):
    return lambda contents: contents["images"][1].update(changes)


def removal(table, key):
    return lambda contents: contents[table][1].pop(key)


BAD = {
    "images missing": (lambda c: c.pop("images"), "has no 'images'"),
    "annotations missing": (lambda c: c.pop("annotations"), "has no 'annotations'"),
    "categories missing": (lambda c: c.pop("categories"), "has no 'categories'"),
    "images no list": (lambda c: c.update(images={"a": 1}), "'images' in .* is not a list of objects"),
    "annotations of numbers": (lambda c: c.update(annotations=[1]), "'annotations' in .* is not a list of objects"),
    "no images": (lambda c: c.update(images=[], annotations=[]), "holds no image"),
    "no annotations": (lambda c: c.update(annotations=[]), "holds no box"),
    "no categories": (lambda c: c.update(categories=[]), "annotation 1 .* unknown category id 2"),
    "annotations without images": (lambda c: c.update(images=[]), "annotation 1 .* belongs to no image"),
    "unknown category": (annotation(category_id=5), "annotation 2 of image 11 .* unknown category id 5"),
    "category past the last": (annotation(category_id=99), "unknown category id 99"),
    "unknown image": (annotation(image_id=4), "annotation 2 of image 4 .* belongs to no image"),
    "duplicate image": (image(id=11), "duplicate image ids .* 11 occurs"),
    "duplicate annotation": (annotation(id=3), "duplicate annotation ids .* 3 occurs"),
    "duplicate category": (lambda c: c["categories"][1].update(id=8), "duplicate category ids .* 8 occurs"),
    "duplicate category name": (lambda c: c["categories"][1].update(name="cat"), "duplicate category names"),
    "outside right": (annotation(bbox=[10, 5, 31.5, 10]), "annotation 2 of image 11 .* is a box outside its image"),
    "outside left": (annotation(bbox=[-3, 5, 10, 10]), "outside its image"),
    "no width": (annotation(bbox=[10, 5, 0, 10]), "annotation 2 .* is a box without area"),
    "negative height": (annotation(bbox=[10, 15, 4, -3]), "without area"),
    "not a number": (annotation(bbox=[10, 5, float("nan"), 10]), "not a finite number"),
    "infinite": (annotation(bbox=[10, 5, float("inf"), 10]), "not a finite number"),
    "three numbers": (annotation(bbox=[10, 5, 3]), "'bbox' .* the one with id 2 it is .10, 5, 3."),
    "box of strings": (annotation(bbox=["1", "2", "3", "4"]), "must be a list of four numbers"),
    "box missing": (removal("annotations", "bbox"), "'bbox' .* the one with id 2 it is missing"),
    "bad area": (annotation(area=float("nan")), "has the area nan"),
    "negative area": (annotation(area=-4), "has the area -4"),
    "area of letters": (annotation(area="big"), "'area' .* must be a number"),
    "id missing": (removal("annotations", "id"), "'id' .* number 1 it is missing"),
    "id of letters": (image(id="seven"), "'id' of 'images' .* must be a whole number"),
    "fractional id": (annotation(image_id=7.5), "'image_id' .* must be a whole number"),
    "huge id": (image(id=2**70), "does not fit in 64 bits"),
    "size missing": (removal("images", "width"), "'width' .* the one with id 7 it is missing"),
    "no size": (lambda c: c["images"][2].update(width=0), "image 9 .* is 0x16 pixels"),
    "name missing": (removal("categories", "name"), "'name' of 'categories' .* it is missing"),
    "climbing file": (image(file_name="../annotations/x.jpg"), r"file_name '\.\./annotations.* does not stay inside"),
    "absolute file": (image(file_name="/etc/hostname"), "file_name '/etc/hostname' .* does not stay inside"),
    "missing file": (image(file_name="deep/gone.png"), r"1 of the 3 images .* missing, first .*deep/gone\.png"),
    "missing folder": (image(file_name="nowhere/second.png"), "1 of the 3 images .* missing"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_sentence(tmp_path, name):
    change, sentence = BAD[name]
    contents = copy.deepcopy(CONTENTS)
    change(contents)
    with pytest.raises(InputError, match=sentence) as caught:
        read_coco(write(tmp_path, contents), "train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("contents", "sentence"),
    [("{", "not valid JSON"), ("", "not valid JSON"), ("[]", "not a COCO object"), ("3", "not a COCO object")],
)
def test_wrong_json(tmp_path, contents, sentence):
    with pytest.raises(InputError, match=rf"instances_train\.json is {sentence}"):
        read_coco(write(tmp_path, contents), "train")


def test_a_missing_file_and_an_unknown_split(tmp_path):
    with pytest.raises(
        InputError, match=r"no COCO annotations at .*instances_val\.json nor at .*instances_val2017\.json"
    ):
        read_coco(write(tmp_path, CONTENTS), "val")
    with pytest.raises(InputError, match="not 'test'"):
        read_coco(tmp_path, "test")


def test_a_truncated_image_is_named_when_it_is_decoded(tmp_path):
    write(tmp_path, CONTENTS)
    path = tmp_path / "images" / "first.jpg"
    path.write_bytes(path.read_bytes()[:-40])
    found = read_coco(tmp_path, "train")
    with pytest.raises(InputError, match=r"first\.jpg cannot be decoded"):
        found.load_image(0)
    assert found.load_image(2).shape == (16, 16, 3)


AQUARIUM = {
    "train": (510, {"fish": 2148, "jellyfish": 538, "penguin": 417, "shark": 275, "puffin": 226, "stingray": 145,
                    "starfish": 93}),
    "val": (128, {"fish": 520, "jellyfish": 156, "penguin": 99, "shark": 77, "puffin": 58, "stingray": 39,
                  "starfish": 23}),
}  # fmt: skip
BCCD = {
    "train": (292, {"RBC": 3348, "WBC": 301, "Platelets": 292}),
    "val": (72, {"RBC": 805, "WBC": 71, "Platelets": 69}),
}


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize(("fixture", "expected"), [("aquarium", AQUARIUM), ("bccd", BCCD)])
def test_real_data_against_published_counts_and_pycocotools(request, capsys, fixture, expected, split):
    folder = request.getfixturevalue(fixture)
    found = read_coco(folder, split)
    images, counts = expected[split]
    assert len(found) == images
    assert {name: int((found.labels == label).sum()) for label, name in enumerate(found.categories)} == counts

    oracle = COCO(folder / "annotations" / f"instances_{split}.json")
    for position, image_id in enumerate(found.image_ids.tolist()):
        records = oracle.imgToAnns[image_id]
        rows = found.boxes_of(position)
        corners = np.array([record["bbox"] for record in records], np.float64).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        assert np.abs(found.boxes[rows] - corners).max(initial=0) <= 1.0
        assert found.area[rows].tolist() == [record["area"] for record in records]
        assert found.category_ids[found.labels[rows]].tolist() == [record["category_id"] for record in records]
    for position in range(0, images, 50):
        assert found.load_image(position).shape == (*found.sizes[position], 3)
