"""What the experiments on scenes share: the data in memory, training on it, and the scores that tell blur."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from seglib.book.experiments.training import draw_batches, minimise, rounded, timed
from seglib.data.collate import collate
from seglib.data.scenes import CATEGORIES, Scenes
from seglib.data.transforms import Keep
from seglib.metrics.boundary import BoundaryIoU, boundary_f1
from seglib.metrics.confusion import ConfusionMatrix
from seglib.models.base import Model
from seglib.train.loop import OnStep
from seglib.types import Batch, Targets

THIN = ("person", "lamp", "bird")
"""The classes whose things are a few pixels wide."""


@dataclass(frozen=True)
class SceneTensors:
    """Many scenes as two tensors, on the device that trains.

    Attributes:
        images: images of the scenes, ``(N, 3, H, W)`` uint8.
        labels: class ids of the scenes, ``(N, H, W)`` uint8; 255 is void.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, picked: Tensor, flip: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Images ``(B, 3, H, W)`` in [0, 1] and labels ``(B, H, W)`` int64 of the scenes ``picked`` ``(B,)``.

        Args:
            picked: indices of the scenes, ``(B,)``.
            flip: whether each scene is flipped left to right, ``(B,)`` bool; ``None`` flips none.
        """
        images, labels = self.images[picked].float() / 255, self.labels[picked].long()
        if flip is not None:
            images = torch.where(flip[:, None, None, None], images.flip(-1), images)
            labels = torch.where(flip[:, None, None], labels.flip(-1), labels)
        return images, labels


def scene_tensors(length: int, split: str, *, size: int = 128, device: torch.device | str = "cpu") -> SceneTensors:
    """The first ``length`` scenes of a split; several hundred and more are drawn by all processors.

    Raises:
        ValueError: when ``length`` is not positive.
    """
    if length < 1:
        raise ValueError(f"length must be positive, got {length}; pass the number of scenes")
    workers = (os.cpu_count() or 1) if length >= 500 else 0
    # semantic labels alone: the other annotations would only be carried between processes
    dataset = Scenes(length, split=split, size=size, transform=Keep("semantic"), cache=False)
    loader: DataLoader[Batch] = DataLoader(dataset, 25, num_workers=workers, collate_fn=collate)  # type: ignore[arg-type]
    images, labels = [], []
    for batch in loader:
        images.append((batch.images * 255).round().to(torch.uint8))  # scenes hold exact multiples of 1/255
        labels.append(batch.targets.semantic.to(torch.uint8))
    return SceneTensors(torch.cat(images).to(device), torch.cat(labels).to(device))


def train_on_scenes(
    model: Model,
    data: SceneTensors,
    *,
    steps: int,
    seed: int,
    batch_size: int = 16,
    lr: float = 4e-3,
    weight_decay: float = 1e-3,
    warmup: int = 20,
    on_step: OnStep | None = None,
) -> list[float]:
    """Train ``model`` in place with AdamW and the poly schedule; a horizontal flip is the only augmentation.

    The order of the scenes depends on ``seed`` alone, so models that differ see the same batches.

    Returns:
        The loss of every step.

    Raises:
        ValueError: when ``steps`` is not positive.
    """
    drawn = draw_batches(len(data), steps=steps, batch_size=batch_size, seed=seed)
    picked, flips = (d.to(data.images.device) for d in drawn)

    def loss_of(step: int) -> Tensor:
        images, labels = data.batch(picked[step], flips[step])
        return torch.stack(list(model.loss(model(images), Targets(semantic=labels)).values())).sum()

    return minimise(model, loss_of, steps=steps, lr=lr, weight_decay=weight_decay, warmup=warmup, on_step=on_step)


@torch.inference_mode()
def predict_scenes(model: Model, data: SceneTensors, *, batch_size: int = 50) -> Tensor:
    """The labels that ``model`` predicts, ``(N, H, W)`` int64, on the data's device."""
    chunks = torch.arange(len(data), device=data.images.device).split(batch_size)
    return torch.cat([torch.stack([p.labels for p in model.predict(data.batch(i)[0])]) for i in chunks])


def score_scenes(predicted: Tensor, truth: Tensor) -> dict[str, Any]:
    """How good label maps are in general, along outlines, and on thin classes.

    Args:
        predicted: predicted class ids, ``(N, H, W)`` int64.
        truth: true class ids, ``(N, H, W)`` ints; 255 is void.

    Returns:
        ``pixel_accuracy``, ``miou``, ``boundary_iou`` and ``boundary_f1`` (means over classes; a band of 2% of the
        diagonal, a tolerance of 2 pixels), ``thin_iou`` (mean over `THIN`) and ``iou`` by class name, all in [0, 1].
    """
    matrix = ConfusionMatrix(CATEGORIES)
    matrix.update(predicted, truth)
    scores = matrix.compute()
    boundary = BoundaryIoU(CATEGORIES)
    boundary.update(predicted, truth)
    iou = {c.name: float(v) for c, v, seen in zip(CATEGORIES, scores.iou, scores.present, strict=True) if seen}
    thin = [iou[name] for name in THIN if name in iou]
    return {
        "pixel_accuracy": scores.pixel_accuracy,
        "miou": scores.miou,
        "boundary_iou": boundary.compute().miou,
        "boundary_f1": boundary_f1(predicted, truth, len(CATEGORIES)).mean_f1,
        "thin_iou": sum(thin) / len(thin) if thin else 0.0,
        "iou": iou,
    }


def load_scenes(train: int, val: int) -> tuple[SceneTensors, SceneTensors]:
    """Scenes to train on and held-out scenes to score on, on the GPU when there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return scene_tensors(train, "train", device=device), scene_tensors(val, "val", device=device)


def train_and_score(
    build: Callable[[], Model],
    train: SceneTensors,
    val: SceneTensors,
    *,
    seed: int,
    steps: int,
    batch_size: int,
    measure: Callable[[Model, SceneTensors], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """One run of an experiment: a fresh model, trained and scored.

    Args:
        build: makes the model; its initialisation depends on ``seed`` alone.
        train: scenes to train on.
        val: scenes to score on.
        seed: sets the model's initialisation and the order of the scenes.
        steps: optimiser steps.
        batch_size: scenes per step.
        measure: called with the trained model and ``val``; returns further scores.

    Returns:
        ``seed``, ``first_loss``, ``loss`` (mean of the last tenth of the steps), ``seconds`` (CPU time of training) and
        what `score_scenes` and ``measure`` give, rounded to five decimals.
    """
    torch.manual_seed(seed)
    model = build().to(train.images.device)
    facts = timed(lambda: train_on_scenes(model, train, steps=steps, seed=seed, batch_size=batch_size))
    scores = score_scenes(predict_scenes(model, val), val.labels) | (measure(model, val) if measure else {})
    return {"seed": seed} | facts | rounded(scores)
