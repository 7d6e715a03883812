"""Copy a detection set with small pictures, to carry it to where it is trained on.

    python -m common.data.pack coco:DIR --side 640 --out DIR-640

What comes out is a set in COCO's form, read by --data coco:OUT. Pictures keep their names, as JPEG files. Training at
input sizes up to --side loses nothing but what JPEG leaves out; areas, and so what counts as a small object, are those
of the small pictures.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, count
from pathlib import Path
from tempfile import mkdtemp
from typing import Annotated, Any

import numpy as np
import tyro
from PIL import Image
from tqdm import tqdm

from common.cli import Switch, data_parts, run, show
from common.data.annotations import Faults
from common.data.detection_set import DetectionSet
from common.data.image_files import SUFFIXES
from common.data.source import SPLITS, find, read_split
from common.data.values import composed, names_in
from common.plain import PARTIAL, InputError, cannot_write, make_folder, write_json

MOST_READERS = 8


@dataclass(frozen=True)
class Options:
    """Copy a detection set with small pictures, in COCO's form."""

    data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")]
    """Set on disk, as --data names it."""
    out: Path
    """Folder that is made for it; it must be empty, or not be there."""
    side: int = 640
    """Longest side of a picture in pixels; smaller ones stay as large as they are."""
    quality: int = 88
    """Of the JPEG files, 1 to 100."""
    json: Switch = False
    """Print one JSON object instead of text."""


def main(options: Options) -> None:
    """Write the set and print its splits."""
    written = pack(options.data, options.out, options.side, options.quality)
    show(written, options.json, _text)


def pack(data: str, out: Path, side: int, quality: int = 88) -> dict[str, Any]:
    """Write every split; name -> images, boxes and bytes of its pictures.

    Raises InputError for whatever is wrong with the data, for a folder that holds something, and for a full disk.
    """
    if side < 1 or not 1 <= quality <= 100:
        raise InputError(f"--side must be at least 1 and --quality 1 to 100, got {side} and {quality}")
    if (os.path.lexists(out) and not out.is_dir()) or names_in(out):
        raise InputError(f"{out} holds something: give another folder, or delete it")
    form, directory, layout = find(data)
    _, _, repair = data_parts(data)
    splits = [split for split in SPLITS if split != "test" or "test" in layout.parts]
    sets = {split: read_split(form, directory, layout, split, Faults(repair)) for split in splits}
    with _filled_at_once(out) as folder:
        return {split: _write(dataset, folder, side, quality) for split, dataset in sets.items()}


@contextmanager
def _filled_at_once(out: Path) -> Iterator[Path]:
    """A folder beside `out`, whose contents are moved there in the end; where that is not reached, nothing is left."""
    out = Path(os.path.abspath(out))
    make_folder(out.parent)
    try:
        folder = Path(mkdtemp(PARTIAL, f"{out.name}.", out.parent))
    except OSError as error:
        raise cannot_write(out, error) from error
    try:
        yield folder
        make_folder(out)
        try:
            for part in sorted(folder.iterdir()):
                shutil.move(part, out)  # copies where `out` is another disk
        except OSError as error:
            raise cannot_write(out, error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(dataset: DetectionSet, out: Path, side: int, quality: int) -> dict[str, Any]:
    make_folder(out / "images" / dataset.split)
    scale = np.minimum(1.0, side / dataset.sizes.max(axis=1, keepdims=True))
    sizes = np.maximum(1, np.rint(dataset.sizes * scale)).astype(int)  # (N, 2) height and width
    names = [f"{dataset.split}/{name}" for name in _jpeg_names(dataset.load_image.names)]
    for folder in {(out / "images" / name).parent for name in names}:
        make_folder(folder)
    work = partial(_shrink, dataset, out / "images", names, sizes, quality)
    with ThreadPoolExecutor(MOST_READERS) as threads:  # Pillow works outside Python's lock
        size = sum(tqdm(threads.map(work, range(len(names))), desc=dataset.split, total=len(names), disable=None))
    images = [
        {"id": index, "file_name": name, "height": height, "width": width}
        for index, (name, (height, width)) in enumerate(zip(names, sizes.tolist(), strict=True))
    ]
    owner = np.repeat(np.arange(len(dataset)), np.diff(dataset.offsets))
    ratio = (sizes / dataset.sizes)[owner]  # (M, 2) of height and width
    boxes = dataset.boxes.astype(np.float64) * ratio[:, [1, 0, 1, 0]]
    boxes[:, 2:] -= boxes[:, :2]
    columns = (owner, dataset.category_ids[dataset.labels], boxes, dataset.area * ratio.prod(axis=1), dataset.crowd)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    annotations = [
        {"id": row, "image_id": image, "category_id": category, "bbox": box, "area": area, "iscrowd": int(crowd)}
        for row, (image, category, box, area, crowd) in enumerate(rows, start=1)
    ]
    categories = [
        {"id": identity, "name": name}
        for identity, name in zip(dataset.category_ids.tolist(), dataset.categories, strict=True)
    ]
    contents = {"images": images, "annotations": annotations, "categories": categories}
    write_json(out / "annotations" / f"instances_{dataset.split}.json", contents)
    return {"images": len(images), "boxes": len(annotations), "bytes": size}


def _jpeg_names(names: Sequence[str]) -> list[str]:
    """The names, without the folders that all share, as those of JPEG files; no two are one on any disk.

    Copies of one picture, which are told by their names, stay together when images are held out.
    """
    shared = os.path.commonpath(os.path.dirname(name) for name in names)
    taken: set[str] = set()
    found = []
    for name in names:
        stem, suffix = os.path.splitext(os.path.relpath(name, shared or "."))
        stem += "" if suffix.lower() in SUFFIXES else suffix
        endings = chain([".jpg"], (f".{number}.jpg" for number in count(2)))
        new = next(stem + ending for ending in endings if composed(stem + ending).casefold() not in taken)
        taken.add(composed(new).casefold())
        found.append(new)
    return found


def _shrink(dataset: DetectionSet, folder: Path, names: list[str], sizes: np.ndarray, quality: int, index: int) -> int:
    """Write one picture; the bytes of its file."""
    height, width = sizes[index].tolist()
    picture, path = Image.fromarray(dataset.load_image(index)), folder / names[index]
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    try:
        picture.save(path, "JPEG", quality=quality)
        return path.stat().st_size
    except OSError as error:
        raise cannot_write(path, error) from error


def _text(written: dict[str, Any]) -> str:
    return "\n".join(
        f"{split}: {each['images']:,} images, {each['boxes']:,} boxes, {each['bytes'] / 2**20:.1f} MiB"
        for split, each in written.items()
    )


if __name__ == "__main__":
    run(main, Options)
