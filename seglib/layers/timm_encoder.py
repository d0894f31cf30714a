"""timm's networks as encoders: the same layers, giving a map for every stride."""

from __future__ import annotations

import math
import warnings
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from seglib.layers.grid import Grid, along_rows
from seglib.layers.normalize import IMAGENET_MEAN, IMAGENET_STD
from seglib.layers.pretrained import check_in_channels


def timm_encoder(name: str, *, in_channels: int = 3, pretrained: bool = False, output_stride: int = 32) -> TimmEncoder:
    """A network of timm as an encoder, by its name there, such as "convnext_tiny" or "efficientnet_b0".

    Args:
        name: what ``timm.create_model`` calls it, with or without the tag of its weights ("resnet50.a1_in1k").
        in_channels: channels of the images.
        pretrained: whether to start from the published weights, which timm downloads or finds in its cache. For other
            images than RGB it sums or repeats the first kernel.
        output_stride: stride of the last map: 32, or 16 or 8 where the network can be dilated.

    Raises:
        ImportError: when timm is not installed.
        FileNotFoundError: when the weights are not on this machine and can't be downloaded.
        ValueError: for a name that timm doesn't know, a network without a map for every stride, one that takes images
            of one size alone, an output stride that it doesn't have, or without channels.
    """
    check_in_channels(in_channels)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # timm's own, at its import
            import timm
    except ImportError as error:
        raise ImportError("timm's networks need timm, which is not installed: pip install timm") from error
    dilated: dict[str, Any] = {} if output_stride == 32 else {"output_stride": output_stride}
    try:
        network = timm.create_model(name, pretrained=pretrained, features_only=True, in_chans=in_channels, **dilated)
    except OSError as error:
        raise FileNotFoundError(
            f"timm's weights of {name} are not on this machine and could not be downloaded ({error}); fetch them "
            "elsewhere and pass the file as --encoder (load_encoder in Python)"
        ) from error
    except (RuntimeError, TypeError, NotImplementedError, AttributeError) as error:  # for a name or a setting
        raise ValueError(f"timm makes no encoder of {name!r} with output stride {output_stride}: {error}") from error
    if getattr(network, "pretrained_cfg", {}).get("fixed_input_size"):
        raise ValueError(
            f"timm's {name} takes images of one size alone; choose a network for any size, such as convnext_tiny, or "
            "seglib's swin_t"
        )
    return TimmEncoder(network, in_channels)


class TimmEncoder(nn.Module):
    """A network that ``timm.create_model(…, features_only=True)`` made, as an :class:`~seglib.layers.encoder.Encoder`.

    A map of stride 2 is called c1, of stride 4 c2, and so on; many networks have no c1. Where the cells of a map lie is
    followed through the layers that stride, in a forward pass of a small image. What strides without a convolution or
    pooling is taken to lie in the middle of what it merges.

    Args:
        network: the network.
        in_channels: channels of the images.

    Attributes:
        channels: channels of each map, by its name.
        grids: where the cells of each map lie in the image, by its name.
        size_divisibility: number that height and width of the images must be multiples of.
        mean: the mean of each colour with which the published weights were trained.
        std: the standard deviation of each colour with which they were trained.

    Raises:
        ValueError: when the strides of the maps don't double, but where they are dilated.
    """

    def __init__(self, network: Any, in_channels: int = 3) -> None:
        super().__init__()
        self.network = network
        strides, widths = network.feature_info.reduction(), network.feature_info.channels()
        dilated = [b for a, b in pairwise(strides) if b == a]
        if strides[0] > 4 or any(b not in (a, 2 * a) for a, b in pairwise(strides)) or len(dilated) > 2:
            raise ValueError(
                f"an encoder has maps of the strides 4, 8, 16 and 32, and perhaps 2; this network's have {strides}"
            )
        first = int(math.log2(strides[0]))
        names = [f"c{first + i}" for i in range(len(strides))]
        self.channels: dict[str, int] = dict(zip(names, widths, strict=True))
        self.size_divisibility = 32
        self.grids: dict[str, Grid] = dict(zip(names, self._grids(strides, in_channels), strict=True))
        facts = getattr(network, "pretrained_cfg", None) or {}
        self.mean: tuple[float, ...] = tuple(facts.get("mean", ())) or IMAGENET_MEAN
        self.std: tuple[float, ...] = tuple(facts.get("std", ())) or IMAGENET_STD

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """``(B, C, H, W)`` normalised images → the maps by name, ``(B, channels, H / stride, W / stride)``."""
        return dict(zip(self.channels, self.network(images), strict=True))

    def _grids(self, strides: list[int], in_channels: int) -> list[Grid]:
        """The grid of each map: behind the first layer that halves each size."""
        side = 64
        found: dict[int, tuple[int, int, int]] = {}

        def note(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            before, after = inputs[0].shape[-1], output.shape[-1]
            if after < before:
                kernel, stride, padding = (along_rows(n) for n in (layer.kernel_size, layer.stride, layer.padding))
                if (before + 2 * padding - kernel) // stride + 1 < after:  # TensorFlow's "same", padded as it runs
                    padding = (kernel - stride) // 2
                found.setdefault(before, (kernel, stride, padding))

        hooks = [
            module.register_forward_hook(note)
            for module in self.network.modules()
            if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d)
        ]
        training, device = self.network.training, next(self.network.parameters()).device
        self.network.eval()
        with torch.no_grad():
            self.network(torch.zeros(1, in_channels, side, side, device=device))
        self.network.train(training)
        for hook in hooks:
            hook.remove()
        grids, grid = [], Grid()
        for stride in strides:
            while grid.stride < stride:
                merged = int(stride / grid.stride)
                grid = grid.conv(*found.get(int(side / grid.stride), (merged, merged)))
            grids.append(grid)
        return grids
