"""One pair trained and measured, and what it stands on: the base detector, and the pool that teachers come from."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from common.batch import Batch
from common.cost import count
from common.data.batches import ResolutionBatches
from common.letterbox import padded
from common.models.architectures import ARCHITECTURES
from common.models.described import Architecture, DescribedBackbone, as_described, on_backbone
from common.models.detector import load_detector
from common.models.fpn import FPN
from common.models.mobilenet import MobileNetV2
from common.models.resnet import ResNet
from common.models.two_stage import TwoStage, two_stage_losses
from common.plain import InputError
from common.settings import Optimisation
from common.train import laboratory
from common.train.checkpoint import load_strictly
from common.train.laboratory import STANDARD_WIDTH
from common.train.loop import FitReport, Step, Training, fit
from common.train.run_folder import Run
from joint_detnas.baselines import Imitator, cascade_losses, with_cascade_and_deformable
from joint_detnas.method import (
    Judge,
    Pair,
    Pupil,
    Shrinking,
    TeacherPool,
    both_stages,
    build_teacher,
    check_distillable,
    child_of,
    described,
    integrated_progressive_shrinking,
    taught_by,
    train_pupil,
)
from joint_detnas.presets import Preset, Size, Teacher, size_name

POOL = "teacher-pool"  # the name of the largest teacher's backbone


@dataclass(frozen=True)
class Laboratory(laboratory.Laboratory):
    """Data of one seed, and the training of detectors on it; see `common.train.laboratory`."""

    preset: Preset
    paper: ClassVar[str] = "joint_detnas"

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
        teacher = space.largest() if name == POOL else Teacher.parse(name)
        return DescribedBackbone(described(space, teacher)[0])

    def batches(self, seed: int | None = None) -> ResolutionBatches:
        """Training batches at a size drawn anew for each step. seed: of all draws (none: the laboratory's)."""
        parts = {
            padded(size): self.training_batches(padded(size), self.preset.batch_size, seed)
            for size in self.preset.sizes
        }
        return ResolutionBatches(parts, self.seed if seed is None else seed)

    def precisions(self, network: nn.Module, where: str) -> dict[Size, dict[str, float]]:
        """The 12 COCO numbers at every size."""
        return {size: self.precision_at(network, padded(size), where) for size in self.preset.sizes}

    # ---- detectors without a teacher

    def base_detector(self, backbone: str) -> TwoStage:
        """A fresh one on a backbone that was trained on classification, its other weights drawn by the seed."""
        torch.manual_seed(self.seed)
        settings, network = self.preset.detector, self.backbone(backbone)
        fpn = FPN(network.out_channels, width=settings.neck_width)
        return self._pretrained(TwoStage(network, len(self.categories), fpn, *both_stages(settings)), backbone)

    def equivalent(self, teacher: Teacher) -> TwoStage:
        """The network of a teacher, fresh as a base detector is, to be trained without the pool."""
        torch.manual_seed(self.seed)
        stages = both_stages(self.preset.detector)
        return self._pretrained(
            build_teacher(self.preset.teachers, teacher, len(self.categories), *stages), str(teacher)
        )

    def _pretrained(self, detector: TwoStage, backbone: str) -> TwoStage:
        weights = self.pretrained(backbone)
        detector.backbone.load_state_dict({name: weights[name] for name in detector.backbone.state_dict()})
        # Thin convolutions run 1.4 to 1.7 times faster with the channels last, on CPUs and on GPUs.
        return detector.to(self.device, memory_format=torch.channels_last)

    def train_detector(self, run: Run, network: TwoStage) -> FitReport:
        """Train a detector at all sizes ("2x+ms"), in place."""

        def losses(batch: Batch, _: Step):
            yield two_stage_losses(network(batch.images), batch)

        training = Training(self.preset.base_training, self.seed, self.device, self.precision)
        return fit(run, "detector", network, self.batches(), losses, training)

    # ---- the pool of teachers

    def fresh_pool(self) -> Shrinking:
        """The pool before any training, drawn by the seed."""
        torch.manual_seed(self.seed)
        pool = TeacherPool(self.preset.teachers, len(self.categories), *both_stages(self.preset.detector))
        return Shrinking(pool).to(self.device, memory_format=torch.channels_last)

    def train_pool(self, run: Run) -> list[FitReport]:
        """Integrated progressive shrinking, from a pre-trained backbone of the largest teacher."""
        model = self.fresh_pool()
        settings = self.preset.shrinking
        if run.stage_done(settings.phases[0].name) is None:
            model.pool.backbone.load_state_dict(self.pretrained(POOL))
        training = Training(settings.optimisation, self.seed, self.device, self.precision)
        return integrated_progressive_shrinking(run, model, self.batches(), settings, training)

    def teacher(self, pool: Path, teacher: Teacher) -> TwoStage:
        """A teacher out of the finished pool in a folder, its batch-norm statistics reset."""
        return _pool(self, pool).ready(teacher, self._calibration())

    def _calibration(self) -> Iterator[Tensor]:
        for size in self.preset.sizes:
            yield self.training_images(padded(size), self.preset.calibration_images)

    # ---- one student under one teacher

    def train_student(
        self, run: Run, student: TwoStage, optimisation: Optimisation, teacher: TwoStage | None, imitation: bool = False
    ) -> FitReport:
        """Train a student, in place, all along under one teacher, or under none.

        imitation: by fine-grained feature imitation; else by the loss of section 3.3.
        """
        training = Training(optimisation, self.seed, self.device, self.precision)
        if not imitation:
            return train_pupil(run, "student", self._pupil(student), teacher, self.batches(), self.preset, training)
        model = Imitator(student, teacher.fpn.width).to(self.device, memory_format=torch.channels_last)

        def losses(batch: Batch, _: Step):
            yield model.losses(batch, teacher)

        return fit(run, "student", model, self.batches(), losses, training)

    # ---- a pair

    def train_pair(
        self, pair: Pair, base: Path, pool: Path, pairs: Path, judge: Judge, taught: bool = True
    ) -> dict[str, Any]:
        """A pair made from its parent's weights, trained with its teacher and measured at all sizes.

        base: the base detector's file. pairs: a folder for each pair that was trained; this one's, too, where its
        weights stay. taught: if not, the teacher is left out. One that was broken off goes on.
        """
        config = {"pair": pair.to_dict(), "data": self.data, "seed": self.seed, "precision": self.precision}
        with Run.open(pair_folder(pairs, pair.number), config) as run:
            if pair.parent is None:
                pupil, spent = self._first_pupil(run, base), {}
            else:
                pupil, report = self._train_pupil(run, pair, base, pool if taught else None, pairs)
                spent = {"train_seconds": report.seconds, "train_cpu_seconds": report.cpu_seconds}
                spent |= {"losses": report.losses, "peak_memory": report.peak_memory}
            return self._measured(pupil.student, judge) | spent

    def _first_pupil(self, run: Run, base: Path) -> Pupil:
        """The base detector as pair 0, not trained any further."""
        pupil = self._pupil(read_base(base, self.device))
        if not run.has_weights("pair"):
            run.write_json("student", pupil.student.backbone.architecture.to_dict())
            run.save_weights("pair", pupil.state_dict())
        return pupil

    def _train_pupil(self, run: Run, pair: Pair, base: Path, pool: Path | None, pairs: Path) -> tuple[Pupil, FitReport]:
        preset, number = self.preset, pair.number
        parent = self.pupil(base, pair_folder(pairs, pair.parent))
        pupil = child_of(parent, pair.action, _seed(self.seed, number, 1), preset.search.morphism)
        run.write_json("student", pupil.student.backbone.architecture.to_dict())
        teacher = None if pool is None else self.teacher(pool, pair.teacher)
        seed = _seed(self.seed, number)  # each pair its own order
        training = Training(preset.pair_training, seed, self.device, self.precision)
        report = train_pupil(run, "pair", pupil, teacher, self.batches(seed), preset, training)
        return pupil, report

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

    def _pupil(self, student: TwoStage) -> Pupil:
        space = self.preset.teachers
        pupil = Pupil(student, space.neck_channels(space.largest())).requires_grad_(True)
        return pupil.to(self.device, memory_format=torch.channels_last)

    def pupil(self, base: Path, folder: Path) -> Pupil:
        """The student of a trained pair with its f_adap, from the pair's folder."""
        run = Run.read(folder)
        weights, _ = run.load_weights("pair")
        like = read_base(base, self.device)
        architecture = Architecture.from_dict(run.read_json("student"))
        inside = {name.removeprefix("student."): each for name, each in weights.items() if name.startswith("student.")}
        pupil = self._pupil(on_backbone(like, architecture, like.backbone.norm, inside))
        load_strictly(pupil, weights, str(folder / "pair.safetensors"))
        return pupil

    # ---- beyond the search

    def train_cascade(self, run: Run, found: Path, pool: Path) -> tuple[TwoStage, FitReport]:
        """The detector of a file with what `cascade` gives it, trained at all sizes with the largest teacher."""
        preset = self.preset
        pupil = self._pupil(with_cascade_and_deformable(read_base(found, self.device), preset.cascade))
        teacher = self.teacher(pool, preset.teachers.largest())

        def losses(batch: Batch, _: Step):
            teaching = taught_by(teacher, batch.images)
            yield cascade_losses(pupil.student(batch.images), batch, teaching, pupil.adapter, preset.distillation)

        training = Training(preset.cascade.optimisation, self.seed, self.device, self.precision)
        report = fit(run, "detector", pupil, self.batches(), losses, training)
        return pupil.student, report


def _seed(*entropy: int) -> int:
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])


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


@lru_cache(maxsize=1)
def _pool(of: Laboratory, folder: Path) -> TeacherPool:
    """The finished pool of a folder, read once a process."""
    with torch.random.fork_rng(devices=[]):  # what is drawn next must not hang on whether the pool was read before
        model = of.fresh_pool()
    last = of.preset.shrinking.phases[-1].name
    load_strictly(model, Run.read(folder).load_weights(last)[0], str(folder / f"{last}.safetensors"))
    return model.pool
