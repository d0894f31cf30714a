"""DeepLab v3 (Chen, Papandreou, Schroff, Adam, "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017)
and v3+ (Chen, Zhu, Papandreou, Schroff, Adam, "Encoder-Decoder with Atrous Separable Convolution for Semantic Image
Segmentation", ECCV 2018).

To see far a network strides, and loses where things are. Dilation ("atrous") sees as far without striding: the deepest
map keeps a stride of 8 or 16. Atrous spatial pyramid pooling then looks at that map with several dilations at once, for
things of several sizes, and at its mean, for the whole scene. v3 upsamples the scores at once; v3+ first joins them
with a shallow, finer map.

::

    image (B, 3, H, W)
      │ normalise
      ▼
    encoder, dilated ──── c2 stride 4 ─────────────────┐
      │                                                │ 1×1 to 48 channels
      c5 stride 8 or 16                                │
      │                                                │
      ▼                                                │
    ASPP (B, 256, H/s, W/s)                            │
      │                                                │
      ├──► v3: 3×3, scores ──────── upsample ──────► logits (B, K, H, W)
      │                                                │
      └──► v3+: upsample to stride 4 ─── concatenate ───┘
                                            │ 3×3, 3×3, scores, upsample
                                            ▼
                                        logits (B, K, H, W)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import Conv2dNormActivation

from seglib.layers.aspp import ASPP
from seglib.layers.conv import separable_conv_norm_activation
from seglib.layers.encoder import Encoder, normalize_for
from seglib.layers.grid import Grid
from seglib.layers.named_encoder import named_encoder
from seglib.layers.normalize import Normalize, pad_to_multiple
from seglib.layers.resnet import resnet_encoder
from seglib.layers.tiny import TINY_MEAN, TINY_STD, TinyEncoder
from seglib.models.keywords import hands_keywords_to
from seglib.models.semantic import SemanticModel, two_layer_head
from seglib.ops.resize import crop_to
from seglib.types import DenseOutput, Size, Targets

__all__ = [
    "DeepLabV3", "DeepLabV3Plus", "deeplab", "deeplab_tiny", "deeplabv3_resnet50", "deeplabv3_resnet101",
    "deeplabv3plus_resnet34", "deeplabv3plus_resnet50", "deeplabv3plus_resnet101",
]  # fmt: skip

IMAGE = Grid()
"""Where the image's own pixels lie."""

RATES = {16: (6, 12, 18), 8: (12, 24, 36)}
"""ASPP's rates by output stride: doubled at stride 8, where a cell is half as wide (v3, section 3.3)."""


class DeepLabV3(SemanticModel):
    """DeepLab v3: ASPP on the deepest map, a 3×3 convolution, scores, upsampled to the image.

    Args:
        encoder: gives ``c5`` with a stride of 8 or 16, and ``c4`` for the auxiliary head.
        num_classes: number of classes K.
        rates: dilation rates of ASPP's 3×3 branches.
        width: channels of each branch of ASPP and of its output.
        aux: add an FCN head on ``c4`` whose loss weighs 0.5. It is computed in every mode.
        dropout: after ASPP; the auxiliary head has 0.1.
        overlapping: the classes are regions that may overlap, see :class:`~seglib.models.semantic.SemanticModel`.
        normalize: what is done to images first; ImageNet's mean and standard deviation when not given.

    Raises:
        ValueError: when ``num_classes`` or a rate is out of range.
    """

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        *,
        rates: Sequence[int],
        width: int = 256,
        aux: bool = False,
        dropout: float = 0.5,
        overlapping: bool = False,
        normalize: Normalize | None = None,
    ) -> None:
        super().__init__(num_classes, overlapping=overlapping)
        self.normalize = normalize or Normalize()
        self.encoder = encoder
        self.head = nn.Sequential(
            ASPP(encoder.channels["c5"], width, rates, dropout=dropout),
            *Conv2dNormActivation(width, width, 3),
            nn.Conv2d(width, num_classes, 1),
        )
        self.aux_head = two_layer_head(encoder.channels["c4"], num_classes) if aux else None

    def forward(
        self, images: Tensor, targets: Targets | None = None, sizes: Sequence[Size] | None = None
    ) -> DenseOutput:
        """Class scores of every pixel.

        Args:
            images: ``(B, C, H, W)`` float in the range that the normalisation declares, any H and W.
            targets: not used; every model takes them.
            sizes: the true ``(H, W)`` of each image in a padded batch; ``None`` when all fill it.

        Returns:
            Logits ``(B, K, H, W)`` float32, and those of the auxiliary head if there is one.

        Raises:
            ValueError: when the images have another number of channels or are integers.
        """
        size = images.shape[-2:]
        padded = pad_to_multiple(self.normalize(images, sizes), self.encoder.size_divisibility)  # (B, 3, H', W')
        maps = self.encoder(padded)
        logits = crop_to(_upsample_aligned(self.head(maps["c5"]), self.encoder.grids["c5"], padded), size)
        if self.aux_head is None:
            return DenseOutput(logits.float())
        aux = crop_to(_upsample_aligned(self.aux_head(maps["c4"]), self.encoder.grids["c4"], padded), size)
        return DenseOutput(logits.float(), (aux.float(),))


class DeepLabV3Plus(SemanticModel):
    """DeepLab v3+: ASPP, upsampled, beside a shallow map; convolutions over both; scores, upsampled to the image.

    Args:
        encoder: gives ``c5`` with a stride of 8 or 16, and the shallow map.
        num_classes: number of classes K.
        rates: dilation rates of ASPP's 3×3 branches.
        low_level: the shallow map.
        low_width: its channels when it joins: few, lest they outweigh ASPP's (v3+, table 1).
        width: channels of ASPP and of the decoder.
        separable: use atrous separable convolutions in ASPP and in the decoder, else plain ones.
        before: 3×3 convolutions between ASPP and the upsampling.
        after: 3×3 convolutions over the concatenated maps (v3+, table 2, finds two best).
        align_corners: how both upsamplings lay their cells: ``False`` keeps half-pixel centres, ``True`` puts corner
            cells over corner cells, as segmentation_models.pytorch does.
        dropout: after ASPP.
        overlapping: the classes are regions that may overlap, see :class:`~seglib.models.semantic.SemanticModel`.
        normalize: what is done to images first; ImageNet's mean and standard deviation when not given.

    Raises:
        ValueError: when ``num_classes`` or a rate is out of range, or the encoder has no such map.
    """

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        *,
        rates: Sequence[int],
        low_level: str = "c2",
        low_width: int = 48,
        width: int = 256,
        separable: bool = True,
        before: int = 0,
        after: int = 2,
        align_corners: bool = False,
        dropout: float = 0.5,
        overlapping: bool = False,
        normalize: Normalize | None = None,
    ) -> None:
        super().__init__(num_classes, overlapping=overlapping)
        if low_level not in encoder.channels:
            raise ValueError(f"the encoder has no map {low_level!r}; choose one of {', '.join(encoder.channels)}")
        self.normalize = normalize or Normalize()
        self.encoder = encoder
        self.low_level = low_level
        self.align_corners = align_corners
        conv = separable_conv_norm_activation if separable else Conv2dNormActivation
        aspp = ASPP(encoder.channels["c5"], width, rates, separable=separable, dropout=dropout)
        self.aspp = nn.Sequential(aspp, *(conv(width, width) for _ in range(before)))
        self.low = Conv2dNormActivation(encoder.channels[low_level], low_width, 1)
        joined = [width + low_width] + [width] * after
        self.decoder = nn.Sequential(*(conv(a, b) for a, b in zip(joined[:-1], joined[1:], strict=True)))
        self.score = nn.Conv2d(joined[-1], num_classes, 1)

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
        size = images.shape[-2:]
        padded = pad_to_multiple(self.normalize(images, sizes), self.encoder.size_divisibility)  # (B, 3, H', W')
        maps, grids = self.encoder(padded), self.encoder.grids
        low = self.low(maps[self.low_level])  # (B, 48, H/4, W/4)
        x = _upsample_aligned(
            self.aspp(maps["c5"]), grids["c5"], low, grids[self.low_level], self.align_corners
        )  # (B, 256, H/4, W/4)
        x = self.decoder(torch.cat([x, low], 1))  # (B, 256, H/4, W/4)
        logits = _upsample_aligned(
            self.score(x), grids[self.low_level], padded, IMAGE, self.align_corners
        )  # (B, K, H', W')
        return DenseOutput(crop_to(logits, size).float())


def _upsample_aligned(x: Tensor, grid: Grid, over: Tensor, target: Grid = IMAGE, align_corners: bool = False) -> Tensor:
    """``x`` upsampled bilinearly to the height and width of ``over``.

    Interpolation takes for granted that a cell lies in the middle of the pixels that it stands for. Where the grids say
    that the cells lie a whole number of target cells behind that, as in the dilated tiny encoder, the result is moved
    there. A ResNet's cells lie a fraction of a cell before it, which all DeepLabs let pass.
    """
    height, width = over.shape[-2:]
    factor = grid.stride / target.stride
    move = (grid.offset - target.offset) / target.stride - (factor - 1) / 2
    if move <= 0 or not move.is_integer():
        return F.interpolate(x, (height, width), mode="bilinear", align_corners=align_corners)
    rim = int(factor)
    # A cell more in front, to be cut off again but for `move`. Not F.pad(mode="replicate"): compiled for a CPU, its
    # backward pass fails on maps in channels_last.
    x = torch.cat([x[..., :1], x], -1)
    x = torch.cat([x[..., :1, :], x], -2)
    x = F.interpolate(x, (height + rim, width + rim), mode="bilinear", align_corners=align_corners)
    return x[..., rim - int(move) :, rim - int(move) :][..., :height, :width]


def _v3(
    name: str,
    num_classes: int,
    *,
    in_channels: int = 3,
    overlapping: bool = False,
    output_stride: int = 8,
    multi_grid: Sequence[int] | None = None,
    aux: bool = True,
    dropout: float = 0.5,
    pretrained: bool = False,
) -> DeepLabV3:
    encoder = resnet_encoder(
        name,
        in_channels=in_channels,
        output_stride=output_stride,
        multi_grid=multi_grid,
        levels=("c4", "c5") if aux else ("c5",),
        pretrained=pretrained,
    )
    normalize = Normalize.for_channels(in_channels)
    normalize.channels_last = False  # the weights of ASPP would be copied at each call
    return DeepLabV3(
        encoder, num_classes, rates=_rates(output_stride), aux=aux, dropout=dropout, overlapping=overlapping,
        normalize=normalize,
    )  # fmt: skip


@hands_keywords_to(_v3)
def deeplabv3_resnet50(num_classes: int, **keywords: Any) -> DeepLabV3:  # noqa: D417 (the keywords are those of the helper)
    """The ``deeplabv3_resnet50`` of torchvision, whose published weights ``seglib convert`` turns into its own.

    Args:
        num_classes: number of classes K.
        in_channels: channels of the images.
        overlapping: the classes are regions that may overlap, see :class:`~seglib.models.semantic.SemanticModel`.
        output_stride: 8 as in torchvision, or 16, a quarter of the work.
        multi_grid: factors on the dilations of the last stage's blocks; (1, 2, 4) in the paper's best model, none in
            torchvision.
        aux: add the auxiliary head.
        dropout: after ASPP.
        pretrained: start the encoder from torchvision's ImageNet weights.
    """
    return _v3("resnet50", num_classes, **keywords)


@hands_keywords_to(_v3)
def deeplabv3_resnet101(num_classes: int, **keywords: Any) -> DeepLabV3:
    """The ``deeplabv3_resnet101`` of torchvision. Keywords as in :func:`deeplabv3_resnet50`."""
    return _v3("resnet101", num_classes, **keywords)


Layout = Literal["paper", "smp"]

SMP_LAYOUT: dict[str, Any] = {"rates": (12, 24, 36), "before": 1, "after": 1, "align_corners": True}
"""What :class:`DeepLabV3Plus` is told to have the layout of segmentation_models.pytorch."""


def _v3plus(
    name: str,
    num_classes: int,
    *,
    in_channels: int = 3,
    overlapping: bool = False,
    output_stride: int = 16,
    layout: Layout = "paper",
    dropout: float = 0.5,
    pretrained: bool = False,
) -> DeepLabV3Plus:
    if layout not in ("paper", "smp"):
        raise ValueError(f"layout is 'paper' or 'smp', got {layout!r}")
    keywords: dict[str, Any] = {"rates": _rates(output_stride)} | (SMP_LAYOUT if layout == "smp" else {})
    of_resnets = {"first_keeps": False} if layout == "smp" else {}
    encoder = named_encoder(
        name,
        in_channels=in_channels,
        output_stride=output_stride,
        levels=("c2", "c5"),
        pretrained=pretrained,
        **of_resnets,
    )
    normalize = normalize_for(encoder, in_channels)
    normalize.channels_last = False  # its depthwise convolutions of 2,048 channels are a tenth slower so
    return DeepLabV3Plus(
        encoder, num_classes, **keywords, dropout=dropout, overlapping=overlapping, normalize=normalize
    )


@hands_keywords_to(_v3plus)
def deeplabv3plus_resnet34(num_classes: int, **keywords: Any) -> DeepLabV3Plus:
    """DeepLab v3+ on ResNet-34. Keywords as in :func:`deeplabv3plus_resnet50`."""
    return _v3plus("resnet34", num_classes, **keywords)


@hands_keywords_to(_v3plus)
def deeplabv3plus_resnet50(num_classes: int, **keywords: Any) -> DeepLabV3Plus:  # noqa: D417 (the keywords are those of the helper)
    """DeepLab v3+ on ResNet-50.

    Args:
        num_classes: number of classes K.
        in_channels: channels of the images.
        overlapping: the classes are regions that may overlap, see :class:`~seglib.models.semantic.SemanticModel`.
        output_stride: 16 or 8.
        layout: "paper": rates (6, 12, 18), doubled at stride 8, and two convolutions in the decoder. "smp" is that of
            segmentation_models.pytorch, whose weights ``seglib convert`` takes: rates (12, 24, 36) at any stride, one
            convolution before and one behind the upsampling, corner cells over corner cells, and every convolution of
            a dilated stage dilated alike.
        dropout: after ASPP.
        pretrained: start the encoder from torchvision's ImageNet weights.

    Raises:
        ValueError: for another output stride or layout.
    """
    return _v3plus("resnet50", num_classes, **keywords)


@hands_keywords_to(_v3plus)
def deeplabv3plus_resnet101(num_classes: int, **keywords: Any) -> DeepLabV3Plus:
    """DeepLab v3+ on ResNet-101. Keywords as in :func:`deeplabv3plus_resnet50`."""
    return _v3plus("resnet101", num_classes, **keywords)


def deeplab(
    num_classes: int,
    *,
    encoder: str = "resnet50",
    in_channels: int = 3,
    overlapping: bool = False,
    output_stride: int = 16,
    layout: Layout = "paper",
    dropout: float = 0.5,
    pretrained: bool = False,
) -> DeepLabV3Plus:
    """The DeepLab to start with on your own data: v3+ on any encoder that can be dilated.

    Args:
        num_classes: number of classes K.
        encoder: name of the encoder, a ResNet, a Swin Transformer or a network of timm
            (:func:`~seglib.layers.named_encoder.named_encoder`).
        in_channels: channels of the images.
        overlapping: the classes are regions that may overlap, see :class:`~seglib.models.semantic.SemanticModel`.
        output_stride: 16 or 8.
        layout: "paper" or "smp", see :func:`deeplabv3plus_resnet50`.
        dropout: after ASPP.
        pretrained: start the encoder from its published ImageNet weights.

    Raises:
        ValueError: for another output stride or layout.
    """
    return _v3plus(
        encoder,
        num_classes,
        in_channels=in_channels,
        overlapping=overlapping,
        output_stride=output_stride,
        layout=layout,
        dropout=dropout,
        pretrained=pretrained,
    )


def _rates(output_stride: int) -> tuple[int, ...]:
    if output_stride not in RATES:
        raise ValueError(f"output_stride must be 16 or 8, got {output_stride}")
    return RATES[output_stride]


TINY_RATES = {32: (1, 2, 3), 16: (1, 2, 4), 8: (2, 4, 6)}
"""Scenes are small: at output stride 8 their maps have 16 cells a side."""


def deeplab_tiny(
    num_classes: int,
    *,
    in_channels: int = 3,
    overlapping: bool = False,
    output_stride: int = 8,
    decoder: bool = True,
) -> DeepLabV3Plus | DeepLabV3:
    """DeepLab on the tiny encoder: learns the synthetic scenes on two CPU cores in about a minute and a half.

    Args:
        num_classes: number of classes K.
        in_channels: channels of the images.
        overlapping: the classes are regions that may overlap, see :class:`~seglib.models.semantic.SemanticModel`.
        output_stride: 32, 16 or 8.
        decoder: the decoder of v3+, which joins the map of stride 4; without it, v3.

    Raises:
        ValueError: for another output stride.
    """
    encoder = TinyEncoder(in_channels=in_channels, output_stride=output_stride)
    common: dict[str, Any] = {
        "rates": TINY_RATES[output_stride],
        "width": 64,
        "dropout": 0.1,
        "overlapping": overlapping,
        "normalize": Normalize.for_channels(in_channels, TINY_MEAN, TINY_STD),
    }
    if decoder:
        return DeepLabV3Plus(encoder, num_classes, low_width=24, **common)
    return DeepLabV3(encoder, num_classes, **common)
