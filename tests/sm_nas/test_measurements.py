"""What is measured of finished runs, against plain loops."""

import math
from itertools import pairwise

import numpy as np
import pytest

from sm_nas.measurements import (
    FACTORS,
    dominated_share,
    factor_correlations,
    factors_of,
    front_of,
    hypervolumes,
    mobilenet_evidence,
)
from sm_nas.method import BackboneCode, Evaluated, Structure

PLAIN = Structure("resnet50", (96, 96), (1, 5), 32, "rpn", 1)


def records(seed: int, count: int = 12) -> list[dict]:
    generator = np.random.default_rng(seed)
    return [{"cost": float(cost), "AP": float(accuracy)} for cost, accuracy in generator.random((count, 2))]


def area_by_columns(points: list[dict], dearest: float, columns: int = 200_000) -> float:
    """The mean over budgets from 0 to `dearest` of the best AP that a budget affords."""
    budgets = (np.arange(columns) + 0.5) / columns * dearest
    best = np.zeros(columns)
    for point in points:
        best = np.where(budgets >= point["cost"], np.maximum(best, point["AP"]), best)
    return float(best.mean())


def test_hypervolumes_are_the_mean_best_ap_over_budgets():
    points = records(0)
    grown = hypervolumes(points, 1.2)
    assert len(grown) == len(points)
    for count in (1, 5, 12):
        assert grown[count - 1] == pytest.approx(area_by_columns(points[:count], 1.2), abs=1e-4)
    assert all(later >= earlier for earlier, later in pairwise(grown))


def test_a_failed_candidate_adds_nothing():
    points = records(1)
    failed = [*points[:4], {"cost": math.nan, "AP": math.nan}, *points[4:]]
    assert hypervolumes(failed, 1.0)[4] == hypervolumes(points, 1.0)[3]
    assert hypervolumes(failed, 1.0)[-1] == hypervolumes(points, 1.0)[-1]


def test_front_of_is_what_no_other_beats():
    points = records(2, 30)
    naive = [
        place
        for place, one in enumerate(points)
        if not any(other["cost"] <= one["cost"] and other["AP"] >= one["AP"] for other in points if other is not one)
    ]
    assert sorted(front_of(points)) == naive


def test_dominated_share():
    us = [{"AP": 10.0, "latency": 5.0}, {"AP": 20.0, "latency": 9.0}]
    them = [
        {"AP": 10.0, "latency": 5.0},  # the same: not dominated
        {"AP": 9.0, "latency": 5.0},
        {"AP": 15.0, "latency": 8.0},  # between: faster than the one, better than the other
        {"AP": 20.0, "latency": 9.5},
    ]
    assert dominated_share(them, us) == 0.5


def test_mobilenet_is_behind_whoever_is_as_fast():
    backbones = {
        "mobilenet_v2": {"AP": 5.0, "latency": 10.0, "macs_mmdet": 50.0},
        "resnet18": {"AP": 6.0, "latency": 9.0, "macs_mmdet": 100.0},
        "resnet50": {"AP": 9.0, "latency": 12.0, "macs_mmdet": 200.0},
    }
    assert mobilenet_evidence(backbones) == {"mobilenet FLOPs": 0.5, "mobilenet behind": 1.0}
    backbones["mobilenet_v2"]["latency"] = 1.0  # nobody is as fast
    assert mobilenet_evidence(backbones)["mobilenet behind"] == -5.0


def test_a_backbone_whose_training_failed_is_left_out():
    failed = {"AP": math.nan, "latency": None, "macs_mmdet": None}
    trained = {
        "mobilenet_v2": {"AP": 5.0, "latency": 10.0, "macs_mmdet": 50.0},
        "resnet18": {"AP": 6.0, "latency": 9.0, "macs_mmdet": 100.0},
    }
    evidence = {"mobilenet FLOPs": 0.5, "mobilenet behind": 1.0}
    assert mobilenet_evidence(trained | {"resnet50": failed}) == evidence
    assert mobilenet_evidence(trained | {"resnet18": failed}) == {}
    assert mobilenet_evidence(trained | {"mobilenet_v2": failed}) == {}


def test_factors_of_a_code():
    factors = factors_of(BackboneCode.parse("basicblock_48_12-21-11111-211111"))
    assert set(factors) == set(FACTORS)
    assert (factors["depth"], factors["width"]) == (15, 48)
    assert [factors[f"DC_{place}"] for place in (1, 2, 3)] == [1 / 15, 2 / 15, 9 / 15]
    assert [factors[f"len_{place}"] for place in (1, 2, 3, 4)] == [2 / 15, 2 / 15, 5 / 15, 6 / 15]


def test_factor_correlations_are_ranks_of_what_was_trained():
    codes = ("12-2-2-1", "12-21-2-11", "12-21-21-111", "12-21-211-1111")
    evaluated = [
        Evaluated(Structure(f"basicblock_48_{code}", (96, 96), (1, 5), 32, "rpn", 1), 1.0, accuracy, 0)
        for code, accuracy in zip(codes, (0.1, 0.2, 0.3, 0.9), strict=True)
    ]
    evaluated.append(Evaluated(PLAIN_CODE, math.nan, math.nan, 0))
    found = factor_correlations(evaluated)
    assert found["depth"] == pytest.approx(1.0)
    assert found["DC_1"] == pytest.approx(-1.0)
    assert found["width"] == 0.0  # all alike


PLAIN_CODE = Structure("basicblock_72_2-2-2-1111", (96, 96), (1, 5), 32, "rpn", 1)
