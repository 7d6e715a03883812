"""What Joint-DetNAS is compared with, and what Table 6 makes of a found detector.

    Table 3   fine-grained feature imitation (Wang et al., 2019)     Imitator, imitated_losses
    Table 6   X101-Cascade: deformable convolutions and a cascade    with_cascade_and_deformable, cascade_losses

"We obtain the X101-Cascade model by upgrading the searched X101-based detector with DCN and Cascade head, and further
fine-tune it for 16 epochs with HTC teacher" (Table 6: 1333x800, AP 50.7). Its training begins with all that the found
detector knows: deformable convolutions (Dai et al., 2017) with offsets 0 are the plain ones, and every head of the
cascade (Cai, Vasconcelos, 2018) is a copy of the found one, its codes brought to the deviations of the stage, so that
each says the same of a region, box and classes. A number in brackets is that of a difference in README.md.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace

import torch
from torch import Tensor, nn

from common.batch import Batch
from common.models.boxes import pairwise_iou
from common.models.described import DescribedBackbone, as_described
from common.models.divisor import divisor
from common.models.matching import visible_objects
from common.models.outline import outline
from common.models.roi_head import CASCADE, Stage, sample_regions
from common.models.two_stage import TwoStage, TwoStageOutputs, look_at, two_stage_losses
from joint_detnas.method import (
    DISTILLATION,
    RegionAdapter,
    Teaching,
    check_distillable,
    distillation_losses,
    teacher_maps,
)
from joint_detnas.presets import CascadeSettings, DistillationSettings, ImitationSettings

IMITATION = ImitationSettings()

# ---- Table 3: "Distilling Object Detectors with Fine-grained Feature Imitation" (29)


@torch.no_grad()
def near_objects(anchors: Tensor, boxes: Tensor, valid: Tensor, settings: ImitationSettings = IMITATION) -> Tensor:
    """Which anchors (N, 4), of all levels, are near an object (B, G, 4), valid (B, G): (B, N) bool.

    An object that no anchor overlaps has none near it.
    """
    overlaps = torch.where(valid.unsqueeze(-1), pairwise_iou(boxes, anchors), 0.0)  # (B, G, N)
    return (overlaps > settings.factor * overlaps.amax(dim=2, keepdim=True)).any(dim=1)


def imitation_loss(
    student: Sequence[Tensor], teacher: Sequence[Tensor], near: Sequence[Tensor], adapter: nn.Conv2d
) -> Tensor:
    """Squared error summed over channels at the cells near objects, over twice their number; float32 scalar.

    student, teacher: levels (B, C, H_l, W_l). near: (B, H_l, W_l) bool of each level.
    """
    distances = [
        ((adapter(own).float() - other.float()).square().sum(dim=1) * mask).sum()
        for own, other, mask in zip(student, teacher, near, strict=True)
    ]
    cells = divisor(torch.stack([mask.sum() for mask in near]).sum())
    return torch.stack(distances).sum() / (2 * cells)


def imitated_losses(
    outputs: TwoStageOutputs,
    batch: Batch,
    maps: Sequence[Tensor],
    adapter: nn.Conv2d,
    settings: ImitationSettings = IMITATION,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Detection losses and fine-grained feature imitation of a student's outputs, float32 scalars.

    loss: the sum, imitation weighted. imitation: not weighted. The rest: see `two_stage_losses`.
    maps: the teacher's levels on the same images (`teacher_maps`), of the student's strides.
    """
    losses = two_stage_losses(outputs, batch, generator)
    boxes, _, valid = visible_objects(batch)
    near = near_objects(outputs.rpn["anchors"], boxes, valid, settings)
    near = near.unflatten(1, (-1, outputs.network.rpn.anchors.per_cell)).any(dim=2)  # (B, cells of all levels)
    shapes = [each.shape[-2:] for each in outputs.maps]
    masks = [
        part.unflatten(1, shape)
        for part, shape in zip(near.split([shape.numel() for shape in shapes], dim=1), shapes, strict=True)
    ]
    imitation = imitation_loss(outputs.maps, maps, masks, adapter)
    return {**losses, "loss": losses["loss"] + settings.weight * imitation, "imitation": imitation}


class Imitator(nn.Module):
    """What training by fine-grained feature imitation changes: the student, and a 3x3 convolution, one for all levels,
    from its maps to its teacher's.
    """

    def __init__(self, student: TwoStage, teacher_channels: int) -> None:
        super().__init__()
        self.student = student
        self.adapter = nn.Conv2d(student.fpn.width, teacher_channels, 3, padding=1)

    def losses(self, batch: Batch, teacher: TwoStage) -> dict[str, Tensor]:
        """See `imitated_losses`. teacher: in evaluation mode."""
        return imitated_losses(self.student(batch.images), batch, teacher_maps(teacher, batch.images), self.adapter)


# ---- Table 6: X101-Cascade


def with_cascade_and_deformable(detector: TwoStage, settings: CascadeSettings) -> TwoStage:
    """A detector as the found one, with deformable convolutions (38) and further heads (39), filled with copies of its
    weights.

    InputError where the detector is none that a search could have found: a pyramid, a plain RPN and one head, on a
    described backbone or one that can be described.
    """
    check_distillable(detector)
    student = as_described(detector)
    backbone, roi = student.backbone, student.roi.settings
    strides = enumerate(backbone.architecture.stage_strides, 1)
    deformable = [number for number, stride in strides if stride in settings.deformable_strides]
    later = CASCADE[1 : settings.heads]
    roi = replace(roi, stages=(*roi.stages, *later))
    with outline():
        new = TwoStage.from_config(
            student.config() | {"roi": asdict(roi)}, DescribedBackbone(backbone.architecture, backbone.norm, deformable)
        )
    weights, device = student.state_dict(), next(student.parameters()).device
    for name, like in new.state_dict().items():
        if ".offset." in name:
            weights[name] = torch.zeros(like.shape, device=device)
    for number, stage in enumerate(later, 1):
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


def cascade_losses(
    outputs: TwoStageOutputs,
    batch: Batch,
    teaching: Teaching,
    adapter: RegionAdapter,
    settings: DistillationSettings = DISTILLATION,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Detection losses of all heads, and what a teacher adds by the first one (37); float32 scalars.

    loss: the sum, the teacher's part weighted by `settings`. rpn_objectness, rpn_box, roi_class, roi_box: see
    `two_stage_losses`. distil_feature, distil_class, distil_box: see `distillation_losses`, not weighted.

    outputs: of a student in training mode. teaching: see `taught_by`; of a sample of its own from the student's
    proposals. Gradients reach the student and the adapter.
    """
    network = outputs.network
    roi = network.roi.settings
    losses = two_stage_losses(outputs, batch, generator)
    objects, overlap = visible_objects(batch), roi.stages[0].overlap
    regions = sample_regions(outputs.proposals, objects, overlap, network.categories, roi, generator)
    student, teacher = look_at(network, outputs.maps, regions.boxes), teaching(regions.boxes)
    taught, parts = distillation_losses(student, teacher, regions, adapter, roi, settings)
    return {**losses, **parts, "loss": losses["loss"] + taught}
