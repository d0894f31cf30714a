"""Detections made from the truth: what a detector might say, with a rate for every type of error.

No network is behind them. Every object is redrawn: moved, its outline grown or shrunk, given a class and a score. The
score follows from what the detector could know of its own quality,

    belief = IoU with the object it was made from, times 0.7 for a wrong class, times 0.7 for a second detection
           = 0.3 for a detection of nothing
    score  = sigmoid(8 · (belief − 0.6) + spread · N(0, 1)),

so that scores rise with quality, with noise. Whatever the rates are, the same random numbers are drawn: changing one
rate leaves the errors of the others where they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from seglib.ops.masks import masks_to_boxes
from seglib.types import Instances


@dataclass(frozen=True)
class Noise:
    """The rates of the errors. All are 0 but ``spread``: every object is found once, exactly, with its class.

    Attributes:
        missed: share of the objects that get no detection.
        lost: further share of the objects that are missed, with probability lost · exp(−√area / 16): the small ones.
        confused: share of the detections whose class is another one.
        duplicates: share of the objects that are detected twice.
        background: number of detections of nothing, per object on average; each has the shape and class of an object of
            the image and lies anywhere.
        shift: how far masks are moved, as a share of √area: the standard deviation along each axis.
        outline: by how much masks grow or shrink, as a share of √area: the standard deviation.
        pixels: how far every mask is moved besides, in pixels, each in a direction of its own.
        spread: standard deviation of the noise on the scores' logits.
    """

    missed: float = 0.0
    lost: float = 0.0
    confused: float = 0.0
    duplicates: float = 0.0
    background: float = 0.0
    shift: float = 0.0
    outline: float = 0.0
    pixels: float = 0.0
    spread: float = 1.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 0 or (name in ("missed", "lost", "confused", "duplicates") and value > 1):
                raise ValueError(f"{name} is {value}; rates are at least 0, and shares at most 1")


USUAL = Noise(missed=0.05, lost=0.6, confused=0.06, duplicates=0.15, background=0.2, shift=0.07, outline=0.035)
"""A detector as one meets them: small objects missed, outlines loose, some detected twice, some where nothing is."""


@dataclass(frozen=True)
class Made:
    """Detections by falling score, and where they come from.

    Attributes:
        instances: masks, labels, boxes and scores of D detections.
        source: ``(D,)`` int64, the object that each detection was made from, −1 for detections of nothing.
        second: ``(D,)`` bool, whether a detection is the second one of its object.
    """

    instances: Instances
    source: Tensor
    second: Tensor


def detect(target: Instances, noise: Noise, seed: int, image: int, num_classes: int) -> Made:
    """The detections of one image, a pure function of its arguments.

    Args:
        target: the N true objects of the image.
        noise: rates of the errors.
        seed: random seed of all draws.
        image: number of the image; other images get other draws.
        num_classes: number of classes K; a wrong class is one of the other K − 1.
    """
    n, (height, width) = len(target), target.masks.shape[1:]
    chance, size = _generator(seed, image, 0), _areas(target.masks).sqrt()  # (N,) √area
    u = torch.rand(6, n, generator=chance)
    z = torch.randn(10, n, generator=chance)
    # Moves in pixels, of the first and of the second detections: (2, N) each.
    angle = 2 * torch.pi * u[4:6]
    down = noise.shift * size * z[:2] + noise.pixels * angle.sin()
    right = noise.shift * size * z[2:4] + noise.pixels * angle.cos()
    grown = noise.outline * size * z[4:6]
    missed = u[0] < noise.missed + (1 - noise.missed) * noise.lost * torch.exp(-size / 16)
    # Index 0..K−2 of the other classes: ids from the true one on move up by one.
    other = (u[3] * (num_classes - 1)).long()
    other = other + (other >= target.labels)
    wrong = u[1] < noise.confused
    labels = torch.where(wrong, other, target.labels)  # (N,)

    boxes = masks_to_boxes(target.masks).long().tolist()  # tight ones
    masks, found = [], []  # found: class, source, second, what the belief is multiplied by, z of the score
    for i in (~missed).nonzero()[:, 0].tolist():
        for second in range(1 + bool(u[2, i] < noise.duplicates)):
            masks.append(redraw(target.masks[i], down[second, i], right[second, i], grown[second, i], boxes[i]))
            trust = (0.7 if wrong[i] else 1.0) * (0.7 if second else 1.0)
            found.append((int(labels[i]), i, second, trust, float(z[6 + second, i])))

    chance = _generator(seed, image, 1)
    for _ in range(int(torch.poisson(torch.tensor(float(noise.background * n)), generator=chance))):
        donor = int(torch.randint(n, (), generator=chance))
        left, top, *_ = boxes[donor]
        y, x = (torch.rand(2, generator=chance) * torch.tensor([height, width])).tolist()
        masks.append(redraw(target.masks[donor], y - top, x - left, 0.0, boxes[donor]))
        found.append((int(target.labels[donor]), -1, 0, 1.0, float(torch.randn((), generator=chance))))
    return _made(masks, found, target, noise.spread)


def redraw(
    mask: Tensor,
    down: Tensor | float,
    right: Tensor | float,
    grown: Tensor | float,
    box: Sequence[int] | None = None,
) -> Tensor:
    """A mask ``(H, W)`` moved and grown (or shrunk) by whole pixels; what leaves the image is cut off.

    Args:
        mask: the mask to redraw, ``(H, W)`` bool.
        down: pixels to move it down by, rounded.
        right: pixels to move it right by, rounded.
        grown: pixels to grow it by on every side, rounded; below 0 the mask shrinks, but never to nothing.
        box: the mask's tight box, if it is known.
    """
    height, width = mask.shape
    dy, dx, by = (round(float(v)) for v in (down, right, grown))
    x0, y0, x1, y1 = masks_to_boxes(mask[None])[0].long().tolist() if box is None else box
    pad = abs(by)
    part = F.pad(mask[y0:y1, x0:x1], [pad] * 4)  # (h, w)
    if by and part.numel():
        covered = F.max_pool2d(
            F.pad((part if by > 0 else ~part)[None].float(), [pad] * 4, value=float(by < 0)), 2 * pad + 1, 1
        )
        covered = covered[0] > 0  # (h, w)
        part = covered if by > 0 else torch.where((~covered).any(), ~covered, part)
    out = torch.zeros_like(mask)
    top, left = y0 + dy - pad, x0 + dx - pad
    rows = slice(max(top, 0), max(min(top + part.shape[0], height), 0))
    columns = slice(max(left, 0), max(min(left + part.shape[1], width), 0))
    if rows.start < rows.stop and columns.start < columns.stop:
        out[rows, columns] = part[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    return out


def _generator(seed: int, image: int, part: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed * 1_000_003 + image) * 2 + part)


def _areas(masks: Tensor) -> Tensor:
    """Pixels of masks ``(N, H, W)``: ``(N,)``. Sums of bytes are several times as fast as sums of bools."""
    return masks.view(torch.uint8).flatten(1).sum(1, dtype=torch.int32)


def _made(
    masks: list[Tensor], found: list[tuple[int, int, int, float, float]], target: Instances, spread: float
) -> Made:
    """Empty masks dropped, the rest scored and by falling score."""
    if not masks:
        empty = torch.zeros(0, dtype=torch.int64)
        nothing = Instances(target.masks[:0], empty, torch.zeros(0, 4), torch.zeros(0))
        return Made(nothing, empty, empty.bool())
    stack = torch.stack(masks)  # (D, H, W)
    labels, source, second, trust, z = (torch.tensor(column) for column in zip(*found, strict=True))
    own = target.masks[source.clamp(min=0)]  # (D, H, W)
    iou = _areas(stack & own) / _areas(stack | own).clamp(min=1)  # (D,)
    belief = torch.where(source >= 0, iou * trust, 0.3)
    scores = torch.sigmoid(8 * (belief.double() - 0.6) + spread * z.double()).float()
    order = scores.argsort(descending=True, stable=True)
    order = order[_areas(stack)[order] > 0]
    instances = Instances(stack, labels, masks_to_boxes(stack), scores)
    return Made(instances[order], source[order], second.bool()[order])
