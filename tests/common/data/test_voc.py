"""The VOC reader: the challenge's layout, plain folders, a round trip from COCO, and every kind of bad input."""

import numpy as np
import pytest
from PIL import Image

from common.data.coco import read_coco
from common.data.voc import VOC_CATEGORIES, read_voc
from common.plain import InputError


def object_xml(name, corners, difficult=None):
    xmin, ymin, xmax, ymax = corners
    flag = "" if difficult is None else f"<difficult>{difficult}</difficult>"
    box = f"<bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox>"
    return f"<object><name>{name}</name>{flag}{box}</object>"


def write_image(root, stem, objects, width=40, height=30, suffix=".jpg", xml=None, pixels=True):
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    text = f"<annotation><filename>../../x.jpg</filename>{size}{''.join(objects)}</annotation>" if xml is None else xml
    (root / "Annotations" / f"{stem}.xml").write_text(text)
    if pixels:
        Image.new("RGB", (width, height)).save(root / "JPEGImages" / f"{stem}{suffix}")


def write_list(root, name, stems):
    (root / "ImageSets" / "Main" / f"{name}.txt").write_text("".join(f"{stem}\n" for stem in stems))


CAT = object_xml("cat", (1, 1, 40, 30))


@pytest.fixture
def challenge(tmp_path):
    """VOC2007 and VOC2012 in miniature."""
    year_2007, year_2012 = tmp_path / "VOCdevkit" / "VOC2007", tmp_path / "VOCdevkit" / "VOC2012"
    part = "<object><name>person</name><part><name>head</name><bndbox><xmin>2</xmin></bndbox></part>"
    box = "<bndbox><xmax>20</xmax><xmin>11</xmin><ymax>30.5</ymax><ymin>5.25</ymin></bndbox></object>"
    write_image(year_2007, "000005", [CAT, object_xml("dog", (3, 4, 10, 12), difficult=1)])
    write_image(year_2007, "000001", [object_xml("tvmonitor", (2, 2, 3, 3), difficult=0)])
    write_image(year_2007, "000009", [CAT])
    write_list(year_2007, "trainval", ["000005"])
    write_list(year_2007, "test", ["000009", "000001"])
    write_image(year_2012, "2008_000002", [part + box])
    write_list(year_2012, "trainval", ["2008_000002"])
    return tmp_path


def test_the_challenge_trains_on_both_years_and_tests_on_2007(challenge):
    train, val = read_voc(challenge, "train"), read_voc(challenge / "VOCdevkit", "val")
    assert train.categories == val.categories == VOC_CATEGORIES
    assert train.offsets.tolist() == [0, 2, 3]
    # corners count from 1 and include the last pixel
    assert train.boxes.tolist() == [[0, 0, 40, 30], [2, 3, 10, 12], [10, 4.25, 20, 30]]
    assert [train.categories[label] for label in train.labels] == ["cat", "dog", "person"]
    assert train.crowd.tolist() == [False, True, False]
    assert train.area.tolist() == [1200, 72, 257.5]
    assert train.load_image(1).shape == (30, 40, 3)
    assert train.load_image.paths[1].endswith("VOC2012/JPEGImages/2008_000002.jpg")
    assert val.image_ids.tolist() == [1, 2]
    assert val.load_image.paths[0].endswith("000009.jpg")
    assert len(VOC_CATEGORIES) == 20
    assert list(VOC_CATEGORIES) == sorted(VOC_CATEGORIES)


def test_one_year_alone_is_an_error_that_says_how_to_go_on(challenge):
    year_2012 = challenge / "VOCdevkit" / "VOC2012"
    (year_2012 / "ImageSets" / "Main" / "trainval.txt").unlink()
    with pytest.raises(InputError, match=r"no readable list at .*VOC2012.*trainval\.txt.*for one year alone"):
        read_voc(challenge, "train")
    assert len(read_voc(challenge / "VOCdevkit" / "VOC2007", "train")) == 1


def test_a_foreign_category_in_the_challenge_is_refused(challenge):
    write_image(challenge / "VOCdevkit" / "VOC2007", "000005", [object_xml("zebra", (1, 1, 9, 9))])
    with pytest.raises(InputError, match=r"000005\.xml has the category 'zebra'"):
        read_voc(challenge, "train")


@pytest.mark.parametrize(("train_list", "val_list"), [("trainval", "test"), ("train", "val")])
def test_a_plain_folder_has_the_sorted_names_of_both_splits(tmp_path, train_list, val_list):
    write_image(tmp_path, "a", [object_xml("zebra", (1, 1, 9, 9))], suffix=".png")
    write_image(tmp_path, "b", [object_xml("ant", (1, 1, 9, 9)), object_xml("zebra", (2, 2, 9, 9))])
    write_list(tmp_path, train_list, ["a"])
    write_list(tmp_path, val_list, ["b"])
    train, val = read_voc(tmp_path, "train"), read_voc(tmp_path, "val")
    assert train.categories == val.categories == ("ant", "zebra")
    assert train.labels.tolist() == [1]
    assert val.labels.tolist() == [0, 1]
    assert train.load_image(0).shape == (30, 40, 3)


def test_trainval_and_test_go_before_train_and_val(tmp_path):
    for stem in "abcd":
        write_image(tmp_path, stem, [CAT])
    for name, stems in {"train": "a", "val": "b", "trainval": "ab", "test": "cd"}.items():
        write_list(tmp_path, name, stems)
    assert [len(read_voc(tmp_path, split)) for split in ("train", "val")] == [2, 2]


@pytest.mark.parametrize("split", ["train", "val"])
def test_aquarium_comes_back_the_same_through_voc(aquarium, tmp_path, split):
    coco = read_coco(aquarium, split)
    stems = []
    for position, path in enumerate(coco.load_image.paths):
        rows = coco.boxes_of(position)
        corners = coco.boxes[rows].astype(np.float64) + np.array([1, 1, 0, 0])
        height, width = coco.sizes[position].tolist()
        stems.append(f"image{position:04d}")
        objects = [
            object_xml(coco.categories[label], box, difficult=int(crowd))
            for label, box, crowd in zip(coco.labels[rows], corners.tolist(), coco.crowd[rows], strict=True)
        ]
        write_image(tmp_path, stems[-1], objects, width, height, pixels=False)
        (tmp_path / "JPEGImages" / f"{stems[-1]}.jpg").symlink_to(path)
    write_list(tmp_path, "train", stems)
    write_list(tmp_path, "val", stems)
    voc = read_voc(tmp_path, split)
    assert voc.categories == coco.categories
    assert np.array_equal(voc.sizes, coco.sizes)
    assert np.array_equal(voc.offsets, coco.offsets)
    assert np.array_equal(voc.labels, coco.labels)
    assert np.array_equal(voc.crowd, coco.crowd)
    assert np.array_equal(voc.boxes, coco.boxes)
    assert np.array_equal(voc.load_image(3), coco.load_image(3))


SIZE = "<size><width>40</width><height>30</height></size>"
ENTITY = '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/hostname">]><annotation>&b;</annotation>'
BAD_XML = {
    "cut": ("<annotation><size>", r"a\.xml is not valid XML"),
    "empty": ("", r"a\.xml is not valid XML"),
    "entity": (ENTITY, r"a\.xml is not valid XML \(EntitiesForbidden"),
    "no size": (f"<annotation>{CAT}</annotation>", r"a\.xml has no annotation/size/height"),
    "no name": (f"<annotation>{SIZE}{object_xml('', (1, 1, 2, 2))}</annotation>", "has no object/name"),
    "no box": (f"<annotation>{SIZE}<object><name>a</name></object></annotation>", "has no object/bndbox/xmin"),
    "letters": (
        f"<annotation>{SIZE}{object_xml('a', ('one', 1, 2, 2))}</annotation>",
        "has 'one' as object/bndbox/xmin",
    ),
    "nan": (f"<annotation>{SIZE}{object_xml('a', ('nan', 1, 2, 2))}</annotation>", "has 'nan'"),
    "outside": (f"<annotation>{SIZE}{CAT}{object_xml('a', (5, 5, 42, 9))}</annotation>", "object 2 of .* outside"),
    "no area": (f"<annotation>{SIZE}{object_xml('a', (5, 5, 4, 9))}</annotation>", "object 1 of .* without area"),
    "no object": (f"<annotation>{SIZE}</annotation>", "holds no box"),
}


@pytest.mark.parametrize("name", BAD_XML)
def test_bad_xml_is_one_clear_sentence(tmp_path, name):
    xml, sentence = BAD_XML[name]
    write_image(tmp_path, "a", [], xml=xml)
    write_list(tmp_path, "train", ["a"])
    write_list(tmp_path, "val", ["a"])
    with pytest.raises(InputError, match=sentence) as caught:
        read_voc(tmp_path, "train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("stems", "sentence"),
    [
        (["a", "../a"], r"image '\.\./a' in .*train\.txt does not stay inside"),
        (["a", "/a"], "does not stay inside"),
        (["a", "a"], r"duplicate image names in .*train\.txt"),
        (["a", "gone"], r"1 of the 2 images .* missing, first .*JPEGImages/gone\.jpg"),
        (["a", "bare"], r"no annotations at .*bare\.xml"),
        ([], "holds no image"),
    ],
)
def test_bad_lists_are_one_clear_sentence(tmp_path, stems, sentence):
    write_image(tmp_path, "a", [CAT])
    Image.new("RGB", (4, 4)).save(tmp_path / "JPEGImages" / "bare.jpg")
    write_list(tmp_path, "train", stems)
    write_list(tmp_path, "val", ["a"])
    with pytest.raises(InputError, match=sentence) as caught:
        read_voc(tmp_path, "train")
    assert "\n" not in str(caught.value)


def test_a_folder_of_another_kind_and_an_unknown_split(tmp_path):
    with pytest.raises(InputError, match="holds neither VOC2007"):
        read_voc(tmp_path, "train")
    with pytest.raises(InputError, match="not 'test'"):
        read_voc(tmp_path, "test")
    write_image(tmp_path, "a", [CAT])
    with pytest.raises(InputError, match=r"neither trainval\.txt and test\.txt nor"):
        read_voc(tmp_path, "train")


def test_a_truncated_image_is_named_when_it_is_decoded(tmp_path):
    write_image(tmp_path, "a", [CAT])
    write_list(tmp_path, "train", ["a"])
    write_list(tmp_path, "val", ["a"])
    path = tmp_path / "JPEGImages" / "a.jpg"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"a\.jpg cannot be decoded"):
        read_voc(tmp_path, "val").load_image(0)
