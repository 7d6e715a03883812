"""A whole study at a tiny scale: what is shared, what is remembered and used, and that a kill changes no number."""

import json
import math
import os
import random
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from common.models.ofa_resnet import OFAResNet
from common.plain import InputError
from common.report.reproduce import measure_exhibit
from common.train.run_folder import Run
from detofa import method
from detofa.exhibits import PAPER
from detofa.method import Operations, PathLosses, best_affordable
from detofa.presets import PAPER as PAPER_SCALE
from detofa.presets import VARIANTS, Options
from detofa.space import BlockShape, Constraint, StemShape
from detofa.study import DetOFAStudy, Released, folds_of
from tests.detofa.conftest import hurry
from tests.detofa.tiny_space import TINY_PRESET
from tests.repeatable import without_times

ROOT = Path(__file__).resolve().parents[2]
DATA = "scenes:train=40,val=8,size=32"


def tiny(out, data: str = DATA, constraint: str = "macs", precision: str = "float32", **changes) -> Options:
    """The tiny preset with some of its fields changed."""
    preset = replace(TINY_PRESET, **changes)
    return Options(data=data, out=Path(out), device="cpu", constraint=constraint, precision=precision, preset=preset)


def _study(out, seed: int = 0, **options) -> DetOFAStudy:
    return DetOFAStudy(tiny(out, **options), seed)


def _records(folder: Path) -> dict[str, object]:
    """All that the runs under `folder` say, but for times and machines; weights as bytes."""
    found = {}
    for file in folder.rglob("*"):
        name = str(file.relative_to(folder))
        if file.suffix == ".json" and file.name != "environment.json":
            found[name] = without_times(json.loads(file.read_text()))
        elif file.suffix == ".jsonl":
            found[name] = [without_times(json.loads(line)) for line in file.read_text().splitlines()]
        elif file.suffix in (".safetensors", ".state"):
            found[name] = file.read_bytes()
    return found


pytestmark = pytest.mark.usefixtures("hurried")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, hurried) -> tuple[Path, dict, float]:
    """A study of seed 0 whose only variant so far is "ours": its folder, all its records, and the seconds it took."""
    out = tmp_path_factory.mktemp("study")
    began = time.perf_counter()
    _study(out).result("ours")
    return out, _records(out), time.perf_counter() - began


@pytest.fixture(scope="module")
def finished(unbroken) -> tuple[Path, dict[str, dict]]:
    """The folder of that study with four variants trained, and their results."""
    study = _study(unbroken[0])
    return unbroken[0], {name: study.result(name) for name in ("ours", "ofa", "fullnet", "compofa")}


def test_precision_is_part_of_a_run_and_changes_its_weights(tmp_path, unbroken):
    study = _study(tmp_path, precision="bfloat16")
    study.shared("classification")
    assert Run.read(study.run_path("classification")).config["precision"] == "bfloat16"
    exact = load_file(next(unbroken[0].rglob("classification-s0/full.safetensors")))
    rounded = study.weights("classification", "full")
    assert {weight.dtype for weight in rounded.values()} <= {torch.float32, torch.int64}
    assert any(not torch.equal(exact[name], rounded[name]) for name in exact)


def test_the_seconds_of_a_search_are_of_the_processor(finished, monkeypatch):
    """As all that they are added to: a search that only waits takes none."""

    def waiting(*_):
        time.sleep(0.3)
        return SimpleNamespace(best=study.space.largest())

    study = _study(finished[0])
    run = SimpleNamespace()
    monkeypatch.setattr(method, "search", waiting)
    monkeypatch.setattr(method, "sample_paths", lambda *_: (study.validated("warm-up"), {}))
    monkeypatch.setattr(method, "train_filter", lambda *_: None)
    monkeypatch.setattr(study, "_train", lambda *_: (None, {}))
    monkeypatch.setattr(study, "measured", lambda *_: [])
    assert study.train_and_search(VARIANTS["ofa"], run)["search_seconds"] < 0.3

    prune, calls = method.prune, []

    def busy(*arguments):
        calls.append(time.process_time())
        while time.process_time() < calls[-1] + 0.3:
            pass
        return prune(*arguments)

    monkeypatch.setattr(method, "prune", busy)
    assert study.train_and_search(VARIANTS["ours"], run)["search_seconds"] > 0.3
    study.operations(VARIANTS["ours"])
    assert len(calls) == 1, "the space is pruned once"
    assert study.train_and_search(VARIANTS["ofa"], run)["search_seconds"] < 0.3


def test_a_result_says_all_that_the_exhibits_need(finished):
    _, results = finished
    study = _study("nowhere")
    for name in ("ours", "ofa", "compofa"):
        result = results[name]
        assert result["budgets"] == study.budgets == [study.constraint.budget(share) for share in (0.4, 0.8)]
        for kind in ("found", "random"):
            assert len(result[kind]) == 2
            for record, budget in zip(result[kind], result["budgets"], strict=True):
                path = study.space.from_key(record["path"])
                assert path.tolist() == record["choices"]
                assert record["cost"] == study.constraint.cost(path[None])[0] <= budget
                assert 0.0 <= record["AP"] <= 1.0
                assert study.operations(VARIANTS["compofa" if name == "compofa" else "ofa"]).contains(path[None])[0]
        assert all(math.isfinite(part["seconds"]) for part in result["costs"].values())
    assert results["fullnet"]["full"]["choices"] == study.space.largest().tolist()
    assert int(results["ofa"]["space"]) == study.space.size()
    assert int(results["ours"]["space"]) < study.space.size()
    assert int(results["compofa"]["space"]) == study.space.size(coupled=True)


def test_what_a_variant_pays_for(finished):
    """Table 3: ours pays for path sampling and filter; uniform sampling does not; both pay the shared warm-up."""
    _, results = finished
    assert set(results["ours"]["costs"]) == {"warm-up", "sampling", "filter", "fine-tuning", "search sampling"}
    assert set(results["ofa"]["costs"]) == {"warm-up", "fine-tuning", "search sampling"}
    assert results["ours"]["costs"]["warm-up"] == results["ofa"]["costs"]["warm-up"]
    assert set(results["fullnet"]["costs"]) == {"warm-up", "fine-tuning"}
    assert results["compofa"]["costs"]["warm-up"] != results["ofa"]["costs"]["warm-up"]


def test_variants_share_what_they_build_on_and_say_so(finished, logged):
    out, _ = finished
    folder = _study(out).folder
    names = {"classification", "filter", "warm-up", "ours", "ofa", "fullnet", "compofa"}
    assert {run.name for run in folder.iterdir()} == {f"{what}-s0" for what in names}
    stages = {run.name: sorted(f.stem for f in (run / "stages").glob("*.json")) for run in folder.iterdir()}
    assert stages["warm-up-s0"] == ["filter", "warm-up"]
    assert stages["ours-s0"] == stages["ofa-s0"] == ["fine-tuning", "search-filter"]
    assert stages["compofa-s0"] == ["fine-tuning", "search-filter", "warm-up"]
    assert stages["fullnet-s0"] == ["fine-tuning", "warm-up"]
    used = {what: Run.read(folder / f"{what}-s0").read_json("uses", list) for what in names}
    uses = {what: {Path(run).name[:-3] for run in runs} for what, runs in used.items()}
    assert uses["classification"] == set()
    assert uses["filter"] == uses["fullnet"] == {"classification"}
    assert uses["warm-up"] == uses["compofa"] == {"classification", "filter"}
    assert uses["ours"] == uses["ofa"] == {"classification", "filter", "warm-up"}
    for run in folder.iterdir():
        epochs = [(record["stage"], record["epoch"]) for record in logged(run)]
        assert len(epochs) == len(set(epochs)), f"{run.name}: an epoch was trained twice"
        assert Run.read(run).result is not None


def test_an_exhibits_runs_are_the_folders_that_measuring_it_touched(finished, tmp_path):
    study = _study(tmp_path)
    for what in method.SHARED:
        shutil.copytree(_study(finished[0]).run_path(what), study.run_path(what))
    first = measure_exhibit(PAPER.by_name["table2"], study)
    assert {f"{study.folder.name}/{run.name}" for run in study.folder.iterdir()} == set(first["runs"])
    again = measure_exhibit(PAPER.by_name["table2"], _study(tmp_path))
    assert (set(again["runs"]), again["rests_on"]) == (set(first["runs"]), first["rests_on"])
    assert again["evidence"] == first["evidence"]


def test_evidence_rests_on_its_own_runs_alone(finished):
    study = _study(finished[0])
    rests_on = {}
    for name in ("figure6", "figure7"):
        rests_on |= measure_exhibit(PAPER.by_name[name], study)["rests_on"]
    shared = {"classification", "filter", "warm-up"}
    expected = {"gain": shared | {"ours", "ofa", "sampled-ours", "sampled-ofa"}}
    expected |= {"tau:classification": {"classification", "filter"}, "tau:detection": shared}
    assert {name: {Path(run).name[:-3] for run in runs} for name, runs in rests_on.items()} == expected


def test_sampled_paths_of_the_pruned_space(finished):
    out, _ = finished
    study = _study(out)
    records = study.sampled("ours")
    paths = np.array([record["choices"] for record in records])
    assert study.operations(VARIANTS["ours"]).contains(paths).all()
    assert [record["bucket"] for record in records] == study.constraint.bucket(paths).tolist()
    assert study.sampled("ours") == _study(out).sampled("ours") == records


def test_another_seed_gives_other_weights(finished, tmp_path):
    one, other = _study(finished[0]), _study(tmp_path, seed=1)
    other.shared("classification")
    weights = [study.weights("classification", "uniform") for study in (one, other)]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_seeds_share_the_held_out_images_and_the_validation_images():
    first, second = (_study("nowhere", seed=seed).sets for seed in (0, 1))
    for name in ("search", "validation"):
        assert first[name].fingerprint() == second[name].fingerprint()
    training = set(_study("nowhere").training_set.image_ids.tolist())
    assert not training & set(first["search"].image_ids.tolist())


def test_transfer_takes_the_backbone_and_leaves_the_heads(finished):
    study = _study(finished[0])
    fresh, transferred = study.detector(), study.transferred(study.detector())
    weights = study.weights("classification", "uniform")
    for name, tensor in transferred.state_dict().items():
        assert torch.equal(tensor, weights[name] if name.startswith("backbone.") else fresh.state_dict()[name]), name


def test_shrinking_starts_from_the_full_net(finished):
    out, results = finished
    result = _study(out).result("ofa-shrinking")
    assert set(result["costs"]) == {"warm-up", "fine-tuning", "depth", "expand", "width", "search sampling"}
    assert result["costs"]["fine-tuning"] == results["fullnet"]["costs"]["fine-tuning"]
    assert all(math.isfinite(record["AP"]) for record in result["found"])


def test_equal_cost_lengthens_the_fine_tuning_by_the_recorded_seconds():
    ours = {"warm-up": 3.0, "sampling": 7.0, "filter": 1.0, "fine-tuning": 30.0, "search sampling": 99.0}
    own = {"warm-up": 3.0, "fine-tuning": 20.0, "search sampling": 5.0}
    costs = {
        name: {"costs": {part: {"cpu_seconds": seconds, "samples": 1} for part, seconds in parts.items()}}
        for name, parts in {"ours": ours, "ofa": own}.items()
    }
    preset = replace(TINY_PRESET, fine_tuning=replace(PAPER_SCALE.fine_tuning, epochs=50, milestones=(30.0, 40.0)))
    longer = DetOFAStudy.equal_cost(SimpleNamespace(result=costs.get, preset=preset), "ofa")
    epochs = 50 * (41 - 3) / 20  # what is left for the fine-tuning after the warm-up
    assert longer == replace(preset.fine_tuning, epochs=round(epochs), milestones=(95 * 0.6, 95 * 0.8))
    costs["ofa"]["costs"]["fine-tuning"]["cpu_seconds"] = 90.0
    assert DetOFAStudy.equal_cost(SimpleNamespace(result=costs.get, preset=preset), "ofa").epochs == 50, "never shorter"


def test_a_released_supernet_keeps_its_weights_and_is_part_of_a_run(tmp_path):
    released = OFAResNet(TINY_PRESET.space).state_dict()
    study = _study(tmp_path)
    study.released = Released("digest", released)
    assert list(study.shared("classification")["costs"]) == ["uniform", "sampling"]
    detector = study.transferred(study.detector())
    learned = dict(detector.backbone.named_parameters())
    assert all(torch.equal(tensor, released[name]) for name, tensor in learned.items())
    assert Run.read(study.run_path("classification")).config["pretrained"] == "digest"
    with pytest.raises(InputError, match="pretrained"):
        _study(tmp_path).shared("classification")


def test_pre_training_on_another_set_is_one_for_all_seeds(tmp_path):
    weights = []
    for first in (0, 1):
        study = _study(tmp_path / str(first), seed=first, pretraining_data="scenes:seed=1,train=12,size=32")
        study.shared("filter")
        assert {run.name for run in study.folder.iterdir()} == {"classification", "filter"}
        weights.append(study.weights("classification", "uniform") | study.weights("filter", "filter-best"))
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


def test_sampled_paths_of_which_none_can_be_validated_are_one_sentence(tmp_path):
    study = _study("nowhere")
    supernet = study.detector()
    with torch.no_grad():
        supernet.size[-1].bias.fill_(float("nan"))
    task, everything = study.detection_task, Operations.all(study.space)
    with Run.open(tmp_path / "run", {}) as run, pytest.raises(InputError, match=r"none of the \d+ sampled paths could"):
        method.sample_paths(study, run, "warm-up", supernet, task, everything, 1)


def test_folds_spread_every_bucket_evenly():
    buckets = np.repeat(np.arange(3), 10)
    fold = folds_of(buckets, 5, np.random.default_rng(0))
    assert all((np.bincount(fold[buckets == bucket]) == 2).all() for bucket in range(3))


# --- constraints, bad input -------------------------------------------------------------------------------------------


def test_latency_is_measured_once_for_all_processes_and_counts_as_used(tmp_path, monkeypatch):
    clock = iter(range(1, 10_000))
    monkeypatch.setattr(DetOFAStudy, "_latency", lambda *_: float(next(clock)))
    path = tiny(tmp_path).preset.space.largest()[None]
    first, second = (_study(tmp_path, seed=seed, constraint="latency") for seed in (0, 1))
    assert first.constraint.cost(path) == second.constraint.cost(path)
    assert first.constraint.unit == "ms"
    with second.recording() as used:
        _ = second.constraint
    assert list(used) == [f"{second.folder.name}/latency"]


@pytest.mark.parametrize("shape", [StemShape(4, 8, True, (32, 32)), BlockShape(8, 4, 16, 2, True, (8, 8))])
def test_the_latency_of_a_block_is_that_of_its_module(shape, monkeypatch):
    asked = []

    def measure(module, input_shape, device, **passes):
        asked.append((sum(parameter.numel() for parameter in module.parameters()), tuple(input_shape), passes))
        return SimpleNamespace(median_ms=7.5)

    monkeypatch.setattr("detofa.study.measure_latency", measure)
    assert _study("nowhere", latency_images=7, latency_warmup=3, latency_pause=0.5)._latency(shape) == 7.5
    channels, passes = 3 if isinstance(shape, StemShape) else 8, {"warmup": 3, "runs": 7, "pause_s": 0.5}
    assert asked == [(shape.params, (channels, *shape.size), passes)]


def test_other_settings_have_a_folder_of_their_own_and_another_constraint_is_refused(finished):
    out, _ = finished
    assert _study(out, batch_size=4).folder != _study(out).folder
    with pytest.raises(
        InputError, match=r"holds a run with constraint = \"macs\", and this command asks for \"params\""
    ):
        _study(out, constraint="params").result("ours")


def test_a_random_search_without_an_affordable_path_finds_nothing(tmp_path):
    losses = PathLosses(np.arange(3, dtype=np.int8)[:, None], np.array([3.0, 1.0, 2.0]))
    constraint = Constraint("made up", "", lambda paths: 10.0 - paths[:, 0], (8.0, 10.0))
    assert best_affordable(losses, constraint, 9.5).tolist() == [1]
    assert best_affordable(losses, constraint, 8.5).tolist() == [2]
    assert best_affordable(losses, constraint, 7.5) is None
    with Run.open(tmp_path / "run", {}) as run:
        assert _study("nowhere").measured(run, None, [None, None]) == [None, None]


def test_a_diverged_candidate_is_recorded_as_failed(tmp_path, monkeypatch):
    study = _study("nowhere")
    supernet = study.detector()
    with torch.no_grad():
        supernet.size[-1].bias.fill_(float("nan"))
    with Run.open(tmp_path / "run", {}) as run:
        (record,) = study.measured(run, supernet, [study.space.largest()])
        assert record["status"] == "failed"
    monkeypatch.setattr(study, "once", lambda *_: {"samples": 5, "paths": [record]})
    samples, accuracy = study.plateau("full", 1.0)
    assert (samples, math.isnan(accuracy)) == (5, True)


# --- a kill changes nothing -------------------------------------------------------------------------------------------


def _process(out: Path) -> subprocess.Popen:
    """The study in a process of its own, past its imports."""
    process = subprocess.Popen(
        [sys.executable, __file__, str(out), str(torch.get_num_threads())],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n", process.communicate()[1]
    return process


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_with_the_same_numbers(unbroken, tmp_path):
    """SIGKILL, twice, at moments spread over the work that is left; then once more to the end."""
    _, whole, took = unbroken
    moments, killed = random.Random(time.time_ns()), 0
    for share in (0.2, 0.4):
        process = _process(tmp_path)
        try:
            process.communicate(timeout=took * share * moments.uniform(0.5, 1.5))
            assert process.returncode == 0
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            killed += 1
    assert killed
    final = _process(tmp_path)
    _, said = final.communicate()
    assert final.returncode == 0, said
    assert f"detofa/{_study('nowhere').folder.name}/ours-s0/result.json" in whole
    assert not [name for name in whole if name.endswith(".state")], "nothing to resume is left of a finished run"
    resumed = _records(tmp_path)
    assert resumed.keys() == whole.keys()
    assert [name for name in whole if resumed[name] != whole[name]] == []


# --- real photographs -------------------------------------------------------------------------------------------------


def test_other_data(bccd, tmp_path):
    """Blood cells: three classes, images of 416 pixels and more, through the same study."""
    study = _study(tmp_path, data=f"coco:{bccd}")
    result = study.result("fullnet")
    assert study.folder.name.startswith("bccd-smoke-")
    assert (len(study.categories), study.images_an_epoch, len(study.sets["search"])) == (3, 16, 8)
    assert 0.0 <= result["full"]["AP"] <= 1.0


if __name__ == "__main__":
    hurry(pytest.MonkeyPatch())
    torch.set_num_threads(int(sys.argv[2]))
    print("ready", flush=True)
    _study(sys.argv[1]).result("ours")
