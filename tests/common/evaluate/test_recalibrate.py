"""Batch-norm statistics against the inputs of each layer, collected and pooled."""

import copy

import pytest
import torch
from torch import nn

from common.evaluate.recalibrate import _batch_statistics, reestimate_batch_norm
from common.models.elastic import ElasticBatchNorm2d, ElasticConv2d, copy_corner


class Subclass(nn.BatchNorm2d):
    pass


class SmallNetwork(nn.Module):
    """Batch norms before and after a strided convolution, one that is called twice, one that no image reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(6, 8, 3, stride=2), Subclass(8, momentum=0.03))
        self.shared = nn.BatchNorm2d(8)
        self.dropout = nn.Dropout(0.5)
        self.unused = nn.BatchNorm2d(4)
        self.without_statistics = nn.BatchNorm2d(8, track_running_stats=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.second(self.first(images))
        features = self.shared(features) + self.shared(features[:, :, ::2, ::2] * 3 + 1).mean((2, 3), keepdim=True)
        return self.dropout(self.without_statistics(features))


def expected_statistics(model: nn.Module, batches: list[torch.Tensor]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Mean and unbiased variance of all that each layer is given, in float64, with batch statistics in use."""
    model = copy.deepcopy(model).eval()
    seen: dict[str, list[torch.Tensor]] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.train()
            inputs = seen[name] = []
            layer.register_forward_pre_hook(
                lambda _, given, inputs=inputs: inputs.append(given[0].double().transpose(0, 1).flatten(1))
            )
    with torch.no_grad():
        for batch in batches:
            model(batch)
    pooled = {name: torch.cat(inputs, dim=1) for name, inputs in seen.items() if inputs}
    return {name: (values.mean(1), values.var(1)) for name, values in pooled.items()}


def assert_statistics(layer, expected, channels: int | None = None) -> None:
    for buffer, wanted in zip((layer.running_mean, layer.running_var), expected, strict=True):
        torch.testing.assert_close(buffer[:channels].double(), wanted, rtol=1e-5, atol=1e-5)


def make_batches(sizes: list[int], device: torch.device) -> list[torch.Tensor]:
    """Batches whose means and scales differ, so that variance between batches matters."""
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(size, 3, 12, 16, generator=generator) * (1 + place) + 2 * place).to(device)
        for place, size in enumerate(sizes)
    ]


@pytest.mark.parametrize("sizes", [[4, 4, 4], [5, 2, 7, 1], [3]])
def test_equals_the_statistics_of_all_inputs(sizes, device):
    torch.manual_seed(0)
    model, batches = SmallNetwork().to(device), make_batches(sizes, device)
    expected = expected_statistics(model, batches)
    reestimate_batch_norm(model, iter(batches))
    for name in ("first.1", "second.1", "shared"):
        assert_statistics(model.get_submodule(name), expected[name])


@pytest.mark.parametrize("shape", [(4, 6, 32, 32), (3, 5, 40, 36), (2, 64, 48, 48), (2, 3, 7, 5), (4, 48, 32, 33)])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_batch_statistics_far_from_zero(shape, memory_format, device):
    """A mean of a thousand deviations, where the sum of squares would have no digits of the variance left."""
    torch.manual_seed(0)
    x = (torch.randn(shape, device=device) + 1000).contiguous(memory_format=memory_format)
    mean, variance = _batch_statistics(x)
    pixels = x.double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(mean.double(), pixels.mean(1), rtol=1e-5, atol=0)
    torch.testing.assert_close(variance.double(), pixels.var(1, correction=0), rtol=1e-4, atol=0)


def test_from_the_second_batch_on_a_head_without_statistics_is_not_run():
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 2, 1))
    batches = make_batches([3, 2, 4], torch.device("cpu"))
    expected = expected_statistics(model, batches)["1"]
    calls = []
    model[3].register_forward_hook(lambda *_: calls.append(1))
    reestimate_batch_norm(model, batches)
    assert len(calls) == 1
    assert_statistics(model[1], expected)


def test_everything_else_stays_as_it_was():
    model, batches = SmallNetwork(), make_batches([2, 2], torch.device("cpu"))
    model.train()
    model.first.eval()  # a part that is frozen in training
    model.unused.running_mean.fill_(7)
    training = {name: module.training for name, module in model.named_modules()}
    parameters = copy.deepcopy(list(model.parameters()))
    reestimate_batch_norm(model, batches)
    assert {name: module.training for name, module in model.named_modules()} == training
    assert [model.first[1].momentum, model.second[1].momentum] == [0.1, 0.03]
    assert model.unused.running_mean.tolist() == [7] * 4
    assert not any("forward" in vars(module) for module in model.modules())
    for before, after in zip(parameters, model.parameters(), strict=True):
        assert torch.equal(before, after)
        assert after.grad is None


def test_a_failure_half_way_leaves_the_model_as_it_was():
    model = SmallNetwork().train()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError):
        reestimate_batch_norm(model, [*make_batches([2], torch.device("cpu")), torch.zeros(2, 5, 8, 8)])
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    with pytest.raises(ValueError, match="no images"):
        reestimate_batch_norm(model, [])
    with pytest.raises(ValueError, match="at least two values per channel"):
        reestimate_batch_norm(nn.BatchNorm2d(3), [torch.zeros(1, 3, 1, 1)])


def test_elastic_layer_keeps_the_channels_that_are_not_in_use():
    torch.manual_seed(0)
    model = nn.Sequential(ElasticConv2d(3, 8, 3), ElasticBatchNorm2d(8))
    model[0].active_out_channels = 5
    model[1].running_mean.fill_(2)
    model[1].running_var.fill_(3)
    batches = make_batches([2, 3], torch.device("cpu"))
    plain = copy_corner(model, nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)))
    expected = expected_statistics(plain, batches)["1"]
    reestimate_batch_norm(model, batches)
    assert_statistics(model[1], expected, channels=5)
    assert model[1].running_mean[5:].tolist() == [2] * 3
    assert model[1].running_var[5:].tolist() == [3] * 3
