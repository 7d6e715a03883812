"""`python -m sm_nas.reproduce`: every table and figure of SM-NAS by name, and a verdict on each of its claims."""

from dataclasses import dataclass

from common.cli import run, short_name
from common.plain import InputError
from common.report.reproduce import ReproduceOptions, reproduce
from sm_nas.exhibits import PAPER
from sm_nas.presets import SearchOptions


@dataclass(frozen=True, kw_only=True)
class Options(ReproduceOptions, SearchOptions):
    """Train and draw SM-NAS's tables and figures, and judge its claims."""

    second_data: str | None = None
    """Another data set for Tables 1 and 5 (default: Table 1 does without, Table 5 shows the first)."""


def main(options: Options) -> None:
    """What the flags ask for."""
    if options.second_data is not None and short_name(options.second_data) == short_name(options.data):
        raise InputError(
            f"--second-data must differ in name from --data {options.data}, got {options.second_data}; give another set"
        )
    reproduce(PAPER, options)


if __name__ == "__main__":
    run(main, Options)
