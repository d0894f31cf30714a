"""The pixel decoder of Mask2Former: an encoder's maps, mixed across scales by deformable attention.

Source: Zhu et al., "Deformable DETR", ICLR 2021, section 4; Cheng et al., "Masked-attention Mask Transformer for
Universal Image Segmentation" (Mask2Former), CVPR 2022, section 3.2.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seglib.layers.attention import SinePosition
from seglib.ops.deform_attn import deformable_attention


class DeformableAttention(nn.Module):
    """Multi-scale deformable attention: every token chooses a few points to take values from, and their weights.

    At its start each head looks along a direction of its own, at 1, 2, … cells from the token, whatever its content.

    Args:
        channels: channels C of the tokens.
        heads: number of heads h, which divides C.
        levels: number of maps L.
        points: number of points P that a head looks at in each map.

    Raises:
        ValueError: when the heads don't divide the channels.
    """

    def __init__(self, channels: int, heads: int = 8, levels: int = 3, points: int = 4) -> None:
        super().__init__()
        if heads < 1 or channels % heads:
            raise ValueError(f"{channels} channels can't be split over {heads} heads; pass a number that divides them")
        self.heads, self.levels, self.points = heads, levels, points
        self.sampling_offsets = nn.Linear(channels, heads * levels * points * 2)
        self.attention_weights = nn.Linear(channels, heads * levels * points)
        self.value_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)
        nn.init.zeros_(self.sampling_offsets.weight)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)
        angle = torch.arange(heads) * (2 * math.pi / heads)
        direction = torch.stack([angle.cos(), angle.sin()], -1)  # (h, 2)
        direction = direction / direction.abs().amax(-1, keepdim=True)  # on the border of a square
        steps = torch.arange(1, points + 1.0)  # (P,)
        offsets = direction[:, None, None] * steps[:, None]  # (h, 1, P, 2)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.expand(-1, levels, -1, -1).flatten())

    def forward(self, query: Tensor, reference: Tensor, value: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
        """Take values from the points.

        Args:
            query: tokens with their positions, ``(B, N, C)``.
            reference: where each token lies, xy in [0, 1], ``(N, 2)``.
            value: tokens of all maps one after the other, ``(B, S, C)``.
            shapes: rows and columns ``(h, w)`` of each of the L maps; S cells in all.

        Returns:
            ``(B, N, C)``.
        """
        locations, weights = self.sampling_points(query, reference, shapes)
        v = self.value_proj(value).unflatten(-1, (self.heads, -1))  # (B, S, h, d)
        return self.output_proj(deformable_attention(v, shapes, locations, weights))  # (B, N, C)

    def sampling_points(
        self, query: Tensor, reference: Tensor, shapes: Sequence[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """Where each token looks, and how much each point counts. Arguments as in :meth:`forward`.

        Returns:
            Locations ``(B, N, h, L, P, 2)``, xy in [0, 1] of each map, and weights ``(B, N, h, L, P)``, which sum to 1
            for every token and head.
        """
        offsets = self.sampling_offsets(query).unflatten(-1, (self.heads, -1))  # (B, N, h, L·P·2), in cells
        # x and y of all points side by side: broadcasting over an inner axis of 2 would be slow
        cells = offsets.new_tensor([(w, h) for h, w in shapes]).repeat_interleave(self.points, 0).flatten()  # (L·P·2,)
        places = reference.repeat(1, self.levels * self.points)[:, None]  # (N, 1, L·P·2)
        locations = (places + offsets / cells).unflatten(-1, (self.levels, self.points, 2))
        weights = self.attention_weights(query).unflatten(-1, (self.heads, -1)).softmax(-1)  # (B, N, h, L·P)
        return locations, weights.unflatten(-1, (self.levels, self.points))


class DeformableEncoderLayer(nn.Module):
    """Deformable attention among all tokens of all maps, then two linear layers; each added and normalised.

    Args:
        channels: channels C of the tokens.
        heads: number of heads.
        levels: number of maps.
        points: points that a head looks at in each map.
        hidden: channels between the two linear layers.
    """

    def __init__(self, channels: int, *, heads: int, levels: int, points: int, hidden: int) -> None:
        super().__init__()
        self.attention = DeformableAttention(channels, heads, levels, points)
        self.norm1 = nn.LayerNorm(channels)
        self.linear1, self.linear2 = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
        self.norm2 = nn.LayerNorm(channels)
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self, tokens: Tensor, positions: Tensor, reference: Tensor, shapes: Sequence[tuple[int, int]]
    ) -> Tensor:
        """Tokens ``(B, S, C)``, their positions ``(S, C)`` and places ``(S, 2)`` → ``(B, S, C)``."""
        mixed = self.attention(tokens + positions, reference, tokens, shapes)
        tokens = self.norm1(tokens + mixed)
        return self.norm2(tokens + self.linear2(F.relu(self.linear1(tokens))))


class PixelDecoder(nn.Module):
    """Three maps for the queries to attend to, and fine features that masks are made of.

    ::

        c5 ── 1×1 ─┐                         ┌── scale 0 (1/32)
        c4 ── 1×1 ─┼─ deformable layers × 6 ─┼── scale 1 (1/16)
        c3 ── 1×1 ─┘                         └── scale 2 (1/8) ── ×2 ─┐
        c2 ── 1×1 ───────────────────────────────────────────────── (+) ── 3×3 ── 1×1 ── mask features (1/4)

    Every convolution but the last is followed by a group norm.

    Args:
        channels_in: channels of the encoder's c2, c3, c4 and c5.
        channels: channels C of tokens and scales.
        layers: number of deformable layers.
        heads: number of heads.
        points: points that a head looks at in each map.
        hidden: channels between the two linear layers of a deformable layer.
        mask_channels: channels of the mask features.
        groups: number of groups of the group norms.

    Raises:
        ValueError: for another number of maps than four.
    """

    def __init__(
        self,
        channels_in: Sequence[int],
        channels: int = 256,
        *,
        layers: int = 6,
        heads: int = 8,
        points: int = 4,
        hidden: int = 1024,
        mask_channels: int = 256,
        groups: int = 32,
    ) -> None:
        super().__init__()
        if len(channels_in) != 4:
            raise ValueError(f"the pixel decoder takes the maps c2 to c5, got channels of {len(channels_in)} maps")
        finest, *others = channels_in
        self.input_proj = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, channels, 1), nn.GroupNorm(groups, channels)) for c in reversed(others)
        )
        self.level_embedding = nn.Parameter(torch.randn(len(others), channels))
        self.position = SinePosition(channels)
        self.layers = nn.ModuleList(
            DeformableEncoderLayer(channels, heads=heads, levels=len(others), points=points, hidden=hidden)
            for _ in range(layers)
        )
        self.lateral = nn.Sequential(nn.Conv2d(finest, channels, 1, bias=False), nn.GroupNorm(groups, channels))
        self.output = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.GroupNorm(groups, channels), nn.ReLU()
        )
        self.mask_features = nn.Conv2d(channels, mask_channels, 1)
        for conv in (m for m in self.modules() if isinstance(m, nn.Conv2d)):
            nn.init.xavier_uniform_(conv.weight)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Mix the maps.

        Args:
            maps: the encoder's c2, c3, c4 and c5, ``(B, C_i, h_i, w_i)``.

        Returns:
            The scales 1/32, 1/16 and 1/8, ``(B, C, h, w)`` each, and the mask features ``(B, C_m, h_2, w_2)``.
        """
        finest, *others = maps
        levels = [proj(x) for proj, x in zip(self.input_proj, reversed(others), strict=True)]  # (B, C, h, w) each
        shapes = [(x.shape[2], x.shape[3]) for x in levels]
        tokens = torch.cat([x.flatten(2).mT for x in levels], 1)  # (B, S, C)
        places = [
            (self.position(x).flatten(1).mT + e).to(e.dtype) for x, e in zip(levels, self.level_embedding, strict=True)
        ]  # (h·w, C) each
        positions, reference = torch.cat(places), torch.cat([cell_centres(shape, tokens.device) for shape in shapes])
        for layer in self.layers:
            tokens = layer(tokens, positions, reference, shapes)
        parts = tokens.split([h * w for h, w in shapes], 1)
        scales = [x.mT.unflatten(2, shape) for x, shape in zip(parts, shapes, strict=True)]

        upsampled = F.interpolate(scales[-1], size=finest.shape[2:], mode="bilinear")  # (B, C, H/4, W/4)
        return scales, self.mask_features(self.output(self.lateral(finest) + upsampled))


def cell_centres(shape: tuple[int, int], device: torch.device) -> Tensor:
    """The centres of the cells of a map, xy in [0, 1], row by row: ``(h·w, 2)``."""
    y, x = ((torch.arange(n, device=device, dtype=torch.float32) + 0.5) / n for n in shape)
    return torch.stack(torch.broadcast_tensors(x[None, :], y[:, None]), -1).flatten(0, 1)
