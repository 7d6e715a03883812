"""What the readers of all disk formats share: faults, annotations, and the way to a `DetectionSet`."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.data.detection_set import DetectionSet, counted, first_rows
from common.data.image_files import ImageFiles, upright_size
from common.data.values import BadRecord, refuse_escape, shown, speller
from common.plain import InputError

SPLIT_NAMES = {
    "train": ("train", "training", "Train", "default"),
    "val": ("val", "valid", "validation", "Validation"),
    "test": ("test", "testing", "Test"),
}
"""Our splits -> the names that folders and lists of files give them; CVAT's are Train, Validation, Test and default."""
OVERHANG = 1.0
"""Pixels by which a box may stick out of its image without a word: rounding, which is clipped."""
EXAMPLES = 3  # of each kind of fault that are kept

Box = tuple[float, float, float, float]
_Kind = tuple[str, str]
"""What a fault is called: one, many."""
BAD_RECORDS = ("record that cannot be read", "records that cannot be read")
NO_IMAGE = ("image that is missing", "images that are missing")
BAD_IMAGES = ("image that cannot be decoded", "images that cannot be decoded")
REPEATED = ("entry that occurs twice", "entries that occur twice")
NOT_FINITE = ("box with coordinates beyond all numbers", "boxes with coordinates beyond all numbers")
OVER_THE_EDGE = ("box over the edge of its image", "boxes over the edge of their image")
NO_AREA = ("box without area in its image", "boxes without area in their image")
NEGATIVE_AREA = ("negative area", "negative areas")
REPAIRABLE = (OVER_THE_EDGE, NO_AREA)
UNKNOWN_CLASS = ("box of an unknown class", "boxes of an unknown class")


class Faults:
    """What is wrong with annotations: the first fault raises `InputError`, or all are collected.

    repair: small faults are mended, and counted in `notes`. collected: kind -> count and first sentences; None where
    the first fault raises.
    """

    def __init__(self, repair: bool = False, collect: bool = False):
        self.repair = repair
        self.collected: dict[_Kind, tuple[int, list[str]]] | None = {} if collect else None
        self.notes: list[str] = []

    def add(self, kind: _Kind, *sentences: str, count: int | None = None) -> None:
        """Note faults of a kind by their first sentences; raises the first of them unless faults are collected."""
        if self.collected is None:
            raise InputError(sentences[0])
        before, kept = self.collected.get(kind, (0, []))
        count = len(sentences) if count is None else count
        self.collected[kind] = before + count, [*kept, *sentences][:EXAMPLES]

    def add_rows(
        self, kind: _Kind, bad: NDArray[np.bool_], source: Path, where: Callable[[int], str], repair: str = ""
    ) -> None:
        """Note that the rows (M,) `bad` of `source` have a fault.

        where: row -> what and where it is. repair: what is done to such rows where faults are repaired.
        """
        count = int(bad.sum())
        if not count:
            return
        if repair and self.repair:
            self.notes.append(f"{counted(count, *kind)} {repair}")
        elif self.collected is None:
            them = "it" if count == 1 else "them"
            way_out = f", or add ,repair to the data to have {them} {repair}" if repair else ""
            first = where(int(bad.argmax()))
            raise InputError(f"{source} has {counted(count, *kind)}, first {first}; correct or remove {them}{way_out}")
        else:
            self.add(kind, *map(where, np.flatnonzero(bad)[:EXAMPLES].tolist()), count=count)


def read_each(records: Any, what: str, read: Callable[[dict[str, Any]], None], faults: Faults) -> None:
    """Call `read` with each object of a list of JSON; a `BadRecord` is a fault."""
    if not isinstance(records, list):
        raise InputError(f"{what} must be a list of objects, got {shown(records)}")
    for place, record in enumerate(records):
        try:
            if not isinstance(record, dict):
                raise BadRecord(f"is {shown(record)}, which must be an object")
            read(record)
        except BadRecord as error:
            which = f" (id {shown(record['id'])})" if isinstance(record, dict) and "id" in record else ""
            faults.add(BAD_RECORDS, f"record {place}{which} of {what} {error}; correct or remove it")


@dataclass(frozen=True)
class Layout:
    """Where a folder keeps its splits. parts: split -> what reads its annotations; without "val", that is taken of
    "train".

    categories: the classes, where the format or the folder names them; None for all that the splits name.
    classes: split -> what finds its classes without reading the rest, or finds None where that cannot be done.
    remarks: what finds sentences on files that training passes over, for `check`.
    """

    parts: Mapping[str, Callable[[Faults], "Annotations"]]
    categories: tuple[str, ...] | None = None
    classes: Mapping[str, Callable[[], list[str] | None]] = field(default_factory=dict)
    remarks: Callable[[], Iterable[str]] = tuple


@dataclass
class Annotations:
    """What one split says on disk, in any format; `assemble` makes the set of it.

    source: its file or folder, for messages. folders: where images may lie. noun: what the format calls the record of a
    box. classes: names in the set's order. left_out: names of empty parent classes.
    Of each of N images: names of files; sizes, (height, width), 0 where unknown; ids on disk, None where the order
    counts. objects: of each of M boxes the position 0..N-1 of its image, what to look for on disk, xyxy, class, crowd,
    and area, NaN where it is the box's.
    """

    source: Path
    folders: Sequence[Path]
    noun: str
    classes: list[str]
    left_out: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    ids: list[int | str] | None = None
    objects: list[tuple[int, int | str, Box, str, bool, float]] = field(default_factory=list)

    def add_image(self, name: str, size: tuple[int, int]) -> int:
        """The position of one more image."""
        self.names.append(name)
        self.sizes.append(size)
        return len(self.names) - 1

    def add_box(
        self, image: int, mark: int | str, box: Box, class_name: str, crowd: bool = False, area: float = math.nan
    ) -> None:
        """One more box (xyxy) of the image at position `image`."""
        self.objects.append((image, mark, box, class_name, crowd, area))


def assemble(found: Annotations, name: str, split: str, categories: Sequence[str], faults: Faults) -> DetectionSet:
    """The set of one split, checked; `categories` are the classes of all its splits.

    Sizes that are absent come from the image files. Boxes are clipped to their images. Image ids are 1..N in the order
    of the ids on disk, so that equal scores keep the order that they have in pycocotools. Raises `InputError` for the
    first fault unless `faults` collects them; what has a fault is then left out.
    """
    folder, names, usable = _files(found, faults)
    sizes = np.array(found.sizes, np.int64).reshape(-1, 2)
    for position in np.flatnonzero(usable & (sizes < 1).any(axis=1)).tolist():
        try:
            sizes[position] = upright_size(folder / names[position])
        except InputError as error:
            faults.add(BAD_IMAGES, str(error))
            usable[position] = False

    label_of = {category: label for label, category in enumerate(categories)}
    owners, marks, corners_of, classes, crowds, areas = zip(*found.objects, strict=True) if found.objects else [()] * 6
    owner = np.array(owners, np.int64)
    labels = np.array([label_of.get(class_name, -1) for class_name in classes], np.int64)
    area = np.array(areas, np.float64)
    kept = usable[owner]

    def where(row: int) -> str:
        return f"{found.noun} {shown(marks[row])} of {shown(found.names[owner[row]])}"

    def corners(row: int) -> str:
        height, width = sizes[owner[row]].tolist()
        return f"{where(row)} (corners {', '.join(f'{value:g}' for value in corners_of[row])}, image {width}x{height})"

    def leave_out(kind: _Kind, bad: NDArray[np.bool_], where: Callable[[int], str], repair: str = "") -> None:
        nonlocal kept
        faults.add_rows(kind, kept & bad, found.source, where, repair)
        kept = kept & ~bad

    leave_out(UNKNOWN_CLASS, labels < 0, lambda row: f"{where(row)}, a {shown(classes[row])}")
    leave_out(NEGATIVE_AREA, area < 0, lambda row: f"{where(row)}, {area[row]:g}")
    boxes = np.array(corners_of, np.float64).reshape(-1, 4)
    finite = np.isfinite(boxes).all(axis=1)
    leave_out(NOT_FINITE, ~finite, corners)
    boxes[~finite] = 0.0
    limits = sizes[owner][:, [1, 0, 1, 0]].astype(np.float64)  # (M, 4): width, height, width, height
    clipped = np.clip(boxes, 0.0, limits).astype(np.float32)
    leave_out(NO_AREA, (clipped[:, 2:] <= clipped[:, :2]).any(axis=1), corners, "left out")
    beyond = OVERHANG + 1e-6
    outside = ((boxes < -beyond) | (boxes > limits + beyond)).any(axis=1)
    faults.add_rows(OVER_THE_EDGE, kept & outside, found.source, corners, "clipped")

    if not usable.any():
        raise InputError(f"{found.source} holds no image; check the folder and the split")
    rows = np.flatnonzero(kept)
    if not len(rows):
        raise InputError(f"{found.source} holds no box, so nothing can be learnt or scored; check its annotations")
    images = np.flatnonzero(usable)
    owner = (np.cumsum(usable) - 1)[owner[rows]]
    by_image = np.argsort(owner, kind="stable")
    rows = rows[by_image]
    box_area = np.prod(clipped[rows, 2:] - clipped[rows, :2], axis=1, dtype=np.float64)
    sizes = sizes[images].astype(np.int32)
    ids = np.array(ranks(found.ids or range(len(names))), np.int64)[images]
    return DetectionSet(
        name=name,
        split=split,
        categories=tuple(categories),
        category_ids=np.arange(1, len(categories) + 1),
        image_ids=ids,
        sizes=sizes,
        offsets=first_rows(np.bincount(owner, minlength=len(images))),
        boxes=clipped[rows],
        labels=labels[rows],
        crowd=np.array(crowds, np.bool_)[rows],
        area=np.where(np.isnan(area[rows]), box_area, area[rows]),
        load_image=ImageFiles(folder, tuple(names[position] for position in images.tolist()), sizes),
        notes=tuple(faults.notes),
    )


def ranks(ids: Sequence[int | str]) -> list[int]:
    """1..N, in the order of the ids: whole numbers first, then texts."""
    ordered = sorted(ids, key=lambda identity: (isinstance(identity, str), identity))
    rank_of = {identity: rank for rank, identity in enumerate(ordered, start=1)}
    return [rank_of[identity] for identity in ids]


def _files(found: Annotations, faults: Faults) -> tuple[Path, list[str], NDArray[np.bool_]]:
    """The folder of the images, their names in it, and which of them may be used.

    The folder is the first that holds all files, else the one that holds most. Each is listed once, so a hundred
    thousand images take a fraction of a second. A backslash in a name counts as a slash on systems that separate
    folders by slashes.
    """
    usable = np.ones(len(found.names), np.bool_)
    seen: set[str] = set()
    for position, name in enumerate(found.names):
        try:
            refuse_escape(name, f"file_name {shown(name)} in {found.source}")
            if name in seen:
                raise InputError(f"{found.source} lists the image {shown(name)} twice; give each file one entry")
        except InputError as error:
            faults.add(REPEATED if name in seen else NO_IMAGE, str(error))
            usable[position] = False
        seen.add(name)
    best: tuple[Path, list[str], NDArray[np.bool_]] | None = None
    for folder in found.folders:
        names, there = _present(folder, found.names)
        if best is None or there[usable].sum() > best[2][usable].sum():
            best = folder, names, there
        if there[usable].all():
            break
    folder, names, there = best
    missing = np.flatnonzero(usable & ~there)
    if len(missing):
        first = folder / names[missing[0]]
        faults.add(
            NO_IMAGE,
            f"{len(missing):,} of the {len(names):,} images listed in {found.source} are missing, "
            f"first {shown(str(first))}; put them there or take them out of the annotations",
            count=len(missing),
        )
    return folder, names, usable & there


def _present(folder: Path, names: Sequence[str]) -> tuple[list[str], NDArray[np.bool_]]:
    """The names as the folder spells them, and which of them it holds."""
    on_disk = speller(folder)
    found = [on_disk(name) or on_disk(name.replace("\\", "/")) for name in names]
    spelled = [there or name.replace("\\", "/") for name, there in zip(names, found, strict=True)]
    return spelled, np.array([there is not None for there in found], np.bool_)
