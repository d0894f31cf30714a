"""Atrous spatial pyramid pooling: convolutions of several dilations and a mean over the map, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import Conv2dNormActivation

from seglib.layers.conv import separable_conv_norm_activation


class _BatchNormOfImages(nn.BatchNorm2d):
    """Batch norm over one value per channel and image, ``(B, C, 1, 1)``.

    A batch of one image has no variance over such values, so while training it is normalised with the running
    statistics, and does not change them.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


def image_pooling(channels_in: int, channels_out: int) -> nn.Sequential:
    """The image-level branch: the mean of each channel over the map, a 1×1 convolution, batch norm and ReLU.

    Shape: ``(B, C, h, w)`` → ``(B, D, 1, 1)``; a batch of one image can be trained on.
    """
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(channels_in, channels_out, 1, bias=False),
        _BatchNormOfImages(channels_out),
        nn.ReLU(inplace=True),
    )


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling.

    ::

                 ┌─ 1×1 ──────────────────────┐
                 ├─ 3×3, dilation r1 ─────────┤
        (B,C,h,w)├─ 3×3, dilation r2 ─────────┤ concatenate ── 1×1 ── dropout ── (B, D, h, w)
                 ├─ 3×3, dilation r3 ─────────┤
                 └─ mean over the map, 1×1 ───┘

    Each branch and the projection end in batch norm and ReLU. Where a rate is as large as the map, the outer eight
    weights of its kernels only meet padding, and the branch is a 1×1 convolution. The paper adds the pooling branch for
    this.

    Submodules keep torchvision's names (``convs``, ``project``), so weights move by prefix.

    Args:
        channels: C, channels of the input.
        width: D, channels of every branch and of the output.
        rates: dilations of the 3×3 branches, one branch each.
        separable: whether the dilated branches are atrous separable convolutions.
        dropout: probability that an output is dropped in training.

    Raises:
        ValueError: without rates, or for a rate below 1.

    Source: Chen, Papandreou, Schroff, Adam, "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017,
    section 3.3.
    """

    def __init__(
        self,
        channels: int,
        width: int = 256,
        rates: Sequence[int] = (6, 12, 18),
        *,
        separable: bool = False,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if not rates or min(rates) < 1:
            raise ValueError(f"ASPP needs dilation rates of at least 1, got {tuple(rates)}")
        dilated = separable_conv_norm_activation if separable else Conv2dNormActivation
        self.convs = nn.ModuleList([Conv2dNormActivation(channels, width, 1)])
        self.convs.extend(dilated(channels, width, dilation=rate) for rate in rates)
        self.convs.append(image_pooling(channels, width))
        self.project = nn.Sequential(*Conv2dNormActivation(len(self.convs) * width, width, 1), nn.Dropout(dropout))

    def forward(self, x: Tensor, *, impl: Literal["fast", "reference"] = "fast") -> Tensor:
        """``(B, C, h, w)`` → ``(B, D, h, w)``.

        Args:
            x: input map, ``(B, C, h, w)``.
            impl: ``"reference"`` concatenates all branches, ``"fast"`` never repeats the pooled one over the map.
                Equal to rounding.

        Raises:
            ValueError: for an unknown ``impl``.
        """
        if impl not in ("fast", "reference"):
            raise ValueError(f"impl is 'fast' or 'reference', got {impl!r}")
        *convs, pooling = self.convs
        local = torch.cat([conv(x) for conv in convs], 1)  # (B, (R + 1) D, h, w)
        pooled = pooling(x)  # (B, D, 1, 1)
        if impl == "reference":
            return self.project(torch.cat([local, pooled.expand(-1, -1, *x.shape[-2:])], 1))
        weight: Tensor = self.project[0].weight  # type: ignore[assignment]  # torch types it as Tensor or Module
        return self.project[1:](_project_split(weight, local, pooled))


def _project_split(weight: Tensor, local: Tensor, pooled: Tensor) -> Tensor:
    """The 1×1 convolution of ``local`` beside ``pooled`` repeated over the map, as a sum of two convolutions.

    Args:
        weight: kernel of the 1×1 convolution, ``(D, C + P, 1, 1)``.
        local: output of the branches that keep the map, ``(B, C, h, w)``.
        pooled: output of the pooling branch, ``(B, P, 1, 1)``. Its convolution is one value per channel and image,
            which is added to all cells.
    """
    for_local, for_pooled = weight.split([local.shape[1], pooled.shape[1]], 1)
    return F.conv2d(local, for_local) + F.conv2d(pooled, for_pooled)  # (B, D, h, w) + (B, D, 1, 1)
