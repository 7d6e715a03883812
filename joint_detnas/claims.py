"""The decision rules for Joint-DetNAS's claims JD-1 to JD-11, written before the runs that they judge.

Every rule is a value by seed with its 95 % Student-t interval (common.report.statistics): reproduced when the whole
interval lies on the claimed side of the threshold, not reproduced when it lies on the other, else inconclusive; of
several conditions all must hold. AP and the score H are in points (0 to 100). AP is on validation images by which
nothing was chosen, the score on held-out training images, as the search has it.

Values of the evidence, first axis the seed (joint_detnas.measurements collects them):
    pool minus alone (S, N)        AP of N networks out of the pool minus AP of the same trained alone, two sizes' mean
    pruned (S, M, 5)               AP of M detectors: as they are, and pruned by 0, 10, 20, 30 % and trained on
    distilled (S, L, 3)            AP of L students: alone, by fine-grained feature imitation, by our distillation
    gain, cost, time (S, B)        of B backbones: AP upgraded minus base; FLOPs and latency upgraded over base
    joint minus PIPELINE (S,)      AP at one backbone cost and input size
    dynamic ends, dynamic on the way (S,)   best score under changing teachers minus that under the largest: at the end,
                                   and mean over all pairs
    teacher grows (S,)             parameters (M) of the largest student's best teachers minus the smallest one's
    teacher tau (S,)               Kendall's tau of a teacher's AP with the score that it brought, mean over students
    pruning's share, place (S,)    see measurements.pruning_evidence
    stages (S, 4)                  FLOPs that each resolution of the backbone lost, as a share of all four's
    share of the budget (S,)       share of its pairs after which the search is above all that random search finds
"""

import numpy as np

from common.report.claims import Claim, Condition, Evidence, Measure, each_of, value_of
from common.report.statistics import Difference, mean_interval

BASELINE, NOT_PRUNED, TEN, THIRTY = 0, 1, 2, 4
"""Columns of "pruned"."""
ALONE, IMITATION, OURS = range(3)
"""Columns of "distilled"."""


def _columns(name: str, one: int, other: int) -> Measure:
    """A column of (S, N, columns) minus another, mean over N."""

    def measure(evidence: Evidence) -> Difference:
        values = np.asarray(evidence[name], dtype=float)
        return mean_interval((values[..., one] - values[..., other]).mean(axis=1))

    return measure


def _stages(one: int, other: int) -> Measure:
    """What a resolution of the backbone lost minus what another did."""

    def measure(evidence: Evidence) -> Difference:
        stages = np.asarray(evidence["stages"], dtype=float)
        return mean_interval(stages[:, one - 1] - stages[:, other - 1])

    return measure


CLAIMS = (
    Claim(
        "JD-1",
        "joint_detnas",
        "Table 1",
        "sub-networks of the elastic teacher pool beat the same nets trained alone",
        "+0.1..+3.4 AP",
        "AP out of the pool minus AP of the same network trained alone by the base detector's schedule, mean over the "
        "networks and the two largest sizes, above 0",
        value_of("pool minus alone", np.mean),
        effect=0.5,
        unit="AP points",
    ),
    Claim(
        "JD-2",
        "joint_detnas",
        "Table 2",
        "pruning 10 % of channels costs no AP, 30 % under 1 AP",
        "R50 37.1 -> 37.3/37.0/36.4; R101 39.0 -> 39.2/38.8/38.3",
        "mean over the detectors, after the training of a pair without a teacher: AP at 10 % minus the detector's as "
        "it was, above 0; AP at 30 % minus that, above -1; and AP at 30 % minus that of the detector trained on "
        "unpruned, above -1",
        each_of(
            {
                "10 %": _columns("pruned", TEN, BASELINE),
                "30 %": _columns("pruned", THIRTY, BASELINE),
                "30 % against unpruned": _columns("pruned", THIRTY, NOT_PRUNED),
            }
        ),
        conditions=(
            Condition("10 %", "above", 0.0),
            Condition("30 %", "above", -1.0),
            Condition("30 % against unpruned", "above", -1.0),
        ),
        effect=0.5,
        unit="AP points",
    ),
    Claim(
        "JD-3",
        "joint_detnas",
        "Table 3",
        "the proposed distillation lifts a student by about 2 AP, more than fine-grained feature imitation",
        "+2.1, +2.1",
        "mean over the students, all trained alike from the same weights: AP by the paper's distillation minus AP "
        "alone above 0; and minus AP by fine-grained feature imitation above 0",
        each_of(
            {
                "against alone": _columns("distilled", OURS, ALONE),
                "against imitation": _columns("distilled", OURS, IMITATION),
            }
        ),
        conditions=(Condition("against alone", "above", 0.0), Condition("against imitation", "above", 0.0)),
        effect=1.0,
        unit="AP points",
    ),
    Claim(
        "JD-4",
        "joint_detnas",
        "Table 4",
        "the search raises AP and cuts cost at once, on every backbone family",
        "+2.5..+2.8 AP, -7..-48 %",
        "of all backbones the least gain in AP above 0, the greatest ratio of FLOPs at the input size below 1, and the "
        "greatest ratio of latency below 1",
        each_of(
            {"gain": value_of("gain", np.min), "FLOPs": value_of("cost", np.max), "time": value_of("time", np.max)}
        ),
        conditions=(
            Condition("gain", "above", 0.0, "AP points"),
            Condition("FLOPs", "below", 1.0, "times"),
            Condition("time", "below", 1.0, "times"),
        ),
        effect=0.5,
    ),
    Claim(
        "JD-5",
        "joint_detnas",
        "Table 5",
        "joint beats NAS -> prune -> KD and prune -> KD at equal backbone cost",
        "+1.8, +2.1 AP",
        "AP of what the joint search found minus AP of each pipeline, pruned to its backbone's cost and judged at its "
        "input size, above 0",
        each_of(
            {
                "against prune-KD": value_of("joint minus prune-kd"),
                "against NAS-prune-KD": value_of("joint minus nas-prune-kd"),
            }
        ),
        conditions=(Condition("against prune-KD", "above", 0.0), Condition("against NAS-prune-KD", "above", 0.0)),
        effect=1.0,
        unit="AP points",
    ),
    Claim(
        "JD-6",
        "joint_detnas",
        "Figure 4",
        "a dynamic teacher lifts the student faster and ends higher than the fixed largest teacher",
        None,
        "one student, as many pairs: its best score under changing teachers minus that under the largest, above 0 on "
        "average over the pairs, and above 0 after the last",
        each_of({"on the way": value_of("dynamic on the way"), "at the end": value_of("dynamic ends")}),
        conditions=(Condition("on the way", "above", 0.0), Condition("at the end", "above", 0.0)),
        effect=0.5,
        unit="points of H",
    ),
    Claim(
        "JD-7",
        "joint_detnas",
        "Figure 5",
        "the best teacher's size grows with the student's",
        None,
        "parameters of the backbones of the teachers in the best three pairs of the largest student minus those of the "
        "smallest student, above 0",
        value_of("teacher grows"),
        effect=0.1,
        unit="M parameters",
    ),
    Claim(
        "JD-8",
        "joint_detnas",
        "Section 4.3.1",
        "a stronger detector is not always the better teacher",
        None,
        "Kendall's tau of a teacher's AP with what it raised the score by, mean over the students, below 0.5",
        value_of("teacher tau"),
        direction="below",
        threshold=0.5,
        effect=0.3,
        unit="tau",
    ),
    Claim(
        "JD-9",
        "joint_detnas",
        "Figure 6",
        "channel pruning brings most of the score, and early; the other actions come late",
        None,
        "of all that the student's actions raised the score by, the share of channel pruning above 0.5; and its "
        "successful steps on average earlier than those of the other actions, difference in shares of the search below "
        "0",
        each_of({"share": value_of("pruning's share"), "place": value_of("pruning's place")}),
        conditions=(Condition("share", "above", 0.5), Condition("place", "below", 0.0)),
        effect=0.2,
    ),
    Claim(
        "JD-10",
        "joint_detnas",
        "Figure 7",
        "stage 3 is cut most, then 2, then 1",
        None,
        "FLOPs that the third resolution of the backbone lost minus what the second did, above 0; and the second minus "
        "the first, above 0; as shares of the backbone's, mean over the backbones",
        each_of({"third and second": _stages(3, 2), "second and first": _stages(2, 1)}),
        conditions=(Condition("third and second", "above", 0.0), Condition("second and first", "above", 0.0)),
        effect=0.02,
    ),
    Claim(
        "JD-11",
        "joint_detnas",
        "Table 7",
        "fewer architectures than other searches for a better result",
        "100",
        "share of its pairs after which the search's best score is above all that random search finds with as many, "
        "below 0.5 (1 where it never is)",
        value_of("share of the budget"),
        direction="below",
        threshold=0.5,
        effect=0.2,
        unit="of the pairs",
    ),
)
