"""What does the third axis bring? Slices one by one, slices with their neighbours, and volumes, at one budget.

Three networks of the same form are trained on the same voxels, two stacks of 16 slices a step, and multiply equally
often:

- 2D: every slice is segmented on its own; all kernels lie in the plane.
- 2.5D: every slice is segmented from a stack of five, itself in the middle; kernels lie in the plane.
- 3D: kernels of 3×3×3 below the first level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from seglib.book.experiments.compare import every_run
from seglib.book.experiments.queries import differences
from seglib.book.experiments.volumes import (
    PATCH,
    SCORES,
    ct_intensity,
    score_volumes,
    seeded,
    small_unet3d,
    train_on_patches,
    volumes_to_train_and_score,
)
from seglib.data.cases import StoredCases
from seglib.data.volumes import CATEGORIES
from seglib.models.base import Model
from seglib.models.unet3d import unet3d_tiny
from seglib.types import DenseOutput, Size, Targets

NEIGHBOURS = 2
WIDTHS_2D = (10, 22, 44, 66)
"""Channels with which the network of slices multiplies as often as that of volumes."""

PAPER = {
    "semi-automated": {"2D": 0.796, "3D": 0.863},
    "fully automated": {"2D": 0.547, "3D": 0.704},
}
"""Mean IoU over three folds with batch norm, and of the automated set-up (Çiçek et al. 2016, tables of section 4)."""

PAIRS = (("3D", "2D"), ("3D", "2.5D"), ("2.5D", "2D"))


class SliceBySlice(Model):
    """A network in the plane, as one of volumes: each slice goes through it, with its neighbours as channels.

    Beyond the first and the last slice these are repeated.

    Args:
        neighbours: slices on each side that a slice is shown with.
    """

    def __init__(self, neighbours: int) -> None:
        super().__init__()
        self.neighbours = neighbours
        self.net = unet3d_tiny(len(CATEGORIES), in_channels=2 * neighbours + 1, widths=WIDTHS_2D, in_plane=True)

    def forward(
        self, images: Tensor, targets: Targets | None = None, sizes: Sequence[Size] | None = None
    ) -> DenseOutput:
        """Class scores ``(B, K, D, H, W)`` of volumes ``(B, 1, D, H, W)``."""
        count, slices = len(images), images.shape[2]
        offsets = torch.arange(-self.neighbours, self.neighbours + 1, device=images.device)
        near = (torch.arange(slices, device=images.device)[:, None] + offsets).clamp(0, slices - 1)  # (D, 2n + 1)
        stacks = images[:, 0, near].flatten(0, 1)[:, :, None]  # (B · D, 2n + 1, 1, H, W)
        out = self.net(stacks)

        def volume(scores: Tensor) -> Tensor:  # (B · D, K, 1, h, w) → (B, K, D, h, w)
            return scores.unflatten(0, (count, slices)).squeeze(3).transpose(1, 2)

        return DenseOutput(volume(out.logits), tuple(volume(a) for a in out.aux))

    def loss(self, out: DenseOutput, targets: Targets) -> dict[str, Tensor]:
        """The losses of the network, whose coarse scores keep all slices."""
        return self.net.loss(out, targets)

    def postprocess(
        self, out: DenseOutput, sizes: Sequence[Size], output_sizes: Sequence[Size] | None = None
    ) -> list[Any]:
        """As the network does it."""
        return self.net.postprocess(out, sizes, output_sizes)


BUILDERS: dict[str, Callable[[], Model]] = {
    "2D": partial(SliceBySlice, 0),
    "2.5D": partial(SliceBySlice, NEIGHBOURS),
    "3D": small_unet3d,
}


def run(
    *,
    seeds: Sequence[int],
    steps: int,
    scenes: int = 200,
    val_scenes: int = 30,
    keep: Path | None = None,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Train every network once for every seed, and score it on whole volumes.

    Args:
        seeds: one run per seed; a seed sets the initialisation, the patches and their flips.
        steps: optimiser steps of each network.
        scenes: number of volumes to train on.
        val_scenes: number of held-out volumes to score on.
        keep: a file of finished runs; those that are in it are not made again.
        report: function that is called with a line of text after every run.

    Returns:
        The settings, the paper's numbers, ``costs``: parameters and billions of multiply-adds for a patch of each
        variant; ``runs``: one dict per seed and ``variant`` with what training tells and the scores; and
        ``differences``: a list of ``a``, ``b`` and for each score the mean over the seeds of a minus b with the ends of
        its 95% t-interval (left out for a single seed).

    Raises:
        ValueError: without steps or volumes.
    """
    train, val = volumes_to_train_and_score(scenes, val_scenes)
    settings = {"volumes": scenes, "val_volumes": val_scenes, "steps": steps, "patch": list(PATCH), "batch_size": 2}
    runs = every_run(
        BUILDERS, partial(_train_and_score, train=train, val=val, steps=steps),
        key="variant", seeds=seeds, shown=("loss", "dice_organ", "dice_vessel", "dice_lesion"), report=report,
        keep=keep, settings=settings,
    )  # fmt: skip
    return {
        "data": "volumes", **settings, "neighbours": NEIGHBOURS, "paper": PAPER,
        "costs": {name: _costs(build()) for name, build in BUILDERS.items()},
        "runs": runs, "differences": [{"a": a, "b": b, **differences(runs, (a, b), SCORES)} for a, b in PAIRS],
    }  # fmt: skip


def _train_and_score(
    build: Callable[[], Model], seed: int, *, train: StoredCases, val: StoredCases, steps: int
) -> dict[str, Any]:
    model, intensity = seeded(build, seed), ct_intensity(train)
    facts = train_on_patches(model, train, steps=steps, seed=seed, intensity=intensity)
    return {"seed": seed, **facts, **score_volumes(model, val, intensity)}


def _costs(model: Model) -> dict[str, float]:
    """Parameters, and billions of multiply-adds of a forward pass of one patch."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 1, *PATCH))
    parameters = sum(p.numel() for p in model.parameters())
    return {"parameters": parameters, "multiply_adds": round(counter.get_total_flops() / 2e9, 3)}
