"""Progressive shrinking, as Once-for-All trains a super-network: phase by phase, smaller sub-networks join in.

A paper says which sub-networks a phase trains and by what losses; the phases one after the other are the same for all.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from torch import nn

from common.settings import ShrinkingPhase
from common.train import distributed
from common.train.loop import Batches, FitReport, StepLosses, Training, fit
from common.train.run_folder import Run

_Phase = TypeVar("_Phase", bound=ShrinkingPhase)


def shrink(
    run: Run,
    model: nn.Module,
    batches: Batches,
    phases: Sequence[_Phase],
    step_losses_of: Callable[[_Phase], StepLosses],
    training: Training,
    before_phase: Callable[[_Phase], None] | None = None,
) -> list[FitReport]:
    """Train `model` through all phases, each a stage of the run under the phase's name; a report for each.

    step_losses_of(phase): what a step of the phase yields, as `fit` takes it. training: of every phase, with the
    phase's own epochs and share of the learning rate; milestones are shares of the phase.
    before_phase(phase) changes the model before a phase, such as sorting its channels by importance; it is left out
    where the phase is finished, and without effect where it is resumed, since the checkpoint's weights take the place
    of these.
    """
    reports = []
    for phase in phases:
        if before_phase is not None and distributed.by_first(lambda name=phase.name: run.stage_done(name) is None):
            before_phase(phase)
        every = training.optimisation
        optimisation = replace(
            every,
            epochs=phase.epochs,
            learning_rate=every.learning_rate * phase.learning_rate_share,
            milestones=tuple(share * phase.epochs for share in every.milestones),
        )
        own = replace(training, optimisation=optimisation)
        reports.append(fit(run, phase.name, model, batches, step_losses_of(phase), own))
    return reports
