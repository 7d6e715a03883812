"""The cost of paths: tables against counting each network."""

from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from common.bench import ofa_release
from common.bench.harness import Contender, Missing, Row, Timing, agree, benchmark, compare, optional
from common.cost_table import CostTable
from common.models.classifier import Classifier
from common.models.ofa_resnet import OFAResNetSpace, ResNet

IMAGE_SIZE = 224
CLASSES = 1000
SPACE = OFAResNetSpace(elastic_stem=True)


@dataclass(frozen=True)
class PathCounts:
    """Paths a call: of the tables, of a peer that looks up, and of a peer that runs the network."""

    tables: int = 1_000_000
    look_up: int = 500
    network: int = 8


@benchmark("cost-paths", full=PathCounts(), quick=PathCounts(1000, 5, 2))
def cost_paths(counts: PathCounts, timing: Timing) -> list[Row]:
    """MACs of paths of the OFA-ResNet50 space (224x224, 1,000 classes), paths a second; target 5 million."""
    table = CostTable.macs(SPACE, IMAGE_SIZE, head=lambda channels: CLASSES * channels)
    paths = SPACE.sample(counts.tables, np.random.default_rng(0))
    on_device = torch.from_numpy(paths).to(timing.device)
    few, more = paths[: counts.network], paths[: counts.look_up]

    peers: list[Contender | Missing] = [
        _peer("torch FlopCounterMode", macs_by_torch, few, table),
        _fvcore(few, table),
        _release(more, table),
    ]
    ours = Contender("tables", lambda: table(on_device), counts.tables)
    agree(bool((table(on_device).cpu().numpy() == table(paths)).all()), "cost tables on two devices")
    return compare("cost-paths", "paths/s", ours, peers, timing)


def macs_by_torch(path: np.ndarray) -> float:
    """The network's MACs by torch's FlopCounterMode, on the meta device."""
    with torch.device("meta"), torch.inference_mode():
        network = Classifier(ResNet(SPACE, path), CLASSES).eval()
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(1, 3, IMAGE_SIZE, IMAGE_SIZE))
    return counter.get_total_flops() / 2


def _peer(name: str, count, paths: np.ndarray, table: CostTable) -> Contender:
    costs = [count(path) for path in paths]
    agree(bool(np.allclose(costs, table(paths), rtol=1e-12, atol=0)), f"MACs by the tables and by {name}")
    return Contender(name, lambda: [count(path) for path in paths], len(paths))


def _fvcore(paths: np.ndarray, table: CostTable) -> Contender | Missing:
    module = optional("fvcore.nn", "fvcore")
    if isinstance(module, str):
        return Missing("fvcore", module)

    def count(path: np.ndarray) -> float:
        with torch.device("meta"):
            network = Classifier(ResNet(SPACE, path), CLASSES).eval()
        # it traces, which the meta device does not support; weights without values spare it their initialisation
        analysis = module.FlopCountAnalysis(network.to_empty(device="cpu"), torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE))
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        counted = analysis.by_operator()  # it also counts norm layers, which the others leave out
        return counted["conv"] + counted["linear"]

    return _peer("fvcore", count, paths, table)


def _release(paths: np.ndarray, table: CostTable) -> Contender | Missing:
    release = ofa_release.load()
    if isinstance(release, str):
        return Missing("OFA release", release)
    efficiency = release.efficiency()
    described = [ofa_release.describe(SPACE, path) for path in paths]

    def count() -> list[float]:
        return [efficiency.get_efficiency(each) for each in described]

    theirs = 1e6 * np.array(count())
    agree(bool(np.allclose(theirs, table(paths), rtol=1e-9, atol=0)), "MACs by the tables and by the OFA release")
    return Contender("OFA release", count, len(paths))
