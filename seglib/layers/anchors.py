"""Anchors: boxes of a few sizes and shapes, laid at every cell of every level, that a detector refines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def cell_anchors(sizes: Sequence[float], ratios: Sequence[float], *, rounded: bool = False) -> Tensor:
    """The anchors of one cell, centred on 0: for every size s and ratio r a box of area s² with height / width = r.

    Args:
        sizes: square roots of the anchors' areas, in pixels.
        ratios: heights over widths of the anchors.
        rounded: whether corners are rounded to whole pixels, as torchvision does.

    Returns:
        ``(A, 4)`` float32 xyxy, A = ratios × sizes, ratio by ratio.
    """
    side = torch.tensor(sizes, dtype=torch.float64)[None]  # (1, sizes)
    root = torch.tensor(ratios, dtype=torch.float64).sqrt()[:, None]  # (ratios, 1)
    width, height = (side / root).flatten(), (side * root).flatten()  # (A,)
    half = torch.stack([width, height], 1) / 2
    boxes = torch.cat([-half, half], 1).float()
    return boxes.round() if rounded else boxes


@dataclass(frozen=True)
class Anchors:
    """The anchors of a pyramid.

    Attributes:
        sizes: square roots of the anchors' areas in pixels, for each level, finest first.
        ratios: heights over widths of the anchors.
        strides: pixels per cell, one number for each level.
        offset: where the first anchor is centred, in cells: 0 in the published detectors; ½ where cell i of a map lies
            in the middle of the pixels that it stands for.
        rounded: whether to build anchors torchvision's way: corners are whole pixels, and the stride of a level is the
            image's side divided by the map's, rounded down. It differs from 64 where a map of odd size was halved to
            make the coarsest level.

    Raises:
        ValueError: when sizes, ratios or strides are missing or not above 0, or there are not as many of each level.
    """

    sizes: tuple[tuple[float, ...], ...] = ((32,), (64,), (128,), (256,), (512,))
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    strides: tuple[int, ...] = (4, 8, 16, 32, 64)
    offset: float = 0.0
    rounded: bool = False

    def __post_init__(self) -> None:
        if len(self.sizes) != len(self.strides) or len({len(s) for s in self.sizes}) != 1:
            raise ValueError(f"anchors need as many sizes on each of {len(self.strides)} levels, got {self.sizes}")
        numbers = (*(s for level in self.sizes for s in level), *self.ratios, *self.strides)
        if not self.ratios or not self.sizes[0] or min(numbers) <= 0:
            raise ValueError(f"anchors need sizes, ratios and strides above 0, got {self}")

    @property
    def per_cell(self) -> int:
        """A, the anchors of one cell."""
        return len(self.ratios) * len(self.sizes[0])

    def __call__(self, shapes: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> list[Tensor]:
        """The anchors of maps of these shapes.

        Args:
            shapes: size ``(H, W)`` of the map of each level.
            device: the device that the anchors are made on.

        Returns:
            ``(H·W·A, 4)`` float32 of each level: row by row, cell by cell, ratio by ratio.

        Raises:
            ValueError: for another number of maps than these anchors have levels.
        """
        if len(shapes) != len(self.strides):
            raise ValueError(f"anchors of {len(self.strides)} levels got {len(shapes)} maps; build both alike")
        levels = []
        for (height, width), sizes, stride in zip(shapes, self.sizes, self.strides, strict=True):
            base = cell_anchors(sizes, self.ratios, rounded=self.rounded).to(device)  # (A, 4)
            down = right = stride
            if self.rounded:
                down, right = (
                    self.strides[0] * finest // n for finest, n in zip(shapes[0], (height, width), strict=True)
                )
            y = (torch.arange(height, device=device) + self.offset) * down
            x = (torch.arange(width, device=device) + self.offset) * right
            y, x = torch.meshgrid(y, x, indexing="ij")  # (H, W)
            centres = torch.stack([x, y, x, y], -1).view(-1, 1, 4)  # (H·W, 1, 4)
            levels.append((centres + base).view(-1, 4))
        return levels
