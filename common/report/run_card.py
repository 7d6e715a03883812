"""The frame of a run: curves of its trainings, its candidates with their front, and the detectors that it left."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.cli import PREFIXES, metric
from common.plain import read_json
from common.report.card import Card, image
from common.report.exhibit import Picture
from common.report.runs import SMOKE, RunSummary, duration, read_candidates, read_lines

CURVES = {"loss": (1, "Loss"), "accuracy": (100, "Accuracy (percent)"), "AP": (100, "AP (points)")}
"""What trainings log by epoch: factor and label of each quantity."""
_COSTS = {"latency": "Latency (ms)", "macs_mmdet": "Cost ({}MACs)", "macs": "Cost ({}MACs)", "cost": "Cost (millions)"}
"""Costs of candidates, the first that they have, and its label, {} for the prefix that fits."""
DETECTORS = "detector*/*.json"
"""Where a run's folder holds the cards of its detectors."""
_LONGEST = 300  # letters of an encoding


def card_of_run(run: RunSummary) -> Card | None:
    """The card of a run's folder; None for one that has nothing to show."""
    log, candidates = read_lines(run.folder / "log.jsonl"), read_candidates(run.folder)
    pictures, detectors = [*_curves(log), *_front(candidates)], dict(_detectors(run.folder))
    if not pictures and not detectors:
        return None
    config, command = read_json(run.folder / "config.json"), run.environment.get("command") or ""
    about = {"Run": run.name, "Data": config.get("data"), "Seed": config.get("seed"), "Command": command}
    parts = [
        "Finished" if run.finished else "Not finished",
        f"{duration(run.seconds)} of training" if run.seconds else "",
    ]
    parts += [f"{run.candidates:,} candidates, {run.failed:,} failed" if run.candidates else ""]
    parts += ["smoke scale: its numbers mean nothing" if (config.get("preset") or {}).get("name") == SMOKE else ""]
    sheets = [path.with_suffix(".jpg") for path in detectors]
    return Card(
        title=run.name,
        short=run.name,
        caption=f"{'; '.join(filter(None, parts))}.",
        made="",
        command=command,
        pictures=pictures,
        tables=list(_tables({path.stem: card for path, card in detectors.items()})),
        notes=[f"{path.stem} is {_spelled(card.get('encoding'))}" for path, card in detectors.items()],
        about={name: str(value) for name, value in about.items() if value not in (None, "")},
        images=[image(path.read_bytes(), "jpeg", f"what {path.stem} finds") for path in sheets if path.is_file()],
    )


def _curves(log: Sequence[Mapping[str, Any]]) -> Iterator[Picture]:
    """A picture for each quantity that is logged by epoch, in it a line for each stage."""
    for name, (factor, label) in CURVES.items():
        stages: dict[str, list[tuple[float, float]]] = {}
        for each in log:
            if isinstance(each.get(name), int | float) and "epoch" in each:
                stages.setdefault(str(each.get("stage")), []).append((each["epoch"] + 1, factor * each[name]))
        if stages:
            curves = {
                stage: [*zip(*points, strict=True), *[[None] * len(points)] * 2] for stage, points in stages.items()
            }
            yield Picture(f"curves-{name}", "progress", {"curves": curves, "x_label": "Epoch", "y_label": label})


def _front(candidates: Sequence[Mapping[str, Any]]) -> Iterator[Picture]:
    """AP against cost of the candidates that have both."""
    for name, label in _COSTS.items():
        there = [each for each in candidates if each.get("AP") is not None and each.get(name) is not None]
        if there:
            prefix = "M" if name == "cost" or max(each[name] for each in there) < PREFIXES["G"] else "G"
            unit = 1 if name == "latency" else PREFIXES[prefix]
            points = [(each[name] / unit, 100 * each["AP"], _about(each)) for each in there]
            data = {"points": {"Candidates": points}, "cost_label": label.format(prefix), "with_front": ["Candidates"]}
            yield Picture("candidates", "fronts", data)
            return


def _about(candidate: Mapping[str, Any]) -> dict[str, str]:
    known = {"Encoding": _spelled(candidate.get("key")), "Took": duration(candidate.get("seconds"))}
    if candidate.get("architecture"):
        known["Architecture"] = _spelled(candidate["architecture"])
    return known


def _detectors(folder: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """The cards of the detectors in a run's folder."""
    for path in sorted(folder.glob(DETECTORS)):
        card = read_json(path)
        if isinstance(card, Mapping) and {"accuracy", "cost"} <= card.keys():
            yield path, card


def _tables(detectors: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """What the detectors' cards say, a column each: numbers and costs, then AP by class."""
    for title, rows_of in {"Detectors": _numbers, "AP by class": _classes}.items():
        columns = [dict(rows_of(card)) for card in detectors.values()]
        names = dict.fromkeys(name for column in columns for name in column)
        if names:
            yield title, ["", *detectors], [[name, *(column.get(name, "–") for column in columns)] for name in names]


def _numbers(card: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    cost, latency, spent = (card.get(name) or {} for name in ("cost", "latency", "spent"))
    for name, value in card["accuracy"].items():
        if isinstance(value, int | float):
            yield name, _points(value)
    yield from (("MACs", metric(cost["macs"])), ("MACs as mmdetection counts", metric(cost["macs_mmdet"])))
    yield "Parameters", metric(cost["params"])
    if latency.get("median_ms"):
        yield "Latency", f"{latency['median_ms']:.2f} ms ({latency.get('device')}, {latency.get('precision')})"
    for name, unit in {"samples": "", "candidates": "", "cpu_seconds": " s", "gpu_seconds": " s"}.items():
        if spent.get(name):
            yield f"Spent: {name.removesuffix('_seconds')}", f"{spent[name]:,.0f}{unit}"


def _classes(card: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in (card["accuracy"].get("per_class") or {}).items():
        if value is not None:
            yield name, _points(value)


def _points(share: float) -> str:
    return f"{100 * share:.1f}" if share >= 0 else "–"  # COCO's -1: there is nothing to find


def _spelled(value: Any) -> str:
    """An encoding on one line: a list's parts in a row, an object as JSON."""
    text = " ".join(map(_spelled, value)) if isinstance(value, list) else value
    text = text if isinstance(text, str) else json.dumps(text)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"
