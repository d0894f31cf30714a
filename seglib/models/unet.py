"""U-Net (Ronneberger, Fischer, Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015).

A network that strides knows at the bottom what is there and has forgotten where. U-Net climbs back level by level: it
doubles the map, lays the map of the same size from the way down beside it, channels after channels, and lets two
convolutions make one of the two. Every pixel's answer is so built from the deepest map and from all the finer ones.

::

    image ─── c1 ──────────────────────────────────────────► concat ── convs ─── scores
               │                                               ▲
               └─── c2 ──────────────────────────► concat ── convs ×2
                     │                               ▲
                     └─── c3 ──────────► concat ── convs ×2
                           │               ▲
                           └─── c4 ► concat ── convs ×2
                                 │     ▲
                                 └─ c5 ×2

Two forms. ``PaperUNet`` is the paper's: its convolutions do not pad, so a map shrinks by two pixels at each; skips are
cropped, and the answer is smaller than the input: 388 pixels of 572. What is missing is reflected at the image's
border. No answer depends on padding, so an image of any size can be cut into tiles that fit together exactly.

``UNet`` is the form in use: convolutions that pad, batch norm, and any encoder on the way down.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import Conv2dNormActivation

from seglib.layers.encoder import Encoder, normalize_for
from seglib.layers.named_encoder import named_encoder
from seglib.layers.normalize import Normalize, pad_to_multiple
from seglib.layers.tiny import TINY_MEAN, TINY_STD, TinyEncoder
from seglib.layers.valid import crop_middle, reflect_pad, valid_sizes
from seglib.models.semantic import SemanticModel, upsample
from seglib.ops.inference import evaluating
from seglib.ops.resize import crop_to
from seglib.types import DenseOutput, Size, Targets

__all__ = [
    "PaperUNet", "UNet", "unet", "unet_paper", "unet_resnet34", "unet_resnet50", "unet_tiny",
]  # fmt: skip


class UNet(SemanticModel):
    """The form in use: an encoder's maps c1 … c5, joined by concatenation on the way up.

    Args:
        encoder: gives ``c1`` … ``c5`` with strides 2 … 32; without a ``c1`` the last doublings have no skip. A
            ``size_divisibility`` above 32 is not needed: images are padded.
        num_classes: number of classes K.
        widths: channels behind each doubling: to strides 16, 8, 4, 2, and 1. With four widths the scores are made at
            stride 2 and upsampled, which saves most of the decoder's time.
        skips: concatenate the encoder's maps. Without them the decoder has c5 alone, to measure what skips bring.
        kernel: kernel size of the convolution that makes the logits.
        overlapping: the classes are regions that may overlap, see :class:`~seglib.models.semantic.SemanticModel`.
        normalize: what is done to images first; ImageNet's mean and standard deviation when not given.

    Raises:
        ValueError: when ``num_classes`` is out of range or there are not four or five widths.

    Shape: any H and W. Source: the paper, and for the decoder segmentation_models.pytorch's documentation.
    """

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        *,
        widths: Sequence[int] = (256, 128, 64, 32, 16),
        skips: bool = True,
        kernel: int = 3,
        overlapping: bool = False,
        normalize: Normalize | None = None,
    ) -> None:
        super().__init__(num_classes, overlapping=overlapping)
        if len(widths) not in (4, 5):
            raise ValueError(f"expected 4 or 5 widths, for strides 16, 8, 4, 2 (and 1), got {tuple(widths)}")
        self.normalize = normalize or Normalize()
        self.encoder = encoder
        names = [c if skips and c in encoder.channels else None for c in ("c4", "c3", "c2", "c1")]
        self.levels = [*names, None][: len(widths)]
        below = [encoder.channels["c5"], *widths]
        beside = [encoder.channels[level] if level else 0 for level in self.levels]
        self.decoder = nn.ModuleList(_Up(*channels) for channels in zip(below[:-1], beside, widths, strict=True))
        self.score = nn.Conv2d(widths[-1], num_classes, kernel, padding=kernel // 2)

    def forward(
        self, images: Tensor, targets: Targets | None = None, sizes: Sequence[Size] | None = None
    ) -> DenseOutput:
        """Class scores of every pixel.

        Args:
            images: ``(B, C, H, W)`` float in the range that the normalisation declares, any H and W.
            targets: not used; every model takes them.
            sizes: the true ``(H, W)`` of each image in a padded batch; ``None`` when all fill it.

        Returns:
            Logits ``(B, K, H, W)`` float32.

        Raises:
            ValueError: when the images have another number of channels or are integers.
        """
        padded = pad_to_multiple(self.normalize(images, sizes), math.lcm(32, self.encoder.size_divisibility))
        maps = self.encoder(padded)
        x = maps["c5"]  # (B, C5, H'/32, W'/32)
        for level, up in zip(self.levels, self.decoder, strict=True):
            x = up(x, maps[level] if level else None)  # twice the size
        logits = self.score(x)  # (B, K, H', W') or half of that
        if logits.shape[-2:] != padded.shape[-2:]:
            logits = upsample(logits, padded.shape[-2:])
        return DenseOutput(crop_to(logits, images.shape[-2:]).float())


class _Up(nn.Module):
    """Double the map by repeating its cells, lay the skip beside it, two 3×3 convolutions.

    Shape: ``(B, C, h, w)`` and ``(B, S, 2h, 2w)`` → ``(B, D, 2h, 2w)``.
    """

    def __init__(self, channels: int, skip: int, width: int) -> None:
        super().__init__()
        self.conv1 = Conv2dNormActivation(channels + skip, width, 3)
        self.conv2 = Conv2dNormActivation(width, width, 3)

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")  # (B, C, 2h, 2w)
        if skip is not None:
            x = torch.cat([x, skip], 1)  # (B, C + S, 2h, 2w)
        return self.conv2(self.conv1(x))


class PaperUNet(SemanticModel):
    """The paper's network: convolutions without padding, and reflect padding where the image ends.

    Each level has two 3×3 convolutions with ReLU. On the way down a 2×2 max pooling halves the map and the channels
    double; on the way up a 2×2 transposed convolution halves the channels, and the skip is cropped to the middle.
    Dropout lies at the end of the way down. Weights start with a standard deviation of √(2/N), N inputs of a neuron
    (section 3). There is no batch norm.

    With ``depth`` poolings an answer of n pixels needs ``n + 2 · margin`` pixels of input, and n must be
    ``size_rest`` above a multiple of 2^depth: 388 from 572 for a depth of 4. ``forward`` reflects and crops so that any
    size comes out.

    Args:
        num_classes: number of classes K.
        width: channels of the first level, 64 in the paper.
        depth: poolings, 4 in the paper.
        dropout: at the bottom and one level above; 0.5 is common, the paper names no number.
        overlapping: the classes are regions that may overlap, see :class:`~seglib.models.semantic.SemanticModel`.
        normalize: what is done to images first; a mean of ½ and a standard deviation of ¼ when not given. Its number of
            channels is that of the images.

    Attributes:
        margin: pixels that an answer is smaller than its input, on each side: 92 for a depth of 4.
        size_rest: what the answer's size leaves when it is divided by 2^depth: 4 for a depth of 4.

    Raises:
        ValueError: when ``num_classes`` is out of range, or width or depth is not positive.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        width: int = 64,
        depth: int = 4,
        dropout: float = 0.5,
        overlapping: bool = False,
        normalize: Normalize | None = None,
    ) -> None:
        super().__init__(num_classes, overlapping=overlapping)
        if width < 1 or depth < 1:
            raise ValueError(f"width and depth must be at least 1, got {width} and {depth}")
        self.normalize = normalize or Normalize(TINY_MEAN, TINY_STD)
        self.depth = depth
        self.margin, self.size_rest = valid_sizes(depth)
        widths = [width * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(
            _two_convs(a, b) for a, b in zip([len(self.normalize.mean), *widths[:-1]], widths, strict=True)
        )
        self.dropout = nn.Dropout(dropout)
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, stride=2) for w in reversed(widths[:-1]))
        self.merge = nn.ModuleList(_two_convs(2 * w, w) for w in reversed(widths[:-1]))
        self.score = nn.Conv2d(width, num_classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # these convolutions have a bias

    def forward(
        self, images: Tensor, targets: Targets | None = None, sizes: Sequence[Size] | None = None
    ) -> DenseOutput:
        """Class scores of every pixel; what lies beyond the image is its reflection.

        Args:
            images: ``(B, C, H, W)`` float in the range that the normalisation declares, any H and W.
            targets: not used; every model takes them.
            sizes: the true ``(H, W)`` of each image in a padded batch; ``None`` when all fill it.

        Returns:
            Logits ``(B, K, H, W)`` float32.

        Raises:
            ValueError: when the images have another number of channels or are integers.
        """
        height, width = images.shape[-2:]
        below, right = self._too_few(height), self._too_few(width)
        m = self.margin
        window = reflect_pad(self.normalize(images, sizes), (m, m + right, m, m + below))  # (B, C, H' + 2m, W' + 2m)
        return DenseOutput(self.valid(window)[..., :height, :width].float())

    def valid(self, window: Tensor) -> Tensor:
        """The network itself: scores of the middle of a window that is already normalised.

        Args:
            window: ``(B, 3, h + 2 · margin, w + 2 · margin)``; h and w are ``size_rest`` above a multiple of 2^depth.

        Returns:
            Logits ``(B, K, h, w)``.

        Raises:
            ValueError: for a window of another size, with the next sizes that fit.
        """
        for size in window.shape[-2:]:
            rest = self._too_few(size - 2 * self.margin)
            if rest or size <= 2 * self.margin:
                least = max(size + rest, 2 * self.margin + (self.size_rest or 2**self.depth))
                raise ValueError(f"a window of {size} pixels does not fit; the next that does has {least}")
        x, skips = window, []
        for level, convs in enumerate(self.down):
            x = convs(F.max_pool2d(x, 2) if level else x)
            if level >= self.depth - 1:
                x = self.dropout(x)
            skips.append(x)
        for skip, up, merge in zip(skips[-2::-1], self.up, self.merge, strict=True):
            x = up(x)  # (B, C, 2h, 2w)
            x = merge(torch.cat([crop_middle(skip, x.shape[2:]), x], 1))  # (B, C, 2h − 4, 2w − 4)
        return self.score(x)

    def overlap_tile(self, images: Tensor, tile: int) -> Tensor:
        """The logits of :meth:`forward` in evaluation mode, computed tile by tile (section 2, figure 2).

        Tiles begin at multiples of 2^depth, where the poolings of the whole image begin too, and each reads its
        margin from the image or its reflection. So the result is that of one big pass, whatever the tile's size,
        with the memory of one tile.

        Args:
            images: ``(B, 3, H, W)`` float in [0, 1].
            tile: the size of the tiles; they overlap by ``size_rest``.

        Returns:
            Logits ``(B, K, H, W)`` float32.

        Raises:
            ValueError: for a tile that is not ``size_rest`` above a positive multiple of 2^depth.
        """
        step = tile - self.size_rest
        if step < 2**self.depth or step % 2**self.depth:
            raise ValueError(
                f"a tile must be {self.size_rest} above a multiple of {2**self.depth}, got {tile}; "
                f"take {self.size_rest + max(1, step // 2**self.depth) * 2**self.depth}"
            )
        height, width = images.shape[-2:]
        m, reach = self.margin, tile + 2 * self.margin
        rows, columns = range(0, height, step), range(0, width, step)
        below, right = max(0, rows[-1] + tile - height), max(0, columns[-1] + tile - width)
        window = reflect_pad(self.normalize(images), (m, m + right, m, m + below))
        out = images.new_empty((len(images), self.num_classes, height, width), dtype=torch.float32)
        with evaluating(self):
            for top in rows:
                for left in columns:
                    found = self.valid(
                        window[..., top : top + reach, left : left + reach]
                    ).float()  # (B, K, tile, tile)
                    out[..., top : top + tile, left : left + tile] = found[..., : height - top, : width - left]
        return out

    def _too_few(self, size: int) -> int:
        """Pixels that an answer of ``size`` lacks to the next size that fits."""
        return (self.size_rest - size) % 2**self.depth


def _two_convs(channels_in: int, channels_out: int) -> nn.Sequential:
    """``(B, C, h, w)`` → ``(B, D, h − 4, w − 4)``."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels_out, channels_out, 3),
        nn.ReLU(inplace=True),
    )


def unet_resnet34(
    num_classes: int, *, in_channels: int = 3, overlapping: bool = False, pretrained: bool = False
) -> UNet:
    """The U-Net of segmentation_models.pytorch on ResNet-34, whose weights ``seglib convert`` takes.

    Args:
        num_classes: number of classes K.
        in_channels: channels of the images.
        overlapping: the classes are regions that may overlap, see :class:`~seglib.models.semantic.SemanticModel`.
        pretrained: start the encoder from torchvision's ImageNet weights.
    """
    return unet(
        num_classes, encoder="resnet34", in_channels=in_channels, overlapping=overlapping, pretrained=pretrained
    )


def unet_resnet50(
    num_classes: int, *, in_channels: int = 3, overlapping: bool = False, pretrained: bool = False
) -> UNet:
    """The U-Net of segmentation_models.pytorch on ResNet-50. Keywords as in :func:`unet_resnet34`."""
    return unet(
        num_classes, encoder="resnet50", in_channels=in_channels, overlapping=overlapping, pretrained=pretrained
    )


def unet(
    num_classes: int,
    *,
    encoder: str = "resnet34",
    in_channels: int = 3,
    overlapping: bool = False,
    pretrained: bool = False,
) -> UNet:
    """The U-Net to start with on your own data, on any encoder.

    Args:
        num_classes: number of classes K.
        encoder: name of the encoder, a ResNet, a Swin Transformer or a network of timm
            (:func:`~seglib.layers.named_encoder.named_encoder`).
        in_channels: channels of the images.
        overlapping: the classes are regions that may overlap, see :class:`~seglib.models.semantic.SemanticModel`.
        pretrained: start the encoder from its published ImageNet weights.
    """
    net = named_encoder(encoder, in_channels=in_channels, pretrained=pretrained)
    return UNet(net, num_classes, overlapping=overlapping, normalize=normalize_for(net, in_channels))


def unet_paper(
    num_classes: int,
    *,
    in_channels: int = 3,
    overlapping: bool = False,
    width: int = 64,
    depth: int = 4,
    dropout: float = 0.5,
) -> PaperUNet:
    """The paper's network.

    Args:
        num_classes: number of classes K.
        in_channels: channels of the images; the paper's, of cells, have one.
        overlapping: the classes are regions that may overlap, see :class:`~seglib.models.semantic.SemanticModel`.
        width: channels of the first level.
        depth: poolings.
        dropout: at the bottom and one level above.
    """
    normalize = Normalize.for_channels(in_channels, TINY_MEAN, TINY_STD)
    return PaperUNet(
        num_classes, width=width, depth=depth, dropout=dropout, overlapping=overlapping, normalize=normalize
    )


def unet_tiny(num_classes: int, *, in_channels: int = 3, overlapping: bool = False, skips: bool = True) -> UNet:
    """The form in use on the tiny encoder: learns the synthetic scenes on two CPU cores in about a minute and a half.

    Args:
        num_classes: number of classes K.
        in_channels: channels of the images.
        overlapping: the classes are regions that may overlap, see :class:`~seglib.models.semantic.SemanticModel`.
        skips: concatenate the encoder's maps.
    """
    return UNet(
        TinyEncoder(in_channels=in_channels),
        num_classes,
        widths=(64, 48, 32, 24),
        skips=skips,
        overlapping=overlapping,
        normalize=Normalize.for_channels(in_channels, TINY_MEAN, TINY_STD),
    )
