"""The training loop: right steps, the same numbers however often it is killed, a clear stop at a loss not finite.

Run as a script with a folder, this file trains in a child process that it kills at random moments until it gets done.
"""

import copy
import dataclasses
import errno
import json
import os
import platform
import random
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from common.plain import InputError
from common.settings import Optimisation
from common.train.loop import Step, Training, TrainingError, fit
from common.train.run_folder import Run
from common.train.schedule import build_optimiser
from tests.processes import ran
from tests.repeatable import without_times


class Batches:
    """Random points and the sum of their coordinates; the same for the same epoch and step."""

    def __init__(self, steps_per_epoch: int = 13, size: int = 8, device="cpu", before_batch=None) -> None:
        self.steps_per_epoch, self.size, self.device = steps_per_epoch, size, device
        self.before_batch = before_batch or (lambda epoch, index: None)

    def epoch(self, epoch: int, start: int = 0, stage: str = ""):
        for index in range(start, self.steps_per_epoch):
            generator = torch.Generator().manual_seed(1000 * epoch + index)
            points = torch.randn(self.size, 4, generator=generator).to(self.device)
            self.before_batch(epoch, index)
            yield points, points.sum(1, keepdim=True)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 1))


def losses_of(model: nn.Module):
    """Two sub-networks a step, the second on a random part of the input, as elastic training does."""

    def step_losses(batch: tuple[Tensor, Tensor], step: Step):
        points, sums = batch
        yield {"loss": functional.mse_loss(model(points), sums)}
        width = int(step.generator("width").integers(1, 4))
        loss = functional.l1_loss(model(points * (torch.arange(4, device=points.device) < width)), sums)
        yield {"loss": loss, "part": loss.detach() * 2}

    return step_losses


def train(folder: Path, checkpoint_every_s: float, before_batch=None) -> None:
    """Two stages, the second from the first one's moments, and a result: what a command does."""
    run = Run.open(folder, {"kind": "tiny"})
    torch.manual_seed(5)
    model = network()
    schedule = Optimisation(epochs=3, policy="cosine", warmup_epochs=0.5, weight_decay=0.01, clip_norm=1.0)
    for stage in ("first", "second"):
        moments = {} if stage == "first" else run.load_weights("first-moments")[0]
        fit(
            run,
            stage,
            model,
            Batches(before_batch=before_batch),
            losses_of(model),
            Training(schedule, seed=3, checkpoint_every_s=checkpoint_every_s),
            moments=moments,
        )
    run.finish({"sum": sum(parameter.double().sum().item() for parameter in model.parameters())})


def kill_until_done(folder: Path, checkpoint_every_s: float, seed: int) -> int:
    """Train in a child process killed after random times until one attempt reaches the end.

    Returns at how many different positions in the training it was killed.
    """
    dice = random.Random(seed)
    torch.set_num_threads(1)  # a forked child has no thread pool
    build_optimiser(network(), Optimisation())  # imports half of torch: not in every child anew
    positions = set()
    for attempt in range(1000):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                train(folder, checkpoint_every_s, before_batch=lambda epoch, index: time.sleep(0.002))
                status = 0
            finally:
                os._exit(status)
        limit = time.monotonic() + (dice.uniform(0.02, 0.25) if attempt < 10 else 60)
        while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < limit:
            time.sleep(0.001)
        if ended != (0, 0):
            assert ended[1] == 0, "the training itself failed"
            return len(positions)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if (folder / "config.json").exists():
            for stage in ("first", "second"):
                state = Run.read(folder).load_state(stage) or {"epoch": 0, "index": 0}
                positions.add((stage, state["epoch"], state["index"]))
    raise AssertionError("never done")


def records_of(text: str) -> list[dict]:
    return [without_times(json.loads(line)) for line in text.splitlines()]


def assert_same_run(one: Path, other: Path) -> None:
    for name in ("first.safetensors", "second.safetensors", "second-moments.safetensors", "result.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    assert records_of((one / "log.jsonl").read_text()) == records_of((other / "log.jsonl").read_text())
    for stage in ("first", "second"):
        records = [json.loads((folder / "stages" / f"{stage}.json").read_text()) for folder in (one, other)]
        assert without_times(records[0]) == without_times(records[1])


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    train(folder, checkpoint_every_s=60)
    return folder


def test_a_training_killed_at_random_moments_ends_with_the_same_bits(tmp_path, unbroken):
    done = ran(__file__, tmp_path, environment={"CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) >= 3  # positions at which it was killed: fewer on a machine that is busy
    for name in ("every-step", "seldom"):
        assert_same_run(unbroken, tmp_path / name)


def test_a_kill_between_the_last_files_of_a_stage_loses_nothing(tmp_path, unbroken, monkeypatch):
    """Weights, the stage's record and the removal of the checkpoint: a kill after each."""
    for method in ("save_weights", "finish_stage", "delete_state"):
        with monkeypatch.context() as patch:
            original = getattr(Run, method)

            def killed(*arguments, original=original):
                original(*arguments)
                raise InterruptedError

            patch.setattr(Run, method, killed)
            with pytest.raises(InterruptedError):
                train(tmp_path / method, checkpoint_every_s=60)
        train(tmp_path / method, checkpoint_every_s=60)
        assert_same_run(unbroken, tmp_path / method)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_same_call_goes_on(tmp_path, unbroken, number):
    def interrupt(epoch: int, index: int) -> None:
        if (epoch, index) == (1, 5):
            signal.raise_signal(number)

    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, checkpoint_every_s=60, before_batch=interrupt)
    assert signal.getsignal(number) == before
    state = Run.read(tmp_path).load_state("first")
    assert (state["epoch"], state["index"]) == (1, 6)  # the step under way was finished first
    train(tmp_path, checkpoint_every_s=60)
    assert_same_run(unbroken, tmp_path)

    def after_epoch(epoch: int) -> None:  # a callback may take long: it is left at once
        signal.raise_signal(number)
        pytest.fail("too late")

    run, model = Run.open(tmp_path / "callback", {}), network()
    with pytest.raises(KeyboardInterrupt):
        fit(run, "net", model, Batches(), losses_of(model), Training(Optimisation(epochs=1)), after_epoch=after_epoch)


def test_the_steps_are_those_of_a_plain_loop(tmp_path, device, logged):
    """Against the same training written out, without dropout."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).to(device)
    plain = copy.deepcopy(model)
    batches = Batches(device=device)
    settings = Optimisation(epochs=2, optimiser="sgd", learning_rate=0.05, policy="constant", clip_norm=0.5)
    report = fit(
        Run.open(tmp_path, {}), "net", model, batches, losses_of(model), Training(settings, seed=1, device=device)
    )

    optimiser = torch.optim.SGD(plain.parameters(), lr=0.05, momentum=0.9)
    values_of = []
    for epoch in range(2):
        for index, batch in enumerate(batches.epoch(epoch)):
            optimiser.zero_grad()
            step = Step(epoch, index, epoch * 13 + index, 26, 1, "net")
            values = list(losses_of(plain)(batch, step))
            sum(value["loss"] for value in values).backward()
            nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
            optimiser.step()
            values_of.append((sum(value["loss"].item() for value in values) / 2, values[1]["part"].item()))
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    means = torch.tensor(values_of[13:]).mean(0).tolist()
    assert report.losses == pytest.approx({"loss": means[0], "part": means[1]}, rel=1e-4)
    assert (report.steps, report.samples) == (26, 26 * 8)
    records = logged(tmp_path)
    assert [record["epoch"] for record in records] == [0, 1]
    assert records[1]["loss"] == report.losses["loss"]


def test_a_finished_stage_is_loaded_and_not_trained_again(tmp_path):
    run = Run.open(tmp_path, {})
    model, settings = network(), Optimisation(epochs=1)
    report = fit(run, "net", model, Batches(), losses_of(model), Training(settings))
    again = network()

    def never(batch, step):
        raise AssertionError("trained again")

    assert fit(run, "net", again, Batches(), never, Training(settings)) == report
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    assert not (tmp_path / "net.state").exists()  # only the weights are of use now
    with pytest.raises(InputError, match="another architecture"):
        fit(run, "net", nn.Linear(4, 1), Batches(), never, Training(settings))


def test_time_of_callbacks_and_the_random_numbers_of_others(tmp_path, monkeypatch):
    """Others' numbers stay: else a resumed command, which skips finished stages, would draw other weights after it."""
    model, seen, clock = network(), [], time.perf_counter

    def after_epoch(epoch: int) -> None:
        seen.append((epoch, model.training))
        model.eval()
        monkeypatch.setattr(time, "perf_counter", lambda: clock() + 1000 * len(seen))

    def validate(model, batches):
        after_epoch(-1)
        return {}

    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    run, training = Run.open(tmp_path, {}), Training(Optimisation(epochs=2), validations=1, validate=validate)
    report = fit(run, "net", model, Batches(), losses_of(model), training, after_epoch=after_epoch)
    assert torch.equal(torch.rand(3), expected)
    assert seen == [(0, True), (1, True), (-1, False)]
    assert report.seconds < 1000


@pytest.mark.parametrize(("bad", "checkpoint_every_s"), [(float("nan"), 0.0), (float("inf"), 60.0)])
def test_a_loss_that_is_not_finite_stops_and_overwrites_nothing(tmp_path, device, bad, checkpoint_every_s):
    run, model = Run.open(tmp_path, {}), network()
    saved = []

    def step_losses(batch, step):
        if step.global_step == 16:  # epoch 1, step 3
            saved.append((tmp_path / "net.state").read_bytes())
        factor = bad if step.global_step >= 16 else 1.0
        loss = functional.mse_loss(model(batch[0]), batch[1])
        yield {"loss": loss, "heatmap": loss.detach() * factor, "size": loss.detach()}

    training = Training(Optimisation(epochs=4), device=device, checkpoint_every_s=checkpoint_every_s)
    with pytest.raises(
        TrainingError, match=r"stage net .*epoch 1, step 3: a loss is not finite \(loss \d.*heatmap (nan|inf)"
    ):
        fit(run, "net", model, Batches(device=device), step_losses, training)
    assert (tmp_path / "net.state").read_bytes() == saved[0]
    assert not run.has_weights("net")
    assert run.stage_done("net") is None


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    run, model = Run.open(tmp_path, {}), nn.Linear(4, 1)

    def step_losses(batch, step):
        loss = functional.mse_loss(model(batch[0]), batch[1])
        if step.global_step == 12:  # the last of the epoch: its loss is finite, its gradient is not
            loss.register_hook(lambda gradient: gradient * float("nan"))
        yield {"loss": loss}

    with pytest.raises(TrainingError, match="a weight is not finite"):
        fit(run, "net", model, Batches(), step_losses, Training(Optimisation(epochs=1), checkpoint_every_s=1e9))
    assert not run.has_weights("net")


def test_a_full_disk_stops_training_and_the_last_checkpoint_stands(tmp_path, monkeypatch):
    run, model = Run.open(tmp_path, {}), network()
    training = Training(Optimisation(epochs=2))
    arguments = (run, "net", model, Batches(), losses_of(model))
    replace, calls = os.replace, []

    def full(*paths):
        calls.append(paths)
        if len(calls) > 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(*paths)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(InputError, match="the disk is full"):
            fit(*arguments, dataclasses.replace(training, checkpoint_every_s=0.0))
    assert run.load_state("net")["index"] == 4
    fit(*arguments, training)
    assert run.has_weights("net")


def test_what_does_not_fit_the_checkpoint_or_has_too_few_batches_is_refused(tmp_path):
    run, model = Run.open(tmp_path, {}), network()
    rest = (losses_of(model), Training(Optimisation(epochs=2)))
    short = Batches(13)
    short.epoch = lambda epoch, start, stage: list(Batches({"net": 3}[stage]).epoch(epoch, start))
    for batches, trained, kind, message in (
        (Batches(0), model, InputError, "no batch to train on"),
        (short, model, RuntimeError, "gave 3 batches where 13"),
        (Batches(7), model, InputError, "steps_per_epoch = 13, and this training has 7"),
        (Batches(13), nn.Linear(4, 2), InputError, "another architecture"),
    ):
        with pytest.raises(kind, match=message):
            fit(run, "net", trained, batches, *rest)


def test_the_forward_pass_runs_in_the_precision_asked_for(tmp_path, device):
    run, model, seen = Run.open(tmp_path, {}), nn.Linear(4, 1), []

    def as_list(batch, step):
        outputs = model(batch[0])
        seen.append(outputs.dtype)
        return [{"loss": functional.mse_loss(outputs.float(), batch[1])}]

    def as_generator(batch, step):
        yield from as_list(batch, step)

    for stage, losses in (("a", as_generator), ("b", as_list)):
        training = Training(Optimisation(epochs=1), device=device, precision="bfloat16")
        fit(run, stage, model, Batches(3, device=device), losses, training)
    assert set(seen) == {torch.bfloat16}
    assert model.weight.dtype == model.weight.grad.dtype == torch.float32


def test_stages_drawn_as_one_see_the_same_batches(tmp_path):
    seen = []

    class Noting(Batches):
        def epoch(self, epoch, start=0, stage=""):
            for batch in super().epoch(epoch, start, stage):
                seen.append((stage, epoch))
                yield batch

    def losses(batch, step):
        seen.append(step.generator("noise").random())
        yield from losses_of(model)(batch, step)

    with Run.open(tmp_path, {}) as run:
        for stage in ("first", "second"):
            torch.manual_seed(5)
            model = network()
            fit(run, stage, model, Noting(), losses, Training(Optimisation(epochs=2), drawn_as="both"))
        weights = [run.load_weights(stage)[0] for stage in ("first", "second")]
    assert seen[: len(seen) // 2] == seen[len(seen) // 2 :]
    assert seen[0] == ("both", 0)
    assert all(torch.equal(each, weights[1][name]) for name, each in weights[0].items())


def test_generators_differ_by_seed_stage_step_and_purpose_only():
    def draw(seed=0, stage="a", step=0, purpose="width") -> float:
        return Step(0, 0, step, 9, seed, stage).generator(purpose).random()

    assert draw() == draw()
    assert len({draw(), draw(seed=1), draw(stage="b"), draw(step=1), draw(purpose="depth")}) == 5


def test_validations_are_evenly_spread_logged_and_change_nothing(tmp_path, logged):
    """A training that is measured a few times, and killed while it is, against one that never is: the same bits."""
    measured = []

    def validate(model, batches):
        measured.append((model.training, model(torch.ones(2, 4)).sum().item()))
        torch.rand(7)
        if len(measured) == 2:
            raise InterruptedError
        return {"AP": len(measured) / 10}

    def train(folder: Path, **validations):
        torch.manual_seed(5)
        model = network()
        training = Training(Optimisation(epochs=5), **validations)
        fit(Run.open(folder, {}), "net", model, Batches(), losses_of(model), training)
        return model.state_dict()

    never = train(tmp_path / "never")
    with pytest.raises(InterruptedError):
        train(tmp_path / "some", validations=3, validate=validate)
    some = train(tmp_path / "some", validations=3, validate=validate)
    assert all(torch.equal(never[name], some[name]) for name in never)
    assert not any(training for training, _ in measured)
    records = logged(tmp_path / "some")
    assert {record["epoch"]: record["AP"] for record in records if "AP" in record} == {1: 0.3, 3: 0.4, 4: 0.5}
    for record in records:
        record.pop("AP", None)
    assert without_times(records) == records_of((tmp_path / "never" / "log.jsonl").read_text())


@pytest.mark.parametrize(("epochs", "times", "after"), [(10, 5, [1, 3, 5, 7, 9]), (3, 5, [0, 1, 2]), (7, 0, [])])
def test_epochs_after_which_a_network_is_validated(epochs, times, after):
    training = Training(Optimisation(epochs=epochs), validations=times)
    assert [epoch for epoch in range(epochs) if training.validated_after(epoch)] == after


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    total = kill_until_done(folder / "every-step", 0.0, seed=1) + kill_until_done(folder / "seldom", 0.05, seed=2)
    print(total)


BLOCKS_OF_THEIR_OWN = """
import ctypes
import torch
from common.train.loop import keep_freed_memory

class Numbers(ctypes.Structure):  # as glibc's malloc.h has them
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

numbers = ctypes.CDLL(None).mallinfo2
numbers.restype = Numbers
held = [numbers().hblks]
for place in range(2):
    held += [torch.ones(2**22), numbers().hblks]  # 16 MiB
    keep_freed_memory()
print(held[2] - held[0], held[4] - held[2])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator's options are glibc's")
def test_large_blocks_come_from_memory_that_is_kept():
    ended = ran("-c", BLOCKS_OF_THEIR_OWN)
    assert ended.stdout.split() == ["1", "0"], ended.stderr  # a block of its own goes back when it is freed
