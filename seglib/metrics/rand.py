"""The foreground-restricted Rand score: are the cells that a membrane map separates the true ones?

IoU asks for every pixel of a membrane. Whoever counts or follows cells asks for something else: a gap of a pixel joins
two cells, and a membrane two pixels too wide joins none. The Rand score looks at pairs of pixels: does the prediction
put two pixels of one cell together, and two of different cells apart?

Source: Arganda-Carreras et al., "Crowdsourcing the creation of image segmentation algorithms for connectomics",
Frontiers in Neuroanatomy 2015, section "Evaluation metrics" (the metric of the ISBI 2012 challenge since 2013).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class RandScores:
    """``split`` falls when a cell is cut up, ``merge`` when cells are joined; ``score`` is their harmonic mean.

    All are in [0, 1], higher is better, and NaN where there is no true cell.
    """

    score: float
    split: float
    merge: float


def foreground_rand(predicted: NDArray[np.integer], truth: NDArray[np.integer]) -> RandScores:
    r"""The Rand score over the pixels that lie in true cells.

    With p_ij the share of these pixels that is in predicted cell i and true cell j, s_i and t_j its sums,

    .. math::

        \text{split} = \frac{\sum p_{ij}^2}{\sum t_j^2} \qquad
        \text{merge} = \frac{\sum p_{ij}^2}{\sum s_i^2} \qquad
        \text{score} = \frac{2 \sum p_{ij}^2}{\sum s_i^2 + \sum t_j^2}

    Args:
        predicted: cell ids of any shape; 0 is an id like any other (:func:`cells` can fill it).
        truth: cell ids of the same shape; 0 is membrane, which does not count.

    Raises:
        ValueError: when the shapes differ.
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"the maps must have one shape, got {predicted.shape} and {truth.shape}")
    inside = truth != 0
    if not inside.any():
        return RandScores(float("nan"), float("nan"), float("nan"))
    pairs = np.stack([predicted[inside], truth[inside]])  # (2, P)
    pairs, counts = np.unique(pairs, axis=1, return_counts=True)  # (2, cells that meet)
    together = _squares(counts)
    of_predicted, of_truth = (_squares(np.bincount(np.unique(ids, return_inverse=True)[1], counts)) for ids in pairs)
    return RandScores(2 * together / (of_predicted + of_truth), together / of_truth, together / of_predicted)


def _squares(counts: NDArray) -> float:
    return float(np.square(counts.astype(np.float64)).sum())


def cells(inside: NDArray[np.bool_], *, fill: bool = False) -> NDArray[np.int32]:
    """The connected parts of a map ``(H, W)`` of what lies inside cells, numbered from 1; 0 is membrane.

    Args:
        inside: ``(H, W)`` bool, true inside cells.
        fill: give every membrane pixel to the nearest cell, so that a prediction is judged by what its membranes
            separate and not by how wide they are; the challenge thins them for that.

    Raises:
        ModuleNotFoundError: without scipy.
    """
    try:
        from scipy import ndimage
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the Rand score needs scipy: pip install scipy") from error
    labels, count = ndimage.label(inside)  # connected by edges
    if fill and count:
        nearest = ndimage.distance_transform_edt(labels == 0, return_distances=False, return_indices=True)  # (2, H, W)
        labels = labels[tuple(nearest)]
    return labels.astype(np.int32)
