"""SMOKE a few times smaller, and latencies that come out the same again, for all tests that train.

Scripts that tests start in processes of their own, to be killed there, import this file, too.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from common.evaluate.latency import Latency
from common.train import laboratory
from sm_nas import trial
from sm_nas.presets import SMOKE, Preset

DATA = "scenes:train=40,val=8,size=32"
TINY = replace(
    SMOKE,
    name="tiny",
    structural=replace(SMOKE.structural, backbones=("resnet18", "resnet34"), sizes=((32, 32), (64, 32))),
    modular=replace(SMOKE.modular, most_blocks=6),
    train_images=16,
    search_images=8,
    validation_images=8,
    crops=16,
    latency_images=1,
    stage_one=replace(SMOKE.stage_one, budget=4, first=3, generation=1),
    stage_two=replace(SMOKE.stage_two, budget=2, first=1, generation=1),
)


def steady_latency(network, input_shape, device="cpu", **_) -> Latency:
    """A made-up latency that hangs on network and image alone."""
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Latency(parameters * 1e-5 + input_shape[-1], 0.0, str(device), "float32", "none", 1)


def checkpoint_at_every_step(patch: pytest.MonkeyPatch) -> None:
    """Otherwise a kill within the first minute is one before the first step."""
    fit = trial.fit
    patch.setattr(trial, "fit", lambda *args: fit(*args[:-1], replace(args[-1], checkpoint_every_s=0.0)))


@pytest.fixture
def tiny() -> Preset:
    """See the module."""
    return TINY


@pytest.fixture
def data() -> str:
    """As `--data`: the fewest scenes of which TINY holds out as many as it says."""
    return DATA


@pytest.fixture
def steady(monkeypatch):
    """Latencies are made up."""
    monkeypatch.setattr(laboratory, "measure_latency", steady_latency)


@pytest.fixture(scope="session")
def searched(tmp_path_factory) -> Path:
    """A folder for the runs of TINY's seed 0, which several modules search: whoever comes first trains."""
    return tmp_path_factory.mktemp("searched")
