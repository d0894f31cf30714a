"""CondInst's mask branch: a few features of fine resolution that the filters of all objects read.

Source: Tian, Shen, Chen, "Conditional Convolutions for Instance Segmentation", ECCV 2020, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from seglib.ops.resize import aligned_bilinear


class MaskBranch(nn.Module):
    """Levels of the pyramid, summed at the finest one's resolution, and convolutions down to a few features.

    ::

        p3 ── 3×3, BN, relu ─────────── (+) ── [3×3, BN, relu]* ── 1×1 ── features (B, 8, H/8, W/8)
        p4 ── 3×3, BN, relu ── ×2 ───────┤
        p5 ── 3×3, BN, relu ── ×4 ───────┘

    Coarser levels are upsampled by :func:`~seglib.ops.resize.aligned_bilinear`, which keeps every cell at its location.

    Args:
        channels_in: channels of the pyramid's levels.
        levels: number of levels that are read, beginning with the finest.
        channels: channels of the branch.
        depth: number of 3×3 convolutions after the sum.
        features: number of features that come out.

    Raises:
        ValueError: without levels.
    """

    def __init__(
        self, channels_in: int, *, levels: int = 3, channels: int = 128, depth: int = 4, features: int = 8
    ) -> None:
        super().__init__()
        if levels < 1:
            raise ValueError(f"the mask branch reads at least one level, got {levels}")
        self.refine = nn.ModuleList(Conv2dNormActivation(channels_in, channels, 3) for _ in range(levels))
        self.tower = nn.Sequential(
            *(Conv2dNormActivation(channels, channels, 3) for _ in range(depth)), nn.Conv2d(channels, features, 1)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        """Levels ``(B, C, H_i, W_i)``, finest first, each half the one before → features ``(B, F, H_0, W_0)``."""
        x = self.refine[0](pyramid[0])  # (B, C, H/8, W/8)
        for level, refine in zip(pyramid[1 : len(self.refine)], list(self.refine)[1:], strict=True):
            x = x + aligned_bilinear(refine(level), x.shape[-1] // level.shape[-1])
        return self.tower(x)
