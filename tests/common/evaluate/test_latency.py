"""The protocol of a latency: what runs, how often, and what is reported."""

import time

import pytest
import torch
from torch import nn

from common.evaluate.latency import measure_latency


class Recorder(nn.Module):
    """Works for `naps` seconds in turn, and keeps what it was called with."""

    def __init__(self, naps: list[float]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.naps, self.calls = naps, []

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        product = image.flatten(1)[:, :1] @ self.weight[None]
        self.calls.append((tuple(image.shape), self.training, torch.is_grad_enabled(), product.dtype))
        busy_until = time.thread_time() + self.naps[(len(self.calls) - 1) % len(self.naps)]
        while time.thread_time() < busy_until:
            pass
        return product


def test_one_image_in_evaluation_mode_and_warm_up_is_not_timed(device):
    module = Recorder([0.2, *[0.002] * 5]).to(device).train()
    latency = measure_latency(module, (3, 8, 10), device, warmup=1, runs=5, pause_s=0)
    assert module.calls == [((1, 3, 8, 10), False, False, torch.float32)] * 6
    assert module.training
    assert 1.9 < latency.median_ms < 100  # the slow first pass is not in it
    assert latency.threads == torch.get_num_threads()
    assert latency.precision == "float32"
    assert torch.__version__ in latency.software
    assert latency.device


def test_median_and_interquartile_range(monkeypatch):
    times = iter([9.0, 1.0, 2.0, 4.0, 8.0])
    monkeypatch.setattr("common.evaluate.latency._time_on_cpu", lambda forward: next(times))
    latency = measure_latency(Recorder([0]), (3, 4, 4), warmup=0, runs=5, pause_s=0)
    assert (latency.median_ms, latency.iqr_ms) == (4, 6)


def test_lower_precision_is_used_and_named(device):
    module = Recorder([0]).to(device)
    latency = measure_latency(module, (3, 4, 4), device, warmup=0, runs=2, pause_s=0, precision="bfloat16")
    assert {call[3] for call in module.calls} == {torch.bfloat16}
    assert latency.precision == "bfloat16"


def test_pause_is_outside_the_clock():
    start = time.perf_counter()
    latency = measure_latency(Recorder([0]), (3, 4, 4), warmup=0, runs=3, pause_s=0.1)
    assert time.perf_counter() - start > 0.3
    assert latency.median_ms < 90


def test_images_are_passed_in_turn():
    seen = []

    class Eye(nn.Module):
        def forward(self, image):
            seen.append(float(image.mean()))

    images = [torch.full((1, 3, 2, 2), float(value)) for value in range(3)]
    measure_latency(Eye(), (3, 2, 2), warmup=2, runs=4, pause_s=0, images=images)
    assert seen == [0, 1, 0, 1, 2, 0]


@pytest.mark.parametrize(("threads", "counts"), [(1, False), (2, True)])
def test_waiting_counts_only_where_several_threads_leave_no_choice(threads, counts, monkeypatch):
    class Waits(nn.Module):
        def forward(self, image):
            time.sleep(0.02)

    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    latency = measure_latency(Waits(), (3, 2, 2), warmup=0, runs=3, pause_s=0)
    assert (latency.median_ms > 15) is counts
