"""Fitting an image into the canvas that a network takes, and boxes back into the image: once, for training data, for
AP, and for finished detectors.

A canvas is given as `Size`: the side of a square, or its width and height. An image is scaled, aspect kept, until it
fills the canvas in one direction; so a portrait image in a landscape canvas becomes small, with much padding beside it.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from common.batch import IMAGE_MEAN, Detections
from common.plain import InputError
from common.settings import SIDE_MULTIPLE

PADDING = tuple(round(255 * mean) for mean in IMAGE_MEAN)  # the mean colour: about 0 once normalised
Size = int | tuple[int, int]  # of a canvas in pixels: the side of a square, or width and height


def canvas_of(size: Size | Sequence[int]) -> tuple[int, int]:
    """Width and height of a canvas."""
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or not all(isinstance(side, int) and side >= 1 for side in sides):
        raise InputError(
            f"images cannot be fitted into {size!r} pixels: give one side of a square, or width and height"
        )
    return sides


def padded(size: Size) -> tuple[int, int]:
    """Width and height of a canvas as whole multiples of `SIDE_MULTIPLE` pixels, as networks need them."""
    width, height = (-(-side // SIDE_MULTIPLE) * SIDE_MULTIPLE for side in canvas_of(size))
    return width, height


def letterbox_scale(sizes: np.ndarray, size: Size) -> np.ndarray:
    """(N,) float32 network pixels per original pixel for images of `sizes` (N, 2), height and width."""
    width, height = canvas_of(size)
    return np.minimum(height / sizes[:, 0], width / sizes[:, 1]).astype(np.float32)


def letterbox(image: np.ndarray, size: Size) -> np.ndarray:
    """(H, W, 3) uint8 to a canvas: aspect kept, antialiased, top left, the rest filled with the mean colour."""
    H, W = image.shape[:2]
    canvas_width, canvas_height = canvas_of(size)
    if (canvas_width, canvas_height) == (W, H):
        return image
    scale = min(canvas_width / W, canvas_height / H)
    # Whole pixels only: what they do not cover, less than one, is cut off, so that `scale` is exact in x and y.
    width, height = max(1, int(W * scale + 1e-6)), max(1, int(H * scale + 1e-6))
    source = (0.0, 0.0, min(W, width / scale), min(H, height / scale))
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR, box=source)
    canvas = np.empty((canvas_height, canvas_width, 3), dtype=np.uint8)
    canvas[:] = PADDING
    canvas[:height, :width] = np.asarray(resized)
    return canvas


def in_pictures(found: Detections, sizes: Tensor, size: Size) -> Detections:
    """Detections from pixels of the canvas to those of the B original pictures: cut at the edges of the pictures, and
    no longer valid where nothing is left.

    sizes: (B, 2), height and width of the pictures. size: of the canvas.
    """
    sizes = sizes.to(found.boxes.device)
    scale = torch.from_numpy(letterbox_scale(sizes.cpu().numpy(), size)).to(sizes.device)
    edges = sizes.to(scale).flip(1).repeat(1, 2).unsqueeze(1)  # (B, 1, 4) right, bottom, right, bottom
    boxes = (found.boxes / scale.view(-1, 1, 1)).clamp(min=0).minimum(edges)
    return replace(found, boxes=boxes, valid=found.valid & (boxes[..., 2:] > boxes[..., :2]).all(dim=-1))
