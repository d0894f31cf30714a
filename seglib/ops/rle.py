"""COCO's run-length codes of masks: in and out of tensors, from polygons, their areas.

A mask is read column by column. Its code lists how long the runs of zeros and ones are, starting with zeros (that run
may be empty)::

    0 1 1
    0 1 0        columns 0 0 | 1 1 | 1 0        runs 2 3 1

COCO packs the runs into printable text: from the fourth on, a run is stored as its difference to the one two before,
and every number as groups of 5 bits, lowest first, one character (48 + bits) each; bit 5 says that more follow. Packing
is pycocotools' work (``pip install pycocotools``). It trusts its input: a code whose runs don't fill the image decodes
to whatever the memory held, and ``pycocotools.mask.iou`` never returns. So every code is checked here first.

Source: Lin et al., *Microsoft COCO: Common Objects in Context*, ECCV 2014, and its API.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

RLE = dict[str, Any]
"""``{"size": [H, W], "counts": text}``; wherever one is read, counts may also be bytes or the list of runs."""

LONGEST = 7
"""Characters of one number: 35 bits, more than any image has pixels."""


def encode_rle(masks: Tensor) -> list[RLE]:
    """The run-length codes of masks, ready for JSON.

    Args:
        masks: masks to encode, ``(N, H, W)`` bool. N, H and W may be 0.

    Returns:
        N codes with text counts.

    Raises:
        ValueError: when masks aren't bool or don't have three dimensions.
        ImportError: when pycocotools isn't installed.
    """
    if masks.ndim != 3 or masks.dtype != torch.bool:
        raise ValueError(
            f"masks must be bool (N, H, W), got {masks.dtype} {tuple(masks.shape)}; threshold scores first"
        )
    by_columns = masks.cpu().transpose(1, 2).contiguous()  # (N, W, H): pycocotools reads columns, of all masks at once
    codes = coco_mask().encode(by_columns.numpy().view(np.uint8).transpose(2, 1, 0))  # of (H, W, N)
    return [_text(code) for code in codes]


def decode_rle(rles: Sequence[RLE], size: tuple[int, int] | None = None) -> Tensor:
    """The masks of run-length codes.

    Args:
        rles: N run-length codes of one size; their counts may be text, bytes or the list of runs.
        size: size (H, W) that the codes must have; needed to give an empty list its size.

    Returns:
        ``(N, H, W)`` bool; ``(0, 0, 0)`` for an empty list without ``size``.

    Raises:
        ValueError: when a code is malformed, or has another size than ``size`` or the first one.
        ImportError: when counts are lists and pycocotools isn't installed.
    """
    rles = compress_rles(rles, size)
    height, width = size or (rles[0]["size"] if rles else (0, 0))
    pairs, _ = _checked(rles)  # (P, 2) zeros and ones
    pixels = np.repeat(np.arange(pairs.size) % 2 == 1, pairs.ravel())  # (N·W·H,): pycocotools decodes mask by mask
    return torch.from_numpy(pixels).view(len(rles), width, height).transpose(1, 2).contiguous()


def polygons_to_rle(polygons: Sequence[Sequence[float]], height: int, width: int) -> RLE:
    """The run-length code of the union of polygons, drawn as COCO draws them.

    Args:
        polygons: any number of polygons ``[x1, y1, x2, y2, …]`` in pixels, each of at least three points. No polygon
            gives an empty mask.
        height: height of the image, H.
        width: width of the image, W. What lies outside the image is cut off.

    Raises:
        ValueError: for fewer than three points, an odd number of coordinates, or one that isn't a finite number.
        ImportError: when pycocotools isn't installed.
    """
    return draw_polygons([polygons], height, width)[0]


def draw_polygons(objects: Sequence[Sequence[Sequence[float]]], height: int, width: int) -> list[RLE]:
    """:func:`polygons_to_rle` of many objects in one image, drawn together: a third of the time.

    Args:
        objects: the polygons of each object.
        height: height of the image, H.
        width: width of the image, W.

    Raises:
        ValueError: as :func:`polygons_to_rle`; ``polygons[i]`` counts within its object.
        ImportError: when pycocotools isn't installed.
    """
    for polygons in objects:
        for i, polygon in enumerate(polygons):
            try:  # a sum is finite when all numbers are
                sound = len(polygon) >= 6 and len(polygon) % 2 == 0 and math.isfinite(sum(polygon))
            except TypeError:
                sound = False
            if not sound:
                raise ValueError(
                    f"polygons[{i}] is {_short(polygon)}; a polygon is a list [x1, y1, x2, y2, …] of finite numbers "
                    "with at least three points: drop the ones with less"
                )
    coco = coco_mask()
    drawn = [list(polygon) for polygons in objects for polygon in polygons]
    parts = iter(coco.frPyObjects(drawn, height, width) if drawn else [])
    found = []
    for polygons in objects:
        mine = [next(parts) for _ in polygons]
        if not mine:
            found += encode_rle(torch.zeros(1, height, width, dtype=torch.bool))
        else:
            found.append(_text(mine[0] if len(mine) == 1 else coco.merge(mine)))
    return found


def compress_rles(
    rles: Sequence[RLE], size: tuple[int, int] | None = None, *, sizes: Sequence[tuple[int, int]] | None = None
) -> list[RLE]:
    """The codes with text counts; those that have them already come back as they are.

    Args:
        rles: N run-length codes; their counts may be text, bytes or the list of runs.
        size: size (H, W) that the codes must have; that of the first when ``None``.
        sizes: instead, the size (H, W) that each code must have: those of codes of several images.

    Raises:
        ValueError: when an entry isn't a run-length code, or has another size.
        ImportError: when pycocotools isn't installed.
    """
    found = []
    wanted = None if size is None else [int(side) for side in size]
    for i, rle in enumerate(rles):
        try:
            sides, counts = rle["size"], rle["counts"]
        except (TypeError, KeyError, IndexError):
            raise ValueError(f'rles[{i}] is {_short(rle)}; a code is {{"size": [H, W], "counts": …}}') from None
        if sizes is not None:
            wanted = [*sizes[i]]
        elif wanted is None:
            wanted = _size(sides, i)
        if sides != wanted:
            if _size(sides, i) != wanted:
                raise ValueError(
                    f"rles[{i}] has size {list(sides)}, expected {wanted} (height, width); "
                    "scale the masks to the image's size before they are encoded"
                )
            rle = {"size": wanted, "counts": counts}
        if isinstance(counts, bytes):
            rle = {"size": wanted, "counts": counts.decode("latin-1")}
        elif isinstance(counts, list):
            rle = _pack(counts, wanted, i)
        elif not isinstance(counts, str):
            raise ValueError(f"rles[{i}] has counts {_short(counts)}; counts are text, bytes or a list of runs")
        found.append(rle)
    return found


def rle_areas(rles: Sequence[RLE], size: tuple[int, int] | None = None) -> Tensor:
    """How many pixels every code has: ``(N,)`` int64. Arguments and errors are those of :func:`check_rles`."""
    return check_rles(rles, size)[1]


def check_rles(
    rles: Sequence[RLE], size: tuple[int, int] | None = None, *, sizes: Sequence[tuple[int, int]] | None = None
) -> tuple[list[RLE], Tensor]:
    """The codes with text counts and their areas, after a check that the runs of each fill its image exactly.

    Args:
        rles: N run-length codes; their counts may be text, bytes or the list of runs.
        size: size (H, W) that the codes must have; that of the first when ``None``.
        sizes: instead, the size (H, W) that each code must have: those of codes of several images.

    Returns:
        N codes as from :func:`compress_rles`, and their areas in pixels, ``(N,)`` int64.

    Raises:
        ValueError: when a code is malformed or has another size.
        ImportError: when counts are lists and pycocotools isn't installed.
    """
    rles = compress_rles(rles, size, sizes=sizes)
    return rles, torch.from_numpy(_checked(rles)[1])


def coco_mask() -> Any:
    """The module ``pycocotools.mask``, imported here because the rest of the package works without it."""
    try:
        from pycocotools import mask
    except ImportError as error:
        raise ImportError("COCO's run-length codes need pycocotools; run pip install pycocotools") from error
    return mask


def _checked(rles: list[RLE]) -> tuple[np.ndarray, np.ndarray]:
    """The runs of N compressed codes as pairs of zeros and ones ``(P, 2)``, and their areas ``(N,)`` int64."""
    if not rles:
        return np.zeros((0, 2), np.int32), np.zeros(0, np.int64)
    pairs, first = _pairs([rle["counts"] for rle in rles])  # (P, 2), (N,)
    pixels = np.fromiter((height * width for height, width in (rle["size"] for rle in rles)), np.int64, len(rles))
    zeros, ones = np.add.reduceat(pairs, first, dtype=np.int64).T  # (N,) each
    wrong = zeros + ones != pixels
    if wrong.any() or pairs.min() < 0:
        i = int(np.argmax(wrong | (np.minimum.reduceat(pairs, first).min(1) < 0)))
        raise ValueError(
            f"rles[{i}] is malformed: its runs add up to {zeros[i] + ones[i]} and none may be negative, its size "
            f"{rles[i]['size']} has {pixels[i]} pixels; encode the mask again"
        )
    return pairs, ones.copy()


def _pairs(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The runs of N packed texts as pairs of zeros and ones, and where those of each text begin.

    Returns:
        ``(P, 2)`` int32, the pairs of all texts one after the other; ``(N,)`` the first pair of each.

    Raises:
        ValueError: when a text isn't a list of packed numbers.
    """
    bits = np.frombuffer("".join(texts).encode("utf-8", "surrogatepass"), np.uint8) - np.uint8(48)  # (C,)
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))  # (N,) characters
    ends = lengths.cumsum()
    stops = np.flatnonzero(bits < 32)  # (R,) the last character of every number
    extra = np.diff(stops, prepend=-1) - 1  # (R,) characters before the last
    longest = int(extra.max(initial=0))
    if lengths.min() == 0 or bits.max() > 63 or (bits[ends - 1] > 31).any() or longest >= LONGEST:
        raise ValueError(_where_malformed(texts))

    bits = bits.view(np.int8)
    numbers = ((bits[stops] ^ 16) - 16).astype(np.int32)  # (R,) bit 4 of the last character is the sign
    more = np.arange(0)
    for place in range(1, longest + 1):  # backwards from the last character
        more = np.flatnonzero(extra >= place) if place == 1 else more[extra[more] >= place]
        numbers[more] = numbers[more] << 5 | bits[stops[more] - place] & 31

    begin = np.searchsorted(stops, ends - lengths)  # (N,) the first number of every text
    count = np.diff(begin, append=len(numbers))
    size = (count + 1) // 2  # (N,) pairs; an odd text's last one has no ones
    first = size.cumsum() - size
    pairs = np.zeros((size.sum(), 2), np.int32)
    pairs.ravel()[np.arange(len(numbers)) + np.repeat(2 * first - begin, count)] = numbers
    leading = pairs[first, 0]  # the one number that is no link of the chains of differences
    pairs[first, 0] = 0
    total = pairs.cumsum(0, np.int32)  # wraps like pycocotools' 32 bits
    total -= np.repeat(total[first] - pairs[first], size, 0)  # less the sum of the texts before
    total[first, 0] = leading
    total[(first + size - 1)[count % 2 == 1], 1] = 0  # the pair that has no ones
    return total, first


def _where_malformed(texts: list[str]) -> str:
    """The message about the first text that isn't a list of packed numbers."""
    for i, text in enumerate(texts):
        bits = [ord(c) - 48 for c in text]
        stops = [-1, *(j for j, b in enumerate(bits) if b < 32)]
        longest = max((b - a for a, b in zip(stops, stops[1:], strict=False)), default=0)
        if not bits or bits[-1] > 31 or not all(0 <= b < 64 for b in bits) or longest > LONGEST:
            return f"rles[{i}] is malformed: its counts {_short(text)} aren't packed runs; encode the mask again"
    raise AssertionError("some text is malformed")


def _pack(runs: list[int], size: list[int], i: int) -> RLE:
    if not all(isinstance(run, int) and 0 <= run < 2**31 for run in runs) or sum(runs) != size[0] * size[1]:
        raise ValueError(
            f"rles[{i}] is malformed: its runs {_short(runs)} must be whole numbers, at least 0, that add up to the "
            f"{size[0] * size[1]} pixels of its size {size}"
        )
    return _text(coco_mask().frPyObjects({"size": size, "counts": runs}, *size))


def _size(sides: Any, i: int) -> list[int]:
    try:
        height, width = map(operator.index, sides)
    except (TypeError, ValueError):
        raise ValueError(f"rles[{i}] has size {_short(sides)}; a size is [H, W], whole numbers") from None
    if height < 0 or width < 0:
        raise ValueError(f"rles[{i}] has size {_short(sides)}; height and width are at least 0")
    return [height, width]


def _text(rle: RLE) -> RLE:
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
