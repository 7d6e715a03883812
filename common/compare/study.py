"""One seed of the comparison: what every method finds in its budget, and what random search finds in the same."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from common.compare.exhibits import front_area
from common.compare.measure import Record, key_of, measured
from common.compare.methods import front_of, methods, study_of
from common.compare.presets import Options
from common.data.source import load
from common.plain import InputError, read_json
from common.study import Recording, spent_by
from common.train.loop import TrainingError
from common.train.run_folder import Run


@dataclass(frozen=True)
class Side:
    """A front that was found: its detectors; what they took, and what is not counted; the runs that they rest on.

    failed: why it has no detectors, where a training failed.
    """

    files: tuple[Path, ...]
    spent: dict[str, float]
    uncounted: dict[str, float]
    runs: tuple[str, ...]
    failed: str | None = None


class Comparison(Recording):
    """All methods on one data set, for one seed; see `common.compare.methods` for what each of them offers."""

    def __init__(self, options: Options, seed: int = 0, command: str = ""):
        self.options, self.seed, self.command = options, seed, command
        if not options.seconds > 0:
            raise InputError(f"--budget must be above 0 seconds, got {options.seconds:g}")
        self.folder = options.out / "compare" / options.run_folder
        self._sides: dict[tuple[str, bool], Side] = {}
        self._recorders: list[dict[str, None]] = []

    @cached_property
    def studies(self) -> dict[str, Any]:
        """Each method's own study."""
        return {name: study_of(name, self.options, self.seed, self.command) for name in methods()}

    @property
    def device(self) -> str:
        """Where all networks live."""
        return next(iter(self.studies.values())).device

    def on(self, data: str) -> "Comparison":
        """The comparison of the same seed on another data set; what it uses counts as used here."""
        other = Comparison(replace(self.options, data=data), self.seed, self.command)
        other._recorders = self._recorders
        return other

    def side(self, method: str, random: bool) -> Side:
        """What a method finds in the budget, or random search in its space."""
        if (method, random) not in self._sides:
            study, hook = self.studies[method], front_of(method)
            with study.recording() as used:
                try:
                    files, failed = tuple(hook.front(study, self.options.seconds, random)), None
                except TrainingError as error:  # of this side alone: the others are compared all the same
                    files, failed = (), f"a training failed, which counts as an area of 0 ({error})"
            if not files and failed is None:
                raise InputError(f"{method} found no detector in {self.options.seconds:g} s: give a larger --budget")
            folders = {study.folder.name, study.pretraining_folder.name}
            begin = tuple(f"{folder}/{each}" for folder in folders for each in hook.UNCOUNTED)
            apart = {name: name.startswith(begin) for name in used}
            parent = study.folder.parent
            spent, uncounted = (
                spent_by(parent, [name for name in used if apart[name] is kind]) for kind in (False, True)
            )
            searches = (Run.read(parent / name).result for name in used if not apart[name])
            spent["cpu_seconds"] += sum((result or {}).get("search_seconds") or 0 for result in searches)
            runs = tuple(f"../{parent.name}/{name}" for name in used)
            self._sides[method, random] = Side(files, spent, uncounted, runs, failed)
        side = self._sides[method, random]
        for recorder in self._recorders:
            recorder |= dict.fromkeys(side.runs)
        return side

    def selects(self, method: str) -> int:
        """About how many candidates of a method selection decides; see `common.compare.methods`."""
        decided = getattr(front_of(method), "selects", None)
        return 1 if decided is None else decided(self.studies[method], self.options.seconds)

    @cached_property
    def detectors(self) -> dict[tuple[str, bool], list[Record]]:
        """What is known of the detectors of every front, all of them timed in turn.

        Those whose boxes are not finite are left out: as they would with an AP of 0, they add nothing to an area.
        """
        sides = {(method, random): self.side(method, random) for method in methods() for random in (False, True)}
        files = [file for side in sides.values() for file in side.files]
        dataset = load(self.options.data, "val", limit=self.options.preset.validation_images)
        records, problems = measured(
            files, dataset, self.folder / f"detectors-s{self.seed}", self.options.preset, self.device
        )
        for problem in problems:
            if isinstance(problem, InputError):  # a fault of the files, not of the network
                raise problem
        by_key = {record["key"]: record for record in records}
        keys = {name: [key_of(read_json(file)) for file in side.files] for name, side in sides.items()}
        return {name: [by_key[key] for key in some if key in by_key] for name, some in keys.items()}

    def area(self, method: str, random: bool) -> float:
        """See `common.compare.exhibits.front_area`."""
        self.side(method, random)
        found = self.detectors[method, random]
        return front_area([each["macs"] for each in found], [each["AP"] for each in found], self.options.preset.box)
