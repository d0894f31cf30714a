"""What the experiments on queries share: training ``mask2former_tiny`` on scenes, and its scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from seglib.book.experiments.instances import image_metrics, on_trained_encoder, scene_batch, score_objects
from seglib.book.experiments.training import draw_batches, minimise, rounded, timed
from seglib.data.collate import collate
from seglib.data.scenes import CATEGORIES, Scenes
from seglib.metrics import ConfusionMatrix
from seglib.metrics.pq import PanopticQuality
from seglib.models.mask2former import Mask2Former
from seglib.types import Batch
from seglib.viz import interval95

NUM_THINGS = sum(c.isthing for c in CATEGORIES)
LR = 2e-3

Losses = Callable[[Mask2Former, Batch], dict[str, Tensor]]


def own_losses(model: Mask2Former, batch: Batch) -> dict[str, Tensor]:
    """The losses of the model itself."""
    return model.loss(model(batch.images), batch.targets)


def train_queries(
    build: Callable[[], Mask2Former],
    data: Scenes,
    *,
    steps: int,
    seed: int,
    batch_size: int,
    losses: Losses = own_losses,
) -> tuple[Mask2Former, dict[str, Any]]:
    """A model trained on scenes from the encoder of ``fcn_tiny``.

    Args:
        build: makes the model; its initialisation depends on ``seed`` alone.
        data: scenes to train on.
        steps: optimiser steps.
        seed: sets the initialisation, what the loss draws, and the order of the scenes and their flips.
        batch_size: scenes per step.
        losses: losses of a batch.

    Returns:
        The model, and ``curve``: the mean loss of each twentieth of the steps, beside what `timed` tells.
    """
    torch.manual_seed(seed)
    model = on_trained_encoder(build)()
    torch.manual_seed(seed)  # of what the losses draw, whatever initialisation has drawn
    picked, flips = draw_batches(len(data), steps=steps, batch_size=batch_size, seed=seed)
    history: list[float] = []

    def loss_of(step: int) -> Tensor:
        return torch.stack(list(losses(model, scene_batch(data, picked[step], flips[step])).values())).sum()

    def train() -> list[float]:
        history.extend(minimise(model, loss_of, steps=steps, lr=LR, weight_decay=1e-2))
        return history

    facts = timed(train)
    parts = torch.tensor(history).tensor_split(min(20, steps))
    return model, {**facts, "curve": [round(float(p.mean()), 4) for p in parts]}


@torch.inference_mode()
def score_panoptic(model: Mask2Former, data: Scenes, *, batch_size: int = 20) -> dict[str, float]:
    """PQ, mIoU and mask AP of one model trained for panoptic segmentation, from one forward pass of each scene."""
    quality, labels, objects = PanopticQuality(CATEGORIES), ConfusionMatrix(CATEGORIES), []
    for batch in batches(data, batch_size):
        out = model(batch.images)
        assert batch.targets.semantic is not None and batch.targets.panoptic is not None  # scenes annotate all
        for found, target in zip(model.panoptic(out, batch.sizes), batch.targets.panoptic, strict=True):
            quality.update(found, target)
        for classes, truth in zip(model.semantic(out, batch.sizes), batch.targets.semantic, strict=True):
            labels.update(classes.labels, truth)
        objects += image_metrics(model.instances(out, batch.sizes), batch.targets.instances or [])
    pq = quality.compute()
    found_pq = {"pq": pq.pq, "pq_things": pq.things.pq, "pq_stuff": pq.stuff.pq}
    return score_objects(objects) | rounded({"miou": labels.compute().miou, **found_pq})


def batches(data: Scenes, batch_size: int) -> list[Batch]:
    """All scenes, in order."""
    starts = range(0, len(data), batch_size)
    return [collate([data[i] for i in range(b, min(b + batch_size, len(data)))]) for b in starts]


def differences(runs: Sequence[dict[str, Any]], pair: tuple[str, str], scores: Sequence[str]) -> dict[str, list[float]]:
    """Score → mean over the seeds of one variant minus another, lower and upper end of its 95% t-interval.

    Args:
        runs: one dict per seed and ``variant``, with the scores.
        pair: names of the variants: the first minus the second.
        scores: names of the scores.
    """
    one, other = ([[r[s] for s in scores] for r in runs if r["variant"] == name] for name in pair)
    mean, half = interval95(torch.tensor(one) - torch.tensor(other))  # (S,)
    ends = zip(mean, mean - half, mean + half, strict=True)
    return {s: [round(float(v), 5) for v in row if v == v] for s, row in zip(scores, ends, strict=True)}
