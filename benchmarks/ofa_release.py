"""The Once-for-All release (the package `ofa`) as a peer, where it is installed.

https://github.com/mit-han-lab/once-for-all
"""

import contextlib
import sys
from types import ModuleType
from typing import Any

import numpy as np
from torch import nn

from benchmarks.harness import optional
from detofa.space import OFAResNetSpace


def part(name: str) -> ModuleType:
    """A module of the package, by its name under `ofa`. Raises `Unavailable` when it cannot be imported."""
    with contextlib.redirect_stdout(sys.stderr):
        return optional(f"ofa.{name}", "ofa")


def supernet() -> nn.Module:
    """Its ResNet50 supernet, the largest network active."""
    space = OFAResNetSpace()
    network = part("imagenet_classification.elastic_nn.networks").OFAResNets(
        depth_list=list(space.depths), expand_ratio_list=list(space.expands), width_mult_list=list(space.widths)
    )
    network.set_max_net()
    return network


def efficiency() -> Any:
    """Its cost of a described path: `get_efficiency(description)` in millions of MACs."""
    return part("nas.efficiency_predictor").ResNet50FLOPsModel(supernet())


def describe(space: OFAResNetSpace, path: np.ndarray, image_size: int = 224) -> dict[str, Any]:
    """A path (C,) in the release's form: values of depth and expand ratio, indices of width."""
    skip, stem_middle, stem_out = (int(index) for index in path[space.stem_columns])
    return {
        "d": [0 if skip else max(space.depths), *(space.depths[index] for index in path[space.depth_columns])],
        "e": [space.expands[index] for index in path[space.expand_columns]],
        "w": [stem_middle, stem_out, *(int(index) for index in path[space.width_columns])],
        "image_size": image_size,
    }
