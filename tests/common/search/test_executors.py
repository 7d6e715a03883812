"""Candidates are evaluated once, recorded at once, and a failed one does not stop the others."""

import errno
import json
import os
import pickle
import random
import re
import signal
import sys
import threading
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from tqdm import tqdm

from common import progress
from common.data.batches import SharedImages
from common.plain import InputError
from common.search import executors
from common.search.executors import evaluate_all
from common.settings import Parallel
from common.train import distributed
from common.train.loop import TrainingError
from common.train.run_folder import Run
from tests.processes import begun


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
    with tqdm(disable=True) as bar:  # as decoding shows one
        lock = type(bar.get_lock()).__name__
    return {"AP": value / 10, "process": os.getpid(), "lock": lock}


def evaluate(run: Run, items, function=measure, workers: int = 0, **options) -> list[dict]:
    how = Parallel(workers=workers, **options)
    return list(evaluate_all(function, items, run, lambda item: item, how))


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


def worked(item: tuple[int, ...]) -> dict:
    """`measure` after a twentieth of a second of work; one that is done says itself what it took."""
    began = time.process_time()
    while time.process_time() < began + 0.05:
        pass
    return {**measure(item), "cpu_seconds": 7.0}


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_failed_one_took_is_recorded_too(tmp_path, workers):
    with Run.open(tmp_path, {}) as run:
        failed, done = evaluate(run, [(4, 0), (0, 1)], worked, workers)
    assert failed["status"] == "failed"
    assert 0.05 <= failed["cpu_seconds"] < 7.0
    assert done["cpu_seconds"] == 7.0


def test_what_is_recorded_is_not_evaluated_again(tmp_path):
    calls = []

    def counted(item):
        calls.append(item)
        return measure(item)

    with Run.open(tmp_path, {}) as run:
        first = evaluate(run, [(0, 3), (1, 0), (0, 3)], counted)
        assert first[0] == first[2]
        assert run.candidates() == first[:2]
        assert [first[0][name] for name in ("key", "status", "AP")] == [[0, 3], "done", 0.3]
    run = Run.open(tmp_path, {})
    again = evaluate_all(counted, [(0, 2), (1, 0), (0, 3), (0, 4)], run, key=lambda item: item)
    assert [next(again) for _ in range(3)][1:] == [first[1], first[0]]
    again.close()  # an early stop leaves the rest for later
    assert calls == [(0, 3), (1, 0), (0, 2)]
    assert len(run.candidates()) == 3


@pytest.mark.parametrize(
    ("error", "own"),
    [
        (RuntimeError("could not create a primitive"), True),
        (RuntimeError("could not create a primitive descriptor for a convolution"), False),
        (RuntimeError("could not create a memory object"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: not enough memory"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("GET was unable to find an engine to execute this computation"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_BAD_PARAM"), False),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (OSError(errno.ENOENT, "No such file or directory"), False),
        (FloatingPointError("the network gives boxes that are not finite"), True),
        (InputError("cannot write: the disk is full"), False),
        (ValueError("a fault in the code"), False),
    ],
)
def test_what_counts_as_a_candidates_own_failure(tmp_path, error, own):
    def fail(_):
        raise error

    run = Run.open(tmp_path, {})
    evaluate(run, [(0, 1)])
    if own:
        assert str(error) in evaluate(run, [1], fail)[0]["reason"]
    else:
        with pytest.raises(type(error), match=re.escape(str(error))):
            evaluate(run, [1], fail)
        assert [record["AP"] for record in run.candidates()] == [0.1]  # what came before is kept
    assert not (tmp_path / "attempt.json").exists()


def test_a_finished_run_that_lacks_a_candidate_says_how_to_complete_it(tmp_path):
    with Run.open(tmp_path, {}) as run:
        evaluate(run, [(0, 1), (1, 0)])
        run.finish({"AP": 0.1})
    with pytest.raises(InputError, match=r"1 of its candidates are missing .*delete .*result\.json and run the same"):
        evaluate(Run.read(tmp_path), [(0, 1), (0, 2)])
    assert evaluate(Run.read(tmp_path), [(0, 1)])[0]["AP"] == 0.1


def killed_in_a_child(folder: Path, function) -> int:
    """The signal that ended a child process in which `function` is evaluated."""
    child = os.fork()
    if child == 0:
        try:
            evaluate(Run.open(folder, {}), [(0, 1), (7, 0), (0, 2)], function)
        finally:
            os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


def test_a_candidate_that_kills_the_search_is_tried_once_more_in_a_process_of_its_own_or_here(tmp_path):
    def local(item):  # cannot be sent
        return measure(item)

    for function, deaths in ((measure, 1), (local, 2)):
        folder = tmp_path / function.__name__
        for _ in range(deaths):
            assert killed_in_a_child(folder, function) == signal.SIGKILL
        run = Run.open(folder, {})
        assert [record["key"] for record in run.candidates()] == [[0, 1]]
        records = evaluate(run, [(0, 1), (7, 0), (0, 2)], function)
        assert [record["status"] for record in records] == ["done", "failed", "done"]
        assert "its process was killed" in records[1]["reason"]
        assert records[2]["process"] == os.getpid()


@pytest.mark.parametrize("times", [1, 2])
def test_nothing_is_left_of_the_note_when_the_last_candidate_was_broken_off(tmp_path, times):
    def local(item):  # cannot be sent, so it is given up the second time
        return measure(item)

    run = Run.open(tmp_path, {})
    for number, function in enumerate((measure, local)):
        (tmp_path / "attempt.json").write_text(json.dumps({"name": json.dumps([0, number]), "times": times}))
        given_up = times > 1 and function is local
        assert evaluate(run, [(0, number)], function)[0]["status"] == ("failed" if given_up else "done")
        assert not (tmp_path / "attempt.json").exists()


def test_a_damaged_note_of_an_attempt_says_nothing(tmp_path):
    run = Run.open(tmp_path, {})
    for number, mark in enumerate(["", "[]", "{}", '{"name": "[7, 0]", "times": "x"}', "\0\0"]):
        (tmp_path / "attempt.json").write_text(mark)
        assert evaluate(run, [(0, number)])[0]["AP"] == number / 10


def test_several_processes_are_kept_and_go_on_when_one_is_killed(tmp_path):
    with Run.open(tmp_path, {}) as run:
        items = [(0, 3), (1, 0), (0, 2), (0, 4)]
        records = evaluate(run, items, workers=2)
        assert [record["key"] for record in records] == [list(item) for item in items]
        assert [record.get("AP") for record in records] == [0.3, None, 0.2, 0.4]
        assert "memory" in records[1]["reason"]
        first = {record["process"] for record in records if "process" in record}
        again = {record["process"] for record in evaluate(run, [(0, number) for number in range(5, 9)], workers=2)}
        assert again | first == again
        assert len(again) == 2
        assert os.getpid() not in again
        assert {record.get("lock") for record in records} == {"RLock", None}  # a lock of all processes would be left
        records = evaluate(run, [(7, 0), (0, 9), (0, 10)], workers=2)
        assert [record.get("AP") for record in records] == [None, 0.9, 1.0]
        assert "its process was killed twice" in records[0]["reason"]
        with pytest.raises(ValueError, match="a fault in the code") as raised:
            evaluate(run, [(6, 0)], workers=2)
        assert "in measure" in raised.value.__notes__[0]
        left = evaluate(run, [(0, 11)], workers=2)[0]["process"]
    with pytest.raises(ProcessLookupError):
        os.kill(left, 0)  # ended with the run


MANY = """
import sys, time
from common.search.executors import evaluate_all
from common.settings import Parallel
from common.train.run_folder import Run
from quick_candidate import measure
if __name__ == "__main__":
    list(evaluate_all(measure, range(100), Run.open(sys.argv[1], {}), lambda item: item, Parallel(workers=2)))
"""
QUICK = """
import time
def measure(item):
    time.sleep(0.05)
    return {"AP": item / 10}
"""


@pytest.mark.slow
def test_twenty_kills_of_a_search_with_workers_cost_no_candidate(tmp_path):
    draw, kills, known, file = random.Random(0), 0, 0, tmp_path / "candidates.jsonl"
    while known < 100:
        child = started(tmp_path, MANY, "quick_candidate", QUICK)
        if kills < 20:
            wait_until(lambda known=known: file.exists() and file.read_bytes().count(b"\n") > known)
            time.sleep(draw.uniform(0, 0.1))
            child.kill()
            kills += 1
        child.join()
        known = len(Run.open(tmp_path, {}).candidates())
    records = Run.read(tmp_path).candidates()
    assert kills == 20
    assert sorted((record["key"], record["AP"]) for record in records) == [(n, n / 10) for n in range(100)]
    assert file.read_bytes().count(b"\n") == 100  # none twice


def started(folder: Path, search: str, module: str, candidate: str) -> BaseProcess:
    """A search in a process of its own, what it evaluates in a module beside it."""
    (folder / "search.py").write_text(search)
    (folder / f"{module}.py").write_text(candidate)
    return begun(folder / "search.py", folder, folder=folder)


SEARCH = """
import sys, time
from common.search import executors
from common.search.executors import evaluate_all
from common.settings import Parallel
from common.train.run_folder import Run
from slow_candidate import measure
executors._PROCESSES.set_forkserver_preload([executors.__name__])  # torchvision, too, would take as long again
if __name__ == "__main__":
    list(evaluate_all(measure, [1, 2], Run.open(sys.argv[1], {}), lambda item: item, Parallel(workers=2)))
"""
CANDIDATE = """
import os, sys, time
from pathlib import Path
def measure(item):
    Path(sys.argv[1], f"process{item}").write_text(str(os.getpid()))
    time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_workers_end_with_their_parent(tmp_path, number):
    parent = started(tmp_path, SEARCH, "slow_candidate", CANDIDATE)
    files = [tmp_path / f"process{item}" for item in (1, 2)]
    wait_until(lambda: all(file.exists() and file.read_text() for file in files))
    os.kill(parent.pid, number)
    parent.join(60)
    for file in files:
        wait_until(lambda file=file: not Path(f"/proc/{file.read_text()}").exists())


def wait_until(true) -> None:
    limit = time.monotonic() + 120
    while not true():
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_what_cannot_evaluate_is_refused_in_a_sentence(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="--workers must be at least 0, got -1"):
        Parallel(workers=-1)
    with pytest.raises(InputError, match="--address auto is for --executor ray"):
        Parallel(address="auto")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match="needs the package ray, which is not installed"):
        evaluate(Run.open(tmp_path, {}), [(0, 1)], executor="ray")


def test_the_best_so_far_is_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "_command", progress._Command())
    monkeypatch.setattr(progress, "SPEAK_EVERY_S", 0.0)
    list(evaluate_all(measure, [(0, 1), (1, 0), (0, 3), (0, 2)], Run.open(tmp_path, {}), tuple, label="paths"))
    lines = capsys.readouterr().err.splitlines()
    assert lines[1].endswith("best 0.1, failed 1")
    assert lines[3] == "paths 4/4 candidates, 00:00 left, best 0.3, failed 1"


def test_an_error_that_cannot_be_sent_is_told_to_all_processes_of_a_training(monkeypatch):
    class OfTheTest(Exception):
        """Known here alone."""

    def fail(item):
        raise OfTheTest("a fault in the code")

    monkeypatch.setattr(distributed, "gather", lambda value: [pickle.loads(pickle.dumps(value))])
    with pytest.raises(RuntimeError, match="OfTheTest: a fault in the code"):
        list(executors._shared_out(fail, {"one": 1}))


def in_two_parts(item: tuple[int, ...]):
    """`measure` as the second part of an evaluation."""
    return lambda: measure(item)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_evaluation_in_two_parts_is_recorded_as_one(tmp_path, workers):
    items = [(0, 1), (1, 0), (0, 2), (5, 0), (0, 3)]
    with Run.open(tmp_path / "parts", {}) as run:
        parts = evaluate(run, items, in_two_parts, workers)
    with Run.open(tmp_path / "whole", {}) as run:
        whole = evaluate(run, items)
    told = [
        [{key: each.get(key) for key in ("key", "status", "AP", "reason")} for each in way] for way in (parts, whole)
    ]
    assert told[0] == told[1]
    assert not (tmp_path / "parts" / "attempt.json").exists()


def test_the_next_evaluation_begins_before_the_last_ones_second_part_ends(tmp_path):
    begun, seen = [threading.Event() for _ in range(3)], []

    def first(item: tuple[int, ...]):
        begun[item[1]].set()

        def second() -> dict:
            if item[1] < 2:
                seen.append(begun[item[1] + 1].wait(30))  # one by one it would wait for ever
            return {"AP": 0.0}

        return second

    with Run.open(tmp_path, {}) as run:
        records = evaluate(run, [(0, 0), (0, 1), (0, 2)], first)
    assert [record["key"] for record in records] == [[0, 0], [0, 1], [0, 2]]
    assert seen == [True, True]


def test_a_fault_in_a_second_part_is_raised_and_what_was_known_stays(tmp_path):
    with Run.open(tmp_path, {}) as run:
        with pytest.raises(ValueError, match="a fault in the code"):
            evaluate(run, [(0, 1), (6, 0), (0, 2)], in_two_parts)
        assert [record["key"] for record in run.candidates()] == [[0, 1]]


def where_images_are(_: tuple[int, ...]) -> dict:
    SharedImages.folder.mkdir(exist_ok=True)
    (SharedImages.folder / str(os.getpid())).touch()
    return {"AP": 0.0, "folder": str(SharedImages.folder)}


def test_workers_hold_images_in_the_run_folder_as_long_as_they_live(tmp_path):
    with Run.open(tmp_path, {}) as run:
        records = evaluate(run, [(0, number) for number in range(4)], where_images_are, workers=2)
        assert {record["folder"] for record in records} == {str(tmp_path / "images")}
        assert 1 <= len(list((tmp_path / "images").iterdir())) <= 2
    assert not (tmp_path / "images").exists()
    assert SharedImages.folder is None
