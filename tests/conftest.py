"""Fixtures that every test may ask for."""

import gc
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Before torch is imported, and for the processes that tests start: one thread each. Two test processes then share two
# cores without waiting for one another, and sums come out the same on every machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Torch and its like leave a million objects in memory: to look through them as often as Python does by itself takes a
# tenth of all time.
gc.set_threshold(20_000, 20, 20)


@pytest.fixture(autouse=True, scope="session")
def _no_wait_for_the_disk() -> Iterator[None]:
    """What is synced survives a loss of power, which no test can cause; the processes that tests start do sync."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(autouse=True)
def _no_command_of_another_test(monkeypatch) -> None:
    """What a command has planned and not done would be told as what is left."""
    from common import progress

    monkeypatch.setattr(progress, "_command", progress._Command())


SHARED = [  # what is trained once for all of these files
    ("tests/detofa/test_search.py", "tests/detofa/test_train.py"),
    ("tests/joint_detnas/test_commands.py", "tests/joint_detnas/test_reproduce.py", "tests/joint_detnas/test_study.py"),
    ("tests/sm_nas/test_reproduce.py", "tests/sm_nas/test_search.py", "tests/sm_nas/test_study.py"),
]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """`--dist loadfile`, but that files which share a training go to one process: two would both train."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Together(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return next((files[0] for files in SHARED if file in files), file)

    return Together(config, log)


def pytest_generate_tests(metafunc) -> None:
    """`device`: each device there is, so that the same numeric tests check CUDA on a machine that has it."""
    if "device" in metafunc.fixturenames:
        import torch  # the tests of exhibits, claims and pages start without it

        names = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
        metafunc.parametrize("device", [torch.device(name) for name in names], ids=names)


@pytest.fixture(scope="module")
def drawn_once() -> Iterator[None]:
    """Pictures of the same numbers are drawn once: that they come out the same again is tested with all kinds."""
    from common.report import figures

    known: dict[str, bytes] = {}

    def render(picture):
        digest = figures.digest(picture)
        if digest not in known:
            known[digest] = drawn(picture)
        return known[digest]

    drawn = figures.render
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "render", render)
        yield


@pytest.fixture
def logged() -> Callable[[Path], list[dict[str, Any]]]:
    """A run folder -> the records of its log."""
    return lambda folder: [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def _real_data(name: str) -> Path:
    root = os.environ.get("DETNAS_DATA")
    if not root or not (Path(root) / name).is_dir():
        pytest.skip("real data: set DETNAS_DATA to a folder that holds aquarium/ and bccd/")
    return Path(root) / name


@pytest.fixture
def aquarium() -> Path:
    """The folder of the aquarium set (COCO layout), where DETNAS_DATA names its parent."""
    return _real_data("aquarium")


@pytest.fixture
def bccd() -> Path:
    """The folder of the blood-cell set (COCO layout), where DETNAS_DATA names its parent."""
    return _real_data("bccd")
