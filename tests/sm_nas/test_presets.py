"""The scales: what the paper prints stands in `paper`, and every detector of every scale can be built."""

import pytest

from common.models.outline import outline
from common.plain import InputError
from sm_nas.method import BackboneCode, ModularSpace
from sm_nas.networks import build_detector, input_size
from sm_nas.presets import PAPER, PRESETS, preset


def test_unknown_scale():
    with pytest.raises(InputError, match="smoke, nano, mini, paper"):
        preset("huge")


@pytest.mark.parametrize("name", PRESETS)
def test_every_named_detector_can_be_built(name):
    settings = preset(name)
    assert settings.name == name
    assert [model for model, _ in settings.models] == [f"E{number}" for number in range(6)]
    for _, structure in (*settings.models, *settings.classics, ("strategies", settings.strategy_model)):
        with outline():
            network = build_detector(structure, 3, settings.detector)
        assert all(side % 32 == 0 for side in input_size(structure))
        assert network.categories == 3


@pytest.mark.parametrize("name", PRESETS)
def test_searched_models_lie_in_the_spaces_of_their_scale(name):
    settings = preset(name)
    for _, structure in settings.models:
        code = BackboneCode.parse(structure.backbone)
        assert code.base in settings.modular.bases
        assert structure.neck_width in settings.modular.neck_widths
    assert settings.modular.standard_base in settings.modular.bases
    assert ModularSpace(settings.modular.bases).count() >= settings.modular.count()


@pytest.mark.parametrize("name", PRESETS)
def test_table_3_keeps_the_papers_ratios(name):
    rows = preset(name).strategies
    assert [row.norm for row in rows] == ["batch"] * 4 + ["group"] + ["group-ws"] * 3
    assert [row.pretrained for row in rows] == [True, True] + [False] * 6
    rates = [row.optimisation.learning_rate / rows[0].optimisation.learning_rate for row in rows]
    assert rates == pytest.approx([1, 1, 1, 10, 1, 1, 5, 8])
    assert [row.images_a_device for row in rows] == [2, 2, 2, 8, 2, 2, 2, 4]
    assert rows[1].optimisation.epochs == 2 * rows[0].optimisation.epochs


def test_the_paper_scale_is_the_papers():
    rows = PAPER.strategies
    assert [row.optimisation.epochs for row in rows] == [12, 24, 12, 12, 12, 12, 12, 16]
    assert [row.optimisation.learning_rate for row in rows] == pytest.approx(
        [0.02, 0.02, 0.02, 0.20, 0.02, 0.02, 0.10, 0.16]
    )
    assert [row.batch_size for row in rows] == [16, 16, 16, 64, 16, 16, 16, 32]
    one, two, final = PAPER.stage_one_training, PAPER.stage_two_training, PAPER.final_training
    assert (one.optimisation.epochs, one.optimisation.learning_rate) == (5, 0.04)
    assert (two.optimisation.epochs, two.optimisation.learning_rate, two.images_a_device) == (9, 0.24, 8)
    for strategy in (one, two):  # a cosine down to .0001
        assert strategy.optimisation.final_share * strategy.optimisation.learning_rate == pytest.approx(1e-4)
    assert (final.optimisation.epochs, final.optimisation.learning_rate, final.batch_size) == (24, 0.04, 32)
    assert final.optimisation.milestones == (16, 22)
    assert (PAPER.structural.count(), PAPER.modular.count()) == (10_836, 2_489_008_848)
    assert (PAPER.stage_one.budget, PAPER.stage_two.budget, PAPER.groups) == (500, 300, 6)
