"""Training two-stage detectors."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torchvision
from torch import Tensor, nn

from common.batch import Batch
from common.bench.harness import Contender, Row, Timing, agree, benchmark, compare
from common.models.norm import Norm
from common.models.torchvision_weights import faster_rcnn_of_torchvision
from common.models.two_stage import TwoStage, two_stage_losses
from common.settings import Optimisation
from common.train.schedule import build_optimiser

SGD = Optimisation(optimiser="sgd", learning_rate=1e-3, weight_decay=1e-4, policy="constant")
OBJECTS = 7  # an image, as on COCO


@dataclass(frozen=True)
class Sizes:
    """Sides of square images in pixels, and how many at once."""

    image_size: int = 320
    batch_sizes: tuple[int, ...] = (2, 8)
    categories: int = 90


@benchmark("two-stage", full=Sizes(), quick=Sizes(64, (2,), 5))
def two_stage(sizes: Sizes, timing: Timing) -> list[Row]:
    """A training step of Faster R-CNN R50-FPN (forward, losses, backward, SGD), against torchvision's: target 1.5x.

    The same weights, images and settings: batch norm, everything trained, 2000 proposals, 512 regions an image.
    """
    return [row for batch_size in sizes.batch_sizes for row in _training_step(sizes, batch_size, timing)]


def _training_step(sizes: Sizes, batch_size: int, timing: Timing) -> list[Row]:
    torch.manual_seed(0)
    side = sizes.image_size
    theirs = torchvision.models.detection.fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=sizes.categories + 1, min_size=side, max_size=side
    )
    theirs.transform.image_mean, theirs.transform.image_std = [0.0] * 3, [1.0] * 3  # images come normalised
    ours = faster_rcnn_of_torchvision(theirs.state_dict(), Norm("batch"))
    ours.to(timing.device, memory_format=torch.channels_last)
    theirs.to(timing.device)
    batch = _made_up_batch(sizes, batch_size).to(timing.device)
    images = batch.images.contiguous(memory_format=torch.channels_last)
    _agree_on_outputs(ours.eval(), theirs.eval(), batch)

    targets = [{"boxes": boxes, "labels": labels + 1} for boxes, labels in zip(batch.boxes, batch.labels, strict=True)]
    our_step = _stepper(ours.train(), lambda: two_stage_losses(ours(images), batch)["loss"])
    their_step = _stepper(theirs.train(), lambda: sum(theirs(list(batch.images), targets).values()))
    for step in (our_step, their_step):
        step()
    case = f"{side}x{side}, batch {batch_size}"
    peers = [Contender("torchvision", their_step, batch_size)]
    return compare("two-stage", "img/s", Contender("ours", our_step, batch_size), peers, timing, case=case)


def _made_up_batch(sizes: Sizes, batch_size: int) -> Batch:
    side = sizes.image_size
    extent = torch.rand(batch_size, OBJECTS, 2) * 0.4 * side + 8
    corner = torch.rand(batch_size, OBJECTS, 2) * (side - extent)
    return Batch(
        images=torch.randn(batch_size, 3, side, side),
        boxes=torch.cat([corner, corner + extent], dim=-1),
        labels=torch.randint(sizes.categories, (batch_size, OBJECTS)),
        valid=torch.ones(batch_size, OBJECTS, dtype=torch.bool),
        index=torch.arange(batch_size),
        scale=torch.ones(batch_size),
    )


def _stepper(network: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
    optimiser = build_optimiser(network, SGD)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        loss().backward()
        optimiser.step()

    return step


@torch.no_grad()
def _agree_on_outputs(ours: TwoStage, theirs: nn.Module, batch: Batch) -> None:
    """Both say the same of all anchors, and of the objects' own boxes."""
    maps = ours.fpn(ours.backbone(batch.images))
    their_maps = theirs.backbone(batch.images)
    objectness, _ = theirs.rpn.head(list(their_maps.values()))
    expected = torch.cat([each.permute(0, 2, 3, 1).flatten(1) for each in objectness], dim=1)
    agree(_close(ours.rpn(maps)["objectness"], expected), "objectness by ours and by torchvision")
    heads = theirs.roi_heads
    regions = heads.box_roi_pool(their_maps, list(batch.boxes), [batch.images.shape[-2:]] * len(batch.boxes))
    expected, _ = heads.box_predictor(heads.box_head(regions))  # the background first
    logits, _ = ours.roi(maps, batch.boxes)
    agree(_close(logits.flatten(0, 1).roll(1, dims=1), expected), "classes of regions by ours and by torchvision")


def _close(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).abs().max() <= 1e-3 * expected.abs().max())
