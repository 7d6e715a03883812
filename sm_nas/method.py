"""SM-NAS: Structural-to-Modular Neural Architecture Search for Object Detection.

Lewei Yao, Hang Xu, Wei Zhang, Xiaodan Liang, Zhenguo Li; AAAI 2020. The method in the paper's order:

    Stage-one: Structural-level Searching     Structure, StructuralSpace
    Stage-two: Modular-level Searching        BackboneCode, ModularSpace
    Multi-objective Search Algorithm          pick, PartialOrder, evolve (and random_search, its control)

Training from scratch with group norm and weight standardisation is a setting of the networks (sm_nas.networks) and of
their training (sm_nas.trial); that is where a candidate gets its accuracy. Nothing in this file trains.

    python -m sm_nas.search --scale smoke           both stages in about a minute
    python -m sm_nas.search --describe --json       the two spaces, counted exactly
"""

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any, Protocol

import numpy as np

from common.plain import InputError
from common.search.pareto import pareto_front

# ------------------------------------------------------------------------------------------------------------------
# Stage-one: Structural-level Searching
# ------------------------------------------------------------------------------------------------------------------

STANDARD_BACKBONES = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnext50_32x4d",
    "resnext101_32x4d",
    "mobilenet_v2",
)
BACKBONE_LEVELS = 4  # P1 (stride 4) to P4 (stride 32) come from the backbone
HEAD_NAMES = {0: "retinanet", 1: "2fc", 2: "cascade2", 3: "cascade3", 4: "cascade4"}
RPN_NAMES = ("rpn", "ga-rpn")


@dataclass(frozen=True)
class Structure:
    """A whole detector: which modules go together, and at which input size.

    backbone: one of STANDARD_BACKBONES, or the code of a searched one (`BackboneCode`). size: width and height that
    images are fitted into, in pixels. levels: (a, b) of FPN(Pa-Pb); none: no FPN, the original Faster R-CNN.
    neck_width: channels of the FPN, and of the RPN and heads with it. rpn: one of RPN_NAMES; none in a one-stage
    detector. heads: 0 is RetinaNet's, 1 two fully connected layers, 2 to 4 a cascade of so many.
    pooled: levels past the backbone come from pooling; else from a convolution on the backbone's last feature.
    """

    backbone: str
    size: tuple[int, int]
    levels: tuple[int, int] | None
    neck_width: int | None
    rpn: str | None
    heads: int
    pooled: bool = True

    def __post_init__(self) -> None:
        problems = {
            f"the backbone {self.backbone!r} is neither a standard one nor a code": "_" not in self.backbone
            and self.backbone not in STANDARD_BACKBONES,
            f"the size {self.size[0]}x{self.size[1]} has no pixels": min(self.size) < 1,
            "a width of the FPN goes with its levels": (self.levels is None) != (self.neck_width is None),
            f"an FPN of {self.neck_width} channels is none": self.neck_width is not None and self.neck_width < 1,
            "without an FPN there are no levels past the backbone to convolve": not self.pooled and self.levels is None,
            f"there is no RPN {self.rpn!r}": self.rpn is not None and self.rpn not in RPN_NAMES,
            f"heads are 0 to 4, not {self.heads}": self.heads not in HEAD_NAMES,
            "a one-stage detector (heads 0) has no RPN, all others have one": (self.heads == 0) != (self.rpn is None),
        }
        if self.levels is not None:
            first, last = self.levels
            wrong = not 1 <= first <= BACKBONE_LEVELS or not first < last <= BACKBONE_LEVELS + 2
            problems[f"FPN(P{first}-P{last}) is none of P1..P4 to a later level up to P6"] = wrong
        for problem, there in problems.items():
            if there:
                raise InputError(f"the structure cannot be built: {problem}")
        if self.backbone not in STANDARD_BACKBONES:
            BackboneCode.parse(self.backbone)  # says itself what is wrong

    def __str__(self) -> str:
        neck = "no-fpn" if self.levels is None else f"P{self.levels[0]}-P{self.levels[1]} c{self.neck_width}"
        neck += "" if self.pooled else "+conv"
        rpn = "" if self.rpn is None else f"{self.rpn} "
        return f"{self.backbone} {self.size[0]}x{self.size[1]} {neck} {rpn}{HEAD_NAMES[self.heads]}"

    @staticmethod
    def parse(text: str) -> "Structure":
        """The structure that `str` wrote; InputError for anything else."""
        pattern = (
            r"(\S+) (\d+)x(\d+) (?:no-fpn|P(\d)-P(\d) c(\d+)(\+conv)?) (?:(rpn|ga-rpn) )?"
            rf"({'|'.join(HEAD_NAMES.values())})"
        )
        found = re.fullmatch(pattern, text)
        if found is None:
            raise InputError(
                f"{text!r} is no structure: write it as 'resnet50 800x600 P2-P5 c256 rpn cascade3', with no-fpn for "
                "no FPN, and retinanet without an RPN"
            )
        backbone, width, height, first, last, channels, conv, rpn, head = found.groups()
        levels = None if first is None else (int(first), int(last))
        heads = next(number for number, name in HEAD_NAMES.items() if name == head)
        neck_width = None if channels is None else int(channels)
        return Structure(backbone, (int(width), int(height)), levels, neck_width, rpn, heads, conv is None)


@dataclass(frozen=True)
class StructuralSpace:
    """Everything that stage one chooses from, independently: backbone, input size, neck, and RPN with its head."""

    backbones: tuple[str, ...] = STANDARD_BACKBONES
    """Standard backbones."""
    sizes: tuple[tuple[int, int], ...] = ((512, 512), (800, 600), (1080, 720), (1333, 800))
    """Width and height, pixels."""
    first_levels: tuple[int, ...] = (1, 2, 3, 4)
    """First level of the FPN."""
    last_level: int = 6
    """Highest last level of the FPN."""
    neck_widths: tuple[int, ...] = (128, 256, 512)
    """Channels of the FPN."""
    cascades: tuple[int, ...] = (1, 2, 3, 4)
    """Numbers of heads of a two-stage detector; RetinaNet is the one-stage choice."""

    @property
    def necks(self) -> tuple[tuple[tuple[int, int] | None, int | None], ...]:
        """No FPN, then every range of levels at every width."""
        ranges = [(a, b) for a in self.first_levels for b in range(a + 1, self.last_level + 1)]
        return ((None, None), *itertools.product(ranges, self.neck_widths))

    @property
    def heads(self) -> tuple[tuple[str | None, int], ...]:
        """RPN and number of heads: RetinaNet, then every RPN with every number."""
        return ((None, 0), *itertools.product(RPN_NAMES, self.cascades))

    def count(self) -> int:
        """How many structures there are (paper: 1.1e4)."""
        return len(self.backbones) * len(self.sizes) * len(self.necks) * len(self.heads)

    def sample(self, generator: np.random.Generator) -> Structure:
        """One of them, all alike likely."""
        return self._built([_chosen(choices, generator) for choices in self._choices()])

    def mutate(self, structure: Structure, generator: np.random.Generator) -> Structure:
        """The structure with one of its modules, or its size, exchanged for another choice, where there is any."""
        parts = [
            structure.backbone,
            structure.size,
            (structure.levels, structure.neck_width),
            (structure.rpn, structure.heads),
        ]
        open_places = [place for place, choices in enumerate(self._choices()) if len(choices) > 1]
        if not open_places:
            return structure
        place = _chosen(open_places, generator)
        parts[place] = _chosen([choice for choice in self._choices()[place] if choice != parts[place]], generator)
        return self._built(parts)

    def _choices(self) -> tuple[Sequence[Any], ...]:
        return self.backbones, self.sizes, self.necks, self.heads

    def _built(self, parts: Sequence[Any]) -> Structure:
        backbone, size, neck, head = parts
        return Structure(backbone, size, *neck, *head)


def _chosen(choices: Sequence[Any], generator: np.random.Generator) -> Any:
    return choices[int(generator.integers(len(choices)))]


# ------------------------------------------------------------------------------------------------------------------
# Stage-two: Modular-level Searching
# ------------------------------------------------------------------------------------------------------------------

BLOCK_OF = {  # the block setting that a structure of stage one hands on to stage two
    "resnet18": "basicblock",
    "resnet34": "basicblock",
    "resnet50": "bottleneck",
    "resnet101": "bottleneck",
    "resnext50_32x4d": "Xbottleneck",
    "resnext101_32x4d": "Xbottleneck",
    "mobilenet_v2": "MBblock",
}
BLOCKS = tuple(dict.fromkeys(BLOCK_OF.values()))
STANDARD_STAGES = {  # the standard backbones in the code's own words
    "resnet18": "11-21-21-21",
    "resnet34": "111-2111-211111-211",
    "resnet50": "111-2111-211111-211",
    "resnet101": f"111-2111-2{'1' * 22}-211",
    "resnext50_32x4d": "111-2111-211111-211",
    "resnext101_32x4d": f"111-2111-2{'1' * 22}-211",
    "mobilenet_v2": "11-211-2111111-2111",
}
STAGES, DOUBLINGS = 4, 3
FEWEST_BLOCKS, MOST_BLOCKS = 5, 35


@dataclass(frozen=True)
class BackboneCode:
    """ "basicblock_54_1211-211-1111-12111": block setting, base channels, and the blocks of four stages.

    `1` is a block that keeps the channels, `2` one that doubles them; "-" separates stages of different resolution.
    Where channels are doubled and where the resolution is halved need not be the same place.
    """

    block: str
    base: int
    stages: tuple[str, ...]

    def __post_init__(self) -> None:
        text = "-".join(self.stages)
        problem = None
        if self.block not in BLOCKS:
            problem = f"there is no block {self.block!r}; give one of {', '.join(BLOCKS)}"
        elif self.base < 2 or self.base % 2:
            problem = f"the base channels must be an even number, and are {self.base}"
        elif set("".join(self.stages)) - {"1", "2"}:
            problem = f"a block is written as 1 or 2, and the stages are {text!r}"
        elif len(self.stages) != STAGES or not all(self.stages):
            problem = f"there must be {STAGES} stages, none empty, with - between them, and {text!r} has others"
        elif text.count("2") != DOUBLINGS:
            problem = f"the channels must double {DOUBLINGS} times, and {text!r} has {text.count('2')} digits 2"
        elif not FEWEST_BLOCKS <= self.blocks <= MOST_BLOCKS:
            problem = f"a backbone has {FEWEST_BLOCKS} to {MOST_BLOCKS} blocks, and {text!r} has {self.blocks}"
        if problem:
            raise InputError(f"the backbone code {str(self)!r} is not legal: {problem}")

    def __str__(self) -> str:
        return f"{self.block}_{self.base}_{'-'.join(self.stages)}"

    @staticmethod
    @lru_cache(maxsize=10_000)
    def parse(text: str) -> "BackboneCode":
        """The code that a text holds; InputError, saying what is wrong, where it is not legal."""
        parts = text.split("_")
        if len(parts) != 3 or not parts[1].isdecimal():
            raise InputError(
                f"the backbone code {text!r} is not legal: write block, base channels and stages with _ between them, "
                "such as basicblock_64_11-21-21-21"
            )
        return BackboneCode(parts[0], int(parts[1]), tuple(parts[2].split("-")))

    @staticmethod
    def standard(backbone: str, base: int) -> "BackboneCode":
        """The code of a standard backbone's blocks at some base width (64 is the usual one)."""
        return BackboneCode(BLOCK_OF[backbone], base, tuple(STANDARD_STAGES[backbone].split("-")))

    @property
    def blocks(self) -> int:
        """How many blocks there are."""
        return sum(map(len, self.stages))

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """The channels of every block, from the input on: base, and twice as many from each 2 on."""
        doubled = itertools.accumulate(digit == "2" for digit in "".join(self.stages))
        return tuple(self.base * 2**count for count in doubled)

    @property
    def doublings(self) -> tuple[int, ...]:
        """The places, from 0, of the blocks that double the channels."""
        return tuple(place for place, digit in enumerate("".join(self.stages)) if digit == "2")


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
    """Blocks at the least."""
    most_blocks: int = MOST_BLOCKS
    """Blocks at the most."""
    base_probability: float = 0.5
    """Probability that a mutation moves the base width to a neighbour."""
    neck_probability: float = 0.25
    """Probability that it moves the FPN's width to a neighbour."""
    operations: int = 3
    """Changes of the code in a mutation."""

    def count(self) -> int:
        """How many codes with a neck width there are, for one block setting (paper: about 5.0e12).

        Of n blocks three double, and three of the n - 1 gaps between them separate stages.
        """
        codes = sum(
            math.comb(n, DOUBLINGS) * math.comb(n - 1, STAGES - 1)
            for n in range(self.fewest_blocks, self.most_blocks + 1)
        )
        return codes * len(self.bases) * len(self.neck_widths)

    def start(self, structure: Structure) -> Structure:
        """A structure of stage one in the words of stage two: its own backbone as a code, at the nearest legal widths.

        A standard backbone with more blocks than the space allows loses them where a stage has most.
        """
        code = BackboneCode.standard(structure.backbone, _nearest(self.bases, self.standard_base))
        stages = list(code.stages)
        while sum(map(len, stages)) > self.most_blocks:
            longest = max(range(STAGES), key=lambda stage: len(stages[stage]))
            stages[longest] = stages[longest][:-1]
        code = replace(code, stages=tuple(stages))
        width = None if structure.neck_width is None else _nearest(self.neck_widths, structure.neck_width)
        return replace(structure, backbone=str(code), neck_width=width)

    def sample(self, structure: Structure, generator: np.random.Generator) -> Structure:
        """A random code in a structure: any number of blocks is alike likely, then any code of that many."""
        blocks = int(generator.integers(self.fewest_blocks, self.most_blocks + 1))
        digits = np.full(blocks, "1")
        digits[generator.choice(blocks, DOUBLINGS, replace=False)] = "2"
        cuts = np.sort(generator.choice(blocks - 1, STAGES - 1, replace=False)) + 1
        stages = tuple("".join(part) for part in np.split(digits, cuts))
        code = BackboneCode(_block(structure), _chosen(self.bases, generator), stages)
        width = None if structure.neck_width is None else _chosen(self.neck_widths, generator)
        return replace(structure, backbone=str(code), neck_width=width)

    def mutate(self, structure: Structure, generator: np.random.Generator) -> Structure:
        """A neighbour: perhaps another base or neck width, and some changes of the code; never the same again."""
        while True:
            code = BackboneCode.parse(structure.backbone)
            base, width = code.base, structure.neck_width
            if generator.random() < self.base_probability:
                base = _neighbour(self.bases, base, generator)
            if width is not None and generator.random() < self.neck_probability:
                width = _neighbour(self.neck_widths, width, generator)
            text = "-".join(code.stages)
            for _ in range(self.operations):
                text = _changed(text, generator)
            if not self._legal(text):
                continue
            mutated = replace(
                structure, backbone=str(BackboneCode(code.block, base, tuple(text.split("-")))), neck_width=width
            )
            if mutated != structure:
                return mutated

    def _legal(self, text: str) -> bool:
        return all(text.split("-")) and self.fewest_blocks <= len(text) - (STAGES - 1) <= self.most_blocks


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


def _block(structure: Structure) -> str:
    """The block setting of a structure, whichever words its backbone is in."""
    return BLOCK_OF.get(structure.backbone) or BackboneCode.parse(structure.backbone).block


# ------------------------------------------------------------------------------------------------------------------
# Multi-objective Search Algorithm
# ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Evaluated:
    """A candidate with its two objectives: cost (inference time in stage one, FLOPs in stage two) and AP.

    Of a failed candidate both may be NaN; it is on no front. generation: 0 of the first ones. parent: whom it was
    mutated from.
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
    witness and no dearer than the candidate.
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


class Space(Protocol):
    """What a search needs of a space; stage two's is bound to one structure by `Group`."""

    def sample(self, generator: np.random.Generator) -> Structure: ...

    def mutate(self, structure: Structure, generator: np.random.Generator) -> Structure: ...


@dataclass(frozen=True)
class Group:
    """Stage two within one structure of stage one."""

    space: ModularSpace
    structure: Structure

    def start(self) -> Structure:
        """The structure itself, in stage two's words."""
        return self.space.start(self.structure)

    def sample(self, generator: np.random.Generator) -> Structure:
        return self.space.sample(self.structure, generator)

    def mutate(self, structure: Structure, generator: np.random.Generator) -> Structure:
        return self.space.mutate(structure, generator)


def not_larger(one: Structure, other: Structure) -> bool:
    """The partial order of stage two: whether `one` is nowhere deeper nor wider than `other`.

    Same modules and size; no larger base, neck, or stage; and at no place from the input on more channels.
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
        and all(x <= y for x, y in zip(a.widths, b.widths, strict=False))
    )


def speaks_against(structure: Structure, cost: float, history: History) -> tuple[Structure, Structure] | None:
    """Partial order pruning: the witness and the better one for whose sake a candidate need not be trained, or None.

    If a network that is deeper and wider is already no more accurate than one that costs no more than the candidate,
    the candidate cannot come onto the front.
    """
    front = history.front()
    for witness in history.evaluated:
        if not math.isfinite(witness.accuracy) or not not_larger(structure, witness.structure):
            continue
        for member in front:
            if member.accuracy >= witness.accuracy and member.cost <= cost and member.structure != witness.structure:
                return witness.structure, member.structure
    return None


Evaluate = Callable[[Sequence[Structure]], Iterator[Mapping[str, float]]]
"""Trains and measures candidates: yields for each, in order, at least {"cost", "AP"} (missing where it failed)."""


def evolve(
    space: Space,
    settings: SearchSettings,
    evaluate: Evaluate,
    seed: int,
    cost: Callable[[Structure], float] | None = None,
    start: Sequence[Structure] = (),
) -> History:
    """Mutate the best architectures on the Pareto front, generation by generation.

    start: candidates that come first. cost: of an untrained candidate; with it, and where the settings say so, partial
    order pruning skips candidates, which then do not count towards the budget.

    What is proposed hangs only on the seed, the generation and what was measured before: done again over recorded
    measurements, the search comes to the same candidate again, wherever it was broken off.
    """
    history, seen, generation = History(), set(), 0
    while len(history.evaluated) < settings.budget:
        generator = np.random.default_rng([seed, generation])
        left = settings.budget - len(history.evaluated)
        if generation == 0:
            proposed = [(each, None) for each in _first(space, settings, generator, start)]
        else:
            proposed = _children(space, settings, history, generator, seen)
        proposed = [(child, parent) for child, parent in proposed if child not in seen]
        seen.update(child for child, _ in proposed)
        if not proposed:
            break  # a small space: everything was proposed
        chosen = []
        for child, parent in proposed:
            against = None
            if generation and settings.pruning and cost is not None:
                against = speaks_against(child, cost(child), history)
            if against is None:
                chosen.append((child, parent))
            else:
                history.skipped.append(Skipped(child, cost(child), generation, *against))
        chosen = chosen[:left]
        for (child, parent), measured in zip(chosen, evaluate([child for child, _ in chosen]), strict=True):
            numbers = (measured.get(name, math.nan) for name in ("cost", "AP"))
            history.evaluated.append(Evaluated(child, *numbers, generation, parent))
        generation += 1
    return history


def random_search(
    space: Space, settings: SearchSettings, evaluate: Evaluate, seed: int, start: Sequence[Structure] = ()
) -> History:
    """The control: as many candidates, all random; the first ones are those that `evolve` begins with."""
    first = _first(space, settings, np.random.default_rng([seed, 0]), start)
    generator = np.random.default_rng([seed, 2**31])
    chosen = dict.fromkeys(first)
    for _ in range(100 * settings.budget):
        if len(chosen) >= settings.budget:
            break
        chosen.setdefault(space.sample(generator))
    structures = list(chosen)[: settings.budget]
    history = History()
    for structure, measured in zip(structures, evaluate(structures), strict=True):
        numbers = (measured.get(name, math.nan) for name in ("cost", "AP"))
        history.evaluated.append(Evaluated(structure, *numbers, 0))
    return history


def _first(
    space: Space, settings: SearchSettings, generator: np.random.Generator, start: Sequence[Structure]
) -> list[Structure]:
    """The first generation: what is given, then random ones."""
    chosen = dict.fromkeys(start)
    for _ in range(100 * settings.first):
        if len(chosen) >= settings.first:
            break
        chosen.setdefault(space.sample(generator))
    return list(chosen)[: settings.budget]


def _children(
    space: Space, settings: SearchSettings, history: History, generator: np.random.Generator, seen: set[Structure]
) -> list[tuple[Structure, Structure | None]]:
    """A generation: mutations of members of the front, all alike likely, and a share of random candidates."""
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


def pick(front: Sequence[Evaluated], count: int) -> list[Evaluated]:
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
