"""The moving figures about volumes."""

from __future__ import annotations

import base64
import html
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seglib.book.figures.element import Figure
from seglib.book.figures.images import png
from seglib.types import VOID, Category, Sample
from seglib.viz.colors import to_array
from seglib.viz.volumes import CT_WINDOWS, paint_plane

SURFACE_PRESETS: dict[str, tuple[dict[str, Any], str]] = {
    "Equal": ({}, "Prediction and target are equal."),
    "Dice hides": (
        {"speck": 12, "far": 14},
        "The block is a small part of the area, so Dice hardly moves; it is a larger part of the boundary, and HD95 is "
        "its distance.",
    ),
    "HD95 hides": (
        {"grow": -3},
        "Over a third of the organ is missing. No boundary voxel is far off, so HD95 is small; Dice and NSD tell.",
    ),
    "One far voxel": (
        {"speck": 1, "far": 16},
        "HD is the distance of the one voxel. It is less than 5 % of the boundary, so HD95 does not see it.",
    ),
    "0 or 7 mm": (
        {"speck": 8, "far": 7},
        "The block is more than 5 % of the prediction's boundary voxels and less than 5 % of both boundaries together: "
        "two conventions of HD95, two numbers.",
    ),
    "Rough": (
        {"rough": 3},
        "The boundary runs to and fro about the true one: Dice stays high, NSD at a small tolerance falls.",
    ),
    "Thick slices": (
        {"shift": {"x": 0, "y": 4}, "grid": 2},
        "One voxel off along the thick axis is 4 mm. Ignore the spacing, and it reads as 1.",
    ),
}
"""What :func:`surface_distance` can start from: how the prediction differs from the target, and what to see."""

VOXELS = 2**20
"""Most voxels of a volume that travels in a page."""


def slices(
    image: Sample | Tensor,
    *,
    labels: Tensor | None = None,
    predictions: Tensor | Mapping[str, Tensor] | None = None,
    categories: Sequence[Category] = (),
    modalities: Sequence[str] = ("CT",),
    spacing: tuple[float, float, float] | None = None,
    hu_range: tuple[float, float] = (-1000.0, 1000.0),
    start: tuple[int, int, int] | None = None,
) -> Figure:
    """A volume to scroll through in three planes with one crosshair, window and level, target and predictions.

    The planes have the aspect ratio that the spacing says, and the letters of a volume whose axes run to the head, to
    the back and to the patient's left, as :func:`seglib.data.nifti.read_volume` returns it. Values travel in 256
    levels: of CT over ``hu_range``, of anything else from the lowest to the highest value. Class 0 is background and
    stays without a colour.

    Args:
        image: a sample, or its image alone: ``(C, D, H, W)``, at most 2²⁰ voxels a channel.
        labels: target ``(D, H, W)`` of category ids, 255 is void; by default the sample's own.
        predictions: predicted label map ``(D, H, W)``, or several by their names.
        categories: the class table; needed where there are label maps.
        modalities: name of every channel; one named "CT", in any case, is in Hounsfield units.
        spacing: millimetres from voxel to voxel ``(z, y, x)``; by default the sample's own.
        hu_range: lowest and highest value of CT that the page keeps, in Hounsfield units.
        start: voxel ``(z, y, x)`` under the crosshair at first; by default one of the rarest class in the target, or
            the middle of the volume.

    Raises:
        ValueError: when the shapes, the names or the labels do not fit each other, the spacing is unknown, a value is
            not finite, the volume is too large for a page or ``start`` lies outside.
    """
    if isinstance(image, Sample):
        labels, spacing = image.semantic if labels is None else labels, spacing or image.spacing  # type: ignore[assignment]
        image = image.image
    if image.ndim != 4 or 0 in image.shape or image[0].numel() > VOXELS:
        raise ValueError(
            f"image must be (C, D, H, W) with 1 to {VOXELS} voxels a channel, got {tuple(image.shape)}; crop the "
            "volume or take every second voxel (and double the spacing)"
        )
    size = tuple(image.shape[1:])
    if spacing is None or len(spacing) != 3 or min(spacing) <= 0:
        raise ValueError(f"spacing must be three millimetres (z, y, x) above 0, got {spacing}; pass spacing=…")
    if len(modalities) != len(image) or len(set(modalities)) != len(image):
        raise ValueError(f"{len(image)} channels need as many different names, got modalities={tuple(modalities)}")
    if predictions is None or isinstance(predictions, Tensor):
        predictions = {} if predictions is None else {"Prediction": predictions}
    maps = {} if labels is None else {"Target": labels}
    if "Target" in predictions or "None" in predictions:
        raise ValueError(f"a prediction is named 'Target' or 'None', which the page uses, got {list(predictions)}")
    maps |= predictions
    for name, m in maps.items():
        _check_labels(name, m, size, categories)
    if start is None:
        start = _rarest(labels, size)
    if len(start) != 3 or any(not 0 <= v < n for v, n in zip(start, size, strict=True)):
        raise ValueError(f"start {tuple(start)} lies outside the volume of {size} voxels; it is (z, y, x)")
    images = [_stored(name, channel, hu_range) for name, channel in zip(modalities, image, strict=True)]
    first = paint_plane(
        image[0], labels, categories, plane="axial", at=start, window=tuple(images[0]["windows"][0][1:])
    )
    height = round(240 * size[1] * spacing[1] / (size[2] * spacing[2]))
    address = png(torch.from_numpy(first).permute(2, 0, 1) / 255)
    return Figure(
        "slices",
        {
            "size": size,
            "spacing": spacing,
            "start": start,
            "void": VOID,
            "images": images,
            "maps": [{"name": n, "target": n == "Target", "data": _packed(to_array(m))} for n, m in maps.items()],
            "categories": [{"name": c.name, "color": c.color} for c in categories],
        },
        text=f"slices of a volume of {' × '.join(map(str, size))} voxels in three planes",
        fallback=(
            f'<p><img src="{html.escape(address)}" width="240" height="{height}" alt="Axial slice {start[0]}"><br>'
            f"A volume of {' × '.join(map(str, size))} voxels to scroll through in three planes (needs JavaScript); "
            f"this is its axial slice {start[0]}.</p>"
        ),
    )


def _check_labels(name: str, labels: Tensor, size: tuple[int, ...], categories: Sequence[Category]) -> None:
    """Refuse a label map that does not fit the volume or the class table."""
    if tuple(labels.shape) != size:
        raise ValueError(f"{name}: the label map is {tuple(labels.shape)} and the volume {size}; both are (D, H, W)")
    wrong = [v for v in labels.unique().tolist() if v != VOID and v not in range(len(categories))]
    if wrong:
        raise ValueError(f"{name}: labels {wrong[:5]} are not in 0..{len(categories) - 1} or {VOID}; pass categories=…")


def _rarest(labels: Tensor | None, size: tuple[int, ...]) -> tuple[int, int, int]:
    """A voxel in the middle of the rarest foreground class's list of voxels; the middle of the volume without any."""
    z, y, x = (n // 2 for n in size)
    if labels is not None:
        values, counts = labels[(labels > 0) & (labels != VOID)].unique(return_counts=True)
        if len(values):
            places = (labels == values[counts.argmin()]).nonzero()
            z, y, x = places[len(places) // 2].tolist()
    return z, y, x


def _stored(name: str, channel: Tensor, hu_range: tuple[float, float]) -> dict[str, Any]:
    """One channel ``(D, H, W)`` in 256 levels, with the windows that suit it; the first is shown at first."""
    values = to_array(channel).astype(np.float64)
    lowest, highest = float(values.min()), float(values.max())
    if not np.isfinite([lowest, highest]).all():
        raise ValueError(f"channel {name!r} has values that are not finite; replace them before it is drawn")
    low, high = lowest, highest
    windows: list[tuple[str, float, float]] = []
    if name.lower() == "ct":
        low, high = hu_range
        windows = list(CT_WINDOWS)
    else:
        a, b = np.percentile(values, (1, 99)).tolist()
        windows = [("1–99 %", (a + b) / 2, b - a)] if b > a else []
    high = high if high > low else low + 1
    step = (high - low) / 255
    levels = ((values - low) / step).round().clip(0, 255).astype(np.uint8)
    return {
        "name": name,
        "unit": "HU" if name.lower() == "ct" else "",
        "low": low,
        "high": high,
        "step": step,
        "clipped": [lowest < low, highest > high],
        "windows": [*windows, ("All", (low + high) / 2, high - low)],
        "data": _packed(levels),
    }


def _packed(levels: np.ndarray) -> str:
    """Bytes as text: base64 of deflated differences from each byte to the next, modulo 256."""
    steps = np.diff(levels.astype(np.uint8).ravel(), prepend=np.uint8(0))
    return base64.b64encode(zlib.compress(steps.tobytes(), 9)).decode()


def surface_distance(*, preset: str = "Dice hides", tolerance: float = 1.0) -> Figure:
    """A predicted boundary to move, roughen and grow, and a speck to add: Dice, HD, HD95 and NSD follow.

    The target is one organ in a field of 64 × 40 mm, on voxels of 1 × 1, 2 × 2 or 4 × 1 mm. HD95 is given by both
    conventions, the larger of the two directed percentiles and the percentile of all distances in one list; the
    numbers are those of :mod:`seglib.metrics.surface`.

    Args:
        preset: the prediction at the start, one of :data:`SURFACE_PRESETS`.
        tolerance: distance in mm up to which a boundary voxel counts as right, 0 to 5 in steps of 0.5.

    Raises:
        ValueError: when the preset is unknown or the tolerance is out of range.
    """
    if preset not in SURFACE_PRESETS:
        raise ValueError(f"preset must be one of {list(SURFACE_PRESETS)}, got {preset!r}")
    if not 0 <= tolerance <= 5 or tolerance * 2 != round(tolerance * 2):
        raise ValueError(f"tolerance must be 0 to 5 mm in steps of 0.5, got {tolerance}")
    return Figure(
        "surface_distance",
        {
            "presets": [[name, *parts] for name, parts in SURFACE_PRESETS.items()],
            "preset": list(SURFACE_PRESETS).index(preset),
            "tolerance": tolerance,
        },
        text="Dice and surface distances of a prediction to move",
        fallback=(
            "<p>A predicted boundary to move, roughen and grow over the true one (needs JavaScript). Dice compares "
            "areas: a small block far away hardly changes it, while HD95, the 95th percentile of the distances "
            "between the boundaries, becomes the distance of the block once it is more than 5 % of the boundary. "
            "An organ that is predicted too small by 3 mm all around has a low Dice and an HD95 of 3 mm.</p>"
        ),
    )
