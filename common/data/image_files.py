"""Image files: their sizes, and their pixels the right way up."""

import hashlib
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.data.values import reason
from common.plain import InputError

MAX_PIXELS = 64_000_000
"""Pixels of the largest image that is decoded: about 0.7 GB while it is."""
_END = 4096  # bytes of each end of a file that its digest is of
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""What Pillow may take a file for; others of its formats start programs, or hold no photographs."""
SUFFIXES = (
    ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".mpo", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip
OTHER_KINDS = (".arw", ".avif", ".cr2", ".cr3", ".dng", ".heic", ".heif", ".jxl", ".nef", ".raw", ".tga")
"""Suffixes of pictures that cannot be read."""
ORIENTATION_TAG = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what turns the stored pixels upright. From 5 on, width and height change places."""

# `MAX_PIXELS` is the stricter bound, and its refusal is one sentence.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@dataclass(frozen=True)
class ImageFiles:
    """`load_image` of a `DetectionSet` whose images are files.

    folder: holds them all. names: N paths relative to it. sizes: (N, 2) height and width by the annotations.
    """

    folder: Path
    names: tuple[str, ...]
    sizes: NDArray[np.int32]

    def subset(self, indices: NDArray[np.int64]) -> "ImageFiles":
        """The files at these positions."""
        return replace(self, names=tuple(self.names[index] for index in indices.tolist()), sizes=self.sizes[indices])

    def path(self, index: int) -> Path:
        """Where the file lies."""
        return self.folder / self.names[index]

    def orientations(self, index: int) -> tuple[int, int]:
        """The EXIF orientation that the file states, and the one that is applied; only its header is read.

        Raises `InputError` where the file is unreadable, too large, of more than 8 bits a channel, or of another size
        than the annotations say.
        """
        with _opened(self.path(index)) as image:
            return _stated_orientation(image), self._applied_orientation(image, index)

    def __call__(self, index: int) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB, turned upright as the file's EXIF orientation says. Grey, palette and CMYK become RGB.

        Raises `InputError` where `orientations` does, and for a damaged file.
        """
        with _opened(self.path(index)) as image:
            orientation = self._applied_orientation(image, index)
            upright = image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image
            upright.info.pop("transparency", None)  # it changes no colour, and Pillow warns of some kinds of it
            return np.array(upright if upright.mode == "RGB" else upright.convert("RGB"))

    def _applied_orientation(self, image: Image.Image, index: int) -> int:
        height, width = self.sizes[index].tolist()
        orientation = _stated_orientation(image)
        upright = image.size[::-1] if orientation >= 5 else image.size
        if upright == (width, height):
            return orientation
        # Annotations of a quarter turn that give the stored size were made on the stored pixels.
        if image.size == (width, height):
            return 1
        raise InputError(
            f"image {self.path(index)} is {upright[0]}x{upright[1]} pixels but {width}x{height} in the annotations; "
            "correct the one or the other"
        )

    @cached_property
    def signature(self) -> bytes:
        """Names, sizes and digests of all files: the same for copies on another disk, whatever their dates.

        Digests are of both ends of a file: a whole COCO would take minutes to read at the start of every command, and a
        picture that is changed is compressed to another size, with another end.
        """

        def digest(index: int) -> str:
            with open(self.path(index), "rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _END))
                last = file.read()
                file.seek(0)
                return f"{size} {hashlib.sha256(file.read(_END) + last).hexdigest()}"

        try:
            with ThreadPoolExecutor(8) as threads:
                digests = list(threads.map(digest, range(len(self.names))))
        except (OSError, ValueError) as error:
            raise InputError(f"an image cannot be read ({error}); put it back") from None
        lines = (f"{name}\0{digest}\n" for name, digest in zip(self.names, digests, strict=True))
        return "".join(lines).encode("utf-8", "surrogatepass")


def upright_size(path: Path) -> tuple[int, int]:
    """Height and width of an image as it is looked at; only the file's header is read."""
    with _opened(path) as image:
        width, height = image.size
        return (width, height) if _stated_orientation(image) >= 5 else (height, width)


def files_below(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """What has one of these suffixes, in lower or upper case, in a folder and those in it, sorted.

    Hidden files and folders, and folders of such names, are passed over; links are followed. Nothing where there is no
    such folder; raises `InputError` for one that cannot be listed.
    """
    found, entered = [], set()
    for place, folders, files in os.walk(folder, onerror=_not_listed, followlinks=True):
        if (real := os.path.realpath(place)) in entered:  # a link leads back
            folders.clear()
            continue
        entered.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        named = (Path(place, name) for name in files if not name.startswith("."))
        found += [path for path in named if path.suffix.lower() in suffixes]
    return sorted(found)


def _not_listed(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise InputError(f"{error.filename} cannot be listed ({error.strerror}); check its permissions")


def picture_files(place: Path) -> list[Path]:
    """The image files of a folder and of those in it, sorted; or `place` itself where it is a file.

    Raises `InputError` if there are none. Hidden files and folders are passed over.
    """
    if os.path.isfile(place):
        return [place]
    if not os.path.lexists(place):
        raise InputError(f"no file or folder {place}; check the path")
    # no folder, not an error: a path that no system could hold
    there = files_below(place, SUFFIXES) if os.path.isdir(place) else []
    there = [path for path in there if path.is_file() or path.is_symlink()]  # a link to nothing is told of when read
    found = there if any(path.is_file() for path in there) else []
    if not found:
        kinds = ", ".join(suffix.removeprefix(".") for suffix in SUFFIXES)
        raise InputError(f"{place} holds no image ({kinds}); give an image file or a folder of them")
    return found


def read_picture(path: Path) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB, upright, of an image that no annotation speaks of; raises what `ImageFiles` raises."""
    return ImageFiles(path.parent, (path.name,), np.array([upright_size(path)], np.int32))(0)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise InputError(
                    f"image {path} is {image.width}x{image.height} pixels, and at most {MAX_PIXELS // 10**6} "
                    "megapixels are decoded; scale it down or cut it into tiles"
                )
            if image.mode.startswith(("I", "F")):
                raise InputError(f"image {path} has more than 8 bits a channel; convert it to 8 bits")
            yield image
    except InputError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything for a damaged file
        raise InputError(f"image {path} cannot be decoded ({reason(error)}); download or export it again") from None


def _stated_orientation(image: Image.Image) -> int:
    # Pillow turns TIFF itself, and would decode all of a PNG to look for a tag behind the pixels.
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return 1
    try:
        orientation = image.getexif().get(ORIENTATION_TAG, 1)
        return orientation if orientation in UPRIGHT else 1
    except Exception:  # damaged tags do not make the pixels unusable
        return 1
