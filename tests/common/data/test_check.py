"""`python -m common.data check`: all faults of a set at once, and what is in it."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from common.cli import run
from common.data.__main__ import CheckCommand, check, main
from common.data.source import load
from common.data.splits import SEARCH_SHARE, training_and_held_out
from common.plain import InputError
from sm_nas.presets import PHOTO
from tests.common.data import forms
from tests.common.data.forms import refused, write_coco


@pytest.fixture
def folder(tmp_path):
    """A sound set of 6 images a split, 40x20 pixels, with a cat in the first five and a dog, ignored, in the first."""
    images = [{"id": k, "file_name": f"{k}.png", "width": 40, "height": 20} for k in range(6)]
    boxes = [{"id": k, "image_id": k, "category_id": 1, "bbox": [4, 4, 8, 2 + k]} for k in range(5)]
    boxes.append({"id": 9, "image_id": 0, "category_id": 2, "bbox": [1, 1, 9, 9], "iscrowd": 1})
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    contents = {"images": images, "annotations": boxes, "categories": categories}
    return write_coco(tmp_path, contents, images, folder="{}")


def contents_of(folder, split="train"):
    return json.loads((folder / f"annotations/instances_{split}.json").read_text())


def write(folder, contents, split="train"):
    (folder / f"annotations/instances_{split}.json").write_text(json.dumps(contents))


def cut_short(picture):
    picture.write_bytes(picture.read_bytes()[:-40])


OVER_THE_EDGE = {"id": 20, "image_id": 1, "category_id": 1, "bbox": [30, 4, 20, 5]}


def test_what_is_in_a_set(folder):
    report = check(str(folder), input_size=80)
    remarks = ["no split has an object of dog"]  # ignored objects do not count
    assert (report["form"], report["faults"], report["remarks"]) == ("coco", [], remarks)
    train = report["splits"]["train"]
    assert {key: train[key] for key in ("images", "empty", "boxes", "ignored")} == {
        "images": 6, "empty": 1, "boxes": 6, "ignored": 1,
    }  # fmt: skip
    assert train["classes"] == {"cat": 5, "dog": 0}
    # 40x20 pixels fill an input of 80 at twice their size; the heights are 2 to 6
    sides = np.sqrt([16 * 2 * height for height in range(2, 7)])
    assert train["sizes"]["median"] == pytest.approx(np.median(sides))
    assert train["sizes"]["lowest"] == pytest.approx(np.quantile(sides, 0.05))
    assert train["sizes"]["thin"] == 0
    assert check(str(folder), input_size=40)["splits"]["train"]["sizes"]["thin"] == 0.4  # heights 2 and 3
    # They are 16 by 4 to 12 pixels then: an anchor of 22.6 by 11.3 overlaps the lowest by 64 / 256, under .3.
    shares = [
        check(str(folder), input_size=80, anchor_scale=scale)["splits"]["train"]["sizes"]["unreached"]
        for scale in (2, 4, 8, 32)
    ]
    assert shares == pytest.approx([0, 0.2, 1, 1])


def test_all_faults_are_counted_and_training_would_refuse_the_set(folder, capsys):
    contents = contents_of(folder)
    contents["annotations"] += [
        *(OVER_THE_EDGE | {"id": 20 + k} for k in range(7)),
        {"id": 30, "image_id": 1, "category_id": 1, "bbox": [30, 4, 0, 5]},
        {"id": 31, "image_id": 99, "category_id": 1, "bbox": [30, 4, 1, 5]},
        {"id": 32, "image_id": 1, "category_id": 1, "bbox": "box"},
        3,
    ]
    contents["images"] += [{"id": 50, "file_name": "gone.png"}, {"id": 51, "file_name": "../out.png"}]
    write(folder, contents)
    (folder / "val/2.png").unlink()
    (folder / "val/2.png").symlink_to("gone.png")
    (folder / "val/3.png").write_bytes(b"no image")
    cut_short(folder / "val/4.png")
    Image.new("RGB", (41, 20)).save(folder / "val/5.png")
    faults = {(fault["split"], fault["kind"]): fault for fault in check(str(folder))["faults"]}
    assert {key: fault["count"] for key, fault in faults.items()} == {
        ("train", "boxes over the edge of their image"): 7,
        ("train", "box without area in its image"): 1,
        ("train", "records that cannot be read"): 3,
        ("train", "images that are missing"): 2,
        ("val", "images that cannot be decoded"): 3,
    }
    examples = faults["train", "boxes over the edge of their image"]["examples"]
    assert len(examples) == 3
    assert examples[0] == "annotation 20 of '1.png' (corners 30, 4, 50, 9, image 40x20)"
    decoded = check(str(folder), pictures=True)["faults"]
    assert [fault["count"] for fault in decoded if fault["split"] == "val"] == [4]  # the cut file too

    with pytest.raises(SystemExit) as ended:
        run(main, CheckCommand, ["check", f"coco:{folder}"])
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert "train: 7 boxes over the edge of their image\n    annotation 20 of" in printed.out
    way_out = "mend the data, or add ,repair to it, as in auto:DIR,repair, which mends 8 of them\n"
    assert printed.err.endswith(f"for 16 faults; {way_out}")
    with pytest.raises(InputError):  # as it says
        load(f"coco:{folder}", "train")


def test_repairs_are_no_faults(folder, capsys):
    contents = contents_of(folder)
    contents["annotations"].append(OVER_THE_EDGE)
    write(folder, contents)
    run(main, CheckCommand, ["check", f"coco:{folder},repair"])
    printed = capsys.readouterr().out
    assert "7 boxes (1 ignored), 2 classes; 1 box over the edge of its image clipped\n" in printed
    assert printed.endswith("--pictures decodes them, and finds damaged ones\nno fault found\n")
    assert len(load(f"coco:{folder},repair", "train").boxes) == 7


def test_what_training_takes_but_someone_should_know(folder):
    contents = contents_of(folder, "val")
    contents["annotations"] = [record | {"category_id": 2, "iscrowd": 0} for record in contents["annotations"]]
    write(folder, contents, "val")
    (folder / "val/0.png").write_bytes((folder / "train/4.png").read_bytes())
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("1.png", "2.png"):
        with Image.open(folder / "val" / name) as image:
            image.save(folder / "val" / name, exif=exif)
    contents["images"][1] |= {"width": 20, "height": 40}
    write(folder, contents, "val")
    report = check(str(folder))
    assert report["faults"] == []
    assert report["remarks"] == [
        "val: 2 images are stored turned, and turned upright, but 1 of them not, as their annotations give the stored "
        "size",
        "train: no object of dog",  # but what is ignored
        "val: no object of cat",
        "1 picture is both in train and in val: 4.png = 0.png",
    ]


def test_a_class_that_no_split_has_is_said(folder):
    for split in ("train", "val"):
        contents = contents_of(folder, split)
        contents["categories"].append({"id": 9, "name": "bird"})
        write(folder, contents, split)
    assert "no split has an object of dog, bird" in check(str(folder))["remarks"]


def test_what_stops_the_reading_is_a_fault_of_its_split(folder):
    (folder / "annotations/instances_val.json").write_text("{")
    for fault in check(str(folder))["faults"]:
        assert "not valid JSON" in fault["examples"][0]
    (folder / "annotations/instances_train.json").unlink()
    examples = {fault["split"]: fault["examples"][0] for fault in check(str(folder))["faults"]}
    assert "has no train split" in examples["train"]
    assert "not valid JSON" in examples["val"]


def test_faults_of_the_test_split_are_remarks(folder, capsys):
    """Training does not read it; and what is measured is what detectors of photographs see by default."""
    contents = contents_of(folder)
    contents["annotations"].append(OVER_THE_EDGE)
    write(folder, contents, "test")
    shutil.copytree(folder / "train", folder / "test")
    (folder / "test/0.png").unlink()
    run(main, CheckCommand, ["check", str(folder), "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["faults"] == []
    assert report["remarks"][0].startswith("test: 1 image that is missing: 1 of the 6 images listed in ")
    assert report["remarks"][1].startswith("test: 1 box over the edge of its image: annotation 20 of '1.png'")
    E0 = dict(PHOTO.models)["E0"]
    assert ((report["input_size"],) * 2, report["anchor_scale"]) == (E0.input_size, PHOTO.detector.anchor_scale)


def test_a_set_without_splits_is_checked_once(folder):
    contents = contents_of(folder)
    for image in contents["images"]:
        image["width"] = 0  # so reading looks at the pictures too
    (folder / "train").rename(folder / "images")
    shutil.rmtree(folder / "annotations")
    (folder / "annotations.json").write_text(json.dumps(contents))
    damaged, cut, sound = load(f"coco:{folder}", "train").load_image.names[:3]
    (folder / "images" / damaged).write_bytes(b"no image")
    cut_short(folder / "images" / cut)
    contents["annotations"].append(OVER_THE_EDGE | {"image_id": int(sound.removesuffix(".png"))})
    (folder / "annotations.json").write_text(json.dumps(contents))
    report = check(str(folder), pictures=True)
    assert [(fault["split"], fault["kind"], fault["count"]) for fault in report["faults"]] == [
        ("train", "images that cannot be decoded", 2),
        ("train", "box over the edge of its image", 1),
        ("train", "split that is too small", 1),
    ]
    assert [content["images"] for content in report["splits"].values()] == [4, 1]


def test_json_is_one_object_and_scenes_need_no_check(folder, capsys):
    run(main, CheckCommand, ["check", str(folder), "--json"])
    assert json.loads(capsys.readouterr().out)["form"] == "coco"
    with refused("scenes are drawn"):
        check("scenes")
    with refused("no folder nowhere"):
        check("nowhere")
    for scale in (0, -3, float("nan")):
        with refused("--anchor-scale must be greater than 0"):
            check(str(folder), anchor_scale=scale)


def yolo(root, count=6):
    """A YOLO set of so many pictures a split."""
    for split in ("train", "val"):
        pictures = {f"{split}{k}.png": ((40, 20), [("cat", (4, 4, 20, 16))]) for k in range(count)}
        forms.write(root, "yolo", split, pictures, ["cat"])
    return root


def test_files_of_a_yolo_set_that_lack_their_other_half(tmp_path):
    root = yolo(tmp_path)
    for name in ("train0", "train3"):
        (root / f"labels/train/{name}.txt").unlink()
    (root / "labels/val/deep").mkdir()
    for name in ("val/gone", "val/deep/lost"):
        (root / f"labels/{name}.txt").write_text("0 .5 .5 .2 .2\n0 .5 .5 .1 .1")
    for name in ("classes", "notes"):
        (root / f"labels/{name}.txt").write_text("cat")
        (root / f"labels/val/{name}.txt").write_text("2 of these are blurred")
    report = check(str(root))
    assert report["faults"] == []
    assert report["remarks"] == [
        f"train: 2 images without a text file count as empty, first {root}/images/train/train0.png; if it shows "
        f"objects, add {root}/labels/train/train0.txt",
        f"2 text files of labels without an image are not used, first {root}/labels/val/deep/lost.txt; add the image, "
        "or delete the text file",
    ]
    assert report["splits"]["train"]["empty"] == 2
    (root / "data.yaml").write_text("names: [cat]\ntrain: list.txt\nval: images/val\n")
    (root / "list.txt").write_text("".join(f"images/train/train{k}.png\n" for k in (1, 2, 3, 4, 5)))
    remarks = check(str(root))["remarks"]
    assert remarks[0].startswith("train: 1 image without a text file counts as empty")
    assert remarks[2:] == [
        f"1 picture is in no split, first {root}/images/train/train0.png, as no list names it; add those that are "
        "to be used"
    ]


@pytest.mark.parametrize("form", ["coco", "roboflow", "voc", "bdd"])
def test_pictures_beside_those_of_the_set_are_told_of(tmp_path, form):
    for split in ("train", "val"):
        pictures = {f"{split}{k}.png": ((40, 20), [("car", (4, 4, 20, 16))]) for k in range(5)}
        forms.write(tmp_path, form, split, pictures, ["car"])
    assert [remark for remark in check(str(tmp_path))["remarks"] if "has an object" not in remark] == []
    folder = tmp_path / forms.FOLDERS[form].format("train")
    for name in ("x.JPG", "y.png", ".hidden.png"):
        (folder / name).write_bytes((folder / "train0.png").read_bytes())
    report = check(str(tmp_path))
    assert report["faults"] == []
    assert report["remarks"][-1].startswith(f"2 pictures are in no split, first {folder / 'x.JPG'}, as ")
    (folder / "train0.png").write_bytes(b"no image")  # it is in a split, and a fault
    assert [fault["kind"] for fault in check(str(tmp_path))["faults"]] != []
    assert not any("train0" in remark for remark in check(str(tmp_path))["remarks"])


def test_pictures_of_other_kinds_are_told_of(folder):
    for name in ("a.HEIC", "b.avif"):
        (folder / "train" / name).touch()
    remark = f"2 pictures are of a kind that cannot be read, first {folder}/train/a.HEIC; convert to JPEG or PNG"
    report = check(str(folder))
    assert remark in report["remarks"]
    assert report["faults"] == []


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ([f"{k}.png" for k in range(4)], "4 images to train on, where at least 5 are needed; add images"),
        ([f"a.rf.{k}.png" for k in range(6)], "all images to train on are by their names (NAME.rf.HASH) copies of one"),
        ([f"{k}.png" for k in range(5)], None),
    ],
)
def test_a_set_that_training_would_refuse_for_its_size_has_a_fault(tmp_path, names, sentence):
    for split in ("train", "val"):
        pictures = {name: ((40, 20), [("cat", (4, 4, 20, 16))]) for name in names}
        forms.write(tmp_path, "roboflow", split, pictures, ["cat"])
    faults = check(str(tmp_path))["faults"]
    if sentence is None:
        assert faults == []
        training_and_held_out(f"coco:{tmp_path}", None, 250, "photo", SEARCH_SHARE)
    else:
        assert [(fault["split"], fault["kind"], fault["repairable"]) for fault in faults] == [
            ("train", "split that is too small", False)
        ]
        assert faults[0]["examples"][0].startswith(sentence)
        with pytest.raises(InputError):
            training_and_held_out(f"coco:{tmp_path}", None, 250, "photo", SEARCH_SHARE)


def test_a_file_in_place_of_its_folder_is_answered_with_the_folder(folder, tmp_path_factory):
    root = yolo(tmp_path_factory.mktemp("yolo"))
    for file, asked in ((root / "data.yaml", root), (folder / "annotations/instances_train.json", folder)):
        for data in (str(file), f"auto:{file}"):
            with refused(f"{file} is a file, not the folder of a data set; give auto:{asked}$"):
                check(data)
    for form in ("roboflow", "voc"):
        other = tmp_path_factory.mktemp(form)
        forms.write(other, form, "train", {"a.png": ((40, 20), [("cat", (4, 4, 20, 16))])}, ["cat"])
        kind, file = ("coco", "train/_annotations.coco.json") if form == "roboflow" else (form, "Annotations/a.xml")
        with refused(f"give {kind}:{other}$"):
            check(f"{kind}:{other / file}")
