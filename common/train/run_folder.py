"""A run's folder: the record of what was asked, on what machine, every measurement, and all that resuming needs.

    config.json  environment.json  log.jsonl  candidates.jsonl  result.json
    NAME.safetensors (weights)  NAME.state (for resuming)  stages/NAME.json (what a finished stage found)
    attempt.json (the candidate that a search is evaluating)

Every file is written whole or not at all; the two .jsonl files grow line by line, and a line cut short by a killed
process is dropped when the run is next opened. Weights and states hold a digest of themselves, which loading checks.
Whatever is damaged is named by an InputError, with what to delete so that the same command makes it anew.

One process at a time may write. Another one that opens the run waits until the first has closed it or died.
"""

import fcntl
import hashlib
import io
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.evaluate.latency import device_name
from common.plain import (
    PARTIAL,
    InputError,
    append_line,
    cannot_write,
    cores,
    first_difference,
    make_folder,
    to_json,
    write_atomically,
    write_json,
)
from common.train import distributed
from common.train.checkpoint import pack_state, pack_tensors, unpack_state, unpack_tensors

_ABSENT = object()
_BEGUN = {"config.json", "environment.json", ".lock"}
"""All that a run holds of which nothing has come yet."""


class Run:
    """An open run folder. `path` is the folder; names of weights, states and stages are plain file names."""

    def __init__(self, path: str | Path, *, writes: bool) -> None:
        self.path = Path(path)
        self.writes = writes
        self._lock: io.BufferedRandom | None = None
        self._log = _Records(self.path / "log.jsonl")
        self._candidates = _Records(self.path / "candidates.jsonl", result=self._file("result", ".json"))
        self._at_close: list[Callable[[], None]] = []

    @classmethod
    def open(cls, path: str | Path, config: Any, command: str | None = None) -> "Run":
        """Make the folder, or go on with it when its config is the same.

        config: a dataclass or dict, kept as config.json. command: the command line that made the run, kept in
        environment.json. While another process works on the run, this one waits, and says so on stderr. In a training
        of several processes only the first writes; in the others every write does nothing. Raises InputError, in all
        of them, when the folder holds a run with another config (naming the first field that differs), or when it
        cannot be written.
        """
        run = cls(path, writes=distributed.rank() == 0)
        distributed.by_first(lambda: run._adopt(to_json(config), command))
        return run

    @classmethod
    def read(cls, path: str | Path, config: Any = None) -> "Run":
        """Look into a run without writing or locking it, so that the disk may be read-only.

        Raises InputError when `path` holds no run, or one with another config than that given.
        """
        if not (Path(path) / "config.json").exists():
            raise InputError(f"{path} holds no run (it has no config.json): check the path, or make the run first")
        run = cls(path, writes=False)
        if config is not None:
            run._check_same(to_json(config))
        return run

    def _adopt(self, config: Any, command: str | None) -> None:
        self._lock = _take_lock(self.path / ".lock")
        for leftover in self.path.rglob(f".*{PARTIAL}"):
            leftover.unlink(missing_ok=True)
        there, environment = self.config, self._json(self._file("environment", ".json"))
        digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
        if there is not None and there != config and {each.name for each in self.path.iterdir()} <= _BEGUN:
            there = environment = None  # nothing has come of it, such as where its data had to be mended first
        if there is not None:
            self._check_same(config)
        elif environment is not None and environment.get("config_sha256", digest) != digest:
            raise InputError(
                f"{self.path} has lost its config.json, and this command has other settings than the run was made "
                "with: give the same settings to go on with it, name another output folder, or delete that one"
            )
        else:
            self.write_json("config", config)
        for records in (self._log, self._candidates):
            records.drop_torn_line()
        if environment is None:
            self.write_json("environment", {**describe_environment(command), "config_sha256": digest})
        elif self.result is None:
            again = describe_environment(command)
            changed = {key: again[key] for key in again if key == "time" or again[key] != environment.get(key)}
            for name in changed.keys() & {"processes", "threads"}:
                print(
                    f"{self.path} was begun with {name} = {environment.get(name)} and goes on with {again[name]}: its "
                    "numbers equal those of an unbroken run only up to rounding",
                    file=sys.stderr,
                )
            resumed = environment.get("resumed", [])
            self.write_json("environment", {**environment, "resumed": [*resumed, changed]})

    def _check_same(self, config: Any) -> None:
        difference = first_difference(self.config, config)
        if difference is not None:
            field, there, here = difference
            changed = " (digests of a data set: its pictures or annotations have changed)"
            meant = changed if field.endswith("_set") else ""  # as studies name the sets that a run rests on
            raise InputError(
                f"{self.path} holds a run with {field} = {there}, and this command asks for {here}{meant}: "
                "give the same setting to go on with it, name another output folder, or delete that one"
            )

    def at_close(self, function: Callable[[], None]) -> None:
        """Have `function` called when the run is closed."""
        self._at_close.append(function)

    def close(self) -> None:
        """Let other processes have the run."""
        while self._at_close:
            self._at_close.pop()()
        self.writes, self._lock = False, None

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _writing(self) -> bool:
        if not self.writes and distributed.rank() == 0:
            raise RuntimeError(f"{self.path} was opened for reading (or closed): nothing can be written to it")
        return self.writes

    # ---- damage

    def damaged(self, path: Path, problem: str) -> InputError:
        """The sentence for a file of this run that is missing or cannot be used: what to delete to have it made anew.

        A finished run is not made again while its result is there, so that goes with the file.
        """
        gone = [each for each in (path, self._file("result", ".json")) if each.exists()]
        delete = f"delete {' and '.join(map(str, dict.fromkeys(gone)))} and " if gone else ""
        return InputError(f"{path} {problem}: {delete}run the command that made it again, which makes what is missing")

    def _read(self, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            raise self.damaged(path, "is missing") from None
        except OSError as error:
            raise self.damaged(path, f"cannot be read ({error.strerror or error})") from None

    def _json(self, path: Path, kind: type = dict) -> Any | None:
        """The JSON of a file of this run, of the type `kind`; None where there is no file."""
        if not path.exists():
            return None
        try:
            value = json.loads(self._read(path))
        except (ValueError, RecursionError) as error:
            raise self.damaged(path, f"is damaged: it is not valid JSON ({error})") from None
        if not isinstance(value, kind):
            raise self.damaged(path, f"is damaged: it must hold a {kind.__name__}, and holds a {type(value).__name__}")
        return value

    # ---- JSON

    def write_json(self, name: str, value: Any) -> None:
        """Write NAME.json atomically; NaN and infinity become null."""
        if self._writing():
            write_json(self._file(name, ".json"), value)

    def read_json(self, name: str, kind: type = dict) -> Any:
        """What `write_json` wrote under `name`, a dict or list; InputError where it is missing or of another type."""
        path = self._file(name, ".json")
        value = self._json(path, kind)
        if value is None:
            raise self.damaged(path, "is missing")
        return value

    @property
    def config(self) -> dict[str, Any] | None:
        """The config that the run was made with, as plain JSON; None before it is first opened."""
        return self._json(self._file("config", ".json"))

    @property
    def environment(self) -> dict[str, Any]:
        """Commit, versions and machine, as `describe_environment` saw them when the run was made."""
        return self._json(self._file("environment", ".json")) or {}

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write result.json, with at least one field: the run is done. All processes of a training find it there."""
        if self._writing() and not result:
            raise ValueError("a result must have at least one field, got none")
        if self.writes and self._candidates.path.exists():
            length = self._candidates.path.stat().st_size
            self.write_json("environment", {**self.environment, "candidates_bytes": length})
        self.write_json("result", result)
        distributed.barrier()

    @property
    def result(self) -> dict[str, Any] | None:
        """What `finish` was given, or None while the run is not done."""
        path = self._file("result", ".json")
        if (result := self._json(path)) == {}:
            raise self.damaged(path, "is damaged: it holds nothing")
        candidates, length = self._candidates.path, self.environment.get("candidates_bytes", 0)
        if result is not None and length and (candidates.stat().st_size if candidates.exists() else 0) < length:
            raise InputError(
                f"{candidates} has lost candidates since the run was finished: delete {path} and run the same command "
                "again, which evaluates them once more"
            )
        return result

    def finish_stage(self, name: str, record: Mapping[str, Any]) -> None:
        """Mark a stage of the run as done, with what it found."""
        if self._writing():
            write_json(self.stage_file(name), {"stage": name, **record})

    def stage_done(self, name: str) -> dict[str, Any] | None:
        """The record of a finished stage (never empty: it holds at least its name).

        None where the stage is not done, or is to be done again because the weights that it ended with are gone.
        """
        record = self._json(self.stage_file(name))
        if record is not None and record.get("stage") != name:
            raise self.damaged(self.stage_file(name), "is damaged: it is no record of that stage")
        return record if self.has_weights(name) else None

    # ---- lines

    def log(self, **record: Any) -> None:
        """Append one line to log.jsonl, on disk when this returns."""
        if self._writing():
            self._log.append(record)

    def cut_log(self, stage: str, epoch: int) -> None:
        """Take out of log.jsonl what a stage logged from an epoch on: it is about to be logged again."""
        if self._writing():
            self._log.keep(lambda record: record.get("stage") != stage or record.get("epoch", 0) < epoch)

    def candidate(self, **record: Any) -> None:
        """Append one line to candidates.jsonl, on disk when this returns."""
        if self._writing():
            self._candidates.append(record)

    def candidates(self, **where: Any) -> list[dict[str, Any]]:
        """The recorded candidates, oldest first, whose fields equal those of `where`.

        Of several records with the same "key" only the last counts: the candidate was tried again.
        """
        wanted = to_json(where)
        return [
            dict(record)
            for record in self._candidates.look().values()
            if all(record.get(name, _ABSENT) == value for name, value in wanted.items())
        ]

    def candidate_named(self, key: Any) -> dict[str, Any] | None:
        """The last recorded candidate whose "key" is this one, or None; takes no longer when there are many."""
        record = self._candidates.look().get(json.dumps(to_json(key), sort_keys=True))
        return None if record is None else dict(record)

    def forget_failed(self) -> None:
        """Take the failed candidates out of the run, and the result that rests on them: both are made again, and
        stages of training that are done stay.
        """
        if self._writing() and self.candidates(status="failed"):
            self._file("result", ".json").unlink(missing_ok=True)
            self._candidates.keep(lambda record: record.get("status") != "failed")

    # ---- tensors

    def save_weights(self, name: str, state_dict: Mapping[str, Tensor], meta: Mapping[str, Any] | None = None) -> None:
        """Write NAME.safetensors with `meta` (plain JSON) inside, atomically."""
        if self._writing():
            write_atomically(self._file(name, ".safetensors"), pack_tensors(state_dict, to_json(meta or {})))

    def load_weights(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The tensors (on the CPU) and meta of `save_weights`; InputError when missing or damaged."""
        path = self._file(name, ".safetensors")
        try:
            return unpack_tensors(self._read(path))
        except ValueError as error:
            raise self.damaged(path, f"is not a readable safetensors file ({error})") from error

    def has_weights(self, name: str) -> bool:
        """Whether weights of that name were saved."""
        return self._file(name, ".safetensors").is_file()

    def save_state(self, name: str, state: Mapping[str, Any]) -> None:
        """Write NAME.state atomically: tensors, numbers, strings and containers of them, for resuming."""
        if self._writing():
            write_atomically(self._file(name, ".state"), pack_state(state))

    def load_state(self, name: str) -> dict[str, Any] | None:
        """What `save_state` wrote, on the CPU, or None. No code in the file is ever run."""
        path = self._file(name, ".state")
        if not path.exists():
            return None
        try:
            return unpack_state(self._read(path))
        except ValueError as error:
            raise self.damaged(path, f"is not a readable checkpoint ({error})") from error

    def delete_state(self, name: str) -> None:
        """Remove NAME.state when there."""
        if self._writing():
            self._file(name, ".state").unlink(missing_ok=True)

    # ---- names

    def _file(self, name: str, ending: str) -> Path:
        return self.path / f"{_plain(name)}{ending}"

    def stage_file(self, name: str) -> Path:
        """Where the record of a stage lies."""
        return self.path / "stages" / f"{_plain(name)}.json"


class _Records:
    """The records of a .jsonl file, kept in memory: each look reads only what was appended since the last one."""

    def __init__(self, path: Path, result: Path | None = None) -> None:
        self.path = path
        self.result = result  # what rests on the records: it goes, too, where a line must
        self._forget()

    def _forget(self) -> None:
        self._end = self._count = 0  # bytes and lines seen
        self._known: dict[str, dict[str, Any]] = {}

    def append(self, record: Mapping[str, Any]) -> None:
        append_line(self.path, json.dumps(to_json(record), allow_nan=False))

    def look(self) -> dict[str, dict[str, Any]]:
        """Name -> record, oldest first: the name of its "key", or of its line where it has none.

        A last line without its end is still being written, or was cut off by a kill: it is left out.
        """
        size = self.path.stat().st_size if self.path.exists() else 0
        if size < self._end:
            self._forget()
        if size > self._end:
            end, count, new = self._end, self._count, {}
            for line, record in self._lines(end, count):
                end, count = end + len(line), count + 1
                new[json.dumps(record["key"], sort_keys=True) if "key" in record else f"line {count}"] = record
            self._end, self._count = end, count
            self._known |= new
        return self._known

    def _lines(self, start: int = 0, count: int = 0) -> Iterator[tuple[bytes, dict[str, Any]]]:
        try:
            with open(self.path, "rb") as file:
                file.seek(start)
                for number, line in enumerate(file, start=count + 1):
                    if line.endswith(b"\n"):
                        yield line, self._parse(line, number)
        except OSError as error:
            raise InputError(
                f"{self.path} cannot be read ({error.strerror or error}): delete it and run the same command again, "
                "which makes anew what is missing"
            ) from None

    def _parse(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            record = json.loads(line, object_pairs_hook=_with_shared_names)
            if isinstance(record, dict):
                return record
            problem = f"it must be an object, and is a {type(record).__name__}"
        except (ValueError, RecursionError) as error:
            problem = f"it is not valid JSON: {error}"
        command = f"sed -i {number}d {shlex.quote(str(self.path))}"
        result = f", and {self.result}," if self.result is not None and self.result.exists() else ""
        raise InputError(
            f"{self.path}, line {number}, is damaged ({problem}): delete that line ({command}){result} and run the "
            "same command again, which makes anew what is missing"
        )

    def keep(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        """Drop the other records from the file."""
        if not self.path.exists():
            return
        pairs = list(self._lines())
        kept = [line for line, record in pairs if wanted(record)]
        if len(kept) < len(pairs):
            write_atomically(self.path, b"".join(kept))
            self._forget()

    def drop_torn_line(self) -> None:
        """Cut what follows the last line end: a killed process had no time to finish it."""
        if not self.path.is_file():
            return
        with open(self.path, "r+b") as file:
            content = file.read()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                file.truncate(whole)


def _with_shared_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A third of the memory of a million records is the names of their fields, unless they share them."""
    return {sys.intern(name): value for name, value in pairs}


def describe_environment(command: str | None = None) -> dict[str, Any]:
    """Commit, versions and machine of this process, without the names of hosts or users."""
    home = str(Path.home())
    return {
        "command": command.replace(home, "~") if command and len(home) > 1 else command,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        **_git(),
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "torchvision", "numpy")},
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": device_name(torch.device("cpu")),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "gpus": [device_name(torch.device("cuda", index)) for index in range(torch.cuda.device_count())],
        "processes": distributed.size(),
    }


def _git() -> dict[str, Any]:
    """The commit of the code that runs (not of the current folder), and whether files differ from it; None for both
    where the code is no part of a repository, though it may be installed inside somebody's.
    """
    file = Path(__file__).resolve()
    answers = []
    for arguments in (["rev-parse", "HEAD", f"HEAD:./{file.name}"], ["status", "--porcelain"]):
        try:
            done = subprocess.run(["git", "-C", file.parent, *arguments], capture_output=True, text=True, timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            done = None
        if done is None or done.returncode != 0:
            return {"git_commit": None, "git_dirty": None}
        answers.append(done.stdout.split("\n"))
    (commit, *_), changes = answers
    return {"git_commit": commit, "git_dirty": any(changes)}


def _plain(name: str) -> str:
    """Names become file names, so they may not climb out of the folder."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+=-]*", name):
        raise ValueError(f"{name!r} is no plain file name (letters, digits, _ . + = -)")
    return name


_HELD: "weakref.WeakValueDictionary[Path, io.BufferedRandom]" = weakref.WeakValueDictionary()  # by this process


def _take_lock(path: Path) -> io.BufferedRandom:
    """The lock file at `path`, whose folder is made where it is missing; waits while another process holds it.

    The lock is held for as long as the file object lives; the system frees it when the process dies, however it dies.
    Runs opened twice by one process share it. Runs are made from other runs in one direction only, so processes that
    wait for each other's do not lock up; a worker would wait for ever for what its parent holds, hence the
    RuntimeError.
    """
    key = path.resolve()
    if (held := _HELD.get(key)) is not None:
        return held
    while True:
        make_folder(path.parent)
        try:
            file = open(path, "a+b")  # noqa: SIM115 (stays open: closing it frees the lock)
        except OSError as error:
            raise cannot_write(path, error) from error
        _wait_for(file, path.parent)
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            break
        file.close()  # the folder was removed by the process that was waited for
    file.truncate(0)
    file.write(str(os.getpid()).encode())
    file.flush()
    _HELD[key] = file
    return file


def _wait_for(file: io.BufferedRandom, folder: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read(20).decode(errors="replace").strip() or "unknown"
        if holder == str(os.getppid()):
            raise RuntimeError(f"{folder} is held by process {holder}, which waits for this one") from None
        print(
            f"{folder} is in use by another process (number {holder}): waiting until it is done; Ctrl-C to give up",
            file=sys.stderr,
            flush=True,
        )
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:
        pass  # a file system without locks: go on without one


def _leave_locks_to_parent() -> None:
    """A forked worker must not keep a lock alive once its parent is killed."""
    for file in list(_HELD.values()):
        file.close()
    _HELD.clear()


os.register_at_fork(after_in_child=_leave_locks_to_parent)
