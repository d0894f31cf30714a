"""Images that hold different numbers of things, in one batch: packed as rows, or padded to slots.

=======  ====================  =======================================================================================
packed   ``(N, …)``            the things of all images one after the other; ``image`` ``(N,)`` says whose each is
padded   ``(B, R, …)``         R slots for every image; ``valid`` ``(B, R)`` says which are filled, the rest is padding
=======  ====================  =======================================================================================

Heads run on packed rows, so that padding costs nothing; outputs are padded, so that a batch is one tensor.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from seglib.ops.precision import at_least_float32


def filled_slots(valid: Tensor, *, training: bool) -> tuple[Tensor, Tensor]:
    """Where the filled slots of a padded batch are; ``values[image, slot]`` packs them.

    In evaluation under a compiler, and in an export, these are all slots, so that no size depends on data;
    :func:`to_slots` clears the padding. In training they are never: batch norm would count what is empty.

    Args:
        valid: whether a slot is filled, ``(B, R)`` bool.
        training: whether the layers that see the packed rows are in training mode.

    Returns:
        ``image`` and ``slot``, ``(N,)`` int64 each, image by image.
    """
    if training or not torch.compiler.is_compiling():
        return valid.nonzero().unbind(1)  # type: ignore[return-value]  # a tuple of two: valid has two axes
    batch, slots = valid.shape
    image = torch.arange(batch, device=valid.device)
    slot = torch.arange(slots, device=valid.device)
    return image[:, None].expand(batch, slots).flatten(), slot.repeat(batch)


def to_slots(rows: Tensor, valid: Tensor, image: Tensor, slot: Tensor) -> Tensor:
    """Packed rows at their slots of a padded batch; padding is zeros. Gradients pass.

    Args:
        rows: values of the filled slots, ``(N, …)``, in the order of :func:`filled_slots`.
        valid: whether a slot is filled, ``(B, R)`` bool.
        image: image of each filled slot, ``(N,)`` as :func:`filled_slots` returns it.
        slot: place of each filled slot in its image, ``(N,)`` as :func:`filled_slots` returns it.

    Returns:
        ``(B, R, …)``, float32 at least.
    """
    rows = at_least_float32(rows)
    padded = rows.new_zeros(*valid.shape, *rows.shape[1:]).index_put((image, slot), rows)
    if torch.compiler.is_compiling():
        padded = padded.masked_fill(~valid.view(*valid.shape, *(1,) * (rows.ndim - 1)), 0)
    return padded


def pad_lists(lists: Sequence[Tensor], length: int, padding: float = 0) -> Tensor:
    """Tensors of different lengths as one padded batch.

    Args:
        lists: B tensors ``(N_i, …)``, alike but for N_i.
        length: number of slots R of every image.
        padding: value of the padding.

    Returns:
        ``(B, R, …)``.

    Raises:
        ValueError: when a tensor is longer than R.
    """
    if (most := max(len(rows) for rows in lists)) > length:
        raise ValueError(f"{most} rows do not fit into {length} slots; ask for more slots or pass fewer rows")
    padded = lists[0].new_full((len(lists), length, *lists[0].shape[1:]), padding)
    for image, rows in enumerate(lists):
        padded[image, : len(rows)] = rows
    return padded


def first_rows(counts: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """The packed row at which each image begins: ``(B,)`` int64, of images that hold these numbers of things."""
    each = torch.tensor(counts, device=device)
    return each.cumsum(0) - each


def take_rows(packed: Tensor, row: Tensor, valid: Tensor) -> Tensor:
    """The rows of a packed table, and zeros where none is meant.

    Args:
        packed: rows to take from, ``(N, …)``; N may be 0.
        row: index of each row, ``(…)`` int64, anything where not valid.
        valid: whether a row is wanted, ``(…)`` bool in the shape of ``row``.

    Returns:
        ``(…, …)``: the shape of ``row``, then that of a row.
    """
    if len(packed) == 0:
        return packed.new_zeros(*row.shape, *packed.shape[1:])
    taken = packed[torch.where(valid, row, 0)]
    return taken.masked_fill(~valid.view(*valid.shape, *(1,) * (packed.ndim - 1)), 0)
