"""Which object a location answers for, without anchors: FCOS's rule.

Source: Tian et al., "FCOS: Fully Convolutional One-Stage Object Detection", ICCV 2019, section 3; centre sampling is
the authors' later addition ("FCOS: A Simple and Strong Anchor-free Object Detector", TPAMI 2020).
"""

from __future__ import annotations

import torch
from torch import Tensor

from seglib.losses.assign import BACKGROUND
from seglib.ops.masks import centres_of_mass

CHUNK = 2**22
"""Pairs of a location and an object that are compared at once: about 100 MB."""


def mask_centres(masks: Tensor, boxes: Tensor) -> Tensor:
    """Centres of mass of masks, as column and row *indices*: the pixel in column 3 counts as 3, not as 3.5.

    The published code means them so, and weights trained with it have seen these locations. A mask without a pixel has
    the centre of its box.

    Args:
        masks: masks of objects, ``(N, H, W)`` bool.
        boxes: box of each object, ``(N, 4)`` xyxy in pixels.

    Returns:
        ``(N, 2)`` (x, y) in pixels, of the boxes' type.
    """
    centre, area = centres_of_mass(masks)  # (N, 2), (N,)
    return torch.where(area[:, None] > 0, centre.to(boxes.dtype), (boxes[:, :2] + boxes[:, 2:]) / 2)


@torch.no_grad()
def assign_locations(
    locations: Tensor,
    strides: Tensor,
    ranges: Tensor,
    boxes: Tensor,
    centres: Tensor | None = None,
    *,
    radius: float | None = 1.5,
) -> Tensor:
    """The object that each location of a pyramid answers for.

    A location answers for an object when it lies inside the object's box (strictly), at most ``radius`` strides from
    its centre along each axis (strictly, too), and when the largest of its distances l, t, r, b to the box's sides lies
    in the range of its level, both ends included. Of several such objects it takes the one with the smallest box; of
    equal ones the first.

    An object may be left without a location: thinner than the stride, or at the seam of two levels. Nothing forces one.

    Args:
        locations: points (x, y) of all levels in pixels, ``(L, 2)``.
        strides: stride in pixels of each location's level, ``(L,)``.
        ranges: least and largest distance in pixels that each location's level answers for, ``(L, 2)``.
        boxes: boxes of the objects, ``(G, 4)`` xyxy in pixels. G may be 0.
        centres: points around which an object's locations lie, ``(G, 2)`` in pixels; ``None`` takes the boxes' centres.
        radius: how far from the centre, in strides; ``None`` takes the whole box.

    Returns:
        ``(L,)`` int64: index of the object, −1 for background.

    Raises:
        ValueError: when shapes don't match.
    """
    count, objects = len(locations), len(boxes)
    if locations.shape != (count, 2) or strides.shape != (count,) or ranges.shape != (count, 2):
        raise ValueError(
            f"expected locations (L, 2), strides (L,) and ranges (L, 2), got {tuple(locations.shape)}, "
            f"{tuple(strides.shape)} and {tuple(ranges.shape)}; repeat what a level has for each of its locations"
        )
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2 if centres is None else centres
    if boxes.shape != (objects, 4) or centres.shape != (objects, 2):
        raise ValueError(f"expected boxes (G, 4) and centres (G, 2), got {tuple(boxes.shape)}, {tuple(centres.shape)}")
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)  # (G,)
    order = areas.argsort(stable=True)  # the smallest box first: of several objects the least place here wins
    best = torch.full((count,), objects, device=locations.device)  # (L,) place in the order
    place = torch.arange(objects, device=locations.device)
    step = max(1, CHUNK // max(1, count))
    for begin in range(0, objects, step):
        some = order[begin : begin + step]  # (g,)
        box, centre = boxes[some], centres[some]
        distances = box_distances(locations[:, None], box)  # (L, g, 4)
        inside = distances.amin(-1) > 0  # (L, g)
        if radius is not None:
            away = (locations[:, None] - centre).abs().amax(-1)  # (L, g)
            inside &= away < radius * strides[:, None]
        farthest = distances.amax(-1)
        inside &= (farthest >= ranges[:, :1]) & (farthest <= ranges[:, 1:])
        least = torch.where(inside, place[begin : begin + step], objects).amin(1)  # (L,)
        best = torch.minimum(best, least)
    if objects == 0:
        return torch.full_like(best, BACKGROUND)
    return torch.where(best < objects, order[best.clamp(max=objects - 1)], BACKGROUND)


def box_distances(locations: Tensor, boxes: Tensor) -> Tensor:
    """Distances l, t, r, b from points to the left, top, right and bottom side of boxes; negative beyond a side.

    Args:
        locations: points (x, y), ``(…, 2)``.
        boxes: boxes ``(…, 4)`` xyxy, which broadcast against the points.

    Returns:
        ``(…, 4)``.
    """
    return torch.cat(torch.broadcast_tensors(locations - boxes[..., :2], boxes[..., 2:] - locations), -1)
