"""YOLACT's parts: prototypes of the whole image, a head that mixes them for every anchor, and anchors that scale along.

Source: Bolya et al., "YOLACT: Real-time Instance Segmentation", ICCV 2019, section 3 and figures 3 and 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import Conv2dNormActivation


class ProtoNet(nn.Module):
    """k prototype masks of an image, at twice the resolution of the map that they are made from.

    ::

        p3 (B, C, h, w) ── [3×3, relu]* ── bilinear ×2 ── 3×3, relu ── 1×1, relu ── prototypes (B, k, 2h, 2w)

    A prototype says nothing about objects; it is a map of the image, such as "left of an edge" or "upper halves". The
    ReLU makes each one a map of where something is, without an upper bound, so that it can speak strongly.

    Args:
        channels: channels of the pyramid's level.
        prototypes: number k of prototypes.
        hidden: channels of the convolutions.
        depth: number of 3×3 convolutions before the upsampling.
        norm: whether a batch norm stands behind each 3×3 convolution.

    Raises:
        ValueError: without prototypes or without a convolution before the upsampling.
    """

    def __init__(
        self, channels: int, prototypes: int = 32, *, hidden: int = 256, depth: int = 3, norm: bool = False
    ) -> None:
        super().__init__()
        if prototypes < 1 or depth < 1:
            raise ValueError(f"prototypes and depth must be at least 1, got {prototypes} and {depth}")
        self.convs = nn.Sequential(
            *(part for i in range(depth) for part in _conv(channels if i == 0 else hidden, hidden, norm))
        )
        self.refine = nn.Sequential(*_conv(hidden, hidden, norm))
        self.predict = nn.Conv2d(hidden, prototypes, 1)
        _initialise(self)

    def forward(self, level: Tensor) -> Tensor:
        """``(B, C, h, w)`` → prototypes ``(B, k, 2h, 2w)``, at least 0."""
        x = self.convs(level)  # (B, hidden, h, w)
        x = F.interpolate(x, scale_factor=2, mode="bilinear")
        return F.relu(self.predict(self.refine(x)))


class PredictionHead(nn.Module):
    """Class, box and mask coefficients of every anchor, by convolutions that all levels share.

    ::

                                             ┌── 3×3 ── A·(K + 1) class logits, background last
        level (B, C, h, w) ── [3×3, relu]* ──┼── 3×3 ── A·4 box deltas
                                             └── 3×3 ── A·k coefficients, tanh

    The tanh lets an object subtract a prototype from another as well as add it.

    Args:
        channels: channels of the pyramid's levels.
        num_classes: number of classes K, without background.
        per_cell: number A of anchors per cell.
        prototypes: number k of prototypes.
        depth: number of 3×3 convolutions that the three branches share.

    Raises:
        ValueError: when ``num_classes`` is out of range.
    """

    def __init__(
        self, channels: int, num_classes: int, *, per_cell: int = 3, prototypes: int = 32, depth: int = 1
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}; background isn't counted")
        self.per_cell = per_cell
        self.convs = nn.Sequential(*(part for _ in range(depth) for part in _conv(channels, channels, False)))
        self.logits = nn.Conv2d(channels, per_cell * (num_classes + 1), 3, padding=1)
        self.deltas = nn.Conv2d(channels, per_cell * 4, 3, padding=1)
        self.coefficients = nn.Conv2d(channels, per_cell * prototypes, 3, padding=1)
        _initialise(self)

    def forward(self, pyramid: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Pyramid ``(B, C, h_i, w_i)`` → of the anchors of all levels, in the order row, column, anchor:

        Returns:
            Class logits ``(B, A, K + 1)``, deltas ``(B, A, 4)`` and coefficients ``(B, A, k)`` in (−1, 1).
        """
        logits, deltas, coefficients = [], [], []
        for level in pyramid:
            x = self.convs(level)  # (B, C, h, w)
            logits.append(self._rows(self.logits(x)))
            deltas.append(self._rows(self.deltas(x)))
            coefficients.append(self._rows(self.coefficients(x)))
        return torch.cat(logits, 1), torch.cat(deltas, 1), torch.cat(coefficients, 1).tanh()

    def _rows(self, maps: Tensor) -> Tensor:
        """``(B, A·n, h, w)`` → ``(B, h·w·A, n)``."""
        numbers = maps.shape[1] // self.per_cell
        return maps.permute(0, 2, 3, 1).reshape(len(maps), -1, numbers)


@dataclass(frozen=True)
class RelativeAnchors:
    r"""Anchors measured in shares of the image, as the published weights know them.

    The cell in row i and column j of an h × w map has its anchors at the image's
    :math:`((j + ½) / w, (i + ½) / h)`, and an anchor of scale s and ratio r is

    .. math:: \frac{s \sqrt{r}}{\text{base}} \text{ of the image's width and as large a share of its height.}

    In an image that is square all are squares, although three ratios are given: heights should have been divided by
    √r. The authors found this bug when the weights were trained, and kept it. (A ratio here is width over height; in
    :class:`~seglib.layers.anchors.Anchors` it is height over width, and boxes do have it.)

    Attributes:
        scales: scale of each level's anchors in pixels of an image of the side ``base``, finest first.
        ratios: ratios of the anchors.
        base: side in pixels of the square image for which the scales are meant.

    Raises:
        ValueError: when scales, ratios or the base are missing or not above 0.
    """

    scales: tuple[float, ...] = (24, 48, 96, 192, 384)
    ratios: tuple[float, ...] = (1.0, 0.5, 2.0)
    base: float = 550

    def __post_init__(self) -> None:
        if not self.scales or not self.ratios or min(*self.scales, *self.ratios, self.base) <= 0:
            raise ValueError(f"anchors need scales, ratios and a base above 0, got {self}")

    @property
    def per_cell(self) -> int:
        """The number of anchors of one cell."""
        return len(self.ratios)

    def __call__(
        self, shapes: Sequence[Sequence[int]], size: Sequence[int], device: torch.device | str = "cpu"
    ) -> list[Tensor]:
        """The anchors of maps of these shapes.

        Args:
            shapes: size ``(h, w)`` of the map of each level.
            size: size ``(H, W)`` in pixels of the image that the maps cover.
            device: the device that the anchors are made on.

        Returns:
            ``(h·w·A, 4)`` float32 xyxy in pixels of each level: row by row, cell by cell, ratio by ratio.
        """
        height, width = size
        levels = []
        for (rows, columns), scale in zip(shapes, self.scales, strict=True):
            y = (torch.arange(rows, device=device) + 0.5) * (height / rows)
            x = (torch.arange(columns, device=device) + 0.5) * (width / columns)
            y, x = torch.meshgrid(y, x, indexing="ij")  # (h, w)
            share = torch.tensor(self.ratios, device=device).sqrt() * (scale / self.base)  # (A,)
            half = share[:, None] * torch.tensor([width / 2, height / 2], device=device)  # (A, 2)
            centres = torch.stack([x, y], -1).view(-1, 1, 2)  # (h·w, 1, 2)
            levels.append(torch.cat([centres - half, centres + half], -1).view(-1, 4))
        return levels


def _conv(channels_in: int, channels: int, norm: bool) -> list[nn.Module]:
    if norm:
        return [Conv2dNormActivation(channels_in, channels, 3)]
    return [nn.Conv2d(channels_in, channels, 3, padding=1), nn.ReLU(inplace=True)]


def _initialise(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
