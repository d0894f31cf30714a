"""One network for three tasks beside a network for each: ``mask2former_tiny`` and the specialists' stored weights.

All see the same test scenes. Each score's difference comes with a bootstrap over the scenes, which are drawn alike for
both networks. The semantic specialists were trained for 3,000 steps of 16 scenes, all others for 4,000 of eight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seglib.book.experiments.instances import differences as ap_differences
from seglib.book.experiments.instances import image_metrics, together
from seglib.book.experiments.panoptic import compare_pq, image_counts, pq_of_sums
from seglib.book.experiments.queries import NUM_THINGS, batches
from seglib.book.pretrained import stored_model
from seglib.data.scenes import CATEGORIES, Scenes
from seglib.metrics import AveragePrecision, SemanticScores
from seglib.metrics.confusion import confusion
from seglib.models.base import Model
from seglib.models.mask2former import Mask2Former
from seglib.types import Batch

NAME = "mask2former_tiny"
SPECIALISTS = {
    "semantic": ("fcn_tiny", "unet_tiny", "deeplab_tiny"),
    "instance": ("mask_rcnn_tiny", "yolact_tiny", "condinst_tiny", "solov2_tiny"),
    "panoptic": ("panoptic_fpn_tiny",),
}
"""Name of a task → the systems with stored weights that do nothing else."""

SCORES = {"semantic": "miou", "instance": "ap", "panoptic": "pq"}


def run(
    *,
    seeds: Sequence[int],
    steps: int,
    scenes: int = 200,
    models: Mapping[str, Model] | None = None,
    data: Scenes | None = None,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Score all systems on test scenes.

    Args:
        seeds: the first one is that of the bootstrap.
        steps: number of resamples of the bootstrap.
        scenes: number of test scenes, when ``data`` is not given.
        models: name of a system → its model; those with stored weights when not given.
        data: scenes with all annotations.
        report: function that is called with a line of text for every system.

    Returns:
        The settings, and ``tasks``: task → ``score`` (the name of its score) and ``systems``, one row each, that of
        ``mask2former_tiny`` first: ``system``, ``value`` in [0, 1], ``parameters``, and for the others ``points``: how
        many points (hundredths) Mask2Former is better, and the middle 95% of the bootstrap.

    Raises:
        ValueError: without scenes or resamples, or when weights are not stored.
    """
    if steps < 1 or scenes < 1:
        raise ValueError(f"steps and scenes must be positive, got {steps} and {scenes}")
    test = data or Scenes(scenes, split="test")
    names = [NAME, *(name for task in SPECIALISTS.values() for name in task)]
    chosen = {name: ((models or {}).get(name) or stored_model(name)).eval() for name in names}
    tasks = {}
    for task, specialists in SPECIALISTS.items():
        found = {name: of_images(chosen[name], task, test) for name in (NAME, *specialists)}
        values, points = _COMPARED[task](found, steps, seeds[0])
        rows = []
        for name in found:
            count = sum(p.numel() for p in chosen[name].parameters())
            row = {"system": name, "value": round(values[name], 5), "parameters": count}
            rows.append(row | ({} if name == NAME else {"points": [round(v, 3) for v in points[name]]}))
            if report is not None:
                report(f"{task}, {name}: {SCORES[task]} {values[name]:.3f} {rows[-1].get('points', '')}")
        tasks[task] = {"score": SCORES[task], "systems": rows}
    return {"data": "scenes", "split": "test", "images": len(test), "resamples": steps, "tasks": tasks}


@torch.inference_mode()
def of_images(model: Model, task: str, data: Scenes) -> list[Any]:
    """What each scene adds to the score of a task: a confusion matrix ``(K, K)``, a metric, or counts ``(4, K)``."""
    if isinstance(model, Mask2Former):
        model.task = task  # type: ignore[assignment]  # one of the three names
    found: list[Any] = []
    for batch in batches(data, 20):
        found += _ADDS[task](model.predict(batch.images), batch)
    return found


def _confusions(found: Sequence[Any], batch: Batch) -> list[Tensor]:
    assert batch.targets.semantic is not None  # scenes annotate all
    pairs = zip(found, batch.targets.semantic, strict=True)
    return [confusion(f.labels, truth, len(CATEGORIES)) for f, truth in pairs]


def _metrics(found: Sequence[Any], batch: Batch) -> list[AveragePrecision]:
    return image_metrics(found, batch.targets.instances or [])


def _counts(found: Sequence[Any], batch: Batch) -> list[Tensor]:
    return [image_counts(f, truth, CATEGORIES) for f, truth in zip(found, batch.targets.panoptic or [], strict=True)]


_ADDS: dict[str, Callable[[Sequence[Any], Batch], list[Any]]] = {
    "semantic": _confusions,
    "instance": _metrics,
    "panoptic": _counts,
}

Points = tuple[dict[str, float], dict[str, list[float]]]
"""Name → score; name → points that Mask2Former is better by, lower and upper end."""


def _miou_points(found: Mapping[str, Sequence[Tensor]], resamples: int, seed: int) -> Points:
    n = len(found[NAME])
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), resamples)  # (R, n), how often each is drawn
    every = torch.cat([torch.ones(1, n, dtype=torch.float64), torch.from_numpy(draws).double()])  # (1 + R, n)
    scores = {}
    for name, matrices in found.items():
        totals = torch.einsum("rn,nij->rij", every, torch.stack(list(matrices)).double())
        scores[name] = torch.tensor([SemanticScores.from_counts(t.round().long()).miou for t in totals])  # (1 + R,)
    points = {}
    for name in list(found)[1:]:
        gain = 100 * (scores[NAME] - scores[name])
        points[name] = [float(gain[0]), *gain[1:].quantile(torch.tensor([0.025, 0.975]).to(gain)).tolist()]
    return {name: float(s[0]) for name, s in scores.items()}, points


def _ap_points(found: Mapping[str, Sequence[AveragePrecision]], resamples: int, seed: int) -> Points:
    others = list(found)[1:]
    rows = ap_differences(found, [(NAME, o) for o in others], resamples=resamples, seed=seed, scores=("ap",))
    return (
        {name: together(metrics).ap for name, metrics in found.items()},
        {row["b"]: [100 * v for v in row["ap"]] for row in rows},
    )


def _pq_points(found: Mapping[str, Sequence[Tensor]], resamples: int, seed: int) -> Points:
    variants = {name: (torch.stack(list(counts)), pq_of_sums) for name, counts in found.items()}
    # each specialist is told as a difference to the first, so Mask2Former's gain is its negative
    rows = compare_pq(variants, num_things=NUM_THINGS, resamples=resamples, seed=seed)
    values = {row["name"]: row["pq"]["all"] for row in rows}
    points = {}
    for row in rows[1:]:
        gain, low, high = row["points"]["all"]
        points[row["name"]] = [-gain, -high, -low]
    return values, points


_COMPARED: dict[str, Callable[[Mapping[str, Sequence[Any]], int, int], Points]] = {
    "semantic": _miou_points,
    "instance": _ap_points,
    "panoptic": _pq_points,
}
