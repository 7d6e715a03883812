"""Thin students of every family, and a search of seconds.

Scripts that tests start in processes of their own, to be killed there, import this file, too. Nothing here loads torch
before a test asks for it.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from joint_detnas.presets import PRESETS, SMOKE, Options, Phase, Preset
from tests.repeatable import steady_latency


@pytest.fixture
def student_of():
    """(family, kind of norm, settings of the pyramid) -> a thin Faster R-CNN on a described backbone."""
    from common.models.described import as_described
    from tests.common.models.families import thin_detector

    return lambda *arguments, **settings: as_described(thin_detector(*arguments, **settings))


@pytest.fixture
def batch():
    """Two images of 64 x 64 pixels with objects."""
    from tests.common.models.families import make_batch

    return make_batch()


@pytest.fixture
def images(batch):
    """(2, 3, 64, 64)"""
    return batch.images


# ---- SMOKE a few times smaller, for all tests that train

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
    upgraded_backbones=("resnet18",),
    pruned_backbones=("resnet18",),
)


def tiny_options(out: Path, data: str = DATA, preset: Preset = TINY, workers: int = 0) -> Options:
    """Options of a study at the scale of the tests."""
    return Options(preset=preset, data=data, out=out, device="cpu", workers=workers)


@pytest.fixture
def tiny(monkeypatch) -> Preset:
    """TINY, which the commands take for smoke; latencies are made up, and runs have no pages."""
    from common import study

    monkeypatch.setitem(PRESETS, "smoke", TINY)
    monkeypatch.setattr(Options, "SHOWS_RUNS", False)
    monkeypatch.setattr(study, "measure_latency", steady_latency)
    return TINY


@pytest.fixture(scope="session")
def searched(tmp_path_factory) -> Path:
    """A folder for the runs of TINY's seed 0, which several modules search: whoever comes first trains."""
    return tmp_path_factory.mktemp("searched")
