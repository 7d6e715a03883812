"""Learning rates agree with torch's own schedulers, and optimisers hold what the settings say."""

import copy

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from common.plain import InputError
from common.settings import Optimisation
from common.train.schedule import align_gradients, begin_with, build_optimiser, build_schedule, moments_of

STEPS = 7  # an epoch


def step_through(optimiser, schedule, count: int) -> list[float]:
    found = []
    for _ in range(count):
        found.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    return found


@pytest.mark.parametrize("warmup_epochs", [0, 1.5])
@pytest.mark.parametrize(
    ("policy", "final_share"), [("constant", 0.0), ("multistep", 0.0), ("cosine", 0.0), ("cosine", 0.05)]
)
def test_rates_are_those_of_torch(policy, final_share, warmup_epochs):
    optimisation = Optimisation(
        epochs=6,
        learning_rate=0.2,
        policy=policy,
        milestones=(3, 4.5),
        final_share=final_share,
        warmup_epochs=warmup_epochs,
        warmup_start=0.1,
    )
    optimiser = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.2)
    warmup, total = round(warmup_epochs * STEPS), 6 * STEPS
    if policy == "cosine":
        after = lr_scheduler.CosineAnnealingLR(optimiser, total - warmup, eta_min=0.2 * final_share)
    elif policy == "multistep":
        after = lr_scheduler.MultiStepLR(optimiser, [3 * STEPS - warmup, round(4.5 * STEPS) - warmup], 0.1)
    else:
        after = lr_scheduler.ConstantLR(optimiser, 1.0)
    schedule = after
    if warmup:
        rise = lr_scheduler.LinearLR(optimiser, 0.1, total_iters=warmup)
        schedule = lr_scheduler.SequentialLR(optimiser, [rise, after], [warmup])
    expected = step_through(optimiser, schedule, total)
    optimiser = build_optimiser(nn.Linear(2, 2), optimisation)
    found = step_through(optimiser, build_schedule(optimiser, optimisation, STEPS), total)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("name", "kind"), [("sgd", "SGD"), ("adam", "Adam"), ("adamw", "AdamW")])
def test_optimisers(name, kind):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    model[2].requires_grad_(False)
    settings = {"optimiser": name, "weight_decay": 0.3, "momentum": 0.8, "nesterov": name == "sgd"}
    optimiser = build_optimiser(model, Optimisation(**settings, no_decay_on_norm=True))
    assert type(optimiser).__name__ == kind
    decayed, plain = optimiser.param_groups
    assert [tuple(parameter.shape) for parameter in decayed["params"]] == [(4, 3, 3, 3)]
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.3, 0.0)
    assert len(plain["params"]) == 3
    assert decayed.get("momentum", decayed.get("betas", [None])[0]) == 0.8
    assert decayed.get("nesterov", False) == (name == "sgd")
    assert len(build_optimiser(model, Optimisation(**settings)).param_groups) == 1


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_an_optimiser_goes_on_with_the_moments_of_another(name, device):
    """As one that never ended; a parameter that nothing is known of begins as it would alone."""
    settings = Optimisation(optimiser=name, weight_decay=0.1)
    weights = [torch.randn(each.shape, device=device) for each in nn.Linear(3, 2).parameters()]

    def stepped(model: nn.Module, optimiser, steps: range) -> list[torch.Tensor]:
        for step in steps:
            for parameter, weight in zip(model.parameters(), weights, strict=True):
                parameter.grad = weight * (step + 1)
            optimiser.step()
        return [parameter.detach().clone() for parameter in model.parameters()]

    model = nn.Linear(3, 2).to(device)
    optimiser = build_optimiser(model, settings)
    assert moments_of(optimiser, model) == {}
    stepped(model, optimiser, range(4))
    middle, moments = copy.deepcopy((model, moments_of(optimiser, model)))
    whole = stepped(model, optimiser, range(4, 7))
    for known in (moments, {key: value for key, value in moments.items() if key.startswith("weight")}):
        other = copy.deepcopy(middle)
        begin_with(known, again := build_optimiser(other, settings), other)
        weight, bias = stepped(other, again, range(4, 7))
        assert torch.equal(weight, whole[0])
        assert torch.equal(bias, whole[1]) == (known is moments)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_steps_are_those_of_torchs_plain_loop_however_gradients_lie(name, device):
    """Weights channels last, gradients once so, once as a layer may write them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(device, memory_format=torch.channels_last)
    settings = Optimisation(optimiser=name, weight_decay=0.1, learning_rate=0.01)
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    plain = copy.deepcopy(model)
    rest = {"momentum": settings.momentum} if name == "sgd" else {"betas": (settings.momentum, 0.999)}
    expected = kind(plain.parameters(), lr=0.01, weight_decay=0.1, foreach=False, **rest)
    optimiser = build_optimiser(model, settings)
    for step in range(6):
        for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
            gradient = torch.randn(ours.shape, device=device)
            theirs.grad = torch.empty_like(theirs).copy_(gradient)
            ours.grad = gradient if step % 2 else theirs.grad.clone()
        align_gradients(model.parameters())
        optimiser.step()
        expected.step()
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_settings_without_sense_are_refused():
    for name, value in {
        "epochs": 0,
        "learning_rate": float("nan"),
        "weight_decay": -1.0,
        "warmup_epochs": 13.0,
        "milestones": (3, 2),
        "clip_norm": 0.0,
        "policy": "multistep",
        "final_share": 2.0,
    }.items():
        with pytest.raises(InputError, match=f"cannot be used: {name}"):
            Optimisation(**{name: value})


def test_a_frozen_model_is_refused():
    with pytest.raises(InputError, match="nothing to train"):
        build_optimiser(nn.Linear(2, 2).requires_grad_(False), Optimisation())
