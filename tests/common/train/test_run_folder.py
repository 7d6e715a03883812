"""A run folder keeps what it is given, refuses what does not belong to it, and loses nothing to a fault."""

import errno
import json
import os
import shutil
import signal
import subprocess
import time
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from common.plain import InputError, to_json
from common.train import distributed, run_folder
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
    for _ in range(2):
        run = Run.open(tmp_path / "run", Config())
        run.candidate(AP=0.5)
        run.close()
    plain = to_json(Config())
    for other, message in (
        (Config(inner=Inner(widths=(8, 32))), r"inner\.widths = \[8, 16\].*asks for \[8, 32\].*another output folder"),
        ({**plain, "extra": 1}, r"extra = nothing.*asks for 1: "),
        ({**plain, "training_set": "1d"}, r'asks for "1d" \(digests of a data set: .* have changed\): give'),
        ({key: plain[key] for key in plain if key != "name"}, r'name = "tiny".*asks for nothing'),
    ):
        for look in (Run.open, Run.read):
            with pytest.raises(InputError, match=message):
                look(tmp_path / "run", other)
    with pytest.raises(InputError, match="holds no run"):
        Run.read(tmp_path)
    assert Run.read(tmp_path / "run").config["inner"] == {"rate": 0.1, "widths": [8, 16]}


def test_a_run_of_which_nothing_has_come_is_begun_anew_with_another_config(tmp_path):
    Run.open(tmp_path, {"set": 1}, "first").close()
    run = Run.open(tmp_path, {"set": 2}, "second")
    assert (run.config, run.environment["command"], run.environment.get("resumed")) == ({"set": 2}, "second", None)
    run.log(loss=1.0)
    run.close()
    with pytest.raises(InputError, match="set = 2, and this command asks for 1"):
        Run.open(tmp_path, {"set": 1})


def test_a_run_opened_for_reading_or_closed_is_not_written(tmp_path):
    run = Run.open(tmp_path, {})
    reader = Run.read(tmp_path)
    run.close()
    for closed in (run, reader):
        for write in (lambda closed=closed: closed.candidate(AP=0.5), lambda closed=closed: closed.finish({})):
            with pytest.raises(RuntimeError, match="opened for reading"):
                write()
    assert reader.candidates() == []


def test_environment_names_versions_and_neither_host_nor_user(monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: Path("/home/somebody"))
    environment = describe_environment("python -m detofa.train --out /home/somebody/runs")
    assert environment["command"] == "python -m detofa.train --out ~/runs"
    assert environment["torch"] == torch.__version__.split("+")[0]
    assert {"git_commit", "git_dirty", "python", "torchvision", "numpy", "cpu", "cores", "gpus", "time"} <= set(
        environment
    )
    assert os.uname().nodename not in json.dumps(environment)


def test_the_commit_is_that_of_the_code_not_of_a_repository_that_it_is_installed_in(tmp_path, monkeypatch):
    def git(*arguments: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(["git", "-C", tmp_path, *who, *arguments], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    installed = tmp_path / "site-packages" / "run_folder.py"
    installed.parent.mkdir()
    installed.write_text("pass")
    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "-m", "Somebody's")
    monkeypatch.setattr(run_folder, "__file__", str(installed))
    found = describe_environment()
    assert (found["git_commit"], found["git_dirty"]) == (None, None)
    git("add", ".")
    git("commit", "--quiet", "-m", "The code")
    for dirty in (False, True):
        found = describe_environment()
        assert (found["git_commit"], found["git_dirty"]) == (git("rev-parse", "HEAD"), dirty)
        installed.write_text("changed")


def test_each_resumption_is_noted_until_the_run_is_done_and_clears_the_leftovers_of_a_kill(tmp_path, capsys):
    Run.open(tmp_path, {}, "first").close()
    (tmp_path / ".net.safetensors.partial").write_text("half")
    environment = json.loads((tmp_path / "environment.json").read_text())
    (tmp_path / "environment.json").write_text(json.dumps(environment | {"threads": 7}))
    Run.open(tmp_path, {}, "first").close()
    assert not (tmp_path / ".net.safetensors.partial").exists()
    assert f"was begun with threads = 7 and goes on with {torch.get_num_threads()}" in capsys.readouterr().err
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


@pytest.mark.parametrize(("name", "append"), [("log", Run.log), ("candidates", Run.candidate)])
@pytest.mark.parametrize("torn", ['{"a": 2', "\x00\x00", '{"a": 3}'])
def test_a_torn_last_line_is_dropped_on_opening(tmp_path, name, append, torn):
    with Run.open(tmp_path, {}) as run:
        append(run, a=1)
        with open(tmp_path / f"{name}.jsonl", "a") as file:
            file.write(torn)
        assert run.candidates() == [{"a": 1}] * (name == "candidates")  # a reader does not trip over it either
    append(Run.open(tmp_path, {}), a=4)
    lines = (tmp_path / f"{name}.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"a": 1}, {"a": 4}]


def test_what_others_append_is_read_and_a_retried_candidate_counts_once(tmp_path):
    run, reader = Run.open(tmp_path, {}), Run.read(tmp_path)
    run.candidate(key=(1, 2), AP=float("nan"), seed=0)
    run.candidate(key=[2], AP=0.5, seed=0)
    assert reader.candidates(key=(1, 2)) == [{"key": [1, 2], "AP": None, "seed": 0}]
    assert [record["AP"] for record in reader.candidates(seed=0)] == [None, 0.5]
    assert reader.candidates(missing=None) == []
    run.candidate(key=[1, 2], AP=0.25)
    assert [record["AP"] for record in reader.candidates()] == [0.25, 0.5]
    assert reader.candidate_named((1, 2)) == {"key": [1, 2], "AP": 0.25}
    assert reader.candidate_named([3]) is None
    reader.candidates()[0]["AP"] = 9  # a copy
    assert run.candidates(key=[1, 2]) == [{"key": [1, 2], "AP": 0.25}]
    (tmp_path / "candidates.jsonl").write_text("")
    assert run.candidates() == []


def test_records_are_parsed_once(tmp_path, monkeypatch):
    """Else a search of n candidates would take n * n steps."""
    run, parsed = Run.open(tmp_path, {}), []
    parse = run_folder._Records._parse
    monkeypatch.setattr(run_folder._Records, "_parse", lambda *given: parsed.append(given) or parse(*given))
    for number in range(20):
        run.candidate(key=number)
        assert len(run.candidates()) == number + 1
        assert run.candidate_named(number) is not None
    assert len(parsed) == 20


def test_a_stage_logs_an_epoch_once_however_often_it_is_trained(tmp_path, logged):
    run = Run.open(tmp_path, {})
    for stage in "a", "b":
        for epoch in range(3):
            run.log(stage=stage, epoch=epoch)
    run.cut_log("b", 1)
    assert [(record["stage"], record["epoch"]) for record in logged(tmp_path)] == [
        ("a", 0),
        ("a", 1),
        ("a", 2),
        ("b", 0),
    ]


def test_a_state_that_would_run_code_is_refused(tmp_path):
    class Malice:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "harm"),))

    run = Run.open(tmp_path, {})
    run.save_state("net", {"a": Malice()})
    with pytest.raises(InputError, match="not a readable checkpoint"):
        run.load_state("net")
    assert not (tmp_path / "harm").exists()


def test_names_in_a_folder_are_on_disk_before_anything_rests_on_them(tmp_path, monkeypatch):
    """A synced file whose folder is not may be gone after a power cut."""
    run, synced = Run.open(tmp_path, {}), []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.readlink(f"/proc/self/fd/{file}")) or fsync(file))
    run.save_state("net", {"a": 1})
    assert [Path(path).name for path in synced] == [f".net.state.{os.getpid()}.partial", tmp_path.name]
    synced.clear()
    run.candidate(key=1)
    run.candidate(key=2)
    assert [Path(path).name for path in synced] == ["candidates.jsonl", tmp_path.name, "candidates.jsonl"]


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

    writes = {
        run.save_weights: ("net", {"a": torch.zeros(2)}),
        run.save_state: ("net", {"step": 2}),
        run.finish: ({"AP": 0.2},),
        run.finish_stage: ("net", {"AP": 0.2}),
    }
    with monkeypatch.context() as patch:
        patch.setattr(os, where, full)
        for write, what in writes.items():
            with pytest.raises(InputError, match=r"cannot write .*the disk is full \([\d,]+ MiB free\).*free some"):
                write(*what)
        if where == "fsync":  # appending a line replaces nothing
            with pytest.raises(InputError, match="the disk is full"):
                run.candidate(AP=0.2)
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


def test_names_and_folders_that_cannot_be(tmp_path):
    run = Run.open(tmp_path / "run", {})
    for name in ("../x", "a/b", "", ".hidden"):
        with pytest.raises(ValueError, match="no plain file name"):
            run.write_json(name, {})
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*file/run"):
        Run.open(tmp_path / "file" / "run", {})


def in_a_child(work) -> int:
    """The number of a process that does `work`; its exit status says whether that went through."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return child


def wait_until(true) -> None:
    limit = time.monotonic() + 30
    while not true():
        assert time.monotonic() < limit
        time.sleep(0.005)


def hold(folder: Path, release: Path, last=lambda run: None) -> None:
    with Run.open(folder, {}) as run:
        wait_until(release.exists)
        last(run)


@pytest.mark.parametrize("removed", [False, True])
def test_a_second_process_waits_until_the_first_is_done_and_finds_its_result(tmp_path, removed):
    """Or makes the folder anew that was removed while it was waited for."""
    folder, release, told = tmp_path / "run", tmp_path / "release", tmp_path / "told"
    last = (lambda run: shutil.rmtree(folder)) if removed else (lambda run: run.finish({"AP": 0.5}))
    holder = in_a_child(lambda: hold(folder, release, last))
    wait_until((folder / "environment.json").exists)

    def wait() -> None:
        with told.open("w", buffering=1) as file, redirect_stderr(file):
            Run.open(folder, {}).write_json("seen", {"result": Run.read(folder).result})

    waiting = in_a_child(wait)
    wait_until(lambda: told.exists() and told.read_text().endswith("\n"))
    release.touch()
    assert [os.waitpid(child, 0)[1] for child in (holder, waiting)] == [0, 0]
    assert Run.read(folder).read_json("seen") == {"result": None if removed else {"AP": 0.5}}
    assert told.read_text() == (
        f"{folder} is in use by another process (number {holder}): waiting until it is done; Ctrl-C to give up\n"
    )


def test_ctrl_c_ends_the_wait(tmp_path):
    folder = tmp_path / "run"
    holder = in_a_child(lambda: hold(folder, tmp_path / "never"))
    wait_until((folder / "environment.json").exists)
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        with pytest.raises(KeyboardInterrupt):
            Run.open(folder, {})
    finally:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
    Run.open(folder, {}).close()  # a dead process holds nothing


def test_a_process_may_open_its_run_again_its_child_may_not_and_holds_nothing(tmp_path):
    run = Run.open(tmp_path, {})
    Run.open(tmp_path, {}).close()

    def refused() -> None:
        with pytest.raises(RuntimeError, match=f"held by process {os.getppid()}, which waits for this one"):
            Run.open(tmp_path, {})

    assert os.waitpid(in_a_child(refused), 0)[1] == 0
    outlives = in_a_child(lambda: time.sleep(60))
    try:
        run.close()
        assert os.waitpid(in_a_child(lambda: Run.open(tmp_path, {})), 0)[1] == 0
    finally:
        os.kill(outlives, signal.SIGKILL)
        os.waitpid(outlives, 0)


def test_a_finished_run_is_read_without_a_write(tmp_path, monkeypatch):
    with Run.open(tmp_path, {"a": 1}) as run:
        run.save_weights("net", {"a": torch.ones(2)})
        run.log(stage="net", epoch=0)
        run.candidate(key=1)
        run.finish({"AP": 0.5})
    before = {path: path.stat().st_mtime_ns for path in [tmp_path, *tmp_path.rglob("*")]}
    reader = Run.read(tmp_path, {"a": 1})
    assert reader.result == {"AP": 0.5}
    assert len(reader.candidates()) == len(reader.load_weights("net")[0]) == 1
    assert {path: path.stat().st_mtime_ns for path in [tmp_path, *tmp_path.rglob("*")]} == before
