"""How much of RoIAlign's gain is position? Masks behind both poolings, each moved to where it fits best.

A box that was rounded is another box, so the mask that is drawn in it comes back shifted. If that were all, moving each
mask by its own best shift would close the gap between RoI Pooling and RoIAlign. The shift is found with the true mask,
so it helps both; what it takes away from the *difference* is the share that was position alone. Heads, objects and
training are those of ``roi_pooling`` at a smaller budget.

The scores are also given by how many cells of the map an object is wide, which tells whether the gain follows the
stride or the cells.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from seglib.book.experiments.roi_pooling import (
    LEVELS,
    NUM_CLASSES,
    SIZE,
    VARIANTS,
    Objects,
    load_objects,
    paste_all,
    train_head,
)
from seglib.book.experiments.training import last_tenth
from seglib.layers.roi_heads import MaskHead

REACH = 3
"""Largest shift in pixels, along each axis and in both directions."""

POOLINGS = ("RoI Pooling", "RoIAlign")

CELLS: dict[str, tuple[float, float]] = {
    "under 1.5": (0, 1.5),
    "1.5 to 3": (1.5, 3),
    "3 to 6": (3, 6),
    "6 to 12": (6, 12),
    "12 and more": (12, float("inf")),
}
"""How many cells an object is wide: the root of its box's area over the stride."""


def shifted_ious(masks: Tensor, truth: Tensor, *, reach: int = REACH) -> Tensor:
    """The IoU of each mask with its truth when the mask is moved by whole pixels.

    What leaves the image is cut off, and 0 comes in.

    Args:
        masks: predicted masks, ``(N, H, W)`` bool.
        truth: true masks, ``(N, H, W)`` bool.
        reach: largest shift R along each axis, at least 0 and below H and W.

    Returns:
        ``(N, 2R + 1, 2R + 1)``, by the shift down and to the right, −R to R: the unmoved masks at ``[:, R, R]``. Two
        empty masks agree perfectly, as in `seglib.metrics`.

    Raises:
        ValueError: when shapes differ or ``reach`` is out of range.
    """
    if masks.shape != truth.shape or masks.ndim != 3:
        raise ValueError(f"masks and truth must be (N, H, W) alike, got {tuple(masks.shape)} and {tuple(truth.shape)}")
    height, width = masks.shape[1:]
    if not 0 <= reach < min(height, width):
        raise ValueError(f"reach must lie in 0..{min(height, width) - 1} for masks of {height} × {width}, got {reach}")

    def count(pixels: Tensor) -> Tensor:
        return pixels.flatten(1).sum(1, dtype=torch.int32)  # (N,)

    area, found = count(truth), []
    for down in range(-reach, reach + 1):
        for right in range(-reach, reach + 1):
            moved = masks[:, max(-down, 0) : height - max(down, 0), max(-right, 0) : width - max(right, 0)]
            under = truth[:, max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)]
            inter = count(moved & under)
            union = count(moved) + area - inter
            found.append(torch.where(union > 0, inter / union.clamp(min=1), 1.0))
    side = 2 * reach + 1
    return torch.stack(found, 1).view(-1, side, side)


def run(
    *,
    seeds: Sequence[int],
    steps: int,
    strides: Sequence[int] = tuple(LEVELS),
    scenes: int = 80,
    val_scenes: int = 40,
    batch_size: int = 48,
    data: tuple[Objects, Objects] | None = None,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Train a mask head once for every seed, stride and pooling; score its masks where they are and where they fit.

    Args:
        seeds: one run per seed; a seed sets the initialisation, the order of the objects and the moves of their boxes.
        steps: optimiser steps of each run.
        strides: strides of the maps that are pooled from, in ``roi_pooling.LEVELS``.
        scenes: number of scenes to train on, when ``data`` is not given.
        val_scenes: number of scenes to score on, when ``data`` is not given.
        batch_size: objects per step.
        data: training and held-out objects that are in memory already.
        report: function that is called with a line of text after every run.

    Returns:
        The settings, and ``runs``: one dict per run with ``variant``, ``stride``, ``seed``, ``loss`` (mean of the last
        tenth), ``cpu_seconds``, ``iou`` (the mean over objects), ``best_iou`` (each mask at its best shift of up to
        `REACH` pixels), and ``cells``: bin of `CELLS` that is not empty → its ``objects`` and their ``iou`` and
        ``best_iou``.

    Raises:
        ValueError: without steps or scenes, or for an unknown stride.
    """
    if unknown := sorted(set(strides) - set(LEVELS)):
        raise ValueError(f"strides {unknown} are unknown; choose among {', '.join(map(str, LEVELS))}")
    train, val = data or (
        load_objects(scenes, "train", strides=strides),
        load_objects(val_scenes, "val", strides=strides),
    )
    truth = val.masks(torch.arange(len(val), device=val.boxes.device))
    runs: list[dict[str, Any]] = []
    for seed in seeds:
        for stride in strides:
            for name in POOLINGS:
                torch.manual_seed(seed)
                head = MaskHead(train.maps[stride].shape[1], NUM_CLASSES, hidden=32, depth=2, norm=True)
                head = head.to(train.boxes.device)
                started = time.process_time()
                losses = train_head(head, VARIANTS[name], stride, train, steps=steps, seed=seed, batch_size=batch_size)
                facts: dict[str, Any] = {"variant": name, "stride": stride, "seed": seed}
                facts |= {"loss": round(last_tenth(losses), 5)}
                facts |= {"cpu_seconds": round(time.process_time() - started, 1)}
                ious = shifted_ious(paste_all(head, VARIANTS[name], stride, val), truth)  # (N, 7, 7)
                runs.append(facts | _scores(ious, val.sides / stride))
                if report is not None:
                    found = runs[-1]
                    report(f"seed {seed}, stride {stride}, {name}: {found['iou']:.3f}, moved {found['best_iou']:.3f}")
    return {
        "model": "a mask head on frozen maps of fcn_tiny's encoder, true boxes",
        "data": f"scenes of {SIZE} pixels",
        "scenes": len(train.owners),
        "objects": len(train),
        "val_scenes": len(val.owners),
        "val_objects": len(val),
        "steps": steps,
        "batch_size": batch_size,
        "strides": list(strides),
        "reach": REACH,
        "runs": runs,
    }


def _scores(ious: Tensor, cells: Tensor) -> dict[str, Any]:
    """Means of the IoUs ``(N, 2R + 1, 2R + 1)``, over all objects and by the cells ``(N,)`` that they are wide."""
    here, best = ious[:, REACH, REACH], ious.flatten(1).amax(1)  # (N,)

    def means(inside: Tensor) -> dict[str, float]:
        return {"iou": round(here[inside].mean().item(), 5), "best_iou": round(best[inside].mean().item(), 5)}

    groups = {name: (cells >= low) & (cells < high) for name, (low, high) in CELLS.items()}
    by_cells = {n: {"objects": int(inside.sum()), **means(inside)} for n, inside in groups.items() if inside.any()}
    return means(torch.ones_like(here, dtype=torch.bool)) | {"cells": by_cells}
