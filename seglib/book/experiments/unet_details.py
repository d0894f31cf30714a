"""What do the details of the U-Net paper do? One change at a time to a small ``PaperUNet``, on drawn cells.

======================  =========================================================================================
as in the paper         no norm, up-convolutions, weights of standard deviation √(2/N); trained with AdamW here
batch norm              a batch norm behind every 3×3 convolution
default weights         PyTorch's initialisation of convolutions, a standard deviation of √(1/3N)
bilinear up             bilinear upsampling and a 3×3 convolution in place of each up-convolution
batch of one            one image a step and SGD with momentum 0.99, as the paper trains; the same number of images
======================  =========================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from seglib.book.experiments.compare import only
from seglib.book.experiments.training import last_tenth
from seglib.book.experiments.unet_borders import load_cells
from seglib.book.experiments.unet_cells import (
    CELL_CATEGORIES,
    Cells,
    border_map,
    predict_cells,
    score_cells,
    train_on_cells,
)
from seglib.models.unet import PaperUNet

WIDTH, DEPTH = 12, 2
MOMENTUM = 0.99


def as_in_the_paper(model: PaperUNet) -> None:
    """No change."""


def batch_norm(model: PaperUNet) -> None:
    """A batch norm behind every 3×3 convolution, whose bias it makes idle."""
    for convs in (*model.down, *model.merge):
        for i in (2, 0):
            convs.insert(i + 1, nn.BatchNorm2d(convs[i].out_channels))


def default_weights(model: PaperUNet) -> None:
    """Convolutions as PyTorch initialises them."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.reset_parameters()


def bilinear_up(model: PaperUNet) -> None:
    """Bilinear upsampling, then a padded 3×3 convolution: the map has the size that an up-convolution gives."""
    for i, up in enumerate(model.up):
        conv = nn.Conv2d(up.in_channels, up.out_channels, 3, padding=1)  # type: ignore[arg-type]
        model.up[i] = nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False), conv)


BATCH_OF_ONE = "batch of one"

VARIANTS: dict[str, Callable[[PaperUNet], None]] = {
    "as in the paper": as_in_the_paper,
    "batch norm": batch_norm,
    "default weights": default_weights,
    "bilinear up": bilinear_up,
    BATCH_OF_ONE: as_in_the_paper,
}


def run(
    *,
    seeds: Sequence[int],
    steps: int,
    variants: Sequence[str] = tuple(VARIANTS),
    scenes: int = 200,
    val_scenes: int = 100,
    batch_size: int = 8,
    data: tuple[Cells, Cells] | None = None,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Train every variant once for every seed, with the paper's border weights, and score it on held-out cells.

    Args:
        seeds: one run per seed; a seed sets the model's initialisation and the order of the images.
        steps: optimiser steps of each run; "batch of one" takes ``batch_size`` times as many.
        variants: names in `VARIANTS`.
        scenes: number of images to train on, when ``data`` is not given.
        val_scenes: number of images to score on, when ``data`` is not given.
        batch_size: images per step.
        data: training and held-out images that are in memory already.
        report: called with a line of text after every run.

    Returns:
        The settings and ``runs``: one dict per run with ``variant``, ``seed``, ``first_loss``, ``loss`` (mean of the
        last tenth) and the scores of :func:`~seglib.book.experiments.unet_cells.score_cells`.

    Raises:
        ValueError: without steps or images, or for an unknown variant.
    """
    changes = only(variants, VARIANTS)
    train, val = data or load_cells(scenes, val_scenes)
    runs: list[dict[str, Any]] = []
    for seed in seeds:
        for variant, change in changes.items():
            torch.manual_seed(seed)
            model = PaperUNet(len(CELL_CATEGORIES), width=WIDTH, depth=DEPTH, dropout=0.0)
            change(model)
            model.to(train.images.device)
            one = variant == BATCH_OF_ONE
            losses = train_on_cells(
                model,
                train,
                steps=steps * batch_size if one else steps,
                seed=seed,
                batch_size=1 if one else batch_size,
                weighing=border_map,
                optimizer=torch.optim.SGD(model.parameters(), lr=1e-3, momentum=MOMENTUM) if one else None,
            )
            found = score_cells(predict_cells(model, val), val.ids)
            loss = {"first_loss": round(losses[0], 5), "loss": round(last_tenth(losses), 5)}
            runs.append({"variant": variant, "seed": seed, **loss, **found})
            if report is not None:
                scores = ", ".join(f"{name} {found[name]:.3f}" for name in ("split", "merged", "f1", "iou"))
                report(f"seed {seed}, {variant}: {scores}")
    settings = {"model": f"PaperUNet, width {WIDTH}, depth {DEPTH}", "data": "drawn cells", "momentum": MOMENTUM}
    counts = {"scenes": len(train), "val_scenes": len(val), "steps": steps, "batch_size": batch_size}
    return {**settings, **counts, "variants": list(variants), "runs": runs}
