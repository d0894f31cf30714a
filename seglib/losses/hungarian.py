"""Set prediction: each object is given to the one query that suits it best, all objects together.

Source: Carion et al., "DETR", ECCV 2020, section 3.1; with costs at sampled points: Cheng et al., "Masked-attention
Mask Transformer" (Mask2Former), CVPR 2022, section 3.3. The assignment problem is Kuhn's, "The Hungarian method for the
assignment problem", Naval Research Logistics 1955.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from seglib.ops.precision import at_least_float32

USABLE = 1e100
"""Costs from here on count as broken, like NaN: their sums in float64 would lose all the others."""


def hungarian(cost: Tensor) -> tuple[Tensor, Tensor]:
    """The assignment of objects to queries with the smallest sum of costs; each has at most one partner.

    With more objects than queries every query has an object, and some objects stay without one. A cost that is NaN or
    infinite (a network that diverges) is replaced by one so high that as few such pairs as possible are formed; it
    never raises. The cost matrix is copied to the host once. To match many of them on a GPU, compute all
    matrices first: the first copy waits for the GPU, the later ones find their data ready.

    Args:
        cost: ``(Q, G)`` of any floating type; Q or G may be 0.

    Returns:
        Indices of the queries, ascending, and of the object of each, ``(min(Q, G),)`` int64 on the device of the cost.

    Raises:
        ValueError: when the cost isn't a matrix.
    """
    from scipy.optimize import linear_sum_assignment  # takes longer to import than the rest of this module

    if cost.ndim != 2:
        raise ValueError(f"cost is a matrix (queries, objects), got shape {tuple(cost.shape)}")
    table = cost.detach().cpu().double().numpy()
    usable = np.abs(table) < USABLE  # False for NaN
    low, high = np.min(table, initial=0, where=usable), np.max(table, initial=0, where=usable)
    # one broken pair costs more than all usable ones can differ by
    broken = high + (high - low + 1) * (min(table.shape) + 1)
    queries, objects = linear_sum_assignment(np.where(usable, table, broken))
    return torch.from_numpy(queries).to(cost.device), torch.from_numpy(objects).to(cost.device)


@torch.no_grad()
def matching_cost(
    class_logits: Tensor,
    mask_logits: Tensor,
    labels: Tensor,
    targets: Tensor,
    known: Tensor | None = None,
    *,
    class_weight: float = 2.0,
    mask_weight: float = 5.0,
    dice_weight: float = 5.0,
    impl: Literal["fast", "reference"] = "fast",
) -> Tensor:
    r"""What it costs to give an object to a query, for all pairs of one image.

    .. math:: -2\, p_q(c_g) + 5\, \mathrm{BCE}(m_q, t_g) + 5 \left(1 - \frac{2 \sum m t + 1}{\sum m + \sum t + 1}\right)

    with the probability :math:`p_q` of the object's class and, over P points, the mean binary cross-entropy and the
    soft Dice loss of the mask m. Targets that were sampled between pixels are fractional, and both terms take them as
    they are. The leading axes "…" are layers of a decoder, say: their points may differ, their objects are the same.

    Source: Cheng et al., Mask2Former, section 3.3 and table 5 (12,544 points); the weights are those of the
    published models. The original counts void as background (MaskFormer issue 57); here its points count nowhere.

    Computes in float32 at least, under autocast too: in float16 sums over thousands of points overflow.

    Args:
        class_logits: ``(…, Q, K + 1)``, class K for "no object".
        mask_logits: mask logits of every query at the same points, ``(…, Q, P)``.
        labels: classes of the objects, ``(G,)`` int64 in 0..K−1.
        targets: masks of the objects at those points, ``(…, G, P)`` in [0, 1].
        known: weight of each point, ``(…, P)`` in [0, 1]: 0 in void and padding. Without a known point masks cost 0.
        class_weight: weight of the class term.
        mask_weight: weight of the binary cross-entropy.
        dice_weight: weight of the Dice term.
        impl: ``"reference"`` loops over pairs; ``"fast"`` is made of matrix products and never holds (Q, G, P)
            numbers. Equal to rounding.

    Returns:
        ``(…, Q, G)``, float32 or float64, without gradient.

    Raises:
        ValueError: when shapes don't fit or ``impl`` is unknown.
    """
    (*others, queries, count), objects = mask_logits.shape, len(labels)
    fits = class_logits.shape[:-1] == (*others, queries) and targets.shape == (*others, objects, count)
    if not fits or labels.ndim != 1:
        raise ValueError(
            "expected class logits (…, Q, K + 1), mask logits (…, Q, P), labels (G,) and targets (…, G, P), got "
            f"{tuple(class_logits.shape)}, {tuple(mask_logits.shape)}, {tuple(labels.shape)}, {tuple(targets.shape)}"
        )
    if known is not None and known.shape != (*others, count):
        raise ValueError(f"{count} points need known of shape {(*others, count)}, got {tuple(known.shape)}")
    with torch.autocast(mask_logits.device.type, enabled=False):
        logits = at_least_float32(mask_logits)  # (…, Q, P)
        targets = targets.to(logits.dtype)
        known = logits.new_ones(*others, count) if known is None else known
        weights = known.to(logits.dtype)[..., None, :]  # (…, 1, P)
        probability = at_least_float32(class_logits).softmax(-1)[..., labels]  # (…, Q, G)
        if impl == "fast":
            cross_entropy, dice = _mask_costs(logits, targets, weights)
        elif impl == "reference":
            cross_entropy, dice = _mask_costs_by_loops(logits, targets, weights)
        else:
            raise ValueError(f"impl is 'fast' or 'reference', got {impl!r}")
        return mask_weight * cross_entropy + dice_weight * dice - class_weight * probability


def _mask_costs(logits: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """BCE and Dice ``(…, Q, G)`` of logits ``(…, Q, P)`` and targets ``(…, G, P)``; BCE is softplus(x) − x·t."""
    total = weights.sum(-1, keepdim=True)  # (…, 1, 1)
    zeros = (F.softplus(logits) * weights).sum(-1, keepdim=True)  # (…, Q, 1) the cost against an empty mask
    cross_entropy = (zeros - (logits * weights) @ targets.mT) / torch.where(total > 0, total, 1)
    probs, truth = logits.sigmoid() * weights, targets * weights
    sizes = probs.sum(-1, keepdim=True) + truth.sum(-1)[..., None, :]  # (…, Q, G)
    return cross_entropy, 1 - (2 * probs @ targets.mT + 1) / (sizes + 1)


def _mask_costs_by_loops(logits: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    if logits.ndim > 2:
        costs = [_mask_costs_by_loops(*one) for one in zip(logits, targets, weights, strict=True)]
        cross_entropies, dices = zip(*costs, strict=True)
        return torch.stack(cross_entropies), torch.stack(dices)
    cross_entropy = logits.new_zeros(len(logits), len(targets))
    dice = torch.zeros_like(cross_entropy)
    weights = weights[0]  # (P,)
    counted = weights > 0
    for q, logit in enumerate(logits):
        for g, target in enumerate(targets):
            x, t, w = logit[counted], target[counted], weights[counted]  # (P',)
            if len(w):
                each = F.binary_cross_entropy_with_logits(x, t, reduction="none")  # (P',)
                cross_entropy[q, g] = (w * each).sum() / w.sum()
            p = x.sigmoid()
            dice[q, g] = 1 - (2 * (w * p * t).sum() + 1) / ((w * p).sum() + (w * t).sum() + 1)
    return cross_entropy, dice
