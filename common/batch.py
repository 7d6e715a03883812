"""The tensors that travel between data, models and evaluation. Padded to fixed sizes: no ragged lists past here."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)


class _OnDevice:
    """Moves every tensor field of a frozen dataclass at once."""

    def to(self, device: torch.device | str) -> Self:
        """The same batch on `device` (no copy where it is there already)."""
        return replace(self, **{name: tensor.to(device, non_blocking=True) for name, tensor in self._tensors().items()})

    def _tensors(self) -> dict[str, Tensor]:
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}


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
    `DetectionSet`. sizes: (B, 2) int64, height and width of the original pictures, which `common.letterbox` fitted in.
    """

    images: Tensor
    boxes: Tensor
    labels: Tensor
    valid: Tensor
    index: Tensor
    sizes: Tensor


@dataclass(frozen=True)
class ClassificationBatch(_OnDevice):
    """images: (B, 3, S, S) float32, normalised. labels: (B,) int64."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Found:
    """One detection: box, xyxy in pixels of the image; score, 0..1; label; its class's name, "" where unknown."""

    box: tuple[float, float, float, float]
    score: float
    label: int
    name: str


@dataclass(frozen=True)
class Detections(_OnDevice):
    """What every detector returns, padded to D detections an image, best score first.

    boxes: (B, D, 4) float32 xyxy. scores: (B, D) float32. labels: (B, D) int64. valid: (B, D) bool.
    categories: class names by label; a network alone does not know them.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    valid: Tensor
    categories: tuple[str, ...] = ()

    def image(self, index: int) -> list[Found]:
        """The detections in one of the images, best first, without the padding."""
        valid = self.valid[index]
        columns = (each[index][valid].tolist() for each in (self.boxes, self.scores, self.labels))
        return [
            Found(tuple(box), score, label, self.categories[label] if self.categories else "")
            for box, score, label in zip(*columns, strict=True)
        ]

    @staticmethod
    def cat(parts: Sequence["Detections"]) -> "Detections":
        """Several batches of detections as one; all must have the same D."""
        names = parts[0]._tensors()
        return replace(parts[0], **{name: torch.cat([getattr(part, name) for part in parts]) for name in names})
