"""The command that runs both searches."""

import json
import shlex
from pathlib import Path

import pytest
import tyro

from common.cli import run
from common.models.detector import load_detector
from common.train import laboratory, loop
from sm_nas import search
from sm_nas.method import BackboneCode, Structure
from sm_nas.presets import PAPER, PRESETS
from sm_nas.reproduce import Options
from sm_nas.search import SearchCommand, main
from sm_nas.trial import Laboratory


@pytest.fixture
def flags(tiny, data, searched, monkeypatch, steady) -> list[str]:
    """Of a search at a smoke scale that is TINY, in the folder that tests share."""
    monkeypatch.setitem(PRESETS, "smoke", tiny)
    return ["--device", "cpu", "--data", data, "--out", str(searched)]


def said(capsys, *flags: str) -> str:
    run(main, SearchCommand, flags)
    return capsys.readouterr().out


# ---- searching


def test_both_stages_and_the_detectors_that_they_found(capsys, flags, searched, tiny, data, monkeypatch):
    report = json.loads(said(capsys, *flags, "--json"))
    one, groups, found = report["stage_one"], report["groups"], report["found"]
    assert one["evaluated"] == tiny.stage_one.budget
    assert one["trained"] > one["evaluated"], "random search's are among them"
    assert one["failed"] == 0
    costs = [each["cost"] for each in one["front"]]
    assert costs == sorted(costs) == [each["latency"] for each in one["front"]]
    picks = {each["pick"]: each["structure"] for each in one["front"] if each["pick"]}
    assert list(picks) == [group["name"] for group in groups] == [f"C{i}" for i in range(len(picks))]
    assert {group["name"]: group["structure"] for group in groups} == picks
    assert [network["name"] for network in found] == [f"F{i}" for i in range(len(picks))]
    for group, network in zip(groups, found, strict=True):
        assert group["front"]
        assert [each["cost"] for each in group["front"]] == [each["macs_mmdet"] for each in group["front"]]
        structure = Structure.parse(network["structure"])
        assert structure.size == Structure.parse(group["structure"]).size
        detector = load_detector(network["file"])
        assert detector.description["structure"] == network["structure"]
        assert detector.description["AP"] == network["final"]["AP"]
        assert network["params"] == sum(parameter.numel() for parameter in detector.model.parameters())
    assert report["next"].startswith(f"python -m sm_nas.reproduce --scale smoke --data {data} --out {searched} --only")

    monkeypatch.setattr(loop._Training, "train", lambda *_: pytest.fail("something was trained again"))
    again = json.loads(said(capsys, *flags, "--json"))
    times = ("seconds",)
    assert {k: v for k, v in again.items() if k not in times} == {k: v for k, v in report.items() if k not in times}
    lines = said(capsys, *flags).splitlines()
    for name, structure in (*picks.items(), *((network["name"], network["structure"]) for network in found)):
        assert any(line.split()[0] == name and line.endswith(f"  {structure}") for line in lines)
    for network in found:
        assert f"detector {network['name']}: {network['file']}" in lines
    assert lines[-1] == f"next: {report['next']}"

    report = json.loads(said(capsys, *flags, "--no-final", "--json"))
    assert report["groups"] == groups
    assert not any(network.keys() & {"final", "file", "run"} for network in report["found"])
    assert report["next"] == f"python -m sm_nas.search --scale smoke --data {data} --out {searched} --device cpu"


def test_stage_one_alone_and_another_number_of_groups(capsys, flags, searched, data):
    report = json.loads(said(capsys, *flags, "--stage", "one", "--groups", "1", "--json"))
    assert report["groups"] == report["found"] == []
    best = max(report["stage_one"]["front"], key=lambda each: each["AP"])
    assert [each for each in report["stage_one"]["front"] if each["pick"]] == [best]
    following = f"python -m sm_nas.search --scale smoke --data {data} --out {searched} --groups 1 --device cpu"
    assert report["next"] == following
    text = said(capsys, *flags, "--stage", "one")
    assert "C0" in text
    assert "stage two" not in text


def test_a_search_of_which_nothing_is_left(capsys, flags, tmp_path, monkeypatch):
    def fails(*_, **__):
        raise MemoryError("9 GiB")

    monkeypatch.setattr(Laboratory, "train_and_measure", fails)
    monkeypatch.setattr(Laboratory, "pretrain", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        said(capsys, *flags, "--out", str(tmp_path))
    assert ended.value.code == 2
    assert "all candidates of stage one failed (does not fit in memory (9 GiB)): see" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (["--workers", "-1"], "--workers -1 is no number of processes: give 0 or more"),
        (["--seed", "-1"], "--seed -1 is no seed: give 0 or more"),
        (["--device", "gpu"], "device 'gpu' cannot be used here: give cpu, or cuda where there is one"),
        (["--groups", "0"], "--groups 0 leaves stage two nothing to go on with"),
        (["--data", "coco:/nowhere/at/all"], "no folder"),
        (["--data", "sceness"], "unknown data"),
        (["--data", "scenes:train=4"], "4 training images"),
    ],
)
def test_bad_input_is_one_sentence(wrong, word, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        said(capsys, "--device", "cpu", "--out", str(tmp_path), *wrong)
    printed = capsys.readouterr()
    assert ended.value.code == 2
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert word in printed.err
    assert list(tmp_path.iterdir()) == []


def test_a_search_does_not_start_in_several_processes(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(search.distributed, "size", lambda: 2)
    with pytest.raises(SystemExit):
        said(capsys, "--device", "cpu", "--out", str(tmp_path))
    assert "not for torchrun" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_is_next_is_of_the_same_runs():
    """Runs of another device or precision are others: a command that left these out would be refused."""
    given = SearchCommand("nano", "coco:a b", 2, Path("o"), None, "bfloat16", 3)
    whole, none = ({"found": found} for found in ([{}], []))
    following = tyro.cli(Options, args=shlex.split(search._next(given, whole, "cuda"))[3:])
    assert following == Options(
        scale="nano",
        data="coco:a b",
        seeds=3,
        only=("figure3", "figure4"),
        out=Path("o"),
        device="cuda",
        precision="bfloat16",
        workers=3,
    )
    given = SearchCommand("nano", "coco:a b", 2, Path("o"), "cpu", "bfloat16", 3, groups=1)
    assert tyro.cli(SearchCommand, args=shlex.split(search._next(given, none, "cpu"))[3:]) == given
    following = tyro.cli(Options, args=shlex.split(search._next(given, whole, "cpu"))[3:])
    assert following.only == ("figure3",), "stage two's groups are others in the figure"


def test_help_fits_a_screen_and_explains_every_flag(capsys):
    with pytest.raises(SystemExit) as ended:
        tyro.cli(SearchCommand, args=["--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0
    assert len(text.splitlines()) <= 45
    for flag in (
        "scale",
        "data",
        "seed",
        "out",
        "device",
        "precision",
        "workers",
        "stage",
        "groups",
        "no-final",
        "json",
    ):
        assert f"--{flag}" in text


# ---- the spaces


def test_spaces_of_the_paper(capsys, monkeypatch):
    monkeypatch.setattr(laboratory, "load", lambda *_, **__: pytest.fail("data were read"))
    monkeypatch.setattr(search, "SAMPLE", 8)
    description = json.loads(said(capsys, "--describe", "--json"))
    one, two = description["stage_one"], description["stage_two"]
    assert description["scale"] == "paper"
    assert (one["size"], one["printed"]["size"]) == (10_836, "1.1e4")
    assert (two["size"], two["printed"]["size"]) == (2_489_008_848, "5.0e12")
    assert two["codes"] * 3 == two["size"] == two["printed"]["size_at_paper_scale"]
    assert "exactly three doublings" in two["printed"]["why_another"]
    assert Structure.parse(one["encoding"]["example"]).size in PAPER.structural.sizes
    code = BackboneCode.parse(Structure.parse(two["encoding"]["example"]).backbone)
    assert two["encoding"]["widths"] == list(code.widths)
    assert set(two["cost"]) == {"basicblock", "bottleneck", "Xbottleneck", "MBblock"}
    for cost in (one["cost"], *two["cost"].values()):
        assert 1e9 < cost["lowest"] < cost["highest"] < 1e12


def test_spaces_of_another_scale_for_people(capsys, monkeypatch):
    monkeypatch.setattr(search, "SAMPLE", 4)
    text = said(capsys, "--describe", "--scale", "smoke")
    assert "stage one at smoke scale: 300 structures (printed: 1.1e4)" in text
    assert "at paper scale 2,489,008,848: the paper's text bounds neither" in text
