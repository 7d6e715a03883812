"""What tests of networks share."""

from collections.abc import Callable

import pytest
from torch import nn

Awake = Callable[[nn.Module], nn.Module]


@pytest.fixture
def awake() -> Awake:
    """Takes residual blocks out of the sleep that they begin in: norms of weight 0 get 1, so that all weights count."""

    def wake(network: nn.Module) -> nn.Module:
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d | nn.GroupNorm) and not layer.weight.any():
                nn.init.ones_(layer.weight)
        return network

    return wake
