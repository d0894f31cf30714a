"""Feature Pyramid Network: maps of every scale, all with the same channels and all with deep meaning.

Source: Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import Conv2dNormActivation

FUSIONS = ("sum", "average")
UPSAMPLINGS = ("nearest", "bilinear")


class FPN(nn.Module):
    """Top-down pathway over an encoder's maps.

    ::

        c5 ── 1×1 ──────────────┬── 3×3 ── p5 ── [top block] ── p6, p7
                                ▼ ×2
        c4 ── 1×1 ──────────── (+) ── 3×3 ── p4
                                ▼ ×2
        c3 ── 1×1 ──────────── (+) ── 3×3 ── p3
                                ▼ ×2
        c2 ── 1×1 ──────────── (+) ── 3×3 ── p2

    Deep maps know what, shallow ones where: each level gets both. The sums are made of nearest-neighbour upsampling,
    whose blocks the 3×3 convolutions smooth.

    Args:
        channels_in: channels of each map of the encoder, finest first.
        channels: channels of every level of the pyramid.
        top_block: module that makes further, coarser levels for large objects: :class:`TopPool`, :class:`TopConvs`, or
            any that takes the encoder's maps and the pyramid and returns a list of levels. ``None`` adds no level.
        norm: whether a batch norm stands behind every convolution, which then has no bias.
        fuse: how maps meet: ``"sum"`` adds the map from above to the lateral one; ``"average"`` halves that sum.
        upsample: how a coarser map is brought to the size of a finer one: ``"nearest"``, as in the paper, or
            ``"bilinear"``, as in YOLACT.
        relu: whether ReLU follows every output convolution, as in YOLACT.

    Raises:
        ValueError: without maps, or for an unknown ``fuse`` or ``upsample``.
    """

    def __init__(
        self,
        channels_in: Sequence[int],
        channels: int = 256,
        *,
        top_block: nn.Module | None = None,
        norm: bool = False,
        fuse: Literal["sum", "average"] = "sum",
        upsample: Literal["nearest", "bilinear"] = "nearest",
        relu: bool = False,
    ) -> None:
        super().__init__()
        if not channels_in:
            raise ValueError("an FPN needs at least one map, channels_in is empty; pass the encoder's channels")
        if fuse not in FUSIONS:
            raise ValueError(f"fuse {fuse!r} is unknown; choose one of {', '.join(FUSIONS)}")
        if upsample not in UPSAMPLINGS:
            raise ValueError(f"upsample {upsample!r} is unknown; choose one of {', '.join(UPSAMPLINGS)}")
        self.fuse, self.upsample, self.relu = fuse, upsample, relu
        self.lateral = nn.ModuleList(_conv(c, channels, 1, norm) for c in channels_in)
        self.output = nn.ModuleList(_conv(channels, channels, 3, norm) for _ in channels_in)
        self.top_block = top_block

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps ``(B, C_i, H_i, W_i)``, finest first → the pyramid ``(B, C, H_i, W_i)``, finest first."""
        top = self.lateral[-1](maps[-1])  # (B, C, H/32, W/32)
        pyramid = [self.output[-1](top)]
        for i in range(len(maps) - 2, -1, -1):
            lateral = self.lateral[i](maps[i])  # (B, C, H_i, W_i)
            top = lateral + F.interpolate(top, size=lateral.shape[-2:], mode=self.upsample)
            if self.fuse == "average":
                top = top / 2
            pyramid.insert(0, self.output[i](top))
        if self.relu:
            pyramid = [F.relu(level) for level in pyramid]
        if self.top_block is not None:
            pyramid.extend(self.top_block(maps, pyramid))
        return pyramid


class TopPool(nn.Module):
    """One further level, every second row and column of the coarsest: p6 of the FPN paper's region proposals."""

    levels = 1
    """How many it adds."""

    def forward(self, maps: Sequence[Tensor], pyramid: Sequence[Tensor]) -> list[Tensor]:
        """Coarsest level ``(B, C, h, w)`` → ``(B, C, ⌈h / 2⌉, ⌈w / 2⌉)``, in a list."""
        return [pyramid[-1][..., ::2, ::2]]


class TopConvs(nn.Module):
    """Two further levels, p6 and p7, by 3×3 convolutions of stride 2.

    ::

        c5 or p5 ── 3×3/2 ─┬─ relu ── 3×3/2 ── p7
                           └─ p6

    Args:
        channels_in: channels of the source: those of the encoder's deepest map for c5, the pyramid's for p5.
        channels: channels of both levels.
        source: map that p6 is made from. RetinaNet's paper takes ``"c5"``; FCOS, CondInst and YOLACT take ``"p5"``.
        relu: whether ReLU stands before the convolution to p7, as in RetinaNet, FCOS and CondInst; YOLACT has none.

    Raises:
        ValueError: for an unknown source.

    Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, section 4; Tian et al., "FCOS", ICCV 2019,
    section 3.2.
    """

    levels = 2
    """How many it adds."""

    def __init__(
        self, channels_in: int, channels: int = 256, *, source: Literal["c5", "p5"] = "p5", relu: bool = True
    ) -> None:
        super().__init__()
        if source not in ("c5", "p5"):
            raise ValueError(f'source is "c5" or "p5", got {source!r}')
        self.source, self.relu = source, relu
        self.p6 = nn.Conv2d(channels_in, channels, 3, stride=2, padding=1)
        self.p7 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        for conv in (self.p6, self.p7):
            _initialise(conv)

    def forward(self, maps: Sequence[Tensor], pyramid: Sequence[Tensor]) -> list[Tensor]:
        """Source ``(B, C, h, w)`` → p6 ``(B, D, ⌈h / 2⌉, ⌈w / 2⌉)`` and p7 ``(B, D, ⌈h / 4⌉, ⌈w / 4⌉)``."""
        p6 = self.p6(_two_columns((maps if self.source == "c5" else pyramid)[-1]))
        return [p6, self.p7(_two_columns(F.relu(p6) if self.relu else p6))]


def _two_columns(x: Tensor) -> Tensor:
    """A map of one column with the next one of its padding, which changes no value.

    In bf16 on a CPU, PyTorch 2.14 leaves parts of the weight's gradient unset for a 3×3 convolution of one column.
    """
    return F.pad(x, (0, 1)) if x.shape[-1] == 1 else x


def _conv(channels_in: int, channels: int, kernel: int, norm: bool) -> nn.Module:
    if norm:
        block = Conv2dNormActivation(channels_in, channels, kernel, activation_layer=None)
        _initialise(block[0])
        return block
    conv = nn.Conv2d(channels_in, channels, kernel, padding=kernel // 2)
    _initialise(conv)
    return conv


def _initialise(conv: nn.Conv2d) -> None:
    nn.init.kaiming_uniform_(conv.weight, a=1)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
