"""Four systems for objects side by side: Mask R-CNN, YOLACT, CondInst and SOLOv2, with their stored weights.

All were trained alike, from the same encoder: 4,000 steps of eight scenes, or 1,500 steps of four images of the nuclei
of the Data Science Bowl 2018. Here they see the same test images, one by one and in turns. Differences in AP come with
a bootstrap over the images, which are drawn alike for all systems.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import torch

from seglib.book.experiments.instances import (
    differences,
    image_metrics,
    object_scenes,
    score_objects,
    together,
)
from seglib.book.experiments.nms_variants import Found, solov2_variants, yolact_variants
from seglib.book.pretrained import stored_model
from seglib.book.results import stored_file
from seglib.data.catalog import SegmentationDataset
from seglib.data.dsb import DSB2018
from seglib.metrics import AveragePrecision
from seglib.models.base import Model
from seglib.models.solov2 import SOLOv2
from seglib.models.yolact import YOLACT

SYSTEMS = ("mask_rcnn_tiny", "yolact_tiny", "condinst_tiny", "solov2_tiny")

TRAINING = ("steps", "batch_size", "cpu_seconds", "val_ap", "commit")
"""What is told of the training, from the file beside the weights."""

NMS_PAIRS = {
    "yolact_tiny": [("fast", "standard"), ("fast, across classes", "standard")],
    "solov2_tiny": [("matrix", other) for other in ("none", "greedy", "fast", "soft", "matrix, linear")],
}
"""The differences between variants of NMS that are told."""


def run(
    *,
    seeds: Sequence[int],
    steps: int,
    systems: Sequence[str] = SYSTEMS,
    scenes: int = 200,
    root: Path | None = None,
    data: SegmentationDataset | None = None,
    models: Mapping[str, Model] | None = None,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Score and time the systems, and the variants of NMS of YOLACT and SOLOv2.

    Args:
        seeds: the first one is that of the bootstrap.
        steps: number of resamples of the bootstrap.
        systems: names of the systems.
        scenes: number of test scenes, when neither ``root`` nor ``data`` is given.
        root: the folder of the nuclei of the Data Science Bowl 2018, to score on its test split the weights that were
            trained on nuclei.
        data: annotated images to score on.
        models: name of a system → its model; those with stored weights when not given.
        report: function that is called with a line of text after every system.

    Returns:
        The settings; ``systems``: for each its scores, the AP of every class, ``parameters``, ``ms`` (milliseconds of
        CPU time per image, from the image to unpacked masks: the median, and the middle half of the images),
        ``detections`` per image, and ``training``; ``differences`` of every two systems; ``nms``: for YOLACT and SOLOv2
        the ``variants`` of `nms_variants` and the ``differences`` of some.

    Raises:
        ValueError: without scenes or resamples, or when weights are not stored.
        FileNotFoundError: when there are no nuclei in ``root``.
    """
    if steps < 1:
        raise ValueError(f"steps must be positive, got {steps}; it is the number of resamples")
    nuclei = "_dsb2018" if root is not None else ""  # ends the names of weights that were trained on them
    test: SegmentationDataset = data or (DSB2018(root, "test") if root is not None else object_scenes(scenes, "test"))
    things = [c for c in test.categories if c.isthing]
    chosen = {name: (models or {}).get(name) or stored_model(name + nuclei).eval() for name in systems}
    metrics, times, counts = take_turns(chosen, test)
    rows: list[dict[str, Any]] = []
    for name, model in chosen.items():
        low, middle, high = statistics.quantiles(times[name], n=4)
        classes = together(metrics[name]).class_ap.tolist()[: len(things)]
        rows.append(
            {
                "system": name,
                **score_objects(metrics[name]),
                "class_ap": {c.name: round(v, 5) for c, v in zip(things, classes, strict=True) if v == v},
                "parameters": sum(p.numel() for p in model.parameters()),
                "ms": [round(v, 2) for v in (middle, low, high)],
                "detections": round(statistics.fmean(counts[name]), 2),
                "training": {} if models else _training(name + nuclei),
            }
        )
        if report is not None:
            report(f"{name}: AP {rows[-1]['ap']:.3f}, AP50 {rows[-1]['ap50']:.3f}, {rows[-1]['ms'][0]:.1f} ms")
    source = "scenes" if root is None else "dsb2018"
    settings = {"data": source, "split": "test", "images": len(test), "resamples": steps}
    pairs = [(b, a) for a, b in combinations(chosen, 2)]
    found = differences(metrics, pairs, resamples=steps, seed=seeds[0])
    nms = {name: _nms(name, model, test, steps, seeds[0]) for name, model in chosen.items() if name in NMS_PAIRS}
    return {**settings, "systems": rows, "differences": found, "nms": nms}


@torch.inference_mode()
def take_turns(
    models: Mapping[str, Model], data: SegmentationDataset
) -> tuple[dict[str, list[AveragePrecision]], dict[str, list[float]], dict[str, list[int]]]:
    """Every model on every image, in turns, so that whatever else the machine does hits all.

    Returns:
        Of every model the metric of each image, its milliseconds of CPU time, and the number of detections.
    """
    names = list(models)
    metrics: dict[str, list[AveragePrecision]] = {name: [] for name in names}
    times: dict[str, list[float]] = {name: [] for name in names}
    counts: dict[str, list[int]] = {name: [] for name in names}
    for model in models.values():
        model.predict(data[0].image[None])  # warms up
    for i in range(len(data)):
        sample = data[i]
        assert sample.instances is not None  # all of these datasets annotate objects
        for name in names[i % len(names) :] + names[: i % len(names)]:
            started = time.process_time()
            (found,) = models[name].predict(sample.image[None])
            assert found.masks is not None  # asking for masks unpacks them
            times[name].append(1e3 * (time.process_time() - started))
            metrics[name] += image_metrics([found], [sample.instances])
            counts[name].append(len(found))
    return metrics, times, counts


def _training(name: str) -> dict[str, Any]:
    beside = json.loads(stored_file(f"weights/{name}.json").read_text(encoding="utf-8"))
    return {"command": beside["command"], **{key: beside[key] for key in TRAINING}}


def _nms(name: str, model: Model, data: SegmentationDataset, resamples: int, seed: int) -> dict[str, Any]:
    found: Found
    if isinstance(model, YOLACT):
        found = yolact_variants(model, data)
    else:
        assert isinstance(model, SOLOv2)
        found = solov2_variants(model, data)
    metrics = {variant: of_image for variant, (_, of_image) in found.items()}
    told = differences(metrics, NMS_PAIRS[name], resamples=resamples, seed=seed)
    return {"variants": [row for row, _ in found.values()], "differences": told}
