"""Which detections of one image find an object: COCO's overlaps and its greedy matching.

Letters in shape comments: D detections, G objects, T IoU thresholds, A ranges of area.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""``(T,)`` 0.5, 0.55, …, 0.95. A pair matches at its threshold exactly."""

AREAS = ("all", "small", "medium", "large")
"""The ranges of area, ``A`` = 4 of them."""

AREA_LIMITS = np.array([[0, 1e5**2], [0, 32**2], [32**2, 96**2], [96**2, 1e5**2]])
"""``(A, 2)`` pixels². Both ends belong to a range, so an object of 32² pixels is small and medium."""

LARGEST_THRESHOLD = 1 - 1e-10
"""A threshold of 1 asks for no more than this, so that rounding can't forbid a perfect match."""


def outside(areas: np.ndarray) -> np.ndarray:
    """Where areas ``(N,)`` lie outside the ranges: ``(N, A)`` bool."""
    column = areas[:, None]
    return (column < AREA_LIMITS[:, 0]) | (column > AREA_LIMITS[:, 1])


def coco_box_iou(detections: np.ndarray, objects: np.ndarray, iscrowd: np.ndarray) -> np.ndarray:
    """The overlap of every detection with every object, to the last bit as pycocotools rounds it.

    Intersection over union, or over the detection's area where the object is a crowd: a crowd is many objects, and a
    detection that lies inside has found one of them. :func:`seglib.ops.boxes.box_iou` starts from corners, which
    rounds differently; here that could decide an IoU of exactly 0.5.

    Args:
        detections: ``(D, 4)`` float64 boxes x, y, width, height.
        objects: ``(G, 4)`` float64 boxes x, y, width, height.
        iscrowd: ``(G,)`` bool, whether an object is a crowd.

    Returns:
        ``(D, G)`` float64 overlaps.
    """
    (x, y, w, h), (ox, oy, ow, oh) = detections.T[..., None], objects.T[:, None]  # (D, 1) and (1, G) each
    width = np.minimum(x + w, ox + ow) - np.maximum(x, ox)  # (D, G)
    height = np.minimum(y + h, oy + oh) - np.maximum(y, oy)
    touching = (width > 0) & (height > 0)
    inter = np.where(touching, width * height, 0.0)
    area = w * h  # (D, 1)
    union = np.where(iscrowd, area, area + ow * oh - inter)  # (D, G)
    return np.divide(inter, union, out=np.zeros_like(inter), where=touching)


def match(
    iou: np.ndarray,
    detected: np.ndarray,
    labels: np.ndarray,
    iscrowd: np.ndarray,
    ignored: np.ndarray,
    thresholds: np.ndarray = IOU_THRESHOLDS,
    *,
    impl: Literal["fast", "reference"] = "fast",
) -> tuple[np.ndarray, np.ndarray]:
    """COCO's matching of the detections of one image, for all its classes, thresholds and ranges of area at once.

    Within a class the detections choose in the order given, best score first. Each takes, among the free objects that
    it overlaps at least by the threshold, the one of largest IoU (the last of several), where an ignored object is
    taken only if no other is to be had. A taken object isn't free any more, unless it is a crowd.

    Args:
        iou: ``(D, G)`` overlaps; entries between different classes don't matter.
        detected: ``(D,)`` class ids of the detections, by falling score within every class.
        labels: ``(G,)`` class ids of the objects.
        iscrowd: ``(G,)`` bool, whether an object is a crowd.
        ignored: ``(G, A)`` bool, whether an object is a crowd or its area lies outside a range.
        thresholds: ``(T,)`` IoU from which a pair may match.
        impl: ``"reference"`` loops over classes, thresholds, ranges of area and detections; ``"fast"`` works on arrays.

    Returns:
        Two ``(D, A, T)`` bools: where a detection has matched at all, and where an object that counts.

    Raises:
        ValueError: for an unknown ``impl``.
    """
    wanted = np.minimum(thresholds, LARGEST_THRESHOLD)  # (T,)
    if impl == "reference":
        return _match_by_loops(iou, detected, labels, iscrowd, ignored, wanted)
    if impl == "fast":
        return _match_by_turns(iou, detected, labels, iscrowd, ignored, wanted)
    raise ValueError(f"impl is 'fast' or 'reference', got {impl!r}")


def _match_by_loops(
    iou: np.ndarray,
    detected: np.ndarray,
    labels: np.ndarray,
    iscrowd: np.ndarray,
    ignored: np.ndarray,
    wanted: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """COCO's rules as they are told: one class, threshold and range of area at a time, one detection after another."""
    matched = np.zeros((len(iou), ignored.shape[1], len(wanted)), bool)  # (D, A, T)
    hit = matched.copy()
    for label in np.unique(detected):
        detections, objects = np.flatnonzero(detected == label), np.flatnonzero(labels == label)
        for t, threshold in enumerate(wanted):
            for a in range(ignored.shape[1]):
                free = set(objects)
                for d in detections:  # best score first
                    possible = [g for g in objects if g in free and iou[d, g] >= threshold]
                    counting = [g for g in possible if not ignored[g, a]]
                    best = max(counting or possible, key=lambda g: (iou[d, g], g), default=None)
                    if best is None:
                        continue
                    matched[d, a, t] = True
                    hit[d, a, t] = not ignored[best, a]
                    if not iscrowd[best]:
                        free.remove(best)
    return matched, hit


def _match_by_turns(
    iou: np.ndarray,
    detected: np.ndarray,
    labels: np.ndarray,
    iscrowd: np.ndarray,
    ignored: np.ndarray,
    wanted: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The same for all classes, thresholds and ranges of area at once: the n-th detections of all classes together."""
    found = np.zeros((2, len(iou), ignored.shape[1], len(wanted)), bool)
    iou = np.where(detected[:, None] == labels, iou, -1.0)  # (D, G)
    rows = np.flatnonzero((iou >= wanted.min()).any(1))  # the C detections that could match
    if not len(rows):
        return found[0], found[1]
    iou, count = iou[rows], len(labels)

    # The wish of a detection for an object: 0 below the threshold, else 1, 2, … by falling preference from the top:
    # objects that count, then ignored ones, in either by IoU, then by their order.
    by_iou = np.empty(iou.shape, np.int32)
    np.put_along_axis(by_iou, iou.argsort(1, kind="stable"), np.arange(1, count + 1, dtype=np.int32)[None], 1)
    wish = by_iou[:, None] + np.where(ignored.T, 0, count).astype(np.int32)  # (C, A, G)
    wish = wish[:, :, None] * (iou[:, None, None] >= wanted[:, None])  # (C, A, T, G)

    # Classes share no object, so the first detections of all classes choose together, then the second, and so on.
    turn = _turns(detected[rows])  # (C,)
    free = np.ones(wish.shape[1:], bool)  # (A, T, G)
    best = np.empty(wish.shape[:3], np.int32)  # (C, A, T)
    for now in range(turn.max() + 1):
        choosing = turn == now
        possible = wish[choosing] * free  # (c, A, T, G)
        best[choosing] = possible.max(-1)
        taken = (possible == best[choosing][..., None]) & (possible > 0)  # wishes of one detection differ
        free &= ~taken.any(0) | iscrowd
    found[:, rows] = best > 0, best > count
    return found[0], found[1]


def _turns(classes: np.ndarray) -> np.ndarray:
    """How many entries of the same class stand before each one: ``(N,)``."""
    order = classes.argsort(kind="stable")
    ranked = classes[order]
    turns = np.empty(len(classes), np.int64)
    turns[order] = np.arange(len(classes)) - np.searchsorted(ranked, ranked)
    return turns
