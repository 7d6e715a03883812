"""Every setting of Joint-DetNAS, and its scales as named settings: a scale is a preset, never a branch in code.

Importable without torch: what runs by these settings is in method.py and baselines.py. A number in brackets is that of
a difference from the paper in README.md.
"""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Literal

from common.cli import StudyOptions
from common.models.architectures import ARCHITECTURES, STRIDES, round_channels
from common.plain import InputError
from common.settings import Augmentation, Optimisation, Parallel, ShrinkingPhase, StudyPreset, TwoStageSettings

Size = tuple[int, int]
"""Width and height of an input image, pixels."""


def size_name(size: Size) -> str:
    """WIDTHxHEIGHT."""
    return "x".join(map(str, size))


BACKBONES = (*ARCHITECTURES, "mobilenet_v2")
KINDS = ("layer pruning", "channel pruning", "add-layer", "rearrange")
"""Kinds of the student's actions (Figure 3)."""

# ---- Section 3.1.2: student morphism


@dataclass(frozen=True)
class MorphismSettings:
    """What the paper leaves open of actions and of inheritance."""

    kinds: tuple[str, ...] = KINDS
    """Kinds of action that there are."""
    percentage: float = 10.0
    """Percentage that a channel pruning takes (16)."""
    percentage_of: Literal["channels", "cost"] = "channels"
    """Whether that is of all channels (paper), or of the backbone's multiply-accumulates, of which 10, 20 and 30 % of
    the channels in Table 2 are 12, 19 and 26 % on average."""
    fewest_channels: int = 4
    """Channels that every width keeps (15)."""
    tied: Literal["mean", "max"] = "mean"
    """How the importance of a channel comes from the |gamma| of all norms that write to it (14)."""
    layer_norm: Literal["fan-in", "mean"] = "fan-in"
    """L1 norm that ranks layers: the mean |w|, of each convolution times the root of its fan-in or as it is (13)."""
    new_gamma: float = 0.0
    """Last gamma of a new or moved block; 0 leaves the function as it is (12)."""
    inherit_moments: bool = True
    """A pair's optimiser begins with its parent's moments, changed as the weights are (7)."""
    gamma_weight: float = 1e-5
    """Lambda: weight of L_BN in the overall loss (paper: 0.00001)."""

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds:
            raise InputError(f"no action is called {unknown[0] if unknown else ''!r}: give some of {', '.join(KINDS)}")
        if self.fewest_channels < 1:
            raise InputError(f"fewest_channels must be at least 1, got {self.fewest_channels}")
        if not 0 < self.percentage < 100:
            raise InputError(f"percentage must be above 0 and below 100, got {self.percentage:g}")


# ---- Section 3.1.3: the elastic teacher pool


@dataclass(frozen=True)
class Teacher:
    """One teacher: blocks of each stage, multipliers of each stage's standard width and of the neck's."""

    depths: tuple[int, ...]
    widths: tuple[float, ...]
    neck: float

    def __post_init__(self) -> None:
        stages = len(STRIDES)
        if len(self.depths) != stages or len(self.widths) != stages:
            raise InputError(f"a teacher has {stages} depths and {stages} widths, got {self.depths} and {self.widths}")

    def __str__(self) -> str:
        return f"d{'-'.join(map(str, self.depths))}_w{'-'.join(f'{each:g}' for each in self.widths)}_n{self.neck:g}"

    @staticmethod
    def parse(text: str) -> "Teacher":
        """The teacher that `str` wrote, such as d3-4-23-3_w1.5-1.25-1-1.5_n1.5; InputError for anything else."""
        number = r"\d+(?:\.\d+)?"
        found = re.fullmatch(rf"d(\d+(?:-\d+)*)_w({number}(?:-{number})*)_n({number})", text)
        if found is None:
            raise InputError(
                f"{text!r} does not name a teacher: write depths, widths and neck as d3-4-23-3_w1.5-1.25-1-1.5_n1.5"
            )
        depths, widths, neck = found.groups()
        return Teacher(tuple(map(int, depths.split("-"))), tuple(map(float, widths.split("-"))), float(neck))


@dataclass(frozen=True)
class TeacherSpace:
    """ "Depth ranging from [2,2,2,2] to [3,4,23,3] for four stages, and the width for each backbone stage and the neck
    can be sampled from [W, 1.25 W, 1.5 W]" (section 4). A thin space is other numbers.
    """

    depths: tuple[tuple[int, int], ...] = ((2, 3), (2, 4), (2, 23), (2, 3))
    """Fewest and most blocks of each stage."""
    widths: tuple[float, ...] = (1.0, 1.25, 1.5)
    """Multipliers of the standard widths, of each stage and of the neck; they increase."""
    width: int = 64
    """Channels of the stem and inside a block of the first stage of a standard ResNet; they double from stage to
    stage."""
    neck_width: int = 256
    """Channels of a standard pyramid."""
    channel_multiple: int = 8
    """Widths are rounded to a multiple of this."""

    def __post_init__(self) -> None:
        stages = len(STRIDES)
        if len(self.depths) != stages or any(not 1 <= fewest <= most for fewest, most in self.depths):
            raise InputError(f"depths must give the fewest and most blocks of {stages} stages, got {self.depths}")
        if not self.widths or self.widths[0] <= 0 or any(a >= b for a, b in itertools.pairwise(self.widths)):
            raise InputError(f"widths must be positive multipliers that increase, got {self.widths}")
        for base in (*(self.width * 2**stage for stage in range(stages)), self.neck_width):
            if len({self._channels(base, each) for each in self.widths}) < len(self.widths):
                raise InputError(
                    f"two of the widths {self.widths} are the same number of channels once {base} times them is "
                    f"rounded to a multiple of {self.channel_multiple}: lower channel_multiple"
                )

    @property
    def choices(self) -> tuple[Sequence[Any], ...]:
        """Of each place of an encoding: four depths, four widths, the neck."""
        return (*(range(fewest, most + 1) for fewest, most in self.depths), *(self.widths,) * (len(STRIDES) + 1))

    def count(self) -> int:
        """How many teachers there are: 64,152 in the paper's space (19)."""
        return math.prod(map(len, self.choices))

    def at(self, places: Sequence[int]) -> Teacher:
        """The teacher of those places among `choices`."""
        parts = [choices[place] for choices, place in zip(self.choices, places, strict=True)]
        return Teacher(tuple(parts[: len(STRIDES)]), tuple(parts[len(STRIDES) : -1]), parts[-1])

    def places_of(self, teacher: Teacher) -> list[int]:
        """Where a teacher's parts are among `choices`; InputError for a teacher outside this space."""
        parts = (*teacher.depths, *teacher.widths, teacher.neck)
        for number, (part, choices) in enumerate(zip(parts, self.choices, strict=True), 1):
            if part not in choices:
                what = f"{part} blocks in stage {number}" if number <= len(STRIDES) else f"a width of {part:g}"
                raise InputError(f"the teacher {teacher} has {what}: give one of {', '.join(map(str, choices))}")
        return [choices.index(part) for part, choices in zip(parts, self.choices, strict=True)]

    def largest(self) -> Teacher:
        """The super-network P_super itself."""
        return self.at([-1] * len(self.choices))

    def smallest(self) -> Teacher:
        """The teacher that all the others contain."""
        return self.at([0] * len(self.choices))

    def stage_channels(self, teacher: Teacher) -> tuple[int, ...]:
        """Channels inside the blocks of each stage."""
        return tuple(self._channels(self.width * 2**stage, each) for stage, each in enumerate(teacher.widths))

    def neck_channels(self, teacher: Teacher) -> int:
        """Channels of the pyramid."""
        return self._channels(self.neck_width, teacher.neck)

    def _channels(self, base: int, multiplier: float) -> int:
        return round_channels(base * multiplier, self.channel_multiple)


@dataclass(frozen=True)
class DistillationSettings:
    """Weights of what a teacher adds to the detection losses (section 3.2); the paper prints none (28)."""

    feature_weight: float = 1.0
    """Weight of the feature-level loss."""
    class_weight: float = 1.0
    """Weight of the soft cross-entropy."""
    box_weight: float = 1.0
    """Weight of the class-aware localisation."""
    relative_features: bool = False
    """Take the feature-level loss as a share of the teacher's own squares (36)."""
    adapter: Literal["least-squares", "identity"] = "least-squares"
    """What f_adap begins as, from a student to a teacher that it shares no weights with (25)."""


@dataclass(frozen=True)
class Phase(ShrinkingPhase):
    """One phase of integrated progressive shrinking."""

    steps_down: int | None = None
    """How many choices below the largest sub-networks go, in depth and width together; 0 means the largest alone, None
    all the way."""


@dataclass(frozen=True)
class ShrinkingSettings:
    """Integrated progressive shrinking (21)."""

    phases: tuple[Phase, ...] = (Phase("full", 24, steps_down=0), Phase("one-step", 12, steps_down=1), Phase("all", 24))
    """In order; each starts from the weights that the one before left."""
    optimisation: Optimisation = field(default_factory=Optimisation)
    """Of every phase, with the phase's own epochs; milestones are shares of the phase."""
    networks_a_step: int = 2
    """Sub-networks that are trained in a step beside the largest."""
    distillation: DistillationSettings = field(default_factory=DistillationSettings)
    """What the largest net teaches the others with."""


# ---- Section 3.1.4: the search


@dataclass(frozen=True)
class SearchSettings:
    """Algorithm 1, and its controls."""

    budget: int = 100
    """Pairs that are trained (paper: about 100)."""
    k: int = 5
    """Places of the list that parents are drawn from (4)."""
    listed: Literal["best", "latest"] = "best"
    """Pairs on it: the best so far; or the latest, so that nothing is selected, which makes it random search."""
    student_probability: float | None = None
    """Probability that a step changes the student; else it changes the teacher. None means one after the other: "we
    optimize the student and the teacher alternatively" (section 3.1.4)."""
    mutation: Literal["every-stage", "one-step"] = "every-stage"
    """A mutation of the teacher: depth or width of each stage drawn anew, or one of them a step up or down (23)."""
    teacher: Literal["dynamic", "largest", "none"] = "dynamic"
    """A step of the teacher mutates it; or, as in conventional distillation, the largest teaches always, and such a
    step trains the same student on; or nobody teaches at all, which leaves architecture search and pruning."""
    generation: int = 4
    """Pairs drawn from one list, which can be trained side by side."""
    alpha: float = 0.07
    """Balances AP and complexity in the score (3)."""
    beta: float = 1.0
    """Balances architecture and resolution in the complexity (3)."""
    morphism: MorphismSettings = field(default_factory=MorphismSettings)
    """The student's actions."""

    def __post_init__(self) -> None:
        share = self.student_probability
        problems = {
            f"budget must be at least 0, got {self.budget}": self.budget < 0,
            f"k must be at least 1, got {self.k}": self.k < 1,
            f"generation must be at least 1, got {self.generation}": self.generation < 1,
            f"student_probability must be between 0 and 1, got {share}": share is not None and not 0 <= share <= 1,
        }
        for problem, there in problems.items():
            if there:
                raise InputError(f"these search settings cannot be used: {problem}")


# ---- Beside the method: what it is compared with, and Table 6's X101-Cascade


@dataclass(frozen=True)
class ImitationSettings:
    """Fine-grained feature imitation, FGFI of Table 3 (29)."""

    factor: float = 0.5
    """An anchor is near an object from this share of the greatest overlap (IoU) that any anchor has with it."""
    weight: float = 0.01
    """Weight of the imitation loss beside the detection losses."""


@dataclass(frozen=True)
class CascadeSettings:
    """What a found detector is given, and how it is trained on (38, 39)."""

    optimisation: Optimisation
    """Of that training (paper: 16 epochs)."""
    deformable_strides: tuple[int, ...] = (8, 16, 32)
    """Stages at these strides have deformable convolutions."""
    heads: int = 3
    """Heads of the cascade, the found one included: 1 to 4."""

    def __post_init__(self) -> None:
        if not set(self.deformable_strides) <= set(STRIDES):
            raise InputError(f"deformable_strides must be some of {STRIDES}, got {self.deformable_strides}")
        if not 1 <= self.heads <= 4:
            raise InputError(f"heads must be between 1 and 4, got {self.heads}")


# ---- The scales


@dataclass(frozen=True)
class DetectorSettings(TwoStageSettings):
    """What the base detector and all teachers of a scale share."""

    neck_width: int = 256
    """Channels of the base detector's pyramid."""


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
    settling_images: int = 0
    """Images of each size that a trained detector's batch-norm statistics are re-estimated by before it is measured; 0
    leaves those of its last steps (41)."""
    batch_size: int
    """Images a step, of every training of detectors."""
    base_training: Optimisation
    """Of the base detector (paper: 2x with multi-scale training)."""
    shrinking: ShrinkingSettings
    """Of the teacher pool."""
    pair_training: Optimisation
    """Of each pair (paper: 3 epochs)."""
    pair_trainings: tuple[Optimisation, ...] = ()
    """What was tried in its place, on a seed that nothing is judged by; see the exhibit pairs."""
    pair_orders: int = 3
    """Orders of the batches that each was tried with: how far they lie apart is the noise of a pair."""
    distillation: DistillationSettings
    """Weights of what a teacher adds to a student's loss."""
    search: SearchSettings
    """Algorithm 1."""
    teaching: SearchSettings
    """The searches with a fixed student, for Figure 4: the teacher alone changes."""
    equivalents: tuple[tuple[str, Teacher], ...]
    """Teachers that Table 1 also trains without the pool, by name, the smallest first."""
    timed_equivalents: tuple[str, ...]
    """Those that are also trained alone for as many CPU seconds as the pool took."""
    lessons: tuple[tuple[str, str], ...]
    """Table 3: backbone of a student, and which of the equivalents, out of the pool, teaches it."""
    pruned_backbones: tuple[str, ...]
    """Of the base detectors that Table 2 prunes."""
    percentages: tuple[int, ...] = (0, 10, 20, 30)
    """That Table 2 prunes them by; 0 is trained on all the same."""
    pruning_training: Optimisation
    """Of the pruned ones (paper: 3 epochs, after 12 before)."""
    upgraded_backbones: tuple[str, ...]
    """Of the base detectors that Table 4 upgrades, the smallest first; the preset's own is among them."""
    goal: float = 0.5
    """Share of the base backbone's cost that Table 5 compares at (paper: 60.8 of 122.6 G)."""
    penalised_base: bool = True
    """Table 5's pipeline of pruning and distillation begins with a base detector that L_BN trained from the start
    (paper); else with the base detector as it is (33)."""
    penalised_share: float = 0.25
    """Share of a pipeline's pairs that L_BN trains before the pruning, where it did not from the start (33)."""
    grid_teachers: tuple[tuple[str, Teacher], ...]
    """Teachers of Figure 5, by name; its students are those of Table 2, not pruned and pruned most."""
    grid_training: Optimisation
    """Of each student under each of them."""
    cascade: CascadeSettings
    """What becomes of the detector that a search found, beyond the search (paper: Table 6's X101-Cascade)."""
    cascaded_backbones: tuple[str, ...]
    """Of the upgraded detectors that Table 6 also shows so."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.base_size not in self.sizes:
            sizes = ", ".join(map(size_name, self.sizes))
            raise InputError(f"base_size must be one of the sizes {sizes}, got {size_name(self.base_size)}")
        if self.percentages[:1] != (0,):
            raise InputError(f"percentages must begin with 0, which prunes nothing, got {self.percentages}")
        if not 0 <= self.penalised_share < 1:
            raise InputError(f"penalised_share must be at least 0 and below 1, got {self.penalised_share:g}")
        unknown = [name for name in self.cascaded_backbones if name not in self.upgraded_backbones]
        if unknown:
            raise InputError(f"cascaded_backbones must be among upgraded_backbones, got {unknown[0]}")
        unknown = [teacher for _, teacher in self.lessons if teacher not in dict(self.equivalents)]
        if unknown:
            raise InputError(f"the teachers of lessons must be among equivalents, got {unknown[0]}")
        if self.calibration_images < 1:
            raise InputError(f"calibration_images must be at least 1, got {self.calibration_images}")
        if self.pair_orders < 2:
            raise InputError(f"pair_orders must be at least 2, so that they differ, got {self.pair_orders}")


def _equivalents(depths: Mapping[str, tuple[int, ...]], width: float = 1.0) -> tuple[tuple[str, Teacher], ...]:
    """Teachers of one width throughout, by name."""
    return tuple((name, Teacher(each, (width,) * 4, width)) for name, each in depths.items())


def _grid(*depths: tuple[int, ...]) -> tuple[tuple[str, Teacher], ...]:
    """Teachers of each depth, of the standard width and half as wide again, by name."""
    every = [(each, width) for width in (1.0, 1.5) for each in depths]
    return tuple((f"{sum(each)} blocks, {width:g} wide", Teacher(each, (width,) * 4, width)) for each, width in every)


def _phases(full: int, one_step: int, everything: int, share: float = 1.0) -> tuple[Phase, ...]:
    """Epochs of the three phases; share: of the learning rate, in those that shrink."""
    one = Phase("one-step", one_step, share, steps_down=1)
    return Phase("full", full, steps_down=0), one, Phase("all", everything, share)


def _teaching(pairs: int, k: int) -> SearchSettings:
    """Pair after pair, the student as it is."""
    return SearchSettings(budget=pairs, k=k, student_probability=0.0, generation=1)


def _trained(optimiser: str, epochs: int, learning_rate: float, **more) -> Optimisation:
    rest = {"weight_decay": 1e-4, "no_decay_on_norm": True, "warmup_epochs": min(0.3, epochs / 4)} | more
    return Optimisation(epochs=epochs, optimiser=optimiser, learning_rate=learning_rate, **rest)


_adamw, _sgd = partial(_trained, "adamw", clip_norm=10.0), partial(_trained, "sgd", clip_norm=35.0)


def _steps(epochs: int, learning_rate: float, **more) -> Optimisation:
    """He, Girshick and Dollar's schedule: the learning rate falls to a tenth twice, at 2/3 and 11/12 of the epochs."""
    milestones = (round(epochs * 2 / 3, 2), round(epochs * 11 / 12, 2))
    return _sgd(epochs, learning_rate, **({"policy": "multistep", "milestones": milestones} | more))


_RELATIVE = DistillationSettings(feature_weight=0.3, relative_features=True)  # else the feature loss drowns all others
_THIN = MorphismSettings(percentage_of="cost", tied="max", new_gamma=0.1, gamma_weight=2e-4)
"""Of thin students: 10 % of a ResNet18's channels are 26 % of its cost; L_BN pulls an eighth as hard as the gammas'
gradients (1.5e-3 on average), where at 1e-5 it would be 150 times weaker."""
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
    train_images=16,
    search_images=8,
    validation_images=8,
    evaluation_batch_size=16,
    calibration_images=8,
    settling_images=8,
    augmentation=Augmentation(scale_min=0.8, scale_max=1.2, shift=0.1),
    latency_images=2,
    latency_warmup=1,
    latency_rounds=2,
    latency_pause=0.0,
    imagenet=False,
    crop_size=32,
    crop_batch_size=16,
    crops=64,
    classification=_adamw(1, 2e-3),
    batch_size=8,
    base_training=_adamw(2, 2e-3),
    shrinking=ShrinkingSettings(phases=_phases(1, 1, 1), optimisation=_adamw(1, 2e-3), distillation=_RELATIVE),
    pair_training=_adamw(1, 1e-3),
    pair_trainings=(_adamw(1, 1e-3), _adamw(1, 3e-4, policy="constant", warmup_epochs=0.0)),
    pair_orders=2,
    distillation=_RELATIVE,
    search=SearchSettings(budget=6, k=3, generation=2, morphism=replace(_THIN, fewest_channels=2)),
    teaching=_teaching(2, 2),
    equivalents=_equivalents({"R14": (1, 1, 1, 1), "R26": (2, 2, 2, 2)}),
    timed_equivalents=("R14", "R26"),
    lessons=(("resnet18", "R26"),),
    pruned_backbones=("resnet18", "mobilenet_v2"),
    percentages=(0, 10, 30),
    pruning_training=_adamw(1, 1e-3),
    upgraded_backbones=("resnet18", "mobilenet_v2"),
    goal=0.9,
    grid_teachers=_grid((1, 1, 1, 1), (2, 2, 2, 2)),
    grid_training=_adamw(1, 1e-3),
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
    detector=replace(
        SMOKE.detector,
        width=24,
        neck_width=48,
        hidden=128,
        rpn_samples=64,
        region_samples=64,
        candidates=(100, 100),
        proposals=(100, 60),
        region_candidates=300,
    ),
    teachers=TeacherSpace(depths=((2, 3), (2, 4), (2, 6), (2, 3)), width=24, neck_width=48, channel_multiple=4),
    train_images=400,
    search_images=400,
    validation_images=1000,
    evaluation_batch_size=32,
    calibration_images=32,
    settling_images=400,
    latency_images=20,
    latency_warmup=3,
    latency_rounds=9,
    pretraining_data="scenes:seed=1,train=8000",
    crops=40000,
    crop_batch_size=128,
    classification=_adamw(16, 4e-3),
    batch_size=16,
    base_training=_adamw(120, 3e-3),
    shrinking=ShrinkingSettings(
        phases=_phases(120, 12, 36, share=0.5), optimisation=_adamw(120, 3e-3), distillation=_RELATIVE
    ),
    pair_training=_adamw(4, 3e-4),
    pair_trainings=(
        _adamw(1, 2e-4, policy="constant", warmup_epochs=0.0),
        *(_adamw(epochs, rate) for epochs, rate in ((1, 2e-4), (1, 3e-4), (2, 3e-4), (4, 3e-4))),
    ),
    pair_orders=4,
    search=SearchSettings(budget=24, k=5, generation=2, alpha=0.3, morphism=_THIN),
    teaching=_teaching(12, 2),
    equivalents=_equivalents({"R26": (2, 2, 2, 2), "R50": (3, 4, 6, 3)}),
    timed_equivalents=("R26",),
    lessons=(("resnet18", "R50"),),
    pruned_backbones=("resnet18", "resnet50"),
    pruning_training=_adamw(8, 1e-3),
    upgraded_backbones=("resnet18", "resnet50"),
    goal=0.91,
    penalised_base=False,
    penalised_share=0.5,
    grid_teachers=_grid((2, 2, 2, 2), (3, 4, 6, 3)),
    grid_training=_adamw(4, 3e-4),
    cascade=CascadeSettings(_adamw(10, 1e-3)),
    cascaded_backbones=(),
)
"""Verdicts on two CPU cores: thin networks, small images, a small set after pre-training on another draw of Scenes.

Pairs, by the exhibit `pairs`: the base detector of a seed that nothing is judged by has AP 24.2, mean of both sizes.
Four epochs at a rate that falls from 3e-4 change it by -.14 alone and by .12 under the largest teacher (means of four
orders, standard error .09): the only one of five schedules under which a taught student ends above it. One epoch at a
constant 2e-4 takes .3 to .4 away. Four take four times as long, so a search has 24 pairs.
alpha: of a ResNet18, 10 % of the backbone's cost is 5 % of the detector's; at .3 that is worth 1.6 % of AP, two
standard deviations of such a pair's noise (.19 AP). The goal is what one pruning of channels or a layer leaves (.90,
.89): at a lower one, which takes two of them in one chain, a fifth to a half of the searches would end without a pair
within it (simulated).
Table 5: the base detectors of six seeds have a standard deviation of .9 AP, so two trainings of one differ by about
1.2, and a cut of 10 % costs .2. So what is pruned shares the search's base, and half of the pairs come before the
pruning.

Lengths: on a seed that nothing is judged by, ResNet18 has AP 24.0, 29.3 and 30.2 after 24, 48 and 96 thousand samples
(123, 246 and 444 s of CPU): the last doubling of the base detector's training brings under 1. Its backbone saw 640,000
crops (256 s, once for all seeds); from a quarter of them it has 3 to 5 less.

The pool: after phases of 120, 12 and 36 epochs (1,106 s of CPU, the same seed) its R26, R50 and largest network have
AP 30.9, 33.1 and 34.3; after a third of that length 14.0, 15.5 and 17.2, less than the base detector.

Lengths and pool were measured with running batch-norm statistics; re-estimated (41), the base of that seed has AP 29.3
rather than 27.8.

Command: python -m joint_detnas.reproduce --scale nano --data scenes --precision bfloat16 --seeds 6
The second, real set, blood cells: --data coco:DIR, DIR the folder of BCCD
"""

PHOTO = replace(
    NANO,
    name="photo",
    sizes=((192, 192), (256, 256)),
    base_size=(256, 256),
    detector=replace(NANO.detector, canonical_side=112.0, proposals=(200, 100)),
    train_images=None,
    search_images=60,
    validation_images=None,
    evaluation_batch_size=16,
    base_training=_adamw(60, 3e-3),
    shrinking=replace(NANO.shrinking, phases=_phases(20, 4, 8, share=0.5), optimisation=_adamw(20, 3e-3)),
)
"""A useful detector from a few hundred photographs of one's own: nano's thin networks, 192 and 256 pixels.

Time, by estimate from a shorter run: about eight hours of CPU on 234 photographs (a busy AMD EPYC with AVX2), of which
pre-training is two, the pool two and a half, and the search three.
Command: python -m joint_detnas.search --scale photo --data auto:DIR
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
    search=SearchSettings(budget=100, k=5, generation=8),
    teaching=_teaching(30, 5),
    equivalents=_equivalents({"R26": (2, 2, 2, 2), "R50": (3, 4, 6, 3), "R101": (3, 4, 23, 3)}),
    timed_equivalents=("R50",),
    lessons=(("resnet18", "R50"), ("resnet50", "R101")),
    pruned_backbones=("resnet50", "resnet101"),
    pruning_training=_sgd(3, 0.01),
    upgraded_backbones=("resnet18", "resnet50", "resnet101", "resnext101_32x4d"),
    grid_teachers=_grid((2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 23, 3)),
    grid_training=_sgd(3, 0.01),
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
    shrinking=ShrinkingSettings(phases=_phases(24, 8, 16, share=0.5), optimisation=_sgd(24, 0.02)),
    search=SearchSettings(budget=50, k=5, generation=4),
    upgraded_backbones=("resnet18", "resnet50", "mobilenet_v2"),
    cascaded_backbones=("resnet50",),
)
"""The paper's networks on a small set of real photographs, one GPU, at half the paper's input sizes.

Command: python -m joint_detnas.reproduce --scale mini --data coco:DIR --seeds 3 --device cuda
Time: hours; not measured yet.
"""

PRESETS = {preset.name: preset for preset in (SMOKE, NANO, PHOTO, MINI, PAPER)}


def other_choices(preset: Preset) -> dict[str, Preset]:
    """A preset with one thing that the paper leaves open chosen otherwise, by what that is; see the exhibit choices."""

    def of(**search: Any) -> Preset:
        return replace(preset, search=replace(preset.search, **search))

    def of_students(**morphism: Any) -> Preset:
        return of(morphism=replace(preset.search.morphism, **morphism))

    return {
        "coin": of(student_probability=0.5),
        "one-step-teachers": of(mutation="one-step"),
        "fresh-moments": of_students(inherit_moments=False),
        "identity-adapter": replace(preset, distillation=replace(preset.distillation, adapter="identity")),
        "silent-blocks": of_students(new_gamma=0.0),
        "layers-by-mean": of_students(layer_norm="mean"),
        "share-of-channels": of_students(percentage_of="channels"),
        "printed-gamma-weight": of_students(gamma_weight=MorphismSettings.gamma_weight),
        "norms-decay": replace(preset, pair_training=replace(preset.pair_training, no_decay_on_norm=False)),
    }


def other_pipelines(preset: Preset) -> dict[str, Preset]:
    """A preset under which L_BN trains Table 5's pipelines elsewhere, or nowhere, before the pruning; see the exhibit
    penalty."""
    in_pairs = replace(preset, penalised_base=False)
    others = {
        "penalised-base": replace(preset, penalised_base=True),
        "penalised-pairs": in_pairs,
        "no-penalty": replace(in_pairs, penalised_share=0.0),
    }
    return {choice: other for choice, other in others.items() if other != preset}


# ---- Flags

Control = Literal["none", "random", "conventional", "nas", "fixed-student", "fixed-pair"]
"""The search, or one of its controls; see JointDetNASStudy.searching."""


@dataclass(frozen=True, kw_only=True)
class Options(StudyOptions, Parallel):
    """Flags that all commands of Joint-DetNAS share."""

    PRESETS: ClassVar[Mapping[str, Preset]] = PRESETS

    scale: Literal[tuple(PRESETS)] = "smoke"
    preset: Preset = SMOKE


def check_backbone(name: str | None) -> None:
    """InputError where a base detector cannot have a backbone of that name; None means the preset's."""
    if name is not None and name not in BACKBONES:
        raise InputError(f"no backbone is called {name!r}: give one of {', '.join(BACKBONES)}")
