"""YOLACT's losses: classes with hard negatives, boxes, masks mixed from prototypes, and a semantic map beside them.

Each takes what was matched before, so that it is a plain function.

Source: Bolya et al., "YOLACT", ICCV 2019, sections 3.3, 4 and 5; hard negatives: Liu et al., "SSD", ECCV 2016, section
2.2.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from seglib.losses.assign import BACKGROUND
from seglib.losses.box import smooth_l1
from seglib.losses.two_stage import BOX_WEIGHTS
from seglib.ops.boxes import encode_boxes
from seglib.ops.masks import crop_masks
from seglib.ops.precision import at_least_float32, widest_float


def hard_negatives(logits: Tensor, matches: Tensor, ratio: float = 3) -> Tensor:
    """The background anchors that are hardest to tell from an object: ``ratio`` for each positive of their image.

    Hard is where −log of the background's probability is large. An image without positives has no negatives either.

    Args:
        logits: class logits ``(B, A, K + 1)``, background last.
        matches: match of each anchor, ``(B, A)`` as :func:`~seglib.losses.assign.match_anchors` returns them.
        ratio: number of negatives for each positive.

    Returns:
        ``(B, A)`` bool.
    """
    logits = logits.detach()
    negative = matches == BACKGROUND
    hardness = (logits.logsumexp(-1) - logits[..., -1]).masked_fill(~negative, -torch.inf)  # (B, A)
    order = hardness.argsort(dim=1, descending=True, stable=True)  # (B, A)
    count = ratio * (matches >= 0).sum(1, keepdim=True)  # (B, 1)
    hardest = torch.arange(matches.shape[1], device=matches.device) < count  # (B, A) by falling hardness
    return negative & torch.zeros_like(negative).scatter(1, order, hardest)


def class_loss(logits: Tensor, labels: Tensor, matches: Tensor, ratio: float = 3) -> Tensor:
    """Cross-entropy, summed over the positives and their :func:`hard_negatives`, over the number of positives.

    0 without positives, where the original divides by 0.

    Args:
        logits: class logits ``(B, A, K + 1)``, background last.
        labels: class of the object that each anchor is matched with, ``(B, A)`` int64; unused where there is none.
        matches: match of each anchor, ``(B, A)``.
        ratio: number of negatives for each positive.
    """
    positive = matches >= 0  # (B, A)
    target = torch.where(positive, labels, logits.shape[-1] - 1)
    used = positive | hard_negatives(logits, matches, ratio)
    return F.cross_entropy(logits[used], target[used], reduction="sum") / positive.sum().clamp(min=1)


def box_loss(deltas: Tensor, anchors: Tensor, boxes: Tensor, matches: Tensor) -> Tensor:
    """Smooth L1 (with its bend at 1) of the deltas, summed over the positives, over their number. 0 without positives.

    Args:
        deltas: predicted deltas ``(B, A, 4)``.
        anchors: anchors ``(A, 4)`` xyxy.
        boxes: box of the object that each anchor is matched with, ``(B, A, 4)`` xyxy; unused where there is none.
        matches: match of each anchor, ``(B, A)``.
    """
    image, anchor = (matches >= 0).nonzero().unbind(1)  # (P,)
    target = encode_boxes(boxes[image, anchor], anchors[anchor], BOX_WEIGHTS)
    return smooth_l1(deltas[image, anchor], target, 1.0) / max(1, len(image))


def mask_loss(prototypes: Tensor, coefficients: Tensor, masks: Tensor, boxes: Tensor) -> Tensor:
    r"""The loss of masks that are mixed from prototypes: in its box, how far is σ(P cᵀ) from the true mask?

    .. math:: L_n = \frac{1}{w_n h_n} \sum_{x \in \text{box}_n} \text{BCE}\left(σ(P(x)\, c_n^\top), m_n(x)\right)

    The box is the true one, so that masks can be learned before boxes are, with one cell of padding around it; its
    area is without the padding. A mask's pixels count by the area that they are a share of: an object of four cells
    weighs as much as one of a thousand. Cross-entropy is taken of logits; the original takes it of probabilities, to
    which rounding gives 1 and an infinite loss.

    Args:
        prototypes: prototypes of one image, ``(k, h, w)``.
        coefficients: coefficients of its positives, ``(P, k)``.
        masks: true mask of each positive, ``(P, h, w)`` bool.
        boxes: true box of each positive, ``(P, 4)`` xyxy in cells of the prototypes.

    Returns:
        ``(P,)``.
    """
    logits = at_least_float32(torch.einsum("khw,pk->phw", prototypes, coefficients))  # (P, h, w)
    inside = crop_masks(torch.ones_like(masks), boxes, padding=1, by_index=True)  # (P, h, w)
    cell = inside.flatten().nonzero()[:, 0]  # (n,) few of the cells lie in a box, so the others aren't looked at
    target = masks.flatten()[cell].to(logits.dtype)
    each = F.binary_cross_entropy_with_logits(logits.flatten()[cell], target, reduction="none")  # (n,)
    owner = cell // (masks.shape[1] * masks.shape[2])  # (n,)
    # one by one, thousands of float32 would add up to a loss that is 10⁻⁴ aside
    wide = each.to(widest_float(each.device))
    total = wide.new_zeros(len(masks)).index_add(0, owner, wide)  # (P,)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])  # (P,)
    return (total / area).to(each.dtype)


def semantic_loss(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Binary cross-entropy, summed over the classes: its mean over the cells of each image, then over the images.

    Args:
        logits: semantic logits ``(B, K, h, w)``: is an object of that class here?
        target: the truth, ``(B, K, h, w)`` bool.
        valid: cells that are no padding, ``(B, h, w)`` bool.
    """
    each = F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction="none").sum(1)  # (B, h, w)
    return ((each * valid).sum((1, 2)) / valid.sum((1, 2)).clamp(min=1)).mean()


def semantic_target(masks: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Where there is an object of each class: the union of its masks.

    Args:
        masks: masks of the objects of one image, ``(N, h, w)`` bool.
        labels: classes of the objects, ``(N,)`` int64.
        num_classes: number of classes K.

    Returns:
        ``(K, h, w)`` bool.
    """
    count = torch.zeros(num_classes, *masks.shape[1:], dtype=torch.int32, device=masks.device)
    return count.index_add_(0, labels, masks.int()) > 0
