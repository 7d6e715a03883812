import json
import shutil
from dataclasses import asdict, replace
from itertools import product

import numpy as np
import pytest
import torch
import tyro

from common.cli import run
from common.evaluate.average_precision import GroundTruth
from common.models.detector import load_detector
from common.models.ofa_resnet import OFAResNetSpace
from common.plain import InputError
from common.search.evolution import EvolutionSettings
from detofa.method import PathScorer
from detofa.presets import PRESETS, preset
from detofa.restore import FinishedStudy, path_of_key, preset_from_dict
from detofa.search import SearchCommand, describe, find_all, limit_of, main

pytestmark = pytest.mark.usefixtures("remembered")

# ---- from a run folder back to a study


@pytest.mark.parametrize("name", PRESETS)
def test_preset_comes_back_from_json(name):
    assert preset_from_dict(json.loads(json.dumps(asdict(PRESETS[name])))) == PRESETS[name]


def test_preset_of_another_version_is_refused_by_name():
    fields = json.loads(json.dumps(asdict(PRESETS["smoke"])))
    fields["path_filter"]["wings"] = 2
    with pytest.raises(InputError, match="has a setting wings"):
        preset_from_dict(fields)
    del fields["path_filter"]["wings"], fields["neck_widths"]
    with pytest.raises(InputError, match="neck_widths"):
        preset_from_dict(fields)
    with pytest.raises(InputError, match=r"preset\.space is 3"):
        preset_from_dict({**fields, "space": 3})


@pytest.mark.parametrize("name", ["nano", "paper"])
def test_path_comes_back_from_its_name(name):
    space = PRESETS[name].space
    for path in space.sample(50, np.random.default_rng(0)):
        np.testing.assert_array_equal(path_of_key(space, space.key(path)), path)


@pytest.mark.parametrize("key", ["", "d0000-w0000", "d9000-w0000-e0.0.0.0", "d0000-w0000-e00.0.0.0", "d0-w?000-e0"])
def test_damaged_name_is_refused(key):
    with pytest.raises(InputError):
        path_of_key(PRESETS["smoke"].space, key)


@pytest.fixture(scope="module")
def study(trained) -> FinishedStudy:
    return FinishedStudy(trained.run)


def test_finished_study_holds_what_training_left(trained, study):
    candidates = [json.loads(line) for line in (trained.run / "candidates.jsonl").read_text().splitlines()]
    losses = {record["key"][1]: record["loss"] for record in candidates if record["key"][0] == "search"}
    again = {study.space.key(p): loss for p, loss in zip(study.validated.paths, study.validated.losses, strict=True)}
    assert again == losses
    assert study.space_left.size() == int(trained.report["space"])
    assert study.space_left.contains(study.validated.paths).all()


def test_the_runs_own_budgets_give_what_training_reported(trained, study):
    report = find_all(study, out=trained.out / "same")
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

    before = state()
    find_all(FinishedStudy(trained.run), (study.constraint.highest,), out=tmp_path, evaluate=False)
    assert state() == before


def test_detector_on_disk_is_the_network_that_was_measured(study, tmp_path):
    budget = study.constraint.budget(0.6)
    report = find_all(study, (budget,), out=tmp_path, command="python -m detofa.search")
    found = report["found"][0]
    detector = load_detector(found["file"])
    network = study.final_evaluator.recalibrate(study.supernet.extract(found["choices"]))
    images = study._validation_batches[0].images
    with torch.no_grad():
        there, here = detector.model(images), network(images)
    for name in here:
        torch.testing.assert_close(there[name], here[name])

    pictures = [study.validation_set.load_image(index) for index in range(len(study.validation_set))]
    detections = detector.detect(pictures)
    numbers = GroundTruth(study.validation_set).evaluate(detections, np.arange(len(pictures)))
    assert numbers["AR100"] == pytest.approx(found["AR100"], abs=0.02)  # boxes are clipped to the picture here
    height, width = pictures[0].shape[:2]
    boxes = detector.detect([pictures[0]]).boxes[0]
    assert (boxes >= 0).all()
    assert (boxes <= torch.tensor([width, height, width, height])).all()
    assert detector.categories == study.training_set.categories

    said = detector.description
    parameters = sum(p.numel() for p in detector.model.parameters())
    assert said["cost"]["params"] == parameters
    assert said["cost"]["macs_backbone"] == found["cost"]["limited"] <= budget
    assert said["cost"]["macs"] > said["cost"]["macs_backbone"]
    assert said["provenance"]["budget"] == budget
    assert said["provenance"]["seed"] == 0
    assert said["provenance"]["run"] == str(study.run.path)
    assert "commit" in said["provenance"]


def test_no_affordable_path_of_the_space_ranks_above_what_is_found(trained, tmp_path):
    study = FinishedStudy(trained.run)
    study.preset = replace(study.preset, evolution=EvolutionSettings(population=60, generations=60))
    budget = study.constraint.budget(0.5)
    found = find_all(study, (budget,), out=tmp_path, evaluate=False)["found"][0]
    paths = study.space_left.sample(2000, np.random.default_rng(1))
    paths = paths[study.constraint.cost(paths) <= budget]
    scores = PathScorer(study.predictor, study.space, study.constraint)(paths)
    ranks = study.constraint.bucket(paths) + scores
    assert len(paths) > 100
    assert found["score"] >= ranks.max() - 1e-6


def test_another_constraint_limits_while_buckets_stay_the_filters(study, tmp_path):
    limit = limit_of(study, "params")
    paths = study.space_left.sample(100, np.random.default_rng(2))
    np.testing.assert_array_equal(limit.bucket(paths), study.constraint.bucket(paths))
    report = find_all(study, (limit.budget(0.4),), "params", out=tmp_path, evaluate=False)
    found = report["found"][0]
    assert found["cost"]["limited"] == found["cost"]["params_backbone"] <= limit.budget(0.4)
    assert report["unit"] == "parameters"
    assert "buckets of macs" in report["note"]
    assert find_all(study, (3e6,), "macs", out=tmp_path, evaluate=False)["note"] is None


def test_no_evaluate_measures_no_ap(study, tmp_path):
    found = find_all(study, (study.constraint.budget(0.5),), out=tmp_path, evaluate=False)["found"][0]
    assert "AP" not in found
    assert load_detector(found["file"]).description["AP"] is None


def test_random_search_is_the_best_validated_path_that_is_affordable(study, tmp_path):
    budget = study.constraint.budget(0.5)
    chance = find_all(study, (budget,), out=tmp_path, evaluate=False)["found"][0]["random"]
    pairs = zip(study.validated.paths, study.validated.losses, strict=True)
    affordable = [(loss, study.space.key(p)) for p, loss in pairs if study.constraint.cost(p[None])[0] <= budget]
    assert chance["path"] == min(affordable)[1]


# ---- the command


def failure(capsys, *flags: str) -> str:
    with pytest.raises(SystemExit) as ended:
        run(main, SearchCommand, [*flags, "--device", "cpu"])
    printed = capsys.readouterr()
    assert ended.value.code == 2
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    return printed.err


def test_budget_below_the_cheapest_path(trained, study, capsys, tmp_path):
    said = failure(capsys, "--run", str(trained.run), "--out", str(tmp_path), "--budget", "3e6", "1000")
    assert f"{study.constraint.lowest:.4g}" in said
    for budget in (-1.0, float("nan")):
        with pytest.raises(InputError, match="cheapest"):
            find_all(study, (3e6, budget), out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_is_no_finished_supernet(trained, capsys, tmp_path):
    assert "no folder" in failure(capsys, "--run", str(tmp_path / "none"))
    assert "holds no run" in failure(capsys, "--run", str(tmp_path))
    assert "no supernet to search in" in failure(capsys, "--run", str(trained.run.parent / "warm-up-s0"))
    assert "--run" in failure(capsys)
    stopped = tmp_path / "ours-s0"
    shutil.copytree(trained.run, stopped)
    (stopped / "result.json").unlink()
    assert "not finished" in failure(capsys, "--run", str(stopped))
    (stopped / "config.json").write_text("[]")
    assert "no run of detofa" in failure(capsys, "--run", str(stopped))


def test_other_images_than_it_was_trained_on(trained, capsys, tmp_path):
    moved = tmp_path / "ours-s0"
    shutil.copytree(trained.run, moved)
    config = json.loads((moved / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps({**config, "data": "scenes:train=64,seed=5"}))
    assert "other images" in failure(capsys, "--run", str(moved))


def test_runs_may_be_moved_together(trained, tmp_path, capsys):
    moved = tmp_path / "elsewhere"
    shutil.copytree(trained.run.parent, moved)
    command = ["--run", str(moved / "ours-s0"), "--budget", "3e6", "--no-evaluate", "--json", "--device", "cpu"]
    run(main, SearchCommand, command)
    report = json.loads(capsys.readouterr().out)
    assert report["found"][0]["file"] == str(moved / "ours-s0" / "detectors" / "macs-3e06.json")


def test_table_shows_each_budget(trained, capsys, tmp_path):
    run(main, SearchCommand, ["--run", str(trained.run), "--out", str(tmp_path), "--device", "cpu"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(preset("smoke").budget_shares)
    for budget, line in zip(trained.report["budgets"], lines[2:], strict=True):
        assert line.split()[0] == f"{budget:.4g}"


def test_help_fits_a_screen_and_explains_every_flag(capsys):
    with pytest.raises(SystemExit) as ended:
        tyro.cli(SearchCommand, args=["--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0
    assert len(text.splitlines()) <= 40
    for flag in ("--run", "--budget", "--constraint", "--out", "--no-evaluate", "--describe", "--scale", "--json"):
        assert flag in text


# ---- the space


def test_space_of_the_paper():
    description = describe(preset("paper"))
    size, cost = description["size"], description["cost"]
    assert size["ofa"] == 136_606_377_609  # 1.366e11
    assert f"{size['ofa_with_stem_choices']:.3e}" == "2.459e+12"
    assert f"{size['printed_in_table_1']['ofa']['value']:.2e}" == "6.15e+20"
    assert size["printed_in_table_1"]["compofa"]["value"] == 117**4
    assert f"{cost['macs']['highest'] / 1e9:.1f}" == "22.0"
    assert f"{cost['macs_with_stem_choices']['lowest'] / 1e9:.1f}" == "2.8"
    example = description["encoding"]["example"]
    assert len(description["encoding"]["columns"]) == len(example["choices"]) == 29
    np.testing.assert_array_equal(preset("paper").space.parse(example["description"]), example["choices"])


def test_sizes_by_listing_every_network():
    space = OFAResNetSpace(
        base_depths=(1, 1, 1, 1),
        depths=(0, 1),
        widths=(0.5, 1.0),
        expands=(0.25, 0.5),
        stage_widths=(8, 8, 8, 8),
        stem_width=8,
        channel_multiple=2,
    )
    size = describe(replace(preset("smoke"), space=space))["size"]

    def blocks(coupled: bool) -> set:
        pairs = [(d, w) for d, w in product((0, 1), (0, 1)) if not coupled or d == w]
        return {(d, w, e) for d, w in pairs for e in product((0, 1), repeat=1 + d)}

    assert size["ofa"] == len(blocks(False)) ** 4
    assert size["compofa"] == len(blocks(True)) ** 4
    assert size["ofa_with_stem_choices"] == len(blocks(False)) ** 4 * 2 * 2 * 2


def test_describe_prints_one_object(capsys):
    run(main, SearchCommand, ["--describe", "--json", "--scale", "smoke"])
    assert json.loads(capsys.readouterr().out)["scale"] == "smoke"
    run(main, SearchCommand, ["--describe", "--scale", "smoke"])
    assert "187,388,721 paths" in capsys.readouterr().out
