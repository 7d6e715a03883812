"""The loop of progressive shrinking: phases in order, each with its own schedule, resumed where it stopped."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from common.settings import Optimisation, ShrinkingPhase
from common.train.loop import Training
from common.train.run_folder import Run
from common.train.shrinking import shrink


@dataclass(frozen=True)
class Phase(ShrinkingPhase):
    scale: float = 1.0


PHASES = (Phase("first", 1, scale=1.0), Phase("second", 4, learning_rate_share=0.5, scale=3.0))
OPTIMISATION = Optimisation(
    epochs=9, optimiser="sgd", learning_rate=0.1, momentum=0.0, policy="multistep", milestones=(0.5,), decay=0.1
)


class Batches:
    steps_per_epoch = 2

    def epoch(self, epoch, start=0, stage=""):
        for step in range(start, 2):
            yield torch.tensor([1.0 + epoch, 2.0 + step])


def _model() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(2, 1, bias=False)


def _shrink(folder, model, before_phase=None, steps=None, stop_in=None):
    def step_losses_of(phase):
        def step_losses(batch, step):
            if (phase.name, step.global_step) == stop_in:
                raise KeyboardInterrupt
            if steps is not None:
                steps.append((phase.name, step.total_steps))
            yield {"loss": phase.scale * model(batch).square().sum()}

        return step_losses

    with Run.open(folder, {}) as run:
        training = Training(OPTIMISATION, checkpoint_every_s=0.0)
        return shrink(run, model, Batches(), PHASES, step_losses_of, training, before_phase), run


def test_phases_are_trained_in_order_each_from_the_weights_of_the_one_before(tmp_path, logged):
    model, steps, before = _model(), [], []
    begin = model.weight.detach().clone()
    reports, run = _shrink(
        tmp_path / "run", model, lambda phase: before.append((phase, model.weight.detach().clone())), steps
    )
    assert steps == [("first", 2)] * 2 + [("second", 8)] * 8
    assert [phase for phase, _ in before] == list(PHASES)
    assert torch.equal(before[0][1], begin)
    assert torch.equal(before[1][1], run.load_weights("first")[0]["weight"])
    assert [report.steps for report in reports] == [2, 8]
    rates = [record["learning_rate"] for record in logged(run.path)]
    assert rates == pytest.approx([0.01, 0.05, 0.005, 0.005, 0.005])  # the milestone lies in the middle of an epoch

    again = _model()  # finished phases are loaded and not prepared again
    _shrink(tmp_path / "run", again, lambda phase: pytest.fail(f"{phase.name} was prepared again"))
    assert torch.equal(model.weight, again.weight)


def test_an_interrupted_phase_goes_on_with_the_same_weights(tmp_path):
    def double(model):
        return lambda phase: model.weight.data.mul_(2.0)

    whole, broken, resumed = _model(), _model(), _model()
    _shrink(tmp_path / "whole", whole, double(whole))
    with pytest.raises(KeyboardInterrupt):
        _shrink(tmp_path / "broken", broken, double(broken), stop_in=("second", 3))
    _shrink(tmp_path / "broken", resumed, double(resumed))
    assert torch.equal(whole.weight, resumed.weight)
