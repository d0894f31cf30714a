"""Numbers that all processes of a run share."""

from __future__ import annotations

from torch import Tensor, distributed


def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of a number over all processes; the number itself in a single one. No gradient passes.

    A loss that divides by a count takes the mean of the counts. DDP averages gradients over processes, so that the
    result is that of one process with all images: a mean over all objects, not a mean of means.

    Args:
        value: a float tensor of any shape, of one shape in all processes.
    """
    value = value.detach()
    if not (distributed.is_available() and distributed.is_initialized()):
        return value
    total = value.clone()
    distributed.all_reduce(total)
    return total / distributed.get_world_size()
