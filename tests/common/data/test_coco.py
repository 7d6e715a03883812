"""The COCO reader: every layout, pycocotools as the oracle, habits of exporters, and every kind of bad input."""

import copy
import json
import unicodedata
from itertools import product

import numpy as np
import pytest
from pycocotools.coco import COCO

from common.data.source import find, load
from tests.common.data import forms
from tests.common.data.forms import refused, write_coco

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
NO_EMPTY_IMAGE = copy.deepcopy(CONTENTS)
NO_EMPTY_IMAGE["annotations"].append({"id": 4, "image_id": 9, "category_id": 8, "bbox": [1, 1, 5, 5]})

LAYOUTS = {
    "own": ("annotations/instances_{}.json", "images"),
    "own, images by split": ("annotations/instances_{}.json", "images/{}"),
    "own, beside": ("annotations/instances_{}.json", "{}"),
    "official": ("annotations/instances_{}2017.json", "{}2017"),
    "Roboflow": ("{}/_annotations.coco.json", "{}"),
}
ALIASES = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test",)}


def write(root, contents, layout="own", names=("train", "val")):
    return write_coco(root, contents, CONTENTS["images"], names, *LAYOUTS[layout])


def read(root, split="train"):
    return load(f"coco:{root}", split)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_every_layout_gives_the_same_set(tmp_path, layout, split):
    for alias in ALIASES[split]:
        folder = tmp_path / alias / "pets"
        folder.mkdir(parents=True)
        found = read(write(folder, CONTENTS, layout, dict.fromkeys(("train", "val", alias))), split)
        assert (found.name, found.split) == ("pets", split)
        assert found.categories == ("dog", "cat")  # in the order of their ids
        assert found.image_ids.tolist() == [3, 1, 2]  # in the order of theirs
        assert found.sizes.tolist() == [[30, 40], [25, 20], [16, 16]]
        assert found.offsets.tolist() == [0, 1, 3, 3]
        assert found.boxes.tolist() == [[0, 0, 40, 30], [1.5, 2, 11.5, 14], [0, 0, 4, 5]]
        assert found.labels.tolist() == [1, 0, 1]
        assert found.crowd.tolist() == [False, True, False]
        assert found.area.tolist() == [900, 77.5, 20]  # width x height where none is annotated
        assert found.load_image(1).shape == (25, 20, 3)


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        *product(("_annotations.coco.json", "annotations.json", "result.json"), ("images", ".")),
        *product(["annotations/instances_default.json"], ("images", ".", "images/default")),
    ],
)
def test_a_file_without_splits(tmp_path, name, folder):
    write(tmp_path, NO_EMPTY_IMAGE, "own, images by split", ["train"])
    (tmp_path / "images/train").rename(tmp_path / "found")
    for path in (tmp_path / "found").iterdir():
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        path.rename(tmp_path / folder / path.name)
    (tmp_path / "annotations/instances_train.json").rename(tmp_path / name)
    train, val = read(tmp_path), read(tmp_path, "val")
    assert (len(train), len(val)) == (2, 1)
    assert sorted([*train.image_ids, *val.image_ids]) == [1, 2, 3]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_val_split_is_found_by_any_name_and_else_taken_of_train(tmp_path, layout):
    named = {("Train", "Validation", "Test"): [3, 3, 3], ("train", "test"): [2, 1, 3]}  # the first as CVAT writes them
    for names, expected in named.items():
        root = write(tmp_path / names[0], NO_EMPTY_IMAGE, layout, names)
        assert [len(read(root, split)) for split in ("train", "val", "test")] == expected


@pytest.mark.parametrize(
    ("annotations", "folder"),
    [
        ("annotations/{}.json", "images"),
        ("annotations/{}_set.json", "images/{}"),
        ("annotations/coco-{}2024.json", "{}/images"),
        ("{}.json", "data"),
        ("{}/labels.json", "{}/data"),
        ("{}/annotations.json", "{}"),
    ],
)
def test_files_of_other_names(tmp_path, annotations, folder):
    for splits in (("train", "val", "test"), ("Train", "Validation", "Test")):
        root = write_coco(tmp_path / splits[0], CONTENTS, CONTENTS["images"], splits, annotations, folder)
        (root / "via_project.json").write_text('{"images": 3}')
        sets = [load(f"auto:{root}", split) for split in ("train", "val", "test")]
        assert [len(found) for found in sets] == [3, 3, 3]
        assert len({found.load_image.path(0) for found in sets}) == (3 if "{}" in folder else 1)


@pytest.mark.parametrize("folder", ["images", "data", "."])
@pytest.mark.parametrize("name", ["labels.json", "cats.json", "annotations/cats.json"])
def test_the_only_file_without_a_split_is_of_a_set_without_splits(tmp_path, name, folder):
    root = write_coco(tmp_path, NO_EMPTY_IMAGE, CONTENTS["images"], ["."], name, folder)
    assert [len(load(f"auto:{root}", split)) for split in ("train", "val")] == [2, 1]
    (root / "dogs.json").write_text(json.dumps(CONTENTS))
    with refused("holds no annotations"):
        read(root)


def test_a_folder_of_another_form_stays_of_that_form(tmp_path):
    """A COCO file, XML files and obj.names may lie in a set that is read already."""
    forms.write(
        tmp_path, "yolo", "train", {f"{k}.jpg": ((40, 20), [("car", (4, 4, 20, 16))]) for k in range(5)}, ["car"]
    )
    write_coco(tmp_path, CONTENTS, CONTENTS["images"], ["train"], "annotations/{}.json")
    (tmp_path / "images/train/0.xml").write_text("<annotation/>")
    (tmp_path / "obj.names").write_text("dog")
    assert find(f"auto:{tmp_path}")[0] == "yolo"
    (tmp_path / "data.yaml").unlink()
    assert find(f"auto:{tmp_path}")[0] == "coco"


@pytest.mark.parametrize("spelled", [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_in_either_form_of_unicode(tmp_path, spelled):
    said, on_disk = (unicodedata.normalize(form, "Bäume/Spaß à Köln.png") for form in spelled)
    contents = copy.deepcopy(CONTENTS)
    contents["images"][0]["file_name"] = on_disk
    root = write_coco(tmp_path, "", contents["images"])
    contents["images"][0]["file_name"] = said
    for name in ("train", "val"):
        (root / f"annotations/instances_{name}.json").write_text(json.dumps(contents))
    found = read(root)
    assert found.load_image.names[0] == on_disk
    assert found.load_image(0).shape == (30, 40, 3)


def test_the_two_flaws_of_train2017_are_dropped_there_and_refused_elsewhere(tmp_path):
    contents = copy.deepcopy(CONTENTS)
    contents["annotations"].append({"id": 918, "image_id": 11, "category_id": 8, "bbox": [5, 5, 1.03, 0], "area": 0})
    assert len(read(write(tmp_path / "a", contents, "official")).boxes) == 3
    for layout, identity in (("own", 918), ("official", 917)):
        contents["annotations"][-1]["id"] = identity
        with refused(f"1 box without area in its image, first annotation {identity}"):
            read(write(tmp_path / layout, contents, layout))


# ---- what exporters write


def test_ids_of_any_kind(tmp_path):
    """Time stamps beyond 2^53, negative numbers, texts, and whole numbers as floats are all ids."""
    for ids in ((1533151603512404124, 1533151603512404123, 2**70), (-1, -5, 0), ("b", "a", "c"), (11.0, 7.0, 9.0)):
        new = dict(zip((11, 7, 9), ids, strict=True))
        contents = copy.deepcopy(CONTENTS)
        for record in contents["images"]:
            record["id"] = new[record["id"]]
        for record in contents["annotations"]:
            record |= {"image_id": new[record["image_id"]], "category_id": f"class {record['category_id']}"}
        for record in contents["categories"]:
            record["id"] = f"class {record['id']}"
        found = read(write(tmp_path, contents))
        assert found.image_ids.tolist() == [1 + sorted(ids).index(one) for one in ids]
        assert found.offsets.tolist() == [0, 1, 3, 3]
        assert [found.categories[label] for label in found.labels] == ["cat", "dog", "cat"]


@pytest.mark.parametrize("name", ["images\\{}", "images/{}", "{}"])
def test_other_spellings_of_the_same_set(tmp_path, name):
    """Numbers as texts and floats, flags as words, unknown sizes, names that repeat the folder."""
    contents = copy.deepcopy(CONTENTS)
    for record, size in zip(contents["images"], ((40.0, "30"), (-1, -1), (0, None)), strict=True):
        record |= dict(zip(("width", "height"), size, strict=True)) | {"file_name": name.format(record["file_name"])}
    for record, crowd in zip(contents["annotations"], ("true", "0", 0.0), strict=True):
        record |= {"iscrowd": crowd, "category_id": float(record["category_id"]), "segmentation": None}
    found, plain = read(write(tmp_path, contents)), read(write(tmp_path, CONTENTS))
    for field in ("sizes", "image_ids", "offsets", "boxes", "labels", "crowd", "area"):
        assert np.array_equal(getattr(found, field), getattr(plain, field))
    assert found.load_image(1).shape == (25, 20, 3)


@pytest.mark.parametrize("parent", ["cat", "animals"])
def test_the_empty_parent_of_all_classes_is_left_out(tmp_path, parent):
    contents = copy.deepcopy(CONTENTS)
    for record in contents["categories"]:
        record["supercategory"] = parent
    contents["categories"].insert(0, {"id": 0, "name": parent, "supercategory": "none"})
    contents["categories"].append({"id": 9, "name": "fox", "supercategory": "fox"})  # its own parent alone
    found = read(write(tmp_path, contents))
    assert found.categories == ("dog", "cat", "fox")
    assert found.labels.tolist() == [1, 0, 1]
    assert found.notes == (f"the empty parent class {parent!r} left out",)
    without = {name: records for name, records in contents.items() if name != "annotations"}  # as published test splits
    (tmp_path / "annotations/instances_test.json").write_text(json.dumps(without))
    assert read(tmp_path).categories == ("dog", "cat", "fox")
    contents["annotations"][1]["category_id"] = 0  # a parent with boxes is a class
    if parent == "cat":
        with refused("two categories of the name 'cat'"):
            read(write(tmp_path, contents))
    else:
        assert read(write(tmp_path, contents)).categories == ("animals", "dog", "cat", "fox")


def annotation(**changes):
    return lambda contents: contents["annotations"][1].update(changes)


def image(**changes):
    return lambda contents: contents["images"][1].update(changes)


def category(**changes):
    return lambda contents: contents["categories"][1].update(changes)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda c: c.pop("images"), "'images' in .* must be a list of objects"),
        (lambda c: c.pop("annotations"), "'annotations' in .* must be a list of objects"),
        (lambda c: c.update(categories={"a": 1}), "'categories' in .* must be a list of objects"),
        (lambda c: c.update(annotations=[1]), "record 0 of 'annotations' .* is 1, which must be an object"),
        (annotation(category_id=5), "record 1 .id 2. of 'annotations' .* has 5 as category_id, which no category has"),
        (annotation(image_id=4), "record 1 .id 2. .* has 4 as image_id, which no image has"),
        (annotation(image_id=7.5), "has 7.5 as image_id, which must be a whole number"),
        (annotation(id=3), "of 'annotations' .* has the id 3, as another has"),
        (annotation(id=None), "of 'annotations' .* has no id"),
        (annotation(bbox=[10, 5, 31.5, 10]), r"1 box over the edge .* first annotation 2 of 'first\.jpg'"),
        (annotation(bbox=[10, 5, float("nan"), 10]), "has .10, 5, nan, 10. as bbox, which must be .* finite numbers"),
        (annotation(bbox=[10, 5, 3]), "has .10, 5, 3. as bbox, which must be"),
        (annotation(area=float("nan")), "has nan as area, which must be a finite number"),
        (annotation(iscrowd="perhaps"), "has 'perhaps' as iscrowd, which must be 0 or 1"),
        (image(id=11), "record 1 .id 11. of 'images' .* has the id 11, as another has"),
        (image(id=[7]), "has .7. as id, which must be a whole number or a text"),
        (image(width=2**70), "as width, which must be a whole number of pixels"),
        (image(file_name=3), "has 3 as file_name, which must be a text"),
        (image(file_name="deep/gone.png"), r"1 of the 3 images .* missing, first .*deep/gone\.png"),
        (category(id=8), "of 'categories' .* has the id 8, as another has"),
        (category(name="cat"), "two categories of the name 'cat'"),
        ("{", r"instances_train\.json is not valid JSON"),
        ("3", r"instances_train\.json must hold an object"),
    ],
)
def test_bad_input_is_one_clear_sentence(tmp_path, change, sentence):
    contents = copy.deepcopy(CONTENTS)
    if isinstance(change, str):
        contents = change
    else:
        change(contents)
    with refused(sentence):
        read(write(tmp_path, contents))


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("fixture", ["aquarium", "bccd"])
def test_real_data_equal_pycocotools(request, fixture, split):
    folder = request.getfixturevalue(fixture)
    found = read(folder, split)
    oracle = COCO(folder / "annotations" / f"instances_{split}.json")
    by_rank = sorted(oracle.getImgIds())
    assert len(found) == len(by_rank)
    for position, rank in enumerate(found.image_ids.tolist()):
        image_id = by_rank[rank - 1]
        records = oracle.imgToAnns[image_id]
        rows = found.boxes_of(position)
        corners = np.array([record["bbox"] for record in records], np.float64).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        assert np.abs(found.boxes[rows] - corners).max(initial=0) <= 1.0
        assert found.area[rows].tolist() == [record["area"] for record in records]
        names = [oracle.cats[record["category_id"]]["name"] for record in records]
        assert [found.categories[label] for label in found.labels[rows]] == names
    for position in range(0, len(found), 50):
        assert found.load_image(position).shape == (*found.sizes[position], 3)
