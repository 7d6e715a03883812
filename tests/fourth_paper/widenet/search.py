"""The most accurate width: python -m widenet.search"""

from common.cli import run, show, typed_command
from widenet.exhibits import make_study
from widenet.train import Train


def main(options: Train) -> None:
    study = make_study(options, options.seed, typed_command())
    show({"width": max(options.preset.widths, key=lambda width: study.trained(width)["AP"])}, options.json, str)


if __name__ == "__main__":
    run(main, Train)
