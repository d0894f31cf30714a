"""One trained model, one set of outputs, several ways to suppress duplicates: what each keeps, scores and takes.

The outputs are computed once, so variants differ in what is kept and in its scores alone.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from seglib.book.experiments.instances import NUM_CLASSES, image_metrics, score_objects
from seglib.data.catalog import SegmentationDataset
from seglib.data.collate import collate
from seglib.metrics import AveragePrecision
from seglib.models.base import Model
from seglib.models.solov2 import SOLOv2, draw
from seglib.models.yolact import YOLACT, select
from seglib.ops.masks import mask_iou
from seglib.ops.nms import mask_nms, matrix_nms
from seglib.types import Batch

Found = dict[str, tuple[dict[str, Any], list[AveragePrecision]]]
"""Name of a variant → its row of results, and its metric of every image."""

Suppress = Callable[[Tensor, Tensor, Tensor], Tensor]
"""IoU matrix ``(N, N)``, labels and scores ``(N,)`` → the scores afterwards, 0 for what is dropped."""


def soft_mask_nms(iou: Tensor, labels: Tensor, scores: Tensor, *, sigma: float = 2.0) -> Tensor:
    """Soft-NMS from a matrix of IoUs: what `matrix_nms` approximates. Scores ``(N,)`` afterwards.

    The best object left lowers all others of its class by exp(−σ·IoU²), then the next. σ multiplies, as in
    :func:`~seglib.ops.nms.matrix_nms`.
    """
    decay = torch.exp(-sigma * torch.where(labels[:, None] == labels, iou, 0) ** 2)  # (N, N)
    waiting = torch.ones_like(scores, dtype=torch.bool)
    # every object taken lowers all that wait, so the loop is the algorithm itself
    for _ in range(len(scores)):
        best = torch.where(waiting, scores, -1).argmax()
        waiting[best] = False
        scores = torch.where(waiting, scores * decay[best], scores)
    return scores


def _fast(iou: Tensor, labels: Tensor, scores: Tensor) -> Tensor:
    """Fast NMS of masks: whatever a better one of the class overlaps is dropped; scores fall already."""
    above = torch.where(labels[:, None] == labels, iou, 0).triu(1)  # (N, N)
    return scores * (above.amax(0) <= 0.5) if len(scores) else scores


def _greedy(iou: Tensor, labels: Tensor, scores: Tensor) -> Tensor:
    return torch.zeros_like(scores).index_fill(0, mask_nms(iou, labels, scores, 0.5), 1.0) * scores


MASK_VARIANTS: dict[str, Suppress] = {
    "none": lambda iou, labels, scores: scores,
    "greedy": _greedy,
    "fast": _fast,
    "soft": soft_mask_nms,
    "matrix, linear": lambda iou, labels, scores: matrix_nms(iou, labels, scores, kernel="linear"),
    "matrix": matrix_nms,
}
"""Variants for masks, at an IoU of 0.5 and σ = 2."""

BOX_VARIANTS: dict[str, dict[str, Any]] = {
    "standard": {"method": "standard"},
    "fast": {"method": "fast"},
    "fast, across classes": {"method": "fast", "cross_class": True},
}
"""Variants for YOLACT: what changes in :class:`~seglib.models.yolact.YOLACTDetections`."""


@contextmanager
def replaced(model: Model, name: str, value: Any) -> Iterator[None]:
    """The model with another value of a plain attribute or method, for a while."""
    own = vars(model)
    before = own.get(name)
    own[name] = value
    try:
        yield
    finally:
        if before is None:
            del own[name]
        else:
            own[name] = before


@torch.inference_mode()
def yolact_variants(model: YOLACT, data: SegmentationDataset) -> Found:
    """What YOLACT finds behind each of `BOX_VARIANTS`.

    Returns:
        For each variant ``nms`` (its name), the scores, ``detections`` per image (at most those that a model keeps),
        ``ms`` of choosing detections (median of the images, CPU time), and how many boxes NMS keeps before the best are
        taken, per image: ``boxes``, and ``lost``, those of standard NMS that are not among them.
    """
    usual = model.detections
    columns = ("detections", "boxes", "lost", "ms")
    rows: dict[str, dict[str, list[float]]] = {n: {c: [] for c in columns} for n in BOX_VARIANTS}
    metrics: dict[str, list[AveragePrecision]] = {n: [] for n in BOX_VARIANTS}
    for batch in one_by_one(data, model):
        out = model(batch.images)
        standard: set[int] = set()
        for name, change in BOX_VARIANTS.items():
            settings = replace(usual, **change)
            with replaced(model, "detections", settings):
                found = model.postprocess(out, batch.sizes)
            metrics[name] += image_metrics(found, batch.targets.instances or [])
            started = time.process_time()
            anchor, label, _ = select(
                out.class_logits[0], out.deltas[0], out.anchors, replace(settings, max_detections=10**9)
            )
            rows[name]["ms"].append(1e3 * (time.process_time() - started))
            kept = set((anchor * NUM_CLASSES + label).tolist())
            standard = kept if name == "standard" else standard
            rows[name]["detections"].append(len(found[0]))
            rows[name]["boxes"].append(len(kept))
            rows[name]["lost"].append(len(standard - kept))
    return _rows(rows, metrics)


@torch.inference_mode()
def solov2_variants(model: SOLOv2, data: SegmentationDataset) -> Found:
    """What SOLOv2 finds behind each of `MASK_VARIANTS`.

    Returns:
        For each variant ``nms`` (its name), the scores, ``detections`` per image, ``masks`` (per image, that go into
        NMS) and ``ms`` of NMS from the matrix of IoUs, as the paper's table 3c counts it (median of the images, CPU
        time).
    """
    s = model.detections
    everything = replace(s, nms="mask", nms_iou=1.0, min_score=0.0, max_detections=s.pre_nms_top_k)
    columns = ("detections", "masks", "ms")
    rows: dict[str, dict[str, list[float]]] = {n: {c: [] for c in columns} for n in MASK_VARIANTS}
    metrics: dict[str, list[AveragePrecision]] = {n: [] for n in MASK_VARIANTS}
    for batch in one_by_one(data, model):
        out = model(batch.images)
        with replaced(model, "detections", everything):
            cells, labels, scores = model.detect(out.category_logits[0], out.kernels[0], out.mask_features[0])
        probs = draw(out.mask_features[0], out.kernels[0, cells], model.mask_factor).sigmoid()  # (N, h, w)
        masks = probs > s.mask_threshold
        iou = mask_iou(masks, masks)
        for name, suppress in MASK_VARIANTS.items():
            started = time.process_time()
            after = suppress(iou, labels, scores)
            rows[name]["ms"].append(1e3 * (time.process_time() - started))
            rows[name]["masks"].append(len(cells))
            score, order = after.sort(descending=True)
            order = order[(score >= s.min_score) & (score > 0)][: s.max_detections]
            chosen = cells[order], labels[order], after[order]
            with replaced(model, "detect", lambda *_, chosen=chosen: chosen):
                found = model.postprocess(out, batch.sizes)
            rows[name]["detections"].append(len(found[0]))
            metrics[name] += image_metrics(found, batch.targets.instances or [])
    return _rows(rows, metrics)


def one_by_one(data: SegmentationDataset, model: Model) -> Iterator[Batch]:
    """Batches of one scene each, on the model's device."""
    device = next(model.parameters()).device
    for i in range(len(data)):
        yield collate([data[i]]).to(device)


def _rows(rows: dict[str, dict[str, list[float]]], metrics: dict[str, list[AveragePrecision]]) -> Found:
    """The median of times, the means of counts."""
    found = {}
    for name, lists in rows.items():
        ms = round(statistics.median(lists["ms"]), 3)
        counts = {key: round(statistics.fmean(values), 3) for key, values in lists.items() if key != "ms"}
        row = {"nms": name, **score_objects(metrics[name]), **counts, "ms": ms}
        found[name] = row, metrics[name]
    return found
