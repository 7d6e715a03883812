"""What every benchmark shares: pieces of work, timing in turn, and the rows that come of it."""

import gc
import importlib
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any, Literal, TypeVar

Made = TypeVar("Made")


@dataclass(frozen=True)
class Timing:
    """How to measure.

    device: where networks live. repeats: largest number of rounds, in each of which everybody has a turn.
    patience_s: no further round begins once a comparison has taken so many seconds, so that a peer of half a minute is
    timed once. clock: "cpu" counts the time of this process and of its commands, for a machine that others use as well.
    warm_up: everybody has a first turn that does not count.
    """

    device: str = "cpu"
    repeats: int = 7
    patience_s: float = 30.0
    clock: Literal["wall", "cpu"] = "wall"
    warm_up: bool = True


@dataclass(frozen=True)
class Work:
    """A piece of work: `run` does it once, which counts as `amount` units (paths, images)."""

    run: Callable[[], object]
    amount: float = 1.0


@dataclass(frozen=True)
class Row:
    """One comparison. peer is None when it cannot be measured here, and `reason` says why.

    unit: of ours and peer. against: who the peer is. case: the setting, when a benchmark has several.
    """

    ours: float
    peer: float | None
    unit: str
    against: str
    case: str | None = None
    rounds: int | None = None
    note: str | None = None
    reason: str | None = None

    @property
    def ratio(self) -> float | None:
        """Above 1 when ours is better: rates (units that end in "/s") are better high, everything else low."""
        if self.peer is None:
            return None
        return self.ours / self.peer if self.unit.endswith("/s") else self.peer / self.ours


class Disagreement(Exception):
    """Ours and a peer do not give the same result, so their times say nothing."""


class Unavailable(Exception):
    """A peer cannot be used here; the message says why."""


def agree(condition: Any, what: str) -> None:
    """Raises `Disagreement` unless the condition, a truth value or a tensor of one, holds."""
    if not condition:
        raise Disagreement(f"{what}: the results differ, so no time is reported")


def optional(module: str, package: str) -> ModuleType:
    """The module of a package that need not be installed. Raises `Unavailable` when it cannot be imported."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        raise Unavailable(f"{package} is not installed; `pip install '.[bench]'` brings it") from None
    except Exception as error:  # a package that breaks with this Python or torch breaks in its own way
        raise Unavailable(f"{package} cannot be imported here ({type(error).__name__}: {error})") from None


def available(peers: Mapping[str, Callable[[], Made]]) -> tuple[dict[str, Made], dict[str, str]]:
    """What the peers make, by name, and the reasons of those that are `Unavailable`."""
    made, reasons = {}, {}
    for name, make in peers.items():
        try:
            made[name] = make()
        except Unavailable as error:
            reasons[name] = str(error)
    return made, reasons


def seconds_in_turn(works: Mapping[str, Work], timing: Timing) -> tuple[dict[str, float], int]:
    """Median seconds a unit of each work, and the number of rounds; A B C A B C ..., not A A B B."""
    import torch  # not at the top: the command's help needs this module and not torch

    clock = time.perf_counter if timing.clock == "wall" else _cpu_seconds
    wait = partial(torch.cuda.synchronize, timing.device) if timing.device != "cpu" else lambda: None

    for work in works.values() if timing.warm_up else ():
        work.run()
    seconds: dict[str, list[float]] = {name: [] for name in works}
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()  # a collection would be charged to whoever happens to be running
    began = time.perf_counter()
    try:
        for _ in range(timing.repeats):
            for name, work in works.items():
                wait()
                start = clock()
                work.run()
                wait()
                seconds[name].append((clock() - start) / work.amount)
            if time.perf_counter() - began > timing.patience_s:
                break
    finally:
        if collecting:
            gc.enable()
    return {name: statistics.median(each) for name, each in seconds.items()}, len(seconds[name])


def _cpu_seconds() -> float:
    """Of this process, and of the commands that it ran and waited for."""
    commands = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + commands.ru_utime + commands.ru_stime


def compare(unit: str, ours: Work, peers: Mapping[str, Callable[[], Work]], timing: Timing, **more: Any) -> list[Row]:
    """A row a peer. unit: "s" gives seconds a unit of work, anything that ends in "/s" units a second.

    peers: name -> what makes its work, or raises `Unavailable`. more: further fields of the rows.
    """
    works, reasons = available(peers)
    seconds, rounds = seconds_in_turn({"ours": ours, **works}, timing)
    values = {name: 1 / each if unit.endswith("/s") else each for name, each in seconds.items()}
    return [
        Row(values["ours"], values.get(peer), unit, peer, rounds=rounds, reason=reasons.get(peer), **more)
        for peer in peers
    ]
