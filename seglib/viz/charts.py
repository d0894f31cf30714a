"""Charts of results: confusion matrices, curves with intervals over seeds, feature maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from seglib.types import Category
from seglib.viz.colors import to_array
from seglib.viz.figures import new_axes
from seglib.viz.style import CYCLE, FAINT, INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def show_confusion(
    matrix: Tensor | np.ndarray,
    categories: Sequence[Category] | Sequence[str],
    *,
    ax: Axes | None = None,
    title: str | None = None,
    normalize: bool = True,
) -> Axes:
    """A confusion matrix as a heat map: rows are the truth, columns the prediction.

    Args:
        matrix: confusion matrix, ``(K, K)`` counts.
        categories: the class table, or K names.
        ax: where to draw; ``None`` makes a figure.
        title: text above the chart.
        normalize: show every row as percentages of its class (the diagonal is the recall); a class that never occurs
            has an empty row. ``False`` shows counts.

    Raises:
        ValueError: when the matrix is not square or does not match the number of names.
    """
    counts = to_array(matrix).astype(np.float64)
    names = [c.name if isinstance(c, Category) else c for c in categories]
    k = len(names)
    if counts.shape != (k, k):
        raise ValueError(f"{k} classes need a ({k}, {k}) matrix, got {counts.shape}")
    ax = new_axes(ax, 0.62 * k + 1.8, 0.52 * k + 1.2)
    totals = counts.sum(axis=1, keepdims=True)  # (K, 1)
    share = np.divide(counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)
    values = share if normalize else counts
    top = 1.0 if normalize else max(float(counts.max(initial=0)), 1.0)
    ax.imshow(values, cmap="Blues", vmin=0, vmax=top, aspect="auto")
    for row, column in np.ndindex(k, k):
        v = values[row, column]
        if np.isnan(v) or v == 0:
            continue
        text = ("<1" if v < 0.005 else f"{100 * v:.0f}") if normalize else f"{v:.0f}"
        ax.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if v > 0.6 * top else INK)
    for row in np.flatnonzero(totals[:, 0] == 0).tolist():
        ax.text((k - 1) / 2, row, "absent", ha="center", va="center", fontsize=8, style="italic", color="#6B7280")
    ax.set_xticks(range(k), names, rotation=40, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(k), names)
    ax.set(xlabel="predicted" + (", % of the row" if normalize else ", pixels"), ylabel="true")
    ax.tick_params(length=0)
    ax.grid(False)
    if title is not None:
        ax.set_title(title, loc="left")
    return ax


def interval95(ys: Tensor | np.ndarray | Sequence[Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
    r"""Mean and half-width of the 95% t-interval of the mean over the first dimension.

    .. math:: \text{half} = t_{0.975,\, S - 1} \cdot \frac{s}{\sqrt{S}}

    with s the sample standard deviation of the S runs and t the quantile of Student's distribution.

    Args:
        ys: values ``(S, …)``, one row per seed.

    Returns:
        Mean ``(…)`` and half-width ``(…)``; the half-width is NaN for a single seed, which says nothing about spread.
    """
    a = to_array(ys).astype(np.float64) if isinstance(ys, Tensor) else np.asarray(ys, dtype=np.float64)
    if a.ndim == 0 or a.shape[0] == 0:
        raise ValueError(f"an interval needs at least one run along the first dimension, got shape {a.shape}")
    runs = a.shape[0]
    mean = a.mean(axis=0)
    if runs == 1:
        return mean, np.full_like(mean, np.nan)
    from scipy.special import stdtrit

    return mean, stdtrit(runs - 1, 0.975) * a.std(axis=0, ddof=1) / np.sqrt(runs)


def show_interval(
    x: Tensor | np.ndarray | Sequence[float],
    ys: Tensor | np.ndarray | Sequence[Sequence[float]],
    *,
    label: str | None = None,
    ax: Axes | None = None,
    color: str | None = None,
    marker: str | None = None,
) -> Axes:
    """The mean over seeds as a line and its 95% t-interval as shading.

    Args:
        x: positions along the horizontal axis, ``(P,)``.
        ys: values at the positions, ``(S, P)``, one row per seed; a single row draws the line alone.
        label: entry for the legend; the number of seeds is added to it.
        ax: where to draw; ``None`` makes a figure.
        color: line colour; by default the next of the cycle.
        marker: matplotlib marker for the points.
    """
    ax = new_axes(ax, 5.5, 3.4)
    position = to_array(x) if isinstance(x, Tensor) else np.asarray(x)
    mean, half = interval95(ys)
    if mean.shape != position.shape:
        raise ValueError(f"x has shape {position.shape} and every run {mean.shape}; ys is (seeds, {len(position)})")
    runs = len(ys)
    text = None if label is None else f"{label} ({runs} seed{'s' if runs > 1 else ''})"
    (line,) = ax.plot(position, mean, color=color, marker=marker, label=text)
    if runs > 1:
        ax.fill_between(position, mean - half, mean + half, color=line.get_color(), alpha=0.18, linewidth=0)
    return ax


def forest(
    rows: Mapping[str, tuple[float, float]] | Sequence[tuple[str, float, float, float]],
    ax: Axes | None = None,
    *,
    zero: bool = True,
    unit: str = "",
) -> Axes:
    """A forest plot: one line a row with its mean and interval, from the top. An interval that holds 0 is hollow.

    Args:
        rows: label → (mean, half-width of the interval), or tuples of label, mean, lower and upper end.
        ax: where to draw; ``None`` makes a figure as high as the rows need.
        zero: whether 0 means "no difference": draws a line there and leaves intervals hollow that hold it.
        unit: unit of the values, the label of the horizontal axis.

    Raises:
        ValueError: when there are no rows, or a mean lies outside its interval.
    """
    listed = (
        [(name, mean, mean - half, mean + half) for name, (mean, half) in rows.items()]
        if isinstance(rows, Mapping)
        else list(rows)
    )
    if not listed:
        raise ValueError("a forest plot needs at least one row, got none")
    for name, mean, low, high in listed:
        if not low <= mean <= high:
            raise ValueError(f"the mean of {name!r}, {mean}, lies outside its interval {low} to {high}")
    ax = new_axes(ax, 6.2, 0.75 + 0.34 * len(listed))
    if zero:
        ax.axvline(0, color=INK, linewidth=1, zorder=1)
    for y, (_, mean, low, high) in enumerate(listed):
        open_ = zero and low <= 0 <= high
        ax.plot([low, high], [y, y], color=CYCLE[0], linewidth=2, solid_capstyle="butt", zorder=2)
        face = ax.get_facecolor() if open_ else CYCLE[0]
        ax.plot([mean], [y], "o", markersize=7, markerfacecolor=face, markeredgecolor=CYCLE[0], zorder=3)
    ax.set_yticks(range(len(listed)), [name for name, *_ in listed])
    ax.set_ylim(len(listed) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)
    if unit:
        ax.set_xlabel(unit)
    return ax


def show_features(
    maps: Tensor | np.ndarray,
    *,
    limit: int = 16,
    columns: int = 8,
    size: float = 1.1,
    titles: Sequence[str] | None = None,
    title: str | None = None,
) -> Figure:
    """The first channels of a feature map as small images, all on one colour scale.

    Values of both signs get a diverging scale with white at zero; values of one sign a sequential one.

    Args:
        maps: feature map ``(C, H, W)`` of one image.
        limit: largest number of channels to show.
        columns: number of maps per row.
        size: width of one map in inches.
        titles: title of each channel; by default its number.
        title: text above the whole.

    Returns:
        The figure.

    Raises:
        ValueError: when ``maps`` is not ``(C, H, W)`` with at least one channel.
    """
    import matplotlib.pyplot as plt

    a = to_array(maps).astype(np.float64)
    if a.ndim != 3 or a.shape[0] == 0:
        raise ValueError(f"feature maps must be (C, H, W) with C > 0, got {a.shape}; take one image of the batch")
    a = a[:limit]
    signed = a.min() < 0 < a.max()
    top = float(np.abs(a).max()) or 1.0
    low, high = (-top, top) if signed else (float(a.min()), float(a.max()))
    columns = min(columns, len(a))
    rows = -(-len(a) // columns)
    figure, axes = plt.subplots(
        rows, columns, squeeze=False, layout="constrained", figsize=(size * columns + 0.6, (size + 0.2) * rows)
    )
    for i, ax in enumerate(axes.flat):
        ax.set(xticks=[], yticks=[])
        ax.grid(False)
        for spine in ax.spines.values():
            spine.set(visible=i < len(a), color=FAINT)
        if i < len(a):
            drawn = ax.imshow(a[i], cmap="RdBu_r" if signed else "viridis", vmin=low, vmax=high)
            ax.set_title(str(i) if titles is None else titles[i], fontsize=8, fontweight="normal")
    figure.colorbar(drawn, ax=axes, fraction=0.03, pad=0.02).ax.tick_params(labelsize=7)
    if title is not None:
        figure.suptitle(title, fontsize=10.5, fontweight="bold")
    return figure
