"""Masks with classes, or a class for every pixel? The same network trained both ways for semantic segmentation.

Three ways to train ``mask2former_tiny`` with one query for each class and without masked attention, after Cheng,
Schwing and Kirillov (MaskFormer, NeurIPS 2021, tables 2 and 4):

- per-pixel: query k stands for class k. Its mask is the score of the class at every pixel; a softmax over the queries
  and a cross-entropy over the pixels.
- fixed: query k stands for class k, says whether the class is there, and draws its mask, with the losses of mask
  classification.
- matched: the same losses, but which query answers for a class is found by the Hungarian algorithm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from seglib.book.experiments.compare import every_run
from seglib.book.experiments.queries import Losses, batches, differences, own_losses, train_queries
from seglib.book.experiments.training import rounded
from seglib.data.scenes import CATEGORIES, Scenes
from seglib.losses.pixel import cross_entropy
from seglib.losses.queries import MaskTargets, Matcher, SetLossSettings, match_queries
from seglib.metrics import ConfusionMatrix
from seglib.models.mask2former import Mask2Former, Mask2FormerOutput, mask2former_tiny
from seglib.ops.resize import crop_to
from seglib.types import Batch

PAPER = {
    "ade20k": {"per-pixel": 41.9, "fixed": 43.7, "matched": 44.2},
    "cityscapes": {"per-pixel": 78.5, "matched": 78.5},
    "ade20k_full": {"per-pixel": 13.9, "matched": 17.4},
}
"""mIoU of PerPixelBaseline+, fixed and bipartite matching on ADE20K with 150 classes (Cheng et al. 2021, tables 4a and
4b), and of the first and last on Cityscapes with 19 classes and ADE20K-Full with 847 (table 2)."""


def pixel_logits(out: Mask2FormerOutput, layer: int) -> Tensor:
    """The mask logits of a layer as class scores of the pixels: ``(B, K, H, W)`` of the padded images."""
    return F.interpolate(out.mask_logits(layer), size=out.canvas, mode="bilinear")


def pixel_losses(model: Mask2Former, batch: Batch) -> dict[str, Tensor]:
    """Cross-entropy over the pixels, after every layer as the masks' losses are."""
    out, labels = model(batch.images), batch.targets.semantic
    assert labels is not None  # scenes annotate it
    layers = range(len(out.class_logits))
    each = [cross_entropy(crop_to(pixel_logits(out, i), labels.shape[1:]), labels) for i in layers]
    # the class head is not used; without a share of the loss its weights would have no gradient to clip or to step by
    return {"pixels": torch.stack(each).sum(), "unused": 0 * out.class_logits.sum()}


def match_by_class(
    class_logits: Tensor,
    mask_embeddings: Tensor,
    mask_features: Tensor,
    target: MaskTargets,
    points: Tensor,
    settings: SetLossSettings,
) -> Tensor:
    """Query k for class k. A `Matcher`."""
    return target.labels.expand(len(class_logits), -1)  # (L, G)


def most_likely_class(model: Mask2Former, out: Mask2FormerOutput, batch: Batch) -> Sequence[Tensor]:
    """The query with the highest mask logit at each pixel, ``(H, W)`` of each image."""
    return pixel_logits(out, -1).argmax(1).unbind()


def sum_over_queries(model: Mask2Former, out: Mask2FormerOutput, batch: Batch) -> Sequence[Tensor]:
    """The model's own answer: the class with the highest sum over queries, ``(H, W)`` of each image."""
    return [found.labels for found in model.semantic(out, batch.sizes)]


@dataclass(frozen=True)
class Variant:
    """One way of training and reading the network.

    Attributes:
        losses: losses of a batch.
        answer: labels of each image of a batch.
        matcher: gives each class its query.
    """

    losses: Losses
    answer: Callable[[Mask2Former, Mask2FormerOutput, Batch], Sequence[Tensor]]
    matcher: Matcher = match_queries


VARIANTS = {
    "per-pixel": Variant(pixel_losses, most_likely_class),
    "fixed": Variant(own_losses, sum_over_queries, match_by_class),
    "matched": Variant(own_losses, sum_over_queries),
}
PAIRS = (("matched", "per-pixel"), ("fixed", "per-pixel"), ("matched", "fixed"))
SCORES = ("miou", "miou_things", "miou_stuff")


def run(
    *,
    seeds: Sequence[int],
    steps: int,
    scenes: int = 1000,
    val_scenes: int = 200,
    batch_size: int = 8,
    data: tuple[Scenes, Scenes] | None = None,
    keep: Path | None = None,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Train every variant once for every seed, and score its label maps.

    Args:
        seeds: one run per seed; a seed sets the initialisation of what isn't the encoder, and the order of the scenes.
        steps: optimiser steps of each network.
        scenes: number of scenes to train on, when ``data`` is not given.
        val_scenes: number of held-out scenes to score on, when ``data`` is not given.
        batch_size: scenes per step.
        data: training and held-out scenes with all annotations.
        keep: a file of finished runs; those that are in it are not made again.
        report: function that is called with a line of text after every run.

    Returns:
        The settings, the paper's numbers, ``runs``: one dict per seed and ``variant`` with ``curve``, ``seconds``, the
        mean IoU of all classes, of things and of stuff, and the ``iou`` of each class; and ``differences``: a list of
        ``a``, ``b`` and for each score the mean over the seeds of a minus b with the ends of its 95% t-interval (left
        out for a single seed).

    Raises:
        ValueError: without steps or scenes.
    """
    if steps < 1 or scenes < 1 or val_scenes < 1:
        raise ValueError(f"steps and scenes must be positive, got {steps}, {scenes} and {val_scenes}")
    train, val = data or (Scenes(scenes, split="train"), Scenes(val_scenes, split="val"))
    settings = {"scenes": len(train), "val_scenes": len(val), "steps": steps, "batch_size": batch_size}
    runs = every_run(
        VARIANTS, partial(_train_and_score, train=train, val=val, steps=steps, batch_size=batch_size),
        key="variant", seeds=seeds, shown=("loss", *SCORES), report=report, keep=keep, settings=settings,
    )  # fmt: skip
    found = [{"a": a, "b": b, **differences(runs, (a, b), SCORES)} for a, b in PAIRS]
    return {
        "model": "mask2former_tiny", "data": "scenes", **settings, "queries": len(CATEGORIES),
        "paper": PAPER, "runs": runs, "differences": found,
    }  # fmt: skip


def _train_and_score(
    variant: Variant, seed: int, *, train: Scenes, val: Scenes, steps: int, batch_size: int
) -> dict[str, Any]:
    def build() -> Mask2Former:
        model = mask2former_tiny(len(CATEGORIES), task="semantic", queries=len(CATEGORIES), masked_attention=False)
        model.matcher = variant.matcher
        return model

    model, facts = train_queries(build, train, steps=steps, seed=seed, batch_size=batch_size, losses=variant.losses)
    matrix = ConfusionMatrix(CATEGORIES)
    with torch.inference_mode():
        for batch in batches(val, 20):
            assert batch.targets.semantic is not None  # scenes annotate it
            for labels, truth in zip(
                variant.answer(model, model(batch.images), batch), batch.targets.semantic, strict=True
            ):
                matrix.update(labels, truth)
    scores = matrix.compute()
    things = sum(c.isthing for c in CATEGORIES)
    means = {
        "miou": scores.miou,
        "miou_things": float(scores.iou[:things].mean()),
        "miou_stuff": float(scores.iou[things:].mean()),
    }
    iou = {c.name: float(v) for c, v in zip(CATEGORIES, scores.iou, strict=True)}
    return {"seed": seed, **facts, **rounded({**means, "iou": iou})}
