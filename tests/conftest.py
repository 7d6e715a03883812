"""Fixtures that every test may ask for."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Before torch is imported, and for the processes that tests start: one thread each. Two test processes then share two
# cores without waiting for one another, and sums come out the same on every machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True, scope="session")
def _no_wait_for_the_disk() -> Iterator[None]:
    """What is synced survives a loss of power, which no test can cause; the processes that tests start do sync."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


def pytest_generate_tests(metafunc) -> None:
    """`device`: each device there is, so that the same numeric tests check CUDA on a machine that has it."""
    if "device" in metafunc.fixturenames:
        import torch  # the tests of exhibits, claims and pages start without it

        names = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
        metafunc.parametrize("device", [torch.device(name) for name in names], ids=names)


@pytest.fixture
def bfloat16_anywhere(monkeypatch) -> None:
    """Trainings in bfloat16 start on any device: what is as short as a test may take tens of times as long."""
    monkeypatch.setattr("common.train.loop.computes_bfloat16", lambda device: True)


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
