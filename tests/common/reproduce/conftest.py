"""An invented paper: two exhibits on numbers that are made up from the seed, without network or data."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.plain import InputError, write_json
from common.report.claims import Claim
from common.report.statistics import mean_interval
from common.report.tables import Table
from common.reproduce.exhibit import Drawn, Exhibit, over_seeds, stacked
from common.reproduce.paper import Paper, ReproduceOptions, run_folder, second_folder
from common.train.run_folder import Run

PRINTED = {
    "exhibits": {
        "figure1": {"printed": None, "readable": "the curves rise."},
        "table2": {
            "printed": {"columns": ["Method", "AP"], "rows": [["toy", 40.1]]},
            "notes": ["Theirs is of another data set."],
        },
    }
}


@dataclass(frozen=True)
class ToyOptions(ReproduceOptions):
    """Reproduce a paper that nobody wrote."""

    second_data: str | None = None
    """Where what was found is trained again."""
    rounds: int = 2
    """Rounds of nothing."""
    shares: tuple[float, ...] = ()
    """Shares of nothing."""
    quick: bool = False
    """Do nothing sooner."""
    no_data: bool = False
    """Find that the data is not there."""


@dataclass(frozen=True)
class ToyPreset:
    epochs: int


PRESETS = {"smoke": ToyPreset(1), "paper": ToyPreset(12)}


@dataclass(frozen=True)
class ToySetting:
    folder: Path
    epochs: int


@dataclass
class ToyStudy:
    """`trained` gets a line for every net that is not taken from its run folder."""

    options: ToyOptions
    seed: int
    folder: Path
    command: str
    trained: list[str]
    second: Path | None = None

    def net(self, what: str, folder: Path | None = None) -> float:
        name = f"{what}-s{self.seed}"
        with Run.open((folder or self.folder) / name, {"what": what, "seed": self.seed}, self.command) as run:
            if run.result is None:
                self.trained.append(name)
                run.finish({"seconds": 90.0, "AP": 40.0 + self.seed + (what == "ours") * (2 + 0.1 * self.seed)})
            return run.result["AP"]


def measure_gain(study: ToyStudy) -> dict:
    ours, theirs = study.net("ours"), study.net("theirs")
    if study.second is not None:
        study.net("ours", study.second)
    return {"ours": ours, "theirs": theirs, "evidence": {"gain": ours - theirs}}


def draw_gain(measured, setting: ToySetting) -> Drawn:
    picture = setting.folder / "figure1.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_bytes(f"{setting.epochs} epochs".encode())
    rows = [[name, over_seeds(stacked(measured, name))] for name in ("ours", "theirs")]
    return Drawn(Table(["Method", "AP"], rows), "AP of both.", ["Ours is first."], {"AP": "points"}, [picture])


def measure_one_seed_only(study: ToyStudy) -> dict:
    if study.seed == 1:
        raise InputError("there is no table for seed 1")
    return {"AP": study.net("ours"), "evidence": {"table": 1.0}}


def draw_table(measured, setting: ToySetting) -> Drawn:
    return Drawn(Table(["Method", "AP"], [["toy", over_seeds(stacked(measured, "AP"))]]), "AP of ours.")


EXHIBITS = {
    exhibit.name: exhibit
    for exhibit in (
        Exhibit(
            *("figure1", "Figure 1", "Two nets", "AP of two", measure_gain, draw_gain),
            runs=("ours", "theirs"),
            second_runs=("ours",),
        ),
        Exhibit("table2", "Table 2", "One net", "AP of one", measure_one_seed_only, draw_table, runs=("ours",)),
    )
}


def _claim(name: str, value: str, threshold: float) -> Claim:
    def measure(evidence):
        return mean_interval(evidence[value])

    return Claim(
        name, "toynas", "Figure 1", f"{value} is large", None, f"above {threshold}", measure, "above", threshold
    )


CLAIMS = (_claim("T-1", "gain", 1.0), _claim("T-2", "gain", 3.0), _claim("T-3", "table", 0.0))


def _preset(scale: str) -> ToyPreset:
    if scale not in PRESETS:
        raise InputError(f"unknown scale {scale!r}")
    return PRESETS[scale]


def _describe(study: ToyStudy) -> str:
    if study.options.no_data:
        raise InputError("no folder toys")
    return "8 toys"


@pytest.fixture
def toy(tmp_path, monkeypatch) -> SimpleNamespace:
    """The paper; its options, with all folders below a temporary one; and `trained`, the nets trained so far."""
    write_json(tmp_path / "printed" / "toynas.json", PRINTED)
    monkeypatch.setattr("common.report.tables.PRINTED", tmp_path / "printed")
    trained: list[str] = []
    paper = Paper(
        name="toynas",
        title="ToyNAS",
        exhibits=EXHIBITS,
        claims=CLAIMS,
        preset=_preset,
        study=lambda options, seed, command: ToyStudy(
            *(options, seed, run_folder(paper, options), command, trained), second_folder(paper, options)
        ),
        describe=_describe,
        setting=lambda options, folder: ToySetting(folder, _preset(options.scale).epochs),
        second_data=lambda options: options.second_data,
        seconds=lambda what, preset: 60.0 if preset.epochs == 1 else None,
    )

    def options(**given) -> ToyOptions:
        return ToyOptions(**({"out": tmp_path / "runs", "results": tmp_path / "results"} | given))

    return SimpleNamespace(paper=paper, options=options, Options=ToyOptions, trained=trained)
