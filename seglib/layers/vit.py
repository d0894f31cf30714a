"""Vision Transformer for large images: attention within windows, and over the whole map in a few blocks.

Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021; Li et al., "Exploring Plain Vision Transformer Backbones
for Object Detection", ECCV 2022 (ViTDet); Kirillov et al., "Segment Anything", ICCV 2023, appendix A.

An image is cut into patches of 16 × 16 pixels, and every patch becomes a token. All blocks work on the same map of
tokens, of stride 16. Attention between all N = 64 × 64 tokens of an image of 1024 pixels has N² = 16.8 million weights
per head. So most blocks attend within windows of 14 × 14 tokens, and four, evenly spaced, over the whole map.

::

    image ── patches 16×16 ── + position ── block ── block ── … ── neck ── embedding
    (B, 3, S, S)              (B, S/16, S/16, C), as all blocks            (B, 256, S/16, S/16)

    block:  x ── norm ── attention ── + ── norm ── MLP ── +                each + adds what came before
    neck:   1×1 convolution ── norm ── 3×3 convolution ── norm
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.convnext import LayerNorm2d

from seglib.layers.linear import Linear
from seglib.layers.pretrained import check_in_channels
from seglib.layers.swin import from_windows, to_windows
from seglib.ops.attention import attention

MOST_BIAS = {"cpu": 2**20, "cuda": 2**26}
"""Numbers of the bias that exist at one time, by device: what stays in a CPU's cache, and what keeps a GPU busy."""


class ImageEncoderViT(nn.Module):
    """A Vision Transformer with windows, and a neck that projects its last map: SAM's image encoder.

    SAM's ViT-B is the default; ViT-L has ``width=1024, depth=24, heads=16, global_blocks=(5, 11, 17, 23)``, ViT-H
    ``width=1280, depth=32, heads=16, global_blocks=(7, 15, 23, 31)``.

    Args:
        image_size: side S of the images in pixels, a multiple of ``patch``.
        patch: side of a patch in pixels.
        width: channels C of a token.
        depth: number of blocks.
        heads: attention heads of each block; they share the channels.
        global_blocks: indices of the blocks that attend over the whole map.
        window: side of a window in tokens, in all other blocks.
        channels: channels of the result.
        in_channels: channels of the images.

    Raises:
        ValueError: when patches don't fill the image, the heads don't divide the channels, a window has no token, a
            block of ``global_blocks`` doesn't exist, or there is no channel.
    """

    def __init__(
        self,
        image_size: int = 1024,
        patch: int = 16,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        global_blocks: Collection[int] = (2, 5, 8, 11),
        window: int = 14,
        channels: int = 256,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        check_in_channels(in_channels)
        if patch < 1 or image_size < 1 or image_size % patch:
            raise ValueError(f"image_size must be a multiple of the patch of {patch} pixels, got {image_size}")
        if missing := set(global_blocks) - set(range(depth)):
            raise ValueError(f"global_blocks must lie in 0..{depth - 1}, got {sorted(missing)}")
        self.image_size = image_size
        side = image_size // patch
        self.embed = nn.Conv2d(in_channels, width, patch, stride=patch)
        self.position = nn.Parameter(nn.init.trunc_normal_(torch.empty(side, side, width), std=0.02))
        self.blocks = nn.Sequential(
            *(ViTBlock(width, heads, side, window=None if i in global_blocks else window) for i in range(depth))
        )
        self.neck = nn.Sequential(
            nn.Conv2d(width, channels, 1, bias=False),
            LayerNorm2d(channels, eps=1e-6),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            LayerNorm2d(channels, eps=1e-6),
        )
        for layer in (m for m in self.modules() if isinstance(m, nn.Linear)):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor) -> Tensor:
        """``(B, in_channels, S, S)`` normalised images → ``(B, channels, S / patch, S / patch)``.

        Raises:
            ValueError: for images of another size, to which the positions don't fit.
        """
        if images.shape[-2:] != (self.image_size, self.image_size):
            raise ValueError(
                f"the encoder takes images of {self.image_size} x {self.image_size} pixels, got "
                f"{images.shape[-2]} x {images.shape[-1]}; resize and pad them"
            )
        x = self.embed(images).permute(0, 2, 3, 1) + self.position  # (B, h, w, C)
        return self.neck(self.blocks(x).permute(0, 3, 1, 2))


class ViTBlock(nn.Module):
    """Attention and an MLP on each token, both added to what came in.

    Args:
        channels: channels of the map.
        heads: attention heads; they share the channels.
        side: side of the map in tokens.
        window: side of a window in tokens; ``None`` attends over the whole map.
    """

    def __init__(self, channels: int, heads: int, side: int, *, window: int | None) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.attention = RelativeAttention(channels, heads, side if window is None else window)
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = nn.Sequential(Linear(channels, 4 * channels), nn.GELU(), Linear(4 * channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, H, W, C)`` → the same shape."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class RelativeAttention(nn.Module):
    r"""Multi-head self-attention within windows, with decomposed relative positions.

    For a query at row y, column x and a key at row y', column x' of the window the logit is

    .. math:: q \cdot k / \sqrt{d} + q \cdot R^{rows}_{y - y'} + q \cdot R^{columns}_{x - x'}

    The two tables have 2w − 1 vectors each, where a vector for every pair of offsets would take (2w − 1)². The query of
    these two terms isn't scaled. The map is padded with zeros right and below to whole windows; these tokens are
    attended to as others are, as in SAM's code.

    Args:
        channels: channels of the map.
        heads: attention heads; they share the channels.
        window: side w of a window in tokens; the side of the map for attention over all of it.

    Raises:
        ValueError: when the heads don't divide the channels, or a window has no token.
    """

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        if heads < 1 or channels % heads:
            raise ValueError(
                f"{channels} channels can't be split over {heads} heads; pass a number of heads that divides them"
            )
        if window < 1:
            raise ValueError(f"window must be at least 1 token, got {window}")
        self.heads, self.window = heads, window
        self.qkv = Linear(channels, 3 * channels)
        self.out = Linear(channels, channels)
        self.rows = nn.Parameter(torch.zeros(2 * window - 1, channels // heads))
        self.columns = nn.Parameter(torch.zeros(2 * window - 1, channels // heads))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, H, W, C)`` → the same shape."""
        height, width = x.shape[1:3]
        x = F.pad(x, (0, 0, 0, -width % self.window, 0, -height % self.window))
        padded = x.shape[1:3]
        qkv = self.qkv(to_windows(x, self.window))  # (B·n, w², 3·C)
        q, k, v = qkv.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B·n, heads, w², d) each
        windows = relative_attention(q, k, v, self.rows, self.columns).transpose(1, 2).flatten(2)  # (B·n, w², C)
        return self.out(from_windows(windows, self.window, *padded)[:, :height, :width])


def relative_attention(
    q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor, *, impl: Literal["fast", "reference"] = "fast"
) -> Tensor:
    r"""Attention between the tokens of a square map, with decomposed relative positions (ViTDet, section 3).

    .. math:: \text{softmax}_{y'x'}(q_{yx} \cdot k_{y'x'} / \sqrt{d} + q_{yx} \cdot R^{rows}_{y - y'} + q_{yx} \cdot
        R^{columns}_{x - x'})\, v

    Args:
        q: queries ``(B, heads, w², d)``, row by row of the map.
        k: keys, same shape.
        v: values, same shape.
        rows: vectors of the offsets y − y' = 1 − w … w − 1, ``(2w − 1, d)``.
        columns: vectors of the offsets x − x', ``(2w − 1, d)``.
        impl: "reference" writes the formula out and keeps the w⁴ logits of all heads; "fast" is PyTorch's fused kernel
            on a few heads and rows of queries at a time, so that the added terms take about :data:`MOST_BIAS` numbers.

    Returns:
        ``(B, heads, w², d)``.

    Raises:
        ValueError: when the queries don't form a square map that the tables fit, or ``impl`` is unknown.
    """
    side = (len(rows) + 1) // 2
    if q.shape[-2] != side**2 or rows.shape != columns.shape or len(rows) % 2 == 0:
        raise ValueError(
            f"tables (2w - 1, d) go with w² queries, got {tuple(rows.shape)} and {tuple(columns.shape)} with "
            f"{q.shape[-2]} queries"
        )
    offset = torch.arange(side, device=q.device)
    offset = offset[:, None] - offset + side - 1  # (w, w), of each query's row (column) and each key's
    grid = q.unflatten(2, (side, side))  # (B, heads, w, w, d)
    by_row = grid @ rows[offset].mT  # (B, heads, y, x, y')
    by_column = (grid.transpose(2, 3) @ columns[offset].mT).transpose(2, 3)  # (B, heads, y, x, x')

    def part(heads: slice, rows: slice, impl: Literal["fast", "reference"] = "fast") -> Tensor:
        bias = by_row[:, heads, rows, :, :, None] + by_column[:, heads, rows, :, None, :]  # (B, h, n, x, y', x')
        queries, mask = grid[:, heads, rows].flatten(2, 3), bias.flatten(4).flatten(2, 3)  # (B, h, n·w, d or w²)
        return attention(queries, k[:, heads], v[:, heads], mask=mask, impl=impl)

    everything = slice(None)
    if impl == "reference":
        return part(everything, everything, impl)
    if impl != "fast":
        raise ValueError(f'impl is "fast" or "reference", got {impl!r}')
    most = MOST_BIAS.get(q.device.type, MOST_BIAS["cuda"]) // max(len(q), 1)
    heads, lines = max(most // side**4, 1), max(most // side**3, 1)
    return torch.cat(
        [
            torch.cat([part(slice(i, i + heads), slice(y, y + lines)) for y in range(0, side, lines)], 2)
            for i in range(0, q.shape[1], heads)
        ],
        1,
    )
