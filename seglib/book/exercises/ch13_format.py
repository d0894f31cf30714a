"""Chapter 13: the exercises on the format, COCO's PNG of ids and the ids of Cityscapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seglib.book.exercise import Exercise, difference, expect, own

# From a PNG to places in the list ------------------------------------------------------------------------------------


def place_in_list(rgb: Tensor, ids: Sequence[int]) -> Tensor:
    """Colours ``(H, W, 3)`` and the ids of the list → the place of each pixel's segment, ``(H, W)``; 0 is void."""
    number = (rgb.long() * torch.tensor([1, 256, 256**2])).sum(2)  # (H, W)
    here = number[..., None] == torch.tensor([0, *ids])  # (H, W, 1 + S)
    if not bool(here.any(2).all()):
        raise ValueError("an id of the map is not in the list")
    return here.long().argmax(2)


def _by_base(rgb: Tensor, ids: Sequence[int], weights: Sequence[int]) -> Tensor:
    """Reads the colours with other weights; what isn't in the list becomes void."""
    number = (rgb.long() * torch.tensor(weights)).sum(2)
    return (number[..., None] == torch.tensor([0, *ids])).long().argmax(2)


def _in_order_of_ids(rgb: Tensor, ids: Sequence[int]) -> Tensor:
    return place_in_list(rgb, sorted(ids))


def _of_those_that_occur(rgb: Tensor, ids: Sequence[int]) -> Tensor:
    """Numbers the ids of the map, whatever the list says."""
    number = (rgb.long() * torch.tensor([1, 256, 256**2])).sum(2)
    return number.unique(return_inverse=True)[1].view(number.shape)


def _without_gaps(rgb: Tensor, ids: Sequence[int]) -> Tensor:
    """Leaves segments out that have no pixel."""
    number = (rgb.long() * torch.tensor([1, 256, 256**2])).sum(2)
    return place_in_list(rgb, [i for i in ids if bool((number == i).any())])


def _unknown_is_void(rgb: Tensor, ids: Sequence[int]) -> Tensor:
    return _by_base(rgb, ids, (1, 256, 256**2))


def _red_alone_that_raises(rgb: Tensor, ids: Sequence[int]) -> Tensor:
    """Multiplies in 8 bits, and raises for what it then doesn't find."""
    r, g, b = rgb.unbind(2)
    here = (r + 256 * g + 256**2 * b)[..., None] == torch.tensor([0, *ids])
    if not bool(here.any(2).all()):
        raise ValueError("an id of the map is not in the list")
    return here.long().argmax(2)


def _red_alone_one_after_the_other(rgb: Tensor, ids: Sequence[int]) -> Tensor:
    """Multiplies in 8 bits; of segments with one red the last in the list wins, and the rest is void."""
    places = torch.zeros(rgb.shape[:2], dtype=torch.int64)
    for place, number in enumerate(ids, start=1):
        places[rgb[..., 0] + 256 * rgb[..., 1] + 256**2 * rgb[..., 2] == number] = place
    return places


def _raises_if(missing: Callable[[set[int], set[int]], bool]) -> Callable[[Tensor, Sequence[int]], Tensor]:
    """Raises when the ids of the map and those of the list, as sets, are what ``missing`` says."""

    def answer(rgb: Tensor, ids: Sequence[int]) -> Tensor:
        number = (rgb.long() * torch.tensor([1, 256, 256**2])).sum(2)
        if missing(set(number.unique().tolist()), set(ids)):
            raise ValueError("the ids of the map are not those of the list")
        return place_in_list(rgb, ids)

    return answer


def _searched_without_void(rgb: Tensor, ids: Sequence[int]) -> Tensor:
    """Looks for the ids in a list without 0."""
    number = (rgb.long() * torch.tensor([1, 256, 256**2])).sum(2)
    return torch.where(number == 0, 0, 1 + (number[..., None] == torch.tensor(ids)).long().argmax(2))


def _index_by_dict(rgb: Tensor, ids: Sequence[int]) -> list[list[int]]:
    """Right, but for an unknown id it raises what a dict raises."""
    place = {0: 0} | {number: i for i, number in enumerate(ids, 1)}
    return [[place[r + 256 * g + 65536 * b] for r, g, b in row] for row in rgb.tolist()]


def _index_numpy(rgb: Tensor, ids: Sequence[int]) -> np.ndarray:
    r, g, b = rgb.numpy().astype(np.int64).transpose(2, 0, 1)
    place = {0: 0} | {number: i for i, number in enumerate(ids, 1)}
    try:
        return np.vectorize(place.__getitem__)(r + 256 * g + 65536 * b)
    except KeyError as error:
        raise ValueError(f"the id {error} is not in the list") from error


def _index_searched(rgb: Tensor, ids: Sequence[int]) -> Tensor:
    """By searching in the sorted ids, undone by their order."""
    r, g, b = rgb.int().unbind(2)
    number = r | g << 8 | b << 16
    known, order = torch.tensor([0, *ids], dtype=torch.int32).sort()
    at = torch.searchsorted(known, number).clamp(max=len(known) - 1)
    if bool((known[at] != number).any()):
        raise ValueError("unknown")
    return order[at]


def _index_pixel_by_pixel(rgb: Tensor, ids: Sequence[int]) -> list[list[int]]:
    return [
        [0 if not any(c) else list(ids).index(c[0] + 256 * c[1] + 65536 * c[2]) + 1 for c in r] for r in rgb.tolist()
    ]


def _colours(*rows: Sequence[int]) -> Tensor:
    ids = torch.tensor(rows)
    return torch.stack([ids % 256, ids // 256 % 256, ids // 256**2], 2).to(torch.uint8)


def _pngs() -> Mapping[str, tuple[Tensor, list[int]]]:
    return {
        "ids that are not sorted": (_colours([0, 7, 7], [70_000, 300, 0]), [70_000, 7, 300]),
        "a colour, and the same with R and B exchanged": (_colours([1, 65_536]), [1, 65_536]),
        "two ids of which G differs alone": (_colours([10, 266, 522]), [10, 266, 522]),
        "two ids of which B differs alone": (_colours([10, 65_546]), [10, 65_546]),
        "the largest id": (_colours([16_777_215, 0]), [16_777_215]),
        "a segment without a pixel": (_colours([5, 300], [300, 300]), [9, 5, 12, 300]),
        "no void": (_colours([3], [2]), [2, 3]),
        "only void": (_colours([0, 0]), [5]),
        "an empty list": (_colours([0, 0], [0, 0]), []),
    }


def _refuses_unknown_ids(attempt: Callable[..., Any]) -> None:
    """Rejects right values of a function that takes an id that the list doesn't have."""
    if any(difference(attempt(*own(case)), place_in_list(*own(case))) for case in _pngs().values()):
        return  # it's wrong, which is said first
    for rgb, ids in ((_colours([1, 2]), [1]), (_colours([300]), [44]), (_colours([8]), [])):
        try:
            attempt(rgb, ids)
        except ValueError:
            continue
        except Exception as error:
            expect(False, f"For an id that the list doesn't have, raise ValueError; you raise {type(error).__name__}.")
        expect(False, "For an id of the map that the list doesn't have, raise a ValueError: it's a broken file.")


INDEX = Exercise(
    solution=place_in_list,
    wrong={
        "blue_first": (
            lambda rgb, ids: _by_base(rgb, ids, (256**2, 256, 1)),
            "You read the colours as B, G, R. Red counts once, green 256 times, blue 256² times.",
        ),
        "red_alone": (
            lambda rgb, ids: _by_base(rgb, ids, (1, 0, 0)),
            "Only red arrives: in 8 bits 256 · G is 0. Convert the colours to a wider type before you multiply.",
        ),
        "red_alone_that_raises": (
            _red_alone_that_raises,
            "Your ids are wrong: in 8 bits 256 · G is 0. Convert the colours to a wider type before you multiply.",
        ),
        "red_alone_one_after_the_other": (
            _red_alone_one_after_the_other,
            "In 8 bits 256 · G is 0: convert the colours to a wider type first. And an unknown id must raise.",
        ),
        "without_blue": (
            lambda rgb, ids: _by_base(rgb, ids, (1, 256, 0)),
            "Blue is missing. It counts 256² times, which doesn't fit into 16 bits either.",
        ),
        "added": (
            lambda rgb, ids: _by_base(rgb, ids, (1, 1, 1)),
            "The sum of the three colours is no id. Green counts 256 times, blue 256² times.",
        ),
        "base_255": (
            lambda rgb, ids: _by_base(rgb, ids, (1, 255, 255**2)),
            "The base is 256: one more than the largest value of a colour.",
        ),
        "sorted": (
            _in_order_of_ids,
            "You number the segments by rising id. Number them in the order of the list.",
        ),
        "those_that_occur": (
            _of_those_that_occur,
            "You number the ids that occur in the map. The list decides, and 0 stays void even where there is none.",
        ),
        "gaps": (
            _without_gaps,
            "A segment without a pixel keeps its place: the numbers of those after it must not change.",
        ),
        "from_zero": (
            lambda rgb, ids: place_in_list(rgb, ids) - 1,
            "You count from 0, and void is −1. Void is 0, and the first segment of the list is 1.",
        ),
        "first_is_void": (
            lambda rgb, ids: (place_in_list(rgb, ids) - 1).clamp(min=0),
            "Void and the first segment of the list are both 0. Count the segments from 1.",
        ),
        "void_last": (
            lambda rgb, ids: (place_in_list(rgb, ids) - 1) % (len(ids) + 1),
            "You count from 0, and void comes last. Void is 0, and the first segment of the list is 1.",
        ),
        "ids": (
            lambda rgb, ids: (rgb.long() * torch.tensor([1, 256, 256**2])).sum(2),
            "These are the ids. Return each one's place in the list, counted from 1.",
        ),
        "empty": (
            lambda rgb, ids: place_in_list(rgb, ids).clamp(max=max(ids) + len(ids)),
            "The list may be empty: then the map has void alone, and a maximum over nothing is an error.",
        ),
        "empty_search": (
            _searched_without_void,
            "The list may be empty, and there is no largest entry of nothing. Put 0 in front of the list.",
        ),
        "void_is_unknown": (
            _raises_if(lambda there, listed: not there <= listed),
            "The id 0 is void and stands in no list: it is no error.",
        ),
        "unused_is_an_error": (
            _raises_if(lambda there, listed: there - {0} != listed),
            "A listed segment without a pixel is no error. Only an id of the map that the list doesn't have is one.",
        ),
        "unknown_is_void": (
            _unknown_is_void,
            "For an id of the map that the list doesn't have, raise a ValueError: it's a broken file.",
        ),
        "another_error": (
            _index_by_dict,
            "For an id that the list doesn't have, raise ValueError; you raise KeyError.",
        ),
    },
    right={
        "NumPy, a dict": _index_numpy,
        "a search in sorted ids": _index_searched,
        "pixel by pixel, lists": _index_pixel_by_pixel,
    },
    probes=_pngs,
    verify=_refuses_unknown_ids,
    hint="First the id of every pixel, then its place in the list [0, *ids].",
    sketch="""
        r, g, b = rgb.long().unbind(2)           # long first: 256 doesn't fit into 8 bits
        number = r + 256 * ... + ...             # (H, W) ids
        here = number[..., None] == torch.tensor([0, *ids])  # (H, W, 1 + S)
        if ...: raise ValueError(...)            # an id that is nowhere in the list
        return here.long().argmax(...)
    """,
)


# Segments of Cityscapes ----------------------------------------------------------------------------------------------


def cityscapes_segments(ids: Tensor, things: Sequence[int], stuff: Sequence[int]) -> list[tuple[int, int, bool]]:
    """The segments (id, class, is a crowd) of a map of Cityscapes' ids, by rising id."""
    found = []
    for number in sorted(set(ids.flatten().tolist())):
        label = number // 1000 if number >= 1000 else number
        if label in things or label in stuff:
            found.append((number, label, label in things and number < 1000))
    return found


Reader = Callable[[Tensor, Sequence[int], Sequence[int]], Any]


def _cityscapes_if(
    *,
    label: Callable[[int], int] = lambda n: n // 1000 if n >= 1000 else n,
    crowd: Callable[[int, bool], bool] = lambda n, thing: thing and n < 1000,
    void: bool = False,
    in_order: bool = True,
) -> Reader:
    def answer(ids: Tensor, things: Sequence[int], stuff: Sequence[int]) -> list[tuple[int, int, bool]]:
        numbers = ids.flatten().tolist()
        numbers = sorted(set(numbers)) if in_order else list(dict.fromkeys(numbers))
        classes = [(n, label(n)) for n in numbers]
        return [(n, k, crowd(n, k in things)) for n, k in classes if void or k in things or k in stuff]

    return answer


def _cityscapes_numpy(ids: Tensor, things: Sequence[int], stuff: Sequence[int]) -> list[list[Any]]:
    numbers = np.unique(ids.numpy())
    labels = np.where(numbers < 1000, numbers, numbers // 1000)
    kept = np.isin(labels, [*things, *stuff])
    crowd = np.isin(labels, list(things)) & (numbers < 1000)
    return [[n, k, c] for n, k, c in zip(numbers[kept], labels[kept], crowd[kept], strict=True)]


def _cityscapes_pixel_by_pixel(ids: Tensor, things: Sequence[int], stuff: Sequence[int]) -> list[tuple[int, int, bool]]:
    seen: set[tuple[int, int, bool]] = set()
    for row in ids.tolist():
        for n in row:
            if n >= 1000 and n // 1000 in things:
                seen.add((n, n // 1000, False))
            elif n in stuff or n in things:
                seen.add((n, n, n in things))
    return sorted(seen)


def _streets() -> Mapping[str, tuple[Tensor, list[int], list[int]]]:
    things, stuff = [24, 26, 1], [7, 23, 8]
    return {
        "a road, the sky, two people": (torch.tensor([[23, 23], [24_001, 24_000], [7, 7]]), things, stuff),
        "a group of people": (torch.tensor([[24, 24], [24_003, 7]]), things, stuff),
        "void": (torch.tensor([[0, 4, 23], [-1, 3, 26_002]]), things, stuff),
        "ids that appear in falling order": (torch.tensor([[26_001, 26_000], [24_000, 8]]), things, stuff),
        "an id twice": (torch.tensor([[26_001, 7, 26_001]]), things, stuff),
        "a class of one digit": (torch.tensor([[1_000, 1_012]]), things, stuff),
        "an object with a number of three digits": (torch.tensor([[26_123, 24_100]]), things, stuff),
        "objects of a class that is void": (torch.tensor([[9_001, 30_002, 23]]), things, stuff),
        "only void": (torch.tensor([[0, 0]]), things, stuff),
    }


CITYSCAPES = Exercise(
    solution=cityscapes_segments,
    wrong={
        "remainder": (
            _cityscapes_if(label=lambda n: n % 1000 if n >= 1000 else n),
            "The remainder is the number of the object. The class is what stands before it: id // 1000.",
        ),
        "ids_as_classes": (
            _cityscapes_if(label=lambda n: n),
            "From 1000 on the id is class · 1000 + number. The class is id // 1000.",
        ),
        "always_divided": (
            _cityscapes_if(label=lambda n: n // 1000),
            "Below 1000 the id is the class itself: stuff, and groups of things.",
        ),
        "two_digits": (
            _cityscapes_if(label=lambda n: int(str(abs(n))[:2])),
            "You take the first two digits for the class. A class may have one digit, as in 1000 or 1012.",
        ),
        "hundreds": (
            _cityscapes_if(label=lambda n: n // 1000 if n > 1000 else n),
            "1000 itself is class 1, object 0: an object is an id of *at least* 1000.",
        ),
        "no_crowd": (
            _cityscapes_if(crowd=lambda n, thing: False),
            "A thing class below 1000 has no number: several objects under one id, a crowd.",
        ),
        "number_0": (
            _cityscapes_if(crowd=lambda n, thing: thing and (n < 1000 or n % 1000 == 0)),
            "24000 is object 0 of class 24, no crowd: numbers begin at 0. A crowd has an id below 1000.",
        ),
        "stuff_as_crowd": (
            _cityscapes_if(crowd=lambda n, thing: n < 1000),
            "Stuff is never a crowd. A crowd is a *thing* class without an object's number.",
        ),
        "things_as_crowds": (
            _cityscapes_if(crowd=lambda n, thing: thing),
            "An id of 1000 or more is one object, no crowd.",
        ),
        "void": (
            _cityscapes_if(void=True),
            "Ids whose class is in neither list are void: leave them out.",
        ),
        "zero_and_below": (
            lambda ids, things, stuff: [s for s in _cityscapes_if(void=True)(ids, things, stuff) if s[0] > 0],
            "Not only 0 and −1 are void: so is every id whose class is in neither list.",
        ),
        "things_alone": (
            lambda ids, things, stuff: cityscapes_segments(ids, things, []),
            "Stuff is missing. A class in `stuff` is a segment, too.",
        ),
        "stuff_alone": (
            lambda ids, things, stuff: cityscapes_segments(ids, [], stuff),
            "Things are missing. A class in `things` is a segment, too.",
        ),
        "groups_left_out": (
            lambda ids, things, stuff: [s for s in cityscapes_segments(ids, things, stuff) if not s[2]],
            "You leave out groups of things. They are segments that are marked as a crowd.",
        ),
        "order": (
            _cityscapes_if(in_order=False),
            "The segments are right. Return them by rising id.",
        ),
        "things_first": (
            lambda *a: sorted(cityscapes_segments(*a), key=lambda s: s[1] not in a[1]),
            "The segments are right, but things come first. Return all of them by rising id.",
        ),
        "every_pixel": (
            lambda ids, things, stuff: [
                s
                for n in sorted(ids.flatten().tolist())
                for s in cityscapes_segments(torch.tensor([[n]]), things, stuff)
            ],
            "You list a segment for every pixel. An id is one segment, however often it occurs.",
        ),
        "class_first": (
            lambda ids, things, stuff: [(k, n, c) for n, k, c in cityscapes_segments(ids, things, stuff)],
            "The order is id, class, crowd.",
        ),
    },
    right={
        "NumPy, rows as lists": _cityscapes_numpy,
        "pixel by pixel, a set": _cityscapes_pixel_by_pixel,
    },
    probes=_streets,
    hint="For every id once: its class, whether that is a thing, stuff or void, and whether it has an object's number.",
    sketch="""
        found = []
        for number in sorted(set(...)):
            label = number // 1000 if ... else number
            if label in things or label in stuff:
                found.append((number, label, ...))
        return found
    """,
)
