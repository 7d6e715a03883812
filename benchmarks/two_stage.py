"""Training two-stage detectors."""

import torch
from torch import Tensor, nn
from torchvision.models.detection import fasterrcnn_resnet50_fpn

from benchmarks.harness import Row, Timing, agree, compare
from benchmarks.networks import CHANNELS_LAST, made_up_batch, training_step
from common.batch import Batch
from common.models.norm import Norm
from common.models.torchvision_weights import faster_rcnn_of_torchvision
from common.models.two_stage import TwoStage, two_stage_losses

OBJECTS = 7  # an image, as on COCO


def two_stage(
    timing: Timing, image_size: int = 320, batch_sizes: tuple[int, ...] = (2, 8), categories: int = 90
) -> list[Row]:
    """Forward, losses, backward and SGD, from the same weights, images and settings as torchvision's detector.

    Batch norm, everything trained, 2000 proposals, 512 regions an image.
    """
    return [row for batch_size in batch_sizes for row in _two_stage(timing, image_size, batch_size, categories)]


def _two_stage(timing: Timing, side: int, batch_size: int, categories: int) -> list[Row]:
    torch.manual_seed(0)
    theirs = fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=categories + 1, min_size=side, max_size=side
    ).to(timing.device)
    theirs.transform.image_mean, theirs.transform.image_std = [0.0] * 3, [1.0] * 3  # images come normalised
    ours = faster_rcnn_of_torchvision(theirs.state_dict(), Norm("batch"))
    ours.to(timing.device, memory_format=CHANNELS_LAST)
    batch = made_up_batch(batch_size, side, categories, OBJECTS, timing.device)
    images = list(batch.images.contiguous())  # torchvision's layout
    targets = [{"boxes": boxes, "labels": labels + 1} for boxes, labels in zip(batch.boxes, batch.labels, strict=True)]
    _agree_on_outputs(ours.eval(), theirs.eval(), batch)

    our_step = training_step(ours, lambda: two_stage_losses(ours(batch.images), batch)["loss"], batch_size)
    their_step = training_step(theirs, lambda: sum(theirs(images, targets).values()), batch_size)
    case = f"{side}x{side}, batch {batch_size}"
    return compare("img/s", our_step, {"torchvision": lambda: their_step}, timing, case=case)


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
