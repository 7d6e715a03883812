"""A search on a Ray cluster: what one process finds, whatever is lost on the way. `make test-cluster` installs Ray."""

import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from common.plain import InputError
from common.search import executors
from common.search.executors import evaluate_all
from common.settings import Parallel
from common.train.run_folder import Run

ray = pytest.importorskip("ray", reason="Ray is not installed: make test-cluster installs it and runs these tests")


@pytest.fixture(scope="module", autouse=True)
def _cluster():
    ray.shutdown()  # of tests before these, in the same process
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
    yield
    ray.shutdown()


@dataclass(frozen=True)
class Candidate:
    """Its score is that of its parent, which lies in a file, and its own number."""

    number: int
    folder: Path
    parent: int | None = None
    fate: str = ""

    def file(self, number: int) -> Path:
        return self.folder / "weights" / f"{number}.txt"


def measure(item: Candidate) -> dict:
    attempts = item.folder / f"attempts-{item.number}"
    attempts.write_text(attempts.read_text() + "." if attempts.exists() else ".")
    if item.fate == "always" or (item.fate == "once" and len(attempts.read_text()) == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    if item.fate == "fault":
        raise ValueError("a fault in the code")
    inherited = int(item.file(item.parent).read_text()) if item.parent is not None else 0
    item.file(item.number).parent.mkdir(exist_ok=True)
    item.file(item.number).write_text(str(inherited + item.number))
    return {"AP": float(inherited + item.number)}


def evaluate(run: Run, items, **how) -> list[dict]:
    def files(item: Candidate) -> tuple[list[Path], list[Path]]:
        return [] if item.parent is None else [item.file(item.parent)], [item.file(item.number)]

    how = Parallel(executor="ray", **how)
    return list(evaluate_all(measure, items, run, lambda item: item.number, how, files=files))


def test_what_is_lost_is_tried_again_alone_and_then_recorded(tmp_path):
    fates = ["", "once", "", "always", ""]
    items = [Candidate(number, tmp_path, fate=fate) for number, fate in enumerate(fates)]
    with Run.open(tmp_path / "run", {}) as run:
        records = evaluate(run, items, workers=2)
    assert [record.get("AP") for record in records] == [0.0, 1.0, 2.0, None, 4.0]
    assert "its Ray task was lost twice" in records[3]["reason"]
    assert [len((tmp_path / f"attempts-{number}").read_text()) for number in range(5)] == [1, 2, 1, 2, 1]
    with Run.open(tmp_path / "again", {}) as run, pytest.raises(ValueError, match="a fault in the code"):
        evaluate(run, [Candidate(9, tmp_path, fate="fault")])


@pytest.mark.parametrize("files", ["folder", "store"])
def test_parents_travel_in_a_folder_or_through_the_store(tmp_path, monkeypatch, files):
    parent, child = Candidate(1, tmp_path), Candidate(2, tmp_path, parent=1)
    carried, put_back = executors._carried, executors._put_back

    def send(paths, stored, put):
        sent = carried(paths, stored, put)
        shutil.rmtree(child.file(1).parent)
        return sent

    def receive(file, *content):
        file.unlink()
        put_back(file, *content)

    with Run.open(tmp_path / "run", {}) as run:
        evaluate(run, [parent], files=files)
        if files == "store":  # as on machines with disks of their own: neither finds there what the other wrote
            monkeypatch.setattr(executors, "_carried", send)
            monkeypatch.setattr(executors, "_put_back", receive)
        [record] = evaluate(run, [child], files=files)
    assert record["AP"] == 3.0
    assert child.file(2).read_text() == "3"


def test_a_cluster_that_does_not_answer_is_told(tmp_path):
    ray.shutdown()
    with Run.open(tmp_path / "run", {}) as run, pytest.raises(InputError, match="names no Ray cluster that answers"):
        evaluate(run, [Candidate(1, tmp_path)], address="127.0.0.1:1")
