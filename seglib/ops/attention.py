"""Attention: every query takes a mean of values, weighted by how well its key fits.

Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, section 3.2.1.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F


def attention(
    q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, impl: Literal["fast", "reference"] = "fast"
) -> Tensor:
    r"""Scaled dot-product attention, :math:`\text{softmax}(q k^\top / \sqrt{d})\, v`.

    Args:
        q: queries ``(…, N, d)``.
        k: keys ``(…, M, d)``.
        v: values ``(…, M, e)``.
        mask: what may be attended, broadcastable to ``(…, N, M)``: bool, true where a query may attend to a key; or
            floats that are added to the scores. A row that may attend to nothing gives NaN or zeros, by the kernel:
            see :func:`open_empty_rows`.
        impl: "reference" writes the formula out and keeps all N × M weights; "fast" is PyTorch's fused kernel.

    Returns:
        ``(…, N, e)``.

    Raises:
        ValueError: when the shapes don't fit each other, or ``impl`` is unknown.
    """
    if q.shape[-1] != k.shape[-1] or k.shape[-2] != v.shape[-2]:
        raise ValueError(
            f"attention takes queries (…, N, d), keys (…, M, d) and values (…, M, e), got {tuple(q.shape)}, "
            f"{tuple(k.shape)} and {tuple(v.shape)}"
        )
    if impl == "fast":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    if impl != "reference":
        raise ValueError(f'impl is "fast" or "reference", got {impl!r}')
    return attention_weights(q, k, mask=mask) @ v  # (…, N, e)


def attention_weights(q: Tensor, k: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """How much each query takes of each value, ``(…, N, M)``; rows sum to 1. Arguments as in :func:`attention`."""
    scores = q @ k.mT / q.shape[-1] ** 0.5  # (…, N, M)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1)


def open_empty_rows(mask: Tensor) -> Tensor:
    """The mask with every row that is all false made all true.

    A softmax over nothing is 0 / 0. A query whose mask is empty attends to everything instead.

    Args:
        mask: bool ``(…, N, M)``, true where a query may attend to a key.
    """
    return mask | ~mask.any(-1, keepdim=True)
