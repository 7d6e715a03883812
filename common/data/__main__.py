"""Read a detection set once and list all that is wrong with it.

    python -m common.data check DIR                           (finds out the form of the folder)
    python -m common.data check coco:DIR,repair --pictures    (as --data names it; also decodes every image)

Exit status 2 where training would refuse the set.
"""

import hashlib
import math
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from tqdm import tqdm

from common.cli import Switch, data_parts, run, show
from common.data.annotations import BAD_IMAGES, BAD_RECORDS, EXAMPLES, REPAIRABLE, Faults
from common.data.detection_set import DetectionSet, counted, describe
from common.data.image_files import OTHER_KINDS, SUFFIXES, files_below
from common.data.source import SPLITS, find, pictures_of, read_split
from common.data.splits import SEARCH_SHARE
from common.data.values import names_in
from common.letterbox import letterbox_scale, padded
from common.models.anchors import Anchors, unreached
from common.plain import InputError

UNREADABLE = ("fault that stops the reading", "faults that stop the reading")
TOO_SMALL = ("split that is too small", "splits that are too small")
UNLISTED = {
    "coco": "no JSON file has an entry of it",
    "voc": "it has no XML file, or no list names it",
    "yolo": "no list names it",
    "bdd": "no JSON file has an entry of it",
}
"""Form -> why a picture that lies beside those of a set does not belong to it."""
SMALL = 4.0  # pixels; a thinner object shows no class
PYRAMID = (4, 8, 16, 32, 64)  # strides of an RPN's levels
INPUT_SIZE, ANCHOR_SCALE = 256, 3.0  # of the first detector that photographs are trained with: SM-NAS's E0, scale photo


@dataclass(frozen=True)
class CheckCommand:
    """List the faults of a detection set, with counts and examples, its classes, and the sizes of its objects."""

    action: Annotated[Literal["check"], tyro.conf.Positional]
    data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")]
    """Folder, or a text as --data takes it."""
    pictures: Switch = False
    """Decode every image too."""
    input_size: int = INPUT_SIZE
    """Side in pixels of the network's input, at which sizes of objects are given; as of scale photo."""
    anchor_scale: float = ANCHOR_SCALE
    """Side of an RPN's square anchors in strides, by which objects that it cannot reach are counted; likewise."""
    json: Switch = False
    """Print one JSON object instead of text."""


def main(options: CheckCommand) -> None:
    """Print the report; InputError where training would refuse the set."""
    report = check(options.data, options.pictures, options.input_size, options.anchor_scale)
    show(report, options.json, _text)
    if report["faults"]:
        total, mended = (
            sum(fault["count"] for fault in report["faults"] if fault["repairable"] or not repaired)
            for repaired in (False, True)
        )
        way_out = f", or add ,repair to it, as in auto:DIR,repair, which mends {mended} of them" if mended else ""
        raise InputError(
            f"training would refuse {options.data} for {counted(total, 'fault', 'faults')}; mend the data{way_out}"
        )


def check(
    data: str, pictures: bool = False, input_size: int = INPUT_SIZE, anchor_scale: float = ANCHOR_SCALE
) -> dict[str, Any]:
    """What is wrong with a set, and what is in it.

    Keys: form, pictures, input_size, anchor_scale; splits: name -> images, empty, boxes, ignored, classes (name ->
    boxes), sizes; faults: a list of split (train or val), kind, count, examples and repairable (by `,repair`), for
    which training would refuse the set; remarks: sentences on what it would not refuse, faults of the test split among
    them.
    """
    if not anchor_scale > 0:
        raise InputError(f"--anchor-scale must be greater than 0, got {anchor_scale:g}")
    data = f"auto:{data}" if os.path.isdir(data) or (":" not in data and data != "scenes") else data
    form, directory, layout = find(data)
    _, _, repair = data_parts(data)
    sets: dict[str, DetectionSet] = {}
    faults: list[dict[str, Any]] = []
    remarks: list[str] = []
    complete = True  # no image was left out of a set
    annotated: dict[tuple[str, str], tuple[int, list[str]]] = {}  # faults of the annotations of the split before
    for split in SPLITS:
        if split == "test" and "test" not in layout.parts:
            continue
        found = Faults(repair, collect=True)
        try:
            sets[split] = read_split(form, directory, layout, split, found)
        except InputError as error:
            found.add(UNREADABLE, str(error))
        if split == "val" and "val" not in layout.parts:  # a part of train, of the same annotations
            found.collected = {kind: fault for kind, fault in found.collected.items() if fault != annotated.get(kind)}
        annotated = dict(found.collected)
        complete = complete and not {BAD_RECORDS, BAD_IMAGES, UNREADABLE} & found.collected.keys()
        if split in sets:
            for sentence in _too_small(sets[split]) if split == "train" else ():
                found.add(TOO_SMALL, sentence)
            remarks += _pictures(sets[split], found, decode=pictures)
        for (one, many), (count, examples) in found.collected.items():
            kind = one if count == 1 else many
            if split == "test":  # training does not read it
                remarks.append(f"test: {count:,} {kind}: {examples[0]}")
            else:
                fault = {"split": split, "kind": kind, "count": count, "examples": examples}
                faults.append(fault | {"repairable": (one, many) in REPAIRABLE})
    remarks += _classes_apart(sets)
    remarks += _duplicates(sets)
    with suppress(InputError):  # what cannot be read is a fault already
        remarks += layout.remarks()
        remarks += _not_used(form, directory, sets if complete else {})
    splits = {split: _contents(dataset, input_size, anchor_scale) for split, dataset in sets.items()}
    settings = {"form": form, "pictures": pictures, "input_size": input_size, "anchor_scale": anchor_scale}
    return {**settings, "splits": splits, "faults": faults, "remarks": remarks}


def _contents(dataset: DetectionSet, input_size: int, anchor_scale: float) -> dict[str, Any]:
    """What is in a split; sizes are of the objects' sides once the image is fitted into a square input.

    "unreached": the share of objects that no anchor on a pyramid of strides 4 to 64 overlaps enough to be a positive.
    """

    objects = ~dataset.crowd
    labels = np.bincount(dataset.labels[objects], minlength=len(dataset.categories))
    scale = np.repeat(letterbox_scale(dataset.sizes, input_size), np.diff(dataset.offsets))[objects]
    boxes = dataset.boxes[objects] * scale[:, None]
    sides = boxes[:, 2:] - boxes[:, :2]
    sizes = {}
    if len(sides):
        lowest, median, highest = np.quantile(np.sqrt(sides.prod(axis=1)), [0.05, 0.5, 0.95]).tolist()
        thin = float((sides.min(axis=1) < SMALL).mean())
        anchors = Anchors.octaves(PYRAMID, anchor_scale)
        beyond = float(unreached(torch.from_numpy(boxes), anchors, PYRAMID, padded(input_size)).float().mean())
        sizes = {"lowest": lowest, "median": median, "highest": highest, "thin": thin, "unreached": beyond}
    return {
        "described": describe(dataset),
        "images": len(dataset),
        "empty": int((np.diff(dataset.offsets) == 0).sum()),
        "boxes": len(dataset.boxes),
        "ignored": int(dataset.crowd.sum()),
        "classes": dict(zip(dataset.categories, labels.tolist(), strict=True)),
        "sizes": sizes,
    }


def _pictures(dataset: DetectionSet, faults: Faults, decode: bool) -> Iterator[str]:
    """Look at the header of each image, or at all of it."""
    turned = as_stored = 0
    for index in tqdm(range(len(dataset)), desc=f"images of {dataset.split}", disable=len(dataset) < 500 or None):
        try:
            stated, applied = dataset.load_image.orientations(index)
            turned += stated != 1
            as_stored += stated != applied
            if decode:
                dataset.load_image(index)
        except InputError as error:
            faults.add(BAD_IMAGES, str(error))
    if turned:
        kept = f", but {as_stored:,} of them not, as their annotations give the stored size" if as_stored else ""
        yield f"{dataset.split}: {counted(turned, 'image is', 'images are')} stored turned, and turned upright{kept}"


def _classes_apart(sets: Mapping[str, DetectionSet]) -> Iterator[str]:
    """Classes that have no object in a split, or in any; what is ignored is no object."""
    used = {}
    for split, dataset in sets.items():
        used[split] = {dataset.categories[label] for label in np.unique(dataset.labels[~dataset.crowd])}
    for split, classes in used.items():
        missing = sorted(set().union(*used.values()) - classes)
        if missing:
            yield f"{split}: no object of {', '.join(missing)}"
    named = dict.fromkeys(name for dataset in sets.values() for name in dataset.categories)
    if nowhere := [name for name in named if not any(name in classes for classes in used.values())]:
        yield f"no split has an object of {', '.join(nowhere)}"


def _duplicates(sets: Mapping[str, DetectionSet]) -> Iterator[str]:
    """Image files of the same content in two splits."""
    by_size: dict[int, list[tuple[str, Path]]] = defaultdict(list)
    for split, dataset in sets.items():
        for path in map(dataset.load_image.path, range(len(dataset))):
            with suppress(OSError):  # what cannot be read is a fault already
                by_size[path.stat().st_size].append((split, path))
    same: dict[str, list[tuple[str, Path]]] = defaultdict(list)
    for files in by_size.values():
        if len({split for split, _ in files}) > 1:
            for split, path in files:
                with suppress(OSError):
                    same[hashlib.sha256(path.read_bytes()).hexdigest()].append((split, path))
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        pairs = [files for files in same.values() if {one, other} <= {split for split, _ in files}]
        if pairs:
            names = "; ".join(" = ".join(path.name for _, path in files) for files in pairs[:EXAMPLES])
            yield f"{counted(len(pairs), 'picture is', 'pictures are')} both in {one} and in {other}: {names}"


def _too_small(train: DetectionSet) -> Iterator[str]:
    """Why training, which holds out a share of its pictures, would refuse the set, if it would."""
    least = math.ceil(1 / SEARCH_SHARE)
    if len(train) < least:
        yield f"{counted(len(train), 'image', 'images')} to train on, where at least {least} are needed; add images"
    elif len(set(pictures_of(train))) < 2:
        yield "all images to train on are by their names (NAME.rf.HASH) copies of one picture; add others"


def _not_used(form: str, directory: Path, sets: Mapping[str, DetectionSet]) -> Iterator[str]:
    """Picture files that cannot be read, and those that lie beside the pictures of `sets` but are in none of them."""
    other_kinds = files_below(directory, OTHER_KINDS)
    if other_kinds:
        count = counted(len(other_kinds), "picture is", "pictures are")
        yield f"{count} of a kind that cannot be read, first {other_kinds[0]}; convert to JPEG or PNG"
    used = {path for dataset in sets.values() for path in map(dataset.load_image.path, range(len(dataset)))}
    folders = {path.parent for path in used}
    named = (folder / name for folder in folders for name in names_in(folder) if not name.startswith("."))
    unlisted = sorted(path for path in named if path.suffix.lower() in SUFFIXES and path not in used)
    if unlisted:
        count = counted(len(unlisted), "picture is", "pictures are")
        yield f"{count} in no split, first {unlisted[0]}, as {UNLISTED[form]}; add those that are to be used"


def _text(report: Mapping[str, Any]) -> str:
    splits = report["splits"]
    lines = [content["described"] for content in splits.values()]
    classes = dict.fromkeys(name for content in splits.values() for name in content["classes"])
    width = max([5, *map(len, classes)])
    lines += ["", f"{'class':<{width}}" + "".join(f"{split:>10}" for split in splits)]
    for name in classes:
        counts = (f"{content['classes'].get(name, 0):>10,}" for content in splits.values())
        lines.append(f"{name:<{width}}" + "".join(counts))
    lines.append("")
    for split, content in splits.items():
        if sizes := content["sizes"]:
            lines.append(
                f"{split}: at an input of {report['input_size']} pixels, 90 % of the objects are {sizes['lowest']:.1f} "
                f"to {sizes['highest']:.1f} pixels large, half of them over {sizes['median']:.1f}; "
                f"{100 * sizes['thin']:.1f} % are under {SMALL:.0f} pixels wide or high, and "
                f"{100 * sizes['unreached']:.1f} % are reached by no anchor of {report['anchor_scale']:g} strides"
            )
    lines += report["remarks"]
    if not report["pictures"]:
        lines.append("pictures: only their headers were read; --pictures decodes them, and finds damaged ones")
    for fault in report["faults"]:
        lines.append(f"{fault['split']}: {fault['count']:,} {fault['kind']}")
        lines += [f"    {example}" for example in fault["examples"]]
    return "\n".join(lines if report["faults"] else [*lines, "no fault found"])


if __name__ == "__main__":
    run(main, CheckCommand)
