"""The cost table against networks built and counted one by one."""

import dataclasses
import time

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from common import cost_table
from common.cost_table import CostTable
from common.models.ofa_resnet import OFAResNetSpace, ResNet

PAPER = OFAResNetSpace(elastic_stem=True)
TINY = OFAResNetSpace((1, 1, 2, 1), stage_widths=(16, 24, 32, 48), stem_width=16, channel_multiple=4)
THIN = dataclasses.replace(TINY, stage_strides=(1, 2, 1, 1))


def _counted(space, path, size):
    with torch.device("meta"):
        net, images = ResNet(space, path).eval(), torch.empty(1, 3, *size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(images)
    return counter.get_total_flops() // 2, sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize("space", [PAPER, TINY, THIN])
@pytest.mark.parametrize("largest_table", [cost_table.LARGEST_TABLE, 1])
def test_equals_counting_each_network(space, largest_table, monkeypatch, device):
    monkeypatch.setattr(cost_table, "LARGEST_TABLE", largest_table)
    size = (224, 168)
    paths = np.stack([*space.sample(4, np.random.default_rng(0)), space.smallest(), space.largest()])
    counted = np.array([_counted(space, path, size) for path in paths])
    macs, params = CostTable.macs(space, size), CostTable.params(space)
    assert macs(paths).dtype == np.int64
    assert (macs(paths) == counted[:, 0]).all()
    assert (params(paths) == counted[:, 1]).all()
    assert macs(torch.from_numpy(paths).to(device)).tolist() == counted[:, 0].tolist()


def test_the_papers_range():
    """FACTS: 7.49 G at most, 0.96 G at least at 224; 22.0 / 2.8 at 384; 39.1 / 5.0 at 512 (the stem elastic)."""
    ends = np.stack([PAPER.largest(), PAPER.smallest()])
    for size, expected in [(224, (7.49, 0.96)), (512, (39.13, 5.02))]:
        assert np.round(CostTable.macs(PAPER, size)(ends) / 1e9, 2).tolist() == list(expected)
    paths = PAPER.sample(5000, np.random.default_rng(0))
    costs = CostTable.macs(PAPER, 224)(paths)
    low, high = sorted(CostTable.macs(PAPER, 224)(ends))
    assert low < costs.min()
    assert costs.max() < high


def test_indices_of_dropped_layers_do_not_matter_and_blocks_join():
    table = CostTable.params(TINY)
    generator = np.random.default_rng(1)
    paths = TINY.sample(cost_table.PATHS_AT_ONCE + 5, generator)
    noisy = paths.copy()
    dropped = ~TINY.active_layers(paths)
    noisy[:, TINY.expand_columns][dropped] = generator.integers(0, 3, dropped.sum())
    assert (table(noisy) == table(paths)).all()
    assert (table(paths[-3:]) == table(paths)[-3:]).all()
    assert len(table(paths[:0])) == 0


def test_head_is_added_by_the_last_width():
    head = {TINY.stage_width(3, width): 1000 * (width + 1) for width in range(3)}
    paths = TINY.sample(50, np.random.default_rng(2))
    extra = CostTable.macs(TINY, 64, head=head.get)(paths) - CostTable.macs(TINY, 64)(paths)
    assert (extra == 1000 * (paths[:, TINY.width_columns][:, -1].astype(int) + 1)).all()


def test_measured_sums_what_is_measured():
    shapes = []

    def measure(module, shape):
        shapes.append(shape)
        assert next(module.parameters()).device.type == "cpu"
        assert not module.training
        return module(torch.zeros(1, *shape)).shape[1] / 8

    table = CostTable.measured(TINY, measure, 64)
    path = TINY.sample(1, np.random.default_rng(3))[0]
    architecture = TINY.architecture(path)
    blocks = sum(
        width * len(middles)
        for width, middles in zip(architecture.stage_widths, architecture.middle_widths, strict=True)
    )
    assert table(path[None]).dtype == np.float64
    assert table(path[None])[0] == pytest.approx((blocks + architecture.stem_width) / 8)
    assert {shape[1] for shape in shapes} == {64, 16, 8, 4, 2}


def test_speed():
    """The goal is 5 million paths a second; a quarter of it still passes, so that a busy machine does not fail."""
    table, paths = CostTable.params(PAPER), PAPER.sample(200_000, np.random.default_rng(4))
    table(paths)
    start = time.perf_counter()
    table(paths)
    assert len(paths) / (time.perf_counter() - start) > 1.25e6
