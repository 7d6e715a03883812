"""Thin networks of every family of backbones, with norms as trained ones might have them, and batches for them."""

from dataclasses import replace

import torch
import torchvision
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from common.batch import Batch, Detections
from common.models.anchors import Anchors
from common.models.fpn import FPN
from common.models.mobilenet import MobileNetV2
from common.models.norm import Norm
from common.models.resnet import ResNet
from common.models.roi_head import RoISettings
from common.models.rpn import RPNSettings
from common.models.two_stage import TwoStage

NAMES = {
    "basic": "resnet18",
    "bottleneck": "resnet50",
    "resnext": "resnext50_32x4d",
    "inverted_residual": "mobilenet_v2",
}
FAMILIES = tuple(NAMES)
CLASSES = 3
SIDE = 64
RPN = RPNSettings(anchors=Anchors.octaves((4, 8, 16, 32, 64), 4), samples=32, candidates=(60, 40), proposals=(60, 24))
ROI = RoISettings(samples=24, hidden=(32, 32), canonical_side=56)
"""Of pools: levels are those of P1 to P5."""


def randomise_norms(network: nn.Module) -> nn.Module:
    """The network with batch norms, frozen or not, as training might leave them."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d | FrozenBatchNorm2d):
            for tensor, low, high in (
                (layer.weight, 0.2, 1.2),
                (layer.bias, -0.2, 0.2),
                (layer.running_mean, -0.2, 0.2),
                (layer.running_var, 0.5, 1.5),
            ):
                tensor.data.uniform_(low, high)
    return network


def awake(network: nn.Module) -> nn.Module:
    """Takes residual blocks out of the sleep that they begin in: norms of weight 0 get 1, so that all weights count."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.GroupNorm) and not layer.weight.any():
            nn.init.ones_(layer.weight)
    return network


def thin_backbone(family: str, kind: str = "batch") -> nn.Module:
    """A standard backbone of a family with norms of a kind."""
    torch.manual_seed(0)
    norm = Norm(kind, 4)
    return randomise_norms(
        MobileNetV2(norm, 0.25) if family == "inverted_residual" else ResNet(NAMES[family], norm, width=8)
    )


def thin_detector(family: str, kind: str = "batch", **fpn) -> TwoStage:
    """A Faster R-CNN on such a backbone. fpn: settings of its pyramid."""
    backbone = thin_backbone(family, kind)
    fpn = FPN(backbone.out_channels, **{"first": 1, "last": 5, "width": 8, **fpn})
    rpn = RPNSettings(anchors=Anchors.octaves(fpn.strides, 2), samples=16, candidates=(60, 30), proposals=(20, 10))
    return TwoStage(backbone, CLASSES, fpn, rpn, RoISettings(samples=8, hidden=(8,)))


def torchvision_faster_rcnn(images: Tensor, classes: int) -> nn.Module:
    """torchvision's own, of random weights that find something: heads whose answers differ from place to place.

    images: of the size that it takes, normalised. classes: with the background.
    """
    torch.manual_seed(0)
    height, width = images.shape[-2:]
    network = torchvision.models.detection.fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=classes, min_size=height, max_size=width
    )
    predictor = network.roi_heads.box_predictor
    for layer, deviation in (
        (network.rpn.head.cls_logits, 0.05),  # small: they rank by probability, where large logits tie
        (network.rpn.head.bbox_pred, 0.05),
        (predictor.cls_score, 0.3),
        (predictor.bbox_pred, 0.1),
    ):
        nn.init.normal_(layer.weight, std=deviation)
    network.transform.image_mean, network.transform.image_std = [0.0] * 3, [1.0] * 3  # images are normalised already
    with torch.no_grad():
        network.backbone.train()(images)  # statistics as after training, lest features grow from block to block
    return network


def wake_heads(network: TwoStage) -> None:
    """Heads that say something: theirs begin near nothing."""
    head = network.roi.heads[0]
    for layer in (network.rpn.conv, network.rpn.objectness, head.classes, head.codes):
        nn.init.normal_(layer.weight, std=0.3)


def make_batch(seed: int = 0, images: int = 2, objects: int = 3, classes: int = CLASSES) -> Batch:
    """Random images with random objects, one of them padding."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(images, objects, 2, generator=generator) * 34
    sides = 10 + 20 * torch.rand(images, objects, 2, generator=generator)
    valid = torch.ones(images, objects, dtype=torch.bool)
    if objects:
        valid[0, -1] = False
    return Batch(
        torch.randn(images, 3, SIDE, SIDE, generator=generator),
        torch.cat([corner, corner + sides], dim=-1),
        torch.randint(classes, (images, objects), generator=generator),
        valid,
        torch.arange(images),
        torch.full((images, 2), SIDE),
    )


def widened(batch: Batch) -> Batch:
    """The batch with further objects in each image that do not count: two are padding, the last has no area."""
    device, images = batch.boxes.device, len(batch.images)
    boxes = torch.tensor([[7.0, 7, 7, 7], [7, 7, 30, 30], [5, 5, 5, 9]], device=device).expand(images, -1, -1)
    valid = torch.tensor([False, False, True], device=device).expand(images, -1)
    return replace(
        batch,
        boxes=torch.cat([batch.boxes, boxes], dim=1),
        labels=torch.cat([batch.labels, valid.long() - 1], dim=1),
        valid=torch.cat([batch.valid, valid], dim=1),
    )


def assert_equal(first: Detections, second: Detections) -> None:
    """The same detections to the bit."""
    for name in ("boxes", "scores", "labels", "valid"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name


def assert_alike(found: Detections, expected: list[dict[str, Tensor]]) -> None:
    """The same detections as torchvision's, and padding behind them."""
    for image, each in enumerate(expected):
        count = len(each["boxes"])
        assert count > 4
        assert found.valid[image].tolist() == [True] * count + [False] * (found.valid.shape[1] - count)
        torch.testing.assert_close(found.scores[image, :count], each["scores"], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.boxes[image, :count], each["boxes"], atol=1e-2, rtol=1e-4)
        assert torch.equal(found.labels[image, :count], each["labels"])
