"""How far a command is: which of its stages is under way, and the time that is left of it and of the whole command.

A stage is a run of a study. A finished one leaves a line; what is under way is a bar on a terminal, and elsewhere, in
stages of more than ten minutes, a line now and then. Importable without torch.
"""

import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

SPEAK_EVERY_S = 600.0
"""Seconds between two lines of a stage under way, where there is no terminal."""


@dataclass
class _Stage:
    name: str
    began: float
    others: float = 0.0
    """Seconds in it that belong to planned stages, which were made when it first needed them."""

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.began - self.others


class _Command:
    """What this process is doing."""

    def __init__(self) -> None:
        self.silent = False
        self.begin({})

    def begin(self, planned: Mapping[str, float]) -> None:
        self.planned, self.done = dict(planned), dict[str, float | None]()
        self.open: list[_Stage] = []
        self.bars: list[Progress] = []
        self.spoke = time.perf_counter()

    @property
    def under_way(self) -> _Stage | None:
        """The innermost of the planned stages that are open."""
        return next((each for each in reversed(self.open) if each.name in self.planned), None)

    def place(self, number: int) -> str:
        return f"stage {number} of {len(self.planned)}"

    @property
    def place_now(self) -> list[str]:
        """The number of the planned stage under way, where there is one."""
        return [] if self.under_way is None else [self.place(len(self.done) + 1)]

    def seconds_left(self) -> float | None:
        """Of the whole command, as if every stage took as long for its planned work as those before; None where no
        pace is known.
        """
        under_way = self.under_way
        own = 0.0 if under_way is None else self.planned[under_way.name]
        took = {name: seconds for name, seconds in self.done.items() if seconds is not None and self.planned[name]}
        bar = self.bars[0] if self.bars else None
        here = (bar and bar.seconds_left()) or 0.0
        if took:
            pace = sum(took.values()) / sum(self.planned[name] for name in took)
        elif here and own:
            pace = here / (own * (1 - bar.done / bar.total))
        else:
            return None
        if under_way is not None:
            begun_at = bar.first / bar.total if bar and bar.total else 0.0
            here = max(here, own * (1 - begun_at) * pace - under_way.seconds)
        later = sum(work for name, work in self.planned.items() if name not in self.done)
        return here + max(0.0, later - own) * pace

    def whole(self) -> str:
        left = self.seconds_left()
        return f", about {tqdm.format_interval(left)} left in all" if left else ""

    def speak(self, text: str) -> None:
        self.spoke = time.perf_counter()
        if not self.silent:
            print(text, file=sys.stderr, flush=True)


_command = _Command()


def plan(work: Mapping[str, float]) -> None:
    """Say which stages this command goes through: name -> its work, in a unit that all of them share; 0 means little.

    The time left of the whole is told by it. A stage that is not planned for has no number.
    """
    _command.begin(work)


def silence() -> None:
    """Show nothing in this process, which works for another one and is ended by a signal."""
    _command.silent = True
    tqdm.set_lock(threading.RLock())  # tqdm's own is one of all processes, which a signal would leave behind


def found_done(*names: str) -> None:
    """Count stages as done that are finished already."""
    for name in names:
        if name in _command.planned:
            _command.done.setdefault(name, None)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """What is done inside is the stage of that name."""
    this = _Stage(name, time.perf_counter())
    _command.open.append(this)
    try:
        yield
    finally:
        _command.open.remove(this)
    others = this.others
    where = ""
    if name in _command.planned:
        _command.done[name] = this.seconds
        where, others = f"{_command.place(len(_command.done))}, ", this.others + this.seconds
    for outer in _command.open[-1:]:
        outer.others += others
    left = _command.whole() if len(_command.done) < len(_command.planned) else ""
    _command.speak(f"{where}{name}: done in {tqdm.format_interval(this.seconds)}{left}")


class Progress:
    """How much of some work is done: a bar with the time left on a terminal; see the module.

    total: None means that it is not known.
    """

    def __init__(self, label: str, total: int | None, done: int = 0, unit: str = "it") -> None:
        self.label, self.total, self.done, self.unit, self.first = label, total, done, unit, done
        self.shown: dict[str, Any] = {}
        self._began = time.perf_counter()
        self._bar = None
        if sys.stderr.isatty() and not _command.silent:
            title = ", ".join([*([] if _command.bars else _command.place_now), label])
            self._bar = tqdm(desc=title, total=total, initial=done, unit=unit, dynamic_ncols=True, leave=False)
        _command.bars.append(self)

    def show(self, **values: Any) -> None:
        """Show these values beside the bar from now on; None leaves one out."""
        self.shown.update(values)
        if self._bar is not None:
            self._bar.set_postfix_str(self._values() + _command.whole(), refresh=False)

    def advance(self, count: int = 1) -> None:
        """Count so many more as done."""
        self.done += count
        if self._bar is not None:
            self._bar.update(count)
        elif time.perf_counter() - _command.spoke >= SPEAK_EVERY_S:
            where = ", ".join([*_command.place_now, *(each.name for each in _command.open)])
            _command.speak(": ".join(filter(None, [where, "; ".join(map(str, _command.bars))])) + _command.whole())

    def seconds_left(self) -> float | None:
        """Of this work, by its pace so far; None before any of it is done, or where its total is not known."""
        if self.total is None or self.done == self.first:
            return None
        return (self.total - self.done) * (time.perf_counter() - self._began) / (self.done - self.first)

    def close(self) -> None:
        """Remove the bar from the terminal."""
        if self in _command.bars:
            _command.bars.remove(self)
        if self._bar is not None:
            self._bar.close()

    def __str__(self) -> str:
        left = self.seconds_left()
        parts = [f"{self.label} {self.done}{'' if self.total is None else f'/{self.total}'} {self.unit}s"]
        parts += [] if left is None else [f"{tqdm.format_interval(left)} left"]
        return ", ".join([*parts, *filter(None, [self._values()])])

    def _values(self) -> str:
        shown = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in self.shown.items()}
        return ", ".join(f"{name} {value}" for name, value in shown.items() if value is not None)
