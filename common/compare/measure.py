"""Detectors that are there, measured alike: AP on one split by one evaluator, and latencies taken in turn.

What was measured of a detector is kept under the digest of its weights and its input size: it is not done again.
"""

import hashlib
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.compare.methods import FOUND, front_of, methods
from common.compare.presets import Preset
from common.cost import count
from common.data.batches import DetectionBatches, memory_for_images, resident
from common.data.detection_set import DetectionSet
from common.evaluate.average_precision import METRICS, GroundTruth
from common.evaluate.inspection import as_trained, detected
from common.evaluate.latency import Detection, device_name, measure_latency
from common.letterbox import canvas_of
from common.models.detector import FORMAT, Detector, load_detector
from common.plain import InputError, read_json, read_json_if_there, write_json

Record = dict[str, Any]
"""What is known of a detector: of its card, and as measured here."""


def detectors_in(places: Iterable[Path]) -> list[Path]:
    """The JSON files of all detectors in some folders, or of those named, each once, in a fixed order."""
    found: dict[Path, None] = {}
    for place in places:
        stem = place.with_suffix("") if place.suffix in (".safetensors", ".json") else place
        files = sorted(place.rglob("*.json")) if place.is_dir() else [stem.with_name(f"{stem.name}.json")]
        pairs = [file for file in files if file.is_file() and file.with_suffix(".safetensors").is_file()]
        detectors = [file for file in pairs if _is_detector(file)]
        if not detectors:
            raise InputError(
                f"no detector in {place}: name a detector, a run that wrote one, or a folder of such runs; a detector "
                "is a .safetensors file with its .json beside it"
            )
        found |= dict.fromkeys(file.resolve() for file in detectors)
    return list(found)


def _is_detector(file: Path) -> bool:
    try:
        content = read_json(file)
    except InputError:
        return False
    return isinstance(content, Mapping) and content.get("format") == FORMAT


def key_of(card: Mapping[str, Any]) -> str:
    """Names a network at an input size, wherever it lies."""
    text = f"{card['weights_sha256']} {card['input_size']}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def measured(
    files: Iterable[Path], dataset: DetectionSet, folder: Path, preset: Preset, device: str
) -> tuple[list[Record], list[Exception]]:
    """What is known of each detector, and an error for each that cannot be measured: InputError where its files are at
    fault, FloatingPointError where its boxes are not finite.

    folder: where what was measured is kept, so that a detector is evaluated and timed once. Those that no latency of
    this device is known of are timed in turn, each once a round, beside one that was timed before, if there is one:
    latencies are those of a machine as fast as it was then.
    """
    cards = {key_of(card): (file, card) for file, card in ((file, read_json(file)) for file in reversed([*files]))}
    kept: dict[str, Record] = {}
    problems: list[Exception] = []
    images: dict[Any, torch.Tensor] = {}
    truth, fingerprint = GroundTruth(dataset), dataset.fingerprint()
    by_size = sorted(cards, key=lambda key: canvas_of(cards[key][1]["input_size"]))  # images are decoded once a size
    for key in by_size:
        file, card = cards[key]
        kept[key] = read_json_if_there(folder / f"{key}.json") or {}
        if kept[key].get("set") == fingerprint:
            continue
        try:
            detector = load_detector(file, device)
            size = canvas_of(detector.input_size)
            if size not in images and len(dataset) * 3 * math.prod(size) <= memory_for_images(torch.device(device)):
                images = {size: resident(dataset, size, device)}
            numbers = truth.evaluate(*detected(detector, dataset, images.get(size)))
            cost = card.get("cost") or asdict(count(detector.model, size))
        except (InputError, FloatingPointError) as error:
            problems.append(type(error)(f"{file} is left out: {error}"))
            del kept[key]
            continue
        kept[key] = {"set": fingerprint, "numbers": numbers, "cost": cost}
        write_json(folder / f"{key}.json", kept[key])
    now = {"device": device_name(torch.device(device)), "threads": torch.get_num_threads()}
    there = [key for key, record in kept.items() if record.get("timed_on") == now]
    missing = [key for key in kept if key not in there]
    if missing:
        networks = {key: load_detector(cards[key][0], device) for key in (*missing, *there[:1])}
        rounds = _in_turn(networks, dataset, preset, device)
        pace = kept[there[0]]["latency"] / np.median(rounds[there[0]]) if there else 1.0
        for key in missing:
            timed = {"latency": float(pace * np.median(rounds[key])), "rounds": rounds[key], "timed_on": now}
            kept[key] |= timed
            write_json(folder / f"{key}.json", kept[key])
    return _told_apart([_known(*cards[key], kept[key]) for key in cards if key in kept]), problems


def _told_apart(records: list[Record]) -> list[Record]:
    """Those that have a name in common are named by their paths below the folder that holds them all instead."""
    names = Counter(each["name"] for each in records)
    alike = [each for each in records if names[each["name"]] > 1]
    root = os.path.commonpath([Path(each["file"]).parent for each in alike]) if alike else ""
    for each in alike:
        each["name"] = Path(each["file"]).relative_to(root).with_suffix("").as_posix()
    return records


def _in_turn(
    detectors: Mapping[str, Detector], dataset: DetectionSet, preset: Preset, device: str
) -> dict[str, list[float]]:
    """Milliseconds of detection on the first images of a set, one at a time: the median of each round."""
    some = dataset.subset(np.arange(min(preset.latency_images, len(dataset))))
    timers = {}
    for key, detector in detectors.items():
        size = canvas_of(detector.input_size)
        images = [batch.images for batch in as_trained(detector, DetectionBatches(some, size, 1, device))]
        timers[key] = (Detection(detector.model), images)
    rounds: dict[str, list[float]] = {key: [] for key in timers}
    for _ in range(preset.latency_rounds):
        for key, (module, images) in timers.items():
            shape = images[0].shape[1:]
            timed = measure_latency(module, shape, device, warmup=3, runs=len(images), pause_s=0.0, images=images)
            rounds[key].append(timed.median_ms)
    return rounds


def _known(file: Path, card: Mapping[str, Any], record: Record) -> Record:
    """A detector as pictures and tables have it: AP in points, costs of the whole network."""
    made, spent = card.get("provenance") or {}, card.get("spent") or {}
    paper, run = made.get("paper"), Path(made.get("run") or file.parent).name
    role = front_of(paper).role(run) if paper in methods() else FOUND
    width, height = canvas_of(card["input_size"])
    return {
        "key": key_of(card),
        "file": str(file),
        "name": f"{run}/{file.stem}",
        "paper": paper,
        "role": role,
        "seed": made.get("seed"),
        "scale": made.get("scale"),
        "encoding": card.get("encoding"),
        "command": made.get("command"),
        "input_size": [width, height],
        **{name: 100 * record["numbers"][name] for name in METRICS},
        "latency": record["latency"],
        **{name: record["cost"][name] for name in ("macs", "macs_mmdet", "params")},
        "cpu_seconds": spent.get("cpu_seconds"),
        "samples": spent.get("samples"),
    }
