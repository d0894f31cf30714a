"""The semantic branch of Panoptic FPN: every level of the pyramid, brought to the finest one's resolution and summed.

Source: Kirillov, Girshick, He, Dollár, "Panoptic Feature Pyramid Networks", CVPR 2019, section 3.1 and figure 3.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class SemanticFPNHead(nn.Module):
    """One class per cell of the finest level.

    ::

        p2 ── 3×3 ───────────────────────────────── (+) ── 1×1 ── logits (B, K, H/4, W/4)
        p3 ── 3×3, ×2 ───────────────────────────────┤
        p4 ── 3×3, ×2 ── 3×3, ×2 ────────────────────┤
        p5 ── 3×3, ×2 ── 3×3, ×2 ── 3×3, ×2 ─────────┘

    Every 3×3 convolution is followed by group norm and ReLU; ×2 is bilinear.

    Args:
        channels_in: channels of the pyramid's levels.
        num_classes: number of classes K of the logits.
        levels: number of levels that are read, beginning with the finest, each half the size of the one before.
        channels: channels of the branch.
        groups: groups of the group norms.

    Raises:
        ValueError: without levels, or when the channels don't divide into the groups.
    """

    def __init__(
        self, channels_in: int, num_classes: int, *, levels: int = 4, channels: int = 128, groups: int = 32
    ) -> None:
        super().__init__()
        if levels < 1:
            raise ValueError(f"the semantic branch reads at least one level, got {levels}")
        if channels % groups:
            raise ValueError(f"{channels} channels don't divide into {groups} groups; choose a multiple of the groups")
        self.scales = nn.ModuleList(self._scale(channels_in, channels, level, groups) for level in range(levels))
        self.predict = nn.Conv2d(channels, num_classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:  # that of the last one
                    nn.init.zeros_(module.bias)

    @staticmethod
    def _scale(channels_in: int, channels: int, doublings: int, groups: int) -> nn.Sequential:
        """From a level that is ``doublings`` times half as large to the finest: one convolution for each ×2."""
        steps: list[nn.Module] = []
        for i in range(max(1, doublings)):
            conv = nn.Conv2d(channels if i else channels_in, channels, 3, padding=1, bias=False)
            steps += [conv, nn.GroupNorm(groups, channels), nn.ReLU(inplace=True)]
            if doublings:
                steps.append(nn.Upsample(scale_factor=2, mode="bilinear"))
        return nn.Sequential(*steps)

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        """Levels ``(B, C, H_i, W_i)``, finest first, each half the one before → logits ``(B, K, H_0, W_0)``."""
        x = self.scales[0](pyramid[0])  # (B, channels, H_0, W_0)
        for scale, level in zip(list(self.scales)[1:], pyramid[1:], strict=False):  # coarser levels are not read
            x = x + scale(level)
        return self.predict(x)
