"""The benchmarks run at tiny sizes, agree with their peers, and refuse to report where they do not."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import common.bench.__main__ as command
from common.bench import harness, networks, paths, sampling, searches
from common.bench.detections import coco_records, made_up_detections
from common.bench.harness import BENCHMARKS, Contender, Disagreement, Missing, Timing, compare, seconds_in_turn
from common.cli import run
from common.cost_table import CostTable
from common.data.scenes import scenes
from common.evaluate.average_precision import GroundTruth
from common.models.ofa_resnet import OFAResNetSpace
from common.plain import InputError
from common.search.evolution import EvolutionSettings

NAMES = {
    "cost-paths",
    "evolution",
    "evolution-path-filter",
    "elastic-step",
    "bn-reestimation",
    "average-precision",
    "path-sampling",
    "two-stage",
}


def test_all_benchmarks_are_registered():
    assert set(BENCHMARKS) == NAMES
    assert all(entry.summary for entry in BENCHMARKS.values())


@pytest.mark.parametrize("name", sorted(NAMES))
def test_benchmark_at_tiny_size(name, device):
    rows = command.measure(BENCHMARKS[name], Timing(device, repeats=1), quick=True)
    assert rows
    for row in rows:
        assert row.name == name
        assert row.ours > 0
        assert row.against
        assert row.unit
        if row.peer is None:
            assert row.ratio is None
            assert row.reason
        else:
            expected = row.ours / row.peer if row.unit.endswith("/s") else row.peer / row.ours
            assert row.ratio == pytest.approx(expected)
    # the oracles that every installation has are compared with
    always = {"cost-paths": "torch FlopCounterMode", "average-precision": "pycocotools", "evolution": "one by one"}
    if name in always:
        assert next(row for row in rows if row.against == always[name]).ratio is not None


def test_a_wrong_cost_table_gives_no_row(monkeypatch):
    exact = CostTable.macs

    def wrong(space, size, head=None):
        return exact(space, size, head=lambda channels: head(channels) + 1)

    monkeypatch.setattr(paths.CostTable, "macs", wrong)
    with pytest.raises(Disagreement, match="FlopCounterMode"):
        BENCHMARKS["cost-paths"].measure(BENCHMARKS["cost-paths"].quick, Timing(repeats=1))


def test_a_wrong_average_precision_gives_no_row(monkeypatch):
    right = GroundTruth.evaluate

    def wrong(self, *arguments, **named):
        numbers = right(self, *arguments, **named)
        return {**numbers, "AR10": numbers["AR10"] + 1e-6}

    monkeypatch.setattr(GroundTruth, "evaluate", wrong)
    with pytest.raises(InputError, match="pycocotools"):
        command.measure(BENCHMARKS["average-precision"], Timing(repeats=1), quick=True)


def test_everyone_has_a_turn_in_every_round():
    order = []
    contenders = [Contender(name, lambda name=name: order.append(name)) for name in "ab"]
    seconds, rounds = seconds_in_turn(contenders, Timing(repeats=3))
    assert order == list("ababab")
    assert rounds == 3
    assert set(seconds) == {"a", "b"}


def test_patience_ends_the_rounds():
    _, rounds = seconds_in_turn([Contender("a", lambda: None)], Timing(repeats=50, patience_s=0))
    assert rounds == 1


@pytest.mark.parametrize(("unit", "ratio"), [("s", 4.0), ("paths/s", 4.0)])
def test_ratio_above_one_means_ours_is_better(monkeypatch, unit, ratio):
    monkeypatch.setattr(harness, "seconds_in_turn", lambda contenders, timing: ({"ours": 1.0, "theirs": 2.0}, 1))
    ours, theirs = Contender("ours", lambda: None, amount=10), Contender("theirs", lambda: None, amount=5)
    rows = compare("x", unit, ours, [theirs, Missing("absent", "it is not installed")], Timing())
    assert rows[0].ratio == pytest.approx(ratio)
    assert (rows[0].ours, rows[0].peer) == ((0.1, 0.4) if unit == "s" else (10.0, 2.5))
    assert (rows[1].peer, rows[1].ratio, rows[1].reason) == (None, None, "it is not installed")


def test_json_is_all_that_stdout_holds(capsys):
    run(
        command.main,
        command.BenchCommand,
        ["path-sampling", "average-precision", "--quick", "--json", "--repeats", "1"],
    )
    rows = json.loads(capsys.readouterr().out)
    assert {row["name"] for row in rows} == {"path-sampling", "average-precision"}
    for row in rows:
        assert {"name", "ours", "peer", "unit", "ratio", "machine", "threads"} <= row.keys()
        assert row["ratio"] is not None or row["reason"]


def test_table_and_list(capsys):
    run(command.main, command.BenchCommand, ["average-precision", "--quick", "--repeats", "1"])
    assert "against pycocotools" in capsys.readouterr().out
    run(command.main, command.BenchCommand, ["--list"])
    out = capsys.readouterr().out
    assert all(name in out for name in NAMES)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["cost-path"], "cost-paths"), (["--repeats", "0"], "repeats"), (["--device", "abacus"], "abacus")],
)
def test_bad_input_is_one_sentence(arguments, says, capsys):
    with pytest.raises(SystemExit) as stop:
        run(command.main, command.BenchCommand, arguments)
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert says in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_missing_package_has_a_reason():
    assert "is not installed" in harness.optional("no_such_module_anywhere", "no-such-package")
    assert harness.optional("json", "json") is json


def test_predictor_reads_one_hot_choices():
    space = OFAResNetSpace(elastic_stem=True)
    predictor = searches.AccuracyPredictor(space)
    path = space.canonical(np.zeros((1, len(space.columns)), dtype=np.int8))
    seen = {}
    predictor.layers.register_forward_pre_hook(lambda _, inputs: seen.update(features=inputs[0]))
    predictor.score(path)
    # image size, stem, six widths, and an expand ratio for each of the 2 + 2 + 4 + 2 layers that are left
    assert seen["features"].sum() == 1 + 1 + 6 + 10
    assert seen["features"].shape == (1, predictor.inputs)
    assert seen["features"][0, 2] == 1  # skip index 0: the residual is there
    path[0, 0] = 1
    predictor.score(path)
    assert seen["features"][0, 1] == 1


@pytest.mark.parametrize("kind", [searches.vectorised, searches.one_by_one])
def test_searches_find_the_best_of_a_problem_with_a_known_answer(kind):
    space = OFAResNetSpace(base_depths=(1, 1, 1, 1), depths=(0,), stage_widths=(32, 64, 96, 128))
    problem = searches.Problem.of(space, lambda paths: paths.sum(axis=1).astype(float))
    everything = np.stack(list(space.enumerate()))
    best = problem.score(everything)[problem.feasible(everything)].max()
    assert best < problem.score(everything).max()  # the budget binds
    assert kind(problem, EvolutionSettings(population=60, generations=40))(0) == best


def test_agreement_of_two_procedures():
    """The first batch turns two neighbours round, and the second puts them right again."""
    full = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    first = np.array([2.0, 1.0, 3.0, 4.0, 5.0, 6.0])
    cheap = np.stack([first, 2 * full - first], axis=1)
    found = sampling.Agreement(full, cheap, np.array([0, 0, 0, 1, 1, 1]), sampling.Procedure(8, 20), batch_size=10)
    assert found.spearman(1) == pytest.approx(1 - 6 * 2 / (6 * 35))
    assert found.kendall() == pytest.approx((1, 1))
    assert found.least_images(0.9) == 10
    assert found.least_images(0.99) == 20
    assert replace(found, cheap=cheap[:, :1]).least_images(0.99) is None
    assert replace(found, cheap=cheap[:, :1]).kendall() == pytest.approx((1 - 2 / 15, (1 / 3 + 1) / 2))


def test_middle_path_is_a_path():
    for space in (networks.PAPER_SPACE, networks.THIN_SPACE):
        path = networks.middle_path(space)
        assert (space.check(path) == path).all()


def test_made_up_detections_are_sorted_and_whole():
    dataset = scenes("val", 4)
    found = made_up_detections(dataset, 12)
    assert found.boxes.shape == (4, 12, 4)
    assert (found.scores[:, :-1] >= found.scores[:, 1:]).all()
    assert (found.boxes[..., 2:] > found.boxes[..., :2]).all()
    assert torch.equal(found.boxes, made_up_detections(dataset, 12).boxes)
    records = coco_records(dataset)
    assert len(records["annotations"]) == len(dataset.boxes)
    assert all(annotation["id"] > 0 for annotation in records["annotations"])
