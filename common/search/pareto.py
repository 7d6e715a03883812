"""Pareto fronts of (cost, score): the cost is to be small, the score (AP) large. The work is moocore's.

Candidates whose cost or score is not finite (a failed one has a score of NaN) are never on a front.
"""

from collections.abc import Sequence

import moocore
import numpy as np
from numpy.typing import ArrayLike

COST_DOWN_SCORE_UP = [False, True]  # moocore's `maximise`, column by column


def _points(costs: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """The finite candidates as (N, 2) cost and score, and their places among all."""
    costs, scores = np.asarray(costs, dtype=np.float64).ravel(), np.asarray(scores, dtype=np.float64).ravel()
    if len(costs) != len(scores):
        raise ValueError(f"{len(costs)} costs, but {len(scores)} scores")
    points = np.column_stack([costs, scores])
    places = np.flatnonzero(np.isfinite(points).all(axis=1))
    return points[places], places


def pareto_front(costs: ArrayLike, scores: ArrayLike) -> np.ndarray:
    """Indices (F,) of the candidates that no other beats, from the cheapest to the costliest.

    costs, scores: (N,). Of candidates that tie in both, only the first is on the front; the cheaper of two equal scores
    beats the other, and so does the better of two equal costs.
    """
    points, places = _points(costs, scores)
    if len(places) == 0:
        return places
    front = places[moocore.is_nondominated(points, maximise=COST_DOWN_SCORE_UP)]
    return front[np.argsort(np.asarray(costs, dtype=np.float64).ravel()[front])]


def hypervolume(costs: ArrayLike, scores: ArrayLike, reference: tuple[float, float]) -> float:
    """Area between the front and `reference`, a (cost, score) worse than all that counts: large is good.

    In units of cost times score. Candidates that do not beat the reference in both add nothing.
    """
    points, _ = _points(costs, scores)
    if len(points) == 0:
        return 0.0
    return float(moocore.hypervolume(points, ref=np.asarray(reference, dtype=float), maximise=COST_DOWN_SCORE_UP))


def attainment(
    runs: Sequence[tuple[ArrayLike, ArrayLike]], percentiles: Sequence[float] = (25, 50, 75)
) -> dict[float, np.ndarray]:
    """Attainment bands over several runs (seeds): how far at least `percentile` % of the runs got.

    runs: one (costs, scores) each. Returns {percentile: (F, 2) array of cost and score, from the cheapest on}, the
    corners of a staircase: 50 is the median front, 100 what every run reached, and the smallest above 0 what any did.
    A run without one finite candidate still counts as a run, which reached nothing.
    """
    if not runs:
        raise ValueError("no runs to draw attainment bands from")
    if not all(0 < percentile <= 100 for percentile in percentiles):
        raise ValueError(f"percentiles must lie in (0, 100], not {list(percentiles)}")
    points = [_points(costs, scores)[0] for costs, scores in runs]
    points = [run for run in points if len(run)]
    bands = {percentile: np.empty((0, 2)) for percentile in percentiles}
    for percentile in percentiles:
        # runs that must have reached a point, expressed among those that reached anything
        needed = int(np.ceil(percentile / 100 * len(runs) - 1e-9))
        if needed > len(points):
            continue
        stacked = np.concatenate(points) * [1.0, -1.0]  # `eaf` minimises
        owners = np.repeat(np.arange(len(points)), [len(run) for run in points])
        surface = moocore.eaf(stacked, sets=owners, percentiles=[100 * needed / len(points)])
        band = surface[:, :2] * [1.0, -1.0]
        bands[percentile] = band[np.argsort(band[:, 0])]
    return bands
