"""Paths of the OFA-ResNet50 space: their cost by tables against counting each network, and searches among them."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import ofa_release
from benchmarks.harness import Row, Timing, Work, agree, compare, optional
from common.models.classifier import Classifier
from common.models.ofa_resnet import ResNet
from detofa.method import Constraint, FilterSettings, PathFilter, PathScorer
from detofa.space import CostTable, EvolutionSettings, OFAResNetSpace, evolve

IMAGE_SIZE = 224
CLASSES = 1000
SPACE = OFAResNetSpace(elastic_stem=True)
BUDGET_SHARE = 0.3  # of the way from the cheapest path to the dearest
Search = Callable[[int], float]  # seed -> best score


def macs_of(space: OFAResNetSpace, image_size: int = IMAGE_SIZE, classes: int = CLASSES) -> Constraint:
    """MACs of paths, with the classifier that reads them, as the resource that DetOFA's buckets and budgets go by."""
    return Constraint.of("MACs", "", CostTable.macs(space, image_size, head=lambda channels: classes * channels))


# ---- cost


def cost_paths(timing: Timing, tables: int = 1_000_000, look_up: int = 500, network: int = 8) -> list[Row]:
    """tables, look_up, network: paths a call of ours, of the release, and of those that run networks."""
    table = macs_of(SPACE).cost
    paths = SPACE.sample(tables, np.random.default_rng(0))

    def peer(name: str, count_all: Callable[[np.ndarray], list[float]], paths: np.ndarray) -> Work:
        agree(np.allclose(count_all(paths), table(paths), rtol=0, atol=0.5), f"MACs by the tables and by {name}")
        return Work(lambda: count_all(paths), len(paths))

    peers = {
        "torch FlopCounterMode": lambda: peer("torch FlopCounterMode", macs_by_torch, paths[:network]),
        "fvcore": lambda: peer("fvcore", _by_fvcore(), paths[:network]),
        "OFA release": lambda: peer("OFA release", _by_release(paths[:look_up]), paths[:look_up]),
    }
    return compare("paths/s", Work(lambda: table(paths), tables), peers, timing)


def _network(path: np.ndarray) -> Classifier:
    with torch.device("meta"):
        return Classifier(ResNet(SPACE.architecture(path)), CLASSES).eval()


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


# ---- searches


@dataclass(frozen=True)
class Problem:
    """What is searched: the path of best score that costs at most `budget`; cost and score (P, C) -> (P,)."""

    space: OFAResNetSpace
    cost: Callable[[np.ndarray], np.ndarray]
    score: Callable[[np.ndarray], np.ndarray]
    budget: float

    def feasible(self, paths: np.ndarray) -> np.ndarray:
        """(P,) bool: within the budget."""
        return self.cost(paths) <= self.budget


def evolution(timing: Timing, population: int = 100, generations: int = 500, searches: int = 5) -> list[Row]:
    """searches: repetitions of ours and the reference to compare the scores that are found."""
    torch.manual_seed(0)
    predictor, constraint = AccuracyPredictor(SPACE, timing.device), macs_of(SPACE)
    problem = Problem(SPACE, constraint.cost, predictor, constraint.budget(BUDGET_SHARE))
    settings = EvolutionSettings(population, generations)
    release = {"OFA release": lambda: by_release(problem, predictor, settings)}
    return _compare(problem, settings, searches, release, timing)


def evolution_path_filter(
    timing: Timing, population: int = 100, generations: int = 500, searches: int = 5
) -> list[Row]:
    """As `evolution`; the dearest bucket within the budget comes first, as in DetOFA's search."""
    torch.manual_seed(0)
    space = OFAResNetSpace()
    constraint = macs_of(space)
    path_filter = PathFilter(space, constraint.buckets, FilterSettings()).to(timing.device)
    scorer = PathScorer(path_filter, space, constraint)

    def rank(paths: np.ndarray) -> np.ndarray:
        return constraint.bucket(paths) + scorer(paths)

    problem = Problem(space, constraint.cost, rank, constraint.budget(BUDGET_SHARE))
    return _compare(problem, EvolutionSettings(population, generations), searches, {}, timing)


def _compare(
    problem: Problem, settings: EvolutionSettings, searches: int, more: dict[str, Callable[[], Search]], timing: Timing
) -> list[Row]:
    """Times the searches; every row says what best scores either side found, over all its searches."""
    found: dict[str, list[float]] = {}

    def work(name: str, search: Search) -> Work:
        scores = found[name] = []
        return Work(lambda: scores.append(search(len(scores))))  # a new seed at each call

    ours = work("ours", vectorised(problem, settings))
    reference = work("one by one", one_by_one(problem, settings))
    peers = {name: lambda name=name, make=make: work(name, make()) for name, make in more.items()}
    ours.run()
    # nobody else is warmed up: a search of the release takes half a minute
    rows = compare("s", ours, {"one by one": lambda: reference, **peers}, replace(timing, warm_up=False))
    for searcher, scores in ((ours, found["ours"]), (reference, found["one by one"])):
        while len(scores) < searches:
            searcher.run()

    def described(name: str) -> str:
        scores = np.array(found[name])
        return f"{scores.mean():.5f} ({scores.min():.5f} to {scores.max():.5f}, {len(scores)} searches)"

    notes = {name: f"best score: ours {described('ours')}, peer {described(name)}" for name in found}
    return [replace(row, note=notes.get(row.against)) for row in rows]


def vectorised(problem: Problem, settings: EvolutionSettings) -> Search:
    """Ours."""
    radices = np.array([max(choice) + 1 for choice in problem.space.choices])

    def search(seed: int) -> float:
        space, generator = problem.space, np.random.default_rng(seed)
        found = evolve(space.sample, space.canonical, problem.feasible, problem.score, radices, settings, generator)
        agree(problem.feasible(found.best[None])[0], "the path found and the budget")
        agree(np.isclose(problem.score(found.best[None])[0], found.score, rtol=1e-3, atol=1e-5), "scores")
        return found.score

    return search


def one_by_one(problem: Problem, settings: EvolutionSettings) -> Search:
    """The same algorithm in plain Python, an individual at a time; scores are still asked for by the generation."""
    choices = problem.space.choices
    parents_kept = max(1, round(settings.parent_share * settings.population))
    mutants = round(settings.mutation_share * settings.population)

    def search(seed: int) -> float:
        draw = random.Random(seed)

        def sampled() -> list[int]:
            return [draw.choice(allowed) for allowed in choices]

        def mutated(parent: list[int]) -> list[int]:
            pairs = zip(parent, choices, strict=True)
            return [draw.choice(new) if draw.random() < settings.mutation_probability else old for old, new in pairs]

        def crossed(mother: list[int], father: list[int]) -> list[int]:
            return [draw.choice(pair) for pair in zip(mother, father, strict=True)]

        def feasible(make: Callable[..., list[int]], *parents: list[int]) -> list[int]:
            while True:
                individual = make(*parents)
                if problem.feasible(np.array([individual], dtype=np.int8))[0]:
                    return individual

        def scored(individuals: list[list[int]]) -> list[tuple[float, list[int]]]:
            return list(zip(problem.score(np.array(individuals, dtype=np.int8)).tolist(), individuals, strict=True))

        population = scored([feasible(sampled) for _ in range(settings.population)])
        for _ in range(settings.generations):
            best = sorted(population, key=lambda pair: -pair[0])[:parents_kept]
            parents = [individual for _, individual in best]
            children = [feasible(mutated, draw.choice(parents)) for _ in range(mutants)]
            couples = [(draw.choice(parents), draw.choice(parents)) for _ in range(settings.population - mutants)]
            children += [feasible(crossed, *couple) for couple in couples]
            population = best + scored(children)
        return max(score for score, _ in population)

    return search


def by_release(problem: Problem, predictor: "AccuracyPredictor", settings: EvolutionSettings) -> Search:
    """The OFA release's EvolutionFinder with the same predictor. Raises `Unavailable` without the package."""
    accuracy, efficiency = ofa_release.part("nas.accuracy_predictor"), ofa_release.efficiency()
    encoder = accuracy.ResNetArchEncoder(image_size_list=[IMAGE_SIZE])
    theirs = accuracy.AccuracyPredictor(encoder, device=predictor.device)
    theirs.layers.load_state_dict(predictor.layers.state_dict())

    paths = problem.space.sample(50, np.random.default_rng(1))
    described = [ofa_release.describe(problem.space, path) for path in paths]
    with torch.inference_mode():
        scores = theirs.predict_acc(described).double().cpu().numpy()
    agree(np.allclose(scores, predictor(paths), rtol=1e-3, atol=1e-5), "predictions by the OFA release")
    costs = 1e6 * np.array([efficiency.get_efficiency(each) for each in described])
    agree(np.allclose(costs, problem.cost(paths), rtol=1e-9), "costs by the OFA release")

    def search(seed: int) -> float:
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 (the release draws from the global generators)
        finder = ofa_release.part("nas.search_algorithm").EvolutionFinder(
            efficiency,
            theirs,
            population_size=settings.population,
            max_time_budget=settings.generations,
            arch_mutate_prob=settings.mutation_probability,
            parent_ratio=settings.parent_share,
            mutation_ratio=settings.mutation_share,
        )
        with torch.inference_mode():
            return finder.run_evolution_search(problem.budget / 1e6)[0][-1]

    return search


class AccuracyPredictor:
    """A score from one-hot choices, in the OFA release's form: three layers of 400, dropped layers all zero.

    predictor(paths (P, C)) -> (P,) float64.
    """

    def __init__(self, space: OFAResNetSpace, device: str, hidden: int = 400) -> None:
        self.space, self.device = space, device
        indices = np.arange(len(space.columns))
        self.columns = np.concatenate([indices[:3], indices[space.width_columns], indices[space.expand_columns]])
        # the release's order: image size (one), stem with residual, widths, expand ratios
        counts = [2, *[len(space.widths)] * 6, *[len(space.expands)] * len(space.layer_stage)]
        self.starts = 1 + np.cumsum([0, *counts[:-1]])
        self.inputs = 1 + sum(counts)
        sizes = pairwise([self.inputs, hidden, hidden, hidden])
        parts = [nn.Sequential(nn.Linear(before, after), nn.ReLU(inplace=True)) for before, after in sizes]
        self.layers = nn.Sequential(*parts, nn.Linear(hidden, 1, bias=False)).to(device)

    @torch.inference_mode()
    def __call__(self, paths: np.ndarray) -> np.ndarray:
        chosen = paths[:, self.columns].astype(np.int64)
        chosen[:, 0] = 1 - chosen[:, 0]  # the release says whether the residual is there, a path whether it is not
        ones = np.ones(chosen.shape, dtype=np.float32)
        ones[:, 7:] = self.space.active_layers(paths)
        features = np.zeros((len(paths), self.inputs), dtype=np.float32)
        features[:, 0] = 1
        np.put_along_axis(features, self.starts + chosen, ones, axis=1)
        return self.layers(torch.from_numpy(features).to(self.device)).squeeze(1).double().cpu().numpy()
