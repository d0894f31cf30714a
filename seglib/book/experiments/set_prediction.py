"""What does each part of set prediction bring? A small network finds marbles, with one change at a time.

==========================  ============================================================================================
one to one                  Hungarian matching, "no object" weighs 0.1, the class loss is divided by the sum of weights
every query its best        no one-to-one matching: each query trains for the object that costs it least
no object weighs 1          "no object" weighs as much as a class
divided by queries          the class loss is divided by the number of queries
no positions                pixels don't know where they lie
void left out               one half of each marble is not annotated, and counts nowhere
void as background          one half of each marble is not annotated, and trains as background
==========================  ============================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seglib.book.experiments.compare import every_run, only
from seglib.book.experiments.set_marbles import (
    MarbleNet,
    Marbles,
    best_object,
    marble_loss,
    marbles,
    set_scores,
)
from seglib.book.experiments.training import draw_batches, minimise, rounded, timed

VARIANTS: dict[str, dict[str, Any]] = {
    "one to one": {},
    "every query its best": {"matcher": best_object},
    "no object weighs 1": {"no_object_weight": 1.0},
    "divided by queries": {"by_weights": False},
    "no positions": {"positions": False},
    "void left out": {"void": "ignored"},
    "void as background": {"void": "background"},
}
"""Name → what differs."""
LR = 6e-3


def run(
    *,
    seeds: Sequence[int],
    steps: int,
    variants: Sequence[str] = tuple(VARIANTS),
    scenes: int = 1000,
    val_scenes: int = 1000,
    batch_size: int = 8,
    keep: Path | None = None,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Train every variant once for every seed, and score its sets on held-out images.

    Args:
        seeds: one run per seed; a seed sets the images, the network's initialisation and the order of the batches.
        steps: optimiser steps of each run.
        variants: names in `VARIANTS`.
        scenes: number of images to train on.
        val_scenes: number of images to score on.
        batch_size: images per step.
        keep: a file of finished runs; those that are in it are not made again.
        report: function that is called with a line of text after every run.

    Returns:
        The settings and ``runs``: one dict per run with ``variant``, ``seed``, ``first_loss``, ``loss``, ``seconds``
        (CPU) and the scores of :func:`~seglib.book.experiments.set_marbles.set_scores`.

    Raises:
        ValueError: without steps or images, or for an unknown variant.
    """
    settings: dict[str, Any] = {"scenes": scenes, "val_scenes": val_scenes, "steps": steps, "batch_size": batch_size}
    runs = every_run(
        only(variants, VARIANTS), partial(_train_and_score, **settings), key="variant", seeds=seeds,
        shown=("found", "claims", "exact"), report=report, keep=keep, settings=settings,
    )  # fmt: skip
    return {"model": "MarbleNet", "data": "marbles", **settings, "variants": list(variants), "runs": runs}


@lru_cache(maxsize=2)
def _data(count: int, seed: int) -> Marbles:
    return marbles(count, seed)


def _train_and_score(
    changes: Mapping[str, Any], seed: int, *, scenes: int, val_scenes: int, steps: int, batch_size: int
) -> dict[str, Any]:
    train, val = _data(scenes, 2 * seed), _data(val_scenes, 2 * seed + 1)
    picked, _ = draw_batches(scenes, steps=steps, batch_size=batch_size, seed=seed)
    of_loss = {name: value for name, value in changes.items() if name != "positions"}
    torch.manual_seed(seed)
    net = MarbleNet(positions=changes.get("positions", True))

    def loss_of(step: int) -> Tensor:
        class_logits, mask_logits = net(train.images[picked[step]])
        return marble_loss(class_logits, mask_logits, train, picked[step], **of_loss)

    told = timed(lambda: minimise(net, loss_of, steps=steps, lr=LR))
    with torch.inference_mode():
        class_logits, mask_logits = net(val.images)
    return {"seed": seed, **told, **rounded(set_scores(class_logits, mask_logits, val))}
