from dataclasses import dataclass

from common.cli import run
from common.report.reproduce import ReproduceOptions, reproduce
from widenet.exhibits import PAPER
from widenet.presets import Options


@dataclass(frozen=True, kw_only=True)
class Reproduce(ReproduceOptions, Options):
    """Draw the made-up paper's table and judge its claim."""


if __name__ == "__main__":
    run(lambda options: reproduce(PAPER, options), Reproduce)
