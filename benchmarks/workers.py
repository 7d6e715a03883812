"""A search in two processes against the same search in one: how much of the second core it turns into candidates."""

import contextlib
import itertools
import tempfile
import time
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch

from benchmarks.harness import Row, Timing, Work, agree, seconds_in_turn
from benchmarks.networks import CHANNELS_LAST, scene_batches, training_step
from common.batch import Batch
from common.data.scenes import CATEGORIES
from common.models.centernet import CenterNet, centernet_losses
from common.models.resnet import ResNet
from common.search.executors import evaluate_all
from common.settings import Parallel
from common.train.run_folder import Run

COUNT = 2  # processes


def workers(timing: Timing, candidates: int = 12, side: int = 96, images: int = 128, epochs: int = 2) -> list[Row]:
    """Seconds a candidate, each the training of a thin detector on one thread; twice as fast would be all there is.

    The processes stay from one generation to the next, so starting them is told apart.
    """
    numbers = itertools.count()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            runs = {name: stack.enter_context(Run.open(f"{folder}/{name}", {})) for name in ("one", "several")}

            def search(name: str, processes: int, count: int = candidates) -> list[dict[str, Any]]:
                items = [(next(numbers), side, images, epochs) for _ in range(count)]
                return list(evaluate_all(trained, items, runs[name], str, Parallel(workers=processes), score=None))

            began = time.perf_counter()
            several = search("several", COUNT, COUNT)  # starts them
            start = time.perf_counter() - began
            agree(several[0]["loss"] == search("one", 0, 1)[0]["loss"], "losses")
            works = {
                "ours": Work(lambda: search("several", COUNT), candidates),
                "one": Work(lambda: search("one", 0), candidates),
            }
            seconds, rounds = seconds_in_turn(works, replace(timing, clock="wall"))
    finally:
        torch.set_num_threads(threads)
    efficiency = seconds["one"] / seconds["ours"] / COUNT
    note = f"efficiency {efficiency:.2f}; starting both takes {start:.0f} s once a search"
    return [Row(seconds["ours"], seconds["one"], "s", "one process", f"{COUNT} processes", rounds, note)]


def trained(item: tuple[int, int, int, int]) -> dict[str, float]:
    """The last loss of a detector after so many epochs. item: a number, which changes nothing, and the sizes."""
    _, side, images, epochs = item
    batches = _scenes(images, side)
    torch.manual_seed(0)
    network = CenterNet(ResNet("resnet18", width=16), len(CATEGORIES), (24, 24, 24), 16)
    turns, losses = itertools.cycle(batches), []

    def loss() -> torch.Tensor:
        batch = next(turns)
        losses.append(centernet_losses(network(batch.images), batch)["loss"])
        return losses[-1]

    step = training_step(network.to(memory_format=CHANNELS_LAST), loss).run
    for _ in range(epochs * len(batches)):
        step()
    return {"loss": losses[-1].item()}


@lru_cache(maxsize=1)
def _scenes(images: int, side: int) -> list[Batch]:
    """Read once a process."""
    return scene_batches("train", images, side, 16, "cpu")
