"""Evolutionary search over encodings, a whole generation at a time.

The algorithm is the one that Once-for-all uses (a population, the best quarter as parents, half of the children by
mutation and half by crossover); here a generation is a few array operations instead of a loop over individuals, and
nothing is scored twice. At a hundred individuals an array operation costs the same however many rows it has, so
children are made in surplus for one check of the constraint, and random samples are drawn for generations ahead. The
surplus serves the search as well: of the feasible children those come first that nobody has scored yet, where
Once-for-all takes any and so meets the same ones again and again once its parents resemble one another.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from common.plain import InputError

Score = Callable[[np.ndarray], np.ndarray]
Feasible = Callable[[np.ndarray], np.ndarray]
Sample = Callable[[int, np.random.Generator], np.ndarray]
Breed = Callable[[np.ndarray, int], np.ndarray]

SURPLUS = 4  # candidates made for a child that is wanted: near the budget about one in three is feasible
SAMPLES_AHEAD = 8192  # rows


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

    def keys(self, rows: np.ndarray) -> np.ndarray:
        """(P,) int64: a number for each row, the same for equal networks."""
        return self._canonical(rows).astype(np.int64) @ self._weights

    def new(self, keys: np.ndarray) -> np.ndarray:
        """(P,) bool: whether a key has no score yet, and is the first of its kind here."""
        new = np.zeros(len(keys), dtype=bool)
        first = np.unique(keys, return_index=True)[1]
        new[first] = [key not in self._known for key in keys[first].tolist()]
        return new

    def __call__(self, rows: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """(P,) scores of rows (P, C) with these keys."""
        new = self.new(keys)
        if new.any():
            fresh = self._score(self._canonical(rows[new]))
            self._known.update(zip(keys[new].tolist(), np.asarray(fresh, dtype=float).tolist(), strict=True))
        return np.array([self._known[key] for key in keys.tolist()])

    def __len__(self) -> int:
        return len(self._known)


class _Samples:
    """Rows of `sample` in the order drawn, however many are taken at a time."""

    def __init__(self, sample: Sample, generator: np.random.Generator) -> None:
        self._sample, self._generator = sample, generator
        self._left = sample(0, generator)

    def take(self, count: int) -> np.ndarray:
        """(count, C) rows that nobody has had yet."""
        if len(self._left) < count:
            self._left = np.concatenate([self._left, self._sample(max(count, SAMPLES_AHEAD), self._generator)])
        taken, self._left = self._left[:count], self._left[count:]
        return taken


def evolve(
    sample: Sample,
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
    samples = _Samples(sample, generator)
    keys = scores.keys(population)
    values = scores(population, keys)
    parents_kept = max(1, round(settings.parent_share * settings.population))
    mutants = round(settings.mutation_share * settings.population)

    def mutate(parents: np.ndarray, count: int) -> np.ndarray:
        children = parents[generator.integers(len(parents), size=count)]
        changed = generator.random(children.shape) < settings.mutation_probability
        return np.where(changed, samples.take(count), children)

    def cross(parents: np.ndarray, count: int) -> np.ndarray:
        mothers, fathers = parents[generator.integers(len(parents), size=(2, count))]
        return np.where(generator.random(mothers.shape) < 0.5, mothers, fathers)

    breeds, wanted = (mutate, cross), np.array([mutants, settings.population - mutants])
    history = [values.max()]
    for _ in range(settings.generations):
        # Parents are different: a population of copies of one early winner would stop searching.
        distinct = np.sort(np.unique(keys, return_index=True)[1])
        order = distinct[np.argsort(-values[distinct], kind="stable")][:parents_kept]
        parents = population[order]
        children, child_keys = _children(breeds, wanted, parents, keys[order], feasible, scores)
        population = np.concatenate([parents, children])
        values = np.concatenate([values[order], scores(children, child_keys)])
        keys = np.concatenate([keys[order], child_keys])
        history.append(values.max())
    winner = int(values.argmax())
    return EvolutionResult(
        canonical(population[winner : winner + 1])[0], float(values[winner]), np.array(history), len(scores)
    )


def _children(
    breeds: Sequence[Breed],
    wanted: np.ndarray,
    parents: np.ndarray,
    parent_keys: np.ndarray,
    feasible: Feasible,
    scores: _Scores,
    rounds: int = 3,
) -> tuple[np.ndarray, np.ndarray]:
    """Feasible children, as many of each way to breed as are wanted, new ones first; and their keys.

    What is still missing after a few rounds is filled with parents.
    """
    rows, keys = [], []
    for _ in range(rounds):
        made = np.concatenate([breed(parents, count) for breed, count in zip(breeds, SURPLUS * wanted, strict=True)])
        fitting = np.flatnonzero(feasible(made))
        made, way = made[fitting], np.repeat(np.arange(len(breeds)), SURPLUS * wanted)[fitting]
        made_keys = scores.keys(made)
        new_first = np.argsort(~scores.new(made_keys), kind="stable")
        for which, count in enumerate(wanted):
            taken = new_first[way[new_first] == which][:count]
            rows.append(made[taken])
            keys.append(made_keys[taken])
        wanted = wanted - [len(part) for part in rows[-len(breeds) :]]
        if not wanted.any():
            break
    filling = np.arange(wanted.sum()) % len(parents)
    return np.concatenate([*rows, parents[filling]]), np.concatenate([*keys, parent_keys[filling]])


def _feasible_samples(sample: Sample, feasible: Feasible, count: int, generator, draws: int = 200) -> np.ndarray:
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
