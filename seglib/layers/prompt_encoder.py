"""The prompt encoder of SAM: clicks and boxes become tokens, a mask becomes a map.

Source: Kirillov et al., "Segment Anything", ICCV 2023, section 3 and appendix A; Tancik et al., "Fourier Features Let
Networks Learn High Frequency Functions in Low Dimensional Domains", NeurIPS 2020, for positions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torchvision.models.convnext import LayerNorm2d

from seglib.types import Prompts

BACKGROUND, OBJECT, TOP_LEFT, BOTTOM_RIGHT = range(4)
"""Rows of :attr:`PromptEncoder.meaning`: what a coordinate is the coordinate of."""


class FourierPosition(nn.Module):
    r"""Where a point lies in an image, as sines and cosines of random directions and frequencies.

    .. math:: \sin(2\pi\, (2p - 1)\, W), \quad \cos(2\pi\, (2p - 1)\, W)

    with the point p = (x, y) in shares of the image, and W ``(2, C/2)`` drawn once from a normal distribution.

    Args:
        channels: channels C, an even number.
        scale: standard deviation of W: how fast the code changes over the image.

    Raises:
        ValueError: when C is odd.
    """

    frequencies: Tensor

    def __init__(self, channels: int, scale: float = 1.0) -> None:
        super().__init__()
        if channels < 2 or channels % 2:
            raise ValueError(f"channels must be even (sines, then cosines), got {channels}")
        self.register_buffer("frequencies", scale * torch.randn(2, channels // 2))  # (2, C/2)

    def forward(self, points: Tensor) -> Tensor:
        """``(…, 2)`` points as (x, y) in shares of the image, 0 to 1 → ``(…, C)``, computed in float32."""
        angles = 2 * math.pi * ((2 * points.float() - 1) @ self.frequencies.float())  # (…, C/2)
        return torch.cat([angles.sin(), angles.cos()], -1).to(self.frequencies.dtype)  # (…, C)

    def grid(self, height: int, width: int) -> Tensor:
        """The codes of the centres of the cells of a map, ``(C, height, width)``."""
        y, x = (torch.arange(n, device=self.frequencies.device) + 0.5 for n in (height, width))
        cells = torch.stack(torch.meshgrid(x / width, y / height, indexing="xy"), -1)  # (H, W, 2) as (x, y)
        return self(cells).permute(2, 0, 1)  # (C, H, W)


class PromptEncoder(nn.Module):
    """What a prompt says, in the channels of the image embedding.

    ::

        point (x, y), label ── position + embedding of "object" or "background" ─┐
        box ── two corners, each position + embedding of its corner ─────────────┼─► tokens (N, T, C)
        no box ── one padding token ─────────────────────────────────────────────┘
        mask (N, 4h, 4w) ── 2×2/2 ── 2×2/2 ── 1×1 ─┬─► map (N, C, h, w), added to the image embedding
        no mask ── one learned vector ─────────────┘

    Args:
        channels: channels C of tokens and map.
        image_size: side of the model's square image in pixels.
        grid_size: side of the image embedding in cells, h = w.
        mask_channels: channels of the last map before C.

    Attributes:
        position: makes the position codes of points and of cells.
        meaning: learned vectors of a click on the background, one on the object, and the two corners of a box,
            ``(4, C)``.
    """

    def __init__(self, channels: int, *, image_size: int, grid_size: int, mask_channels: int = 16) -> None:
        super().__init__()
        self.image_size, self.grid_size = image_size, grid_size
        self.position = FourierPosition(channels)
        self.meaning = nn.Parameter(torch.randn(4, channels))
        self.padding = nn.Parameter(torch.randn(channels))
        self.no_mask = nn.Parameter(torch.randn(channels))
        half = mask_channels // 4
        self.mask_layers = nn.Sequential(
            nn.Conv2d(1, half, 2, stride=2),
            LayerNorm2d(half, eps=1e-6),
            nn.GELU(),
            nn.Conv2d(half, mask_channels, 2, stride=2),
            LayerNorm2d(mask_channels, eps=1e-6),
            nn.GELU(),
            nn.Conv2d(mask_channels, channels, 1),
        )

    def forward(self, prompts: Prompts) -> tuple[Tensor, Tensor]:
        """Encode prompts.

        Args:
            prompts: N prompts in pixels of the model's image.

        Returns:
            Tokens ``(N, T, C)``, of a prompt that says nothing T = 0; and the map that is added to the image
            embedding, ``(N, C, h, w)`` of prompts with masks, else ``(1, C, h, w)``.
        """
        tokens = []
        if prompts.points is not None and prompts.labels is not None:
            points, labels = prompts.points, prompts.labels
            if prompts.boxes is None:  # a prompt with a box has its two corners in this place
                points = torch.cat([points, points.new_zeros(len(points), 1, 2)], 1)
                labels = torch.cat([labels, labels.new_full((len(labels), 1), -1)], 1)
            code = self.position((points + 0.5) / self.image_size)  # (N, P, C)
            is_padding = (labels < 0)[..., None]  # (N, P, 1)
            meaning = self.meaning[labels.clamp(BACKGROUND, OBJECT)]  # (N, P, C)
            tokens.append(torch.where(is_padding, self.padding, code + meaning))
        if prompts.boxes is not None:
            corners = prompts.boxes.unflatten(1, (2, 2))  # (N, 2, 2)
            code = self.position((corners + 0.5) / self.image_size)  # (N, 2, C)
            tokens.append(code + self.meaning[TOP_LEFT : BOTTOM_RIGHT + 1])
        nothing = self.padding.new_zeros(len(prompts), 0, len(self.padding))
        return torch.cat([nothing, *tokens], 1), self._map_of(prompts.masks)

    def positions(self) -> Tensor:
        """The position codes of the cells of the image embedding, ``(C, h, w)``."""
        return self.position.grid(self.grid_size, self.grid_size)

    def _map_of(self, masks: Tensor | None) -> Tensor:
        if masks is None:
            return self.no_mask[None, :, None, None].expand(1, -1, self.grid_size, self.grid_size)
        return self.mask_layers(masks[:, None].to(self.no_mask.dtype))  # (N, C, h, w)
