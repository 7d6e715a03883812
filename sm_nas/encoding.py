"""Architectures of SM-NAS and how they are written: a whole detector, and the backbone inside it.

    resnet50 800x600 P2-P5 c256 rpn cascade3            Structure: stage one's words
    basicblock_54_1211-211-1111-12111                   BackboneCode: stage two's words for the backbone
    basicblock_64_1-21-21-12 512x512 P2-P5 c128 rpn 2fc both together: E0 of Table 2
    basicblock_64_1-21 512x512 P1-P2 c128 rpn 2fc       the stages that an FPN does not read are not written

Importable without torch; sm_nas.networks builds the networks.
"""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import NamedTuple

from common.plain import InputError

BACKBONE_LEVELS = 4
"""P1 (stride 4) to P4 (stride 32) come from the backbone."""
LAST_LEVEL = 6
"""P5 and P6 lie past the backbone."""
HEAD_NAMES = {0: "retinanet", 1: "2fc", 2: "cascade2", 3: "cascade3", 4: "cascade4"}
RPN_NAMES = ("rpn", "ga-rpn")

_STAGES_50, _STAGES_101 = "111-2111-211111-211", f"111-2111-2{'1' * 22}-211"
_STANDARD = {
    "resnet18": ("basicblock", "11-21-21-21"),
    "resnet34": ("basicblock", _STAGES_50),
    "resnet50": ("bottleneck", _STAGES_50),
    "resnet101": ("bottleneck", _STAGES_101),
    "resnext50_32x4d": ("Xbottleneck", _STAGES_50),
    "resnext101_32x4d": ("Xbottleneck", _STAGES_101),
    "mobilenet_v2": ("MBblock", "11-211-2111111-2111"),
}
STANDARD_BACKBONES = tuple(_STANDARD)
BLOCK_OF = {name: block for name, (block, _) in _STANDARD.items()}
"""Standard backbone -> the block setting that stage two goes on with."""
STANDARD_STAGES = {name: stages for name, (_, stages) in _STANDARD.items()}
"""Standard backbone -> its stages as a code writes them."""
BLOCKS = tuple(dict.fromkeys(BLOCK_OF.values()))
STAGES, FEWEST_STAGES, DOUBLINGS = 4, 2, 3
FEWEST_BLOCKS, MOST_BLOCKS = 5, 35
OUTPUT_OF = {"basicblock": 1.0, "bottleneck": 4.0, "Xbottleneck": 4.0, "MBblock": 0.5}
"""Channels that a block puts out, for each of its width."""
MB_EXPANSION = 6


class BlockShape(NamedTuple):
    """One block of a backbone: its stage from 0, channels in, width and channels out, and stride."""

    stage: int
    inputs: int
    width: int
    outputs: int
    stride: int


@dataclass(frozen=True)
class BackboneCode:
    """ "basicblock_54_1211-211-1111-12111": block setting, base channels, and the blocks of four stages.

    `1` is a block that keeps the channels, `2` one that doubles them; "-" separates stages of different resolution.
    The channels need not double where the resolution is halved. Fewer stages than four are the first of such a code.
    Raises InputError when it is not legal.
    """

    block: str
    base: int
    stages: tuple[str, ...]

    def __post_init__(self) -> None:
        text = "-".join(self.stages)
        problem = None
        if self.block not in BLOCKS:
            problem = f"the block must be one of {', '.join(BLOCKS)}, got {self.block!r}"
        elif self.base < 2 or self.base % 2:
            problem = f"the base channels must be an even number, got {self.base}"
        elif set("".join(self.stages)) - {"1", "2"}:
            problem = f"a block must be written as 1 or 2, got the stages {text!r}"
        elif not FEWEST_STAGES <= len(self.stages) <= STAGES or not all(self.stages):
            problem = (
                f"there must be {STAGES} stages with - between them, none empty, or the first of them, got {text!r}"
            )
        elif text.count("2") > DOUBLINGS or (len(self.stages) == STAGES and text.count("2") < DOUBLINGS):
            problem = f"the channels must double {DOUBLINGS} times, got {text.count('2')} digits 2 in {text!r}"
        elif not (FEWEST_BLOCKS if len(self.stages) == STAGES else 0) <= self.blocks <= MOST_BLOCKS:
            problem = f"there must be {FEWEST_BLOCKS} to {MOST_BLOCKS} blocks, got {self.blocks} in {text!r}"
        if problem:
            raise InputError(f"the backbone code {str(self)!r} is not legal: {problem}")

    def __str__(self) -> str:
        return f"{self.block}_{self.base}_{'-'.join(self.stages)}"

    @staticmethod
    @lru_cache(maxsize=10_000)
    def parse(text: str) -> "BackboneCode":
        """The code that a text holds; InputError says what is wrong where it is not legal."""
        parts = text.split("_")
        if len(parts) != 3 or not parts[1].isdecimal():
            raise InputError(
                f"the backbone code {text!r} is not legal: write block, base channels and stages with _ between them, "
                "such as basicblock_64_11-21-21-21"
            )
        return BackboneCode(parts[0], int(parts[1]), tuple(parts[2].split("-")))

    @staticmethod
    def standard(backbone: str, base: int) -> "BackboneCode":
        """The blocks of a standard backbone as a code, at some base width (64 is the usual one)."""
        return BackboneCode(BLOCK_OF[backbone], base, tuple(STANDARD_STAGES[backbone].split("-")))

    def first(self, stages: int) -> "BackboneCode":
        """The code of its first stages alone."""
        return replace(self, stages=self.stages[:stages])

    def whole(self) -> "BackboneCode":
        """The code with as few further blocks as complete its four stages."""
        missing = STAGES - len(self.stages)
        if not missing:
            return self
        further = "2" * (DOUBLINGS - len(self.doublings))
        further = further.ljust(max(missing, FEWEST_BLOCKS - self.blocks), "1")
        return replace(self, stages=(*self.stages, *further[: missing - 1], further[missing - 1 :]))

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return sum(map(len, self.stages))

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """Channels of every block, from the input on: the base, and twice as many from each 2 on."""
        doubled = itertools.accumulate(digit == "2" for digit in "".join(self.stages))
        return tuple(self.base * 2**count for count in doubled)

    @property
    def stage_widths(self) -> tuple[tuple[int, ...], ...]:
        """`widths`, stage by stage."""
        widths = iter(self.widths)
        return tuple(tuple(next(widths) for _ in stage) for stage in self.stages)

    @property
    def doublings(self) -> tuple[int, ...]:
        """Places, from 0, of the blocks that double the channels."""
        return tuple(place for place, digit in enumerate("".join(self.stages)) if digit == "2")

    def shapes(self) -> Iterator[BlockShape]:
        """Every block in order. The first of each stage but the first has stride 2, whatever its digit."""
        inputs, widths = self.base, iter(self.widths)
        for stage, digits in enumerate(self.stages):
            for place in range(len(digits)):
                width = next(widths)
                outputs = int(width * OUTPUT_OF[self.block])
                yield BlockShape(stage, inputs, width, outputs, 2 if stage and not place else 1)
                inputs = outputs

    def macs(self, size: tuple[int, int]) -> int:
        """Multiply-accumulates of the backbone's convolutions on a canvas of whole strides.

        In closed form, so that a space can be described without building a network; `common.cost.count` gives the same.
        """
        width, height = size
        half, cells = self.base // 2, width * height // 16  # cells of the first stage
        total = 9 * half * (3 * 4 * cells + self.base * cells)
        for _, inputs, width, outputs, stride in self.shapes():
            before, cells = cells, cells // stride**2
            if self.block == "basicblock":
                total += 9 * width * (inputs + width) * cells
            else:
                inner, groups = {
                    "bottleneck": (width, 1),
                    "Xbottleneck": (2 * width, half),
                    "MBblock": (MB_EXPANSION * inputs, MB_EXPANSION * inputs),
                }[self.block]
                total += inner * (inputs * before + (9 * inner // groups + outputs) * cells)
            if self.block != "MBblock" and (stride, inputs) != (1, outputs):
                total += inputs * outputs * cells  # projection
        return total


@dataclass(frozen=True)
class Structure:
    """A whole detector: which modules go together, and at which input size.

    Raises InputError when the parts do not go together.
    """

    backbone: str
    """A standard backbone's name, or the code of a searched one."""
    size: tuple[int, int]
    """Width and height that images are fitted into, pixels."""
    levels: tuple[int, int] | None
    """(a, b) of FPN(Pa-Pb); None means no FPN, the original Faster R-CNN."""
    neck_width: int | None
    """Channels of the FPN, and of the RPN and heads with it."""
    rpn: str | None
    """rpn or ga-rpn; None in a one-stage detector."""
    heads: int
    """0 is RetinaNet's, 1 two fully connected layers, 2 to 4 a cascade of so many."""
    pooled: bool = True
    """Levels past the backbone come from pooling, else from a convolution on the backbone's last feature."""

    def __post_init__(self) -> None:
        problem, (first, last) = None, self.levels or (1, LAST_LEVEL)
        if self.backbone not in STANDARD_BACKBONES and "_" not in self.backbone:
            standard = ", ".join(STANDARD_BACKBONES)
            problem = f"the backbone must be a standard one ({standard}) or a code, got {self.backbone!r}"
        elif min(self.size) < 1:
            problem = f"the size must have at least one pixel a side, got {self.size[0]}x{self.size[1]}"
        elif (self.levels is None) != (self.neck_width is None):
            problem = f"levels and a width must both be given for an FPN, got {self.levels} and {self.neck_width}"
        elif self.neck_width is not None and self.neck_width < 1:
            problem = f"the FPN must have at least 1 channel, got {self.neck_width}"
        elif not 1 <= first <= BACKBONE_LEVELS or not first < last <= LAST_LEVEL:
            levels = f"from one of P1 to P{BACKBONE_LEVELS} to a later level up to P{LAST_LEVEL}"
            problem = f"the FPN must reach {levels}, got P{first}-P{last}"
        elif not self.pooled and self.levels is None:
            problem = "only an FPN has levels past the backbone to convolve"
        elif self.rpn not in (None, *RPN_NAMES):
            problem = f"the RPN must be one of {', '.join(RPN_NAMES)}, got {self.rpn!r}"
        elif self.heads not in HEAD_NAMES:
            problem = f"heads must be 0 to {max(HEAD_NAMES)}, got {self.heads}"
        elif (self.heads == 0) != (self.rpn is None):
            problem = "a one-stage detector (heads 0) has no RPN, and every other one has an RPN"
        if problem:
            raise InputError(f"the structure cannot be built: {problem}")
        if self.backbone not in STANDARD_BACKBONES:
            code = BackboneCode.parse(self.backbone)  # says itself what is wrong
            if len(code.stages) < self.stages_read:
                raise InputError(
                    f"the structure cannot be built: its FPN or head reads {self.stages_read} stages, and the backbone "
                    f"{self.backbone!r} has {len(code.stages)}"
                )

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
                f"{text!r} is not a structure: write it as 'resnet50 800x600 P2-P5 c256 rpn cascade3', with no-fpn for "
                "no FPN, and retinanet without an RPN"
            )
        backbone, width, height, first, last, channels, conv, rpn, head = found.groups()
        levels = None if first is None else (int(first), int(last))
        heads = next(number for number, name in HEAD_NAMES.items() if name == head)
        neck_width = None if channels is None else int(channels)
        return Structure(backbone, (int(width), int(height)), levels, neck_width, rpn, heads, conv is None)

    @property
    def stages_read(self) -> int:
        """How many of the backbone's stages there are: all up to the last one that the FPN reads."""
        return STAGES if self.levels is None else min(self.levels[1], STAGES)

    def as_read(self) -> "Structure":
        """The same network in its shortest words: without stages that nobody reads.

        Of standard backbones that are the same as far as they are read, the first.
        """
        if self.backbone not in STANDARD_BACKBONES:
            return replace(self, backbone=str(BackboneCode.parse(self.backbone).first(self.stages_read)))
        return replace(self, backbone=_first_alike(self.backbone, self.stages_read))

    @property
    def block(self) -> str:
        """The block setting of the backbone, standard or coded."""
        return BLOCK_OF.get(self.backbone) or BackboneCode.parse(self.backbone).block

    @property
    def input_size(self) -> tuple[int, int]:
        """Width and height of the canvas that images are fitted into: the size in whole multiples of 32 pixels."""
        width, height = (-(-side // 32) * 32 for side in self.size)
        return width, height


@lru_cache
def _first_alike(backbone: str, stages: int) -> str:
    """The first standard backbone that has the same first stages."""
    read = {name: BackboneCode.standard(name, 64).first(stages) for name in STANDARD_BACKBONES}
    return next(name for name in read if read[name] == read[backbone])
