"""Programs in processes of their own that start at once.

Importing torch and torchvision takes seconds. So a server that has loaded them, and has computed nothing, is forked for
each program: it is the one that the workers of a search come from (`common.search.executors`). What a program may load
at its start is tested with processes that begin from nothing.
"""

import gc
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import common.search.executors  # tells the server what to load

_SERVER = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
if sys.platform == "linux":  # and what the programs of tests load besides, most of them
    _SERVER.set_forkserver_preload(
        [common.search.executors.__name__, "torchvision", "pytest", "tyro", "common.report.page"]
    )
_TIMEOUT_S = 300


def ran(
    *command: str | Path, folder: Path | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess:
    """What `python *command` ends with; see `begun`."""
    with tempfile.TemporaryDirectory() as written:
        outputs = [str(Path(written, name)) for name in ("stdout", "stderr")]
        process = begun(*command, folder=folder, environment=environment, outputs=outputs)
        process.join(_TIMEOUT_S)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(command, _TIMEOUT_S)
        said = [Path(each).read_text() for each in outputs]
    return subprocess.CompletedProcess(command, process.exitcode, *said)


def begun(
    *command: str | Path,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    outputs: Sequence[str] = (os.devnull, os.devnull),
) -> BaseProcess:
    """`python *command`, begun: ("-m", module, ...), ("-c", code, ...) or (file, ...).

    folder: that it is typed in. environment: variables besides this process's own. outputs: files that it prints to.
    """
    typed, variables = [str(part) for part in command], {**os.environ, **(environment or {})}
    process = _SERVER.Process(target=_become, args=(typed, str(folder or Path.cwd()), variables, outputs))
    process.start()
    return process


def _become(command: list[str], folder: str, environment: dict[str, str], outputs: Sequence[str]) -> None:
    gc.freeze()  # what the server has loaded stays
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
