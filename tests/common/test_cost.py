"""Costs against FACTS' printed numbers, torch's own counter, and formulas worked out by hand."""

import json
import runpy
import sys

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from common import cost
from common.cost import OUTSIDE, CostCommand, build, count, main, parse_size
from common.models.deformable import DeformableConv2d
from common.models.elastic import ElasticBatchNorm2d, ElasticConv2d, ElasticConvTranspose2d
from common.models.fpn import FPN
from common.models.mobilenet import MobileNetV2
from common.models.norm import FrozenBatchNorm2d
from common.models.outline import outline
from common.models.resnet import ResNet
from common.models.two_stage import TwoStage
from common.plain import InputError


# the old mmdetection counter's numbers, as the papers print them
@pytest.mark.parametrize(
    ("name", "size", "giga"),
    [("r50", (1280, 800), 84.08), ("r101", (1280, 800), 160.15), ("r101", (1080, 720), 122.54)],
)
def test_backbones_of_the_papers(name, size, giga):
    with outline():
        backbone = build(name)
    assert count(backbone, size).macs_mmdet == pytest.approx(giga * 1e9, rel=1e-3)


# backbone, FPN, RPN, second stage and total, in G, and parameters in M (not printed for the last)
@pytest.mark.parametrize(
    ("name", "size", "giga", "params"),
    [
        ("r18-fpn", "1333x800", (38.90, 54.45, 52.87, 14.30, 160.53), 28.68),
        ("r50-fpn", "1333x800", (88.03, 60.61, 52.87, 14.30, 215.82), 41.75),
        ("r101-fpn", "1333x800", (167.91, 60.61, 52.87, 14.30, 295.69), 60.75),
        ("x101-32x4d-fpn", "1280x800", (163.90, 58.04, 50.64, 14.30, 286.88), None),
    ],
)
def test_detectors_of_the_papers(name, size, giga, params, capsys):
    main(CostCommand(name, size, json=True))
    printed = json.loads(capsys.readouterr().out)
    assert list(printed["parts"]) == ["backbone", "fpn", "rpn", "roi"]
    found = [part["macs_mmdet"] for part in printed["parts"].values()] + [printed["macs_mmdet"]]
    assert found == pytest.approx([each * 1e9 for each in giga], rel=1e-3)
    if params is not None:
        assert printed["params"] == pytest.approx(params * 1e6, rel=1e-3)


def test_flops_of_a_detector_are_torchs_and_its_second_stage_costs_the_same_at_any_size():
    with torch.device("meta"):
        network = build("r18-fpn").eval()
    costs = [count(network, size) for size in ((160, 128), (1280, 800))]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(1, 3, 128, 160, device="meta"))
    assert costs[0].flops == counter.get_total_flops()
    roi = costs[0].parts["roi"]
    assert roi == costs[1].parts["roi"]
    assert roi["macs_mmdet"] == 1000 * (12544 * 1024 + 1024 * 1024 + 1024 * 81 + 1024 * 320 + 2 * 1024 + 81 + 320)


def by_hand(layer: nn.Module, shape: tuple[int, ...]) -> tuple[int, int]:
    cost = count(nn.Sequential(nn.Conv2d(3, shape[0], 1, bias=False), layer), (shape[2], shape[1]))
    return cost.parts["1"]["macs"], cost.parts["1"]["macs_mmdet"]


TRANSPOSED = 4 * 4 * 4 * 5 * 60  # kh * kw * cin * cout * Hin * Win


@pytest.mark.parametrize(
    ("layer", "products", "beside"),
    [
        (nn.Conv2d(4, 8, 3, stride=2, padding=1), 9 * 4 * 8 * 15, 8 * 15),
        (nn.Conv2d(4, 8, (3, 1), groups=2, bias=False), 3 * 2 * 8 * 4 * 10, 0),
        (nn.Linear(10, 7), 4 * 6 * 70, 4 * 6 * 7),
        (nn.BatchNorm2d(4), 0, 2 * 240),
        (nn.BatchNorm2d(4, affine=False), 0, 240),
        (FrozenBatchNorm2d(4), 0, 2 * 240),
        (nn.GroupNorm(2, 4), 0, 0),
        (nn.Sigmoid(), 0, 0),
        (nn.ConvTranspose2d(4, 5, 4, stride=2, padding=1), TRANSPOSED, 5 * 240),
        (nn.ConvTranspose2d(4, 4, 4, stride=2, groups=4, bias=False), 4 * 4 * 4 * 60, 0),
    ],
)
def test_each_layer_by_the_formula(layer, products, beside):
    assert by_hand(layer, (4, 6, 10)) == (products, products + beside)


# the numbers of OpenMMLab's own test of its counter (mmcv, test_flops_counter.py) for an image of 3 x 16 x 16
@pytest.mark.parametrize(
    ("layer", "operations"),
    [
        (nn.Conv2d(3, 8, 3), 43904),
        (nn.ConvTranspose2d(3, 8, 3), 57888),
        (nn.BatchNorm2d(3), 1536),
        (nn.ReLU(inplace=True), 768),
        (nn.PReLU(), 768),
        (nn.ELU(), 768),
        (nn.LeakyReLU(), 768),
        (nn.ReLU6(), 768),
        (nn.MaxPool2d(2), 768),
        (nn.AvgPool2d(2), 768),
        (nn.AdaptiveMaxPool2d(2), 768),
        (nn.AdaptiveAvgPool2d(2), 768),
        (nn.Upsample(scale_factor=2), 3072),
    ],
)
def test_each_layer_as_mmdetections_counter_has_it(layer, operations):
    assert count(layer, (16, 16)).macs_mmdet == operations


def test_mobilenet_with_its_relu6():
    assert count(torchvision.models.mobilenet_v2(), (224, 224)).macs_mmdet == 320_237_288


class Functions(nn.Module):
    """Products that no layer computes: in a part, and outside all parts."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.inner = nn.Identity()
        self.weight = nn.Parameter(torch.zeros(8, 3, 3, 3))
        self.attention = nn.MultiheadAttention(3, 1)
        self.inner.forward = self._inside

    def _inside(self, x):
        if self.kind == "convolution":
            return nn.functional.conv2d(x, self.weight)
        tokens = x.flatten(2).permute(2, 0, 1)  # (pixels, 1, 3)
        return self.attention(tokens, tokens, tokens)[0]

    def forward(self, images):
        if self.kind == "einsum":
            return torch.einsum("bchw,ocij->bohw", images, self.weight)
        return self.inner(images)


def test_products_that_no_layer_computes_are_counted():
    pixels = 6 * 10
    cost = count(Functions("convolution"), (10, 6))
    assert cost.parts["inner"]["macs"] == cost.macs == cost.macs_mmdet == 27 * 8 * 4 * 8
    cost = count(Functions("einsum"), (10, 6))
    assert cost.parts[OUTSIDE]["macs"] == cost.macs == cost.macs_mmdet == 3 * 8 * pixels
    cost = count(Functions("attention"), (10, 6))
    products = 3 * 9 * pixels + 9 * pixels + 2 * 3 * pixels * pixels  # three projections, a last one, scores, values
    assert cost.parts["inner"]["macs"] == cost.macs == products
    for part in cost.parts.values():
        assert part["flops"] == 2 * part["macs"]


def test_deformable_convolution_costs_its_products_and_its_offsets():
    plain = nn.Conv2d(4, 8, 3, stride=2, padding=1, bias=False)
    products, offsets = 9 * 4 * 8 * 15, 9 * 4 * 18 * 15
    expected = products + offsets, products + offsets + 18 * 15
    assert by_hand(DeformableConv2d(plain), (4, 6, 10)) == expected
    assert by_hand(Torchvisions(), (4, 6, 10)) == (products, products)


class Torchvisions(torchvision.ops.DeformConv2d):
    """The operator that is used on GPUs."""

    def __init__(self) -> None:
        super().__init__(4, 8, 3, stride=2, padding=1, bias=False)

    def forward(self, x):
        return super().forward(x, x.new_zeros(1, 18, 3, 5))


class Reuse(nn.Module):
    """A ReLU that is called twice, and one that is a function; then a result whose size depends on values."""

    def __init__(self, looks: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1, bias=False)
        self.relu, self.looks = nn.ReLU(), looks

    def forward(self, images):
        found = nn.functional.relu(self.relu(self.conv(self.relu(images))))
        return found[torch.ones(1).bool()].nonzero() if self.looks and images.sum() >= 0 else found


@pytest.mark.parametrize("looks", [False, True])
def test_each_call_of_a_relu_counts_also_where_values_are_looked_at_which_meta_tensors_lack(looks):
    found = count(Reuse(looks), (5, 2))
    assert found.parts["relu"]["macs_mmdet"] == (3 + 4) * 10
    assert found.macs == 120


def test_parts_add_up_and_the_module_is_left_alone():
    module = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8)),
        nn.ConvTranspose2d(8, 6, 4, stride=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 11),
    ).train()
    module[0][1].eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    cost = count(module, (97, 40))
    assert [part.training for part in module.modules()] == [True, True, True, False, *[True] * 6]
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    with FlopCounterMode(display=False) as counter:
        module.eval()(torch.zeros(1, 3, 40, 97))
    assert cost.flops == counter.get_total_flops() == 2 * cost.macs
    assert cost.params == sum(parameter.numel() for parameter in module.parameters())
    for unit in ("params", "macs", "macs_mmdet", "flops"):
        assert sum(part[unit] for part in cost.parts.values()) == getattr(cost, unit)


@pytest.mark.parametrize("kind", ["resnet18", "resnext50_32x4d", "mobilenet_v2"])
def test_shapes_alone_cost_what_a_real_forward_does(kind):
    def built() -> TwoStage:
        backbone = ResNet(kind, width=16) if kind.startswith("res") else MobileNetV2(width=0.5)
        return TwoStage(backbone, 3, FPN(backbone.out_channels, width=32))

    network = built()
    with torch.no_grad():
        real = cost._count(network, torch.zeros(1, 3, 64, 96), network)
    before = [dict(vars(layer)) for layer in network.modules()]
    assert count(network, (96, 64)) == real
    assert [dict(vars(layer)) for layer in network.modules()] == before, "nothing of it is replaced for good"
    assert not any(parameter.is_meta for parameter in network.parameters())
    with outline():
        assert count(built(), (96, 64)) == real


def test_elastic_layers_cost_what_is_in_use():
    elastic = nn.Sequential(
        ElasticConv2d(3, 8, 3),
        ElasticBatchNorm2d(8),
        ElasticConv2d(8, 6, 1, bias=True),
        ElasticConvTranspose2d(6, 4, 4, 2, 1, bias=False),
    )
    elastic[0].active_out_channels, elastic[2].active_out_channels = 5, 2
    plain = nn.Sequential(
        nn.Conv2d(3, 5, 3),
        nn.BatchNorm2d(5),
        nn.Conv2d(5, 2, 1, bias=True),
        nn.ConvTranspose2d(2, 4, 4, 2, 1, bias=False),
    )
    small, full = count(plain, (9, 7)), count(elastic, (9, 7))
    assert (full.macs, full.macs_mmdet, full.flops) == (small.macs, small.macs_mmdet, small.flops)


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_command_prints_one_object(monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["cost", "r18", "--size", "320x200", "--json"])
    runpy.run_module("common.cost", run_name="__main__")
    printed = json.loads(capfd.readouterr().out)
    assert list(printed) == ["params", "macs_mmdet", "macs", "flops", "parts"]
    assert printed["macs_mmdet"] == sum(part["macs_mmdet"] for part in printed["parts"].values())
    assert set(printed["parts"]) == {"conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"}
    main(CostCommand("r18", "320x200"))
    first, *_, last = capfd.readouterr().out.splitlines()
    assert (first, last.split()[:2]) == ("r18 at 320x200", ["total", "11.177"])


def test_a_bad_size_or_name_gives_a_sentence():
    for size in ("1333", "1333x", "0x5", "-1x5", "axb", "5x5x5"):
        with pytest.raises(InputError, match="WIDTHxHEIGHT"):
            parse_size(size)
    with pytest.raises(InputError, match=r"'r51'.*r101, r101-fpn, r18"):
        main(CostCommand("r51"))
