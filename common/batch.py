"""The tensors that travel between data, models and evaluation. Padded to fixed sizes: no ragged lists past here."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)


class _OnDevice:
    """Moves every tensor field of a frozen dataclass at once."""

    def to(self, device: torch.device | str) -> Self:
        """The same batch on `device` (no copy where it is there already)."""
        moved = {field.name: getattr(self, field.name).to(device, non_blocking=True) for field in fields(self)}
        return type(self)(**moved)


def normalise(images: Tensor) -> Tensor:
    """uint8 or 0..255 images (B, 3, H, W) to float32 with zero mean and unit deviation by ImageNet's statistics."""
    mean = torch.tensor(IMAGE_MEAN, device=images.device).view(1, 3, 1, 1) * 255.0
    deviation = torch.tensor(IMAGE_STD, device=images.device).view(1, 3, 1, 1) * 255.0
    return (images.float() - mean) / deviation


@dataclass(frozen=True)
class Batch(_OnDevice):
    """Images with their targets, padded to G boxes an image.

    images: (B, 3, H, W) float32, normalised. boxes: (B, G, 4) float32 xyxy in pixels of `images`.
    labels: (B, G) int64 in 0..K-1. valid: (B, G) bool, False where padded. index: (B,) int64, the position in the
    `DetectionSet`. scale: (B,) float32, network pixels per original pixel (images are resized with their aspect kept,
    placed top left and padded right and below, so original boxes are `boxes / scale`).
    """

    images: Tensor
    boxes: Tensor
    labels: Tensor
    valid: Tensor
    index: Tensor
    scale: Tensor


@dataclass(frozen=True)
class ClassificationBatch(_OnDevice):
    """images: (B, 3, S, S) float32, normalised. labels: (B,) int64."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Detections(_OnDevice):
    """What every detector returns, padded to D detections an image, best score first.

    boxes: (B, D, 4) float32 xyxy. scores: (B, D) float32. labels: (B, D) int64. valid: (B, D) bool.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    valid: Tensor

    def rescaled(self, scale: Tensor) -> "Detections":
        """Boxes from network pixels to original pixels; scale: (B,) as in `Batch`."""
        return Detections(self.boxes / scale.view(-1, 1, 1), self.scores, self.labels, self.valid)

    @staticmethod
    def cat(parts: Sequence["Detections"]) -> "Detections":
        """Several batches of detections as one; all must have the same D."""
        joined = {field.name: torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Detections)}
        return Detections(**joined)
