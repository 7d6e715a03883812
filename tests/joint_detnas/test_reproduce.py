"""From the command line to tables and verdicts at a tiny scale: two exhibits of one search, run once for all tests."""

from dataclasses import replace
from pathlib import Path

import pytest

from common.cli import run
from common.models.described import Architecture
from common.plain import InputError, read_json
from common.report.tables import ExhibitResult, to_frame, to_markdown
from common.reproduce.listing import listing
from common.train import laboratory
from common.train.loop import _Stage
from joint_detnas.exhibits import EXHIBITS, Setting
from joint_detnas.measurements import pruning_evidence
from joint_detnas.method import backbone_cost
from joint_detnas.presets import PRESETS, CascadeSettings, Phase, preset
from joint_detnas.reproduce import JOINT_DETNAS, Options, expected_seconds, images_trained, main
from tests.joint_detnas.conftest import DATA, TINY, steady_latency

CHOSEN = ("figure6", "figure7")  # of a search alone, which other modules look at, too
SETTINGS = replace(TINY, upgraded_backbones=("resnet18",))
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """Where it is published."""
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def flags(searched, results) -> list[str]:
    """The command line."""
    places = ["--out", str(searched), "--results", str(results), "--publish"]
    return ["--scale", "tiny", "--data", DATA, "--only", *CHOSEN, *places]


@pytest.fixture(scope="module")
def tiny_scale():
    """A scale called tiny, whose latencies are made up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny", SETTINGS)
        patch.setattr(laboratory, "measure_latency", steady_latency)
        yield


@pytest.fixture(scope="module")
def folder(flags, searched, tiny_scale) -> Path:
    """runs/joint_detnas/scenes-tiny after one seed of the exhibits."""
    run(main, Options, flags)
    return searched / "joint_detnas" / "scenes-tiny"


@pytest.fixture
def steps(folder) -> list[dict]:
    """The pairs of the search, as its run says."""
    return read_json(folder / "search-resnet18-s0" / "result.json")["steps"][1:]


@pytest.mark.parametrize("name", CHOSEN)
def test_every_exhibit_has_its_table_pictures_and_runs(folder, name):
    result = ExhibitResult.load(folder / "exhibits" / name)
    assert (result.exhibit, result.seeds, result.data, result.scale) == (name, (0,), "scenes", "tiny")
    assert result.command == f"python -m joint_detnas.reproduce --scale tiny --data {DATA} --seeds 1 --only {name}"
    assert result.pictures
    for picture in result.pictures:
        assert (folder / "exhibits" / name / picture).read_bytes().startswith(PNG)
    assert to_markdown(result).startswith("**Ours**")
    assert result.runs == ("pool-s0", "base-resnet18-s0", "search-resnet18-s0")
    assert any(note.startswith("The paper: ") for note in result.notes)


def test_figure6_shows_the_steps_of_the_search(folder, steps):
    rows = ExhibitResult.load(folder / "exhibits" / "figure6").table.rows
    for kind, pairs, _, raised, _ in rows:
        own = [100 * step["increment"] for step in steps if step["kind"] == kind]
        assert pairs == len(own)
        assert raised.mean == pytest.approx(sum(max(gain, 0) for gain in own))
    assert sum(row[1] for row in rows) == SETTINGS.search.budget


def test_figure7_shows_the_backbones_of_base_and_result(folder):
    before, after = ExhibitResult.load(folder / "exhibits" / "figure7").table.rows
    assert (before[:2], after[:2]) == (("R18-FPN", "before"), ("R18-FPN", "after"))
    base, found = (read_json(folder / f"{what}-resnet18-s0" / "result.json") for what in ("base", "search"))
    architectures = Architecture.standard("resnet18", 8), Architecture.from_dict(found["architecture"])
    for result, row, architecture in zip((base, found["upgraded"]), (before, after), architectures, strict=True):
        stem = backbone_cost(architecture, SETTINGS.base_size).parts["stem"]["macs_mmdet"]
        shown = 1e6 * sum(stage.mean for stage in row[2:])
        assert shown == pytest.approx(result["backbone_macs_at_base_size"] - stem)


def test_verdicts_need_seeds_and_numbers(folder, results, steps):
    claims = read_json(results / "tiny" / "joint_detnas" / "claims.json")
    assert list(claims) == [f"JD-{number}" for number in range(1, 12)]
    assert {claim["verdict"] for claim in claims.values()} == {"inconclusive"}
    measured = [name for name, claim in claims.items() if claim["reason"].startswith("1 seed")]
    assert measured == ["JD-9", "JD-10"]
    gains = [step | {"gain": 100 * step["increment"]} for step in steps]
    evidence = pruning_evidence(gains, SETTINGS.search.budget)
    assert [each["difference"] for each in claims["JD-9"]["conditions"]] == pytest.approx([*evidence.values()])


def test_published_numbers_draw_the_same_tables(folder, results, tmp_path):
    published = results / "tiny" / "joint_detnas"
    measured = read_json(published / "measured.json")
    assert tuple(measured) == CHOSEN
    for name in CHOSEN:
        drawn = EXHIBITS[name].draw(list(measured[name].values()), Setting(tmp_path / name, SETTINGS, "scenes"))
        assert to_frame(drawn.table).equals(to_frame(ExhibitResult.load(published / f"{name}.json").table))
    assert not list(published.rglob("*.png"))
    assert set(read_json(published / "runs.json")) == {"pool-s0", "base-resnet18-s0", "search-resnet18-s0"}


def test_done_again_it_trains_nothing_and_measures_the_same(folder, flags, tiny_scale, monkeypatch):
    before = {name: read_json(folder / "exhibits" / name / "measured.json") for name in CHOSEN}
    monkeypatch.setattr(_Stage, "train", lambda *_: pytest.fail("something is trained anew"))
    run(main, Options, [each for each in flags if each != "--publish"])
    assert {name: read_json(folder / "exhibits" / name / "measured.json") for name in CHOSEN} == before


def test_list_takes_times_from_records_where_there_are_some(folder):
    text = listing(JOINT_DETNAS, [EXHIBITS["figure6"]], "smoke", folder)
    assert "(records and an estimate for one CPU core)" in text  # MobileNetV2 was not trained here


# ---- bad input


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--workers", "-1"], "--workers -1 is no number of processes: give 0 or more"),
        (["--only", "figure6", "table9"], "unknown exhibit 'table9': give some of table1, "),
        (["--scale", "giant"], "unknown scale 'giant': give one of smoke, nano, mini"),
        (["--seeds", "0"], "--seeds 0 is no number of seeds"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_trained(flags, said, capsys, tmp_path):
    with pytest.raises(SystemExit):
        run(main, Options, [*flags, "--out", str(tmp_path)])
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_workers_are_checked_before_the_rest():
    with pytest.raises(InputError, match="--workers"):
        main(Options(workers=-1, scale="giant"))


# ---- expected time


@pytest.mark.parametrize(("scale", "known"), [("smoke", True), ("nano", True), ("mini", False), ("paper", False)])
def test_list_estimates_every_exhibit(scale, known, tmp_path, capsys):
    run(main, Options, ["--list", "--scale", scale, "--out", str(tmp_path)])
    text = capsys.readouterr().out
    assert all(f"\n{name} " in text for name in EXHIBITS)
    assert ("unknown time" in text) is not known
    assert not list(tmp_path.iterdir())


def test_images_of_each_run():
    """By hand: 100 images an epoch, 40 held out and 80 reported on, at two sizes each; detection is a quarter."""
    nano = preset("nano")
    scale = replace(
        nano,
        train_images=100,
        search_images=40,
        validation_images=80,
        base_training=replace(nano.base_training, epochs=8),
        pair_training=replace(nano.pair_training, epochs=2),
        shrinking=replace(nano.shrinking, phases=(Phase("full", 5, 0), Phase("all", 3, None)), networks_a_step=2),
        search=replace(nano.search, budget=10),
        teaching=replace(nano.teaching, budget=4),
        cascade=CascadeSettings(replace(nano.base_training, epochs=3)),
        upgraded_backbones=("resnet18", "resnet50"),
        taught_backbones=("resnet18", "resnet50"),
        pruned_backbones=("resnet18", "resnet50"),
        cascaded_backbones=("resnet18",),
    )
    reported, pair = 2 * 80 / 4, 2 * 100 + 2 * 40 / 4
    expected = {
        "base-resnet18": 800 + reported,
        "alone-R50": 800 + reported,
        "distilled-resnet18-imitation": 800 + reported,
        "pipeline-resnet18-nas-prune-kd": 800 + reported,
        "pool": 5 * 100 + 3 * 100 * 3,  # the largest net alone, then with two more a step
        "sampled-R26": reported,
        "pruned-resnet50-30": 200 + reported,
        "search-resnet50": 10 * pair + reported,
        "search-resnet18-random": 10 * pair + reported,
        "search-resnet18-nas": 5 * pair + reported,
        "search-resnet50-fixed-student": 4 * pair + reported,
        "search-resnet18-fixed-pair": 4 * pair + reported,
        "teachers-resnet50": 5 * 40 / 4,
        "cascade-resnet18": 300 + reported,
        # none of this scale
        "base-mobilenet-v2": 0,
        "search-resnet101": 0,
        "alone-R101": 0,
        "sampled-R14": 0,
        "pruned-resnet101-10": 0,
        "distilled-resnet50-ours": 0,
        "teachers-mobilenet-v2": 0,
        "pipeline-resnet101-prune-kd": 0,
        "search-resnext50-32x4d": 0,
        "cascade-resnet50": 0,
    }
    assert {what: images_trained(what, scale) for what in expected} == expected
    twice = replace(scale, train_images=200, search_images=80, validation_images=160)
    assert expected_seconds("search-resnet50", twice) == pytest.approx(2 * expected_seconds("search-resnet50", scale))
    assert expected_seconds("pool", scale) > 0
    assert expected_seconds("pool", preset("paper")) is None
