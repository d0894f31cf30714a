"""What is each stage of Mask R-CNN worth? The stored ``mask_rcnn_tiny`` with one stage broken at a time.

Nothing is trained again: a stage is switched off or does its work a little wrongly, and the stages after it go on with
what they get. So a number says what the trained detector loses, not what one without that stage could learn. All
variants see the same scenes; differences in AP come with a bootstrap over them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from seglib.book.experiments.instances import (
    bootstrap,
    image_metrics,
    object_scenes,
    score_objects,
)
from seglib.book.pretrained import stored_model
from seglib.data.collate import collate
from seglib.data.scenes import Scenes
from seglib.metrics import AveragePrecision
from seglib.models.mask_rcnn import MaskRCNN
from seglib.models.two_stage import true_sizes
from seglib.ops.paste import MaskGrids
from seglib.types import Instances

SHOWN = ("ap", "ap50", "ap75")
"""The scores whose differences are told."""


@dataclass(frozen=True)
class Break:
    """One broken stage.

    Attributes:
        stage: number of the stage in the chapter, 3 (proposals) to 7 (pasting).
        settings: name of a settings object of the model, "rpn", "roi" or "detections" → what differs in it.
        hooks: name of a head → what is done to its output.
        labels: what is done to the labels whose masks the mask head draws, and the number of classes.
        after: what is done to the detections of an image.
    """

    stage: int
    settings: Mapping[str, Mapping[str, Any]] | None = None
    hooks: Mapping[str, Callable[[Any], Any]] | None = None
    labels: Callable[[torch.Tensor, int], torch.Tensor] | None = None
    after: Callable[[Instances], Instances] | None = None


def half_a_pixel_off(found: Instances) -> Instances:
    """Masks read at each pixel's upper left corner instead of its centre."""
    grids = found.packed
    assert isinstance(grids, MaskGrids)  # what Mask R-CNN finds
    return found.replace(masks=replace(grids, boxes=grids.boxes + 0.5))


def _still(out: tuple[Any, Any]) -> tuple[Any, Any]:
    """Scores and deltas of a head, the deltas as 0."""
    scores, deltas = out
    zeros = [torch.zeros_like(d) for d in deltas] if isinstance(deltas, list) else torch.zeros_like(deltas)
    return scores, zeros


WHOLE = "nothing broken"

BREAKS: dict[str, Break] = {
    WHOLE: Break(0),
    "anchors not moved": Break(3, hooks={"rpn_head": _still}),
    "no NMS of proposals": Break(3, settings={"rpn": {"nms": 1.0}}),
    "finest level only": Break(4, settings={"roi": {"canonical_size": 1e9}}),
    "coarsest level only": Break(4, settings={"roi": {"canonical_size": 1e-9}}),
    "RoI Pooling": Break(4, settings={"roi": {"pooling": "pool"}}),
    "boxes not refined": Break(5, hooks={"box_head": _still}),
    "no NMS of detections": Break(5, settings={"detections": {"nms": 1.0}}),
    "next class's mask": Break(6, labels=lambda labels, classes: (labels + 1) % classes),
    "pasted half a pixel off": Break(7, after=half_a_pixel_off),
}
"""Name → what is broken. The first one is what all are compared with."""


@contextmanager
def broken(model: MaskRCNN, how: Break) -> Iterator[MaskRCNN]:
    """The model with a stage broken, as long as the ``with`` block lasts; ``how.after`` is left to the caller."""
    usual = {name: getattr(model, name) for name in how.settings or {}}
    with ExitStack() as undo:
        for name, changes in (how.settings or {}).items():
            undo.callback(setattr, model, name, usual[name])
            setattr(model, name, replace(usual[name], **changes))
        for name, change in (how.hooks or {}).items():
            hook = getattr(model, name).register_forward_hook(lambda _, inputs, out, change=change: change(out))
            undo.callback(hook.remove)
        if how.labels is not None:
            other = how.labels
            hook = model.mask_head.register_forward_pre_hook(
                lambda _, inputs: (inputs[0], other(inputs[1], model.num_classes))
            )
            undo.callback(hook.remove)
        yield model


def run(
    *,
    seeds: Sequence[int],
    steps: int,
    scenes: int = 200,
    breaks: Mapping[str, Break] = BREAKS,
    model: MaskRCNN | None = None,
    data: Scenes | None = None,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Score the detector whole and with every break.

    Args:
        seeds: the first one is that of the bootstrap.
        steps: number of resamples of the bootstrap.
        scenes: number of test scenes, when ``data`` is not given.
        breaks: name → what is broken; the first is what all are compared with.
        model: detector that is broken; the stored ``mask_rcnn_tiny`` by default.
        data: scenes with objects.
        report: function that is called with a line of text for every break.

    Returns:
        The settings and ``breaks``: one row a break with ``name``, ``stage``, the scores of
        `instances.score_objects`, ``detections`` (mean number of detections of an image) and ``points``: score → the
        difference to the first in points (hundredths), lower and upper end of the middle 95% of the bootstrap.

    Raises:
        ValueError: without scenes or resamples, or when no weights are stored.
    """
    if steps < 1 or scenes < 1:
        raise ValueError(f"steps and scenes must be positive, got {steps} and {scenes}")
    detector = model or stored_model("mask_rcnn_tiny")
    assert isinstance(detector, MaskRCNN)
    test = data or object_scenes(scenes, "test")
    metrics, counts = detect_broken(detector.eval(), test, breaks)
    drawn = bootstrap(metrics, steps, seeds[0], SHOWN)  # name → (R, S)
    first = next(iter(breaks))
    rows: list[dict[str, Any]] = []
    for name, how in breaks.items():
        scores = score_objects(metrics[name])
        whole = rows[0] if rows else scores
        ends = torch.from_numpy(100 * (drawn[name] - drawn[first])).nanquantile(
            torch.tensor([0.025, 0.975], dtype=torch.float64), 0
        )  # (2, S)
        points = {
            key: [round(v, 3) for v in (100 * (scores[key] - whole[key]), *ends[:, i].tolist())]
            for i, key in enumerate(SHOWN)
        }
        detections = round(counts[name] / len(test), 2)
        rows.append({"name": name, "stage": how.stage, **scores, "detections": detections, "points": points})
        if report is not None:
            change, low, high = points["ap"]
            report(f"{name}: AP {scores['ap']:.3f}, {change:+.1f} points ({low:+.1f} to {high:+.1f})")
    settings = {"model": "mask_rcnn_tiny", "data": "scenes", "split": "test", "images": len(test)}
    return {**settings, "resamples": steps, "breaks": rows}


@torch.inference_mode()
def detect_broken(
    model: MaskRCNN, data: Scenes, breaks: Mapping[str, Break], *, batch_size: int = 20
) -> tuple[dict[str, list[AveragePrecision]], dict[str, int]]:
    """One pyramid a scene, and from it the detections of every break.

    Returns:
        Name → the metric of every scene, and name → the number of detections in all scenes.
    """
    metrics: dict[str, list[AveragePrecision]] = {name: [] for name in breaks}
    counts = dict.fromkeys(breaks, 0)
    for begin in range(0, len(data), batch_size):
        batch = collate([data[i] for i in range(begin, min(begin + batch_size, len(data)))])
        pyramid, limits = model.pyramid(batch.images, batch.sizes), true_sizes(batch.images, batch.sizes)
        for name, how in breaks.items():
            with broken(model, how):
                found = model.postprocess(model.heads(pyramid, limits), batch.sizes)
            found = [how.after(f) for f in found] if how.after else found
            metrics[name] += image_metrics(found, batch.targets.instances or [])
            counts[name] += sum(map(len, found))
    return metrics, counts
