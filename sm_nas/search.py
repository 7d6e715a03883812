"""Search detectors from coarse to fine, for one seed: python -m sm_nas.search --scale nano --data scenes

Stage one searches which modules go together; stage two, within some structures of its front, the backbone and the
pyramid's width. What was found is trained by the final schedule, and each network written as a detector that
`common.models.detector.load_detector` reads. The same command again goes on from where it stopped.
"""

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from common.cli import OneSeed, Switch, command, metric, next_with, run, show, typed_command
from sm_nas.encoding import BLOCK_OF, BackboneCode, Structure
from sm_nas.method import FLOPS, LATENCY, Evaluated, Group, ModularSpace, structural_to_modular
from sm_nas.presets import Preset, SearchOptions
from sm_nas.train import points

if TYPE_CHECKING:
    from sm_nas.study import SMNAS, Searched

SAMPLE = 100
"""Candidates of a space whose backbones --describe counts."""
WHY_NOT_5E12 = (
    "the paper's text bounds neither how many blocks there are nor how often channels double; with 5 to 35 blocks and "
    "exactly three doublings, as in every network that it prints, there are so many codes and neck widths for one kind "
    "of block, and no reading of it that was tried gives 5.0e12"
)


@dataclass(frozen=True, kw_only=True)
class Options(OneSeed, SearchOptions):
    """Search detectors in both stages, train what is found, and write it to disk."""

    stage: Literal["both", "one"] = "both"
    """Both stages, or the structural search alone."""
    final: bool = True
    """Train what was found by the final schedule, and write it as detectors."""
    describe: Switch = False
    """Print both search spaces (of the paper's scale unless --scale is given) and search nothing."""


def main(options: Options) -> None:
    """Describe; or search, train, write, report."""
    if options.describe:
        show(describe(options.preset), options.json, _description_text)
        return

    from common import progress
    from common.train import distributed
    from sm_nas.study import SMNAS

    study, preset = SMNAS(options, options.seed, typed_command()), options.preset
    # each process would measure latencies of its own and so go another way
    distributed.refuse("a search", "start one process, with --workers for several candidates")
    images = len(study.training_set)  # whatever is wrong with the data is said before anything is made
    print(
        f"{preset.name} scale on {images} images of {study.data}, seed {study.seed}, into {study.folder}, on "
        f"{study.device}: {preset.structural.networks():,} structures, of which {preset.stage_one.budget} are trained; "
        f"within each of {preset.groups} {preset.modular.count():,} codes, of which {preset.stage_two.budget}",
        file=sys.stderr,
    )
    began = time.perf_counter()
    progress.plan(stages(study, options.stage == "both", options.final))
    report = search(study, options.stage == "both", options.final)
    report |= {"seconds": time.perf_counter() - began, "next": _next(options, bool(report["found"]))}
    show(report, options.json, _report_text)


# ---- searching


def stages(study: "SMNAS", both: bool, final: bool) -> dict[str, float]:
    """Runs that a search goes through -> work, see `Study.work`: as many groups as there may be, and random search's
    candidates, too.
    """
    preset, sizes = study.preset, study.preset.structural.sizes

    def epochs(settings: Any, strategy: Any) -> float:
        return 2 * settings.budget * strategy.optimisation.epochs

    one, two = preset.stage_one_training, preset.stage_two_training
    work = study.pretraining_work(*(preset.structural.backbones if one.pretrained else ()))
    named = {"stage-one": study.work(epochs(preset.stage_one, one), *sizes)}
    groups = range(preset.groups) if both else ()
    named |= {f"stage-two-c{group}": study.work(epochs(preset.stage_two, two), *sizes) for group in groups}
    if both and final:
        once = study.work(preset.final_training.optimisation.epochs, *sizes)
        named |= dict.fromkeys((f"final-f{group}" for group in groups), once) | {"latencies-search": 0.0}
    return work | {study.run_name(what): pixels for what, pixels in named.items()}


def search(study: "SMNAS", both: bool = True, final: bool = True) -> dict[str, Any]:
    """Everything that the searches found.

    "stage_one" and each of "groups" hold a front: structures with cost and AP, from the cheapest on. "found" holds a
    network of each group; with `final`, "final" of it says what the final schedule made of it, and "file" where it is.
    Raises `InputError` where no candidate of stage one could be measured.
    """
    names = {each.structure: f"C{place}" for place, each in enumerate(study.picks)}
    groups, found = [], {}
    if both:
        for place, (structure, name) in enumerate(names.items()):
            two = study.stage_two(place)
            begun = two.found.evaluated[0].structure
            searched = _searched(two, FLOPS, "MAC", lambda each, begun=begun: {"start": each == begun})
            groups.append({"name": name, "structure": str(structure), **searched})
        found = structural_to_modular(
            study.preset,
            lambda stage: study.searched(stage).found,
            study.flops,
            lambda name, structure: _found(study, name, structure, final),
        )
        if final:
            for name, result in study.finals("search", study.found()).items():  # timed in turn
                found[name]["final"] = result
    return {
        "paper": "sm_nas",
        "scale": study.preset.name,
        "data": study.data,
        "seed": study.seed,
        "folder": study.folder,
        "stage_one": _searched(study.stage_one, LATENCY, "ms", lambda each: {"pick": names.get(each)}),
        "groups": groups,
        "found": list(found.values()),
    }


def _searched(
    searched: "Searched", cost: str, unit: str, more: Callable[[Structure], dict[str, Any]]
) -> dict[str, Any]:
    """How many candidates there were, the front, and the one that random search found with as many candidates.

    more: of a structure of the front, what else is to be said.
    """
    return {
        "cost": cost,
        "unit": unit,
        "evaluated": len(searched.found.evaluated),
        "failed": sum(not math.isfinite(each.accuracy) for each in searched.found.evaluated),
        "skipped": len(searched.found.skipped),
        "trained": len(searched.pool),
        "random_front": [_member(searched, each) for each in searched.random.front()],
        "front": [_member(searched, each) | more(each.structure) for each in searched.found.front()],
    }


def _member(searched: "Searched", each: Evaluated) -> dict[str, Any]:
    measured = searched.pool[each.structure]
    kept = (LATENCY, "macs", FLOPS, "params", "backbone_macs_mmdet")
    known = {"structure": str(each.structure), "cost": each.cost, "AP": each.accuracy, "generation": each.generation}
    return known | {name: measured.get(name) for name in kept}


def _found(study: "SMNAS", name: str, structure: Structure, final: bool) -> dict[str, Any]:
    """A network that stage two handed on: AP on held-out training images, then what the final schedule made of it."""
    searched = study.stage_two(int(name[1:]))
    each = next(each for each in searched.found.evaluated if each.structure == structure)
    network = {"name": name, "group": f"C{name[1:]}", **_member(searched, each)}
    if not final:
        return network
    what = f"final-{name.lower()}"
    study.final(name, structure)
    return network | {
        "run": study.run_path(what),
        "file": study.write_detector(what, study.preset.final_training, ("stage-one", f"stage-two-c{name[1:]}")),
    }


def _next(options: Options, found: bool) -> str:
    """What to type after the search: the exhibits that stand on these very runs, or the rest of the search."""
    if not (found and options.final):
        whole = replace(options, stage="both", final=True)
        return command("sm_nas.search", whole, leave_out=("json",))

    from sm_nas import reproduce

    shared = {item.name: getattr(options, item.name) for item in fields(SearchOptions)}
    seeds = options.seed + 1  # this one among them
    return command("sm_nas.reproduce", reproduce.Options(**shared, seeds=seeds, only=("figure3", "figure4")))


# ---- the report


def _report_text(report: Mapping[str, Any]) -> str:
    one, found = report["stage_one"], report["found"]
    by_chance = f"random search has {len(one['random_front'])} on its front, the search these"
    lines = [f"stage one: {_counts(one)}; {by_chance}", *_front_lines(one)]
    for group in report["groups"]:
        lines.append(f"stage two within {group['name']}, {group['structure']}: {_counts(group)}")
        lines += _front_lines(group)
    if found:
        lines += [
            "found: AP on held-out training images, and on the validation images after the final schedule",
            f"  {'':<4}{'MAC':>9}{'AP':>7}{'final':>7}{'ms':>9}  structure",
        ]
    for network in found:
        final = network.get("final")
        measured = f"{'-':>7}{'-':>9}" if final is None else f"{points(final['AP']):>7}{final[LATENCY]:>9.2f}"
        lines.append(
            f"  {network['name']:<4}{_cost(network[FLOPS]):>9}{points(network['AP']):>7}{measured}  "
            f"{network['structure']}"
        )
    written = [network for network in found if "file" in network]
    lines += [f"detector {network['name']}: {network['file']}" for network in written]
    lines += [f"{report['seconds']:.0f} s, runs: {report['folder']}", f"next: {report['next']}"]
    if written:
        best = max(written, key=lambda network: network["final"]["AP"] or 0)
        lines.append(next_with(best["file"], report["data"]))
    return "\n".join(lines)


def _front_lines(searched: Mapping[str, Any]) -> list[str]:
    unit, shown = ("ms", "{:.2f}".format) if searched["cost"] == LATENCY else ("MAC", _cost)
    lines = [f"  {'':<4}{unit:>9}{'AP':>7}  structure"]
    for each in searched["front"]:
        mark = each.get("pick") or ("from" if each.get("start") else "")
        lines.append(f"  {mark:<4}{shown(each['cost']):>9}{points(each['AP']):>7}  {each['structure']}")
    return lines


def _counts(searched: Mapping[str, Any]) -> str:
    parts = [f"{searched['evaluated']} candidates"]
    parts += [f"{searched[what]} {what}" for what in ("failed", "skipped") if searched[what]]
    return ", ".join(parts)


def _cost(operations: float | None) -> str:
    return "-" if operations is None else metric(operations)


# ---- the search spaces


def describe(preset: Preset) -> dict[str, Any]:
    """Both search spaces of a scale: exact sizes, costs of a sample, and how candidates are written."""
    generator, model = np.random.default_rng(0), preset.strategy_model
    structural, modular = preset.structural, preset.modular
    structures = [structural.sample(generator) for _ in range(SAMPLE)]
    groups = {BLOCK_OF[each]: Group(modular, replace(model, backbone=each)) for each in structural.backbones}
    coded = {block: [group.sample(generator) for _ in range(SAMPLE)] for block, group in groups.items()}
    # The standard backbones as codes: apart from their stems, and MobileNetV2's own widths, they are those networks.
    standard = [
        replace(each, backbone=str(BackboneCode.standard(each.backbone, preset.detector.width))).as_read()
        for each in structures
    ]
    own = Group(modular, model)
    example = own.mutate(own.start(), generator)
    return {
        "paper": "sm_nas",
        "scale": preset.name,
        "stage_one": {
            "space": asdict(structural),
            "size": structural.networks(),
            "combinations": structural.count(),
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
                "ones; - separates stages of strides 4, 8, 16 and 32; exactly three 2, no stage empty; stages that the "
                "pyramid does not read are not built, and left out",
                "blocks": sorted(groups),
                "example": str(example),
                "widths": BackboneCode.parse(example.backbone).widths,
            },
        },
    }


def _cost_range(coded: Sequence[Structure]) -> dict[str, Any]:
    """Of backbones that are written as codes, each at its structure's own input size."""
    costs = [BackboneCode.parse(each.backbone).macs(each.input_size) for each in coded]
    sizes = sorted({each.input_size for each in coded})
    where = " to ".join(f"{width}x{height}" for width, height in dict.fromkeys((sizes[0], sizes[-1])))
    sample = f"backbones, written as codes, of {len(costs):,} random candidates at {where} pixels"
    return {"lowest": min(costs), "highest": max(costs), "unit": "MAC", "of": sample}


def _description_text(description: Mapping[str, Any]) -> str:
    one, two = description["stage_one"], description["stage_two"]

    def cost(part: Mapping[str, Any], name: str = "") -> str:
        return f"  {name}{metric(part['lowest'])} to {metric(part['highest'])} MAC ({part['of']})"

    return "\n".join(
        [
            f"stage one at {description['scale']} scale: {one['size']:,} networks of {one['combinations']:,} "
            f"combinations (printed: {one['printed']['size']})",
            cost(one["cost"]),
            f"  written {one['encoding']['form']}: {one['encoding']['meaning']}",
            f"  example {one['encoding']['example']}",
            f"stage two: {two['size']:,} codes with a neck width, {two['codes']:,} codes "
            f"(printed: {two['printed']['size']})",
            f"  at paper scale {two['printed']['size_at_paper_scale']:,}: {two['printed']['why_another']}",
            *(cost(part, f"{block} ") for block, part in two["cost"].items()),
            f"  written {two['encoding']['form']}: {two['encoding']['meaning']}",
            f"  example {two['encoding']['example']}, of channels {two['encoding']['widths']}",
        ]
    )


if __name__ == "__main__":
    run(main, Options)
