"""Keeping the records of a search: what a candidate costs besides its evaluation, when there are a million of them."""

import json
import tempfile
import time
from pathlib import Path

from benchmarks.harness import Row, Timing, Work, agree, seconds_in_turn
from common.search.executors import evaluate_all
from common.train.run_folder import Run


def bookkeeping(timing: Timing, candidates: int = 1_000_000, new: int = 200) -> list[Row]:
    """Milliseconds a candidate: opening a run of so many, and evaluating further ones, each on disk when it is known.

    The peer reads the records again at each generation of 20 to see which candidates are known.
    """
    with tempfile.TemporaryDirectory() as folder:
        with Run.open(folder, {}):
            pass
        with open(Path(folder, "candidates.jsonl"), "w", encoding="utf-8") as file:
            for number in range(candidates):
                file.write(json.dumps(_record(number)) + "\n")
        before, began = _resident_bytes(), time.perf_counter()
        with Run.open(folder, {}) as run:
            agree(len(run.candidates(AP=-1.0)) == 0, "records")
            opening, held = time.perf_counter() - began, _resident_bytes() - before
            numbers = iter(range(candidates, 2**60, new))

            def ours() -> None:
                first = next(numbers)
                items = [*range(20), *range(first, first + new)]
                found = list(evaluate_all(_record, items, run, key=str))
                agree([each["key"] for each in found] == list(map(str, items)), "keys")

            def again() -> None:
                with open(Path(folder, "candidates.jsonl"), encoding="utf-8") as file:
                    {record["key"]: record for record in map(json.loads, file)}

            works = {"ours": Work(ours, new), "again": Work(again, 20)}
            seconds, rounds = seconds_in_turn(works, timing)
    case = f"{candidates:,} candidates"
    note = f"{held / 2**30:.2f} GiB, read in {opening:.1f} s"
    peer = "reading the records at each generation of 20"
    return [Row(1000 * seconds["ours"], 1000 * seconds["again"], "ms", peer, case, rounds, note)]


def _record(number: int) -> dict:
    """As a search writes it, without what evaluating takes."""
    return {
        "key": str(number),
        "status": "done",
        **dict.fromkeys(("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100"), number % 97 / 97),
        **dict.fromkeys(("macs", "macs_mmdet", "params"), number),
        "seconds": 1.0,
    }


def _resident_bytes() -> int:
    """Of this process, now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    return 0
