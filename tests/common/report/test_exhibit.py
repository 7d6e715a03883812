"""Numbers over seeds, the record of a drawn exhibit on disk, and the paper's printed table."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from common.plain import InputError, write_json
from common.report.exhibit import (
    ExhibitResult,
    Picture,
    display_name,
    in_all,
    over_seeds,
    printed,
    printed_table,
    setting_in_words,
    stacked,
    triple,
)
from common.report.statistics import Difference
from common.report.tables import Table

RESULT = ExhibitResult(
    exhibit="table3",
    paper="toynas",
    paper_title="ToyNAS",
    title="Cost",
    caption="Cost of training.",
    data="scenes",
    scale="smoke",
    seeds=(0, 1),
    command="python -m toynas.reproduce --only table3",
    table=Table(["Method", "Cost"], [["OFA", Difference(1.5, 1.25, 1.75, 2)], ["Ours", np.float64(0.8)]]),
    paper_table=Table(["Method", "Cost"], [["OFA", 1.15]]),
    units={"Cost": "GPU days"},
    paper_units={"Cost": "GPU years"},
    notes=("One.", "Two."),
    pictures=(Picture("table3", "bars", {"groups": {"a": {"b": [1.0, None, None]}}, "value_label": "Cost"}),),
    runs=("scenes-smoke/ours-s0",),
    environment={"gpus": [], "torch": "2"},
)


# ---- numbers of all seeds


def test_over_seeds_is_the_mean_of_whole_seeds_with_its_t_interval():
    result = over_seeds([[1.0, 3.0], [3.0, 5.0], [math.nan, 1.0], [100.0, math.inf]])  # two whole seeds: 2 and 4
    assert (result.mean, result.n) == (3.0, 2)
    assert result.half == pytest.approx(12.7062 * math.sqrt(2) / math.sqrt(2), rel=1e-5)  # t(1 df) x sd / sqrt(n)
    assert over_seeds([5.0]).mean == 5.0
    nothing = over_seeds([math.nan, None])
    assert (nothing.n, [math.isnan(value) for value in triple(nothing)]) == (0, [True] * 3)


def test_stacked_follows_the_keys_in_every_seed():
    measured = [{"AP": {"ours": [1, None]}}, {"AP": {"ours": [3, 4]}}]
    np.testing.assert_array_equal(stacked(measured, "AP", "ours"), [[1, math.nan], [3, 4]], strict=True)


def test_in_all_keeps_the_names_that_every_seed_has_in_their_order():
    measured = [{"AP": {"a": 1, "b": 2, "c": 3}}, {"AP": {"c": 1, "b": 2}}]
    assert in_all(measured, "AP", ["c", "a", "b", "d"]) == ["c", "b"]


def test_names_and_triples_as_exhibits_use_them():
    names = {"figure5": "Figure 5", "table10": "Table 10", "appendix": "Appendix"}
    assert {name: display_name(name) for name in names} == names
    assert triple(Difference(2.0, 1.0, 3.5, 4)) == (2.0, 1.0, 3.5)


# ---- the record


def test_a_setting_without_a_scale_says_none():
    assert setting_in_words("bccd", "nano") == "bccd, nano scale"
    assert setting_in_words("bccd, val", "") == "bccd, val"


def test_saved_and_loaded_is_the_same(tmp_path):
    path = RESULT.save(tmp_path / "new" / "result.json")
    assert ExhibitResult.load(tmp_path / "new" / "result.json") == RESULT
    record = json.loads(path.read_text())
    assert record["table"]["rows"][0][1] == {"mean": 1.5, "low": 1.25, "high": 1.75, "n": 2}
    assert record["pictures"][0]["kind"] == "bars"


@pytest.mark.parametrize(
    ("seeds", "words"),
    [((), ""), ((0, 1, 2), "0, 1, 2"), (range(100), "0 to 99"), (range(5, 16), "5 to 15"), ((*range(11), 12), None)],
)
def test_seeds_in_words(seeds, words):
    words = ", ".join(map(str, seeds)) if words is None else words
    assert replace(RESULT, seeds=tuple(seeds)).seeds_in_words == words


def test_what_a_record_may_lack_is_empty_and_what_is_unknown_is_passed_over(tmp_path):
    record = json.loads(RESULT.save(tmp_path / "result.json").read_text())
    needed = ("exhibit", "paper", "title", "caption", "data", "scale", "seeds", "command", "table")
    write_json(tmp_path / "small.json", {name: record[name] for name in needed} | {"of another version": 1})
    small = ExhibitResult.load(tmp_path / "small.json")
    objects = {"units": {}, "paper_units": {}, "environment": {}}
    lists = {"notes": (), "pictures": (), "runs": ()}
    assert small == replace(RESULT, paper_title="", paper_table=None, **objects, **lists)
    del record["caption"]
    with pytest.raises(InputError, match="caption"):
        ExhibitResult.load(write_json(tmp_path / "small.json", record))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "is not an exhibit's record: it must hold an object; run its command again"),
        ('{"exhibit": "x"}', r"is not an exhibit's record \(.*\); run its command again to write it anew"),
        ('{"table": {"columns": ["a"], "rows": [[1, 2]]}}', "row 0 of the table has 2 cells"),
        ('{"table": 3}', "is not an exhibit's record"),
        ('{"pictures": [{"name": "x"}]}', "pictures lacks the field kind"),
        ("{", "is not valid JSON"),
    ],
)
def test_damaged_record_is_one_sentence(tmp_path, text, message):
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(InputError, match=message) as error:
        ExhibitResult.load(tmp_path / "result.json")
    assert str(tmp_path / "result.json") in str(error.value)


# ---- the paper's numbers


def test_the_printed_table_of_an_exhibit(toy):
    exhibits = printed(toy.paper.folder)["exhibits"]
    assert printed_table(exhibits, "figure1") is None
    assert printed_table(exhibits, "table2") == Table(("Method", "AP"), (("toy", 40.1),))
    with pytest.raises(InputError, match=r"^printed.json knows no exhibit table9; it has figure1, table2$"):
        printed_table(exhibits, "table9")
