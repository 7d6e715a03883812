"""The command that trains what a search builds on."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from common.cli import parse, run
from common.cost import count
from common.models.detector import load_detector
from common.models.roi_head import CASCADE
from common.train import loop
from joint_detnas import search, train
from joint_detnas.presets import PRESETS
from joint_detnas.study import JointDetNASStudy
from joint_detnas.train import Options
from tests.joint_detnas.conftest import DATA, tiny_options


def trained(capsys, *flags: str) -> str:
    run(train.main, Options, flags)
    return capsys.readouterr().out


def test_base_and_pool_are_reported(capsys, tiny, searched):
    flags = ["--device", "cpu", "--data", DATA, "--out", str(searched)]
    base = json.loads(trained(capsys, *flags, "--json"))
    detector = load_detector(base["file"])
    assert detector.description["AP"] == base["AP"]
    assert base["run"] == str(searched / "joint_detnas" / "scenes-smoke" / "base-resnet18-s0")
    assert Path(base["file"]).is_relative_to(base["run"])
    assert base["next"] == f"python -m joint_detnas.search --scale smoke --data {DATA} --out {searched} --device cpu"
    assert f"detector: {base['file']}" in trained(capsys, *flags).splitlines()
    pool = json.loads(trained(capsys, *flags, "--what", "pool", "--json"))
    assert pool["teachers"] == tiny.teachers.count()
    assert "phases full, all" in trained(capsys, *flags, "--what", "pool")


def test_a_found_detector_becomes_a_cascade_once(capsys, tiny, searched, monkeypatch):
    flags = ["--device", "cpu", "--data", DATA, "--out", str(searched), "--what", "cascade"]
    report = json.loads(trained(capsys, *flags, "--json"))
    study = JointDetNASStudy(tiny_options(searched))
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
    assert {"roi_class", "distil_feature", "distil_class", "distil_box"} <= report["losses"].keys()

    monkeypatch.setattr(loop._Stage, "train", lambda *_: pytest.fail("something was trained again"))
    again = json.loads(trained(capsys, *flags, "--json"))
    assert again | {"seconds_of_command": 0} == report | {"seconds_of_command": 0}
    lines = trained(capsys, *flags).splitlines()
    assert lines[0].startswith(f"found detector: AP {100 * report['found']['AP']:.1f} at ")
    assert lines[1].startswith(f"cascade: AP {100 * report['AP']:.1f} at 64x32, ")
    assert lines[-1].startswith("next: python -m joint_detnas.train ")
    assert "--what cascade" in lines[-1]
    assert "--seed 1" in lines[-1]


def test_what_is_next_is_of_the_same_runs():
    """Runs of another device, precision, seed or setting are others: a command that left these out would be refused."""
    flags = ["--scale", "nano", "--data", "coco:a b", "--backbone", "resnet34", "--seed", "2", "--out", "o"]
    flags += ["--device", "cpu", "--precision", "bfloat16", "--preset.batch-size", "4", "--workers", "3"]
    given = parse(Options, flags)
    following = parse(search.Options, shlex.split(train._next(given))[3:])
    shared = ("scale", "data", "backbone", "seed", "out", "device", "precision", "preset", "workers")
    assert [getattr(following, name) for name in shared] == [getattr(given, name) for name in shared]
    again = parse(Options, shlex.split(train._next(replace(given, what="cascade")))[3:])
    assert again == replace(given, what="cascade", seed=3)


# ---- plans


def test_plans_say_costs_and_schedule(capsys):
    plan = json.loads(trained(capsys, "--describe", "--backbone", "resnet50", "--json"))
    assert plan["student"]["cost"]["backbone_macs_mmdet"] == pytest.approx(88.03e9, rel=1e-4)
    assert plan["training"]["epochs"] == 24
    text = trained(capsys, "--describe", "--backbone", "resnet50")
    assert "88.03 G MAC" in text
    assert "24 epochs by sgd at 0.02" in text
    teacher = "d3-4-6-3_w1-1-1-1_n1"
    plan = json.loads(trained(capsys, "--describe", "--what", "pool", "--teacher", teacher, "--json"))
    assert plan["cost"]["params"] == pytest.approx(41.75e6, rel=0.01), "R50-FPN"
    text = trained(capsys, "--describe", "--what", "pool", "--teacher", teacher)
    assert "64,152 teachers" in text
    assert "full 24 epochs, one-step 12 epochs, all 24 epochs; 2 sub-networks a step" in text


@pytest.mark.parametrize("scale", PRESETS)
def test_a_cascades_plan_says_the_cost_before_and_after(capsys, scale):
    backbone = "resnext101_32x4d" if scale == "paper" else "resnet18"
    flags = ("--describe", "--what", "cascade", "--scale", scale, "--backbone", backbone)
    plan = json.loads(trained(capsys, *flags, "--json"))
    before, after = plan["cost"]["before"], plan["cost"]["after"]
    heads = after["parts"]["roi"]["macs"] / before["parts"]["roi"]["macs"]
    assert heads == plan["cascade"]["heads"] == 3
    assert before["parts"]["backbone"]["macs"] < after["parts"]["backbone"]["macs"]
    assert before["parts"]["fpn"] == after["parts"]["fpn"]
    if scale == "paper":
        assert plan["training"]["epochs"] == 16
        assert before["params"] == pytest.approx(60.4e6, rel=0.01), "X101-FPN"
    text = trained(capsys, *flags)
    assert f"to {after['macs_mmdet'] / 1e9:.4g} G MAC" in text
    assert "with 3 heads and deformable convolutions" in text


# ---- bad input


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (["--seed", "-1"], "--seed must be at least 0, got -1"),
        (["--backbone", "vgg"], "no backbone is called 'vgg'"),
        (["--teacher", "d1"], "--teacher is for --what pool --describe"),
        (["--what", "pool", "--describe", "--teacher", "d1"], "'d1' is no teacher"),
        (["--data", "sceness"], "unknown data"),
    ],
)
def test_bad_input_is_one_sentence(wrong, word, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        trained(capsys, "--device", "cpu", "--out", str(tmp_path), *wrong)
    printed = capsys.readouterr()
    assert ended.value.code == 2
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert word in printed.err
    assert not list(Path(tmp_path).iterdir())
