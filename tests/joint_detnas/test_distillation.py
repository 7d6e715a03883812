"""Distillation and feature imitation against loops over images and regions; whom they move, and where they lead."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.ops import box_iou

from common.models.fpn import FPN
from common.models.resnet import ResNet
from common.models.roi_head import Regions, RoISettings
from common.models.two_stage import RegionOutputs, TwoStage, look_at, two_stage_losses
from common.plain import InputError
from joint_detnas.baselines import Imitator, imitated_losses, imitation_loss, near_objects
from joint_detnas.method import (
    RegionAdapter,
    build_teacher,
    described,
    distillation_losses,
    distilled_losses,
    feature_loss,
    prediction_losses,
    taught_by,
    teacher_maps,
)
from joint_detnas.presets import DistillationSettings, ImitationSettings
from tests.common.models.families import CLASSES, ROI, RPN, make_batch
from tests.joint_detnas.thin_pool import SPACE, make_pool

PARTS = {"distil_feature", "distil_class", "distil_box"}
DETECTION = {"rpn_objectness", "rpn_box", "roi_class", "roi_box"}


def _regions(seed: int, channels: int, device, B: int = 2, S: int = 6, P: int = 4, K: int = 3) -> RegionOutputs:
    generator = torch.Generator().manual_seed(seed)
    shapes = (B, S, P, channels), (B, S, K + 1), (B, S, K, 4)
    return RegionOutputs(*(2 * torch.randn(shape, generator=generator).to(device) for shape in shapes))


def _adapter(student: int, teacher: int, device) -> RegionAdapter:
    torch.manual_seed(7)
    adapter = RegionAdapter(student, teacher).to(device)
    torch.nn.init.normal_(adapter.weight)
    torch.nn.init.normal_(adapter.bias)
    return adapter


def _generator(device, seed: int = 3) -> torch.Generator:
    return torch.Generator(device=device).manual_seed(seed)


# ---- the losses by themselves


def test_the_feature_loss_equals_a_loop_over_regions_and_cells(device):
    student, teacher, adapter = _regions(0, 5, device), _regions(1, 7, device), _adapter(5, 7, device)
    positive = torch.tensor([[1, 1, 0, 0, 0, 0], [1, 0, 0, 1, 0, 0]], dtype=torch.bool, device=device)
    total, points = 0.0, 0
    for image in range(2):
        for region in range(6):
            if positive[image, region]:
                for cell in range(4):
                    adapted = adapter.weight @ student.features[image, region, cell] + adapter.bias
                    total += ((adapted - teacher.features[image, region, cell]) ** 2).sum().item()
                    points += 1
    found = feature_loss(student.features, teacher.features, positive, adapter)
    assert found.item() == pytest.approx(total / points, rel=1e-4)
    squares = sum(float(cell.square().sum()) for cell in teacher.features[positive].flatten(0, 1))
    relative = feature_loss(student.features, teacher.features, positive, adapter, relative=True)
    assert relative.item() == pytest.approx(total / squares, rel=1e-4)
    assert feature_loss(student.features, teacher.features, positive & False, adapter).item() == 0


def test_the_prediction_losses_equal_a_loop_over_regions_and_classes(device):
    student, teacher = _regions(2, 1, device), _regions(3, 1, device)
    valid = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0]], dtype=torch.bool, device=device)
    entropy = distance = 0.0
    for image in range(2):
        for region in range(6):
            if not valid[image, region]:
                continue
            q, p = ([math.exp(x) for x in each.logits[image, region].tolist()] for each in (student, teacher))
            q, p = [x / sum(q) for x in q], [x / sum(p) for x in p]
            entropy += sum(b * (math.log(b) - math.log(a)) for a, b in zip(q, p, strict=True))
            own, other = (each.codes[image, region].tolist() for each in (student, teacher))
            for side in range(4):
                distance += abs(sum(p[c] * (other[c][side] - own[c][side]) for c in range(3)))
    found = prediction_losses(student, teacher, valid)
    assert found["distil_class"].item() == pytest.approx(entropy / 8, rel=1e-4)
    assert found["distil_box"].item() == pytest.approx(distance / 8, rel=1e-4)
    nothing = prediction_losses(student, teacher, valid & False)
    assert all(value.item() == 0 for value in nothing.values())


def test_features_are_compared_as_far_as_there_may_be_positives(device):
    student, teacher, adapter = _regions(0, 5, device), _regions(1, 5, device), _adapter(5, 5, device)
    flags = torch.arange(6, device=device).expand(2, 6)
    nothing = torch.zeros(2, 6, 4, device=device)
    regions = Regions(nothing, nothing, flags, flags < 2, flags < 5, flags < 0)
    settings, roi = DistillationSettings(2.0, 3.0, 5.0), RoISettings(samples=12)  # of which 3 may be positive
    total, found = distillation_losses(student, teacher, regions, adapter, roi, settings)
    whole = feature_loss(student.features, teacher.features, regions.positive, adapter)
    torch.testing.assert_close(found["distil_feature"], whole)
    assert found.keys() == PARTS
    added = 2 * found["distil_feature"] + 3 * found["distil_class"] + 5 * found["distil_box"]
    torch.testing.assert_close(total, added)
    changed = replace(student, features=student.features.clone())
    changed.features[:, 3:] = torch.nan
    _, again = distillation_losses(changed, teacher, regions, adapter, roi, settings)
    assert torch.equal(again["distil_feature"], found["distil_feature"])


def test_the_adapter_serves_narrower_students_and_teachers(device):
    adapter = _adapter(6, 8, device)
    features = torch.randn(2, 3, 4, 5, device=device, requires_grad=True)
    adapted = adapter(features, 7)
    expected = torch.einsum("bspc,oc->bspo", features, adapter.weight[:7, :5]) + adapter.bias[:7]
    torch.testing.assert_close(adapted, expected)
    adapted.sum().backward()
    assert adapter.weight.grad[:7, :5].abs().min() > 0
    assert adapter.weight.grad[7:].abs().sum() == adapter.weight.grad[:, 5:].abs().sum() == 0
    adapter.reset_parameters()
    torch.testing.assert_close(adapter(features, 7)[..., :5], features)
    assert adapter(features, 7)[..., 5:].abs().sum() == 0


# ---- whole detectors


@pytest.fixture
def batch(device):
    return make_batch().to(device)


@pytest.fixture
def student(device):
    """The smallest teacher's architecture, with fresh weights."""
    torch.manual_seed(11)
    network = build_teacher(SPACE, SPACE.smallest(), CLASSES, RPN, ROI)
    torch.nn.init.normal_(network.roi.heads[0].codes.weight, std=0.3)
    return network.to(device)


@pytest.fixture
def teacher(batch, device):
    return make_pool().to(device).ready(SPACE.largest(), [batch.images])


def _adapter_between(student, teacher) -> RegionAdapter:
    widths = student.fpn.out_channels[0], teacher.fpn.out_channels[0]
    return RegionAdapter(*widths).to(next(student.parameters()).device)


def test_the_adapter_can_begin_as_the_least_squares_map(student, teacher, batch):
    adapter, device = (
        RegionAdapter(student.fpn.width, teacher.fpn.width + 3).to(batch.images.device),
        batch.images.device,
    )
    before = {name: each.clone() for name, each in student.state_dict().items()}
    adapter.fit_features(student.train(), teacher, [batch, batch])
    assert student.training
    assert all(torch.equal(each, before[name]) for name, each in student.state_dict().items())
    student.eval()
    sides = []
    for network in (student, teacher):
        maps = network.fpn(network.backbone(batch.images))
        cells = look_at(network, maps, batch.boxes).features[batch.valid].flatten(0, 1)
        sides.append(cells.detach().double().cpu().numpy())
    inputs = np.concatenate([sides[0], np.ones((len(sides[0]), 1))], axis=1)
    best = inputs @ np.linalg.lstsq(inputs, sides[1], rcond=None)[0]
    found = adapter(torch.from_numpy(sides[0]).float().to(device), teacher.fpn.width).detach().cpu().numpy()
    errors = [np.square(each - sides[1]).sum() for each in (best, found, 0 * best)]
    assert errors[1] == pytest.approx(errors[0], rel=1e-2)
    assert errors[1] < errors[2]
    assert torch.equal(adapter.weight[-3:], torch.eye(teacher.fpn.width + 3, student.fpn.width).to(device)[-3:])
    fitted = {name: each.clone() for name, each in adapter.state_dict().items()}
    adapter.fit_features(
        student, teacher, [replace(batch, valid=batch.valid & False), make_batch(objects=0).to(device)]
    )
    assert all(torch.equal(each, fitted[name]) for name, each in adapter.state_dict().items()), "nothing to fit to"


def test_detection_losses_are_those_without_a_teacher(student, teacher, batch, device):
    outputs = student(batch.images)
    plain = two_stage_losses(outputs, batch, _generator(device))
    settings = DistillationSettings(2.0, 3.0, 5.0)
    adapter = _adapter_between(student, teacher)
    found = distilled_losses(outputs, batch, taught_by(teacher, batch.images), adapter, settings, _generator(device))
    assert found.keys() == {"loss"} | DETECTION | PARTS
    for name in DETECTION:
        torch.testing.assert_close(found[name], plain[name])
    assert all(found[name] > 0 for name in PARTS)
    total = plain["loss"] + 2 * found["distil_feature"] + 3 * found["distil_class"] + 5 * found["distil_box"]
    torch.testing.assert_close(found["loss"], total)
    assert all(value.dtype == torch.float32 and value.shape == () for value in found.values())


def test_a_student_equal_to_its_teacher_has_nothing_to_learn(teacher, batch, device):
    adapter = _adapter_between(teacher, teacher)
    found = distilled_losses(teacher(batch.images), batch, taught_by(teacher, batch.images), adapter)
    for name in PARTS:
        assert found[name].item() == pytest.approx(0, abs=1e-5), name
    assert found["roi_class"] > 0


def test_gradients_reach_the_student_and_the_adapter_only(student, teacher, batch):
    adapter = _adapter_between(student, teacher)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    teacher.requires_grad_(True)
    losses = distilled_losses(student(batch.images), batch, taught_by(teacher, batch.images), adapter)
    sum(losses[name] for name in PARTS).backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    for part in (adapter, student.backbone, student.fpn, student.roi):
        assert all(parameter.grad is not None for parameter in part.parameters())
        assert sum(parameter.grad.abs().sum() for parameter in part.parameters()) > 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())


def test_images_without_objects_teach_through_their_background(student, teacher, device):
    batch = make_batch(objects=0).to(device)
    losses = distilled_losses(
        student(batch.images), batch, taught_by(teacher, batch.images), _adapter_between(student, teacher)
    )
    assert all(value.isfinite() for value in losses.values())
    assert losses["distil_feature"] == losses["roi_box"] == 0
    assert losses["distil_class"] > 0
    losses["loss"].backward()
    assert all(each.grad.isfinite().all() for each in student.parameters() if each.grad is not None)


def test_half_precision_gives_about_the_same_losses_and_all_gradients(student, teacher, batch, device):
    adapter = _adapter_between(student, teacher)
    found = []
    for enabled in (False, True):
        student.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
            outputs = student(batch.images)
            losses = distilled_losses(
                outputs, batch, taught_by(teacher, batch.images), adapter, generator=_generator(device)
            )
        losses["loss"].backward()
        found.append({name: value.item() for name, value in losses.items()})
        assert all(value.dtype == torch.float32 for value in losses.values())
        assert all(parameter.grad is not None for parameter in student.parameters())
    # other proposals come first where rounding differs, so the regions are not quite the same
    assert found[1] == pytest.approx(found[0], rel=0.3, abs=0.05)


def test_a_teacher_in_training_is_refused(student, teacher, batch):
    with pytest.raises(ValueError, match="call eval"):
        taught_by(teacher.train(), batch.images)


def test_cascades_and_detectors_without_a_pyramid_are_refused(teacher, batch):
    backbone = ResNet("resnet18", width=8)
    cascade = TwoStage(backbone, CLASSES, FPN(backbone.out_channels, width=16), RPN, RoISettings.cascade(2))
    with pytest.raises(InputError, match="2 heads"):
        taught_by(cascade.eval(), batch.images)
    with pytest.raises(InputError, match="no pyramid"):
        taught_by(TwoStage(ResNet("resnet18", width=8), CLASSES, None).eval(), batch.images)


# ---- Table 3: fine-grained feature imitation


def test_near_objects_equals_a_loop_over_objects_and_anchors(device):
    generator = torch.Generator().manual_seed(4)
    corner = torch.rand(20, 2, generator=generator) * 40
    anchors = torch.cat([corner, corner + 12], dim=1).to(device)
    batch = make_batch(4).to(device)
    boxes = batch.boxes.clone()
    boxes[1, 1] += 1000  # an object that no anchor overlaps
    settings = ImitationSettings(factor=0.6)
    found = near_objects(anchors, boxes, batch.valid, settings)
    expected = torch.zeros(2, 20, dtype=torch.bool)
    for image in range(2):
        for box, valid in zip(boxes[image], batch.valid[image].tolist(), strict=True):
            overlaps = box_iou(box[None], anchors)[0].tolist()
            for anchor in range(20):
                expected[image, anchor] |= valid and overlaps[anchor] > 0.6 * max(overlaps)
    assert torch.equal(found.cpu(), expected)
    assert 0 < expected.sum() < expected.numel()


def test_the_imitation_loss_equals_a_loop_over_cells(device):
    torch.manual_seed(0)
    adapter = nn.Conv2d(3, 5, 3, padding=1).to(device)
    student = [torch.randn(2, 3, side, side, device=device) for side in (4, 2)]
    teacher = [torch.randn(2, 5, side, side, device=device) for side in (4, 2)]
    near = [torch.rand(2, side, side, device=device) < 0.4 for side in (4, 2)]
    total, count = 0.0, 0
    for own, other, mask in zip(student, teacher, near, strict=True):
        adapted = adapter(own)
        for image, y, x in mask.nonzero().tolist():
            total += ((adapted[image, :, y, x] - other[image, :, y, x]) ** 2).sum().item()
            count += 1
    assert imitation_loss(student, teacher, near, adapter).item() == pytest.approx(total / (2 * count), rel=1e-4)
    assert imitation_loss(student, teacher, [mask & False for mask in near], adapter).item() == 0


def test_imitation_stands_beside_the_detection_losses_and_learns(student, teacher, batch, device):
    adapter = Imitator(student, teacher.fpn.width).adapter.to(device)
    optimiser = torch.optim.Adam([*student.parameters(), *adapter.parameters()], lr=3e-3)
    maps = teacher_maps(teacher, batch.images)
    history = []
    for step in range(6):
        outputs = student(batch.images)
        losses = imitated_losses(outputs, batch, maps, adapter, generator=_generator(device))
        if step == 0:
            plain = two_stage_losses(outputs, batch, _generator(device))
            assert losses.keys() == {"loss", "imitation"} | {"rpn_objectness", "rpn_box", "roi_class", "roi_box"}
            torch.testing.assert_close(losses["loss"], plain["loss"] + 0.01 * losses["imitation"])
        optimiser.zero_grad()
        losses["loss"].backward()
        optimiser.step()
        history.append(losses["imitation"].item())
    assert history[-1] < 0.8 * history[0]
    assert adapter.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_cell_that_matters_is_one_near_an_object(student, teacher, batch):
    """The loss reads the teacher's maps at masked cells only, laid out as the anchors are."""
    adapter = Imitator(student, teacher.fpn.width).adapter.to(batch.images.device)
    outputs = student(batch.images)
    maps = [each.clone().requires_grad_() for each in teacher_maps(teacher, batch.images)]
    imitated_losses(outputs, batch, maps, adapter)["loss"].backward()
    settings = ImitationSettings()
    anchors = outputs.rpn["anchors"]
    start = 0
    overlaps = [box_iou(boxes[valid], anchors) for boxes, valid in zip(batch.boxes, batch.valid, strict=True)]
    for each in maps:
        rows, columns = each.shape[2:]
        for image in range(2):
            touched = each.grad[image].abs().sum(0) > 0
            for y in range(rows):
                for x in range(columns):
                    first = start + (y * columns + x) * 3
                    mine = overlaps[image][:, first : first + 3].amax(1)
                    near = bool((mine > settings.factor * overlaps[image].amax(1)).any())
                    assert near == bool(touched[y, x])
        start += rows * columns * 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="waiting for a device can be seen on a GPU only")
def test_nothing_waits_for_the_device():
    batch = make_batch().to("cuda")
    pool = make_pool().to("cuda")
    teacher = pool.ready(SPACE.largest(), [batch.images])
    student = pool.extract(*described(SPACE, SPACE.smallest()))
    adapter, imitator = _adapter_between(student, teacher), Imitator(student, teacher.fpn.width).to("cuda")

    def step() -> None:
        outputs = student(batch.images)
        distilled_losses(outputs, batch, taught_by(teacher, batch.images), adapter)["loss"].backward()
        imitator.losses(batch, teacher)

    step()  # constants are made once
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
