"""Intervals over seeds and over items, rank correlation, and how many seeds an effect needs.

Methods under comparison share a seed's weights, data order and validation images, so what is tested is always their
difference within a seed, never two separate means.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from common.plain import InputError


@dataclass(frozen=True)
class Difference:
    """A mean (of differences, of a score, or of a rank statistic) with its 95 % interval.

    `n` is the number of independent units behind it: seeds, as a rule. `low` and `high` are NaN where there is no
    interval to give (one seed). The unit is that of the numbers that went in.
    """

    mean: float
    low: float
    high: float
    n: int

    @property
    def has_interval(self) -> bool:
        """Whether both ends are finite."""
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

    def p_value(self, threshold: float = 0.0) -> float:
        """Two-sided p of the mean's distance from a threshold, by the t distribution; NaN without an interval."""
        if self.n < 2 or not self.has_interval:
            return math.nan
        from scipy import stats

        distance = abs(self.mean - threshold)
        ratio = distance * _student_t(self.n) / self.half if self.half else math.inf if distance else 0.0
        return float(2 * stats.t.sf(ratio, self.n - 1))


def mean_interval(values: ArrayLike, comparisons: int = 1) -> Difference:
    """The mean over seeds with its Student-t interval. values: (S,) or (S, ...), trailing axes averaged first.

    The seed, which is what was repeated, so stays the unit of the test. comparisons: how many intervals shall hold
    together in 95 % of cases (Bonferroni). InputError for no value or one not finite.
    """
    values = np.asarray(values, dtype=float)
    if not values.ndim or not values.size:
        raise InputError(f"a mean needs at least one value for each seed, got an array of the shape {values.shape}")
    if not np.isfinite(values).all():
        raise InputError(f"a mean needs finite numbers, got {np.count_nonzero(~np.isfinite(values))} that are not")
    by_seed = values.reshape(len(values), -1).mean(axis=1)
    seeds, mean = len(by_seed), float(by_seed.mean())
    if seeds < 2:
        return Difference(mean, math.nan, math.nan, seeds)
    half = _student_t(seeds, comparisons) * float(by_seed.std(ddof=1)) / math.sqrt(seeds)
    return Difference(mean, mean - half, mean + half, seeds)


def farthest(values: ArrayLike, toward: Literal["low", "high"], comparisons: int) -> Difference:
    """Of several means over seeds, the one whose interval reaches lowest, or highest: where it is on the right side of
    a threshold, all are. values: (S, N), a column for each mean. comparisons: see `mean_interval`.
    """
    means = [mean_interval(column, comparisons) for column in np.asarray(values, dtype=float).T]
    choose = min if toward == "low" else max
    return choose(means, key=lambda each: getattr(each, toward))


def kendall_tau(predicted: ArrayLike, actual: ArrayLike, groups: ArrayLike | None = None) -> float:
    """Kendall's tau-b between two scores of the same items, (N,) each; NaN where one of them ties in every pair.

    groups: (N,); only pairs inside a group count then, such as those of one cost bucket. tau-b is the sum of sign
    products over sqrt(untied pairs of one x untied pairs of the other).
    """
    predicted, actual = np.asarray(predicted, dtype=float), np.asarray(actual, dtype=float)
    if predicted.shape != actual.shape or predicted.ndim != 1:
        raise InputError(
            f"kendall_tau needs two scores for each item, got arrays of the shapes {predicted.shape} and {actual.shape}"
        )
    sums = np.zeros(3)  # of sign products, of untied pairs of the one, of the other
    for inside in _members(groups, len(predicted)):
        signs, other_signs = (np.sign(each[inside, None] - each[inside]) for each in (predicted, actual))
        sums += (signs * other_signs).sum(), np.abs(signs).sum(), np.abs(other_signs).sum()
    untied = sums[1] * sums[2]
    return float(sums[0] / math.sqrt(untied)) if untied else math.nan


def _members(groups: ArrayLike | None, items: int) -> list[np.ndarray]:
    """Places of the items of each group; all of them where there are no groups."""
    if groups is None:
        return [np.arange(items)]
    _, numbers = np.unique(groups, return_inverse=True)
    return np.split(np.argsort(numbers, kind="stable"), np.cumsum(np.bincount(numbers))[:-1])


def partial_tau(first: ArrayLike, second: ArrayLike, covariate: ArrayLike, groups: ArrayLike | None = None) -> float:
    """Kendall's tau of what a cubic curve through the covariate leaves of two scores, (N,) each.

    groups: (N,), such as the seed: each has its own curve, and only pairs inside one count. A group of four items or
    fewer, which a cubic curve goes through, says nothing. (Where two scores bend alike with the covariate, what a
    straight line leaves of them agrees, though they share nothing else; and Kendall's own partial tau is not 0 for
    scores that share nothing but the covariate.)
    """
    scores = np.stack([np.asarray(first, dtype=float), np.asarray(second, dtype=float)], axis=1)
    covariate = np.asarray(covariate, dtype=float)
    left = np.zeros_like(scores)
    for inside in _members(groups, len(covariate)):
        along = covariate[inside] - covariate[inside].mean()
        curves = np.vander(along / (np.abs(along).max() or 1.0), 4)
        rest = scores[inside] - curves @ np.linalg.lstsq(curves, scores[inside], rcond=None)[0]
        left[inside] = np.where(np.abs(rest) > 1e-9 * np.abs(scores[inside]).max(axis=0), rest, 0.0)
    return kendall_tau(left[:, 0], left[:, 1], groups)


def bootstrap_interval(
    statistic: Callable[[list[Any]], float], seeds: Sequence[Sequence[Any]], draws: int = 2000, alike: bool = False
) -> Difference:
    """A statistic of items pooled over seeds, with its 95 % percentile interval: seeds are drawn again, then items.

    alike: every seed has the same items in the same order, such as named detectors: they are drawn once for all seeds.
    statistic: items -> a number; NaN leaves a draw out. seeds: items of each seed, such as (cost, AP) of an
    architecture. For what is bounded (shares, ranks, areas), where a t interval would reach past the bounds. n is the
    number of items. Raises InputError where there are none.
    """
    if not seeds or not all(len(items) for items in seeds):
        raise InputError("a bootstrap needs at least one item of every seed")
    generator = np.random.Generator(np.random.PCG64(0))
    values = []
    for _ in range(draws):
        drawn = [seeds[index] for index in generator.integers(len(seeds), size=len(seeds))]
        if alike:
            places = [generator.integers(len(drawn[0]), size=len(drawn[0]))] * len(drawn)
        else:
            places = [generator.integers(len(items), size=len(items)) for items in drawn]
        values.append(statistic([items[at] for items, own in zip(drawn, places, strict=True) for at in own]))
    finite = np.array(values)[np.isfinite(values)]
    low, high = np.quantile(finite, [0.025, 0.975]) if len(seeds) > 1 and len(finite) else (math.nan, math.nan)
    pooled = [item for items in seeds for item in items]
    return Difference(float(statistic(pooled)), float(low), float(high), len(pooled))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p of each name, adjusted by Holm for all of them together: below .05, it would stand among so many tests."""
    ordered = sorted(p_values, key=p_values.__getitem__)
    adjusted, largest = {}, 0.0
    for rank, name in enumerate(ordered):
        largest = max(largest, min(1.0, (len(ordered) - rank) * p_values[name]))
        adjusted[name] = largest
    return adjusted


def seeds_needed(sd: float, effect: float) -> int:
    """The fewest seeds (at least 2) at which a paired, two-sided t test at 5 % finds `effect` with a chance of 80 %.

    sd: standard deviation of the paired difference between seeds; effect: the distance from the threshold to be
    found; both in the same unit. From the noncentral t distribution. InputError where no number of seeds would do.
    """
    if not effect or not math.isfinite(effect) or not math.isfinite(sd) or sd < 0:
        raise InputError(f"seeds_needed: sd must be at least 0 and effect not 0, got {sd} and {effect}")
    from scipy import stats  # takes a second, and what only shows results does without

    ratio = abs(effect) / sd if sd else math.inf

    def enough(seeds: int) -> bool:
        shift = ratio * math.sqrt(seeds)
        # the chance in the far tail (the wrong sign) is left out: such a result would not be a finding
        return shift > 100 or stats.nct.sf(_student_t(seeds), seeds - 1, shift) >= 0.8

    most = 2
    while not enough(most):
        most *= 2
    return bisect_left(range(most + 1), True, lo=2, key=enough)


@cache
def _student_t(seeds: int, comparisons: int = 1) -> float:
    from scipy import stats

    return float(stats.t.ppf(1 - 0.025 / comparisons, seeds - 1))
