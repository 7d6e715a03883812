"""Intervals for paired comparisons and rank statistics, and how many seeds an effect needs.

Methods under comparison share a seed's weights, data order and validation images, so every test here is of the paired
difference, never of two separate means.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from common.plain import InputError

CONFIDENCE = 0.95
_REPLICATES_AT_ONCE = 250  # bounds the memory of a bootstrap, whatever its size


@dataclass(frozen=True)
class Difference:
    """A mean (of differences, of a score, or a rank statistic) with its 95 % interval.

    `n` is the number of independent units behind it: seeds, or items for a rank statistic. `low` and `high` are NaN
    where there is no interval to give (one seed). The unit is that of the numbers that went in.
    """

    mean: float
    low: float
    high: float
    n: int

    @property
    def has_interval(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def half(self) -> float:
        """Half the width of the interval."""
        return (self.high - self.low) / 2

    def deviation(self) -> float:
        """The standard deviation between seeds that gives this Student-t interval; NaN without an interval."""
        if self.n < 2 or not self.has_interval:
            return math.nan
        return self.half * math.sqrt(self.n) / _student_t(self.n)


def mean_interval(values: ArrayLike) -> Difference:
    """The mean over seeds with its Student-t interval. values: (S,) or (S, ...), trailing axes averaged first."""
    by_seed = _by_seed(values, "values")
    seeds = len(by_seed)
    mean = float(by_seed.mean())
    if seeds < 2:
        return Difference(mean, math.nan, math.nan, seeds)
    half = _student_t(seeds) * float(by_seed.std(ddof=1)) / math.sqrt(seeds)
    return Difference(mean, mean - half, mean + half, seeds)


def paired_difference(ours: ArrayLike, theirs: ArrayLike) -> Difference:
    """ours - theirs over seeds, with its Student-t interval.

    ours, theirs: (S,) or (S, budgets...), the same seed in the same row. Budgets are averaged within a seed first, so
    that the seed, which is what was repeated, stays the unit of the test.
    """
    ours, theirs = _same_shape(ours, theirs)
    return mean_interval(ours - theirs)


def bootstrap_difference(
    ours: ArrayLike, theirs: ArrayLike, *, shared_items: bool = True, replicates: int = 2000, seed: int = 0
) -> Difference:
    """ours - theirs with an interval over seeds *and* items. ours, theirs: (S, N) values of S seeds on N items.

    `shared_items`: all seeds saw the same N items (one validation set), so a replicate draws the items once for all its
    seeds; otherwise it draws them anew inside each seed.

    A percentile interval of a few seeds is much too narrow. The bootstrap's standard error is therefore widened by
    sqrt(S / (S - 1)) and Student's t with S - 1 degrees of freedom, which gives exactly `paired_difference` where the
    items do not vary.
    """
    ours, theirs = _same_shape(ours, theirs)
    if ours.ndim != 2:
        raise InputError(f"bootstrap_difference needs arrays of seeds by items, and was given the shape {ours.shape}")
    difference = ours - theirs
    seeds, items = difference.shape
    mean = float(difference.mean())
    if seeds < 2:
        return Difference(mean, math.nan, math.nan, seeds)
    generator = np.random.default_rng(seed)
    means = []
    for start in range(0, replicates, _REPLICATES_AT_ONCE):
        count = min(_REPLICATES_AT_ONCE, replicates - start)
        seed_weights = _draws(generator, seeds, count)  # (R, S)
        if shared_items:
            item_weights = _draws(generator, items, count)  # (R, N)
            means.append((seed_weights @ difference * item_weights).sum(axis=1) / (seeds * items))
        else:
            by_seed = np.zeros(count)
            for slot in generator.integers(seeds, size=(seeds, count)):  # one drawn seed a replicate
                by_seed += (_draws(generator, items, count) * difference[slot]).mean(axis=1)
            means.append(by_seed / seeds)
    half = _student_t(seeds) * math.sqrt(seeds / (seeds - 1)) * float(np.concatenate(means).std())
    return Difference(mean, mean - half, mean + half, seeds)


def bootstrap_statistic(
    statistic: Callable[[np.ndarray, np.ndarray], float],
    seeds: int,
    items: int,
    *,
    replicates: int = 200,
    seed: int = 0,
) -> Difference:
    """Any statistic, such as a difference of AP, with an interval over seeds and shared items.

    `statistic(seed_indices, item_indices)` is called with index arrays (S,) and (N,) that may repeat; widened for few
    seeds as in `bootstrap_difference`. A draw for which it gives NaN (it is not defined there) is left out.
    """
    mean = float(statistic(np.arange(seeds), np.arange(items)))
    if seeds < 2:
        return Difference(mean, math.nan, math.nan, seeds)
    generator = np.random.default_rng(seed)
    drawn = np.array(
        [
            statistic(generator.integers(seeds, size=seeds), generator.integers(items, size=items))
            for _ in range(replicates)
        ]
    )
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return Difference(mean, math.nan, math.nan, seeds)
    half = _student_t(seeds) * math.sqrt(seeds / (seeds - 1)) * float(drawn.std())
    return Difference(mean, mean - half, mean + half, seeds)


def kendall_tau(
    predicted: ArrayLike,
    actual: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    replicates: int = 1000,
    seed: int = 0,
) -> Difference:
    """Kendall's tau-b between two scores of the same N items, with a percentile bootstrap interval over the items.

    predicted, actual: (N,). `groups`: (N,) integers; only pairs inside a group then count (a ranking inside each cost
    bucket). tau-b = sum of sign products / sqrt(untied pairs of one x untied pairs of the other). An item drawn twice
    is no pair with itself.
    """
    predicted, actual = _same_shape(predicted, actual)
    if predicted.ndim != 1 or len(predicted) < 2:
        raise InputError(
            f"kendall_tau needs two lists of at least two scores, and was given the shape {predicted.shape}"
        )
    items = len(predicted)
    signs = np.sign(predicted[:, None] - predicted[None, :])
    other_signs = np.sign(actual[:, None] - actual[None, :])
    if groups is not None:
        groups = np.asarray(groups)
        together = groups[:, None] == groups[None, :]
        signs, other_signs = signs * together, other_signs * together
    product, untied, other_untied = signs * other_signs, np.abs(signs), np.abs(other_signs)

    def tau(weights: np.ndarray) -> np.ndarray:  # (R, N) how often each item was drawn -> (R,)
        agreement, pairs, other_pairs = (
            ((weights @ matrix) * weights).sum(axis=1) for matrix in (product, untied, other_untied)
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            return agreement / np.sqrt(pairs * other_pairs)

    value = float(tau(np.ones((1, items)))[0])
    generator = np.random.default_rng(seed)
    counts = [min(_REPLICATES_AT_ONCE, replicates - start) for start in range(0, replicates, _REPLICATES_AT_ONCE)]
    drawn = np.concatenate([tau(_draws(generator, items, count)) for count in counts])
    drawn = drawn[np.isfinite(drawn)]
    if not math.isfinite(value) or not len(drawn):
        return Difference(value, math.nan, math.nan, items)  # all tied: there is no ranking
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Difference(value, float(low), float(high), items)


def rank_correlation(
    one: ArrayLike,
    other: ArrayLike,
    seeds: ArrayLike,
    *,
    coefficient: Literal["kendall", "spearman"] = "kendall",
    candidates: ArrayLike | None = None,
    replicates: int = 400,
    seed: int = 0,
) -> Difference:
    """Rank correlation of two numbers of each candidate inside its seed, averaged over the seeds, with its interval.

    one, other, seeds: (N,), all seeds' candidates in one list: a proxy and the AP, or a factor and the AP. Kendall's
    tau-b, or Spearman's rho with middle ranks for ties.

    Without `candidates`, each seed has candidates of its own, whose chance is then part of the spread between seeds,
    and the interval is Student's t over the seeds' coefficients. `candidates`: (N,), who is who; the same ones come
    back in every seed, which the spread between seeds does not show, so that the interval is `bootstrap_statistic`'s
    over seeds and candidates. A candidate may be missing in a seed (it failed there).

    A seed in which all candidates tie has no ranking and is left out: `n` counts the seeds that have one. The interval
    is symmetric and may pass 1. For one seed, `kendall_tau` gives an interval over its candidates.
    """
    one, other = _same_shape(one, other)
    labels, which = np.unique(np.asarray(seeds), return_inverse=True)
    if one.ndim != 1 or which.shape != one.shape or not len(one):
        raise InputError(
            f"rank_correlation needs two numbers and a seed for each candidate, and was given the shapes {one.shape}, "
            f"{other.shape} and {np.shape(seeds)}"
        )
    bad = np.count_nonzero(~(np.isfinite(one) & np.isfinite(other)))
    if bad:
        raise InputError(f"rank_correlation: {bad} candidates have a value that is not finite; leave them out first")
    from scipy import stats  # takes a second, and what only shows results does without

    compute = {"kendall": stats.kendalltau, "spearman": stats.spearmanr}[coefficient]

    def correlate(places: np.ndarray) -> float:
        if len(places) < 2 or not np.ptp(one[places]) or not np.ptp(other[places]):
            return math.nan
        return float(compute(one[places], other[places]).statistic)

    by_seed = np.array([correlate(np.flatnonzero(which == place)) for place in range(len(labels))])
    ranked = np.flatnonzero(np.isfinite(by_seed))
    if not len(ranked):
        return Difference(math.nan, math.nan, math.nan, 0)
    if candidates is None:
        return mean_interval(by_seed[ranked])

    names, who = np.unique(np.asarray(candidates), return_inverse=True)
    if who.shape != one.shape:
        raise InputError(f"rank_correlation: {len(who)} names of candidates, but {len(one)} values")
    table = np.full((len(labels), len(names)), -1)  # where a seed's candidate stands in the lists; -1: it has none
    table[which, who] = np.arange(len(one))
    if np.count_nonzero(table >= 0) < len(one):
        raise InputError("rank_correlation: a candidate comes twice in one seed; keep one of its values")
    table = table[ranked]

    def average(drawn_seeds: np.ndarray, drawn: np.ndarray) -> float:
        places = [row[drawn] for row in table[drawn_seeds]]
        found = np.array([correlate(row[row >= 0]) for row in places])
        return float(found[np.isfinite(found)].mean()) if np.isfinite(found).any() else math.nan

    return bootstrap_statistic(average, len(ranked), len(names), replicates=replicates, seed=seed)


def seeds_needed(sd: float, effect: float, power: float = 0.8) -> int:
    """The fewest seeds (at least 2) at which a paired, two-sided t test at 5 % finds `effect` with chance `power`.

    sd: standard deviation of the paired difference between seeds; effect: the distance from the threshold to be
    found; both in the same unit. From the noncentral t distribution.
    """
    if not effect or not math.isfinite(effect) or not math.isfinite(sd) or sd < 0 or not 0 < power < 1:
        raise InputError(f"seeds_needed: no number of seeds answers sd {sd}, effect {effect}, power {power}")
    from scipy import stats

    ratio = abs(effect) / sd if sd else math.inf

    def enough(seeds: int) -> bool:
        shift = ratio * math.sqrt(seeds)
        # the chance in the far tail (the wrong sign) is left out: such a result would not be a finding
        return shift > 100 or stats.nct.sf(_student_t(seeds), seeds - 1, shift) >= power

    high = 2
    while not enough(high):
        high *= 2
    low = high // 2
    while high - low > 1:  # low is too few, high is enough
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return max(high, 2)


@cache
def _student_t(seeds: int) -> float:
    from scipy import stats

    return float(stats.t.ppf((1 + CONFIDENCE) / 2, seeds - 1))


def _draws(generator: np.random.Generator, units: int, count: int) -> np.ndarray:
    """How often each of `units` is drawn when as many are drawn with replacement: (count, units)."""
    return generator.multinomial(units, np.full(units, 1 / units), size=count).astype(float)


def _by_seed(values: ArrayLike, name: str) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    if not values.ndim or not values.size:
        raise InputError(f"{name}: one value a seed is needed, and the array has the shape {values.shape}")
    if not np.isfinite(values).all():
        raise InputError(f"{name}: {np.count_nonzero(~np.isfinite(values))} values are not finite numbers")
    return values.reshape(len(values), -1).mean(axis=1)


def _same_shape(ours: ArrayLike, theirs: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    ours, theirs = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    if ours.shape != theirs.shape:
        raise InputError(f"a paired comparison needs the same shapes, and was given {ours.shape} and {theirs.shape}")
    return ours, theirs
