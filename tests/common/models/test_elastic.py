"""Elastic layers against plain layers on sliced weights."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common.models import elastic
from common.models.architectures import round_channels
from common.models.elastic import (
    ElasticBatchNorm2d,
    ElasticConv2d,
    ElasticConvTranspose2d,
    ElasticGroupsLinear,
    ElasticLinear,
    active_weights,
    copy_corner,
    corner,
    make_elastic,
    sort_shared_channels,
)


@pytest.mark.parametrize(
    ("value", "multiple", "expected"),
    [(166.4, 8, 168), (204.8, 8, 208), (3, 8, 8), (20, 8, 24), (41.6, 8, 40), (11.9, 8, 16), (10, 4, 12), (64, 8, 64)],
)
def test_round_channels(value, multiple, expected):
    assert round_channels(value, multiple) == expected


def test_round_channels_keeps_90_percent():
    values = torch.arange(1, 400) * 0.37
    assert all(round_channels(value) >= 0.9 * value for value in values.tolist())


def _forward(layers, x, conv_out):
    conv, norm, up, linear = layers
    conv.active_out_channels = conv_out
    return linear(up(norm(conv(x)).relu()).mean((2, 3)))


def _reference(weights, statistics, x, conv_out):
    """The same by plain slicing under plain autograd."""
    conv, conv_bias, gain, shift, up, linear, linear_bias = weights
    x = F.conv2d(x, conv[:conv_out, : x.shape[1]], conv_bias[:conv_out], padding=1)
    x = F.batch_norm(x, *[part[:conv_out] for part in statistics], gain[:conv_out], shift[:conv_out], training=True)
    x = F.conv_transpose2d(x.relu(), up[:conv_out], stride=2, padding=1)
    return F.linear(x.mean((2, 3)), linear, linear_bias)


@pytest.mark.parametrize("direct_from", [0, 1 << 60])
@pytest.mark.parametrize("set_to_none", [True, False])
def test_gradients_over_several_paths_equal_plain_autograd(device, set_to_none, direct_from, monkeypatch):
    monkeypatch.setattr(elastic, "DIRECT_FROM", direct_from)
    torch.manual_seed(0)
    layers = nn.ModuleList(
        [
            ElasticConv2d(6, 12, 3, padding=1),
            ElasticBatchNorm2d(12),
            ElasticConvTranspose2d(12, 5, 4, 2, 1, bias=False),
            ElasticLinear(5, 3),
        ]
    ).to(device)
    parameters = list(layers.parameters())
    weights = [parameter.detach().clone().requires_grad_() for parameter in parameters]
    statistics = [layers[1].running_mean.clone(), layers[1].running_var.clone()]
    optimisers = [torch.optim.SGD(some, lr=0.1, momentum=0.9) for some in (parameters, weights)]
    for step in range(3):
        for optimiser in optimisers:
            optimiser.zero_grad(set_to_none=set_to_none)
        paths = [(6, 12), (4, 8), (6, 5), (3, 12)] if step != 1 else [(4, 8)]
        for channels, conv_out in paths:
            x = torch.randn(2, channels, 6, 6, device=device)
            ours, plain = _forward(layers, x, conv_out), _reference(weights, statistics, x, conv_out)
            torch.testing.assert_close(ours, plain)
            ours.square().sum().backward()
            plain.square().sum().backward()
        for parameter, weight in zip(parameters, weights, strict=True):
            torch.testing.assert_close(parameter.grad, weight.grad)
        for optimiser in optimisers:
            optimiser.step()
    for parameter, weight in zip(parameters, weights, strict=True):
        torch.testing.assert_close(parameter, weight)
    torch.testing.assert_close([layers[1].running_mean, layers[1].running_var], statistics)


@pytest.mark.parametrize("direct_from", [0, 1 << 60])
def test_two_paths_in_one_backward(device, direct_from, monkeypatch):
    monkeypatch.setattr(elastic, "DIRECT_FROM", direct_from)
    conv = ElasticConv2d(6, 12, 3, padding=1, bias=False).to(device)
    weight = conv.weight.detach().clone().requires_grad_()
    x = torch.randn(2, 6, 5, 5, device=device)
    total, expected = 0.0, 0.0
    for channels, out in [(6, 12), (4, 7), (5, 12), (6, 3)]:
        conv.active_out_channels = out
        total = total + conv(x[:, :channels]).square().sum()
        expected = expected + F.conv2d(x[:, :channels], weight[:out, :channels], padding=1).square().sum()
    total.backward()
    expected.backward()
    torch.testing.assert_close(conv.weight.grad, weight.grad)


def test_gradient_reaches_the_input_and_frozen_weights_get_none(device):
    conv = ElasticConv2d(4, 4, 1).to(device).requires_grad_(False)
    conv.active_out_channels = 2
    x = torch.randn(1, 3, 2, 2, device=device, requires_grad=True)
    conv(x).sum().backward()
    torch.testing.assert_close(x.grad[0, :, 0, 0], conv.weight[:2, :3, 0, 0].sum(0))
    assert conv.weight.grad is None


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_corner_is_the_slice(memory_format):
    full = torch.randn(6, 5, 3, 2).contiguous(memory_format=memory_format)
    for tensor in (full, full[1:, 1:]):
        found = corner(tensor, (4, 2, 3, 1))
        assert torch.equal(found, tensor[:4, :2, :, :1])
        assert found.data_ptr() == tensor.data_ptr()
    with pytest.raises(ValueError, match="no corner"):
        corner(full[:, :4], (6, 5, 3, 2))


def test_too_many_channels_are_refused():
    conv = ElasticConv2d(4, 4, 3)
    conv.active_out_channels = 2
    with pytest.raises(ValueError, match="no corner"):
        conv(torch.randn(1, 5, 3, 3))


def test_norm_updates_only_the_channels_in_use(device):
    norm, plain = ElasticBatchNorm2d(8, momentum=0.3).to(device), nn.BatchNorm2d(5, momentum=0.3).to(device)
    for _ in range(3):
        x = torch.randn(4, 5, 3, 3, device=device) * 3 + 1
        assert torch.equal(norm(x), plain(x))
    assert torch.equal(norm.running_mean[:5], plain.running_mean)
    assert torch.equal(norm.running_var[:5], plain.running_var)
    assert norm.num_batches_tracked == plain.num_batches_tracked
    assert torch.equal(norm.running_mean[5:].cpu(), torch.zeros(3))
    norm.eval(), plain.eval()
    assert torch.equal(norm(x), plain(x))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_copy_corner_gives_the_plain_layer(device, memory_format):
    torch.manual_seed(0)
    net = nn.Sequential(ElasticConv2d(6, 8, 3, padding=1), ElasticBatchNorm2d(8)).eval()
    net = net.to(device, memory_format=memory_format)
    net[0].active_out_channels = 5
    x = torch.randn(2, 4, 8, 8, device=device).to(memory_format=memory_format)
    with torch.device("meta"):
        plain = nn.Sequential(nn.Conv2d(4, 5, 3, padding=1), nn.BatchNorm2d(5))
    copy_corner(net, plain)
    assert not plain.training
    assert plain[0].weight.is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(plain(x), net(x))
    nn.init.zeros_(plain[0].weight)
    assert net[0].weight.abs().sum() > 0


def test_sort_shared_channels_keeps_the_function(device):
    torch.manual_seed(0)
    conv, norm = ElasticConv2d(3, 8, 1).to(device), ElasticBatchNorm2d(8).to(device)
    norm.weight.data.uniform_(0.5, 2), norm.running_mean.uniform_(-1, 1), norm.running_var.uniform_(0.5, 2)
    up, linear = ElasticConvTranspose2d(8, 4, 4, 2, 1).to(device), ElasticLinear(8, 2).to(device)
    norm.eval()
    x = torch.randn(2, 3, 4, 4, device=device)

    def run():
        y = norm(conv(x)).relu()
        return up(y), linear(y.mean((2, 3)))

    before = run()
    sort_shared_channels([conv, norm], [up, linear])
    torch.testing.assert_close(run(), before, atol=1e-5, rtol=1e-5)
    importance = up.weight.abs().sum((1, 2, 3)) + linear.weight.abs().sum(0)
    assert (importance.diff() <= 1e-5).all()


@pytest.mark.parametrize("direct_from", [0, 1 << 60])
def test_a_layer_on_groups_reads_the_first_features_of_each(device, direct_from, monkeypatch):
    monkeypatch.setattr(elastic, "DIRECT_FROM", direct_from)
    torch.manual_seed(0)
    layer = ElasticGroupsLinear(nn.Linear(4 * 6, 3), groups=4).to(device)
    weight = layer.weight.detach().clone().requires_grad_()
    for features in (6, 2, 5):
        x = torch.randn(2, 7, 4, features, device=device)
        expected = torch.einsum("bsgf,ogf->bso", x, weight[..., :features]) + layer.bias.detach()
        found = layer(x.flatten(2))
        torch.testing.assert_close(found, expected)
        found.square().sum().backward()
        expected.square().sum().backward()
    torch.testing.assert_close(layer.weight.grad, weight.grad)


def test_a_layer_on_groups_is_the_plain_one_that_it_came_from_and_gives_plain_ones(device):
    torch.manual_seed(0)
    plain = nn.Linear(4 * 6, 3).to(device)
    layer = ElasticGroupsLinear(plain, 4)
    x = torch.randn(5, 4, 6, device=device)
    assert torch.equal(layer(x.flatten(1)), plain(x.flatten(1)))
    with torch.device("meta"):
        narrow = nn.Linear(4 * 2, 3)
    copy_corner(layer, narrow)
    torch.testing.assert_close(narrow(x[..., :2].flatten(1)), layer(x[..., :2].flatten(1)))


def test_the_inputs_of_a_layer_on_groups_are_sorted_along(device):
    torch.manual_seed(0)
    conv, layer = ElasticConv2d(3, 6, 1).to(device), ElasticGroupsLinear(nn.Linear(4 * 6, 2), 4).to(device)
    x = torch.randn(1, 3, 2, 2, device=device)

    def run():
        return layer(conv(x).permute(0, 2, 3, 1).flatten(1))

    before = run()
    sort_shared_channels([conv], [layer])
    torch.testing.assert_close(run(), before)
    assert (layer.weight.abs().sum((0, 1)).diff() <= 1e-5).all()


def test_a_plain_network_made_elastic_computes_the_same_until_less_is_activated(device):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.Sequential(nn.BatchNorm2d(8, momentum=0.3)), nn.ReLU())
    net = net.to(device).eval()
    net[1][0].running_mean.uniform_(-1, 1)
    x = torch.randn(2, 3, 6, 6, device=device)
    before, names = net(x), set(net.state_dict())
    weights = list(net.parameters())
    assert make_elastic(net) is net
    assert torch.equal(net(x), before)
    assert set(net.state_dict()) == names
    assert all(ours is weight for ours, weight in zip(net.parameters(), weights, strict=True))
    assert type(net[1][0]) is ElasticBatchNorm2d
    assert net[1][0].momentum == 0.3
    assert not net[1][0].training
    net[0].active_out_channels = 5
    torch.testing.assert_close(net(x), before[:, :5])


def test_active_weights_are_what_a_convolution_uses(device):
    conv, plain = ElasticConv2d(4, 6, 3).to(device), nn.Conv2d(4, 6, 3).to(device)
    conv.active_out_channels = 2
    weight, bias = active_weights(conv, 3)
    assert torch.equal(weight, conv.weight[:2, :3])
    assert torch.equal(bias, conv.bias[:2])
    assert active_weights(plain, 4) == (plain.weight, plain.bias)
