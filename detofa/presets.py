"""The four scales of DetOFA's reproduction, as named settings. A scale is a preset, never a branch in the code."""

from dataclasses import dataclass, field, replace

from common.models.ofa_resnet import OFAResNetSpace
from common.plain import InputError
from common.search.evolution import EvolutionSettings
from common.settings import Augmentation, Optimisation
from detofa.baselines import Phase, ShrinkingSettings
from detofa.method import FilterSettings


@dataclass(frozen=True)
class Preset:
    """Everything that a run of DetOFA needs to know besides its data and seed."""

    name: str
    """Scale: smoke, nano, mini or paper."""
    space: OFAResNetSpace
    """The search space A."""
    neck_widths: tuple[int, int, int]
    """Channels of CenterNet's three transposed convolutions."""
    head_width: int
    """Channels inside each of CenterNet's heads."""
    image_size: int
    """Side of the square that images are fitted into, pixels."""
    train_images: int | None
    """Images of an epoch: of a larger set so many are drawn once, a smaller one is repeated (none: the whole set)."""
    validation_images: int | None
    """Images that AP is reported on at the most (none: all)."""
    proxy_images: int
    """Training images held out as D_val: path losses for the filter come from them, never the reported AP."""
    calibration_images: int
    """Training images that re-estimate batch-norm statistics before AP is measured."""
    proxy_calibration_images: int
    """The same before a path's loss is measured, where a rough estimate ranks as well."""
    batch_size: int
    """Images a training step."""
    evaluation_batch_size: int
    """Images a forward pass of an evaluation."""
    augmentation: Augmentation
    """Of the detection images."""
    zero_init_last: bool
    """Start every block as its shortcut (last norm weight 0), as OFA's release can."""
    crop_size: int
    """Side of the classification images, pixels."""
    crop_batch_size: int
    """Crops a training step."""
    crops: int | None
    """Object crops of an epoch of pre-training, in ImageNet's place; fewer are repeated (none: all there are)."""
    classification: Optimisation
    """Pre-training of the classification supernet."""
    warm_up: Optimisation
    """Algorithm 1, line 2."""
    fine_tuning: Optimisation
    """Algorithm 1, lines 7 to 16."""
    shrinking: ShrinkingSettings
    """The phases of OFA's progressive shrinking, which together with the full net take three times the epochs."""
    path_filter: FilterSettings
    """The path filter and its training."""
    pretraining_paths: int
    """Paths a bucket from the classification supernet (paper: 2000)."""
    fine_tuning_paths: int
    """Paths a bucket from the detection supernet, m (paper: 100)."""
    search_paths: int
    """Paths a bucket from the finished supernet: the search's filter and the random search learn from the same."""
    operation_samples: int = 100
    """Paths an operation is inserted into to score it (n, unstated in the paper)."""
    evolution: EvolutionSettings = field(default_factory=EvolutionSettings)
    """The search for a budget."""
    budget_shares: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8, 1.0)
    """Budgets of figures 5, 8 and 9: shares of the way from the cheapest path to the dearest (the buckets' ends)."""
    figure6_paths: int = 15
    """Uniform paths a bucket that figure 6 shows."""
    filter_folds: int = 5
    """Folds of table 2's cross-validation."""


def _adam(epochs: int, learning_rate: float, milestones: tuple[float, ...] = (), **more) -> Optimisation:
    policy = "multistep" if milestones else "constant"
    return Optimisation(
        epochs=epochs, optimiser="adam", learning_rate=learning_rate, policy=policy, milestones=milestones, **more
    )


def _cosine(epochs: int, learning_rate: float, **more) -> Optimisation:
    return Optimisation(epochs=epochs, optimiser="adam", learning_rate=learning_rate, policy="cosine", **more)


def _shrinking(epochs: tuple[int, ...], optimisation: Optimisation) -> ShrinkingSettings:
    """Depth, then expand ratio, then width; with the full net's own epochs before, three times one method's."""
    elastic = (("depth",), ("depth", "expand"), ("depth", "expand", "width"))
    phases = tuple(Phase(names[-1], count, names) for names, count in zip(elastic, epochs, strict=True))
    return ShrinkingSettings(phases, optimisation)


SMOKE = Preset(
    name="smoke",
    space=OFAResNetSpace(
        base_depths=(1, 1, 1, 1),
        stage_widths=(16, 24, 32, 48),
        stem_width=16,
        channel_multiple=2,
        stage_strides=(1, 2, 1, 1),
    ),
    neck_widths=(16,),
    head_width=16,
    image_size=64,
    train_images=48,
    validation_images=24,
    proxy_images=16,
    calibration_images=16,
    proxy_calibration_images=16,
    batch_size=8,
    evaluation_batch_size=8,
    augmentation=Augmentation(),
    zero_init_last=True,
    crop_size=32,
    crop_batch_size=16,
    crops=64,
    classification=_cosine(1, 2e-3),
    warm_up=_adam(1, 2e-3),
    fine_tuning=_cosine(1, 2e-3),
    shrinking=_shrinking((1, 1, 2), _cosine(1, 1e-3)),
    path_filter=FilterSettings(
        dimensions=16, layers=1, heads=2, batch_size=16, pretraining=_adam(2, 1e-3), fine_tuning=_adam(2, 1e-3)
    ),
    pretraining_paths=3,
    fine_tuning_paths=3,
    search_paths=2,
    operation_samples=4,
    evolution=EvolutionSettings(population=10, generations=4),
    budget_shares=(0.6, 1.0),
    figure6_paths=2,
    filter_folds=2,
)
"""Every code path in seconds; its numbers mean nothing.

Command: python -m detofa.reproduce --scale smoke
Time: about 2 minutes on 2 CPU cores.
"""

NANO = Preset(
    name="nano",
    space=OFAResNetSpace(
        base_depths=(1, 1, 1, 1),
        widths=(0.5, 0.75, 1.0),
        expands=(0.15, 0.25, 0.4),
        stage_widths=(32, 64, 96, 128),
        stem_width=16,
        channel_multiple=4,
        stage_strides=(1, 2, 1, 1),
    ),
    neck_widths=(32,),
    head_width=32,
    image_size=96,
    train_images=2000,
    validation_images=1000,
    proxy_images=128,
    calibration_images=192,
    proxy_calibration_images=64,
    batch_size=16,
    evaluation_batch_size=64,
    augmentation=Augmentation(scale_min=0.8, scale_max=1.2, shift=0.1),
    zero_init_last=True,
    crop_size=32,
    crop_batch_size=32,
    crops=8000,
    classification=_cosine(16, 4e-3),
    warm_up=_adam(2, 4e-3),
    fine_tuning=_cosine(10, 4e-3),
    shrinking=_shrinking((5, 7, 12), _cosine(1, 2e-3)),
    path_filter=FilterSettings(batch_size=64, pretraining=_cosine(60, 1e-3), fine_tuning=_cosine(40, 3e-4)),
    pretraining_paths=80,
    fine_tuning_paths=40,
    search_paths=16,
    figure6_paths=6,
)
"""Verdicts on two CPU cores: a thin backbone of the same classes, stride 8 instead of 32, small images.

Command: python -m detofa.reproduce --scale nano --data scenes --seeds 3
Time: 45 minutes of CPU a seed with --precision bfloat16, four processes on two cores (AMD EPYC, AVX512-BF16).
"""

PAPER = Preset(
    name="paper",
    space=OFAResNetSpace(),
    neck_widths=(256, 256, 256),
    head_width=64,
    image_size=384,
    train_images=None,
    validation_images=None,
    proxy_images=2000,
    calibration_images=2000,
    proxy_calibration_images=512,
    batch_size=32,
    evaluation_batch_size=64,
    augmentation=Augmentation(),
    zero_init_last=True,
    crop_size=128,
    crop_batch_size=256,
    crops=None,
    classification=_cosine(90, 1e-3),
    warm_up=_adam(5, 1.25e-4),
    fine_tuning=_adam(65, 1.25e-4, (40.0, 55.0)),
    shrinking=_shrinking((28, 42, 70), _adam(1, 1.25e-4, (45 / 70, 60 / 70))),
    path_filter=FilterSettings(pretraining=_cosine(60, 1e-3), fine_tuning=_cosine(60, 3e-4)),
    pretraining_paths=2000,
    fine_tuning_paths=100,
    search_paths=100,
)
"""Pascal VOC as published: 5 + 65 epochs, Adam 1.25e-4 at batch 32, drops at 45 and 60 of the 70 (Section 4.1).

Command: python -m detofa.reproduce --scale paper --data voc:DIR --seeds 3 --device cuda
Time: days; not measured.
"""

MINI = replace(
    PAPER,
    name="mini",
    image_size=256,
    proxy_images=256,
    calibration_images=1000,
    proxy_calibration_images=256,
    crop_size=96,
    crop_batch_size=128,
    classification=_cosine(20, 1e-3),
    warm_up=_adam(3, 5e-4),
    fine_tuning=_adam(37, 5e-4, (25.0, 33.0)),
    shrinking=_shrinking((16, 24, 40), _adam(1, 2.5e-4, (0.7, 0.9))),
    pretraining_paths=400,
)
"""The paper's networks on a small set of real photographs, one GPU.

Command: python -m detofa.reproduce --scale mini --data coco:DIR --seeds 3 --device cuda
Time: hours; not measured yet.
"""

PRESETS = {preset.name: preset for preset in (SMOKE, NANO, MINI, PAPER)}


def preset(name: str) -> Preset:
    """The preset of a scale; `InputError` for an unknown name."""
    if name not in PRESETS:
        raise InputError(f"unknown scale {name!r}: give one of {', '.join(PRESETS)}")
    return PRESETS[name]
