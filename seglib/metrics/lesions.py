r"""Lesion-wise scores: how many lesions were found, and how many findings are lesions.

Dice over a case is decided by its large lesions: a model that misses every small one can score well. Here each lesion
counts once, whatever its size. A lesion is a connected component of the mask; with G the true lesions, P the predicted
ones, and a match wherever the IoU of two is above a threshold,

.. math::

    \text{recall} = \frac{|\{g : \text{matched}\}|}{|G|} \qquad
    \text{precision} = \frac{|\{p : \text{matched}\}|}{|P|} \qquad
    F_1 = \frac{2 \cdot \text{recall} \cdot \text{precision}}{\text{recall} + \text{precision}}

Challenges differ in what a lesion and a match are, so a number needs both beside it. Here lesions are 3D connected
components, as in the WMH challenge (Kuijf et al., IEEE TMI 2019), which scores recall and F1; voxels that touch at
faces, edges or corners belong together, and any overlap is a match. One predicted lesion may then match several true
ones, and the reverse. With ``iou_threshold=0.5`` or more, matches are one to one.

When both masks are empty all three are NaN: leave them out of means. When one is, all three are 0: neither a missed
lesion nor an invented one improves a mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from seglib.metrics.surface import check_masks

NEIGHBOURS = {2: {4: 1, 8: 2}, 3: {6: 1, 18: 2, 26: 3}}
"""By the number of axes: how many neighbours a voxel has, and along how many axes at once they differ from it."""


@dataclass(frozen=True, slots=True)
class LesionScores:
    """Lesion-wise scores of one case, in [0, 1], and the counts behind them, which add up over a dataset.

    Attributes:
        recall: share of the true lesions with a match.
        precision: share of the predicted lesions with a match.
        f1: harmonic mean of recall and precision.
        lesions: number of true lesions.
        found: number of true lesions with a match.
        predictions: number of predicted lesions.
        confirmed: number of predicted lesions with a match.
    """

    recall: float
    precision: float
    f1: float
    lesions: int
    found: int
    predictions: int
    confirmed: int


def lesion_scores(
    pred: Tensor,
    target: Tensor,
    *,
    connectivity: int | None = None,
    iou_threshold: float = 0.0,
    void: Tensor | None = None,
) -> LesionScores:
    """Recall, precision and F1 over the connected components of two masks.

    Args:
        pred: the predicted mask, ``(D, H, W)`` or ``(H, W)`` bool.
        target: the true mask, the same shape.
        connectivity: number of neighbours that a voxel is connected with: 6, 18 or 26, in 2D 4 or 8; ``None`` takes
            all, 26 or 8.
        iou_threshold: two lesions match when their IoU is above it; 0 lets any overlap match, from 0.5 on a lesion has
            at most one match.
        void: where the target says nothing, a bool mask of the same shape: cut out of both masks before components are
            taken.

    Raises:
        ValueError: when shapes or types differ from that, or the connectivity or threshold is out of range.
    """
    from scipy import ndimage  # takes longer to import than the rest of this module

    p, t, v = check_masks(pred, target, void)
    steps = NEIGHBOURS[t.ndim]
    if connectivity is not None and connectivity not in steps:
        raise ValueError(f"the connectivity of a {t.ndim}D mask is one of {list(steps)}, got {connectivity}")
    if not 0 <= iou_threshold < 1:
        raise ValueError(f"an IoU threshold is in [0, 1), got {iou_threshold}; 0 lets any overlap match")
    structure = ndimage.generate_binary_structure(t.ndim, steps[connectivity or max(steps)])
    (p_ids, predictions), (t_ids, lesions) = (ndimage.label(m & ~v, structure) for m in (p, t))
    both = (t_ids > 0) & (p_ids > 0)
    keys, overlap = np.unique(t_ids[both].astype(np.int64) * (predictions + 1) + p_ids[both], return_counts=True)
    g, k = np.divmod(keys, predictions + 1)  # ids of the pairs that overlap, (N,) each
    union = np.bincount(t_ids.ravel())[g] + np.bincount(p_ids.ravel())[k] - overlap
    matched = overlap > iou_threshold * union
    found, confirmed = len(np.unique(g[matched])), len(np.unique(k[matched]))
    if not lesions and not predictions:
        recall = precision = f1 = float("nan")
    else:
        recall, precision = found / max(lesions, 1), confirmed / max(predictions, 1)
        f1 = 2 * recall * precision / (recall + precision) if found else 0.0
    return LesionScores(recall, precision, f1, lesions, found, predictions, confirmed)
