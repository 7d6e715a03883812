"""Evaluating many candidates: here, in several processes, or on a Ray cluster; each is recorded as soon as known.

A candidate that does not fit in memory, or whose score is not a number, is recorded as failed with the reason and the
search goes on. So is one that kills its process: it is tried once more, alone, and then recorded as failed. What the
run's folder holds already is not evaluated again.
"""

import contextlib
import errno
import json
import math
import multiprocessing
import multiprocessing.connection
import os
import pickle
import re
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar
from weakref import WeakKeyDictionary

import torch

from common.plain import InputError, cannot_write, to_json
from common.train.loop import Progress, TrainingError
from common.train.run_folder import Run

Item = TypeVar("Item")
Outcome = dict[str, Any]

KILLED = "its process was killed twice, most likely by the system for want of memory"


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
    items must pickle, so `function` is defined at the top level of a module), which are kept until the run is closed,
    or Ray tasks at a time. score: the field of the best so far; a record whose score is not finite counts as failed.

    A record is {"key", "status": "done", **measured, "seconds"} or {"key", "status": "failed", "reason", "seconds"}.
    Any other exception than want of memory or a number that is not finite is a fault and is raised; what was
    evaluated before stays recorded. Raises InputError when a finished run lacks a candidate.
    """
    if workers < 0:
        raise InputError(f"workers must be at least 0 (0 evaluates in this process), got {workers}")
    wanted = [(json.dumps(to_json(key(item)), sort_keys=True), item) for item in items]
    records: dict[str, dict[str, Any]] = {}
    todo: dict[str, Item] = {}
    for name, item in dict(wanted).items():
        record = run.candidate_named(json.loads(name))
        if record is None:
            todo[name] = item
        else:
            records[name] = record
    if todo and not run.writes and run.result is not None:
        raise InputError(
            f"{run.path} is finished, and {len(todo)} of its candidates are missing from candidates.jsonl: delete "
            f"{run.path / 'result.json'} and run the same command again to evaluate them"
        )
    progress = Progress(label, len(todo) + len(records), len(records), unit="candidate")
    best, failed = _best(records.values(), score), 0
    if workers == 0:
        outcomes = _here(function, todo, run)
    elif backend == "ray":
        outcomes = _on_ray(function, todo, workers)
    else:
        outcomes = _workers_of(run, workers).evaluate(function, todo)
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
    except Exception as error:
        reason = _own_failure(error)
        if reason is None:
            raise
        traceback.clear_frames(error.__traceback__)  # the frames hold the tensors that filled the memory
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return {"status": "failed", "reason": reason, "seconds": time.perf_counter() - begin}
    return {"status": "done", "seconds": time.perf_counter() - begin, **measured}


OUT_OF_MEMORY = re.compile(
    # torch has an exception of its own for the memory of GPUs only; the rest is told apart by what its parts say
    r"out of memory|DefaultCPUAllocator|not enough memory|can(no|')t allocate memory|bad_alloc|unable to mmap"
    r"|could not create a (primitive$|primitive[^ ]|memory)|unable to allocate shared memory"  # oneDNN; data loaders
    r"|CUBLAS_STATUS_(ALLOC_FAILED|NOT_INITIALIZED)|CUDNN_STATUS_ALLOC_FAILED|CUSOLVER_STATUS_ALLOC_FAILED"
    r"|unable to find an engine to execute this computation|Unable to find a valid cuDNN algorithm",
    re.IGNORECASE,
)


def _own_failure(error: Exception) -> str | None:
    """Why the candidate failed, in one line; None when the fault lies elsewhere."""
    text = (str(error).splitlines() or [""])[0]
    if (
        isinstance(error, (MemoryError, torch.OutOfMemoryError))
        or (isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(text))
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    ):
        return f"does not fit in memory ({text or type(error).__name__})"
    if isinstance(error, ArithmeticError):
        return f"{type(error).__name__}: {text}"
    return text if isinstance(error, TrainingError) else None


# ---- in this process


def _here(
    function: Callable[[Item], dict[str, Any]], todo: Mapping[str, Item], run: Run
) -> Iterator[tuple[str, Outcome]]:
    """The candidate under way is written down, so that one that kills the process is known by it.

    The process may as well have been killed by somebody else. So the candidate is tried again in a process of its own,
    where its death is seen; or here, once, where it cannot be sent to another process.
    """
    mark = run.path / "attempt.json"
    killed, times = _read_attempt(mark)
    for name, item in todo.items():
        tried = times if name == killed else 0
        if tried and function.__module__ != "__main__" and _pickles((function, item)):
            with contextlib.closing(_Workers(1)) as alone:
                yield from alone.evaluate(function, {name: item}, tried=[name])
        elif tried > 1:
            yield name, {"status": "failed", "reason": KILLED, "seconds": 0.0}
        else:
            with _written_down(mark, name, tried + 1) if run.writes else contextlib.nullcontext():
                outcome = _attempt(function, item)
            yield name, outcome


@contextlib.contextmanager
def _written_down(mark: Path, name: str, times: int) -> Iterator[None]:
    """Nothing of it is left when the attempt ends in any other way than the process."""
    try:
        mark.write_text(json.dumps({"name": name, "times": times}))
    except OSError as error:
        raise cannot_write(mark, error) from error
    try:
        yield
    finally:
        mark.unlink(missing_ok=True)


def _read_attempt(mark: Path) -> tuple[str | None, int]:
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):  # a mark that was cut off says nothing
        attempt = json.loads(mark.read_bytes())
        return str(attempt["name"]), int(attempt["times"])
    return None, 0


def _pickles(value: Any) -> bool:
    try:
        pickle.loads(pickle.dumps(value))
    except Exception:  # a class may raise whatever it likes
        return False
    return True


# ---- processes


class _Worker:
    """A process that evaluates one candidate after the other. It is spawned: a fork would copy torch's threads and the
    GPU's context in an unusable state.
    """

    def __init__(self, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, threads))
        self.process.start()
        theirs.close()  # so that reading finds an end when the process dies
        self.name = ""  # of the candidate under way
        self.began = 0.0

    def begin(self, name: str, function: bytes, item: Any) -> None:
        self.name, self.began = name, time.perf_counter()
        with contextlib.suppress(BrokenPipeError):  # it has died: the answer says so
            self.connection.send((function, pickle.dumps(item)))

    def answer(self) -> Outcome | None:
        """The outcome; None when a signal killed the process. A fault in the function is raised here."""
        try:
            outcome, error, place = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            if self.process.exitcode < 0:
                return None
            raise RuntimeError(f"a worker ended with exit code {self.process.exitcode}; it says why above") from None
        if error is not None:
            error.add_note(f"In a worker:\n{place}")
            raise error
        return outcome

    def wait_for_end(self) -> None:
        self.connection.close()
        self.process.join(60)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


class _Workers:
    """So many processes, started when first needed and kept from one call to the next: starting one takes seconds."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.threads = max(1, torch.get_num_threads() // count)
        self.idle: list[_Worker] = []
        self.busy: dict[Any, _Worker] = {}  # by connection
        # At the latest when this process exits, before multiprocessing waits for its children.
        self.close = multiprocessing.util.Finalize(self, _end_all, (self.idle, self.busy), exitpriority=1)

    def evaluate(
        self, function: Callable[[Item], dict[str, Any]], todo: Mapping[str, Item], tried: Iterable[str] = ()
    ) -> Iterator[tuple[str, Outcome]]:
        """(name, outcome) as they come. tried: names of those that have killed a process before.

        One that kills its process is tried again when the others are done, alone.
        """
        sent = pickle.dumps(function)
        again = [name for name in todo if name in (tried := set(tried))]
        waiting = [name for name in reversed(todo) if name not in tried]
        try:
            while waiting or again or self.busy:
                while waiting and len(self.busy) < self.count:
                    self._begin(waiting.pop(), sent, todo)
                if not self.busy:
                    _end_all(self.idle, self.busy)  # all memory for the one
                    self._begin(again.pop(), sent, todo)
                for connection in multiprocessing.connection.wait(list(self.busy)):
                    worker = self.busy[connection]
                    outcome = worker.answer()
                    del self.busy[connection]
                    if outcome is not None:
                        self.idle.append(worker)
                        yield worker.name, outcome
                        continue
                    worker.wait_for_end()
                    if worker.name in tried:
                        seconds = time.perf_counter() - worker.began
                        yield worker.name, {"status": "failed", "reason": KILLED, "seconds": seconds}
                    else:
                        tried.add(worker.name)
                        again.append(worker.name)
        finally:
            _end_all([], self.busy)  # left early: what is under way is wanted by nobody

    def _begin(self, name: str, function: bytes, todo: Mapping[str, Any]) -> None:
        worker = self.idle.pop() if self.idle else _Worker(self.threads)
        self.busy[worker.connection] = worker
        worker.begin(name, function, todo[name])


def _end_all(idle: list[_Worker], busy: dict[Any, _Worker]) -> None:
    workers = [*idle, *busy.values()]
    idle.clear()
    busy.clear()
    for worker in workers:
        worker.process.terminate()  # a training under way saves its state first; one signal more would cut that off
    for worker in workers:
        worker.wait_for_end()


_POOLS: "WeakKeyDictionary[Run, _Workers]" = WeakKeyDictionary()


def _workers_of(run: Run, count: int) -> _Workers:
    """The processes of a run's searches; they end when it is closed."""
    pool = _POOLS.get(run)
    if pool is None or pool.count != count or not pool.close.still_active():
        if pool is not None:
            pool.close()
        pool = _POOLS[run] = _Workers(count)
        run.at_close(pool.close)
    return pool


def _serve(connection: Any, threads: int) -> None:
    """A worker's life: one candidate after the other until its parent ends it or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C and ends its workers in order
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(OSError):  # where memory runs out, the system takes a worker rather than the search
        Path("/proc/self/oom_score_adj").write_text("500")
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            connection.send(_answer(*connection.recv()))


@lru_cache(maxsize=1)
def _loaded(function: bytes) -> Callable[[Any], dict[str, Any]]:
    """The same function keeps what it has loaded from one candidate to the next."""
    return pickle.loads(function)


def _answer(function: bytes, item: bytes) -> tuple[Outcome | None, Exception | None, str]:
    try:
        return _attempt(_loaded(function), pickle.loads(item)), None, ""
    except Exception as error:
        place = traceback.format_exc()
        return None, error if _pickles(error) else RuntimeError(f"{type(error).__name__}: {error}"), place


def _end_with_parent() -> None:
    """However the parent dies. A training under way saves its state at the signal; after a minute it is over anyhow."""
    multiprocessing.parent_process().join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
    os._exit(1)


# ---- Ray


def _on_ray(
    function: Callable[[Item], dict[str, Any]], todo: Mapping[str, Item], workers: int
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
