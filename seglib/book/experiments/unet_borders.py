"""Does the weight map separate touching cells? ``unet_tiny`` on drawn cells, with and without it.

The loss weighs every background pixel by 1 + w₀ exp(−(d₁ + d₂)² / 2σ²), where d₁ and d₂ are the distances to the
nearest and the second nearest cell. Ronneberger, Fischer and Brox (MICCAI 2015, equation 2) take w₀ = 10 and σ ≈ 5, and
do not measure what the map brings. Here w₀ = 0 (no map) and more than the paper's are tried too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from seglib.book.experiments.training import last_tenth
from seglib.book.experiments.unet_cells import (
    CELL_CATEGORIES,
    Cells,
    border_map,
    draw_cells,
    predict_cells,
    score_cells,
    train_on_cells,
)
from seglib.models.unet import unet_tiny


def run(
    *,
    seeds: Sequence[int],
    steps: int,
    strengths: Sequence[float] = (0, 10, 40),
    scenes: int = 200,
    val_scenes: int = 100,
    batch_size: int = 8,
    data: tuple[Cells, Cells] | None = None,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Train ``unet_tiny`` once for every seed and w₀, and count the touching pairs of cells that it separates.

    With one seed all runs start from the same weights and see the same batches.

    Args:
        seeds: one run per seed; a seed sets the model's initialisation and the order of the images.
        steps: optimiser steps of each run.
        strengths: values of w₀; 0 weighs all pixels alike.
        scenes: number of images to train on, when ``data`` is not given.
        val_scenes: number of images to score on, when ``data`` is not given.
        batch_size: images per step.
        data: training and held-out images that are in memory already.
        report: called with a line of text after every run.

    Returns:
        The settings and ``runs``: one dict per run with ``w0``, ``seed``, ``loss`` and the scores of
        :func:`~seglib.book.experiments.unet_cells.score_cells`.

    Raises:
        ValueError: without steps or images.
    """
    train, val = data or load_cells(scenes, val_scenes)
    runs: list[dict[str, Any]] = []
    for seed in seeds:
        for w0 in strengths:
            torch.manual_seed(seed)
            model = unet_tiny(len(CELL_CATEGORIES)).to(train.images.device)
            weighing = partial(border_map, w0=w0) if w0 else None
            losses = train_on_cells(model, train, steps=steps, seed=seed, batch_size=batch_size, weighing=weighing)
            found = score_cells(predict_cells(model, val), val.ids)
            runs.append({"w0": w0, "seed": seed, "loss": round(last_tenth(losses), 5), **found})
            if report is not None:
                scores = ", ".join(f"{name} {found[name]:.3f}" for name in ("split", "merged", "f1", "iou"))
                report(f"seed {seed}, w0 {w0}: {scores}")
    settings = {"model": "unet_tiny", "data": "drawn cells", "scenes": len(train), "val_scenes": len(val)}
    return {**settings, "steps": steps, "batch_size": batch_size, "strengths": list(strengths), "runs": runs}


def load_cells(train: int, val: int) -> tuple[Cells, Cells]:
    """Images to train on and held-out images to score on, on the GPU when there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return draw_cells(train, seed=0).to(device), draw_cells(val, seed=1).to(device)
