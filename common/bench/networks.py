"""Sub-networks of a supernet: training them, re-estimating their statistics."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from common.bench import ofa_release
from common.bench.harness import Contender, Missing, Row, Timing, agree, benchmark, missing, row, seconds_in_turn
from common.evaluate.recalibrate import reestimate_batch_norm
from common.models.classifier import Classifier
from common.models.elastic import corner
from common.models.ofa_resnet import OFAResNet, OFAResNetSpace
from common.settings import Optimisation
from common.train.schedule import build_optimiser

PAPER_SPACE = OFAResNetSpace()
THIN_SPACE = OFAResNetSpace(
    base_depths=(1, 1, 1, 1),
    stage_widths=(32, 64, 96, 128),
    stem_width=16,
    channel_multiple=2,
    stage_strides=(1, 2, 1, 1),
)
CLASSES = 1000
SGD = Optimisation(optimiser="sgd", learning_rate=1e-3, weight_decay=1e-4, policy="constant")


@dataclass(frozen=True)
class Case:
    """A supernet, and images to feed it. batches: how many go into a re-estimation."""

    name: str
    space: OFAResNetSpace
    image_size: int
    batch_size: int
    batches: int = 4

    @property
    def title(self) -> str:
        """For the row."""
        return f"{self.name}, {self.image_size}x{self.image_size}, batch {self.batch_size}"


PAPER = Case("paper widths", PAPER_SPACE, 224, 8, 2)
THIN = Case("thin", THIN_SPACE, 96, 16, 8)
QUICK = (Case("thin", THIN_SPACE, 32, 4, 2),)


def images_of(case: Case, count: int, device: torch.device) -> list[Tensor]:
    """`count` batches of noise, channels last."""
    torch.manual_seed(0)
    shape = (case.batch_size, 3, case.image_size, case.image_size)
    layout = torch.channels_last
    return [torch.randn(shape, device=device).contiguous(memory_format=layout) for _ in range(count)]


def _classifier(case: Case, device: torch.device) -> Classifier:
    torch.manual_seed(0)
    network = Classifier(OFAResNet(case.space), CLASSES)
    return network.to(device, memory_format=torch.channels_last)


def _stepper(network: nn.Module, parameters_of: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], None]:
    """One training step: forward, backward and SGD, as `common.train.loop` does it."""
    optimiser = build_optimiser(parameters_of, SGD)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(network(images), labels).backward()
        optimiser.step()

    return step


# ---- elastic training


@benchmark("elastic-step", full=(PAPER, THIN), quick=QUICK)
def elastic_step(cases: tuple[Case, ...], timing: Timing) -> list[Row]:
    """A training step (forward, backward, SGD) of a sub-network in the supernet, against the same net taken out."""
    return [each for case in cases for each in _elastic_step(case, timing)]


def _elastic_step(case: Case, timing: Timing) -> list[Row]:
    device = timing.device
    supernet = _classifier(case, device).train()
    path = middle_path(case.space)
    images = images_of(case, 1, device)[0]
    labels = torch.arange(case.batch_size, device=device) % CLASSES
    extracted = supernet.extract(path)
    supernet.activate(path)
    _agree_on_step(supernet, extracted, images, labels)

    contenders = [
        Contender("elastic", _stepper(supernet, supernet, images, labels)),
        Contender("extracted", _stepper(extracted, extracted, images, labels)),
    ]
    # The release's network is ResNet50 at the paper's widths: only there is it the same network as ours.
    release = ofa_release.load() if case.space == PAPER_SPACE else None
    if release is not None and not isinstance(release, str):
        theirs = release.supernet().to(device, memory_format=torch.channels_last).train()
        theirs.set_active_subnet(**ofa_release.describe(case.space, path))
        alone = theirs.get_active_subnet().to(device, memory_format=torch.channels_last).train()
        contenders += [
            Contender("release elastic", _stepper(theirs, theirs, images, labels)),
            Contender("release extracted", _stepper(alone, alone, images, labels)),
        ]
    for contender in contenders:
        contender.run()
    seconds, rounds = seconds_in_turn(contenders, timing)
    more = {"case": case.title, "rounds": rounds}
    rows = [row("elastic-step", seconds["elastic"], seconds["extracted"], "s", "the net taken out", **more)]
    return rows + _overhead("elastic-step", seconds, ("elastic", "extracted"), release, more)


def _overhead(name: str, seconds: dict[str, float], pair: tuple[str, str], release, more: dict) -> list[Row]:
    """How many times longer than the plain work, ours against the release's."""
    dear, plain = pair
    ours = seconds[dear] / seconds[plain]
    if release is None:
        return []
    if isinstance(release, str):
        return [missing(name, ours, "x plain", Missing("OFA release", release), **more)]
    theirs = seconds[f"release {dear}"] / seconds[f"release {plain}"]
    return [row(name, ours, theirs, "x plain", "OFA release", **more)]


def middle_path(space: OFAResNetSpace) -> np.ndarray:
    """Every choice in the middle, the stem whole."""
    path = np.array([choice[len(choice) // 2] for choice in space.choices], dtype=np.int8)
    path[space.stem_columns] = space.largest()[space.stem_columns]
    return space.canonical(path[None])[0]


def _agree_on_step(supernet: Classifier, extracted: Classifier, images: Tensor, labels: Tensor) -> None:
    """Both give the same loss and the same gradients."""
    losses = []
    for network in (supernet, extracted):
        network.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(network(images), labels)
        loss.backward()
        losses.append(loss.item())
    agree(bool(np.isclose(losses[0], losses[1], rtol=1e-4)), "losses of the sub-network in and out of its supernet")
    full = dict(supernet.named_parameters())
    for name, parameter in extracted.named_parameters():
        gradient = corner(full[name].grad, parameter.shape)
        scale = parameter.grad.abs().max()
        agree(bool((gradient - parameter.grad).abs().max() <= 1e-2 * scale + 1e-6), f"gradients of {name}")


# ---- batch-norm re-estimation


@benchmark("bn-reestimation", full=(PAPER, THIN), quick=QUICK)
def bn_reestimation(cases: tuple[Case, ...], timing: Timing) -> list[Row]:
    """Re-estimating a sub-network's batch-norm statistics, against a plain forward over the same images."""
    return [each for case in cases for each in _bn_reestimation(case, timing)]


def _bn_reestimation(case: Case, timing: Timing) -> list[Row]:
    device = timing.device
    path = middle_path(case.space)
    network = _classifier(case, device).extract(path).eval()
    images = images_of(case, case.batches, device)
    _agree_on_statistics(network, images[0])

    contenders = [
        Contender("re-estimation", lambda: reestimate_batch_norm(network, images)),
        Contender("forward", lambda: _forward(network, images)),
    ]
    release = ofa_release.load() if case.space == PAPER_SPACE else None
    if release is not None and not isinstance(release, str):
        supernet = release.supernet()
        supernet.set_active_subnet(**ofa_release.describe(case.space, path))
        theirs = supernet.get_active_subnet().to(device, memory_format=torch.channels_last).eval()
        labelled = [(batch, None) for batch in images]
        contenders += [
            Contender("release re-estimation", lambda: release.utils.set_running_statistics(theirs, labelled)),
            Contender("release forward", lambda: _forward(theirs, images)),
        ]
    for contender in contenders:
        contender.run()
    seconds, rounds = seconds_in_turn(contenders, timing)
    more = {"case": f"{case.title}, {case.batches} batches", "rounds": rounds}
    rows = [row("bn-reestimation", seconds["re-estimation"], seconds["forward"], "s", "a plain forward", **more)]
    return rows + _overhead("bn-reestimation", seconds, ("re-estimation", "forward"), release, more)


@torch.no_grad()
def _forward(network: nn.Module, images: list[Tensor]) -> None:
    for batch in images:
        network(batch)


@torch.no_grad()
def _agree_on_statistics(network: nn.Module, images: Tensor) -> None:
    """One batch: the statistics are those that training on it with a momentum of 1 leaves behind."""
    layers = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    reestimate_batch_norm(network, [images])
    ours = [(layer.running_mean.clone(), layer.running_var.clone()) for layer in layers]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 1.0
    network.train()
    network(images)
    network.eval()
    for layer, momentum, (mean, variance) in zip(layers, momenta, ours, strict=True):
        layer.momentum = momentum
        scale = layer.running_var.sqrt()
        agree(bool(((layer.running_mean - mean).abs() <= 1e-3 * scale + 1e-6).all()), "batch-norm means")
        agree(bool(torch.allclose(layer.running_var, variance, rtol=1e-2, atol=1e-6)), "batch-norm variances")
