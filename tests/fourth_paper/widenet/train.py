"""Train one width: python -m widenet.train --width 8"""

from dataclasses import dataclass

from common.cli import OneSeed, run, show, typed_command
from widenet.exhibits import make_study
from widenet.presets import Options


@dataclass(frozen=True, kw_only=True)
class Train(OneSeed, Options):
    width: int = 8


def main(options: Train) -> None:
    show(make_study(options, options.seed, typed_command()).trained(options.width), options.json, str)


if __name__ == "__main__":
    run(main, Train)
