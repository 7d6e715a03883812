"""Boxes drawn on pictures, and small pictures side by side on one sheet."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

# seaborn's palette "colorblind", without its grey
COLOURS = ("#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc", "#ca9161", "#fbafe4", "#ece133", "#56b4e9")
MARGIN = 6  # pixels round each picture of a sheet
CAPTION = 12  # height of the letters below it


@dataclass(frozen=True)
class Outline:
    """A box to draw, xyxy in pixels, with what is written on it ("" for nothing)."""

    box: Sequence[float]
    text: str
    colour: str


def outlined(picture: NDArray[np.uint8], outlines: Sequence[Outline]) -> Image.Image:
    """A picture (H, W, 3) with boxes on it, the first on top; lines and letters grow with the picture."""
    drawn = Image.fromarray(picture)
    pen = ImageDraw.Draw(drawn)
    line = max(1, round(max(drawn.size) / 320))
    font = _font(max(9, round(max(drawn.size) / 45)))
    for each in reversed(outlines):
        left, top, right, bottom = each.box
        pen.rectangle((left, top, max(left, right), max(top, bottom)), outline=each.colour, width=line)
        if each.text:
            _, _, width, height = pen.textbbox((0, 0), each.text, font=font)
            x = min(max(0, left), max(0, drawn.width - width))
            y = top - height if top >= height else top
            pen.rectangle((x, y, x + width, y + height), fill=each.colour)
            pen.text((x, y), each.text, font=font, fill="white")
    return drawn


def sheet(
    pictures: Sequence[tuple[Image.Image, str]], title: str = "", columns: int = 3, side: int = 360
) -> Image.Image:
    """Pictures with captions on one, row by row below a title, each fitted into a square of `side` pixels."""
    small = []
    for picture, _ in pictures:
        scale = side / max(picture.size)
        size = [max(1, round(each * scale)) for each in picture.size]
        small.append(picture.resize(size, Image.Resampling.BILINEAR))
    width, height = side + 2 * MARGIN, max(each.height for each in small) + CAPTION + 3 * MARGIN
    top = CAPTION + 2 * MARGIN
    whole = Image.new("RGB", (columns * width, ceil(len(small) / columns) * height + top), "white")
    pen, font = ImageDraw.Draw(whole), _font(CAPTION)
    pen.text((MARGIN, MARGIN), title, font=font, fill="black")
    for place, (picture, (_, caption)) in enumerate(zip(small, pictures, strict=True)):
        x, y = place % columns * width + MARGIN, place // columns * height + top
        whole.paste(picture, (x, y))
        pen.text((x, y + picture.height), caption, font=font, fill="black")
    return whole


def _font(size: int) -> ImageFont.FreeTypeFont:
    """matplotlib's own: that of Pillow has no letters beyond ASCII."""
    import matplotlib

    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)
