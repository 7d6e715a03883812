"""`python -m common.evaluate` on files, good and bad."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from common.evaluate.__main__ import EvaluateCommand, main
from common.evaluate.average_precision import METRICS
from common.plain import InputError
from tests.common.evaluate.pycocotools_oracle import coco_numbers


def make_files(folder: Path, seed: int = 0) -> tuple[Path, Path]:
    random = np.random.default_rng(seed)
    annotations, detections = [], []
    for place in range(40):
        box = [*random.uniform(0, 200, 2), *random.uniform(5, 150, 2)]
        record = {"image_id": int(random.integers(3, 9)), "category_id": int(random.integers(1, 4))}
        crowd = int(random.random() < 0.1)
        annotations.append({**record, "id": place + 1, "bbox": box, "area": box[2] * box[3] * 0.7, "iscrowd": crowd})
        for _ in range(3):
            near = (np.array(box) + random.normal(0, 6, 4)).clip(1).tolist()
            detections.append({**record, "bbox": near, "score": int(random.integers(1, 9)) / 9})
    ground_truth = {
        "images": [{"id": identity, "file_name": f"{identity}.jpg"} for identity in range(2, 10)],
        "categories": [{"id": identity, "name": f"class {identity}"} for identity in (2, 1, 3)],
        "annotations": annotations,
    }
    paths = folder / "gt.json", folder / "detections.json"
    paths[0].write_text(json.dumps(ground_truth))
    paths[1].write_text(json.dumps(detections))
    return paths


def printed(gt: Path, dt: Path, capsys) -> dict[str, float]:
    main(EvaluateCommand(gt=gt, dt=dt, json=True))
    return json.loads(capsys.readouterr().out)


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_json_is_one_object_and_equals_pycocotools(tmp_path, monkeypatch, capfd):
    gt, dt = make_files(tmp_path)
    monkeypatch.setattr(sys, "argv", ["evaluate", "--gt", str(gt), "--dt", str(dt), "--json"])
    runpy.run_module("common.evaluate", run_name="__main__")
    numbers = json.loads(capfd.readouterr().out)
    assert tuple(numbers) == METRICS
    assert 0.1 < numbers["AP"] < 0.9
    expected = coco_numbers(json.loads(gt.read_text()), json.loads(dt.read_text()))
    np.testing.assert_allclose(list(numbers.values()), expected, rtol=0, atol=1e-12)


def test_real_set_equals_pycocotools(aquarium, tmp_path, capsys):
    gt, dt = aquarium / "annotations" / "instances_val.json", tmp_path / "detections.json"
    random, truth = np.random.default_rng(0), json.loads(gt.read_text())
    detections = [
        {
            "image_id": annotation["image_id"],
            "category_id": annotation["category_id"],
            "bbox": (np.array(annotation["bbox"]) + random.normal(0, 4, 4)).clip(0.5).tolist(),
            "score": float(random.integers(1, 5)) / 4,
        }
        for annotation in truth["annotations"]
    ]
    dt.write_text(json.dumps(detections))
    numbers = list(printed(gt, dt, capsys).values())
    np.testing.assert_allclose(numbers, coco_numbers(truth, detections), rtol=0, atol=1e-12)


def test_table_has_a_line_for_each_number_and_nothing_found_is_zero(tmp_path, capsys):
    gt, dt = make_files(tmp_path)
    main(EvaluateCommand(gt=gt, dt=dt))
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(METRICS)
    dt.write_text("[]")
    assert printed(gt, dt, capsys)["AP"] == 0


def test_an_annotation_without_area_has_that_of_its_box(tmp_path, capsys):
    gt, dt = make_files(tmp_path)
    content = json.loads(gt.read_text())
    for annotation in content["annotations"]:
        annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
    gt.write_text(json.dumps(content))
    with_areas = printed(gt, dt, capsys)
    for annotation in content["annotations"]:
        del annotation["area"]
    gt.write_text(json.dumps(content))
    assert printed(gt, dt, capsys) == with_areas


@pytest.mark.parametrize(
    "rename",
    [
        lambda identity: 1533151603512404123 + identity,  # nanoseconds: beyond what a double tells apart
        lambda identity: 2**80 + identity,
        lambda identity: identity - 100,
        lambda identity: float(identity),
        lambda identity: f"id {identity}",
    ],
)
def test_ids_of_any_kind_give_the_same_numbers(tmp_path, capsys, rename):
    gt, dt = make_files(tmp_path)
    before = printed(gt, dt, capsys)
    contents, detections = (json.loads(path.read_text()) for path in (gt, dt))
    for record in [*contents["images"], *contents["categories"]]:
        record["id"] = rename(record["id"])
    for record in [*contents["annotations"], *detections]:
        record |= {"image_id": rename(record["image_id"]), "category_id": rename(record["category_id"])}
    gt.write_text(json.dumps(contents))
    dt.write_text(json.dumps(detections))
    assert printed(gt, dt, capsys) == before


def test_names_of_files_and_categories_count_before_ids(tmp_path, capsys):
    """As `common.predict` writes them, with ids of its own."""
    gt, dt = make_files(tmp_path)
    before, detections = printed(gt, dt, capsys), json.loads(dt.read_text())
    for record in detections:
        image, category = record["image_id"], record["category_id"]
        record |= {"file_name": f"photos/{image}.jpg", "category": f"class {category}"}
        record |= {"image_id": 11 - image, "category_id": 4 - category}
    dt.write_text(json.dumps(detections))
    assert printed(gt, dt, capsys) == before
    contents = json.loads(gt.read_text())
    for record in [*contents["images"], *contents["categories"]]:
        record.pop("file_name", record.pop("name", None))
    gt.write_text(json.dumps(contents))
    assert printed(gt, dt, capsys) != before, "of a ground truth without names the ids count"
    make_files(tmp_path)
    dt.write_text(json.dumps([detections[0] | {"file_name": "other.jpg"}]))
    with pytest.raises(InputError, match=r"record 0 .* has 'other.jpg' as file_name, which no image of the ground"):
        printed(gt, dt, capsys)


@pytest.mark.parametrize("spell", [str, float, bool, lambda crowd: "true" if crowd else "False"])
def test_flags_in_any_spelling_give_the_same_numbers(tmp_path, capsys, spell):
    gt, dt = make_files(tmp_path)
    before = printed(gt, dt, capsys)
    contents = json.loads(gt.read_text())
    assert any(record["iscrowd"] for record in contents["annotations"])
    for record in contents["annotations"]:
        record["iscrowd"] = spell(record["iscrowd"])
    gt.write_text(json.dumps(contents), encoding="utf-8-sig")
    assert printed(gt, dt, capsys) == before


def with_first(**changes):
    return lambda content: {**content, "annotations": [{**content["annotations"][0], **changes}]}


BAD_GROUND_TRUTHS = [
    (lambda content: [], "must hold an object with images"),
    (lambda content: {**content, "annotations": 5}, "'annotations' in .* must be a list of objects"),
    (lambda content: {**content, "images": [], "annotations": []}, "has no images, so there is nothing to evaluate"),
    (lambda content: {**content, "images": [*content["images"], {"id": 2}]}, "has the id 2, as another has"),
    (lambda content: {**content, "annotations": [{"image_id": 3, "category_id": 1}]}, "record 0 .* has no bbox"),
    (lambda content: {**content, "categories": [{"id": [1]}]}, "has .1. as id, which must be a whole number or a text"),
    (lambda content: {**content, "categories": [{"id": 5}]}, "has [123] as category_id, which no category has"),
    (with_first(iscrowd="perhaps"), "has 'perhaps' as iscrowd, which must be 0 or 1"),
    (with_first(bbox=[1, 2, -3, 4]), "has a negative width or height"),
]
BAD_DETECTIONS = [
    ({"image_id": 99}, "record 0 of the detections .* has 99 as image_id, which no image has"),
    ({"category_id": 99}, "has 99 as category_id, which no category has"),
    ({"score": float("nan")}, "has nan as score, which must be a finite number"),
    ({"score": None}, "has no score"),
    ({"bbox": [1, 2, 3]}, r"must be \[x, y, width, height\]"),
    ({"bbox": [1, 2, -3, 4]}, "no negative width"),
]


@pytest.mark.parametrize(
    ("gt_change", "dt_change", "message"),
    [
        *((change, {}, message) for change, message in BAD_GROUND_TRUTHS),
        *((dict, change, message) for change, message in BAD_DETECTIONS),
    ],
)
def test_bad_content_gives_a_sentence(tmp_path, gt_change, dt_change, message):
    gt, dt = make_files(tmp_path)
    gt.write_text(json.dumps(gt_change(json.loads(gt.read_text()))))
    dt.write_text(json.dumps([{**json.loads(dt.read_text())[0], **dt_change}]))
    with pytest.raises(InputError, match=message):
        main(EvaluateCommand(gt=gt, dt=dt))


def test_unreadable_files_give_a_sentence(tmp_path):
    gt, dt = make_files(tmp_path)
    with pytest.raises(InputError, match="no annotations at"):
        main(EvaluateCommand(gt=tmp_path / "nowhere.json", dt=dt))
    for content in (b"{not json", b"\xff\xfe"):
        dt.write_bytes(content)
        with pytest.raises(InputError, match="not valid JSON"):
            main(EvaluateCommand(gt=gt, dt=dt))


def test_what_is_no_list_of_detections_is_one_short_sentence(tmp_path):
    gt, dt = make_files(tmp_path)
    for file, says in {gt: "holds a ground truth, not detections", dt: "must hold an object with images"}.items():
        with pytest.raises(InputError, match=says) as told:
            main(EvaluateCommand(gt=file, dt=file))
        assert len(str(told.value)) < 120 + len(str(file))
