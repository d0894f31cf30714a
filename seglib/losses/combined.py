"""Plain sums of two losses: cross-entropy for calibrated probabilities, a region loss for small classes."""

from __future__ import annotations

from torch import Tensor

from seglib.losses.lovasz import lovasz_softmax
from seglib.losses.pixel import cross_entropy
from seglib.losses.region import dice_loss
from seglib.types import VOID


def cross_entropy_dice(logits: Tensor, target: Tensor, *, ignore_index: int = VOID) -> Tensor:
    """:func:`~seglib.losses.pixel.cross_entropy` plus :func:`~seglib.losses.region.dice_loss`, as nnU-Net trains."""
    ce = cross_entropy(logits, target, ignore_index=ignore_index)
    return ce + dice_loss(logits, target, ignore_index=ignore_index)


def cross_entropy_lovasz(logits: Tensor, target: Tensor, *, ignore_index: int = VOID) -> Tensor:
    """:func:`~seglib.losses.pixel.cross_entropy` plus :func:`~seglib.losses.lovasz.lovasz_softmax`."""
    ce = cross_entropy(logits, target, ignore_index=ignore_index)
    return ce + lovasz_softmax(logits, target, ignore_index=ignore_index)
