"""Whether an exported detector finds, in images of the built-in set, what the detector itself finds."""

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from common.batch import Detections
from common.data.batches import DetectionBatches
from common.data.scenes import scenes
from common.models.detector import Detector


def drawn_images(size: tuple[int, int], count: int = 3) -> Tensor:
    """Images of Scenes, fitted into a canvas (width, height) and normalised: (count, 3, H, W)."""
    return next(DetectionBatches(scenes("val", count, size=max(size)), size, count).in_order()).images


def wake(network: nn.Module, heads: dict[nn.Module, float], images: Tensor) -> nn.Module:
    """The untrained network with statistics of images, and heads whose answers differ from place to place.

    heads: last layers, with the deviation that their weights are drawn by.
    """
    for layer, deviation in heads.items():
        nn.init.normal_(layer.weight, std=deviation)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    network.train()(images)
    return network.eval()


def assert_same(detector: Detector, content: bytes, images: Tensor) -> None:
    """The graph gives of images, alone or several at once, the detections of the network, a good many of them."""
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    for image in (images[:1], images):
        expected, said = detector.model.detect(image), session.run(names, {"images": image.numpy()})
        found = Detections(**dict(zip(names, map(torch.from_numpy, said), strict=True)))
        assert found.valid.dtype == torch.bool
        assert torch.equal(found.valid, expected.valid)
        assert torch.equal(found.labels, expected.labels)
        torch.testing.assert_close(found.scores, expected.scores, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.boxes, expected.boxes, atol=1e-4 * max(image.shape[-2:]), rtol=1e-4)
        assert expected.valid.sum() > 10
        assert len(np.unique(expected.labels[expected.valid])) > 1
