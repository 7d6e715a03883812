"""Does the built-in set tell larger networks from smaller ones? Several widths of one network, several seeds.

Whatever is compared on Scenes depends on this: if a wider network were not measurably better there, no search could be
judged on it. The networks differ in the backbone's width alone, and AP is that of images that nothing was chosen by.

Command: python -m benchmarks.capacity --out results/nano/common/capacity.json --precision bfloat16
Time: about 25 minutes on one CPU core that computes with bfloat16.
"""

import shlex
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from common.cli import run
from common.plain import InputError, write_json
from common.settings import Optimisation, Precision

RULE = "wider is better: from each width to the next, the paired 95 % interval of the difference of AP lies above 0"
NO_SETTING = ("out", "runs", "device", "widths")  # the widths stand with their results


@dataclass(frozen=True)
class Options:
    """Trains the same detector at several widths and seeds, and says whether wider is better on this data."""

    out: Path
    """The JSON file to write."""
    data: str = "scenes:val=2000"
    """Images: scenes, or auto:, coco:, voc:, yolo: or bdd:DIR."""
    widths: tuple[float, ...] = (0.25, 0.5, 1.0)
    """Factors of the backbone's widths, rising."""
    seeds: int = 6
    """Seeds 0, 1, ... for each width."""
    train_images: int = 2000
    """Images to train on at the most."""
    image_size: int = 96
    """Side of the square that images are fitted into, pixels."""
    batch_size: int = 16
    """Images a training step."""
    optimisation: Optimisation = field(
        default_factory=partial(Optimisation, epochs=12, optimiser="adam", learning_rate=4e-3, policy="cosine")
    )
    """Optimiser and schedule."""
    runs: Path = Path(tempfile.gettempdir()) / "scenes-capacity"
    """Folder of the trainings; the same command goes on with what is there."""
    device: str = "cpu"
    """Where to train: cpu or cuda."""
    precision: Precision = "float32"
    """Number format of training; bfloat16 is faster on GPUs and CPUs that compute with it."""


def main(options: Options) -> None:
    """Trains whatever is missing, then writes and prints the verdict."""
    if len(options.widths) < 2 or any(a >= b for a, b in pairwise(options.widths)) or options.widths[0] <= 0:
        raise InputError(f"widths must be at least two positive numbers that rise, got {options.widths}")
    if options.seeds < 2:
        raise InputError(f"seeds must be at least 2 for an interval, got {options.seeds}")

    from benchmarks.widths import measure
    from common.train.run_folder import describe_environment

    measured = measure(options)
    record = {
        "what": "AP of one thin detector at several backbone widths",
        "settings": {name: value for name, value in asdict(options).items() if name not in NO_SETTING},
        **measured,
        **verdict(measured["results"]),
        "environment": describe_environment(shlex.join(["python", "-m", "benchmarks.capacity", *sys.argv[1:]])),
    }
    write_json(options.out, record)
    for step in record["steps"]:
        print(
            f"x{step['from']:g} to x{step['to']:g}: AP {step['difference']:+.4f} "
            f"({step['low']:+.4f} to {step['high']:+.4f}, {step['seeds']} seeds)"
        )
    print(f"{RULE}: {'met' if record['wider_is_better'] else 'not met'}")


def verdict(results: list[dict[str, Any]]) -> dict[str, Any]:
    """AP by width, the paired difference at every step up, and whether `RULE` is met."""
    from common.report.statistics import mean_interval  # slow to import

    scores: dict[float, list[float]] = {}
    for result in sorted(results, key=lambda result: (result["width"], result["seed"])):
        scores.setdefault(result["width"], []).append(result["AP"])
    steps = []
    for narrow, wide in pairwise(scores):
        found = mean_interval([ours - theirs for ours, theirs in zip(scores[wide], scores[narrow], strict=True)])
        interval = {"difference": found.mean, "low": found.low, "high": found.high, "seeds": found.n}
        steps.append({"from": narrow, "to": wide, **interval})
    return {
        "AP": [
            {"width": width, "mean": sum(values) / len(values), "by_seed": values} for width, values in scores.items()
        ],
        "steps": steps,
        "rule": RULE,
        "wider_is_better": all(step["low"] > 0 for step in steps),
    }


if __name__ == "__main__":
    run(main, Options)
