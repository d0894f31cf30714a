"""What does each rule of the merge bring? The stored ``panoptic_fpn_tiny``, with its rules switched off in turn.

The network sees every scene once. All variants merge the same detections and the same map of stuff, so what differs is
the merge alone. Differences in PQ come with a bootstrap over the scenes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from seglib.book.experiments.panoptic import compare_pq, image_counts, pq_of_sums
from seglib.book.pretrained import stored_model
from seglib.data.scenes import CATEGORIES, Scenes
from seglib.models.panoptic_fpn import PanopticFPN
from seglib.postprocess.panoptic import MergeSettings, merge_panoptic
from seglib.types import VOID, Instances

NUM_THINGS = sum(c.isthing for c in CATEGORIES)

Change = Callable[[Instances, Tensor, MergeSettings], Instances]


def unchanged(things: Instances, stuff: Tensor, settings: MergeSettings) -> Instances:
    """The detections as they are."""
    return things


def random_order(things: Instances, stuff: Tensor, settings: MergeSettings) -> Instances:
    """The detections whose score reaches the threshold, with random scores above it. Draws from torch's generator."""
    assert things.scores is not None  # predictions have scores
    kept = things[things.scores >= settings.score_threshold]
    return kept.replace(scores=settings.score_threshold + torch.rand(len(kept)) * (1 - settings.score_threshold))


def stuff_first(things: Instances, stuff: Tensor, settings: MergeSettings) -> Instances:
    """The detections without the pixels that the semantic branch calls stuff."""
    return things.replace(masks=things.masks & (stuff == VOID))


RULES: dict[str, tuple[Change, dict[str, Any]]] = {
    "paper's rules": (unchanged, {}),
    "random order": (random_order, {}),
    "no score threshold": (unchanged, {"score_threshold": 0.0}),
    "no overlap rule": (unchanged, {"overlap_threshold": 1.0}),
    "no stuff limit": (unchanged, {"stuff_area_limit": 0}),
    "stuff limit 4096": (unchanged, {"stuff_area_limit": 4096}),
    "stuff first": (stuff_first, {}),
}
"""Name → what happens to the detections before the merge, and the thresholds that differ from the model's. The first
one is what all are compared with."""

SWEEPS: dict[str, tuple[float, ...]] = {
    "score_threshold": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    "overlap_threshold": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
    "stuff_area_limit": (0, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096),
}
"""Threshold → the values that are tried, with the others as the model has them."""


def run(
    *,
    seeds: Sequence[int],
    steps: int,
    scenes: int = 200,
    sweeps: Mapping[str, Sequence[float]] = SWEEPS,
    model: PanopticFPN | None = None,
    data: Scenes | None = None,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Score every variant of the merge on test scenes.

    Args:
        seeds: the first one is that of the random order and of the bootstrap.
        steps: number of resamples of the bootstrap.
        scenes: number of test scenes, when ``data`` is not given.
        sweeps: threshold → the values to try.
        model: network whose outputs are merged; the stored ``panoptic_fpn_tiny`` by default.
        data: scenes with panoptic annotations.
        report: function that is called with a line of text for every variant.

    Returns:
        The settings, ``merge`` (the model's own thresholds), ``rules``: for each of `RULES` the row of
        `panoptic.compare_pq` and ``void``, the share of the pixels that are in no segment; and ``sweeps``: threshold →
        such rows, with ``value``.

    Raises:
        ValueError: without scenes or resamples, or when no weights are stored.
    """
    if steps < 1 or scenes < 1:
        raise ValueError(f"steps and scenes must be positive, got {steps} and {scenes}")
    found = model or stored_model("panoptic_fpn_tiny")
    assert isinstance(found, PanopticFPN)
    test = data or Scenes(scenes, split="test")
    variants = RULES | {
        f"{name} {value}": (unchanged, {name: value}) for name, values in sweeps.items() for value in values
    }
    torch.manual_seed(seeds[0])
    counts, void = merge_all(found.eval(), test, variants)
    rows = compare_pq(
        {name: (of_images, pq_of_sums) for name, of_images in counts.items()},
        num_things=NUM_THINGS, resamples=steps, seed=seeds[0], report=report,
    )  # fmt: skip
    by_name = {row["name"]: row | {"void": round(void[row["name"]], 5)} for row in rows}
    return {
        "model": "panoptic_fpn_tiny", "data": "scenes", "split": "test", "images": len(test), "resamples": steps,
        "merge": vars(found.merge),
        "rules": [by_name[name] for name in RULES],
        "sweeps": {
            name: [{"value": value, **by_name[f"{name} {value}"]} for value in values]
            for name, values in sweeps.items()
        },
    }  # fmt: skip


@torch.inference_mode()
def merge_all(
    model: PanopticFPN, data: Scenes, variants: Mapping[str, tuple[Change, dict[str, Any]]]
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """One forward pass a scene, merged in every variant.

    Returns:
        Name → counts of the images ``(n, 4, K)``, and name → share of the pixels that are void in the predictions.
    """
    counts: dict[str, list[Tensor]] = {name: [] for name in variants}
    void = dict.fromkeys(variants, 0.0)
    for i in range(len(data)):
        sample = data[i]
        assert sample.panoptic is not None  # scenes annotate all
        out, size = model(sample.image[None]), [data.size]
        (things,), (stuff,) = model.things(out, size), model.stuff(out, size)
        for name, (change, thresholds) in variants.items():
            settings = replace(model.merge, **thresholds)
            merged = merge_panoptic(change(things, stuff, settings), stuff, settings, num_things=NUM_THINGS)
            counts[name].append(image_counts(merged, sample.panoptic, CATEGORIES))
            void[name] += float((merged.map == 0).double().mean()) / len(data)
    return {name: torch.stack(of_images) for name, of_images in counts.items()}, void
