"""Augmentation of a whole batch on its device: CenterNet's random window, flip and colour jitter (Zhou et al., 2019).

Everything geometric is one affine map an image, so one `grid_sample` a batch; brightness, contrast and saturation are
linear in the pixel, so they and the normalisation are one 3x3 matrix an image. The random numbers are drawn on the CPU
and moved, so that a CPU and a GPU see the same augmentation.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from common.batch import IMAGE_MEAN, IMAGE_STD
from common.settings import Augmentation

LEAST_AREA_LEFT = 0.2  # a box that keeps less of its area inside the picture is no target any more
_LEAST_EXTENT = 1.0  # pixels
_LUMINANCE = (0.299, 0.587, 0.114)  # of red, green, blue (ITU-R BT.601)


@dataclass(frozen=True)
class Drawn:
    """One draw for B images, all float32.

    mirror: (B,) -1 or 1. window: (B,) its side. shift: (B, 2) of its centre, x and y, in shares of the image.
    colour: (B, 3), the factors of brightness, contrast and saturation.
    """

    mirror: Tensor
    window: Tensor
    shift: Tensor
    colour: Tensor

    def to(self, device: torch.device | str) -> "Drawn":
        """The same draw on `device`, in one transfer."""
        packed = torch.cat([self.mirror[:, None], self.window[:, None], self.shift, self.colour], dim=1).to(device)
        return Drawn(packed[:, 0], packed[:, 1], packed[:, 2:4], packed[:, 4:7])


def draw(augmentation: Augmentation, count: int, generator: torch.Generator) -> Drawn:
    """Random parameters for `count` images, on the CPU."""
    random = torch.rand(count, 7, generator=generator)
    return Drawn(
        mirror=torch.where(random[:, 0] < augmentation.flip, -1.0, 1.0),
        window=augmentation.scale_min + (augmentation.scale_max - augmentation.scale_min) * random[:, 1],
        shift=augmentation.shift * (2.0 * random[:, 2:4] - 1.0),
        colour=1.0 + augmentation.jitter * (2.0 * random[:, 4:7] - 1.0),
    )


def _pixel_map(drawn: Drawn, content: Tensor) -> tuple[Tensor, Tensor]:
    """The map `new = scale * old + offset` of pixel positions; both (B, 2), x and y.

    The window's centre comes to lie where the image's centre was, so flipping alone keeps an image in its place.
    content: (B, 2) width and height of the part of each picture that is image, not padding.
    """
    scale = torch.stack([drawn.mirror, torch.ones_like(drawn.mirror)], dim=1) / drawn.window[:, None]
    centre = (0.5 + drawn.shift) * content
    return scale, 0.5 * content - scale * centre


def augment_images(images: Tensor, content: Tensor, drawn: Drawn) -> Tensor:
    """(B, 3, H, W) uint8 to float32, jittered, normalised, then flipped, scaled and shifted; 0 beyond the picture.

    The order in which colours are jittered does not matter: without clipping (CenterNet does not clip) scaling the
    contrast about the mean grey and the saturation about each pixel's grey commute.
    """
    B, _, H, W = images.shape  # batch, channels, height, width
    coloured = _jitter_and_normalise(images, drawn.colour)
    scale, offset = _pixel_map(drawn, content)
    # Where each new pixel comes from, in -1..1 from edge to edge. x depends on the column and y on the row alone, so
    # the grid is broadcast; `affine_grid` would spend as long on a matrix product as the sampling itself takes.
    grid = torch.empty(B, H, W, 2, device=images.device)
    for axis, side in enumerate((W, H)):
        centres = torch.arange(side, device=images.device) + 0.5
        old = (centres - offset[:, axis, None]) / scale[:, axis, None]  # (B, side)
        old = old * (2.0 / side) - 1.0
        grid[..., axis] = old[:, None, :] if axis == 0 else old[:, :, None]
    return F.grid_sample(coloured, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _jitter_and_normalise(images: Tensor, colour: Tensor) -> Tensor:
    """uint8 (B, 3, H, W) to normalised float32 by one matrix and one offset an image."""
    B, C, H, W = images.shape
    device = images.device
    brightness, contrast, saturation = colour.unbind(dim=1)
    luminance = torch.tensor(_LUMINANCE, device=device)
    deviation = 255.0 * torch.tensor(IMAGE_STD, device=device)
    mean = 255.0 * torch.tensor(IMAGE_MEAN, device=device)

    pixels = images.flatten(2).float()  # (B, 3, H * W)
    mean_grey = pixels.mean(dim=2) @ luminance  # (B,)
    keep = brightness * contrast * saturation
    to_grey = brightness * contrast * (1.0 - saturation)
    matrix = keep.view(B, 1, 1) * torch.eye(C, device=device) + to_grey.view(B, 1, 1) * luminance
    added = (brightness * (1.0 - contrast) * mean_grey)[:, None] - mean  # (B, 3)
    matrix = matrix / deviation[:, None]
    return torch.baddbmm((added / deviation)[:, :, None], matrix, pixels).view(B, C, H, W)


def augment_boxes(
    boxes: Tensor, valid: Tensor, content: Tensor, drawn: Drawn, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Boxes (B, G, 4) xyxy in pixels and valid (B, G) after the same map, clipped to `size` = (height, width).

    A box that keeps less than a fifth of its area in the picture, or is thinner than a pixel, becomes invalid; invalid
    boxes are all zero.
    """
    scale, offset = _pixel_map(drawn, content)
    corners = boxes.unflatten(2, (2, 2)) * scale[:, None, None] + offset[:, None, None]  # (B, G, corner, xy)
    low, high = corners.amin(dim=2), corners.amax(dim=2)
    side = torch.tensor([size[1], size[0]], dtype=boxes.dtype, device=boxes.device)
    clipped_low = torch.minimum(low.clamp(min=0.0), side)
    clipped_high = torch.minimum(high.clamp(min=0.0), side)
    extent = clipped_high - clipped_low
    enough = extent.prod(dim=2) >= LEAST_AREA_LEFT * (high - low).prod(dim=2)
    valid = valid & enough & (extent >= _LEAST_EXTENT).all(dim=2)
    moved = torch.cat([clipped_low, clipped_high], dim=2)
    return moved.masked_fill(~valid[:, :, None], 0.0), valid
