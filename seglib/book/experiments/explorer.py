"""Twenty scenes through every system: its answer at every pixel, how good the answer is, and what it takes.

The scenes are the first ones of the test split, of which :mod:`~seglib.book.experiments.scoreboard` scores more. What
is stored of an answer is what can be drawn: a class for each pixel, or one object for each pixel. So each score is one
of a single image, and of what is drawn:

- semantic: mIoU over the classes that the scene or the answer has;
- instance: PQ of the things. Objects with a score of at least 0.5 are drawn, the higher score on top. AP ranks all
  objects of many images by their scores; in one image most of its classes have an object or two;
- panoptic: PQ, its mean over the classes of the scene;
- prompt: the mean IoU of the objects of the scene, each asked for with one click in its middle and answered with the
  mask of the highest predicted IoU. ``sam_tiny`` sees the scene at twice the size, and its masks are drawn at half.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from seglib.book.experiments.panoptic import GROUPS, group_pq, image_counts
from seglib.book.experiments.prompts import objects_of
from seglib.book.experiments.queries import NUM_THINGS
from seglib.book.experiments.scoreboard import BOARDS, MEASURE, Board, durations, take_turns, test_data
from seglib.book.figures.images import pack_ids
from seglib.data.scenes import CATEGORIES
from seglib.metrics.pq import match_segments
from seglib.ops.clicks import answer_iou, centre_points
from seglib.ops.masks import mask_iou
from seglib.postprocess.prompt import Predictor
from seglib.types import Instances, Panoptic, Sample, Segment, Size

SCORES = {"semantic": "mIoU", "instance": "PQ of the things", "panoptic": "PQ", "prompt": "mean IoU"}
"""Task → the score of a single scene."""

SHOWN = 0.5
"""The score of a detection that is drawn, at least."""

MOST = 30
"""Most scenes: so many does the scoreboard ask the promptable model about."""


@dataclass(frozen=True)
class Answer:
    """A system's answer to one scene, as it is stored.

    Attributes:
        map: number of the segment of each pixel, ``(H, W)`` uint8, 0 for none; of a semantic map the class + 1.
        score: the score of the scene, in [0, 1]; NaN where it has none.
        segments: for each number from 1 on its class, its score in [0, 1] (``None`` for stuff), and the number of the
            true object that it is matched to, or 0. A semantic map has none.
        more: further results of the task.
    """

    map: Tensor
    score: float
    segments: list[list[Any]] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Clicks:
    """The answers to one click on each of N objects of a scene.

    Attributes:
        masks: answered masks, ``(N, H, W)`` bool.
        said: predicted IoU of each mask, ``(N,)``.
        points: clicks ``(N, 2)``, (x, y).
        objects: the objects that were asked for.
    """

    masks: Tensor
    said: Tensor
    points: Tensor
    objects: Instances


def run(
    *, seeds: Sequence[int], steps: int, scenes: int = 20, report: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """Store the answers of every system to the first test scenes.

    Args:
        seeds: not used, for nothing is random but the clicks that are timed.
        steps: how often each answer is timed; the median counts.
        scenes: number of scenes, at most :data:`MOST`.
        report: function that is called with a line of text for every system.

    Returns:
        The settings, and

        - ``tasks``: for each its ``score`` (a name) and ``systems``: name → ``score`` (mean over the scenes), ``ms``
          and ``relative``, which are milliseconds of CPU time and the same as a multiple of what ``fcn_tiny`` took in
          the same turn, each as median and quartiles;
        - ``scenes``: for each its ``index`` in the split; ``maps``, all systems' maps below each other in the order of
          ``tasks``, as a PNG; ``differ``, for each task the share of the pixels on which its systems differ in the
          class; and ``answers``, task → system → what :class:`Answer` tells, beside ``ms`` and ``relative``.

    Raises:
        ValueError: without scenes or with too many, without a turn, or when weights are not stored.
    """
    if steps < 1 or not 1 <= scenes <= MOST:
        raise ValueError(f"it takes 1 turn (steps) or more and 1 to {MOST} scenes, got {steps} and {scenes}")
    boards = {task: replace(BOARDS[task], adds=_keep) for task in SCORES} | {
        "prompt": replace(BOARDS["prompt"], adds=_asked)
    }
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        turns = [take_turns(scenes, boards) for _ in range(steps)]
    finally:
        torch.set_num_threads(threads)
    data = test_data(BOARDS["semantic"], scenes)[0]
    kept, times = turns[0][0], {place: [t[place] for _, t in turns] for place in turns[0][0]}  # place → (steps, scenes)
    stored = [_scene(i, data[i], boards, kept, times) for i in range(scenes)]
    tasks: dict[str, Any] = {}
    for task, board in boards.items():
        tasks[task] = {"score": SCORES[task], "systems": {}}
        for name in board.systems:
            own, unit = (sum(times[place], []) for place in ((name, task), (MEASURE, "semantic")))
            scores = [s["answers"][task][name]["score"] for s in stored]
            known = [v for v in scores if v is not None]
            mean, cost = round(statistics.mean(known), 4) if known else None, durations(own, unit)
            tasks[task]["systems"][name] = {"score": mean, **cost}
            if report is not None:
                report(f"{task}, {name}: {SCORES[task]} {mean}, {cost['relative'][0]:.1f} times {MEASURE}")
    settings = {"data": "scenes", "split": "test", "size": list(data[0].image.shape[1:]), "shown": SHOWN}
    return {**settings, "turns": steps, "tasks": tasks, "scenes": stored}


def _keep(model: Any, found: Any, sample: Sample) -> Any:
    return found


def _asked(model: Any, found: Any, sample: Sample) -> Clicks:
    """One click in the middle of each object; ``found``, the answer to a random one, was timed."""
    objects, predictor = objects_of(sample), Predictor(model)
    if not len(objects):
        return Clicks(objects.masks, torch.zeros(0), torch.zeros(0, 2), objects)
    predictor.set_image(sample.image)
    points = centre_points(objects.masks)  # (N, 2)
    told = predictor.predict(points=points[:, None])  # (N, 3, …)
    rows, best = torch.arange(len(objects)), told.iou.argmax(1)  # (N,)
    return Clicks(told.masks[rows, best], told.iou[rows, best], points, objects)


def _scene(
    i: int,
    sample: Sample,
    boards: Mapping[str, Board],
    kept: Mapping[tuple[str, str], Sequence[Any]],
    times: Mapping[tuple[str, str], Sequence[Sequence[float]]],
) -> dict[str, Any]:
    """What is stored of scene ``i``."""
    maps: list[Tensor] = []
    answers: dict[str, dict[str, Any]] = {}
    differ = {}
    for task, board in boards.items():
        of_task = {name: ANSWERS[task](kept[name, task][i], sample) for name in board.systems}
        maps += [a.map for a in of_task.values()]
        answers[task] = {}
        for name, a in of_task.items():
            own, unit = ([turn[i] for turn in times[place]] for place in ((name, task), (MEASURE, "semantic")))
            cost = {k: round(v[0], 2) for k, v in durations(own, unit).items()}
            segments = {} if task == "semantic" else {"segments": a.segments}
            answers[task][name] = {"score": _short(a.score, 4), **cost, **segments, **a.more}
        if len(of_task) > 1:
            differ[task] = round(float(disagreement([classes_of(a.map, a.segments) for a in of_task.values()])), 4)
    return {"index": i, "maps": pack_ids(torch.stack(maps)), "differ": differ, "answers": answers}


def classes_of(numbers: Tensor, segments: Sequence[Sequence[Any]]) -> Tensor:
    """The class of each pixel, −1 for none, from a stored map and its segments, which a semantic map has not."""
    of = torch.tensor([-1, *(s[0] for s in segments)]) if segments else torch.arange(256) - 1
    return of[numbers.long()]  # (H, W)


def disagreement(classes: Sequence[Tensor]) -> Tensor:
    """The share of the pixels on which not all maps ``(H, W)`` have the same class."""
    first, *others = classes
    return torch.stack([other != first for other in others]).any(0).double().mean()


def numbered(masks: Tensor, scores: Tensor) -> tuple[Tensor, list[int]]:
    """One object for each pixel: that of the highest score, the first of equal ones.

    Args:
        masks: masks of N objects, ``(N, H, W)`` bool.
        scores: score of each object, ``(N,)``.

    Returns:
        The number of each pixel's object, ``(H, W)`` uint8, 0 for none; and for each number from 1 on the object's
        place. Numbers go by falling score; objects without a visible pixel have none.

    Raises:
        ValueError: when more than 255 objects are visible.
    """
    order = scores.argsort(descending=True, stable=True)
    top = masks[order].int().argmax(0) if len(masks) else torch.zeros(masks.shape[1:], dtype=torch.int64)
    owner = torch.where(masks.any(0), top, -1)  # (H, W): place in the order
    visible = [k for k in owner.unique().tolist() if k >= 0]
    if len(visible) > 255:
        raise ValueError(f"a map holds 255 objects, got {len(visible)}; raise the score of what is shown")
    number = torch.zeros(len(masks) + 1, dtype=torch.uint8)  # the last one is for −1
    number[visible] = torch.arange(1, len(visible) + 1, dtype=torch.uint8)
    return number[owner], [int(order[k]) for k in visible]


def _semantic(found: Any, sample: Sample) -> Answer:
    board = BOARDS["semantic"]
    score = board.totals([board.adds(None, found, sample)], torch.ones(1, 1, dtype=torch.float64))  # (1, 1)
    return Answer((found.labels + 1).to(torch.uint8), float(score))


def _instance(found: Any, sample: Sample) -> Answer:
    shown = found[found.scores >= SHOWN]
    numbers, places = numbered(shown.masks, shown.scores)
    areas = numbers.flatten().bincount(minlength=1 + len(places)).tolist()
    segments = [
        Segment(n, int(shown.labels[k]), True, areas[n], float(shown.scores[k])) for n, k in enumerate(places, 1)
    ]
    return _scored(Panoptic(numbers.int(), segments), sample, "things")


def _panoptic(found: Any, sample: Sample) -> Answer:
    new = {s.id: n for n, s in enumerate(found.segments, 1)}
    table = torch.zeros(1 + max(new, default=0), dtype=torch.int32)
    for old, n in new.items():
        table[old] = n
    segments = [replace(s, id=new[s.id]) for s in found.segments]
    return _scored(Panoptic(table[found.map.long()], segments), sample, "all")


def _scored(found: Panoptic, sample: Sample, group: str) -> Answer:
    """Segments 1, 2, … as they are stored, with PQ of a group."""
    assert sample.panoptic is not None  # scenes annotate all
    things = [s.id for s in sample.panoptic.segments if s.isthing]  # in the order of the instances
    matched = {p: 1 + things.index(t) for p, t, _ in match_segments(found, sample.panoptic).pairs if t in things}
    rows = [[s.category_id, _short(s.score), matched.get(s.id, 0)] for s in found.segments]
    pq = group_pq(image_counts(found, sample.panoptic, CATEGORIES), NUM_THINGS)  # (3,)
    more = {"pq_things": _short(float(pq[1]), 4)} if group == "all" else {}
    return Answer(found.map.to(torch.uint8), float(pq[GROUPS.index(group)]), rows, more)


def _prompt(found: Clicks, sample: Sample) -> Answer:
    ious = answer_iou(found.masks[:, None], found.objects.masks)[:, 0]  # (N,)
    size = tuple(sample.image.shape[1:])
    masks, asked = _halved(found.masks, size), _halved(found.objects.masks, size)
    numbers, places = numbered(masks, found.said)
    overlaps = mask_iou(asked, objects_of(sample).masks)  # (N, objects of the small scene)
    same = [1 + int(row.argmax()) if len(row) and row.max() > 0.5 else 0 for row in overlaps]
    segments = [[int(found.objects.labels[k]), _short(float(found.said[k])), same[k]] for k in places]
    scale = size[0] / found.masks.shape[1]
    more = {
        "ious": [_short(float(ious[k])) for k in places],
        "clicks": [[round((v + 0.5) * scale, 2) for v in found.points[k].tolist()] for k in places],
        "hidden": len(ious) - len(places),
    }
    return Answer(numbers, float(ious.mean()), segments, more)


def _halved(masks: Tensor, size: Size) -> Tensor:
    """Masks ``(N, H, W)`` at a smaller size: true where at least half of a pixel's area is."""
    height, width = size
    if not len(masks):
        return masks.new_zeros(0, height, width)
    return F.adaptive_avg_pool2d(masks[:, None].float(), (height, width))[:, 0] >= 0.5


def _short(value: float | None, digits: int = 3) -> float | None:
    return None if value is None or value != value else round(value, digits)


ANSWERS: dict[str, Callable[[Any, Sample], Answer]] = {
    "semantic": _semantic,
    "instance": _instance,
    "panoptic": _panoptic,
    "prompt": _prompt,
}
"""Task → makes of what a system found in a scene what is stored."""
