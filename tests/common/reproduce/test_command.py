"""The whole command, on an invented paper (conftest.py) that trains nothing."""

import json

import pytest

from common.cli import run
from common.plain import InputError, read_json
from common.report.tables import ExhibitResult
from common.reproduce.command import reproduce
from common.reproduce.paper import run_folder


def _verdicts(folder) -> dict[str, tuple]:
    claims = read_json(folder / "claims.json")
    return {name: (claim["verdict"], claim["reason"], claim["n"]) for name, claim in claims.items()}


# ---- drawing and judging


def test_exhibits_are_drawn_and_recorded(toy):
    options = toy.options(rounds=3)
    reproduce(toy.paper, options)
    folder = run_folder(toy.paper, options) / "exhibits"
    figure, table = (ExhibitResult.load(folder / name) for name in ("figure1", "table2"))
    assert [[row[0], row[1].mean] for row in figure.table.rows] == [["ours", 42.0], ["theirs", 40.0]]
    assert (figure.paper, figure.title, figure.data, figure.scale) == ("toynas", "Two nets", "scenes", "smoke")
    assert figure.seeds == (0,)
    assert figure.pictures == ("figure1.png",)
    assert (folder / "figure1" / "figure1.png").read_bytes() == b"1 epochs"  # of the setting
    assert figure.runs == ("ours-s0", "theirs-s0")
    assert table.runs == ("ours-s0",)
    assert figure.command.endswith("--scale smoke --data scenes --seeds 1 --rounds 3 --only figure1")
    assert figure.environment["torch"]
    assert figure.paper_table is None
    assert table.paper_table.rows == (("toy", 40.1),)
    assert read_json(folder / "table2" / "measured.json") == {"0": {"AP": 42.0, "evidence": {"table": 1.0}}}


def test_claims_are_judged_over_the_seeds(toy):
    folder = run_folder(toy.paper, toy.options())
    reproduce(toy.paper, toy.options())
    one_seed = ("inconclusive", "1 seed: at least 2 are needed for an interval", 1)
    assert _verdicts(folder) == {"T-1": one_seed, "T-2": one_seed, "T-3": one_seed}
    reproduce(toy.paper, toy.options(seeds=2, only=("figure1",)))
    verdicts = _verdicts(folder)
    assert verdicts["T-1"] == ("reproduced", None, 2)
    assert verdicts["T-2"] == ("not reproduced", None, 2)
    assert verdicts["T-3"] == ("inconclusive", "not measured: table", 0)  # was measured for one of the two seeds
    claim = read_json(folder / "claims.json")["T-1"]
    assert claim["difference"] == pytest.approx(2.05)
    assert claim["runs"] == ["ours-s0", "theirs-s0", "ours-s1", "theirs-s1"]
    assert claim["command"] == "python -m toynas.reproduce --scale smoke --data scenes --seeds 2"


def test_an_exhibit_that_a_seed_lacks_costs_no_other_and_is_named_at_the_end(toy, capsys):
    with pytest.raises(InputError, match=r"^not made: table2; table2: there is no table for seed 1$"):
        reproduce(toy.paper, toy.options(seeds=2))
    folder = run_folder(toy.paper, toy.options())
    assert ExhibitResult.load(folder / "exhibits" / "figure1").seeds == (0, 1)
    assert not (folder / "exhibits" / "table2").exists()
    assert _verdicts(folder)["T-1"][0] == "reproduced"
    said = capsys.readouterr().err
    assert said.count("ToyNAS at scale") == 1  # not a seed
    assert "table2, seed 1: there is no table for seed 1\n" in said
    assert "T-3: inconclusive (not measured: table)\n" in said
    assert said.splitlines()[-1].startswith("next: python -m common.report ")


def test_it_says_what_it_runs_and_what_is_next(toy, capsys):
    reproduce(toy.paper, toy.options(only=("table2",)))
    first, config, *_, spent, following = capsys.readouterr().err.splitlines()
    assert first.startswith("ToyNAS at scale smoke on scenes: 8 toys; device cpu; commit ")
    assert config == 'config: {"epochs": 1}'
    assert " s of wall clock, peak memory " in spent
    runs = toy.options().out
    assert following == f"next: python -m common.report {runs} --out {runs / 'report'}"


def test_one_exhibit_alone_keeps_the_evidence_of_the_others(toy):
    reproduce(toy.paper, toy.options())
    reproduce(toy.paper, toy.options(only=("table2",)))
    claims = read_json(run_folder(toy.paper, toy.options()) / "claims.json")
    assert [claim["difference"] for claim in claims.values()] == [2.0, 2.0, 1.0]


def test_runs_keep_the_command_as_typed(toy, monkeypatch):
    monkeypatch.setattr("sys.argv", ["reproduce.py", "--seeds", "1", "--only", "table2"])
    reproduce(toy.paper, toy.options(only=("table2",)))
    environment = read_json(run_folder(toy.paper, toy.options()) / "ours-s0" / "environment.json")
    assert environment["command"] == "python -m toynas.reproduce --seeds 1 --only table2"


# ---- --seed


def test_seeds_one_by_one_then_the_whole(toy, capsys):
    folder = run_folder(toy.paper, toy.options())
    for seed in (1, 0):
        reproduce(toy.paper, toy.options(seeds=2, seed=seed, only=("figure1",)))
    assert toy.trained == ["ours-s1", "theirs-s1", "ours-s0", "theirs-s0"]
    assert not (folder / "exhibits").exists()
    assert not (folder / "claims.json").exists()
    whole = "python -m toynas.reproduce --scale smoke --data scenes --seeds 2 --only figure1"
    following = f"next: {whole} --out {toy.options().out}, once every seed is there"
    assert capsys.readouterr().err.splitlines()[-1] == following
    reproduce(toy.paper, toy.options(seeds=2, only=("figure1",)))
    assert len(toy.trained) == 4  # nothing anew
    assert ExhibitResult.load(folder / "exhibits" / "figure1").seeds == (0, 1)
    assert _verdicts(folder)["T-1"][0] == "reproduced"


# ---- --list


def test_list_says_what_is_needed_and_trains_nothing(toy, capsys):
    reproduce(toy.paper, toy.options(list=True))
    assert capsys.readouterr().out.splitlines()[1:] == [
        "figure1  Two nets: AP of two",
        "         runs: ours, theirs; a seed takes about 2.0 min (an estimate for one CPU core)",
        "table2   One net: AP of one",
        "         runs: ours; a seed takes about 60 s (an estimate for one CPU core)",
        "together, a seed takes about 2.0 min (an estimate for one CPU core)",
    ]
    assert not toy.trained
    assert not toy.options().out.exists()


def test_list_takes_times_from_records(toy, capsys):
    reproduce(toy.paper, toy.options(only=("table2",)))
    reproduce(toy.paper, toy.options(list=True))
    shown = capsys.readouterr().out
    assert "runs: ours; a seed takes 1.5 min (records of finished runs)" in shown
    assert "together, a seed takes about 2.5 min (records and an estimate for one CPU core)" in shown


def test_list_says_when_nothing_is_known(toy, capsys):
    reproduce(toy.paper, toy.options(scale="paper", only=("table2",), list=True))
    shown = capsys.readouterr().out
    assert shown.count("an unknown time") == 2
    assert "figure1" not in shown


# ---- --publish


def test_publish_writes_small_records_without_paths_of_this_machine(toy, tmp_path):
    aquarium, reef = tmp_path / "aquarium", tmp_path / "reef"
    options = toy.options(data=f"coco:{aquarium}", second_data=f"voc:{reef}", publish=True, device="cpu")
    reproduce(toy.paper, options)
    root = tmp_path / "results" / "smoke" / "toynas"
    published = {str(path.relative_to(root)): path.read_text() for path in root.rglob("*.json")}
    own = {f"aquarium/{name}.json" for name in ("figure1", "table2", "measured", "runs")}
    assert set(published) == {"claims-aquarium.json", *own}
    assert not [name for name, text in published.items() if str(tmp_path) in text]
    again = "python -m toynas.reproduce --scale smoke --data coco:DIR/aquarium --seeds 1 --second-data voc:DIR/reef"
    figure = json.loads(published["aquarium/figure1.json"])
    assert figure["runs"] == ["ours-s0", "theirs-s0", "reef-smoke/ours-s0"]
    assert figure["command"] == f"{again} --only figure1"
    assert figure["pictures"] == []
    assert json.loads(published["claims-aquarium.json"])["T-1"]["command"] == again
    assert json.loads(published["aquarium/measured.json"])["table2"]["0"]["AP"] == 42.0
    records = json.loads(published["aquarium/runs.json"])
    assert set(records) == {"ours-s0", "theirs-s0", "reef-smoke/ours-s0"}
    assert records["ours-s0"]["seconds"] == 90.0
    assert "command" not in records["ours-s0"]["environment"]
    here = ExhibitResult.load(run_folder(toy.paper, options) / "exhibits" / "figure1")
    assert str(aquarium) in here.command  # in one's own runs it can be typed as it stands


def test_publish_names_the_built_in_data_no_folder_and_each_exhibit_its_own_seeds(toy, tmp_path):
    reproduce(toy.paper, toy.options(only=("table2",)))
    reproduce(toy.paper, toy.options(seeds=2, only=("figure1",), publish=True))
    root = tmp_path / "results" / "smoke" / "toynas"
    assert {path.name for path in root.iterdir()} == {
        *("claims.json", "figure1.json", "measured.json", "runs.json", "table2.json"),
    }
    assert "--seeds 1 --only table2" in read_json(root / "table2.json")["command"]
    assert "--seeds 2 --only figure1" in read_json(root / "figure1.json")["command"]
    assert set(read_json(root / "runs.json")) == {"ours-s0", "theirs-s0", "ours-s1", "theirs-s1"}


# ---- wrong arguments


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"only": ("figure1", "figure9")}, "unknown exhibit 'figure9': give some of figure1, table2"),
        ({"seeds": 0}, "--seeds 0 is no number of seeds"),
        ({"seeds": 2, "seed": 2}, "--seed 2 is none of the 2 seeds: give 0 to 1"),
        ({"seeds": 2, "seed": -1}, "--seed -1 is none of the 2 seeds: give 0 to 1"),
        ({"device": "abacus"}, "device 'abacus' cannot be used here"),
        ({"scale": "huge", "no_data": True}, "unknown scale 'huge'"),  # before the data is read
        ({"data": "pictures"}, "unknown data 'pictures'"),
        ({"no_data": True}, "no folder toys"),
    ],
)
def test_a_wrong_argument_is_said_before_anything_is_trained(toy, given, message):
    with pytest.raises(InputError) as raised:
        reproduce(toy.paper, toy.options(**given))
    assert str(raised.value).startswith(message)
    assert not toy.trained
    assert not toy.options().out.exists()


def test_help_has_a_sentence_for_every_flag_shared_and_own(toy, capsys):
    with pytest.raises(SystemExit):
        run(None, toy.Options, ["--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "Reproduce a paper that nobody wrote." in shown
    for sentence in (
        "--scale STR Preset: smoke, nano, mini or paper. (default: smoke)",
        "--data STR scenes (built in), coco:DIR, voc:DIR or bdd:DIR.",
        "Number of seeds: 0, 1, ... Intervals and verdicts need at least 2.",
        "a process a seed, then the command without it.",
        "Names of exhibits, such as figure5 table2; none means all.",
        "--out PATH Folder of all runs.",
        "Where networks are trained: cpu, cuda or cuda:N.",
        "Number format of training;",
        "Only list the exhibits, with their runs and expected time.",
        "Also copy results, claims and run records, without pictures, into results/.",
        "Folder that --publish copies into.",
        "Where what was found is trained again.",
    ):
        assert sentence in shown
