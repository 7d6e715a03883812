"""SM-NAS: Structural-to-Modular Neural Architecture Search for Object Detection.

Lewei Yao, Hang Xu, Wei Zhang, Xiaodan Liang, Zhenguo Li; AAAI 2020. The method in the paper's order:

    NAS Pipeline (Figure 2)                         structural_to_modular, Settings
    Stage-one: Structural-level Searching           StructuralSpace, stage_one
    Stage-two: Modular-level Search                 ModularSpace, Group, stage_two, pick, hand_on
    Train from Scratch and Fast Evaluate (Table 3)  Strategy
    Multi-objective Search Algorithm                LATENCY, FLOPS, History, evolve, not_larger, speaks_against
    its control                                     random_search

How architectures are written stands in sm_nas.encoding. Nothing here trains: what does is handed in, by
sm_nas.study with run folders, or by a test with a made-up landscape.

    python -m sm_nas.search --scale smoke           both stages in about a minute
    python -m sm_nas.search --describe --json       the two spaces, counted exactly
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, Protocol, TypeVar

import numpy as np

from common.plain import InputError
from common.search.pareto import pareto_front
from common.settings import Optimisation
from sm_nas.encoding import (
    BACKBONE_LEVELS,
    DOUBLINGS,
    FEWEST_BLOCKS,
    LAST_LEVEL,
    MOST_BLOCKS,
    RPN_NAMES,
    STAGES,
    STANDARD_BACKBONES,
    BackboneCode,
    Structure,
)

Result = TypeVar("Result")

# ------------------------------------------------------------------------------------------------------------------
# NAS Pipeline
# ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All that the pipeline needs to know besides data and seed."""

    structural: "StructuralSpace"
    """The space of stage one."""
    modular: "ModularSpace"
    """The space of stage two."""
    stage_one: "SearchSettings"
    """The structural search."""
    stage_one_training: "Strategy"
    """Of its candidates: pre-trained, few epochs."""
    groups: int
    """Structures that stage one hands on to stage two (paper: 6, C0 to C5)."""
    stage_two: "SearchSettings"
    """The modular search, of each group."""
    stage_two_training: "Strategy"
    """Of its candidates: from scratch, group norm and weight standardisation."""
    final_training: "Strategy"
    """Of everything that is reported: batch norm, pre-trained, a longer schedule."""

    def __post_init__(self) -> None:
        if self.groups < 1:
            raise InputError(f"groups must be at least 1, or stage two has nothing to go on with, got {self.groups}")


def structural_to_modular(
    settings: Settings,
    search: Callable[["Stage"], "History"],
    flops: Callable[[Structure], float],
    finish: Callable[[str, Structure], Result],
) -> dict[str, Result]:
    """The pipeline from coarse to fine (Figure 2): F0, F1, ..., the network found from each of C0, C1, ...

    search(stage): its candidates, trained and measured. flops(structure): its cost without training it.
    finish(name, structure): what becomes of a found network; here the final training has its place.
    """
    # Stage one: which modules go together, and at which input size, by measured time and AP.
    structures = search(stage_one(settings))
    # C0 to C5, spread over its front.
    picks = pick(structures.front(), settings.groups)
    found = {}
    for group, picked in enumerate(picks):
        # Stage two: the backbone and the FPN's width inside that structure, by FLOPs and AP. No pre-trained weights
        # fit a changed backbone, so candidates are trained from scratch.
        networks = search(stage_two(settings, group, picked.structure))
        # The better network at no more FLOPs than the structure had.
        found[f"F{group}"] = hand_on(networks, flops(picked.structure))
    # "We change the backbone back to BN and no Weight Standardization mode": trained anew, by the final strategy.
    return {name: finish(name, structure) for name, structure in found.items()}


@dataclass(frozen=True)
class Stage:
    """One search of the pipeline: what is chosen from, and how candidates are proposed, trained and compared."""

    name: str
    """Of its run: stage-one, stage-two-c0, ..."""
    space: "Space"
    search: "SearchSettings"
    strategy: "Strategy"
    cost: str
    """The second objective besides AP: LATENCY or FLOPS."""
    start: tuple[Structure, ...] = ()
    """Candidates that come first."""
    number: int = 0
    """Among the pipeline's searches, each of which draws independently."""


def stage_one(settings: Settings) -> Stage:
    """Stage one: time of detection against AP, from pre-trained backbones."""
    return Stage("stage-one", settings.structural, settings.stage_one, settings.stage_one_training, LATENCY)


def stage_two(settings: Settings, group: int, structure: Structure) -> Stage:
    """Stage two within C`group`: FLOPs against AP, from scratch, beginning with the structure's own backbone."""
    bound = Group(settings.modular, structure)
    name = f"stage-two-c{group}"
    return Stage(name, bound, settings.stage_two, settings.stage_two_training, FLOPS, (bound.start(),), 1 + group)


# ------------------------------------------------------------------------------------------------------------------
# Stage-one: Structural-level Searching
# ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StructuralSpace:
    """Everything that stage one chooses from, independently: backbone, input size, neck, and RPN with its head."""

    backbones: tuple[str, ...] = STANDARD_BACKBONES
    """Standard backbones."""
    sizes: tuple[tuple[int, int], ...] = ((512, 512), (800, 600), (1080, 720), (1333, 800))
    """Width and height, pixels."""
    first_levels: tuple[int, ...] = tuple(range(1, BACKBONE_LEVELS + 1))
    """First level of the FPN."""
    last_level: int = LAST_LEVEL
    """Highest last level of the FPN."""
    neck_widths: tuple[int, ...] = (128, 256, 512)
    """Channels of the FPN."""
    cascades: tuple[int, ...] = (1, 2, 3, 4)
    """Numbers of heads of a two-stage detector; RetinaNet is the one-stage choice."""
    without_fpn: bool = True
    """No FPN, the original Faster R-CNN, is a choice, too."""

    @property
    def necks(self) -> tuple[tuple[tuple[int, int] | None, int | None], ...]:
        """No FPN where that is a choice, then every range of levels at every width."""
        ranges = [(a, b) for a in self.first_levels for b in range(a + 1, self.last_level + 1)]
        return (*[(None, None)] * self.without_fpn, *itertools.product(ranges, self.neck_widths))

    @property
    def heads(self) -> tuple[tuple[str | None, int], ...]:
        """RPN and number of heads: RetinaNet, then every RPN with every number."""
        return ((None, 0), *itertools.product(RPN_NAMES, self.cascades))

    def count(self) -> int:
        """Number of combinations (paper: 1.1e4)."""
        return math.prod(map(len, self._choices()))

    def networks(self) -> int:
        """Number of different networks: backbones may be the same as far as a neck reads them."""
        size, head = self.sizes[0], self.heads[0]
        pairs = itertools.product(self.backbones, self.necks)
        read = {_built((backbone, size, neck, head)) for backbone, neck in pairs}
        return len(read) * len(self.sizes) * len(self.heads)

    def sample(self, generator: np.random.Generator) -> Structure:
        """A random network, all equally likely."""
        while True:
            parts = [_chosen(choices, generator) for choices in self._choices()]
            structure = _built(parts)
            if self._parts(structure) == parts:
                return structure

    def mutate(self, structure: Structure, generator: np.random.Generator) -> Structure:
        """The structure with one of its modules, or its size, exchanged for another choice, where there is any."""
        parts = self._parts(structure)
        others = [
            [choice for choice in choices if _built([*parts[:place], choice, *parts[place + 1 :]]) != structure]
            for place, choices in enumerate(self._choices())
        ]
        open_places = [place for place, choices in enumerate(others) if choices]
        if not open_places:
            return structure
        place = _chosen(open_places, generator)
        parts[place] = _chosen(others[place], generator)
        return _built(parts)

    def _choices(self) -> tuple[Sequence[Any], ...]:
        return self.backbones, self.sizes, self.necks, self.heads

    def _parts(self, structure: Structure) -> list[Any]:
        """The choices that give a structure; of backbones that are the same as far as they are read, the first."""
        rest = [structure.size, (structure.levels, structure.neck_width), (structure.rpn, structure.heads)]
        return [next(each for each in self.backbones if _built([each, *rest]) == structure), *rest]


def _built(parts: Sequence[Any]) -> Structure:
    backbone, size, neck, head = parts
    return Structure(backbone, size, *neck, *head).as_read()


def _chosen(choices: Sequence[Any], generator: np.random.Generator) -> Any:
    return choices[int(generator.integers(len(choices)))]


# ------------------------------------------------------------------------------------------------------------------
# Stage-two: Modular-level Search
# ------------------------------------------------------------------------------------------------------------------


def pick(front: Sequence["Evaluated"], count: int) -> list["Evaluated"]:
    """C0 to C5: `count` members of a front for stage two, evenly spread over its range of AP, by cost.

    The best is among them, the cheapest is not: where AP has only begun to rise there is nothing to refine. Each place
    in between goes to the nearest member that is left. A front of no more members is taken whole.
    """
    members = sorted(front, key=lambda each: each.cost)
    if len(members) <= count:
        return members
    lowest, highest = members[0].accuracy, members[-1].accuracy
    chosen: list[int] = []
    for place in np.linspace(highest, lowest, count + 1)[:count]:
        left = [index for index in range(1, len(members)) if index not in chosen]
        chosen.append(min(left, key=lambda index: abs(members[index].accuracy - place)))
    return [members[index] for index in sorted(chosen)]


TRIES = 10_000
"""Draws of a code, until one lies within its group's bounds."""


@dataclass(frozen=True)
class ModularSpace:
    """What stage two chooses from within one structure: the backbone's code and the channels of the FPN."""

    bases: tuple[int, ...] = (48, 56, 64, 72)
    """Base channels."""
    standard_base: int = 64
    """Base channels of a standard backbone's own code."""
    neck_widths: tuple[int, ...] = (128, 256, 512)
    """Channels of the FPN; the heads follow it."""
    fewest_blocks: int = FEWEST_BLOCKS
    """Smallest number of blocks."""
    most_blocks: int = MOST_BLOCKS
    """Largest number of blocks."""
    base_probability: float = 0.5
    """Probability that a mutation moves the base width to a neighbour."""
    neck_probability: float = 0.25
    """Probability that it moves the FPN's width to a neighbour."""
    operations: int = 3
    """Changes of the code in a mutation."""
    flops_bounds: tuple[float, float] | None = (0.5, 1.5)
    """Least and most multiply-accumulates of a backbone, as shares of its group's own; None means no bounds."""

    def __post_init__(self) -> None:
        if self.flops_bounds is not None and not self.flops_bounds[0] <= 1 <= self.flops_bounds[1]:
            raise InputError(f"flops_bounds must lie about 1, the group's own backbone, got {self.flops_bounds}")

    def count(self) -> int:
        """Number of codes with a neck width, for one block setting and within any bounds (paper: about 5.0e12).

        Of n blocks three double, and three of the n - 1 gaps between them separate stages.
        """
        codes = sum(
            math.comb(n, DOUBLINGS) * math.comb(n - 1, STAGES - 1)
            for n in range(self.fewest_blocks, self.most_blocks + 1)
        )
        return codes * len(self.bases) * len(self.neck_widths)


@dataclass(frozen=True)
class Group:
    """Stage two within one structure of stage one."""

    space: ModularSpace
    structure: Structure

    def start(self) -> Structure:
        """The structure in the words of stage two: its own backbone as a code, at the nearest legal widths.

        A standard backbone with more blocks than the space allows loses them where a stage has most.
        """
        space, width, code = self.space, self.structure.neck_width, self._own_code
        stages = list(code.stages)
        while sum(map(len, stages)) > space.most_blocks:
            longest = max(range(STAGES), key=lambda stage: len(stages[stage]))
            stages[longest] = stages[longest][:-1]
        code = replace(code, stages=tuple(stages))
        width = None if width is None else _nearest(space.neck_widths, width)
        return replace(self.structure, backbone=str(code), neck_width=width).as_read()

    def sample(self, generator: np.random.Generator) -> Structure:
        """A random code: any number of blocks is equally likely, then any code of that many, within the bounds."""
        for _ in range(TRIES):
            structure = self._drawn(generator)
            if self._affordable(structure):
                return structure
        return self.start()

    def _affordable(self, structure: Structure) -> bool:
        if self.space.flops_bounds is None:
            return True
        share = _backbone_macs(structure) / self._own_macs
        return self.space.flops_bounds[0] <= share <= self.space.flops_bounds[1]

    @property
    def _own_code(self) -> BackboneCode:
        """The structure's own backbone, however many blocks it has."""
        space, backbone = self.space, self.structure.backbone
        if backbone not in STANDARD_BACKBONES:
            return BackboneCode.parse(backbone).whole()
        # MobileNetV2's blocks put out half their width: 24 channels at stride 4, where a ResNet's base is 64
        base = space.standard_base * (0.75 if self.structure.block == "MBblock" else 1)
        return BackboneCode.standard(backbone, _nearest(space.bases, base))

    @cached_property
    def _own_macs(self) -> int:
        return _backbone_macs(replace(self.structure, backbone=str(self._own_code)).as_read())

    def _drawn(self, generator: np.random.Generator) -> Structure:
        space = self.space
        blocks = int(generator.integers(space.fewest_blocks, space.most_blocks + 1))
        digits = np.full(blocks, "1")
        digits[generator.choice(blocks, DOUBLINGS, replace=False)] = "2"
        cuts = np.sort(generator.choice(blocks - 1, STAGES - 1, replace=False)) + 1
        stages = tuple("".join(part) for part in np.split(digits, cuts))
        code = BackboneCode(self.structure.block, _chosen(space.bases, generator), stages)
        width = None if self.structure.neck_width is None else _chosen(space.neck_widths, generator)
        return replace(self.structure, backbone=str(code), neck_width=width).as_read()

    def mutate(self, structure: Structure, generator: np.random.Generator) -> Structure:
        """A neighbour within the bounds: perhaps another base or neck width, and some changes of the code.

        Never the same again, unless all else lies beyond the bounds.
        """
        space = self.space
        for _ in range(TRIES):
            code = BackboneCode.parse(structure.backbone).whole()
            base, width = code.base, structure.neck_width
            if generator.random() < space.base_probability:
                base = _neighbour(space.bases, base, generator)
            if width is not None and generator.random() < space.neck_probability:
                width = _neighbour(space.neck_widths, width, generator)
            text = "-".join(code.stages)
            for _ in range(space.operations):
                text = _changed(text, generator)
            stages = tuple(text.split("-"))
            if all(stages) and space.fewest_blocks <= sum(map(len, stages)) <= space.most_blocks:
                backbone = str(BackboneCode(code.block, base, stages))
                mutated = replace(structure, backbone=backbone, neck_width=width).as_read()
                if mutated != structure and self._affordable(mutated):
                    return mutated
        return structure


def _backbone_macs(structure: Structure) -> int:
    return BackboneCode.parse(structure.backbone).macs(structure.input_size)


def _changed(text: str, generator: np.random.Generator) -> str:
    """One of three changes of the stages' text: insert a 1, remove a 1, or swap a 2 or - with what stands beside it."""
    symbols = list(text)
    change = generator.integers(3)
    if change == 0:
        symbols.insert(int(generator.integers(len(symbols) + 1)), "1")
    elif change == 1:
        ones = [place for place, symbol in enumerate(symbols) if symbol == "1"]
        if ones:
            del symbols[_chosen(ones, generator)]
    else:
        place = _chosen([place for place, symbol in enumerate(symbols) if symbol != "1"], generator)
        beside = [other for other in (place - 1, place + 1) if 0 <= other < len(symbols)]
        other = _chosen(beside, generator)
        symbols[place], symbols[other] = symbols[other], symbols[place]
    return "".join(symbols)


def _neighbour(choices: Sequence[int], value: int, generator: np.random.Generator) -> int:
    place = choices.index(value)
    beside = [choices[other] for other in (place - 1, place + 1) if 0 <= other < len(choices)]
    return _chosen(beside, generator) if beside else value


def _nearest(choices: Sequence[int], value: int) -> int:
    return min(choices, key=lambda choice: abs(choice - value))


def hand_on(searched: "History", budget: float) -> Structure:
    """What stage two makes of a structure that costs `budget`: the most accurate on its front at no higher cost.

    The cheapest on the front where none is that cheap; the first candidate where all have failed.
    """
    front = searched.front() or searched.evaluated[:1]
    affordable = [each for each in front if each.cost <= budget] or front[:1]
    return max(affordable, key=lambda each: each.accuracy).structure


# ------------------------------------------------------------------------------------------------------------------
# Train from Scratch and Fast Evaluate the Architecture
# ------------------------------------------------------------------------------------------------------------------

TrainedNorm = Literal["batch", "group", "group-ws"]
"""Batch norm, group norm, or group norm with weight standardisation.

Group norm does not depend on how few images a device holds, and weight standardisation smooths the loss as batch norm
does; together they bear a learning rate at which a detector learns from scratch in few epochs (Table 3).
"""


@dataclass(frozen=True)
class Strategy:
    """How a detector is trained: the columns of Table 3."""

    norm: TrainedNorm
    """Of the whole detector."""
    pretrained: bool
    """Start from a backbone that was trained on classification."""
    optimisation: Optimisation
    """Epochs, learning rate and the rest."""
    images_a_device: int
    """Images that one forward pass, and so a batch norm, sees at a time."""
    devices: int = 1
    """Forward passes in a step: what as many devices would do side by side."""
    frozen_stages: int | None = None
    """Stem and stages of the backbone that are not trained, where its batch norms keep their statistics, too; None
    trains all of it."""
    zero_init: bool = True
    """Residual blocks that are not pre-trained begin by adding nothing."""

    @property
    def batch_size(self) -> int:
        """Images in a step."""
        return self.images_a_device * self.devices


# ------------------------------------------------------------------------------------------------------------------
# Multi-objective Search Algorithm
# ------------------------------------------------------------------------------------------------------------------

LATENCY, FLOPS = "latency", "macs_mmdet"
"""The objective besides AP, by its name among what is measured. Stage one: milliseconds of detection, which alone tell
different structures apart. Stage two: multiply-accumulates, which the paper calls FLOPs; they are more precise than a
time between backbones of one structure, and known before training."""


@dataclass(frozen=True)
class Evaluated:
    """A candidate with its two objectives: cost (inference time in stage one, FLOPs in stage two) and AP.

    Of a failed candidate both may be NaN; it is on no front. generation: 0 of the first ones. parent: the candidate
    that it was mutated from.
    """

    structure: Structure
    cost: float
    accuracy: float
    generation: int
    parent: Structure | None = None


@dataclass(frozen=True)
class Skipped:
    """A candidate that partial order pruning left untrained, and the two trained ones that speak against it.

    witness: deeper and wider, so taken to be at least as accurate. better: on the front, at least as accurate as the
    witness and at no higher cost than the candidate.
    """

    structure: Structure
    cost: float
    generation: int
    witness: Structure
    better: Structure


@dataclass
class History:
    """All candidates in the order in which they were proposed."""

    evaluated: list[Evaluated] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    def front(self) -> list[Evaluated]:
        """Those that no other dominates, by cost: the result of non-dominated sorting."""
        places = pareto_front([each.cost for each in self.evaluated], [each.accuracy for each in self.evaluated])
        return [self.evaluated[place] for place in places]


@dataclass(frozen=True)
class SearchSettings:
    """How many candidates, and how they are proposed."""

    budget: int
    """Candidates that are trained, those of the first generation included (paper: about 500; about 300 a group)."""
    first: int
    """Random candidates that the search begins with."""
    generation: int
    """Candidates proposed at a time from one front; so many can be trained side by side."""
    fresh: float = 0.2
    """Share of random candidates among those of later generations."""
    pruning: bool = True
    """Partial order pruning, where candidates have a partial order (stage two)."""
    order: Literal["stage", "position"] = "stage"
    """What no deeper and no wider means there: stage by stage, or at each place from the input on."""


class Space(Protocol):
    """What a search needs of a space; stage two's is bound to one structure by `Group`."""

    def sample(self, generator: np.random.Generator) -> Structure: ...

    def mutate(self, structure: Structure, generator: np.random.Generator) -> Structure: ...


Evaluate = Callable[[Sequence[Structure]], Iterator[Mapping[str, float]]]
"""Trains and measures candidates: yields for each, in order, at least {"cost", "AP"} (missing where it failed)."""


def evolve(
    space: Space,
    settings: SearchSettings,
    evaluate: Evaluate,
    seed: Sequence[int],
    cost: Callable[[Structure], float] | None = None,
    start: Sequence[Structure] = (),
) -> History:
    """Mutate the best architectures on the Pareto front, generation by generation.

    start: candidates that come first. cost: of an untrained candidate; with it, and where the settings say so, partial
    order pruning skips candidates, which then do not count towards the budget.

    What is proposed depends only on the seed, the generation and what was measured before: done again over recorded
    measurements, the search comes to the same candidate again, wherever it was broken off.
    """
    history, seen, generation = History(), set(), 0
    while len(history.evaluated) < settings.budget:
        generator = np.random.default_rng([*seed, generation])
        left = settings.budget - len(history.evaluated)
        if generation == 0:
            proposed = [(each, None) for each in _filled(start, settings.first, space, generator)][: settings.budget]
        else:
            proposed = _children(space, settings, history, generator, seen)
        proposed = [(child, parent) for child, parent in proposed if child not in seen]
        seen.update(child for child, _ in proposed)
        if not proposed:
            break  # a small space: everything was proposed
        chosen = []
        for child, parent in proposed:
            if len(chosen) == left:
                break  # nobody asks about the rest
            if generation and settings.pruning and cost is not None:
                known = cost(child)
                against = speaks_against(child, known, history, settings.order)
                if against is not None:
                    history.skipped.append(Skipped(child, known, generation, *against))
                    continue
            chosen.append((child, parent))
        history.evaluated += _evaluated(chosen, evaluate, generation)
        generation += 1
    return history


def _filled(given: Iterable[Structure], count: int, space: Space, generator: np.random.Generator) -> list[Structure]:
    """The given structures, then random others up to `count`, as far as a small space has them."""
    chosen = dict.fromkeys(given)
    for _ in range(100 * count):
        if len(chosen) >= count:
            break
        chosen.setdefault(space.sample(generator))
    return list(chosen)


def _evaluated(
    proposed: Sequence[tuple[Structure, Structure | None]], evaluate: Evaluate, generation: int
) -> list[Evaluated]:
    """Candidates and their parents, trained and measured."""
    measured = evaluate([child for child, _ in proposed])
    return [
        Evaluated(child, each.get("cost", math.nan), each.get("AP", math.nan), generation, parent)
        for (child, parent), each in zip(proposed, measured, strict=True)
    ]


def _children(
    space: Space, settings: SearchSettings, history: History, generator: np.random.Generator, seen: set[Structure]
) -> list[tuple[Structure, Structure | None]]:
    """A generation: mutations of members of the front, all equally likely, and a share of random candidates."""
    front = history.front()
    children: dict[Structure, Structure | None] = {}
    for _ in range(100 * settings.generation):
        if len(children) >= settings.generation:
            break
        parent = None
        if front and generator.random() >= settings.fresh:
            parent = _chosen(front, generator).structure
        child = space.sample(generator) if parent is None else space.mutate(parent, generator)
        if child not in seen:
            children.setdefault(child, parent)
    return list(children.items())


def not_larger(one: Structure, other: Structure, order: Literal["stage", "position"] = "stage") -> bool:
    """The partial order of stage two: whether `one` is nowhere deeper nor wider than `other`.

    Same modules and size; no larger base or neck, no longer stage; and nowhere more channels, at a place counted from
    the end of its stage (each stage is as wide as its output), or from the input.
    """
    modules = [(each.size, each.levels, each.rpn, each.heads, each.pooled) for each in (one, other)]
    if modules[0] != modules[1]:
        return False
    a, b = BackboneCode.parse(one.backbone), BackboneCode.parse(other.backbone)
    return (
        a.block == b.block
        and a.base <= b.base
        and (one.neck_width or 0) <= (other.neck_width or 0)
        and all(len(x) <= len(y) for x, y in zip(a.stages, b.stages, strict=True))
        and all(x <= y for x, y in _places(a, b, order))
    )


def _places(a: BackboneCode, b: BackboneCode, order: str) -> Iterator[tuple[int, int]]:
    """Channels of two codes at the same places."""
    if order == "position":
        return zip(a.widths, b.widths, strict=False)
    stages = zip(a.stage_widths, b.stage_widths, strict=True)
    return itertools.chain.from_iterable(zip(x[::-1], y[::-1], strict=False) for x, y in stages)


def speaks_against(
    structure: Structure, cost: float, history: History, order: Literal["stage", "position"] = "stage"
) -> tuple[Structure, Structure] | None:
    """Partial order pruning: the witness and the better one because of which a candidate need not be trained, or None.

    If a network that is deeper and wider is already no more accurate than one that costs no more than the candidate,
    the candidate cannot come onto the front.
    """
    for witness, better in witnesses(cost, history):
        if not_larger(structure, witness.structure, order):
            return witness.structure, better.structure
    return None


def witnesses(cost: float, history: History) -> Iterator[tuple[Evaluated, Evaluated]]:
    """Networks that are no more accurate than another one that costs no more than `cost`, each with that one."""
    affordable = [member for member in history.front() if member.cost <= cost]
    for witness in history.evaluated:
        better = (each for each in affordable if each.accuracy >= witness.accuracy and each is not witness)
        if (member := next(better, None)) is not None:
            yield witness, member


def random_search(
    space: Space, settings: SearchSettings, evaluate: Evaluate, seed: Sequence[int], start: Sequence[Structure] = ()
) -> History:
    """The control: as many candidates, all random; the first ones are those that `evolve` begins with."""
    first = _filled(start, settings.first, space, np.random.default_rng([*seed, 0]))[: settings.budget]
    every = _filled(first, settings.budget, space, np.random.default_rng([*seed, 2**31]))[: settings.budget]
    return History(_evaluated([(each, None) for each in every], evaluate, 0))
