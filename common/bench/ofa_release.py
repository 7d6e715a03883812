"""The Once-for-All release (the package `ofa`) as a peer, where it is installed.

https://github.com/mit-han-lab/once-for-all
"""

import contextlib
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from torch import nn

from common.bench.harness import optional
from common.models.ofa_resnet import OFAResNetSpace


@dataclass(frozen=True)
class Release:
    """The parts of the package that are compared with."""

    networks: ModuleType
    accuracy: ModuleType
    costs: ModuleType
    search: ModuleType
    utils: ModuleType

    def supernet(self) -> nn.Module:
        """Its ResNet50 supernet, the largest network active."""
        space = OFAResNetSpace()
        network = self.networks.OFAResNets(
            depth_list=list(space.depths),
            expand_ratio_list=list(space.expands),
            width_mult_list=list(space.widths),
        )
        network.set_max_net()
        return network

    def efficiency(self) -> Any:
        """Its cost of a described path: `get_efficiency(description)` in millions of MACs."""
        return self.costs.ResNet50FLOPsModel(self.supernet())


def load() -> Release | str:
    """The release, or one sentence on why it cannot be used."""
    modules = []
    with contextlib.redirect_stdout(sys.stderr):
        for name in (
            "ofa.imagenet_classification.elastic_nn.networks",
            "ofa.nas.accuracy_predictor",
            "ofa.nas.efficiency_predictor",
            "ofa.nas.search_algorithm",
            "ofa.imagenet_classification.elastic_nn.utils",
        ):
            module = optional(name, "ofa")
            if isinstance(module, str):
                return module
            modules.append(module)
    return Release(*modules)


def describe(space: OFAResNetSpace, path: np.ndarray, image_size: int = 224) -> dict[str, Any]:
    """A path (C,) in the release's form: values of depth and expand ratio, indices of width."""
    skip, stem_middle, stem_out = (int(index) for index in path[space.stem_columns])
    return {
        "d": [0 if skip else max(space.depths), *(space.depths[index] for index in path[space.depth_columns])],
        "e": [space.expands[index] for index in path[space.expand_columns]],
        "w": [stem_middle, stem_out, *(int(index) for index in path[space.width_columns])],
        "image_size": image_size,
    }
