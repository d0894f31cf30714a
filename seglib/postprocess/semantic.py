"""From a photo of any size to a label map: resize, predict, resize back; over several scales and the mirror image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from seglib.types import Semantic


class PredictsSemantic(Protocol):
    """A model whose ``predict`` gives semantic predictions."""

    def predict(self, images: Tensor) -> list[Semantic]:
        """``(B, 3, H, W)`` → B predictions."""


def semantic_from_logits(logits: Tensor) -> list[Semantic]:
    """``(B, K, H, W)`` class scores → the most probable class and the softmax probabilities of each image."""
    probs = logits.float().softmax(1)  # (B, K, H, W)
    return [Semantic(label, p) for label, p in zip(probs.argmax(1), probs, strict=True)]


def fit_short_side(height: int, width: int, short: int) -> tuple[int, int]:
    """The (height, width) with the same aspect ratio whose shorter side is ``short`` pixels."""
    scale = short / min(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def model_sizes(
    image: Tensor, short_side: int | None, scales: Sequence[float]
) -> tuple[tuple[int, int], list[tuple[int, int]]]:
    """The (height, width) at which probabilities are averaged, and the one that the model sees at every scale.

    Args:
        image: ``(3, H, W)``.
        short_side: as in :func:`predict_semantic`.
        scales: as in :func:`predict_semantic`.

    Raises:
        ValueError: when the image has another shape, ``short_side`` isn't positive, or ``scales`` is empty or holds a
            number that is not finite and positive.
    """
    if image.ndim != 3 or image.shape[0] != 3 or image.numel() == 0:
        raise ValueError(f"expected one image (3, H, W), got shape {tuple(image.shape)}")
    if short_side is not None and short_side < 1:
        raise ValueError(f"short_side must be a positive number of pixels, got {short_side}")
    if not scales or not all(math.isfinite(s) and s > 0 for s in scales):
        raise ValueError(f"scales must be one or more positive numbers such as (0.5, 1, 1.5), got {tuple(scales)}")
    height, width = image.shape[-2:]
    h, w = fit_short_side(height, width, short_side) if short_side else (height, width)
    return (h, w), [(max(1, round(h * s)), max(1, round(w * s))) for s in scales]


@torch.inference_mode()
def predict_semantic(
    model: PredictsSemantic,
    image: Tensor,
    *,
    short_side: int | None = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
) -> Semantic:
    """Predict one photo at the scale the model was trained for, and give the answer at the photo's own size.

    With several scales, and with ``flip``, the model sees as many views of the photo, and the answer is the mean of
    their probabilities (Chen et al. 2017, section 4: scales 0.5, 0.75, …, 1.75 and their mirror images)::

        P = 1/V · Σ_v  back_v(softmax(logits(view_v)))

    Small views have context for large things, large views have pixels for small ones. Every view is resized from the
    photo itself, and its probabilities to the size that ``short_side`` gives, where they are averaged; the mean is
    resized to the photo. Each resizing lays pixel centres at half integers (``align_corners=False``). The photo is
    low-pass filtered where it shrinks, the probabilities are not.

    Probabilities, not labels, are resized: between labels there is nothing to interpolate. Probabilities, not logits,
    are averaged: they lie in [0, 1], so no single view outweighs the others by being far too sure. The mean of logits
    is a geometric mean of the probabilities, in which one view can veto a class; DeepLab v2 took the maximum of score
    maps over scales instead (Chen et al., TPAMI 2018).

    The whole picture is predicted at once. For large ones see :func:`~seglib.postprocess.tiles.predict_tiled`.

    Args:
        model: any semantic model of the zoo.
        image: ``(3, H, W)`` float32 in [0, 1], on the model's device.
        short_side: pixels that the shorter side is resized to for the model; ``None`` keeps the photo's size.
        scales: of the views, relative to that size.
        flip: also predict every view's mirror image (left and right exchanged).

    Returns:
        Labels ``(H, W)`` and probabilities ``(K, H, W)``.

    Raises:
        ValueError: when the image has another shape, ``short_side`` isn't positive, or ``scales`` is empty or holds a
            number that is not finite and positive.
    """
    size, views = model_sizes(image, short_side, scales)
    total: Tensor | None = None
    for view in views:
        picture = _resized(image, view, antialias=True)  # (3, h, w)
        for mirrored in (False, True) if flip else (False,):
            result = model.predict((picture.flip(-1) if mirrored else picture)[None])[0]
            probs = _resized(result.probs.flip(-1) if mirrored else result.probs, size)  # (K, h, w)
            total = probs if total is None else total + probs
    assert total is not None  # there is at least one scale
    if len(views) == 1 and not flip and view == image.shape[-2:]:
        return result  # the model's own answer
    probs = _resized(total / (len(views) * (1 + flip)), image.shape[-2:])  # (K, H, W)
    return Semantic(probs.argmax(0), probs)


def _resized(x: Tensor, size: Sequence[int], antialias: bool = False) -> Tensor:
    """``(C, H, W)`` → ``(C, *size)``, bilinear; itself where it has that size."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x[None], size=tuple(size), mode="bilinear", antialias=antialias)[0]
