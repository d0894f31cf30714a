"""What does a network that has seen nothing but synthetic scenes make of real photos? ``sam_tiny`` on COCO's.

It is asked for every thing with clicks and boxes, and for everything at once; the same is done on synthetic scenes.
Things that are tiny at the size that the network sees are left out of both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seglib.book.experiments.prompts import few_prompts, intervals, objects_of, scenes_to_prompt, score_rows
from seglib.book.pretrained import stored_model
from seglib.data.catalog import build_dataset
from seglib.data.prompts import OnlyObjects
from seglib.models.sam import Sam
from seglib.ops.masks import mask_iou
from seglib.postprocess.everything import segment_everything
from seglib.train.sampling import Samples
from seglib.types import Sample

LEAST = 160
"""Pixels of the smallest things that count, in the network's square of 256 × 256: 32 × 32 in a photo of 640 pixels."""
RECALLS = {"recall50": 0.5, "recall75": 0.75}


def run(
    *,
    seeds: Sequence[int],
    steps: int,
    scenes: int = 50,
    root: Path | None = None,
    model: Sam | None = None,
    data: tuple[Samples, Samples] | None = None,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Ask for every thing of photos and of scenes, and for everything.

    Args:
        seeds: the first one is that of the bootstrap.
        steps: number of resamples of the bootstrap over images.
        scenes: number of test scenes, when ``data`` is not given.
        root: a folder with COCO's ``annotations/instances_val2017.json`` and ``val2017``, when ``data`` is not given.
        model: the model; the one with stored weights when not given.
        data: photos and scenes with instances.
        report: function that is called with a line of text for photos and for scenes.

    Returns:
        The settings, and for ``photos`` and ``scenes``: the number of ``images`` and of ``objects``, mean IoU after one
        and five clicks and with a box (``at_1``, ``at_5``, ``box``), the share of things that some mask of everything
        mode covers with an IoU of at least 0.5 and 0.75 (``recall50``, ``recall75``), each followed by the ends of its
        95% interval; and ``masks``, the mean number of masks that everything mode gives for an image.

    Raises:
        ValueError: without resamples, scenes, or photos, or when no weights are stored.
        FileNotFoundError: when ``root`` lacks a file.
    """
    if steps < 1:
        raise ValueError(f"steps is the number of resamples and must be positive, got {steps}")
    if data is None and root is None:
        raise ValueError("there are no photos; pass --root FOLDER with COCO's annotations and val2017")
    photos, drawn = data or (
        OnlyObjects(build_dataset("coco", root, "val", keep=("instances",))),
        scenes_to_prompt(scenes, "test"),
    )
    net = model or stored_model("sam_tiny")
    assert isinstance(net, Sam)
    net.eval()
    found: dict[str, Any] = {}
    for name, images in (("photos", photos), ("scenes", drawn)):
        chosen, covers, counts = [], [], []
        for i in range(len(images)):
            sample = images[i]
            chosen.append(_large_enough(net, sample))
            best, count = best_of_everything(net, sample)
            covers.append(torch.stack([best >= limit for limit in RECALLS.values()], 1)[chosen[-1]])  # (n, 2)
            counts.append(count)
        few = [ious[own] for ious, own in zip(few_prompts(net, images), chosen, strict=True)]
        recalls = intervals(covers, resamples=steps, seed=seeds[0])
        found[name] = {
            "images": len(images), **score_rows(few, resamples=steps, seed=seeds[0]),
            **dict(zip(RECALLS, recalls, strict=True)), "masks": round(sum(counts) / len(counts), 2),
        }  # fmt: skip
        if report is not None:
            told = ", ".join(f"{s} {found[name][s][0]:.3f}" for s in ("at_1", "at_5", "box", *RECALLS))
            report(f"{name}: {found[name]['objects']} objects, {told}, {found[name]['masks']} masks an image")
    return {"model": "sam_tiny", "resamples": steps, "least_area": LEAST, **found}


def best_of_everything(model: Sam, sample: Sample) -> tuple[Tensor, int]:
    """IoU of every object with the mask of everything mode that fits it best, ``(N,)``, and the number of masks."""
    masks = objects_of(sample).masks
    everything = segment_everything(model, sample.image, model.everything).instances
    if not len(everything):
        return torch.zeros(len(masks)), 0
    return mask_iou(masks, everything.masks).amax(1), len(everything)


def _large_enough(model: Sam, sample: Sample) -> Tensor:
    """Whether each object has :data:`LEAST` pixels at the size that the model sees, ``(N,)``."""
    masks = objects_of(sample).masks
    seen = model.geometry.model_size(tuple(masks.shape[1:]))
    share = seen[0] * seen[1] / (masks.shape[1] * masks.shape[2])
    return masks.flatten(1).sum(1) * share >= LEAST
