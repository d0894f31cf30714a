"""What the experiments on prompts share: training ``sam_tiny``, asking for every object, and intervals over images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from seglib.book.experiments.training import rounded, timed
from seglib.data.scenes import CATEGORIES, Scenes
from seglib.data.transforms import Keep, Transform, train_transform
from seglib.models.sam import Sam, sam_tiny
from seglib.ops.clicks import noisy_boxes
from seglib.train import PromptTask, fit
from seglib.train.prompt_task import click_through
from seglib.train.recipes import recipe
from seglib.train.sampling import Samples
from seglib.types import Instances, Sample

SIZE = 256
"""Side of the scenes that ``sam_tiny`` is asked about, in pixels."""

WINDOW = 96
"""Side of the windows of scenes that it is trained on first, in pixels: of a whole scene most is no object."""

SCORES = ("at_1", "at_5", "box")
"""Mean IoU after one click and after five, and with a box alone."""


def scenes_to_prompt(length: int, split: str, *, window: int | None = None, size: int = SIZE) -> Scenes:
    """The first ``length`` scenes of a split with their objects alone.

    Args:
        length: number of scenes.
        split: "train", "val" or "test".
        window: side of what is cut out at random to train on, in pixels, flipped and recoloured at random; the whole
            scenes as they are when not given.
        size: side of the scenes in pixels.

    Raises:
        ValueError: when ``length`` is not positive.
    """
    if length < 1:
        raise ValueError(f"length must be positive, got {length}; pass the number of scenes")
    keep: Transform = Keep("instances")
    if window is not None:
        keep = train_transform(window, scale=(1, 1), color=0.2, keep=("instances",))
    return Scenes(length, split=split, size=size, transform=keep)


def train_prompts(
    build: Callable[[], Sam], data: Samples, *, steps: int, seed: int, batch_size: int, lr: float | None = None
) -> tuple[Sam, dict[str, Any]]:
    """A model trained by the interactive loop.

    Args:
        build: makes the model; its initialisation depends on ``seed`` alone.
        data: images with the objects to ask for.
        steps: optimiser steps.
        seed: sets the initialisation, the order of the images, their augmentation and the simulated prompts.
        batch_size: images per step.
        lr: learning rate, where it is not that of the recipe.

    Returns:
        The model, and ``curve``: the mean loss of each twentieth of the steps, beside what
        :func:`~seglib.book.experiments.training.timed` tells.

    Raises:
        ValueError: without steps.
    """
    torch.manual_seed(seed)
    model, usual = build(), recipe("sam_tiny")
    config = replace(usual, steps=steps, batch_size=batch_size, lr=lr or usual.lr, seed=seed)
    history: list[float] = []

    def train() -> list[float]:
        history.extend(fit(model, data, task=PromptTask(CATEGORIES), config=config).losses.values())
        return history

    facts = timed(train)
    parts = torch.tensor(history).tensor_split(min(20, steps))
    return model, {**facts, "curve": [round(float(p.mean()), 4) for p in parts]}


def starting_from(start: Sam, **arguments: Any) -> Callable[[], Sam]:
    """A builder of ``sam_tiny`` whose models start from the weights of ``start``.

    Args:
        start: a ``sam_tiny``, for images of any size.
        arguments: arguments of the builder.
    """

    def built() -> Sam:
        model = sam_tiny(**arguments)
        model.load_state_dict(start.state_dict())
        return model

    return built


def objects_of(sample: Sample) -> Instances:
    """The objects of a sample that a prompt can ask for."""
    assert sample.instances is not None  # the datasets of these experiments have them
    return sample.instances


@torch.inference_mode()
def ask(
    model: Sam,
    sample: Sample,
    *,
    clicks: int,
    first: Literal["point", "box", "noisy box"] = "point",
    where: Literal["centre", "random"] = "centre",
    pass_mask: bool = True,
) -> tuple[Tensor, Tensor]:
    """IoU of every object of a sample after each prompt, ``(N, clicks)``, and of the best first answer, ``(N,)``.

    Args:
        model: in evaluation mode.
        sample: an image with instances.
        clicks: number of prompts, a box being the first.
        first: first prompt of each object.
        where: what pixel of the errors is clicked, of the object at first.
        pass_mask: whether the last mask is a prompt beside the clicks.
    """
    objects, image = objects_of(sample), model.geometry(sample.image)
    boxes = None if first == "point" else objects.boxes
    if first == "noisy box":
        boxes = noisy_boxes(objects.boxes, objects.size)
    return click_through(
        model, model.encode(image[None]), objects.masks, tuple(image.shape[1:]), clicks=clicks, boxes=boxes,
        where=where, pass_mask=pass_mask,
    )  # fmt: skip


def few_prompts(model: Sam, data: Samples) -> list[Tensor]:
    """IoU of every object with each prompt of :data:`SCORES`, ``(n, 3)`` for each image."""
    found = []
    for i in range(len(data)):
        points, boxes = ask(model, data[i], clicks=5)[0], ask(model, data[i], clicks=1, first="box")[0]
        found.append(torch.cat([points[:, [0, 4]], boxes], 1))
    return found


def mean_scores(ious: Tensor, name: str = "") -> dict[str, float]:
    """The means of :data:`SCORES` over objects ``(N, 3)``, under the names with ``name`` before them."""
    return rounded({name + s: float(v) for s, v in zip(SCORES, ious.mean(0), strict=True)})


def intervals(values: Sequence[Tensor], *, resamples: int, seed: int) -> list[list[float]]:
    """Mean over all objects, and the middle 95% of a bootstrap over images, whose objects stay together.

    Args:
        values: K numbers of each object, for each image ``(n, K)``. With the same number of images and the same seed
            the bootstrap draws the same images.
        resamples: number of draws.
        seed: random seed of the draws.

    Returns:
        For each of the K columns the mean, the lower and the upper end.
    """
    sums = torch.stack([v.double().sum(0) for v in values])  # (S, K)
    counts = torch.tensor([len(v) for v in values], dtype=torch.float64)  # (S,)
    draw = torch.Generator().manual_seed(seed)
    picked = torch.randint(len(values), (resamples, len(values)), generator=draw)  # (R, S)
    drawn = sums[picked].sum(1) / counts[picked].sum(1, keepdim=True)  # (R, K); nan where no object was drawn
    ends = drawn.nanquantile(torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)  # (2, K)
    rows = torch.cat([(sums.sum(0) / counts.sum())[None], ends]).T  # (K, 3)
    return [[round(float(v), 5) for v in row] for row in rows]


def score_rows(values: Sequence[Tensor], *, resamples: int, seed: int) -> dict[str, Any]:
    """The number of ``objects``, and each of :data:`SCORES` as the mean and the ends of its interval.

    Args:
        values: IoU of the objects of each image, ``(n, 3)``.
        resamples: number of draws of the bootstrap.
        seed: random seed of the draws.
    """
    rows = intervals(values, resamples=resamples, seed=seed)
    return {"objects": sum(map(len, values)), **dict(zip(SCORES, rows, strict=True))}
