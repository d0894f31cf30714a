"""How many prototypes does YOLACT need, and what does Fast NMS cost it? ``yolact_tiny`` with k = 4 to 64 prototypes.

AP depends on boxes and classes as well, which prototypes do not change. So masks are also scored by themselves: each
object's nearest anchor draws it, cut by the true box.

Bolya et al. (ICCV 2019, table 2b) report the mask AP on COCO after 400,000 iterations with ResNet-101: 26.8 with 8
prototypes, 27.1 with 16, 27.7 with 32, 27.8 with 64, 27.6 with 128 and 27.7 with 256; in table 2a 30.0 for the usual
NMS and 29.9 for Fast NMS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from seglib.book.experiments.instances import NUM_CLASSES, compare_objects
from seglib.book.experiments.nms_variants import one_by_one, yolact_variants
from seglib.data.scenes import Scenes
from seglib.models.base import Model
from seglib.models.yolact import YOLACT, to_cells, yolact_tiny
from seglib.ops.boxes import box_iou
from seglib.ops.dynamic_masks import DynamicMasks

COUNTS = (4, 8, 16, 32, 64)

PAPER = {
    "prototypes": {"8": 0.268, "16": 0.271, "32": 0.277, "64": 0.278, "128": 0.276, "256": 0.277},
    "nms": {"standard": 0.300, "fast": 0.299},
}
"""Mask AP on COCO as Bolya et al. report it in tables 2b and 2a."""


def run(
    *,
    seeds: Sequence[int],
    steps: int,
    prototypes: Sequence[int] = COUNTS,
    scenes: int = 1000,
    val_scenes: int = 100,
    batch_size: int = 4,
    data: tuple[Scenes, Scenes] | None = None,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Train ``yolact_tiny`` for every seed and number of prototypes, and score its masks behind both kinds of NMS.

    With one seed all see the same batches and start from the same encoder.

    Args:
        seeds: one run per seed; a seed sets the initialisation and the order of the scenes.
        steps: optimiser steps of each run.
        prototypes: numbers k of prototypes.
        scenes: number of scenes to train on, when ``data`` is not given.
        val_scenes: number of held-out scenes to score on, when ``data`` is not given.
        batch_size: scenes per step.
        data: training and held-out scenes.
        report: function that is called with a line of text after every run.

    Returns:
        The settings, the paper's numbers, and ``runs``: one dict per run with ``prototypes``, what
        :func:`~seglib.book.experiments.instances.train_and_score` gives, ``mask_iou`` (the mean of :func:`mask_ious`)
        and ``nms``, the scores and numbers of boxes of every variant of
        :func:`~seglib.book.experiments.nms_variants.yolact_variants`.

    Raises:
        ValueError: without steps or scenes.
    """
    builders = {k: partial(yolact_tiny, NUM_CLASSES, prototypes=k) for k in prototypes}
    found = compare_objects(
        builders, key="prototypes", seeds=seeds, steps=steps, scenes=scenes, val_scenes=val_scenes,
        batch_size=batch_size, data=data, measure=_measure, report=report,
    )  # fmt: skip
    runs = found.pop("runs")
    return {"model": "yolact_tiny", **found, "paper": PAPER, "runs": runs}


@torch.inference_mode()
def mask_ious(model: YOLACT, data: Scenes) -> Tensor:
    """How well prototypes draw, whatever is detected: the IoU of each object with the mask of its nearest anchor.

    The anchor is the one of the largest IoU with the object's box, and its mask is cut by that box.

    Returns:
        ``(N,)`` for the objects of all scenes.
    """
    found = []
    for batch in one_by_one(data, model):
        out, (objects,) = model(batch.images), batch.targets.instances or []
        nearest = box_iou(objects.boxes, out.anchors).argmax(1)  # (N,)
        height, width = out.canvas.tolist()
        drawn = DynamicMasks(
            out.prototypes[0], out.coefficients[0, nearest], (out.prototypes.shape[1], 1), canvas=(height, width),
            image_size=objects.size, size=objects.size,
            boxes=to_cells(objects.boxes, out.prototypes, out.canvas), padding=1,
        ).dense()  # fmt: skip
        found.append((drawn & objects.masks).sum((1, 2)) / (drawn | objects.masks).sum((1, 2)))
    return torch.cat(found)


def _measure(model: Model, val: Scenes) -> dict[str, Any]:
    assert isinstance(model, YOLACT)
    nms = [row for row, _ in yolact_variants(model, val).values()]
    return {"mask_iou": round(mask_ious(model, val).mean().item(), 5), "nms": nms}
