"""Sub-networks on the same images: the loss against a plain loop, and batch norm that is really re-estimated."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common.batch import Batch, ClassificationBatch, Detections
from common.data.batches import DetectionBatches
from common.data.scenes import scenes
from common.evaluate.average_precision import METRICS, GroundTruth
from common.evaluate.recalibrate import reestimate_batch_norm
from common.evaluate.subnetworks import Evaluator, average_precision, folded
from common.models.centernet import CenterNet
from common.models.classifier import Classifier, classification_losses
from common.models.ofa_resnet import OFAResNet
from detofa.space import OFAResNetSpace

SPACE = OFAResNetSpace((1, 1, 1, 1), stage_widths=(8, 8, 16, 16), stem_width=8, channel_multiple=4)


def _batches(seed: int, sizes: tuple[int, ...], device, shift: float = 0.0) -> list[ClassificationBatch]:
    generator = torch.Generator().manual_seed(seed)
    images = [torch.randn(count, 3, 32, 32, generator=generator) * 2 + shift for count in sizes]
    labels = [torch.randint(5, (count,), generator=generator) for count in sizes]
    return [ClassificationBatch(i.to(device), y.to(device)) for i, y in zip(images, labels, strict=True)]


def _supernet(device) -> Classifier:
    torch.manual_seed(0)
    return Classifier(OFAResNet(SPACE), 5).to(device)


def test_loss_equals_a_loop_over_images(device):
    """Weighted by the images of each batch: the last is shorter, as batches of real sets are."""
    validation = _batches(1, (4, 4, 1), device)
    evaluator = Evaluator(_batches(2, (8, 8), device), validation, classification_losses)
    network = evaluator.recalibrate(_supernet(device).extract(SPACE.smallest()))
    total, count = 0.0, 0
    with torch.no_grad():
        for batch in validation:
            for image, label in zip(batch.images, batch.labels, strict=True):
                total -= network(image[None])[0].log_softmax(0)[label].item()
                count += 1
    assert evaluator.loss(network) == pytest.approx(total / count, rel=1e-5)
    assert count == 9


def test_folded_network_computes_the_same(device):
    torch.manual_seed(0)
    supernet = CenterNet(OFAResNet(SPACE), 3, (8, 8, 8), 8, elastic=True).to(device)
    images = torch.randn(6, 3, 64, 64, device=device)
    network = supernet.extract(SPACE.sample(1, np.random.default_rng(0))[0])
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
    reestimate_batch_norm(network, [images])
    network.eval()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    fast = folded(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    with torch.no_grad():
        expected, found = network(images), fast(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())

    supernet.eval().backbone.activate(SPACE.smallest())  # elastic layers are left unfolded
    with torch.no_grad():
        torch.testing.assert_close(folded(supernet)(images), supernet(images), rtol=1e-4, atol=1e-5)


def test_batch_norm_statistics_are_those_of_the_calibration_images(device):
    calibration = _batches(2, (8, 5), device, shift=3.0)
    evaluator = Evaluator(calibration, _batches(1, (4,), device), classification_losses)
    plain = _supernet(device).extract(SPACE.largest())
    stale = plain.eval().backbone.stem.first.norm.running_mean.clone()
    before = evaluator.loss(plain)
    evaluator.recalibrate(plain)
    assert not plain.training
    first = plain.backbone.stem.first
    with torch.no_grad():
        seen = first.conv(torch.cat([batch.images for batch in calibration])).transpose(0, 1).flatten(1)
    torch.testing.assert_close(first.norm.running_mean, seen.mean(dim=1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(first.norm.running_var, seen.var(dim=1), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(stale, first.norm.running_mean, atol=1e-2)
    assert abs(evaluator.loss(plain) - before) > 1e-3


def test_evaluating_one_path_does_not_touch_another(device):
    """The supernet is left alone, so the order of candidates does not matter."""
    evaluator = Evaluator(_batches(2, (8,), device), _batches(1, (8,), device), classification_losses)
    supernet = _supernet(device)
    weights = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    paths = SPACE.sample(4, np.random.default_rng(0))

    def losses(order):
        return {i: evaluator.loss(evaluator.recalibrate(supernet.extract(paths[i]))) for i in order}

    assert losses(range(4)) == losses([3, 1, 0, 2])
    assert all(torch.equal(weights[name], tensor) for name, tensor in supernet.state_dict().items())


class Truthful(nn.Module):
    """Finds exactly the objects of each batch, as boxes in pixels of the network's input."""

    def __init__(self, batches: list[Batch], offset: float = 0.0):
        super().__init__()
        self.answers = iter(batches)
        self.offset = offset

    def detect(self, images: Tensor) -> Detections:
        batch = next(self.answers)
        assert torch.equal(images, batch.images)
        scores = torch.linspace(0.9, 0.5, batch.labels.shape[1]).expand(batch.labels.shape).contiguous()
        return Detections(batch.boxes + self.offset, scores, batch.labels, batch.valid)


@pytest.mark.parametrize(("original", "size"), [(64, 64), (96, 64)])
def test_average_precision_of_the_truth_is_one_in_any_order(original, size):
    """Boxes go back to original pixels by the letterbox scale; without that the second case would score about 0."""
    dataset = scenes("val", 10, original, seed=1)
    batches = list(DetectionBatches(dataset, size, 4).in_order())
    truth, network = GroundTruth(dataset), Truthful(batches).train()
    numbers = average_precision(network, batches, truth)
    assert not network.training
    assert set(numbers) == set(METRICS)
    assert numbers["AP"] == numbers["AP50"] == pytest.approx(1.0)
    shifted = average_precision(Truthful(batches, offset=3.0), batches, truth)
    assert 0.0 < shifted["AP"] < 0.9
    assert shifted["AP50"] > shifted["AP75"]
    backwards = batches[::-1]  # each detection goes to the image of its `index`
    assert average_precision(Truthful(backwards), backwards, truth) == numbers
