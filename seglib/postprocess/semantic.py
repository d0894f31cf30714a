"""From a photo of any size to a label map: resize, predict, resize back."""

from __future__ import annotations

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


@torch.inference_mode()
def predict_semantic(model: PredictsSemantic, image: Tensor, *, short_side: int | None = None) -> Semantic:
    """Predict one photo at the scale the model was trained for, and give the answer at the photo's own size.

    Probabilities, not labels, are resized: between labels there is nothing to interpolate.

    Args:
        model: any semantic model of the zoo.
        image: ``(3, H, W)`` float32 in [0, 1], on the model's device.
        short_side: pixels that the shorter side is resized to for the model; ``None`` keeps the photo's size.

    Returns:
        Labels ``(H, W)`` and probabilities ``(K, H, W)``.

    Raises:
        ValueError: when the image has another shape or ``short_side`` isn't positive.
    """
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"expected one image (3, H, W), got shape {tuple(image.shape)}")
    if short_side is not None and short_side < 1:
        raise ValueError(f"short_side must be a positive number of pixels, got {short_side}")
    height, width = image.shape[-2:]
    size = fit_short_side(height, width, short_side) if short_side else (height, width)
    if size == (height, width):
        return model.predict(image[None])[0]
    small = F.interpolate(image[None], size=size, mode="bilinear", antialias=True)  # (1, 3, h, w)
    probs = model.predict(small)[0].probs  # (K, h, w)
    probs = F.interpolate(probs[None], size=(height, width), mode="bilinear")[0]  # (K, H, W)
    return Semantic(probs.argmax(0), probs)
