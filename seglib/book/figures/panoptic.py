"""The moving figure about panoptic quality."""

from __future__ import annotations

import html
import string
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from seglib.book.figures.element import Figure
from seglib.book.figures.images import png
from seglib.metrics.pq import PanopticQuality
from seglib.ops.panoptic import segment_index
from seglib.types import Category, Panoptic, Segment
from seglib.viz.overlay import overlay_panoptic

PANOPTIC_CATEGORIES = (
    Category(0, "person", True, (230, 159, 0)),
    Category(1, "car", True, (204, 121, 167)),
    Category(2, "sky", False, (86, 180, 233)),
    Category(3, "grass", False, (0, 158, 115)),
)
"""The classes of :func:`panoptic_scene`."""

_TRUTH = """
ssssssssssssssss
ssssssssssssssss
ssAAssBBssssssss
ssAAssBBssss....
sAAAABBBBsCCC...
sAAAABBBBCCCC...
gAAAABBBBCCCC...
gAAAABBBBCCCC...
gAAAABBBBggg....
gAAAABBBBgDDDDDD
ggAAggBBggDDDDDD
ggggggggggDDDDDD
"""

_PREDICTION = """
ssssssssssssssss
ssssssssssssssss
ss11ss22ssssssss
ss11ss22ssssss44
s11112222s333344
s111122223333344
g111122223333344
g111122223333344
g11112222ggggg44
g11112222g555666
gg11gg22gg555666
gggggggggg555666
"""


class _Quality(Figure):
    """A figure that scores and edits panoptic maps."""

    shared = ("panoptic",)


def panoptic_scene() -> tuple[Panoptic, dict[str, Panoptic]]:
    """A scene of 12 × 16 cells drawn by hand, and predictions by name, each with a fault of its own.

    Two people touch; a car stands beside a void region; a crowd of people is one segment. The first prediction has no
    fault: it has a person in the void region and two people in the crowd, which PQ ignores.

    Returns:
        The truth, and the predictions. The classes are :data:`PANOPTIC_CATEGORIES`.
    """
    person, car, sky, grass = PANOPTIC_CATEGORIES
    truth = _described(_read(_TRUTH, ".ABCDsg"), (person, person, car, person, sky, grass), crowd=4)
    found = _read(_PREDICTION, ".123456sg")  # (12, 16)
    classes = (person, person, car, person, person, person, sky, grass)
    halves = found.clone()
    halves[:, 3:][found[:, 3:] == 1] = 9
    moved = torch.cat([found[:, :1], found[:, :-1]], 1)
    exchanged = tuple({person: car, car: person}.get(c, c) for c in classes)
    return truth, {
        "Perfect": _described(found, classes),
        "Two people merged": _described(found.where(found != 2, 1), classes),
        "One person split": _described(halves, (*classes, person)),
        "Off by one cell": _described(moved, classes),
        "Only stuff right": _described(found, exchanged),
    }


def _read(drawing: str, letters: str) -> Tensor:
    """The map ``(H, W)`` int32 of a drawing: every letter becomes its place in ``letters``."""
    return torch.tensor([[letters.index(c) for c in row] for row in drawing.split()], dtype=torch.int32)


def _described(ids: Tensor, classes: Sequence[Category], *, crowd: int = 0) -> Panoptic:
    """The map with its segments; ``classes[i - 1]`` is the class of id i."""
    areas = torch.bincount(ids.flatten(), minlength=len(classes) + 1).tolist()
    segments = [Segment(i, c.id, c.isthing, areas[i], iscrowd=i == crowd) for i, c in enumerate(classes, 1) if areas[i]]
    return Panoptic(ids, segments)


def panoptic_quality(
    truth: Panoptic | None = None,
    predictions: Mapping[str, Panoptic] | None = None,
    categories: Sequence[Category] = PANOPTIC_CATEGORIES,
    *,
    start: str | None = None,
) -> Figure:
    """A prediction to paint, erase, split, merge and rename beside its truth: what matches, and SQ, RQ and PQ.

    Buttons load predictions; switches turn the void rules and the crowd rule off, and exchange truth and prediction.

    Args:
        truth: true segments on a map of 4 to 24 cells a side; :func:`panoptic_scene` without one.
        predictions: predictions to load, by name, 1 to 8 of them, maps of the same size.
        categories: the class table, at most 6 classes.
        start: name of the prediction at the start; the first one by default.

    Raises:
        ValueError: when truth comes without predictions or the reverse, too much is given, ``start`` is unknown, or
            maps, segments and classes don't fit each other.
    """
    if (truth is None) != (predictions is None):
        raise ValueError("pass truth and predictions, or neither of them; one without the other has no PQ")
    if truth is None or predictions is None:
        truth, predictions = panoptic_scene()
    height, width = truth.map.shape
    if not (4 <= height <= 24 and 4 <= width <= 24):
        raise ValueError(f"the figure shows maps of 4 to 24 cells a side, got {height} × {width}; crop the map")
    if not 1 <= len(predictions) <= 8 or len(categories) > 6 or len(truth.segments) > 26:
        raise ValueError(
            "the figure shows 1 to 8 predictions, at most 6 classes and at most 26 true segments, got"
            f" {len(predictions)}, {len(categories)} and {len(truth.segments)}"
        )
    start = next(iter(predictions)) if start is None else start
    if start not in predictions:
        raise ValueError(f"start must be one of {list(predictions)}, got {start!r}")
    rows = []
    for name, prediction in predictions.items():
        metric = PanopticQuality(categories)
        metric.update(prediction, truth)
        scores = metric.compute()
        numbers = "".join(f"<td>{v:.3f}</td>" for v in (scores.sq, scores.rq, scores.pq))
        rows.append(f"<tr><td>{html.escape(name)}</td>{numbers}</tr>")
    shown = "".join(
        f'<img src="{_image(panoptic, categories)}" width="{12 * width}" alt="{alt}"> '
        for panoptic, alt in ((truth, "The true segments"), (predictions[start], "The predicted segments"))
    )
    return _Quality(
        "panoptic_quality",
        {
            "width": width,
            "categories": [{"name": c.name, "thing": c.isthing, "color": c.color} for c in categories],
            "truth": _params(truth, string.ascii_uppercase),
            "predictions": [[name, _params(prediction)] for name, prediction in predictions.items()],
            "start": list(predictions).index(start),
        },
        text="a panoptic prediction to edit, its matches and its panoptic quality",
        fallback=(
            f"<p>{shown}</p><p>True segments, and a prediction to edit (needs JavaScript). A prediction matches a true "
            "segment of its class when their IoU is above ½. Of every class PQ = Σ IoU / (TP + ½ FP + ½ FN) = SQ · RQ; "
            f"these are means over the classes:</p><table><tr><th>prediction</th><th>SQ</th><th>RQ</th><th>PQ</th></tr>"
            f"{''.join(rows)}</table>"
        ),
    )


def _params(panoptic: Panoptic, names: str = "") -> dict[str, Any]:
    """The map as the script knows it: flat, with ids from 1 in the order of the segments."""
    described: list[dict[str, Any]] = [
        {"id": i, "category": s.category_id, "crowd": s.iscrowd} for i, s in enumerate(panoptic.segments, 1)
    ]
    for segment, name in zip(described, names, strict=False):
        segment["name"] = name
    return {"ids": segment_index(panoptic).flatten().tolist(), "segments": described}


def _image(panoptic: Panoptic, categories: Sequence[Category]) -> str:
    scale = 8  # pixels of a cell, so that outlines are thin
    large = replace(panoptic, map=panoptic.map.repeat_interleave(scale, 0).repeat_interleave(scale, 1))
    return png(torch.from_numpy(overlay_panoptic(None, large, categories)).permute(2, 0, 1) / 255)
