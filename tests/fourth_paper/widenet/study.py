"""The made-up paper's runs: a detector of each width."""

from pathlib import Path

import torch

from common.models.centernet import CenterNet, centernet_losses
from common.models.resnet import ResNet
from common.study import Study, spent
from common.train.loop import fit
from common.train.run_folder import Run

SIZE = (32, 32)


class WideNet(Study):
    paper = "widenet"

    def fresh(self, width: int) -> CenterNet:
        torch.manual_seed(self.seed)
        return self.placed(CenterNet(ResNet("resnet18", width=width), len(self.categories), (8,), 8))

    def trained(self, width: int) -> dict:
        def make(run):
            network = self.fresh(width)
            losses = lambda batch, step: [centernet_losses(network(batch.images), batch)]  # noqa: E731
            batches, training = self.training_batches(SIZE, 8), self.training(self.preset.training)
            report = fit(run, "detector", network, batches, losses, training)
            return {**self.precision_at(network, SIZE, "validation"), **spent(report)}

        return self.once(f"width-{width}", make)

    def written(self, width: int) -> Path:
        self.trained(width)
        run = Run.read(self.run_path(f"width-{width}"))
        network = self.restore(self.fresh(width), f"width-{width}", "detector")
        return self.save_with_card(run.path / "detector" / "detector", network, SIZE, run, width, run.result)
