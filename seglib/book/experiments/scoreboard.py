"""All tiny systems with stored weights on one scoreboard: score, time per image, parameters, memory and budget.

Every system is scored with its task's metric on test data that its training never saw. Systems of one task see the same
images one by one, and all systems take turns, so that whatever else the machine does hits all. Scores of one task can
be compared; those of two tasks cannot, for they are different metrics.

Mask2Former does three tasks with one set of weights, and stands in three tables. Not on the board are weights trained
on images that need a download, and ``sam_tiny_levels``, which was trained to answer with more than the object.
"""

from __future__ import annotations

import json
import math
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from seglib.book.experiments.instances import image_metrics, together
from seglib.book.experiments.memory import HANDED_BACK, rise
from seglib.book.experiments.panoptic import image_counts, pq_of_sums
from seglib.book.experiments.prompts import ask, objects_of
from seglib.book.experiments.queries import NUM_THINGS
from seglib.book.experiments.sam_weights import STAGES
from seglib.book.pretrained import stored_model, stored_weights
from seglib.book.results import stored_file
from seglib.data.catalog import SegmentationDataset, build_dataset
from seglib.data.scenes import CATEGORIES
from seglib.data.volumes import CATEGORIES as ORGANS
from seglib.metrics import SemanticScores
from seglib.metrics.confusion import confusion
from seglib.ops.clicks import error_clicks
from seglib.postprocess.prompt import restore_logits
from seglib.train import VolumeTask
from seglib.types import Prompts, Sample

MEASURE = "fcn_tiny"
"""The system whose time on a scene is the unit of the others' times."""

LEVELS = torch.tensor([0.025, 0.975], dtype=torch.float64)
"""The ends of the middle 95% of a bootstrap."""

Adds: TypeAlias = Any
"""What one image adds to a task's score, such as a confusion matrix."""


@dataclass(frozen=True)
class Board:
    """The systems of one task.

    Attributes:
        systems: their names, in the order of the book's chapters.
        scores: names of the scores.
        most: at most so many images are scored.
        predict: model, what its weights' file says, sample → what is timed: all from the image to the answer.
        adds: model, answer, sample → what the image adds to the scores.
        totals: what each of the n images adds, how often each is counted ``(R, n)`` → the scores ``(R, S)``.
    """

    systems: tuple[str, ...]
    scores: tuple[str, ...]
    most: int
    predict: Callable[[Any, Mapping[str, Any], Sample], Any]
    adds: Callable[[Any, Any, Sample], Adds]
    totals: Callable[[Sequence[Adds], Tensor], Tensor]


@torch.inference_mode()
def _answer(model: Any, told: Mapping[str, Any], sample: Sample) -> Any:
    found = model.predict(sample.image[None])[0]
    getattr(found, "masks", None)  # asking for masks unpacks them
    return found


@torch.inference_mode()
def _labels(model: Any, told: Mapping[str, Any], sample: Sample) -> Tensor:
    return VolumeTask(ORGANS, **told["task_arguments"]).label(model, sample.image, sample.spacing)


@torch.inference_mode()
def _clicked(model: Any, told: Mapping[str, Any], sample: Sample) -> Tensor:
    mask = objects_of(sample).masks[:1]  # (1, H, W)
    point, label = error_clicks(torch.zeros_like(mask), mask)
    out = model.decode(model.encode(sample.image[None]), Prompts(points=point[:, None], labels=label[:, None]))
    size = tuple(sample.image.shape[1:])
    return restore_logits(out.several.logits, size, size, model.image_size) > 0  # (1, 3, H, W)


def _confusion(model: Any, found: Any, sample: Sample) -> Tensor:
    assert sample.semantic is not None  # scenes annotate all
    return confusion(found.labels, sample.semantic, len(CATEGORIES)).double()


def _miou(adds: Sequence[Tensor], times: Tensor) -> Tensor:
    totals = torch.einsum("rn,nij->rij", times, torch.stack(list(adds)))
    return torch.tensor([[SemanticScores.from_counts(t.round().long()).miou] for t in totals], dtype=torch.float64)


def _ap(adds: Sequence[Any], times: Tensor) -> Tensor:
    rows = [[a for a, count in zip(adds, row, strict=True) for _ in range(count)] for row in times.long().tolist()]
    return torch.tensor([[together(row).ap] for row in rows], dtype=torch.float64)


def _counts(model: Any, found: Any, sample: Sample) -> Tensor:
    assert sample.panoptic is not None  # scenes annotate all
    return image_counts(found, sample.panoptic, CATEGORIES)


def _pq(adds: Sequence[Tensor], times: Tensor) -> Tensor:
    return pq_of_sums(torch.stack(list(adds)), times, NUM_THINGS)[:, :1]


def _dice(model: Any, found: Tensor, sample: Sample) -> Tensor:
    assert sample.semantic is not None  # synthetic volumes have labels
    return SemanticScores.from_counts(confusion(found, sample.semantic, len(ORGANS))).dice[1:]  # (K − 1,)


def _mean_dice(adds: Sequence[Tensor], times: Tensor) -> Tensor:
    dice = torch.stack(list(adds)).double()  # (n, K − 1); NaN where neither map has the class
    there = (~dice.isnan()).double()
    return ((times @ dice.nan_to_num(0)) / (times @ there)).nanmean(1, keepdim=True)


def _ious(model: Any, found: Any, sample: Sample) -> Tensor:
    ious = ask(model, sample, clicks=5)[0][:, [0, 4]].double()  # (N, 2)
    return torch.cat([ious.sum(0), torch.tensor([len(ious)])])  # (3,)


def _click_means(adds: Sequence[Tensor], times: Tensor) -> Tensor:
    sums = times @ torch.stack(list(adds))  # (R, 3)
    return sums[:, :2] / sums[:, 2:]


QUERIES = "mask2former_tiny"

BOARDS: dict[str, Board] = {
    "semantic": Board(
        ("fcn_tiny", "unet_tiny", "deeplab_tiny", QUERIES), ("miou",), 200, _answer, _confusion, _miou
    ),
    "instance": Board(
        ("mask_rcnn_tiny", "yolact_tiny", "condinst_tiny", "solov2_tiny", QUERIES),
        ("ap",),
        200,
        _answer,
        lambda model, found, sample: image_metrics([found], [objects_of(sample)])[0],
        _ap,
    ),
    "panoptic": Board(("panoptic_fpn_tiny", QUERIES), ("pq",), 200, _answer, _counts, _pq),
    "volume": Board(("unet3d_tiny", "nnunet_tiny"), ("mean_dice",), 40, _labels, _dice, _mean_dice),
    "prompt": Board(("sam_tiny",), ("miou_at_1", "miou_at_5"), 30, _clicked, _ious, _click_means),
}  # fmt: skip
"""Name of a task → its systems."""


def absent(found: Mapping[str, Any]) -> list[str]:
    """The systems without a row in a result of `run`, each as ``task: system``; empty when all have one."""
    rows = {(task, row["system"]) for task, told in found["tasks"].items() for row in told["systems"]}
    return [f"{task}: {name}" for task, board in BOARDS.items() for name in board.systems if (task, name) not in rows]


def run(
    *,
    seeds: Sequence[int],
    steps: int,
    scenes: int = 200,
    memory: bool = True,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Score, time and weigh all systems on one thread.

    Args:
        seeds: the first one is that of the bootstrap.
        steps: number of resamples of the bootstrap.
        scenes: number of test images of each task; of volumes and prompts at most 40 and 30.
        memory: whether memory is measured as well, in a process for each system.
        report: function that is called with a line of text after every system.

    Returns:
        The settings, and ``tasks``: for each its ``data``, ``split``, ``size`` (of an image), ``images`` (their
        number), ``scores`` (names), ``systems`` and ``differences``.

        A system has its ``scores``, each with the ends of the middle 95% of a bootstrap over images; ``parameters``;
        ``ms``, milliseconds of CPU time of one image (median and quartiles); ``relative``, the same as a multiple of
        what ``fcn_tiny`` took for a scene in the same turn; ``megabytes`` by which memory rises at most in one
        prediction; and the ``budget`` of its training. A difference is that of a system ``b`` to the one before it,
        ``a``, on the same images.

    Raises:
        ValueError: without scenes or resamples, or when weights are not stored.
    """
    if steps < 1 or scenes < 1:
        raise ValueError(f"steps (resamples) and scenes must be positive, got {steps} and {scenes}")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        adds, times = take_turns(scenes)
        tasks = {}
        for task, board in BOARDS.items():
            found = {name: adds[name, task] for name in board.systems}
            rows, told = _scored(found, board, steps, seeds[0])
            for row in rows:
                name = row["system"]
                row |= {"parameters": sum(p.numel() for p in stored_model(name).parameters())}
                row |= durations(times[name, task], times[MEASURE, "semantic"])
                row |= {"megabytes": peak(name, task)} if memory else {}
                row["budget"] = budget(name)
                if report is not None:
                    score, low, high = row["scores"][board.scores[-1]]
                    shown = f"{board.scores[-1]} {score:.3f} ({low:.3f} to {high:.3f}), {row['ms'][0]:.1f} ms"
                    report(f"{task}, {name}: {shown}, {row.get('megabytes', math.nan):.0f} MB")
            data = test_data(board, scenes)
            facts = {"data": stored_weights(board.systems[0])[1]["data"], "split": "test", "images": len(data[1])}
            size = list(data[0][0].image.shape[1:])
            tasks[task] = {**facts, "size": size, "scores": list(board.scores), "systems": rows, "differences": told}
    finally:
        torch.set_num_threads(threads)
    return {"resamples": steps, "threads": 1, "tasks": tasks}


def test_data(board: Board, scenes: int) -> tuple[SegmentationDataset, range]:
    """The test split of a task's systems, and the samples of it that are scored."""
    told = stored_weights(board.systems[0])[1]
    size = told.get("data_size")
    data = build_dataset(told["data"], None, "test", size=tuple(size) if size else None)
    return data, range(min(scenes, board.most, len(data)))


def system(name: str, task: str) -> tuple[Any, dict[str, Any]]:
    """A system with its stored weights, set to the task, and what the file of its weights says."""
    model: Any = stored_model(name)
    if name == QUERIES:
        model.task = task
    return model, stored_weights(name)[1]


def take_turns(
    scenes: int, boards: Mapping[str, Board] = BOARDS
) -> tuple[dict[tuple[str, str], list[Adds]], dict[tuple[str, str], list[float]]]:
    """Every system on its test data; in each turn each answers for one image, and the first one changes.

    Args:
        scenes: number of test images of each task, where the task's board allows so many.
        boards: name of a task → its systems.

    Returns:
        Of every system and task what each image adds to the scores, and its milliseconds of CPU time.
    """
    places = [(name, task) for task, board in boards.items() for name in board.systems]
    systems = {place: system(*place) for place in places}
    data = {task: test_data(board, scenes) for task, board in boards.items()}
    adds: dict[tuple[str, str], list[Adds]] = {place: [] for place in places}
    times: dict[tuple[str, str], list[float]] = {place: [] for place in places}
    for name, task in places:
        boards[task].predict(*systems[name, task], data[task][0][0])  # warms up
    for turn in range(max(len(scored) for _, scored in data.values())):
        first = turn % len(places)
        for name, task in places[first:] + places[:first]:
            samples, scored = data[task]
            if turn not in scored:
                continue
            board, sample = boards[task], samples[turn]
            started = time.process_time()
            found = board.predict(*systems[name, task], sample)
            times[name, task].append(1e3 * (time.process_time() - started))
            adds[name, task].append(board.adds(systems[name, task][0], found, sample))
    return adds, times


def _scored(
    found: Mapping[str, Sequence[Adds]], board: Board, resamples: int, seed: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A row of scores for each system, and the differences of neighbours; the images are drawn alike for all."""
    n = len(found[board.systems[0]])
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), resamples)  # (R, n), how often each is drawn
    every = torch.cat([torch.ones(1, n, dtype=torch.float64), torch.from_numpy(draws).double()])  # (1 + R, n)
    scores = {name: board.totals(adds, every) for name, adds in found.items()}  # (1 + R, S) each
    rows = [{"system": name, "scores": _intervals(values, board.scores)} for name, values in scores.items()]
    pairs = [{"a": a, "b": b, **_intervals(scores[b] - scores[a], board.scores)} for a, b in pairwise(scores)]
    return rows, pairs


def _intervals(values: Tensor, names: Sequence[str]) -> dict[str, list[float]]:
    ends = values[1:].nanquantile(LEVELS, 0)  # (2, S)
    rows = torch.cat([values[:1], ends]).T.tolist()  # (S, 3)
    return {name: [round(v, 5) for v in row] for name, row in zip(names, rows, strict=True)}


def durations(times: Sequence[float], measure: Sequence[float]) -> dict[str, list[float]]:
    """Median and quartiles of a system's milliseconds, and of them as multiples of another's in the same turns.

    Args:
        times: the system's milliseconds in each turn.
        measure: milliseconds of the other system; turns that only one of the two has don't count.

    Returns:
        ``ms`` and ``relative``, each [median, lower quartile, upper quartile].
    """
    ratios = [t / m for t, m in zip(times, measure, strict=False)]  # turns without a test image have no ratio
    return {"ms": _quartiles(times), "relative": _quartiles(ratios)}


def _quartiles(values: Sequence[float]) -> list[float]:
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else 3 * [values[0]]
    return [round(v, 3) for v in (middle, low, high)]


def budget(name: str) -> dict[str, Any]:
    """What the training of stored weights took, as the file beside them says.

    Returns:
        ``steps``, ``images`` (or patches of volumes, or windows of scenes) over all steps, ``cpu_minutes`` of training
        with its validation, and ``start``, the system whose encoder it began with, or ``None``.
    """
    beside = json.loads(stored_file(f"weights/{name}.json").read_text(encoding="utf-8"))
    steps, images, processes = beside["steps"], beside["steps"] * beside["batch_size"], 1
    words = shlex.split(beside["command"])
    if name == "sam_tiny":  # its command has two stages; the file tells the last one, of one of the processes
        first, last = (int(words[words.index("--steps") + k]) for k in (1, 2))
        steps, images = first + last, first * STAGES[0].batch + last * STAGES[1].batch
        processes = STAGES[1].batch // beside["batch_size"]
    start = Path(words[words.index("--encoder") + 1]).stem if "--encoder" in words else None
    minutes = round(processes * beside["cpu_seconds"] / 60, 1)
    return {"steps": steps, "images": images, "cpu_minutes": minutes, "start": start}


def peak(name: str, task: str) -> float:
    """Megabytes by which the memory of a fresh process rises at most while a system answers for one image."""
    command = [sys.executable, "-W", "ignore", "-m", "seglib.book.experiments.scoreboard", name, task]
    environment = os.environ | HANDED_BACK | {"OMP_NUM_THREADS": "1"}
    found = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return round(float(found.stdout.split()[-1]), 1)


def _print_peak(name: str, task: str) -> None:
    torch.set_num_threads(1)
    (model, told), board = system(name, task), BOARDS[task]
    sample = test_data(board, 1)[0][0]
    half = replace(sample, image=sample.image[..., : sample.image.shape[-2] // 2, : sample.image.shape[-1] // 2])
    print(rise(partial(board.predict, model, told, half), partial(board.predict, model, told, sample)))


if __name__ == "__main__":
    _print_peak(*sys.argv[1:])
