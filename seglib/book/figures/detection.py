"""The moving figures about detection."""

from __future__ import annotations

from collections.abc import Sequence

from seglib.book.figures.element import Figure

ROI_MAP = (
    (1, 0, 2, 1, 0, 3, 1, 0),
    (0, 3, 7, 6, 2, 1, 0, 2),
    (2, 8, 9, 9, 5, 2, 1, 0),
    (1, 6, 9, 8, 7, 3, 0, 1),
    (0, 2, 5, 6, 3, 1, 2, 0),
    (3, 0, 1, 2, 0, 0, 1, 1),
)
"""A bright blob, left of the middle, on 6 × 8 cells."""


def precision_recall(
    right: Sequence[int] = (1, 0, 1, 0, 1, 0), *, scores: Sequence[float] | None = None, objects: int = 4
) -> Figure:
    """A ranked list of detections to reorder and to mark right or wrong: the curve, its interpolation and AP follow.

    Args:
        right: 1 for a right detection and 0 for a wrong one, by falling score, 1 to 10 of them.
        scores: scores at the places of the list, falling, in [0, 1]; by default from 0.95 down.
        objects: number of objects to find, 1 to 8, at least as many as there are right detections.

    Raises:
        ValueError: when a value is out of range, scores rise or there are fewer objects than right detections.
    """
    if not 1 <= len(right) <= 10 or any(r not in (0, 1) for r in right):
        raise ValueError(f"right holds 1 to 10 numbers 0 or 1, got {tuple(right)}")
    if scores is None:
        scores = [round(0.95 - 0.09 * i, 2) for i in range(len(right))]
    if len(scores) != len(right) or list(scores) != sorted(scores, reverse=True):
        raise ValueError(f"{len(right)} detections need as many scores, falling, got {tuple(scores)}")
    if not max(1, sum(right)) <= objects <= 8:
        raise ValueError(f"objects must be {max(1, sum(right))} (the right detections) to 8, got {objects}")
    rows = "".join(
        f"<tr><td>{s:.2f}</td><td>{'right' if r else 'wrong'}</td></tr>" for s, r in zip(scores, right, strict=True)
    )
    return Figure(
        "precision_recall",
        {"right": list(right), "scores": list(scores), "objects": objects},
        text="a ranked list of detections, its precision-recall curve and AP",
        fallback=(
            f"<table><tr><th>score</th><th></th></tr>{rows}</table><p>Detections to reorder, for {objects} objects "
            "(needs JavaScript). After the i-th detection precision is hits / i and recall hits / objects; AP is the "
            "mean, over 101 recalls, of the largest precision at that recall or beyond.</p>"
        ),
    )


def roi_bins(
    features: Sequence[Sequence[float]] = ROI_MAP,
    *,
    box: tuple[float, float, float, float] = (1.2, 0.9, 4.4, 4.7),
    size: int = 2,
    ratio: int = 2,
) -> Figure:
    """A box to drag over a small map: RoI Pooling's rounded bins beside RoIAlign's samples, and what both give.

    A switch turns ``aligned`` off, which moves all samples by half a cell.

    Args:
        features: the map as rows of numbers, 0 or more, 3 to 12 cells a side.
        box: box ``xyxy`` in cells, inside the map.
        size: number of bins P along each side, 1 to 4.
        ratio: number of samples in a bin along each axis, 1 to 4.

    Raises:
        ValueError: when a value is out of range or the box is empty or leaves the map.
    """
    height, width = len(features), len(features[0]) if features else 0
    if not (3 <= height <= 12 and 3 <= width <= 12) or any(len(row) != width for row in features):
        raise ValueError(f"features must be rows of equal length, 3 to 12 a side, got {[len(r) for r in features]}")
    if min(min(row) for row in features) < 0 or max(max(row) for row in features) <= 0:
        raise ValueError("features must be 0 or more, not all 0")
    for name, value in (("size", size), ("ratio", ratio)):
        if not 1 <= value <= 4:
            raise ValueError(f"{name} must be 1 to 4, got {value}")
    x0, y0, x1, y1 = box
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise ValueError(f"box {tuple(box)} is empty or leaves the map of {width} × {height} cells (xyxy)")
    return Figure(
        "roi_bins",
        {"map": features, "box": box, "size": size, "ratio": ratio},
        text="one box on a small map, by RoI Pooling and by RoIAlign",
        fallback=(
            f"<p>A box to drag over {width} × {height} cells (needs JavaScript). RoI Pooling rounds the box and its "
            f"{size} × {size} bins to whole cells and takes each bin's maximum, so its numbers jump as the box moves. "
            f"RoIAlign takes the mean of {ratio} × {ratio} bilinear samples in each bin, and nothing jumps.</p>"
        ),
    )


def nms(
    boxes: Sequence[tuple[float, float, float, float]] = (
        (4, 4, 15, 20),
        (6, 6, 17, 22),
        (9, 8, 20, 24),
        (25, 6, 36, 16),
        (27, 7, 38, 17),
        (31, 12, 40, 24),
    ),
    scores: Sequence[float] = (0.9, 0.75, 0.7, 0.8, 0.85, 0.5),
    *,
    threshold: float = 0.5,
) -> Figure:
    """Boxes to drag, with scores and a threshold: which survive non-maximum suppression, and who drops the others.

    Args:
        boxes: 2 to 8 boxes ``xyxy`` on a ground of 42 × 28.
        scores: score of each box, in [0, 1].
        threshold: IoU above which a box is dropped, in [0, 1].

    Raises:
        ValueError: when there are too few or too many boxes, one is empty or leaves the ground, or a score or the
            threshold is out of range.
    """
    if not 2 <= len(boxes) <= 8 or len(boxes) != len(scores):
        raise ValueError(f"the figure shows 2 to 8 boxes with a score each, got {len(boxes)} and {len(scores)}")
    for x0, y0, x1, y1 in boxes:
        if not (0 <= x0 < x1 <= 42 and 0 <= y0 < y1 <= 28):
            raise ValueError(f"box {(x0, y0, x1, y1)} is empty or leaves the ground of 42 × 28 (xyxy)")
    if any(not 0 <= v <= 1 for v in (*scores, threshold)):
        raise ValueError(f"scores and threshold must be 0 to 1, got {tuple(scores)} and {threshold}")
    return Figure(
        "nms",
        {"boxes": boxes, "scores": scores, "threshold": threshold},
        text="non-maximum suppression with boxes to drag",
        fallback=(
            f"<p>{len(boxes)} boxes to drag, with scores (needs JavaScript). Non-maximum suppression takes them by "
            "falling score and drops every box whose IoU with a taken one is above the threshold. A box that was "
            "dropped drops nobody.</p>"
        ),
    )


def matcher(
    objects: Sequence[tuple[float, float, float, float]] = ((14, 10, 32, 27),),
    *,
    foreground_iou: float = 0.7,
    background_iou: float = 0.3,
    size: int = 16,
) -> Figure:
    """One or two objects to drag and resize over anchors of stride 8: which of these turn foreground or are ignored.

    Sliders set the thresholds and the size of the anchors, a button turns low-quality matches off. The rule is that of
    :func:`~seglib.losses.assign.match_boxes`.

    Args:
        objects: 1 or 2 boxes ``xyxy`` on a ground of 56 × 40 pixels, at least 2 pixels a side.
        foreground_iou: IoU threshold from which an anchor takes an object, at least the background's, 0.05 to 1.
        background_iou: IoU threshold below which an anchor is background, 0 to 1.
        size: root of the anchors' area in pixels, an even number from 8 to 32.

    Raises:
        ValueError: when there are too many or too few objects, one is too small or leaves the ground, or a threshold or
            the size is out of range.
    """
    if not 1 <= len(objects) <= 2:
        raise ValueError(f"the figure shows 1 or 2 objects, got {len(objects)}")
    for x0, y0, x1, y1 in objects:
        if not (0 <= x0 <= x1 - 2 and 0 <= y0 <= y1 - 2 and x1 <= 56 and y1 <= 40):
            raise ValueError(f"box {(x0, y0, x1, y1)} has a side under 2 pixels or leaves the ground of 56 × 40 (xyxy)")
    if not (0.05 <= foreground_iou <= 1 and 0 <= background_iou <= foreground_iou):
        raise ValueError(
            "thresholds must hold 0 <= background_iou <= foreground_iou and 0.05 <= foreground_iou <= 1, got "
            f"{background_iou} and {foreground_iou}"
        )
    if size not in range(8, 33, 2):
        raise ValueError(f"size must be an even number from 8 to 32, got {size}")
    return Figure(
        "matcher",
        {"objects": objects, "foreground": foreground_iou, "background": background_iou, "size": size},
        text="which anchors answer for an object that can be dragged and resized",
        fallback=(
            "<p>Objects to drag and resize over 105 anchors, three at each of 7 × 5 cells (needs JavaScript). An "
            f"anchor whose best IoU is {foreground_iou:g} or more is foreground, one below {background_iou:g} is "
            "background, one between them is ignored. Low-quality matches also make the best anchors of every object "
            "foreground.</p>"
        ),
    )


def paste_back(
    box: tuple[float, float, float, float] = (10.5, 2.25, 29, 21.5), *, stride: int = 8, grid: int = 28
) -> Figure:
    """A perfect mask, read from its box and from RoI Pooling's whole cells, and pasted back: the IoU of both.

    The object can be dragged and resized; sliders set the stride and the side of the mask's grid.

    Args:
        box: the object's box ``xyxy`` on a ground of 48 × 32 pixels, in quarters of a pixel, 6 pixels a side or more.
        stride: stride of the map whose cells are read, 4, 8 or 16.
        grid: side M of the mask's grid, 7, 14, 21 or 28.

    Raises:
        ValueError: when the box is too small, leaves the ground or doesn't lie on quarters, or a choice is unknown.
    """
    x0, y0, x1, y1 = box
    if not (0 <= x0 <= x1 - 6 and 0 <= y0 <= y1 - 6 and x1 <= 48 and y1 <= 32) or any(4 * v % 1 for v in box):
        raise ValueError(
            f"box {tuple(box)} has a side under 6 pixels, leaves the ground of 48 × 32 (xyxy) or isn't in quarters"
        )
    if stride not in (4, 8, 16):
        raise ValueError(f"stride must be 4, 8 or 16, got {stride}")
    if grid not in (7, 14, 21, 28):
        raise ValueError(f"grid must be 7, 14, 21 or 28, got {grid}")
    return Figure(
        "paste_back",
        {"box": box, "stride": stride, "grid": grid},
        text="a perfect mask, read from its box and from whole cells, and pasted back",
        fallback=(
            "<p>An object to drag on 48 × 32 pixels (needs JavaScript). Its perfect mask is read on a grid of "
            f"{grid} × {grid}, once from its box and once from the whole cells of stride {stride} that RoI Pooling "
            "reads, and pasted back into the box. From the box it comes back nearly as it was, from the cells smaller "
            "and moved.</p>"
        ),
    )
