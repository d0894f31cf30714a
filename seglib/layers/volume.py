"""What networks of volumes share: values of any range, numbers per axis, and convolutions with instance norm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from seglib.layers.normalize import Normalize

AXES = {2: ("two", "(y, x)"), 3: ("three", "(z, y, x)")}
Layers = dict[int, Callable[..., nn.Module]]
"""A layer by the number of axes, 2 or 3."""

CONV: Layers = {2: nn.Conv2d, 3: nn.Conv3d}
UP_CONV: Layers = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
INSTANCE_NORM: Layers = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
AVERAGE_POOL: Layers = {2: nn.AvgPool2d, 3: nn.AvgPool3d}

SLOPE = 0.01
"""Slope of the leaky ReLU below 0."""


def any_values(channels: int) -> Normalize:
    """Volumes come in Hounsfield units or arbitrary ones: ``model.intensity`` normalises each case as a whole."""
    return Normalize([0.0] * channels, [1.0] * channels, dims=3, value_range=None)


def sizes_per_axis(name: str, values: Sequence[Sequence[int]], dims: int = 3) -> list[tuple[int, ...]]:
    """Kernels or strides as they come from code or from JSON, checked.

    Args:
        name: "kernel", whose numbers are odd, or "stride".
        values: ``dims`` numbers for each level.
        dims: 2 or 3 axes.

    Raises:
        ValueError: when a level has another number of axes, or a number is below 1 or, of a kernel, even.
    """
    for value in values:
        if len(value) != dims or min(value) < 1 or (name == "kernel" and not all(n % 2 for n in value)):
            (count, axes), kernel = AXES[dims], name == "kernel"
            wanted = f"{count} odd numbers" if kernel else f"{count} numbers of at least 1"
            raise ValueError(f"a {name} is {wanted} {axes}, got {tuple(value)}")
    return [tuple(value) for value in values]


class InstanceNorm(nn.GroupNorm):
    """Instance norm of 2D and 3D maps, with a weight and a bias for each channel.

    It is group norm with one channel in a group, and on a CPU torch's kernel of that takes half the time. On a GPU
    autocast would make group norm return float32, instance norm stays in half precision.

    Args:
        channels: channels of the maps.

    Shape: ``(B, C, …)`` → the same.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, …)`` → the same."""
        if x.device.type == "cpu":
            return super().forward(x)
        return F.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps)


def conv_norm(
    channels_in: int,
    channels_out: int,
    kernel: Sequence[int],
    stride: Sequence[int] | int = 1,
    *,
    bias: bool = False,
    norm: Callable[[int], nn.Module] | None = None,
) -> list[nn.Module]:
    """A convolution that pads and an instance norm, in 2D or 3D by the kernel's axes.

    Args:
        channels_in: channels of the input.
        channels_out: channels of the output.
        kernel: kernel size, two or three odd numbers.
        stride: stride of the convolution.
        bias: whether the convolution has a bias.
        norm: function that builds the norm; torch's instance norm when not given.

    Shape: ``(B, C, d, h, w)`` → ``(B, D, ⌈d / s⌉, ⌈h / s⌉, ⌈w / s⌉)``.
    """
    dims, kernel = len(kernel), tuple(kernel)
    stride = stride if isinstance(stride, int) else tuple(stride)
    conv = CONV[dims](channels_in, channels_out, kernel, stride, tuple(n // 2 for n in kernel), bias=bias)
    return [conv, norm(channels_out) if norm else INSTANCE_NORM[dims](channels_out, affine=True)]


def conv_stack(
    channels_in: int,
    channels_out: int,
    kernel: Sequence[int],
    stride: Sequence[int] | int = 1,
    *,
    count: int = 2,
    **options: Any,
) -> nn.Sequential:
    """Convolutions, each with instance norm and leaky ReLU; the first one strides.

    Args:
        channels_in: channels of the input.
        channels_out: channels of the output.
        kernel: kernel size of all, two or three odd numbers.
        stride: stride of the first convolution.
        count: number of convolutions.
        **options: ``bias`` and ``norm`` of :func:`conv_norm`.

    Shape: ``(B, C, d, h, w)`` → ``(B, D, ⌈d / s⌉, ⌈h / s⌉, ⌈w / s⌉)``.
    """
    layers: list[nn.Module] = []
    for i in range(count):
        layers += conv_norm(channels_out if i else channels_in, channels_out, kernel, 1 if i else stride, **options)
        layers.append(nn.LeakyReLU(SLOPE, inplace=True))
    return nn.Sequential(*layers)


def he_initialize(module: nn.Module) -> None:
    """He initialisation of all convolutions of ``module`` for leaky ReLU; biases are 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            nn.init.kaiming_normal_(layer.weight, SLOPE)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
