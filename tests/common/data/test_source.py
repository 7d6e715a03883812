"""`--data`: every form reaches its reader, splits agree, and what is not understood is said."""

import dataclasses
import json
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from common.cli import DATA_KINDS, data_parts, short_name
from common.data import coco, scenes, source
from common.data.detection_set import describe
from common.data.source import load
from tests.common.data import forms
from tests.common.data.forms import refused

SPLITS = ("train", "val", "test")


def test_scenes_take_their_settings_from_the_spec(monkeypatch):
    calls, draw = [], source.scenes

    def record(split, count, size, seed, chosen):
        assert chosen is None
        calls.append((split, count, size, seed))
        return draw(split, 2, 40, seed)

    monkeypatch.setattr(source, "scenes", record)
    for spec, split in (
        ("scenes", "train"),
        ("scenes:", "val"),
        ("scenes:seed=4", "test"),
        ("scenes:train=5,size=40,val=3", "train"),
        ("scenes:train=5,size=40,val=3", "val"),
    ):
        found = load(spec, split, seed=7)
        assert (found.split, found.sizes.tolist()) == (split, [[40, 40]] * 2)
    assert calls == [
        ("train", 2500, 96, 0),
        ("val", 1000, 96, 0),
        ("test", 1000, 96, 4),
        ("train", 5, 40, 0),
        ("val", 3, 40, 0),
    ]


def test_the_seed_chooses_the_subset_and_not_the_scenes():
    spec = "scenes:train=12,size=40"
    assert load(spec, "train", seed=1).fingerprint() == load(spec, "train").fingerprint()
    assert load(f"{spec},seed=1", "train").fingerprint() != load(spec, "train").fingerprint()
    draws = [tuple(load(spec, "train", limit=4, seed=seed).image_ids) for seed in (0, 0, 1, 2, 3)]
    assert {len(draw) for draw in draws} == {4}
    assert draws[0] == draws[1]
    assert len(set(draws)) > 1


def test_a_draw_of_scenes_is_that_of_the_whole_set_and_lays_out_no_others(monkeypatch):
    spec, laid_out, layout = "scenes:train=40,size=40,seed=3", [], scenes.layout
    expected = load(spec, "train").limited(6, seed=2)
    monkeypatch.setattr(scenes, "layout", lambda random: laid_out.append(random) or layout(random))
    found = load(spec, "train", limit=6, seed=2)
    assert len(laid_out) == 6
    for one, other in ((found, expected), (found.subset([1, 4]), expected.subset([1, 4]))):
        for each in dataclasses.fields(one):
            if isinstance(value := getattr(one, each.name), np.ndarray):
                assert value.dtype == getattr(other, each.name).dtype
                assert np.array_equal(value, getattr(other, each.name)), each.name
        assert one.fingerprint() == other.fingerprint()
        assert all(np.array_equal(one.load_image(place), other.load_image(place)) for place in range(len(one)))
    assert load(spec, "train", limit=40).fingerprint() == load(spec, "train").fingerprint()


@pytest.mark.parametrize("spec", ["", "coco", "coco:", "yolo:", "auto:,repair", "kitti:/tmp", "scene", "Scenes"])
def test_an_unknown_spec_is_answered_with_the_forms(spec):
    for call in (lambda: load(spec, "train"), lambda: short_name(spec)):
        with refused(r"unknown data .* give scenes\[.* yolo:DIR or bdd:DIR .DIR,repair"):
            call()
    with refused("unknown data '/tmp'; give auto:/tmp for that folder"):
        load("/tmp", "train")


@pytest.mark.parametrize("settings", ["train", "train=", "train=-1", "train=0", "size=9.5", "tests=5", "train=٣", "=3"])
def test_wrong_settings_of_scenes(settings):
    with refused("is not understood"):
        load(f"scenes:{settings}", "train")


def test_an_unknown_split_and_a_missing_folder(tmp_path):
    with refused("must be one of train, val, test, got 'dev'"):
        load("scenes", "dev")
    for gone in (f"{tmp_path}/gone", "~no such user/gone", "gone" * 100):
        with refused(r"no folder .*gone"):
            load(f"coco:{gone}", "train")
    with refused(r"holds no annotations \(coco: .*; voc: .*; yolo: .*; bdd: "):
        load(f"auto:{tmp_path}", "train")


def test_parts_of_a_spec_and_short_names(tmp_path, monkeypatch):
    assert set(DATA_KINDS) == {"scenes", "auto", *source.FORMS}
    assert data_parts("coco:DIR,repair") == ("coco", "DIR", True)
    assert data_parts("auto:a,b") == ("auto", "a,b", False)
    monkeypatch.chdir(tmp_path)
    assert short_name("scenes") == short_name("scenes:train=5") == "scenes"
    assert short_name("coco:/data/aquarium") == short_name("auto:/data/aquarium/,repair") == "aquarium"
    assert short_name("voc:/data/My Set_2") == "my-set-2"
    assert short_name("coco:.") == tmp_path.name.lower().replace("_", "-")
    assert short_name("bdd:/") == "bdd"
    assert short_name("coco:~nobody-of-that-name/cells") == "cells"


# ---- one set in every form


def write(root, form, splits=SPLITS):
    """Two images a split, each with one car of corners 4, 4, 20, 16."""
    for split in splits if form != "bdd" else [split for split in splits if split != "test"]:  # it has no labels there
        pictures = {f"{split}{k}.jpg": ((40, 20), [("car", (4, 4, 20, 16))]) for k in range(2)}
        forms.write(root, form, split, pictures, ["car"])
    return root


@pytest.mark.parametrize("form", forms.FORMS)
def test_the_form_of_a_folder_is_found_out_and_its_spelling_and_its_disk_change_nothing(tmp_path, monkeypatch, form):
    kind = "coco" if form == "roboflow" else form
    root = write(tmp_path / "set", form)
    shutil.copytree(root, tmp_path / "other disk", copy_function=shutil.copyfile)
    monkeypatch.chdir(tmp_path)
    spellings = [root, "./set/", f"../{tmp_path.name}/set", tmp_path / "other disk"]
    for split in SPLITS if form != "bdd" else SPLITS[:2]:
        found, *named = (load(spec, split) for spec in (f"auto:{root}", *(f"{kind}:{each}" for each in spellings)))
        assert {each.fingerprint() for each in named} == {found.fingerprint()}
        assert (len(found), found.boxes.tolist()) == (2, [[4, 4, 20, 16]] * 2)
        assert found.categories[found.labels[0]] == "car"
        assert describe(found).endswith(f"; read as {kind}")
        assert "read as" not in describe(named[0])
    if form == "bdd":
        with refused("has no test split"):
            load(f"auto:{root}", "test")


@pytest.mark.parametrize("form", ["roboflow", "voc", "yolo"])
def test_real_photographs_come_back_the_same_in_every_form(aquarium, tmp_path, form):
    coco = load(f"coco:{aquarium}", "val", limit=40)
    for split in ("train", "val"):
        pictures = {}
        for position in range(len(coco)):
            names = [coco.categories[label] for label in coco.labels[coco.boxes_of(position)]]
            objects = list(zip(names, coco.boxes[coco.boxes_of(position)].tolist(), strict=True))
            pictures[f"{split}{position:03d}.jpg"] = coco.load_image.path(position), objects
        forms.write(tmp_path, form, split, pictures, coco.categories)
    found = load(f"auto:{tmp_path}", "val")
    assert found.categories == coco.categories
    for field in ("sizes", "offsets", "labels"):
        assert np.array_equal(getattr(found, field), getattr(coco, field)), field
    np.testing.assert_allclose(found.boxes, coco.boxes, atol=1e-3)
    assert np.array_equal(found.load_image(3), coco.load_image(3))


@pytest.mark.parametrize(
    ("form", "place"),
    [
        ("coco", r"instances_train\.json"),
        ("voc", "VOC2007/"),
        ("yolo", r"data\.yaml"),
        ("bdd", r"det_20/det_train\.json"),
    ],
)
def test_a_missing_split_is_said(tmp_path, form, place):
    with refused(rf"holds no annotations \({form}: .*{place}"):
        load(f"{form}:{tmp_path}", "train")
    write(tmp_path, form, ["val"])
    with refused(rf"has no train split \(looked for .*{place}.*; found val\)"):
        load(f"{form}:{tmp_path}", "train")


@contextmanager
def edited(root, split):
    path = root / f"annotations/instances_{split}.json"
    contents = json.loads(path.read_text())
    yield contents
    path.write_text(json.dumps(contents))


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_changed_split_has_another_fingerprint_and_the_others_not(tmp_path, split):
    root = write(tmp_path, "coco")
    before = {name: load(f"coco:{root}", name).fingerprint() for name in SPLITS}
    with edited(root, split) as contents:
        contents["annotations"][0]["bbox"][2] += 1
    after = {name: load(f"coco:{root}", name).fingerprint() for name in SPLITS}
    assert [name for name in SPLITS if before[name] != after[name]] == [split]
    Image.new("RGB", (40, 20), (0, 0, 0)).save(root / f"images/{split}1.jpg", quality=20)
    assert load(f"coco:{root}", split).fingerprint() not in (before[split], after[split])


# ---- classes of all splits


def test_labels_follow_the_names_of_classes_over_all_splits(tmp_path, monkeypatch):
    root = write(tmp_path, "coco")
    named = {
        "train": {0: "cat", 5: "dog"},
        "val": {9: "bird", 0: "dog", 5: "cat"},  # other ids, and one class more
        "test": {1: "fox", 0: "cat"},
    }
    for split, names in named.items():
        with edited(root, split) as contents:
            contents["categories"] = [{"id": key, "name": name} for key, name in names.items()]
    parsed, parse = [], coco.read_unicode_json
    monkeypatch.setattr(coco, "read_unicode_json", lambda path: (parsed.append(path.stem), parse(path))[1])
    for split, names in named.items():
        found = load(f"coco:{root}", split)
        assert found.categories == ("cat", "dog", "bird", "fox")
        assert {found.categories[label] for label in found.labels} == {names[0]}
    assert parsed == [f"instances_{split}" for split in SPLITS]  # of the others, the classes alone


def test_a_parent_class_that_another_split_uses_is_a_class(tmp_path):
    root = write(tmp_path, "coco")
    for split, used in (("train", 0), ("val", 3), ("test", 3)):
        with edited(root, split) as contents:
            contents["categories"] = [{"id": 0, "name": "animal"}, {"id": 3, "name": "cat", "supercategory": "animal"}]
            for record, key in zip(contents["annotations"], (used, 3), strict=True):
                record["category_id"] = key
    sets = [load(f"coco:{root}", split) for split in SPLITS]
    assert [found.categories for found in sets] == [("animal", "cat")] * 3
    assert sets[1].notes == ()


# ---- sets without splits


def write_whole(root, names):
    forms.write(root, "roboflow", ".", {name: ((40, 20), [("car", (4, 4, 20, 16))]) for name in names}, ["car"])


def test_a_set_without_splits_is_split_the_same_way_each_time(tmp_path):
    names = [f"photo{k // 3}_jpg.rf.{k}.jpg" for k in range(60)]  # Roboflow's copies of 20 pictures
    write_whole(tmp_path / "a", names)
    write_whole(tmp_path / "b", names[::-1])
    parts = {}
    for folder in ("a", "b"):
        parts[folder] = [set(load(f"coco:{tmp_path / folder}", split).load_image.names) for split in ("train", "val")]
        assert [len(part) for part in parts[folder]] == [48, 12]
        assert parts[folder][0] | parts[folder][1] == set(names)
        copies = [{name.partition("_")[0] for name in part} for part in parts[folder]]
        assert not copies[0] & copies[1]
    assert parts["a"] == parts["b"]
    assert "no val split, so 20% of the pictures are held out" in describe(load(f"coco:{tmp_path / 'a'}", "val"))
    with refused("has no test split"):
        load(f"coco:{tmp_path / 'a'}", "test")
    write_whole(tmp_path / "one", ["a.jpg"])
    with refused(r"too few pictures \(1\) to make a train split"):
        load(f"coco:{tmp_path / 'one'}", "train")


def test_pictures_of_one_name_in_several_folders_are_no_copies(tmp_path):
    for k in range(10):
        (tmp_path / f"scene{k}").mkdir()
    write_whole(tmp_path, [f"scene{k}/rgb.jpg" for k in range(10)])
    assert [len(load(f"coco:{tmp_path}", split)) for split in ("train", "val")] == [8, 2]


def test_added_pictures_leave_nearly_all_others_on_their_side(tmp_path):
    sides = []
    for count in (100, 110):
        write_whole(tmp_path / str(count), [f"{k:03d}.jpg" for k in range(10, 10 + count)][::-1])
        sides.append(set(load(f"coco:{tmp_path / str(count)}", "val").load_image.names))
    assert [len(side) for side in sides] == [20, 22]
    assert len(sides[0] - sides[1]) <= 2


@pytest.mark.parametrize("form", forms.FORMS)
def test_a_val_split_is_taken_of_train_where_there_is_none(tmp_path, form):
    root = write(tmp_path, form, ["train"])
    assert [len(load(f"auto:{root}", split)) for split in ("train", "val")] == [1, 1]
