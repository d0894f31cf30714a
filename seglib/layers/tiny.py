"""The small encoder of every ``*_tiny`` system: a residual pyramid that trains on two CPU cores in a minute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.convnext import LayerNorm2d
from torchvision.ops import Conv2dNormActivation

from seglib.layers.grid import Grid
from seglib.layers.pretrained import check_in_channels

TINY_MEAN = (0.5, 0.5, 0.5)
TINY_STD = (0.25, 0.25, 0.25)
"""No statistics of a dataset: the tiny encoder is trained on synthetic scenes that spread over the whole range."""


class ResidualBlock(nn.Module):
    """``relu(x + bn(conv(relu(bn(conv(x))))))`` with 3×3 convolutions (He et al. 2016).

    The last batch norm starts at 0, so that each block starts as the identity: the network is shallow at first and
    grows deep as it learns.

    Shape: ``(B, C, H, W)`` → the same.
    """

    def __init__(self, channels: int, dilation: int = 1) -> None:
        super().__init__()
        self.conv1 = Conv2dNormActivation(channels, channels, 3, dilation=dilation)
        self.conv2 = Conv2dNormActivation(channels, channels, 3, dilation=dilation, activation_layer=None)
        nn.init.zeros_(self.conv2[1].weight)

    def forward(self, x: Tensor) -> Tensor:
        """Add what the two convolutions make of x to x."""
        return torch.relu(x + self.conv2(self.conv1(x)))


class TinyEncoder(nn.Module):
    """A five-level residual pyramid of about half a million weights.

    ::

        image ── 4×4/2 ─ c1 ── 2×2/2, blocks ─ c2 ── 2×2/2, blocks ─ c3 ── 2×2/2, blocks ─ c4 ── 2×2/2, blocks ─ c5

    Few channels where the maps are large and more where they are small keep every level cheap. Strides are
    taken with even kernels, so that a cell lies in the middle of the pixels that it stands for at every level: cell i
    of a map of stride s is centred on the continuous coordinate s·(i + ½). Upsampling and RoI operations assume just
    that; a ResNet's odd kernels leave its maps half a cell aside.

    With an output stride of 16 or 8 the last stages keep their size: what strode moves by one cell instead, and all
    that follows is dilated. Every weight then meets the same pixels, and every s-th cell of the dense map is a cell of
    the strided one. An even kernel that does not stride lies between the cells; ``grids`` says where the maps came to
    lie: half a cell of the last strided map aside.

    Args:
        widths: channels of c1 to c5.
        depths: residual blocks at c2 to c5.
        in_channels: channels of the images.
        output_stride: stride of c5: 32, 16 or 8.

    Raises:
        ValueError: for another output stride, another number of widths or depths, or without channels.

    Attributes:
        channels: channels of each map, by its name.
        grids: where the cells of each map lie in the image, by its name.
        size_divisibility: number that height and width of the images must be multiples of.
    """

    size_divisibility = 32

    def __init__(
        self,
        widths: Sequence[int] = (24, 48, 64, 96, 96),
        depths: Sequence[int] = (1, 1, 1, 1),
        *,
        in_channels: int = 3,
        output_stride: int = 32,
    ) -> None:
        super().__init__()
        check_in_channels(in_channels)
        if output_stride not in (8, 16, 32):
            raise ValueError(f"output_stride must be 8, 16 or 32, got {output_stride}")
        if len(widths) != 5 or len(depths) != 4:
            raise ValueError(f"expected 5 widths and 4 depths, got {tuple(widths)} and {tuple(depths)}")
        self.stem = Conv2dNormActivation(in_channels, widths[0], 4, stride=2, padding=1)
        self.down = nn.ModuleList()
        self.blocks = nn.ModuleList()
        stride, dilation = 2, 1
        for before, width, depth in zip(widths[:-1], widths[1:], depths, strict=True):
            if stride < output_stride:
                self.down.append(Conv2dNormActivation(before, width, 2, stride=2, padding=0))
                stride *= 2
            else:
                conv = _ConvInPlace(before, width, dilation)
                self.down.append(nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)))
                dilation *= 2
            self.blocks.append(nn.Sequential(*(ResidualBlock(width, dilation) for _ in range(depth))))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

        names = ("c1", "c2", "c3", "c4", "c5")
        self.channels: dict[str, int] = dict(zip(names, widths, strict=True))
        grid = Grid().through(self.stem)
        self.grids: dict[str, Grid] = {"c1": grid}
        for name, down in zip(names[1:], self.down, strict=True):
            self.grids[name] = grid = grid.through(down)  # type: ignore[arg-type]  # a Sequential iterates over its modules

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """``(B, C, H, W)`` normalised images → the maps ``c1`` … ``c5``, ``(B, channels, H / stride, W / stride)``."""
        x = self.stem(images)  # (B, 24, H/2, W/2)
        maps = {"c1": x}
        for name, down, blocks in zip(("c2", "c3", "c4", "c5"), self.down, self.blocks, strict=True):
            x = blocks(down(x))
            maps[name] = x
        return maps


class TinyNeck(nn.Module):
    """The maps of the tiny encoder as an image embedding of stride 8, for a promptable model.

    The first C channels are what tokens attend to: c2 strided to the embedding's grid, and c3, c4 and c5 repeated to
    it. Further channels hold two finer maps, folded by ``pixel_unshuffle``, which
    :class:`~seglib.layers.mask_decoder.MaskDecoder` adds when it upsamples: C channels hardly hold the details of 8 × 8
    pixels. They are made on the way back up, as in a feature pyramid: c2, then c1, each joined by the map below it.

    Args:
        encoder: the encoder whose maps come in.
        channels: channels C of the map that tokens attend to.
        features: channels F of the finest map.
        depth: residual blocks on the map that tokens attend to.
    """

    def __init__(self, encoder: TinyEncoder, channels: int, features: int, depth: int = 2) -> None:
        super().__init__()
        width = encoder.channels
        self.fold = nn.Conv2d(width["c2"], channels, 2, stride=2, bias=False)
        self.lateral = nn.ModuleDict({c: nn.Conv2d(width[c], channels, 1, bias=False) for c in ("c3", "c4", "c5")})
        self.norm = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())
        self.blocks = nn.Sequential(*(ResidualBlock(channels) for _ in range(depth)))
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.last_norm = LayerNorm2d(channels, eps=1e-6)
        self.join2 = _Join(width["c2"], channels, channels // 2)
        self.join1 = _Join(width["c1"], channels // 2, features)
        self.twice = nn.Conv2d(channels // 2, channels // 4, 1)
        self.fourfold = nn.Conv2d(features, features, 1)
        for parameter in (*self.twice.parameters(), *self.fourfold.parameters()):  # masks start without them
            nn.init.zeros_(parameter)

    def forward(self, maps: Mapping[str, Tensor]) -> Tensor:
        """The encoder's maps → ``(B, 2 C + 16 F, H/8, W/8)``."""
        mixed = self.fold(maps["c2"])  # (B, C, H/8, W/8)
        for name, lateral in self.lateral.items():
            mixed = mixed + F.interpolate(lateral(maps[name]), mixed.shape[2:])  # nearest: a cell's four share a value
        mixed = self.blocks(self.norm(mixed))
        image = self.last_norm(self.conv(mixed))
        x2 = self.join2(maps["c2"], mixed)  # (B, C/2, H/4, W/4)
        x1 = self.join1(maps["c1"], x2)  # (B, F, H/2, W/2)
        finer = F.pixel_unshuffle(self.twice(x2), 2), F.pixel_unshuffle(self.fourfold(x1), 4)
        return torch.cat([image, *finer], 1)


class _Join(nn.Module):
    """A map joined by a coarser one of half its size, then a residual block."""

    def __init__(self, channels: int, coarser: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, 3, padding=1, bias=False)
        self.lateral = nn.Conv2d(coarser, out, 1, bias=False)
        self.norm = nn.BatchNorm2d(out)
        self.block = ResidualBlock(out)

    def forward(self, x: Tensor, coarser: Tensor) -> Tensor:
        x = self.conv(x)
        return self.block(F.relu(self.norm(x + F.interpolate(self.lateral(coarser), x.shape[2:]))))


class _ConvInPlace(nn.Conv2d):
    """A 2×2 convolution that does not stride and keeps the map's size.

    It needs ``dilation`` more rows than it gives. An even number is split between both sides; a single one is added
    behind, and the cells move by half of one.
    """

    def __init__(self, channels_in: int, channels_out: int, dilation: int) -> None:
        super().__init__(channels_in, channels_out, 2, padding=dilation // 2, dilation=dilation, bias=False)
        self.behind = dilation % 2

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (0, self.behind, 0, self.behind)))
