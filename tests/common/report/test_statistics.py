"""Intervals against scipy's own, and against simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from common.plain import InputError
from common.report.statistics import (
    bootstrap_difference,
    bootstrap_statistic,
    kendall_tau,
    mean_interval,
    paired_difference,
    rank_correlation,
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


ORACLES = {"kendall": stats.kendalltau, "spearman": stats.spearmanr}


@pytest.mark.parametrize("coefficient", ORACLES)
def test_rank_correlation_is_the_t_interval_of_the_seeds_coefficients(coefficient):
    generator = np.random.default_rng(7)
    seeds = generator.permutation(np.repeat([3, 5, 8, 9], [20, 25, 12, 30]))
    factor = generator.integers(0, 5, size=len(seeds))  # with ties
    score = 0.3 * factor + 100 * seeds + generator.normal(size=len(seeds))  # the seeds' levels must not count
    result = rank_correlation(factor, score, seeds, coefficient=coefficient)
    found = [ORACLES[coefficient](factor[seeds == one], score[seeds == one]).statistic for one in (3, 5, 8, 9)]
    assert result == mean_interval(found)
    named = rank_correlation(factor, score, seeds, coefficient=coefficient, candidates=np.arange(len(seeds)))
    assert named.mean == pytest.approx(result.mean)


def test_shared_candidates_widen_the_interval_that_their_own_seeds_spread_does_not_show():
    generator = np.random.default_rng(8)
    proxy = generator.normal(size=20)
    truth = proxy + generator.normal(size=20)  # by chance of these 20 candidates, the same in every seed
    scores = truth + 0.05 * generator.normal(size=(6, 20))
    columns = np.tile(proxy, 6), scores.ravel(), np.repeat(np.arange(6), 20)
    apart = rank_correlation(*columns)
    shared = rank_correlation(*columns, candidates=np.tile(np.arange(20), 6))
    assert shared.mean == pytest.approx(apart.mean)
    assert shared.half > 3 * apart.half


def test_rank_correlation_covers_the_truth_whoever_the_candidates_are():
    generator = np.random.default_rng(9)
    truth = 2 / math.pi * math.asin(math.sqrt(0.5))  # Kendall's tau of two normal scores correlated by sqrt(.5)
    seeds = np.repeat(np.arange(4), 15)
    covered = {"own": 0, "shared": 0}
    for trial in range(40):
        proxy = generator.normal(size=60)
        covered["own"] += _covers(rank_correlation(proxy, proxy + generator.normal(size=60), seeds), truth)
        proxy = np.tile(generator.normal(size=15), 4)
        noise = np.tile(generator.normal(scale=0.95, size=15), 4) + generator.normal(scale=0.3122, size=60)
        names = np.tile(np.arange(15), 4)
        result = rank_correlation(proxy, proxy + noise, seeds, candidates=names, replicates=80, seed=trial)
        covered["shared"] += _covers(result, truth)
    assert min(covered.values()) >= 0.9 * 40


def _covers(result, truth):
    return result.low <= truth <= result.high


def test_a_seed_without_a_ranking_is_left_out():
    seeds = np.repeat([0, 1, 2], 4)
    factor = [1, 2, 3, 4, 7, 7, 7, 7, 1, 2, 4, 3]
    result = rank_correlation(factor, np.tile([1, 2, 3, 4], 3), seeds)
    assert result.n == 2
    assert result.mean == pytest.approx((1 + 2 / 3) / 2)
    nothing = rank_correlation([1, 1], [1, 2], [0, 0])
    assert math.isnan(nothing.mean)
    assert nothing.n == 0
    assert not rank_correlation([1, 2, 3], [1, 3, 2], [4, 4, 4]).has_interval  # one seed


def test_a_candidate_may_be_missing_in_a_seed_but_not_come_twice():
    proxy, score, seeds = [1, 2, 3, 4, 1, 2, 4], [1, 2, 4, 3, 1, 3, 4], [0, 0, 0, 0, 1, 1, 1]
    result = rank_correlation(proxy, score, seeds, candidates=list("abcdabd"))
    assert result.n == 2
    assert result.has_interval
    with pytest.raises(InputError, match="twice"):
        rank_correlation(proxy, score, seeds, candidates=list("abcdaad"))


@pytest.mark.parametrize("bad", [([1.0, math.nan], [1, 2], [0, 0]), ([1, 2], [1, 2], [0]), ([], [], [])])
def test_rank_correlation_says_what_is_wrong(bad):
    with pytest.raises(InputError, match="rank_correlation"):
        rank_correlation(*bad)


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
