"""Where networks run, and in which mode."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from common.plain import InputError
from common.settings import Precision


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
    """Whether a device has products in bfloat16; one without takes ten times as long and more as in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


_PRODUCTS = {F.conv2d, F.conv_transpose2d, F.linear, torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__}


class _BetweenRoundings(TorchFunctionMode):
    """Autocast to bfloat16 for a CPU without instructions for it: they multiply bfloat16 and add in float32, so here
    products take rounded tensors in float32 and round the sums; on the way back, autograd does so with gradients.
    """

    def __torch_function__(self, function, types, arguments=(), named=None):
        named = named or {}
        tensors = [each for each in (*arguments, *named.values()) if isinstance(each, torch.Tensor)]
        lower = torch.is_autocast_enabled("cpu") and all(each.dtype != torch.float64 for each in tensors)
        if function not in _PRODUCTS or not lower:
            return function(*arguments, **named)
        with torch.autocast("cpu", enabled=False):
            rounded = {name: _rounded(argument) for name, argument in named.items()}
            return function(*map(_rounded, arguments), **rounded).bfloat16()


def _rounded(argument):
    return argument.bfloat16().float() if isinstance(argument, torch.Tensor) else argument


@contextmanager
def autocast_to(precision: Precision, device: torch.device) -> Iterator[None]:
    """Products of a forward pass in `precision`, "float32" or "bfloat16"; the backward pass stays outside.

    Raises InputError for bfloat16 on a GPU that does not compute with it. On a CPU that does not, the numbers are the
    same up to the order of sums, in the time that float32 takes.
    """
    lower = precision == "bfloat16"
    native = not lower or computes_bfloat16(device)
    if not native and device.type == "cuda":
        raise InputError("this GPU does not compute with bfloat16: leave --precision bfloat16 out")
    with ExitStack() as stack:
        stack.enter_context(torch.autocast(device.type, torch.bfloat16, enabled=lower))
        if not native:
            stack.enter_context(_BetweenRoundings())
        yield


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
