"""The moving figures about masks that are mixed, or drawn by generated filters."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from seglib.book.figures.element import Figure
from seglib.book.figures.images import pack_maps, png
from seglib.ops.dynamic_conv import filter_count
from seglib.ops.dynamic_masks import DynamicMasks
from seglib.ops.resize import resize_image
from seglib.types import Category, Instances

PIXELS = 160
"""Most cells of a map, and pixels of an image, along a side: the page holds them."""
CHARACTERS = 170_000
"""Most characters that maps take in the page."""
LEVELS = (256, 128, 64)
"""How many levels maps are rounded to: the first of these that fits."""
MOST = 6
"""Largest number of objects to choose from."""


class _Maps(Figure):
    """A figure that paints small maps."""

    shared = ("maps",)


def prototypes(
    prototypes: Tensor,
    coefficients: Tensor,
    *,
    boxes: Tensor | None = None,
    image: Tensor | None = None,
    names: Sequence[str] | None = None,
    padding: float = 1.0,
    threshold: float = 0.5,
) -> Figure:
    r"""Prototypes with a slider for the coefficient of each, and the mask :math:`σ(\sum_i c_i P_i)` that they make.

    Buttons load the coefficients of real detections, set all to 0 or flip a sign; a switch takes the crop by the box
    off. The page holds each prototype in 256 levels, or fewer where they take too much of it.

    Args:
        prototypes: prototypes ``(k, h, w)`` of one image, 1 to 32 of them, at most 160 cells a side.
        coefficients: rows to load, ``(D, k)``, 1 to 6 of them; the first one is shown at the start.
        boxes: box of each row, ``(D, 4)`` xyxy in cells of the prototypes; without them nothing is cropped.
        image: image under the mask, ``(3, H, W)`` in [0, 1], which the prototypes cover; grey where not given.
        names: name of each row; numbers by default.
        padding: cells that boxes are widened by.
        threshold: probability that a pixel of the mask exceeds, at the start.

    Raises:
        ValueError: when shapes don't match or something is too large.
    """
    k, (height, width) = _check_maps("prototypes", prototypes, 32)
    count = _check_rows("coefficients", coefficients, k)
    if boxes is not None and boxes.shape != (count, 4):
        raise ValueError(f"{count} rows of coefficients need as many boxes (N, 4), got {tuple(boxes.shape)}")
    _check_threshold(threshold)
    names, (address, size) = _names(names, count), _backdrop(image, (height, width))
    maps, scales = _pack("prototypes", prototypes)
    return _Maps(
        "prototypes",
        {
            "h": height,
            "w": width,
            "maps": maps,
            "scales": scales,
            "coefficients": _rounded(coefficients),
            "boxes": None if boxes is None else _rounded(boxes),
            "padding": padding,
            "threshold": threshold,
            "names": names,
            "image": address,
            "size": size,
        },
        text=f"{k} prototypes, a slider for the coefficient of each, and their mask",
        fallback=(
            f"<p>{_shown(image)}{k} prototypes of the image, a slider for the coefficient of each, and the mask "
            f"σ(Σ cᵢ Pᵢ) (needs JavaScript). Coefficients to load: {html.escape(', '.join(names))}.</p>"
        ),
    )


def prototypes_of(found: Instances, image: Tensor, categories: Sequence[Category], *, most: int = MOST) -> Figure:
    """:func:`prototypes` of a real YOLACT prediction; those too large for a page are averaged over blocks of cells.

    Args:
        found: a prediction of :class:`~seglib.models.yolact.YOLACT` for the image, whose masks nobody has asked for.
        image: its image, ``(3, H, W)`` in [0, 1].
        categories: the class table.
        most: how many of the most certain detections can be loaded, 1 to 6.

    Raises:
        ValueError: when nothing is found, or masks are unpacked already or of another kind.
    """
    masks, names, image = _packed(found, image, categories, most)
    if masks.bias or len(masks.channels) != 2 or masks.boxes is None:
        raise ValueError(f"these masks are not mixed of prototypes: filters of channels {masks.channels}; use YOLACT's")
    maps, factor = masks.features, 1
    while max(maps.shape[1:]) > PIXELS or not _fits(pack_maps(maps, LEVELS[-1])):
        factor += 1
        height, width = masks.features.shape[1:]
        maps = F.adaptive_avg_pool2d(masks.features, (-(-height // factor), -(-width // factor)))
    scale = torch.tensor([a / b for a, b in zip(maps.shape[:0:-1], masks.features.shape[:0:-1], strict=True)] * 2)
    return prototypes(
        maps, masks.parameters, boxes=masks.boxes * scale.to(masks.boxes), image=image, names=names,
        padding=masks.padding / factor, threshold=masks.threshold,
    )  # fmt: skip


def dynamic_filter(
    features: Tensor,
    parameters: Tensor,
    *,
    x: Tensor,
    y: Tensor,
    stride: int,
    image: Tensor | None = None,
    names: Sequence[str] | None = None,
    hidden: Sequence[int] = (8, 8),
    factor: int = 2,
    threshold: float = 0.5,
) -> Figure:
    """Generated filters of real detections, and the mask that one's filters draw as seen from a location to drag.

    The first arguments are those of :func:`~seglib.ops.dynamic_conv.dynamic_conv`. A switch sets the relative
    coordinates to 0. The page holds each feature in 256 levels, or fewer where they take too much of it.

    Args:
        features: features ``(C, h, w)`` that all objects share, 1 to 8 of them, at most 160 cells a side.
        parameters: generated filters of each detection, ``(D, P)``, 1 to 6 of them.
        x: relative coordinate of each column for each detection, ``(D, w)``, falling from left to right.
        y: relative coordinate of each row, ``(D, h)``, falling from top to bottom.
        stride: pixels per cell of the features.
        image: image under the mask, ``(3, H, W)`` in [0, 1], which the features cover; grey where not given.
        names: name of each detection; numbers by default.
        hidden: channels of the filters' hidden layers.
        factor: factor by which logits are upsampled, aligned; it divides the stride.
        threshold: probability that a pixel of the mask exceeds.

    Raises:
        ValueError: when shapes don't match or something is too large.
    """
    count, (height, width) = _check_maps("features", features, 8)
    channels = (count + 2, *hidden, 1)
    total = _check_rows("parameters", parameters, filter_count(channels))
    if x.shape != (total, width) or y.shape != (total, height) or min(height, width) < 2:
        raise ValueError(
            f"{total} detections on features of {height} x {width} need x {(total, width)} and y {(total, height)}, "
            f"got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    if factor < 1 or stride % factor:
        raise ValueError(f"factor must divide the stride {stride}, got {factor}")
    _check_threshold(threshold)
    units = stride / (x[:, 0] - x[:, 1]).double()  # (D,) pixels that the coordinates are divided by
    homes = torch.stack([x[:, 0], y[:, 0]], 1).double() * units[:, None] + stride // 2  # (D, 2)
    names, (address, size) = _names(names, total), _backdrop(image, (height * stride, width * stride))
    maps, scales = _pack("features", features)
    return _Maps(
        "dynamic_filter",
        {
            "h": height,
            "w": width,
            "maps": maps,
            "scales": scales,
            "channels": channels,
            "parameters": _rounded(parameters, 5),
            "units": [round(v, 3) for v in units.tolist()],
            "homes": [[round(v, 2) for v in home] for home in homes.tolist()],
            "stride": stride,
            "factor": factor,
            "threshold": threshold,
            "names": names,
            "image": address,
            "size": size,
        },
        text="an object's generated filters, as seen from a location to drag",
        fallback=(
            f"<p>{_shown(image)}The mask that an object's {filter_count(channels)} generated parameters draw, as "
            f"seen from a location to drag (needs JavaScript). Objects: {html.escape(', '.join(names))}.</p>"
        ),
    )


def dynamic_filter_of(found: Instances, image: Tensor, categories: Sequence[Category], *, most: int = MOST) -> Figure:
    """:func:`dynamic_filter` of a real CondInst prediction.

    Args:
        found: a prediction of :class:`~seglib.models.condinst.CondInst` for the image, whose masks nobody has asked
            for.
        image: its image, ``(3, H, W)`` in [0, 1].
        categories: the class table.
        most: how many of the most certain detections can be chosen, 1 to 6.

    Raises:
        ValueError: when nothing is found, or masks are unpacked already or of another kind.
    """
    masks, names, image = _packed(found, image, categories, most)
    if masks.x is None or masks.y is None or not masks.bias:
        raise ValueError("these masks know no relative coordinates; use the prediction of a CondInst that has them")
    return dynamic_filter(
        masks.features, masks.parameters, x=masks.x, y=masks.y, stride=masks.canvas[1] // masks.features.shape[2],
        image=image, names=names, hidden=masks.channels[1:-1], factor=masks.logit_factor, threshold=masks.threshold,
    )  # fmt: skip


def _packed(
    found: Instances, image: Tensor, categories: Sequence[Category], most: int
) -> tuple[DynamicMasks, list[str], Tensor]:
    """The filters of the most certain detections, their names, and the image with the padding that the network saw."""
    if not 1 <= most <= MOST:
        raise ValueError(f"most must be 1 to {MOST}, got {most}")
    if not len(found) or found.scores is None:
        raise ValueError(f"the figure needs detections with scores, got {found}; take another image")
    order = found.scores.argsort(descending=True, stable=True)[:most]
    sides = found.boxes[order, 2:] - found.boxes[order, :2]  # (n, 2)
    order = order[sides.prod(1).argsort(descending=True, stable=True)]  # the figure opens on the largest
    scores, found = found.scores[order].tolist(), found[order]
    masks: Any = found.packed
    if not isinstance(masks, DynamicMasks):
        raise ValueError("the masks are unpacked already; predict again and pass the result before asking for .masks")
    if masks.image_size != tuple(image.shape[1:]):
        raise ValueError(f"the prediction is for an image of {masks.image_size}, got {tuple(image.shape[1:])}")
    names = [f"{categories[k].name} {s:.2f}" for k, s in zip(found.labels.tolist(), scores, strict=True)]
    same = [[j for j, other in enumerate(names) if other == name] for name in names]
    for i, alike in enumerate(same):  # two of one name are told apart
        if len(alike) > 1:
            names[i] += f" ({'abcdef'[alike.index(i)]})"
    missing = (0, masks.canvas[1] - image.shape[2], 0, masks.canvas[0] - image.shape[1])
    padded = F.pad(image[None], missing, mode="replicate")[0] if any(missing) else image
    return masks, names, padded


def _check_maps(name: str, maps: Tensor, most: int) -> tuple[int, tuple[int, int]]:
    if maps.ndim != 3 or not 1 <= len(maps) <= most or not 1 <= min(maps.shape[1:]) <= max(maps.shape[1:]) <= PIXELS:
        raise ValueError(
            f"{name} must be (N, h, w), 1 to {most} maps of at most {PIXELS} cells a side, got {tuple(maps.shape)}"
        )
    return len(maps), (maps.shape[1], maps.shape[2])


def _pack(name: str, maps: Tensor) -> tuple[str, list[list[float]]]:
    """The maps in as many levels as fit into the page."""
    packed = next(filter(_fits, (pack_maps(maps, levels) for levels in LEVELS)), None)
    if packed is None:
        raise ValueError(f"{name} of {tuple(maps.shape)} take too much of the page; take fewer or a smaller image")
    return packed


def _fits(packed: tuple[str, list[list[float]]]) -> bool:
    return len(packed[0]) <= CHARACTERS


def _check_rows(name: str, rows: Tensor, length: int) -> int:
    if rows.ndim != 2 or rows.shape[1] != length or not 1 <= len(rows) <= MOST:
        raise ValueError(f"{name} must be (D, {length}) with D of 1 to {MOST}, got {tuple(rows.shape)}")
    return len(rows)


def _check_threshold(threshold: float) -> None:
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold is a probability in [0, 1), got {threshold}")


def _names(names: Sequence[str] | None, count: int) -> list[str]:
    if names is None:
        return [f"object {i + 1}" for i in range(count)]
    if len(names) != count:
        raise ValueError(f"{count} rows need as many names, got {len(names)}")
    return list(names)


def _backdrop(image: Tensor | None, cells: tuple[int, int]) -> tuple[str | None, tuple[int, int]]:
    """The image's address, if there is one, and the size of the mask: that of the image, at most :data:`PIXELS`."""
    if image is None:
        scale = max(1, PIXELS // max(cells))  # whole pixels for each cell
        return None, (cells[0] * scale, cells[1] * scale)
    if image.ndim != 3 or len(image) != 3:
        raise ValueError(f"image must be (3, H, W), got {tuple(image.shape)}")
    small = _shrunk(image, PIXELS)
    return png(small), (small.shape[1], small.shape[2])


def _shrunk(image: Tensor, most: int) -> Tensor:
    """The image with at most so many pixels along a side."""
    scale = min(1.0, most / max(image.shape[1:]))
    height, width = (max(1, round(n * scale)) for n in image.shape[1:])
    return resize_image(image, (height, width)).clamp(0, 1)


def _shown(image: Tensor | None) -> str:
    """A small image for pages where no script runs."""
    if image is None:
        return ""
    return f'<img src="{html.escape(png(_shrunk(image, PIXELS // 2)))}" width="240" alt="The image"><br>'


def _rounded(rows: Tensor, digits: int = 5) -> list[list[float]]:
    """Rows of numbers with so many significant digits: the page stays small."""
    return [[float(f"{v:.{digits}g}") for v in row] for row in rows.detach().cpu().tolist()]
