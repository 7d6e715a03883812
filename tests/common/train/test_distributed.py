"""Two processes with half of each batch train as one process with the whole.

Run as a script with a folder and a port, this file is the two processes (forked, so that torch is imported once).
"""

import json
import os
import socket
import sys
import time
from operator import sub
from pathlib import Path
from statistics import mean

import pytest
import torch
from torch import nn
from torch.nn import functional

from common.batch import Batch, ClassificationBatch
from common.models.centernet import CenterNet, centernet_losses
from common.models.fpn import FPN
from common.models.resnet import ResNet
from common.models.roi_head import CASCADE, RoISettings
from common.models.rpn import RPNSettings
from common.models.two_stage import TwoStage, two_stage_losses
from common.plain import InputError
from common.settings import Optimisation
from common.train import distributed
from common.train.loop import Training, fit
from common.train.run_folder import Run
from common.train.schedule import build_optimiser
from tests.processes import ran

KINDS = ("one-stage", "two-stage")


class Batches:
    steps_per_epoch = 7

    def epoch(self, epoch: int, start: int = 0, stage: str = ""):
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


class Scenes:
    """Ten batches of noise with objects spread unevenly: 0 to 7 an image, most in the second half of a batch."""

    steps_per_epoch = 10

    def epoch(self, epoch: int, start: int = 0, stage: str = ""):
        for index in range(start, self.steps_per_epoch):
            generator = torch.Generator().manual_seed(100 * epoch + index)
            corners = torch.rand(4, 7, 2, generator=generator) * 40
            boxes = torch.cat([corners, corners + 8 + torch.rand(4, 7, 2, generator=generator) * 16], dim=-1)
            labels = torch.randint(0, 3, (4, 7), generator=generator)
            valid = torch.arange(7) < torch.randint(0, 8, (4, 1), generator=generator) * torch.tensor(
                [[0], [0], [1], [1]]
            )
            images = torch.randn(4, 3, 64, 64, generator=generator) * torch.tensor([0.5, 1.0, 2.0, 3.0]).view(
                4, 1, 1, 1
            )
            yield Batch(images, boxes, labels, valid, torch.arange(4), torch.full((4, 2), 64))


def train_detector(folder: Path, kind: str) -> list[float]:
    """The losses of this process's part at each of 20 steps."""
    torch.manual_seed(7)
    backbone = ResNet("resnet18", width=8)
    if kind == "one-stage":
        network, losses_of = (
            CenterNet(backbone, 3, neck_widths=(16, 8, 8), head_width=8, elastic=True),
            centernet_losses,
        )
    else:
        rpn = RPNSettings(samples=32, candidates=(60, 60), proposals=(30, 30))
        heads = RoISettings(stages=CASCADE[:2], hidden=(16,), samples=12)
        losses_of = two_stage_losses
        network = TwoStage(backbone, 3, FPN(backbone.out_channels, width=8), rpn, heads)
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in network.modules()) >= 20
    losses = []

    def step_losses(batch: Batch, step):
        found = losses_of(network(batch.images), batch)
        losses.append(found["loss"].item())
        yield found

    settings = Optimisation(epochs=2, optimiser="sgd", learning_rate=0.02, clip_norm=35.0)
    fit(Run.open(folder, {}), "detector", network, Scenes(), step_losses, Training(settings))
    return losses


def test_two_halves_train_as_one_whole(tmp_path, logged):
    train(tmp_path / "whole")
    losses = {kind: train_detector(tmp_path / f"whole-{kind}", kind) for kind in KINDS}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    done = ran(__file__, tmp_path, str(port), environment={"CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 0, done.stderr

    whole, halves = Run.read(tmp_path / "whole"), Run.read(tmp_path / "halves")
    ours, theirs = halves.load_weights("net")[0], whole.load_weights("net")[0]
    assert not torch.equal(ours["direct"], torch.eye(5))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-6)
    assert halves.result == pytest.approx(whole.result, rel=1e-5)
    assert len(logged(halves.path)) == 2  # one process writes
    assert halves.environment["processes"] == 2
    reports = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    assert reports[0]["loss"] == reports[1]["loss"]

    # batch norm, the samples that are drawn and what losses are divided by are those of the whole batch
    for kind in KINDS:
        halves = [report[kind] for report in reports]
        assert losses[kind][-1] < losses[kind][0]
        assert max(map(abs, map(sub, *halves))) > 0.1  # the halves do differ
        assert [mean(pair) for pair in zip(*halves, strict=True)] == pytest.approx(losses[kind], abs=1e-4)
        ours, theirs = (
            Run.read(tmp_path / f"{name}-{kind}").load_weights("detector")[0] for name in ("halves", "whole")
        )
        for name, tensor in theirs.items():
            torch.testing.assert_close(ours[name], tensor, rtol=1e-3, atol=1e-4)

    # what process 0 found is what both say, errors included
    assert [report["finished again"] for report in reports] == [[], []]
    assert reports[0]["refused"] == reports[1]["refused"]
    assert "holds a run with kind = nothing, and this command asks for 1" in reports[0]["refused"]


@pytest.mark.parametrize("shape", [(6, 5), (4, 5, 3), (4, 5, 3, 2)])
@pytest.mark.parametrize("momentum", [0.1, 1.0])
def test_synchronised_batch_norm_of_one_process_is_torchs(monkeypatch, shape, momentum):
    monkeypatch.setattr(distributed, "size", lambda: 1)
    monkeypatch.setattr(distributed.dist, "all_gather", lambda every, mine: every[0].copy_(mine))
    monkeypatch.setattr(distributed.dist, "all_reduce", lambda values: None)
    torch.manual_seed(0)
    x = torch.randn(shape) * 3 + 1
    results = []
    for synchronised in (False, True):
        inputs, weight, bias = (each.clone().requires_grad_() for each in (x, torch.rand(5), torch.rand(5)))
        with torch.no_grad():
            weight.copy_(torch.arange(1.0, 6))
            bias.copy_(torch.arange(5.0))
        mean, variance = torch.zeros(5), torch.ones(5)
        arguments = (inputs, mean, variance, weight, bias, True, momentum, 1e-3)
        plain = functional.batch_norm
        outputs = distributed._batch_norm(plain, *arguments) if synchronised else plain(*arguments)
        (outputs * torch.linspace(-1, 1, outputs.numel()).view(shape)).sum().backward()
        results.append([outputs, inputs.grad, weight.grad, bias.grad, mean, variance])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_alone_nothing_is_exchanged(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert distributed.start("cpu") == torch.device("cpu")
    assert (distributed.rank(), distributed.size()) == (0, 1)
    batch = (torch.ones(3),)
    assert distributed.part_of(batch) is batch
    assert distributed.batch_size(batch) == 3


def test_parts_of_a_batch(monkeypatch):
    monkeypatch.setattr(distributed, "size", lambda: 2)
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    images, (batch,) = distributed.part_of((torch.arange(4), [ClassificationBatch(torch.arange(4), torch.arange(4))]))
    assert images.tolist() == batch.labels.tolist() == [2, 3]

    def all_gather(every, mine):
        for place, each in enumerate(every):
            each.copy_(mine - 2 + 2 * place)  # as process 0 has them, and as this one does

    monkeypatch.setattr(distributed.dist, "all_gather", all_gather)
    images, (batch,) = distributed.whole_of((images, [batch]))
    assert images.tolist() == batch.labels.tolist() == [0, 1, 2, 3]
    with pytest.raises(InputError, match="a batch of 3 does not divide among 2"):
        distributed.part_of(torch.ones(3))


def test_a_missing_gpu_is_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="finds no GPU here: give --device cpu"):
        distributed.start("cuda")


def test_a_variable_of_torchrun_that_is_missing_is_named(monkeypatch):
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        InputError, match=r"process \? of 2 did not find the others at \?:\? .* RANK expected.*torchrun"
    ):
        distributed.start("cpu")


@pytest.mark.parametrize("place", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_one_whose_others_never_come_says_so(place):
    code = (
        "from datetime import timedelta\n"
        "from common.train import distributed\n"
        "distributed.MEETING = timedelta(seconds=1)\n"
        "distributed.start('cpu')"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = {"WORLD_SIZE": "2", "RANK": str(place), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ended = ran("-c", code, environment=told)
    assert ended.returncode == 1
    assert f"InputError: process {place} of 2 did not find the others at 127.0.0.1:{port} within" in ended.stderr


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
                time.sleep(0.3 * rank)  # nothing may depend on who comes first
                report = {kind: train_detector(folder / f"halves-{kind}", kind) for kind in KINDS}
                report["loss"] = train(folder / "halves")
                report["finished again"] = train_detector(folder / f"halves-{KINDS[0]}", KINDS[0])
                with pytest.raises(InputError) as refused:
                    Run.open(folder / "halves", {"kind": 1})
                report["refused"] = str(refused.value)
                (folder / f"rank{rank}.json").write_text(json.dumps(report))
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
