"""The face of every command: flags from a frozen dataclass, and errors in one clear sentence."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, TypeVar

import tyro

Config = TypeVar("Config")


class InputError(Exception):
    """Something the user gave cannot be used: the message says what, where, and what to do, in one sentence."""


def check_seed(seed: int) -> None:
    """`InputError` for a seed that no generator of random numbers takes."""
    if seed < 0:
        raise InputError(f"--seed {seed} is no seed: give 0 or more")


def flags_given(config: Any, *names: str) -> list[str]:
    """Those flags of a command that differ from their defaults, as words: for the command that goes on from it."""
    defaults = {field.name: field.default for field in fields(config)}
    given = [(name, getattr(config, name)) for name in names if getattr(config, name) != defaults[name]]
    return [word for name, value in given for word in (f"--{name}", str(value))]


def run(main: Callable[[Config], None], config_class: type[Config], arguments: Sequence[str] | None = None) -> None:
    """Parse the command line into `config_class` and call `main` with it.

    Exit status: 0 done; 2 for an `InputError`, whose sentence goes to stderr without a traceback; 130 when
    interrupted, with a word on how to go on.
    """
    config = tyro.cli(config_class, args=arguments)
    try:
        main(config)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from where it stopped", file=sys.stderr)
        raise SystemExit(130) from None
