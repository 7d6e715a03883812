"""Elastic layers against plain layers on sliced weights."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.models import elastic
from common.models.architectures import round_channels
from common.models.elastic import (
    ElasticBatchNorm2d,
    ElasticConv2d,
    ElasticConvTranspose2d,
    ElasticGroupsLinear,
    ElasticLinear,
    copy_corner,
    corner,
    make_elastic,
)
from tests.common.models.families import randomise_norms


def test_round_channels_gives_the_nearest_multiple_and_keeps_90_percent():
    rounded = {166.4: 168, 204.8: 208, 3: 8, 20: 24, 41.6: 40, 11.9: 16, 64: 64}
    assert {value: round_channels(value) for value in rounded} == rounded
    assert round_channels(10, 4) == 12
    values = torch.arange(1, 400) * 0.37
    assert all(round_channels(value) >= 0.9 * value for value in values.tolist())


class Layers(nn.ModuleList):
    """One of each; x (B, C, 6, 6) to (B, 5)."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        up = ElasticConvTranspose2d(12, 5, 4, 2, 1, bias=False)
        groups = ElasticGroupsLinear(nn.Linear(36 * 12, 2), 36)
        super().__init__([ElasticConv2d(6, 12, 3, padding=1), ElasticBatchNorm2d(12), up, ElasticLinear(5, 3), groups])

    def forward(self, x: Tensor, channels: int) -> Tensor:
        conv, norm, up, linear, groups = self
        conv.active_out_channels = channels
        x = norm(conv(x)).relu()
        return torch.cat([linear(up(x).mean((2, 3))), groups(x.permute(0, 2, 3, 1).flatten(1))], dim=1)


def by_slicing(weights: list[Tensor], statistics: list[Tensor], x: Tensor, channels: int) -> Tensor:
    """The same under plain autograd."""
    conv, conv_bias, gain, shift, up, linear, linear_bias, groups, groups_bias = weights
    x = F.conv2d(x, conv[:channels, : x.shape[1]], conv_bias[:channels], padding=1)
    x = F.batch_norm(x, *(part[:channels] for part in statistics), gain[:channels], shift[:channels], training=True)
    x = x.relu()
    pooled = F.conv_transpose2d(x, up[:channels], stride=2, padding=1).mean((2, 3))
    in_groups = torch.einsum("bfg,ogf->bo", x.flatten(2), groups[..., :channels]) + groups_bias
    return torch.cat([F.linear(pooled, linear, linear_bias), in_groups], dim=1)


@pytest.mark.parametrize("direct_from", [0, 1 << 60])
@pytest.mark.parametrize("together", [True, False])
def test_gradients_over_several_paths_equal_plain_autograd(device, together, direct_from, monkeypatch):
    monkeypatch.setattr(elastic, "DIRECT_FROM", direct_from)
    layers = Layers().to(device)
    parameters = list(layers.parameters())
    weights = [parameter.detach().clone().requires_grad_() for parameter in parameters]
    statistics = [layers[1].running_mean.clone(), layers[1].running_var.clone()]
    optimisers = [torch.optim.SGD(some, lr=0.01, momentum=0.9) for some in (parameters, weights)]
    for step in range(3):
        for optimiser in optimisers:
            optimiser.zero_grad(set_to_none=step == 1)
        losses = []
        for inputs, channels in [(6, 12), (4, 8), (6, 5), (3, 12)] if step != 1 else [(4, 8)]:
            x = torch.randn(2, inputs, 6, 6, device=device)
            pair = layers(x, channels), by_slicing(weights, statistics, x, channels)
            torch.testing.assert_close(*pair)
            losses.append([each.square().sum() for each in pair])
        for each in [[sum(some) for some in zip(*losses, strict=True)]] if together else losses:
            for loss in each:
                loss.backward()
        torch.testing.assert_close([each.grad for each in parameters], [each.grad for each in weights])
        for optimiser in optimisers:
            optimiser.step()
    torch.testing.assert_close(parameters, weights)
    torch.testing.assert_close([layers[1].running_mean, layers[1].running_var], statistics)


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
def test_copy_corner_gives_the_plain_layers(device, memory_format):
    full = randomise_norms(Layers()).eval().to(device, memory_format=memory_format)
    with torch.device("meta"):
        plain = nn.ModuleList(
            [nn.Conv2d(4, 7, 3, padding=1), nn.BatchNorm2d(7), nn.ConvTranspose2d(7, 5, 4, 2, 1, bias=False)]
        )
        plain.extend([nn.Linear(5, 3), nn.Linear(36 * 7, 2)])
    copy_corner(full, plain)
    assert not plain.training
    assert plain[0].weight.is_contiguous(memory_format=memory_format)
    x = torch.randn(2, 4, 6, 6, device=device).to(memory_format=memory_format)
    inside = plain[1](plain[0](x)).relu()
    ends = plain[3](plain[2](inside).mean((2, 3))), plain[4](inside.permute(0, 2, 3, 1).flatten(1))
    torch.testing.assert_close(torch.cat(ends, dim=1), full(x, 7))
    nn.init.zeros_(plain[0].weight)
    assert full[0].weight.abs().sum() > 0


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
