"""The exhibit's record on disk, and its tables as text."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from common.plain import InputError, write_json
from common.report.statistics import Difference
from common.report.tables import (
    ExhibitResult,
    Table,
    beside,
    format_measured,
    printed,
    printed_table,
    to_frame,
    to_html,
    to_markdown,
)

RESULT = ExhibitResult(
    exhibit="table3",
    paper="detofa",
    title="Cost",
    caption="Cost of training.",
    data="scenes",
    scale="smoke",
    seeds=[0, 1],
    command="python -m detofa.reproduce --only table3",
    table=Table(["Method", "Cost"], [["OFA", Difference(1.5, 1.25, 1.75, 2)], ["Ours", np.float64(0.8)]]),
    paper_table=Table(["Method", "Cost"], [["OFA", 1.15], ["CompOFA*", 0.383]]),
    units={"Cost": "GPU days"},
    environment={"gpus": [], "torch": "2"},
)


def test_saved_and_loaded_is_the_same(tmp_path):
    path = RESULT.save(tmp_path / "exhibits" / "table3")
    assert path.name == "result.json"
    assert ExhibitResult.load(path) == RESULT
    assert ExhibitResult.load(path.parent) == RESULT
    assert [file.name for file in path.parent.iterdir()] == ["result.json"]


def test_record_is_plain_json_as_the_report_reads_it(tmp_path):
    record = json.loads(RESULT.save(tmp_path).read_text())
    assert record["table"]["columns"] == ["Method", "Cost"]
    assert record["table"]["rows"][0][1] == {"mean": 1.5, "low": 1.25, "high": 1.75, "n": 2}
    assert record["seeds"] == [0, 1]


def test_numbers_that_are_not_finite_become_null(tmp_path):
    path = write_json(tmp_path / "x.json", {"a": math.nan, "b": np.array([1.0, np.inf])})
    assert json.loads(path.read_text()) == {"a": None, "b": [1.0, None]}


def test_failed_write_leaves_the_old_file(tmp_path):
    path = write_json(tmp_path / "x.json", 1)
    with pytest.raises(TypeError):
        write_json(path, object())
    assert path.read_text() == "1\n"


def test_the_papers_numbers_keep_their_own_unit():
    apart = replace(RESULT, paper_units={"Cost": "GPU years"}, paper_table=Table(["Model", "Cost"], [["OFA", 1.15]]))
    assert "Cost (GPU days)" in to_markdown(apart).partition("The paper's")[0]
    assert "Cost (GPU years)" in to_markdown(apart).partition("The paper's")[2]
    together = to_markdown(replace(RESULT, paper_units={"Cost": "GPU years"}))
    assert "Cost, ours (GPU days)" in together
    assert "Cost, paper (GPU years)" in together


@pytest.mark.parametrize("text", ["{", "[]", '{"exhibit": "x"}', '{"table": {"columns": ["a"], "rows": [[1, 2]]}}'])
def test_damaged_record_is_one_sentence(tmp_path, text):
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(InputError):
        ExhibitResult.load(tmp_path)


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
    frame = to_frame(Table(["a", "b", "c", "d"], [[0.5, 1234567, True, None], [0.125, 2, False, 6.15e20]]), {"a": "ms"})
    assert list(frame.columns) == ["a (ms)", "b", "c", "d"]
    assert frame.to_numpy().tolist() == [["0.500", "1,234,567", "✓", "–"], ["0.125", "2", "—", "6.15e+20"]]


def test_beside_aligns_rows_by_label_and_keeps_what_one_side_lacks():
    joined = beside(RESULT.table, RESULT.paper_table)
    assert joined.columns == ("Method", "Cost, ours", "Cost, paper")
    assert joined.rows == (
        ("OFA", Difference(1.5, 1.25, 1.75, 2), 1.15),
        ("Ours", 0.8, None),
        ("CompOFA*", None, 0.383),
    )


def test_tables_that_do_not_line_up_stay_apart():
    other = Table(["Width", "AP"], [["8", 0.1]])
    assert beside(RESULT.table, other) is None
    assert beside(RESULT.table, Table(["Method", "Cost"], [["Another", 1.0]])) is None
    assert beside(RESULT.table, Table(["Method", "Cost"], [["OFA", 1.0], ["OFA", 2.0]])) is None
    text = to_markdown(replace(RESULT, paper_table=other))
    assert "**Ours**" in text
    assert "**The paper's**" in text


def test_markdown_shows_both_with_unit_and_interval():
    text = to_markdown(RESULT)
    assert "Cost, ours (GPU days)" in text
    assert "1.50 ± 0.25" in text
    assert "1.15" in text


def test_html_escapes_cells():
    text = to_html(replace(RESULT, table=Table(["Method"], [["<script>x</script>"]]), paper_table=None))
    assert "<script>" not in text
    assert "&lt;script&gt;" in text


def test_printed_numbers_of_detofa():
    record = printed("detofa")
    table2, table3 = printed_table("detofa", "table2"), printed_table("detofa", "table3")
    assert (len(table2.rows), len(table2.columns)) == (4, 6)
    assert table2.rows[0] == (False, True, True, 0.790, 0.590, 0.174)
    assert table2.rows[3] == (True, True, True, 0.930, 0.870, 0.224)
    assert [row[0] for row in table3.rows] == ["OFA (w/ PS)", "OFA (w/o PS)", "CompOFA*", "Ours"]
    assert table3.rows[0][1::2] == (1.150, 14.41)
    assert table3.rows[3] == ("Ours", 0.800, 0.414, 5.260, 0.456)
    assert len(printed_table("detofa", "table1").rows) == 2
    for figure in ("figure5", "figure6", "figure7", "figure8", "figure9"):
        assert printed_table("detofa", figure) is None
        assert record["exhibits"][figure]["readable"]
    numbers = {(number["id"], number.get("data"), number["where"]): number["value"] for number in record["numbers"]}
    assert len(numbers) == len(record["numbers"])  # each number once a place
    reductions = {number["value"] for number in record["numbers"] if number["id"] == "cost_reduction"}
    assert reductions == {30, 60, 63}  # the text gives both 60 % and 63 % for COCO
    assert numbers["transfer_gain", "Pascal VOC", "Section 4.2"] == 6.55
    assert numbers["path_pruning_ratio", None, "Section 4.2"] == 25
    with pytest.raises(InputError):
        printed_table("detofa", "table9")


def test_printed_numbers_of_sm_nas():
    record = printed("sm_nas")
    tables = {f"table{number}": printed_table("sm_nas", f"table{number}") for number in range(1, 6)}
    sizes = {name: (len(table.rows), len(table.columns)) for name, table in tables.items()}
    assert sizes == {"table1": (6, 7), "table2": (6, 10), "table3": (8, 7), "table4": (17, 11), "table5": (8, 5)}
    assert tables["table1"].rows[5][-2:] == (54.9, 39.3)
    assert [row[-4:] for row in tables["table2"].rows][4:] == [(73.5, 0.96, 80.2, 43.9), (162.45, 0.94, 108.1, 46.1)]
    assert [row[-1] for row in tables["table3"].rows] == [36.5, 37.4, 24.8, 28.3, 29.4, 30.7, 36.4, 37.5]
    assert tables["table4"].rows[12][3:6] == (None, None, 42.0)
    assert {row[0]: row[4:6] for row in tables["table4"].rows}["SM-NAS: E2"] == (39.5, 40.0)
    assert tables["table5"].rows[5] == ("BDD", "1333x800", "E0", 27.8, 30.2)
    for table in tables.values():  # the columns of text name each row once, so that ours can stand beside it
        texts = [tuple(cell for cell in row if isinstance(cell, str)) for row in table.rows]
        assert len(set(texts)) == len(texts)
    for code in (row[2] for row in tables["table2"].rows):
        _, base, stages = code.split("_")
        assert int(base) in (48, 56, 64, 72)
        assert len(stages.split("-")) == 4
        assert stages.count("2") == 3
    for figure in ("figure1", "figure2", "figure3", "figure4", "figure5"):
        assert printed_table("sm_nas", figure) is None
        assert record["exhibits"][figure]["readable"]
    numbers = {(number["id"], number.get("data"), number["where"]): number["value"] for number in record["numbers"]}
    assert len(numbers) == len(record["numbers"])  # each number once a place
    assert numbers["stage_one_space_size", None, "Architecture Search Details"] == 1.1e4
    assert numbers["stage_two_space_size", None, "Architecture Search Details"] == 5.0e12
    assert numbers["stage_two_lr_first", None, "Implementation Details for Stage-two"] == 0.24


def test_printed_numbers_of_joint_detnas():
    record = printed("joint_detnas")
    tables = {f"table{number}": printed_table("joint_detnas", f"table{number}") for number in range(1, 8)}
    sizes = [(len(table.rows), len(table.columns)) for table in tables.values()]
    assert sizes == [(12, 5), (8, 4), (4, 7), (8, 9), (3, 7), (12, 14), (5, 5)]
    assert tables["table1"].rows[7] == ("R50-FPN", "our ETP", "1333x800", 42.4, 2.9)
    assert [row[3] for row in tables["table2"].rows] == [37.1, 37.3, 37.0, 36.4, 39.0, 39.2, 38.8, 38.3]
    assert tables["table3"].rows[3] == ("our KD", "R50", "R101", 39.5, 41.4, 41.6, 2.1)
    assert tables["table4"].rows[5] == ("R101-FPN", "ours", 153.9, -48, 23.3, 47, 43.9, 2.5, "1080x720")
    assert tables["table5"].rows[2] == ("Joint-DetNAS (R101)", None, None, 58.9, None, 43.9, None)
    assert tables["table6"].rows[10][4:10] == (None, 23.3, "V100", "own device", 43.9, 63.8)
    assert tables["table7"].rows[4] == ("Joint-DetNAS (R101-based)", 145.7, 43.9, 100, 200)
    for table in tables.values():  # the columns of text name each row once, so that ours can stand beside it
        texts = [tuple(cell for cell in row if isinstance(cell, str)) for row in table.rows]
        assert len(set(texts)) == len(texts)
    for figure in (f"figure{number}" for number in range(1, 8)):
        assert printed_table("joint_detnas", figure) is None
        assert record["exhibits"][figure]["readable"]
    numbers = {(number["id"], number.get("data"), number["where"]): number["value"] for number in record["numbers"]}
    assert len(numbers) == len(record["numbers"])  # each number once a place
    assert numbers["pool_size", None, "Section 3.1.3"] == 765_000
    assert numbers["gamma_weight", None, "Section 3.3"] == 1e-5
    assert numbers["latency_reduction", "COCO", "Section 4.2.1"] == 47


def test_gains_and_changes_printed_by_joint_detnas_agree_with_their_columns():
    def column(exhibit: str, name: str) -> list:
        table = printed_table("joint_detnas", exhibit)
        return [row[table.columns.index(name)] for row in table.rows]

    pool = column("table1", "AP")
    for group in (0, 4, 8):  # two baselines, then the pool at the same two sizes
        gains = [ours - base for base, ours in zip(pool[group : group + 2], pool[group + 2 : group + 4], strict=True)]
        assert gains == pytest.approx(column("table1", "Gain")[group + 2 : group + 4])
    taught = zip(column("table3", "AP"), column("table3", "Baseline AP"), column("table3", "Gain"), strict=True)
    assert all(after - before == pytest.approx(gain) for after, before, gain in taught if gain is not None)
    upgraded = column("table4", "AP")
    assert [after - before for before, after in zip(upgraded[::2], upgraded[1::2], strict=True)] == pytest.approx(
        column("table4", "Gain")[1::2]
    )
    for name in ("FLOPS", "FPS"):
        numbers, changes = column("table4", name), column("table4", f"{name} change")
        found = [100 * (after / before - 1) for before, after in zip(numbers[::2], numbers[1::2], strict=True)]
        assert [round(change) for change in found] == changes[1::2]
    pipelines = slice(0, 2)  # joint optimisation has no intermediate result
    before, after = (column("table5", f"{when} backbone FLOPS")[pipelines] for when in ("Intermediate", "Final"))
    changes = [round(100 * (final / first - 1)) for first, final in zip(before, after, strict=True)]
    assert changes == column("table5", "FLOPS change")[pipelines]
    before, after = (column("table5", f"{when} AP")[pipelines] for when in ("Intermediate", "Final"))
    gains = [final - first for first, final in zip(before, after, strict=True)]
    assert gains == pytest.approx(column("table5", "Gain")[pipelines])
