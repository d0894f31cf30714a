"""Convolutions as they are used everywhere: with batch norm and ReLU, plain or separable."""

from __future__ import annotations

from torch import nn


def conv_norm_relu(channels_in: int, channels_out: int, kernel: int = 1, dilation: int = 1) -> nn.Sequential:
    """Convolution without bias, batch norm, ReLU; the map keeps its size."""
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(channels_in, channels_out, kernel, padding=padding, dilation=dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True))


def separable_conv(channels_in: int, channels_out: int, dilation: int = 1) -> nn.Sequential:
    """An atrous separable convolution: a dilated 3×3 kernel for each channel, then a 1×1 convolution that mixes them.

    With C channels in and out it takes 9C + C² weights instead of 9C². Source: Chen et al., "Encoder-Decoder with
    Atrous Separable Convolution", ECCV 2018, section 3.1.
    """
    depthwise = nn.Conv2d(
        channels_in, channels_in, 3, padding=dilation, dilation=dilation, groups=channels_in, bias=False
    )
    return nn.Sequential(depthwise, nn.Conv2d(channels_in, channels_out, 1, bias=False))


def separable_conv_norm_relu(channels_in: int, channels_out: int, dilation: int = 1) -> nn.Sequential:
    """:func:`separable_conv`, batch norm, ReLU."""
    conv = separable_conv(channels_in, channels_out, dilation)
    return nn.Sequential(conv, nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True))
