"""What each exhibit of SM-NAS measures on one seed, as plain numbers that fit into JSON.

Every `measure_*` takes a `Study` and returns a dict. Its "evidence" holds the values that the claims are judged by, by
the names of sm_nas.claims. AP is in points, latency in milliseconds, hypervolumes in AP points (see `hypervolumes`).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from common.cli import short_name
from common.report.statistics import kendall_tau
from common.reproduce.exhibit import Measured
from common.search.pareto import hypervolume, pareto_front
from sm_nas.method import STANDARD_BACKBONES, BackboneCode, Evaluated, History, Structure
from sm_nas.presets import PAPER, Preset
from sm_nas.study import FLOPS, LATENCY, Searched, Study
from sm_nas.trial import describe_backbone, parameters

COCO_CLASSES = 80
COCO_NUMBERS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
STANDARD_OF = {"E0": "resnet18", "E1": "resnet34", "E2": "resnet34", "E3": "resnet101"} | dict.fromkeys(
    ("E4", "E5"), "resnext101_32x4d"
)
"""The standard backbone that Table 2 compares each searched one with."""
TRANSFERRED = ("E0", "E1", "E3")
FACTORS = ("depth", "width", "DC_1", "DC_2", "DC_3", "len_1", "len_2", "len_3", "len_4")

# ------------------------------------------------------------------------------------------------------------------
# Trained detectors: tables 1, 2, 4 and 5, figure 1
# ------------------------------------------------------------------------------------------------------------------


def numbers(result: Mapping[str, Any]) -> dict[str, Any]:
    """What tables show of a trained detector."""
    points = {name: _points(result.get(name)) for name in COCO_NUMBERS}
    kept = ("structure", "latency", "macs", FLOPS, "params", "backbone_macs_mmdet", "seconds")
    return points | {name: result.get(name) for name in kept}


def _points(share: float | None) -> float:
    return math.nan if share is None else 100 * share


def trained(study: Study, exhibit: str, structures: Mapping[str, Structure]) -> dict[str, dict[str, Any]]:
    """Detectors trained to the end that an exhibit compares, by their names."""
    return {name: numbers(result) for name, result in study.finals(exhibit, structures).items()}


def searched_models(study: Study) -> dict[str, Structure]:
    """F0, F1, ... that both stages found, and the structures C0, C1, ... that stage one did."""
    return {f"C{place}": each.structure for place, each in enumerate(study.picks)} | study.found()


def measure_table1(study: Study) -> Measured:
    """Experiments 1 to 6: two detectors on each of two data sets; a light cascade against a heavy plain detector."""
    classics, second = dict(study.preset.classics), None
    pair = {name: classics[name] for name in ("FPN R50", "RetinaNet R50")}
    own = trained(study, "table1", pair | {name: classics[name] for name in ("FPN R101", "Cascade R50")})
    if study.second_data is not None:
        second = trained(study.on(study.second_data), "table1", pair)
    evidence = {
        "cascade AP": own["Cascade R50"]["AP"] - own["FPN R101"]["AP"],
        "cascade time": own["Cascade R50"]["latency"] / own["FPN R101"]["latency"],
        "FPN AP": own["FPN R50"]["AP"] - own["RetinaNet R50"]["AP"],
        "RetinaNet time": own["RetinaNet R50"]["latency"] / own["FPN R50"]["latency"],
    }
    if second is not None:
        evidence["RetinaNet time, second data"] = second["RetinaNet R50"]["latency"] / second["FPN R50"]["latency"]
    name = None if second is None else short_name(study.second_data)
    return {"own": own, "second": second, "second_data": name, "evidence": evidence}


def measure_table2(study: Study) -> Measured:
    """E0 to E5 as this scale has them, and what was found here, each beside a standard backbone's cost."""
    searched, own, counted = searched_models(study), dict(study.preset.models), {}
    every = trained(study, "table2", own | searched)
    models, found = ({name: every[name] for name in names} for names in (own, searched))
    for name, record in models.items():
        record["of_standard"] = _share_of_standard(study, record, STANDARD_OF[name])
    for place, each in enumerate(study.picks):
        if f"F{place}" in found and each.structure.backbone in STANDARD_BACKBONES:
            record = found[f"F{place}"]
            record["of_standard"] = _share_of_standard(study, record, each.structure.backbone)
    for name, structure in PAPER.models:
        backbone, standard = (
            describe_backbone(each, PAPER)["backbone_macs_mmdet"]
            for each in (structure, _with_backbone(structure, STANDARD_OF[name]))
        )
        params = parameters(structure, COCO_CLASSES, PAPER)
        counted[name] = {"backbone": backbone, "of_standard": backbone / standard, "params": params}
    return {"models": models, "found": found, "counted": counted, "evidence": {}}


def _share_of_standard(study: Study, record: Mapping[str, Any], standard: str) -> float:
    structure = _with_backbone(Structure.parse(record["structure"]), standard)
    return record["backbone_macs_mmdet"] / describe_backbone(structure, study.preset)["backbone_macs_mmdet"]


def _with_backbone(structure: Structure, backbone: str) -> Structure:
    return Structure(**(vars(structure) | {"backbone": backbone}))


def measure_table3(study: Study) -> Measured:
    """The eight ways to train a detector."""
    rows = [numbers(study.strategy(row)) for row in range(len(study.preset.strategies))]
    return {"rows": rows, "evidence": {"strategies": [row["AP"] for row in rows]}}


def measure_comparison(study: Study) -> Measured:
    """Table 4 and Figure 1: E0 to E5, what was found here, and the classic detectors."""
    groups = dict(study.preset.models), dict(study.preset.classics), searched_models(study)
    every = trained(study, "comparison", {name: each for group in groups for name, each in group.items()})
    models, classics, found = ({name: every[name] for name in group} for group in groups)
    evidence = {
        "dominated": dominated_share(classics.values(), models.values()),
        "hypervolume ratio": _hypervolume_ratio(list(models.values()), list(classics.values())),
    }
    return {"models": models, "classics": classics, "found": found, "evidence": evidence}


def dominated_share(them: Iterable[Mapping[str, Any]], us: Iterable[Mapping[str, Any]]) -> float:
    """Share of `them` for whom one of `us` is at least as accurate and no slower, and better in one of both."""
    us, them = list(us), list(them)

    def beaten(one: Mapping[str, Any]) -> bool:
        return any(
            other["AP"] >= one["AP"]
            and other["latency"] <= one["latency"]
            and (other["AP"], other["latency"]) != (one["AP"], one["latency"])
            for other in us
        )

    return sum(map(beaten, them)) / len(them)


def _hypervolume_ratio(us: Sequence[Mapping[str, Any]], them: Sequence[Mapping[str, Any]]) -> float:
    slowest = max(one["latency"] for one in (*us, *them))
    areas = [
        hypervolume([one["latency"] for one in group], [one["AP"] for one in group], (1.0001 * slowest, 0.0))
        for group in (us, them)
    ]
    return areas[0] / areas[1] if areas[1] else math.nan


def measure_table5(study: Study) -> Measured:
    """E0, E1 and E3 on another data set than they were found on, at its own input sizes, beside plain detectors."""
    there = study if study.second_data is None else study.on(study.second_data)
    compared, classics, evidence = transferred(study.preset), dict(study.preset.classics), {}
    searched = {name: structure for models in compared.values() for name, structure in models.items()}
    every = trained(there, "table5", {name: classics[name] for name in compared} | searched)
    rows = {
        baseline: {baseline: every[baseline]} | {name: every[n] for name, n in zip(TRANSFERRED, models, strict=True)}
        for baseline, models in compared.items()
    }
    if study.second_data is not None:
        evidence = {
            f"transfer:{name}": rows["FPN R50"][name]["AP"] - rows["FPN R50"]["FPN R50"]["AP"] for name in TRANSFERRED
        }
    return {"data": short_name(there.data), "rows": rows, "evidence": evidence}


def transferred(preset: Preset) -> dict[str, dict[str, Structure]]:
    """The plain detectors of Table 5, each with E0, E1 and E3 at its input size, by what those are called there."""
    known = dict((*preset.models, *preset.classics))

    def at(name: str, size: tuple[int, int]) -> tuple[str, Structure]:
        structure = Structure(**(vars(known[name]) | {"size": size}))
        return (name if structure == known[name] else f"{name} {size[0]}x{size[1]}"), structure

    return {
        baseline: dict(at(name, known[baseline].size) for name in TRANSFERRED) for baseline in ("FPN R50", "FPN R101")
    }


# ------------------------------------------------------------------------------------------------------------------
# Searches: figures 3, 4 and 5
# ------------------------------------------------------------------------------------------------------------------


def candidates(history: History, searched: Searched) -> list[dict[str, Any]]:
    """The candidates of a search in their order; NaN for what failed."""

    def record(each: Evaluated) -> dict[str, Any]:
        measured = searched.measured(each.structure)
        kept = {name: measured.get(name, math.nan) for name in (LATENCY, FLOPS, "params")}
        return {
            "structure": str(each.structure),
            "AP": 100 * each.accuracy,
            "cost": each.cost,
            "generation": each.generation,
            **kept,
        }

    return [record(each) for each in history.evaluated]


def hypervolumes(records: Sequence[Mapping[str, Any]], dearest: float) -> list[float]:
    """After each candidate, the area under the front so far, over cost from 0 to `dearest`: AP points on average."""
    costs = np.array([one["cost"] for one in records]) / dearest
    accuracies = np.array([one["AP"] for one in records])
    return [hypervolume(costs[:count], accuracies[:count], (1.0, 0.0)) for count in range(1, len(records) + 1)]


def search_numbers(searched: Searched) -> dict[str, Any]:
    """Candidates of a search and of random search, and how their fronts grew."""
    both = {"found": candidates(searched.found, searched), "random": candidates(searched.random, searched)}
    dearest = 1.0001 * np.nanmax([one["cost"] for records in both.values() for one in records])
    grown = {name: hypervolumes(records, dearest) for name, records in both.items()}
    return both | {"hypervolume": grown, "dearest": float(dearest), "skipped": len(searched.found.skipped)}


def measure_figure3(study: Study) -> Measured:
    """Stage one: all candidates, the picks, every backbone within one structure, and the longer trainings."""
    searched = search_numbers(study.stage_one)
    backbones = {
        name: {"AP": _points(record.get("AP")), LATENCY: record.get(LATENCY), FLOPS: record.get(FLOPS)}
        for name, record in study.backbones.items()
    }
    longer = [
        {**one, "short": _points(one["short"]), "long": _points(one["long"])}
        for one in study.longer
        if one["short"] is not None and one["long"] is not None
    ]
    evidence = {
        "stage one": searched["hypervolume"]["found"][-1] - searched["hypervolume"]["random"][-1],
        "tau": kendall_tau([one["short"] for one in longer], [one["long"] for one in longer], replicates=1).mean,
    }
    evidence |= mobilenet_evidence(backbones)
    picks = {f"C{place}": str(each.structure) for place, each in enumerate(study.picks)}
    return {**searched, "picks": picks, "backbones": backbones, "longer": longer, "evidence": evidence}


def mobilenet_evidence(backbones: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """MobileNetV2 against the other backbones within one structure.

    FLOPs: as a share of the least of theirs. behind: how much the best of those that are no slower is more accurate;
    minus its own AP, where none is as fast. Backbones whose training failed are left out; nothing can be said where
    that leaves MobileNetV2 or all others out.
    """
    trained = {name: record for name, record in backbones.items() if math.isfinite(record["AP"])}
    own = trained.pop("mobilenet_v2", None)
    others = list(trained.values())
    if own is None or not others:
        return {}
    as_fast = [record["AP"] for record in others if record[LATENCY] <= own[LATENCY]]
    return {
        "mobilenet FLOPs": own[FLOPS] / min(record[FLOPS] for record in others),
        "mobilenet behind": max(as_fast, default=0.0) - own["AP"],
    }


def measure_figure4(study: Study) -> Measured:
    """Stage two: the candidates of every group, and what it adds once all is trained to the end."""
    groups = {f"C{place}": search_numbers(study.stage_two(place)) for place in range(len(study.picks))}
    finals = {name: numbers(study.final(name, structure)) for name, structure in searched_models(study).items()}
    pushed = [finals[f"F{place}"]["AP"] - finals[f"C{place}"]["AP"] for place in range(len(study.picks))]
    grown = [one["hypervolume"]["found"][-1] - one["hypervolume"]["random"][-1] for one in groups.values()]
    evidence = {"pushed": float(np.mean(pushed)), "stage two": float(np.mean(grown))}
    return {"groups": groups, "finals": finals, "evidence": evidence}


def measure_figure5(study: Study) -> Measured:
    """Spearman's rank correlation of factors of the architecture with AP, among the candidates of stage two."""
    by_group = []
    for place in range(len(study.picks)):
        searched = study.stage_two(place)
        by_group.append({str(e.structure): e for e in (*searched.found.evaluated, *searched.random.evaluated)})
    correlations = [factor_correlations(list(group.values())) for group in by_group]
    every = {name: _mean([one[name] for one in correlations]) for name in FACTORS}
    largest = correlations[-1]
    evidence = {
        "depth": every["depth"],
        "doubling": _mean([every[f"DC_{place}"] for place in (1, 2, 3)]),
        "late": every["len_4"] - every["len_1"],
    }
    return {"every": every, "largest": largest, "candidates": [len(group) for group in by_group], "evidence": evidence}


def factor_correlations(evaluated: Sequence[Evaluated]) -> dict[str, float]:
    """Each of FACTORS -> its rank correlation with AP; 0 for a factor that all candidates share."""
    trained = [each for each in evaluated if math.isfinite(each.accuracy)]
    factors = [factors_of(BackboneCode.parse(each.structure.backbone)) for each in trained]
    accuracy = [each.accuracy for each in trained]
    found = {}
    for name in FACTORS:
        values = [one[name] for one in factors]
        varied = len(set(values)) > 1 and len(set(accuracy)) > 1
        found[name] = float(spearmanr(values, accuracy).statistic) if varied else 0.0
    return found


def factors_of(code: BackboneCode) -> dict[str, float]:
    """Figure 5's factors of a backbone.

    depth: blocks; width: base channels; DC_x: where the channels double for the x-th time, as a share of all blocks;
    len_x: the x-th stage's share of all blocks.
    """
    doublings = {f"DC_{place}": at / code.blocks for place, at in enumerate(code.doublings, start=1)}
    lengths = {f"len_{place}": len(stage) / code.blocks for place, stage in enumerate(code.stages, start=1)}
    return {"depth": code.blocks, "width": code.base, **doublings, **lengths}


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def front_of(records: Sequence[Mapping[str, Any]], cost: str = "cost") -> list[int]:
    """Places of the candidates on the front, by cost."""
    return pareto_front([one[cost] for one in records], [one["AP"] for one in records]).tolist()


def runs_of_searches(preset: Preset) -> tuple[str, ...]:
    """Names of the search runs of a scale."""
    return ("stage-one", *(f"stage-two-c{place}" for place in range(preset.groups)))
