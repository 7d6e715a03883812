"""The optimiser and the learning rate of a training, built from its settings.

The learning rate is a pure function of the step, so a resumed training needs only the step's number to go on exactly.
"""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn, optim
from torch.optim.lr_scheduler import LambdaLR

from common.plain import InputError
from common.settings import Optimisation


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
    shared = {"lr": optimisation.learning_rate, "weight_decay": optimisation.weight_decay}
    if optimisation.optimiser == "sgd":
        momentum = {"momentum": optimisation.momentum, "nesterov": optimisation.nesterov}
        return optim.SGD(groups, foreach=True, **momentum, **shared)
    kind = {"adam": optim.Adam, "adamw": optim.AdamW}[optimisation.optimiser]
    # on a CPU foreach takes several passes over each weight, a fused kernel one
    fused = all(parameter.device.type == "cpu" for parameter in parameters)
    how = {"fused": True} if fused else {"foreach": True}
    return kind(groups, betas=(optimisation.momentum, 0.999), **how, **shared)


def align_gradients(parameters: Iterable[Tensor]) -> None:
    """Lay out gradients as their weights lie in memory, which fused kernels take for granted and do not check: a layer
    that writes its own .grad need not keep to that."""
    for parameter in parameters:
        gradient = parameter.grad
        if gradient is not None and gradient.stride() != parameter.stride():
            parameter.grad = torch.empty_like(parameter).copy_(gradient)


def moments_of(optimiser: optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """What the optimiser knows of each parameter of the model, as PARAMETER.KIND: exp_avg, momentum_buffer, step."""
    every = ((name, optimiser.state.get(parameter, {})) for name, parameter in model.named_parameters())
    return {f"{name}.{kind}": value for name, known in every for kind, value in known.items() if value is not None}


def begin_with(moments: Mapping[str, Tensor], optimiser: optim.Optimizer, model: nn.Module) -> None:
    """Give the optimiser copies of such moments; of parameters without any it knows nothing yet."""
    parameters = dict(model.named_parameters())
    for key, value in moments.items():
        name, _, kind = key.rpartition(".")
        like = parameters[name] if value.dim() else value  # a moment lies as its weight, a count of steps as it is
        optimiser.state[parameters[name]][kind] = torch.empty_like(like, requires_grad=False).copy_(value)


def build_schedule(optimiser: optim.Optimizer, optimisation: Optimisation, steps_per_epoch: int) -> LambdaLR:
    """A scheduler to be stepped once after every optimiser step.

    The same numbers as torch's LinearLR (warm-up) followed by CosineAnnealingLR over the steps that are left, or
    times MultiStepLR with milestones counted from the start of the training.
    """
    warmup = round(optimisation.warmup_epochs * steps_per_epoch)
    total = optimisation.epochs * steps_per_epoch

    def factor(step: int) -> float:
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

    return LambdaLR(optimiser, factor)
