"""Every picture is a small, readable PNG or SVG of its data, the same bytes for the same numbers."""

import io
import itertools
import json
import re
from dataclasses import replace
from functools import cache
from xml.etree import ElementTree

import matplotlib
import moocore
import numpy as np
import pytest
from PIL import Image

from common.plain import InputError
from common.report import figures
from common.report.exhibit import Picture
from common.report.figures import KINDS, digest, drawn_from, render, render_svg

CANDIDATES = {
    "Searched": [(1.0, 0.3), (3.0, 0.4), (2.0, 0.2), (None, 0.9), (2.5, None)],
    "Random": [(1.5, 0.1), (2.5, 0.35)],
    "Empty": [],
}
BANDS = {
    "Search": {"25": [(1.0, 0.3), (2.0, 0.5)], "50": [(1.5, 0.3), (2.0, 0.4)], "75": [(2.0, 0.35)]},
    "Random": {"25": [(1.0, 0.2)], "50": [], "75": []},  # one run of two reached anything
    "Nothing": {"25": [], "50": [], "75": []},
}
LINES = {"Ours": [(2.0, 0.4, 0.35, 0.45), (1.0, 0.3, 0.28, 0.32)], "OFA": [(1.0, 0.2, None, None)]}
BARS = {"VOC": {"Ours": (1.0, 0.5, 1.5), "OFA": (2.0, None, None)}, "COCO": {"Ours": (1.0, 0.8, 1.1)}}
STEPS, GAIN = list(range(9)), [step / 8 for step in range(9)]
POINTS = {"Ours": [(1.0, 0.3), (3.0, 0.4)], "OFA": [(0.5, 0.1)]}
HEAT = {"values": [[0.1, None], [0.3, 0.4]], "row_labels": ["1", "2"], "column_labels": ["E .2", "E .35"]}
LABELS = {"value_label": "Score", "row_label": "Layer", "column_label": "Operation"}
FACTORS = {
    "Front": {"depth": (-0.3, -0.5, -0.1), "width": (0.2, None, None), "length": (None,) * 3},
    "All": {"depth": (0.6, 0.4, 1.2)},
    "None": {},
}
NAMED = {"C0": (1.0, 0.3), "C1": (3.0, 0.4), "failed": (None, 0.2), "R50": (2.0, 0.5)}
FRONTS = {"points": CANDIDATES, "with_front": ["Searched", "Empty"], "whole_front": True, "log_cost": True}
CURVES = {
    "Search": (STEPS, GAIN, [gain - 0.1 for gain in GAIN], [gain + 0.1 for gain in GAIN]),
    "One run": (STEPS, GAIN, [None] * 9, [None] * 9),
    "One candidate": ([3], [0.5], [0.4], [0.6]),
    "Empty": ([], [], [], []),
}
DRAWN = {
    "lines": ("accuracy_against_cost", {"series": LINES, "references": {"Full net": (3.0, 0.5)}}),
    "scatter": ("scatter_by_bucket", {"points": POINTS, "edges": [0.5, 1.75, 3.0]}),
    "bars": ("bars", {"groups": BARS, "value_label": "Cost (GPU days)"}),
    "heat": ("heat_map", HEAT | LABELS),
    "correlations": ("correlations", {"values": FACTORS}),
    "fronts": ("fronts", FRONTS | {"highlighted": NAMED}),
    "bands": ("attainment_bands", {"bands": BANDS}),
    "progress": ("progress", {"curves": CURVES}),
    "no candidate": ("fronts", {"points": {"Searched": [], "Random": [(None, 0.1)]}, "with_front": ["Searched"]}),
    "no candidate, logarithmic": ("fronts", {"points": {}, "whole_front": True, "log_cost": True}),
    "no band": ("attainment_bands", {"bands": {"Searched": {}, "Random": {"50": []}}}),
    "no progress": ("progress", {"curves": {}}),
}


def picture(name: str) -> Picture:
    kind, data = DRAWN[name]
    return Picture(name, kind, json.loads(json.dumps(data)))  # as it comes out of a record


def axes_of(name: str):
    kind, data = DRAWN[name]
    return KINDS[kind](**data).axes


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.filterwarnings("error")
def test_picture_is_small_and_repeatable_and_carries_its_digest(name, tmp_path):
    before = dict(matplotlib.rcParams)
    file = render(picture(name))
    assert dict(matplotlib.rcParams) == before  # a notebook's own settings are left alone
    with Image.open(io.BytesIO(file)) as image:
        assert image.format == "PNG"
        assert min(image.size) >= 150
        if not name.startswith("no "):
            assert len(image.getcolors(1 << 24)) > 5
    assert len(file) < 120_000
    assert render(picture(name)) == file
    assert {kind for kind, _ in DRAWN.values()} == set(KINDS)
    (tmp_path / "a.png").write_bytes(file)
    assert drawn_from(tmp_path / "a.png") == digest(picture(name))


def test_a_digest_is_of_the_data_and_the_kind(tmp_path):
    one = picture("bars")
    assert digest(replace(one, name="other")) == digest(one)
    assert digest(replace(one, data=dict(reversed(one.data.items())))) == digest(one)
    assert digest(replace(one, data=one.data | {"value_label": "AP"})) != digest(one)
    assert digest(replace(one, kind="heat_map")) != digest(one)
    Image.new("RGB", (2, 2)).save(tmp_path / "plain.png")
    (tmp_path / "broken.png").write_bytes(b"PNG")
    for name in ("plain", "broken", "absent"):
        assert drawn_from(tmp_path / f"{name}.png") is None


def test_a_picture_that_cannot_be_drawn_is_one_sentence():
    for kind, sentence in (
        ("hologram", r"^picture a is of the unknown kind 'hologram'; known: accuracy_against_cost, "),
        ("bars", r"^picture a cannot be drawn \(.*\); run its command again$"),
    ):
        for draw in (render, lambda picture: render_svg(picture, "a title")):
            with pytest.raises(InputError, match=sentence):
                draw(Picture("a", kind, {"groups": 3}))


@cache
def svg_of(name: str) -> str:
    return render_svg(picture(name), "<a title>")


def elements_of(svg: str) -> list[ElementTree.Element]:
    assert svg.startswith('<svg class="plot" viewBox="0 0 ')
    return list(ElementTree.fromstring(svg.replace("<svg ", '<svg xmlns:xlink="link" ', 1)).iter())


def ids_in(svg: str) -> set[str]:
    return {each.get("id") for each in elements_of(svg)} - {None}


def marks_of(svg: str) -> list[tuple[float, float, dict[str, str]]]:
    """The middle of each mark's area, from the left and from the bottom, and what it stands for."""
    areas = [each.attrib for each in elements_of(svg) if each.get("class") == "mark"]
    left, top, width, height = ([float(area[name]) for area in areas] for name in ("x", "y", "width", "height"))
    return [
        (x + w / 2, -(y + h / 2), json.loads(area["data-values"]))
        for area, x, y, w, h in zip(areas, left, top, width, height, strict=True)
    ]


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.filterwarnings("error")
def test_an_svg_element_names_only_what_it_refers_to(name):
    text = svg_of(name)
    assert elements_of(text)[0].get("aria-label") == "<a title>"
    assert ids_in(text) == set(re.findall(r"url\(#(.*?)\)", text)) | set(re.findall(r'href="#(.*?)"', text))
    assert not re.search(r'https?:|(fill|stroke): #(\w\w)\2\2(?=[";])(?![^<]*</text)', text)  # greys follow the page
    assert len(text) < 60_000


def test_an_svg_element_is_repeatable_and_has_no_id_of_another_picture():
    assert render_svg(picture("lines"), "<a title>") == svg_of("lines")
    ids = ids_in(svg_of("lines"))
    assert ids
    assert not ids & ids_in(render_svg(replace(picture("lines"), name="another"), "<a title>"))


def test_marks_lie_where_they_are_drawn_and_say_their_values():
    svg = svg_of("lines")
    marks = marks_of(svg)
    assert [values for *_, values in marks] == [
        {"Name": "Ours", "Cost (GMACs)": "1", "AP (points)": "0.300 ± 0.020"},
        {"Name": "Ours", "Cost (GMACs)": "2", "AP (points)": "0.400 ± 0.050"},
        {"Name": "OFA", "Cost (GMACs)": "1", "AP (points)": "0.2"},
        {"Name": "Full net", "Cost (GMACs)": "3", "AP (points)": "0.5"},
    ]
    (x1, y1, _), (x2, y2, _), (x3, y3, _), (x4, y4, _) = marks  # at (1, .3), (2, .4), (1, .2), (3, .5)
    assert x1 == x3
    assert (x4 - x1) / (x2 - x1) == pytest.approx(2, abs=0.01)
    assert (y2 - y1) / (y1 - y3) == pytest.approx((y4 - y1) / (y1 - y3) / 2, abs=0.01) == pytest.approx(1, abs=0.01)
    dots = {(float(x), -float(y)) for x, y in re.findall(r'<use xlink:href="#\w+" x="([\d.]+)" y="([\d.]+)"', svg)}
    assert all(min(abs(x - left) + abs(y - up) for left, up in dots) < 0.1 for x, y, _ in marks)


@pytest.mark.parametrize(
    ("name", "number", "last"),
    [
        ("scatter", 3, {"Name": "OFA", "Cost (GMACs)": "0.5", "AP (points)": "0.1"}),
        ("bars", 3, {"Name": "OFA", "Group": "VOC", "Cost (GPU days)": "2"}),
        ("heat", 3, {"Layer": "2", "Operation": "E .35", "Score": "0.4"}),
        ("correlations", 3, {"Name": "depth", "Group": "All", "Correlation with AP": "0.60 [0.40, 1.20]"}),
        ("fronts", 8, {"Name": "R50", "Cost (GMACs)": "2", "AP (points)": "0.5"}),
        ("bands", 6, {"Name": "Random", "Cost (GMACs)": "1", "AP (points)": "0.2", "Reached by": "25 % of the runs"}),
        ("progress", 19, {"Name": "One candidate", "Candidates evaluated": "3", "Hypervolume": "0.50 ± 0.10"}),
        ("no candidate", 0, None),
    ],
)
def test_every_mark_with_numbers_can_be_pointed_at(name, number, last):
    marks = [values for *_, values in marks_of(svg_of(name))]
    assert len(marks) == number
    assert not number or marks[-1] == last


def test_a_mark_says_what_else_is_known_of_a_candidate():
    points = {"Search": [(1.0, 0.3, {"Encoding": "d2 <w>", "Seed": "1"}), (2.0, None, {})]}
    (mark,) = marks_of(render_svg(Picture("a", "fronts", {"points": points, "with_front": ["Search"]}), "a title"))
    known = {"Name": "Search", "Cost (GMACs)": "1", "AP (points)": "0.3", "Encoding": "d2 <w>", "Seed": "1"}
    assert mark[2] == known


# ---- what is drawn is what the data says


def test_lines_are_the_means_from_the_cheapest_on():
    order = ["OFA", "Other", "Ours"]  # of all pictures of a paper
    (axes,) = KINDS["accuracy_against_cost"](**DRAWN["lines"][1], order=order).axes
    assert [line.get_color() for line in axes.lines] == [figures.COLOURS[2], figures.COLOURS[0], "black"]
    drawn = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert drawn == {"Ours": [[1.0, 0.3], [2.0, 0.4]], "OFA": [[1.0, 0.2]], "Full net": [[3.0, 0.5]]}
    low, high = (axes.collections[0].get_datalim(axes.transData).get_points()[place, 1] for place in (0, 1))
    assert (low, high) == (0.28, 0.45)


def test_bars_stand_in_their_groups_with_their_heights():
    (axes,) = axes_of("bars")
    bars = {round(bar.get_center()[0], 6): bar.get_height() for bar in axes.patches}
    assert bars == {-0.2: 1.0, 1 - 0.2: 1.0, 0.2: 2.0}  # OFA has none in the second group
    assert [text.get_text() for text in axes.get_xticklabels()] == ["VOC", "COCO"]
    assert axes.get_ylabel() == "Cost (GPU days)"


def test_points_are_marked_with_each_buckets_mean():
    (axes,) = axes_of("scatter")
    dots = [part for part in axes.collections if hasattr(part, "get_sizes")]
    assert [part.get_offsets().tolist() for part in dots] == [[[1.0, 0.3], [3.0, 0.4]], [[0.5, 0.1]]]
    bars = [bar for part in axes.collections if part not in dots for bar in part.get_segments()]
    means = [round(float(bar[0][1]), 6) for bar in bars]
    assert means == [0.3, 0.4, 0.1]


def test_a_heat_map_has_its_first_row_on_top_and_its_numbers_in_their_cells():
    axes, scale = axes_of("heat")
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert texts == {(0.5, 0.5): "0.10", (0.5, 1.5): "0.30", (1.5, 1.5): "0.40"}
    assert axes.yaxis_inverted()
    assert [text.get_text() for text in axes.get_yticklabels()] == ["1", "2"]
    assert [axes.get_xlabel(), axes.get_ylabel(), scale.get_ylabel()] == ["Operation", "Layer", "Score"]


def test_correlations_share_their_factors_and_scale():
    front, every, empty = axes_of("correlations")
    assert [bar.get_width() for bar in front.patches][:2] == [-0.3, 0.2]
    assert [bar.get_width() for bar in every.patches] == [0.6]
    assert [text.get_text() for text in front.get_yticklabels()] == ["depth", "width", "length"]
    assert front.get_xlim() == every.get_xlim() == empty.get_xlim()


def test_progress_is_the_mean_and_one_candidate_is_a_point():
    (axes,) = axes_of("progress")
    lines = {line.get_label(): line for line in axes.lines}
    assert lines["Search"].get_xydata().tolist() == [list(pair) for pair in zip(STEPS, GAIN, strict=True)]
    assert [lines[name].get_marker() == "" for name in ("Search", "One run", "One candidate")] == [True, True, False]


# ---- fronts, bands and names


def test_the_front_drawn_is_what_no_other_beats():
    generator = np.random.default_rng(0)
    for size in (1, 40):
        points = generator.integers(0, 12, size=(size, 2)).astype(float)  # ties too
        expected = moocore.filter_dominated(points, maximise=[False, True])
        assert figures._front(points).tolist() == sorted(expected.tolist())


def test_the_band_follows_the_staircase_from_its_floor():
    corners = np.array([(1.0, 0.2), (3.0, 0.5)])
    heights = figures._height(corners, np.array([0.5, 1.0, 2.9, 3.0, 9.0]), floor=-1.0)
    assert heights.tolist() == [-1.0, 0.2, 0.2, 0.5, 0.5]


@pytest.mark.parametrize("percentiles", [("50", "100"), ("33.3", "50", "100"), ("50",)])
def test_the_line_of_a_band_is_the_median_front(percentiles):
    band = {percentile: [(1.0, 1 / float(percentile))] for percentile in percentiles}
    (axes,) = KINDS["attainment_bands"]({"Search": band}).axes
    assert axes.lines[0].get_ydata()[0] == 1 / 50


def test_names_cover_neither_one_another_nor_the_points_they_name():
    generator = np.random.default_rng(1)
    named = {f"Model {place}": tuple(pair) for place, pair in enumerate(generator.uniform(size=(14, 2)))}
    named |= {"Beside 1": (0.5, 0.5), "Beside 2": (0.52, 0.5), "In the corner": (1.0, 1.0)}
    figure, (axes,) = figures.panels(6.4, 4.4)
    axes.scatter(*np.array(list(named.values())).T)
    figures._write_names(figure, axes, named, [np.array(list(named.values()))])
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert {text.get_text() for text in axes.texts} == set(named)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    points, frame = axes.transData.transform(list(named.values())), axes.get_window_extent()
    assert not any(box.contains(*point) for box in boxes for point in points)
    assert all((frame.min <= box.min).all() and (box.max <= frame.max).all() for box in boxes)


@pytest.mark.parametrize("limits", [(24, 600), (21, 29), (100, 130), (1e6, 3e9)])
def test_a_logarithmic_cost_has_ticks_to_read_it_by(limits):
    _, (axes,) = figures.panels(6, 4)
    axes.plot(limits, [0, 1])
    figures._log_scale(axes)
    low, high = axes.get_xlim()
    ticks = axes.xaxis.get_major_locator()()
    assert 3 <= sum(low <= tick <= high for tick in ticks) <= 14
