"""Fronts, hypervolume and attainment bands against definitions spelt out point by point."""

import numpy as np
import pytest

from common.search.pareto import attainment, hypervolume, pareto_front


def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """(cost, score) no worse in both and better in one."""
    return one[0] <= other[0] and one[1] >= other[1] and one != other


def make_candidates(seed: int, count: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Coarse values, so that many tie; some candidates have failed."""
    random = np.random.default_rng(seed)
    costs, scores = random.integers(1, 12, count) * 1.5, random.integers(0, 12, count) / 12
    scores[random.random(count) < 0.1] = np.nan
    costs[:2] = np.inf, np.nan
    return costs, scores


def naive_front(costs: np.ndarray, scores: np.ndarray) -> list[int]:
    points = list(zip(costs.tolist(), scores.tolist(), strict=True))
    finite = [index for index, point in enumerate(points) if np.isfinite(point).all()]
    front = [
        index
        for index in finite
        if not any(beats(points[other], points[index]) for other in finite)
        and not any(points[other] == points[index] for other in finite if other < index)
    ]
    return sorted(front, key=lambda index: costs[index])


@pytest.mark.parametrize("seed", range(8))
def test_front_is_what_nothing_beats(seed):
    costs, scores = make_candidates(seed)
    assert pareto_front(costs, scores).tolist() == naive_front(costs, scores)


@pytest.mark.parametrize("seed", range(4))
def test_hypervolume_is_the_area_that_is_beaten(seed):
    costs, scores = make_candidates(seed)
    finite = np.isfinite(costs) & np.isfinite(scores)
    reference = (15.0, 0.25)
    # cells of a grid on which all values lie: 1.5 in cost and 1/12 in score
    area = sum(
        1.5 / 12
        for cost in np.arange(0, 15, 1.5)
        for score in np.arange(3, 12) / 12
        if (finite & (costs <= cost + 1e-9) & (scores >= score + 1 / 12 - 1e-9)).any()
    )
    assert area > 0
    assert hypervolume(costs, scores, reference) == pytest.approx(area)


def test_nothing_and_failures_have_no_front_and_no_area():
    for costs, scores, front, area in (
        ([], [], [], 0),
        ([1.0, np.nan], [np.nan, 0.5], [], 0),
        ([2.0], [0.5], [0], 0),  # worse than the reference
        ([0.5], [0.5], [0], 0.25),
    ):
        assert pareto_front(costs, scores).tolist() == front
        assert hypervolume(costs, scores, (1, 0)) == area


@pytest.mark.parametrize("count", [1, 3, 5, 7])
@pytest.mark.parametrize("percentile", [10, 25, 50, 200 / 3, 75, 100])
def test_attainment_counts_the_runs_that_got_there(percentile, count):
    runs = [make_candidates(seed, count=8) for seed in range(count)]
    band = attainment(runs, [percentile])[percentile]
    assert (np.diff(band[:, 0]) > 0).all()
    assert (np.diff(band[:, 1]) > 0).all()
    needed = next(number for number in range(1, count + 1) if number / count >= percentile / 100 - 1e-9)
    for cost in np.arange(1, 12) * 1.5:
        for score in np.arange(12) / 12:
            reached = sum(bool(((costs <= cost) & (scores >= score)).any()) for costs, scores in runs)
            inside = bool(((band[:, 0] <= cost) & (band[:, 1] >= score)).any())
            assert inside == (reached >= needed), (cost, score)


def test_a_run_that_reached_nothing_counts():
    good, failed = ([1.0], [0.5]), ([1.0], [np.nan])
    bands = attainment([good, good, failed], [50, 100])
    assert bands[50].tolist() == [[1.0, 0.5]]
    assert bands[100].shape == (0, 2)


def test_bad_requests():
    with pytest.raises(ValueError, match="2 costs, but 1 scores"):
        pareto_front([1, 2], [1])
    with pytest.raises(ValueError, match="no runs"):
        attainment([])
    with pytest.raises(ValueError, match="percentiles"):
        attainment([([1.0], [0.5])], [0])
