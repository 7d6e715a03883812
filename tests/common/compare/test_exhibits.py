"""The comparison's rules and tables on made-up numbers, against definitions spelt out."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from common.compare import exhibits
from common.compare.exhibits import ahead_there, front_area, lead, unequal
from common.compare.methods import FOUND, RANDOM, STANDARD, THEIRS, methods
from common.compare.presets import NANO
from common.compare.study import Side
from common.plain import to_json
from common.report.claims import Evidence, NotMeasured, judge_all
from common.report.exhibit import Drawn, Setting
from common.report.figures import render
from common.report.reproduce import measure_exhibit
from common.report.statistics import holm, mean_interval
from common.study import Recording
from tests.drawn import check_drawn

NAMES = list(methods())
SETTING = Setting("scenes", "nano", to_json(NANO), {"budget": 700.0})


def wobbling(seeds: int, size: float = 0.1) -> np.ndarray:
    """(S,) of mean 0."""
    return size * (np.arange(seeds) - (seeds - 1) / 2)


def made_up(seeds: int = 5, step: float = 2.0, over_random: float = 1.0, best: float = 20.0, order=None) -> dict:
    """Every method `step` better than the next, and `over_random` better than its random search."""
    noise, values = wobbling(seeds), {}
    for place, name in enumerate(NAMES):
        values[f"area:{name}"] = 15.0 - step * place + noise * (-1) ** place
        values[f"area:{name}:random"] = values[f"area:{name}"] - over_random - noise
        values[f"best:{name}"] = np.full(seeds, best)
        values[f"selects:{name}"] = np.full(seeds, 4)
    areas = np.stack([values[f"area:{name}"][:3] for name in NAMES], axis=1)
    values["second"] = areas[:, list(order or range(len(NAMES)))] / 2
    values["second best"] = np.full((3, len(NAMES)), best)
    return values


def judged(values: dict, seeds: int = 5) -> dict[str, dict]:
    evidence = Evidence("scenes", "nano", range(seeds), "typed", values)
    return judge_all(exhibits.PAPER.claims, evidence, "compare", "Comparison")


# ---- the rules' parts


def test_area_is_the_mean_best_ap_over_budgets_on_a_logarithmic_scale():
    generator, box = np.random.default_rng(0), (20e6, 320e6)
    for count in (0, 1, 7):
        macs, points = generator.uniform(5e6, 500e6, count), generator.uniform(0, 40, count)
        budgets = box[0] * (box[1] / box[0]) ** ((np.arange(20_000) + 0.5) / 20_000)
        expected = np.mean([max(points[macs <= budget], default=0.0) for budget in budgets])
        assert front_area(macs, points, box) == pytest.approx(expected, abs=0.01)
    assert front_area([10e6], [30.0], box) == pytest.approx(30.0)  # as good at every budget
    assert front_area([math.sqrt(box[0] * box[1])], [30.0], box) == pytest.approx(15.0)  # at half of the octaves
    assert front_area([320e6, 21e6], [30.0, 0.0], box) == 0


def test_the_leader_is_compared_with_the_closest_of_the_others_by_an_interval_for_all_pairs():
    areas = np.array([3.0, 1.0, 2.0]) + np.random.default_rng(0).normal(size=(6, 3))
    found, others = lead(areas), [areas[:, 0] - areas[:, other] for other in (1, 2)]
    half = max(stats.t.ppf(1 - 0.05 / 2 / 3, 5) * each.std(ddof=1) / math.sqrt(6) for each in others[1:])
    assert (found.mean, found.low) == pytest.approx((others[1].mean(), others[1].mean() - half))
    for few in (np.ones((1, 3)), np.ones((5, 1))):
        with pytest.raises(NotMeasured, match="two methods and two seeds"):
            lead(few)


def test_of_equal_methods_none_leads():
    equal = np.random.default_rng(1).normal(size=(2000, 5, 3))
    assert np.mean([lead(each).low > 0 for each in equal]) < 0.05


def test_ahead_there_follows_the_order_of_the_first_data_set():
    first, second = np.array([[1.0, 3.0, 2.0]]), np.array([[10.0, 40.0, 30.0], [10.0, 10.0, 40.0]])
    assert ahead_there(first, second).tolist() == [[10.0, 20.0], [-30.0, 30.0]]


@pytest.mark.parametrize("middle", [-8.0, 28.0])
def test_a_middle_method_that_comes_last_or_first_breaks_the_order(middle):
    values = made_up()
    values["second"] = np.array([[20.0, middle, 10.0], [20.2, middle, 10.1], [19.9, middle, 10.0]])
    assert judged(values)["X-3"]["verdict"] == "not reproduced"


# ---- the claims, cell by cell

CELLS = {
    "X-1 leads": ("X-1", {}, "reproduced", 2.0),
    "X-1 all alike": ("X-1", {"step": 0.0}, "inconclusive", None),
    "X-2 better than random": ("X-2", {}, "reproduced", 1.0),
    "X-2 worse than random": ("X-2", {"over_random": -1.0}, "not reproduced", -1.0),
    "X-2 as good as random": ("X-2", {"over_random": 0.0}, "inconclusive", 0.0),
    "X-3 the same order": ("X-3", {}, "reproduced", 1.0),
    "X-3 one pair the other way round": ("X-3", {"order": (1, 0, 2)}, "not reproduced", -1.0),
    "X-3 the reverse": ("X-3", {"order": (2, 1, 0)}, "not reproduced", -1.0),
    "X-3 all alike there": ("X-3", {"order": (0, 0, 0)}, "inconclusive", 0.0),
}


@pytest.mark.parametrize("cell", CELLS)
def test_each_claim_follows_its_numbers(cell):
    claim, numbers, verdict, difference = CELLS[cell]
    assert len(NAMES) == 3
    record = judged(made_up(**numbers))[claim]
    assert record["verdict"] == verdict
    assert difference is None or record["difference"] == pytest.approx(difference, abs=0.2 * (claim in ("X-1", "X-3")))
    assert record["n"] == (3 if claim == "X-3" else 5)


def test_one_method_that_random_search_beats_decides():
    values = made_up()
    values[f"area:{NAMES[1]}:random"] += 3.0
    record = judged(values)["X-2"]
    assert (record["verdict"], record["difference"]) == ("not reproduced", pytest.approx(-2.0))
    assert [each["verdict"] for each in record["conditions"]] == ["reproduced", "not reproduced", "reproduced"]


def test_a_method_that_selects_nothing_cannot_be_told_from_its_random_search():
    values = made_up()
    values[f"selects:{NAMES[1]}"][2] = 0
    records = judged(values)
    reason = f"{exhibits.TITLES[NAMES[1]]} selects nothing within the budget: it is its own random search"
    assert (records["X-2"]["verdict"], records["X-2"]["reason"]) == ("not testable at this scale", reason)
    assert [records[claim]["verdict"] for claim in ("X-1", "X-3")] == ["reproduced"] * 2


def test_the_order_on_the_second_set_says_how_many_seeds_it_would_need():
    values = made_up(order=(0, 0, 0))
    values["second"] = np.stack([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]])
    record = judged(values)["X-3"]
    assert (record["verdict"], record["n"]) == ("inconclusive", 3)
    assert record["seeds_needed"] > 3


@pytest.mark.parametrize(
    ("values", "seeds", "verdict", "reason"),
    [
        (made_up(best=9.0), 5, "not testable at this scale", "networks of 9.0 AP points"),
        (made_up(seeds=4), 4, "inconclusive", "4 of the 5 seeds"),
        ({}, 5, "inconclusive", "not measured"),
    ],
)
def test_weak_networks_few_seeds_and_missing_numbers_judge_nothing(values, seeds, verdict, reason):
    records = judged(values, seeds)
    for claim in ("X-1", "X-2", "X-3")[: 2 if seeds == 4 else 3]:  # X-3 needs three seeds
        assert records[claim]["verdict"] == verdict
        assert records[claim]["reason"].startswith(reason)


# ---- what is measured


class MadeUpComparison(Recording):
    """Answers like common.compare.study.Comparison; the last method found a detector less than it has files."""

    seed = 4

    def __init__(self, second: str | None = None, scale: float = 1.0, recorders: list | None = None) -> None:
        self.options, self.scale = SimpleNamespace(second_data=second), scale
        self._recorders = [] if recorders is None else recorders

    def on(self, data: str) -> "MadeUpComparison":
        assert data == "coco:DIR/cells"
        return MadeUpComparison(None, 2.0, self._recorders)

    def side(self, name: str, random: bool) -> Side:
        for used in self._recorders:
            used[f"{name}-{random:d}-x{self.scale:g}"] = None
        place = NAMES.index(name)
        spent = {"cpu_seconds": 100.0 + 10 * place + random, "samples": 1000 + place}
        failed = "a training failed" if (place, random) == (1, True) else None
        return Side((Path("a"), Path("b")), spent, {"cpu_seconds": 7.0 + place, "samples": 9}, (), failed)

    @property
    def detectors(self) -> dict[tuple[str, bool], list[dict]]:
        return {
            (name, random): [
                {
                    "AP": self.scale * (10 * place + 5 * at + random),
                    "macs": 1e6 * (3 + at),
                    "latency": 2.0 + at,
                    "params": 50 + place,
                    "encoding": f"{name}{at}",
                    "input_size": [64, 64],
                    "file": "not told",
                }
                for at in range(1 if (place, random) == (2, False) else 2)
            ]
            for place, name in enumerate(NAMES)
            for random in (False, True)
        }

    def area(self, name: str, random: bool) -> float:
        self.side(name, random)
        return self.scale * (1.0 + NAMES.index(name) + random / 2)

    def selects(self, name: str) -> int:
        return NAMES.index(name) + 3


def expected_fronts(study: MadeUpComparison) -> dict[str, dict]:
    found: dict[str, dict] = {name: {} for name in NAMES}
    for (name, random), detectors in study.detectors.items():
        place = NAMES.index(name)
        found[name]["random" if random else "found"] = {
            "detectors": [{key: value for key, value in each.items() if key != "file"} for each in detectors],
            "area": study.scale * (1.0 + place + random / 2),
            "cpu_seconds": 100.0 + 10 * place + random,
            "samples": 1000 + place,
            "uncounted": 7.0 + place,
            "failed": None,
        }
    found[NAMES[1]]["random"]["failed"] = "a training failed"
    found[NAMES[2]]["found"]["failed"] = "1 of its detectors, whose boxes are not finite, count as AP 0"
    return found


def expected_budget() -> dict[str, dict]:
    sides = ((place, name, random) for place, name in enumerate(NAMES) for random in (False, True))
    return {
        exhibits.TITLES[name] + ", random search" * random: {
            "samples": 1000 + place,
            "cpu_seconds": 100.0 + 10 * place + random,
        }
        for place, name, random in sides
    }


def test_fronts_are_measured_with_the_evidence_of_x1_and_x2():
    study = MadeUpComparison()
    numbers = measure_exhibit(exhibits.PAPER.by_name["table1"], study)
    assert numbers["fronts"] == expected_fronts(study)
    assert numbers["budget"] == expected_budget()
    evidence = {f"area:{name}": 1.0 + place for place, name in enumerate(NAMES)}
    evidence |= {f"area:{name}:random": 1.5 + place for place, name in enumerate(NAMES)}
    evidence |= {f"best:{name}": best for name, best in zip(NAMES, (5.0, 15.0, 20.0), strict=True)}
    assert numbers["evidence"] == evidence | {f"selects:{name}": place + 3 for place, name in enumerate(NAMES)}
    first = NAMES[0]
    assert numbers["rests_on"][f"area:{first}:random"] == [f"{first}-1-x1"]
    assert numbers["rests_on"][f"best:{first}"] == [f"{first}-0-x1"]
    areas = measure_exhibit(exhibits.PAPER.by_name["table2"], study)
    assert areas["areas"] == {name: 1.0 + place for place, name in enumerate(NAMES)}


def test_the_second_set_is_measured_with_the_evidence_of_x3():
    table3 = exhibits.PAPER.by_name["table3"]
    nothing = measure_exhibit(table3, MadeUpComparison())
    assert (nothing["fronts"], nothing["evidence"], nothing["runs"]) == ({}, {}, [])
    study = MadeUpComparison("coco:DIR/cells")
    numbers = measure_exhibit(table3, study)
    assert numbers["fronts"] == expected_fronts(study.on("coco:DIR/cells"))
    assert numbers["budget"] == expected_budget()
    assert numbers["evidence"] == {"second": [2.0, 4.0, 6.0], "second best": [10.0, 30.0, 40.0]}
    assert numbers["rests_on"]["second"] == [f"{name}-0-x2" for name in NAMES]


def test_a_detector_less_front_is_an_ap_of_0(monkeypatch):
    study = MadeUpComparison()
    monkeypatch.setattr(MadeUpComparison, "detectors", {(NAMES[0], False): []})
    assert exhibits._best(study, NAMES[0]) == 0.0


def test_the_plan_names_methods_budget_and_images():
    studies = {name: SimpleNamespace(training_set=[0] * count) for name, count in zip(NAMES, (5, 4, 5), strict=True)}
    study = SimpleNamespace(studies=studies, options=SimpleNamespace(seconds=900.0))
    titles = ", ".join(exhibits.TITLES[name] for name in NAMES)
    assert exhibits.PAPER.describe(study) == f"{titles}; 900 CPU s a front; 4/5 training images"


def test_what_is_published_is_measured_as_it_is(monkeypatch):
    monkeypatch.setattr("common.compare.published.published", lambda study: {"one": [study.seed]})
    assert measure_exhibit(exhibits.PAPER.by_name["table4"], MadeUpComparison())["published"] == {"one": [4]}


# ---- what is drawn


def drawing(name: str, measured: list[dict]) -> Drawn:
    found = exhibits.PAPER.by_name[name].draw(measured, SETTING)
    check_drawn(Path(__file__).parent, name, found)
    return found


def fronts(seed: int, seconds: float = 600.0) -> dict:
    """Of every method and its random search: two detectors each."""

    def side(place: int, random: int) -> dict:
        strong = {"AP": 20.0 + place - random + 0.1 * seed, "macs": 60e6, "latency": 4.0}
        weak = {"AP": 10.0, "macs": 30e6, "latency": 2.0}
        took = {"cpu_seconds": seconds * (1 + 0.3 * random), "samples": 4000, "uncounted": 50.0, "failed": None}
        return {"detectors": [weak, strong], "area": 12.0 + place - random + 0.1 * seed, **took}

    return {name: {"found": side(place, 0), "random": side(place, 1)} for place, name in enumerate(NAMES)}


def test_a_row_for_every_front_and_pictures_that_can_be_drawn():
    drawn = drawing("table1", [{"fronts": fronts(seed)} for seed in range(3)])
    rows = [dict(zip(drawn.table.columns, row, strict=True)) for row in drawn.table.rows]
    assert [row["Search"] for row in rows] == ["found", "random"] * 3
    assert rows[3]["Area"] == mean_interval([12.0, 12.1, 12.2])
    assert rows[2]["Best AP"] == mean_interval([21.0, 21.1, 21.2])
    assert [rows[0][key].mean for key in ("MAC of the best", "Latency of the best", "Detectors")] == [60, 4, 2]
    assert [rows[1][key].mean for key in ("Taken", "Images", "Not counted")] == pytest.approx([780, 4000, 50])
    assert "in 700 CPU seconds" in drawn.caption
    assert "from 20 to 320 M" in drawn.caption
    names = ["fronts-macs", "fronts-latency", *(f"random-{name}" for name in NAMES)]
    assert [picture.name for picture in drawn.pictures] == names
    for picture in drawn.pictures[:3]:
        assert render(picture).startswith(b"\x89PNG")
    bands = drawn.pictures[0].data["bands"][exhibits.TITLES[NAMES[0]]]
    assert to_json(bands["100"]) == pytest.approx(np.array([[30.0, 10.0], [60.0, 20.0]]))  # what every seed reached


def test_a_side_that_failed_has_a_note_and_nothing_to_show():
    some = [fronts(seed) for seed in range(3)]
    some[1][NAMES[0]]["found"] |= {"detectors": [], "area": 0.0, "failed": "a training failed"}
    drawn = drawing("table1", [{"fronts": each} for each in some])
    assert f"{exhibits.TITLES[NAMES[0]]}: a training failed." in drawn.notes
    row = dict(zip(drawn.table.columns, drawn.table.rows[0], strict=True))
    assert (row["Area"].mean, row["Best AP"].mean) == pytest.approx(((12.0 + 12.2) / 3, (20.0 + 20.2) / 3))
    assert (row["MAC of the best"].mean, row["Detectors"].mean) == pytest.approx((60, 4 / 3))
    assert render(drawn.pictures[0]).startswith(b"\x89PNG")
    for each in some:
        each[NAMES[0]]["found"]["detectors"] = []
    everywhere = drawing("table1", [{"fronts": each} for each in some])
    assert math.isnan(everywhere.table.rows[0][4].mean)
    assert all(render(picture).startswith(b"\x89PNG") for picture in everywhere.pictures[:3])


def test_without_a_second_set_it_says_so():
    drawn = drawing("table3", [{"fronts": {}}])
    assert (drawn.table.rows, drawn.caption) == ((), "Not measured: give --second-data.")
    there = drawing("table3", [{"fronts": fronts(0)}])
    assert [picture.name.split("-")[0] for picture in there.pictures] == ["second"] * 5


def test_a_side_that_took_a_tenth_more_is_named():
    some = [fronts(0), fronts(1)]
    notes = unequal(some)
    assert len(notes) == 3
    assert all("random search took 30% more CPU time than" in note for note in notes)
    for name in NAMES:
        for each in some:
            each[name]["random"]["cpu_seconds"] = 655.0  # 9 % more
    assert unequal(some) == []
    some[0][NAMES[0]]["found"]["cpu_seconds"] = 900.0
    title = exhibits.TITLES[NAMES[0]]
    assert unequal(some)[0] == f"Unequal budget: {title} took 15% more CPU time than {title}, random search."


def test_pairs_are_ordered_and_tested_together():
    places = dict(zip(NAMES, (1, 0, 2), strict=True))
    areas = {name: [10.0 + 2 * place + 0.3 * seed * place for seed in range(4)] for name, place in places.items()}
    measured = [{"areas": {name: areas[name][seed] for name in NAMES}} for seed in range(4)]
    rows = drawing("table2", measured).table.rows
    better = [(NAMES[0], NAMES[1]), (NAMES[2], NAMES[0]), (NAMES[2], NAMES[1])]
    p_values = {}
    for (one, other), row in zip(better, rows, strict=True):
        difference = mean_interval(np.array(areas[one]) - areas[other])
        assert row[:3] == (exhibits.TITLES[one], exhibits.TITLES[other], difference)
        p_values[one, other] = difference.p_value()
    assert [row[3] for row in rows] == pytest.approx(list(p_values.values()))
    assert [row[4] for row in rows] == pytest.approx(list(holm(p_values).values()))
    assert [row[3] for row in drawing("table2", measured[:1]).table.rows] == [None] * 3


def test_nothing_that_is_published_is_an_empty_table():
    drawn = drawing("table4", [{"published": {}}, {"published": {}}])
    assert not drawn.table.rows
    assert not drawn.pictures
    assert "Nothing is published" in drawn.caption


def test_published_detectors_are_means_over_the_seeds_that_have_them():
    def each(seed: int, **more) -> dict:
        return {"AP": 20.0 + seed, "macs_mmdet": 30e6 + 1e6 * seed, "minutes": 10.0 + 2 * seed} | more

    first, second, third = NAMES
    measured = [
        {
            "published": {
                first: [each(seed, name="a", role=FOUND, macs_within=2.5e6), each(seed + 9, name="a", role=RANDOM)],
                second: [each(seed, name="b", role=STANDARD)],
                **({third: [each(seed, name="c", role=THEIRS)]} if seed < 2 else {}),
            }
        }
        for seed in range(3)
    ]
    drawn = drawing("table4", measured)
    titles = exhibits.TITLES
    rows = {(row[0], row[2]): row for row in drawn.table.rows}
    assert [rows[titles[first], FOUND][at] for at in (1, 4, 5, 6)] == ["a", 31.0, 12.0, 3]
    assert rows[titles[first], FOUND][3] == mean_interval([20.0, 21.0, 22.0])
    assert rows[titles[first], RANDOM][4] == 40.0
    assert rows[titles[third], THEIRS][3:] == (mean_interval([20.0, 21.0]), 30.5, 11.0, 2)
    (picture,) = drawn.pictures
    assert picture.data["points"][titles[first]] == [(31.0, 21.0, {"Detector": "a", "Minutes": 12.0, "Seeds": 3})]
    assert picture.data["highlighted"] == {"b": (31.0, 21.0), "c": (30.5, 20.5)}
    assert "Standard networks" in picture.data["points"]
    assert "Standard networks" not in picture.data["with_front"]
    assert drawn.notes == [f"{titles[first]}'s MAC are right to 2.5 M."]
    assert render(picture)
