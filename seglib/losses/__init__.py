"""Losses: logits ``(B, K, H, W)`` and labels ``(B, H, W)`` to a scalar that training minimises."""

from collections.abc import Callable

from torch import Tensor

from seglib.losses.combined import cross_entropy_dice, cross_entropy_lovasz, nnunet_loss
from seglib.losses.lovasz import lovasz_softmax
from seglib.losses.overlapping import (
    sigmoid_cross_entropy,
    sigmoid_cross_entropy_dice,
    sigmoid_dice,
    sigmoid_focal_loss,
)
from seglib.losses.pixel import cross_entropy, focal_loss, ohem_cross_entropy
from seglib.losses.region import dice_loss, mask_dice_loss, tversky_loss

__all__ = [
    "LOSSES", "cross_entropy", "cross_entropy_dice", "cross_entropy_lovasz", "dice_loss", "focal_loss",
    "lovasz_softmax", "mask_dice_loss", "nnunet_loss", "ohem_cross_entropy", "sigmoid_cross_entropy",
    "sigmoid_cross_entropy_dice", "sigmoid_dice", "sigmoid_focal_loss", "tversky_loss",
]  # fmt: skip

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ce": cross_entropy,
    "focal": focal_loss,
    "ohem": ohem_cross_entropy,
    "dice": dice_loss,
    "tversky": tversky_loss,
    "lovasz": lovasz_softmax,
    "ce+dice": cross_entropy_dice,
    "ce+lovasz": cross_entropy_lovasz,
}
"""The losses of semantic segmentation by the name that ``seglib train --loss`` takes, with their default settings."""
