"""Losses of regions that may overlap: every class has a sigmoid of its own and does not compete with the others."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from seglib.ops.labels import check_regions
from seglib.ops.precision import at_least_float32
from seglib.types import VOID


def _prepare(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The logits in at least float32, the target in {0, 1} in their type, and where it is known (1) or void (0)."""
    if logits.shape != target.shape:
        raise ValueError(f"logits {tuple(logits.shape)} need regions of the same shape, got {tuple(target.shape)}")
    logits = at_least_float32(logits)
    check_regions(target)
    known = target != VOID
    return logits, target.to(logits.dtype) * known, known.to(logits.dtype)


def sigmoid_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean binary cross-entropy over all classes and all places that are not void; 0 where all are.

    Args:
        logits: ``(B, K, …)``, one score for each region.
        target: ``(B, K, …)`` integers: 1 inside the region, 0 outside, 255 void.

    Raises:
        ValueError: for other shapes or values.
    """
    logits, target, known = _prepare(logits, target)
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (loss * known).sum() / known.sum().clamp(min=1)


def sigmoid_dice(logits: Tensor, target: Tensor, *, smooth: float = 1.0, per_sample: bool = False) -> Tensor:
    r"""One minus the Dice coefficient of each region, averaged over the regions.

    .. math:: 1 - \frac{2 \sum p\, t + s}{\sum p + \sum t + s}

    Args:
        logits: ``(B, K, …)``, one score for each region.
        target: ``(B, K, …)`` integers: 1 inside the region, 0 outside, 255 void.
        smooth: the smoothing s, which keeps the loss of an absent region defined.
        per_sample: whether the sums run over each sample and the mean over samples, too; otherwise they run over the
            batch as if it were one sample.

    Raises:
        ValueError: for other shapes or values, or a ``smooth`` that isn't positive.
    """
    if smooth <= 0:
        raise ValueError(f"smooth must be positive, got {smooth}; an absent region would divide by 0")
    logits, target, known = _prepare(logits, target)
    probs = logits.sigmoid() * known
    axes = [*([] if per_sample else [0]), *range(2, logits.ndim)]
    both, sizes = (probs * target).sum(axes), probs.sum(axes) + target.sum(axes)  # (K,) or (B, K)
    return (1 - (2 * both + smooth) / (sizes + smooth)).mean()


def sigmoid_cross_entropy_dice(logits: Tensor, target: Tensor) -> Tensor:
    """:func:`sigmoid_cross_entropy` plus :func:`sigmoid_dice`."""
    return sigmoid_cross_entropy(logits, target) + sigmoid_dice(logits, target)


def sigmoid_focal_loss(logits: Tensor, target: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    r"""Focal loss of classes that each have a sigmoid: binary cross-entropy that fades where the model is right.

    .. math:: -\alpha_t (1 - p_t)^\gamma \log p_t

    where :math:`p_t` is p for a target of 1 and 1 − p for 0, and :math:`\alpha_t` likewise α and 1 − α. Detectors
    sum it over all places and divide by the number of objects' places, so nothing is reduced here.

    Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, eq. 5.

    Args:
        logits: scores of each place and class, ``(…, K)``.
        target: 1 for the class of an object at that place, else 0, of the same shape; all 0 for background.
        alpha: α, weight of targets of 1, in [0, 1].
        gamma: γ, how fast easy places fade, at least 0.

    Returns:
        The loss of each place and class, ``(…, K)``, float32 at least.

    Raises:
        ValueError: when shapes differ, or α or γ is out of range.
    """
    if logits.shape != target.shape:
        raise ValueError(f"logits {tuple(logits.shape)} need a target of the same shape, got {tuple(target.shape)}")
    if not 0 <= alpha <= 1 or not 0 <= gamma < math.inf:
        raise ValueError(f"focal loss needs alpha in [0, 1] and gamma of at least 0, got {alpha} and {gamma}")
    logits = at_least_float32(logits)
    target = target.to(logits.dtype)
    signed = logits * (1 - 2 * target)  # (…, K): log p_t = −softplus(signed), 1 − p_t = sigmoid(signed)
    weight = alpha * target + (1 - alpha) * (1 - target)
    miss = signed.sigmoid().clamp_min(torch.finfo(logits.dtype).tiny)  # 1 − p_t; above 0 the slope of a power is finite
    return weight * miss**gamma * F.softplus(signed)
