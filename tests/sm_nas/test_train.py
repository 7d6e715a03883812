"""The command that trains one detector."""

import json
import math
import shlex
from pathlib import Path

import numpy as np
import pytest

from common import study as shared
from common.cli import parse, run
from common.evaluate.average_precision import GroundTruth
from common.models.detector import load_detector
from common.plain import InputError
from common.train import loop
from sm_nas import search
from sm_nas.encoding import Structure
from sm_nas.presets import PAPER, SMOKE
from sm_nas.study import SMNAS
from sm_nas.train import ROWS, Options, find_model, find_strategy, main, points
from tests.sm_nas.conftest import DATA, TINY, tiny_options

CODED = "MBblock_12_1-2-21-21 64x32 P1-P5 c16 rpn cascade2"


def said(capsys, *flags: str) -> str:
    run(main, Options, [*flags, "--device", "cpu"])
    printed = capsys.readouterr()
    return printed.out


# ---- what is trained


def test_names_are_those_of_the_scale_however_they_are_written():
    models = dict((*SMOKE.models, *SMOKE.classics))
    for text in ("FPN R50", "fpn r50", "fpn-r50"):
        assert find_model(text, SMOKE) == ("FPN R50", models["FPN R50"])
    assert find_model("e4", SMOKE) == ("E4", models["E4"])
    assert find_model("E4", PAPER)[1] == dict(PAPER.models)["E4"] != models["E4"]


def test_a_structure_may_be_written_out():
    text = "resnet50 96x96 P1-P5 c32 rpn cascade3"
    assert find_model(f"  {text.replace(' ', '  ')}", SMOKE) == (text, Structure.parse(text))
    assert find_model(CODED, SMOKE) == (CODED, Structure.parse(CODED))
    assert find_model(str(dict(SMOKE.models)["E4"]), SMOKE)[0] == "E4", "what has a name shares its run"


def test_strategies():
    assert find_strategy("final", SMOKE) == SMOKE.final_training
    assert find_strategy("from-scratch", SMOKE) == SMOKE.stage_two_training
    assert [find_strategy(row, SMOKE) for row in ROWS] == list(SMOKE.strategies)


# ---- the plan


@pytest.fixture
def no_data(monkeypatch):
    monkeypatch.setattr(shared, "load", lambda *_, **__: pytest.fail("data were read"))


@pytest.mark.usefixtures("no_data")
def test_the_papers_e3_without_any_other_flag(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(main, Options, ["--model", "E3", "--describe", "--json"])
    printed = capsys.readouterr()
    plan = json.loads(printed.out)
    assert printed.err == ""
    assert list(tmp_path.iterdir()) == []
    assert plan["scale"] == "paper"
    assert plan["structure"] == str(dict(PAPER.models)["E3"])
    assert plan["input_size"] == [800, 608]
    assert plan["categories"] == 80
    assert plan["backbone"]["macs_mmdet"] / 1e9 == pytest.approx(58.95, abs=0.01)
    assert plan["backbone"]["out_channels"] == [448, 448, 896, 1792]
    assert plan["detector"]["params"] / 1e6 == pytest.approx(52.05, abs=0.01)
    assert plan["detector"]["macs"] > plan["backbone"]["macs"]
    assert plan["printed"] == {"backbone_flops": 59.2e9, "latency": 50.7, "AP": 42.7, "of": "Table 2"}
    assert (plan["norm"], plan["epochs"], plan["images_a_step"]) == ("batch", 24, 32)
    assert plan["steps"] == 24 * ((118_287 - 2000) // 32)


@pytest.mark.usefixtures("no_data")
def test_plans_of_other_scales_data_and_strategies(capsys):
    plan = json.loads(said(capsys, "--model", "E3", "--scale", "smoke", "--describe", "--json"))
    assert plan["printed"] is None, "Table 2 is about another network"
    assert (plan["steps"], plan["images_a_step"]) == (2 * (16 // 8), 8)
    flags = ("--scale", "smoke", "--data", "scenes:train=64", "--strategy", "7", "--describe", "--json")
    plan = json.loads(said(capsys, "--model", CODED, *flags))
    strategy = SMOKE.strategies[7]
    assert plan["categories"] < 80
    assert plan["norm"] == "group-ws"
    assert plan["images_a_step"] == strategy.images_a_device * strategy.devices
    assert plan["modules"] == {**plan["modules"], "levels": [1, 5], "heads": "cascade2", "size": [64, 32]}
    flags = ("--scale", "paper", "--data", "coco:/nowhere", "--describe", "--json")
    assert json.loads(said(capsys, "--model", "resnet18 64x32 no-fpn rpn 2fc", *flags))["steps"] is None
    run(main, Options, ["--data", "coco:/nowhere", "--describe"])
    assert capsys.readouterr().err == "coco:/nowhere is not read: 80 classes are assumed\n"


@pytest.mark.usefixtures("no_data")
def test_a_plan_for_people(capsys):
    text = said(capsys, "--model", "E5", "--describe")
    assert "161.8G MAC" in text
    assert "Table 2 prints 162.45G" in text
    assert "92M parameters" in text


# ---- training


@pytest.mark.usefixtures("tiny_smoke", "steady")
def test_a_detector_is_trained_once_and_written(capsys, tmp_path, monkeypatch):
    square = CODED.replace("64x32", "64x64")
    flags = ("--model", square, "--strategy", "from-scratch", "--data", DATA, "--out", str(tmp_path))
    report = json.loads(said(capsys, *flags, "--json"))
    folder = tmp_path / "sm_nas" / "scenes-smoke" / "from-scratch-mbblock-12-1-2-21-21-64x64-p1-p5-c16-rpn-cascade2-s0"
    assert Path(report["run"]) == folder
    assert report["structure"] == report["model"] == square
    assert json.loads((folder / "result.json").read_text())["AP"] == report["AP"]
    assert report["next"] == f"python -m sm_nas.search --scale smoke --data {DATA} --out {tmp_path} --device cpu"

    detector = load_detector(folder / "detector")
    study = SMNAS(tiny_options(tmp_path))
    pictures = study.sets["validation"]
    images = [pictures.load_image(index) for index in range(len(pictures))]
    numbers = GroundTruth(pictures).evaluate(detector.detect(images), np.arange(len(images)))
    assert numbers["AR100"] == pytest.approx(report["AR100"], abs=1e-6)
    assert detector.input_size == 64
    assert detector.categories == study.categories
    description = json.loads(Path(report["file"]).read_text())
    assert description["cost"]["params"] == sum(parameter.numel() for parameter in detector.model.parameters())
    assert description["cost"]["macs"] == report["macs"]
    assert description["provenance"].items() >= {"run": str(folder), "scale": "tiny", "seed": 0}.items()

    monkeypatch.setattr(loop._Stage, "train", lambda *_: pytest.fail("it was trained again"))
    text = said(capsys, *flags)
    assert f"AP {100 * report['AP']:.1f}" in text
    assert f"detector: {report['file']}" in text
    assert f"next: {report['next']}" in text


@pytest.mark.usefixtures("tiny_smoke", "steady")
def test_a_final_is_the_run_that_the_exhibits_share(capsys, tmp_path, monkeypatch):
    """Nothing is trained here: what would be is looked at."""
    asked = {}

    def train(self, run, structure, strategy):
        asked[run.path.name] = strategy
        raise InputError("enough")

    monkeypatch.setattr(SMNAS, "train", train)
    for flags in (("E0",), ("E0", "--seed", "3"), ("FPN R50",), ("E0", "--strategy", "4")):
        with pytest.raises(SystemExit):
            said(capsys, "--data", DATA, "--out", str(tmp_path), "--model", *flags)
    assert list(asked) == ["final-e0-s0", "final-e0-s3", "final-fpn-r50-s0", "row-4-e0-s0"]
    assert asked["final-e0-s0"] == TINY.final_training
    assert asked["row-4-e0-s0"] == SMOKE.strategies[4]


@pytest.mark.usefixtures("tiny_smoke", "steady")
def test_where_there_is_nothing_to_find_there_is_no_ap(capsys, tmp_path, monkeypatch):
    costs = dict.fromkeys(("backbone_macs_mmdet", "macs_mmdet", "params", "seconds", "peak_memory"), 1.0)
    latency = {"latency": 2.0, "latency_iqr": 0.1, "latency_of": dict.fromkeys(("device", "precision", "software"), "")}
    found = {"AP": 0.25, "APs": 0.0, "APm": 0.5, "APl": -1.0}  # COCO's numbers have -1 there
    monkeypatch.setattr(SMNAS, "trained", lambda *_: found | costs | latency)
    monkeypatch.setattr(SMNAS, "write_detector", lambda *_: "file")
    text = said(capsys, "--data", DATA, "--out", str(tmp_path))
    assert text.startswith("E0: AP 25.0 (small 0.0, medium 50.0, large -)\n")
    assert [points(share) for share in (math.nan, None)] == ["failed"] * 2, "of a search's candidate"


@pytest.mark.usefixtures("tiny_smoke", "steady")
def test_what_is_next_is_of_the_same_runs(capsys, tmp_path, monkeypatch):
    """Runs of another device, precision or setting are others: a command that left these out would be refused."""
    monkeypatch.setattr(SMNAS, "trained", lambda *_: {"AP": 0.5})
    monkeypatch.setattr(SMNAS, "write_detector", lambda *_: "file")
    given = ["--data", DATA, "--seed", "2", "--out", str(tmp_path), "--precision", "bfloat16", "--preset.groups", "3"]
    report = json.loads(said(capsys, *given, "--json", "--strategy", "4"))
    following = parse(search.Options, shlex.split(report["next"])[3:])
    assert following == parse(search.Options, [*given, "--device", "cpu"])
