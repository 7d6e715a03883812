"""How each method plans to spend a budget, from a made-up pace: all there is, and no candidate more than fits.

The plans are summed up here from the paces alone, as a reader would.
"""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from common.compare.methods import FOUND, RANDOM, STANDARD, front_of, methods, study_of
from common.compare.presets import NANO, Options
from common.plain import InputError
from detofa import front as detofa
from detofa.presets import NANO as DETOFA
from joint_detnas import front as joint_detnas
from joint_detnas.presets import NANO as JOINT
from sm_nas import front as sm_nas
from sm_nas.presets import NANO as SM

IMAGES = 400
JOINT_PACE = {"base image": 0.005, "pool image": [0.01, 0.03, 0.03], "pair image": 0.008, "measuring": 2.0}
SM_PACE = {"one": [0.01, 0.03], "two": [0.02, 0.04], "measuring": 1.0, "pretraining": 150.0}


def study(preset, pace: dict, **more):
    """A study as plans see it."""

    def once(what, make, *, shared):
        assert (what, shared) == ("pace", True)
        return pace

    return SimpleNamespace(preset=preset, once=once, images_an_epoch=IMAGES, **more)


@pytest.mark.parametrize("random", [False, True])
@pytest.mark.parametrize("seconds", [200.0, 600.0, 2400.0])
def test_detofa_scales_its_trainings_and_samplings(seconds, random):
    pace = {"image": 0.004, "pruned image": 0.005, "path": 0.2, "filter": 0.04, "search": 3.0, "prune": 4.0}
    own = detofa.plan(study(DETOFA, pace, constraint=SimpleNamespace(buckets=5)), seconds, random)
    paths = 5 * own.fine_tuning_paths
    if random:
        taken = (own.warm_up.epochs + own.fine_tuning.epochs) * IMAGES * 0.004 + paths * 0.2
    else:
        taken = own.warm_up.epochs * IMAGES * 0.004 + own.fine_tuning.epochs * IMAGES * 0.005  # drawn by their scores
        taken += 2 * paths * (0.2 + 0.04) + 5 * 3.0 + 4.0  # after the warm-up, and for the search
    assert taken == pytest.approx(seconds, rel=0.05)
    share = own.fine_tuning.epochs / DETOFA.fine_tuning.epochs
    assert own.warm_up.epochs == pytest.approx(share * DETOFA.warm_up.epochs, abs=1)
    lengths = {"warm_up": DETOFA.warm_up, "fine_tuning": DETOFA.fine_tuning}
    assert replace(own, **lengths, fine_tuning_paths=DETOFA.fine_tuning_paths) == DETOFA  # nothing else changes


@pytest.mark.parametrize("seconds", [200.0, 600.0, 2400.0])
def test_joint_detnas_scales_base_and_pool_and_fills_the_rest_with_pairs(seconds):
    own = joint_detnas.plan(study(JOINT, JOINT_PACE), seconds)
    pools = zip(own.shrinking.phases, JOINT_PACE["pool image"], strict=True)
    taken = IMAGES * (own.base_training.epochs * 0.005 + sum(phase.epochs * each for phase, each in pools))
    pair = JOINT.pair_training.epochs * IMAGES * 0.008 + 2.0
    taken += own.search.budget * pair
    assert seconds - pair < taken <= seconds  # not one pair more fits
    assert own.base_training.epochs / JOINT.base_training.epochs == pytest.approx(
        own.shrinking.phases[0].epochs / JOINT.shrinking.phases[0].epochs, abs=0.03
    )


@pytest.mark.parametrize("seconds", [600.0, 2400.0])
def test_sm_nas_gives_each_stage_its_share(seconds):
    own = sm_nas.plan(study(SM, SM_PACE), seconds)
    one = SM.stage_one_training.optimisation.epochs * IMAGES * 0.02 + 1
    two = SM.stage_two_training.optimisation.epochs * IMAGES * 0.03 + 1
    of_two = sm_nas.SHARES["two"] / own.groups
    for search, each, share in ((own.stage_one, one, sm_nas.SHARES["one"]), (own.stage_two, two, of_two)):
        assert search.budget == max(2, int(share * seconds / each))
        assert 1 <= search.first <= search.budget
        assert 1 <= search.generation <= search.budget
    crops = own.groups * own.classification.epochs / SM.classification.epochs * 150.0
    assert crops == pytest.approx(min(0.15 * seconds, own.groups * 150.0), abs=0.5 * own.groups * 150.0 / 12)
    assert own.groups == sm_nas.GROUPS


def test_joint_detnas_selects_from_where_more_pairs_are_known_than_parents_are_listed():
    """Against a replay of its search: on each pair its list differs from that of its random search, or not."""
    counts = []
    for seconds in (300.0, 1500.0, 1900.0, 2400.0):
        search = joint_detnas.plan(study(JOINT, JOINT_PACE), seconds).search
        known, decided = 1, 0  # the base
        while known <= search.budget:
            generation = min(search.generation, search.budget + 1 - known)
            decided += generation * (known > search.k)
            known += generation
        counts.append(joint_detnas.selects(study(JOINT, JOINT_PACE), seconds))
        assert counts[-1] == decided
    assert counts[0] == 0 < counts[-1]


def test_sm_nas_selects_where_it_proposes_more_than_it_begins_with():
    own = sm_nas.plan(study(SM, SM_PACE), 2400.0)
    later = own.stage_one.budget - own.stage_one.first + own.groups * (own.stage_two.budget - own.stage_two.first)
    assert sm_nas.selects(study(SM, SM_PACE), 2400.0) == later > 0


def test_a_budget_too_small_for_anything_leaves_the_least_of_everything():
    pace = {"image": 1.0, "pruned image": 1.0, "path": 1.0, "filter": 1.0, "search": 9.0, "prune": 1.0}
    own = detofa.plan(study(DETOFA, pace, constraint=SimpleNamespace(buckets=5)), 1.0, False)
    assert (own.warm_up.epochs, own.fine_tuning.epochs, own.fine_tuning_paths) == (1, 1, 2)
    pace = {"base image": 1.0, "pool image": [1.0] * 3, "pair image": 1.0, "measuring": 1.0}
    own = joint_detnas.plan(study(JOINT, pace), 1.0)
    assert (own.base_training.epochs, [phase.epochs for phase in own.shrinking.phases]) == (1, [1, 1, 1])
    assert own.search.budget == 1


@pytest.mark.parametrize(
    ("method", "runs"),
    [
        ("detofa", {"ours-s0": FOUND, "uniform-s1": RANDOM, "fullnet-s0": STANDARD, "ofa-s0": FOUND}),
        (
            "joint_detnas",
            {"base-resnet18-s0": STANDARD, "search-resnet18-s0": FOUND, "search-resnet18-random-s0": RANDOM},
        ),
        ("sm_nas", {"final-f0-s0": FOUND, "final-r2-s1": RANDOM, "final-e3-s0": FOUND, "final-fpn-r50-s0": STANDARD}),
    ],
)
def test_a_run_says_what_its_detector_is(method, runs):
    assert {run: front_of(method).role(run) for run in runs} == runs


def test_every_method_is_found_and_has_a_study_at_each_scale_of_the_comparison(tmp_path):
    assert {"detofa", "joint_detnas", "sm_nas"} <= set(methods())
    for name in methods():
        made = study_of(name, Options(out=tmp_path, workers=2, precision="bfloat16"), 3, "typed")
        assert (made.seed, made.options.workers, made.precision, made.preset.name) == (3, 2, "bfloat16", "smoke")
        assert made.folder == tmp_path / name / "scenes-smoke"
    options = Options(out=tmp_path, scale="nano", preset=NANO, data="scenes:train=1250,val=8")
    nano = [study_of(name, options, 3, "typed") for name in methods()]
    assert {len(each.sets["search"]) for each in nano} == {250}
    for images in (lambda each: each.training_set, lambda each: each.sets["search"], lambda each: each._source.epoch):
        assert len({images(each).fingerprint() for each in nano}) == 1
    with pytest.raises(InputError, match="has no scale huge: give one of smoke, nano"):
        study_of(name, replace(Options(), scale="huge"), 0, "typed")
