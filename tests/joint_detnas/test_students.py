"""Students against the standard networks that they describe, and their closed-form cost against a count."""

import json
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import nn

from common.cost import MODELS, count
from common.models.centernet import CenterNet
from common.models.detector import load_detector, save_detector
from common.models.fpn import FPN
from common.models.norm import Norm
from common.models.outline import outline
from common.models.resnet import ResNet
from common.models.two_stage import TwoStage
from common.plain import InputError
from joint_detnas.students import (
    FREE_WIDTHS,
    STRIDES,
    Architecture,
    Block,
    Stage,
    StudentBackbone,
    architecture_of,
    as_student,
)

FAMILIES = tuple(FREE_WIDTHS)
IRREGULAR = {  # what no standard network has: every block is of its own widths
    "basic": Architecture(
        "basic",
        6,
        (
            Stage(6, 1, "identity", (Block((5,)), Block((9,)))),
            Stage(7, 2, "projection", (Block((3,)),)),
            Stage(11, 2, "projection", (Block((4,)), Block((2,)))),
            Stage(9, 2, "projection", (Block((4,)),)),
        ),
    ),
    "bottleneck": Architecture(
        "bottleneck",
        5,
        (
            Stage(10, 1, "projection", (Block((3, 4)), Block((5, 2)))),
            Stage(13, 2, "projection", (Block((4, 7)),)),
            Stage(9, 2, "projection", (Block((4, 1)), Block((2, 3)), Block((3, 3)))),
            Stage(8, 2, "projection", (Block((6, 5)),)),
        ),
    ),
    "resnext": Architecture(
        "resnext",
        5,
        (
            Stage(10, 1, "projection", (Block((12,), 3), Block((8,), 2))),
            Stage(13, 2, "projection", (Block((8,), 1),)),
            Stage(9, 2, "projection", (Block((16,), 4), Block((16,), 2))),
            Stage(8, 2, "projection", (Block((24,), 3),)),
        ),
    ),
    "inverted_residual": Architecture(
        "inverted_residual",
        5,
        (
            Stage(5, 1, "identity", (Block(()), Block((7,)))),
            Stage(6, 2, "plain", (Block((11,)), Block((13,)), Block(()))),
            Stage(7, 2, "plain", (Block((9,)),)),
            Stage(10, 2, "plain", (Block((12,)),)),
            Stage(11, 1, "plain", (Block((8,)), Block((9,)))),
            Stage(9, 2, "plain", (Block(()),)),
        ),
        14,
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["batch", "frozen", "group-ws"])
def test_a_student_is_the_detector_that_it_was_made_of(family, kind, detector_of, images):
    detector = detector_of(family, kind).eval()
    student = as_student(detector)
    assert student.backbone.architecture.family == family
    assert student.backbone.out_channels == detector.backbone.out_channels
    assert (student.backbone.strides, student.backbone.stride) == (STRIDES, 32)
    with torch.no_grad():
        for ours, theirs in zip(student.backbone(images), detector.backbone(images), strict=True):
            torch.testing.assert_close(ours, theirs)
    ours, theirs = student.detect(images), detector.detect(images)
    assert torch.equal(ours.valid, theirs.valid)
    torch.testing.assert_close(ours.boxes, theirs.boxes)
    torch.testing.assert_close(ours.scores, theirs.scores)
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    for tensor in student.state_dict().values():
        tensor.detach().zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in detector.state_dict().items())


@pytest.mark.parametrize("family", FAMILIES)
def test_training_is_the_same_too(family, backbone_of, images):
    backbone = backbone_of(family)
    student = StudentBackbone(architecture_of(backbone))
    student.load_state_dict(dict(zip(student.state_dict(), backbone.state_dict().values(), strict=True)))
    for ours, theirs in zip(student.train()(images), backbone.train()(images), strict=True):
        torch.testing.assert_close(ours, theirs)
    sum(feature.square().mean() for feature in student(images)).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in student.parameters())


@pytest.mark.parametrize("architecture", IRREGULAR.values(), ids=IRREGULAR)
@pytest.mark.parametrize("kind", ["batch", "frozen", "group"])
def test_closed_form_cost_is_the_counted_one(architecture, kind):
    with outline():
        network = StudentBackbone(architecture, Norm(kind, 4))
        whole = nn.Sequential()
        whole.add_module("backbone", network)
        whole.add_module("laterals", _Laterals(nn.Conv2d(channels, 12, 1) for channels in network.out_channels))
    for size in ((64, 64), (75, 41)):
        assert architecture.cost(size, Norm(kind)) == count(network, size)
        counted, closed = count(whole, size), architecture.cost(size, Norm(kind), neck_width=12)
        assert closed.parts["laterals"] == counted.parts["laterals"]
        assert replace(closed, parts={}) == replace(counted, parts={})


class _Laterals(nn.ModuleList):
    """The convolutions by which a pyramid reads a backbone."""

    def forward(self, features):
        return [lateral(feature) for lateral, feature in zip(self, features, strict=True)]


@pytest.mark.parametrize(
    ("name", "size", "giga"),
    [
        ("resnet50", (1280, 800), 84.1),  # Table 2
        ("resnet101", (1280, 800), 160.2),  # Table 2
        ("resnet101", (1080, 720), 122.6),  # Table 5
    ],
)
def test_cost_of_the_papers_base_detectors(name, size, giga):
    assert Architecture.standard(name).cost(size).macs_mmdet == pytest.approx(giga * 1e9, rel=1e-3)


def test_cost_of_a_standard_network_without_building_it():
    with outline():
        detector = MODELS["r18-fpn"]()
    counted = count(detector, (1333, 800)).parts
    closed = Architecture.standard("resnet18").cost((1333, 800), neck_width=256)
    laterals = closed.parts["laterals"]
    assert counted["backbone"]["macs_mmdet"] == closed.macs_mmdet - laterals["macs_mmdet"]
    assert counted["backbone"]["params"] == closed.params - laterals["params"]


@pytest.mark.parametrize("architecture", IRREGULAR.values(), ids=IRREGULAR)
def test_description_builds_the_same_network(architecture, images):
    again = StudentBackbone.from_dict(json.loads(json.dumps(StudentBackbone(architecture, Norm("frozen")).description)))
    assert again.architecture == architecture
    assert again.norm == Norm("frozen")
    features = again.eval()(images)
    assert [tuple(feature.shape) for feature in features] == [
        (2, channels, 64 // stride, 64 // stride)
        for channels, stride in zip(architecture.out_channels, STRIDES, strict=True)
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_on_disk_and_back(family, student_of, images, tmp_path):
    student = student_of(family).eval()
    save_detector(tmp_path / "student", student, {"categories": ["a", "b", "c"], "input_size": 64})
    again = load_detector(tmp_path / "student").model
    assert again.backbone.architecture == student.backbone.architecture
    ours, theirs = again.detect(images), student.detect(images)
    assert torch.equal(ours.boxes, theirs.boxes)
    assert torch.equal(ours.scores, theirs.scores)


@pytest.mark.parametrize("architecture", IRREGULAR.values(), ids=IRREGULAR)
def test_tied_channels_hold_every_tensor_once(architecture):
    with outline():
        modules = dict(StudentBackbone(architecture).named_modules())
    held = Counter()
    for channels in architecture.channel_sets():
        assert channels.channels % channels.granule == 0
        for name in channels.rows:
            held[name, 0] += 1
            assert modules[name].out_channels == channels.channels
        for name in channels.columns:
            held[name, 1] += 1
            assert modules[name].in_channels == channels.channels
        for name in channels.norms:
            held[name, 0] += 1
            assert modules[name].num_features == channels.channels
        for feature in channels.features:
            held["feature", feature] += 1
            assert architecture.out_channels[feature] == channels.channels
    expected = {("feature", level) for level in range(4)}
    for name, module in modules.items():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            expected.add((name, 0))
        if isinstance(module, nn.Conv2d) and module.groups == 1 and name != "stem.0":
            expected.add((name, 1))
    assert held == dict.fromkeys(expected, 1)
    same = architecture.with_channels({each.name: each.channels for each in architecture.channel_sets()})
    assert same == architecture


def test_a_stage_that_adds_to_the_stem_shares_its_channels():
    sets = {each.name: each for each in Architecture.standard("resnet18", 8).channel_sets()}
    assert "stage1" not in sets
    assert sets["stem"].is_output
    assert set(sets["stem"].norms) == {"stem.1", "stage1.0.body.4", "stage1.1.body.4"}
    assert sets["stem"].features == [0]
    bottleneck = {each.name: each for each in Architecture.standard("resnet50", 8).channel_sets()}
    assert not bottleneck["stem"].is_output
    assert "stage1.0.projection.1" in bottleneck["stage1"].norms


def test_mobilenets_stages():
    architecture = Architecture.standard("mobilenet_v2")
    assert [(len(stage.blocks), stage.width, stage.stride) for stage in architecture.stages] == [
        (1, 16, 1),
        (2, 24, 2),
        (3, 32, 2),
        (4, 64, 2),
        (3, 96, 1),
        (3, 160, 2),
        (1, 320, 1),
    ]
    assert architecture.feature_stages == (2, 3, 5, 7)
    assert architecture.out_channels == (24, 32, 96, 1280)
    assert architecture.stages[0].blocks == (Block(()),)
    thin = Architecture.standard("mobilenet_v2", 0.25)  # where the first block has the stem's channels, and adds to it
    assert thin.stages[0].entry == "identity"


BASIC = IRREGULAR["basic"]
RESNEXT = IRREGULAR["resnext"]
MOBILE = IRREGULAR["inverted_residual"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda: replace(BASIC, family="dense"), "no family 'dense'"),
        (lambda: replace(BASIC, stages=BASIC.stages[:3]), r"strides \(4, 8, 16\)"),
        (lambda: BASIC.with_stage(2, replace(BASIC.stages[1], stride=1)), "strides"),
        (lambda: BASIC.with_stage(2, replace(BASIC.stages[1], blocks=())), "has no block"),
        (lambda: BASIC.with_stage(2, replace(BASIC.stages[1], entry="plain")), "stage 2 is entered by 'plain'"),
        (lambda: BASIC.with_stage(1, replace(BASIC.stages[0], width=7)), "stage 1 adds to its input"),
        (lambda: replace(BASIC, stem=0), "width is below 1"),
        (lambda: replace(BASIC, head=8), "have a head"),
        (lambda: BASIC.with_stage(2, replace(BASIC.stages[1], blocks=(Block((3, 3)),))), "2 inner widths"),
        (lambda: BASIC.with_stage(2, replace(BASIC.stages[1], blocks=(Block((4,), 2),))), "2 groups"),
        (lambda: RESNEXT.with_stage(2, replace(RESNEXT.stages[1], blocks=(Block((9,), 2),))), "2 groups cannot share"),
        (lambda: MOBILE.with_stage(3, replace(MOBILE.stages[2], entry="projection")), "entered by 'projection'"),
    ],
)
def test_what_is_no_network_gives_a_sentence(change, says):
    with pytest.raises(InputError, match=says):
        change()


def test_what_no_student_can_be_made_of_gives_a_sentence():
    deformable = ResNet("resnet18", deformable=(4,), width=8)
    with pytest.raises(InputError, match="deformable"):
        as_student(TwoStage(deformable, 3, FPN(deformable.out_channels, width=8)))
    with pytest.raises(InputError, match="needs a pyramid, and this TwoStage has none"):
        as_student(TwoStage(ResNet("resnet18", width=8), 3, None))
    cut = ResNet("resnet18", width=8)
    cut.take_last_stage()
    for other in (cut, nn.Linear(1, 1)):
        with pytest.raises(InputError, match=f"made of {type(other).__name__}: give a backbone of four stages"):
            architecture_of(other)
    plain = ResNet("resnet18", width=8)
    with pytest.raises(InputError, match="this CenterNet has none"):
        as_student(CenterNet(plain, 3, (8, 8, 8), 8))
