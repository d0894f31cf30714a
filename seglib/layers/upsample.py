"""Upsampling by a transposed convolution that starts as bilinear interpolation and learns from there."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def bilinear_kernel(channels_in: int, channels_out: int, size: int) -> Tensor:
    r"""The weights with which a transposed convolution interpolates bilinearly, channel i into channel i.

    Along one axis the weights are a tent,

    .. math::

        w(j) = 1 - \frac{|j - c|}{f} \quad \text{for } j = 0, …, \text{size} - 1, \qquad
        c = \frac{\text{size} - 1}{2}, \qquad f = \left\lfloor \frac{\text{size} + 1}{2} \right\rfloor

    with its centre at c and a slope of 1 / f, where f is the upsampling factor that the kernel is made for. The kernel
    is the outer product of two tents. All weights between different channels are 0.

    Args:
        channels_in: C, channels of the small map.
        channels_out: K, channels of the large map. Channels without a partner stay 0.
        size: k, the kernel's side: 2f (cells between the fine ones) or 2f − 1 (every f-th fine cell is a coarse one).

    Returns:
        Float32 ``(C, K, k, k)``, the layout of ``nn.ConvTranspose2d.weight``.

    Raises:
        ValueError: when a size is not positive.

    Source: Long, Shelhamer, Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015, section 3.3.
    """
    if min(channels_in, channels_out, size) < 1:
        raise ValueError(f"channels and size must be positive, got {channels_in}, {channels_out} and {size}")
    factor = (size + 1) // 2
    steps = torch.arange(size, dtype=torch.float32)  # (k,)
    tent = 1 - (steps - (size - 1) / 2).abs() / factor  # (k,)
    kernel = torch.zeros(channels_in, channels_out, size, size)
    same = torch.arange(min(channels_in, channels_out))
    kernel[same, same] = torch.outer(tent, tent)  # (k, k) on the diagonal of the channels
    return kernel


class BilinearUpsample(nn.ConvTranspose2d):
    """A learnable transposed convolution that upsamples a map f times and starts as bilinear interpolation.

    With the default kernel and padding the output has f times the input's size, and at the start it equals
    ``F.interpolate(x, scale_factor=f, mode="bilinear", align_corners=False)`` except on the outermost ``⌊f / 2⌋`` rows
    and columns. There ``interpolate`` repeats the border, where this layer sees zeros: its value is that of
    ``interpolate`` times the weight of the cells that exist, (f + 1) / 2f on the outermost row for even f.

    Args:
        channels: C, channels of input and output.
        factor: f, the upsampling factor.
        kernel_size: side of the kernel, 2f or 2f − 1; by default the one of f's parity (2f for even, 2f − 1 for
            odd f), which the default padding needs.
        padding: rows and columns cut off on every side; by default what leaves f times the input's size.

    Shape: ``(B, C, h, w)`` → ``(B, C, f·h, f·w)``, or ``(h − 1)·f + kernel_size − 2·padding`` in general.

    Raises:
        ValueError: when ``factor`` is not positive or the kernel belongs to another factor.
    """

    def __init__(
        self, channels: int, factor: int, *, kernel_size: int | None = None, padding: int | None = None
    ) -> None:
        if factor < 1:
            raise ValueError(f"factor must be positive, got {factor}")
        if kernel_size is None:
            kernel_size = 2 * factor - factor % 2
        if (kernel_size + 1) // 2 != factor:
            raise ValueError(f"factor {factor} needs a kernel of {2 * factor - 1} or {2 * factor}, got {kernel_size}")
        if padding is None:
            padding = (kernel_size - factor) // 2
        super().__init__(channels, channels, kernel_size, stride=factor, padding=padding, bias=False)

    def reset_parameters(self) -> None:
        """Start again as bilinear interpolation."""
        with torch.no_grad():
            self.weight.copy_(bilinear_kernel(self.in_channels, self.out_channels, self.kernel_size[0]))
