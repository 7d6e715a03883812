"""One seed of SM-NAS on one data set: every search and every training, made when first asked for and kept.

classification-BACKBONE   a backbone trained on object crops, in ImageNet's place
stage-one                 the structural search, and random search with the same budget; picks C0, C1, ...
stage-two-cN              the modular search within C0, C1, ..., and random search with the same budget
stage-two-cN-skipped      the candidates that partial order pruning skipped there, trained all the same
final-NAME                a detector trained to the end: E0 to E5, a classic one, or one that was found
latencies-EXHIBIT         the detectors that an exhibit compares, timed in turn
strategy-N                a row of Table 3
STRATEGY-NAME             a detector by another schedule, where sm_nas.train is asked for one
backbones                 every backbone within one structure, by stage one's schedule
short                     the named detectors by stage one's schedule
plateau-NAME-xN           detectors by parts and multiples of the final schedule
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from common.batch import Batch
from common.models.retinanet import RetinaNet
from common.plain import InputError, to_json
from common.search.executors import evaluate_all
from common.study import BackboneStudy, remove_folder, slug, spent
from common.train.loop import FitReport, Step, fit
from common.train.run_folder import Run
from sm_nas import method, networks
from sm_nas.encoding import Structure
from sm_nas.method import FLOPS, LATENCY, Evaluated, History, Skipped, Stage, Strategy, TrainedNorm


@dataclass(frozen=True)
class Searched:
    """A finished search and its control. pool: what was measured of each structure."""

    found: History
    random: History
    pool: Mapping[Structure, Mapping[str, Any]]


class SMNAS(BackboneStudy):
    """All runs of one seed; see the module."""

    paper = "sm_nas"

    # ---- networks

    @property
    def backbone_width(self) -> int:
        """Channels of the first stage of a standard backbone."""
        return self.preset.detector.width

    @property
    def pretrained_by_seed(self) -> bool:
        return self.preset.pretraining_by_seed

    def backbone(self, name: str) -> nn.Module:
        """A fresh backbone, standard or searched."""
        return networks.build_backbone(name, self.preset.detector)

    def detector(self, structure: Structure, norm: TrainedNorm = "batch") -> nn.Module:
        """A fresh detector, drawn by the seed."""
        torch.manual_seed(self.seed)
        return self.placed(networks.build_detector(structure, len(self.categories), self.preset.detector, norm))

    def describe(self, structure: Structure) -> dict[str, Any]:
        """What a structure costs, without training it; see `sm_nas.networks.describe`."""
        return networks.describe(structure, len(self.categories), self.preset.detector)

    def flops(self, structure: Structure) -> float:
        """The second objective of stage two."""
        return float(self.describe(structure)[FLOPS])

    # ---- one detector

    def train(self, run: Run, structure: Structure, strategy: Strategy) -> tuple[nn.Module, FitReport]:
        """The detector of a structure, trained in a run folder as its stage "detector"."""
        network = self.detector(structure, strategy.norm)
        if not strategy.zero_init:
            networks.wake(network)
        if strategy.pretrained:
            load_backbone(network, self.pretrained(structure.backbone))
        if strategy.frozen_stages is not None:
            networks.freeze(network, strategy.frozen_stages)
        batches = self.training_batches(structure.input_size, strategy.batch_size)
        losses_of_network = networks.losses_of(network)

        def losses(batch: Batch, _: Step):
            parts = list(in_parts(batch, strategy.images_a_device))
            for part in parts:
                values = losses_of_network(network(part.images), part)
                yield values | {"loss": values["loss"] / len(parts)}

        optimisation = strategy.optimisation
        if isinstance(network, RetinaNet):
            rate = self.preset.detector.retinanet_rate * optimisation.learning_rate
            optimisation = replace(optimisation, learning_rate=rate)
        return network, fit(run, "detector", network, batches, losses, self.training(optimisation))

    def measure(self, network: nn.Module, structure: Structure, where: str) -> dict[str, Any]:
        """The 12 COCO numbers, latency and costs, on one of `sets`."""
        size = structure.input_size
        return {
            **self.precision_at(network, size, where, per_class=True),
            **self.latency_at(network, size, where),
            **self.describe(structure),
        }

    def train_and_measure(
        self, structure: Structure, strategy: Strategy, folder: Path, keep: bool = False
    ) -> dict[str, Any]:
        """A candidate of a search: AP on held-out training images, costs, seconds of training.

        folder: of its training, for as long as it takes: one that was broken off goes on. keep: the weights stay there,
        to be timed; else what was measured is all that stays.
        """
        config = {"structure": str(structure), "strategy": strategy, "seed": self.seed}
        with Run.open(folder, config | {"precision": self.precision}) as run:
            network, report = self.train(run, structure, strategy)
            precision = self.precision_at(network, structure.input_size, "search")
        if not keep:
            remove_folder(folder)
        return {
            **precision,
            **self.describe(structure),
            "samples": report.samples,
            "train_seconds": report.seconds,
            "train_cpu_seconds": report.cpu_seconds,
            "losses": report.losses,
        }

    # ---- searches

    def searched(self, stage: Stage) -> Searched:
        """A stage's search and its control over one pool of trained candidates: what both propose is trained once."""

        def make(run: Run) -> dict[str, Any]:
            # Here, once, rather than in every process that wants them.
            self._pretrain_for(stage.strategy, self.preset.structural.backbones)
            evaluate = partial(self._candidates, run, stage.strategy, stage.cost)
            known = self.flops if stage.cost == FLOPS else None
            seed = (self.seed, stage.number)
            found = method.evolve(stage.space, stage.search, evaluate, seed, known, stage.start)
            control = method.random_search(stage.space, stage.search, evaluate, seed, stage.start)
            front = [str(each.structure) for each in found.front()]
            return {"found": _plain(found), "random": _plain(control), "front": front}

        replayed = {} if self.options.latencies is None else {"latencies": "recorded"}
        result = self.once(stage.name, make, start=list(map(str, stage.start)), **replayed)
        records = Run.read(self.run_path(stage.name)).candidates()
        pool = {Structure.parse(record["key"]): record for record in records}
        return Searched(_restored(result["found"]), _restored(result["random"]), pool)

    def _candidates(
        self, run: Run, strategy: Strategy, cost: str, structures: Sequence[Structure]
    ) -> Iterator[dict[str, Any]]:
        """Candidates of a run, trained and measured, recorded as soon as known.

        cost: LATENCY or FLOPS. Where it is the latency, all are first trained, and then timed, by this process alone.
        """
        work = partial(_candidate, self, strategy, run.path, cost == LATENCY)
        files = partial(self._read_and_left, run)
        records = evaluate_all(work, structures, run, str, self.options, label=run.path.name, files=files)
        for record in self._timed(run, strategy, list(records)) if cost == LATENCY else records:
            yield record | {"cost": float(record[cost])} if cost in record else record

    def _read_and_left(self, run: Run, structure: Structure) -> tuple[list[Path], list[Path]]:
        """Files of a candidate: the pre-trained backbone, and the weights that it is timed with."""
        pretrained = self.run_path(f"classification-{slug(structure.backbone)}")
        return [pretrained] if pretrained.is_dir() else [], [run.path / "training" / slug(str(structure))]

    def _timed(self, run: Run, strategy: Strategy, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Records with the latencies of those that have none yet, which are taken in turn.

        Hours lie between generations. So a detector of random weights is timed along with each, and latencies are those
        of a machine as fast as it was for the run's first generation. What timing took, all of it together, is divided
        among their CPU seconds.
        """
        names = [record["key"] for record in records if record["status"] == "done" and LATENCY not in record]
        if names and self.options.latencies is not None:
            there = Run.read(self.options.latencies / run.path.name)
            for name in names:
                known = there.candidate_named(name) or {}
                if LATENCY not in known:
                    raise InputError(f"{there.path} has no latency of {name}: give the runs of the very same search")
                kept = (LATENCY, "latency_iqr", "rounds", "latency_of", "reference")
                timed = {key: known[key] for key in kept if key in known}
                run.candidate(**run.candidate_named(name), **timed)
        elif names:
            reference = self.preset.strategy_model
            detectors = {"reference": (self.detector(reference), reference.input_size)}
            for name in names:
                structure, folder = Structure.parse(name), run.path / "training" / slug(name)
                if not folder.is_dir():  # lost since it was trained
                    self.train_and_measure(structure, strategy, folder, keep=True)
                network = self.detector(structure, strategy.norm)
                network.load_state_dict(Run.read(folder).load_weights("detector")[0])
                detectors[name] = network, structure.input_size
            began = time.process_time()
            timed = self.latencies_in_turn(detectors, "search")
            took = (time.process_time() - began) / len(names)
            now = timed.pop("reference")[LATENCY]
            first = next((each["reference"] for each in run.candidates() if "reference" in each), now)
            for name, each in timed.items():
                known = run.candidate_named(name)
                spent_on = (known.get("cpu_seconds") or known["train_cpu_seconds"]) + took
                scaled = {key: each[key] * first / now for key in (LATENCY, "latency_iqr")}
                run.candidate(**known | each | scaled | {"reference": first, "cpu_seconds": spent_on})
        for record in records:
            remove_folder(run.path / "training" / slug(record["key"]))
        return [run.candidate_named(record["key"]) for record in records]

    def _pretrain_for(self, strategy: Strategy, backbones: Sequence[str]) -> None:
        for backbone in backbones if strategy.pretrained else ():
            self.pretrained(backbone)

    @property
    def stage_one(self) -> Searched:
        """The structural search."""
        return self.searched(method.stage_one(self.preset))

    @property
    def picks(self) -> list[Evaluated]:
        """C0, C1, ...: the structures that stage two goes on with. InputError where no candidate could be measured."""
        one = self.stage_one
        front = one.found.front()
        if not front:
            reason = min(str(record.get("reason")) for record in one.pool.values())
            raise InputError(f"all candidates of stage one failed ({reason}): see {self.run_path('stage-one')}")
        return method.pick(front, self.preset.groups)

    def stage_two(self, group: int) -> Searched:
        """The modular search within C`group`."""
        return self.searched(method.stage_two(self.preset, group, self.picks[group].structure))

    def skipped(self, group: int) -> list[dict[str, float]]:
        """ "cost" and "AP" of what partial order pruning skipped within C`group`, had it been trained as the others."""
        stage = method.stage_two(self.preset, group, self.picks[group].structure)
        structures = [each.structure for each in self.stage_two(group).found.skipped]

        def make(run: Run) -> dict[str, Any]:
            records = self._candidates(run, stage.strategy, stage.cost, structures)
            return {"AP": [record.get("AP", math.nan) for record in records]}

        found = self.once(f"{stage.name}-skipped", make, structures=list(map(str, structures)))["AP"]
        pairs = zip(structures, found, strict=True)
        return [{"cost": self.flops(each), "AP": math.nan if ap is None else ap} for each, ap in pairs]

    def found(self, kind: Literal["found", "random"] = "found") -> dict[str, Structure]:
        """The networks that both stages found, as F0, F1, ..., not trained to the end; or, as R0, R1, ..., what the
        same choice makes of stage two's random candidates."""
        if kind == "found":
            return method.structural_to_modular(
                self.preset, lambda stage: self.searched(stage).found, self.flops, lambda _, structure: structure
            )
        return {
            f"R{group}": method.hand_on(self.stage_two(group).random, self.flops(each.structure))
            for group, each in enumerate(self.picks)
        }

    # ---- trainings

    def trained(self, what: str, structure: Structure, strategy: Strategy) -> dict[str, Any]:
        """A detector in a run of its own: its 12 COCO numbers on the validation images, latency and costs."""

        def make(run: Run) -> dict[str, Any]:
            network, report = self.train(run, structure, strategy)
            measured = self.measure(network, structure, "validation")
            return {"structure": str(structure), **measured, **spent(report)}

        return self.once(what, make, structure=str(structure), strategy=strategy)

    def final(self, name: str, structure: Structure) -> dict[str, Any]:
        """A detector trained by the final schedule; see `trained`."""
        return self.trained(f"final-{slug(name)}", structure, self.preset.final_training)

    def finals(self, exhibit: str, structures: Mapping[str, Structure]) -> dict[str, dict[str, Any]]:
        """Detectors as `final` gives them that an exhibit compares, by their names, with latencies taken in turn.

        Hours lie between their trainings, in which a machine may change its pace.
        """

        def make(_: Run) -> dict[str, Any]:
            detectors = {}
            for name, structure in structures.items():
                self.final(name, structure)
                network = self.detector(structure, self.preset.final_training.norm)
                detectors[name] = (self.restore(network, f"final-{slug(name)}", "detector"), structure.input_size)
            return self.latencies_in_turn(detectors, "validation")

        finals = {name: self.final(name, structure) for name, structure in structures.items()}
        asked = {name: str(structure) for name, structure in structures.items()}
        timed = self.once(f"latencies-{exhibit}", make, timed=True, detectors=asked)
        in_turn = (LATENCY, "latency_iqr", "latency_of")
        return {name: final | {key: timed[name][key] for key in in_turn} for name, final in finals.items()}

    def strategy(self, row: int) -> dict[str, Any]:
        """A row of Table 3."""
        return self.trained(f"strategy-{row}", self.preset.strategy_model, self.preset.strategies[row])

    @property
    def backbones(self) -> dict[str, dict[str, Any]]:
        """Every backbone of stage one's space within the structure that Table 3 trains, as stage one trains it."""
        preset = self.preset
        names, strategy = preset.structural.backbones, preset.stage_one_training

        def make(run: Run) -> dict[str, Any]:
            self._pretrain_for(strategy, names)
            structures = [replace(preset.strategy_model, backbone=name) for name in names]
            return dict(zip(names, self._candidates(run, strategy, LATENCY, structures), strict=True))

        return self.once("backbones", make)

    @property
    def ranked(self) -> list[dict[str, Any]]:
        """Named detectors: AP after stage one's training, on held-out training images, and after the final one."""
        preset = self.preset
        named, strategy = dict((*preset.models, *preset.classics)), preset.stage_one_training

        def make(run: Run) -> dict[str, Any]:
            self._pretrain_for(strategy, [each.backbone for each in named.values()])
            records = self._candidates(run, strategy, FLOPS, list(named.values()))
            return {name: record.get("AP") for name, record in zip(named, records, strict=True)}

        short = self.once("short", make)
        return [
            {"name": name, "short": short[name], "long": self.final(name, each)["AP"], FLOPS: self.flops(each)}
            for name, each in named.items()
        ]

    # ---- what is left of a training

    def write_detector(self, what: str, strategy: Strategy, searches: Sequence[str] = ()) -> Path:
        """The network of a finished run as a detector, `load_detector(RUN/detector)`; returns its JSON.

        searches: what found it, for its card.
        """
        run = Run.read(self.run_path(what))
        structure = Structure.parse(run.result["structure"])
        network = self.restore(self.detector(structure, strategy.norm), what, "detector")
        found_by = [f"{self.folder.name}/{self.run_name(each)}" for each in searches]
        path, size = run.path / "detector" / "detector", structure.input_size
        return self.save_with_card(path, network, size, run, str(structure), run.result, found_by)


def in_parts(batch: Batch, size: int) -> Iterator[Batch]:
    """A batch cut into parts of `size` images."""
    for first in range(0, len(batch.labels), size):
        yield Batch(**{name: value[first : first + size] for name, value in vars(batch).items()})


def _candidate(study: SMNAS, strategy: Strategy, folder: Path, keep: bool, structure: Structure) -> dict[str, Any]:
    """What a candidate goes through, here or in another process."""
    return study.train_and_measure(structure, strategy, folder / "training" / slug(str(structure)), keep)


def load_backbone(network: nn.Module, weights: dict[str, Tensor]) -> None:
    """A pre-trained backbone into a detector, whose last stage may work on regions instead."""
    here = network.backbone.state_dict()
    network.backbone.load_state_dict({name: weights[name] for name in here})
    shared = getattr(getattr(network, "roi", None), "shared", None)
    if shared is None:
        return
    # The stage that was taken out of the backbone has the names of its weights there, but for their beginning.
    left, found = {name: tensor for name, tensor in weights.items() if name not in here}, {}
    for name, tensor in shared.state_dict().items():
        fitting = [key for key in left if key.endswith(f".{name}") and left[key].shape == tensor.shape]
        if len(fitting) != 1:
            raise RuntimeError(f"{name} of the shared stage is not found once in the pre-trained backbone: {fitting}")
        found[name] = left[fitting[0]]
    shared.load_state_dict(found)


def _plain(history: History) -> dict[str, Any]:
    """A history as JSON, with structures as text."""

    def text(record: Evaluated | Skipped) -> dict[str, Any]:
        return {key: str(value) if isinstance(value, Structure) else value for key, value in vars(record).items()}

    return to_json({kind: list(map(text, records)) for kind, records in vars(history).items()})


def _restored(record: Mapping[str, Any]) -> History:
    """The history that `_plain` wrote."""

    def value(name: str, plain: Any) -> Any:
        if isinstance(plain, str):
            return Structure.parse(plain)
        return math.nan if plain is None and name in ("cost", "accuracy") else plain

    kinds = {"evaluated": Evaluated, "skipped": Skipped}
    return History(
        **{
            name: [kind(**{key: value(key, plain) for key, plain in each.items()}) for each in record[name]]
            for name, kind in kinds.items()
        }
    )
