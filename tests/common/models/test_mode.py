"""Precision of the forward pass: bfloat16 where a CPU has no instructions for it, beside torch's own."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from common.models import mode
from common.plain import InputError

CPU = torch.device("cpu")


class Products(nn.Module):
    """Each kind of product that the networks here are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.grouped = nn.Conv2d(3, 8, 3, bias=False), nn.Conv2d(8, 8, 3, groups=4, bias=False)
        self.norm, self.up, self.linear = nn.BatchNorm2d(8), nn.ConvTranspose2d(8, 4, 2, stride=2), nn.Linear(4, 5)
        self.matrix = nn.Parameter(torch.randn(5, 6) / 3)

    def forward(self, x):
        x = F.relu(self.norm(self.grouped(self.convolution(x))))
        x = self.linear(spread(self.up(x).flatten(2).transpose(1, 2))) @ self.matrix
        with torch.autocast("cpu", enabled=False):
            exact = x.float() @ self.matrix.T
        return torch.matmul(x, self.matrix.T), exact


def spread(x):
    return x.softmax(dim=-1) * 4


def trained(precision):
    torch.manual_seed(0)
    network, images = Products(), torch.randn(2, 3, 10, 10)
    with mode.autocast_to(precision, CPU):
        outputs = network(images)
    sum((output.float() ** 2).mean() for output in outputs).backward()
    return outputs, {name: parameter.grad for name, parameter in network.named_parameters()}


@pytest.fixture
def without_bfloat16(monkeypatch):
    monkeypatch.setattr(mode, "computes_bfloat16", lambda device: False)


def test_bfloat16_without_instructions_is_torchs_own_but_for_the_order_of_sums(monkeypatch):
    found = []
    for able in (True, False):
        monkeypatch.setattr(mode, "computes_bfloat16", lambda device, able=able: able)
        found.append(trained("bfloat16"))
    (theirs, their_gradients), (ours, our_gradients) = found
    for own, expected in zip(ours, theirs, strict=True):
        assert own.dtype == expected.dtype
        torch.testing.assert_close(own, expected, rtol=2**-6, atol=2**-6)
    for name, gradient in our_gradients.items():
        assert gradient.dtype == torch.float32
        torch.testing.assert_close(gradient, their_gradients[name], rtol=0.05, atol=0.02 * gradient.abs().max().item())


def test_one_product_without_instructions_is_that_of_rounded_numbers_rounded(without_bfloat16):
    x, layer = torch.randn(4, 7), nn.Linear(7, 3)
    with mode.autocast_to("bfloat16", CPU):
        found = layer(x)
    rounded = [tensor.detach().bfloat16().double() for tensor in (x, layer.weight, layer.bias)]
    exact = rounded[0] @ rounded[1].T + rounded[2]
    assert torch.equal(found, exact.bfloat16())
    assert not torch.equal(found.double(), (x.double() @ layer.weight.double().T + layer.bias).bfloat16().double())


@pytest.mark.parametrize("able", [True, False])
def test_doubles_stay_what_they_are(able, monkeypatch):
    monkeypatch.setattr(mode, "computes_bfloat16", lambda device: able)
    x = torch.randn(3, 3, dtype=torch.float64)
    with mode.autocast_to("bfloat16", CPU):
        assert torch.equal(torch.matmul(x, x), x @ x)
        assert torch.matmul(x, x).dtype == torch.float64


def test_nothing_is_rounded_in_float32_and_after_the_forward_pass(without_bfloat16):
    (outputs, _), x = trained("float32"), torch.randn(2, 4)
    assert {output.dtype for output in outputs} == {torch.float32}
    with mode.autocast_to("bfloat16", CPU):
        pass
    assert torch.matmul(x, x.T).dtype == torch.float32


def test_a_gpu_without_bfloat16_is_refused(without_bfloat16):
    refused = pytest.raises(InputError, match="this GPU does not compute with bfloat16: leave --precision")
    with refused, mode.autocast_to("bfloat16", torch.device("cuda")):
        pass
    with mode.autocast_to("float32", torch.device("cuda")):
        pass
