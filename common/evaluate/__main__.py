"""The 12 COCO numbers of a detector on a data set, or of a file of detections.

python -m common.evaluate --gt gt.json --dt detections.json --json
python -m common.evaluate DETECTOR --data coco:DIR --split test --out evaluation
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from common.cli import DATA_FORMS, Switch, output_folder, run, show
from common.plain import InputError


@dataclass(frozen=True)
class EvaluateCommand:
    """Average precision and recall: of a detector on a data set, or of detections against a ground truth, both files.

    Of a detector also: AP by class, precision and recall, what is taken for what, and the pictures of most mistakes.
    """

    detector: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="DETECTOR")] = None
    """A detector that this project wrote (its folder, or one of its files), or an .onnx export of it."""
    data: str | None = None
    """Detection set for DETECTOR: scenes (built in), or auto:, coco:, voc:, yolo: or bdd:DIR."""
    split: Literal["train", "val", "test"] = "val"
    """Part of the set."""
    out: Path | None = None
    """Folder for what is found of DETECTOR: evaluation.json, precision_recall.png, confusion.png, worst.png."""
    score: float | None = None
    """Least score, 0 to 1, of the detections that confusion and mistakes count (default: that of the best F1)."""
    device: str | None = None
    """Where DETECTOR runs: cpu, cuda or cuda:N (default: GPU if available; an .onnx runs on the CPU)."""
    gt: Path | None = None
    """Ground truth: a JSON object with images, categories and annotations (bbox as x, y, width, height in pixels)."""
    dt: Path | None = None
    """Detections: a JSON list of image_id, category_id, bbox and score; file_name and category, where they stand in it,
    count before the ids."""
    json: Switch = False
    """Print one JSON object instead of a table."""


def main(options: EvaluateCommand) -> None:
    """Print the 12 numbers, and what else is known of a detector."""
    files = [each for each in (options.gt, options.dt) if each is not None]
    if options.detector is None:
        if len(files) < 2:
            raise InputError("say what to evaluate: DETECTOR with --data, or two files with --gt and --dt")
        if any(each is not None for each in (options.data, options.out, options.score, options.device)):
            raise InputError("--data, --out, --score and --device are about a DETECTOR: name one, or leave them out")
        from common.evaluate.files import read_detections, read_ground_truth

        ground_truth, file = read_ground_truth(options.gt)
        show(ground_truth.evaluate_rows(read_detections(options.dt, file)), options.json, _table)
        return
    if options.score is not None and not 0 <= options.score <= 1:
        raise InputError(f"--score must be from 0 to 1, got {options.score:g}")
    if files:
        raise InputError("--gt and --dt compare two files without a DETECTOR: leave it out, or give --data instead")
    if options.data is None:
        raise InputError(f"say on which set to evaluate {options.detector} with --data: {DATA_FORMS}")

    from common.data.source import load
    from common.evaluate.inspection import inspect, write
    from common.models.detector import load_detector
    from common.models.mode import usable_device

    detector = load_detector(options.detector, usable_device(options.device))
    dataset = load(options.data, options.split)
    with nullcontext() if options.out is None else output_folder(options.out):
        report = inspect(detector, dataset, options.score)
        written = [] if options.out is None else write(options.out, report, dataset)
    said = {name: value for name, value in report.items() if name != "pictures"}
    show(said, options.json, _inspection)
    if written and not options.json:
        print(f"wrote {options.out}: {', '.join(written)}")


def _table(numbers: Mapping[str, Any]) -> str:
    from common.evaluate.average_precision import METRICS

    shown = {name: f"{numbers[name]:8.4f}" if numbers[name] >= 0 else f"{'-':>8}" for name in METRICS}
    return "\n".join(f"{name:<6}{value}" for name, value in shown.items())


def _inspection(report: Mapping[str, Any]) -> str:
    confusion, names = report["confusion"], list(report["per_class"])
    width = max(5, *map(len, names))
    lines = [_table(report), "", f"{'class':<{width}}{'AP':>8}{'objects':>9}{'found':>7}{'missed':>8}{'false':>7}"]
    for place, name in enumerate(names):
        row, found = confusion[place], confusion[place][place]
        false = sum(each[place] for each in confusion) - found
        ap = report["per_class"][name]
        shown = f"{ap:8.4f}" if ap >= 0 else f"{'-':>8}"
        lines.append(f"{name:<{width}}{shown}{sum(row):>9,}{found:>7,}{sum(row) - found:>8,}{false:>7,}")
    objects = f"{report['objects']:,} objects in {report['images']:,} images"
    lines += [
        "",
        f"of detections of score {report['score']:.3f} or more {report['precision']:.1%} are right, and "
        f"{report['recall']:.1%} of {objects} are found: those that the table counts; missed are also the ones taken "
        "for another class"
        if report["recall"]
        else f"no detection is right: none of {objects} is found",
    ]
    if report["unknown_classes"]:
        lines.append(f"the detector does not know {', '.join(report['unknown_classes'])}")
    return "\n".join(lines)


if __name__ == "__main__":
    run(main, EvaluateCommand)
