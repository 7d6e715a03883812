"""Evolutionary search over encodings, a whole generation at a time.

The algorithm is the one that Once-for-all uses (a population, the best quarter as parents, half of the children by
mutation and half by crossover); here a generation is a few array operations instead of a loop over individuals, and
nothing is scored twice.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from common.command import InputError

Score = Callable[[np.ndarray], np.ndarray]
Feasible = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class EvolutionSettings:
    """How long and how boldly to search."""

    population: int = 100
    """Individuals kept in a generation."""
    generations: int = 500
    """Generations after the first population."""
    mutation_probability: float = 0.1
    """Chance that a mutated child changes any one of its choices."""
    parent_share: float = 0.25
    """Share of the population, best first, that becomes parents and survives."""
    mutation_share: float = 0.5
    """Share of the children made by mutation; the others by crossover."""


@dataclass(frozen=True)
class EvolutionResult:
    """What a search found.

    best: (C,) int8. score: its score. history: (generations + 1,) best score so far. scored: how many different
    individuals were scored.
    """

    best: np.ndarray
    score: float
    history: np.ndarray
    scored: int


class _Scores:
    """Scores of rows already seen. A row's key is its mixed-radix number, exact in 64 bits."""

    def __init__(self, score: Score, canonical: Callable[[np.ndarray], np.ndarray], radices: np.ndarray):
        if np.prod(radices.astype(float)) >= 2.0**63:
            raise InputError("this search space has 2^63 encodings or more; the search keys them by 64-bit numbers")
        self._score, self._canonical = score, canonical
        self._weights = np.concatenate([[1], np.cumprod(radices[:-1].astype(np.int64))])
        self._known: dict[int, float] = {}

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        rows = self._canonical(rows)
        keys = self._numbers(rows).tolist()
        position = {key: row for row, key in enumerate(keys) if key not in self._known}
        if position:
            fresh = self._score(rows[list(position.values())])
            self._known.update(zip(position, np.asarray(fresh, dtype=float).tolist(), strict=True))
        return np.array([self._known[key] for key in keys])

    def keys(self, rows: np.ndarray) -> np.ndarray:
        """(P,) int64: a number for each row, the same for equal networks."""
        return self._numbers(self._canonical(rows))

    def _numbers(self, rows: np.ndarray) -> np.ndarray:
        return rows.astype(np.int64) @ self._weights

    def __len__(self) -> int:
        return len(self._known)


def evolve(
    sample: Callable[[int, np.random.Generator], np.ndarray],
    canonical: Callable[[np.ndarray], np.ndarray],
    feasible: Feasible,
    score: Score,
    radices: np.ndarray,
    settings: EvolutionSettings,
    generator: np.random.Generator,
) -> EvolutionResult:
    """Search for the feasible encoding of highest score.

    sample(count, generator) draws (count, C) encodings; canonical maps encodings of equal networks to one row (scores
    are kept by it, while choices without an effect live on: another choice may give them one);
    feasible and score take (P, C) rows and return (P,). radices: (C,) number of values a column can take; a mutated
    column takes the value that a fresh sample has there, so illegal values never appear.

    Raises `InputError` when no feasible encoding turns up among many samples.
    """
    scores = _Scores(score, canonical, np.asarray(radices))
    population = _feasible_samples(sample, feasible, settings.population, generator)
    values = scores(population)
    parents_kept = max(1, round(settings.parent_share * settings.population))
    mutants = round(settings.mutation_share * settings.population)
    history = [values.max()]
    for _ in range(settings.generations):
        # Parents are different: a population of copies of one early winner would stop searching.
        distinct = np.sort(np.unique(scores.keys(population), return_index=True)[1])
        order = distinct[np.argsort(-values[distinct], kind="stable")][:parents_kept]
        parents, parent_values = population[order], values[order]

        def mutate(count: int, parents: np.ndarray = parents) -> np.ndarray:
            children = parents[generator.integers(len(parents), size=count)]
            fresh = sample(count, generator)
            return np.where(generator.random(children.shape) < settings.mutation_probability, fresh, children)

        def cross(count: int, parents: np.ndarray = parents) -> np.ndarray:
            mothers = parents[generator.integers(len(parents), size=count)]
            fathers = parents[generator.integers(len(parents), size=count)]
            return np.where(generator.random(mothers.shape) < 0.5, mothers, fathers)

        children = [
            _children(mutate, mutants, feasible, parents),
            _children(cross, settings.population - mutants, feasible, parents),
        ]
        population = np.concatenate([parents, *children])
        values = np.concatenate([parent_values, scores(population[len(parents) :])])
        history.append(values.max())
    winner = int(values.argmax())
    return EvolutionResult(
        canonical(population[winner : winner + 1])[0], float(values[winner]), np.array(history), len(scores)
    )


def _children(make, count: int, feasible: Feasible, parents: np.ndarray, rounds: int = 8) -> np.ndarray:
    """`count` feasible children; what is still missing after a few rounds is filled with parents."""
    kept = []
    missing = count
    for _ in range(rounds):
        candidates = make(missing)
        kept.append(candidates[feasible(candidates)])
        missing -= len(kept[-1])
        if missing == 0:
            break
    if missing:
        kept.append(parents[np.arange(missing) % len(parents)])
    return np.concatenate(kept)


def _feasible_samples(sample, feasible: Feasible, count: int, generator, draws: int = 200) -> np.ndarray:
    kept: list[np.ndarray] = []
    for _ in range(draws):
        candidates = sample(max(count, 1000), generator)
        kept.append(candidates[feasible(candidates)])
        if sum(map(len, kept)) >= count:
            break
    found = np.concatenate(kept)[:count]
    if len(found) == 0:
        raise InputError(
            "no candidate meets the constraint among many random ones: give a budget farther from the cheapest"
        )
    # A tight budget leaves few: the population then starts with repetitions and mutation spreads it.
    return found[np.arange(count) % len(found)]
