"""What every model does to its images before the first layer: check, normalise, pad to its stride."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Normalize(nn.Module):
    """``(image − mean) / std`` per channel, for images in [0, 1]. Mean and std are buffers, stored with the weights.

    Args:
        mean: one number per channel.
        std: one positive number per channel.

    Shape: ``(B, C, H, W)`` → the same.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> None:
        super().__init__()
        if len(mean) != len(std) or min(std) <= 0:
            raise ValueError(f"mean and std need one number per channel, std > 0; got {tuple(mean)} and {tuple(std)}")
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))  # (C,)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))  # (C,)

    def forward(self, images: Tensor) -> Tensor:
        """Normalise ``(B, C, H, W)`` float images.

        Raises:
            ValueError: when the images have another shape, channel count or are integers.
        """
        channels = self.mean.shape[0]
        if images.ndim != 4 or images.shape[1] != channels:
            raise ValueError(f"expected images (B, {channels}, H, W), got shape {tuple(images.shape)}")
        if not images.is_floating_point():
            raise ValueError(f"expected float images in [0, 1], got {images.dtype}; divide 8-bit images by 255")
        return (images - self.mean[:, None, None]) / self.std[:, None, None]


def check_range(images: Tensor) -> None:
    """Check that images lie in [0, 1], with room for filters that overshoot.

    Reads the values, which waits for the device and cannot be traced: it is for ``predict``, not for ``forward``.

    Raises:
        ValueError: when values lie outside [−0.5, 1.5] (8-bit values, images that were normalised already) or are NaN.
    """
    if images.numel() == 0:
        return
    low, high = (float(v) for v in images.aminmax())
    if not (low >= -0.5 and high <= 1.5):
        remedy = "divide 8-bit images by 255" if low >= 0 else "the model normalises them itself"
        raise ValueError(f"images must lie in [0, 1], these span {low:.3g} to {high:.3g}; {remedy}")


def pad_to_multiple(images: Tensor, multiple: int, mode: str = "constant") -> Tensor:
    """Append rows and columns until height and width are multiples of ``multiple``.

    Only at the bottom and the right, so that cropping the result to the input's height and width undoes it. They are
    zeros, after normalisation the mean colour, or with the mode "replicate" the last row and column.

    Shape: ``(B, C, H, W)`` → ``(B, C, ⌈H / m⌉·m, ⌈W / m⌉·m)``.
    """
    height, width = images.shape[-2:]
    return F.pad(images, (0, -width % multiple, 0, -height % multiple), mode)


def crop_to(maps: Tensor, size: Sequence[int]) -> Tensor:
    """The top left part of ``maps`` ``(…, H, W)`` with ``size`` rows and columns: undoes :func:`pad_to_multiple`.

    Maps that fit already are returned as they are: the gradient of a slice fills a map of zeros.
    """
    height, width = size
    return maps if maps.shape[-2:] == (height, width) else maps[..., :height, :width]
