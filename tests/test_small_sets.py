"""Sixty real pictures are enough for every paper's trainings and searches, whatever a scale would like to have."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from common.cli import run
from common.data.image_files import ImageFiles
from common.plain import read_json, write_json

SPLITS = {"train": 48, "val": 12}
LARGER = {"train_images": 64, "search_images": 250, "validation_images": 1000, "crops": 1000}
"""What a preset asks for, more than there is: an epoch repeats the training images."""


@pytest.mark.parametrize("paper", ["detofa", "joint_detnas", "sm_nas"])
def test_two_hundred_pictures_fill_a_batch_of_every_scale(paper):
    """160 of them are for training, and a fifth of those is held out."""
    for preset in import_module(f"{paper}.presets").PRESETS.values():
        trainings = (preset,)
        if paper == "sm_nas":
            trainings = (preset.stage_one_training, preset.stage_two_training, preset.final_training)
        assert max(each.batch_size for each in trainings) <= 160 - 32


@pytest.fixture
def cells(bccd, tmp_path) -> Path:
    """The first pictures of each split of the blood cells."""
    folder = tmp_path / "cells"
    (folder / "images").mkdir(parents=True)
    for split, number in SPLITS.items():
        name = f"annotations/instances_{split}.json"
        whole = read_json(bccd / name)
        images = whole["images"][:number]
        there = {image["id"] for image in images}
        boxes = [each for each in whole["annotations"] if each["image_id"] in there]
        write_json(folder / name, whole | {"images": images, "annotations": boxes})
        for image in images:
            shutil.copy(bccd / "images" / image["file_name"], folder / "images")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("paper", ["detofa", "joint_detnas", "sm_nas"])
def test_a_training_and_a_search_of_few_pictures(paper, cells, tmp_path, monkeypatch, capsys):
    presets = import_module(f"{paper}.presets")
    if paper == "detofa":
        tiny = presets.SMOKE
    else:
        tiny = import_module(f"tests.{paper}.conftest").TINY
    monkeypatch.setitem(presets.PRESETS, "smoke", replace(tiny, **LARGER, latency_images=1))
    decoded, load = Counter(), ImageFiles.__call__
    monkeypatch.setattr(
        ImageFiles, "__call__", lambda files, index: (decoded.update([files.path(index)]), load(files, index))[1]
    )

    def report(command: str, *flags: str) -> dict:
        module = import_module(f"{paper}.{command}")
        run(module.main, module.Options, [*flags, "--device", "cpu", "--json"])
        return json.loads(capsys.readouterr().out)

    given = ("--scale", "smoke", "--data", f"coco:{cells}", "--out", str(tmp_path))
    trained = report("train", *given)
    found = report("search", *(("--run", trained["run"]) if paper == "detofa" else given))
    config = read_json(Path(trained["run"]) / "config.json")
    assert config["preset"]["train_images"] == 64
    stages = [read_json(file) for file in Path(trained["run"]).glob("stages/*.json")]
    assert any(each["samples"] % 64 == 0 for each in stages), "an epoch has the images that the scale asks for"
    for detector in [found["result"]] if paper == "joint_detnas" else found["found"]:
        assert Path(detector["file"]).is_file()
    trained_on = read_json(cells / "annotations/instances_train.json")["images"]
    times = {decoded[cells / "images" / image["file_name"]] for image in trained_on}
    assert max(times) <= 5, "once for each of three sizes, once for crops, once to find damaged ones"
