"""The one training loop: any network, any losses, resumable at any moment with the same numbers to the bit.

Nothing random is carried from step to step: every draw comes from (seed, stage, step, purpose), see `Step.generator`,
and torch's own generator is seeded at each step. So a checkpoint holds weights, optimiser, schedule and position only.
"""

import ctypes
import math
import platform
import resource
import signal
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from common.models.mode import autocast_to, evaluation_mode
from common.plain import InputError, from_json
from common.progress import Progress
from common.settings import Optimisation, Precision
from common.train import distributed
from common.train.checkpoint import load_strictly
from common.train.run_folder import Run
from common.train.schedule import align_gradients, begin_with, build_optimiser, build_schedule, moments_of

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # as glibc's malloc.h numbers them
CHECK_EVERY = 20  # steps between two looks at the losses, each of which waits for the device once


REMEDY = "lower the learning rate, clip the gradient, or train in float32, in another output folder"
"""What to do where a training has diverged."""


class TrainingError(InputError):
    """A loss or weight became NaN or infinite."""


class Batches(Protocol):
    """What training draws from: an epoch of a stage has the same batches whenever and however often it is asked for."""

    @property
    def steps_per_epoch(self) -> int: ...

    def epoch(self, epoch: int, start: int = 0, stage: str = "") -> Iterator[Any]: ...


@dataclass(frozen=True)
class Step:
    """Where a training is: `index` counts steps in the epoch, `global_step` in the whole stage, both from 0."""

    epoch: int
    index: int
    global_step: int
    total_steps: int
    seed: int
    stage: str

    def generator(self, purpose: str) -> np.random.Generator:
        """A random generator of its own for each purpose at each step; the same one whenever the step is redone."""
        return np.random.default_rng(self._entropy(purpose))

    def torch_seed(self) -> int:
        """Seeds torch's own generator for this step: in all processes alike, which draw for the whole batch."""
        sequence = np.random.SeedSequence(self._entropy("torch"))
        return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))

    def _entropy(self, purpose: str) -> list[int]:
        return [
            self.seed & (2**64 - 1),
            zlib.crc32(self.stage.encode()),
            self.global_step,
            zlib.crc32(purpose.encode()),
        ]


@dataclass(frozen=True)
class FitReport:
    """What a stage of training took.

    seconds, cpu_seconds: wall clock and process time (all threads) of the steps with their batches, over all the
    resumptions, without those of after_epoch and validations; work lost to a kill and done again counts once.
    samples: images trained on. losses: means over the last epoch. peak_memory: bytes, on the GPU in this stage, or of
    the whole process so far when trained on a CPU.
    """

    seconds: float
    cpu_seconds: float
    samples: int
    steps: int
    losses: dict[str, float]
    peak_memory: int


StepLosses = Callable[[Any, Step], Iterable[dict[str, Tensor]]]


@dataclass(frozen=True)
class Training:
    """How a stage is trained, whatever is trained in it."""

    optimisation: Optimisation
    """Optimiser, schedule and number of epochs."""
    seed: int = 0
    """Seed of every draw in the stage."""
    drawn_as: str | None = None
    """Name of the stage whose draws these are: stages with one name see the same batches. None means its own."""
    device: torch.device | str = "cpu"
    """Where the network is trained."""
    precision: Precision = "float32"
    """Number format of the forward passes."""
    checkpoint_every_s: float = 60.0
    """Seconds between two checkpoints."""
    validations: int = 0
    """Epochs, evenly spread, the last among them, after which `validate` measures the network; 0 means never."""
    validate: Callable[[nn.Module, Any], Mapping[str, Any]] | None = None
    """(network in evaluation mode, batches that it is trained on) -> numbers for the epoch's line of log.jsonl; may
    change neither."""

    def validated_after(self, epoch: int) -> bool:
        """Whether the network is measured after that epoch, counted from 0."""
        epochs = self.optimisation.epochs
        return (epoch + 1) * self.validations // epochs > epoch * self.validations // epochs


def fit(
    run: Run,
    stage: str,
    model: nn.Module,
    batches: Batches,
    step_losses: StepLosses,
    training: Training,
    *,
    after_epoch: Callable[[int], None] | None = None,
    moments: Mapping[str, Tensor] | None = None,
) -> FitReport:
    """Train `model` in place; its weights end up in the run folder under the name of the stage.

    step_losses(batch, step) yields one dict per sub-network: "loss", a scalar to backpropagate, and any named parts.
    Each is backpropagated before the next is asked for, so that only one graph is in memory; gradients add up, then the
    optimiser steps once. Logged values are means over the dicts of a step that hold the name.
    after_epoch(epoch) is called after each; the model is put back in training mode after it.
    moments: what the optimiser begins with, as `common.train.schedule.moments_of` names it; where it is not None, what
    it ends with is kept as the weights STAGE-moments.

    The same call again goes on from the last checkpoint, with the same final weights to the bit on a CPU. A finished
    stage is loaded and reported at once, unless its weights are gone: then it is trained again. SIGINT and SIGTERM save
    first, then raise KeyboardInterrupt. Under `torchrun` each process works on its part of every batch; batch norm sees
    the whole batch, and the losses are those of one process with the whole batch up to rounding.

    Raises TrainingError, leaving everything on disk as it was, when a loss or weight is not finite; InputError when
    the folder holds the stage of another architecture or schedule, when a file in it is damaged, when the disk is full,
    or for bfloat16 on a GPU that does not compute with it.
    """
    keep_freed_memory()
    device = torch.device(training.device)
    model.to(device)
    finished = distributed.by_first(lambda: _finished(run, stage))
    if finished is not None:
        report, weights = finished
        load_strictly(model, weights, str(run.path / f"{stage}.safetensors"))
        return report
    with autocast_to(training.precision, device):
        pass  # what the device cannot do is said before anything is written
    if not run.writes and distributed.rank() == 0:
        raise RuntimeError(f"{run.path} was opened for reading (or closed): nothing can be trained in it")
    gpus = [device] if device.type == "cuda" else []
    if gpus:
        torch.cuda.reset_peak_memory_stats(device)
    with torch.random.fork_rng(gpus), _Interruption() as interruption:  # what follows draws as if fit never ran
        return _Stage(run, stage, model, batches, step_losses, training, interruption, moments).train(after_epoch)


@cache
def keep_freed_memory() -> None:
    """Have this process keep blocks of up to 32 MiB that it frees, where the C library is glibc.

    glibc hands them back to the system, and a step asks for the same ones again, page by page: on one core an eighth of
    the time of a thin network's step.
    """
    if platform.libc_ver()[0] == "glibc":
        malloc_option = ctypes.CDLL(None).mallopt
        malloc_option(_M_MMAP_THRESHOLD, 32 << 20)  # the most that glibc takes
        malloc_option(_M_TRIM_THRESHOLD, 2**31 - 1)


def _finished(run: Run, stage: str) -> tuple[FitReport, dict[str, Tensor]] | None:
    """The report and the weights of a finished stage; None where it is to be trained (again)."""
    record = run.stage_done(stage)
    if record is None:
        if run.stage_file(stage).exists():
            _say(f"{stage}: finished before, but its weights are gone: it is trained again")
        return None
    names = {field.name for field in fields(FitReport)}
    try:
        report = from_json(FitReport, {name: record[name] for name in record if name in names}, "the record")
    except InputError as error:
        raise run.damaged(run.stage_file(stage), f"is damaged: {error}") from None
    return report, run.load_weights(stage)[0]


def _say(text: str) -> None:
    if distributed.rank() == 0:
        print(text, file=sys.stderr)


ASKED = ("steps_per_epoch", "total_steps", "seed")  # of a stage: what a checkpoint has to agree with,
REACHED = ("epoch", "index", "samples")  # and what is taken from it


@dataclass
class _Stage:
    """The state of one stage of training, and the moves on it."""

    run: Run
    stage: str
    model: nn.Module
    batches: Batches
    step_losses: StepLosses
    training: Training
    interruption: "_Interruption"
    moments: Mapping[str, Tensor] | None

    def __post_init__(self) -> None:
        self.device, self.seed = torch.device(self.training.device), self.training.seed
        self.optimisation, self.drawn_as = self.training.optimisation, self.training.drawn_as or self.stage
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimiser = build_optimiser(self.model, self.optimisation)
        begin_with(self.moments or {}, self.optimiser, self.model)
        self.steps_per_epoch = self.batches.steps_per_epoch
        self.total_steps = self.optimisation.epochs * self.steps_per_epoch
        if self.steps_per_epoch < 1:
            raise InputError(f"stage {self.stage} has no batch to train on: choose a smaller batch size or more images")
        self.schedule = build_schedule(self.optimiser, self.optimisation, self.steps_per_epoch)
        self.epoch = self.index = self.samples = 0
        self.clock, self.losses = _Clock(), _Losses()
        self.last_checkpoint = time.perf_counter()

    @property
    def step(self) -> Step:
        """The step about to be done."""
        done = self.epoch * self.steps_per_epoch + self.index
        return Step(self.epoch, self.index, done, self.total_steps, self.seed, self.drawn_as)

    def train(self, after_epoch: Callable[[int], None] | None) -> FitReport:
        checkpoint_every_s = self.training.checkpoint_every_s
        self._begin()
        progress = Progress(self.stage, self.total_steps, self.step.global_step, unit="step")
        self.clock.start()
        try:
            while self.epoch < self.optimisation.epochs:
                self.model.train()
                for batch in self._rest_of_epoch():
                    self._train_step(batch)
                    progress.advance()
                    if self.index % CHECK_EVERY == 0 or self.index == self.steps_per_epoch:
                        self._look_at_losses()
                        progress.show(loss=self.losses.latest.get("loss"), epoch=self.epoch)
                        self._stop_if_asked()
                    elif distributed.size() == 1:
                        self._stop_if_asked()
                    self._checkpoint(after_s=checkpoint_every_s)
                if after_epoch is not None:
                    self._checkpoint(after_s=checkpoint_every_s / 12)  # a kill in there then costs no training
                    with self.clock.aside(), self.interruption.at_once():
                        after_epoch(self.epoch)
                self._log_epoch(self._validated())
                if self.epoch + 1 < self.optimisation.epochs:
                    self.losses = _Losses()
                self.epoch, self.index = self.epoch + 1, 0
                self._stop_if_asked()
                self._checkpoint(after_s=checkpoint_every_s / 12)
        finally:
            progress.close()
        return self._finish()

    def _validated(self) -> Mapping[str, Any]:
        if self.training.validate is None or not self.training.validated_after(self.epoch):
            return {}
        self._checkpoint(after_s=self.training.checkpoint_every_s / 12)  # as before after_epoch
        with self.clock.aside(), self.interruption.at_once(), evaluation_mode(self.model):
            return self.training.validate(self.model, self.batches)

    # ---- one step

    def _rest_of_epoch(self) -> Iterator[Any]:
        if self.index < self.steps_per_epoch:
            yield from self.batches.epoch(self.epoch, self.index, self.drawn_as)
        if self.index != self.steps_per_epoch:
            raise RuntimeError(
                f"epoch {self.epoch} gave {self.index} batches where {self.steps_per_epoch} were promised"
            )

    def _train_step(self, batch: Any) -> None:
        step = self.step
        torch.manual_seed(step.torch_seed())
        self.optimiser.zero_grad(set_to_none=True)
        values: dict[str, list[Tensor]] = {}
        losses = None
        while True:
            with autocast_to(self.training.precision, self.device), distributed.synchronised_batch_norm():
                if losses is None:
                    losses = iter(self.step_losses(distributed.part_of(batch), step))
                part = next(losses, None)
            if part is None:
                break
            part["loss"].backward()
            for name, value in part.items():
                values.setdefault(name, []).append(torch.as_tensor(value, device=self.device).detach().float())
        if not values:
            raise RuntimeError(f"step_losses of stage {self.stage} yielded nothing to train on")
        distributed.average_gradients(self.parameters)
        if self.optimisation.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.optimisation.clip_norm, foreach=True)
        align_gradients(self.parameters)
        self.optimiser.step()
        self.schedule.step()
        self.losses.add(step, values)
        self.samples += distributed.batch_size(batch)
        self.index += 1

    def _look_at_losses(self) -> None:
        """Bring the losses since the last look to the CPU; stop at the first that is not finite."""
        bad = self.losses.settle()
        if bad is not None:
            step, values = bad
            shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            raise self._diverged(step, f"a loss is not finite ({shown})")

    def _check_weights(self) -> None:
        """A finite loss can still have had an infinite gradient; no checkpoint may hold what it made of the weights."""
        norms = torch._foreach_norm([parameter.detach() for parameter in self.parameters], math.inf)
        if not torch.stack([norm.float() for norm in norms]).isfinite().all():
            raise self._diverged(self.step, f"a weight is not finite (losses {self.losses.means()})")

    def _diverged(self, step: Step, problem: str) -> TrainingError:
        return TrainingError(
            f"training stage {self.stage} of {self.run.path} stopped at epoch {step.epoch}, step {step.index}: "
            f"{problem}; nothing was overwritten: {REMEDY}"
        )

    # ---- the folder

    def _begin(self) -> None:
        state = distributed.by_first(lambda: self.run.load_state(self.stage))
        if state is not None:
            self._restore(state)
        self.run.cut_log(self.stage, self.epoch)
        distributed.broadcast_model(self.model)
        if state is None:
            self._save()  # a disk that cannot take a checkpoint is noticed before the training, not minutes later
        elif self.step.global_step:
            _say(f"{self.stage}: goes on at epoch {self.epoch}, step {self.index}")
        distributed.barrier()

    def _restore(self, state: dict[str, Any]) -> None:
        where = f"{self.run.path / self.stage}.state"
        load_strictly(self.model, state["model"], where)
        for name in ASKED:
            if state[name] != getattr(self, name):
                raise InputError(
                    f"the checkpoint {where} was made with {name} = {state[name]}, and this training has "
                    f"{getattr(self, name)}: go on with the same data and settings, or delete it to train this stage "
                    "from its start"
                )
        for name in REACHED:
            setattr(self, name, state[name])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.clock = _Clock(state["clock"]["seconds"], state["clock"]["cpu_seconds"])
        self.losses = _Losses(dict(state["loss_sums"]), dict(state["loss_counts"]))

    def _checkpoint(self, after_s: float) -> None:
        """Save when the last checkpoint is older than `after_s` seconds. Only the first process ever writes."""
        if distributed.rank() == 0 and time.perf_counter() - self.last_checkpoint >= after_s:
            self._save()

    def _save(self) -> None:
        self._look_at_losses()
        self._check_weights()
        self.run.save_state(
            self.stage,
            {
                "model": self.model.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "schedule": self.schedule.state_dict(),
                **{name: getattr(self, name) for name in (*ASKED, *REACHED)},
                "clock": self.clock.read(),
                "loss_sums": self.losses.sums,
                "loss_counts": self.losses.counts,
            },
        )
        self.last_checkpoint = time.perf_counter()

    def _stop_if_asked(self) -> None:
        if distributed.any_process(self.interruption.asked, self.device):
            self._checkpoint(after_s=0.0)
            raise KeyboardInterrupt

    def _log_epoch(self, validated: Mapping[str, Any]) -> None:
        seconds = self.clock.read()["seconds"]
        record = {"stage": self.stage, "epoch": self.epoch, **self.losses.means(), **validated}
        record |= {"learning_rate": self.optimiser.param_groups[0]["lr"], "seconds": seconds}
        self.run.log(**record, samples_per_second=self.samples / seconds)

    def _finish(self) -> FitReport:
        self._check_weights()
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device)
        else:
            unit = 1 if sys.platform == "darwin" else 1024
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        losses = self.losses.means()
        report = FitReport(
            **self.clock.read(), samples=self.samples, steps=self.total_steps, losses=losses, peak_memory=peak
        )
        if self.moments is not None:
            self.run.save_weights(f"{self.stage}-moments", moments_of(self.optimiser, self.model))
        self.run.save_weights(self.stage, self.model.state_dict(), {"stage": self.stage, "seed": self.seed})
        self.run.finish_stage(self.stage, asdict(report))
        self.run.delete_state(self.stage)
        distributed.barrier()
        return report


class _Losses:
    """Means of named losses over an epoch. New values stay on the device until `settle` brings them over at once."""

    def __init__(self, sums: dict[str, float] | None = None, counts: dict[str, int] | None = None) -> None:
        self.sums = sums or {}
        self.counts = counts or {}
        self.latest: dict[str, float] = {}
        self._pending: list[tuple[Step, tuple[str, ...], Tensor]] = []

    def add(self, step: Step, values: Mapping[str, list[Tensor]]) -> None:
        """Take one step's losses: for each name, the scalars of its sub-networks."""
        means = [parts[0] if len(parts) == 1 else torch.stack(parts).mean() for parts in values.values()]
        self._pending.append((step, tuple(values), distributed.average(torch.stack(means))))

    def settle(self) -> tuple[Step, dict[str, float]] | None:
        """Add what is pending to the sums, in float64 and in order; returns the first step with a non-finite loss."""
        if not self._pending:
            return None
        numbers = iter(torch.cat([values for _, _, values in self._pending]).tolist())
        pending, self._pending = self._pending, []
        for step, names, _ in pending:
            self.latest = {name: next(numbers) for name in names}
            if not all(map(math.isfinite, self.latest.values())):
                return step, self.latest
            for name, value in self.latest.items():
                self.sums[name] = self.sums.get(name, 0.0) + value
                self.counts[name] = self.counts.get(name, 0) + 1
        return None

    def means(self) -> dict[str, float]:
        """The mean of each name over the steps that had it."""
        return {name: total / self.counts[name] for name, total in self.sums.items()}


@dataclass
class _Clock:
    """Wall and processor seconds spent so far, carried over from checkpoint to checkpoint."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    _since = None  # wall clock and processor time of the last look; no field

    def start(self) -> None:
        self._since = (time.perf_counter(), _cpu_seconds())

    def read(self) -> dict[str, float]:
        if self._since is not None:
            wall, cpu = time.perf_counter(), _cpu_seconds()
            self.seconds += wall - self._since[0]
            self.cpu_seconds += cpu - self._since[1]
            self._since = (wall, cpu)
        return asdict(self)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Time in here is not the training's."""
        self.read()
        self._since = None
        yield
        self.start()


def _cpu_seconds() -> float:
    """Processor time of this process, all its threads, and its workers that have ended."""
    workers = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + workers.ru_utime + workers.ru_stime


class _Interruption:
    """Catches SIGINT and SIGTERM, so that the loop stops after the step under way, when its state is whole.

    The second signal, and any signal during a callback, raises KeyboardInterrupt at once. Outside the main thread
    signals cannot be caught, and nothing changes.
    """

    def __init__(self) -> None:
        self.asked = False
        self._at_once = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "_Interruption":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _handle(self, *_: object) -> None:
        if self.asked or self._at_once:
            raise KeyboardInterrupt
        self.asked = True

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """In here a signal interrupts at once: the last checkpoint is seconds old, and callbacks may take long."""
        if self.asked and distributed.size() == 1:
            raise KeyboardInterrupt
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False
