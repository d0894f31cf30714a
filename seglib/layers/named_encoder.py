"""Encoders by name, as builders and the command line ask for them: ResNets, Swin Transformers, and timm's networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from seglib.layers.encoder import Encoder
from seglib.layers.frozen import freeze
from seglib.layers.resnet import LEVELS, RESNETS, ResNetEncoder, resnet_encoder
from seglib.layers.swin import SWINS, swin_encoder
from seglib.layers.timm_encoder import timm_encoder


def named_encoder(
    name: str,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    output_stride: int = 32,
    levels: Sequence[str] = LEVELS,
    **of_resnets: Any,
) -> Encoder:
    """An encoder by name.

    Args:
        name: "resnet18", "resnet34", "resnet50", "resnet101", "swin_t", "swin_s", "swin_b", "swin_l", or a network of
            timm with "timm:" before its name, such as "timm:convnext_tiny".
        in_channels: channels of the images.
        pretrained: whether to start from published ImageNet weights, torchvision's or timm's.
        output_stride: stride of the last map: 32, or 16 or 8 where the encoder can be dilated.
        levels: names of the maps that are wanted; a ResNet lets go of the others as it goes.
        **of_resnets: further keywords of :func:`~seglib.layers.resnet.resnet_encoder`; other encoders take none.

    Raises:
        ImportError: when timm is asked for and not installed.
        FileNotFoundError: when weights are not on this machine and can't be downloaded.
        ValueError: for an unknown name, or settings that the encoder doesn't have.
    """
    if name in RESNETS:
        return resnet_encoder(
            name,
            in_channels=in_channels,
            output_stride=output_stride,
            levels=levels,
            pretrained=pretrained,
            **of_resnets,
        )
    if given := sorted(key for key, value in of_resnets.items() if value):
        raise ValueError(f"{', '.join(given)} is for ResNets, and the encoder is {name!r}; leave it out")
    if name.startswith("timm:"):
        name = name.removeprefix("timm:")
        return timm_encoder(name, in_channels=in_channels, pretrained=pretrained, output_stride=output_stride)
    if name not in SWINS:
        raise ValueError(f"no encoder is called {name!r}; choose one of {', '.join([*RESNETS, *SWINS])}, or timm:NAME")
    if output_stride != 32:
        raise ValueError(f"{name} has an output stride of 32, got {output_stride}; choose a ResNet, or 32")
    return swin_encoder(name, in_channels=in_channels, pretrained=pretrained)


def detector_encoder(
    name: str, *, pretrained: bool, frozen: bool | None, in_channels: int = 3, stride_in_1x1: bool = False
) -> Encoder:
    """An encoder of a detector, which gives c2 to c5; the beginning of a ResNet may be frozen.

    Args:
        name: name of the encoder (:func:`named_encoder`).
        pretrained: whether to start from published ImageNet weights.
        frozen: whether batch norms, the first convolution and the first stage of a ResNet stay as they are; ``None``
            freezes them when it is pretrained. From scratch they must learn, and so must a first convolution that was
            made for other images than RGB.
        in_channels: channels of the images.
        stride_in_1x1: whether a ResNet's bottlenecks stride in their first convolution
            (:func:`~seglib.layers.resnet.resnet_encoder`).

    Raises:
        ImportError: when timm is asked for and not installed.
        FileNotFoundError: when weights are not on this machine and can't be downloaded.
        ValueError: for an unknown name, or when another encoder than a ResNet is to be frozen.
    """
    if frozen is None:
        frozen = pretrained and name in RESNETS
    encoder = named_encoder(
        name,
        in_channels=in_channels,
        levels=LEVELS[1:],
        pretrained=pretrained,
        frozen_norm=frozen,
        stride_in_1x1=stride_in_1x1,
    )
    if frozen:
        assert isinstance(encoder, ResNetEncoder)  # others were refused
        if in_channels == 3:
            freeze(encoder.conv1)
        freeze(encoder.layer1)
    return encoder
