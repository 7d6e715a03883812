"""`python -m joint_detnas.reproduce`: every table and figure of Joint-DetNAS by name, and a verdict on its claims."""

from dataclasses import dataclass

from common.cli import run
from common.report.reproduce import ReproduceOptions, reproduce
from joint_detnas import presets
from joint_detnas.exhibits import PAPER


@dataclass(frozen=True, kw_only=True)
class Options(ReproduceOptions, presets.Options):
    """Train and draw Joint-DetNAS's tables and figures, and judge its claims."""


def main(options: Options) -> None:
    """What the flags ask for."""
    reproduce(PAPER, options)


if __name__ == "__main__":
    run(main, Options)
