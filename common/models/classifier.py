"""A classifier on a backbone's last feature, and its loss: how backbones and super-networks are pre-trained."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from common.batch import ClassificationBatch
from common.models.elastic import ElasticLinear, copy_corner
from common.models.norm import draw_weights
from common.models.outline import outline


class Classifier(nn.Module):
    """backbone: images -> tuple of features, with `out_channels`; its last feature may have any width up to the last.

    forward: images (B, 3, S, S) -> logits (B, classes).
    """

    def __init__(self, backbone: nn.Module, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.linear = ElasticLinear(backbone.out_channels[-1], classes)
        draw_weights(0.01, self.linear)

    def activate(self, path: Sequence[int]) -> None:
        """Use the sub-network of `path` of an elastic backbone from the next forward on."""
        self.backbone.activate(path)

    def extract(self, path: Sequence[int]) -> "Classifier":
        """The classifier on the plain backbone of `path`, with copies of the weights."""
        backbone = self.backbone.extract(path)
        with outline():
            plain = Classifier(backbone, self.linear.out_features)
        copy_corner(self.linear, plain.linear)
        return plain.train(self.training)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.backbone(images)[-1].mean((2, 3)))


def classification_losses(logits: Tensor, batch: ClassificationBatch) -> dict[str, Tensor]:
    """loss: mean cross-entropy of logits (B, K); accuracy: share of the batch whose likeliest class is right."""
    return {
        "loss": F.cross_entropy(logits, batch.labels),
        "accuracy": (logits.detach().argmax(1) == batch.labels).float().mean(),
    }
