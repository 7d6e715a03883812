"""The decision rules for DetOFA's claims DO-1 to DO-10, written before the runs that they judge.

Every rule is a paired difference by seed with its 95 % Student-t interval (common.report.statistics): reproduced when
the whole interval lies on the claimed side of the threshold, not reproduced when it lies on the other, else
inconclusive; of several conditions all must hold. AP is in points (0 to 100).

Values of the evidence, first axis the seed (common.reproduce.evidence collects them):
    VARIANT (S, budgets)           AP of the nets found for each budget, cheapest first (detofa.study.VARIANTS)
    full (S,)                      AP of the full net
    cost:VARIANT (S,)              CPU seconds to the finished supernet: training, path sampling, path filter
    sampled:VARIANT (S, buckets)   mean AP of uniformly sampled paths of each bucket
    precision:SETTING (S,)         of finding the weakest quarter, for the filters of table 2
    tau:SUPERNET (S,)              rank correlation of operation score with operation cost within blocks, figure 7
"""

import numpy as np

from common.report.claims import Claim, Condition, Evidence, each_of
from common.report.statistics import Difference, mean_interval, paired_difference


def _difference(one: str, other: str, budgets: slice = slice(None)):
    """AP of `one` minus AP of `other`, averaged over the given budgets."""

    def measure(evidence: Evidence) -> Difference:
        return paired_difference(np.asarray(evidence[one])[:, budgets], np.asarray(evidence[other])[:, budgets])

    return measure


def _ratio(one: str, other: str):
    def measure(evidence: Evidence) -> Difference:
        return mean_interval(np.asarray(evidence[one]) / np.asarray(evidence[other]))

    return measure


def _scalar_difference(one: str, other: str):
    def measure(evidence: Evidence) -> Difference:
        return paired_difference(evidence[one], evidence[other])

    return measure


def _gap_to_full_net(evidence: Evidence) -> Difference:
    return paired_difference(evidence["full"], np.asarray(evidence["ours"]).max(axis=1))


def _too_much_pruning(evidence: Evidence) -> Difference:
    both = np.stack([evidence["operations-ratio-40"], evidence["paths-ratio-40"]]).mean(axis=0)
    return paired_difference(evidence["ours"], both)


SMALLEST, LARGEST = slice(0, 1), slice(-1, None)

CLAIMS = (
    Claim(
        "DO-1",
        "detofa",
        "Figure 5",
        "better AP than OFA without shrinking at every budget",
        "+0.85 VOC, +0.45 COCO",
        "AP of ours minus OFA (w/o PS), averaged over the budgets, above 0",
        _difference("ours", "ofa"),
        effect=0.5,
        unit="AP points",
    ),
    Claim(
        "DO-2",
        "detofa",
        "Table 3, Figure 5",
        "better than OFA with shrinking at 30 % / 63 % less cost",
        "0.800 vs 1.150, 5.260 vs 14.41 GPU-days",
        "AP of ours minus OFA (w/ PS), averaged over the budgets, above 0; and ratio of CPU seconds below 0.70",
        each_of({"AP": _difference("ours", "ofa-shrinking"), "cost ratio": _ratio("cost:ours", "cost:ofa-shrinking")}),
        conditions=(Condition("AP", "above", 0.0, "AP points"), Condition("cost ratio", "below", 0.70)),
        effect=0.5,
    ),
    Claim(
        "DO-3",
        "detofa",
        "Figure 6",
        "sampled paths are better across all budgets",
        None,
        "mean AP of paths of the pruned space minus that of paths of OFA (w/o PS), over the buckets, above 0",
        _difference("sampled:ours", "sampled:ofa"),
        effect=0.5,
        unit="AP points",
    ),
    Claim(
        "DO-4",
        "detofa",
        "Table 2",
        "FLOPs-bounded loss, budget and block position each raise the precision of finding the weakest quarter",
        ".590 -> .870, .830 -> .870, .850 -> .870",
        "precision of the whole filter minus that of the filter without the one part, above 0 for all three parts",
        each_of(
            {
                "bounded loss": _scalar_difference("precision:ours", "precision:unbounded"),
                "budget": _scalar_difference("precision:ours", "precision:no-budget"),
                "block position": _scalar_difference("precision:ours", "precision:no-block"),
            }
        ),
        conditions=(
            Condition("bounded loss", "above", 0.0),
            Condition("budget", "above", 0.0),
            Condition("block position", "above", 0.0),
        ),
        effect=0.05,
    ),
    Claim(
        "DO-5",
        "detofa",
        "Figure 7",
        "for detection, operation score follows operation size more than for classification",
        None,
        "Kendall's tau of operation score with cost, within blocks, of detection minus classification, above 0",
        _scalar_difference("tau:detection", "tau:classification"),
        effect=0.1,
        unit="tau",
    ),
    Claim(
        "DO-6",
        "detofa",
        "Figure 8",
        "FLOPs & score (all) is the best operation pruning; scored path pruning beats uniform sampling",
        None,
        "AP, averaged over the budgets: FLOPs & score (all) minus each other strategy, and scored path pruning minus "
        "uniform sampling, all above 0",
        each_of(
            {
                "against FLOPs": _difference("operations-all", "operations-flops"),
                "against per bucket": _difference("operations-all", "operations-bucket"),
                "paths": _difference("paths-score", "ofa"),
            }
        ),
        conditions=(
            Condition("against FLOPs", "above", 0.0),
            Condition("against per bucket", "above", 0.0),
            Condition("paths", "above", 0.0),
        ),
        effect=0.5,
        unit="AP points",
    ),
    Claim(
        "DO-7",
        "detofa",
        "Figure 9",
        "some path pruning beats none; operation pruning matters for small paths; 40 % is too much",
        None,
        "AP of ours: minus r_path = 0, averaged over the budgets; minus r_op = 0 at the smallest budget; minus the "
        "mean of the two 40 % settings, averaged over the budgets; all above 0",
        each_of(
            {
                "path pruning": _difference("ours", "operations-all"),
                "operation pruning": _difference("ours", "paths-score", SMALLEST),
                "too much": _too_much_pruning,
            }
        ),
        conditions=(
            Condition("path pruning", "above", 0.0),
            Condition("operation pruning", "above", 0.0),
            Condition("too much", "above", 0.0),
        ),
        effect=0.5,
        unit="AP points",
    ),
    Claim(
        "DO-8",
        "detofa",
        "Section 4.2",
        "transfer from classification helps",
        "+6.55, +1.85",
        "AP of OFA (w/o PS) pre-trained on classification minus the same from scratch, over the budgets, above 0",
        _difference("ofa", "ofa-scratch"),
        effect=0.5,
        unit="AP points",
    ),
    Claim(
        "DO-9",
        "detofa",
        "Section 4.2",
        "best paths come within 0.5 / 1.0 AP of the full net",
        "0.50, 1.00",
        "AP of the full net minus the best found path's, below 1.0",
        _gap_to_full_net,
        direction="below",
        threshold=1.0,
        effect=0.5,
        unit="AP points",
    ),
    Claim(
        "DO-10",
        "detofa",
        "Figure 5",
        "CompOFA* is good at large budgets and weak at small ones",
        None,
        "AP of CompOFA* minus OFA (w/o PS): above 0 at the largest budget and below 0 at the smallest",
        each_of(
            {
                "largest": _difference("compofa", "ofa", LARGEST),
                "smallest": _difference("compofa", "ofa", SMALLEST),
            }
        ),
        conditions=(Condition("largest", "above", 0.0), Condition("smallest", "below", 0.0)),
        effect=0.5,
        unit="AP points",
    ),
)
