"""The cost of paths: tables against counting each network."""

from collections.abc import Callable

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import ofa_release
from benchmarks.harness import Row, Timing, Work, agree, compare, optional
from common.cost_table import CostTable
from common.models.classifier import Classifier
from common.models.ofa_resnet import OFAResNetSpace, ResNet

IMAGE_SIZE = 224
CLASSES = 1000
SPACE = OFAResNetSpace(elastic_stem=True)


def classifier_macs(space: OFAResNetSpace) -> CostTable:
    """MACs of the paths of `space` with the classifier that reads them."""
    return CostTable.macs(space, IMAGE_SIZE, head=lambda channels: CLASSES * channels)


def cost_paths(timing: Timing, tables: int = 1_000_000, look_up: int = 500, network: int = 8) -> list[Row]:
    """tables, look_up, network: paths a call of ours, of the release, and of those that run networks."""
    table = classifier_macs(SPACE)
    paths = SPACE.sample(tables, np.random.default_rng(0))
    on_device = torch.from_numpy(paths).to(timing.device)
    agree((table(on_device).cpu().numpy() == table(paths)).all(), "cost tables on two devices")

    def peer(name: str, count_all: Callable[[np.ndarray], list[float]], paths: np.ndarray) -> Work:
        agree(np.allclose(count_all(paths), table(paths), rtol=0, atol=0.5), f"MACs by the tables and by {name}")
        return Work(lambda: count_all(paths), len(paths))

    peers = {
        "torch FlopCounterMode": lambda: peer("torch FlopCounterMode", macs_by_torch, paths[:network]),
        "fvcore": lambda: peer("fvcore", _by_fvcore(), paths[:network]),
        "OFA release": lambda: peer("OFA release", _by_release(paths[:look_up]), paths[:look_up]),
    }
    return compare("paths/s", Work(lambda: table(on_device), tables), peers, timing)


def _network(path: np.ndarray) -> Classifier:
    with torch.device("meta"):
        return Classifier(ResNet(SPACE, path), CLASSES).eval()


def macs_by_torch(paths: np.ndarray) -> list[float]:
    """The networks' MACs by torch's FlopCounterMode, on the meta device."""
    found = []
    for path in paths:
        network = _network(path)
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            network(torch.empty(1, 3, IMAGE_SIZE, IMAGE_SIZE, device="meta"))
        found.append(counter.get_total_flops() / 2)
    return found


def _by_fvcore() -> Callable[[np.ndarray], list[float]]:
    analysis_of = optional("fvcore.nn", "fvcore").FlopCountAnalysis

    def count(path: np.ndarray) -> float:
        # it traces, which the meta device does not support; weights without values spare it their initialisation
        network = _network(path).to_empty(device="cpu")
        analysis = analysis_of(network, torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE))
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        counted = analysis.by_operator()  # it also counts norm layers, which the others leave out
        return counted["conv"] + counted["linear"]

    return lambda paths: [count(path) for path in paths]


def _by_release(paths: np.ndarray) -> Callable[[np.ndarray], list[float]]:
    """Counts these paths, which are described beforehand: only the counting is timed."""
    efficiency = ofa_release.efficiency()
    described = [ofa_release.describe(SPACE, path) for path in paths]
    return lambda _: [1e6 * efficiency.get_efficiency(each) for each in described]
