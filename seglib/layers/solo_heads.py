"""The heads of SOLOv2: cells of a grid that say what is there and how to draw it, and the features that are drawn on.

Source: Wang et al., "SOLOv2: Dynamic and Fast Instance Segmentation", NeurIPS 2020, sections 3.1 to 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial, reduce

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import Conv2dNormActivation

GRIDS = (40, 36, 24, 16, 12)
"""Cells along a side of the grid of each level, finest first, in the published models."""
PRIOR = 0.01
"""The probability that every class starts with in every cell: most cells hold no object (Lin et al. 2017)."""


class SOLOHead(nn.Module):
    """Two towers that see every level on a square grid: one scores classes, the other makes a kernel for each cell.

    ::

        level (B, C, h, w) ─┬─ x, y ─ resize to G×G ── [3×3]* ── kernel of each cell    (B, G·G, E)
                            └──────── resize to G×G ── [3×3]* ── K logits of each cell  (B, G·G, K)

    What a cell's kernel draws must depend on where the cell lies, and a convolution doesn't know that: so the kernel
    branch gets two channels with the coordinates. The class doesn't depend on it, and its branch doesn't see them.

    Args:
        channels: channels of the pyramid's levels.
        num_classes: number of classes K, without background.
        grids: cells along a side of the grid of each level, finest first.
        kernel_channels: length E of a kernel: the channels of the features that it is convolved with.
        hidden: channels of the towers.
        depth: number of 3×3 convolutions of each tower.
        groups: number of groups of the group norms.
        coordinates: whether the kernel branch gets the coordinate channels.

    Raises:
        ValueError: when ``num_classes`` is out of range.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        grids: Sequence[int] = GRIDS,
        kernel_channels: int = 256,
        hidden: int = 512,
        depth: int = 4,
        groups: int = 32,
        coordinates: bool = True,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}; background isn't counted")
        self.grids, self.coordinates = tuple(grids), coordinates
        self.kernel_tower = _tower(channels + 2 * coordinates, hidden, depth, groups)
        self.category_tower = _tower(channels, hidden, depth, groups)
        self.kernel = nn.Conv2d(hidden, kernel_channels, 3, padding=1)
        self.category = nn.Conv2d(hidden, num_classes, 3, padding=1)
        for conv in (self.kernel, self.category):
            _initialise(conv)
        nn.init.constant_(self.category.bias, math.log(PRIOR / (1 - PRIOR)))  # type: ignore[arg-type]  # it has one

    def forward(self, levels: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Levels ``(B, C, h_i, w_i)`` → class logits ``(B, K, G_i, G_i)`` and kernels ``(B, E, G_i, G_i)`` of each."""
        logits, kernels = [], []
        for level, grid in zip(levels, self.grids, strict=True):
            x = with_coordinates(level) if self.coordinates else level
            x = F.interpolate(x, (grid, grid), mode="bilinear")  # (B, C + 2, G, G)
            kernels.append(self.kernel(self.kernel_tower(x)))
            logits.append(self.category(self.category_tower(x[:, : level.shape[1]])))
        return logits, kernels


class MaskFeatureHead(nn.Module):
    """One map of features for all objects of an image, at the finest level's resolution.

    ::

        p5, x, y ─ 3×3 ─ ×2 ─ 3×3 ─ ×2 ─ 3×3 ─ ×2 ─┐
                      p4 ─ 3×3 ─ ×2 ─ 3×3 ─ ×2 ─── (+)
                                  p3 ─ 3×3 ─ ×2 ── (+)
                                        p2 ─ 3×3 ─ (+) ── 1×1 ── features (B, E, H/4, W/4)

    Every convolution is followed by group norm and ReLU; ×2 is bilinear. Only the coarsest level gets coordinates.

    Args:
        channels: channels of the pyramid's levels.
        levels: number of levels that are added up; each is half as large as the one before.
        features: channels E of the result.
        hidden: channels of the 3×3 convolutions.
        groups: number of groups of the group norms.
        coordinates: whether the coarsest level gets the coordinate channels.
    """

    def __init__(
        self,
        channels: int,
        *,
        levels: int = 4,
        features: int = 256,
        hidden: int = 128,
        groups: int = 32,
        coordinates: bool = True,
    ) -> None:
        super().__init__()
        self.coordinates = coordinates
        self.branches = nn.ModuleList()
        for level in range(levels):
            first = channels + 2 * (coordinates and level == levels - 1)
            self.branches.append(_tower(first, hidden, max(1, level), groups))
        self.output = _block(hidden, features, 1, groups)

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        """Levels ``(B, C, H_i, W_i)``, finest first → ``(B, E, H_0, W_0)``, at least 0."""
        parts = []
        for i, (x, branch) in enumerate(zip(pyramid, self.branches, strict=True)):
            if self.coordinates and i == len(pyramid) - 1:
                x = with_coordinates(x)
            for block in branch.children():
                x = block(x)
                if i > 0:
                    x = F.interpolate(x, scale_factor=2, mode="bilinear")
            parts.append(x)
        return self.output(reduce(torch.add, parts))


def with_coordinates(x: Tensor) -> Tensor:
    """The map with two further channels, x and y of each cell from −1 to 1: ``(B, C, h, w)`` → ``(B, C + 2, h, w)``.

    The first cell has −1 and the last one 1. Source: Liu et al., "An Intriguing Failing of Convolutional Neural
    Networks and the CoordConv Solution", NeurIPS 2018.
    """
    batch, _, height, width = x.shape
    column = torch.linspace(-1, 1, width, device=x.device, dtype=x.dtype).expand(batch, 1, height, width)
    row = torch.linspace(-1, 1, height, device=x.device, dtype=x.dtype)[:, None].expand(batch, 1, height, width)
    return torch.cat([x, column, row], 1)


def _tower(channels_in: int, channels: int, depth: int, groups: int) -> nn.Sequential:
    return nn.Sequential(*(_block(channels_in if i == 0 else channels, channels, 3, groups) for i in range(depth)))


def _block(channels_in: int, channels: int, kernel: int, groups: int) -> Conv2dNormActivation:
    block = Conv2dNormActivation(channels_in, channels, kernel, norm_layer=partial(nn.GroupNorm, groups))
    nn.init.kaiming_normal_(block[0].weight, nonlinearity="relu")
    return block


def _initialise(conv: nn.Conv2d) -> None:
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]  # these convolutions have a bias
