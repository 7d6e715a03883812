"""Search detectors from coarse to fine, for one seed: python -m sm_nas.search --scale nano --data scenes

Stage one searches which modules go together; stage two, within some structures of its front, the backbone and the
pyramid's width. What was found is trained by the final schedule, and each network written as a detector that
`common.models.detector.load_detector` reads. The same command again goes on from where it stopped.
"""

import json
import shlex
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from common.cli import flags_given, run
from common.plain import InputError, to_json
from common.settings import Precision
from common.train import distributed
from common.train.run_folder import describe_environment
from sm_nas.method import BLOCK_OF, BackboneCode, Evaluated, ModularSpace, Structure
from sm_nas.networks import input_size
from sm_nas.presets import PRESETS, Preset, preset
from sm_nas.study import FLOPS, LATENCY, Searched, Study, slug
from sm_nas.train import write_detector
from sm_nas.trial import describe_backbone

SAMPLE = 16  # structures of a space whose backbones --describe counts
WHY_NOT_5E12 = (
    "the paper's text bounds neither how many blocks there are nor how often channels double; with 5 to 35 blocks and "
    "exactly three doublings, as in every network that it prints, there are so many codes and neck widths for one kind "
    "of block, and no reading of it that was tried gives 5.0e12"
)


@dataclass(frozen=True)
class SearchCommand:
    """Search detectors in both stages, train what is found, and write it to disk."""

    scale: Literal[tuple(PRESETS)] | None = None
    """Size of everything: smoke, nano, mini or paper (none: smoke; paper with --describe)."""
    data: str = "scenes"
    """Detection set: scenes (built in), coco:DIR, voc:DIR or bdd:DIR."""
    seed: int = 0
    """Seed of weights, data order and search."""
    out: Path = Path("runs")
    """Folder of all runs; these go to OUT/sm_nas/DATA-SCALE."""
    device: str | None = None
    """Where networks live: cpu, cuda or cuda:N (none: a GPU where there is one)."""
    precision: Precision = "float32"
    """Number format of training; bfloat16 is faster on GPUs and CPUs that compute with it."""
    workers: int = 0
    """Candidates trained side by side, each in a process of its own (0: one by one in this process)."""
    stage: Literal["both", "one"] = "both"
    """Both stages, or the structural search alone."""
    groups: int | None = None
    """Structures of stage one's front that stage two goes on with (none: the scale's number)."""
    final: bool = True
    """Train what was found by the final schedule, and write it as detectors."""
    describe: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print both search spaces (sizes, costs, encodings) and search nothing."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object instead of text."""


def main(config: SearchCommand) -> None:
    """Describe; or search, train, write, report."""
    scale = preset(config.scale or ("paper" if config.describe else "smoke"))
    if config.describe:
        description = describe(scale)
        print(json.dumps(description) if config.json else _description_text(description))
        return
    if config.workers < 0:
        raise InputError(f"--workers {config.workers} is no number of processes: give 0 or more")
    if config.groups is not None and config.groups < 1:
        raise InputError(f"--groups {config.groups} leaves stage two nothing to go on with: give 1 or more")
    scale = replace(scale, groups=config.groups or scale.groups)
    command = shlex.join(["python", "-m", "sm_nas.search", *sys.argv[1:]])
    device = str(distributed.start(config.device))
    if distributed.size() > 1:  # each would measure latencies of its own and so go another way
        raise InputError("a search is not for torchrun: start one process, with --workers for candidates side by side")
    study = Study(scale, config.data, config.seed, config.out, device, command, config.precision, config.workers)
    images = len(study.laboratory.training_set)  # whatever is wrong with the data is said before anything is made
    environment = describe_environment()
    print(f"commit {environment['git_commit']}, torch {environment['torch']}, device {device}", file=sys.stderr)
    print(
        f"{scale.name} scale on {images} images of {config.data}, seed {config.seed}, into {study.folder}: "
        f"{scale.structural.count():,} structures, of which {scale.stage_one.budget} are trained; within each of "
        f"{scale.groups} {scale.modular.count():,} codes, of which {scale.stage_two.budget}",
        file=sys.stderr,
    )
    began = time.perf_counter()
    report = search(study, config.stage == "both", config.final, command)
    report |= {"seconds": time.perf_counter() - began, "next": _next(config, report, device)}
    print(json.dumps(report) if config.json else _report_text(report))


# ---- searching


def search(study: Study, both: bool = True, final: bool = True, command: str | None = None) -> dict[str, Any]:
    """Everything that the searches found, as plain JSON.

    "stage_one" and each of "groups" hold a front: structures with cost and AP, from the cheapest on. "found" holds a
    network of each group; with `final`, "final" of it says what the final schedule made of it, and "file" where it is.

    Raises `InputError` where no candidate of stage one could be measured.
    """
    one = study.stage_one
    if not study.picks:
        reasons = sorted({str(record.get("reason")) for record in one.pool.values()})
        raise InputError(
            f"all candidates of stage one failed ({reasons[0]}): see {study.folder}/stage-one-s{study.seed}"
        )
    picks = {each.structure: f"C{place}" for place, each in enumerate(study.picks)}
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
            "front": [_member(one, each) | {"pick": picks.get(each.structure)} for each in one.found.front()],
        },
        "groups": [],
        "found": [],
    }
    if both:
        report["groups"] = [_group(study, place) for place in range(len(picks))]
        report["found"] = [_found(study, name, structure) for name, structure in study.found().items()]
        for network in report["found"] if final else ():
            network |= _final(study, network["name"], Structure.parse(network["structure"]), command)
    return to_json(report)


def _group(study: Study, place: int) -> dict[str, Any]:
    searched, start = study.stage_two(place), study.picks[place].structure
    first = searched.found.evaluated[0].structure
    return {
        "name": f"C{place}",
        "structure": str(start),
        "cost": FLOPS,
        "unit": "MAC",
        **_searched(searched),
        "front": [_member(searched, each) | {"start": each.structure == first} for each in searched.found.front()],
    }


def _searched(searched: Searched) -> dict[str, Any]:
    """How many candidates there were, and the front that random search found with as many."""
    return {
        "evaluated": len(searched.found.evaluated),
        "failed": sum(not np.isfinite(each.accuracy) for each in searched.found.evaluated),
        "skipped": len(searched.found.skipped),
        "trained": len(searched.pool),
        "random_front": [_member(searched, each) for each in searched.random.front()],
    }


def _member(searched: Searched, each: Evaluated) -> dict[str, Any]:
    measured = searched.measured(each.structure)
    kept = ("latency", "macs", FLOPS, "params", "backbone_macs_mmdet")
    return {
        "structure": str(each.structure),
        "cost": each.cost,
        "AP": each.accuracy,
        "generation": each.generation,
        **{name: measured.get(name) for name in kept},
    }


def _found(study: Study, name: str, structure: Structure) -> dict[str, Any]:
    """A network that stage two chose: AP on held-out training images, after its short training."""
    searched = study.stage_two(int(name[1:]))
    each = next(each for each in searched.found.evaluated if each.structure == structure)
    return {"name": name, "group": f"C{name[1:]}", **_member(searched, each)}


def _final(study: Study, name: str, structure: Structure, command: str | None) -> dict[str, Any]:
    result = study.final(name, structure)
    folder = study.folder / f"final-{slug(name)}-s{study.seed}"
    file = write_detector(study, folder, study.preset.final_training, command)
    return {"final": result, "run": folder, "file": file}


def _next(config: SearchCommand, report: dict[str, Any], device: str) -> str:
    """What to type after the search: the exhibits that stand on these very runs, or the rest of the search."""
    scale = ["--scale", config.scale or "smoke", "--data", config.data]
    kept = flags_given(config, "out", "precision", "workers")
    if report["found"] and config.final:
        seeds = ["--seeds", str(config.seed + 1)] if config.seed else []  # this one among them
        place = [] if device == "cpu" else ["--device", device]  # there the CPU is the default
        figures = ["figure3", "figure4"] if config.groups is None else ["figure3"]  # the other has the scale's groups
        words = ["sm_nas.reproduce", *scale, *seeds, *kept, *place, "--only", *figures]
    else:
        words = ["sm_nas.search", *scale, *flags_given(config, "seed"), *kept, *flags_given(config, "groups", "device")]
    return shlex.join(["python", "-m", *words])


# ---- the report


def _report_text(report: dict[str, Any]) -> str:
    one = report["stage_one"]
    lines = [
        f"stage one: {_counts(one)}; front, random search's has {len(one['random_front'])}",
        f"  {'':<4}{'ms':>9}{'AP':>7}  structure",
        *(
            f"  {each['pick'] or '':<4}{each['latency']:>9.2f}{_points(each['AP']):>7}  {each['structure']}"
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
        measured = f"{'-':>7}{'-':>9}" if final is None else f"{_points(final['AP']):>7}{final['latency']:>9.2f}"
        lines.append(
            f"  {network['name']:<4}{_billions(network[FLOPS]):>9}{_points(network['AP']):>7}{measured}  "
            f"{network['structure']}"
        )
    lines += [f"detector {network['name']}: {network['file']}" for network in report["found"] if "file" in network]
    return "\n".join([*lines, f"{report['seconds']:.0f} s, runs: {report['folder']}", f"next: {report['next']}"])


def _counts(searched: dict[str, Any]) -> str:
    parts = [f"{searched['evaluated']} candidates"]
    parts += [f"{searched[what]} {what}" for what in ("failed", "skipped") if searched[what]]
    return ", ".join(parts)


def _points(share: float | None) -> str:
    return "failed" if share is None else f"{100 * share:.1f}"


def _billions(operations: float | None) -> str:
    return "-" if operations is None else f"{operations / 1e9:.4g}"


# ---- the search spaces


def describe(scale: Preset) -> dict[str, Any]:
    """Both search spaces of a scale as plain JSON: exact sizes, costs of a sample, and how candidates are written."""
    generator = np.random.default_rng(0)
    structural, modular = scale.structural, scale.modular
    structures = [structural.sample(generator) for _ in range(SAMPLE)]
    within = {BLOCK_OF[each]: replace(scale.strategy_model, backbone=each) for each in structural.backbones}
    coded = {
        block: [modular.sample(structure, generator) for _ in range(SAMPLE // len(within))]
        for block, structure in within.items()
    }
    example = modular.mutate(modular.start(scale.strategy_model), generator)
    return to_json(
        {
            "paper": "sm_nas",
            "scale": scale.name,
            "stage_one": {
                "space": asdict(structural),
                "size": structural.count(),
                "printed": {"size": "1.1e4", "where": "Architecture Search Details"},
                "cost": _cost_range(structures, scale),
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
                "cost": {block: _cost_range(some, scale) for block, some in coded.items()},
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
    )


def _cost_range(structures: Sequence[Structure], scale: Preset) -> dict[str, Any]:
    """Of the backbones, each at its structure's own input size."""
    costs = [describe_backbone(structure, scale)["backbone_macs_mmdet"] for structure in structures]
    sizes = sorted({input_size(structure) for structure in structures})
    where = f"{sizes[0][0]}x{sizes[0][1]}" + (f" to {sizes[-1][0]}x{sizes[-1][1]}" if len(sizes) > 1 else "")
    sample = f"backbones of {len(costs)} random candidates at {where} pixels"
    return {"lowest": min(costs), "highest": max(costs), "unit": "MAC", "of": sample}


def _description_text(description: dict[str, Any]) -> str:
    one, two = description["stage_one"], description["stage_two"]

    def costs(ranges: Iterable[tuple[str, dict[str, Any]]]) -> list[str]:
        return [
            f"  {name}{part['lowest'] / 1e9:.4g} to {part['highest'] / 1e9:.4g} G MAC ({part['of']})"
            for name, part in ranges
        ]

    return "\n".join(
        [
            f"stage one at {description['scale']} scale: {one['size']:,} structures "
            f"(printed: {one['printed']['size']})",
            *costs([("", one["cost"])]),
            f"  written {one['encoding']['form']}: {one['encoding']['meaning']}",
            f"  example {one['encoding']['example']}",
            f"stage two: {two['size']:,} codes with a neck width, {two['codes']:,} codes "
            f"(printed: {two['printed']['size']})",
            f"  at paper scale {two['printed']['size_at_paper_scale']:,}: {two['printed']['why_another']}",
            *costs([(f"{block} ", part) for block, part in two["cost"].items()]),
            f"  written {two['encoding']['form']}: {two['encoding']['meaning']}",
            f"  example {two['encoding']['example']}, of channels {two['encoding']['widths']}",
        ]
    )


if __name__ == "__main__":
    run(main, SearchCommand)
