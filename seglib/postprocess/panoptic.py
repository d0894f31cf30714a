"""From overlapping objects and a map of stuff to one panoptic map: the merge of Panoptic FPN.

Source: Kirillov, He, Girshick, Rother, Dollár, "Panoptic Segmentation", CVPR 2019, section 6; Kirillov, Girshick, He,
Dollár, "Panoptic Feature Pyramid Networks", CVPR 2019, section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from seglib.ops.masks import masks_to_boxes
from seglib.ops.precision import widest_float
from seglib.types import VOID, Instances, Panoptic, Segment


@dataclass(frozen=True)
class MergeSettings:
    """The thresholds of the merge.

    Attributes:
        score_threshold: lowest score of an object, in [0, 1]; an equal score is kept.
        overlap_threshold: largest share of an object's mask, in [0, 1], that better objects may cover; an object that
            is covered more is dropped.
        stuff_area_limit: number of free pixels from which a stuff class becomes a segment. The number is absolute: 4096
            is 0.4 % of an image of 800×1216 and a quarter of one of 128×128, where it empties most scenes.

    Raises:
        ValueError: for a share outside [0, 1] or a negative number of pixels.
    """

    score_threshold: float = 0.5
    overlap_threshold: float = 0.5
    stuff_area_limit: int = 4096

    def __post_init__(self) -> None:
        for name in ("score_threshold", "overlap_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} lies in [0, 1], got {getattr(self, name)}")
        if self.stuff_area_limit < 0:
            raise ValueError(f"stuff_area_limit is a number of pixels, at least 0, got {self.stuff_area_limit}")


@torch.no_grad()
def merge_panoptic(
    instances: Instances,
    stuff: Tensor,
    settings: MergeSettings | None = None,
    *,
    num_things: int,
    impl: Literal["fast", "reference"] = "fast",
) -> Panoptic:
    """One segment for every pixel: objects by falling score, then stuff where no object is.

    1. Objects come by falling score, of equal scores the first one first, until a score is below ``score_threshold``.
    2. An object is dropped when those before it cover more than ``overlap_threshold`` of its mask; otherwise it gets
       the part of its mask that is free.
    3. Every stuff class gets its free pixels, if they are at least ``stuff_area_limit``.

    What is left over is void. Segment ids count from 1 in the order of placing; stuff follows in the order of its ids.

    Args:
        instances: predicted things of one image, with scores; masks may overlap.
        stuff: category id of the stuff at every pixel, ``(H, W)`` int64, 255 where there is none: void, or a thing.
        settings: the thresholds; ``MergeSettings()`` when not given.
        num_things: number of things in the class table: category ids below it are things.
        impl: "reference" compares whole masks one after the other; "fast" stays inside each mask's box and doesn't wait
            for a GPU between objects. Both give the same map.

    Raises:
        ValueError: when sizes differ, scores are missing, a label of an object is no thing or one of the map is no
            stuff, or ``impl`` is unknown.
    """
    s = settings or MergeSettings()
    _check(instances, stuff, num_things)
    if impl not in _PLACE:
        raise ValueError(f"impl {impl!r} is unknown; choose one of {', '.join(_PLACE)}")
    assert instances.scores is not None  # checked
    order = instances.scores.argsort(descending=True, stable=True)  # (N,)
    order = order[instances.scores[order] >= s.score_threshold]
    # packed masks are unpacked without those that are not wanted; others are not copied, which would take longer
    masks, rows = (
        (instances[order].masks, range(len(order)))
        if instances.packed is not None
        else (instances.masks, order.tolist())
    )
    places = _PLACE[impl](masks, rows, s.overlap_threshold)  # (H, W) int32: 0 is free, i + 1 belongs to order[i]

    behind = len(order) + 1
    index = torch.where(places > 0, places, stuff + behind)  # (H, W): an object, or behind the objects a stuff class
    areas = torch.bincount(index.flatten(), minlength=behind + VOID + 1)  # (behind + 256,)
    areas[[0, behind + VOID]] = 0  # no segments
    fewest = torch.ones_like(areas)
    fewest[behind:] = max(s.stuff_area_limit, 1)
    found = areas >= fewest
    ids = (found.cumsum(0) * found).int()  # 1, 2, … for the segments, 0 for what is too small
    where = found.nonzero()[:, 0]
    of_things = order[where[where < behind] - 1]
    things = zip(instances.labels[of_things].tolist(), instances.scores[of_things].tolist(), strict=True)
    described: list[tuple[int, float | None]] = [*things]
    described += [(category, None) for category in (where[where >= behind] - behind).tolist()]
    segments = [
        Segment(i, category, score is not None, area, score)
        for i, ((category, score), area) in enumerate(zip(described, areas[where].tolist(), strict=True), start=1)
    ]
    return Panoptic(ids[index], segments)


def _place_whole(masks: Tensor, rows: Sequence[int], overlap_threshold: float) -> Tensor:
    """The object at every pixel, ``(H, W)`` int32: its place in ``rows`` + 1, or 0."""
    places = torch.zeros(masks.shape[1:], dtype=torch.int32, device=masks.device)
    for i, row in enumerate(rows, start=1):
        mask = masks[row]  # (H, W)
        area = int(mask.sum())
        covered = int((mask & (places > 0)).sum())
        if area == 0 or covered / area > overlap_threshold:
            continue
        places[mask & (places == 0)] = i
    return places


def _place_windows(masks: Tensor, rows: Sequence[int], overlap_threshold: float) -> Tensor:
    """The same, inside the box of each mask; decisions stay tensors, so that a GPU is not waited for."""
    places = torch.zeros(masks.shape[1:], dtype=torch.int32, device=masks.device)
    boxes = masks_to_boxes(masks).int().tolist()
    for i, row in enumerate(rows, start=1):
        x1, y1, x2, y2 = boxes[row]
        mask, window = masks[row, y1:y2, x1:x2], places[y1:y2, x1:x2]
        free = mask & (window == 0)
        area = mask.sum()
        # in float64, as Python divides; an empty mask gives NaN, which is no share to keep
        kept = (area - free.sum()).to(widest_float(area.device)) / area <= overlap_threshold
        window.masked_fill_(free & kept, i)
    return places


_PLACE = {"fast": _place_windows, "reference": _place_whole}


def _check(instances: Instances, stuff: Tensor, num_things: int) -> None:
    if instances.scores is None:
        raise ValueError("the objects have no scores, which decide who comes first; pass predictions")
    if tuple(stuff.shape) != tuple(instances.size) or stuff.dtype != torch.int64:
        raise ValueError(
            f"the masks are {tuple(instances.size)} (H, W) and the stuff map {stuff.dtype} {tuple(stuff.shape)}; pass "
            "both at the output's size, the map as int64"
        )
    if len(instances) and not 0 <= int(instances.labels.min()) <= int(instances.labels.max()) < num_things:
        raise ValueError(
            f"objects have the labels {instances.labels.unique().tolist()}, things are 0..{num_things - 1}; in a class "
            "table things come first"
        )
    wrong = (stuff < num_things) | (stuff > VOID)
    if bool(wrong.any()):
        raise ValueError(
            f"the stuff map has the label {int(stuff[wrong][0])}; stuff is {num_things}..{VOID - 1}, or {VOID} where"
            " there is none"
        )
