"""A made-up paper, ToyNAS: two exhibits and three claims on numbers made up from the seed, without network or data."""

import shutil
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from common.cli import StudyOptions
from common.plain import InputError, read_json_if_there, write_json
from common.report.claims import Claim, Condition
from common.report.exhibit import Drawn, Exhibit, Picture, over_seeds, stacked, triple
from common.report.reproduce import Paper, ReproduceOptions, reproduce
from common.report.tables import Table

PRINTED = {
    "title": "ToyNAS: A Paper that Nobody Wrote",
    "authors": "Nobody",
    "exhibits": {
        "figure1": {"printed": None, "readable": "the curves rise."},
        "table2": {
            "printed": {"columns": ["Method", "AP"], "rows": [["toy", 40.1]]},
            "units": {"AP": "percent"},
            "notes": ["Theirs is of another data set."],
        },
    },
}
MACHINE = {"git_commit": "abc123", "cpu": "An abacus", "cores": 2, "gpus": [], "command": "typed", "time": "noon"}


@dataclass(frozen=True)
class ToyPreset:
    epochs: int = 1
    """Rounds of nothing."""


@dataclass(frozen=True, kw_only=True)
class ToyOptions(ReproduceOptions, StudyOptions):
    """Reproduce a paper that nobody wrote."""

    PRESETS: ClassVar[Mapping[str, Any]] = {"smoke": ToyPreset(1), "nano": ToyPreset(12)}
    scale: str = "smoke"
    preset: ToyPreset = ToyPreset(1)
    second_data: str | None = None
    """Where what was found is trained again."""
    base: Path | None = None
    """A file to begin with."""
    shares: tuple[float, ...] = ()
    """Shares of nothing."""


class ToyStudy:
    """Writes a run folder for every net that is not there yet, and its name into `trained`."""

    device = "cpu"

    def __init__(self, options: ToyOptions, seed: int, command: str, trained: list[str]) -> None:
        self.options, self.seed, self.command, self.trained = options, seed, command, trained
        self.folder = options.out / "toynas" / options.run_folder
        self.recorders: list[dict[str, None]] = []

    @contextmanager
    def recording(self):
        used: dict[str, None] = {}
        self.recorders.append(used)
        try:
            yield used
        finally:
            self.recorders.pop()

    def net(self, what: str) -> float:
        """AP of a net: 40 + the seed, and 2 + .1 x the seed more for ours."""
        name = f"{what}-s{self.seed}"
        result = read_json_if_there(self.folder / name / "result.json")
        if result is None:
            self.trained.append(name)
            result = {"seconds": 90.0, "AP": 40.0 + self.seed + (what == "ours") * (2 + 0.1 * self.seed)}
            write_json(self.folder / name / "config.json", {})
            write_json(self.folder / name / "environment.json", MACHINE | {"command": self.command})
            write_json(self.folder / name / "result.json", result)
        for recorder in self.recorders:
            recorder[f"{self.folder.name}/{name}"] = None
        return result["AP"]


def measure_gain(study: ToyStudy) -> dict:
    ours, theirs = study.net("ours"), study.net("theirs")
    missing = {"Another net": "it diverged"} if study.seed == 2 else {}
    evidence = {"gain": ours - theirs, "ours": lambda: study.net("ours"), "extra": lambda: study.net("extra")}
    return {"AP": {"ours": ours, "theirs": theirs}, "evidence": evidence, "missing": missing}


def draw_gain(measured, setting) -> Drawn:
    means = {name: over_seeds(stacked(measured, "AP", name)) for name in ("ours", "theirs")}
    bars = {f"{setting.preset['epochs']} epochs": {name: triple(mean) for name, mean in means.items()}}
    picture = Picture("figure1", "bars", {"groups": bars, "value_label": "AP (points)"})
    rows = [[name, mean] for name, mean in means.items()]
    return Drawn(Table(["Method", "AP"], rows), "AP of both.", ["Ours is first."], {"AP": "points"}, [picture])


def measure_first_seed_only(study: ToyStudy) -> dict:
    if study.seed == 1:
        raise InputError("there is no table for seed 1")
    return {"AP": study.net("ours"), "evidence": {"table": 1.0}}


def draw_table(measured, setting) -> Drawn:
    return Drawn(Table(["Method", "AP"], [["toy", over_seeds(stacked(measured, "AP"))]]), "AP of ours.")


def claim(number: int, name: str, threshold: float, exhibits: tuple[str, ...] = ()) -> Claim:
    condition = Condition(name, lambda evidence: evidence[name], threshold=threshold, unit="AP", effect=0.5)
    return Claim(f"T-{number}", "Figure 1", f"{name} is large", (condition,), "+2", exhibits, seeds=2)


def describe(study: ToyStudy) -> str:
    if study.options.data == "coco:absent":
        raise InputError("no folder absent")
    return "8 toys"


@pytest.fixture(autouse=True, scope="module")
def _equal_pictures_are_drawn_once(drawn_once):
    """Into files; test_figures.py draws its own, and sees that equal ones are equal to the byte."""


def toy_below(root: Path) -> SimpleNamespace:
    """The paper; its options, with all folders below `root`; and `trained`, the nets trained so far."""
    trained: list[str] = []
    write_json(root / "toynas" / "printed.json", PRINTED)
    titled = ("figure1", "Two nets", "AP of two", measure_gain, draw_gain)
    alone = ("table2", "One net", "AP of one", measure_first_seed_only, draw_table)
    paper = Paper(
        name="toynas",
        title="ToyNAS",
        folder=root / "toynas",
        exhibits=(
            Exhibit(*titled, (claim(10, "ours", 1.0), claim(2, "gain", 3))),
            Exhibit(*alone, (claim(3, "table", 0.0, ("figure1",)),)),
        ),
        study=lambda options, seed, command: ToyStudy(options, seed, command, trained),
        describe=describe,
    )

    def options(**given) -> ToyOptions:
        return ToyOptions(**({"out": root / "runs", "results": root / "results"} | given))

    return SimpleNamespace(paper=paper, options=options, Options=ToyOptions, trained=trained, root=root)


@pytest.fixture
def toy(tmp_path) -> SimpleNamespace:
    """See `toy_below`, in a temporary folder."""
    return toy_below(tmp_path)


@pytest.fixture(scope="session")
def _reproduced(tmp_path_factory) -> Path:
    toy = toy_below(tmp_path_factory.mktemp("reproduced"))
    reproduce(toy.paper, toy.options(only=("table2",)))
    reproduce(toy.paper, toy.options(seeds=2, only=("figure1",), publish=True))
    return toy.root


@pytest.fixture
def runs(toy, _reproduced) -> Path:
    """Runs of the paper: two seeds of the figure, one of the table; all is published beside them."""
    shutil.copytree(_reproduced, toy.root, dirs_exist_ok=True)
    return toy.root / "runs"


@pytest.fixture
def folder(toy) -> Path:
    """Where the paper's runs of the smoke scale lie."""
    return toy.root / "runs" / "toynas" / "scenes-smoke"
