"""Table 6's X101-Cascade: a found detector given deformable convolutions and a cascade of heads, and trained on.

"We obtain the X101-Cascade model by upgrading the searched X101-based detector with DCN and Cascade head, and further
fine-tune it for 16 epochs with HTC teacher" (Table 6: 1333x800, AP 50.7).

    network = with_cascade_and_deformable(found, settings)
    losses = cascade_losses(network(batch.images), batch, teaching, adapter, distillation)

Training begins with all that the found detector knows. Deformable convolutions (Dai et al., 2017) have offsets 0 at
first, which makes them the plain ones. Every head of the cascade (Cai, Vasconcelos, 2018) is a copy of the found one,
its codes brought to the deviations of the stage, so that each says the same of a region, box and classes.

Differences from the paper, which tells no more than the sentence above:

1. The largest teacher of the pool stands in for HTC, which learns from masks of objects; detection sets have none. It
   knows one head, trained at IoU .5, and teaches the first one, and with it the features that all heads read. Regions
   are a sample of their own from the student's proposals. f_adap begins as the identity.
2. Deformable are the 3x3 convolutions at strides 8, 16 and 32 (conv3 to conv5), of a basic block the second one
   (`deformable_strides`).
3. There are three heads (`later_stages`). They keep a box for each class, as the found head has it, and hand the
   likeliest class's on; Cascade R-CNN has one box for all classes, which the found head never learned.
4. Training is at all sizes, like all others here. Only its 16 epochs are printed (`optimisation`).
"""

from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from common.batch import Batch
from common.models.matching import visible_objects
from common.models.outline import outline
from common.models.roi_head import CASCADE, Stage, sample_regions
from common.models.two_stage import TwoStage, TwoStageOutputs, two_stage_losses
from common.plain import InputError
from common.settings import Optimisation
from joint_detnas.distillation import (
    DistillationSettings,
    RegionAdapter,
    Teaching,
    check_distillable,
    distillation_losses,
    look_at,
)
from joint_detnas.students import STRIDES, StudentBackbone, as_student


@dataclass(frozen=True)
class CascadeSettings:
    """What a found detector is given, and how it is trained on."""

    optimisation: Optimisation
    """Of that training (paper: 16 epochs)."""
    deformable_strides: tuple[int, ...] = (8, 16, 32)
    """Stages at these strides have deformable convolutions."""
    later_stages: tuple[Stage, ...] = CASCADE[1:3]
    """Heads behind the found one: the IoU from which their regions are positive, weight of their losses, deviations."""

    def __post_init__(self) -> None:
        if not set(self.deformable_strides) <= set(STRIDES):
            raise InputError(f"deformable strides {self.deformable_strides}: a student has stages at {STRIDES}")


# ------------------------------------------------------------------------------------------------------------------
# The network
# ------------------------------------------------------------------------------------------------------------------


def with_cascade_and_deformable(detector: TwoStage, settings: CascadeSettings) -> TwoStage:
    """A detector as the found one, with deformable convolutions and further heads; filled with copies of its weights.

    InputError where the detector is none that a search could have found: a pyramid, a plain RPN and one head, on a
    student's backbone or one that a student can be made of.
    """
    check_distillable(detector)
    student = as_student(detector)
    backbone, roi = student.backbone, student.roi.settings
    strides = enumerate(backbone.architecture.stage_strides, 1)
    deformable = [number for number, stride in strides if stride in settings.deformable_strides]
    roi = replace(roi, stages=(*roi.stages, *settings.later_stages))
    with outline():
        new = TwoStage.from_config(
            student.config() | {"roi": asdict(roi)}, StudentBackbone(backbone.architecture, backbone.norm, deformable)
        )
    weights, device = student.state_dict(), next(student.parameters()).device
    for name, like in new.state_dict().items():
        if ".offset." in name:
            weights[name] = torch.zeros(like.shape, device=device)
    for number, stage in enumerate(settings.later_stages, 1):
        weights |= {f"roi.heads.{number}.{name}": each for name, each in _head_of(student, stage).items()}
    new.load_state_dict(weights, assign=True)
    return new.train(detector.training)


def _head_of(student: TwoStage, stage: Stage) -> dict[str, Tensor]:
    """The weights of the student's head, as those of a stage with other deviations."""
    weights = {name: each.clone() for name, each in student.roi.heads[0].state_dict().items()}
    own = student.roi.settings.stages[0].deviations
    for name in ("codes.weight", "codes.bias"):
        ratio = weights[name].new_tensor(own) / weights[name].new_tensor(stage.deviations)  # of x, y, width, height
        by_code = weights[name].unflatten(0, (-1, 4))  # (K or 1, 4, ...)
        weights[name] = (by_code * ratio.view(4, *[1] * (by_code.dim() - 2))).flatten(0, 1)
    return weights


# ------------------------------------------------------------------------------------------------------------------
# Its training
# ------------------------------------------------------------------------------------------------------------------


def cascade_losses(
    outputs: TwoStageOutputs,
    batch: Batch,
    teaching: Teaching,
    adapter: RegionAdapter,
    settings: DistillationSettings | None = None,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Detection losses of all heads, and what a teacher adds by the first one; float32 scalars.

    loss: the sum, the teacher's part weighted by `settings`. rpn_objectness, rpn_box, roi_class, roi_box: see
    `two_stage_losses`. distil_feature, distil_class, distil_box: see `distillation_losses`, not weighted.

    outputs: of a student in training mode. teaching: see `taught_by`. Gradients reach the student and the adapter.
    """
    settings = settings or DistillationSettings()
    network = outputs.network
    roi = network.roi.settings
    losses = two_stage_losses(outputs, batch, generator)
    objects, overlap = visible_objects(batch), roi.stages[0].overlap
    regions = sample_regions(outputs.proposals, objects, overlap, network.categories, roi, generator)
    student, teacher = look_at(network, outputs.maps, regions.boxes), teaching(regions.boxes)
    most_positive = int(roi.samples * roi.positive_share)
    taught = distillation_losses(student, teacher, regions, adapter, most_positive, settings.relative_features)
    return {**losses, **taught, "loss": sum(settings.weighted(taught), losses["loss"])}
