"""The made-up paper's runs: a detector of each width."""

import torch
from torch import nn

from common.models.centernet import CenterNet, centernet_losses
from common.study import Study, spent
from common.train.loop import fit

SIZE = (32, 32)


class Backbone(nn.Sequential):
    stride = 8

    def __init__(self, width: int):
        self.out_channels = (width,)
        super().__init__(*(nn.Conv2d(3 if step == 0 else width, width, 3, 2, 1) for step in range(3)))

    def forward(self, images):
        return (super().forward(images),)


class WideNet(Study):
    paper = "widenet"

    def trained(self, width: int) -> dict:
        def make(run):
            torch.manual_seed(self.seed)
            network = self.placed(CenterNet(Backbone(width), len(self.categories), (8,), 8))
            losses = lambda batch, step: [centernet_losses(network(batch.images), batch)]  # noqa: E731
            batches, training = self.training_batches(SIZE, 8), self.training(self.preset.training)
            report = fit(run, "detector", network, batches, losses, training)
            return {**self.precision_at(network, SIZE, "validation"), **spent(report)}

        return self.once(f"width-{width}", make)
