"""Validating many paths: what it costs beside training their supernet, and whether few images rank them as many do."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle
from tempfile import TemporaryDirectory

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from benchmarks.harness import Row, Timing, Work, agree, seconds_in_turn
from benchmarks.networks import CHANNELS_LAST, SGD, SPACES, Case, scene_batches, training_step
from benchmarks.paths import macs_of
from common.batch import Batch
from common.data.batches import DetectionBatches
from common.data.scenes import CATEGORIES, scenes
from common.evaluate.recalibrate import reestimate_batch_norm
from common.evaluate.subnetworks import Evaluator, folded
from common.models.centernet import CenterNet, centernet_losses
from common.models.ofa_resnet import OFAResNet
from common.settings import Optimisation
from common.train.loop import Training, fit
from common.train.run_folder import Run
from detofa.method import Operations, sample_per_bucket
from detofa.space import OFAResNetSpace

# DetOFA on Pascal VOC: the paths validated, the epochs and images of the supernet's training, and the share of that
# training's cost which the validation takes by the paper's own account, in per cent.
PATHS, EPOCHS, TRAINING_IMAGES, PRINTED = 500, 70, 16551, 52.0
RANK_CORRELATION = 0.95
# As wide a range of cost as the paper's space has, in thin networks.
SPACE = replace(SPACES["thin"], widths=(0.5, 0.75, 1.0), expands=(0.15, 0.25, 0.4))

Procedure = tuple[int, int]  # images to re-estimate a path's batch norm by, and images to take its loss on


def path_sampling(
    timing: Timing,
    case: tuple[str, int, int] = ("thin", 96, 16),
    timed_images: int = 128,
    cheap: Procedure = (64, 600),
    full: Procedure = (512, 2000),
    **ranking: int,
) -> list[Row]:
    """The share of a cheap procedure, and how well it ranks paths of a small supernet that is trained on scenes.

    The cheap procedure takes its images among the full one's: what is asked is how much of the full one can be left
    out. timed_images: a path's cost is linear in them. ranking: further arguments of `losses_by_both`.
    """
    case = Case(*case)
    each, rounds = _seconds_of_an_image(case, timed_images, timing)

    def share(procedure: Procedure) -> float:
        """Per cent of the training."""
        path = each["extract"] + procedure[0] * each["calibrate"] + procedure[1] * each["validate"]
        return 100 * PATHS * path / (EPOCHS * TRAINING_IMAGES * each["train"])

    losses, losses_by_batch = losses_by_both(timing.device, cheap, full, **ranking)
    spearman, batches = rank_agreement(losses, losses_by_batch)
    enough = f"no number of these images reaches {RANK_CORRELATION}"
    if batches is not None:
        least = batches * cheap[1] // losses_by_batch.shape[1]
        enough = f"it stays at {RANK_CORRELATION} from {least} images on, {share((cheap[0], least)):.1f} %"
    note = (
        f"{cheap[0]} + {cheap[1]} images a path, which cost {each['calibrate'] / each['train']:.2f} and "
        f"{each['validate'] / each['train']:.2f} of a training image; {full[0]} + {full[1]} images would take "
        f"{share(full):.0f} %; ranks of {len(losses)} paths of a supernet trained on scenes, against the full "
        f"procedure: Spearman {spearman:.3f}; {enough}"
    )
    title = f"{case.title}, {PATHS} paths"
    return [Row(share(cheap), PRINTED, "%", "DetOFA as printed", case=title, rounds=rounds, note=note)]


# ---- what it costs


def _detector(space: OFAResNetSpace, categories: int, device: str) -> CenterNet:
    torch.manual_seed(0)
    supernet = CenterNet(OFAResNet(space), categories, (24,), 16, elastic=True)
    return supernet.to(device, memory_format=CHANNELS_LAST)


def _seconds_of_an_image(case: Case, count: int, timing: Timing) -> tuple[dict[str, float], int]:
    """Seconds to train on, calibrate by and validate on one image, seconds to extract a path; and the rounds."""
    supernet = _detector(case.space, 20, timing.device)
    batches = scene_batches("train", count, case.image_size, case.batch_size, timing.device)
    evaluator = Evaluator(batches, batches, centernet_losses)
    # four networks rather than one, so that no single path stands for the space
    paths = case.space.sample(64, np.random.default_rng(0))
    networks = [evaluator.recalibrate(supernet.extract(path)) for path in paths[:4]]
    agree(all(np.isfinite(evaluator.loss(network)) for network in networks), "validation losses")
    trained, extracted = zip(cycle(paths), cycle(batches)), cycle(paths)

    def loss() -> Tensor:
        path, batch = next(trained)
        supernet.activate(path)
        return centernet_losses(supernet(batch.images), batch)["loss"]

    step = training_step(supernet, loss, optimisation=replace(SGD, optimiser="adam")).run
    works = {
        "train": Work(lambda: [step() for _ in batches], count),
        "extract": Work(lambda: supernet.extract(next(extracted))),
        "calibrate": Work(lambda: [evaluator.recalibrate(network) for network in networks], 4 * count),
        "validate": Work(lambda: [evaluator.loss(network) for network in networks], 4 * count),
    }
    return seconds_in_turn(works, timing)


# ---- what it ranks


def rank_agreement(full: np.ndarray, cheap: np.ndarray, wanted: float = RANK_CORRELATION) -> tuple[float, int | None]:
    """Spearman's rank correlation of the paths' losses by both procedures; batches from which on it suffices.

    full (P,): losses by the full procedure; cheap (P, batches): on each batch of the cheap one.
    """
    batches = range(1, cheap.shape[1] + 1)
    spearman = [float(spearmanr(full, cheap[:, :count].mean(axis=1)).statistic) for count in batches]
    enough = 1 + max((count for count in batches if spearman[count - 1] < wanted), default=0)
    return spearman[-1], enough if enough in batches else None


def losses_by_both(
    device: str,
    cheap: Procedure,
    full: Procedure,
    paths: int = 60,
    image_size: int = 64,
    training_images: int = 2000,
    validation_batch: int = 50,
    epochs: int = 8,
) -> tuple[np.ndarray, np.ndarray]:
    """Trains a supernet and measures paths by both procedures, equally many of each cost bucket: see `rank_agreement`.

    validation_batch: images, of which the validation images of both procedures are a multiple.
    """
    training = DetectionBatches(scenes("train", training_images, image_size), image_size, 16, device)
    calibration = torch.cat([batch.images for batch in training.in_order()])
    validation = scene_batches("val", full[1], image_size, validation_batch, device)
    supernet = _detector(SPACE, len(CATEGORIES), device)

    def step_losses(batch, step):
        supernet.activate(SPACE.sample(1, step.generator("path"))[0])
        yield centernet_losses(supernet(batch.images), batch)

    optimisation = Optimisation(epochs=epochs, optimiser="adam", learning_rate=4e-3)
    with TemporaryDirectory() as folder, Run.open(folder, {}) as run:
        fit(run, "supernet", supernet, training, step_losses, Training(optimisation, device=device))

    constraint = macs_of(SPACE, image_size, classes=0)
    per_bucket = -(-paths // constraint.buckets)
    chosen = sample_per_bucket(Operations.all(SPACE), constraint, per_bucket, np.random.default_rng(0))
    by_full, by_cheap = [], []
    for path in chosen:
        network = supernet.extract(path)
        by_full.append(np.mean(_losses(network, calibration[: full[0]], validation)))
        by_cheap.append(_losses(network, calibration[: cheap[0]], validation[: cheap[1] // validation_batch]))
    return np.array(by_full), np.array(by_cheap)


@torch.inference_mode()
def _losses(network: CenterNet, calibration: Tensor, validation: Sequence[Batch]) -> list[float]:
    """The loss on each validation batch, after batch norm is re-estimated by the calibration images (N, 3, H, W)."""
    reestimate_batch_norm(network, calibration.split(64))
    network = folded(network)
    return [float(centernet_losses(network(batch.images), batch)["loss"]) for batch in validation]
