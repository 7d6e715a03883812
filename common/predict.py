"""Detect objects in pictures of one's own, with any detector that this project found.

    python -m common.predict DETECTOR PHOTOS --out found

The folder then holds `drawn/`, the pictures with boxes on them; `detections.json` in COCO's results form (image_id,
category_id, bbox as x, y, width, height in pixels, score) with names beside the ids; `images.json`, which images and
categories have those ids, in COCO's form; `detections.csv`, a line for each detection. Pictures are turned upright.
"""

import csv
import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from common.cli import output_folder, run
from common.plain import InputError, cannot_write, make_folder, write_atomically

if TYPE_CHECKING:
    import numpy as np

    from common.batch import Found

_BATCH = 8
"""Pictures that are decoded and looked at together."""
COLUMNS = ("file", "class", "score", "left", "top", "right", "bottom")
_JPEG = (".jpg", ".jpeg")
_COMMENT = b"drawn by common.predict"
"""Stands in every picture with boxes on it, by which it is told from a photograph."""


@dataclass(frozen=True)
class PredictCommand:
    """Detect objects in pictures; write them drawn, as COCO's JSON and as a table."""

    detector: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DETECTOR")]
    """A detector that this project wrote (its folder, or one of its files), or an .onnx export of it."""
    images: Annotated[
        tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="IMAGES", help_behavior_hint="(required)")
    ]
    """Pictures, or folders of pictures, those in folders inside them included."""
    out: Path
    """Folder for what is found."""
    score: float = 0.3
    """Least score, 0 to 1, of what is written and drawn."""
    draw: bool = True
    """Write the pictures with boxes on them."""
    device: str | None = None
    """Where the detector runs: cpu, cuda or cuda:N (default: GPU if available; an .onnx runs on the CPU)."""


def main(options: PredictCommand) -> None:
    """Detect, write, and say how much was found and what was left out."""
    if not 0 <= options.score <= 1:
        raise InputError(f"--score must be from 0 to 1, got {options.score:g}")
    if not options.images:
        raise InputError("no pictures are given; give a picture or a folder of them after the detector")

    from tqdm import tqdm

    from common.data.image_files import picture_files
    from common.models.detector import load_detector
    from common.models.mode import usable_device

    detector = load_detector(options.detector, usable_device(options.device))
    # names are those below the folder that holds them all
    root = os.path.commonpath([os.path.abspath(each if each.is_dir() else each.parent) for each in options.images])
    named = {os.path.relpath(path, root): path for place in options.images for path in picture_files(place)}
    paths = [(Path(name), path) for name, path in named.items() if not _is_drawing(path)]
    if not paths:
        first = next(iter(named.values()))
        raise InputError(f"all pictures given, such as {first}, were drawn by predict; give the photographs themselves")
    drawings = _drawings([name for name, _ in paths], options.out / "drawn") if options.draw else {}
    results = _Results(list(detector.categories))
    interrupted = False
    with (
        output_folder(options.out),
        ThreadPoolExecutor() as pool,
        tqdm(total=len(paths), desc="pictures", disable=None) as bar,
    ):
        try:
            for chunk in (paths[start : start + _BATCH] for start in range(0, len(paths), _BATCH)):
                pixels_of = pool.map(_read, (path for _, path in chunk))
                read = [(name, each) for (name, _), each in zip(chunk, pixels_of, strict=True) if each is not None]
                found = detector.detect([each for _, each in read], _BATCH) if read else None
                kept = [
                    [each for each in found.image(place) if each.score >= options.score] for place in range(len(read))
                ]
                if options.draw:
                    places = [drawings[name] for name, _ in read]
                    list(pool.map(_draw, places, (pixels for _, pixels in read), kept))
                    results.drawn += places
                for (name, pixels), each in zip(read, kept, strict=True):
                    results.add(name, pixels.shape, each)
                bar.update(len(chunk))
        except KeyboardInterrupt:  # hours of work may be done
            if not results.pictures:
                raise
            interrupted = True
        if not results.pictures:
            raise InputError("none of the pictures can be read: see above")
        results.write(options.out)
    _tell(results, options, len(paths), len(named) - len(paths), interrupted)
    if interrupted:
        raise SystemExit(130)


@dataclass
class _Results:
    """What is found, as it is written. drawn: the pictures with boxes on them."""

    categories: list[str]
    pictures: list[dict] = field(default_factory=list)
    records: list[dict] = field(default_factory=list)
    rows: list[tuple[str, ...]] = field(default_factory=lambda: [COLUMNS])
    drawn: list[Path] = field(default_factory=list)

    def add(self, name: Path, shape: tuple[int, ...], kept: "list[Found]") -> None:
        """A picture (H, W, 3) and what is found in it."""
        picture = {"id": len(self.pictures) + 1, "file_name": name.as_posix(), "width": shape[1], "height": shape[0]}
        self.pictures.append(picture)
        self.records += _records(picture, kept)
        for each in kept:
            box = (f"{side:.1f}" for side in each.box)
            self.rows.append((name.as_posix(), each.name, f"{each.score:.4f}", *box))

    def write(self, folder: Path) -> None:
        """The three files."""
        categories = [{"id": label + 1, "name": name} for label, name in enumerate(self.categories)]
        images = {"images": self.pictures, "categories": categories, "annotations": []}
        table = io.StringIO()
        csv.writer(table).writerows(self.rows)
        for name, text in {
            "detections.json": json.dumps(self.records, ensure_ascii=False),
            "images.json": json.dumps(images, ensure_ascii=False),
            "detections.csv": table.getvalue(),
        }.items():
            write_atomically(folder / name, text.encode("utf-8", "replace"))


def _tell(results: _Results, options: PredictCommand, asked: int, drawings: int, interrupted: bool) -> None:
    """How much was found, and in what; what was not looked at, or is of an earlier call.

    drawings: pictures left out because an earlier call drew them.
    """
    from common.data.image_files import OTHER_KINDS, files_below

    looked_at, objects = len(results.pictures), len(results.records)
    left_out = asked - looked_at
    said = f"{objects} object{'' if objects == 1 else 's'} of score {options.score:g} or more in "
    said += f"{looked_at} picture{'' if looked_at == 1 else 's'}"
    if interrupted:
        said = f"interrupted with {left_out} pictures left: {said}"
    elif left_out:
        said += f"; {left_out} left out that cannot be read"
    print(said if objects else f"{said}; a lower --score may show some")
    print(f"wrote {options.out}: {'drawn/, ' if results.drawn else ''}detections.json, images.json, detections.csv")
    there, drawn = options.out / "drawn", set(results.drawn)
    if earlier := sum(path not in drawn and _is_drawing(path) for path in files_below(there, _JPEG)):
        print(f"{there} also holds {earlier} of an earlier call")
    if drawings:
        print(f"left out: {drawings} that an earlier call of predict drew", file=sys.stderr)
    photographs = [each for place in options.images if place.is_dir() for each in files_below(place, OTHER_KINDS)]
    if photographs:
        kinds = ", ".join(sorted({path.suffix.lower().removeprefix(".") for path in photographs}))
        print(
            f"left out: {len(photographs)} of kinds that are not read ({kinds}); convert them to JPEG", file=sys.stderr
        )


def _read(path: Path) -> "np.ndarray | None":
    """The picture; None where it cannot be read, which is said on stderr."""
    from tqdm import tqdm

    from common.data.image_files import read_picture

    try:
        return read_picture(path)
    except InputError as error:
        tqdm.write(f"left out: {error}", file=sys.stderr)
        return None


def _records(picture: dict, found: "list[Found]") -> Iterator[dict]:
    for each in found:
        left, top, right, bottom = each.box
        yield {
            "image_id": picture["id"],
            "category_id": each.label + 1,
            "bbox": [round(side, 2) for side in (left, top, right - left, bottom - top)],
            "score": round(each.score, 5),
            "file_name": picture["file_name"],
            "category": each.name,
        }


def _drawings(names: Sequence[Path], folder: Path) -> dict[Path, Path]:
    """Where each picture is drawn, as a JPEG: under its own name, or with .jpg behind it until no other has that name.

    Raises `InputError` where a file lies there that predict did not draw.
    """
    jpegs, drawings = {name for name in names if name.suffix.lower() in _JPEG}, {}
    for name in names:
        drawing = name
        while name not in jpegs and (drawing == name or drawing in jpegs):
            drawing = drawing.with_name(f"{drawing.name}.jpg")
        path = drawings[name] = folder / drawing
        if path.exists() and path.stat().st_size and not _is_drawing(path):  # a full disk leaves empty ones
            raise InputError(f"{path} is there and was not drawn by predict; give another folder with --out")
    return drawings


def _is_drawing(path: Path) -> bool:
    from PIL import Image

    if path.suffix.lower() not in _JPEG:
        return False
    try:
        with Image.open(path, formats=["JPEG"]) as image:  # its header alone
            return image.info.get("comment") == _COMMENT
    except Exception:  # Pillow raises nearly anything for a damaged file
        return False


def _draw(path: Path, pixels: "np.ndarray", found: "list[Found]") -> None:
    from common.drawing import COLOURS, Outline, outlined

    outlines = [
        Outline(each.box, f"{each.name} {each.score:.2f}", COLOURS[each.label % len(COLOURS)]) for each in found
    ]
    make_folder(path.parent)
    try:
        outlined(pixels, outlines).save(path, "JPEG", quality=90, comment=_COMMENT)
    except OSError as error:
        raise cannot_write(path, error) from error


if __name__ == "__main__":
    run(main, PredictCommand)
