"""Candidates are evaluated once, recorded at once, and a failed one does not stop the others."""

import os
import signal
import sys
import types

import pytest
import torch

from common.plain import InputError
from common.search.executors import evaluate_all
from common.train.loop import TrainingError
from common.train.run_folder import Run


def measure(item: tuple[int, ...]) -> dict:
    """Stands for an evaluation; the first number says how it ends."""
    kind, value = item
    match kind:
        case 1:
            raise MemoryError
        case 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        case 3:
            torch.empty(2**60)  # the processor's own allocator says so with a RuntimeError
        case 4:
            raise TrainingError("a loss is not finite")
        case 5:
            return {"AP": float("nan")}
        case 6:
            raise ValueError("a fault in the code")
        case 7:
            os.kill(os.getpid(), signal.SIGKILL)
        case 8:
            raise RuntimeError("shapes do not agree")
    return {"AP": value / 10, "process": os.getpid()}


def evaluate(run: Run, items, function=measure, **options) -> list[dict]:
    return list(evaluate_all(function, items, run, key=lambda item: item, **options))


def test_records_come_in_order_and_lie_in_the_run(tmp_path):
    run = Run.open(tmp_path, {})
    records = evaluate(run, [(0, 3), (0, 1), (0, 2)])
    assert [record["AP"] for record in records] == [0.3, 0.1, 0.2]
    assert run.candidates() == records
    assert records[0]["key"] == [0, 3]
    assert records[0]["status"] == "done"
    assert records[0]["seconds"] >= 0


def test_failures_are_recorded_with_their_reason_and_the_search_goes_on(tmp_path):
    run = Run.open(tmp_path, {})
    records = evaluate(run, [(1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (0, 7)])
    assert [record["status"] for record in records] == ["failed"] * 5 + ["done"]
    reasons = [record.get("reason") for record in run.candidates()]
    assert reasons[0] == "does not fit in memory (MemoryError)"
    assert reasons[1].startswith("does not fit in memory (CUDA out of memory")
    assert reasons[2].startswith("does not fit in memory")
    assert reasons[3] == "a loss is not finite"
    assert reasons[4] == "AP is not finite (nan)"
    assert "AP" not in records[4]


@pytest.mark.parametrize(("kind", "fault"), [(6, ValueError), (8, RuntimeError)])
def test_a_fault_in_the_code_is_raised_and_what_came_before_is_kept(tmp_path, kind, fault):
    run = Run.open(tmp_path, {})
    with pytest.raises(fault):
        evaluate(run, [(0, 1), (kind, 0), (0, 2)])
    assert [record["AP"] for record in run.candidates()] == [0.1]


def test_what_is_recorded_is_not_evaluated_again(tmp_path):
    run, calls = Run.open(tmp_path, {}), []

    def counted(item):
        calls.append(item)
        return measure(item)

    first = evaluate(run, [(0, 1), (1, 0), (0, 1)], counted)
    assert first[0] == first[2]
    run.close()
    run = Run.open(tmp_path, {})
    again = evaluate(run, [(0, 2), (1, 0), (0, 1)], counted)
    assert calls == [(0, 1), (1, 0), (0, 2)]
    assert again[1:] == [first[1], first[0]]
    assert len(run.candidates()) == 3


def test_an_early_stop_leaves_the_rest_for_later(tmp_path):
    run = Run.open(tmp_path, {})
    for record in evaluate_all(measure, [(0, 1), (0, 2), (0, 3)], run, key=lambda item: item):
        if record["AP"] == 0.2:
            break
    assert len(run.candidates()) == 2
    assert len(evaluate(run, [(0, 1), (0, 2), (0, 3)])) == len(run.candidates()) == 3


def test_several_processes_even_when_one_is_killed(tmp_path):
    run = Run.open(tmp_path, {})
    items = [(0, 3), (1, 0), (7, 0), (0, 2)]
    records = evaluate(run, items, workers=2)
    assert [record["key"] for record in records] == [list(item) for item in items]
    assert [record.get("AP") for record in records] == [0.3, None, None, 0.2]
    assert "memory" in records[1]["reason"]
    assert "its process was killed" in records[2]["reason"]
    assert os.getpid() not in {record.get("process") for record in records}
    assert len(run.candidates()) == 4


def test_ray_is_asked_for_by_a_sentence_when_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match="needs the package ray, which is not installed"):
        evaluate(Run.open(tmp_path, {}), [(0, 1)], workers=2, backend="ray")


def test_negative_workers_are_refused(tmp_path):
    with pytest.raises(InputError, match="workers must be at least 0 .*got -1"):
        evaluate(Run.open(tmp_path, {}), [(0, 1)], workers=-1)


def test_on_ray(tmp_path, monkeypatch):
    """Against a stand-in for Ray that runs a task when its result is asked for."""
    flying = []

    class Killed(Exception):
        pass

    class Attempt:
        def options(self, **options):
            assert options == {"max_retries": 0, "num_cpus": 1}
            return self

        def remote(self, function, item):
            flying.append((function, item))
            return len(flying) - 1

    def get(reference):
        function, item = flying[reference]
        if item[0] == 7:
            raise Killed
        return stand_in.task(function, item)

    def remote(task):
        stand_in.task = task
        return Attempt()

    def wait(references, num_returns):
        assert len(references) <= 2
        return [references[-1]], references[:-1]

    stand_in = types.SimpleNamespace(
        is_initialized=lambda: True,
        cluster_resources=lambda: {"CPU": 4.0},
        remote=remote,
        put=lambda value: value,
        wait=wait,
        get=get,
        exceptions=types.SimpleNamespace(OutOfMemoryError=Killed, WorkerCrashedError=Killed),
    )
    monkeypatch.setitem(sys.modules, "ray", stand_in)
    records = evaluate(Run.open(tmp_path, {}), [(0, 3), (7, 0), (0, 1), (1, 0)], workers=2, backend="ray")
    assert [record.get("AP") for record in records] == [0.3, None, 0.1, None]
    assert "its Ray task was killed (Killed)" in records[1]["reason"]


def test_the_best_so_far_is_shown(tmp_path, monkeypatch, capsys):
    from common.train import loop

    monkeypatch.setattr(loop.Progress.__init__, "__defaults__", (0, "it", 0.0))
    evaluate(Run.open(tmp_path, {}), [(0, 1), (1, 0), (0, 3), (0, 2)], label="paths")
    lines = capsys.readouterr().err.splitlines()
    assert lines[1].endswith("best 0.1, failed 1")
    assert lines[3] == "paths: 4/4 candidates, 00:00 left, best 0.3, failed 1"
