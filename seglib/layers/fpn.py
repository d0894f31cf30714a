"""Feature Pyramid Network: maps of every scale, all with the same channels and all with deep meaning.

Source: Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


class FPN(nn.Module):
    """Top-down pathway over an encoder's maps.

    ::

        c5 ── 1×1 ──────────────┬── 3×3 ── p5 ── every second cell ── p6
                                ▼ ×2
        c4 ── 1×1 ──────────── (+) ── 3×3 ── p4
                                ▼ ×2
        c3 ── 1×1 ──────────── (+) ── 3×3 ── p3
                                ▼ ×2
        c2 ── 1×1 ──────────── (+) ── 3×3 ── p2

    Deep maps know what, shallow ones where: each level gets both. The sums are made of nearest-neighbour upsampling,
    whose blocks the 3×3 convolutions smooth.

    Args:
        channels_in: of the encoder's maps, finest first.
        channels: of every level of the pyramid.
        extra: add a level of twice the coarsest stride, for anchors of large objects: p5 without every second row
            and column.
        norm: batch norm behind every convolution, which then has no bias.
    """

    def __init__(
        self, channels_in: Sequence[int], channels: int = 256, *, extra: bool = True, norm: bool = False
    ) -> None:
        super().__init__()
        self.extra = extra
        self.lateral = nn.ModuleList(_conv(c, channels, 1, norm) for c in channels_in)
        self.output = nn.ModuleList(_conv(channels, channels, 3, norm) for _ in channels_in)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps ``(B, C_i, H_i, W_i)``, finest first → the pyramid ``(B, C, H_i, W_i)``, finest first."""
        top = self.lateral[-1](maps[-1])  # (B, C, H/32, W/32)
        pyramid = [self.output[-1](top)]
        for i in range(len(maps) - 2, -1, -1):
            lateral = self.lateral[i](maps[i])  # (B, C, H_i, W_i)
            top = lateral + F.interpolate(top, size=lateral.shape[-2:], mode="nearest")
            pyramid.insert(0, self.output[i](top))
        if self.extra:
            pyramid.append(pyramid[-1][..., ::2, ::2])
        return pyramid


def _conv(channels_in: int, channels: int, kernel: int, norm: bool) -> nn.Module:
    conv = nn.Conv2d(channels_in, channels, kernel, padding=kernel // 2, bias=not norm)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return nn.Sequential(conv, nn.BatchNorm2d(channels)) if norm else conv
