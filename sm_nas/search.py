"""Search detectors from coarse to fine, for one seed: python -m sm_nas.search --scale nano --data scenes

Stage one searches which modules go together; stage two, within some structures of its front, the backbone and the
pyramid's width. What was found is trained by the final schedule, and each network written as a detector that
`common.models.detector.load_detector` reads. The same command again goes on from where it stopped.
"""

import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from common.cli import Switch, command, run, show, typed_command
from common.plain import InputError
from sm_nas.encoding import BLOCK_OF, BackboneCode, Structure
from sm_nas.method import FLOPS, LATENCY, Evaluated, ModularSpace, structural_to_modular
from sm_nas.presets import Preset, SearchOptions

if TYPE_CHECKING:
    from sm_nas.study import SMNAS, Searched

SAMPLE = 200
"""Candidates of a space whose backbones --describe counts."""
WHY_NOT_5E12 = (
    "the paper's text bounds neither how many blocks there are nor how often channels double; with 5 to 35 blocks and "
    "exactly three doublings, as in every network that it prints, there are so many codes and neck widths for one kind "
    "of block, and no reading of it that was tried gives 5.0e12"
)


@dataclass(frozen=True, kw_only=True)
class Options(SearchOptions):
    """Search detectors in both stages, train what is found, and write it to disk."""

    DESCRIBED: ClassVar[str] = "paper"

    seed: int = 0
    """Seed of weights, data order and search."""
    stage: Literal["both", "one"] = "both"
    """Both stages, or the structural search alone."""
    final: bool = True
    """Train what was found by the final schedule, and write it as detectors."""
    describe: Switch = False
    """Print both search spaces (of the paper's scale unless --scale is given) and search nothing."""
    json: Switch = False
    """Print one JSON object instead of text."""


def main(options: Options) -> None:
    """Describe; or search, train, write, report."""
    if options.describe:
        show(describe(options.preset), options.json, _description_text)
        return

    from common.train import distributed
    from sm_nas.study import SMNAS

    study, preset = SMNAS(options, options.seed, typed_command()), options.preset
    if distributed.size() > 1:  # each would measure latencies of its own and so go another way
        raise InputError("a search cannot run under torchrun: start one process, with --workers for several candidates")
    images = len(study.training_set)  # whatever is wrong with the data is said before anything is made
    print(
        f"{preset.name} scale on {images} images of {study.data}, seed {study.seed}, into {study.folder}, on "
        f"{study.device}: {preset.structural.count():,} structures, of which {preset.stage_one.budget} are trained; "
        f"within each of {preset.groups} {preset.modular.count():,} codes, of which {preset.stage_two.budget}",
        file=sys.stderr,
    )
    began = time.perf_counter()
    report = search(study, options.stage == "both", options.final)
    report |= {"seconds": time.perf_counter() - began, "next": _next(options, bool(report["found"]))}
    show(report, options.json, _report_text)


# ---- searching


def search(study: "SMNAS", both: bool = True, final: bool = True) -> dict[str, Any]:
    """Everything that the searches found.

    "stage_one" and each of "groups" hold a front: structures with cost and AP, from the cheapest on. "found" holds a
    network of each group; with `final`, "final" of it says what the final schedule made of it, and "file" where it is.
    Raises `InputError` where no candidate of stage one could be measured.
    """
    one, picks = study.stage_one, study.picks
    if not picks:
        reason = min(str(record.get("reason")) for record in one.pool.values())
        raise InputError(f"all candidates of stage one failed ({reason}): see {study.run_path('stage-one')}")
    names = {each.structure: f"C{place}" for place, each in enumerate(picks)}
    report = {
        "paper": "sm_nas",
        "scale": study.preset.name,
        "data": study.data,
        "seed": study.seed,
        "folder": study.folder,
        "stage_one": {
            "cost": LATENCY,
            "unit": "ms",
            **_searched(one),
            "front": [_member(one, each) | {"pick": names.get(each.structure)} for each in one.found.front()],
        },
        "groups": [],
        "found": [],
    }
    if both:
        report["groups"] = [_group(study, place, each.structure) for place, each in enumerate(picks)]
        report["found"] = list(
            structural_to_modular(
                study.preset,
                lambda stage: study.searched(stage).found,
                study.flops,
                lambda name, structure: _found(study, name, structure, final),
            ).values()
        )
    return report


def _group(study: "SMNAS", place: int, structure: Structure) -> dict[str, Any]:
    searched = study.stage_two(place)
    first = searched.found.evaluated[0].structure
    return {
        "name": f"C{place}",
        "structure": str(structure),
        "cost": FLOPS,
        "unit": "MAC",
        **_searched(searched),
        "front": [_member(searched, each) | {"start": each.structure == first} for each in searched.found.front()],
    }


def _searched(searched: "Searched") -> dict[str, Any]:
    """How many candidates there were, and the front that random search found with as many."""
    return {
        "evaluated": len(searched.found.evaluated),
        "failed": sum(not math.isfinite(each.accuracy) for each in searched.found.evaluated),
        "skipped": len(searched.found.skipped),
        "trained": len(searched.pool),
        "random_front": [_member(searched, each) for each in searched.random.front()],
    }


def _member(searched: "Searched", each: Evaluated) -> dict[str, Any]:
    measured = searched.pool[each.structure]
    kept = (LATENCY, "macs", FLOPS, "params", "backbone_macs_mmdet")
    return {
        "structure": str(each.structure),
        "cost": each.cost,
        "AP": each.accuracy,
        "generation": each.generation,
        **{name: measured.get(name) for name in kept},
    }


def _found(study: "SMNAS", name: str, structure: Structure, final: bool) -> dict[str, Any]:
    """A network that stage two handed on: AP on held-out training images, then what the final schedule made of it."""
    searched = study.stage_two(int(name[1:]))
    each = next(each for each in searched.found.evaluated if each.structure == structure)
    network = {"name": name, "group": f"C{name[1:]}", **_member(searched, each)}
    if not final:
        return network
    what = f"final-{name.lower()}"
    return network | {
        "final": study.final(name, structure),
        "run": study.run_path(what),
        "file": study.write_detector(what, study.preset.final_training),
    }


def _next(options: Options, found: bool) -> str:
    """What to type after the search: the exhibits that stand on these very runs, or the rest of the search."""
    if not (found and options.final):
        whole = replace(options, stage="both", final=True)
        return command("sm_nas.search", whole, leave_out=("json",))

    from sm_nas import reproduce

    shared = {name: getattr(options, name) for name in ("scale", "preset", "data", "out", "device", "precision")}
    figures = reproduce.Options(
        **shared, workers=options.workers, seeds=options.seed + 1, only=("figure3", "figure4")
    )  # this seed among them
    return command("sm_nas.reproduce", figures)


# ---- the report


def _report_text(report: Mapping[str, Any]) -> str:
    one = report["stage_one"]
    lines = [
        f"stage one: {_counts(one)}; front, random search's has {len(one['random_front'])}",
        f"  {'':<4}{'ms':>9}{'AP':>7}  structure",
        *(
            f"  {each['pick'] or '':<4}{each[LATENCY]:>9.2f}{_points(each['AP']):>7}  {each['structure']}"
            for each in one["front"]
        ),
    ]
    for group in report["groups"]:
        lines += [
            f"stage two within {group['name']}, {group['structure']}: {_counts(group)}",
            f"  {'':<4}{'G MAC':>9}{'AP':>7}  structure",
            *(
                f"  {'from' if each['start'] else '':<4}{each[FLOPS] / 1e9:>9.4g}{_points(each['AP']):>7}  "
                f"{each['structure']}"
                for each in group["front"]
            ),
        ]
    if report["found"]:
        lines += [
            "found: AP on held-out training images, and on the validation images after the final schedule",
            f"  {'':<4}{'G MAC':>9}{'AP':>7}{'final':>7}{'ms':>9}  structure",
        ]
    for network in report["found"]:
        final = network.get("final")
        measured = f"{'-':>7}{'-':>9}" if final is None else f"{_points(final['AP']):>7}{final[LATENCY]:>9.2f}"
        lines.append(
            f"  {network['name']:<4}{_billions(network[FLOPS]):>9}{_points(network['AP']):>7}{measured}  "
            f"{network['structure']}"
        )
    lines += [f"detector {network['name']}: {network['file']}" for network in report["found"] if "file" in network]
    return "\n".join([*lines, f"{report['seconds']:.0f} s, runs: {report['folder']}", f"next: {report['next']}"])


def _counts(searched: Mapping[str, Any]) -> str:
    parts = [f"{searched['evaluated']} candidates"]
    parts += [f"{searched[what]} {what}" for what in ("failed", "skipped") if searched[what]]
    return ", ".join(parts)


def _points(share: float | None) -> str:
    return "failed" if share is None else f"{100 * share:.1f}"


def _billions(operations: float | None) -> str:
    return "-" if operations is None else f"{operations / 1e9:.4g}"


# ---- the search spaces


def describe(preset: Preset) -> dict[str, Any]:
    """Both search spaces of a scale: exact sizes, costs of a sample, and how candidates are written."""
    generator = np.random.default_rng(0)
    structural, modular = preset.structural, preset.modular
    structures = [structural.sample(generator) for _ in range(SAMPLE)]
    within = {BLOCK_OF[each]: replace(preset.strategy_model, backbone=each) for each in structural.backbones}
    coded = {
        block: [modular.sample(structure, generator) for _ in range(SAMPLE)] for block, structure in within.items()
    }
    # The standard backbones as codes: apart from their stems, and MobileNetV2's own widths, they are those networks.
    standard = [
        replace(each, backbone=str(BackboneCode.standard(each.backbone, preset.detector.width))) for each in structures
    ]
    example = modular.mutate(modular.start(preset.strategy_model), generator)
    return {
        "paper": "sm_nas",
        "scale": preset.name,
        "stage_one": {
            "space": asdict(structural),
            "size": structural.count(),
            "printed": {"size": "1.1e4", "where": "Architecture Search Details"},
            "cost": _cost_range(standard),
            "encoding": {
                "form": "BACKBONE WIDTHxHEIGHT Pa-Pb cCHANNELS RPN HEAD",
                "meaning": "P1 has stride 4, P4 stride 32, P5 and P6 lie past the backbone; no-fpn in the place of "
                "levels and channels; RPN is rpn or ga-rpn; HEAD is 2fc, cascade2 to cascade4, or retinanet, which "
                "has no RPN",
                "example": str(structures[0]),
            },
        },
        "stage_two": {
            "space": asdict(modular),
            "size": modular.count(),
            "codes": modular.count() // len(modular.neck_widths),
            "printed": {
                "size": "5.0e12",
                "where": "Architecture Search Details",
                "size_at_paper_scale": ModularSpace().count(),
                "why_another": WHY_NOT_5E12,
            },
            "cost": {block: _cost_range(some) for block, some in coded.items()},
            "encoding": {
                "form": "BLOCK_BASE_STAGE-STAGE-STAGE-STAGE in the place of BACKBONE",
                "meaning": "1 is a block that keeps the channels, 2 one that doubles them for itself and all later "
                "ones; - separates stages of strides 4, 8, 16 and 32; exactly three 2, no stage empty",
                "blocks": sorted(within),
                "example": str(example),
                "widths": BackboneCode.parse(example.backbone).widths,
            },
        },
    }


def _cost_range(coded: Sequence[Structure]) -> dict[str, Any]:
    """Of backbones that are written as codes, each at its structure's own input size."""
    costs = [BackboneCode.parse(each.backbone).macs(each.input_size) for each in coded]
    sizes = sorted({each.input_size for each in coded})
    where = f"{sizes[0][0]}x{sizes[0][1]}" + (f" to {sizes[-1][0]}x{sizes[-1][1]}" if len(sizes) > 1 else "")
    sample = f"backbones, written as codes, of {len(costs):,} random candidates at {where} pixels"
    return {"lowest": min(costs), "highest": max(costs), "unit": "MAC", "of": sample}


def _description_text(description: Mapping[str, Any]) -> str:
    one, two = description["stage_one"], description["stage_two"]

    def costs(ranges: Mapping[str, Mapping[str, Any]]) -> list[str]:
        return [
            f"  {name}{part['lowest'] / 1e9:.4g} to {part['highest'] / 1e9:.4g} G MAC ({part['of']})"
            for name, part in ranges.items()
        ]

    return "\n".join(
        [
            f"stage one at {description['scale']} scale: {one['size']:,} structures "
            f"(printed: {one['printed']['size']})",
            *costs({"": one["cost"]}),
            f"  written {one['encoding']['form']}: {one['encoding']['meaning']}",
            f"  example {one['encoding']['example']}",
            f"stage two: {two['size']:,} codes with a neck width, {two['codes']:,} codes "
            f"(printed: {two['printed']['size']})",
            f"  at paper scale {two['printed']['size_at_paper_scale']:,}: {two['printed']['why_another']}",
            *costs({f"{block} ": part for block, part in two["cost"].items()}),
            f"  written {two['encoding']['form']}: {two['encoding']['meaning']}",
            f"  example {two['encoding']['example']}, of channels {two['encoding']['widths']}",
        ]
    )


if __name__ == "__main__":
    run(main, Options)
