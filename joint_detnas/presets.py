"""The four scales of Joint-DetNAS's reproduction as named settings: a scale is a preset, never a branch in the code."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from common.models.anchors import Anchors
from common.models.fpn import level_stride
from common.models.resnet import ARCHITECTURES
from common.models.roi_head import RoISettings
from common.models.rpn import RPNSettings
from common.models.scale import TwoStageScale
from common.plain import InputError
from common.settings import Augmentation, Optimisation, StudyPreset
from joint_detnas.cascade import CascadeSettings
from joint_detnas.distillation import DistillationSettings
from joint_detnas.method import Settings, Size
from joint_detnas.morphism import MorphismSettings
from joint_detnas.teachers import FIRST_LEVEL, LAST_LEVEL, Phase, ShrinkingSettings, Teacher, TeacherSpace

BACKBONES = (*ARCHITECTURES, "mobilenet_v2")


@dataclass(frozen=True)
class DetectorSettings(TwoStageScale):
    """What the base detector and all teachers of a scale share."""

    neck_width: int = 256
    """Channels of the base detector's pyramid."""

    @property
    def rpn(self) -> RPNSettings:
        """Settings of the first stage."""
        strides = [level_stride(level) for level in range(FIRST_LEVEL, LAST_LEVEL + 1)]
        return self.first_stage(Anchors.octaves(strides, self.anchor_scale))

    @property
    def roi(self) -> RoISettings:
        """Settings of the second stage."""
        return self.second_stage()


@dataclass(frozen=True, kw_only=True)
class Preset(StudyPreset):
    """Everything that a run of Joint-DetNAS needs to know besides its data and seed."""

    backbone: str
    """Of the base detector, where no other is asked for."""
    sizes: tuple[Size, ...]
    """Input sizes that are drawn in training and judged after it: r_1, r_2, ... (width, height)."""
    base_size: Size
    """Input size of the base detector: R_base, and what costs are counted at."""
    detector: DetectorSettings
    """What the base detector and the teachers share."""
    teachers: TeacherSpace
    """The elastic teacher pool."""
    calibration_images: int
    """Images of each size in "a batch of images" that a teacher's batch-norm statistics are reset by."""
    batch_size: int
    """Images a step, of every training of detectors."""
    base_training: Optimisation
    """Of the base detector (paper: 2x with multi-scale training)."""
    shrinking: ShrinkingSettings
    """Of the teacher pool."""
    pair_training: Optimisation
    """Of each pair (paper: 3 epochs)."""
    distillation: DistillationSettings
    """Weights of what a teacher adds to a student's loss."""
    search: Settings
    """Algorithm 1."""
    teaching: Settings
    """The searches with a fixed student, for Figures 4 and 5: the teacher alone changes."""
    equivalents: tuple[tuple[str, Teacher], ...]
    """Teachers that Table 1 also trains without the pool, by name, the smallest first."""
    lessons: tuple[tuple[str, str], ...]
    """Table 3: backbone of a student, and which of the equivalents, out of the pool, teaches it."""
    pruned_backbones: tuple[str, ...]
    """Of the base detectors that Table 2 prunes."""
    upgraded_backbones: tuple[str, ...]
    """Of the base detectors that Table 4 upgrades, the smallest first; the preset's own is among them."""
    taught_backbones: tuple[str, ...]
    """Of the fixed students of Figure 5, the smallest first; the preset's own is among them."""
    cascade: CascadeSettings
    """What becomes of the detector that a search found, beyond the search (paper: Table 6's X101-Cascade)."""
    cascaded_backbones: tuple[str, ...]
    """Of the upgraded detectors that Table 6 also shows so."""


PERCENTAGES = (0, 10, 20, 30)
"""Of channels that Table 2 prunes; 0 is trained on all the same."""


def _equivalents(depths: Mapping[str, tuple[int, ...]], width: float = 1.0) -> tuple[tuple[str, Teacher], ...]:
    """Teachers of one width throughout, by name."""
    return tuple((name, Teacher(each, (width,) * 4, width)) for name, each in depths.items())


def _teaching(pairs: int, k: int) -> Settings:
    """Pair after pair, the student as it is."""
    return Settings(budget=pairs, k=k, student_probability=0.0, generation=1)


def _adamw(epochs: int, learning_rate: float, **more) -> Optimisation:
    rest = {"weight_decay": 1e-4, "warmup_epochs": min(0.3, epochs / 4), "clip_norm": 10.0} | more
    return Optimisation(epochs=epochs, optimiser="adamw", learning_rate=learning_rate, **rest)


def _sgd(epochs: int, learning_rate: float, **more) -> Optimisation:
    rest = {"momentum": 0.9, "weight_decay": 1e-4, "warmup_epochs": min(0.3, epochs / 4), "clip_norm": 35.0} | more
    return Optimisation(epochs=epochs, optimiser="sgd", learning_rate=learning_rate, **rest)


def _steps(epochs: int, learning_rate: float, **more) -> Optimisation:
    """He, Girshick and Dollar's schedule: the learning rate falls to a tenth twice, at 2/3 and 11/12 of the epochs."""
    milestones = (round(epochs * 2 / 3, 2), round(epochs * 11 / 12, 2))
    return _sgd(epochs, learning_rate, **({"policy": "multistep", "milestones": milestones} | more))


# ------------------------------------------------------------------------------------------------------------------

_RELATIVE = DistillationSettings(feature_weight=0.3, relative_features=True)  # else the feature loss drowns all others
SMOKE = Preset(
    name="smoke",
    backbone="resnet18",
    sizes=((32, 32), (64, 64)),
    base_size=(64, 64),
    detector=DetectorSettings(
        width=8,
        neck_width=16,
        anchor_scale=4.0,
        hidden=32,
        canonical_side=64.0,
        rpn_samples=32,
        region_samples=32,
        candidates=(60, 40),
        proposals=(40, 20),
        region_candidates=100,
    ),
    teachers=TeacherSpace(depths=((1, 2), (1, 2), (1, 2), (1, 2)), width=8, neck_width=16, channel_multiple=2),
    train_images=32,
    search_images=16,
    validation_images=16,
    evaluation_batch_size=16,
    calibration_images=8,
    augmentation=Augmentation(scale_min=0.8, scale_max=1.2, shift=0.1),
    latency_images=4,
    latency_warmup=1,
    latency_pause=0.0,
    imagenet=False,
    crop_size=32,
    crop_batch_size=16,
    crops=64,
    classification=_adamw(1, 2e-3),
    batch_size=8,
    base_training=_adamw(2, 2e-3),
    shrinking=ShrinkingSettings(
        phases=(Phase("full", 1, 0), Phase("one-step", 1, 1), Phase("all", 1, None)),
        optimisation=_adamw(1, 2e-3),
        distillation=_RELATIVE,
    ),
    pair_training=_adamw(1, 1e-3),
    distillation=_RELATIVE,
    search=Settings(budget=6, k=3, generation=2, morphism=MorphismSettings(fewest_channels=2, tied="max")),
    teaching=_teaching(2, 2),
    equivalents=_equivalents({"R14": (1, 1, 1, 1), "R26": (2, 2, 2, 2)}),
    lessons=(("resnet18", "R26"),),
    pruned_backbones=("resnet18",),
    upgraded_backbones=("resnet18", "mobilenet_v2"),
    taught_backbones=("resnet18", "mobilenet_v2"),
    cascade=CascadeSettings(_adamw(1, 1e-3)),
    cascaded_backbones=("resnet18",),
)
"""Every code path in about a minute; its numbers mean nothing.

Command: python -m joint_detnas.reproduce --scale smoke
"""

NANO = replace(
    SMOKE,
    name="nano",
    sizes=((64, 64), (96, 96)),
    base_size=(96, 96),
    detector=DetectorSettings(
        width=16,
        neck_width=32,
        anchor_scale=4.0,
        hidden=128,
        canonical_side=64.0,
        rpn_samples=64,
        region_samples=64,
        candidates=(300, 100),
        proposals=(150, 60),
        region_candidates=300,
    ),
    teachers=TeacherSpace(depths=((2, 3), (2, 4), (2, 6), (2, 3)), width=16, neck_width=32, channel_multiple=4),
    train_images=800,
    search_images=400,
    validation_images=500,
    evaluation_batch_size=32,
    calibration_images=32,
    latency_images=20,
    latency_warmup=3,
    crops=3000,
    crop_batch_size=32,
    classification=_adamw(6, 4e-3),
    batch_size=8,
    base_training=_adamw(16, 3e-3),
    shrinking=ShrinkingSettings(
        phases=(Phase("full", 20, 0), Phase("one-step", 2, 1, 0.5), Phase("all", 4, None, 0.5)),
        optimisation=_adamw(8, 3e-3),
        distillation=_RELATIVE,
    ),
    pair_training=_adamw(2, 1e-3),
    search=Settings(budget=16, k=5, generation=2, morphism=MorphismSettings(tied="max")),
    teaching=_teaching(8, 2),
    equivalents=_equivalents({"R26": (2, 2, 2, 2), "R50": (3, 4, 6, 3)}),
    lessons=(("resnet18", "R50"),),
    pruned_backbones=("resnet18", "resnet50"),
    upgraded_backbones=("resnet18", "resnet50"),
    taught_backbones=("resnet18", "resnet50"),
    cascade=CascadeSettings(_adamw(10, 1e-3)),
    cascaded_backbones=(),
)
"""Verdicts on two CPU cores: channels of the backbones divided by four, of necks by eight, small images.

Command: python -m joint_detnas.reproduce --scale nano --data scenes --seeds 5
Time: a seed takes 45 minutes of CPU with --precision bfloat16 (AMD EPYC, AVX512-BF16).
"""

PAPER = Preset(
    name="paper",
    backbone="resnet101",
    sizes=((512, 512), (800, 600), (1080, 720), (1333, 800)),
    base_size=(1333, 800),
    detector=DetectorSettings(),
    teachers=TeacherSpace(),
    train_images=None,
    search_images=2000,
    validation_images=None,
    evaluation_batch_size=8,
    calibration_images=16,
    augmentation=Augmentation(scale_min=0.8, scale_max=1.25, shift=0.1, jitter=0.0),
    latency_images=200,
    latency_warmup=20,
    latency_pause=0.01,
    imagenet=True,
    crop_size=128,
    crop_batch_size=256,
    crops=None,
    classification=_sgd(90, 0.1, clip_norm=None),
    batch_size=16,
    base_training=_steps(24, 0.02),
    shrinking=ShrinkingSettings(optimisation=_sgd(24, 0.02)),
    pair_training=_sgd(3, 0.01),
    distillation=DistillationSettings(),
    search=Settings(budget=100, k=5, generation=8),
    teaching=_teaching(30, 5),
    equivalents=_equivalents({"R26": (2, 2, 2, 2), "R50": (3, 4, 6, 3), "R101": (3, 4, 23, 3)}),
    lessons=(("resnet18", "R50"), ("resnet50", "R101")),
    pruned_backbones=("resnet50", "resnet101"),
    upgraded_backbones=("resnet18", "resnet50", "resnet101", "resnext101_32x4d"),
    taught_backbones=("resnet18", "resnet50", "resnet101"),
    cascade=CascadeSettings(_steps(16, 0.01)),
    cascaded_backbones=("resnext101_32x4d",),
)
"""COCO as published: 2x with multi-scale training for the base, 3 epochs a pair, about 100 pairs.

Command: python -m joint_detnas.reproduce --scale paper --data coco:DIR --seeds 3 --workers 8 --device cuda
Table 6's X101-Cascade: python -m joint_detnas.train --what cascade --scale paper --backbone resnext101_32x4d
    --data coco:DIR --device cuda
Time: the paper names 200 GPU days; not run here.
"""

MINI = replace(
    PAPER,
    name="mini",
    backbone="resnet50",
    sizes=((256, 256), (384, 288), (512, 352), (640, 384)),
    base_size=(640, 384),
    search_images=100,
    latency_images=50,
    crop_size=96,
    crop_batch_size=128,
    classification=_sgd(20, 0.1, clip_norm=None),
    shrinking=ShrinkingSettings(
        phases=(Phase("full", 24, 0), Phase("one-step", 8, 1, 0.5), Phase("all", 16, None, 0.5)),
        optimisation=_sgd(24, 0.02),
    ),
    search=Settings(budget=50, k=5, generation=4),
    upgraded_backbones=("resnet18", "resnet50", "mobilenet_v2"),
    taught_backbones=("resnet18", "resnet50", "resnet101"),
    cascaded_backbones=("resnet50",),
)
"""The paper's networks on a small set of real photographs, one GPU, at half the paper's input sizes.

Command: python -m joint_detnas.reproduce --scale mini --data coco:DIR --seeds 3 --device cuda
Time: hours; not measured yet.
"""

PRESETS = {preset.name: preset for preset in (SMOKE, NANO, MINI, PAPER)}


def preset(name: str) -> Preset:
    """The preset of a scale; `InputError` for an unknown name."""
    if name not in PRESETS:
        raise InputError(f"unknown scale {name!r}: give one of {', '.join(PRESETS)}")
    return PRESETS[name]
