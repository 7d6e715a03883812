"""The VOC reader: the challenge's layout, plain folders, a round trip from COCO, and every kind of bad input."""

import shutil
import unicodedata

import pytest
from PIL import Image

from common.data.source import load
from common.data.voc import VOC_CATEGORIES
from tests.common.data.forms import refused, voc_object

SIZE = "<size><width>40</width><height>30</height><depth>3</depth></size>"


def write_image(root, stem, objects, suffix=".jpg", xml=None):
    """A picture of 40x30 pixels and its XML file."""
    for path in (f"Annotations/{stem}", f"JPEGImages/{stem}", "ImageSets/Main/list"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
    text = f"<annotation><filename>../../x.jpg</filename>{SIZE}{''.join(objects)}</annotation>" if xml is None else xml
    (root / "Annotations" / f"{stem}.xml").write_text(text)
    Image.new("RGB", (40, 30)).save(root / "JPEGImages" / f"{stem}{suffix}")


def write_list(root, name, stems):
    (root / "ImageSets" / "Main" / f"{name}.txt").write_text("".join(f"{stem}\n" for stem in stems))


def write_lists(root, stems):
    """The same images in both splits."""
    for name in ("train", "val"):
        write_list(root, name, stems)


CAT = voc_object("cat", (1, 1, 40, 30))


def read(root, split="train"):
    return load(f"voc:{root}", split)


@pytest.fixture
def challenge(tmp_path):
    """VOC2007 and VOC2012 in miniature."""
    year_2007, year_2012 = tmp_path / "VOCdevkit" / "VOC2007", tmp_path / "VOCdevkit" / "VOC2012"
    part = "<object><name>person</name><part><name>head</name><bndbox><xmin>2</xmin></bndbox></part>"
    box = "<bndbox><xmax>20</xmax><xmin>11</xmin><ymax>30.5</ymax><ymin>5.25</ymin></bndbox></object>"
    write_image(year_2007, "000005", [CAT, voc_object("dog", (3, 4, 10, 12), difficult=1)])
    write_image(year_2007, "000001", [voc_object("tvmonitor", (2, 2, 3, 3), difficult=0)])
    write_image(year_2007, "000009", [CAT])
    write_list(year_2007, "trainval", ["000005"])
    write_list(year_2007, "test", ["000009", "000001"])
    write_image(year_2012, "2008_000002", [part + box])
    write_list(year_2012, "trainval", ["2008_000002"])
    return tmp_path


def test_the_challenge_trains_on_both_years_and_tests_on_2007(challenge):
    train, val = read(challenge), read(challenge / "VOCdevkit", "val")
    assert train.categories == val.categories == VOC_CATEGORIES
    assert train.offsets.tolist() == [0, 2, 3]
    # corners count from 1 and include the last pixel
    assert train.boxes.tolist() == [[0, 0, 40, 30], [2, 3, 10, 12], [10, 4.25, 20, 30]]
    assert [train.categories[label] for label in train.labels] == ["cat", "dog", "person"]
    assert train.crowd.tolist() == [False, True, False]
    assert train.area.tolist() == [1200, 72, 257.5]
    assert train.load_image(1).shape == (30, 40, 3)
    assert train.load_image.names[1].endswith("VOC2012/JPEGImages/2008_000002.jpg")
    assert val.image_ids.tolist() == [1, 2]
    assert val.load_image.names[0].endswith("000009.jpg")
    assert len(VOC_CATEGORIES) == 20
    assert list(VOC_CATEGORIES) == sorted(VOC_CATEGORIES)


def test_one_year_alone_is_an_error_that_says_how_to_go_on(challenge):
    year_2012 = challenge / "VOCdevkit" / "VOC2012"
    (year_2012 / "ImageSets" / "Main" / "trainval.txt").unlink()
    with refused(r"no list at .*VOC2012.*trainval\.txt.*folder of one year"):
        read(challenge)
    assert len(read(challenge / "VOCdevkit" / "VOC2007")) == 1


def test_a_foreign_category_in_the_challenge_is_refused(challenge):
    write_image(challenge / "VOCdevkit" / "VOC2007", "000005", [voc_object("zebra", (1, 1, 9, 9))])
    with refused(r"1 box of an unknown class, first object 1 of 'VOC2007/JPEGImages/000005\.jpg', a 'zebra'"):
        read(challenge)


@pytest.mark.parametrize(("train_list", "val_list"), [("trainval", "test"), ("train", "val")])
def test_a_plain_folder_has_the_sorted_names_of_both_splits(tmp_path, train_list, val_list):
    write_image(tmp_path, "a", [voc_object("zebra", (1, 1, 9, 9))], suffix=".png")
    write_image(tmp_path, "b", [voc_object("ant", (1, 1, 9, 9)), voc_object("zebra", (2, 2, 9, 9))])
    for name, stem in {"train": "b", "val": "a", train_list: "a", val_list: "b"}.items():  # these two go before those
        write_list(tmp_path, name, [stem])
    train, val = read(tmp_path), read(tmp_path, "val")
    assert train.categories == val.categories == ("ant", "zebra")
    assert train.labels.tolist() == [1]
    assert val.labels.tolist() == [0, 1]
    assert train.load_image(0).shape == (30, 40, 3)


ENTITY = '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/hostname">]><annotation>&b;</annotation>'


@pytest.mark.parametrize(
    ("xml", "sentence"),
    [
        ("<annotation><size>", r"a\.xml is not valid XML"),
        (ENTITY, r"a\.xml is not valid XML \(EntitiesForbidden"),
        ('<?xml version="1.0" encoding="nonsense"?><annotation/>', r"a\.xml is not valid XML"),
        ("<size><width>w</width></size>", r"a\.xml has 'w' as size/width"),
        (SIZE + voc_object("a", (1, 1, 2, 2), "perhaps"), "has 'perhaps' as difficult"),
        (SIZE + "<object><name>a</name></object>", "has no xmin"),
        (SIZE + CAT + voc_object("a", (5, 5, 42, 9)), r"1 box over .* first object 2 of 'JPEGImages/a\.jpg'"),
    ],
)
def test_bad_xml_is_one_clear_sentence(tmp_path, xml, sentence):
    write_image(tmp_path, "a", [], xml=xml if "annotation" in xml else f"<annotation>{xml}</annotation>")
    write_lists(tmp_path, ["a"])
    with refused(sentence):
        read(tmp_path)


@pytest.mark.parametrize(
    ("stems", "sentence"),
    [
        (["a", "../a"], r"image '\.\./a' in .*train\.txt does not stay inside"),
        (["a", "a"], r"lists the image 'JPEGImages/a\.jpg' twice"),
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
    with refused(sentence):
        read(tmp_path)


# ---- what annotation tools write


def test_difficult_may_be_a_word_and_several_boxes_are_several_objects(tmp_path):
    words = {"Unspecified": False, "False": False, "0.0": False, "no": False, "": False, "True": True, "1": True}
    objects = [voc_object("cat", (1 + k, 1, 20 + k, 30), word) for k, word in enumerate(words)]
    double = CAT.replace(
        "</bndbox>", "</bndbox><bndbox><xmin>3</xmin><ymin>4</ymin><xmax>9</xmax><ymax>8</ymax></bndbox>"
    )
    write_image(tmp_path, "a", [*objects, double])
    write_lists(tmp_path, ["a"])
    found = read(tmp_path)
    assert found.crowd.tolist() == [*words.values(), False, False]
    assert found.boxes[-2:].tolist() == [[0, 0, 40, 30], [2, 3, 9, 8]]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_lists_saved_by_windows_and_names_with_spaces(tmp_path, encoding):
    stems = ["my photo 1.5", "my photo 1", "my photo 0", "b"]
    for stem in stems:
        write_image(tmp_path, stem, [CAT])
    for name in ("train", "val"):
        lines = "".join(f"{stem}\r\n" for stem in [*stems[:2], "my photo 0  1", "b -1"])
        (tmp_path / "ImageSets" / "Main" / f"{name}.txt").write_bytes(lines.encode(encoding))
    assert read(tmp_path).load_image.names == tuple(f"JPEGImages/{stem}.jpg" for stem in stems)


@pytest.mark.parametrize("size", ["", "<size><width>0</width><height>0</height></size>", "<size><width/></size>"])
def test_a_size_of_zero_or_none_comes_from_the_picture(tmp_path, size):
    write_image(tmp_path, "a", [], xml=f"<annotation>{size}{CAT}</annotation>")
    write_lists(tmp_path, ["a"])
    assert read(tmp_path).sizes.tolist() == [[30, 40]]


def test_folders_without_lists(tmp_path):
    """Annotations/ beside images/ has no splits; Roboflow's train/ and valid/ hold both kinds of file."""
    for k in range(10):
        write_image(tmp_path / "whole", f"photo{k}", [CAT])
        write_image(tmp_path / "made", f"photo{k}", [CAT])
    (tmp_path / "whole" / "JPEGImages").rename(tmp_path / "whole" / "images")
    (tmp_path / "whole" / "ImageSets" / "Main").rmdir()
    assert [len(read(tmp_path / "whole", split)) for split in ("train", "val")] == [8, 2]
    for k, split in enumerate(["train"] * 6 + ["valid"] * 3 + ["test"]):
        for folder, suffix in (("Annotations", ".xml"), ("JPEGImages", ".jpg")):
            target = tmp_path / "roboflow" / split / f"photo{k}{suffix}"
            target.parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "made" / folder / f"photo{k}{suffix}").rename(target)
    assert [len(read(tmp_path / "roboflow", split)) for split in ("train", "val", "test")] == [6, 3, 1]
    shutil.rmtree(tmp_path / "roboflow" / "valid")
    assert [len(read(tmp_path / "roboflow", split)) for split in ("train", "val", "test")] == [5, 1, 1]


@pytest.mark.parametrize("listed", [False, True])
def test_pictures_in_folders_of_folders_have_their_boxes_and_hidden_files_are_passed_over(tmp_path, listed):
    stems = [f"day{k % 2}/b.{k}" for k in range(10)]
    for stem in stems:
        write_image(tmp_path, stem, [CAT])
    for hidden in ("day0/._b.0", ".ipynb_checkpoints/b.0"):
        write_image(tmp_path, hidden, [], xml="no XML")
    if listed:
        write_list(tmp_path, "train", stems[:8])
        write_list(tmp_path, "val", stems[8:])
    train, val = read(tmp_path), read(tmp_path, "val")
    assert [len(train), len(val)] == [len(train.boxes), len(val.boxes)] == [8, 2]
    names = {*train.load_image.names, *val.load_image.names}
    assert names == {f"JPEGImages/{stem}.jpg" for stem in stems}


@pytest.mark.parametrize(
    ("lists", "expected"),
    [
        ({"default": range(10)}, (8, 2)),  # as CVAT writes a set without splits
        ({"cat_train": range(3)}, (10, 2)),  # lists of one class: every XML file
        ({"trainval": range(10)}, (8, 2)),
        ({"train": range(5)}, (4, 1)),
        ({"train": range(5), "test": range(5, 8)}, (4, 1, 3)),
        ({"Train": range(5), "Validation": range(5, 8), "Test": range(8, 10)}, (5, 3, 2)),
    ],
)
def test_lists_of_annotation_tools(tmp_path, lists, expected):
    for k in range(12):
        write_image(tmp_path, f"photo{k}", [CAT])
    for name, which in lists.items():
        write_list(tmp_path, name, [f"photo{k}" for k in which])
    splits = ("train", "val", "test")
    assert tuple(len(read(tmp_path, split)) for split in splits[: len(expected)]) == expected


# ---- corners that count from 0


TOOL = "<source><database>Unknown</database></source>"


@pytest.mark.parametrize(
    ("elsewhere", "from_0"),
    [
        (voc_object("dog", (0, 7, 9, 9)), True),
        (voc_object("dog", (7, "0.0", 9, 9)), True),
        (voc_object("dog", (7, " 0.4 ", 9, 9)), True),
        (TOOL + voc_object("dog", (1, 7, 9, 9)), True),  # LabelImg makes each 0 a 1
        (voc_object("dog", (1, 10, 10, 20)), False),
        ("<source><database>The VOC2007 Database</database></source>" + CAT, False),
        ("<segmented>0</segmented>" + CAT, False),
    ],
)
def test_a_set_with_a_corner_at_0_or_of_a_tool_counts_from_0(tmp_path, elsewhere, from_0):
    """In all its splits, whichever of them has it."""
    write_image(tmp_path, "a", [voc_object("cat", (11, 6, 30, 25.5))])
    write_image(tmp_path, "b", [], xml=f"<annotation>{elsewhere}{CAT}</annotation>")
    for name, stem in (("train", "a"), ("val", "b")):
        write_list(tmp_path, name, [stem])
    found = read(tmp_path)
    assert found.boxes.tolist() == [[11, 6, 30, 25.5] if from_0 else [10, 5, 30, 25.5]]
    assert ("corners counted from 0, as labelling tools do" in found.notes) == from_0
    assert read(tmp_path, "val").boxes[-1].tolist() == ([1, 1, 40, 30] if from_0 else [0, 0, 40, 30])


def test_the_challenge_counts_from_1_whatever_it_says(challenge):
    write_image(challenge / "VOCdevkit" / "VOC2007", "000001", [TOOL, voc_object("dog", (0, 0, 3, 3))])
    assert read(challenge).boxes[0].tolist() == [0, 0, 40, 30]


# ---- other layouts, and names


@pytest.mark.parametrize("folders", [("annotations", "images"), ("annotations", "Images"), ("ANNOTATIONS", ".")])
def test_annotations_in_another_case(tmp_path, folders):
    for k in range(10):
        write_image(tmp_path / "made", f"photo{k}", [CAT])
    shutil.copytree(tmp_path / "made/Annotations", tmp_path / "set" / folders[0])
    shutil.copytree(tmp_path / "made/JPEGImages", tmp_path / "set" / folders[1], dirs_exist_ok=True)
    assert [len(load(f"auto:{tmp_path / 'set'}", split)) for split in ("train", "val")] == [8, 2]


@pytest.mark.parametrize("place", [".", "images", "images/train"])
def test_xml_files_beside_their_images(tmp_path, place):
    for k in range(10):
        write_image(tmp_path / "made", f"photo{k}", [CAT], suffix=".PNG")
    for folder in ("Annotations", "JPEGImages"):
        shutil.copytree(tmp_path / "made" / folder, tmp_path / "set" / place, dirs_exist_ok=True)
    assert [len(load(f"auto:{tmp_path / 'set'}", split)) for split in ("train", "val")] == [8, 2]
    if place == "images/train":
        shutil.copytree(tmp_path / "set/images/train", tmp_path / "set/images/test")
        assert [len(load(f"auto:{tmp_path / 'set'}", split)) for split in ("train", "val", "test")] == [8, 2, 10]


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("forms", [("NFC", "NFD", "NFD"), ("NFD", "NFC", "NFC"), ("NFC", "NFD", "NFC")])
def test_names_in_either_form_of_unicode(tmp_path, forms, listed):
    picture, xml, line = (unicodedata.normalize(form, "Fuß à côté") for form in forms)
    write_image(tmp_path, picture, [CAT])
    (tmp_path / f"Annotations/{picture}.xml").rename(tmp_path / f"Annotations/{xml}.xml")
    if listed:
        write_lists(tmp_path, [line])
    else:
        write_image(tmp_path, "b", [CAT])
    assert f"JPEGImages/{picture}.jpg" in {
        name for split in ("train", "val") for name in read(tmp_path, split).load_image.names
    }
