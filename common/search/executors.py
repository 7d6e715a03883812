"""Evaluating many candidates: here, in several processes, or on a Ray cluster; each is recorded as soon as known.

A candidate that does not fit in memory, or whose score is not a number, is recorded as failed with the reason and the
search goes on. So is one that kills its process: it is tried once more, alone, and then recorded as failed. What the
run's folder holds already is not evaluated again.
"""

import contextlib
import errno
import hashlib
import json
import math
import multiprocessing
import multiprocessing.connection
import os
import pickle
import re
import shutil
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch

from common.data.batches import SharedImages
from common.plain import InputError, cannot_write, to_json, write_atomically
from common.progress import Progress, silence
from common.settings import Parallel
from common.train import distributed
from common.train.loop import TrainingError
from common.train.run_folder import Run

_Item = TypeVar("_Item")
Outcome = dict[str, Any]
Evaluation = dict[str, Any] | Callable[[], dict[str, Any]]

KILLED = "its process was killed twice, most likely by the system for want of memory"


def evaluate_all(
    function: Callable[[_Item], Evaluation],
    items: Iterable[_Item],
    run: Run,
    key: Callable[[_Item], Any],
    how: Parallel = Parallel(),  # noqa: B008 (frozen)
    score: str | None = "AP",
    label: str = "candidates",
    files: Callable[[_Item], tuple[Sequence[Path], Sequence[Path]]] | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield one record an item, in the items' order, evaluating those that `run` holds no record of.

    function(item) -> dict of what was measured; or a call that gives it, the part of the work that leaves the GPU
    alone: in this process it runs in a thread, while the next item is begun. key(item) -> plain JSON that names the
    item in the run; items with the same key are evaluated once. how: in this process, in several (function and items
    must pickle, so `function` is defined at the top level of a module), which are kept until the run is closed, or on a
    Ray cluster. score: the field of the best so far; a record whose score is not finite counts as failed. files(item)
    -> files and folders that its evaluation reads, and those that it leaves, which go through Ray's object store where
    machines share no folder. The processes of a training share the candidates out.

    A record is {"key", "status": "done", **measured, "seconds"} or {"key", "status": "failed", "reason", "seconds"};
    one that an exception ended has "cpu_seconds", too, which of one that is done the function says itself.
    Any other exception than want of memory or a number that is not finite is a fault and is raised; what was
    evaluated before stays recorded. Raises InputError when a finished run lacks a candidate.
    """
    wanted = [(json.dumps(to_json(key(item)), sort_keys=True), item) for item in items]
    names = list(dict(wanted))

    def recorded() -> dict[str, dict[str, Any]]:
        found = {name: run.candidate_named(json.loads(name)) for name in names}
        missing = sum(record is None for record in found.values())
        if missing and not run.writes and run.result is not None:
            raise InputError(
                f"{run.path} is finished, and {missing} of its candidates are missing from candidates.jsonl: delete "
                f"{run.path / 'result.json'} and run the same command again to evaluate them"
            )
        return {name: record for name, record in found.items() if record is not None}

    records = distributed.by_first(recorded)
    todo = {name: item for name, item in dict(wanted).items() if name not in records}
    progress = Progress(label, len(names), len(records), unit="candidate")
    best, failed = _best(records.values(), score), 0
    if distributed.size() > 1:
        outcomes = _shared_out(function, todo)
    elif how.executor == "ray":
        outcomes = _on_ray(function, todo, how, files)
    elif how.workers:
        outcomes = _workers_of(run, how.workers).evaluate(function, todo)
    else:
        outcomes = _here(function, todo, run)

    def take_one() -> None:
        nonlocal best, failed
        done, outcome = next(outcomes)
        record = records[done] = _record(json.loads(done), outcome, score)
        run.candidate(**record)
        failed += record["status"] == "failed"
        best = _best([{score: best}, record], score)
        progress.show(best=best, failed=failed or None)
        progress.advance()

    try:
        if distributed.size() > 1:  # no process goes on before the first has written what the others may read
            while len(records) < len(names):
                take_one()
            distributed.barrier()
        for name, _ in wanted:
            while name not in records:
                take_one()
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


def _attempt(function: Callable[[_Item], Evaluation], item: _Item) -> Outcome:
    """Evaluate one item; a failure that is the candidate's own becomes a record, any other exception is raised."""
    return _ended(_begun(partial(function, item)))


def _ended(outcome: Outcome) -> Outcome:
    """An outcome after its second part, where it has one."""
    if outcome["status"] != "begun":
        return outcome
    rest = _begun(outcome["rest"])
    return rest | {"seconds": outcome["seconds"] + rest["seconds"]}


def _begun(work: Callable[[], Evaluation]) -> Outcome:
    """What a piece of work gives; with the status begun and the "rest" where it gives another piece."""
    begin, cpu_begin = time.perf_counter(), time.process_time()
    try:
        measured = work()
    except Exception as error:
        reason = _own_failure(error)
        if reason is None:
            raise
        traceback.clear_frames(error.__traceback__)  # the frames hold the tensors that filled the memory
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        spent = {"seconds": time.perf_counter() - begin, "cpu_seconds": time.process_time() - cpu_begin}
        return {"status": "failed", "reason": reason, **spent}
    seconds = time.perf_counter() - begin
    if callable(measured):
        return {"status": "begun", "seconds": seconds, "rest": measured}
    return {"status": "done", "seconds": seconds, **measured}


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


# ---- in the processes of a training


def _shared_out(function: Callable[[_Item], Evaluation], todo: Mapping[str, _Item]) -> Iterator[tuple[str, Outcome]]:
    """Each process evaluates one candidate at a time, and all learn what the others found."""
    names, size, rank = list(todo), distributed.size(), distributed.rank()
    for first in range(0, len(names), size):
        some, mine, error = names[first : first + size], None, None
        if rank < len(some):
            try:
                mine = _attempt(function, todo[some[rank]])
            except Exception as fault:
                error = _that_travels(fault)
        for name, (outcome, fault) in zip(some, distributed.gather((mine, error)), strict=False):
            if fault is not None:
                raise fault
            yield name, outcome


# ---- in this process


def _here(
    function: Callable[[_Item], Evaluation], todo: Mapping[str, _Item], run: Run
) -> Iterator[tuple[str, Outcome]]:
    """Each candidate's first part here; its second one, if any, in a thread, while the next one is begun."""
    before: tuple[str, Future] | None = None
    with ThreadPoolExecutor(1) as thread, contextlib.closing(_first_parts_here(function, todo, run)) as begun:
        for name, outcome in begun:
            now = (name, thread.submit(_ended, outcome)) if outcome["status"] == "begun" else None
            if before is not None:
                yield before[0], before[1].result()
            before = now
            if now is None:
                yield name, outcome
        if before is not None:
            yield before[0], before[1].result()


def _first_parts_here(
    function: Callable[[_Item], Evaluation], todo: Mapping[str, _Item], run: Run
) -> Iterator[tuple[str, Outcome]]:
    """The candidate under way is written down, so that one that kills the process is known by it.

    The process may as well have been killed by somebody else. So the candidate is tried again in a process of its own,
    where its death is seen; or here, once, where it cannot be sent to another process.
    """
    mark = run.path / "attempt.json"
    killed, times = _read_attempt(mark)
    try:
        for name, item in todo.items():
            tried = times if name == killed else 0
            if tried and function.__module__ != "__main__" and _pickles((function, item)):
                with contextlib.closing(_Workers(1)) as alone:
                    yield from alone.evaluate(function, {name: item}, tried=[name])
            elif tried > 1:
                yield name, {"status": "failed", "reason": KILLED, "seconds": 0.0}
            else:
                with _written_down(mark, name, tried + 1) if run.writes else contextlib.nullcontext():
                    outcome = _begun(partial(function, item))
                yield name, outcome
    finally:
        if run.writes:
            mark.unlink(missing_ok=True)  # of one that was tried again, too


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

# A fork of this process would copy torch's threads and the GPU's context in an unusable state. So a fresh process that
# has loaded the slow packages and computed nothing is forked for each worker. On macOS its libraries forbid even that.
_PROCESSES = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
if sys.platform == "linux":
    _PROCESSES.set_forkserver_preload([__name__, "torchvision"])


class _Worker:
    """A process that evaluates one candidate after the other."""

    def __init__(self, threads: int, images: Path | None) -> None:
        self.connection, theirs = _PROCESSES.Pipe()
        self.process = _PROCESSES.Process(target=_serve, args=(theirs, threads, images))
        self.process.start()
        theirs.close()  # so that reading finds an end when the process dies
        self.name = ""  # of the candidate under way
        self.began = 0.0
        self.function = b""  # that it knows

    def begin(self, name: str, function: bytes, item: Any) -> None:
        self.name, self.began = name, time.perf_counter()
        new = function if function != self.function else None  # a function may hold a whole supernet
        self.function = function
        with contextlib.suppress(BrokenPipeError):  # it has died: the answer says so
            self.connection.send((new, pickle.dumps(item)))

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
    """So many processes, started when first needed and kept from one call to the next: starting one takes seconds.

    images: folder in which they hold decoded images together.
    """

    def __init__(self, count: int, images: Path | None = None) -> None:
        self.count, self.images = count, images
        self.threads = max(1, torch.get_num_threads() // count)
        self.idle: list[_Worker] = []
        self.busy: dict[Any, _Worker] = {}  # by connection
        # At the latest when this process exits, before multiprocessing waits for its children.
        self.close = multiprocessing.util.Finalize(self, _end_all, (self.idle, self.busy), exitpriority=1)

    def evaluate(
        self, function: Callable[[_Item], Evaluation], todo: Mapping[str, _Item], tried: Iterable[str] = ()
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
        worker = self.idle.pop() if self.idle else _Worker(self.threads, self.images)
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
        images = run.path / "images"
        pool = _POOLS[run] = _Workers(count, images)
        run.at_close(partial(shutil.rmtree, images, ignore_errors=True))  # after what is registered later
        run.at_close(pool.close)
    return pool


def _serve(connection: Any, threads: int, images: Path | None) -> None:
    """A worker's life: one candidate after the other until its parent ends it or dies."""
    SharedImages.folder = images
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C and ends its workers in order
    silence()
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(OSError):  # where memory runs out, the system takes a worker rather than the search
        Path("/proc/self/oom_score_adj").write_text("500")
    function = None  # keeps what it has loaded from one candidate to the next
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            new, item = connection.recv()
            function = function if new is None else pickle.loads(new)
            connection.send(_answer(function, item))


def _answer(function: Callable[[_Item], Evaluation], item: bytes) -> tuple[Outcome | None, Exception | None, str]:
    try:
        return _attempt(function, pickle.loads(item)), None, ""
    except Exception as error:
        return None, _that_travels(error), traceback.format_exc()


def _that_travels(error: Exception) -> Exception:
    """The error, or another one that says the same where it cannot be sent to another process."""
    return error if _pickles(error) else RuntimeError(f"{type(error).__name__}: {error}")


def _end_with_parent() -> None:
    """However the parent dies. A training under way saves its state at the signal; after a minute it is over anyhow."""
    multiprocessing.parent_process().join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
    os._exit(1)


# ---- Ray


def _on_ray(
    function: Callable[[_Item], Evaluation],
    todo: Mapping[str, _Item],
    how: Parallel,
    files: Callable[[_Item], tuple[Sequence[Path], Sequence[Path]]] | None,
) -> Iterator[tuple[str, Outcome]]:
    """Tasks on the cluster that `how.address` or RAY_ADDRESS names, else on one started on this machine.

    A candidate whose machine or process is lost is tried again when the others are done, alone.
    """
    try:
        import ray
    except ImportError:
        raise InputError(
            "--executor ray needs the package ray, which is not installed: pip install 'ray>=2.30', or search in "
            "processes of this machine with --workers"
        ) from None
    if not todo:
        return
    if not ray.is_initialized():
        try:
            if found := re.fullmatch(r"(?:ray://)?\[?([^\]]+)\]?:(\d+)", how.address or ""):
                socket.create_connection((found[1], int(found[2])), timeout=20).close()  # Ray itself waits for minutes
            ray.init(address=how.address, log_to_driver=False)
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(f"--address {how.address} names no Ray cluster that answers: {error}") from error
    threads = torch.get_num_threads()  # of a task, too: sums then come out the same
    cluster = ray.cluster_resources()
    gpus, cpus = int(cluster.get("GPU", 0)), int(cluster.get("CPU", 1))
    resources = {"num_gpus": 1} if gpus else {"num_cpus": min(threads, cpus)}
    task = ray.remote(_on_node).options(max_retries=0, **resources)
    at_once = how.workers or gpus or max(1, cpus // threads)
    there, place, stored = ray.put(function), (os.getcwd(), threads), {}
    waiting, again, tried, flying = list(reversed(todo)), [], set(), {}
    try:
        while waiting or again or flying:
            while (waiting and len(flying) < at_once) or (again and not flying):
                name = (waiting or again).pop()
                reads, makes = files(todo[name]) if files is not None and how.files == "store" else ((), ())
                carried = _carried(reads, stored, ray.put)
                flying[task.remote(there, todo[name], place, carried, makes)] = (name, time.perf_counter())
            done, _ = ray.wait(list(flying), num_returns=1)
            for reference in done:
                name, began = flying.pop(reference)
                try:
                    outcome, made = ray.get(reference)
                except ray.exceptions.RayTaskError as error:
                    raise error.cause from error
                except ray.exceptions.RayError as error:  # its process was killed, or its machine is gone
                    if name not in tried:
                        tried.add(name)
                        again.append(name)
                        continue
                    reason = f"its Ray task was lost twice ({type(error).__name__}), most likely for want of memory"
                    outcome, made = {"status": "failed", "reason": reason, "seconds": time.perf_counter() - began}, {}
                for file, content in made.items():
                    _put_back(file, hashlib.sha256(content).hexdigest(), lambda content=content: content)
                yield name, outcome
    finally:
        for reference in flying:
            ray.cancel(reference)


def _on_node(
    function: Callable[[_Item], Evaluation],
    item: _Item,
    place: tuple[str, int],
    carried: Sequence[tuple[Path, str, Any]],
    makes: Sequence[Path],
) -> tuple[Outcome, dict[Path, bytes]]:
    """One evaluation on a machine of the cluster, and the contents of the files that it left.

    place: the folder that relative paths start from, which is made, and the number of threads. carried: files that the
    evaluation reads, each with its digest and a reference to its content; those that the machine has are left.
    """
    import ray

    folder, threads = place
    os.makedirs(folder, exist_ok=True)
    os.chdir(folder)
    torch.set_num_threads(threads)
    for file, digest, content in carried:
        _put_back(file, digest, partial(ray.get, content))
    outcome = _attempt(function, item)
    return outcome, {file: file.read_bytes() for file in _files_in(makes)}


def _carried(
    paths: Iterable[Path], stored: dict[tuple[Path, int], tuple[str, Any]], put: Callable[[bytes], Any]
) -> list[tuple[Path, str, Any]]:
    """Every file under the paths with its digest and where its content is stored, which happens once."""
    carried = []
    for file in _files_in(paths):
        version = file, file.stat().st_mtime_ns
        if version not in stored:
            content = file.read_bytes()
            stored[version] = hashlib.sha256(content).hexdigest(), put(content)
        carried.append((file, *stored[version]))
    return carried


def _files_in(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and not file.name.startswith(".") and file.suffix != ".state":
                yield file


def _put_back(file: Path, digest: str, content: Callable[[], bytes]) -> None:
    """Write a file whose content has this digest, unless it is there."""
    if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != digest:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, content())
