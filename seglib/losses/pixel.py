"""Losses that judge every pixel on its own: cross-entropy with void.

For the logits z of one pixel and its class y,

    CE = −log softmax(z)_y = log Σ_k exp(z_k) − z_y

and over an image the mean over the pixels that have a label.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from seglib.ops.labels import check_labels
from seglib.types import VOID


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = VOID,
    weight: Tensor | None = None,
    impl: Literal["fast", "reference"] = "fast",
) -> Tensor:
    """Mean cross-entropy over the labelled pixels.

    L = Σ_x w_y(x) · CE(x) / Σ_x w_y(x), over the pixels x whose target y isn't void; w is 1 without ``weight``.
    Half-precision logits are computed in float32, under autocast too.

    Differs from :func:`torch.nn.functional.cross_entropy` in two ways: without a labelled pixel (or with weight 0 on
    all of them) the loss is 0 with zero gradients, where torch gives NaN; and a bad label raises a ``ValueError``
    before any kernel sees it. That check reads two numbers back, so on a GPU the host waits once per call.

    Args:
        logits: ``(B, K, H, W)``, or ``(B, K, …)`` with any number of spatial dimensions. B, H or W may be 0.
        target: ``(B, H, W)`` class ids in 0..K−1 or ``ignore_index``, integers of any type.
        ignore_index: the id of void.
        weight: ``(K,)`` non-negative class weights.
        impl: ``"reference"`` is the log-sum-exp written out, ``"fast"`` uses torch's kernels. Equal to rounding.

    Returns:
        A scalar, float32 (float64 for float64 logits).

    Raises:
        ValueError: when shapes don't fit, a label is neither a class nor void, or ``impl`` is unknown.
    """
    if logits.ndim < 2 or target.shape != (logits.shape[0], *logits.shape[2:]):
        raise ValueError(
            f"logits {tuple(logits.shape)} need a target of shape {(logits.shape[0], *logits.shape[2:])}, "
            f"got {tuple(target.shape)}; resize the logits to the target's size"
        )
    num_classes = logits.shape[1]
    if weight is not None and weight.shape != (num_classes,):
        raise ValueError(f"{num_classes} classes need weight of shape ({num_classes},), got {tuple(weight.shape)}")
    check_labels(target, num_classes, ignore_index, name="target label")
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    target = target.long()  # (B, H, W)
    valid = target != ignore_index  # (B, H, W)
    known = target.masked_fill(~valid, 0)  # (B, H, W): void borrows class 0, and weighs nothing
    w = valid if weight is None else weight.to(logits)[known] * valid  # (B, H, W)
    if impl == "reference":
        ce = _log_sum_exp(logits) - logits.gather(1, known[:, None])[:, 0]  # (B, H, W)
        weighted = w * ce.masked_fill(~valid, 0)  # (B, H, W)
    elif impl == "fast":
        scale = None if weight is None else weight.to(logits)
        weighted = F.cross_entropy(logits, target, scale, ignore_index=ignore_index, reduction="none")  # (B, H, W)
    else:
        raise ValueError(f"impl is 'fast' or 'reference', got {impl!r}")
    total = w.sum()
    return weighted.sum() / torch.where(total > 0, total, 1)


def _log_sum_exp(z: Tensor) -> Tensor:
    """The log-sum-exp log Σ_k exp(z_k) over classes: ``(B, K, …)`` to ``(B, …)``."""
    top = z.detach().amax(1, keepdim=True)  # (B, 1, …) the largest exponent becomes 0, so none overflows
    return top[:, 0] + (z - top).exp().sum(1).log()
