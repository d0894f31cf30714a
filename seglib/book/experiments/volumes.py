"""What the experiments on volumes share: training a small 3D U-Net on patches of synthetic volumes, and its scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from seglib.book.experiments.training import draw_batches, minimise, rounded, timed
from seglib.data.annotated_slices import AnnotatedSlices
from seglib.data.cases import StoredCases
from seglib.data.collate import collate
from seglib.data.patches import Patches
from seglib.data.volume_transforms import volume_transform
from seglib.data.volumes import CATEGORIES, Volumes
from seglib.metrics.volumes import VolumeMetrics
from seglib.models.base import Model
from seglib.models.unet3d import UNet3D, unet3d_tiny
from seglib.ops.intensity import Intensity, fit_ct
from seglib.train.sampling import SeededDataset

WIDTHS = (8, 16, 32, 48)
PATCH = (16, 64, 64)
LR = 4e-3


def small_unet3d() -> UNet3D:
    """``unet3d_tiny`` with two thirds of its channels, so that an experiment takes an hour."""
    return unet3d_tiny(len(CATEGORIES), widths=WIDTHS)


def ct_intensity(cases: StoredCases) -> Intensity:
    """The scaling of CT that the foreground of these cases gives, of the first 50."""
    return fit_ct(torch.cat([cases.foreground_values(i).flatten() for i in range(min(50, len(cases)))]))


def train_on_patches(
    model: Model,
    cases: StoredCases,
    *,
    steps: int,
    seed: int,
    batch_size: int = 2,
    patch: tuple[int, int, int] = PATCH,
    foreground: float = 1 / 3,
    intensity: Intensity,
) -> dict[str, Any]:
    """Train a model in place on random patches, flipped in the plane of the slices.

    Args:
        model: the network, initialised.
        cases: volumes to train on.
        steps: optimiser steps.
        seed: sets the order of the cases, the places of the patches and the flips.
        batch_size: patches per step.
        patch: size ``(d, h, w)`` of the patches.
        foreground: share of the patches that are centred on the foreground.
        intensity: how voxels are scaled.

    Returns:
        What :func:`~seglib.book.experiments.training.timed` tells, and ``curve``: the mean loss of each twentieth of
        the steps.
    """
    flips = volume_transform(
        rotation=0, scale=(1, 1), flips=(1, 2), noise=0, blur=0, brightness=0, gamma=(1, 1), probability=0
    )
    patches = SeededDataset(Patches(cases, patch, foreground=foreground, intensity=intensity, transform=flips), seed)
    picked, _ = draw_batches(len(cases), steps=steps, batch_size=batch_size, seed=seed)
    history: list[float] = []

    def loss_of(step: int) -> Tensor:
        keys = [(step * batch_size + k, int(index)) for k, index in enumerate(picked[step])]
        batch = collate([patches[key] for key in keys])
        return torch.stack(list(model.loss(model(batch.images), batch.targets).values())).sum()

    def train() -> list[float]:
        history.extend(minimise(model, loss_of, steps=steps, lr=LR))
        return history

    facts = timed(train)
    parts = torch.tensor(history).tensor_split(min(20, steps))
    return {**facts, "curve": [round(float(p.mean()), 4) for p in parts]}


@torch.inference_mode()
def score_volumes(model: Model, cases: StoredCases, intensity: Intensity) -> dict[str, Any]:
    """Dice, HD95 in mm and surface Dice at 1 mm of every class, each a mean over the cases; predicted whole."""
    metrics = VolumeMetrics(CATEGORIES)
    for i in range(len(cases)):
        sample = cases[i]
        assert sample.semantic is not None and sample.spacing is not None  # synthetic volumes have both
        labels = model(intensity(sample.image)[None]).logits[0].argmax(0)  # (D, H, W)
        metrics.update(labels, sample.semantic, sample.spacing)
    scores = metrics.compute()
    names = [c.name for c in CATEGORIES[1:]]
    found: dict[str, Any] = {"mean_dice": scores.mean_dice}
    for score in ("dice", "hd95", "nsd"):
        found |= {f"{score}_{n}": float(v) for n, v in zip(names, getattr(scores, score), strict=True)}
    return rounded(found)


def volumes_to_train_and_score(
    count: int, val_count: int, *, annotated: int | None = None
) -> tuple[StoredCases, StoredCases]:
    """Synthetic CTs in memory: to train on, perhaps with a few annotated slices only, and held-out ones.

    Raises:
        ValueError: without volumes.
    """
    if count < 1 or val_count < 1:
        raise ValueError(f"the numbers of volumes must be positive, got {count} and {val_count}")
    train: Any = Volumes(count, split="train")
    if annotated is not None:
        train = AnnotatedSlices(train, annotated)
    return StoredCases(train), StoredCases(Volumes(val_count, split="val"))


def seeded(build: Callable[[], Model], seed: int) -> Model:
    """A model whose initialisation depends on the seed alone."""
    torch.manual_seed(seed)
    return build()


SCORES: Sequence[str] = ("mean_dice", *(f"{s}_{c.name}" for s in ("dice", "hd95", "nsd") for c in CATEGORIES[1:]))
"""The scores that :func:`score_volumes` gives."""
