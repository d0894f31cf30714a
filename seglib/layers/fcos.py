"""The head of FCOS: at every cell of every level, what is here and how far are the sides of its box.

Source: Tian et al., "FCOS: Fully Convolutional One-Stage Object Detection", ICCV 2019, figure 2; with later changes by
its authors: GroupNorm in the towers, centerness beside the box, distances in units of the stride.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FCOSHead(nn.Module):
    """Two towers of convolutions, the same for every level, and what is read from them.

    ::

        level (B, C, H, W) ─┬─ [3×3, GN, relu]* ──── K class logits
                            └─ [3×3, GN, relu]* ─┬── 4 distances l, t, r, b = relu(scale of the level · 3×3)
                                                 ├── centerness logit
                                                 └── P parameters (CondInst's filters)

    One learned number for each level lets the shared layers serve boxes of every size.

    Args:
        channels: channels of the pyramid's levels.
        num_classes: number of classes K, without background.
        levels: number of levels.
        depth: number of 3×3 convolutions in each tower.
        groups: number of groups of the GroupNorms, of which ``channels`` must be a multiple.
        parameters: number P of further outputs at each cell; 0 makes none, as in plain FCOS.
        prior: class probability at the start, in (0, 1): few cells show an object, and a start at ½ would flood the
            loss with background.

    Raises:
        ValueError: when a number is out of range, or channels are no multiple of the groups.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        levels: int = 5,
        depth: int = 4,
        groups: int = 32,
        parameters: int = 0,
        prior: float = 0.01,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}; background isn't counted")
        if channels % groups:
            raise ValueError(f"{channels} channels don't split into {groups} groups; choose groups that divide them")
        if not 0 < prior < 1:
            raise ValueError(f"prior is a probability between 0 and 1, got {prior}")
        self.class_tower = _tower(channels, depth, groups)
        self.box_tower = _tower(channels, depth, groups)
        self.class_logits = nn.Conv2d(channels, num_classes, 3, padding=1)
        self.distances = nn.Conv2d(channels, 4, 3, padding=1)
        self.centerness = nn.Conv2d(channels, 1, 3, padding=1)
        self.controller = nn.Conv2d(channels, parameters, 3, padding=1) if parameters else None
        self.scales = nn.Parameter(torch.ones(levels))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # these convolutions have a bias
        nn.init.constant_(self.class_logits.bias, -math.log((1 - prior) / prior))  # type: ignore[arg-type]  # as above

    def forward(self, pyramid: Sequence[Tensor]) -> list[FCOSLevel]:
        """Levels ``(B, C, H_i, W_i)``, finest first → what the head says of each, as maps of the same size."""
        found = []
        for level, scale in zip(pyramid, self.scales, strict=True):
            x, y = self.class_tower(level), self.box_tower(level)  # (B, C, H, W)
            parameters = y[:, :0] if self.controller is None else self.controller(y)
            found.append(
                FCOSLevel(
                    class_logits=self.class_logits(x),
                    distances=F.relu(scale * self.distances(y)),
                    centerness=self.centerness(y),
                    parameters=parameters,
                )
            )
        return found


@dataclass(frozen=True)
class FCOSLevel:
    """What the head says of one level.

    Attributes:
        class_logits: logits of the classes, ``(B, K, H, W)``.
        distances: distances l, t, r, b to the sides of the box in units of the level's stride, ``(B, 4, H, W)``.
        centerness: logits of how central a cell lies in its box, ``(B, 1, H, W)``.
        parameters: further outputs, ``(B, P, H, W)``; P may be 0.
    """

    class_logits: Tensor
    distances: Tensor
    centerness: Tensor
    parameters: Tensor


def locations(size: Sequence[int], stride: int, device: torch.device | str = "cpu") -> Tensor:
    """Points in the image that the cells of a map stand for: (column · s + s // 2, row · s + s // 2) for a stride of s.

    Args:
        size: height and width ``(H, W)`` of the map, in cells.
        stride: pixels per cell.
        device: device on which the points are made.

    Returns:
        ``(H·W, 2)`` float32 (x, y) in pixels, row by row.
    """
    y, x = (torch.arange(n, device=device) * stride + stride // 2 for n in size)
    return torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))], -1).flatten(0, 1).float()


def _tower(channels: int, depth: int, groups: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth):
        conv = nn.Conv2d(channels, channels, 3, padding=1)
        layers += [conv, nn.GroupNorm(groups, channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
