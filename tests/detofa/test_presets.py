"""The scales: complete, equal in what is compared, and the paper's numbers where it prints them."""

import dataclasses
import json
from math import prod
from operator import attrgetter
from pathlib import Path

import pytest

from common.cli import command, parse
from common.plain import InputError, from_json, to_json
from common.settings import Optimisation
from detofa import presets
from detofa.presets import (
    NANO,
    PAPER,
    PRESETS,
    VARIANTS,
    FilterSettings,
    Options,
    Phase,
    Preset,
    PruningSettings,
    ShrinkingSettings,
)
from detofa.space import EvolutionSettings, OFAResNetSpace

ALL = pytest.mark.parametrize("scale", list(PRESETS.values()), ids=list(PRESETS))
ADAM = Optimisation(epochs=5, optimiser="adam", learning_rate=1.25e-4, policy="constant")
COSINE = Optimisation(epochs=60, optimiser="adam", learning_rate=1e-3, policy="cosine")


@ALL
def test_a_scale_comes_back_from_json(scale):
    assert from_json(Preset, json.loads(json.dumps(to_json(scale)))) == scale


@ALL
def test_images_neck_and_backbone_fit(scale):
    """Maps at stride 4, as CenterNet's, on every scale."""
    assert scale.image_size % 32 == 0
    assert 4 * prod(scale.space.stage_strides) // 2 ** len(scale.neck_widths) == 4


@ALL
def test_shrinking_takes_three_times_the_epochs(scale):
    """Table 3: progressive shrinking, the full net before it included, costs three times one method's training."""
    own = scale.warm_up.epochs + scale.fine_tuning.epochs
    assert own + sum(phase.epochs for phase in scale.shrinking.phases) == 3 * own
    assert all(0 < share < 1 for share in scale.shrinking.optimisation.milestones)


@ALL
def test_milestones_lie_inside_the_training_and_budgets_inside_the_range(scale):
    for optimisation in (scale.classification, scale.warm_up, scale.fine_tuning):
        assert all(0 < milestone < optimisation.epochs for milestone in optimisation.milestones)
    assert 0 < min(scale.budget_shares) <= max(scale.budget_shares) <= 1
    assert list(scale.budget_shares) == sorted(scale.budget_shares)


def test_every_setting_has_its_sentence():
    """A field without its own docstring would be a flag without help."""
    source = Path(presets.__file__).read_text()
    for kind in (Preset, FilterSettings, PruningSettings, ShrinkingSettings, Phase, presets.Variant):
        for field in dataclasses.fields(kind):
            if field.name in kind.__annotations__:
                after = source.split(f"    {field.name}: ", 1)[1].split("\n", 2)[1]
                assert after.strip().startswith('"""'), field.name


def test_the_paper_scale_is_the_papers():
    """Sections 3.1.1, 3.2 and 4.1, Table 1; and what the paper leaves open, at its scale."""
    phases = zip(("depth", "expand", "width"), (28, 42, 70), strict=True)
    elastic = {"depth": ("depth",), "expand": ("depth", "expand"), "width": ("depth", "expand", "width")}
    published = {
        "space": OFAResNetSpace(
            *((2, 2, 4, 2), (0, 1, 2), (0.65, 0.8, 1.0), (0.2, 0.25, 0.35)),
            *((256, 512, 1024, 2048), 64, (1, 2, 2, 2), 8, False),
        ),
        "neck_widths": (256, 256, 256),
        "head_width": 64,
        "image_size": 384,
        "train_images": None,
        "validation_images": None,
        "batch_size": 32,
        "warm_up": ADAM,
        "fine_tuning": dataclasses.replace(ADAM, epochs=65, policy="multistep", milestones=(40.0, 55.0)),
        "shrinking": ShrinkingSettings(
            tuple(Phase(name, epochs, elastic=elastic[name]) for name, epochs in phases),
            dataclasses.replace(ADAM, epochs=1, policy="multistep", milestones=(45 / 70, 60 / 70)),
            networks_a_step=1,
            distillation_weight=1.0,
        ),
        "path_filter": FilterSettings(
            128, 3, 4, True, True, True, 128, COSINE, dataclasses.replace(COSINE, learning_rate=3e-4)
        ),
        "pretraining_paths": 2000,
        "fine_tuning_paths": 100,
        "budget_shares": (0.2, 0.4, 0.6, 0.8, 1.0),
        "figure6_paths": 15,
        "evolution": EvolutionSettings(100, 500, 0.1, 0.25, 0.5),
    }
    ours = {
        "search_images": 2000,
        "calibration_images": 2000,
        "proxy_calibration_images": 512,
        "evaluation_batch_size": 64,
        "zero_init_last": True,
        "crop_size": 128,
        "crop_batch_size": 256,
        "crops": None,
        "classification": dataclasses.replace(COSINE, epochs=90),
        "bucket_spacing": "equal",
        "operation_samples": 100,
        "filter_folds": 5,
    }
    expected = published | ours
    assert {name: getattr(PAPER, name) for name in expected} == expected


def test_coco_has_its_own_schedule():
    """Section 4.1: 10 + 60 epochs; CenterNet's size, and its drops at 90 and 120 of 140."""
    coco = PRESETS["paper-coco"]
    assert (coco.warm_up.epochs, coco.fine_tuning.epochs, coco.image_size) == (10, 60, 512)
    assert [(10 + drop) / 70 for drop in coco.fine_tuning.milestones] == [90 / 140, 120 / 140]
    same = dataclasses.replace(
        coco, **{name: getattr(PAPER, name) for name in ("name", "image_size", "warm_up", "fine_tuning")}
    )
    assert same == PAPER


@pytest.mark.parametrize(
    ("multiple", "twins"),
    [
        (8, r"expand ratios 0\.15 and 0\.25 of stage 1 at width 0\.5 both give 8 channels"),
        (64, r"widths 0\.5 and 0\.75 of stage 1 both give 64 channels"),
    ],
)
def test_a_space_that_holds_a_network_twice_is_refused(multiple, twins):
    with pytest.raises(InputError, match=twins):
        dataclasses.replace(NANO, space=dataclasses.replace(NANO.space, channel_multiple=multiple))
    assert all(scale.space.twins() is None for scale in PRESETS.values())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"crops": 1}, "crops must be at least 2, got 1"),
        ({"calibration_images": 0}, "calibration_images must be at least 1, got 0"),
        ({"proxy_calibration_images": 0}, "proxy_calibration_images must be at least 1, got 0"),
        ({"latency_images": 0}, "latency_images must be at least 1, got 0"),
        ({"operation_samples": 0}, "operation_samples must be at least 1, got 0"),
        ({"budget_shares": ()}, r"budget_shares must be one or more numbers from 0 to 1, got \(\)"),
        ({"budget_shares": (0.5, 2.0)}, r"from 0 to 1, got \(0.5, 2.0\)"),
        ({"filter_folds": 1}, "filter_folds must be at least 2, got 1"),
        ({"image_size": 60}, "image_size must be a multiple of 32, got 60"),
    ],
)
def test_settings_that_no_training_could_end_with_are_refused(wrong, said):
    with pytest.raises(InputError, match=said):
        dataclasses.replace(NANO, **wrong)


def test_variants_are_pruned_by_the_papers_ratios():
    """Section 4.2, Figures 8 and 9."""
    published = PruningSettings(operations="score_all", ratio_all=0.10, ratio_bucket=0.30, ratio_path=0.25)
    changes = {
        "ours": {},
        "operations-flops": {"operations": "flops", "ratio_path": 0.0},
        "operations-bucket": {"operations": "score_bucket", "ratio_path": 0.0},
        "operations-all": {"ratio_path": 0.0},
        "paths-score": {"operations": "none"},
        "operations-ratio-40": {"ratio_bucket": 0.4},
        "paths-ratio-40": {"ratio_path": 0.4},
    }
    pruned = {name: variant.pruning for name, variant in VARIANTS.items() if variant.pruning is not None}
    assert pruned == {name: dataclasses.replace(published, **change) for name, change in changes.items()}
    assert all(VARIANTS[name].shared_warm_up and VARIANTS[name].transfer for name in [*changes, "ofa"])
    own = {name: variant for name, variant in VARIANTS.items() if not variant.shared_warm_up}
    assert list(own) == ["ofa-shrinking", "compofa", "fullnet", "compofa-equal-cost", "ofa-scratch"]
    assert [name for name, variant in VARIANTS.items() if not variant.transfer] == ["ofa-scratch"]
    for name in ("ofa", "compofa"):
        longer = VARIANTS[f"{name}-equal-cost"]
        assert longer == dataclasses.replace(VARIANTS[name], title=longer.title, equal_cost_of=name)
    for flag, name in {"shrinking": "ofa-shrinking", "coupled": "compofa", "full_net": "fullnet"}.items():
        assert [each for each, v in VARIANTS.items() if getattr(v, flag) and not v.equal_cost_of] == [name]


def test_ablations_are_table_2s_rows():
    assert presets.ABLATIONS == {
        "unbounded": {"bounded_loss": False},
        "no-budget": {"budget_condition": False},
        "no-block": {"block_position": False},
        "ours": {},
    }


def test_larger_scales_are_larger():
    names = ["smoke", "nano", "photo", "mini", "paper", "paper-coco"]
    assert list(PRESETS) == [scale.name for scale in PRESETS.values()] == names
    for setting in ("image_size", "classification.epochs", "pretraining_paths"):
        values = [attrgetter(setting)(scale) for scale in PRESETS.values()]
        assert values == sorted(values)


def test_any_field_of_a_scale_is_a_flag():
    arguments = ["--scale", "nano", "--preset.fine-tuning.epochs", "36", "--constraint", "params"]
    options = parse(Options, arguments)
    assert options.preset == dataclasses.replace(NANO, fine_tuning=dataclasses.replace(NANO.fine_tuning, epochs=36))
    assert options.changed == {"fine_tuning.epochs": 36}
    assert options.run_folder.startswith("scenes-nano-")
    assert parse(Options, ["--scale", "nano"]).run_folder == "scenes-nano"
    again = command("detofa.train", options)
    assert parse(Options, again.split()[3:]) == options
