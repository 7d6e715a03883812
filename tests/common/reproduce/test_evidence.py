import json
import math
from dataclasses import replace

from common.reproduce.evidence import run_path, runs_of, shared_environment, stacked_evidence


def test_evidence_is_what_every_seed_has():
    by_seed = [{"ours": [1, 2], "ofa": [1, None], "full": 3}, {"ours": [2, 3], "ofa": [1, 2]}]
    values = stacked_evidence(by_seed)
    assert set(values) == {"ours"}
    assert values["ours"].tolist() == [[1, 2], [2, 3]]


def test_a_paper_may_drop_what_one_value_lacks_from_all():
    def first_only(values):
        assert math.isnan(values["ours"][1, 1])  # it sees what is missing
        return {name: array[:, :1] for name, array in values.items()}

    values = stacked_evidence([{"ours": [1, 2], "ofa": [3, 4]}, {"ours": [5, None], "ofa": [6, 7]}], first_only)
    assert {name: array.tolist() for name, array in values.items()} == {"ours": [[1], [5]], "ofa": [[3], [6]]}


def test_runs_are_those_that_are_there(toy, tmp_path):
    for name in ("ours-s0", "theirs-s0", "theirs-s1", "other-s0"):
        (tmp_path / name).mkdir()
    assert runs_of(toy.paper.exhibits["figure1"], range(2), tmp_path) == ["ours-s0", "theirs-s0", "theirs-s1"]


def test_runs_on_the_second_data_set_lie_beside_the_others(toy, tmp_path):
    first, second = tmp_path / "scenes-smoke", tmp_path / "reef-smoke"
    exhibit = replace(toy.paper.exhibits["figure1"], second_runs=("ours", "again"))
    for place, name in ((first, "ours-s0"), (second, "ours-s0"), (second, "theirs-s0"), (first, "again-s0")):
        (place / name).mkdir(parents=True)
    names = runs_of(exhibit, [0], first, second)
    assert names == ["ours-s0", "reef-smoke/ours-s0"]
    assert [run_path(first, name) for name in names] == [first / "ours-s0", second / "ours-s0"]
    assert runs_of(exhibit, [0], first) == ["ours-s0", "again-s0"], "without a second set all are on the first"


def test_an_environment_lists_what_differs_between_runs(tmp_path):
    for name, cpu in (("a-s0", "fast"), ("a-s1", "slow"), ("b-s0", "fast")):
        (tmp_path / name).mkdir()
        record = {"cpu": cpu, "torch": "2", "time": name, "command": name, "resumed": [name]}
        (tmp_path / name / "environment.json").write_text(json.dumps(record))
    assert shared_environment(tmp_path, ["a-s0", "a-s1", "b-s0"]) == {"cpu": ["fast", "slow"], "torch": "2"}
