"""Multi-head attention, and positions for tokens that have lost theirs.

Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, sections 3.2.2 and 3.5; Carion et al., "End-to-End
Object Detection with Transformers", ECCV 2020, for positions in two dimensions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from seglib.ops.attention import attention


class MultiHeadAttention(nn.Module):
    """Attention in several subspaces at once: project, attend in each head, put the heads together, project.

    ::

        query (B, N, C) ── Linear ── (B, h, N, d) ─┐
        key   (B, M, C) ── Linear ── (B, h, M, d) ─┼─ attention ── (B, h, N, d) ── (B, N, h·d) ── Linear ── (B, N, C)
        value (B, M, C) ── Linear ── (B, h, M, d) ─┘

    Equals ``torch.nn.MultiheadAttention``, whose three input projections are one matrix.

    Args:
        channels: channels C of queries, keys, values and of the result.
        heads: number of heads h.
        hidden: channels h·d of all heads together; ``None`` for C.

    Raises:
        ValueError: when the heads don't divide the channels.
    """

    def __init__(self, channels: int, heads: int, *, hidden: int | None = None) -> None:
        super().__init__()
        hidden = channels if hidden is None else hidden
        if heads < 1 or hidden % heads:
            raise ValueError(
                f"{hidden} channels can't be split over {heads} heads; pass a number of heads that divides them"
            )
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(channels, hidden) for _ in range(3))
        self.out = nn.Linear(hidden, channels)
        for projection in (self.query, self.key, self.value, self.out):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            query: tokens that ask, ``(B, N, C)``; or ``(1, N, C)``, projected once, for all keys alike.
            key: tokens that are compared with the queries, ``(B, M, C)``; or ``(1, M, C)`` for all queries alike.
            value: what is taken from those tokens, of the shape of ``key``.
            mask: bool, true where a query may attend to a key, ``(B, N, M)`` for all heads alike.

        Returns:
            ``(B, N, C)``.
        """
        q, k, v = self.query(query), self.key(key), self.value(value)  # (B, N, h·d), (B, M, h·d), (B, M, h·d)
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))  # (B, h, N or M, d)
        if len(q) != len(k):
            batch = len(k) if len(q) == 1 else len(q)
            q, k, v = (x.expand(batch, -1, -1, -1) for x in (q, k, v))  # copies nothing
        mixed = attention(q, k, v, mask=None if mask is None else mask[:, None])  # (B, h, N, d)
        return self.out(mixed.transpose(1, 2).flatten(2))


class SinePosition(nn.Module):
    r"""Where a cell lies in a map, as sines and cosines: half of the channels for y, then half for x.

    With row i of h rows, :math:`p = 2\pi\, (i + 1) / h` and channels in pairs j = 0, 1, …:

    .. math:: \sin(p / 10000^{2j / (C/2)}), \quad \cos(p / 10000^{2j / (C/2)})

    Attention itself doesn't know the order of its keys. The positions span the map whatever its size.

    Args:
        channels: channels C, a multiple of 4.

    Raises:
        ValueError: when C isn't a multiple of 4.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels < 4 or channels % 4:
            raise ValueError(f"channels must be a multiple of 4 (sine and cosine, of y and of x), got {channels}")
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """Positions of the cells of a map ``(B, …, H, W)``: ``(C, H, W)`` float32."""
        rows, columns = (self._along(n, x.device) for n in x.shape[-2:])  # (H, C/2), (W, C/2)
        height, width = x.shape[-2:]
        both = (rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1))  # (H, W, C/2) each
        return torch.cat(both, -1).permute(2, 0, 1)  # (C, H, W)

    def _along(self, length: int, device: torch.device) -> Tensor:
        half = self.channels // 2
        # the 1e-6 is the original's guard against a division by 0
        p = torch.arange(1, length + 1, device=device, dtype=torch.float32) * (2 * math.pi / (length + 1e-6))
        wave = 10000.0 ** (torch.arange(0, half, 2, device=device, dtype=torch.float32) / half)  # (C/4,)
        angles = p[:, None] / wave  # (length, C/4)
        return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)  # (length, C/2): sin, cos, sin, cos, …
