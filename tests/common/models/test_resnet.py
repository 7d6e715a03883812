"""Backbones against torchvision's networks, and norms and deformed convolutions against their definitions."""

import json
from functools import partial

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.resnet import Bottleneck

from common.models.deformable import OffsetConv2d
from common.models.detector import build_backbone
from common.models.mobilenet import MobileNetV2
from common.models.norm import FrozenBatchNorm2d, Norm, StandardisedConv2d
from common.models.outline import outline
from common.models.resnet import ARCHITECTURES, ResNet, projection
from common.plain import InputError
from tests.common.models.families import randomise_norms

THIN = {"resnet": partial(ResNet, "resnet34", width=8), "mobilenet": partial(MobileNetV2, width=0.25)}


def torchvision_network(name: str) -> nn.Module:
    if name == "resnext101_32x4d":  # torchvision names the 32x8d only
        return torchvision.models.ResNet(Bottleneck, [3, 4, 23, 3], groups=32, width_per_group=4)
    return torchvision.models.get_model(name, weights=None)


@pytest.mark.parametrize("name", [*ARCHITECTURES, "mobilenet_v2"])
def test_an_outline_has_the_same_tensors_as_torchvision_without_values(name):
    before = torch.random.get_rng_state()
    with outline():
        ours, theirs = build_backbone({"kind": name}).state_dict(), torchvision_network(name).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before), "nothing is drawn"
    assert all(tensor.is_meta for tensor in ours.values())
    shapes = {name: tensor.shape for name, tensor in theirs.items() if not name.startswith(("fc.", "classifier."))}
    assert {name: tensor.shape for name, tensor in ours.items()} == shapes


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d", "mobilenet_v2"])
def test_same_function_as_torchvision_with_its_weights(name):
    theirs, ours = randomise_norms(torchvision_network(name)).eval(), build_backbone({"kind": name}).eval()
    ours.load_state_dict(theirs.state_dict(), strict=False)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        features = ours(images)
        top = theirs.classifier if name == "mobilenet_v2" else theirs.fc
        torch.testing.assert_close(top(features[-1].mean(dim=(2, 3))), theirs(images))
    assert (ours.strides, ours.stride) == ((4, 8, 16, 32), 32)
    shapes = [(1, width, 64 // s, 96 // s) for width, s in zip(ours.out_channels, ours.strides, strict=True)]
    assert [feature.shape for feature in features] == shapes


@pytest.mark.parametrize("channels", [2, 4, 6, 8])
@pytest.mark.parametrize("size", [7, 8])
def test_a_projection_is_a_strided_convolution_however_few_channels_it_reads(channels, size, device):
    """oneDNN's gradient of one that reads fewer than 8 channels-last channels corrupts memory without AVX512."""
    torch.manual_seed(0)
    ours = projection(channels, 16, 2, Norm()).to(device)
    x = torch.randn(4, channels, size, size, device=device).contiguous(memory_format=torch.channels_last)
    weight = ours[0].weight.detach().clone().requires_grad_()
    for _ in range(3):  # what is corrupted is noticed later
        found, wanted = x.clone().requires_grad_(), x.contiguous().requires_grad_()
        expected = ours[1](torch.einsum("bchw,oc->bohw", wanted[:, :, ::2, ::2], weight[:, :, 0, 0]))
        y = ours(found)
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
        gradient = torch.randn_like(y)
        ours.zero_grad()
        weight.grad = None
        y.backward(gradient)
        expected.backward(gradient)
        torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours[0].weight.grad, weight.grad, rtol=1e-3, atol=1e-3)
    assert set(ours.state_dict()) >= {"0.weight", "1.weight", "1.bias"}


@pytest.mark.parametrize("kind", ["batch", "frozen", "group", "group-ws"])
@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d"])
def test_blocks_begin_as_their_shortcuts_whatever_the_norm(name, kind):
    network = ResNet(name, Norm(kind, groups=8), width=12).eval()
    norms = {type(m) for m in network.modules() if isinstance(m, nn.BatchNorm2d | nn.GroupNorm | FrozenBatchNorm2d)}
    assert norms == {{"batch": nn.BatchNorm2d, "frozen": FrozenBatchNorm2d}.get(kind, nn.GroupNorm)}
    convolutions = {type(module) for module in network.modules() if isinstance(module, nn.Conv2d)}
    assert convolutions == {StandardisedConv2d if kind == "group-ws" else nn.Conv2d}
    if kind.startswith("group"):
        assert (network.bn1.num_groups, network.layer2[0].bn1.num_groups) == (4, 8), "8 does not divide 12"
    x = torch.randn(2, network.layer2[1].conv1.in_channels, 8, 8)
    # a frozen norm could not leave 0, so it starts at 1
    assert torch.equal(network.layer2[1](x), x.relu()) == (kind != "frozen")
    assert network.layer2[0].downsample[1].weight.all()  # of a shortcut: stays


def test_frozen_norm_is_torchvisions(device):
    ours, theirs = FrozenBatchNorm2d(5).to(device), randomise_norms(torchvision.ops.FrozenBatchNorm2d(5).to(device))
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 5, 4, 3, device=device)
    torch.testing.assert_close(ours.train()(x), theirs(x))
    ours.load_state_dict(nn.BatchNorm2d(5).state_dict())  # the count of batches is left out


def test_standardised_filters(device):
    torch.manual_seed(0)
    layer = StandardisedConv2d(6, 4, 3, bias=True).to(device)
    nn.init.uniform_(layer.weight, 2, 5)
    x = torch.randn(2, 6, 5, 5, device=device)
    expected = layer.weight.detach().clone()
    for each in expected:
        each -= each.mean()
        each /= (each.square().mean() + 1e-5).sqrt()
    torch.testing.assert_close(layer(x), nn.functional.conv2d(x, expected, layer.bias), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "groups", "parts"),
    [(3, 1, 1, 1, 1, 1), (3, 2, 1, 1, 1, 4), ((3, 5), (2, 1), (1, 2), (1, 2), 4, 2)],
)
def test_deformed_convolution_equals_torchvisions(kernel, stride, padding, dilation, groups, parts, device):
    layer = OffsetConv2d(8, 12, kernel, stride, padding, dilation, groups).to(device)
    x = torch.randn(2, 8, 11, 13, device=device, requires_grad=True)
    shape = nn.functional.conv2d(x, layer.weight, None, stride, padding, dilation, groups).shape[-2:]
    points = layer.kernel_size[0] * layer.kernel_size[1]
    offset = (3 * torch.randn(2, parts * points * 2, *shape, device=device)).requires_grad_()
    found = layer(x.to(memory_format=torch.channels_last), offset)
    expected = torchvision.ops.deform_conv2d(x, offset, layer.weight, layer.bias, stride, padding, dilation)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    weight, leaves = torch.randn_like(found), [x, offset, *layer.parameters()]
    gradients = [torch.autograd.grad((y * weight).sum(), leaves) for y in (found, expected)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("width", [16, 64, 98])
def test_thin_resnext_keeps_groups_of_four_channels(width):
    with outline():
        net = ResNet("resnext50_32x4d", width=width)
    for stage, blocks in enumerate(net.stages):
        for block in blocks:
            assert block.conv2.in_channels == block.conv2.out_channels == 2 * width * 2**stage
            assert block.conv2.groups == width // 2
    assert net.out_channels == tuple(4 * width * 2**stage for stage in range(4))


@pytest.mark.parametrize("build", THIN.values(), ids=THIN)
def test_last_stage_can_be_taken_out_of_a_network_that_its_description_builds(build):
    first = build(norm=Norm("group-ws", 4))
    net = build_backbone(json.loads(json.dumps(first.description))).eval()
    net.load_state_dict(first.state_dict())
    assert net.description == first.description
    images = torch.randn(1, 3, 64, 64)
    before, names, channels = net(images), set(net.state_dict()), net.out_channels
    last = net.take_last_stage()
    after = net(images)
    assert len(after) == 3
    assert (net.stride, net.out_channels) == (16, channels[:3])
    assert torch.equal(last(after[-1]), before[-1])
    inside = "features." if isinstance(net, MobileNetV2) else "layer4."
    assert {inside + name for name in last.state_dict()} == names - set(net.state_dict())
    third = net.take_last_stage()
    assert torch.equal(third(net(images)[-1]), before[2])


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (lambda: ResNet("resnet19"), "resnet19"),
        (lambda: ResNet("resnext50_32x4d", width=15), "multiple of 2"),
        (lambda: ResNet("resnet18", width=0), "at least 1, got 0"),
        (lambda: Norm("layer"), "'layer'"),
        (lambda: Norm("group", 0), "at least 1, got 0"),
    ],
)
def test_bad_settings_give_a_sentence(bad, says):
    with pytest.raises(InputError, match=says):
        bad()
