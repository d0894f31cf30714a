"""What every loss checks and prepares before it counts: shapes, labels, precision."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from seglib.ops.labels import check_labels


def prepare(logits: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor, Tensor]:
    """The logits in at least float32, the labels with void lent class 0, and where a label is.

    Args:
        logits: class scores ``(B, K, …)``.
        target: ``(B, …)`` class ids or ``ignore_index``, integers of any type.
        ignore_index: the id of void in ``target``.

    Returns:
        logits ``(B, K, …)`` float32 or float64; known ``(B, …)`` int64 in 0..K−1; valid ``(B, …)`` bool.

    Raises:
        ValueError: when shapes don't fit or a label is neither a class nor void.
    """
    if logits.ndim < 2 or target.shape != (logits.shape[0], *logits.shape[2:]):
        raise ValueError(
            f"logits {tuple(logits.shape)} need a target of shape {(logits.shape[0], *logits.shape[2:])}, "
            f"got {tuple(target.shape)}; resize the logits to the target's size"
        )
    check_labels(target, logits.shape[1], ignore_index, name="target label")
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    valid = target != ignore_index
    return logits, target.long().masked_fill(~valid, 0), valid


def check_weights(weights: Tensor, shape: tuple[int, ...], name: str, owner: str) -> None:
    """Raise ``ValueError`` when weights have another shape, or one is negative, NaN or infinite.

    Args:
        weights: the weights to check.
        shape: shape that the weights must have.
        name: name of the argument, for the message.
        owner: whose weights they are ("3 classes"), for the message.
    """
    if weights.shape != shape:
        raise ValueError(f"{owner} need {name} of shape {shape}, got {tuple(weights.shape)}")
    if weights.numel() == 0:
        return
    low, high = torch.stack(torch.aminmax(weights.detach())).tolist()  # NaN makes both NaN
    if not (low >= 0 and high < math.inf):
        seen = high if low >= 0 else low
        raise ValueError(f"{name} must be finite and at least 0, got {seen}; 0 leaves a place out")
