"""The statistics behind the exhibits, against naive loops; no training."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from common.plain import InputError
from common.report.tables import printed
from common.reproduce.exhibit import make
from detofa.exhibits import EXHIBITS, LABELS, Setting
from detofa.measurements import (
    ABLATIONS,
    bucket_means,
    detection_of_weak,
    folds_of,
    printed_sizes,
    space_sizes,
    tau_within_blocks,
    total_seconds,
    variant_results,
)
from detofa.method import OperationScores
from detofa.presets import PAPER, SMOKE
from detofa.study import VARIANTS


def test_exhibits_are_the_papers_and_need_known_variants():
    drawings = {"figure1", "figure2", "figure3", "figure4"}  # of the method: nothing is measured
    assert set(EXHIBITS) == set(printed("detofa")["exhibits"]) - drawings
    shared = {"classification", "filter", "warm-up", *(f"filter-ablation-{name}" for name in ABLATIONS)}
    assert set().union(*(exhibit.runs for exhibit in EXHIBITS.values())) == shared | set(VARIANTS)


def test_progressive_shrinking_is_listed_with_the_full_net_that_it_starts_from():
    assert "fullnet" in EXHIBITS["table3"].runs


# ---- table 1


def test_sizes_of_the_papers_space():
    sizes = space_sizes(PAPER.space)
    assert sizes["OFA"]["backbone"] == pytest.approx(1.366e11, rel=5e-4)
    assert sizes["OFA"]["with stem"] == pytest.approx(2.459e12, rel=5e-4)
    assert sizes["CompOFA*"]["backbone"] == 117**3 * (3**4 + 3**5 + 3**6)
    assert printed_sizes()["OFA"] == pytest.approx(6.15e20, rel=5e-4)
    assert printed_sizes()["CompOFA*"] == 117**4 == pytest.approx(1.87e8, rel=5e-3)


# ---- table 2


def _naive_detection(scores, losses, buckets):
    flagged, weak = set(), set()
    for bucket in set(buckets):
        members = [path for path in range(len(scores)) if buckets[path] == bucket]
        quarter = round(len(members) / 4)
        flagged |= set(sorted(members, key=lambda path: scores[path])[:quarter])
        weak |= set(sorted(members, key=lambda path: -losses[path])[:quarter])
    right = sum((path in flagged) == (path in weak) for path in range(len(scores)))
    agree = pairs = 0
    for one in range(len(scores)):
        for other in range(one):
            if buckets[one] == buckets[other]:
                pairs += 1
                agree += np.sign(scores[one] - scores[other]) * np.sign(losses[other] - losses[one])
    return {
        "accuracy": right / len(scores),
        "precision": len(flagged & weak) / len(flagged),
        "recall": len(flagged & weak) / len(weak),
        "found": len(flagged & weak) / len(scores),
        "tau": agree / pairs,
    }


def test_detection_of_weak_equals_a_naive_loop():
    generator = np.random.default_rng(0)
    buckets = generator.integers(5, size=83)
    losses = generator.random(83)
    scores = -losses + 0.4 * generator.random(83)
    assert detection_of_weak(scores, losses, buckets) == pytest.approx(_naive_detection(scores, losses, buckets))


def test_a_perfect_filter_and_a_reversed_one():
    losses, buckets = np.random.default_rng(1).random(40), np.repeat(np.arange(5), 8)
    perfect = detection_of_weak(-losses, losses, buckets)
    assert perfect == {"accuracy": 1.0, "precision": 1.0, "recall": 1.0, "found": 0.25, "tau": 1.0}
    reversed_ = detection_of_weak(losses, losses, buckets)
    assert (reversed_["precision"], reversed_["tau"], reversed_["accuracy"]) == (0, -1, 0.5)


def test_scores_of_different_buckets_are_not_compared():
    losses, buckets = np.random.default_rng(2).random(40), np.repeat(np.arange(5), 8)
    assert detection_of_weak(-losses + 10 * buckets, losses, buckets)["precision"] == 1


def test_the_papers_recall_is_found_over_all():
    for *_, accuracy, precision, recall in printed("detofa")["exhibits"]["table2"]["printed"]["rows"][1:]:
        assert recall == pytest.approx(0.25 * precision, abs=0.025)
        assert accuracy == pytest.approx(1 - 2 * 0.25 * (1 - precision), abs=0.02)


def test_folds_spread_every_bucket_evenly():
    buckets = np.repeat(np.arange(3), 10)
    fold = folds_of(buckets, 5, np.random.default_rng(0))
    assert all((np.bincount(fold[buckets == bucket]) == 2).all() for bucket in range(3))


# ---- table 3, figures 6 and 7


def test_the_searchs_sampling_is_no_part_of_the_supernets_cost():
    part = {"cpu_seconds": 2.0, "seconds": 3.0}
    parts = {"warm-up": part, "sampling": part, "search sampling": {"cpu_seconds": 100.0, "seconds": 100.0}}
    assert total_seconds(parts) == 4
    assert total_seconds(parts, "seconds") == 6


def test_bucket_means_leave_failed_paths_out():
    sampled = {"AP": [1.0, 3.0, 5.0, None], "bucket": [0, 0, 2, None]}
    assert bucket_means(sampled, 4) == pytest.approx([2.0, math.nan, 5.0, math.nan], nan_ok=True)


def _naive_tau(score, cost):
    signs = [
        np.sign(score[one] - score[other]) * np.sign(cost[one] - cost[other])
        for one in range(len(score))
        for other in range(one)
    ]
    return sum(signs) / len(signs)


def test_tau_within_blocks_equals_a_naive_loop_and_ignores_other_blocks():
    generator = np.random.default_rng(3)
    layer_block = np.array([0, 0, 1, 1])
    index = np.array([[layer, 0, 0, expand] for layer in range(4) for expand in range(5)])
    score, cost = generator.random(20), generator.random(20)
    expected = [_naive_tau(score[:10], cost[:10]), _naive_tau(score[10:], cost[10:])]
    assert tau_within_blocks(OperationScores(index, score, cost), layer_block) == pytest.approx(expected)
    shifted = OperationScores(index, score + 100 * (index[:, 0] > 1), cost)
    assert tau_within_blocks(shifted, layer_block) == pytest.approx(expected)


def test_tied_scores_follow_nothing():
    index = np.array([[0, 0, 0, expand] for expand in range(3)])
    assert tau_within_blocks(OperationScores(index, np.ones(3), np.arange(3.0)), np.array([0])) == [0.0]


# ---- missing results


class _OneFails:
    """A study in which CompOFA* finds no path."""

    seed = 0
    classification = warm_up = None

    def open(self, name, **settings):
        return SimpleNamespace(result=None)

    def result(self, name):
        if name == "compofa":
            raise InputError("no path costs so little")
        return {"found": []}


def test_a_variant_without_result_does_not_cost_the_others_theirs(capsys):
    results, missing = variant_results(_OneFails(), ["ours", "compofa", "ofa"])
    assert list(results) == ["ours", "ofa"]
    assert missing == {"compofa": "no path costs so little"}
    assert "compofa" in capsys.readouterr().err


def test_a_figure_is_drawn_without_what_is_missing(tmp_path):
    curve = {"AP": [1.0, None], "cost": [2.5e6, None]}  # no path for the second budget
    measured = {
        "budgets": [2.6e6, 3e6],
        "curves": {"ours": {"AP": [2.0, 3.0], "cost": [2.5e6, 2.9e6]}, "ofa": curve},
        "missing": {"compofa": "no path costs so little"},
        "evidence": {},
    }
    record = {"paper": "detofa", "labels": LABELS, "data": "scenes", "scale": "smoke", "command": ""}
    result = make(EXHIBITS["figure5"], {0: measured}, Setting(tmp_path, SMOKE, "macs"), **record)
    rows = {row[0]: row[1:] for row in result.table.rows}
    assert rows["DetOFA (ours)"][0].mean == 2
    assert rows["OFA (w/o PS)"][0].mean == 1
    assert math.isnan(rows["OFA (w/o PS)"][1].mean)
    assert any("CompOFA*" in note and "no path costs so little" in note for note in result.notes)
    assert (tmp_path / "figure5.png").stat().st_size > 1000
