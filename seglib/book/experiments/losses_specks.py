"""Synthetic images with one rare class, whose share of the pixels can be set, and a small network to learn it.

Bright specks of 9 to 21 pixels lie on uneven ground under noise. Only their number follows the share; size,
contrast and noise stay, so that a speck is as hard to see at 0.1% as it is at 10%.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seglib.book.experiments.semantic import SceneTensors
from seglib.layers.normalize import Normalize
from seglib.layers.tiny import TINY_MEAN, TINY_STD
from seglib.models.base import Model
from seglib.models.semantic import SemanticModel
from seglib.types import Category, DenseOutput, Size, Targets, check_categories

CATEGORIES = check_categories([Category(0, "speck", True, (213, 94, 0)), Category(1, "ground", False, (86, 180, 233))])
"""The rare thing and the rest."""

SPECK, GROUND = 0, 1
SIZE = 48
BINS = 10

_RADII = (1.5, 2.0, 2.5)
_REACH = 2  # pixels from a speck's centre to its rim
_SPECK_COLOR = (1.0, 0.9, 0.6)
_GROUND_COLOR = (0.8, 1.0, 0.9)
_CONTRAST = (0.12, 0.4)
_GRAIN, _COLOR_NOISE = 0.1, 0.05  # standard deviations: of the brightness, and of each channel on its own


def specks(count: int, share: float, seed: int, *, size: int = SIZE) -> SceneTensors:
    """Images with specks, and their labels: 0 speck, 1 ground.

    Every pixel of a large canvas starts a speck of each radius with the same small probability, chosen such that a
    pixel is covered with probability ``share``. With one seed a lower share takes specks away from the same images.

    Args:
        count: number of images.
        share: expected share of the pixels that belong to specks, above 0 and below 1.
        seed: sets what is drawn; another seed gives other images.
        size: height and width of the images in pixels, a multiple of 8.

    Raises:
        ValueError: on a value out of its range.
    """
    if count < 1:
        raise ValueError(f"count must be positive, got {count}; pass the number of images")
    if not 0 < share < 1:
        raise ValueError(f"share must lie between 0 and 1, got {share}; 0.01 is one pixel in a hundred")
    if size < 8 or size % 8:
        raise ValueError(f"size must be a positive multiple of 8, got {size}")
    draw = torch.Generator().manual_seed(seed)
    discs = [_disc(radius) for radius in _RADII]
    start = 1 - (1 - share) ** (1 / sum(map(len, discs)))  # no speck starts at any of the places that reach a pixel
    side = size + 2 * _REACH
    contrast = torch.zeros(count, size, size)  # the brightest speck over each pixel, 0 for ground
    for disc in discs:
        low, high = _CONTRAST
        bright = low + (high - low) * torch.rand(count, side, side, generator=draw)
        bright *= torch.rand(count, side, side, generator=draw) < start
        for y, x in disc:
            contrast = torch.maximum(contrast, bright[:, y : y + size, x : x + size])
    hills = torch.rand(count, 1, size // 8, size // 8, generator=draw)
    hills = hills + 0.3 * torch.rand(count, 3, size // 8, size // 8, generator=draw)
    hills = F.interpolate(hills, size=(size, size), mode="bicubic")  # (N, 3, H, W)
    image = 0.3 + 0.25 * hills * torch.tensor(_GROUND_COLOR)[:, None, None]
    image += contrast[:, None] * torch.tensor(_SPECK_COLOR)[:, None, None]
    image += _GRAIN * torch.randn(count, 1, size, size, generator=draw)
    image += _COLOR_NOISE * torch.randn(count, 3, size, size, generator=draw)
    labels = torch.where(contrast > 0, SPECK, GROUND)
    return SceneTensors((image.clamp(0, 1) * 255).round().byte(), labels.byte())


def _disc(radius: float) -> list[tuple[int, int]]:
    """Places in a window of 2 · reach + 1 whose distance to its centre is at most ``radius``."""
    span = range(-_REACH, _REACH + 1)
    return [(y + _REACH, x + _REACH) for y in span for x in span if y * y + x * x <= radius * radius]


class SpeckNet(SemanticModel):
    """Three 3×3 convolutions and a 1×1, all at full size: every pixel sees a window of 7 × 7.

    Args:
        width: channels of the hidden maps.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__(len(CATEGORIES))
        self.normalize = Normalize(TINY_MEAN, TINY_STD)
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, len(CATEGORIES), 1),
        )  # fmt: skip

    def forward(
        self, images: Tensor, targets: Targets | None = None, sizes: Sequence[Size] | None = None
    ) -> DenseOutput:
        """Images ``(B, 3, H, W)`` in [0, 1] → logits ``(B, 2, H, W)``."""
        return DenseOutput(self.layers(self.normalize(images, sizes)).float())


@torch.inference_mode()
def speck_probabilities(model: Model, data: SceneTensors, *, batch_size: int = 100) -> Tensor:
    """The probability of speck that ``model`` gives every pixel, ``(N, H, W)`` float32."""
    chunks = torch.arange(len(data)).split(batch_size)
    return torch.cat([model(data.batch(i)[0]).logits.softmax(1)[:, SPECK] for i in chunks])


def speck_scores(probabilities: Tensor, labels: Tensor, *, threshold: float = 0.5) -> dict[str, float]:
    """Accuracy of all pixels; recall, precision and IoU of the specks. A score of nothing (0 / 0) is 0.

    Args:
        probabilities: probability of speck for each pixel, any shape.
        labels: class id of each pixel, in the shape of ``probabilities``; 0 is speck.
        threshold: pixels with a higher probability are called speck.
    """
    called, true = probabilities > threshold, labels == SPECK
    hits = int((called & true).sum())
    calls, truths = int(called.sum()), int(true.sum())
    return {
        "accuracy": float((called == true).double().mean()),
        "recall": hits / max(truths, 1),
        "precision": hits / max(calls, 1),
        "iou": hits / max(calls + truths - hits, 1),
    }


def best_threshold(probabilities: Tensor, labels: Tensor) -> float:
    """The threshold with the highest IoU of the specks: between the last pixel to call and the first to leave."""
    order = probabilities.flatten().argsort(descending=True)
    ranked, true = probabilities.flatten()[order], (labels.flatten() == SPECK)[order]
    hits = true.cumsum(0)  # (n,) when the first 1, 2, … pixels are called
    calls = torch.arange(1, len(hits) + 1)
    last = int((hits / (calls + hits[-1] - hits)).argmax())
    below = ranked[min(last + 1, len(ranked) - 1)]
    return float((ranked[last] + below) / 2)


def reliability(probabilities: Tensor, labels: Tensor, *, bins: int = BINS) -> dict[str, list[float]]:
    """What the model says against what is true, in ``bins`` equal bins of the probability of speck.

    Returns:
        ``pixels`` in each bin, their mean ``said`` probability, and the share that is ``true``; 0 in empty bins.
    """
    p, true = probabilities.flatten().double(), (labels.flatten() == SPECK).double()
    bin_index = (p * bins).long().clamp(max=bins - 1)
    count = torch.bincount(bin_index, minlength=bins)
    known = count.clamp(min=1)
    said = torch.bincount(bin_index, p, minlength=bins) / known
    share = torch.bincount(bin_index, true, minlength=bins) / known
    return {
        "pixels": count.tolist(),
        "said": [round(v, 5) for v in said.tolist()],
        "true": [round(v, 5) for v in share.tolist()],
    }


def overconfidence(bins: Mapping[str, Sequence[float]]) -> float:
    """Mean probability less precision over the pixels called speck, those of the upper half of `reliability`'s bins.

    Above 0 the model is too sure, below 0 not sure enough; NaN when nothing is called speck.
    """
    pixels, said, true = (torch.tensor(bins[name]).double() for name in ("pixels", "said", "true"))
    calls = pixels * (torch.arange(len(pixels)) >= len(pixels) // 2)
    return float((calls * (said - true)).sum() / calls.sum())
