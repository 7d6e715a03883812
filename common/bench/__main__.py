"""Ours against the peers, ratios in one run.

python -m common.bench --json
"""

import contextlib
import json
import sys
from dataclasses import asdict, dataclass
from functools import cache
from typing import Annotated, Any

import torch
import tyro

from common.bench import detections, networks, paths, sampling, searches, two_stage  # noqa: F401 (each registers its benchmarks)
from common.bench.harness import BENCHMARKS, Benchmark, Clock, Disagreement, Row, Timing, chosen
from common.cli import run
from common.plain import InputError
from common.train.run_folder import describe_environment

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]


@dataclass(frozen=True)
class BenchCommand:
    """Our parts against the peers', each pair in one run. A ratio above 1 means that ours is better."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Benchmarks to run (none: all)."""
    json: Flag = False
    """Print one JSON list instead of a table."""
    list: Flag = False
    """Print the names of the benchmarks and stop."""
    device: str = "cpu"
    """Where networks run: cpu or cuda."""
    repeats: int = 7
    """Rounds at the most; the median counts."""
    patience: float = 30.0
    """Seconds after which a comparison begins no further round."""
    clock: Clock = "wall"
    """wall, or cpu: the process's own time, for a machine that others use as well."""
    quick: Flag = False
    """Tiny sizes: shows that everything runs and agrees; the times mean nothing."""


def main(config: BenchCommand) -> None:
    """Prints the rows."""
    if config.repeats < 1:
        raise InputError(f"repeats is {config.repeats}: give at least 1")
    selected = chosen(config.names)
    if config.list:
        for entry in BENCHMARKS.values():
            print(f"{entry.name:<24}{entry.summary}")
        return
    timing = Timing(_device(config.device), config.repeats, config.patience, config.clock)
    rows: list[dict[str, Any]] = []
    for entry in selected:
        print(f"{entry.name} ...", file=sys.stderr, flush=True)
        with contextlib.redirect_stdout(sys.stderr):  # some peers print
            found = measure(entry, timing, config.quick)
        rows += [describe(each, timing) for each in found]
        if not config.json:
            for each in found:
                print(line(each), flush=True)
    if config.json:
        print(json.dumps(rows))


def measure(entry: Benchmark, timing: Timing, quick: bool) -> list[Row]:
    """The rows of one benchmark; InputError where its results disagree with a peer's."""
    try:
        return entry.measure(entry.quick if quick else entry.full, timing)
    except Disagreement as error:
        raise InputError(f"benchmark {entry.name}: {error}") from None


def describe(each: Row, timing: Timing) -> dict[str, Any]:
    """A row as JSON, with the machine; fields without a value are left out, but for peer and ratio."""
    fields = {name: value for name, value in asdict(each).items() if value is not None or name in ("peer", "ratio")}
    return {
        **fields,
        "machine": machine(timing.device),
        "threads": torch.get_num_threads(),
        "device": timing.device.type,
        "clock": timing.clock,
        "torch": torch.__version__,
    }


@cache
def machine(device: torch.device) -> str:
    """The product's name of the processor or GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else describe_environment()["cpu"]


def line(each: Row) -> str:
    """A row for people."""
    name = f"{each.name} ({each.case})" if each.case else each.name
    if each.peer is None:
        figures = f"{each.ours:>12.4g}{'-':>12} {each.unit:<10}{'-':>10}"
    else:
        figures = f"{each.ours:>12.4g}{each.peer:>12.4g} {each.unit:<10}{each.ratio:>9.3g}x"
    remarks = "; ".join(filter(None, (each.reason, each.note)))
    return f"{name:<58}{figures}  against {each.against}" + (f" [{remarks}]" if remarks else "")


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"unknown device {name!r}: give cpu or cuda") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"unknown device {name!r}: give cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError("this machine has no CUDA device that torch can use: leave --device out")
    return device


if __name__ == "__main__":
    run(main, BenchCommand)
