"""The moving figure that stops a two-stage detector after every stage."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from seglib.book.figures.element import Figure
from seglib.book.figures.images import pack_maps, png
from seglib.losses.two_stage import BOX_WEIGHTS
from seglib.models.mask_rcnn import MaskRCNN
from seglib.ops.boxes import clip_boxes, decode_boxes
from seglib.ops.nms import batched_nms
from seglib.types import Category, Sample

SIDE = 192
"""Most pixels along a side of the image: more makes the page heavy."""


class _Maps(Figure):
    """A figure that reads small maps."""

    shared = ("maps",)


@torch.no_grad()
def detector_stepper(model: MaskRCNN, sample: Sample, categories: Sequence[Category]) -> Figure:
    """Mask R-CNN on one image, stopped after every stage, with its thresholds to move.

    Anchors, their objectness, proposals, classes, refined boxes, masks, and masks in the image. The reader follows one
    box through the stages, and sees how many objects are still reached. All heads answer here for *every* anchor that
    goes into NMS, so the page can choose other proposals and detections by itself.

    Args:
        model: a trained model with deltas for each class.
        sample: a scene with instances, whose image is ``(3, H, W)`` in [0, 1], at most 192 pixels a side.
        categories: the class table; the model's classes are its things.

    Raises:
        ValueError: when the sample has no objects or its image is too large.
    """
    image, objects = sample.image, sample.instances
    if objects is None or len(objects) == 0:
        raise ValueError(f"sample {sample.id!r} has no objects to reach; data.scenes draws some")
    size = (int(image.shape[1]), int(image.shape[2]))
    if max(size) > SIDE or any(side % model.size_divisibility for side in size):
        raise ValueError(
            f"the image must have sides of at most {SIDE} pixels, multiples of {model.size_divisibility}, got {size}"
        )
    model = model.eval()
    pyramid = model.pyramid(image[None])
    logits, deltas = model.rpn_head(pyramid)
    anchors, moved, scores, levels = _candidates(model, logits, deltas, [p.shape[-2:] for p in pyramid], size)
    one = torch.zeros(len(moved), dtype=torch.int64)
    said, changes = model.box_head(model.pool(pyramid, moved, one, model.roi.box_size))
    probs = said.softmax(1)[:, :-1]  # (T, K)
    of, label = (probs > model.detections.threshold).nonzero().unbind(1)  # (A,) each
    boxes = clip_boxes(decode_boxes(changes[of, label], moved[of], BOX_WEIGHTS), size)  # (A, 4)
    patches = model.pool(pyramid, boxes, torch.zeros(len(boxes), dtype=torch.int64), model.roi.mask_size)
    masks, scales = pack_maps(model.mask_head(patches, label).sigmoid(), levels=8)
    proposals = batched_nms(moved, scores, levels, model.rpn.nms)[: model.rpn.post_nms_top_k_test]
    things = [c for c in categories if c.isthing]
    rows = zip(of.tolist(), label.tolist(), probs[of, label].tolist(), _short(boxes), strict=True)
    return _Maps(
        "detector_stepper",
        {
            "image": png(image),
            "size": size,
            "anchors": [[round(v, 1) for v in box] for box in anchors.tolist()],
            "moved": _short(moved),
            "scores": [round(v, 4) for v in scores.tolist()],
            "levels": levels.tolist(),
            "most": model.rpn.post_nms_top_k_test,
            "nms": model.rpn.nms,
            "answers": [{"of": o, "label": k, "score": round(s, 4), "box": b} for o, k, s, b in rows],
            "masks": masks,
            "scales": [[round(v, 5) for v in scale] for scale in scales],
            "cells": 2 * model.roi.mask_size,
            "truth": _short(objects.boxes),
            "labels": objects.labels.tolist(),
            "names": [c.name for c in things],
            "colors": ["#{:02x}{:02x}{:02x}".format(*c.color) for c in things],
            "start": int(of[torch.where(torch.isin(of, proposals), probs[of, label], -1.0).argmax()]) if len(of) else 0,
        },
        text=f"the stages of a detector on a scene with {len(objects)} objects",
        fallback=(
            f'<p><img src="{html.escape(png(image))}" width="240" alt="The scene"><br>A detector stopped after every '
            f"stage: {len(moved)} anchors, their objectness, proposals, classes, refined boxes and masks of "
            f"{len(objects)} objects (needs JavaScript).</p>"
        ),
    )


def _candidates(
    model: MaskRCNN,
    logits: Sequence[Tensor],
    deltas: Sequence[Tensor],
    shapes: Sequence[Any],
    size: tuple[int, int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What goes into the first NMS: anchors and moved boxes ``(T, 4)``, logits and levels ``(T,)``."""
    found: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for i, (score, delta, anchor) in enumerate(zip(logits, deltas, model.anchors(shapes), strict=True)):
        top, index = score[0].topk(min(model.rpn.pre_nms_top_k_test, score.shape[1]))
        moved = clip_boxes(decode_boxes(delta[0][index], anchor[index]), size)
        solid = (moved[:, 2:] > moved[:, :2]).all(1)
        found.append((anchor[index][solid], moved[solid], top[solid], torch.full((int(solid.sum()),), i)))
    anchors, boxes, scores, levels = (torch.cat(part) for part in zip(*found, strict=True))
    return anchors, boxes, scores, levels


def _short(boxes: Tensor) -> list[list[float]]:
    """Boxes in hundredths of pixels, as lists: the page stays small."""
    return [[round(v, 2) for v in box] for box in boxes.tolist()]
