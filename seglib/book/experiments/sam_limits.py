"""What does a promptable model do badly? The stored ``sam_tiny`` on thin things of scenes, and on slices of CTs.

A lamp post of as many pixels as a balloon is another task: its mask is all border. And synthetic CTs are images of
which training had none: grey, blurred, their vessels two pixels wide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from seglib.book.experiments.prompts import few_prompts, objects_of, scenes_to_prompt, score_rows
from seglib.book.experiments.slices import STRUCTURES, Slices, thickness
from seglib.book.pretrained import stored_model
from seglib.data.scenes import CATEGORIES
from seglib.models.sam import Sam
from seglib.train.sampling import Samples

THICKNESS = (0, 3, 6, 12, 24, 256)
"""Limits of the diameter of the largest disc inside an object, in pixels of scenes of 256 × 256."""
THINNESS = (0, 2, 4, 8, 256)
"""Limits of the area divided by the squared thickness: below 1 of a disc, 1 of a square, 20 of a line of 20 pixels."""
AREAS = (128, 2048)
"""The areas of the objects whose thinness is compared, so that it isn't their size."""


def run(
    *,
    seeds: Sequence[int],
    steps: int,
    scenes: int = 200,
    volumes: int = 40,
    model: Sam | None = None,
    data: tuple[Samples, Samples] | None = None,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Ask the stored model for every object of test scenes, and for the parts of organs in slices of test volumes.

    Args:
        seeds: the first one is that of the bootstrap.
        steps: number of resamples of the bootstrap over images.
        scenes: number of test scenes, when ``data`` is not given.
        volumes: number of test volumes, when ``data`` is not given.
        model: the model; the one with stored weights when not given.
        data: scenes and slices with instances.
        report: function that is called with a line of text for every class of objects.

    Returns:
        The settings, and rows of ``objects`` (their number), mean IoU after one and after five clicks and with a box
        (``at_1``, ``at_5``, ``box``), each followed by the ends of its 95% interval:

        - ``thickness``: by thickness of the things of scenes, with ``low`` and ``high``;
        - ``thinness``: the same by thinness, of things of a middle size;
        - ``things``: class of the scenes → its row, with the medians ``area`` and ``thick`` of its objects in pixels of
          256 × 256;
        - ``structures``: "organ", "vessel" or "lesion" → the same of slices, in pixels of 64 × 64.

    Raises:
        ValueError: without scenes, volumes or resamples, or when no weights are stored.
    """
    if steps < 1:
        raise ValueError(f"steps is the number of resamples and must be positive, got {steps}")
    things, slices = data or (scenes_to_prompt(scenes, "test"), Slices(volumes, "test"))
    net = model or stored_model("sam_tiny")
    assert isinstance(net, Sam)
    net.eval()

    def rows_of(images: Samples) -> tuple[Callable[[Tensor], dict[str, Any]], Tensor, Tensor, Tensor]:
        """What makes the row of chosen objects, and of all objects ``(N,)`` label, area and thickness."""
        few = few_prompts(net, images)
        objects = [objects_of(images[i]) for i in range(len(images))]
        areas = torch.cat([o.masks.flatten(1).sum(1) for o in objects])
        thick = torch.cat([thickness(o.masks) for o in objects])

        def row(chosen: Tensor) -> dict[str, Any]:
            parts = chosen.split([len(f) for f in few])
            medians = {"area": float(areas[chosen].median()), "thick": round(float(thick[chosen].median()), 2)}
            picked = [f[c] for f, c in zip(few, parts, strict=True)]
            return {**score_rows(picked, resamples=steps, seed=seeds[0]), **medians}

        return row, torch.cat([o.labels for o in objects]), areas, thick

    row, labels, areas, thick = rows_of(things)
    thin = areas / thick**2
    middle = (areas >= AREAS[0]) & (areas < AREAS[1])

    def binned(values: Tensor, limits: Sequence[int], among: Tensor) -> list[dict[str, Any]]:
        bins = [(low, high, among & (values >= low) & (values < high)) for low, high in zip(limits, limits[1:])]  # noqa: B905 (neighbours)
        return [{"low": low, "high": high, **row(chosen)} for low, high, chosen in bins if chosen.any()]

    found: dict[str, Any] = {
        "thickness": binned(thick, THICKNESS, torch.ones_like(middle)),
        "thinness": binned(thin, THINNESS, middle),
        "things": {c.name: row(labels == c.id) for c in CATEGORIES if (labels == c.id).any()},
    }
    row, labels, *_ = rows_of(slices)
    found["structures"] = {c.name: row(labels == c.id) for c in STRUCTURES if (labels == c.id).any()}
    if report is not None:
        for name, told in {**found["things"], **found["structures"]}.items():
            report(f"{name}: " + ", ".join(f"{s} {told[s][0]:.3f}" for s in ("at_1", "at_5", "box")))
    return {
        "model": "sam_tiny", "split": "test", "images": {"scenes": len(things), "slices": len(slices)},
        "resamples": steps, "middle_areas": list(AREAS), **found,
    }  # fmt: skip
