"""What every model does to its images before the first layer: check, normalise, pad to its stride."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seglib.types import Size

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

AXES = {2: "H, W", 3: "D, H, W"}


class Normalize(nn.Module):
    """``(image − mean) / std`` per channel. Mean and std are buffers, stored with the weights.

    Args:
        mean: per-channel mean used for normalisation, C numbers.
        std: per-channel standard deviation used for normalisation, C positive numbers.
        dims: 2 for images ``(B, C, H, W)``, 3 for volumes ``(B, C, D, H, W)``.
        value_range: lowest and highest value of the images, (0, 1) for 8-bit images divided by 255; ``None`` takes any
            (Hounsfield units, z-scores).

    Attributes:
        channels_last: whether images go channels last on a CPU when no gradients are wanted. Most convolutions are
            faster so, and copy the weights of their layer at each call; depthwise ones of many channels are slower.

    Raises:
        ValueError: when mean and std differ in length, a std isn't positive, or ``dims`` is neither 2 nor 3.

    Shape: ``(B, C, H, W)`` → the same.
    """

    mean: Tensor
    std: Tensor
    channels_last: bool = True

    def __init__(
        self,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        *,
        dims: int = 2,
        value_range: tuple[float, float] | None = (0.0, 1.0),
    ) -> None:
        super().__init__()
        if len(mean) != len(std) or min(std, default=0) <= 0:
            raise ValueError(f"mean and std need one number per channel, std > 0; got {tuple(mean)} and {tuple(std)}")
        if dims not in AXES:
            raise ValueError(f"dims is 2 for images and 3 for volumes, got {dims}")
        self.dims, self.value_range = dims, value_range
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))  # (C,)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))  # (C,)

    @classmethod
    def for_channels(
        cls, channels: int, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
    ) -> Normalize:
        """The normalisation of images with any number of channels in [0, 1].

        Args:
            channels: C, the number of channels of the images.
            mean: per-channel mean of images of the usual channels.
            std: per-channel standard deviation of images of the usual channels.

        Returns:
            ``mean`` and ``std`` as they are where they have C numbers; else the average of each, for every channel.
        """
        if channels == len(mean):
            return cls(mean, std)
        return cls([sum(mean) / len(mean)] * channels, [sum(std) / len(std)] * channels)

    def forward(self, images: Tensor, sizes: Sequence[Size] | None = None, padding: str = "constant") -> Tensor:
        """Normalise float images, bring them to the type of the model's weights, and fill their padding.

        Args:
            images: batch of images ``(B, C, H, W)``, or of volumes ``(B, C, D, H, W)``.
            sizes: true size of each image; ``None`` when all fill the batch.
            padding: how padding is filled: "constant" with the mean colour, "replicate" by repeating the last row and
                column.

        Raises:
            ValueError: when the images have another shape or channel count, or are integers.
        """
        channels = self.mean.shape[0]
        if images.ndim != 2 + self.dims or images.shape[1] != channels:
            raise ValueError(f"expected images (B, {channels}, {AXES[self.dims]}), got shape {tuple(images.shape)}")
        if not images.is_floating_point():
            span = "" if self.value_range is None else " in [{:g}, {:g}]".format(*self.value_range)
            remedy = "divide 8-bit images by 255" if self.value_range == (0.0, 1.0) else "convert them with .float()"
            raise ValueError(f"expected float images{span}, got {images.dtype}; {remedy}")
        column = (-1, *(1,) * self.dims)
        x = (images - self.mean.view(column)).div_(self.std.view(column))  # one copy of the images, not two
        x = x.to(self.mean.dtype)  # that of the layers which follow, after model.to(torch.bfloat16) too
        if self.channels_last and self.dims == 2 and x.device.type == "cpu" and not torch.is_grad_enabled():
            x = x.contiguous(memory_format=torch.channels_last)  # in prediction it saves up to a quarter of the time
        return x if sizes is None else fill_padding(x, sizes, padding)

    def check_range(self, images: Tensor) -> None:
        """Check that images have the declared values, with room for filters that overshoot.

        Reads the values, which waits for the device and cannot be traced: it is for ``predict``, not for ``forward``.

        Raises:
            ValueError: when values lie more than half the range outside it (8-bit values, images that were normalised
                already) or are NaN.
        """
        if images.numel() == 0 or not images.is_floating_point():
            return
        low, high = (float(v) for v in images.aminmax())
        if low != low:
            raise ValueError("the images hold nan; look for a division by zero where they were made")
        if self.value_range is None:
            return
        least, most = self.value_range
        room = 0.5 * (most - least)
        if not (low >= least - room and high <= most + room):
            remedy = "divide 8-bit images by 255" if low >= least else "the model normalises them itself"
            raise ValueError(f"images must lie in [{least:g}, {most:g}], these span {low:.3g} to {high:.3g}; {remedy}")


def fill_padding(x: Tensor, sizes: Sequence[Size] | Tensor, mode: str = "constant") -> Tensor:
    """Fill what lies beyond the true size of each image of a padded batch.

    Args:
        x: padded batch ``(B, C, H, W)``, or ``(B, C, D, H, W)``.
        sizes: true size of each image, as B pairs or triples, or as a tensor ``(B, 2)`` or ``(B, 3)``.
        mode: how padding is filled: "constant" with 0, which is the mean colour after normalisation; "replicate" by
            repeating the last row and column.

    Returns:
        ``x`` with the padding exchanged.
    """
    size = torch.as_tensor(sizes, device=x.device)  # (B, dims)
    for axis in range(2, x.ndim):
        line = [1] * x.ndim
        line[0], line[axis] = x.shape[0], x.shape[axis]
        index = torch.arange(x.shape[axis], device=x.device).expand(x.shape[0], -1)  # (B, n)
        end = size[:, axis - 2, None]  # (B, 1)
        if mode == "replicate":
            x = x.take_along_dim(torch.minimum(index, end - 1).view(line), axis)
        else:
            x = x.masked_fill((index >= end).view(line), 0)
    return x


def pad_to_multiple(images: Tensor, multiple: int, mode: str = "constant") -> Tensor:
    """Append rows and columns (and slices) until every side is a multiple of ``multiple``.

    Only at the end of each axis, so that :func:`~seglib.ops.resize.crop_to` undoes it. They are zeros, which is the
    mean colour after normalisation, or with the mode "replicate" the last row and column.

    Shape: ``(B, C, H, W)`` → ``(B, C, ⌈H / m⌉·m, ⌈W / m⌉·m)``.

    Raises:
        ValueError: under ``torch.jit.trace``, which would keep the padding of one size for all.
    """
    if torch.jit.is_tracing():
        raise ValueError(
            "torch.jit.trace would keep the padding of this one size for images of all sizes; use `seglib export` or "
            "seglib.weights.export.export_model"
        )
    missing = [pad for side in reversed(images.shape[2:]) for pad in (0, -side % multiple)]
    return F.pad(images, missing, mode)
