"""Separable convolutions. A plain one with norm and activation is torchvision's ``Conv2dNormActivation``."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

Layer = Callable[..., nn.Module]


def separable_conv(channels_in: int, channels_out: int, *, dilation: int = 1, bias: bool = False) -> nn.Sequential:
    """An atrous separable convolution: a dilated 3×3 kernel for each channel, then a 1×1 convolution that mixes them.

    With C channels in and out it takes 9C + C² weights instead of 9C². The map keeps its size.

    Args:
        channels_in: channels of the input.
        channels_out: channels of the output.
        dilation: distance between neighbouring weights of the 3×3 kernels, in cells.
        bias: whether the 1×1 convolution has a bias.

    Source: Chen et al., "Encoder-Decoder with Atrous Separable Convolution", ECCV 2018, section 3.1.
    """
    depthwise = nn.Conv2d(
        channels_in, channels_in, 3, padding=dilation, dilation=dilation, groups=channels_in, bias=False
    )
    return nn.Sequential(depthwise, nn.Conv2d(channels_in, channels_out, 1, bias=bias))


def separable_conv_norm_activation(
    channels_in: int,
    channels_out: int,
    *,
    dilation: int = 1,
    norm_layer: Layer | None = nn.BatchNorm2d,
    activation_layer: Layer | None = nn.ReLU,
    inplace: bool | None = True,
) -> nn.Sequential:
    """:func:`separable_conv`, norm and activation, with the arguments of torchvision's ``Conv2dNormActivation``.

    Args:
        channels_in: channels of the input.
        channels_out: channels of the output.
        dilation: distance between neighbouring weights of the 3×3 kernels, in cells.
        norm_layer: function that builds the norm from the number of channels. Without it the convolution has a bias.
        activation_layer: function that builds the activation, with the keyword ``inplace`` unless that is ``None``.
        inplace: whether the activation overwrites its input; ``None`` for activations that can't, such as GELU.
    """
    layers: list[nn.Module] = [separable_conv(channels_in, channels_out, dilation=dilation, bias=norm_layer is None)]
    if norm_layer is not None:
        layers.append(norm_layer(channels_out))
    if activation_layer is not None:
        layers.append(activation_layer() if inplace is None else activation_layer(inplace=inplace))
    return nn.Sequential(*layers)
