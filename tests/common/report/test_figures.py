"""Every picture is a small, readable PNG, the same bytes for the same numbers."""

import math

import matplotlib
import numpy as np
import pytest
from PIL import Image

from common.report import figures, style

LINES = {"Ours": [(2.0, 0.4, 0.35, 0.45), (1.0, 0.3, 0.28, 0.32)], "OFA": [(1.0, 0.2, math.nan, math.nan)]}
DRAWN = {
    "lines": lambda path: figures.accuracy_against_cost(LINES, path, references={"Full net": (3.0, 0.5)}),
    "scatter": lambda path: figures.scatter_by_bucket(
        {"Ours": [(1.0, 0.3), (3.0, 0.4)], "OFA": [(0.5, 0.1)]}, [0.5, 1.75, 3.0], path
    ),
    "bars": lambda path: figures.bars(
        {"VOC": {"Ours": (1.0, 0.5, 1.5), "OFA": (2.0, math.nan, math.nan)}, "COCO": {"Ours": (1.0, 0.8, 1.1)}},
        path,
        value_label="Cost (GPU days)",
    ),
    "points": lambda path: figures.bars(
        {"DO-1": {"Ours": (1.0, 0.5, 1.5)}}, path, value_label="Difference (AP)", from_zero=False
    ),
    "heat": lambda path: figures.heat_map(
        [[0.1, math.nan], [0.3, 0.4]], path, row_labels=["1", "2"], column_labels=["E .2", "E .35"], value_label="Score"
    ),
    "precision": lambda path: figures.precision_recall(
        {"Ours": (np.linspace(0, 1, 9), np.linspace(1, 0.3, 9))}, path, chance=0.25
    ),
    "correlations": lambda path: figures.correlations(
        {
            "Front": {"depth": (-0.3, -0.5, -0.1), "width": (0.2, math.nan, math.nan), "len_1": (math.nan,) * 3},
            "All": {"depth": (0.6, 0.4, 1.2)},
            "None": {},
        },
        path,
    ),
}


@pytest.mark.parametrize("kind", DRAWN)
def test_picture_is_written_small_and_repeatable(kind, tmp_path):
    path = DRAWN[kind](tmp_path / "folder" / "one.png")
    again = DRAWN[kind](tmp_path / "folder" / "two.png")
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) >= 150
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 5  # something is drawn
    assert path.stat().st_size < 120_000
    assert path.read_bytes() == again.read_bytes()
    assert sorted(file.name for file in path.parent.iterdir()) == ["one.png", "two.png"]


def test_a_method_keeps_its_colour_whoever_else_is_drawn():
    order = ["OFA (w/ PS)", "OFA (w/o PS)", "Ours"]
    assert style.look("Ours", order) == style.look("Ours", list(order))
    assert style.look("Ours", order)["color"] != style.look("OFA (w/ PS)", order)["color"]


def test_drawing_leaves_the_users_style_alone(tmp_path):
    before = dict(matplotlib.rcParams)
    DRAWN["lines"](tmp_path / "one.png")
    assert dict(matplotlib.rcParams) == before
