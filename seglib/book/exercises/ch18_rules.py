"""Chapter 18, "nnU-Net": the exercises on what the rules give in odd cases, and on the choice by validation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seglib.book.exercise import Exercise

# What will the planner say? ------------------------------------------------------------------------------------------


def _with(place: int, value: float) -> tuple[float, ...]:
    """The right numbers but for one."""
    numbers = [2, 1, 2, 4766, 2, 0.5]
    numbers[place] = value
    return tuple(numbers)


PREDICT = Exercise(
    solution=(2, 1, 2, 4766, 2, 0.5),
    wrong={
        "at_once": (_with(0, 1), "The first: 3 mm is 3 times 1 mm. An axis is pooled when it is less than 2 times."),
        "when_equal": (
            _with(0, 3),
            "The first: after one pooling the spacing is (3, 2, 2). Is 3 less than 2 times 2?",
        ),
        "pooled": (
            _with(1, 2),
            "The second: 11 voxels are 8 or more, but the other axes have fewer. A lone axis needs 12.",
        ),
        "poolings": (_with(1, 0), "The second: that is the number of poolings. There is one level more."),
        "odd_one_out": (
            _with(2, 1),
            "The third: axis 1 is the odd one out, but the rule knows the largest spacing alone.",
        ),
        "first_axis": (_with(2, 0), "The third: the axis of the largest spacing comes first, by however little."),
        "five_per_cent": (_with(3, 6000), "The fourth: 6000 is the limit of 5%. What does memory hold?"),
        "one_reference": (_with(3, 397), "The fourth: the budget is that of 12 patches, not of one."),
        "a_usual_batch": (
            _with(3, 12),
            "The fourth: this patch takes far less than the reference, and there is no cap.",
        ),
        "doubled": (_with(4, 20), "The fifth: memory holds twice as many, but what are 5% of 40 images?"),
        "as_before": (_with(4, 10), "The fifth: 5% of 40 images limited the batch already with 8 GB."),
        "four": (_with(4, 4), "The fifth: what are 5% of 40 images?"),
        "a_third": (_with(5, 1 / 3), "The sixth: a batch of 2 cannot have a third of a patch. It is rounded."),
        "nnunets_third": (_with(5, 0.33), "The sixth: a batch of 2 cannot have 0.33 of a patch. It is rounded."),
        "all": (_with(5, 1.0), "The sixth: one patch of two is centred on foreground for sure."),
        "none": (_with(5, 0.0), "The sixth: 2 · 0.67 is rounded to 1 patch that may lie anywhere."),
        "per_cent": (_with(5, 50), "The sixth: a share lies between 0 and 1."),
    },
    right={
        "a list of computed numbers": [2, 1, 2, round(12 * 85e6 / 214_016), max(round(0.05 * 40), 2), 1 - 1 / 2],
        "a tensor": torch.tensor([2, 1, 2, 4766, 2, 0.5]),
    },
    hint="Go through the rules one by one, as the planner does.",
    sketch="""
        z: spacing before each pooling: (3, 1, 1), (3, 2, 2), …
        levels: which axes have 8 voxels? a lone one needs ...
        first axis: that of the largest ...
        batch: round(12 * 85e6 / ...), at most round(0.05 * ... / ...)
        foreground: 1 - round(2 * 0.67) / ...
    """,
)


# The largest component, chosen on validation: find the bugs ----------------------------------------------------------


def choose(before: Tensor, after: Tensor) -> tuple[list[int], Tensor]:
    """Classes whose mean Dice rises with the largest component alone, and the mean Dice with that choice.

    Dice of N cases and K foreground classes before and after, ``(N, K)``, NaN where a class is absent from both.
    """
    return _choose(before, after)


def _choose(
    before: Tensor,
    after: Tensor,
    *,
    mean: Callable[[Tensor], Tensor] = lambda d: d.nanmean(0),
    better: Callable[[Tensor, Tensor], Tensor] = lambda a, b: a > b,
    first: int = 1,
    final: Callable[[Tensor], Tensor] = lambda chosen: chosen.nanmean(0).mean(),
    used: Callable[[Tensor, Tensor, Tensor], Tensor] = torch.where,
) -> tuple[list[int], Tensor]:
    """``choose`` with some steps exchanged."""
    rises = better(mean(after), mean(before))  # (K,)
    return (rises.nonzero()[:, 0] + first).tolist(), final(used(rises, after, before))


def _chosen(**changes: Any) -> Callable[[Tensor, Tensor], tuple[list[int], Tensor]]:
    return lambda before, after: _choose(before, after, **changes)


def _as_written(before: Tensor, after: Tensor) -> tuple[list[int], Tensor]:
    """The code of the exercise."""
    classes = [k for k in range(before.shape[1]) if after[:, k].nan_to_num().mean() >= before.nanmean()]
    return classes, after.nanmean()


def _choose_numpy(before: Tensor, after: Tensor) -> tuple[np.ndarray, float]:
    means = [np.nanmean(d.numpy().astype(float), 0) for d in (before, after)]
    return np.flatnonzero(means[1] > means[0]) + 1, float(np.maximum(*means).mean())


def _choose_by_loops(before: Tensor, after: Tensor) -> tuple[set[int], float]:
    classes, total = set(), 0.0
    for k, columns in enumerate(zip(before.T.tolist(), after.T.tolist(), strict=True), 1):
        there = [[d for d in column if not math.isnan(d)] for column in columns]
        old, new = (math.fsum(d) / len(d) for d in there)
        if new > old:
            classes.add(k)
        total += max(old, new)
    return classes, total / before.shape[1]


def _choose_in_place(before: Tensor, after: Tensor) -> list[Any]:
    there = ~before.isnan()
    for d in (before, after):
        d[~there] = 0
        d /= there.sum(0)
    before, after = before.sum(0), after.sum(0)
    rises = after > before
    before[rises] = after[rises]
    return [1 + torch.arange(len(rises))[rises], before.mean()]


def _listed(value: Any) -> Any:
    """Classes as a sorted list, whatever holds them."""
    if not isinstance(value, tuple | list) or len(value) != 2:
        return value
    classes, mean = value
    if isinstance(classes, Tensor | np.ndarray):
        classes = classes.tolist()
    return (sorted(classes) if isinstance(classes, set | frozenset | tuple | list) else classes), mean


def _folds() -> Mapping[str, tuple[Tensor, Tensor]]:
    nan = math.nan
    return {
        "two classes": (
            torch.tensor([[0.9, 0.6], [0.8, 0.5], [0.85, 0.7]]),
            torch.tensor([[0.93, 0.3], [0.84, 0.5], [0.85, 0.6]]),
        ),
        "classes that are absent from some cases": (
            torch.tensor([[0.9, nan, 0.4], [0.8, 0.5, nan], [0.7, nan, nan], [0.6, 0.7, 0.2]]),
            torch.tensor([[0.9, nan, 0.3], [0.8, 0.6, nan], [0.9, nan, nan], [0.5, 0.8, 0.25]]),
        ),
        "a class that the rule does not change": (
            torch.tensor([[0.9, 0.8], [0.7, 0.6]]),
            torch.tensor([[0.9, 0.7], [0.7, 0.8]]),
        ),
        "a rare class": (
            torch.tensor([[0.9, nan], [0.8, nan], [0.9, nan], [0.7, 0.2]]),
            torch.tensor([[0.92, nan], [0.7, nan], [0.9, nan], [0.7, 0.4]]),
        ),
        "no class": (torch.tensor([[0.5, 0.6], [0.5, nan]]), torch.tensor([[0.4, 0.6], [0.5, nan]])),
        "most cases better, the mean lower": (
            torch.tensor([[0.5, 0.4], [0.5, 0.4], [0.9, 0.4]]),
            torch.tensor([[0.6, 0.7], [0.6, 0.35], [0.3, 0.35]]),
        ),
        "every class": (
            torch.tensor([[0.5, 0.6, 0.7], [nan, 0.3, 0.7]]),
            torch.tensor([[0.6, 0.7, 0.75], [nan, 0.3, 0.7]]),
        ),
    }


def _of_all(before: Tensor, after: Tensor) -> tuple[list[int], Tensor]:
    """All classes or none, by the mean over classes."""
    whole = after.nanmean(0).mean() > before.nanmean(0).mean()
    return list(range(1, 1 + before.shape[1])) if whole else [], (after if whole else before).nanmean(0).mean()


def _by_votes(before: Tensor, after: Tensor) -> tuple[list[int], Tensor]:
    rises = (after > before).sum(0) > (after < before).sum(0)
    return (rises.nonzero()[:, 0] + 1).tolist(), torch.where(rises, after, before).nanmean(0).mean()


def _case_means(d: Tensor) -> Tensor:
    return d.nanmean(1).mean()


CHOOSE = Exercise(
    solution=choose,
    wrong={
        "as_written": (_as_written, "That is the code as it was given."),
        "absent_is_0": (
            _chosen(mean=lambda d: d.nan_to_num().mean(0), final=lambda d: d.nan_to_num().mean(0).mean()),
            "A case without the class counts as 0 in your means. It does not count: `nanmean`.",
        ),
        "absent_is_1": (
            _chosen(mean=lambda d: d.nan_to_num(1.0).mean(0), final=lambda d: d.nan_to_num(1.0).mean(0).mean()),
            "A case without the class counts as 1 in your means. It does not count: `nanmean`.",
        ),
        "nan_stays": (
            _chosen(mean=lambda d: d.mean(0), final=lambda d: d.mean(0).mean()),
            "One case without the class makes its mean NaN, so the class is never chosen. Use `nanmean`.",
        ),
        "complete_cases": (
            lambda before, after: choose(*(d[~before.isnan().any(1)] for d in (before, after))),
            "You leave out a case if any class is absent. It still counts for the classes that are there.",
        ),
        "of_all_classes": (
            _chosen(better=lambda a, b: a > b.mean()),
            "You compare a class with the mean of all. Compare it with itself, before the rule.",
        ),
        "not_worse": (
            _chosen(better=lambda a, b: a >= b),
            "A class that the rule does not improve is chosen in your code: >, not ≥.",
        ),
        "worse": (_chosen(better=lambda a, b: a < b), "You choose the classes that become worse."),
        "columns": (_chosen(first=0), "Column 0 is class 1: class 0 is the background, and has no column."),
        "after_for_all": (
            _chosen(used=lambda rises, after, before: after),
            "Your mean takes the Dice after the rule for all classes. Those not chosen keep the one before.",
        ),
        "before_for_all": (
            _chosen(used=lambda rises, after, before: before),
            "Your mean takes the Dice before the rule. The classes that you chose have the one after.",
        ),
        "pooled": (
            _chosen(final=lambda d: d.nanmean()),
            "You take one mean of all numbers, so that a class of many cases counts more. First over cases, then over "
            "classes.",
        ),
        "by_case": (
            _chosen(final=_case_means),
            "You average over the classes of each case first. First over cases, then over classes.",
        ),
        "chosen_alone": (
            lambda before, after: (
                choose(before, after)[0],
                torch.stack([after[:, k - 1].nanmean() for k in choose(before, after)[0]]).mean()
                if choose(before, after)[0]
                else before.nanmean(0).mean(),
            ),
            "Your mean is of the chosen classes alone. All classes count.",
        ),
        "case_by_case": (
            lambda before, after: (choose(before, after)[0], before.fmax(after).nanmean(0).mean()),
            "Your mean takes the better of both for every case. A class has the rule in all cases, or in none.",
        ),
        "by_votes": (
            _by_votes,
            "You count cases that become better. The mean Dice decides.",
        ),
        "by_median": (
            lambda before, after: _choose(before, after, mean=lambda d: d.nanmedian(0).values),
            "You compare medians. Compare means over the cases.",
        ),
        "all_or_none": (_of_all, "You choose all classes or none. Each class is chosen for itself."),
        "marks": (
            lambda before, after: (
                (after.nanmean(0) > before.nanmean(0)).tolist(),
                choose(before, after)[1],
            ),
            "You return True or False for each class. Return the ids of the chosen ones.",
        ),
        "mean_first": (lambda before, after: choose(before, after)[::-1], "The classes come first, then the mean."),
        "classes_alone": (
            lambda before, after: choose(before, after)[0],
            "Return two things: the classes, and the mean.",
        ),
        "per_class": (
            _chosen(final=lambda d: d.nanmean(0)),
            "Your second answer has a mean for each class. Take the mean of those.",
        ),
    },
    right={"NumPy": _choose_numpy, "loops, a set": _choose_by_loops, "in place": _choose_in_place},
    probes=_folds,
    run=lambda attempt, before, after: _listed(attempt(before, after)),
    hint="A class at a time, absent cases left out; strictly better; ids from 1; first over cases, then over classes.",
    sketch="""
        old, new = before.nanmean(...), ...                  # (K,)
        better = new ... old
        classes = (better.nonzero()[:, 0] + ...).tolist()
        return classes, torch.where(better, ..., ...).mean()
    """,
)
