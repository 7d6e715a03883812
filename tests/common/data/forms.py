"""Sets made up for tests: in memory, and written in every form that is read."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common.data.detection_set import DetectionSet
from common.plain import InputError

FORMS = ("coco", "roboflow", "voc", "yolo", "bdd")
FOLDERS = dict(zip(FORMS, ("images", "{}", "JPEGImages", "images/{}", "images/100k/{}"), strict=True))


def made(
    sizes: Sequence[tuple[int, int]], counts: Sequence[int], boxes: Any, labels: Any, **fields: Any
) -> DetectionSet:
    """A set of images of `sizes` (height, width) with `counts` boxes each; fields: others than the usual ones."""
    N, boxes = len(sizes), np.asarray(boxes, np.float32).reshape(-1, 4)
    usual = {
        "name": "made",
        "split": "train",
        "categories": ("a", "b", "c"),
        "category_ids": np.arange(1, 4),
        "image_ids": np.arange(1, N + 1),
        "sizes": np.array(sizes, np.int32),
        "offsets": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        "boxes": boxes,
        "labels": np.asarray(labels, np.int64),
        "crowd": np.zeros(len(boxes), np.bool_),
        "area": np.prod(boxes[:, 2:] - boxes[:, :2], axis=1, dtype=np.float64),
    }
    return DetectionSet(**usual | fields)


def write(
    root: Path,
    form: str,
    split: str,
    pictures: Mapping[str, tuple[Path | tuple[int, int], Sequence[tuple[str, Sequence[float]]]]],
    classes: Sequence[str],
) -> None:
    """Write a split; pictures: file name -> (an image, or width and height of a new one, [(class, xyxy)])."""
    folder, sizes = root / FOLDERS[form].format(split), {}
    folder.mkdir(parents=True, exist_ok=True)
    for place, (name, (picture, _)) in enumerate(pictures.items()):
        if isinstance(picture, tuple):
            Image.new("RGB", picture, (place, len(split), 7)).save(folder / name)
        else:
            (folder / name).symlink_to(picture)
        with Image.open(folder / name) as image:
            sizes[name] = image.size

    def put(file: str, text: str) -> None:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(text)

    if form in ("coco", "roboflow"):
        images, boxes = [], []
        for key, (name, (_, objects)) in enumerate(pictures.items()):
            images.append({"id": key, "file_name": name, "width": sizes[name][0], "height": sizes[name][1]})
            for label, (x, y, right, bottom) in objects:
                box = {"bbox": [x, y, right - x, bottom - y], "category_id": classes.index(label)}
                boxes.append({"id": len(boxes), "image_id": key, **box})
        contents = {"images": images, "annotations": boxes}
        contents["categories"] = [{"id": key, "name": name} for key, name in enumerate(classes)]
        file = f"annotations/instances_{split}.json" if form == "coco" else f"{split}/_annotations.coco.json"
        put(file, json.dumps(contents))
    elif form == "voc":
        put(f"ImageSets/Main/{split}.txt", "\n".join(Path(name).stem for name in pictures))
        for name, (_, objects) in pictures.items():
            text = "".join(voc_object(label, (x + 1, y + 1, right, bottom)) for label, (x, y, right, bottom) in objects)
            put(f"Annotations/{Path(name).stem}.xml", f"<annotation>{text}</annotation>")
    elif form == "yolo":
        put("data.yaml", f"names: [{', '.join(classes)}]")
        for name, (_, objects) in pictures.items():
            W, H = sizes[name]
            lines = [
                (classes.index(label), (x + right) / 2 / W, (y + bottom) / 2 / H, (right - x) / W, (bottom - y) / H)
                for label, (x, y, right, bottom) in objects
            ]
            put(f"labels/{split}/{Path(name).stem}.txt", "\n".join(" ".join(map(str, line)) for line in lines))
    else:
        frames = []
        for name, (_, objects) in pictures.items():
            labels = [
                {"category": label, "box2d": {"x1": x, "y1": y, "x2": right - 1, "y2": bottom - 1}}
                for label, (x, y, right, bottom) in objects
            ]
            size = dict(zip(("width", "height"), sizes[name], strict=True))
            frames.append({"name": name, "size": size, "labels": labels})
        put(f"det_20/det_{split}.json", json.dumps(frames))


def write_coco(
    root: Path,
    contents: Mapping[str, Any] | str,
    pictures: Sequence[Mapping[str, Any]],
    names: Iterable[str] = ("train", "val"),
    annotations: str = "annotations/instances_{}.json",
    folder: str = "images",
) -> Path:
    """Write the same contents, or text, as each split, and `pictures`, records of images, each of other pixels."""
    random = np.random.default_rng(0)
    for name in names:
        for record in pictures:
            path = root / folder.format(name) / record["file_name"]
            path.parent.mkdir(parents=True, exist_ok=True)
            ramp = np.linspace(random.uniform(0, 100), 250, record["width"])
            pixels = np.broadcast_to(ramp[None, :, None], (record["height"], record["width"], 3))
            Image.fromarray(pixels.astype(np.uint8)).save(path)
        path = root / annotations.format(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(contents if isinstance(contents, str) else json.dumps(contents))
    return root


@contextmanager
def refused(sentence: str) -> Iterator[None]:
    """What is done is refused in one sentence, on one line, that `sentence` matches."""
    with pytest.raises(InputError, match=sentence) as caught:
        yield
    assert "\n" not in str(caught.value)


def voc_object(name: str, corners: Sequence[float], difficult: object = None) -> str:
    """An object of a VOC file."""
    flag = "" if difficult is None else f"<difficult>{difficult}</difficult>"
    places = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    box = "".join(f"<{place}>{value}</{place}>" for place, value in places)
    return f"<object><name>{name}</name>{flag}<bndbox>{box}</bndbox></object>"
