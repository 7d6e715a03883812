"""A found detector as deformable cascade: what it starts as, how it is trained, and that it comes back from disk."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from common.cli import run
from common.cost import count
from common.models.boxes import decode
from common.models.deformable import DeformableConv2d
from common.models.detector import load_detector, save_detector
from common.models.roi_head import CASCADE
from common.models.two_stage import two_stage_losses
from common.plain import InputError
from common.settings import Optimisation
from common.train import loop
from common.train.run_folder import Run
from joint_detnas import train
from joint_detnas.cascade import CascadeSettings, cascade_losses, with_cascade_and_deformable
from joint_detnas.distillation import DistillationSettings, RegionAdapter, taught_by
from joint_detnas.presets import PRESETS
from joint_detnas.students import FREE_WIDTHS, StudentBackbone, as_student
from joint_detnas.study import Study
from joint_detnas.train import TrainCommand
from joint_detnas.trial import read_base

FAMILIES = tuple(FREE_WIDTHS)
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


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["batch", "frozen", "group-ws"])
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
    deformable = with_cascade_and_deformable(found, replace(SETTINGS, later_stages=()))
    assert len(deformable.roi.heads) == 1
    torch.testing.assert_close(deformable.detect(images).boxes, found.detect(images).boxes, atol=1e-2, rtol=1e-3)
    cascade = with_cascade_and_deformable(found, replace(SETTINGS, deformable_strides=()))
    assert not any(isinstance(layer, DeformableConv2d) for layer in cascade.modules())
    assert len(cascade.roi.heads) == 3


def test_cost_is_that_of_offsets_and_heads(student_of):
    found = student_of("resnext")
    network = with_cascade_and_deformable(found, SETTINGS)
    size = (64, 64)
    before, after = count(found, size), count(network, size)
    offsets = weights = 0
    cells = {8: 64, 16: 16, 32: 4}
    for number, stride in enumerate(found.backbone.architecture.stage_strides, 1):
        for place in range(len(found.backbone.architecture.stages[number - 1].blocks)):
            if stride in cells:  # 9 weights from each channel to the 18 coordinates of 9 points
                inner = found.backbone.architecture.stages[number - 1].blocks[place].inner[0]
                offsets += 9 * inner * 18 * cells[stride]
                weights += (9 * inner + 1) * 18
    assert after.parts["backbone"]["macs"] - before.parts["backbone"]["macs"] == offsets
    assert after.parts["backbone"]["params"] - before.parts["backbone"]["params"] == weights
    assert after.parts["roi"]["macs"] == 3 * before.parts["roi"]["macs"]
    assert after.parts["roi"]["params"] == 3 * before.parts["roi"]["params"]


def test_what_cannot_be_upgraded_gives_a_sentence(student_of):
    network = with_cascade_and_deformable(student_of("basic"), SETTINGS)
    with pytest.raises(InputError, match="this one has RPN, 3 heads"):
        with_cascade_and_deformable(network, SETTINGS)
    deformable = with_cascade_and_deformable(student_of("basic"), replace(SETTINGS, later_stages=()))
    with pytest.raises(InputError, match="has no deformable convolutions"):
        as_student(deformable)
    with pytest.raises(InputError, match=r"deformable strides \(7,\): a student has stages at \(4, 8, 16, 32\)"):
        replace(SETTINGS, deformable_strides=(7,))
    with pytest.raises(InputError, match=r"deformable \(5,\): the student .* has stages 1 to 4"):
        StudentBackbone(deformable.backbone.architecture, deformable=(5,))


# ---- its training


def taught(network, teacher, batch, settings=None, seed=0):
    """The losses of a step, and the adapter in it."""
    adapter = RegionAdapter(network.fpn.width, teacher.fpn.width).to(batch.images.device)
    generator = torch.Generator(batch.images.device).manual_seed(seed)
    teaching = taught_by(teacher, batch.images)
    return cascade_losses(network(batch.images), batch, teaching, adapter, settings, generator), adapter


@pytest.mark.parametrize("family", FAMILIES)
def test_a_training_step_reaches_everything(family, student_of, detector_of, batch, device):
    network = with_cascade_and_deformable(student_of(family).train(), SETTINGS).to(device)
    teacher = lively(detector_of("bottleneck", width=12)).to(device)
    losses, adapter = taught(network, teacher, batch.to(device))
    losses["loss"].backward()
    parameters = dict(network.named_parameters()) | {f"adapter.{name}": p for name, p in adapter.named_parameters()}
    assert sum(".offset." in name for name in parameters) > 0
    unmoved = [name for name, each in parameters.items() if each.grad is None or not each.grad.abs().sum() > 0]
    assert not unmoved
    assert all(each.grad is None for each in teacher.parameters())


def test_losses_are_those_of_all_heads_and_of_the_teacher(student_of, detector_of, batch):
    network = with_cascade_and_deformable(student_of("basic", "frozen").train(), SETTINGS)
    teacher = lively(detector_of("bottleneck", width=12))
    weights = DistillationSettings(2.0, 3.0, 5.0)
    losses, _ = taught(network, teacher, batch, weights)
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


@pytest.mark.parametrize("family", FAMILIES)
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
    with pytest.raises(InputError, match=r"cannot be upgraded: .* this one has RPN, 3 heads"):
        read_base(file)


def test_a_file_from_before_there_were_deformable_students_loads(student_of, tmp_path):
    found = student_of("basic")
    file = save_detector(tmp_path / "old", found, {"categories": list("abc"), "input_size": 64})
    content = json.loads(file.read_text())
    del content["architecture"]["backbone"]["deformable"]
    file.write_text(json.dumps(content))
    weights = load_detector(file).model.state_dict()
    assert all(torch.equal(each, weights[name]) for name, each in found.state_dict().items())


# ---- the command


def said(capsys, *flags: str) -> str:
    run(train.main, TrainCommand, ("--what", "cascade", *flags))
    return capsys.readouterr().out


def test_the_found_detector_is_upgraded_once(capsys, tiny, data, searched, monkeypatch, steady):
    monkeypatch.setitem(PRESETS, "smoke", tiny)
    flags = ["--device", "cpu", "--data", data, "--out", str(searched)]
    report = json.loads(said(capsys, *flags, "--json"))
    study = Study(tiny, data, 0, searched)
    assert report["found"] == json.loads(json.dumps(study.upgraded()))
    assert report["run"] == str(study.folder / "cascade-resnet18-s0")
    assert report["size"] == list(tiny.base_size)
    detector = load_detector(report["file"])
    found = load_detector(report["found"]["file"]).model
    assert detector.model.backbone.architecture == found.backbone.architecture
    assert detector.model.backbone.deformable == (2, 3, 4)
    assert detector.model.roi.settings.stages == (found.roi.settings.stages[0], *CASCADE[1:3])
    assert detector.description["AP"] == report["AP"]
    assert report["params"] == sum(each.numel() for each in detector.model.parameters())
    assert report["macs_mmdet"] == count(detector.model, tiny.base_size).macs_mmdet
    offsets = [each for name, each in detector.model.named_parameters() if ".offset.weight" in name]
    assert all(each.abs().sum() > 0 for each in offsets), "it was trained"
    losses = Run.read(study.folder / "cascade-resnet18-s0").result["losses"]
    assert {"roi_class", "distil_feature", "distil_class", "distil_box"} <= losses.keys()

    monkeypatch.setattr(loop._Training, "train", lambda *_: pytest.fail("something was trained again"))
    again = json.loads(said(capsys, *flags, "--json"))
    spent = "seconds_of_command"
    assert {k: v for k, v in again.items() if k != spent} == {k: v for k, v in report.items() if k != spent}
    lines = said(capsys, *flags).splitlines()
    assert lines[0].startswith(f"found detector: AP {100 * report['found']['AP']:.1f} at ")
    assert lines[1].startswith(f"cascade: AP {100 * report['AP']:.1f} at 64x32, ")
    assert lines[-1].startswith("next: python -m joint_detnas.train --what cascade")
    assert " --seed 1 " in lines[-1]

    other = replace(tiny, cascade=replace(tiny.cascade, later_stages=CASCADE[1:2]))
    with pytest.raises(InputError, match=r"holds a run with cascade\.later_stages"):
        Study(other, data, 0, searched).cascade()


@pytest.mark.parametrize("scale", list(PRESETS))
def test_it_is_described_without_data(capsys, scale):
    flags = ("--describe", "--scale", scale, "--backbone", "resnext101_32x4d" if scale == "paper" else "resnet18")
    plan = json.loads(said(capsys, *flags, "--json"))
    before, after = plan["cost"]["before"], plan["cost"]["after"]
    heads = after["parts"]["roi"]["macs"] / before["parts"]["roi"]["macs"]
    assert heads == 1 + len(plan["cascade"]["later_stages"]) == 3
    assert before["parts"]["backbone"]["macs"] < after["parts"]["backbone"]["macs"]
    assert before["parts"]["fpn"] == after["parts"]["fpn"]
    if scale == "paper":
        assert plan["training"]["epochs"] == 16
        assert before["params"] == pytest.approx(60.4e6, rel=0.01), "X101-FPN"
    text = said(capsys, *flags)
    assert f"to {after['macs_mmdet'] / 1e9:.4g} G MAC" in text
    assert "3 heads" in text
