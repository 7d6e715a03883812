"""The elastic teacher pool of Joint-DetNAS (section 3.1.3): many teachers in one set of weights, trained once.

    Subnet space                              Teacher, TeacherSpace, teacher_cost
    The networks                              TeacherBackbone, build_teacher, TeacherPool
    Integrated Progressive Shrinking          Phase, ShrinkingSettings, Shrinking, integrated_progressive_shrinking

A teacher is an FPN detector of a depth and width of its own in each of four stages, and of its own neck width. The pool
holds the weights of the largest; of a smaller one the last blocks of a stage are left out, and of every layer the first
channels are in use. `TeacherPool.teacher` takes one out, ready to teach.

Differences from the paper, where it is silent or contradicts itself:

1. The space counts 264 depths x 3^5 widths = 64,152 teachers. The paper's "roughly 765,000 (including different image
   resolutions)" is nearest to 264 x 3^6 x 4 = 769,824, which has one more elastic width. The smallest, of depths
   [2, 2, 2, 2], is made of bottlenecks like all the others, where the paper says ResNet18.
2. The stem keeps the standard width. Stage widths apply to a block's inner channels and its output alike. The RPN and
   the head's first layer follow the neck; the hidden layers of the head do not.
3. Phases of shrinking: the largest net; then one choice down in depth and in width; then everything. Steps of a phase
   train the largest net and two sampled sub-networks, whose mean is the loss. Lengths are presets.
4. The largest net of the very step teaches its sub-networks: it looks at the images once, in training, and then at the
   regions of each sub-network, without gradient.
5. Channels are sorted by importance before each phase that shrinks them, all of them together; Once-for-All leaves
   those that its earlier phases cut off behind all others, so that narrow networks keep the channels that they were
   trained with. f_adap begins each phase as the identity.
6. A mutation is one step of one stage's depth or width, or of the neck's width, all alike likely.
"""

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from common.batch import Batch
from common.cost import Cost
from common.evaluate.recalibrate import reestimate_batch_norm
from common.models.detector import register_backbone
from common.models.elastic import (
    ElasticGroupsLinear,
    copy_corner,
    make_elastic,
    round_channels,
    sort_shared_channels,
)
from common.models.fpn import FPN, level_stride
from common.models.outline import outline
from common.models.resnet import initialise
from common.models.roi_head import RoISettings
from common.models.rpn import RPNSettings
from common.models.two_stage import TwoStage, two_stage_losses
from common.plain import InputError
from common.settings import Optimisation, Precision
from common.train.loop import Batches, FitReport, Step, Training, fit
from common.train.run_folder import Run
from joint_detnas.distillation import (
    DistillationSettings,
    RegionAdapter,
    RegionOutputs,
    check_distillable,
    distilled_losses,
    look_at,
)

STAGES = 4
EXPANSION = Bottleneck.expansion  # channels that a block puts out for each inside
FIRST_LEVEL, LAST_LEVEL = 1, 5  # of the pyramid: strides 4 to 64, the last by pooling

# ------------------------------------------------------------------------------------------------------------------
# Subnet space
# ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Teacher:
    """One teacher: blocks of each stage, multipliers of each stage's standard width and of the neck's."""

    depths: tuple[int, ...]
    widths: tuple[float, ...]
    neck: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "depths", tuple(self.depths))
        object.__setattr__(self, "widths", tuple(map(float, self.widths)))
        object.__setattr__(self, "neck", float(self.neck))
        if len(self.depths) != STAGES or len(self.widths) != STAGES:
            raise InputError(f"a teacher has {STAGES} depths and {STAGES} widths, not {self.depths} and {self.widths}")

    def __str__(self) -> str:
        widths = "-".join(map(_shown, self.widths))
        return f"d{'-'.join(map(str, self.depths))}_w{widths}_n{_shown(self.neck)}"

    @staticmethod
    def parse(text: str) -> "Teacher":
        """The teacher that `str` wrote, such as d3-4-23-3_w1.5-1.25-1-1.5_n1.5; InputError for anything else."""
        number = r"\d+(?:\.\d+)?"
        found = re.fullmatch(rf"d(\d+(?:-\d+)*)_w({number}(?:-{number})*)_n({number})", text)
        if found is None:
            raise InputError(f"{text!r} is no teacher: write depths, widths and neck as d3-4-23-3_w1.5-1.25-1-1.5_n1.5")
        depths, widths, neck = found.groups()
        return Teacher(tuple(map(int, depths.split("-"))), tuple(map(float, widths.split("-"))), float(neck))


def _shown(multiplier: float) -> str:
    return str(multiplier).removesuffix(".0")


@dataclass(frozen=True)
class TeacherSpace:
    """Everything that teachers are chosen from. A thin space is other numbers."""

    depths: tuple[tuple[int, int], ...] = ((2, 3), (2, 4), (2, 23), (2, 3))
    """Fewest and most blocks of each stage."""
    widths: tuple[float, ...] = (1.0, 1.25, 1.5)
    """Multipliers of the standard widths, of each stage and of the neck; they rise."""
    width: int = 64
    """Channels of the stem and inside a block of the first stage of a standard ResNet; they double from stage to
    stage."""
    neck_width: int = 256
    """Channels of a standard pyramid."""
    channel_multiple: int = 8
    """Widths are rounded to a multiple of this."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "depths", tuple(map(tuple, self.depths)))
        object.__setattr__(self, "widths", tuple(map(float, self.widths)))
        ranges = len(self.depths) == STAGES and all(len(each) == 2 and 1 <= each[0] <= each[1] for each in self.depths)
        if not ranges:
            raise InputError(f"depths must give the fewest and most blocks of {STAGES} stages, not {self.depths}")
        if not self.widths or self.widths[0] <= 0 or any(a >= b for a, b in itertools.pairwise(self.widths)):
            raise InputError(f"widths must be positive multipliers that rise, not {self.widths}")
        for base in (self.width, self.neck_width):
            if len({self._channels(base, each) for each in self.widths}) < len(self.widths):
                raise InputError(
                    f"two of the widths {self.widths} are the same number of channels once {base} times them is "
                    f"rounded to a multiple of {self.channel_multiple}: lower channel_multiple"
                )

    def count(self) -> int:
        """How many teachers there are (64,152 in the paper's space; it says roughly 765,000 with resolutions)."""
        return math.prod(most - fewest + 1 for fewest, most in self.depths) * len(self.widths) ** (STAGES + 1)

    def largest(self) -> Teacher:
        """The teacher that holds all the others: the super-network itself."""
        return Teacher(tuple(most for _, most in self.depths), self.widths[-1:] * STAGES, self.widths[-1])

    def smallest(self) -> Teacher:
        """The teacher that all the others hold."""
        return Teacher(tuple(fewest for fewest, _ in self.depths), self.widths[:1] * STAGES, self.widths[0])

    def check(self, teacher: Teacher) -> Teacher:
        """The teacher; InputError where it is none of this space."""
        for stage, (depth, (fewest, most)) in enumerate(zip(teacher.depths, self.depths, strict=True), start=1):
            if not fewest <= depth <= most:
                raise InputError(f"the teacher {teacher} has {depth} blocks in stage {stage}: give {fewest} to {most}")
        for multiplier in (*teacher.widths, teacher.neck):
            if multiplier not in self.widths:
                raise InputError(
                    f"the teacher {teacher} has a width of {_shown(multiplier)}: give one of "
                    f"{', '.join(map(_shown, self.widths))}"
                )
        return teacher

    def sample(self, generator: np.random.Generator) -> Teacher:
        """One of them, all alike likely."""
        return self._built([choices[int(generator.integers(len(choices)))] for choices in self._choices()])

    def mutate(self, teacher: Teacher, generator: np.random.Generator) -> Teacher:
        """A neighbour: the depth or width of one stage, or the width of the neck, one step up or down.

        InputError where the space has one teacher only.
        """
        self.check(teacher)
        parts, choices = [*teacher.depths, *teacher.widths, teacher.neck], self._choices()
        movable = [place for place, each in enumerate(choices) if len(each) > 1]
        if not movable:
            raise InputError("a space of one teacher has none to mutate it into")
        place = movable[int(generator.integers(len(movable)))]
        at = choices[place].index(parts[place])
        nearby = [step for step in (at - 1, at + 1) if 0 <= step < len(choices[place])]
        parts[place] = choices[place][nearby[int(generator.integers(len(nearby)))]]
        return self._built(parts)

    def near_largest(self, steps_down: int | None) -> "TeacherSpace":
        """The part of the space at most so many choices below the largest, in each depth and width; None: all."""
        if steps_down is None:
            return self
        depths = tuple((max(fewest, most - steps_down), most) for fewest, most in self.depths)
        return replace(self, depths=depths, widths=self.widths[-steps_down - 1 :])

    def stage_channels(self, teacher: Teacher) -> tuple[int, ...]:
        """Channels inside the blocks of each stage."""
        return tuple(self._channels(self.width * 2**stage, each) for stage, each in enumerate(teacher.widths))

    def neck_channels(self, teacher: Teacher) -> int:
        """Channels of the pyramid."""
        return self._channels(self.neck_width, teacher.neck)

    def _channels(self, base: int, multiplier: float) -> int:
        return round_channels(base * multiplier, self.channel_multiple)

    def _choices(self) -> tuple[Sequence[Any], ...]:
        """Of each place: four depths, four widths, the neck."""
        return (*(range(fewest, most + 1) for fewest, most in self.depths), *(self.widths,) * (STAGES + 1))

    @staticmethod
    def _built(parts: Sequence[Any]) -> Teacher:
        return Teacher(tuple(parts[:STAGES]), tuple(parts[STAGES : 2 * STAGES]), parts[-1])


# ------------------------------------------------------------------------------------------------------------------
# Cost, without a network
# ------------------------------------------------------------------------------------------------------------------


class _Tally:
    """Parameters and operations of one part of a detector, layer by layer; units: see common.cost."""

    def __init__(self) -> None:
        self.params = self.macs = self.others = 0

    def weights(self, inputs: int, outputs: int, places: int, bias: bool = False) -> "_Tally":
        """A convolution or linear layer of so many inputs an output, at so many places."""
        self.params += (inputs + bias) * outputs
        self.macs += inputs * outputs * places
        self.others += bias * outputs * places
        return self

    def norm(self, channels: int, places: int) -> "_Tally":
        """A batch norm."""
        self.params += 2 * channels
        self.others += 2 * channels * places
        return self

    def each(self, elements: int) -> "_Tally":
        """A ReLU on so many elements, or a max-pool of so many."""
        self.others += elements
        return self

    def numbers(self) -> dict[str, int]:
        flops = 2 * self.macs
        return {"params": self.params, "macs_mmdet": self.macs + self.others, "macs": self.macs, "flops": flops}


def teacher_cost(
    space: TeacherSpace,
    teacher: Teacher,
    size: tuple[int, int],
    categories: int,
    rpn: RPNSettings | None = None,
    roi: RoISettings | None = None,
) -> Cost:
    """What `common.cost.count` says of `build_teacher` with the same arguments, without a network.

    size: width and height of the image, in pixels. `parts`: backbone, fpn, rpn, roi.
    """
    rpn, roi = rpn or RPNSettings(), roi or RoISettings()
    neck = space.neck_channels(space.check(teacher))
    levels = range(FIRST_LEVEL, LAST_LEVEL + 1)
    places = [math.prod(-(-side // level_stride(level)) for side in size) for level in levels]  # cells of each level
    parts = {name: _Tally() for name in ("backbone", "fpn", "rpn", "roi")}

    half = math.prod(-(-side // 2) for side in size)
    stem = space.width
    parts["backbone"].weights(3 * 7**2, stem, half).norm(stem, half).each(stem * half).each(stem * half)  # and max-pool
    in_channels, before = stem, places[0]
    for depth, inner, here in zip(teacher.depths, space.stage_channels(teacher), places, strict=False):
        out = EXPANSION * inner
        for block in range(depth):
            entry = here if block else before  # the first block has the stride, in its 3x3
            part = parts["backbone"].weights(in_channels, inner, entry).norm(inner, entry).each(inner * entry)
            part.weights(9 * inner, inner, here).norm(inner, here).each(inner * here)
            part.weights(inner, out, here).norm(out, here).each(out * here)
            if block == 0:
                part.weights(in_channels, out, here).norm(out, here)
            in_channels = out
        parts["fpn"].weights(in_channels, neck, here, bias=True).weights(9 * neck, neck, here, bias=True)
        before = here

    anchors = rpn.anchors_for(tuple(map(level_stride, levels))).per_cell
    # its weights are counted once, its work on every level
    for inputs, outputs in ((9 * neck, neck), (neck, anchors), (neck, 4 * anchors)):
        parts["rpn"].weights(inputs, outputs, sum(places), bias=True)

    candidates = sum(min(rpn.candidates[1], anchors * cells) for cells in places)
    regions = min(rpn.proposals[1], candidates)
    inputs = (roi.bins or 7) ** 2 * neck
    for outputs in roi.hidden:
        parts["roi"].weights(inputs, outputs, regions, bias=True)
        inputs = outputs
    parts["roi"].weights(inputs, categories + 1, regions, bias=True)
    parts["roi"].weights(inputs, 4 * (categories if roi.class_specific else 1), regions, bias=True)

    numbers = {name: part.numbers() for name, part in parts.items()}
    total = {unit: sum(part[unit] for part in numbers.values()) for unit in numbers["roi"]}
    return Cost(**total, parts=numbers)


# ------------------------------------------------------------------------------------------------------------------
# The networks
# ------------------------------------------------------------------------------------------------------------------


class TeacherBackbone(nn.Module):
    """A ResNet of bottlenecks with a depth and width of its own in each stage; torchvision's blocks and tensor names.

    stem: channels of the first convolution. depths: blocks of each stage. widths: channels inside the blocks of each
    stage, which put out four times that. Images (B, 3, H, W) to the features of four stages at strides 4, 8, 16, 32.

    active_depths: so many blocks of each stage run, the first ones; all unless a super-network has it otherwise.
    """

    def __init__(self, stem: int, depths: Sequence[int], widths: Sequence[int]) -> None:
        super().__init__()
        self.description = {"kind": "joint_detnas_teacher", "stem": stem, "depths": [*depths], "widths": [*widths]}
        self.out_channels = tuple(EXPANSION * width for width in widths)
        self.strides = (4, 8, 16, 32)
        self.stride = self.strides[-1]
        self.active_depths = tuple(depths)
        self.conv1 = nn.Conv2d(3, stem, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels = stem
        for stage, (depth, width, out) in enumerate(zip(depths, widths, self.out_channels, strict=True)):
            stride = 2 if stage else 1
            projection = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
            blocks = [Bottleneck(channels, width, stride, projection)]
            blocks += [Bottleneck(out, width) for _ in range(depth - 1)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
            channels = out
        initialise(self)

    @property
    def stages(self) -> tuple[nn.Sequential, ...]:
        """The four stages."""
        return self.layer1, self.layer2, self.layer3, self.layer4

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        features = []
        for stage, depth in zip(self.stages, self.active_depths, strict=True):
            for block in itertools.islice(stage, depth):
                x = block(x)
            features.append(x)
        return tuple(features)


register_backbone(
    "joint_detnas_teacher",
    lambda description: TeacherBackbone(description["stem"], description["depths"], description["widths"]),
)


def build_teacher(
    space: TeacherSpace,
    teacher: Teacher,
    categories: int,
    rpn: RPNSettings | None = None,
    roi: RoISettings | None = None,
) -> TwoStage:
    """The plain detector of a teacher, not trained; rpn, roi: settings of the two stages, the same for all teachers."""
    return TwoStage(*_parts(space, teacher, categories), rpn, roi)


def _parts(space: TeacherSpace, teacher: Teacher, categories: int) -> tuple[TeacherBackbone, int, FPN]:
    space.check(teacher)
    backbone = TeacherBackbone(space.width, teacher.depths, space.stage_channels(teacher))
    return backbone, categories, FPN(backbone.out_channels, FIRST_LEVEL, LAST_LEVEL, space.neck_channels(teacher))


class TeacherPool(TwoStage):
    """All teachers of a space in the weights of the largest; starts at the largest.

    Its arguments are `build_teacher`'s, without the teacher. `teacher`: the active one.
    """

    def __init__(
        self, space: TeacherSpace, categories: int, rpn: RPNSettings | None = None, roi: RoISettings | None = None
    ) -> None:
        super().__init__(*_parts(space, space.largest(), categories), rpn, roi)
        check_distillable(self)
        if not self.roi.settings.hidden:
            raise InputError("the head of a teacher pool needs a hidden layer, which follows the width of the neck")
        self.space, self.teacher = space, space.largest()
        make_elastic(self)
        head = self.roi.heads[0]
        head.hidden[0] = ElasticGroupsLinear.of(head.hidden[0], self.roi.bins**2)

    def activate(self, teacher: Teacher) -> None:
        """Be that teacher from the next forward on."""
        self.space.check(teacher)
        self.teacher = teacher
        self.backbone.active_depths = teacher.depths
        for stage, inner in zip(self.backbone.stages, self.space.stage_channels(teacher), strict=True):
            for block in stage:
                block.conv1.active_out_channels = block.conv2.active_out_channels = inner
                block.conv3.active_out_channels = EXPANSION * inner
            stage[0].downsample[0].active_out_channels = EXPANSION * inner
        for convolution in (*self.fpn.laterals, *self.fpn.outputs, self.rpn.conv):
            convolution.active_out_channels = self.space.neck_channels(teacher)

    @contextmanager
    def activated(self, teacher: Teacher) -> Iterator[None]:
        """Be that teacher for a while, then the one from before."""
        before = self.teacher
        self.activate(teacher)
        try:
            yield
        finally:
            self.activate(before)

    def extract(self, teacher: Teacher | None = None) -> TwoStage:
        """The plain detector of a teacher (the active one), with copies of its weights and statistics.

        The statistics are those of nobody until they are re-estimated; `ready` does that, too.
        """
        with outline():
            teacher = self.teacher if teacher is None else teacher
            plain = build_teacher(self.space, teacher, self.categories, self.rpn.settings, self.roi.settings)
        return copy_corner(self, plain)

    def ready(self, teacher: Teacher, images: Iterable[Tensor]) -> TwoStage:
        """The plain detector of a teacher as it teaches: in evaluation mode, without gradient, its statistics its own.

        images: batches (B, 3, H, W) on the pool's device that the statistics are estimated from. The paper takes one.
        """
        network = self.extract(teacher).requires_grad_(False)
        reestimate_batch_norm(network.backbone, images)  # neck and heads have no batch norm
        return network.eval()

    def cost(self, teacher: Teacher, size: tuple[int, int]) -> Cost:
        """See `teacher_cost`."""
        return teacher_cost(self.space, teacher, size, self.categories, self.rpn.settings, self.roi.settings)

    def sort_channels(self) -> None:
        """Sort channels by importance, largest first, so that narrower teachers start from those that matter most.

        The importance of a channel is the L1 norm of the weights that read it. The largest teacher computes the same as
        before. Blocks of a stage are sorted together, since their sums tie them, and so are the levels of the pyramid.
        """
        stages = self.backbone.stages
        for stage in stages:
            for block in stage:
                sort_shared_channels([block.conv1, block.bn1], [block.conv2])
                sort_shared_channels([block.conv2, block.bn2], [block.conv3])
        for index, stage in enumerate(stages):
            writers = [*stage[0].downsample, *(layer for block in stage for layer in (block.conv3, block.bn3))]
            readers = [*(block.conv1 for block in itertools.islice(stage, 1, None)), self.fpn.laterals[index]]
            if index + 1 < STAGES:
                following = stages[index + 1][0]
                readers += [following.conv1, following.downsample[0]]
            sort_shared_channels(writers, readers)
        sort_shared_channels([*self.fpn.laterals], [*self.fpn.outputs])
        sort_shared_channels([*self.fpn.outputs], [self.rpn.conv, self.roi.heads[0].hidden[0]])
        sort_shared_channels([self.rpn.conv], [self.rpn.objectness, self.rpn.codes])


# ------------------------------------------------------------------------------------------------------------------
# Training with Integrated Progressive Shrinking (IPS)
# ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Phase:
    """One phase of integrated progressive shrinking."""

    name: str
    """Names the stage in the run."""
    epochs: int
    """Epochs of the phase."""
    steps_down: int | None
    """How many choices below the largest sub-networks go, in depth and width together; 0: the largest alone; None:
    all the way."""
    learning_rate_share: float = 1.0
    """Of the settings' learning rate."""


@dataclass(frozen=True)
class ShrinkingSettings:
    """Integrated progressive shrinking."""

    phases: tuple[Phase, ...] = (Phase("full", 24, 0), Phase("one-step", 12, 1), Phase("all", 24, None))
    """In order; each starts from the weights that the one before left."""
    optimisation: Optimisation = field(default_factory=Optimisation)
    """Of every phase, with the phase's own epochs; milestones are shares of the phase."""
    networks_a_step: int = 2
    """Sub-networks that are trained in a step beside the largest."""
    distillation: DistillationSettings = field(default_factory=DistillationSettings)
    """What the largest net teaches the others with."""
    sort_channels: bool = True
    """Sort channels by importance before a phase that shrinks them."""


class Shrinking(nn.Module):
    """What integrated progressive shrinking trains: the pool, and f_adap from its sub-networks to its largest."""

    def __init__(self, pool: TeacherPool) -> None:
        super().__init__()
        self.pool = pool
        neck = pool.space.neck_channels(pool.space.largest())
        self.adapter = RegionAdapter(neck, neck)

    def losses(
        self, batch: Batch, teachers: Sequence[Teacher], distillation: DistillationSettings
    ) -> Iterator[dict[str, Tensor]]:
        """Losses of the largest net, then of each of `teachers` with what the largest teaches it; "loss" is each one's
        share of their mean. One graph at a time: backpropagate each before the next is asked for."""
        pool, largest, count = self.pool, self.pool.space.largest(), 1 + len(teachers)
        pool.activate(largest)
        outputs = pool(batch.images)
        maps = tuple(each.detach() for each in outputs.maps)
        losses = two_stage_losses(outputs, batch)
        del outputs  # the graph goes with the caller's backward pass
        yield losses | {"loss": losses["loss"] / count}
        del losses

        @torch.no_grad()
        def teaching(boxes: Tensor) -> RegionOutputs:
            with pool.activated(largest):
                return look_at(pool, maps, boxes)

        for teacher in teachers:
            pool.activate(teacher)
            losses = distilled_losses(pool(batch.images), batch, teaching, self.adapter, distillation)
            yield losses | {"loss": losses["loss"] / count}
        pool.activate(largest)


def integrated_progressive_shrinking(
    run: Run,
    model: Shrinking,
    batches: Batches,
    settings: ShrinkingSettings,
    seed: int,
    device: torch.device | str = "cpu",
    precision: Precision = "float32",
) -> list[FitReport]:
    """Train the pool through all phases, each a stage of the run under its name; a report for each.

    What is sampled depends on (seed, phase, step) alone. The same call again goes on where it stopped; finished phases
    are loaded.
    """
    pool = model.pool
    reports = []
    for phase in settings.phases:
        space = pool.space.near_largest(phase.steps_down)
        shrinks = space.count() > 1
        if shrinks and run.stage_done(phase.name) is None:
            # For a fresh phase; in one that goes on, the checkpoint's weights take the place of these.
            model.adapter.reset_parameters()
            if settings.sort_channels:
                pool.sort_channels()

        def step_losses(
            batch: Batch, step: Step, space: TeacherSpace = space, count: int = settings.networks_a_step * shrinks
        ) -> Iterator[dict[str, Tensor]]:
            generator = step.generator("teachers")
            teachers = [space.sample(generator) for _ in range(count)]
            yield from model.losses(batch, teachers, settings.distillation)

        optimisation = replace(
            settings.optimisation,
            epochs=phase.epochs,
            learning_rate=settings.optimisation.learning_rate * phase.learning_rate_share,
            milestones=tuple(share * phase.epochs for share in settings.optimisation.milestones),
        )
        training = Training(optimisation, seed, device, precision)
        reports.append(fit(run, phase.name, model, batches, step_losses, training))
    return reports
