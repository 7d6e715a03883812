"""What a command says of its stages: one line when each is done, its number, and the time left of the whole."""

import sys

import pytest

from common import progress
from common.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when a test says so, in a process that has shown nothing yet."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(progress, "_command", progress._Command())
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


def test_a_stage_leaves_one_line_with_its_number_and_the_time_left(clock, capsys):
    progress.plan({"crops": 10.0, "base": 20.0, "pool": 30.0, "latencies": 0.0})
    with progress.stage("base"):
        with progress.stage("crops"):  # made when the base first needs it
            clock(100)
        bar = Progress("detector", 50, unit="step")
        for _ in range(50):
            bar.advance()
            clock(4)
        bar.close()
    progress.found_done("pool", "crops")
    with progress.stage("latencies"):
        clock(1)
    assert capsys.readouterr().err.splitlines() == [
        "stage 1 of 4, crops: done in 01:40, about 08:20 left in all",  # 50 units at 10 s each
        "stage 2 of 4, base: done in 03:20, about 05:00 left in all",
        "stage 4 of 4, latencies: done in 00:01",
    ]


def test_what_is_not_planned_has_no_number_and_counts_for_the_stage_that_it_is_made_in(clock, capsys):
    with progress.stage("alone"):
        clock(5)
    progress.plan({"seed 0": 1.0, "seed 1": 1.0, "seed 2": 1.0})
    for seed in range(2):
        with progress.stage(f"seed {seed}"):
            with progress.stage(f"ours-s{seed}"):
                clock(60)
            clock(30)
    assert capsys.readouterr().err.splitlines() == [
        "alone: done in 00:05",
        "ours-s0: done in 01:00",
        "stage 1 of 3, seed 0: done in 01:30, about 03:00 left in all",
        "ours-s1: done in 01:00, about 02:00 left in all",
        "stage 2 of 3, seed 1: done in 01:30, about 01:30 left in all",
    ]


def test_what_is_done_outside_of_all_planned_stages_has_no_number(clock, capsys):
    progress.plan({"base": 1.0})
    with progress.stage("base"):
        clock(1)
    bar = Progress("pictures", 4, unit="picture")
    clock(1000)
    bar.advance()
    assert capsys.readouterr().err.splitlines()[1].startswith("pictures 1/4 pictures, 50:00 left")


def test_a_long_stage_says_now_and_then_how_far_it_is(clock, capsys):
    progress.plan({"search": 8.0, "final": 4.0})
    with progress.stage("search"):
        outer = Progress("candidates", 10, done=4, unit="candidate")
        outer.show(best=0.25, failed=None)
        clock(590)
        outer.advance()
        assert capsys.readouterr().err == ""
        inner = Progress("detector", None, unit="step")
        clock(10)
        inner.advance(3)
        inner.advance()
        inner.close()
        outer.close()
    # 600 s for a tenth of 8 units, of which 4 are left, and 4 after them
    assert capsys.readouterr().err.splitlines()[0] == (
        "stage 1 of 2, search: candidates 5/10 candidates, 50:00 left, best 0.25; detector 3 steps, "
        "about 1:40:00 left in all"
    )


def test_nothing_is_said_for_another_process(clock, capsys):
    progress.silence()
    with progress.stage("one"):
        clock(1e6)
        Progress("steps", 2).advance()
    assert capsys.readouterr().err == ""


def test_on_a_terminal_a_bar_names_the_stage_and_is_removed(clock, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    progress.plan({"base": 1.0, "pool": 1.0})
    with progress.stage("base"):
        bar = Progress("detector", 4, unit="step")
        clock(20)
        bar.advance(2)
        bar.show(loss=0.5)
        inside = Progress("inside", 4)
        inside.close()
        bar.close()
    shown = capsys.readouterr().err
    assert "stage 1 of 2, detector:" in shown
    assert "\rinside:" in shown
    assert shown.splitlines()[-1].endswith("stage 1 of 2, base: done in 00:20, about 00:20 left in all")
