"""Simulated prompts: points and boxes that a user might give for known masks, and how well an answer fits.

Points are ``(x, y)`` where the centre of the first pixel is (0, 0), so a point is the column and the row of a pixel.

Source: Kirillov et al., "Segment Anything", ICCV 2023, appendix A, "Training algorithm".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from seglib.ops.masks import masks_to_boxes


def random_points(masks: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """A uniformly random pixel of each mask.

    Of the n pixels of a mask, in reading order, it is number ⌊u·n⌋ for a uniform u in [0, 1).

    Args:
        masks: masks of objects, ``(N, H, W)`` bool. N may be 0.
        generator: source of u, on the device of the masks; PyTorch's own when ``None``.

    Returns:
        Points (x, y), ``(N, 2)`` float32; (0, 0) for an empty mask.

    Raises:
        ValueError: when masks are not bool or don't have three dimensions.
    """
    _check(masks)
    rows = masks.view(torch.uint8).sum(2, dtype=torch.int32).cumsum(1)  # (N, H): pixels in this row and above
    count = rows[:, -1:]  # (N, 1)
    u = torch.rand(count.shape, generator=generator, device=masks.device)
    number = (u * count).long().minimum(count - 1)  # (N, 1): a product may be rounded up to n; −1 when empty
    y = (rows <= number).sum(1, keepdim=True)  # (N, 1)
    above = torch.where(y > 0, rows.gather(1, (y - 1).clamp(min=0)), 0)  # (N, 1)
    row = masks[torch.arange(len(masks), device=masks.device), y[:, 0]]  # (N, W)
    x = (row.cumsum(1) <= number - above).sum(1, keepdim=True)  # (N, 1)
    return torch.cat([x, y], 1).float()


def centre_points(masks: Tensor) -> Tensor:
    """The pixel of each mask that lies farthest from its border; the first in reading order of equal ones.

    The border of the image is a border of the mask. Unlike the centre of mass, the point lies inside a ring, too.

    Args:
        masks: masks of objects, ``(N, H, W)`` bool. N may be 0.

    Returns:
        Points (x, y), ``(N, 2)`` float32; (0, 0) for an empty mask.

    Raises:
        ValueError: when masks are not bool or don't have three dimensions.
    """
    from scipy.ndimage import distance_transform_edt  # takes longer to import than the rest of this module

    _check(masks)
    points = torch.zeros(len(masks), 2)
    # the nearest pixel outside of a mask lies at most one pixel outside of its box
    for i, (left, top, right, bottom) in enumerate(masks_to_boxes(masks).long().tolist()):
        if right > left:
            inside = F.pad(masks[i, top:bottom, left:right].cpu(), (1, 1, 1, 1)).numpy()
            y, x = divmod(int(distance_transform_edt(inside).argmax()), inside.shape[1])
            points[i] = torch.tensor([left + x - 1, top + y - 1])
    return points.to(masks.device)


def noisy_boxes(
    boxes: Tensor,
    size: Sequence[int],
    *,
    share: float = 0.1,
    most: float = 20.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Boxes as a user might draw them: normal noise on every coordinate, of 10 % of the side, at most 20 pixels.

    Args:
        boxes: tight boxes, ``(N, 4)`` float ``xyxy`` in pixels.
        size: height and width of the image, to which the boxes are clipped.
        share: standard deviation of the noise as a share of the box's width or height, at least 0.
        most: limit of the noise in pixels, at least 0.
        generator: source of the noise, on the device of the boxes; PyTorch's own when ``None``.

    Returns:
        ``(N, 4)`` with x1 ≤ x2 and y1 ≤ y2.

    Raises:
        ValueError: when ``share`` or ``most`` is negative.
    """
    if share < 0 or most < 0:
        raise ValueError(f"share and most of the noise are at least 0, got {share} and {most}")
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)  # (N, 4): w, h, w, h
    noise = torch.randn(boxes.shape, generator=generator, device=boxes.device, dtype=boxes.dtype) * share * sides
    height, width = size
    limit = boxes.new_tensor([width, height])
    corners = (boxes + noise.clamp(-most, most)).view(-1, 2, 2).clamp(min=0).minimum(limit)  # (N, 2, 2)
    return torch.cat([corners.amin(1), corners.amax(1)], 1)


def error_clicks(
    predicted: Tensor,
    wanted: Tensor,
    *,
    valid: Tensor | None = None,
    where: Literal["random", "centre"] = "random",
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """The next click for each mask: a wrong pixel, labelled 1 where the mask misses it, 0 where it is too much.

    Without an error the click falls on the wanted mask and has the label 1.

    Args:
        predicted: masks as they are, ``(N, H, W)`` bool; all empty for a first click.
        wanted: masks as they should be, ``(N, H, W)`` bool.
        valid: pixels that can be clicked, bool ``(N, H, W)`` or ``(H, W)``, where some are void; all when ``None``.
        where: "random" for any wrong pixel; "centre" for the middle of the largest error, which is a connected
            component of the missed pixels or of those that are too much, see :func:`centre_points`. The first kind is
            for training, the second for evaluation.
        generator: source of random clicks, on the device of the masks; PyTorch's own when ``None``.

    Returns:
        Points (x, y), ``(N, 2)`` float32; and labels, ``(N,)`` int64 in {0, 1}, or −1, with the point (0, 0), where
        nothing is wanted and nothing wrong.

    Raises:
        ValueError: when masks aren't bool, shapes differ, or ``where`` is unknown.
    """
    _check(wanted)
    if predicted.shape != wanted.shape or predicted.dtype != torch.bool:
        raise ValueError(
            f"predicted masks must be bool {tuple(wanted.shape)} as the wanted ones, got {predicted.dtype} "
            f"{tuple(predicted.shape)}; threshold logits, and bring them to this size, first"
        )
    if where not in ("random", "centre"):
        raise ValueError(f"where is 'random' or 'centre', got {where!r}")
    wrong, open_to = predicted ^ wanted, wanted
    if valid is not None:
        wrong, open_to = wrong & valid, wanted & valid
    region = torch.where(wrong.flatten(1).any(1)[:, None, None], wrong, open_to)
    if where == "random":
        points = random_points(region, generator)
    else:
        points = centre_points(_largest_parts(region, wanted))
    x, y = points.long().unbind(1)
    here = torch.arange(len(wanted), device=wanted.device), y, x
    return points, torch.where(region[here], wanted[here].long(), -1)


def answer_iou(answers: Tensor, wanted: Tensor) -> Tensor:
    """IoU of each answer to a prompt with the mask that the prompt asks for.

    Args:
        answers: M masks for each of N prompts, ``(N, M, H, W)`` bool.
        wanted: mask that each prompt asks for, ``(N, H, W)`` bool.

    Returns:
        ``(N, M)`` float32 in [0, 1]; 0 where both masks are empty.

    Raises:
        ValueError: when masks aren't bool or shapes don't fit.
    """
    _check(wanted)
    if answers.dtype != torch.bool or answers.ndim != 4 or wanted.shape != (len(answers), *answers.shape[2:]):
        raise ValueError(
            f"answers must be bool (N, M, H, W) to wanted masks {tuple(wanted.shape)}, got {answers.dtype} "
            f"{tuple(answers.shape)}; threshold logits, and bring them to this size, first"
        )
    truth = wanted[:, None]  # (N, 1, H, W)
    both = _area(answers & truth)  # (N, M)
    return both / (_area(answers) + _area(truth) - both).clamp(min=1)


def _largest_parts(regions: Tensor, wanted: Tensor) -> Tensor:
    """Of each region ``(N, H, W)`` the largest connected component inside the wanted mask or outside of it."""
    from scipy import ndimage

    largest = torch.zeros_like(regions, device="cpu")
    in_plane = np.zeros((3, 3, 3), dtype=bool)
    in_plane[1] = True  # eight neighbours, none of them in the other plane
    for i, (left, top, right, bottom) in enumerate(masks_to_boxes(regions).long().tolist()):
        window = i, slice(top, bottom), slice(left, right)
        region, inside = regions[window].cpu(), wanted[window].cpu()  # (h, w)
        ids, count = ndimage.label(torch.stack([region & inside, region & ~inside]).numpy(), in_plane)  # (2, h, w)
        if count:
            largest[window] = torch.from_numpy((ids == 1 + np.bincount(ids.ravel())[1:].argmax()).any(0))
    return largest.to(regions.device)


def _check(masks: Tensor) -> None:
    if masks.ndim != 3 or masks.dtype != torch.bool:
        raise ValueError(
            f"masks must be bool (N, H, W), got {masks.dtype} {tuple(masks.shape)}; threshold scores first"
        )


def _area(masks: Tensor) -> Tensor:
    """The number of pixels of masks ``(N, M, H, W)``: ``(N, M)``. Bytes add up several times as fast as bools."""
    return masks.flatten(2).view(torch.uint8).sum(2, dtype=torch.int32)
