"""The settings of the paper's scale one by one, the spaces' sizes, and what settings cannot be; no torch."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from common.cli import parse
from common.plain import InputError, from_json, to_json
from joint_detnas.presets import (
    BACKBONES,
    PAPER,
    PRESETS,
    Options,
    Preset,
    Teacher,
    check_backbone,
    size_name,
)

ROOT = Path(__file__).resolve().parents[2]
SGD = {
    "optimiser": "sgd",
    "weight_decay": 1e-4,
    "momentum": 0.9,
    "nesterov": False,
    "policy": "cosine",
    "milestones": [],
    "decay": 0.1,
    "final_share": 0.0,
    "warmup_epochs": 0.3,
    "warmup_start": 0.001,
    "clip_norm": 35.0,
    "no_decay_on_norm": False,
}
ALL_ACTIONS = {
    "kinds": ["layer pruning", "channel pruning", "add-layer", "rearrange"],
    "percentage": 10.0,
    "fewest_channels": 4,
    "tied": "mean",
    "gamma_weight": 1e-5,
}
DISTILLATION = {"feature_weight": 1.0, "class_weight": 1.0, "box_weight": 1.0, "relative_features": False}
SEARCH = {"budget": 100, "k": 5, "student_probability": 0.5, "teacher": "dynamic", "generation": 8}
SEARCH |= {"alpha": 0.07, "beta": 1.0, "morphism": ALL_ACTIONS}
PUBLISHED = {
    "name": "paper",
    "backbone": "resnet101",
    "sizes": [[512, 512], [800, 600], [1080, 720], [1333, 800]],
    "base_size": [1333, 800],
    "detector": {
        "width": 64,
        "neck_width": 256,
        "anchor_scale": 8.0,
        "hidden": 1024,
        "canonical_side": 224.0,
        "rpn_samples": 256,
        "region_samples": 512,
        "candidates": [2000, 1000],
        "proposals": [2000, 1000],
        "region_candidates": 2000,
    },
    "teachers": {
        "depths": [[2, 3], [2, 4], [2, 23], [2, 3]],
        "widths": [1.0, 1.25, 1.5],
        "width": 64,
        "neck_width": 256,
        "channel_multiple": 8,
    },
    "train_images": None,
    "search_images": 2000,
    "validation_images": None,
    "evaluation_batch_size": 8,
    "calibration_images": 16,
    "augmentation": {"flip": 0.5, "scale_min": 0.8, "scale_max": 1.25, "jitter": 0.0, "shift": 0.1},
    "latency_images": 200,
    "latency_warmup": 20,
    "latency_pause": 0.01,
    "imagenet": True,
    "crop_size": 128,
    "crop_batch_size": 256,
    "crops": None,
    "classification": SGD | {"epochs": 90, "learning_rate": 0.1, "clip_norm": None},
    "batch_size": 16,
    "base_training": SGD | {"epochs": 24, "learning_rate": 0.02, "policy": "multistep", "milestones": [16.0, 22.0]},
    "shrinking": {
        "phases": [
            {"name": "full", "epochs": 24, "steps_down": 0, "learning_rate_share": 1.0},
            {"name": "one-step", "epochs": 12, "steps_down": 1, "learning_rate_share": 1.0},
            {"name": "all", "epochs": 24, "steps_down": None, "learning_rate_share": 1.0},
        ],
        "optimisation": SGD | {"epochs": 24, "learning_rate": 0.02},
        "networks_a_step": 2,
        "distillation": DISTILLATION,
    },
    "pair_training": SGD | {"epochs": 3, "learning_rate": 0.01},
    "distillation": DISTILLATION,
    "search": SEARCH,
    "teaching": SEARCH | {"budget": 30, "student_probability": 0.0, "generation": 1},
    "equivalents": [
        ["R26", {"depths": [2, 2, 2, 2], "widths": [1.0, 1.0, 1.0, 1.0], "neck": 1.0}],
        ["R50", {"depths": [3, 4, 6, 3], "widths": [1.0, 1.0, 1.0, 1.0], "neck": 1.0}],
        ["R101", {"depths": [3, 4, 23, 3], "widths": [1.0, 1.0, 1.0, 1.0], "neck": 1.0}],
    ],
    "lessons": [["resnet18", "R50"], ["resnet50", "R101"]],
    "pruned_backbones": ["resnet50", "resnet101"],
    "upgraded_backbones": ["resnet18", "resnet50", "resnet101", "resnext101_32x4d"],
    "taught_backbones": ["resnet18", "resnet50", "resnet101"],
    "cascade": {
        "optimisation": SGD
        | {"epochs": 16, "learning_rate": 0.01, "policy": "multistep", "milestones": [10.67, 14.67]},
        "deformable_strides": [8, 16, 32],
        "heads": 3,
    },
    "cascaded_backbones": ["resnext101_32x4d"],
}


def test_the_papers_scale_has_the_published_settings():
    here = to_json(PAPER)
    assert here.keys() == PUBLISHED.keys()
    assert {name: here[name] for name in here if here[name] != PUBLISHED[name]} == {}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_itself_again_from_its_json(name):
    assert from_json(Preset, to_json(PRESETS[name])) == PRESETS[name]


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_what_exhibits_name_is_there(preset):
    names = dict(preset.equivalents)
    assert all(preset.teachers.places_of(teacher) for teacher in names.values())
    assert {teacher for _, teacher in preset.lessons} <= names.keys()
    assert preset.base_size in preset.sizes
    assert preset.backbone in preset.upgraded_backbones
    assert preset.backbone in preset.taught_backbones
    assert set(preset.cascaded_backbones) <= set(preset.upgraded_backbones)
    named = {*preset.pruned_backbones, *preset.upgraded_backbones, *preset.taught_backbones}
    assert {*named, *(backbone for backbone, _ in preset.lessons)} <= set(BACKBONES)


def test_every_setting_is_a_flag():
    flags = ["--scale", "nano", "--preset.search.budget", "40", "--preset.detector.width", "8", "--workers", "2"]
    options = parse(Options, flags)
    nano = PRESETS["nano"]
    expected = replace(nano, search=replace(nano.search, budget=40), detector=replace(nano.detector, width=8))
    assert (options.preset, options.workers) == (expected, 2)
    assert options.changed == {"search.budget": 40, "detector.width": 8}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: Options(workers=-1), "--workers must be at least 0, got -1"),
        (lambda: check_backbone("resnet9"), "no backbone is called 'resnet9': give one of resnet18"),
        (lambda: Teacher.parse("d1"), "'d1' is no teacher"),
    ],
)
def test_what_cannot_be_is_one_sentence(wrong, said):
    with pytest.raises(InputError, match=said):
        wrong()
    check_backbone(None)
    assert size_name((64, 32)) == "64x32"


@pytest.mark.parametrize("module", ["exhibits", "presets", "reproduce", "search", "train"])
def test_flags_and_tables_need_no_torch(module):
    command = f"import sys, joint_detnas.{module}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
