"""Evolutionary search: finds the best of small spaces, never leaves the constraint, wastes no evaluation."""

import dataclasses

import numpy as np
import pytest

from common.models.ofa_resnet import OFAResNetSpace
from common.plain import InputError
from common.search.evolution import EvolutionSettings, evolve

COLUMNS, VALUES = 12, 4
RADICES = np.full(COLUMNS, VALUES)
WEIGHT = np.random.default_rng(0).normal(size=(COLUMNS, VALUES))
SMALL = EvolutionSettings(population=40, generations=30)


def _sample(count, generator):
    return generator.integers(0, VALUES, size=(count, COLUMNS)).astype(np.int8)


def _additive(rows):
    return WEIGHT[np.arange(COLUMNS), rows].sum(axis=1)


def _cost(rows):
    return rows.sum(axis=1)


class Counted:
    """A score that remembers every row it was asked for."""

    def __init__(self, score=_additive):
        self.score, self.rows = score, []

    def __call__(self, rows):
        self.rows += [row.tobytes() for row in rows]
        return self.score(rows)


def _search(score=_additive, feasible=None, settings=SMALL, seed=0, sample=_sample, canonical=lambda rows: rows):
    feasible = feasible or (lambda rows: np.ones(len(rows), dtype=bool))
    return evolve(sample, canonical, feasible, score, RADICES, settings, np.random.default_rng(seed))


def test_the_same_seed_gives_the_same_search_and_another_seed_another():
    first, again, other = (_search(settings=EvolutionSettings(20, 3), seed=seed) for seed in (0, 0, 1))
    assert (first.best == again.best).all()
    np.testing.assert_array_equal(first.history, again.history)
    assert first.scored == again.scored
    assert not np.array_equal(first.history, other.history)


def test_the_optimum_of_an_additive_score_is_found():
    found = _search(settings=EvolutionSettings(population=100, generations=60))
    assert found.best.tolist() == WEIGHT.argmax(axis=1).tolist()
    assert found.score == pytest.approx(WEIGHT.max(axis=1).sum())


def test_nothing_infeasible_is_ever_scored_or_returned():
    score = Counted()
    found = _search(score, lambda rows: _cost(rows) <= 12)
    assert max(_cost(np.frombuffer(row, dtype=np.int8)[None])[0] for row in score.rows) <= 12
    assert _cost(found.best[None])[0] <= 12
    assert found.score == _additive(found.best[None])[0]


def test_nothing_is_scored_twice():
    score = Counted()
    found = _search(score)
    assert len(score.rows) == len(set(score.rows)) == found.scored
    assert found.scored < SMALL.population * (SMALL.generations + 1)


@pytest.mark.parametrize("generations", [0, 1, 25])
def test_history_only_rises_and_ends_at_the_best(generations):
    found = _search(settings=EvolutionSettings(30, generations))
    assert found.history.shape == (generations + 1,)
    assert (np.diff(found.history) >= 0).all()
    assert found.history[-1] == found.score


def test_better_than_random_search_with_as_many_evaluations():
    """On a rugged score: neighbours on a ring of columns interact, so columns cannot be chosen one by one."""
    pair = np.random.default_rng(1).normal(size=(COLUMNS, VALUES, VALUES))

    def rugged(rows):
        return sum(pair[c, rows[:, c], rows[:, (c + 1) % COLUMNS]] for c in range(COLUMNS))

    wins = []
    for seed in range(10):
        found = _search(rugged, seed=seed)
        random = rugged(_sample(found.scored, np.random.default_rng([seed, 1]))).max()
        wins.append(found.score - random)
    assert min(wins) >= 0
    assert np.mean(wins) > 1.0


def test_equal_networks_are_one_candidate():
    """With a column that does not matter cleared by `canonical`, no two scored rows differ in it alone."""

    def canonical(rows):
        rows = rows.copy()
        rows[:, 0] = 0
        return rows

    score = Counted()
    _search(score, sample=lambda count, generator: canonical(_sample(count, generator)), canonical=canonical)
    assert {row[0] for row in score.rows} == {0}
    assert len(score.rows) == len(set(score.rows))


def test_a_single_feasible_encoding_is_enough():
    wanted = np.array([1, 2], dtype=np.int8)

    def sample(count, generator):
        return generator.integers(0, VALUES, size=(count, 2)).astype(np.int8)

    found = evolve(
        sample,
        lambda rows: rows,
        lambda rows: (rows == wanted).all(axis=1),
        _cost,
        np.array([VALUES, VALUES]),
        EvolutionSettings(8, 3),
        np.random.default_rng(0),
    )
    assert (found.best == wanted).all()
    assert found.scored == 1


def test_an_impossible_constraint_is_said_in_a_sentence():
    with pytest.raises(InputError, match="no candidate meets the constraint") as caught:
        _search(feasible=lambda rows: np.zeros(len(rows), dtype=bool))
    assert "\n" not in str(caught.value)


def test_a_space_too_large_for_the_keys_is_refused():
    with pytest.raises(InputError, match=r"2\^63"):
        evolve(None, None, None, None, np.full(32, 4), SMALL, np.random.default_rng(0))


def test_keys_of_the_largest_space_are_distinct():
    """The paper's space with its stem elastic: rows of 29 columns, keyed exactly by 64-bit numbers."""
    space = OFAResNetSpace(elastic_stem=True)
    radices = np.array([max(choice) + 1 for choice in space.choices])
    score = Counted(lambda rows: rows.sum(axis=1))
    settings = dataclasses.replace(SMALL, population=500, generations=4)
    found = evolve(
        space.sample, space.canonical, lambda rows: np.ones(len(rows), bool), score, radices, settings,
        np.random.default_rng(0),
    )  # fmt: skip
    assert found.scored == len(set(score.rows)) == len(score.rows) > 1500


def test_children_that_nobody_has_scored_come_first():
    """Taking any children, a search of this length scores half as many: its parents soon resemble one another."""
    assert _search().scored > 0.5 * SMALL.population * (SMALL.generations + 1)
