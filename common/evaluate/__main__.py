"""The 12 COCO numbers of a file of detections.

python -m common.evaluate --gt gt.json --dt detections.json --json
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.cli import Switch, run, show


@dataclass(frozen=True)
class EvaluateCommand:
    """Average precision and recall of detections against a ground truth, both in COCO's JSON form."""

    gt: Path
    """Ground truth: a JSON object with images, categories and annotations (bbox as x, y, width, height in pixels)."""
    dt: Path
    """Detections: a JSON list of image_id, category_id, bbox and score."""
    json: Switch = False
    """Print one JSON object instead of a table."""


def main(options: EvaluateCommand) -> None:
    """Print the 12 numbers."""
    from common.evaluate.files import read_detections, read_ground_truth

    ground_truth, file = read_ground_truth(options.gt)
    show(ground_truth.evaluate_rows(read_detections(options.dt, file)), options.json, _table)


def _table(numbers: Mapping[str, Any]) -> str:
    shown = {name: f"{value:8.4f}" if value >= 0 else f"{'-':>8}" for name, value in numbers.items()}
    return "\n".join(f"{name:<6}{value}" for name, value in shown.items())


if __name__ == "__main__":
    run(main, EvaluateCommand)
