"""Plain sums of two losses: cross-entropy for calibrated probabilities, a region loss for small classes."""

from __future__ import annotations

from torch import Tensor

from seglib.losses.lovasz import lovasz_softmax
from seglib.losses.overlapping import sigmoid_cross_entropy, sigmoid_dice
from seglib.losses.pixel import cross_entropy
from seglib.losses.region import dice_loss
from seglib.types import VOID


def cross_entropy_dice(logits: Tensor, target: Tensor, *, ignore_index: int = VOID) -> Tensor:
    """:func:`~seglib.losses.pixel.cross_entropy` plus :func:`~seglib.losses.region.dice_loss`.

    nnU-Net's own variant of it is :func:`nnunet_loss`.
    """
    ce = cross_entropy(logits, target, ignore_index=ignore_index)
    return ce + dice_loss(logits, target, ignore_index=ignore_index)


def cross_entropy_lovasz(logits: Tensor, target: Tensor, *, ignore_index: int = VOID) -> Tensor:
    """:func:`~seglib.losses.pixel.cross_entropy` plus :func:`~seglib.losses.lovasz.lovasz_softmax`."""
    ce = cross_entropy(logits, target, ignore_index=ignore_index)
    return ce + lovasz_softmax(logits, target, ignore_index=ignore_index)


def nnunet_loss(logits: Tensor, target: Tensor, *, batch_dice: bool) -> Tensor:
    """Cross-entropy plus soft Dice with nnU-Net's settings.

    The Dice loss leaves the background out, counts absent classes, and has a smoothing of 1e-5. Of regions that may
    overlap, the cross-entropy is the binary one and the Dice loss has all regions.

    Source: Isensee et al., "nnU-Net", Nature Methods 2021, and its version 2. Its Dice term is −D where ours is 1 − D,
    so its loss is ours minus 1. Of regions with an "ignore" label, nnU-Net adds the cross-entropies of the K regions
    up, and without that label it takes their mean; here they are a mean always.

    Args:
        logits: class scores ``(B, K, …)``.
        target: class ids ``(B, …)`` in 0..K−1, or regions ``(B, K, …)`` of 0 and 1; 255 is void and left out.
        batch_dice: whether Dice counts over the batch as if it were one sample; otherwise within each sample, and the
            mean runs over samples, too.

    Returns:
        A scalar of at least 0, float32 (float64 for float64 logits).

    Raises:
        ValueError: when shapes don't fit, or a label is neither a class, or 0 or 1 of regions, nor void.
    """
    if target.ndim == logits.ndim:
        dice = sigmoid_dice(logits, target, smooth=1e-5, per_sample=not batch_dice)
        return sigmoid_cross_entropy(logits, target) + dice
    return cross_entropy(logits, target) + dice_loss(
        logits, target, smooth=1e-5, per_sample=not batch_dice, absent="count", include_background=False
    )
