"""Programs in processes of their own that start at once.

Importing torch and torchvision takes seconds. So a server that has loaded them, and has computed nothing, is forked for
each program: it is the one that the workers of a search come from (`common.search.executors`). What a program may load
at its start is tested with processes that begin from nothing.
"""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import common.search.executors  # noqa: F401  tells the server what to load

_SERVER = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
_TIMEOUT_S = 300


def ran(
    *command: str | Path, folder: Path | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess:
    """What `python *command` ends with, such as ("-m", module, ...), ("-c", code, ...) or (file, ...).

    folder: that it is typed in. environment: variables besides this process's own.
    """
    with tempfile.TemporaryDirectory() as written:
        outputs = [Path(written, name) for name in ("stdout", "stderr")]
        typed = [str(part) for part in command]
        place = str(folder or Path.cwd())
        process = _SERVER.Process(target=_become, args=(typed, place, {**os.environ, **(environment or {})}, outputs))
        process.start()
        process.join(_TIMEOUT_S)
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            raise subprocess.TimeoutExpired(typed, _TIMEOUT_S)
        said = [each.read_text() if each.exists() else "" for each in outputs]
    return subprocess.CompletedProcess(typed, process.exitcode, *said)


def _become(command: list[str], folder: str, environment: dict[str, str], outputs: list[Path]) -> None:
    for number, file in enumerate(outputs, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(folder)
    os.environ.update(environment)
    sys.path[:0] = [folder, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    match command:
        case ["-m", module, *arguments]:
            sys.argv = [module, *arguments]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case ["-c", code, *arguments]:
            sys.argv = ["-c", *arguments]
            exec(code, {"__name__": "__main__"})
        case [file, *arguments]:
            sys.argv = [file, *arguments]
            runpy.run_path(file, run_name="__main__")
