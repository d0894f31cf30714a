"""Weights for the narrow background between objects, which a network must learn to keep apart."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from seglib.ops.masks import masks_to_boxes


def border_weights(masks: Tensor, *, w0: float = 10.0, sigma: float = 5.0) -> Tensor:
    r"""The border term of the U-Net paper's weight map: high where background separates two objects.

    .. math:: w(x) = w_0 \exp\left(-\frac{(d_1(x) + d_2(x))^2}{2 \sigma^2}\right)

    on the background, 0 on objects, with d1 and d2 the Euclidean distances in pixels from the centre of x to the centre
    of the nearest pixel of the nearest and of the second nearest object. With fewer than two objects nothing is
    separated and the weights are 0. Objects that touch without background between them get none there: the labels must
    have a gap, as the paper's have.

    Source: Ronneberger, Fischer, Brox, *U-Net*, MICCAI 2015, eq. 2, without its class-balancing term w_c, which is
    ``weight`` of :func:`~seglib.losses.pixel.cross_entropy`; for the paper's map with w_c = 1 pass ``1 +
    border_weights(…)`` as its ``pixel_weight``.

    Args:
        masks: masks of the objects, ``(N, H, W)`` bool; or ``(H, W)`` integer instance ids with 0 as background. N, H
            and W may be 0, and so may an object's area.
        w0: the weight where both distances tend to 0, at least 0.
        sigma: σ, how far the border weight reaches, in pixels, above 0.

    Returns:
        ``(H, W)`` float32 in [0, w0], on the device of ``masks``.

    Raises:
        ValueError: when masks have another shape or type, or ``w0`` or ``sigma`` is out of range.
        ImportError: when scipy isn't installed.
    """
    if not 0 <= w0 < math.inf:
        raise ValueError(f"w0 is a finite weight, at least 0, got {w0}; the paper takes 10")
    if not 0 < sigma < math.inf:
        raise ValueError(f"sigma is a distance in pixels above 0, got {sigma}; the paper takes 5")
    if masks.ndim == 2 and masks.dtype != torch.bool and not masks.is_floating_point() and not masks.is_complex():
        ids = masks.unique()
        masks = masks == ids[ids != 0].view(-1, 1, 1)  # (N, H, W)
    if masks.ndim != 3 or masks.dtype != torch.bool:
        raise ValueError(
            f"objects are bool masks (N, H, W) or integer ids (H, W), got {masks.dtype} {tuple(masks.shape)}; "
            "label one mask of many objects with scipy.ndimage.label first"
        )
    transform = _distance_transform()
    height, width = masks.shape[1:]
    nearest = torch.full((2, height, width), math.inf, dtype=torch.float64)  # d1 and d2
    # one call an object, which scipy needs, on the window around it only;
    # float32 can't hold exp(−t²/2) for t > 14.5: farther from an object its distance doesn't matter
    reach = math.ceil(15 * sigma)
    for mask, box in zip(masks.cpu(), masks_to_boxes(masks).long().tolist(), strict=True):
        left, top, right, bottom = box
        if right == left:
            continue  # nothing drawn
        rows = slice(max(0, top - reach), bottom + reach)
        columns = slice(max(0, left - reach), right + reach)
        distance = torch.from_numpy(transform(~mask[rows, columns].numpy()))  # (h, w) float64
        first, second = nearest[:, rows, columns]
        second.copy_(torch.minimum(second, torch.maximum(first, distance)))
        first.copy_(torch.minimum(first, distance))
    total = nearest.sum(0)  # (H, W), infinite where there is no second object in reach
    border = w0 * torch.exp(-(total**2) / (2 * sigma**2)) * (nearest[0] > 0)
    return border.float().to(masks.device)


def _distance_transform() -> Callable[[Any], Any]:
    """scipy's, imported here because the rest of the package works without scipy."""
    try:
        from scipy.ndimage import distance_transform_edt
    except ImportError as error:
        raise ImportError("border_weights needs scipy; run pip install scipy") from error
    return distance_transform_edt
