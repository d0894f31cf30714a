"""The exercises of chapter 10, "Mask R-CNN"."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from seglib.book.exercise import Exercise
from seglib.book.exercises import ch10_detections, ch10_training

# Who is in the mask --------------------------------------------------------------------------------------------------

DECOUPLE = Exercise(
    solution=(3, 1),
    wrong={
        "no_competition": (
            (3, 3),
            "In the softmax the other class and background (logit 0) take their shares: look at the second and the "
            "third pixel again.",
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
        "which_pixels": (
            ("1, 3, 4", "1"),
            "You name the pixels. Count them: two numbers.",
        ),
    },
    right={"a list": [3, 1], "a tensor": torch.tensor([3, 1]), "as real numbers": (3.0, 1.0)},
    hint="A sigmoid is at least ½ where its logit is at least 0. For the softmax take e to each logit (background: 1).",
    sketch="""
        sigmoids: how many logits of A are ... or more?
        softmax:  at each pixel eᴬ / (eᴬ + eᴮ + 1); how many are ... or more?
    """,
)
"""Logits of A: 1, −0.5, 0.5, 2; of B: −1, −3, 2, 1.9; of background 0."""


# Where a pixel looks into the mask -----------------------------------------------------------------------------------


def cell_of(pixel: int, low: float, high: float, side: int) -> float:
    """The cell, between 0 and side − 1, at which a pixel of the image reads a mask that fills [low, high]."""
    return (pixel + 0.5 - low) / (high - low) * side - 0.5


def _cell_between(pixel: int, low: float, high: float, side: int) -> np.floating:
    """From the centres of the first and the last cell."""
    width = (high - low) / side
    first, last = low + width / 2, high - width / 2
    return np.float64((pixel + 0.5 - first) / (last - first) * (side - 1))


def _pixels() -> Mapping[str, tuple[int, float, float, int]]:
    return {
        "pixel 14, a box from 10 to 24 and 28 cells": (14, 10.0, 24.0, 28),
        "a box that begins between two pixels": (3, 2.25, 9.75, 28),
        "one cell per pixel": (7, 5.0, 19.0, 14),
        "a box that begins outside": (0, -3.0, 11.0, 28),
        "a pixel whose centre is read before the first cell's": (5, 5.25, 33.25, 14),
        "a pixel whose centre is read behind the last cell's": (18, 5.0, 18.75, 14),
        "a box of two pixels": (4, 4.0, 6.0, 7),
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
        "clamped": (
            lambda p, a, b, m: min(max(cell_of(p, a, b, m), 0.0), m - 1.0),
            "You cut the answer at the first and the last cell. Near the edges it lies beyond them: give it as it is.",
        ),
        "nearest": (
            lambda p, a, b, m: round(cell_of(p, a, b, m)),
            "You round to the nearest cell. The answer lies between cells: bilinear sampling needs it as it is.",
        ),
        "cell_that_holds_it": (
            lambda p, a, b, m: math.floor(cell_of(p, a, b, m) + 0.5 + 1e-9),
            "That is the cell in which the centre lies. Where does it lie between the cells' centres?",
        ),
        "from_the_right": (
            lambda p, a, b, m: m - 1 - cell_of(p, a, b, m),
            "You count the cells from `high`. Cell 0 is at `low`.",
        ),
        "from_minus_one_to_one": (
            lambda p, a, b, m: 2 * (p + 0.5 - a) / (b - a) - 1,
            "That is the position as `grid_sample` wants it, from −1 to 1. The answer is a number of cells.",
        ),
    },
    right={
        "the box's own cells first": lambda p, a, b, m: (p + 0.5 - (a + (b - a) / m / 2)) * m / (b - a),
        "a tensor": lambda p, a, b, m: (torch.tensor(p + 0.5, dtype=torch.float64) - a).mul_(m / (b - a)).sub_(0.5),
        "interpolation between the outer cells": _cell_between,
    },
    probes=_pixels,
    hint="Which share of the box lies left of the pixel's centre? How many cells is that, and where is cell 0?",
    sketch="""
        share = (... - low) / (high - low)        # of the box, left of the pixel's centre
        return share * ... - ...                  # cells from low, less those left of cell 0's centre
    """,
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
    def case(own: list[float], taken: list[int], others: list[float]) -> tuple[Tensor, Tensor, Tensor]:
        f, b = torch.float64, torch.bool
        return torch.tensor(own, dtype=f), torch.tensor(taken, dtype=b), torch.tensor(others, dtype=f)

    return {
        "IoU 0.7 with a free object of its class": case([0.7], [0], []),
        "IoU 0.7 with a free one and 0.9 with another class": case([0.7], [0], [0.9]),
        "IoU 0.5 with a free one": case([0.5], [0], []),
        "IoU 0.49 with a free one": case([0.49], [0], []),
        "IoU 0.7 with a taken one": case([0.7], [1], []),
        "IoU 0.5 with a taken one": case([0.5], [1], []),
        "IoU 0.6 with a taken and 0.5 with a free one": case([0.6, 0.5], [1, 0], []),
        "IoU 0.6 with a taken and 0.3 with a free one": case([0.6, 0.3], [1, 0], []),
        "IoU 0.3 with a taken and 0.6 with a free one": case([0.3, 0.6], [1, 0], []),
        "IoU 0.3 with its class and 0.8 with another": case([0.3], [0], [0.8]),
        "IoU 0.3 with a taken one and 0.8 with another class": case([0.3], [1], [0.8]),
        "IoU 0.7 with a taken one and 0.9 with another class": case([0.7], [1], [0.9]),
        "IoU 0.5 with another class": case([], [], [0.5]),
        "IoU 0.05 with its class and 0.7 with another": case([0.05], [0], [0.2, 0.7]),
        "IoU 0.3 with its class": case([0.3], [0], []),
        "IoU 0.3 with a taken one": case([0.3], [1], []),
        "IoU 0.1 with its class": case([0.1], [0], []),
        "IoU 0.3 with its class and 0.2 with another": case([0.3], [0], [0.2]),
        "IoU 0.3 with its class and 0.4 with another": case([0.3], [0], [0.4]),
        "IoU 0.2 with another class": case([], [], [0.2]),
        "IoU 0.1 with another class": case([0.02], [0], [0.1]),
        "IoU 0.05 with its class": case([0.05], [0], []),
        "IoU 0.05 with another class": case([], [], [0.05]),
        "IoU 0.05 with everything": case([0.05, 0.05, 0.05], [0, 1, 0], [0.05, 0.05]),
        "no object": case([], [], []),
    }


def _mistaken(
    order: tuple[str, ...] = ("correct", "duplicate", "class", "location", "both"),
    *,
    strict: str = "",
    near: float = 0.1,
    **tests: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> Callable[[Tensor, Tensor, Tensor], str]:
    """``error_of`` with another order, a ``>`` for one type, or other tests."""
    least = {"correct": 0.5, "duplicate": 0.5, "class": 0.5, "location": near, "both": near}

    def hit(name: str, iou: Tensor) -> Tensor:
        return iou > least[name] if name == strict else iou >= least[name]

    usual: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
        "correct": lambda own, taken, others: hit("correct", own) & ~taken,
        "duplicate": lambda own, taken, others: hit("duplicate", own) & taken,
        "class": lambda own, taken, others: hit("class", others),
        "location": lambda own, taken, others: hit("location", own),
        "both": lambda own, taken, others: hit("both", others),
    }

    def error(own: Tensor, taken: Tensor, others: Tensor) -> str:
        found = {name: bool(test(own, taken, others).any()) for name, test in (usual | tests).items()}
        return next((name for name in order if found[name]), "background")

    return error


def _error_by_best(own: Tensor, taken: Tensor, others: Tensor) -> str:
    """Only the object of largest IoU counts, whatever its class."""
    mine, other = (float(v.max()) if len(v) else 0.0 for v in (own, others))
    if mine >= other:
        if mine >= 0.5:
            return "duplicate" if taken[own.argmax()] else "correct"
        return "location" if mine >= 0.1 else "background"
    return "class" if other >= 0.5 else "both" if other >= 0.1 else "background"


def _error_careless(own: Tensor, taken: Tensor, others: Tensor) -> str:
    """Takes maxima, which empty tensors have not."""
    best = own.max()
    if best >= 0.5:
        return error_of(own, taken, others)
    return "class" if others.max() >= 0.5 else "location" if best >= 0.1 else "both" if others.max() >= 0.1 else "none"


def _error_loop(own: Tensor, taken: Tensor, others: Tensor) -> str:
    rank = ["correct", "duplicate", "class", "location", "both", "background"]
    said = ["background"]
    for iou, is_taken in zip(own.tolist(), taken.tolist(), strict=True):
        if iou >= 0.5:
            said.append("duplicate" if is_taken else "correct")
        elif iou >= 0.1:
            said.append("location")
    said += ["class" if iou >= 0.5 else "both" for iou in others.tolist() if iou >= 0.1]
    return min(said, key=rank.index)


def _error_in_place(own: Tensor, taken: Tensor, others: Tensor) -> str:
    """Writes into its arguments."""
    own.mul_(2)
    others.mul_(2)
    if (own[~taken] >= 1).any():
        return "correct"
    if (own >= 1).any():
        return "Duplicate"
    if (others >= 1).any():
        return "class"
    return "location" if (own >= 0.2).any() else "both" if (others >= 0.2).any() else "background"


def _error_numpy(own: Tensor, taken: Tensor, others: Tensor) -> str:
    o, t, x = own.numpy(), taken.numpy(), others.numpy()
    tests = [o[~t].max(initial=0) >= 0.5, o.max(initial=0) >= 0.5, x.max(initial=0) >= 0.5]
    tests += [o.max(initial=0) >= 0.1, x.max(initial=0) >= 0.1, True]
    return ["correct", "duplicate", "class", "location", "both", "background"][int(np.argmax(tests))]


ERRORS = Exercise(
    solution=error_of,
    wrong={
        "taken_twice": (
            _mistaken(correct=lambda own, taken, others: own >= 0.5),
            "An object can be found once. The second detection of it is a duplicate.",
        ),
        "free_somewhere": (
            _mistaken(correct=lambda own, taken, others: (own >= 0.5).any() & (~taken).any()),
            "It is one and the same object that must be free and overlapped by 0.5.",
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
        "class_before_correct": (
            _mistaken(("class", "correct", "duplicate", "location", "both")),
            "A detection with a free object of its class is correct, whatever else it overlaps.",
        ),
        "location_before_duplicate": (
            _mistaken(("correct", "location", "duplicate", "class", "both")),
            "From an IoU of 0.5 on the place is right: ask for duplicate before location.",
        ),
        "both_before_location": (
            _mistaken(("correct", "duplicate", "class", "both", "location")),
            "The first type that fits: location comes before both.",
        ),
        "strict": (_mistaken(strict="correct"), "An IoU of exactly 0.5 with a free object is correct."),
        "strict_duplicate": (_mistaken(strict="duplicate"), "An IoU of exactly 0.5 with a taken one is a duplicate."),
        "strict_class": (_mistaken(strict="class"), "An IoU of exactly 0.5 with another class is of type class."),
        "strict_location": (_mistaken(strict="location"), "An IoU of exactly 0.1 with its class is of type location."),
        "strict_both": (_mistaken(strict="both"), "An IoU of exactly 0.1 with another class is of type both."),
        "location_of_free_ones": (
            _mistaken(location=lambda own, taken, others: (own >= 0.1) & ~taken),
            "For location it doesn't matter whether the object is taken.",
        ),
        "anything_near": (
            _mistaken(near=0.01),
            "An overlap below 0.1 is no attempt at an object: background.",
        ),
        "no_both": (
            _mistaken(("correct", "duplicate", "class", "location")),
            "An overlap of 0.1 to 0.5 with another class has a type of its own: both.",
        ),
        "nearest_object": (
            _error_by_best,
            "You ask about the object of largest IoU alone. Ask for each type in turn whether *any* object fits.",
        ),
        "no_empty": (
            _error_careless,
            "There may be no object of its class, or of other classes: an empty tensor has no maximum.",
        ),
    },
    right={
        "a loop": _error_loop,
        "in place": _error_in_place,
        "NumPy": _error_numpy,
    },
    probes=_overlaps,
    hint="Ask in this order: correct, duplicate, class, location, both; and background if none fits.",
    sketch="""
        if ((own >= 0.5) & ~taken).any():
            return "correct"
        if ...:
            return "duplicate"
        ...                                       # class, location and both, in this order
        return "background"
    """,
)


EXERCISES: dict[str, Exercise] = {
    **ch10_detections.EXERCISES,
    **ch10_training.EXERCISES,
    "ch10.decouple": DECOUPLE,
    "ch10.cell": CELL,
    "ch10.errors": ERRORS,
}
