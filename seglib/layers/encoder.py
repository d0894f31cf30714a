"""What every encoder is: a module that turns images into feature maps and says where their cells lie."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from seglib.layers.grid import Grid
from seglib.layers.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize


class Encoder(Protocol):
    """What the models ask of an encoder.

    Attributes:
        channels: channels of each map, by its name (``c3``, …), finest first.
        grids: where the cells of each map lie in the image, by its name.
        size_divisibility: number that height and width of the images must be multiples of.

    An encoder may have ``mean`` and ``std``, one number per colour: with what its weights want images normalised.
    """

    channels: dict[str, int]
    grids: dict[str, Grid]
    size_divisibility: int

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Normalised images ``(B, C, H, W)`` → the maps, by name."""


def normalize_for(encoder: Encoder, in_channels: int) -> Normalize:
    """The normalisation that an encoder wants, ImageNet's where it names none, for images of any number of channels."""
    mean, std = getattr(encoder, "mean", IMAGENET_MEAN), getattr(encoder, "std", IMAGENET_STD)
    return Normalize.for_channels(in_channels, mean, std)
