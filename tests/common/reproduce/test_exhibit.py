import math
from types import SimpleNamespace

import pytest

from common.report.statistics import Difference
from common.report.tables import ExhibitResult, Table
from common.reproduce.exhibit import Drawn, Exhibit, in_all, make, needed, over_seeds, stacked, triple

RECORD = {"paper": "toynas", "labels": {"ours": "Ours"}, "data": "scenes", "scale": "smoke", "command": ""}


def _exhibit(name: str, runs: tuple[str, ...] = ()) -> Exhibit:
    def draw(measured, setting):
        return Drawn(Table(["AP"], [[over_seeds(stacked(measured, "AP"))]]), "AP.", ["Drawn."])

    return Exhibit(name, name, name, name, None, draw, runs)


def test_over_seeds_drops_seeds_with_a_number_missing():
    value = over_seeds([[1.0, 3.0], [math.nan, 9.0], [3.0, 5.0]])
    assert (value.mean, value.n) == (3.0, 2)
    assert over_seeds([math.nan]).n == 0


def test_stacked_follows_the_keys_and_takes_null_for_nan():
    measured = [{"curves": {"ours": [1, None]}}, {"curves": {"ours": [3, 4]}}]
    values = stacked(measured, "curves", "ours")
    assert values.shape == (2, 2)
    assert values[:, 0].tolist() == [1, 3]
    assert math.isnan(values[0, 1])


def test_in_all_keeps_what_every_seed_has_in_the_order_asked_for():
    measured = [{"curves": {"a": 1, "b": 1, "c": 1}}, {"curves": {"b": 1, "a": 1}}]
    assert in_all(measured, "curves", ["c", "b", "a"]) == ["b", "a"]


def test_triple():
    assert triple(Difference(2.0, 1.0, 3.0, 4)) == (2.0, 1.0, 3.0)


def test_needed_names_each_run_once_in_order():
    assert needed([_exhibit("a", ("x", "y")), _exhibit("b", ("z", "y"))]) == ["x", "y", "z"]


def test_missing_results_are_noted_by_their_labels(toy, tmp_path):
    missing = {"ours": "no path costs so little", "other": "it does not fit"}
    measured = {1: {"AP": 3.0, "missing": missing}, 0: {"AP": 1.0}}
    made = make(_exhibit("table2", ("ours",)), measured, SimpleNamespace(folder=tmp_path / "here"), **RECORD)
    assert made.notes == (
        "Drawn.",
        "Ours has no result for seed 1: no path costs so little.",
        "other has no result for seed 1: it does not fit.",
        "Theirs is of another data set.",
    )
    assert made.seeds == (0, 1)
    assert ExhibitResult.load(tmp_path / "here").notes == made.notes


@pytest.mark.parametrize(("runs", "noted"), [(("ours",), True), ((), False)])
def test_one_seed_of_something_trained_is_noted(toy, tmp_path, runs, noted):
    made = make(_exhibit("figure1", runs), {0: {"AP": 1.0}}, SimpleNamespace(folder=tmp_path / "here"), **RECORD)
    assert ("One seed: no interval can be given." in made.notes) == noted
    assert made.notes[-1] == "The paper: the curves rise."
