"""How good is a mask after one prompt, and after more? Simulated users of ``sam_tiny`` on test scenes.

Users click into the middle of what is wrong, or anywhere on it; the first prompt may be a box, drawn well or
carelessly. One user takes no mask on from answer to answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from seglib.book.experiments.prompts import ask, intervals, objects_of, scenes_to_prompt, score_rows
from seglib.book.pretrained import stored_model
from seglib.data.scenes import CATEGORIES
from seglib.metrics.clicks import number_of_clicks
from seglib.models.sam import Sam
from seglib.ops.clicks import answer_iou, centre_points
from seglib.postprocess.prompt import Predictor
from seglib.train.sampling import Samples
from seglib.types import Sample

USERS: dict[str, dict[str, Any]] = {
    "centre click": {},
    "random click": {"where": "random"},
    "box": {"first": "box"},
    "noisy box": {"first": "noisy box"},
    "centre click, no mask prompt": {"pass_mask": False},
    "box, no mask prompt": {"first": "box", "pass_mask": False},
}
PAIRS = (
    ("box", "centre click"),
    ("centre click", "random click"),
    ("box", "noisy box"),
    ("centre click", "centre click, no mask prompt"),
    ("box", "box, no mask prompt"),
)
TARGETS = {"noc85": 0.85, "noc90": 0.9}
ANSWERS = ("single", "best by predicted IoU", "best of three (oracle)")
AREAS = (0, 32, 128, 512, 2048, 65536)
"""Limits of the areas of the true masks, in pixels of scenes of 256 × 256."""


def run(
    *,
    seeds: Sequence[int],
    steps: int,
    scenes: int = 200,
    clicks: int = 10,
    model: Sam | None = None,
    data: Samples | None = None,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Let every user ask for every object of the scenes.

    Args:
        seeds: random seeds, of which the first is that of the random prompts and of the bootstrap.
        steps: number of resamples of the bootstrap over scenes.
        scenes: number of test scenes, when ``data`` is not given.
        clicks: number K of prompts of each user, at least 5.
        model: the model; the one with stored weights when not given.
        data: scenes with instances.
        report: function that is called with a line of text for every user.

    Returns:
        The settings, and, with every value followed by the ends of its 95% interval:

        - ``prompts``: for each user ``prompt`` (its name), ``miou`` after 1 … K prompts, ``noc85`` and ``noc90`` (mean
          number of prompts to that IoU, K where it is never reached), and ``reached85`` and ``reached90``, the share of
          the objects that reach it;
        - ``differences``: the same of two users ``a`` minus ``b``, paired by object;
        - ``first_click``: mean IoU of each of the :data:`ANSWERS` to one click into the middle;
        - ``sizes``: for each bin of the objects' area ``low``, ``high``, ``objects``, and the mean IoU after one and
          five clicks and with a box (``at_1``, ``at_5``, ``box``);
        - ``classes``: class → the same.

    Raises:
        ValueError: without scenes or resamples, with fewer than five clicks, or when no weights are stored.
    """
    if steps < 1 or clicks < 5:
        raise ValueError(f"it takes at least 1 resample and 5 clicks, got {steps} and {clicks}")
    test, net = data or scenes_to_prompt(scenes, "test"), model or stored_model("sam_tiny")
    assert isinstance(net, Sam)
    net.eval()
    samples, options = [test[i] for i in range(len(test))], {"resamples": steps, "seed": seeds[0]}
    numbers: dict[str, list[Tensor]] = {}  # user → for each scene (n, K + 4)
    for name, user in USERS.items():
        torch.manual_seed(seeds[0])
        numbers[name] = [_numbers(ask(net, s, clicks=clicks, **user)[0]) for s in samples]
        if report is not None:
            means = torch.cat(numbers[name]).mean(0)
            report(f"{name}: mIoU {means[0]:.3f} after one prompt, {means[clicks - 1]:.3f} after {clicks}")
    prompts = [{"prompt": name} | _named(intervals(each, **options), clicks) for name, each in numbers.items()]
    differences = []
    for a, b in PAIRS:
        gains = [x - y for x, y in zip(numbers[a], numbers[b], strict=True)]
        differences.append({"a": a, "b": b} | _named(intervals(gains, **options), clicks))

    points, boxes = numbers["centre click"], numbers["box"]
    few = [torch.cat([p[:, [0, 4]], b[:, :1]], 1) for p, b in zip(points, boxes, strict=True)]  # (n, 3) each
    labels = [objects_of(s).labels for s in samples]
    areas = [objects_of(s).masks.flatten(1).sum(1) for s in samples]

    def part(chosen: Sequence[Tensor]) -> dict[str, Any]:
        return score_rows([ious[c] for ious, c in zip(few, chosen, strict=True)], **options)

    bins = [(low, high, [(a >= low) & (a < high) for a in areas]) for low, high in zip(AREAS, AREAS[1:], strict=False)]
    of_class = {c.name: [own == c.id for own in labels] for c in CATEGORIES if c.isthing}
    first = intervals([first_answers(net, s) for s in samples], **options)
    return {
        "model": "sam_tiny", "data": "scenes", "split": "test", "images": len(samples),
        "objects": sum(map(len, labels)), "clicks": clicks, "resamples": steps,
        "prompts": prompts, "differences": differences,
        "first_click": [{"answer": name, "miou": row} for name, row in zip(ANSWERS, first, strict=True)],
        "sizes": [{"low": low, "high": high, **part(own)} for low, high, own in bins if torch.cat(own).any()],
        "classes": {name: part(own) for name, own in of_class.items() if torch.cat(own).any()},
    }  # fmt: skip


def first_answers(model: Sam, sample: Sample) -> Tensor:
    """IoU of each of the :data:`ANSWERS` to a click into the middle of each object, ``(N, 3)``."""
    masks = objects_of(sample).masks  # (N, H, W)
    if not len(masks):
        return torch.zeros(0, len(ANSWERS))
    predictor, points = Predictor(model), centre_points(masks)[:, None]
    predictor.set_image(sample.image)
    single = answer_iou(predictor.predict(points=points, several=False).masks, masks)  # (N, 1)
    several = predictor.predict(points=points)
    fits = answer_iou(several.masks, masks)  # (N, 3)
    chosen = fits.gather(1, several.iou.argmax(1, keepdim=True))
    return torch.cat([single, chosen, fits.amax(1, keepdim=True)], 1)


def _numbers(ious: Tensor) -> Tensor:
    """The IoUs of each object ``(n, K)``, its number of prompts to each target, and whether it came there."""
    to = [number_of_clicks(ious, target) for target in TARGETS.values()]
    reached = [ious.amax(1) >= target for target in TARGETS.values()]
    return torch.cat([ious, torch.stack([*to, *reached], 1)], 1)  # (n, K + 4)


def _named(rows: list[list[float]], clicks: int) -> dict[str, Any]:
    names = [*TARGETS, *(name.replace("noc", "reached") for name in TARGETS)]
    return {"miou": rows[:clicks], **dict(zip(names, rows[clicks:], strict=True))}
