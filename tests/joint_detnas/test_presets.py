"""The settings of the paper's scale one by one, the spaces' sizes, and what settings cannot be; no torch."""

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from common.cli import parse
from common.plain import InputError, from_json, to_json
from common.settings import Optimisation
from joint_detnas.presets import (
    BACKBONES,
    PAPER,
    PRESETS,
    CascadeSettings,
    MorphismSettings,
    Options,
    Preset,
    SearchSettings,
    Teacher,
    TeacherSpace,
    check_backbone,
)

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = """
{"name": "paper", "backbone": "resnet101", "base_size": [1333, 800],
 "sizes": [[512, 512], [800, 600], [1080, 720], [1333, 800]],
 "detector": {"width": 64, "neck_width": 256, "anchor_scale": 8.0, "hidden": 1024, "canonical_side": 224.0,
              "rpn_samples": 256, "region_samples": 512, "candidates": [2000, 1000], "proposals": [2000, 1000],
              "region_candidates": 2000},
 "teachers": {"depths": [[2, 3], [2, 4], [2, 23], [2, 3]], "widths": [1.0, 1.25, 1.5], "width": 64, "neck_width": 256,
              "channel_multiple": 8},
 "train_images": null, "search_images": 2000, "validation_images": null, "evaluation_batch_size": 8,
 "calibration_images": 16, "settling_images": 0, "batch_size": 16,
 "augmentation": {"flip": 0.5, "scale_min": 0.8, "scale_max": 1.25, "jitter": 0.0, "shift": 0.1},
 "latency_images": 200, "latency_warmup": 20, "latency_pause": 0.01, "latency_rounds": 9,
 "imagenet": true, "crop_size": 128, "crop_batch_size": 256, "crops": null, "pretraining_data": null,
 "classification": {"SGD": 90, "learning_rate": 0.1, "clip_norm": null},
 "base_training": {"SGD": 24, "learning_rate": 0.02, "policy": "multistep", "milestones": [16.0, 22.0]},
 "shrinking": {"phases": [{"name": "full", "epochs": 24, "steps_down": 0, "learning_rate_share": 1.0},
                          {"name": "one-step", "epochs": 12, "steps_down": 1, "learning_rate_share": 1.0},
                          {"name": "all", "epochs": 24, "steps_down": null, "learning_rate_share": 1.0}],
               "optimisation": {"SGD": 24, "learning_rate": 0.02}, "networks_a_step": 2, "distillation": "WEIGHTS"},
 "pair_training": {"SGD": 3, "learning_rate": 0.01}, "pair_trainings": [], "pair_orders": 3, "distillation": "WEIGHTS",
 "search": {"SEARCH": 100, "student_probability": null, "generation": 8},
 "teaching": {"SEARCH": 30, "student_probability": 0.0, "generation": 1},
 "equivalents": [["R26", {"depths": [2, 2, 2, 2], "widths": [1.0, 1.0, 1.0, 1.0], "neck": 1.0}],
                 ["R50", {"depths": [3, 4, 6, 3], "widths": [1.0, 1.0, 1.0, 1.0], "neck": 1.0}],
                 ["R101", {"depths": [3, 4, 23, 3], "widths": [1.0, 1.0, 1.0, 1.0], "neck": 1.0}]],
 "timed_equivalents": ["R50"],
 "lessons": [["resnet18", "R50"], ["resnet50", "R101"]], "pruned_backbones": ["resnet50", "resnet101"],
 "percentages": [0, 10, 20, 30], "pruning_training": {"SGD": 3, "learning_rate": 0.01}, "goal": 0.5,
 "penalised_base": true, "penalised_share": 0.25,
 "grid_teachers": [["8 blocks, 1 wide", {"depths": [2, 2, 2, 2], "widths": [1.0, 1.0, 1.0, 1.0], "neck": 1.0}],
                   ["16 blocks, 1 wide", {"depths": [3, 4, 6, 3], "widths": [1.0, 1.0, 1.0, 1.0], "neck": 1.0}],
                   ["33 blocks, 1 wide", {"depths": [3, 4, 23, 3], "widths": [1.0, 1.0, 1.0, 1.0], "neck": 1.0}],
                   ["8 blocks, 1.5 wide", {"depths": [2, 2, 2, 2], "widths": [1.5, 1.5, 1.5, 1.5], "neck": 1.5}],
                   ["16 blocks, 1.5 wide", {"depths": [3, 4, 6, 3], "widths": [1.5, 1.5, 1.5, 1.5], "neck": 1.5}],
                   ["33 blocks, 1.5 wide", {"depths": [3, 4, 23, 3], "widths": [1.5, 1.5, 1.5, 1.5], "neck": 1.5}]],
 "grid_training": {"SGD": 3, "learning_rate": 0.01},
 "upgraded_backbones": ["resnet18", "resnet50", "resnet101", "resnext101_32x4d"],
 "cascaded_backbones": ["resnext101_32x4d"],
 "cascade": {"optimisation": {"SGD": 16, "learning_rate": 0.01, "policy": "multistep", "milestones": [10.67, 14.67]},
             "deformable_strides": [8, 16, 32], "heads": 3}}
"""
WEIGHTS = {"feature_weight": 1.0, "class_weight": 1.0, "box_weight": 1.0, "relative_features": False}
WEIGHTS |= {"adapter": "least-squares"}
SHARED = """
{"SGD": {"optimiser": "sgd", "weight_decay": 1e-4, "momentum": 0.9, "nesterov": false, "policy": "cosine",
         "milestones": [], "decay": 0.1, "final_share": 0.0, "warmup_epochs": 0.3, "warmup_start": 0.001,
         "clip_norm": 35.0, "no_decay_on_norm": true},
 "SEARCH": {"k": 5, "listed": "best", "teacher": "dynamic", "mutation": "every-stage", "alpha": 0.07, "beta": 1.0,
            "morphism": {"kinds": ["layer pruning", "channel pruning", "add-layer", "rearrange"], "percentage": 10.0,
                         "percentage_of": "channels", "fewest_channels": 4, "tied": "mean", "layer_norm": "fan-in",
                         "new_gamma": 0.0, "inherit_moments": true, "gamma_weight": 1e-5}}}
"""


def written_out(settings: dict) -> dict:
    """With what is written once: SGD and its epochs, a search and its budget, weights of a distillation."""
    for name, key in (("SGD", "epochs"), ("SEARCH", "budget")):
        if name in settings:
            settings = json.loads(SHARED)[name] | {key: settings.pop(name)} | settings
    return {name: WEIGHTS if value == "WEIGHTS" else value for name, value in settings.items()}


NO_TEACHERS = ("", "d1", "d3-4_w1-1_n1", "d3-4-6-3_w1-1-1-1", "d3-4-6-3 w1-1-1-1 n1", "resnet50")
cascade, preset = partial(CascadeSettings, Optimisation(epochs=1)), partial(replace, PAPER)


def test_the_papers_scale_has_the_published_settings():
    here, published = to_json(PAPER), json.loads(PUBLISHED, object_hook=written_out)
    assert here.keys() == published.keys()
    assert {name: here[name] for name in here if here[name] != published[name]} == {}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_itself_again_from_its_json(name):
    assert from_json(Preset, to_json(PRESETS[name])) == PRESETS[name]


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_what_exhibits_name_is_there(preset):
    names = dict(preset.equivalents)
    assert all(preset.teachers.places_of(teacher) for teacher in names.values())
    assert {teacher for _, teacher in preset.lessons} | {*preset.timed_equivalents} <= names.keys()
    assert preset.backbone in preset.upgraded_backbones
    assert all(preset.teachers.places_of(teacher) for _, teacher in preset.grid_teachers)
    assert set(preset.cascaded_backbones) <= set(preset.upgraded_backbones)
    named = {*preset.pruned_backbones, *preset.upgraded_backbones}
    assert {*named, *(backbone for backbone, _ in preset.lessons)} <= set(BACKBONES)


def test_every_setting_is_a_flag():
    flags = ["--scale", "nano", "--preset.search.budget", "40", "--preset.detector.width", "8", "--workers", "2"]
    options = parse(Options, flags)
    nano = PRESETS["nano"]
    expected = replace(nano, search=replace(nano.search, budget=40), detector=replace(nano.detector, width=8))
    assert (options.preset, options.workers) == (expected, 2)
    assert options.changed == {"search.budget": 40, "detector.width": 8}


@pytest.mark.parametrize(
    ("make", "wrong", "said"),
    [
        (Options, {"workers": -1}, "--workers must be at least 0, got -1"),
        (check_backbone, {"name": "resnet9"}, "no backbone is called 'resnet9': give one of resnet18"),
        (SearchSettings, {"k": 0}, "search settings cannot be used: k must be at least 1, got 0"),
        (SearchSettings, {"generation": 0}, "generation must be at least 1, got 0"),
        (SearchSettings, {"budget": -1}, "budget must be at least 0, got -1"),
        (SearchSettings, {"student_probability": 1.5}, "student_probability must be between 0 and 1, got 1.5"),
        (MorphismSettings, {"percentage": 100.0}, "percentage must be above 0 and below 100, got 100"),
        (MorphismSettings, {"percentage": 0.0}, "percentage must be above 0 and below 100, got 0"),
        (MorphismSettings, {"fewest_channels": 0}, "fewest_channels must be at least 1, got 0"),
        (MorphismSettings, {"kinds": ("prune",)}, "no action is called 'prune'"),
        (MorphismSettings, {"kinds": ()}, "no action is called ''"),
        (cascade, {"deformable_strides": (7,)}, r"deformable_strides must be some of \(4, 8, 16, 32\), got \(7,\)"),
        (cascade, {"heads": 5}, "heads must be between 1 and 4, got 5"),
        (TeacherSpace, {"depths": ((2, 3),) * 3}, "4 stages"),
        (TeacherSpace, {"depths": ((3, 2),) * 4}, "4 stages"),
        (TeacherSpace, {"widths": (1.5, 1.0)}, "increase"),
        (TeacherSpace, {"width": 8}, "lower channel_multiple"),
        (TeacherSpace, {"width": 17, "widths": (1.0, 1.1)}, "once 68 times them is rounded to a multiple of 8"),
        (preset, {"base_size": (640, 480)}, "base_size must be one of the sizes 512x512, .*, 1333x800, got 640x480"),
        (preset, {"percentages": (10, 30)}, r"percentages must begin with 0, which prunes nothing, got \(10, 30\)"),
        (preset, {"penalised_share": 1.0}, "penalised_share must be at least 0 and below 1, got 1"),
        (
            preset,
            {"cascaded_backbones": ("resnet34",)},
            "cascaded_backbones must be among upgraded_backbones, got resnet34",
        ),
        (preset, {"lessons": (("resnet18", "R9"),)}, "the teachers of lessons must be among equivalents, got R9"),
        (preset, {"calibration_images": 0}, "calibration_images must be at least 1, got 0"),
        (preset, {"latency_images": 0}, "latency_images must be at least 1, got 0"),
        (preset, {"latency_rounds": 0}, "latency_rounds must be at least 1, got 0"),
        (preset, {"pair_orders": 1}, "pair_orders must be at least 2, so that they differ, got 1"),
        *((Teacher.parse, {"text": text}, "teacher") for text in NO_TEACHERS),
    ],
)
def test_settings_that_cannot_be_are_one_sentence(make, wrong, said):
    with pytest.raises(InputError, match=said):
        make(**wrong)


def test_flags_and_tables_need_no_torch():
    """Which of the modules, one after the other, brings it."""
    modules = "presets exhibits reproduce search train"
    loop = f"for name in {modules.split()}: import_module(f'joint_detnas.{{name}}'); print('torch' in sys.modules)"
    command = f"import sys\nfrom importlib import import_module\n{loop}"
    done = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    assert dict(zip(modules.split(), done.stdout.split(), strict=True)) == dict.fromkeys(modules.split(), "False")
