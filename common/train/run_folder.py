"""A run's folder: the record of what was asked, on what machine, every measurement, and all that resuming needs.

    config.json  environment.json  log.jsonl  candidates.jsonl  result.json
    NAME.safetensors (weights)  NAME.state (for resuming)  stages/NAME.json (what a finished stage found)

Every file is written whole or not at all; the two .jsonl files grow line by line, and a line cut short by a killed
process is dropped when the run is next opened. One process at a time may write (a lock file sees to it).
"""

import fcntl
import io
import json
import os
import pickle
import platform
import re
import subprocess
import weakref
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.plain import (
    PARTIAL,
    InputError,
    append_line,
    cannot_write,
    drop_torn_line,
    first_difference,
    make_folder,
    read_json_if_there,
    read_lines,
    to_json,
    write_atomically,
    write_json,
)
from common.train import distributed
from common.train.checkpoint import load_tensors, save_tensors


class Run:
    """An open run folder. `path` is the folder; names of weights, states and stages are plain file names."""

    def __init__(self, path: str | Path, *, writes: bool, lock: "_Lock | None" = None) -> None:
        self.path = Path(path)
        self.writes = writes
        self._lock = lock

    @classmethod
    def open(cls, path: str | Path, config: Any, command: str | None = None) -> "Run":
        """Make the folder, or go on with it when its config is the same.

        config: a dataclass or dict, kept as config.json. command: the command line that made the run, kept in
        environment.json. In a training of several processes only the first writes; in the others every write does
        nothing. Raises InputError when the folder holds a run with another config (naming the first field that
        differs), when another process is at work in it, or when it cannot be written.
        """
        path = Path(path)
        if distributed.rank() > 0:
            distributed.barrier()  # wait until the first process has made the folder
            return cls(path, writes=False)
        make_folder(path)
        run = cls(path, writes=True, lock=_Lock.take(path / ".lock"))
        run._adopt(to_json(config), command)
        distributed.barrier()
        return run

    @classmethod
    def read(cls, path: str | Path, config: Any = None) -> "Run":
        """Look into a run without writing or locking it. Raises InputError when `path` holds none, or one with another
        config than that given.
        """
        if not (Path(path) / "config.json").is_file():
            raise InputError(f"{path} holds no run (it has no config.json): check the path, or make the run first")
        run = cls(path, writes=False)
        if config is not None:
            run._check_same(to_json(config))
        return run

    def _adopt(self, config: Any, command: str | None) -> None:
        for leftover in self.path.rglob(f".*{PARTIAL}"):
            leftover.unlink(missing_ok=True)
        if self.read_json("config") is None:
            self.write_json("config", config)
        else:
            self._check_same(config)
        for name in ("log.jsonl", "candidates.jsonl"):
            drop_torn_line(self.path / name)
        environment = self.read_json("environment")
        if environment is None:
            self.write_json("environment", describe_environment(command))
        elif self.result is None:
            again = describe_environment(command)
            changed = {key: again[key] for key in again if key == "time" or again[key] != environment.get(key)}
            environment.setdefault("resumed", []).append(changed)
            self.write_json("environment", environment)

    def _check_same(self, config: Any) -> None:
        difference = first_difference(self.read_json("config"), config)
        if difference is not None:
            field, there, here = difference
            raise InputError(
                f"{self.path} holds a run with {field} = {there}, and this command asks for {here}: "
                "give the same setting to go on with it, name another output folder, or delete that one"
            )

    def close(self) -> None:
        """Let other processes have the run."""
        self.writes, self._lock = False, None

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _writing(self) -> bool:
        if not self.writes and distributed.rank() == 0:
            raise RuntimeError(f"{self.path} was opened for reading (or closed): nothing can be written to it")
        return self.writes

    # ---- JSON

    def write_json(self, name: str, value: Any) -> None:
        """Write NAME.json atomically; NaN and infinity become null."""
        if self._writing():
            write_json(self._file(name, ".json"), value)

    def read_json(self, name: str) -> Any | None:
        """What `write_json` wrote under `name`, or None."""
        return read_json_if_there(self._file(name, ".json"))

    @property
    def config(self) -> Any:
        """The config the run was made with, as plain JSON."""
        return self.read_json("config")

    @property
    def environment(self) -> dict[str, Any]:
        """Commit, versions and machine, as `describe_environment` saw them when the run was made."""
        return self.read_json("environment") or {}

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write result.json: the run is done. In a training of several processes all of them find it there then."""
        self.write_json("result", result)
        distributed.barrier()

    @property
    def result(self) -> dict[str, Any] | None:
        """What `finish` was given, or None while the run is not done."""
        return self.read_json("result")

    def finish_stage(self, name: str, record: Mapping[str, Any]) -> None:
        """Mark a stage of the run as done, with what it found."""
        if self._writing():
            write_json(self._stage_file(name), {"stage": name, **record})

    def stage_done(self, name: str) -> dict[str, Any] | None:
        """The record of a finished stage (never empty: it holds at least its name), or None."""
        return read_json_if_there(self._stage_file(name))

    # ---- lines

    def log(self, **record: Any) -> None:
        """Append one line to log.jsonl, on disk when this returns."""
        if self._writing():
            append_line(self.path / "log.jsonl", json.dumps(to_json(record), allow_nan=False))

    def logged(self, **where: Any) -> list[dict[str, Any]]:
        """The records of log.jsonl whose fields equal those of `where`."""
        return list(read_lines(self.path / "log.jsonl", **where))

    def log_length(self) -> int:
        """Bytes in log.jsonl."""
        path = self.path / "log.jsonl"
        return path.stat().st_size if path.exists() else 0

    def cut_log(self, length: int) -> None:
        """Take log.jsonl back to `length` bytes: the lines past a checkpoint are about to be written again."""
        if self._writing() and self.log_length() > length:
            os.truncate(self.path / "log.jsonl", length)

    def candidate(self, **record: Any) -> None:
        """Append one line to candidates.jsonl, on disk when this returns."""
        if self._writing():
            append_line(self.path / "candidates.jsonl", json.dumps(to_json(record), allow_nan=False))

    def candidates(self, **where: Any) -> list[dict[str, Any]]:
        """The recorded candidates, oldest first, whose fields equal those of `where`."""
        return list(read_lines(self.path / "candidates.jsonl", **where))

    # ---- tensors

    def save_weights(self, name: str, state_dict: Mapping[str, Tensor], meta: Mapping[str, Any] | None = None) -> None:
        """Write NAME.safetensors with `meta` (plain JSON) inside, atomically."""
        if self._writing():
            save_tensors(self._file(name, ".safetensors"), state_dict, to_json(meta or {}))

    def load_weights(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The tensors (on the CPU) and meta of `save_weights`; InputError when absent or damaged."""
        return load_tensors(self._file(name, ".safetensors"))

    def has_weights(self, name: str) -> bool:
        """Whether weights of that name were saved."""
        return self._file(name, ".safetensors").is_file()

    def save_state(self, name: str, state: Mapping[str, Any]) -> None:
        """Write NAME.state atomically: tensors, numbers, strings and containers of them, for resuming."""
        if self._writing():
            buffer = io.BytesIO()  # first to memory: torch hides the system's reason when writing to a file fails
            torch.save(dict(state), buffer)
            write_atomically(self._file(name, ".state"), buffer.getvalue())

    def load_state(self, name: str) -> dict[str, Any] | None:
        """What `save_state` wrote, on the CPU, or None. No code in the file is ever run."""
        path = self._file(name, ".state")
        if not path.is_file():
            return None
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"{path} is not a readable checkpoint ({reason}): delete it to do this stage from its start"
            ) from error

    def delete_state(self, name: str) -> None:
        """Remove NAME.state when there."""
        if self._writing():
            self._file(name, ".state").unlink(missing_ok=True)

    # ---- names

    def _file(self, name: str, ending: str) -> Path:
        return self.path / f"{_plain(name)}{ending}"

    def _stage_file(self, name: str) -> Path:
        return self.path / "stages" / f"{_plain(name)}.json"


def describe_environment(command: str | None = None) -> dict[str, Any]:
    """Commit, versions and machine of this process, without the names of hosts or users."""
    home = str(Path.home())
    return {
        "command": command.replace(home, "~") if command and len(home) > 1 else command,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        **_git(),
        "python": platform.python_version(),
        **{package: _version(package) for package in ("torch", "torchvision", "numpy")},
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "processes": distributed.size(),
    }


def _git() -> dict[str, Any]:
    """The commit of the code that runs (not of the current folder), and whether files differ from it."""
    root = Path(__file__).resolve().parents[2]
    answers = []
    for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain"]):
        try:
            done = subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True, timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            return {"git_commit": None, "git_dirty": None}
        answers.append(done.stdout.strip() if done.returncode == 0 else None)
    commit, changes = answers
    return {"git_commit": commit, "git_dirty": None if changes is None else bool(changes)}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1) if found else platform.processor() or platform.machine()


def _plain(name: str) -> str:
    """Names become file names, so they may not climb out of the folder."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+=-]*", name):
        raise ValueError(f"{name!r} is no plain file name (letters, digits, _ . + = -)")
    return name


_HELD: "weakref.WeakValueDictionary[Path, _Lock]" = weakref.WeakValueDictionary()  # this process's locks


class _Lock:
    """Holds a folder's lock file for as long as it lives; the system frees it when the process dies, however it dies.

    Runs opened twice by one process share one lock.
    """

    def __init__(self, file: io.BufferedRandom) -> None:
        self.file = file

    @classmethod
    def take(cls, path: Path) -> "_Lock":
        key = path.resolve()
        if (lock := _HELD.get(key)) is not None:
            return lock
        try:
            file = open(path, "a+b")  # noqa: SIM115 (stays open: closing it frees the lock)
        except OSError as error:
            raise cannot_write(path, error) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().decode(errors="replace").strip() or "unknown"
            file.close()
            raise InputError(
                f"{path.parent} is in use by another process (number {holder}): wait until it ends, stop it, or name "
                "another output folder"
            ) from None
        except OSError:
            pass  # a file system without locks: go on without one
        file.truncate(0)
        file.write(str(os.getpid()).encode())
        file.flush()
        lock = _HELD[key] = cls(file)
        return lock

    @classmethod
    def _leave_to_parent(cls) -> None:
        """A forked worker must not keep the lock alive once its parent is killed."""
        for lock in list(_HELD.values()):
            lock.file.close()
        _HELD.clear()


os.register_at_fork(after_in_child=_Lock._leave_to_parent)
