"""Should classes compete for a pixel? The mask head of ``mask_rcnn_tiny`` in three variants.

One mask for each class with a sigmoid of its own, of which only the true class's is trained (the paper's way); a
softmax over the classes and background in every pixel (the way of semantic segmentation); and a single mask for all
classes. He et al. (ICCV 2017, table 2b) report 30.3 mask AP for sigmoids and 24.8 for a softmax with ResNet-50-C4.

The rest of the detector is the stored one and stays as it is, so every variant draws in the same boxes with the same
classes and scores: what differs is the mask alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seglib.book.experiments.compare import only
from seglib.book.experiments.training import last_tenth
from seglib.book.pretrained import stored_model
from seglib.data.collate import collate
from seglib.data.scenes import CATEGORIES, Scenes
from seglib.layers.roi_heads import MaskHead
from seglib.layers.rpn import propose
from seglib.losses.two_stage import mask_loss, mask_targets
from seglib.metrics.ap import AveragePrecision
from seglib.models.instance import ObjectTable
from seglib.models.mask_rcnn import MaskRCNN
from seglib.models.two_stage import sample_rois
from seglib.ops.paste import MaskGrids
from seglib.train.optim import build_optimizer, lr_factor
from seglib.types import Batch, Instances

THINGS = [c for c in CATEGORIES if c.isthing]
K = len(THINGS)

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
Answer = Callable[[Tensor, Tensor], Tensor]


def _own(logits: Tensor, labels: Tensor) -> Tensor:
    """Of ``(N, C, M, M)`` the channel of each label."""
    return logits[torch.arange(len(labels)), labels]


def _softmax_loss(logits: Tensor, labels: Tensor, target: Tensor) -> Tensor:
    """Every pixel has one class: the object's inside its mask, background (the last) outside."""
    classes = torch.where(target > 0.5, labels[:, None, None], K)  # (N, M, M)
    return F.cross_entropy(logits, classes)


VARIANTS: dict[str, tuple[int, Loss, Answer]] = {
    "sigmoid per class": (
        K,
        lambda logits, labels, target: mask_loss(_own(logits, labels), target),
        lambda logits, labels: _own(logits, labels).sigmoid(),
    ),
    "softmax": (K + 1, _softmax_loss, lambda logits, labels: _own(logits.softmax(1), labels)),
    "one for all": (
        1,
        lambda logits, labels, target: mask_loss(logits[:, 0], target),
        lambda logits, labels: logits[:, 0].sigmoid(),
    ),
}
"""Name → channels of the head, the loss of logits ``(N, C, M, M)``, labels and targets, and the probabilities."""


def run(
    *,
    seeds: Sequence[int],
    steps: int,
    variants: Sequence[str] = tuple(VARIANTS),
    scenes: int = 1000,
    val_scenes: int = 200,
    batch_size: int = 8,
    detector: MaskRCNN | None = None,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Train a new mask head for every seed and variant on the stored detector, and score its masks.

    With one seed all variants see the same batches.

    Args:
        seeds: one run per seed; a seed sets the initialisation of the heads and the order of the scenes.
        steps: optimiser steps of each run.
        variants: names of the variants to train, out of :data:`VARIANTS`.
        scenes: number of scenes to train on.
        val_scenes: number of held-out scenes to score on.
        batch_size: scenes per step.
        detector: detector whose boxes, classes and features are used; the stored ``mask_rcnn_tiny`` by default.
        report: function that is called with a line of text after every run.

    Returns:
        The settings and ``runs``: one dict per run with ``variant``, ``seed``, ``loss`` (mean of the last tenth of the
        steps), and mask ``ap``, ``ap50`` and ``ap75``.

    Raises:
        ValueError: without steps or scenes, or for an unknown variant.
    """
    chosen = only(variants, VARIANTS)
    if steps < 1 or scenes < 1 or val_scenes < 1:
        raise ValueError(f"steps and scenes must be positive, got {steps}, {scenes} and {val_scenes}")
    model = detector or stored_model("mask_rcnn_tiny")
    assert isinstance(model, MaskRCNN)
    model.eval()
    train, val = Scenes(scenes, split="train"), Scenes(val_scenes, split="val")
    runs: list[dict[str, Any]] = []
    for seed in seeds:
        heads, losses = train_heads(model, chosen, train, seed=seed, steps=steps, batch_size=batch_size)
        for name, found in score_heads(model, chosen, heads, val).items():
            run = {"variant": name, "seed": seed, "loss": round(last_tenth(losses[name]), 5)}
            runs.append(run | {k: round(v, 5) for k, v in found.items()})
            if report is not None:
                report(f"seed {seed}, {name}: AP {found['ap']:.3f}, AP50 {found['ap50']:.3f}, AP75 {found['ap75']:.3f}")
    settings = {"model": "mask_rcnn_tiny", "data": "scenes", "scenes": scenes, "val_scenes": val_scenes}
    return {**settings, "steps": steps, "batch_size": batch_size, "variants": list(chosen), "runs": runs}


def train_heads(
    model: MaskRCNN,
    variants: dict[str, tuple[int, Loss, Answer]],
    data: Scenes,
    *,
    seed: int,
    steps: int,
    batch_size: int,
) -> tuple[dict[str, MaskHead], dict[str, list[float]]]:
    """One head for each variant, all trained in one pass over the same RoIs; and their losses."""
    heads: dict[str, MaskHead] = {}
    for name, (channels, _, _) in variants.items():
        torch.manual_seed(seed)
        width = model.mask_head.upsample.in_channels
        heads[name] = MaskHead(width, channels, hidden=width, depth=2)
    lr = 2e-3
    optimizers = {name: build_optimizer(head, lr=lr, weight_decay=1e-3) for name, head in heads.items()}
    order = torch.randint(len(data), (steps, batch_size), generator=torch.Generator().manual_seed(seed))
    losses: dict[str, list[float]] = {name: [] for name in variants}
    for step in range(steps):
        batch = collate([data[i] for i in order[step].tolist()])
        patches, labels, target = _foreground(model, batch)
        for name, (_, loss_of, _) in variants.items():
            for group in optimizers[name].param_groups:
                group["lr"] = lr * lr_factor(step, steps, warmup=min(20, steps // 5))
            loss = loss_of(heads[name](patches), labels, target)
            optimizers[name].zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(heads[name].parameters(), 5.0)
            optimizers[name].step()
            losses[name].append(loss.item())
    return heads, losses


@torch.no_grad()
def _foreground(model: MaskRCNN, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Patches ``(N, C, P, P)`` of the foreground RoIs, their labels, and their masks ``(N, 2P, 2P)``."""
    objects = batch.targets.instances or []
    size, r = (batch.images.shape[-2], batch.images.shape[-1]), model.rpn
    pyramid = model.pyramid(batch.images)
    anchors = model.anchors([level.shape[-2:] for level in pyramid], batch.images.device)
    logits, deltas = model.rpn_head(pyramid)
    scored = propose(
        logits,
        deltas,
        anchors,
        size,
        pre_nms_top_k=r.pre_nms_top_k_train,
        post_nms_top_k=r.post_nms_top_k_train,
    )
    rois, matches = sample_rois(*scored, objects, model.roi)
    image, slot = (matches >= 0).nonzero().unbind(1)  # (N,)
    boxes, match = rois[image, slot], matches[image, slot]
    table = ObjectTable.of(objects)
    masks = torch.cat([o.masks for o in objects])
    cells = 2 * model.roi.mask_size
    target = mask_targets(masks, table.first[image] + match, boxes, cells, aligned=True, binary=True)
    return model.pool(pyramid, boxes, image, model.roi.mask_size), table.matched(image, match)[1], target


@torch.no_grad()
def score_heads(
    model: MaskRCNN, variants: dict[str, tuple[int, Loss, Answer]], heads: dict[str, MaskHead], data: Scenes
) -> dict[str, dict[str, float]]:
    """Mask AP of every head in the detector's boxes."""
    metrics = {name: AveragePrecision(THINGS) for name in variants}
    for begin in range(0, len(data), 20):
        batch = collate([data[i] for i in range(begin, min(begin + 20, len(data)))])
        out, pyramid = model(batch.images, sizes=batch.sizes), model.pyramid(batch.images, batch.sizes)
        for i, truth in enumerate(batch.targets.instances or []):
            kept = out.scores[i] > 0
            boxes, labels, scores = out.boxes[i][kept], out.labels[i][kept], out.scores[i][kept]
            images = torch.full((len(boxes),), i)
            patches = model.pool(pyramid, boxes, images, model.roi.mask_size)
            for name, (_, _, answer) in variants.items():
                masks = MaskGrids(answer(heads[name](patches), labels), boxes, truth.size)
                metrics[name].update(Instances(masks, labels, boxes, scores), truth)
    found = {name: metric.compute() for name, metric in metrics.items()}
    return {name: {"ap": s.ap, "ap50": s.ap50, "ap75": s.ap75} for name, s in found.items()}
