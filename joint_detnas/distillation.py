"""Knowledge distillation for detection (Joint-DetNAS, section 3.2), and the method that Table 3 compares it with.

    teaching = taught_by(teacher, batch.images)                     # a TwoStage in evaluation mode; no gradient
    losses = distilled_losses(student(batch.images), batch, teaching, adapter)
    losses["loss"].backward()                                       # reaches the student and the adapter

Teacher and student are two-stage detectors on pyramids. Both look at the same regions, those that the student's own
second stage is trained on; so the teacher runs its backbone and neck on the images, and its head on those regions, but
never its RPN. Fine-grained feature imitation (`imitated_losses`) needs the teacher's maps alone.

Differences from the paper, where it is silent or its formula leaves a choice:

1. The regions are the sample of proposals (and objects) that the student's detection losses draw, 512 an image, rather
   than all proposals. "Mask's positive points" are the cells of the RoI features of the positive ones among them, so
   the feature loss is divided by positive regions x bins x bins.
2. f_adap is one 1x1 convolution for all levels, and starts as the identity as far as the channels go. Where teacher and
   student agree in width it can be left out (`identity_where_equal`).
3. Class probabilities are softmaxes at temperature 1. Of the soft cross-entropy the teacher's own entropy is taken off,
   a constant: without it a student that agrees in all would still have a loss.
4. Coordinates enter as the box codes that the heads put out, not as pixels, and their four distances are summed up. N
   is the number of sampled regions, background included; there the teacher's foreground probabilities are small anyway.
5. The three weights are 1; the paper prints none.
6. Fine-grained feature imitation, which its paper describes on one map, works on all levels of the pyramid: a cell is
   near an object where an anchor overlaps it by more than half of what the best of all anchors does, of all levels or
   (`per_level`) of its own. One 3x3 convolution adapts the maps; the weight .01 is that of the authors' release.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.batch import Batch
from common.models.boxes import pairwise_iou
from common.models.elastic import first_channels
from common.models.matching import visible_objects
from common.models.roi_head import Regions, region_losses, sample_regions
from common.models.rpn import RPN, rpn_losses
from common.models.two_stage import TwoStage, TwoStageOutputs, two_stage_losses
from common.plain import InputError

# ------------------------------------------------------------------------------------------------------------------
# What a network says of regions
# ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RegionOutputs:
    """What a two-stage network says of regions, S an image.

    features: (B, S, bins * bins, C) after RoIAlign. logits: (B, S, K + 1), the background last.
    codes: (B, S, K, 4) of a box for each class, or (B, S, 1, 4) of one for all.
    """

    features: Tensor
    logits: Tensor
    codes: Tensor


Teaching = Callable[[Tensor], RegionOutputs]  # what a teacher says of regions (B, S, 4) of the images at hand


def look_at(network: TwoStage, maps: Sequence[Tensor], boxes: Tensor) -> RegionOutputs:
    """What the second stage of `network` says of regions (B, S, 4) in pixels; maps: its levels."""
    head = network.roi
    features = head.features(maps, boxes)  # (B, S, bins * bins * C)
    logits, codes = head.heads[0](features.flatten(0, 1))
    S = boxes.shape[1]
    return RegionOutputs(
        features.unflatten(2, (head.bins**2, -1)), logits.unflatten(0, (-1, S)), codes.unflatten(0, (-1, S))
    )


@torch.no_grad()
def teacher_maps(teacher: TwoStage, images: Tensor) -> tuple[Tensor, ...]:
    """The levels of a teacher's pyramid on images (B, 3, H, W), without gradient.

    ValueError where the teacher is in training mode: its batch norm would learn from the student's images.
    """
    if teacher.training:
        raise ValueError("a teacher in training mode would change as it teaches: call eval() on it first")
    return teacher.fpn(teacher.backbone(images))


def taught_by(teacher: TwoStage, images: Tensor) -> Teaching:
    """What a teacher says of any regions of images (B, 3, H, W); it looks at the images once, now."""
    check_distillable(teacher)
    maps = teacher_maps(teacher, images)

    @torch.no_grad()
    def teaching(boxes: Tensor) -> RegionOutputs:
        return look_at(teacher, maps, boxes)

    return teaching


def check_distillable(network: TwoStage) -> None:
    """InputError where a network is no two-stage detector as section 3.2 has it: pyramid, plain RPN, one head."""
    if not isinstance(network.rpn, RPN) or len(network.roi.heads) != 1 or network.roi.shared is not None:
        raise InputError(
            "distillation is between two-stage detectors with a pyramid, a plain RPN and one head; this one has "
            f"{type(network.rpn).__name__}, {len(network.roi.heads)} heads"
            + (" and no pyramid" if network.roi.shared is not None else "")
        )


# ------------------------------------------------------------------------------------------------------------------
# 3.2.1 Feature-level Distillation
# ------------------------------------------------------------------------------------------------------------------


class RegionAdapter(nn.Linear):
    """f_adap: a 1x1 convolution on RoI features, from a student's channels to a teacher's.

    Elastic on both sides: it reads the first channels that a student has and gives the first that a teacher has, so
    that one adapter serves all the teachers of a pool. It starts as the identity as far as the channels go.
    identity_where_equal: leave features alone where student and teacher have the same number of channels.
    """

    def __init__(self, student_channels: int, teacher_channels: int, identity_where_equal: bool = False) -> None:
        super().__init__(student_channels, teacher_channels)
        self.identity_where_equal = identity_where_equal

    def reset_parameters(self) -> None:
        """Back to the identity."""
        nn.init.eye_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, features: Tensor, channels: int) -> Tensor:
        """Features (..., C) of a student as those of a teacher of so many channels: (..., channels)."""
        if self.identity_where_equal and features.shape[-1] == channels:
            return features
        weight = first_channels(self.weight, channels, features.shape[-1])
        return F.linear(features, weight, self.bias[:channels])


def feature_loss(
    student: Tensor, teacher: Tensor, positive: Tensor, adapter: RegionAdapter, relative: bool = False
) -> Tensor:
    """L_feat: squared error summed over channels, its mean over the cells of positive regions; float32 scalar.

    student, teacher: RoI features (B, S, P, C_student) and (B, S, P, C_teacher), P cells a region. positive: (B, S).
    relative: as a share of the teacher's own squares there, so that the loss does not hang on the scale of features,
    which nothing in a pyramid without norms keeps.
    """
    adapted = adapter(student, teacher.shape[-1])
    distance = ((adapted.float() - teacher.float()).square().sum(dim=(2, 3)) * positive).sum()
    if relative:
        return distance / (teacher.float().square().sum(dim=(2, 3)) * positive).sum().clamp(min=1e-6)
    return distance / (positive.sum().clamp(min=1) * student.shape[2])


# ------------------------------------------------------------------------------------------------------------------
# 3.2.2 Prediction-level Distillation
# ------------------------------------------------------------------------------------------------------------------


def prediction_losses(student: RegionOutputs, teacher: RegionOutputs, valid: Tensor) -> dict[str, Tensor]:
    """L_cls and L_loc, means over the regions that count, valid (B, S); float32 scalars.

    distil_class: soft cross-entropy with the teacher's class probabilities, less the teacher's own entropy.
    distil_box: |sum_i p_i (reg_i^t - reg_i^s)| over the foreground classes i, with the teacher's probabilities p.
    """
    probability = teacher.logits.float().softmax(dim=-1)  # (B, S, K + 1)
    divergence = F.kl_div(student.logits.float().log_softmax(dim=-1), probability, reduction="none").sum(dim=-1)
    apart = teacher.codes.float() - student.codes.float()  # (B, S, K or 1, 4)
    distance = (probability[..., :-1, None] * apart).sum(dim=2).abs().sum(dim=-1)  # (B, S)
    count = valid.sum().clamp(min=1)
    return {"distil_class": (divergence * valid).sum() / count, "distil_box": (distance * valid).sum() / count}


# ------------------------------------------------------------------------------------------------------------------
# 3.3 Overall loss, without the regularisation of batch norm that belongs to pruning
# ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DistillationSettings:
    """Weights of what a teacher adds to the detection losses; the paper prints none (difference 5)."""

    feature_weight: float = 1.0
    """Of the feature-level loss."""
    class_weight: float = 1.0
    """Of the soft cross-entropy."""
    box_weight: float = 1.0
    """Of the class-aware localisation."""
    relative_features: bool = False
    """Take the feature-level loss as a share of the teacher's own squares; see `feature_loss`."""

    def weighted(self, taught: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """The three losses of `distillation_losses`, each times its weight."""
        return (
            self.feature_weight * taught["distil_feature"],
            self.class_weight * taught["distil_class"],
            self.box_weight * taught["distil_box"],
        )


def distilled_losses(
    outputs: TwoStageOutputs,
    batch: Batch,
    teaching: Teaching,
    adapter: RegionAdapter,
    settings: DistillationSettings | None = None,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """L_det + L_feat + L_pred of a student's outputs, float32 scalars.

    loss: the sum, the teacher's part weighted by `settings`. rpn_objectness, rpn_box, roi_class, roi_box: those of
    `two_stage_losses`, and the same numbers for the same generator. distil_feature, distil_class, distil_box: see
    above, not weighted.

    outputs: of a student in training mode; InputError where it is a detector of another kind (`check_distillable`).
    teaching: see `taught_by`. Gradients reach the student and the adapter.
    """
    settings = settings or DistillationSettings()
    network = outputs.network
    check_distillable(network)
    roi = network.roi.settings
    stage = roi.stages[0]
    objects = visible_objects(batch)
    boxes, _, valid = objects
    losses = rpn_losses(network.rpn, outputs.maps, outputs.rpn, boxes, valid, generator)
    regions = sample_regions(outputs.proposals, objects, stage.overlap, network.categories, roi, generator)
    student = look_at(network, outputs.maps, regions.boxes)
    teacher = teaching(regions.boxes)
    for name, value in region_losses(student.logits, student.codes, regions, stage, roi.beta).items():
        losses[name] = stage.weight * value
    most_positive = int(roi.samples * roi.positive_share)
    taught = distillation_losses(student, teacher, regions, adapter, most_positive, settings.relative_features)
    return {"loss": sum(settings.weighted(taught), sum(losses.values())), **losses, **taught}


def distillation_losses(
    student: RegionOutputs,
    teacher: RegionOutputs,
    regions: Regions,
    adapter: RegionAdapter,
    most_positive: int,
    relative_features: bool = False,
) -> dict[str, Tensor]:
    """What a teacher adds, not weighted: distil_feature, distil_class, distil_box.

    most_positive: regions an image that can be positive at most. They come first, so features are compared no further.
    relative_features: see `feature_loss`.
    """
    first = slice(most_positive)
    features = student.features[:, first], teacher.features[:, first]
    return {
        "distil_feature": feature_loss(*features, regions.positive[:, first], adapter, relative_features),
        **prediction_losses(student, teacher, regions.valid),
    }


# ------------------------------------------------------------------------------------------------------------------
# Fine-grained feature imitation (Wang et al., "Distilling Object Detectors with Fine-grained Feature Imitation", 2019)
# ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImitationSettings:
    """Fine-grained feature imitation: FGFI of Table 3."""

    factor: float = 0.5
    """An anchor is near an object from so much of the greatest overlap (IoU) that any anchor has with it."""
    weight: float = 0.01
    """Of the imitation loss beside the detection losses."""
    per_level: bool = False
    """Take the greatest overlap over the anchors of a level, rather than of all levels."""


class MapAdapter(nn.Conv2d):
    """A 3x3 convolution from a student's maps (B, C_student, H, W) to a teacher's, one for all levels."""

    def __init__(self, student_channels: int, teacher_channels: int) -> None:
        super().__init__(student_channels, teacher_channels, 3, padding=1)


@torch.no_grad()
def near_objects(
    anchors: Tensor, boxes: Tensor, valid: Tensor, counts: Sequence[int], settings: ImitationSettings
) -> Tensor:
    """Which anchors (N, 4) are near an object (B, G, 4), valid (B, G): (B, N) bool.

    counts: anchors of each level. An object that no anchor overlaps has none near it.
    """
    overlaps = pairwise_iou(boxes, anchors)  # (B, G, N)
    overlaps = torch.where(valid.unsqueeze(-1), overlaps, 0.0)
    near = []
    for part in overlaps.split(list(counts) if settings.per_level else overlaps.shape[2], dim=2):
        near.append((part > settings.factor * part.amax(dim=2, keepdim=True)).any(dim=1))
    return torch.cat(near, dim=1)


def imitation_loss(
    student: Sequence[Tensor], teacher: Sequence[Tensor], near: Sequence[Tensor], adapter: MapAdapter
) -> Tensor:
    """Squared error summed over channels at the cells near objects, over twice their number; float32 scalar.

    student, teacher: levels (B, C, H_l, W_l). near: (B, H_l, W_l) bool of each level.
    """
    distances = [
        ((adapter(own).float() - other.float()).square().sum(dim=1) * mask).sum()
        for own, other, mask in zip(student, teacher, near, strict=True)
    ]
    count = torch.stack([mask.sum() for mask in near]).sum().clamp(min=1)
    return torch.stack(distances).sum() / (2 * count)


def imitated_losses(
    outputs: TwoStageOutputs,
    batch: Batch,
    maps: Sequence[Tensor],
    adapter: MapAdapter,
    settings: ImitationSettings | None = None,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Detection losses and fine-grained feature imitation of a student's outputs, float32 scalars.

    loss: the sum, imitation weighted. imitation: not weighted. The rest: see `two_stage_losses`.
    maps: the teacher's levels on the same images (`teacher_maps`), of the student's strides.
    """
    settings = settings or ImitationSettings()
    network = outputs.network
    losses = two_stage_losses(outputs, batch, generator)
    boxes, _, valid = visible_objects(batch)
    per_cell = network.rpn.anchors.per_cell
    cells = [each.shape[-2] * each.shape[-1] for each in outputs.maps]
    counts = [count * per_cell for count in cells]
    near = near_objects(outputs.rpn["anchors"], boxes, valid, counts, settings)
    near = near.unflatten(1, (-1, per_cell)).any(dim=2)  # (B, all cells)
    masks = [
        part.unflatten(1, each.shape[-2:]) for part, each in zip(near.split(cells, dim=1), outputs.maps, strict=True)
    ]
    imitation = imitation_loss(outputs.maps, maps, masks, adapter)
    return {**losses, "loss": losses["loss"] + settings.weight * imitation, "imitation": imitation}


class Imitator(nn.Module):
    """What training by fine-grained feature imitation changes: the student, and the adapter to its teacher's maps."""

    def __init__(self, student: TwoStage, teacher_channels: int) -> None:
        super().__init__()
        self.student = student
        self.adapter = MapAdapter(student.fpn.width, teacher_channels)

    def losses(self, batch: Batch, teacher: TwoStage, settings: ImitationSettings | None = None) -> dict[str, Tensor]:
        """See `imitated_losses`. teacher: in evaluation mode."""
        outputs = self.student(batch.images)
        return imitated_losses(outputs, batch, teacher_maps(teacher, batch.images), self.adapter, settings)
