"""What the published settings take is counted as it is said to be."""

import json
import re
from pathlib import Path

import pytest

from benchmarks import scale
from common.cli import run
from common.cost import Cost, count
from common.models.centernet import CenterNet
from common.models.ofa_resnet import OFAResNet
from common.settings import COCO_CLASSES
from common.study import slug
from detofa.presets import SMOKE
from joint_detnas.presets import PRESETS as JOINT
from sm_nas.presets import PRESETS as SM_NAS

RESULTS = Path(__file__).resolve().parents[2] / "results" / "nano"
UNCOUNTED = "classification-.*|latencies-.*"


def asked_for(paper: str, ignored: str) -> dict[str, set[str]]:
    """The runs that each published exhibit rests on, without their seeds."""
    found = {}
    for name in json.loads((RESULTS / paper / "measured.json").read_text()):
        runs = json.loads((RESULTS / paper / f"{name}.json").read_text())["runs"]
        names = (re.sub(r"-s\d+$", "", run.rpartition("/")[2]) for run in runs)
        found[name] = {each for each in names if not re.fullmatch(ignored, each)}
    return found


def test_kinds_of_runs_and_their_table():
    kinds, exhibits = scale.detofa("smoke", 48, 300), scale.detofa_exhibits()
    assert {each for asked in exhibits.values() for each in asked} == set(kinds)
    backbone = OFAResNet(SMOKE.space)
    supernet = CenterNet(backbone, COCO_CLASSES, SMOKE.neck_widths, SMOKE.head_width, elastic=True)
    size = (SMOKE.image_size,) * 2
    whole = count(supernet.extract(SMOKE.space.largest()), size).macs
    epochs = SMOKE.warm_up.epochs + SMOKE.fine_tuning.epochs
    assert kinds["fullnet"].macs == pytest.approx(3 * whole * epochs * 48)
    assert kinds["fullnet"].images == epochs * 48
    # without the full net that it starts from, which is a run of its own
    assert kinds["ofa-shrinking"].images == 48 * sum(phase.epochs for phase in SMOKE.shrinking.phases)

    table = scale.tables(
        {"one": scale.Kind(36e17, 2, 1e6, 1e6), "two": scale.Kind(36e16, 1, 1e6, 1e6)}, {"x": ["one"]}, 1e12
    )
    assert "| one | 2 | 1 | 3.6 | 1,000 |" in table
    assert "| x | 1,000 | one |" in table
    assert "| all of them | 1,100 |" in table


def test_exhibits_are_said_to_ask_for_what_they_asked_for():
    """By the runs that published results rest on."""
    exhibits = scale.detofa_exhibits()
    for name, runs in asked_for("detofa", "filter.*|sampled-.*").items():
        assert name not in exhibits or runs == set(exhibits[name]), name

    exhibits = scale.sm_nas_exhibits()
    of_table1 = {f"final-{slug(name)}" for name in scale.TABLE1_CLASSICS}
    models = {f"final-{slug(name)}" for name, _ in SM_NAS["nano"].models}
    published = asked_for("sm_nas", UNCOUNTED)
    assert published["table1"] == of_table1
    assert published["table4"] == of_table1 | models  # nano has no other classics
    assert exhibits["table1"] == ["classics of Table 1"]
    assert exhibits["table4"] == ["E0 to E5", "classics of Table 1", "other classics"]

    exhibits = scale.joint_detnas_exhibits(JOINT["nano"])
    for name, runs in asked_for("joint_detnas", UNCOUNTED).items():
        of_any_number = {re.sub(r"-\d+$", "", run) for run in runs}  # of per cent, or of pairs
        assert name not in exhibits or of_any_number == set(exhibits[name]), name


def test_a_run_that_exhibits_share_is_counted_once(monkeypatch):
    of_any = Cost(params=1, macs_mmdet=1, macs=1, flops=2)  # counting them takes its time
    monkeypatch.setattr("common.cost.count", lambda *_: of_any)
    monkeypatch.setattr("joint_detnas.method.teacher_cost", lambda *_: of_any)
    kinds, exhibits = scale.joint_detnas("smoke", 48), scale.joint_detnas_exhibits(JOINT["smoke"])
    assert {each for asked in exhibits.values() for each in asked} == set(kinds)
    own = JOINT["smoke"].backbone
    assert f"search-{own}" in exhibits["table4"]
    assert f"search-{own}" in exhibits["table7"]
    assert kinds[f"search-{own}"].runs == JOINT["smoke"].search.budget


def test_no_rate_is_refused(capsys):
    with pytest.raises(SystemExit):
        run(scale.main, scale.Options, ["--rate", "0"])
    assert "--rate must be positive, got 0" in capsys.readouterr().err
