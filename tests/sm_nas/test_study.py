"""One detector, both stages and the exhibits of a seed at a tiny scale: shared, remembered, the same after a kill."""

import copy
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from common.batch import Batch
from common.plain import InputError
from common.report.reproduce import measure_exhibit
from common.settings import Optimisation
from common.study import Study, slug, spent_by
from common.train import loop
from common.train.run_folder import Run
from sm_nas import exhibits
from sm_nas import study as module
from sm_nas.encoding import Structure
from sm_nas.exhibits import PAPER
from sm_nas.method import Group, Strategy, not_larger
from sm_nas.networks import build_backbone, losses_of
from sm_nas.presets import PRESETS, SMOKE, Preset
from sm_nas.reproduce import Options
from sm_nas.study import SMNAS, in_parts, load_backbone
from tests.processes import ran
from tests.repeatable import steady_latency, without_times
from tests.sm_nas.conftest import DATA, TINY, checkpoint_at_every_step, tiny_options

ROOT = Path(__file__).resolve().parents[2]
RETINANET = Structure("resnet18", (32, 32), (2, 4), 16, None, 0)
CASCADE = Structure("basicblock_12_12-1-21-12", (32, 32), (1, 5), 16, "rpn", 2)
SCRATCH = SMOKE.stage_two_training

pytestmark = pytest.mark.usefixtures("steady", "tiny_smoke")


def searches(study: SMNAS) -> dict:
    """All that both stages say."""
    return {"stage-one": study.stage_one, **{f"stage-two-c{i}": study.stage_two(i) for i in range(len(study.picks))}}


def records(study: SMNAS) -> dict[str, list]:
    """The candidates of every run folder, in their order, and its result."""
    found = {}
    for file in sorted(study.folder.glob("*/config.json")):
        run = Run.read(file.parent)
        found[file.parent.name] = without_times([*run.candidates(), run.result])
    return found


def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop._Stage, "train", lambda *_: pytest.fail("something was trained again"))


@pytest.fixture
def study(searched) -> SMNAS:
    """Seed 0, searched once for all tests."""
    study = SMNAS(tiny_options(searched))
    searches(study)
    return study


@pytest.fixture
def fresh(tmp_path) -> SMNAS:
    """A study without runs."""
    return SMNAS(tiny_options(tmp_path / "runs"))


@pytest.fixture
def made_up_costs(monkeypatch) -> None:
    """Costs by name: no network is built for them."""

    def describe(self, structure: Structure) -> dict:
        cost = sum(map(ord, str(structure)))
        return {"macs": cost, "macs_mmdet": cost, "params": cost}

    monkeypatch.setattr(SMNAS, "describe", describe)


# ---- one detector


def test_parts_of_a_batch_are_the_batch(device):
    batch = Batch(
        images=torch.randn(5, 3, 4, 4),
        boxes=torch.randn(5, 2, 4),
        labels=torch.arange(10).view(5, 2),
        valid=torch.ones(5, 2, dtype=torch.bool),
        index=torch.arange(5),
        sizes=torch.full((5, 2), 4),
    ).to(device)
    parts = list(in_parts(batch, 2))
    assert [part.index.tolist() for part in parts] == [[0, 1], [2, 3], [4]]
    for name, whole in vars(batch).items():
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), whole)
    assert [part.index.tolist() for part in in_parts(batch, 8)] == [[0, 1, 2, 3, 4]]


@pytest.fixture
def asked(monkeypatch) -> dict:
    """What `fit` would have been given: nothing is trained."""
    caught = {}

    def instead(run, stage, network, batches, losses, training):
        caught.update(network=network, batches=batches, losses=losses, training=training)

    monkeypatch.setattr(module, "fit", instead)
    return caught


def test_batch_norm_sees_a_part_and_the_gradient_is_the_mean_of_the_parts(fresh, asked, tmp_path):
    strategy = Strategy("batch", False, Optimisation(epochs=1), images_a_device=2, devices=3)
    with Run.open(tmp_path / "run", {}) as run:
        fresh.train(run, RETINANET, strategy)
    batch, network, seen = next(asked["batches"].epoch(0)), asked["network"].train(), []
    assert len(batch.labels) == strategy.batch_size == 6
    other = copy.deepcopy(network)
    handle = network.backbone.bn1.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    for values in asked["losses"](batch, None):
        values["loss"].backward()
    handle.remove()
    assert seen == [2, 2, 2]

    gradients = [torch.zeros_like(parameter) for parameter in other.parameters()]
    for first in (0, 2, 4):
        part = Batch(**{name: value[first : first + 2] for name, value in vars(batch).items()})
        other.zero_grad()
        losses_of(other)(other(part.images), part)["loss"].backward()
        for total, parameter in zip(gradients, other.parameters(), strict=True):
            total += 0 if parameter.grad is None else parameter.grad / 3
    for (name, parameter), expected in zip(network.named_parameters(), gradients, strict=True):
        if parameter.grad is not None:
            assert (parameter.grad - expected).norm() <= 1e-3 * expected.norm() + 1e-7, name
    assert torch.equal(network.backbone.bn1.running_mean, other.backbone.bn1.running_mean)


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v2", "Xbottleneck_12_12-11-21-112"])
@pytest.mark.parametrize("levels", [None, (1, 3)])
def test_a_frozen_backbone_is_trained_from_its_second_stage_on_its_statistics_never(
    fresh, backbone, levels, asked, tmp_path
):
    structure = Structure(backbone, (64, 64), levels, levels and 16, "rpn", 1).as_read()
    strategy = replace(SMOKE.final_training, pretrained=False, frozen_stages=1, zero_init=False)
    with Run.open(tmp_path / "run", {}) as run:
        fresh.train(run, structure, strategy)
    network, before = asked["network"].train(), copy.deepcopy(asked["network"].state_dict())
    batch = next(asked["batches"].epoch(0))
    losses_of(network)(network(batch.images), batch)["loss"].backward()
    frozen = ("backbone.conv1", "backbone.bn1", "backbone.layer1", "backbone.stem", "backbone.stage1")
    frozen += tuple(f"backbone.features.{layer}." for layer in range(4))
    for name, parameter in network.named_parameters():
        assert (parameter.grad is None or not parameter.grad.any()) == name.startswith(frozen), name
    after = network.state_dict()
    statistics = [name for name in after if name.endswith(("running_mean", "running_var"))]
    assert statistics
    assert all(torch.equal(before[name], after[name]) for name in statistics)


@pytest.mark.parametrize(("structure", "rate"), [(RETINANET, 0.25), (CASCADE, 1.0)])
def test_retinanet_has_its_own_share_of_the_learning_rate(fresh, asked, tmp_path, structure, rate):
    preset = replace(fresh.preset, detector=replace(fresh.preset.detector, retinanet_rate=0.25))
    study = SMNAS(replace(fresh.options, preset=preset))
    with Run.open(tmp_path / "run", {}) as run:
        study.train(run, structure, SCRATCH)
    whole = SCRATCH.optimisation
    assert asked["training"].optimisation == replace(whole, learning_rate=rate * whole.learning_rate)


@pytest.mark.parametrize("zero_init", [True, False])
def test_residual_blocks_begin_asleep_or_awake(fresh, asked, tmp_path, zero_init):
    with Run.open(tmp_path / "run", {}) as run:
        fresh.train(run, CASCADE, replace(SCRATCH, zero_init=zero_init))
    last = [tensor for name, tensor in asked["network"].state_dict().items() if name.endswith("bn2.weight")]
    assert len(last) == 7
    assert all(bool(each.any()) != zero_init for each in last)


@pytest.mark.parametrize("pretrained", [True, False])
def test_training_starts_from_the_pretrained_backbone_where_the_strategy_says_so(
    fresh, asked, tmp_path, monkeypatch, pretrained
):
    torch.manual_seed(5)
    weights = build_backbone("resnet18", SMOKE.detector).state_dict()
    monkeypatch.setattr(SMNAS, "pretrained", lambda *_: weights)
    with Run.open(tmp_path / "run", {}) as run:
        fresh.train(run, RETINANET, replace(SMOKE.final_training, pretrained=pretrained))
    drawn = fresh.detector(RETINANET).state_dict()
    for name, tensor in asked["network"].state_dict().items():
        part, _, rest = name.partition(".")
        expected = weights[rest] if pretrained and part == "backbone" else drawn[name]
        assert torch.equal(tensor, expected), name
    training = asked["training"]
    whole = SMOKE.final_training.optimisation
    own = replace(whole, learning_rate=SMOKE.detector.retinanet_rate * whole.learning_rate)
    assert (training.optimisation, training.seed) == (own, 0)


def _with_random_statistics(network: nn.Module) -> nn.Module:
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(std=0.1)
            layer.running_var.uniform_(0.5, 1.5)
    return network


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v2", "Xbottleneck_12_12-11-21-112", "MBblock_16_2-1-2-12"])
def test_without_an_fpn_the_stage_on_regions_is_pretrained_too(fresh, backbone):
    torch.manual_seed(5)
    whole = _with_random_statistics(build_backbone(backbone, SMOKE.detector)).eval()
    network = fresh.detector(Structure(backbone, (64, 64), None, None, "rpn", 2)).eval()
    load_backbone(network, whole.state_dict())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features = network.backbone(images)
        expected = whole(images)
        assert len(features) == 3
        for feature, other in zip((*features, network.roi.shared(features[-1])), expected, strict=True):
            torch.testing.assert_close(feature, other)


def test_a_candidate_leaves_nothing_but_its_numbers(fresh, tmp_path):
    measured = fresh.train_and_measure(CASCADE, SCRATCH, tmp_path / "one")
    again = fresh.train_and_measure(CASCADE, SCRATCH, tmp_path / "one")
    assert not (tmp_path / "one").exists()
    assert (measured["AP"], measured["losses"]) == (again["AP"], again["losses"])
    assert measured.items() >= fresh.describe(CASCADE).items()
    assert all(0 <= measured[name] <= 1 for name in ("AP", "AP50", "AR100"))
    assert measured["train_seconds"] > 0


def test_half_a_folder_that_was_being_taken_away_is_no_obstacle(fresh, tmp_path, monkeypatch):
    """A kill while the folder of a measured training goes: the training is done once more."""
    from common import study as shared

    rmtree = shared.shutil.rmtree

    def killed(folder, **_):
        for file in Path(folder).glob("*.safetensors"):
            file.unlink()
        if Path(folder).exists():
            raise KeyboardInterrupt

    monkeypatch.setattr(shared.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        fresh.train_and_measure(CASCADE, SCRATCH, tmp_path / "here" / "one")
    monkeypatch.setattr(shared.shutil, "rmtree", rmtree)
    assert fresh.train_and_measure(CASCADE, SCRATCH, tmp_path / "here" / "one")["AP"] >= 0
    assert list((tmp_path / "here").iterdir()) == []


# ---- both stages


def test_both_stages_hand_on_and_find(study):
    one = study.stage_one
    assert len(one.found.evaluated) == len(one.random.evaluated) == TINY.stage_one.budget
    assert all(0 <= each.accuracy <= 1 for each in one.found.evaluated)
    for each in one.found.evaluated:
        assert (each.cost, each.accuracy) == (one.pool[each.structure]["latency"], one.pool[each.structure]["AP"])
    for name, each in searches(study).items():
        evaluated = [str(candidate.structure) for candidate in (*each.found.evaluated, *each.random.evaluated)]
        keys = [record["key"] for record in Run.read(study.run_path(name)).candidates()]
        assert sorted(keys) == sorted(set(evaluated)) == sorted(map(str, each.pool)), "both share what they train"
        assert len(keys) < len(evaluated), "at least the first generation is common to both"
        assert not list((study.run_path(name) / "training").iterdir()), "nothing is left of the trainings"
    picks = study.picks
    assert 1 <= len(picks) <= TINY.groups
    assert all(each in one.found.front() for each in picks)
    for group, each in enumerate(picks):
        two = study.stage_two(group)
        start = Group(TINY.modular, each.structure).start()
        assert two.found.evaluated[0].structure == two.random.evaluated[0].structure == start
        for candidate in (*two.found.evaluated, *two.random.evaluated):
            assert candidate.cost == study.flops(candidate.structure)
            kept = ("size", "levels", "rpn", "heads")
            assert [getattr(candidate.structure, name) for name in kept] == [getattr(start, name) for name in kept]
        again, left = study.skipped(group), two.found.skipped
        assert [each["cost"] for each in again] == [each.cost for each in left]
        assert all(math.isfinite(each["AP"]) for each in again)
        for skipped in left:
            assert not_larger(skipped.structure, skipped.witness)
    networks = study.found()
    assert list(networks) == [f"F{group}" for group in range(len(picks))]
    for group, structure in enumerate(networks.values()):
        two = study.stage_two(group)
        budget = study.flops(picks[group].structure)
        affordable = [each for each in two.found.evaluated if each.cost <= budget]
        cheapest = min(two.found.evaluated, key=lambda each: each.cost)
        expected = max(affordable or [cheapest], key=lambda each: each.accuracy)
        assert two.pool[structure]["AP"] == expected.accuracy
        assert study.flops(structure) <= budget or not affordable


def test_a_second_study_trains_nothing_and_finds_the_same(study, searched, monkeypatch):
    before = records(study)
    no_training(monkeypatch)
    again = SMNAS(tiny_options(searched))
    assert searches(again) == searches(study)
    assert again.found() == study.found()
    assert records(again) == before


def test_a_final_is_a_run_of_its_own(study):
    structure = next(iter(study.found().values()))
    result = study.final("F0", structure)
    assert result["structure"] == str(structure)
    assert 0 <= result["AP"] <= 1
    assert result.items() >= study.describe(structure).items()
    assert study.final("F0", structure) == result
    with pytest.raises(InputError, match=r"holds a run with structure = "):
        SMNAS(study.options).final("F0", TINY.strategy_model)


def test_detectors_that_are_compared_are_timed_in_turn_with_their_own_weights(study, monkeypatch):
    structures = {"F0": next(iter(study.found().values())), "again": TINY.strategy_model}
    asked, rest = [], {"latency_iqr": 0.5, "latency_of": {"device": "toy"}}

    def latencies_in_turn(_, networks, where):
        asked.append((networks, where))
        return {name: {"latency": 7.0 + place} | rest for place, name in enumerate(networks)}

    monkeypatch.setattr(Study, "latencies_in_turn", latencies_in_turn)
    finals = study.finals("toy", structures)
    assert finals == {
        name: study.final(name, structure) | {"latency": latency} | rest
        for (name, structure), latency in zip(structures.items(), (7.0, 8.0), strict=True)
    }
    (networks, where), *more = asked
    assert where == "validation"
    for name, structure in structures.items():
        network, size = networks[name]
        trained, _ = Run.read(study.run_path(f"final-{name.lower()}")).load_weights("detector")
        assert size == structure.input_size
        assert all(torch.equal(tensor, trained[key]) for key, tensor in network.state_dict().items())
    assert study.finals("toy", structures) == finals
    assert not more
    assert len(asked) == 1, "measured once"


@pytest.mark.usefixtures("made_up_costs")
def test_candidates_are_timed_in_turn_when_all_of_them_are_trained(tmp_path, monkeypatch):
    """The machine is half as fast in the second generation: its latencies are those of the first one's machine.

    Nothing is trained: of each candidate weights are left that no fresh network has.
    """
    asked = []

    def measured(self, structure, strategy, folder, keep):
        assert keep
        network = self.detector(structure, strategy.norm)
        for parameter in network.parameters():
            parameter.data.normal_()
        with Run.open(folder, {}) as run:
            run.save_weights("detector", network.state_dict())
        return {"AP": len(str(structure)) / 1000, "train_cpu_seconds": 1.0}

    def latencies_in_turn(self, networks, where):
        names = [name for name in networks if name != "reference"]
        folders = [study.run_path("stage-one") / "training" / slug(name) for name in names]
        for folder, name in zip(folders, names, strict=True):
            weights, _ = Run.read(folder).load_weights("detector")
            assert all(torch.equal(each, weights[key]) for key, each in networks[name][0].state_dict().items())
        asked.append((names, where))
        return {
            name: {"latency": len(asked) * (10.0 + len(name)), "latency_iqr": 1.0 * len(asked)} for name in networks
        }

    monkeypatch.setattr(Study, "latencies_in_turn", latencies_in_turn)
    monkeypatch.setattr(SMNAS, "train_and_measure", measured)
    monkeypatch.setattr(SMNAS, "pretrained", lambda self, backbone: None)
    study = SMNAS(tiny_options(tmp_path))
    found = study.stage_one.found.evaluated
    generations = [[str(each.structure) for each in found if each.generation == number] for number in (0, 1)]
    assert asked[:2] == [(names, "search") for names in generations]
    assert [each.cost for each in found] == [10.0 + len(str(each.structure)) for each in found]
    assert {each["latency_iqr"] for each in study.stage_one.pool.values()} == {1.0}
    assert not list((study.run_path("stage-one") / "training").iterdir())
    assert SMNAS(tiny_options(tmp_path)).stage_one.found.evaluated == found


@pytest.mark.usefixtures("made_up_costs")
def test_what_timing_took_counts_with_the_candidates(tmp_path, monkeypatch):
    def latencies_in_turn(self, networks, where):
        began = time.process_time()
        while time.process_time() < began + 0.1:
            pass
        return {name: {"latency": 10.0, "latency_iqr": 0.5} for name in networks}

    def measured(self, structure, strategy, folder, keep):
        with Run.open(folder, {}) as run:
            run.save_weights("detector", self.detector(structure, strategy.norm).state_dict())
        return {"AP": 0.1, "train_cpu_seconds": 2.0, **self.describe(structure)}

    monkeypatch.setattr(Study, "latencies_in_turn", latencies_in_turn)
    monkeypatch.setattr(SMNAS, "train_and_measure", measured)
    monkeypatch.setattr(SMNAS, "pretrained", lambda self, backbone: None)
    study = SMNAS(tiny_options(tmp_path))
    with study.recording() as used:
        pool = study.stage_one.pool
    assert all(record["cpu_seconds"] > 2.0 for record in pool.values())
    assert spent_by(study.folder.parent, used)["cpu_seconds"] >= 2.0 * len(pool) + 0.1


@pytest.mark.usefixtures("made_up_costs")
@pytest.mark.parametrize(
    ("error", "reason"),
    [(MemoryError("9 GiB"), "does not fit in memory (9 GiB)"), (FloatingPointError("not finite"), "not finite")],
)
def test_a_candidate_that_fails_is_recorded_and_the_search_goes_on(tmp_path, monkeypatch, error, reason):
    """Nothing is trained: the study makes its numbers up, and none for one structure."""
    refused: list[Structure] = []

    def measured(self, structure, strategy, folder, keep):
        if not refused or structure in refused:
            refused.append(structure)
            raise error
        costs = self.describe(structure)
        return {"AP": costs["params"] / 1e7, "latency": costs["macs"] / 1e6, **costs}

    monkeypatch.setattr(SMNAS, "train_and_measure", measured)
    monkeypatch.setattr(SMNAS, "pretrained", lambda self, backbone: None)
    study = SMNAS(tiny_options(tmp_path))
    one = study.stage_one
    failed = one.pool[refused[0]]
    assert failed["status"] == "failed"
    assert reason in failed["reason"]
    assert len(set(refused)) == 1
    assert len(one.found.evaluated) == TINY.stage_one.budget
    assert [each.structure for each in one.found.evaluated if not math.isfinite(each.accuracy)] == [refused[0]]
    assert refused[0] not in [each.structure for each in one.found.front()]
    assert SMNAS(tiny_options(tmp_path)).stage_one.found.front() == one.found.front()
    refused[:] = [Group(TINY.modular, study.picks[0].structure).start()]
    assert study.stage_two(0).pool[refused[0]]["status"] == "failed"
    assert study.found()["F0"] != refused[0], "the start of a group may fail, too"


@pytest.mark.slow
def test_workers_measure_what_one_process_does(tmp_path, study):
    """They train; this process takes the times."""
    there, here = SMNAS(tiny_options(tmp_path, workers=2)).stage_one, study.stage_one
    assert (there.found, there.random) == (here.found, here.random)
    assert without_times({str(each): there.pool[each] for each in there.pool}) == without_times(
        {str(each): here.pool[each] for each in here.pool}
    )


# ---- what exhibits rest on


def touched(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names (DATA-SCALE/RUN) of the run folders that are opened or read from now on, but for candidates' own."""
    names: set[str] = set()

    def noting(method):
        def look(path, *arguments, **named):
            if "training" not in Path(path).parts:
                names.add("/".join(Path(path).parts[-2:]))
            return method(path, *arguments, **named)

        return staticmethod(look)

    for name in ("open", "read"):
        monkeypatch.setattr(Run, name, noting(getattr(Run, name)))
    return names


@pytest.mark.parametrize("name", ["table1", pytest.param("figure3", marks=pytest.mark.slow)])
def test_an_exhibit_names_exactly_the_runs_that_measuring_it_touched(tmp_path, name, monkeypatch):
    monkeypatch.setattr(exhibits, "paper_macs", lambda name, classes: 1e9)  # of the paper's networks: no run
    small = tuple((each, replace(structure, backbone="resnet18")) for each, structure in TINY.classics)
    preset = replace(TINY, classics=small)
    options = Options(scale="smoke", preset=preset, device="cpu", data=DATA, out=tmp_path / "runs")
    used = touched(monkeypatch)
    first = measure_exhibit(PAPER.by_name[name], SMNAS(options))
    assert set(first["runs"]) == used
    made = {f"{folder.parent.name}/{folder.name}" for folder in (tmp_path / "runs" / "sm_nas").glob("*/*")}
    assert used == made
    assert any("/classification-" in run for run in used), "pre-training is among them"
    assert set(first["rests_on"]) == set(first["evidence"])
    used.clear()
    no_training(monkeypatch)
    assert measure_exhibit(PAPER.by_name[name], SMNAS(options)) == first
    assert used <= made


# ---- a kill changes nothing


@pytest.mark.slow
def test_broken_off_in_either_stage_it_comes_to_the_same_end(study, tmp_path, monkeypatch):
    """Interrupted in a training of stage one, killed (SIGKILL, in another process) in one of stage two; then on."""
    whole, steps = records(study), []

    def parts(batch, size):
        steps.append(0)
        if len(steps) == 4:  # the second step of the second candidate
            raise KeyboardInterrupt
        return in_parts(batch, size)

    with monkeypatch.context() as patch:
        patch.setattr(module, "in_parts", parts)
        with pytest.raises(KeyboardInterrupt):
            _ = SMNAS(tiny_options(tmp_path)).stage_one
    killed = run_until_killed("search", tmp_path)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [path.relative_to(tmp_path).parts[2] for path in tmp_path.rglob("detector.state")] == ["stage-two-c0-s0"]
    resumed = SMNAS(tiny_options(tmp_path))
    for name, each in searches(study).items():
        there = searches(resumed)[name]
        assert (there.found, there.random) == (each.found, each.random)
    again = records(resumed)
    assert {"stage-one-s0", "stage-two-c0-s0"} < again.keys()
    assert again == {name: whole[name] for name in again}


def test_a_killed_candidate_goes_on_to_the_same_numbers(fresh, tmp_path, monkeypatch):
    """SIGKILL at the third of four steps, in a process of its own; then on in this one."""
    longer = _longer(TINY)
    assert longer.optimisation.epochs * TINY.train_images // longer.batch_size == 4
    killed = run_until_killed("candidate", tmp_path)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (tmp_path / "candidate" / "detector.state").is_file()

    steps = []
    monkeypatch.setattr(module, "in_parts", lambda batch, size: steps.append(0) or in_parts(batch, size))
    resumed = fresh.train_and_measure(CASCADE, longer, tmp_path / "candidate")
    assert len(steps) == 2
    whole = fresh.train_and_measure(CASCADE, longer, tmp_path / "whole")
    assert len(steps) == 6
    assert without_times(resumed) == without_times(whole)


def _longer(preset: Preset) -> Strategy:
    return replace(SCRATCH, optimisation=replace(SCRATCH.optimisation, epochs=2))


def run_until_killed(what: str, out: Path) -> subprocess.CompletedProcess:
    return ran(__file__, what, out)


def _until_killed(what: str, out: Path) -> None:
    from common import study as shared

    PRESETS["smoke"] = TINY
    checkpoint_at_every_step(pytest.MonkeyPatch())
    shared.measure_latency = steady_latency
    study, steps = SMNAS(tiny_options(out)), []
    last = {"search": 4, "candidate": 3}[what]

    def parts(batch, size):
        if what == "candidate" or study.run_path("stage-two-c0").is_dir():
            steps.append(0)
        if len(steps) == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return in_parts(batch, size)

    module.in_parts = parts
    if what == "search":
        searches(study)
    else:
        study.train_and_measure(CASCADE, _longer(TINY), out / "candidate")


if __name__ == "__main__":
    _until_killed(sys.argv[1], Path(sys.argv[2]))
