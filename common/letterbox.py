"""Fitting an image into the square that a network takes: once, for training data and for finished detectors."""

import numpy as np
from PIL import Image

from common.batch import IMAGE_MEAN

PADDING = tuple(round(255 * mean) for mean in IMAGE_MEAN)  # the mean colour: about 0 once normalised


def letterbox_scale(sizes: np.ndarray, size: int) -> np.ndarray:
    """(N,) float32 network pixels per original pixel for images of `sizes` (N, 2): the longer side becomes `size`."""
    return (size / sizes.max(axis=1)).astype(np.float32)


def letterbox(image: np.ndarray, size: int) -> np.ndarray:
    """(H, W, 3) uint8 to (size, size, 3): aspect kept, antialiased, top left, the rest filled with the mean colour."""
    H, W = image.shape[:2]
    if size == H == W:
        return image
    scale = size / max(H, W)
    # Whole pixels only: what they do not cover, less than one, is cut off, so that `scale` is exact in x and y.
    width, height = max(1, int(W * scale + 1e-6)), max(1, int(H * scale + 1e-6))
    source = (0.0, 0.0, min(W, width / scale), min(H, height / scale))
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR, box=source)
    canvas = np.empty((size, size, 3), dtype=np.uint8)
    canvas[:] = PADDING
    canvas[:height, :width] = np.asarray(resized)
    return canvas
