"""RetinaNet: torchvision's own results with its weights, and what it promises beyond."""

from dataclasses import replace
from functools import cache

import pytest
import torch
import torchvision
from torch import nn

from common.batch import Batch, Detections
from common.models.detector import load_detector, save_detector
from common.models.fpn import FPN
from common.models.norm import Norm
from common.models.resnet import ResNet
from common.models.retinanet import RetinaNet, RetinaNetSettings, retinanet_losses
from common.models.torchvision_weights import retinanet_of_torchvision
from common.plain import InputError

CLASSES = 5
SIZE = (64, 96)


def random_batch(seed: int = 0, count: int = 2, boxes: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    height, width = SIZE
    size = torch.rand(count, boxes, 2, generator=generator) * 40 + 8
    corner = torch.rand(count, boxes, 2, generator=generator) * (torch.tensor([width, height]) - size)
    return Batch(
        images=torch.randn(count, 3, height, width, generator=generator),
        boxes=torch.cat([corner, corner + size], dim=-1),
        labels=torch.randint(CLASSES, (count, boxes), generator=generator),
        valid=torch.ones(count, boxes, dtype=torch.bool),
        index=torch.arange(count),
        scale=torch.ones(count),
    )


def small_network(norm: Norm | None = None, fpn: bool = True, **settings) -> RetinaNet:
    torch.manual_seed(0)
    backbone = ResNet("resnet18", Norm("group", 4), width=8)
    pyramid = FPN(backbone.out_channels, 2, 6, 16, extra="conv-on-output") if fpn else None
    return RetinaNet(backbone, CLASSES, pyramid, RetinaNetSettings(depth=1, **settings), norm)


def lively(network: RetinaNet) -> RetinaNet:
    nn.init.normal_(network.classes.last.weight, std=1.0)
    nn.init.normal_(network.codes.last.weight, std=0.3)
    return network.eval()


@cache
def torchvision_detector() -> nn.Module:
    """Random weights that find something: heads whose scores and boxes differ from place to place."""
    torch.manual_seed(0)
    theirs = torchvision.models.detection.retinanet_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=CLASSES, min_size=SIZE[0], max_size=SIZE[1]
    )
    for head in (theirs.head.classification_head, theirs.head.regression_head):
        for layer in (*(block[0] for block in head.conv), getattr(head, "cls_logits", None) or head.bbox_reg):
            nn.init.normal_(layer.weight, std=0.03)
    # images are normalised already; statistics as after training, lest features grow from block to block
    theirs.transform.image_mean, theirs.transform.image_std = [0.0] * 3, [1.0] * 3
    theirs.backbone.train()(random_batch(9).images)
    return theirs


def test_same_detections_as_torchvision():
    theirs = torchvision_detector().eval()
    ours = retinanet_of_torchvision(theirs.state_dict()).eval()
    images = random_batch().images
    found = ours.detect(images)
    with torch.no_grad():
        expected = theirs(list(images))
    for image, each in enumerate(expected):
        count = len(each["boxes"])
        assert count > 20
        assert found.valid[image].tolist() == [True] * count + [False] * (300 - count)
        torch.testing.assert_close(found.scores[image, :count], each["scores"], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.boxes[image, :count], each["boxes"], atol=1e-4 * SIZE[1], rtol=1e-4)
        assert torch.equal(found.labels[image, :count], each["labels"])


def test_same_losses_and_gradients_as_torchvision():
    theirs = torchvision_detector().train()
    ours = retinanet_of_torchvision(theirs.state_dict(), Norm("batch")).train()
    batch = random_batch()
    targets = [{"boxes": boxes, "labels": labels} for boxes, labels in zip(batch.boxes, batch.labels, strict=True)]
    expected = theirs(list(batch.images), targets)
    found = retinanet_losses(ours(batch.images), batch)
    assert list(found) == ["loss", "class", "box"]
    torch.testing.assert_close(found["class"], expected["classification"])
    torch.testing.assert_close(found["box"], expected["bbox_regression"])
    gradient = torch.autograd.grad(sum(expected.values()), theirs.backbone.body.layer3[0].conv1.weight)[0]
    mine = torch.autograd.grad(found["loss"], ours.backbone.layer3[0].conv1.weight)[0]
    assert (mine - gradient).abs().max() < 2e-3 * gradient.abs().max()


def test_the_oldest_names_are_known():
    state = torchvision_detector().state_dict()
    old = {}
    for name, tensor in state.items():
        for layer in range(3, -1, -1):
            name = name.replace(f"_head.conv.{layer}.0.", f"_head.conv.{2 * layer}.")
        old[name] = tensor
    assert old.keys() != state.keys()
    ours = [retinanet_of_torchvision(each).state_dict() for each in (state, old)]
    assert all(torch.equal(ours[0][name], ours[1][name]) for name in ours[0])


@pytest.mark.parametrize("norm", [None, Norm("group-ws", 8)])
@pytest.mark.parametrize("fpn", [True, False])
def test_losses_reach_every_weight(norm, fpn, device, awake):
    network, batch = awake(small_network(norm, fpn)).to(device), random_batch().to(device)
    losses = retinanet_losses(network(batch.images), batch)
    losses["loss"].backward()
    assert all(value.dtype == torch.float32 and value > 0 for value in losses.values())
    for name, parameter in network.named_parameters():
        if fpn or "backbone" not in name:
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("boxes", [0, 6])
@pytest.mark.parametrize("divide_by", ["batch", "image"])
def test_batch_without_objects_trains(boxes, divide_by):
    network, batch = small_network(divide_by=divide_by), random_batch(boxes=boxes)
    losses = retinanet_losses(network(batch.images), replace(batch, valid=batch.valid & False))
    losses["loss"].backward()
    assert losses["box"] == 0
    assert losses["class"] > 0
    assert all(p.grad.isfinite().all() for p in network.parameters())


def test_a_training_step_looks_at_no_value():
    network, batch = small_network().to("meta"), random_batch().to("meta")
    retinanet_losses(network(batch.images), batch)["loss"].backward()
    assert network.eval().detect(batch.images).boxes.shape == (2, 100, 4)


def test_batched_equals_single(device):
    network, images = lively(small_network()).to(device), random_batch(count=3).images.to(device)
    together = network.detect(images)
    alone = Detections.cat([network.detect(image.unsqueeze(0)) for image in images])
    assert together.valid.any()
    torch.testing.assert_close(together.scores, alone.scores, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(together.boxes, alone.boxes, atol=2e-3, rtol=1e-3)
    assert torch.equal(together.labels, alone.labels)


@pytest.mark.parametrize("inside", [None, "batch", "frozen", "group", "group-ws"])
@pytest.mark.parametrize("fpn", [True, False])
def test_training_and_detection_under_autocast(inside, fpn, device):
    norm = None if inside is None else Norm(inside, 8)
    network, batch = small_network(norm, fpn).to(device), random_batch().to(device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        losses = retinanet_losses(network(batch.images), batch)
    losses["loss"].backward()
    assert all(value.dtype == torch.float32 and value.isfinite() for value in losses.values())
    assert all(p.grad.isfinite().all() for p in network.parameters())
    with torch.autocast(device.type, dtype=torch.bfloat16):
        found = lively(network).detect(batch.images)
    assert found.boxes.dtype == found.scores.dtype == torch.float32
    assert found.valid.any()
    assert found.boxes.isfinite().all()


@pytest.mark.parametrize("size", [(75, 110), (17, 40), (5, 3)])
def test_sizes_that_no_stride_divides(size):
    network, batch = small_network(), random_batch()
    batch = replace(batch, images=torch.randn(2, 3, *size))  # objects lie beyond, too
    losses = retinanet_losses(network(batch.images), batch)
    losses["loss"].backward()
    assert losses["loss"].isfinite()
    found = lively(network).detect(batch.images)
    assert found.boxes.shape == (2, 100, 4)
    assert (found.boxes <= found.boxes.new_tensor([size[1], size[0]] * 2)).all()


def test_a_diverged_network_says_so(device):
    network, batch = small_network().to(device), random_batch().to(device)
    with torch.no_grad():
        network.codes.last.weight.fill_(torch.nan)
        network.classes.last.weight.fill_(torch.nan)
    assert retinanet_losses(network(batch.images), batch)["loss"].isnan()
    found = network.eval().detect(batch.images)
    assert not (found.boxes.isfinite().all() and found.scores.isfinite().all())


def test_saved_detector_comes_back_equal(tmp_path):
    network = lively(small_network(Norm("group", 8)))
    path = save_detector(tmp_path / "best", network, {"categories": list("abcde"), "input_size": 96})
    loaded = load_detector(path).model
    images = random_batch().images
    assert loaded.config() == network.config()
    assert torch.equal(loaded.detect(images).boxes, network.detect(images).boxes)


def test_no_classes_give_a_sentence():
    with pytest.raises(InputError, match="0 classes"):
        RetinaNet(ResNet("resnet18", width=8), 0, None)
