"""SMOKE a few times smaller, and latencies that come out the same again, for all tests that train.

Scripts that tests start in processes of their own, to be killed there, import this file, too. Nothing here loads torch
before a test asks for it.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from sm_nas.presets import PRESETS, SMOKE, Options, Preset, SearchOptions
from tests.repeatable import steady_latency

DATA = "scenes:train=40,val=8,size=32"
FINAL = SMOKE.final_training
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
    final_training=replace(FINAL, optimisation=replace(FINAL.optimisation, epochs=1, learning_rate=1e-3)),
)


def tiny_options(out: Path, data: str = DATA, preset: Preset = TINY, workers: int = 0) -> SearchOptions:
    """Options of a study at the scale of the tests."""
    return SearchOptions(scale="smoke", preset=preset, data=data, out=out, device="cpu", workers=workers)


def checkpoint_at_every_step(patch: pytest.MonkeyPatch) -> None:
    """Otherwise a kill within the first minute is one before the first step."""
    from sm_nas import study

    fit = study.fit
    patch.setattr(study, "fit", lambda *args: fit(*args[:-1], replace(args[-1], checkpoint_every_s=0.0)))


@pytest.fixture
def tiny_smoke(monkeypatch):
    """The smoke scale is TINY, and runs have no pages."""
    monkeypatch.setitem(PRESETS, "smoke", TINY)
    monkeypatch.setattr(Options, "SHOWS_RUNS", False)


@pytest.fixture
def steady(monkeypatch):
    """Latencies are made up."""
    from common import study

    monkeypatch.setattr(study, "measure_latency", steady_latency)


@pytest.fixture(scope="session")
def searched(tmp_path_factory) -> Path:
    """A folder for the runs of TINY's seed 0, which several modules search: whoever comes first trains."""
    return tmp_path_factory.mktemp("searched")
