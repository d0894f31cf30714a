"""The exercises of chapter 10, "Mask R-CNN"."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from seglib.book.exercise import Exercise

# Who is in the mask --------------------------------------------------------------------------------------------------

DECOUPLE = Exercise(
    solution=(3, 1),
    wrong={
        "no_competition": (
            (3, 3),
            "In the softmax a strong logit of the other class takes its share: look at the third pixel again.",
        ),
        "largest_of_three": (
            (3, 2),
            "At the last pixel A has the largest share, 0.49. In the mask is what has ½ or more.",
        ),
        "largest_wins": (
            (2, 1),
            "Each sigmoid looks at its own logit alone. Where is the logit of A at least 0, whatever B says?",
        ),
        "swapped": ((1, 3), "You have the two the wrong way round: the sigmoid masks come first."),
        "never": (
            (3, 0),
            "For the softmax you find no pixel. At the first one A has e¹ = 2.7 of 2.7 + 0.4 + 1.",
        ),
        "all": ((4, 1), "At the second pixel the logit of A is −0.5: a sigmoid of 0.38."),
        "everything": (
            (4, 4),
            "A negative logit means less than ½ for a sigmoid, and background has a share in the softmax too.",
        ),
    },
    hint="A sigmoid is at least ½ where its logit is at least 0. For the softmax take e to each logit (background: 1).",
)
"""Logits of A: 1, −0.5, 0.5, 2; of B: −1, −3, 2, 1.9; of background 0."""


# The sample ----------------------------------------------------------------------------------------------------------


def sample_counts(
    foreground: int, background: int, batch_size_per_image: int, positive_fraction: float
) -> tuple[int, int]:
    """How much foreground and how much background is drawn."""
    taken = min(foreground, int(batch_size_per_image * positive_fraction))
    return taken, min(background, batch_size_per_image - taken)


def _samples() -> Mapping[str, tuple[int, int, int, float]]:
    return {
        "much foreground": (400, 3000, 512, 0.25),
        "little foreground": (20, 3000, 512, 0.25),
        "no foreground": (0, 700, 512, 0.25),
        "little of both": (30, 50, 512, 0.25),
        "much foreground and little background": (400, 50, 512, 0.25),
        "an RPN": (10, 9000, 256, 0.5),
    }


SAMPLE = Exercise(
    solution=sample_counts,
    wrong={
        "fixed_background": (
            lambda f, b, n, s: (min(f, int(n * s)), min(b, n - int(n * s))),
            "Where there is little foreground, background fills the sample up: its part isn't fixed.",
        ),
        "fixed_ratio": (
            lambda f, b, n, s: (min(f, int(n * s)), min(b, int(min(f, int(n * s)) * (1 - s) / s))),
            "You keep the ratio and make the sample smaller. The fraction is an upper bound for foreground, no more.",
        ),
        "all_foreground": (
            lambda f, b, n, s: (min(f, n), min(b, n - min(f, n))),
            "Foreground may take its fraction at most, else four hundred RoIs leave no room for background.",
        ),
        "foreground_fills": (
            lambda f, b, n, s: (min(f, n - min(b, n - int(n * s))), min(b, n - int(n * s))),
            "Background is what fills up, not foreground: the second stage must learn to say no.",
        ),
        "beyond_what_is_there": (
            lambda f, b, n, s: (min(f, int(n * s)), n - min(f, int(n * s))),
            "There may be fewer background proposals than there is room for.",
        ),
        "always_full": (
            lambda f, b, n, s: (int(n * s), n - int(n * s)),
            "You count what there is room for. There may be less foreground, or less background, than that.",
        ),
        "swapped": (lambda f, b, n, s: sample_counts(f, b, n, s)[::-1], "Return the foreground first."),
    },
    probes=_samples,
    hint="Foreground: as much as there is, but at most its fraction. Then background, as much as there is room for.",
)


# Where a pixel looks into the mask -----------------------------------------------------------------------------------


def cell_of(pixel: int, low: float, high: float, side: int) -> float:
    """The cell, between 0 and side − 1, at which a pixel of the image reads a mask that fills [low, high]."""
    return (pixel + 0.5 - low) / (high - low) * side - 0.5


def _pixels() -> Mapping[str, tuple[int, float, float, int]]:
    return {
        "pixel 14, a box from 10 to 24 and 28 cells": (14, 10.0, 24.0, 28),
        "a box that begins between two pixels": (3, 2.25, 9.75, 28),
        "one cell per pixel": (7, 5.0, 19.0, 14),
        "a box that begins outside": (0, -3.0, 11.0, 28),
    }


CELL = Exercise(
    solution=cell_of,
    wrong={
        "pixel_corner": (
            lambda p, a, b, m: (p - a) / (b - a) * m - 0.5,
            "A pixel's centre lies half a pixel right of its left edge: read at pixel + ½.",
        ),
        "cell_corner": (
            lambda p, a, b, m: (p + 0.5 - a) / (b - a) * m,
            "That is where the pixel lies in units of cells from the box's edge. Cell 0 is centred half a cell inside.",
        ),
        "no_halves": (
            lambda p, a, b, m: (p - a) / (b - a) * m,
            "Two halves are missing: that of the pixel's centre, and that of the cell's.",
        ),
        "corners_on_corners": (
            lambda p, a, b, m: (p + 0.5 - a) / (b - a) * (m - 1),
            "You stretch the centres of the outer cells to the edges of the box (align_corners=True). "
            "The cells fill the box, so their centres stay half a cell inside.",
        ),
        "both_ends_counted": (
            lambda p, a, b, m: (p + 0.5 - a) / (b - a + 1) * m - 0.5,
            "The width of a box is high − low. The + 1 comes from boxes that count pixels.",
        ),
        "upside_down": (
            lambda p, a, b, m: (p + 0.5 - a) / m * (b - a) - 0.5,
            "You divide by the cells and multiply by the pixels. It is the other way round.",
        ),
    },
    probes=_pixels,
    hint="Which share of the box lies left of the pixel's centre? How many cells is that, and where is cell 0?",
)


# What is wrong with a detection --------------------------------------------------------------------------------------


def error_of(own: Tensor, taken: Tensor, others: Tensor) -> str:
    """What a detection is, from its IoU with the objects of its class (and whether they are taken) and with others."""
    if bool(((own >= 0.5) & ~taken).any()):
        return "correct"
    if bool(((own >= 0.5) & taken).any()):
        return "duplicate"
    if bool((others >= 0.5).any()):
        return "class"
    if bool((own >= 0.1).any()):
        return "location"
    return "both" if bool((others >= 0.1).any()) else "background"


def _overlaps() -> Mapping[str, tuple[Tensor, Tensor, Tensor]]:
    none, no, yes = torch.zeros(0), torch.tensor([False]), torch.tensor([True])
    return {
        "IoU 0.7 with a free object of its class": (torch.tensor([0.7]), no, none),
        "IoU 0.5 with a free one": (torch.tensor([0.5]), no, none),
        "IoU 0.7 with a taken one": (torch.tensor([0.7]), yes, none),
        "IoU 0.6 with a taken and 0.5 with a free one": (torch.tensor([0.6, 0.5]), torch.tensor([True, False]), none),
        "IoU 0.3 with its class and 0.8 with another": (torch.tensor([0.3]), no, torch.tensor([0.8])),
        "IoU 0.7 with a taken one and 0.9 with another class": (torch.tensor([0.7]), yes, torch.tensor([0.9])),
        "IoU 0.3 with its class": (torch.tensor([0.3]), no, none),
        "IoU 0.3 with a taken one": (torch.tensor([0.3]), yes, none),
        "IoU 0.2 with another class": (none, no[:0], torch.tensor([0.2])),
        "IoU 0.05 with everything": (torch.tensor([0.05]), no, torch.tensor([0.05])),
        "no object": (none, no[:0], none),
    }


def _mistaken(
    order: tuple[str, ...] = ("correct", "duplicate", "class", "location", "both"),
    *,
    strict: bool = False,
    near: float = 0.1,
    free_only: bool = True,
) -> Callable[[Tensor, Tensor, Tensor], str]:
    """``error_of`` with another order or other thresholds."""

    def error(own: Tensor, taken: Tensor, others: Tensor) -> str:
        tests = {
            "correct": ((own > 0.5 if strict else own >= 0.5) & (~taken if free_only else taken | ~taken)).any(),
            "duplicate": ((own >= 0.5) & taken).any(),
            "class": (others >= 0.5).any(),
            "location": (own >= near).any(),
            "both": (others >= near).any(),
        }
        return next((name for name in order if bool(tests[name])), "background")

    return error


ERRORS = Exercise(
    solution=error_of,
    wrong={
        "taken_twice": (
            _mistaken(free_only=False),
            "An object can be found once. The second detection of it is a duplicate.",
        ),
        "best_only": (
            _mistaken(("duplicate", "correct", "class", "location", "both")),
            "A taken object doesn't make a duplicate while a free one of its class is overlapped enough too.",
        ),
        "class_last": (
            _mistaken(("correct", "duplicate", "location", "class", "both")),
            "Look for a wrong class before a wrong place: an IoU of 0.8 with another class is about that object.",
        ),
        "class_first": (
            _mistaken(("correct", "class", "duplicate", "location", "both")),
            "A second detection of a found object is a duplicate, whatever else it overlaps.",
        ),
        "strict": (
            _mistaken(strict=True),
            "An IoU of exactly 0.5 counts as found.",
        ),
        "anything_near": (
            _mistaken(near=0.01),
            "An overlap below 0.1 is no attempt at an object: background.",
        ),
    },
    probes=_overlaps,
    hint="Ask in this order: correct, duplicate, class, location, both; and background if none fits.",
)


# Where to cut --------------------------------------------------------------------------------------------------------


def best_threshold(scores: Tensor, correct: Tensor, objects: int) -> float:
    """The score of the last detection to keep, so that F1 over the kept ones is largest."""
    order = scores.argsort(descending=True, stable=True)
    hits = correct[order].cumsum(0)  # (D,)
    kept = torch.arange(1, len(order) + 1)
    f1 = 2 * hits / (kept + objects)
    return float(scores[order][f1.argmax()])


def _detections() -> Mapping[str, tuple[Tensor, Tensor, int]]:
    right, wrong = True, False
    return {
        "five detections": (
            torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5]), torch.tensor([right, right, wrong, right, wrong]), 4,
        ),
        "a wrong one on top": (
            torch.tensor([0.2, 0.95, 0.6, 0.4]), torch.tensor([wrong, wrong, right, right]), 3,
        ),
        "most objects missed": (
            torch.tensor([0.9, 0.5, 0.4, 0.3]), torch.tensor([right, wrong, wrong, right]), 20,
        ),
        "a sure one first": (torch.tensor([0.2, 0.9, 0.3]), torch.tensor([wrong, right, wrong]), 2),
        "all right": (torch.tensor([0.3, 0.6, 0.9]), torch.tensor([right, right, right]), 3),
    }  # fmt: skip


def _by(measure: Callable[[Tensor, Tensor, int], Tensor], *, last: bool = False) -> Callable[..., float]:
    """The threshold that is best by another measure of hits, kept detections and objects."""

    def threshold(scores: Tensor, correct: Tensor, objects: int) -> float:
        order = scores.argsort(descending=True, stable=True)
        value = measure(correct[order].cumsum(0).double(), torch.arange(1, len(order) + 1), objects)
        best = len(value) - 1 - int(value.flip(0).argmax()) if last else int(value.argmax())
        return float(scores[order][best])

    return threshold


def _one_further(scores: Tensor, correct: Tensor, objects: int) -> float:
    falling = scores.sort(descending=True).values.tolist()
    place = falling.index(torch.tensor(best_threshold(scores, correct, objects)).item())
    return falling[min(place + 1, len(falling) - 1)]


def _unsorted(scores: Tensor, correct: Tensor, objects: int) -> float:
    f1 = 2 * correct.cumsum(0) / (torch.arange(1, len(scores) + 1) + objects)
    return float(scores[f1.argmax()])


CUT = Exercise(
    solution=best_threshold,
    wrong={
        "precision": (
            _by(lambda hits, kept, objects: hits / kept),
            "That is the best precision: one sure detection. What you miss must cost something too.",
        ),
        "recall": (
            _by(lambda hits, kept, objects: hits / objects, last=True),
            "That is the best recall: keep all. Wrong detections must cost something too.",
        ),
        "unsorted": (_unsorted, "The detections aren't sorted by score: sort them first."),
        "one_too_far": (
            _one_further,
            "You return the score of the first detection to drop. The threshold is the last that is kept.",
        ),
        "hits_minus_errors": (
            _by(lambda hits, kept, objects: 2 * hits - kept, last=True),
            "You maximise right minus wrong detections. F1 divides by all detections and all objects.",
        ),
    },
    probes=_detections,
    hint="With the n best kept: TP = correct ones among them, FP + TP = n, FN + TP = objects.",
    tolerance=1e-6,
)


EXERCISES: dict[str, Exercise] = {
    "ch10.decouple": DECOUPLE,
    "ch10.sample": SAMPLE,
    "ch10.cell": CELL,
    "ch10.errors": ERRORS,
    "ch10.cut": CUT,
}
