"""What the experiments on objects share: training on scenes, mask AP, and AP over images drawn with replacement."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from seglib.book.experiments.compare import every_run
from seglib.book.experiments.training import draw_batches, minimise, timed
from seglib.book.results import stored_file
from seglib.data.collate import collate
from seglib.data.scenes import CATEGORIES, Scenes
from seglib.data.transforms import Joint, Keep
from seglib.metrics import APScores, AveragePrecision
from seglib.models.base import Model
from seglib.types import Batch, Instances
from seglib.weights import load_encoder

THINGS = [c for c in CATEGORIES if c.isthing]
NUM_CLASSES = len(THINGS)
SCORES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ar100")
"""The scores that are stored."""

ModelT = TypeVar("ModelT", bound=Model)

_FLIP = Joint(v2.RandomHorizontalFlip(1.0))


def object_scenes(length: int, split: str, *, size: int = 128) -> Scenes:
    """The first ``length`` scenes of a split with their objects alone, drawn once and kept.

    Raises:
        ValueError: when ``length`` is not positive.
    """
    if length < 1:
        raise ValueError(f"length must be positive, got {length}; pass the number of scenes")
    return Scenes(length, split=split, size=size, transform=Keep("instances"))


def on_trained_encoder(build: Callable[[], ModelT]) -> Callable[[], ModelT]:
    """A builder whose models start from the encoder of ``fcn_tiny``, as the stored weights do."""

    def built() -> ModelT:
        model = build()
        load_encoder(model, stored_file("weights/fcn_tiny.safetensors"))
        return model

    return built


def train_on_objects(
    model: Model,
    data: Scenes,
    *,
    steps: int,
    seed: int,
    batch_size: int = 8,
    lr: float = 2e-3,
    weight_decay: float = 1e-3,
    warmup: int = 20,
) -> list[float]:
    """Train ``model`` in place with AdamW and the poly schedule; a horizontal flip is the only augmentation.

    The order of the scenes and the flips depend on ``seed`` alone, so models that differ see the same batches.

    Returns:
        The loss of every step.

    Raises:
        ValueError: when ``steps`` is not positive.
    """
    device = next(model.parameters()).device
    picked, flips = draw_batches(len(data), steps=steps, batch_size=batch_size, seed=seed)

    def loss_of(step: int) -> Tensor:
        batch = scene_batch(data, picked[step], flips[step]).to(device)
        return torch.stack(list(model.loss(model(batch.images), batch.targets).values())).sum()

    return minimise(model, loss_of, steps=steps, lr=lr, weight_decay=weight_decay, warmup=warmup)


def scene_batch(data: Scenes, picked: Tensor, flips: Tensor) -> Batch:
    """The scenes ``picked`` ``(B,)`` as a batch, flipped left to right where ``flips`` ``(B,)`` is true."""
    samples = (data[i] for i in picked.tolist())
    return collate([_FLIP(s) if flip else s for s, flip in zip(samples, flips.tolist(), strict=True)])


def image_metrics(found: Sequence[Instances], truth: Sequence[Instances]) -> list[AveragePrecision]:
    """A metric of each image; :func:`together` puts them together.

    Args:
        found: detections of each image.
        truth: true objects of each image.
    """
    metrics = []
    for detections, objects in zip(found, truth, strict=True):
        metrics.append(AveragePrecision(NUM_CLASSES))
        metrics[-1].update(detections.to("cpu"), objects.to("cpu"))
    return metrics


def together(metrics: Sequence[AveragePrecision]) -> APScores:
    """The scores of several images; one that occurs twice counts twice."""
    total = AveragePrecision(metrics[0].num_classes)
    for metric in metrics:
        total.merge(metric)
    return total.compute()


def score_objects(metrics: Sequence[AveragePrecision]) -> dict[str, float]:
    """`SCORES` of several images with five decimals; one that doesn't exist (no object of that size) is left out."""
    numbers = together(metrics).numbers
    return {name: round(numbers[name], 5) for name in SCORES if numbers[name] == numbers[name]}


@torch.inference_mode()
def detect_objects(model: Model, data: Scenes, *, batch_size: int = 20) -> list[AveragePrecision]:
    """A metric of every scene, with what ``model`` finds there."""
    device, metrics = next(model.parameters()).device, []
    for begin in range(0, len(data), batch_size):
        batch = collate([data[i] for i in range(begin, min(begin + batch_size, len(data)))])
        metrics += image_metrics(model.predict(batch.images.to(device)), batch.targets.instances or [])
    return metrics


def bootstrap(
    metrics: Mapping[str, Sequence[AveragePrecision]], resamples: int, seed: int, scores: Sequence[str] = SCORES[:3]
) -> dict[str, np.ndarray]:
    """Scores of several models over images drawn with replacement, the same draws for all.

    Args:
        metrics: name of a model → its metric of each of the n images.
        resamples: number of draws R of n images.
        seed: random seed of the draws.
        scores: names of the scores.

    Returns:
        Name of a model → its scores ``(R, S)``.
    """
    n = len(next(iter(metrics.values())))
    draws = np.random.default_rng(seed).integers(n, size=(resamples, n))
    found = {}
    for name, of_image in metrics.items():
        drawn = [together([of_image[i] for i in row]).numbers for row in draws]
        found[name] = np.array([[numbers[score] for score in scores] for numbers in drawn])
    return found


def differences(
    metrics: Mapping[str, Sequence[AveragePrecision]],
    pairs: Sequence[tuple[str, str]],
    *,
    resamples: int,
    seed: int,
    scores: Sequence[str] = SCORES[:3],
) -> list[dict[str, Any]]:
    """How much better one model is than another on the same images, and the middle 95% of a bootstrap over them.

    Args:
        metrics: name of a model → its metric of each image.
        pairs: names of the better and of the other model of each difference.
        resamples: number of draws.
        seed: random seed of the draws.
        scores: names of the scores.

    Returns:
        For each pair ``a``, ``b`` and score → [difference, lower end, upper end].
    """
    drawn = bootstrap(metrics, resamples, seed, scores)
    whole = {name: together(of_image).numbers for name, of_image in metrics.items()}
    rows = []
    for a, b in pairs:
        row: dict[str, Any] = {"a": a, "b": b}
        for column, score in enumerate(scores):
            ends = np.nanquantile(drawn[a][:, column] - drawn[b][:, column], [0.025, 0.975])
            row[score] = [round(float(v), 5) for v in (whole[a][score] - whole[b][score], *ends)]
        rows.append(row)
    return rows


def train_and_score(
    build: Callable[[], Model],
    train: Scenes,
    val: Scenes,
    *,
    seed: int,
    steps: int,
    batch_size: int,
    measure: Callable[[Model, Scenes], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """One run of an experiment: a fresh model, trained and scored.

    Args:
        build: makes the model; its initialisation depends on ``seed`` alone.
        train: scenes to train on.
        val: scenes to score on.
        seed: sets the model's initialisation and the order of the scenes.
        steps: optimiser steps.
        batch_size: scenes per step.
        measure: called with the trained model and ``val``; returns further results.

    Returns:
        ``seed``, ``parameters`` (their number), ``first_loss``, ``loss`` (mean of the last tenth of the steps),
        ``seconds`` (CPU time of training), `SCORES` and what ``measure`` gives.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(seed)
    model = build().to(device)
    torch.manual_seed(seed)  # of what the losses draw, whatever initialisation has drawn
    facts = timed(lambda: train_on_objects(model, train, steps=steps, seed=seed, batch_size=batch_size))
    found = score_objects(detect_objects(model, val)) | (measure(model, val) if measure else {})
    return {"seed": seed, "parameters": sum(p.numel() for p in model.parameters()), **facts, **found}


def compare_objects(
    builders: Mapping[Any, Callable[[], Model]],
    *,
    key: str,
    seeds: Sequence[int],
    steps: int,
    scenes: int,
    val_scenes: int = 100,
    batch_size: int = 8,
    data: tuple[Scenes, Scenes] | None = None,
    measure: Callable[[Model, Scenes], dict[str, Any]] | None = None,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Train every variant once for every seed, all from the encoder of ``fcn_tiny``, and score its masks.

    With one seed all variants see the same batches, so the differences within a seed are paired.

    Args:
        builders: value of ``key`` → makes that variant's model.
        key: what the variants differ in: the name of the entry in every run.
        seeds: one run per seed; a seed sets the initialisation of what isn't the encoder, and the order of the scenes.
        steps: optimiser steps of each run.
        scenes: number of scenes to train on, when ``data`` is not given.
        val_scenes: number of scenes to score on, when ``data`` is not given.
        batch_size: scenes per step.
        data: training and held-out scenes.
        measure: called with a trained model and the held-out scenes; returns further results, added to its run.
        report: function that is called with a line of text after every run.

    Returns:
        The settings, ``variants`` (the values of ``key``) and ``runs``: one dict per run with ``key`` and what
        `train_and_score` gives.

    Raises:
        ValueError: without steps or scenes.
    """
    train, val = data or (object_scenes(scenes, "train"), object_scenes(val_scenes, "val"))

    def run(build: Callable[[], Model], seed: int) -> dict[str, Any]:
        return train_and_score(
            on_trained_encoder(build), train, val, seed=seed, steps=steps, batch_size=batch_size, measure=measure
        )

    runs = every_run(builders, run, key=key, seeds=seeds, shown=SCORES[:3], report=report)
    settings = {"data": "scenes", "scenes": len(train), "val_scenes": len(val), "steps": steps}
    return {**settings, "batch_size": batch_size, "variants": list(builders), "runs": runs}
