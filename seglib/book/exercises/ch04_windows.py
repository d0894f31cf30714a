"""Chapter 4, "U-Net": an image that is labelled in overlapping windows, whose scores are blended."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from seglib.book.exercise import Exercise

Predict = Callable[[Tensor], Tensor]
Place = Callable[[int, int, int], Sequence[int]]


def starts(length: int, part: int, step: int) -> list[int]:
    """Where windows of ``part`` begin along ``length``: at multiples of ``step``, the last one ends with the image."""
    return [*range(0, length - part, step), length - part]


def hat(height: int, width: int) -> Tensor:
    """1 in the outermost rows and columns of a window, 2 one pixel further in, and so on: ``(height, width)``."""
    return torch.minimum(_side(height)[:, None], _side(width))


def _side(length: int) -> Tensor:
    place = torch.arange(length)
    return torch.minimum(place, length - 1 - place) + 1.0


def blended(predict: Predict, image: Tensor, size: int, step: int) -> Tensor:
    """The weighted mean ``(K, H, W)`` of the scores that ``predict`` gives overlapping windows of ``(3, H, W)``."""
    return _blend(predict, image, size, step)


def _blend(
    predict: Predict,
    image: Tensor,
    size: int,
    step: int,
    *,
    place: Place = starts,
    weigh: Callable[[int, int], Tensor] = hat,
    divide: bool = True,
) -> Tensor:
    height, width = image.shape[1:]
    h, w = min(size, height), min(size, width)
    total, weights = torch.zeros(1, height, width), torch.zeros(height, width)
    for top in place(height, h, step):
        for left in place(width, w, step):
            window = image[:, top : top + h, left : left + w]
            inside = weigh(h, w)[: window.shape[1], : window.shape[2]]
            around = (left, width - left - window.shape[2], top, height - top - window.shape[1])
            total = total + F.pad(predict(window) * inside, around)
            weights = weights + F.pad(inside, around)
    return total / weights if divide else total


def _twice(length: int, part: int, step: int) -> list[int]:
    """Every start that is a multiple of the step, moved back where its window would reach beyond the image."""
    return [min(start, length - part) for start in range(0, length, step)]


def _once_too_often(length: int, part: int, step: int) -> list[int]:
    return [*range(0, length - part + 1, step), length - part]


def _last_written(predict: Predict, image: Tensor, size: int, step: int) -> Tensor:
    height, width = image.shape[1:]
    h, w = min(size, height), min(size, width)
    out = _blend(predict, image, size, step)
    for top in starts(height, h, step):
        for left in starts(width, w, step):
            out[:, top : top + h, left : left + w] = predict(image[:, top : top + h, left : left + w])
    return out


def _heaviest(predict: Predict, image: Tensor, size: int, step: int) -> Tensor:
    """Takes the scores of the window in which a pixel weighs most."""
    height, width = image.shape[1:]
    h, w = min(size, height), min(size, width)
    out, best, weight = _blend(predict, image, size, step), torch.zeros(height, width), hat(h, w)
    for top in starts(height, h, step):
        for left in starts(width, w, step):
            place = (slice(top, top + h), slice(left, left + w))
            better = weight > best[place]
            scores = predict(image[:, top : top + h, left : left + w])
            out[:, top : top + h, left : left + w] = torch.where(better, scores, out[:, top : top + h, left : left + w])
            best[place] = torch.maximum(best[place], weight)
    return out


def _padded(predict: Predict, image: Tensor, size: int, step: int) -> Tensor:
    """Fills an image up to whole windows with zeros, and cuts the answer."""
    height, width = image.shape[1:]
    tall, wide = (max(size, -(-(n - size) // step) * step + size) for n in (height, width))
    filled = F.pad(image, (0, wide - width, 0, tall - height))
    return _blend(predict, filled, size, step)[:, :height, :width]


def _without_end(predict: Predict, image: Tensor, size: int, step: int) -> Tensor:
    """Only the windows at multiples of the step that lie in the image; 0 where none does."""
    return _blend(predict, image, size, step, place=lambda n, part, d: range(0, n - part + 1, d)).nan_to_num()


def _inside_image(predict: Predict, image: Tensor, size: int, step: int) -> Tensor:
    """Edges that are the image's border do not count as edges."""
    height, width = image.shape[1:]
    h, w = min(size, height), min(size, width)
    total, weights = torch.zeros(1, height, width), torch.zeros(height, width)

    def side(length: int, part: int, start: int) -> Tensor:
        place = torch.arange(part) + 1.0
        before = place if start > 0 else torch.full((part,), float(part))
        behind = place.flip(0) if start + part < length else torch.full((part,), float(part))
        return torch.minimum(before, behind)

    for top in starts(height, h, step):
        for left in starts(width, w, step):
            inside = torch.minimum(side(height, h, top)[:, None], side(width, w, left))
            around = (left, width - left - w, top, height - top - h)
            total = total + F.pad(predict(image[:, top : top + h, left : left + w]) * inside, around)
            weights = weights + F.pad(inside, around)
    return total / weights


def _in_numpy(predict: Predict, image: Tensor, size: int, step: int) -> np.ndarray:
    height, width = image.shape[1:]
    h, w = min(size, height), min(size, width)
    y, x = np.mgrid[:h, :w]
    weight = np.minimum.reduce([y + 1, x + 1, h - y, w - x]).astype(np.float64)
    total, weights = None, np.zeros((height, width))
    top = 0
    while True:
        left = 0
        while True:
            scores = predict(image[:, top : top + h, left : left + w]).numpy() * weight
            if total is None:
                total = np.zeros((len(scores), height, width))
            total[:, top : top + h, left : left + w] += scores
            weights[top : top + h, left : left + w] += weight
            if left == width - w:
                break
            left = min(left + step, width - w)
        if top == height - h:
            break
        top = min(top + step, height - h)
    return total / weights


def _pixel_by_pixel(predict: Predict, image: Tensor, size: int, step: int) -> Tensor:
    """Remembers all windows, then asks for each pixel those that hold it."""
    height, width = image.shape[1:]
    h, w = min(size, height), min(size, width)
    rows = sorted({min(n * step, height - h) for n in range(height)})
    columns = sorted({min(n * step, width - w) for n in range(width)})
    answers = {(a, b): predict(image[:, a : a + h, b : b + w]) for a in rows for b in columns}
    pixels = []
    for y in range(height):
        for x in range(width):
            parts, weights = [], []
            for (a, b), scores in answers.items():
                i, j = y - a, x - b
                if 0 <= i < h and 0 <= j < w:
                    weights.append(1 + min(i, j, h - 1 - i, w - 1 - j))
                    parts.append(weights[-1] * scores[:, i, j])
            pixels.append(sum(parts[1:], parts[0]) / sum(weights))
    return torch.stack(pixels, 1).unflatten(1, (height, width))


def _local(window: Tensor) -> Tensor:
    """Two scores of each pixel that lean on the five by five around it; zeros surround the window."""
    grey = window.mean(0)[None]
    return torch.cat([F.avg_pool2d(grey, 5, 1, padding=2), F.max_pool2d(grey, 3, 1, padding=1)])


def _global(window: Tensor) -> Tensor:
    """Three scores of each pixel that lean on the whole window."""
    grey = window.mean(0)
    return torch.stack([grey - grey.mean(), grey.amax() - grey, grey * len(grey)])


def _images() -> Mapping[str, tuple[Predict, Tensor, int, int]]:
    image = torch.rand(3, 19, 26, generator=torch.Generator().manual_seed(5))
    return {
        "windows of 8 in steps of 5": (_local, image, 8, 5),
        "windows of 9 in steps of 4, and scores that lean on the whole window": (_global, image, 9, 4),
        "windows edge to edge, which do not fit": (_global, image, 8, 8),
        "windows that end with the image": (_global, image[:, :16, :24], 8, 4),
        "an image lower than a window": (_global, image[:, :6], 8, 3),
        "an image smaller than a window": (_local, image, 32, 16),
        "windows of an odd size in steps of 1": (_local, image[:, :9, :11], 5, 1),
    }


def _changed(**parts: object) -> Callable[..., Tensor]:
    return lambda predict, image, size, step: _blend(predict, image, size, step, **parts)  # type: ignore[arg-type]


def _product(height: int, width: int) -> Tensor:
    return _side(height)[:, None] * _side(width)


def _sum_of_sides(height: int, width: int) -> Tensor:
    return _side(height)[:, None] + _side(width)


TILES = Exercise(
    solution=blended,
    wrong={
        "alike": (
            _changed(weigh=lambda h, w: torch.ones(h, w)),
            "That is the plain mean over the windows. A pixel near the edge of a window counts less there.",
        ),
        "last_written": (
            _last_written,
            "A later window overwrites an earlier one. Where they overlap, take the weighted mean of their scores.",
        ),
        "heaviest": (
            _heaviest,
            "You take the window in which a pixel weighs most. All windows that hold it count, each with its weight.",
        ),
        "from_zero": (
            _changed(weigh=lambda h, w: hat(h, w) - 1 + 1e-9),
            "Your weights begin at 0. A pixel in the outermost row or column of a window weighs 1, the next one 2.",
        ),
        "product": (
            _changed(weigh=_product),
            "You multiply the distance in rows by that in columns. The nearest of the four edges alone counts.",
        ),
        "sum_of_sides": (
            _changed(weigh=_sum_of_sides),
            "You add the distance in rows and that in columns. The nearest of the four edges alone counts.",
        ),
        "rows_only": (
            _changed(weigh=lambda h, w: _side(h)[:, None].expand(h, w)),
            "Your weights fall toward the upper and lower edge alone. A window has four edges.",
        ),
        "columns_only": (
            _changed(weigh=lambda h, w: _side(w).expand(h, w)),
            "Your weights fall toward the left and right edge alone. A window has four edges.",
        ),
        "two_edges": (
            _changed(weigh=lambda h, w: torch.minimum(torch.arange(h)[:, None], torch.arange(w)) + 1.0),
            "Your weights rise to the bottom right. The lower and the right edge of a window count as well.",
        ),
        "squared": (
            _changed(weigh=lambda h, w: hat(h, w) ** 2),
            "You square the weights. They are 1, 2, 3, … from the edge inwards.",
        ),
        "from_the_middle": (
            _changed(weigh=lambda h, w: hat(h, w).amax() + 1 - hat(h, w)),
            "Your weights are largest at the edge. They rise from the edge inwards.",
        ),
        "image_border": (
            _inside_image,
            "You take the image's border for no edge. The weights are the same in every window, wherever it lies.",
        ),
        "sum": (_changed(divide=False), "That is the weighted sum. Divide by the sum of the weights at each pixel."),
        "count": (
            lambda predict, image, size, step: (
                _blend(predict, image, size, step, divide=False)
                / _blend(
                    lambda x: torch.ones(1, *x.shape[1:]),
                    image,
                    size,
                    step,
                    weigh=lambda h, w: torch.ones(h, w),
                    divide=False,
                )
            ),
            "You divide by the number of windows. Divide by the sum of their weights.",
        ),
        "small_at_the_end": (
            _changed(place=lambda n, part, step: range(0, n, step)),
            "Your last windows are cut off where the image ends, or begin where no window should. The first window "
            "that would reach beyond is moved back until it ends with the image, and it is the last.",
        ),
        "padded": (
            _padded,
            "You pad the image at the end so that windows fit. Nothing is padded; the last window is moved back.",
        ),
        "end_missing": (
            _without_end,
            "The last rows or columns lie in no window. One more is needed there: it ends with the image.",
        ),
        "twice": (
            _changed(place=_twice),
            "You go on after the window that ends with the image, so that it is shown several times and counts double.",
        ),
        "once_too_often": (
            _changed(place=_once_too_often),
            "Where a window at a multiple of `step` ends with the image already, you show it a second time.",
        ),
        "edge_to_edge": (
            lambda predict, image, size, step: _blend(predict, image, size, size),
            "Your windows lie `size` apart. They begin at multiples of `step`, and overlap.",
        ),
        "step_is_the_overlap": (
            lambda predict, image, size, step: _blend(predict, image, size, max(1, size - step)),
            "You let windows overlap by `step`. It is the distance from the start of one to the start of the next.",
        ),
        "labels": (
            lambda predict, image, size, step: _blend(predict, image, size, step).argmax(0),
            "Those are labels. Return the mean scores, (K, H, W); the experiment takes the likeliest class.",
        ),
        "whole_image": (
            lambda predict, image, size, step: predict(image),
            "You show the predictor the whole image at once. Show it one window after the other.",
        ),
    },
    right={"NumPy, with while loops": _in_numpy, "pixel by pixel": _pixel_by_pixel},
    probes=_images,
    tolerance=1e-4,
    hint="Keep two sums: of weight times scores, (K, H, W), and of weights, (H, W). Begin with the list of "
    "starts along one side, and try it on a side of 16 with windows of 8 in steps of 4 (three windows) and "
    "on one of 19 (four).",
    sketch="""
        h, w = ...                                 # of a window, at most the image's
        rows, columns = ...                        # where windows begin, the last one at H - h, W - w
        inside = ...                               # (h, w): 1, 2, 3, … from the nearest edge
        for top in rows:
            for left in columns:
                add predict(image[:, top : ..., left : ...]) * inside, and inside
        return the first sum / the second
    """,
)
