"""What does rarity do to a loss? Specks that hold 10%, 1% and 0.1% of the pixels, one small network, several losses.

================  ================================================================================
ce                cross-entropy
ce, 4 × steps     the same, trained four times as long
weighted ce       cross-entropy, each class weighted by 1 / its share of the pixels
focal             focal loss, γ = 2
dice              1 − soft Dice
lovasz            Lovász-softmax
ce+dice           the sum of both
================  ================================================================================

Each run is scored at threshold 0.5 and at the threshold that is best on other images; the reliability of its
probabilities is stored beside the scores.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from seglib.book.experiments.compare import only
from seglib.book.experiments.losses_specks import (
    SpeckNet,
    best_threshold,
    reliability,
    speck_probabilities,
    speck_scores,
    specks,
)
from seglib.book.experiments.semantic import train_on_scenes
from seglib.book.experiments.training import rounded
from seglib.losses import cross_entropy, cross_entropy_dice, dice_loss, focal_loss, lovasz_softmax

Criterion = Callable[[Tensor, Tensor], Tensor]

SHARES = (0.1, 0.01, 0.001)
"""Expected shares of speck pixels."""


def by_share(share: float) -> Tensor:
    """Class weights 1 / share of the class, ``(2,)``, scaled to a mean of 1 over the pixels."""
    return torch.tensor([1 / share, 1 / (1 - share)]) / 2


def _plain(criterion: Criterion, steps: int = 1) -> Callable[[float], tuple[Criterion, int]]:
    return lambda share: (criterion, steps)


VARIANTS: dict[str, Callable[[float], tuple[Criterion, int]]] = {
    "ce": _plain(cross_entropy),
    "ce, 4 × steps": _plain(cross_entropy, 4),
    "weighted ce": lambda share: (partial(cross_entropy, weight=by_share(share)), 1),
    "focal": _plain(focal_loss),
    "dice": _plain(dice_loss),
    "lovasz": _plain(lovasz_softmax),
    "ce+dice": _plain(cross_entropy_dice),
}
"""Name → the loss for a share of specks, and how many times the steps it gets."""


def run(
    *,
    seeds: Sequence[int],
    steps: int,
    variants: Sequence[str] = tuple(VARIANTS),
    shares: Sequence[float] = SHARES,
    scenes: int = 2000,
    val_scenes: int = 1000,
    batch_size: int = 16,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Train every variant at every share once for every seed, and score it on held-out images.

    A seed sets the images, the network's initialisation and the order of the batches; they are the same for all
    losses.

    Args:
        seeds: one run per seed; a seed sets the images, the network's initialisation and the order of the batches.
        steps: optimiser steps of each run.
        variants: names in `VARIANTS`.
        shares: expected shares of speck pixels, each above 0 and below 1.
        scenes: number of images to train on.
        val_scenes: number of images to score on; as many others choose the threshold.
        batch_size: images per step.
        report: called with a line of text after every run.

    Returns:
        The settings and ``runs``: one dict per run with ``share``, ``variant``, ``seed``, ``loss`` (of the last step),
        ``seconds`` (CPU), the scores at 0.5, ``tuned`` (``threshold`` and the scores there) and ``reliability``.

    Raises:
        ValueError: without steps or images, for a share out of range or an unknown variant.
    """
    chosen = only(variants, VARIANTS)
    runs: list[dict[str, Any]] = []
    for seed in seeds:
        for share in shares:
            train, tune, test = (
                specks(n, share, 3 * seed + part) for part, n in enumerate((scenes, val_scenes, val_scenes))
            )
            for name, make in chosen.items():
                criterion, times = make(share)
                torch.manual_seed(seed)
                model = SpeckNet()
                model.criterion = criterion
                started = time.process_time()
                losses = train_on_scenes(model, train, steps=times * steps, seed=seed, batch_size=batch_size)
                seconds = time.process_time() - started
                found = {"share": share, "variant": name, "seed": seed, "loss": losses[-1], "seconds": seconds}
                runs.append(rounded(found | _scored(model, tune, test)))
                if report is not None:
                    scores = ", ".join(f"{key} {runs[-1][key]:.3f}" for key in ("recall", "precision", "iou"))
                    report(f"seed {seed}, share {share}, {name}: {scores}, {seconds:.0f} s")
    settings = {"model": "SpeckNet", "data": "specks", "scenes": scenes, "val_scenes": val_scenes, "steps": steps}
    return {**settings, "batch_size": batch_size, "shares": list(shares), "variants": list(chosen), "runs": runs}


def _scored(model: SpeckNet, tune: Any, test: Any) -> dict[str, Any]:
    """Scores at 0.5 and at the threshold that is best on ``tune``, and the reliability."""
    p = speck_probabilities(model, test)  # (N, H, W)
    threshold = best_threshold(speck_probabilities(model, tune), tune.labels)
    tuned = {"threshold": threshold} | speck_scores(p, test.labels, threshold=threshold)
    return speck_scores(p, test.labels) | {"tuned": tuned, "reliability": reliability(p, test.labels)}
