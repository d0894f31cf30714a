"""Which mistakes does each score notice? One class after the other is taken out of a trained model's answers.

A class that is never said is the same failure for a large class and for a small one. What it costs in pixel accuracy
follows the share of the pixels; what it costs in mIoU does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from seglib.book.experiments.semantic import scene_tensors, train_on_scenes
from seglib.data.scenes import CATEGORIES
from seglib.metrics.confusion import SemanticScores, confusion
from seglib.models.base import Model
from seglib.models.zoo import build


@torch.inference_mode()
def erase_classes(model: Model, images: Tensor, targets: Tensor, *, batch_size: int = 25) -> Tensor:
    """Confusion matrices of a model's answers, and of its answers when it may not say one of the classes.

    A pixel of the forbidden class takes the class with the second highest score, so nothing else changes.

    Args:
        model: any semantic model that follows the contract of the zoo.
        images: scenes ``(S, 3, H, W)`` in [0, 1].
        targets: true class ids ``(S, H, W)``, ints; 255 is void.
        batch_size: number of images predicted at once.

    Returns:
        ``(1 + K, S, K, K)`` int64 on the CPU: first the untouched answers, then class 0 forbidden, class 1, …
    """
    device = next(model.parameters()).device
    scenes = []
    for image, target in zip(images.split(batch_size), targets.split(batch_size), strict=True):
        probs = torch.stack([p.probs for p in model.predict(image.to(device))])  # (B, K, H, W)
        k = probs.shape[1]
        first, second = probs.topk(2, dim=1).indices.unbind(1)  # (B, H, W) each
        answers = torch.stack([first, *(torch.where(first == c, second, first) for c in range(k))], 1)  # (B, 1+K, H, W)
        for versions, truth in zip(answers, target.to(device).long(), strict=True):  # (1 + K, H, W) and (H, W)
            scenes.append(torch.stack([confusion(a, truth, k) for a in versions]).cpu())  # (1 + K, K, K)
    return torch.stack(scenes, 1)


def erasure_costs(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """What forbidding each class costs, in points (hundredths) of pixel accuracy and of mIoU.

    Args:
        matrices: confusion matrices ``(1 + K, K, K)``, sums over scenes of what ``erase_classes`` returns.

    Returns:
        Loss of accuracy ``(K,)`` and of mIoU ``(K,)``; positive is worse than the untouched answers.
    """
    scores = [SemanticScores.from_counts(m) for m in matrices]
    accuracy = torch.tensor([s.pixel_accuracy for s in scores])  # (1 + K,)
    miou = torch.tensor([s.miou for s in scores])
    return 100 * (accuracy[0] - accuracy[1:]), 100 * (miou[0] - miou[1:])


def run(
    *, seeds: Sequence[int], steps: int, scenes: int, report: Callable[[str], None], held_out: int = 200
) -> dict[str, Any]:
    """Train one ``fcn_tiny`` per seed and forbid its classes one by one, on the same held-out scenes.

    Args:
        seeds: one model per seed; a seed sets its initialisation and the order of the training scenes.
        steps: optimiser steps of each model, with 16 scenes a step.
        scenes: number of scenes to train on.
        report: called with a line of text after every model.
        held_out: number of scenes to score on.

    Returns:
        The class names, each class's share of the pixels, and one row per seed of pixel accuracy, mIoU, and of the
        costs of `erasure_costs`.
    """
    device, k = torch.device("cuda" if torch.cuda.is_available() else "cpu"), len(CATEGORIES)
    train = scene_tensors(scenes, "train", device=device)
    val = scene_tensors(held_out, "val")
    share = torch.bincount(val.labels.flatten().long(), minlength=256)[:k].double()
    data: dict[str, Any] = {
        "classes": [c.name for c in CATEGORIES],
        "share": _rounded(share / share.sum(), 6),
        "held_out": held_out,
    }
    rows: dict[str, list[Any]] = {"accuracy": [], "miou": [], "accuracy_cost": [], "miou_cost": []}
    for seed in seeds:
        torch.manual_seed(seed)
        model = build("fcn_tiny", num_classes=k).to(device)
        train_on_scenes(model, train, steps=steps, seed=seed)
        matrices = erase_classes(model, val.images.float() / 255, val.labels).sum(1)  # (1 + K, K, K)
        scores = SemanticScores.from_counts(matrices[0])
        report(f"seed {seed}: accuracy {scores.pixel_accuracy:.3f}, mIoU {scores.miou:.3f}")
        accuracy_cost, miou_cost = erasure_costs(matrices)
        rows["accuracy"].append(round(scores.pixel_accuracy, 4))
        rows["miou"].append(round(scores.miou, 4))
        rows["accuracy_cost"].append(_rounded(accuracy_cost))
        rows["miou_cost"].append(_rounded(miou_cost))
    return data | rows


def _rounded(values: Tensor, digits: int = 4) -> list[float]:
    return [round(v, digits) for v in values.tolist()]
