"""Fixtures that every test may ask for."""

import os

# Before torch is imported, and for the processes that tests start: one thread each. Two test processes then share two
# cores without waiting for one another, and sums come out the same on every machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest
import torch

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(params=DEVICES)
def device(request) -> torch.device:
    """Each device there is, so that the same numeric tests check CUDA on a machine that has it."""
    return torch.device(request.param)


def _real_data(name: str) -> Path:
    root = os.environ.get("DETNAS_DATA")
    if not root:
        pytest.skip("real data: set DETNAS_DATA to a folder that holds aquarium/ and bccd/")
    folder = Path(root) / name
    if not folder.is_dir():
        pytest.skip(f"real data: {folder} is not there")
    return folder


@pytest.fixture
def aquarium() -> Path:
    """The folder of the aquarium set (COCO layout), where DETNAS_DATA names its parent."""
    return _real_data("aquarium")


@pytest.fixture
def bccd() -> Path:
    """The folder of the blood-cell set (COCO layout), where DETNAS_DATA names its parent."""
    return _real_data("bccd")
