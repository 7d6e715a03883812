"""Intervals against scipy's own, and against simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from common.command import InputError
from common.report.statistics import (
    bootstrap_difference,
    bootstrap_statistic,
    kendall_tau,
    mean_interval,
    paired_difference,
    seeds_needed,
)


def test_paired_difference_is_the_paired_t_interval_of_budget_means():
    generator = np.random.default_rng(0)
    ours, theirs = generator.normal(size=(2, 5, 4))
    result = paired_difference(ours, theirs)
    oracle = stats.ttest_rel(ours.mean(axis=1), theirs.mean(axis=1)).confidence_interval(0.95)
    assert result.mean == pytest.approx((ours - theirs).mean())
    assert (result.low, result.high) == pytest.approx((oracle.low, oracle.high))
    assert result.n == 5


def test_pairing_removes_what_seeds_share():
    seeds = np.array([10.0, 20.0, 30.0])
    result = paired_difference(seeds + np.array([1.0, 1.1, 0.9]), seeds)
    assert result.low > 0.5
    assert mean_interval(seeds).half > 10


def test_one_seed_gives_no_interval():
    result = paired_difference([1.0], [0.5])
    assert (result.mean, result.n) == (0.5, 1)
    assert not result.has_interval


def test_deviation_is_recovered_from_the_interval():
    values = np.array([1.0, 2.0, 4.0, 8.0])
    assert mean_interval(values).deviation() == pytest.approx(values.std(ddof=1))


@pytest.mark.parametrize("bad", [([1.0, math.nan], [1.0, 2.0]), ([1.0, 2.0], [1.0]), ([], [])])
def test_bad_input_is_one_sentence(bad):
    with pytest.raises(InputError):
        paired_difference(*bad)


def test_bootstrap_without_item_spread_is_the_t_interval():
    ours = np.repeat([[0.3], [0.5], [0.1], [0.4]], 20, axis=1)
    for shared_items in (True, False):
        drawn = bootstrap_difference(ours, np.zeros_like(ours), shared_items=shared_items, replicates=20000)
        exact = paired_difference(ours, np.zeros_like(ours))
        assert drawn.mean == pytest.approx(exact.mean)
        assert drawn.half == pytest.approx(exact.half, rel=0.03)


def test_shared_items_widen_the_interval_that_independent_items_average_out():
    generator = np.random.default_rng(1)
    items = generator.normal(size=(1, 30))  # the same effect of an item in every seed
    ours = items + 0.01 * generator.normal(size=(8, 30))
    shared = bootstrap_difference(ours, np.zeros_like(ours), shared_items=True)
    apart = bootstrap_difference(ours, np.zeros_like(ours), shared_items=False)
    assert shared.half > 2 * apart.half


def test_bootstrap_covers_the_truth_with_few_seeds():
    generator = np.random.default_rng(2)
    covered = 0
    for trial in range(200):
        seed_effects, item_effects = generator.normal(size=(3, 1)), generator.normal(size=(1, 25))
        ours = 0.7 + seed_effects + item_effects + generator.normal(size=(3, 25))
        result = bootstrap_difference(ours, np.zeros_like(ours), replicates=200, seed=trial)
        covered += result.low <= 0.7 <= result.high
    assert covered >= 0.92 * 200


def test_bootstrap_statistic_of_a_mean_is_bootstrap_difference():
    difference = np.random.default_rng(3).normal(size=(4, 12))
    general = bootstrap_statistic(lambda seeds, items: difference[np.ix_(seeds, items)].mean(), 4, 12, replicates=4000)
    special = bootstrap_difference(difference, np.zeros_like(difference), replicates=4000)
    assert general.mean == pytest.approx(special.mean)
    assert general.half == pytest.approx(special.half, rel=0.07)


def test_kendall_tau_is_scipys_with_ties():
    generator = np.random.default_rng(4)
    predicted, actual = generator.integers(0, 6, size=(2, 40))
    result = kendall_tau(predicted, actual)
    assert result.mean == pytest.approx(stats.kendalltau(predicted, actual).statistic)
    assert result.low < result.mean < result.high


def test_kendall_tau_bootstrap_is_scipys_on_redrawn_items():
    generator = np.random.default_rng(5)
    predicted = generator.normal(size=25)
    actual = predicted + generator.normal(size=25)
    drawn = []
    for _ in range(1500):
        chosen = generator.integers(25, size=25)
        drawn.append(stats.kendalltau(predicted[chosen], actual[chosen]).statistic)
    result = kendall_tau(predicted, actual, replicates=4000)
    assert (result.low, result.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.04)


def test_kendall_tau_inside_groups_ignores_pairs_across_them():
    predicted, actual = [1, 2, 10, 11], [2, 1, 20, 19]  # right across the groups, wrong inside each
    assert kendall_tau(predicted, actual).mean > 0
    assert kendall_tau(predicted, actual, groups=[0, 0, 1, 1]).mean == pytest.approx(-1)


def test_kendall_tau_of_constant_scores_has_no_interval():
    assert not kendall_tau([1, 1, 1], [1, 2, 3]).has_interval


@pytest.mark.parametrize(("sd", "effect"), [(1.0, 1.0), (1.0, 0.5), (0.2, 1.0)])
def test_seeds_needed_reaches_the_power_and_no_sooner(sd, effect):
    seeds = seeds_needed(sd, effect)
    generator = np.random.default_rng(6)

    def power(count):
        test = stats.ttest_1samp(generator.normal(effect, sd, size=(20000, count)), 0.0, axis=1)
        return np.mean((test.pvalue < 0.05) & (test.statistic > 0))

    assert power(seeds) >= 0.79
    assert seeds == 2 or power(seeds - 1) < 0.81


def test_seeds_needed_of_no_spread_and_of_no_effect():
    assert seeds_needed(0.0, 1.0) == 2
    with pytest.raises(InputError):
        seeds_needed(1.0, 0.0)
