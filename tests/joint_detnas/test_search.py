"""The two commands: search and train."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import tyro

from common.cli import run
from common.models.detector import load_detector
from common.train import distributed, loop
from joint_detnas import search, train
from joint_detnas.presets import KINDS, PRESETS, Teacher, TeacherSpace
from joint_detnas.search import SearchCommand
from joint_detnas.train import TrainCommand


@pytest.fixture
def flags(tiny, data, searched, monkeypatch, steady) -> list[str]:
    """Of a smoke scale that is TINY, in the folder that tests share."""
    monkeypatch.setitem(PRESETS, "smoke", tiny)
    return ["--device", "cpu", "--data", data, "--out", str(searched)]


def said(capsys, *flags: str) -> str:
    run(search.main, SearchCommand, flags)
    return capsys.readouterr().out


def trained(capsys, *flags: str) -> str:
    run(train.main, TrainCommand, flags)
    return capsys.readouterr().out


def test_base_and_result_side_by_side(capsys, flags, tiny, data, searched, monkeypatch):
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

    monkeypatch.setattr(loop._Training, "train", lambda *_: pytest.fail("something was trained again"))
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

    base_said = json.loads(trained(capsys, *flags, "--json"))
    assert base_said["AP"] == base["AP"]
    following = f"python -m joint_detnas.search --scale smoke --data {data} --out {searched} --device cpu"
    assert base_said["next"] == following
    assert f"detector: {base['file']}" in trained(capsys, *flags).splitlines()
    pool = json.loads(trained(capsys, *flags, "--what", "pool", "--json"))
    assert pool["teachers"] == tiny.teachers.count() == report["pool"]["teachers"]
    assert "phases full, all" in trained(capsys, *flags, "--what", "pool")


def test_what_is_next_is_of_the_same_runs():
    """Runs of another device, precision, seed or base are others: a command that left these out would be refused."""
    given = SearchCommand("nano", "coco:a b", Path("x y"), None, "none", 7, 2, Path("o"), "cpu", "bfloat16", 3)
    following = shlex.split(search._next(given))
    assert following[:3] == ["python", "-m", "joint_detnas.search"]
    assert tyro.cli(SearchCommand, args=following[3:]) == replace(given, control="random")
    given = TrainCommand("base", "nano", "coco:a b", "resnet34", 2, Path("o"), "cpu", "bfloat16")
    following = tyro.cli(SearchCommand, args=shlex.split(train._next(given))[3:])
    shared = ("scale", "data", "backbone", "seed", "out", "device", "precision")
    assert [getattr(following, name) for name in shared] == [getattr(given, name) for name in shared]
    again = tyro.cli(TrainCommand, args=shlex.split(train._next(replace(given, what="cascade")))[3:])
    assert again == replace(given, what="cascade", seed=3)


def test_a_search_does_not_start_in_several_processes(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(distributed, "size", lambda: 2)
    monkeypatch.setattr(distributed, "rank", lambda: 0)
    with pytest.raises(SystemExit):
        said(capsys, "--device", "cpu", "--out", str(tmp_path))
    assert "a search is not for torchrun" in capsys.readouterr().err
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
    run(search.main, SearchCommand, [*flags, "--pairs", "7", "--control", control, "--json"])
    assert asked == [pairs]
    assert f"teachers, {pairs} pairs" in capsys.readouterr().err


@pytest.mark.parametrize("scale", list(PRESETS))
def test_description_of_the_space(capsys, scale):
    described = json.loads(said(capsys, "--describe", "--scale", scale, "--json"))
    teachers = described["teachers"]
    space = PRESETS[scale].teachers
    assert teachers["size"] == space.count()
    assert teachers["printed"]["size_at_paper_scale"] == 64_152
    assert "765,000" in teachers["printed"]["size"]
    assert teachers["cost"]["lowest"] < teachers["cost"]["highest"]
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


def test_training_plans(capsys):
    plan = json.loads(trained(capsys, "--describe", "--backbone", "resnet50", "--json"))
    assert plan["student"]["cost"]["backbone_macs_mmdet"] == pytest.approx(88.03e9, rel=1e-4)
    assert plan["training"]["epochs"] == 24
    text = trained(capsys, "--describe", "--backbone", "resnet50")
    assert "88.03 G MAC" in text
    teacher = "d3-4-6-3_w1-1-1-1_n1"
    plan = json.loads(trained(capsys, "--describe", "--what", "pool", "--teacher", teacher, "--json"))
    assert plan["cost"]["params"] == pytest.approx(41.75e6, rel=0.01), "R50-FPN"
    assert "64,152 teachers" in trained(capsys, "--describe", "--what", "pool")


@pytest.mark.parametrize(
    ("command", "wrong", "word"),
    [
        ("search", ["--workers", "-1"], "--workers -1 is no number of processes: give 0 or more"),
        ("search", ["--seed", "-1"], "--seed -1 is no seed: give 0 or more"),
        ("search", ["--device", "gpu"], "device 'gpu' cannot be used here: give cpu, or cuda where there is one"),
        ("search", ["--pairs", "0"], "--pairs 0 leaves nothing to search: give 1 or more"),
        ("search", ["--backbone", "resnet9"], "no backbone is called 'resnet9': give one of resnet18"),
        ("search", ["--base", "x", "--backbone", "resnet18"], "give it or --backbone, not both"),
        ("search", ["--base", "/nowhere/detector.json"], "is not there"),
        ("search", ["--data", "coco:/nowhere/at/all"], "no folder"),
        ("search", ["--data", "scenes:train=4"], "4 training images"),
        ("train", ["--seed", "-1"], "--seed -1 is no seed: give 0 or more"),
        ("train", ["--backbone", "vgg"], "no backbone is called 'vgg'"),
        ("train", ["--teacher", "d1"], "--teacher is for --what pool --describe"),
        ("train", ["--what", "pool", "--describe", "--teacher", "d1"], "'d1' is no teacher"),
        ("train", ["--data", "sceness"], "unknown data"),
    ],
)
def test_bad_input_is_one_sentence(command, wrong, word, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        {"search": said, "train": trained}[command](capsys, "--device", "cpu", "--out", str(tmp_path), *wrong)
    printed = capsys.readouterr()
    assert ended.value.code == 2
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert word in printed.err
