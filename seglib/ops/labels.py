"""Label maps, integer tensors of class ids with one value that stands for void, and regions that may overlap."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from seglib.types import VOID

AXES = ("image", "row", "column")


def require_integers(labels: Tensor, name: str = "label") -> None:
    """Raise ``ValueError`` when ``labels`` are floating-point numbers, such as logits."""
    if labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"a {name} is an integer class id, got {labels.dtype}; take the argmax of logits over classes")


def check_labels(labels: Tensor, num_classes: int, ignore_index: int | None = None, *, name: str = "label") -> None:
    """Raise when a label is neither a class id nor void.

    One pass for the lowest and the highest label; the offender is looked for only when there is one. On a GPU the
    two numbers travel to the host, which waits for the queue to drain: without that wait a bad label would reach an
    indexing kernel, whose failure ends the process without naming the label.

    Args:
        labels: integers of any shape; ``(H, W)`` and ``(B, H, W)`` are reported as rows and columns. May be empty.
        num_classes: number of classes K; the class ids are 0..K−1.
        ignore_index: the id of void, allowed as well; ``None`` when there is none.
        name: the name of the labels in the message ("target label", "predicted label").

    Raises:
        ValueError: when the labels aren't integers, or with the first bad label, its position and the remedy.
    """
    require_integers(labels, name)
    if labels.numel() == 0:
        return
    known = labels.long()
    if ignore_index is not None:
        known = torch.where(known == ignore_index, 0, known)
    low, high = torch.stack(torch.aminmax(known)).tolist()
    if low >= 0 and high < num_classes:
        return
    index = ((known < 0) | (known >= num_classes)).nonzero()[0].tolist()
    value = int(labels[tuple(index)])
    axes = AXES[-len(index) :] if len(index) in (2, 3) else (*(f"axis {i}" for i in range(len(index))),)
    where = ", ".join(f"{axis} {i}" for axis, i in zip(axes, index, strict=True))
    void = "" if ignore_index is None else f" or {ignore_index}"
    raise ValueError(
        f"{name} {value} at ({where}) is not in 0..{num_classes - 1}{void}; "
        f'remap it when the data is read (remap={{{value}: …}}, or "ids" in categories.json), '
        "or correct num_classes or ignore_index"
    )


def regions_of(labels: Tensor, members: Sequence[Tensor]) -> Tensor:
    """Label maps as regions that may overlap.

    Args:
        labels: class ids ``(B, …)`` or 255 for void.
        members: for each region the ids of its classes, ``(n,)``.

    Returns:
        ``(B, K, …)`` uint8: 1 inside the region, 0 outside, 255 void.
    """
    inside = torch.stack([torch.isin(labels, of_region.to(labels)) for of_region in members], 1)  # (B, K, …)
    return inside.to(torch.uint8).masked_fill(labels[:, None] == VOID, VOID)


def labels_of(inside: Tensor, classes: Sequence[int]) -> Tensor:
    """Regions as one label map: each writes the id of its class, over those before it; elsewhere is background, 0.

    Args:
        inside: bool ``(K, …)``.
        classes: the id that each region writes, K numbers.

    Returns:
        ``(…)`` uint8.
    """
    labels = torch.zeros_like(inside[0], dtype=torch.uint8)
    for mask, written in zip(inside, classes, strict=True):
        labels.masked_fill_(mask, written)
    return labels


def check_regions(regions: Tensor) -> None:
    """Raise when regions that may overlap hold anything but 0, 1 and void.

    Args:
        regions: integers of any shape: 1 inside the region, 0 outside, 255 void.

    Raises:
        ValueError: when the regions aren't integers, or with the first bad value and the remedy.
    """
    expected = f"regions are 0, 1 or {VOID} (void)"
    if regions.is_floating_point() or regions.is_complex():
        raise ValueError(f"{expected}, integers, got {regions.dtype}; convert them, e.g. to torch.uint8")
    bad = (regions < 0) | ((regions > 1) & (regions != VOID))
    if bad.any():
        raise ValueError(f"{expected}, got {int(regions[bad][0])}; make masks of 0 and 1, e.g. by `labels == class_id`")
