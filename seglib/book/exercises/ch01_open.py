"""The exercises of chapter 1 that stand in "Exercises" and go beyond the formats."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from seglib.book.exercise import Exercise, expect
from seglib.types import VOID

NAN = float("nan")


# IoU from run lengths -------------------------------------------------------------------------------------------------


def rle_iou(a: Sequence[int], b: Sequence[int]) -> float:
    """The IoU of two masks of one size from their run lengths, NaN when both are empty."""
    both, either = _shared(a, b)
    return both / either if either else NAN


def _shared(a: Sequence[int], b: Sequence[int]) -> tuple[int, int]:
    """The pixels in both masks, and those in at least one."""
    ends_a, ends_b = np.cumsum(a), np.cumsum(b)
    cuts = np.unique(np.concatenate([[0], ends_a, ends_b]))
    begins, lengths = cuts[:-1], np.diff(cuts)
    in_a, in_b = (np.searchsorted(ends, begins, side="right") % 2 == 1 for ends in (ends_a, ends_b))
    return int(lengths[in_a & in_b].sum()), int(lengths[in_a | in_b].sum())


def _decoded_iou(a: Sequence[int], b: Sequence[int]) -> float:
    masks = [torch.arange(len(c)).repeat_interleave(torch.tensor(c)) % 2 == 1 for c in (a, b)]
    either = int((masks[0] | masks[1]).sum())
    return int((masks[0] & masks[1]).sum()) / either if either else NAN


def _areas_alone(a: Sequence[int], b: Sequence[int]) -> float:
    """As if the smaller mask lay inside the larger one."""
    ones = sum(a[1::2]), sum(b[1::2])
    return min(ones) / max(ones) if max(ones) else NAN


def _of_zeros(a: Sequence[int], b: Sequence[int]) -> float:
    return rle_iou([0, *a], [0, *b])


def _pairs_in_order(a: Sequence[int], b: Sequence[int]) -> float:
    """Compares the first run of ones with the first, the second with the second, and so on."""
    spans = [list(zip(np.cumsum(c)[0::2].tolist(), np.cumsum(c)[1::2].tolist(), strict=False)) for c in (a, b)]
    both = sum(max(0, min(e, f) - max(s, t)) for (s, e), (t, f) in zip(*spans, strict=False))
    either = sum(a[1::2]) + sum(b[1::2]) - both
    return both / either if either else NAN


def _when_empty(value: float) -> Callable[[Sequence[int], Sequence[int]], float]:
    def iou(a: Sequence[int], b: Sequence[int]) -> float:
        both, either = _shared(a, b)
        return both / either if either else value

    return iou


def _iou_with_two_hands(a: list[int], b: list[int]) -> float:
    """Takes from the front of both lists what they share, and empties them."""
    in_a = in_b = False
    both = either = 0
    while a and b:
        step = min(a[0], b[0])
        both += step * (in_a and in_b)
        either += step * (in_a or in_b)
        a[0] -= step
        b[0] -= step
        if not a[0]:
            a.pop(0)
            in_a = not in_a
        if b and not b[0]:
            b.pop(0)
            in_b = not in_b
    return both / either if either else NAN


def _iou_of_intervals(a: Sequence[int], b: Sequence[int]) -> Tensor:
    """Every run of ones with every other."""
    spans = []
    for counts in (a, b):
        ends = torch.tensor(counts).cumsum(0)
        spans.append((ends[0::2][: len(counts) // 2], ends[1::2]))
    (s, e), (t, f) = spans
    both = (torch.minimum(e[:, None], f) - torch.maximum(s[:, None], t)).clamp(min=0).sum()
    return both.double() / ((e - s).sum() + (f - t).sum() - both)


def _run_pairs() -> Mapping[str, tuple[list[int], list[int]]]:
    return {
        "[3, 4, 5] and [5, 4, 3]": ([3, 4, 5], [5, 4, 3]),
        "masks with three runs of ones each": ([2, 3, 1, 4, 6, 2, 2], [0, 1, 9, 5, 1, 3, 1]),
        "a mask that starts and ends with ones": ([0, 3, 6, 3], [2, 8, 2]),
        "equal masks": ([4, 4, 3, 1, 3, 1, 4], [4, 4, 3, 1, 3, 1, 4]),
        "masks that don't meet": ([0, 4, 8], [6, 6]),
        "a full and an empty mask": ([0, 12], [12]),
        "two empty masks": ([12], [12]),
        "masks in an image of 10¹⁵ pixels": (
            [2 * 10**14, 3 * 10**14, 5 * 10**14],
            [4 * 10**14, 2 * 10**14, 10**14, 10**14, 2 * 10**14],
        ),
    }


RLE_IOU = Exercise(
    solution=rle_iou,
    probes=_run_pairs,
    wrong={
        "decoded": (
            _decoded_iou,
            "You decode the masks, and a large image doesn't fit into memory. Work with the places where runs end.",
        ),
        "zeros": (_of_zeros, "That is the IoU of the zeros. The first run counts zeros, the second ones."),
        "dice": (
            lambda a, b: 2 * rle_iou(a, b) / (1 + rle_iou(a, b)),
            "That is Dice. IoU divides the pixels in both masks by those in at least one.",
        ),
        "sum": (
            lambda a, b: _shared(a, b)[0] / n if (n := sum(a[1::2]) + sum(b[1::2])) else NAN,
            "You divide by the sum of both areas. The union counts the pixels in both masks once.",
        ),
        "areas": (_areas_alone, "You compare areas alone. Two masks of equal area may lie apart: ask where runs are."),
        "in_order": (
            _pairs_in_order,
            "You compare each run of ones with one run of the other mask. It may meet several.",
        ),
        "first_area": (
            lambda a, b: _shared(a, b)[0] / n if (n := sum(a[1::2])) else NAN,
            "You divide by the first mask's area. The union holds the second mask's pixels too.",
        ),
        "image": (
            lambda a, b: _shared(a, b)[0] / sum(a) if _shared(a, b)[1] else NAN,
            "You divide by the pixels of the image. Divide by those in at least one mask.",
        ),
        "empty_0": (_when_empty(0.0), "Two empty masks: 0/0 is no number. Return NaN, not 0."),
        "empty_1": (_when_empty(1.0), "Two empty masks: 0/0 is no number. Return NaN, not 1."),
        "empty_fails": (
            lambda a, b: _shared(a, b)[0] / _shared(a, b)[1],
            "Two empty masks have an empty union: return NaN there.",
        ),
    },
    right={
        "both lists from the front, emptied": _iou_with_two_hands,
        "intervals, every one with every other": _iou_of_intervals,
    },
    hint="Cut the line wherever a run of one of the masks ends. Between two cuts both masks are constant.",
    sketch="""
    ends_a, ends_b = ...              # where the runs end: sums from the front
    cuts = ...                        # all of them, sorted; between two cuts nothing changes
    for each piece between two cuts:
        in_a, in_b = ...              # is the run that holds it one of ones?
        both += ...; either += ...    # its length
    """,
)


# Two answers from one file --------------------------------------------------------------------------------------------

Answers = tuple[Tensor, Tensor]


def two_answers(rgb: Tensor, classes: Mapping[int, int], things: Sequence[int]) -> Answers:
    """A panoptic PNG ``(H, W, 3)`` → the class map ``(H, W)``, void 255, and the masks of the things ``(N, H, W)``."""
    return _answers(rgb, classes, things)


def _answers(
    rgb: Tensor,
    classes: Mapping[int, int],
    things: Sequence[int],
    *,
    ids: Callable[[Tensor], Tensor] = lambda rgb: (rgb.long() * torch.tensor([1, 256, 256**2])).sum(-1),
    void: int = VOID,
    name: Callable[[int, int], int] = lambda i, c: c,
    is_thing: Callable[[int, int, Sequence[int]], bool] = lambda i, c, things: c in things,
    order: Callable[[Mapping[int, int]], list[int]] = lambda classes: sorted(classes),
    none: Callable[[Tensor], Tensor] = lambda segments: torch.zeros(0, *segments.shape, dtype=torch.bool),
) -> Answers:
    """:func:`two_answers`, with one rule changed.

    Args:
        rgb: colours, (H, W, 3) uint8.
        classes: the class of each id.
        things: the classes that are things.
        ids: what reads colours as ids.
        void: what pixels without a listed segment hold.
        name: what a segment's pixels hold in the class map.
        is_thing: whether a segment gets a mask.
        order: the ids in the order of the masks.
        none: what is returned as masks where no segment is a thing.
    """
    segments = ids(rgb)
    semantic = torch.full(segments.shape, void)
    for i, c in classes.items():
        semantic[segments == i] = name(i, c)
    masks = [segments == i for i in order(classes) if is_thing(i, classes[i], things)]
    return semantic, torch.stack(masks) if masks else none(segments)


def _changed(**rules: Any) -> Callable[..., Answers]:
    return lambda rgb, classes, things: _answers(rgb, classes, things, **rules)


def _in_bytes(rgb: Tensor) -> Tensor:
    r, g, b = rgb.unbind(-1)
    return r + 256 * g + 256**2 * b


_AS_WRITTEN: dict[str, Any] = {
    "ids": _in_bytes,
    "void": 0,
    "name": lambda i, c: i,
    "is_thing": lambda i, c, things: i in things,
    "order": list,
    "none": lambda segments: (segments < 0)[None],
}
"""The six mistakes of the function that the chapter shows."""


def _files() -> Mapping[str, tuple[Tensor, dict[int, int], list[int]]]:
    ids = torch.tensor([[5, 5, 0, 2, 2], [5, 261, 261, 2, 70_000], [9, 9, 261, 70_000, 70_000]])
    rgb = torch.stack([ids % 256, ids // 256 % 256, ids // 256**2], -1).to(torch.uint8)
    small = torch.where(ids < 256, ids, 9)
    few = torch.stack([small, torch.zeros_like(ids), torch.zeros_like(ids)], -1).to(torch.uint8)
    return {
        "a file with ids up to 70,000": (rgb, {261: 1, 5: 3, 70_000: 1, 2: 0, 9: 4}, [0, 1]),
        "a file with ids below 256": (few, {9: 2, 2: 2, 5: 0}, [2]),
        "a file without things": (few, {9: 1, 2: 3, 5: 0}, [2, 5]),
    }


def _answers_with_numpy(rgb: Tensor, classes: dict[int, int], things: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    r, g, b = np.moveaxis(rgb.numpy().astype(np.int64), -1, 0)
    ids = r | g << 8 | b << 16
    semantic = np.vectorize(lambda i: classes.get(int(i), 255))(ids)
    kept = np.array(sorted(i for i, c in classes.items() if c in things), dtype=np.int64)
    return semantic, ids == kept[:, None, None]


def _answers_by_lookup(
    rgb: Tensor, classes: dict[int, int], things: Sequence[int]
) -> tuple[Tensor, list[Tensor] | Tensor]:
    """A table of 256³ entries, and masks as a list where there are some."""
    table = torch.full((256**3,), 255)
    for i, c in classes.items():
        table[i] = c
    ids = rgb[..., 0].int() + rgb[..., 1].int() * 256 + rgb[..., 2].int() * 65536
    kept = sorted(i for i in classes if classes[i] in things)
    return table[ids.long()], [ids == i for i in kept] if kept else ids.new_zeros(0, *ids.shape)


TWO_ANSWERS = Exercise(
    solution=two_answers,
    probes=_files,
    wrong={
        "as_written": (
            _changed(**_AS_WRITTEN),
            "That is the function as it was given.",
        ),
        "bytes": (
            _changed(ids=_in_bytes),
            "Ids above 255 are still lost: the colours are uint8, where 256 · G is 0. Convert them first.",
        ),
        "bgr": (
            _changed(ids=lambda rgb: (rgb.long() * torch.tensor([256**2, 256, 1])).sum(-1)),
            "You read the colours as blue, green, red. R is the lowest digit.",
        ),
        "void": (_changed(void=0), "Void pixels are still class 0. In a class map void is 255."),
        "ids_for_classes": (
            _changed(name=lambda i, c: i),
            "Your class map still holds ids of segments. A pixel gets the class of its segment.",
        ),
        "ids_as_things": (
            _changed(is_thing=lambda i, c, things: i in things),
            "You still ask whether the *id* is in `things`. It lists classes.",
        ),
        "everybody": (
            _changed(is_thing=lambda i, c, things: True),
            "Stuff gets a mask in yours. Only things have one.",
        ),
        "order_of_the_list": (
            _changed(order=list),
            "Your masks still come in the order of the list. The ids rise.",
        ),
        "one_empty_mask": (
            _changed(none=lambda segments: (segments < 0)[None]),
            "Without a thing you still return one empty mask. Return none: the shape is (0, H, W).",
        ),
        "stack": (
            _changed(none=lambda segments: torch.stack([])),
            "Without a thing there is nothing to stack: return masks of shape (0, H, W).",
        ),
        "no_masks": (
            lambda rgb, classes, things: (two_answers(rgb, classes, things)[0], two_answers(rgb, classes, [])[1]),
            "Your masks are always empty: each thing has one.",
        ),
        "void_from_the_list": (
            _changed(ids=lambda rgb: (rgb.long() * torch.tensor([1, 256, 256**2])).sum(-1), void=-1),
            "Void pixels hold −1 in yours. In a class map of this book void is 255.",
        ),
    },
    right={"NumPy": _answers_with_numpy, "a table, masks as a list": _answers_by_lookup},
    hint="Go line by line: the type of the numbers, void, what a pixel of the class map holds, who gets a mask, in "
    "which order, and what if nobody does.",
    sketch="""
    ids = ...                                   # in a type that holds 16,777,215
    semantic = torch.full(ids.shape, ...)       # what is a pixel without a segment?
    for i, c in classes.items():
        semantic[ids == i] = ...
    masks = [ids == i for i in ... if ... in things]
    return semantic, ...                        # and when there is no mask?
    """,
)


# A right total by luck ------------------------------------------------------------------------------------------------

_FORM = "Give a list of at most 12 texts of equal length, at most 20 letters each: a dot is ground, a letter an object."


def _grid(attempt: Any) -> list[str]:
    """The rows of a drawing, or a hint."""
    if isinstance(attempt, str):
        attempt = attempt.split()
    expect(isinstance(attempt, tuple | list | np.ndarray) and len(attempt) > 0, _FORM)
    rows = ["".join(map(str, row)) for row in attempt if isinstance(row, str | tuple | list | np.ndarray)]
    expect(len(rows) == len(attempt) <= 12 and len({len(row) for row in rows}) == 1 and len(rows[0]) <= 20, _FORM)
    expect(not set("".join(rows)) - set(string.ascii_letters + "."), _FORM)
    return rows


def best_overlaps(rows: Sequence[str]) -> tuple[int, dict[str, float]]:
    """How many connected shapes a drawing has, and for each object its largest IoU with one of them."""
    letters = np.array([list(row) for row in rows])
    shapes, count = ndimage.label(letters != ".")
    found = {}
    for letter in sorted(set(letters.ravel().tolist()) - {"."}):
        mask = letters == letter
        found[letter] = max(
            float((mask & (shapes == k)).sum() / (mask | (shapes == k)).sum()) for k in range(1, count + 1)
        )
    return count, found


def _lucky(attempt: Any) -> None:
    rows = _grid(attempt)
    shapes, best = best_overlaps(rows)
    expect(len(best) > 0, "There is no object in your drawing.")
    expect(
        shapes == len(best),
        f"Your drawing has {len(best)} object{'s' * (len(best) != 1)} and {shapes} connected "
        f"shape{'s' * (shapes != 1)}. The totals must be equal.",
    )
    found = [letter for letter, iou in best.items() if iou > 0.5]
    if found:
        expect(
            False,
            f"The totals agree, but object {found[0]} is found: a shape overlaps it with an IoU of "
            f"{best[found[0]]:.2f}. Exactly 0.5 would not be enough.",
        )


LUCKY_COUNT = Exercise(
    solution=["AABB.C.C"],
    verify=_lucky,
    compared=False,
    wrong={
        "a_number": (3, _FORM),
        "nothing": (["....", "...."], "There is no object in your drawing."),
        "merged": (
            ["AABB"],
            "Your drawing has 2 objects and 1 connected shape. The totals must be equal.",
        ),
        "split": (
            ["C.C"],
            "Your drawing has 1 object and 2 connected shapes. The totals must be equal.",
        ),
        "corners": (
            ["A.C", ".AC"],
            "The totals agree, but object C is found: a shape overlaps it with an IoU of 0.67. Exactly 0.5 would not "
            "be enough.",
        ),
        "all_found": (
            ["A.B"],
            "The totals agree, but object A is found: a shape overlaps it with an IoU of 1.00. Exactly 0.5 would not "
            "be enough.",
        ),
        "one_found": (
            ["AAABB", ".....", "CC.CC"],
            "The totals agree, but object A is found: a shape overlaps it with an IoU of 0.60. Exactly 0.5 would not "
            "be enough.",
        ),
        "three_quarters": (
            ["AABB.C.CCC"],
            "The totals agree, but object C is found: a shape overlaps it with an IoU of 0.75. Exactly 0.5 would not "
            "be enough.",
        ),
    },
    right={
        "one text with line breaks": "AABB\n....\nC..C",
        "corners do not connect": ["XXYY.", ".....", "Z....", ".Z..."],
        "lists of letters": [list("AB.C.C"), list("AB.C.C")],
        "three merged, one in three pieces": ["ABC.D.D.D"],
    },
    hint="Let objects that touch merge, and others fall into pieces, until the totals agree.",
    sketch="""
    two objects of equal size that touch: 2 objects, ... shape, and each has an IoU of ...
    one object behind a post, in two equal halves: 1 object, ... shapes, and it has an IoU of ...
    my_drawing = [...]
    """,
)


# Separating what touches ----------------------------------------------------------------------------------------------


def count_after(mask: Tensor, steps: int) -> int:
    """The number of 4-connected shapes that are left after ``steps`` erosions with the 4 neighbours."""
    return int(ndimage.label(_eroded(mask, steps))[1])


def _eroded(mask: Tensor, steps: int, structure: np.ndarray | None = None, border: int = 0) -> np.ndarray:
    m = mask.numpy()
    return ndimage.binary_erosion(m, structure, iterations=steps, border_value=border) if steps > 0 else m


def _rolled(mask: Tensor, steps: int) -> int:
    for _ in range(steps):
        mask = mask & mask.roll(1, 0) & mask.roll(-1, 0) & mask.roll(1, 1) & mask.roll(-1, 1)
    return int(ndimage.label(mask.numpy())[1])


def _opened(mask: Tensor, steps: int) -> int:
    m = mask.numpy()
    return int(ndimage.label(ndimage.binary_opening(m, iterations=steps) if steps else m)[1])


def _dilated(mask: Tensor, steps: int) -> int:
    m = mask.numpy()
    return int(ndimage.label(ndimage.binary_dilation(m, iterations=steps) if steps else m)[1])


def _while_scanning(mask: Tensor, steps: int) -> int:
    m = np.pad(mask.numpy(), 1)
    for _ in range(steps):
        for y in range(1, m.shape[0] - 1):
            for x in range(1, m.shape[1] - 1):
                m[y, x] &= m[y - 1, x] and m[y + 1, x] and m[y, x - 1] and m[y, x + 1]
    return int(ndimage.label(m)[1])


def _touching() -> Mapping[str, tuple[Tensor, int]]:
    y, x = torch.arange(16)[:, None], torch.arange(28)
    discs = torch.zeros(16, 28, dtype=torch.bool)
    for cy, cx in ((7, 6), (7, 15), (5, 24)):
        discs |= (y - cy) ** 2 + (x - cx) ** 2 < 25
    discs[14, 1] = True
    corner = torch.zeros(6, 6, dtype=torch.bool)
    corner[:3, :3] = corner[3:, 3:] = True
    border = torch.zeros(9, 7, dtype=torch.bool)
    border[:2] = border[-2:] = border[:, :2] = True
    bridge = torch.zeros(9, 15, dtype=torch.bool)
    bridge[1:8, 1:6] = bridge[1:8, 9:14] = bridge[3:6, 6:9] = True
    across = torch.zeros(7, 9, dtype=torch.bool)
    across[2:5] = True
    diagonal = torch.zeros(8, 8, dtype=torch.bool)
    diagonal[:5, :5] = diagonal[3:, 3:] = True
    return {f"{name}, {steps} steps": (mask, steps) for name, mask, steps in (
        ("two discs that touch, one alone and a speck", discs, 0),
        ("two discs that touch, one alone and a speck", discs, 1),
        ("two discs that touch, one alone and a speck", discs, 2),
        ("two discs that touch, one alone and a speck", discs, 4),
        ("two squares that meet at a corner", corner, 0),
        ("two squares that meet at a corner", corner, 1),
        ("a frame along the border", border, 1),
        ("two blocks with a bridge", bridge, 1),
        ("two blocks with a bridge", bridge, 2),
        ("two blocks with a bridge", bridge, 3),
        ("a bar from border to border", across, 1),
        ("two squares that overlap at a corner", diagonal, 1),
        ("two squares that overlap at a corner", diagonal, 2),
        ("a full mask", torch.ones(5, 5, dtype=torch.bool), 2),
        ("a full mask", torch.ones(5, 5, dtype=torch.bool), 3),
        ("an empty mask", torch.zeros(4, 4, dtype=torch.bool), 1),
    )}  # fmt: skip


def _separate_by_distance(mask: Tensor, steps: int) -> int:
    """A pixel is left when the outside is more than ``steps`` steps away."""
    away = ndimage.distance_transform_cdt(np.pad(mask.numpy(), 1), metric="taxicab")
    return int(ndimage.label(away > steps)[1])


def _separate_in_place(mask: Tensor, steps: int) -> int:
    """Erodes in place and floods."""
    for _ in range(steps):
        p = torch.nn.functional.pad(mask, [1] * 4)
        mask &= p[:-2, 1:-1] & p[2:, 1:-1] & p[1:-1, :-2] & p[1:-1, 2:]
    count = 0
    for y, x in mask.nonzero().tolist():
        count += bool(mask[y, x])
        stack = [(y, x)]
        while stack:
            y, x = stack.pop()
            if 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and mask[y, x]:
                mask[y, x] = False
                stack += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
    return count


_SQUARE = np.ones((3, 3), dtype=bool)

SEPARATE = Exercise(
    solution=count_after,
    probes=_touching,
    wrong={
        "not_eroded": (lambda mask, steps: count_after(mask, 0), "You count without eroding: `steps` has no effect."),
        "once": (
            lambda mask, steps: count_after(mask, min(steps, 1)),
            "You erode once. Erode `steps` times, each time what the step before has left.",
        ),
        "until_nothing_changes": (
            lambda mask, steps: int(ndimage.label(ndimage.binary_erosion(mask.numpy(), iterations=steps))[1]),
            "With 0 steps the mask stays as it is. (scipy's `iterations=0` repeats until nothing changes.)",
        ),
        "one_too_many": (
            lambda mask, steps: count_after(mask, steps + 1),
            "You erode once too often: 0 steps leave the mask as it is.",
        ),
        "square": (
            lambda mask, steps: int(ndimage.label(_eroded(mask, steps, _SQUARE))[1]),
            "You ask all 8 neighbours. A pixel stays when itself and the 4 that share an edge with it are inside.",
        ),
        "border": (
            lambda mask, steps: int(ndimage.label(_eroded(mask, steps, border=1))[1]),
            "At the border of the image your pixels stay. Beyond the border is outside.",
        ),
        "rolled": (
            _rolled,
            "Your neighbours reach around the image: torch.roll brings the pixels of the other border.",
        ),
        "corners": (
            lambda mask, steps: int(ndimage.label(_eroded(mask, steps), _SQUARE)[1]),
            "Shapes that meet at a corner alone are one in yours. Connected pixels share an edge.",
        ),
        "opened": (
            _opened,
            "You let the shapes grow again before you count, so some meet again. Count what erosion leaves.",
        ),
        "dilated": (_dilated, "Your shapes grow. Erosion takes their outermost pixels away."),
        "ground": (
            lambda mask, steps: count_after(mask, steps) + 1,
            "One too many: the outside (label 0) is no shape.",
        ),
        "pixels": (
            lambda mask, steps: int(_eroded(mask, steps).sum()),
            "That is how many pixels are left. Count the connected shapes.",
        ),
        "scanning": (
            _while_scanning,
            "You erode pixel by pixel in place, so a pixel that has just gone takes the next one along: read from a "
            "copy.",
        ),
        "ground_shapes": (
            lambda mask, steps: int(ndimage.label(~_eroded(mask, steps))[1]),
            "You count the shapes of the ground. Count those of the mask.",
        ),
    },
    right={
        "distances in steps": _separate_by_distance,
        "in place, with a flood fill": _separate_in_place,
    },
    hint="Erode `steps` times with the 4 neighbours, beyond the border is outside; then count the connected shapes.",
    sketch="""
    for _ in range(steps):
        padded = ...                     # what lies beyond the border?
        mask = ...                       # the pixel and its four neighbours are inside
    return ...                           # connected shapes
    """,
)
