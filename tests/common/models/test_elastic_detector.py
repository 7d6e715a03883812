"""Sub-networks of an elastic detector against the plain ones taken out of it, and the sorting of its channels."""

import pytest
import torch

from common.batch import Batch
from common.evaluate.recalibrate import reestimate_batch_norm
from common.models import elastic
from common.models.described import Architecture, Block, Stage
from common.models.elastic_detector import ElasticTwoStage
from common.models.two_stage import look_at, two_stage_losses
from tests.common.models.families import CLASSES, ROI, RPN, make_batch, wake_heads


def bottlenecks(depths: tuple[int, ...], widths: tuple[int, ...]) -> Architecture:
    stages = [
        Stage(4 * width, 2 if number else 1, "projection", (Block((width, width)),) * depth)
        for number, (depth, width) in enumerate(zip(depths, widths, strict=True))
    ]
    return Architecture("bottleneck", 8, tuple(stages))


SUB_NETWORKS = {  # architecture, neck width
    "largest": (bottlenecks((2, 2, 3, 2), (12, 24, 48, 96)), 24),
    "smallest": (bottlenecks((1, 1, 1, 1), (8, 16, 32, 64)), 16),
    "middle": (bottlenecks((2, 1, 2, 1), (10, 24, 32, 80)), 20),
    "unequal": (bottlenecks((1, 2, 3, 2), (12, 16, 48, 64)), 16),
}


def make_elastic_detector(device) -> ElasticTwoStage:
    """Untrained, but with heads that say something, and no block that adds nothing."""
    torch.manual_seed(0)
    network = ElasticTwoStage(*SUB_NETWORKS["largest"], CLASSES, RPN, ROI)
    wake_heads(network)
    with torch.no_grad():
        for name, parameter in network.backbone.named_parameters():
            if parameter.ndim == 1 and name.endswith("weight"):
                parameter.uniform_(0.5, 1.5)
    return network.to(device)


def corner(full: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """By slices; of a weight on the bins of a region, of each bin."""
    if full.dim() == len(shape) + 1:
        return full[: shape[0], :, : shape[1] // full.shape[1]].flatten(1)
    return full[tuple(slice(side) for side in shape)]


@pytest.mark.parametrize(
    ("name", "direct_from"), [("largest", 0), ("middle", 0), ("unequal", 0), ("unequal", elastic.DIRECT_FROM)]
)
def test_a_network_taken_out_computes_what_the_elastic_one_does(name, direct_from, monkeypatch, device):
    monkeypatch.setattr(elastic, "DIRECT_FROM", direct_from)
    whole, batch = make_elastic_detector(device), make_batch().to(device)
    whole.activate(*SUB_NETWORKS["middle"])  # whatever it was before
    whole.activate(*SUB_NETWORKS[name])
    reestimate_batch_norm(whole, [batch.images])
    plain = whole.extract(*SUB_NETWORKS[name])
    assert not [module for module in plain.modules() if "Elastic" in type(module).__name__]
    assert (plain.backbone.architecture, plain.fpn.width) == SUB_NETWORKS[name]

    whole.eval(), plain.eval()
    with torch.no_grad():
        ours, theirs = whole(batch.images), plain(batch.images)
    for a, b in zip((*ours.maps, *ours.regions), (*theirs.maps, *theirs.regions), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)

    whole.train(), plain.train()
    found = []
    for network in (whole, plain):
        generator = torch.Generator(device=device).manual_seed(0)
        losses = two_stage_losses(network(batch.images), batch, generator)
        losses["loss"].backward()
        found.append(torch.stack([*losses.values()]).detach())
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)
    full = dict(whole.named_parameters())
    for parameter_name, parameter in plain.named_parameters():
        gradient = full[parameter_name].grad
        inside = corner(gradient, parameter.shape)
        torch.testing.assert_close(inside, parameter.grad, rtol=1e-3, atol=1e-4)
        assert (gradient.abs().sum() - inside.abs().sum()).abs() <= 1e-4 * gradient.abs().sum()
    idle = [each for each in full if each not in dict(plain.named_parameters())]
    assert all(full[each].grad is None for each in idle)
    assert bool(idle) == (name != "largest")


def said(whole: ElasticTwoStage, network: tuple[Architecture, int], batch: Batch) -> list[torch.Tensor]:
    """What a sub-network makes of the images, and of the objects as regions."""
    whole.eval().activate(*network)
    with torch.no_grad():
        outputs = whole(batch.images)
        regions = look_at(whole, outputs.maps, batch.boxes)
    return [outputs.rpn["objectness"], regions.logits, regions.codes]


def test_sorted_channels_leave_the_largest_network_as_it_was(device):
    whole, batch = make_elastic_detector(device), make_batch().to(device)
    reestimate_batch_norm(whole, [batch.images])
    before = {name: said(whole, SUB_NETWORKS[name], batch) for name in ("largest", "smallest")}
    whole.sort_channels()
    after = {name: said(whole, SUB_NETWORKS[name], batch) for name in before}
    torch.testing.assert_close(after["largest"], before["largest"], rtol=1e-3, atol=1e-3)  # sums in another order
    assert not torch.allclose(after["smallest"][0], before["smallest"][0], rtol=0.1, atol=0.1)
    block = whole.backbone.stage3[1].body
    inner = block[6].weight.abs().sum((0, 2, 3))
    neck = whole.rpn.conv.weight.abs().sum((0, 2, 3)) + whole.roi.heads[0].hidden[0].weight.abs().sum((0, 1))
    reading = [each.body[0] for each in whole.backbone.stage3[1:]] + [whole.fpn.laterals[2]]
    reading += [whole.backbone.stage4[0].body[0], whole.backbone.stage4[0].projection[0]]
    outer = sum(layer.weight.abs().sum((0, 2, 3)) for layer in reading)
    for importance in (inner, neck, outer):
        assert (importance.diff() <= 1e-4).all()


def test_sorting_again_leaves_what_was_trained_as_it_was(device):
    """Of two widths that are kept also a mixture; a third one changes."""
    whole, batch = make_elastic_detector(device), make_batch().to(device)
    reestimate_batch_norm(whole, [batch.images])
    depths = (2, 2, 3, 2)
    trained = [SUB_NETWORKS["largest"], (bottlenecks(depths, (10, 20, 40, 80)), 20)]
    mixed, other = (bottlenecks((1, 2, 2, 2), (12, 20, 40, 96)), 20), (bottlenecks(depths, (8, 16, 32, 64)), 16)
    before = [said(whole, each, batch) for each in (*trained, mixed, other)]
    whole.sort_channels(trained)
    for network, expected in zip((*trained, mixed), before, strict=False):
        torch.testing.assert_close(said(whole, network, batch), expected, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(said(whole, other, batch)[0], before[-1][0], rtol=0.1, atol=0.1)
