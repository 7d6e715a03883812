"""The commands: what a search and its trainings report, the space and plans that they describe, what they refuse."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from common.cli import metric, next_with, parse, run
from common.cost import count
from common.models.detector import load_detector
from common.models.roi_head import CASCADE
from common.train import distributed, loop
from joint_detnas import reproduce, search, train
from joint_detnas.presets import KINDS, PRESETS, Teacher, TeacherSpace
from joint_detnas.search import COUNTED, count_space
from joint_detnas.study import JointDetNASStudy
from tests.joint_detnas.conftest import DATA, tiny_options


@pytest.fixture
def flags(tiny, searched) -> list[str]:
    """Of a smoke scale that is TINY, in the folder that tests share."""
    return ["--device", "cpu", "--data", DATA, "--out", str(searched)]


@pytest.fixture
def said(capsys):
    """(command, flags) -> what it prints."""

    def say(command, *flags: str) -> str:
        run(command.main, command.Options, flags)
        return capsys.readouterr().out

    return say


@pytest.fixture
def answer(said):
    """(command, flags) -> the object that it prints with --json."""
    return lambda command, *flags: json.loads(said(command, *flags, "--json"))


@pytest.fixture
def no_training(monkeypatch):
    """A function that forbids further training."""
    return lambda: monkeypatch.setattr(loop._Stage, "train", lambda *_: pytest.fail("something was trained again"))


def test_base_and_result_side_by_side(said, answer, flags, tiny, searched, no_training):
    report = answer(search, *flags)
    base, result = report["base"], report["result"]
    assert (report["pairs"], report["failed"], len(report["steps"])) == (tiny.search.budget, 0, tiny.search.budget + 1)
    assert base["size"] == list(tiny.base_size)
    for each in (base, result):
        detector = load_detector(each["file"])
        assert detector.description["AP"] == each["AP"]
        assert each["params"] == sum(parameter.numel() for parameter in detector.model.parameters())
    assert result["score"] == max(step["score"] for step in report["steps"]) >= report["base_score"]

    no_training()
    assert answer(search, *flags) | {"seconds": 0} == report | {"seconds": 0}
    lines = said(search, *flags).splitlines()
    assert lines[0].split() == ["base", "upgraded"]
    rows = {line[:16].strip(): line[16:].split() for line in lines[1:8]}
    assert rows["AP"] == [f"{100 * each['AP']:.1f}" for each in (base, result)]
    assert rows["input size"] == ["x".join(map(str, each["size"])) for each in (base, result)]
    assert rows["MAC (mmdet)"] == [metric(each["macs_mmdet"]) for each in (base, result)]
    assert rows["latency ms"] == [f"{each['latency']:.2f}" for each in (base, result)]
    assert set(rows) >= {"parameters", "training s"}
    assert f"upgraded detector: {result['file']}" in lines

    study = JointDetNASStudy(tiny_options(searched))
    with study.recording() as used:
        search.search(study)
    planned = search.stages(study, "none")
    assert {name.rpartition("/")[2] for name in used} == planned.keys()
    assert [name for name, work in planned.items() if not work] == ["latencies-resnet18-s0"]
    assert search.stages(study, "nas").keys() == {
        *(f"{name}-resnet18-s0" for name in ("classification", "base")),
        *(f"{name}-resnet18-nas-s0" for name in ("search", "latencies")),
    }


def test_base_and_pool_are_reported(said, answer, flags, tiny, searched):
    base = answer(train, *flags)
    assert load_detector(base["file"]).description["AP"] == base["AP"]
    assert base["run"] == str(searched / "joint_detnas" / "scenes-smoke" / "base-resnet18-s0")
    assert Path(base["file"]).is_relative_to(base["run"])
    assert base["next"] == f"python -m joint_detnas.search --scale smoke --data {DATA} --out {searched} --device cpu"
    lines = said(train, *flags).splitlines()
    assert f"detector: {base['file']}" in lines
    assert lines[-4:] == next_with(base["file"], DATA).splitlines()
    assert answer(train, *flags, "--what", "pool")["teachers"] == tiny.teachers.count()
    assert "phases full, all" in said(train, *flags, "--what", "pool")


def test_a_found_detector_becomes_a_cascade_once(said, answer, flags, tiny, searched, no_training):
    flags += ["--what", "cascade"]
    report, study = answer(train, *flags), JointDetNASStudy(tiny_options(searched))
    assert report["found"] == json.loads(json.dumps(study.upgraded()))
    assert report["run"] == str(study.folder / "cascade-resnet18-s0")
    assert report["size"] == list(tiny.base_size)
    detector, found = load_detector(report["file"]), load_detector(report["found"]["file"]).model
    assert detector.model.backbone.architecture == found.backbone.architecture
    assert detector.model.backbone.deformable == (2, 3, 4)
    assert detector.model.roi.settings.stages == (found.roi.settings.stages[0], *CASCADE[1:3])
    assert detector.description["AP"] == report["AP"]
    assert report["params"] == sum(each.numel() for each in detector.model.parameters())
    assert report["macs_mmdet"] == count(detector.model, tiny.base_size).macs_mmdet
    offsets = [each for name, each in detector.model.named_parameters() if ".offset.weight" in name]
    assert all(each.abs().sum() > 0 for each in offsets), "it was trained"
    assert {"roi_class", "distil_feature", "distil_class", "distil_box"} <= report["losses"].keys()

    no_training()
    assert answer(train, *flags) | {"seconds_of_command": 0} == report | {"seconds_of_command": 0}
    lines = said(train, *flags).splitlines()
    assert lines[0].startswith(f"found detector: AP {100 * report['found']['AP']:.1f} at ")
    assert lines[1].startswith(f"cascade: AP {100 * report['AP']:.1f} at 64x32, ")
    assert lines[-5].startswith("next: python -m joint_detnas.train ")
    assert {"--what", "cascade", "--seed", "1"} <= set(lines[-5].split())
    assert lines[-4:] == next_with(report["file"], DATA).splitlines()


@pytest.mark.parametrize(("control", "pairs"), [("none", 7), ("random", 7), ("nas", 3), ("fixed-pair", 7)])
def test_pairs_is_the_length_of_every_search(capsys, flags, monkeypatch, control, pairs):
    asked = []
    monkeypatch.setattr(
        search, "search", lambda study, control: asked.append(study.searching(control).search.budget) or {}
    )
    run(search.main, search.Options, [*flags, "--pairs", "7", "--control", control, "--json"])
    assert asked == [pairs]
    assert f"teachers, {pairs} pairs" in capsys.readouterr().err


def test_latencies_and_their_quartiles_are_of_one_timing(tiny, searched, monkeypatch):
    timed = {
        "base": {"latency": 2.0, "latency_iqr": 4.0, "rounds": [1.0, 2.0, 9.0], "latency_of": {"of": "base"}},
        "upgraded": {"latency": 3.0, "latency_iqr": 0.5, "rounds": [4.0, 3.0, 3.0], "latency_of": {"of": "result"}},
    }
    monkeypatch.setattr(JointDetNASStudy, "latencies", lambda *_: timed)
    report = search.search(JointDetNASStudy(tiny_options(searched)))
    for name, (latency, apart) in {"base": (2.0, 4.0), "result": (3.0, 0.5)}.items():
        assert (report[name]["latency"], report[name]["latency_iqr"]) == (latency, apart)
        assert report[name]["latency_of"] == {"of": name}


# ---- the next command: runs of another device, precision, seed, base or setting are others


SAME_RUNS = ["--backbone", "resnet34", "--seed", "2", "--workers", "3", "--device", "cpu", "--precision", "bfloat16"]


def test_what_follows_a_search_is_of_the_same_runs(monkeypatch, tmp_path):
    found = {"steps": [{"score": 0.1}], "base": {}, "result": {}, "pool": None}
    shown = {}
    monkeypatch.setattr(search, "search", lambda study, control: dict(found))
    monkeypatch.setattr(search, "show", lambda report, *_: shown.update(report))
    own = ["--data", DATA, "--pairs", "7", "--out", str(tmp_path), "--preset.search.alpha", "0.1"]
    given = parse(search.Options, [*SAME_RUNS, *own])
    for control, following in (("none", "random"), ("nas", "none")):
        search.main(replace(given, control=control))
        words = shlex.split(shown["next"])
        assert words[:3] == ["python", "-m", "joint_detnas.search"]
        assert parse(search.Options, words[3:]) == replace(given, control=following)


def test_what_follows_a_training_is_of_the_same_runs():
    own = ["--scale", "nano", "--data", "coco:a b", "--out", "o", "--preset.batch-size", "4"]
    given = parse(train.Options, [*SAME_RUNS, *own])
    following = parse(search.Options, shlex.split(train._next(given))[3:])
    shared = ("scale", "data", "backbone", "seed", "out", "device", "precision", "preset", "workers")
    assert [getattr(following, name) for name in shared] == [getattr(given, name) for name in shared]
    again = parse(train.Options, shlex.split(train._next(replace(given, what="cascade")))[3:])
    assert again == replace(given, what="cascade", seed=3)


# ---- spaces and plans


@pytest.mark.parametrize("scale", PRESETS)
def test_description_of_the_space(answer, scale):
    described, preset, counted = answer(search, "--describe", "--scale", scale), PRESETS[scale], COUNTED[scale]
    assert count_space(preset, preset.backbone) == counted
    teachers, student = described["teachers"], described["student"]
    assert teachers["size"] == preset.teachers.count()
    assert teachers["printed"]["size_at_paper_scale"] == TeacherSpace().count() == 64_152
    assert "765,000" in teachers["printed"]["size"]
    assert [teachers["cost"][end] for end in ("lowest", "highest")] == [counted["lowest"], counted["highest"]]
    assert Teacher.parse(teachers["encoding"]["example"]) == preset.teachers.largest()
    assert list(student["actions"]) == list(KINDS)
    assert described["sizes"] == ["x".join(map(str, size)) for size in preset.sizes]
    text = search._description_text(described)
    assert f"{preset.teachers.count():,}" in text
    assert "64,152" in text


def test_paper_scale_is_described_without_a_flag(answer):
    student = answer(search, "--describe")["student"]
    assert student["backbone"] == "resnet101"
    assert student["cost"]["backbone_macs_mmdet"] == pytest.approx(167.91e9, rel=1e-4)
    # every stage but the stem's projection: 3 + 4 + 23 + 3 places behind a block
    assert (student["actions"]["add-layer"], student["actions"]["rearrange"]) == (33, 6)


def test_another_backbone_or_setting_is_counted(answer):
    flags = ("--describe", "--scale", "nano")
    deeper = answer(search, *flags, "--backbone", "resnet50")["student"]
    assert deeper["cost"]["backbone_macs_mmdet"] > COUNTED["nano"]["backbone"]
    narrow = answer(search, *flags, "--preset.teachers.neck-width", "16")["teachers"]
    assert narrow["cost"]["highest"] < COUNTED["nano"]["highest"]


def test_plans_say_costs_and_schedule(said, answer):
    flags = ("--describe", "--backbone", "resnet50")
    plan, text = answer(train, *flags), said(train, *flags)
    assert plan["student"]["cost"]["backbone_macs_mmdet"] == pytest.approx(88.03e9, rel=1e-4)
    assert "88.03G MAC" in text
    assert "24 epochs by sgd at 0.02" in text
    plan = answer(train, "--describe", "--what", "pool", "--teacher", "d3-4-6-3_w1-1-1-1_n1")
    text = train._plan_text(plan)
    assert plan["cost"]["params"] == pytest.approx(41.75e6, rel=0.01), "R50-FPN"
    assert "64,152 teachers" in text
    assert "full 24 epochs, one-step 12 epochs, all 24 epochs; 2 sub-networks a step" in text


@pytest.mark.parametrize(
    ("scale", "backbone"),
    [("smoke", "resnet18"), pytest.param("paper", "resnext101_32x4d", marks=pytest.mark.slow)],
)
def test_a_cascades_plan_says_the_cost_before_and_after(answer, scale, backbone):
    plan = answer(train, "--describe", "--what", "cascade", "--scale", scale, "--backbone", backbone)
    text = train._plan_text(plan)
    before, after = plan["cost"]["before"], plan["cost"]["after"]
    heads = after["parts"]["roi"]["macs"] / before["parts"]["roi"]["macs"]
    assert heads == plan["cascade"]["heads"] == 3
    assert before["parts"]["backbone"]["macs"] < after["parts"]["backbone"]["macs"]
    assert before["parts"]["fpn"] == after["parts"]["fpn"]
    if scale == "paper":
        assert plan["training"]["epochs"] == 16
        assert before["params"] == pytest.approx(60.4e6, rel=0.01), "X101-FPN"
    assert f"to {metric(after['macs_mmdet'])} MAC" in text
    assert "with 3 heads and deformable convolutions" in text


# ---- bad input


@pytest.mark.parametrize(
    ("command", "wrong", "word"),
    [
        (search, ["--workers", "-1"], "--workers must be at least 0, got -1"),
        (search, ["--seed", "-1"], "--seed must be at least 0, got -1"),
        (search, ["--device", "gpu"], "device 'gpu' cannot be used here: give cpu, or cuda where there is one"),
        (search, ["--pairs", "0"], "--pairs must be at least 1, got 0"),
        (
            search,
            ["--pairs", "1", "--control", "nas"],
            "--control nas has no pair to train with --pairs 1: give --pairs 2",
        ),
        (search, ["--preset.search.budget", "0"], "--control none has no pair to train with these settings: give"),
        (search, ["--preset.teaching.budget", "0", "--control", "fixed-pair"], "--control fixed-pair has no pair to"),
        (search, ["--backbone", "resnet9"], "no backbone is called 'resnet9': give one of resnet18"),
        (search, ["--base", "x", "--backbone", "resnet18"], "give --base or --backbone, not both"),
        (search, ["--base", "/nowhere/detector.json"], "is not there"),
        (search, ["--data", "coco:/nowhere/at/all"], "no folder"),
        (search, ["--data", "scenes:train=4"], "4 training images"),
        (train, ["--seed", "-1"], "--seed must be at least 0, got -1"),
        (train, ["--backbone", "vgg"], "no backbone is called 'vgg'"),
        (train, ["--teacher", "d1"], "--teacher is for --what pool --describe"),
        (train, ["--what", "pool", "--describe", "--teacher", "d1"], "'d1' does not name a teacher"),
        (train, ["--data", "sceness"], "unknown data"),
        (reproduce, ["--workers", "-1"], "--workers must be at least 0, got -1"),
        (reproduce, ["--only", "figure6", "table9"], "unknown exhibit 'table9': give some of table1, "),
        (reproduce, ["--seeds", "0"], "--seeds must be at least 1, got 0"),
    ],
)
def test_bad_input_is_one_sentence(command, wrong, word, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        run(command.main, command.Options, ["--device", "cpu", "--data", DATA, "--out", str(tmp_path), *wrong])
    printed = capsys.readouterr()
    assert (ended.value.code, printed.out, printed.err.count("\n")) == (2, "", 1)
    assert printed.err.startswith("error: ")
    assert word in printed.err
    assert not list(tmp_path.iterdir())


def test_a_search_does_not_start_in_several_processes(flags, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(distributed, "size", lambda: 2)
    with pytest.raises(SystemExit):
        run(search.main, search.Options, [*flags, "--out", str(tmp_path)])
    assert "a search cannot run under torchrun" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
