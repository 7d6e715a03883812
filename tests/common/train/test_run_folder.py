"""A run folder keeps what it is given, refuses what does not belong to it, and loses nothing to a fault."""

import errno
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from common.plain import InputError, to_json
from common.train import distributed
from common.train.run_folder import Run, describe_environment


@dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    widths: tuple[int, ...] = (8, 16)


@dataclass(frozen=True)
class Config:
    name: str = "tiny"
    out: Path = Path("somewhere")
    inner: Inner = field(default_factory=Inner)


def test_the_same_config_goes_on_and_another_is_refused_by_its_first_field(tmp_path):
    Run.open(tmp_path / "run", Config()).close()
    Run.open(tmp_path / "run", Config()).close()
    with pytest.raises(InputError, match=r"inner\.widths = \[8, 16\].*asks for \[8, 32\].*another output folder"):
        Run.open(tmp_path / "run", Config(inner=Inner(widths=(8, 32))))
    with pytest.raises(InputError, match=r"extra = nothing.*asks for 1"):
        Run.open(tmp_path / "run", {**to_json(Config()), "extra": 1})
    with pytest.raises(InputError, match=r'name = "tiny".*asks for nothing'):
        Run.open(tmp_path / "run", {key: value for key, value in to_json(Config()).items() if key != "name"})
    assert Run.read(tmp_path / "run").config["inner"] == {"rate": 0.1, "widths": [8, 16]}


def test_a_folder_without_a_run_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="holds no run"):
        Run.read(tmp_path)


def test_a_run_opened_for_reading_or_closed_is_not_written(tmp_path):
    run = Run.open(tmp_path, {})
    reader = Run.read(tmp_path)
    run.close()
    for closed in (run, reader):
        with pytest.raises(RuntimeError, match="opened for reading"):
            closed.candidate(AP=0.5)
        with pytest.raises(RuntimeError, match="opened for reading"):
            closed.finish({})
    assert reader.candidates() == []


def test_json_holds_no_nan_and_no_foreign_types():
    value = {1: np.float32(0.5), "a": torch.tensor([1.0, float("nan")]), "b": (Path("x"), {3, 1}), "c": float("inf")}
    assert to_json(value) == {"1": 0.5, "a": [1.0, None], "b": ["x", [1, 3]], "c": None}
    with pytest.raises(TypeError, match="no JSON form"):
        to_json(object())


def test_environment_names_versions_and_neither_host_nor_user(monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: Path("/home/somebody"))
    environment = describe_environment("python -m detofa.train --out /home/somebody/runs")
    assert environment["command"] == "python -m detofa.train --out ~/runs"
    assert environment["torch"] == torch.__version__.split("+")[0]
    assert {"git_commit", "git_dirty", "python", "torchvision", "numpy", "cpu", "cores", "gpus", "time"} <= set(
        environment
    )
    assert os.uname().nodename not in json.dumps(environment)


def test_each_resumption_is_noted_until_the_run_is_done(tmp_path):
    for _ in range(2):
        Run.open(tmp_path, {}, "first").close()
    run = Run.open(tmp_path, {}, "second")
    assert [list(note) for note in run.environment["resumed"]][1][0] == "command"
    run.finish({"AP": 0.5})
    assert len(Run.open(tmp_path, {}).environment["resumed"]) == 2
    assert run.result == {"AP": 0.5}


def test_no_process_goes_on_before_the_result_is_there(tmp_path, monkeypatch):
    with Run.open(tmp_path, {}) as run:
        there = []
        monkeypatch.setattr(distributed, "barrier", lambda: there.append(run.result))
        run.finish({"AP": 0.5})
    assert there == [{"AP": 0.5}], "all but the first process write nothing, and read it next"


def test_candidates_are_found_by_their_fields(tmp_path):
    run = Run.open(tmp_path, {})
    run.candidate(encoding=(1, 2), AP=float("nan"), seed=0)
    run.candidate(encoding=(1, 3), AP=0.5, seed=0)
    assert run.candidates(encoding=(1, 2)) == [{"encoding": [1, 2], "AP": None, "seed": 0}]
    assert [record["AP"] for record in run.candidates(seed=0)] == [None, 0.5]
    assert run.candidates(missing=None) == []


@pytest.mark.parametrize("name", ["log.jsonl", "candidates.jsonl"])
@pytest.mark.parametrize("torn", ['{"a": 2', "\x00\x00", '{"a": 3}'])
def test_a_torn_last_line_is_dropped_on_opening(tmp_path, name, torn):
    run = Run.open(tmp_path, {})
    append = run.log if name == "log.jsonl" else run.candidate
    append(a=1)
    with open(tmp_path / name, "a") as file:
        file.write(torn)
    read = run.logged if name == "log.jsonl" else run.candidates
    assert read() == [{"a": 1}]  # a reader does not trip over it either
    run.close()
    run = Run.open(tmp_path, {})
    (run.log if name == "log.jsonl" else run.candidate)(a=4)
    assert [json.loads(line) for line in (tmp_path / name).read_text().splitlines()] == [{"a": 1}, {"a": 4}]


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    run = Run.open(tmp_path, {})
    (tmp_path / "candidates.jsonl").write_text('{"a": 1}\n{"a"\n{"a": 3}\n')
    with pytest.raises(InputError, match="line 2, is not valid JSON"):
        run.candidates()


def test_weights_come_back_with_their_meta_even_when_shared_or_strided(tmp_path):
    run = Run.open(tmp_path, {})
    shared = torch.arange(6.0)
    weights = {"a": shared, "b": shared.view(2, 3).T, "c": torch.ones(2, dtype=torch.bfloat16), "n": torch.tensor(3)}
    run.save_weights("net", weights, {"encoding": (1, 2)})
    loaded, meta = run.load_weights("net")
    assert meta == {"encoding": [1, 2]}
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)
    assert run.has_weights("net")
    assert not run.has_weights("other")


def test_damaged_files_are_named(tmp_path):
    run = Run.open(tmp_path, {})
    run.save_weights("net", {"a": torch.ones(100)})
    whole = (tmp_path / "net.safetensors").read_bytes()
    (tmp_path / "net.safetensors").write_bytes(whole[:-10])
    with pytest.raises(InputError, match="not a readable safetensors"):
        run.load_weights("net")
    with pytest.raises(InputError, match="there are no weights at"):
        run.load_weights("none")
    run.save_state("net", {"a": torch.ones(100)})
    whole = (tmp_path / "net.state").read_bytes()
    (tmp_path / "net.state").write_bytes(whole[:-50])
    with pytest.raises(InputError, match="not a readable checkpoint"):
        run.load_state("net")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json is not valid JSON"):
        Run.open(tmp_path, {})


def test_a_state_that_would_run_code_is_refused(tmp_path):
    class Malice:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "harm"),))

    run = Run.open(tmp_path, {})
    torch.save({"a": Malice()}, tmp_path / "net.state")
    with pytest.raises(InputError, match="not a readable checkpoint"):
        run.load_state("net")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("where", ["replace", "fsync"])
def test_a_full_disk_is_told_and_leaves_what_was_there(tmp_path, monkeypatch, where):
    run = Run.open(tmp_path, {})
    run.save_weights("net", {"a": torch.ones(2)})
    run.save_state("net", {"step": 1})
    run.finish({"AP": 0.1})
    run.finish_stage("net", {"AP": 0.1})
    run.candidate(AP=0.1)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, where, full)
        writes = [
            lambda: run.save_weights("net", {"a": torch.zeros(2)}),
            lambda: run.save_state("net", {"step": 2}),
            lambda: run.finish({"AP": 0.2}),
            lambda: run.finish_stage("net", {"AP": 0.2}),
        ]
        if where == "fsync":  # appending a line replaces nothing
            writes.append(lambda: run.candidate(AP=0.2))
        for write in writes:
            with pytest.raises(
                InputError, match=r"cannot write .*the disk is full \([\d,]+ MiB free\).*free some space"
            ):
                write()
    assert torch.equal(run.load_weights("net")[0]["a"], torch.ones(2))
    assert run.load_state("net") == {"step": 1}
    assert run.result == {"AP": 0.1}
    assert run.stage_done("net") == {"stage": "net", "AP": 0.1}
    assert run.candidates() == [{"AP": 0.1}]
    assert not list(tmp_path.rglob(".*partial"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_met_while_a_line_is_written(tmp_path):
    run = Run.open(tmp_path, {})
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    with pytest.raises(InputError, match="the disk is full"):
        run.log(a=1)


def test_names_cannot_climb_out_of_the_folder(tmp_path):
    run = Run.open(tmp_path / "run", {})
    for name in ("../x", "a/b", "", ".hidden"):
        with pytest.raises(ValueError, match="no plain file name"):
            run.write_json(name, {})


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*file/run"):
        Run.open(tmp_path / "file" / "run", {})


def test_the_leftovers_of_a_kill_are_cleared(tmp_path):
    Run.open(tmp_path, {}).close()
    (tmp_path / ".net.safetensors.partial").write_text("half")
    Run.open(tmp_path, {})
    assert not (tmp_path / ".net.safetensors.partial").exists()


def open_in_a_child(folder: Path) -> str:
    """What another process hears that opens the run: nothing, or a sentence."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            Run.open(folder, {})
        except InputError as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as said:
        return said.read()


def test_a_second_process_is_turned_away_until_the_first_is_done(tmp_path):
    run = Run.open(tmp_path, {})
    again = Run.open(tmp_path, {})  # the same process may
    again.close()
    assert f"in use by another process (number {os.getpid()})" in open_in_a_child(tmp_path)
    run.close()
    assert open_in_a_child(tmp_path) == ""


def test_a_worker_that_outlives_its_parent_does_not_hold_the_lock(tmp_path):
    run = Run.open(tmp_path, {})
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    try:
        run.close()
        assert open_in_a_child(tmp_path) == ""
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
