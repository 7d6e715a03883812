"""Latency of one image, measured the same way wherever it is reported."""

import contextlib
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from common.models.mode import evaluation_mode

_Precision = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one forward pass, with all that they depend on besides the network.

    median_ms, iqr_ms: over the timed passes; the latter is the 75th less the 25th percentile. device: the product's
    name. precision: number format. software: versions. threads: of the CPU.
    """

    median_ms: float
    iqr_ms: float
    device: str
    precision: str
    software: str
    threads: int


class Detection(nn.Module):
    """Detection as a forward pass, so that it can be timed or exported."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor):
        return self.network.detect(images)


@torch.inference_mode()
def measure_latency(
    module: nn.Module,
    input_shape: Sequence[int],
    device: torch.device | str = "cpu",
    warmup: int = 10,
    runs: int = 50,
    pause_s: float = 0.05,
    precision: _Precision = "float32",
    images: Sequence[Tensor] | None = None,
) -> Latency:
    """Time one forward pass at batch 1.

    module: is moved to `device` and timed in evaluation mode; its train/eval flags are restored. input_shape: (3, H,
    W), one image. warmup: passes before the clock starts. pause_s: rest before each timed pass, so that a processor
    that slows down under steady load does not flatter the module that is measured first. precision: float16 and
    bfloat16 by autocast. images: those to pass in turn, (1, 3, H, W) each, since a detector's suppression takes longer
    where there is more to see; default: one image of noise.

    On a CPU with one thread the time is the processor time of that thread, which other processes do not lengthen;
    with several threads, and on a GPU, it is wall clock.
    """
    device = torch.device(device)
    module.to(device)
    passed = [image.to(device) for image in images or [torch.randn(1, *input_shape)]]
    on_cuda = device.type == "cuda"
    timed = _time_on_cuda if on_cuda else _time_on_cpu
    current = torch.cuda.device(device) if on_cuda else contextlib.nullcontext()  # events belong to the current one
    lower = precision != "float32"
    lower_precision = torch.autocast(device.type, getattr(torch, precision) if lower else None, enabled=lower)
    milliseconds = np.empty(runs)
    with current, lower_precision, evaluation_mode(module):
        for run in range(warmup):
            module(passed[run % len(passed)])
        for run in range(runs):
            time.sleep(pause_s)
            milliseconds[run] = timed(partial(module, passed[run % len(passed)]))
    first, median, third = np.percentile(milliseconds, [25, 50, 75])
    software = f"torch {torch.__version__}"
    if on_cuda:
        software += f", CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    return Latency(
        float(median), float(third - first), device_name(device), precision, software, torch.get_num_threads()
    )


def _time_on_cpu(forward: Callable[[], object]) -> float:
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    forward()
    return 1000 * (clock() - start)


def _time_on_cuda(forward: Callable[[], object]) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    forward()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def device_name(device: torch.device) -> str:
    """The product's name of a GPU or of this machine's processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
