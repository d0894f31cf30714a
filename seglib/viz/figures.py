"""Images and their annotations on matplotlib axes. Every function takes ``ax=None`` and returns the axes it drew on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from seglib.types import VOID, Category, Instances, Panoptic, Sample, Semantic
from seglib.viz.colors import hatch, instance_colors, to_array, to_rgb8
from seglib.viz.overlay import overlay, overlay_instances, overlay_panoptic
from seglib.viz.style import FAINT, INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend

Image = Tensor | np.ndarray
Cell = tuple[str, "Callable[[Axes], object] | Image"]


def new_axes(ax: Axes | None, width: float = 4.0, height: float = 4.0) -> Axes:
    """``ax``, or the axes of a new figure of that size in inches."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(width, height))[1]


def _draw(rgb: np.ndarray, ax: Axes | None, title: str | None) -> Axes:
    """Pixels without ticks, inside a faint frame."""
    height, width = rgb.shape[:2]
    ax = new_axes(ax, 4.0, 4.0 * min(max(height / max(width, 1), 0.3), 2.0) + 0.3)
    ax.imshow(rgb, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set(visible=True, color=FAINT)
    if title is not None:
        ax.set_title(title, loc="left")
    return ax


def show_image(image: Sample | Image, *, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Shows a ``Sample``, a float ``(3, H, W)`` or ``(H, W)`` in [0, 1], a bool ``(H, W)`` or a uint8 ``(H, W, 3)``."""
    return _draw(to_rgb8(image.image if isinstance(image, Sample) else image), ax, title)


def show_semantic(
    labels: Sample | Semantic | Image,
    categories: Sequence[Category],
    *,
    image: Image | None = None,
    ax: Axes | None = None,
    title: str | None = None,
    alpha: float = 0.55,
) -> Axes:
    """Shows a semantic map over its image, or alone where there is none.

    Args:
        labels: a ``Sample`` (its own image is used), a ``Semantic`` prediction or a label map ``(H, W)``.
        categories: the class table.
        image: the image below the annotation; ``None`` draws the bare map.
        ax: where to draw; ``None`` makes a figure.
        title: text above the image.
        alpha: opacity of the colours; 1 hides the image.

    Raises:
        ValueError: when the sample has no semantic map.
    """
    if isinstance(labels, Sample):
        if labels.semantic is None:
            raise ValueError(f"sample {labels.id!r} has no semantic map; its dataset annotates no classes")
        image, labels = labels.image if image is None else image, labels.semantic
    ids = labels.labels if isinstance(labels, Semantic) else labels
    return _draw(overlay(image, ids, categories, alpha), ax, title)


def show_instances(
    instances: Sample | Instances,
    categories: Sequence[Category],
    *,
    image: Image | None = None,
    ax: Axes | None = None,
    title: str | None = None,
    boxes: bool = False,
    names: bool = True,
    alpha: float = 0.55,
) -> Axes:
    """Shows instance masks, each in its own colour, with class names and, for predictions, scores.

    Args:
        instances: a ``Sample`` (its own image is used) or ``Instances``; zero objects draw the image alone.
        categories: the class table.
        image: the image below the annotation; ``None`` draws on a plain ground.
        ax: where to draw; ``None`` makes a figure.
        title: text above the image.
        boxes: also draw the boxes.
        names: write the class name (and the score in percent) at each object; boxes under 0.2% of the image get none.
        alpha: opacity of the masks, 0 to 1.

    Raises:
        ValueError: when the sample has no instances.
    """
    if isinstance(instances, Sample):
        if instances.instances is None:
            raise ValueError(f"sample {instances.id!r} has no instances; its dataset does not annotate objects")
        image, instances = instances.image if image is None else image, instances.instances
    colors = instance_colors(len(instances))
    ax = _draw(overlay_instances(image, instances, colors=colors, alpha=alpha), ax, title)
    height, width = instances.masks.shape[1:]
    corners = to_array(instances.boxes)  # (N, 4)
    for i, (x0, y0, x1, y1) in enumerate(corners):
        # imshow puts the centre of the first pixel at 0, seglib at 0.5: hence the shift by half a pixel.
        if boxes:
            frame = [(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)]
            ax.plot(*(np.array(frame).T - 0.5), color=colors[i] / 255, linewidth=1.5)
        if names and (x1 - x0) * (y1 - y0) >= 0.002 * width * height:
            text = categories[int(instances.labels[i])].name
            if instances.scores is not None:
                text += f" {100 * float(instances.scores[i]):.0f}"
            card = {"facecolor": INK, "edgecolor": "none", "alpha": 0.75, "boxstyle": "round,pad=0.15"}
            at, side = (x0, "left") if x0 < 0.8 * width else (x1, "right")  # towards the middle: nothing is cut off
            ax.text(
                at - 0.5, y0 - 0.5, text, fontsize=6.5, color="white", va="bottom", ha=side, bbox=card, clip_on=True
            )
    return ax


def show_panoptic(
    panoptic: Sample | Panoptic,
    categories: Sequence[Category],
    *,
    image: Image | None = None,
    ax: Axes | None = None,
    title: str | None = None,
    alpha: float = 0.65,
) -> Axes:
    """Shows a panoptic map: stuff in class colours, every thing in its own shade of its class.

    Args:
        panoptic: a ``Sample`` (its own image is used) or a ``Panoptic``.
        categories: the class table.
        image: the image below the annotation; ``None`` draws the bare map.
        ax: where to draw; ``None`` makes a figure.
        title: text above the image.
        alpha: opacity of the colours; 1 hides the image.

    Raises:
        ValueError: when the sample has no panoptic map.
    """
    if isinstance(panoptic, Sample):
        if panoptic.panoptic is None:
            raise ValueError(f"sample {panoptic.id!r} has no panoptic map; its dataset does not annotate segments")
        image, panoptic = panoptic.image if image is None else image, panoptic.panoptic
    return _draw(overlay_panoptic(image, panoptic, categories, alpha), ax, title)


def show_errors(
    pred: Semantic | Image,
    target: Image,
    *,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Shows where a prediction is wrong: right is near white, wrong is vermilion, void is striped.

    Args:
        pred: a ``Semantic`` prediction or a label map ``(H, W)``.
        target: true label map ``(H, W)``; 255 is void and counts as neither.
        ax: where to draw; ``None`` makes a figure.
        title: text above the image; by default the share of wrong pixels.
    """
    a, b = to_array(pred.labels if isinstance(pred, Semantic) else pred), to_array(target)
    if a.shape != b.shape:
        raise ValueError(f"prediction {a.shape} and target {b.shape} differ in size; resize the prediction first")
    void = b == VOID
    wrong = (a != b) & ~void
    rgb = np.full((*b.shape, 3), 240, dtype=np.uint8)
    rgb[wrong] = (213, 94, 0)
    rgb[void] = np.where(hatch(*b.shape), 205, 150)[void][:, None]
    if title is None:
        counted = int((~void).sum())
        title = f"{wrong.sum() / counted:.1%} of pixels wrong" if counted else "all void"
    return _draw(rgb, ax, title)


def legend(
    categories: Sequence[Category],
    *,
    ax: Axes | Figure | None = None,
    labels: Image | None = None,
    columns: int = 1,
    void: bool = False,
) -> Legend:
    """A key of class colours.

    Args:
        categories: the class table.
        ax: axes or a figure to put it beside; ``None`` makes a figure that holds the key alone.
        labels: a label map; only classes that occur in it are listed (and void, if it occurs).
        columns: number of columns; on a figure the key stands below the axes.
        void: whether void is listed too.

    Returns:
        The legend; its ``figure`` is the figure it stands on.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    shown = list(categories)
    if labels is not None:
        present = set(np.unique(to_array(labels)).tolist())
        shown, void = [c for c in categories if c.id in present], void or VOID in present
    handles = [Patch(facecolor=f"#{bytes(c.color).hex()}", edgecolor=INK, linewidth=0.5, label=c.name) for c in shown]
    if void:
        handles.append(Patch(facecolor="#CDCDCD", edgecolor="#7A7A7A", hatch="////", linewidth=0.5, label="void"))
    if ax is None:
        rows = -(-len(handles) // columns)
        ax = new_axes(None, 1.5 * columns, 0.25 * rows + 0.1)
        ax.axis("off")
        return ax.legend(handles=handles, ncols=columns, loc="center", borderpad=0)
    if isinstance(ax, Figure):
        return ax.legend(handles=handles, ncols=columns, loc="outside lower center")
    return ax.legend(handles=handles, ncols=columns, loc="upper left", bbox_to_anchor=(1.02, 1.0), borderaxespad=0)


def grid(rows: Sequence[Sequence[Cell]], *, size: float = 2.3, title: str | None = None) -> Figure:
    """Images and drawings in rows and columns.

    Args:
        rows: each row is a list of ``(title, content)``; content is a function that draws on the axes it is given,
            or an image for ``show_image``. Rows may differ in length; missing cells stay blank.
        size: width of one cell in inches.
        title: text above the whole figure.

    Returns:
        The figure, with constrained layout.

    Raises:
        ValueError: when there is nothing to draw.
    """
    import matplotlib.pyplot as plt

    columns = max((len(row) for row in rows), default=0)
    if columns == 0:
        raise ValueError("grid needs at least one row with one (title, content) cell")
    figure, axes = plt.subplots(
        len(rows), columns, figsize=(size * columns, (size + 0.25) * len(rows)), squeeze=False, layout="constrained"
    )
    for row, row_axes in zip(rows, axes, strict=True):
        for ax in row_axes[len(row) :]:
            ax.axis("off")
        for (cell_title, content), ax in zip(row, row_axes, strict=False):
            if callable(content):
                content(ax)
            else:
                show_image(content, ax=ax)
            if cell_title:
                ax.set_title(cell_title, loc="left", fontsize=9.5)
    if title is not None:
        figure.suptitle(title, fontsize=11, fontweight="bold")
    return figure
