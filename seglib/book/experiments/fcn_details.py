"""What do the details of the FCN paper do? One change at a time to ``fcn_tiny`` with stride 8, same seeds and budget.

======================  ===============================================================================
as in the paper         learnable upsampling that starts as bilinear, score layers that start at zero
fixed upsampling        the bilinear weights stay as they are
random upsampling       the upsampling kernels start with PyTorch's random default
random scores           the score layers start with PyTorch's random default
======================  ===============================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from seglib.book.experiments.semantic import SceneTensors, load_scenes, train_and_score
from seglib.data.scenes import CATEGORIES
from seglib.models.fcn import FCN, fcn_tiny

STRIDE = 8


def as_in_the_paper(model: FCN) -> None:
    """No change."""


def fixed_upsampling(model: FCN) -> None:
    """Bilinear interpolation for good."""
    model.upsample.requires_grad_(False)


def random_upsampling(model: FCN) -> None:
    """Transposed convolutions as PyTorch starts them."""
    for layer in model.upsample.values():
        nn.ConvTranspose2d.reset_parameters(layer)  # type: ignore[arg-type]


def random_scores(model: FCN) -> None:
    """Score layers as PyTorch starts them."""
    for layer in model.score.values():
        layer.reset_parameters()  # type: ignore[operator]


VARIANTS: dict[str, Callable[[FCN], None]] = {
    "as in the paper": as_in_the_paper,
    "fixed upsampling": fixed_upsampling,
    "random upsampling": random_upsampling,
    "random scores": random_scores,
}


def run(
    *,
    seeds: Sequence[int],
    steps: int,
    variants: Sequence[str] = tuple(VARIANTS),
    scenes: int = 2000,
    val_scenes: int = 200,
    batch_size: int = 16,
    data: tuple[SceneTensors, SceneTensors] | None = None,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Train every variant once for every seed and score it on held-out scenes.

    Args:
        seeds: of the weights and of the order of the scenes.
        steps: optimiser steps of each run.
        variants: names in `VARIANTS`.
        scenes: number of scenes to train on, when ``data`` is not given.
        val_scenes: number of scenes to score on, when ``data`` is not given.
        batch_size: scenes per step.
        data: training and held-out scenes that are in memory already.
        report: called with a line of text after every run.

    Returns:
        The settings and ``runs``: one dict per run with ``variant``, ``seed``, ``first_loss``, ``loss`` and the scores.

    Raises:
        ValueError: without steps or scenes, or for an unknown variant.
    """
    unknown = sorted(set(variants) - set(VARIANTS))
    if unknown:
        raise ValueError(f"variants {unknown} are unknown; choose among {', '.join(VARIANTS)}")
    train, val = data or load_scenes(scenes, val_scenes)
    runs: list[dict[str, Any]] = []
    for seed in seeds:
        for variant in variants:

            def build(change: Callable[[FCN], None] = VARIANTS[variant]) -> FCN:
                model = fcn_tiny(len(CATEGORIES), stride=STRIDE)
                change(model)
                return model

            runs.append(
                {"variant": variant} | train_and_score(build, train, val, seed=seed, steps=steps, batch_size=batch_size)
            )
            if report is not None:
                report(f"seed {seed}, {variant}: mIoU {runs[-1]['miou']:.3f}")
    settings = {"model": f"fcn_tiny, stride {STRIDE}", "data": "scenes", "scenes": len(train), "val_scenes": len(val)}
    return {**settings, "steps": steps, "batch_size": batch_size, "variants": list(variants), "runs": runs}
