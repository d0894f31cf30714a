"""Do things and stuff on one pyramid hinder each other? ``panoptic_fpn_tiny`` against two networks, one for each.

The joint network has both branches on one encoder and one pyramid, with the loss weights of Kirillov et al.: 1 for
things, ½ for stuff. Each separate one is the same network trained with one branch alone; the outputs of the two are
merged as those of the joint network are. All start from the encoder of ``fcn_tiny``. With one seed all have the same
initialisation and see the same batches, for the same number of steps. Kirillov et al. (CVPR 2019, tables 2 and 3)
compare the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seglib.book.experiments.compare import every_run
from seglib.book.experiments.instances import image_metrics, on_trained_encoder, scene_batch, score_objects
from seglib.book.experiments.training import draw_batches, minimise, rounded, timed
from seglib.data.collate import collate
from seglib.data.scenes import CATEGORIES, Scenes
from seglib.metrics import ConfusionMatrix
from seglib.metrics.pq import PanopticQuality
from seglib.models.mask_rcnn import MaskRCNN
from seglib.models.panoptic_fpn import PanopticFPN, panoptic_fpn_tiny, semantic_to_stuff
from seglib.postprocess.panoptic import merge_panoptic
from seglib.types import Batch
from seglib.viz import interval95

NUM_THINGS = sum(c.isthing for c in CATEGORIES)
NUM_STUFF = len(CATEGORIES) - NUM_THINGS

Losses = Callable[[PanopticFPN, Batch], dict[str, Tensor]]


def both_losses(model: PanopticFPN, batch: Batch) -> dict[str, Tensor]:
    """The losses of the joint network."""
    return model.loss(model(batch.images, batch.targets), batch.targets)


def thing_losses(model: PanopticFPN, batch: Batch) -> dict[str, Tensor]:
    """The losses of Mask R-CNN alone; the semantic branch is not computed."""
    return MaskRCNN.loss(model, MaskRCNN.forward(model, batch.images, batch.targets), batch.targets)


def stuff_losses(model: PanopticFPN, batch: Batch) -> dict[str, Tensor]:
    """The loss of the semantic branch alone; Mask R-CNN is not computed."""
    assert batch.targets.semantic is not None  # scenes annotate it
    logits = model.semantic_head(model.pyramid(batch.images))  # (B, 1 + S, H/2, W/2)
    return {"semantic": model.semantic_weight * model.semantic_loss(logits, batch.targets.semantic)}


NETWORKS: dict[str, dict[str, Losses]] = {
    "joint": {"both": both_losses},
    "separate": {"things": thing_losses, "stuff": stuff_losses},
}
"""Name of a system → the networks that it trains, each with its losses."""

SCORES = ("ap", "ap50", "miou", "pq", "pq_things", "pq_stuff")
"""The scores whose differences are told."""

PAPER = {
    "ap": {"coco": [33.3, 33.9], "cityscapes": [32.7, 32.2]},
    "pq_things": {"coco": [45.9, 46.6], "cityscapes": [52.9, 51.3]},
    "pq": {"coco": [39.0, 39.2], "cityscapes": [57.7, 57.7]},
}
"""Joint and separate in the paper, ResNet-50: mask AP and PQ of things with λ_s = ½ and 0 (tables 2a and 2b), PQ of one
network and of two (tables 3a and 3b)."""


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
    """Train the joint network and the two separate ones once for every seed, and score them.

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
        The settings, the paper's numbers, ``runs``: one dict per seed and system with ``system``, ``seed``, for each of
        its networks the ``loss`` (mean of the last tenth of the steps) and ``seconds`` (CPU time of training), its
        number of ``parameters``, and the scores of `score`; and ``differences``: score → mean over the seeds of joint
        minus separate, and the ends of its 95% t-interval (left out for a single seed).

    Raises:
        ValueError: without steps or scenes.
    """
    if steps < 1 or scenes < 1 or val_scenes < 1:
        raise ValueError(f"steps and scenes must be positive, got {steps}, {scenes} and {val_scenes}")
    train, val = data or (Scenes(scenes, split="train"), Scenes(val_scenes, split="val"))
    settings = {"scenes": len(train), "val_scenes": len(val), "steps": steps, "batch_size": batch_size}
    runs = every_run(
        NETWORKS, partial(train_and_score, train=train, val=val, steps=steps, batch_size=batch_size),
        key="system", seeds=seeds, shown=SCORES, report=report, keep=keep, settings=settings,
    )  # fmt: skip
    return {
        "model": "panoptic_fpn_tiny", "data": "scenes", **settings,
        "paper": PAPER, "runs": runs, "differences": differences(runs),
    }  # fmt: skip


def differences(runs: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """Score → mean of joint minus separate over the seeds, lower and upper end of its 95% t-interval."""
    joint, separate = ([[r[s] for s in SCORES] for r in runs if r["system"] == name] for name in NETWORKS)
    mean, half = interval95(torch.tensor(joint) - torch.tensor(separate))  # (S,)
    ends = zip(mean, mean - half, mean + half, strict=True)
    return {s: [round(float(v), 5) for v in row if v == v] for s, row in zip(SCORES, ends, strict=True)}


def train_and_score(
    networks: dict[str, Losses], seed: int, *, train: Scenes, val: Scenes, steps: int, batch_size: int
) -> dict[str, Any]:
    """Train the networks of one system with one seed, and score what they find together."""
    build = on_trained_encoder(lambda: panoptic_fpn_tiny(NUM_THINGS, NUM_STUFF))
    models, facts = [], {}
    for name, losses in networks.items():
        torch.manual_seed(seed)
        model = build()
        torch.manual_seed(seed)  # of what the losses draw, whatever initialisation has drawn
        facts[name] = timed(partial(_train, model, losses, train, steps=steps, seed=seed, batch_size=batch_size))
        models.append(model)
    trained = [p for m in models for p in m.parameters() if p.grad is not None]  # a branch that is left out has none
    parameters = sum(p.numel() for p in trained)
    return {"seed": seed, "networks": facts, "parameters": parameters, **score(models[0], models[-1], val)}


def _train(model: PanopticFPN, losses: Losses, data: Scenes, *, steps: int, seed: int, batch_size: int) -> list[float]:
    picked, flips = draw_batches(len(data), steps=steps, batch_size=batch_size, seed=seed)

    def loss_of(step: int) -> Tensor:
        return torch.stack(list(losses(model, scene_batch(data, picked[step], flips[step])).values())).sum()

    return minimise(model, loss_of, steps=steps, lr=2e-3)


@torch.inference_mode()
def score(things: PanopticFPN, stuff: PanopticFPN, data: Scenes, *, batch_size: int = 20) -> dict[str, float]:
    """Scores of two networks' things and stuff, before and after the merge. One network may stand for both.

    Args:
        things: network whose detections are taken.
        stuff: network whose semantic branch is taken.
        data: scenes with all annotations.
        batch_size: scenes at once.

    Returns:
        Mask AP of the detections (``ap``, ``ap50`` and others of `instances.SCORES`); ``miou`` of the semantic branch
        over the stuff classes and the class of all things; ``pq``, ``pq_things``, ``pq_stuff`` after the merge.
    """
    quality, labels, objects = PanopticQuality(CATEGORIES), ConfusionMatrix(1 + NUM_STUFF), []
    for begin in range(0, len(data), batch_size):
        batch = collate([data[i] for i in range(begin, min(begin + batch_size, len(data)))])
        out = things(batch.images)
        found = things.things(out, batch.sizes)
        maps = stuff.stuff(out if stuff is things else stuff(batch.images), batch.sizes)
        assert batch.targets.semantic is not None and batch.targets.panoptic is not None  # scenes annotate all
        objects += image_metrics(found, batch.targets.instances or [])
        truth = semantic_to_stuff(batch.targets.semantic, NUM_THINGS)
        for i, target in enumerate(batch.targets.panoptic):
            # back from category ids, and 255 where a thing is seen, to the branch's own classes
            labels.update((maps[i] - (NUM_THINGS - 1)) * (maps[i] < len(CATEGORIES)), truth[i])
            quality.update(merge_panoptic(found[i], maps[i], things.merge, num_things=NUM_THINGS), target)
    pq = quality.compute()
    found_pq = {"pq": pq.pq, "pq_things": pq.things.pq, "pq_stuff": pq.stuff.pq}
    return score_objects(objects) | rounded({"miou": labels.compute().miou, **found_pq})
