"""Swin Transformer: self-attention within small windows, which shift by half a window from block to block.

Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", ICCV 2021.

Attention between all cells of a map costs the square of their number. Within windows of w × w cells it costs
``H · W · w²`` only. Every second block shifts the windows by half of their side, so that cells which a border separated
meet, and after a few blocks everything has reached everything. Between stages 2 × 2 cells merge into one, which gives
maps of the same strides as a ResNet's.

::

    image ── patches 4×4 ── stage 0 ─┬─ merge 2×2 ── stage 1 ─┬─ merge 2×2 ── stage 2 ─┬─ merge 2×2 ── stage 3 ─┐
                                     norm                     norm                     norm                     norm
                                     c2                       c3                       c4                       c5

    block:  x ── norm ── attention within windows ── + ── norm ── MLP ── +        each + adds what came before
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models as tv
from torchvision.ops import StochasticDepth

from seglib.layers.grid import Grid
from seglib.layers.pretrained import check_in_channels, load_pretrained, repeat_input_channels
from seglib.ops.attention import attention

SWINS = {
    "swin_t": (96, (2, 2, 6, 2), (3, 6, 12, 24), 7, tv.Swin_T_Weights.IMAGENET1K_V1),
    "swin_s": (96, (2, 2, 18, 2), (3, 6, 12, 24), 7, tv.Swin_S_Weights.IMAGENET1K_V1),
    "swin_b": (128, (2, 2, 18, 2), (4, 8, 16, 32), 12, tv.Swin_B_Weights.IMAGENET1K_V1),
    "swin_l": (192, (2, 2, 18, 2), (6, 12, 24, 48), 12, None),
}
"""The sizes in use: channels of c2, blocks and heads of each stage, side of a window in Mask2Former's configurations,
and the published weights (window 7), where torchvision has them."""


def swin_encoder(
    name: str, *, in_channels: int = 3, pretrained: bool = False, window: int | None = None, drop_path: float = 0.0
) -> SwinEncoder:
    """A Swin Transformer by name.

    Args:
        name: name of the network, a key of :data:`SWINS`.
        in_channels: channels of the images.
        pretrained: whether to start from torchvision's ImageNet weights, whose windows are 7 × 7. For other images
            than RGB the first kernel's mean over the three colours is repeated and rescaled
            (:func:`~seglib.layers.pretrained.repeat_input_channels`).
        window: side of a window in cells; ``None`` is 7 when pretrained, else that in :data:`SWINS`.
        drop_path: probability that the last block is left out in training (:class:`SwinEncoder`).

    Raises:
        ValueError: for an unknown name or window, without channels, or when no weights of that size are published.
    """
    if name not in SWINS:
        raise ValueError(f"no Swin Transformer is called {name!r}; choose one of {', '.join(SWINS)}")
    channels, depths, heads, default_window, weights = SWINS[name]
    if pretrained and weights is None:
        raise ValueError(f"torchvision has no ImageNet weights of {name}; pass pretrained=False or choose swin_b")
    if pretrained and window not in (None, 7):
        raise ValueError(f"the ImageNet weights have windows of 7, got window={window}; leave it out")
    if window is None:
        window = 7 if pretrained else default_window
    encoder = SwinEncoder(channels, depths, heads, window, in_channels=in_channels, drop_path=drop_path)
    if weights is not None and pretrained:
        state = rename_torchvision_swin(load_pretrained(weights))
        state["embed.weight"] = repeat_input_channels(state["embed.weight"], in_channels)
        # an image classifier has no norms on its maps: they keep their initialisation
        encoder.load_state_dict({f"norms.{k}": v for k, v in encoder.norms.state_dict().items()} | state)
    return encoder


class SwinEncoder(nn.Module):
    """A Swin Transformer without its classifier, with a layer norm on each map that it gives.

    Args:
        channels: channels of c2; every merging doubles them.
        depths: blocks of each stage.
        heads: attention heads of each stage.
        window: side of a window in cells.
        in_channels: channels of the images.
        drop_path: probability that the last block is left out for an image in training (stochastic depth; Huang et al.
            2016). It grows linearly from 0 at the first block. Mask2Former trains with 0.3.

    Attributes:
        channels: channels of each map, by its name.
        grids: where the cells of each map lie in the image, by its name; their ``stride`` is 4, 8, 16, 32.
        size_divisibility: number that height and width of the images must be multiples of; 32 keeps the four maps
            aligned. Other sizes are padded right and below, patches and merging alike.

    Raises:
        ValueError: without channels, or for a window below 2, which has nothing to shift.
    """

    size_divisibility = 32

    def __init__(
        self,
        channels: int,
        depths: Sequence[int],
        heads: Sequence[int],
        window: int,
        *,
        in_channels: int = 3,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        check_in_channels(in_channels)
        if window < 2:
            raise ValueError(f"window must be at least 2 cells, got {window}")
        widths = [channels * 2**i for i in range(len(depths))]
        rates = iter(drop_path * i / max(sum(depths) - 1, 1) for i in range(sum(depths)))
        self.embed = nn.Conv2d(in_channels, channels, 4, stride=4)
        self.embed_norm = nn.LayerNorm(channels)
        self.stages = nn.ModuleList(
            nn.Sequential(*[SwinBlock(c, h, window, shift=i % 2 * (window // 2), drop=next(rates)) for i in range(n)])
            for c, n, h in zip(widths, depths, heads, strict=True)
        )
        self.merges = nn.ModuleList(PatchMerging(c) for c in widths[:-1])
        self.norms = nn.ModuleList(nn.LayerNorm(c) for c in widths)
        for layer in (m for m in self.modules() if isinstance(m, nn.Linear)):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

        levels = [f"c{i + 2}" for i in range(len(depths))]
        self.channels: dict[str, int] = dict(zip(levels, widths, strict=True))
        grid = Grid().conv(4, 4)
        self.grids: dict[str, Grid] = {}
        for level in levels:
            self.grids[level] = grid
            grid = grid.conv(2, 2)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """``(B, C, H, W)`` normalised images → the maps ``c2`` … ``c5``, ``(B, C, ⌈H / stride⌉, ⌈W / stride⌉)``."""
        height, width = images.shape[-2:]
        images = F.pad(images, (0, -width % 4, 0, -height % 4))
        x = self.embed_norm(self.embed(images).permute(0, 2, 3, 1))  # (B, h, w, C), as everywhere below
        maps = {}
        for i, (level, stage, norm) in enumerate(zip(self.channels, self.stages, self.norms, strict=True)):
            x = stage(self.merges[i - 1](x) if i else x)
            maps[level] = norm(x).permute(0, 3, 1, 2)
        return maps


class SwinBlock(nn.Module):
    """Attention within windows and an MLP on each cell, both added to what came in (equation 3).

    Args:
        channels: channels of the map.
        heads: attention heads; they share the channels.
        window: side of a window in cells.
        shift: by how many cells the windows are shifted down and right; 0 in every first block.
        drop: probability that a branch is left out for an image in training.
    """

    def __init__(self, channels: int, heads: int, window: int, *, shift: int, drop: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attention = WindowAttention(channels, heads, window, shift=shift)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels))
        self.drop = StochasticDepth(drop, "row")

    def forward(self, x: Tensor) -> Tensor:
        """``(B, H, W, C)`` → the same shape."""
        x = x + self.drop(self.attention(self.norm1(x)))
        return x + self.drop(self.mlp(self.norm2(x)))


class WindowAttention(nn.Module):
    r"""Multi-head self-attention within windows, with a learned bias for every relative position (equation 4).

    .. math:: \text{softmax}(q k^\top / \sqrt{d} + b)\, v

    The map is padded with zeros right and below to whole windows; these cells are attended to as others are, as in the
    paper's code. Shifted windows are plain windows of the rolled map, in which the first rows and columns stand behind
    the last: a mask keeps apart what became neighbours that way (figure 4).

    Args:
        channels: channels of the map.
        heads: attention heads; they share the channels.
        window: side w of a window in cells.
        shift: by how many cells the windows are shifted down and right.
    """

    position_index: Tensor

    def __init__(self, channels: int, heads: int, window: int, *, shift: int) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        self.bias_table = nn.Parameter(nn.init.trunc_normal_(torch.empty((2 * window - 1) ** 2, heads), std=0.02))
        self.register_buffer("position_index", relative_position_index(window), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, H, W, C)`` → the same shape."""
        batch, height, width, channels = x.shape
        x = F.pad(x, (0, 0, 0, -width % self.window, 0, -height % self.window))
        rows, columns = x.shape[1:3]
        bias = self.bias_table[self.position_index].permute(2, 0, 1)[None]  # (1, heads, w², w²)
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
            mask = window_mask(rows, columns, self.window, self.shift, device=x.device)[:, None]  # (n, 1, w², w²)
            bias = bias.masked_fill(~mask, -torch.inf).repeat(batch, 1, 1, 1)  # (B·n, heads, w², w²)

        windows = to_windows(self.qkv(x), self.window)  # (B·n, w², 3·C)
        q, k, v = windows.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B·n, heads, w², d) each
        windows = attention(q, k, v, mask=bias).transpose(1, 2).flatten(2)  # (B·n, w², C)
        x = from_windows(windows, self.window, rows, columns)

        if self.shift:
            x = x.roll((self.shift, self.shift), (1, 2))
        return self.out(x[:, :height, :width])


class PatchMerging(nn.Module):
    """Every 2 × 2 cells become one of twice as many channels: concatenated, normalised, projected.

    An odd height or width is padded with zeros.

    Args:
        channels: channels of the map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, H, W, C)`` → ``(B, ⌈H / 2⌉, ⌈W / 2⌉, 2·C)``."""
        height, width = x.shape[1:3]
        x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
        # the order of the published weights: down the columns
        cells = [x[:, dy::2, dx::2] for dx in (0, 1) for dy in (0, 1)]
        return self.reduction(self.norm(torch.cat(cells, -1)))


def relative_position_index(window: int) -> Tensor:
    """Row of the bias table for every pair of cells of a window, int64 ``(w², w²)``.

    For cells i and j it is ``(dy + w − 1)·(2w − 1) + dx + w − 1``, where ``(dy, dx)`` is the position of i minus that
    of j: pairs with the same offset share a bias.

    Args:
        window: side w of a window in cells.
    """
    i = torch.arange(window)
    y, x = i.repeat_interleave(window), i.repeat(window)  # (w²,) each
    dy, dx = y[:, None] - y, x[:, None] - x
    return (dy + window - 1) * (2 * window - 1) + dx + window - 1


def window_mask(height: int, width: int, window: int, shift: int, *, device: torch.device | None = None) -> Tensor:
    """Which cells of a rolled map may attend to each other within its windows, bool ``(n, w², w²)``.

    After a roll up and left by ``shift`` the last rows and columns are those that came round from the other side. They
    and the others may not attend to each other.

    Args:
        height: height of the map in cells, a multiple of the window.
        width: width of the map in cells, a multiple of the window.
        window: side w of a window in cells.
        shift: by how many cells the map was rolled.
        device: where the mask is made.
    """
    below = torch.arange(height, device=device) >= height - shift
    right = torch.arange(width, device=device) >= width - shift
    part = to_windows((2 * below[:, None] + right)[None, :, :, None], window)  # (n, w², 1), 0 … 3
    return part == part.mT


def to_windows(x: Tensor, window: int) -> Tensor:
    """A map cut into windows, row by row: ``(B, H, W, C)`` → ``(B·n, w², C)``, where ``n = H / w · W / w``."""
    x = x.unflatten(2, (-1, window)).unflatten(1, (-1, window))  # (B, H / w, w, W / w, w, C)
    return x.transpose(2, 3).flatten(0, 2).flatten(1, 2)


def from_windows(windows: Tensor, window: int, height: int, width: int) -> Tensor:
    """The map that :func:`to_windows` cut: ``(B·n, w², C)`` → ``(B, H, W, C)``."""
    x = windows.unflatten(1, (window, window)).unflatten(0, (-1, height // window, width // window))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def rename_torchvision_swin(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of one of torchvision's Swin Transformers (version 1) under our names, without its classifier."""
    renamed = {}
    for key, value in state.items():
        if key.startswith(("norm.", "head.")) or key.endswith("relative_position_index"):
            continue
        name = key.replace("features.0.0", "embed").replace("features.0.2", "embed_norm")
        # features 1, 3, 5, 7 are stages, with a merging before each of the last three
        name = re.sub(r"features\.([1357])\.", lambda m: f"stages.{int(m[1]) // 2}.", name)
        name = re.sub(r"features\.([246])\.", lambda m: f"merges.{int(m[1]) // 2 - 1}.", name)
        name = name.replace("attn.", "attention.").replace("relative_position_bias_table", "bias_table")
        renamed[name.replace("attention.proj", "attention.out").replace("mlp.3", "mlp.2")] = value
    return renamed
