"""Numbers that all processes of a run share."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of a number over all processes; the number itself in a single one. No gradient passes.

    A loss that divides by a count takes the mean of the counts. DDP averages gradients over processes, so that the
    result is that of one process with all images: a mean over all objects, not a mean of means.

    Args:
        value: a float tensor of any shape, of one shape in all processes.
    """
    value = value.detach()
    if not _several():
        return value
    total = value.clone()
    distributed.all_reduce(total)
    return total / distributed.get_world_size()


def gather_from_processes(value: Tensor) -> list[Tensor]:
    """The value of every process, in the order of their ranks; the value alone in a single one.

    Args:
        value: a tensor of one shape and type in all processes, on a device that they can communicate from.
    """
    if not _several():
        return [value]
    found = [torch.empty_like(value) for _ in range(distributed.get_world_size())]
    distributed.all_gather(found, value.contiguous())
    return found


@torch.no_grad()
def share_buffers(module: torch.nn.Module) -> None:
    """Give every process the buffers of the first: running statistics of batch norm are of what a process saw itself.

    DDP does it at the beginning of a step, so that between steps those of the processes differ.
    """
    if _several():
        for buffer in module.buffers():
            distributed.broadcast(buffer, 0)


def rank() -> int:
    """The number of this process, from 0; 0 of a single one."""
    return distributed.get_rank() if _several() else 0


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized()
