"""What does each type of error cost in AP, and how many images does a difference of two detectors need?

Nothing is trained: detections are made from the truth (`ap_detections`), so the errors are known.

First, one type of error at a time, at growing rates, with everything else right. Duplicates, background and the noise
of scores are about the ranking; for the last one there are 0.5 detections of nothing and 0.3 second detections per
object.

Second, three detectors on sets of 25, 100, … images: ``usual``; ``again``, the same rates with other draws, which is
as good by construction, like a second training run; and ``better``, whose masks fit better, with draws of its own too.
Their differences over many disjoint sets say how far chance goes, and a bootstrap over the images of one set says
what one would have believed with that set alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from seglib.book.experiments.ap_detections import USUAL, Noise, detect
from seglib.book.experiments.instances import THINGS, together
from seglib.data.scenes import Scenes
from seglib.metrics import AveragePrecision, CocoObjects
from seglib.types import Instances, Sample

SIZE = 256
"""Pixels a side."""

ERRORS: dict[str, tuple[Noise, tuple[float, ...]]] = {
    "missed": (Noise(), (0, 0.1, 0.2, 0.3, 0.4, 0.5)),
    "confused": (Noise(), (0, 0.1, 0.2, 0.3, 0.4, 0.5)),
    "pixels": (Noise(), (0, 1, 2, 3, 4, 5)),
    "duplicates": (Noise(), (0, 0.2, 0.4, 0.6, 0.8, 1)),
    "background": (Noise(), (0, 0.2, 0.4, 0.6, 0.8, 1)),
    "spread": (Noise(background=0.5, duplicates=0.3), (0, 1, 2, 4, 8, 16)),
}
"""Name of a rate of `Noise` → the values of the others, and the rates that are tried."""

DETECTORS: dict[str, tuple[Noise, int]] = {
    "usual": (USUAL, 0),
    "again": (USUAL, 1),
    "better": (replace(USUAL, shift=0.065), 2),
}
"""Name → its rates and which series of draws it takes."""


def one_image(
    target: Instances, noise: Noise, seed: int, image: int, packed: CocoObjects | None = None
) -> AveragePrecision:
    """The metric of one image. Those of several are put together with ``merge``.

    Args:
        target: true objects of the image.
        noise: rates of the errors.
        seed: random seed of the errors.
        image: number of the image.
        packed: the true objects as run-length codes, so that they aren't encoded again.
    """
    found = CocoObjects.from_instances(detect(target, noise, seed, image, len(THINGS)).instances, "masks")
    metric = AveragePrecision(len(THINGS))
    metric.update_coco(found, packed or pack(target))
    return metric


def pack(target: Instances) -> CocoObjects:
    """The objects of an image as run-length codes."""
    return CocoObjects.from_instances(target, "masks")


def error_costs(
    targets: Sequence[Instances], seed: int, errors: Sequence[str] = tuple(ERRORS), rates: int | None = None
) -> list[dict[str, Any]]:
    """One row of AP, AP50 and AP75 for every type of error and each of its rates (or only the first ``rates``)."""
    rows, packed = [], [pack(target) for target in targets]
    for error in errors:
        base, steps = ERRORS[error]
        for rate in steps[:rates]:
            noise = replace(base, **{error: float(rate)})
            found = together([one_image(t, noise, seed, i, packed[i]) for i, t in enumerate(targets)])
            scores = {"ap": found.ap, "ap50": found.ap50, "ap75": found.ap75}
            rows.append({"error": error, "rate": rate, "seed": seed} | {k: round(v, 5) for k, v in scores.items()})
    return rows


def bootstrap(pairs: Sequence[Sequence[AveragePrecision]], resamples: int, seed: int) -> np.ndarray:
    """AP of each detector over images drawn with replacement, the same ones for all: ``(resamples, detectors)``.

    Args:
        pairs: metrics of the n images, one list for every detector.
        resamples: number of draws.
        seed: random seed of the draws.
    """
    rng, n = np.random.default_rng(seed), len(pairs[0])
    draws = rng.integers(n, size=(resamples, n))
    return np.array([[together([metrics[i] for i in drawn]).ap for metrics in pairs] for drawn in draws])


def run(
    *,
    seeds: Sequence[int],
    steps: int,
    scenes: int = 400,
    error_scenes: int = 50,
    sizes: Sequence[int] = (25, 100, 400),
    size: int = SIZE,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Both parts for every seed; a seed sets the scenes and the errors.

    Args:
        seeds: one run per seed; a seed sets the scenes and the errors.
        steps: number of resamples of every bootstrap.
        scenes: number of images per seed for the second part.
        error_scenes: number of images per seed for the first part, the first ones of the same series.
        sizes: numbers of images of the sets.
        size: height and width of the images in pixels.
        report: function that is called with a line of text after every part.

    Returns:
        The settings; ``errors``, the rows of `error_costs`; ``sets``, the AP of the three detectors on every disjoint
        set; ``bootstrap``, for the first set of every size and seed the middle 95% of AP of ``usual`` and of the
        differences ``better`` − ``usual``, paired and with each on images of its own.

    Raises:
        ValueError: without scenes or resamples, or when a set is larger than all scenes.
    """
    if min(scenes, error_scenes, steps) < 1 or max(sizes) > scenes:
        raise ValueError(
            f"scenes, error_scenes and steps must be positive and every set within the scenes, got {scenes}, "
            f"{error_scenes}, {steps} and sets of {tuple(sizes)}"
        )
    data: dict[str, Any] = {"errors": [], "sets": [], "bootstrap": []}
    for seed in seeds:
        pool = Scenes(max(scenes, error_scenes), split="test", seed=seed, size=size, cache=False)
        targets = [_objects(pool[i]) for i in range(len(pool))]
        data["errors"] += error_costs(targets[:error_scenes], seed)
        if report is not None:
            report(f"seed {seed}: {len(data['errors'])} rows of errors")
        metrics = {
            name: [
                one_image(target, noise, len(DETECTORS) * seed + draw, i) for i, target in enumerate(targets[:scenes])
            ]
            for name, (noise, draw) in DETECTORS.items()
        }
        for n in sizes:
            starts = range(0, scenes - n + 1, n)
            for at in starts:
                found = {name: round(together(m[at : at + n]).ap, 5) for name, m in metrics.items()}
                data["sets"].append({"seed": seed, "images": n, **found})
            data["bootstrap"].append({"seed": seed, "images": n} | _intervals(metrics, n, steps, seed))
            if report is not None:
                report(f"seed {seed}, {n} images: {data['bootstrap'][-1]}")
    settings = {"scenes": scenes, "error_scenes": error_scenes, "sizes": list(sizes), "size": size, "resamples": steps}
    return settings | {"detectors": {name: vars(noise) for name, (noise, _) in DETECTORS.items()}} | data


def _objects(sample: Sample) -> Instances:
    assert sample.instances is not None  # scenes annotate their objects
    return sample.instances


def _intervals(metrics: dict[str, list[AveragePrecision]], n: int, resamples: int, seed: int) -> dict[str, Any]:
    """The middle 95% of what a bootstrap over the first n images gives."""
    usual, better = bootstrap([metrics["usual"][:n], metrics["better"][:n]], resamples, seed).T
    alone = np.random.default_rng(seed).permutation(better)  # as if each had images of its own
    gains = {"usual": usual, "paired": better - usual, "unpaired": alone - usual}
    return {name: [round(float(q), 5) for q in np.quantile(v, [0.025, 0.975])] for name, v in gains.items()}
