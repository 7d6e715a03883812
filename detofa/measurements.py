"""What each exhibit of DetOFA measures on one seed, as plain numbers that fit into JSON.

Every `measure_*` takes a `Study` and returns a dict. Its "evidence" holds the values that the claims are judged by, by
the names of detofa.claims; "missing" the variants that gave no result, with the reason; AP is in points.
"""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace

import numpy as np
from scipy.stats import kendalltau

from common.models.ofa_resnet import OFAResNetSpace
from common.plain import InputError
from common.report.statistics import kendall_tau
from common.reproduce.exhibit import Measured
from common.settings import Optimisation
from detofa.method import (
    FilterSettings,
    Operations,
    OperationScores,
    PathFilter,
    PathLosses,
    score_operations,
    train_filter,
)
from detofa.presets import PAPER
from detofa.study import VARIANTS, Study

# ------------------------------------------------------------------------------------------------------------------
# Results of variants: figures 5, 8 and 9, table 3
# ------------------------------------------------------------------------------------------------------------------


def variant_results(study: Study, names: Sequence[str]) -> tuple[dict[str, dict], dict[str, str]]:
    """The finished variants by name, trained where need be, and why the others have no result.

    A space without a path for a budget is a result of its method, and must not cost the other methods theirs.
    """
    results, missing = {}, {}
    for name in names:
        variant = VARIANTS[name]
        run = study.open(name, variant=asdict(variant))
        if run.result is None and (variant.shared_warm_up or variant.transfer):
            _ = study.warm_up if variant.shared_warm_up else study.classification  # their faults are everybody's
        try:
            results[name] = study.result(name)
        except InputError as error:
            missing[name] = str(error)
            print(f"{name}, seed {study.seed}, has no result: {error}", file=sys.stderr, flush=True)
    return results, missing


def points(records: Sequence[Mapping | None]) -> list[float]:
    """AP in points of measured networks; NaN where there is none."""
    values = [None if record is None else record.get("AP") for record in records]
    return [math.nan if value is None else 100 * value for value in values]


def costs(records: Sequence[Mapping | None]) -> list[float]:
    """Cost of measured networks; NaN where there is none."""
    values = [None if record is None else record.get("cost") for record in records]
    return [math.nan if value is None else float(value) for value in values]


def measure_curves(*names: str) -> Callable[[Study], Measured]:
    """AP and cost of the nets found for each budget in the supernets of some variants."""

    def measure(study: Study) -> Measured:
        results, missing = variant_results(study, names)
        curves, evidence = {}, {}
        for name, result in results.items():
            if "found" in result:
                curves[name] = {"AP": points(result["found"]), "cost": costs(result["found"])}
                evidence[name] = curves[name]["AP"]
        if "ours" in results:
            chance = results["ours"]["random"]
            curves["random"] = {"AP": points(chance), "cost": costs(chance)}
        measured = {"budgets": budgets(study), "curves": curves, "missing": missing, "evidence": evidence}
        if "fullnet" in results:
            full = [results["fullnet"]["full"]]
            measured["full"] = {"AP": points(full)[0], "cost": costs(full)[0]}
            evidence["full"] = points(full)[0]
        return measured

    return measure


def budgets(study: Study) -> list[float]:
    return [study.constraint.budget(share) for share in study.preset.budget_shares]


def total_seconds(parts: Mapping[str, Mapping[str, float]], kind: str = "cpu_seconds") -> float:
    """Seconds to the finished supernet; what the search samples afterwards is not part of the paper's Table 3."""
    return sum(part[kind] for name, part in parts.items() if name != "search sampling")


def measure_costs(*names: str) -> Callable[[Study], Measured]:
    """Table 3: seconds to the finished supernet."""

    def measure(study: Study) -> Measured:
        results, missing = variant_results(study, names)
        spent = {}
        for name, result in results.items():
            parts = result["costs"]
            spent[name] = {
                "cpu": total_seconds(parts),
                "wall": total_seconds(parts, "seconds"),
                "sampling": parts["sampling"]["cpu_seconds"] if "sampling" in parts else None,
            }
        evidence = {f"cost:{name}": value["cpu"] for name, value in spent.items()}
        return {"spent": spent, "missing": missing, "evidence": evidence}

    return measure


# ------------------------------------------------------------------------------------------------------------------
# Table 1
# ------------------------------------------------------------------------------------------------------------------


def space_sizes(space: OFAResNetSpace) -> dict[str, dict[str, int]]:
    """Exact number of paths of OFA's space and of CompOFA*'s, alone and times the choices of an elastic stem."""
    stem = math.prod(len(choice) for choice in replace(space, elastic_stem=True).choices[space.stem_columns])
    sizes = {"OFA": Operations.all(space).size(), "CompOFA*": Operations.compound(space).size()}
    return {name: {"backbone": size, "with stem": size * stem} for name, size in sizes.items()}


def printed_sizes() -> dict[str, int]:
    """What the formulas printed in Table 1 evaluate to; CompOFA*'s to the fourth power, one factor a block."""
    ofa = math.prod(3**layers + 3**layers for layers in (2, 3, 4)) ** 4
    return {"OFA": ofa, "CompOFA*": sum(3**layers for layers in (2, 3, 4)) ** 4}


def measure_sizes(study: Study) -> Measured:
    return {
        "paper": space_sizes(PAPER.space),
        "scale": space_sizes(study.space),
        "formula": printed_sizes(),
        "evidence": {},
    }


# ------------------------------------------------------------------------------------------------------------------
# Table 2
# ------------------------------------------------------------------------------------------------------------------

ABLATIONS = {  # in the order of the paper's rows
    "unbounded": {"bounded_loss": False},
    "no-budget": {"budget_condition": False},
    "no-block": {"block_position": False},
    "ours": {},
}


def weakest_quarter(badness: np.ndarray, buckets: np.ndarray) -> np.ndarray:
    """(P,) bool: the quarter of each bucket's paths with the highest badness; ties by position."""
    weak = np.zeros(len(badness), dtype=bool)
    for bucket in np.unique(buckets):
        members = np.flatnonzero(buckets == bucket)
        worst_first = members[np.argsort(-badness[members], kind="stable")]
        weak[worst_first[: round(len(members) / 4)]] = True
    return weak


def detection_of_weak(scores: np.ndarray, losses: np.ndarray, buckets: np.ndarray) -> dict[str, float]:
    """Table 2's numbers for scores (P,) of paths with losses (P,) in cost buckets (P,).

    accuracy, precision, recall (found weak / weak), found (found weak / all paths) of finding the weakest quarter of
    each bucket, and Kendall's tau of the ranking inside buckets.
    """
    flagged, weak = weakest_quarter(-scores, buckets), weakest_quarter(losses, buckets)
    found = np.count_nonzero(flagged & weak)
    return {
        "accuracy": float((flagged == weak).mean()),
        "precision": found / max(1, np.count_nonzero(flagged)),
        "recall": found / max(1, np.count_nonzero(weak)),
        "found": found / len(scores),
        "tau": kendall_tau(scores, -losses, groups=buckets, replicates=1).mean,
    }


def folds_of(buckets: np.ndarray, folds: int, generator: np.random.Generator) -> np.ndarray:
    """(P,) int64: the fold of each path, every bucket spread evenly over the folds."""
    order = generator.permutation(len(buckets))
    order = order[np.argsort(buckets[order], kind="stable")]
    fold = np.empty(len(buckets), dtype=np.int64)
    fold[order] = np.arange(len(buckets)) % folds
    return fold


def cross_validated_scores(study: Study, name: str, settings: FilterSettings) -> dict[str, list]:
    """Scores of the warm-up's paths, each by a filter that was fine-tuned on the other folds.

    All folds start from one filter, pre-trained with the same ablation on paths of the classification supernet.
    """
    run = study.open(f"filter-ablation-{name}", filter=asdict(settings))
    if run.result is not None:
        return run.result
    pretrained, data = study.new_filter(settings), study.warm_up[2]

    def train(stage: str, path_filter: PathFilter, losses: PathLosses, optimisation: Optimisation) -> None:
        space, constraint = study.space, study.constraint
        train_filter(run, stage, path_filter, losses, space, constraint, optimisation, study.seed, study.device)

    train("pretraining", pretrained, study.classification[1], settings.pretraining)
    buckets = study.constraint.bucket(data.paths)
    fold = folds_of(buckets, study.preset.filter_folds, np.random.default_rng([study.seed, 2]))
    scores = np.empty(len(fold))
    for held_out in range(study.preset.filter_folds):
        path_filter = study.new_filter(settings)
        path_filter.load_state_dict(pretrained.state_dict())
        inside = fold != held_out
        chosen = PathLosses(data.paths[inside], data.losses[inside])
        train(f"fold-{held_out}", path_filter, chosen, settings.fine_tuning)
        scores[~inside] = study.scorer(path_filter)(data.paths[~inside])
    run.finish({"scores": scores, "losses": data.losses, "buckets": buckets, "fold": fold})
    return run.result


def measure_ablations(study: Study) -> Measured:
    """Table 2 on one seed."""
    numbers = {}
    for name, change in ABLATIONS.items():
        scored = cross_validated_scores(study, name, replace(study.preset.path_filter, **change))
        arrays = (np.asarray(scored[key]) for key in ("scores", "losses", "buckets"))
        numbers[name] = detection_of_weak(*arrays)
    evidence = {f"precision:{name}": value["precision"] for name, value in numbers.items()}
    return {"numbers": numbers, "evidence": evidence}


# ------------------------------------------------------------------------------------------------------------------
# Figures 6 and 7
# ------------------------------------------------------------------------------------------------------------------


def measure_sampled(*names: str) -> Callable[[Study], Measured]:
    """Figure 6: AP and cost of uniformly sampled paths, and their mean AP in each bucket."""

    def measure(study: Study) -> Measured:
        _, missing = variant_results(study, names)
        constraint = study.constraint
        sampled, evidence = {}, {}
        for name in (name for name in names if name not in missing):
            records = study.sampled(name)
            sampled[name] = {
                "AP": points(records),
                "cost": costs(records),
                "bucket": [r.get("bucket") for r in records],
            }
            evidence[f"sampled:{name}"] = bucket_means(sampled[name], constraint.buckets)
        edges = np.linspace(constraint.lowest, constraint.highest, constraint.buckets + 1).tolist()
        return {"sampled": sampled, "edges": edges, "missing": missing, "evidence": evidence}

    return measure


def bucket_means(sampled: Mapping[str, Sequence], buckets: int) -> list[float]:
    """Mean AP of the paths of each bucket; NaN for a bucket without any."""
    accuracy = np.array(sampled["AP"], dtype=float)
    bucket = np.array([-1 if value is None else value for value in sampled["bucket"]])
    inside = [accuracy[(bucket == which) & np.isfinite(accuracy)] for which in range(buckets)]
    return [float(values.mean()) if len(values) else math.nan for values in inside]


def tau_within_blocks(scores: OperationScores, layer_block: np.ndarray) -> list[float]:
    """(blocks,) Kendall's tau-b of operation score with operation cost, among the operations of each block.

    Scores that are all tied follow nothing: tau 0.
    """
    block = layer_block[scores.index[:, 0]]
    taus = (kendalltau(scores.score[block == which], scores.cost[block == which])[0] for which in np.unique(block))
    return [0.0 if math.isnan(tau) else float(tau) for tau in taus]


def measure_operation_scores(study: Study) -> Measured:
    """Figure 7: operation scores after pre-training on classification, and after the warm-up on detection."""
    filters = {"classification": study.pretrained_filter[0], "detection": study.warm_up[1]}
    everything = Operations.all(study.space)
    shown, evidence = {}, {}
    for name, path_filter in filters.items():
        generator = np.random.default_rng([study.seed, 7])  # both filters score the same paths
        scores = score_operations(everything, study.scorer(path_filter), study.preset.operation_samples, generator)
        taus = tau_within_blocks(scores, study.space.layer_stage)
        shown[name] = {"score": scores.score.tolist(), "tau": taus}
        evidence[f"tau:{name}"] = float(np.mean(taus))
    return {"supernets": shown, "index": np.argwhere(everything.allowed).tolist(), "evidence": evidence}
