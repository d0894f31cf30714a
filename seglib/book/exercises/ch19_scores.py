"""Chapter 19, "SAM": the prediction, the exercise on scores over clicks, and the one on three clicks."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seglib.book.exercise import Exercise, expect
from seglib.metrics.clicks import number_of_clicks
from seglib.postprocess.prompt import Predictor

# Six numbers ---------------------------------------------------------------------------------------------------------

_NUMBERS = (5 + 2 + 2, 5 + 1 + 1, 100 * 1024 / 640 + 0.5, 100 * (1 - 64**2 / 70**2), 32**2 + 4 * 16**2, 1)


def _but(place: int, value: float) -> tuple[float, ...]:
    """The six numbers with another one in one place."""
    return (*_NUMBERS[:place], value, *_NUMBERS[place + 1 :])


PREDICT = Exercise(
    solution=_NUMBERS,
    wrong={
        "box_is_one_token": (
            _but(0, 8),
            "Question 1: a box is two tokens, or one of the five output tokens is missing.",
        ),
        "prompt_alone": (_but(0, 4), "Question 1: the decoder has five tokens of its own beside those of the prompt."),
        "masks_alone": (_but(0, 3), "Question 1: the prompt has two points and a box of two corners, beside the five."),
        "padding_with_a_box": (_but(0, 10), 'Question 1: with a box there is no "no point" token.'),
        "no_padding": (_but(1, 6), 'Question 2: without a box there is one more token: "no point".'),
        "point_alone": (_but(1, 2), "Question 2: the decoder has five tokens of its own beside those of the prompt."),
        "one_token": (_but(1, 1), 'Question 2: five output tokens and "no point" are missing.'),
        "no_half": (_but(2, 160), "Question 3: the ½ is missing. It is added in the frame, after scaling."),
        "half_before": (_but(2, 160.8), "Question 3: you add ½ before scaling. It is added in the frame."),
        "not_scaled": (_but(2, 100.5), "Question 3: the click is in pixels of the photo. Scale it to the frame first."),
        "by_height": (
            _but(2, 100 * 1024 / 480 + 0.5),
            "Question 3: you scale by the height. The longest side, 640, becomes 1024.",
        ),
        "share": (_but(2, 160.5 / 1024), "Question 3 asks for pixels of the frame, not for the share of it."),
        "along_one_side": (
            _but(3, 100 * (1 - 64 / 70)),
            "Question 4: you compare sides. There is padding on two sides: compare 70 · 70 with 64 · 64 cells.",
        ),
        "of_real_cells": (
            _but(3, 100 * (4900 / 4096 - 1)),
            "Question 4: you divide by the 4096 real cells. Divide by all cells of the windows.",
        ),
        "no_windows": (_but(3, 0), "Question 4: 14 does not divide 64. The side is padded to the next multiple."),
        "share_of_one": (_but(3, 1 - 4096 / 4900), "Question 4 asks for percent."),
        "number_of_cells": (_but(3, 804), "Question 4 asks for percent of all cells in the windows, not for a number."),
        "full_grids": (_but(4, 5 * 1024), "Question 5: in the crops half as many points lie on each side: 16 · 16."),
        "one_crop": (_but(4, 1024 + 256), "Question 5: there are four crops."),
        "no_crops": (
            _but(4, 1024),
            "Question 5: a part is missing. The grid of the image and those of the four crops count.",
        ),
        "half_the_points": (
            _but(4, 1024 + 4 * 512),
            "Question 5: half as many points on *each side* are a quarter of the points.",
        ),
        "for_each_user": (
            _but(5, 30),
            "Question 6: the embedding does not depend on who asks. One photo, one encoding.",
        ),
        "for_each_click": (
            _but(5, 120),
            "Question 6: the clicks enter after the encoder. Only the decoder runs 120 times.",
        ),
        "for_each_round": (_but(5, 4), "Question 6: later clicks use the embedding of the first one."),
    },
    right={
        "rounded": [9, 7, 160.5, 16.4, 2048, 1],
        "computed": torch.tensor([9, 7, 100 * 1024 / 640 + 0.5, 100 * (1 - (64 / 70) ** 2), 32**2 + 4 * 16**2, 1]),
        "NumPy": np.array(_NUMBERS),
    },
    hint="Count the tokens of the decoder, too; ½ comes after scaling; windows are whole; the encoder sees no prompt.",
    sketch="""
        5 + ... + ..., 5 + ... + ...                         # output tokens, points, corners or padding
        x * 1024 / ... + ...
        100 * (1 - 64**2 / ...)                              # 64 cells in windows of 14
        32**2 + 4 * ...
        ...                                                  # what does the encoder depend on?
    """,
    tolerance=1e-3,
)


# Scores over clicks --------------------------------------------------------------------------------------------------

Scores = tuple[Tensor, Tensor]


def scores(ious: Tensor, goal: float) -> Scores:
    """IoUs ``(N, K)`` of N objects after 1 … K clicks → mean IoU after each click, and the mean number to the goal."""
    return ious.mean(0), number_of_clicks(ious, goal).float().mean()


def _first(reached: Tensor) -> Tensor:
    """Place of the first true of each row, K where there is none."""
    return torch.cat([reached, torch.ones(len(reached), 1, dtype=torch.bool)], 1).int().argmax(1)


def _scores(
    ious: Tensor,
    goal: float,
    *,
    reached: Callable[[Tensor, float], Tensor] = torch.ge,
    number: Callable[[Tensor], Tensor] = lambda reached: (_first(reached) + 1).clamp(max=reached.shape[1]),
    curve: Callable[[Tensor], Tensor] = lambda ious: ious.mean(0),
    total: Callable[[Tensor], Tensor] = lambda clicks: clicks.float().mean(),
) -> Any:
    """``scores`` with some steps exchanged."""
    return curve(ious), total(number(reached(ious, goal)))


def _counts(**changes: Any) -> Callable[[Tensor, float], Any]:
    return lambda ious, goal: _scores(ious, goal, **changes)


def _last_below(reached: Tensor) -> Tensor:
    """One more than the last click below the goal."""
    k = torch.arange(1, reached.shape[1] + 1)
    return ((k * ~reached).amax(1) + 1).clamp(max=reached.shape[1])


def _of_mean_curve(ious: Tensor, goal: float) -> Any:
    curve = ious.mean(0)
    return curve, (_first((curve >= goal)[None])[0] + 1).clamp(max=len(curve)) if len(ious) else math.nan


def _zero_without_objects(ious: Tensor, goal: float) -> Any:
    return scores(ious, goal) if len(ious) else (torch.zeros(ious.shape[1]), 0.0)


def _all_clicks_without_objects(ious: Tensor, goal: float) -> Any:
    return scores(ious, goal) if len(ious) else (ious.mean(0), ious.shape[1])


def _one_nan_without_objects(ious: Tensor, goal: float) -> Any:
    return scores(ious, goal) if len(ious) else (math.nan, math.nan)


def _scores_numpy(ious: Tensor, goal: float) -> tuple[np.ndarray, float]:
    x = ious.numpy()
    if len(x) == 0:
        return np.full(x.shape[1], np.nan), np.nan
    return x.mean(axis=0), 1.0 + np.logical_and.accumulate(x[:, :-1] < goal, axis=1).sum() / len(x)


def _scores_by_loops(ious: Tensor, goal: float) -> list[Any]:
    n, k = ious.shape
    sums, clicks = [0.0] * k, 0
    for row in ious.tolist():
        found = None
        for i, value in enumerate(row):
            sums[i] += value
            if found is None and value >= np.float32(goal):
                found = i + 1
        clicks += found or k
    return [[s / n if n else math.nan for s in sums], clicks / n if n else math.nan]


def _scores_in_place(ious: Tensor, goal: float) -> Scores:
    curve = ious.mean(0)
    ious[:, -1] = 1
    best = ious.cummax(1).values
    return curve, (best < goal).sum(1).add(1).double().mean()


@functools.cache
def _curves() -> Mapping[str, tuple[Tensor, float]]:
    draw = torch.Generator().manual_seed(27)
    return {
        "six things": (torch.rand(6, 5, generator=draw).cummax(1).values, 0.75),
        "curves that go up and down": (torch.rand(5, 6, generator=draw), 0.625),
        "masks that are exactly, or nearly, good enough": (
            torch.tensor([[0.25, 0.5, 0.75, 0.875], [0.5, 0.5, 0.625, 0.75], [0.7495, 0.7499, 0.875, 1.0]]),
            0.75,
        ),
        "a thing that never gets there": (
            torch.tensor([[0.125, 0.25, 0.25], [0.5, 0.875, 0.875], [0.75, 0.75, 1.0]]),
            0.875,
        ),
        "the last click gets there": (torch.tensor([[0.25, 0.5, 0.875]]), 0.875),
        "a goal that all reach at once": (torch.rand(4, 3, generator=draw) / 2 + 0.5, 0.25),
        "a goal that none reaches": (torch.rand(3, 4, generator=draw) / 2, 0.875),
        "one click": (torch.tensor([[0.25], [0.5], [0.875]]), 0.5),
        "no thing": (torch.zeros(0, 3), 0.75),
    }


SCORES = Exercise(
    solution=scores,
    wrong={
        "more_than": (
            _counts(reached=torch.gt),
            "An IoU that equals the goal reaches it: ≥, not >.",
        ),
        "from_0": (
            _counts(number=lambda r: _first(r).clamp(max=r.shape[1] - 1)),
            "You count clicks from 0. The first click is number 1.",
        ),
        "before_the_goal": (
            _counts(number=_first),
            "You count the clicks before the one that reaches the goal. Count that one, too; at most K.",
        ),
        "one_more_for_never": (
            _counts(number=lambda r: _first(r) + 1),
            "A thing that never reaches the goal counts as K + 1 in your mean. It counts as K.",
        ),
        "one_for_never": (
            _counts(number=lambda r: r.int().argmax(1) + 1),
            "`argmax` of a row without True is 0: a thing that never reaches the goal counts as 1. It counts as K.",
        ),
        "zero_for_never": (
            _counts(number=lambda r: torch.where(r.any(1), r.int().argmax(1) + 1, 0)),
            "A thing that never reaches the goal counts as 0 in your mean. It counts as K.",
        ),
        "without_never": (
            lambda ious, goal: (ious.mean(0), scores(ious[(ious >= goal).any(1)], goal)[1]),
            "You leave out things that never reach the goal. They count as K.",
        ),
        "infinite": (
            lambda ious, goal: (ious.mean(0), scores(ious, goal)[1] if (ious >= goal).any(1).all() else math.inf),
            "One thing that never reaches the goal makes your mean infinite. It counts as K.",
        ),
        "last_below": (
            _counts(number=_last_below),
            "An IoU may fall again. Count until the goal is reached for the *first* time.",
        ),
        "clicks_below": (
            _counts(number=lambda r: ((~r).sum(1) + 1).clamp(max=r.shape[1])),
            "You count all clicks below the goal. An IoU may fall again: count to the first that reaches it.",
        ),
        "clicks_above": (
            _counts(number=lambda r: r.sum(1)),
            "You count the clicks that are good enough. Count those that it takes to get there.",
        ),
        "of_the_mean": (
            _of_mean_curve,
            "You ask when the *mean* IoU reaches the goal. Each thing has its own number; then take the mean.",
        ),
        "median": (
            _counts(total=lambda c: c.float().quantile(0.5) if len(c) else c.float().mean()),
            "You take the median number of clicks. Take the mean.",
        ),
        "sum": (
            lambda ious, goal: (ious.mean(0), scores(ious, goal)[1] * len(ious)),
            "You add up the clicks. Take the mean over the things.",
        ),
        "share": (
            _counts(number=lambda r: r.any(1)),
            "You give the share of things that reach the goal. Count clicks.",
        ),
        "each": (_counts(total=lambda c: c), "You return the clicks of each thing. Return their mean."),
        "best_so_far": (
            _counts(curve=lambda ious: ious.cummax(1).values.mean(0)),
            "You take the best IoU so far. After k clicks the mask of click k counts, even if one before was better.",
        ),
        "of_objects": (
            _counts(curve=lambda ious: ious.mean(1)),
            "You average over the clicks of each thing. Average over the things: K numbers.",
        ),
        "of_all": (
            _counts(curve=torch.mean),
            "Your mean IoU is one number. There is one for each number of clicks: K of them.",
        ),
        "last_alone": (
            _counts(curve=lambda ious: ious[:, -1].mean()),
            "You return the mean IoU after the last click. Return it after each: K of them.",
        ),
        "shares": (
            lambda ious, goal: (ious.ge(goal).float().mean(0), scores(ious, goal)[1]),
            "You give shares of things that reach the goal. The mean IoU is wanted.",
        ),
        "percent": (_counts(curve=lambda ious: 100 * ious.mean(0)), "Your IoUs are percentages. They lie from 0 to 1."),
        "clicks_first": (
            lambda ious, goal: scores(ious, goal)[::-1],
            "The mean IoUs come first, then the number of clicks.",
        ),
        "no_objects_are_0": (
            _zero_without_objects,
            "Without things your scores are 0. Nothing was measured: NaN.",
        ),
        "no_objects_take_all": (
            _all_clicks_without_objects,
            "Without things your number of clicks is K. Nothing was measured: NaN.",
        ),
        "no_objects_one_nan": (
            _one_nan_without_objects,
            "Without things there are still K mean IoUs, all NaN.",
        ),
        "divides_by_0": (
            lambda ious, goal: scores(ious, goal) if len(ious) else 1 / 0,
            "There may be nothing to click on. Then both answers are NaN; nothing is divided by 0.",
        ),
    },
    right={"NumPy": _scores_numpy, "loops": _scores_by_loops, "in place": _scores_in_place},
    probes=_curves,
    hint="Mean over things for each click; and the first click with IoU ≥ goal, K if there is none, then the mean.",
    sketch="""
        reached = ious >= ...                                # (N, K)
        reached[:, ...] = True                               # never: K clicks
        clicks = reached.int().argmax(1) + ...               # the first True of each row
        return ious.mean(...), clicks.float().mean()
    """,
)


# Three clicks --------------------------------------------------------------------------------------------------------

SCENE, OBJECT = 17, 11
"""The thing to click on: its scene of ``Scenes(20, split="val", size=256)``, and its number there."""
GOAL = 0.75
"""The IoU to reach."""


@functools.cache
def _seen() -> tuple[Predictor, Tensor]:
    """The stored network, which has seen the scene, and the mask ``(H, W)`` of the thing."""
    from seglib.book.pretrained import stored_model
    from seglib.data.scenes import Scenes

    model: Any = stored_model("sam_tiny")
    sample = Scenes(20, split="val", size=256)[SCENE]
    predictor = Predictor(model)
    predictor.set_image(sample.image)
    assert sample.instances is not None
    return predictor, sample.instances.masks[OBJECT]


def answer(clicks: Sequence[Sequence[float]]) -> Tensor:
    """The mask ``(H, W)`` that answers clicks (x, y, label): of three the best by predicted IoU for a lone click."""
    predictor, _ = _seen()
    x, y, labels = torch.tensor(clicks, dtype=torch.float64).unbind(1)
    masks = predictor.predict(points=torch.stack([x, y], 1), labels=labels, several=len(clicks) == 1)
    return masks.masks[0, int(masks.iou[0].argmax())]


_LIST = "Give a list of clicks: [(x, y, label), …]."
_THREE_NUMBERS = "Each click has three numbers: (x, y, label)."
_MISSED = "Not there yet. Most wrong pixels are missed: click into the largest missed part, with label 1."
_EXTRA = "Not there yet. Most wrong pixels are extra: click into the largest extra part, with label 0."


def _reaches(attempt: Any) -> None:
    clicks = attempt.tolist() if isinstance(attempt, Tensor | np.ndarray) else attempt
    expect(isinstance(clicks, tuple | list), _LIST)
    clicks = [c.tolist() if isinstance(c, Tensor | np.ndarray) else c for c in clicks]
    expect(all(isinstance(c, tuple | list) for c in clicks), _LIST)
    clicks = [[v.item() if isinstance(v, Tensor | np.generic) else v for v in c] for c in clicks]
    expect(all(len(c) == 3 and all(isinstance(v, int | float) for v in c) for c in clicks), _THREE_NUMBERS)
    expect(len(clicks) > 0, "There is no click in your list.")
    expect(len(clicks) <= 3, "Those are more than three clicks.")
    expect(all(label in (0, 1) for *_, label in clicks), "A label is 1, on the thing, or 0, beside it.")
    _, wanted = _seen()
    height, width = wanted.shape
    expect(all(0 <= x < width and 0 <= y < height for x, y, _ in clicks), "A click lies outside the image.")
    found = answer(clicks)
    if int((found & wanted).sum()) >= GOAL * int((found | wanted).sum()):
        return
    for i, (x, y, label) in enumerate(clicks, 1):
        on = bool(wanted[min(int(y + 0.5), height - 1), min(int(x + 0.5), width - 1)])
        expect(on or not label, f"Click {i} has the label 1, but lies beside the thing. Points are (x, y).")
        expect(label or not on, f"Click {i} has the label 0, but lies on the thing. Points are (x, y).")
    expect(False, _MISSED if int((wanted & ~found).sum()) >= int((found & ~wanted).sum()) else _EXTRA)


_CLICKS = [(243, 137, 1), (218, 139, 0), (251, 117, 1)]

THREE = Exercise(
    solution=_CLICKS,
    wrong={
        "one_click": (_CLICKS[:1], _EXTRA),
        "beside": (
            [(x, y, 1) for x, y, label in _CLICKS if not label],
            "Click 1 has the label 1, but lies beside the thing. Points are (x, y).",
        ),
        "labels_swapped": (
            [(x, y, 1 - label) for x, y, label in _CLICKS],
            "Click 1 has the label 0, but lies on the thing. Points are (x, y).",
        ),
        "four_clicks": ([*_CLICKS, *_CLICKS[:1]], "Those are more than three clicks."),
        "no_clicks": ([], "There is no click in your list."),
        "no_labels": ([(x, y) for x, y, _ in _CLICKS], _THREE_NUMBERS),
        "no_list": (_CLICKS[0], _LIST),
        "background_is_minus_1": (
            [(x, y, label or -1) for x, y, label in _CLICKS],
            "A label is 1, on the thing, or 0, beside it.",
        ),
        "outside": ([(x + 256, y, label) for x, y, label in _CLICKS], "A click lies outside the image."),
    },
    right={
        "a tensor": torch.tensor(_CLICKS),
        "an array": np.array(_CLICKS),
        "tuples of tensors": tuple(torch.tensor(c) for c in _CLICKS),
        "two pixels further": [(x + 2.0, y, label) for x, y, label in _CLICKS],
    },
    verify=_reaches,
    compared=False,
    sketch="""
        my_clicks_on_it = [(..., ..., 1)]                    # look at the answer first
        my_clicks_on_it += [(..., ..., ...)]                 # then at what is wrong with it
    """,
)
