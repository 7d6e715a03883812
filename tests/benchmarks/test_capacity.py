"""The check that the built-in set separates networks by capacity."""

import json

import pytest

import common.train.loop
from benchmarks import capacity
from benchmarks.capacity import Options
from common.cli import run

TINY = "--data scenes:train=16,val=8,size=32 --image-size 32 --batch-size 8 --train-images 16 --optimisation.epochs 1"


def _run(folder, *more):
    arguments = [*TINY.split(), "--out", str(folder / "out.json"), "--runs", str(folder / "runs"), *more]
    run(capacity.main, Options, arguments)
    return json.loads((folder / "out.json").read_text())


def test_two_tiny_widths_then_again(tmp_path, monkeypatch):
    record = _run(tmp_path, "--widths", "0.25", "0.5", "--seeds", "2")
    measured = [(result["width"], result["seed"]) for result in record["results"]]
    assert measured == [(0.25, 0), (0.5, 0), (0.25, 1), (0.5, 1)]
    narrow, wide = record["results"][:2]
    assert all(narrow[cost] < wide[cost] for cost in ("backbone_macs", "params"))
    assert [step["seeds"] for step in record["steps"]] == [2]
    monkeypatch.setattr(common.train.loop, "fit", lambda *_, **__: pytest.fail("trained again what was there"))
    assert _run(tmp_path, "--widths", "0.25", "0.5", "--seeds", "2")["results"] == record["results"]


def _results(by_width):
    pairs = [(width, *pair) for width, values in by_width.items() for pair in enumerate(values)]
    return [dict(zip(("width", "seed", "AP"), each, strict=True)) for each in pairs]


def test_the_rule_needs_every_step_above_zero():
    clear = {0.5: [0.10, 0.11, 0.10], 1.0: [0.15, 0.16, 0.151], 2.0: [0.20, 0.209, 0.20]}
    found = capacity.compared(_results(clear)[::-1])
    assert found["wider_is_better"]
    assert [(step["from"], step["to"]) for step in found["steps"]] == [(0.5, 1.0), (1.0, 2.0)]
    assert found["steps"][0]["difference"] == pytest.approx(0.0503, abs=1e-3)
    assert found["AP"][2]["by_seed"] == [0.20, 0.209, 0.20]
    noisy = {**clear, 2.0: [0.20, 0.15, 0.17]}  # higher on average, but not surely
    found = capacity.compared(_results(noisy))
    assert found["steps"][1]["difference"] > 0 > found["steps"][1]["low"]
    assert not found["wider_is_better"]


@pytest.mark.parametrize(
    ("arguments", "says"), [(["--widths", "2", "1"], "widths"), (["--widths", "1"], "widths"), (["--seeds", "1"], "2")]
)
def test_bad_settings_are_one_sentence(arguments, says, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        _run(tmp_path, *arguments)
    assert stop.value.code == 2
    assert says in capsys.readouterr().err
