"""The four scales: complete, equal in what is compared, and the paper's numbers where it prints them."""

import dataclasses
import json
from math import prod
from pathlib import Path

import pytest

from common.models.centernet import SIDE_MULTIPLE, CenterNet
from common.models.ofa_resnet import OFAResNet, OFAResNetSpace
from common.plain import InputError, to_json
from detofa import presets
from detofa.presets import PRESETS, preset

ALL = pytest.mark.parametrize("scale", list(PRESETS.values()), ids=list(PRESETS))


def test_scales_by_name():
    assert list(PRESETS) == ["smoke", "nano", "mini", "paper"]
    for name, scale in PRESETS.items():
        assert preset(name) is scale
        assert scale.name == name
    with pytest.raises(InputError, match=r"unknown scale 'huge': give one of smoke, nano, mini, paper"):
        preset("huge")


@ALL
def test_a_scale_is_frozen_and_goes_into_json(scale):
    with pytest.raises(dataclasses.FrozenInstanceError):
        scale.name = "other"
    record = json.loads(json.dumps(to_json(dataclasses.asdict(scale))))
    assert OFAResNetSpace.from_dict(record["space"]) == scale.space


@ALL
def test_images_neck_and_backbone_fit(scale):
    """Maps at stride 4, as CenterNet's, on every scale."""
    assert scale.image_size % SIDE_MULTIPLE == 0
    assert 4 * prod(scale.space.stage_strides) // 2 ** len(scale.neck_widths) == 4
    if scale.name in ("smoke", "nano"):
        assert CenterNet(OFAResNet(scale.space), 12, scale.neck_widths, scale.head_width, elastic=True).stride == 4


@ALL
def test_shrinking_takes_three_times_the_epochs(scale):
    """Table 3: progressive shrinking, the full net before it included, costs three times one method's training."""
    own = scale.warm_up.epochs + scale.fine_tuning.epochs
    assert own + sum(phase.epochs for phase in scale.shrinking.phases) == 3 * own
    assert [phase.elastic for phase in scale.shrinking.phases] == [
        ("depth",),
        ("depth", "expand"),
        ("depth", "expand", "width"),
    ]
    assert len({phase.name for phase in scale.shrinking.phases}) == 3
    assert all(0 < share < 1 for share in scale.shrinking.optimisation.milestones)


@ALL
def test_milestones_lie_inside_the_training(scale):
    for optimisation in (scale.classification, scale.warm_up, scale.fine_tuning):
        assert all(0 < milestone < optimisation.epochs for milestone in optimisation.milestones)


@ALL
def test_every_setting_has_its_sentence(scale):
    """A field without its own docstring would be one without help."""
    source = Path(presets.__file__).read_text()
    for field in dataclasses.fields(scale):
        after = source.split(f"    {field.name}: ", 1)[1].split("\n", 2)[1]
        assert after.strip().startswith('"""'), field.name
    assert 0 < min(scale.budget_shares) <= max(scale.budget_shares) <= 1
    assert list(scale.budget_shares) == sorted(scale.budget_shares)


def test_the_paper_scale_is_the_papers():
    """Section 4.1 and FACTS section 5."""
    paper = preset("paper")
    assert paper.space == OFAResNetSpace()
    assert paper.neck_widths == (256, 256, 256)
    assert (paper.warm_up.epochs, paper.warm_up.epochs + paper.fine_tuning.epochs) == (5, 70)
    assert [paper.warm_up.epochs + milestone for milestone in paper.fine_tuning.milestones] == [45, 60]
    assert (paper.fine_tuning.optimiser, paper.fine_tuning.learning_rate, paper.batch_size) == ("adam", 1.25e-4, 32)
    assert (paper.pretraining_paths, paper.fine_tuning_paths, paper.calibration_images) == (2000, 100, 2000)
    path_filter = paper.path_filter
    assert (path_filter.dimensions, path_filter.layers, path_filter.heads) == (128, 3, 4)
    assert (paper.evolution.population, paper.evolution.generations) == (100, 500)
    assert (paper.evolution.mutation_probability, paper.evolution.parent_share) == (0.1, 0.25)


def test_larger_scales_are_larger():
    scales = list(PRESETS.values())
    assert [s.image_size for s in scales] == sorted(s.image_size for s in scales)
    assert [s.classification.epochs for s in scales] == sorted(s.classification.epochs for s in scales)
    assert [s.pretraining_paths for s in scales] == sorted(s.pretraining_paths for s in scales)
