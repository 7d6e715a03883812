"""Evaluating many candidates: here, in several processes, or on a Ray cluster; each is recorded as soon as known.

A candidate that does not fit in memory, or whose score is not a number, is recorded as failed with the reason and the
search goes on. What the run's folder holds already is not evaluated again.
"""

import json
import math
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Literal, TypeVar

import torch

from common.plain import InputError, to_json
from common.train.loop import Progress, TrainingError
from common.train.run_folder import Run

Item = TypeVar("Item")
Outcome = dict[str, Any]


def evaluate_all(
    function: Callable[[Item], dict[str, Any]],
    items: Iterable[Item],
    run: Run,
    key: Callable[[Item], Any],
    workers: int = 0,
    backend: Literal["processes", "ray"] = "processes",
    score: str | None = "AP",
    label: str = "candidates",
) -> Iterator[dict[str, Any]]:
    """Yield one record an item, in the items' order, evaluating those that `run` holds no record of.

    function(item) -> dict of what was measured. key(item) -> plain JSON that names the item in the run; items with
    the same key are evaluated once. workers: 0 evaluates in this process; above it, so many processes (function and
    items must pickle, so `function` is defined at the top level of a module) or Ray tasks at a time. score: the field
    of the best so far; a record whose score is not finite counts as failed.

    A record is {"key", "status": "done", **measured, "seconds"} or {"key", "status": "failed", "reason", "seconds"}.
    Any other exception than want of memory or a number that is not finite is a fault and is raised; what was
    evaluated before stays recorded.
    """
    wanted = [(_name(key(item)), item) for item in items]
    records = {_name(record["key"]): record for record in run.candidates() if "key" in record}
    todo: dict[str, Item] = {}
    for name, item in wanted:
        if name not in records:
            todo.setdefault(name, item)
    total = len({name for name, _ in wanted})
    progress = Progress(label, total, total - len(todo), unit="candidate")
    best, failed = _best((records[name] for name, _ in wanted if name in records), score), 0
    outcomes = _outcomes(function, todo, workers, backend)
    try:
        for name, _ in wanted:
            while name not in records:
                done, outcome = next(outcomes)
                record = records[done] = _record(json.loads(done), outcome, score)
                run.candidate(**record)
                failed += record["status"] == "failed"
                best = _best([{score: best}, record], score)
                progress.show(best=best, failed=failed or None)
                progress.advance()
            yield records[name]
    finally:
        outcomes.close()
        progress.close()


def _name(key: Any) -> str:
    """A key as it would be found in candidates.jsonl: tuples are lists there."""
    return json.dumps(to_json(key), sort_keys=True)


def _record(key: Any, outcome: Outcome, score: str | None) -> dict[str, Any]:
    value = outcome.get(score) if score is not None else None
    if outcome["status"] == "done" and isinstance(value, float) and not math.isfinite(value):
        outcome = {"status": "failed", "reason": f"{score} is not finite ({value})", "seconds": outcome["seconds"]}
    return to_json({"key": key, **outcome})


def _best(records: Iterable[dict[str, Any]], score: str | None) -> float | None:
    values = [record.get(score) for record in records if record.get("status") != "failed"]
    return max((float(value) for value in values if isinstance(value, (int, float))), default=None)


# ---- one evaluation


def _attempt(function: Callable[[Item], dict[str, Any]], item: Item) -> Outcome:
    """Evaluate one item; a failure that is the candidate's own becomes a record, any other exception is raised."""
    begin = time.perf_counter()
    try:
        measured = dict(function(item))
    except (MemoryError, RuntimeError, ArithmeticError, TrainingError) as error:
        reason = _own_failure(error)
        if reason is None:
            raise
        traceback.clear_frames(error.__traceback__)  # the frames hold the tensors that filled the memory
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return {"status": "failed", "reason": reason, "seconds": time.perf_counter() - begin}
    return {"status": "done", "seconds": time.perf_counter() - begin, **measured}


def _own_failure(error: Exception) -> str | None:
    """Why the candidate failed, in one line; None when the fault lies elsewhere."""
    text = (str(error).splitlines() or [""])[0]
    # torch has no exception of its own for the processor's memory
    short_of_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and ("out of memory" in text or "DefaultCPUAllocator" in text)
    )
    if short_of_memory:
        return f"does not fit in memory ({text or type(error).__name__})"
    if isinstance(error, TrainingError):
        return text
    if isinstance(error, ArithmeticError):
        return f"{type(error).__name__}: {text}"
    return None


# ---- where they run


def _outcomes(
    function: Callable[[Item], dict[str, Any]], todo: dict[str, Item], workers: int, backend: str
) -> Iterator[tuple[str, Outcome]]:
    """(name, outcome) of every item, as they come."""
    if workers < 0:
        raise InputError(f"workers = {workers}: give 0 for this process, or the number of processes")
    if workers == 0:
        return ((name, _attempt(function, item)) for name, item in todo.items())
    if backend == "ray":
        return _on_ray(function, todo, workers)
    return _in_processes(function, todo, workers)


def _in_processes(
    function: Callable[[Item], dict[str, Any]], todo: dict[str, Item], workers: int
) -> Iterator[tuple[str, Outcome]]:
    """Several processes on this machine. When one dies, those in flight are tried again, each in a process alone."""
    waiting = list(reversed(todo))
    while waiting:
        caught: list[str] = []
        with _Pool(min(workers, len(waiting))) as pool:
            flying: dict[Future, str] = {}
            while flying or (waiting and not caught):
                while waiting and not caught and len(flying) < workers:
                    name = waiting.pop()
                    try:
                        flying[pool.submit(_attempt, function, todo[name])] = name
                    except BrokenProcessPool:
                        caught.append(name)
                for future in wait(flying, return_when=FIRST_COMPLETED).done:
                    name = flying.pop(future)
                    try:
                        outcome = future.result()
                    except BrokenProcessPool:
                        caught.append(name)
                        continue
                    yield name, outcome
        for name in caught:
            yield name, _alone(function, todo[name])


def _alone(function: Callable[[Item], dict[str, Any]], item: Item) -> Outcome:
    begin = time.perf_counter()
    with _Pool(1) as pool:
        try:
            return pool.submit(_attempt, function, item).result()
        except BrokenProcessPool:
            reason = "its process was killed, most likely by the system for want of memory"
            return {"status": "failed", "reason": reason, "seconds": time.perf_counter() - begin}


class _Pool(ProcessPoolExecutor):
    """Spawned workers (a fork would copy torch's threads and the GPU's context in an unusable state)."""

    def __init__(self, workers: int) -> None:
        threads = max(1, (os.cpu_count() or 1) // workers)
        context = multiprocessing.get_context("spawn")
        super().__init__(workers, mp_context=context, initializer=_prepare_worker, initargs=(threads,))

    def __exit__(self, *_: object) -> None:
        self.shutdown(wait=True, cancel_futures=True)


def _prepare_worker(threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C and ends its workers in order
    torch.set_num_threads(threads)


def _on_ray(
    function: Callable[[Item], dict[str, Any]], todo: dict[str, Item], workers: int
) -> Iterator[tuple[str, Outcome]]:
    """Tasks on a Ray cluster: the one that RAY_ADDRESS names, else one started on this machine."""
    try:
        import ray
    except ImportError:
        raise InputError(
            "a search on Ray needs the package ray, which is not installed: pip install 'ray>=2.30', or search in "
            "processes of this machine"
        ) from None
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    # one GPU a task where the cluster has any; a task that Ray kills for want of memory is not tried again
    resources = {"num_gpus": 1} if ray.cluster_resources().get("GPU") else {"num_cpus": 1}
    attempt = ray.remote(_attempt).options(max_retries=0, **resources)
    function_there = ray.put(function)
    waiting, flying = list(reversed(todo)), {}
    try:
        while waiting or flying:
            while waiting and len(flying) < workers:
                name = waiting.pop()
                flying[attempt.remote(function_there, todo[name])] = (name, time.perf_counter())
            done, _ = ray.wait(list(flying), num_returns=1)
            for reference in done:
                name, begin = flying.pop(reference)
                try:
                    yield name, ray.get(reference)
                except (ray.exceptions.OutOfMemoryError, ray.exceptions.WorkerCrashedError) as error:
                    reason = f"its Ray task was killed ({type(error).__name__}), most likely for want of memory"
                    yield name, {"status": "failed", "reason": reason, "seconds": time.perf_counter() - begin}
    finally:
        for reference in flying:
            ray.cancel(reference)
