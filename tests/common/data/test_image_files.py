"""Image files: every colour mode, orientation tags, and what cannot be decoded."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from common.data.image_files import MAX_PIXELS, ImageFiles, picture_files, upright_size
from tests.common.data.forms import refused


def one_file(path, height=6, width=8) -> ImageFiles:
    return ImageFiles(path.parent, (path.name,), np.array([[height, width]], np.int32))


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA", "1", "LA", "RGB"])
def test_every_colour_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    Image.new("RGB", (8, 6), (255, 255, 255)).convert(mode).save(path)
    pixels = one_file(path)(0)
    assert pixels.shape == (6, 8, 3)
    assert pixels.dtype == np.uint8
    assert (pixels >= 254).all()
    assert pixels.flags.writeable  # torch warns of arrays that are not


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
@pytest.mark.parametrize("transparency", [0, bytes(range(100))])
@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.filterwarnings("error")
def test_transparent_pictures_are_read_without_a_warning_in_their_colours(tmp_path, mode, transparency, orientation):
    colours = np.random.default_rng(0).integers(0, 255, (6, 8, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(colours).quantize(40) if mode == "P" else Image.fromarray(colours).convert(mode)
    if mode == "RGB":
        transparency = (1, 2, 3)
    elif mode == "L":
        transparency = 7
    picture.save(tmp_path / "image.png", transparency=transparency, exif=exif)
    expected = np.array(ImageOps.exif_transpose(picture if mode == "RGB" else picture.convert("RGB")))
    expected = expected if orientation == 1 else np.rot90(expected, -1)
    assert np.array_equal(one_file(tmp_path / "image.png", *expected.shape[:2])(0), expected)


@pytest.mark.parametrize("suffix", [".jpg", ".mpo", ".png", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_picture_comes_upright_and_its_size_too(tmp_path, suffix, orientation):
    path = tmp_path / f"photo{suffix}"
    corners = np.zeros((24, 40, 3), np.uint8)
    corners[:12, :20], corners[:12, 20:], corners[12:, :20] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {".webp": {"lossless": True}, ".png": {}, ".tif": {}}.get(suffix, {"quality": 100, "subsampling": 0})
    Image.fromarray(corners).save(path, exif=exif, **options)
    with Image.open(path) as image:
        expected = np.array(ImageOps.exif_transpose(image))
    assert (orientation == 1) == (expected.shape == corners.shape and np.abs(expected.astype(int) - corners).max() <= 2)
    assert upright_size(path) == expected.shape[:2]
    pixels = one_file(path, *expected.shape[:2])(0)
    assert np.abs(pixels.astype(int) - expected).max() <= 2


def test_annotations_of_the_stored_size_are_of_the_stored_pixels(tmp_path):
    path = tmp_path / "photo.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.new("RGB", (8, 6)).save(path, exif=exif)
    assert one_file(path, 6, 8)(0).shape == (6, 8, 3)
    assert one_file(path, 8, 6)(0).shape == (8, 6, 3)
    assert one_file(path, 6, 8).orientations(0) == (6, 1)
    assert one_file(path, 8, 6).orientations(0) == (6, 6)
    with refused("6x8 pixels but 9x8 in the annotations"):
        one_file(path, 8, 9).orientations(0)


def test_an_unreadable_image_is_named(tmp_path):
    whole = tmp_path / "whole.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)).save(whole)
    Image.open(whole).save(tmp_path / "whole.png")
    jpeg, png = whole.read_bytes(), (tmp_path / "whole.png").read_bytes()
    damaged = {"cut.jpg": jpeg[:2000], "text.jpg": b"no image", "empty.jpg": b"", "cut.png": png[:4000]}
    for name, contents in damaged.items():
        (tmp_path / name).write_bytes(contents)
        with refused(f"{name} cannot be decoded"):
            one_file(tmp_path / name, 60, 80)(0)
    Image.new("RGB", (8, 6)).save(tmp_path / "program.jpg", format="EPS")  # Pillow would give it to Ghostscript
    for name in ("gone.jpg", "program.jpg"):
        with refused(f"{name} cannot be decoded"):
            one_file(tmp_path / name)(0)
    with refused("80x60 pixels but 60x80 in the annotations"):
        one_file(whole, 80, 60)(0)
    Image.fromarray(np.full((6, 8), 4000, np.uint16)).save(tmp_path / "deep.png")  # it would come washed out
    for look in (one_file(tmp_path / "deep.png"), one_file(tmp_path / "deep.png").orientations):
        with refused(r"deep\.png has more than 8 bits a channel"):
            look(0)


def test_a_huge_image_is_refused_before_it_is_decoded(tmp_path):
    def chunk(kind, contents):
        return struct.pack(">I", len(contents)) + kind + contents + struct.pack(">I", zlib.crc32(kind + contents))

    side = int(MAX_PIXELS**0.5) + 1
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))
    for call in (lambda: upright_size(path), lambda: one_file(path, side, side)(0)):
        with refused(rf"bomb\.png is {side}x{side} pixels, and at most 64 megapixels"):
            call()


def test_a_place_without_pictures_is_refused(tmp_path):
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    (tmp_path / ".hidden.png").touch()
    with refused(r"holds no image \(bmp, .* give an image file or a folder"):
        picture_files(tmp_path)
    for place in (tmp_path / "gone", Path("gone" * 100)):
        with refused("no file or folder .*; check the path"):
            picture_files(place)
