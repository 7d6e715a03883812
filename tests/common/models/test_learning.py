"""Small detectors learn four images of the built-in set by heart, judged as a user's detector would be."""

import pytest
import torch
from torch import nn

from common.data.batches import DetectionBatches
from common.data.scenes import scenes
from common.evaluate.average_precision import GroundTruth
from common.evaluate.subnetworks import average_precision
from common.models.anchors import Anchors
from common.models.fpn import FPN
from common.models.norm import Norm
from common.models.resnet import ResNet
from common.models.retinanet import RetinaNet, RetinaNetSettings, retinanet_losses
from common.models.roi_head import RoISettings
from common.models.rpn import RPNSettings
from common.models.two_stage import TwoStage, two_stage_losses

SIDE = 96
STRIDES = (4, 8, 16, 32)


def two_stage(categories: int) -> nn.Module:
    backbone = ResNet("resnet18", Norm("group", 8), width=16)
    rpn = RPNSettings(anchors=Anchors.octaves(STRIDES, 4), candidates=(300, 300), proposals=(200, 100))
    fpn = FPN(backbone.out_channels, 1, 4, 32)
    return TwoStage(backbone, categories, fpn, rpn, RoISettings(samples=64, hidden=(128,)))


def retinanet(categories: int) -> nn.Module:
    backbone = ResNet("resnet18", Norm("group", 8), width=16)
    settings = RetinaNetSettings(anchors=Anchors.octaves(STRIDES, 3, 2), depth=1)
    return RetinaNet(backbone, categories, FPN(backbone.out_channels, 1, 4, 32), settings)


@pytest.mark.slow
@pytest.mark.parametrize(("build", "losses"), [(two_stage, two_stage_losses), (retinanet, retinanet_losses)])
def test_four_images_are_learnt_by_heart(build, losses):
    dataset = scenes("train", 4, SIDE)
    batches = list(DetectionBatches(dataset, SIDE, 4).in_order())
    torch.manual_seed(0)
    network = build(len(dataset.categories)).train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3)
    for step in range(200):
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * min(1, (step + 1) / 20, (200 - step) / 60)
        optimiser.zero_grad()
        losses(network(batches[0].images), batches[0])["loss"].backward()
        nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimiser.step()
    numbers = average_precision(network, batches, GroundTruth(dataset))
    assert numbers["AP50"] > 0.8
