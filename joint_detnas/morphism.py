"""Student morphism: the action space and weight inheritance, Sections 3.1.2 and 3.3 of Joint-DetNAS.

    action = sample_action(student.backbone.architecture, generator)
    student = evolve(student, action, generator)            # f_evolve: a new detector, its parameters inherited
    loss = loss + settings.gamma_weight * gamma_penalty(student)

    Section 3.1.2, Action Space          LayerPruning, ChannelPruning, AddLayer, Rearrange; legal_actions, sample_action
    Section 3.1.2, Weight Inheritance    evolve
    Section 3.3, Model Pruning           layer_importance, channel_importance, kept_channels, gamma_penalty

Differences from the paper, which leaves "the detail of f_evolve for each action" to an appendix that this reproduction
does not have. Where a name stands in brackets, it is a setting.
 1. Layers. A layer is a residual block. The block that changes a stage's shape (with a projection, or without any
    shortcut) stays, and so does the only block of a stage: without them there would be no stage.
 2. Add-Layer. The new block's last gamma and beta are 0, so that it adds nothing yet: the function stays as it is, in
    training too. Where norms are frozen, and nothing could move that gamma, the last convolution is 0 instead. Its
    widths are those of the block before it, but rather of one that does not change the shape; its other weights are
    drawn as those of a fresh network.
 3. "Least L1-Norm" is the least mean |w| over a block's convolutions: the sum would be the least wherever a block is
    small, whatever its weights (`layer_norm`).
 4. "Percentage" is of all channels of inner widths and of stage outputs, under one threshold for the whole backbone as
    in network slimming [25]; equally important ones go evenly from all widths. A stage's output is one set for all its
    blocks, its projection, the next stage's input and the FPN's lateral. A channel of it counts once: a percentage of
    gammas, of which it has up to 24, would take a third of R50's inner channels for 10 %, and with them (gammas being
    random) 34 % of its FLOPs, where Table 2 has 11.5 % and channels counted once make 20 % (`counted`). It is as
    important as its gammas are on average: that is on one scale with a single gamma, so that outputs shrink along with
    inner widths, as the FLOPs of Table 4 say they do; the greatest of so many is hardly ever under a threshold
    (`tied`). The stem stays, unless it is a stage's output (`stem`).
 5. Every width keeps some channels (`fewest_channels`). A ResNeXt loses whole groups, their importance the mean over
    their channels; a depthwise convolution loses those of its expansion.
 6. An action prunes 10 % (`percentages`); the paper says "a small pruning percentage".
 7. Rearrange moves the block at the border to the neighbour stage: from the end of a stage to the beginning of the
    next, behind the block that changes shape, or from there to the end of the one before. It takes the widths that
    blocks have there, so that the budget goes along (`rearranged_widths`); leading channels keep their weights where
    they fit, the rest is drawn, and like an added block it adds nothing yet.
 8. The kind of an action is drawn first, all legal kinds alike, then its stage and place, all alike.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from common.models.fpn import FPN
from common.plain import InputError
from joint_detnas.students import (
    Architecture,
    Block,
    ChannelSet,
    StudentBackbone,
    StudentBlock,
    initialise,
    on_backbone,
)

Detector = TypeVar("Detector", bound=nn.Module)


@dataclass(frozen=True)
class MorphismSettings:
    """What the paper leaves open of actions and of inheritance."""

    kinds: tuple[str, ...] = ("layer pruning", "channel pruning", "add-layer", "rearrange")
    """Kinds of action that there are."""
    percentages: tuple[float, ...] = (10.0,)
    """Percentages of channels that a channel pruning may take."""
    counted: Literal["channels", "gammas"] = "channels"
    """What percentages are of: channels, or gammas, of which a tied channel has one for each norm that writes to it."""
    fewest_channels: int = 4
    """Channels that every width keeps."""
    multiple: int = 1
    """Widths, other than a ResNeXt's inner ones, are pruned to multiples of this."""
    tied: Literal["mean", "max"] = "mean"
    """How the importance of a channel comes from the |gamma| of all norms that write to it."""
    stem: bool = False
    """Also prune the stem's channels, where they are not a stage's output anyway."""
    layer_norm: Literal["mean", "sum"] = "mean"
    """Importance of a layer: |w| on average, or summed up."""
    rearranged_widths: Literal["stage", "own"] = "stage"
    """Inner widths of a block that moves to another stage: those of the blocks there, or its own."""
    gamma_weight: float = 1e-5
    """Lambda: weight of `gamma_penalty` in the training loss (paper: 0.00001)."""

    def __post_init__(self) -> None:
        if self.fewest_channels < 1 or self.multiple < 1:
            raise InputError(
                f"widths of at least {self.fewest_channels} channels in multiples of {self.multiple} cannot be: give 1 "
                "or more for both"
            )
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds:
            raise InputError(f"no action is called {unknown[0] if unknown else ''!r}: give some of {', '.join(KINDS)}")
        for percentage in self.percentages:
            ChannelPruning(percentage)  # says what is wrong with it


# ----------------------------------------------------------------------------------------------------------------------
# Section 3.1.2: the action space A
# ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LayerPruning:
    """ "Directly removes a whole layer with least importance"."""

    kind: ClassVar[str] = "layer pruning"

    def __str__(self) -> str:
        return self.kind


@dataclass(frozen=True)
class ChannelPruning:
    """ "Removes the channels of convolutions which are insignificant": so many per cent of them."""

    percentage: float
    kind: ClassVar[str] = "channel pruning"

    def __post_init__(self) -> None:
        if not 0 < self.percentage < 100:
            raise InputError(
                f"{self.percentage} % of the channels cannot be pruned: give more than 0 and less than 100"
            )

    def __str__(self) -> str:
        return f"{self.kind} {self.percentage:g} %"


@dataclass(frozen=True)
class AddLayer:
    """ "Inserts a new layer at a given position": in a stage, from 1, behind `position` of its blocks."""

    stage: int
    position: int
    kind: ClassVar[str] = "add-layer"

    def __str__(self) -> str:
        return f"{self.kind} stage {self.stage} position {self.position}"


@dataclass(frozen=True)
class Rearrange:
    """ "Moves a layer from one stage to its neighbor stage": out of a stage, from 1, to the next (direction 1) or to
    the one before (-1).
    """

    stage: int
    direction: Literal[-1, 1]
    kind: ClassVar[str] = "rearrange"

    def __str__(self) -> str:
        return f"{self.kind} stage {self.stage} to {self.stage + self.direction}"


Action = LayerPruning | ChannelPruning | AddLayer | Rearrange
KINDS = tuple(action.kind for action in (LayerPruning, ChannelPruning, AddLayer, Rearrange))


def legal_actions(architecture: Architecture, settings: MorphismSettings | None = None) -> list[Action]:
    """Every action that an architecture allows."""
    settings = settings or MorphismSettings()
    actions: list[Action] = []
    removable = removable_layers(architecture)
    if removable:
        actions.append(LayerPruning())
    if any(_bundles(channels, settings) for channels in prunable_sets(architecture, settings)):
        actions += [ChannelPruning(percentage) for percentage in settings.percentages]
    for number, stage in enumerate(architecture.stages, 1):
        actions += [AddLayer(number, place) for place in range(stage.first_movable, len(stage.blocks) + 1)]
        if any(layer[0] == number for layer in removable):
            neighbours = [direction for direction in (-1, 1) if 1 <= number + direction <= len(architecture.stages)]
            actions += [Rearrange(number, direction) for direction in neighbours]
    return [action for action in actions if action.kind in settings.kinds]


def sample_action(
    architecture: Architecture, generator: np.random.Generator, settings: MorphismSettings | None = None
) -> Action:
    """One of the legal actions: first its kind, all alike likely, then one of that kind."""
    by_kind: dict[str, list[Action]] = defaultdict(list)
    for action in legal_actions(architecture, settings):
        by_kind[action.kind].append(action)
    kinds = list(by_kind)
    chosen = by_kind[kinds[int(generator.integers(len(kinds)))]]
    return chosen[int(generator.integers(len(chosen)))]


def removable_layers(architecture: Architecture) -> list[tuple[int, int]]:
    """The blocks that may go, by stage, from 1, and place in it, from 0."""
    return [
        (number, place)
        for number, stage in enumerate(architecture.stages, 1)
        for place in range(stage.first_movable, len(stage.blocks))
        if len(stage.blocks) > 1
    ]


def prunable_sets(architecture: Architecture, settings: MorphismSettings) -> list[ChannelSet]:
    """The sets of tied channels that channel pruning works on."""
    return [each for each in architecture.channel_sets() if each.name != "stem" or each.is_output or settings.stem]


# ----------------------------------------------------------------------------------------------------------------------
# Section 3.3: model pruning
# ----------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def layer_importance(
    backbone: StudentBackbone, settings: MorphismSettings | None = None
) -> dict[tuple[int, int], float]:
    """ "Layer-wise Pruning removes backbone's entire layer with the least L1-Norm": that norm of each block that may
    go, by stage and place (see `removable_layers`).
    """
    mean = (settings or MorphismSettings()).layer_norm == "mean"
    importance = {}
    for number, place in removable_layers(backbone.architecture):
        body = getattr(backbone, f"stage{number}")[place].body
        weights = torch.cat([layer.weight.flatten() for layer in body if isinstance(layer, nn.Conv2d)]).abs()
        importance[number, place] = float(weights.mean() if mean else weights.sum())
    return importance


@torch.no_grad()
def channel_importance(backbone: StudentBackbone, settings: MorphismSettings | None = None) -> dict[str, np.ndarray]:
    """ "Determines the channel importance according to the magnitude of BN's weights": of each unit (a channel; of a
    ResNeXt a group) of each set that may be pruned, by the set's name, (units,) float64.
    """
    settings = settings or MorphismSettings()
    norms = dict(backbone.named_modules())
    importance = {}
    for channels in prunable_sets(backbone.architecture, settings):
        gammas = np.stack([norms[name].weight.abs().double().cpu().numpy() for name in channels.norms])  # (norms, C)
        tied = gammas.mean(axis=0) if settings.tied == "mean" else gammas.max(axis=0)
        importance[channels.name] = tied.reshape(-1, channels.granule).mean(axis=1)
    return importance


def kept_channels(
    backbone: StudentBackbone, percentage: float, settings: MorphismSettings | None = None
) -> dict[str, np.ndarray]:
    """ "Then the channels with least importance are removed": those that stay, of each set of tied channels by its
    name, ascending int64.

    The least important go, one by one over the whole backbone, as long as all together are no more than `percentage`
    of them; one goes in any case.
    """
    settings = settings or MorphismSettings()
    importance = channel_importance(backbone, settings)
    sets = {channels.name: channels for channels in prunable_sets(backbone.architecture, settings)}
    candidates, total = [], 0
    for name, channels in sets.items():
        values = importance[name]
        order = np.lexsort((-np.arange(len(values)), values))  # least first; of equal ones the last
        start, weight = 0, len(channels.norms) if settings.counted == "gammas" else 1
        total += channels.channels * weight
        for size in _bundles(channels, settings):
            units = order[start : start + size]
            start += size
            lost = size * channels.granule * weight
            candidates.append((values[units].mean(), start / len(values), name, units, lost))
    if not candidates:
        raise InputError(f"no channel of {backbone.architecture} can be pruned: every width is at its least")
    candidates.sort(key=lambda candidate: candidate[:2])  # equally important ones go evenly from all sets
    budget, removed = percentage / 100 * total, 0
    kept = {each.name: np.ones(each.channels, dtype=bool) for each in backbone.architecture.channel_sets()}
    for _, _, name, units, lost in candidates:
        if removed and removed + lost > budget + 1e-6:
            break
        removed += lost
        kept[name].reshape(-1, sets[name].granule)[units] = False
    return {name: np.flatnonzero(mask) for name, mask in kept.items()}


def _bundles(channels: ChannelSet, settings: MorphismSettings) -> list[int]:
    """How many units of a set go at once, the first time, the second, ..., until no more may."""
    units = channels.channels // channels.granule
    spare = units - -(-settings.fewest_channels // channels.granule)
    step = settings.multiple if channels.granule == 1 else 1
    sizes = [units % step or step]  # the first brings the width to a multiple
    while sum(sizes) <= spare:
        sizes.append(step)
    return sizes[:-1]


def gamma_penalty(network: nn.Module) -> Tensor:
    """L_BN: the sum of |gamma| over the norms of a detector's backbone, or of a backbone: a scalar.

    Frozen norms do not learn and are left out.
    """
    backbone = getattr(network, "backbone", network)
    norms = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm)
    gammas = [layer.weight for layer in backbone.modules() if isinstance(layer, norms)]
    return torch.cat(gammas).abs().sum() if gammas else next(backbone.parameters()).new_zeros(())


# ----------------------------------------------------------------------------------------------------------------------
# Section 3.1.2: weight inheritance
# ----------------------------------------------------------------------------------------------------------------------


def evolve(
    student: Detector,
    action: Action,
    generator: np.random.Generator | None = None,
    settings: MorphismSettings | None = None,
) -> Detector:
    """f_evolve(S_old, a) -> S_new: a new detector "with adjusted architecture and inherited parameters".

    student: see `students.as_student`; it stays as it is. generator: draws the weights that nothing is inherited for;
    none: always the same ones. Neck and heads keep their weights, the FPN's laterals those of the channels that are
    left. InputError for an action that the architecture does not allow.
    """
    settings = settings or MorphismSettings()
    backbone = student.backbone
    if not isinstance(backbone, StudentBackbone):
        raise InputError(f"a {type(backbone).__name__} cannot evolve: make the detector a student by as_student before")
    _check_legal(backbone.architecture, action)
    if isinstance(action, ChannelPruning):
        architecture, weights = _without_channels(student, kept_channels(backbone, action.percentage, settings))
    else:
        generator = generator or np.random.default_rng(0)
        architecture, weights = _with_layers(student, _changed_layers(backbone, action, settings), generator)
    return on_backbone(student, architecture, backbone.norm, weights)


def _check_legal(architecture: Architecture, action: Action) -> None:
    stages = architecture.stages
    if isinstance(action, LayerPruning):
        legal = bool(removable_layers(architecture))
    elif isinstance(action, AddLayer):
        legal = 1 <= action.stage <= len(stages)
        legal = legal and stages[action.stage - 1].first_movable <= action.position <= len(
            stages[action.stage - 1].blocks
        )
    elif isinstance(action, Rearrange):
        legal = action.direction in (-1, 1) and 1 <= action.stage + action.direction <= len(stages)
        legal = legal and any(number == action.stage for number, _ in removable_layers(architecture))
    else:
        legal = True  # kept_channels says where there is nothing to prune
    if not legal:
        raise InputError(f"the student {architecture} does not allow the action {action}: take one of legal_actions")


def pruned_to(
    student: Detector, macs: float, size: tuple[int, int], settings: MorphismSettings | None = None
) -> Detector:
    """The student after the one channel pruning, by 1 to 95 %, that brings its backbone closest to a cost.

    macs: of the backbone (`macs_mmdet`) for images of `size` (width, height). A copy of the student where nothing comes
    closer. This is pruning as a pipeline does it, all at once; the search prunes little by little.
    """
    settings = settings or MorphismSettings()
    backbone = student.backbone
    everything = {each.name: np.arange(each.channels) for each in backbone.architecture.channel_sets()}
    choices = [everything, *(kept_channels(backbone, float(percentage), settings) for percentage in range(1, 96))]

    def distance(kept: Mapping[str, np.ndarray]) -> float:
        architecture = backbone.architecture.with_channels({name: len(each) for name, each in kept.items()})
        return abs(architecture.cost(size, backbone.norm).macs_mmdet - macs)

    architecture, weights = _without_channels(student, min(choices, key=distance))
    return on_backbone(student, architecture, backbone.norm, weights)


# --- channels ---


def _without_channels(student: nn.Module, kept: Mapping[str, np.ndarray]) -> tuple[Architecture, dict[str, Tensor]]:
    """Architecture and state dict with those channels alone, in backbone and neck."""
    architecture = student.backbone.architecture
    weights, readers = dict(student.state_dict()), _readers_of_features(student.fpn)

    def select(name: str, dimension: int, channels: Tensor) -> None:
        weights[name] = weights[name].index_select(dimension, channels.to(weights[name].device))

    for tied in architecture.channel_sets():
        channels = torch.from_numpy(kept[tied.name])
        for name in tied.rows:
            select(f"backbone.{name}.weight", 0, channels)
        for name in tied.columns:
            select(f"backbone.{name}.weight", 1, channels)
        for name in tied.norms:
            for part in ("weight", "bias", "running_mean", "running_var"):
                if f"backbone.{name}.{part}" in weights:  # a group norm has no statistics
                    select(f"backbone.{name}.{part}", 0, channels)
        for feature in tied.features:
            for name in readers[feature]:
                select(f"fpn.{name}.weight", 1, channels)
    return architecture.with_channels({name: len(channels) for name, channels in kept.items()}), weights


def _readers_of_features(fpn: FPN) -> dict[int, list[str]]:
    """The pyramid's convolutions that read each of the backbone's features, from 0."""
    readers: dict[int, list[str]] = defaultdict(list)
    for index in range(len(fpn.laterals)):
        readers[fpn.first - 1 + index].append(f"laterals.{index}")
    if fpn.extra == "conv-on-input" and len(fpn.extras):
        readers[max(readers)].append("extras.0")
    behind = "" if fpn.norm is None else ".0"  # with a norm there are two modules
    return defaultdict(list, {feature: [name + behind for name in names] for feature, names in readers.items()})


# --- layers ---


@dataclass(frozen=True)
class _Layer:
    """A block of the new architecture. old: the block, by stage and place, whose weights it has; `fits`: as they are,
    else as far as they reach. None: a new one.
    """

    block: Block
    old: tuple[int, int] | None
    fits: bool = True


def _changed_layers(
    backbone: StudentBackbone, action: LayerPruning | AddLayer | Rearrange, settings: MorphismSettings
) -> list[list[_Layer]]:
    """The blocks of each stage after an action."""
    architecture = backbone.architecture
    layers = [
        [_Layer(block, (number, place)) for place, block in enumerate(stage.blocks)]
        for number, stage in enumerate(architecture.stages, 1)
    ]
    if isinstance(action, LayerPruning):
        importance = layer_importance(backbone, settings)
        number, place = min(importance, key=importance.get)
        del layers[number - 1][place]
    elif isinstance(action, AddLayer):
        block = _usual_block(architecture, action.stage, action.position)
        layers[action.stage - 1].insert(action.position, _Layer(block, None))
    else:
        source, target = layers[action.stage - 1], layers[action.stage + action.direction - 1]
        forward = action.direction == 1
        moved = source.pop(-1 if forward else architecture.stages[action.stage - 1].first_movable)
        position = architecture.stages[action.stage].first_movable if forward else len(target)
        usual = _usual_block(architecture, action.stage + action.direction, position)
        if settings.rearranged_widths == "stage" and len(usual.inner) == len(moved.block.inner):
            moved = replace(moved, block=usual)
        target.insert(position, replace(moved, fits=False))
    return layers


def _usual_block(architecture: Architecture, number: int, position: int) -> Block:
    """What a block at a position of a stage is like: the one before it, but rather not one that changes shape."""
    stage = architecture.stages[number - 1]
    usual = stage.blocks[stage.first_movable :] or stage.blocks
    return usual[min(max(position - 1 - stage.first_movable, 0), len(usual) - 1)]


def _with_layers(
    student: nn.Module, layers: list[list[_Layer]], generator: np.random.Generator
) -> tuple[Architecture, dict[str, Tensor]]:
    """Architecture and state dict of those blocks."""
    backbone, state = student.backbone, student.state_dict()
    old = backbone.architecture
    stages = tuple(
        replace(stage, blocks=tuple(layer.block for layer in blocks))
        for stage, blocks in zip(old.stages, layers, strict=True)
    )
    architecture = replace(old, stages=stages)
    weights = {name: tensor for name, tensor in state.items() if not name.startswith("backbone.stage")}
    for number, blocks in enumerate(layers, 1):
        for place, layer in enumerate(blocks):
            inherited = None
            if layer.old is not None:
                inherited = getattr(backbone, f"stage{layer.old[0]}")[layer.old[1]].state_dict()
            if inherited is None or not layer.fits:
                block = _silent_block(architecture, number, place, backbone, generator, inherited or {})
                inherited = block.state_dict()
            weights |= {f"backbone.stage{number}.{place}.{name}": tensor for name, tensor in inherited.items()}
    return architecture, weights


@torch.no_grad()
def _silent_block(
    architecture: Architecture,
    number: int,
    place: int,
    backbone: StudentBackbone,
    generator: np.random.Generator,
    inherited: Mapping[str, Tensor],
) -> StudentBlock:
    """A new block that adds nothing to its input yet; of `inherited` tensors it has the leading channels that fit."""
    norm = backbone.norm
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(generator.integers(2**63)))
        block = StudentBlock(architecture, number, place, norm)
        initialise(block)
    norm.convert(block)
    for name, tensor in block.state_dict().items():
        if name in inherited:
            fitting = tuple(slice(min(sides)) for sides in zip(tensor.shape, inherited[name].shape, strict=True))
            tensor[fitting] = inherited[name][fitting].to(tensor.device)
    convolution, last_norm = block.body[-2:]
    if norm.kind == "frozen":
        convolution.weight.zero_()
        fresh = norm.layer(last_norm.weight.numel())
        last_norm.load_state_dict(fresh.state_dict())
    else:
        last_norm.weight.zero_()
        last_norm.bias.zero_()
    reference = next(backbone.parameters())
    return block.to(reference.device, reference.dtype)
