"""A hole in a mask: what a softmax over classes does to one object that the box head has named rightly.

Two new mask heads are trained on the stored ``mask_rcnn_tiny`` as in `mask_classes`, one with a sigmoid for each class
and one with a softmax over the classes and background. Both draw in the same boxes of the same classes. A pixel of the
object that the sigmoid keeps, and the softmax gives to another class, belongs to a hole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from seglib.book.experiments.mask_classes import VARIANTS, K, train_heads
from seglib.book.experiments.training import last_tenth
from seglib.book.pretrained import stored_model
from seglib.data.collate import collate
from seglib.data.scenes import Scenes
from seglib.layers.roi_heads import MaskHead
from seglib.models.mask_rcnn import MaskRCNN
from seglib.ops.boxes import box_iou
from seglib.ops.paste import paste_masks, paste_probs
from seglib.types import Instances

HEADS = ("sigmoid per class", "softmax")


def run(
    *,
    seeds: Sequence[int],
    steps: int,
    scenes: int = 1000,
    val_scenes: int = 200,
    shown_scenes: int = 40,
    batch_size: int = 8,
    detector: MaskRCNN | None = None,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Train the two heads, count holes, and keep the largest one to be drawn.

    Args:
        seeds: the first one sets the initialisation of the heads and the order of the scenes.
        steps: optimiser steps.
        scenes: number of scenes to train on.
        val_scenes: number of held-out scenes whose holes are counted.
        shown_scenes: the largest hole is searched in the first scenes, as many as this.
        batch_size: scenes per step.
        detector: detector whose boxes, classes and features are used; the stored ``mask_rcnn_tiny`` by default.
        report: function that is called with a line of text at the end.

    Returns:
        The settings; ``objects``: number of objects that a detection of their class, with a score and a box IoU of ½ or
        more, stands for; ``holes``: number of those of which another class takes a tenth or more; ``largest``:
        ``scene``, ``object`` (its index), ``label``, ``box``, ``lost`` (pixels that another class takes) and ``kept``
        (pixels of the object in the sigmoid's mask), and the grids ``sigmoid`` and ``softmax`` (probabilities of the
        object's class in percent) and ``winner`` (class of the largest logit, K is background), as rows of text.

    Raises:
        ValueError: without steps or scenes, or when there is no hole in the shown scenes.
    """
    if min(steps, scenes, val_scenes, shown_scenes) < 1:
        raise ValueError(f"steps and scenes must be positive, got {steps}, {scenes}, {val_scenes} and {shown_scenes}")
    model = detector or stored_model("mask_rcnn_tiny")
    assert isinstance(model, MaskRCNN)
    chosen = {name: VARIANTS[name] for name in HEADS}
    train, val = Scenes(scenes, split="train"), Scenes(val_scenes, split="val")
    heads, losses = train_heads(model.eval(), chosen, train, seed=seeds[0], steps=steps, batch_size=batch_size)
    found = [row for i in range(len(val)) for row in holes_of(model, heads, val, i)]
    holes = sum(row["lost"] >= 0.1 * row["kept"] for row in found)
    largest = max((row for row in found if row["scene"] < shown_scenes), key=lambda row: row["lost"], default=None)
    if largest is None or largest["lost"] == 0:
        raise ValueError(f"no mask of {shown_scenes} scenes has a hole; train for more steps than {steps}")
    if report is not None:
        report(
            f"{holes} of {len(found)} objects have a hole, the largest {largest['lost']} of {largest['kept']} pixels"
        )
    return {
        "model": "mask_rcnn_tiny", "data": "scenes", "scenes": scenes, "val_scenes": val_scenes,
        "shown_scenes": shown_scenes, "steps": steps, "batch_size": batch_size,
        "losses": {name: round(last_tenth(losses[name]), 5) for name in HEADS},
        "objects": len(found), "holes": holes, "largest": largest,
    }  # fmt: skip


@torch.no_grad()
def holes_of(model: MaskRCNN, heads: dict[str, MaskHead], data: Scenes, index: int) -> list[dict[str, Any]]:
    """One row, as ``largest`` of :func:`run`, for every object of a scene that a detection stands for."""
    batch = collate([data[index]])
    truth = (batch.targets.instances or [])[0]
    out, pyramid = model(batch.images, sizes=batch.sizes), model.pyramid(batch.images, batch.sizes)
    detection, owner = rightly_named(out.boxes[0], out.labels[0], out.scores[0], truth)  # (N,) each
    boxes, labels = out.boxes[0, detection], out.labels[0, detection]
    patches = model.pool(pyramid, boxes, torch.zeros_like(labels), model.roi.mask_size)
    logits = {name: heads[name](patches) for name in HEADS}  # (N, K, M, M), (N, K + 1, M, M)
    own = torch.arange(len(labels))
    probs = {
        "sigmoid per class": logits["sigmoid per class"][own, labels].sigmoid(),
        "softmax": logits["softmax"].softmax(1)[own, labels],
    }  # (N, M, M)
    kept = paste_masks(probs["sigmoid per class"], boxes, truth.size) & truth.masks[owner]  # (N, H, W)
    lost = kept & ~paste_masks(probs["softmax"], boxes, truth.size)
    winner = logits["softmax"].argmax(1)  # (N, M, M)
    other = (winner != labels[:, None, None]) & (winner != K)
    lost &= paste_probs(other.float(), boxes, truth.size) >= 0.5
    return [
        {
            "scene": index, "object": int(owner[i]), "label": int(labels[i]),
            "box": [round(v, 3) for v in boxes[i].tolist()],
            "lost": int(lost[i].sum()), "kept": int(kept[i].sum()),
            "sigmoid": as_text(100 * probs["sigmoid per class"][i]), "softmax": as_text(100 * probs["softmax"][i]),
            "winner": as_text(winner[i]),
        }
        for i in range(len(labels))
    ]  # fmt: skip


def rightly_named(boxes: Tensor, labels: Tensor, scores: Tensor, truth: Instances) -> tuple[Tensor, Tensor]:
    """The best detection of every object that one stands for: indices of detections ``(N,)`` and of objects ``(N,)``.

    Args:
        boxes: boxes of the detections by falling score, ``(D, 4)``.
        labels: class of each box, ``(D,)``.
        scores: score of each, ``(D,)``; below ½ a detection does not count.
        truth: objects of the scene.
    """
    fits = box_iou(boxes, truth.boxes) >= 0.5  # (D, G)
    fits &= (labels[:, None] == truth.labels) & (scores[:, None] >= 0.5)
    objects = fits.any(0).nonzero()[:, 0]  # (N,)
    return fits[:, objects].int().cumsum(0).eq(0).sum(0), objects


def as_text(grid: Tensor) -> list[str]:
    """The rows of a grid ``(M, M)`` of numbers, rounded, as text."""
    return [" ".join(map(str, row)) for row in grid.round().int().tolist()]
