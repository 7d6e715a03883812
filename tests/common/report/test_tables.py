"""Tables as text: ours beside the paper's, in markdown."""

import math

import numpy as np
import pytest

from common.plain import InputError
from common.report.statistics import Difference
from common.report.tables import Table, as_text, beside, format_measured, markdown_table, side_by_side

OURS = Table(["Method", "Cost"], [["OFA", Difference(1.5, 1.25, 1.75, 2)], ["Ours", np.float64(0.8)]])
THEIRS = Table(["Method", "Cost"], [["OFA", 1.15], ["CompOFA*", 0.383]])


def test_cells_are_plain_and_intervals_come_back_from_json():
    cells = [np.int64(3), {"mean": 1.5, "low": None, "high": 2, "n": 3}, {"mean": None, "low": 1, "high": 2}]
    number, half_open, nothing = Table(["a", "b", "c"], [cells]).rows[0]
    assert type(number) is int
    assert (half_open.mean, half_open.high, half_open.n) == (1.5, 2.0, 3)
    assert math.isnan(half_open.low)
    assert math.isnan(nothing.mean)
    assert nothing.n == 0
    assert Table.from_json(None) is None
    assert Table.from_json({"columns": ["a"], "rows": [[1]]}) == Table(("a",), ((1,),))


def test_a_row_of_another_length_is_refused():
    with pytest.raises(InputError, match=r"^row 1 of the table has 1 cells, and there are 2 columns$"):
        Table(["a", "b"], [[1, 2], [3]])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Difference(0.85312, 0.84112, 0.86512, 3), "0.853 ± 0.012"),
        (Difference(37.123, 35.123, 39.123, 3), "37.1 ± 2.0"),
        (Difference(0.62, 0.40, 0.70, 50), "0.62 [0.40, 0.70]"),
        (Difference(-0.0001, -0.5001, 0.4999, 3), "0.00 ± 0.50"),
        (Difference(-1.5, -2.0, -1.0, 3), "−1.50 ± 0.50"),
        (Difference(0.5, math.nan, math.nan, 1), "0.5000"),
        (Difference(math.nan, math.nan, math.nan, 0), "–"),
        (Difference(2.0, 2.0, 2.0, 2), "2.000 ± 0.000"),
        (Difference(5.4, 5.4 - 9e-16, 5.4 + 1.8e-15, 3), "5.400 ± 0.000"),
    ],
)
def test_format_measured(value, text):
    assert format_measured(value) == text


def test_columns_share_their_decimals():
    heads, rows = as_text(Table(list("abcd"), [[0.5, 1234567, True, None], [0.125, 2, False, 6.15e20]]), {"a": "ms"})
    assert heads == ["a (ms)", "b", "c", "d"]
    assert rows == [["0.500", "1,234,567", "✓", "–"], ["0.125", "2", "—", "6.15e+20"]]
    assert as_text(Table(["a"], []), {}) == (["a"], [])


def test_what_a_paper_prints_keeps_its_digits():
    printed = Table(["Method", "Time"], [["AmoebaNet", 2498.3], ["E2", 39.5], ["E3", 50.75]])
    ours = Table(["Method", "Time"], [["E2", 1234.5678], ["E3", 2.5]])
    ((_, _, joined),) = side_by_side(ours, printed, {}, {})
    assert joined == [["E2", "1235", "39.50"], ["E3", "2", "50.75"], ["AmoebaNet", "–", "2498.30"]]
    ((_, _, alone),) = side_by_side(Table(["Other"], []), printed, {}, {})
    assert [time for _, time in alone] == ["2498.30", "39.50", "50.75"]


def test_beside_aligns_rows_by_label_and_keeps_what_one_side_lacks():
    joined = beside(OURS, THEIRS)
    assert joined.columns == ("Method", "Cost, ours", "Cost, paper")
    assert joined.rows == (
        ("OFA", Difference(1.5, 1.25, 1.75, 2), 1.15),
        ("Ours", 0.8, None),
        ("CompOFA*", None, 0.383),
    )
    wider = beside(Table(["M", "AP", "Time"], [["a", 1.0, 2.0]]), Table(["M", "FLOPs", "AP"], [["a", 3.0, 4.0]]))
    assert wider.columns == ("M", "AP, ours", "AP, paper", "Time, ours", "FLOPs, paper")
    assert wider.rows == (("a", 1.0, 4.0, 2.0, 3.0),)


@pytest.mark.parametrize(
    "other",
    [
        Table(["Width", "AP"], [["8", 0.1]]),  # no column shared
        Table(["Method", "Cost"], [["Another", 1.0]]),  # no row shared
        Table(["Method", "Cost"], [["OFA", 1.0], ["OFA", 2.0]]),  # a label stands for two rows
        Table(["Method", "AP"], [["OFA", 1.0]]),  # no measured column shared
    ],
)
def test_tables_that_do_not_line_up_stay_apart(other):
    assert beside(OURS, other) is None
    assert [name for name, _, _ in side_by_side(OURS, other, {}, {})] == ["Ours", "The paper's"]


def test_each_side_has_its_own_unit():
    ((name, heads, rows),) = side_by_side(OURS, THEIRS, {"Cost": "GPU days"}, {"Cost": "GPU years"})
    assert name == "Ours beside the paper's"
    assert heads == ["Method", "Cost, ours (GPU days)", "Cost, paper (GPU years)"]
    assert rows == [["OFA", "1.50 ± 0.25", "1.150"], ["Ours", "0.8", "–"], ["CompOFA*", "–", "0.383"]]
    apart = Table(["Model", "Cost"], [["OFA", 1.15]])
    for own, shown in (({"Cost": "GPU years"}, "GPU years"), ({}, "GPU days")):  # ours where it says none
        (_, ours, _), (_, theirs, _) = side_by_side(OURS, apart, {"Cost": "GPU days"}, own)
        assert (ours[1], theirs[1]) == ("Cost (GPU days)", f"Cost ({shown})")
    assert [part[0] for part in side_by_side(Table(["Method"], []), apart, {}, {})] == ["The paper's"]
    assert [part[0] for part in side_by_side(OURS, None, {}, {})] == ["Ours"]


def test_markdown_is_not_broken_by_what_a_cell_holds():
    text = markdown_table(["a", "b*"], [["x | y", "two\nlines"], ["1 < 2", "2"]])
    assert text == "| a | b\\* |\n| --- | --- |\n| x \\| y | two<br>lines |\n| 1 &lt; 2 | 2 |"
