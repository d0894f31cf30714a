"""From the matches of a dataset to COCO's curves and its twelve numbers.

Letters in shape comments: n detections of one class, T IoU thresholds, R recalls, K classes, A ranges of area, M
limits on the number of detections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from seglib.metrics.ap_matching import AREAS, IOU_THRESHOLDS
from seglib.types import Category

RECALLS = np.linspace(0, 1, 101)
"""``(R,)`` 0, 0.01, …, 1: where the precision is read off."""

MAX_DETECTIONS = (1, 10, 100)
"""How many detections per image and class count, ``M`` = 3 settings. :class:`AveragePrecision` may raise the last."""


@dataclass(frozen=True, eq=False)
class APScores:
    """COCO's average precision and recall, float64 in [0, 1].

    A class without an object in a range of area has no score there: NaN (COCO's −1), and it is left out of means.
    Precision is hits / (hits + misses + 2⁻⁵²) as in pycocotools, so a perfect AP is 1 − 2⁻⁵². The axes are T
    thresholds :data:`IOU_THRESHOLDS`, R recalls :data:`RECALLS`, K classes, A ranges :data:`AREAS`, and M limits
    :data:`MAX_DETECTIONS`.

    Attributes:
        ap: average precision, the mean over classes and the ten thresholds.
        ap50: AP at IoU 0.5 only.
        ap75: AP at IoU 0.75 only.
        ap_small: AP of objects up to 32² pixels.
        ap_medium: AP of objects of 32² to 96² pixels.
        ap_large: AP of objects from 96² pixels on.
        ar1: average recall with one detection per image and class, the mean over classes and thresholds.
        ar10: average recall with ten detections per image and class.
        ar100: average recall with a hundred detections per image and class, or as many as the metric counts.
        ar_small: AR100 of objects up to 32² pixels.
        ar_medium: AR100 of objects of 32² to 96² pixels.
        ar_large: AR100 of objects from 96² pixels on.
        class_ap: ``(K,)`` AP per class.
        class_ap50: ``(K,)`` AP50 per class.
        class_ar100: ``(K,)`` AR100 per class.
        precision: ``(T, R, K, A, M)`` the largest precision at each recall or a higher one, 0 where it isn't reached:
            ``precision[0, :, k, 0, 2]`` is the precision-recall curve of class k at IoU 0.5.
        recall: ``(T, K, A, M)`` the recall of all detections.
        scores: ``(T, R, K, A, M)`` the score at which each recall is reached, 0 where it isn't.
        counts: ``(K, A)`` int64 number of objects that count.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar1: float
    ar10: float
    ar100: float
    ar_small: float
    ar_medium: float
    ar_large: float
    class_ap: Tensor
    class_ap50: Tensor
    class_ar100: Tensor
    precision: Tensor = field(repr=False)
    recall: Tensor = field(repr=False)
    scores: Tensor = field(repr=False)
    counts: Tensor

    @property
    def numbers(self) -> dict[str, float]:
        """The twelve numbers in COCO's order, by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, float)}

    def table(self, categories: Sequence[Category] | Sequence[str]) -> str:
        """The scores as text: a line per class with AP, AP50 and AR100 in percent, and the means.

        Raises:
            ValueError: when there isn't one name per class.
        """
        names = [c.name if isinstance(c, Category) else c for c in categories]
        if len(names) != len(self.class_ap):
            raise ValueError(f"{len(self.class_ap)} classes need as many names, got {len(names)}; pass the class table")
        wide = max(map(len, [*names, "mean"]))
        columns = [self.class_ap, self.class_ap50, self.class_ar100]
        rows = torch.stack([*columns], 1).tolist()
        lines = [f"{'class':{wide}}      AP    AP50   AR100"]
        for name, row in zip([*names, "mean"], [*rows, [self.ap, self.ap50, self.ar100]], strict=True):
            cells = ("–" if v != v else f"{100 * v:.1f}" for v in row)
            lines.append(f"{name:{wide}}" + "".join(f"  {cell:>6}" for cell in cells))
        sizes = [("small", self.ap_small), ("medium", self.ap_medium), ("large", self.ap_large)]
        found = ", ".join(f"{name} " + ("–" if v != v else f"{100 * v:.1f}") for name, v in sizes)
        lines.append(f"AP of objects by size: {found}")
        return "\n".join(lines)

    @classmethod
    def from_matches(
        cls,
        labels: np.ndarray,
        scores: np.ndarray,
        ranks: np.ndarray,
        hits: np.ndarray,
        misses: np.ndarray,
        counts: np.ndarray,
        limits: Sequence[int] = MAX_DETECTIONS,
    ) -> APScores:
        """The scores of a dataset's detections, which come image by image, by falling score in each image and class.

        Args:
            labels: ``(N,)`` class ids of the detections.
            scores: ``(N,)`` float64, the detections' scores.
            ranks: ``(N,)`` 0 for the best detection of its class in its image, then 1, ….
            hits: ``(N, A·T/8)`` packed bits of (A, T): whether a detection found an object that counts.
            misses: ``(N, A·T/8)`` packed bits of (A, T): whether a detection found nothing and isn't ignored.
            counts: ``(K, A)`` number of objects that count.
            limits: how many detections per image and class count, M = 3 rising numbers.
        """
        classes, shape = len(counts), (len(AREAS), len(IOU_THRESHOLDS))
        settings = (*shape, len(limits))
        precision, threshold = np.full((2, classes, len(RECALLS), *settings), np.nan)  # (K, R, A, T, M) each
        recall = np.full((classes, *settings), np.nan)  # (K, A, T, M)
        order = np.lexsort((-scores, labels))  # stable: equal scores stay in the order of the images
        ends = np.searchsorted(labels[order], np.arange(classes + 1))
        for k in np.flatnonzero(counts[:, 0]):
            mine = order[ends[k] : ends[k + 1]]  # (n,)
            hit, miss = (
                np.unpackbits(bits[mine], axis=1).reshape(-1, *shape).astype(bool)  # (n, A, T)
                for bits in (hits, misses)
            )
            used = -1
            for m, limit in enumerate(limits):
                kept = ranks[mine] < limit
                if kept.sum() > used:  # else no image has that many of the class, and the curve stays as it was
                    curve = _curve(scores[mine][kept], hit[kept], miss[kept], counts[k])
                    used = kept.sum()
                precision[k, ..., m], recall[k, ..., m], threshold[k, ..., m] = curve
        precision, threshold = (x.transpose(3, 1, 0, 2, 4) for x in (precision, threshold))  # (T, R, K, A, M)
        recall = recall.transpose(2, 0, 1, 3)  # (T, K, A, M)

        at50, at75 = (int(np.isclose(IOU_THRESHOLDS, t).argmax()) for t in (0.5, 0.75))
        ap = precision[..., -1]  # (T, R, K, A), of a hundred detections
        ar = recall[..., -1]  # (T, K, A)
        return cls(
            ap=float(_mean(ap[..., 0])),
            ap50=float(_mean(ap[at50, ..., 0])),
            ap75=float(_mean(ap[at75, ..., 0])),
            ap_small=float(_mean(ap[..., 1])),
            ap_medium=float(_mean(ap[..., 2])),
            ap_large=float(_mean(ap[..., 3])),
            ar1=float(_mean(recall[..., 0, 0])),
            ar10=float(_mean(recall[..., 0, 1])),
            ar100=float(_mean(ar[..., 0])),
            ar_small=float(_mean(ar[..., 1])),
            ar_medium=float(_mean(ar[..., 2])),
            ar_large=float(_mean(ar[..., 3])),
            class_ap=torch.from_numpy(_mean(ap[..., 0], (0, 1))),
            class_ap50=torch.from_numpy(_mean(ap[at50, ..., 0], 0)),
            class_ar100=torch.from_numpy(_mean(ar[..., 0], 0)),
            precision=torch.from_numpy(precision),
            recall=torch.from_numpy(recall),
            scores=torch.from_numpy(threshold),
            counts=torch.from_numpy(counts),
        )


def _curve(
    scores: np.ndarray, hit: np.ndarray, miss: np.ndarray, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The curves of one class, its n detections sorted by falling score.

    Args:
        scores: ``(n,)`` falling scores.
        hit: ``(n, A, T)`` bool, whether a detection found an object that counts.
        miss: ``(n, A, T)`` bool, whether a detection found nothing and isn't ignored.
        counts: ``(A,)`` number of objects that count.

    Returns:
        Precision ``(R, A, T)``, recall ``(A, T)`` and score ``(R, A, T)``, NaN without objects.
    """
    n, objects = len(scores), np.maximum(counts, 1)
    hits = hit.cumsum(0)  # (n, A, T)
    precision = np.zeros((n + 1, *hit.shape[1:]))  # the last row: recalls that aren't reached
    precision[:n] = hits / (miss.cumsum(0) + hits + np.spacing(1))
    precision[:n] = np.maximum.accumulate(precision[n - 1 :: -1] if n else precision[:0])[::-1]  # from there on

    # Recall rises at hits only. place[c] is the detection that is the c-th hit, and needed[r] how many hits make r.
    rows, a, t = np.nonzero(hit)
    place = np.full((objects.max() + 1, *hit.shape[1:]), n)
    place[hits[rows, a, t], a, t] = rows
    place[0] = 0
    needed = np.stack([np.searchsorted(np.arange(g + 1) / g, RECALLS) for g in objects], 1)  # (R, A)
    reached = place[needed, np.arange(hit.shape[1])]  # (R, A, T)
    final = hits[-1] if n else np.zeros(hit.shape[1:])
    curve = np.take_along_axis(precision, reached, 0), final / objects[:, None], np.append(scores, 0.0)[reached]
    for part in curve:
        part[..., counts == 0, :] = np.nan
    return curve


def _mean(x: np.ndarray, axes: int | tuple[int, ...] | None = None) -> np.ndarray:
    """The mean over the entries that aren't NaN, NaN when none is left."""
    known = ~np.isnan(x)
    count = known.sum(axes)
    total = np.where(known, x, 0.0).sum(axes)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)
