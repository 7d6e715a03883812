"""What the published settings take, counted from the presets: python -m benchmarks.scale --out docs/scale.md

Multiply-accumulates are exact, by `common.cost` and the presets' epochs; hours follow by an assumed rate. A training
step is taken as three forward passes, a teacher's part of it as one.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from common.cli import run
from common.plain import InputError, make_folder, write_atomically
from common.settings import COCO_CLASSES

if TYPE_CHECKING:
    from common.cost import Cost
    from joint_detnas.presets import Preset, Teacher

VOC, COCO = (16_551, 40_058), (118_287, 849_949)
"""Training images and objects without crowds: VOC 2007 and 2012 trainval, train2017."""
SAMPLE = 24
"""Networks whose mean stands for a search's candidates."""
TABLE1_CLASSICS = ("FPN R50", "RetinaNet R50", "FPN R101", "Cascade R50")
"""Of SM-NAS's classic detectors, those that its Table 1 compares."""


@dataclass(frozen=True)
class Options:
    """Count what the published settings take, and write the page."""

    out: Path = Path("docs/scale.md")
    """The page."""
    rate: float = 39e12
    """Multiply-accumulates a second of a GPU in training: assumed, a quarter of an A100's 156e12 in bfloat16."""


@dataclass(frozen=True)
class Kind:
    """Runs of one kind for a seed: multiply-accumulates of all, how many there are, parameters of one network, images
    of all steps, and how many of the runs may go at once."""

    macs: float
    runs: int
    params: float
    images: float
    side_by_side: int = 1


def trainings(runs: int, images: float, macs: float, params: float, side_by_side: int = 1) -> Kind:
    """Runs that see so many images each, at so many multiply-accumulates an image."""
    return Kind(runs * images * macs, runs, params, runs * images, side_by_side)


def detofa_exhibits() -> dict[str, list[str]]:
    """The kinds of runs that each exhibit of DetOFA asks for."""
    from detofa.exhibits import METHODS, PAPER

    shared = ["classification", "warm-up"]
    variants = {name: PAPER.by_name[name].measure.args[0] for name in ("figure5", "figure8", "figure9")}
    variants |= {"table2": (), "table3": [*METHODS, "fullnet"], "figure6": ("ours", "ofa"), "figure7": ()}
    return {"table1": [], **{name: [*shared, *asked] for name, asked in variants.items()}}


def detofa(scale: str, images: int, objects: int) -> dict[str, Kind]:
    """Kinds of runs, by name."""
    import numpy as np

    from common.cost import count
    from common.models.centernet import CenterNet
    from common.models.ofa_resnet import OFAResNet
    from common.models.outline import outline
    from detofa.presets import PRESETS, VARIANTS
    from detofa.space import CostTable

    preset = PRESETS[scale]
    space, size = preset.space, (preset.image_size,) * 2
    paths = space.sample(1000, np.random.default_rng(0))
    with outline():
        supernet = CenterNet(OFAResNet(space), COCO_CLASSES, preset.neck_widths, preset.head_width, elastic=True)
        largest = count(supernet.extract(space.largest()), size)
    params = sum(each.numel() for each in supernet.parameters())
    rest = largest.macs - largest.parts["backbone"]["macs"]
    path, full = CostTable.macs(space, preset.image_size)(paths).mean() + rest, largest.macs
    crop = CostTable.macs(space, preset.crop_size)
    crop_path, crop_full = crop(paths).mean(), crop(space.largest()[None])[0]
    sampled = 5 * preset.fine_tuning_paths * (preset.proxy_calibration_images + preset.search_images) * path
    first, then = preset.warm_up.epochs * images, preset.fine_tuning.epochs * images

    def variant(name: str) -> Kind:
        way = VARIANTS[name]
        if way.full_net:
            return Kind((first + then) * 3 * full, 1, params, first + then)
        if way.shrinking:  # it starts from the full net's run, which teaches it
            seen = sum(phase.epochs for phase in preset.shrinking.phases) * images
            return Kind(seen * (3 * preset.shrinking.networks_a_step * path + full) + sampled, 1, params, seen)
        seen = then + (0 if way.shared_warm_up else first)
        return Kind(3 * seen * path + sampled, 1, params, seen)

    learned, held_out = 0.9 * objects, 0.1 * objects
    epochs = preset.classification.epochs
    validated = 5 * preset.pretraining_paths * (preset.proxy_calibration_images + held_out) * crop_path
    return {
        "classification": Kind(
            epochs * learned * 3 * (crop_full + crop_path) + validated, 1, params, 2 * epochs * learned
        ),
        "warm-up": Kind(3 * first * path + sampled, 1, params, first),
        **{name: variant(name) for name in VARIANTS},
    }


def sm_nas_exhibits() -> dict[str, list[str]]:
    """The kinds of runs that each exhibit of SM-NAS asks for."""
    searched = ["stage one", "stage two", "found"]
    compared = ["E0 to E5", "classics of Table 1", "other classics"]
    return {
        "table1": ["classics of Table 1"],
        "table2": [*searched, *compared],
        "table3": ["strategies"],
        "table4": compared,
        "table5": ["transferred"],
        "figure1": [*searched, *compared],
        "figure3": ["stage one", "backbones"],
        "figure4": [*searched, "found at random"],
        "figure5": ["stage one", "stage two"],
    }


def sm_nas(scale: str, images: int, second_images: int) -> dict[str, Kind]:
    """Kinds of runs, by name. second_images: of the data set that Table 5 trains on."""
    from dataclasses import replace

    import numpy as np

    from sm_nas.exhibits import transferred
    from sm_nas.method import Group
    from sm_nas.networks import describe
    from sm_nas.presets import PRESETS

    preset, generator = PRESETS[scale], np.random.default_rng(0)

    def of(structures: list, strategy: Any, runs: int, side_by_side: int = 1, images: int = images) -> Kind:
        each = [describe(structure, COCO_CLASSES, preset.detector) for structure in structures]
        macs, params = (float(np.mean([one[key] for one in each])) for key in ("macs", "params"))
        return trainings(runs, strategy.optimisation.epochs * images, 3 * macs, params, side_by_side)

    any_structure = [preset.structural.sample(generator) for _ in range(SAMPLE)]
    models, backbones = [structure for _, structure in preset.models], preset.structural.backbones
    in_table1 = [structure for name, structure in preset.classics if name in TABLE1_CLASSICS]
    others = [structure for name, structure in preset.classics if name not in TABLE1_CLASSICS]
    elsewhere = [structure for pairs in transferred(preset).values() for _, structure in pairs.values()]
    group = Group(preset.modular, preset.strategy_model)
    codes = [group.sample(generator) for _ in range(SAMPLE)]
    one, two, final = preset.stage_one, preset.stage_two, preset.final_training
    by_strategy = [of([preset.strategy_model], each, 1) for each in preset.strategies]
    return {
        "stage one": of(any_structure, preset.stage_one_training, 2 * one.budget, one.generation),
        "stage two": of(
            codes, preset.stage_two_training, 2 * preset.groups * two.budget, preset.groups * two.generation
        ),
        "backbones": of(
            [replace(preset.strategy_model, backbone=name) for name in backbones],
            preset.stage_one_training,
            len(backbones),
        ),
        "E0 to E5": of(models, final, len(models)),
        "classics of Table 1": of(in_table1, final, len(in_table1)),
        "other classics": of(others, final, len(others)),
        "found": of(models, final, 2 * preset.groups),  # stage one's picks and what stage two makes of them
        "found at random": of(models, final, preset.groups),
        "strategies": Kind(
            sum(each.macs for each in by_strategy),
            len(by_strategy),
            by_strategy[0].params,
            sum(each.images for each in by_strategy),
        ),
        "transferred": of(elsewhere, final, len(elsewhere), images=second_images),
    }


def joint_detnas_exhibits(preset: "Preset") -> dict[str, list[str]]:
    """The kinds of runs that each exhibit of Joint-DetNAS asks for."""

    def of(kind: str, backbones: Iterable[str]) -> list[str]:
        return [f"{kind}-{name}" for name in backbones]

    own, upgraded, pruned = preset.backbone, preset.upgraded_backbones, preset.pruned_backbones
    students = [name for name, _ in preset.lessons]
    upgrades = [*of("base", upgraded), "pool", *of("search", upgraded)]
    before = [f"base-{own}", "pool"]
    alone = [f"alone-{name}-epochs" for name, _ in preset.equivalents]
    return {
        "table1": ["pool", *alone, *(f"alone-{name}-seconds" for name in preset.timed_equivalents)],
        "table2": [*of("base", pruned), *of("pruned", pruned)],
        "table3": [*of("base", students), "pool", *of("distilled", students), *of("longer", students)],
        "table4": [*upgrades, *of("trained-on", upgraded)],
        "table5": [
            *before,
            f"search-{own}",
            f"search-{own}-nas",
            f"penalised-{own}",
            f"pipeline-{own}-prune-kd",
            f"pipeline-{own}-nas-prune-kd",
        ],
        "table6": [*upgrades, *of("cascade", preset.cascaded_backbones)],
        "table7": [*before, f"search-{own}", f"search-{own}-random"],
        "figure4": [*before, *(f"search-{own}-{kind}" for kind in ("fixed-student", "fixed-pair", "untaught"))],
        "figure5": [*of("base", pruned), "pool", *of("pruned", pruned), *of("grid", pruned)],
        "figure6": upgrades,
        "figure7": upgrades,
    }


def joint_detnas(scale: str, images: int) -> dict[str, Kind]:
    """Kinds of runs, by name."""
    import numpy as np

    from common.cost import count
    from common.models.elastic_detector import plain_two_stage
    from common.models.outline import outline
    from joint_detnas.method import both_stages, sample_teacher, teacher_cost
    from joint_detnas.presets import PRESETS
    from joint_detnas.search import standard_student

    preset, generator = PRESETS[scale], np.random.default_rng(0)
    stages, space, own = both_stages(preset.detector), preset.teachers, preset.backbone

    def cost_of(costs: list["Cost"]) -> tuple[float, int]:
        return float(np.mean([cost.macs for cost in costs])), costs[0].params

    def student(backbone: str) -> tuple[float, int]:
        with outline():
            network = plain_two_stage(
                standard_student(preset, backbone), preset.detector.neck_width, COCO_CLASSES, *stages
            )
            return cost_of([count(network, size) for size in preset.sizes])

    def teacher(named: "Teacher") -> tuple[float, int]:
        return cost_of([teacher_cost(space, named, size, COCO_CLASSES, *stages) for size in preset.sizes])

    def taught(backbone: str, runs: int, images: int, teacher_macs: float = 0.0, side_by_side: int = 1) -> Kind:
        macs, params = students[backbone]
        return trainings(runs, images, 3 * macs + teacher_macs, params, side_by_side)

    of_lessons = [name for name, _ in preset.lessons]
    students = {
        name: student(name)
        for name in dict.fromkeys((own, *preset.upgraded_backbones, *preset.pruned_backbones, *of_lessons))
    }
    equivalents = {name: teacher(named) for name, named in preset.equivalents}
    largest, pool_params = teacher(space.largest())
    usual = float(np.mean([teacher(sample_teacher(space, generator))[0] for _ in range(SAMPLE // 4)]))
    long, pair = preset.base_training.epochs * images, preset.pair_training.epochs * images
    pool_macs, pool_images = 0.0, 0
    for phase in preset.shrinking.phases:
        others = 0 if phase.steps_down == 0 else preset.shrinking.networks_a_step
        pool_macs += phase.epochs * images * 3 * (largest + others * usual)
        pool_images += phase.epochs * images

    search, teaching = preset.search, preset.teaching
    chain = pair * -(-search.budget // search.generation)  # no pair has more trainings behind it than generations
    kinds = {f"base-{name}": taught(name, 1, long) for name in students}
    kinds["pool"] = Kind(pool_macs, 1, pool_params, pool_images)
    for name, (macs, params) in equivalents.items():
        kinds[f"alone-{name}-epochs"] = trainings(1, pool_images, 3 * macs, params)
    for name in preset.timed_equivalents:  # as long as the pool
        macs, params = equivalents[name]
        kinds[f"alone-{name}-seconds"] = Kind(pool_macs, 1, params, pool_macs / (3 * macs))
    for name in preset.pruned_backbones:
        kinds[f"pruned-{name}"] = taught(name, len(preset.percentages), preset.pruning_training.epochs * images)
        tried = 2 * len(preset.grid_teachers)  # the base detector, not pruned and pruned most, under each
        kinds[f"grid-{name}"] = taught(name, tried, preset.grid_training.epochs * images, usual)
    for name, by in preset.lessons:
        kinds[f"distilled-{name}"] = taught(name, 2, long, equivalents[by][0])
        alone, under = 3 * students[name][0], 3 * students[name][0] + equivalents[by][0]
        kinds[f"longer-{name}"] = taught(name, 1, round(long * under / alone))  # as long as under the teacher
    for name in preset.upgraded_backbones:
        kinds[f"search-{name}"] = taught(name, search.budget, pair, usual, search.generation)
        kinds[f"trained-on-{name}"] = taught(name, 1, chain)
    kinds |= {
        f"search-{own}-random": taught(own, search.budget, pair, usual, search.generation),
        f"search-{own}-fixed-student": taught(own, teaching.budget, pair, usual, teaching.generation),
        f"search-{own}-fixed-pair": taught(own, teaching.budget, pair, largest, teaching.generation),
        f"search-{own}-untaught": taught(own, teaching.budget, pair, side_by_side=teaching.generation),
        f"search-{own}-nas": taught(own, search.budget // 2, pair, side_by_side=search.generation),
        f"penalised-{own}": taught(own, 1, long),
        f"pipeline-{own}-prune-kd": taught(own, 1, chain, largest),
        f"pipeline-{own}-nas-prune-kd": taught(own, 1, chain, largest),
    }
    for name in preset.cascaded_backbones:
        kinds[f"cascade-{name}"] = taught(name, 1, preset.cascade.optimisation.epochs * images, largest)
    return kinds


def tables(kinds: dict[str, Kind], exhibits: dict[str, list[str]], rate: float) -> str:
    """Both tables of a paper."""
    lines = [
        "| Runs of a seed | Number | Trained at once | 10^18 MAC | GPU-hours | Images/s a GPU | Weights, MB each | "
        "Gradients, GB/s a GPU |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, kind in kinds.items():
        images = rate * kind.images / kind.macs  # a second and GPU
        exchanged = 8 * kind.params * images / 8 / 1e9  # sent and received in float32, at 8 images a GPU and step
        lines.append(
            f"| {name} | {kind.runs:,} | {kind.side_by_side} | {float(f'{kind.macs / 1e18:.3g}'):,g} | "
            f"{_hours(kind.macs, rate)} | {images:,.0f} | {4 * kind.params / 1e6:,.0f} | {exchanged:.0f} |"
        )
    lines += ["", "| Exhibit | GPU-hours alone | Runs |", "| --- | --- | --- |"]
    for name, asked in sorted(exhibits.items()):
        macs = sum(kinds[each].macs for each in asked)
        lines.append(f"| {name} | {_hours(macs, rate)} | {', '.join(asked) or 'none'} |")
    total = sum(each.macs for each in kinds.values())
    return "\n".join([*lines, f"| all of them | {_hours(total, rate)} | each run once |"])


def _hours(macs: float, rate: float) -> str:
    hours = macs / rate / 3600
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.1f}"


def main(options: Options) -> None:
    """Count and write."""
    if options.rate <= 0:
        raise InputError(f"--rate must be positive, got {options.rate:g}")

    from joint_detnas.presets import PRESETS

    sm, rate = sm_nas("paper", COCO[0], VOC[0]), options.rate
    one, joint_exhibits = sm["stage one"], joint_detnas_exhibits(PRESETS["paper"])
    text = Template(Path(__file__).with_suffix(".md").read_text()).substitute(
        rate=f"{rate / 1e12:g}",
        sample=SAMPLE,
        voc=tables(detofa("paper", *VOC), detofa_exhibits(), rate),
        coco=tables(detofa("paper-coco", *COCO), detofa_exhibits(), rate),
        sm=tables(sm, sm_nas_exhibits(), rate),
        joint=tables(joint_detnas("paper", COCO[0]), joint_exhibits, rate),
        candidate_hours=f"{one.macs / one.runs / rate / 3600:.1f}",
        stage_one_images=f"{rate * one.images / one.macs:.0f}",
    )
    make_folder(options.out.parent)
    write_atomically(options.out, text.encode())


if __name__ == "__main__":
    run(main, Options)
