r"""Losses that judge every pixel on its own: cross-entropy, focal loss and the mining of hard pixels.

For the logits z of one pixel and its class y,

.. math:: p_y = \text{softmax}(z)_y \qquad \text{CE} = -\log p_y = \log \sum_k \exp(z_k) - z_y

Plain cross-entropy is the mean of CE over the pixels that have a label. The others change how much a pixel counts:
weights set beforehand (per class, per pixel), weights by difficulty (focal), or only the hard pixels (OHEM).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from seglib.losses._inputs import check_weights, prepare
from seglib.types import VOID


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = VOID,
    weight: Tensor | None = None,
    pixel_weight: Tensor | None = None,
    impl: Literal["fast", "reference"] = "fast",
) -> Tensor:
    r"""Mean cross-entropy over the labelled pixels, weighted by class and by pixel.

    .. math:: L = \frac{\sum_x w(x)\, \text{CE}(x)}{\sum_x w(x)}

    over the pixels x whose target y isn't void; w(x) is the product of ``weight[y(x)]`` and ``pixel_weight(x)``, each 1
    when not given. Half-precision logits are computed in float32, under autocast too.

    Differs from :func:`torch.nn.functional.cross_entropy` in three ways: a weight per pixel (Ronneberger et al.,
    *U-Net*, MICCAI 2015, eq. 1, there a sum instead of a mean); without a labelled pixel (or with weight 0 on all of
    them) the loss is 0 with zero gradients, where torch gives NaN; and a bad label or weight raises a ``ValueError``
    before any kernel sees it. Each check reads two numbers back, so on a GPU the host waits once for the labels and
    once for the class weights and once for the pixel weights.

    Args:
        logits: class scores ``(B, K, H, W)``, or ``(B, K, …)`` with any spatial dimensions. B, H or W may be 0.
        target: ``(B, H, W)`` class ids in 0..K−1 or ``ignore_index``, integers of any type.
        ignore_index: the id of void in ``target``.
        weight: ``(K,)`` class weights, finite and at least 0.
        pixel_weight: ``(B, H, W)`` weights, finite and at least 0; a pixel of weight 0 is left out like void.
        impl: ``"reference"`` writes the log-sum-exp out, ``"fast"`` uses torch's kernels. Equal to rounding.

    Returns:
        A scalar, float32 (float64 for float64 logits).

    Raises:
        ValueError: when shapes don't fit, a label is neither a class nor void, a weight is negative or not finite, or
            ``impl`` is unknown.
    """
    logits, known, valid = prepare(logits, target, ignore_index)
    num_classes, shape = logits.shape[1], tuple(target.shape)
    w = valid  # (B, H, W)
    if weight is not None:
        check_weights(weight, (num_classes,), "weight", f"{num_classes} classes")
        w = w * weight.to(logits)[known]
    if pixel_weight is not None:
        check_weights(pixel_weight, shape, "pixel_weight", f"targets {shape}")
        w = w * pixel_weight.to(logits)
    counted = w > 0  # (B, H, W)
    if impl == "reference":
        ce = _log_sum_exp(logits) - logits.gather(1, known[:, None])[:, 0]  # (B, H, W)
        ce = ce.masked_fill(~counted, 0)
    elif impl == "fast":
        ce = _cross_entropy_map(logits, known, counted)  # (B, H, W)
    else:
        raise ValueError(f"impl is 'fast' or 'reference', got {impl!r}")
    total = w.sum()
    weighted = ce if w is valid else w * ce  # (B, H, W)
    return weighted.sum() / torch.where(total > 0, total, 1)


def focal_loss(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = VOID,
    gamma: float = 2.0,
    alpha: Tensor | None = None,
) -> Tensor:
    r"""Mean focal loss over the labelled pixels: cross-entropy that fades where the model is right already.

    .. math:: L = \frac{1}{N} \sum_x \alpha_y\, (1 - p_y)^\gamma\, (-\log p_y)

    over the N pixels x whose target y isn't void. γ = 0 without α is cross-entropy. Half-precision logits are computed
    in float32, under autocast too.

    Source: Lin et al., *Focal Loss for Dense Object Detection*, ICCV 2017, eq. 5, there with a sigmoid for two
    classes. This is the softmax form for K classes: with logits (0, z) it is the paper's loss of z, and the paper's α
    is ``alpha = (1 − α, α)``. The paper divides by the number of boxes with an object, which pixels don't have; this
    is a mean over pixels, and unlike weighted cross-entropy's it isn't divided by the sum of α. MONAI's
    ``FocalLoss(use_softmax=True)`` without void divides by K as well; smp's takes a sigmoid for each class.

    Args:
        logits: class scores ``(B, K, H, W)``, or ``(B, K, …)`` with any spatial dimensions. B, H or W may be 0.
        target: ``(B, H, W)`` class ids in 0..K−1 or ``ignore_index``, integers of any type.
        ignore_index: the id of void in ``target``.
        gamma: the exponent γ, at least 0: how fast easy pixels fade.
        alpha: ``(K,)`` factors per class, finite and at least 0; 1 when ``None``.

    Returns:
        A scalar, float32 (float64 for float64 logits); 0 with zero gradients without a labelled pixel.

    Raises:
        ValueError: when shapes don't fit, a label is neither a class nor void, or γ or α is negative or not finite.
    """
    if not 0 <= gamma < math.inf:
        raise ValueError(f"gamma is finite and at least 0, got {gamma}; 0 is cross-entropy, the paper takes 2")
    logits, known, valid = prepare(logits, target, ignore_index)
    num_classes = logits.shape[1]
    ce = _cross_entropy_map(logits, known, valid)  # (B, H, W)
    # 1 − p_y without cancellation where p_y is near 1; kept above 0, where the slope of a power below 1 is infinite
    miss = (-torch.expm1(-ce)).clamp_min(torch.finfo(ce.dtype).tiny)  # (B, H, W)
    loss = miss**gamma * ce  # (B, H, W), 0 at void pixels
    if alpha is not None:
        check_weights(alpha, (num_classes,), "alpha", f"{num_classes} classes")
        loss = alpha.to(logits)[known] * loss
    return loss.sum() / valid.sum().clamp_min(1)


def ohem_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = VOID,
    threshold: float = 0.7,
    min_kept: int | None = None,
) -> Tensor:
    """Mean cross-entropy over the hard pixels of a batch (online hard example mining).

    A labelled pixel is kept when p_y < ``threshold``. When fewer than ``min_kept`` are, the threshold rises until that
    many are kept (all, when fewer have a label; pixels that tie with the last one as well). L is the mean of −log p_y
    over the kept pixels. Which ones are kept is decided on the values and has no gradient.

    Source: Shrivastava et al., *Training Region-based Object Detectors with Online Hard Example Mining*, CVPR 2016,
    for boxes; for pixels, with a threshold that rises, Wu et al., *Bridging Category-level and Instance-level Semantic
    Image Segmentation*, 2016 (arXiv 1605.06885), "online bootstrapping".

    Args:
        logits: class scores ``(B, K, H, W)``, or ``(B, K, …)`` with any spatial dimensions. B, H or W may be 0.
        target: ``(B, H, W)`` class ids in 0..K−1 or ``ignore_index``, integers of any type.
        ignore_index: the id of void in ``target``.
        threshold: probability of the true class from which a pixel is easy, in (0, 1].
        min_kept: the least number of pixels to keep, over the batch; ``None`` is a sixteenth of the labelled ones.

    Returns:
        A scalar, float32 (float64 for float64 logits); 0 with zero gradients when no pixel is kept.

    Raises:
        ValueError: when shapes don't fit, a label is neither a class nor void, the threshold isn't in (0, 1], or
            ``min_kept`` is negative.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold is a probability above 0 and at most 1, got {threshold}; 0.7 is common")
    if min_kept is not None and min_kept < 0:
        raise ValueError(f"min_kept is a number of pixels, at least 0, got {min_kept}; None is a sixteenth of them")
    logits, known, valid = prepare(logits, target, ignore_index)
    ce = _cross_entropy_map(logits, known, valid)  # (B, H, W)
    hardness = ce.detach()
    # "not easy" rather than "hard": NaN must stay in the mean, or a model that has diverged would get loss 0
    kept = valid & ~((-hardness).exp() >= threshold)  # (B, H, W)
    labelled = int(valid.sum())
    least = labelled // 16 if min_kept is None else min(min_kept, labelled)
    if int(kept.sum()) < least:
        last = hardness[valid].kthvalue(labelled - least + 1).values
        kept = valid & ~(hardness < last)
    return ce.masked_fill(~kept, 0).sum() / kept.sum().clamp_min(1)


def _cross_entropy_map(logits: Tensor, known: Tensor, counted: Tensor) -> Tensor:
    """CE of every pixel, 0 where it doesn't count: ``(B, K, …)``, ``(B, …)``, ``(B, …)`` to ``(B, …)``."""
    nobody = -100  # no class has it; the caller's void may be any number
    return F.cross_entropy(logits, known.masked_fill(~counted, nobody), ignore_index=nobody, reduction="none")


def _log_sum_exp(z: Tensor) -> Tensor:
    """The log-sum-exp log Σ_k exp(z_k) over classes: ``(B, K, …)`` to ``(B, …)``."""
    top = z.detach().amax(1, keepdim=True)  # (B, 1, …) the largest exponent becomes 0, so none overflows
    return top[:, 0] + (z - top).exp().sum(1).log()
