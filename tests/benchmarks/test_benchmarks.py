"""The benchmarks run at tiny sizes, agree with their peers, and refuse to report where they do not."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import benchmarks.__main__ as command
from benchmarks import harness, networks, paths, sampling
from benchmarks.harness import Row, Timing, Unavailable, Work, compare, seconds_in_turn
from common.cli import run
from common.evaluate.average_precision import GroundTruth
from common.plain import InputError
from detofa.space import CostTable, EvolutionSettings, OFAResNetSpace

ROOT = Path(__file__).resolve().parents[2]
# the oracles that every installation has
ALWAYS_THERE = {
    "answers": "importing torch",
    "average-precision": "pycocotools",
    "bn-reestimation": "a plain forward",
    "bookkeeping": "reading the records at each generation of 20",
    "cost-paths": "torch FlopCounterMode",
    "elastic-step": "the net taken out",
    "evolution": "one by one",
    "evolution-path-filter": "one by one",
    "path-sampling": "DetOFA as printed",
    "redrawing": "-",
    "two-stage": "torchvision",
    "workers": "one process",
}


LONG = ("answers", "path-sampling", "redrawing", "two-stage", "workers")


@pytest.mark.parametrize(
    "name", [pytest.param(each, marks=[pytest.mark.slow] * (each in LONG)) for each in ALWAYS_THERE]
)
def test_benchmark_at_tiny_size(name, device):
    rows = command.measure(name, Timing(str(device), repeats=1), quick=True)
    for row in rows:
        assert row.ours > 0
        assert row.unit
        assert (row.ratio is None) == (row.reason is not None)
    there = next(row for row in rows if row.against == ALWAYS_THERE[name])
    assert there.peer is None if there.against == "-" else there.ratio > 0


@pytest.mark.parametrize(
    ("owner", "method", "name", "says"),
    [
        (CostTable, "macs", "cost-paths", "cost-paths.*FlopCounterMode"),
        (GroundTruth, "evaluate", "average-precision", "average-precision.*pycocotools"),
    ],
)
def test_a_wrong_result_gives_no_row(monkeypatch, owner, method, name, says):
    right = getattr(owner, method)

    def wrong(*arguments, **named):
        if owner is CostTable:
            return right(*arguments, head=lambda channels: named["head"](channels) + 1)
        numbers = right(*arguments, **named)
        return {**numbers, "AR10": numbers["AR10"] + 1e-6}

    monkeypatch.setattr(owner, method, wrong)
    with pytest.raises(InputError, match=says):
        command.measure(name, Timing(repeats=1), quick=True)


def test_everyone_has_a_turn_in_every_round():
    order = []
    works = {name: Work(lambda name=name: order.append(name)) for name in "ab"}
    seconds, rounds = seconds_in_turn(works, Timing(repeats=3))
    assert order == list("abababab")  # the first round warms up
    assert rounds == 3
    assert set(seconds) == {"a", "b"}
    order.clear()
    assert seconds_in_turn(works, Timing(repeats=50, patience_s=0, warm_up=False))[1] == 1
    assert order == list("ab")


@pytest.mark.parametrize(("unit", "values"), [("s", (0.1, 0.4)), ("paths/s", (10.0, 2.5))])
def test_ratio_above_one_means_ours_is_better(monkeypatch, unit, values):
    clock = iter([0.0, 1.0, 1.0, 3.0])  # a second for ours, two for theirs
    monkeypatch.setattr(harness, "_cpu_seconds", lambda: next(clock))

    def absent():
        raise Unavailable("it is not installed")

    peers = {"theirs": lambda: Work(lambda: None, amount=5), "absent": absent}
    rows = compare(unit, Work(lambda: None, amount=10), peers, Timing(repeats=1, clock="cpu"), case="x")
    assert rows[0] == Row(*values, unit, "theirs", case="x", rounds=1)
    assert rows[0].ratio == pytest.approx(4.0)
    assert rows[1] == Row(values[0], None, unit, "absent", case="x", rounds=1, reason="it is not installed")
    assert rows[1].ratio is None


def test_json_is_all_that_stdout_holds_and_a_table_names_the_peer(monkeypatch, capsys):
    def measured(*_):
        print("what a peer prints")
        return [Row(1.0, 2.0, "s", "a peer"), Row(1.0, None, "s", "absent", reason="it is not installed")]

    monkeypatch.setattr(command, "measure", measured)
    run(command.main, command.Options, ["average-precision", "cost-paths", "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == ["average-precision"] * 2 + ["cost-paths"] * 2
    assert [row["ratio"] for row in rows] == [2.0, None] * 2
    for row in rows:
        assert {"ours", "peer", "unit", "cpu", "threads", "torch"} <= row.keys()
    run(command.main, command.Options, ["average-precision"])
    first, second = capsys.readouterr().out.splitlines()
    assert "against a peer" in first
    assert "against absent [it is not installed]" in second


def test_the_list_needs_no_torch():
    code = (
        "import sys, benchmarks.__main__ as m; m.run(m.main, m.Options, ['--list']); 'torch' in sys.modules and exit(1)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(command.BENCHMARKS) == list(ALWAYS_THERE)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["cost-path"], "cost-paths"), (["--repeats", "0"], "repeats"), (["--device", "abacus"], "abacus")],
)
def test_bad_input_is_one_sentence(arguments, says, capsys):
    with pytest.raises(SystemExit) as stop:
        run(command.main, command.Options, arguments)
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert says in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_missing_package_has_a_reason():
    with pytest.raises(Unavailable, match="no-such-package is not installed"):
        harness.optional("no_such_module_anywhere", "no-such-package")
    assert harness.optional("json", "json") is json


def test_predictor_reads_one_hot_choices():
    space = OFAResNetSpace(elastic_stem=True)
    predictor = paths.AccuracyPredictor(space, "cpu")
    path = space.canonical(np.zeros((1, len(space.columns)), dtype=np.int8))
    seen = {}
    predictor.layers.register_forward_pre_hook(lambda _, inputs: seen.update(features=inputs[0]))
    predictor(path)
    # image size, stem, six widths, and an expand ratio for each of the 2 + 2 + 4 + 2 layers that are left
    assert seen["features"].sum() == 1 + 1 + 6 + 10
    assert seen["features"].shape == (1, predictor.inputs)
    assert seen["features"][0, 2] == 1  # skip index 0: the residual is there
    path[0, 0] = 1
    predictor(path)
    assert seen["features"][0, 1] == 1


@pytest.mark.parametrize("kind", [paths.vectorised, paths.one_by_one])
def test_searches_find_the_best_of_a_problem_with_a_known_answer(kind):
    space = OFAResNetSpace(base_depths=(1, 1, 1, 1), depths=(0,), stage_widths=(32, 64, 96, 128))
    constraint = paths.macs_of(space)
    everything = np.array(list(itertools.product(*space.choices)), dtype=np.int8)  # no depth, so all are different
    scores = everything.sum(axis=1).astype(float)
    problem = paths.Problem(
        space, constraint.cost, lambda paths: paths.sum(axis=1).astype(float), constraint.budget(0.3)
    )
    best = scores[constraint.cost(everything) <= problem.budget].max()
    assert best < scores.max()  # the budget binds
    assert kind(problem, EvolutionSettings(population=60, generations=40))(0) == best


def test_agreement_of_two_procedures():
    """The first batch turns two neighbours round, and the second puts them right again."""
    full = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    first = np.array([2.0, 1.0, 3.0, 4.0, 5.0, 6.0])
    both = np.stack([first, 2 * full - first], axis=1)
    assert sampling.rank_agreement(full, both, 0.9) == pytest.approx((1, 1))
    assert sampling.rank_agreement(full, both, 0.99) == pytest.approx((1, 2))
    assert sampling.rank_agreement(full, first[:, None], 0.99) == (pytest.approx(1 - 6 * 2 / (6 * 35)), None)


@pytest.mark.parametrize("name", networks.SPACES)
def test_the_path_of_a_case_is_a_path_in_the_middle(name):
    case = networks.Case(name, 32, 1)
    path = case.path()
    assert all(index in allowed for index, allowed in zip(path, case.space.choices, strict=True))
    assert (case.space.canonical(path) == path).all()
    assert not (path == case.space.largest()).all()
    assert not (path == case.space.smallest()).all()
