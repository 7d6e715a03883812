"""Detectors that are there: found, evaluated as one evaluates them alone, timed in turn, and never twice."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from common.compare import measure
from common.compare.detectors import compare, drawn
from common.compare.measure import detectors_in, key_of, measured
from common.compare.methods import FOUND, methods
from common.compare.presets import SMOKE, Options
from common.data.source import load
from common.evaluate.inspection import inspect
from common.models.centernet import CenterNet
from common.models.detector import load_detector, save_detector
from common.models.resnet import ResNet
from common.plain import InputError, read_json, write_json
from common.report.figures import render

PAPER = next(iter(methods()))


@pytest.fixture(scope="module")
def dataset():
    return load("scenes:val=6", "val")


def write(folder, seed: int, size=(32, 32), **card):
    """A detector that nobody trained, with a card."""
    torch.manual_seed(seed)
    classes = load("scenes:val=1", "val").categories
    network = CenterNet(ResNet("resnet18", width=4), len(classes), (8,), 8)
    made = {"paper": PAPER, "run": f"/elsewhere/ours-s{seed}", "seed": seed, "scale": "nano"}
    spent = {"cpu_seconds": 100.0 + seed, "samples": 10}
    said = {"categories": list(classes), "input_size": list(size), "provenance": made, "spent": spent}
    return save_detector(folder / f"net-{seed}" / "detector", network, said | card)


def test_detectors_are_found_in_folders_by_name_and_once(tmp_path):
    files = [write(tmp_path / "runs", seed) for seed in (0, 1)]
    write_json(tmp_path / "runs" / "net-0" / "other.json", {"format": "something else"})
    stem = files[1].with_suffix("")
    for names in (["runs"], ["runs", "runs/net-0"], ["runs/net-0/detector.json", "runs"]):
        assert sorted(detectors_in(tmp_path / name for name in names)) == files
    for name in (stem, stem.with_suffix(".safetensors"), files[1].parent):
        assert detectors_in([name]) == [files[1]]
    (tmp_path / "empty").mkdir()
    for name in ("empty", "absent", "runs/net-0/other.json"):
        with pytest.raises(InputError, match=f"no detector in .*{name}: name a detector, a run that wrote one"):
            detectors_in([tmp_path / name])


def test_the_same_network_at_another_size_is_another_detector(tmp_path):
    sizes = {"here": (32, 32), "there": (32, 32), "larger": (32, 64)}
    here, there, larger = (key_of(read_json(write(tmp_path / place, 0, size))) for place, size in sizes.items())
    assert here == there != larger


def test_what_is_measured_is_what_the_evaluator_says_and_is_kept(tmp_path, dataset, monkeypatch):
    files = [write(tmp_path / "runs", 0), write(tmp_path / "runs", 1, (64, 32))]
    records, problems = measured(files, dataset, tmp_path / "kept", SMOKE, "cpu")
    assert problems == []
    by_seed = {record["seed"]: record for record in records}
    for seed, file in enumerate(files):
        known = by_seed[seed]
        alone = inspect(load_detector(file), dataset)
        assert (known["AP"], known["AR100"]) == pytest.approx((100 * alone["AP"], 100 * alone["AR100"]))
        assert (known["name"], known["role"], known["cpu_seconds"]) == (f"ours-s{seed}/detector", FOUND, 100 + seed)
        assert known["params"] == sum(each.numel() for each in load_detector(file).model.parameters())
        assert known["latency"] == pytest.approx(np.median(read_json(tmp_path / f"kept/{known['key']}.json")["rounds"]))
    assert by_seed[1]["macs"] == 2 * by_seed[0]["macs"]

    def never(*_):
        raise AssertionError("done again")

    with monkeypatch.context() as patch:
        patch.setattr(measure, "load_detector", never)
        assert measured(files, dataset, tmp_path / "kept", SMOKE, "cpu")[0] == records
    with monkeypatch.context() as patch:  # another set is another measurement
        patch.setattr(measure, "load_detector", never)
        with pytest.raises(AssertionError, match="done again"):
            measured(files, load("scenes:val=5", "val"), tmp_path / "kept", SMOKE, "cpu")


def test_who_comes_later_is_timed_beside_one_that_was_there_and_at_its_pace(tmp_path, dataset, monkeypatch):
    pace, asked = [1.0], []

    def in_turn(detectors, *_):
        asked.append(sorted(detectors))
        return {key: [2 * pace[0], 9 * pace[0], 3 * pace[0]] for key in detectors}

    monkeypatch.setattr(measure, "_in_turn", in_turn)
    first, second = write(tmp_path, 0), write(tmp_path, 1)
    measured([first], dataset, tmp_path / "kept", SMOKE, "cpu")
    pace[0] = 4.0  # the machine has slowed down
    records, _ = measured([first, second], dataset, tmp_path / "kept", SMOKE, "cpu")
    keys = [key_of(read_json(file)) for file in (first, second)]
    assert asked == [[keys[0]], sorted(keys)]
    assert [record["latency"] for record in records] == pytest.approx([3.0, 3.0])
    torch.set_num_threads(threads := torch.get_num_threads() + 1)
    try:  # other threads: all are timed anew
        measured([first, second], dataset, tmp_path / "kept", SMOKE, "cpu")
    finally:
        torch.set_num_threads(threads - 1)
    assert asked[2:] == [sorted(keys)]


def test_latencies_are_taken_in_turn(tmp_path, dataset, monkeypatch):
    order = []
    monkeypatch.setattr(
        measure, "measure_latency", lambda module, *_, **__: order.append(module) or SimpleNamespace(median_ms=1.0)
    )
    detectors = {str(seed): load_detector(write(tmp_path, seed)) for seed in (0, 1)}
    rounds = measure._in_turn(detectors, dataset, SMOKE, "cpu")
    assert [each.network for each in order] == [each.model for each in detectors.values()] * SMOKE.latency_rounds
    assert rounds == {"0": [1.0] * SMOKE.latency_rounds, "1": [1.0] * SMOKE.latency_rounds}


def test_one_that_cannot_be_measured_is_named_and_costs_no_other(tmp_path, dataset):
    good, bad = write(tmp_path, 0), write(tmp_path, 1)
    bad.with_suffix(".safetensors").write_bytes(b"torn")
    records, problems = measured([bad, good], dataset, tmp_path / "kept", SMOKE, "cpu")
    assert [record["seed"] for record in records] == [0]
    (problem,) = problems
    assert isinstance(problem, InputError)
    assert str(problem).startswith(f"{bad} is left out: ")


def test_the_command_says_what_is_shown_once_and_which_classes_a_detector_does_not_know(tmp_path, capsys):
    *others, last = load("scenes:val=1", "val").categories
    cards = {"one": (0, {}), "two": (0, {}), "three": (1, {"categories": [*others, "cell"]})}
    files = {place: write(tmp_path / "runs" / place, seed, **card) for place, (seed, card) in cards.items()}
    compare(Options(detectors=(tmp_path / "runs",), data="scenes:val=3", out=tmp_path / "out", device="cpu"))
    printed = capsys.readouterr()
    assert printed.err.startswith("3 detectors on 3 images of scenes:val=3, val\n")
    said = printed.out.splitlines()
    assert said[:2] == [
        f"{files['two']} has the weights and input size of {files['one']}, which is shown",
        f"ours-s1/detector does not know {last}",
    ]


def test_detectors_of_one_name_are_told_apart_by_their_folders(tmp_path, dataset):
    files = [write(tmp_path / place, 0, size) for place, size in {"a": (32, 32), "b": (32, 64)}.items()]
    files.append(write(tmp_path / "a", 1))
    records, _ = measured(files, dataset, tmp_path / "kept", SMOKE, "cpu")
    inside = files[0].with_suffix("").relative_to(tmp_path / "a").as_posix()
    assert sorted(each["name"] for each in records) == [f"a/{inside}", f"b/{inside}", "ours-s1/detector"]


# ---- the record


def record(paper: str = PAPER, role: str = FOUND, seed: int = 0, ap: float = 20.0, scale: str = "nano") -> dict:
    costs = {"macs": 50e6, "macs_mmdet": 51e6, "params": 2e6, "latency": 3.0, "cpu_seconds": 100.0}
    named = {"name": f"{paper}-{role}", "paper": paper, "role": role, "seed": seed, "scale": scale}
    named |= {"encoding": {"widths": [1] * 200}, "command": "python -m search"}
    return {**named, **costs, "AP": ap, "AP50": 2 * ap, "input_size": [96, 64]}


def test_the_record_has_every_detector_and_a_front_for_each_method_and_its_random_search():
    others = [record(role="random search", ap=15.0), record(role="standard network", ap=30.0)]
    result = drawn([record(), record(seed=1, ap=21.0), *others], ["x is left out: torn"], Options(), "typed")
    rows = [dict(zip(result.table.columns, row, strict=True)) for row in result.table.rows]
    title = methods()[PAPER].title
    kinds = ["Standard networks", title, title, f"{title}, random search"]
    assert [(row["Kind"], row["AP"]) for row in rows] == list(zip(kinds, [30.0, 21.0, 20.0, 15.0], strict=True))
    assert [rows[0][key] for key in ("Input", "MAC", "Parameters", "Latency")] == ["96x64", 50.0, 2.0, 3.0]
    assert result.notes[0] == "x is left out: torn"
    *against, bands = result.pictures
    assert [picture.name for picture in against] == [
        f"detectors-{cost}" for cost in ("macs", "latency", "params", "cpu_seconds")
    ]
    assert all(picture.data["with_front"] == [title, f"{title}, random search"] for picture in against)
    cost, points, said = against[0].data["points"][title][1]
    assert (cost, points, said["Seed"], said["Latency (ms)"], said["Command"]) == (50, 21, 1, 3, "python -m search")
    assert len(said["Encoding"]) <= 200
    assert list(bands.data["bands"]) == [title]  # of two seeds
    for picture in (against[-1], bands):
        assert render(picture).startswith(b"\x89PNG")


def test_printed_points_stand_beside_detectors_of_the_published_scale_alone():
    result = drawn([record("joint_detnas", scale="paper"), record("sm_nas", scale="paper")], [], Options(), "typed")
    of = {picture.name: picture.data["highlighted"] for picture in result.pictures}
    assert of["detectors-macs-points"]["R18-FPN ours"] == pytest.approx((117_300.0, 38.5))
    assert of["detectors-latency-points"]["E2"] == (39.5, 40.1)
    assert of["detectors-params"] == {}
    nothing = drawn([record("joint_detnas")], [], Options(), "typed")
    assert not any(picture.data["highlighted"] for picture in nothing.pictures)
    assert "of another scale" in nothing.notes[-1]
