"""Intervals and rank correlation against scipy's own, seeds needed against simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from common.plain import InputError
from common.report.statistics import (
    Difference,
    bootstrap_interval,
    farthest,
    holm,
    kendall_tau,
    mean_interval,
    partial_tau,
    seeds_needed,
)


def test_the_interval_is_the_t_interval_of_each_seeds_mean():
    values = np.random.default_rng(0).normal(size=(5, 4, 3))
    result = mean_interval(values)
    by_seed = values.mean(axis=(1, 2))
    oracle = stats.ttest_1samp(by_seed, 0).confidence_interval(0.95)
    assert result.mean == pytest.approx(by_seed.mean())
    assert (result.low, result.high) == pytest.approx((oracle.low, oracle.high))
    assert result.n == 5
    assert result.half == pytest.approx((oracle.high - oracle.low) / 2)
    assert result.has_interval
    pair = mean_interval([1, 4])
    assert (pair.n, pair.half) == (2, pytest.approx(12.7062 * 1.5, rel=1e-5))  # t(1 df) x sd / sqrt(2)


def test_the_interval_that_reaches_farthest_stands_for_all_and_noise_rarely_passes_one_side():
    values = np.random.default_rng(3).normal([0.0, 1.0, 0.9], [0.1, 0.1, 2.0], size=(6, 3))
    oracles = [stats.ttest_1samp(column, 0).confidence_interval(1 - 0.05 / 3) for column in values.T]
    assert farthest(values, "low", 3).low == pytest.approx(min(each.low for each in oracles))
    assert farthest(values, "high", 3).high == pytest.approx(max(each.high for each in oracles))
    nothing = np.random.default_rng(4).normal(size=(1000, 6, 2))
    assert np.mean([farthest(each, "low", 2).low > 0 for each in nothing]) < 0.025
    assert np.mean([farthest(each, "low", 2).high < 0 for each in nothing]) < 0.035


@pytest.mark.parametrize(
    ("low", "high", "there"), [(0, 1, True), (math.nan, 1, False), (0, math.nan, False), (-math.inf, 1, False)]
)
def test_an_interval_needs_two_seeds_and_both_ends(low, high, there):
    assert Difference(0.5, low, high, 3).has_interval is there
    assert math.isfinite(Difference(0.5, low, high, 3).deviation()) is there
    assert math.isnan(Difference(0.5, 0, 1, 1).deviation())
    one = mean_interval([[0.25, 0.75]])
    assert (one.mean, one.n, math.isnan(one.low), math.isnan(one.high)) == (0.5, 1, True, True)


def test_deviation_is_recovered_from_the_interval():
    for values in ([1.0, 2.0, 4.0, 8.0], [1.0, 2.0]):
        assert mean_interval(values).deviation() == pytest.approx(np.std(values, ddof=1))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([], r"^a mean needs at least one value for each seed, got an array of the shape \(0,\)$"),
        (3.0, r"^a mean needs at least one value for each seed, got an array of the shape \(\)$"),
        ([[1.0, math.nan], [math.inf, 1.0]], r"^a mean needs finite numbers, got 2 that are not$"),
    ],
)
def test_a_mean_of_nothing_or_of_no_number_is_one_sentence(bad, message):
    with pytest.raises(InputError, match=message):
        mean_interval(bad)


def test_p_is_that_of_the_t_test():
    for values, threshold in (([1.0, 2.0, 4.0, 8.0], 0.0), ([1.0, 2.0], 5.0), ([0.5, -0.5, 0.1], 0.0)):
        assert mean_interval(values).p_value(threshold) == pytest.approx(stats.ttest_1samp(values, threshold).pvalue)
    assert mean_interval([1.0, 1.0]).p_value(1.0) == 1.0
    assert mean_interval([1.0, 1.0]).p_value() == 0.0
    assert math.isnan(mean_interval([1.0]).p_value())


def test_a_bootstrap_draws_seeds_and_then_their_items():
    generator = np.random.default_rng(1)
    seeds = [generator.normal(mean, 0.1, size=8).tolist() for mean in generator.normal(size=30)]
    found = bootstrap_interval(np.mean, seeds, draws=500)
    by_seed = mean_interval([np.mean(items) for items in seeds])  # seeds of equal size: the spread between them decides
    assert found.mean == pytest.approx(by_seed.mean)
    assert found.half == pytest.approx(by_seed.half, rel=0.15)
    assert found.n == 240
    assert bootstrap_interval(np.mean, seeds, draws=500) == found
    shares = bootstrap_interval(lambda items: float(np.mean(items)), [[1, 1, 1], [1, 1, 0]])
    assert 0 <= shares.low < shares.mean < shares.high <= 1
    assert not bootstrap_interval(np.mean, [[1.0, 2.0]]).has_interval  # one seed
    assert not bootstrap_interval(lambda items: math.nan, [[1.0], [2.0]]).has_interval
    with pytest.raises(InputError, match=r"^a bootstrap needs at least one item of every seed$"):
        bootstrap_interval(np.mean, [[1.0], []])


def test_a_bootstrap_draws_items_that_every_seed_has_once_for_all():
    """Detectors differ, seeds hardly: how many seeds saw them says nothing about other detectors."""
    generator = np.random.default_rng(2)
    detectors = generator.normal(size=12)
    seeds = [(detectors + generator.normal(scale=0.01, size=12)).tolist() for _ in range(30)]
    found = bootstrap_interval(np.mean, seeds, draws=500, alike=True)
    assert found.half == pytest.approx(1.96 * detectors.std() / math.sqrt(12), rel=0.15)
    assert bootstrap_interval(np.mean, seeds, draws=500).half < found.half / 3


def test_holm_is_the_step_down_of_the_definition():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.5}) == pytest.approx(
        {"a": 0.04, "c": 0.09, "b": 0.09, "d": 0.5}
    )
    assert holm({"a": 0.9, "b": 0.6}) == pytest.approx({"b": 1.0, "a": 1.0})
    assert holm({}) == {}


# ---- Kendall's tau


def test_kendall_tau_is_scipys_with_ties():
    generator = np.random.default_rng(3)
    for size in (2, 7, 40):
        one, other = generator.integers(0, 9, size=(2, size))
        assert kendall_tau(one, other) == pytest.approx(stats.kendalltau(one, other).statistic, nan_ok=True)


def test_kendall_tau_inside_groups_ignores_pairs_across_them():
    groups = [0, 0, 0, 1, 1]
    assert kendall_tau([1, 2, 3, 9, 8], [10, 20, 30, 1, 2], groups) == pytest.approx((3 - 1) / 4)
    for undefined in (([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [1, 1, 1]), ([1, 2], [1, 2], [0, 1])):
        assert math.isnan(kendall_tau(*undefined))
    # a tie of one score counts among the pairs of the other alone
    assert kendall_tau([1, 1, 3, 8, 9], [10, 20, 20, 1, 2], groups) == pytest.approx((1 + 1) / math.sqrt(3 * 3))
    assert kendall_tau([1, 1, 3, 9, 8], [10, 20, 30, 1, 2], groups) == pytest.approx((2 - 1) / math.sqrt(3 * 4))


@pytest.mark.parametrize(
    ("shapes", "bad"), [(r"\(2,\) and \(1,\)", ([1, 2], [1])), (r"\(1, 2\) and \(1, 2\)", ([[1, 2]], [[1, 2]]))]
)
def test_kendall_tau_needs_two_lists(shapes, bad):
    message = f"^kendall_tau needs two scores for each item, got arrays of the shapes {shapes}$"
    with pytest.raises(InputError, match=message):
        kendall_tau(*bad)


def test_partial_tau_takes_out_what_a_covariate_explains():
    generator = np.random.default_rng(4)
    cost = generator.normal(size=300)
    first, second = cost + generator.normal(size=300), cost + generator.normal(size=300)
    assert kendall_tau(first, second) > 0.25
    assert abs(partial_tau(first, second, cost)) < 0.08
    curves = [np.polyval(np.polyfit(cost, score, 3), cost) for score in (first, second)]
    assert partial_tau(first, second, cost) == pytest.approx(kendall_tau(first - curves[0], second - curves[1]))
    seed = np.repeat([0, 1], 150)  # a shift of a whole seed, in scores and cost, changes nothing
    shifted = partial_tau(first + 9 * seed, second - 5 * seed, cost + 3 * seed, seed)
    assert shifted == pytest.approx(partial_tau(first, second, cost, seed))
    stretched = partial_tau(first * (1 + 9 * seed), second, cost, seed)  # no pair of two seeds counts
    assert stretched == pytest.approx(partial_tau(first, second, cost, seed))
    assert math.isnan(partial_tau(first[:8], second[:8], cost[:8], np.repeat([0, 1], 4))), "a curve goes through four"


@pytest.mark.parametrize("bent", [lambda cost: -8 * np.exp(-1.5 * cost), np.exp], ids=["saturating", "steepening"])
def test_scores_that_bend_alike_with_the_covariate_have_no_partial_tau(bent):
    generator = np.random.default_rng(5)
    cost, seed = np.tile(np.linspace(0, 2.5, 10), 60), np.repeat(np.arange(60), 10)
    first, second = (bent(cost) + generator.normal(scale=0.5, size=600) for _ in range(2))
    assert abs(partial_tau(first, second, cost, seed)) < 0.06
    assert partial_tau(first, second + 2 * first, cost, seed) > 0.6


# ---- seeds needed


@pytest.mark.parametrize(("sd", "effect"), [(1.0, 1.0), (1.0, -0.5), (0.2, 1.0)])
def test_seeds_needed_reaches_the_power_and_no_sooner(sd, effect):
    seeds = seeds_needed(sd, effect)
    generator = np.random.default_rng(6)

    def power(count):
        test = stats.ttest_1samp(generator.normal(abs(effect), sd, size=(20000, count)), 0.0, axis=1)
        return np.mean((test.pvalue < 0.05) & (test.statistic > 0))

    assert power(seeds) >= 0.79
    assert seeds == 2 or power(seeds - 1) < 0.81


def test_seeds_needed_as_tables_of_the_t_test_give_it():
    assert [seeds_needed(1.0, effect) for effect in (2.0, 1.0, 0.8, 0.5, 0.2)] == [5, 10, 15, 34, 199]
    assert seeds_needed(1.0, 100.0) == seeds_needed(0.0, 1.0) == 2


@pytest.mark.parametrize("bad", [(1.0, 0.0), (1.0, math.inf), (math.nan, 1.0), (-0.1, 1.0)])
def test_seeds_needed_says_what_it_cannot_answer(bad):
    with pytest.raises(InputError, match=r"^seeds_needed: sd must be at least 0 and effect not 0, got .* and .*$"):
        seeds_needed(*bad)
