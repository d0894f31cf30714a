"""Where the cells of a feature map lie in the image, followed through convolutions by arithmetic."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True, slots=True)
class Grid:
    """The centres of a map's cells, along one axis: cell i lies over pixel ``stride * i + offset`` of the image.

    Every convolution places its output cells by its kernel, stride and padding alone, so two maps can be laid over each
    other exactly, whatever they contain: add up the offsets and crop by the difference (Long, Shelhamer,
    Darrell 2015, section 4.1; Caffe's Crop layer). A half offset, as a 2×2 pooling gives, lies between two pixels.

    Attributes:
        stride: pixels from one cell to the next.
        offset: the pixel index of cell 0, negative where padding lies outside the image.
    """

    stride: float = 1.0
    offset: float = 0.0

    def conv(self, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> Grid:
        """The grid behind a convolution or pooling: output o covers inputs ``o·s − p`` to ``o·s − p + d(k − 1)``."""
        centre = dilation * (kernel - 1) / 2 - padding
        return Grid(self.stride * stride, self.offset + self.stride * centre)

    def transposed(self, kernel: int, stride: int, padding: int = 0) -> Grid:
        """The grid behind a transposed convolution: input i spreads over outputs ``i·s − p`` to ``i·s − p + k − 1``."""
        centre = (kernel - 1) / 2 - padding
        return Grid(self.stride / stride, self.offset - self.stride / stride * centre)

    def through(self, layers: Iterable[nn.Module]) -> Grid:
        """The grid behind a chain of layers. All but convolutions and poolings leave it as it is."""
        grid = self
        for layer in layers:
            if isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
                kernel, stride, padding = (along_rows(n) for n in (layer.kernel_size, layer.stride, layer.padding))
                grid = grid.conv(kernel, stride, padding, along_rows(getattr(layer, "dilation", 1)))
        return grid

    def cells_to(self, other: Grid) -> float:
        """How many of this map's cells come before cell 0 of ``other``; whole where centres meet centres."""
        return (other.offset - self.offset) / self.stride


def along_rows(size: Any) -> int:
    """A layer's size along the rows: they keep either one number or a tuple."""
    return size[0] if isinstance(size, tuple) else size
