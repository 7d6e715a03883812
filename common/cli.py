"""The face of every command: flags from a frozen dataclass, and errors in one clear sentence."""

import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from common.plain import InputError

Options = TypeVar("Options")


def run(main: Callable[[Options], None], options_class: type[Options], arguments: Sequence[str] | None = None) -> None:
    """Parse the command line into `options_class` and call `main` with it.

    Exit status: 0 done; 2 for an `InputError`, whose sentence goes to stderr without a traceback; 130 when
    interrupted, with a sentence on how to go on.
    """
    import tyro

    options = tyro.cli(options_class, args=arguments)
    try:
        main(options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from where it stopped", file=sys.stderr)
        raise SystemExit(130) from None


def check_seed(seed):
    if seed < 0:
        raise InputError(f"--seed must be at least 0, got {seed}")


def flags_given(config, *names):
    from dataclasses import fields

    defaults = {field.name: field.default for field in fields(config)}
    given = [(name, getattr(config, name)) for name in names if getattr(config, name) != defaults[name]]
    return [word for name, value in given for word in (f"--{name}", str(value))]
