"""The moving figure of the panoptic merge."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from seglib.book.figures.element import Figure
from seglib.book.figures.images import png
from seglib.ops.panoptic import segment_index
from seglib.ops.resize import resize_image, resize_labels
from seglib.postprocess.panoptic import MergeSettings, merge_panoptic
from seglib.types import Category, Instances, Panoptic, Segment
from seglib.viz.overlay import panoptic_colors

CELLS = 128
"""Most cells of the figure's grid along a side."""
PIXELS = 128
"""Most pixels of the image along a side."""
MOST = 24
"""Largest number of objects."""


class _Merge(Figure):
    """A figure that scores panoptic maps."""

    shared = ("panoptic",)


def panoptic_merge(
    instances: Instances,
    stuff: Tensor,
    truth: Panoptic,
    categories: Sequence[Category],
    *,
    image: Tensor | None = None,
    settings: MergeSettings | None = None,
    most: int = 12,
    cells: int = 64,
) -> Figure:
    """The merge of Panoptic FPN, segment after segment, with sliders for its thresholds and the panoptic quality.

    Maps of more than ``cells`` pixels a side are read at every second, third, … pixel, so that labels stay labels; a
    number of pixels is then that of the cells times the pixels that a cell stands for. Scores are rounded down to two
    decimals, which leaves every decision of a threshold in steps of 0.01 as it is.

    Args:
        instances: predicted things of one image, with scores; masks may overlap.
        stuff: category id of the predicted stuff at every pixel, ``(H, W)`` int64, 255 where there is none.
        truth: true segments of the image.
        categories: the class table, things first.
        image: image under the maps, ``(3, H, W)`` in [0, 1]; grey where not given.
        settings: thresholds at the start; ``MergeSettings()`` when not given.
        most: how many of the most certain objects the figure knows, 1 to 24.
        cells: largest number of cells along a side, 8 to 128. More of them make the page heavier.

    Raises:
        ValueError: when sizes differ, scores are missing, a label is in the wrong part of the class table, nothing is
            predicted, or more than ``most`` objects reach the score threshold.
    """
    s = settings or MergeSettings()
    height, width = _check(instances, stuff, truth, image, most, cells)
    if instances.scores is None:
        raise ValueError("the objects have no scores, which decide who comes first; pass predictions")
    step = -(-max(height, width) // cells)
    size = tuple(max(1, n // step) for n in (height, width))
    order = instances.scores.argsort(descending=True, stable=True)
    chosen = instances[order[:most]]
    masks = resize_labels(chosen.masks.cpu(), size)  # (N, h, w)
    seen = masks.flatten(1).any(1)
    scores = _rounded_down(chosen.scores.cpu()[seen])  # type: ignore[union-attr]  # checked
    objects = Instances(masks[seen], chosen.labels.cpu()[seen], chosen.boxes.cpu()[seen], scores)
    things, classes = sum(c.isthing for c in categories), resize_labels(stuff.cpu(), size)  # (h, w)
    merged = merge_panoptic(objects, classes, s, num_things=things)
    if int((instances.scores >= s.score_threshold).sum()) > most:
        raise ValueError(
            f"{int((instances.scores >= s.score_threshold).sum())} objects have a score of at least "
            f"{s.score_threshold:g} and the figure shows {most}; take another image, or more by most=…"
        )
    index = resize_labels(segment_index(truth).cpu(), size)  # (h, w)
    kept = index.unique()
    targets = [truth.segments[i - 1] for i in kept[kept > 0].tolist()]
    kept = torch.cat([kept.new_zeros(1), kept[kept > 0]])
    bits = masks[seen] * 2 ** torch.arange(len(objects))[:, None, None]  # (N, h, w)
    colors = _colors([Segment(i, int(label), True, 0) for i, label in enumerate(objects.labels, start=1)], categories)
    params: dict[str, Any] = {
        "h": size[0],
        "w": size[1],
        "unit": step**2,
        "objects": [
            {"label": k, "score": v, "color": c}
            for k, v, c in zip(objects.labels.tolist(), scores.tolist(), colors, strict=True)
        ],
        "masks": _runs(bits.sum(0)),  # bit i: the cell lies in object i
        "stuff": _runs(classes),
        "truth": _runs(torch.searchsorted(kept, index)),
        "targets": [
            {"id": i, "category": t.category_id, "crowd": t.iscrowd, "color": c}
            for i, (t, c) in enumerate(zip(targets, _colors(targets, categories), strict=True), start=1)
        ],
        "categories": [{"name": c.name, "thing": c.isthing, "color": c.color} for c in categories],
        "settings": {"score": s.score_threshold, "overlap": s.overlap_threshold, "area": s.stuff_area_limit},
        "limits": sorted({0, s.stuff_area_limit, *(2**k for k in range(32) if step**2 <= 2**k <= height * width)}),
        "note": _note(step, len(instances), most),
        "image": None if image is None else png(_shrunk(image)),
    }
    return _Merge(
        "panoptic_merge",
        params,
        text=f"the panoptic merge of {len(objects)} objects and the stuff of one image, step by step",
        fallback=_fallback(params["image"], objects, merged),
    )


def _note(step: int, found: int, most: int) -> str:
    """What the figure leaves out."""
    said = f" A cell stands for {step} × {step} pixels." if step > 1 else ""
    if found > most:
        said += f" Of {found} predicted objects the {most} with the highest scores are here."
    return said


def _check(
    instances: Instances, stuff: Tensor, truth: Panoptic, image: Tensor | None, most: int, cells: int
) -> tuple[int, int]:
    """The size that all maps have."""
    if not 1 <= most <= MOST:
        raise ValueError(f"most must be 1 to {MOST}, got {most}")
    if not 8 <= cells <= CELLS:
        raise ValueError(f"cells must be 8 to {CELLS}, got {cells}")
    sizes = {"objects": instances.size, "stuff": tuple(stuff.shape), "truth": tuple(truth.map.shape)}
    if image is not None:
        sizes["image"] = tuple(image.shape[1:])
    if len(set(sizes.values())) > 1:
        raise ValueError(f"objects, stuff, truth and image have one size (H, W), got {sizes}")
    return instances.size


def _rounded_down(scores: Tensor) -> Tensor:
    """The largest hundredth that each score reaches, as a comparison in the scores' own precision says."""
    hundredths = torch.arange(101).double() / 100
    return hundredths[torch.searchsorted(hundredths.to(scores.dtype), scores, right=True) - 1]


def _runs(labels: Tensor) -> list[int]:
    """Run-length code of a map: value, run, value, run, …."""
    return torch.stack(labels.flatten().unique_consecutive(return_counts=True), 1).flatten().tolist()


def _colors(segments: Sequence[Segment], categories: Sequence[Category]) -> list[list[int]]:
    found = panoptic_colors(Panoptic(torch.zeros(0, 0, dtype=torch.int32), list(segments)), categories)
    return [found[s.id].tolist() for s in segments]


def _shrunk(image: Tensor) -> Tensor:
    scale = min(1.0, PIXELS / max(image.shape[1:]))
    height, width = (max(1, round(n * scale)) for n in image.shape[1:])
    return resize_image(image, (height, width)).clamp(0, 1)


def _fallback(address: str | None, objects: Instances, merged: Panoptic) -> str:
    shown = "" if address is None else f'<img src="{html.escape(address)}" width="240" alt="The image"><br>'
    things = sum(s.isthing for s in merged.segments)
    void = 100 * float((merged.map == 0).double().mean())
    return (
        f"<p>{shown}The panoptic merge, step by step (needs JavaScript). Of {len(objects)} predicted objects {things} "
        f"are pasted, then {len(merged.segments) - things} stuff classes on the pixels that are free; {void:.0f}% of "
        "the pixels stay void.</p>"
    )
