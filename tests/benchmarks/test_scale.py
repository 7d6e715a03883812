"""What the published settings take is counted as it is said to be."""

import pytest

from benchmarks import scale
from common.cost import count
from detofa.presets import SMOKE, VARIANTS


def test_kinds_of_runs_and_what_exhibits_ask_for():
    kinds, exhibits = scale.detofa("smoke", 48, 300)
    assert set(kinds) == {"classification", "warm-up", *VARIANTS}
    assert all(set(asked) <= set(kinds) for asked in exhibits.values())
    from common.models.centernet import CenterNet
    from common.models.ofa_resnet import OFAResNet

    backbone = OFAResNet(SMOKE.space)
    supernet = CenterNet(backbone, scale.CLASSES, SMOKE.neck_widths, SMOKE.head_width, elastic=True)
    size = (SMOKE.image_size,) * 2
    whole = count(supernet.extract(SMOKE.space.largest()), size).macs
    epochs = SMOKE.warm_up.epochs + SMOKE.fine_tuning.epochs
    assert kinds["fullnet"].macs == pytest.approx(3 * whole * epochs * 48)
    assert kinds["fullnet"].images == epochs * 48
    assert kinds["fullnet"].macs < kinds["ofa-shrinking"].macs

    table = scale.tables(
        {"one": scale.Kind(36e17, 2, 1e6, 1e6), "two": scale.Kind(36e16, 1, 1e6, 1e6)}, {"x": ["one"]}, 1e12
    )
    assert "| one | 2 | 1 | 3.6 | 1,000 |" in table
    assert "| x | 1,000 | one |" in table
    assert "| all of them | 1,100 |" in table
