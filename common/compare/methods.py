"""The methods that are compared: every paper whose package has a front.py.

That module offers, and nothing else is asked of it, `selects` only where it may be 0:

    front(study, seconds, random)   detectors with cards (their JSON files), found in so many CPU seconds of search and
                                    training; or, where random, by random search in the same space
    selects(study, seconds)         about how many candidates selection decides in so many CPU seconds: without one, the
                                    method and its random search are the same
    UNCOUNTED                       how the names of those runs of the given study begin that are not counted:
                                    pre-training, and the pace that the budget is planned by
    role(run)                       what a detector of a run of that name is: one of ROLES
    published(study, known)         detectors that the paper's own reproduction has published of a seed, as
                                    `common.compare.published` has them; may be left out
    PRINTED                         cost ("macs_mmdet" or "latency") -> exhibit of printed.json whose rows are points of
                                    AP against it, columns that name them, column of the cost, its unit, column of AP
"""

import importlib
import sys
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from common.compare.presets import Options
from common.plain import InputError
from common.report.readme import papers
from common.report.reproduce import Paper

_Study = TypeVar("_Study")

_ROOT = Path(__file__).resolve().parents[2]
ROLES = FOUND, RANDOM, STANDARD = "found", "random search", "standard network"
THEIRS = "found by the paper"
"""What a published detector may be besides: the paper's search is behind it, and none of ours."""


@cache
def methods() -> dict[str, Paper]:
    """Each method's paper by the name of its package: of this repository, and of whatever else can be imported."""
    folders = [folder for place in dict.fromkeys([_ROOT, *map(Path, sys.path)]) for folder in papers(place)]
    names = dict.fromkeys(folder.name for folder in folders if (folder / "front.py").is_file())
    return {name: importlib.import_module(f"{name}.exhibits").PAPER for name in names}


def front_of(name: str) -> ModuleType:
    """A method's front.py, which imports what trains."""
    return importlib.import_module(f"{name}.front")


def study_of(name: str, options: Options, seed: int, command: str) -> Any:
    """A method's own study at the same scale, on the same data and device as the comparison, images held out alike."""
    presets = importlib.import_module(f"{name}.presets")
    kind = getattr(presets, "SearchOptions", presets.Options)  # where searches have flags of their own
    if options.scale not in kind.PRESETS:
        raise InputError(f"{name} has no scale {options.scale}: give one of {', '.join(kind.PRESETS)}")
    own = {item.name for item in fields(kind)} - {"preset"}
    shared = {item.name: getattr(options, item.name) for item in fields(options) if item.name in own}
    preset, held_out = kind.PRESETS[options.scale], options.preset.held_out_images
    if held_out is not None:
        preset = replace(preset, search_images=held_out)
    return methods()[name].study(kind(**shared, preset=preset), seed, command)


class OnPretraining:
    """Mixed into a study with standard backbones, these are those that `whole` has trained on classification."""

    whole: Any

    def pretrained(self, backbone: str) -> Mapping[str, Any]:
        return self.whole.pretrained(backbone)

    def run_path(self, what: str, shared: bool = False) -> Path:
        return (self.whole if what.startswith("classification") else super()).run_path(what, shared)


def budgeted(kind: type[_Study], whole: _Study, preset: Any) -> _Study:
    """A study of the same seed by another preset, in a run folder of its own; what it uses counts as used by `whole`.

    kind: its class, which takes what is trained once from its attribute `whole`.
    """
    study = kind(replace(whole.options, preset=preset), whole.seed, whole.command)
    study.whole, study._recorders = whole, whole._recorders
    return study


def scaled(count: float, share: float, least: int = 1) -> int:
    """So much of a number of epochs or candidates as a budget allows."""
    return max(least, round(share * count))


def printed_points(name: str) -> dict[str, dict[str, tuple[float, float]]]:
    """Cost -> what a method's paper prints, by name: the cost and AP in points."""
    from common.report.exhibit import printed, printed_table

    exhibits, points = printed(methods()[name].folder)["exhibits"], {}
    for cost, (exhibit, labels, column, unit, ap) in front_of(name).PRINTED.items():
        table = printed_table(exhibits, exhibit)
        rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
        points[cost] = {
            " ".join(row[label] for label in labels): (row[column] * unit, float(row[ap]))
            for row in rows
            if row[column] is not None and row[ap] is not None
        }
    return points


def by_label(records: list[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Records of detectors by what pictures call them: a method's, its random search's, its paper's, standard ones."""
    titles = {name: paper.title for name, paper in methods().items()}
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        title = titles.get(record["paper"], record["paper"] or "Others")
        named = {FOUND: title, RANDOM: f"{title}, random search", THEIRS: f"{title}, the paper's networks"}
        groups.setdefault(named.get(record["role"], "Standard networks"), []).append(record)
    return dict(sorted(groups.items()))
