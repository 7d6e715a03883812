import json
from dataclasses import replace

import pytest
import tyro

from common.cli import run
from detofa.presets import preset
from detofa.study import VARIANTS, Study
from detofa.train import TrainCommand, describe, main

pytestmark = pytest.mark.usefixtures("remembered")


def planned(scale: str, variant: str, data: str = "scenes:train=64") -> dict:
    return describe(Study(preset(scale), data, 0), variant)


def test_help_fits_a_screen_and_explains_every_flag(capsys):
    with pytest.raises(SystemExit) as ended:
        tyro.cli(TrainCommand, args=["--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0
    assert len(text.splitlines()) <= 40
    for flag in ("--scale", "--data", "--variant", "--seed", "--out", "--device", "--constraint", "--describe"):
        assert flag in text


def test_plan_says_the_steps_that_training_takes(trained):
    plan = describe(Study(preset("smoke"), trained.data, 0, trained.out), "ours")
    trainings = [stage for stage in plan["stages"] if "steps" in stage]
    assert len(trainings) == 7
    assert all(stage["done"] for stage in trainings)
    for stage in trainings:
        record = trained.run.parent / stage["run"] / "stages" / f"{stage['stage']}.json"
        assert json.loads(record.read_text())["steps"] == stage["steps"], stage
    on_disk = {path.parent.parent.name + path.stem for path in trained.run.parent.glob("*/stages/*.json")}
    assert on_disk == {stage["run"] + stage["stage"] for stage in trainings}


def test_plan_by_hand():
    settings = replace(preset("smoke"), crops=50, crop_batch_size=7, train_images=30, batch_size=4)
    optimisation = replace(settings.fine_tuning, epochs=3)
    study = Study(replace(settings, fine_tuning=optimisation, classification=optimisation), "scenes:train=64", 0)
    stages = {(stage["run"], stage["stage"]): stage for stage in describe(study, "ours")["stages"]}
    assert stages["ours-s0", "fine-tuning"]["steps"] == 3 * (30 // 4)
    assert stages["classification-s0", "uniform"]["steps"] == 3 * (45 // 7)
    assert stages["warm-up-s0", "sampling"]["paths"] == settings.fine_tuning_paths * 5


def test_shrinking_takes_three_times_the_epochs():
    def detection_epochs(variant: str) -> int:
        return sum(
            stage["epochs"]
            for stage in planned("nano", variant, "scenes:train=400")["stages"]
            if stage.get("on") == "images"
        )

    assert detection_epochs("ofa-shrinking") == 3 * detection_epochs("ours")
    assert detection_epochs("ofa") == detection_epochs("compofa") == detection_epochs("fullnet")


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_has_a_plan_of_its_own_run(variant):
    plan = planned("smoke", variant)
    assert plan["run"].endswith(f"{variant}-s0")
    assert plan["stages"][-1]["run"] == f"{variant}-s0"


def test_describe_prints_one_object_and_makes_nothing(tmp_path, capsys):
    main(
        TrainCommand(
            scale="smoke", data="scenes:train=64", out=tmp_path / "runs", device="cpu", describe=True, json=True
        )
    )
    printed = capsys.readouterr()
    assert json.loads(printed.out)["preset"]["name"] == "smoke"
    assert printed.err == ""
    assert not (tmp_path / "runs").exists()


def test_report_names_what_was_found_and_what_to_type_next(trained):
    report = trained.report
    assert report["next"] == f"python -m detofa.search --run {trained.run} --budget {report['budgets'][1]:.4g}"
    assert report["peak_memory"] > 2**20
    assert len(report["found"]) == len(report["random"]) == len(preset("smoke").budget_shares)
    for budget, found in zip(report["budgets"], report["found"], strict=True):
        assert found["cost"] <= budget


def test_same_command_again_trains_nothing_and_says_the_same(trained, capsys):
    before = {path: path.stat().st_mtime_ns for path in trained.out.rglob("*.safetensors")}
    main(TrainCommand(scale="smoke", data=trained.data, out=trained.out, device="cpu"))
    printed = capsys.readouterr()
    assert {path: path.stat().st_mtime_ns for path in trained.out.rglob("*.safetensors")} == before
    for found in trained.report["found"]:
        assert found["path"] in printed.out
    assert f"next: {trained.report['next']}" in printed.out
    assert "done already" in printed.err


def test_full_net_has_no_budgets_but_a_number(monkeypatch, capsys, tmp_path):
    def result(self, name):
        self.folder.joinpath(f"{name}-s0").mkdir(parents=True)
        self.folder.joinpath(f"{name}-s0", "config.json").write_text("{}")
        return {"costs": {"fine-tuning": {"seconds": 5.0}}, "full": {"cost": 12.0, "AP": 0.25}}

    monkeypatch.setattr(Study, "result", result)
    main(TrainCommand(scale="smoke", variant="fullnet", data="scenes:train=64", out=tmp_path, device="cpu"))
    assert "full net: 12 MAC, AP 25.0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--seed", "-1"], "--seed -1 is no seed: give 0 or more"),
        (["--data", "coco:/nowhere/at/all"], "no folder"),
        (["--data", "sceness"], "unknown data"),
        (["--data", "scenes:train=20"], "held"),
    ],
)
def test_bad_input_is_one_sentence(flags, word, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        run(main, TrainCommand, ["--device", "cpu", "--out", str(tmp_path), "--describe", *flags])
    printed = capsys.readouterr()
    assert ended.value.code == 2
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert word in printed.err.replace("holds", "held")
