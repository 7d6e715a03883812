"""Any bytes in any file of a set give a sound set or one sentence: never another error.

Hypothesis draws edits of sound files. A few hundred in the fast tests, 112,000 in the slow ones.
"""

import copy
import io
import json
import math
import re
from contextlib import contextmanager
from functools import partial
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from common.data.annotations import Faults
from common.data.source import SCENES_DEFAULTS, find, load, read_split
from common.evaluate.files import read_detections, read_ground_truth
from common.plain import InputError

FAST, SLOW = 25, 7000  # edits of each target

COCO = {
    "images": [
        {"id": 1, "file_name": "a.png", "width": 40, "height": 20},
        {"id": 2, "file_name": "b.jpg", "width": 0, "height": 0},
    ],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 10, 8], "area": 80, "iscrowd": 0},
        {"id": 2, "image_id": 2, "category_id": 2, "bbox": [1.5, 2, 10, 8.25], "iscrowd": 1},
    ],
    "categories": [{"id": 1, "name": "cat", "supercategory": "animal"}, {"id": 2, "name": "dog"}],
}
DETECTIONS = [
    {"image_id": 1, "category_id": 1, "bbox": [1, 2, 10, 8], "score": 0.9},
    {"image_id": 2, "category_id": 2, "bbox": [1, 2, 9, 8], "score": 1},
]
FRAME = {"name": "a.png", "size": {"width": 40, "height": 20}, "labels": [
    {"category": "car", "attributes": {"crowd": False}, "box2d": {"x1": 1, "y1": 2, "x2": 10, "y2": 9}},
]}  # fmt: skip
XML = """<?xml version="1.0" encoding="utf-8"?><annotation><size><width>40</width><height>20</height></size>
<object><name>cat</name><difficult>0</difficult><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>8</ymax></bndbox>
</object></annotation>"""
YAML = "path: .\ntrain: images/train\nval: [images/val]\nnc: 2\nnames:\n  0: cat\n  1: dog\n"

JSON_VALUES = [
    None, True, False, 0, -1, 1, 2, 0.5, 1e308, -1e308, math.nan, math.inf, 2**31, 2**63, 2**70, 10**400, "DIGITS",
    "", "0", "1", " ", "true", "perhaps", "1e999", "\ud800", "\0", "../x", "/etc/hostname", "a.png", "images/a.png",
    "\\", "é" * 200, "x" * 5000, "a/" * 3000, "cat", "a\nb", [], {}, [[]], [None], {"id": 1}, [1, 2, 3, 4],
    [1e308] * 4, [0, 0, -5, 5],
]  # fmt: skip
TOKENS = [
    b"", b"nan", b"inf", b"-1", b"0", b"1", b"0.5", b"1e308", b"9" * 4500, b"\xff", b"\xff\xfe", b"\xef\xbb\xbf",
    b"\0", b"<", b">", b"&b;", b"<!DOCTYPE a>", b"*a", b"&a", b"[", b"]", b"{", b"}", b"[" * 3000, b"!!python/object:x",
    b"perhaps", b"..", b"/", b"../x", b"x" * 300, b"\xed\xa0\x80", b"\n", b"\t", b"\r", b" ", b":", b"- ", b"utf-16",
    b"true", b"'", b'"', b"\x0b", b"\xc2\x85",
]  # fmt: skip

places = st.integers(0, 10**6)


def several(values):
    """One to four values, each with its place."""
    return st.lists(st.tuples(places, values), min_size=1, max_size=4)


EDITS = st.one_of(
    st.tuples(st.just("token"), several(st.sampled_from(TOKENS))),
    st.tuples(st.just("bytes"), several(st.binary(max_size=4))),
    st.tuples(st.just("cut"), places),
    st.tuples(st.just("all"), st.binary(max_size=60)),
)
JSON_EDITS = EDITS | st.tuples(st.just("value"), several(st.sampled_from(JSON_VALUES)))


def edited(contents: bytes, edit) -> bytes:
    """The file after an edit."""
    kind, what = edit
    if kind == "cut":
        return contents[: what % (len(contents) + 1)]
    if kind == "all":
        return what
    if kind == "bytes":
        for place, new in what:
            place %= len(contents) + 1
            contents = contents[:place] + new + contents[place + len(new) :]
        return contents
    if kind == "token":
        tokens = re.findall(rb"[\w.]+|[^\w.]", contents)
        for place, new in what:
            tokens[place % len(tokens)] = new
        return b"".join(tokens)
    value = [json.loads(contents)]
    for place, new in what:
        spots = list(nodes(value))
        container, key = spots[place % len(spots)]
        container[key] = copy.deepcopy(new)
    return json.dumps(value[0]).replace('"DIGITS"', "9" * 4400).encode()


def nodes(value):
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield value, key
        if isinstance(inner, (dict, list)):
            yield from nodes(inner)


@contextmanager
def or_one_sentence():
    sentence = ""
    try:
        yield
    except InputError as error:
        sentence = str(error)
    assert "\n" not in sentence


def sound(dataset) -> None:
    """Nothing in a set that training or scoring could not use."""
    N, M = len(dataset), len(dataset.boxes)
    assert N >= 1
    assert M >= 1
    assert dataset.offsets[0] == 0
    assert dataset.offsets[-1] == M
    assert (np.diff(dataset.offsets) >= 0).all()
    assert (dataset.sizes >= 1).all()
    assert len(set(dataset.image_ids.tolist())) == N
    assert len(set(dataset.categories)) == len(dataset.categories)
    assert ((dataset.labels >= 0) & (dataset.labels < len(dataset.categories))).all()
    assert np.isfinite(dataset.area).all()
    limits = np.repeat(dataset.sizes[:, [1, 0]], np.diff(dataset.offsets), axis=0)
    assert ((dataset.boxes[:, :2] >= 0) & (dataset.boxes[:, 2:] <= limits)).all()
    assert (dataset.boxes[:, 2:] > dataset.boxes[:, :2]).all()
    assert len(dataset.fingerprint()) == 12
    for index in range(N):
        with or_one_sentence():
            assert dataset.load_image(index).shape == (*dataset.sizes[index], 3)


def read(root, split="train", modes=({}, {"repair": True}, {"collect": True})) -> None:
    """As training reads a set, with repairs, and as the check does."""
    for faults in (Faults(**mode) for mode in modes):
        with or_one_sentence():
            sound(read_split(*find(f"auto:{root}"), split, faults))


def score(root) -> None:
    with or_one_sentence():
        truth, file = read_ground_truth(root / "gt.json")
        numbers = truth.evaluate_rows(read_detections(root / "dt.json", file))
        assert all(-1 <= value <= 1 + 1e-9 for value in numbers.values())


def picture(suffix: str) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (20, 40, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 3
    kind = {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper())
    Image.fromarray(pixels).save(buffer, format=kind, **({"exif": exif} if suffix in ("jpg", "png", "webp") else {}))
    return buffer.getvalue()


PNG, JPEG = picture("png"), picture("jpg")
PICTURES = {f"images/{name}": PNG if name == "a.png" else JPEG for name in ("a.png", "b.jpg")}
JSON = json.dumps(COCO).encode()
COCO_FILES = {**PICTURES, "annotations/instances_train.json": JSON, "annotations/instances_val.json": JSON}
BDD_FILES = {f"images/100k/{split}/a.png": PNG for split in ("train", "val")}
BDD_FILES |= {f"det_20/det_{split}.json": json.dumps([FRAME]).encode() for split in ("train", "val")}
VOC_FILES = {"JPEGImages/a.jpg": JPEG, "Annotations/a.xml": XML.encode()}
VOC_FILES |= {f"ImageSets/Main/{name}.txt": b"a\n" for name in ("train", "val")}
YOLO_FILES = {f"images/{split}/a.png": PNG for split in ("train", "val")} | {"data.yaml": YAML.encode()}
YOLO_FILES |= {f"labels/{split}/a.txt": b"0 .5 .5 .25 .5\n1 .1 .2 .3 .2 .3 .6\n" for split in ("train", "val")}
SCORE_FILES = {"gt.json": JSON, "dt.json": json.dumps(DETECTIONS).encode()}
LIST_FILES = YOLO_FILES | {"data.yaml": YAML.replace("images/train", "train.txt").encode()}
LIST_FILES["train.txt"] = b"./images/train/a.png\n"
look = partial(read, modes=({}, {"collect": True}))  # pictures have nothing to repair
TARGETS = {
    "COCO train": (COCO_FILES, "annotations/instances_train.json", read),
    "COCO val": (COCO_FILES, "annotations/instances_val.json", partial(read, split="val")),
    "BDD": (BDD_FILES, "det_20/det_train.json", read),
    "VOC file": (VOC_FILES, "Annotations/a.xml", read),
    "VOC list": (VOC_FILES, "ImageSets/Main/train.txt", read),
    "YOLO settings": (YOLO_FILES, "data.yaml", read),
    "YOLO lines": (YOLO_FILES, "labels/train/a.txt", read),
    "YOLO list": (LIST_FILES, "train.txt", read),
    "ground truth": (SCORE_FILES, "gt.json", score),
    "detections": (SCORE_FILES, "dt.json", score),
} | {
    f"picture.{suffix}": ({**COCO_FILES, "images/b.jpg": picture(suffix)}, "images/b.jpg", look)
    for suffix in ("jpg", "png", "tif", "webp", "gif", "bmp")
}


@pytest.mark.parametrize("examples", [FAST, pytest.param(SLOW, marks=pytest.mark.slow)])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.filterwarnings("ignore")
def test_any_bytes_give_a_set_or_a_sentence(tmp_path, target, examples):
    files, fuzzed, use = TARGETS[target]
    for name, contents in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(contents)
    use(tmp_path)

    @settings(
        max_examples=examples, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(JSON_EDITS if fuzzed.endswith(".json") else EDITS)
    def try_one(edit):
        (tmp_path / fuzzed).write_bytes(edited(files[fuzzed], edit))
        use(tmp_path)

    try_one()


@pytest.mark.parametrize("target", ["COCO train", "YOLO settings", "ground truth"])
def test_half_a_character_names_no_class(tmp_path, target):
    """It was found after the training, by what could not print it."""
    files, fuzzed, _ = TARGETS[target]
    for name, contents in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(contents)
    word = b"cat" if target == "YOLO settings" else b'"cat"'
    assert word in files[fuzzed]
    (tmp_path / fuzzed).write_bytes(files[fuzzed].replace(word, b'"\\ud800"'))
    with pytest.raises(InputError, match=r"has .*\\ud800.* as names?[,;]"):
        read_ground_truth(tmp_path / fuzzed) if target == "ground truth" else load(f"auto:{tmp_path}", "train")


@given(st.one_of(st.text(max_size=30), st.text(max_size=20).map("scenes:".__add__)))
@settings(max_examples=200, deadline=None, database=None, derandomize=True)
@patch.dict(SCENES_DEFAULTS, val=2)
def test_any_text_names_a_set_or_gives_a_sentence(text):
    with or_one_sentence():
        load(re.sub(r"\d{3,}", "9", text), "val")
