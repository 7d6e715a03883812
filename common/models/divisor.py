"""What the sum of a loss over a batch is divided by."""

import torch
import torch.distributed as dist
from torch import Tensor


def divisor(count: Tensor) -> Tensor:
    """`count` (), at least 1, of whatever a loss is averaged over in this process's part of the batch.

    In a training of several processes it is their total count over the number of processes. Their losses and gradients
    are averaged later, and the mean is then that of the whole batch, however unevenly objects lie in its parts.
    """
    if not (torch.is_grad_enabled() and dist.is_available() and dist.is_initialized()):
        return count.clamp(min=1)
    total = count.detach().to(torch.float32, copy=True)
    dist.all_reduce(total)
    return total.clamp(min=1) / dist.get_world_size()
