"""RetinaNet: torchvision's own results with its weights."""

import re
from functools import cache

import torch
import torchvision
from torch import nn

from common.models.anchors import Anchors
from common.models.fpn import FPN
from common.models.resnet import ResNet
from common.models.retinanet import RetinaNet, RetinaNetSettings, retinanet_losses
from tests.common.models.families import CLASSES, SIDE, assert_alike, make_batch

SIDES = [[int(side * 2 ** (step / 3)) for step in range(3)] for side in (32, 64, 128, 256, 512)]
NAMES = {  # theirs, and ours
    r"backbone\.body\.": "backbone.",
    r"backbone\.fpn\.inner_blocks\.(\d)\.0\.": r"fpn.laterals.\1.",
    r"backbone\.fpn\.layer_blocks\.(\d)\.0\.": r"fpn.outputs.\1.",
    r"backbone\.fpn\.extra_blocks\.p6\.": "fpn.extras.0.",
    r"backbone\.fpn\.extra_blocks\.p7\.": "fpn.extras.1.",
    r"head\.classification_head\.": "classes.",
    r"head\.regression_head\.": "codes.",
    r"(cls_logits|bbox_reg)\.": "last.",
    r"conv\.(\d)\.0\.": r"hidden.\1.",
}


@cache
def theirs() -> nn.Module:
    """Random weights that find something: heads whose scores and boxes differ from place to place."""
    torch.manual_seed(0)
    network = torchvision.models.detection.retinanet_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=CLASSES, min_size=SIDE, max_size=SIDE
    )
    for head in (network.head.classification_head, network.head.regression_head):
        for layer in (*(block[0] for block in head.conv), getattr(head, "cls_logits", None) or head.bbox_reg):
            nn.init.normal_(layer.weight, std=0.03)
    network.transform.image_mean, network.transform.image_std = [0.0] * 3, [1.0] * 3  # images are normalised already
    network.backbone.train()(make_batch(9).images)  # statistics as after training, lest features grow
    return network


def ours() -> RetinaNet:
    """Our network with the same weights and settings."""
    backbone, state = ResNet("resnet50"), {}
    anchors = Anchors(tuple(map(tuple, SIDES)), rounded=True)
    fpn = FPN(backbone.out_channels, 2, 6, extra="conv-on-output")
    network = RetinaNet(backbone, CLASSES, fpn, RetinaNetSettings(anchors, detections=300))
    for name, tensor in theirs().state_dict().items():
        for old, new in NAMES.items():
            name = re.sub(old, new, name)
        state[name] = tensor
    network.load_state_dict(state)
    return network


def test_same_detections_as_torchvision():
    images = make_batch().images
    with torch.no_grad():
        assert_alike(ours().eval().detect(images), theirs().eval()(list(images)))


def test_same_losses_and_gradients_as_torchvision():
    """Of one image: torchvision divides by the objects of each image, we by those of the batch."""
    network, batch = ours().train(), make_batch(images=1)
    valid = batch.valid[0]
    expected = theirs().train()(
        list(batch.images), [{"boxes": batch.boxes[0, valid], "labels": batch.labels[0, valid]}]
    )
    found = retinanet_losses(network(batch.images), batch)
    torch.testing.assert_close(found["class"], expected["classification"])
    torch.testing.assert_close(found["box"], expected["bbox_regression"])
    gradient = torch.autograd.grad(sum(expected.values()), theirs().backbone.body.layer3[0].conv1.weight)[0]
    mine = torch.autograd.grad(found["loss"], network.backbone.layer3[0].conv1.weight)[0]
    assert (mine - gradient).abs().max() < 2e-3 * gradient.abs().max()
