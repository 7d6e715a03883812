"""`python -m detofa.search`: a finished run back from its folder, detectors for budgets, the search space."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from common.cli import metric, run
from common.evaluate.average_precision import GroundTruth
from common.models.detector import load_detector
from common.plain import InputError
from detofa.method import PathScorer
from detofa.presets import PRESETS
from detofa.search import Options, describe, find_all, limit_of, main, report_text
from detofa.space import EvolutionSettings
from detofa.study import DetOFAStudy, FinishedStudy
from tests.detofa.tiny_space import SMALL

pytestmark = pytest.mark.usefixtures("hurried")

# ---- from a run folder back to a study


@pytest.fixture(scope="module")
def study(trained) -> FinishedStudy:
    return FinishedStudy(trained.run, "cpu")


def test_finished_study_holds_what_training_left(trained, study):
    candidates = [json.loads(line) for line in (trained.run / "candidates.jsonl").read_text().splitlines()]
    losses = {record["key"][1]: record["loss"] for record in candidates if record["key"][0] == "search"}
    found = zip(study.candidates.paths, study.candidates.losses, strict=True)
    assert {study.space.key(path): loss for path, loss in found} == losses
    assert study.space_left.size() == int(trained.report["space"])
    assert study.space_left.contains(study.candidates.paths).all()
    assert study.preset == SMALL


def test_the_runs_own_budgets_give_what_training_reported(trained, study):
    report = find_all(study, out=trained.options.out / "same")
    for found, before in zip(report["found"], trained.report["found"], strict=True):
        assert found["path"] == before["path"]
        assert found["AP"] == pytest.approx(before["AP"], abs=1e-6)
        assert found["cost"]["limited"] == before["cost"]
    for found, before in zip(report["found"], trained.report["random"], strict=True):
        assert found["random"]["path"] == before["path"]


# ---- searching


def test_nothing_of_the_run_is_changed(trained, study, tmp_path):
    def state():
        return {path: path.stat().st_mtime_ns for path in trained.run.parent.rglob("*") if path.is_file()}

    before, budget = state(), study.constraint.highest
    budgets = budget, budget * 1.00001, budget  # of which two differ, but not in four figures
    report = find_all(FinishedStudy(trained.run, "cpu"), budgets, out=tmp_path, evaluate=False)
    assert state() == before
    assert [found["budget"] for found in report["found"]] == list(budgets[:2])
    assert len({found["file"] for found in report["found"]}) == 2


def test_detector_on_disk_is_the_network_that_was_measured(study, tmp_path):
    budget = study.constraint.budget(0.6)
    report = find_all(study, (budget,), out=tmp_path, command="python -m detofa.search")
    found = report["found"][0]
    detector = load_detector(found["file"])
    network = study.final_evaluator.recalibrate(study.trained.extract(found["choices"]))
    images = next(study.measuring_batches("validation", study.size).in_order()).images
    with torch.no_grad():
        there, here = detector.model(images), network(images)
    for name in here:
        torch.testing.assert_close(there[name], here[name])

    validation = study.sets["validation"]
    pictures = [validation.load_image(index) for index in range(len(validation))]
    detections = detector.detect(pictures)
    numbers = GroundTruth(validation).evaluate(detections, np.arange(len(pictures)))
    assert numbers["AR100"] == pytest.approx(found["AR100"], abs=0.02)  # boxes are clipped to the picture here
    height, width = pictures[0].shape[:2]
    boxes = detector.detect([pictures[0]]).boxes[0]
    assert (boxes >= 0).all()
    assert (boxes <= torch.tensor([width, height, width, height])).all()
    assert detector.categories == study.categories

    said = detector.description
    parameters = sum(p.numel() for p in detector.model.parameters())
    assert said["cost"]["params"] == parameters == found["cost"]["params"]
    assert said["cost"]["parts"]["backbone"]["macs"] == found["cost"]["limited"] <= budget
    assert said["cost"]["macs"] == found["cost"]["macs"]
    assert said["accuracy"]["AR100"] == found["AR100"]
    assert set(said["accuracy"]["per_class"]) == set(study.categories)
    assert said["latency"]["median_ms"] == found["latency"] > 0
    assert said["encoding"] == found["architecture"]
    assert said["spent"]["samples"] > 0
    expected = {"paper": "detofa", "seed": 0, "run": str(study.run.path), "command": "python -m detofa.search"}
    assert said["provenance"].items() >= expected.items()


def test_no_affordable_path_of_the_space_ranks_above_what_is_found(trained, tmp_path):
    study = FinishedStudy(trained.run, "cpu")
    study.preset = replace(study.preset, evolution=EvolutionSettings(population=60, generations=60))
    budget = study.constraint.budget(0.5)
    found = find_all(study, (budget,), out=tmp_path, evaluate=False)["found"][0]
    paths = study.space_left.sample(2000, np.random.default_rng(1))
    paths = paths[study.constraint.cost(paths) <= budget]
    scores = PathScorer(study.predictor, study.space, study.constraint)(paths)
    ranks = study.constraint.bucket(paths) + scores
    assert len(paths) > 100
    (score,) = PathScorer(study.predictor, study.space, study.constraint)(np.array([found["choices"]], dtype=np.int8))
    assert found["score"] == pytest.approx(score)  # the filter's own
    assert found["bucket"] + found["score"] >= ranks.max() - 1e-6


def test_another_constraint_limits_while_buckets_stay_the_filters(study, tmp_path):
    limit = limit_of(study, "params")
    paths = study.space_left.sample(100, np.random.default_rng(2))
    np.testing.assert_array_equal(limit.bucket(paths), study.constraint.bucket(paths))
    report = find_all(study, (limit.budget(0.4),), "params", out=tmp_path, evaluate=False)
    found = report["found"][0]
    assert found["cost"]["limited"] == found["cost"]["params_backbone"] <= limit.budget(0.4)
    assert report["unit"] == "parameters"
    assert "buckets of macs" in report["note"]
    assert "no path costs more" not in report["note"]
    assert "no path costs more" in find_all(study, (1e9,), out=tmp_path, evaluate=False)["note"]


def test_blocks_that_a_budget_of_latency_needs_are_timed_beside_the_run(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(DetOFAStudy, "_latency", lambda _, shape: float(shape.out_channels))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained.run.parent, "moved")
    limit = limit_of(FinishedStudy("moved/ours-s0", "cpu"), "latency")
    assert 0 < limit.lowest < limit.highest
    assert [each.name for each in tmp_path.iterdir()] == ["moved"]
    assert (tmp_path / "moved" / "latency" / "result.json").is_file()


def test_without_evaluation_a_random_search_is_the_best_validated_path_that_is_affordable(study, tmp_path):
    budget = study.constraint.budget(0.5)
    report = find_all(study, (budget,), "macs", out=tmp_path, evaluate=False)
    found = report["found"][0]
    assert report["note"] is None
    assert "AP" not in found
    assert load_detector(found["file"]).description["AP"] is None
    pairs = zip(study.candidates.paths, study.candidates.losses, strict=True)
    affordable = [(loss, study.space.key(p)) for p, loss in pairs if study.constraint.cost(p[None])[0] <= budget]
    assert found["random"]["path"] == min(affordable)[1]


def test_a_network_that_diverged_is_one_sentence(trained, tmp_path, capsys, monkeypatch):
    def diverged(study):
        supernet = study.supernet(study.name)
        torch.nn.init.constant_(supernet.size[-1].bias, float("nan"))
        return supernet

    monkeypatch.setattr(FinishedStudy, "trained", property(diverged))
    said = failure(capsys, "--run", str(trained.run), "--out", str(tmp_path), "--budget", "3e6")
    assert "boxes or scores that are not finite" in said
    assert str(trained.run) in said
    assert "lower the learning rate" in said
    assert not list(tmp_path.iterdir())


def test_a_random_searchs_network_that_diverged_costs_its_number_alone(trained, tmp_path, monkeypatch):
    study, measured = FinishedStudy(trained.run, "cpu"), []

    def of_random_diverged(network, *where, **how):
        measured.append(network)
        if len(measured) == 2:
            raise FloatingPointError("the network gives boxes or scores that are not finite")
        return FinishedStudy.precision_at(study, network, *where, **how)

    monkeypatch.setattr(study, "precision_at", of_random_diverged)
    report = find_all(study, (3e6,), out=tmp_path)
    (found,) = report["found"]
    assert found["AP"] >= 0
    assert found["random"]["AP"] is None
    assert found["random"]["reason"] == "the network gives boxes or scores that are not finite"
    (row,) = (line.split() for line in report_text(report).splitlines() if line.endswith(f"  {found['file']}"))
    assert row[5] == "-"


# ---- the command


def failure(capsys, *flags: str) -> str:
    with pytest.raises(SystemExit) as ended:
        run(main, Options, [*flags, "--device", "cpu"])
    printed = capsys.readouterr()
    assert ended.value.code == 2
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    return printed.err


def test_budget_below_the_cheapest_path(trained, study, capsys, tmp_path):
    said = failure(capsys, "--run", str(trained.run), "--out", str(tmp_path), "--budget", "3e6", "1000")
    assert metric(study.constraint.lowest) in said
    for budget in (-1.0, float("nan")):
        with pytest.raises(InputError, match="cheapest"):
            find_all(study, (3e6, budget), out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_is_no_finished_supernet(trained, capsys, tmp_path):
    assert "no folder" in failure(capsys, "--run", str(tmp_path / "none"))
    assert "holds no run" in failure(capsys, "--run", str(tmp_path))
    assert "no supernet to search in" in failure(capsys, "--run", str(trained.run.parent / "warm-up-s0"))
    assert "--run" in failure(capsys)
    moved = tmp_path / "runs" / "ours-s0"
    shutil.copytree(trained.run, moved)
    assert "warm-up-s0" in failure(capsys, "--run", str(moved)), "what it was built on must be there"
    config, file = json.loads((moved / "config.json").read_text()), moved / "config.json"
    file.write_text(json.dumps({**config, "data": "scenes:train=80,seed=5"}))
    assert "other images" in failure(capsys, "--run", str(moved))
    config["preset"]["path_filter"]["wings"] = 2
    file.write_text(json.dumps(config))
    assert "preset.path_filter has a field wings" in failure(capsys, "--run", str(moved))
    (moved / "result.json").unlink()
    assert "not finished" in failure(capsys, "--run", str(moved))
    file.write_text('{"paper": "sm_nas"}')
    assert "not a run of detofa" in failure(capsys, "--run", str(moved))


def test_runs_may_be_moved_together(trained, tmp_path, capsys):
    moved = tmp_path / "elsewhere"
    shutil.copytree(trained.run.parent, moved)
    command = ["--run", str(moved / "ours-s0"), "--budget", "3e6", "--no-evaluate", "--json", "--device", "cpu"]
    run(main, Options, command)
    report = json.loads(capsys.readouterr().out)
    assert report["found"][0]["file"] == str(moved / "ours-s0" / "detectors" / "macs-3M.json")


def test_table_shows_each_budget(trained, capsys, tmp_path):
    run(main, Options, ["--run", str(trained.run), "--out", str(tmp_path), "--device", "cpu", "--no-evaluate"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(SMALL.budget_shares) + 4
    for budget, line in zip(trained.report["budgets"], lines[2:-4], strict=True):
        assert line.split()[0] == metric(budget)
    best = lines[-5].split()[-1]
    assert lines[-4:] == [
        f"next: python -m common.evaluate {best} --data {trained.options.data} --out evaluation",
        f"next: python -m common.predict {best} PHOTOS --out found",
        f"next: python -m common.export {best} --out detector.onnx --check",
        f"next: python -m common.compare {best} OTHER --data {trained.options.data}",
    ]


def test_help_fits_a_screen(capsys):
    with pytest.raises(SystemExit):
        run(main, Options, ["--help"])
    assert 15 <= len(capsys.readouterr().out.splitlines()) <= 40


# ---- the space


def test_space_of_the_paper():
    description = describe(PRESETS["paper"])
    size, cost = description["size"], description["cost"]
    assert size["ofa"] == 136_606_377_609  # 1.366e11
    assert size["compofa"] == 1_686_498_489
    assert f"{size['ofa_with_stem_choices']:.3e}" == "1.639e+12"
    assert f"{size['printed_in_table_1']['ofa']['value']:.2e}" == "6.15e+20"
    assert size["printed_in_table_1"]["compofa"]["value"] == 117**4
    assert f"{cost['macs']['highest'] / 1e9:.1f}" == "22.0"
    assert f"{cost['macs_with_stem_choices']['lowest'] / 1e9:.1f}" == "2.8"
    example = description["encoding"]["example"]
    assert len(description["encoding"]["columns"]) == len(example["choices"]) == 29
    assert PRESETS["paper"].space.from_key(example["name"]).tolist() == example["choices"]


def test_describe_prints_one_object(capsys):
    run(main, Options, ["--describe", "--json", "--scale", "smoke"])
    assert json.loads(capsys.readouterr().out)["scale"] == "smoke"
    run(main, Options, ["--describe", "--scale", "smoke"])
    assert "187,388,721 paths" in capsys.readouterr().out
