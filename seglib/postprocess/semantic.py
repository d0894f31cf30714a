"""From an image of any size to a label map: resize, predict, resize back; over several scales and flipped views."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from seglib.ops.geometry import NATIVE, Geometry
from seglib.ops.resize import crop_to, resize_image
from seglib.types import Regions, Semantic, Size


class PredictsSemantic(Protocol):
    """A model whose ``predict`` gives semantic predictions."""

    def predict(self, images: Tensor) -> list[Semantic]:
        """``(B, 3, H, W)`` → B predictions."""


def semantic_from_logits(
    logits: Tensor,
    sizes: Sequence[Size] | None = None,
    output_sizes: Sequence[Size] | None = None,
    *,
    keep_probs: bool = True,
) -> list[Semantic]:
    """The most probable class of every pixel and the softmax probabilities of each image.

    Args:
        logits: ``(B, K, H, W)`` class scores, or ``(B, K, D, H, W)``.
        sizes: the true size of each image; what lies beyond is cut off. ``None`` keeps all.
        output_sizes: the size in which results are wanted; probabilities are resized to it, bilinear.
        keep_probs: whether the probabilities are returned. Otherwise those of one image at a time are in memory.
    """
    if not keep_probs:
        each = [slice(i, i + 1) for i in range(len(logits))]
        at, wanted = ([None if s is None else s[i] for i in each] for s in (sizes, output_sizes))
        parts = zip((logits[i] for i in each), at, wanted, strict=True)
        return [Semantic(semantic_from_logits(*part)[0].labels) for part in parts]
    probs = logits.float().softmax(1)  # (B, K, H, W)
    if sizes is None and output_sizes is None:
        return [Semantic(label, p) for label, p in zip(probs.argmax(1), probs, strict=True)]
    return [Semantic(p.argmax(0), p) for p in _at_output_size(probs, sizes, output_sizes)]


def regions_from_logits(
    logits: Tensor, sizes: Sequence[Size] | None = None, output_sizes: Sequence[Size] | None = None
) -> list[Regions]:
    """Overlapping regions, each where its sigmoid reaches ½. Arguments as in :func:`semantic_from_logits`."""
    probs = logits.float().sigmoid()  # (B, K, H, W)
    return [Regions(p >= 0.5, p) for p in _at_output_size(probs, sizes, output_sizes)]


def _at_output_size(
    probs: Tensor, sizes: Sequence[Size] | None, output_sizes: Sequence[Size] | None
) -> Iterator[Tensor]:
    """The probabilities ``(K, H, W)`` of each image without its padding, at the size that is wanted."""
    full = [tuple(probs.shape[2:])] * len(probs)
    sizes = full if sizes is None else sizes
    output_sizes = sizes if output_sizes is None else output_sizes
    for p, size, wanted in zip(probs, sizes, output_sizes, strict=True):
        yield resize_image(crop_to(p, size), wanted, antialias=False)


def model_sizes(
    image: Tensor, geometry: Geometry, scales: Sequence[float]
) -> tuple[tuple[int, int], list[tuple[int, int]]]:
    """The (height, width) at which probabilities are averaged, and the one that the model sees at every scale.

    Args:
        image: the image, ``(3, H, W)``.
        geometry: how the image is resized for the model.
        scales: size of each view, relative to the size that the geometry gives.

    Raises:
        ValueError: when the image has another shape, or ``scales`` is empty or holds a number that is not finite and
            positive.
    """
    if image.ndim != 3 or image.numel() == 0:
        raise ValueError(f"expected one image (C, H, W), got shape {tuple(image.shape)}")
    if not scales or not all(math.isfinite(s) and s > 0 for s in scales):
        raise ValueError(f"scales must be one or more positive numbers such as (0.5, 1, 1.5), got {tuple(scales)}")
    h, w = geometry.model_size((image.shape[1], image.shape[2]))
    return (h, w), [(max(1, round(h * s)), max(1, round(w * s))) for s in scales]


def predict_probs(model: PredictsSemantic, image: Tensor) -> Tensor:
    """The class probabilities ``(K, H, W)`` that a model gives one image ``(C, H, W)``.

    Raises:
        ValueError: when the model predicts something else, or labels without probabilities.
    """
    found = model.predict(image[None])[0]
    if not isinstance(found, Semantic):
        raise ValueError(f"expected a model of exclusive classes, this predicts {type(found).__name__}; use predict()")
    if found.probs is None:
        raise ValueError("views and tiles are averaged by probabilities, and the model gives none; set keep_probs=True")
    return found.probs


@torch.inference_mode()
def predict_semantic(
    model: PredictsSemantic,
    image: Tensor,
    *,
    geometry: Geometry = NATIVE,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
) -> Semantic:
    r"""Predict one image at the size the model was trained for, and give the answer at the image's own size.

    With several scales, and with ``flip``, the model sees as many views of the image, and the answer is the mean of
    their probabilities (Chen et al. 2017, section 4: scales 0.5, 0.75, …, 1.75 and their flipped copies),

    .. math:: P = \frac{1}{V} \sum_v \text{back}_v(\text{softmax}(\text{logits}(\text{view}_v)))

    Small views have context for large things, large views have pixels for small ones. Every view is resized from the
    image itself, and its probabilities to the size that the geometry gives, where they are averaged; the mean is
    resized to the image. Each resizing lays pixel centres at half integers (``align_corners=False``). The image is
    low-pass filtered where it shrinks, the probabilities are not.

    Probabilities, not labels, are resized: between labels there is nothing to interpolate. Probabilities, not logits,
    are averaged: they lie in [0, 1], so no single view outweighs the others by being far too sure. The mean of logits
    is a geometric mean of the probabilities, in which one view can veto a class; DeepLab v2 took the maximum of score
    maps over scales instead (Chen et al., TPAMI 2018).

    The whole image is predicted at once. For large ones see :func:`~seglib.postprocess.tiles.predict_tiled`.

    Args:
        model: any semantic model of the zoo.
        image: ``(3, H, W)`` float32 in [0, 1], on the model's device.
        geometry: how the image is resized for the model: ``model.geometry`` is what it was trained for.
        scales: size of each view, relative to the size that the geometry gives.
        flip: also predict every view flipped left to right.

    Returns:
        Labels ``(H, W)`` and probabilities ``(K, H, W)``.

    Raises:
        ValueError: when the image has another shape, or ``scales`` is empty or holds a number that is not finite and
            positive.
    """
    size, views = model_sizes(image, geometry, scales)
    total: Tensor | None = None
    for view in views:
        view_image = resize_image(image, view, antialias=geometry.antialias)  # (3, h, w)
        for flipped in (False, True) if flip else (False,):
            probs = predict_probs(model, view_image.flip(-1) if flipped else view_image)
            probs = resize_image(probs.flip(-1) if flipped else probs, size, antialias=False)  # (K, h, w)
            total = probs if total is None else total + probs
    assert total is not None  # there is at least one scale
    probs = resize_image(total / (len(views) * (1 + flip)), image.shape[-2:], antialias=False)  # (K, H, W)
    return Semantic(probs.argmax(0), probs)
