"""The optimiser and the learning rate over a training: one frozen record, and the torch objects built from it.

The learning rate is a pure function of the step, so a resumed training needs only the step's number to go on exactly.
"""

import math
from dataclasses import dataclass
from typing import Literal

from torch import nn, optim
from torch.optim.lr_scheduler import LambdaLR

from common.command import InputError


@dataclass(frozen=True)
class Optimisation:
    """How a network is trained: optimiser, learning rate and their schedule."""

    epochs: int = 12
    """Passes over the training set, warm-up included."""
    optimiser: Literal["adam", "adamw", "sgd"] = "adamw"
    """Update rule; adamw decouples the weight decay from the gradient."""
    learning_rate: float = 1e-3
    """Learning rate after warm-up and before any decay."""
    weight_decay: float = 0.0
    """L2 penalty on the weights (decoupled for adamw)."""
    momentum: float = 0.9
    """Momentum of sgd, first-moment decay of adam and adamw."""
    nesterov: bool = False
    """Nesterov's momentum, for sgd."""
    policy: Literal["constant", "multistep", "cosine"] = "cosine"
    """How the learning rate falls: never, by `decay` at each milestone, or along a half cosine to `final_share`."""
    milestones: tuple[float, ...] = ()
    """Epochs, counted from the start, at which multistep multiplies the learning rate by `decay`."""
    decay: float = 0.1
    """Factor of multistep at each milestone."""
    final_share: float = 0.0
    """Share of the learning rate that cosine ends at."""
    warmup_epochs: float = 0.0
    """Epochs over which the learning rate first rises along a line; a fraction is allowed."""
    warmup_start: float = 0.001
    """Share of the learning rate at which warm-up begins."""
    clip_norm: float | None = None
    """Largest L2 norm of the whole gradient, which is scaled down to it; None leaves gradients alone."""
    no_decay_on_norm: bool = False
    """Leave normalisation layers and biases out of the weight decay."""

    def __post_init__(self) -> None:
        problems = {
            "epochs must be at least 1": self.epochs < 1,
            "learning_rate must be positive": not self.learning_rate > 0,
            "weight_decay must not be negative": self.weight_decay < 0,
            "warmup_epochs must lie between 0 and epochs": not 0 <= self.warmup_epochs <= self.epochs,
            "final_share must lie between 0 and 1": not 0 <= self.final_share <= 1,
            "milestones must rise": list(self.milestones) != sorted(self.milestones),
            "clip_norm must be positive": self.clip_norm is not None and not self.clip_norm > 0,
            "policy multistep needs milestones": self.policy == "multistep" and not self.milestones,
        }
        for problem, there in problems.items():
            if there:
                raise InputError(f"the optimisation settings cannot be used: {problem} ({self})")


def build_optimiser(model: nn.Module, optimisation: Optimisation) -> optim.Optimizer:
    """The torch optimiser over the model's trainable parameters.

    With `no_decay_on_norm`, parameters of at most one dimension (scales, shifts, biases) form a group without decay.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise InputError("there is nothing to train: every parameter of the model is frozen")
    groups: list[dict] = [{"params": parameters}]
    if optimisation.no_decay_on_norm:
        decayed = [parameter for parameter in parameters if parameter.ndim > 1]
        plain = [parameter for parameter in parameters if parameter.ndim <= 1]
        groups = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
    # foreach rather than fused: fused kernels take it for granted that a gradient lies in memory as its weight does,
    # which a layer that writes its own .grad need not keep to
    shared = {"lr": optimisation.learning_rate, "weight_decay": optimisation.weight_decay, "foreach": True}
    if optimisation.optimiser == "sgd":
        return optim.SGD(groups, momentum=optimisation.momentum, nesterov=optimisation.nesterov, **shared)
    kind = {"adam": optim.Adam, "adamw": optim.AdamW}[optimisation.optimiser]
    return kind(groups, betas=(optimisation.momentum, 0.999), **shared)


def learning_rate_factor(optimisation: Optimisation, steps_per_epoch: int, step: int) -> float:
    """What the learning rate is multiplied by at `step` (from 0).

    The same numbers as torch's LinearLR (warm-up) followed by CosineAnnealingLR over the steps that are left, or
    times MultiStepLR with milestones counted from the start of the training.
    """
    warmup = round(optimisation.warmup_epochs * steps_per_epoch)
    total = optimisation.epochs * steps_per_epoch
    rise = 1.0
    if step < warmup:
        rise = optimisation.warmup_start + (1.0 - optimisation.warmup_start) * step / warmup
    if optimisation.policy == "multistep":
        passed = sum(round(milestone * steps_per_epoch) <= step for milestone in optimisation.milestones)
        return rise * optimisation.decay**passed
    if optimisation.policy == "cosine" and step >= warmup and total > warmup:
        fall = 0.5 * (1.0 + math.cos(math.pi * min(step - warmup, total - warmup) / (total - warmup)))
        return optimisation.final_share + (1.0 - optimisation.final_share) * fall
    return rise


def build_schedule(optimiser: optim.Optimizer, optimisation: Optimisation, steps_per_epoch: int) -> LambdaLR:
    """A scheduler to be stepped once after every optimiser step."""
    return LambdaLR(optimiser, lambda step: learning_rate_factor(optimisation, steps_per_epoch, step))
