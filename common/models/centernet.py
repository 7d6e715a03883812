"""CenterNet: objects as points (Zhou, Wang, Krähenbühl, "Objects as Points", 2019, https://arxiv.org/abs/1904.07850).

The plain ResNet variant: three transposed convolutions bring the backbone's last feature from stride 32 to stride 4,
and three small heads predict there a heatmap of object centres for each class, the size of the object and the part of
its centre that the stride cut off. Targets, losses and decoding are functions of tensors and live outside the network;
they follow the authors' released code, and where that and the paper differ a docstring says so.

A *cell* is one position of the output map, `stride` pixels wide. Sizes and offsets are measured in cells.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.batch import Batch, Detections
from common.models.architectures import OFAResNetArchitecture
from common.models.divisor import divisor
from common.models.elastic import ElasticConvTranspose2d, copy_corner
from common.models.matching import rows_at
from common.models.norm import draw_weights
from common.models.ofa_resnet import sort_channels
from common.models.outline import outline
from common.models.suppression import as_detections, best
from common.plain import InputError
from common.settings import SIDE_MULTIPLE

# A rare class: sigmoid(-2.19) = .1, so that the many empty cells do not swamp the first steps (RetinaNet's prior).
HEATMAP_BIAS = -2.19
_OVERLAP = 0.7  # IoU that a box within its Gaussian keeps, CornerNet's
SIZE_WEIGHT = 0.1
# Elements of Gaussians held at once while targets are made: 64 MiB of float32.
GAUSSIAN_CHUNK = 2**24


# --- network ----------------------------------------------------------------------------------------------------------


class CenterNet(nn.Module):
    """Backbone, a neck of transposed convolutions that each double the map, and three heads.

    backbone: a module from images (B, 3, H, W) to a tuple of features, the last at stride 32, with `out_channels`, a
        tuple of their (largest) widths.
    categories: K, the number of classes.
    neck_widths: channels of the transposed convolutions; three bring the map to stride 4 (paper: 256, 256, 256).
    head_width: channels between the two convolutions of a head (paper: 64).
    elastic: the backbone's last width varies from step to step; the neck's first layer reads the channels there are.
    InputError where the neck does not fit the backbone's stride.
    """

    def __init__(
        self,
        backbone: nn.Module,
        categories: int,
        neck_widths: tuple[int, ...] = (256, 256, 256),
        head_width: int = 64,
        elastic: bool = False,
    ) -> None:
        super().__init__()
        if categories < 1:
            raise InputError(f"a detector must tell at least 1 class apart, got {categories}")
        if not neck_widths or backbone.stride % 2 ** len(neck_widths):
            raise InputError(
                f"a CenterNet neck of {len(neck_widths)} transposed convolutions does not fit a backbone of stride "
                f"{backbone.stride}: each halves the stride, which should end at 4"
            )
        self.categories = categories
        self.neck_widths = neck_widths
        self.head_width = head_width
        self.stride = backbone.stride // 2 ** len(neck_widths)
        self.backbone = backbone
        self.neck, inputs = nn.Sequential(), backbone.out_channels[-1]
        for width in neck_widths:
            kind = ElasticConvTranspose2d if elastic and not len(self.neck) else nn.ConvTranspose2d
            layer = kind(inputs, width, kernel_size=4, stride=2, padding=1, bias=False)
            nn.init.normal_(layer.weight, std=0.001)  # as in the released CenterNet on a plain ResNet
            self.neck.extend([layer, nn.BatchNorm2d(width), nn.ReLU(inplace=True)])
            inputs = width
        self.heatmap, self.size, self.offset = (
            nn.Sequential(
                nn.Conv2d(inputs, head_width, kernel_size=3, padding=1),
                nn.ReLU(inplace=True),
                nn.Conv2d(head_width, outputs, kernel_size=1),
            )
            for outputs in (categories, 2, 2)
        )
        nn.init.constant_(self.heatmap[-1].bias, HEATMAP_BIAS)
        draw_weights(0.001, self.size[-1], self.offset[-1])

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Raw maps for images (B, 3, H, W), H and W multiples of 32. With h, w = H / stride, W / stride (stride 4):

        heatmap: (B, K, h, w) logits of "the centre of an object of class k lies in this cell".
        size: (B, 2, h, w) width and height of the object centred here, in cells.
        offset: (B, 2, h, w) x and y of its centre from the cell's top left corner, in cells, 0..1 when right.
        """
        height, width = images.shape[-2:]
        if height % SIDE_MULTIPLE or width % SIDE_MULTIPLE:
            raise InputError(f"images of {width}x{height} pixels do not fit CenterNet: make both sides multiples of 32")
        features = self.neck(self.backbone(images)[-1])  # (B, neck_widths[-1], H/4, W/4)
        return {"heatmap": self.heatmap(features), "size": self.size(features), "offset": self.offset(features)}

    @torch.no_grad()
    def detect(self, images: Tensor) -> Detections:
        """Detections (B, 100) in pixels of `images` (B, 3, H, W), best first. Call `eval()` before."""
        return decode_peaks(self(images), stride=self.stride)

    def activate(self, path: Sequence[int]) -> None:
        """Use the sub-network of `path` (see the elastic backbone) from the next forward on."""
        self.backbone.activate(path)

    def extract(self, path: Sequence[int]) -> "CenterNet":
        """The plain detector on the plain backbone of `path`, with copies of the weights."""
        backbone = self.backbone.extract(path)
        with outline():
            plain = CenterNet(backbone, self.categories, self.neck_widths, self.head_width)
        for part in ("neck", "heatmap", "size", "offset"):
            copy_corner(getattr(self, part), getattr(plain, part))
        return plain.train(self.training)

    def sort_channels(self, kept: Sequence[OFAResNetArchitecture] = ()) -> None:
        """Sort the elastic backbone's channels by importance, the neck's first layer moving along. kept: trained
        sub-networks of the backbone, which compute the same as before.
        """
        sort_channels(self.backbone, {3: [self.neck[0]]}, kept)

    def config(self) -> dict[str, Any]:
        """Plain numbers from which neck and heads can be built again; the backbone describes itself."""
        widths = {"neck_widths": list(self.neck_widths), "head_width": self.head_width}
        return {"kind": "centernet", "categories": self.categories, **widths}

    @staticmethod
    def from_config(config: Mapping[str, Any], backbone: nn.Module) -> "CenterNet":
        """The static network of a `config()` on a backbone, without its weights."""
        return CenterNet(backbone, config["categories"], tuple(config["neck_widths"]), config["head_width"])


# --- targets ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Targets:
    """What the maps should be for one batch.

    heatmap: (B, K, h, w) float32, 1 at centres, a Gaussian round them. cell: (B, G) int64, row * w + column of the
    centre (0 where there is no object). size, offset: (B, G, 2) float32 in cells. present: (B, G) bool.
    """

    heatmap: Tensor
    cell: Tensor
    size: Tensor
    offset: Tensor
    present: Tensor


def gaussian_radius(height: Tensor, width: Tensor) -> Tensor:
    """How far, in cells, a box's Gaussian reaches; height and width in cells, any shape: float64 of that shape.

    Meant is how far both corners may move while the box keeps an IoU of _OVERLAP with the true one, the least over
    CornerNet's three cases: one corner inside and one outside the true box, both inside, both outside. The released
    CornerNet and CenterNet divide the root of each quadratic by 2 instead of 2a and take the larger root of the first
    two, so that the third case always wins, for a square with 3.3 times the radius meant. CenterNet's published
    numbers rest on that, so it is what this returns.
    """
    # The radius is cut to a whole number next: float64 makes that the same on every device.
    area, scaled = height.double() * width.double(), _OVERLAP * (height.double() + width.double())
    return torch.sqrt(scaled**2 + 4 * _OVERLAP * (1 - _OVERLAP) * area) - scaled


@torch.no_grad()
def centernet_targets(batch: Batch, stride: int, classes: int) -> Targets:
    """All that the losses compare with, for maps of `stride` pixels a cell and `classes` classes.

    At each object's centre the map of its class has a Gaussian of peak 1; where several meet, the maximum counts. Boxes
    are cut at the image; one of no area then is left out.
    """
    rows, columns = (side // stride for side in batch.images.shape[-2:])
    x = (batch.boxes[..., 0::2].float() / stride).clamp(0, columns)  # (B, G, 2) left and right, in cells
    y = (batch.boxes[..., 1::2].float() / stride).clamp(0, rows)
    size = torch.stack([x[..., 1] - x[..., 0], y[..., 1] - y[..., 0]], dim=-1)  # (B, G, 2)
    present = batch.valid & (size > 0).all(dim=-1)
    centre = torch.stack([x.mean(dim=-1), y.mean(dim=-1)], dim=-1)  # (B, G, 2)
    column = centre[..., 0].long().clamp(max=columns - 1) * present
    row = centre[..., 1].long().clamp(max=rows - 1) * present
    offset = centre - torch.stack([column, row], dim=-1)

    radius = gaussian_radius(size[..., 1].ceil(), size[..., 0].ceil()).floor().clamp(min=0)
    across, down = _bell(column, radius, columns), _bell(row, radius, rows) * present.unsqueeze(-1)
    heatmap = _draw_gaussians(across, down, batch.labels * present, classes)
    return Targets(heatmap, row * columns + column, size, offset, present)


def _bell(centre: Tensor, radius: Tensor, length: int) -> Tensor:
    """One axis of a Gaussian of deviation (2r + 1) / 6, cut at distance r: centre, radius (B, G) -> (B, G, length)."""
    distance = torch.arange(length, device=centre.device) - centre.unsqueeze(-1)  # (B, G, length)
    radius = radius.unsqueeze(-1)
    bell = torch.exp(-(distance**2) / (2 * ((2 * radius + 1) / 6) ** 2))
    return (bell * (distance.abs() <= radius)).float()


def _draw_gaussians(across: Tensor, down: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Products of the two axes, (B, G, w) and (B, G, h), merged by maximum into (B, K, h, w) by label (B, G)."""
    B, G, columns = across.shape  # batch, boxes an image, map width
    rows = down.shape[-1]
    heatmap = across.new_zeros(B * classes, rows, columns)
    layer = torch.arange(B, device=labels.device).unsqueeze(-1) * classes + labels  # (B, G) row of `heatmap`
    chunk = max(1, GAUSSIAN_CHUNK // (B * rows * columns))
    for start in range(0, G, chunk):
        part = slice(start, start + chunk)
        gaussians = down[:, part, :, None] * across[:, part, None, :]  # (B, chunk, h, w)
        index = layer[:, part].flatten()[:, None, None].expand(-1, rows, columns)
        heatmap.scatter_reduce_(0, index, gaussians.flatten(0, 1), "amax")
    return heatmap.view(B, classes, rows, columns)


# --- losses -----------------------------------------------------------------------------------------------------------


def centernet_losses(outputs: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
    """The three losses and their weighted sum, float32 scalars whatever the precision of `outputs`.

    outputs: as from `CenterNet.forward`.
    Returns `loss` = `heatmap` + 0.1 * `size` + `offset` (the paper's weights), where
    heatmap: penalty-reduced focal loss (equation 1, alpha 2, beta 4), summed, over the number of centres (or 1);
    size, offset: L1 distance at the centres, mean over objects and over the two coordinates (equations 2 and 3; the
        paper sums the two coordinates, the released code, which the weights belong to, takes their mean).
    """
    logits = outputs["heatmap"].float()
    targets = centernet_targets(batch, batch.images.shape[-1] // logits.shape[-1], logits.shape[1])
    coordinates = 2 * divisor(targets.present.sum())
    losses = {
        "heatmap": focal_loss(logits, targets.heatmap),
        "size": _distance_at_centres(outputs["size"], targets.size, targets) / coordinates,
        "offset": _distance_at_centres(outputs["offset"], targets.offset, targets) / coordinates,
    }
    return {"loss": losses["heatmap"] + SIZE_WEIGHT * losses["size"] + losses["offset"], **losses}


def focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Penalty-reduced focal loss, equation 1, of maps (B, K, h, w), over the number of centres: a scalar.

    With u the logit against the truth (-z at a centre, z elsewhere) both cases read sigmoid(u)^2 * softplus(u), which
    neither overflows nor loses its gradient, where the released code clips probabilities at 1e-4.
    """
    centre = target == 1
    weight = torch.where(centre, 1.0, (1 - target) ** 4)
    wrong = torch.where(centre, -logits, logits)
    loss = weight * wrong.sigmoid() ** 2 * F.softplus(wrong)
    return loss.sum() / divisor(centre.sum())


def _distance_at_centres(prediction: Tensor, target: Tensor, targets: Targets) -> Tensor:
    """Sum over objects and coordinates of |map at the centre - target|: (B, 2, h, w), (B, G, 2) -> ()."""
    there = rows_at(prediction.float().flatten(2).mT, targets.cell)  # (B, G, 2)
    return ((there - target).abs() * targets.present.unsqueeze(-1)).sum()


# --- detections -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def decode_peaks(outputs: dict[str, Tensor], top: int = 100, stride: int = 4) -> Detections:
    """The `top` highest peaks of the heatmap over all classes, as boxes in pixels of the network's input.

    A peak is a cell that none of its eight neighbours exceeds; that stands in for non-maximum suppression. Returns
    Detections (B, top), best first, equal scores in the order class, row, column; `valid` is False past the last peak.
    """
    logits = outputs["heatmap"].float()
    rows, columns = logits.shape[-2:]
    # Sigmoid keeps the order, so peaks are found among logits, where high scores do not saturate into ties.
    peaks, flat = (_highest_near(logits) == logits).flatten(1), logits.flatten(1)
    index, valid = best(flat, peaks, top)  # (B, count), count at most `top`
    cell = index % (rows * columns)
    size, offset = (rows_at(outputs[name].float().flatten(2).mT, cell) for name in ("size", "offset"))  # (B, count, 2)
    centre = torch.stack([cell % columns, cell // columns], dim=-1) + offset  # x, y
    half = size.clamp(min=0) / 2
    boxes = torch.cat([centre - half, centre + half], dim=-1) * stride
    return as_detections(boxes, flat.gather(1, index).sigmoid(), index // (rows * columns), valid, top)


def _highest_near(maps: Tensor) -> Tensor:
    """3x3 maximum with stride 1 over maps (B, K, h, w); on a CPU about 20 times as fast as `max_pool2d`."""
    maps = F.pad(maps, (1, 1, 1, 1), value=-torch.inf)
    rows = torch.maximum(torch.maximum(maps[..., :-2], maps[..., 1:-1]), maps[..., 2:])
    return torch.maximum(torch.maximum(rows[..., :-2, :], rows[..., 1:-1, :]), rows[..., 2:, :])
