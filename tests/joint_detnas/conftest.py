"""Thin students of every family, and a search of seconds."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from common.batch import Batch
from common.evaluate.latency import Latency
from common.models.described import as_described
from joint_detnas.presets import SMOKE, Phase, Preset
from tests.common.models.families import CLASSES, thin_detector


@pytest.fixture
def student_of():
    """(family, kind of norm, settings of the pyramid) -> a thin Faster R-CNN on a described backbone."""
    return lambda *arguments, **settings: as_described(thin_detector(*arguments, **settings))


@pytest.fixture
def images() -> Tensor:
    """(2, 3, 64, 64)"""
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def batch(images) -> Batch:
    """Two images with three objects each."""
    generator = torch.Generator().manual_seed(2)
    corner = torch.rand(2, 3, 2, generator=generator) * 30
    size = torch.rand(2, 3, 2, generator=generator) * 24 + 8
    return Batch(
        images=images,
        boxes=torch.cat([corner, corner + size], dim=-1),
        labels=torch.randint(CLASSES, (2, 3), generator=generator),
        valid=torch.ones(2, 3, dtype=torch.bool),
        index=torch.arange(2),
        scale=torch.ones(2),
    )


# ---- SMOKE a few times smaller, for all tests that train; scripts that are killed import this file, too

DATA = "scenes:train=40,val=8,size=32"
TINY = replace(
    SMOKE,
    name="tiny",
    sizes=((32, 32), (64, 32)),
    base_size=(64, 32),
    train_images=16,
    search_images=8,
    validation_images=8,
    crops=16,
    latency_images=1,
    base_training=replace(SMOKE.base_training, epochs=1),
    shrinking=replace(SMOKE.shrinking, phases=(Phase("full", 1, steps_down=0), Phase("all", 1)), networks_a_step=1),
    search=replace(SMOKE.search, budget=4, k=2, generation=2),
)


def steady_latency(network, input_shape, device="cpu", **_) -> Latency:
    """A made-up latency that depends on network and image alone."""
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Latency(parameters * 1e-5 + input_shape[-1], 0.0, str(device), "float32", "none", 1)


@pytest.fixture
def tiny() -> Preset:
    """See above."""
    return TINY


@pytest.fixture
def data() -> str:
    """As `--data`: the fewest scenes of which TINY holds out as many as it says."""
    return DATA


@pytest.fixture
def steady(monkeypatch):
    """Latencies are made up."""
    monkeypatch.setattr("common.study.measure_latency", steady_latency)


@pytest.fixture(scope="session")
def searched(tmp_path_factory) -> Path:
    """A folder for the runs of TINY's seed 0, which several modules search: whoever comes first trains."""
    return tmp_path_factory.mktemp("searched")
