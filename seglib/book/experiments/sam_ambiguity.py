"""One answer to a click, or three? ``sam_tiny`` trained on clicks that mean an object, its group or its whole class.

A click on a tree may ask for the tree, for the trees and houses that it touches, or for all trees. Training draws one
of the three meanings for each object; nothing in the click says which one. One network answers with one mask. The
other gives three and is trained on the best of them, as Kirillov et al. ("Segment Anything", section 3) do.

Both start from the stored weights of ``sam_tiny``, which know objects alone, and see the same scenes. They are compared
on the objects whose three meanings differ. The start is not quite the same: in the stored weights the three masks have
learned to answer first prompts, the single mask later ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seglib.book.experiments.compare import every_run
from seglib.book.experiments.prompts import SIZE, objects_of, scenes_to_prompt, starting_from, train_prompts
from seglib.book.experiments.queries import differences
from seglib.book.experiments.training import rounded
from seglib.book.pretrained import stored_model
from seglib.data.prompts import LEVELS, OnlyObjects, at_level
from seglib.data.scenes import Scenes
from seglib.models.sam import Sam
from seglib.ops.clicks import answer_iou, centre_points
from seglib.postprocess.prompt import Predictor
from seglib.types import Sample

VARIANTS = {"one mask": False, "three masks": True}
PAIR = ("three masks", "one mask")
SCORES: Sequence[str] = ("oracle", *(f"oracle_{level}" for level in LEVELS), "chosen", *LEVELS, "nearest", "unsure")

LR = 1e-3
"""Half the learning rate of the recipe: both go on from weights that are trained."""

PAPER = {"one mask": [54.9, 42.8, 76.7, 74.4], "three masks": [59.3, 45.5, 81.6, 86.9]}
"""Mask AR@1000 on LVIS of all, small, medium and large objects, with one and with three outputs (Kirillov et al. 2023,
table 4)."""


def run(
    *,
    seeds: Sequence[int],
    steps: int,
    scenes: int = 1000,
    val_scenes: int = 60,
    batch_size: int = 4,
    model: Sam | None = None,
    data: tuple[Scenes, Scenes] | None = None,
    keep: Path | None = None,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Train both networks once for every seed, and compare their answers to one click with all three meanings.

    Args:
        seeds: one run per seed; a seed sets the order of the scenes and the prompts of training.
        steps: optimiser steps of each network.
        scenes: number of scenes to train on, when ``data`` is not given.
        val_scenes: number of held-out scenes to score on, when ``data`` is not given.
        batch_size: scenes per step.
        model: where both start; the stored weights of ``sam_tiny`` when not given.
        data: training and held-out scenes with instances.
        keep: a file of finished runs; those that are in it are not made again.
        report: function that is called with a line of text after every run.

    Returns:
        The settings, the paper's numbers, the number of ``objects`` that are scored; ``runs``: one dict per seed and
        ``variant`` with what training tells and means over the objects:

        - ``oracle_object``, ``oracle_group``, ``oracle_class``: IoU of the best answer with each meaning, and
          ``oracle``, their mean;
        - ``object``, ``group``, ``class``: the same of the answer that the network itself expects to be best, and
          ``chosen``, their mean;
        - ``nearest``: IoU of that answer with the meaning that it fits best;
        - ``unsure``: share of the pixels with a probability in [0.2, 0.8] among those of that answer above 0.2;

        and ``differences``: for each score the mean over the seeds of three masks minus one mask with the ends of its
        95% t-interval (left out for a single seed).

    Raises:
        ValueError: without steps or scenes, or when no weights are stored.
    """
    if steps < 1:
        raise ValueError(f"steps must be positive, got {steps}")
    train, val = data or (scenes_to_prompt(scenes, "train", window=SIZE), scenes_to_prompt(val_scenes, "val"))
    settings = {"scenes": len(train), "val_scenes": len(val), "steps": steps, "batch_size": batch_size}
    samples = [ambiguous_objects(val[i]) for i in range(len(val))]
    start = model or stored_model("sam_tiny")
    assert isinstance(start, Sam)

    def train_and_score(ambiguous: bool, seed: int) -> dict[str, Any]:
        net, facts = train_prompts(
            starting_from(start, image_size=start.image_size, ambiguous=ambiguous), OnlyObjects(train, levels=LEVELS),
            steps=steps, seed=seed, batch_size=batch_size, lr=LR,
        )  # fmt: skip
        means = torch.cat([score_answers(net, *sample) for sample in samples]).mean(0).tolist()
        return {"seed": seed, **facts, **rounded(dict(zip(SCORES, means, strict=True)))}

    runs = every_run(
        VARIANTS, train_and_score, key="variant", seeds=seeds, shown=("loss", "oracle", "chosen", "nearest", "unsure"),
        report=report, keep=keep, settings=settings,
    )  # fmt: skip
    return {
        "model": "sam_tiny", "data": "scenes", "size": start.image_size, "lr": LR, **settings, "levels": list(LEVELS),
        "objects": sum(len(masks[0]) for _, masks in samples), "paper": PAPER, "runs": runs,
        "differences": differences(runs, PAIR, SCORES),
    }  # fmt: skip


Ambiguous = tuple[Sample, Tensor]
"""A sample, and the masks of its ambiguous objects at each level, bool ``(3, N, H, W)``."""


def ambiguous_objects(sample: Sample) -> Ambiguous:
    """The objects of a sample whose three meanings differ."""
    instances = objects_of(sample)
    masks = torch.stack([at_level(instances, level) for level in LEVELS])  # (3, n, H, W)
    areas = masks.flatten(2).sum(2)  # (3, n); an object lies in its group and in its class
    differ = (areas[0] < areas[1]) & (areas[0] < areas[2]) & (masks[1] != masks[2]).flatten(1).any(1)
    return sample, masks[:, differ]


def score_answers(model: Sam, sample: Sample, masks: Tensor) -> Tensor:
    """The :data:`SCORES` of the answers to a click into the middle of each object, ``(N, 10)``.

    Args:
        model: the network.
        sample: an image.
        masks: masks of N objects at each level, bool ``(3, N, H, W)``.
    """
    if not masks.shape[1]:
        return torch.zeros(0, len(SCORES))
    predictor = Predictor(model)
    predictor.set_image(sample.image)
    answers = predictor.predict(points=centre_points(masks[0])[:, None], several=model.ambiguous)
    fits = torch.stack([answer_iou(answers.masks, level) for level in masks], 2)  # (N, M, 3)
    best = answers.iou.argmax(1)  # (N,)
    chosen = fits[torch.arange(len(best)), best]  # (N, 3)
    oracle = fits.amax(1)  # (N, 3)
    answer = answers.logits[torch.arange(len(best)), best].sigmoid()  # (N, h, w)
    open_ = ((answer > 0.2) & (answer < 0.8)).flatten(1).sum(1)
    covered = (answer > 0.2).flatten(1).sum(1).clamp(min=1)
    columns = [oracle.mean(1), *oracle.unbind(1), chosen.mean(1), *chosen.unbind(1), chosen.amax(1), open_ / covered]
    return torch.stack(columns, 1)
