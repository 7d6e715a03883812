"""The pictures of a search: small, repeatable, and true where they compute a front or place a name."""

import itertools
import math

import matplotlib
import numpy as np
import pytest
from PIL import Image

from common.report import searches, style

CANDIDATES = {
    "Searched": [(1.0, 0.3), (3.0, 0.4), (2.0, 0.2), (math.nan, 0.9), (2.5, math.nan)],
    "Random": [(1.5, 0.1), (2.5, 0.35)],
    "Empty": [],
}
BANDS = {
    "Search": {25: [(1.0, 0.3), (2.0, 0.5)], 50: [(1.5, 0.3), (2.0, 0.4)], 75: np.array([(2.0, 0.35)])},
    "Random": {25: [(1.0, 0.2)], 50: [], 75: []},  # one run of two reached anything
    "Nothing": {25: [], 50: [], 75: []},
}
STEPS, GAIN = np.arange(9), np.linspace(0, 1, 9)
DRAWN = {
    "fronts": lambda path: searches.fronts(
        CANDIDATES,
        path,
        with_front=["Searched", "Empty"],
        whole_front=True,
        highlighted={"C0": (1.0, 0.3), "C1": (3.0, 0.4), "failed": (math.nan, 0.2)},
        references={"Cascade R50": (2.0, 0.5)},
        log_cost=True,
    ),
    "bands": lambda path: searches.attainment_bands(BANDS, path, points=CANDIDATES),
    "bands, logarithmic": lambda path: searches.attainment_bands(BANDS, path, log_cost=True, order=["Random"]),
    "progress": lambda path: searches.progress(
        {
            "Search": (STEPS, GAIN, GAIN - 0.1, GAIN + 0.1),
            "One run": (STEPS, GAIN / 2, np.full(9, math.nan), np.full(9, math.nan)),
            "One candidate": ([3], [0.5], [0.4], [0.6]),
            "Empty": ([], [], [], []),
        },
        path,
    ),
}


@pytest.mark.parametrize("kind", DRAWN)
@pytest.mark.filterwarnings("error")
def test_picture_is_written_small_and_repeatable(kind, tmp_path):
    path = DRAWN[kind](tmp_path / "folder" / "one.png")
    again = DRAWN[kind](tmp_path / "folder" / "two.png")
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) >= 150
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 5
    assert path.stat().st_size < 120_000
    assert path.read_bytes() == again.read_bytes()
    assert sorted(file.name for file in path.parent.iterdir()) == ["one.png", "two.png"]


@pytest.mark.filterwarnings("error")
def test_a_search_without_any_candidate_still_has_its_picture(tmp_path):
    nothing = {"Searched": [], "Random": [(math.nan, 0.1)]}
    for log_cost in (False, True):
        assert searches.fronts(
            nothing, tmp_path / "a.png", with_front=["Searched"], whole_front=True, log_cost=log_cost
        ).is_file()
        assert searches.attainment_bands(
            {"Searched": {}, "Random": {50: []}}, tmp_path / "b.png", log_cost=log_cost
        ).is_file()
    assert searches.fronts({}, tmp_path / "c.png").is_file()
    assert searches.progress({}, tmp_path / "d.png").is_file()


def test_a_progress_of_one_candidate_is_seen(tmp_path):
    one = searches.progress({"Search": ([3], [0.5], [math.nan], [math.nan])}, tmp_path / "one.png").read_bytes()
    none = searches.progress({"Search": ([3], [math.nan], [math.nan], [math.nan])}, tmp_path / "none.png").read_bytes()
    assert one != none


def test_the_front_drawn_is_what_no_other_beats():
    generator = np.random.default_rng(0)
    for size in (0, 1, 40):
        points = generator.integers(0, 12, size=(size, 2)).astype(float)  # ties too
        expected = {
            (cost, score)
            for cost, score in points.tolist()
            if not any((c <= cost and s >= score) and (c, s) != (cost, score) for c, s in points.tolist())
        }
        front = searches._front(points)
        assert set(map(tuple, front.tolist())) == expected
        assert len(front) == len(expected)
        assert (np.diff(front, axis=0) > 0).all()


def test_the_band_follows_the_staircase_from_its_floor():
    corners = np.array([(1.0, 0.2), (3.0, 0.5)])
    heights = searches._height(corners, np.array([0.5, 1.0, 2.9, 3.0, 9.0]), floor=-1.0)
    assert heights.tolist() == [-1.0, 0.2, 0.2, 0.5, 0.5]


def test_names_cover_neither_one_another_nor_the_points_they_name():
    generator = np.random.default_rng(1)
    named = {f"Model {place}": tuple(pair) for place, pair in enumerate(generator.uniform(size=(14, 2)))}
    named |= {"Beside 1": (0.5, 0.5), "Beside 2": (0.52, 0.5), "In the corner": (1.0, 1.0)}
    figure, axes = style.canvas(6.4, 4.4)
    axes.scatter(*np.array(list(named.values())).T)
    searches._write_names(figure, axes, named, [np.array(list(named.values()))])
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert {text.get_text() for text in axes.texts} == set(named)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    for pair in axes.transData.transform(list(named.values())):
        assert not any(box.contains(*pair) for box in boxes)
    frame = axes.get_window_extent()
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in boxes)
    assert all(frame.y0 <= box.y0 and box.y1 <= frame.y1 for box in boxes)


@pytest.mark.parametrize("limits", [(24, 600), (21, 29), (100, 130), (1e6, 3e9)])
def test_a_logarithmic_cost_has_ticks_to_read_it_by(limits):
    _, axes = style.canvas(6, 4)
    axes.plot(limits, [0, 1])
    searches._log_scale(axes)
    low, high = axes.get_xlim()
    ticks = axes.xaxis.get_major_locator()()
    assert 3 <= sum(low <= tick <= high for tick in ticks) <= 14


def test_drawing_leaves_the_users_style_alone(tmp_path):
    before = dict(matplotlib.rcParams)
    DRAWN["fronts"](tmp_path / "one.png")
    assert dict(matplotlib.rcParams) == before
