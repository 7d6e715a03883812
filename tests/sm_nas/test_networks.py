"""SM-NAS's networks: costs against the printed ones, blocks against the standard networks, every structure in use."""

from dataclasses import replace
from math import gcd

import numpy as np
import pytest
import torch
from torch import nn

from common.batch import Batch
from common.cost import count
from common.models.detector import load_detector, save_detector
from common.models.fpn import NoPyramid
from common.models.guided_anchoring import GuidedRPN
from common.models.norm import Norm, StandardisedConv2d
from common.models.outline import outline
from common.models.resnet import ARCHITECTURES, ResNet
from common.models.retinanet import RetinaNet
from sm_nas.encoding import BLOCKS, OUTPUT_OF, BackboneCode, Structure
from sm_nas.exhibits import paper_macs
from sm_nas.method import Group
from sm_nas.networks import EncodedBackbone, build_backbone, build_detector, describe, describe_backbone, losses_of
from sm_nas.presets import NANO, PAPER, PRESETS, SMOKE, DetectorSettings
from tests.common.models.families import assert_equal

CLASSES = 5


def encoded(text: str, norm: Norm | None = None) -> EncodedBackbone:
    torch.manual_seed(0)
    return EncodedBackbone(BackboneCode.parse(text), norm)


# ---- costs


@pytest.mark.parametrize(
    ("name", "backbone", "printed", "millions"),
    [
        ("E0", 7.15, 7.2, 16.23),
        ("E1", 28.28, 28.3, 37.83),
        ("E2", 23.76, 23.8, 33.02),
        ("E3", 58.95, 59.2, 52.05),
        ("E4", 73.21, 73.5, 92.00),
        ("E5", 161.84, 162.45, 92.00),
    ],
)
def test_published_models_cost_what_table_2_prints(name, backbone, printed, millions):
    """Backbone G in our count and as printed; parameters M of the whole detector."""
    said = describe(dict(PAPER.models)[name], 80, PAPER.detector)
    assert said["backbone_macs_mmdet"] / 1e9 == pytest.approx(backbone, rel=0.001)
    assert said["backbone_macs_mmdet"] / 1e9 == pytest.approx(printed, rel=0.015)
    assert said["params"] / 1e6 == pytest.approx(millions, abs=0.01)


def test_detectors_keep_the_order_of_their_costs_at_nano_scale():
    """Multiply-accumulates over those of FPN R50."""
    ratios = []
    for preset, classes in ((PAPER, 80), (NANO, 12)):
        known = dict((*preset.models, *preset.classics))
        names = ("E0", "E1", "E2", "E3", "FPN R50", "Cascade R50", "RetinaNet R50")
        costs = {name: describe(known[name], classes, preset.detector)["macs"] for name in names}
        ratios.append({name: cost / costs["FPN R50"] for name, cost in costs.items()})
    assert ratios[1] == pytest.approx(ratios[0], rel=0.25)
    assert all(ratios[1][name] < 1 for name in ("E0", "E1", "E2", "E3"))


def test_ratios_at_the_papers_size():
    """RetinaNet costs more than FPN with COCO's classes and less with VOC's; the abstract's pairs of detectors."""
    ratios = [paper_macs("RetinaNet R50", classes) / paper_macs("FPN R50", classes) for classes in (80, 20)]
    assert ratios == pytest.approx([1.068, 0.952], abs=0.01)
    assert paper_macs("FPN R101") / 1e9 == pytest.approx(295.7 * 1.008, rel=0.01)  # padded to whole strides
    assert paper_macs("E2") / paper_macs("FPN R101") < 0.25


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_every_named_detector_can_be_built(preset):
    for _, structure in (*preset.models, *preset.classics, ("strategies", preset.strategy_model)):
        with outline():
            assert build_detector(structure, 3, preset.detector).categories == 3


def test_a_description_counts_the_whole_detector_and_its_backbone():
    structure = dict(SMOKE.models)["E3"]
    said = describe(structure, CLASSES, SMOKE.detector)
    network = build_detector(structure, CLASSES, SMOKE.detector)
    assert said["params"] == sum(parameter.numel() for parameter in network.parameters())
    assert said["backbone_params"] == sum(parameter.numel() for parameter in network.backbone.parameters())
    assert said["input_size"] == [64, 64]
    assert said["backbone_channels"] == list(network.backbone.out_channels)
    assert 0 < said["backbone_macs"] < said["backbone_macs_mmdet"] < said["macs_mmdet"]
    assert describe(structure, CLASSES + 1, SMOKE.detector)["params"] > said["params"]


@pytest.mark.parametrize("text", ["resnet18 64x64 P1-P5 c32 rpn 2fc", "resnet50 96x64 no-fpn rpn cascade2"])
def test_the_backbone_of_a_detector_is_counted_as_by_itself(text):
    structure = Structure.parse(text)
    alone = describe_backbone(structure, PAPER.detector)
    whole = describe(structure, 20, PAPER.detector)
    assert alone == {name: whole[name] for name in alone}


# ---- backbones


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_blocks_of_a_standard_code_are_the_standard_networks(name):
    with outline():
        ours, theirs = EncodedBackbone(BackboneCode.standard(name, 64)), ResNet(name)
    assert ours.out_channels == theirs.out_channels
    ours_cost, theirs_cost = count(ours, (128, 96)).parts, count(theirs, (128, 96)).parts
    for stage in (1, 2, 3, 4):
        assert ours_cost[f"stage{stage}"] == theirs_cost[f"layer{stage}"]


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d"])
def test_with_the_same_weights_the_stages_compute_the_same(name, device):
    torch.manual_seed(0)
    theirs = ResNet(name, width=16).to(device).eval()
    ours = EncodedBackbone(BackboneCode.standard(name, 16)).to(device).eval()
    x = torch.randn(1, 16, 32, 24, device=device)
    for stage, layer in enumerate(theirs.stages, start=1):
        mine = getattr(ours, f"stage{stage}")
        mine.load_state_dict(layer.state_dict())
        with torch.no_grad():
            assert torch.equal(mine(x), layer(x))
            x = layer(x)


CODES = ["12-1-2111-21", "2-112-1-2", "11-21-21-21", "1112-11-22-1"]


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("stages", CODES)
def test_features_have_the_channels_and_strides_of_the_code(block, stages):
    network = encoded(f"{block}_12_{stages}")
    features = network(torch.randn(1, 3, 64, 96))
    digits = [len(stage) for stage in stages.split("-")]
    widths = [12 * 2 ** stages.replace("-", "")[: sum(digits[: stage + 1])].count("2") for stage in range(4)]
    channels = [int(width * OUTPUT_OF[block]) for width in widths]
    assert network.out_channels == tuple(channels)
    assert network.strides == (4, 8, 16, 32)
    shapes = [(1, c, 64 // stride, 96 // stride) for c, stride in zip(channels, network.strides, strict=True)]
    assert [tuple(feature.shape) for feature in features] == shapes


def test_strides_and_doublings_are_independent():
    network = encoded("basicblock_8_12-11-21-112")
    stages = [network.get_submodule(f"stage{stage}") for stage in (1, 2, 3, 4)]
    assert [[block.conv1.stride[0] for block in stage] for stage in stages] == [[1, 1], [2, 1], [2, 1], [2, 1, 1]]
    projected = [[block.downsample is not None for block in stage] for stage in stages]
    assert projected == [[False, True], [True, False], [True, False], [True, False, True]]
    convolutions = [
        (c.in_channels, c.out_channels, c.kernel_size, c.stride) for c in (network.stem[0], network.stem[3])
    ]
    assert convolutions == [(3, 4, (3, 3), (2, 2)), (4, 8, (3, 3), (2, 2))]


@pytest.mark.parametrize("base", [48, 56, 64, 72, 12, 14, 16, 18, 54, 98])
def test_groups_of_convolutions_and_norms(base):
    """98: where a quotient of floats, cut to an integer, loses a channel."""
    with outline():
        network = encoded(f"Xbottleneck_{base}_12-11-21-12", Norm("group-ws", 32))
    widths = [base * 2**doubled for doubled in (0, 1, 1, 1, 2, 2, 2, 3)]
    blocks = [block for stage in (1, 2, 3, 4) for block in network.get_submodule(f"stage{stage}")]
    for block, width in zip(blocks, widths, strict=True):
        assert block.conv2.groups == base // 2
        assert block.conv2.in_channels == block.conv2.out_channels == 2 * width
        assert block.conv3.out_channels == 4 * width
    assert {m.num_groups for m in network.modules() if isinstance(m, nn.GroupNorm)} == {base // 2}


@pytest.mark.parametrize("block", BLOCKS)
def test_taking_the_last_stage_leaves_the_rest(block, device):
    network = encoded(f"{block}_12_12-1-211-21").to(device).eval()
    images = torch.randn(1, 3, 64, 64, device=device)
    with torch.no_grad():
        whole = network(images)
        last = network.take_last_stage()
        left = network(images)
        assert len(left) == 3
        assert all(torch.equal(one, other) for one, other in zip(left, whole, strict=False))
        assert torch.equal(last(left[-1]), whole[-1])
    assert network.out_channels == tuple(feature.shape[1] for feature in left)
    assert (network.strides, network.stride) == ((4, 8, 16), 16)


# ---- whole detectors


def random_batch(structure: Structure, device: torch.device, seed: int = 0) -> Batch:
    width, height = structure.input_size
    generator = torch.Generator().manual_seed(seed)
    extent = torch.rand(2, 4, 2, generator=generator) * 16 + 8
    corner = torch.rand(2, 4, 2, generator=generator) * (torch.tensor([width, height]) - extent)
    return Batch(
        images=torch.randn(2, 3, height, width, generator=generator),
        boxes=torch.cat([corner, corner + extent], dim=-1),
        labels=torch.randint(CLASSES, (2, 4), generator=generator),
        valid=torch.ones(2, 4, dtype=torch.bool),
        index=torch.arange(2),
        sizes=torch.tensor([[height, width]] * 2),
    ).to(device)


def some_structures() -> list[Structure]:
    generator = np.random.default_rng(0)
    space = SMOKE.structural
    sampled = [space.sample(generator) for _ in range(12)]
    sampled += [Group(SMOKE.modular, space.sample(generator)).sample(generator) for _ in range(8)]
    return [
        *sampled,
        Structure("resnet18", (64, 64), None, None, None, 0),
        Structure("mobilenet_v2", (64, 32), None, None, "rpn", 2),
        Structure("Xbottleneck_12_12-1-21-21", (64, 64), None, None, "ga-rpn", 1),
        Structure("bottleneck_12_12-1-21-21", (48, 80), (3, 6), 16, "rpn", 4, pooled=False),
    ]


@pytest.mark.parametrize("structure", some_structures(), ids=str)
def test_every_structure_learns_and_detects(structure, device):
    torch.manual_seed(0)
    norm = "batch" if structure.backbone in SMOKE.structural.backbones else "group-ws"
    network = build_detector(structure, CLASSES, SMOKE.detector, norm).to(device)
    batch = random_batch(structure, device)
    losses = losses_of(network)(network.train()(batch.images), batch)
    assert all(torch.isfinite(value) for value in losses.values())
    losses["loss"].backward()
    assert all(parameter.grad is not None for parameter in network.backbone.parameters()), "all of it is read"
    optimiser = torch.optim.SGD(network.parameters(), lr=0.01)
    before = [parameter.detach().clone() for parameter in network.parameters()]
    optimiser.step()
    assert any(not torch.equal(one, other) for one, other in zip(before, network.parameters(), strict=True))

    found = network.eval().detect(batch.images)
    width, height = structure.input_size
    boxes = found.boxes[found.valid]
    assert torch.isfinite(boxes).all()
    assert (boxes >= 0).all()
    assert (boxes <= boxes.new_tensor([width, height, width, height])).all()
    assert ((found.labels >= 0) & (found.labels < CLASSES)).all()
    assert ((found.scores >= 0) & (found.scores <= 1)).all()


def test_modules_are_those_of_the_structure():
    settings = DetectorSettings()

    def built(text: str, norm: str = "batch") -> nn.Module:
        with outline():
            return build_detector(Structure.parse(text), CLASSES, settings, norm)

    cascade = built("resnet18 512x512 P2-P6 c128 rpn cascade4")
    assert cascade.fpn.strides == (8, 16, 32, 64, 128)
    assert [stage.overlap for stage in cascade.roi.settings.stages] == [0.5, 0.6, 0.7, 0.8]
    assert [stage.weight for stage in cascade.roi.settings.stages] == [1.0, 0.5, 0.25, 0.125]
    assert cascade.rpn.anchors.sizes == ((32, 64), (64, 128), (128, 256), (256, 512), (512, 1024))
    usual = built("resnet18 512x512 P1-P5 c128 rpn 2fc")
    assert usual.rpn.anchors.sizes == ((32,), (64,), (128,), (256,), (512,))
    guided = built("resnet18 512x512 P1-P2 c256 ga-rpn 2fc")
    assert isinstance(guided.rpn, GuidedRPN)
    assert guided.rpn.settings.proposals == (300, 300)
    assert guided.rpn.fixed.per_cell == 3 * 3 * 4, "three sizes in each of four octaves"
    head = guided.roi.settings
    assert (head.samples, head.least_score, head.stages[0].overlap) == (256, 1e-3, 0.6)
    assert head.stages[0].deviations == (0.05, 0.05, 0.1, 0.1)
    of_cascade = built("resnet18 512x512 P1-P2 c256 ga-rpn cascade2").roi.settings
    assert (of_cascade.samples, of_cascade.least_score, of_cascade.stages[0].overlap) == (256, 0.05, 0.5)
    plain = built("resnet18 512x512 no-fpn rpn 2fc")
    assert isinstance(plain.fpn, NoPyramid)
    assert plain.rpn.anchors.sizes == ((32, 64, 128, 256, 512),), "of the original Faster R-CNN, at stride 16"
    single = built("resnet18 512x512 P2-P6 c256 retinanet")
    assert isinstance(single, RetinaNet)
    assert single.anchors.sizes[0] == pytest.approx([32 * 2 ** (third / 3) for third in range(3)])
    assert single.anchors.per_cell == 9


@pytest.mark.parametrize(("asked", "expected"), [(0.02, 0.02), (None, (2 / (9 * 64)) ** 0.5)])
def test_retinanets_heads_begin_with_weights_of_the_deviation_asked_for(asked, expected):
    torch.manual_seed(0)
    settings = replace(DetectorSettings(), width=8, retinanet_deviation=asked)
    network = build_detector(Structure.parse("resnet18 64x64 P2-P6 c64 retinanet"), CLASSES, settings)
    for head in (network.classes, network.codes):
        assert [layer.weight.std().item() for layer in head.hidden] == pytest.approx([expected] * 4, rel=0.02)
        assert head.last.weight.std().item() == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize(
    "text", ["basicblock_12_11-21-21-21 64x64 P1-P5 c24 rpn 2fc", "resnet18 64x64 P2-P6 c24 retinanet"]
)
def test_norms_of_the_whole_detector(text):
    def modules(norm: str, part: str = "") -> list[nn.Module]:
        with outline():
            network = build_detector(Structure.parse(text), CLASSES, SMOKE.detector, norm)
        return list(network.get_submodule(part).modules())

    def kinds(norm: str, part: str = "") -> set[type]:
        wanted = nn.BatchNorm2d | nn.GroupNorm | StandardisedConv2d | nn.Conv2d
        return {type(module) for module in modules(norm, part) if isinstance(module, wanted)}

    assert kinds("batch") == {nn.BatchNorm2d, nn.Conv2d}
    assert kinds("batch", "fpn") == {nn.Conv2d}, "batch norm is in the backbone alone"
    assert kinds("group") == kinds("group", "fpn") == {nn.GroupNorm, nn.Conv2d}
    assert kinds("group-ws", "backbone") == kinds("group-ws", "fpn") == {nn.GroupNorm, StandardisedConv2d}
    of_fpn = {module.num_groups for module in modules("group", "fpn") if isinstance(module, nn.GroupNorm)}
    assert of_fpn == {gcd(SMOKE.detector.norm_groups, 24)}
    of_backbone = {module.num_groups for module in modules("group", "backbone") if isinstance(module, nn.GroupNorm)}
    base = 12 if text.startswith("basicblock_12") else SMOKE.detector.width
    assert of_backbone == {base // 2}


def test_thin_standard_backbones():
    assert build_backbone("resnet50", SMOKE.detector).out_channels == (64, 128, 256, 512)
    assert build_backbone("mobilenet_v2", SMOKE.detector).out_channels[0] == 8
    assert build_backbone("resnet50", DetectorSettings()).out_channels == (256, 512, 1024, 2048)


@pytest.mark.parametrize(
    ("text", "norm"),
    [
        ("basicblock_14_12-11-21-12 64x32 P1-P5 c16 rpn cascade2", "group-ws"),
        ("Xbottleneck_12_2-1-21-12 64x64 P2-P5 c16+conv ga-rpn 2fc", "batch"),
        ("bottleneck_12_2-1-21-12 64x64 no-fpn rpn cascade2", "batch"),
        ("MBblock_16_2-1-21-12 64x64 P3-P6 c16 retinanet", "group"),
    ],
)
def test_an_encoded_detector_comes_back_from_disk(text, norm, tmp_path, device):
    structure = Structure.parse(text)
    torch.manual_seed(1)
    network = build_detector(structure, CLASSES, SMOKE.detector, norm).to(device)
    batch = random_batch(structure, device)
    for _ in range(3):  # statistics of the batch norms
        network.train()(batch.images)
    names = list("abcde")
    save_detector(tmp_path / "one", network, {"categories": names, "input_size": structure.input_size})
    detector = load_detector(tmp_path / "one", device)
    assert detector.categories == tuple(names)
    sides = structure.input_size
    assert detector.input_size == (sides[0] if sides[0] == sides[1] else sides)
    here, there = network.eval().detect(batch.images), detector.model.detect(batch.images)
    assert_equal(here, there)
