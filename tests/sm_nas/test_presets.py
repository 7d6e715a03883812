"""The scales: what the paper prints stands in `paper`, number by number; the small ones keep its proportions."""

from dataclasses import asdict, replace

import pytest
import torch

from common.cli import parse
from common.data.scenes import scenes
from common.data.source import SCENES_DEFAULTS
from common.data.splits import SEARCH_SHARE
from common.models.anchors import unreached
from common.models.rpn import MATCH
from common.plain import InputError, from_json, to_json
from sm_nas.encoding import BackboneCode, Structure
from sm_nas.method import ModularSpace, StructuralSpace
from sm_nas.networks import anchors
from sm_nas.presets import MINI, NANO, PAPER, PRESETS, SMOKE, Options, Preset, SearchOptions

SGD = {"optimiser": "sgd", "momentum": 0.9, "nesterov": False, "weight_decay": 1e-4, "clip_norm": 35.0, "decay": 0.1}


def settings_of(optimisation) -> dict:
    """Its fields, but for those that Optimisation leaves at their defaults for all of them."""
    kept = (*SGD, "epochs", "learning_rate", "policy", "milestones", "final_share", "warmup_epochs")
    return {name: value for name, value in asdict(optimisation).items() if name in kept}


def cosine(epochs: int, learning_rate: float) -> dict:
    """From the learning rate down to .0001, as both searches are trained."""
    rest = {"policy": "cosine", "milestones": (), "final_share": pytest.approx(1e-4 / learning_rate)}
    return SGD | rest | {"epochs": epochs, "learning_rate": learning_rate, "warmup_epochs": 0.3}


def steps(epochs: int, learning_rate: float, milestones: tuple[float, ...]) -> dict:
    """A tenth of the learning rate twice, as He, Girshick and Dollar train."""
    rest = {"policy": "multistep", "milestones": milestones, "final_share": 0.0, "warmup_epochs": 0.3}
    return SGD | rest | {"epochs": epochs, "learning_rate": pytest.approx(learning_rate)}


def test_the_papers_spaces():
    assert PAPER.structural == StructuralSpace(
        backbones=(
            *("resnet18", "resnet34", "resnet50", "resnet101"),
            *("resnext50_32x4d", "resnext101_32x4d", "mobilenet_v2"),
        ),
        sizes=((512, 512), (800, 600), (1080, 720), (1333, 800)),
        first_levels=(1, 2, 3, 4),
        last_level=6,
        neck_widths=(128, 256, 512),
        cascades=(1, 2, 3, 4),
    )
    assert PAPER.modular == ModularSpace(
        bases=(48, 56, 64, 72),
        standard_base=64,
        neck_widths=(128, 256, 512),
        fewest_blocks=5,
        most_blocks=35,
        base_probability=0.5,
        neck_probability=0.25,
        operations=3,
        flops_bounds=(0.5, 1.5),
    )
    assert (PAPER.structural.count(), PAPER.structural.networks(), PAPER.modular.count()) == (
        10_836,
        10_620,
        2_489_008_848,
    )


def test_the_papers_searches():
    one, two = PAPER.stage_one, PAPER.stage_two
    assert (one.budget, one.first, one.generation, one.fresh) == (500, 60, 16, 0.0)
    assert (two.budget, two.first, two.generation, two.fresh, two.pruning, two.order) == (
        300,
        40,
        16,
        0.2,
        True,
        "stage",
    )
    assert PAPER.groups == 6


def test_the_papers_trainings():
    one, two, final = PAPER.stage_one_training, PAPER.stage_two_training, PAPER.final_training
    strategies = [(each.norm, each.pretrained, each.images_a_device, each.devices) for each in (one, two, final)]
    assert strategies == [("batch", True, 4, 8), ("group-ws", False, 8, 8), ("batch", True, 4, 8)]
    for preset in (MINI, PAPER):
        every = (preset.stage_one_training, preset.stage_two_training, preset.final_training, *preset.strategies)
        assert [each.frozen_stages for each in every] == [1 if each.pretrained else None for each in every]
        assert [each.zero_init for each in every] == [each.pretrained for each in every], "from scratch it is off"
    assert settings_of(one.optimisation) == cosine(5, 0.04)
    assert settings_of(two.optimisation) == cosine(9, 0.24)
    assert settings_of(final.optimisation) == steps(24, 0.04, (16.0, 22.0))
    classification = settings_of(PAPER.classification)
    expected = {"final_share": 0.0, "clip_norm": None}
    assert classification == cosine(90, 0.1) | expected


def test_the_papers_table_3():
    rows = [(row.norm, row.pretrained, row.images_a_device, row.devices, row.batch_size) for row in PAPER.strategies]
    assert rows == [
        ("batch", True, 2, 8, 16),
        ("batch", True, 2, 8, 16),
        ("batch", False, 2, 8, 16),
        ("batch", False, 8, 8, 64),
        ("group", False, 2, 8, 16),
        ("group-ws", False, 2, 8, 16),
        ("group-ws", False, 2, 8, 16),
        ("group-ws", False, 4, 8, 32),
    ]
    half = (8.0, 11.0)
    assert [settings_of(row.optimisation) for row in PAPER.strategies] == [
        steps(12, 0.02, half),
        steps(24, 0.02, (16.0, 22.0)),
        steps(12, 0.02, half),
        steps(12, 0.20, half),
        steps(12, 0.02, half),
        steps(12, 0.02, half),
        steps(12, 0.10, half),
        steps(16, 0.16, (10.67, 14.67)),
    ]
    assert str(PAPER.strategy_model) == "resnet50 1333x800 P1-P5 c256 rpn 2fc"


def test_the_papers_detectors():
    assert {name: str(structure) for name, structure in (*PAPER.models, *PAPER.classics)} == {
        "E0": "basicblock_64_1-21-21-12 512x512 P2-P5 c128 rpn 2fc",
        "E1": "basicblock_48_12-21-11111-211111 800x600 P2-P5 c256+conv rpn 2fc",
        "E2": "basicblock_56_12-11111-211-1112 800x600 P1-P5 c128 rpn cascade3",
        "E3": "bottleneck_56_211-111111111-2111111-11112111 800x600 P1-P5 c128 rpn cascade3",
        "E4": "Xbottleneck_56_21-21-111111111111111-2111111 800x600 P1-P5 c256+conv ga-rpn cascade3",
        "E5": "Xbottleneck_56_21-21-111111111111111-2111111 1333x800 P1-P5 c256+conv ga-rpn cascade3",
        "FPN R50": "resnet50 800x600 P1-P5 c256 rpn 2fc",
        "RetinaNet R50": "resnet50 800x600 P2-P6 c256 retinanet",
        "Cascade R50": "resnet50 800x600 P1-P5 c256 rpn cascade3",
        "FPN R101": "resnet101 1333x800 P1-P5 c256 rpn 2fc",
        "RetinaNet R101": "resnet101 1333x800 P2-P6 c256 retinanet",
        "Cascade R101": "resnet101 1333x800 P1-P5 c256 rpn cascade3",
        "GA-FPN R50": "resnet50 1333x800 P1-P5 c256 ga-rpn 2fc",
    }
    assert asdict(PAPER.detector) == {
        "width": 64,
        "anchor_scale": 8.0,
        "hidden": 1024,
        "canonical_side": 224.0,
        "rpn_samples": 256,
        "region_samples": 512,
        "candidates": (2000, 1000),
        "proposals": (2000, 1000),
        "region_candidates": 2000,
        "retinanet_depth": 4,
        "retinanet_deviation": 0.01,
        "retinanet_rate": 1.0,
        "norm_groups": 32,
        "guided_proposals": 300,
        "spanning_anchors": True,
    }


def test_the_papers_data():
    assert (PAPER.train_images, PAPER.validation_images, PAPER.search_images, PAPER.crops) == (None, None, 2000, None)
    assert (PAPER.imagenet, PAPER.crop_size, PAPER.crop_batch_size, PAPER.evaluation_batch_size) == (True, 128, 256, 8)
    timing = (PAPER.latency_images, PAPER.latency_warmup, PAPER.latency_pause, PAPER.latency_rounds)
    assert timing == (200, 20, 0.01, 9)
    assert asdict(PAPER.augmentation) == {
        "flip": 0.5,
        "scale_min": 0.8,
        "scale_max": 1.25,
        "shift": 0.1,
        "jitter": 0.0,
    }


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_searched_models_lie_in_the_spaces_of_their_scale(preset):
    assert [model for model, _ in preset.models] == [f"E{number}" for number in range(6)]
    for _, structure in preset.models:
        code = BackboneCode.parse(structure.backbone)
        assert code.base in preset.modular.bases
        assert structure.neck_width in preset.modular.neck_widths
    assert preset.modular.standard_base in preset.modular.bases


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_nearly_every_object_has_an_anchor_in_every_structure(preset):
    """Of Scenes at the preset's sizes, an RPN's and those by which guided anchoring learns shapes.

    RetinaNet's best anchors are positive at any overlap.
    """
    objects, space = scenes("train", 150), preset.structural
    structures = {Structure("resnet18", size, *neck, "rpn", 1) for size in space.sizes for neck in space.necks}
    named = (*preset.models, *preset.classics, ("", preset.strategy_model))
    structures |= {replace(each, backbone="resnet18") for _, each in named if each.rpn}
    for structure in structures:
        first, last = structure.levels or (3, 3)
        boxes = torch.from_numpy(objects.boxes) * min(structure.size) / int(objects.sizes[0, 0])
        for count in (1, 3):
            of_levels, strides = (
                anchors(structure, preset.detector, count),
                [2 ** (n + 1) for n in range(first, last + 1)],
            )
            left = unreached(boxes, of_levels, strides, structure.input_size, MATCH.least_of_best)
            assert left.float().mean() <= 0.05, structure


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_table_3_keeps_the_papers_ratios(preset):
    rows = preset.strategies
    assert [row.norm for row in rows] == ["batch"] * 4 + ["group"] + ["group-ws"] * 3
    assert [row.pretrained for row in rows] == [True, True] + [False] * 6
    rates = [row.optimisation.learning_rate / rows[0].optimisation.learning_rate for row in rows]
    assert rates == pytest.approx([1, 1, 1, 10, 1, 1, 5, 8])
    assert [row.images_a_device for row in rows] == [2, 2, 2, 8, 2, 2, 2, 4]
    assert rows[1].optimisation.epochs == 2 * rows[0].optimisation.epochs


def test_nano_keeps_the_papers_shares():
    """A candidate of stage one is trained for a part of the final schedule, as small a part as the paper's at most."""
    for preset in (NANO, PAPER):
        short, final = preset.stage_one_training, preset.final_training
        assert 0.2 < short.optimisation.epochs / final.optimisation.epochs < 0.32
        assert short.optimisation.learning_rate == final.optimisation.learning_rate
        assert short.batch_size == final.batch_size
    assert (NANO.structural.count(), NANO.structural.networks()) == (5_103, 4_941)
    assert NANO.pretraining_data.startswith("scenes:seed=1,"), "another draw"


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_a_preset_comes_back_from_a_run_s_config(preset):
    assert from_json(Preset, to_json(preset)) == preset


@pytest.mark.parametrize("preset", [SMOKE, NANO, MINI], ids=lambda preset: preset.name)
def test_the_scenes_are_many_enough_for_all_held_out_images_of_a_scale(preset):
    assert preset.search_images <= SEARCH_SHARE * SCENES_DEFAULTS["train"]
    assert (preset.train_images or 0) + preset.search_images <= SCENES_DEFAULTS["train"]
    assert (preset.validation_images or 0) <= SCENES_DEFAULTS["val"]


def test_every_setting_is_a_flag():
    words = "--scale nano --preset.groups 3 --preset.models.0.1.heads 2 --preset.strategies.7.optimisation.epochs 9"
    options = parse(Options, words.split())
    changed = {"groups": 3, "models.0.1.heads": 2, "strategies.7.optimisation.epochs": 9}
    assert options.changed == changed
    assert options.preset.stage_one == NANO.stage_one
    with pytest.raises(InputError, match="groups must be at least 1"):
        parse(Options, ["--preset.groups", "0"])
    for names in (["FPN R101"], ["FPN R50", "YOLO"]):
        with pytest.raises(InputError, match=r"transfer_baselines must be FPN R50 and others of E0, .*, got FPN R"):
            parse(Options, ["--preset.transfer-baselines", *names])
    with pytest.raises(InputError, match="--workers must be at least 0, got -1"):
        parse(SearchOptions, ["--workers", "-1"])
    assert parse(SearchOptions, []).preset == SMOKE
