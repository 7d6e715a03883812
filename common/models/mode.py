"""Where networks run, and in which mode."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from common.plain import InputError


def usable_device(name: str | None = None, touch: bool = True) -> torch.device:
    """The device of that name: "cpu", "cuda" or "cuda:N" (default: GPU if available).

    touch: find out whether it can be used. Raises InputError for one that cannot.
    """
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device {name} was asked for, and torch finds no GPU here: give --device cpu")
    try:
        device = torch.device(name)
        if touch:
            torch.empty(0, device=device)  # a GPU past the last one has a name, too
    except (RuntimeError, AssertionError):
        raise InputError(f"device {name!r} cannot be used here: give cpu, or cuda where there is one") from None
    return device


def computes_bfloat16(device: torch.device) -> bool:
    """Whether a device has convolutions in bfloat16; one without takes tens of times as long as in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Puts `model` in evaluation mode; the train/eval flag of each of its parts is restored at the end."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, flag in training.items():
            module.training = flag
