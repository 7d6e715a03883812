"""A space small enough to list, the oracle of sizes, samples, costs and searches; a scale that trains in seconds."""

import itertools
from dataclasses import replace

import numpy as np

from detofa.presets import SMOKE
from detofa.space import OFAResNetSpace

TINY = OFAResNetSpace(
    (1, 1, 1, 1), (0, 1), (0.5, 1.0), (0.25, 0.5), stage_widths=(8, 8, 16, 16), stem_width=8, channel_multiple=1
)


def list_paths(space: OFAResNetSpace) -> np.ndarray:
    """(size, C) int8: every path of a space once, canonical, by nested loops over its choices."""
    stem, stages = space.choices[:3], []
    for base in space.base_depths:
        stages.append(
            [
                (depth, width, [*expands, *[0] * (space.depths[-1] - space.depths[depth])])
                for depth in range(len(space.depths))
                for width in range(len(space.widths))
                for expands in itertools.product(range(len(space.expands)), repeat=base + space.depths[depth])
            ]
        )
    paths = [
        [
            *head,
            *(depth for depth, _, _ in blocks),
            *(width for _, width, _ in blocks),
            *itertools.chain.from_iterable(expands for *_, expands in blocks),
        ]
        for head in itertools.product(*stem)
        for blocks in itertools.product(*stages)
    ]
    return np.array(paths, dtype=np.int8)


EVERY_PATH = list_paths(TINY)  # 20,736

SMALL = replace(
    SMOKE,
    image_size=32,
    train_images=16,
    validation_images=8,
    search_images=8,
    calibration_images=8,
    proxy_calibration_images=8,
    crops=24,
)
"""SMOKE on fewer and smaller images."""

TINY_PRESET = replace(
    SMALL,
    space=replace(
        SMALL.space,
        depths=(0, 1),
        widths=(0.5, 1.0),
        expands=(0.25, 0.5),
        stage_widths=(8, 8, 16, 16),
        channel_multiple=1,
    ),
    neck_widths=(8,),
    head_width=8,
    pretraining_paths=2,
    fine_tuning_paths=2,
    operation_samples=2,
    evolution=replace(SMALL.evolution, population=8, generations=2),
    budget_shares=(0.4, 0.8),
    figure6_paths=1,
)
"""The same in a smaller space, a few times smaller than SMOKE."""
