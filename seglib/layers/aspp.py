"""Atrous spatial pyramid pooling: one map looked at with several dilations side by side, and as a whole."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seglib.layers.conv import conv_norm_relu, separable_conv_norm_relu


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
    weights of its kernels only meet padding, and the branch is a 1×1 convolution: that is what the pooling branch makes
    up for.

    Submodules keep torchvision's names (``convs``, ``project``), so weights move by prefix.

    Args:
        channels: C.
        width: D, channels of every branch and of the output.
        rates: the dilations.
        separable: use atrous separable convolutions in the dilated branches.
        dropout: after the projection.

    Raises:
        ValueError: without rates, or for a rate below 1.

    Source: Chen, Papandreou, Schroff, Adam, "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017,
    section 3.3. The paper concatenates all branches; here the projection of the pooled one is added instead, which is
    the same sum without a map that repeats one value.
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
        dilated = separable_conv_norm_relu if separable else _dilated
        self.convs = nn.ModuleList([conv_norm_relu(channels, width)])
        self.convs.extend(dilated(channels, width, dilation=rate) for rate in rates)
        self.convs.append(image_pooling(channels, width))
        self.project = nn.Sequential(*conv_norm_relu(len(self.convs) * width, width), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, h, w)`` → ``(B, D, h, w)``."""
        *branches, pooling = self.convs
        local = torch.cat([branch(x) for branch in branches], 1)  # (B, (R + 1) D, h, w)
        whole = pooling(x)  # (B, D, 1, 1)
        mix: Tensor = self.project[0].weight  # type: ignore[assignment]  # (D, (R + 2) D, 1, 1)
        of_local, of_whole = mix.split([local.shape[1], whole.shape[1]], 1)
        x = F.conv2d(local, of_local) + F.conv2d(whole, of_whole)  # (B, D, h, w) + (B, D, 1, 1)
        return self.project[1:](x)


def _dilated(channels_in: int, channels_out: int, dilation: int) -> nn.Sequential:
    return conv_norm_relu(channels_in, channels_out, 3, dilation)
