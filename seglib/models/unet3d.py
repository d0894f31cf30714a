"""3D U-Net (Çiçek et al., "3D U-Net: Learning Dense Volumetric Segmentation from Sparse Annotation", MICCAI 2016).

A slice of a volume does not say whether a bright dot is a vessel that passes through or a speck that ends there; its
neighbours do. 3D U-Net is a U-Net whose convolutions, poolings and transposed convolutions have a third axis.

::

    volume ─── convs ──────────────────────────────────► concat ── convs ─── scores
                 │                                          ▲          (aux scores come from every level above the last)
                 └─── convs ────────────────► concat ── convs
                        │                       ▲
                        └─── convs ► concat ── convs
                               │        ▲
                               └─ convs ┘

Two forms. ``PaperUNet3D`` is the paper's: valid convolutions, batch norm, max pooling, and channels that double inside
a level, before the pooling, so that no map is a bottleneck.

``UNet3D`` is the form in use since nnU-Net: convolutions that pad, instance norm, leaky ReLU, convolutions of stride 2
in place of pooling, and scores at several scales that all are trained (deep supervision). Kernels and strides are
given for every level and axis: where slices lie 5 mm apart and pixels 1 mm, the first levels do well to look and
stride in the plane alone, until voxels are about as thick as they are wide.

A weighted cross-entropy lets both learn from a few annotated slices: voxels without label are void and weigh nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seglib.layers.valid import crop_middle, reflect_pad, valid_sizes
from seglib.layers.volume import UP_CONV, any_values, conv_stack, he_initialize, sizes_per_axis
from seglib.losses.combined import cross_entropy_dice
from seglib.losses.pixel import cross_entropy
from seglib.models.semantic import Criterion, DeeplySupervised, SemanticModel
from seglib.ops.resize import crop_to
from seglib.types import DenseOutput, Size, Targets

__all__ = ["PaperUNet3D", "UNet3D", "unet3d", "unet3d_paper", "unet3d_tiny"]

Triple = tuple[int, int, int]
"""One number for each axis ``(z, y, x)``."""

ISOTROPIC: Triple = (3, 3, 3)
IN_PLANE: Triple = (1, 3, 3)


class UNet3D(DeeplySupervised):
    """The form in use: strided convolutions, instance norm, leaky ReLU, deep supervision.

    Every level has two convolutions, the first of which strides. On the way up a transposed convolution whose kernel is
    the stride doubles the map, the skip is laid beside it, and two convolutions with the kernels of that level follow.

    Args:
        num_classes: number of classes K.
        in_channels: channels of the volumes: modalities, for most.
        widths: channels of each level, the finest first.
        kernels: kernel size of each level, ``(z, y, x)``, odd numbers; 3×3×3 everywhere when not given.
        strides: stride with which each level but the first is entered; 2×2×2 everywhere when not given.
        decoder_kernels: kernel sizes on the way up, the finest level first, one fewer; those of the same level when
            not given.
        aux_outputs: number of auxiliary outputs: 2 adds scores at the second and the third level. They weigh ½, ¼, …
            of the main ones in the loss, and the sum of all weights is 1.
        overlapping: the classes are regions that may overlap, see :class:`~seglib.models.semantic.SemanticModel`.
        class_weights: train with cross-entropy weighted by class, K numbers, instead of cross-entropy plus Dice loss.

    Raises:
        ValueError: when ``num_classes`` is out of range, kernels, strides or widths don't fit each other, or there are
            more auxiliary outputs than levels.

    Shape: any D, H and W. Source: Isensee et al., "nnU-Net", Nature Methods 2021, supplementary note 2; the layers are
    those of MONAI's ``DynUNet``, whose weights ``seglib convert`` takes.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        in_channels: int = 1,
        widths: Sequence[int] = (32, 64, 128, 256, 320),
        kernels: Sequence[Sequence[int]] | None = None,
        strides: Sequence[Sequence[int]] | None = None,
        decoder_kernels: Sequence[Sequence[int]] | None = None,
        aux_outputs: int = 2,
        overlapping: bool = False,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__(num_classes, overlapping=overlapping)
        levels = len(widths)
        kernels = [ISOTROPIC] * levels if kernels is None else sizes_per_axis("kernel", kernels)
        strides = [(2, 2, 2)] * (levels - 1) if strides is None else sizes_per_axis("stride", strides)
        decoder_kernels = kernels[:-1] if decoder_kernels is None else sizes_per_axis("kernel", decoder_kernels)
        if levels < 2 or (len(kernels), len(strides), len(decoder_kernels)) != (levels, levels - 1, levels - 1):
            raise ValueError(
                f"{levels} widths need as many kernels, and one stride and one decoder kernel fewer, and there are two "
                f"levels at least; got {len(kernels)} kernels, {len(strides)} strides, {len(decoder_kernels)} decoder "
                "kernels"
            )
        if not 0 <= aux_outputs < levels - 1:
            raise ValueError(f"{levels} levels have 0..{levels - 2} auxiliary outputs, got {aux_outputs}")
        self.normalize = any_values(in_channels)
        self.total_stride: Size = tuple(math.prod(s[axis] for s in strides) for axis in range(3))
        self.aux_weights = tuple(0.5**i for i in range(1, aux_outputs + 1))
        _set_criterion(self, class_weights)
        entries = [(1, 1, 1), *strides]
        below = [in_channels, *widths[:-1]]
        self.encoder = nn.ModuleList(
            conv_stack(a, b, kernel, stride)
            for a, b, kernel, stride in zip(below, widths, kernels, entries, strict=True)
        )
        # the way up, from the deepest level to the finest
        pairs = list(zip(widths[1:], widths[:-1], strides, decoder_kernels, strict=True))[::-1]
        self.up = nn.ModuleList(UP_CONV[3](a, b, stride, stride, bias=False) for a, b, stride, _ in pairs)
        self.decoder = nn.ModuleList(conv_stack(2 * b, b, kernel) for _, b, _, kernel in pairs)
        self.score = nn.Conv3d(widths[0], num_classes, 1)
        self.aux_scores = nn.ModuleList(nn.Conv3d(w, num_classes, 1) for w in widths[1 : aux_outputs + 1])
        he_initialize(self)

    def forward(
        self, images: Tensor, targets: Targets | None = None, sizes: Sequence[Size] | None = None
    ) -> DenseOutput:
        """Class scores of every voxel, and those of coarser levels.

        Args:
            images: ``(B, C, D, H, W)`` float, normalised as ``model.intensity`` says; any D, H and W.
            targets: not used; every model takes them.
            sizes: the true ``(D, H, W)`` of each volume in a padded batch; ``None`` when all fill it.

        Returns:
            Logits ``(B, K, D, H, W)`` float32, and the auxiliary ones, the finest first.

        Raises:
            ValueError: when the volumes have another number of channels or axes, or are integers.
        """
        x = self.normalize(images, sizes)
        x = F.pad(x, self.missing(x.shape[2:]))  # (B, C, D', H', W')
        skips: list[Tensor] = []
        for level in self.encoder:
            x = level(x)  # (B, C_l, D' / s, H' / s, W' / s)
            skips.append(x)
        outputs = []
        for skip, up, merge in zip(skips[-2::-1], self.up, self.decoder, strict=True):
            x = merge(torch.cat([up(x), skip], 1))
            outputs.append(x)
        aux = tuple(score(x) for score, x in zip(self.aux_scores, outputs[-2::-1], strict=False))
        return DenseOutput(crop_to(self.score(outputs[-1]), images.shape[2:]).float(), tuple(a.float() for a in aux))


class PaperUNet3D(SemanticModel):
    """The paper's network: valid 3×3×3 convolutions with batch norm, and reflect padding where the volume ends.

    On the way down each level has two convolutions, of which the second doubles the channels, and a 2×2×2 max pooling;
    on the way up a 2×2×2 transposed convolution keeps the channels, the skip is cropped to the middle and laid beside
    it, and two convolutions make it the skip's number of channels. With the paper's width of 32, three poolings,
    three channels and three classes it has the 19,069,955 parameters of section 2, not counting batch norm's.

    An answer of n voxels along an axis needs ``n + 2 · margin`` of input, and n must be ``size_rest`` above a multiple
    of 2^depth: 44 from 132, and 28 from 116. ``forward`` reflects and crops so that any size comes out; where a large
    volume is cut into tiles, reflecting at their inner borders would leave seams, so a tile reads its margin from the
    volume: see :func:`~seglib.postprocess.volume.sliding_window`.

    Args:
        num_classes: number of classes K.
        in_channels: channels of the volumes.
        width: channels of the first convolution, 32 in the paper.
        depth: poolings, 3 in the paper.
        overlapping: the classes are regions that may overlap, see :class:`~seglib.models.semantic.SemanticModel`.
        class_weights: weight of each class in the cross-entropy, K numbers; the paper weighs background less, the
            structure more, and voxels without label not at all: those are void here.

    Attributes:
        margin: voxels that an answer is smaller than its input, on each side: 44 for a depth of 3.
        size_rest: what the answer's size leaves when it is divided by 2^depth: 4 for a depth of 3.

    Raises:
        ValueError: when ``num_classes`` is out of range, or width or depth is not positive.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        in_channels: int = 1,
        width: int = 32,
        depth: int = 3,
        overlapping: bool = False,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__(num_classes, overlapping=overlapping)
        if width < 1 or depth < 1:
            raise ValueError(f"width and depth must be at least 1, got {width} and {depth}")
        self.normalize = any_values(in_channels)
        self.depth = depth
        self.margin, self.size_rest = valid_sizes(depth)
        _set_criterion(self, class_weights, default=cross_entropy)
        below = [in_channels, *(width * 2**level for level in range(1, depth + 1))]  # into each level
        self.down = nn.ModuleList(
            _two_valid_convs(a, width * 2**level, width * 2 ** (level + 1)) for level, a in enumerate(below)
        )
        deep = [width * 2 ** (level + 1) for level in range(depth, 0, -1)]  # on the way up, the deepest first
        self.up = nn.ModuleList(nn.ConvTranspose3d(c, c, 2, stride=2, bias=False) for c in deep)
        self.merge = nn.ModuleList(_two_valid_convs(c + c // 2, c // 2, c // 2) for c in deep)
        self.score = nn.Conv3d(2 * width, num_classes, 1)

    def forward(
        self, images: Tensor, targets: Targets | None = None, sizes: Sequence[Size] | None = None
    ) -> DenseOutput:
        """Class scores of every voxel; what lies beyond the volume is its reflection.

        Args:
            images: ``(B, C, D, H, W)`` float, normalised as ``model.intensity`` says; any D, H and W.
            targets: not used; every model takes them.
            sizes: the true ``(D, H, W)`` of each volume in a padded batch; ``None`` when all fill it.

        Returns:
            Logits ``(B, K, D, H, W)`` float32.

        Raises:
            ValueError: when the volumes have another number of channels or axes, or are integers.
        """
        full, m = images.shape[2:], self.margin
        rim = [side for n in reversed(full) for side in (m, m + self._too_few(n))]
        return DenseOutput(crop_to(self.valid(reflect_pad(self.normalize(images, sizes), rim)), full).float())

    def valid(self, window: Tensor) -> Tensor:
        """The network itself: scores of the middle of a window.

        Args:
            window: ``(B, C, d + 2 · margin, h + 2 · margin, w + 2 · margin)``; d, h and w are ``size_rest`` above a
                multiple of 2^depth.

        Returns:
            Logits ``(B, K, d, h, w)``.

        Raises:
            ValueError: for a window of another size, with the next size that fits.
        """
        for size in window.shape[2:]:
            rest = self._too_few(size - 2 * self.margin)
            if rest or size <= 2 * self.margin:
                least = max(size + rest, 2 * self.margin + (self.size_rest or 2**self.depth))
                raise ValueError(f"a window of {size} voxels does not fit; the next that does has {least}")
        x, skips = window, []
        for level, convs in enumerate(self.down):
            x = convs(F.max_pool3d(x, 2) if level else x)
            skips.append(x)
        for skip, up, merge in zip(skips[-2::-1], self.up, self.merge, strict=True):
            x = up(x)  # (B, C, 2d, 2h, 2w)
            x = merge(torch.cat([crop_middle(skip, x.shape[2:]), x], 1))  # (B, C / 2, 2d − 4, 2h − 4, 2w − 4)
        return self.score(x)

    def _too_few(self, size: int) -> int:
        """Voxels that an answer of ``size`` lacks to the next size that fits."""
        return (self.size_rest - size) % 2**self.depth


def _set_criterion(
    model: SemanticModel, class_weights: Sequence[float] | None, default: Criterion = cross_entropy_dice
) -> None:
    if class_weights is None:
        if not model.overlapping:
            model.criterion = default
        return
    if model.overlapping or len(class_weights) != model.num_classes or min(class_weights) < 0:
        raise ValueError(
            f"class_weights are {model.num_classes} numbers of at least 0, of classes that exclude each other; got "
            f"{tuple(class_weights)}{' of overlapping classes' if model.overlapping else ''}"
        )
    model.criterion = partial(cross_entropy, weight=torch.tensor(class_weights, dtype=torch.float32))


def _two_valid_convs(channels_in: int, hidden: int, channels_out: int) -> nn.Sequential:
    """``(B, C, d, h, w)`` → ``(B, D, d − 4, h − 4, w − 4)``: two convolutions, each with batch norm and ReLU."""
    layers: list[nn.Module] = []
    for a, b in ((channels_in, hidden), (hidden, channels_out)):
        layers += [nn.Conv3d(a, b, 3), nn.BatchNorm3d(b), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def unet3d(
    num_classes: int,
    *,
    in_channels: int = 1,
    widths: Sequence[int] = (32, 64, 128, 256, 320),
    kernels: Sequence[Sequence[int]] | None = None,
    strides: Sequence[Sequence[int]] | None = None,
    decoder_kernels: Sequence[Sequence[int]] | None = None,
    aux_outputs: int = 2,
    overlapping: bool = False,
    class_weights: Sequence[float] | None = None,
) -> UNet3D:
    """The 3D U-Net to start with on your own volumes. Keywords as in :class:`UNet3D`.

    Voxels of 1×1×1 mm suit the defaults; for slices 5 mm apart set the first kernels and strides to (1, 3, 3) and
    (1, 2, 2) until a voxel of the coarser level is about as thick as it is wide.
    """
    return UNet3D(
        num_classes,
        in_channels=in_channels,
        widths=widths,
        kernels=kernels,
        strides=strides,
        decoder_kernels=decoder_kernels,
        aux_outputs=aux_outputs,
        overlapping=overlapping,
        class_weights=class_weights,
    )


def unet3d_paper(
    num_classes: int,
    *,
    in_channels: int = 1,
    width: int = 32,
    depth: int = 3,
    overlapping: bool = False,
    class_weights: Sequence[float] | None = None,
) -> PaperUNet3D:
    """The paper's network. Keywords as in :class:`PaperUNet3D`."""
    return PaperUNet3D(
        num_classes,
        in_channels=in_channels,
        width=width,
        depth=depth,
        overlapping=overlapping,
        class_weights=class_weights,
    )


def unet3d_tiny(
    num_classes: int,
    *,
    in_channels: int = 1,
    widths: Sequence[int] = (12, 24, 48, 64),
    in_plane: bool = False,
    aux_outputs: int = 1,
    overlapping: bool = False,
    class_weights: Sequence[float] | None = None,
) -> UNet3D:
    """Four slim levels for voxels about 2.5 times as thick as wide: learns the synthetic volumes on two CPU cores.

    Args:
        num_classes: number of classes K.
        in_channels: channels of the volumes.
        widths: channels of the four levels, the finest first.
        in_plane: all kernels and strides lie in the plane, so that each slice is segmented on its own: the 2D network
            to compare with.
        aux_outputs: number of auxiliary outputs, see :class:`UNet3D`.
        overlapping: the classes are regions that may overlap, see :class:`~seglib.models.semantic.SemanticModel`.
        class_weights: train with cross-entropy weighted by class, K numbers, instead of cross-entropy plus Dice loss.
    """
    deep = IN_PLANE if in_plane else ISOTROPIC
    step = (1, 2, 2) if in_plane else (2, 2, 2)
    return UNet3D(
        num_classes,
        in_channels=in_channels,
        widths=widths,
        kernels=[IN_PLANE, deep, deep, deep],
        strides=[(1, 2, 2), step, step],
        aux_outputs=aux_outputs,
        overlapping=overlapping,
        class_weights=class_weights,
    )
