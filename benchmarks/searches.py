"""Evolutionary search: whole generations as arrays against one individual after another."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from benchmarks import ofa_release
from benchmarks.harness import Row, Timing, Work, agree, compare
from benchmarks.networks import SPACES
from benchmarks.paths import IMAGE_SIZE, SPACE, classifier_macs
from common.models.ofa_resnet import OFAResNetSpace
from common.search.evolution import EvolutionSettings, evolve
from detofa.method import Constraint, FilterSettings, PathFilter, PathScorer

BUDGET_SHARE = 0.3  # of the way from the cheapest path to the dearest
Search = Callable[[int], float]  # seed -> best score


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


def macs_of(space: OFAResNetSpace) -> Constraint:
    """MACs as the resource that DetOFA's path filter and its buckets go by."""
    cost = classifier_macs(space)
    lowest, highest = cost(np.stack([space.smallest(), space.largest()]))
    return Constraint("MACs", "", cost, lowest, highest)


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
    space = SPACES["paper widths"]
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

    references = {"one by one": lambda: one_by_one(problem, settings), **more}
    peers = {name: lambda name=name, make=make: work(name, make()) for name, make in references.items()}
    ours = work("ours", vectorised(problem, settings))
    ours.run()
    # nobody else is warmed up: a search of the release takes half a minute
    rows = compare("s", ours, peers, replace(timing, warm_up=False))
    for name, make in (("ours", vectorised), ("one by one", one_by_one)):
        found[name] += [make(problem, settings)(seed) for seed in range(len(found[name]), searches)]

    def described(name: str) -> str:
        scores = np.array(found[name])
        return f"{scores.mean():.5f} ({scores.min():.5f} to {scores.max():.5f}, {len(scores)} searches)"

    return [
        replace(row, note=f"best score: ours {described('ours')}, peer {described(row.against)}")
        if row.against in found
        else row
        for row in rows
    ]


# ---- the searches


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

    def feasible(make: Callable[[], list[int]]) -> list[int]:
        while True:
            individual = make()
            if problem.feasible(np.array([individual], dtype=np.int8))[0]:
                return individual

    def search(seed: int) -> float:
        draw = random.Random(seed)

        def sampled() -> list[int]:
            return [draw.choice(allowed) for allowed in choices]

        def mutated(parent: list[int]) -> list[int]:
            pairs = zip(parent, choices, strict=True)
            return [draw.choice(new) if draw.random() < settings.mutation_probability else old for old, new in pairs]

        def crossed(mother: list[int], father: list[int]) -> list[int]:
            return [draw.choice(pair) for pair in zip(mother, father, strict=True)]

        def scored(individuals: list[list[int]]) -> list[tuple[float, list[int]]]:
            return list(zip(problem.score(np.array(individuals, dtype=np.int8)).tolist(), individuals, strict=True))

        population = scored([feasible(sampled) for _ in range(settings.population)])
        for _ in range(settings.generations):
            best = sorted(population, key=lambda pair: -pair[0])[:parents_kept]
            parents = [individual for _, individual in best]
            children = []
            for child in range(settings.population):
                if child < mutants:
                    parent = draw.choice(parents)
                    children.append(feasible(lambda parent=parent: mutated(parent)))
                else:
                    pair = draw.choice(parents), draw.choice(parents)
                    children.append(feasible(lambda pair=pair: crossed(*pair)))
            population = best + scored(children)
        return max(score for score, _ in population)

    return search


def by_release(problem: Problem, predictor: "AccuracyPredictor", settings: EvolutionSettings) -> Search:
    """The OFA release's EvolutionFinder with the same predictor. Raises `Unavailable` without the package."""
    accuracy, efficiency = ofa_release.part("nas.accuracy_predictor"), ofa_release.efficiency()
    encoder = accuracy.ResNetArchEncoder(image_size_list=[IMAGE_SIZE])
    theirs = accuracy.AccuracyPredictor(encoder, device=str(predictor.device))
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

    def __init__(self, space: OFAResNetSpace, device: torch.device, hidden: int = 400) -> None:
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
