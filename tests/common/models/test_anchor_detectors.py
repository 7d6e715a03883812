"""Detectors that start from anchors, two-stage ones and RetinaNet: what every kind of them promises."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from common.batch import Detections
from common.data.batches import DetectionBatches
from common.data.scenes import scenes
from common.evaluate.average_precision import GroundTruth
from common.evaluate.subnetworks import average_precision
from common.models.anchors import Anchors
from common.models.detector import load_detector, save_detector
from common.models.fpn import FPN
from common.models.guided_anchoring import GuidedSettings
from common.models.mobilenet import MobileNetV2
from common.models.norm import Norm
from common.models.resnet import ResNet
from common.models.retinanet import RetinaNet, RetinaNetSettings, retinanet_losses
from common.models.roi_head import RoISettings
from common.models.rpn import RPNSettings
from common.models.two_stage import TwoStage, two_stage_losses
from common.plain import InputError
from tests.common.models.families import CLASSES, SIDE, assert_equal, awake, make_batch, widened

TWO_STAGE_LOSSES = ["rpn_objectness", "rpn_box", "roi_class", "roi_box"]
FEW = {"samples": 64, "candidates": (200, 100), "proposals": (100, 50)}
HEAD = {"samples": 32, "hidden": (32,)}


def thin(inside: Norm | None, mobile: bool = False) -> nn.Module:
    torch.manual_seed(0)
    norm = inside or Norm("group", 4)
    return MobileNetV2(norm, width=0.25) if mobile else ResNet("resnet18", norm, width=8)


def two_stage(
    fpn: bool = True, inside: Norm | None = None, mobile: bool = False, classes: int = CLASSES, **settings
) -> TwoStage:
    """inside: the backbone's norm, and the pyramid's if given."""
    backbone = thin(inside, mobile)
    settings = {"rpn": RPNSettings(**FEW), "roi": RoISettings(**HEAD), **settings}
    return TwoStage(backbone, classes, FPN(backbone.out_channels, width=16, norm=inside) if fpn else None, **settings)


def retinanet(
    fpn: bool = True, inside: Norm | None = None, classes: int = CLASSES, norm: Norm | None = None
) -> RetinaNet:
    backbone = thin(inside)
    pyramid = FPN(backbone.out_channels, 2, 6, 16, extra="conv-on-output") if fpn else None
    return RetinaNet(backbone, classes, pyramid, RetinaNetSettings(depth=1), norm)


def cascade(count: int, **settings) -> RoISettings:
    return replace(RoISettings.cascade(count), **HEAD, **settings)


KINDS = {
    "regular": two_stage,
    "cascade": partial(two_stage, roi=cascade(4)),
    "no pyramid": partial(two_stage, fpn=False),
    "cascade, a box a class": partial(two_stage, roi=cascade(3, class_specific=True)),
    "cascade, no pyramid": partial(two_stage, fpn=False, roi=cascade(2)),
    "mobilenet, no pyramid": partial(two_stage, fpn=False, mobile=True),
    "guided": partial(two_stage, rpn=GuidedSettings(**FEW, least_location=0.0)),
    "group norm": partial(two_stage, norm=Norm("group-ws", 8)),
    "retinanet": retinanet,
    "retinanet, no pyramid": partial(retinanet, fpn=False),
    "retinanet, group norm": partial(retinanet, norm=Norm("group-ws", 8)),
}
every_kind = pytest.mark.parametrize("kind", KINDS)
every_path = pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith("mobilenet")])
"""A MobileNet differs from a ResNet without a pyramid in its weights alone, not in what becomes of its features."""


def losses_of(network: nn.Module, batch) -> dict[str, Tensor]:
    return (two_stage_losses if isinstance(network, TwoStage) else retinanet_losses)(network(batch.images), batch)


def lively(network: nn.Module) -> nn.Module:
    """Heads that answer, so that scores and boxes differ from place to place."""
    torch.manual_seed(1)
    if isinstance(network, TwoStage):
        deviations = {network.rpn.objectness: 0.3, network.rpn.codes: 0.05}
        for head in network.roi.heads:
            deviations |= {head.classes: 1.0, head.codes: 0.3}
    else:
        deviations = {network.classes.last: 1.0, network.codes.last: 0.3}
    for layer, deviation in deviations.items():
        nn.init.normal_(layer.weight, std=deviation)
    return network.eval()


# --- training ---------------------------------------------------------------------------------------------------------


@every_kind
def test_losses_reach_every_weight(kind, device):
    network, batch = awake(KINDS[kind]()).to(device), make_batch().to(device)
    names = ["class", "box"]
    if isinstance(network, TwoStage):
        network.rpn.settings = replace(network.rpn.settings, samples=10**6)  # anchors of all levels
        names = ["rpn_location", "rpn_shape", *TWO_STAGE_LOSSES] if kind == "guided" else TWO_STAGE_LOSSES
    losses = losses_of(network, batch)
    assert list(losses) == ["loss", *names]
    assert all(value.dtype == torch.float32 and value > 0 for value in losses.values())
    torch.testing.assert_close(losses["loss"], sum(losses[name] for name in names))
    losses["loss"].backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(("build", "last"), [(TwoStage, 2), (RetinaNet, 3), (TwoStage, 4)])
def test_stages_that_no_level_reads_are_not_there(build, last, tmp_path):
    backbone = thin(None)
    network = awake(build(backbone, 1, FPN(backbone.out_channels, 1, last, 16)))
    assert len(network.backbone.stages) == last
    losses_of(network, make_batch(classes=1))["loss"].backward()
    assert all(parameter.grad.any() for parameter in network.backbone.parameters())
    path = save_detector(tmp_path / "best", network, {"categories": ["a"], "input_size": 64})
    images = make_batch().images
    assert_equal(load_detector(path).model.detect(images), network.eval().detect(images))


@pytest.mark.parametrize("norm", [None, Norm("group-ws", 8)])
def test_first_weights_and_the_probabilities_that_they_give(norm):
    network = retinanet(norm=norm)
    hidden = network.classes.hidden[0] if norm is None else network.classes.hidden[0][0]
    for layer in (hidden, network.codes.last):
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.1)
    lateral = network.fpn.laterals[0].weight
    assert lateral.std().item() == pytest.approx(lateral.shape[1] ** -0.5, rel=0.1)
    images = make_batch().images
    assert network(images).logits.sigmoid().mean().item() == pytest.approx(0.01, rel=0.1)
    guided = KINDS["guided"]()
    assert guided(images).rpn["location"].sigmoid().mean().item() == pytest.approx(0.01, rel=0.1)
    assert guided.rpn.deviations == (0.07, 0.07, 0.11, 0.11), "as released"


@pytest.mark.parametrize(("kind", "objects"), [("regular", 0), *((kind, 3) for kind in KINDS if "mobile" not in kind)])
def test_batch_without_objects_trains(kind, objects):
    network = KINDS[kind](classes=1)
    batch = make_batch(objects=objects, classes=1)
    losses = losses_of(network, replace(batch, valid=batch.valid & False))
    losses["loss"].backward()
    assert all((value == 0) == name.endswith("box") for name, value in losses.items() if name != "rpn_shape")
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("kind", ["regular", "cascade", "retinanet"])
def test_losses_do_not_depend_on_padding(kind):
    network, batch = KINDS[kind](), make_batch()
    if kind != "retinanet":  # all candidates are taken, so that nothing depends on the draw
        for part in (network.rpn, network.roi):
            part.settings = replace(part.settings, samples=10**6, positive_share=1.0)
    torch.testing.assert_close(losses_of(network, widened(batch)), losses_of(network, batch))


@pytest.mark.parametrize(
    "kind", ["cascade, a box a class", "cascade, no pyramid", "guided", "group norm", "retinanet"]
)  # the others are made of their parts
def test_a_training_step_looks_at_no_value(kind):
    """Meta tensors have shapes only: whatever waits for a value of the device would fail on them."""
    network, batch = KINDS[kind]().to("meta"), make_batch().to("meta")
    losses_of(network, batch)["loss"].backward()
    assert network.eval().detect(batch.images).boxes.shape == (2, 100, 4)


@pytest.mark.parametrize(
    ("kind", "inside"),
    [
        *((kind, None) for kind in ("regular", "cascade, a box a class", "no pyramid", "guided", "retinanet")),
        *(("regular", norm) for norm in ("batch", "frozen", "group", "group-ws")),
        *(("no pyramid", "frozen"), ("guided", "group-ws"), ("retinanet", "group-ws")),
    ],
)
def test_training_and_detection_under_autocast(kind, inside, device):
    norm = None if inside is None else Norm(inside, 8)
    settings = {} if norm is None else {"inside": norm, "norm": norm}
    network, batch = KINDS[kind](**settings).to(device), make_batch().to(device)
    # twice as wide: torch leaves rubbish in a CPU's bfloat16 gradient where a convolution of stride 2 reads one cell
    batch = replace(batch, images=torch.cat([batch.images, batch.images], dim=-1))
    with torch.autocast(device.type, dtype=torch.bfloat16):
        losses = losses_of(network, batch)
    losses["loss"].backward()
    assert all(value.dtype == torch.float32 and value.isfinite() for value in losses.values())
    for name, parameter in network.named_parameters():
        # a weight that autocast remembered from a pass without gradients would have none
        assert parameter.grad is not None or "backbone" in name or "fpn" in name, name
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    with torch.autocast(device.type, dtype=torch.bfloat16):
        found = lively(network).detect(batch.images)
    assert found.boxes.dtype == found.scores.dtype == torch.float32
    assert found.valid.any()
    assert found.boxes.isfinite().all()
    assert found.scores.isfinite().all()


@every_path
@pytest.mark.parametrize("size", [(45, 62), (5, 3)])
def test_sizes_that_no_stride_divides(kind, size):
    network, batch = KINDS[kind](), make_batch()
    batch = replace(batch, images=batch.images[..., : size[0], : size[1]].contiguous())  # objects lie beyond, too
    losses = losses_of(network, batch)
    losses["loss"].backward()
    assert losses["loss"].isfinite()
    found = lively(network).detect(batch.images)
    assert found.boxes.shape == (2, 100, 4)
    assert (found.boxes <= found.boxes.new_tensor([size[1], size[0]] * 2)).all()


@every_path
def test_a_diverged_network_says_so(kind, device):
    """Its losses and detections are not finite, so that a search can record it; nothing is read out of bounds."""
    network, batch = KINDS[kind]().to(device), make_batch().to(device)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(torch.nan)
    assert losses_of(network, batch)["loss"].isnan()
    found = network.eval().detect(batch.images)
    assert not (found.boxes.isfinite().all() and found.scores.isfinite().all())


# --- detections -------------------------------------------------------------------------------------------------------


@every_kind
def test_detections_keep_the_rules_alone_in_a_batch_and_from_a_file(kind, device, tmp_path):
    network, images = lively(KINDS[kind]()).to(device), make_batch(images=3).images.to(device)
    found = network.detect(images)
    saved = save_detector(tmp_path / "best", network, {"categories": ["a", "b", "c"], "input_size": 64})
    loaded = load_detector(saved, device).model
    assert loaded.config() == network.config()
    assert_equal(loaded.detect(images), found)
    alone = Detections.cat([network.detect(image.unsqueeze(0)) for image in images])
    torch.testing.assert_close(found.scores, alone.scores, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found.boxes, alone.boxes, atol=2e-3, rtol=1e-3)
    assert torch.equal(found.labels, alone.labels)
    assert torch.equal(found.valid, alone.valid)
    assert found.boxes.shape == (3, 100, 4)
    assert found.valid.any(dim=1).all()
    assert (found.scores.diff(dim=1) <= 0).all()
    assert (found.scores[found.valid] > 0.05).all()
    assert ((found.boxes >= 0) & (found.boxes <= SIDE)).all()
    assert (found.boxes[~found.valid] == 0).all()
    for boxes, labels, valid in zip(found.boxes, found.labels, found.valid, strict=True):
        overlaps = box_iou(boxes[valid], boxes[valid]).triu(1)
        assert not (overlaps[labels[valid, None] == labels[valid]] > 0.5).any()


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (lambda: RoISettings.cascade(5), "2 to 4"),
        (lambda: RoISettings(stages=()), "at least one head"),
        (lambda: two_stage(classes=0), "at least 1 class apart, got 0"),
        (lambda: retinanet(classes=0), "at least 1 class apart, got 0"),
        (lambda: TwoStage(SimpleNamespace(out_channels=(8,)), 3, None), "can be taken out"),
    ],
)
def test_bad_settings_give_a_sentence(bad, says):
    with pytest.raises(InputError, match=says):
        bad()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [TwoStage, RetinaNet])
def test_four_images_of_the_built_in_set_are_learnt_by_heart(kind):
    dataset, strides = scenes("train", 4, 96), (4, 8, 16, 32)
    batches = list(DetectionBatches(dataset, 96, 4).in_order())
    torch.manual_seed(0)
    backbone = ResNet("resnet18", Norm("group", 8), width=16)
    rpn = RPNSettings(anchors=Anchors.octaves(strides, 4), candidates=(300, 300), proposals=(200, 100))
    two_stage_parts = rpn, RoISettings(samples=64, hidden=(128,))
    parts = two_stage_parts if kind is TwoStage else (RetinaNetSettings(Anchors.octaves(strides, 3, 2), depth=1),)
    network = kind(backbone, len(dataset.categories), FPN(backbone.out_channels, 1, 4, 32), *parts).train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3)
    for step in range(200):
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * min(1, (step + 1) / 20, (200 - step) / 60)
        optimiser.zero_grad()
        losses_of(network, batches[0])["loss"].backward()
        nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimiser.step()
    assert average_precision(network, batches, GroundTruth(dataset))["AP50"] > 0.8
