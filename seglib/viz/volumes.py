"""Volumes on matplotlib axes: three planes through one voxel, with the aspect ratio that the spacing says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from seglib.types import Category, Sample
from seglib.viz.colors import colorize, to_array
from seglib.viz.style import FAINT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CT_WINDOWS = (("Soft tissue", 40.0, 400.0), ("Lung", -600.0, 1500.0), ("Bone", 400.0, 1800.0))
"""Usual windows of CT: name, level (the middle) and width, in Hounsfield units."""

MARK = "#E69F00"
"""Colour of the lines that mark the other two planes."""

PLANES = {"axial": (0, 1, 2), "coronal": (1, 0, 2), "sagittal": (2, 0, 1)}
"""The axis of (z, y, x) that a plane runs through, the axis of its rows and that of its columns."""


def cut(volume: np.ndarray, plane: str, at: Sequence[int]) -> np.ndarray:
    """The plane of a volume ``(D, H, W)`` through the voxel ``at`` (z, y, x), head above: ``(rows, columns)``."""
    through = PLANES[plane][0]
    rows = volume.take(at[through], axis=through)
    return rows if plane == "axial" else rows[::-1]


def paint_plane(
    volume: Tensor | np.ndarray,
    labels: Tensor | np.ndarray | None,
    categories: Sequence[Category],
    *,
    plane: str,
    at: Sequence[int],
    window: tuple[float, float],
    alpha: float = 0.55,
) -> np.ndarray:
    """One plane of a volume in grey, its label map over it; class 0, the background, stays without a colour.

    Args:
        volume: values ``(D, H, W)``.
        labels: label map ``(D, H, W)``, 255 is void; ``None`` paints the volume alone.
        categories: the class table.
        plane: "axial", "coronal" or "sagittal".
        at: voxel (z, y, x) that the plane runs through.
        window: level and width in the units of the volume: black at level − width / 2, white at level + width / 2.
        alpha: opacity of the colours in [0, 1].

    Returns:
        ``(rows, columns, 3)`` uint8.
    """
    level, width = window
    grey = ((cut(to_array(volume), plane, at) - level) / width + 0.5).clip(0, 1)  # (rows, columns)
    rgb = 255 * grey[..., None].repeat(3, axis=2)
    if labels is not None:
        ids = cut(to_array(labels), plane, at)
        rgb = np.where((ids > 0)[..., None], (1 - alpha) * rgb + alpha * colorize(ids, categories), rgb)
    return (rgb + 0.5).astype(np.uint8)


def show_planes(
    volume: Sample | Tensor | np.ndarray,
    labels: Tensor | np.ndarray | None = None,
    categories: Sequence[Category] = (),
    *,
    spacing: Sequence[float] | None = None,
    at: Sequence[int] | None = None,
    window: tuple[float, float] | None = None,
    channel: int = 0,
    axes: Sequence[Axes] | None = None,
    crosshair: bool = True,
    alpha: float = 0.55,
) -> list[Axes]:
    """Shows the axial, the coronal and the sagittal plane through one voxel, all in one scale of millimetres.

    Args:
        volume: a ``Sample`` (its own label map and spacing are used), or values ``(D, H, W)`` or ``(C, D, H, W)``.
        labels: label map ``(D, H, W)`` over the volume, 255 is void; class 0 stays without a colour.
        categories: the class table; needed where there is a label map.
        spacing: millimetres from voxel to voxel ``(z, y, x)``; by default the sample's own.
        at: voxel ``(z, y, x)`` that all planes run through; by default the middle of the volume.
        window: level and width of the greys; by default the volume's percentiles 1 to 99.
        channel: the channel shown, where there are several.
        axes: three axes to draw on; ``None`` makes a figure.
        crosshair: whether the other two planes are marked by lines.
        alpha: opacity of the colours; 1 hides the volume.

    Raises:
        ValueError: when shapes differ, the spacing is unknown or ``at`` lies outside.
    """
    if isinstance(volume, Sample):
        labels, spacing = volume.semantic if labels is None else labels, spacing or volume.spacing
        volume = volume.image
    values = to_array(volume)
    values = values[channel] if values.ndim == 4 else values
    if values.ndim != 3:
        raise ValueError(f"a volume is (D, H, W) or (C, D, H, W), got {tuple(values.shape)}")
    if labels is not None and tuple(labels.shape) != values.shape:
        raise ValueError(f"the label map is {tuple(labels.shape)} and the volume {values.shape}; both are (D, H, W)")
    if spacing is None or len(spacing) != 3 or min(spacing) <= 0:
        raise ValueError(f"spacing must be three millimetres (z, y, x) above 0, got {spacing}; pass spacing=…")
    at = [n // 2 for n in values.shape] if at is None else at
    if len(at) != 3 or any(not 0 <= v < n for v, n in zip(at, values.shape, strict=True)):
        raise ValueError(f"at {tuple(at)} lies outside the volume of {values.shape} voxels; it is (z, y, x)")
    if window is None:
        low, high = np.percentile(values, (1, 99)).tolist()
        window = (low + high) / 2, max(high - low, 1e-6)
    extent = [n * mm for n, mm in zip(values.shape, spacing, strict=True)]  # mm along z, y, x
    if axes is None:
        import matplotlib.pyplot as plt

        widths = [extent[columns] for _, _, columns in PLANES.values()]
        size = (8.0, 8.0 * max(extent[0], extent[1]) / sum(widths) + 0.4)
        axes = plt.subplots(1, 3, figsize=size, width_ratios=widths, layout="constrained")[1].tolist()
    for ax, (plane, (through, rows, columns)) in zip(axes, PLANES.items(), strict=True):
        rgb = paint_plane(values, labels, categories, plane=plane, at=at, window=window, alpha=alpha)
        ax.imshow(rgb, interpolation="nearest", aspect=spacing[rows] / spacing[columns])
        ax.set(xticks=[], yticks=[])
        ax.grid(False)
        for spine in ax.spines.values():
            spine.set(visible=True, color=FAINT)
        ax.set_title(f"{plane}, {'zyx'[through]} = {at[through]}", loc="left")
        if crosshair:
            row = at[rows] if plane == "axial" else values.shape[0] - 1 - at[0]
            ax.axhline(row, color=MARK, linewidth=0.8)
            ax.axvline(at[columns], color=MARK, linewidth=0.8)
    return list(axes)
