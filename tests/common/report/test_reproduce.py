"""`python -m PAPER.reproduce` on a made-up paper (conftest.py) that trains nothing."""

import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from common.cli import parse
from common.plain import InputError, read_json, to_json, write_json
from common.report import figures
from common.report.exhibit import ExhibitResult, Setting
from common.report.reproduce import (
    Paper,
    command_for,
    draw,
    environment_of,
    generic_data,
    judge_folder,
    judge_measured,
    measure_exhibit,
    reproduce,
    setting_of,
    stacked_evidence,
)
from common.report.statistics import mean_interval
from common.report.tables import Table

HOW = {"data": "scenes", "precision": "float32"}
SETTING = Setting("scenes", "smoke", {"epochs": 1}, {"second_data": None, "base": None, "shares": []} | HOW)
ONE_SEED = "1 of the 2 seeds that a verdict needs"


def verdicts(folder: Path) -> dict[str, tuple]:
    return {name: (claim["verdict"], claim["reason"]) for name, claim in read_json(folder / "claims.json").items()}


def measured_by(toy, seed: int, exhibit: int = 0) -> dict:
    return measure_exhibit(toy.paper.exhibits[exhibit], toy.paper.study(toy.options(), seed, "typed"))


def with_a_table_of_every_seed(toy, **evidence: float) -> Paper:
    def measure(study) -> dict:
        return {"AP": study.net("ours"), "evidence": evidence | {"table": 5.0 + study.seed}}

    figure, table = toy.paper.exhibits
    return replace(toy.paper, exhibits=(figure, replace(table, measure=measure)))


# ---- measuring


def test_measuring_records_what_the_numbers_and_each_evidence_rest_on(toy):
    assert measured_by(toy, 1) == {
        "AP": {"ours": 43.1, "theirs": 41.0},
        "evidence": {"gain": pytest.approx(2.1), "ours": 43.1, "extra": 41.0},
        "missing": {},
        "runs": ["scenes-smoke/ours-s1", "scenes-smoke/theirs-s1", "scenes-smoke/extra-s1"],
        "rests_on": {
            "gain": ["scenes-smoke/ours-s1", "scenes-smoke/theirs-s1"],  # a plain value: what measuring used
            "ours": ["scenes-smoke/ours-s1"],  # a function: what it used itself
            "extra": ["scenes-smoke/extra-s1"],
        },
    }
    bare = replace(toy.paper.exhibits[0], measure=lambda study: {"AP": study.net("ours")})
    measured = measure_exhibit(bare, toy.paper.study(toy.options(), 0, "typed"))
    assert measured == {"AP": 42.0, "evidence": {}, "runs": ["scenes-smoke/ours-s0"], "rests_on": {}}


def test_setting_is_plain_json_of_what_numbers_depend_on(toy):
    given = {"seeds": 3, "seed": 1, "only": ("figure1",), "device": "cpu", "second_data": "voc:reef", "shares": (0.5,)}
    setting = setting_of(toy.options(data="coco:/some/Aquarium 2", preset=toy.Options.PRESETS["nano"], **given))
    own = {"second_data": "voc:DIR/reef", "base": None, "shares": [0.5]}
    how = {"data": "coco:DIR/Aquarium 2", "precision": "float32"}
    assert setting == Setting("aquarium-2", "smoke", {"epochs": 12}, own | how)


# ---- drawing


def test_record_of_several_seeds_names_all_that_it_rests_on(toy):
    measured = {seed: measured_by(toy, seed) for seed in (2, 0)}
    result = draw(toy.paper, toy.paper.exhibits[0], measured, SETTING, "a command")
    ours, theirs = mean_interval([42.0, 44.2]), mean_interval([40.0, 42.0])
    notes = ("Ours is first.", "Another net has no result for seed 2: it diverged.", "The paper: the curves rise.")
    said = {"exhibit": "figure1", "paper": "toynas", "paper_title": "ToyNAS", "title": "Two nets", "seeds": (0, 2)}
    said |= {"caption": "AP of both.", "data": "scenes", "scale": "smoke", "command": "a command", "notes": notes}
    said |= {"units": {"AP": "points"}, "paper_units": {}, "paper_table": None, "environment": {}}
    assert said.items() <= vars(result).items()
    assert result.table == Table(("Method", "AP"), (("ours", ours), ("theirs", theirs)))
    (picture,) = result.pictures
    bars = {"ours": (ours.mean, ours.low, ours.high), "theirs": (theirs.mean, theirs.low, theirs.high)}
    assert picture.data == {"groups": {"1 epochs": bars}, "value_label": "AP (points)"}
    nets = ("ours", "theirs", "extra")
    assert result.runs == tuple(f"scenes-smoke/{net}-s{seed}" for seed in (0, 2) for net in nets)


def test_the_papers_table_stands_beside_ours_with_its_units_and_notes(toy):
    exhibit = toy.paper.exhibits[1]
    result = draw(toy.paper, exhibit, {0: measured_by(toy, 0, 1)}, SETTING, "a command")
    assert (result.paper_table.rows, result.paper_units) == ((("toy", 40.1),), {"AP": "percent"})
    assert result.notes == ("One seed: no interval can be given.", "Theirs is of another data set.")
    untrained = draw(toy.paper, exhibit, {0: {"AP": 1.0}}, SETTING, "a command")  # no run, so no seed to miss
    assert untrained.notes == ("Theirs is of another data set.",)


# ---- judging


def test_a_claim_is_judged_by_all_seeds_and_names_the_runs_of_its_evidence(toy):
    measured = {"table2": {0: measured_by(toy, 0, 1)}, "figure1": {seed: measured_by(toy, seed) for seed in (0, 1)}}
    options = toy.options(seeds=2, only=("figure1",), claim=("T-2",), data="coco:/some/reef")
    claims = judge_measured(toy.paper, options, measured, lambda runs: {"runs": len(runs)})
    assert list(claims) == ["T-2", "T-3", "T-10"]  # by number
    assert [claim["verdict"] for claim in claims.values()] == ["not reproduced", "inconclusive", "reproduced"]
    assert claims["T-2"]["difference"] == pytest.approx(2.05)
    assert claims["T-2"]["runs"] == [f"scenes-smoke/{net}-s{seed}" for seed in (0, 1) for net in ("ours", "theirs")]
    assert claims["T-10"]["runs"] == ["scenes-smoke/ours-s0", "scenes-smoke/ours-s1"]
    assert claims["T-10"]["environment"] == {"runs": 2}
    assert claims["T-3"]["reason"] == ONE_SEED  # of the two that the other exhibit has
    for name, claim in claims.items():
        seeds = [0] if name == "T-3" else [0, 1]
        assert (claim["paper_name"], claim["paper_title"]) == ("toynas", "ToyNAS")
        assert (claim["data"], claim["scale"], claim["seeds"]) == ("reef", "smoke", seeds)
        typed = f"python -m toynas.reproduce --scale smoke --data coco:/some/reef --seeds {len(seeds)}"
        assert claim["command"] == typed
    assert judge_measured(toy.paper, options, measured)["T-2"]["environment"] == {}


def test_an_exhibit_of_fewer_seeds_is_measured_on_the_first_and_judged_by_them(toy):
    fewer = replace(toy.paper.exhibits[0], most_seeds=2)
    paper = replace(toy.paper, exhibits=(fewer, toy.paper.exhibits[1]), module="common.toys")
    reproduce(paper, toy.options(seeds=4, only=("figure1",)))
    assert toy.trained == [f"{what}-s{seed}" for seed in (0, 1) for what in ("ours", "theirs", "extra")]
    where = toy.options().out / "toynas" / "scenes-smoke"
    result, claim = read_json(where / "exhibits/figure1/result.json"), read_json(where / "claims.json")["T-10"]
    assert (result["seeds"], claim["seeds"], claim["n"], claim["verdict"]) == ([0, 1], [0, 1, 2, 3], 2, "reproduced")
    assert result["command"].startswith("python -m common.toys --scale smoke")


def test_evidence_is_what_every_seed_has_as_numbers():
    seeds = [
        {"both": 1, "list": [1, 2], "null": [1, None], "first": 1, "none": []},
        {"both": 2, "list": [3, 4], "null": [1, 2], "second": 1, "none": []},
    ]
    values = stacked_evidence(seeds, dict)
    assert {name: array.tolist() for name, array in values.items()} == {"both": [1, 2], "list": [[1, 2], [3, 4]]}
    assert values["both"].dtype == float
    without_gaps = lambda values: {name: array[..., :1] for name, array in values.items() if name != "both"}  # noqa: E731
    compared = stacked_evidence([{**seed, "both": 0} for seed in seeds], without_gaps)
    assert {name: array.tolist() for name, array in compared.items()} == {"list": [[1], [3]], "null": [[1], [1]]}


def test_what_a_value_rests_on_is_gathered_from_all_seeds_and_exhibits(toy):
    first = {0: {"evidence": {"gain": 4.0}, "rests_on": {"gain": ["d/a", "d/b"]}}, 1: {"evidence": {"gain": 5.0}}}
    second = {0: {}, 1: {"rests_on": {"gain": ["d/b", "d/c"]}}}
    claims = judge_measured(toy.paper, toy.options(seeds=2), {"figure1": first, "table2": second})
    assert sorted(claims["T-2"]["runs"]) == ["d/a", "d/b", "d/c"]


def test_what_the_sides_of_a_claim_were_trained_with_is_averaged_over_seeds(toy):
    measured = {seed: measured_by(toy, seed) for seed in (0, 1)}
    for seed, numbers in measured.items():
        numbers["budget"] = {"ours": {"samples": 100.0 + seed, "cpu_seconds": 3.0}, "theirs": {"samples": 7.0}}
        numbers["budget"] |= {"only here": {"samples": 1.0}} if seed == 0 else {}
    claims = judge_measured(toy.paper, toy.options(seeds=2), {"figure1": measured}, why={"T-10": "It is so."})
    sides = {"ours": {"samples": 100.5, "cpu_seconds": 3.0}, "theirs": {"samples": 7.0}}
    assert (claims["T-2"]["budget"], claims["T-3"]["budget"]) == (sides, {})
    assert (claims["T-2"]["why"], claims["T-10"]["why"]) == (None, "It is so.")


# ---- the whole command

SMOKE = "python -m toynas.reproduce --scale smoke --data"


def said_by(toy, capsys, **given) -> list[str]:
    """The lines that the command prints, on stdout where it lists and on stderr where it works."""
    capsys.readouterr()
    reproduce(toy.paper, toy.options(**given))
    printed = capsys.readouterr()
    return (printed.out if given.get("list") else printed.err).splitlines()


def test_exhibits_are_drawn_and_recorded_and_again_nothing_is_trained(toy, folder):
    reproduce(toy.paper, toy.options(shares=(0.5,)))
    figure, table = (ExhibitResult.load(folder / "exhibits" / name / "result.json") for name in ("figure1", "table2"))
    assert figure.command == f"{SMOKE} scenes --seeds 1 --only figure1 --shares 0.5"
    assert figure.environment == {"git_commit": "abc123", "cpu": "An abacus", "cores": 2, "gpus": []}
    assert figures.drawn_from(folder / "exhibits/figure1/figure1.png") == figures.digest(figure.pictures[0])
    assert table.runs == ("scenes-smoke/ours-s0",)
    assert read_json(folder / "exhibits/table2/measured.json") == {
        "setting": to_json(replace(SETTING, options={"second_data": None, "base": None, "shares": [0.5]} | HOW)),
        "seeds": {"0": measured_by(toy, 0, 1)},
    }
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    reproduce(toy.paper, toy.options(shares=(0.5,)))
    assert toy.trained == ["ours-s0", "theirs-s0", "extra-s0"]
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_claims_are_judged_from_whatever_was_measured_for_all_seeds(toy, folder):
    reproduce(toy.paper, toy.options())
    assert verdicts(folder) == dict.fromkeys(("T-2", "T-3", "T-10"), ("inconclusive", ONE_SEED))
    reproduce(toy.paper, toy.options(seeds=2, only=("figure1",)))
    left_open = ("inconclusive", ONE_SEED)
    assert verdicts(folder) == {"T-2": ("not reproduced", None), "T-3": left_open, "T-10": ("reproduced", None)}
    claim = read_json(folder / "claims.json")["T-10"]
    assert claim["environment"]["cpu"] == "An abacus"
    assert claim["command"] == f"{SMOKE} scenes --seeds 2"
    assert judge_folder(toy.paper, toy.options(seeds=6), folder)["T-3"]["reason"] == ONE_SEED, "whatever was asked for"


def test_an_exhibit_that_a_seed_lacks_costs_no_other_and_is_named_at_the_end(toy, folder, capsys):
    with pytest.raises(InputError, match=r"^not made: table2; table2: there is no table for seed 1$"):
        reproduce(toy.paper, toy.options(seeds=3))
    assert ExhibitResult.load(folder / "exhibits/figure1/result.json").seeds == (0, 1, 2)
    assert not (folder / "exhibits/table2").exists()
    said = capsys.readouterr().err.splitlines()
    assert sum(line.startswith("ToyNAS at scale") for line in said) == 1  # not once a seed
    lines = {"table2, seed 1: there is no table for seed 1", "T-3: inconclusive (not measured: table)"}
    assert lines | {"T-10: reproduced"} <= set(said)


def test_it_says_what_it_runs_and_what_is_next_and_runs_keep_the_command_as_typed(toy, folder, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["reproduce.py", "--seeds", "1", "--only", "table2"])
    said = said_by(toy, capsys, only=("table2",), publish=True)
    first, stage, exhibit, *claims, published, spent, following = (line for line in said if not line.startswith("ours"))
    assert first == "ToyNAS at scale smoke on scenes: 8 toys; device cpu"
    assert stage == "stage 1 of 1, seed 0: done in 00:00"
    assert exhibit == f"table2: {folder / 'exhibits' / 'table2'}"
    assert [line.split(":")[0] for line in claims] == ["T-2", "T-3", "T-10"]
    assert published == f"published in {toy.root / 'results/smoke/toynas'}"
    seconds, memory = spent.removesuffix(" MiB").split(" s of wall clock, peak memory ")
    assert 0 <= float(seconds) < 60
    assert 10 < float(memory.replace(",", "")) < 10_000
    runs = toy.root / "runs"
    assert following == f"next: python -m common.report {runs} --out {runs / 'report'}"
    command = read_json(folder / "ours-s0/environment.json")["command"]
    assert command.endswith(" --seeds 1 --only table2")


def test_under_torchrun_a_reproduction_says_what_can_be_started_instead(toy, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(sys, "argv", ["detnas toynas reproduce"])
    with pytest.raises(InputError, match=r"^detnas toynas reproduce cannot .* or train with torchrun -m toynas\.train"):
        reproduce(toy.paper, toy.options())
    monkeypatch.setattr(sys, "argv", ["detnas compare"])
    with pytest.raises(InputError, match=r"^detnas compare cannot run under .* for several candidates$"):
        reproduce(replace(toy.paper, module="common.compare"), toy.options())


def test_seeds_one_by_one_then_the_whole_and_what_is_printed_next_can_be_typed(toy, capsys, monkeypatch):
    def following(**given) -> str:
        return said_by(toy, capsys, seeds=2, only=("figure1",), out=runs, **given)[-1]

    runs = toy.root / "my runs"
    folder = runs / "toynas/scenes-smoke"
    whole = f"next: {SMOKE} scenes --seeds 2 --only figure1 --out '{runs}', once every seed is there"
    assert [following(seed=seed) for seed in (1, 0)] == [whole] * 2
    nets = [f"{net}-s{seed}" for seed in (1, 0) for net in ("ours", "theirs", "extra")]
    assert toy.trained == nets
    assert not {"exhibits", "claims.json"} & {path.name for path in folder.iterdir()}
    assert following() == f"next: python -m common.report '{runs}' --out '{runs / 'report'}'"
    monkeypatch.setattr(sys, "argv", ["detnas toynas reproduce"])
    assert following() == f"next: detnas report '{runs}' --out '{runs / 'report'}'"
    assert toy.trained == nets
    assert ExhibitResult.load(folder / "exhibits/figure1/result.json").seeds == (0, 1)


def test_environment_lists_what_differs_between_runs(tmp_path):
    for run_name, commit in (("a", "one"), ("b", "two"), ("c", "one")):
        environment = {"git_commit": commit, "cpu": "abacus", "time": run_name, "command": run_name, "resumed": []}
        write_json(tmp_path / "d" / run_name / "environment.json", environment)
    resumed = {"b": [{"cpu": "slide rule"}]}

    def record(name: str) -> dict:
        return {"environment": read_json(tmp_path / name / "environment.json"), "resumed": resumed.get(name[2:], [])}

    expected = {"git_commit": ["one", "two"], "cpu": ["abacus", "slide rule"]}
    assert environment_of(["d/a", "d/b", "d/c"], record) == expected
    assert environment_of([], record) == {}


# ---- what is asked for


@pytest.mark.parametrize(
    ("given", "exhibits"),
    [
        ({}, ["figure1", "table2"]),
        ({"only": ("table2", "table2")}, ["table2"]),
        ({"claim": ("T-10",)}, ["figure1"]),
        ({"claim": ("T-3",)}, ["table2", "figure1"]),  # with the further exhibits that its evidence comes from
        ({"claim": ("T-2",), "only": ("table2",)}, ["table2", "figure1"]),
    ],
)
def test_exhibits_are_chosen_by_name_or_claim(toy, folder, given, exhibits, capsys):
    assert [line.split()[0] for line in said_by(toy, capsys, list=True, **given)[1::2]] == exhibits
    reproduce(toy.paper, toy.options(**given))
    assert sorted(path.name for path in (folder / "exhibits").iterdir()) == sorted(exhibits)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"only": ("figure1", "figure9")}, "unknown exhibit 'figure9': give some of figure1, table2"),
        ({"claim": ("T-4",)}, "unknown claim 'T-4': give some of T-2, T-3, T-10"),
        ({"seeds": 0}, "--seeds must be at least 1, got 0"),
        ({"seeds": 2, "seed": 2}, "--seed must be between 0 and 1 for --seeds 2, got 2"),
        ({"seeds": 2, "seed": -1}, "--seed must be between 0 and 1 for --seeds 2, got -1"),
        ({"seeds": 2, "seed": 1, "publish": True}, "--publish with --seed adds a seed to those that are published: "),
        ({"data": "kitti:x"}, "unknown data 'kitti:x'; give"),
        ({"data": "coco:absent"}, "no folder absent"),
    ],
)
def test_a_wrong_argument_is_one_sentence_before_any_work(toy, given, message):
    with pytest.raises(InputError) as error:
        reproduce(toy.paper, toy.options(**given))
    assert str(error.value).startswith(message)
    assert not toy.trained
    assert not (toy.root / "runs").exists()


# ---- --list


def test_list_says_not_run_here_and_trains_nothing(toy, capsys):
    assert said_by(toy, capsys, list=True) == [
        "Exhibits of ToyNAS at scale smoke; they share runs, so several take less than the sum.",
        "figure1  Figure 1: Two nets; AP of two",
        "         not run here",
        "table2   Table 2: One net; AP of one",
        "         not run here",
    ]
    assert not toy.trained
    assert not (toy.root / "runs").exists()


def test_list_gives_the_recorded_time_with_the_machine(toy, folder, capsys):
    def times(**given) -> list[str]:
        return [line.strip() for line in said_by(toy, capsys, list=True, **given)[2::2]]

    def record(file: str, content: dict) -> None:
        for name in toy.trained:
            write_json(folder / name / file, content)

    reproduce(toy.paper, toy.options(seeds=2, only=("figure1",), publish=True))
    assert times() == ["4.5 min a seed, here (2 cores of An abacus)", "not run here"]
    (folder / "ours-s0" / "candidates.jsonl").write_text('{"seconds": 60}\n{"seconds": 120}\n')
    record("environment.json", {"gpus": ["H100", "H200"]})
    assert times()[0] == "5.2 min a seed, here (H100, H200)"
    record("environment.json", {})
    record("result.json", {"AP": 1.0})  # timed by nobody
    assert times()[0] == "1.5 min a seed, here (? cores of ?)"
    elsewhere, results = {"out": toy.root / "elsewhere"}, toy.root / "results/smoke/toynas"
    assert times(**elsewhere)[0] == f"4.5 min a seed, as published in {results} (2 cores of An abacus)"
    assert times(**elsewhere, preset=replace(toy.options().preset, epochs=2)) == ["not run here"] * 2
    (results / "runs.json").unlink()
    assert times(**elsewhere)[0] == f"no training, as published in {results}"


# ---- --publish


def test_what_is_published_holds_no_path_of_this_machine(toy):
    aquarium, reef = toy.root / "aquarium", toy.root / "reef"
    options = toy.options(data=f"coco:{aquarium}", second_data=f"voc:{reef}", base=toy.root / "base.pth", publish=True)
    reproduce(toy.paper, replace(options, claim=("T-10",)))
    target = toy.root / "results/smoke/toynas/aquarium"
    texts = {path.name: path.read_text() for path in target.iterdir()}
    assert set(texts) == {"figure1.json", "measured.json", "claims.json", "runs.json"}
    assert not [name for name, text in texts.items() if str(toy.root) in text]
    again, own = f"{SMOKE} coco:DIR/aquarium --seeds 1", "--second-data voc:DIR/reef --base base.pth"
    figure = ExhibitResult.load(target / "figure1.json")
    assert figure.command == f"{again} --only figure1 {own}"
    claims = read_json(target / "claims.json")
    assert {claim["command"] for claim in claims.values()} == {f"{again} {own}"}
    assert claims.keys() == {claim.id for claim in toy.paper.by_name["figure1"].claims}  # those of no other exhibit
    measured = read_json(target / "measured.json")["figure1"]
    own = {"second_data": "voc:DIR/reef", "base": "base.pth", "shares": []}
    assert measured["setting"]["options"] == own | HOW | {"data": "coco:DIR/aquarium"}
    assert measured["seeds"]["0"]["AP"] == {"ours": 42.0, "theirs": 40.0}
    here = ExhibitResult.load(toy.root / "runs/toynas/aquarium-smoke/exhibits/figure1/result.json")
    assert replace(figure, command=here.command) == here
    assert str(aquarium) in here.command  # in one's own runs it can be typed as it stands


def test_a_claim_is_judged_by_the_seeds_that_all_its_exhibits_have_here_or_as_published(toy):
    paper = with_a_table_of_every_seed(toy)
    reproduce(paper, toy.options(seeds=2, publish=True))
    toy.trained.clear()
    more = toy.options(out=toy.root / "elsewhere", seeds=3, only=("figure1",), publish=True, go_on_from_published=True)
    reproduce(paper, more)
    assert toy.trained == ["ours-s2", "theirs-s2", "extra-s2"]
    claims = read_json(toy.root / "results/smoke/toynas/claims.json")
    assert {name: len(claim["seeds"]) for name, claim in claims.items()} == {"T-2": 3, "T-3": 2, "T-10": 3}
    assert {name: claim["command"][-1] for name, claim in claims.items()} == {"T-2": "3", "T-3": "2", "T-10": "3"}
    assert claims["T-3"]["difference"] == 5.5
    assert set(claims["T-3"]["runs"]) == {"scenes-smoke/ours-s0", "scenes-smoke/ours-s1"}
    reproduce(paper, toy.options(out=toy.root / "third", seeds=3, only=("figure1",), shares=(0.5,), publish=True))
    other = read_json(toy.root / "results/smoke/toynas/claims.json")["T-3"]
    assert other["reason"] == "not measured: table", "what was measured by other settings judges nothing"


def test_a_seed_is_added_to_those_that_are_published_whichever_they_are(toy, capsys):
    def add(seed, out, only=("figure1",)):
        given = {"out": toy.root / out, "seeds": 4, "seed": seed, "only": only, "publish": True}
        reproduce(toy.paper, toy.options(**given, go_on_from_published=True))

    target = toy.root / "results/smoke/toynas"
    for seed, out in ((3, "here"), (0, "there"), (2, "here")):  # as they come, from two machines
        add(seed, out)
    assert "stays" not in capsys.readouterr().err
    add(0, "there", ("table2",))
    assert "figure1: what is published stays, which has seeds that this folder lacks" in capsys.readouterr().err
    assert toy.trained == [f"{net}-s{seed}" for seed in (3, 0, 2) for net in ("ours", "theirs", "extra")]
    assert sorted(read_json(target / "measured.json")["figure1"]["seeds"]) == ["0", "2", "3"]
    figure = ExhibitResult.load(target / "figure1.json")
    assert (figure.seeds, figure.command) == ((0, 2, 3), f"{SMOKE} scenes --seeds 4 --only figure1")
    assert set(read_json(target / "runs.json")) == set(figure.runs)
    claims = read_json(target / "claims.json")
    assert {name: claim["seeds"] for name, claim in claims.items()} == {"T-2": [0, 2, 3], "T-3": [0], "T-10": [0, 2, 3]}
    assert {name: claim["command"][-1] for name, claim in claims.items()} == {"T-2": "4", "T-3": "1", "T-10": "4"}
    whole = judge_measured(toy.paper, toy.options(), {"figure1": {seed: measured_by(toy, seed) for seed in (0, 2, 3)}})
    assert claims["T-2"]["difference"] == whole["T-2"]["difference"] != 0


def test_a_verdict_stays_where_another_exhibit_is_published_by_other_settings(toy):
    reproduce(toy.paper, toy.options(seeds=2, only=("figure1",), publish=True))
    target = toy.root / "results/smoke/toynas"
    before = read_json(target / "claims.json")
    elsewhere = toy.options(out=toy.root / "elsewhere", only=("table2",), publish=True, precision="bfloat16")
    reproduce(toy.paper, elsewhere)
    claims = read_json(target / "claims.json")
    assert {name: claims[name] for name in before} == before
    assert (claims["T-10"]["verdict"], claims["T-3"]["seeds"]) == ("reproduced", [0])


def test_a_claim_takes_the_numbers_of_its_own_exhibit_where_another_measured_the_same(toy):
    reproduce(with_a_table_of_every_seed(toy, gain=-7.0), toy.options(seeds=2))
    claims = read_json(toy.root / "runs/toynas/scenes-smoke/claims.json")
    assert claims["T-2"]["difference"] == pytest.approx(2.05)
    assert claims["T-3"]["difference"] == 5.5


def test_published_runs_say_what_they_took_and_where(toy, folder):
    reproduce(toy.paper, toy.options(only=("table2",)))
    machine = read_json(folder / "ours-s0/environment.json")
    write_json(folder / "ours-s0/environment.json", machine | {"resumed": [{"time": "later", "command": "again"}]})
    (folder / "ours-s0/candidates.jsonl").write_text('{"seconds": 60}\n')
    reproduce(toy.paper, toy.options(seeds=2, only=("figure1",), publish=True))
    target = toy.root / "results/smoke/toynas"
    for name, seeds in (("figure1", 2), ("table2", 1)):  # each exhibit with its own seeds
        assert f"--seeds {seeds} --only {name}" in read_json(target / f"{name}.json")["command"]
    commands = {name: claim["command"] for name, claim in read_json(target / "claims.json").items()}
    assert commands == {name: f"{SMOKE} scenes --seeds {1 if name == 'T-3' else 2}" for name in ("T-2", "T-3", "T-10")}
    kept = {key: value for key, value in machine.items() if key != "command"}
    plain = {"seconds": 90.0, "candidate_seconds": None, "environment": kept, "resumed": []}
    runs = {f"scenes-smoke/{net}-s{seed}": plain for net in ("extra", "ours", "theirs") for seed in (0, 1)}
    runs["scenes-smoke/ours-s0"] = plain | {"seconds": 30.0, "candidate_seconds": 60.0, "resumed": [{"time": "later"}]}
    assert read_json(target / "runs.json") == runs


def test_seeds_measured_elsewhere_keep_the_machine_that_their_runs_were_made_on(toy):
    """A run of the same name here is another one, unless what is published rests on it, too."""
    reproduce(toy.paper, toy.options(seeds=2, only=("figure1",), publish=True))
    shutil.copytree(toy.root / "runs", toy.root / "elsewhere", ignore=shutil.ignore_patterns("exhibits"))
    for file in (toy.root / "elsewhere").rglob("environment.json"):
        write_json(file, read_json(file) | {"cpu": "A slide rule"})
    elsewhere, target = {"out": toy.root / "elsewhere", "publish": True}, toy.root / "results/smoke/toynas"
    runs = read_json(target / "runs.json")
    reproduce(toy.paper, toy.options(seeds=2, only=("figure1",), go_on_from_published=True, **elsewhere))
    assert read_json(target / "runs.json") == runs
    assert read_json(target / "claims.json")["T-10"]["environment"]["cpu"] == "An abacus"
    reproduce(toy.paper, toy.options(only=("table2",), **elsewhere))
    made = read_json(target / "runs.json")
    both = made.pop("scenes-smoke/ours-s0")
    assert made == {name: run for name, run in runs.items() if name != "scenes-smoke/ours-s0"}
    assert both["seconds"] == 180
    assert (both["environment"]["cpu"], both["resumed"][0]["cpu"]) == ("A slide rule", "An abacus")


@pytest.mark.parametrize("given", [{"precision": "bfloat16"}, {"data": "scenes:seed=7"}])
def test_nothing_is_taken_from_what_was_measured_otherwise(toy, folder, given):
    reproduce(toy.paper, toy.options(seeds=2, only=("figure1",), publish=True))
    with pytest.raises(InputError, match="holds figure1 measured with options"):
        reproduce(toy.paper, toy.options(seeds=3, only=("figure1",), go_on_from_published=True, **given))
    # nor from a run folder that another setting left there
    for name in ("figure1", "table2"):
        write_json(folder / "exhibits" / name / "measured.json", {"setting": given, "seeds": {"0": {"evidence": {}}}})
    reproduce(toy.paper, toy.options(only=("table2",), publish=True))
    published = read_json(toy.root / "results/smoke/toynas/measured.json")
    assert {name: len(each["seeds"]) for name, each in published.items()} == {"figure1": 2, "table2": 1}
    assert read_json(folder / "claims.json")["T-10"]["verdict"] == "reproduced"


def test_generic_data_names_no_folder(tmp_path, monkeypatch):
    (tmp_path / "reef").mkdir()
    monkeypatch.chdir(tmp_path / "reef")
    monkeypatch.setenv("HOME", str(tmp_path))
    given = ("coco:/some/where/reef", "voc:/some/where/reef/", "bdd:.", "bdd:~/reef", "scenes:train=9", "none")
    generic = ["coco:DIR/reef", "voc:DIR/reef", "bdd:DIR/reef", "bdd:DIR/reef", "scenes:train=9", "none"]
    assert list(map(generic_data, given)) == generic


# ---- the command that gives a result again


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"device": "cuda", "precision": "bfloat16"}, "--device cuda --precision bfloat16"),
        ({"second_data": "coco:two words"}, "--second-data 'coco:two words'"),
        ({"shares": (0.5, 1.0)}, "--shares 0.5 1.0"),
        ({"scale": "smoke"}, "--preset.epochs 12"),  # the nano settings under the name of smoke
    ],
)
def test_the_command_says_what_was_given_and_is_understood(toy, given, words):
    nano = {"scale": "nano", "preset": toy.Options.PRESETS["nano"], "data": "coco:some/where", "seeds": 3}
    options = toy.Options(**nano | given)
    made = command_for(toy.paper, options, toy.paper.exhibits[0])
    assert made.startswith(f"python -m toynas.reproduce --scale {options.scale} --data coco:some/where ")
    assert words in made
    assert parse(toy.Options, shlex.split(made)[3:]) == replace(options, only=("figure1",))


def test_where_and_how_is_not_said(toy):
    elsewhere = {"out": Path("a"), "results": Path("b"), "publish": True, "list": True, "seed": 0, "seeds": 2}
    narrowed = toy.Options(**elsewhere, only=("table2",), claim=("T-2",))
    assert command_for(toy.paper, narrowed) == f"{SMOKE} scenes --seeds 2 --only table2 --claim T-2"
    assert command_for(toy.paper, narrowed, toy.paper.exhibits[0]) == f"{SMOKE} scenes --seeds 2 --only figure1"
