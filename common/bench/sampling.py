"""Validating many paths: what it costs beside training their supernet, and whether few images rank them as many do."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from scipy.stats import kendalltau, spearmanr
from torch import Tensor

from common.batch import Batch
from common.bench.harness import Contender, Row, Timing, agree, benchmark, row, seconds_in_turn
from common.bench.networks import QUICK, SGD, THIN, THIN_SPACE, Case, images_of
from common.cost_table import CostTable
from common.data.batches import DetectionBatches
from common.data.scenes import CATEGORIES, scenes
from common.evaluate.recalibrate import reestimate_batch_norm
from common.evaluate.subnetworks import Evaluator, folded
from common.models.centernet import CenterNet, centernet_losses
from common.models.ofa_resnet import OFAResNet, OFAResNetSpace
from common.settings import Optimisation
from common.train.schedule import build_optimiser, build_schedule

ADAM = replace(SGD, optimiser="adam")
BUCKETS = 5
# As wide a range of cost as the paper's space has, in thin networks.
RANKED_SPACE = replace(THIN_SPACE, widths=(0.5, 0.75, 1.0), expands=(0.15, 0.25, 0.4))


@dataclass(frozen=True)
class Procedure:
    """How a path's loss is measured: images to re-estimate batch norm by, and images to take the loss on."""

    calibration: int
    validation: int


@dataclass(frozen=True)
class Ranking:
    """A small supernet, trained on scenes, whose paths are ranked by two procedures.

    The cheap one takes its images among those of the full one: what is asked is how much of the full procedure can be
    left out. paths: spread evenly over the five cost buckets, as the path filter's are.
    batch_size: images of a validation batch, of which every number of images is a multiple. step: images of a step.
    """

    full: Procedure = Procedure(512, 2000)
    paths: int = 60
    space: OFAResNetSpace = RANKED_SPACE
    image_size: int = 64
    training_images: int = 2000
    batch_size: int = 50
    step: int = 16
    optimisation: Optimisation = field(
        default_factory=lambda: Optimisation(epochs=8, optimiser="adam", learning_rate=4e-3)
    )


@dataclass(frozen=True)
class Validation:
    """DetOFA's validation of paths on Pascal VOC: `paths` of them, against `epochs` over the training images.

    cheap: what a path is measured by. printed: the paper's own share of the training's cost, in per cent.
    measured_images: how many images are timed; a path's cost is linear in them.
    """

    cheap: Procedure = Procedure(64, 600)
    paths: int = 500
    training_images: int = 16551
    epochs: int = 70
    printed: float = 52.0
    measured_images: int = 128
    case: Case = THIN
    ranking: Ranking = Ranking()


QUICK_RANKING = Ranking(
    full=Procedure(16, 16),
    paths=6,
    image_size=32,
    training_images=32,
    batch_size=8,
    step=8,
    optimisation=Optimisation(epochs=1, optimiser="adam", learning_rate=2e-3),
)
QUICK_VALIDATION = Validation(Procedure(8, 16), measured_images=8, case=QUICK[0], ranking=QUICK_RANKING)


@benchmark("path-sampling", full=Validation(), quick=QUICK_VALIDATION)
def path_sampling(work: Validation, timing: Timing) -> list[Row]:
    """Validating 500 paths (batch norm and loss) in per cent of supernet training on VOC; the paper's own is 52."""
    each, rounds = _seconds_of_an_image(work, timing)
    training = work.epochs * work.training_images * each["train"]

    def share(procedure: Procedure) -> float:
        """Per cent of the training."""
        images = procedure.calibration * each["calibrate"] + procedure.validation * each["validate"]
        return 100 * work.paths * (each["extract"] + images) / training

    ranking = work.ranking
    note = (
        f"{work.cheap.calibration} + {work.cheap.validation} images a path, which cost "
        f"{each['calibrate'] / each['train']:.2f} and {each['validate'] / each['train']:.2f} of a training image; "
        f"{ranking.full.calibration} + {ranking.full.validation} images would take {share(ranking.full):.0f} %; "
        + rank_agreement(work.cheap, ranking, timing.device).described(share)
    )
    more = {"case": f"{work.case.title}, {work.paths} paths", "rounds": rounds, "note": note}
    return [row("path-sampling", share(work.cheap), work.printed, "%", "DetOFA as printed", **more)]


# ---- what it costs


def _seconds_of_an_image(work: Validation, timing: Timing) -> tuple[dict[str, float], int]:
    """Seconds to train on, calibrate by and validate on one image, seconds to extract a path; and the rounds."""
    device, case = timing.device, work.case
    torch.manual_seed(0)
    supernet = CenterNet(OFAResNet(case.space), 20, (24,), 16, elastic=True)
    supernet = supernet.to(device, memory_format=torch.channels_last).train()
    batches = [_detection_batch(images) for images in images_of(case, work.measured_images // case.batch_size, device)]
    evaluator = Evaluator(batches, batches, centernet_losses)
    paths = case.space.sample(64, np.random.default_rng(0))
    turns = {"train": 0, "extract": 0}
    optimiser = build_optimiser(supernet, ADAM)

    def next_path(purpose: str) -> np.ndarray:
        turns[purpose] += 1
        return paths[turns[purpose] % len(paths)]

    def train() -> None:
        for batch in batches:
            supernet.activate(next_path("train"))
            optimiser.zero_grad(set_to_none=True)
            centernet_losses(supernet(batch.images), batch)["loss"].backward()
            optimiser.step()

    # four networks rather than one, so that no single path stands for the space
    networks = [evaluator.recalibrate(supernet.extract(path)) for path in paths[:4]]
    images = len(batches) * case.batch_size
    contenders = [
        Contender("train", train, images),
        Contender("extract", lambda: supernet.extract(next_path("extract"))),
        Contender("calibrate", lambda: [evaluator.recalibrate(network) for network in networks], 4 * images),
        Contender("validate", lambda: [evaluator.loss(network) for network in networks], 4 * images),
    ]
    for contender in contenders:
        contender.run()
    agree(all(np.isfinite(evaluator.loss(network)) for network in networks), "validation losses")
    seconds, rounds = seconds_in_turn(contenders, timing)
    return {contender.name: seconds[contender.name] / contender.amount for contender in contenders}, rounds


def _detection_batch(images: Tensor) -> Batch:
    """Four objects in every image."""
    B, _, H, W = images.shape  # batch, channels, height, width
    corner_of = torch.rand(B, 4, 2) * 0.6
    boxes = torch.cat([corner_of, corner_of + 0.1 + 0.3 * torch.rand(B, 4, 2)], dim=2) * torch.tensor([W, H, W, H])
    batch = Batch(
        images=images.cpu(),
        boxes=boxes,
        labels=torch.randint(20, (B, 4)),
        valid=torch.ones(B, 4, dtype=torch.bool),
        index=torch.arange(B),
        scale=torch.ones(B),
    ).to(images.device)
    return replace(batch, images=images)


# ---- what it ranks


@dataclass(frozen=True, eq=False)
class Agreement:
    """Losses of the same paths by the full procedure, (P,), and on each batch of the cheap one, (P, batches).

    bucket: (P,) the fifth of the range of costs that a path lies in.
    """

    full: np.ndarray
    cheap: np.ndarray
    bucket: np.ndarray
    procedure: Procedure
    batch_size: int

    def spearman(self, batches: int) -> float:
        """Rank correlation over all paths with the mean of the first `batches` batches."""
        return float(spearmanr(self.full, self.cheap[:, :batches].mean(axis=1)).statistic)

    def kendall(self) -> tuple[float, float]:
        """Kendall's tau over all paths, and its mean over the buckets of three paths and more."""
        cheap = self.cheap.mean(axis=1)
        inside = [self.bucket == bucket for bucket in np.unique(self.bucket)]
        taus = [kendalltau(self.full[these], cheap[these]).statistic for these in inside if these.sum() >= 3]
        return float(kendalltau(self.full, cheap).statistic), float(np.mean(taus)) if taus else float("nan")

    def least_images(self, wanted: float = 0.95) -> int | None:
        """Validation images from which on the rank correlation stays at `wanted`; None where all are too few."""
        short = [count for count in range(self.cheap.shape[1] + 1) if count == 0 or self.spearman(count) < wanted]
        return None if short[-1] == self.cheap.shape[1] else self.batch_size * (short[-1] + 1)

    def described(self, share: Callable[[Procedure], float]) -> str:
        """For the row; share(procedure) -> per cent of the training."""
        overall, inside = self.kendall()
        least = self.least_images()
        enough = "no number of these images reaches .95"
        if least is not None:
            cost = share(replace(self.procedure, validation=least))
            enough = f"Spearman stays at .95 from {least} images on, {cost:.1f} %"
        return (
            f"ranks of {len(self.full)} paths of a supernet trained on scenes, against the full procedure: "
            f"Spearman {self.spearman(self.cheap.shape[1]):.3f}, Kendall {overall:.3f}, within a cost bucket "
            f"{inside:.3f}; {enough}"
        )


def rank_agreement(cheap: Procedure, ranking: Ranking, device: torch.device) -> Agreement:
    """Trains the supernet and measures paths of every cost by both procedures."""
    size = ranking.image_size
    training = DetectionBatches(scenes("train", ranking.training_images), size, ranking.step, device)
    supernet = _trained(ranking, training, device)
    calibration = torch.cat([batch.images for batch in training.in_order()])
    held_out = scenes("val", ranking.full.validation)
    validation = list(DetectionBatches(held_out, size, ranking.batch_size, device).in_order())
    few_batches = cheap.validation // ranking.batch_size
    paths, bucket = _paths_of_every_cost(ranking)
    full, few = [], []
    for path in paths:
        network = supernet.extract(path)
        full.append(np.mean(_losses(network, calibration[: ranking.full.calibration], validation)))
        few.append(_losses(network, calibration[: cheap.calibration], validation[:few_batches]))
    return Agreement(np.array(full), np.array(few), bucket, cheap, ranking.batch_size)


def _paths_of_every_cost(ranking: Ranking) -> tuple[np.ndarray, np.ndarray]:
    """Uniform paths, equally many of each fifth of the range of costs where there are so many; and their fifths."""
    space = ranking.space
    paths = space.sample(2000 * ranking.paths, np.random.default_rng(0))
    table = CostTable.macs(space, ranking.image_size)
    lowest, highest = table(np.stack([space.smallest(), space.largest()]))
    bucket = np.digitize(table(paths), np.linspace(lowest, highest, BUCKETS + 1)[1:-1])
    chosen = np.concatenate([np.flatnonzero(bucket == b)[: -(-ranking.paths // BUCKETS)] for b in range(BUCKETS)])
    return paths[chosen], bucket[chosen]


def _trained(ranking: Ranking, batches: DetectionBatches, device: torch.device) -> CenterNet:
    """One uniform path a step."""
    torch.manual_seed(0)
    supernet = CenterNet(OFAResNet(ranking.space), len(CATEGORIES), (24,), 16, elastic=True)
    supernet = supernet.to(device, memory_format=torch.channels_last).train()
    optimiser = build_optimiser(supernet, ranking.optimisation)
    schedule = build_schedule(optimiser, ranking.optimisation, batches.steps_per_epoch)
    generator = np.random.default_rng(0)
    for epoch in range(ranking.optimisation.epochs):
        for batch in batches.epoch(epoch):
            supernet.activate(ranking.space.sample(1, generator)[0])
            optimiser.zero_grad(set_to_none=True)
            centernet_losses(supernet(batch.images), batch)["loss"].backward()
            optimiser.step()
            schedule.step()
    return supernet


@torch.inference_mode()
def _losses(network: CenterNet, calibration: Tensor, validation: Sequence[Batch]) -> list[float]:
    """The loss on each validation batch, after batch norm is re-estimated by the calibration images (N, 3, H, W)."""
    reestimate_batch_norm(network, calibration.split(64))
    network = folded(network)
    return [float(centernet_losses(network(batch.images), batch)["loss"]) for batch in validation]
