"""One seed of Joint-DetNAS on one data set: base detector, teacher pool and searches, made when first asked for.

classification-BACKBONE    a backbone trained on object crops, in ImageNet's place; "teacher-pool" is the pool's
base-BACKBONE              the base detector, trained; base-FILE where a detector was given, measured only
pool                       the elastic teacher pool
search-BACKBONE            the search; `pairs/` in it holds the weights of pairs that may yet be parents
search-BACKBONE-CONTROL    the search with one thing changed, see `searching`
latencies-BACKBONE         base detector and what the search made of it, timed in turn
plateau-NAME               AP after trainings of half, the same and twice the base detector's length
trained-on-BACKBONE-N      the base detector trained on for N pairs, with neither teacher nor actions
pair-trials-BACKBONE       the base detector after one pair's training by each of several schedules, in several orders
alone-NAME-AS              the network of a teacher, trained without the pool, for as many epochs or CPU seconds
pace-NAME                  two trainings that are to take as many CPU seconds, an epoch of each in turn
sampled-NAME               the same network out of the pool, measured only
grid-BACKBONE              students of this backbone under each of the teachers of Figure 5
pruned-BACKBONE-PERCENT    the base detector pruned at once, then trained a little
distilled-BACKBONE-METHOD  a base detector trained from the start under one teacher
longer-BACKBONE            one trained alone, for as many CPU seconds
penalised-BACKBONE         the base detector, trained with L_BN from the start, for a pipeline
pipeline-BACKBONE-NAME     what Table 5 compares with: pruning, then distillation; or architecture search before both;
                           also with -CHOICE, see `other_pipelines`
cascade-BACKBONE           what the search found, with deformable convolutions and a cascade of heads, trained on
"""

import copy
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from common.batch import Batch
from common.cost import count
from common.data.batches import ResolutionBatches
from common.evaluate.recalibrate import reestimate_batch_norm
from common.letterbox import padded
from common.models.architectures import ARCHITECTURES
from common.models.described import (
    STRIDES,
    Architecture,
    DescribedBackbone,
    as_described,
    keep_channels,
    on_backbone,
)
from common.models.detector import load_detector
from common.models.fpn import FPN
from common.models.mobilenet import MobileNetV2
from common.models.resnet import ResNet
from common.models.torchvision_weights import is_of_torchvision, write_faster_rcnn
from common.models.two_stage import TwoStage, two_stage_losses
from common.plain import InputError, read_json
from common.search.executors import evaluate_all
from common.settings import Optimisation, lasting
from common.study import STANDARD_WIDTH, BackboneStudy, remove_folder, slug, spent
from common.train import distributed
from common.train.checkpoint import load_strictly
from common.train.loop import FitReport, Step, fit
from common.train.run_folder import Run
from joint_detnas.baselines import Imitator, cascade_losses, with_cascade_and_deformable
from joint_detnas.method import (
    ChannelPruning,
    History,
    Judge,
    Pair,
    Pupil,
    Shrinking,
    TeacherPool,
    backbone_cost,
    both_stages,
    build_teacher,
    check_distillable,
    child_of,
    described,
    evolve,
    hill_climb,
    integrated_progressive_shrinking,
    kept_at_cost,
    taught_by,
    top_k,
    train_pupil,
)
from joint_detnas.presets import (
    KINDS,
    DistillationSettings,
    Options,
    Preset,
    ShrinkingSettings,
    Size,
    Teacher,
    check_backbone,
    other_choices,
    other_pipelines,
    size_name,
)

POOL = "teacher-pool"
"""The name of the largest teacher's backbone."""
_AS_BASE = "detector"  # the stage of the base's training: by its name batches and samples are drawn
PACE_ROUNDS = 3
Pace = Callable[[Run, str], float]
"""Trains an epoch as a stage of a run; the CPU seconds that the whole training takes by that."""


class JointDetNASStudy(BackboneStudy):
    """All runs of one seed; see the module.

    base: file of the detector to upgrade, as `save_detector` writes it, or torchvision's own; None means that one is
    trained on `backbone` (None: the preset's). pairs: that every search trains; None means the preset's number.
    """

    paper = "joint_detnas"
    PRETRAINING_READS = (*BackboneStudy.PRETRAINING_READS, "teachers")

    def __init__(
        self,
        options: Options,
        seed: int = 0,
        command: str | None = None,
        base: Path | None = None,
        backbone: str | None = None,
        pairs: int | None = None,
    ):
        super().__init__(options, seed, command)
        self.base_file, self.base_backbone, self.pairs = base, backbone or self.preset.backbone, pairs
        check_backbone(self.base_backbone)

    def upgrading(self, backbone: str) -> "JointDetNASStudy":
        """The study of the same seed on a base detector with that backbone; what it uses counts as used here."""
        other = type(self)(self.options, self.seed, self.command, backbone=backbone, pairs=self.pairs)
        other._results, other._recorders = self._results, self._recorders
        return other

    # ---- networks and data

    @property
    def backbone_width(self) -> int:
        """Channels of the first stage of a standard backbone."""
        return self.preset.detector.width

    def backbone(self, name: str) -> nn.Module:
        """A fresh backbone: a standard one, that of the largest teacher (POOL), or that of any by its name."""
        if name == "mobilenet_v2":
            return MobileNetV2(width=self.backbone_width / STANDARD_WIDTH)
        if name in ARCHITECTURES:
            return ResNet(name, width=self.backbone_width)
        space = self.preset.teachers
        return DescribedBackbone(described(space, space.largest() if name == POOL else Teacher.parse(name))[0])

    def base_detector(self) -> TwoStage:
        """A fresh one on a backbone that was trained on classification, its other weights drawn by the seed."""
        torch.manual_seed(self.seed)
        settings, backbone = self.preset.detector, self.backbone(self.base_backbone)
        fpn = FPN(backbone.out_channels, width=settings.neck_width)
        detector = TwoStage(backbone, len(self.categories), fpn, *both_stages(settings))
        return self._with_pretrained(detector, self.base_backbone)

    def equivalent(self, teacher: Teacher) -> TwoStage:
        """The network of a teacher, as fresh as a base detector is, to be trained without the pool."""
        torch.manual_seed(self.seed)
        settings = self.preset.teachers, teacher, len(self.categories)
        return self._with_pretrained(build_teacher(*settings, *both_stages(self.preset.detector)), str(teacher))

    def _with_pretrained(self, detector: TwoStage, backbone: str) -> TwoStage:
        weights = self.pretrained(backbone)
        detector.backbone.load_state_dict({name: weights[name] for name in detector.backbone.state_dict()})
        return self.placed(detector)

    def batches(self, seed: int | None = None) -> ResolutionBatches:
        """Training batches at a random size for each step. seed: of all draws; None means the study's."""
        sizes = map(padded, self.preset.sizes)
        parts = {size: self.training_batches(size, self.preset.batch_size, seed) for size in sizes}
        return ResolutionBatches(parts, self.seed if seed is None else seed)

    # ---- measuring

    def precisions(
        self, network: TwoStage, where: str, per_class: bool = False, as_it_is: bool = False
    ) -> dict[Size, dict[str, Any]]:
        """The 12 COCO numbers of a detector at every size; it is settled before, unless it counts as it is."""
        if not as_it_is:
            self.settle(network)
        return {size: self.precision_at(network, padded(size), where, per_class) for size in self.preset.sizes}

    def mean_precision(self, network: TwoStage) -> float:
        """AP on held-out images, the mean over the sizes."""
        return float(np.mean([each["AP"] for each in self.precisions(network, "search").values()]))

    def settle(self, network: TwoStage) -> None:
        """Re-estimate a detector's batch-norm statistics, in place, by training images of all sizes (41): the running
        ones are those of the last ten steps or so, whatever sizes were drawn for them."""
        number = self.preset.settling_images
        if number and any(isinstance(module, nn.BatchNorm2d) for module in network.backbone.modules()):
            batches = self._in_order(number)  # of the backbone alone: neck and heads have no batch norm
            reestimate_batch_norm(network.backbone, (batch.images for batch in batches))

    def report(self, network: TwoStage, size: Size, as_it_is: bool = False) -> dict[str, Any]:
        """What is printed of a detector at its input size: AP on the validation images, latency, costs; and AP at every
        size. as_it_is: see `precisions`."""
        numbers, cost = self.precisions(network, "validation", True, as_it_is), count(network, size)
        at_base_size = cost if size == self.preset.base_size else count(network, self.preset.base_size)
        return {
            "size": size,
            **numbers[size],
            "AP_at": {size_name(each): one["AP"] for each, one in numbers.items()},
            **self.latency_at(network, padded(size), "validation"),
            "macs_mmdet": cost.macs_mmdet,
            "macs": cost.macs,
            "params": cost.params,
            "backbone_macs_mmdet": cost.parts["backbone"]["macs_mmdet"],
            "backbone_params": cost.parts["backbone"]["params"],
            "backbone_macs_at_base_size": at_base_size.parts["backbone"]["macs_mmdet"],
        }

    def _written(self, run: Run, network: TwoStage, took: Mapping[str, Any]) -> dict[str, Any]:
        """What is reported of a detector at the base size, and what its training took; it is written to disk."""
        result = self.report(network, self.preset.base_size)
        self.write_detector(run, network, result)
        return {**result, **took}

    def write_detector(self, run: Run, network: TwoStage, result: Mapping[str, Any], name: str = "detector") -> None:
        """The network in its run's folder, for `load_detector(RUN/detector)`. result: as `report` gives it."""
        if distributed.rank() > 0:
            return
        path, size = run.path / "detector" / name, padded(tuple(result["size"]))
        self.save_with_card(path, network, size, run, network.backbone.description, result)

    def _detector_of(self, what: str) -> dict[str, str]:
        return _on_disk(self.run_path(what) / "detector" / "detector.json")

    # ---- the base detector

    @cached_property
    def given(self) -> Path | None:
        """Where the detector to upgrade lies as this project writes it; torchvision's weights are taken over before."""
        if self.base_file is None:
            return None
        if not is_of_torchvision(self.base_file):
            in_folder = (self.base_file / "detector.json", self.base_file / "detector" / "detector.json")
            return next(filter(Path.is_file, in_folder), self.base_file)
        return write_faster_rcnn(self.base_file, self.categories, self.folder / "torchvision" / self.base_file.stem)

    @cached_property
    def name(self) -> str:
        """Names the base in run folders. `InputError` where the one that was given is none for these data."""
        if self.given is None:
            return slug(self.base_backbone)
        detector = load_detector(self.given)
        if detector.categories != self.categories:
            raise InputError(
                f"the base detector {self.given} knows {_listed(detector.categories)}, and {self.data} has "
                f"{_listed(self.categories)}: give a detector that was trained on these classes"
            )
        read_base(self.given)
        return f"file-{detector.description['weights_sha256'][:8]}"

    def base(self) -> dict[str, Any]:
        """The base detector as `report` has it, at the base size; "file" is where it lies, "seconds" what training it
        took. One that was given is measured as it is; "settled_AP" is what a search that settles begins at."""
        what = f"base-{self.name}"

        def make(run: Run) -> dict[str, Any]:
            if self.given is not None:
                network, size = read_base(self.given, self.device), self.preset.base_size
                given = {**self.report(network, size, as_it_is=True), "settled_AP": None, "seconds": None}
                if not self.preset.settling_images:
                    return given
                self.settle(network)
                return given | {"settled_AP": self.precision_at(network, padded(size), "validation")["AP"]}
            network = self.base_detector()
            return self._written(run, network, spent(self.train_detector(run, network, self.preset.base_training)))

        result = self.once(what, make)
        return result | (self._detector_of(what) if self.given is None else _on_disk(self.given))

    def train_detector(
        self, run: Run, network: TwoStage, optimisation: Optimisation, stage: str = "detector"
    ) -> FitReport:
        """Train a detector at all sizes ("2x+ms"), in place."""

        def losses(batch: Batch, _: Step) -> Iterator[dict[str, Tensor]]:
            yield two_stage_losses(network(batch.images), batch)

        return fit(run, stage, network, self.batches(), losses, self.training(optimisation))

    def plateau(self, name: str) -> dict[str, Any]:
        """ "AP" after trainings of several lengths, "samples" of each: half as long as the base detector's, as long and
        twice as long. name: a backbone, or "largest" for the network of the largest teacher."""
        preset = self.preset

        def make(run: Run) -> dict[str, Any]:
            found: dict[str, list] = {"samples": [], "AP": []}
            for share in (0.5, 1, 2):
                of = self if name == "largest" else self.upgrading(name)
                network = self.equivalent(preset.teachers.largest()) if name == "largest" else of.base_detector()
                optimisation = lasting(preset.base_training, round(share * preset.base_training.epochs))
                found["samples"].append(self.train_detector(run, network, optimisation, f"{share:g}").samples)
                self.settle(network)
                found["AP"].append(100 * self.precision_at(network, padded(preset.base_size), "validation")["AP"])
            return found

        return self.once(f"plateau-{slug(name)}", make)

    # ---- the pool of teachers

    def pool(self) -> dict[str, Any]:
        """What training the elastic teacher pool took, from a pre-trained backbone of the largest teacher."""
        preset = self.preset

        def make(run: Run) -> dict[str, Any]:
            reports = self._train_pool(run, preset.shrinking)
            return {
                "teachers": preset.teachers.count(),
                **together(reports),
                "phases": [phase.name for phase in preset.shrinking.phases],
                "losses": [each.losses for each in reports],
            }

        return self.once("pool", make)

    def _train_pool(self, run: Run, shrinking: ShrinkingSettings) -> list[FitReport]:
        torch.manual_seed(self.seed)
        model = self.placed(_fresh_pool(self.preset, len(self.categories)))
        model.pool.backbone.load_state_dict(self.pretrained(POOL))
        training = self.training(shrinking.optimisation)
        return integrated_progressive_shrinking(run, model, self.batches(), shrinking, training)

    def teacher(self, teacher: Teacher) -> TwoStage:
        """A teacher out of the trained pool, its batch-norm statistics reset."""
        self.pool()
        pool = _trained_pool(self.preset, len(self.categories), self.run_path("pool"), self.device)
        return pool.ready(teacher, (batch.images for batch in self._calibration()))

    def _calibration(self) -> Iterator[Batch]:
        return self._in_order(self.preset.calibration_images)

    def _in_order(self, number: int) -> Iterator[Batch]:
        for size in self.preset.sizes:
            yield from self.training_images(padded(size), number).in_order()

    def preparation(self) -> dict[str, float]:
        """Seconds of training that a search builds on: "base" and "pool", each with its backbone's on crops."""
        parts = {"base": (self.base(), self.base_backbone), "pool": (self.pool(), POOL)}
        crops = {name: self.run_path(f"classification-{slug(backbone)}") for name, (_, backbone) in parts.items()}
        before = {name: Run.read(path).result["seconds"] if path.exists() else 0.0 for name, path in crops.items()}
        return {name: (result["seconds"] or 0.0) + before[name] for name, (result, _) in parts.items()}

    # ---- searches

    def searching(self, control: str = "none") -> Preset:
        """The preset that the search, one of its controls, or one of `other_choices` is done by.

        random: parents are drawn from the latest pairs, so that nothing is selected. conventional: the largest teacher
        always. nas: no teacher and no channel pruning, half the pairs: the first part of a pipeline. fixed-student: the
        teacher alone changes, as in Figure 4. fixed-pair: neither does, the largest teacher trains the student on.
        untaught: the student trains on alone.
        """
        search, teaching = (
            each if self.pairs is None else replace(each, budget=self.pairs)
            for each in (self.preset.search, self.preset.teaching)
        )
        without_pruning = tuple(kind for kind in KINDS if kind != ChannelPruning.kind)
        alone = {"teacher": "none", "student_probability": 1.0}
        controls = {
            "none": search,
            "random": replace(search, listed="latest"),
            "conventional": replace(search, teacher="largest"),
            "nas": replace(
                search, budget=search.budget // 2, morphism=replace(search.morphism, kinds=without_pruning), **alone
            ),
            "fixed-student": teaching,
            "fixed-pair": replace(teaching, teacher="largest"),
            "untaught": replace(teaching, teacher="none"),
        }
        if control in controls:
            return replace(self.preset, search=controls[control])
        return other_choices(replace(self.preset, search=search))[control]

    @cached_property
    def draws(self) -> int:
        """Seed of what the searches on this base detector draw: those on another one draw independently."""
        return int(np.random.SeedSequence([self.seed, zlib.crc32(self.name.encode())]).generate_state(1)[0])

    def named(self, kind: str, control: str = "none") -> str:
        """What the run of that kind is called: base-resnet18, search-resnet18-random."""
        parts = [kind, self.name] + ([] if control == "none" else [control])
        return "-".join(parts if self.pairs is None else [*parts, str(self.pairs), "pairs"])

    def search(self, control: str = "none") -> dict[str, Any]:
        """Algorithm 1 on the base detector, or another search, see `searching`. A parent whose weights were lost is
        trained again.

        "steps": every pair, see `steps`; "pair", "score", "teacher" and "architecture" of the best one, "upgraded": its
        student as `report` has it, at the size that it is best at, with its "depth", how many trainings it has behind
        it; "slim": likewise of the best pair whose backbone costs no more than Table 5's goal, None where there is
        none; "stages": multiply-accumulates of the backbone's four resolutions, before and after; "seconds" that all
        pairs took.
        """
        distributed.refuse("a search", "start one process, with --workers for several pairs")
        preset = self.searching(control)
        settings = preset.search

        def make(run: Run) -> dict[str, Any]:
            file, taught = Path(self.base()["file"]), settings.teacher != "none"
            if taught:
                self.pool()
            base, pairs, known = read_base(file), run.path / "pairs", {}
            cost = float(count(base, preset.base_size).macs_mmdet)
            judge = Judge(cost, preset.base_size, settings.alpha, settings.beta)
            work = partial(self.train_pair, base=file, pairs=pairs, judge=judge, preset=preset)

            def evaluate(drawn: Sequence[Pair]) -> Iterator[Mapping[str, Any]]:
                known.update({pair.number: pair for pair in drawn})
                for pair in drawn:
                    if pair.parent is not None and run.candidate_named(pair.to_dict()) is None:
                        restore(known[pair.parent])
                label, how = run.path.name, self.options
                return evaluate_all(work, drawn, run, Pair.to_dict, how, "score", label, read_and_left)

            def read_and_left(pair: Pair) -> tuple[list[Path], list[Path]]:
                parent = [] if pair.parent is None else [pair_folder(pairs, pair.parent)]
                shared = [file, file.with_suffix(".safetensors"), *([self.run_path("pool")] if taught else [])]
                return [*shared, *parent], [pair_folder(pairs, pair.number)]

            def restore(pair: Pair) -> None:
                folder = pair_folder(pairs, pair.number)
                try:
                    self.pupil(file, folder)
                except InputError as error:
                    print(f"pair {pair.number} is trained again, for {error}", file=sys.stderr)
                    remove_folder(folder)
                    if pair.parent is not None:
                        restore(known[pair.parent])
                    work(pair)

            most = preset.goal * count(base, preset.base_size).parts["backbone"]["macs_mmdet"]

            def slim() -> Pair | None:
                done = [each for each in run.candidates(status="done") if each["key"]["pair"] in known]
                within = [each for each in done if each["backbone_macs_mmdet"] <= most]
                measured = [known[each["key"]["pair"]].measured(each) for each in within]
                return next(iter(top_k(measured, 1)), None)

            def forget(numbers: Sequence[int]) -> None:
                kept = slim()
                for number in numbers:
                    if kept is None or number != kept.number:
                        remove_folder(pair_folder(pairs, number))

            def found(pair: Pair) -> TwoStage:
                restore(pair)
                return self.pupil(file, pair_folder(pairs, pair.number)).student

            def reported(pair: Pair, network: TwoStage) -> dict[str, Any]:
                """With the trainings that it has behind it, the base detector's aside."""
                chain = [run.candidate_named(each.to_dict()) for each in history.behind(pair)]
                named = {"samples": "samples", "cpu_seconds": "train_cpu_seconds"}
                took = {name: sum(record[key] for record in chain) for name, key in named.items()}
                return self.report(network, pair.resolution) | took | {"depth": len(chain)}

            history = hill_climb(preset.teachers, settings, evaluate, self.draws, forget)
            best, cheap = history.best(), slim()
            network = found(best)
            upgraded = reported(best, network)
            self.write_detector(run, network, upgraded)
            if cheap:
                slim_network = found(cheap)
                cheap = reported(cheap, slim_network)
                self.write_detector(run, slim_network, cheap, "slim")
            for pair in history.pairs:
                if pair.number != best.number:
                    remove_folder(pair_folder(pairs, pair.number))
            every = {"before": base.backbone.architecture, "after": best.student}
            return {
                "pair": best.number,
                "slim": cheap,
                "score": best.score,
                "teacher": str(best.teacher),
                "architecture": best.student.to_dict(),
                "upgraded": upgraded,
                "stages": {when: resolution_costs(each, preset.base_size) for when, each in every.items()},
                "seconds": sum(record["seconds"] for record in run.candidates()),
                "steps": steps(history),
            }

        asked = {name: value for name, value in vars(preset).items() if value != getattr(self.preset, name)}
        base = self.base()["weights_sha256"]
        return self.once(self.named("search", control), make, base=base, **asked | {"search": settings})

    def upgraded(self, control: str = "none") -> dict[str, Any]:
        """What a search made of the base detector: as `base`, at the size that it is best at."""
        result = self.search(control)
        kept = {key: result[key] for key in ("pair", "score", "teacher", "architecture", "seconds")}
        return {**result["upgraded"], **kept, **self._detector_of(self.named("search", control))}

    def latencies(self, control: str = "none") -> dict[str, dict[str, Any]]:
        """Of the "base" detector and of the "upgraded" one that a search made of it, each at its input size, timed in
        turn: hours lie between their trainings, in which a machine may change its pace."""

        def make(_: Run) -> dict[str, Any]:
            detectors = {"base": self.base(), "upgraded": self.upgraded(control)}
            networks = {
                name: (read_base(Path(each["file"]), self.device), padded(tuple(each["size"])))
                for name, each in detectors.items()
            }
            return self.latencies_in_turn(networks, "validation")

        weights = [each["weights_sha256"] for each in (self.base(), self.upgraded(control))]
        return self.once(self.named("latencies", control), make, timed=True, detectors=weights)

    # ---- a pair

    def train_pair(self, pair: Pair, base: Path, pairs: Path, judge: Judge, preset: Preset) -> dict[str, Any]:
        """A pair made from its parent's weights, trained with its teacher, if any, and measured at all sizes.

        base: the base detector's file. pairs: a folder for each pair that was trained; this one's, too, where its
        weights stay. preset: of the search. One that was broken off goes on.
        """
        config = {"pair": pair.to_dict(), "seed": self.seed, "precision": self.precision}
        with Run.open(pair_folder(pairs, pair.number), config) as run:
            teacher = None if preset.search.teacher == "none" else self.teacher(pair.teacher)
            if pair.parent is None:  # pair 0 is not trained any further
                pupil, took = self._pupil(read_base(base, self.device), teacher, preset.distillation), {}
                run.write_json("student", pupil.student.backbone.architecture.to_dict())
                run.save_weights("pair-moments", {})
                run.save_weights("pair", pupil.state_dict())
            else:
                parent = self.pupil(base, pair_folder(pairs, pair.parent))
                pupil = child_of(parent, pair.action, self._seed_of(pair, 1), preset.search.morphism)
                run.write_json("student", pupil.student.backbone.architecture.to_dict())
                seed = self._seed_of(pair)  # each pair its own order
                training = self.training(preset.pair_training, seed)
                report = train_pupil(run, "pair", pupil, teacher, self.batches(seed), preset, training)
                took = {"train_seconds": report.seconds, "train_cpu_seconds": report.cpu_seconds}
                took |= {"samples": report.samples, "losses": report.losses, "peak_memory": report.peak_memory}
            return self._measured(pupil.student, judge) | took

    def _seed_of(self, pair: Pair, *purpose: int) -> int:
        return int(np.random.SeedSequence([self.draws, pair.number, *purpose]).generate_state(1)[0])

    def _measured(self, student: TwoStage, judge: Judge) -> dict[str, Any]:
        numbers = self.precisions(student, "search")
        cost = count(student, self.preset.base_size)
        ap_at = {size: each["AP"] for size, each in numbers.items()}
        score, resolution = judge.best(ap_at, float(cost.macs_mmdet))
        return {
            "architecture": student.backbone.architecture.to_dict(),
            "score": score,
            "resolution": resolution,
            "cost": float(cost.macs_mmdet),
            "AP_at": {size_name(size): ap for size, ap in ap_at.items()},
            **numbers[resolution],
            "macs": cost.macs,
            "params": cost.params,
            "backbone_macs_mmdet": cost.parts["backbone"]["macs_mmdet"],
        }

    def _pupil(
        self, student: TwoStage, teacher: TwoStage | None = None, distillation: DistillationSettings | None = None
    ) -> Pupil:
        """A student with a fresh f_adap, which begins as the settings say where there is a teacher."""
        space, settings = self.preset.teachers, distillation or self.preset.distillation
        pupil = self.placed(Pupil(student, space.neck_channels(space.largest())).requires_grad_(True))
        if teacher is not None and settings.adapter == "least-squares":
            pupil.adapter.fit_features(student, teacher, self._calibration())
        return pupil

    def pupil(self, base: Path, folder: Path) -> Pupil:
        """The student of a trained pair with its f_adap and moments, from the pair's folder. base: the base detector's
        file."""
        run = Run.read(folder)
        weights, _ = run.load_weights("pair")
        like = read_base(base, self.device)
        architecture = Architecture.from_dict(run.read_json("student"))
        inside = {name.removeprefix("student."): each for name, each in weights.items() if name.startswith("student.")}
        pupil = self._pupil(on_backbone(like, architecture, like.backbone.norm, inside))
        load_strictly(pupil, weights, str(folder / "pair.safetensors"))
        pupil.moments = run.load_weights("pair-moments")[0]
        return pupil

    # ---- parts of the framework on their own: Tables 1 to 3, Figure 5

    def alone(self, name: str, as_long: Literal["epochs", "seconds"]) -> dict[str, Any]:
        """An equivalent of Table 1, as `base`: trained without the pool, for its number of epochs or CPU seconds."""
        preset, phases = self.preset, self.preset.shrinking.phases
        epochs = sum(phase.epochs for phase in phases)

        def train(run: Run, epochs: int, stage: str = "detector") -> tuple[TwoStage, FitReport]:
            network = self.equivalent(dict(preset.equivalents)[name])
            return network, self.train_detector(run, network, lasting(preset.base_training, epochs), stage)

        def of_pool(run: Run, stage: str) -> float:
            brief = tuple(replace(phase, name=f"{stage}-{phase.name}", epochs=1) for phase in phases)
            reports = self._train_pool(run, replace(preset.shrinking, phases=brief))
            return sum(phase.epochs * each.cpu_seconds for phase, each in zip(phases, reports, strict=True))

        if as_long == "seconds":
            longer = self.times_as_long(
                f"pool-{name}", of_pool, lambda run, stage: epochs * train(run, 1, stage)[1].cpu_seconds
            )
            epochs = max(1, round(longer * epochs))

        def make(run: Run) -> dict[str, Any]:
            network, report = train(run, epochs)
            return {**self.report(network, preset.base_size), **spent(report)}

        return self.once(f"alone-{name}-{as_long}", make)

    def times_as_long(self, what: str, one: Pace, other: Pace) -> float:
        """CPU seconds of a training over those of another, by an epoch of each, in turn: trainings that are hours apart
        do not find the machine as busy. one, other: train so in a run, under a name, and say how long the whole takes.
        """

        def make(run: Run) -> dict[str, Any]:
            rounds = [(one(run, f"one-{number}"), other(run, f"other-{number}")) for number in range(PACE_ROUNDS)]
            longer, shorter = np.median(rounds, axis=0)
            return {"rounds": rounds, "times": longer / shorter}

        return self.once(f"pace-{what}", make, timed=True)["times"]

    def sampled(self, name: str) -> dict[str, Any]:
        """An equivalent of Table 1 as it comes out of the pool; as `base`."""

        def make(_: Run) -> dict[str, Any]:
            return self.report(self.teacher(dict(self.preset.equivalents)[name]), self.preset.base_size)

        return self.once(f"sampled-{name}", make)

    def grid(self) -> dict[str, Any]:
        """Two students, the base detector not pruned and pruned most, after a training under each teacher of Figure 5.

        "teachers": name -> "AP", out of the pool, and "params" of the backbone; "students": percentage -> "params" of
        the backbone and "gains": by teacher, the rise in AP. AP: the mean over the sizes, on held-out images.
        """
        preset = self.preset

        def parameters(network: TwoStage) -> int:
            return sum(each.numel() for each in network.backbone.parameters())

        def make(run: Run) -> dict[str, Any]:
            teachers = {name: self.teacher(teacher) for name, teacher in preset.grid_teachers}
            measured = {}
            for name, teacher in preset.grid_teachers:
                network = self.teacher(teacher)  # another: measuring re-estimates the statistics that it teaches by
                measured[name] = {"AP": self.mean_precision(network), "params": parameters(network)}
            students = {}
            for percentage in (preset.percentages[0], preset.percentages[-1]):
                before, gains = self.pruned_student(percentage), {}
                level = self.mean_precision(copy.deepcopy(before))
                for number, (name, teacher) in enumerate(teachers.items()):
                    student = copy.deepcopy(before)
                    self.settle(student)  # f_adap is fitted to what the student says when it is measured
                    pupil = self._pupil(student, teacher)
                    training = self.training(preset.grid_training, drawn_as=str(percentage))  # the same under each
                    train_pupil(run, f"{percentage}-{number}", pupil, teacher, self.batches(), preset, training)
                    gains[name] = self.mean_precision(pupil.student) - level
                students[str(percentage)] = {"params": parameters(before), "gains": gains}
            return {"teachers": measured, "students": students}

        return self.once(f"grid-{self.name}", make, base=self.base()["weights_sha256"])

    def pruned_student(self, percentage: int) -> TwoStage:
        """The network that `pruned` trained."""
        self.pruned(percentage)
        pupil = self._pupil(self._pruned_at_once(percentage))
        return self.restore(pupil, f"pruned-{self.name}-{percentage}", "student").student

    def _pruned_at_once(self, percentage: int) -> TwoStage:
        student = read_base(Path(self.base()["file"]), self.device)
        action = ChannelPruning(float(percentage))
        return evolve(student, action, settings=self.preset.search.morphism) if percentage else student

    def trained_on(self, pairs: int) -> dict[str, Any]:
        """The base detector after so many pairs' trainings one after the other, with neither teacher nor actions: as
        `base`. What a search gains is counted from here."""

        def make(run: Run) -> dict[str, Any]:
            pupil, reports = self._pupil(read_base(Path(self.base()["file"]), self.device)), []
            for number in range(pairs):
                pupil, report = self.train_on(run, number, pupil, None)
                reports.append(report)
            return {**self.report(pupil.student, self.preset.base_size), **together(reports)}

        return self.once(f"trained-on-{self.name}-{pairs}", make, base=self.base()["weights_sha256"])

    def pair_trials(self) -> dict[str, Any]:
        """One pair's training of the base detector, by each of the preset's `pair_trainings`, without a teacher and
        under the largest, with several orders of the batches, the same for all.

        "before": AP of the base detector, "after": of each training its "alone" and "taught", a list each, as
        `mean_precision` has it, and "cpu_seconds" of a taught one. "cost": what one channel pruning leaves of the base
        detector's.
        """
        preset, morphism = self.preset, self.preset.search.morphism

        def make(run: Run) -> dict[str, Any]:
            base = partial(read_base, Path(self.base()["file"]), self.device)
            teachers = {"alone": None, "taught": self.teacher(preset.teachers.largest())}
            after = []
            for number, optimisation in enumerate(preset.pair_trainings):
                row: dict[str, Any] = {how: [] for how in teachers}
                for how, teacher in teachers.items():
                    reports = []
                    for order in range(preset.pair_orders):
                        stage, training = f"{number}-{how}-{order}", self.training(optimisation, drawn_as=str(order))
                        pupil = self._pupil(base(), teacher)
                        reports.append(train_pupil(run, stage, pupil, teacher, self.batches(), preset, training))
                        row[how].append(self.mean_precision(pupil.student))
                after.append(row | {"cpu_seconds": together(reports)["cpu_seconds"] / len(reports)})
            whole, pruned = base(), evolve(base(), ChannelPruning(morphism.percentage), settings=morphism)
            cost, left = (count(each, preset.base_size).macs_mmdet for each in (whole, pruned))
            return {"before": self.mean_precision(whole), "after": after, "cost": left / cost}

        return self.once(f"pair-trials-{self.name}", make, base=self.base()["weights_sha256"])

    def train_on(self, run: Run, number: int, parent: Pupil, teacher: TwoStage | None) -> tuple[Pupil, FitReport]:
        """One pair of several in one run: the parent's student as it is, trained as a pair's is."""
        pupil, stage = child_of(parent, None, 0, self.preset.search.morphism), f"pair-{number}"
        training = self.training(self.preset.pair_training)
        report = train_pupil(run, stage, pupil, teacher, self.batches(), self.preset, training)
        pupil.moments = run.load_weights(f"{stage}-moments")[0]
        return pupil, report

    def pruned(self, percentage: int) -> dict[str, Any]:
        """The base detector after one channel pruning (0: none) and some training without a teacher."""

        def make(run: Run) -> dict[str, Any]:
            student = self._pruned_at_once(percentage)
            took = self.train_student(run, student, self.preset.pruning_training, None)
            return {**self.report(student, self.preset.base_size), **took}

        base = self.base()["weights_sha256"]
        return self.once(f"pruned-{self.name}-{percentage}", make, base=base)

    def distilled(self, teacher: str, method: Literal["ours", "imitation"]) -> dict[str, Any]:
        """A detector as fresh as the base was, trained as long on the same batches, but under one of the equivalents,
        out of the pool; as `base`. As in the base's training, no L_BN is part of the loss."""
        preset = self.preset

        def make(run: Run) -> dict[str, Any]:
            if method == "imitation":
                student, network = as_described(self.base_detector()), self.teacher(dict(preset.equivalents)[teacher])
                took = self._train_imitator(run, student, network)
            else:
                student, took = self._taught_as_base(run, teacher, preset.base_training)
            return {**self.report(student, preset.base_size), **took}

        return self.once(f"distilled-{self.name}-{method}", make, teacher=teacher)

    def _taught_as_base(
        self, run: Run, teacher: str, optimisation: Optimisation, stage: str = "student"
    ) -> tuple[TwoStage, dict[str, Any]]:
        student, network = as_described(self.base_detector()), self.teacher(dict(self.preset.equivalents)[teacher])
        morphism = replace(self.preset.search.morphism, gamma_weight=0.0)
        unpenalised = replace(self.preset, search=replace(self.preset.search, morphism=morphism))
        return student, self.train_student(run, student, optimisation, network, unpenalised, _AS_BASE, stage)

    def longer(self, teacher: str) -> dict[str, Any]:
        """A detector as fresh as the base was, trained alone for as many CPU seconds as one under the teacher; as
        `base`."""
        epoch, epochs = lasting(self.preset.base_training, 1), self.preset.base_training.epochs
        times = self.times_as_long(
            f"{self.name}-{teacher}",
            lambda run, stage: self._taught_as_base(run, teacher, epoch, stage)[1]["cpu_seconds"],
            lambda run, stage: self.train_detector(run, self.base_detector(), epoch, stage).cpu_seconds,
        )

        def make(run: Run) -> dict[str, Any]:
            network, optimisation = self.base_detector(), lasting(self.preset.base_training, round(times * epochs))
            took = spent(self.train_detector(run, network, optimisation))
            return {**self.report(network, self.preset.base_size), **took}

        return self.once(f"longer-{self.name}", make, teacher=teacher)

    def train_student(
        self,
        run: Run,
        student: TwoStage,
        optimisation: Optimisation,
        teacher: TwoStage | None,
        preset: Preset | None = None,
        drawn_as: str | None = None,
        stage: str = "student",
    ) -> dict[str, Any]:
        """Train a student, in place, all along under one teacher, or under none; what it took.

        preset: whose weights the loss of section 3.3 has; None means the study's. drawn_as: see `Training`.
        """
        pupil, training = self._pupil(student, teacher), self.training(optimisation, drawn_as=drawn_as)
        return spent(train_pupil(run, stage, pupil, teacher, self.batches(), preset or self.preset, training))

    def _train_imitator(self, run: Run, student: TwoStage, teacher: TwoStage) -> dict[str, Any]:
        """The same by fine-grained feature imitation, as long as the base detector and on its batches."""
        torch.manual_seed(self.seed)
        model = self.placed(Imitator(student, teacher.fpn.width))

        def losses(batch: Batch, _: Step) -> Iterator[dict[str, Tensor]]:
            yield model.losses(batch, teacher)

        training = self.training(self.preset.base_training, drawn_as=_AS_BASE)
        return spent(fit(run, "student", model, self.batches(), losses, training))

    # ---- pipelines and the cascade: Tables 5 and 6

    def penalised(self) -> dict[str, Any]:
        """The base detector, trained as long on the same batches, but with L_BN from the start, for Table 5: as
        `base`."""
        what = f"penalised-{self.name}"

        def make(run: Run) -> dict[str, Any]:
            student = as_described(self.base_detector())
            took = self.train_student(run, student, self.preset.base_training, None, drawn_as=_AS_BASE)
            return self._written(run, student, took)

        return self.once(what, make) | self._detector_of(what)

    def pipeline(self, name: Literal["prune-kd", "nas-prune-kd"], choice: str = "none") -> dict[str, Any] | None:
        """One thing after the other, with as many trainings as the search's slim pair had: (architecture search,)
        pre-training with L_BN, pruning to that pair's backbone cost, distillation from the largest teacher; judged at
        its size. "before": what was pruned. None where the search has no slim pair. choice: of `other_pipelines`."""
        goal = self.search()["slim"]
        preset = self.preset if choice == "none" else other_pipelines(self.preset)[choice]
        if goal is None:
            return None
        from_the_start = name == "prune-kd" and preset.penalised_base and self.given is None

        def make(run: Run) -> dict[str, Any]:
            took = {"samples": 0, "cpu_seconds": 0.0}
            if name == "prune-kd":
                file, left = (self.penalised() if from_the_start else self.base())["file"], goal["depth"]
            else:
                nas = self.upgraded("nas")
                took = {key: nas[key] for key in took}
                file, left = nas["file"], max(2, goal["depth"] - nas["depth"])
            pupil, reports, before = self._pupil(read_base(Path(file), self.device)), [], {}
            cost, morphism = goal["backbone_macs_at_base_size"], preset.search.morphism
            penalised = 0 if from_the_start else int(left * preset.penalised_share)
            teacher = self.teacher(preset.teachers.largest())
            for number in range(max(1, left)):
                if number == penalised:
                    before = self.report(pupil.student, preset.base_size)
                    network = pupil.student
                    kept = kept_at_cost(network.backbone, cost, preset.base_size, morphism)
                    network = keep_channels(network, kept)
                    self.settle(network)
                    pupil = self._pupil(network, teacher)
                pupil, report = self.train_on(run, number, pupil, None if number < penalised else teacher)
                reports.append(report)
            trained = together(reports)
            trained |= {key: trained[key] + number for key, number in took.items()}
            return {**self.report(pupil.student, tuple(goal["size"])), **trained, "before": before}

        asked = {} if choice == "none" else {"penalised_share": preset.penalised_share}
        return self.once(self.named("pipeline", name if choice == "none" else f"{name}-{choice}"), make, **asked)

    def cascade(self) -> dict[str, Any]:
        """What the search found, with deformable convolutions and a cascade of heads and trained on, at all sizes under
        the largest teacher (Table 6's X101-Cascade): as `base`, at the base size."""
        preset, what = self.preset, self.named("cascade")

        def make(run: Run) -> dict[str, Any]:
            found = read_base(Path(self.upgraded()["file"]), self.device)
            teacher = self.teacher(preset.teachers.largest())
            pupil = self._pupil(with_cascade_and_deformable(found, preset.cascade), teacher)

            def losses(batch: Batch, _: Step) -> Iterator[dict[str, Tensor]]:
                teaching = taught_by(teacher, batch.images)
                yield cascade_losses(pupil.student(batch.images), batch, teaching, pupil.adapter, preset.distillation)

            report = fit(run, "detector", pupil, self.batches(), losses, self.training(preset.cascade.optimisation))
            return self._written(run, pupil.student, spent(report))

        return self.once(what, make) | self._detector_of(what)


def together(reports: Sequence[FitReport]) -> dict[str, Any]:
    """What several trainings took."""
    return {name: sum(getattr(each, name) for each in reports) for name in ("seconds", "cpu_seconds", "samples")}


def pair_folder(pairs: Path, number: int) -> Path:
    """Where a pair is trained, and its weights stay."""
    return pairs / f"{number:04d}"


def read_base(file: Path, device: str = "cpu") -> TwoStage:
    """The base detector of a file (see `common.models.detector`) as a student; `InputError` where it cannot be one."""
    network = load_detector(file, device).model
    if not isinstance(network, TwoStage) or not isinstance(network.fpn, FPN):
        raise InputError(
            f"{file} is no detector that can be upgraded: give a two-stage detector on a feature pyramid, such as "
            "python -m joint_detnas.train writes"
        )
    try:
        check_distillable(network)
        return as_described(network).requires_grad_(True)
    except InputError as error:
        raise InputError(f"{file} cannot be upgraded: {error}") from error


def steps(history: History) -> list[dict[str, Any]]:
    """A history as JSON: each step with its action, parent, score, cost, resolution, and what it brought."""
    return [
        {
            **pair.to_dict(),
            "step": pair.step,
            "kind": pair.kind,
            "generation": pair.generation,
            "depth": len(history.behind(pair)),
            "score": pair.score,
            "cost": pair.cost,
            "resolution": pair.resolution,
            "increment": history.increment(pair) if pair.number else None,
        }
        for pair in history.pairs
    ]


def resolution_costs(architecture: Architecture, size: Size) -> list[int]:
    """Multiply-accumulates of a backbone at strides 4, 8, 16 and 32, without the stem."""
    parts, costs, place = backbone_cost(architecture, size).parts, [0] * len(STRIDES), 0
    for number in range(1, len(architecture.stages) + 1):
        costs[place] += parts[f"stage{number}"]["macs_mmdet"]
        if number in architecture.feature_stages:
            place += 1
    if "head" in parts:
        costs[-1] += parts["head"]["macs_mmdet"]
    return costs


def _fresh_pool(preset: Preset, categories: int) -> Shrinking:
    return Shrinking(TeacherPool(preset.teachers, categories, *both_stages(preset.detector)))


@lru_cache(maxsize=1)
def _trained_pool(preset: Preset, categories: int, folder: Path, device: str) -> TeacherPool:
    """The finished pool of a folder, read once a process."""
    with torch.random.fork_rng(devices=[]):  # what is drawn next must not depend on whether the pool was read before
        model = _fresh_pool(preset, categories)
    last = preset.shrinking.phases[-1].name
    load_strictly(model, Run.read(folder).load_weights(last)[0], str(folder / f"{last}.safetensors"))
    return model.to(device, memory_format=torch.channels_last).pool


def _on_disk(file: Path) -> dict[str, str]:
    """Where a detector lies, and which weights those are."""
    return {"file": str(file), "weights_sha256": read_json(file.with_suffix(".json"))["weights_sha256"]}


def _listed(names: Sequence[str]) -> str:
    return f"{len(names)} classes ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
