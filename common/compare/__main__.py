"""Compare detectors on one page; or all methods at an equal budget.

python -m common.compare runs DETECTOR ... --data coco:DIR
python -m common.compare --scale nano --budget 900 --data scenes --second-data coco:DIR --seeds 5
"""

from common.cli import run, short_name
from common.compare.presets import Options
from common.plain import InputError


def main(options: Options) -> None:
    """Compare what was named; without a name, methods."""
    if options.detectors:
        from common.compare.detectors import compare

        compare(options)
        return
    from common.compare.exhibits import PAPER
    from common.report.reproduce import reproduce

    if options.second_data is not None and short_name(options.second_data) == short_name(options.data):
        raise InputError(f"--second-data {options.second_data} is --data again: give another set, or leave it out")
    reproduce(PAPER, options)


if __name__ == "__main__":
    run(main, Options)
