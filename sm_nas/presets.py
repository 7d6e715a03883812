"""The scales of SM-NAS's reproduction, as named settings, and the flags that its commands share.

A scale is a preset, never a branch in the code. Importable without torch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from common.cli import StudyOptions
from common.plain import InputError
from common.settings import Augmentation, Optimisation, Parallel, StudyPreset, TwoStageSettings
from sm_nas.encoding import Structure
from sm_nas.method import ModularSpace, SearchSettings, Settings, Strategy, StructuralSpace


@dataclass(frozen=True)
class DetectorSettings(TwoStageSettings):
    """What all detectors of a scale share, whatever their structure; RetinaNet's anchors begin at half of an RPN's."""

    retinanet_depth: int = 4
    """3x3 convolutions in each of RetinaNet's heads before the last."""
    retinanet_deviation: float | None = 0.01
    """Standard deviation of RetinaNet's initial head weights; None means He et al.'s, for fewer than 256 channels."""
    retinanet_rate: float = 1.0
    """Learning rate of a RetinaNet, relative to that of other detectors."""
    norm_groups: int = 32
    """Groups of a group norm in neck and heads."""
    guided_proposals: int = 300
    """Boxes after the suppression of guided anchoring."""
    spanning_anchors: bool = True
    """Pyramids that lack levels of P1-P5 have further sizes on the others."""


@dataclass(frozen=True, kw_only=True)
class Preset(StudyPreset, Settings):
    """Everything that a run of SM-NAS needs to know besides its data and seed."""

    detector: DetectorSettings
    """What all detectors share: widths, anchors, samples."""
    strategies: tuple[Strategy, ...]
    """The eight rows of Table 3."""
    strategy_model: Structure
    """The detector that Table 3 trains."""
    plateau: tuple[float, ...] = (0.5, 1, 2)
    """Multiples of the final schedule that the pilot trains by, to see where more of it brings nothing."""
    pretraining_by_seed: bool = False
    """Give each seed its own training on crops of `pretraining_data`: intervals leave out the luck of one for all."""
    transfer_baselines: tuple[str, ...] = ("FPN R50", "FPN R101")
    """The plain detectors that searched ones are compared with on other data, at each one's input size; FPN R50 is the
    one that the claim is judged by."""
    models: tuple[tuple[str, Structure], ...]
    """E0 to E5 of Table 2, as this scale has them."""
    classics: tuple[tuple[str, Structure], ...]
    """The detectors that the found ones are compared with."""

    def __post_init__(self) -> None:
        StudyPreset.__post_init__(self)
        Settings.__post_init__(self)
        known, wanted = dict((*self.models, *self.classics)), ("FPN R50", *self.transfer_baselines)
        if "FPN R50" not in self.transfer_baselines or not known.keys() >= set(wanted):
            raise InputError(
                f"transfer_baselines must be FPN R50 and others of {', '.join(known)}, got "
                f"{', '.join(self.transfer_baselines) or 'none'}"
            )


def _models(sizes: tuple[tuple[int, int], ...], thinner: int = 1) -> tuple[tuple[str, Structure], ...]:
    """E0 to E5 of Table 2. sizes: in the place of 512x512, 800x600 and 1333x800. thinner: what all channels are divided
    by."""
    small, medium, large = sizes
    x_code = "21-21-111111111111111-2111111"
    rows = (
        ("E0", "basicblock", 64, "1-21-21-12", small, (2, 5), 128, "rpn", 1, True),
        ("E1", "basicblock", 48, "12-21-11111-211111", medium, (2, 5), 256, "rpn", 1, False),
        ("E2", "basicblock", 56, "12-11111-211-1112", medium, (1, 5), 128, "rpn", 3, True),
        ("E3", "bottleneck", 56, "211-111111111-2111111-11112111", medium, (1, 5), 128, "rpn", 3, True),
        ("E4", "Xbottleneck", 56, x_code, medium, (1, 5), 256, "ga-rpn", 3, False),
        ("E5", "Xbottleneck", 56, x_code, large, (1, 5), 256, "ga-rpn", 3, False),
    )
    return tuple(
        (
            name,
            Structure(f"{block}_{base // thinner}_{stages}", size, levels, width // thinner, rpn, heads, pooled),
        )
        for name, block, base, stages, size, levels, width, rpn, heads, pooled in rows
    )


def _classics(sizes: tuple[tuple[int, int], ...], neck_width: int = 256) -> tuple[tuple[str, Structure], ...]:
    """The detectors of Tables 1, 4 and 5 that the space covers; sizes: in the place of 800x600 and 1333x800."""
    medium, large = sizes
    two, one = (1, 5), (2, 6)  # RetinaNet leaves the finest level out
    return (
        ("FPN R50", Structure("resnet50", medium, two, neck_width, "rpn", 1)),
        ("RetinaNet R50", Structure("resnet50", medium, one, neck_width, None, 0)),
        ("Cascade R50", Structure("resnet50", medium, two, neck_width, "rpn", 3)),
        ("FPN R101", Structure("resnet101", large, two, neck_width, "rpn", 1)),
        ("RetinaNet R101", Structure("resnet101", large, one, neck_width, None, 0)),
        ("Cascade R101", Structure("resnet101", large, two, neck_width, "rpn", 3)),
        ("GA-FPN R50", Structure("resnet50", large, two, neck_width, "ga-rpn", 1)),
    )


def _sgd(epochs: int, learning_rate: float, final: float = 1e-4, **more) -> Optimisation:
    """The searches' schedule: a cosine from the learning rate down to `final`."""
    rest = {"momentum": 0.9, "weight_decay": 1e-4, "warmup_epochs": min(0.3, epochs / 4), "clip_norm": 35.0} | more
    return Optimisation(
        epochs=epochs, optimiser="sgd", learning_rate=learning_rate, final_share=final / learning_rate, **rest
    )


def _adamw(epochs: int, learning_rate: float, **more) -> Optimisation:
    rest = {"weight_decay": 1e-4, "warmup_epochs": min(0.3, epochs / 4), "clip_norm": 10.0} | more
    return Optimisation(epochs=epochs, optimiser="adamw", learning_rate=learning_rate, **rest)


def _steps(epochs: int, learning_rate: float, **more) -> Optimisation:
    """He, Girshick and Dollar's schedule: the learning rate falls to a tenth twice, at 2/3 and 11/12 of the epochs."""
    milestones = (round(epochs * 2 / 3, 2), round(epochs * 11 / 12, 2))
    rest = {"policy": "multistep", "milestones": milestones} | more
    return _sgd(epochs, learning_rate, 0.0, **rest)


def _table3(
    schedule: Callable[[int, float], Optimisation],
    learning_rate: float,
    epochs: int = 12,
    devices: int = 8,
    images: tuple[int, int, int] = (2, 8, 4),
    frozen_stages: int | None = None,
    zero_init: bool = True,
) -> tuple[Strategy, ...]:
    """The eight rows of Table 3. learning_rate: in the place of .02; epochs: of 12; images: a device, of 2, 8 and 4;
    frozen_stages: of the pre-trained rows; zero_init: of the others."""
    few, many, some = images
    rows = (
        ("batch", True, 12, few, 1.0),
        ("batch", True, 24, few, 1.0),
        ("batch", False, 12, few, 1.0),
        ("batch", False, 12, many, 10.0),
        ("group", False, 12, few, 1.0),
        ("group-ws", False, 12, few, 1.0),
        ("group-ws", False, 12, few, 5.0),
        ("group-ws", False, 16, some, 8.0),
    )
    return tuple(
        Strategy(
            *(norm, pretrained, schedule(round(epochs * of_12 / 12), learning_rate * factor), size, devices),
            *((frozen_stages, True) if pretrained else (None, zero_init)),
        )
        for norm, pretrained, of_12, size, factor in rows
    )


# ------------------------------------------------------------------------------------------------------------------

_NANO_SIZES = ((64, 64), (96, 96), (128, 128))
NANO = Preset(
    name="nano",
    structural=StructuralSpace(sizes=_NANO_SIZES, first_levels=(1, 2), neck_widths=(32, 64, 128), without_fpn=False),
    modular=ModularSpace(bases=(12, 14, 16, 18), standard_base=16, neck_widths=(32, 64, 128), most_blocks=20),
    detector=DetectorSettings(
        width=16,
        anchor_scale=3.0,
        hidden=128,
        retinanet_deviation=None,
        retinanet_rate=1 / 3,
        norm_groups=8,
        canonical_side=64.0,
        rpn_samples=64,
        region_samples=64,
        candidates=(100, 100),
        proposals=(100, 30),
        guided_proposals=20,
        region_candidates=300,
    ),
    train_images=400,
    search_images=250,
    validation_images=1000,
    evaluation_batch_size=32,
    augmentation=Augmentation(scale_min=0.8, scale_max=1.2, shift=0.1),
    latency_images=20,
    latency_warmup=3,
    latency_pause=0.0,
    crop_size=32,
    crop_batch_size=128,
    crops=40_000,
    pretraining_data="scenes:seed=1,train=8000",
    pretraining_by_seed=True,
    classification=_adamw(12, 4e-3),
    stage_one=SearchSettings(budget=8, first=4, generation=4, fresh=0.0),
    stage_one_training=Strategy("batch", True, _adamw(13, 3e-3), 16),
    stage_two=SearchSettings(budget=5, first=3, generation=2),
    stage_two_training=Strategy("group-ws", False, _adamw(5, 2e-3), 4),
    groups=1,
    final_training=Strategy("batch", True, _adamw(60, 3e-3), 16),
    strategies=_table3(_adamw, 1e-3, epochs=60, devices=2, zero_init=False),
    strategy_model=Structure("resnet18", (96, 96), (1, 5), 32, "rpn", 1),
    transfer_baselines=("FPN R50",),
    models=_models(_NANO_SIZES, 4),
    classics=_classics(_NANO_SIZES[1:], 64)[:4],
)
"""Verdicts on two CPU cores: all channels divided by four, small images. The space leaves out pyramids from P3 on and
detectors without one, where more than 5 % of the small objects would lie between the cells of the RPN.

As the papers do, detectors start from strong features and learn a small set: backbones see 480,000 crops of another
draw of Scenes, once for each seed. On a seed that nothing is judged by, FPN with ResNet18 has AP 19.6 after 16,000
samples in batches of 16 (83 s of CPU), 20.3 in batches of 8 (99 s), and 24.5 after 32,000 (194 s): not its plateau yet.
The final schedule of 24,000 gives FPN R50 AP 25.0 and E3 31.0, twice as long a one 31.2 and 39.4 (`--only plateau`):
all are trained alike, and none to its end. After 6,400 in batches of 4 it had 15.5; with a quarter of the crops 10.8,
and then at 64 pixels instead of 96 6.1. A candidate of stage one has 13 of 60 epochs, as the paper's has 5 of 24.
RetinaNet with ResNet50 has 2.5 (on two judged seeds) if it begins and trains as the others do, 6.1 from He et al.'s
weights, and 9.1 when it trains by a third of their rate as well. From scratch 6,400 samples give AP 2.7: what rests on
stage two's candidates cannot be judged here, and they are kept short. Table 3's rows see 24,000 (of a detector whose
pyramid has 32 channels): GN+WS at the large rate has AP 6.9 after 12,000 and 13.5 after 24,000, 14.3 at half that rate
and 11.1 if blocks begin by adding nothing; SGD has 3.7 after 12,000 at a rate of .025 and nothing at .1.

Command: python -m sm_nas.reproduce --scale nano --second-data coco:DIR/bccd --precision bfloat16 --seeds 6
Time, by estimate: four hours of CPU a seed, 50 minutes of them pre-training (AMD EPYC, AVX512-BF16). Table 3's two
hours are by trainings on a slower one (AVX2).
"""

_PHOTO_SIZES = ((256, 256), (288, 288), (320, 320))
PHOTO = replace(
    NANO,
    name="photo",
    structural=replace(NANO.structural, sizes=_PHOTO_SIZES),
    detector=replace(NANO.detector, canonical_side=112.0, proposals=(200, 100), guided_proposals=50),
    train_images=None,
    pretraining_by_seed=False,
    search_images=60,
    validation_images=None,
    evaluation_batch_size=16,
    stage_one=SearchSettings(budget=6, first=3, generation=3, fresh=0.0),
    stage_two=SearchSettings(budget=4, first=2, generation=2),
    strategy_model=Structure("resnet18", (288, 288), (1, 5), 64, "rpn", 1),
    models=_models(_PHOTO_SIZES, 4),
    classics=_classics(_PHOTO_SIZES[1:], 64)[:4],
)
"""A useful detector from a few hundred photographs of one's own: nano's thin networks, 256 to 320 pixels.

On 234 photographs of blood cells E0 has AP 54.4 after 8 minutes on one core, its backbone's pre-training included
(AMD EPYC with AVX2, float32). On 450 of an aquarium E2 has AP 14.3 after 77 minutes of a busy one; E0 has 10.3 (by
bfloat16, on another machine). Searches at this scale were not timed.
Command: python -m sm_nas.train --model E0 --scale photo --data auto:DIR
"""

_SMOKE_SIZES = ((64, 64), (64, 64), (96, 96))
SMOKE = replace(
    NANO,
    name="smoke",
    structural=StructuralSpace(
        backbones=("resnet18", "mobilenet_v2"),
        sizes=_SMOKE_SIZES[1:],
        first_levels=(1, 2),
        last_level=5,
        neck_widths=(32, 64),
        without_fpn=False,
        cascades=(1, 2),
    ),
    modular=replace(NANO.modular, neck_widths=(32, 64), most_blocks=8),
    detector=replace(
        NANO.detector,
        hidden=32,
        retinanet_depth=1,
        rpn_samples=32,
        region_samples=32,
        candidates=(60, 40),
        proposals=(40, 20),
        guided_proposals=20,
        region_candidates=100,
    ),
    train_images=16,
    search_images=8,
    validation_images=8,
    pretraining_data=None,
    pretraining_by_seed=False,
    evaluation_batch_size=16,
    latency_images=2,
    latency_warmup=1,
    latency_rounds=2,
    crop_batch_size=16,
    crops=64,
    classification=_adamw(1, 2e-3),
    stage_one=SearchSettings(budget=6, first=4, generation=2, fresh=0.0),
    stage_one_training=Strategy("batch", True, _adamw(1, 2e-3), 8),
    stage_two=SearchSettings(budget=5, first=3, generation=2),
    stage_two_training=Strategy("group-ws", False, _adamw(1, 2e-3), 8),
    groups=2,
    final_training=Strategy("batch", True, _adamw(2, 2e-3), 8),
    strategies=_table3(_adamw, 5e-4, epochs=1, devices=2),
    plateau=(1, 2),
    strategy_model=Structure("resnet18", (64, 64), (1, 5), 32, "rpn", 1),
    models=_models(_SMOKE_SIZES, 4),
    classics=_classics(_SMOKE_SIZES[1:], 64)[:4],
)
"""Every code path in seconds; its numbers mean nothing.

Command: python -m sm_nas.reproduce --scale smoke
Time: about a minute on 2 CPU cores.
"""

PAPER = Preset(
    name="paper",
    structural=StructuralSpace(),
    modular=ModularSpace(),
    detector=DetectorSettings(),
    train_images=None,
    search_images=2000,
    validation_images=None,
    evaluation_batch_size=8,
    augmentation=Augmentation(scale_min=0.8, scale_max=1.25, shift=0.1, jitter=0.0),
    latency_images=200,
    latency_warmup=20,
    latency_pause=0.01,
    imagenet=True,
    crop_size=128,
    crop_batch_size=256,
    crops=None,
    classification=_sgd(90, 0.1, 0.0, clip_norm=None),
    stage_one=SearchSettings(budget=500, first=60, generation=16, fresh=0.0),
    stage_one_training=Strategy("batch", True, _sgd(5, 0.04), 4, 8, frozen_stages=1),
    stage_two=SearchSettings(budget=300, first=40, generation=16),
    stage_two_training=Strategy("group-ws", False, _sgd(9, 0.24), 8, 8, zero_init=False),
    groups=6,
    final_training=Strategy("batch", True, _steps(24, 0.04), 4, 8, frozen_stages=1),
    strategies=_table3(_steps, 0.02, frozen_stages=1, zero_init=False),
    strategy_model=Structure("resnet50", (1333, 800), (1, 5), 256, "rpn", 1),
    models=_models(((512, 512), (800, 600), (1333, 800))),
    classics=_classics(((800, 600), (1333, 800))),
)
"""COCO as published: 5 epochs a candidate in stage one, 9 in stage two, the 2x schedule for what is found.

Command: python -m sm_nas.reproduce --scale paper --data coco:DIR --second-data voc:DIR --seeds 3 --device cuda
Time: the paper names 2,000 GPU hours for stage one and 2,500 for stage two; not run here.
"""

_MINI_SIZES = ((256, 256), (384, 288), (512, 352), (640, 384))
MINI = replace(
    PAPER,
    name="mini",
    structural=StructuralSpace(sizes=_MINI_SIZES),
    search_images=100,
    latency_images=50,
    crop_size=96,
    crop_batch_size=128,
    classification=_sgd(20, 0.1, 0.0, clip_norm=None),
    stage_one=SearchSettings(budget=60, first=20, generation=8, fresh=0.0),
    stage_one_training=Strategy("batch", True, _sgd(10, 0.02), 16, frozen_stages=1),
    stage_two=SearchSettings(budget=30, first=10, generation=5),
    stage_two_training=Strategy("group-ws", False, _sgd(15, 0.06), 16, zero_init=False),
    groups=3,
    final_training=Strategy("batch", True, _steps(36, 0.02), 16, frozen_stages=1),
    strategies=_table3(_steps, 0.01, epochs=24, frozen_stages=1, zero_init=False),
    strategy_model=Structure("resnet50", (384, 288), (1, 5), 256, "rpn", 1),
    models=_models((_MINI_SIZES[0], _MINI_SIZES[1], _MINI_SIZES[3])),
    classics=_classics((_MINI_SIZES[1], _MINI_SIZES[3])),
)
"""The paper's networks on a small set of real photographs, one GPU, at half the paper's input sizes.

Command: python -m sm_nas.reproduce --scale mini --data coco:DIR --seeds 3 --device cuda
Time: hours; not measured yet.
"""

PRESETS = {preset.name: preset for preset in (SMOKE, NANO, PHOTO, MINI, PAPER)}


@dataclass(frozen=True, kw_only=True)
class Options(StudyOptions):
    """Flags that all commands of SM-NAS share."""

    PRESETS: ClassVar[Mapping[str, Preset]] = PRESETS

    scale: Literal[tuple(PRESETS)] = "smoke"
    preset: Preset = SMOKE


@dataclass(frozen=True, kw_only=True)
class SearchOptions(Options, Parallel):
    """Flags of the commands that search."""

    latencies: Path | None = None
    """Folder of runs (OUT/sm_nas/DATA-SCALE) whose recorded latencies take the place of the clock: their search again,
    to the bit."""
