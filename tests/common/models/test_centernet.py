"""CenterNet against plain loops over boxes and cells, and on an elastic backbone."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from common.batch import Batch
from common.models import centernet
from common.models.centernet import CenterNet, centernet_losses, centernet_targets, decode_peaks
from common.models.ofa_resnet import OFAResNet, ResNet
from common.plain import InputError
from detofa.space import OFAResNetSpace
from tests.common.models.families import randomise_norms, widened

CLASSES, STRIDE = 5, 4
THIN = OFAResNetSpace(
    (1, 1, 1, 1), stage_widths=(16, 24, 32, 48), stem_width=16, channel_multiple=4, stage_strides=(1, 2, 1, 1)
)


def small_network(
    strides: tuple[int, ...] = (1, 2, 1, 1), neck_widths: tuple[int, ...] = (8,), elastic: bool = True
) -> CenterNet:
    """An untrained detection supernet whose batch-norm statistics and scales are not the trivial ones."""
    torch.manual_seed(0)
    backbone = OFAResNet(replace(THIN, stage_strides=strides))
    return randomise_norms(CenterNet(backbone, CLASSES, neck_widths, head_width=8, elastic=elastic))


def random_batch(seed: int, device: torch.device) -> Batch:
    """Four images of 64x96 pixels with boxes of all sizes, some past the edge, one without area, two on one cell."""
    height, width = 96, 64
    generator = torch.Generator().manual_seed(seed)
    size = torch.rand(4, 9, 2, generator=generator) ** 2 * 70 + 1
    corner = torch.rand(4, 9, 2, generator=generator) * torch.tensor([width - 8.0, height - 8.0]) - 4
    xyxy = torch.cat([corner, corner + size], dim=-1)
    labels = torch.randint(CLASSES, (4, 9), generator=generator)
    valid = torch.rand(4, 9, generator=generator) > 0.3
    xyxy[0, 0, 2:] = xyxy[0, 0, :2]
    xyxy[0, 1], xyxy[0, 2] = torch.tensor([10.0, 10, 30, 40]), torch.tensor([12.0, 14, 29, 36])
    labels[0, 1], labels[0, 2] = 1, 3
    xyxy[1, 0], xyxy[1, 1], labels[1, :2] = xyxy[0, 1], xyxy[0, 2], 2
    valid[0, :3] = valid[1, :2] = True
    valid[2] = False
    images = torch.zeros(4, 3, height, width)
    return Batch(images, xyxy, labels, valid, torch.arange(4), torch.tensor([[height, width]] * 4)).to(device)


def random_outputs(seed: int, device: torch.device, cells: tuple[int, int] = (24, 16), scale: float = 3.0) -> dict:
    generator = torch.Generator().manual_seed(seed)
    channels = {"heatmap": CLASSES, "size": 2, "offset": 2}.items()
    return {name: (torch.randn(4, count, *cells, generator=generator) * scale).to(device) for name, count in channels}


# --- plain references -------------------------------------------------------------------------------------------------


def released_radius(height: float, width: float, overlap: float) -> float:
    """The three quadratics a r^2 + b r + c as the released code solves them: larger root, divided by 2."""
    quadratics = (
        (1, height + width, width * height * (1 - overlap) / (1 + overlap)),
        (4, 2 * (height + width), (1 - overlap) * width * height),
        (4 * overlap, -2 * overlap * (height + width), (overlap - 1) * width * height),
    )
    return min((b + math.sqrt(b * b - 4 * a * c)) / 2 for a, b, c in quadratics)


def objects_in_cells(batch: Batch, image: int) -> list[tuple[int, float, float, float, float]]:
    """(label, left, top, right, bottom) in cells, cut at the image, without what has no area."""
    height, width = (side / STRIDE for side in batch.images.shape[-2:])
    objects = []
    for box, label, valid in zip(batch.boxes[image], batch.labels[image], batch.valid[image], strict=True):
        left, top, right, bottom = (box.cpu().numpy() / np.float32(STRIDE)).tolist()
        left, right = min(max(left, 0.0), width), min(max(right, 0.0), width)
        top, bottom = min(max(top, 0.0), height), min(max(bottom, 0.0), height)
        if valid and right > left and bottom > top:
            objects.append((int(label), left, top, right, bottom))
    return objects


def naive_heatmap(batch: Batch, image: int) -> np.ndarray:
    rows, columns = (side // STRIDE for side in batch.images.shape[-2:])
    heatmap = np.zeros((CLASSES, rows, columns))
    for label, left, top, right, bottom in objects_in_cells(batch, image):
        radius = int(released_radius(math.ceil(bottom - top), math.ceil(right - left), 0.7))
        column, row = int((left + right) / 2), int((top + bottom) / 2)
        for y, x in np.ndindex(rows, columns):
            if max(abs(y - row), abs(x - column)) <= radius:
                value = math.exp(-((x - column) ** 2 + (y - row) ** 2) / (2 * ((2 * radius + 1) / 6) ** 2))
                heatmap[label, y, x] = max(heatmap[label, y, x], value)
    return heatmap


def naive_losses(outputs: dict[str, Tensor], batch: Batch) -> dict[str, float]:
    focal = positives = size = offset = objects = 0.0
    for image in range(len(batch.images)):
        target = naive_heatmap(batch, image)
        score = 1 / (1 + np.exp(-outputs["heatmap"][image].double().cpu().numpy()))
        for p, t in zip(score.ravel(), target.ravel(), strict=True):
            if t == 1:
                focal -= (1 - p) ** 2 * math.log(p)
                positives += 1
            else:
                focal -= (1 - t) ** 4 * p**2 * math.log(1 - p)
        for _, left, top, right, bottom in objects_in_cells(batch, image):
            x, y = (left + right) / 2, (top + bottom) / 2
            found_size = outputs["size"][image, :, int(y), int(x)].tolist()
            found_offset = outputs["offset"][image, :, int(y), int(x)].tolist()
            size += abs(found_size[0] - (right - left)) + abs(found_size[1] - (bottom - top))
            offset += abs(found_offset[0] - (x - int(x))) + abs(found_offset[1] - (y - int(y)))
            objects += 1
    losses = {"heatmap": focal / max(positives, 1), "size": size / max(2 * objects, 1)}
    losses["offset"] = offset / max(2 * objects, 1)
    losses["loss"] = losses["heatmap"] + 0.1 * losses["size"] + losses["offset"]
    return losses


def naive_decode(outputs: dict[str, Tensor], image: int, top: int) -> list[tuple[float, int, list[float]]]:
    heatmap = outputs["heatmap"][image].cpu().numpy()
    peaks = [
        (-logit, *place)
        for place, logit in np.ndenumerate(heatmap)
        if logit == heatmap[place[0], *(slice(max(0, at - 1), at + 2) for at in place[1:])].max()
    ]
    found = []
    for logit, k, y, x in sorted(peaks)[:top]:
        dx, dy = outputs["offset"][image, :, y, x].tolist()
        w, h = (max(0.0, side) for side in outputs["size"][image, :, y, x].tolist())
        cx, cy = x + dx, y + dy
        box = [STRIDE * side for side in (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)]
        found.append((1 / (1 + math.exp(logit)), k, box))
    return found


# --- targets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [centernet.GAUSSIAN_CHUNK, 4 * 24 * 16 * 2])
def test_heatmap_equals_a_loop_over_boxes(chunk, device, monkeypatch):
    monkeypatch.setattr(centernet, "GAUSSIAN_CHUNK", chunk)
    for seed in range(3):
        batch = random_batch(seed, device)
        found = centernet_targets(batch, STRIDE, CLASSES).heatmap
        expected = np.stack([naive_heatmap(batch, image) for image in range(4)])
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found.cpu().numpy(), expected, atol=1e-6)
        assert ((expected > 0) & (expected < 1)).any(), "the test needs Gaussians wider than one cell"


# --- losses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objects", ["some", "none valid", "none"])
def test_losses_equal_loops_whatever_the_padding(objects, device):
    batch, outputs = random_batch(0, device), random_outputs(0, device)
    if objects != "some":
        batch = replace(batch, valid=torch.zeros_like(batch.valid))
    if objects == "none":
        batch = replace(batch, **{name: getattr(batch, name)[:, :0] for name in ("boxes", "labels", "valid")})
    found = centernet_losses(outputs, batch)
    assert {name: value.item() for name, value in found.items()} == pytest.approx(
        naive_losses(outputs, batch), rel=1e-5
    )
    torch.testing.assert_close(centernet_losses(outputs, widened(batch)), found)


@pytest.mark.parametrize("scale", [3.0, 200.0])
def test_loss_and_gradient_are_finite_at_any_confidence(scale, device):
    batch = random_batch(6, device)
    outputs = {name: value.requires_grad_() for name, value in random_outputs(6, device, scale=scale).items()}
    loss = centernet_losses(outputs, batch)["loss"]
    loss.backward()
    assert loss.isfinite()
    assert all(value.grad.isfinite().all() for value in outputs.values())
    # A centre missed with certainty still pulls: the clipped loss of the released code would not.
    missed = (centernet_targets(batch, STRIDE, CLASSES).heatmap == 1) & (outputs["heatmap"] < -20)
    assert (outputs["heatmap"].grad[missed] < 0).all()
    assert missed.any() == (scale == 200.0)


def test_losses_are_float32_under_autocast(device):
    batch = random_batch(7, device)
    outputs = {name: value.bfloat16() for name, value in random_outputs(7, device).items()}
    with torch.autocast(device.type, dtype=torch.bfloat16):
        found = centernet_losses(outputs, batch)
    expected = centernet_losses({name: value.float() for name, value in outputs.items()}, batch)
    assert all(value.dtype == torch.float32 for value in found.values())
    torch.testing.assert_close(found, expected)


# --- detections -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("top", "cells"), [(7, (24, 16)), (100, (24, 16)), (100, (3, 4))])
def test_decoding_equals_a_loop_over_cells(top, cells, device):
    outputs = random_outputs(8, device, cells)
    outputs["heatmap"] = (outputs["heatmap"] * 4).round() / 4  # ties, also between neighbours
    found = decode_peaks(outputs, top=top, stride=STRIDE)
    assert found.boxes.shape == (4, top, 4), "few cells are padded"
    for image in range(4):
        # Equal scores at the last place may be cut either way: compare what lies strictly above it.
        expected = naive_decode(outputs, image, top)
        last = expected[-1][0] if len(expected) == top else 0.0
        scores, labels, boxes = zip(*(each for each in expected if each[0] > last + 1e-9), strict=True)
        above = len(scores)
        np.testing.assert_allclose(found.scores[image, :above].cpu(), scores, rtol=1e-5)
        assert found.labels[image, :above].tolist() == list(labels)
        np.testing.assert_allclose(found.boxes[image, :above].cpu(), boxes, atol=1e-3)
        assert found.valid[image].tolist() == [place < len(expected) for place in range(top)]


def separate_objects() -> Batch:
    """Two images with three objects each, on cells of their own."""
    boxes = torch.tensor(
        [[[3.0, 5, 21, 30], [40.5, 8, 60, 20], [10, 50, 50, 93]], [[0, 0, 9, 9], [30, 30, 64, 96], [1, 60, 20, 71]]]
    )
    images = torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[0, 1, 4], [2, 2, 3]])
    return Batch(images, boxes, labels, labels >= 0, torch.arange(2), torch.tensor([[96, 64]] * 2))


# --- network ----------------------------------------------------------------------------------------------------------


def test_two_images_are_learnt_by_heart(device):
    batch, network = separate_objects().to(device), small_network(elastic=False).to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    for step in range(60):
        optimiser.param_groups[0]["lr"] = 1e-2 * min(1, (60 - step) / 30)
        loss = centernet_losses(network(batch.images), batch)["loss"]
        optimiser.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
        optimiser.step()
    found = network.eval().detect(batch.images)
    for image in range(2):
        place = box_iou(batch.boxes[image], found.boxes[image, :3]).max(dim=1)
        assert (place.values > 0.5).all()
        assert torch.equal(found.labels[image, place.indices], batch.labels[image])


@pytest.mark.parametrize(
    ("strides", "neck_widths", "stride"),
    [((1, 2, 1, 1), (8,), 4), ((1, 2, 2, 2), (8, 8, 8), 4), ((1, 2, 2, 1), (8, 8), 4), ((1, 2, 2, 1), (8,), 8)],
)
def test_maps_and_detections_follow_backbone_and_neck_for_each_image(strides, neck_widths, stride, device):
    network = small_network(strides, neck_widths).to(device).eval()
    images = torch.randn(2, 3, 64, 96, device=device)
    outputs, cells = network(images), (64 // stride, 96 // stride)
    assert {name: maps.shape for name, maps in outputs.items()} == {
        name: (2, channels, *cells) for name, channels in (("heatmap", CLASSES), ("size", 2), ("offset", 2))
    }
    assert outputs["heatmap"].sigmoid().mean().item() == pytest.approx(0.1, abs=0.03)
    alone = [network(image.unsqueeze(0)) for image in images]
    for name, maps in outputs.items():
        torch.testing.assert_close(maps, torch.cat([each[name] for each in alone]), atol=1e-5, rtol=1e-4)
    found, expected = network.detect(images), decode_peaks(outputs, stride=stride)
    assert found.boxes.shape == (2, 100, 4)
    assert not found.boxes.requires_grad
    torch.testing.assert_close(found.boxes, expected.boxes)


def test_published_neck_and_heads_have_their_parameters():
    backbone = ResNet(THIN.architecture(THIN.largest()))
    backbone.out_channels, backbone.stride = (8, 8, 16, 512), 32
    neck = 512 * 256 * 16 + 2 * 256 * 256 * 16 + 3 * 2 * 256
    heads = 3 * (256 * 64 * 9 + 64) + 65 * (80 + 2 + 2)
    parameters = CenterNet(backbone, 80).named_parameters()
    assert sum(p.numel() for name, p in parameters if not name.startswith("backbone")) == neck + heads


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match=r"100x96 pixels.*multiples of 32"):
        small_network()(torch.zeros(1, 3, 96, 100))
    for neck_widths in ((), (8, 8, 8, 8)):
        with pytest.raises(InputError, match=r"neck of . transposed convolutions does not fit a backbone of stride 8"):
            small_network(neck_widths=neck_widths)
    with pytest.raises(InputError, match="at least 1 class apart, got 0"):
        CenterNet(OFAResNet(THIN), 0, (8,))


@pytest.mark.parametrize("training", [False, True])
def test_extraction_equals_the_active_sub_network_to_the_bit(training, device):
    net = small_network().to(device)
    images = torch.randn(2, 3, 64, 64, device=device)
    for path in [*THIN.sample(3, np.random.default_rng(0)), THIN.smallest(), THIN.largest()]:
        net.train(training)
        plain = net.extract(path)
        assert isinstance(plain.backbone, ResNet)
        assert plain.training == training
        net.activate(path)
        with torch.no_grad():
            expected, found = net(images), plain(images)
        assert all(torch.equal(expected[name], found[name]) for name in expected)
        # copies: what is done to the extracted net never reaches the supernet
        assert plain.neck[0].weight.data_ptr() != net.neck[0].weight.data_ptr()


def test_sorting_channels_leaves_the_full_function():
    net, images = small_network().eval(), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        before, neck = net(images), net.neck[0].weight.clone()
        net.sort_channels()
        torch.testing.assert_close(net(images), before, atol=1e-5, rtol=1e-5)
    assert not torch.equal(net.neck[0].weight, neck)
