"""What DetOFA is compared with, beyond what a different `Operations` or sampler already expresses.

OFA without shrinking is uniform sampling of the whole space, CompOFA* uniform sampling of the coupled space, the full
net its largest path alone: all three are `method.train_supernet` with another sampler. Here is OFA's progressive
shrinking (Cai et al., ICLR 2020): from the full net, depth, then expand ratio, then width become elastic, each phase
distilling from the full net, channels sorted by importance once before a phase shrinks them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from common.models.ofa_resnet import OFAResNetSpace
from common.settings import Optimisation, Precision
from common.train.loop import FitReport, Step, Training, fit
from common.train.run_folder import Run
from detofa.method import Operations, Task

Elastic = Literal["depth", "expand", "width"]


@dataclass(frozen=True)
class Phase:
    """One phase of progressive shrinking."""

    name: str
    """Phase name; names the stage in the run."""
    epochs: int
    """Epochs of the phase."""
    elastic: tuple[Elastic, ...]
    """The choices that vary in this phase; the others stay at their largest."""


@dataclass(frozen=True)
class ShrinkingSettings:
    """Progressive shrinking after the full net."""

    phases: tuple[Phase, ...]
    """In order; each starts from the weights that the one before left."""
    optimisation: Optimisation
    """Of every phase, with the phase's own epochs; milestones are shares of the phase."""
    networks_a_step: int = 1
    """Sub-networks whose gradients add up in a step. DetOFA's Table 3 has shrinking cost exactly 3 x for 3 x the
    epochs, so one; OFA's release takes two, then four."""
    distillation_weight: float = 1.0
    """Weight of the distillation loss against the full net beside the task's own."""


def phase_operations(space: OFAResNetSpace, elastic: tuple[Elastic, ...]) -> Operations:
    """The part of the space that a phase samples: choices outside `elastic` only at their largest."""
    allowed = Operations.all(space).allowed
    for axis, name in enumerate(("depth", "width", "expand"), start=1):
        if name not in elastic:
            largest = np.arange(allowed.shape[axis]) == allowed.shape[axis] - 1
            allowed &= np.expand_dims(largest, tuple(other for other in range(4) if other != axis))
    return Operations(space, allowed)


def centernet_distillation(student: dict[str, Tensor], teacher: dict[str, Tensor]) -> dict[str, Tensor]:
    """Loss of a CenterNet's maps against a teacher's, float32 scalars.

    heatmap: binary cross-entropy with the teacher's probabilities as soft targets, summed over the map and divided by
    the teacher's mass, as the focal loss is divided by the number of objects. size, offset: L1 weighted by the
    teacher's strongest class probability at the cell. OFA distils a classifier; the form for maps is ours.
    """
    probability = teacher["heatmap"].float().sigmoid()
    mass = probability.sum().clamp(min=1.0)
    entropy = nn.functional.binary_cross_entropy_with_logits(student["heatmap"].float(), probability, reduction="none")
    # The teacher's own entropy is a constant; without it the loss is 0 where the student agrees.
    constant = nn.functional.binary_cross_entropy(probability, probability, reduction="none")
    objectness = probability.amax(dim=1, keepdim=True)  # (B, 1, H/4, W/4)

    def distance(name: str) -> Tensor:
        return ((student[name].float() - teacher[name].float()).abs() * objectness).sum() / (2 * objectness.sum())

    losses = {"heatmap": (entropy - constant).sum() / mass, "size": distance("size"), "offset": distance("offset")}
    return {"loss": losses["heatmap"] + 0.1 * losses["size"] + losses["offset"], **losses}


def progressive_shrinking(
    run: Run,
    supernet: nn.Module,
    full_net: nn.Module,
    task: Task,
    distillation: Callable[[dict[str, Tensor], dict[str, Tensor]], dict[str, Tensor]],
    settings: ShrinkingSettings,
    seed: int,
    device: torch.device | str = "cpu",
    precision: Precision = "float32",
) -> list[FitReport]:
    """Train `supernet`, which holds the weights of the trained `full_net`, through all phases; a report for each.

    full_net: the static teacher, in evaluation mode, its batch-norm statistics its own.
    """
    reports = []
    for phase in settings.phases:
        if not run.stage_done(phase.name):
            # A fresh phase only: on going on, the checkpoint's weights are already sorted.
            supernet.sort_channels()
        operations = phase_operations(supernet.backbone.space, phase.elastic)

        def step_losses(batch, step: Step, operations: Operations = operations) -> Iterator[dict[str, Tensor]]:
            with torch.no_grad():
                soft = full_net(batch.images)
            for path in operations.sample(settings.networks_a_step, step.generator("path")):
                supernet.activate(path)
                outputs = supernet(batch.images)
                losses = task.losses(outputs, batch)
                taught = distillation(outputs, soft)["loss"]
                total = (losses["loss"] + settings.distillation_weight * taught) / settings.networks_a_step
                yield {**losses, "loss": total, "distillation": taught}

        optimisation = replace(
            settings.optimisation,
            epochs=phase.epochs,
            milestones=tuple(share * phase.epochs for share in settings.optimisation.milestones),
        )
        reports.append(
            fit(
                run,
                phase.name,
                supernet,
                task.batches,
                step_losses,
                Training(optimisation, seed=seed, device=device, precision=precision),
            )
        )
    return reports
