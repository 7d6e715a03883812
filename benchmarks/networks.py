"""Training sub-networks of a supernet, re-estimating their statistics, and training two-stage detectors."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection import fasterrcnn_resnet50_fpn

from benchmarks import ofa_release
from benchmarks.harness import Row, Timing, Work, agree, available, compare, seconds_in_turn
from benchmarks.paths import CLASSES
from common.batch import Batch
from common.data.batches import DetectionBatches
from common.data.scenes import scenes
from common.evaluate.recalibrate import reestimate_batch_norm
from common.letterbox import Size
from common.models.classifier import Classifier
from common.models.elastic import corner
from common.models.ofa_resnet import OFAResNet
from common.models.torchvision_weights import faster_rcnn_of_torchvision
from common.models.two_stage import TwoStage, two_stage_losses
from common.settings import Optimisation
from common.train.schedule import build_optimiser
from detofa.space import OFAResNetSpace

SPACES = {
    "paper widths": OFAResNetSpace(),
    "thin": OFAResNetSpace(
        base_depths=(1, 1, 1, 1),
        stage_widths=(32, 64, 96, 128),
        stem_width=16,
        channel_multiple=2,
        stage_strides=(1, 2, 1, 1),
    ),
}
_CATEGORIES = 90  # torchvision's count for COCO
SGD = Optimisation(optimiser="sgd", learning_rate=1e-3, weight_decay=1e-4, policy="constant")
CHANNELS_LAST = torch.channels_last


@dataclass(frozen=True)
class Case:
    """A supernet by the name of its space, and scenes to feed it. batches: how many go into a re-estimation."""

    name: str
    image_size: int
    batch_size: int
    batches: int = 1

    @property
    def space(self) -> OFAResNetSpace:
        return SPACES[self.name]

    @property
    def title(self) -> str:
        """For the row."""
        several = f", {self.batches} batches" if self.batches > 1 else ""
        return f"{self.name}, {self.image_size}x{self.image_size}, batch {self.batch_size}{several}"

    def supernet(self, device: str) -> Classifier:
        """A classifier on the supernet, the same weights at every call."""
        torch.manual_seed(0)
        return Classifier(OFAResNet(self.space), CLASSES).to(device, memory_format=CHANNELS_LAST)

    def path(self) -> np.ndarray:
        """Every choice in the middle, the stem whole."""
        path = np.array([choice[len(choice) // 2] for choice in self.space.choices], dtype=np.int8)
        path[self.space.stem_columns] = self.space.largest()[self.space.stem_columns]
        return self.space.canonical(path)

    def scenes(self, device: str) -> list[Batch]:
        """The batches."""
        return scene_batches("train", self.batches * self.batch_size, self.image_size, self.batch_size, device)


def scene_batches(split: str, count: int, size: Size, batch_size: int, device: str) -> list[Batch]:
    """So many decoded scenes. They are drawn square, and letterboxed where `size` (pixels) is not."""
    side = size if isinstance(size, int) else min(size)
    return list(DetectionBatches(scenes(split, count, side), size, batch_size, device).in_order())


def training_step(
    network: nn.Module, loss: Callable[[], Tensor], amount: float = 1.0, optimisation: Optimisation = SGD
) -> Work:
    """Forward, backward and a step of the optimiser, as `common.train.loop` does it."""
    optimiser = build_optimiser(network.train(), optimisation)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        loss().backward()
        optimiser.step()

    return Work(step, amount)


Pair = tuple[Work, Work]  # what is judged, and the plain work that it is judged by


def _overheads(
    case: Case, timing: Timing, ours: Pair, against: str, by_release: Callable[[nn.Module], Pair]
) -> list[Row]:
    """Ours against the plain work; and how many times longer it takes, against the same of the OFA release.

    by_release gets the release's supernet with the case's path active. That network is ResNet50 at the paper's widths:
    only there is it the same network as ours.
    """

    def release() -> Pair:
        supernet = ofa_release.supernet().to(timing.device, memory_format=CHANNELS_LAST)
        supernet.set_active_subnet(**ofa_release.describe(case.space, case.path()))
        return by_release(supernet)

    pairs, reasons = available({"OFA release": release} if case.name == "paper widths" else {})
    works = {(name, place): work for name, pair in {"ours": ours, **pairs}.items() for place, work in enumerate(pair)}
    seconds, rounds = seconds_in_turn(works, timing)
    more = {"case": case.title, "rounds": rounds}
    overhead = {name: seconds[name, 0] / seconds[name, 1] for name in ("ours", *pairs)}
    rows = [Row(seconds["ours", 0], seconds["ours", 1], "s", against, **more)]
    for name in (*pairs, *reasons):
        rows.append(Row(overhead["ours"], overhead.get(name), "x plain", name, reason=reasons.get(name), **more))
    return rows


# ---- elastic training


def elastic_step(timing: Timing, case: tuple) -> list[Row]:
    """Forward, backward and SGD of a sub-network inside its supernet, and of the same net taken out."""
    case, device = Case(*case), timing.device
    supernet = case.supernet(device).train()
    images = case.scenes(device)[0].images
    labels = torch.arange(case.batch_size, device=device) % CLASSES
    extracted = supernet.extract(case.path())
    supernet.activate(case.path())

    def loss(network: nn.Module) -> Tensor:
        return nn.functional.cross_entropy(network(images), labels)

    def step(network: nn.Module) -> Work:
        return training_step(network, lambda: loss(network))

    def by_release(theirs: nn.Module) -> Pair:
        return step(theirs), step(theirs.get_active_subnet().to(device, memory_format=CHANNELS_LAST))

    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # which rounds more than gradients may differ by
        _agree_on_gradients(supernet, extracted, loss)
    return _overheads(case, timing, (step(supernet), step(extracted)), "the net taken out", by_release)


def _agree_on_gradients(supernet: Classifier, extracted: Classifier, loss: Callable[[nn.Module], Tensor]) -> None:
    """Both give the same loss and the same gradients."""
    losses = [loss(network) for network in (supernet, extracted)]
    sum(losses).backward()
    agree(torch.isclose(*losses, rtol=1e-4), "losses of the sub-network in and out of its supernet")
    full = dict(supernet.named_parameters())
    for name, parameter in extracted.named_parameters():
        difference = corner(full[name].grad, parameter.shape) - parameter.grad
        agree(difference.abs().max() <= 1e-2 * parameter.grad.abs().max() + 1e-6, f"gradients of {name}")


# ---- batch-norm re-estimation


def bn_reestimation(timing: Timing, case: tuple) -> list[Row]:
    """The statistics of a sub-network that was taken out."""
    case, device = Case(*case), timing.device
    images = [batch.images for batch in case.scenes(device)]
    network = case.supernet(device).extract(case.path()).eval()

    @torch.no_grad()
    def forward(network: nn.Module) -> None:
        for batch in images:
            network(batch)

    def by_release(supernet: nn.Module) -> Pair:
        reestimate = ofa_release.part("imagenet_classification.elastic_nn.utils").set_running_statistics
        theirs = supernet.get_active_subnet().to(device, memory_format=CHANNELS_LAST).eval()
        labelled = [(batch, None) for batch in images]
        return Work(lambda: reestimate(theirs, labelled)), Work(lambda: forward(theirs))

    ours = Work(lambda: reestimate_batch_norm(network, images)), Work(lambda: forward(network))
    return _overheads(case, timing, ours, "a plain forward", by_release)


# ---- two-stage detectors


def two_stage(timing: Timing, batch_size: int, side: int = 320) -> list[Row]:
    """Forward, losses, backward and SGD, from the same weights, images and settings as torchvision's detector.

    Batch norm, everything trained, 2000 proposals, 512 regions an image. side: of square images, pixels.
    """
    ours, theirs, batch, targets = twin_of_torchvision(side, batch_size, timing.device)
    images = list(batch.images.contiguous())  # torchvision's layout
    _agree_on_outputs(ours.eval(), theirs.eval(), batch)

    our_step = training_step(ours, lambda: two_stage_losses(ours(batch.images), batch)["loss"], batch_size)
    their_step = training_step(theirs, lambda: sum(theirs(images, targets).values()), batch_size)
    case = f"{side}x{side}, batch {batch_size}"
    return compare("img/s", our_step, {"torchvision": lambda: their_step}, timing, case=case)


def twin_of_torchvision(
    side: int, images: int, device: str
) -> tuple[TwoStage, nn.Module, Batch, list[dict[str, Tensor]]]:
    """Our Faster R-CNN R50-FPN, torchvision's of the same weights, a batch of scenes, and its targets for theirs."""
    torch.manual_seed(0)
    theirs = fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=1 + _CATEGORIES, min_size=side, max_size=side
    ).to(device)
    theirs.transform.image_mean, theirs.transform.image_std = [0.0] * 3, [1.0] * 3  # images come normalised
    ours = faster_rcnn_of_torchvision(theirs.state_dict())
    ours.to(device, memory_format=CHANNELS_LAST)
    [batch] = scene_batches("train", images, side, images, device)
    targets = [
        {"boxes": boxes[valid], "labels": labels[valid] + 1}  # no padding, and 0 is the background
        for boxes, labels, valid in zip(batch.boxes, batch.labels, batch.valid, strict=True)
    ]
    return ours, theirs, batch, targets


@torch.no_grad()
def _agree_on_outputs(ours: TwoStage, theirs: nn.Module, batch: Batch) -> None:
    """Both say the same of all anchors, and of the objects' own boxes."""
    maps, their_maps, heads = ours.fpn(ours.backbone(batch.images)), theirs.backbone(batch.images), theirs.roi_heads
    objectness, _ = theirs.rpn.head(list(their_maps.values()))
    regions = heads.box_roi_pool(their_maps, list(batch.boxes), [batch.images.shape[-2:]] * len(batch.boxes))
    classes, _ = heads.box_predictor(heads.box_head(regions))  # the background first
    logits, _ = ours.roi(maps, batch.boxes)
    for what, found, expected in (
        ("anchors", ours.rpn(maps)["objectness"], torch.cat([x.permute(0, 2, 3, 1).flatten(1) for x in objectness], 1)),
        ("classes of regions", logits.flatten(0, 1).roll(1, dims=1), classes),
    ):
        difference = (found - expected).abs().max()
        agree(difference <= 1e-3 * expected.abs().max(), f"{what} by ours and by torchvision")
