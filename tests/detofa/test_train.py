"""`python -m detofa.train`: its plan without torch, its report, and one-sentence errors."""

import json
from dataclasses import replace

import numpy as np
import pytest

from common.cli import exact, quantity, run
from detofa.presets import NANO, SMOKE, VARIANTS
from detofa.space import CostTable
from detofa.study import DetOFAStudy
from detofa.train import Options, describe, main, stages
from tests.detofa.tiny_space import SMALL


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_plan_names_run_and_space(variant):
    plan = describe(Options(scale="nano", preset=NANO, variant=variant, constraint="latency"))
    assert plan["run"] == f"runs/detofa/scenes-nano/{variant}-s0"
    assert plan["space"]["size_before_pruning"] == NANO.space.size(coupled="compofa" in variant)
    assert (plan["cost"], plan["budgets"]) == ({"name": "latency", "unit": "ms"}, None)


def test_the_plan_says_costs_and_budgets():
    plan, table = describe(Options(scale="nano", preset=NANO)), CostTable.macs(NANO.space, NANO.image_size)
    assert (plan["cost"]["lowest"], plan["cost"]["highest"]) == table.range()
    costs = table(NANO.space.sample(20_000, np.random.default_rng(1)))
    ends = [*np.quantile(costs, [0.2, 0.4, 0.6, 0.8]), table.range()[1]]
    assert plan["budgets"] == pytest.approx(ends, rel=0.03)
    assert plan["preset"]["fine_tuning"]["epochs"] == NANO.fine_tuning.epochs
    params = describe(Options(constraint="params"))["cost"]
    assert (params["lowest"], params["highest"]) == CostTable.params(SMOKE.space).range()
    assert params["unit"] == "parameters"


def test_describe_prints_one_object_and_makes_nothing(tmp_path, capsys):
    main(Options(out=tmp_path / "runs", describe=True, json=True))
    printed = capsys.readouterr()
    assert json.loads(printed.out)["preset"]["name"] == "smoke"
    assert printed.err == ""
    main(Options(out=tmp_path / "runs", describe=True, variant="ofa-shrinking"))
    assert "then 1 + 1 + 1 + 1 + 2 epochs on images of 64 pixels" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


def test_report_names_what_was_found_and_what_to_type_next(trained):
    report = trained.report
    assert report["next"] == f"python -m detofa.search --run {trained.run} --budget {exact(report['budgets'][1])}"
    assert quantity(report["next"].split()[-1]) == report["budgets"][1], "else another row would be found"
    assert report["peak_memory"] > 2**20
    assert len(report["found"]) == len(report["random"]) == len(SMALL.budget_shares)
    for budget, found in zip(report["budgets"], report["found"], strict=True):
        assert found["cost"] <= budget


def test_each_stage_leaves_a_line_and_the_supernets_are_validated(trained, logged):
    done = [line.partition(": ")[0] for line in trained.said if ": done in " in line]
    names = ("classification-s0", "filter-s0", "warm-up-s0", "ours-s0")
    assert done == [f"stage {number} of 4, {name}" for number, name in enumerate(names, start=1)]
    assert not any("{" in line for line in trained.said), "settings go to config.json"
    records = [record for name in names for record in logged(trained.run.parent / name)]
    assert {record["stage"] for record in records if "AP" in record} == {"warm-up", "fine-tuning"}


@pytest.mark.parametrize(
    ("variant", "epochs"),  # of two in the warm-up, one in fine-tuning, four in shrinking
    [
        ("fullnet", {"fullnet": 3}),
        ("ours", {"filter": 0, "warm-up": 2, "ours": 1}),
        ("compofa", {"filter": 0, "compofa": 3}),
        ("ofa-shrinking", {"filter": 0, "fullnet": 3, "ofa-shrinking": 4}),
        ("ofa-equal-cost", {"filter": 0, "warm-up": 2, "ours": 1, "ofa": 1, "ofa-equal-cost": 1}),
    ],
)
def test_stages_of_a_variant(variant, epochs, tmp_path):
    preset = replace(SMOKE, warm_up=replace(SMOKE.warm_up, epochs=2))
    study = DetOFAStudy(Options(data="scenes:train=80,val=24", out=tmp_path, device="cpu", preset=preset), 3)
    planned, images = stages(study, variant), SMOKE.train_images * SMOKE.image_size**2
    assert planned.pop("classification-s3") == 2 * SMOKE.crops * SMOKE.crop_size**2
    assert list(planned.items()) == [(f"{name}-s3", count * images) for name, count in epochs.items()]


def test_same_command_again_trains_nothing_and_says_the_same(trained, capsys):
    before = {path: path.stat().st_mtime_ns for path in trained.options.out.rglob("*.safetensors")}
    main(replace(trained.options, json=False))
    printed = capsys.readouterr()
    assert {path: path.stat().st_mtime_ns for path in trained.options.out.rglob("*.safetensors")} == before
    for found in trained.report["found"]:
        assert found["path"] in printed.out
    assert f"next: {trained.report['next']}" in printed.out
    assert "16 training images, cpu" in printed.err


def test_full_net_has_no_budgets_but_a_number(monkeypatch, capsys, tmp_path):
    for full, said in (({"cost": 12.0, "AP": 0.25}, "12 MAC, AP 25.0"), ({"status": "failed"}, "- MAC, AP -")):
        result = {"costs": {"fine-tuning": {"seconds": 5.0}}, "full": full}
        monkeypatch.setattr("detofa.study.DetOFAStudy.result", lambda self, name, result=result: result)
        main(Options(variant="fullnet", data="scenes:train=80", out=tmp_path, device="cpu"))
        shown = capsys.readouterr().out
        assert f"full net: {said}\n" in shown
        assert "next: python -m detofa.train --variant ours" in shown


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--seed", "-1", "--describe"], "--seed must be at least 0, got -1"),
        (["--data", "coco:/nowhere/at/all"], "/nowhere/at/all"),
        (["--data", "sceness", "--describe"], "unknown data 'sceness'"),
        (["--data", "scenes:train=4"], "training images"),
        (["--preset.fine-tuning.epochs", "0"], "epochs must be at least 1, got 0"),
        (["--preset.path-filter.heads", "3"], "must be even and a multiple of its heads, got 16 and 3"),
        (["--preset.space.elastic-stem", "--preset.space.stem-width", "16"], "fix the stem"),
        (["--preset.space.depths", "0", "1", "--variant", "compofa"], "give the space as many of each"),
        (["--pretrained", "nowhere.pth"], "--pretrained cannot be used: nowhere.pth is not there"),
        (["--pretrained", __file__], "test_train.py is damaged or holds more than weights"),
    ],
)
def test_bad_input_is_one_sentence_before_any_work(flags, sentence, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        run(main, Options, ["--device", "cpu", "--data", "scenes:train=40", "--out", str(tmp_path), *flags])
    last = capsys.readouterr().err.splitlines()[-1]
    assert ended.value.code == 2
    assert last.startswith("error: ")
    assert sentence in last
    assert not list(tmp_path.iterdir())
