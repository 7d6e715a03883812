"""A found detector as deformable cascade."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from common.models.boxes import decode
from common.models.deformable import DeformableConv2d
from common.models.described import as_described
from common.models.detector import load_detector, save_detector
from common.models.two_stage import two_stage_losses
from common.plain import InputError
from common.settings import Optimisation
from joint_detnas.baselines import cascade_losses, with_cascade_and_deformable
from joint_detnas.method import RegionAdapter, taught_by
from joint_detnas.presets import CascadeSettings, DistillationSettings
from tests.common.models.families import FAMILIES, thin_detector

# ---- Table 6: the deformable cascade

SETTINGS = CascadeSettings(Optimisation(epochs=1))


def lively(detector):
    """Heads that answer, so that scores and boxes differ from place to place."""
    torch.manual_seed(1)
    for layer, deviation in ((detector.rpn.objectness, 0.3), (detector.rpn.codes, 0.05)):
        nn.init.normal_(layer.weight, std=deviation)
    for head in detector.roi.heads:
        nn.init.normal_(head.classes.weight, std=1.0)
        nn.init.normal_(head.codes.weight, std=0.3)
    return detector.eval()


# ---- what it starts as


@pytest.mark.parametrize(
    ("family", "kind"), [*((family, "batch") for family in FAMILIES), ("basic", "frozen"), ("resnext", "group-ws")]
)
def test_at_first_every_head_says_what_the_found_one_said(family, kind, student_of, images, device):
    found = lively(student_of(family, kind)).to(device)
    network, images = with_cascade_and_deformable(found, SETTINGS), images.to(device)
    assert not network.training
    with torch.no_grad():
        maps, own = found.fpn(found.backbone(images)), network.fpn(network.backbone(images))
        for ours, theirs in zip(own, maps, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
        boxes = found(images).proposals.boxes
        logits, codes = found.roi(maps, boxes)
        said = decode(codes, boxes.unsqueeze(2), found.roi.settings.stages[0].deviations)
        for number, stage in enumerate(network.roi.settings.stages):
            ours, its_codes = network.roi(maps, boxes, number)
            torch.testing.assert_close(ours, logits, atol=1e-4, rtol=1e-4)
            its_boxes = decode(its_codes, boxes.unsqueeze(2), stage.deviations)
            torch.testing.assert_close(its_boxes, said, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(network.roi(maps, boxes)[1], codes)
    assert [stage.overlap for stage in network.roi.settings.stages] == [0.5, 0.6, 0.7]


def test_the_found_detector_stays_as_it_is_and_shares_no_weight(student_of):
    found = student_of("bottleneck")
    before = {name: each.clone() for name, each in found.state_dict().items()}
    network = with_cascade_and_deformable(found, SETTINGS)
    pointers = [each.data_ptr() for each in network.parameters()]
    assert len(set(pointers)) == len(pointers), "the heads are copies"
    for each in network.state_dict().values():
        each.detach().fill_(3)
    assert all(torch.equal(each, before[name]) for name, each in found.state_dict().items())


@pytest.mark.parametrize("family", FAMILIES)
def test_deformable_are_the_3x3_convolutions_at_the_strides_asked_for(family, student_of):
    found = student_of(family)
    network = with_cascade_and_deformable(found, replace(SETTINGS, deformable_strides=(8, 32)))
    strides = found.backbone.architecture.stage_strides
    for number, stride in enumerate(strides, 1):
        for block in getattr(network.backbone, f"stage{number}"):
            there = [layer for layer in block.body if isinstance(layer, DeformableConv2d)]
            assert len(there) == (stride in (8, 32))
            assert all(layer.kernel_size == (3, 3) for layer in there)
            if family == "basic" and there:
                assert block.body[3] is there[0], "the second one"
    assert {8, 32} < set(strides)


def test_either_upgrade_can_be_had_alone(student_of, images):
    found = lively(student_of("basic"))
    deformable = with_cascade_and_deformable(found, replace(SETTINGS, heads=1))
    assert len(deformable.roi.heads) == 1
    torch.testing.assert_close(deformable.detect(images).boxes, found.detect(images).boxes, atol=1e-2, rtol=1e-3)
    cascade = with_cascade_and_deformable(found, replace(SETTINGS, deformable_strides=()))
    assert not any(isinstance(layer, DeformableConv2d) for layer in cascade.modules())
    assert len(cascade.roi.heads) == 3


def test_what_cannot_be_upgraded_gives_a_sentence(student_of):
    network = with_cascade_and_deformable(student_of("basic"), SETTINGS)
    with pytest.raises(InputError, match="this one has RPN, 3 heads"):
        with_cascade_and_deformable(network, SETTINGS)
    deformable = with_cascade_and_deformable(student_of("basic"), replace(SETTINGS, heads=1))
    with pytest.raises(InputError, match="with deformable convolutions cannot be changed"):
        as_described(deformable)


# ---- its training


def taught(network, teacher, batch, weights=(1.0, 1.0, 1.0), seed=0):
    """The losses of a step, and the adapter in it."""
    adapter = RegionAdapter(network.fpn.width, teacher.fpn.width).to(batch.images.device)
    generator = torch.Generator(batch.images.device).manual_seed(seed)
    teaching = taught_by(teacher, batch.images)
    return cascade_losses(
        network(batch.images), batch, teaching, adapter, DistillationSettings(*weights), generator
    ), adapter


@pytest.mark.parametrize("family", FAMILIES)
def test_a_training_step_reaches_everything(family, student_of, batch, device):
    network = with_cascade_and_deformable(student_of(family).train(), SETTINGS).to(device)
    teacher = lively(thin_detector("bottleneck", width=12)).to(device)
    losses, adapter = taught(network, teacher, batch.to(device))
    losses["loss"].backward()
    parameters = dict(network.named_parameters()) | {f"adapter.{name}": p for name, p in adapter.named_parameters()}
    assert sum(".offset." in name for name in parameters) > 0
    unmoved = [name for name, each in parameters.items() if each.grad is None or not each.grad.abs().sum() > 0]
    assert not unmoved
    assert all(each.grad is None for each in teacher.parameters())


def test_losses_are_those_of_all_heads_and_of_the_teacher(student_of, batch):
    network = with_cascade_and_deformable(student_of("basic", "frozen").train(), SETTINGS)
    teacher = lively(thin_detector("bottleneck", width=12))
    losses, _ = taught(network, teacher, batch, (2.0, 3.0, 5.0))
    plain = two_stage_losses(network(batch.images), batch, torch.Generator().manual_seed(0))
    for name in ("rpn_objectness", "rpn_box", "roi_class", "roi_box"):
        torch.testing.assert_close(losses[name], plain[name])
    added = 2 * losses["distil_feature"] + 3 * losses["distil_class"] + 5 * losses["distil_box"]
    assert added > 0
    torch.testing.assert_close(losses["loss"], plain["loss"] + added)


def test_who_knows_as_much_as_the_teacher_learns_nothing_of_it(student_of, batch):
    """The student with copies of the teacher's weights agrees in its first head, features and all."""
    teacher = lively(student_of("basic", "frozen"))
    network = with_cascade_and_deformable(teacher, SETTINGS).train()
    losses, _ = taught(network, teacher, batch)
    for name in ("distil_feature", "distil_class", "distil_box"):
        torch.testing.assert_close(losses[name], torch.tensor(0.0), atol=1e-4, rtol=0)
    assert losses["roi_class"] > 0


# ---- on disk


@pytest.mark.parametrize("family", ["bottleneck", "inverted_residual"])
def test_a_saved_one_finds_the_same(family, student_of, images, tmp_path):
    network = lively(with_cascade_and_deformable(student_of(family), SETTINGS))
    for name, each in network.named_parameters():
        if ".offset." in name:
            nn.init.normal_(each, std=0.2)
    file = save_detector(tmp_path / "cascade", network, {"categories": list("abc"), "input_size": 64})
    loaded = load_detector(file).model
    assert loaded.config() == network.config()
    assert loaded.backbone.description == network.backbone.description
    ours, theirs = loaded.detect(images), network.detect(images)
    assert ours.valid.any()
    for field in ("boxes", "scores", "labels", "valid"):
        assert torch.equal(getattr(ours, field), getattr(theirs, field))
