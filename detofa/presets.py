"""DetOFA's settings and flags: the scales, and the ways to train a supernet. Importable without torch.

A scale is a preset, never a branch in the code.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal

from common.cli import StudyOptions
from common.plain import InputError
from common.settings import SIDE_MULTIPLE, Augmentation, Optimisation, Parallel, ShrinkingPhase, StudyPreset
from detofa.space import BucketSpacing, Constraint, CostTable, EvolutionSettings, OFAResNetSpace

UNITS = {"macs": "MAC", "params": "parameters", "latency": "ms"}
"""What a path may cost, and in what unit."""

# ---- Settings


@dataclass(frozen=True)
class FilterSettings:
    """The path filter and its training; Section 4.1 gives the sizes, the rest is unstated."""

    dimensions: int = 128
    """Embedding size, and width of the feed-forward and final layers."""
    layers: int = 3
    """Transformer encoder layers."""
    heads: int = 4
    """Attention heads."""
    budget_condition: bool = True
    """Feed the FLOPs bucket to the filter (Table 2, second row without)."""
    block_position: bool = True
    """Add the block's positional encoding (Table 2, third row without)."""
    bounded_loss: bool = True
    """Compare only paths of one bucket (Table 2, first row without)."""
    batch_size: int = 128
    """Paths in a training step; pairs are formed inside it."""
    pretraining: Optimisation = field(default_factory=lambda: Optimisation(epochs=60, learning_rate=1e-3))
    """Training on paths of the classification supernet."""
    fine_tuning: Optimisation = field(default_factory=lambda: Optimisation(epochs=60, learning_rate=3e-4))
    """Training on paths of the detection supernet, from the pre-trained filter."""

    def __post_init__(self) -> None:
        if self.heads < 1 or self.dimensions < 2 or self.dimensions % 2 or self.dimensions % self.heads:
            raise InputError(
                f"the path filter's dimensions must be even and a multiple of its heads, got {self.dimensions} and "
                f"{self.heads}"
            )


OperationPruning = Literal["none", "flops", "score_bucket", "score_all"]


@dataclass(frozen=True)
class PruningSettings:
    """How the search space is pruned; the defaults are the paper's (Section 4.2)."""

    operations: OperationPruning = "score_all"
    """Strategy of operation pruning."""
    ratio_all: float = 0.10
    """Worst share of all operations to remove (score_all)."""
    ratio_bucket: float = 0.30
    """Share of each cost bucket's operations to remove."""
    ratio_path: float = 0.25
    """Worst share of each bucket's paths to leave out of training."""


Elastic = Literal["depth", "expand", "width"]


@dataclass(frozen=True)
class Phase(ShrinkingPhase):
    """One phase of OFA's progressive shrinking."""

    elastic: tuple[Elastic, ...] = ()
    """The choices that vary in this phase; the others stay at their largest."""


@dataclass(frozen=True)
class ShrinkingSettings:
    """OFA's progressive shrinking after the full net."""

    phases: tuple[Phase, ...]
    """In order; each starts from the weights that the one before left."""
    optimisation: Optimisation
    """Training of every phase, with the phase's own epochs; milestones are shares of the phase."""
    networks_a_step: int = 1
    """Sub-networks whose gradients add up in a step. DetOFA's Table 3 has shrinking cost exactly 3 x for 3 x the
    epochs, so one; OFA's release takes two, then four."""
    distillation_weight: float = 1.0
    """Weight of the distillation loss against the full net beside the task's own."""


@dataclass(frozen=True, kw_only=True)
class Preset(StudyPreset):
    """Everything that a run of DetOFA depends on besides its data and seed."""

    space: OFAResNetSpace
    """The search space A."""
    neck_widths: tuple[int, ...]
    """Channels of CenterNet's transposed convolutions."""
    head_width: int
    """Channels inside each of CenterNet's heads."""
    image_size: int
    """Side of the square that images are fitted into, pixels."""
    calibration_images: int
    """Training images that re-estimate batch-norm statistics before AP is measured."""
    proxy_calibration_images: int
    """The same before a path's loss is measured, where a rough estimate ranks as well."""
    batch_size: int
    """Images in a training step."""
    zero_init_last: bool = True
    """Start every block as its shortcut (last norm weight 0), as OFA's release can."""
    warm_up: Optimisation
    """Algorithm 1, line 2."""
    fine_tuning: Optimisation
    """Algorithm 1, lines 7 to 16."""
    shrinking: ShrinkingSettings
    """The phases of OFA's progressive shrinking, which together with the full net take three times the epochs."""
    path_filter: FilterSettings
    """The path filter and its training."""
    pretraining_paths: int
    """Paths of each bucket that are sampled from the classification supernet (paper: 2000)."""
    fine_tuning_paths: int
    """Paths of each bucket that are sampled from a detection supernet, m (paper: 100): after the warm-up, and from the
    finished one for the search's filter."""
    bucket_spacing: BucketSpacing = "equal"
    """Where cost buckets end: at equal widths (the paper), or at quantiles of uniform paths, which train all alike."""
    operation_samples: int = 100
    """Paths that an operation is inserted into to score it (n, unstated in the paper)."""
    evolution: EvolutionSettings = field(default_factory=EvolutionSettings)
    """The search for a budget."""
    budget_shares: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8, 1.0)
    """Budgets of figures 5, 8 and 9: shares of the way from the cheapest path to the dearest (the buckets' ends)."""
    figure6_paths: int = 15
    """Uniform paths of each bucket that figure 6 shows."""
    filter_folds: int = 5
    """Folds of table 2's cross-validation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        counts = ("calibration_images", "proxy_calibration_images", "operation_samples")
        for name, least in {"filter_folds": 2, **dict.fromkeys(counts, 1)}.items():
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.image_size < 1 or self.image_size % SIDE_MULTIPLE:
            raise InputError(f"image_size must be a multiple of {SIDE_MULTIPLE}, got {self.image_size}")
        if not self.budget_shares or not all(0 <= share <= 1 for share in self.budget_shares):
            raise InputError(f"budget_shares must be one or more numbers from 0 to 1, got {self.budget_shares}")
        twins = self.space.twins()
        if twins is not None:
            raise InputError(
                f"the search space holds one network twice: {twins}; give choices that differ more, wider stages or a "
                "smaller channel_multiple"
            )
        if self.space.elastic_stem:
            raise InputError(
                "the path filter has no token for stem choices (the paper's Table 1 has none): fix the stem"
            )

    def constraint(self, name: Literal["macs", "params"]) -> Constraint:
        """What the backbone of a path costs in multiply-accumulates or parameters, on images of this scale."""
        table = CostTable.macs(self.space, self.image_size) if name == "macs" else CostTable.params(self.space)
        return Constraint.of(name, UNITS[name], table, self.bucket_spacing)


# ---- The scales


def _adam(epochs: int, learning_rate: float, milestones: tuple[float, ...] = ()) -> Optimisation:
    policy = "multistep" if milestones else "constant"
    return Optimisation(
        epochs=epochs, optimiser="adam", learning_rate=learning_rate, policy=policy, milestones=milestones
    )


def _cosine(epochs: int, learning_rate: float) -> Optimisation:
    return Optimisation(epochs=epochs, optimiser="adam", learning_rate=learning_rate, policy="cosine")


def _shrinking(epochs: tuple[int, ...], optimisation: Optimisation) -> ShrinkingSettings:
    """Depth, then expand ratio, then width; with the full net's own epochs before, three times one method's."""
    elastic = (("depth",), ("depth", "expand"), ("depth", "expand", "width"))
    phases = (Phase(names[-1], count, elastic=names) for names, count in zip(elastic, epochs, strict=True))
    return ShrinkingSettings(tuple(phases), optimisation)


SMOKE = Preset(
    name="smoke",
    space=OFAResNetSpace(
        base_depths=(1, 1, 1, 1),
        widths=(0.5, 0.75, 1.0),
        expands=(0.25, 0.5, 0.75),
        stage_widths=(16, 24, 32, 48),
        stem_width=8,
        channel_multiple=2,
        stage_strides=(1, 2, 1, 1),
    ),
    neck_widths=(16,),
    head_width=16,
    image_size=64,
    train_images=24,
    validation_images=8,
    search_images=8,
    calibration_images=8,
    proxy_calibration_images=8,
    batch_size=8,
    evaluation_batch_size=8,
    augmentation=Augmentation(),
    latency_images=2,
    latency_warmup=1,
    latency_pause=0.0,
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
    operation_samples=4,
    evolution=EvolutionSettings(population=10, generations=4),
    budget_shares=(0.6, 1.0),
    figure6_paths=2,
    filter_folds=2,
)
"""Every code path in seconds; its numbers mean nothing.

Command: python -m detofa.reproduce --scale smoke
Time: about a minute on 2 CPU cores.
"""

NANO = Preset(
    name="nano",
    space=OFAResNetSpace(
        base_depths=(1, 1, 1, 1),
        widths=(0.5, 0.75, 1.0),
        expands=(0.15, 0.25, 0.4),
        stage_widths=(40, 64, 96, 128),
        stem_width=16,
        channel_multiple=2,
        stage_strides=(1, 2, 1, 1),
    ),
    neck_widths=(32,),
    head_width=32,
    image_size=96,
    train_images=400,
    validation_images=1000,
    search_images=128,
    calibration_images=192,
    proxy_calibration_images=64,
    batch_size=16,
    evaluation_batch_size=64,
    augmentation=Augmentation(scale_min=0.8, scale_max=1.2, shift=0.1),
    crop_size=32,
    crop_batch_size=128,
    crops=40000,
    pretraining_data="scenes:seed=1,train=8000",
    classification=_cosine(16, 4e-3),
    warm_up=_adam(20, 4e-3),
    fine_tuning=_cosine(180, 4e-3),
    shrinking=_shrinking((80, 120, 200), _cosine(1, 2e-3)),
    path_filter=FilterSettings(pretraining=_cosine(60, 1e-3), fine_tuning=_cosine(40, 3e-4)),
    pretraining_paths=200,
    fine_tuning_paths=100,
    bucket_spacing="quantile",
    figure6_paths=10,
)
"""Verdicts on two CPU cores: a thin backbone of the same classes, stride 8 instead of 32, small images.

As in the papers, networks start from training on other data (640,000 crops of another draw of Scenes) and learn a small
set. `--only plateau` shows AP at half, once and twice the length. On a seed that nothing is judged by, the full net has
AP 22.1, 26.7, 28.3 and 28.6 after 20, 40, 80 and 160 thousand samples, the dearest path of a uniform supernet 15.4,
21.8, 26.0 and 28.0, the cheapest 10.9, 15.2, 18.2 and 20.5. The filter learns from the paper's 500 paths.
Command: python -m detofa.reproduce --scale nano --precision bfloat16 --seeds 6
Blood cells, a second set: the same with --data coco:DIR/bccd
Time: 89 minutes of CPU a seed (AMD EPYC, AVX512-BF16), pre-training apart.
"""

PHOTO = replace(
    NANO,
    name="photo",
    image_size=256,
    train_images=None,
    validation_images=None,
    search_images=60,
    evaluation_batch_size=16,
    latency_images=20,
    latency_warmup=3,
    latency_pause=0.0,
    warm_up=_adam(10, 4e-3),
    fine_tuning=_cosine(90, 4e-3),
    shrinking=_shrinking((40, 60, 100), _cosine(1, 2e-3)),
    fine_tuning_paths=40,
)
"""Useful detectors from a few hundred photographs of one's own: nano's thin networks, 256 pixels.

On 234 photographs of blood cells the detectors of five budgets have AP 51.4 to 53.2 after 40 minutes of one core,
pre-training on crops included (Intel Xeon with AVX512-BF16, bfloat16, beside other work).
Command: python -m detofa.train --scale photo --data auto:DIR
"""

PAPER = Preset(
    name="paper",
    space=OFAResNetSpace(),
    neck_widths=(256, 256, 256),
    head_width=64,
    image_size=384,
    train_images=None,
    validation_images=None,
    search_images=2000,
    calibration_images=2000,
    proxy_calibration_images=512,
    batch_size=32,
    evaluation_batch_size=64,
    augmentation=Augmentation(),
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
)
"""Pascal VOC as published: 5 + 65 epochs, Adam 1.25e-4 at batch 32, drops at 45 and 60 of the 70 (Section 4.1).

Command: python -m detofa.reproduce --scale paper --data voc:DIR --seeds 3 --device cuda
Time: days; not measured.
"""

PAPER_COCO = replace(
    PAPER,
    name="paper-coco",
    image_size=512,
    warm_up=_adam(10, 1.25e-4),
    fine_tuning=_adam(60, 1.25e-4, (35.0, 50.0)),
)
"""COCO as published: 10 + 60 epochs (Section 4.1); size and drops of CenterNet, whose 140 epochs these are half of.

Command: python -m detofa.reproduce --scale paper-coco --data coco:DIR --seeds 3 --device cuda --pretrained FILE
Time: days; not measured.
"""

MINI = replace(
    PAPER,
    name="mini",
    image_size=256,
    search_images=256,
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

PRESETS = {preset.name: preset for preset in (SMOKE, NANO, PHOTO, MINI, PAPER, PAPER_COCO)}


# ---- Ways to train a supernet


@dataclass(frozen=True)
class Variant:
    """One way to train the detection supernet."""

    title: str
    """As figures name it."""
    pruning: PruningSettings | None = None
    """Search space pruning after the warm-up; None means uniform sampling."""
    coupled: bool = False
    """CompOFA*: depth and width coupled from the start."""
    transfer: bool = True
    """Start from the classification supernet."""
    shared_warm_up: bool = True
    """Start from the shared warm-up run rather than with a warm-up of its own."""
    shrinking: bool = False
    """Progressive shrinking from the full net, three times the epochs."""
    full_net: bool = False
    """The largest path alone."""
    equal_cost_of: str | None = None
    """The variant that this one is, fine-tuned until it has cost as many CPU seconds as ours; None means by epochs."""


_PATHS_ONLY = PruningSettings(operations="none")
_OPERATIONS_ONLY = PruningSettings(ratio_path=0.0)
VARIANTS = {
    "ours": Variant("DetOFA (ours)", PruningSettings()),
    "ofa": Variant("OFA (w/o PS)"),
    "ofa-shrinking": Variant("OFA (w/ PS)", shrinking=True, shared_warm_up=False),
    "compofa": Variant("CompOFA*", coupled=True, shared_warm_up=False),
    "fullnet": Variant("Fullnet", full_net=True, shared_warm_up=False),
    "ofa-equal-cost": Variant("OFA (w/o PS), cost of ours", equal_cost_of="ofa"),
    "compofa-equal-cost": Variant(
        "CompOFA*, cost of ours", coupled=True, shared_warm_up=False, equal_cost_of="compofa"
    ),
    "ofa-scratch": Variant("OFA (w/o PS), no transfer", transfer=False, shared_warm_up=False),
    "operations-flops": Variant("FLOPs", replace(_OPERATIONS_ONLY, operations="flops")),
    "operations-bucket": Variant("FLOPs & score (per bucket)", replace(_OPERATIONS_ONLY, operations="score_bucket")),
    "operations-all": Variant("FLOPs & score (all)", _OPERATIONS_ONLY),
    "paths-score": Variant("score-based", _PATHS_ONLY),
    "operations-ratio-40": Variant("operations 40 %", PruningSettings(ratio_bucket=0.40)),
    "paths-ratio-40": Variant("paths 40 %", PruningSettings(ratio_path=0.40)),
}

ABLATIONS = {
    "unbounded": {"bounded_loss": False},
    "no-budget": {"budget_condition": False},
    "no-block": {"block_position": False},
    "ours": {},
}
"""Changes to the path filter, in the order of Table 2's rows."""

# ---- Flags


@dataclass(frozen=True, kw_only=True)
class Options(StudyOptions, Parallel):
    """Flags that all of DetOFA's commands share."""

    PRESETS: ClassVar[Mapping[str, Preset]] = PRESETS

    scale: Literal[tuple(PRESETS)] = "smoke"
    """Preset: smoke (seconds; its numbers mean nothing), nano (two CPU cores), photo (your own photographs), mini (a
    GPU), paper (as published, VOC) or paper-coco; --preset.FIELD changes any field of it."""
    constraint: Literal[tuple(UNITS)] = "macs"
    """What budgets and buckets limit: macs, params (both of the backbone) or latency (ms on the device)."""
    pretrained: Path | None = None
    """Once-for-All's released ImageNet weights, ofa_resnet50_d0-1-2_e0.2-0.25-0.35_w0.65-0.8-1.0, for scales with its
    space (default: the supernet is pre-trained on object crops)."""
    preset: Preset = SMOKE
    """The settings of the scale."""
