"""What is found below folders, what a run took, and where it was made."""

import pytest

from common.plain import InputError, read_json, write_json
from common.report.reproduce import reproduce
from common.report.runs import duration, find_exhibits, find_runs, summarise


def test_exhibits_are_found_once_in_runs_and_in_results(toy, folder):
    reproduce(toy.paper, toy.options(publish=True))
    results = toy.root / "results"
    found, unreadable = find_exhibits([folder / "exhibits/figure1", toy.root / "runs", results])
    places = [(each.path.relative_to(toy.root).as_posix(), each.root) for each in found]
    assert places == [
        ("runs/toynas/scenes-smoke/exhibits/figure1/result.json", folder / "exhibits/figure1"),
        ("runs/toynas/scenes-smoke/exhibits/table2/result.json", toy.root / "runs"),
        ("results/smoke/toynas/figure1.json", results),
        ("results/smoke/toynas/table2.json", results),
    ]
    assert [each.result.exhibit for each in found] == ["figure1", "table2"] * 2
    assert not unreadable
    with pytest.raises(InputError, match=r"absent is not a folder; name folders such as runs"):
        find_exhibits([toy.root / "absent"])


def test_runs_are_found_once_and_named_from_the_folder_given(toy, folder):
    reproduce(toy.paper, toy.options(only=("table2",), publish=True))
    names = [run.name for run in find_runs([folder, toy.root / "runs", toy.root / "results"])[0]]
    assert names == ["scenes-smoke/ours-s0", "results/smoke/toynas/scenes-smoke/ours-s0"]
    (here, published), unreadable = find_runs([folder, toy.root / "results"])
    assert not unreadable
    assert (published.seconds, published.candidate_seconds, published.finished) == (90.0, None, True)
    assert published.environment["cpu"] == here.environment["cpu"] == "An abacus"
    records = read_json(toy.root / "results/smoke/toynas/runs.json")
    both = {f"../toynas/{name}": record for name, record in records.items()}  # as what compares papers names their runs
    write_json(toy.root / "results/smoke/compare/runs.json", both)
    assert [run.name for run in find_runs([toy.root / "results"])[0]] == [published.name]
    assert [run.name for run in find_runs([toy.root / "results/smoke/compare"])[0]] == ["toynas/scenes-smoke/ours-s0"]
    (toy.root / "results/smoke/compare/runs.json").unlink()
    (folder / "ours-s0/result.json").write_text("{")
    (toy.root / "results/smoke/toynas/runs.json").write_text("{")
    runs, faults = find_runs([folder, toy.root / "results"])
    assert not runs
    assert ["result.json is not valid JSON" in faults[0], "runs.json is not valid JSON" in faults[1]] == [True] * 2
    for content in ([], {"run": []}, {"run": {"seconds": 1}}):
        write_json(toy.root / "results/smoke/toynas/runs.json", content)
        (sentence,) = find_runs([toy.root / "results"])[1]
        assert sentence.startswith(f"{toy.root}/results/smoke/toynas/runs.json is not a list of runs")


def test_a_run_summary_counts_candidates_and_costs(tmp_path):
    write_json(tmp_path / "config.json", {})
    write_json(tmp_path / "stages/warm_up.json", {"seconds": 60.0})
    write_json(tmp_path / "stages/fine_tune.json", {"seconds": 120})
    lines = '{"seconds": 2.5}\n{"status": "failed", "seconds": 1}\n7\n{"status": "done"}\n{"AP": 0.'
    (tmp_path / "candidates.jsonl").write_text(lines)  # the last line was cut short
    run = summarise(tmp_path)
    assert (run.name, run.finished, run.candidates, run.failed) == (tmp_path.name, False, 3, 1)
    assert (run.seconds, run.candidate_seconds, run.environment) == (180.0, 3.5, {})
    write_json(tmp_path / "result.json", {"seconds": 999})
    assert (summarise(tmp_path).finished, summarise(tmp_path).seconds) == (True, 180.0)  # stages know better
    for path in (tmp_path / "stages").iterdir():
        path.unlink()
    assert summarise(tmp_path).seconds == 999.0 - 3.5
    write_json(tmp_path / "result.json", {"seconds": 3.5})  # a search that trains nothing but candidates
    assert (summarise(tmp_path).seconds, summarise(tmp_path).candidate_seconds) == (None, 3.5)


def test_a_candidate_that_is_recorded_twice_is_one(tmp_path):
    lines = ['{"key": ["a", 1], "status": "failed", "seconds": 2}', '{"key": "b", "seconds": 4}'] * 2
    lines += ['{"key": ["a", 1], "status": "done", "seconds": 3}', '{"seconds": 1}', '{"seconds": 1}']
    (tmp_path / "candidates.jsonl").write_text("\n".join(lines))
    run = summarise(tmp_path)
    assert (run.candidates, run.failed, run.candidate_seconds) == (4, 0, 9.0)


def test_what_lies_inside_a_run_is_no_run_of_its_own(tmp_path):
    for folder in ("search", "search/pairs/0000", "base"):
        write_json(tmp_path / folder / "config.json", {})
    assert [run.name.removeprefix(f"{tmp_path.name}/") for run in find_runs([tmp_path])[0]] == ["base", "search"]
    assert len(find_runs([tmp_path / "search"])[0]) == len(find_runs([tmp_path / "search/pairs"])[0]) == 1


def test_duration():
    texts = {None: "–", 0.0: "–", 89.94: "89.9 s", 90: "1.5 min", 5399: "90.0 min", 5400: "1.5 h", 36000: "10.0 h"}
    assert {seconds: duration(seconds) for seconds in texts} == texts
