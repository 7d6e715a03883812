"""Training in several processes, started by `torchrun`; in a single process every function here does next to nothing.

Each process sees the same batches and takes its own part of every one, batch norm normalises by the whole batch, what
is drawn at random is drawn for the whole batch, and losses divide by what that holds (`common.models.divisor`): a run's
numbers depend on the number of processes only by rounding. Gradients are averaged after the backward pass on `.grad`
itself: elastic layers write there without passing through the hooks that DistributedDataParallel relies on.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, autograd, nn
from torch.nn import functional

from common import progress
from common.models.mode import usable_device
from common.plain import InputError

_Value = TypeVar("_Value")

PATIENCE = timedelta(days=1)  # the others wait while the first evaluates or waits for a run folder
MEETING = timedelta(minutes=15)  # but not so long for one that never comes


def start(device: str | None = None) -> torch.device:
    """Join the other processes when `torchrun` started this one; returns the device that this process works on.

    device: "cpu", "cuda" or "cuda:N" (default: GPU if available). Under torchrun each process on a machine takes the
    GPU of its local rank. Raises InputError for a device that cannot be used, and where the others do not come.
    """
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    where = usable_device(device, touch=alone)
    if alone:
        return where
    on_gpu = where.type == "cuda"
    if on_gpu:
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise InputError(
                f"process {local} of this machine has no GPU of its own ({torch.cuda.device_count()} here): start "
                "torchrun with --nproc-per-node no larger than the number of GPUs"
            )
        where = torch.device("cuda", local)
        torch.cuda.set_device(where)
    if not dist.is_initialized():
        try:
            store, own, processes = next(dist.rendezvous("env://", timeout=MEETING))
        except (dist.DistError, TimeoutError, ValueError) as error:  # the last where a variable is missing
            place = ":".join(os.environ.get(name, "?") for name in ("MASTER_ADDR", "MASTER_PORT"))
            own, processes = (os.environ.get(name, "?") for name in ("RANK", "WORLD_SIZE"))
            minutes, why = MEETING.total_seconds() / 60, str(error).splitlines()[0]
            raise InputError(
                f"process {own} of {processes} did not find the others at {place} within {minutes:g} minutes ({why}): "
                "start all of them, or let torchrun do so"
            ) from error
        store.set_timeout(PATIENCE)
        backend = "nccl" if on_gpu else "gloo"
        dist.init_process_group(backend, store=store, rank=own, world_size=processes, timeout=PATIENCE)
        if rank() > 0:
            progress.silence()
    return where


def stop() -> None:
    """Leave the group; harmless in a single process."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def size() -> int:
    """How many processes train together; 1 when alone."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0; only process 0 writes files."""
    return dist.get_rank() if size() > 1 else 0


def barrier() -> None:
    """Wait for all the others."""
    if size() > 1:
        dist.barrier()


def broadcast_model(model: nn.Module) -> None:
    """Give every process the parameters and buffers of process 0."""
    if size() > 1:
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, src=0)


def average(values: Tensor) -> Tensor:
    """The mean of `values` over the processes, without waiting for the device."""
    if size() == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / size()


def by_first(make: Callable[[], _Value]) -> _Value:
    """What `make` returns in process 0, in every process; an InputError that it raises there is raised in all.

    Whatever decides on a later exchange comes through here rather than from a file: another process may find the file
    written a moment later or earlier.
    """
    if size() == 1:
        return make()
    answer: list[Any] = [None]
    if rank() == 0:
        try:
            answer = [make()]
        except InputError as error:
            answer = [error]
    dist.broadcast_object_list(answer, src=0)
    if isinstance(answer[0], InputError):
        raise answer[0]
    return answer[0]


def gather(value: _Value) -> list[_Value]:
    """What each process gives, by rank, in every process."""
    if size() == 1:
        return [value]
    values: list[Any] = [None] * size()
    dist.all_gather_object(values, value)
    return values


def refuse(what: str, instead: str) -> None:
    """InputError where several processes were started by torchrun for `what` takes one. instead: what to do."""
    if size() > 1:
        raise InputError(f"{what} cannot run under torchrun: {instead}")


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether `flag` is set in any process; all must ask at the same step."""
    return flag if size() == 1 else bool(average(torch.tensor([float(flag)], device=device)).item() > 0)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over the processes: one exchange a dtype, of all gradients laid end to end.

    Every process must have gradients for the same parameters, that is, train the same sub-networks at a step.
    """
    if size() == 1:
        return
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            by_dtype.setdefault(parameter.grad.dtype, []).append(parameter.grad)
    for gradients in by_dtype.values():
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        flat /= size()
        parts = flat.split([gradient.numel() for gradient in gradients])
        torch._foreach_copy_(gradients, [part.view(g.shape) for part, g in zip(parts, gradients, strict=True)])


@contextmanager
def synchronised_batch_norm() -> Iterator[None]:
    """In here, batch norm in training normalises by the statistics of all processes' batches together.

    It is torch's function that is exchanged, not the layers: elastic ones call it, too, with a part of their weights,
    and nn.SyncBatchNorm works on GPUs only. Every process must call the same layers in the same order.
    """
    plain = functional.batch_norm
    if size() > 1:
        functional.batch_norm = partial(_batch_norm, plain)
    try:
        yield
    finally:
        functional.batch_norm = plain


def _batch_norm(
    plain: Callable[..., Tensor],
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not training:
        return plain(x, running_mean, running_var, weight, bias, training, momentum, eps)
    normal, mean, variance, count = _Normalised.apply(x, eps)
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(variance * (count / (count - 1)), momentum)
    shape = (1, -1, *[1] * (x.dim() - 2))
    scaled = normal if weight is None else normal * weight.view(shape)
    return (scaled if bias is None else scaled + bias.view(shape)).to(x.dtype)


class _Normalised(autograd.Function):
    """x (B, C, ...) less its mean over all processes, over its deviation; with mean, biased variance (C,) and count."""

    @staticmethod
    def forward(context: Any, x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        C = x.shape[1]
        dims, shape = [0, *range(2, x.dim())], (1, C, *[1] * (x.dim() - 2))
        values = x.float()
        variance, mean = torch.var_mean(values, dims, correction=0)
        mine = torch.cat([mean, variance, mean.new_tensor([x.numel() // C])])
        every = [torch.empty_like(mine) for _ in range(size())]
        dist.all_gather(every, mine)
        means, variances, counts = torch.stack(every).double().split([C, C, 1], dim=1)
        count = counts.sum()
        mean = (counts * means).sum(0) / count
        variance = (counts * (variances + (means - mean).square())).sum(0) / count
        mean, variance, count = mean.float(), variance.float(), count.float()
        scale = (variance + eps).rsqrt().view(shape)
        normal = (values - mean.view(shape)) * scale
        context.save_for_backward(normal, scale, count)
        context.dims = dims
        context.mark_non_differentiable(mean, variance, count)
        return normal, mean, variance, count

    @staticmethod
    def backward(context: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, None]:
        normal, scale, count = context.saved_tensors
        sums = torch.stack([gradient.sum(context.dims), (gradient * normal).sum(context.dims)])
        dist.all_reduce(sums)  # each process's statistics depend on the others' images
        of_mean, of_deviation = (each.view(scale.shape) / count for each in sums)
        return scale * (gradient - of_mean - normal * of_deviation), None


def batch_size(batch: Any) -> int:
    """The first dimension of the first tensor in a batch (a tensor, or a sequence or dataclass of such)."""
    return batch.shape[0] if isinstance(batch, Tensor) else batch_size(_parts(batch)[0])


def _parts(batch: Any) -> list[Any]:
    return [getattr(batch, field.name) for field in fields(batch)] if is_dataclass(batch) else list(batch)


def part_of(batch: Any) -> Any:
    """This process's part of a batch: B / size examples of every tensor in it.

    Raises InputError when the batch size B does not divide by the number of processes.
    """
    if size() == 1:
        return batch
    examples = batch_size(batch)
    if examples % size():
        raise InputError(
            f"a batch of {examples} does not divide among {size()} processes: choose a batch size that is a multiple"
        )
    share = examples // size()
    return _each_tensor(batch, lambda tensor: tensor[rank() * share : (rank() + 1) * share])


def whole_of(part: Any) -> Any:
    """The batch of which `part_of` gave each process its part, in all of them: for a loss of pairs of examples."""
    return part if size() == 1 else _each_tensor(part, _gathered)


def _gathered(part: Tensor) -> Tensor:
    parts = [torch.empty_like(part) for _ in range(size())]
    dist.all_gather(parts, part.contiguous())
    return torch.cat(parts)


def _each_tensor(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(batch, Tensor):
        return change(batch)
    parts = [_each_tensor(each, change) for each in _parts(batch)]
    return type(batch)(*parts) if is_dataclass(batch) else type(batch)(parts)
