"""A detector beside torchvision's, trained for as long."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import photographs
from benchmarks.torchvision_detector import TorchvisionDetector
from common.cli import run
from common.models.resnet import ResNet
from common.plain import read_json, write_json
from joint_detnas import train
from joint_detnas.presets import PRESETS, SMOKE
from tests.common.models.families import make_batch
from tests.joint_detnas.conftest import TINY

DATA = "scenes:train=40,val=8,size=64"


def test_torchvisions_detector_learns_and_detects_as_torchvision_does():
    torch.manual_seed(0)
    batch = make_batch()
    size = tuple(batch.images.shape[:1:-1])
    network = TorchvisionDetector(ResNet("resnet18", width=8), 3, size, SMOKE.detector)
    optimiser, losses = torch.optim.Adam(network.parameters(), 3e-3), []
    for _ in range(60):
        found = network.losses(batch)
        optimiser.zero_grad()
        found["loss"].backward()
        optimiser.step()
        losses.append(float(found["loss"].detach()))
    assert losses[-1] < 0.5 * losses[0]
    parts = [float(value.detach()) for name, value in found.items() if name != "loss"]
    assert len(parts) == 4
    assert losses[-1] == pytest.approx(sum(parts))
    network.eval()
    with torch.no_grad():
        ours, theirs = network.detect(batch.images), network.network(list(batch.images))
    for place, one in enumerate(theirs):
        found = ours.image(place)
        assert [(each.label + 1, each.score) for each in found] == list(
            zip(one["labels"].tolist(), one["scores"].tolist(), strict=True)
        )
        assert [list(each.box) for each in found] == one["boxes"].tolist()
        best = max(found, key=lambda each: each.score)
        truth = batch.boxes[place][batch.valid[place]]
        shared = (torch.minimum(torch.tensor(best.box[2:]), truth[:, 2:]) > truth[:, :2]).all(dim=1)
        assert shared.any(), "the best box lies on an object"


def test_it_samples_as_many_regions_as_our_detectors():
    batch = make_batch()
    settings = replace(SMOKE.detector, rpn_samples=6, region_samples=5, proposals=(9, 7))
    network = TorchvisionDetector(ResNet("resnet18", width=8), 3, tuple(batch.images.shape[:1:-1]), settings)
    seen = []
    network.network.roi_heads.box_predictor.register_forward_hook(lambda _, __, found: seen.append(len(found[0])))
    network.losses(batch)
    with torch.no_grad():
        network.eval().detect(batch.images)
    images = len(batch.images)
    assert seen == [5 * images, 7 * images]
    assert network.network.rpn.fg_bg_sampler.batch_size_per_image == 6


def test_it_trains_for_as_long_as_the_detector_did(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(PRESETS, "smoke", replace(TINY, name="smoke"))
    monkeypatch.setattr(train.Options, "SHOWS_RUNS", False)
    made = ["--scale", "smoke", "--data", DATA, "--precision", "bfloat16", "--out", str(tmp_path / "runs"), "--json"]
    run(train.main, train.Options, made)
    file = json.loads(capsys.readouterr().out)["file"]

    def compared(data: str) -> dict:
        typed = [file, "--data", data, "--out", str(tmp_path / "beside.json"), "--runs", str(tmp_path / "theirs")]
        run(photographs.main, photographs.Options, typed)
        return json.loads((tmp_path / "beside.json").read_text())

    record = compared(DATA)
    run_folder = tmp_path / "runs/joint_detnas/scenes-smoke/base-resnet18-s0"
    took = read_json(run_folder / "stages/detector.json")["cpu_seconds"]
    assert record["ours"]["cpu_seconds"] == pytest.approx(took), "training on crops counts on neither side"
    (pace,) = Path(tmp_path / "theirs").rglob("pace.json")
    paced = read_json(pace)
    assert record["torchvision"]["samples"] == paced["samples"] * max(1, round(took / paced["cpu_seconds"]))
    assert record["photographs"] == "scenes"
    assert record["precision"] == "bfloat16"

    def refused(data: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit):
            compared(data)
        return capsys.readouterr().err

    assert "was measured on other images than --data" in refused("scenes:train=40,val=8,size=32")
    write_json(Path(file), read_json(Path(file)) | {"provenance": {"torchvision": "fasterrcnn.pth"}})
    assert "was trained at none of the scales smoke, " in refused(DATA)
