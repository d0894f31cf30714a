"""What the experiments on panoptic quality share: counts of every image, PQ of their sums, and a bootstrap over images.

Counts are ``(4, K)`` float64 as those of :class:`~seglib.metrics.pq.PanopticQuality`: of every class the sum of the
matched IoUs, TP, FP and FN. They add up, so all resamples are one product of matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seglib.metrics.pq import PanopticQuality
from seglib.types import Category, Panoptic

GROUPS = ("all", "things", "stuff")
"""What PQ is a mean over."""

Statistic = Callable[[Tensor, Tensor, int], Tensor]
"""Counts of n images ``(n, 4, K)``, how often each is drawn ``(R, n)``, number of things → PQ of `GROUPS` ``(R, 3)``"""


def image_counts(prediction: Panoptic, target: Panoptic, categories: Sequence[Category]) -> Tensor:
    """The counts ``(4, K)`` of one image."""
    metric = PanopticQuality(categories)
    metric.update(prediction, target)
    return metric.counts


def group_pq(counts: Tensor, num_things: int) -> Tensor:
    """PQ of `GROUPS`, ``(…, 3)``, from counts ``(…, 4, K)``; NaN for a group without TP, FP and FN."""
    iou, tp, fp, fn = counts.unbind(-2)  # (…, K)
    classes = iou / (tp + (fp + fn) / 2)  # 0 / 0 is NaN
    groups = (classes, classes[..., :num_things], classes[..., num_things:])
    return torch.stack([group.nanmean(-1) for group in groups], -1)


def pq_of_sums(counts: Tensor, draws: Tensor, num_things: int) -> Tensor:
    """PQ: counts are added up over the images before they are divided. A `Statistic`."""
    return group_pq(torch.einsum("rn,nck->rck", draws, counts), num_things)


def mean_of_images(counts: Tensor, draws: Tensor, num_things: int) -> Tensor:
    """The mean of the images' own PQ, over those that have one. A `Statistic`."""
    of_images = group_pq(counts, num_things)  # (n, 3)
    return draws @ of_images.nan_to_num(0) / (draws @ (~of_images.isnan()).double())


def compare_pq(
    variants: Mapping[str, tuple[Tensor, Statistic]],
    *,
    num_things: int,
    resamples: int,
    seed: int,
    report: Callable[[str], None] | None = None,
) -> list[dict[str, Any]]:
    """PQ of every variant, and how far it lies from that of the first one on the same images.

    Args:
        variants: name → counts of the n images ``(n, 4, K)``, and how they become PQ.
        num_things: number of things, the first classes of the table.
        resamples: number of draws R of n images with replacement, the same for all variants.
        seed: random seed of the draws.
        report: function that is called with a line of text for every variant.

    Returns:
        One row a variant: ``name``; ``pq``: group → PQ in [0, 1]; ``points``: group → the difference to the first
        variant in points (hundredths), lower and upper end of the middle 95% of the bootstrap.
    """
    (first, of_first), *_ = variants.values()
    n = len(first)
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), resamples)  # (R, n), how often each is drawn
    once_or_drawn = (torch.ones(1, n, dtype=torch.float64), torch.from_numpy(draws).double())
    base = [of_first(first, times, num_things) for times in once_or_drawn]
    rows: list[dict[str, Any]] = []
    for name, (counts, statistic) in variants.items():
        found = [statistic(counts, times, num_things) for times in once_or_drawn]
        (whole,), drawn = (100 * (a - b) for a, b in zip(found, base, strict=True))  # (3,), (R, 3)
        ends = drawn.nanquantile(torch.tensor([0.025, 0.975], dtype=torch.float64), 0)  # (2, 3)
        points = torch.cat([whole[None], ends]).T.tolist()  # (3, 3)
        rows.append(
            {
                "name": name,
                "pq": {g: round(v, 5) for g, v in zip(GROUPS, found[0][0].tolist(), strict=True)},
                "points": {g: [round(v, 3) for v in row] for g, row in zip(GROUPS, points, strict=True)},
            }
        )
        if report is not None:
            gain, low, high = rows[-1]["points"]["all"]
            report(f"{name}: PQ {rows[-1]['pq']['all']:.3f}, {gain:+.2f} points ({low:+.2f} to {high:+.2f})")
    return rows
