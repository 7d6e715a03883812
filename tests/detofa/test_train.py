"""`python -m detofa.train`: its plan without torch, its report, and one-sentence errors."""

import json
import subprocess
import sys

import numpy as np
import pytest

from common.cli import metric, run
from detofa.presets import NANO, SMOKE, VARIANTS
from detofa.space import CostTable
from detofa.train import Options, describe, main


@pytest.mark.parametrize("module", ["train", "search", "reproduce", "exhibits", "presets", "space"])
def test_flags_and_spaces_need_no_torch(module):
    loaded = f"import sys; import detofa.{module}; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True).stdout == "False\n"


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_plan_says_space_costs_and_budgets(variant):
    plan = describe(Options(scale="nano", preset=NANO, variant=variant))
    assert plan["run"] == f"runs/detofa/scenes-nano/{variant}-s0"
    assert plan["space"]["size_before_pruning"] == NANO.space.size(coupled="compofa" in variant)
    table = CostTable.macs(NANO.space, NANO.image_size)
    assert (plan["cost"]["lowest"], plan["cost"]["highest"]) == table.range()
    costs = table(NANO.space.sample(20_000, np.random.default_rng(1)))
    ends = [*np.quantile(costs, [0.2, 0.4, 0.6, 0.8]), table.range()[1]]
    assert plan["budgets"] == pytest.approx(ends, rel=0.03)
    assert plan["preset"]["fine_tuning"]["epochs"] == NANO.fine_tuning.epochs


def test_the_plan_of_other_costs():
    params = describe(Options(constraint="params"))["cost"]
    assert (params["unit"], params["lowest"] < params["highest"]) == ("parameters", True)
    latency = describe(Options(constraint="latency"))
    assert (latency["cost"], latency["budgets"]) == ({"name": "latency", "unit": "ms"}, None)


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
    assert report["next"] == f"python -m detofa.search --run {trained.run} --budget {metric(report['budgets'][1])}"
    assert report["peak_memory"] > 2**20
    assert len(report["found"]) == len(report["random"]) == len(SMOKE.budget_shares)
    for budget, found in zip(report["budgets"], report["found"], strict=True):
        assert found["cost"] <= budget


def test_same_command_again_trains_nothing_and_says_the_same(trained, capsys):
    before = {path: path.stat().st_mtime_ns for path in trained.out.rglob("*.safetensors")}
    main(Options(data=trained.data, out=trained.out, device="cpu"))
    printed = capsys.readouterr()
    assert {path: path.stat().st_mtime_ns for path in trained.out.rglob("*.safetensors")} == before
    for found in trained.report["found"]:
        assert found["path"] in printed.out
    assert f"next: {trained.report['next']}" in printed.out
    assert "48 training images, cpu" in printed.err


def test_full_net_has_no_budgets_but_a_number(monkeypatch, capsys, tmp_path):
    def result(self, name):
        return {"costs": {"fine-tuning": {"seconds": 5.0}}, "full": {"cost": 12.0, "AP": 0.25}}

    monkeypatch.setattr("detofa.method.supernet_result", result)
    main(Options(variant="fullnet", data="scenes:train=80", out=tmp_path, device="cpu"))
    shown = capsys.readouterr().out
    assert "full net: 12 MAC, AP 25.0" in shown
    assert "next: python -m detofa.train --variant ours" in shown


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--seed", "-1", "--describe"], "--seed must be at least 0, got -1"),
        (["--data", "coco:/nowhere/at/all"], "/nowhere/at/all"),
        (["--data", "sceness", "--describe"], "unknown data 'sceness'"),
        (["--data", "scenes:train=4"], "training images"),
        (["--preset.fine-tuning.epochs", "0"], "epochs must be at least 1, got 0"),
        (["--pretrained", "nowhere.pth"], "--pretrained cannot be used: nowhere.pth is not there"),
        (["--pretrained", __file__], "test_train.py is damaged or holds more than weights"),
    ],
)
def test_bad_input_is_one_sentence_before_any_work(flags, sentence, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        run(main, Options, ["--device", "cpu", "--out", str(tmp_path), *flags])
    last = capsys.readouterr().err.splitlines()[-1]
    assert ended.value.code == 2
    assert last.startswith("error: ")
    assert sentence in last
    assert not list(tmp_path.iterdir())
