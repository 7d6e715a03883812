"""A whole study at a tiny scale: what is shared, what is remembered, and that a kill changes no number."""

import json
import math
import os
import random
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from common.plain import InputError
from common.train import loop
from common.train.run_folder import Run
from detofa import method
from detofa import study as module
from detofa.presets import SMOKE, Preset
from detofa.study import VARIANTS, Study

ROOT = Path(__file__).resolve().parents[2]
DATA = "scenes:train=30,val=8,size=32"
TIMES = {"seconds", "cpu_seconds", "search_seconds", "callback_seconds", "samples_per_second", "peak_memory"}


def tiny(**changes) -> Preset:
    """SMOKE, a few times smaller."""
    space = replace(SMOKE.space, depths=(0, 1), widths=(0.5, 1.0), expands=(0.25, 0.5), stage_widths=(8, 8, 16, 16))
    return replace(
        SMOKE,
        name="tiny",
        space=space,
        neck_widths=(8,),
        head_width=8,
        image_size=32,
        train_images=16,
        validation_images=8,
        proxy_images=8,
        calibration_images=8,
        proxy_calibration_images=8,
        crop_size=32,
        crops=24,
        pretraining_paths=2,
        fine_tuning_paths=2,
        operation_samples=2,
        evolution=replace(SMOKE.evolution, population=8, generations=2),
        budget_shares=(0.4, 0.8),
        figure6_paths=1,
        **changes,
    )


def _without_times(value):
    if isinstance(value, dict):
        return {key: _without_times(item) for key, item in value.items() if key not in TIMES}
    if isinstance(value, list):
        return [_without_times(item) for item in value]
    return value


def _records(folder: Path) -> dict[str, object]:
    """All that the runs under `folder` say, but for times and machines; weights as tensors."""
    found = {}
    for file in sorted(folder.rglob("*")):
        name = str(file.relative_to(folder))
        if file.suffix == ".json" and file.name != "environment.json":
            found[name] = _without_times(json.loads(file.read_text()))
        elif file.suffix == ".jsonl":
            found[name] = [_without_times(json.loads(line)) for line in file.read_text().splitlines()]
        elif file.suffix == ".safetensors":
            found[name] = load_file(file)
        elif file.suffix == ".state":
            found[name] = None
    return found


def _assert_equal_records(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if name.endswith(".safetensors"):
            assert found[name].keys() == value.keys()
            for weight in value:
                assert torch.equal(found[name][weight], value[weight]), f"{name}: {weight}"
        else:
            assert found[name] == value, name


def _hurry() -> pytest.MonkeyPatch:
    """A few draws for each bucket: an empty bucket of so small a space would be looked for 40 times."""
    patch = pytest.MonkeyPatch()
    patch.setattr(module, "sample_per_bucket", partial(method.sample_per_bucket, draws=1))
    return patch


@pytest.fixture(scope="module", autouse=True)
def _hurried():
    patch = _hurry()
    yield
    patch.undo()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> tuple[Path, dict, float]:
    """A study of seed 0 whose only variant so far is "ours": its folder, all its records, and the seconds it took."""
    out = tmp_path_factory.mktemp("study")
    began = time.perf_counter()
    Study(tiny(), DATA, seed=0, out=out).result("ours")
    return out, _records(out), time.perf_counter() - began


@pytest.fixture(scope="module")
def finished(unbroken) -> tuple[Path, dict[str, dict]]:
    """The folder of that study with four variants trained, and their results."""
    study = Study(tiny(), DATA, seed=0, out=unbroken[0])
    return unbroken[0], {name: study.result(name) for name in ("ours", "ofa", "fullnet", "compofa")}


def test_precision_is_part_of_a_run_and_changes_its_weights(tmp_path, remembered, unbroken):
    study = Study(tiny(), DATA, seed=0, out=tmp_path, precision="bfloat16")
    supernet, _, run = study.classification
    assert run.config["precision"] == "bfloat16"
    exact = load_file(next(unbroken[0].rglob("classification-s0/full.safetensors")))
    rounded = load_file(run.path / "full.safetensors")
    assert {weight.dtype for weight in supernet.state_dict().values()} <= {torch.float32, torch.int64}
    assert any(not torch.equal(exact[name], rounded[name]) for name in exact)


def test_a_result_says_all_that_the_exhibits_need(finished):
    _, results = finished
    study = Study(tiny(), DATA, seed=0, out="nowhere")
    for name in ("ours", "ofa", "compofa"):
        result = results[name]
        assert result["budgets"] == [study.constraint.budget(share) for share in (0.4, 0.8)]
        for kind in ("found", "random"):
            assert len(result[kind]) == 2
            for record, budget in zip(result[kind], result["budgets"], strict=True):
                path = study.space.check(record["choices"])
                assert study.space.key(path) == record["path"]
                assert record["cost"] == study.constraint.cost(path[None])[0] <= budget
                assert 0.0 <= record["AP"] <= 1.0
                assert study.operations(VARIANTS["compofa" if name == "compofa" else "ofa"]).contains(path[None])[0]
        assert all(math.isfinite(part["seconds"]) for part in result["costs"].values())
    assert results["fullnet"]["full"]["choices"] == study.space.largest().tolist()
    assert int(results["ofa"]["space"]) == study.space.size()
    assert int(results["ours"]["space"]) < study.space.size()
    assert int(results["compofa"]["space"]) == method.Operations.compound(study.space).size()


def test_what_a_variant_pays_for(finished):
    """Table 3: ours pays for path sampling and filter; uniform sampling does not; both pay the shared warm-up."""
    _, results = finished
    assert set(results["ours"]["costs"]) == {"warm-up", "sampling", "filter", "fine-tuning", "search sampling"}
    assert set(results["ofa"]["costs"]) == {"warm-up", "fine-tuning", "search sampling"}
    assert results["ours"]["costs"]["warm-up"] == results["ofa"]["costs"]["warm-up"]
    assert set(results["fullnet"]["costs"]) == {"warm-up", "fine-tuning"}
    assert results["compofa"]["costs"]["warm-up"] != results["ofa"]["costs"]["warm-up"]


def test_variants_share_the_warm_up(finished):
    out, _ = finished
    folder = out / "detofa" / "scenes-tiny"
    assert {run.name for run in folder.iterdir()} == {
        f"{what}-s0" for what in ("classification", "filter", "warm-up", "ours", "ofa", "fullnet", "compofa")
    }
    stages = {run.name: sorted(f.stem for f in (run / "stages").glob("*.json")) for run in folder.iterdir()}
    assert stages["warm-up-s0"] == ["filter", "warm-up"]
    assert stages["ours-s0"] == stages["ofa-s0"] == ["fine-tuning", "search-filter"]
    assert stages["compofa-s0"] == ["fine-tuning", "search-filter", "warm-up"]
    assert stages["fullnet-s0"] == ["fine-tuning", "warm-up"]
    for run in folder.iterdir():
        logged = [(record["stage"], record["epoch"]) for record in Run.read(run).logged()]
        assert len(logged) == len(set(logged)), f"{run.name}: an epoch was trained twice"
        assert Run.read(run).result is not None


def test_a_second_study_trains_nothing(finished, monkeypatch):
    out, results = finished
    monkeypatch.setattr(loop._Training, "train", lambda *_: pytest.fail("something was trained again"))
    monkeypatch.setattr(method.Evaluator, "loss", lambda *_: pytest.fail("a path was validated again"))
    study = Study(tiny(), DATA, seed=0, out=out)
    assert {name: study.result(name) for name in results} == results
    supernet, _, costs = study.trained("ours")
    weights = load_file(out / "detofa" / "scenes-tiny" / "ours-s0" / "fine-tuning.safetensors")
    assert all(torch.equal(tensor, weights[name]) for name, tensor in supernet.state_dict().items())
    assert costs == {part: cost for part, cost in results["ours"]["costs"].items() if part != "search sampling"}


def test_sampled_paths_of_the_pruned_space(finished):
    out, _ = finished
    study = Study(tiny(), DATA, seed=0, out=out)
    records = study.sampled("ours")
    paths = np.array([record["choices"] for record in records])
    assert study.operations(VARIANTS["ours"]).contains(paths).all()
    assert [record["bucket"] for record in records] == study.constraint.bucket(paths).tolist()
    assert study.sampled("ours") == records


def test_the_same_seed_gives_the_same_numbers_elsewhere_and_another_seed_others(finished, tmp_path):
    out, results = finished
    again = Study(tiny(), DATA, seed=0, out=tmp_path).result("ofa")
    assert _without_times(again) == _without_times(results["ofa"])
    other = Study(tiny(), DATA, seed=1, out=tmp_path)
    assert _without_times(other.result("ofa")) != _without_times(results["ofa"])
    one, two = (
        load_file(folder / "detofa" / "scenes-tiny" / f"warm-up-s{seed}" / "warm-up.safetensors")
        for folder, seed in ((out, 0), (tmp_path, 1))
    )
    assert any(not torch.equal(one[name], two[name]) for name in one)


def test_seeds_share_the_held_out_images_and_the_validation_images():
    studies = [Study(tiny(), DATA, seed=seed, out="nowhere") for seed in (0, 1)]
    held_out = [study._training_and_proxy[1].fingerprint() for study in studies]
    assert held_out[0] == held_out[1]
    assert studies[0].validation_set.fingerprint() == studies[1].validation_set.fingerprint()
    training = set(studies[0].training_set.image_ids.tolist())
    assert not training & set(studies[0]._training_and_proxy[1].image_ids.tolist())


def test_transfer_takes_the_backbone_and_leaves_the_heads(finished):
    out, _ = finished
    study = Study(tiny(), DATA, seed=0, out=out)
    fresh, transferred = study.detector(), study._transferred(study.detector())
    backbone = study.classification[0].backbone.state_dict()
    for name, tensor in transferred.state_dict().items():
        part, _, rest = name.partition(".")
        assert torch.equal(tensor, backbone[rest] if part == "backbone" else fresh.state_dict()[name]), name


def test_shrinking_starts_from_the_full_net(finished):
    out, results = finished
    result = Study(tiny(), DATA, seed=0, out=out).result("ofa-shrinking")
    assert set(result["costs"]) == {"warm-up", "fine-tuning", "depth", "expand", "width", "search sampling"}
    assert result["costs"]["fine-tuning"] == results["fullnet"]["costs"]["fine-tuning"]
    assert all(math.isfinite(record["AP"]) for record in result["found"])


# --- constraints, bad input -------------------------------------------------------------------------------------------


def test_parameters_as_the_constraint(tmp_path):
    study = Study(tiny(), DATA, seed=0, out=tmp_path, constraint="params")
    result = study.result("ofa")
    assert study.constraint.unit == "parameters"
    largest = study.detector().backbone.extract(study.space.largest())
    assert study.constraint.highest == sum(parameter.numel() for parameter in largest.parameters())
    assert all(r["cost"] <= budget for r, budget in zip(result["found"], result["budgets"], strict=True))


def test_latency_is_measured_once_for_all_processes(tmp_path, monkeypatch):
    clock = iter(range(1, 10_000))
    monkeypatch.setattr(Study, "_latency", lambda *_: float(next(clock)))
    path = tiny().space.largest()[None]
    first, second = (Study(tiny(), DATA, seed=0, out=tmp_path, constraint="latency") for _ in range(2))
    assert first.constraint.cost(path) == second.constraint.cost(path)


def test_unknown_constraint_and_too_little_data_are_said():
    with pytest.raises(InputError, match=r"unknown constraint 'energy': give one of macs, params, latency"):
        _ = Study(tiny(), DATA, seed=0, out="nowhere", constraint="energy").constraint
    few = Study(tiny(), "scenes:train=12,val=4,size=32", seed=0, out="nowhere")
    with pytest.raises(InputError, match=r"has 12 training images, and scale tiny holds 8 out .* at least twice"):
        _ = few.training_set


def test_a_folder_of_other_settings_is_not_mixed_with(finished):
    out, _ = finished
    with pytest.raises(InputError, match=r"holds a run with preset\.batch_size = 8, and this command asks for 4"):
        Study(tiny(batch_size=4), DATA, seed=0, out=out).result("ours")


def test_a_budget_that_no_sampled_path_meets(finished, tmp_path, monkeypatch):
    """Nothing affordable for one budget: recorded as such, or said in a sentence; never a traceback."""
    out, _ = finished
    shutil.copytree(out, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "detofa" / "scenes-tiny" / "compofa-s0")
    study = Study(tiny(), DATA, seed=0, out=tmp_path / "copy")
    path_losses = Study._path_losses

    def dear_ones_only(self, run, purpose, supernet, task, operations, per_bucket):
        losses, spent = path_losses(self, run, purpose, supernet, task, operations, per_bucket)
        dear = np.flatnonzero(self.constraint.cost(losses.paths) > self.constraint.budget(0.4))
        return losses._take(dear), spent

    monkeypatch.setattr(Study, "_path_losses", dear_ones_only)
    with suppress(InputError):
        study.result("compofa")


def test_a_diverged_candidate_is_recorded_as_failed(finished, tmp_path):
    out, _ = finished
    study = Study(tiny(), DATA, seed=0, out=out)
    supernet = study.detector()
    with torch.no_grad():
        supernet.size[-1].bias.fill_(float("nan"))
    with Run.open(tmp_path / "run", {}) as run:
        (record,) = study.measured(run, supernet, [study.space.largest()])
        assert record["status"] == "failed"


# --- a kill changes nothing -------------------------------------------------------------------------------------------


def _command(out: Path) -> list[str]:
    return [sys.executable, __file__, str(out), str(torch.get_num_threads())]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def _start(out: Path) -> subprocess.Popen:
    """The study in a process of its own, past its imports."""
    process = subprocess.Popen(
        _command(out), cwd=ROOT, env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n", process.communicate()[1]
    return process


def test_killed_at_any_moment_it_ends_with_the_same_numbers(unbroken, tmp_path):
    """SIGKILL, three times, at moments spread over the work that is left; then once more to the end."""
    _, whole, took = unbroken
    moments, killed = random.Random(time.time_ns()), 0
    for share in (0.15, 0.3, 0.4):
        process = _start(tmp_path)
        try:
            process.communicate(timeout=took * share * moments.uniform(0.5, 1.5))
            assert process.returncode == 0
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            killed += 1
    assert killed >= 2
    final = subprocess.run(_command(tmp_path), cwd=ROOT, env=_environment(), capture_output=True, text=True)
    assert final.returncode == 0, final.stderr
    assert "detofa/scenes-tiny/ours-s0/result.json" in whole
    assert not [name for name in whole if name.endswith(".state")], "nothing to resume is left of a finished run"
    _assert_equal_records(_records(tmp_path), whole)


# --- real photographs -------------------------------------------------------------------------------------------------


def test_other_data(bccd, tmp_path):
    """Blood cells: three classes, images of 416 pixels and more, through the same study."""
    study = Study(tiny(), f"coco:{bccd}", seed=0, out=tmp_path)
    result = study.result("ours")
    assert study.folder == tmp_path / "detofa" / "bccd-tiny"
    assert len(study.training_set.categories) == 3
    assert len(study.training_set) == 16
    assert all(0.0 <= record["AP"] <= 1.0 for record in result["found"])


if __name__ == "__main__":
    _hurry()
    torch.set_num_threads(int(sys.argv[2]))
    print("ready", flush=True)
    Study(tiny(), DATA, seed=0, out=sys.argv[1]).result("ours")
