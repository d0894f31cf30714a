"""Fully convolutional networks (Long, Shelhamer, Darrell, "Fully Convolutional Networks for Semantic Segmentation",
CVPR 2015; Shelhamer, Long, Darrell, PAMI 2017).

A classifier's fully connected layers are convolutions in disguise: applied at every place of a larger image they give
a coarse map of class scores instead of one answer. Transposed convolutions that start as bilinear interpolation bring
the map back to the size of the image. Deep maps know what but not where, so scores of shallower, finer maps (skips)
are added on the way up: FCN-32s has none, FCN-16s one, FCN-8s two.

::

    image (B, 3, H, W)
      │ normalise
      ▼
    encoder ──────────┬──────────────────┬──────────────────┐
                      c3 stride 8        c4 stride 16       c5 stride 32
                      │ 1×1 score        │ 1×1 score        │ 1×1 score      (B, K, ·, ·)
                      │                  ▼                  │
                      │           crop ─ + ◄── ×2 upsample ─┘                FCN-16s
                      ▼                  │
               crop ─ + ◄── ×2 upsample ─┘                                   FCN-8s
                      │ ×8 upsample, crop
                      ▼
    logits (B, K, H, W)

The second form, of torchvision, has no skips: a ResNet whose last two stages are dilated instead of strided, so that
c5 has stride 8 already, and a head of two convolutions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from seglib.layers.encoder import Encoder, normalize_for
from seglib.layers.grid import Grid
from seglib.layers.named_encoder import named_encoder
from seglib.layers.normalize import Normalize, pad_to_multiple
from seglib.layers.resnet import resnet_encoder
from seglib.layers.tiny import TINY_MEAN, TINY_STD, TinyEncoder
from seglib.layers.upsample import BilinearUpsample
from seglib.layers.vgg import VGG16Encoder, convolutionalize
from seglib.models.keywords import hands_keywords_to
from seglib.models.semantic import SemanticModel, two_layer_head, upsample
from seglib.types import DenseOutput, Size, Targets

__all__ = [
    "FCN", "DilatedFCN", "convolutionalize", "fcn", "fcn8s", "fcn16s", "fcn32s",
    "fcn_resnet18", "fcn_resnet50", "fcn_resnet101", "fcn_tiny",
]  # fmt: skip


class FCN(SemanticModel):
    """The skip form, over any encoder: scores of c5 upsampled to c4, added, to c3, added, …, then to the image.

    Where a map's cells lie follows from the encoder's kernels, strides and paddings (:class:`Grid`). From that come the
    crops that lay centre over centre at each sum, and the kernel of each upsampling: 2f where the fine cells lie
    between the coarse ones (VGG, tiny), 2f − 1 where they coincide (ResNet). All transposed convolutions are learnable
    and all score layers start at zero, as in the paper; so before training every logit is 0.

    Args:
        encoder: gives the maps.
        num_classes: number of classes K.
        stride: stride of the finest map that is scored, e.g. 32, 16 or 8 for FCN-32s, -16s, -8s.
        overlapping: the classes are regions that may overlap, see :class:`~seglib.models.semantic.SemanticModel`.
        normalize: what is done to images first; ImageNet's mean and standard deviation when not given.

    Attributes:
        levels: the scored maps, coarsest first.
        crops: where the map of each level (``image`` for the last) begins in the upsampled one, in cells. Where the
            number is negative, it is the upsampled map that begins inside.

    Raises:
        ValueError: when the encoder has no map of that stride or ``num_classes`` is out of range.
    """

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        *,
        stride: int,
        overlapping: bool = False,
        normalize: Normalize | None = None,
    ) -> None:
        super().__init__(num_classes, overlapping=overlapping)
        strides = {int(grid.stride): level for level, grid in encoder.grids.items()}
        if stride not in strides:
            raise ValueError(f"stride must be that of one of the encoder's maps, {sorted(strides)}; got {stride}")
        self.normalize = normalize or Normalize()
        self.encoder = encoder
        self.levels = [level for level, grid in reversed(encoder.grids.items()) if grid.stride >= stride]  # c5, c4, …
        self.score = nn.ModuleDict({level: _zero_score(encoder.channels[level], num_classes) for level in self.levels})
        self.upsample = nn.ModuleDict()
        self.crops: dict[str, int] = {}
        grid = encoder.grids[self.levels[0]]
        targets = {level: encoder.grids[level] for level in self.levels[1:]} | {"image": Grid()}
        for level, target in targets.items():
            factor = int(grid.stride / target.stride)
            kernel = _meeting_kernel(grid, target)
            self.upsample[level] = BilinearUpsample(num_classes, factor, kernel_size=kernel, padding=0)
            grid = grid.transposed(kernel, factor)
            self.crops[level] = crop = int(grid.cells_to(target))
            grid = target if crop > 0 else grid  # the sum begins where the later of the two begins

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
        height, width = images.shape[-2:]
        maps = self.encoder(pad_to_multiple(self.normalize(images, sizes), self.encoder.size_divisibility))
        deepest, *finer = self.levels
        score = self.score[deepest](maps[deepest])  # (B, K, H/32, W/32)
        for level in finer:
            score = self.upsample[level](score)  # (B, K, H/s, W/s) and a margin
            score = _add_aligned(score, self.score[level](maps[level]), self.crops[level])  # (B, K, H/s, W/s)
        score = self.upsample["image"](score)  # (B, K, H, W) and a margin
        top = self.crops["image"]
        return DenseOutput(score[..., top : top + height, top : top + width].float())


def _zero_score(channels: int, num_classes: int) -> nn.Conv2d:
    """A 1×1 convolution that scores each cell for each class, all zero at the start."""
    conv = nn.Conv2d(channels, num_classes, 1)
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]  # these convolutions have a bias
    return conv


def _meeting_kernel(grid: Grid, target: Grid) -> int:
    """The bilinear kernel after which the upsampled cells of ``grid`` meet those of ``target``."""
    factor = int(grid.stride / target.stride)
    for kernel in (2 * factor, 2 * factor - 1):
        if grid.transposed(kernel, factor).cells_to(target).is_integer():
            return kernel
    raise ValueError(f"no bilinear kernel lays the cells of {grid} on those of {target}; change the encoder's paddings")


def _add_aligned(upsampled: Tensor, skip: Tensor, begin: int) -> Tensor:
    """The sum of two maps ``(B, K, ·, ·)`` over the cells that they share; ``skip`` begins at ``upsampled[begin]``."""
    if begin > 0:
        height, width = skip.shape[-2:]
        return upsampled[..., begin : begin + height, begin : begin + width] + skip
    height, width = upsampled.shape[-2:]
    return upsampled + skip[..., -begin : -begin + height, -begin : -begin + width]


class DilatedFCN(SemanticModel):
    """The form of torchvision's ``fcn_resnet50``: a dilated ResNet, a head on c5 and an auxiliary one on c4.

    The last two stages dilate their convolutions instead of striding, which keeps c4 and c5 at stride 8 with the same
    weights and the same receptive field (Chen et al. 2015; Yu and Koltun 2016). The logits are resized to the input's
    size by plain interpolation, so any size works without padding.

    Args:
        encoder: gives ``c4`` and ``c5``.
        num_classes: number of classes K.
        aux: add the auxiliary head. It is computed in every mode and weighs 0.5 in the loss.
        dropout: in both heads.
        overlapping: the classes are regions that may overlap, see :class:`~seglib.models.semantic.SemanticModel`.
        normalize: what is done to images first; ImageNet's mean and standard deviation when not given.

    Raises:
        ValueError: when ``num_classes`` is out of range.
    """

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        *,
        aux: bool = True,
        dropout: float = 0.1,
        overlapping: bool = False,
        normalize: Normalize | None = None,
    ) -> None:
        super().__init__(num_classes, overlapping=overlapping)
        self.normalize = normalize or Normalize()
        self.encoder = encoder
        self.head = two_layer_head(encoder.channels["c5"], num_classes, dropout)
        self.aux_head = two_layer_head(encoder.channels["c4"], num_classes, dropout) if aux else None

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
        maps = self.encoder(self.normalize(images, sizes))
        logits = upsample(self.head(maps["c5"]), size)  # (B, K, H/8, W/8) → (B, K, H, W)
        aux = () if self.aux_head is None else (upsample(self.aux_head(maps["c4"]), size),)
        return DenseOutput(logits, aux)


def _on_vgg(
    stride: int,
    num_classes: int,
    *,
    in_channels: int = 3,
    overlapping: bool = False,
    hidden: int = 4096,
    dropout: float = 0.5,
    pretrained: bool = False,
) -> FCN:
    encoder = VGG16Encoder(in_channels=in_channels, hidden=hidden, dropout=dropout, pretrained=pretrained)
    normalize = Normalize.for_channels(in_channels)
    return FCN(encoder, num_classes, stride=stride, overlapping=overlapping, normalize=normalize)


@hands_keywords_to(_on_vgg)
def fcn32s(num_classes: int, **keywords: Any) -> FCN:  # noqa: D417 (the keywords are those of the helper)
    """The paper's FCN-32s on VGG-16: no skips.

    Args:
        num_classes: number of classes K.
        in_channels: channels of the images.
        overlapping: the classes are regions that may overlap, see :class:`~seglib.models.semantic.SemanticModel`.
        hidden: channels of fc6 and fc7.
        dropout: probability that a channel of fc6 or fc7 is dropped in training.
        pretrained: start from torchvision's ImageNet weights, those of fc6 and fc7 included.

    Raises:
        ValueError: when ``pretrained`` is asked for with another width than 4096.
    """
    return _on_vgg(32, num_classes, **keywords)


@hands_keywords_to(_on_vgg)
def fcn16s(num_classes: int, **keywords: Any) -> FCN:
    """The paper's FCN-16s on VGG-16: one skip, from pool4. Keywords as in :func:`fcn32s`."""
    return _on_vgg(16, num_classes, **keywords)


@hands_keywords_to(_on_vgg)
def fcn8s(num_classes: int, **keywords: Any) -> FCN:
    """The paper's FCN-8s on VGG-16: skips from pool4 and pool3. Keywords as in :func:`fcn32s`."""
    return _on_vgg(8, num_classes, **keywords)


def fcn_resnet18(
    num_classes: int,
    *,
    in_channels: int = 3,
    overlapping: bool = False,
    stride: int = 8,
    pretrained: bool = False,
) -> FCN:
    """The skip form on torchvision's ResNet-18, which batch norm lets train from scratch.

    Args:
        num_classes: number of classes K.
        in_channels: channels of the images.
        overlapping: the classes are regions that may overlap, see :class:`~seglib.models.semantic.SemanticModel`.
        stride: stride of the finest map that is scored: 32, 16, 8, 4 or 2.
        pretrained: start from torchvision's ImageNet weights.
    """
    return fcn(
        num_classes, encoder="resnet18", in_channels=in_channels, overlapping=overlapping, stride=stride,
        pretrained=pretrained,
    )  # fmt: skip


def fcn(
    num_classes: int,
    *,
    encoder: str = "resnet18",
    in_channels: int = 3,
    overlapping: bool = False,
    stride: int = 8,
    pretrained: bool = False,
) -> FCN:
    """The FCN to start with on your own data: the skip form on any encoder.

    Args:
        num_classes: number of classes K.
        encoder: name of the encoder, a ResNet, a Swin Transformer or a network of timm
            (:func:`~seglib.layers.named_encoder.named_encoder`).
        in_channels: channels of the images.
        overlapping: the classes are regions that may overlap, see :class:`~seglib.models.semantic.SemanticModel`.
        stride: stride of the finest map that is scored: 32, 16, 8, 4 or 2.
        pretrained: start the encoder from its published ImageNet weights.
    """
    net = named_encoder(encoder, in_channels=in_channels, pretrained=pretrained)
    normalize = normalize_for(net, in_channels)
    return FCN(net, num_classes, stride=stride, overlapping=overlapping, normalize=normalize)


def _dilated(
    name: str,
    num_classes: int,
    *,
    in_channels: int = 3,
    overlapping: bool = False,
    aux: bool = True,
    dropout: float = 0.1,
    pretrained: bool = False,
) -> DilatedFCN:
    levels = ("c4", "c5") if aux else ("c5",)
    encoder = resnet_encoder(name, in_channels=in_channels, output_stride=8, levels=levels, pretrained=pretrained)
    normalize = Normalize.for_channels(in_channels)
    normalize.channels_last = False  # little faster so, and the head's weights would be copied at each call
    return DilatedFCN(encoder, num_classes, aux=aux, dropout=dropout, overlapping=overlapping, normalize=normalize)


@hands_keywords_to(_dilated)
def fcn_resnet50(num_classes: int, **keywords: Any) -> DilatedFCN:  # noqa: D417 (the keywords are those of the helper)
    """The ``fcn_resnet50`` of torchvision, whose published weights ``seglib convert`` turns into its own.

    Args:
        num_classes: number of classes K.
        in_channels: channels of the images.
        overlapping: the classes are regions that may overlap, see :class:`~seglib.models.semantic.SemanticModel`.
        aux: add the auxiliary head.
        dropout: in the heads.
        pretrained: start the encoder from torchvision's ImageNet weights.
    """
    return _dilated("resnet50", num_classes, **keywords)


@hands_keywords_to(_dilated)
def fcn_resnet101(num_classes: int, **keywords: Any) -> DilatedFCN:
    """The ``fcn_resnet101`` of torchvision. Keywords as in :func:`fcn_resnet50`."""
    return _dilated("resnet101", num_classes, **keywords)


def fcn_tiny(num_classes: int, *, in_channels: int = 3, overlapping: bool = False, stride: int = 4) -> FCN:
    """The skip form on the tiny encoder: learns the synthetic scenes on two CPU cores in about a minute.

    Args:
        num_classes: number of classes K.
        in_channels: channels of the images.
        overlapping: the classes are regions that may overlap, see :class:`~seglib.models.semantic.SemanticModel`.
        stride: stride of the finest map that is scored: 32, 16, 8, 4 or 2. At 4, things of a few pixels survive.
    """
    encoder = TinyEncoder(in_channels=in_channels)
    normalize = Normalize.for_channels(in_channels, TINY_MEAN, TINY_STD)
    return FCN(encoder, num_classes, stride=stride, overlapping=overlapping, normalize=normalize)
