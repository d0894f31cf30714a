"""nnU-Net's network (Isensee, Jaeger, Kohl, Petersen, Maier-Hein, "nnU-Net: a self-configuring method for deep
learning-based biomedical image segmentation", Nature Methods 2021; residual encoders: Isensee et al., "nnU-Net
Revisited", MICCAI 2024).

The network is a U-Net without any invention of its own. What is new is that a plan, made from the data, sets its
numbers: how many levels there are, along which axes each one strides, and how large its kernels are.

::

    volume ── (stem) ── level 0 ─────────────────────────► concat ── convs ── scores       weight 1
                           │ stride                          ▲
                           level 1 ─────────────► concat ── convs ── aux scores            weight ½
                             │ stride               ▲
                             level 2 ──► concat ── convs ── aux scores                     weight 0: the lowest
                               │ stride    ▲
                               level 3 ────┘

A level on the way down is a stack of convolutions (plain) or of residual blocks (residual encoder), the first of which
strides. On the way up a transposed convolution whose kernel is its stride undoes it, and convolutions with the kernel
of the level follow. Each level of the way up has scores (deep supervision). In two dimensions every slice of a volume
goes through 2D layers on its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seglib.layers.volume import (
    AVERAGE_POOL,
    CONV,
    SLOPE,
    UP_CONV,
    InstanceNorm,
    any_values,
    conv_norm,
    conv_stack,
    he_initialize,
    sizes_per_axis,
)
from seglib.losses.combined import nnunet_loss
from seglib.models.semantic import DeeplySupervised
from seglib.ops.resize import crop_to
from seglib.types import DenseOutput, Size, Targets

__all__ = ["NNUNet", "ResidualBlock", "nnunet", "nnunet_tiny"]

LAYERS: dict[str, Any] = {"bias": True, "norm": InstanceNorm}
"""What nnU-Net's convolutions have, but those of skips, which have no bias."""


class NNUNet(DeeplySupervised):
    """The network of a plan, plain or with a residual encoder, for volumes or for their slices.

    Args:
        num_classes: number of classes K.
        in_channels: channels of the volumes: modalities, for most.
        dims: 3, or 2 for a network that sees each slice of a volume on its own.
        widths: channels of each level, the finest first.
        kernels: kernel size of each level, ``dims`` odd numbers; 3 everywhere when not given.
        strides: stride with which each level but the first is entered; 2 everywhere when not given.
        blocks: convolutions of each level on the way down, or residual blocks; when not given 2 convolutions, or 1, 3,
            4 and then 6 blocks.
        decoder_blocks: convolutions of each level on the way up, the finest level first, one fewer; when not given 2,
            or 1 with a residual encoder.
        residual: residual blocks on the way down.
        aux_outputs: number of auxiliary outputs. ``None`` is one for every level of the way up but the finest. They
            weigh ½, ¼, … of the main one in the loss; that of the lowest level weighs 0; the sum of all weights is 1.
        batch_dice: the Dice loss counts voxels over the whole batch instead of within each patch.
        overlapping: the classes are regions that may overlap, see :class:`~seglib.models.semantic.SemanticModel`.

    Raises:
        ValueError: when ``num_classes`` or ``dims`` is out of range, the numbers of the levels don't fit each other, or
            there are more auxiliary outputs than levels.

    Shape: ``(B, C, D, H, W)`` of any D, H and W, in two dimensions as well. Source: the networks of nnU-Net v2, whose
    weights ``seglib convert`` takes.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        in_channels: int = 1,
        dims: int = 3,
        widths: Sequence[int],
        kernels: Sequence[Sequence[int]] | None = None,
        strides: Sequence[Sequence[int]] | None = None,
        blocks: Sequence[int] | None = None,
        decoder_blocks: Sequence[int] | None = None,
        residual: bool = False,
        aux_outputs: int | None = None,
        batch_dice: bool = False,
        overlapping: bool = False,
    ) -> None:
        super().__init__(num_classes, overlapping=overlapping)
        if dims not in CONV:
            raise ValueError(f"dims is 2 for slices and 3 for volumes, got {dims}")
        levels = len(widths)
        kernels = [(3,) * dims] * levels if kernels is None else sizes_per_axis("kernel", kernels, dims)
        strides = [(2,) * dims] * (levels - 1) if strides is None else sizes_per_axis("stride", strides, dims)
        if blocks is None:
            blocks = [1, 3, 4, *[6] * levels][:levels] if residual else [2] * levels
        decoder_blocks = [1 if residual else 2] * (levels - 1) if decoder_blocks is None else decoder_blocks
        counts = len(kernels), len(strides), len(blocks), len(decoder_blocks)
        if levels < 2 or counts != (levels, levels - 1, levels, levels - 1):
            raise ValueError(
                f"{levels} widths need as many kernels and blocks, and one stride and one decoder block fewer, and "
                f"there are two levels at least; got {counts[0]} kernels, {counts[2]} blocks, {counts[1]} strides, "
                f"{counts[3]} decoder blocks"
            )
        if min(*blocks, *decoder_blocks) < 1:
            raise ValueError(f"every level has 1 block at least, got {tuple(blocks)} and {tuple(decoder_blocks)}")
        aux_outputs = levels - 2 if aux_outputs is None else aux_outputs
        if not 0 <= aux_outputs < levels - 1:
            raise ValueError(f"{levels} levels have 0..{levels - 2} auxiliary outputs, got {aux_outputs}")
        self.normalize = any_values(in_channels)
        self.dims = dims
        self.total_stride: Size = tuple(math.prod(s[axis] for s in strides) for axis in range(dims))
        self.aux_weights = tuple(0.0 if i == levels - 2 else 0.5**i for i in range(1, aux_outputs + 1))
        self.criterion = partial(nnunet_loss, batch_dice=batch_dice)

        stack: Callable[..., nn.Module] = _residual_blocks if residual else partial(conv_stack, **LAYERS)
        self.stem = conv_stack(in_channels, widths[0], kernels[0], count=1, **LAYERS) if residual else nn.Sequential()
        below = [widths[0] if residual else in_channels, *widths[:-1]]
        entries = [(1,) * dims, *strides]
        self.encoder = nn.ModuleList(
            stack(a, b, kernel, stride, count=count)
            for a, b, kernel, stride, count in zip(below, widths, kernels, entries, blocks, strict=True)
        )
        # the way up, from the deepest level to the finest, with the kernels of the way down
        ways_up = list(zip(widths[1:], widths[:-1], strides, kernels[:-1], decoder_blocks, strict=True))[::-1]
        self.up = nn.ModuleList(UP_CONV[dims](a, b, stride, stride) for a, b, stride, _, _ in ways_up)
        self.decoder = nn.ModuleList(
            conv_stack(2 * b, b, kernel, count=count, **LAYERS) for _, b, _, kernel, count in ways_up
        )
        self.score = CONV[dims](widths[0], num_classes, 1)
        self.aux_scores = nn.ModuleList(CONV[dims](w, num_classes, 1) for w in widths[1 : aux_outputs + 1])
        he_initialize(self)

    def forward(
        self, images: Tensor, targets: Targets | None = None, sizes: Sequence[Size] | None = None
    ) -> DenseOutput:
        """Class scores of every voxel, and those of coarser levels.

        Args:
            images: ``(B, C, D, H, W)`` float, prepared as ``model.preparation`` or ``model.intensity`` says; any D, H
                and W.
            targets: not used; every model takes them.
            sizes: the true ``(D, H, W)`` of each volume in a padded batch; ``None`` when all fill it.

        Returns:
            Logits ``(B, K, D, H, W)`` float32, and the auxiliary ones, the finest first.

        Raises:
            ValueError: when the volumes have another number of channels or axes, or are integers.
        """
        x = self.normalize(images, sizes)
        if self.dims == 2:
            x = x.transpose(1, 2).flatten(0, 1)  # (B · D, C, H, W)
        x = self.stem(F.pad(x, self.missing(x.shape[2:])))  # (B, C, D', H', W')
        skips: list[Tensor] = []
        for level in self.encoder:
            x = level(x)  # (B, C_l, D' / s, H' / s, W' / s)
            skips.append(x)
        outputs = []
        for skip, up, merge in zip(skips[-2::-1], self.up, self.decoder, strict=True):
            x = merge(torch.cat([up(x), skip], 1))
            outputs.append(x)
        outputs.reverse()  # the finest first
        scores = [score(x) for score, x in zip([self.score, *self.aux_scores], outputs, strict=False)]
        if self.dims == 2:
            scores = [s.unflatten(0, images.shape[0:3:2]).transpose(1, 2) for s in scores]  # (B, K, D, H', W')
        return DenseOutput(crop_to(scores[0], images.shape[2:]).float(), tuple(s.float() for s in scores[1:]))


class ResidualBlock(nn.Module):
    r"""Two convolutions, whose result is added to what came in.

    .. math:: y = \text{LeakyReLU}(\text{norm}(w_2 * \text{LeakyReLU}(\text{norm}(w_1 * x))) + \text{skip}(x))

    Where the block strides, the skip averages over the stride; where the number of channels changes, a 1×1 convolution
    with a norm follows. The last norm starts at 0, so that a new block is its skip.

    Source: the D form of He et al., "Bag of Tricks for Image Classification", CVPR 2019, figure 2.

    Args:
        channels_in: channels of the input.
        channels_out: channels of the output.
        kernel: kernel size of both convolutions, two or three odd numbers.
        stride: stride of the first convolution.

    Shape: ``(B, C, d, h, w)`` → ``(B, D, d / s, h / s, w / s)``; strides divide the sizes.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: Sequence[int], stride: Sequence[int]) -> None:
        super().__init__()
        first = conv_norm(channels_in, channels_out, kernel, stride, **LAYERS)
        *last, norm = conv_norm(channels_out, channels_out, kernel, **LAYERS)
        nn.init.zeros_(norm.get_parameter("weight"))
        self.convs = nn.Sequential(*first, nn.LeakyReLU(SLOPE, inplace=True), *last, norm)
        skip: list[nn.Module] = []
        if max(stride) > 1:
            skip.append(AVERAGE_POOL[len(kernel)](tuple(stride), tuple(stride)))
        if channels_in != channels_out:
            skip += conv_norm(channels_in, channels_out, (1,) * len(kernel), norm=InstanceNorm)
        self.skip = nn.Sequential(*skip)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, d, h, w)`` → ``(B, D, d / s, h / s, w / s)``."""
        return F.leaky_relu(self.convs(x) + self.skip(x), SLOPE, inplace=True)


def _residual_blocks(
    channels_in: int, channels_out: int, kernel: Sequence[int], stride: Sequence[int], *, count: int
) -> nn.Sequential:
    """Residual blocks, the first of which strides and changes the number of channels."""
    first = ResidualBlock(channels_in, channels_out, kernel, stride)
    rest = (ResidualBlock(channels_out, channels_out, kernel, (1,) * len(kernel)) for _ in range(count - 1))
    return nn.Sequential(first, *rest)


def nnunet(
    num_classes: int,
    *,
    in_channels: int = 1,
    dims: int = 3,
    widths: Sequence[int] = (32, 64, 128, 256, 320, 320),
    kernels: Sequence[Sequence[int]] | None = None,
    strides: Sequence[Sequence[int]] | None = None,
    blocks: Sequence[int] | None = None,
    decoder_blocks: Sequence[int] | None = None,
    residual: bool = False,
    aux_outputs: int | None = None,
    batch_dice: bool = False,
    overlapping: bool = False,
) -> NNUNet:
    """The network of a plan: ``nnunet(K, **configuration.model_arguments())``. Keywords as in :class:`NNUNet`.

    The defaults suit patches of 128×128×128 voxels of 1×1×1 mm; ``seglib plan`` finds the numbers for a dataset.
    """
    return NNUNet(
        num_classes,
        in_channels=in_channels,
        dims=dims,
        widths=widths,
        kernels=kernels,
        strides=strides,
        blocks=blocks,
        decoder_blocks=decoder_blocks,
        residual=residual,
        aux_outputs=aux_outputs,
        batch_dice=batch_dice,
        overlapping=overlapping,
    )


def nnunet_tiny(
    num_classes: int,
    *,
    in_channels: int = 1,
    width: int = 12,
    aux_outputs: int | None = None,
    overlapping: bool = False,
) -> NNUNet:
    """The plan of the synthetic volumes with few channels: learns them on two CPU cores.

    Args:
        num_classes: number of classes K.
        in_channels: channels of the volumes.
        width: channels of the finest level; each of the three others has twice as many as the one above it.
        aux_outputs: number of auxiliary outputs, see :class:`NNUNet`.
        overlapping: the classes are regions that may overlap, see :class:`~seglib.models.semantic.SemanticModel`.
    """
    return NNUNet(
        num_classes,
        in_channels=in_channels,
        widths=[width * 2**level for level in range(4)],
        kernels=[(1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)],  # voxels are 2.5 times as thick as wide
        strides=[(1, 2, 2), (2, 2, 2), (2, 2, 2)],
        aux_outputs=aux_outputs,
        overlapping=overlapping,
    )
