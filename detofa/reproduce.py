"""`python -m detofa.reproduce`: every table and figure of the paper, by name, and a verdict on each of its claims."""

from dataclasses import dataclass

from common.cli import run
from common.report.reproduce import ReproduceOptions, reproduce
from detofa import presets
from detofa.exhibits import PAPER


@dataclass(frozen=True, kw_only=True)
class Options(ReproduceOptions, presets.Options):
    """Train and draw DetOFA's tables and figures, and judge its claims."""


def main(options: Options) -> None:
    """Measure, draw, judge."""
    reproduce(PAPER, options)


if __name__ == "__main__":
    run(main, Options)
