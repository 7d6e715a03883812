"""The command that runs both searches."""

import json
import re
import shlex

import pytest

from common import study as shared
from common.cli import parse, run
from common.models.detector import load_detector
from common.plain import InputError
from common.report.reproduce import measure_exhibit
from common.train import distributed, loop
from sm_nas import reproduce
from sm_nas.encoding import BackboneCode, Structure
from sm_nas.exhibits import PAPER as PAPER_OF_EXHIBITS
from sm_nas.presets import PAPER
from sm_nas.search import Options, _next, main, search, stages
from sm_nas.study import SMNAS
from tests.sm_nas.conftest import DATA, TINY, tiny_options


@pytest.fixture
def flags(searched, tiny_smoke, steady) -> list[str]:
    """Of a search in the folder that tests share."""
    return ["--device", "cpu", "--data", DATA, "--out", str(searched)]


def said(capsys, *flags: str) -> str:
    run(main, Options, flags)
    return capsys.readouterr().out


# ---- searching


def test_both_stages_and_the_detectors_that_they_found(capsys, flags, searched, monkeypatch):
    report = json.loads(said(capsys, *flags, "--json"))
    one, groups, found = report["stage_one"], report["groups"], report["found"]
    assert one["evaluated"] == TINY.stage_one.budget
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
        assert detector.description["encoding"] == network["structure"]
        assert detector.description["AP"] == network["final"]["AP"]
        assert detector.description["spent"]["candidates"] >= len(one["front"]) + len(group["front"])
        assert network["params"] == sum(parameter.numel() for parameter in detector.model.parameters())
    shared_flags = f"--scale smoke --data {DATA} --out {searched} --device cpu"
    assert report["next"] == f"python -m sm_nas.reproduce {shared_flags} --only figure3 figure4"

    monkeypatch.setattr(loop._Stage, "train", lambda *_: pytest.fail("something was trained again"))
    again = json.loads(said(capsys, *flags, "--json"))
    times = ("seconds",)
    assert {k: v for k, v in again.items() if k not in times} == {k: v for k, v in report.items() if k not in times}
    lines = said(capsys, *flags).splitlines()
    for name, structure in (*picks.items(), *((network["name"], network["structure"]) for network in found)):
        assert any(line.split()[0] == name and line.endswith(f"  {structure}") for line in lines)
    for network in found:
        assert f"detector {network['name']}: {network['file']}" in lines
    assert f"next: {report['next']}" in lines

    study = SMNAS(tiny_options(searched))
    with study.recording() as used:
        search(study)
    used, planned = {name.rpartition("/")[2] for name in used}, stages(study, both=True, final=True)
    beyond = {f"{what}{group}-s0" for group in range(len(picks), TINY.groups) for what in ("stage-two-c", "final-f")}
    assert planned.keys() == {name for name in used if name in planned} | beyond
    assert all(name.startswith("classification-") for name in used - planned.keys()), "of backbones that were found"

    report = json.loads(said(capsys, *flags, "--no-final", "--json"))
    assert report["groups"] == groups
    assert not any(network.keys() & {"final", "file", "run"} for network in report["found"])
    assert report["next"] == f"python -m sm_nas.search {shared_flags}"


def test_stage_one_alone(capsys, flags, searched):
    report = json.loads(said(capsys, *flags, "--stage", "one", "--json"))
    assert report["groups"] == report["found"] == []
    assert any(each["pick"] == "C0" for each in report["stage_one"]["front"])
    assert report["next"] == f"python -m sm_nas.search --scale smoke --data {DATA} --out {searched} --device cpu"
    text = said(capsys, *flags, "--stage", "one")
    assert "C0" in text
    assert "stage two" not in text


def test_a_search_of_which_nothing_is_left(capsys, flags, tmp_path, monkeypatch):
    def fails(*_, **__):
        raise MemoryError("9 GiB")

    monkeypatch.setattr(SMNAS, "train_and_measure", fails)
    monkeypatch.setattr(SMNAS, "pretrained", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        said(capsys, *flags, "--out", str(tmp_path))
    assert ended.value.code == 2
    said_once = "all candidates of stage one failed (does not fit in memory (9 GiB)): see"
    assert said_once in capsys.readouterr().err
    with pytest.raises(InputError, match=re.escape(said_once)):
        measure_exhibit(PAPER_OF_EXHIBITS.by_name["figure4"], SMNAS(tiny_options(tmp_path)))


def test_a_search_does_not_start_in_several_processes(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(distributed, "size", lambda: 2)
    with pytest.raises(SystemExit):
        said(capsys, "--device", "cpu", "--out", str(tmp_path))
    assert "cannot run under torchrun" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_is_next_is_of_the_same_runs():
    """Runs of another device or precision are others: a command that left these out would be refused."""
    given = ["--scale", "nano", "--data", "coco:a b", "--out", "o", "--precision", "bfloat16", "--workers", "3"]
    given += ["--preset.groups", "3"]
    options = parse(Options, [*given, "--seed", "2", "--json"])
    following = parse(reproduce.Options, shlex.split(_next(options, found=True))[3:])
    assert following == parse(reproduce.Options, [*given, "--seeds", "3", "--only", "figure3", "figure4"])
    for stopped, found in (([], False), (["--stage", "one"], False), (["--no-final"], True)):
        options = parse(Options, [*given, "--seed", "2", *stopped])
        following = parse(Options, shlex.split(_next(options, found))[3:])
        assert following == parse(Options, [*given, "--seed", "2"]), "the rest of the search"


# ---- the spaces


def test_spaces_of_the_paper(capsys, monkeypatch):
    monkeypatch.setattr(shared, "load", lambda *_, **__: pytest.fail("data were read"))
    description = json.loads(said(capsys, "--describe", "--json"))
    one, two = description["stage_one"], description["stage_two"]
    assert description["scale"] == "paper"
    assert (one["size"], one["combinations"], one["printed"]["size"]) == (10_620, 10_836, "1.1e4")
    assert (two["size"], two["printed"]["size"]) == (2_489_008_848, "5.0e12")
    assert two["codes"] * 3 == two["size"] == two["printed"]["size_at_paper_scale"]
    assert "exactly three doublings" in two["printed"]["why_another"]
    assert Structure.parse(one["encoding"]["example"]).size in PAPER.structural.sizes
    code = BackboneCode.parse(Structure.parse(two["encoding"]["example"]).backbone)
    assert two["encoding"]["widths"] == list(code.widths)
    assert set(two["cost"]) == {"basicblock", "bottleneck", "Xbottleneck", "MBblock"}
    for cost in (one["cost"], *two["cost"].values()):
        assert 1e9 < cost["lowest"] < cost["highest"] < 1e13


def test_spaces_of_another_scale_for_people(capsys):
    text = said(capsys, "--describe", "--scale", "smoke")
    assert "stage one at smoke scale: 280 networks of 280 combinations (printed: 1.1e4)" in text
    assert "at paper scale 2,489,008,848: the paper's text bounds neither" in text
