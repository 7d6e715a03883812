"""Backbones against torchvision's networks, and each norm against its definition."""

import json

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.resnet import Bottleneck

from common.models.deformable import DeformableConv2d, OffsetConv2d
from common.models.detector import build_backbone
from common.models.mobilenet import MobileNetV2
from common.models.norm import FrozenBatchNorm2d, Norm, StandardisedConv2d
from common.models.resnet import ARCHITECTURES, ResNet
from common.plain import InputError


def randomise_statistics(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d | torchvision.ops.FrozenBatchNorm2d):
            for tensor in (layer.running_mean, layer.bias):
                tensor.data.normal_(std=0.1)
            for tensor in (layer.running_var, layer.weight):
                tensor.data.uniform_(0.5, 1.5)


def torchvision_network(name: str) -> nn.Module:
    if name == "resnext101_32x4d":  # torchvision names the 32x8d only
        return torchvision.models.ResNet(Bottleneck, [3, 4, 23, 3], groups=32, width_per_group=4)
    return torchvision.models.get_model(name, weights=None)


@pytest.mark.parametrize("kind", ["batch", "group-ws"])
@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d"])
def test_blocks_begin_as_their_shortcuts(name, kind):
    network = ResNet(name, Norm(kind), width=16).eval()
    x = torch.randn(2, network.layer2[1].conv1.in_channels, 8, 8)
    assert torch.equal(network.layer2[1](x), x.relu())
    assert network.layer2[0].downsample[1].weight.all()  # of a shortcut: stays


def test_a_frozen_norm_that_could_not_leave_zero_starts_at_one():
    network = ResNet("resnet18", Norm("frozen"), width=16)
    assert network.layer2[1].bn2.weight.all()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_same_function_as_torchvision_with_its_weights(name):
    theirs = torchvision_network(name).eval()
    randomise_statistics(theirs)
    ours = ResNet(name).eval()
    left_over = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert left_over.missing_keys == []
    assert left_over.unexpected_keys == ["fc.weight", "fc.bias"]
    images = torch.randn(1, 3, 64, 32)
    with torch.no_grad():
        features = ours(images)
        assert torch.equal(theirs.fc(features[-1].mean(dim=(2, 3))), theirs(images))
    for feature, channels, stride in zip(features, ours.out_channels, ours.strides, strict=True):
        assert feature.shape == (1, channels, 64 // stride, 32 // stride)


def test_mobilenet_is_torchvisions():
    theirs = torchvision.models.mobilenet_v2(weights=None).eval()
    randomise_statistics(theirs)
    ours = MobileNetV2().eval()
    left_over = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert left_over.missing_keys == []
    images = torch.randn(1, 3, 64, 96)
    features = ours(images)
    assert [tuple(f.shape[1:]) for f in features] == [(24, 16, 24), (32, 8, 12), (96, 4, 6), (1280, 2, 3)]
    assert ours.out_channels == (24, 32, 96, 1280)
    torch.testing.assert_close(theirs.classifier(features[-1].mean(dim=(2, 3))), theirs(images))
    thin = MobileNetV2(Norm("group-ws", 8), width=0.25)
    assert [f.shape[1] for f in thin(images)] == list(thin.out_channels)


def test_frozen_norm_is_torchvisions(device):
    ours, theirs = FrozenBatchNorm2d(5).to(device), torchvision.ops.FrozenBatchNorm2d(5).to(device)
    randomise_statistics(theirs)
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
        each /= each.flatten().std() + 1e-5
    torch.testing.assert_close(layer(x), nn.functional.conv2d(x, expected, layer.bias), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["batch", "frozen", "group", "group-ws"])
def test_each_norm_in_a_network(kind):
    net = ResNet("resnet18", Norm(kind, groups=8), width=12)
    norms = {type(m) for m in net.modules() if isinstance(m, nn.BatchNorm2d | nn.GroupNorm | FrozenBatchNorm2d)}
    assert norms == {{"batch": nn.BatchNorm2d, "frozen": FrozenBatchNorm2d}.get(kind, nn.GroupNorm)}
    convolutions = {type(module) for module in net.modules() if isinstance(module, nn.Conv2d)}
    assert convolutions == {StandardisedConv2d if kind == "group-ws" else nn.Conv2d}
    assert net.out_channels == (12, 24, 48, 96)
    if kind.startswith("group"):
        assert net.bn1.num_groups == 4  # 8 does not divide 12
        assert net.layer2[0].bn1.num_groups == 8
    sum(feature.mean() for feature in net(torch.randn(2, 3, 64, 64))).backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d"])
@pytest.mark.parametrize("kind", ["batch", "group-ws"])
def test_deformable_stages_start_as_plain_ones(name, kind, awake):
    plain = awake(ResNet(name, Norm(kind), width=16)).eval()
    deformable = ResNet(name, Norm(kind), deformable=(3, 4), width=16).eval()
    left_over = deformable.load_state_dict(plain.state_dict(), strict=False)
    assert left_over.unexpected_keys == []
    assert all(".conv2.offset." in key for key in left_over.missing_keys)
    images = torch.randn(1, 3, 64, 64)
    for ours, theirs in zip(deformable(images), plain(images), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    kinds = [{isinstance(block.conv2, DeformableConv2d) for block in stage} for stage in deformable.stages]
    assert kinds == [{False}, {False}, {True}, {True}]
    deformable(images)[-1].square().mean().backward()
    assert deformable.layer3[0].conv2.offset.weight.grad.abs().sum() > 0


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


@pytest.mark.parametrize("kind", ["batch", "group-ws"])
def test_deformable_stages_under_autocast(kind, device):
    torch.manual_seed(0)
    net = ResNet("resnet18", Norm(kind, 8), deformable=(3, 4), width=16).to(device)
    nn.init.normal_(net.layer4[1].conv2.offset.weight, std=0.1)
    images = torch.randn(2, 3, 64, 64, device=device)
    plain = net(images)[-1]
    with torch.autocast(device.type, dtype=torch.bfloat16):
        found = net(images)[-1]
    assert (found - plain).abs().mean() < 0.2 * plain.abs().mean()
    found.square().mean().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_frozen_stages_keep_their_weights():
    net = ResNet("resnet18", Norm("frozen"), frozen_stages=1, width=8)
    frozen = {name.split(".")[0] for name, p in net.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "layer1"}
    assert all(p.requires_grad for stage in net.stages[1:] for p in stage.parameters())


@pytest.mark.parametrize("width", [16, 64, 98])
def test_thin_resnext_keeps_groups_of_four_channels(width):
    with torch.device("meta"):
        net = ResNet("resnext50_32x4d", width=width)
    for stage, blocks in enumerate(net.stages):
        for block in blocks:
            assert block.conv2.in_channels == block.conv2.out_channels == 2 * width * 2**stage
            assert block.conv2.groups == width // 2
    assert net.out_channels == tuple(4 * width * 2**stage for stage in range(4))


@pytest.mark.parametrize(
    "net",
    [lambda: ResNet("resnet18", width=8), lambda: MobileNetV2(width=0.25)],
    ids=["resnet", "mobilenet"],
)
def test_last_stage_can_be_taken_out(net):
    net = net().eval()
    images = torch.randn(1, 3, 64, 64)
    before, names, channels = net(images), set(net.state_dict()), net.out_channels
    last = net.take_last_stage()
    after = net(images)
    assert len(after) == 3
    assert net.stride == 16
    assert net.out_channels == channels[:3]
    assert torch.equal(last(after[-1]), before[-1])
    assert set(net.state_dict()) < names
    inside = "features." if isinstance(net, MobileNetV2) else "layer4."
    assert {inside + name for name in last.state_dict()} == names - set(net.state_dict())
    with pytest.raises(InputError, match="taken out"):
        net.take_last_stage()


@pytest.mark.parametrize(
    "network",
    [
        lambda: ResNet("resnet34", Norm("group-ws", 4), deformable=(4,), frozen_stages=2, width=8),
        lambda: MobileNetV2(Norm("frozen"), 0.5),
    ],
)
def test_description_builds_the_same_network(network):
    first = network()
    again = build_backbone(json.loads(json.dumps(first.description)))
    again.load_state_dict(first.state_dict())
    assert again.description == first.description


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (lambda: ResNet("resnet19"), "resnet19"),
        (lambda: ResNet("resnet18", deformable=(5,)), "stages 1 to 4"),
        (lambda: ResNet("resnet18", frozen_stages=5), "stages 1 to 4"),
        (lambda: ResNet("resnext50_32x4d", width=15), "multiple of 2"),
        (lambda: ResNet("resnet18", width=0), "width 0"),
        (lambda: Norm("layer"), "'layer'"),
        (lambda: Norm("group", 0), "0 groups"),
    ],
)
def test_bad_settings_give_a_sentence(bad, says):
    with pytest.raises(InputError, match=says):
        bad()
