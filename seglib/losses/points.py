"""The losses of masks at sampled points: a few thousand points stand for all pixels, at a fraction of the memory.

Source: Cheng et al., "Masked-attention Mask Transformer" (Mask2Former), CVPR 2022, section 3.3; Kirillov et al.,
"PointRend", CVPR 2020.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from seglib.ops.precision import at_least_float32


def point_mask_loss(
    logits: Tensor, targets: Tensor, known: Tensor | None, count: float | Tensor
) -> tuple[Tensor, Tensor]:
    r"""Binary cross-entropy and Dice loss of the masks of matched objects, at points.

    .. math:: \frac{1}{N} \sum_g \frac{1}{P} \sum_p \mathrm{BCE}(x_{gp}, t_{gp}), \qquad
        \frac{1}{N} \sum_g \left(1 - \frac{2 \sum_p m\, t + 1}{\sum_p m + \sum_p t + 1}\right), \quad m = \sigma(x)

    Targets that were sampled between pixels are fractional, and both losses take them as they are. Source: Cheng et
    al., Mask2Former, section 3.3. The original counts void as background (MaskFormer issue 57); here its points count
    nowhere, and P is the number of those left, so that a mask half in void weighs as much as any other.

    Args:
        logits: mask logits of the query of each object, ``(…, G, P)``. G may be 0.
        targets: masks of the objects at the same points, ``(…, G, P)`` in [0, 1].
        known: weight of each point, ``(…, G, P)`` in [0, 1]: 0 in void and padding. Masks without known points cost 0.
        count: number of objects N to divide by, above 0. With several processes it is the mean over them, at least 1.

    Returns:
        Two tensors ``(…)``, scalars for ``(G, P)``, float32 (float64 for float64 logits), under autocast too; 0
        without objects.

    Raises:
        ValueError: when shapes differ.
    """
    for name, other in {"targets": targets, "known": known}.items():
        if other is not None and other.shape != logits.shape:
            raise ValueError(f"logits {tuple(logits.shape)} need {name} of the same shape, got {tuple(other.shape)}")
    logits = at_least_float32(logits)
    targets = targets.to(logits.dtype)
    weights = torch.ones_like(logits) if known is None else known.to(logits.dtype)
    total = weights.sum(-1)  # (…, G) the number of points that count
    each = F.binary_cross_entropy_with_logits(logits, targets, weights, reduction="none")  # (…, G, P)
    cross_entropy = each.sum(-1) / torch.where(total > 0, total, 1)
    probs, truth = logits.sigmoid() * weights, targets * weights
    dice = 1 - (2 * (probs * targets).sum(-1) + 1) / (probs.sum(-1) + truth.sum(-1) + 1)
    return cross_entropy.sum(-1) / count, dice.sum(-1) / count
