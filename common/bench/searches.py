"""Evolutionary search: whole generations as arrays against one individual after another."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from common.bench import ofa_release
from common.bench.harness import Contender, Missing, Row, Timing, agree, benchmark, compare
from common.bench.paths import CLASSES, IMAGE_SIZE
from common.cost_table import CostTable
from common.models.ofa_resnet import OFAResNetSpace
from common.search.evolution import EvolutionSettings, evolve

BUDGET_SHARE = 0.3  # of the way from the cheapest path to the dearest


@dataclass(frozen=True)
class SearchSizes:
    """The search, and how often it is repeated to compare the scores that are found."""

    settings: EvolutionSettings = field(default_factory=EvolutionSettings)
    searches: int = 5


QUICK = SearchSizes(EvolutionSettings(population=20, generations=5), 2)


class AccuracyPredictor(nn.Module):
    """Accuracy from one-hot choices, in the OFA release's form: three layers of 400, dropped layers all zero.

    forward(paths (P, C) int64) -> (P,).
    """

    def __init__(self, space: OFAResNetSpace, hidden: int = 400, layers: int = 3) -> None:
        super().__init__()
        # the release's order: image size (one), stem with residual, widths, expand ratios
        counts = [2, *[len(space.widths)] * 6, *[len(space.expands)] * len(space.layer_stage)]
        self.space = space
        self.inputs = 1 + sum(counts)
        self.register_buffer("starts", torch.tensor(1 + np.cumsum([0, *counts[:-1]])))
        columns = [0, 1, 2, *range(*space.width_columns.indices(99)), *range(*space.expand_columns.indices(99))]
        self.register_buffer("columns", torch.tensor(columns))
        sizes = [self.inputs, *[hidden] * layers]
        parts: list[nn.Module] = []
        for before, after in pairwise(sizes):
            parts.append(nn.Sequential(nn.Linear(before, after), nn.ReLU(inplace=True)))
        self.layers = nn.Sequential(*parts, nn.Linear(hidden, 1, bias=False))

    def forward(self, paths: Tensor, active: Tensor) -> Tensor:
        """paths (P, C) int64, active (P, L) bool -> (P,)."""
        P = len(paths)
        chosen = paths[:, self.columns]
        chosen[:, 0] = 1 - chosen[:, 0]  # the release says whether the residual is there, a path whether it is not
        ones = torch.ones(P, len(self.starts), device=paths.device)
        ones[:, 7:] = active
        features = torch.zeros(P, self.inputs, device=paths.device)
        features[:, 0] = 1
        features.scatter_(1, self.starts + chosen, ones)
        return self.layers(features).squeeze(1)

    @torch.inference_mode()
    def score(self, paths: np.ndarray) -> np.ndarray:
        """paths (P, C) -> (P,) float64."""
        device = self.starts.device
        active = torch.from_numpy(self.space.active_layers(paths)).to(device)
        return self(torch.from_numpy(paths).to(device, torch.int64), active).double().cpu().numpy()


class PathTransformer(nn.Module):
    """A score from a token a layer, of the size of DetOFA's path filter: 3 encoder layers, 128 wide, 4 heads."""

    def __init__(self, space: OFAResNetSpace, dimensions: int = 128, layers: int = 3, heads: int = 4) -> None:
        super().__init__()
        self.space = space
        self.embedding = nn.Embedding(1 + len(space.widths) * len(space.expands), dimensions)
        self.position = nn.Parameter(0.1 * torch.randn(len(space.layer_stage), dimensions))
        layer = nn.TransformerEncoderLayer(dimensions, heads, dimensions, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.last = nn.Linear(dimensions, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens (P, L) int64 -> (P,)."""
        return self.last(self.encoder(self.embedding(tokens) + self.position).mean(dim=1)).squeeze(1)

    @torch.inference_mode()
    def score(self, paths: np.ndarray) -> np.ndarray:
        """paths (P, C) -> (P,) float64."""
        space = self.space
        width = paths[:, space.width_columns][:, space.layer_stage].astype(np.int64)
        tokens = 1 + width * len(space.expands) + paths[:, space.expand_columns]
        tokens = np.where(space.active_layers(paths), tokens, 0)
        return self(torch.from_numpy(tokens).to(self.position.device)).double().cpu().numpy()


@dataclass(frozen=True)
class Problem:
    """What is searched: the best score within a budget."""

    space: OFAResNetSpace
    table: CostTable
    score: Callable[[np.ndarray], np.ndarray]
    budget: float

    @staticmethod
    def of(space: OFAResNetSpace, score: Callable[[np.ndarray], np.ndarray]) -> "Problem":
        """The budget lies `BUDGET_SHARE` of the way between the extreme costs."""
        table = CostTable.macs(space, IMAGE_SIZE, head=lambda channels: CLASSES * channels)
        lowest, highest = table(np.stack([space.smallest(), space.largest()]))
        return Problem(space, table, score, float(lowest + BUDGET_SHARE * (highest - lowest)))

    def feasible(self, paths: np.ndarray) -> np.ndarray:
        """(P,) bool: within the budget."""
        return self.table(paths) <= self.budget


class _Searches:
    """The same search with a new seed at each call; remembers the scores that were found."""

    def __init__(self, search: Callable[[int], float]) -> None:
        self.search = search
        self.found: list[float] = []

    def __call__(self) -> None:
        self.found.append(self.search(len(self.found)))

    def again(self, times: int) -> None:
        """Search until so many scores are there."""
        while len(self.found) < times:
            self()


def vectorised(problem: Problem, settings: EvolutionSettings) -> Callable[[int], float]:
    """Ours: seed -> best score."""
    radices = np.array([max(choice) + 1 for choice in problem.space.choices])

    def search(seed: int) -> float:
        generator = np.random.default_rng(seed)
        space = problem.space
        found = evolve(space.sample, space.canonical, problem.feasible, problem.score, radices, settings, generator)
        agree(bool(problem.feasible(found.best[None])[0]), "the path found and the budget")
        agree(bool(np.isclose(problem.score(found.best[None])[0], found.score, rtol=1e-3, atol=1e-5)), "scores")
        return found.score

    return search


def one_by_one(problem: Problem, settings: EvolutionSettings) -> Callable[[int], float]:
    """The same algorithm in plain Python, an individual at a time; scores are still asked for by the generation."""
    choices, table, budget = problem.space.choices, problem.table, problem.budget

    def fits(individual: list[int]) -> bool:
        return table(np.array([individual], dtype=np.int8))[0] <= budget

    def mutated(parent: list[int], draw: random.Random) -> list[int]:
        while True:
            child = [
                draw.choice(allowed) if draw.random() < settings.mutation_probability else value
                for value, allowed in zip(parent, choices, strict=True)
            ]
            if fits(child):
                return child

    def crossed(mother: list[int], father: list[int], draw: random.Random) -> list[int]:
        while True:
            child = [draw.choice(pair) for pair in zip(mother, father, strict=True)]
            if fits(child):
                return child

    def sampled(draw: random.Random) -> list[int]:
        while True:
            individual = [draw.choice(allowed) for allowed in choices]
            if fits(individual):
                return individual

    def search(seed: int) -> float:
        draw = random.Random(seed)
        parents_kept = max(1, round(settings.parent_share * settings.population))
        mutants = round(settings.mutation_share * settings.population)
        pool = [sampled(draw) for _ in range(settings.population)]
        population = list(zip(problem.score(np.array(pool, dtype=np.int8)).tolist(), pool, strict=True))
        for _ in range(settings.generations):
            parents = sorted(population, key=lambda pair: -pair[0])[:parents_kept]
            pool = [mutated(draw.choice(parents)[1], draw) for _ in range(mutants)]
            pool += [
                crossed(draw.choice(parents)[1], draw.choice(parents)[1], draw)
                for _ in range(settings.population - mutants)
            ]
            population = parents + list(zip(problem.score(np.array(pool, dtype=np.int8)).tolist(), pool, strict=True))
        return max(value for value, _ in population)

    return search


def by_release(problem: Problem, predictor: AccuracyPredictor, settings: EvolutionSettings):
    """The OFA release's EvolutionFinder with the same predictor: seed -> best score; or why it cannot be used."""
    release = ofa_release.load()
    if isinstance(release, str):
        return release
    space = problem.space
    encoder = release.accuracy.ResNetArchEncoder(image_size_list=[IMAGE_SIZE])
    theirs = release.accuracy.AccuracyPredictor(encoder, device=str(predictor.starts.device))
    theirs.layers.load_state_dict(predictor.layers.state_dict())
    efficiency = release.efficiency()

    paths = space.sample(50, np.random.default_rng(1))
    described = [ofa_release.describe(space, path) for path in paths]
    with torch.inference_mode():
        scores = theirs.predict_acc(described).double().cpu().numpy()
    agree(bool(np.allclose(scores, predictor.score(paths), rtol=1e-3, atol=1e-5)), "predictions by the OFA release")
    costs = 1e6 * np.array([efficiency.get_efficiency(each) for each in described])
    agree(bool(np.allclose(costs, problem.table(paths), rtol=1e-9)), "costs by the OFA release")

    def search(seed: int) -> float:
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 (the release draws from the global generators)
        finder = release.search.EvolutionFinder(
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


@benchmark("evolution", full=SearchSizes(), quick=QUICK)
def evolution(sizes: SearchSizes, timing: Timing) -> list[Row]:
    """A search of 100 individuals by 500 generations with an accuracy predictor of the OFA release's form."""
    space = OFAResNetSpace(elastic_stem=True)
    torch.manual_seed(0)
    predictor = AccuracyPredictor(space).to(timing.device).eval()
    problem = Problem.of(space, predictor.score)
    peers = {
        "one by one": one_by_one(problem, sizes.settings),
        "OFA release": by_release(problem, predictor, sizes.settings),
    }
    return _compare("evolution", problem, peers, sizes, timing)


@benchmark("evolution-path-filter", full=SearchSizes(), quick=QUICK)
def evolution_path_filter(sizes: SearchSizes, timing: Timing) -> list[Row]:
    """The same search with a transformer of the size of DetOFA's path filter as predictor."""
    space = OFAResNetSpace()
    torch.manual_seed(0)
    predictor = PathTransformer(space).to(timing.device).eval()
    problem = Problem.of(space, predictor.score)
    return _compare(
        "evolution-path-filter", problem, {"one by one": one_by_one(problem, sizes.settings)}, sizes, timing
    )


def _compare(name: str, problem: Problem, peers: dict, sizes: SearchSizes, timing: Timing) -> list[Row]:
    """Times the searches; every row says what best score either side found, over all its searches."""
    ours = _Searches(vectorised(problem, sizes.settings))
    ours()
    theirs = {peer: _Searches(search) for peer, search in peers.items() if not isinstance(search, str)}
    contenders = [
        Contender(peer, theirs[peer]) if peer in theirs else Missing(peer, search) for peer, search in peers.items()
    ]
    rows = compare(name, "s", Contender("generations as arrays", ours), contenders, timing)
    for searches in (ours, *(theirs[peer] for peer in theirs if peer != "OFA release")):  # which takes half a minute
        searches.again(sizes.searches)
    return [
        replace(each, note=f"best score: ours {_scores(ours)}, peer {_scores(theirs[each.against])}")
        if each.against in theirs
        else each
        for each in rows
    ]


def _scores(searches: _Searches) -> str:
    found = np.array(searches.found)
    return f"{found.mean():.5f} ({found.min():.5f} to {found.max():.5f}, {len(found)} searches)"
