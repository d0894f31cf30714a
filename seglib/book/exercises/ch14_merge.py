"""Chapter 14, "Panoptic FPN": the pieces and exercises on the merge of masks and stuff, and on its result."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy.ndimage import label as connected
from torch import Tensor

from seglib.book.exercise import Exercise, expect
from seglib.metrics.pq import PanopticQuality
from seglib.postprocess.panoptic import MergeSettings, merge_panoptic
from seglib.types import VOID, Category, Instances, Panoptic, Segment

# Piece 5: things -----------------------------------------------------------------------------------------------------


def paste(masks: Tensor, scores: Tensor, score_threshold: float, overlap_threshold: float) -> Tensor:
    """Masks ``(N, H, W)`` → the object of every pixel, ``(H, W)`` int64: n + 1 for object n, 0 where none is."""
    return _paste(masks, scores, score_threshold, overlap_threshold)


def _share_taken(mask: Tensor, ids: Tensor) -> float:
    return int((mask & (ids > 0)).sum()) / max(1, int(mask.sum()))


def _by_score(scores: Tensor) -> list[int]:
    return scores.argsort(descending=True, stable=True).tolist()


def _later_of_equals(scores: Tensor) -> list[int]:
    return scores.argsort(stable=True).flip(0).tolist()


def _as_they_come(scores: Tensor) -> list[int]:
    return list(range(len(scores)))


def _lowest_first(scores: Tensor) -> list[int]:
    return scores.argsort(stable=True).tolist()


def _paste(
    masks: Tensor,
    scores: Tensor,
    score_threshold: float,
    overlap_threshold: float,
    *,
    order: Callable[[Tensor], list[int]] = _by_score,
    enough: Callable[[float, float], bool] = lambda score, least: score >= least,
    dropped: Callable[[float, float], bool] = lambda share, most: share > most,
    share: Callable[[Tensor, Tensor], float] = _share_taken,
    over: bool = False,
    stop: bool = False,
    number: Callable[[int, int], int] = lambda n, rank: n + 1,
) -> Tensor:
    """``paste`` with another order, another test, another share, a stop at a low score, or another number."""
    ids = torch.zeros(masks.shape[1:], dtype=torch.int64)
    rank = 0
    for n in order(scores):
        if not enough(float(scores[n]), score_threshold):
            if stop:
                break
            continue
        if dropped(share(masks[n], ids), overlap_threshold):
            continue
        ids[masks[n] if over else masks[n] & (ids == 0)] = number(n, rank)
        rank += 1
    return ids


def _pastes(**changes: Any) -> Callable[[Tensor, Tensor, float, float], Tensor]:
    return lambda masks, scores, least, most: _paste(masks, scores, least, most, **changes)


def _share_of_union(mask: Tensor, ids: Tensor) -> float:
    return int((mask & (ids > 0)).sum()) / max(1, int((mask | (ids > 0)).sum()))


def _largest_share(mask: Tensor, ids: Tensor) -> float:
    """The share of the mask that the object with the largest part of it covers."""
    counts = torch.bincount(ids[mask], minlength=1)[1:]
    return int(counts.max()) / max(1, int(mask.sum())) if len(counts) else 0.0


def _share_of_all_above(masks: Tensor, scores: Tensor, least: float, most: float) -> Tensor:
    """Dropped masks cover others as well."""
    ids = torch.zeros(masks.shape[1:], dtype=torch.int64)
    seen = torch.zeros(masks.shape[1:], dtype=torch.bool)
    for n in _by_score(scores):
        if scores[n] < least:
            break
        if int((masks[n] & seen).sum()) <= most * int(masks[n].sum()):
            ids[masks[n] & (ids == 0)] = n + 1
        seen |= masks[n]
    return ids


def _share_of_taken(mask: Tensor, ids: Tensor) -> float:
    return int((mask & (ids > 0)).sum()) / max(1, int((ids > 0).sum()))


def _share_of_map(mask: Tensor, ids: Tensor) -> float:
    return float((mask & (ids > 0)).float().mean())


def _until_one_is_dropped(masks: Tensor, scores: Tensor, least: float, most: float) -> Tensor:
    """Stops at the first mask that is dropped."""
    ids = torch.zeros(masks.shape[1:], dtype=torch.int64)
    for n in _by_score(scores):
        if scores[n] < least or _share_taken(masks[n], ids) > most:
            break
        ids[masks[n] & (ids == 0)] = n + 1
    return ids


def _paste_sorted(masks: Tensor, scores: Tensor, least: float, most: float) -> Tensor:
    """The numbers of the sorted masks."""
    order = _by_score(scores)
    return paste(masks[order], scores[order], least, most)


def _paste_added(masks: Tensor, scores: Tensor, least: float, most: float) -> Tensor:
    ids = torch.zeros(masks.shape[1:], dtype=torch.int64)
    for n in _by_score(scores):
        if scores[n] >= least and _share_taken(masks[n], ids) <= most:
            ids += (n + 1) * masks[n]
    return ids


def _paste_one_or_more(masks: Tensor, scores: Tensor, least: float, most: float) -> Tensor:
    masks[0]  # raises where there is none
    return paste(masks, scores, least, most)


def _best_mask_of_each_pixel(masks: Tensor, scores: Tensor, least: float, most: float) -> Tensor:
    """The mask with the highest score at every pixel, whatever is left of each."""
    return _paste(masks, scores, least, 1.0)


def _paste_carelessly(masks: Tensor, scores: Tensor, least: float, most: float) -> Tensor:
    return _paste(masks, scores, least, most, share=lambda mask, ids: int((mask & (ids > 0)).sum()) / int(mask.sum()))


def _paste_numpy(masks: Tensor, scores: Tensor, least: float, most: float) -> np.ndarray:
    ids = np.zeros(tuple(masks.shape[1:]), dtype=int)
    for n in np.argsort(-scores.numpy(), kind="stable"):
        mask = masks[int(n)].numpy()
        taken = (mask & (ids > 0)).sum()
        if scores[int(n)] >= least and taken <= most * mask.sum():
            np.putmask(ids, mask & (ids == 0), n + 1)
    return ids


def _paste_in_place(masks: Tensor, scores: Tensor, least: float, most: float) -> list[list[int]]:
    """Takes pixels from the masks that come later; ids as lists."""
    areas = masks.sum((1, 2))
    ids = torch.zeros(masks.shape[1:], dtype=torch.int64)
    for n in sorted(range(len(masks)), key=lambda n: -float(scores[n])):
        if scores[n] < least:
            break
        if (areas[n] - masks[n].sum()) > most * areas[n]:
            continue
        ids += (n + 1) * masks[n]
        masks &= ~masks[n].clone()
    return ids.tolist()


def _strips(*spans: tuple[int, int], width: int = 12) -> Tensor:
    """Masks ``(N, 1, W)`` of columns from start to stop."""
    column = torch.arange(width)
    return torch.stack([(column >= a) & (column < b) for a, b in spans])[:, None]


def _overlapping() -> Mapping[str, tuple[Tensor, Tensor, float, float]]:
    draw = torch.Generator().manual_seed(21)
    spots = torch.rand(6, 7, 9, generator=draw) < 0.4
    return {
        "two masks that overlap": (_strips((0, 6), (4, 12)), torch.tensor([0.6, 0.9]), 0.5, 0.5),
        "three masks in any order": (_strips((3, 9), (0, 5), (8, 12)), torch.tensor([0.7, 0.8, 0.9]), 0.5, 0.5),
        "a score at the threshold and one below it": (
            _strips((0, 4), (4, 8), (8, 12)),
            torch.tensor([0.25, 0.9, 0.5]),
            0.5,
            0.5,
        ),
        "a mask that is covered by exactly the threshold": (
            _strips((0, 4), (2, 6), (5, 9)),
            torch.tensor([0.9, 0.8, 0.7]),
            0.5,
            0.5,
        ),
        "a mask that is covered by more": (
            _strips((0, 4), (1, 6), (0, 7), (8, 12)),
            torch.tensor([0.9, 0.8, 0.7, 0.6]),
            0.5,
            0.5,
        ),
        "a small mask behind a large one": (_strips((0, 9), (7, 10)), torch.tensor([0.9, 0.8]), 0.5, 0.5),
        "a large mask behind a small one": (_strips((0, 3), (1, 12)), torch.tensor([0.9, 0.8]), 0.5, 0.5),
        "a dropped mask that covers another": (
            _strips((0, 6), (2, 9), (6, 12)),
            torch.tensor([0.9, 0.8, 0.7]),
            0.5,
            0.4375,
        ),
        "two masks that cover half of a third together": (
            _strips((0, 3), (9, 12), (1, 11)),
            torch.tensor([0.9, 0.8, 0.7]),
            0.5,
            0.375,
        ),
        "equal scores": (_strips((0, 5), (3, 8), (7, 12)), torch.tensor([0.75, 0.75, 0.75]), 0.5, 0.5),
        "a low overlap threshold": (
            _strips((0, 6), (4, 11), (10, 12)),
            torch.tensor([0.9, 0.8, 0.25]),
            0.5,
            0.125,
        ),
        "a mask without a pixel": (_strips((0, 4), (6, 6), (2, 7)), torch.tensor([0.9, 0.8, 0.7]), 0.5, 0.5),
        "six masks of spots": (spots, torch.rand(6, generator=draw), 0.25, 0.75),
        "no object": (torch.zeros(0, 3, 4, dtype=torch.bool), torch.zeros(0), 0.5, 0.5),
    }


PASTE = Exercise(
    solution=paste,
    wrong={
        "as_they_come": (
            _pastes(order=_as_they_come),
            "You go through the masks as they come. The highest score comes first.",
        ),
        "as_they_come_and_stop": (
            _pastes(order=_as_they_come, stop=True),
            "You go through the masks as they come, and stop at the first low score. The highest comes first.",
        ),
        "lowest_first": (
            _pastes(order=_lowest_first),
            "You begin with the lowest score. The highest comes first, and keeps its pixels.",
        ),
        "lowest_first_and_stop": (
            _pastes(order=_lowest_first, stop=True),
            "You begin with the lowest score, and stop if it is below the threshold. The highest comes first.",
        ),
        "painted_over": (
            _pastes(over=True),
            "A later mask takes pixels from an earlier one. Paste only what is still free of it.",
        ),
        "all_scores": (
            _pastes(enough=lambda score, least: True),
            "You paste masks of all scores. Those below the score threshold stay out.",
        ),
        "equal_score_out": (
            _pastes(enough=lambda score, least: score > least),
            "A score that equals the threshold is high enough: only lower ones stay out.",
        ),
        "never_dropped": (
            _best_mask_of_each_pixel,
            "You keep what is left of every mask. A mask of which too much is taken leaves nothing.",
        ),
        "equal_share_dropped": (
            _pastes(dropped=lambda share, most: share >= most),
            "You drop a mask of which exactly the threshold is taken. It must be more.",
        ),
        "share_left": (
            _pastes(dropped=lambda share, most: 1 - share < most),
            "You compare the share that is left. It is the share that is taken already.",
        ),
        "any_overlap": (
            _pastes(dropped=lambda share, most: share > 0),
            "You drop each mask that meets another. Up to the threshold it keeps what is free.",
        ),
        "share_of_union": (
            _pastes(share=_share_of_union),
            "You compare an IoU. It is the taken part of the mask's own pixels.",
        ),
        "share_of_the_others": (
            _pastes(share=_share_of_taken),
            "You divide by the area of the objects that are there. It is the share of the mask's own pixels.",
        ),
        "share_of_the_map": (
            _pastes(share=_share_of_map),
            "You divide by all pixels of the map. It is the share of the mask's own pixels.",
        ),
        "largest_overlap": (
            _pastes(share=_largest_share),
            "You compare the overlap with one object at a time. All that is taken counts together.",
        ),
        "dropped_ones_cover": (
            _share_of_all_above,
            "A mask that was dropped leaves its pixels free: it takes nothing from others.",
        ),
        "stops_at_a_drop": (
            _until_one_is_dropped,
            "You stop at the first mask that is dropped. Only that one is left out: go on with the next.",
        ),
        "always_half_a_score": (
            lambda masks, scores, least, most: paste(masks, scores, 0.5, most),
            "Your score threshold is always ½. Use `score_threshold`.",
        ),
        "always_half_a_mask": (
            lambda masks, scores, least, most: paste(masks, scores, least, 0.5),
            "Your overlap threshold is always ½. Use `overlap_threshold`.",
        ),
        "later_of_equals": (
            _pastes(order=_later_of_equals),
            "Of equal scores the object that stands first comes first: sort with stable=True.",
        ),
        "from_zero": (
            _pastes(number=lambda n, rank: n),
            "Object 0 gets 0, which means no object. Object n gets n + 1.",
        ),
        "by_rank": (
            _pastes(number=lambda n, rank: rank + 1),
            "You number the objects in the order of pasting. Object n gets n + 1, wherever it comes.",
        ),
        "by_position": (
            _paste_sorted,
            "You sorted the masks and give n their new positions. Object n is the one at place n of `masks` as given.",
        ),
        "filtered_first": (
            lambda masks, scores, least, most: paste(masks[scores >= least], scores[scores >= least], least, most),
            "You left out the low scores and numbered the rest anew. Object n keeps its place in `masks` as given.",
        ),
        "added": (
            _paste_added,
            "Where masks meet, your numbers add up. Write each one to the pixels that are still free.",
        ),
        "ones": (
            _pastes(number=lambda n, rank: 1),
            "All objects have one number. Object n gets n + 1.",
        ),
        "divided_by_nothing": (
            _paste_carelessly,
            "A mask may have no pixel: do not divide by its area without care.",
        ),
        "one_or_more": (
            _paste_one_or_more,
            "There may be no mask: take the size from `masks.shape[1:]`, and no element that may not be there.",
        ),
    },
    right={"NumPy": _paste_numpy, "in place, as lists": _paste_in_place},
    probes=_overlapping,
    hint="By falling score: out if below the threshold, out if too much is taken, else paste what is free.",
    sketch="""
        ids = torch.zeros(masks.shape[1:], dtype=torch.int64)
        for n in scores.argsort(descending=True, stable=True).tolist():
            if scores[n] < ...:
                break
            taken = (masks[n] & (ids > 0)).sum()
            if taken > ... * masks[n].sum():
                continue
            ids[masks[n] & ...] = n + 1
        return ids
    """,
)


# Piece 6: stuff ------------------------------------------------------------------------------------------------------


def fill(free: Tensor, stuff: Tensor, limit: int) -> Tensor:
    """Stuff classes ``(H, W)`` on the free pixels, each with ``limit`` of them or more; 255 elsewhere."""
    return _fill(free, stuff, limit)


def _fill(
    free: Tensor,
    stuff: Tensor,
    limit: float,
    *,
    counted: Callable[[Tensor, Tensor], Tensor] = lambda mask, free: mask & free,
    enough: Callable[[int, float], bool] = lambda count, limit: count >= limit,
    pasted: Callable[[Tensor, Tensor], Tensor] = lambda mask, free: mask & free,
    rest: int = VOID,
) -> Tensor:
    """``fill`` with another area, another test, another mask to paste, or another id where nothing is."""
    out = torch.full_like(stuff, rest)
    for k in stuff.unique().tolist():
        mask = stuff == k
        if k != VOID and enough(int(counted(mask, free).sum()), limit):
            out[pasted(mask, free)] = k
    return out


def _fills(**changes: Any) -> Callable[[Tensor, Tensor, int], Tensor]:
    return lambda free, stuff, limit: _fill(free, stuff, limit, **changes)


def _fill_by_patches(free: Tensor, stuff: Tensor, limit: int) -> Tensor:
    """The limit for each connected patch."""
    out = torch.full_like(stuff, VOID)
    for k in stuff.unique().tolist():
        patches, count = connected(((stuff == k) & free).numpy())
        for n in range(1, count + 1):
            patch = torch.from_numpy(patches == n)
            if k != VOID and patch.sum() >= limit:
                out[patch] = k
    return out


def _fill_all_or_none(free: Tensor, stuff: Tensor, limit: int) -> Tensor:
    """Leaves a small class where a larger one would do."""
    found = fill(free, stuff, limit)
    kept = found[found != VOID]
    if len(kept) == 0:
        return found
    return torch.where(free & (found == VOID) & (stuff != VOID), kept.bincount().argmax(), found)


def _fill_until_a_small_one(free: Tensor, stuff: Tensor, limit: int) -> Tensor:
    out = torch.full_like(stuff, VOID)
    for k in stuff.unique().tolist():
        mask = (stuff == k) & free
        if k == VOID or mask.sum() < limit:
            break
        out[mask] = k
    return out


def _fill_numpy(free: Tensor, stuff: Tensor, limit: int) -> np.ndarray:
    values = np.where(free.numpy(), stuff.numpy(), VOID)
    areas = np.bincount(values.ravel(), minlength=VOID + 1)
    return np.where(areas[values] >= limit, values, VOID)


def _fill_in_place(free: Tensor, stuff: Tensor, limit: int) -> Tensor:
    stuff.masked_fill_(~free, VOID)
    ids, counts = stuff.unique(return_counts=True)
    return stuff.masked_fill_(torch.isin(stuff, ids[counts < limit]), VOID)


def _fill_lists(free: Tensor, stuff: Tensor, limit: int) -> list[list[int]]:
    pairs = [list(zip(a, b, strict=True)) for a, b in zip(free.tolist(), stuff.tolist(), strict=True)]
    areas: dict[int, int] = {}
    for line in pairs:
        for ok, k in line:
            areas[k] = areas.get(k, 0) + ok
    return [[k if ok and areas[k] >= limit else VOID for ok, k in line] for line in pairs]


def _free_and_stuff() -> Mapping[str, tuple[Tensor, Tensor, int]]:
    stuff = torch.tensor([[7, 7, 7, 7, 9, 9], [7, 7, 8, 8, 9, 255], [255, 9, 8, 8, 8, 7]])
    free = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1], [1, 0, 0, 1, 1, 1]]).bool()
    draw = torch.Generator().manual_seed(6)
    wide = torch.randint(4, 8, (9, 12), generator=draw)
    wide[torch.rand(9, 12, generator=draw) < 0.2] = VOID
    return {
        "a limit of 4": (free, stuff, 4),
        "a limit that one class just reaches": (free, stuff, 5),
        "a limit that no class reaches": (free, stuff, 30),
        "a limit of 1": (free, stuff, 1),
        "a class that is covered for the most part": (free & (stuff != 9) | (stuff == 255), stuff, 2),
        "a larger map": (torch.rand(9, 12, generator=draw) < 0.7, wide, 12),
        "a small class with the lowest id": (torch.ones(3, 6, dtype=torch.bool), stuff - 4 * (stuff == 8), 6),
        "no free pixel": (torch.zeros(3, 6, dtype=torch.bool), stuff, 1),
        "a map without stuff": (free, torch.full((3, 6), VOID), 1),
    }


FILL = Exercise(
    solution=fill,
    wrong={
        "over_things": (
            _fills(pasted=lambda mask, free: mask, counted=lambda mask, free: mask),
            "You paste stuff over things. It fills only what is free.",
        ),
        "over_things_if_enough_is_free": (
            _fills(pasted=lambda mask, free: mask),
            "You count the free pixels, but paste all. Stuff fills only what is free.",
        ),
        "covered_pixels_count": (
            _fills(counted=lambda mask, free: mask),
            "You count all pixels of a class. Those under things do not count: only what is free does.",
        ),
        "equal_out": (
            _fills(enough=lambda count, limit: count > limit),
            "A class with exactly `limit` pixels stays.",
        ),
        "no_limit": (
            _fills(enough=lambda count, limit: True),
            "You keep classes of any size. Those with fewer than `limit` pixels stay out.",
        ),
        "large_out": (
            _fills(enough=lambda count, limit: count < limit),
            "You keep the small classes and leave the large ones out.",
        ),
        "stops_at_a_small_class": (
            _fill_until_a_small_one,
            "You stop at the first class that is too small. Only that one is left out: go on with the next.",
        ),
        "by_patches": (
            _fill_by_patches,
            "You compare each connected patch with the limit. All free pixels of a class count together.",
        ),
        "void_as_zero": (
            _fills(rest=0),
            "Where nothing is you answer 0, which is a thing class. Void is 255.",
        ),
        "largest_instead": (
            _fill_all_or_none,
            "You give the pixels of a small class to the largest one. They become void.",
        ),
        "on_things": (
            _fills(pasted=lambda mask, free: mask & ~free, counted=lambda mask, free: mask & ~free),
            "You fill the pixels that are *not* free.",
        ),
        "no_classes": (
            lambda free, stuff, limit: torch.where(free & (stuff != VOID), 1, VOID),
            "The class of each pixel is wanted: the ids of `stuff`.",
        ),
    },
    right={"NumPy": _fill_numpy, "in place": _fill_in_place, "lists": _fill_lists},
    probes=_free_and_stuff,
    hint="Void where a pixel is not free; then void for classes that have fewer than `limit` pixels left.",
    sketch="""
        out = torch.where(free, stuff, 255)
        ids, areas = out.unique(return_counts=True)
        small = ids[...]
        out[torch.isin(out, ...)] = 255
        return out
    """,
)


# Who stays -----------------------------------------------------------------------------------------------------------

SURVIVORS = Exercise(
    solution=("BCD", [8, 5, 4]),
    wrong={
        "as_they_come": (("AC", [10, 6]), "You go through them as they stand. The highest score comes first."),
        "nobody_dropped": (
            ("BCA", [8, 5, 4]),
            "A has ten pixels, and six of them are B's already. That is more than half.",
        ),
        "dropped_ones_cover": (
            ("BC", [8, 5]),
            "A is dropped and leaves its pixels free. Of D's eight pixels B has four: exactly half, which stays.",
        ),
        "low_scores": (
            ("BCDE", [8, 5, 4, 3]),
            "E has a score below ½ and stays out.",
        ),
        "whole_masks": (("BCD", [8, 6, 8]), "Count what is left of a mask when it is pasted, not its whole area."),
        "whole_c": (("BCD", [8, 6, 4]), "Pixel 11 lies in B and in C. It is B's, which has the higher score."),
        "whole_d": (("BCD", [8, 5, 8]), "D keeps only what is free of its eight pixels: some of them are B's."),
        "painted_over": (("BCD", [3, 6, 8]), "A mask takes no pixel from one with a higher score."),
        "last_pixels_left_out": (("BCD", [7, 5, 4]), "Both ends are included: pixels 4 to 11 are eight."),
        "a_kept_d_kept": (
            ("BCAD", [8, 5, 4, 4]),
            "Pixels 0 to 3 lie in A and in D: only one of the two can have them. Is A pasted at all?",
        ),
        "by_letters": (("BDC", [8, 4, 5]), "C has a higher score than D and is pasted before it."),
    },
    right={
        "a list": ["B, C, D", (8, 5, 4)],
        "letters": (["B", "C", "D"], [8, 5, 4]),
        "small letters": ("bcd", torch.tensor([8, 5, 4])),
    },
    hint="Go by falling score: B, C, A, D. How many of each one's pixels are taken when its turn comes?",
    sketch="""
        B (0.9) takes 4 to 11                     # 8 pixels
        C (0.7) wants 11 to 16, of which ... are taken
        A (0.6) wants 0 to 9, of which ... are taken
        D (0.5) wants 0 to 7, of which ... are taken
    """,
)


# The bugs ------------------------------------------------------------------------------------------------------------


def merge(masks: Tensor, labels: Tensor, scores: Tensor, stuff: Tensor, limit: int) -> tuple[Tensor, list[int]]:
    """Ids ``(H, W)``, 0 for void, in the order of pasting, and the category of each id."""
    return _merge(masks, labels, scores, stuff, limit)


def _merge(
    masks: Tensor,
    labels: Tensor,
    scores: Tensor,
    stuff: Tensor,
    limit: int,
    *,
    score_equal: bool = True,
    share_equal: bool = True,
    over: bool = False,
    void_segment: bool = False,
    covered_count: bool = False,
    limit_equal: bool = True,
    empty: bool = False,
    stable: bool = True,
) -> tuple[Tensor, list[int]]:
    """``merge`` with one of the bugs."""
    ids, categories = torch.zeros_like(stuff), []
    order = _by_score if stable else _later_of_equals
    for n in order(scores):
        if scores[n] < 0.5 or (scores[n] == 0.5 and not score_equal):
            break
        free = masks[n] & (ids == 0)
        left, area = int(free.sum()), int(masks[n].sum())
        if 2 * left < area or (2 * left == area and area and not share_equal) or (area == 0 and not empty):
            continue
        categories.append(int(labels[n]))
        ids[masks[n] if over else free] = len(categories)
    for k in stuff.unique().tolist():
        if k == VOID and not void_segment:
            continue
        free = (stuff == k) & (ids == 0)
        if int((stuff == k if covered_count else free).sum()) >= limit + (not limit_equal):
            categories.append(k)
            ids[free] = len(categories)
    return ids, categories


def _bug(**bug: Any) -> Callable[..., tuple[Tensor, list[int]]]:
    return lambda *arguments: _merge(*arguments, **bug)


def _given(masks: Tensor, labels: Tensor, scores: Tensor, stuff: Tensor, limit: int) -> tuple[Tensor, list[int]]:
    """The code of the exercise, as it is given."""
    ids, categories = torch.zeros_like(stuff), []
    for n in scores.argsort(descending=True, stable=True).tolist():
        if scores[n] <= 0.5:
            break
        free = masks[n] & (ids == 0)
        if free.sum() <= 0.5 * masks[n].sum():
            continue
        categories.append(int(labels[n]))
        ids[masks[n]] = len(categories)
    for k in stuff.unique().tolist():
        if (stuff == k).sum() >= limit:
            categories.append(k)
            ids[(stuff == k) & (ids == 0)] = len(categories)
    return ids, categories


def _merge_numpy(
    masks: Tensor, labels: Tensor, scores: Tensor, stuff: Tensor, limit: int
) -> tuple[np.ndarray, np.ndarray]:
    ids, categories = np.zeros(tuple(stuff.shape), dtype=np.int32), []
    for n in np.argsort(-scores.numpy(), kind="stable").tolist():
        mask = masks[n].numpy()
        free = mask & (ids == 0)
        if scores[n] >= 0.5 and free.any() and free.sum() >= mask.sum() / 2:
            categories.append(int(labels[n]))
            ids[free] = len(categories)
    for k in range(VOID):
        free = (stuff.numpy() == k) & (ids == 0)
        if free.sum() >= limit:
            categories.append(k)
            ids[free] = len(categories)
    return ids, np.array(categories, dtype=np.int64)


def _merge_by_pieces(masks: Tensor, labels: Tensor, scores: Tensor, stuff: Tensor, limit: int) -> list[Any]:
    objects = paste(masks, scores, 0.5, 0.5)
    rest = fill(objects == 0, stuff, limit)
    ids, categories = torch.zeros_like(stuff), []
    parts = [(objects == n + 1, int(labels[n])) for n in _by_score(scores)]
    for mask, k in parts + [(rest == k, k) for k in rest.unique().tolist() if k != VOID]:
        if mask.any():
            categories.append(k)
            ids += mask * len(categories)
    return [ids, categories]


def _scenes() -> Mapping[str, tuple[Tensor, Tensor, Tensor, Tensor, int]]:
    sky = torch.tensor([[7] * 8 + [9] * 4])
    mixed = torch.tensor([[7, 7, 7, 255, 255, 9, 9, 9, 9, 9, 7, 9]])
    return {
        "an object on two kinds of stuff": (_strips((3, 5)), torch.tensor([2]), torch.tensor([0.9]), sky, 3),
        "objects that overlap": (_strips((1, 4), (3, 6)), torch.tensor([2, 3]), torch.tensor([0.7, 0.9]), sky, 3),
        "a score of ½": (_strips((0, 5), (6, 9)), torch.tensor([2, 3]), torch.tensor([0.5, 0.4375]), sky, 2),
        "an object that is half covered": (
            _strips((0, 4), (2, 6), (4, 8)),
            torch.tensor([2, 3, 2]),
            torch.tensor([0.9, 0.8, 0.7]),
            torch.full((1, 12), 9),
            2,
        ),
        "pixels where the head sees things": (_strips((0, 2)), torch.tensor([1]), torch.tensor([0.9]), mixed, 2),
        "a class that is covered": (_strips((4, 12)), torch.tensor([1]), torch.tensor([0.9]), sky, 4),
        "a class of which just enough is free": (_strips((7, 10)), torch.tensor([1]), torch.tensor([0.9]), sky, 2),
        "a class of which too little is free": (_strips((6, 10)), torch.tensor([1]), torch.tensor([0.9]), sky, 3),
        "a mask without a pixel": (_strips((0, 4), (5, 5)), torch.tensor([1, 2]), torch.tensor([0.8, 0.9]), sky, 3),
        "equal scores": (_strips((0, 5), (3, 8)), torch.tensor([1, 2]), torch.tensor([0.75, 0.75]), sky, 3),
        "no object": (_strips((0, 1))[:0], torch.zeros(0, dtype=torch.int64), torch.zeros(0), mixed, 3),
        "no object and no stuff": (
            _strips((0, 1))[:0],
            torch.zeros(0, dtype=torch.int64),
            torch.zeros(0),
            torch.full((1, 12), VOID),
            3,
        ),
    }


BUG = Exercise(
    solution=merge,
    wrong={
        "as_given": (_given, "That is the code as it was given."),
        "score_equal_out": (_bug(score_equal=False), "A score of exactly ½ stays. Which comparison drops it?"),
        "share_equal_out": (
            _bug(share_equal=False),
            "A mask of which exactly half is taken stays. Which comparison drops it?",
        ),
        "painted_over": (_bug(over=True), "An object still takes pixels from one with a higher score."),
        "void_segment": (
            _bug(void_segment=True),
            "Where the semantic head sees a thing `stuff` holds 255. That is no stuff class and makes no segment.",
        ),
        "covered_count": (
            _bug(covered_count=True),
            "For the limit only free pixels count. Those under objects do not.",
        ),
        "empty_segment": (
            _bug(empty=True),
            "A mask without a pixel makes a segment without a pixel. (0 < 0 is false: the test of the share lets it "
            "pass.)",
        ),
        "no_limit": (
            lambda masks, labels, scores, stuff, limit: merge(masks, labels, scores, stuff, 1),
            "A class that has fewer than `limit` free pixels becomes void, also where it has some.",
        ),
        "limit_equal_out": (_bug(limit_equal=False), "A class with exactly `limit` free pixels stays."),
        "unstable": (_bug(stable=False), "Of equal scores the first object comes first: keep the sort stable."),
    },
    right={"NumPy": _merge_numpy, "by the two pieces": _merge_by_pieces},
    probes=_scenes,
    hint="Go through the rules one by one: score, share, what is pasted, classes, limit. Which line does each?",
    sketch="""
        if scores[n] ... 0.5: break
        if free.sum() ... 0.5 * masks[n].sum() or not ...: continue
        ids[...] = len(categories)
        for k in stuff.unique().tolist():
            free = (stuff == k) & ...
            if k != ... and free.sum() >= limit: ...
    """,
)


# What is in an image -------------------------------------------------------------------------------------------------


def inventory(panoptic: Panoptic) -> dict[int, tuple[int, float]]:
    """Category id → the number of its segments and their share of the pixels that are not void."""
    return _inventory(panoptic)


def _inventory(
    panoptic: Panoptic,
    *,
    whole: Callable[[Tensor], Tensor | int] = lambda ids: (ids > 0).sum(),
    counted: Callable[[Segment], bool] = lambda segment: True,
    number: Callable[[list[int]], int] = len,
    scale: float = 1.0,
) -> dict[int, tuple[int, float]]:
    """``inventory`` with another denominator, some of the segments, or another number."""
    areas: dict[int, list[int]] = {}
    for s in panoptic.segments:
        if counted(s):
            areas.setdefault(s.category_id, []).append(int((panoptic.map == s.id).sum()))
    total = int(whole(panoptic.map))
    return {k: (number(a), scale * sum(a) / max(1, total)) for k, a in areas.items()}


def _inventory_in_pixels(panoptic: Panoptic) -> dict[int, tuple[int, int]]:
    areas = {k: [s.area for s in panoptic.segments if s.category_id == k] for k, _ in _inventory(panoptic).items()}
    return {k: (len(a), sum(a)) for k, a in areas.items()}


def _inventory_by_category(panoptic: Panoptic) -> dict[int, tuple[int, float]]:
    total = max(1, int((panoptic.map > 0).sum()))
    return {
        k: (n, n * int((panoptic.map == k).sum()) / total)  # once for each segment
        for k, (n, _) in inventory(panoptic).items()
    }


def _share_of_last(panoptic: Panoptic) -> dict[int, tuple[int, float]]:
    """The share of the last segment of a class in place of all."""
    total = max(1, int((panoptic.map > 0).sum()))
    shares = {s.category_id: s.area / total for s in panoptic.segments}
    return {k: (n, shares[k]) for k, (n, _) in inventory(panoptic).items()}


def _by_segment(panoptic: Panoptic) -> dict[int, tuple[int, float]]:
    total = max(1, int((panoptic.map > 0).sum()))
    return {s.id: (1, s.area / total) for s in panoptic.segments}


def _inventory_from_areas(panoptic: Panoptic) -> dict[int, list[float]]:
    """From the areas that the segments carry."""
    total = sum(s.area for s in panoptic.segments)
    out: dict[int, list[float]] = {}
    for s in panoptic.segments:
        entry = out.setdefault(s.category_id, [0, 0.0])
        entry[0] += 1
        entry[1] += s.area / total
    return out


def _inventory_numpy(panoptic: Panoptic) -> dict[int, tuple[int, float]]:
    ids, areas = np.unique(panoptic.map.numpy(), return_counts=True)
    area = dict(zip(ids.tolist(), areas.tolist(), strict=True))
    area.pop(0, None)
    whole = sum(area.values())
    classes = {s.category_id for s in panoptic.segments}
    members = {k: [area[s.id] for s in panoptic.segments if s.category_id == k] for k in classes}
    return {k: (len(a), np.float64(sum(a)) / whole) for k, a in members.items()}


def _maps() -> Mapping[str, tuple[Panoptic]]:
    def case(rows: list[list[int]], categories: Mapping[int, int]) -> tuple[Panoptic]:
        ids = torch.tensor(rows, dtype=torch.int32)
        segments = [Segment(i, k, k < 3, int((ids == i).sum())) for i, k in categories.items()]
        return (Panoptic(ids, segments),)

    return {
        "two people and the sky": case([[1, 1, 3, 3], [2, 3, 3, 3]], {1: 0, 2: 0, 3: 4}),
        "a map with void": case([[1, 1, 0, 0], [2, 3, 3, 0]], {1: 1, 2: 1, 3: 5}),
        "ids with gaps, in any order": case([[9, 9, 4, 7], [0, 9, 4, 7]], {7: 2, 9: 3, 4: 2}),
        "stuff alone": case([[1, 1, 2, 2], [1, 1, 2, 2]], {1: 3, 2: 4}),
        "things of one class": case([[1, 2, 3], [1, 2, 0]], {1: 1, 2: 1, 3: 1}),
        "a map of void": case([[0, 0], [0, 0]], {}),
    }


INVENTORY = Exercise(
    solution=inventory,
    wrong={
        "share_of_all_pixels": (
            lambda p: _inventory(p, whole=lambda ids: ids.numel()),
            "You divide by all pixels. Void pixels do not count.",
        ),
        "pixels": (
            _inventory_in_pixels,
            "Those are pixels. The share is wanted: divide by the pixels that are not void.",
        ),
        "category_as_id": (
            _inventory_by_category,
            "The map holds segment ids and no categories: compare it with `id`, not with `category_id`.",
        ),
        "void_as_a_category": (
            lambda p: {
                **inventory(p),
                **({VOID: (1, float((p.map == 0).float().mean()))} if (p.map == 0).any() else {}),
            },
            "You list void. It is no category: list those that have a segment.",
        ),
        "nothing_but_void": (
            lambda p: inventory(p) if 1 / int(p.map.sum()) else {},
            "A map of void has no labelled pixel, so don't divide there. The answer is an empty dict.",
        ),
        "percent": (lambda p: _inventory(p, scale=100.0), "Those are percentages. A share from 0 to 1 is wanted."),
        "things_alone": (
            lambda p: _inventory(p, counted=lambda s: s.isthing),
            "You count things alone. Stuff has segments, too: one for each class.",
        ),
        "stuff_alone": (
            lambda p: _inventory(p, counted=lambda s: not s.isthing),
            "You count stuff alone. Things have segments, too.",
        ),
        "last_segment": (
            _share_of_last,
            "The share of a class is that of all its segments together. You give that of the last one.",
        ),
        "mean_segment": (
            lambda p: {k: (n, share / n) for k, (n, share) in inventory(p).items()},
            "You give the mean share of a segment. The share of all segments of a class is wanted.",
        ),
        "one_segment_a_class": (
            lambda p: _inventory(p, number=lambda areas: 1),
            "Each of your classes has one segment. Count them: things of one class have several.",
        ),
        "segments_apart": (_by_segment, "Your keys are segment ids. The keys are category ids."),
        "shares_alone": (
            lambda p: {k: share for k, (_, share) in inventory(p).items()},
            "The number of segments is missing: a pair for each category.",
        ),
    },
    right={"from the segments' areas": _inventory_from_areas, "NumPy": _inventory_numpy},
    probes=_maps,
    hint="For each category: how many segments have it, and how many of the pixels that are not void are theirs.",
    sketch="""
        total = int((panoptic.map ... 0).sum())
        found = {}
        for s in panoptic.segments:
            n, share = found.get(s.category_id, (0, 0.0))
            found[s.category_id] = n + 1, share + ... / total
        return found
    """,
)


# The thresholds ------------------------------------------------------------------------------------------------------

WANTED = 0.732
"""The PQ to reach."""
_GOOD: dict[str, Any] = {"score_threshold": 0.4, "overlap_threshold": 0.3, "stuff_area_limit": 100}
_LOW_OR_HIGH = {
    "score_threshold": (
        "Most is lost by your score threshold, which is low: wrong objects take pixels from right ones and from stuff.",
        "Most is lost by your score threshold, which is high: right objects stay out.",
    ),
    "overlap_threshold": (
        "Most is lost by your overlap threshold, which is low: an object that is only touched by another is dropped.",
        "Most is lost by your overlap threshold, which is high: of objects that are found twice scraps are left.",
    ),
    "stuff_area_limit": (
        "Most is lost by your limit on stuff, which is low: a few wrong pixels make a segment of a class that is not "
        "there.",
        "Most is lost by your limit on stuff, which is high: classes that are there become void.",
    ),
}


@functools.cache
def _unseen() -> tuple[list[tuple[Instances, Tensor, Panoptic]], Sequence[Category]]:
    """What the stored network finds in 24 test scenes, and the truth."""
    from seglib.book.pretrained import stored_model
    from seglib.data.collate import collate
    from seglib.data.scenes import CATEGORIES, Scenes

    model: Any = stored_model("panoptic_fpn_tiny")
    scenes = Scenes(24, split="test")
    batch = collate([scenes[i] for i in range(len(scenes))])
    with torch.inference_mode():
        out = model(batch.images)
        things, stuff = model.things(out, batch.sizes), model.stuff(out, batch.sizes)
    return list(zip(things, stuff, batch.targets.panoptic or [], strict=True)), CATEGORIES


def quality(settings: MergeSettings) -> float:
    """PQ of the stored network on the unseen scenes, with these thresholds."""
    scenes, categories = _unseen()
    metric = PanopticQuality(categories)
    for things, stuff, truth in scenes:
        metric.update(merge_panoptic(things, stuff, settings, num_things=sum(c.isthing for c in categories)), truth)
    return metric.compute().pq


def _reaches(attempt: Any) -> None:
    values = attempt.tolist() if isinstance(attempt, Tensor | np.ndarray) else attempt
    three = isinstance(values, tuple | list) and len(values) == 3
    values = [v.tolist() if isinstance(v, Tensor | np.generic) else v for v in values] if three else values
    expect(three and all(isinstance(v, int | float) for v in values), "Give three numbers: score, overlap, limit.")
    score, overlap, limit = values
    expect(0 <= score <= 1 and 0 <= overlap <= 1, "Both thresholds are shares from 0 to 1.")
    expect(limit >= 0 and float(limit).is_integer(), "The limit is a whole number of pixels, 0 or more.")
    given = MergeSettings(score, overlap, int(limit))
    reached = quality(given)
    if reached >= WANTED:
        return
    better = {name: quality(replace(given, **{name: good})) for name, good in _GOOD.items()}
    worst = max(better, key=lambda name: better[name])
    expect(False, _LOW_OR_HIGH[worst][getattr(given, worst) > _GOOD[worst]])


THRESHOLDS = Exercise(
    solution=tuple(_GOOD.values()),
    wrong={
        "limit_of_the_paper": ((0.5, 0.5, 4096), _LOW_OR_HIGH["stuff_area_limit"][1]),
        "no_limit": ((0.5, 0.5, 0), _LOW_OR_HIGH["stuff_area_limit"][0]),
        "sure_objects_only": ((0.95, 0.5, 100), _LOW_OR_HIGH["score_threshold"][1]),
        "all_objects": ((0.0, 0.5, 100), _LOW_OR_HIGH["score_threshold"][0]),
        "no_overlap": ((0.4, 0.0, 100), _LOW_OR_HIGH["overlap_threshold"][0]),
        "percentages": ((30, 50, 100), "Both thresholds are shares from 0 to 1."),
        "two_numbers": ((0.3, 0.5), "Give three numbers: score, overlap, limit."),
        "share_of_the_image": ((0.3, 0.5, 0.004), "The limit is a whole number of pixels, 0 or more."),
    },
    right={
        "a list": list(_GOOD.values()),
        "a tensor": torch.tensor(list(_GOOD.values())),
        "numbers of NumPy": tuple(map(np.float32, _GOOD.values())),
    },
    verify=_reaches,
    compared=False,
    sketch="""
        for score in (0.3, ...):                  # on the validation scenes
            for limit in (64, ...):
                print(score, limit, pq_of(tally(merged(MergeSettings(...)))))
    """,
)
