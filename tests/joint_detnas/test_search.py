"""The command that searches, and the space that it describes."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from common.cli import parse, run
from common.models.detector import load_detector
from common.train import distributed, loop
from joint_detnas import search
from joint_detnas.presets import KINDS, PRESETS, Teacher, TeacherSpace
from joint_detnas.search import COUNTED, Options, count_space
from tests.joint_detnas.conftest import DATA


@pytest.fixture
def flags(tiny, searched) -> list[str]:
    """Of a smoke scale that is TINY, in the folder that tests share."""
    return ["--device", "cpu", "--data", DATA, "--out", str(searched)]


def said(capsys, *flags: str) -> str:
    run(search.main, Options, flags)
    return capsys.readouterr().out


def test_base_and_result_side_by_side(capsys, flags, tiny, monkeypatch):
    report = json.loads(said(capsys, *flags, "--json"))
    base, result = report["base"], report["result"]
    assert report["pairs"] == tiny.search.budget
    assert len(report["steps"]) == tiny.search.budget + 1
    assert report["failed"] == 0
    assert base["size"] == list(tiny.base_size)
    for each in (base, result):
        detector = load_detector(each["file"])
        assert detector.description["AP"] == each["AP"]
        assert each["params"] == sum(parameter.numel() for parameter in detector.model.parameters())
    assert result["score"] == max(step["score"] for step in report["steps"])
    assert result["score"] >= report["base_score"]
    assert report["next"].endswith("--control random")

    monkeypatch.setattr(loop._Stage, "train", lambda *_: pytest.fail("something was trained again"))
    again = json.loads(said(capsys, *flags, "--json"))
    assert {k: v for k, v in again.items() if k != "seconds"} == {k: v for k, v in report.items() if k != "seconds"}
    lines = said(capsys, *flags).splitlines()
    assert lines[0].split() == ["base", "upgraded"]
    rows = {line[:16].strip(): line[16:].split() for line in lines[1:8]}
    assert rows["AP"] == [f"{100 * each['AP']:.1f}" for each in (base, result)]
    assert rows["input size"] == ["x".join(map(str, each["size"])) for each in (base, result)]
    assert rows["G MAC"] == [f"{each['macs_mmdet'] / 1e9:.4g}" for each in (base, result)]
    assert rows["latency ms"] == [f"{each['latency']:.2f}" for each in (base, result)]
    assert set(rows) >= {"M parameters", "training s"}
    assert f"upgraded detector: {result['file']}" in lines


def test_what_is_next_is_of_the_same_runs(monkeypatch, tmp_path):
    """Runs of another device, precision, seed, base or setting are others: a command that left these out would be
    refused, or make new ones."""
    found = {"steps": [{"score": 0.1}], "base": {}, "result": {}, "pool": None}
    shown = {}
    monkeypatch.setattr(search, "search", lambda study, control: dict(found))
    monkeypatch.setattr(search, "show", lambda report, *_: shown.update(report))
    flags = ["--scale", "smoke", "--data", DATA, "--backbone", "resnet34", "--pairs", "7", "--seed", "2", "--workers"]
    flags += ["3", "--out", str(tmp_path), "--device", "cpu", "--precision", "bfloat16", "--preset.search.alpha", "0.1"]
    given = parse(Options, flags)
    search.main(given)
    words = shlex.split(shown["next"])
    assert words[:3] == ["python", "-m", "joint_detnas.search"]
    assert parse(Options, words[3:]) == replace(given, control="random")
    search.main(replace(given, control="nas"))
    assert parse(Options, shlex.split(shown["next"])[3:]) == given


def test_a_search_does_not_start_in_several_processes(tmp_path, capsys, monkeypatch, tiny):
    monkeypatch.setattr(distributed, "size", lambda: 2)
    with pytest.raises(SystemExit):
        said(capsys, "--data", DATA, "--device", "cpu", "--out", str(tmp_path))
    assert "a search cannot run under torchrun" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_controls_are_searches_of_their_own(capsys, flags):
    report = json.loads(said(capsys, *flags, "--control", "conventional", "--json"))
    plain = json.loads(said(capsys, *flags, "--json"))
    assert {step["teacher"] for step in report["steps"]} == {plain["steps"][0]["teacher"]}
    assert report["folder"] == plain["folder"].replace("-s0", "-conventional-s0")
    assert report["base"] == plain["base"]
    assert "--control" not in report["next"]


@pytest.mark.parametrize(
    ("control", "pairs"), [("none", 7), ("random", 7), ("nas", 3), ("fixed-student", 7), ("fixed-pair", 7)]
)
def test_pairs_is_the_length_of_every_search(capsys, flags, monkeypatch, control, pairs):
    asked = []
    monkeypatch.setattr(search, "search", lambda study, control: asked.append(study.settings(control).budget) or {})
    run(search.main, Options, [*flags, "--pairs", "7", "--control", control, "--json"])
    assert asked == [pairs]
    assert f"teachers, {pairs} pairs" in capsys.readouterr().err


# ---- the space


@pytest.mark.parametrize("scale", PRESETS)
def test_costs_that_are_written_down_are_those_that_are_counted(scale):
    assert count_space(PRESETS[scale], PRESETS[scale].backbone) == COUNTED[scale]


@pytest.mark.parametrize("scale", PRESETS)
def test_description_of_the_space(capsys, scale):
    described = json.loads(said(capsys, "--describe", "--scale", scale, "--json"))
    teachers, counted = described["teachers"], COUNTED[scale]
    space = PRESETS[scale].teachers
    assert teachers["size"] == space.count()
    assert teachers["printed"]["size_at_paper_scale"] == 64_152
    assert "765,000" in teachers["printed"]["size"]
    assert [teachers["cost"][end] for end in ("lowest", "highest")] == [counted["lowest"], counted["highest"]]
    assert Teacher.parse(teachers["encoding"]["example"]) == space.largest()
    assert list(described["student"]["actions"]) == list(KINDS)
    assert described["sizes"] == ["x".join(map(str, size)) for size in PRESETS[scale].sizes]
    text = said(capsys, "--describe", "--scale", scale)
    assert f"{space.count():,}" in text
    assert "64,152" in text


def test_paper_scale_is_described_without_a_flag(capsys):
    described = json.loads(said(capsys, "--describe", "--json"))
    assert described["teachers"]["size"] == TeacherSpace().count() == 64_152
    assert described["student"]["backbone"] == "resnet101"
    assert described["student"]["cost"]["backbone_macs_mmdet"] == pytest.approx(167.91e9, rel=1e-4)
    # every stage but the stem's projection: 3 + 4 + 23 + 3 places behind a block
    assert described["student"]["actions"]["add-layer"] == 33
    assert described["student"]["actions"]["rearrange"] == 6


def test_another_backbone_or_setting_is_counted(capsys):
    described = json.loads(said(capsys, "--describe", "--scale", "nano", "--backbone", "resnet50", "--json"))
    assert described["student"]["cost"]["backbone_macs_mmdet"] > COUNTED["nano"]["backbone"]
    narrow = json.loads(said(capsys, "--describe", "--scale", "nano", "--preset.teachers.neck-width", "16", "--json"))
    assert narrow["teachers"]["cost"]["highest"] < COUNTED["nano"]["highest"]


# ---- bad input


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (["--workers", "-1"], "--workers must be at least 0, got -1"),
        (["--seed", "-1"], "--seed must be at least 0, got -1"),
        (["--device", "gpu"], "device 'gpu' cannot be used here: give cpu, or cuda where there is one"),
        (["--pairs", "0"], "--pairs must be at least 1, got 0"),
        (["--backbone", "resnet9"], "no backbone is called 'resnet9': give one of resnet18"),
        (["--base", "x", "--backbone", "resnet18"], "give --base or --backbone, not both"),
        (["--base", "/nowhere/detector.json"], "is not there"),
        (["--data", "coco:/nowhere/at/all"], "no folder"),
        (["--data", "scenes:train=4"], "4 training images"),
    ],
)
def test_bad_input_is_one_sentence(wrong, word, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        said(capsys, "--device", "cpu", "--out", str(tmp_path), *wrong)
    printed = capsys.readouterr()
    assert ended.value.code == 2
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert word in printed.err
    assert not list(Path(tmp_path).iterdir())
