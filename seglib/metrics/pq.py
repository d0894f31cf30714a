r"""Panoptic quality: how well the segments of a panoptic prediction meet those of the truth.

A predicted segment matches a true one when both have the same class and their IoU exceeds ½. Segments of one map do not
overlap, so a segment has at most one match. Of every class, with TP the matched pairs, FP the predictions and FN the
true segments that are left over,

.. math::

    \text{PQ} = \frac{\sum_{\text{TP}} \text{IoU}}{\text{TP} + \frac12 \text{FP} + \frac12 \text{FN}}
    = \underbrace{\frac{\sum_{\text{TP}} \text{IoU}}{\text{TP}}}_{\text{SQ}} \cdot
    \underbrace{\frac{\text{TP}}{\text{TP} + \frac12 \text{FP} + \frac12 \text{FN}}}_{\text{RQ}}

Source: Kirillov et al., *Panoptic Segmentation*, CVPR 2019; the numbers equal those of panopticapi, COCO's evaluation.

The rules that matter:

- The union leaves out the prediction's pixels that are void in the truth. Void in the prediction is left out nowhere:
  PQ changes when prediction and truth change places.
- A crowd (one true segment of many objects) is neither matched nor missed.
- A prediction without a match is ignored, no false positive, when more than half its pixels are void in the truth or
  belong to the crowd of its class. Of several crowds of a class in one image the last one in the list counts.
- TP, FP, FN and IoU are added up over the dataset before they are divided. A class without any of them has no score and
  is left out of the means; one without a match has SQ 0.
- Areas are counted on the maps; the ``area`` of a segment is not used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from seglib.metrics.streaming import StreamingCounts
from seglib.types import Category, Panoptic, check_categories


@dataclass(frozen=True)
class Matches:
    """How the segments of one image were matched. Segments are named by their ids, in the order of their lists.

    Attributes:
        pairs: the true positives: the id of the prediction, the id of the target, and their IoU in (½, 1]; in the
            order of the targets.
        fp: ids of the false positives, predictions without a match.
        fn: ids of the false negatives, targets without a match.
        ignored: ids of the predictions without a match that lie mostly in void or in the crowd of their class.
    """

    pairs: list[tuple[int, int, float]]
    fp: list[int]
    fn: list[int]
    ignored: list[int]


def match_segments(prediction: Panoptic, target: Panoptic, *, sum_crowds: bool = False) -> Matches:
    """Match the segments of one image as :class:`PanopticQuality` does.

    Args:
        prediction: predicted segments, int32 map ``(H, W)``.
        target: true segments, a map of the same size; ``iscrowd`` marks crowds.
        sum_crowds: whether all crowds of a class count, and not only the last one.

    Raises:
        ValueError: when sizes differ, a map isn't int32, ids repeat or are below 1, or map and list have other ids.
    """
    found, true = _column(prediction, "id"), _column(target, "id")  # (P,), (G,)
    m = _match(prediction, target, sum_crowds)
    pairs = list(zip(found[m.prediction].tolist(), true[m.target].tolist(), m.iou.tolist(), strict=True))
    return Matches(pairs, found[m.fp].tolist(), true[m.fn].tolist(), found[m.ignored].tolist())


@dataclass(frozen=True)
class PQMeans:
    """Means over the classes of a group that have a score, in [0, 1]; NaN without such a class.

    Attributes:
        pq: panoptic quality.
        sq: segmentation quality, the mean IoU of matched segments; 0 for a class without a match.
        rq: recognition quality, the F1 score of the segments.
        classes: number of classes in the means.
    """

    pq: float
    sq: float
    rq: float
    classes: int


@dataclass(frozen=True)
class PQScores(PQMeans):
    """Panoptic quality of a dataset, float64 in [0, 1]; ``pq``, ``sq`` and ``rq`` are means over all classes.

    Attributes:
        things: the means over thing classes.
        stuff: the means over stuff classes.
        class_pq: ``(K,)`` PQ per class, NaN where the class has no TP, FP or FN.
        class_sq: ``(K,)`` SQ per class, 0 where it has no TP, NaN as for PQ.
        class_rq: ``(K,)`` RQ per class, NaN as for PQ.
        tp: ``(K,)`` int64, number of matched pairs in the dataset.
        fp: ``(K,)`` int64, number of false positives in the dataset.
        fn: ``(K,)`` int64, number of false negatives in the dataset.
        iou: ``(K,)`` float64, the sum of the matched pairs' IoU in the dataset.
        per_image: whether PQ, SQ and RQ are means over images of each image's own score. These are other numbers than
            PQ of the dataset, and not the published ones.
    """

    things: PQMeans
    stuff: PQMeans
    class_pq: Tensor
    class_sq: Tensor
    class_rq: Tensor
    tp: Tensor
    fp: Tensor
    fn: Tensor
    iou: Tensor
    per_image: bool


class PanopticQuality(StreamingCounts):
    """PQ, SQ and RQ of a dataset, added up image by image.

    With ``per_image=True`` each image is scored by itself, as if it were the dataset; the scores are means over images:
    a class over the images in which it has a score, a group (all, things, stuff) over the images in which any of its
    classes has one.

    Args:
        categories: the class table, things first, then stuff.
        per_image: whether to average each image's own scores; the default adds up over the dataset before dividing.
        sum_crowds: whether all crowds of a class in an image count, and not only the last one. Other numbers than
            panopticapi's where a class has several crowds.

    Attributes:
        counts: float64 on the CPU, ``(4, K)``: of every class the sum of matched IoUs, TP, FP and FN. With
            ``per_image`` ``(8, K + 3)``: below them, of the K classes and of all, things and stuff, sums over images of
            PQ, SQ and RQ, and the number of images that have a score.

    Raises:
        ValueError: when the class table is invalid.

    Example:
        >>> found, true = torch.tensor([[5, 5, 5, 5]]).int(), torch.tensor([[1, 1, 1, 2]]).int()
        >>> target = Panoptic(true, [Segment(1, 0, True, area=3), Segment(2, 0, True, area=1)])
        >>> metric = PanopticQuality([Category(0, "cell", True, (220, 20, 60))])
        >>> metric.update(Panoptic(found, [Segment(5, 0, True, area=4)]), target)
        >>> metric.compute().pq  # an IoU of 3/4, one match and one miss: 0.75 / 1.5
        0.5
    """

    def __init__(self, categories: Sequence[Category], *, per_image: bool = False, sum_crowds: bool = False) -> None:
        table = check_categories(categories, things_first=True)
        self.isthing = torch.tensor([c.isthing for c in table], dtype=torch.bool)  # (K,)
        self.per_image, self.sum_crowds = per_image, sum_crowds
        rows, columns = (8, len(categories) + 3) if per_image else (4, len(categories))
        super().__init__(categories, None, rows=rows, columns=columns, dtype=torch.float64)

    @property
    def settings(self) -> dict[str, object]:
        """What must agree for two metrics to score the same thing."""
        return {
            "metric": type(self).__name__,
            "isthing": self.isthing.tolist(),
            "per_image": self.per_image,
            "sum_crowds": self.sum_crowds,
        }

    def update(self, prediction: Panoptic, target: Panoptic) -> None:
        """Match the segments of one image.

        Args:
            prediction: predicted segments, int32 map ``(H, W)``; every segment has pixels.
            target: true segments, a map of the same size, 0 where void; ``iscrowd`` marks crowds.

        Raises:
            ValueError: when sizes differ, a map isn't int32, ids repeat or are below 1, map and list have other ids, a
                category isn't in the table, or a segment's ``isthing`` contradicts it.
        """
        found, true = self._classes(prediction, "prediction"), self._classes(target, "target")  # (P,), (G,)
        m = _match(prediction, target, self.sum_crowds)
        iou = np.bincount(found[m.prediction], m.iou, self.num_classes)  # (K,)
        tp, fp, fn = (
            np.bincount(classes, minlength=self.num_classes)
            for classes in (found[m.prediction], found[m.fp], true[m.fn])
        )
        table = torch.from_numpy(np.stack([iou, tp, fp, fn]))  # (4, K)
        if self.per_image:
            scores = _scores(table, self.isthing)  # (3, K + 3)
            table = torch.cat([F.pad(table, (0, 3)), scores.nan_to_num(0), ~scores[:1].isnan()])  # (8, K + 3)
        self._add(table)

    def compute(self) -> PQScores:
        """The scores of everything added so far."""
        k = self.num_classes
        counts = self.counts[:4, :k]
        scores = self.counts[4:7] / self.counts[7] if self.per_image else _scores(counts, self.isthing)  # (3, K + 3)
        iou, tp, fp, fn = counts.clone()
        seen = tp + fp + fn > 0
        sizes = [int((seen & group).sum()) for group in _groups(self.isthing)]
        means = zip(*scores[:, k:].tolist(), sizes, strict=True)
        overall, things, stuff = (PQMeans(pq, sq, rq, classes) for pq, sq, rq, classes in means)
        return PQScores(
            **vars(overall),
            things=things,
            stuff=stuff,
            class_pq=scores[0, :k],
            class_sq=scores[1, :k],
            class_rq=scores[2, :k],
            tp=tp.long(),
            fp=fp.long(),
            fn=fn.long(),
            iou=iou,
            per_image=self.per_image,
        )

    def _classes(self, panoptic: Panoptic, name: str) -> np.ndarray:
        """The segments' classes ``(N,)``, after a check against the table."""
        classes, isthing = _column(panoptic, "category_id"), _column(panoptic, "isthing", bool)
        unknown = (classes < 0) | (classes >= self.num_classes)
        if unknown.any():
            raise ValueError(
                f"segment {_first_id(panoptic, unknown)} of the {name} has category {classes[unknown][0]}, which is not"
                f" in 0..{self.num_classes - 1}; remap the category ids, or pass the class table that they follow"
            )
        contradicts = isthing != self.isthing.numpy()[classes]
        if contradicts.any():
            raise ValueError(
                f"segment {_first_id(panoptic, contradicts)} of the {name} has isthing={isthing[contradicts][0]}, the"
                f" class table says the opposite of its category {classes[contradicts][0]}; take isthing from the table"
            )
        return classes


def _column(panoptic: Panoptic, name: str, dtype: type = np.int64) -> np.ndarray:
    """One attribute of all segments, ``(N,)``."""
    return np.array([getattr(s, name) for s in panoptic.segments], dtype)


def _first_id(panoptic: Panoptic, where: np.ndarray) -> int:
    return panoptic.segments[int(where.argmax())].id


def _groups(isthing: Tensor) -> list[Tensor]:
    """Which classes are averaged: all, things, stuff, ``(K,)`` bool each."""
    return [torch.ones_like(isthing), isthing, ~isthing]


def _scores(counts: Tensor, isthing: Tensor) -> Tensor:
    """PQ, SQ and RQ, ``(3, K + 3)``: of the classes, then their means over all, things and stuff; NaN for none."""
    iou, tp, fp, fn = counts  # (K,) each
    size = tp + (fp + fn) / 2
    sq = torch.where(size > 0, iou / tp.clamp(min=1), torch.nan)
    classes = torch.stack([iou / size, sq, tp / size])  # (3, K), 0 / 0 is NaN
    return torch.cat([classes, *(classes[:, group].nanmean(1, keepdim=True) for group in _groups(isthing))], 1)


class _Matching(NamedTuple):
    """How P predicted and G true segments were matched; segments are named by their places in the lists."""

    prediction: np.ndarray  # (TP,), of the pairs
    target: np.ndarray  # (TP,)
    iou: np.ndarray  # (TP,)
    fp: np.ndarray  # (P,) bool
    fn: np.ndarray  # (G,) bool
    ignored: np.ndarray  # (P,) bool


def _match(prediction: Panoptic, target: Panoptic, sum_crowds: bool) -> _Matching:
    # Place 0 is void, place i + 1 a segment. What is left in float64 are whole numbers below 2⁵³, which are exact.
    found = np.append(-1, _column(prediction, "category_id"))  # (P + 1,)
    true = np.append(-1, _column(target, "category_id"))  # (G + 1,)
    crowd = np.append(False, _column(target, "iscrowd", bool))  # (G + 1,)
    p, g, pixels = _overlaps(prediction, target)  # (O,) each
    found_area, true_area = np.bincount(p, pixels, len(found)), np.bincount(g, pixels, len(true))
    void = np.bincount(p, pixels * (g == 0), len(found))  # (P + 1,)

    same = (p > 0) & (g > 0) & (found[p] == true[g])  # (O,)
    union = found_area[p] + true_area[g] - pixels - void[p]
    matched = same & ~crowd[g] & (2 * pixels > union)
    crowds = np.flatnonzero(crowd)[::-1]
    if not sum_crowds:
        crowds = crowds[np.unique(true[crowds], return_index=True)[1]]  # of every class the first from the end
    excused = void + np.bincount(p, pixels * (same & np.isin(g, crowds)), len(found))  # (P + 1,)

    alone, missed = np.ones(len(found), bool), ~crowd
    alone[p[matched]] = missed[g[matched]] = False
    ignored = alone & (2 * excused > found_area)
    iou = pixels[matched] / union[matched]
    return _Matching(p[matched] - 1, g[matched] - 1, iou, fp=(alone & ~ignored)[1:], fn=missed[1:], ignored=ignored[1:])


def _overlaps(prediction: Panoptic, target: Panoptic) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The O pairs of segments, or void, that share pixels: place in the prediction, in the target, number of pixels.

    Neighbours mostly belong to the same two segments, so ids are looked up once per run of pixels, in the order of
    memory, and not once per pixel.
    """
    if prediction.map.shape != target.map.shape:
        raise ValueError(
            f"the map of the prediction is {tuple(prediction.map.shape)}, that of the target"
            f" {tuple(target.map.shape)}; resize the prediction to the size of the target"
        )
    found, true = _flat_map(prediction, "prediction"), _flat_map(target, "target")  # (H·W,)
    first = np.ones(found.size, bool)  # of a run
    first[1:] = (found[1:] != found[:-1]) | (true[1:] != true[:-1])
    starts = np.flatnonzero(first)  # (R,)
    lengths = np.diff(starts, append=found.size)
    columns = len(prediction.segments) + 1
    pair = _places(true[starts], target, "target") * columns + _places(found[starts], prediction, "prediction")  # (R,)
    pixels = np.bincount(pair, lengths)
    pairs = np.flatnonzero(pixels)  # (O,)
    return pairs % columns, pairs // columns, pixels[pairs]


def _flat_map(panoptic: Panoptic, name: str) -> np.ndarray:
    if panoptic.map.ndim != 2 or panoptic.map.dtype != torch.int32:
        raise ValueError(
            f"the map of the {name} must be int32 (H, W), got {panoptic.map.dtype} {tuple(panoptic.map.shape)};"
            " convert it with .to(torch.int32)"
        )
    return panoptic.map.detach().cpu().numpy().ravel()


def _places(runs: np.ndarray, panoptic: Panoptic, name: str) -> np.ndarray:
    """The place in the list of the segment of every run ``(R,)``: 0 for void, i + 1 for ``segments[i]``."""
    ids = np.append(0, _column(panoptic, "id"))
    order = ids.argsort(kind="stable")
    ordered = ids[order]
    if ordered[0] < 0 or (ordered[1:] == 0).any():
        raise ValueError(f"the {name} has a segment with id {ordered[:2].min()}; ids are at least 1, 0 is void")
    if (repeated := ordered[1:] == ordered[:-1]).any():
        raise ValueError(f"the {name} has two segments with id {ordered[1:][repeated][0]}; give each its own")
    place = np.searchsorted(ordered, runs).clip(max=len(ids) - 1)
    if (unknown := ordered[place] != runs).any():
        raise ValueError(
            f"the map of the {name} has the id {runs[unknown][0]}, which no segment has; add the segment or set its"
            " pixels to 0 (void)"
        )
    place = order[place]
    missing = np.bincount(place, minlength=len(ids))[1:] == 0
    if missing.any():
        raise ValueError(f"segment {ids[1:][missing][0]} of the {name} has no pixels in the map; drop it from the list")
    return place
