"""Every table and figure of DetOFA in the paper's order: what it measures on a seed, how it is drawn, its claims.

AP is in points (0 to 100). Claims are judged by paired differences by seed; their rules were written before the runs
that they judge. Importable without torch: the study that is handed to `measure_...` trains.

Evidence, first axis the seed:
    VARIANT (S, budgets)           AP of the nets found for each budget, cheapest first (detofa.presets.VARIANTS)
    full (S,)                      AP of the full net
    cost:VARIANT (S,)              CPU seconds to the finished supernet: training, path sampling, path filter
    pruning:ours (S,)              what drawing paths by score adds to the CPU seconds of fine-tuning, in percent
    gain (S, buckets)              AP of sampled paths of ours minus OFA's of equal cost, by bucket
    precision:FILTER (S,)          of finding the weakest quarter, for the filters of Table 2
    tau:SUPERNET (S,)              rank correlation of operation score with operation cost within blocks, Figure 7
"""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.plain import InputError, from_json
from common.report.claims import Before, Claim, Condition, Evidence, ap_rule
from common.report.exhibit import (
    Drawn,
    Exhibit,
    Measured,
    Picture,
    Setting,
    in_all,
    over_seeds,
    printed,
    printed_table,
    stacked,
    triple,
)
from common.report.reproduce import Paper
from common.report.statistics import farthest, kendall_tau
from common.report.tables import Table
from detofa.presets import PAPER as PAPER_SCALE
from detofa.presets import VARIANTS, Options
from detofa.space import OFAResNetSpace

if TYPE_CHECKING:
    from detofa.study import DetOFAStudy

FOLDER = Path(__file__).parent
LABELS = {name: variant.title for name, variant in VARIANTS.items()} | {"random": "Random search, same budget"}
_ORDER = tuple(LABELS[name] for name in ("ours", "ofa", "ofa-shrinking", "compofa", "random"))
NAN = math.nan

OVER_BUDGETS = ", averaged over the budgets,"
AT_SMALLEST, AT_LARGEST = " at the smallest budget", " at the largest budget"
BUDGETS = {OVER_BUDGETS: slice(None), AT_SMALLEST: slice(0, 1), AT_LARGEST: slice(-1, None)}


def paper_table(name: str) -> Table:
    """The paper's own table, as printed."""
    return printed_table(printed(FOLDER)["exhibits"], name)


def difference(one: str, other: str) -> Callable[[Evidence], np.ndarray]:
    """evidence -> `one` minus `other`."""
    return lambda evidence: evidence[one] - evidence[other]


def better(words: str, one: str, other: str, where: str = OVER_BUDGETS, *bound: Any, **more: Any) -> Condition:
    """AP of the nets of `one` minus those of `other` lies above 0 (or in `bound`); `words` name them."""
    chosen = BUDGETS[where]
    return ap_rule(f"AP of {words}{where}", lambda e: e[one][:, chosen] - e[other][:, chosen], *bound, **more)


def _main_effects(curves: Mapping[str, np.ndarray] | Evidence) -> dict[str, np.ndarray]:
    """What pruning operations and pruning paths each bring on average over the other, and what they bring together."""
    both, operations, paths, none = (curves[name] for name in ("ours", "operations-all", "paths-score", "ofa"))
    return {
        "operations": ((both - paths) + (operations - none)) / 2,
        "paths": ((both - operations) + (paths - none)) / 2,
        "together": (both - paths) - (operations - none),
    }


def claim(
    number: int,
    where: str,
    statement: str,
    conditions: Sequence[Condition],
    before: tuple[str, str] | None = None,
    paper_value: str | None = None,
    level: str | None = "full",
    **more: Any,
) -> Claim:
    """Claim DO-`number`. before: the first rule, and why it was changed. level: the evidence
    that says at what AP it was tested.
    """
    more |= {"level": level and (lambda evidence: evidence[level]), "before": before and Before(*before)}
    return Claim(f"DO-{number}", where, statement, tuple(conditions), paper_value, **more)


# ---- Table 1: the search spaces


def _space_sizes(space: OFAResNetSpace) -> dict[str, dict[str, int]]:
    """Exact number of different networks in OFA's space and in CompOFA*'s, without and with an elastic stem."""
    spaces = {"backbone": space, "with stem": replace(space, elastic_stem=True)}
    return {
        name: {part: each.size(coupled) for part, each in spaces.items()}
        for name, coupled in {"OFA": False, "CompOFA*": True}.items()
    }


def printed_sizes() -> dict[str, int]:
    """What the formulas printed in Table 1 evaluate to; CompOFA*'s to the fourth power, one factor a block."""
    ofa = math.prod(3**layers + 3**layers for layers in (2, 3, 4)) ** 4
    return {"OFA": ofa, "CompOFA*": sum(3**layers for layers in (2, 3, 4)) ** 4}


def _measure_table1(study: "DetOFAStudy") -> Measured:
    """Sizes of the paper's spaces and of the scale's own; nothing is trained."""
    return {"paper": _space_sizes(PAPER_SCALE.space), "scale": _space_sizes(study.space), "formula": printed_sizes()}


def _draw_table1(measured: Sequence[Measured], setting: Setting) -> Drawn:
    sizes, own = measured[0], setting.preset["space"]
    rows = []
    for method, space, *_ in paper_table("table1").rows:
        exact = sizes["paper"][method]
        backbone, formula = sizes["scale"][method]["backbone"], sizes["formula"][method]
        rows.append([method, space, exact["backbone"], exact["with stem"], formula, backbone])
    columns = ["Method", "Search space", "Size", "Size with stem choices", "Printed formula", "Size at this scale"]
    notes = [
        "Size counts the different backbones of OFA-ResNet50 exactly: layers that depth drops have no expand ratio, "
        "blocks have 2, 2, 4, 2 layers and up to 2 more, and two of the stem's inner widths are the same 24 channels. "
        "The printed formula has 2, 3 or 4 layers in every block "
        "and two terms for three widths. CompOFA*'s is taken to the fourth power, one factor a block.",
        f"At this scale blocks have {', '.join(map(str, own['base_depths']))} layers and up to "
        f"{own['depths'][-1]} more.",
    ]
    return Drawn(Table(columns, rows), "Number of paths of the two search spaces.", notes)


_TABLE1 = Exhibit("table1", "The search spaces", "exact sizes, and the printed formulas", _measure_table1, _draw_table1)


# ---- AP against cost: what figures 5, 8 and 9 share


def _results_of(study: "DetOFAStudy", names: Sequence[str]) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The finished variants by name, trained where need be; and by title why the others have no result.

    A space without a path for a budget is a result of its method, and must not cost the other methods theirs.
    """
    results, missing = {}, {}
    for name in names:
        if not study.is_finished(name):
            study.prepare(name)
        try:
            results[name] = study.result(name)
        except InputError as error:
            missing[LABELS[name]] = str(error)
            print(f"{name}, seed {study.seed}, has no result: {error}", file=sys.stderr, flush=True)
    return results, missing


def curve(records: Sequence[Mapping[str, Any] | None]) -> dict[str, list[float]]:
    """AP in points and cost of measured networks; NaN where nothing was measured."""

    def values(key: str, factor: float) -> list[float]:
        found = [None if record is None else record.get(key) for record in records]
        return [NAN if value is None else factor * value for value in found]

    return {"AP": values("AP", 100.0), "cost": values("cost", 1.0)}


def _trained_with(results: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """By title, the samples and CPU seconds that each variant was trained with."""
    from detofa.study import training_budget

    return {LABELS[name]: training_budget(result["costs"]) for name, result in results.items()}


def _measure_curves(names: Sequence[str], study: "DetOFAStudy") -> Measured:
    """AP and cost of the nets found for each budget in the supernets of some variants."""
    results, missing = _results_of(study, names)
    curves = {name: curve(result["found"]) for name, result in results.items() if "found" in result}
    evidence = {name: lambda name=name: curve(study.result(name)["found"])["AP"] for name in curves}
    if "ours" in results:
        curves["random"] = curve(results["ours"]["random"])
    measured = {
        "budgets": study.budgets,
        "curves": curves,
        "missing": missing,
        "evidence": evidence,
        "budget": _trained_with(results),
    }
    if "fullnet" in results:
        measured["full"] = {name: values[0] for name, values in curve([results["fullnet"]["full"]]).items()}
        evidence["full"] = lambda: curve([study.result("fullnet")["full"]])["AP"][0]
    return measured


def cost_axis(setting: Setting, highest: float) -> tuple[float, str, str]:
    """What to divide costs up to `highest` by, the unit that leaves, and the label of their axis."""
    constraint, billions = setting.options["constraint"], bool(highest >= 1e9)
    size = "{0}x{0}".format(setting.preset["image_size"])
    name, *units = {
        "macs": (f"Multiply-accumulates of the backbone at {size}", "MMACs", "GMACs"),
        "params": ("Parameters of the backbone", "million parameters", "billion parameters"),
        "latency": (f"Latency of the backbone at {size}, batch 1", "ms", "ms"),
    }[constraint]
    factor = 1.0 if constraint == "latency" else 1e9 if billions else 1e6
    return factor, units[billions], f"{name} ({units[billions]})"


def _curve_rows(measured: Sequence[Measured], labels: Mapping[str, str], reference: str) -> list[list]:
    """Label, AP at each budget, the mean over budgets, and how much the reference is better."""
    rows = []
    for name in in_all(measured, "curves", list(labels)):
        accuracy = stacked(measured, "curves", name, "AP")  # (S, budgets)
        behind = None
        if name != reference and in_all(measured, "curves", [reference]):
            behind = over_seeds(stacked(measured, "curves", reference, "AP") - accuracy)
        rows.append([labels[name], *map(over_seeds, accuracy.T), over_seeds(accuracy), behind])
    return rows


def _curve_picture(
    measured: Sequence[Measured], labels: Mapping[str, str], setting: Setting, name: str, **more: Any
) -> Picture:
    """AP with its interval over the mean cost of the nets found, a line for each variant."""
    factor, _, label = cost_axis(setting, max(measured[0]["budgets"]))
    series = {}
    for variant in in_all(measured, "curves", list(labels)):
        cost = stacked(measured, "curves", variant, "cost").T / factor  # (budgets, S)
        accuracy = stacked(measured, "curves", variant, "AP").T
        both = [(over_seeds(at).mean, *triple(over_seeds(ap))) for at, ap in zip(cost, accuracy, strict=True)]
        series[labels[variant]] = [point for point in both if math.isfinite(point[1])]
    return Picture(name, "accuracy_against_cost", {"series": series, "cost_label": label, **more})


def _budget_columns(measured: Sequence[Measured], setting: Setting) -> list[str]:
    """Heads of the columns of AP by budget."""
    factor, unit, _ = cost_axis(setting, max(measured[0]["budgets"]))
    return [f"≤ {budget / factor:.3g} {unit}" for budget in stacked(measured, "budgets").mean(axis=0)]


_FOUND = "AP in points of the net found for each budget, batch norm re-estimated, on the validation images. "


# ---- Figure 5: the best architecture at each budget

EQUAL_COST = ("ofa-equal-cost", "compofa-equal-cost")
_CURVES5 = ("ours", "ofa", "ofa-shrinking", "compofa", "random", *EQUAL_COST, "ofa-scratch")


def _draw_figure5(measured: Sequence[Measured], setting: Setting) -> Drawn:
    labels = {name: LABELS[name] for name in _CURVES5}
    rows = _curve_rows(measured, labels, "ours")
    budgets = _budget_columns(measured, setting)
    factor, unit, _ = cost_axis(setting, max(measured[0]["budgets"]))
    references, notes = {}, []
    if all("full" in numbers for numbers in measured):
        cost, accuracy = over_seeds(stacked(measured, "full", "cost") / factor), stacked(measured, "full", "AP")
        references = {LABELS["fullnet"]: (cost.mean, over_seeds(accuracy).mean)}
        behind = None
        if in_all(measured, "curves", ["ours"]):
            behind = over_seeds(stacked(measured, "curves", "ours", "AP").max(axis=1) - accuracy)
        rows.append([LABELS["fullnet"], *[None] * len(budgets), over_seeds(accuracy), behind])
        notes.append(
            f"Fullnet, the largest path trained alone, has no budget: its AP stands under Mean, its cost is "
            f"{cost.mean:.3g} {unit}, and the last column compares the best net of ours with it."
        )
    notes.append(
        "No transfer (Section 4.2) starts from random weights. At the cost of ours, a supernet is fine-tuned for as "
        "many epochs as fit into the CPU seconds that ours took in all, by recorded times. Neither is drawn."
    )
    drawn = {name: label for name, label in labels.items() if label in _ORDER}
    picture = _curve_picture(measured, drawn, setting, "figure5", references=references, order=_ORDER)
    caption = f"{_FOUND}Random search takes the sampled path of least loss in the supernet of ours."
    table = Table(["Method", *budgets, "Mean", "Ours minus it"], rows)
    return Drawn(table, caption, notes, {"Mean": "AP points", "Ours minus it": "AP points"}, [picture])


_FIGURE5 = Exhibit(
    "figure5",
    "The best architecture at each budget",
    "AP of the nets found, by method and budget",
    partial(_measure_curves, ("ours", "ofa", "ofa-shrinking", "compofa", *EQUAL_COST, "ofa-scratch", "fullnet")),
    _draw_figure5,
    (
        claim(
            1,
            "Figure 5",
            "better AP than OFA without shrinking at every budget",
            [
                better("ours minus OFA (w/o PS) of equal samples", "ours", "ofa", printed=0.85),
                ap_rule(
                    "the same at the budget whose interval reaches lowest,",
                    lambda e: farthest(e["ours"] - e["ofa"], "low", comparisons=e["ours"].shape[1]),
                ),
            ],
            (
                "AP of ours minus OFA (w/o PS), averaged over the budgets, above 0",
                "networks at AP 14, and budgets where AP was flat and hardly any path was trained; and one mean says "
                "nothing of every budget",
            ),
            "+0.85 VOC, +0.45 COCO",
        ),
        claim(
            8,
            "Section 4.2",
            "transfer from classification helps",
            [
                better(
                    "OFA (w/o PS) pre-trained on classification minus the same from scratch",
                    "ofa",
                    "ofa-scratch",
                    printed=6.55,
                )
            ],
            ("the same, without the paper's value", "the interval now has to reach half of what the paper prints"),
            "+6.55, +1.85",
        ),
        claim(
            9,
            "Section 4.2",
            "best paths come within 0.5 / 1.0 AP of the full net",
            [
                ap_rule(
                    "AP of the full net of equal samples minus that of the path found for the largest budget",
                    lambda evidence: evidence["full"] - evidence["ours"][:, -1],
                    "below",
                    1.0,
                ),
            ],
            (
                "AP of the full net minus the best found path's below 1",
                "the best of five by the images that AP is reported on is flattered",
            ),
            "0.50, 1.00",
        ),
        claim(
            10,
            "Figure 5",
            "CompOFA* is good at large budgets and weak at small ones",
            [
                better("CompOFA* minus OFA (w/o PS)", "compofa", "ofa", AT_SMALLEST, "below"),
                better("CompOFA* minus OFA (w/o PS)", "compofa", "ofa", AT_LARGEST, "above", -0.5),
            ],
            (
                "AP of CompOFA* minus OFA (w/o PS) above 0 at the largest budget and below 0 at the smallest",
                "good means not worse: within half a point",
            ),
        ),
        claim(
            11,
            "Section 4.2",
            "at equal GPU cost ours still beats OFA without shrinking and CompOFA*",
            [
                better("ours minus OFA (w/o PS) of equal CPU seconds", "ours", "ofa-equal-cost"),
                better("ours minus CompOFA* of equal CPU seconds", "ours", "compofa-equal-cost"),
            ],
        ),
    ),
)


# ---- Figure 6: uniformly sampled paths


def bucket_means(sampled: Mapping[str, Sequence], buckets: int) -> list[float]:
    """Mean AP of the paths of each bucket; NaN for a bucket without any."""
    accuracy = np.array(sampled["AP"], dtype=float)
    bucket = np.array([-1 if value is None else value for value in sampled["bucket"]])
    inside = [accuracy[(bucket == which) & np.isfinite(accuracy)] for which in range(buckets)]
    return [float(values.mean()) if len(values) else NAN for values in inside]


def beyond_cost(sampled: Mapping[str, Sequence], reference: Mapping[str, Sequence]) -> list[float]:
    """AP of paths minus what a parabola in the logarithm of cost, fitted to the reference's paths, says of theirs.

    A pruned space has dearer paths in the same bucket: those would be better without any better training.
    """

    def numbers(paths: Mapping[str, Sequence]) -> tuple[np.ndarray, np.ndarray]:
        return np.log(np.array(paths["cost"], dtype=float)), np.array(paths["AP"], dtype=float)

    cost, accuracy = numbers(reference)
    known = np.isfinite(cost) & np.isfinite(accuracy)
    if not known.any():
        return [NAN] * len(sampled["cost"])
    curve = np.polynomial.Polynomial.fit(cost[known], accuracy[known], min(2, known.sum() - 1))
    cost, accuracy = numbers(sampled)
    return (accuracy - curve(cost)).tolist()


def _measure_figure6(study: "DetOFAStudy") -> Measured:
    """AP and cost of uniformly sampled paths, and their mean AP in each bucket."""
    results, missing = _results_of(study, ("ours", "ofa"))
    constraint = study.constraint

    def numbers(name: str) -> dict[str, list]:
        records = study.sampled(name)
        return curve(records) | {key: [record.get(key) for record in records] for key in ("bucket", "path")}

    def gain() -> list[float]:
        ours, ofa = numbers("ours"), numbers("ofa")
        left = {name: each | {"AP": beyond_cost(each, ofa)} for name, each in {"ours": ours, "ofa": ofa}.items()}
        means = {name: np.array(bucket_means(each, constraint.buckets)) for name, each in left.items()}
        return (means["ours"] - means["ofa"]).tolist()

    return {
        "sampled": {name: numbers(name) for name in results},
        "edges": constraint.edges,
        "missing": missing,
        "budget": _trained_with(results),
        "evidence": {"gain": gain} if len(results) == 2 else {},
    }


def _draw_figure6(measured: Sequence[Measured], setting: Setting) -> Drawn:
    names = in_all(measured, "sampled", ["ours", "ofa"])
    edges = stacked(measured, "edges").mean(axis=0)
    factor, unit, label = cost_axis(setting, edges[-1])
    dots = {
        LABELS[name]: [
            (cost / factor, accuracy, {"Path": path, "Seed": numbers["seed"]})
            for numbers in measured
            for cost, accuracy, path in zip(
                *(numbers["sampled"][name][key] for key in ("cost", "AP", "path")), strict=True
            )
            if accuracy is not None and math.isfinite(accuracy)
        ]
        for name in names
    }
    buckets = len(edges) - 1
    means = {name: np.array([bucket_means(each["sampled"][name], buckets) for each in measured]) for name in names}
    gain = stacked(measured, "evidence", "gain") if in_all(measured, "evidence", ["gain"]) else None  # (S, buckets)
    rows = []
    for bucket in range(buckets):
        cells = [over_seeds(means[name][:, bucket]) for name in names]
        both = over_seeds(means["ours"][:, bucket] - means["ofa"][:, bucket]) if len(names) == 2 else None
        span = f"{edges[bucket] / factor:.3g} to {edges[bucket + 1] / factor:.3g} {unit}"
        rows.append([f"{bucket + 1}: {span}", *cells, both, None if gain is None else over_seeds(gain[:, bucket])])
    columns = ["Bucket", *(LABELS[name] for name in names), "Ours minus OFA (w/o PS)", "At equal cost"]
    scattered = {"points": dots, "edges": (edges / factor).tolist(), "cost_label": label, "order": _ORDER}
    caption = (
        f"AP in points of {setting.preset['figure6_paths']} uniformly sampled paths in each of {len(edges) - 1} cost "
        "buckets and for each seed, from the pruned space for ours and the whole space for OFA. Bars: a bucket's mean."
    )
    notes = [
        "At equal cost: less a parabola in the logarithm of cost that is fitted to OFA's paths of the seed.",
        "A bucket that hardly any path of a space falls into has fewer paths, or none.",
    ]
    return Drawn(Table(columns, rows), caption, notes, pictures=[Picture("figure6", "scatter_by_bucket", scattered)])


_FIGURE6 = Exhibit(
    "figure6",
    "Uniformly sampled paths in cost buckets",
    "AP of sampled paths, ours and OFA",
    _measure_figure6,
    _draw_figure6,
    (
        claim(
            3,
            "Figure 6",
            "sampled paths are better across all budgets",
            [
                ap_rule(
                    f"AP of paths of the pruned space minus that of OFA's paths of equal cost, in {words},",
                    lambda evidence, chosen=chosen: evidence["gain"][:, chosen],
                    null="cost alone explains AP",
                )
                for words, chosen in {
                    "all buckets": slice(None),
                    "the two cheapest": slice(0, 2),
                    "the two dearest": slice(-2, None),
                }.items()
            ],
            (
                "mean AP of paths of the pruned space minus that of OFA's, averaged over the buckets, above 0",
                "paths of a pruned space cost more in the same bucket, and one mean says nothing of all budgets",
            ),
            exhibits=("figure5",),
        ),
    ),
)


# ---- Figure 7: operation scores

_SUPERNETS = {"classification": "filter", "detection": "warm-up"}  # the run whose path filter scores
_SUPERNET_TITLES = {"classification": "Classification (pre-training)", "detection": "Detection (warm-up)"}


def tau_within_blocks(index: np.ndarray, score: np.ndarray, cost: np.ndarray, layer_block: np.ndarray) -> list[float]:
    """(blocks,) Kendall's tau-b of operation score with operation cost, among the operations of each block.

    index: (O, 4) operations, the layer first; score, cost: (O,). Scores that are all tied follow nothing: tau 0.
    """
    from scipy.stats import kendalltau  # takes a second, and only measuring needs it

    block = layer_block[index[:, 0]]
    taus = (kendalltau(score[block == which], cost[block == which])[0] for which in np.unique(block))
    return [0.0 if math.isnan(tau) else float(tau) for tau in taus]


def _measure_figure7(study: "DetOFAStudy") -> Measured:
    """Operation scores after pre-training on classification, and after the warm-up on detection; tau of the latter once
    more after they changed places at random."""
    layer_block = study.space.layer_stage
    scores = {name: study.operation_scores(what) for name, what in _SUPERNETS.items()}
    taus = {name: tau_within_blocks(each.index, each.score, each.cost, layer_block) for name, each in scores.items()}
    detection = scores["detection"]
    mixed = np.random.default_rng([study.seed, 77]).permutation(detection.score)

    def mean_tau(name: str) -> float:
        study.shared(_SUPERNETS[name])  # what it rests on
        return float(np.mean(taus[name]))

    return {
        "supernets": {name: {"score": scores[name].score.tolist(), "tau": taus[name]} for name in _SUPERNETS},
        "index": detection.index.tolist(),
        "shuffled": tau_within_blocks(detection.index, mixed, detection.cost, layer_block),
        "evidence": {f"tau:{name}": partial(mean_tau, name) for name in _SUPERNETS},
    }


def _draw_figure7(measured: Sequence[Measured], setting: Setting) -> Drawn:
    taus = {name: stacked(measured, "supernets", name, "tau") for name in _SUPERNETS}  # (S, blocks)
    both = {_SUPERNET_TITLES[name]: tau for name, tau in taus.items()}
    both["Detection minus classification"] = taus["detection"] - taus["classification"]
    both["Detection, scores shuffled"] = stacked(measured, "shuffled")
    rows = [[name, over_seeds(tau), *map(over_seeds, tau.T)] for name, tau in both.items()]
    blocks = [f"Block {block + 1}" for block in range(taus["detection"].shape[1])]
    pictures = [_score_map(measured, name, setting) for name in _SUPERNETS]
    caption = (
        f"Operation scores, the mean score of {setting.preset['operation_samples']} paths with the operation inserted, "
        "mean over seeds. The table: Kendall's tau of score with cost of the operations of a block."
    )
    notes = [
        "Scores by size alone would give 1, shuffled scores 0. Scores of two filters have no common scale: compare "
        "patterns, not values. Layer 2.3 is the third layer of block 2; grey where the depth has no such layer.",
    ]
    return Drawn(Table(["Supernet", "Mean over blocks", *blocks], rows), caption, notes, pictures=pictures)


def _score_map(measured: Sequence[Measured], supernet: str, setting: Setting) -> Picture:
    """Scores of operations (rows) by layer (columns)."""
    space = from_json(OFAResNetSpace, setting.preset["space"])
    values = np.full((len(space.layer_stage), len(space.depths), len(space.widths), len(space.expands)), NAN)
    values[tuple(np.array(measured[0]["index"]).T)] = stacked(measured, "supernets", supernet, "score").mean(axis=0)
    places = zip(space.layer_stage, space.layer_index_in_stage, strict=True)
    return Picture(
        f"figure7-{supernet}",
        "heat_map",
        {
            "values": values.reshape(len(values), -1).T.tolist(),
            "row_labels": [f"D{d} W{w:g} E{e:g}" for d in space.depths for w in space.widths for e in space.expands],
            "column_labels": [f"{stage + 1}.{layer + 1}" for stage, layer in places],
            "value_label": "Operation score",
            "row_label": "Operation",
            "column_label": "Layer",
        },
    )


_FIGURE7 = Exhibit(
    "figure7",
    "Operation scores for classification and detection",
    "how far scores follow operation size",
    _measure_figure7,
    _draw_figure7,
    (
        claim(
            5,
            "Figure 7",
            "for detection, operation score follows operation size more than for classification",
            [
                Condition(
                    "Kendall's tau of operation score with cost, within blocks, of detection minus classification,",
                    difference("tau:detection", "tau:classification"),
                    unit="tau",
                    effect=0.1,
                ),
                Condition(
                    "Kendall's tau of operation score with cost, within blocks, of detection",
                    lambda evidence: evidence["tau:detection"],
                    unit="tau",
                    effect=0.1,
                    null="scores that follow nothing",
                ),
            ],
            (
                "tau of detection minus classification above 0",
                "two taus of noise differ, too: that of detection itself has to be there",
            ),
            exhibits=("figure5",),
        ),
    ),
)


# ---- Table 2: ablation of the path filter


def weakest_share(badness: np.ndarray, buckets: np.ndarray, share: float = 0.25) -> np.ndarray:
    """(P,) bool: the share of each bucket's paths with the highest badness; ties by position."""
    weak = np.zeros(len(badness), dtype=bool)
    for bucket in np.unique(buckets):
        members = np.flatnonzero(buckets == bucket)
        worst_first = members[np.argsort(-badness[members], kind="stable")]
        weak[worst_first[: round(share * len(members))]] = True
    return weak


def detection_of_weak(scores: np.ndarray, losses: np.ndarray, buckets: np.ndarray) -> dict[str, float]:
    """Table 2's numbers for scores (P,) of paths with losses (P,) in cost buckets (P,).

    accuracy, precision, recall (found weak / weak), found (found weak / all paths) of finding the weakest quarter of
    each bucket, and Kendall's tau of the ranking inside buckets.
    """
    flagged, weak = weakest_share(-scores, buckets), weakest_share(losses, buckets)
    found = np.count_nonzero(flagged & weak)
    return {
        "accuracy": float((flagged == weak).mean()),
        "precision": found / max(1, np.count_nonzero(flagged)),
        "recall": found / max(1, np.count_nonzero(weak)),
        "found": found / len(scores),
        "tau": kendall_tau(scores, -losses, buckets),
    }


SWEEP = (0.05, 0.1, 0.15, 0.2, 0.25)
"""Shares of a bucket's paths that a threshold may flag."""
FILTERS = {
    "unbounded": "Without bounded loss",
    "no-budget": "Without budget",
    "no-block": "Without block position",
    "ours": "Whole filter",
    "ridge": "Ridge regression",
}


def best_precision(scores: np.ndarray, losses: np.ndarray, buckets: np.ndarray) -> dict[str, float]:
    """ "Results with the best precision" (Table 2): over thresholds that flag a share of `SWEEP` of each bucket."""
    weak = weakest_share(losses, buckets)
    flagged = {share: weakest_share(-scores, buckets, share) for share in SWEEP}
    found = {share: float((weak & each).sum() / max(1, each.sum())) for share, each in flagged.items()}
    share = max(found, key=found.__getitem__)
    return {"best precision": found[share], "best share": share}


def _measure_table2(study: "DetOFAStudy") -> Measured:
    """How well each filter of the ablation, and a regression, find the weakest quarter of the warm-up's paths."""

    def numbers(name: str) -> dict[str, float]:
        found = study.cross_validated(name)
        scores, losses, buckets, fold = (np.asarray(found[key]) for key in ("scores", "losses", "buckets", "fold"))
        # Each fold is scored by a filter of its own, whose scores have no level: only those of one are compared.
        groups = buckets * (1 + fold.max()) + fold
        return detection_of_weak(scores, losses, groups) | best_precision(scores, losses, groups)

    return {
        "numbers": {name: numbers(name) for name in FILTERS},
        "evidence": {f"precision:{name}": lambda name=name: numbers(name)["precision"] for name in FILTERS},
    }


TABLE2_NUMBERS = ("accuracy", "precision", "recall", "found", "tau", "best precision", "best share")


def _draw_table2(measured: Sequence[Measured], setting: Setting) -> Drawn:
    theirs = paper_table("table2")
    rows, bars = [], {}
    for name, switches, precision in zip(
        FILTERS, [*(row[:3] for row in theirs.rows), [None] * 3], [*(row[4] for row in theirs.rows), NAN], strict=True
    ):
        numbers = {key: over_seeds(stacked(measured, "numbers", name, key)) for key in TABLE2_NUMBERS}
        gain = stacked(measured, "numbers", "ours", "precision") - stacked(measured, "numbers", name, "precision")
        rows.append([FILTERS[name], *switches, *numbers.values(), None if name == "ours" else over_seeds(gain)])
        bars[FILTERS[name]] = {"Ours": triple(numbers["precision"]), "Paper": (precision, NAN, NAN)}
    columns = ["Filter", *theirs.columns[:3], "Accuracy", "Precision", "Recall", "Found / all", "Tau", "Best precision"]
    columns += ["at share flagged", "Precision, whole filter minus it"]
    picture = Picture("table2", "bars", {"groups": bars, "value_label": "Precision for the weakest quarter"})
    caption = (
        "The path filter's finding of the weakest quarter of each cost bucket's paths, "
        f"{setting.preset['filter_folds']}-fold cross-validation on the warm-up's paths: lowest quarter of scores "
        "against highest quarter of losses. Tau: Kendall's tau of score with loss, inside buckets. Best precision: of "
        "the thresholds that flag 5 to 25 % of each bucket."
    )
    notes = [
        "Ridge regression of the loss on one-hot tokens, bucket, cost and its square, on the same folds, is not in the "
        "paper: a filter has to beat it to be worth its transformer.",
        "As many paths are flagged as are weak, so our recall (found / weak) equals our precision. The paper's recall "
        "agrees with its accuracy and precision only if it is found / all paths: compare it with Found / all.",
        "Chance gives precision 0.25, accuracy 0.625 and found / all 0.0625.",
    ]
    return Drawn(Table(columns, rows), caption, notes, pictures=[picture])


_TABLE2 = Exhibit(
    "table2",
    "Ablation of the path filter",
    "precision for the weakest quarter of paths",
    _measure_table2,
    _draw_table2,
    (
        claim(
            4,
            "Table 2",
            "FLOPs-bounded loss, budget and block position each raise the precision of finding the weakest quarter",
            [
                Condition(
                    f"precision of the whole filter minus that of the filter without {part}",
                    difference("precision:ours", f"precision:{name}"),
                    effect=0.05,
                    printed=printed_gain,
                )
                for name, part, printed_gain in (
                    ("unbounded", "the bounded loss", 0.28),
                    ("no-budget", "the budget", 0.04),
                    ("no-block", "the block position", 0.02),
                )
            ],
            ("the same, without the paper's values", "200 paths instead of the paper's 500 starved every filter"),
            ".590 -> .870, .830 -> .870, .850 -> .870",
            exhibits=("figure5",),
        ),
    ),
)


# ---- Table 3: computation cost

METHODS = {"ofa-shrinking": "OFA (w/ PS)", "ofa": "OFA (w/o PS)", "compofa": "CompOFA*", "ours": "Ours"}


def _measure_table3(study: "DetOFAStudy") -> Measured:
    """Seconds to the finished supernet."""
    results, missing = _results_of(study, list(METHODS))

    def seconds(costs: Mapping[str, Mapping[str, float]]) -> dict[str, float | None]:
        # What the search samples afterwards is not part of the paper's Table 3.
        cpu, wall = (
            sum(part[kind] for name, part in costs.items() if name != "search sampling")
            for kind in ("cpu_seconds", "seconds")
        )
        return {"cpu": cpu, "wall": wall, "sampling": costs.get("sampling", {}).get("cpu_seconds")}

    def pruning() -> float:
        fine_tuning = study.result("ours")["costs"]["fine-tuning"]
        drawing = fine_tuning["drawing_cpu_seconds"]
        return 100 * drawing / (fine_tuning["cpu_seconds"] - drawing)

    evidence = {f"cost:{name}": lambda name=name: seconds(study.result(name)["costs"])["cpu"] for name in results}
    return {
        "spent": {name: seconds(result["costs"]) for name, result in results.items()},
        "missing": missing,
        "budget": _trained_with(results),
        "evidence": evidence | ({"pruning:ours": pruning} if "ours" in results else {}),
    }


def _draw_table3(measured: Sequence[Measured], setting: Setting) -> Drawn:
    theirs = {row[0]: row[1:] for row in paper_table("table3").rows}  # VOC, of which sampling, COCO, of which sampling
    base = "ofa-shrinking"
    names = in_all(measured, "spent", list(METHODS))
    rows, bars = [], {}
    for name in names:
        cpu, wall, sampling = (stacked(measured, "spent", name, kind) for kind in ("cpu", "wall", "sampling"))
        ratio = over_seeds(cpu / stacked(measured, "spent", base, "cpu")) if base in names else None
        voc, coco = (theirs[METHODS[name]][place] / theirs[METHODS[base]][place] for place in (0, 2))
        sampled = over_seeds(sampling) if np.isfinite(sampling).any() else None
        rows.append([METHODS[name], over_seeds(cpu), sampled, over_seeds(wall), ratio, voc, coco])
        if ratio is not None:
            printed_bars = {"Paper, Pascal VOC": (voc, NAN, NAN), "Paper, COCO": (coco, NAN, NAN)}
            bars[METHODS[name]] = {"Ours": triple(ratio)} | printed_bars
    columns = ["Method", "Cost", "of which path sampling", "Wall clock"]
    columns += [f"{whose} ratio to OFA (w/ PS)" for whose in ("Our", "Paper's VOC", "Paper's COCO")]
    units = {"Cost": "s of CPU", "of which path sampling": "s of CPU", "Wall clock": "s"}
    picture = Picture("table3", "bars", {"groups": bars, "value_label": "Cost over that of OFA (w/ PS)"})
    caption = (
        "Computation to the finished supernet: warm-up, path sampling, fine-tuning of the filter, training; the "
        "hardware is that of the runs. Seconds of CPU count all threads."
    )
    if in_all(measured, "evidence", ["pruning:ours"]):
        share = over_seeds(stacked(measured, "evidence", "pruning:ours"))
        caption += (
            f" Drawing paths by score adds {share.mean:.3g} % to the fine-tuning of ours (the paper: about 10 %)."
        )
    notes = [
        "Not counted, as in the paper: pre-training on classification, and the paths sampled for the search.",
        "The warm-up that several methods share is counted for each of them.",
    ]
    return Drawn(Table(columns, rows), caption, notes, units, [picture] if bars else [])


_TABLE3 = Exhibit(
    "table3",
    "Computation cost of training the supernet",
    "seconds to the finished supernet",
    _measure_table3,
    _draw_table3,
    (
        claim(
            2,
            "Table 3, Figure 5",
            "better than OFA with shrinking at 30 % / 63 % less cost",
            [
                better("ours minus OFA (w/ PS) of three times the samples", "ours", "ofa-shrinking"),
                Condition(
                    "ratio of CPU seconds",
                    lambda evidence: evidence["cost:ours"] / evidence["cost:ofa-shrinking"],
                    "below",
                    0.70,
                    effect=0.1,
                ),
            ],
            (
                "the same",
                "shrinking took the groups of trained channels apart, and three times the epochs were judged long "
                "before the plateau",
            ),
            "0.800 vs 1.150, 5.260 vs 14.41 GPU-days",
            exhibits=("figure5",),
        ),
        claim(
            12,
            "Section 4.2",
            "path pruning costs about 10 % of the supernet's training on VOC, next to nothing on COCO",
            [
                Condition(
                    "CPU seconds of drawing paths by score, over those of the rest of the fine-tuning,",
                    lambda evidence: evidence["pruning:ours"],
                    "below",
                    10.0,
                    unit="%",
                    effect=2.0,
                ),
            ],
            paper_value="+10 %",
            level=None,
        ),
    ),
)


# ---- Figures 8 and 9: strategies and ratios of pruning

_DESIGN = ("ours", "operations-all", "paths-score", "ofa")
_EFFECTS = ("pruning operations", "pruning paths", "together")
_Panels = Mapping[str, tuple[Mapping[str, str], str]]
"""Panel -> (variant -> label, the variant that the others are compared with)."""


def _draw_panels(name: str, caption: str, panels: _Panels, measured: Sequence[Measured], setting: Setting) -> Drawn:
    rows, pictures = [], []
    for panel, (labels, reference) in panels.items():
        rows += [[panel, *row] for row in _curve_rows(measured, labels, reference)]
        pictures.append(_curve_picture(measured, labels, setting, f"{name}-{panel.lower()}"))
    compared = ", ".join(f"{labels[reference]} ({panel.lower()})" for panel, (labels, reference) in panels.items())
    if in_all(measured, "curves", list(_DESIGN)) == list(_DESIGN):
        curves = {name: stacked(measured, "curves", name, "AP") for name in _DESIGN}
        for label, gain in zip(_EFFECTS, _main_effects(curves).values(), strict=True):
            rows.append(["Main effects", label, *map(over_seeds, gain.T), over_seeds(gain), None])
    columns = ["Panel", "Method", *_budget_columns(measured, setting), "Mean", "Reference minus it"]
    units = {"Mean": "AP points", "Reference minus it": "AP points"}
    notes = [
        f"Reference: {compared}.",
        "Main effects: of pruning operations and of pruning paths, each averaged over with and without the other; "
        "together: what both bring beyond their sum.",
    ]
    return Drawn(Table(columns, rows), _FOUND + caption, notes, units, pictures)


_PANELS8: _Panels = {
    "Operations": (
        {name: LABELS[name] for name in ("operations-all", "operations-bucket", "operations-flops")} | {"ofa": "none"},
        "operations-all",
    ),
    "Paths": ({"paths-score": "score-based", "ofa": "uniform"}, "paths-score"),
}
_FIGURE8 = Exhibit(
    "figure8",
    "Methods of operation pruning and path pruning",
    "AP of the nets found, by pruning strategy",
    partial(_measure_curves, ("ours", "operations-all", "operations-bucket", "operations-flops", "paths-score", "ofa")),
    partial(_draw_panels, "figure8", "Only operations or only paths are pruned.", _PANELS8),
    (
        claim(
            6,
            "Figure 8",
            "FLOPs & score (all) is the best operation pruning; scored path pruning beats uniform sampling",
            [
                better("FLOPs & score (all) minus FLOPs", "operations-all", "operations-flops"),
                better("FLOPs & score (all) minus FLOPs & score (per bucket)", "operations-all", "operations-bucket"),
                ap_rule(f"AP by the main effect of pruning paths{OVER_BUDGETS}", lambda e: _main_effects(e)["paths"]),
            ],
            (
                "the same, but path pruning judged without operation pruning alone",
                "the runs are a 2 x 2 design: a main effect has twice the runs behind it",
            ),
            level="ofa",
        ),
    ),
)

_PANELS9: _Panels = {
    "Operations": ({"paths-score": "r_op 0", "ours": "r_op 0.3", "operations-ratio-40": "r_op 0.4"}, "ours"),
    "Paths": ({"operations-all": "r_path 0", "ours": "r_path 0.25", "paths-ratio-40": "r_path 0.4"}, "ours"),
}
_FIGURE9 = Exhibit(
    "figure9",
    "Pruning ratios for operations and paths",
    "AP of the nets found, by pruning ratio",
    partial(_measure_curves, ("ours", "operations-ratio-40", "paths-ratio-40", "paths-score", "operations-all", "ofa")),
    partial(
        _draw_panels,
        "figure9",
        "r_op is the share of each cost bucket's operations that is removed (after 10 % of all, but for r_op = 0), "
        "r_path that of its paths.",
        _PANELS9,
    ),
    (
        claim(
            7,
            "Figure 9",
            "some path pruning beats none; operation pruning matters for small paths; 40 % is too much",
            [
                ap_rule(f"AP by the main effect of pruning paths{OVER_BUDGETS}", lambda e: _main_effects(e)["paths"]),
                ap_rule(
                    "AP by the main effect of pruning operations at the smallest budget, minus that at the others,",
                    lambda e: _main_effects(e)["operations"][:, 0] - _main_effects(e)["operations"][:, 1:].mean(axis=1),
                    null="an effect that is the same everywhere",
                ),
                ap_rule(
                    f"AP of ours minus the mean of the two 40 % settings{OVER_BUDGETS}",
                    lambda e: e["ours"] - (e["operations-ratio-40"] + e["paths-ratio-40"]) / 2,
                ),
            ],
            (
                "AP of ours minus r_path = 0, minus r_op = 0 at the smallest budget, minus the 40 % settings, above 0",
                "single pairs of a 2 x 2 design; an effect at the smallest budget may be one at all of them",
            ),
            level="ofa",
        ),
    ),
)


# ---- The regime: AP against the length of training


def _measure_plateau(study: "DetOFAStudy") -> Measured:
    """AP of the full net, and of the uniform supernet's cheapest, middle and dearest path, by samples."""
    curves = [{kind: study.plateau(kind, length) for kind in ("uniform", "full")} for length in _LENGTHS]
    return {"lengths": {kind: [each[kind] for each in curves] for kind in ("full", "uniform")}}


_LENGTHS = (0.5, 1.0, 2.0)


def _draw_plateau(measured: Sequence[Measured], setting: Setting) -> Drawn:
    titles = {"full": ("Full net",), "uniform": ("Cheapest path", "Middle path", "Dearest path")}
    rows, series = [], {}
    for kind, names in titles.items():
        samples = stacked(measured, "lengths", kind)[:, :, 0].mean(axis=0)  # (lengths,)
        for place, title in enumerate(names, start=1):
            accuracy = stacked(measured, "lengths", kind)[:, :, place]  # (S, lengths)
            rows.append([title, *map(over_seeds, accuracy.T), over_seeds(accuracy[:, -1] - accuracy[:, -2])])
            series[title] = [(x / 1e3, *triple(over_seeds(at))) for x, at in zip(samples, accuracy.T, strict=True)]
    columns = ["Network", *(f"{length:g} x" for length in _LENGTHS), "Last doubling"]
    picture = Picture("plateau", "accuracy_against_cost", {"series": series, "cost_label": "Thousand samples"})
    caption = (
        "AP in points on the validation images by the length of training, 1 being the scale's: the full net alone, and "
        "paths of a supernet trained on uniform paths, both from the pre-trained backbone. No claim is judged by this "
        "seed."
    )
    return Drawn(Table(columns, rows), caption, pictures=[picture])


_PLATEAU = Exhibit(
    "plateau",
    "AP against the length of training",
    "whether doubling the training still brings AP",
    _measure_plateau,
    _draw_plateau,
    pilot=1,
)

EXHIBITS = (_TABLE1, _FIGURE5, _FIGURE6, _FIGURE7, _TABLE2, _TABLE3, _FIGURE8, _FIGURE9, _PLATEAU)


def _make_study(options: Options, seed: int, command: str) -> "DetOFAStudy":
    """The runs of one seed."""
    from detofa.study import DetOFAStudy

    return DetOFAStudy(options, seed, command)


def describe(study: "DetOFAStudy") -> str:
    """Its data and its supernet, in a phrase."""
    parameters = sum(parameter.numel() for parameter in study.detector().parameters())
    constraint, validation = study.constraint, study.sets["validation"]
    return (
        f"{len(study.training_set)} training and {len(validation)} validation images; supernet {parameters:,} "
        f"parameters, paths of {constraint.lowest:.4g} to {constraint.highest:.4g} {constraint.unit}"
    )


def _same_buckets(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Of sampled paths, buckets that a space leaves empty in some seed are dropped.

    values: of all seeds; "gain" (seeds, buckets) with NaN for an empty bucket.
    """
    if "gain" not in values:
        return dict(values)
    return {**values, "gain": values["gain"][:, np.isfinite(values["gain"]).all(axis=0)]}


PAPER = Paper("detofa", "DetOFA", FOLDER, EXHIBITS, _make_study, describe, _same_buckets)
