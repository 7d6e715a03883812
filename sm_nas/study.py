"""One seed of the reproduction on one data set: every search and every training, made when first asked for, kept.

The exhibits ask for what they draw; runs that several exhibits need are made once.

    classification-BACKBONE   a backbone trained on object crops, in ImageNet's place
    stage-one                 the structural search, and random search with the same budget; picks C0, C1, ...
    stage-two-cN              the modular search within C0, C1, ..., and random search with the same budget
    final-NAME                a detector trained to the end: E0 to E5, a classic one, or one that was found
    STRATEGY-NAME             the same by another schedule, where sm_nas.train is asked for one
    strategy-N                a row of Table 3
    backbones                 every backbone within one structure, by stage one's schedule
    longer                    candidates of stage one once more, by the final schedule
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from common.cli import short_name
from common.plain import to_json
from common.search.executors import evaluate_all
from common.settings import Precision
from common.train.run_folder import Run
from sm_nas.method import Evaluated, Group, History, SearchSettings, Space, Structure, evolve, pick, random_search
from sm_nas.networks import input_size
from sm_nas.presets import Preset, Strategy
from sm_nas.trial import Laboratory, Trial

LATENCY, FLOPS = "latency", "macs_mmdet"
COST_OF = {"stage-one": LATENCY, "stage-two": FLOPS}
"""The second objective of each stage: milliseconds of detection; multiply-accumulates that the paper calls FLOPs."""


@dataclass(frozen=True)
class Searched:
    """A finished search and its control. pool: what was measured of each structure."""

    found: History
    random: History
    pool: Mapping[Structure, Mapping[str, Any]]

    def measured(self, structure: Structure) -> Mapping[str, Any]:
        """AP, latency and costs of a candidate."""
        return self.pool[structure]


@dataclass(frozen=True)
class _Work:
    """What a candidate goes through; plain enough to be sent to another process."""

    laboratory: Laboratory
    strategy: Strategy
    folder: Path
    cost: str

    def __call__(self, structure: Structure) -> dict[str, Any]:
        where = self.folder / "training" / slug(str(structure))
        measured = self.laboratory.train_and_measure(Trial(structure, self.strategy), where)
        return {**measured, "cost": float(measured[self.cost])}


class Study:
    """All runs of one seed.

    preset: the scale. data: as `--data` (common.data.source). seed: of weights, data order and search. out: the folder
    of all runs. device: where networks live. precision: of the forward passes of training; whatever is measured is
    measured in float32. workers: candidates trained side by side, each in a process of its own; 0: here, one by one.
    second_data: the data set that Tables 1 and 5 set beside this one.
    """

    def __init__(
        self,
        preset: Preset,
        data: str,
        seed: int,
        out: Path | str = "runs",
        device: str = "cpu",
        command: str | None = None,
        precision: Precision = "float32",
        workers: int = 0,
        second_data: str | None = None,
    ):
        self.preset, self.data, self.seed, self.device, self.command = preset, data, seed, device, command
        self.precision, self.workers, self.second_data, self.out = precision, workers, second_data, Path(out)
        self.folder = self.out / "sm_nas" / f"{short_name(data)}-{preset.name}"
        self.laboratory = Laboratory(preset, data, seed, self.folder, device, precision)

    def on(self, data: str) -> "Study":
        """The study of the same seed on another data set."""
        return Study(self.preset, data, self.seed, self.out, self.device, self.command, self.precision, self.workers)

    # ---- runs

    def open(self, what: str, **settings: Any) -> Run:
        """The run folder of `what`. Its config: what its numbers depend on; the rest of the preset goes by its name."""
        config = {
            "paper": "sm_nas",
            "what": what,
            "data": self.data,
            "training_set": self.laboratory.training_set.fingerprint(),
            "images_an_epoch": self.laboratory.images_an_epoch,
            "seed": self.seed,
            "precision": self.precision,
            "device": self.device,
            "detector": asdict(self.preset.detector),
            "augmentation": asdict(self.preset.augmentation),
            "search_images": self.preset.search_images,
            **settings,
        }
        return Run.open(self._folder(what), config, self.command)

    def _folder(self, what: str) -> Path:
        return self.folder / f"{what}-s{self.seed}"

    # ---- searches

    def _searched(
        self,
        what: str,
        space: Space,
        described: Mapping[str, Any],
        settings: SearchSettings,
        strategy: Strategy,
        cost: str,
        known_cost: Callable[[Structure], float] | None = None,
        start: Sequence[Structure] = (),
    ) -> Searched:
        """A search and its control over one pool of trained candidates: whatever both propose is trained once."""
        run = self.open(what, space=described, search=asdict(settings), strategy=asdict(strategy), cost=cost)
        work = _Work(self.laboratory, strategy, run.path, cost)

        def evaluate(structures: Sequence[Structure]) -> Iterator[Mapping[str, Any]]:
            return evaluate_all(work, structures, run, str, self.workers, label=f"{what}, seed {self.seed}")

        found = evolve(space, settings, evaluate, self.seed, known_cost, start)
        control = random_search(space, settings, evaluate, self.seed, start)
        pool = {Structure.parse(record["key"]): record for record in run.candidates()}
        if run.result is None:
            front = [str(each.structure) for each in found.front()]
            run.finish({"found": _plain(found), "random": _plain(control), "front": front})
        return Searched(found, control, pool)

    @cached_property
    def stage_one(self) -> Searched:
        """The structural search: detection's latency against AP."""
        preset = self.preset
        for backbone in preset.structural.backbones:  # here, once, rather than in every process that wants them
            self.laboratory.pretrain(backbone)
        described = asdict(preset.structural) | {"count": preset.structural.count()}
        return self._searched(
            "stage-one", preset.structural, described, preset.stage_one, preset.stage_one_training, LATENCY
        )

    @property
    def picks(self) -> list[Evaluated]:
        """C0, C1, ...: the structures that stage two goes on with."""
        return pick(self.stage_one.found.front(), self.preset.groups)

    def stage_two(self, group: int) -> Searched:
        """The modular search within C`group`: FLOPs against AP, trained from scratch."""
        if group not in self._groups:
            preset, structure = self.preset, self.picks[group].structure
            described = asdict(preset.modular) | {"count": preset.modular.count(), "structure": str(structure)}
            bound = Group(preset.modular, structure)
            self._groups[group] = self._searched(
                f"stage-two-c{group}",
                bound,
                described,
                preset.stage_two,
                preset.stage_two_training,
                FLOPS,
                self.flops,
                (bound.start(),),
            )
        return self._groups[group]

    @cached_property
    def _groups(self) -> dict[int, Searched]:
        return {}

    def flops(self, structure: Structure) -> float:
        """What a candidate of stage two costs, without training it."""
        return float(self.laboratory.describe(structure)[FLOPS])

    def found(self) -> dict[str, Structure]:
        """The networks that both stages found, as F0, F1, ...: of each group the most accurate one on its front that
        costs no more FLOPs than its structure of stage one did; the cheapest on the front where none is that cheap."""
        chosen = {}
        for group, picked in enumerate(self.picks):
            searched = self.stage_two(group).found
            front = searched.front() or searched.evaluated[:1]  # all failed: what the group began with
            budget = self.flops(picked.structure)
            affordable = [each for each in front if each.cost <= budget] or front[:1]
            chosen[f"F{group}"] = max(affordable, key=lambda each: each.accuracy).structure
        return chosen

    # ---- trainings

    def final(self, name: str, structure: Structure) -> dict[str, Any]:
        """A detector trained by the final schedule: its 12 COCO numbers on the validation images, latency and costs."""
        return self.trained(f"final-{slug(name)}", structure, self.preset.final_training)

    def finals(self, exhibit: str, structures: Mapping[str, Structure]) -> dict[str, dict[str, Any]]:
        """Detectors as `final` has them that an exhibit compares, by their names; timed in turn, for between their
        trainings lie hours, in which a machine may change its pace."""
        strategy, finals = self.preset.final_training, {n: self.final(n, each) for n, each in structures.items()}
        asked = {slug(name): str(structure) for name, structure in structures.items()}
        with self.open(f"latencies-{exhibit}", detectors=asked, strategy=asdict(strategy)) as run:
            if run.result is None:
                folders = {name: self._folder(f"final-{slug(name)}") for name in structures}
                networks = {
                    name: (self.laboratory.finished(folders[name], strategy.norm)[1], input_size(structure))
                    for name, structure in structures.items()
                }
                run.finish(self.laboratory.latencies_in_turn(networks, "validation"))
            return {name: final | {LATENCY: run.result[name][LATENCY]} for name, final in finals.items()}

    def strategy(self, row: int) -> dict[str, Any]:
        """A row of Table 3."""
        return self.trained(f"strategy-{row}", self.preset.strategy_model, self.preset.strategies[row])

    def trained(self, what: str, structure: Structure, strategy: Strategy) -> dict[str, Any]:
        """A detector trained by any strategy, in a run folder of its own; see `final`."""
        with self.open(what, structure=str(structure), strategy=asdict(strategy)) as run:
            if run.result is None:
                trial = Trial(structure, strategy, "validation")
                network, report = self.laboratory.train(run, "detector", trial)
                measured = self.laboratory.measure(network, trial) | self.laboratory.describe(structure)
                spent = {"seconds": report.seconds, "cpu_seconds": report.cpu_seconds, "losses": report.losses}
                run.finish({"structure": str(structure), **measured, **spent})
            return run.result

    @cached_property
    def backbones(self) -> dict[str, dict[str, Any]]:
        """Every backbone of stage one's space within the structure that Table 3 trains, as stage one trains it."""
        preset = self.preset
        structures = [replace(preset.strategy_model, backbone=name) for name in preset.structural.backbones]
        run = self.open("backbones", strategy=asdict(preset.stage_one_training), structures=list(map(str, structures)))
        work = _Work(self.laboratory, preset.stage_one_training, run.path, LATENCY)
        records = list(evaluate_all(work, structures, run, str, self.workers, label=f"backbones, seed {self.seed}"))
        if run.result is None:
            run.finish({"candidates": len(records)})
        return dict(zip(preset.structural.backbones, records, strict=True))

    @cached_property
    def longer(self) -> list[dict[str, Any]]:
        """Candidates of stage one with AP after its short training and after the final schedule, on the same images."""
        preset, random = self.preset, self.stage_one.random.evaluated
        order = np.random.default_rng([self.seed, 8]).permutation(len(random))[: preset.longer_candidates]
        structures = [random[place].structure for place in sorted(order)]
        run = self.open("longer", strategy=asdict(preset.final_training), structures=[str(s) for s in structures])
        work = _Work(self.laboratory, preset.final_training, run.path, LATENCY)
        records = list(evaluate_all(work, structures, run, str, self.workers, label=f"longer, seed {self.seed}"))
        if run.result is None:
            run.finish({"candidates": len(records)})
        short = [self.stage_one.measured(structure).get("AP") for structure in structures]
        return [
            {"structure": str(structure), "short": ap, "long": record.get("AP")}
            for structure, ap, record in zip(structures, short, records, strict=True)
        ]


def slug(name: str) -> str:
    """A name as it stands in file names: "FPN R50" is fpn-r50."""
    return name.lower().replace(" ", "-").replace("_", "-")


def _plain(history: History) -> dict[str, Any]:
    """A history as JSON."""

    def text(record: Any) -> dict[str, Any]:
        return {key: str(value) if isinstance(value, Structure) else value for key, value in vars(record).items()}

    return to_json({"evaluated": list(map(text, history.evaluated)), "skipped": list(map(text, history.skipped))})
