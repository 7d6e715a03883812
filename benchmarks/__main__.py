"""Ours against the peers, each pair timed in turn in one run.

python -m benchmarks [NAME ...] --json
"""

import contextlib
import importlib
import json
import sys
from dataclasses import asdict, dataclass, field
from datetime import date
from typing import Any, Literal

from tyro.conf import Positional

from benchmarks.harness import Disagreement, Row, Timing
from common.cli import Switch, run
from common.plain import InputError, to_json


@dataclass(frozen=True)
class Benchmark:
    """`module` of this package holds the function, called as the benchmark with underscores: (timing, **sizes) -> rows.

    It is called once with each of the sizes `full`, or `quick`, tiny ones. target: what ours should reach. bound: what
    takes its time by our reading of the code, not by a profile.
    """

    module: str
    summary: str
    target: str
    bound: str
    quick: list[dict[str, Any]]
    full: list[dict[str, Any]] = field(default_factory=lambda: [{}])


_FEW_GENERATIONS = [{"population": 20, "generations": 5, "searches": 2}]
_FEW_PATHS = {"paths": 6, "image_size": 32, "training_images": 32, "validation_batch": 8, "epochs": 1}

BENCHMARKS = {
    "answers": Benchmark(
        "commands",
        "A command answers a request for help, or a wrong flag",
        "1 s",
        "starting Python, importing tyro, and laying out the flags",
        quick=[{"commands": (("detofa.train", "--no-such-flag"),)}],
    ),
    "average-precision": Benchmark(
        "detections",
        "The 12 COCO numbers of 500 images by 100 detections, from tensors on the device",
        "0.02 s",
        "matching boxes, on one thread",
        quick=[{"images": 20, "detections": 10}],
    ),
    "bn-reestimation": Benchmark(
        "networks",
        "Re-estimating a sub-network's batch norm, beside a plain forward over the same images",
        "1.1 times as long",
        "convolutions, and one more pass over each layer's output",
        full=[{"case": ("paper widths", 224, 8, 2)}, {"case": ("thin", 96, 16, 8)}],
        quick=[{"case": ("thin", 32, 4, 2)}],
    ),
    "bookkeeping": Benchmark(
        "records",
        "Recording a candidate of a search that holds a million",
        "1 ms and 2 GiB",
        "bringing each line to the disk",
        quick=[{"candidates": 200, "new": 20}],
    ),
    "cost-paths": Benchmark(
        "paths",
        "Multiply-accumulates of paths of the OFA-ResNet50 space at 224x224",
        "5 million paths/s",
        "reading tables at random places",
        quick=[{"tables": 1000, "look_up": 5, "network": 2}],
    ),
    "elastic-step": Benchmark(
        "networks",
        "A training step of a sub-network in the supernet, beside the same net taken out",
        "1.05 times as long",
        "convolutions, and copying slices of weights and gradients",
        full=[{"case": ("paper widths", 224, 8)}, {"case": ("thin", 96, 16)}],
        quick=[{"case": ("thin", 32, 4)}],
    ),
    "evolution": Benchmark(
        "paths",
        "A search of 100 individuals by 500 generations with an accuracy predictor of the OFA release's form",
        "0.72 s",
        "drawing and comparing paths in numpy, a generation at a time",
        quick=_FEW_GENERATIONS,
    ),
    "evolution-path-filter": Benchmark(
        "paths",
        "The same search with DetOFA's path filter as predictor",
        "1.5 s",
        "matrix products of the path filter",
        quick=_FEW_GENERATIONS,
    ),
    "path-sampling": Benchmark(
        "sampling",
        "Validating 500 paths, in per cent of training their supernet on VOC",
        "10 % at a rank correlation of .95",
        "forward passes",
        quick=[{"case": ("thin", 32, 4), "timed_images": 8, "cheap": (8, 16), "full": (16, 16), **_FEW_PATHS}],
    ),
    "redrawing": Benchmark(
        "commands",
        "All published exhibits drawn on one page, from their records",
        "5 s",
        "writing pictures as text, and templates",
        quick=[{"results": "results/nano/joint_detnas"}],
    ),
    "two-stage": Benchmark(
        "networks",
        "A training step of Faster R-CNN R50-FPN at 320x320",
        "1.5 times as fast, on a GPU 3",
        "convolutions",
        full=[{"batch_size": 2}, {"batch_size": 8}],
        quick=[{"batch_size": 2, "side": 64}],
    ),
    "workers": Benchmark(
        "workers",
        "A candidate of a search by two processes",
        "1.8 times as fast",
        "caches and memory that both cores share",
        quick=[{"candidates": 2, "side": 32, "images": 32, "epochs": 1}],
    ),
}


@dataclass(frozen=True)
class Options:
    """Our parts against the peers', each pair in one run. A ratio above 1 means that ours is better."""

    names: Positional[tuple[str, ...]] = ()
    """Benchmarks to run (default: all)."""
    json: Switch = False
    """Print one JSON list instead of a table."""
    list: Switch = False
    """Print the names of the benchmarks and stop."""
    device: str = "cpu"
    """Where networks run: cpu or cuda."""
    repeats: int = 7
    """Largest number of rounds; the median counts."""
    patience: float = 30.0
    """Seconds after which a comparison begins no further round."""
    clock: Literal["wall", "cpu"] = "wall"
    """wall, or cpu: the process's own time, for a machine that others use as well."""
    quick: Switch = False
    """Tiny sizes: shows that everything runs and agrees; the times mean nothing."""


def main(options: Options) -> None:
    """Measure the chosen benchmarks and print their rows."""
    if options.repeats < 1:
        raise InputError(f"repeats must be at least 1, got {options.repeats}")
    if unknown := [name for name in options.names if name not in BENCHMARKS]:
        raise InputError(f"unknown benchmark {unknown[0]!r}: give some of {', '.join(BENCHMARKS)}, or none for all")
    if options.list:
        for name, benchmark in BENCHMARKS.items():
            print(f"{name:<24}{benchmark.summary}; target {benchmark.target}")
        return

    from common.train import distributed
    from common.train.run_folder import describe_environment

    timing = Timing(str(distributed.start(options.device)), options.repeats, options.patience, options.clock)
    environment = describe_environment() | {"device": timing.device, "clock": timing.clock}
    machine = {name: environment[name] for name in ("cpu", "gpus", "threads", "torch", "device", "clock")}
    machine |= {"date": date.today().isoformat(), "quick": options.quick}
    records = []
    for name in options.names or BENCHMARKS:
        print(f"{name} ...", file=sys.stderr, flush=True)
        with contextlib.redirect_stdout(sys.stderr):  # some peers print
            rows = measure(name, timing, options.quick)
        for row in rows:
            if not options.json:
                print(line(name, row), flush=True)
            about = {key: getattr(BENCHMARKS[name], key) for key in ("summary", "target", "bound")}
            records.append({"name": name, **about, **asdict(row), "ratio": row.ratio, **machine})
    if options.json:
        print(json.dumps(to_json(records)))


def measure(name: str, timing: Timing, quick: bool) -> list[Row]:
    """The rows of one benchmark; InputError when a peer's results differ from ours."""
    benchmark = BENCHMARKS[name]
    function = getattr(importlib.import_module(f"benchmarks.{benchmark.module}"), name.replace("-", "_"))
    try:
        return [row for sizes in (benchmark.quick if quick else benchmark.full) for row in function(timing, **sizes)]
    except Disagreement as error:
        raise InputError(f"benchmark {name}: {error}") from None


def line(name: str, row: Row) -> str:
    """A row for people."""
    label = f"{name} ({row.case})" if row.case else name
    peer, ratio = ("-", "-") if row.peer is None else (f"{row.peer:.4g}", f"{row.ratio:.3g}x")
    remarks = "; ".join(filter(None, (row.reason, row.note)))
    figures = f"{row.ours:>12.4g}{peer:>12} {row.unit:<10}{ratio:>10}"
    return f"{label:<58}{figures}  against {row.against}" + (f" [{remarks}]" if remarks else "")


if __name__ == "__main__":
    run(main, Options)
