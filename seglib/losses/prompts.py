"""The losses of masks that answer a prompt: focal and Dice loss of every answer, of which the best one counts.

Source: Kirillov et al., "Segment Anything", ICCV 2023, section 3, "Losses and training", and appendix A.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from seglib.ops.clicks import answer_iou
from seglib.ops.precision import at_least_float32


def mask_losses(logits: Tensor, wanted: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> tuple[Tensor, Tensor]:
    r"""Focal loss and Dice loss of each answer to each prompt.

    With m the sigmoid of the logits, t the wanted mask and :math:`p_t` the probability of the right answer, that is m
    where t is 1 and 1 − m where it is 0,

    .. math:: \frac{1}{P} \sum_p -\alpha_t (1 - p_t)^\gamma \log p_t \qquad
        1 - \frac{2 \sum_p m\, t + 1}{\sum_p m + \sum_p t + 1}

    over the P pixels, with :math:`\alpha_t` = α where t is 1, else 1 − α. The paper weighs the two 20 to 1.

    Args:
        logits: mask logits of M answers to each of N prompts, ``(N, M, h, w)``. N may be 0.
        wanted: mask that each prompt asks for, ``(N, h, w)`` bool, or float in [0, 1], of which above ½ is inside.
        alpha: α, weight of the pixels of the object, in [0, 1].
        gamma: γ, how fast easy pixels fade, at least 0.

    Returns:
        Focal loss and Dice loss, ``(N, M)`` each, float32 (float64 for float64 logits), under autocast too.

    Raises:
        ValueError: when shapes don't fit, or α or γ is out of range.
    """
    if logits.ndim != 4 or wanted.shape != (len(logits), *logits.shape[2:]):
        raise ValueError(
            f"logits (N, M, h, w) need wanted masks (N, h, w), got {tuple(logits.shape)} and {tuple(wanted.shape)}; "
            "bring the masks to the logits' size first"
        )
    if not 0 <= alpha <= 1 or not 0 <= gamma < math.inf:
        raise ValueError(f"focal loss needs alpha in [0, 1] and gamma of at least 0, got {alpha} and {gamma}")
    x, t = at_least_float32(logits).flatten(2), _inside(wanted).flatten(1)[:, None]  # (N, M, P), (N, 1, P)
    signed = torch.where(t, -x, x)
    miss = signed.sigmoid().clamp_min(torch.finfo(x.dtype).tiny)  # 1 − p_t
    # −log p_t is softplus(signed), which takes CPUs several times as long
    focal = (torch.where(t, alpha, 1 - alpha) * miss**gamma * (signed - miss.log())).mean(2)
    missed = (miss * t).sum(2)  # (N, M): Σ (1 − m) t; Σ m t = area − missed
    extra = miss.sum(2) - missed  # Σ m (1 − t)
    area = t.sum(2, dtype=torch.int32)  # (N, 1)
    return focal, (missed + extra) / (2 * area - missed + extra + 1)


def iou_targets(logits: Tensor, wanted: Tensor) -> Tensor:
    """The IoU of each answer with the wanted mask, which the model's own estimate of it is trained to match.

    Args:
        logits: mask logits of M answers to each of N prompts, ``(N, M, h, w)``; above 0 is inside.
        wanted: mask that each prompt asks for, ``(N, h, w)`` bool, or float in [0, 1], of which above ½ is inside.

    Returns:
        ``(N, M)`` float32 in [0, 1], without a gradient; 0 where both masks are empty.

    Raises:
        ValueError: when shapes don't fit.
    """
    return answer_iou(logits > 0, _inside(wanted))


def best_of(cost: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
    """Of every row of ``values`` the entry at which ``cost`` is lowest; gradients flow through that entry alone.

    An ambiguous prompt has several right answers. A loss that averages over the M answers makes all of them the
    average mask; if only the best one counts, the answers can differ.

    Args:
        cost: cost of each of M answers to each of N prompts, ``(N, M)``, M at least 1; of equal ones the first counts.
        values: what is picked from, ``(N, M)`` each.

    Returns:
        As many tensors ``(N,)`` as there are values.
    """
    best = cost.detach().argmin(1, keepdim=True)  # (N, 1)
    return tuple(value.gather(1, best)[:, 0] for value in values)


def _inside(wanted: Tensor) -> Tensor:
    return wanted if wanted.dtype == torch.bool else wanted > 0.5
