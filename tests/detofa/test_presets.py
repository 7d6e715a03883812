"""The four scales: complete, equal in what is compared, and the paper's numbers where it prints them."""

import dataclasses
import json
from math import prod
from pathlib import Path

import pytest

from common.cli import command, parse
from common.plain import from_json, to_json
from common.settings import Optimisation
from detofa import presets
from detofa.presets import NANO, PAPER, PRESETS, VARIANTS, Options, Phase, Preset, PruningSettings
from detofa.space import EvolutionSettings, OFAResNetSpace

ALL = pytest.mark.parametrize("scale", list(PRESETS.values()), ids=list(PRESETS))
PUBLISHED_ADAM = Optimisation(epochs=5, optimiser="adam", learning_rate=1.25e-4, policy="constant")


def test_scales_by_name():
    assert list(PRESETS) == ["smoke", "nano", "mini", "paper"]
    assert [scale.name for scale in PRESETS.values()] == list(PRESETS)


@ALL
def test_a_scale_is_frozen_and_comes_back_from_json(scale):
    with pytest.raises(dataclasses.FrozenInstanceError):
        scale.name = "other"
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
    assert [(phase.name, phase.elastic, phase.learning_rate_share) for phase in scale.shrinking.phases] == [
        ("depth", ("depth",), 1.0),
        ("expand", ("depth", "expand"), 1.0),
        ("width", ("depth", "expand", "width"), 1.0),
    ]
    assert (scale.shrinking.networks_a_step, scale.shrinking.distillation_weight) == (1, 1.0)
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
    for kind in (Preset, presets.FilterSettings, PruningSettings, presets.ShrinkingSettings, Phase, presets.Variant):
        for field in dataclasses.fields(kind):
            if field.name in kind.__annotations__:
                after = source.split(f"    {field.name}: ", 1)[1].split("\n", 2)[1]
                assert after.strip().startswith('"""'), field.name


PUBLISHED = {  # Sections 3.1.1, 3.2 and 4.1, Table 1; what the paper leaves open has no line here
    "space": OFAResNetSpace(
        base_depths=(2, 2, 4, 2),
        depths=(0, 1, 2),
        widths=(0.65, 0.8, 1.0),
        expands=(0.2, 0.25, 0.35),
        stage_widths=(256, 512, 1024, 2048),
        stem_width=64,
        stage_strides=(1, 2, 2, 2),
        channel_multiple=8,
        elastic_stem=False,
    ),
    "neck_widths": (256, 256, 256),
    "head_width": 64,
    "image_size": 384,
    "train_images": None,
    "validation_images": None,
    "batch_size": 32,
    "warm_up": PUBLISHED_ADAM,
    "fine_tuning": dataclasses.replace(PUBLISHED_ADAM, epochs=65, policy="multistep", milestones=(40.0, 55.0)),
    "pretraining_paths": 2000,
    "fine_tuning_paths": 100,
    "budget_shares": (0.2, 0.4, 0.6, 0.8, 1.0),
    "figure6_paths": 15,
    "evolution": EvolutionSettings(
        population=100, generations=500, mutation_probability=0.1, parent_share=0.25, mutation_share=0.5
    ),
}
OURS = {  # what the paper leaves open, at its scale
    "search_images": 2000,
    "calibration_images": 2000,
    "proxy_calibration_images": 512,
    "evaluation_batch_size": 64,
    "zero_init_last": True,
    "crop_size": 128,
    "crop_batch_size": 256,
    "crops": None,
    "classification": Optimisation(epochs=90, optimiser="adam", learning_rate=1e-3, policy="cosine"),
    "search_paths": 100,
    "operation_samples": 100,
    "filter_folds": 5,
}


@pytest.mark.parametrize("field", [*PUBLISHED, *OURS])
def test_the_paper_scale_is_the_papers(field):
    assert getattr(PAPER, field) == (PUBLISHED | OURS)[field]


def test_the_paper_scales_path_filter_and_shrinking():
    path_filter = PAPER.path_filter
    assert (path_filter.dimensions, path_filter.layers, path_filter.heads, path_filter.batch_size) == (128, 3, 4, 128)
    assert (path_filter.budget_condition, path_filter.block_position, path_filter.bounded_loss) == (True, True, True)
    assert (path_filter.pretraining.epochs, path_filter.pretraining.learning_rate) == (60, 1e-3)
    assert (path_filter.fine_tuning.epochs, path_filter.fine_tuning.learning_rate) == (60, 3e-4)
    assert [phase.epochs for phase in PAPER.shrinking.phases] == [28, 42, 70]
    optimisation = PAPER.shrinking.optimisation
    assert (optimisation.optimiser, optimisation.learning_rate, optimisation.policy) == ("adam", 1.25e-4, "multistep")
    assert optimisation.milestones == (45 / 70, 60 / 70)


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
    assert list(own) == ["ofa-shrinking", "compofa", "fullnet", "ofa-scratch"]
    assert [name for name, variant in VARIANTS.items() if not variant.transfer] == ["ofa-scratch"]
    for flag, name in {"shrinking": "ofa-shrinking", "coupled": "compofa", "full_net": "fullnet"}.items():
        assert [each for each, variant in VARIANTS.items() if getattr(variant, flag)] == [name]


def test_ablations_are_table_2s_rows():
    assert presets.ABLATIONS == {
        "unbounded": {"bounded_loss": False},
        "no-budget": {"budget_condition": False},
        "no-block": {"block_position": False},
        "ours": {},
    }


def test_larger_scales_are_larger():
    scales = list(PRESETS.values())
    assert [s.image_size for s in scales] == sorted(s.image_size for s in scales)
    assert [s.classification.epochs for s in scales] == sorted(s.classification.epochs for s in scales)
    assert [s.pretraining_paths for s in scales] == sorted(s.pretraining_paths for s in scales)


def test_any_field_of_a_scale_is_a_flag():
    arguments = ["--scale", "nano", "--preset.fine-tuning.epochs", "36", "--constraint", "params"]
    options = parse(Options, arguments)
    assert options.preset == dataclasses.replace(NANO, fine_tuning=dataclasses.replace(NANO.fine_tuning, epochs=36))
    assert options.changed == {"fine_tuning.epochs": 36}
    assert options.run_folder.startswith("scenes-nano-")
    assert parse(Options, ["--scale", "nano"]).run_folder == "scenes-nano"
    again = command("detofa.train", options)
    assert parse(Options, again.split()[3:]) == options
