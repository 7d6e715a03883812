"""The decision rules for SM-NAS's claims SM-1 to SM-8, written before the runs that they judge.

Every rule is a value by seed with its 95 % Student-t interval (common.report.statistics): reproduced when the whole
interval lies on the claimed side of the threshold, not reproduced when it lies on the other, else inconclusive; of
several conditions all must hold. AP is in points (0 to 100), on validation images by which nothing was chosen.

Values of the evidence, first axis the seed (sm_nas.measurements collects them):
    cascade AP, cascade time (S,)      Cascade R50 at the medium size minus, and over, FPN R101 at the large one
    FPN AP (S,)                        FPN R50 minus RetinaNet R50
    RetinaNet time (S,)                RetinaNet R50's latency over FPN R50's; "..., second data" on the second data set
    strategies (S, 8)                  AP of the rows of Table 3
    dominated (S,)                     share of the classic detectors that one of E0 to E5 dominates in AP and latency
    hypervolume ratio (S,)             area under the front of E0 to E5 over that of the classic detectors
    mobilenet FLOPs, mobilenet behind  see measurements.mobilenet_evidence
    pushed (S,)                        AP of what stage two found minus AP of what it began with, mean over groups
    depth, doubling, late (S,)         rank correlations with AP in stage two, Figure 5
    transfer:E0, E1, E3 (S,)           on the second data set, AP minus FPN R50's at the same input size
    tau (S,)                           Kendall's tau of AP after stage one's training with AP after the final one
"""

import numpy as np

from common.report.claims import Claim, Condition, Evidence, Measure, each_of, value_of
from common.report.statistics import Difference, paired_difference

BN_PRETRAINED, BN_LARGE_BATCH, GN_WS, GN_WS_FAST, GN_WS_BEST = 0, 3, 5, 6, 7
"""Rows of Table 3."""


def _rows(one: int, other: int) -> Measure:
    """AP of a row of Table 3 minus that of another."""

    def measure(evidence: Evidence) -> Difference:
        rows = np.asarray(evidence["strategies"], dtype=float)
        return paired_difference(rows[:, one], rows[:, other])

    return measure


CLAIMS = (
    Claim(
        "SM-1",
        "sm_nas",
        "Table 1",
        "which detector wins depends on the data set; a light cascade beats a heavy plain one",
        "39.3 @54.9 ms vs 39.1 @72.0 ms",
        "Cascade R50 at the medium size minus FPN R101 at the large one: AP above 0, ratio of latency below 1; FPN R50 "
        "minus RetinaNet R50: AP above 0; RetinaNet's latency over FPN's: above 1 here and below 1 on the second data "
        "set",
        each_of(
            {
                "cascade's AP": value_of("cascade AP"),
                "cascade's time": value_of("cascade time"),
                "FPN's AP": value_of("FPN AP"),
                "RetinaNet's time": value_of("RetinaNet time"),
                "RetinaNet's time, second data": value_of("RetinaNet time, second data"),
            }
        ),
        conditions=(
            Condition("cascade's AP", "above", 0.0, "AP points"),
            Condition("cascade's time", "below", 1.0, "times"),
            Condition("FPN's AP", "above", 0.0, "AP points"),
            Condition("RetinaNet's time", "above", 1.0, "times"),
            Condition("RetinaNet's time, second data", "below", 1.0, "times"),
        ),
        effect=0.5,
    ),
    Claim(
        "SM-2",
        "sm_nas",
        "Table 3",
        "GN+WS with a large learning rate trains from scratch in few epochs to pre-trained quality; BN from scratch "
        "does not",
        "24.8 / 29.4 / 30.7 / 36.4 / 37.5 vs 36.5",
        "AP: row 7 (GN+WS, large rate and batch) minus row 0 (BN, pre-trained) above -1; row 6 (GN+WS, large rate) "
        "minus row 5 (GN+WS) above 0; row 0 minus row 3 (BN from scratch, large batch) above 1; row 7 minus row 3 "
        "above 0",
        each_of(
            {
                "GN+WS against pre-trained": _rows(GN_WS_BEST, BN_PRETRAINED),
                "large rate": _rows(GN_WS_FAST, GN_WS),
                "pre-trained against BN from scratch": _rows(BN_PRETRAINED, BN_LARGE_BATCH),
                "GN+WS against BN from scratch": _rows(GN_WS_BEST, BN_LARGE_BATCH),
            }
        ),
        conditions=(
            Condition("GN+WS against pre-trained", "above", -1.0),
            Condition("large rate", "above", 0.0),
            Condition("pre-trained against BN from scratch", "above", 1.0),
            Condition("GN+WS against BN from scratch", "above", 0.0),
        ),
        effect=1.0,
        unit="AP points",
    ),
    Claim(
        "SM-3",
        "sm_nas",
        "Tables 2 and 4",
        "E0..E5 form a front that dominates the classic detectors",
        None,
        "area under the front of E0 to E5 in AP over latency, divided by that of the classic detectors, above 1; and "
        "share of the classic detectors that one of E0 to E5 dominates above 0.5",
        each_of({"area": value_of("hypervolume ratio"), "dominated": value_of("dominated")}),
        conditions=(Condition("area", "above", 1.0, "times"), Condition("dominated", "above", 0.5, "of all")),
        effect=0.1,
    ),
    Claim(
        "SM-4",
        "sm_nas",
        "Figure 3",
        "MobileNetV2 has fewer FLOPs but is dominated in latency: latency must be measured",
        None,
        "within one structure: MobileNetV2's FLOPs over the least of all other backbones below 1; and AP of the best "
        "backbone that is no slower minus MobileNetV2's above 0",
        each_of({"FLOPs": value_of("mobilenet FLOPs"), "behind": value_of("mobilenet behind")}),
        conditions=(Condition("FLOPs", "below", 1.0, "times"), Condition("behind", "above", 0.0, "AP points")),
        effect=0.5,
    ),
    Claim(
        "SM-5",
        "sm_nas",
        "Figure 4",
        "stage two pushes the front of stage one",
        None,
        "AP of the network that stage two found at no more FLOPs than its structure of stage one, minus that "
        "structure's, both trained by the final schedule, mean over the groups, above 0",
        value_of("pushed"),
        effect=0.5,
        unit="AP points",
    ),
    Claim(
        "SM-6",
        "sm_nas",
        "Figure 5",
        "depth correlates with mAP; early channel raising helps; long late stages, short early ones",
        None,
        "Spearman's rank correlation with AP among the candidates of stage two, mean over the groups: of depth above "
        "0; of the places where channels double, mean of the three, below 0; of the last stage's share of the blocks "
        "minus that of the first one's above 0",
        each_of({"depth": value_of("depth"), "doubling": value_of("doubling"), "late stages": value_of("late")}),
        conditions=(
            Condition("depth", "above", 0.0),
            Condition("doubling", "below", 0.0),
            Condition("late stages", "above", 0.0),
        ),
        effect=0.2,
        unit="rho",
    ),
    Claim(
        "SM-7",
        "sm_nas",
        "Table 5",
        "searched nets transfer to other data",
        "VOC +1.0..+4.0, BDD +1.0..+2.7",
        "on the second data set, at its medium size: AP minus FPN R50's above 0 for E1 and E3 (E0 loses to the plain "
        "detector on one of the paper's two sets)",
        each_of({"E1": value_of("transfer:E1"), "E3": value_of("transfer:E3")}),
        conditions=(Condition("E1", "above", 0.0), Condition("E3", "above", 0.0)),
        effect=1.0,
        unit="AP points",
    ),
    Claim(
        "SM-8",
        "sm_nas",
        "Stage-one",
        "5 epochs separate good models from bad",
        None,
        "Kendall's tau of AP after stage one's training with AP after the final one, random candidates, above 0.4",
        value_of("tau"),
        threshold=0.4,
        effect=0.2,
        unit="tau",
    ),
)
