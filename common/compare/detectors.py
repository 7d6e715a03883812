"""Detectors that are there, side by side on one page: AP against every cost that they have."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.cli import short_name, typed_command
from common.compare.exhibits import bands
from common.compare.measure import Record, detectors_in, key_of, measured
from common.compare.methods import STANDARD, by_label, methods, printed_points
from common.compare.presets import Options
from common.data.detection_set import counted
from common.data.source import load
from common.models.mode import usable_device
from common.plain import InputError, read_json, write_atomically
from common.report.exhibit import ExhibitResult, Picture
from common.report.page import build_page
from common.report.reproduce import save
from common.report.tables import Table
from common.train.run_folder import describe_environment

_COSTS = {
    "macs": ("Multiply-accumulates of the whole detector (M)", 1e6),
    "latency": ("Latency (ms)", 1.0),
    "params": ("Parameters (M)", 1e6),
    "cpu_seconds": ("Search and training (CPU seconds, of the card)", 1.0),
}
_PUBLISHED = "paper"
"""The scale whose detectors the papers' printed points are comparable with."""
LONGEST = 200
"""Characters of an encoding that is told of a point."""
_HEADS = ("Detector", "Kind", "Input", "AP", "AP50", "Latency", "MAC", "Parameters", "Search and training", "Seed")
_UNITS = {
    "AP": "points", "AP50": "points", "Latency": "ms", "MAC": "M", "Parameters": "M", "Search and training": "CPU s"
}  # fmt: skip


def compare(options: Options) -> None:
    """Measure the detectors that were named and are not measured yet, and write the record and the page."""
    files = detectors_in(options.detectors)
    dataset, device = load(options.data, options.split), usable_device(options.device)
    folder = options.out / "compare" / f"{short_name(options.data)}-{options.split}"
    compared, images = counted(len(files), "detector", "detectors"), counted(len(dataset), "image", "images")
    print(f"{compared} on {images} of {options.data}, {options.split}", file=sys.stderr)
    shown: dict[str, Path] = {}
    twins = [
        f"{file} has the weights and input size of {first}, which is shown"
        for file in files
        if (first := shown.setdefault(key_of(read_json(file)), file)) != file
    ]
    records, errors = measured(shown.values(), dataset, folder / "detectors", options.preset, str(device))
    problems = [*map(str, errors), *twins]
    if not records:
        raise InputError(f"no detector could be measured: {problems[0]}")
    for each in records:
        known = read_json(Path(each["file"]))["categories"]
        if unknown := [name for name in dataset.categories if name not in known]:
            problems.append(f"{each['name']} does not know {', '.join(unknown)}")
    result = drawn(records, problems, options, typed_command())
    save(result, folder / "exhibits" / "detectors")
    page = folder / "index.html"
    write_atomically(page, build_page([folder], typed_command(), "Detectors side by side").encode())
    print("\n".join([*problems, text(records), f"page: {page}"]))


def drawn(records: Sequence[Record], problems: Sequence[str], options: Options, command: str) -> ExhibitResult:
    """The table of all detectors, the most accurate first, and a picture for every cost, bands over seeds."""
    groups = by_label(records)
    rows = [
        (
            each["name"], label, "x".join(map(str, each["input_size"])), each["AP"], each["AP50"], each["latency"],
            each["macs"] / 1e6, each["params"] / 1e6, each["cpu_seconds"], each["seed"],
        )
        for label, each in _best_first(groups)
    ]  # fmt: skip
    pictures = [_against(cost, groups) for cost in _COSTS]
    if several := {label: found for label, some in groups.items() if len(found := _by_seed(some)) > 1}:
        pictures.append(bands("detectors-bands", several, "macs", *_COSTS["macs"]))
    notes = list(problems)
    if any("points" in picture.name for picture in pictures):
        notes.append("Rings are the papers' printed points.")
    else:
        notes.append(
            "The papers' printed points are of another scale, and are shown beside detectors of that scale only."
        )
    return ExhibitResult(
        exhibit="detectors",
        paper="compare",
        paper_title="Comparison",
        title="Detectors side by side",
        caption=f"AP on one split ({options.split}) by one evaluator; MAC of products alone, without what mmdetection "
        "counts besides; latencies of one image taken in turn. A front is drawn for every method and for every random "
        "search.",
        data=f"{short_name(options.data)}, {options.split}",
        scale="",
        seeds=tuple(sorted({each["seed"] for each in records if each["seed"] is not None})),
        command=command,
        table=Table(_HEADS, rows),
        units=_UNITS,
        notes=tuple(notes),
        pictures=tuple(pictures),
        environment=describe_environment(command),
    )


def _best_first(groups: Mapping[str, Sequence[Record]]) -> list[tuple[str, Record]]:
    """Every detector with its label, the most accurate first."""
    labelled = ((label, each) for label, some in groups.items() for each in some)
    return sorted(labelled, key=lambda item: -item[1]["AP"])


def _against(cost: str, groups: Mapping[str, Sequence[Record]]) -> Picture:
    label, unit = _COSTS[cost]
    points = {
        name: [(each[cost] / unit, each["AP"], _more(each, label)) for each in some if each[cost] is not None]
        for name, some in groups.items()
    }
    fronts = [name for name, some in groups.items() if some[0]["role"] != STANDARD]
    printed = _printed(cost, groups)
    data: dict[str, Any] = {"points": points, "with_front": fronts, "cost_label": label, "log_cost": True}
    return Picture(f"detectors-{cost}" + ("-points" if printed else ""), "fronts", data | {"highlighted": printed})


def _more(record: Record, shown: str) -> dict[str, Any]:
    """What the page says of a point besides. shown: the cost that the picture says."""
    encoding = record["encoding"]
    said = {"Detector": record["name"], "Latency (ms)": record["latency"], "MAC (M)": record["macs"] / 1e6}
    said |= {"Input": "x".join(map(str, record["input_size"])), "Seed": record["seed"], "Command": record["command"]}
    said |= {"Encoding": encoding if isinstance(encoding, str) else json.dumps(encoding)[:LONGEST]}
    return {name: value for name, value in said.items() if value is not None and name != shown}


def _printed(cost: str, groups: Mapping[str, Sequence[Record]]) -> dict[str, tuple[float, float]]:
    """What the papers of detectors of the published scale print, in the picture's unit."""
    key, unit = {"macs": "macs_mmdet"}.get(cost, cost), _COSTS[cost][1]
    papers = {each["paper"] for some in groups.values() for each in some if each["scale"] == _PUBLISHED}
    printed = [printed_points(name).get(key, {}) for name in methods() if name in papers]
    return {name: (number / unit, ap) for points in printed for name, (number, ap) in points.items()}


def _by_seed(records: Sequence[Record]) -> list[list[Record]]:
    seeds = sorted({each["seed"] for each in records if each["seed"] is not None})
    return [[each for each in records if each["seed"] == seed] for seed in seeds]


def text(records: Sequence[Record]) -> str:
    """A line for each detector, the most accurate first."""
    width = max(len(each["name"]) for each in records)
    lines = [f"{'':<{width}}{'AP':>7}{'ms':>9}{'M MAC':>10}{'M params':>10}{'CPU s':>9}  kind"]
    for label, each in _best_first(by_label(records)):
        took = "-" if each["cpu_seconds"] is None else f"{each['cpu_seconds']:,.0f}"
        lines.append(
            f"{each['name']:<{width}}{each['AP']:>7.1f}{each['latency']:>9.2f}{each['macs'] / 1e6:>10.4g}"
            f"{each['params'] / 1e6:>10.4g}{took:>9}  {label}"
        )
    return "\n".join(lines)
