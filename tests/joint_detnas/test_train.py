"""The command of the deformable cascade."""

import json
from dataclasses import replace

import pytest

from common.cli import run
from common.cost import count
from common.models.detector import load_detector
from common.models.roi_head import CASCADE
from common.plain import InputError
from common.train import loop
from common.train.run_folder import Run
from joint_detnas import train
from joint_detnas.presets import PRESETS
from joint_detnas.study import Study
from joint_detnas.train import TrainCommand


def said(capsys, *flags: str) -> str:
    run(train.main, TrainCommand, ("--what", "cascade", *flags))
    return capsys.readouterr().out


def test_the_found_detector_is_upgraded_once(capsys, tiny, data, searched, monkeypatch, steady):
    monkeypatch.setitem(PRESETS, "smoke", tiny)
    flags = ["--device", "cpu", "--data", data, "--out", str(searched)]
    report = json.loads(said(capsys, *flags, "--json"))
    study = Study(tiny, data, 0, searched)
    assert report["found"] == json.loads(json.dumps(study.upgraded()))
    assert report["run"] == str(study.folder / "cascade-resnet18-s0")
    assert report["size"] == list(tiny.base_size)
    detector = load_detector(report["file"])
    found = load_detector(report["found"]["file"]).model
    assert detector.model.backbone.architecture == found.backbone.architecture
    assert detector.model.backbone.deformable == (2, 3, 4)
    assert detector.model.roi.settings.stages == (found.roi.settings.stages[0], *CASCADE[1:3])
    assert detector.description["AP"] == report["AP"]
    assert report["params"] == sum(each.numel() for each in detector.model.parameters())
    assert report["macs_mmdet"] == count(detector.model, tiny.base_size).macs_mmdet
    offsets = [each for name, each in detector.model.named_parameters() if ".offset.weight" in name]
    assert all(each.abs().sum() > 0 for each in offsets), "it was trained"
    losses = Run.read(study.folder / "cascade-resnet18-s0").result["losses"]
    assert {"roi_class", "distil_feature", "distil_class", "distil_box"} <= losses.keys()

    monkeypatch.setattr(loop._Stage, "train", lambda *_: pytest.fail("something was trained again"))
    again = json.loads(said(capsys, *flags, "--json"))
    spent = "seconds_of_command"
    assert {k: v for k, v in again.items() if k != spent} == {k: v for k, v in report.items() if k != spent}
    lines = said(capsys, *flags).splitlines()
    assert lines[0].startswith(f"found detector: AP {100 * report['found']['AP']:.1f} at ")
    assert lines[1].startswith(f"cascade: AP {100 * report['AP']:.1f} at 64x32, ")
    assert lines[-1].startswith("next: python -m joint_detnas.train --what cascade")
    assert " --seed 1 " in lines[-1]

    other = replace(tiny, cascade=replace(tiny.cascade, heads=2))
    with pytest.raises(InputError, match=r"holds a run with cascade\.heads"):
        Study(other, data, 0, searched).cascade()


@pytest.mark.parametrize("scale", list(PRESETS))
def test_it_is_described_without_data(capsys, scale):
    flags = ("--describe", "--scale", scale, "--backbone", "resnext101_32x4d" if scale == "paper" else "resnet18")
    plan = json.loads(said(capsys, *flags, "--json"))
    before, after = plan["cost"]["before"], plan["cost"]["after"]
    heads = after["parts"]["roi"]["macs"] / before["parts"]["roi"]["macs"]
    assert heads == plan["cascade"]["heads"] == 3
    assert before["parts"]["backbone"]["macs"] < after["parts"]["backbone"]["macs"]
    assert before["parts"]["fpn"] == after["parts"]["fpn"]
    if scale == "paper":
        assert plan["training"]["epochs"] == 16
        assert before["params"] == pytest.approx(60.4e6, rel=0.01), "X101-FPN"
    text = said(capsys, *flags)
    assert f"to {after['macs_mmdet'] / 1e9:.4g} G MAC" in text
    assert "3 heads" in text
