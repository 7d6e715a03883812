"""CenterNet: objects as points (Zhou, Wang, Krähenbühl, "Objects as Points", 2019, https://arxiv.org/abs/1904.07850).

The plain ResNet variant: three transposed convolutions bring the backbone's last feature from stride 32 to stride 4,
and three small heads predict there a heatmap of object centres for each class, the size of the object and the part of
its centre that the stride cut off. Targets, losses and decoding are functions of tensors and live outside the network;
they follow the authors' released code, and where that and the paper differ a docstring says so.

A *cell* is one position of the output map, `stride` pixels wide. Sizes and offsets are measured in cells.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.batch import Batch, Detections
from common.models.divisor import divisor
from common.models.elastic import ElasticConvTranspose2d, copy_corner
from common.models.ofa_resnet import sort_channels
from common.models.outline import outline
from common.plain import InputError

SIDE_MULTIPLE = 32  # image sides: what the deepest backbone halves five times
# A rare class: sigmoid(-2.19) = .1, so that the many empty cells do not swamp the first steps (RetinaNet's prior).
HEATMAP_BIAS = -2.19
# Elements of Gaussians held at once while targets are made: 64 MiB of float32.
GAUSSIAN_CHUNK = 2**24


# --- network ----------------------------------------------------------------------------------------------------------


def make_neck(in_channels: int, widths: tuple[int, ...], elastic: bool = False) -> nn.Sequential:
    """Transposed convolutions (kernel 4, stride 2, padding 1) with batch norm and ReLU, each doubling the map.

    (B, in_channels, H, W) -> (B, widths[-1], H * 2^n, W * 2^n) for n widths. With `elastic` the first one takes however
    many channels its input has, up to `in_channels`, so that the backbone's last width can vary.

    Weights start normal with deviation .001, as in the released CenterNet on a plain ResNet.
    """
    layers: list[nn.Module] = []
    for width in widths:
        kind = ElasticConvTranspose2d if elastic and not layers else nn.ConvTranspose2d
        convolution = kind(in_channels, width, kernel_size=4, stride=2, padding=1, bias=False)
        nn.init.normal_(convolution.weight, std=0.001)
        layers += [convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        in_channels = width
    return nn.Sequential(*layers)


def make_head(in_channels: int, width: int, out_channels: int) -> nn.Sequential:
    """3x3 convolution, ReLU, 1x1 convolution, both with bias: (B, in_channels, H, W) -> (B, out_channels, H, W)."""
    return nn.Sequential(
        nn.Conv2d(in_channels, width, kernel_size=3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, out_channels, kernel_size=1),
    )


class CenterNet(nn.Module):
    """Backbone, neck and three heads.

    backbone: a module from images (B, 3, H, W) to a tuple of features, the last at stride 32, with `out_channels`, a
        tuple of their (largest) widths.
    categories: K, the number of classes.
    neck_widths: channels of the transposed convolutions; three bring the map to stride 4 (paper: 256, 256, 256).
    head_width: channels between the two convolutions of a head (paper: 64).
    elastic: the backbone's last width varies from step to step.
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
        if not neck_widths or backbone.stride % 2 ** len(neck_widths):
            raise InputError(
                f"a CenterNet neck of {len(neck_widths)} transposed convolutions does not fit a backbone of stride "
                f"{backbone.stride}: each halves the stride, and 4 is the one to end at"
            )
        self.categories = categories
        self.neck_widths = tuple(neck_widths)
        self.head_width = head_width
        self.elastic = elastic
        self.stride = backbone.stride // 2 ** len(neck_widths)
        self.backbone = backbone
        self.neck = make_neck(backbone.out_channels[-1], self.neck_widths, elastic)
        self.heatmap = make_head(self.neck_widths[-1], head_width, categories)
        self.size = make_head(self.neck_widths[-1], head_width, 2)
        self.offset = make_head(self.neck_widths[-1], head_width, 2)
        nn.init.constant_(self.heatmap[-1].bias, HEATMAP_BIAS)
        for head in (self.size, self.offset):
            nn.init.normal_(head[-1].weight, std=0.001)
            nn.init.zeros_(head[-1].bias)

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
    def detect(self, images: Tensor, top: int = 100) -> Detections:
        """Detections (B, top) in pixels of `images` (B, 3, H, W), best first. Call `eval()` before."""
        return decode(self(images), top=top, stride=self.stride)

    def activate(self, path: Sequence[int]) -> None:
        """Use the sub-network of `path` (see the elastic backbone) from the next forward on."""
        self.backbone.activate(path)

    def extract(self, path: Sequence[int]) -> "CenterNet":
        """The plain detector on the plain backbone of `path`, with copies of the weights."""
        return self.with_backbone(self.backbone.extract(path))

    def sort_channels(self) -> None:
        """Sort the elastic backbone's channels by importance, the neck's first layer moving along."""
        sort_channels(self.backbone, readers={3: [self.neck[0]]})

    def config(self) -> dict[str, Any]:
        """Plain numbers from which neck and heads can be built again; the backbone describes itself."""
        return {
            "kind": "centernet",
            "categories": self.categories,
            "neck_widths": list(self.neck_widths),
            "head_width": self.head_width,
        }

    @staticmethod
    def from_config(config: Mapping[str, Any], backbone: nn.Module) -> "CenterNet":
        """The static network of a `config()` on a backbone, without its weights."""
        return CenterNet(backbone, config["categories"], tuple(config["neck_widths"]), config["head_width"])

    def with_backbone(self, backbone: nn.Module) -> "CenterNet":
        """A static CenterNet on `backbone` (say, one extracted from this one's), with copies of neck and heads.

        The first transposed convolution keeps the weights of the first `backbone.out_channels[-1]` input channels.
        """
        with outline():
            static = CenterNet(backbone, self.categories, self.neck_widths, self.head_width)
        for part in ("neck", "heatmap", "size", "offset"):
            copy_corner(getattr(self, part), getattr(static, part))
        return static.train(self.training)


# --- targets ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Targets:
    """What the maps should say for one batch; made once where several networks learn from the same batch.

    heatmap: (B, K, h, w) float32, 1 at centres, a Gaussian round them. cell: (B, G) int64, row * w + column of the
    centre (0 where there is no object). size, offset: (B, G, 2) float32 in cells. present: (B, G) bool.
    """

    heatmap: Tensor
    cell: Tensor
    size: Tensor
    offset: Tensor
    present: Tensor


def gaussian_radius(height: Tensor, width: Tensor, overlap: float = 0.7, exact: bool = False) -> Tensor:
    """How far, in cells, both corners of a box may move while it keeps an IoU of `overlap` with the true box.

    height, width: any shape, in cells. Returns float64 of that shape, the least over the three cases of CornerNet: one
    corner inside and one outside the true box, both inside, both outside.

    The released CornerNet and CenterNet divide the root of each quadratic by 2 instead of 2a and take the larger root
    of the first two, so that the third case always wins, for a square with 3.3 times the radius meant. CenterNet's
    published numbers rest on that, so it is the default here; `exact` solves the three quadratics properly.
    """
    # The radius is cut to a whole number next: float64 makes that the same on every device.
    height, width = height.double(), width.double()
    around, area = height + width, height * width
    one_inside = torch.sqrt(around**2 - 4 * area * (1 - overlap) / (1 + overlap))
    both_inside = torch.sqrt((2 * around) ** 2 - 16 * (1 - overlap) * area)
    both_outside = torch.sqrt((2 * overlap * around) ** 2 + 16 * overlap * (1 - overlap) * area) - 2 * overlap * around
    if exact:
        cases = (around - one_inside) / 2, (2 * around - both_inside) / 8, both_outside / (8 * overlap)
    else:
        cases = (around + one_inside) / 2, (2 * around + both_inside) / 2, both_outside / 2
    return torch.minimum(torch.minimum(cases[0], cases[1]), cases[2])


@torch.no_grad()
def centernet_targets(batch: Batch, stride: int, classes: int, overlap: float = 0.7, exact: bool = False) -> Targets:
    """All that the losses compare with, for maps of `stride` pixels a cell and `classes` classes.

    Boxes are cut at the image; one of no area then is left out. `overlap` and `exact`: see `gaussian_radius`.
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

    radius = gaussian_radius(size[..., 1].ceil(), size[..., 0].ceil(), overlap, exact).floor().clamp(min=0)
    across, down = _bell(column, radius, columns), _bell(row, radius, rows) * present.unsqueeze(-1)
    heatmap = _draw_gaussians(across, down, batch.labels * present, classes)
    return Targets(heatmap, row * columns + column, size, offset, present)


def heatmap_targets(batch: Batch, stride: int, classes: int, overlap: float = 0.7, exact: bool = False) -> Tensor:
    """(B, K, h, w) float32: at each object's centre a Gaussian of peak 1 in the map of its class, merged by maximum."""
    return centernet_targets(batch, stride, classes, overlap, exact).heatmap


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


def centernet_losses(
    outputs: dict[str, Tensor],
    batch: Batch | Targets,
    size_weight: float = 0.1,
    offset_weight: float = 1.0,
    reduction: Literal["batch", "image"] = "batch",
) -> dict[str, Tensor]:
    """The three losses and their weighted sum, in float32 whatever the precision of `outputs`.

    outputs: as from `CenterNet.forward`. batch: a Batch, or its `centernet_targets`.
    Returns `loss` = `heatmap` + size_weight * `size` + offset_weight * `offset`, where
    heatmap: penalty-reduced focal loss (equation 1, alpha 2, beta 4), summed, over the number of centres (or 1);
    size, offset: L1 distance at the centres, mean over objects and over the two coordinates (equations 2 and 3; the
        paper sums the two coordinates, the released code, which the weights belong to, takes their mean).

    reduction: "batch": scalars, normalised over the whole batch, for training. "image": (B,), each image normalised by
    itself as a batch of one would be, so that their mean over a data set does not depend on how it was batched.
    """
    logits = outputs["heatmap"].float()
    if isinstance(batch, Batch):
        batch = centernet_targets(batch, batch.images.shape[-1] // logits.shape[-1], logits.shape[1])
    focal, centres = focal_loss(logits, batch.heatmap)  # (B,), (B,)
    size = _distance_at_centres(outputs["size"], batch.size, batch)
    offset = _distance_at_centres(outputs["offset"], batch.offset, batch)
    objects = batch.present.sum(dim=1).float()
    if reduction == "batch":
        focal, size, offset = focal.sum(), size.sum(), offset.sum()
        centres, objects = divisor(centres.sum()), divisor(objects.sum())
    else:
        centres, objects = centres.clamp(min=1), objects.clamp(min=1)
    losses = {
        "heatmap": focal / centres,
        "size": size / (2 * objects),
        "offset": offset / (2 * objects),
    }
    return {"loss": losses["heatmap"] + size_weight * losses["size"] + offset_weight * losses["offset"], **losses}


def focal_loss(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Penalty-reduced focal loss, equation 1: its sum and the number of centres, both (B,), for (B, K, h, w) maps.

    With u the logit against the truth (-z at a centre, z elsewhere) both cases read sigmoid(u)^2 * softplus(u), which
    neither overflows nor loses its gradient, where the released code clips probabilities at 1e-4.
    """
    centre = target == 1
    weight = torch.where(centre, 1.0, (1 - target) ** 4)
    wrong = torch.where(centre, -logits, logits)
    loss = weight * wrong.sigmoid() ** 2 * F.softplus(wrong)
    return loss.flatten(1).sum(dim=1), centre.flatten(1).sum(dim=1).float()


def _distance_at_centres(prediction: Tensor, target: Tensor, targets: Targets) -> Tensor:
    """Sum over objects and coordinates of |map at the centre - target|: (B, 2, h, w), (B, G, 2) -> (B,)."""
    index = targets.cell.unsqueeze(1).expand(-1, 2, -1)  # (B, 2, G)
    there = prediction.float().flatten(2).gather(2, index).transpose(1, 2)  # (B, G, 2)
    return ((there - target).abs() * targets.present.unsqueeze(-1)).sum(dim=(1, 2))


# --- detections -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def decode(outputs: dict[str, Tensor], top: int = 100, stride: int = 4) -> Detections:
    """The `top` highest peaks of the heatmap over all classes, as boxes in pixels of the network's input.

    A peak is a cell that none of its eight neighbours exceeds; that stands in for non-maximum suppression. Returns
    Detections (B, top), best first, equal scores in the order class, row, column; `valid` is False past the last peak.
    """
    logits = outputs["heatmap"].float()
    rows, columns = logits.shape[-2:]
    # Sigmoid keeps the order, so peaks are found among logits, where high scores do not saturate into ties.
    peaks = torch.where(_highest_near(logits) == logits, logits, -torch.inf).flatten(1)
    count = min(top, peaks.shape[1])
    best, index = peaks.topk(count, dim=1, sorted=False)  # (B, count)
    index, order = index.sort(dim=1)
    best, order = best.gather(1, order).sort(dim=1, descending=True, stable=True)
    index = index.gather(1, order)

    cell = index % (rows * columns)
    at_peaks = cell.unsqueeze(1).expand(-1, 2, -1)  # (B, 2, count)
    size = outputs["size"].float().flatten(2).gather(2, at_peaks).clamp(min=0)
    offset = outputs["offset"].float().flatten(2).gather(2, at_peaks)
    centre = torch.stack([cell % columns, cell // columns], dim=1) + offset  # (B, 2, count) x, y
    boxes = torch.cat([centre - size / 2, centre + size / 2], dim=1).transpose(1, 2) * stride  # (B, count, 4)
    padding = top - count
    return Detections(
        boxes=F.pad(boxes, (0, 0, 0, padding)),
        scores=F.pad(best.sigmoid(), (0, padding)),
        labels=F.pad(index // (rows * columns), (0, padding)),
        valid=F.pad(best > -torch.inf, (0, padding)),
    )


def _highest_near(maps: Tensor) -> Tensor:
    """3x3 maximum with stride 1 over maps (B, K, h, w); on a CPU about 20 times as fast as `max_pool2d`."""
    maps = F.pad(maps, (1, 1, 1, 1), value=-torch.inf)
    rows = torch.maximum(torch.maximum(maps[..., :-2], maps[..., 1:-1]), maps[..., 2:])
    return torch.maximum(torch.maximum(rows[..., :-2, :], rows[..., 1:-1, :]), rows[..., 2:, :])
