r"""Lovász-softmax: a loss whose value at hard predictions is 1 − IoU, and that has a gradient everywhere.

For class k let m(x) be the error of pixel x, 1 − p_k where the target is k and p_k elsewhere. Hard predictions have
errors of 0 and 1, and the set M of the wrong pixels has the Jaccard loss

.. math:: \Delta(M) = \frac{|M|}{|\{y = k\} \cup M|} = 1 - \text{IoU}_k

The Lovász extension carries Δ from sets to errors in [0, 1], and is its tightest convex one. Sort the errors from
large to small, m_1 ≥ m_2 ≥ …; then

.. math:: L_k = \sum_i m_i\, g_i \qquad g_i = \Delta(\{1, …, i\}) - \Delta(\{1, …, i - 1\})

each error times what its pixel adds to the Jaccard loss when pixels turn wrong in that order. g is also the gradient.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from seglib.losses._inputs import prepare
from seglib.types import VOID


def lovasz_softmax(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = VOID,
    classes: Literal["present", "all"] = "present",
    per_image: bool = False,
    impl: Literal["fast", "reference"] = "fast",
) -> Tensor:
    """Lovász-softmax loss: the mean over classes of the Lovász extension of 1 − IoU, at softmax's errors.

    A class that the target doesn't have has Δ = 1 as soon as one pixel is wrong, so its L_k is the largest p_k;
    ``classes="present"`` leaves such classes out. Void pixels are left out. Where errors tie the gradient depends on
    their order, and any order gives a subgradient.

    Source: Berman, Triki, Blaschko, *The Lovász-Softmax Loss*, CVPR 2018, eqs. 8, 9 and 11. Equals the authors' code
    and smp's ``LovaszLoss``, except that g is computed without the difference of two near Jaccard losses, which costs
    float32 most of its digits on a large image (``"reference"`` takes the difference).

    Args:
        logits: class scores ``(B, K, H, W)``, or ``(B, K, …)`` with any spatial dimensions. B, H or W may be 0.
        target: ``(B, H, W)`` class ids in 0..K−1 or ``ignore_index``, integers of any type.
        ignore_index: the id of void in ``target``.
        classes: which classes count: ``"present"`` takes the mean over the classes of the target, ``"all"`` over K.
        per_image: whether to take the mean over images of the loss of each (an image without a label has 0), instead
            of one loss of the batch as if it were one image.
        impl: ``"reference"`` follows the formula, ``"fast"`` sorts integers and computes g in closed form.

    Returns:
        A scalar in [0, 1], float32 (float64 for float64 logits), half precision included, under autocast too; 0 with
        zero gradients without a labelled pixel.

    Raises:
        ValueError: when shapes don't fit, a label is neither a class nor void, or ``classes`` or ``impl`` is unknown.
    """
    if classes not in ("present", "all"):
        raise ValueError(f"classes is 'present' or 'all', got {classes!r}")
    if impl not in ("fast", "reference"):
        raise ValueError(f"impl is 'fast' or 'reference', got {impl!r}")
    logits, known, valid = prepare(logits, target, ignore_index)
    extension = _fast if impl == "fast" else _reference
    probs = logits.softmax(1)  # (B, K, …)
    groups = zip(probs.split(1), known.split(1), valid.split(1), strict=True) if per_image else [(probs, known, valid)]
    losses = []
    for p, y, v in groups:
        sizes = torch.bincount(y[v], minlength=p.shape[1]).tolist()  # K pixel counts
        chosen = [k for k, size in enumerate(sizes) if size or classes == "all"]
        maps = p.unbind(1)  # K of (B, …): their gradients are put together once, where p[:, k] would fill a p each
        each = [extension(maps[k], y == k, v, sizes[k]) for k in chosen]
        losses.append(torch.stack(each).mean() if each else logits.flatten()[:0].sum())  # 0, still on the graph
    return torch.stack(losses).mean() if losses else logits.sum()  # no image: the sum of nothing


def _reference(p: Tensor, truth: Tensor, valid: Tensor, size: int) -> Tensor:
    """L_k of the probabilities of one class, from the formula. ``(B, …)`` each; ``size`` is the class's pixel count."""
    p, truth = p[valid], truth[valid]  # (n,)
    errors = torch.where(truth, 1 - p, p)
    errors, order = errors.sort(descending=True)
    truth = truth[order].to(errors.dtype)
    intersection = size - truth.cumsum(0)  # pixels of the class that are still right when i pixels are wrong
    union = size + (1 - truth).cumsum(0)
    jaccard = 1 - intersection / union  # Δ({1, …, i})
    g = jaccard.diff(prepend=jaccard.new_zeros(1))  # Δ(∅) = 0
    return (errors * g).sum()


def _fast(p: Tensor, truth: Tensor, valid: Tensor, size: int) -> Tensor:
    """The same: g is a constant of the graph, put back in the order of the pixels."""
    errors = torch.where(truth, 1 - p, p)  # (B, …)
    return (errors * _slopes(errors.detach(), truth, valid, size)).sum()


def _slopes(errors: Tensor, truth: Tensor, valid: Tensor, size: int) -> Tensor:
    """The slope g of every pixel, 0 at void: ``(B, …)`` each."""
    # The bits of non-negative floats, read as an integer, have the order of the floats; torch sorts integers by radix,
    # on a CPU three to five times as fast. Errors are at most 1, and void comes after all of them.
    integer = torch.int64 if errors.dtype == torch.float64 else torch.int32
    one = torch.ones((), dtype=errors.dtype).view(integer).item()
    keys = (one - errors.contiguous().view(integer)).masked_fill_(~valid, one + 1)  # (B, …)
    order = keys.flatten().sort().indices[: int(valid.sum())]  # (n,)
    truth = truth.flatten().index_select(0, order)  # (n,)
    found = truth.cumsum(0)  # counts stay integers: floats would lose them past 2²⁴
    rank = torch.arange(1, len(order) + 1, device=order.device)
    intersection = (size - found).to(errors.dtype)
    union = (size + rank - found).to(errors.dtype)
    # A pixel of the class leaves the intersection, I + 1 → I; any other joins the union, U − 1 → U.
    g = torch.where(truth, 1 / union, intersection / union / (union - 1).clamp_min(1))  # (n,)
    if size == 0:
        g[:1] = 1  # Δ jumps from 0 to 1 at the first wrong pixel
    return torch.zeros_like(errors).flatten().scatter_(0, order, g).view_as(errors)
