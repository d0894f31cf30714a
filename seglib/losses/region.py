r"""Losses that judge a region as a whole: soft Dice and its generalisation by Tversky.

Both count, for class k, the pixels that are right and wrong, with probabilities p_k in place of yes and no:

.. math::

    \text{TP}_k = \sum_{x:\, y(x) = k} p_k(x) \qquad
    \text{FP}_k = \sum_{x:\, y(x) \ne k} p_k(x) \qquad
    \text{FN}_k = \sum_{x:\, y(x) = k} (1 - p_k(x))

over the labelled pixels x. A class of 10 pixels then weighs as much as one of 10,000.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from seglib.losses._inputs import prepare
from seglib.ops.precision import at_least_float32
from seglib.types import VOID


def dice_loss(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = VOID,
    per_sample: bool = False,
    smooth: float = 1e-5,
    absent: Literal["skip", "count"] = "skip",
    include_background: bool = True,
    impl: Literal["fast", "reference"] = "fast",
) -> Tensor:
    r"""Soft Dice loss: the mean over classes of 1 − D_k.

    With Σ p_k the sum of the probabilities and n_k the number of pixels of class k,

    .. math::

        \begin{aligned}
        D_k &= \frac{2\, \text{TP}_k + s}{2\, \text{TP}_k + \text{FP}_k + \text{FN}_k + s} \\
            &= \frac{2 \sum_{x:\, y(x) = k} p_k(x) + s}{\sum p_k + n_k + s}
        \end{aligned}

    The probabilities aren't squared, and the smoothing s stands above and below. A class that the target doesn't have
    has no overlap to judge: TP = FN = 0, so D_k = s / (FP_k + s), which is near 0 however little of it is predicted.
    ``absent="skip"`` leaves it out of the mean (its wrong pixels still cost the classes they belong to);
    ``absent="count"`` takes it in, and only a probability of well below s pixels in all makes its loss small. Where
    nothing is labelled, D_k is 1 and the loss is 0 with zero gradients.

    Source: Milletari et al., *V-Net*, 3DV 2016, eq. 1, which squares the probabilities in the denominator; without the
    squares Drozdzal et al., *The Importance of Skip Connections in Biomedical Image Segmentation*, 2016. MONAI's
    ``DiceLoss(softmax=True, batch=not per_sample)`` is ``absent="count"`` at the same s. smp's ``DiceLoss`` gives an
    absent class the loss 0 but divides by K: at ``smooth=s/2`` it is ours times (present classes) / K.

    Args:
        logits: class scores ``(B, K, H, W)``, or ``(B, K, …)`` with any spatial dimensions. B, H or W may be 0.
        target: ``(B, H, W)`` class ids in 0..K−1 or ``ignore_index``, integers of any type.
        ignore_index: the id of void in ``target``.
        per_sample: whether to count within every image, and take the mean over the pairs of image and class; otherwise
            count over the batch as if it were one image.
        smooth: the smoothing s in pixels, at least 0.
        absent: role of a class without a pixel in the target (that of the image, when ``per_sample``): "skip" leaves it
            out of the mean, "count" keeps it in.
        include_background: whether class 0 takes part in the mean.
        impl: ``"reference"`` multiplies with a one-hot target, ``"fast"`` never builds it. Equal to rounding.

    Returns:
        A scalar in [0, 1], float32 (float64 for float64 logits), half precision included, under autocast too.

    Raises:
        ValueError: when shapes don't fit, a label is neither a class nor void, ``smooth`` is negative or not finite,
            or ``absent`` or ``impl`` is unknown.
    """
    return tversky_loss(
        logits,
        target,
        ignore_index=ignore_index,
        alpha=0.5,
        beta=0.5,
        per_sample=per_sample,
        smooth=smooth / 2,
        absent=absent,
        include_background=include_background,
        impl=impl,
    )


def tversky_loss(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = VOID,
    alpha: float = 0.3,
    beta: float = 0.7,
    per_sample: bool = False,
    smooth: float = 1e-5,
    absent: Literal["skip", "count"] = "skip",
    include_background: bool = True,
    impl: Literal["fast", "reference"] = "fast",
) -> Tensor:
    r"""Tversky loss: the mean over classes of 1 − T_k, with one price for false positives and one for false negatives.

    .. math:: T_k = \frac{\text{TP}_k + s}{\text{TP}_k + \alpha\, \text{FP}_k + \beta\, \text{FN}_k + s}

    β > α asks for recall. α = β = ½ is Dice, whose s is twice this one; α = β = 1 is soft IoU.

    Source: Salehi et al., *Tversky Loss Function for Image Segmentation Using 3D Fully Convolutional Deep Networks*,
    MLMI 2017, eq. 4, for one class; there α = 0.3 and β = 0.7 did best. The mean over classes, absent classes and
    void are as in :func:`dice_loss`, and so is the relation to MONAI's and smp's ``TverskyLoss``, at the same s.

    Args:
        logits: class scores ``(B, K, H, W)``, or ``(B, K, …)`` with any spatial dimensions. B, H or W may be 0.
        target: ``(B, H, W)`` class ids in 0..K−1 or ``ignore_index``, integers of any type.
        ignore_index: the id of void in ``target``.
        alpha: α, the price of a false positive, at least 0.
        beta: β, the price of a false negative, at least 0.
        per_sample: whether to count within every image, and take the mean over the pairs of image and class; otherwise
            count over the whole batch.
        smooth: the smoothing s in pixels, at least 0.
        absent: role of a class without a pixel in the target: "skip" leaves it out of the mean, "count" keeps it in.
        include_background: whether class 0 takes part in the mean.
        impl: ``"reference"`` multiplies with a one-hot target, ``"fast"`` never builds it. Equal to rounding.

    Returns:
        A scalar in [0, 1], float32 (float64 for float64 logits), half precision included, under autocast too.

    Raises:
        ValueError: when shapes don't fit, a label is neither a class nor void, α, β or ``smooth`` is negative or not
            finite, or ``absent`` or ``impl`` is unknown.
    """
    for name, value in {"alpha": alpha, "beta": beta, "smooth": smooth}.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} is finite and at least 0, got {value}")
    if absent not in ("skip", "count"):
        raise ValueError(f"absent is 'skip' or 'count', got {absent!r}")
    logits, known, valid = prepare(logits, target, ignore_index)
    if impl == "fast":
        tp, fp, fn = _SoftCounts.apply(logits, known, valid)  # (B, K) each
    elif impl == "reference":
        tp, fp, fn = _soft_counts(logits, known, valid)
    else:
        raise ValueError(f"impl is 'fast' or 'reference', got {impl!r}")
    if not include_background:
        tp, fp, fn = tp[:, 1:], fp[:, 1:], fn[:, 1:]  # (B, K − 1) each
    if not per_sample:
        tp, fp, fn = tp.sum(0), fp.sum(0), fn.sum(0)  # (K,) each
    wrong = alpha * fp + beta * fn
    total = tp + wrong + smooth
    # 1 − T, without the cancellation; 0 / 0 is 0, and so is what underflows: 1 / total stays finite for the gradient
    loss = wrong / torch.where(total > torch.finfo(total.dtype).tiny, total, 1)
    counted = tp + fn > 0 if absent == "skip" else torch.ones_like(loss, dtype=torch.bool)
    return (loss * counted).sum() / counted.sum().clamp_min(1)


def mask_dice_loss(logits: Tensor, target: Tensor, *, eps: float = 1e-5, eps_each: bool = False) -> Tensor:
    r"""One minus the soft Dice coefficient of each mask, with squares below.

    .. math:: 1 - \frac{2 \sum p\, t}{\sum p^2 + \sum t^2 + \epsilon}

    with p the sigmoid of the logits. ε stands below alone, so an empty mask against an empty target costs 1, not 0.

    Source: Milletari et al., *V-Net*, 3DV 2016, eq. 1, as CondInst and SOLOv2 use it for masks of objects.

    Args:
        logits: mask logits of N objects, ``(N, …)``.
        target: true masks, of the same shape, in [0, 1] or bool.
        eps: ε, above 0, in pixels.
        eps_each: whether ε is added to each of both sums, as in SOLOv2; otherwise once, as in CondInst.

    Returns:
        The loss of each mask, ``(N,)`` in [0, 1], float32 at least.

    Raises:
        ValueError: when shapes differ or ``eps`` isn't positive.
    """
    if logits.shape != target.shape:
        raise ValueError(f"logits {tuple(logits.shape)} need targets of the same shape, got {tuple(target.shape)}")
    if not eps > 0:
        raise ValueError(f"eps must be above 0, got {eps}; an empty mask would divide by 0")
    probs = at_least_float32(logits).flatten(1).sigmoid()  # (N, P)
    truth = target.flatten(1).to(probs.dtype)
    below = (probs**2).sum(1) + (truth**2).sum(1) + eps * (1 + eps_each)  # (N,)
    return 1 - 2 * (probs * truth).sum(1) / below


def _soft_counts(logits: Tensor, known: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """TP, FP and FN ``(B, K)`` of logits ``(B, K, …)``, straight from their definitions."""
    probs = logits.softmax(1)  # (B, K, …)
    truth = F.one_hot(known, probs.shape[1]).movedim(-1, 1)  # (B, K, …)
    right, wrong = truth * valid[:, None], (1 - truth) * valid[:, None]  # (B, K, …)
    places = list(range(2, probs.ndim))
    counts = [probs * right, probs * wrong, (1 - probs) * right]  # (B, K, …) each
    tp, fp, fn = (c.sum(places) if places else c for c in counts)  # sum([]) would sum over everything
    return tp, fp, fn


class _SoftCounts(torch.autograd.Function):
    """The same counts with one tensor of the logits' size each way, where automatic differentiation takes five.

    The class y of a pixel picks one probability of its K, so no one-hot target is needed. Going back, a count's
    gradient is one number a class, d_FP on every pixel except d_TP − d_FN where the class is the pixel's own. With
    that as g_k, softmax gives ∂L/∂z_k = p_k · (g_k − Σ_j p_j·g_j), here computed in place.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, known: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``(B, K, …)``, ``(B, …)``, ``(B, …)`` to TP, FP and FN ``(B, K)``."""
        # at void p becomes 0: it adds to no count, and the gradient is 0 by the formula
        probs = logits.softmax(1).mul_(valid[:, None])  # (B, K, …)
        own = probs.gather(1, known[:, None])  # (B, 1, …) = p_y
        tp, fn = (_sum_by_class(part, known, probs.shape[1]) for part in (own[:, 0], (1 - own[:, 0]) * valid))
        total = probs.flatten(2).sum(2) if probs.ndim > 2 else probs  # (B, K) = TP + FP
        ctx.save_for_backward(probs, own, known)
        return tp, (total - tp).clamp_min(0), fn  # rounding may take the difference below 0

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_tp: Tensor, d_fp: Tensor, d_fn: Tensor) -> tuple[Tensor, None, None]:
        """The gradients of the counts ``(B, K)`` to that of the logits ``(B, K, …)``."""
        probs, own, known = ctx.saved_tensors
        others = d_fp.view(*d_fp.shape, *[1] * (known.ndim - 1))  # (B, K, 1, …)
        extra = (d_tp - d_fn - d_fp).gather(1, known.reshape(len(known), math.prod(known.shape[1:])))  # (B, P)
        grad = probs * others  # (B, K, …) = p_k·g_k, but for the pixel's own class
        grad.scatter_add_(1, known[:, None], own * extra.view_as(own))
        return grad.addcmul_(probs, grad.sum(1, keepdim=True), value=-1), None, None


def _sum_by_class(values: Tensor, known: Tensor, num_classes: int) -> Tensor:
    """The sums of ``values`` ``(B, …)`` over the pixels of every class: ``(B, K)``."""
    if values.ndim == 1:
        values, known = values[:, None], known[:, None]
    # row by row, then over rows: one float32 sum over millions of pixels, one after the other, would lose digits
    rows = values.new_zeros(*values.shape[:-1], num_classes).scatter_add_(-1, known, values)  # (B, …, K)
    return rows.flatten(1, -2).sum(1) if rows.ndim > 2 else rows
