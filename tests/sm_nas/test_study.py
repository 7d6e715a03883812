"""Both stages of one seed at a tiny scale: what is shared and remembered, that a kill changes nothing, and failures."""

import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from common.plain import InputError
from common.train import laboratory, loop
from common.train.run_folder import Run
from sm_nas import trial
from sm_nas.method import Structure, not_larger
from sm_nas.networks import input_size
from sm_nas.study import Study
from sm_nas.trial import Laboratory, in_parts

ROOT = Path(__file__).resolve().parents[2]
TIMES = {"seconds", "train_seconds", "train_cpu_seconds", "time"}

pytestmark = pytest.mark.usefixtures("steady")


def searches(study: Study) -> dict:
    """All that both stages say."""
    return {"stage-one": study.stage_one, **{f"stage-two-c{i}": study.stage_two(i) for i in range(len(study.picks))}}


def _without_times(value):
    if isinstance(value, dict):
        return {key: _without_times(item) for key, item in value.items() if key not in TIMES}
    return [_without_times(item) for item in value] if isinstance(value, list) else value


def records(study: Study) -> dict[str, list]:
    """The candidates of every run folder, in their order, and its result."""
    found = {}
    for folder in sorted(study.folder.iterdir()):
        run = Run.read(folder)
        found[folder.name] = _without_times([*run.candidates(), run.result])
    return found


@pytest.fixture
def study(tiny, data, searched) -> Study:
    """Seed 0, searched once for all tests."""
    study = Study(tiny, data, 0, searched)
    searches(study)
    return study


def test_both_stages_hand_on_and_find(study, tiny):
    one = study.stage_one
    assert len(one.found.evaluated) == len(one.random.evaluated) == tiny.stage_one.budget
    assert all(0 <= each.accuracy <= 1 for each in one.found.evaluated)
    for each in one.found.evaluated:
        assert each.cost == one.measured(each.structure)["latency"]
        assert each.accuracy == one.measured(each.structure)["AP"]
    picks = study.picks
    assert 1 <= len(picks) <= tiny.groups
    assert all(each in one.found.front() for each in picks)
    for group, each in enumerate(picks):
        two = study.stage_two(group)
        start = tiny.modular.start(each.structure)
        assert two.found.evaluated[0].structure == two.random.evaluated[0].structure == start
        for candidate in (*two.found.evaluated, *two.random.evaluated):
            assert candidate.cost == study.flops(candidate.structure)
            kept = ("size", "levels", "rpn", "heads")
            assert [getattr(candidate.structure, name) for name in kept] == [getattr(start, name) for name in kept]
        for skipped in two.found.skipped:
            assert not_larger(skipped.structure, skipped.witness)
    networks = study.found()
    assert list(networks) == [f"F{group}" for group in range(len(picks))]
    for group, structure in enumerate(networks.values()):
        two = study.stage_two(group)
        budget = study.flops(picks[group].structure)
        affordable = [each for each in two.found.evaluated if each.cost <= budget]
        cheapest = min(two.found.evaluated, key=lambda each: each.cost)
        expected = max(affordable or [cheapest], key=lambda each: each.accuracy)
        assert two.measured(structure)["AP"] == expected.accuracy
        assert study.flops(structure) <= budget or not affordable


def test_a_second_study_trains_nothing_and_finds_the_same(study, tiny, data, searched, monkeypatch):
    before = records(study)
    monkeypatch.setattr(loop._Training, "train", lambda *_: pytest.fail("something was trained again"))
    again = Study(tiny, data, 0, searched)
    assert searches(again) == searches(study)
    assert again.found() == study.found()
    assert records(again) == before


def test_evolution_and_random_search_share_what_they_train(study):
    for name, each in searches(study).items():
        evaluated = [one.structure for one in (*each.found.evaluated, *each.random.evaluated)]
        keys = [record["key"] for record in Run.read(study.folder / f"{name}-s0").candidates()]
        assert len(keys) == len(set(keys))
        assert set(keys) == {str(structure) for structure in evaluated}
        assert len(keys) < len(evaluated), "at least the first generation is common to both"
        assert {str(structure) for structure in each.pool} == set(keys)


def test_nothing_is_left_of_the_trainings(study):
    assert not [path for path in study.folder.rglob("*") if path.suffix == ".state"]
    for name in searches(study):
        assert not list((study.folder / f"{name}-s0" / "training").iterdir())


def test_finals_and_strategies_are_runs_of_their_own(study, tiny):
    structure = next(iter(study.found().values()))
    result = study.final("F0", structure)
    assert result["structure"] == str(structure)
    assert 0 <= result["AP"] <= 1
    assert result.items() >= study.laboratory.describe(structure).items()
    assert study.final("F0", structure) == result
    with pytest.raises(InputError, match=r"holds a run with structure = "):
        study.final("F0", tiny.strategy_model)


def test_detectors_that_are_compared_are_timed_in_turn_with_their_own_weights(study, tiny, monkeypatch):
    structures = {"F0": next(iter(study.found().values())), "again": tiny.strategy_model}
    asked = []

    def latencies_in_turn(laboratory, networks, where):
        asked.append((networks, where))
        return {name: {"latency": 7.0 + place} for place, name in enumerate(networks)}

    monkeypatch.setattr(Laboratory, "latencies_in_turn", latencies_in_turn)
    finals = study.finals("toy", structures)
    assert finals == {
        name: study.final(name, structure) | {"latency": latency}
        for (name, structure), latency in zip(structures.items(), (7.0, 8.0), strict=True)
    }
    (networks, where), *more = asked
    assert where == "validation"
    for name, structure in structures.items():
        network, size = networks[name]
        trained, _ = Run.read(study.folder / f"final-{name.lower()}-s0").load_weights("detector")
        assert size == input_size(structure)
        assert all(torch.equal(tensor, trained[key]) for key, tensor in network.state_dict().items())
    assert study.finals("toy", structures) == finals
    assert not more
    assert len(asked) == 1, "measured once"


def test_other_settings_do_not_mix(study, tiny, data, searched):
    other = replace(tiny, stage_one=replace(tiny.stage_one, budget=6))
    with pytest.raises(InputError, match=r"holds a run with search\.budget = 4, and this command asks for 6"):
        _ = Study(other, data, 0, searched).stage_one


@pytest.mark.parametrize(
    ("error", "said"),
    [(MemoryError("9 GiB"), "does not fit in memory (9 GiB)"), (FloatingPointError("not finite"), "not finite")],
)
def test_a_candidate_that_fails_is_recorded_and_the_search_goes_on(tiny, data, tmp_path, monkeypatch, error, said):
    """Nothing is trained: the laboratory makes its numbers up, and none for one structure."""
    refused: list[Structure] = []

    def measured(self, trial_, folder):
        structure = trial_.structure
        if not refused or structure in refused:
            refused.append(structure)
            raise error
        said = self.describe(structure)
        return {"AP": said["params"] / 1e7, "latency": said["macs"] / 1e6, **said}

    monkeypatch.setattr(Laboratory, "train_and_measure", measured)
    monkeypatch.setattr(Laboratory, "pretrain", lambda self, backbone: None)
    study = Study(tiny, data, 0, tmp_path)
    one = study.stage_one
    failed = one.measured(refused[0])
    assert failed["status"] == "failed"
    assert said in failed["reason"]
    assert len(set(refused)) == 1
    assert len(one.found.evaluated) == tiny.stage_one.budget
    assert [each.structure for each in one.found.evaluated if not math.isfinite(each.accuracy)] == [refused[0]]
    assert refused[0] not in [each.structure for each in one.found.front()]
    assert Study(tiny, data, 0, tmp_path).stage_one.found.front() == one.found.front()
    refused[:] = [tiny.modular.start(study.picks[0].structure)]
    assert study.stage_two(0).measured(refused[0])["status"] == "failed"
    assert study.found()["F0"] != refused[0], "the start of a group may fail, too"


def test_workers_measure_what_one_process_does(tiny, data, tmp_path, study):
    """The first generation alone: workers take the time themselves, and later ones would hang on it."""
    few = replace(tiny, stage_one=replace(tiny.stage_one, budget=2))
    side_by_side = Study(few, data, 0, tmp_path, workers=2).stage_one
    assert len(side_by_side.found.evaluated) == 2
    for each in side_by_side.found.evaluated:
        there, here = side_by_side.measured(each.structure), study.stage_one.measured(each.structure)
        assert there["status"] == "done"
        for name in ("AP", "AP50", "AR100", "losses", "macs", "params"):
            assert there[name] == here[name], name


# ---- a kill changes nothing


def test_broken_off_in_either_stage_it_comes_to_the_same_end(study, tiny, data, tmp_path, monkeypatch):
    """Interrupted in a training of stage one, killed (SIGKILL, in another process) in one of stage two; then on."""
    whole, steps = records(study), []

    def parts(batch, size):
        steps.append(0)
        if len(steps) == 4:  # the second step of the second candidate
            raise KeyboardInterrupt
        return in_parts(batch, size)

    with monkeypatch.context() as patch:
        patch.setattr(trial, "in_parts", parts)
        with pytest.raises(KeyboardInterrupt):
            _ = Study(tiny, data, 0, tmp_path).stage_one
    script = [sys.executable, __file__, str(tmp_path), data]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    killed = subprocess.run(script, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [path.relative_to(tmp_path).parts[2] for path in tmp_path.rglob("detector.state")] == ["stage-two-c0-s0"]
    resumed = Study(tiny, data, 0, tmp_path)
    for name, each in searches(study).items():
        there = searches(resumed)[name]
        assert (there.found, there.random) == (each.found, each.random)
    again = records(resumed)
    assert {"stage-one-s0", "stage-two-c0-s0"} < again.keys()
    assert again == {name: whole[name] for name in again}


def _search_until_killed(out: Path, data: str) -> None:
    from conftest import TINY, checkpoint_at_every_step, steady_latency

    checkpoint_at_every_step(pytest.MonkeyPatch())
    laboratory.measure_latency = steady_latency
    study, steps = Study(TINY, data, 0, out), []

    def parts(batch, size):
        if (study.folder / "stage-two-c0-s0").is_dir():
            steps.append(0)
        if len(steps) == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return in_parts(batch, size)

    trial.in_parts = parts
    searches(study)


if __name__ == "__main__":
    _search_until_killed(Path(sys.argv[1]), sys.argv[2])
