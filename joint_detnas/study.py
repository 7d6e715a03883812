"""One seed of the reproduction on one data set: base detector, teacher pool and searches, made when first asked for.

The exhibits ask for what they draw; runs that several exhibits need are made once.

classification-BACKBONE    a backbone trained on object crops, in ImageNet's place; "teacher-pool" is the pool's
base-BACKBONE              the base detector, trained; base-FILE where a detector was given, measured only
pool                       the elastic teacher pool
search-BACKBONE            the search; `pairs/` in it holds the weights of pairs that may yet be parents
search-BACKBONE-CONTROL    the search with one thing changed, see `Study.settings`
alone-NAME                 the network of a teacher, trained without the pool
sampled-NAME               the same network out of the pool, measured only
teachers-BACKBONE          AP of every teacher that a search with a fixed student drew, measured only
latencies-BACKBONE         base detector and what the search made of it, timed in turn; also with -CONTROL
pruned-BACKBONE-PERCENT    the base detector pruned at once, then trained a little
distilled-BACKBONE-METHOD  a base detector trained from the start under one teacher
pipeline-BACKBONE-NAME     what Table 5 compares with: pruning, then distillation; or architecture search before both
cascade-BACKBONE           what the search found, with deformable convolutions and a cascade of heads, trained on
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from common.cost import count
from common.cli import short_name
from common.letterbox import padded
from common.models.described import as_described
from common.models.detector import load_detector, save_detector
from common.models.from_torchvision import is_of_torchvision, write_faster_rcnn
from common.models.two_stage import TwoStage
from common.plain import InputError, to_json
from common.search.executors import evaluate_all
from common.settings import Precision
from common.train import distributed
from common.train.laboratory import remove_folder
from common.train.loop import FitReport
from common.train.run_folder import Run, describe_environment
from joint_detnas.baselines import pruned_to
from joint_detnas.method import ChannelPruning, History, Judge, Pair, evolve, hill_climb
from joint_detnas.presets import BACKBONES, KINDS, ImitationSettings, Preset, SearchSettings, Size, Teacher
from joint_detnas.trial import Laboratory, pair_folder, read_base, size_name

Control = Literal["none", "random", "conventional", "nas", "fixed-student", "fixed-pair"]
Method = Literal["ours", "imitation"]
Pipeline = Literal["prune-kd", "nas-prune-kd"]


@dataclass(frozen=True)
class Searched:
    """A finished search. pool: what was measured of each pair, by its number."""

    history: History
    pool: Mapping[int, Mapping[str, Any]]
    folder: Path


@dataclass(frozen=True)
class _Work:
    """What a pair goes through; plain enough to be sent to another process."""

    laboratory: Laboratory
    base: Path
    pool: Path
    pairs: Path
    judge: Judge
    taught: bool

    def __call__(self, pair: Pair) -> dict[str, Any]:
        return self.laboratory.train_pair(pair, self.base, self.pool, self.pairs, self.judge, self.taught)


class Study:
    """All runs of one seed.

    preset: the scale. data: as `--data` (common.data.source). seed: of weights, data order and search. out: the folder
    of all runs. device: where networks live. precision: of the forward passes of training; whatever is measured is
    measured in float32. workers: pairs trained side by side, each in a process of its own; 0: here, one by one.
    base: file of the detector to upgrade, as `save_detector` writes it, or torchvision's own; none: one is trained on
    `backbone`.
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
        base: Path | None = None,
        backbone: str | None = None,
    ):
        self.preset, self.data, self.seed, self.device, self.command = preset, data, seed, device, command
        self.precision, self.workers, self._base, self.out = precision, workers, base, Path(out)
        self.folder = Path(out) / "joint_detnas" / f"{short_name(data)}-{preset.name}"
        self.backbone = backbone or preset.backbone
        if self.backbone not in BACKBONES:
            raise InputError(f"no backbone is called {self.backbone!r}: give one of {', '.join(BACKBONES)}")
        self.laboratory = Laboratory(preset, data, seed, self.folder, device, precision)

    def on(self, backbone: str) -> "Study":
        """The study of the same seed on a base detector with that backbone; its runs are kept as long as this one's."""
        if self._base is None and backbone == self.backbone:
            return self
        if backbone not in self._others:
            rest = self.device, self.command, self.precision, self.workers
            self._others[backbone] = Study(self.preset, self.data, self.seed, self.out, *rest, backbone=backbone)
        return self._others[backbone]

    @cached_property
    def _others(self) -> dict[str, "Study"]:
        return {}

    @cached_property
    def given(self) -> Path | None:
        """Where the detector to upgrade lies as this project writes it; torchvision's weights are taken over before."""
        if self._base is None or not is_of_torchvision(self._base):
            return self._base
        categories = self.laboratory.categories
        return write_faster_rcnn(self._base, categories, self.folder / "torchvision" / self._base.stem)

    @cached_property
    def name(self) -> str:
        """Names the base in run folders."""
        return self.backbone.replace("_", "-") if self.given is None else f"file-{self._given['weights_sha256'][:8]}"

    @cached_property
    def _given(self) -> dict[str, Any]:
        """What the given detector says of itself; `InputError` where it is none for these data."""
        detector = load_detector(self.given)
        if detector.categories != self.laboratory.categories:
            raise InputError(
                f"the base detector {self.given} knows {_listed(detector.categories)}, and {self.data} has "
                f"{_listed(self.laboratory.categories)}: give a detector that was trained on these classes"
            )
        read_base(self.given)
        return detector.description

    # ---- runs

    def open(self, what: str, **settings: Any) -> Run:
        """The run folder of `what`, its config everything that its numbers depend on."""
        preset = self.preset
        config = {
            "paper": "joint_detnas",
            "what": what,
            "data": self.data,
            "training_set": self.laboratory.training_set.fingerprint(),
            "images_an_epoch": self.laboratory.images_an_epoch,
            "seed": self.seed,
            "precision": self.precision,
            "device": self.device,
            "detector": asdict(preset.detector),
            "sizes": preset.sizes,
            "base_size": preset.base_size,
            "batch_size": preset.batch_size,
            "augmentation": asdict(preset.augmentation),
            "search_images": preset.search_images,
            **settings,
        }
        return Run.open(self._folder(what), config, self.command)

    def _folder(self, what: str) -> Path:
        return self.folder / f"{what}-s{self.seed}"

    def report(self, network: TwoStage, size: Size) -> dict[str, Any]:
        """What is printed of a detector at its input size: AP on the validation images, latency, costs; and AP at every
        size."""
        laboratory = self.laboratory
        numbers = laboratory.precisions(network, "validation")
        cost = count(network, size)
        return {
            "size": size,
            **numbers[size],
            "AP_at": {size_name(each): one["AP"] for each, one in numbers.items()},
            **laboratory.latency_at(network, padded(size), "validation"),
            "macs_mmdet": cost.macs_mmdet,
            "macs": cost.macs,
            "params": cost.params,
            "backbone_macs_mmdet": cost.parts["backbone"]["macs_mmdet"],
            "backbone_params": cost.parts["backbone"]["params"],
            "backbone_macs_at_base_size": count(network, self.preset.base_size).parts["backbone"]["macs_mmdet"],
        }

    # ---- the base detector

    @cached_property
    def base(self) -> dict[str, Any]:
        """The base detector on the validation images at the base size; "file" is where it lies, "seconds" what training
        it took."""
        if self.given is not None:
            settings = {"base": self._given["weights_sha256"]}
        else:
            settings = {"backbone": self.backbone, "optimisation": asdict(self.preset.base_training)}
        with self.open(f"base-{self.name}", **settings) as run:
            file = self.given or run.path / "detector" / "detector.json"
            if run.result is None:
                if self.given is not None:
                    network, spent = read_base(self.given, self.device), {"seconds": None}
                else:
                    network = self.laboratory.base_detector(self.backbone)
                    spent = _spent(self.laboratory.train_detector(run, network))
                result = self.report(network, self.preset.base_size)
                if self.given is None:
                    self._write(run.path, network, result, run.environment)
                run.finish({**result, **spent})
            return run.result | _on_disk(file)

    def _write(
        self, folder: Path, network: TwoStage, result: Mapping[str, Any], environment: Mapping[str, Any]
    ) -> None:
        if distributed.rank() > 0:
            return
        save_detector(
            folder / "detector" / "detector",
            network,
            {
                "categories": list(self.laboratory.categories),
                "input_size": padded(tuple(result["size"])),
                "AP": result["AP"],
                "latency": result["latency_of"],
                "cost": {key: result[key] for key in ("macs", "macs_mmdet", "params", "backbone_macs_mmdet")},
                "provenance": {
                    "run": str(folder),
                    "data": self.data,
                    "scale": self.preset.name,
                    "seed": self.seed,
                    "commit_of_run": environment.get("git_commit"),
                    "command": describe_environment(self.command)["command"],
                },
            },
        )

    # ---- the pool

    @cached_property
    def pool(self) -> dict[str, Any]:
        """What training the elastic teacher pool took."""
        preset = self.preset
        described = asdict(preset.teachers) | {"count": preset.teachers.count()}
        with self.open("pool", space=described, shrinking=asdict(preset.shrinking)) as run:
            if run.result is None:
                reports = self.laboratory.train_pool(run)
                run.finish(
                    {
                        "teachers": preset.teachers.count(),
                        "seconds": sum(each.seconds for each in reports),
                        "cpu_seconds": sum(each.cpu_seconds for each in reports),
                        "phases": [phase.name for phase in preset.shrinking.phases],
                        "losses": [each.losses for each in reports],
                    }
                )
            return run.result

    # ---- searches

    def settings(self, control: Control = "none") -> SearchSettings:
        """Of the search, or of one of its controls.

        random: parents are drawn from all pairs, so that nothing is selected. conventional: the largest teacher always.
        nas: no teacher and no channel pruning, half the pairs: the first part of a pipeline. fixed-student: the teacher
        alone changes, as in Figures 4 and 5. fixed-pair: neither does; the largest teacher trains the student on.
        """
        preset = self.preset
        settings, kinds = preset.search, tuple(kind for kind in KINDS if kind != ChannelPruning.kind)
        without_pruning = replace(settings.morphism, kinds=kinds)
        alone = {"teacher": "none", "student_probability": 1.0, "morphism": without_pruning}
        return {
            "none": settings,
            "random": replace(settings, k=None),
            "conventional": replace(settings, teacher="largest"),
            "nas": replace(settings, budget=settings.budget // 2, **alone),
            "fixed-student": preset.teaching,
            "fixed-pair": replace(preset.teaching, teacher="largest"),
        }[control]

    def search(self, control: Control = "none") -> Searched:
        """Algorithm 1 on the base detector, or one of its controls."""
        if control not in self._searched:
            self._searched[control] = self._search(control)
        return self._searched[control]

    @cached_property
    def _searched(self) -> dict[str, Searched]:
        return {}

    def _what(self, control: Control, kind: str = "search") -> str:
        return f"{kind}-{self.name}" + ("" if control == "none" else f"-{control}")

    def _search(self, control: Control) -> Searched:
        if distributed.size() > 1:
            raise InputError("a search is not for torchrun: start one process, with --workers for pairs side by side")
        preset, settings = self.preset, self.settings(control)
        file = Path(self.base["file"])
        _ = self.pool
        weights = self.base["weights_sha256"]
        run = self.open(
            self._what(control),
            base=weights,
            search=asdict(settings),
            optimisation=asdict(preset.pair_training),
            distillation=asdict(preset.distillation),
            space=asdict(preset.teachers),
            shrinking=asdict(preset.shrinking),
            calibration_images=preset.calibration_images,
        )
        base = read_base(file)
        judge = Judge(float(count(base, preset.base_size).macs_mmdet), preset.base_size, settings.alpha, settings.beta)
        pairs = run.path / "pairs"
        work = _Work(self.laboratory, file, self._folder("pool"), pairs, judge, settings.teacher != "none")

        def evaluate(proposals: Sequence[Pair]) -> Iterator[Mapping[str, Any]]:
            label = f"{self._what(control)}, seed {self.seed}"
            return evaluate_all(work, proposals, run, Pair.to_dict, self.workers, score="score", label=label)

        def forget(numbers: Sequence[int]) -> None:
            for number in numbers:
                remove_folder(pair_folder(pairs, number))

        history = hill_climb(preset.teachers, settings, evaluate, self.seed, forget)
        measured = {record["key"]["pair"]: record for record in run.candidates()}
        if run.result is None:
            best = history.best()
            network = self.laboratory.pupil(file, pair_folder(pairs, best.number)).student
            upgraded = self.report(network, best.resolution)
            self._write(run.path, network, upgraded, run.environment)
            run.finish(
                {
                    "pair": best.number,
                    "score": best.score,
                    "teacher": str(best.teacher),
                    "architecture": best.student.to_dict(),
                    "upgraded": upgraded,
                    "seconds": sum(record["seconds"] for record in measured.values()),
                    "steps": steps(history),
                }
            )
        forget([each.number for each in history.pairs if each.number != run.result["pair"]])
        run.close()
        return Searched(history, measured, run.path)

    def upgraded(self, control: Control = "none") -> dict[str, Any]:
        """What a search made of the base detector: as `base`, at the resolution that it found best."""
        searched = self.search(control)
        result = Run.read(searched.folder).result
        rest = {key: result[key] for key in ("pair", "score", "teacher", "architecture", "seconds")}
        return {**result["upgraded"], **rest, **_on_disk(searched.folder / "detector" / "detector.json")}

    def latencies(self, control: Control = "none") -> dict[str, dict[str, Any]]:
        """Of the "base" detector and of the "upgraded" one that a search made of it, each at its input size, timed in
        turn: between the reports of both lie hours, in which a machine may change its pace."""
        detectors = {"base": self.base, "upgraded": self.upgraded(control)}
        weights = {name: each["weights_sha256"] for name, each in detectors.items()}
        with self.open(self._what(control, "latencies"), detectors=weights) as run:
            if run.result is None:
                networks = {
                    name: (read_base(Path(each["file"]), self.device), padded(tuple(each["size"])))
                    for name, each in detectors.items()
                }
                run.finish(self.laboratory.latencies_in_turn(networks, "validation"))
            return run.result

    # ---- parts of the framework on their own: Tables 1 to 3

    def alone(self, name: str) -> dict[str, Any]:
        """An equivalent of Table 1, trained without the pool; as `base`."""
        teacher = dict(self.preset.equivalents)[name]
        with self.open(f"alone-{name}", teacher=str(teacher), optimisation=asdict(self.preset.base_training)) as run:
            if run.result is None:
                network = self.laboratory.equivalent(teacher)
                spent = _spent(self.laboratory.train_detector(run, network))
                run.finish({**self.report(network, self.preset.base_size), **spent})
            return run.result

    def sampled(self, name: str) -> dict[str, Any]:
        """An equivalent of Table 1 as it comes out of the pool; as `base`."""
        teacher = dict(self.preset.equivalents)[name]
        with self._of_the_pool(f"sampled-{name}", teacher=str(teacher)) as run:
            if run.result is None:
                run.finish(self.report(self._teacher(teacher), self.preset.base_size))
            return run.result

    def teacher_precisions(self) -> dict[str, float]:
        """AP on the held-out images, at the base size, of every teacher that the search with a fixed student drew."""
        teachers = [each.teacher for each in self.search("fixed-student").history.pairs]
        names = list(dict.fromkeys(map(str, teachers)))
        with self._of_the_pool(f"teachers-{self.name}", teachers=names) as run:
            if run.result is None:
                size = padded(self.preset.base_size)
                networks = ((name, self._teacher(Teacher.parse(name))) for name in names)
                run.finish({name: self.laboratory.precision_at(each, size, "search")["AP"] for name, each in networks})
            return run.result

    def _of_the_pool(self, what: str, **settings: Any) -> Run:
        """The run folder of something that hangs on the trained pool."""
        _ = self.pool
        preset = self.preset
        made = {"space": asdict(preset.teachers), "shrinking": asdict(preset.shrinking)}
        return self.open(what, calibration_images=preset.calibration_images, **made, **settings)

    def _teacher(self, teacher: Teacher) -> TwoStage:
        return self.laboratory.teacher(self._folder("pool"), teacher)

    def pruned(self, percentage: int) -> dict[str, Any]:
        """The base detector after one channel pruning (0: none) and the training of a pair without a teacher."""
        preset = self.preset
        base, settings = self.base, asdict(preset.search.morphism)
        training = {"optimisation": asdict(preset.pair_training), "base": base["weights_sha256"]}
        with self.open(f"pruned-{self.name}-{percentage}", morphism=settings, **training) as run:
            if run.result is None:
                student = read_base(Path(base["file"]), self.device)
                if percentage:
                    student = evolve(student, ChannelPruning(float(percentage)), 0, preset.search.morphism)
                report = self.laboratory.train_student(run, student, preset.pair_training, None)
                run.finish({**self.report(student, preset.base_size), **_spent(report)})
            return run.result

    def distilled(self, teacher_name: str, method: Method) -> dict[str, Any]:
        """A detector as fresh as the base was, trained as long, but under a teacher of the pool; as `base`."""
        preset = self.preset
        teacher = dict(preset.equivalents)[teacher_name]
        weights = {"ours": asdict(preset.distillation), "imitation": asdict(ImitationSettings())}[method]
        training = {"optimisation": asdict(preset.base_training), "distillation": weights, "teacher": str(teacher)}
        with self._of_the_pool(f"distilled-{self.name}-{method}", **training) as run:
            if run.result is None:
                student = as_described(self.laboratory.base_detector(self.backbone))
                arguments = run, student, preset.base_training, self._teacher(teacher), method == "imitation"
                spent = _spent(self.laboratory.train_student(*arguments))
                run.finish({**self.report(student, preset.base_size), **spent})
            return run.result

    # ---- pipelines: Table 5

    def pipeline(self, name: Pipeline) -> dict[str, Any]:
        """One thing after the other: (architecture search,) pruning to the backbone's cost of what the search found,
        distillation from the largest teacher; judged at the found one's size. "before": what was pruned."""
        preset, goal = self.preset, self.upgraded()
        before = self.base if name == "prune-kd" else self.upgraded("nas")
        training = {"optimisation": asdict(preset.base_training), "distillation": asdict(preset.distillation)}
        settings = {"morphism": asdict(preset.search.morphism), "start": before["weights_sha256"]}
        macs, size = goal["backbone_macs_at_base_size"], tuple(goal["size"])
        with self._of_the_pool(f"pipeline-{self.name}-{name}", goal=macs, size=size, **settings, **training) as run:
            if run.result is None:
                start = read_base(Path(before["file"]), self.device)
                student = pruned_to(start, macs, preset.base_size, preset.search.morphism)
                teacher = self._teacher(preset.teachers.largest())
                spent = _spent(self.laboratory.train_student(run, student, preset.base_training, teacher))
                run.finish({**self.report(student, size), **spent})
            return run.result | {"before": before}

    # ---- beyond the search

    def cascade(self, control: Control = "none") -> dict[str, Any]:
        """What a search found, with deformable convolutions and a cascade of heads and trained on (Table 6's
        X101-Cascade): as `base`, at the base size."""
        preset = self.preset
        found = Path(self.upgraded(control)["file"])
        run = self.open(
            self._what(control, "cascade"),
            found=json.loads(found.read_text())["weights_sha256"],
            cascade=asdict(preset.cascade),
            distillation=asdict(preset.distillation),
            space=asdict(preset.teachers),
            shrinking=asdict(preset.shrinking),
            calibration_images=preset.calibration_images,
        )
        with run:
            if run.result is None:
                network, report = self.laboratory.train_cascade(run, found, self._folder("pool"))
                result = self.report(network, preset.base_size)
                self._write(run.path, network, result, run.environment)
                spent = {"seconds": report.seconds, "cpu_seconds": report.cpu_seconds, "losses": report.losses}
                run.finish({**result, **spent})
            return run.result | {"file": str(run.path / "detector" / "detector.json")}


CONTROLS: tuple[Control, ...] = get_args(Control)
PIPELINES: tuple[Pipeline, ...] = get_args(Pipeline)


def _spent(report: FitReport) -> dict[str, Any]:
    """What a training took."""
    return {"seconds": report.seconds, "cpu_seconds": report.cpu_seconds, "losses": report.losses}


def steps(history: History) -> list[dict[str, Any]]:
    """A history as JSON: each step with its action, parent, score, cost, resolution, and what it brought."""
    return to_json(
        [
            {
                **each.to_dict(),
                "step": each.step,
                "kind": each.kind,
                "generation": each.generation,
                "score": each.score,
                "cost": each.cost,
                "resolution": each.resolution,
                "increment": history.increment(each) if each.number else math.nan,
            }
            for each in history.pairs
        ]
    )


def _on_disk(file: Path) -> dict[str, str]:
    """Where a detector lies, and which weights those are."""
    return {"file": str(file), "weights_sha256": json.loads(file.with_suffix(".json").read_text())["weights_sha256"]}


def _listed(names: Sequence[str]) -> str:
    return f"{len(names)} classes ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
