"""What the published settings take, counted from the presets: python -m benchmarks.scale --out docs/scale.md

Multiply-accumulates are exact, by `common.cost` and the presets' epochs; hours follow by an assumed rate. A training
step is taken as three forward passes, a teacher's part of it as one.
"""

from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from common.cli import run
from common.plain import make_folder, write_atomically

VOC, COCO = (16_551, 40_058), (118_287, 849_949)
"""Training images and objects without crowds: VOC 2007 and 2012 trainval, train2017."""
CLASSES = 80
SAMPLE = 24
"""Networks whose mean stands for a search's candidates."""


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
    of all steps."""

    macs: float
    runs: int
    params: float
    images: float
    side_by_side: int = 1


def detofa(scale: str, images: int, objects: int) -> tuple[dict[str, Kind], dict[str, list[str]]]:
    """Kinds of runs, and those that each exhibit asks for."""
    import numpy as np

    from common.cost import count
    from common.models.centernet import CenterNet
    from common.models.ofa_resnet import OFAResNet
    from common.models.outline import outline
    from detofa.exhibits import PAPER
    from detofa.presets import PRESETS, VARIANTS
    from detofa.space import CostTable

    preset = PRESETS[scale]
    space, size = preset.space, (preset.image_size,) * 2
    paths = space.sample(1000, np.random.default_rng(0))
    with outline():
        supernet = CenterNet(OFAResNet(space), CLASSES, preset.neck_widths, preset.head_width, elastic=True)
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
        if way.shrinking:
            passes = sum(phase.epochs for phase in preset.shrinking.phases) * images
            step = 3 * preset.shrinking.networks_a_step * path + full
            return Kind(passes * step + (first + then) * 3 * full + sampled, 1, params, passes + first + then)
        seen = then + (0 if way.shared_warm_up else first)
        return Kind(3 * seen * path + sampled, 1, params, seen)

    learned, held_out = 0.9 * objects, 0.1 * objects
    epochs = preset.classification.epochs
    validated = 5 * preset.pretraining_paths * (preset.proxy_calibration_images + held_out) * crop_path
    kinds = {
        "classification": Kind(
            epochs * learned * 3 * (crop_full + crop_path) + validated, 1, params, 2 * epochs * learned
        ),
        "warm-up": Kind(3 * first * path + sampled, 1, params, first),
        **{name: variant(name) for name in VARIANTS},
    }
    shared = ["classification", "warm-up"]
    asked = {name: [*shared, *PAPER.by_name[name].measure.args[0]] for name in ("figure5", "figure8", "figure9")}
    return kinds, {
        "table1": [],
        "table2": shared,
        "table3": asked["figure5"],
        "figure6": [*shared, "ours", "ofa"],
        "figure7": shared,
        **asked,
    }


def sm_nas(scale: str, images: int) -> tuple[dict[str, Kind], dict[str, list[str]]]:
    """Kinds of runs, and those that each exhibit asks for."""
    from dataclasses import replace

    import numpy as np

    from sm_nas.method import Group
    from sm_nas.networks import describe
    from sm_nas.presets import PRESETS

    preset, generator = PRESETS[scale], np.random.default_rng(0)

    def of(structures: list, strategy: Any, runs: int, side_by_side: int = 1) -> Kind:
        each = [describe(structure, CLASSES, preset.detector) for structure in structures]
        seen = runs * strategy.optimisation.epochs * images
        macs, params = (float(np.mean([one[key] for one in each])) for key in ("macs", "params"))
        return Kind(3 * seen * macs, runs, params, seen, side_by_side)

    any_structure = [preset.structural.sample(generator) for _ in range(SAMPLE)]
    models = [structure for _, structure in preset.models]
    group = Group(preset.modular, replace(preset.strategy_model))
    codes = [group.sample(generator) for _ in range(SAMPLE)]
    one, two = preset.stage_one, preset.stage_two
    strategies = [of([preset.strategy_model], each, 1) for each in preset.strategies]
    kinds = {
        "stage one": of(any_structure, preset.stage_one_training, 2 * one.budget, one.generation),
        "stage two": of(
            codes, preset.stage_two_training, 2 * preset.groups * two.budget, preset.groups * two.generation
        ),
        "backbones": of(
            [replace(preset.strategy_model, backbone=name) for name in preset.structural.backbones],
            preset.stage_one_training,
            len(preset.structural.backbones),
        ),
        "E0 to E5": of(models, preset.final_training, len(models)),
        "classics": of([structure for _, structure in preset.classics], preset.final_training, len(preset.classics)),
        "found": of(models, preset.final_training, 2 * preset.groups),
        "strategies": Kind(
            sum(each.macs for each in strategies),
            len(strategies),
            strategies[0].params,
            sum(each.images for each in strategies),
        ),
    }
    searches, finals = ["stage one", "stage two", "found"], ["E0 to E5", "classics"]
    return kinds, {
        "table1": ["classics"],
        "table2": [*searches, "E0 to E5"],
        "table3": ["strategies"],
        "table4": [*searches, *finals],
        "table5": finals,
        "figure1": [*searches, *finals],
        "figure3": ["stage one", "backbones"],
        "figure4": searches,
        "figure5": ["stage one", "stage two"],
    }


def joint_detnas(scale: str, images: int) -> tuple[dict[str, Kind], dict[str, list[str]]]:
    """Kinds of runs, and those that each exhibit asks for."""
    import numpy as np

    from common.cost import count
    from common.models.elastic_detector import plain_two_stage
    from common.models.outline import outline
    from joint_detnas.method import both_stages, sample_teacher, teacher_cost
    from joint_detnas.presets import PRESETS
    from joint_detnas.search import standard_student

    preset, generator = PRESETS[scale], np.random.default_rng(0)
    stages, space = both_stages(preset.detector), preset.teachers

    def student(backbone: str) -> tuple[float, int]:
        with outline():
            network = plain_two_stage(standard_student(preset, backbone), preset.detector.neck_width, CLASSES, *stages)
            costs = [count(network, size) for size in preset.sizes]
        return float(np.mean([cost.macs for cost in costs])), costs[0].params

    def teacher(named: Any) -> float:
        return float(np.mean([teacher_cost(space, named, size, CLASSES, *stages).macs for size in preset.sizes]))

    backbones = {name: student(name) for name in dict.fromkeys((*preset.upgraded_backbones, *preset.pruned_backbones))}
    mean, params = (float(np.mean([each[place] for each in backbones.values()])) for place in (0, 1))
    largest = teacher(space.largest())
    usual = float(np.mean([teacher(sample_teacher(space, generator)) for _ in range(SAMPLE // 4)]))
    with outline():
        pool_params = teacher_cost(space, space.largest(), preset.sizes[0], CLASSES, *stages).params
    long, pair = preset.base_training.epochs * images, preset.pair_training.epochs * images
    pool, phases = 0.0, preset.shrinking.phases
    for phase in phases:
        others = 0 if phase.steps_down == 0 else preset.shrinking.networks_a_step
        pool += phase.epochs * images * 3 * (largest + others * usual)

    def searches(count: int, budget: int, backbone: float = mean) -> Kind:
        pairs = count * budget
        return Kind(pairs * pair * (3 * backbone + usual), pairs, params, pairs * pair, preset.search.generation)

    upgraded = len(preset.upgraded_backbones)
    own = student(preset.backbone)[0]
    kinds = {
        "base detectors": Kind(long * 3 * mean * len(backbones), len(backbones), params, long * len(backbones)),
        "pool": Kind(pool, 1, pool_params, sum(phase.epochs for phase in phases) * images),
        "alone": Kind(
            3 * long * usual * len(preset.equivalents), len(preset.equivalents), params, long * len(preset.equivalents)
        ),
        "pruned": Kind(
            pair * 3 * mean * len(preset.pruned_backbones) * len(preset.percentages),
            len(preset.pruned_backbones) * len(preset.percentages),
            params,
            pair * len(preset.pruned_backbones) * len(preset.percentages),
        ),
        "distilled": Kind(
            2 * len(preset.lessons) * long * (3 * mean + usual),
            2 * len(preset.lessons),
            params,
            2 * len(preset.lessons) * long,
        ),
        "search": searches(1, preset.search.budget, own),
        "upgrades": searches(upgraded, preset.search.budget),
        "random search": searches(1, preset.search.budget, own),
        "fixed students": searches(2, preset.teaching.budget, own),
        "grid of teachers": searches(len(preset.pruned_backbones), len(preset.grid_teachers)),
        "pipelines": Kind(
            long * (3 * 3 * own + 2 * largest) + preset.search.budget // 2 * pair * 3 * own, 4, params, 3 * long
        ),
        "cascade": Kind(
            preset.cascade.optimisation.epochs * images * (3 * own + largest),
            1,
            params,
            preset.cascade.optimisation.epochs * images,
        ),
    }
    base = ["base detectors", "pool"]
    return kinds, {
        "table1": ["pool", "alone"],
        "table2": ["base detectors", "pruned"],
        "table3": [*base, "distilled"],
        "table4": [*base, "upgrades"],
        "table5": [*base, "search", "pipelines"],
        "table6": [*base, "upgrades", "cascade"],
        "table7": [*base, "search", "random search"],
        "figure4": [*base, "fixed students"],
        "figure5": [*base, "grid of teachers"],
        "figure6": [*base, "upgrades"],
        "figure7": [*base, "upgrades"],
    }


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
        macs = sum(kinds[each].macs for each in dict.fromkeys(asked))
        lines.append(f"| {name} | {_hours(macs, rate)} | {', '.join(dict.fromkeys(asked)) or 'none'} |")
    total = sum(each.macs for each in kinds.values())
    return "\n".join([*lines, f"| all of them | {_hours(total, rate)} | each run once |"])


def _hours(macs: float, rate: float) -> str:
    hours = macs / rate / 3600
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.1f}"


def main(options: Options) -> None:
    """Count and write."""
    voc, coco = detofa("paper", *VOC), detofa("paper-coco", *COCO)
    sm, joint = sm_nas("paper", COCO[0]), joint_detnas("paper", COCO[0])
    rate = options.rate
    one = sm[0]["stage one"]
    text = Template(Path(__file__).with_suffix(".md").read_text()).substitute(
        rate=f"{rate / 1e12:g}",
        sample=SAMPLE,
        voc=tables(*voc, rate),
        coco=tables(*coco, rate),
        sm=tables(*sm, rate),
        joint=tables(*joint, rate),
        candidate_hours=f"{one.macs / one.runs / rate / 3600:.1f}",
        million_hours=f"{1e6 * one.macs / one.runs / rate / 3600 / 1e6:.1f}",
        stage_one_images=f"{rate * one.images / one.macs:.0f}",
    )
    make_folder(options.out.parent)
    write_atomically(options.out, text.encode())


if __name__ == "__main__":
    run(main, Options)
