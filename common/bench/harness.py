"""What every benchmark shares: its name, its rows, and timing in turn."""

import gc
import importlib
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Literal

import torch

from common.plain import InputError

Clock = Literal["wall", "cpu"]


@dataclass(frozen=True)
class Timing:
    """How to measure. device: where networks live. repeats: rounds at the most, in each of which everybody has a turn.

    patience_s: no further round is begun once so many seconds have been spent on one comparison, so that a peer of
    half a minute is timed once. clock: "cpu" counts the process's own time, for a machine that others use as well.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    repeats: int = 7
    patience_s: float = 30.0
    clock: Clock = "wall"


@dataclass(frozen=True)
class Contender:
    """One way to do the work. run: does it once. amount: how many pieces of work that is."""

    name: str
    run: Callable[[], object]
    amount: float = 1.0


@dataclass(frozen=True)
class Missing:
    """A peer that cannot be timed here, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Row:
    """One line of the result. ratio > 1: ours is better; peer and ratio are None where `reason` says why.

    case: the setting, where a benchmark has several. against: who the peer is. unit: of ours and peer.
    """

    name: str
    ours: float
    peer: float | None
    unit: str
    ratio: float | None
    against: str
    case: str | None = None
    rounds: int | None = None
    note: str | None = None
    reason: str | None = None


class Disagreement(Exception):
    """Ours and a peer do not give the same result, so their times say nothing."""


def agree(condition: bool, what: str) -> None:
    """Raises `Disagreement` unless the condition holds."""
    if not condition:
        raise Disagreement(f"{what}: the results differ, so no time is reported")


def row(name: str, ours: float, peer: float, unit: str, against: str, **more: Any) -> Row:
    """A row with its ratio: rates (units that end in "/s") are better high, everything else low."""
    ratio = ours / peer if unit.endswith("/s") else peer / ours
    return Row(name, ours, peer, unit, ratio, against, **more)


def missing(name: str, ours: float, unit: str, peer: Missing, **more: Any) -> Row:
    """A row for a peer that is not there."""
    return Row(name, ours, None, unit, None, peer.name, reason=peer.reason, **more)


def seconds_in_turn(contenders: Sequence[Contender], timing: Timing) -> tuple[dict[str, float], int]:
    """Median seconds of a call by the contender's name, and the number of rounds; A B C A B C ..., not A A B B."""
    clock = time.perf_counter if timing.clock == "wall" else time.process_time
    seconds: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    began = time.perf_counter()
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()  # a collection would be charged to whoever happens to be running
    try:
        for _ in range(timing.repeats):
            for contender in contenders:
                _wait_for(timing.device)
                start = clock()
                contender.run()
                _wait_for(timing.device)
                seconds[contender.name].append(clock() - start)
            if time.perf_counter() - began > timing.patience_s:
                break
    finally:
        if collecting:
            gc.enable()
    rounds = len(seconds[contenders[0].name])
    return {name: statistics.median(values) for name, values in seconds.items()}, rounds


def compare(
    name: str, unit: str, ours: Contender, peers: Sequence[Contender | Missing], timing: Timing, **more: Any
) -> list[Row]:
    """A row a peer. unit: "s" gives seconds a piece of work, anything that ends in "/s" pieces a second."""
    there = [peer for peer in peers if isinstance(peer, Contender)]
    contenders = [ours, *there]
    seconds, rounds = seconds_in_turn(contenders, timing)
    values = {
        contender.name: (
            contender.amount / seconds[contender.name]
            if unit.endswith("/s")
            else seconds[contender.name] / contender.amount
        )
        for contender in contenders
    }
    return [
        row(name, values[ours.name], values[peer.name], unit, peer.name, rounds=rounds, **more)
        if isinstance(peer, Contender)
        else missing(name, values[ours.name], unit, peer, rounds=rounds, **more)
        for peer in peers
    ]


def optional(module: str, package: str) -> ModuleType | str:
    """The module, or one sentence on why it cannot be used."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        return f"{package} is not installed; `pip install '.[bench]'` brings it"
    except Exception as error:  # a package that breaks with this Python or torch breaks in its own way
        return f"{package} cannot be imported here ({type(error).__name__}: {error})"


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# ---- the register


Measure = Callable[[Any, Timing], list[Row]]


@dataclass(frozen=True)
class Benchmark:
    """A benchmark: its name, what it measures, and the sizes it runs at (full, and quick to see that it works)."""

    name: str
    measure: Measure
    full: Any
    quick: Any

    @property
    def summary(self) -> str:
        """First paragraph of its docstring, in one line."""
        return " ".join((self.measure.__doc__ or "").split("\n\n")[0].split())


BENCHMARKS: dict[str, Benchmark] = {}


def benchmark(name: str, full: Any, quick: Any) -> Callable[[Measure], Measure]:
    """Registers `measure(sizes, timing) -> rows` under a name."""

    def register(measure: Measure) -> Measure:
        BENCHMARKS[name] = Benchmark(name, measure, full, quick)
        return measure

    return register


def chosen(names: Sequence[str]) -> list[Benchmark]:
    """The named benchmarks, all where none is named. Raises `InputError` for an unknown name."""
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        raise InputError(
            f"no benchmark is called {unknown[0]!r}: give some of {', '.join(BENCHMARKS)}, or none for all"
        )
    return [BENCHMARKS[name] for name in names] if names else list(BENCHMARKS.values())
