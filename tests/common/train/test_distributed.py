"""Two processes with half of each batch train as one process with the whole.

Run as a script with a folder and a port, this file is the two processes (forked, so that torch is imported once).
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from common.batch import ClassificationBatch
from common.plain import InputError
from common.settings import Optimisation
from common.train import distributed
from common.train.loop import Training, fit
from common.train.run_folder import Run
from common.train.schedule import build_optimiser


class Batches:
    steps_per_epoch = 7

    def epoch(self, epoch: int, start: int = 0):
        for index in range(start, self.steps_per_epoch):
            generator = torch.Generator().manual_seed(100 * epoch + index)
            images = torch.randn(6, 3, 4, 4, generator=generator)
            yield ClassificationBatch(images, torch.randint(0, 5, (6,), generator=generator))


class HandWritten(torch.autograd.Function):
    """A linear layer that writes its weight's gradient itself, as elastic layers do: no hook of autograd sees it."""

    @staticmethod
    def forward(ctx, inputs, weight):
        ctx.save_for_backward(inputs)
        ctx.weight = weight
        return inputs @ weight.detach().T

    @staticmethod
    def backward(ctx, gradient):
        (inputs,) = ctx.saved_tensors
        ctx.weight.grad = gradient.T @ inputs
        return gradient @ ctx.weight.detach(), None


def train(folder: Path) -> float:
    run = Run.open(folder, {})
    torch.manual_seed(distributed.rank())  # the first process's weights are handed to the others
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5))
    model.direct = nn.Parameter(torch.eye(5))

    def step_losses(batch: ClassificationBatch, step):
        yield {"loss": functional.cross_entropy(HandWritten.apply(model[:4](batch.images), model.direct), batch.labels)}

    settings = Optimisation(epochs=2, optimiser="sgd", learning_rate=0.1, clip_norm=1.0)
    report = fit(run, "net", model, Batches(), step_losses, Training(settings))
    run.finish({"samples": report.samples, **report.losses})
    return report.losses["loss"]


def test_two_halves_train_as_one_whole(tmp_path):
    train(tmp_path / "whole")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "CUDA_VISIBLE_DEVICES": ""}
    arguments = [sys.executable, __file__, str(tmp_path / "halves"), str(port)]
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    whole, halves = Run.read(tmp_path / "whole"), Run.read(tmp_path / "halves")
    ours, theirs = halves.load_weights("net")[0], whole.load_weights("net")[0]
    assert not torch.equal(ours["direct"], torch.eye(5))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-6)
    assert halves.result == pytest.approx(whole.result, rel=1e-5)
    assert len(halves.logged()) == 2  # one process writes
    assert halves.environment["processes"] == 2
    assert len(set(done.stdout.split())) == 1  # both processes report the same loss


def test_alone_nothing_is_exchanged(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert distributed.start("cpu") == torch.device("cpu")
    assert (distributed.rank(), distributed.size()) == (0, 1)
    batch = {"a": torch.ones(3)}
    assert distributed.part_of(batch) is batch
    assert distributed.batch_size(batch) == 3


def test_parts_of_a_batch(monkeypatch):
    monkeypatch.setattr(distributed, "size", lambda: 2)
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    batch = {"a": torch.arange(4), "b": [ClassificationBatch(torch.arange(4), torch.arange(4))]}
    part = distributed.part_of(batch)
    assert part["a"].tolist() == part["b"][0].labels.tolist() == [2, 3]
    with pytest.raises(InputError, match="a batch of 3 does not divide among 2"):
        distributed.part_of(torch.ones(3))


def test_a_missing_gpu_is_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="finds no GPU here: give --device cpu"):
        distributed.start("cuda")


def two_processes(folder: Path, port: str) -> bool:
    os.environ.update(WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    torch.set_num_threads(1)
    build_optimiser(nn.Linear(1, 1), Optimisation())  # imports half of torch: not in each child anew
    children = []
    for rank in range(2):
        child = os.fork()
        if child == 0:
            os.environ["RANK"] = os.environ["LOCAL_RANK"] = str(rank)
            status = 1
            try:
                distributed.start("cpu")
                os.write(1, f"{train(folder)}\n".encode())
                distributed.stop()
                status = 0
            except BaseException as error:
                print(repr(error), file=sys.stderr, flush=True)
            finally:
                os._exit(status)
        children.append(child)
    statuses = [os.waitpid(child, 0)[1] for child in children]
    return not any(statuses)


if __name__ == "__main__":
    raise SystemExit(0 if two_processes(Path(sys.argv[1]), sys.argv[2]) else 1)
